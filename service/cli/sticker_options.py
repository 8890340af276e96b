"""The options that commands share which answer about stickers."""

from typing import Annotated

import typer

from models.certification.names import Threat

MASKS = 3

ThreatOption = Annotated[
    Threat,
    typer.Option(
        help="norm: a change up to a size. sticker: a square of --target pixels of the picture as "
        "sent, anywhere, whatever is on it; no noise is drawn, and the answer is certain."
    ),
]
MasksOption = Annotated[
    int,
    typer.Option(
        help="Masks along each side, for stickers: with k, up to k²(k² + 1)/2 views of a picture."
    ),
]
