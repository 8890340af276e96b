"""Standard input, output and error in any state: closed, 8-bit, full, or without a reader."""

import codecs
import io
import os
import sys
from contextlib import suppress
from typing import Any

# The exit status if nobody reads the output: then nobody would read an error, either.
NOBODY_READS = 1

_ERRORS = "pixeldp.streams"


class _Output(io.FileIO):
    """Standard output, whose errors name it."""

    def write(self, data: Any) -> int:
        """Write what can be written now."""
        try:
            return super().write(data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, "standard output") from None


class _Error(io.FileIO):
    """Standard error: what cannot be written is lost, and the writer continues."""

    def write(self, data: Any) -> int:
        """Write what can be written."""
        with suppress(OSError):
            return super().write(data)
        return memoryview(data).nbytes


def prepare() -> None:
    """Make the standard streams writable, whatever a command has to say.

    A closed descriptor would be given to the next file that is opened, and messages would be
    written into that file. Characters that the encoding lacks are written as escapes; file names
    are written as their bytes.
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
    """Write text into ``raw``, with the encoding and buffering of ``former``, if any."""
    encoding = former.encoding if former else None
    # What Python is asked to write unbuffered (PYTHONUNBUFFERED) is written line by line.
    lines = former.line_buffering or former.write_through if former else True
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, _ERRORS, None, lines)


def finish(status: int) -> int:
    """Write the rest of standard output, and return the exit status.

    Args:
        status: the exit status if everything is written.
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
    """Discard the rest, or Python would try to write it once more at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":  # a byte of a file's name that cannot be decoded
        return bytes([ord(character) - 0xDC00]), error.start + 1
    error.end = error.start + 1
    return codecs.backslashreplace_errors(error)


codecs.register_error(_ERRORS, _escaped)
