"""Names that a training gave to weights are matched to the network's own."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from models.importing.fitting import fit
from models.source_names import ImportFailedError
from tests.models.importing.classifiers import Small, small

State = dict[str, Tensor]


def state_of(network: nn.Module) -> State:
    return dict(network.state_dict())


class Lightning(nn.Module):
    """A network inside the module that trained it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.model = network
        self.criterion = nn.CrossEntropyLoss(weight=torch.ones(4))


class Normalise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))


def prefixed(*prefixes: str) -> Callable[[nn.Module], State]:
    prefix = "".join(prefixes)
    return lambda network: {prefix + name: value for name, value in state_of(network).items()}


def compiled(network: nn.Module) -> State:
    return state_of(torch.compile(network))  # type: ignore[arg-type]


def parts_compiled(network: nn.Module) -> State:
    assert isinstance(network, Small)
    network.features = torch.compile(network.features)  # type: ignore[assignment]
    return state_of(network)


def averaged(network: nn.Module) -> State:
    return state_of(AveragedModel(network))


WAYS: dict[str, Callable[[nn.Module], State]] = {
    "plain": state_of,
    "compiled": compiled,
    "parts compiled": parts_compiled,
    "parallel": lambda network: state_of(nn.DataParallel(network)),
    "averaged": averaged,
    "lightning": lambda network: state_of(Lightning(network)),
    "cohen": lambda network: state_of(nn.Sequential(nn.Identity(), nn.DataParallel(network))),
    "normalised": lambda network: state_of(nn.Sequential(Normalise(), network)),
    "net": prefixed("net."),
    "compiled lightning": prefixed("model.", "_orig_mod."),
    "compiled parallel": prefixed("module.", "_orig_mod."),
    "old": lambda network: {
        name: value for name, value in state_of(network).items() if "num_batches" not in name
    },
    "counted": lambda network: state_of(network) | {"features.total_ops": torch.zeros(1)},
}
LEFT_OUT = {
    "averaged": ("n_averaged",),
    "lightning": ("criterion.weight",),
    "normalised": ("0.mean",),
}


@pytest.mark.parametrize("way", WAYS)
def test_names_are_matched_to_the_networks(way: str) -> None:
    network, other = small(), small()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    fitted = fit(WAYS[way](network), other.state_dict(), "small")
    other.load_state_dict(fitted.tensors, strict=True)
    for mine, given in zip(other.parameters(), network.parameters(), strict=True):
        assert torch.equal(mine, given)
    assert fitted.left_out == LEFT_OUT.get(way, ())


@pytest.mark.parametrize(
    "builder",
    [
        nn.DataParallel,
        lambda network: nn.Sequential(nn.Identity(), network),
        lambda network: nn.Sequential(nn.Identity(), nn.DataParallel(network)),
    ],
)
def test_a_builder_may_wrap_a_network_that_was_saved_unwrapped(
    builder: Callable[[nn.Module], nn.Module],
) -> None:
    state = state_of(small())
    network = builder(small())
    fitted = fit(state, network.state_dict(), "small")
    network.load_state_dict(fitted.tensors, strict=True)
    assert not fitted.left_out


def test_unneeded_weights_are_named_by_their_prefix() -> None:
    state = state_of(small()) | {"aux.weight": torch.zeros(3)}
    for names in (state, {f"module.{name}": value for name, value in state.items()}):
        assert fit(names, small().state_dict(), "small", ("aux.",)).tensors.keys() == (
            small().state_dict().keys()
        )
        with pytest.raises(ImportFailedError, match=r"also holds aux\.weight, which the network"):
            fit(names, small().state_dict(), "small")


def test_a_mismatch_names_the_weights_that_are_there() -> None:
    state = state_of(small())
    renamed = {name.replace("features", "conv1"): value for name, value in state.items()}
    with pytest.raises(
        ImportFailedError,
        match=r"lacks features\.bias, features\.weight, and holds conv1\.bias, conv1\.weight;",
    ):
        fit(renamed, small().state_dict(), "small")
    partly = {f"model.{name}": value for name, value in state.items() if name != "head.bias"}
    with pytest.raises(ImportFailedError, match=r"the file lacks head\.bias; rename"):
        fit(partly, small().state_dict(), "small")
    twice = {f"{part}.{name}": value for part in ("ema", "model") for name, value in state.items()}
    with pytest.raises(ImportFailedError, match=r"more than once, as ema\.\*, model\.\*"):
        fit(twice, small().state_dict(), "small")
    state["head.weight"] = state["head.weight"][:3]
    with pytest.raises(
        ImportFailedError, match=r"head\.weight is \[3, 64\] in the file and \[4, 64\].*--labels"
    ):
        fit(state, small().state_dict(), "small")
