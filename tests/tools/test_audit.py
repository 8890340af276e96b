"""The audit of pins with a database server: vulnerable, clean, malformed and unreachable."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FLAW: dict[str, Any] = {
    "id": "PYSEC-2099-1",
    "modified": "2099-01-01T00:00:00Z",
    "published": "2099-01-01T00:00:00Z",
    "summary": "A flaw.",
    "affected": [
        {
            "package": {"name": "pillow", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9999.0"}]}],
        }
    ],
}


@contextmanager
def database(vulnerable: str) -> Iterator[str]:
    """Serve OSV's query route; it knows one vulnerable package."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            flaws = [FLAW] if asked["package"]["name"] == vulnerable else []
            content = json.dumps({"vulns": flaws} if flaws else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def audit(pins: Path, address: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PIP_AUDIT_VULNERABILITY_SERVICE": "osv",
        "PIP_AUDIT_OSV_URL": address,
    }
    return subprocess.run(
        [sys.executable, "-m", "tools.audit", str(pins)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )


@pytest.fixture
def pins(tmp_path: Path) -> Path:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    (tmp_path / "pins.txt").write_text("\n".join(one for one in lines if one.startswith("p")))
    return tmp_path / "pins.txt"


@pytest.mark.slow
def test_a_vulnerable_pin_fails(pins: Path) -> None:
    with database("pillow") as address:
        done = audit(pins, address)
    assert done.returncode == 1, done.stderr
    [line] = done.stdout.splitlines()
    assert "pillow" in line
    assert "PYSEC-2099-1, fixed in 9999.0" in line


@pytest.mark.slow
def test_clean_pins_pass_in_silence(pins: Path) -> None:
    with database("something-else") as address:
        done = audit(pins, address)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_unreachable_database_is_reported_as_such(pins: Path) -> None:
    done = audit(pins, "http://127.0.0.1:9")
    assert done.returncode == 0
    assert done.stdout == ""
    assert "NOT DONE" in done.stderr
