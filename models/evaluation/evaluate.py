"""Accuracy, certified accuracy and accuracy under attack, by the same procedure as the service.

Every picture, and every attacked picture, gets the certificate with which the service would answer
without a target. ``figures`` defines what is computed from them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.asking import ask
from models.bundle import Bundle, Int8Spec, read_bundle, write_manifest
from models.calibration import calibrate
from models.certification.names import Norm
from models.certification.reach import reachable_size
from models.data.datasets import DataSet
from models.device import find_device
from models.evaluation.asked import RADII, USUAL, Attacks, check_data, check_radii
from models.evaluation.baseline import Baseline
from models.evaluation.figures import (
    Answers,
    BaselineFigures,
    Disagreement,
    Evaluation,
    interval,
)
from models.evaluation.kept import Kept
from models.evaluation.measuring import Certifier, Measuring, attack_figures
from models.evaluation.pairs import disagreements, run_as
from models.evaluation.summary import summarise
from models.execution import Execution, Format, Provider
from models.loaded import LoadedModel, load_model
from models.predictor import Predictor


@dataclass(frozen=True)
class Running:
    """Where and how to run, and with which noise.

    Attributes:
        device: a torch device.
        precision: the number format of h; None to measure which is fastest, as the service does.
        provider: what runs h; None to measure which is fastest.
        pass_size: draws in a pass.
        seed: of the noise and of the attacks; None for fresh noise.
    """

    device: str = "cpu"
    precision: Format | None = None
    pass_size: int = 256
    seed: int | None = 0
    provider: Provider | None = None

    def load(self, model: LoadedModel, kept: Kept = Kept()) -> Predictor:
        """Return what answers with a model: as where its answers are kept, unless told otherwise.

        Raises:
            ProviderError: there is no such provider here, or it cannot run the network.
            RowsError: run so, its rows are not alone.
        """
        provider, precision = self.provider, self.precision
        before = kept.way(model.bundle.digest)
        if before and provider in (None, before.provider) and precision in (None, before.precision):
            provider, precision = before.provider, before.precision
        if provider is None or precision is None:
            _, found = calibrate(model, self.device, precision, self.pass_size, provider)
            provider, precision = found.provider, found.precision
        way = Execution(provider, precision, self.pass_size, False)
        return run_as(model, self.device, way, self.seed)


@dataclass
class _Evaluator:
    """One evaluation under way."""

    certifier: Certifier
    measuring: Measuring
    dataset: str
    every: int
    others: Sequence[Execution]
    log: Path | None

    def measure(self, baseline: Baseline | None) -> Evaluation:
        """Certify all pictures, attack some, and do the same with a baseline.

        Args:
            baseline: a baseline to measure as well.
        """
        certifier, measuring, data = self.certifier, self.measuring, self.measuring.data
        question, predictor, manifest = certifier.question, certifier.predictor, certifier.manifest
        terms = predictor.encode(data.images[0]).terms  # all pictures have one shape
        answers = measuring.answers(certifier, "certificates")
        attacked = list(measuring.attacked(certifier, answers))
        return summarise(
            answers,
            np.arange(len(data)) * self.every,
            data.labels,
            measuring.radii,
            float(answers.seconds.sum()),
            self.log,
            model=manifest.name,
            version=manifest.version,
            dataset=self.dataset,
            every=self.every,
            max_draws=question.max_draws,
            confidence=question.confidence,
            norm=question.norm,
            largest_size=reachable_size(question, terms, manifest.scoring, len(manifest.labels)),
            disagreements=self.compare(answers),
            attacks=attack_figures(attacked, measuring.attacks.thresholds),
            baseline=self.beside(baseline) if baseline else None,
            seed=measuring.seed,
            device=predictor.device,
            provider=predictor.provider,
            precision=predictor.precision,
            pass_size=predictor.pass_size,
            threads=torch.get_num_threads(),
        )

    def compare(self, answers: Answers) -> tuple[Disagreement, ...]:
        """Count how often other h's disagree with the evaluated one, and with each other."""
        if not self.others:
            return ()
        return disagreements(
            self.certifier.model,
            self.certifier.predictor,
            answers,
            self.measuring.data.images,
            self.certifier.question,
            self.measuring.radii,
            self.others,
            self.measuring.seed,
        )

    def beside(self, baseline: Baseline) -> BaselineFigures:
        """Measure a baseline on all pictures, and under attack on the attacked ones."""
        answers = self.measuring.answers(baseline, baseline.manifest.name)
        right = answers.leaders == self.measuring.data.labels
        return BaselineFigures(
            model=baseline.manifest.name,
            version=baseline.manifest.version,
            accuracy=float(right.mean()),
            accuracy_interval=interval(int(right.sum()), len(right)),
            attacks=attack_figures(list(self.measuring.attacked(baseline, answers)), ()),
        )


def evaluate(
    bundle: Bundle,
    data: DataSet,
    *,
    every: int = 1,
    max_draws: int = 1000,
    confidence: float | None = None,
    radii: Sequence[float] = (),
    norm: Norm | None = None,
    dataset: str = "",
    attacks: Attacks = Attacks(),
    baseline: Path | None = None,
    running: Running = Running(),
    others: Sequence[Execution] = (),
    log: Path | None = None,
    kept: Kept = Kept(),
) -> Evaluation:
    """Evaluate a model on labelled pictures.

    Args:
        bundle: the model.
        data: pictures whose label names are the model's.
        every: evaluate every ``every``-th picture.
        max_draws: draws for each picture.
        confidence: η of each picture's certificate; by default ``USUAL``, and 1 if the noise
            has finitely many draws, which are then all made.
        radii: the sizes at which certified accuracy is reported and attacks are made; by default
            those of ``RADII``.
        norm: the norm of sizes; the model's own by default.
        dataset: the name of the data set, for the record.
        attacks: how to attack, if at all.
        baseline: the bundle of a network to use without noise, attacked in the same way.
        running: where and how to run, and with which noise.
        others: further ways to run h, whose answers are compared with each other's.
        log: a file for a certification log (:mod:`models.evaluation.logs`).
        kept: where answers are kept, for an evaluation that begins again.

    Raises:
        ProviderError: the network cannot be run in one of these ways here.
        BundleError: the bundle, or the baseline's, cannot be trusted.
        ValueError: the labels are not the model's, it cannot certify the pictures, or options are
            out of range.
    """
    manifest = bundle.manifest
    question = ask(manifest, confidence, max_draws, norm=norm, usual=USUAL)
    radii = tuple(radii) or RADII[question.norm]
    if every < 1:
        raise ValueError(f"every must be at least 1, not {every}")
    check_radii((*radii, *attacks.thresholds))
    beside = read_bundle(baseline) if baseline else None
    check_data(manifest, data, attacks, beside)
    device = find_device(running.device)
    plain = Baseline(beside, manifest, device) if beside else None
    model = load_model(bundle)
    certifier = Certifier(model, running.load(model, kept), question)
    part = data.every(every)
    measuring = Measuring(part, question.norm, radii, attacks, running.seed, kept)
    return _Evaluator(certifier, measuring, dataset, every, others, log).measure(plain)


def record(path: Path, evaluation: Evaluation, int8: Int8Spec | None = None) -> None:
    """Write ``evaluation`` without its curve into the bundle in the folder ``path``.

    Args:
        path: the bundle's folder.
        evaluation: the figures.
        int8: its scales and what it costs; None leaves what the bundle has of it.

    Raises:
        BundleError: the bundle cannot be trusted.
    """
    manifest = read_bundle(path).manifest
    summary: dict[str, Any] = evaluation.model_copy(update={"curve": ()}).model_dump(mode="json")
    update = {"evaluation": summary, "int8": int8 or manifest.int8}
    write_manifest(path, manifest.model_copy(update=update))
