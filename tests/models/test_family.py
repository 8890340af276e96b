"""Families: their files, and which member answers a target."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bundle import Bundle, BundleError, Manifest
from models.family import check_members, is_family, read_family
from models.picture_terms import target_at_input
from models.preprocessing import plan
from tests.models.test_bundle import DESCRIPTION

MEMBERS = [{"bundle": "a", "least_target": 0}, {"bundle": "b", "least_target": 0.5}]
FILE = {"format_version": 1, "name": "both", "default": "b", "members": MEMBERS}


def written(folder: Path, content: Any) -> Path:
    file = folder / "both.family.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_a_family_is_read(tmp_path: Path) -> None:
    family = read_family(written(tmp_path, FILE))
    assert family.folders == [tmp_path / "a", tmp_path / "b"]
    assert family.default == 1
    assert is_family(family.path)
    assert not is_family(tmp_path / "family.json")
    positions = {0.001: 0, 0.49999: 0, 0.5: 1, 0.50001: 1, 1000.0: 1}
    assert {target: family.position(target) for target in positions} == positions


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format_version": 2}, "format_version: "),
        ({"name": "Both"}, "name: "),
        ({"default": "c"}, "which is not a member's bundle"),
        ({"members": []}, "members: "),
        ({"members": [{**MEMBERS[0], "least_target": 0.1}], "default": "a"}, "must be 0 for the"),
        ({"members": MEMBERS[::-1]}, "must be 0 for the first member, and grow"),
        ({"members": [MEMBERS[0], {**MEMBERS[1], "least_target": 0}]}, "and grow"),
        ({"members": [MEMBERS[0], {**MEMBERS[0], "least_target": 1}], "default": "a"}, "differ"),
        ({"members": [MEMBERS[0], {"bundle": "../b", "least_target": 1}]}, "members.1.bundle: "),
        ({"members": [MEMBERS[0], {**MEMBERS[1], "least_target": -1}]}, "least_target: "),
        ({"members": [MEMBERS[0], {**MEMBERS[1], "least_target": float("inf")}]}, "least_target"),
        ({"further": 1}, "further: "),
    ],
)
def test_files_that_are_refused(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    file = written(tmp_path, {**FILE, **change})
    with pytest.raises(BundleError) as caught:
        read_family(file)
    assert complaint in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[" * 10_000, "\x00", '"' + "a" * 2**17 + '"'])
def test_malformed_files_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(BundleError):
        read_family(written(tmp_path, text))


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        read_family(tmp_path / "absent.family.json")
    (tmp_path / "zero.family.json").symlink_to("/dev/zero")
    with pytest.raises(BundleError):
        read_family(tmp_path / "zero.family.json")


def member(folder: Path, **changes: Any) -> Bundle:
    manifest = Manifest.model_validate({**DESCRIPTION, **changes})
    return Bundle(folder / manifest.name, manifest, "sha256:0")


def test_members_answer_in_each_others_place(tmp_path: Path) -> None:
    first = member(tmp_path, name="a")
    check_members(tmp_path, [first, member(tmp_path, name="b")])
    labels = [*reversed(DESCRIPTION["labels"])]
    wide = {**DESCRIPTION["input"], "width": 29}
    spec = {**DESCRIPTION["sensitivity"], "input_norm": "l1"}
    laplace = {
        "noise": {**DESCRIPTION["noise"], "mechanism": "laplace"},
        "sensitivity": {**DESCRIPTION["sensitivity"], "noise_norm": "l1"},
    }
    for changes, what in (
        (laplace, "noise law"),
        ({"labels": labels}, "labels"),
        ({"input": wide}, "input"),
        ({"sensitivity": spec}, "norm"),
    ):
        with pytest.raises(BundleError, match=f"a and b differ in {what}"):
            check_members(tmp_path, [first, member(tmp_path, name="b", **changes)])


def test_a_target_is_converted_to_the_models_own_norm_and_input() -> None:
    """The largest changes of the target's size are as large at the input as stated."""
    preparation = plan(6, 6, "L", 16, (1, 3, 3))
    one, full = np.zeros((6, 6, 1)), np.ones((6, 6, 1))
    one[2, 2] = 1
    for norm, change, exact in (
        ("linf", 0.5 * full, True),
        ("l2", 0.5 / 6 * full, True),
        ("l1", 0.5 * one, False),
    ):
        order = {"l1": 1, "l2": 2, "linf": np.inf}[norm]
        assert np.linalg.norm(change.ravel(), order) == pytest.approx(0.5)
        bound = target_at_input(0.5, norm, "l2", preparation)
        grey = np.full((6, 6, 1), 0.25)
        before, after = (
            np.asarray(preparation.apply(np.round(picture * 65535).astype(np.uint16)))
            for picture in (grey, grey + change)
        )
        moved = float(np.linalg.norm((after - before).ravel()))
        assert moved <= bound * (1 + 1e-3)
        assert not exact or moved == pytest.approx(bound, rel=0.02)
    unchanged = plan(3, 3, "L", 8, (1, 3, 3))
    assert target_at_input(0.5, "l2", "l2", unchanged) == 0.5
    assert target_at_input(2.5, "l1", "l2", unchanged) == pytest.approx((2 + 0.25) ** 0.5)
