"""int8 compared with float32: how much certified share it loses, and how often labels differ.

int8 is another h with certificates of its own, so their number must be measured. It is measured in
pairs: both formats certify the same pictures with the same noise.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from models.answering import answer_all, repeatable_key
from models.bundle import Int8Certified, Int8Record, Int8Spec
from models.certification.arrays import Floats, Integers
from models.certification.question import Question
from models.converted import ranges_of
from models.data.labelled import DataSet
from models.execution import Format
from models.loaded import LoadedModel
from models.noise import Key, system_key
from models.predictor import Predictor

# At most this many pictures, evenly spaced, are certified in both formats.
MOST_PICTURES = 1000
# The passes, and the rows of each, of noisy pictures on which scales are found; each row is of
# another picture.
PASSES, ROWS = 16, 8


def find_scales(model: LoadedModel, data: DataSet, seed: int | None) -> Int8Spec:
    """Find the scales for int8, on noisy pictures.

    Args:
        model: the model.
        data: pictures, of which evenly spaced ones are used.
        seed: of the noise; None for fresh noise.

    Raises:
        ProviderError: OpenVINO cannot run the network.
    """
    predictor = Predictor(model, ROWS, key=_key(seed))
    network = model.classifier("cpu", torch.float32)
    step = max(1, len(data) // (PASSES * ROWS))
    images = data.images[::step][: PASSES * ROWS]

    def passes() -> Iterator[Tensor]:
        for start in range(0, len(images), ROWS):
            pictures = [predictor.encode(one).features for one in images[start : start + ROWS]]
            yield predictor.noisy(pictures, np.arange(ROWS) % len(pictures))

    return Int8Spec(ranges=dict(ranges_of(network, passes())))


def compare_int8(
    model: LoadedModel,
    data: DataSet,
    question: Question,
    radii: tuple[float, ...],
    *,
    dataset: str = "",
    pass_size: int = 256,
    seed: int | None = 0,
) -> Int8Spec:
    """Find the scales for int8, and certify the same pictures in float32 and in int8 by OpenVINO.

    Args:
        model: the model.
        data: labelled pictures, of which at most ``MOST_PICTURES`` are used.
        question: the question about each.
        radii: the sizes at which certified shares are compared.
        dataset: the data set's name, for the record.
        pass_size: draws in a pass.
        seed: of the noise; None for fresh noise.

    Raises:
        ProviderError: OpenVINO cannot run the network.
        RowsError: run in this way, it does not keep rows apart.
    """
    part = data.every(-(-len(data) // MOST_PICTURES))
    spec = find_scales(model, data, seed)
    manifest = model.manifest.model_copy(update={"int8": spec})
    scaled = replace(model, bundle=replace(model.bundle, manifest=manifest))

    def certify(precision: Format) -> tuple[Integers, Floats]:
        predictor = Predictor(scaled, pass_size, "cpu", precision, _key(seed), "openvino")
        predictor.try_rows()
        leaders, sizes = np.empty(len(part), dtype=np.int64), np.empty(len(part))
        bar = tqdm(
            answer_all(predictor, part.images, question),
            f"certificates in {precision}",
            len(part),
            unit="picture",
            disable=not sys.stderr.isatty(),
        )
        for index, inquiry in bar:
            leaders[index], sizes[index] = inquiry.total.leader, inquiry.size
        return leaders, sizes

    (leaders, sizes), (others, other_sizes) = certify("float32"), certify("int8")

    def certified(leaders: Integers, sizes: Floats, radius: float) -> float:
        return float(((leaders == part.labels) & (sizes >= radius) & (sizes > 0)).mean())

    record = Int8Record(
        dataset=dataset,
        pictures=len(part),
        norm=question.norm,
        max_draws=question.max_draws,
        confidence=question.confidence,
        certified=tuple(
            Int8Certified(
                radius=radius,
                float32=certified(leaders, sizes, radius),
                int8=certified(others, other_sizes, radius),
            )
            for radius in radii
        ),
        labels_differ=float((leaders != others).mean()),
    )
    return spec.model_copy(update={"record": record})


def _key(seed: int | None) -> Key:
    return system_key if seed is None else repeatable_key(seed)
