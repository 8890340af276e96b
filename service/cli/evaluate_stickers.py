"""``pixeldp evaluate --threat sticker``: how many pictures no sticker can change."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from models.certification.names import Threat
from models.execution import Format, Provider, ProviderError
from service.cli.device_option import check_device

if TYPE_CHECKING:
    from models.data.labelled import DataSet
    from models.evaluation.stickers import StickerEvaluation


def check_threat(threat: Threat, others: Mapping[str, object], target: int | None) -> bool:
    """Say whether it is about stickers, and refuse options of the other threat.

    Args:
        threat: which.
        others: options about changes of some size.
        target: of stickers.
    """
    if threat == "norm":
        if target is not None:
            raise typer.BadParameter("--target is for --threat sticker")
        return False
    for name, value in others.items():
        if value:
            raise typer.BadParameter(f"--{name} is not for --threat sticker; omit it")
    return True


def evaluate_stickers_of(
    folder: Path,
    read: "Callable[[], DataSet]",
    about: tuple[int | None, int],
    way: tuple[str | None, Format | None, int, int, Provider | None],
    which: tuple[str, int],
    resume: Path | None,
    json: bool,
) -> None:
    """Measure a bundle, and print the figures.

    Args:
        folder: the bundle's.
        read: returns the pictures.
        about: the side of the stickers, and the masks along each side.
        way: device, number format, pass size, seed and provider.
        which: the data set's name, and N, to answer for every N-th picture only.
        resume: the file that keeps what was found.
        json: whether to print JSON.
    """
    from models.asking import ask_about_stickers
    from models.bundle import read_bundle

    check_device(way[0])
    bundle = read_bundle(folder)
    question = ask_about_stickers(bundle.manifest, *about)
    pictures = read()

    from models.device import find_device
    from models.evaluation.evaluate import Running
    from models.evaluation.stickers import evaluate_stickers
    from models.loaded import load_model

    device, precision, pass_size, seed, provider = way
    running = Running(find_device(device), precision, pass_size, seed, provider)
    try:
        predictor = running.load(load_model(bundle))
    except ProviderError as error:
        raise ValueError(str(error)) from None
    counted = evaluate_stickers(
        predictor, pictures, question, dataset=which[0], every=which[1], log=resume
    )
    typer.echo(counted.model_dump_json(indent=2) if json else _table(counted))


def _table(counted: "StickerEvaluation") -> str:
    which = "all" if counted.every == 1 else f"one in {counted.every}"
    rows = {
        "accuracy": (counted.accuracy, counted.accuracy_interval),
        f"certified, {counted.side}x{counted.side} sticker": (
            counted.certified,
            counted.certified_interval,
        ),
    }
    return "\n".join(
        [
            f"{counted.model} {counted.version} on {counted.dataset}: {counted.pictures:,} "
            f"pictures ({which}), {counted.masks}x{counted.masks} masks, confidence 1",
            "",
            f"{'':<26}{'share':>7}  95 % interval",
            *(
                f"{name:<26}{share:>7.1%}  {low:.1%} to {high:.1%}"
                for name, (share, (low, high)) in rows.items()
            ),
            "",
            f"{counted.draws:,} views in {counted.seconds:.1f} s ({counted.device}, "
            f"{counted.provider}, {counted.precision})",
        ]
    )
