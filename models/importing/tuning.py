"""A denoiser tuned to the classifier that it stands in front of, on photographs at hand."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from models.bundle import read_bundle
from models.certification.question import Question
from models.data.photographs import load_photographs
from models.denoiser import Denoiser
from models.importing.acceptance import Report, answer
from models.importing.bundling import Imported, import_classifier
from models.importing.sources import Source
from models.importing.wanted import Wanted, noise_of
from models.loaded import load_model
from models.samples import check_samples, write_samples
from models.training.checks import check_folder, check_start, photograph_side
from models.training.denoising import DenoiserTraining
from models.training.loop import train
from models.training.recipe import Recipe, find_recipe


def tuning_recipe(denoiser: Denoiser) -> Recipe:
    """Return how a denoiser is tuned: by the recipe photo-tuned, for its own network and noise."""
    spec, noise = denoiser.manifest.architecture, denoiser.manifest.noise
    recipe = find_recipe("photo-tuned")
    arguments = {"network": spec.name, **spec.arguments}
    network = {"name": recipe.architecture.name, "arguments": arguments}
    return recipe.changed(architecture=network, mechanism=noise.mechanism, scale=noise.scale)


def import_tuned(
    source: Source,
    wanted: Wanted,
    denoiser: Denoiser,
    out: Path,
    pixels: NDArray[Any],
    question: Question,
    *,
    photographs: Path,
    samples: Mapping[str, bytes] | None = None,
    recipe: Recipe | None = None,
    device: str = "cpu",
    force: bool = False,
    report: Report = lambda doing: None,
) -> Imported:
    """Do what :func:`import_classifier` does, with a denoiser that is tuned to the classifier.

    An interrupted tuning continues from the last checkpoint in ``out`` if the same is asked again.

    Args:
        source: the classifier.
        wanted: name, input, labels, normalisation.
        denoiser: where the tuning begins.
        out: the bundle's folder.
        pixels: a picture [height, width, channels], 8 or 16 bits.
        question: the question about it, without a target.
        photographs: a folder of them, to tune on.
        samples: for trying the model by hand: pictures' files by their names.
        recipe: how to tune; by default as :func:`tuning_recipe` says.
        device: the torch device.
        force: replace the bundle in ``out``.
        report: called with a description of each step.

    Raises:
        ImportFailedError: the classifier cannot be certified, or the options do not fit it.
        ValueError: the photographs cannot be read, or the training does not fit ``out``.
    """
    recipe = recipe or tuning_recipe(denoiser)
    check_start(recipe, denoiser)
    check_folder(out, resume=True, force=force)
    with tempfile.TemporaryDirectory() as folder:
        noise = noise_of(denoiser)
        imported = import_classifier(
            source, wanted, noise, Path(folder) / "plain", pixels, question, report=report
        )
        plain = imported.bundle
        report("reading the photographs")
        data = load_photographs(photographs, photograph_side(plain))
        report("tuning the denoiser")
        named = recipe.changed(name=plain.manifest.name, version=plain.manifest.version)
        begin = partial(DenoiserTraining, classifier=plain, start=denoiser)
        check_samples(samples or {}, data.shape)
        train(named, data, out, begin=begin, device=device, resume=True, force=force)
    write_samples(out, samples or {})
    bundle = read_bundle(out)
    inquiry = answer(load_model(bundle), pixels, question, device, report)
    return replace(imported, bundle=bundle, inquiry=inquiry)
