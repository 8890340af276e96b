"""The training loop: noise in every step, Δ kept at a bound, a checkpoint after every epoch."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Never

import torch
from torch import Tensor, nn
from tqdm import tqdm

from models import networks
from models.bundle import (
    INT8_PICTURES,
    Bundle,
    InputShape,
    Manifest,
    NoiseSpec,
    SensitivitySpec,
    WeightsSpec,
    remove_bundle,
)
from models.certification.names import MECHANISM_NORMS
from models.data.datasets import DataSet
from models.denoiser import DenoiserManifest
from models.evaluation.attacks import noisy_scores, pgd
from models.evaluation.pairs import no_record
from models.execution import PRECISIONS, Precision
from models.files import locked
from models.mechanisms import split
from models.mechanisms.interval import enclose
from models.network import PixelDP, load_weights, save_network
from models.sensitivity.modules import encoder_sensitivity
from models.sensitivity.operators import Sensitivity
from models.sensitivity.projection import project_
from models.training.augmentation import augment
from models.training.checkpoint import (
    Progress,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)
from models.training.checks import (
    CHECKPOINT,
    TrainingError,
    check_denoiser,
    check_folder,
    check_start,
)
from models.training.interval import initialise_, interval_loss
from models.training.learned_noise import NoiseShape
from models.training.losses import draws_loss, stability_loss
from models.training.monitor import fork_random, measure_int8, watch, watched_size
from models.training.recipe import Adversary, Recipe

# Number formats are compared by alternating steps of at most this many pictures, this many times.
TRIAL_PICTURES, TRIALS = 16, 3
# The steps of a schedule that follows the clock.
TICKS = 10_000


def train(
    recipe: Recipe,
    data: DataSet,
    out: Path,
    *,
    begin: "Callable[[Recipe, DataSet, str], Training] | None" = None,
    device: str = "cpu",
    resume: bool = False,
    force: bool = False,
    test: DataSet | None = None,
    tell: Callable[[str], None] | None = None,
) -> Manifest | DenoiserManifest:
    """Train a network and save it as a bundle.

    Args:
        recipe: how to train.
        data: the training pictures.
        out: the bundle's folder; checkpoints are kept there until the training is done.
        begin: sets the training up; a denoiser's differs from a whole network's.
        device: the torch device on which h is trained.
        resume: continue from the checkpoint in ``out``, if there is one, in the number format in
            which it began. On the same machine the weights end as they would have without the
            interruption.
        force: replace the bundle in ``out`` once the training is done, and begin again if there is
            an unfinished training that is not resumed.
        test: pictures on which int8 may be measured if too few are held out.
        tell: what to tell what int8 costs, or why that was not measured; None not to measure it.

    Returns:
        The bundle's description.

    Raises:
        TrainingError: ``out`` is in use or being written to, the checkpoint does not fit, the
            device has too little memory, or the loss is not finite.
        ValueError: the recipe does not fit the network or the data.
    """
    check_folder(out, resume=resume, force=force)
    if begin is None:
        check_denoiser(recipe, None)
    with _surroundings(recipe, device):
        try:
            training = (begin or Training)(recipe, data, device)
            with _alone(out):
                if not resume:
                    remove_checkpoint(out)
                return training.run(out, test, tell)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"{device} has too little free memory for {recipe.name} in batches of "
                f"{recipe.batch_size} ({str(error).splitlines()[0]}); train with --device cpu"
            ) from None


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep other trainings out of the folder.

    Raises:
        TrainingError: another training uses it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(out / CHECKPOINT, wait=False))
        except BlockingIOError:
            raise TrainingError(f"another training writes into {out}") from None
        yield


@contextmanager
def _surroundings(recipe: Recipe, device: str) -> Iterator[None]:
    """Set seed and threads as the recipe says, and restore them afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(recipe.threads)
    try:
        with fork_random(device):
            torch.manual_seed(recipe.seed)
            yield
    finally:
        torch.set_num_threads(threads)


class Training:
    """One training under way.

    h is on the device, and so are its inputs. g has few layers and stays on the CPU, where its Δ is
    kept at its bound, and proven, after every step.

    Args:
        recipe: how to train.
        data: the training pictures.
        device: a torch device.
        program: the program of an exported classifier inside the network.
        start: a bundle of the recipe's network, from whose weights the training begins; None to
            begin with fresh ones.

    Raises:
        TrainingError: ``start`` has another network.
        BundleError: its weights do not fit.
    """

    # How often an epoch shows each picture.
    SHOWN = 1

    def __init__(
        self,
        recipe: Recipe,
        data: DataSet,
        device: str = "cpu",
        program: bytes | None = None,
        start: Bundle | None = None,
    ) -> None:
        if start:
            check_start(recipe, start)
            recipe = recipe.changed(start=start.manifest.weights.sha256)
        self._data_digest = data.digest()
        self.held_out: DataSet | None = None
        if recipe.held_out:
            data, self.held_out = data.apart(recipe.held_out)
        self.recipe, self.data, self._program = recipe, data, program
        self.device = torch.device(device)
        self.progress = Progress()
        self._noise_norm = MECHANISM_NORMS[recipe.mechanism]
        self._labels = torch.from_numpy(data.labels)
        self.network = self._build()
        if start:
            load_weights(start, self.network)
        self._shape = NoiseShape(self.network.encoder) if recipe.learned_noise else None
        self._keep_sensitivity()
        self._describe()  # Faults of the description show now, not after the last epoch.
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.network.classifier.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        self._optimiser = torch.optim.AdamW(
            self.network.parameters(),
            lr=recipe.optimiser.learning_rate,
            weight_decay=recipe.optimiser.weight_decay,
        )
        if self._shape:
            # Decay would draw all shares to the same one.
            self._optimiser.add_param_group(
                {"params": [self._shape.logarithms], "weight_decay": 0.0}
            )
        self._steps = -(-self.SHOWN * len(data) // recipe.batch_size)
        self._began = time.perf_counter()

    def run(
        self,
        out: Path,
        test: DataSet | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> Manifest | DenoiserManifest:
        """Train to the end, from the checkpoint in ``out`` if there is one; see :func:`train`."""
        if (out / CHECKPOINT).exists():
            self.recipe, self.progress = read_checkpoint(
                out, self.recipe, self._data_digest, self.network, self._optimiser, self.device
            )
        elif self.recipe.precision is None:
            self.recipe = self.recipe.changed(precision=self._faster())
        done = self.progress.epochs * self._steps
        by_clock = self.recipe.seconds is not None
        total = self.recipe.epochs * self._steps
        self._began = time.perf_counter()
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser,
            max_lr=self.recipe.optimiser.learning_rate,
            total_steps=TICKS if by_clock else total,
            pct_start=self.recipe.optimiser.warm_up,
            last_epoch=(int(TICKS * self._share(done)) if by_clock and done else done) - 1,
        )
        with tqdm(
            total=None if by_clock else total,
            initial=done,
            unit="step",
            disable=not sys.stderr.isatty(),
        ) as bar:
            while self._share(self.progress.epochs * self._steps) < 1:
                self._epoch(self.progress.epochs, schedule, bar)
                self._watch()
                write_checkpoint(
                    out,
                    self.recipe,
                    self._data_digest,
                    self.network,
                    self._optimiser,
                    self.device,
                    self.progress,
                )
                tqdm.write(self._line(), file=sys.stderr)
        manifest = self._save(out, test, tell)
        remove_checkpoint(out)
        return manifest

    def _describe(self) -> Manifest | DenoiserManifest:
        """Describe the present network, as its bundle will."""
        return self.manifest()

    def _save(
        self, out: Path, test: DataSet | None, tell: Callable[[str], None] | None
    ) -> Manifest | DenoiserManifest:
        """Write the bundle; see :func:`train`."""
        manifest = self.manifest()
        if tell:
            manifest = self._with_int8(manifest, test, tell)
        remove_bundle(out)
        save_network(out, manifest, self.network)
        return manifest

    def manifest(self) -> Manifest:
        """Describe the present network. The digest of the weights follows with their file."""
        recipe, shape = self.recipe, self.data.shape
        self.network.eval()
        proven = self._sensitivity(self.network.encoder)
        return Manifest(
            name=recipe.name,
            version=recipe.version,
            architecture=recipe.architecture,
            input=InputShape(channels=shape[0], height=shape[1], width=shape[2]),
            labels=self.data.names,
            noise=NoiseSpec(
                mechanism=recipe.mechanism,
                scale=self.network.scale,
                placement=recipe.placement,
                construction_bound=recipe.construction_bound,
            ),
            sensitivity=SensitivitySpec(
                value=proven.value,
                input_norm=recipe.norm,
                noise_norm=self._noise_norm,
                method=proven.method,
            ),
            training={
                "recipe": recipe.model_dump(mode="json"),
                "data": {"pictures": len(self.data), "sha256": self._data_digest},
                "loss": self.progress.loss,
                "noisy_accuracy": self.progress.noisy_accuracy,
                "held_out": self.held_out
                and {
                    "pictures": len(self.held_out),
                    "accuracy": self.progress.accuracy,
                    "certified": self.progress.certified,
                },
                "seconds": round(self.progress.seconds, 1),
                "cpu_seconds": round(self.progress.cpu_seconds, 1),
                "device": self.device.type,
                "torch": torch.__version__,
            },
            weights=WeightsSpec(sha256="0" * 64),
        )

    def validation(self, test: DataSet | None) -> tuple[DataSet | None, str]:
        """Return labelled pictures on which nothing was trained, and what they are.

        Args:
            test: pictures to use if none are held out, or too few to let int8 serve and these are
                enough.
        """
        held = self.held_out
        few = held is None or len(held) < INT8_PICTURES
        if test is not None and few and (held is None or len(test) >= INT8_PICTURES):
            return test, f"{self.recipe.dataset} (test)"
        return held, f"{self.recipe.dataset} (held out)"

    def _with_int8(
        self, manifest: Manifest, test: DataSet | None, tell: Callable[[str], None]
    ) -> Manifest:
        """Measure int8, and return the description with what was found."""
        if self.recipe.mechanism == "interval":
            tell("int8: not measured, because the bounds of intervals are proven in float32 only")
            return manifest
        pictures, name = self.validation(test)
        if pictures is None:
            tell(
                no_record(
                    f"no pictures were held out; --held-out {INT8_PICTURES} measures it on some"
                )
            )
            return manifest
        found, sentence = measure_int8(self.network, manifest, pictures, name, str(self.device))
        tell(sentence)
        return manifest.model_copy(update={"int8": found})

    def _build(self) -> PixelDP:
        recipe, shape = self.recipe, self.data.shape
        encoder, classifier = networks.build(
            recipe.architecture.name,
            split.seen_shape(shape) if recipe.mechanism == "split" else shape,
            len(self.data.names),
            recipe.placement,
            recipe.architecture.arguments,
            self._program,
        )
        if recipe.mechanism == "interval":
            initialise_(classifier)
        learned = any(True for _ in encoder.parameters())
        sensitivity = self._kept() if learned else self._sensitivity(encoder).value
        scale = recipe.noise_scale(sensitivity)
        return PixelDP(encoder, classifier, recipe.mechanism, scale, shape)

    def _sensitivity(self, encoder: nn.Module) -> Sensitivity:
        """Bound Δ of g, from the attacks' norm to the noise's."""
        return encoder_sensitivity(encoder, self.data.shape, self.recipe.norm, self._noise_norm)

    def _keep_sensitivity(self) -> None:
        encoder = self.network.encoder
        if any(True for _ in encoder.parameters()):
            project_(encoder, self.data.shape, self.recipe.norm, self._noise_norm, self._kept())

    def _kept(self) -> float:
        """Return the bound at which Δ of a g that learns is kept: Δ for noise in the image.

        So a scale is worth the same wherever the noise is placed, and even from L∞ to L1 g's
        features are about as large as pixels, instead of smaller by the number of pixels.
        """
        return self._sensitivity(nn.Identity()).value

    def _epoch(
        self, epoch: int, schedule: torch.optim.lr_scheduler.LRScheduler, bar: "tqdm[Never]"
    ) -> None:
        began = time.process_time()
        if self.recipe.seconds is None:
            self._began = time.perf_counter()
        self.network.train()
        order = torch.randperm(self.SHOWN * len(self.data)) % len(self.data)
        losses, hits, seen = 0.0, 0.0, 0
        bar.set_description(self._count(epoch + 1))
        for step in range(self._steps):
            number = epoch * self._steps + step
            if (share := self._share(number)) >= 1 and seen:
                break
            batch = order[step * self.recipe.batch_size :][: self.recipe.batch_size]
            loss, right = self._step(batch, number)
            if self.recipe.seconds is not None:
                # Its rates are a function of this number.
                schedule.last_epoch = min(int(TICKS * share), TICKS - 2)
            schedule.step()
            seen += len(batch)
            losses, hits = losses + loss * len(batch), hits + right * len(batch)
            bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{right:.1%}", refresh=False)
            bar.update()
        self.progress = Progress(
            epochs=epoch + 1,
            seconds=self._elapsed(),
            cpu_seconds=self.progress.cpu_seconds + time.process_time() - began,
            loss=losses / max(seen, 1),
            noisy_accuracy=hits / max(seen, 1),
        )
        self._began = time.perf_counter()

    def _elapsed(self) -> float:
        """Return the seconds of training so far; by the clock, with what is between epochs."""
        return self.progress.seconds + time.perf_counter() - self._began

    def _share(self, step: int) -> float:
        """Return how much of the training is over before a step."""
        if self.recipe.seconds is None:
            return step / (self.recipe.epochs * self._steps)
        return self._elapsed() / self.recipe.seconds

    def _count(self, epoch: int) -> str:
        of = "" if self.recipe.seconds is not None else f"/{self.recipe.epochs}"
        return f"epoch {epoch}{of}"

    def _faster(self) -> Precision:
        """Measure in which number format a step is faster, and restore all state."""
        batch = torch.arange(min(TRIAL_PICTURES, self.recipe.batch_size, len(self.data)))
        buffers = [(buffer, buffer.clone()) for buffer in self.network.buffers()]
        taken: dict[Precision, list[float]] = {precision: [] for precision in PRECISIONS}
        asked = self.recipe
        self.network.train()
        with fork_random(str(self.device)):
            for _ in range(TRIALS):
                for precision, times in taken.items():
                    self.recipe = asked.changed(precision=precision)
                    began = time.perf_counter()
                    self._gradients(batch, 0)
                    if self.device.type == "cuda":
                        torch.cuda.synchronize(self.device)
                    times.append(time.perf_counter() - began)
        self.recipe = asked
        self._optimiser.zero_grad()
        for buffer, before in buffers:  # the running statistics of normalisation
            buffer.copy_(before)
        # The least of each: the first step includes set-up, and others may have waited for the
        # machine.
        least = {precision: min(times) for precision, times in taken.items()}
        fastest = min(least, key=least.__getitem__)
        told = ", ".join(f"{1000 * least[one]:.3g} ms in {one}" for one in least)
        tqdm.write(
            f"training in {fastest}: a step of {len(batch)} pictures takes {told}", file=sys.stderr
        )
        return fastest

    def _step(self, batch: Tensor, step: int) -> tuple[float, float]:
        """Make one step; return the loss, and the share of draws with the right label."""
        loss, accuracy = self._gradients(batch, step)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss.item()} in epoch {step // self._steps + 1}, step "
                f"{step % self._steps + 1}: lower the learning rate "
                f"(now {self.recipe.optimiser.learning_rate:g}) or lengthen its warm-up"
            )
        self._optimiser.step()
        if self._shape:
            self._shape.fold_()
        self._keep_sensitivity()
        return loss.item(), accuracy

    def _gradients(self, batch: Tensor, step: int) -> tuple[Tensor, float]:
        """Set the gradients of a step; return the loss, and the share of right draws."""
        recipe, labels = self.recipe, self._labels[batch].to(self.device)
        pictures = torch.from_numpy(self.data.images[batch.numpy()]).permute(0, 3, 1, 2)
        pictures = augment(pictures.contiguous().float() / 255, recipe.augmentation)
        if recipe.adversary:
            pictures = self._attacked(recipe.adversary, pictures, labels, self._grown(step))
        features = self.network.encode(pictures)
        if self._shape:
            features = self._shape.apply(features)
        features = features.to(self.device)
        if recipe.mechanism == "interval":
            noisy = enclose(features, self._scale(step))
        else:
            noisy = self.network.perturb(
                features.repeat(recipe.draws, *[1] * (features.dim() - 1)), self._scale(step)
            )
        if recipe.channels_last and noisy.dim() == 4:
            noisy = noisy.contiguous(memory_format=torch.channels_last)
        loss, accuracy = self._loss(noisy, pictures.to(self.device), labels)
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), accuracy

    def _attacked(
        self, adversary: Adversary, pictures: Tensor, labels: Tensor, grown: float
    ) -> Tensor:
        """Attack pictures on the CPU as the present network sees them, with fresh noise.

        ``grown`` is the share of the adversary's size that it has.
        """
        sizes = torch.full((len(pictures),), adversary.size * grown, device=self.device)
        scores = noisy_scores(self.network, self.recipe.draws)
        with self._autocast():
            changed = pgd(
                scores, pictures.to(self.device), labels, sizes, adversary.norm, adversary.steps
            )
        return changed.cpu()

    def _loss(self, noisy: Tensor, pictures: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        """Return the loss, and the share of draws with the right label.

        Args:
            noisy: [draws × batch, …], all pictures once, then all again; boxes of intervals.
            pictures: [batch, channels, height, width], without noise.
            labels: [batch].
        """
        if self.recipe.mechanism == "interval":
            network, natural = self.network.classifier, self.recipe.natural
            return interval_loss(network, noisy, pictures, labels, natural)
        with self._autocast():
            logits = self.network.score(noisy)
        logits = logits.float().reshape(self.recipe.draws, len(labels), -1)
        accuracy = (logits.detach().argmax(-1) == labels).float().mean().item()
        if self.recipe.stability is not None:
            with self._autocast():
                features = self.network.encode(pictures.cpu()).to(self.device)
                clean = self.network.score(features).float()
            return stability_loss(logits, clean, labels, self.recipe.stability), accuracy
        return draws_loss(logits, labels, self.recipe.consistency), accuracy

    def _autocast(self) -> torch.autocast:
        enabled = self.recipe.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def _watch(self) -> None:
        """Certify the held-out pictures with the present network."""
        if self.held_out:
            assert self.recipe.precision is not None  # since the training began
            self.progress.accuracy, self.progress.certified = watch(
                self.network,
                self.manifest(),
                self.held_out,
                self.recipe.precision,
                str(self.device),
            )

    def _scale(self, step: int) -> float:
        """Return the scale of the noise in a step."""
        return self.network.scale * self._grown(step)

    def _grown(self, step: int) -> float:
        """Return the share of its scale that noise has in a step: it grows over the first epochs.

        So do boxes and attacks.
        """
        growing = self.recipe.noise_warm_up * self._steps
        if self.recipe.seconds is not None:
            step = int(self._share(step) * self.recipe.epochs * self._steps)
        return min(1.0, (step + 1) / growing if growing else 1.0)

    def _line(self) -> str:
        now = self.progress
        line = (
            f"{self._count(now.epochs)}: loss {now.loss:.4f}, "
            f"accuracy under noise {now.noisy_accuracy:.2%}, {now.seconds:.0f} s"
        )
        if now.accuracy is None:
            return line
        radius = watched_size(self.manifest())
        return (
            f"{line}; held out: accuracy {now.accuracy:.1%}, certified at {self.recipe.norm} "
            f">= {radius:.3g}: {now.certified:.1%}"
        )
