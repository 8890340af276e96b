"""Reads bundles in a separate process, within a deadline: a disk that hangs blocks only the reader.

    python -P -m service.reading

A thread that reads from a disk that does not answer (over a network, or by FUSE) may not react to
any signal until it does, not even SIGKILL, and neither does its process. So the front reads no
bundle itself: otherwise it could neither answer nor be ended. A reader receives one JSON object on
standard input and answers on standard output, with a line of JSON for each bundle that it was asked
to read, or with a single line. At the start, when the front has one thread, it forks the reader.
"""

import asyncio
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from models.bundle import Bundle, BundleError, Manifest, read_bundle
from models.family import Family, FamilyFile, read_family
from service import repository
from service.engine.errors import LoadError
from service.repository import RepositoryError, Stored
from service.system.confinement import NotConfinedError
from service.system.programs import environment, python

# The number of hanging readers after which no further one is started.
MOST_READERS = 8
# Descriptions are small; for the large files of a bundle a reader has as long as workers to load
# it.
DESCRIPTIONS_SECONDS = 30.0
_ALLOW = "PIXELDP_LOAD_SECONDS allows more"

_running: set["subprocess.Popen[bytes]"] = set()


def read_forked(path: Path, seconds: float) -> Bundle:
    """Do what :func:`models.bundle.read_bundle` does, in a fork of this process.

    For a process with one thread, as others may hold locks that the fork would need.

    Raises:
        BundleError: the bundle cannot be trusted.
        LoadError: it was not read within ``seconds``.
    """
    return _bundle(path, _forked({"bundles": [path]}, path, seconds))


def read_family_forked(path: Path, seconds: float) -> Family:
    """Do what :func:`models.family.read_family` does, in the same way.

    Raises:
        BundleError: the file cannot be read, or is malformed.
        LoadError: it was not read within ``seconds``.
    """
    return Family(path, FamilyFile.model_validate(_forked({"family": path}, path, seconds)))


def _forked(asked: dict[str, Any], path: Path, seconds: float) -> Any:
    """Return a forked reader's only answer, which is about ``path``."""
    outlet, inlet = os.pipe()
    child = os.fork()
    if not child:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            with open(inlet, "w") as file:
                for answer in _answers(asked):
                    file.write(json.dumps(answer, default=str))
        finally:
            os._exit(0)
    os.close(inlet)
    said = None
    try:
        said = _read_all(outlet, seconds)
    finally:
        os.close(outlet)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, os.WNOHANG if said is None else 0)  # while its disk hangs, it has no end
    if said is None:
        raise _late(path, seconds, _ALLOW)
    return _told(said)


def _read_all(descriptor: int, seconds: float) -> bytes | None:
    """Return what can be read until its end; None if that takes longer."""
    poll, end, read = select.poll(), time.monotonic() + seconds, b""
    poll.register(descriptor, select.POLLIN)
    while poll.poll(1000 * max(end - time.monotonic(), 0)):
        if not (more := os.read(descriptor, 2**16)):
            return read
        read += more
    return None


async def bundles(paths: Sequence[Path], seconds: float) -> list[Bundle]:
    """Read bundles one after another as :func:`models.bundle.read_bundle` does.

    Raises:
        BundleError: one cannot be trusted.
        LoadError: one was not read within ``seconds``.
    """
    async with _reader({"bundles": [str(path) for path in paths]}) as answers:
        return [_bundle(path, await _next(answers, path, seconds, _ALLOW)) for path in paths]


async def family(path: Path, seconds: float) -> Family:
    """Read a family's file as :func:`models.family.read_family` does.

    Raises:
        BundleError: the file cannot be read, or is malformed.
        LoadError: it was not read within ``seconds``.
    """
    async with _reader({"family": str(path)}) as answers:
        told = await _next(answers, path, seconds, _ALLOW)
    return Family(path, FamilyFile.model_validate(told))


async def find(root: Path, name: str) -> list[Stored]:
    """Do what :func:`service.repository.find` does.

    Raises:
        NotConfinedError: there is none, or it is outside.
        RepositoryError: one of them has another name or version in its description.
        LoadError: they were not read in time.
    """
    told = await _ask({"find": name, "root": str(root)})
    return [_stored(one) for one in told]


async def index(root: Path) -> tuple[list[Stored], dict[str, str]]:
    """Do what :func:`service.repository.list_all` does.

    Raises:
        LoadError: the bundles were not read in time.
    """
    found, broken = await _ask({"root": str(root)})
    return [_stored(one) for one in found], broken


async def _ask(asked: dict[str, str]) -> Any:
    async with _reader(asked) as answers:
        return await _next(answers, Path(asked["root"]), DESCRIPTIONS_SECONDS, "see to the disk")


@contextlib.asynccontextmanager
async def _reader(asked: dict[str, Any]) -> AsyncIterator[asyncio.Queue[bytes]]:
    """Ask a new reader; yield the queue of its lines, and after the last of its error."""
    if len(_running) >= MOST_READERS:
        raise LoadError(f"{MOST_READERS} bundles are being read, and the disk does not answer")
    loop = asyncio.get_running_loop()
    answers: asyncio.Queue[bytes] = asyncio.Queue()
    process = _start()

    def converse() -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        with process, contextlib.suppress(RuntimeError):  # the loop is closed
            with contextlib.suppress(OSError):  # it has already ended
                process.stdin.write(json.dumps(asked).encode())
                process.stdin.close()
            for line in process.stdout:
                loop.call_soon_threadsafe(answers.put_nowait, line)
            loop.call_soon_threadsafe(answers.put_nowait, process.stderr.read())
        _running.discard(process)

    threading.Thread(target=converse, name="reader", daemon=True).start()
    try:
        yield answers
    finally:
        process.kill()


async def _next(answers: asyncio.Queue[bytes], path: Path, seconds: float, advice: str) -> Any:
    """Return a reader's next answer, which is about ``path``, or raise its error."""
    try:
        async with asyncio.timeout(seconds):
            return _told(await answers.get())
    except TimeoutError:
        raise _late(path, seconds, advice) from None


def _late(path: Path, seconds: float, advice: str) -> LoadError:
    return LoadError(f"{path.name} was not read within {seconds:g} s; {advice}")


def _bundle(path: Path, told: dict[str, Any]) -> Bundle:
    return Bundle(path, Manifest.model_validate(told["manifest"]), told["digest"])


def _start() -> "subprocess.Popen[bytes]":
    pipe = subprocess.PIPE
    command, variables = python("service.reading"), environment()
    process = subprocess.Popen(  # noqa: S603 - our own program
        command, stdin=pipe, stdout=pipe, stderr=pipe, env=variables
    )
    _running.add(process)
    return process


def _told(said: bytes) -> Any:
    """Return a reader's answer, or raise its error."""
    try:
        told = json.loads(said)
        error, of = told.get("error"), told["told"]
    except (ValueError, LookupError):
        raise LoadError(f"reading it failed: {said.decode(errors='replace')[-400:]}") from None
    match error:
        case None:
            return of
        case "bundle":
            raise BundleError(Path(of[0]), of[1], of[2])
        case "confined":
            raise NotConfinedError(of)
    raise RepositoryError(of)


def _stored(told: dict[str, str]) -> Stored:
    return Stored(Path(told["path"]), told["name"], told["version"])


def _answers(asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Do a reader's work, up to the first failure."""
    try:
        for path in asked.get("bundles", ()):
            found = read_bundle(Path(path))
            manifest = found.manifest.model_dump(mode="json")
            yield {"told": {"manifest": manifest, "digest": found.digest}}
        if "family" in asked:
            yield {"told": read_family(Path(asked["family"])).file.model_dump(mode="json")}
        if "find" in asked:
            stored = repository.find(Path(asked["root"]), asked["find"])
            yield {"told": [asdict(one) for one in stored]}
        elif "root" in asked:
            stored, broken = repository.list_all(Path(asked["root"]))
            yield {"told": ([asdict(one) for one in stored], broken)}
    except BundleError as error:
        yield {"error": "bundle", "told": [str(error.file), error.field, error.reason]}
    except NotConfinedError as error:
        yield {"error": "confined", "told": str(error)}
    except RepositoryError as error:
        yield {"error": "repository", "told": str(error)}


if __name__ == "__main__":
    for answer in _answers(json.load(sys.stdin)):
        print(json.dumps(answer, default=str), flush=True)  # paths as text
