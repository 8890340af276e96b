"""Why a worker failed, as one sentence for the operator."""

import signal

_LONGEST = 400
# Advice for each reason, in addition to the kernel's or Python's own message.
_MEMORY = "give the service more memory, serve fewer or smaller models, or start fewer workers"
_SIGNALS = {
    signal.SIGKILL: f"; the kernel kills a process so when memory runs out: {_MEMORY}",
    signal.SIGILL: "; a library was built for another processor than this one",
}
_NO_MEMORY = ("can't allocate memory", "cannot allocate memory", "out of memory", "bad_alloc")


def explain(error: BaseException, device: str) -> str:
    """Say why a worker cannot load its models.

    Args:
        error: the exception.
        device: the device for the models.
    """
    said = _shorten(str(error))
    if isinstance(error, MemoryError) or any(word in said.lower() for word in _NO_MEMORY):
        return f"there is not enough memory ({said or type(error).__name__}): {_MEMORY}"
    if isinstance(error, ImportError):
        return f"{said}: install PixelDP's dependencies into the Python environment in which "
        "it runs"
    if device.startswith("cuda") and isinstance(error, RuntimeError | AssertionError):
        return f"{said}: check nvidia-smi, or use no GPU with --devices cpu"
    if isinstance(error, ValueError | OSError | RuntimeError) and said:
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def explain_exit(code: int | None, last_line: str) -> str:
    """Say how a worker ended that gave no reason.

    Args:
        code: its exit status; below 0 the signal that ended it; None if it did not end.
        last_line: the last line that it wrote to standard error.
    """
    if code is None:
        return "it cannot be ended: see what the kernel says (dmesg)"
    said = f" ({_shorten(last_line)})" if last_line else ""
    if code >= 0:
        return f"it ended with exit status {code}{said or ', without a word'}"
    try:
        ended = signal.Signals(-code)
    except ValueError:
        return f"signal {-code} ended it{said}"
    return f"{ended.name} ended it{said}{_SIGNALS.get(ended, '')}"


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
