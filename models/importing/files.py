"""Files with weights: state dicts, and archives of ``torch.export``; never unpickled freely."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.bundle import LARGEST, PROGRAM
from models.networks.foreign.exported import DTYPES, STORED, Exported, attribute, strip
from models.source_names import ImportFailedError

# torch.export does not compress its archives; somebody may have compressed one to send it.
MOST_TIMES, SPARE_BYTES = 4, 2**22
# The names under which training scripts store the state dict beside other data. An average of
# weights (ema) comes last: if there are two, the other is certainly complete.
_NESTED = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights"),
    *("params", "module", "ema", "ema_state_dict", "state_dict_ema", "model_ema", "params_ema"),
)
_SHOWN = 4


@dataclass(frozen=True)
class Archive:
    """An exported program: its graph, its weights by their names there, and its input."""

    program: bytes
    tensors: dict[str, Tensor]
    shape: tuple[int, int, int]


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read a state dict.

    Args:
        file: ``.safetensors``, or a file of ``torch.save``, of which only tensors and plain
            containers are read.

    Raises:
        ImportFailedError: it cannot be read, or holds no state dict.
    """
    return _state_dict(file, _load(file))


def read_checkpoint(file: Path) -> tuple[str, dict[str, Tensor]]:
    """Read a checkpoint that names its architecture: return ``arch`` and the state dict.

    Raises:
        ImportFailedError: it cannot be read, or lacks one of them.
    """
    content = _load(file)
    arch = content.get("arch") if isinstance(content, Mapping) else None
    if not isinstance(arch, str) or not isinstance(content, Mapping):
        there = ", ".join(map(str, content)) if isinstance(content, Mapping) else "no dictionary"
        raise ImportFailedError(
            f"{file}: is not a checkpoint with its architecture's name: expected arch and "
            f"state_dict, found {there:.200}"
        )
    return arch, _state_dict(file, content.get("state_dict"))


def _load(file: Path) -> object:
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that it then refuses
            content: object = torch.load(file, map_location="cpu", weights_only=True)
            return content
    except UnpicklingError:
        raise ImportFailedError(
            f"{file}: holds more than tensors, which would have to be unpickled and could run "
            "code; save only the state dict, best with safetensors' save_file"
        ) from None
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise ImportFailedError(f"{file}: cannot be read as weights ({reason})") from None


def _state_dict(file: Path, content: object) -> dict[str, Tensor]:
    """Find the state dict in what a training script saved, however deep."""
    while isinstance(content, Mapping) and content:
        if all(isinstance(value, Tensor) for value in content.values()):
            return {str(name): value for name, value in content.items()}
        inner = {name: value for name, value in content.items() if isinstance(value, Mapping)}
        known = [name for name in _NESTED if inner.get(name)] or list(inner)
        if not known or (len(known) > 1 and known[0] not in _NESTED):
            others = [
                f"{k} ({type(v).__name__})" for k, v in content.items() if not isinstance(v, Tensor)
            ]
            more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
            raise ImportFailedError(
                f"{file}: holds no state dict alone, but other things than tensors: "
                f"{', '.join(others[:_SHOWN])}{more}; save the state dict"
            )
        content = inner[known[0]]
    raise ImportFailedError(f"{file}: holds no state dict")


def read_archive(file: Path) -> Archive:
    """Read what ``torch.export.save`` wrote, without ``torch.export.load``.

    Raises:
        ImportFailedError: it is not such an archive, or its program is not accepted.
    """
    try:
        with ZipFile(file) as archive:
            _check_size(file, archive)
            models = [name for name in archive.namelist() if "/models/" in name]
            if len(models) != 1:
                raise ValueError(
                    f"holds {len(models)} programs; expected the one that torch.export.save of "
                    f"PyTorch {torch.__version__} writes"
                )
            document = archive.read(models[0])
            program = strip(document)
            root, name = models[0].split("/models/")
            name = name.removesuffix(".json")
            tensors = {
                **_tensors(archive, f"{root}/data/weights/", f"{name}_weights_config.json"),
                **_tensors(archive, f"{root}/data/constants/", f"{name}_constants_config.json"),
            }
        return Archive(program, _stored(program, tensors), Exported(program).shape)
    except (BadZipFile, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ImportFailedError(f"{file}: cannot be imported ({reason})") from None


def _check_size(file: Path, archive: ZipFile) -> None:
    """Refuse an archive that would need far more memory than its size, before it is read."""
    size = sum(member.file_size for member in archive.infolist())
    most = MOST_TIMES * file.stat().st_size + SPARE_BYTES
    if size > most:
        raise ValueError(f"holds {size:,} bytes packed into {file.stat().st_size:,}")
    programs = [one.file_size for one in archive.infolist() if "/models/" in one.filename]
    if max(programs, default=0) > LARGEST[PROGRAM]:
        raise ValueError(f"holds a program of more than {LARGEST[PROGRAM]:,} bytes")


def _tensors(archive: ZipFile, folder: str, config: str) -> dict[str, Tensor]:
    tensors = {}
    for name, payload in json.loads(archive.read(folder + config))["config"].items():
        meta = payload["tensor_meta"]
        if payload["use_pickle"] or meta is None:
            raise ValueError(f"{name} is not a plain tensor and would have to be unpickled")
        content = bytearray(archive.read(folder + payload["path_name"]))
        kind = DTYPES.get(meta["dtype"])
        if kind is None:
            raise ValueError(
                f"{name} holds numbers of a type that is not accepted ({meta['dtype']})"
            )
        width = torch.empty(0, dtype=kind).element_size()
        sizes, strides = ([int(one["as_int"]) for one in meta[key]] for key in ("sizes", "strides"))
        offset = int(meta["storage_offset"]["as_int"])
        if prod(sizes) * width > len(content):
            raise ValueError(
                f"{name} is {sizes} numbers, which are more than the {len(content):,} bytes that "
                "are stored of it"
            )
        flat = torch.frombuffer(content, dtype=kind) if content else torch.empty(0, dtype=kind)
        tensors[name] = flat.as_strided(sizes, strides, offset).clone().contiguous()
    return tensors


def _stored(program: bytes, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that the program needs, by their names as attributes of its module."""
    specs: list[dict[str, Any]] = json.loads(program)["graph_module"]["signature"]["input_specs"]
    names = [
        content[STORED[kind]] for spec in specs for kind, content in spec.items() if kind in STORED
    ]
    missing = [name for name in names if name not in tensors]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")
    return {attribute(name): tensors[name] for name in names}
