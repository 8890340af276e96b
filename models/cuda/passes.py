"""Passes on a GPU: buffers that stay where they are, one graph of h, and nothing that waits.

A pass is one copy to the GPU (its key, and the address of each row's features), the noise kernel,
the graph [h → finite? arg max → votes, next number], and one copy back. What was tried and proven
is what serves: the trial of rows runs the same graph.
"""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.certification.arrays import Draws
from models.certification.names import Scoring
from models.certification.tally import NO_VOTE, draw_scores
from models.cuda.card import KINDS, Card, Drawing, Event, failures
from models.cuda.tables import Tables
from models.device import DeviceError
from models.noise import Features, GridNoise

# A pass begins with its key; what comes back with key and number, in this many bytes.
_KEY, _HEAD = 32, 48


class Laid:
    """The noise tables of one law on a card."""

    def __init__(self, card: Card, noise: GridNoise, tables: Tables) -> None:
        self.lowest, self.bits, self.length = tables.lowest, tables.bits, len(tables.segments)
        self.step = noise.step
        arrays = tables.first, tables.edges.view(np.int64), noise.low, noise.high, tables.segments
        with card.current():
            self._kept = [card.send(array) for array in arrays]
        self.addresses = [tensor.data_ptr() for tensor in self._kept]

    def drawing(
        self, given: Tensor, number: Tensor, told: Tensor, out: Tensor, width: int
    ) -> Drawing:
        """Return the kernel's arguments.

        Args:
            given: key and addresses of rows.
            number: [1], the number of the pass.
            told: takes key and number.
            out: [rows · width], takes the noisy features.
            width: the coordinates of a row.
        """
        first, edges, low, high, segments = self.addresses
        return Drawing(
            key=given.data_ptr(),
            number=number.data_ptr(),
            rows=given.data_ptr() + _KEY,
            first=first,
            edges=edges,
            lowest=self.lowest,
            low=low,
            high=high,
            segments=segments,
            length=self.length,
            bits=self.bits,
            width=width,
            coordinates=out.numel(),
            step=self.step,
            kind=KINDS[out.dtype],
            out=out.data_ptr(),
            told=told.data_ptr(),
        )


class Shelf:
    """The features of pictures on a card, each there for as long as anything refers to it.

    On the grid a coordinate takes a byte, between grid points four. The order of coordinates is
    that of the memory of h's input: channels last.
    """

    def __init__(self, card: Card, shape: tuple[int, ...]) -> None:
        self._card, self._shape = card, shape
        self._kept: WeakKeyDictionary[Features, Tensor] = WeakKeyDictionary()

    def __len__(self) -> int:
        """The number of pictures on the card."""
        return len(self._kept)

    def place(self, picture: Features) -> tuple[Tensor, int]:
        """Return a picture's features, uploaded once, and their address as the kernel takes it."""
        held = self._kept.get(picture)
        if held is None:
            held = self._card.send(self._laid_out(picture))
            self._kept[picture] = held
        return held, held.data_ptr() | int(held.dtype != torch.uint8)

    def _laid_out(self, picture: Features) -> NDArray[Any]:
        if picture.on_grid and picture.steps.min() >= 0 and picture.steps.max() <= 255:
            return channels_last(picture.steps.astype(np.uint8), self._shape)
        return channels_last(picture.substeps, self._shape)


def channels_last(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return features [..., m] of ``shape`` in the order of memory of h's input, a copy."""
    if len(shape) != 3:
        return values.copy()
    split = values.reshape(*values.shape[:-1], *shape)
    return np.ascontiguousarray(np.moveaxis(split, -3, -1)).reshape(values.shape)


def channels_first(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Undo :func:`channels_last`."""
    if len(shape) != 3:
        return values.copy()
    split = values.reshape(*values.shape[:-1], *shape[1:], shape[0])
    return np.ascontiguousarray(np.moveaxis(split, -1, -3)).reshape(values.shape)


def as_pictures(noisy: Tensor, rows: int, shape: tuple[int, ...]) -> Tensor:
    """Return noisy features [rows · m] as h takes them, [rows, …], without a copy."""
    if len(shape) != 3:
        return noisy.view(rows, *shape)
    channels, height, width = shape
    return noisy.view(rows, height, width, channels).permute(0, 3, 1, 2)


@dataclass
class Slot:
    """Memory of this machine for one pass in flight, and the event at its end."""

    given: Tensor
    told: Tensor
    event: Event

    def __post_init__(self) -> None:
        self._into, self._out = self.given.numpy(), self.told.numpy()

    def fill(self, key: bytes, addresses: NDArray[np.uint64]) -> None:
        """Write what the pass is given."""
        self._into[:_KEY] = np.frombuffer(key, np.uint8)
        self._into[_KEY:] = addresses.view(np.uint8)

    def read(self) -> NDArray[np.uint8]:
        """Return a copy of what came back."""
        return self._out.copy()


class Logits(Protocol):
    """h of noisy features [rows, …]: logits [rows, K] in any number format, on the card."""

    def __call__(self, noisy: Tensor, /) -> Tensor:
        """Run it."""


class GraphedPass:
    """Passes of one size for one h.

    Args:
        card: the GPU.
        laid: the noise.
        shelf: the pictures' features.
        h: what is captured.
        form: of what h returns: number format of its input, rows, labels, and the scoring.

    Raises:
        Exception: whatever capturing h raises.
    """

    def __init__(
        self,
        card: Card,
        laid: Laid,
        shelf: Shelf,
        shape: tuple[int, ...],
        h: Logits,
        form: "Form",
    ) -> None:
        self._card, self._shelf, self._h, self.form = card, shelf, h, form
        rows, width = form.rows, int(np.prod(shape))
        empty = partial(torch.empty, device=card.name)
        with card.current():
            z = empty(rows * width, dtype=form.dtype)
            self.noisy = as_pictures(z, rows, shape)
            self._given = torch.zeros(_KEY + 8 * rows, dtype=torch.uint8, device=card.name)
            self._told = torch.zeros(_HEAD + form.bytes, dtype=torch.uint8, device=card.name)
            self._number = torch.zeros(1, dtype=torch.int64, device=card.name)
            self.logits = empty(rows, form.labels, dtype=torch.float32)
            self._result = form.view(self._told[_HEAD:])
            self._drawing = laid.drawing(self._given, self._number, self._told, z, width)
            self._kept = laid
            self.noisy.zero_()
            self._replay = card.capture(self._work)
            card.wait()
            self._next = int(self._number.item())
        self._free: list[Slot] = []

    def _work(self) -> None:
        """What the graph does: no operator's kind, size or number depends on data."""
        self.logits.copy_(self._h(self.noisy))
        if self.form.scoring == "votes":
            finite = self.logits.isfinite().all(dim=1)
            votes = self.logits.argmax(dim=1)
            self._result.copy_(votes.masked_fill(~finite, NO_VOTE))
        else:
            self._result.copy_(self.logits)
        self._card.end_pass(self._number.data_ptr())

    def issue(self, pictures: Sequence[Features], rows: NDArray[np.intp], key: bytes) -> "Flight":
        """Enqueue a pass; called in the thread of passes."""
        with self._card.current():
            placed = [self._shelf.place(picture) for picture in pictures]
            addresses = np.array([address for _, address in placed], dtype=np.uint64)
            slot = self._free.pop() if self._free else self._new_slot()
            slot.fill(key, addresses[rows])
            self._given.copy_(slot.given, non_blocking=True)
            self._card.draw(self._drawing)
            self._replay()
            slot.told.copy_(self._told, non_blocking=True)
            slot.event.record()
        self._next += 1
        return Flight(self, slot, [held for held, _ in placed], self._next - 1)

    def _new_slot(self) -> Slot:
        card = self._card
        return Slot(card.pinned(len(self._given)), card.pinned(len(self._told)), card.event())

    def run(self, noisy: Tensor) -> Tensor:
        """Return h of given noisy features [rows, …] by the same graph, [rows, K] on the CPU."""
        with self._card.current(after_caller=True):
            self.noisy.copy_(noisy)
            self._replay()
            self._next += 1
            return self.logits.to("cpu", copy=True)

    def take(self, slot: Slot, number: int) -> tuple[bytes, Draws]:
        """Return the key of a pass that has ended, and its draws; its slot is free again.

        Raises:
            DeviceError: they are of another pass.
        """
        content = slot.read()
        self._free.append(slot)
        found = int(content[_KEY : _KEY + 8].view(np.uint64)[0])
        if found != number:
            raise DeviceError(f"{self._card.name} drew the noise of pass {found} for pass {number}")
        return content[:_KEY].tobytes(), self.form.read(content[_HEAD:])

    def wait(self, event: Event) -> None:
        """Wait for the end of a pass."""
        with failures(self._card.name):
            event.synchronize()


@dataclass(frozen=True)
class Form:
    """What goes into h and comes out: number format, numbers of rows and labels, scoring."""

    dtype: torch.dtype
    rows: int
    labels: int
    scoring: Scoring

    @property
    def _kind(self) -> tuple[torch.dtype, Any]:
        if self.scoring != "votes":
            return torch.float32, np.float32
        return (torch.int16, np.int16) if self.labels <= 2**15 else (torch.int32, np.int32)

    @property
    def bytes(self) -> int:
        """The size of what comes back: two bytes a row for votes."""
        each = 1 if self.scoring == "votes" else self.labels
        return self.rows * each * self._kind[0].itemsize

    def view(self, content: Tensor) -> Tensor:
        """Return bytes on the card as votes [rows], or logits [rows, K]."""
        typed = content.view(self._kind[0])
        return typed if self.scoring == "votes" else typed.view(self.rows, self.labels)

    def read(self, content: NDArray[np.uint8]) -> Draws:
        """Return the draws of bytes that came back."""
        typed = content.view(self._kind[1])
        if self.scoring == "votes":
            return np.asarray(typed)
        return draw_scores(typed.reshape(self.rows, self.labels), self.scoring)


class Flight:
    """A pass on its way through the GPU; keeps what it reads alive."""

    def __init__(self, of: GraphedPass, slot: Slot, held: list[Tensor], number: int) -> None:
        self._of, self._slot, self._held, self.number = of, slot, held, number
        self._taken: tuple[bytes, Draws] | None = None

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        if self._taken is not None:
            return True
        try:
            return self._slot.event.query()
        except RuntimeError:  # taking it says what
            return True

    def wait(self) -> None:
        """Wait until it has ended."""
        if self._taken is None:
            self._of.wait(self._slot.event)

    def take(self) -> tuple[bytes, Draws]:
        """Wait for it; return the key by which it was drawn, and its draws."""
        if self._taken is None:
            self._of.wait(self._slot.event)
            self._taken = self._of.take(self._slot, self.number)
            self._held = []
        return self._taken


class Sizes:
    """The passes of the sizes that were used last; None for sizes that cannot be captured.

    A model serves with one or two sizes. Those that were only measured give back their memory.
    """

    MOST = 2

    def __init__(self, make: Callable[[int], GraphedPass | None]) -> None:
        self._make = make
        self._made: OrderedDict[int, GraphedPass | None] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, rows: int) -> GraphedPass | None:
        """Return the pass of a size.

        Raises:
            KeyError: it was not made, or is gone.
        """
        with self._lock:
            self._made.move_to_end(rows)
            return self._made[rows]

    def get(self, rows: int) -> GraphedPass | None:
        """Return the pass of a size, made if need be; only called in the thread of passes."""
        with contextlib.suppress(KeyError):
            return self.find(rows)
        with self._lock:
            while len(self._made) >= self.MOST:
                self._made.popitem(last=False)
        made = self._make(rows)
        with self._lock:
            self._made[rows] = made
        return made
