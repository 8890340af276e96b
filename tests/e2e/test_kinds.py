"""Real workers of one kind run a model in one way, whichever of them dies and whenever it does."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.bundle import Manifest
from models.certification.question import Question
from models.execution import Execution
from models.network import build_network, save_network
from models.networks.foreign.python import ALLOWED
from service.decoding.reduction import Reduced
from service.engine.engine import Engine
from service.engine.queue import Job
from tests.chaos.processes import workers
from tests.conftest import HAS_COMPILER
from tests.e2e.conftest import START_SECONDS, Service
from tests.e2e.own_network import OwnNetwork, picture, wait_for
from tests.e2e.test_survival import until, with_engine
from tests.models.test_bundle import DESCRIPTION

pytestmark = pytest.mark.slow

# Files beside it say what its workers do.
CODE = '''
import os
import time
from pathlib import Path

import torch
from torch import nn

HERE = Path(__file__).parent
MIX, MEET, MET = HERE / "mix", HERE / "meet", HERE / "met"


def meet(fate):
    MET.write_text(str(os.getpid()))
    if fate != "die, all":
        MEET.unlink()
    if fate == "sleep":
        time.sleep(1000)
    os.kill(os.getpid(), 19 if fate == "stop" else 9)


class Brightness(nn.Module):
    """Tells dark (0) from bright (1); meets its fate, or mixes its rows, if files say so."""

    def forward(self, x):
        mean = x.flatten(1).mean(1)
        if MEET.exists():
            meet(MEET.read_text())
        if MIX.exists():
            mean = mean + 0.1 * mean.sum()
        return 100 * torch.stack([0.5 - mean, mean - 0.5], 1)


def build():
    return Brightness()
'''


class Fated(OwnNetwork):
    """A network whose next pass, in any worker, does what a test says."""

    def meet(self, fate: str) -> None:
        self.unmeet()
        self._file("meet").write_text(fate)

    def unmeet(self) -> None:
        for name in ("meet", "met"):
            self._file(name).unlink(missing_ok=True)

    def wait_met(self) -> int:
        """Wait until this has happened to a worker; return its process id."""
        wait_for(lambda: self._file("met").exists() and bool(self._file("met").read_text()))
        return int(self._file("met").read_text())

    def _file(self, name: str) -> Path:
        return self.code.with_name(name)


@pytest.fixture(scope="module")
def fated(tmp_path_factory: pytest.TempPathFactory) -> Fated:
    return Fated(tmp_path_factory.mktemp("fated"), CODE)


def start(own: Fated, number: int = 2, **environment: str) -> Service:
    settings = {"PIXELDP_DEVICES": ",".join(["cpu"] * number), ALLOWED: str(own.code)}
    return Service(
        str(own.bundle), environment={**settings, "PIXELDP_COMPILE": "false", **environment}
    )


def calibrations(service: Service) -> list[dict[str, Any]]:
    [model] = httpx.get(f"{service.address}/models").json()["models"]
    found: list[dict[str, Any]] = model["calibrations"]
    return found


def wait_one_way(service: Service, number: int = 2) -> dict[str, Any]:
    """Wait until ``number`` workers are ready, which must all run the model in one way.

    Each has its small passes a little later, if there are such.
    """
    found: list[dict[str, Any]] = []
    names = "provider", "precision", "pass_size", "compiled", "deviation"

    def whole() -> bool:
        found[:] = calibrations(service)
        assert len({tuple(one[name] for name in names) for one in found}) <= 1
        return [one["workers"] for one in found] == [number]

    wait_for(whole)
    [way] = found
    assert way["deviation"] is None
    return {name: way[name] for name in names}


def said(service: Service, event: str) -> list[str]:
    """Return the log lines of an event."""
    return [line for line in service.lines if f'"event": "{event}"' in line]


def test_all_workers_run_a_model_in_one_way_and_so_do_their_successors(
    fated: Fated,
) -> None:
    service = start(fated, 3)
    try:
        way = wait_one_way(service, 3)
        [line] = said(service, "worker measures")
        assert '"worker": "worker' in line
        first = workers(service.process.pid)
        for pid in first:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: len(said(service, "worker died")) == 3)
        assert wait_one_way(service, 3) == way
        assert len(said(service, "worker measures")) == 1, "nobody measures again"
    finally:
        assert service.stop() == 0


def test_when_the_one_that_measures_dies_the_next_takes_its_place(fated: Fated) -> None:
    fated.meet("die")
    service = start(fated)
    try:
        wait_one_way(service)
        assert len(said(service, "worker measures")) == 2
        [died] = said(service, "worker died")
        assert "SIGKILL ended it" in died
    finally:
        assert service.stop() == 0


def test_when_all_die_over_it_the_service_ends_and_says_why(fated: Fated) -> None:
    fated.meet("die, all")
    try:
        service = start(fated)
        assert service.process.wait(START_SECONDS) == 1
        assert service.stop() == 1
    finally:
        fated.unmeet()
    assert service.lines[-1].startswith("pixeldp: a worker cannot start: worker")
    assert len(said(service, "worker measures")) == 2


def test_others_do_not_wait_for_one_that_is_stopped_while_it_measures(fated: Fated) -> None:
    """When it continues, it runs the model as they do."""
    fated.meet("stop")
    service = start(fated)
    try:
        service.wait_ready()
        assert len(said(service, "worker measures")) == 2
        os.kill(fated.wait_met(), signal.SIGCONT)
        wait_one_way(service)
    finally:
        assert service.stop() == 0


def test_the_service_ends_while_one_measures_and_another_waits(fated: Fated) -> None:
    fated.meet("sleep")
    service = start(fated)
    fated.wait_met()
    assert httpx.get(f"{service.address}/health/ready").status_code == 503
    assert service.stop() == 0
    assert not workers(service.process.pid)


def test_a_worker_whose_rows_fail_in_the_given_way_does_not_serve(
    fated: Fated, tmp_path: Path
) -> None:
    # Meanwhile the other worker mixes its rows, too, and must not be checked.
    service = start(fated, PIXELDP_CHECK_SECONDS="0")
    try:
        way = wait_one_way(service)
        fated.say("mix")
        os.kill(workers(service.process.pid)[0], signal.SIGKILL)
        wait_for(lambda: bool(said(service, "worker cannot load")))
        reason = said(service, "worker cannot load")[0]
        assert "rows look at each other" in reason
        fated.unsay("mix")
        answer = httpx.post(
            f"{service.address}/predict",
            content=picture(tmp_path, 10),
            headers={"Content-Type": "image/png"},
        ).json()
        assert answer["label"]["index"] == 0
        assert wait_one_way(service) == way
    finally:
        fated.unsay("mix")
        assert service.stop() == 0


def with_two(test: Callable[[Engine], Awaitable[None]], folder: Path, compiled: bool) -> None:
    """Run a test on an engine with two workers that measure how best to run a small network."""
    with_engine(
        test,
        folder,
        devices=["cpu"] * 2,
        precision=None,
        provider=None,
        pass_size=None,
        compiled=compiled,
        stall_seconds=60,
    )


def executions(engine: Engine, model: int = 0) -> list[Execution]:
    return [calibration.execution for calibration, _ in engine.running(model)]


def save(folder: Path, name: str) -> Path:
    manifest = Manifest.model_validate({**DESCRIPTION, "name": name})
    save_network(folder, manifest, build_network(manifest))
    return folder


async def ask(engine: Engine) -> None:
    """Have pictures answered by both workers."""
    picture = Reduced(8, 8, "L", 8, [], False, bytes(64))
    question = Question(0.95, 1000, None, "l2")
    jobs = [Job(0, picture, question, 3, time.monotonic() + 600) for _ in range(8)]
    answers = await asyncio.gather(*(engine.predict(job) for job in jobs))
    assert {answer.conclusion.draws for answer in answers} == {1000}
    ways = {one for found, _ in engine.running(0) for one in found.executions}
    assert {answer.execution for answer in answers} <= ways


def test_one_worker_compares_the_compiled_network_and_the_other_follows(tmp_path: Path) -> None:
    """This holds whatever the comparison finds on this machine."""

    async def test(engine: Engine) -> None:
        await until(lambda: bool(engine._agreement._compiled))
        compiled = engine._agreement._compiled["cpu", 0]
        await until(lambda: [one.compiled for one in executions(engine)] == [compiled] * 2)
        assert len(set(executions(engine))) == 1
        await ask(engine)

    with_two(test, save(tmp_path, "tiny"), compiled=True)


def test_a_worker_told_to_compile_does_not_compare_or_says_why_it_cannot(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        agreement, first = engine._agreement, engine._workers[0]
        # As if another worker had found it faster.
        agreement._compiled["cpu", 0] = True
        for pid in workers(os.getpid()):
            os.kill(pid, signal.SIGKILL)
        await until(lambda: not any(worker.ready for worker in engine._workers))
        await until(lambda: len(engine.running(0)) == 2)
        if HAS_COMPILER:
            await until(lambda: all(one.compiled for one in executions(engine)))
            assert len(set(executions(engine))) == 1
        else:
            await until(lambda: all(why is not None for _, why in engine.running(0)))
            assert "cannot be compiled" in str(agreement.deviation(first, 0))
        await ask(engine)

    with_two(test, save(tmp_path, "tiny"), compiled=True)


def test_a_model_that_is_loaded_later_runs_in_one_way(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        [served] = await engine.load_all([save(tmp_path / "second", "second")])
        ways = executions(engine, served.index)
        assert len(ways) == 2
        assert len(set(ways)) == 1
        os.kill(workers(os.getpid())[0], signal.SIGKILL)
        await until(lambda: len(engine.running(served.index)) == 1)
        await until(lambda: len(engine.running(served.index)) == 2)
        assert set(executions(engine, served.index)) == set(ways)

    with_two(test, save(tmp_path / "first", "first"), compiled=False)
