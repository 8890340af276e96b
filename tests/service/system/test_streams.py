"""Commands with all kinds of standard streams."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PIXELDP = f"{sys.executable} -m service.cli.main"
ROOT = Path(__file__).parents[3]


def run(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell command line in which ``pixeldp`` is the project's command."""
    return subprocess.run(
        ["sh", "-c", line.replace("pixeldp", PIXELDP)],
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_without_a_reader_nothing_is_reported(unbuffered: str) -> None:
    # The status of the first command is wanted, but the shell reports that of the last.
    line = "{ sleep 0.1; pixeldp models --json; echo $? >&2; } | true"
    assert run(line, PYTHONUNBUFFERED=unbuffered).stderr == b"1\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_lines_appear_when_they_are_written(unbuffered: str, name: str) -> None:
    # A process that ends at once writes nothing that it still keeps.
    code = (
        "import os, sys; from service.system import streams; streams.prepare(); "
        f"print('epoch 1', file=sys.{name}); os._exit(0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        check=True,
    )
    kept = name == "stdout" and not unbuffered  # as Python keeps what goes into a pipe
    assert done.stdout + done.stderr == (b"" if kept else b"epoch 1\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_reported_in_one_line(unbuffered: str) -> None:
    done = run("pixeldp models --json >/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert done.stderr == b"pixeldp: standard output: No space left on device\n"
    assert done.returncode == 1


@pytest.mark.parametrize("closed", ["2>/dev/full", "2>&-", ">&- 2>&- <&-"])
def test_an_error_that_cannot_be_printed_is_still_an_error(closed: str) -> None:
    assert run(f"pixeldp models no-such-folder {closed}").returncode == 1
    assert run(f"pixeldp nonsense {closed}").returncode == 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "iso8859-7"])
def test_help_appears_on_terminals_without_unicode(encoding: str) -> None:
    done = run("pixeldp size --help", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert b"--scale" in done.stdout
    if encoding == "iso8859-7":
        assert "σ".encode(encoding) in done.stdout


@pytest.mark.slow
def test_a_name_in_no_known_encoding_is_printed_unchanged(tmp_path: Path) -> None:
    file = os.fsencode(tmp_path) + b"/\xff.png"
    with open(file, "wb") as stream:
        stream.write((ROOT / "examples" / "7.png").read_bytes())
    command = [sys.executable.encode(), b"-m", b"service.cli.main", b"predict", file]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, check=True)
    assert file in done.stdout
