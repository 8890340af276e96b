"""Why a worker failed, as one sentence for whoever has to do something about it."""

import signal

_LONGEST = 400
# What each says beside the kernel's or Python's own words, and what to do about it.
_MEMORY = "give the service more memory, serve fewer or smaller models, or start fewer workers"
_SIGNALS = {
    signal.SIGKILL: f"; the kernel kills a process so when memory runs out: {_MEMORY}",
    signal.SIGILL: "; a library was built for another processor than this one",
}
_NO_MEMORY = ("can't allocate memory", "cannot allocate memory", "out of memory", "bad_alloc")


def explain(error: BaseException, device: str) -> str:
    """Say why a worker cannot load its models.

    Args:
        error: what was raised.
        device: on which it was to run them.
    """
    said = _shorten(str(error))
    if isinstance(error, MemoryError) or any(word in said.lower() for word in _NO_MEMORY):
        return f"there is not enough memory ({said or type(error).__name__}): {_MEMORY}"
    if isinstance(error, ImportError):
        return f"{said}: install what PixelDP needs into the Python environment that it runs in"
    if device.startswith("cuda") and isinstance(error, RuntimeError | AssertionError):
        return f"{said}: see what nvidia-smi says, or do without a GPU by --devices cpu"
    if isinstance(error, ValueError | OSError | RuntimeError) and said:
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def explain_exit(code: int | None, last_line: str) -> str:
    """Say what a worker that gave no reason ended with.

    Args:
        code: its exit status; below 0 the signal that ended it; None if nothing did.
        last_line: the last that it wrote to standard error.
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
