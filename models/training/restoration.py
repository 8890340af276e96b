"""Training a denoiser by itself: it restores photographs, and knows of no classifier.

The loss is Charbonnier's (Charbonnier et al. 1994), √((restored − clean)² + ε²): about the absolute
error, which minds large errors less than the squared one does, and so keeps edges sharper.
"""

from collections.abc import Callable
from math import log10
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.bundle import NoiseSpec, WeightsSpec, remove_bundle
from models.data.labelled import DataSet
from models.denoiser import DenoiserManifest
from models.network import PixelDP, save_denoiser
from models.networks.unet import build_unet
from models.training.loop import Training
from models.training.monitor import fork_random

EPSILON = 1e-3


class RestorationTraining(Training):
    """One training of a denoiser on photographs; their labels are not used."""

    SHOWN = 16

    def _build(self) -> PixelDP:
        recipe, shape = self.recipe, self.data.shape
        front = build_unet(shape, **recipe.architecture.arguments)
        encoder = nn.Identity()
        scale = recipe.noise_scale(self._sensitivity(encoder).value)
        return PixelDP(encoder, front, recipe.mechanism, scale, shape)

    def _describe(self) -> DenoiserManifest:
        recipe, now = self.recipe, self.progress
        self.network.eval()
        return DenoiserManifest(
            name=recipe.name,
            version=recipe.version,
            architecture=recipe.architecture,
            channels=self.data.shape[0],
            noise=NoiseSpec(
                mechanism=recipe.mechanism,
                scale=self.network.scale,
                placement=recipe.placement,
                construction_bound=recipe.construction_bound,
            ),
            training={
                "recipe": recipe.model_dump(mode="json"),
                "data": {"pictures": len(self.data), "sha256": self._data_digest},
                "loss": now.loss,
                "held_out": self.held_out and {"pictures": len(self.held_out), "psnr": now.psnr},
                "seconds": round(now.seconds, 1),
                "cpu_seconds": round(now.cpu_seconds, 1),
                "device": self.device.type,
                "torch": torch.__version__,
            },
            weights=WeightsSpec(sha256="0" * 64),
        )

    def _save(
        self, out: Path, test: DataSet | None, tell: Callable[[str], None] | None
    ) -> DenoiserManifest:
        manifest = self._describe()
        remove_bundle(out)
        save_denoiser(out, manifest, self.network.classifier)
        return manifest

    def _loss(self, noisy: Tensor, pictures: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        with self._autocast():
            restored = self.network.score(noisy)
        error = restored.float() - pictures.repeat(self.recipe.draws, 1, 1, 1)
        return (error.square() + EPSILON**2).sqrt().mean(), 0.0

    def _watch(self) -> None:
        """Measure the peak signal-to-noise ratio of the held-out pictures, each with one draw."""
        if not self.held_out:
            return
        self.network.eval()
        with fork_random(str(self.device)), torch.no_grad():
            torch.manual_seed(self.recipe.seed)
            squares = torch.from_numpy(self.held_out.images[:]).permute(0, 3, 1, 2)
            errors = []
            for part in torch.split(squares, self.recipe.batch_size):
                pictures = part.contiguous().float() / 255
                noisy = self.network.perturb(pictures).to(self.device)
                restored = self.network.score(noisy).clamp(0, 1).cpu()
                errors += F.mse_loss(restored, pictures, reduction="none").mean((1, 2, 3)).tolist()
        self.progress.psnr = sum(-10 * log10(error) for error in errors) / len(errors)

    def _line(self) -> str:
        now = self.progress
        line = f"{self._count(now.epochs)}: loss {now.loss:.4f}, {now.seconds:.0f} s"
        return line if now.psnr is None else f"{line}; held out: {now.psnr:.2f} dB"
