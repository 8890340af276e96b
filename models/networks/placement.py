"""Where noise is added: a network is divided into g, before the noise, and h, after it."""

from collections import OrderedDict

from torch import nn

from models.bundle import IMAGE as IMAGE

FIRST_LAYER = "layer1"


def divide(network: nn.Sequential, placement: str) -> tuple[nn.Module, nn.Module]:
    """Divide ``network`` into g and h; each part keeps the names of its modules.

    Args:
        network: the whole network.
        placement: ``image``: g is the identity. ``layer1``: right after the first convolution or
            fully connected layer, as in the paper. Otherwise a module's path: after that module.

    Raises:
        ValueError: there is no such module, nothing would be left for h, or the module is inside
            one with other paths around it: these would reach h without the noise.
    """
    if placement == IMAGE:
        return nn.Identity(), network
    path = _first_layer(network) if placement == FIRST_LAYER else placement
    before, after = _split(network, path.split("."), path)
    if not len(after):
        raise ValueError(
            f"placement {path!r}: is the network's end; no classifier is left after it"
        )
    return _alone(before), after


def _alone(part: nn.Module) -> nn.Module:
    """Return a single layer as itself, not wrapped."""
    while isinstance(part, nn.Sequential) and len(part) == 1:
        part = part[0]
    return part


def _first_layer(network: nn.Sequential) -> str:
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            return str(path)
    raise ValueError(f"placement {FIRST_LAYER!r}: the network has no convolution or linear layer")


def _split(part: nn.Module, names: list[str], path: str) -> tuple[nn.Sequential, nn.Sequential]:
    if type(part) is not nn.Sequential:  # a subclass may have other paths through it
        raise ValueError(
            f"placement {path!r}: lies inside a {type(part).__name__}, whose other paths would "
            "carry the picture around the noise into the classifier; place it before or after that"
        )
    name, *inner = names
    children = list(part._modules)
    if name not in children:
        known = ", ".join(children)
        raise ValueError(
            f"placement {path!r}: no module {name!r}; expected {IMAGE}, {FIRST_LAYER}, or the path "
            f"of a module: {known}"
        )
    index = children.index(name) + 1
    items = list(part._modules.items())  # a module that is used twice is listed twice
    before, after = items[:index], items[index:]
    if inner:
        head, tail = _split(part.get_submodule(name), inner, path)
        before[-1] = name, head
        if len(tail):
            after.insert(0, (name, tail))
    return nn.Sequential(OrderedDict(before)), nn.Sequential(OrderedDict(after))
