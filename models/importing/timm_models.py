"""timm's classifiers by name, with weights from a file. Nothing is downloaded."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

from models.importing.exporting import Built, Shape
from models.importing.fitting import fit
from models.importing.stated import read_labels, read_numbers
from models.networks.foreign.torchvision_operators import declare_missing_operators
from models.networks.limit import limited
from models.source_names import TIMM_NAME, ImportFailedError


def build_timm(
    name: str,
    tensors: Mapping[str, Tensor] | None,
    shape: Shape | None = None,
    stated: Mapping[str, Any] | None = None,
) -> Built:
    """Build a classifier.

    Args:
        name: as timm lists it: ``resnet18``, or with the name of its weights, ``resnet18.a1_in1k``,
            which decides size, normalisation and labels.
        tensors: its weights; None for random ones.
        shape: (channels, height, width) of its input, if it is not its usual one.
        stated: what a folder of timm's states instead of ``default_cfg``.

    Raises:
        ImportFailedError: there is no such classifier, or the weights are not its own.
        ValueError: a folder describes far more than its weights.
    """
    declare_missing_operators()
    import timm

    architecture = name.partition(".")[0]
    if TIMM_NAME.fullmatch(name) is None or not timm.is_model(architecture):
        near = get_close_matches(architecture, timm.list_models(), 1)
        hint = f"; did you mean timm:{near[0]}?" if near else ""
        raise ImportFailedError(f"timm has no classifier {name!r:.80}{hint}")
    try:
        usual = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise ImportFailedError(f"timm:{name}: {error}") from None
    known = {**(usual.to_dict() if usual else {}), **(stated or {})}
    input_ = known.get("input_size") or (3, 224, 224)
    size = shape or (int(input_[0]), int(input_[1]), int(input_[2]))
    count = _count(known, tensors)
    network = _create(name, size, tuple(input_), count, tensors)
    if tensors is not None:
        fitted = fit(tensors, network.state_dict(), f"timm:{name}")
        network.load_state_dict(fitted.tensors, strict=True)
    return Built(
        network.eval(),
        size,
        _labels(known, count),
        read_numbers("mean", known.get("mean")) if size[0] == 3 else None,
        read_numbers("std", known.get("std")) if size[0] == 3 else None,
    )


def _create(
    name: str,
    shape: Shape,
    usual: tuple[int, ...],
    count: int,
    tensors: Mapping[str, Tensor] | None,
) -> nn.Module:
    import timm

    options: dict[str, Any] = {"num_classes": count, "in_chans": shape[0]}
    values = sum(tensor.numel() for tensor in (tensors or {}).values())
    # Names are timm's own, so there is no limit without weights.
    limits = (len(tensors), values) if tensors is not None else (10**6, 10**12)
    with limited(*limits):
        if shape[1:] != usual[1:]:
            try:
                resized: nn.Module = timm.create_model(name, img_size=shape[1:], **options)
                return resized
            except TypeError:  # takes pictures of any size
                pass
        network: nn.Module = timm.create_model(name, **options)
        return network


def _count(known: Mapping[str, Any], tensors: Mapping[str, Tensor] | None) -> int:
    """Return the number of labels: that of the weights' last layer, if they have it."""
    last = known.get("classifier")
    heads = [last] if isinstance(last, str) else list(last or ())
    for name, tensor in (tensors or {}).items():
        if any(name == f"{head}.weight" or name.endswith(f".{head}.weight") for head in heads):
            return len(tensor)
    return int(known.get("num_classes") or 1000)


def _labels(known: Mapping[str, Any], count: int) -> tuple[str, ...] | None:
    import timm.data

    if known.get("label_names"):
        return read_labels(known["label_names"])
    subset = timm.data.infer_imagenet_subset(dict(known)) if known.get("num_classes") else None
    if subset is None or known["num_classes"] != count:
        return None
    return read_labels(timm.data.ImageNetInfo(subset).label_descriptions(as_dict=False))
