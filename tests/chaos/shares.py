"""What other clients notice when a key at its limit attacks.

Both load and attack come from other processes. Periods with and without attack alternate, so that
other work on the machine affects both alike.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from service.http.guards.keys import add
from tests.chaos.attacks import attacks
from tests.chaos.experiments import HANG_SECONDS, metric, wait_all_ready
from tests.chaos.load import PNG, Log, open_loop
from tests.e2e.conftest import Service

Counts = dict[str, Any]
# The attacker's limit, and what the victim offers, as shares of what the workers can draw.
LIMIT, OFFERED = 0.25, 0.2
VICTIM_DRAWS, MOST_RATE = 128, 20.0
TURNS = 3
# How long an attack takes to arrive.
ONSET_SECONDS = 2.0
NAMES = list(attacks(64))


class Keyed:
    """A service with keys: one without a limit for the victim, and one for each attack."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._keys = folder / "keys.json"
        self.victim = add(self._keys, "victim", ["predict", "metrics"], None)
        secrets = {**environment, "PIXELDP_KEYS": str(self._keys)}
        self.service = Service(environment=secrets).wait_ready()
        headers = {"X-API-Key": self.victim}
        wait_all_ready(self.service, headers)
        [model] = httpx.get(f"{self.service.address}/models", headers=headers).json()["models"]
        ways = model["calibrations"]
        workers = sum(way["workers"] for way in ways)
        self.speed = sum(way["draws_per_second"] for way in ways)
        self.pass_seconds = workers * max(way["pass_size"] for way in ways) / self.speed
        self.limit = LIMIT * self.speed

    def attacker(self, name: str) -> str:
        """Return a new key with a limit."""
        return add(self._keys, name, ["predict", "priority"], self.limit)

    def waiting(self) -> float:
        """How many pictures are on their way, of any client."""
        kinds = ("queued", "decoding", "in_flight")
        headers = {"X-API-Key": self.victim}
        return sum(metric(self.service, f"pixeldp_pictures_{kind}", headers) for kind in kinds)


@contextmanager
def attacking(keyed: Keyed, name: str, key: str) -> Iterator[Counts]:
    """Attack while the block runs; how it was answered is known when the block ends."""
    command = [sys.executable, "-m", "tests.chaos.attacks", keyed.service.address, key, name]
    process = subprocess.Popen(
        [*command, "--rate", str(keyed.limit)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    answers: Counts = {}
    try:
        yield answers
    finally:
        output, _ = process.communicate(timeout=HANG_SECONDS)
        answers.update(json.loads(output))


def attack(
    keyed: Keyed, name: str, pictures: Sequence[bytes], seconds: float, turns: int = TURNS
) -> Counts:
    """Measure the victim's times alone and under attack in turns of a few seconds."""
    alone, attacked = Log(), Log()
    theirs: Counter[str] = Counter()
    key = keyed.attacker(name.replace(" ", "-"))
    rate = min(MOST_RATE, OFFERED * keyed.speed / VICTIM_DRAWS)
    query = f"max_draws={VICTIM_DRAWS}&timeout_ms=60000&scores=1"
    headers = {**PNG, "X-API-Key": keyed.victim}

    def ask(log: Log) -> None:
        address = keyed.service.address
        asyncio.run(open_loop(address, query, pictures, rate, seconds, log, headers))

    for _ in range(turns):
        ask(alone)
        with attacking(keyed, name, key) as answers:
            time.sleep(ONSET_SECONDS)
            ask(attacked)
        theirs.update(answers["statuses"])
        end = time.monotonic() + HANG_SECONDS
        while keyed.waiting():  # wait for what the attack left behind
            assert time.monotonic() < end, "the attack's pictures do not end"
            time.sleep(0.1)
    before, then = (float(np.quantile(log.seconds, 0.99)) for log in (alone, attacked))
    asked = 3 * before + keyed.pass_seconds
    return {
        "requests alone": alone.requests,
        "requests under attack": attacked.requests,
        "lost": alone.failed + attacked.failed,
        "statuses": dict(sorted(attacked.answered.items())),
        "the attacker's statuses": dict(sorted(theirs.items())),
        "pass (ms)": round(1000 * keyed.pass_seconds, 1),
        "median alone (ms)": round(1000 * float(np.median(alone.seconds)), 1),
        "median under attack (ms)": round(1000 * float(np.median(attacked.seconds)), 1),
        "99 % alone (ms)": round(1000 * before, 1),
        "99 % under attack (ms)": round(1000 * then, 1),
        "99 % asked (ms)": round(1000 * asked, 1),
        "of what is asked": round(then / asked, 2),
    }
