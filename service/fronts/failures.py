"""Exceptions as the main process tells them to a front, whose clients read them."""

from pathlib import Path
from typing import Any

from models.bundle import BundleError
from service.catalogue import UnknownModelError
from service.decoding.decoders import REFUSALS, DecoderLostError, NoMemoryError, RefusedError
from service.decoding.queue import FullError
from service.engine import errors


class NotAdmittedError(Exception):
    """The front does not want a large picture to be decoded."""


# Those with one argument, a sentence.
_PLAIN: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        errors.NotReadyError,
        errors.OverloadedError,
        errors.CannotEncodeError,
        errors.ModelFailedError,
        errors.ModelGoneError,
        errors.LoadError,
        errors.WorkersLostError,
        DecoderLostError,
        FullError,
        NoMemoryError,
        UnknownModelError,
    )
}
_REFUSALS = {kind.__name__: kind for kind in REFUSALS}


# What is told as it is.
TOLD = (*_PLAIN.values(), errors.DeadlineError, RefusedError, BundleError, NotAdmittedError)


class MainProcessError(Exception):
    """The main process failed; its log says how."""


def tell(error: Exception) -> list[Any]:
    """Return an exception in a form that can be sent."""
    name = type(error).__name__
    match error:
        case errors.DeadlineError():
            return [name, str(error), error.draws]
        case RefusedError():
            return [name, error.cause.__name__, str(error), error.limit]
        case BundleError():
            return [name, str(error.file), error.field, error.reason]
    return [name, str(error)]


def restore(told: list[Any]) -> Exception:
    """Return the exception that was told."""
    match told:
        case ["DeadlineError", text, draws]:
            return errors.DeadlineError(text, draws)
        case ["RefusedError", cause, text, limit]:
            return RefusedError(_REFUSALS[cause], text, limit)
        case ["BundleError", file, field, reason]:
            return BundleError(Path(file), field, reason)
        case [name, text] if name in _PLAIN:
            return _PLAIN[name](text)
    return MainProcessError(": ".join(map(str, told)))
