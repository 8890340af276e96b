"""The worker's end of the socket pair."""

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
        self._decoder = messages.Decoder()

    def receive(self, wait: float | None) -> Iterator[tuple[messages.Message, bytes]]:
        """Yield the received messages, waiting up to ``wait`` seconds for them; None: for ever.

        Raises:
            FrontGoneError: the front process is gone.
        """
        while self._poll.poll(None if wait is None else 1000 * wait):
            try:
                data = self._socket.recv(_CHUNK)
            except OSError:
                raise FrontGoneError from None
            if not data:
                raise FrontGoneError
            for message, payload in self._decoder.feed(data):
                assert not isinstance(message, messages.SealedAnswer)  # workers alone send them
                yield message, payload
            wait = 0.0

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
