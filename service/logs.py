"""Logs: structured, as JSON lines or for a person at a console, on standard error."""

import logging
import os
import re
import sys
from typing import Any, Literal

import structlog

from service.keys import PREFIX

_KEY = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")
_WORD = ("PIXELDP_LOG_FORMAT", "PIXELDP_LOG_LEVEL")


def _without_keys(_: Any, __: str, line: Any) -> str:
    """Cut keys out of a line that is about to be written, however they came to be in it."""
    return _KEY.sub(f"{PREFIX}***", str(line))


def configure_from_environment() -> None:
    """Set up logging in a worker as its front process did: it leaves word in the environment."""
    form, level = (os.environ[name] for name in _WORD)
    configure("console" if form == "console" else "json", level)


def configure(form: Literal["auto", "console", "json"], level: str) -> None:
    """Set up logging for the process.

    Args:
        form: ``auto`` is ``console`` at a terminal and ``json`` elsewhere.
        level: the least severe level that is written.
    """
    if form == "auto":
        form = "console" if sys.stderr.isatty() else "json"
    os.environ |= dict(zip(_WORD, (form, level), strict=True))
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    # The console's own choice of tracebacks shows local variables, and with them keys and pictures.
    console = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    last: list[structlog.types.Processor] = [
        *(
            [console]
            if form == "console"
            else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        ),
        _without_keys,
    ]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
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
