"""Errors of the engine."""


class EngineError(Exception):
    """Why there is no answer.

    ├── NotReadyError       no worker has been ready yet
    ├── OverloadedError     the queue is full
    ├── DeadlineError       the deadline came before the first look
    ├── CannotEncodeError   the model cannot take this picture
    ├── ModelFailedError    the model failed on this picture
    ├── ModelGoneError      the model is no longer served
    ├── LoadError           a worker could not load a model
    └── WorkersLostError    workers died while they ran this picture
    """


class NotReadyError(EngineError):
    """No worker has been ready yet."""


class OverloadedError(EngineError):
    """The queue is full."""


class DeadlineError(EngineError):
    """The deadline came before the first look; says after how many draws."""

    def __init__(self, reason: str, draws: int = 0) -> None:
        super().__init__(reason)
        self.draws = draws


class CannotEncodeError(EngineError):
    """The model cannot take this picture."""


class ModelFailedError(EngineError):
    """The model failed on this picture."""


class ModelGoneError(EngineError):
    """The model is no longer served."""


class LoadError(EngineError):
    """A worker could not load a model."""


class WorkersLostError(EngineError):
    """Workers died while they ran this picture."""
