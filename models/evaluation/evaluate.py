"""Accuracy, certified accuracy and accuracy under attack, by the same procedure as the service.

Every picture, and every attacked picture, gets the certificate with which the service would answer
without a target. ``figures`` defines what is computed from them.
"""

import copy
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from models.asking import ask
from models.bundle import Bundle, Int8Spec, read_bundle, write_manifest
from models.calibration import calibrate
from models.certification.arrays import Floats, Integers
from models.certification.names import Norm
from models.certification.question import Question
from models.certification.reach import reachable_size
from models.data.datasets import DataSet
from models.device import find_device
from models.evaluation.alteration import Attack, alter
from models.evaluation.asked import RADII, USUAL, Attacks, check_data, check_radii
from models.evaluation.attacks import LogScores, noisy_scores
from models.evaluation.baseline import Baseline
from models.evaluation.figures import (
    Answers,
    AttackFigures,
    BaselineFigures,
    Disagreement,
    Evaluation,
    attacked_accuracy,
    interval,
    shares,
)
from models.evaluation.logs import write_log
from models.evaluation.pairs import certify, disagreements, run_as
from models.execution import Execution, Format, Provider
from models.loaded import LoadedModel, load_model
from models.predictor import Predictor

T = TypeVar("T")

# Noisy pictures in one step of an attack.
ATTACK_ROWS = {"cpu": 512, "cuda": 8192}


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

    def load(self, model: LoadedModel) -> Predictor:
        """Return what answers with a model.

        Raises:
            ProviderError: there is no such provider here, or it cannot run the network.
            RowsError: run so, its rows are not alone.
        """
        provider, precision = self.provider, self.precision
        if provider is None or precision is None:
            _, found = calibrate(model, self.device, precision, self.pass_size, provider)
            provider, precision = found.provider, found.precision
        way = Execution(provider, precision, self.pass_size, False)
        return run_as(model, self.device, way, self.seed)


@dataclass
class _Evaluator:
    """One evaluation under way."""

    model: LoadedModel
    predictor: Predictor
    question: Question
    data: DataSet
    dataset: str
    every: int
    radii: tuple[float, ...]
    attacks: Attacks
    others: Sequence[Execution]
    log: Path | None

    def measure(self, baseline: Baseline | None, seed: int | None) -> Evaluation:
        """Certify all pictures, attack some, and do the same with a baseline.

        Args:
            baseline: a baseline to measure as well.
            seed: of the attacks; None for fresh noise.
        """
        question, predictor, manifest = self.question, self.predictor, self.model.manifest
        terms = predictor.encode(self.data.images[0]).terms  # all pictures have one shape
        began = time.perf_counter()
        answers = certify(predictor, self.data.images, question, "certificates")
        seconds, draws = time.perf_counter() - began, answers.draws
        leaders, sizes = answers.leaders, answers.sizes
        if self.log:
            indices = np.arange(len(sizes)) * self.every
            write_log(self.log, indices, self.data.labels, leaders, sizes, answers.seconds)
        right = leaders == self.data.labels
        with torch.random.fork_rng():
            if seed is not None:
                torch.manual_seed(seed)
            attacked = self.under_attack(leaders, sizes)
            compared = self.beside(baseline) if baseline else None
        return Evaluation(
            model=manifest.name,
            version=manifest.version,
            dataset=self.dataset,
            **shares(right, sizes, self.radii),
            every=self.every,
            max_draws=question.max_draws,
            confidence=question.confidence,
            norm=question.norm,
            largest_size=reachable_size(question, terms, manifest.scoring, len(manifest.labels)),
            disagreements=self.compare(answers, seed),
            attacks=attacked,
            baseline=compared,
            draws=draws,
            seconds=round(seconds, 2),
            draws_per_second=round(draws / seconds, 1),
            seed=seed,
            device=predictor.device,
            provider=predictor.provider,
            precision=predictor.precision,
            pass_size=predictor.pass_size,
            threads=torch.get_num_threads(),
        )

    def compare(self, answers: Answers, seed: int | None) -> tuple[Disagreement, ...]:
        """Count how often other h's disagree with the evaluated one, and with each other."""
        if not self.others:
            return ()
        return disagreements(
            self.model,
            self.predictor,
            answers,
            self.data.images,
            self.question,
            self.radii,
            self.others,
            seed,
        )

    def under_attack(
        self, leaders: Integers, sizes: Floats, baseline: Baseline | None = None
    ) -> tuple[AttackFigures, ...]:
        """Attack the model, or a baseline, with every attack at every radius.

        Args:
            leaders: [N], its labels of the unaltered pictures.
            sizes: [N], their certified sizes; 0 for a baseline.
            baseline: a baseline to attack instead of the model.
        """
        device, draws = self.predictor.device, self.attacks.draws
        thresholds = self.attacks.thresholds
        scores: LogScores
        if baseline:
            scores, draws, whose, thresholds = baseline.scores, 1, "baseline", ()
        else:
            network = copy.deepcopy(self.model.network).to(device)
            scores, whose = noisy_scores(network, draws), "model"
        step = max(1, len(self.data) // self.attacks.pictures)
        which = np.arange(0, len(self.data), step)[: self.attacks.pictures]
        images, labels = self.data.images[which], self.data.labels[which]
        bits = 16 if self.model.manifest.noise.draws is None else 8
        batch = max(1, ATTACK_ROWS["cuda" if "cuda" in device else "cpu"] // draws)
        figures = []
        for name in self.attacks.names:
            attack = Attack(name, self.question.norm, self.attacks.steps)
            right = leaders[which] == labels
            accuracies = [attacked_accuracy(0.0, right, sizes[which], thresholds)]
            for radius in self.radii:
                doing = f"{name} on the {whose}, {attack.norm} {radius:g}"
                limits = np.full(len(which), radius)
                altered = alter(
                    attack, scores, images, labels, limits, device=device, batch=batch, bits=bits
                )
                bar = self._bar(altered, doing, -(-len(which) // batch), "batch")
                pixels = np.concatenate(list(bar))
                if baseline:
                    found, reached = baseline.labels(pixels), np.zeros(len(which))
                else:
                    doing = f"answers after {doing}"
                    answers = certify(self.predictor, pixels, self.question, doing)
                    found, reached = answers.leaders, answers.sizes
                accuracies.append(attacked_accuracy(radius, found == labels, reached, thresholds))
            figures.append(
                AttackFigures(
                    attack=name,
                    norm=attack.norm,
                    steps=attack.steps,
                    draws=draws,
                    pictures=len(which),
                    accuracies=tuple(accuracies),
                )
            )
        return tuple(figures)

    def beside(self, baseline: Baseline) -> BaselineFigures:
        """Measure a baseline on all pictures, and under attack on the attacked ones."""
        leaders = baseline.labels(self.data.images)
        right = leaders == self.data.labels
        return BaselineFigures(
            model=baseline.manifest.name,
            version=baseline.manifest.version,
            accuracy=float(right.mean()),
            accuracy_interval=interval(int(right.sum()), len(right)),
            attacks=self.under_attack(leaders, np.zeros(len(leaders)), baseline),
        )

    def _bar(self, items: Iterable[T], doing: str, total: int, unit: str = "picture") -> "tqdm[T]":
        return tqdm(items, doing, total, unit=unit, disable=not sys.stderr.isatty())


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
    predictor = running.load(model)
    part = data.every(every)
    run = _Evaluator(model, predictor, question, part, dataset, every, radii, attacks, others, log)
    return run.measure(plain, running.seed)


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
