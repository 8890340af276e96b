"""``pixeldp export``: g and h of a bundle as files that other tools read."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def export(
    bundle: Annotated[Path, typer.Argument(help="The bundle: a folder, or a name of the zoo.")],
    to: Annotated[Literal["onnx", "pt2"], typer.Option(help="The kind of files.")],
    out: Annotated[Path, typer.Option(help="The folder of the files.")],
) -> None:
    """Write the network before the noise, g, and the network after it, h, as two files.

    The noise between them is not in the files. Their metadata state it, with Δ and the labels: all
    that a certificate needs besides draws.
    """
    from models.bundle import locate, read_bundle

    found = read_bundle(locate(bundle))

    from models.exporting import export_bundle

    g, h = export_bundle(found, out, to)
    noise = found.manifest.noise
    typer.echo(f"{g} and {h}: between them, {noise.mechanism} noise of scale {noise.scale:g}")
