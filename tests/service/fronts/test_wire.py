"""Frames between the main process and a front."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import from_json, to_json

from models.bundle import BundleError
from models.images.errors import TooManyPixels
from service.catalogue import UnknownModelError
from service.decoding.decoders import NoMemoryError, RefusedError
from service.decoding.queue import FullError
from service.engine import errors
from service.fronts.failures import MainProcessError, restore, tell
from service.fronts.wire import Kind, Wire

FRAMES: list[tuple[Kind, int, Any, bytes]] = [
    (Kind.ASK, 1, [0, 10, 1234.5678901234567, False, None, "l2"], bytes(range(256))),
    (Kind.ANSWER, 2**40, None, b""),
    (Kind.DECODE, 3, {"a": [1.5, "ü"]}, bytes(3_000_000)),
    (Kind.CANCEL, 4, None, b""),
]


def test_frames_come_out_as_they_went_in() -> None:
    async def converse() -> list[Any]:
        received: list[Any] = []
        ended, whole = asyncio.Event(), asyncio.Event()

        def hear(kind: Kind, number: int, header: Any, payload: bytes) -> None:
            received.append((kind, number, header, payload))
            if len(received) == len(FRAMES):
                whole.set()

        one, other = Wire(lambda *frame: None, ended.set), Wire(hear, ended.set)
        ours, theirs = socket.socketpair()
        await one.connect(ours)
        await other.connect(theirs)
        for frame in FRAMES:
            one.send(*frame)
        await whole.wait()
        one.close()
        await ended.wait()
        one.send(Kind.ASK)  # lost, and no error
        return received

    assert asyncio.run(converse()) == FRAMES


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_frames_may_come_in_pieces(size: int) -> None:
    async def cut() -> list[Any]:
        received: list[Any] = []
        wire = Wire(lambda *frame: received.append(frame), lambda: None)
        sent: list[bytes] = []
        sender = Wire(lambda *frame: None, lambda: None)

        class Written(asyncio.Transport):
            def write(self, data: Any) -> None:
                sent.append(bytes(data))

        sender.connection_made(Written())
        for frame in FRAMES[:2]:
            sender.send(*frame)
        sender.flush()
        whole = b"".join(sent)
        assert len(sent) == 1, "frames of one turn leave together"
        for start in range(0, len(whole), size):
            wire.data_received(whole[start : start + size])
        return received

    assert asyncio.run(cut()) == FRAMES[:2]


@pytest.mark.parametrize(
    "error",
    [
        errors.NotReadyError("a"),
        errors.OverloadedError("b"),
        errors.DeadlineError("c", 96),
        errors.WorkersLostError("d"),
        errors.LoadError("e"),
        UnknownModelError("f"),
        FullError(),
        NoMemoryError(),
        RefusedError(TooManyPixels, "g", 25),
        BundleError(Path("/x/model.json"), "digest", "is wrong"),
    ],
)
def test_exceptions_are_the_same_on_the_other_side(error: Exception) -> None:
    found = restore(from_json(to_json(tell(error))))
    assert (type(found), str(found), vars(found)) == (type(error), str(error), vars(error))


def test_other_exceptions_are_errors_of_the_main_process() -> None:
    assert isinstance(restore(tell(ZeroDivisionError("x"))), MainProcessError)
