"""What is logged, and what never is."""

import json
import subprocess
import sys

import pytest

KEY = "pixeldp_" + "k" * 43
SCRIPT = f"""
import logging, structlog
from service import logs
logs.configure({{form!r}}, "info")
log = structlog.get_logger("test")

def fail(authorization):
    picture = "a local variable"
    raise ValueError("broken")

structlog.contextvars.bind_contextvars(request_id="abc-1")
log.info("hello", key="Bearer {KEY}")
log.debug("not this")
try:
    fail("{KEY}")
except ValueError:
    log.exception("it failed")
logging.getLogger("library").warning("a library says {KEY}")
"""


def run(form: str) -> str:
    script = SCRIPT.replace("{form!r}", repr(form))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return done.stderr


def test_json_is_one_object_a_line() -> None:
    for form in ("json", "auto"):  # it is not a terminal
        lines = [json.loads(line) for line in run(form).splitlines()]
        assert [line["event"] for line in lines] == [
            "hello",
            "it failed",
            "a library says pixeldp_***",
        ]
        assert [line["level"] for line in lines] == ["info", "error", "warning"]
        assert {line["request_id"] for line in lines} == {"abc-1"}
        assert "ValueError: broken" in lines[1]["exception"]


@pytest.mark.parametrize("form", ["json", "console"])
def test_neither_keys_nor_local_variables_are_written(form: str) -> None:
    written = run(form)
    assert "ValueError: broken" in written
    assert KEY not in written
    assert written.count("pixeldp_***") == 2
    assert "not this" not in written
    # A traceback quotes lines of code; it must not show the values of variables.
    assert "picture =" not in written.replace('picture = "a local variable"', "")
