"""The options of ``pixeldp evaluate`` and ``pixeldp compare``: what is asked of models, and how."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from models.execution import Format, Provider, ProviderError, obstacle
from service.cli.device_option import check_device

if TYPE_CHECKING:
    from models.data.labelled import DataSet
    from models.evaluation.asked import AttackName

Split = Literal["test", "train"]

Root = Annotated[Path | None, typer.Option(help="The folder of a named data set.")]
SplitOption = Annotated[Split, typer.Option("--split", help="The part of a named data set.")]
Download = Annotated[bool, typer.Option(help="Let torchvision download the data set.")]
Every = Annotated[int, typer.Option(min=1, help="Evaluate every N-th picture only.")]
Draws = Annotated[int, typer.Option(min=64, help="Noise draws for each picture.")]
Confidence = Annotated[
    float | None,
    typer.Option(
        help="The confidence of each certificate; by default 0.999, and 1 for split "
        "noise and intervals."
    ),
]
AttackOption = Annotated[
    str | None,
    typer.Option(
        "--attack",
        help="Attack at each size, too: pgd, carlini-wagner, autoattack (pixeldp[attacks]), or "
        "several, separated by commas.",
    ),
]
AttackPictures = Annotated[int, typer.Option(min=1, help="The number of pictures to attack.")]
AttackSteps = Annotated[int, typer.Option(min=1, help="Gradient steps.")]
AttackDraws = Annotated[int, typer.Option(min=1, help="Noise draws for each gradient.")]
Thresholds = Annotated[
    str | None,
    typer.Option(
        help="Sizes, separated by commas: the precision and recall under attack of predictions "
        "that are certified to them."
    ),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        help="Keep what is found in this file; a run that begins again with it goes on from there."
    ),
]
Precision = Annotated[
    Format | None, typer.Option(help="The number format; by default the fastest here.")
]
ProviderOption = Annotated[
    Provider | None,
    typer.Option("--provider", help="What runs the network; by default the fastest here."),
]
PassSize = Annotated[int, typer.Option(min=1, help="The number of draws in a pass.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; by default all.")]
Seed = Annotated[int, typer.Option(help="The seed of the noise and of attacks.")]


def read_sizes(text: str | None) -> tuple[float, ...]:
    """Read numbers that are separated by commas; none if there is no text."""
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise typer.BadParameter(f"expected numbers separated by commas, not {text!r}") from None


def read_attacks(text: str | None) -> "tuple[AttackName, ...]":
    """Read the names of attacks, which must be possible here."""
    from models.evaluation.asked import ATTACK_NAMES, check_art

    given = text.split(",") if text else []
    if unknown := set(given).difference(ATTACK_NAMES):
        raise typer.BadParameter(f"no attack {unknown.pop()!r}; known: {', '.join(ATTACK_NAMES)}")
    if "autoattack" in given:
        check_art()
    return tuple(name for name in ATTACK_NAMES if name in given)


def check_sizes(
    sizes: tuple[float, ...], thresholds: tuple[float, ...], attacks: Sequence[str]
) -> None:
    """Check that sizes are above 0, and that thresholds have an attack."""
    from models.evaluation.asked import check_radii

    check_radii((*sizes, *thresholds))
    if thresholds and not attacks:
        raise ValueError("--thresholds are of predictions under attack: give --attack, too")


def check_provider(
    device: str | None, provider: Provider | None, precision: Format | None, int8: bool | None
) -> None:
    """Check that networks can be run in this way here, and in int8 if that is asked for."""
    check_device(device)
    reason = obstacle(device or "cpu", provider, precision)
    if int8:
        reason = reason or obstacle("cpu", "openvino", "int8")
    if reason:
        raise ValueError(reason)


@contextmanager
def refused() -> Iterator[None]:
    """Have a provider that cannot run the network be a wrong input."""
    try:
        yield
    except ProviderError as error:
        raise ValueError(str(error)) from None


def use_threads(threads: int | None) -> None:
    """Have PyTorch use so many threads of the CPU."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def read_pictures(data: str, root: Path | None, split: Split, download: bool) -> "DataSet":
    """Read the data set, and say which files it leaves out."""
    from models.data.datasets import load
    from models.images.folders import report_others

    pictures = load(data, root, split, download=download)
    if pictures.passed_over:
        typer.echo(f"pixeldp: {report_others(pictures.passed_over)}", err=True)
    return pictures
