"""Experiments on a running service: each does something to it and returns its counts."""

import asyncio
import os
import random
import re
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from numpy import quantile

from tests.chaos.load import Client, Log, closed_loop, open_loop
from tests.chaos.probe import probing, ready
from tests.chaos.processes import (
    alive,
    fronts,
    processor_seconds,
    title,
    tree,
    wait_gone,
    workers,
)
from tests.e2e.conftest import Service

# Every answer takes all its draws, so that pictures are always in flight when something happens.
QUERY = "max_draws={draws}&timeout_ms=600000&scores=1"
# So many draws an answer, or what a slow machine makes in so long, but enough for a label.
DRAWS, LONGEST_ANSWER_SECONDS, LEAST_DRAWS = 1000, 10.0, 100
PROBE_SECONDS = 0.1
EXIT_SECONDS = 5.0
# A time-out for hangs: ten times what a slow machine takes.
HANG_SECONDS = 300.0

# Documented statuses that are not the request's fault.
BUSY = (503, 504)

Counts = dict[str, Any]


def picture_query(service: Service, clients: int, times: float = 1.0) -> str:
    """Return a query whose draws the machine makes quickly for all ``clients``."""
    ways = httpx.get(f"{service.address}/models").json()["models"][0]["calibrations"]
    speed = sum(way["draws_per_second"] for way in ways)
    bearable = speed * LONGEST_ANSWER_SECONDS / clients
    return QUERY.format(draws=int(times * min(DRAWS, max(LEAST_DRAWS, bearable))))


def metric(service: Service, name: str, headers: Mapping[str, str] | None = None) -> float:
    """Return the sum of a metric over its labels."""
    text = httpx.get(f"{service.address}/metrics", headers=headers, timeout=60).text
    return sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M)))


def wait_all_ready(service: Service, headers: Mapping[str, str] | None = None) -> None:
    """Wait until every worker takes pictures; the service is ready when the first one does."""
    end = time.monotonic() + HANG_SECONDS
    while metric(service, "pixeldp_worker_up", headers) < len(workers(service.process.pid)):
        assert time.monotonic() < end, service.log[-2000:]
        time.sleep(0.1)


async def _until(condition: Any, seconds: float = HANG_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < end, "it took too long"
        await asyncio.sleep(0.02)


async def progress(log: Log, answers: int = 1) -> None:
    """Wait for further answers, so that the load has arrived."""
    goal = log.answered.total() + answers

    async def reached() -> bool:
        return log.answered.total() >= goal

    await _until(reached)


def _ends(log: Log) -> Counts:
    return {
        "requests": log.requests,
        "answered": log.answered[200],
        "lost": log.failed,
        "undocumented 5xx": sum(
            count for status, count in log.answered.items() if status >= 500 and status not in BUSY
        ),
        "statuses": dict(sorted(log.answered.items())),
        "broken off": dict(log.lost),
    }


def kill_workers(
    service: Service, pictures: Sequence[bytes], kills: int, clients: int = 8
) -> Counts:
    """Kill a worker again and again under load, whether it is ready or starting."""
    chance = random.Random(0)

    async def experiment() -> Counts:
        query = picture_query(service, clients)
        killed = 0
        async with closed_loop(service.address, query, pictures, clients) as log:
            while killed < kills:
                await progress(log, 2)
                await asyncio.sleep(chance.uniform(0, 0.5))
                found = workers(service.process.pid)
                if found:
                    os.kill(chance.choice(found), signal.SIGKILL)
                    killed += 1
            await progress(log, clients)
        return {"kills": killed, **_ends(log)}

    counts = asyncio.run(experiment())
    return {**counts, "requeued": round(metric(service, "pixeldp_pictures_requeued_total"))}


def kill_fronts(
    service: Service, pictures: Sequence[bytes], kills: int, clients: int = 8
) -> Counts:
    """Kill a front of several again and again under load; what it had is lost, and nothing else."""
    chance = random.Random(0)

    async def experiment() -> Counts:
        query, killed = picture_query(service, clients), 0
        async with closed_loop(service.address, query, pictures, clients) as log:
            while killed < kills:
                await progress(log, 2)
                found = fronts(service.process.pid)
                if len(found) > 1:  # both are there, so that the other can go on
                    os.kill(chance.choice(found), signal.SIGKILL)
                    killed += 1
            await progress(log, clients)
        return {"kills": killed, **_ends(log)}

    counts = asyncio.run(experiment())
    names = "pixeldp_pictures_queued", "pixeldp_pictures_in_flight"
    return {**counts, "left behind": sum(round(metric(service, name)) for name in names)}


def kill_all_workers(service: Service, pictures: Sequence[bytes], clients: int = 8) -> Counts:
    """Kill all workers at once; requests that arrive meanwhile wait for their successors."""

    async def experiment() -> Counts:
        query = picture_query(service, clients)
        async with closed_loop(service.address, query, pictures, clients) as log:
            await progress(log, 2)
            for pid in workers(service.process.pid):
                os.kill(pid, signal.SIGKILL)

            async def unready() -> bool:
                return await asyncio.to_thread(ready, service.address) == 503

            await _until(unready)
            late = await _ask_once(service.address, pictures[0])
            await progress(log, clients)
        return {**_ends(log), "asked while none ran": dict(late.answered)}

    return asyncio.run(experiment())


async def _ask_once(address: str, picture: bytes) -> Log:
    log = Log()
    client = Client(address, f"/predict?{QUERY.format(draws=LEAST_DRAWS)}", log)
    await client.ask(picture)
    client.close()
    return log


def stop_worker(service: Service, pictures: Sequence[bytes], clients: int = 8) -> Counts:
    """Stop a worker by SIGSTOP under load; it must be replaced, and nothing may be lost."""

    async def experiment() -> Counts:
        query = picture_query(service, clients)
        async with closed_loop(service.address, query, pictures, clients) as log:
            await progress(log, clients)
            victim = workers(service.process.pid)[0]
            os.kill(victim, signal.SIGSTOP)
            stopped = time.monotonic()

            async def replaced() -> bool:
                return not alive(victim)

            await _until(replaced)
            seconds = time.monotonic() - stopped
            await progress(log, clients)
        return {"replaced after (s)": round(seconds, 1), **_ends(log)}

    return asyncio.run(experiment())


def pause_all(
    service: Service, pictures: Sequence[bytes], seconds: float, clients: int = 8
) -> Counts:
    """Stop all processes under load, as if the machine were suspended, and let them go on."""

    async def experiment() -> Counts:
        query = picture_query(service, clients)
        async with closed_loop(service.address, query, pictures, clients) as log:
            await progress(log, clients)
            before = workers(service.process.pid)
            for pid in tree(service.process.pid):
                os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(seconds)
            for pid in [service.process.pid, *before]:
                os.kill(pid, signal.SIGCONT)
            await progress(log, 2 * clients)
            replaced = len(set(before) - set(workers(service.process.pid)))
        return {"replaced": replaced, **_ends(log)}

    return asyncio.run(experiment())


def deadly_picture(service: Service, picture: bytes) -> Counts:
    """Kill every worker that runs one picture until the picture is given up; then send another."""

    async def experiment() -> Counts:
        log, rounds = Log(), 0
        client = Client(service.address, f"/predict?{QUERY.format(draws=100_000)}", log)
        asking = asyncio.create_task(client.ask(picture))
        while not asking.done():

            async def runs() -> bool:
                drawn = await asyncio.to_thread(metric, service, "pixeldp_pictures_in_flight")
                return drawn > 0 or asking.done()

            await _until(runs)
            await asyncio.sleep(0.2)
            for pid in workers(service.process.pid):
                os.kill(pid, signal.SIGKILL)
            rounds += 1
            await asyncio.sleep(0.2)
        client.close()
        after = await _ask_once(service.address, picture)
        return {"deaths": rounds, "answered": dict(log.answered), "the next": dict(after.answered)}

    counts = asyncio.run(experiment())
    refusals = re.findall(r'"picture": "(sha256:[0-9a-f]{64})"', service.log)
    return {**counts, "times named in the log": len(refusals)}


def drain(service: Service, pictures: Sequence[bytes], clients: int = 8) -> Counts:
    """Stop the service under load; every request that it has accepted must be answered."""

    async def experiment() -> Counts:
        processes = tree(service.process.pid)
        query = picture_query(service, clients, times=2)
        async with closed_loop(service.address, query, pictures, clients) as log:
            await progress(log, clients)
            service.process.terminate()
            status = await asyncio.to_thread(ready, service.address)
            # The service ends after its last answer, and the clients end with it.
            code = await asyncio.to_thread(service.process.wait, HANG_SECONDS)
            ended = time.monotonic()
        left = wait_gone(processes, HANG_SECONDS)
        gone = time.monotonic()
        last = log.times[-1] if log.times else ended
        return {
            **_ends(log),
            "ready after the signal": status,
            "exit code": code,
            "ended after the last answer (s)": round(ended - last, 2),
            "all processes gone after (s)": round(gone - last, 2),
            "processes left": left,
        }

    counts = asyncio.run(experiment())
    service.stop()
    return counts


def kill_front(service: Service) -> Counts:
    """Kill the front process; nothing may be left of the service."""
    processes = tree(service.process.pid)
    names = [title(pid) for pid in processes]
    service.process.kill()
    killed = time.monotonic()
    service.process.wait()
    left = wait_gone(processes, HANG_SECONDS)
    gone = round(time.monotonic() - killed, 2)
    service.stop()
    return {"processes": names, "processes left": left, "all processes gone after (s)": gone}


def overload(
    service: Service,
    pictures: Sequence[bytes],
    seconds: float,
    times: float = 10.0,
    clients: int = 32,
) -> Counts:
    """Find the highest rate of answers, then ask for ``times`` as many, and probe meanwhile.

    The overload lasts twice as long as finding the peak, and only its second half counts: in the
    first, the queue and the workers fill up, and the draws made for that answer nobody yet.
    """
    query = picture_query(service, clients)

    async def rates(log: Log, start: float, end: float) -> tuple[float, float]:
        """Return the answers a second, and the draws in them, over a period that begins now."""
        taken: list[tuple[float, ...]] = []
        for moment in (start, end):
            await asyncio.sleep(moment - (start if taken else 0.0))
            used = await asyncio.to_thread(metric, service, "pixeldp_prediction_draws_sum")
            taken.append((time.monotonic(), log.answered[200], used))
        passed, answers, used = (last - first for first, last in zip(*taken, strict=True))
        return answers / passed, used / passed

    async def peak() -> tuple[float, float]:
        async with closed_loop(service.address, query, pictures, clients) as log:
            await progress(log, clients)
            return await rates(log, 0.0, seconds)

    async def asked(rate: float) -> tuple[Log, tuple[float, float]]:
        log = Log()
        load = open_loop(service.address, query, pictures, rate, 2 * seconds, log)
        _, found = await asyncio.gather(load, rates(log, seconds, 2 * seconds))
        return log, found

    most, most_draws = asyncio.run(peak())
    if not most:
        raise RuntimeError(f"nothing was answered in {seconds:g} s; take longer (--seconds)")
    pids = [os.getpid(), service.process.pid, *workers(service.process.pid)]
    before = [processor_seconds(pid) for pid in pids]
    start = time.monotonic()
    with probing(service.address) as probes:
        log, (good, good_draws) = asyncio.run(asked(times * most))
    took = time.monotonic() - start
    shares = [
        round((processor_seconds(pid) - one) / took, 2)
        for pid, one in zip(pids, before, strict=True)
    ]
    return {
        "peak (answers/s)": round(most, 1),
        "asked (requests/s)": round(times * most, 1),
        "goodput (answers/s)": round(good, 1),
        "goodput over peak": round(good / most, 3),
        "its draws over the peak's": round(good_draws / most_draws, 3),
        "cores taken by the clients, the front, and each worker": shares,
        "probes": len(probes.seconds),
        "probes by status": dict(probes.statuses),
        "slowest probe (ms)": round(1000 * max(probes.seconds)),
        "99 % of probes (ms)": round(1000 * quantile(probes.seconds, 0.99)),
        "statuses": dict(sorted(log.answered.items())),
        "broken off": dict(log.lost),
    }
