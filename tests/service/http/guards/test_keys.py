"""The file of keys, whose a secret is, and the allowance of draws."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from service.cli.main import main
from service.http.guards.keys import (
    BURST_SECONDS,
    Allowance,
    Keys,
    KeysError,
    add,
    digest,
    read,
    remove,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_the_secret_is_nowhere_in_the_file(path: Path) -> None:
    secret = add(path, "shop", ["predict", "metrics"], 100)
    assert len(secret) >= 43  # 256 bits in base64
    content = path.read_text()
    assert secret not in content
    assert secret.removeprefix("pixeldp_") not in content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    [key] = read(path)
    assert (key.name, key.scopes, key.rate) == ("shop", {"predict", "metrics"}, 100)


def test_keys_are_found_only_by_their_secret(path: Path) -> None:
    one, two = add(path, "one", ["predict"], None), add(path, "two", ["admin"], 5)
    assert one != two
    keys = Keys(path)
    for secret, name in ((one, "one"), (two, "two")):
        found = keys.find(secret)
        assert found is not None
        assert found[0].name == name
    for wrong in ("", "pixeldp_", one[:-1], one + "A", one.swapcase(), "ü", read(path)[0].sha256):
        assert keys.find(wrong) is None


def test_changes_count_at_once(path: Path) -> None:
    first = add(path, "first", ["predict"], None)
    keys = Keys(path)
    second = add(path, "second", ["predict"], None)
    assert keys.find(first)
    assert keys.find(second)
    remove(path, "first")
    assert keys.find(first) is None
    assert keys.find(second)


def test_a_broken_file_changes_nothing_and_a_missing_one_lets_nobody_in(path: Path) -> None:
    secret = add(path, "one", ["predict"], None)
    keys, content = Keys(path), path.read_text()
    path.write_text(content[:-20])
    assert keys.find(secret)
    path.unlink()
    assert keys.find(secret) is None
    path.write_text(content)
    assert keys.find(secret)


def test_reading_the_file_again_pays_no_debts(path: Path) -> None:
    secret = add(path, "one", ["predict"], 1)
    keys = Keys(path)
    found = keys.find(secret)
    assert found
    found[1].take(10_000)
    add(path, "two", ["predict"], None)
    again = keys.find(secret)
    assert again
    assert again[1].wait() > 9000


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "[]",
        "{}",
        '{"keys": 1}',
        '{"keys": [{"name": "a"}]}',
        '{"keys": [], "more": 1}',
    ],
)
def test_files_that_are_not_key_files(path: Path, broken: str) -> None:
    path.write_text(broken)
    with pytest.raises(KeysError, match="not a file of keys"):
        Keys(path)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("name", "a b"),
        ("name", ""),
        ("sha256", "secret-value"),
        ("scopes", []),
        ("scopes", ["root"]),
        ("rate", 0),
        ("rate", -1),
        ("rate", "inf"),
    ],
)
def test_a_wrong_member_is_named_without_its_value(path: Path, member: str, value: object) -> None:
    add(path, "one", ["predict"], None)
    content = json.loads(path.read_text())
    content["keys"][0][member] = value
    path.write_text(json.dumps(content))
    with pytest.raises(KeysError, match=f"keys.0.{member}") as caught:
        read(path)
    assert "secret-value" not in str(caught.value)


def test_names_are_unique(path: Path) -> None:
    add(path, "one", ["predict"], None)
    with pytest.raises(KeysError, match="already"):
        add(path, "one", ["metrics"], None)
    with pytest.raises(KeysError, match="there are: one"):
        remove(path, "two")
    content = json.loads(path.read_text())
    path.write_text(json.dumps({"keys": content["keys"] * 2}))
    with pytest.raises(KeysError, match="same name"):
        read(path)


def test_an_allowance_goes_into_debt_once_and_is_refunded_unused_draws() -> None:
    allowance = Allowance(1e-9)  # so slow that nothing is added while the test runs
    assert allowance.wait() == 0
    allowance.take(1000)
    assert allowance.wait() == pytest.approx(1000e9, rel=1e-6)
    allowance.take(-900)
    assert allowance.wait() == pytest.approx(100e9, rel=1e-6)
    allowance.take(-1e6)
    assert allowance.wait() == 0
    allowance.take(2e-9 * BURST_SECONDS)  # never more than one burst was saved
    assert allowance.wait() > 0


def test_without_a_rate_there_is_no_limit() -> None:
    allowance = Allowance(None)
    allowance.take(1e18)
    assert allowance.wait() == 0


def test_the_commands(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = ("--keys", str(path))
    assert main(["keys", "add", "shop", "--scopes", "predict,metrics", "--rate", "50", *at]) == 0
    secret = capsys.readouterr().out.strip()
    [key] = read(path)
    assert key.sha256 == digest(secret)
    assert key.rate == 50
    assert main(["keys", "list", *at]) == 0
    listed = capsys.readouterr().out
    assert listed.split()[:4] == ["shop", "metrics,predict", "50", "draws/s"]
    assert key.sha256 not in listed
    assert main(["keys", "add", "shop", *at]) == 1
    assert main(["keys", "add", "other", "--scopes", "everything", *at]) == 1
    assert main(["keys", "remove", "shop", *at]) == 0
    assert main(["keys", "remove", "shop", *at]) == 1
    assert main(["keys", "add", "shop"]) == 2
    assert read(path) == []


def test_a_link_to_the_keys_stays_a_link(path: Path, tmp_path: Path) -> None:
    """Otherwise the service would keep reading its target, and accept a removed key."""
    link = tmp_path / "link.json"
    link.symlink_to(path.name)
    secret = add(link, "one", ["predict"], None)
    keys = Keys(path)
    assert keys.find(secret)
    remove(link, "one")
    assert link.is_symlink()
    assert keys.find(secret) is None


def test_keys_made_at_the_same_time_are_all_stored(path: Path) -> None:
    adding = "import sys; from service.cli.main import main; sys.exit(main(sys.argv[1:]))"
    names = [f"key{i}" for i in range(8)]
    command = [sys.executable, "-c", adding, "keys", "add", "--keys", str(path)]
    running = [subprocess.Popen([*command, name], stdout=subprocess.DEVNULL) for name in names]
    assert [one.wait(60) for one in running] == [0] * 8
    assert sorted(key.name for key in read(path)) == names


def test_keys_that_cannot_be_written_are_reported_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["keys", "add", "one", "--keys", str(tmp_path / "file" / "keys.json")]) == 1
    assert "cannot write the keys in" in capsys.readouterr().err
