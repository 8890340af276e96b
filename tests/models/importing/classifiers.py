"""Small classifiers to import, as a team's own module would build them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import networks

SHAPE = (1, 8, 8)
LABELS = 4


class Small(nn.Module):
    """A convolution, a normalisation and a linear layer; subclasses break it."""

    def __init__(self, **batch_norm: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.features = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4, **batch_norm)
        self.head = nn.Linear(64, LABELS)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-0.5, 0.5, generator=generator)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits."""
        features = self.norm(self.features(pictures)).relu()
        return self.head(features.flatten(1))


class WithView(Small):
    """Wants the plain memory layout."""

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits."""
        features = self.norm(self.features(pictures)).relu()
        return self.head(features.view(len(pictures), -1))


class WithDropout(Small):
    """Drops values whatever its mode."""

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits."""
        return super().forward(F.dropout(pictures, 0.5, training=True))


class Centred(Small):
    """Looks at the whole batch."""

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits."""
        logits = super().forward(pictures)
        return logits - 1e-3 * logits.mean(dim=0)


class Float32Only(Small):
    """Computes in float32 whatever its weights are in."""

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits."""
        return super().forward(pictures.float())


class Pair(Small):
    """Returns a dictionary, as detectors do."""

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Return logits in a dictionary."""
        return {"logits": super().forward(pictures)}


class Nan(Small):
    """Divides by nothing."""

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits."""
        return super().forward(pictures) * (pictures.amax(dim=(1, 2, 3)) * 0 / 0)[:, None]


def small() -> Small:
    return Small()


def with_view() -> Small:
    return WithView()


def with_dropout() -> Small:
    return WithDropout()


def centred() -> Small:
    return Centred()


def batch_statistics() -> Small:
    return Small(track_running_stats=False)


def float32_only() -> Small:
    return Float32Only()


def pair() -> Small:
    return Pair()


def nan() -> Small:
    return Nan()


def failing() -> Small:
    raise OSError("the data base is down")


def nothing() -> None:
    return None


def digits_cnn() -> nn.Module:
    """The network of the recipe ``digits``."""
    return networks.build("cnn", SHAPE, 10, "image", {"channels": [16, 32], "hidden": 64})[1]
