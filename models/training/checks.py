"""What keeps a training from beginning, whatever the network; PyTorch is not imported to tell."""

from pathlib import Path

from models.bundle import AUTOENCODER, DENOISED, IMAGE, MANIFEST, Bundle
from models.data.labelled import DataSet
from models.training.recipe import Recipe

CHECKPOINT = "checkpoint.json"


class TrainingError(ValueError):
    """A training that cannot start or go on: says why, and what to do."""


def check_folder(out: Path, *, resume: bool, force: bool) -> None:
    """Make sure that a training may write into ``out``.

    Raises:
        TrainingError: a bundle or an unfinished training is there, which nobody gave up.
    """
    if (out / MANIFEST).exists() and not force:
        raise TrainingError(
            f"{out} holds a finished bundle; --force replaces it, or choose another folder"
        )
    if (out / CHECKPOINT).exists() and not (resume or force):
        raise TrainingError(
            f"{out} holds an unfinished training; --resume goes on with it, --force begins again"
        )


def check_denoiser(recipe: Recipe, classifier: Bundle | None) -> None:
    """Make sure that a recipe trains what is wanted: a network, or a denoiser for a classifier.

    Raises:
        TrainingError: it does not, or nothing can be put in front of that classifier.
    """
    if classifier is None:
        if recipe.denoiser:
            raise TrainingError(
                f"recipe {recipe.name} trains a denoiser; say in front of which classifier "
                "(--denoiser)"
            )
        return
    if recipe.architecture.name != AUTOENCODER or recipe.denoiser is None:
        raise TrainingError(
            f"recipe {recipe.name} trains a whole network; leave out --denoiser, or take the "
            "recipe of a denoiser"
        )
    front = classifier.manifest
    if front.noise.placement != IMAGE or front.architecture.name == DENOISED:
        raise TrainingError(
            f"{classifier.path}: has layers before its noise or a denoiser already; expected a "
            "plain classifier, from pixeldp import or trained with noise in the image"
        )


def check_data(recipe: Recipe, classifier: Bundle | None, data: DataSet) -> None:
    """Make sure that the pictures are those of a classifier, and enough to hold some out.

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
