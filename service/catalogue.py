"""The models that are served, by name."""

import itertools
from dataclasses import dataclass
from pathlib import Path

from models.bundle import Bundle, BundleError, read_bundle


class UnknownModelError(LookupError):
    """No model of that name, or of that name and version, is served."""


@dataclass(frozen=True)
class Served:
    """One served model; ``index`` is its number in the engine, which no other ever gets."""

    index: int
    bundle: Bundle

    @property
    def key(self) -> tuple[str, str]:
        """Its name and version."""
        return self.bundle.manifest.name, self.bundle.manifest.version


class Catalogue:
    """The served models in the order given, and those that were served and can be again.

    Args:
        paths: the bundles' folders, at least one.
        default: the model that answers who names none, as ``name`` or ``name:version``; by default
            the first one's name and version. It never becomes another.

    Raises:
        BundleError: a bundle cannot be trusted, or two have the same name and version.
        UnknownModelError: the default is none of them.
    """

    def __init__(self, paths: list[Path], default: str | None = None) -> None:
        self._numbers = itertools.count()
        self._models: dict[tuple[str, str], Served] = {}
        self._folders: dict[tuple[str, str], Path] = {}
        for path in paths:
            served = self.number(read_bundle(path))
            if self.put(served):
                name = ":".join(served.key)
                raise BundleError(path, "name", f"{name} is served from another folder already")
        self._default = default or ":".join(self.models[0].key)
        self.find(None)

    @property
    def models(self) -> list[Served]:
        """All served models."""
        return list(self._models.values())

    @property
    def bundles(self) -> list[Bundle]:
        """Their bundles."""
        return [served.bundle for served in self.models]

    def number(self, bundle: Bundle) -> Served:
        """Give a bundle a number; it is served when it is :meth:`put`."""
        return Served(next(self._numbers), bundle)

    def put(self, served: Served) -> Served | None:
        """Serve a model from now on; return the one of its name and version, which it replaces."""
        former = self._models.get(served.key)
        self._models[served.key] = served
        self._folders[served.key] = served.bundle.path
        return former

    def drop(self, served: Served) -> None:
        """Serve a model no longer, unless another has replaced it."""
        if self._models.get(served.key) is served:
            del self._models[served.key]

    @property
    def folders(self) -> dict[tuple[str, str], Path]:
        """Where each model lies that is or was served, by name and version."""
        return dict(self._folders)

    def find(self, name: str | None) -> Served:
        """Return the model called ``name`` or ``name:version``; the default one for None.

        Without a version, the highest is meant.

        Raises:
            UnknownModelError: there is none.
        """
        try:
            found = self.named(self._default if name is None else name)
        except UnknownModelError as error:
            if name is not None:
                raise
            reason = f"The default model is {self._default!r}. {error.args[0]}"
            raise UnknownModelError(reason) from None
        return max(found, key=lambda served: int(served.key[1]))

    def is_default(self, served: Served) -> bool:
        """Whether a model answers who names none."""
        try:
            return self.find(None) is served
        except UnknownModelError:
            return False

    def named(self, name: str) -> list[Served]:
        """Return every model called ``name`` (all versions) or ``name:version``.

        Raises:
            UnknownModelError: there is none.
        """
        found = [served for served in self.models if _is(name, served.key)]
        if not self.models:
            raise UnknownModelError("No model is served.")
        if not found:
            names = ", ".join(sorted({served.key[0] for served in self.models}))
            short = name if len(name) <= 80 else f"{name[:77]}…"
            raise UnknownModelError(f"No model {short!r} is served; there are: {names}.")
        return found


def _is(name: str, key: tuple[str, str]) -> bool:
    """Whether ``name``, or ``name:version``, means the model of that name and version."""
    wanted, colon, version = name.partition(":")
    return key[0] == wanted and (not colon or key[1] == version)
