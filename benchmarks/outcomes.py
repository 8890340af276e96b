"""The outcomes of requested pictures: answered, or failed, and why."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.http import Reply


@dataclass(frozen=True)
class Outcomes:
    """Pictures with an answer, the draws of all answers, and pictures without one, by reason."""

    answered: int
    draws: int
    failed: Counter[str]

    @property
    def mean_draws(self) -> float:
        """The mean draws of an answer; nan if there is none."""
        return self.draws / self.answered if self.answered else float("nan")

    def told(self) -> str:
        """Say how many failed; empty if none did."""
        if not self.failed:
            return ""
        failed = self.failed.total()
        reasons = ", ".join(f"{reason} {count}" for reason, count in self.failed.most_common())
        return f"{failed} of {failed + self.answered} pictures failed ({reasons})"


def outcomes(replies: Iterable[Reply], pictures: int = 1) -> Outcomes:
    """Count the outcomes in replies, for single pictures or batches.

    Args:
        replies: of /predict or /predict/batch, or of a peer.
        pictures: in each request; all of them fail if it has no answer.
    """
    answered = draws = 0
    failed: Counter[str] = Counter()
    for reply in replies:
        if reply.status != 200:
            failed[_reason(reply)] += pictures
            continue
        document = json.loads(reply.body)
        for one in document.get("predictions", [document]):
            if "error" in one:
                failed[_problem(one["error"])] += 1
            else:
                answered += 1
                draws += one.get("draws", 0)
    return Outcomes(answered, draws, failed)


def latencies(replies: Iterable[Reply], percents: Sequence[int]) -> dict[str, float]:
    """Return percentiles of the answers' times, in milliseconds; empty if none was answered."""
    seconds = sorted(reply.seconds for reply in replies if reply.status == 200)
    if not seconds:
        return {}
    return {
        f"p{percent}": 1000 * seconds[percent * (len(seconds) - 1) // 100] for percent in percents
    }


def _reason(reply: Reply) -> str:
    if not reply.status:
        return reply.body.decode()
    try:
        document = json.loads(reply.body)
        return _problem(document) if "type" in document else f"status {reply.status}"
    except (ValueError, TypeError):
        return f"status {reply.status}"


def _problem(document: dict[str, Any]) -> str:
    """The last part of a problem document's type, as in /problems/overloaded."""
    return str(document.get("type", "unknown")).rpartition("/")[2]
