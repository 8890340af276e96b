"""Checks before a training begins, for any network; PyTorch is not imported for them."""

from pathlib import Path

from models.bundle import AUTOENCODER, DENOISED, DENOISER, IMAGE, MANIFEST, Bundle
from models.data.labelled import DataSet
from models.denoiser import Denoiser
from models.training.recipe import PHOTOGRAPHS, SQUARE_SIDE, Recipe

CHECKPOINT = "checkpoint.json"


class TrainingError(ValueError):
    """A training cannot start or continue: says why, and what to do."""


def check_folder(out: Path, *, resume: bool, force: bool) -> None:
    """Check that a training may write into ``out``.

    Raises:
        TrainingError: there is a bundle or an unfinished training, which no option gives up.
    """
    if any((out / name).exists() for name in (MANIFEST, DENOISER)) and not force:
        raise TrainingError(
            f"{out} holds a finished bundle; --force replaces it, or choose another folder"
        )
    if (out / CHECKPOINT).exists() and not (resume or force):
        raise TrainingError(
            f"{out} holds an unfinished training; --resume continues it, --force begins again"
        )


def check_denoiser(recipe: Recipe, classifier: Bundle | None) -> None:
    """Check that a recipe trains what is asked for: a network, or a denoiser for a classifier.

    Raises:
        TrainingError: it does not, or no denoiser can be put in front of that classifier.
    """
    if classifier is None:
        if recipe.denoiser:
            raise TrainingError(
                f"recipe {recipe.name} trains a denoiser; name the classifier behind it "
                "(--denoiser)"
            )
        return
    if recipe.architecture.name != AUTOENCODER or recipe.denoiser is None:
        raise TrainingError(
            f"recipe {recipe.name} trains a whole network; omit --denoiser, or use the "
            "recipe of a denoiser"
        )
    front = classifier.manifest
    if front.noise.placement != IMAGE or front.architecture.name == DENOISED:
        raise TrainingError(
            f"{classifier.path}: already has layers before its noise, or a denoiser; expected a "
            "plain classifier, from pixeldp import or trained with noise in the image"
        )


def check_start(recipe: Recipe, start: Bundle | Denoiser) -> None:
    """Check that a training can begin with the weights of ``start``.

    A bundle's noise may have another scale. A denoiser begins in front of a classifier.

    Raises:
        TrainingError: it has another network than the recipe's, or a denoiser is for other noise.
    """
    spec, noise = start.manifest.architecture, start.manifest.noise
    if isinstance(start, Bundle):
        if (spec, noise.placement) != (recipe.architecture, recipe.placement):
            raise TrainingError(
                f"{start.path} has another network than recipe {recipe.name}, or its noise at "
                "another place; begin with a bundle of the same architecture and placement"
            )
        return
    described = {"network": spec.name, **spec.arguments}
    trained = dict(recipe.architecture.arguments)
    trained.pop("first_layer", None)  # before the denoiser's own network
    if recipe.denoiser is None or trained != described:
        raise TrainingError(
            f"recipe {recipe.name} does not train the network of {start.path}; use the recipe "
            "photo-tuned or photo-first-layer"
        )
    if (recipe.mechanism, recipe.scale) != (noise.mechanism, noise.scale):
        raise TrainingError(
            f"{start.path} is for {noise.mechanism} noise of {noise.scale:g}, the recipe for "
            f"{recipe.mechanism} noise of {recipe.scale}: give --scale {noise.scale:g}"
        )


def photograph_folder(recipe: Recipe, root: Path | None) -> Path:
    """Return the folder of the photographs of a denoiser's training.

    Raises:
        TrainingError: none is given.
    """
    if root is None and recipe.dataset == PHOTOGRAPHS:
        raise TrainingError(f"recipe {recipe.name} needs a folder of photographs: --root FOLDER")
    return root or Path(recipe.dataset)


def photograph_side(classifier: Bundle | None) -> int:
    """Return the side of the squares to train on: those that the classifier takes, if there is one.

    Raises:
        TrainingError: the classifier does not take squares.
    """
    if classifier is None:
        return SQUARE_SIDE
    taken = classifier.manifest.input
    if taken.height != taken.width:
        raise TrainingError(
            f"{classifier.path} takes {taken.width}x{taken.height}, but photographs are shown as "
            "squares; give a data set of pictures of that size: --data"
        )
    return taken.height


def check_data(recipe: Recipe, classifier: Bundle | None, data: DataSet) -> None:
    """Check that the pictures fit a classifier, and are enough to hold some out.

    Raises:
        TrainingError: they have another shape.
        DataSetError: there are too few.
    """
    if classifier is not None and data.shape != classifier.manifest.input.shape:
        raise TrainingError(
            f"the data's pictures are {list(data.shape)}, but {classifier.path} takes "
            f"{list(classifier.manifest.input.shape)} (channels, height, width)"
        )
    if recipe.held_out:
        data.check_spare(recipe.held_out)
