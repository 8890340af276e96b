"""What keeps the service from starting as it is set.

Nothing that takes long to import is needed to tell: neither FastAPI nor PyTorch.
"""

from service.catalogue import Catalogue, UnknownModelError
from service.http.address import Address
from service.http.defaults import check_defaults
from service.http.guards.keys import read
from service.settings import Settings


class KeysNeededError(ValueError):
    """Other machines could reach the service, and nobody would need a key."""


def check_keys(settings: Settings, address: Address) -> None:
    """Make sure that nobody but this machine may do without a key, unless that is wanted.

    Raises:
        KeysNeededError: others may.
        KeysError: the file of keys cannot be read.
    """
    if settings.keys:
        read(settings.keys)
    elif not (address.on_loopback or settings.allow_keyless):
        raise KeysNeededError(
            f"on {settings.host} other machines could use the service, and no keys are set: make "
            "one by pixeldp keys add NAME --keys FILE and set PIXELDP_KEYS=FILE, or set "
            "PIXELDP_ALLOW_KEYLESS=true if whoever can reach it may use it"
        )


def read_catalogue(settings: Settings) -> Catalogue:
    """Read the models that are to be served.

    Raises:
        BundleError: a model's bundle cannot be trusted.
        ValueError: the default model is none of them.
        UselessDefaultsError: as they are set, no request without options could be answered.
    """
    try:
        catalogue = Catalogue(settings.models, settings.default_model)
    except UnknownModelError as error:
        raise ValueError(f"PIXELDP_DEFAULT_MODEL: {error.args[0]}") from None
    for bundle in catalogue.bundles:
        check_defaults(settings, bundle)
    return catalogue
