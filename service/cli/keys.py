"""``pixeldp keys``: make, list and remove API keys. A running service notices by itself."""

from pathlib import Path
from typing import Annotated

import typer

File = Annotated[
    Path, typer.Option("--keys", envvar="PIXELDP_KEYS", help="The file of keys; made if missing.")
]
Name = Annotated[str, typer.Argument(help="Whom the key is for.")]

keys = typer.Typer(name="keys", help="Make, list and remove API keys.")


@keys.command()
def add(
    name: Name,
    path: File,
    scopes: Annotated[
        str,
        typer.Option(
            help="What it allows: predict, priority, metrics, admin, with commas between."
        ),
    ] = "predict",
    rate: Annotated[
        float | None, typer.Option(help="Draws a second that it may use; without limit if absent.")
    ] = None,
) -> None:
    """Make a key and print it, once: only its digest is stored."""
    from service.http.guards.keys import add

    typer.echo(add(path, name, scopes.split(","), rate))


@keys.command("list")
def list_(path: File) -> None:
    """List the keys, which is to say their names: the keys themselves are nowhere."""
    from service.http.guards.keys import read

    for key in read(path):
        rate = "no limit" if key.rate is None else f"{key.rate:g} draws/s"
        scopes = ",".join(sorted(key.scopes))
        typer.echo(f"{key.name:<24}{scopes:<24}{rate:<18}{key.created:%Y-%m-%d}")


@keys.command()
def remove(name: Name, path: File) -> None:
    """Remove a key: a running service refuses it from the next request on."""
    from service.http.guards.keys import remove

    remove(path, name)


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.add_typer(keys)
