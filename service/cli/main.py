"""The command ``pixeldp``.

A command imports what it needs when it runs: PyTorch alone takes longer to import than help should
take to appear. Errors in the input are one line on standard error and exit status 1; errors in the
command line are status 2.
"""

# isort: off
from service.system import signals
# isort: on

import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.calculate import bounds, plan, size, verify
from service.cli.certify import certify
from service.cli.compare import compare
from service.cli.evaluate import evaluate
from service.cli.export_model import export
from service.cli.health import health
from service.cli.import_model import import_
from service.cli.keys import keys
from service.cli.predict import models, predict
from service.cli.sensitivity import sensitivity
from service.cli.train import train
from service.http.address import ADDRESSES_ONLY
from service.system import streams

# How typer begins an error about a name, and how it introduces similar names.
_UNKNOWN, _NEAR = re.compile("No such (option|command)"), re.compile("Possible opt|Did you mean")
BAD_INPUT, BAD_USAGE, INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="pixeldp",
    help="Certified image classification: every answer proves how far a picture may be altered.",
    add_completion=False,
    rich_markup_mode=None,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    streams.prepare()
    return streams.finish(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        status = app(args=arguments, prog_name="pixeldp", standalone_mode=False)
    except typer.TyperException as error:
        return _fail(_usage(error), error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        return streams.NOBODY_READS
    except OSError as error:
        return _fail(_reason(error), BAD_INPUT)
    except ValueError as error:
        return _fail(str(error), BAD_INPUT)
    return status if isinstance(status, int) else 0


def _usage(error: typer.TyperException) -> str:
    """Say what is wrong with a command line, and list the valid names, or where to find them."""
    message, context = error.format_message(), getattr(error, "ctx", None)
    if context is None:
        return message
    # Validators add the kind of their error.
    sentence = message.replace("Value error, ", "").rstrip(".")
    said = f"{sentence}; {context.command_path} --help lists what there is"
    if _UNKNOWN.match(sentence) and not _NEAR.search(sentence):
        said += f": {', '.join(_known(context, sentence))}"
    return said


def _known(context: typer.Context, sentence: str) -> list[str]:
    """Return the commands or the options of a context, depending on what the sentence is about."""
    if "command" in sentence:
        return list(getattr(context.command, "commands", {}))
    options = {one for parameter in context.command.params for one in parameter.opts}
    return sorted(one for one in {*options, "--help"} if one.startswith("--"))


def _reason(error: OSError) -> str:
    """Say what the system refused, and for which file."""
    if error.strerror is None:
        return str(error)
    file = error.filename2 or error.filename
    return error.strerror if file is None else f"{os.fsdecode(file)}: {error.strerror}"


def _fail(message: str, status: int) -> int:
    # Messages quote strangers' files and names; characters that control a terminal are escaped.
    line = " ".join(message.split())
    shown = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in line)
    print(f"pixeldp: {shown}", file=sys.stderr)
    return status


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"pixeldp {version('pixeldp')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _without_command(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(BAD_USAGE)


@app.command()
def serve(
    models: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Bundles or families to serve: folders, files (.family.json), or names of the "
            "zoo; by default mnist-cnn."
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on (127.0.0.1).")] = None,
    port: Annotated[
        int | None, typer.Option(help="The port to listen on (8000); 0 chooses a free one.")
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(help="auto, or a device for each worker: cpu,cpu or cuda:0,cuda:1."),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or int8; by default the fastest here.")
    ] = None,
    provider: Annotated[
        str | None, typer.Option(help="pytorch or openvino; by default the fastest here.")
    ] = None,
    compiled: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="Whether to use compiled networks if faster."),
    ] = None,
    pass_size: Annotated[
        int | None, typer.Option(help="The number of draws in a pass; by default measured.")
    ] = None,
    uds: Annotated[str | None, typer.Option(hidden=True)] = None,
    fd: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Serve models over HTTP.

    All other settings are environment variables: PIXELDP_CONFIDENCE, PIXELDP_MAX_DRAWS and so on,
    as listed in docs/reference.md. An empty variable counts as not set.
    """
    # Other servers have these options, so users try them here, too.
    for name, socket in {"--uds": uds, "--fd": fd}.items():
        if socket is not None:
            raise typer.BadParameter(f"{name}: {ADDRESSES_ONLY}")
    with signals.stops_at_once():
        given = {
            "models": models,
            "host": host,
            "port": port,
            "devices": devices,
            "precision": precision,
            "provider": provider,
            "pass_size": pass_size,
            "compile": compiled,
        }
        _serve({name: value for name, value in given.items() if value is not None})


def _serve(given: dict[str, Any]) -> None:
    from pydantic import ValidationError

    from service.settings import Settings, explain
    from service.system.environment import check

    passed_over = check(os.environ, Settings.model_fields)
    try:
        settings = Settings(**given)
    except ValidationError as error:
        raise ValueError(explain(error, set(given))) from None

    from service.http.address import refuse_passed_sockets, resolve
    from service.http.checks import KeysNeededError, check_keys, read_catalogue
    from service.http.guards.keys import KeysError
    from service.reading import read_family_forked, read_forked

    try:
        refuse_passed_sockets(os.environ)
        address = resolve(settings.host, settings.port)
        check_keys(settings, address)
        within = settings.load_seconds
        catalogue = read_catalogue(
            settings,
            partial(read_forked, seconds=within),
            partial(read_family_forked, seconds=within),
        )

        if settings.wanted_fronts > 1:
            from service.fronts.serve import serve
        else:
            from service.http.server import serve

        serve(settings, address, catalogue, passed_over)
    except (KeysError, KeysNeededError) as error:
        raise typer.Exit(_fail(str(error), BAD_USAGE)) from None


_COMMANDS: tuple[Callable[..., Any], ...] = (
    *(size, bounds, plan, verify, certify, evaluate, compare, health),
    *(import_, export, sensitivity, predict, models, train),
)
for _command in _COMMANDS:
    app.command(_command.__name__.rstrip("_"))(_command)
app.add_typer(keys)

if __name__ == "__main__":
    sys.exit(main())
