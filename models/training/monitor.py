"""Certificates of a network in training: its progress, and in the end what int8 costs it.

The progress is the certified accuracy of a few pictures, with few draws each.
"""

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch

from models.answering import answer_all
from models.asking import ask
from models.bundle import Int8Spec, Manifest
from models.data.labelled import DataSet
from models.evaluation.pairs import try_int8
from models.execution import Precision
from models.loaded import LoadedModel, load_model
from models.network import PixelDP, save_network
from models.predictor import Predictor

DRAWS = 128
CONFIDENCE = 0.95
PASS_SIZE = 128


def fork_random(device: str) -> AbstractContextManager[None]:
    """Restore the random state of the CPU and of ``device`` afterwards."""
    return torch.random.fork_rng(devices=[] if device == "cpu" else [torch.device(device)])


def watched_size(manifest: Manifest) -> float:
    """Return the size that is watched: half the scale over Δ, in the norm of Δ."""
    return 0.5 * manifest.noise.scale / manifest.sensitivity.value


def watch(
    network: PixelDP, manifest: Manifest, pictures: DataSet, precision: Precision, device: str
) -> tuple[float, float]:
    """Return the accuracy, and the certified accuracy at :func:`watched_size`.

    They are computed as in ``pixeldp evaluate``, from a bundle of the present network, but with few
    draws and at low confidence. The training's random numbers are not affected.
    """
    question = ask(manifest, None, DRAWS, usual=CONFIDENCE)
    right = certified = 0
    with _loaded(network, manifest, device) as model:
        predictor = Predictor(model, PASS_SIZE, device, precision)
        for index, inquiry in answer_all(predictor, pictures.images, question):
            if inquiry.total.leader == pictures.labels[index]:
                right += 1
                certified += inquiry.size >= watched_size(manifest)
    return right / len(pictures), certified / len(pictures)


def measure_int8(
    network: PixelDP, manifest: Manifest, pictures: DataSet, dataset: str, device: str
) -> tuple[Int8Spec | None, str]:
    """Measure what int8 costs a trained network (see :func:`models.evaluation.pairs.try_int8`).

    The question is that of ``pixeldp evaluate``. Random numbers are not affected.
    """
    question = ask(manifest, None, 1000, usual=0.999)
    with _loaded(network, manifest, device) as model:
        return try_int8(model, pictures, question, dataset)


@contextmanager
def _loaded(network: PixelDP, manifest: Manifest, device: str) -> Iterator[LoadedModel]:
    """Load a network from a bundle, as everybody will who uses it."""
    with tempfile.TemporaryDirectory() as folder, fork_random(device):
        save_network(Path(folder), manifest, network)
        yield load_model(Path(folder))
