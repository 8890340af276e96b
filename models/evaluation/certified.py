"""The figures of a bulk certification, which are read from its answers and not drawn again."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.bulk.job import JobError, read_columns, read_job
from models.certification.certificates import size
from models.certification.laws import LAWS
from models.certification.rounding import reduce_size, round_down
from models.evaluation.asked import RADII, check_radii
from models.evaluation.figures import Answers, Evaluation
from models.evaluation.logs import ABSTAINED
from models.evaluation.summary import summarise

# Workers compute with one thread each.
THREADS = 1


def read_evaluation(
    folder: Path,
    radii: Sequence[float] = (),
    log: Path | None = None,
    certificate: str | None = None,
) -> Evaluation:
    """Return the figures of the answers that a folder has, whether or not the job is complete.

    A picture without an answer counts as a failure, as one with nothing certified does. Those whose
    right label is not known are left out.

    Args:
        folder: of ``pixeldp certify``.
        radii: the sizes at which certified accuracy is reported; by default those of ``RADII``.
        log: a file for a certification log (:mod:`models.evaluation.logs`).
        certificate: what the same bounds certify by another certificate of the noise's law, such as
            ``renyi``; None for the sizes of the answers.

    Raises:
        JobError: there is no such folder, or no picture with a right label has an answer.
        ValueError: a radius is not above 0, or the law or the norm has no such certificate.
    """
    asked = read_job(folder)
    radii = tuple(radii) or RADII[asked.norm]
    check_radii(radii)
    names = ("right", "label", "certified_size", "draws", "seconds", "answer")
    columns, seconds = read_columns(folder, *names)
    known = [place for place, right in enumerate(columns["right"]) if right is not None]
    first = next((one for one in columns["answer"] if one is not None), None)
    if not known or first is None:
        raise JobError(f"{folder}: no picture with a known label is answered; there are no figures")
    # None of a picture without an answer is 0, and its label none.
    rights, leaders, sizes, took = (
        np.array(
            [empty if columns[name][place] is None else columns[name][place] for place in known]
        )
        for name, empty in (
            ("right", ABSTAINED),
            ("label", ABSTAINED),
            ("certified_size", 0.0),
            ("seconds", 0.0),
        )
    )
    compute = json.loads(first)["compute"]
    if certificate is not None:
        answers = (columns["answer"][place] for place in known)
        sizes = np.array(
            [0.0 if one is None else _size(certificate, json.loads(one)) for one in answers]
        )
    return summarise(
        Answers(leaders, sizes, took, sum(filter(None, columns["draws"]))),
        np.array([columns["picture"][place] for place in known]),
        rights,
        radii,
        seconds,
        log,
        model=asked.model,
        version=asked.version,
        dataset=asked.dataset,
        every=asked.every,
        max_draws=asked.max_draws,
        confidence=asked.confidence,
        norm=asked.norm,
        certificate=certificate,
        seed=None,
        device=compute["device"],
        provider=compute["provider"],
        precision=compute["precision"],
        pass_size=compute["pass_size"],
        threads=THREADS,
    )


def _size(certificate: str, answer: Mapping[str, Any]) -> float:
    """Return the size that an answer's bounds allow by another certificate, rounded down.

    The bounds hold together, whatever is computed from them.
    """
    noise, bounds, evidence = answer["noise"], answer["certificate"], answer["evidence"]
    law = LAWS[noise["mechanism"]]
    known = (law.defaults[law.norm], law.paper, *law.further)
    if certificate not in known or not law.additive:
        raise ValueError(
            f"{certificate} is no certificate of {law.name} noise here; expected "
            f"{' or '.join(dict.fromkeys(known))}"
        )
    if answer["norm"] != noise["norm"]:
        raise ValueError(
            f"these answers are in {answer['norm']}, and {certificate} is in {noise['norm']}, as "
            "the model is: certify again without --norm"
        )
    if not answer["certified_size"]:
        return 0.0
    # All labels' scores sum to 1 in each draw, at most.
    upper = min(bounds["upper"], 1 - bounds["lower"])
    delta = noise["sensitivity"] * answer["preprocessing"]["sensitivity"]
    about = {"tau": evidence["tau"], "rho": evidence["rho"]}
    found = size(certificate, bounds["lower"], upper, noise["scale"], delta, **about)
    return round_down(float(reduce_size(found, noise["scale"] / delta)))
