"""What a front asks for arrives in the main process as it was asked."""

import asyncio
import socket
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from models.certification.question import Question
from service.decoding.reduction import Reduced
from service.engine.errors import DeadlineError
from service.engine.queue import Job
from service.fronts.desk import Desk, Office
from service.fronts.ledger import Ledger
from service.fronts.remote import Asking, RemoteEngine
from service.fronts.wire import Wire

PICTURE = Reduced(2, 1, "L", 16, [("l1", "l2", 1.5)], False, bytes(range(4)))
USUAL = Job(0, PICTURE, Question(0.95, 100, None, "l2"), 1, 5000.0)
UNUSUAL: dict[str, Any] = {
    "model": 7,
    "picture": Reduced(1, 2, "RGB", 8, [], True, bytes(range(48))),
    "question": Question(0.999, 2040, 0.5, "l1"),
    "scores": 3,
    "deadline": 1234.5678901234567,
    "high": True,
    "attacks": 5,
    "owner": 2,
    "whole": True,
}


def received(job: Job) -> Job:
    """Ask for a picture through a front's side and the main process's; return what arrives."""
    arrived: list[Job] = []

    async def answer(asked: Job, on_look: object) -> None:
        arrived.append(asked)
        raise DeadlineError("it was only asked")

    async def converse() -> None:
        ledger = Ledger.create(2)
        office = SimpleNamespace(engine=SimpleNamespace(answer=answer), heard=lambda: None)
        desk = Desk(cast(Office, office), ledger.account(1))
        asking = Asking(Wire(lambda *frame: asking.hear(*frame), lambda: None))
        ours, theirs = socket.socketpair()
        await desk.wire.connect(ours)
        await asking.wire.connect(theirs)
        with pytest.raises(DeadlineError):
            await RemoteEngine(ledger, ledger.account(1), 10, asking).predict(job)
        asking.wire.close()
        await desk.settled()
        assert ledger.waiting() == 0, "what it held is counted once, and given back once"

    asyncio.run(converse())
    [one] = arrived
    return one


@pytest.mark.parametrize("field", [one.name for one in fields(Job)])
def test_every_part_of_a_job_arrives(field: str) -> None:
    job = replace(USUAL, **{field: UNUSUAL[field]})
    assert job != USUAL
    assert received(job) == job
