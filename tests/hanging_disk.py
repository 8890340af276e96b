"""A hanging disk, made with FUSE: a folder with one file whose readers wait for ever.

The kernel does not release a process that waits for such a disk, not even on SIGKILL, as happens
with network and broken disks. Mounting needs Linux and the right to do it.
"""

import contextlib
import ctypes
import errno
import os
import stat
import struct
import threading
from pathlib import Path

_HEADER = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_ATTRIBUTES = struct.Struct("<QQQQQQIIIIIIIIII")
# Operations that the kernel requests, from its header linux/fuse.h.
_READ, _FORGET, _INTERRUPT, _BATCH_FORGET = 15, 2, 36, 42
_SILENT = {_FORGET, _INTERRUPT, _BATCH_FORGET}
_FORCE, _DETACH = 1, 2
_libc = ctypes.CDLL(None, use_errno=True)


class CannotMountError(OSError):
    """The system does not support mounting, or does not allow it."""


class HangingDisk:
    """Serves copies of the files of ``source`` at ``folder``, and never the content of ``hangs``.

    Raises:
        CannotMountError: it cannot be mounted.
    """

    def __init__(self, source: Path, folder: Path, hangs: str) -> None:
        self.folder, self._hangs = folder, hangs
        self._files = [(one.name, one.read_bytes()) for one in source.iterdir() if one.is_file()]
        self.asked = threading.Event()
        folder.mkdir(exist_ok=True)
        try:
            self._device = os.open("/dev/fuse", os.O_RDWR)
        except OSError as error:
            raise CannotMountError(error.errno, error.strerror) from None
        options = f"fd={self._device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
        given = (b"hanging", bytes(folder), b"fuse", 0, options.encode())
        if _libc.mount(*given):
            os.close(self._device)
            raise CannotMountError(ctypes.get_errno(), "mount")
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Release all waiting processes: their reads fail."""
        _libc.umount2(bytes(self.folder), _FORCE)  # this at least breaks the connection
        _libc.umount2(bytes(self.folder), _DETACH)
        with contextlib.suppress(OSError):
            os.close(self._device)

    def _serve(self) -> None:
        while True:
            try:
                asked = os.read(self._device, 2**20)
            except OSError:
                return
            _, code, unique, node, *_ = _HEADER.unpack_from(asked)
            body = asked[_HEADER.size :]
            if code in _SILENT:
                continue
            if code == _READ and self._files[node - 2][0] == self._hangs:
                self.asked.set()
                continue
            try:
                told, failure = self._answer(code, node, body), 0
            except OSError as error:
                told, failure = b"", -(error.errno or errno.EIO)
            head = _OUT.pack(_OUT.size + len(told), failure, unique)
            with contextlib.suppress(OSError):
                os.write(self._device, head + told)

    def _answer(self, code: int, node: int, body: bytes) -> bytes:
        match code:
            case 26:  # INIT: the version and the limits
                return struct.pack("<IIIIHHI", 7, 31, 0, 0, 16, 16, 2**16) + bytes(40)
            case 1:  # LOOKUP
                names = [name for name, _ in self._files]
                name = body.rstrip(b"\0").decode()
                if name not in names:
                    raise OSError(errno.ENOENT, name)
                found = names.index(name) + 2
                return struct.pack("<QQQQII", found, 0, 60, 60, 0, 0) + self._attributes(found)
            case 3:  # GETATTR
                return struct.pack("<QII", 60, 0, 0) + self._attributes(node)
            case 14 | 27:  # OPEN, OPENDIR
                return struct.pack("<QII", 1, 0, 0)
            case 15:  # READ
                _, offset, size = struct.unpack_from("<QQI", body)
                return self._files[node - 2][1][offset : offset + size]
            case 28:  # READDIR
                return self._entries(struct.unpack_from("<QQ", body)[1])
            case 18 | 25 | 29:  # RELEASE, FLUSH, RELEASEDIR
                return b""
        raise OSError(errno.ENOSYS, str(code))

    def _attributes(self, node: int) -> bytes:
        mode, size = stat.S_IFDIR | 0o755, 0
        if node > 1:
            mode, size = stat.S_IFREG | 0o644, len(self._files[node - 2][1])
        owner = os.getuid(), os.getgid()
        return _ATTRIBUTES.pack(node, size, 1, 0, 0, 0, 0, 0, 0, mode, 1, *owner, 0, 4096, 0)

    def _entries(self, offset: int) -> bytes:
        told = b""
        for number, (name, _) in enumerate(self._files[offset:], offset):
            encoded = name.encode()
            entry = struct.pack("<QQII", number + 2, number + 1, len(encoded), 8) + encoded
            told += entry + bytes(-len(entry) % 8)
        return told
