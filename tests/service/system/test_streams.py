"""Commands with standard streams as they come."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PIXELDP = f"{sys.executable} -m service.cli.main"
ROOT = Path(__file__).parents[3]


def run(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of shell in which ``pixeldp`` is the command."""
    return subprocess.run(
        ["sh", "-c", line.replace("pixeldp", PIXELDP)],
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_where_nobody_reads_there_is_nothing_to_say(unbuffered: str) -> None:
    # The status of the first command is what is wanted, and the shell tells that of the last.
    line = "{ sleep 0.1; pixeldp models --json; echo $? >&2; } | true"
    assert run(line, PYTHONUNBUFFERED=unbuffered).stderr == b"1\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_one_line(unbuffered: str) -> None:
    done = run("pixeldp models --json >/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert done.stderr == b"pixeldp: standard output: No space left on device\n"
    assert done.returncode == 1


@pytest.mark.parametrize("closed", ["2>/dev/full", "2>&-", ">&- 2>&- <&-"])
def test_an_error_that_cannot_be_told_is_still_an_error(closed: str) -> None:
    assert run(f"pixeldp models no-such-folder {closed}").returncode == 1
    assert run(f"pixeldp nonsense {closed}").returncode == 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "iso8859-7"])
def test_help_appears_on_terminals_of_eight_bits(encoding: str) -> None:
    done = run("pixeldp size --help", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert b"--scale" in done.stdout
    if encoding == "iso8859-7":
        assert "σ".encode(encoding) in done.stdout


def test_a_name_in_no_encoding_comes_out_as_it_is(tmp_path: Path) -> None:
    file = os.fsencode(tmp_path) + b"/\xff.png"
    with open(file, "wb") as stream:
        stream.write((ROOT / "examples" / "7.png").read_bytes())
    command = [sys.executable.encode(), b"-m", b"service.cli.main", b"predict", file]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, check=True)
    assert file in done.stdout
