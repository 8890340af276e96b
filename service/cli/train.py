"""``pixeldp train``: a bundle from a recipe and labelled pictures."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from models.certification.names import MECHANISM_NORMS, Mechanism
from models.execution import Precision
from service.cli import noise_options
from service.cli.device_option import DeviceOption, check_device

if TYPE_CHECKING:
    from models.bundle import Bundle
    from models.data.labelled import DataSet
    from models.denoiser import Denoiser
    from models.training.recipe import Recipe

Int8Option = Annotated[
    bool, typer.Option("--int8/--no-int8", help="Measure what int8 costs, if that is possible.")
]
Number = Annotated[int | None, typer.Option(help="Overrides the recipe's.")]


def train(
    recipe: Annotated[str, typer.Argument(help="The recipe's name.")],
    out: Annotated[
        Path, typer.Option(help="The folder of the bundle, and before that of checkpoints.")
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="mnist, svhn, cifar10, cifar100, imagenet, digits, an .npz, or a folder; "
            "by default the recipe's."
        ),
    ] = None,
    root: Annotated[Path | None, typer.Option(help="The folder of a named data set.")] = None,
    denoiser: Annotated[
        Path | None,
        typer.Option(
            help="Train a denoiser in front of this bundle's classifier, which does not change: a "
            "folder, or a name of the zoo."
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            help="Begin with the weights of this bundle, of the same network; with --denoiser, "
            "with this denoiser (photo, or a folder), and tune it to the classifier."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The bundle's name; by default the recipe's.")
    ] = None,
    version: Annotated[str, typer.Option(help="The bundle's version, a number.")] = "1",
    samples: Annotated[
        Path | None,
        typer.Option(
            help="A folder of at most 12 PNG or JPEG pictures, which the page offers; by default, "
            "mnist and cifar10 get drawn ones."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing bundle or checkpoint.")
    ] = False,
    mechanism: noise_options.MechanismOption = None,
    scale: noise_options.Scale = None,
    bound: noise_options.Bound = None,
    epsilon: noise_options.Epsilon = None,
    delta: noise_options.Delta = None,
    norm: noise_options.NormOption = None,
    placement: Annotated[
        str | None,
        typer.Option(help="Where noise is added: image, layer1, or after a module's path."),
    ] = None,
    learned_noise: Annotated[
        bool | None,
        typer.Option(
            "--learned-noise/--plain-noise",
            help="Learn each channel's share of the noise, after a layer; by default the recipe's.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Continue from the last checkpoint.")] = False,
    download: Annotated[bool, typer.Option(help="Let torchvision download the data set.")] = False,
    device: DeviceOption = None,
    precision: Annotated[
        Precision | None,
        typer.Option(help="The number format; by default the faster one here."),
    ] = None,
    seed: Number = None,
    epochs: Number = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="Train for so long; rates and noise follow the clock, not the epochs."),
    ] = None,
    threads: Number = None,
    held_out: Annotated[
        int | None,
        typer.Option(help="Certify this many pictures each epoch instead of training on them."),
    ] = None,
    undefended: Annotated[
        bool, typer.Option("--undefended", help="Train without noise: a baseline for evaluate.")
    ] = False,
    int8: Int8Option = True,
) -> None:
    """Train a model by a recipe and save it as a bundle.

    At the end it certifies up to 1,000 pictures in float32 and in int8, if OpenVINO is installed:
    those that were held out or, if these are fewer than 500, those of the data set's test part.
    """
    from models.bundle import UNET, Manifest, locate, read_bundle
    from models.data.datasets import load_test
    from models.samples import check_samples, collect_samples, shipped_samples, write_samples
    from models.training.checks import check_data, check_denoiser, check_folder
    from models.training.recipe import NO_NOISE, find_recipe, without_noise

    given = {
        **{"name": name, "version": version, "dataset": data, "precision": precision},
        **{"seed": seed, "epochs": epochs, "seconds": seconds, "threads": threads},
        "held_out": held_out,
        "learned_noise": learned_noise,
    }
    chosen = find_recipe(recipe)
    noise = _noise(chosen, mechanism, scale, bound, epsilon, delta, norm, placement)
    if undefended:
        if noise:
            raise ValueError("--undefended is without noise: omit the noise's options")
        chosen = without_noise(chosen)
    changes = {name: value for name, value in given.items() if value is not None}
    chosen = chosen.changed(**changes, **noise)
    check_device(device)
    check_folder(out, resume=resume, force=force)
    front = None if denoiser is None else read_bundle(locate(denoiser))
    _check_place(chosen, root)
    check_denoiser(chosen, front)
    begun = None if start is None else _read_start(chosen, start, front)
    alone = chosen.architecture.name == UNET
    pictures = _pictures(chosen, front, root, download)
    check_data(chosen, front, pictures)
    folder = samples or shipped_samples(chosen.dataset)
    offered = collect_samples(folder) if folder else {}
    check_samples(offered, pictures.shape)

    from models.device import find_device
    from models.training.denoising import DenoiserTraining
    from models.training.loop import Training, train
    from models.training.restoration import RestorationTraining

    begin: Callable[..., Training] = RestorationTraining if alone else Training
    if front:
        begin = partial(DenoiserTraining, classifier=front)
    if begun:
        begin = partial(begin, start=begun)
    said: list[str] = []
    int8 = int8 and chosen.scale != NO_NOISE and not alone
    manifest = train(
        chosen,
        pictures,
        out,
        begin=begin,
        device=find_device(device),
        resume=resume,
        force=force,
        test=load_test(chosen.dataset, root, pictures.names) if int8 else None,
        tell=said.append if int8 else None,
    )
    if isinstance(manifest, Manifest):
        write_samples(out, offered)
    noise_said = noise_options.describe_noise(manifest)
    typer.echo("; ".join([f"{out}: {manifest.name}, {noise_said}", *said]))


def _read_start(recipe: "Recipe", start: Path, front: "Bundle | None") -> "Bundle | Denoiser":
    """Read what the training begins with: a denoiser if there is a classifier behind it."""
    from models.bundle import locate, locate_denoiser, read_bundle
    from models.denoiser import read_denoiser
    from models.training.checks import check_start

    found = read_denoiser(locate_denoiser(start)) if front else read_bundle(locate(start))
    check_start(recipe, found)
    return found


def _check_place(recipe: "Recipe", root: Path | None) -> None:
    """Check that the place of the recipe's pictures is given, if they need one."""
    from models.data.datasets import check_root
    from models.training.checks import photograph_folder
    from models.training.recipe import PHOTOGRAPHS

    check_root(recipe.dataset, root)
    if recipe.dataset == PHOTOGRAPHS:
        photograph_folder(recipe, root)


def _pictures(
    recipe: "Recipe", front: "Bundle | None", root: Path | None, download: bool
) -> "DataSet":
    """Load the recipe's pictures, and say on standard error which files are left out."""
    from models.bundle import UNET
    from models.data.datasets import load
    from models.data.photographs import load_photographs
    from models.images.folders import report_others
    from models.training.checks import photograph_folder, photograph_side
    from models.training.recipe import PHOTOGRAPHS

    if recipe.architecture.name == UNET or recipe.dataset == PHOTOGRAPHS:
        pictures = load_photographs(photograph_folder(recipe, root), photograph_side(front))
    else:
        pictures = load(recipe.dataset, root, "train", download=download)
    if pictures.passed_over:
        typer.echo(f"pixeldp: {report_others(pictures.passed_over)}", err=True)
    return pictures


def _noise(
    recipe: "Recipe",
    mechanism: Mechanism | None,
    scale: float | None,
    bound: float | None,
    epsilon: float | None,
    delta: float | None,
    norm: str | None,
    placement: str | None,
) -> dict[str, Any]:
    """Return the options' changes to the recipe's noise."""
    changes: dict[str, Any] = {"mechanism": mechanism, "norm": norm, "placement": placement}
    if mechanism and norm is None:
        changes["norm"] = MECHANISM_NORMS[mechanism]
    changes = {name: value for name, value in changes.items() if value is not None}
    construction = noise_options.construction_bound(
        bound, epsilon, delta, mechanism or recipe.mechanism
    )
    if scale is not None and construction:
        raise ValueError("give --scale or --construction-bound, not both")
    if scale is not None:
        changes |= {"scale": scale, "construction_bound": None}
    elif construction:
        changes |= {"scale": None, "construction_bound": construction.model_dump()}
    return changes
