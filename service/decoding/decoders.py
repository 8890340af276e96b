"""The front's side of decoding: large pictures in processes."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any

import structlog

from models.images.decoding import Size
from models.images.errors import CannotCertifyPicture, NotAPicture, TooManyPixels
from models.preprocessing import CannotCertify
from service import logs
from service.decoding.queue import FairQueue
from service.decoding.reduction import BYTES_A_PIXEL, Reduced, Task
from service.decoding.small import SmallPictures
from service.engine.failures import explain_exit
from service.http.guards.budget import File
from service.system import background
from service.system.processes import is_stopped
from service.system.programs import environment, python

log = structlog.get_logger(__name__)

DECODERS = 2
# A longer line of a process is logged in pieces.
_LONGEST_LINE = 2**14
# The memory that libraries need to work, besides the picture and the file.
SPARE_BYTES = 256 * 2**20
# How long a picture for which nobody waits any more may occupy a decoder.
LEFT_SECONDS = 5.0
# How often a picture is tried if its decoder dies.
_TRIES = 2
# The seconds between checks whether decoders have ended, and the most after many ends in a row.
_LOOK_SECONDS, _LONGEST_SECONDS = 0.25, 5.0
# A process is given up if it is found stopped in this many checks in a row: when the whole service
# is stopped and continued, the front may be the first to run.
_STOPPED_LOOKS = 4
# What a process says if it had too little memory.
_MEMORY = MemoryError.__name__


# Called with a picture's size before it is decoded.
Admit = Callable[[Size], Awaitable[None] | None]


class DecoderLostError(Exception):
    """Decoders died over this picture."""


class NoMemoryError(Exception):
    """A decoder had too little memory for this picture."""


class RefusedError(Exception):
    """A picture is refused by a process.

    Args:
        cause: the error in the process, one of ``REFUSALS``.
        detail: what was wrong.
        limit: of pixels, if there were too many.
    """

    def __init__(self, cause: type[Exception], detail: str, limit: int | None) -> None:
        super().__init__(detail)
        self.cause, self.limit = cause, limit


REFUSALS = (NotAPicture, TooManyPixels, CannotCertifyPicture, CannotCertify)


class Decoders:
    """The processes that decode large pictures, and the pictures that wait for them.

    Args:
        max_pixels: of a picture; decoders have memory for one such, or for several smaller ones at
            once.
        most: the number of pictures that may wait.
        max_bytes: of a file.
        on_broken: called with the reason when a process ends at its start, and none has started.

    Attributes:
        trouble: why the last idle process ended; empty once another starts.
    """

    def __init__(
        self,
        max_pixels: int,
        max_bytes: int,
        most: int,
        on_broken: Callable[[str], None],
    ) -> None:
        self.queue = FairQueue(DECODERS, most)
        self._on_broken = on_broken
        self._started, self._failures = False, 0
        self._small = SmallPictures()
        self._memory = BYTES_A_PIXEL * max_pixels
        self._held = 0
        self._freed = asyncio.Condition()
        bound = self._memory + 2 * max_bytes + SPARE_BYTES
        self._idle = [_Decoder(f"decoder{number}", bound) for number in range(DECODERS)]
        self._decoders = {decoder.name: decoder for decoder in self._idle}
        self._works: set[asyncio.Task[Reduced]] = set()
        self._threads = ThreadPoolExecutor(DECODERS, "decoders")
        self.trouble = ""
        self._keeping = background.keep("the supervision of decoders", self._keep, on_broken)

    @property
    def ready(self) -> bool:
        """Whether large pictures are decoded now, and more may wait."""
        return not self.queue.full and any(one.alive for one in self._decoders.values())

    def close(self) -> None:
        """End the processes."""
        self._keeping.cancel()
        for decoder in self._decoders.values():
            decoder.kill()
        self._threads.shutdown()
        self._small.close()

    async def _keep(self) -> None:
        """Start processes again that end while they are idle, for as long as this runs."""
        while True:
            # If one ends again and again, the pauses before it is tried again grow.
            await asyncio.sleep(min(_LOOK_SECONDS * 2**self._failures, _LONGEST_SECONDS))
            if any(decoder.started for decoder in self._idle):
                self._started, self._failures, self.trouble = True, 0, ""
            for decoder in self._decoders.values():
                decoder.end_if_stopped()
            for decoder in [one for one in self._idle if not one.alive]:
                self._failures += 1
                self.trouble = f"{decoder.name}: {decoder.end}"
                log.error("decoder died", decoder=decoder.name, reason=decoder.end)
                if not self._started:
                    self._on_broken(f"a decoder cannot start: {self.trouble}")
                    return
                self._idle[self._idle.index(decoder)] = self._next(decoder)

    def _next(self, decoder: "_Decoder") -> "_Decoder":
        """Return the decoder of the next picture in a decoder's place.

        If no process can be started, it is the one that has ended, which is tried again later.
        """
        try:
            self._decoders[decoder.name] = decoder = decoder.successor()
        except OSError as error:
            self.trouble = f"{decoder.name}: no process can be started ({error.strerror})"
            log.error("decoder cannot start", decoder=decoder.name, reason=error.strerror)
        return decoder

    async def reduce(
        self, file: File, task: Task, owner: Hashable, admit: Callable[[Size], None]
    ) -> Reduced:
        """Decode a picture, and release its file.

        Args and errors are those of :meth:`reduce_large`.
        """
        small = await self._small.reduce(file, task, admit)
        return small or await self.reduce_large(file, task, owner, admit)

    async def reduce_large(self, file: File, task: Task, owner: Hashable, admit: Admit) -> Reduced:
        """Decode a picture in a process, and release its file.

        When this is cancelled, the process that decodes it has a little longer before it is ended.

        Args:
            file: as it was sent.
            task: what to make of it.
            owner: the client that is charged, and whose turn it is.
            admit: called with the picture's size before it is decoded; may raise, or return
                something to await, which may.

        Raises:
            PictureError: it is refused; from a process, that is RefusedError.
            CannotCertify: likewise.
            FullError: too many wait for a decoder.
            NoMemoryError: there is too little memory for it.
            DecoderLostError: decoders died over it.
        """
        case = _Case(file, task, owner, admit)
        work = asyncio.create_task(self._in_process(case))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # The process may finish: starting one takes longer than decoding most pictures.
            file.release()
            case.left = True
            if case.decoder is None:
                work.cancel()
            else:
                asyncio.get_running_loop().call_later(LEFT_SECONDS, case.give_up, case.decoder)
            self._works.add(work)
            work.add_done_callback(self._forget)
            raise

    def _forget(self, work: "asyncio.Task[Reduced]") -> None:
        self._works.discard(work)
        if not work.cancelled():
            work.exception()  # nobody waits for it

    async def _in_process(self, case: "_Case") -> Reduced:
        admitted = False

        async def admit_once(size: Size) -> None:
            nonlocal admitted
            if not admitted:
                waits = case.admit(size)
                if waits is not None:
                    await waits
                self.queue.count(case.owner, size.work + case.file.size)
            admitted = True

        async with self.queue.turn(case.owner):
            for _ in range(_TRIES):
                decoder = case.decoder = self._next(self._idle.pop())
                try:
                    reduced = await self._converse(decoder, case.file, case.task, admit_once)
                    case.file.release()
                    return reduced
                except (EOFError, OSError):
                    if case.left:
                        break
                    log.error("decoder died", decoder=decoder.name)
                finally:
                    case.decoder = None
                    self._idle.append(self._next(decoder))
        raise DecoderLostError(f"{_TRIES} decoders died over this picture")

    async def _converse(
        self,
        decoder: "_Decoder",
        file: File,
        task: Task,
        admit: Callable[[Size], Awaitable[None]],
    ) -> Reduced:
        """Have one picture decoded; if anything goes wrong, the process is ended."""
        run = asyncio.get_running_loop().run_in_executor
        whole = False
        try:
            told = await run(self._threads, decoder.ask, asdict(task), file)
            whole = told.get("refused", _MEMORY) != _MEMORY
            size = Size(**_accepted(told))
            try:
                await admit(size)
            except BaseException:
                decoder.forget()
                whole = True
                raise
            async with self._memory_for(size):
                told, content = await run(self._threads, decoder.go_on)
                whole = told.get("refused") != _MEMORY
                return Reduced(**_accepted(told), content=content)
        finally:
            if not whole:
                decoder.kill()

    @contextlib.asynccontextmanager
    async def _memory_for(self, size: Size) -> AsyncIterator[None]:
        """Wait for memory for a picture besides those being decoded; a single one always fits."""
        need = BYTES_A_PIXEL * size.pixels
        async with self._freed:
            await self._freed.wait_for(lambda: not self._held or self._held + need <= self._memory)
            self._held += need
        try:
            yield
        finally:
            self._held -= need
            async with self._freed:
                self._freed.notify_all()


def _accepted(told: dict[str, Any]) -> dict[str, Any]:
    """Return a decoder's answer about a picture.

    Raises:
        RefusedError: it refuses the picture.
        NoMemoryError: it has too little memory.
    """
    refused = told.get("refused")
    if refused is None:
        return told
    if refused == _MEMORY:
        raise NoMemoryError
    cause = next(error for error in REFUSALS if error.__name__ == refused)
    raise RefusedError(cause, told["detail"], told["limit"])


@dataclass
class _Case:
    """A picture on its way through a decoder.

    Attributes:
        decoder: the decoder that has it, if any.
        left: whether nobody waits for it any more.
    """

    file: File
    task: Task
    owner: Hashable
    admit: Admit
    decoder: "_Decoder | None" = None
    left: bool = False

    def give_up(self, decoder: "_Decoder") -> None:
        """End a decoder if it still has this picture."""
        if self.decoder is decoder:
            decoder.kill()


class _Decoder:
    """One process.

    Args:
        name: of the process.
        memory: the bytes that it may allocate.
    """

    def __init__(self, name: str, memory: int) -> None:
        self.name, self._bound = name, memory
        self._ended = self._greeted = False
        self._stopped_looks = 0
        self._last_line = ""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                python(
                    "service.decoding.process",
                    *("--name", self.name, "--fd", str(theirs.fileno())),
                    *("--memory", str(self._bound)),
                ),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                # One thread: the stacks of more would count as memory, and they would use others'
                # cores.
                env={**environment(), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        self._link = Connection(ours.detach())
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        """Log what the process writes, until its end; it never waits for the log's reader."""
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in iter(lambda: lines.readline(_LONGEST_LINE), b""):
                text = line.decode(errors="backslashreplace").rstrip()
                if text:
                    self._last_line = text
                    logs.pass_on(self.name, text)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return not self._ended and self._process.poll() is None

    @property
    def started(self) -> bool:
        """Whether the process has loaded what it needs."""
        return self._greeted or (self.alive and self._link.poll())

    @property
    def end(self) -> str:
        """Return how the process ended."""
        code = self._process.poll()
        return "it is being ended" if code is None else explain_exit(code, self._last_line)

    def end_if_stopped(self) -> None:
        """End the process if it is stopped, as by SIGSTOP, in several checks in a row.

        Another process can redo its work, and those who wait for it might wait for long.
        """
        stopped = self.alive and is_stopped(self._process.pid)
        self._stopped_looks = self._stopped_looks + 1 if stopped else 0
        if self._stopped_looks >= _STOPPED_LOOKS:
            log.error("decoder is stopped, and ended", decoder=self.name)
            self.kill()

    def kill(self) -> None:
        """Kill the process, without waiting for its end."""
        self._ended = True
        self._process.kill()
        # A thread that waits for its answer need not wait until the kernel has ended it.
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._link.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)
        threading.Thread(target=self._process.wait, daemon=True).start()

    def successor(self) -> "_Decoder":
        """Return the decoder of the next picture: itself, or another if it has ended."""
        if self.alive:
            return self
        if not self._ended:
            self.kill()
        # A thread may still read from it; the link is closed with the last reference.
        return _Decoder(self.name, self._bound)

    def ask(self, task: dict[str, Any], file: File) -> dict[str, Any]:
        """Send a picture, and return what the process finds; called in a thread.

        Raises:
            EOFError: the process died; OSError means the same.
        """
        if not self._greeted:
            self._link.recv_bytes()
            self._greeted = True
        self._link.send_bytes(json.dumps(task).encode())
        self._link.send_bytes(file.content)
        return self._message()

    def go_on(self) -> tuple[dict[str, Any], bytes]:
        """Have the picture decoded; return its description and its content; errors as above."""
        self._link.send_bytes(b"true")
        told = self._message()
        return told, b"" if "refused" in told else self._link.recv_bytes()

    def forget(self) -> None:
        """Tell the process not to decode the picture."""
        with contextlib.suppress(OSError):
            self._link.send_bytes(b"false")

    def _message(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._link.recv_bytes())
        return message
