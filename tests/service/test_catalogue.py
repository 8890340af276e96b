"""Served models by name."""

import json
import shutil
from pathlib import Path

import pytest

from models.bundle import MANIFEST, BundleError, Manifest
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
    assert catalogue.find(None).bundle is first.bundle, "also though it is the last of the list now"

    assert Catalogue(paths, "b").find(None).key == ("b", "1")
    assert Catalogue(paths, "a:2").find(None).key == ("a", "2")
    highest = Catalogue(paths, "a")
    highest.drop(highest.find(None))
    assert highest.find(None).key == ("a", "1"), "a name alone means its highest version"
    for missing in ("c", "a:3", ":"):
        with pytest.raises(UnknownModelError, match="The default model is"):
            Catalogue(paths, missing)


def test_folders_are_kept_of_what_was_served(tmp_path: Path) -> None:
    path = bundle(tmp_path, "a", "1")
    catalogue = Catalogue([path])
    catalogue.drop(catalogue.find("a"))
    assert catalogue.folders == {("a", "1"): path}


def test_the_same_model_twice_is_refused(tmp_path: Path) -> None:
    first = bundle(tmp_path, "a", "1")
    second = tmp_path / "copy"
    shutil.copytree(first, second)
    with pytest.raises(BundleError, match="served from another folder already"):
        Catalogue([first, second])


def test_a_bundle_that_cannot_be_trusted_is_refused(tmp_path: Path) -> None:
    path = bundle(tmp_path, "a", "1")
    document = json.loads((path / MANIFEST).read_text())
    document["noise"]["scale"] = 0
    (path / MANIFEST).write_text(json.dumps(document))
    with pytest.raises(BundleError, match=r"noise\.scale"):
        Catalogue([path])
