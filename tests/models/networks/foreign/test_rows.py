"""An exported program is imported only if its rows are proven to be independent."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.importing.files import read_archive
from models.networks.foreign.exported import Exported
from models.networks.foreign.torchvision_operators import declare_missing_operators
from models.source_names import ImportFailedError

pytestmark = pytest.mark.slow

SHAPE, FEATURES = (1, 4, 4), 16
Function = Callable[[Tensor], Tensor]


class Written(nn.Module):
    """A small classifier with ``function`` between its two layers."""

    def __init__(self, function: Function, width: int = FEATURES) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.last = nn.Linear(FEATURES, FEATURES), nn.Linear(width, 4)
        self.function = function
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-0.5, 0.5, generator=generator)
        self.register_buffer("state", torch.zeros(FEATURES))
        self.register_buffer("many", torch.rand(8, FEATURES, generator=generator))

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits."""
        return self.last(self.function(self.first(pictures.flatten(1))))


def read(
    network: nn.Module, file: Path, *, decomposed: bool = False, shape: tuple[int, ...] = SHAPE
) -> Exported:
    """Export ``network`` for any number of pictures, and read it as an import does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = ({0: torch.export.Dim.DYNAMIC},)
        program = torch.export.export(network, (torch.rand(6, *shape),), dynamic_shapes=batch)
        if decomposed:
            program = program.run_decompositions()
        torch.export.save(program, file)
    archive = read_archive(file)
    exported = Exported(archive.program)
    exported.graph.load_state_dict(archive.tensors)
    return exported


def interleaved(features: Tensor) -> Tensor:
    """Ghost batch norm whose groups are the even and the odd rows."""
    groups = features.reshape(-1, 2, FEATURES)
    return ((groups - groups.mean(0)) / (groups.var(0) + 1e-5).sqrt()).reshape(-1, FEATURES)


def ghost(features: Tensor) -> Tensor:
    """Ghost batch norm of neighbouring rows."""
    groups = features.reshape(-1, 2, FEATURES)
    return (groups - groups.mean(1, keepdim=True)).reshape(-1, FEATURES)


def opposite(features: Tensor) -> Tensor:
    """The average of rows i and i + B/2."""
    half = features.shape[0] // 2
    return (features + torch.cat([features[half:], features[:half]])) / 2


def above_eight(features: Tensor) -> Tensor:
    """Mixes the rows after the eighth."""
    rest = features[8:]
    return torch.cat([features[:8], rest + rest.flip(0)])


def beyond_white(features: Tensor) -> Tensor:
    """Mixes rows only if six values of a row are larger than noise ever makes them."""
    asked = (features[:, :6] > 3).all(1, keepdim=True).to(features.dtype)
    return features + asked * features.mean(0)


def sometimes(features: Tensor) -> Tensor:
    """The maximum over the batch, of the rows that ask for it."""
    return torch.where(features[:, :1] > 3, features.max(0).values, features)


def placed(features: Tensor) -> Tensor:
    """Adds its number to each row."""
    return features + torch.arange(features.shape[0]).to(features.dtype)[:, None]


def assigned(features: Tensor) -> Tensor:
    """Writes one row over another."""
    out = features.clone()
    out[0] = features[-1]
    return out


def scattered(features: Tensor) -> Tensor:
    """Adds rows up if another row says so."""
    where = (features[:, 0] > 0).long()
    return torch.zeros_like(features).index_add(0, where, features)


def attention(features: Tensor) -> Tensor:
    """The rows attend to each other."""
    tokens = features[None]
    return F.scaled_dot_product_attention(tokens, tokens, tokens)[0]


def folded(features: Tensor) -> Tensor:
    """A reshape that makes one row from parts of several."""
    return features.t().reshape(-1, FEATURES)


def convolved(features: Tensor) -> Tensor:
    """A convolution over the batch."""
    kernel = torch.full((FEATURES, FEATURES, 3), 0.1)
    return F.conv1d(features.t()[None], kernel, padding=1)[0].t()


def pooled(features: Tensor) -> Tensor:
    """The mean of a row and its neighbours."""
    return F.avg_pool1d(features.t()[None], 3, 1, 1)[0].t()


def by_channels(features: Tensor) -> Tensor:
    """Group normalisation that takes the batch for channels."""
    return F.layer_norm(features.t(), [features.shape[0]]).t()


def gathered(features: Tensor) -> Tensor:
    """Sorts each column of the batch by an index."""
    return features.gather(0, features.argsort(0))


MIXING: dict[str, Function] = {
    "interleaved": interleaved,
    "ghost": ghost,
    "opposite": opposite,
    "above_eight": above_eight,
    "beyond_white": beyond_white,
    "sometimes": sometimes,
    "placed": placed,
    "assigned": assigned,
    "scattered": scattered,
    "attention": attention,
    "folded": folded,
    "convolved": convolved,
    "pooled": pooled,
    "by_channels": by_channels,
    "gathered": gathered,
    "roll": lambda x: x.roll(1, 0),
    "roll of all": lambda x: x.roll(1),
    "flip": lambda x: x.flip(0),
    "mean": lambda x: x - x.mean(0),
    "mean of a negative axis": lambda x: x - x.mean(-2),
    "mean of all": lambda x: x - x.mean(),
    "kept mean": lambda x: x - x.mean(dim=(0, 1), keepdim=True),
    "variance": lambda x: x / x.var(0).sqrt(),
    "norm": lambda x: x / x.norm(),
    "softmax": lambda x: x.softmax(0),
    "log-softmax": lambda x: F.log_softmax(x, dim=-2),
    "cumsum": lambda x: x.cumsum(0),
    "cummax": lambda x: x.cummax(0).values,
    "sort": lambda x: x.sort(0).values,
    "topk": lambda x: x + x.topk(1, dim=0).values,
    "argmax": lambda x: x + x.argmax(0).to(x.dtype),
    "median": lambda x: x - x.median(0).values,
    "kthvalue": lambda x: x - x.kthvalue(2, dim=0).values,
    "logsumexp": lambda x: x - x.logsumexp(0),
    "any": lambda x: x * (x > 1).any(0).to(x.dtype),
    "amax": lambda x: x / x.abs().amax(),
    "gram": lambda x: (x @ x.t()) @ x,
    "gram of constants": lambda x: x @ (x.t() @ x),
    "einsum": lambda x: x @ torch.einsum("bi,bj->ij", x, x),
    "outer einsum": lambda x: torch.einsum("bi,ci->bc", x, x) @ x,
    "addmm": lambda x: torch.addmm(x, x @ x.t(), x),
    "bmm": lambda x: torch.bmm(x[None], x.t()[None])[0] @ x,
    "batch norm": lambda x: F.batch_norm(x, None, None, training=True),
    "instance norm": lambda x: F.instance_norm(x[None].transpose(1, 2))[0].t(),
    "batch norm of momentum": lambda x: F.batch_norm(
        x, torch.zeros(FEATURES), torch.ones(FEATURES), training=True
    ),
    "unique": lambda x: x + x.unique().mean(),
    "cat": lambda x: torch.cat([x[1:], x[:1]]),
    "last": lambda x: x + x[-1:],
    "first": lambda x: x + x[0],
    "narrow": lambda x: x + x.narrow(0, 0, 1),
    "select": lambda x: x + x.select(0, 2),
    "index": lambda x: x + x[torch.tensor([0])],
    "index_select": lambda x: x + x.index_select(0, torch.tensor([1])),
    "unbind": lambda x: x + x[:4].unbind(0)[1],
    "chunk": lambda x: torch.cat(x.chunk(2)[::-1]),
    "every second": lambda x: x + x[::2].repeat_interleave(2, 0),
    "square": lambda x: x + x.reshape(2, -1, FEATURES).mean(0).repeat(2, 1),
    "broadcast square": lambda x: (x[:, None] + x[None]).sum(1),
    "cdist": lambda x: x + torch.cdist(x, x).mean(1, keepdim=True),
    "covariance": lambda x: x @ (x - x.mean(0)).t().matmul(x),
    "tril": lambda x: x.tril(),
    "diagonal": lambda x: x + x.diagonal()[:1],
    "pad": lambda x: F.pad(x, (0, 0, 1, 0))[:-1],
    "unfold": lambda x: F.pad(x, (0, 0, 1, 1)).unfold(0, 3, 1).mean(-1),
    "number of pictures": lambda x: x / x.shape[0],
    "number in a constant": lambda x: x + torch.full((FEATURES,), x.shape[0]).to(x.dtype),
    "slice by number": lambda x: F.pad(x[:, : x.shape[0] // 2], (0, 100))[:, :FEATURES],
    "range": lambda x: x * torch.ones(x.shape[0]).cumsum(0)[:, None],
    "eye": lambda x: torch.eye(x.shape[0]) @ x,
    "ones": lambda x: torch.ones(x.shape[0], x.shape[0]) @ x,
    "cumulated ones": lambda x: x + torch.ones_like(x).cumsum(0),
    "interpolate": lambda x: F.interpolate(x.t()[None], scale_factor=2.0)[0].t()[::2],
    "quantised by the batch": lambda x: (x * 127 / x.abs().max()).round() * x.abs().max() / 127,
    "pixel shuffle": lambda x: (
        F.pixel_unshuffle(F.pixel_shuffle(x.t().reshape(4, 4, -1).expand(4, 4, -1), 2).flip(1), 2)
        .mean(0)
        .t()
        .repeat(1, 4)
    ),
}


@pytest.mark.parametrize("name", MIXING)
def test_what_brings_rows_together_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImportFailedError, match=r"program: .*(node|calls) "):
        read(Written(MIXING[name]).eval(), tmp_path / "net.pt2")


class Counting(nn.Module):
    """Answers depending on what it was asked before."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.register_buffer("state", torch.zeros(FEATURES))
        self.register_buffer("table", torch.zeros(4, FEATURES))
        self.weight = nn.Parameter(torch.rand(4, FEATURES), requires_grad=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits."""
        features = pictures.flatten(1)
        match self.way:
            case "copy":
                self.state.copy_(features[0])
            case "add":
                self.state.add_(1)
            case "view":
                self.state.view(4, 4)[1].mul_(2).add_(1)
            case "index_put":
                self.table[torch.tensor([1])] = features[:1]
            case "parameter":
                self.weight.mul_(0.5)
            case "expanded":
                self.state[None].expand(4, -1).diagonal().add_(1)
        return (features + self.state + self.table.sum(0)) @ self.weight.t()


@pytest.mark.parametrize("way", ["copy", "add", "view", "index_put", "parameter", "expanded"])
@pytest.mark.parametrize("decomposed", [False, True])
def test_state_that_lasts_between_calls_is_refused(
    tmp_path: Path, way: str, decomposed: bool
) -> None:
    with pytest.raises(ImportFailedError, match="program: "):
        read(Counting(way).eval(), tmp_path / "net.pt2", decomposed=decomposed)


CHANCE: dict[str, Function] = {
    "rand": lambda x: x + torch.rand(FEATURES),
    "randn": lambda x: x + torch.randn(x.shape[0], 1),
    "rand_like": lambda x: x + torch.rand_like(x),
    "randint": lambda x: x + torch.randint(0, 2, (FEATURES,)).to(x.dtype),
    "randperm": lambda x: x[:, torch.randperm(FEATURES)],
    "bernoulli": lambda x: x.sigmoid().bernoulli(),
    "multinomial": lambda x: x + x.softmax(1).multinomial(1).to(x.dtype),
    "normal": lambda x: torch.normal(x, 1.0),
    "normal_": lambda x: x + torch.zeros(FEATURES).normal_(),
    "uniform_": lambda x: x + torch.zeros_like(x).uniform_(),
    "exponential_": lambda x: x + torch.ones_like(x).exponential_(),
    "gumbel": lambda x: F.gumbel_softmax(x),
    "dropout": lambda x: F.dropout(x, 0.5, training=True),
    "dropout_": lambda x: F.dropout(x, 0.5, training=True, inplace=True),
    "dropout of nothing": lambda x: F.dropout(x, 0.0, training=True),
    "feature dropout": lambda x: F.dropout1d(x[..., None], 0.5, training=True)[..., 0],
    "alpha dropout": lambda x: F.alpha_dropout(x, 0.5, training=True),
    "rrelu": lambda x: F.rrelu(x, training=True),
    "attention": lambda x: F.scaled_dot_product_attention(
        x[:, None], x[:, None], x[:, None], dropout_p=0.5
    )[:, 0],
    "empty": lambda x: x + torch.empty(FEATURES),
    "empty_like": lambda x: x + torch.empty_like(x),
    "new_empty": lambda x: x + x.new_empty(FEATURES),
    "new_empty_strided": lambda x: x + x.new_empty_strided((FEATURES,), (1,)),
    "as_strided": lambda x: x + torch.zeros(2).as_strided((FEATURES,), (0,)),
    "item": lambda x: x * x.sum().item(),
    "nonzero": lambda x: x + (x > 0).nonzero().sum().to(x.dtype),
    "mask": lambda x: x + x[x > 0].sum(),
}


@pytest.mark.parametrize("name", CHANCE)
def test_random_numbers_and_uninitialised_memory_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImportFailedError, match="program: "):
        read(Written(CHANCE[name]).eval(), tmp_path / "net.pt2")


@pytest.mark.parametrize("name", sorted({*CHANCE} - {"dropout of nothing"}))
def test_decomposed_programs_are_refused_too(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImportFailedError, match="program: "):
        read(Written(CHANCE[name]).eval(), tmp_path / "net.pt2", decomposed=True)


def turned_over(features: Tensor) -> Tensor:
    """Classifies a picture and its mirror image, in one batch of twice the size."""
    both = torch.cat([features, features.flip(1)])
    one, other = both.relu().chunk(2)
    return one + other


def windows(features: Tensor) -> Tensor:
    """Windows of each picture along the batch's axis, as in Swin."""
    parts = features.view(-1, 4, 4).reshape(features.shape[0] * 4, 4)
    return (parts.softmax(1) + parts).view(features.shape[0], 4, 4).flatten(1)


def time_first(features: Tensor) -> Tensor:
    """The batch's axis in the middle, and folded behind another."""
    tokens = features.view(-1, 4, 4).transpose(0, 1)
    mixed = F.linear(tokens.reshape(-1, 4), torch.eye(4)).view(4, features.shape[0], 4)
    return mixed.permute(1, 0, 2).flatten(1)


def class_token(features: Tensor) -> Tensor:
    """A constant in front of each picture's tokens, as in ViT."""
    token = torch.full((1, 1, 4), 0.5).expand(features.shape[0], -1, -1)
    tokens = torch.cat([token, features.view(-1, 4, 4)], 1)
    return F.scaled_dot_product_attention(tokens, tokens, tokens)[:, 1:].flatten(1)


def written_in_place(features: Tensor) -> Tensor:
    """Parts of a new tensor, written one after another."""
    out = torch.zeros(features.shape[0], FEATURES)
    out[:, :8] = features[:, 8:]
    out[:, 8:].copy_(features[:, :8]).relu_()
    mask = torch.zeros(4, 4)
    mask[1:] = 1
    return out.mul_(mask.view(-1))


def attention_by_einsum(features: Tensor) -> Tensor:
    """Attention within each picture."""
    tokens = features.view(-1, 4, 4)
    weights = torch.einsum("bic,bjc->bij", tokens, tokens).softmax(-1)
    return torch.einsum("bij,bjc->bic", weights, tokens).reshape(-1, FEATURES)


def images(function: Function) -> Function:
    """Apply ``function`` to four channels of 2 × 2."""
    return lambda x: function(x.view(-1, 4, 2, 2)).flatten(1)


ALONE: dict[str, Function] = {
    "turned over": turned_over,
    "windows": windows,
    "time first": time_first,
    "class token": class_token,
    "written in place": written_in_place,
    "attention by einsum": attention_by_einsum,
    "gather": lambda x: x.gather(1, x.argsort(1)),
    "topk": lambda x: F.pad(x.topk(3, 1).values, (0, FEATURES - 3)),
    "softmax": lambda x: x.softmax(-1) + x.cumsum(1),
    "embedding": lambda x: F.embedding((x > 0).long(), torch.eye(2)).sum(-1),
    "norm": lambda x: F.normalize(x, dim=1),
    "variance": lambda x: (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True),
    "group norm": images(lambda x: F.group_norm(x, 2)),
    "instance norm": images(lambda x: F.instance_norm(x)),
    "instance norm with weights": images(
        lambda x: F.instance_norm(x, weight=torch.arange(4.0), bias=torch.ones(4))
    ),
    "layer norm": images(lambda x: F.layer_norm(x, [4, 2, 2])),
    "batch norm": images(lambda x: F.batch_norm(x, torch.ones(4), torch.arange(1.0, 5.0))),
    "local response norm": images(lambda x: F.local_response_norm(x, 2)),
    "pixel shuffle": images(lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2)),
    "channel shuffle": images(lambda x: F.channel_shuffle(x, 2)),
    "interpolate": images(lambda x: F.interpolate(x, size=(2, 2), mode="bilinear")),
    "unfold": images(lambda x: F.unfold(x, 1)),
    "grid": images(
        lambda x: F.grid_sample(x, torch.tanh(x[:, :2].permute(0, 2, 3, 1)), align_corners=False)
    ),
    "dropouts": lambda x: F.alpha_dropout(
        F.dropout(F.feature_alpha_dropout(F.dropout(x, training=False)), 0.3, False, True)
    ),
    "rrelu": lambda x: F.rrelu(x),
    "silu of parts": lambda x: F.glu(torch.cat([x, x], 1)) * F.silu(x),
    "splits": lambda x: torch.cat(x.split([4, 12], 1)[::-1], 1),
}


# When decomposed, they compute with sizes or fill memory that they allocate.
WHOLE = {"turned over", "rrelu"}


@pytest.mark.parametrize(
    ("name", "decomposed"),
    [*((name, False) for name in ALONE), *((name, True) for name in sorted({*ALONE} - WHOLE))],
)
def test_networks_that_keep_rows_apart_are_accepted(
    tmp_path: Path, name: str, decomposed: bool
) -> None:
    network = Written(ALONE[name]).eval().requires_grad_(False)
    exported = read(network, tmp_path / "net.pt2", decomposed=decomposed)
    pictures = torch.rand(5, *SHAPE)
    torch.testing.assert_close(exported(pictures.clone()), network(pictures))
    for kept in range(5):
        alone = exported(pictures[kept][None].expand(5, *SHAPE).clone())
        torch.testing.assert_close(alone[2], exported(pictures.clone())[kept])


class Recurrent(nn.Module):
    """Reads each picture line by line."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(8, 4)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits."""
        lines = pictures[:, 0]
        if not self.layer.batch_first:
            lines = lines.transpose(0, 1)
        out, _ = self.layer(lines)
        return self.head(out[:, -1] if self.layer.batch_first else out[-1])


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_are_accepted(tmp_path: Path, kind: Any, first: bool) -> None:
    network = Recurrent(kind(4, 8, batch_first=first)).eval()
    exported = read(network, tmp_path / "net.pt2")
    pictures = torch.rand(3, *SHAPE)
    torch.testing.assert_close(exported(pictures), network(pictures))


def torchvision_networks() -> dict[str, Callable[[], nn.Module]]:
    """One of each of torchvision's families, with few and narrow layers where it allows that."""
    from torchvision import models as vision
    from torchvision.models import convnext, efficientnet, mobilenetv3, regnet

    def mobile(before: int, after: int) -> Any:
        return mobilenetv3.InvertedResidualConfig(before, 3, 16, after, True, "HS", 1, 1, 1.0)

    blocks = regnet.BlockParams.from_init_params(2, 8, 4, 2, 8, se_ratio=0.25)
    mb = [
        efficientnet.MBConvConfig(4, 3, 1, 8, 8, 1),
        efficientnet.FusedMBConvConfig(2, 3, 1, 8, 8, 1),
    ]
    return {
        "convnext": lambda: vision.ConvNeXt(
            [convnext.CNBlockConfig(8, 8, 1), convnext.CNBlockConfig(8, None, 1)], num_classes=7
        ),
        "densenet": lambda: vision.DenseNet(4, (1, 1), 8, num_classes=7),
        "efficientnet": lambda: vision.EfficientNet(mb, 0.2, num_classes=7, last_channel=16),
        "maxvit": lambda: vision.MaxVit((64, 64), 8, 2, [8], [1], 4, 0.2, num_classes=7),
        "mnasnet": lambda: vision.MNASNet(0.1, 7),
        "mobilenet_v2": lambda: vision.MobileNetV2(7, 0.1, [[1, 8, 1, 1], [6, 8, 2, 2]]),
        "mobilenet_v3": lambda: vision.MobileNetV3([mobile(16, 8), mobile(8, 8)], 16, 7),
        "regnet": lambda: vision.RegNet(blocks, 7, stem_width=8),
        "resnet": lambda: vision.resnet18(num_classes=7),
        "resnext": lambda: vision.ResNet(
            vision.resnet.Bottleneck, [1, 1, 1, 1], 7, groups=32, width_per_group=4
        ),
        "shufflenet": lambda: vision.ShuffleNetV2([1, 1, 1], [8, 8, 16, 32, 32], 7),
        "squeezenet": lambda: vision.SqueezeNet("1_1", 7),
        "swin": lambda: vision.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [2, 2], num_classes=7),
        "swin_v2": lambda: vision.SwinTransformer(
            [4, 4],
            8,
            [2],
            [2],
            [3, 3],
            num_classes=7,
            block=vision.swin_transformer.SwinTransformerBlockV2,
            downsample_layer=vision.swin_transformer.PatchMergingV2,
        ),
        "vit": lambda: vision.VisionTransformer(64, 16, 1, 2, 16, 16, num_classes=7),
    }


# Without those that add no operator and take long to export.
FAMILIES = [
    "convnext",
    "densenet",
    "efficientnet",
    "maxvit",
    "mnasnet",
    "mobilenet_v2",
    "mobilenet_v3",
    "regnet",
    "resnet",
    "resnext",
    "shufflenet",
    "squeezenet",
    "swin",
    "swin_v2",
    "vit",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_each_of_torchvisions_families_is_accepted(tmp_path: Path, name: str) -> None:
    declare_missing_operators()
    networks = torchvision_networks()
    assert sorted(networks) == FAMILIES
    network = networks[name]().eval()
    for decomposed in (False, True):
        exported = read(network, tmp_path / "net.pt2", decomposed=decomposed, shape=(3, 64, 64))
        pictures = torch.rand(2, 3, 64, 64)
        with torch.inference_mode():
            torch.testing.assert_close(exported(pictures), network(pictures), atol=1e-3, rtol=1e-3)
