"""Running the application: the socket, the signals, the exit code."""

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator

import setproctitle
import uvicorn

from service import logs
from service.app import create_app
from service.settings import Settings


class CannotServeError(Exception):
    """The service cannot start, or cannot go on: says why."""


class _Server(uvicorn.Server):
    """uvicorn, but a signal to stop is not an error: it drains and exits with 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Have SIGINT and SIGTERM stop the server, and nothing more."""
        former = {sig: signal.signal(sig, self.handle_exit) for sig in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sig, handler in former.items():
                signal.signal(sig, handler)


def serve(settings: Settings, announce: str) -> None:
    """Serve until a signal to stop.

    Args:
        settings: checked settings.
        announce: printed once the socket is open; ``{address}`` stands for the service's address.

    Raises:
        CannotServeError: the address is taken, or a worker cannot load its models.
        BundleError: a model's bundle cannot be trusted.
    """
    setproctitle.setproctitle("pixeldp-front")
    logs.configure(settings.log_format, settings.log_level)
    reasons: list[str] = []

    def broken(reason: str) -> None:
        reasons.append(reason)
        os.kill(os.getpid(), signal.SIGTERM)

    app = create_app(settings, broken)
    with _bind(settings.host, settings.port) as listener:
        host, port = listener.getsockname()[:2]
        print(announce.format(address=f"http://{host}:{port}"), file=sys.stderr, flush=True)
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http="httptools",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
        )
        _Server(config).run(sockets=[listener])
    if reasons:
        raise CannotServeError(reasons[0])


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        reason = f"cannot listen on {host}:{port} ({error.strerror}); choose another with --port"
        raise CannotServeError(reason) from None
    return listener
