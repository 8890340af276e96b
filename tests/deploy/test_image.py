"""The image's content, run as the image runs it, without Docker."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from service.http.address import url
from service.http.guards import keys
from tests.deploy.conftest import free_port, start
from tests.deploy.test_container import USER, instructions, last_stage
from tests.deploy.tools import ROOT
from tests.service.http.test_address import has_ipv6

pytestmark = pytest.mark.slow

# $1 becomes a root folder with the system's programs, Python, its packages, and the image's content
# at /image, all of it read-only; only /tmp can be written. $2 is Python's folder, $3 that of its
# packages, $4 the image's content; the remaining arguments are the command to run in there.
CONFINE = """
set -e
root=$1
mount --make-rprivate /
mount -t tmpfs tmpfs "$root"
# First, since what is shown may lie below it.
mkdir "$root/tmp"
mount -t tmpfs tmpfs "$root/tmp"
show() { mkdir -p "$root$2"; mount --rbind "$1" "$root$2"; mount -o remount,bind,ro "$root$2"; }
for folder in /bin /lib /lib64 /usr /etc; do
    if [ -L "$folder" ]; then cp -P "$folder" "$root"
    elif [ -d "$folder" ]; then show "$folder" "$folder"; fi
done
show "$2" "$2"
show "$3" "$3"
show "$4" /image
mkdir "$root/proc" "$root/dev"
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -o remount,ro "$root"
shift 4
exec chroot "$root" "$@"
"""


class Running(NamedTuple):
    """The confined service."""

    process: subprocess.Popen[bytes]
    port: int
    key: str

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def install(folder: Path) -> Path:
    """Install what the image's build copies, in the same way, without the dependencies."""
    context, image = folder / "context", folder / "image"
    context.mkdir()
    for copied in instructions("COPY"):
        for source in [] if "--from" in copied else copied.split()[:-1]:
            if (ROOT / source).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, context / source, ignore=ignored)
            else:
                shutil.copy(ROOT / source, context / source)
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(image), str(context)], check=True)
    image.chmod(0o755)
    return image


def environment(port: int) -> dict[str, str]:
    """Return the image's variables, with this test's paths and size."""
    set_by_image = shlex.split(" ".join(instructions("ENV", last_stage())))
    return {
        **dict(pair.split("=", 1) for pair in set_by_image),
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": "/image",
        "PIXELDP_PORT": str(port),
        "PIXELDP_KEYS": "/image/keys.json",
        "PIXELDP_DEVICES": "cpu",
        "OMP_NUM_THREADS": "1",
    }


def answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health/ready").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Run as a user without name, rights or home, on a read-only root except for /tmp."""
    try_it = ["unshare", "--mount", "sh", "-c", "mount --make-rprivate / && setpriv --version"]
    if not shutil.which("unshare") or subprocess.run(try_it, capture_output=True).returncode:
        pytest.skip("NOT TESTED: confining the service takes Linux and a superuser who may mount")
    folder = tmp_path_factory.mktemp("image")
    (folder / "root").mkdir()
    image, port = install(folder), free_port()
    key = keys.add(image / "keys.json", "client", ["predict"], None)
    (image / "keys.json").chmod(0o644)
    user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    rights = ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
    folders = [str(folder / "root"), sys.base_prefix, sys.prefix, str(image)]
    variables = [f"{name}={value}" for name, value in environment(port).items()]
    command = [
        *("unshare", "--mount", "sh", "-c", CONFINE, "confine", *folders),
        *(*user, *rights, "env", "-i", *variables),
        *(f"{sys.prefix}/bin/python", "-P", "-m", "service.cli.main", "serve"),
    ]
    log = folder / "service.log"
    process = start(command, log, lambda: answers(f"http://127.0.0.1:{port}"))
    yield Running(process, port, key)
    process.terminate()
    assert process.wait(300) == 0, log.read_text()


def test_it_has_no_rights(running: Running) -> None:
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    assert re.search(rf"^Uid:\t{USER}\t{USER}\t{USER}\t{USER}$", status, re.MULTILINE)
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd"):
        assert re.search(rf"^{kind}:\t0+$", status, re.MULTILINE), kind
    mounts = Path(f"/proc/{running.process.pid}/mounts").read_text().splitlines()
    writable = {line.split()[1] for line in mounts if line.split()[3].startswith("rw")}
    assert {path for path in writable if not path.startswith(("/proc", "/dev"))} == {"/tmp"}


def test_it_answers_clients_with_a_key(running: Running) -> None:
    picture = (ROOT / "examples" / "7.png").read_bytes()
    headers = {"Content-Type": "image/png"}
    with httpx.Client(base_url=running.address, headers=headers, timeout=300) as client:
        assert client.post("/predict", content=picture).status_code == 401
        client.headers["Authorization"] = f"Bearer {running.key}"
        assert client.post("/predict", content=picture).json()["label"]["name"] == "7"
        for path in ("/", "/docs", "/health/live"):
            assert client.get(path).status_code == 200, path


def test_it_is_reached_over_ipv4_and_ipv6(running: Running) -> None:
    hosts = ["127.0.0.1", "::1"] if has_ipv6() else ["127.0.0.1"]
    for host in hosts:
        assert httpx.get(f"{url(host, running.port)}/health/live", timeout=300).status_code == 200


def test_the_probe_of_the_image_tells_whether_it_is_ready(running: Running) -> None:
    [probe] = re.findall(r"HEALTHCHECK .*CMD (\[.*\])", last_stage())
    name, *arguments = json.loads(probe)
    assert name == "pixeldp"
    command = [sys.executable, "-P", "-m", "service.cli.main", *arguments]
    for port, status in ((running.port, 0), (free_port(), 1)):
        # It is asked directly, whatever proxy is set for other hosts.
        others = {**os.environ, "http_proxy": "http://127.0.0.1:9"}
        variables = {**others, **environment(port), "PATH": os.environ["PATH"], "PYTHONPATH": ""}
        done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, check=False)
        assert done.returncode == status, done.stderr
