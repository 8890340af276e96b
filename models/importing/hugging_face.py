"""Image classifiers as Hugging Face's libraries save them: a folder with ``config.json``.

``transformers`` builds the architecture that the description names, and gives the weights the names
that its present release has for them. Nothing is downloaded, and no code of the folder is run: the
class is looked up among the library's own image classifiers, and members of the description that
could fetch or run something are dropped. Folders of timm (with ``architecture``) are built by
:mod:`models.importing.timm_models`.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from models.importing.exporting import Built, Shape
from models.importing.files import read_weights
from models.importing.stated import read_labels, read_numbers
from models.importing.timm_models import build_timm
from models.networks.foreign.torchvision_operators import declare_missing_operators
from models.networks.limit import limited
from models.source_names import ImportFailedError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_PREPROCESSING = "preprocessor_config.json"
# Limits for strangers' descriptions: bytes of a file, and any number in it.
_LONGEST, _LARGEST = 2**22, 2**20
# Members that name code or files elsewhere, or choose a way of running the network.
_DROPPED: tuple[str, ...] = (
    *("attn_implementation", "experts_implementation", "auto_map", "quantization_config", "dtype"),
    *("_name_or_path", "backbone", "use_pretrained", "use_timm", "kernel"),
)
# Values of pixels, which these libraries multiply by rescale_factor.
_WHITE = 255.0


class _Logits(nn.Module):
    """Returns the logits alone."""

    def __init__(self, network: nn.Module, reverse: bool) -> None:
        super().__init__()
        self.network, self._reverse = network, reverse

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the logits of pictures, whose channels are reversed if it was trained on BGR."""
        logits: Tensor = self.network(
            pixel_values=pictures.flip(1) if self._reverse else pictures
        ).logits
        return logits


def read_folder(folder: Path, weights: Path | None = None, shape: Shape | None = None) -> Built:
    """Read a classifier.

    Args:
        folder: with ``config.json`` and ``model.safetensors``.
        weights: another file of weights.
        shape: (channels, height, width) of its input, if it is not the one that the folder states.

    Raises:
        ImportFailedError: it is not such a folder, or describes something that is not accepted.
    """
    try:
        config = _read(folder / CONFIG)
        prepared = _read(folder / _PREPROCESSING) if (folder / _PREPROCESSING).exists() else {}
        file = weights or folder / WEIGHTS
        if not file.is_file():
            raise ValueError(
                f"there is no {WEIGHTS}; save it by save_pretrained, or give --weights"
            )
        tensors = read_weights(file)
        if "architecture" in config:
            return _timm(config, tensors, shape)
        network, size = _build(config, tensors)
        mean, std = _normalisation(prepared)
        labels = config.get("id2label")
        return Built(
            _Logits(network, bool(prepared.get("do_flip_channel_order"))),
            shape or _shape(config, prepared, size),
            read_labels(labels) if labels else None,
            mean,
            std,
        )
    except ImportFailedError:
        raise
    except Exception as error:  # whatever the library raises for a description from a file
        reason = " ".join(str(error).split())[:500]
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ImportFailedError(f"{folder}: cannot be imported ({kind}{reason})") from None


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"there is no {file.name}")
    if file.stat().st_size > _LONGEST:
        raise ValueError(f"{file.name} has more than {_LONGEST:,} bytes")
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file.name} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file.name} is not an object")
    return content


def _timm(config: Mapping[str, Any], tensors: Mapping[str, Tensor], shape: Shape | None) -> Built:
    stated = {**config.get("pretrained_cfg", {})}
    for name in ("num_classes", "label_names"):
        if name in config:
            stated[name] = config[name]
    return build_timm(str(config["architecture"]), tensors, shape, stated)


def _plain(value: Any) -> Any:
    """Return a description without the members that are dropped, and with bounded numbers."""
    if isinstance(value, dict):
        return {
            name: _plain(one)
            for name, one in value.items()
            if not any(part in name for part in _DROPPED)
        }
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise ValueError(f"{CONFIG} has the number {value}; expected at most {_LARGEST:,}")
    return value


def _build(config: Mapping[str, Any], tensors: dict[str, Tensor]) -> tuple[nn.Module, int | None]:
    """Build the network with its weights; return it, and the side that it is built for."""
    # Even a mistake here or there then asks nothing of the network.
    os.environ["HF_HUB_OFFLINE"] = "1"
    declare_missing_operators()
    import transformers
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING as CLASSES,
    )

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    kind = config.get("model_type")
    if kind not in transformers.CONFIG_MAPPING:
        raise ValueError(f"{CONFIG} has the model_type {kind!r:.60}, which transformers lacks")
    described = transformers.CONFIG_MAPPING[kind].from_dict(_plain(dict(config)))
    if type(described) not in CLASSES:
        raise ValueError(f"{kind} is not an image classifier of transformers")
    with limited(len(tensors), sum(tensor.numel() for tensor in tensors.values())):
        network, found = CLASSES[type(described)].from_pretrained(
            None,
            config=described,
            state_dict=tensors,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, with their names
        )
    for kind_of in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found.get(kind_of):
            names = sorted(one if isinstance(one, str) else one[0] for one in found[kind_of])
            raise ValueError(
                f"the weights do not fit {CONFIG}: {kind_of.replace('_', ' ')} "
                f"{', '.join(names[:4])} (those of another size may have another number of labels)"
            )
    side = getattr(described, "image_size", None)
    return network.float(), side if isinstance(side, int) else None


def _shape(
    config: Mapping[str, Any], prepared: Mapping[str, Any], side: int | None
) -> Shape | None:
    """Return the input: as it is prepared, or as the network is built."""
    channels = int(config.get("num_channels", 3))
    cropped = prepared.get("crop_size") if prepared.get("do_center_crop") else None
    size = cropped or prepared.get("size") or side
    if isinstance(size, dict):
        size = (
            (size["height"], size["width"])
            if {"height", "width"} <= size.keys()
            else size.get("shortest_edge")
        )
    if isinstance(size, int):
        size = (size, size)
    return (channels, int(size[0]), int(size[1])) if size else None


def _normalisation(
    prepared: Mapping[str, Any],
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Return mean and std for pixel values in [0, 1]: (f·255·x − offset − mean)/std."""
    normalised = prepared.get("do_normalize", bool(prepared.get("image_mean")))
    mean = read_numbers("image_mean", prepared.get("image_mean") if normalised else None)
    std = read_numbers("image_std", prepared.get("image_std") if normalised else None)
    factor = _WHITE * float(prepared.get("rescale_factor", 1 / _WHITE))
    offset = 1.0 if prepared.get("rescale_offset") else 0.0
    if not prepared.get("do_rescale", True):
        factor = _WHITE
    if mean is None or std is None:
        if abs(factor - 1) < 1e-6 and not offset:
            return None, None
        mean, std = (0.0,) * 3, (1.0,) * 3
    # EfficientNet's divides by the deviation again.
    times = 2 if prepared.get("include_top") else 1
    return (
        tuple((one + offset) / factor for one in mean),
        tuple(one**times / factor for one in std),
    )
