"""Checks of the settings before the service starts.

They need nothing that takes long to import: neither FastAPI nor PyTorch.
"""

from collections.abc import Callable
from os.path import abspath
from pathlib import Path

from models.bundle import Bundle, read_bundle
from models.execution import obstacle
from models.family import Family, is_family, read_family
from service.catalogue import Catalogue, UnknownModelError
from service.engine.errors import LoadError
from service.http.address import Address
from service.http.defaults import check_defaults
from service.http.guards.keys import read as read_keys
from service.http.guards.shared_rates import check_redis
from service.settings import Settings


class KeysNeededError(ValueError):
    """Other machines could reach the service without a key."""


def check_keys(settings: Settings, address: Address) -> None:
    """Check that only this machine needs no key, unless the operator allows others.

    Raises:
        KeysNeededError: other machines would need no key, or there are none whose rates are shared.
        ValueError: rates are to be shared, but there is no client of Redis.
        KeysError: the file of keys cannot be read.
    """
    if settings.rates_redis:
        check_redis()
        if not settings.keys:
            raise KeysNeededError("PIXELDP_RATES_REDIS shares the rates of keys; set PIXELDP_KEYS")
    if settings.keys:
        read_keys(settings.keys)
    elif not (address.on_loopback or settings.allow_keyless):
        raise KeysNeededError(
            f"on {settings.host} other machines could use the service, and no keys are set: make "
            "one with pixeldp keys add NAME --keys FILE and set PIXELDP_KEYS=FILE, or set "
            "PIXELDP_ALLOW_KEYLESS=true if everybody who can reach it may use it"
        )


def read_catalogue(
    settings: Settings,
    read: Callable[[Path], Bundle] = read_bundle,
    read_file: Callable[[Path], Family] = read_family,
) -> Catalogue:
    """Read the models to serve.

    Args:
        settings: checked settings.
        read: reads a bundle.
        read_file: reads the file of a family.

    Raises:
        BundleError: a family's file, or a model's bundle, cannot be trusted.
        ValueError: one is not read in time, the default model is not among them, or they cannot be
            run as they are pinned.
        UselessDefaultsError: with these settings no request without options could be answered.
    """
    try:
        families = {path: read_file(path) for path in settings.models if is_family(path)}
        folders = [path for path in settings.models if path not in families]
        # A member may stand by itself, too, or be in several families; its path may be written
        # in other ways.
        members = (folder for family in families.values() for folder in family.folders)
        further = {abspath(folder): folder for folder in members}
        named = {*map(abspath, folders)}
        folders += [folder for path, folder in further.items() if path not in named]
        first = families.get(settings.models[0])
        default = settings.default_model or (first.file.name if first else None)
        catalogue = Catalogue(folders, default, read, [*families.values()])
    except UnknownModelError as error:
        raise ValueError(f"PIXELDP_DEFAULT_MODEL: {error.args[0]}") from None
    except LoadError as error:
        raise ValueError(str(error)) from None
    for bundle in catalogue.bundles:
        check_defaults(settings, bundle)
    _check_pins(settings, catalogue)
    return catalogue


def _check_pins(settings: Settings, catalogue: Catalogue) -> None:
    """Make sure that there is a way to serve each model, and a model for each way.

    Raises:
        ValueError: there is none, or it cannot be run here.
    """
    pins = settings.pins
    if not pins:
        return
    served = {bundle.digest: bundle.manifest.name for bundle in catalogue.bundles}
    for digest in served.keys() - pins.keys():
        raise ValueError(f"PIXELDP_PIN names no h of {served[digest]}, which is {digest}")
    for digest in pins.keys() - served.keys() if settings.repository is None else ():
        raise ValueError(f"PIXELDP_PIN names {digest}, but no model that is served is that")
    for pin in pins.values():
        for device in set(settings.worker_devices()):
            if reason := obstacle(device, pin.provider, pin.precision):
                raise ValueError(f"PIXELDP_PIN: {reason}")
