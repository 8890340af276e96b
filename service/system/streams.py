"""Standard input, output and error as they come: closed, 8-bit, full, or with nobody who reads."""

import codecs
import io
import os
import sys
from contextlib import suppress
from typing import Any

# The exit status where nobody reads what is written: there is nobody to be told, either.
NOBODY_READS = 1

_ERRORS = "pixeldp.streams"


class _Output(io.FileIO):
    """Standard output: errors say that it is it."""

    def write(self, data: Any) -> int:
        """Write what can be written now."""
        try:
            return super().write(data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, "standard output") from None


class _Error(io.FileIO):
    """Standard error: what it does not take is lost, and whoever wrote it goes on."""

    def write(self, data: Any) -> int:
        """Write what can be written."""
        with suppress(OSError):
            return super().write(data)
        return memoryview(data).nbytes


def prepare() -> None:
    """Make the standard streams ones that can be written to, whatever a command has to say.

    A closed descriptor would be given to the next file that is opened, and messages written into
    that. A text that its encoding lacks characters for is written with escapes in their place; file
    names come out as the bytes that they are.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            os.dup2(opened, descriptor)
            if opened != descriptor:
                os.close(opened)
            os.set_inheritable(descriptor, True)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(_Output(1, "w", closefd=False), sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(_Error(2, "w", closefd=False), sys.stderr)


def _text(raw: io.FileIO, former: Any) -> io.TextIOWrapper:
    """Write text into ``raw``, in the encoding and at the times that ``former`` did, if any."""
    encoding = former.encoding if former else None
    lines = former.line_buffering if former else True
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, _ERRORS, None, lines)


def finish(status: int) -> int:
    """Write what is left of standard output, and return the exit status.

    Args:
        status: if everything is written.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard()
        return status or NOBODY_READS
    except OSError as error:
        _discard()
        if not status:
            print(f"pixeldp: {error.filename}: {error.strerror}", file=sys.stderr)
        return status or 1
    return status


def _discard() -> None:
    """Let what is left go nowhere, or Python would try to write it once more at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":  # a byte of a file's name, which is in no encoding
        return bytes([ord(character) - 0xDC00]), error.start + 1
    error.end = error.start + 1
    return codecs.backslashreplace_errors(error)


codecs.register_error(_ERRORS, _escaped)
