"""The process of a worker, as it is started."""

import asyncio
import contextlib
import socket
import time
from pathlib import Path

from service.engine.process import Process
from service.engine.status import SharedStatus


def started(process: int) -> bytes:
    """The environment of a program; until it has started, the file shows that of this process."""
    file, end = Path(f"/proc/{process}/environ"), time.monotonic() + 60
    while b"PYTHONPATH" not in (content := file.read_bytes()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return content


async def environment_of_a_worker(additional: dict[str, str]) -> dict[str, str]:
    with contextlib.closing(SharedStatus.create()) as status:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            async with await Process.start("worker0", theirs, status, additional) as process:
                content = await asyncio.to_thread(started, process._process.pid)
    pairs = (entry.partition("=") for entry in content.decode().split("\0") if entry)
    return {name: value for name, _, value in pairs}


def test_a_worker_is_started_with_what_its_device_needs() -> None:
    found = asyncio.run(environment_of_a_worker({"CUDA_VISIBLE_DEVICES": "MIG-7"}))
    assert found["CUDA_VISIBLE_DEVICES"] == "MIG-7"
    assert "PATH" in found
