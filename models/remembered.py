"""Which way of running a model was fastest, kept on disk from one start to the next.

Measuring takes much of a start. The way is kept for the model's digest, this kind of processor and
these versions, and is used only where it would also be allowed if it were measured now. As always
it is measured while it warms up, and tried: if it is much slower or faster than before, all ways
are measured again. So what the file says can cost speed, and nothing else.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import structlog
import torch
from pydantic import Field

from models.bundle import BundleError, Part
from models.cache import cache_path
from models.calibration import calibrate, may_use_int8
from models.compile_cache import processor
from models.device import Device, open_device
from models.execution import Calibration, Format, Provider, ProviderError, ways
from models.files import write_whole
from models.loaded import LoadedModel
from models.predictor import Predictor
from models.trial import RowsError

log = structlog.get_logger(__name__)

# All ways are measured again if the one that was kept now makes less than this share of its draws
# per second, or had made less than this share of what it makes now: the machine has changed, or was
# used by others when it was chosen.
STILL = 0.6
# The kept files may be of any size.
_LARGEST = 10_000


class Kept(Part):
    """A way of running a model, and how fast it was."""

    provider: Provider
    precision: Format
    pass_size: Annotated[int, Field(ge=1, le=99_999)]
    draws_per_second: Annotated[float, Field(gt=0, allow_inf_nan=False)]


def calibrate_once(
    model: LoadedModel,
    device: str | Device,
    precision: Format | None,
    pass_size: int | None,
    provider: Provider | None = None,
    int8: bool = True,
) -> tuple[Predictor, Calibration]:
    """Find the way of running a model that draws fastest, or the one that an earlier start found.

    Arguments, result and errors are those of :func:`models.calibration.calibrate`.
    """
    on = open_device(device)
    measures = None in (precision, pass_size, provider)
    file = _file(model, on, precision, pass_size, provider, int8) if measures else None
    if file is None:
        return calibrate(model, on, precision, pass_size, provider, int8)
    possible = ways(on.name, provider, precision, int8 and may_use_int8(model))
    kept = _read(file)
    if (
        kept is not None
        and (kept.provider, kept.precision) in possible
        and pass_size in (None, kept.pass_size)
    ):
        with suppress(ProviderError, RowsError, BundleError):
            found = calibrate(model, on, kept.precision, kept.pass_size, kept.provider, int8)
            speeds = kept.draws_per_second, found[1].draws_per_second
            if found[1].pass_size == kept.pass_size and min(speeds) >= STILL * max(speeds):
                return found
            log.info("measuring all ways again", before=speeds[0], now=speeds[1])
    predictor, calibration = calibrate(model, on, precision, pass_size, provider, int8)
    way = calibration.execution
    new = Kept(
        provider=way.provider,
        precision=way.precision,
        pass_size=way.pass_size,
        draws_per_second=calibration.draws_per_second,
    )
    with suppress(OSError):  # such as a disk that is full or only for reading
        write_whole(file, new.model_dump_json().encode(), 0o600)
    return predictor, calibration


def _read(file: Path) -> Kept | None:
    """Return what was kept, if there is something that makes sense."""
    try:
        with file.open("rb") as stream:
            return Kept.model_validate_json(stream.read(_LARGEST))
    except (OSError, ValueError):
        return None


def _file(model: LoadedModel, on: Device, *asked: object) -> Path | None:
    """Return where a model's way is kept, by everything that may make another way fastest."""
    hardware = torch.cuda.get_device_name(on.name) if on.name.startswith("cuda") else processor()
    path = cache_path(
        "calibrations",
        *(model.bundle.digest, on.name.partition(":")[0], hardware, asked),
        *(len(os.sched_getaffinity(0)), torch.get_num_threads()),
    )
    return path and path.with_suffix(".json")
