"""A module of PyTorch as an exported program, so that its rows can be proven.

Sources whose networks other libraries build are exported at the import. Their bundles then hold
the program and its weights, as those of ``.pt2`` files do: serving needs none of these libraries,
and the proof of :mod:`models.networks.foreign.rows` covers the network.
"""

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from models.importing.files import Archive, read_archive
from models.source_names import ImportFailedError

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Built:
    """A classifier that another library's file or function describes, with its weights.

    Attributes:
        network: normalised pictures [batch, channels, height, width] to logits.
        shape: (channels, height, width) of its input; None if it must be given.
        labels: as the source states them; None if it does not.
        mean: likewise, of each channel.
        std: likewise.
    """

    network: nn.Module
    shape: Shape | None
    labels: tuple[str, ...] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


def export(network: nn.Module, shape: Shape, text: str) -> Archive:
    """Export ``network`` for batches of any size.

    Args:
        network: pictures [batch, channels, height, width] to logits; set to evaluation mode.
        shape: (channels, height, width) of the pictures.
        text: the source's name in errors.

    Raises:
        ImportFailedError: it does not run, cannot be exported, or its rows are not proven.
    """
    network.eval().requires_grad_(False)
    pictures = torch.zeros(2, *shape)
    batch = {0: torch.export.Dim.DYNAMIC}
    size = f"pictures {list(shape)} (channels, height, width)"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of libraries about themselves
        try:
            network(pictures)
        except Exception as error:  # whatever the network's code raises
            reason = " ".join(str(error).split())[:300]
            raise ImportFailedError(
                f"{text} does not run on {size}; --input says another size: {reason}"
            ) from None
        try:
            program = torch.export.export(network, (pictures,), dynamic_shapes=(batch,))
        except Exception as error:  # whatever PyTorch raises
            reason = " ".join(str(error).split())[:300]
            raise ImportFailedError(
                f"{text} cannot be exported for batches of any size, which the proof about its "
                f"rows needs: {type(error).__name__}: {reason}"
            ) from None
        # Calls without a use, such as parts of masks, need no proof.
        program.graph.eliminate_dead_code()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "network.pt2")
            torch.export.save(program, file)
            try:
                return read_archive(file)
            except ImportFailedError as error:
                raise ImportFailedError(str(error).replace(str(file), text)) from None
