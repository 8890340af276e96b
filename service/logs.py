"""Structured logs on standard error, as JSON lines or for a person at a console.

Logging never waits for the reader of the log (``service/system/outlet.py``). Everything that
workers write, their own log lines as well as prints of libraries, reaches the front process through
pipes, and from there goes the same way.
"""

import atexit
import logging
import os
import re
import sys
from typing import Any, Literal, cast

import structlog

from service.http.guards.keys import PREFIX
from service.system.outlet import Outlet

_KEY = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")
# How a worker logs: form, level and colours, set by its front process.
_WORD = "PIXELDP_WORKER_LOG"

log = structlog.get_logger(__name__)


class _Lines:
    """A logger that writes each line as a whole, to the present standard error."""

    def msg(self, line: str) -> None:
        """Write a line."""
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    debug = info = warning = error = critical = msg


def _without_keys(_: Any, __: str, line: Any) -> str:
    """Remove keys from a line before it is written, however they got into it."""
    return _KEY.sub(f"{PREFIX}***", str(line))


def open_outlet() -> Outlet:
    """Send everything that this process writes to standard output and error through an outlet."""

    def tell(count: int) -> None:
        log.warning("lines of the log were dropped", lines=count)

    outlet = Outlet(2, tell)
    sys.stdout = sys.stderr = cast(Any, outlet)
    atexit.register(outlet.close)
    return outlet


def configure_worker() -> None:
    """Set up logging in a worker as in its front process."""
    form, level, colours = os.environ[_WORD].split()
    configure("console" if form == "console" else "json", level, colours == "True")


def configure(
    form: Literal["auto", "console", "json"], level: str, colours: bool | None = None
) -> None:
    """Set up logging for the process.

    Args:
        form: ``auto`` is ``console`` at a terminal and ``json`` elsewhere.
        level: the lowest level that is written.
        colours: of the console; None means only at a terminal.
    """
    if form == "auto":
        form = "console" if sys.stderr.isatty() else "json"
    colours = sys.stderr.isatty() if colours is None else colours
    _Shared.form, _Shared.word = form, f"{form} {level} {colours}"
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    # By default the console's tracebacks show local variables, and with them keys and pictures.
    console = structlog.dev.ConsoleRenderer(
        colors=colours, exception_formatter=structlog.dev.plain_traceback
    )
    json = structlog.processors.format_exc_info, structlog.processors.JSONRenderer()
    last: list[structlog.types.Processor] = [
        *([console] if form == "console" else json),
        _without_keys,
    ]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_: _Lines(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers, root.level = [handler], logging.WARNING
    logging.captureWarnings(True)


class _Shared:
    """How this process logs, for its workers."""

    form, word = "json", "json info False"


def worker_environment() -> dict[str, str]:
    """Return the additions to a worker's environment that make it log like this process."""
    return {_WORD: _Shared.word}


def pass_on(worker: str, line: str) -> None:
    """Write a line that a worker wrote.

    Lines of its log are passed on unchanged. Other lines, of libraries or of Python when it fails,
    become lines of the log if that is JSON.
    """
    if _Shared.form == "console" or line.startswith("{"):
        sys.stderr.write(f"{_without_keys(None, '', line)}\n")
        sys.stderr.flush()
    else:
        log.warning("worker wrote", worker=worker, line=line)
