"""The client for asyncio."""

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from types import TracebackType
from typing import Self, TypeVar, Unpack

import httpx

from pixeldp_client import _proxies as proxies
from pixeldp_client import _requests as requests
from pixeldp_client._errors import (
    NotRobust,
    PixelDPError,
    Unavailable,
    Unreachable,
    transport_errors,
)
from pixeldp_client._pictures import Image, encode
from pixeldp_client._requests import Call, Options, Reply
from pixeldp_client._results import Look, Model, Prediction, Restart, StickerPrediction
from pixeldp_client._retries import Attempts, Retries

T = TypeVar("T")


class AsyncClient:
    """:class:`pixeldp_client.Client` for asyncio: the same arguments and methods, awaited.

    Here ``timeout`` bounds an answer whatever the service does. It bounds a stream as in the other
    client.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        retries: Retries = Retries(),
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._address, self._timeout, self._retries = requests.address_of(url), timeout, retries
        self._http = httpx.AsyncClient(
            base_url=self._address,
            headers=requests.headers(api_key),
            transport=transport or proxies.transport(httpx.AsyncHTTPTransport, self._address),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the client's connections."""
        await self._http.aclose()

    async def predict(
        self,
        image: Image,
        *,
        require_robust: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109 - part of the request to the service
        **options: Unpack[Options],
    ) -> Prediction:
        """Say what is in a picture; as :meth:`Client.predict`."""
        content = await asyncio.to_thread(encode, image)
        call = requests.predict(content, options, require_robust, timeout is not None)
        return requests.prediction(await self._ask(call, timeout))

    async def predict_sticker(
        self,
        image: Image,
        side: int,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
        **options: Unpack[Options],
    ) -> StickerPrediction:
        """Say whether a sticker could change what is in a picture.

        As :meth:`Client.predict_sticker`.
        """
        content = await asyncio.to_thread(encode, image)
        call = requests.predict_sticker(content, side, options, timeout is not None)
        return requests.sticker_prediction(await self._ask(call, timeout))

    async def predict_or(
        self,
        image: Image,
        fallback: Callable[[NotRobust | Unavailable], T | Awaitable[T]],
        *,
        timeout: float | None = None,  # noqa: ASYNC109
        **options: Unpack[Options],
    ) -> Prediction | T:
        """Return the prediction if it is robust, or else what ``fallback`` returns for the reason.

        As :meth:`Client.predict_or`. If the fallback returns an awaitable, it is awaited.
        """
        try:
            return await self.predict(image, require_robust=True, timeout=timeout, **options)
        except (NotRobust, Unavailable) as reason:
            made = fallback(reason)
            return await made if inspect.isawaitable(made) else made

    async def predict_batch(
        self,
        images: Iterable[Image],
        *,
        timeout: float | None = None,  # noqa: ASYNC109
        **options: Unpack[Options],
    ) -> list[Prediction | PixelDPError]:
        """Ask about several pictures in one request; as :meth:`Client.predict_batch`."""
        pictures = [await asyncio.to_thread(encode, image) for image in images]
        if not pictures:
            return []
        call = requests.predict_batch(pictures, options, timeout is not None)
        return requests.predictions(await self._ask(call, timeout))

    async def stream(
        self,
        image: Image,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
        **options: Unpack[Options],
    ) -> AsyncGenerator[Look | Restart | Prediction, None]:
        """Yield every look, and then the prediction; as :meth:`Client.stream`."""
        content = await asyncio.to_thread(encode, image)
        call = requests.stream(content, options, timeout is not None)
        attempts = self._attempts(timeout)
        response = await self._persist(attempts, lambda: self._open(call, attempts))
        events = requests.Events(response.headers)
        try:
            with transport_errors(self._address):
                async for part in response.aiter_bytes():
                    attempts.left()
                    for told in events.feed(part):
                        yield told
                        if isinstance(told, Prediction):
                            return
            raise Unreachable(f"{self._address} ended the stream before its answer")
        finally:
            await response.aclose()

    async def models(self) -> list[Model]:
        """List the served models; ``default`` marks the one used if none is named."""
        return requests.models(await self._ask(requests.MODELS, None))

    async def ready(self, timeout: float = 5.0) -> bool:  # noqa: ASYNC109
        """Say whether the service answers pictures now. Asks once."""
        try:
            await self._receive(requests.READY, self._attempts(timeout))
        except Unavailable:
            return False
        return True

    def _attempts(self, timeout: float | None) -> Attempts:
        return Attempts(self._retries, self._timeout if timeout is None else timeout)

    async def _ask(self, call: Call, timeout: float | None) -> Reply:  # noqa: ASYNC109
        attempts = self._attempts(timeout)
        return await self._persist(attempts, lambda: self._receive(call, attempts))

    async def _persist(self, attempts: Attempts, once: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await once()
            except Unavailable as error:
                await asyncio.sleep(attempts.wait_after(error))

    async def _receive(self, call: Call, attempts: Attempts) -> Reply:
        """Send once, and receive the whole answer."""
        with transport_errors(self._address):
            async with asyncio.timeout(attempts.left()):
                response = await self._send(call, attempts)
                reply = await self._read(response)
        return reply.checked()

    async def _open(self, call: Call, attempts: Attempts) -> httpx.Response:
        """Send once, and return the answer before its body has arrived."""
        with transport_errors(self._address):
            async with asyncio.timeout(attempts.left()):
                response = await self._send(call, attempts)
                if response.status_code not in requests.ANSWERS:
                    (await self._read(response)).checked()
        return response

    async def _send(self, call: Call, attempts: Attempts) -> httpx.Response:
        request = self._http.build_request(**call.arguments(attempts.left()))
        return await self._http.send(request, stream=True)

    async def _read(self, response: httpx.Response) -> Reply:
        try:
            body = await response.aread()
        finally:
            await response.aclose()
        return Reply(response.headers, response.status_code, body)
