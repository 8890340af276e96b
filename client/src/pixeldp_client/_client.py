"""The client."""

import time
from collections.abc import Callable, Generator, Iterable
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


class Client:
    """A client of a PixelDP service. Threads may share it.

    Args:
        url: the service's address, such as ``http://127.0.0.1:8000``.
        api_key: sent as ``Authorization: Bearer``; needed if the service has keys.
        timeout: seconds for an answer, all attempts together. It bounds the wait for each part of
            an answer, and is checked between parts.
        retries: how often and how soon a request is repeated after a failure that may pass.
        transport: a transport of httpx, for sockets, certificates or tests; the default uses the
            proxy that the environment names.

    Raises:
        ValueError: the address, the key, or the proxy of the environment cannot be used.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        retries: Retries = Retries(),
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._address, self._timeout, self._retries = requests.address_of(url), timeout, retries
        self._http = httpx.Client(
            base_url=self._address,
            headers=requests.headers(api_key),
            transport=transport or proxies.transport(httpx.HTTPTransport, self._address),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the client's connections."""
        self._http.close()

    def predict(
        self,
        image: Image,
        *,
        require_robust: bool = False,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Prediction:
        """Say what is in a picture, and how far it could have been altered without changing the
        answer.

        Args:
            image: a path, the bytes of a file, an open file, a Pillow image or a numpy array.
            require_robust: whether a prediction that is not robust is an error.
            timeout: seconds for this answer. If given, the service answers with the certificate
                that it has reached by then.
            options: ``target``, ``confidence`` and so on, as the service describes them.

        Raises:
            NotRobust: robust was required, and the prediction is not; the error carries it.
            PixelDPError: there is no prediction; see its subclasses.
        """
        call = requests.predict(encode(image), options, require_robust, timeout is not None)
        return requests.prediction(self._ask(call, timeout))

    def predict_sticker(
        self,
        image: Image,
        side: int,
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> StickerPrediction:
        """Say what is in a picture, and whether a square sticker could change that.

        Args:
            image: as of :meth:`predict`.
            side: of the sticker, in pixels of the picture as sent.
            timeout: as of :meth:`predict`.
            options: ``model``, ``scores``, ``evidence`` and ``priority``.

        Raises:
            PixelDPError: there is no prediction; see its subclasses.
        """
        call = requests.predict_sticker(encode(image), side, options, timeout is not None)
        return requests.sticker_prediction(self._ask(call, timeout))

    def predict_or(
        self,
        image: Image,
        fallback: Callable[[NotRobust | Unavailable], T],
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Prediction | T:
        """Return the prediction if it is robust, or else what ``fallback`` returns for the reason.

        The reason is NotRobust, with the prediction, or Unavailable: the service is too busy, too
        slow or not reachable. Errors of the request itself are raised, not passed to the fallback.
        """
        try:
            return self.predict(image, require_robust=True, timeout=timeout, **options)
        except (NotRobust, Unavailable) as reason:
            return fallback(reason)

    def predict_batch(
        self,
        images: Iterable[Image],
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> list[Prediction | PixelDPError]:
        """Ask about several pictures in one request.

        Returns:
            For each picture in order, its prediction or its own error.

        Raises:
            PixelDPError: the request as a whole failed.
        """
        pictures = [encode(image) for image in images]
        if not pictures:
            return []
        call = requests.predict_batch(pictures, options, timeout is not None)
        return requests.predictions(self._ask(call, timeout))

    def stream(
        self, image: Image, *, timeout: float | None = None, **options: Unpack[Options]
    ) -> Generator[Look | Restart | Prediction, None, None]:
        """Yield every look, and then the prediction. To stop the service's work early, close this.

        After a :class:`Restart` the earlier looks are void: the service lost a worker, or had too
        little memory, and begins again.

        Raises:
            PixelDPError: as :meth:`predict`. A stream that breaks off after its first part is not
                repeated: the looks of two runs would not hold together.
        """
        call = requests.stream(encode(image), options, timeout is not None)
        attempts = self._attempts(timeout)
        response = self._persist(attempts, lambda: self._open(call, attempts))
        events = requests.Events(response.headers)
        try:
            with transport_errors(self._address):
                for part in response.iter_bytes():
                    attempts.left()
                    for told in events.feed(part):
                        yield told
                        if isinstance(told, Prediction):
                            return
            raise Unreachable(f"{self._address} ended the stream before its answer")
        finally:
            response.close()

    def models(self) -> list[Model]:
        """List the served models; ``default`` marks the one used if none is named."""
        return requests.models(self._ask(requests.MODELS, None))

    def ready(self, timeout: float = 5.0) -> bool:
        """Say whether the service answers pictures now. Asks once."""
        try:
            self._receive(requests.READY, self._attempts(timeout))
        except Unavailable:
            return False
        return True

    def _attempts(self, timeout: float | None) -> Attempts:
        return Attempts(self._retries, self._timeout if timeout is None else timeout)

    def _ask(self, call: Call, timeout: float | None) -> Reply:
        attempts = self._attempts(timeout)
        return self._persist(attempts, lambda: self._receive(call, attempts))

    def _persist(self, attempts: Attempts, once: Callable[[], T]) -> T:
        while True:
            try:
                return once()
            except Unavailable as error:
                time.sleep(attempts.wait_after(error))

    def _receive(self, call: Call, attempts: Attempts) -> Reply:
        """Send once, and receive the whole answer."""
        return self._read(self._send(call, attempts), attempts).checked()

    def _open(self, call: Call, attempts: Attempts) -> httpx.Response:
        """Send once, and return the answer before its body has arrived."""
        response = self._send(call, attempts)
        if response.status_code not in requests.ANSWERS:
            self._read(response, attempts).checked()
        return response

    def _send(self, call: Call, attempts: Attempts) -> httpx.Response:
        with transport_errors(self._address):
            request = self._http.build_request(**call.arguments(attempts.left()))
            return self._http.send(request, stream=True)

    def _read(self, response: httpx.Response, attempts: Attempts) -> Reply:
        parts = []
        with transport_errors(self._address):
            try:
                for part in response.iter_bytes():
                    attempts.left()
                    parts.append(part)
            finally:
                response.close()
        return Reply(response.headers, response.status_code, b"".join(parts))
