"""The models: which are served, by name, and which are being loaded or are leaving."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os.path import abspath
from pathlib import Path

from models.bundle import Bundle, BundleError, read_bundle
from models.family import Family, check_members
from service.engine.observer import Observer


class UnknownModelError(LookupError):
    """No model of that name, or of that name and version, is served."""


@dataclass(frozen=True)
class Served:
    """One served model; ``index`` is its number in the engine, which is never reused."""

    index: int
    bundle: Bundle

    @property
    def key(self) -> tuple[str, str]:
        """Its name and version."""
        return self.bundle.manifest.name, self.bundle.manifest.version


@dataclass(frozen=True)
class ServedFamily:
    """A family, and its members by name and version, in the order of its file."""

    family: Family
    members: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """The name by which clients ask for it."""
        return self.family.file.name

    @property
    def default(self) -> tuple[str, str]:
        """The member that answers without a target."""
        return self.members[self.family.default]


class Catalogue:
    """The single owner of the fact which models exist.

    A model gets a number and is loaded by the workers (:meth:`number`), is served (:meth:`put`),
    leaves (:meth:`drop`, or another is put in its place) and is gone (:meth:`forget`). Routes find
    it by name while it is served, workers have it from :meth:`number` until it is gone, and an
    observer is told when it begins and ends to be served.

    Args:
        paths: the bundles' folders, at least one.
        default: the model that answers requests that name none, as ``name`` or ``name:version``; by
            default the first one's name and version. It never changes.
        read: reads a bundle.
        families: families of which all bundles are among ``paths``.

    Raises:
        BundleError: a bundle cannot be trusted, two have the same name and version, or a family has
            the name of a model, or members that differ in what they answer.
        UnknownModelError: the default is not among them.
    """

    def __init__(
        self,
        paths: list[Path],
        default: str | None = None,
        read: Callable[[Path], Bundle] = read_bundle,
        families: Sequence[Family] = (),
    ) -> None:
        self._numbers = itertools.count()
        # Each model is in one of these two.
        self._served: dict[tuple[str, str], Served] = {}
        self._unseen: dict[int, Served] = {}
        self._observer: Observer | None = None
        # The folders of models that are or were served, and the files of families, of no version.
        self._folders: dict[tuple[str, str], Path] = {}
        for path in paths:
            served = self.number(read(path))
            if self.put(served):
                name = ":".join(served.key)
                raise BundleError(path, "name", f"{name} is already served from another folder")
        self.families: dict[str, ServedFamily] = {}
        for family in families:
            self._add(family)
        self._default = default or ":".join(self.models[0].key)
        self.find(None)

    @property
    def models(self) -> list[Served]:
        """All served models, in the order given."""
        return list(self._served.values())

    @property
    def held(self) -> list[Served]:
        """All models that workers have: served, being loaded, or leaving."""
        return [*self._served.values(), *self._unseen.values()]

    @property
    def bundles(self) -> list[Bundle]:
        """The bundles of the served models."""
        return [served.bundle for served in self.models]

    def bundle(self, number: int) -> Bundle | None:
        """Return the model of that number, served or not; None if it is gone."""
        return next((served.bundle for served in self.held if served.index == number), None)

    def _add(self, family: Family) -> None:
        by_folder = {abspath(served.bundle.path): served for served in self.models}
        members = [by_folder[abspath(folder)] for folder in family.folders]
        if family.file.name in self.families:
            raise _taken(family)
        self.check_family(family, [served.bundle for served in members])
        self.put_family(family, members)

    def check_family(self, family: Family, bundles: Sequence[Bundle]) -> None:
        """Check that a family with these members can be served.

        Raises:
            BundleError: it has the name of a model, or members that differ in what they answer.
        """
        check_members(family.path, bundles)
        names = {served.key[0] for served in self.models} | {one.manifest.name for one in bundles}
        if family.file.name in names:
            raise _taken(family)

    def put_family(self, family: Family, members: Sequence[Served]) -> None:
        """Serve a family from now on, in place of a former one of its name.

        Args:
            family: the family.
            members: its members in the order of its file; all are served.
        """
        name = family.file.name
        self.families[name] = ServedFamily(family, tuple(served.key for served in members))
        self._folders[name, ""] = family.path

    def drop_family(self, name: str) -> list[Served]:
        """Stop serving a family; return those of its members that are served, which stay."""
        family = self.families.pop(name)
        return [served for served in self.models if served.key in family.members]

    def check(self, bundle: Bundle) -> None:
        """Check that a further bundle, or a new form of one, leaves the families as they are.

        Raises:
            BundleError: it has the name of a family, or differs from a family's other members.
        """
        manifest = bundle.manifest
        if manifest.name in self.families:
            raise BundleError(bundle.path, "name", f"{manifest.name} is the name of a family")
        key = manifest.name, manifest.version
        for family in self.families.values():
            if key in family.members:
                others = [one.bundle for one in self.models if one.key in family.members]
                check_members(family.family.path, [bundle, *others])

    def announce_to(self, observer: Observer) -> None:
        """Tell an observer which models are served, and whenever that changes."""
        self._observer = observer
        for served in self.models:
            observer.add_model(*served.key, served.bundle.digest)

    def number(self, bundle: Bundle) -> Served:
        """Give a bundle a number: workers load it, and clients do not see it until it is put."""
        served = Served(next(self._numbers), bundle)
        self._unseen[served.index] = served
        return served

    def put(self, served: Served) -> Served | None:
        """Serve a model from now on; return a former one of its name and version, which leaves."""
        former = self._served.get(served.key)
        self._served[served.key] = self._unseen.pop(served.index)
        self._folders[served.key] = served.bundle.path
        if self._observer:
            self._observer.add_model(*served.key, served.bundle.digest)
        if former:
            self._leave(former)
        return former

    def drop(self, served: Served) -> None:
        """Stop serving a model; workers have it until it is forgotten."""
        self._leave(self._served.pop(served.key))

    def forget(self, served: Served) -> None:
        """Drop a model that is no longer served."""
        del self._unseen[served.index]

    def _leave(self, served: Served) -> None:
        self._unseen[served.index] = served
        if self._observer:
            self._observer.remove_model(*served.key, served.bundle.digest)

    @property
    def folders(self) -> dict[tuple[str, str], Path]:
        """The folder of each model that is or was served, by name and version.

        Also the file of each such family, by name and "".
        """
        return dict(self._folders)

    def find(self, name: str | None) -> Served:
        """Return the model ``name`` or ``name:version``; the default one for None.

        Without a version, it is the highest. Of a family it is the default member.

        Raises:
            UnknownModelError: there is none.
        """
        try:
            if family := self.family(name):
                return self._member(family, family.default)
            found = self.named(self._default if name is None else name)
        except UnknownModelError as error:
            if name is not None:
                raise
            reason = f"The default model is {self._default!r}. {error.args[0]}"
            raise UnknownModelError(reason) from None
        return max(found, key=lambda served: int(served.key[1]))

    @property
    def default(self) -> str:
        """The model that answers requests that name none, served or not."""
        return self._default

    def family(self, name: str | None) -> ServedFamily | None:
        """Return the family that ``name``, or the default for None, is; None if it is a model."""
        return self.families.get(self._default if name is None else name)

    def answering(self, family: ServedFamily, target: float) -> Served:
        """Return the member that answers ``target``, a size at the members' input.

        Raises:
            UnknownModelError: it is not served now.
        """
        return self._member(family, family.members[family.family.position(target)])

    def _member(self, family: ServedFamily, key: tuple[str, str]) -> Served:
        if key not in self._served:
            raise UnknownModelError(
                f"{':'.join(key)}, which answers this for the family {family.name}, is not served."
            )
        return self._served[key]

    def is_default(self, served: Served) -> bool:
        """Whether a model answers requests that name none."""
        try:
            return self.find(None) is served
        except UnknownModelError:
            return False

    def named(self, name: str) -> list[Served]:
        """Return every model ``name`` (all versions) or ``name:version``.

        Raises:
            UnknownModelError: there is none.
        """
        found = [served for served in self.models if _is(name, served.key)]
        if not self.models:
            raise UnknownModelError("No model is served.")
        if not found:
            names = ", ".join(sorted({served.key[0] for served in self.models} | {*self.families}))
            short = name if len(name) <= 80 else f"{name[:77]}…"
            raise UnknownModelError(f"No model {short!r} is served; there are: {names}.")
        return found


def _taken(family: Family) -> BundleError:
    reason = f"{family.file.name} is already the name of another model"
    return BundleError(family.path, "name", reason)


def _is(name: str, key: tuple[str, str]) -> bool:
    """Whether ``name``, or ``name:version``, means the model of that name and version."""
    wanted, colon, version = name.partition(":")
    return key[0] == wanted and (not colon or key[1] == version)
