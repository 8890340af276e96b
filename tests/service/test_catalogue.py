"""Served models by name."""

import json
import shutil
from pathlib import Path

import pytest

from models.bundle import MANIFEST, BundleError, Manifest, read_bundle
from models.family import Family, read_family
from models.network import build_network, save_network
from service.catalogue import Catalogue, UnknownModelError
from tests.models.test_bundle import DESCRIPTION


def bundle(folder: Path, name: str, version: str) -> Path:
    path = folder / f"{name}-{version}"
    manifest = Manifest.model_validate({**DESCRIPTION, "name": name, "version": version})
    save_network(path, manifest, build_network(manifest))
    return path


def test_models_are_found_by_name_and_version(tmp_path: Path) -> None:
    names = [("a", "2"), ("a", "10"), ("b", "1")]
    catalogue = Catalogue([bundle(tmp_path, *name) for name in names])
    assert catalogue.find(None).index == 0
    assert catalogue.find("b").index == 2
    assert catalogue.find("a").index == 1, "the highest version, as a number"
    assert catalogue.find("a:2").index == 0
    for missing in ("c", "a:3", "", ":", "a:02", "A"):
        with pytest.raises(UnknownModelError, match="there are: a, b"):
            catalogue.find(missing)


def test_the_default_never_becomes_another(tmp_path: Path) -> None:
    paths = [bundle(tmp_path, *name) for name in [("a", "1"), ("a", "2"), ("b", "1")]]
    catalogue = Catalogue(paths)
    first = catalogue.find(None)
    assert first.key == ("a", "1")
    assert [catalogue.is_default(served) for served in catalogue.models] == [True, False, False]
    catalogue.drop(first)
    with pytest.raises(UnknownModelError, match="The default model is 'a:1'"):
        catalogue.find(None)
    assert not any(map(catalogue.is_default, catalogue.models))
    catalogue.put(catalogue.number(first.bundle))
    assert catalogue.find(None).bundle is first.bundle, "even if it is last in the list now"

    assert Catalogue(paths, "b").find(None).key == ("b", "1")
    assert Catalogue(paths, "a:2").find(None).key == ("a", "2")
    highest = Catalogue(paths, "a")
    highest.drop(highest.find(None))
    assert highest.find(None).key == ("a", "1"), "a name alone means its highest version"
    for missing in ("c", "a:3", ":"):
        with pytest.raises(UnknownModelError, match="The default model is"):
            Catalogue(paths, missing)


def test_folders_of_served_models_are_kept(tmp_path: Path) -> None:
    path = bundle(tmp_path, "a", "1")
    catalogue = Catalogue([path])
    catalogue.drop(catalogue.find("a"))
    assert catalogue.folders == {("a", "1"): path}


def test_the_same_model_twice_is_refused(tmp_path: Path) -> None:
    first = bundle(tmp_path, "a", "1")
    second = tmp_path / "copy"
    shutil.copytree(first, second)
    with pytest.raises(BundleError, match="already served from another folder"):
        Catalogue([first, second])


def test_a_bundle_that_cannot_be_trusted_is_refused(tmp_path: Path) -> None:
    path = bundle(tmp_path, "a", "1")
    document = json.loads((path / MANIFEST).read_text())
    document["noise"]["scale"] = 0
    (path / MANIFEST).write_text(json.dumps(document))
    with pytest.raises(BundleError, match=r"noise\.scale"):
        Catalogue([path])


class Noted:
    """An observer that records which models it was told of, as the metrics do."""

    def __init__(self) -> None:
        self.models: list[tuple[str, str, str]] = []

    def add_model(self, *model: str) -> None:
        self.models.append(model)  # type: ignore[arg-type]

    def remove_model(self, *model: str) -> None:
        self.models.remove(model)  # type: ignore[arg-type]


def test_each_model_is_first_loaded_then_served_then_leaves(tmp_path: Path) -> None:
    """The catalogue gives consistent answers, whatever happens to a model."""
    catalogue = Catalogue([bundle(tmp_path / "first", "a", "1"), bundle(tmp_path, "b", "1")])
    noted = Noted()
    catalogue.announce_to(noted)  # type: ignore[arg-type]
    numbers = {0, 1}

    def check(served: list[int], unseen: list[int]) -> None:
        assert [one.index for one in catalogue.models] == served
        assert sorted(one.index for one in catalogue.held) == sorted(served + unseen)
        assert {number for number in numbers if catalogue.bundle(number)} == {*served, *unseen}
        told = [(*one.key, one.bundle.digest) for one in catalogue.models]
        assert sorted(noted.models) == sorted(told)

    check([0, 1], [])
    former = catalogue.find("a")
    other = catalogue.number(read_bundle(bundle(tmp_path / "second", "a", "1")))
    numbers.add(other.index)
    check([0, 1], [2])
    assert catalogue.put(other) is former
    check([2, 1], [0])
    catalogue.forget(former)
    check([2, 1], [])
    catalogue.drop(other)
    check([1], [2])
    catalogue.forget(other)
    check([1], [])
    failed = catalogue.number(former.bundle)
    catalogue.forget(failed)
    check([1], [])
    assert failed.index == 3, "no number may be given twice"


def family_of(folder: Path, name: str, *members: str, default: str = "") -> Family:
    file = folder / f"{name}.family.json"
    entries = [{"bundle": one, "least_target": step / 2} for step, one in enumerate(members)]
    document = {"name": name, "default": default or members[0], "members": entries}
    file.write_text(json.dumps(document))
    return read_family(file)


def test_the_target_chooses_the_member_of_a_family(tmp_path: Path) -> None:
    paths = [bundle(tmp_path, *name) for name in [("a", "1"), ("a", "2"), ("b", "1")]]
    family = family_of(tmp_path, "both", "a-1", "b-1", default="b-1")
    catalogue = Catalogue(paths, "both", families=[family])
    found = catalogue.family("both")
    assert found is not None
    assert found is catalogue.family(None)
    assert catalogue.family("a") is None
    assert catalogue.family("both:1") is None
    assert catalogue.find("both").key == ("b", "1")
    assert catalogue.find(None).key == ("b", "1")
    assert [catalogue.is_default(served) for served in catalogue.models] == [False, False, True]
    assert catalogue.answering(found, 0.49).key == ("a", "1")
    assert catalogue.answering(found, 0.5).key == ("b", "1")
    assert catalogue.find("a").key == ("a", "2")
    with pytest.raises(UnknownModelError, match="there are: a, b, both"):
        catalogue.find("c")


def test_no_member_answers_in_the_place_of_another(tmp_path: Path) -> None:
    paths = [bundle(tmp_path, *name) for name in [("a", "1"), ("b", "1")]]
    catalogue = Catalogue(paths, families=[family_of(tmp_path, "both", "a-1", "b-1")])
    found = catalogue.families["both"]
    served = catalogue.find("a")
    catalogue.drop(served)
    with pytest.raises(UnknownModelError, match="a:1, which answers this for the family both, is"):
        catalogue.find("both")
    with pytest.raises(UnknownModelError, match="is not served"):
        catalogue.answering(found, 0.1)
    assert catalogue.answering(found, 0.5).key == ("b", "1")
    catalogue.put(catalogue.number(served.bundle))
    assert catalogue.find("both").key == ("a", "1")


def test_families_that_cannot_be_served_are_refused(tmp_path: Path) -> None:
    paths = [bundle(tmp_path, *name) for name in [("a", "1"), ("b", "1")]]
    twice = [family_of(tmp_path, "both", "a-1"), family_of(tmp_path, "both", "b-1")]
    for families in ([family_of(tmp_path, "a", "a-1", "b-1")], twice):
        with pytest.raises(BundleError, match="is already the name of another model"):
            Catalogue(paths, families=families)
    manifest = Manifest.model_validate({**DESCRIPTION, "name": "c", "labels": ["x", "y", "z"]})
    save_network(tmp_path / "c-1", manifest, build_network(manifest))
    with pytest.raises(BundleError, match="a and c differ in labels"):
        Catalogue([*paths, tmp_path / "c-1"], families=[family_of(tmp_path, "all", "a-1", "c-1")])


def test_a_further_model_leaves_families_as_they_are(tmp_path: Path) -> None:
    paths = [bundle(tmp_path, *name) for name in [("a", "1"), ("b", "1")]]
    catalogue = Catalogue(paths, families=[family_of(tmp_path, "both", "a-1", "b-1")])
    catalogue.check(read_bundle(bundle(tmp_path, "d", "1")))
    catalogue.check(catalogue.find("a").bundle)
    with pytest.raises(BundleError, match="both is the name of a family"):
        catalogue.check(read_bundle(bundle(tmp_path, "both", "1")))
    changed = {**DESCRIPTION, "name": "a", "labels": ["x", "y", "z"]}
    manifest = Manifest.model_validate(changed)
    save_network(tmp_path / "other", manifest, build_network(manifest))
    with pytest.raises(BundleError, match="differ in labels"):
        catalogue.check(read_bundle(tmp_path / "other"))
