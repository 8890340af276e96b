"""The worker's end of the socket pair."""

import contextlib
import os
import select
import socket
from collections.abc import Iterator

from service.engine import messages

_CHUNK = 1 << 20


class FrontGoneError(Exception):
    """The other end of the socket is closed."""


class Channel:
    """Messages from and to the front process."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        # Its descriptor may have a number that select() cannot handle: above 1,023.
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._woken, self._wakes = os.pipe()
        os.set_blocking(self._wakes, False)
        self._poll.register(self._woken, select.POLLIN)
        self._decoder = messages.Decoder()

    def wake(self) -> None:
        """Have :meth:`receive` return, now or at its next call; any thread may call this."""
        with contextlib.suppress(BlockingIOError):  # then it is woken already
            os.write(self._wakes, b"w")

    def receive(self, wait: float | None) -> Iterator[tuple[messages.Message, bytes]]:
        """Yield the received messages, waiting up to ``wait`` seconds for them; None: for ever.

        Being woken ends the waiting.

        Raises:
            FrontGoneError: the front process is gone.
        """
        while ready := dict(self._poll.poll(None if wait is None else 1000 * wait)):
            wait = 0.0
            if self._woken in ready:
                os.read(self._woken, _CHUNK)
            if self._socket.fileno() not in ready:
                return
            try:
                data = self._socket.recv(_CHUNK)
            except OSError:
                raise FrontGoneError from None
            if not data:
                raise FrontGoneError
            for message, payload in self._decoder.feed(data):
                assert not isinstance(message, messages.SealedAnswer)  # workers alone send them
                yield message, payload

    def send(self, *outgoing: messages.Message) -> None:
        """Send messages in order.

        Raises:
            FrontGoneError: the front process is gone.
        """
        if outgoing:
            try:
                self._socket.sendall(b"".join(map(messages.encode, outgoing)))
            except OSError:
                raise FrontGoneError from None
