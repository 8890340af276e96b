"""NVIDIA GPUs: see :class:`models.device.Device`."""

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Self
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.certification.arrays import Draws
from models.cuda.card import Card, failures
from models.cuda.passes import (
    Flight,
    Form,
    GraphedPass,
    Laid,
    Shelf,
    Sizes,
    as_pictures,
    channels_first,
    channels_last,
)
from models.cuda.tables import TABLED, make_tables, reference, uniforms
from models.device import DeviceError, Handle
from models.execution import Format, Provider
from models.loaded import LoadedModel
from models.memory import is_out_of_memory
from models.noise import Features, GridNoise
from models.torch_device import PassThread, TorchDevice, TorchHandle, TorchResident
from models.undisturbed import call

# RFC 8439, A.1, test vector 1: the first coordinates' bits for key, counter and nonce zero.
_RFC = "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"


class CudaHandle:
    """A pass on a GPU; see :class:`models.device.Handle`."""

    def __init__(self, issued: "Future[Flight]", waiting: PassThread) -> None:
        self._issued, self._waiting = issued, waiting

    @property
    def done(self) -> bool:
        """Whether the GPU has made it."""
        issued = self._issued
        return issued.done() and (issued.exception() is not None or issued.result().done)

    def votes(self) -> Draws:
        """Wait for its draws."""
        return self._issued.result().take()[1]

    @property
    def key(self) -> bytes:
        """The key that the noise kernel had."""
        return self._issued.result().take()[0]

    @property
    def number(self) -> int:
        """The number of the pass."""
        return self._issued.result().number

    def when_done(self, call: Callable[[], None]) -> None:
        """Have ``call`` called when the GPU has made it."""
        self._waiting.submit(partial(self._then, call))

    def _then(self, call: Callable[[], None]) -> None:
        with contextlib.suppress(Exception):  # taking its draws says what
            self._issued.result().wait()
        call()

    def again(self, own: slice) -> Draws:
        """Raise: inside a graph h has no way to fail, and what is not finite is no vote."""
        raise ValueError("only a pass in which h has failed can be repeated")


class LaunchedResident(TorchResident):
    """One model on a GPU whose noise the CPU draws, and whose h is launched operator by operator.

    That is so for laws that the noise kernel does not know.
    """

    device: "CudaDevice"

    def _as_written(self, noisy: Tensor) -> Tensor:
        with self.device.card.current(after_caller=True):
            return super()._as_written(noisy)


class CudaResident(LaunchedResident):
    """One model on a GPU; see :class:`models.device.Resident`.

    h runs as one CUDA graph for each pass size. A network that cannot be captured, because what it
    does depends on data, runs without.

    Attributes:
        launched: why passes of which sizes run without a graph.
    """

    def __init__(
        self, device: "CudaDevice", model: LoadedModel, precision: Format, provider: Provider
    ) -> None:
        super().__init__(device, model, precision, provider)
        self._card = device.card
        assert isinstance(self.noise, GridNoise)
        self._grid = self.noise
        self._laid = device.lay(self._grid)
        self._shelf = Shelf(self._card, self._shape)
        self._sizes, self.launched = Sizes(self._capture), dict[int, str]()
        # The weights are there before any pass.
        self._card.wait()

    def submit(self, pictures: Sequence[Features], rows: NDArray[np.intp], key: bytes) -> Handle:
        """Submit a pass."""
        try:
            graphed = self._sizes.find(len(rows))
        except KeyError:
            graphed = self.device.call(partial(self._sizes.get, len(rows)))
        # With views, the same graph of h has what the CPU prepares.
        if graphed is None or any(picture.views for picture in pictures):
            return TorchHandle(self, pictures, rows, key)
        issued = self.device.thread.submit(partial(graphed.issue, pictures, rows, key))
        return CudaHandle(issued, self.device.waiting)

    def prepare(self, rows: int) -> None:
        """Capture h for passes of this size, in the thread of passes."""
        self.device.call(partial(self._sizes.get, rows))

    def _capture(self, rows: int) -> GraphedPass | None:
        form = Form(self._dtype, rows, self._labels, self._scoring)
        try:
            graphed = GraphedPass(
                self._card, self._laid, self._shelf, self._shape, self._on_card, form
            )
        except Exception as error:
            if is_out_of_memory(error) or isinstance(error, DeviceError):
                raise
            self.launched[rows] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            return None
        self._prove(graphed)
        return graphed

    def _prove(self, graphed: GraphedPass) -> None:
        """Check the noise of one pass as it is made when serving.

        Raises:
            DeviceError: it is not what its key and number say.
        """
        black = Features(np.zeros(self._width, np.int32), on_grid=True)
        rows = np.zeros(graphed.form.rows, np.intp)
        key = bytes(range(32))
        flight = graphed.issue([black], rows, key)
        told, _ = flight.take()
        few = graphed.noisy[: min(8, len(rows))].float().cpu().numpy()
        steps = self._steps_of([black], rows[: len(few)], key, flight.number)
        exact = torch.from_numpy(steps).to(torch.float32).mul_(self.noise.step)
        expected = exact.to(self._dtype).float().numpy().reshape(few.shape)
        if told != key or not np.array_equal(few, expected):
            raise DeviceError(f"{self.device.name} draws other noise than its key says")

    @property
    def _width(self) -> int:
        return int(np.prod(self._shape))

    def noisy(
        self, pictures: Sequence[Features], rows: NDArray[np.intp], key: bytes, number: int = 0
    ) -> Tensor:
        """Draw noise, by the same kernel; if there are views in the pass, on the CPU."""
        if any(picture.views for picture in pictures):
            return super().noisy(pictures, rows, key)
        return self.device.call(partial(self._drawn, pictures, rows, key, number))

    def _drawn(
        self, pictures: Sequence[Features], rows: NDArray[np.intp], key: bytes, passes: int
    ) -> Tensor:
        with self._card.current():
            placed = [self._shelf.place(picture) for picture in pictures]
            addresses = np.array([address for _, address in placed], dtype=np.uint64)[rows]
            content = np.concatenate([np.frombuffer(key, np.uint8), addresses.view(np.uint8)])
            given, number = self._card.send(content), self._card.send(np.array([passes]))
            told = self._card.send(np.zeros(48, np.uint8))
            drawn = torch.empty(len(rows) * self._width, device=self.device.name)
            self._card.draw(self._laid.drawing(given, number, told, drawn, self._width))
            if told[:32].cpu().numpy().tobytes() != key:
                raise DeviceError(f"{self.device.name} draws by another key than it is given")
            return as_pictures(drawn, len(rows), self._shape)

    def reference(
        self, pictures: Sequence[Features], rows: NDArray[np.intp], key: bytes
    ) -> NDArray[np.int32]:
        """Return the noisy features that this GPU must draw."""
        return self._steps_of(pictures, rows, key, 0)

    def _steps_of(
        self, pictures: Sequence[Features], rows: NDArray[np.intp], key: bytes, number: int
    ) -> NDArray[np.int32]:
        drawn = uniforms(key, number, len(rows) * self._width).reshape(len(rows), self._width)
        found = np.zeros(drawn.shape, np.int32)
        for index, picture in enumerate(pictures):
            own = drawn[rows == index]
            values = channels_last(picture.steps.astype(np.int64), self._shape)
            tiled = np.tile(values, len(own))
            made = reference(self._grid, tiled, picture.on_grid, own.ravel())
            found[rows == index] = made.reshape(own.shape)
        return channels_first(found, self._shape)

    def _logits(self, noisy: Tensor) -> Tensor:
        try:
            graphed = self._sizes.find(len(noisy))
        except KeyError:
            graphed = None
        return self._as_written(noisy) if graphed is None else graphed.run(noisy)

    def last_noisy(self, rows: int) -> Tensor:
        """Return a copy of what h was given in the last pass of this size, [rows, …]."""

        def copied() -> Tensor:
            graphed = self._sizes.find(rows)
            if graphed is None:
                raise ValueError(f"passes of {rows} rows run without a graph")
            with self._card.current():
                return graphed.noisy.to("cpu", copy=True)

        return self.device.call(copied)

    def _on_card(self, noisy: Tensor) -> Tensor:
        """Run h as it is captured."""
        with self._without_gradients():
            return self._of_form(call(self.network, noisy), len(noisy))

    def compile(self, noisy: Tensor) -> Self:
        """Compile h."""
        other = super().compile(noisy)
        other._sizes, other.launched = Sizes(other._capture), {}
        return other


class CudaDevice(TorchDevice):
    """A GPU.

    Args:
        name: as PyTorch names it.
        card: what passes need of it; the tests pass another.
    """

    pass_sizes: tuple[int, ...] = (256, 512, 1024, 2048, 4096)

    def __init__(self, name: str, card: Card | None = None) -> None:
        super().__init__(name)
        # Waits for the ends of passes.
        self.waiting = PassThread(f"ends-{name}")
        self._card = card
        self._tables: WeakValueDictionary[tuple[Any, ...], Laid] = WeakValueDictionary()

    @property
    def card(self) -> Card:
        """What passes need of the GPU, set up when it is first needed."""
        if self._card is None:
            self._card = self.call(partial(Card, self.name))
        return self._card

    def load(self, model: LoadedModel, precision: Format, provider: Provider) -> TorchResident:
        """Load h of a model. Noise that the kernel has no tables for is drawn on the CPU."""
        tabled = model.manifest.noise.mechanism in TABLED
        kind = CudaResident if tabled else LaunchedResident
        with failures(self.name):
            return kind(self, model, precision, provider)

    def lay(self, noise: GridNoise) -> Laid:
        """Return the tables of a law on the card."""
        law = noise.mechanism, noise.scale, noise.step
        laid = self._tables.get(law)
        if laid is None:
            laid = self._tables[law] = Laid(self.card, noise, make_tables(*law))
        return laid

    def check(self) -> None:
        """Check ChaCha20 and the search in the tables as this device computes them."""
        if uniforms(bytes(32), 0, 4).tobytes().hex() != _RFC:
            raise DeviceError("this machine does not compute the block of RFC 8439, A.1")
        self.call(self._check)

    def _check(self) -> None:
        noise = GridNoise("gaussian", 1.0, 1.0, 4.0)
        laid, shelf = self.lay(noise), Shelf(self.card, (4096,))
        for on_grid in (True, False):
            picture = Features(np.arange(4096, dtype=np.int32) % 200, on_grid)
            with self.card.current():
                _, address = shelf.place(picture)
                given = np.array([0, 0, 0, 0, address], np.uint64).view(np.uint8)
                sent, number = self.card.send(given), self.card.send(np.zeros(1, np.int64))
                told = self.card.send(np.zeros(48, np.uint8))
                z = torch.empty(4096, dtype=torch.int32, device=self.name)
                self.card.draw(laid.drawing(sent, number, told, z, 4096))
                found = z.cpu().numpy()
            drawn = uniforms(bytes(32), 0, 4096)
            expected = reference(noise, picture.steps.astype(np.int64), on_grid, drawn)
            if not np.array_equal(found, expected):
                raise DeviceError(f"{self.name} does not draw the noise of RFC 8439's keystream")

    def memory(self) -> tuple[int, int]:
        """Return the whole device's memory."""
        return self.card.memory()

    def free(self) -> None:
        """Give back memory, between passes."""
        super().free()
        self.call(self.card.free)
