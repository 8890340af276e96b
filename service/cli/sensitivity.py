"""``pixeldp sensitivity``: the proven bounds of the layers before a model's noise."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from models.sensitivity.modules import LayerSensitivity

HEADINGS = ("layer", "kind", "norms", "sensitivity", "method")


def sensitivity(
    bundle: Annotated[Path, typer.Argument(help="The bundle: a folder, or a name of the zoo.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print how far each layer before the noise can move, how this was proven, and the product.

    The bounds are computed from the weights. The bundle's own statement is printed below:
    certificates divide by it, and a bundle that states less than the proof gives is refused.
    """
    from models.bundle import locate, read_bundle

    loaded = read_bundle(locate(bundle))

    from models.network import load_network
    from models.sensitivity.modules import layer_sensitivities, product

    manifest = loaded.manifest
    stated = manifest.sensitivity
    rows = layer_sensitivities(
        load_network(loaded).encoder, manifest.input.shape, stated.input_norm, stated.noise_norm
    )
    proven = product(rows)
    if as_json:
        document = {
            "model": manifest.name,
            "version": manifest.version,
            "placement": manifest.noise.placement,
            "input_norm": stated.input_norm,
            "noise_norm": stated.noise_norm,
            "layers": [_member(row) for row in rows],
            "proven": proven,
            "stated": stated.value,
        }
        typer.echo(json.dumps(document, indent=2))
        return
    norms = f"{stated.input_norm} to {stated.noise_norm}"
    table = [
        HEADINGS,
        *_lines(rows, ""),
        ("product", "", norms, f"{proven:.9g}", "proven from the weights"),
        ("stated", "", norms, f"{stated.value:.9g}", "in the bundle"),
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    typer.echo(f"{manifest.name} {manifest.version}, noise placement {manifest.noise.placement}\n")
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())


def _lines(rows: "Sequence[LayerSensitivity]", indent: str) -> Iterator[tuple[str, ...]]:
    """The table's lines; the paths of a residual sum are indented below it."""
    for row in rows:
        yield (
            indent + (row.name or "g"),
            row.kind,
            f"{row.input_norm} to {row.output_norm}",
            f"{row.sensitivity.value:.9g}",
            row.sensitivity.method,
        )
        for path in row.paths:
            yield from _lines(path, indent + "  ")


def _member(row: "LayerSensitivity") -> dict[str, Any]:
    return {
        "name": row.name,
        "kind": row.kind,
        "input_norm": row.input_norm,
        "output_norm": row.output_norm,
        "sensitivity": row.sensitivity.value,
        "method": row.sensitivity.method,
        "paths": [[_member(inner) for inner in path] for path in row.paths],
    }
