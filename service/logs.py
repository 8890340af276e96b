"""Logs: structured, as JSON lines or for a person at a console, on standard error."""

import logging
import os
import sys
from typing import Literal

import structlog

_WORD = ("PIXELDP_LOG_FORMAT", "PIXELDP_LOG_LEVEL")


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
    last: list[structlog.types.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if form == "console"
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
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
