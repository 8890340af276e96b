"""Names from requests stay within their folder."""

from pathlib import Path

import pytest

from service.system.confinement import NotConfinedError, confined


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    (root / "digits").mkdir(parents=True)
    (root / "digits" / "model.json").write_text("{}")
    (tmp_path / "secret").mkdir()
    (tmp_path / "models-too").mkdir()
    return root


def test_names_within_the_folder(root: Path) -> None:
    assert confined(root, "digits") == root.resolve() / "digits"
    (root / "v1.2_b-c").mkdir()
    assert confined(root, "v1.2_b-c").name == "v1.2_b-c"


def test_links_within_the_folder_are_followed(root: Path) -> None:
    (root / "latest").symlink_to("digits")
    assert confined(root, "latest") == root.resolve() / "digits"


def test_the_folder_itself_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(root)
    assert confined(tmp_path / "alias", "digits") == root.resolve() / "digits"


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../secret",
        "..\\secret",
        "digits/../../secret",
        "digits/model.json",
        "/etc/passwd",
        "~root",
        "C:secret",
        ".hidden",
        "digits\0",
        "digits\n",
        " digits",
        "%2e%2e",
        "…",
        "ｄigits",
        "a" * 200,
    ],
)
def test_names_that_are_not_plain(root: Path, name: str) -> None:
    with pytest.raises(NotConfinedError, match="A name has"):
        confined(root, name)


@pytest.mark.parametrize(
    "target", ["../secret", "/etc", "../models-too", "..", ".", "../models", "missing", "loop"]
)
def test_links_that_lead_outside_or_nowhere(root: Path, target: str) -> None:
    (root / "loop").symlink_to("loop")
    (root / "link").symlink_to(target)
    with pytest.raises(NotConfinedError, match="There is no link"):
        confined(root, "link")


def test_a_folder_that_cannot_be_entered(root: Path) -> None:
    with pytest.raises(NotConfinedError, match="There is no other"):
        confined(root, "other")
    with pytest.raises(NotConfinedError):
        confined(root / "missing", "digits")
