"""Two h's of a model on the same pictures: what int8 costs, and how often two of them disagree.

int8 is another h than float32 with certificates of its own, so their number must be measured. It is
measured in pairs: both formats certify the same pictures with the same noise.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from models.answering import answer_all, repeatable_key
from models.bundle import Int8Certified, Int8Record, Int8Spec, Manifest
from models.certification.question import Question
from models.converted import ranges_of
from models.data.labelled import DataSet
from models.evaluation.figures import Answers, Disagreement, disagreement
from models.execution import Execution, ProviderError, obstacle
from models.loaded import LoadedModel
from models.networks.interval import check_way
from models.noise import Key, system_key
from models.predictor import Predictor
from models.preprocessing import Pixels
from models.trial import RowsError

# At most this many pictures, evenly spaced, are certified in both formats.
MOST_PICTURES = 1000
# The passes, and the rows of each, of noisy pictures on which scales are found; each row is of
# another picture.
PASSES, ROWS = 16, 8
# The sizes at which a new bundle's int8 is compared, as parts of the noise's scale over Δ.
PARTS = (0.25, 0.5, 1.0)


def certify(predictor: Predictor, images: Pixels, question: Question, doing: str) -> Answers:
    """Answer a question for each picture.

    ``doing`` describes that to whoever watches; if it is empty, nobody is told.
    """
    leaders, sizes = np.empty(len(images), dtype=np.int64), np.empty(len(images))
    seconds, before = np.empty(len(images)), time.perf_counter()
    draws = 0
    found = answer_all(predictor, images, question)
    hidden = not doing or not sys.stderr.isatty()
    for index, inquiry in tqdm(found, doing, len(images), unit="picture", disable=hidden):
        leaders[index], sizes[index] = inquiry.total.leader, inquiry.size
        draws += inquiry.total.draws
        now = time.perf_counter()
        seconds[index], before = now - before, now
    return Answers(leaders, sizes, seconds, draws)


def run_as(model: LoadedModel, device: str, way: Execution, seed: int | None) -> Predictor:
    """Return a model that runs in one way, once its rows are known to stay apart.

    Args:
        model: the model.
        device: a torch device.
        way: how h is run.
        seed: of the noise that it then draws, whatever the way; None for fresh noise.

    Raises:
        ProviderError: it cannot be run so here.
        RowsError: run so, it does not keep rows apart.
    """
    if reason := obstacle(device, way.provider, way.precision):
        raise ProviderError(f"{way.name}: {reason}")
    predictor = Predictor(model, way.pass_size, device, way.precision, provider=way.provider)
    try:
        if way.compiled:
            predictor = predictor.compile()
        else:
            predictor.try_rows()
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ProviderError(f"{way.name}: {reason}") from error
    # The trial draws more or less depending on the way.
    predictor.draw_by(_key(seed))
    return predictor


def disagreements(
    model: LoadedModel,
    evaluated: Predictor,
    answers: Answers,
    images: Pixels,
    question: Question,
    radii: Sequence[float],
    others: Sequence[Execution],
    seed: int | None,
) -> tuple[Disagreement, ...]:
    """Count how often h's of a model disagree, in all pairs of them.

    Args:
        model: the model.
        evaluated: the first h.
        answers: its answers.
        images: the pictures.
        question: the question about each, without a target, so that each takes all its draws.
        radii: the sizes at which robust decisions are compared.
        others: how further h's are run.
        seed: of the noise; None for fresh noise.

    Returns:
        First how often the first h disagrees with itself, with other noise. Where pass sizes are
        equal and there is a seed, all others draw the same noise.

    Raises:
        ProviderError: one cannot be run here.
        RowsError: one does not keep rows apart.
    """
    own, device = evaluated.execution, evaluated.device

    def ask(way: Execution, key: int | None, what: str) -> Answers:
        return certify(run_as(model, device, way, key), images, question, f"certificates by {what}")

    def pair(one: Execution, other: Execution, by: tuple[Answers, Answers], same: bool) -> None:
        (share, limits), robust = disagreement(*by, radii)
        found.append(
            Disagreement(
                one=one.name,
                other=other.name,
                same_noise=same,
                labels=share,
                labels_interval=limits,
                robust=robust,
            )
        )

    found: list[Disagreement] = []
    again = ask(own, None if seed is None else -1 - seed, f"{own.name}, with other noise")
    pair(own, own, (answers, again), False)
    ways = {own: answers, **{way: ask(way, seed, way.name) for way in others if way != own}}
    for (one, first), (other, second) in combinations(ways.items(), 2):
        same = seed is not None and one.pass_size == other.pass_size
        pair(one, other, (first, second), same)
    return tuple(found)


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
        ProviderError: OpenVINO cannot run the network, or must not.
        RowsError: run in this way, it does not keep rows apart.
    """
    check_way(model.manifest.noise.mechanism, "openvino", "int8")
    part = data.every(-(-len(data) // MOST_PICTURES))
    spec = find_scales(model, data, seed)
    manifest = model.manifest.model_copy(update={"int8": spec})
    scaled = replace(model, bundle=replace(model.bundle, manifest=manifest))
    plain, rounded = (
        certify(
            run_as(scaled, "cpu", Execution("openvino", precision, pass_size, False), seed),
            part.images,
            question,
            f"certificates in {precision}",
        )
        for precision in ("float32", "int8")
    )

    def certified(answers: Answers, radius: float) -> float:
        reached = (answers.sizes >= radius) & (answers.sizes > 0)
        return float(((answers.leaders == part.labels) & reached).mean())

    record = Int8Record(
        dataset=dataset,
        pictures=len(part),
        norm=question.norm,
        max_draws=question.max_draws,
        confidence=question.confidence,
        certified=tuple(
            Int8Certified(
                radius=radius, float32=certified(plain, radius), int8=certified(rounded, radius)
            )
            for radius in radii
        ),
        labels_differ=float((plain.leaders != rounded.leaders).mean()),
    )
    return spec.model_copy(update={"record": record})


def try_int8(
    model: LoadedModel, data: DataSet, question: Question, dataset: str
) -> tuple[Int8Spec | None, str]:
    """Measure what int8 costs a new bundle, if that is possible here.

    Args:
        model: the new model.
        data: labelled pictures on which it was not trained.
        question: the question about each, in the norm of the model's Δ.
        dataset: the data set's name, for the record.

    Returns:
        The scales and the record, or None; and a sentence that says what was found, or why nothing.
    """
    if reason := obstacle("cpu", "openvino", "int8"):
        return None, no_record(reason)
    try:
        spec = compare_int8(model, data, question, radii_of(model.manifest), dataset=dataset)
    except (ProviderError, RowsError) as error:
        return None, no_record(str(error))
    assert spec.record is not None
    return spec, told(spec.record)


def radii_of(manifest: Manifest) -> tuple[float, ...]:
    """Return sizes that the model's noise can certify, in the norm of Δ."""
    unit = manifest.noise.scale / manifest.sensitivity.value
    return tuple(float(f"{part * unit:.6g}") for part in PARTS)


def told(record: Int8Record) -> str:
    """Say what int8 costs, and whether it may serve."""
    lost = f"at most {100 * record.lost:.2g} points" if record.lost > 0 else "nothing"
    says = f"it does not serve by default: {record.objection}" if record.objection else ""
    return (
        f"int8: on {record.pictures:,} pictures of {record.dataset} it loses {lost} of the "
        f"certified share; {says or 'it may serve where it is fastest'}"
    )


def no_record(reason: str) -> str:
    """Say why nothing is known of int8, and how to change that."""
    return (
        f"int8: nothing was measured, so it does not serve by default: {reason}; pixeldp evaluate "
        "--write makes up for it"
    )


def _key(seed: int | None) -> Key:
    return system_key if seed is None else repeatable_key(seed)
