"""Checkpoints: the state of a training after an epoch, as safetensors and JSON.

Two files cannot be replaced in one step. So the tensors are written first, under a new name, and
``checkpoint.json``, which names them, is replaced last: it always describes a whole checkpoint.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from models.files import write_whole
from models.training.checks import CHECKPOINT, TrainingError
from models.training.recipe import Recipe

FORMAT_VERSION = 1


@dataclass
class Progress:
    """The progress of a training: whole epochs, their time, and the results of the last one.

    ``cpu_seconds`` is processor time, which other work on the machine does not lengthen.
    ``accuracy`` and ``certified`` are those of the held-out pictures, if there are any; ``psnr`` is
    that of the pictures that a denoiser restores, in dB.
    """

    epochs: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    loss: float = 0.0
    noisy_accuracy: float = 0.0
    accuracy: float | None = None
    certified: float | None = None
    psnr: float | None = None


def write_checkpoint(
    folder: Path,
    recipe: Recipe,
    data_digest: str,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    device: torch.device,
    progress: Progress,
) -> None:
    """Write the state of the training, including that of the random numbers."""
    state = optimiser.state_dict()
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for index, entries in state["state"].items():
        tensors |= {f"optimiser.{index}.{name}": tensor for name, tensor in entries.items()}
    tensors["random"] = torch.get_rng_state()
    if device.type == "cuda":
        tensors["random_cuda"] = torch.cuda.get_rng_state(device)
    # Copies, because weights that share memory cannot be saved.
    layout = torch.contiguous_format
    content = save({name: tensor.clone(memory_format=layout) for name, tensor in tensors.items()})
    file = folder / f"checkpoint-{progress.epochs:04d}.safetensors"
    write_whole(file, content)
    document = {
        "format_version": FORMAT_VERSION,
        "recipe": recipe.model_dump(mode="json"),
        "data": data_digest,
        "progress": asdict(progress),
        "optimiser": state["param_groups"],
        "tensors": {"file": file.name, "sha256": hashlib.sha256(content).hexdigest()},
    }
    write_whole(folder / CHECKPOINT, (json.dumps(document, indent=2) + "\n").encode())
    _remove(folder, but=file)


def read_checkpoint(
    folder: Path,
    recipe: Recipe,
    data_digest: str,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    device: torch.device,
) -> tuple[Recipe, Progress]:
    """Restore the state of the network, the optimiser and the random numbers.

    Returns:
        The recipe, in the number format in which the training began, and its progress.

    Raises:
        TrainingError: the checkpoint is damaged, or of another recipe or other data.
    """
    file = folder / CHECKPOINT
    try:
        document = json.loads(file.read_bytes())
        if document["format_version"] != FORMAT_VERSION:
            raise TrainingError(
                f"{file}: format version {document['format_version']!r}; "
                f"this release reads {FORMAT_VERSION}"
            )
        if recipe.precision is None:
            recipe = recipe.changed(precision=document["recipe"]["precision"])
        _same(file, document, recipe, data_digest)
        tensors = _tensors(folder / str(document["tensors"]["file"]), document["tensors"]["sha256"])
        _restore(network, optimiser, document["optimiser"], tensors)
        torch.set_rng_state(tensors["random"])
        if device.type == "cuda" and "random_cuda" in tensors:  # it may have begun on the CPU
            torch.cuda.set_rng_state(tensors["random_cuda"], device)
        return recipe, Progress(**document["progress"])
    except TrainingError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise TrainingError(
            f"{file}: cannot be resumed from ({reason}); train again into an empty folder"
        ) from None


def remove_checkpoint(folder: Path) -> None:
    """Remove a finished training's checkpoint."""
    (folder / CHECKPOINT).unlink(missing_ok=True)
    _remove(folder)


def _remove(folder: Path, but: Path | None = None) -> None:
    for file in folder.glob("checkpoint-*.safetensors"):
        if file != but:
            file.unlink()


def _same(file: Path, document: dict[str, Any], recipe: Recipe, data_digest: str) -> None:
    then, now = document["recipe"], recipe.model_dump(mode="json")
    differing = sorted(name for name in then | now if then.get(name) != now.get(name))
    if differing:
        raise TrainingError(
            f"{file}: the training began with another {', '.join(differing)}; "
            "resume with the same, or train into another folder"
        )
    if document["data"] != data_digest:
        raise TrainingError(f"{file}: the training began on other data; resume on the same")


def _tensors(file: Path, digest: str) -> dict[str, Tensor]:
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise TrainingError(f"{file}: is not what {CHECKPOINT} was written for")
    return load(content)


def _restore(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    groups: list[dict[str, Any]],
    tensors: dict[str, Tensor],
) -> None:
    prefix = "network."
    network.load_state_dict(
        {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    )
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        if part == "optimiser":
            number, _, entry = rest.partition(".")
            parameter = parameters[int(number)]
            if tensor.shape == parameter.shape:
                # In the parameter's own memory layout, as without the interruption.
                tensor = torch.empty_like(parameter, requires_grad=False).copy_(tensor)
            state.setdefault(int(number), {})[entry] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": groups})
