"""Small classifiers to import, as a team's own module would build them."""

import threading
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import networks

SHAPE = (1, 8, 8)
LABELS = 4


class Small(nn.Module):
    """A convolution, a normalisation and a linear layer; subclasses break it in various ways."""

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
    """Needs the contiguous memory layout."""

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits."""
        features = self.norm(self.features(pictures)).relu()
        return self.head(features.view(len(pictures), -1))


class WithDropout(Small):
    """Applies dropout in every mode."""

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
    """Computes in float32 whatever the format of its weights."""

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits."""
        return super().forward(pictures.float())


class Pair(Small):
    """Returns a dictionary, as detectors do."""

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Return logits in a dictionary."""
        return {"logits": super().forward(pictures)}


class Nan(Small):
    """Divides by zero."""

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


def quietly(build: Callable[[], nn.Module]) -> nn.Module:
    """Uses what PyTorch calls deprecated, as people's networks do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build()


def dynamically_quantised() -> nn.Module:
    return quietly(lambda: torch.ao.quantization.quantize_dynamic(Small().eval(), {nn.Linear}))


def statically_quantised() -> nn.Module:
    network = Small().eval()
    network.head = quietly(lambda: torch.ao.nn.quantized.Linear(64, LABELS))
    return network


def scripted() -> nn.Module:
    return quietly(lambda: torch.jit.trace(Small().eval(), torch.rand(2, *SHAPE)))


def lazy() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(LABELS))


def parallel() -> nn.Module:
    return nn.DataParallel(Small())


def sparse() -> nn.Module:
    network = Small()
    network.head.weight = nn.Parameter(network.head.weight.detach().to_sparse())
    return network


def complex_numbers() -> nn.Module:
    network = Small()
    network.register_buffer("turn", torch.ones(1, dtype=torch.complex64))
    return network


def on_meta() -> nn.Module:
    return Small().to("meta")


def uncopied() -> nn.Module:
    network = Small()
    network.lock = threading.Lock()
    return network


class MoreState(Small):
    """Keeps something that is not a tensor."""

    def get_extra_state(self) -> dict[str, int]:
        """Return it."""
        return {"seen": 3}


def more_state() -> Small:
    return MoreState()


def failing() -> Small:
    raise OSError("the data base is down")


def nothing() -> None:
    return None


def digits_cnn() -> nn.Module:
    """The network of the recipe ``digits``."""
    return networks.build("cnn", SHAPE, 10, "image", {"channels": [16, 32], "hidden": 64})[1]


def of_any_size() -> nn.Sequential:
    """Colour pictures of any size, and two labels."""
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(features, nn.Flatten(), nn.Linear(4, 2))
