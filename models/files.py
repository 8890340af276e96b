"""Writing files that others read or write at the same time."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_whole(file: Path, content: bytes, mode: int = 0o644) -> None:
    """Replace ``file`` by ``content`` in one step, so that no reader ever sees half of it.

    A link is followed, and remains. An existing file keeps its owner and its mode.

    Args:
        file: its folder is created if it does not exist.
        content: the whole new content.
        mode: of a new file.

    Raises:
        OSError: it cannot be written; names it, and leaves it unchanged.
    """
    target = _target(file)
    name = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as stream:
            with suppress(FileNotFoundError):
                former = target.stat()
                mode = former.st_mode & 0o7777
                with suppress(PermissionError):  # another user's file
                    os.fchown(handle, former.st_uid, former.st_gid)
            os.fchmod(handle, mode)
            stream.write(content)
            stream.flush()
            os.fsync(handle)
        os.replace(name, target)
    except BaseException as error:
        if name:
            Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(file)) from None
        raise


@contextmanager
def locked(file: Path, wait: bool = True) -> Iterator[None]:
    """Keep other callers of this function from changing ``file`` or others in its folder.

    The lock is on the folder: files are replaced, and a lock on a file would go with it.

    Args:
        file: its folder is created if it does not exist.
        wait: whether to wait until the present holder is done.

    Raises:
        BlockingIOError: another process holds the lock, and ``wait`` is false.
        OSError: the folder can be neither opened nor created.
    """
    folder = _target(file).parent
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


def _target(file: Path) -> Path:
    """Return where a link leads, whether or not that exists.

    Raises:
        OSError: links lead in a circle.
    """
    try:
        return file.resolve()
    except RuntimeError as error:
        raise OSError(None, str(error), str(file)) from None
