"""Files are replaced as a whole, through links, by one process at a time."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from models.files import locked, write_whole


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "true").mkdir()
    (tmp_path / "true" / "file").write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to("true/file")
    write_whole(link, b"new")
    assert link.is_symlink()
    assert (tmp_path / "true" / "file").read_bytes() == b"new"
    # A link to a file that does not exist yet, and links to folders.
    dangling = tmp_path / "dangling"
    dangling.symlink_to("other/file")
    write_whole(dangling, b"first")
    assert (tmp_path / "other" / "file").read_bytes() == b"first"


def test_mode_and_owner_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_whole(file, b"", mode=0o600)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o640)
    if os.getuid() == 0:
        os.chown(file, 10001, 10001)
    write_whole(file, b"new", mode=0o600)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert file.stat().st_uid == (10001 if os.getuid() == 0 else os.getuid())


FULL = """
import resource, sys
from pathlib import Path
from models.files import write_whole
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_whole(Path(sys.argv[1]), b"x" * 2000)
except OSError as error:
    print(error.filename, error.strerror)
"""


def test_on_a_full_disk_nothing_changes(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(file)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split(maxsplit=1) == [str(file), "File too large\n"]
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_circular_links_are_an_error_of_that_file(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("link")
    with pytest.raises(OSError, match=str(link)):
        write_whole(link, b"")


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path / "a"), pytest.raises(BlockingIOError), locked(tmp_path / "b", wait=False):
        pass
    with locked(tmp_path / "b", wait=False):
        pass
