"""A worker: one process that makes passes on one device.

    python -P -m service.engine.worker --name worker0 --fd 7 --status 8

The file descriptors are its end of a socket pair with the front process, and the shared status.
When the front ends, the kernel ends the worker (and the closed socket would, too), so that nothing
is left behind.
"""

import argparse
import os
import signal
import socket
import sys
import threading
import time
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import setproctitle
import structlog

from models.bundle import MANIFEST, Bundle, BundleError, describe
from models.execution import Calibration, Execution
from service import logs
from service.engine import messages
from service.engine.channel import Channel, FrontGoneError
from service.engine.failures import explain
from service.engine.status import SharedStatus
from service.system.parent import ParentGoneError, die_with_parent

if TYPE_CHECKING:
    from models.device import Device
    from models.loaded import LoadedModel
    from models.predictor import Predictor
    from service.engine.loop import Loop

log = structlog.get_logger(__name__)

_BEAT_SECONDS = 0.1
# The messages of these say everything; others are logged with a traceback.
_ORDINARY = (ValueError, OSError, ImportError, MemoryError, RuntimeError)


class PinError(ValueError):
    """A model that does not run here in the one way in which it may serve; says why."""


def _beat(status: SharedStatus) -> None:
    """Show for ever that this process is not stopped, and that its threads are scheduled."""
    while True:
        status.beat()
        time.sleep(_BEAT_SECONDS)


def _describe(model: messages.Model) -> Bundle:
    """Read a description, and check that it is still the one that the front process read."""
    bundle = describe(Path(model.path))
    if bundle.digest != model.digest:
        reason = f"is {bundle.digest}, but was {model.digest} when it was first served; load again"
        raise BundleError(bundle.path / MANIFEST, "digest", reason)
    return bundle


def load(device: str, model: messages.Model) -> "tuple[Predictor, Calibration]":
    """Read a model, and run it as told, or in the way that is fastest here.

    Raises:
        BundleError: the bundle cannot be trusted, or has changed.
        RuntimeError: it does not run here.
        PinError: not in the one way in which it may serve.
    """
    return run(device, _read(model), model)


def _read(model: messages.Model) -> "LoadedModel":
    from models.loaded import load_model

    return load_model(_describe(model))


def run(
    device: "str | Device", loaded: "LoadedModel", model: messages.Model
) -> "tuple[Predictor, Calibration]":
    """Run a model that is read; measuring also warms it up.

    Raises:
        DeviceError: the device does not compute what it should.
        RuntimeError, PinError: as :func:`load`.
    """
    from models.remembered import calibrate_once

    if model.pin is not None:
        return _run_pinned(device, loaded, model.pin, model.pass_size)
    predictor, calibration = calibrate_once(
        loaded, device, model.precision, model.pass_size, model.provider, model.int8
    )
    predictor.prove()
    log.info(
        "rows tried",
        model=loaded.manifest.name,
        provider=calibration.provider,
        precision=calibration.precision,
        pass_size=calibration.pass_size,
        seconds=round(predictor.trial_seconds, 2),
    )
    return predictor, calibration


def _run_pinned(
    device: "str | Device", loaded: "LoadedModel", pin: Execution, pass_size: int | None
) -> "tuple[Predictor, Calibration]":
    """Run a model in the one way that may serve, if passes of ``pass_size`` are large enough.

    Raises:
        PinError: it does not run so here.
    """
    from models.calibration import run_pinned

    named = f"{loaded.manifest.name} as PIXELDP_PIN requires"
    if pass_size is not None and pass_size < pin.pass_size:
        raise PinError(f"{named}: passes of {pin.pass_size} do not fit into memory")
    try:
        predictor, calibration = run_pinned(loaded, device, pin)
    except RuntimeError as error:
        raise PinError(f"{named}: {error}") from error
    if predictor.execution != pin:
        raise PinError(f"{named}: it runs as {predictor.execution}")
    predictor.prove()
    return predictor, calibration


def main() -> None:
    """Run a worker as the front process starts it."""
    parser = argparse.ArgumentParser(description="Started by the service; not by hand.")
    parser.add_argument("--name", required=True)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--status", type=int, required=True)
    arguments = parser.parse_args()
    setproctitle.setproctitle(f"pixeldp-{arguments.name}")
    logs.configure_worker()
    # An interrupt at the terminal, or a stop of all processes of the service, reaches the whole
    # group; the front decides when workers end.
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    channel, status = Channel(socket.socket(fileno=arguments.fd)), SharedStatus(arguments.status)
    try:
        die_with_parent()
        threading.Thread(target=_beat, args=[status], daemon=True).start()
        message, _ = next(channel.receive(wait=None))
        assert isinstance(message, messages.Load)
        _serve(channel, status, message)
    except (FrontGoneError, ParentGoneError):
        _leave(0)
    except Exception:
        traceback.print_exc()
        _leave(1)


def _leave(code: int) -> NoReturn:
    """End this process at once: the interpreter cannot wait for a pass, which may never end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _serve(channel: Channel, status: SharedStatus, message: messages.Load) -> None:
    """Load the models and serve them."""
    device = message.device
    try:
        # Loading PyTorch takes seconds, and comes after everything that ends this process in time.
        import torch

        from models.device import open_device
        from service.engine.loop import Loop

        torch.set_num_threads(1)
        models = {model.number: _read(model) for model in message.models}
        channel.send(messages.Read())
        told, _ = next(channel.receive(wait=None))
        assert isinstance(told, messages.Run)
        loaded = {one.number: run(device, models.pop(one.number), one) for one in told.models}
    except BaseException as error:  # whatever it was, the operator must see it
        if not isinstance(error, _ORDINARY):
            log.exception("cannot load the models")
        channel.send(messages.Broken(reason=explain(error, device)))
        sys.exit(1)
    found = {number: calibration for number, (_, calibration) in loaded.items()}
    ceilings = {
        model.number: found[model.number].pass_size
        for model in told.models
        if found[model.number].pass_size < (model.pass_size or 0)
    }
    open_device(device).give_way()  # only now, because the start should be quick
    channel.send(messages.Ready(calibrations=found, ceilings=ceilings))
    work(channel, Loop(channel, status, loaded, partial(load, device)), device)


def work(channel: Channel, loop: "Loop", device: str) -> None:
    """Run the loop until the front process or the device ends it."""
    from models.device import DeviceError, DeviceLostError

    try:
        loop.run()
    except DeviceLostError:
        raise  # perhaps because of a picture
    except DeviceError as error:
        # No picture is to be blamed for it.
        channel.send(messages.Broken(reason=explain(error, device)))
        raise


if __name__ == "__main__":
    main()
