"""Bundles read in a process apart, within a deadline: a disk that hangs keeps but its reader.

    python -P -m service.reading

Whoever reads from a disk that does not answer (over a network, or by FUSE) may be beyond any
signal until it does, SIGKILL included, and so is the process whose thread it is. So the front reads
no bundle itself: it could neither answer nor be ended. A reader is asked by one JSON object on
standard input and answers by one on standard output.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from models.bundle import Bundle, BundleError, Manifest, read_bundle
from service.engine.errors import LoadError
from service.repository import Repository, RepositoryError, Stored
from service.system.confinement import NotConfinedError
from service.system.programs import environment, python

# Readers that hang, after which no further one is started.
MOST_READERS = 8
# Descriptions are small; the large files of a bundle have as long as workers have to load it.
DESCRIPTIONS_SECONDS = 30.0

_running: set["subprocess.Popen[bytes]"] = set()


async def bundle(path: Path, seconds: float) -> Bundle:
    """Read a bundle as :func:`models.bundle.read_bundle` does.

    Raises:
        BundleError: it cannot be trusted.
        LoadError: it was not read within so many seconds.
    """
    told = await _ask({"bundle": str(path)}, seconds, "PIXELDP_LOAD_SECONDS allows more")
    return Bundle(path, Manifest.model_validate(told["manifest"]), told["digest"])


async def find(root: Path, name: str) -> list[Stored]:
    """Do what :meth:`service.repository.Repository.find` does.

    Raises:
        NotConfinedError: there is none, or it lies outside.
        RepositoryError: one of them has another name or version in its description.
        LoadError: they were not read in time.
    """
    told = await _ask({"find": name, "root": str(root)}, DESCRIPTIONS_SECONDS)
    return [_stored(one) for one in told]


async def index(root: Path) -> tuple[list[Stored], dict[str, str]]:
    """Do what :meth:`service.repository.Repository.list` does.

    Raises:
        LoadError: the bundles were not read in time.
    """
    found, broken = await _ask({"root": str(root)}, DESCRIPTIONS_SECONDS)
    return [_stored(one) for one in found], broken


async def _ask(asked: dict[str, str], seconds: float, advice: str = "see to the disk") -> Any:
    if len(_running) >= MOST_READERS:
        raise LoadError(f"{MOST_READERS} bundles are being read and the disk does not answer")
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()
    process = _start()

    def settle(said: bytes) -> None:
        if not answer.done():
            answer.set_result(said)

    def converse() -> None:
        said, failed = process.communicate(json.dumps(asked).encode())
        _running.discard(process)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, said or failed)

    threading.Thread(target=converse, name="reader", daemon=True).start()
    try:
        async with asyncio.timeout(seconds):
            said = await answer
    except TimeoutError:
        what = asked.get("bundle") or asked["root"]
        reason = f"{Path(what).name} was not read within {seconds:g} s"
        raise LoadError(f"{reason}; {advice}") from None
    finally:
        process.kill()
    return _told(said)


def _start() -> "subprocess.Popen[bytes]":
    pipe = subprocess.PIPE
    command, variables = python("service.reading"), environment()
    process = subprocess.Popen(  # noqa: S603 - our own program
        command, stdin=pipe, stdout=pipe, stderr=pipe, env=variables
    )
    _running.add(process)
    return process


def _told(said: bytes) -> Any:
    """Return what a reader said, or raise what it met."""
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


def _read(asked: dict[str, str]) -> dict[str, Any]:
    """Do what a reader is asked to do."""
    told: Any
    try:
        if "bundle" in asked:
            found = read_bundle(Path(asked["bundle"]))
            told = {"manifest": found.manifest.model_dump(mode="json"), "digest": found.digest}
        elif "find" in asked:
            stored = Repository(Path(asked["root"])).find(asked["find"])
            told = [_plain(one) for one in stored]
        else:
            stored, broken = Repository(Path(asked["root"])).list()
            told = [_plain(one) for one in stored], broken
    except BundleError as error:
        return {"error": "bundle", "told": [str(error.file), error.field, error.reason]}
    except NotConfinedError as error:
        return {"error": "confined", "told": str(error)}
    except RepositoryError as error:
        return {"error": "repository", "told": str(error)}
    return {"told": told}


def _plain(stored: Stored) -> dict[str, str]:
    return {**asdict(stored), "path": str(stored.path)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_read(json.load(sys.stdin))))
