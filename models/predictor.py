"""Predictions with certificates: a loaded model that encodes pictures and runs passes.

The service's workers and ``pixeldp evaluate`` both draw through this module, so an evaluation
measures exactly what is served.
"""

import copy
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from models.bundle import Manifest
from models.certification.arrays import Draws, Floats, Integers
from models.certification.certificates import DEFAULTS
from models.certification.inquiry import Inquiry
from models.certification.interval import IntervalInquiry, IntervalTerms
from models.certification.kinds import SizeInquiry
from models.certification.names import NORMS, Norm
from models.certification.question import Question
from models.certification.split import SplitInquiry, SplitTerms
from models.certification.stickers import StickerInquiry
from models.certification.tally import make_draws
from models.certification.terms import Delta, StepTerms, Terms, strongest
from models.device import Device, Submitted, open_device
from models.execution import Execution, Format, Provider, ProviderError
from models.loaded import LoadedModel
from models.masking import HIDDEN, MaskedViews, masks_for
from models.networks.interval import IntervalNetwork, check_way
from models.networks.placement import IMAGE
from models.noise import PIXEL_STEP, SUBSTEPS, Features, GridNoise, Key, random_order, system_key
from models.picture_terms import assemble_terms
from models.preprocessing import Preprocessing, plan
from models.proof import prove_noise, prove_passes, prove_products
from models.trial import try_rows
from models.undisturbed import call


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
        device: the device, or its name.
        precision: the number format of h. The certificate holds for any h.
        key: makes each pass's noise key; only tests and repeatable evaluations use another.
        provider: what runs h; it must support the device and the number format.

    Attributes:
        on: the device.
        resident: the model on it.

    Raises:
        ProviderError: int8 without scales, or intervals in any way but PyTorch's float32.
    """

    def __init__(
        self,
        model: LoadedModel,
        pass_size: int,
        device: str | Device = "cpu",
        precision: Format = "float32",
        key: Key = system_key,
        provider: Provider = "pytorch",
    ) -> None:
        check_way(model.manifest.noise.mechanism, provider, precision)
        self.bundle, self.pass_size = model.bundle, pass_size
        self.on = open_device(device)
        self.precision, self.compiled, self.provider = precision, False, provider
        self.resident = self.on.load(model, precision, provider)
        self._key = key
        self._encoder, self._sensitivities = model.encoder, model.sensitivities
        self._encoder_errors = model.encoder_errors
        self._feature_shape, self.noise = model.feature_shape, model.noise
        self.trial_seconds = 0.0
        self._on_image = model.manifest.noise.placement == IMAGE
        # Of pictures that are the model's input as they are: these have one form.
        self._unprepared: Terms | None = None

    @property
    def device(self) -> str:
        """The device's name."""
        return self.on.name

    @property
    def execution(self) -> Execution:
        """How h is run."""
        return Execution(self.provider, self.precision, self.pass_size, self.compiled)

    @property
    def manifest(self) -> Manifest:
        """The model's description."""
        return self.bundle.manifest

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
        if self._unprepared is None:
            self._unprepared = self._terms(preparation, features)
        return Encoded(features, self._unprepared)

    def encode_prepared(self, prepared: Floats, preparation: Preprocessing) -> Encoded:
        """Run g once on a picture that was prepared elsewhere.

        Args:
            prepared: the result of ``preparation.apply``.
            preparation: from :meth:`plan`.
        """
        features = self.noise.snap(self._run_encoder(prepared))
        return Encoded(features, self._terms(preparation, features))

    def inquire(self, question: Question, encoded: Encoded) -> SizeInquiry:
        """Begin an inquiry into a picture that was encoded here."""
        labels = len(self.manifest.labels)
        if isinstance(encoded.terms, SplitTerms):
            return SplitInquiry(question, encoded.terms, labels, self._shuffle)
        if isinstance(encoded.terms, IntervalTerms):
            return IntervalInquiry(question, encoded.terms, labels)
        return Inquiry(question, encoded.terms, labels, self.manifest.scoring)

    def against_stickers(
        self, question: Question, prepared: Floats, preparation: Preprocessing
    ) -> tuple[Features, StickerInquiry]:
        """Begin an inquiry into a picture about stickers.

        In the image, masks hide what g and rounding have left as it is; after a layer, g runs for
        each view.

        Args:
            question: the question.
            prepared: the result of ``preparation.apply``.
            preparation: from :meth:`plan`.

        Raises:
            CannotCertify: masks would hide the whole picture.
        """
        noise, target = self.noise, question.target
        if not isinstance(noise, GridNoise) or target is None:
            raise ValueError("split noise has no views, and stickers have a side")
        masks = masks_for(preparation, int(target), question.masks)
        if self._on_image:
            steps = noise.quiet(noise.snap(prepared))
            views = MaskedViews(masks, steps.reshape(prepared.shape), HIDDEN, np.ravel)
        else:
            steps = np.zeros(prod(self._feature_shape), dtype=np.int32)
            views = MaskedViews(masks, prepared, HIDDEN * PIXEL_STEP, self._see)
        inquiry = StickerInquiry(question, masks, len(self.manifest.labels))
        return Features(steps, on_grid=True, views=views.steps), inquiry

    def _see(self, masked: Floats) -> NDArray[np.int32]:
        """Return what h sees of a model's input without noise."""
        assert isinstance(self.noise, GridNoise)
        return self.noise.quiet(self.noise.snap(self._run_encoder(masked)))

    def resized(self, pass_size: int) -> Self:
        """Return the same model in passes of another size, with the same weights.

        It is another h, so it must be tried (:meth:`try_rows`).
        """
        other = copy.copy(self)
        other.pass_size = pass_size
        return other

    def draw_by(self, key: Key) -> None:
        """Have ``key`` make the noise keys from now on, as at the beginning."""
        self._key = key

    def _shuffle(self, draws: int) -> Integers:
        return random_order(draws, self._key())

    def submit(self, pictures: Sequence[Features], rows: NDArray[np.intp]) -> Submitted:
        """Submit a pass to the device, and return without waiting for it.

        Args:
            pictures: the features of the pictures in the pass.
            rows: [pass_size], the picture for which each row draws.
        """
        if len(rows) != self.pass_size:
            raise ValueError(f"a pass has {self.pass_size} rows, not {len(rows)}")
        key = self._key()
        return Submitted(self.resident.submit(pictures, rows, key), key)

    def run(self, pictures: Sequence[Features], rows: NDArray[np.intp]) -> Draws:
        """Make one pass, and return its draws; arguments as for :meth:`submit`."""
        return self.submit(pictures, rows).votes()

    def score(self, noisy: torch.Tensor) -> Draws:
        """Return the draws of noisy features [rows, …]."""
        return make_draws(self.logits(noisy).numpy(), self.manifest.scoring)

    def noisy(self, pictures: Sequence[Features], rows: NDArray[np.intp]) -> torch.Tensor:
        """Draw the noisy features of a pass, float32 [rows, …]; arguments as for :meth:`submit`."""
        return self.resident.noisy(pictures, rows, self._key())

    def logits(self, noisy: torch.Tensor) -> torch.Tensor:
        """Return h of noisy features [rows, …], float32 [rows, K] (see ``models.device``)."""
        return self.resident.logits(noisy)

    def try_rows(self, alone: int = 0) -> None:
        """Try whether h, as it runs here, is a function of each row alone.

        ``trial_seconds`` then says how long it took.

        Args:
            alone: the number of rows that are also kept one by one (see
                :func:`models.trial.try_rows`).

        Raises:
            RowsError: it is not, and must not serve.
            ProviderError: its provider cannot run it, or computes something else.
            DeviceError: it has intervals, whose rounding is not bounded on this device.
        """
        start = time.perf_counter()
        network = self.resident.network
        if isinstance(network, IntervalNetwork):
            prove_products(self.on, network, self.pass_size)
        pictures = self._random_pictures()
        noisy = self.noisy(pictures, np.arange(self.pass_size) % len(pictures))
        self.resident.prepare(self.pass_size)
        self.resident.compare(noisy)
        try_rows(self.logits, noisy, self.resident.network, alone)
        self.trial_seconds = time.perf_counter() - start

    def prove(self) -> None:
        """Prove that the device computes what certificates assume (see :mod:`models.proof`).

        Raises:
            DeviceError: it does not, and must not serve.
        """
        self.on.check()
        pictures = self._random_pictures()
        prove_noise(self.resident, pictures, self.noise.step)
        if self._on_image and not pictures[0].on_grid:
            whole = [Features(one.steps // SUBSTEPS, on_grid=True) for one in pictures]
            prove_noise(self.resident, whole, self.noise.step)
        rows = np.arange(self.pass_size) % len(pictures)
        prove_passes(self.resident, pictures, rows, self.manifest.scoring)

    def _random_pictures(self) -> list[Features]:
        """Return three pictures that are the same at every call."""
        rng, shape = np.random.default_rng(0), self.manifest.input.shape
        return [self.noise.snap(self._run_encoder(rng.random(shape))) for _ in range(3)]

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
        check_way(self.manifest.noise.mechanism, "pytorch", self.precision, compiled=True)
        other = copy.copy(self)
        other.provider, other.compiled = "pytorch", True
        other.resident = self.resident.compile(self.noisy(*self._black()))
        other.try_rows()
        return other

    def measure(self, seconds: float = 0.2) -> float:
        """Make passes of a black picture for about ``seconds`` and return the draws per second.

        No other pass is made meanwhile.
        """
        self.resident.prepare(self.pass_size)
        return self.on.call(partial(self._measure, seconds))

    def _measure(self, seconds: float) -> float:
        black = self._black()
        self.run(*black)  # the first pass includes set-up
        flying: deque[Submitted] = deque()
        passes, start = 0, time.perf_counter()
        while (more := time.perf_counter() - start < seconds) or flying:
            if more:
                flying.append(self.submit(*black))
                passes += 1
            if not more or len(flying) == self.on.depth:
                flying.popleft().votes()
        return passes * self.pass_size / (time.perf_counter() - start)

    def _black(self) -> tuple[list[Features], NDArray[np.intp]]:
        """Return a pass for a black picture."""
        black = np.zeros(prod(self._feature_shape), dtype=np.int32)
        features = [Features(black, on_grid=self._on_image)]
        return features, np.zeros(self.pass_size, dtype=np.intp)

    def _run_encoder(self, prepared: Floats) -> Floats:
        with torch.inference_mode():
            features = call(self._encoder, torch.tensor(prepared)[None])[0]
        return np.asarray(features.numpy())

    def _terms(self, preparation: Preprocessing, features: Features) -> Terms:
        terms = assemble_terms(self.manifest, preparation)
        if not isinstance(self.noise, GridNoise):
            return terms
        if isinstance(terms, StepTerms):
            return replace(terms, tau=self.noise.total_variation(len(features.steps)))
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
        if features.on_grid or not isinstance(self.noise, GridNoise):
            return 0.0
        error = self._encoder_errors[norm].total(preparation.error(norm))
        return self.noise.snapping(len(features.steps), norm) + 2 * error
