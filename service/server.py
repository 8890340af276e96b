"""Running the application: the socket, the signals, the exit code."""

import contextlib
import os
import shlex
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import setproctitle
import uvicorn

from service import logs
from service.app import create_app
from service.engine.engine import Engine
from service.settings import Settings

SAMPLE = Path(__file__).parents[1] / "examples" / "7.png"


# Connections that may wait to be accepted.
BACKLOG = 2048
MAX_HEADER_BYTES = 64 * 1024
# After a signal to stop, what is in flight has so long; uploads that never end have no longer.
DRAIN_SECONDS = 35


class CannotServeError(ValueError):
    """The service cannot start, or cannot go on: says why."""


class _Server(uvicorn.Server):
    """uvicorn, but a signal to stop is not an error: it drains and exits with 0."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self._engine = engine

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop: readiness fails at once, what is in flight is still answered."""
        self._engine.draining = True
        super().handle_exit(sig, frame)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Have SIGINT and SIGTERM stop the server, and nothing more."""
        signals = (signal.SIGINT, signal.SIGTERM)
        former = {one: signal.signal(one, self.handle_exit) for one in signals}
        try:
            yield
        finally:
            for one, handler in former.items():
                signal.signal(one, handler)


def serve(settings: Settings) -> None:
    """Serve until a signal to stop.

    Args:
        settings: checked settings.

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
        print(_announcement(listener), file=sys.stderr, flush=True)
        config = uvicorn.Config(
            app,
            loop="uvloop",
            # Slower than httptools, which loses the body of a request that offers an upgrade, as
            # Java's and curl's HTTP/2 clients do; and it bounds the size of headers.
            http="h11",
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            timeout_graceful_shutdown=DRAIN_SECONDS,
            backlog=BACKLOG,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
        )
        _Server(config, app.state.engine).run(sockets=[listener])
    if reasons:
        raise CannotServeError(reasons[0])


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)  # from now on clients wait instead of being refused
    except OSError as error:
        listener.close()
        reason = f"cannot listen on {host}:{port} ({error.strerror}); choose another with --port"
        raise CannotServeError(reason) from None
    return listener


def _announcement(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    address = f"http://{host}:{port}"
    lines = [f"PixelDP answers on {address} (interactive documentation: {address}/docs)"]
    if SAMPLE.is_file():
        lines += [
            "Certify a picture:",
            f"  curl --data-binary @{shlex.quote(str(SAMPLE))} -H 'Content-Type: image/png' "
            f"'{address}/predict?target=0.5'",
        ]
    return "\n".join(lines)
