"""Whatever a worker writes is read and logged."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from service import logs
from service.engine.output import LONGEST_LINE, Output

SCRIPT = """
import os, sys
os.write(1, b'{"event": "of its log"}\\nprinted by a library\\n')
os.write(2, b"\\xff" + b"x" * 40_000 + b"\\n")
os.write(2, b"without a line break")
"""


def read(script: str) -> list[str]:
    passed: list[str] = []

    async def run() -> None:
        output, end = await Output.open("worker0")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, stdout=end, stderr=end
        )
        os.close(end)
        await process.wait()
        await output.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "pass_on", lambda worker, line: passed.append(line))
        asyncio.run(run())
    return passed


def test_lines_are_passed_on_including_the_last() -> None:
    lines = read(SCRIPT)
    assert lines[:2] == ['{"event": "of its log"}', "printed by a library"]
    assert lines[-1] == "without a line break"
    assert "".join(lines[2:-1]) == "\\xff" + 40_000 * "x"
    assert max(map(len, lines)) < 4 * LONGEST_LINE


def test_processes_started_by_a_worker_do_not_delay_its_end(tmp_path: Path) -> None:
    """Such a process holds the pipe open, like a compiler that outlives its worker."""
    file = tmp_path / "pid"
    script = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
open({str(file)!r}, "w").write(str(child.pid))
print("last word", flush=True)
"""
    try:
        assert read(script) == ["last word"]
    finally:
        os.kill(int(file.read_text()), 9)


JSON = """
import json, sys
from service import logs
logs.configure("json", "info")
logs.pass_on("worker0", '{"event": "of its log"}')
logs.pass_on("worker0", "warning of a library")
"""


def test_in_a_log_of_json_every_line_is_json() -> None:
    written = subprocess.run(
        [sys.executable, "-c", JSON], capture_output=True, text=True, check=True
    ).stderr
    own, library = map(json.loads, written.splitlines())
    assert own == {"event": "of its log"}
    assert (library["worker"], library["line"]) == ("worker0", "warning of a library")
