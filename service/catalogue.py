"""The models that are served, by name."""

from dataclasses import dataclass
from pathlib import Path

from models.bundle import Bundle, BundleError, read_bundle


class UnknownModelError(LookupError):
    """No model of that name, or of that name and version, is served."""


@dataclass(frozen=True)
class Served:
    """One served model; ``index`` is its number in the engine."""

    index: int
    bundle: Bundle


class Catalogue:
    """The served models in the order given; the first is the default.

    Raises:
        BundleError: a bundle cannot be trusted, or two have the same name and version.
    """

    def __init__(self, paths: list[Path]) -> None:
        self.models = [Served(index, read_bundle(path)) for index, path in enumerate(paths)]
        seen: set[tuple[str, str]] = set()
        for served in self.models:
            manifest = served.bundle.manifest
            if (manifest.name, manifest.version) in seen:
                reason = f"{manifest.name}:{manifest.version} is served from another folder already"
                raise BundleError(served.bundle.path, "name", reason)
            seen.add((manifest.name, manifest.version))

    @property
    def bundles(self) -> list[Bundle]:
        """All bundles, by index."""
        return [served.bundle for served in self.models]

    def find(self, name: str | None) -> Served:
        """Return the model called ``name`` or ``name:version``; the default one for None.

        Without a version, the highest is meant.

        Raises:
            UnknownModelError: there is none.
        """
        if name is None:
            return self.models[0]
        wanted, colon, version = name.partition(":")
        found = [
            served
            for served in self.models
            if served.bundle.manifest.name == wanted
            and (not colon or version == served.bundle.manifest.version)
        ]
        if not found:
            names = sorted({served.bundle.manifest.name for served in self.models})
            short = name if len(name) <= 80 else f"{name[:77]}…"
            raise UnknownModelError(f"No model {short!r} is served; there are: {', '.join(names)}.")
        return max(found, key=lambda served: int(served.bundle.manifest.version))
