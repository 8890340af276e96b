"""Predictions with certificates: a loaded model that encodes pictures and runs passes.

The service's workers and ``pixeldp evaluate`` both draw through this module, so an evaluation
measures exactly what is served.
"""

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from math import prod
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.bundle import Manifest
from models.certification.arrays import Floats, Integers
from models.certification.certificates import DEFAULTS
from models.certification.inquiry import Inquiry
from models.certification.names import NORMS, Norm
from models.certification.question import Question
from models.certification.tally import draw_scores
from models.certification.terms import Delta, Terms, strongest
from models.compile_cache import keep_apart
from models.converted import Converted, check_likeness
from models.device_noise import DeviceNoise
from models.execution import Execution, Format, Provider, ProviderError
from models.loaded import LoadedModel
from models.networks.placement import IMAGE
from models.noise import Features, Key, system_key
from models.picture_terms import assemble_terms
from models.preprocessing import Preprocessing, plan
from models.quantised import Ranges
from models.trial import try_rows

# The format of PyTorch's weights; int8 is made from float32.
_DTYPES: dict[Format, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "int8": torch.float32,
}
# Weights are constants, and there is no pool of helper processes, which could outlive a worker.
_COMPILE: dict[str, str | int | bool | Callable[..., object]] = {
    "freezing": True,
    "compile_threads": 1,
}


@dataclass(frozen=True)
class Encoded:
    """One picture after g: its features, and the terms of its certificates."""

    features: Features
    terms: Terms


class Predictor:
    """One model on one device.

    Every pass has exactly ``pass_size`` rows: h runs with one shape only, so that a row's result
    cannot depend on the number of other rows.

    Args:
        model: the loaded model, of which it makes its own copy of h.
        pass_size: rows of every pass.
        device: a torch device.
        precision: the number format of h. The certificate holds for any h.
        key: makes each pass's noise key; only tests and repeatable evaluations pass another.
        provider: what runs h; it must support the device and the number format.

    Raises:
        ProviderError: int8 without scales.
    """

    def __init__(
        self,
        model: LoadedModel,
        pass_size: int,
        device: str = "cpu",
        precision: Format = "float32",
        key: Key = system_key,
        provider: Provider = "pytorch",
    ) -> None:
        self.bundle, self.pass_size = model.bundle, pass_size
        self.device, self.precision, self.compiled = device, precision, False
        self.provider = provider
        self._key = key
        self._encoder, self._sensitivities = model.encoder, model.sensitivities
        self._encoder_errors = model.encoder_errors
        self._feature_shape, self.noise = model.feature_shape, model.noise
        self.trial_seconds = 0.0
        self._classifier: nn.Module = model.classifier(device, _DTYPES[precision])
        self._converted: Converted | None = None
        if provider == "openvino":
            ranges = _ranges(self.manifest) if precision == "int8" else None
            self._converted = Converted(self._classifier, torch.get_num_threads(), ranges)
        self._on_image = model.manifest.noise.placement == IMAGE
        # Compiled networks do not run in inference mode.
        self._without_gradients: Callable[[], AbstractContextManager[object]]
        self._without_gradients = torch.inference_mode
        self._device_noise: DeviceNoise | None = None
        if device.startswith("cuda"):
            self.draw_on_device()

    @property
    def execution(self) -> Execution:
        """How h is run."""
        return Execution(self.provider, self.precision, self.pass_size, self.compiled)

    @property
    def manifest(self) -> Manifest:
        """The model's description."""
        return self.bundle.manifest

    def draw_on_device(self) -> None:
        """From now on draw noise with the device's own arithmetic, as on every GPU."""
        self._device_noise = DeviceNoise(self.noise, self.device)

    def plan(self, shape: tuple[int, int, int], bits: int) -> Preprocessing:
        """Plan how a picture of ``shape`` (height, width, channels) becomes the model's input.

        Raises:
            CannotCertify: no linear preprocessing leads to that input.
        """
        height, width, channels = shape
        mode = {1: "L", 3: "RGB"}[channels]
        return plan(width, height, mode, bits, self.manifest.input.shape)

    def encode(self, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> Encoded:
        """Run g once.

        Args:
            pixels: [height, width, channels], 8 or 16 bits.

        Raises:
            CannotCertify: no linear preprocessing leads to the model's input.
        """
        height, width, channels = pixels.shape
        preparation = self.plan((height, width, channels), 8 * pixels.itemsize)
        if not (self._on_image and preparation.on_grid):
            return self.encode_prepared(preparation.apply(pixels), preparation)
        steps = pixels.transpose(2, 0, 1).astype(np.int32).ravel()
        features = Features(steps, on_grid=True)
        return Encoded(features, self._terms(preparation, features))

    def encode_prepared(self, prepared: Floats, preparation: Preprocessing) -> Encoded:
        """Run g once on a picture that was prepared elsewhere.

        Args:
            prepared: the result of ``preparation.apply``.
            preparation: from :meth:`plan`.
        """
        features = self.noise.snap(self._run_encoder(prepared))
        return Encoded(features, self._terms(preparation, features))

    def inquire(self, question: Question, encoded: Encoded) -> Inquiry:
        """Begin an inquiry into a picture that was encoded here."""
        return Inquiry(question, encoded.terms, len(self.manifest.labels), self.manifest.scoring)

    def run(self, pictures: Sequence[Features], rows: NDArray[np.intp]) -> Integers:
        """Run one pass.

        Args:
            pictures: the features of the pictures in the pass.
            rows: [pass_size], the picture for which each row draws.

        Returns:
            [pass_size, K] integer scores of the draws (see ``models.certification.tally``).
        """
        return self.score(self.noisy(pictures, rows))

    def score(self, noisy: torch.Tensor) -> Integers:
        """Return the integer scores [pass_size, K] of noisy features [pass_size, …]."""
        if len(noisy) != self.pass_size:
            raise ValueError(f"a pass has {self.pass_size} rows, not {len(noisy)}")
        return draw_scores(self.logits(noisy).numpy(), self.manifest.scoring)

    def noisy(self, pictures: Sequence[Features], rows: NDArray[np.intp]) -> torch.Tensor:
        """Draw the noisy features of a pass, float32 [rows, …]; arguments as for :meth:`run`."""
        if self._device_noise:
            steps = self._device_noise.draw(pictures, rows, self._key)
        else:
            steps = torch.from_numpy(self.noise.draw(pictures, rows, self._key()))
        # Integers below 2²⁴ are exact in float32; everything after them is a function of them.
        noisy = steps.to(torch.float32).mul_(self.noise.step)
        return noisy.reshape(len(rows), *self._feature_shape)

    def logits(self, noisy: torch.Tensor) -> torch.Tensor:
        """Return h of noisy features [pass_size, …], float32 [pass_size, K].

        Raises:
            ValueError: h returns anything else.
            ProviderError: its provider cannot run it.
        """
        if self._converted is not None:
            return self._checked(self._converted(noisy), len(noisy))
        return self._eager(noisy)

    def _eager(self, noisy: torch.Tensor) -> torch.Tensor:
        """Return h as run by PyTorch; arguments and result as for :meth:`logits`."""
        noisy = noisy.to(self.device, _DTYPES[self.precision])
        if noisy.dim() == 4:
            noisy = noisy.contiguous(memory_format=torch.channels_last)
        with self._without_gradients():
            logits = self._classifier(noisy)
        return self._checked(logits, len(noisy))

    def _checked(self, logits: object, rows: int) -> torch.Tensor:
        expected = rows, len(self.manifest.labels)
        if not isinstance(logits, torch.Tensor) or logits.shape != expected:
            found = f"{list(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits)
            raise ValueError(f"h returned {found}; expected logits {list(expected)} (rows, labels)")
        return logits.float().cpu()

    def try_rows(self, alone: int = 0) -> None:
        """Try whether h, as it runs here, is a function of each row alone.

        ``trial_seconds`` then says how long it took.

        Args:
            alone: the number of rows that are also kept one by one (see
                :func:`models.trial.try_rows`).

        Raises:
            RowsError: it is not, and must not serve.
            ProviderError: its provider cannot run it, or computes something else.
        """
        start = time.perf_counter()
        shape = self.manifest.input.shape
        rng = np.random.default_rng(0)
        pictures = [self.noise.snap(self._run_encoder(rng.random(shape))) for _ in range(3)]
        noisy = self.noisy(pictures, np.arange(self.pass_size) % len(pictures))
        if self._converted is not None:
            check_likeness(self._converted(noisy), self._eager(noisy), self.precision)
        try_rows(self.logits, noisy, self._classifier, alone)
        self.trial_seconds = time.perf_counter() - start

    def compile(self) -> Self:
        """Return the same model with h compiled by PyTorch for its pass size, warm.

        This takes seconds to minutes, and may run in a thread while this predictor continues to
        draw. The result is another h: a picture must have all its draws from one of the two.

        Raises:
            RuntimeError: there is no working compiler here, or this is int8.
            RowsError: the compiled form does not keep rows apart.
        """
        if self.precision == "int8":
            raise ProviderError("PyTorch does not compile int8; a model keeps its number format")
        other = copy.copy(self)
        other.provider, other._converted = "pytorch", None
        keep_apart()
        with torch.no_grad():
            # The result for a module is a module.
            other._classifier = torch.compile(  # type: ignore[assignment]
                copy.deepcopy(self._classifier), dynamic=False, options=_COMPILE
            )
            other._without_gradients, other.compiled = torch.no_grad, True
            other.measure(0.0)
        other.try_rows()
        return other

    def measure(self, seconds: float = 0.2) -> float:
        """Run passes of a black picture for about ``seconds`` and return the draws per second."""
        black = np.zeros(prod(self._feature_shape), dtype=np.int32)
        features = [Features(black, on_grid=self._on_image)]
        rows = np.zeros(self.pass_size, dtype=np.intp)
        self.run(features, rows)  # the first pass includes set-up
        passes, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            self.run(features, rows)
            passes += 1
        return passes * self.pass_size / (time.perf_counter() - start)

    def _run_encoder(self, prepared: Floats) -> Floats:
        with torch.inference_mode():
            features = self._encoder(torch.tensor(prepared)[None])[0]
        return np.asarray(features.numpy())

    def _terms(self, preparation: Preprocessing, features: Features) -> Terms:
        terms = assemble_terms(self.manifest, preparation)
        own = self.manifest.sensitivity.noise_norm
        own_rho = self._rho(preparation, features, own)
        deltas = [Delta(terms.norm, own, terms.sensitivity, own_rho)]
        for target in DEFAULTS[terms.mechanism]:
            rho = self._rho(preparation, features, target)
            for source in NORMS:
                value = min(
                    preparation.sensitivity(source, via) * self._sensitivities[via, target].value
                    for via in NORMS
                )
                deltas.append(Delta(source, target, value, rho))
        return replace(
            terms,
            tau=self.noise.total_variation(len(features.steps)),
            rho=own_rho,
            further=strongest(deltas, terms.values)[1:],
        )

    def _rho(self, preparation: Preprocessing, features: Features, norm: Norm) -> float:
        """A bound on what rounding adds to the distance of two outputs of g, in ``norm``."""
        if features.on_grid:
            return 0.0
        error = self._encoder_errors[norm].total(preparation.error(norm))
        return self.noise.snapping(len(features.steps), norm) + 2 * error


def _ranges(manifest: Manifest) -> Ranges:
    """Return the ranges of a model's int8."""
    if manifest.int8 is None:
        raise ProviderError(
            f"{manifest.name} has no scales for int8: pixeldp evaluate --write finds them on "
            "pictures, and measures what int8 costs"
        )
    return manifest.int8.ranges
