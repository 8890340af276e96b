"""Write docs/reference.md from the code: commands, settings, HTTP, metrics, recipes.

python -m docs.reference
"""

import io
import os
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import typer
from pydantic_core import PydanticUndefined

from models.bundle import ZOO
from models.training.recipe import RECIPES
from service.cli.main import app, main
from service.http.app import create_app
from service.http.metrics import Metrics
from service.settings import Settings, allowed

FILE = Path(__file__).with_name("reference.md")
ROOT = ZOO.parents[1]


def document() -> str:
    """Return the whole reference."""
    parts = (commands(), settings(), routes(), metrics(), recipes())
    head = "Written from the code by `python -m docs.reference`; a test compares the two.\n"
    return "\n".join(["# Reference\n", head, *("\n".join(part) + "\n" for part in parts)])


def commands() -> list[str]:
    """Return the help of every command."""
    lines = ["## Commands"]
    for path in _paths(typer.main.get_command(app), ()):
        lines += ["", f"### pixeldp {' '.join(path)}", "", "```", *_help(path), "```"]
    return lines


def _paths(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    inner = getattr(command, "commands", {})
    if not inner:
        yield path
    for name, part in inner.items():
        yield from _paths(part, (*path, name))


def _help(path: tuple[str, ...]) -> list[str]:
    os.environ["COLUMNS"] = "100"
    with redirect_stdout(io.StringIO()) as said:
        main([*path, "--help"])
    return [line.rstrip() for line in said.getvalue().strip().splitlines()]


def settings() -> list[str]:
    """Return the table of settings, each an environment variable."""
    lines = [
        "## Settings",
        "",
        "Lists are separated by commas. An empty variable counts as not set.",
        "",
    ]
    lines += ["| variable | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, PydanticUndefined) else _shown(field.default)
        meaning = f"{allowed(name)} | {field.description or ''}"
        lines.append(f"| `PIXELDP_{name.upper()}` | {default} | {meaning} |")
    lines += [
        "",
        "These variables are read by commands, too:",
        "",
        "| variable | meaning |",
        "| --- | --- |",
        "| `PIXELDP_BUILDERS` | Modules and files, separated by commas, whose functions bundles "
        "may name to build their networks. Their code is run: name only what you trust. |",
        "| `PIXELDP_CACHE` | The folder in which workers keep the way of running a model that they "
        "found to be fastest, and OpenVINO's graphs (at most 256 MiB), so that the next start is "
        "quicker; `off` for none. By default `pixeldp` in `XDG_CACHE_HOME`, or in `.cache` in the "
        "user's home. Who can write there can change what workers run. |",
    ]
    return lines


def _shown(value: Any) -> str:
    if isinstance(value, list):
        value = ", ".join(str(one).removeprefix(f"{ROOT}/") for one in value) or "none"
    return f"`{value}`"


def routes() -> list[str]:
    """Return the HTTP routes, with the options of their queries."""
    description = create_app(Settings(), on_broken=print).openapi()
    lines = ["## HTTP"]
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            lines += ["", f"### {method.upper()} {path}", "", operation.get("summary", "")]
            if text := operation.get("description"):
                lines += ["", text]
            parameters = operation.get("parameters", ())
            if parameters:
                lines += ["", "| parameter | in | meaning |", "| --- | --- | --- |"]
            for parameter in parameters:
                meaning = " ".join(parameter.get("description", "").split())
                lines.append(f"| `{parameter['name']}` | {parameter['in']} | {meaning} |")
            answers = ", ".join(operation["responses"])
            lines += ["", f"Answers: {answers}."]
    return lines


def metrics() -> list[str]:
    """Return the table of metrics."""
    lines = ["## Metrics", "", "| metric | kind | meaning |", "| --- | --- | --- |"]
    for family in Metrics().registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        lines.append(f"| `{name}` | {family.type} | {family.documentation} |")
    return lines


def recipes() -> list[str]:
    """Return the table of recipes."""
    lines = ["## Recipes", "", "| recipe | network | noise | norm | epochs |"]
    lines.append("| --- | --- | --- | --- | ---: |")
    for recipe in RECIPES:
        noise = (
            f"{recipe.mechanism} {recipe.scale or recipe.construction_bound} ({recipe.placement})"
        )
        network = recipe.architecture.name
        lines.append(f"| {recipe.name} | {network} | {noise} | {recipe.norm} | {recipe.epochs} |")
    return lines


if __name__ == "__main__":
    FILE.write_text(document(), encoding="utf-8")
