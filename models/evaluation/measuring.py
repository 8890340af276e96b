"""How subjects of an evaluation, models and baselines, answer pictures and are attacked.

All subjects answer the same pictures, and all attacks are made by the same steps; they differ in
what an attacker can see of them: the logarithms of their expected scores.
"""

import copy
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from tqdm import tqdm

from models.answering import repeatable_key
from models.bundle import Manifest
from models.certification.arrays import Floats, Integers
from models.certification.names import Norm
from models.certification.question import Question
from models.data.labelled import DataSet
from models.evaluation.alteration import Attack, alter
from models.evaluation.asked import Attacks
from models.evaluation.attacks import LogScores, in_bfloat16, noisy_scores
from models.evaluation.figures import Answers, AttackFigures, Flags, attacked_accuracy
from models.evaluation.kept import About, Kept, digest_of, seed_of
from models.evaluation.pairs import certify
from models.loaded import LoadedModel
from models.predictor import Predictor
from models.preprocessing import Pixels

# Noisy pictures in one step of an attack.
ATTACK_ROWS = {"cpu": 512, "cuda": 8192}
# Unaltered pictures that are answered before their answers are kept.
KEPT_AT_A_TIME = 25


class Subject(Protocol):
    """What is measured."""

    @property
    def manifest(self) -> Manifest:
        """Of its bundle."""

    @property
    def device(self) -> str:
        """A torch device."""

    @property
    def about(self) -> About:
        """Everything about it on which its answers depend: among it ``model``, a digest."""

    def answer(self, pixels: Pixels, doing: str, seed: int | None = None) -> Answers:
        """Answer pictures [N, height, width, channels]; ``doing`` tells whoever watches.

        Args:
            pixels: of 8 or 16 bits.
            doing: what it is done for; empty to tell nobody.
            seed: of the noise; None to go on with the present one.
        """

    def scores(self, draws: int) -> tuple[LogScores, int]:
        """Return what an attacker sees, and how many draws it averages, at most ``draws``."""


class Certifier:
    """A model that certifies its answers.

    Args:
        model: the model.
        predictor: what answers with it.
        question: about each picture.
    """

    def __init__(self, model: LoadedModel, predictor: Predictor, question: Question) -> None:
        self.model, self.predictor, self.question = model, predictor, question
        self.manifest, self.device = model.manifest, predictor.device

    @property
    def about(self) -> About:
        """Its digest, how h is run, and what is asked."""
        question = self.question
        return {
            "model": self.predictor.bundle.digest,
            "way": self.predictor.execution.name,
            "device": self.device,
            "confidence": question.confidence,
            "max_draws": question.max_draws,
            "norm": question.norm,
        }

    def answer(self, pixels: Pixels, doing: str, seed: int | None = None) -> Answers:
        """Certify pictures."""
        if seed is not None:
            self.predictor.draw_by(repeatable_key(seed))
        return certify(self.predictor, pixels, self.question, doing)

    def scores(self, draws: int) -> tuple[LogScores, int]:
        """Return its expected scores, averaged over draws; intervals have a single draw.

        Where h runs in bfloat16, so do the gradients, which is faster. In int8 there are none: they
        are those of float32 then.
        """
        network = copy.deepcopy(self.model.network)
        network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        draws = 1 if self.manifest.noise.mechanism == "interval" else draws
        scores = noisy_scores(network, draws)
        halved = self.predictor.execution.precision == "bfloat16"
        return in_bfloat16(scores) if halved else scores, draws


@dataclass(frozen=True, eq=False)
class Attacked:
    """Attacked pictures of one subject.

    Attributes:
        attack: how they were attacked.
        draws: over which each gradient was averaged.
        radius: up to which size; 0 for the unaltered pictures.
        right: [A], whether its label is right.
        sizes: [A], certified sizes.
    """

    attack: Attack
    draws: int
    radius: float
    right: Flags
    sizes: Floats


@dataclass(frozen=True)
class Measuring:
    """What is asked of all subjects.

    Attributes:
        data: the pictures.
        norm: of all sizes.
        radii: the sizes of attacks.
        attacks: how to attack.
        seed: of the noise and of the attacks; None for fresh noise.
        kept: where answers are kept.
    """

    data: DataSet
    norm: Norm
    radii: tuple[float, ...]
    attacks: Attacks
    seed: int | None
    kept: Kept = field(default_factory=Kept)

    @property
    def which(self) -> Integers:
        """[A], the positions of the pictures that are attacked, evenly spaced."""
        step = max(1, len(self.data) // self.attacks.pictures)
        return np.arange(0, len(self.data), step)[: self.attacks.pictures]

    def answers(self, subject: Subject, doing: str) -> Answers:
        """Return the answers to all pictures.

        Where they are kept, the noise of some pictures does not depend on that of others.
        """
        if self.kept.file is None:
            return subject.answer(self.data.images, doing)
        parts = []
        for part in self._parts(self.data, KEPT_AT_A_TIME, doing):
            about = {**subject.about, "seed": self.seed, "pictures": digest_of(part)}
            found = self.kept.find(about)
            if found is None:
                found = subject.answer(part.images, "", self._seed(about))
                self.kept.add(about, found)
            parts.append(found)
        return _joined(parts)

    def attacked(self, subject: Subject, answers: Answers) -> Iterator[Attacked]:
        """Attack a subject with every attack at every radius; the first radius is 0.

        Args:
            subject: which.
            answers: its answers to all unaltered pictures.
        """
        if not self.attacks.names:
            return
        which = self.which
        pictures = DataSet(self.data.images[which], self.data.labels[which], self.data.names)
        scores, draws = subject.scores(self.attacks.draws)
        clean = answers.leaders[which] == pictures.labels
        for name in self.attacks.names:
            attack = Attack(name, self.norm, self.attacks.steps)
            yield Attacked(attack, draws, 0.0, clean, answers.sizes[which])
            for radius in self.radii:
                found = self._under(subject, pictures, attack, radius, scores, draws)
                right = found.leaders == pictures.labels
                yield Attacked(attack, draws, radius, right, found.sizes)

    def _under(
        self,
        subject: Subject,
        pictures: DataSet,
        attack: Attack,
        radius: float,
        scores: LogScores,
        draws: int,
    ) -> Answers:
        """Return the answers to pictures that are attacked up to one size."""
        batch = max(1, ATTACK_ROWS["cuda" if "cuda" in subject.device else "cpu"] // draws)
        bits = 16 if subject.manifest.noise.draws is None else 8
        doing = f"{attack.name} on {subject.manifest.name}, {attack.norm} {radius:g}"
        under = {"attack": attack.name, "steps": attack.steps, "gradient_draws": draws}
        parts = []
        for part in self._parts(pictures, batch, doing):
            about = {
                **subject.about,
                **under,
                **{"attack_norm": attack.norm, "radius": radius, "bits": bits},
                **{"seed": self.seed, "pictures": digest_of(part)},
            }
            found = self.kept.find(about)
            if found is None:
                seed, sizes = self._seed(about), np.full(len(part), radius)
                with torch.random.fork_rng():
                    if seed is not None:
                        torch.manual_seed(seed)
                    altered = alter(
                        attack,
                        scores,
                        part.images,
                        part.labels,
                        sizes,
                        device=subject.device,
                        batch=batch,
                        bits=bits,
                    )
                    pixels = np.concatenate(list(altered))
                found = subject.answer(pixels, "", seed)
                self.kept.add(about, found)
            parts.append(found)
        return _joined(parts)

    def _seed(self, about: About) -> int | None:
        return None if self.seed is None else seed_of(self.seed, about)

    def _parts(self, data: DataSet, size: int, doing: str) -> Iterator[DataSet]:
        hidden = not sys.stderr.isatty()
        with tqdm(desc=doing, total=len(data), unit="picture", disable=hidden) as bar:
            for start in range(0, len(data), size):
                here = slice(start, start + size)
                part = DataSet(data.images[here], data.labels[here], data.names)
                yield part
                bar.update(len(part))


def attack_figures(
    attacked: Sequence[Attacked], thresholds: Sequence[float]
) -> tuple[AttackFigures, ...]:
    """Return the figures of each attack.

    Args:
        attacked: the pictures, as :meth:`Measuring.attacked` has them.
        thresholds: on certified sizes.
    """
    figures = []
    for attack in dict.fromkeys(one.attack for one in attacked):
        own = [one for one in attacked if one.attack == attack]
        accuracies = (
            attacked_accuracy(one.radius, one.right, one.sizes, thresholds) for one in own
        )
        figures.append(
            AttackFigures(
                attack=attack.name,
                norm=attack.norm,
                steps=attack.steps,
                draws=own[0].draws,
                pictures=len(own[0].right),
                accuracies=tuple(accuracies),
            )
        )
    return tuple(figures)


def _joined(parts: Sequence[Answers]) -> Answers:
    return Answers(
        np.concatenate([part.leaders for part in parts]),
        np.concatenate([part.sizes for part in parts]),
        np.concatenate([part.seconds for part in parts]),
        sum(part.draws for part in parts),
    )
