"""Work for clients that may hang up."""

import asyncio
import gc
import weakref
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from service.http.guards.client_gone import unless_client_leaves


class Picture:
    """Memory that a request holds."""


class Client:
    """A client that stays until it is told to leave."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}


def test_the_memory_of_a_failed_request_is_freed_at_once() -> None:
    """Not only when garbage is collected, which is much later under load."""
    pictures: list[weakref.ref[Picture]] = []

    async def fail(_: Picture) -> None:
        await asyncio.sleep(0)
        raise ValueError("as with every request to a model that is gone")

    async def handle() -> None:
        picture = Picture()
        pictures.append(weakref.ref(picture))
        await unless_client_leaves(Client(), fail(picture))  # type: ignore[arg-type]

    async def test() -> bool:
        gc.disable()
        try:
            with pytest.raises(ValueError, match="model that is gone"):
                await handle()
            for _ in range(3):
                await asyncio.sleep(0)
            return pictures[0]() is None
        finally:
            gc.enable()

    assert asyncio.run(test())


def test_work_for_a_client_that_leaves_stops() -> None:
    async def test() -> bool:
        client = Client()
        work: asyncio.Task[None] = asyncio.create_task(asyncio.sleep(60))
        asyncio.get_running_loop().call_soon(client.left.set)
        with pytest.raises(ClientDisconnect):
            await unless_client_leaves(client, work)  # type: ignore[arg-type]
        return work.cancelled()

    assert asyncio.run(test())
