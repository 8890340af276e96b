"""Signals to stop that come while a service starts."""

import subprocess
import sys

import pytest

from tests.names import ROOT

# Python forgets the exception that a handler raises in a destructor.
FORGETS = """
import os, signal

from service.http.server import stopped_by_signals
from service.system import signals


class Forgetful:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            str()


with signals.stops_at_once():
    {what}
    print("starts", flush=True)
    with stopped_by_signals(lambda *_: None):
        print("serves", flush=True)
"""


@pytest.mark.parametrize(("what", "said"), [("Forgetful()", "starts\n"), ("", "starts\nserves\n")])
def test_a_signal_that_python_forgets_stops_the_service_all_the_same(what: str, said: str) -> None:
    command = [sys.executable, "-c", FORGETS.format(what=what)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, said), done.stderr
    assert ("SystemExit" in done.stderr) is bool(what), "it was forgotten"
