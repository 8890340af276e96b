"""``pixeldp keys``: make, list and remove API keys. A running service notices changes."""

from pathlib import Path
from typing import Annotated

import typer

File = Annotated[
    Path,
    typer.Option("--keys", envvar="PIXELDP_KEYS", help="The file of keys; created if missing."),
]
Name = Annotated[str, typer.Argument(help="The name of the key's user.")]

keys = typer.Typer(name="keys", help="Make, list and remove API keys.")


@keys.command()
def add(
    name: Name,
    path: File,
    scopes: Annotated[
        str,
        typer.Option(
            help="What it allows: predict, priority, metrics, admin, separated by commas."
        ),
    ] = "predict",
    rate: Annotated[
        float | None, typer.Option(help="Draws per second that it may use; by default no limit.")
    ] = None,
) -> None:
    """Make a key and print it, once: only its digest is stored."""
    from service.http.guards.keys import add

    typer.echo(add(path, name, scopes.split(","), rate))


@keys.command("list")
def list_(path: File) -> None:
    """List the names, scopes and rates of keys; the keys themselves are stored nowhere."""
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
