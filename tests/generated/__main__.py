"""Generate clients from the OpenAPI document of a running service, and use each of them.

python -m tests.generated [--work FOLDER]

Needs npm and Java. What it installs stays in the folder for later runs.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.e2e.conftest import ROOT, Service

HERE = Path(__file__).parent
SEVEN = ROOT / "examples" / "7.png"
PYTHON_TOOLS = ROOT / "locks" / "clients.txt"
NODE_TOOLS = ("package.json", "package-lock.json", "tsconfig.json")


class Folder:
    """The folder in which tools are installed, and clients generated and run.

    Args:
        path: an absolute path.
        address: of the service.
    """

    def __init__(self, path: Path, address: str) -> None:
        self.path, self.address = path, address
        self.bin = path / "venv" / "bin"

    def run(self, *command: str | Path) -> None:
        """Run a command there; its output is shown only if it fails."""
        environment = {
            **os.environ,
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "ADDRESS": self.address,
            "SEVEN": str(SEVEN),
        }
        done = subprocess.run(
            [str(part) for part in command],
            cwd=self.path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )
        if done.returncode:
            print(done.stdout, file=sys.stderr)
            raise SystemExit(f"failed: {' '.join(map(str, command))}")

    def install(self) -> None:
        """Install the generators, unless the same pins are already installed."""
        pins = "".join(path.read_text() for path in (PYTHON_TOOLS, *(HERE / n for n in NODE_TOOLS)))
        stamp = self.path / "installed"
        if stamp.is_file() and stamp.read_text() == pins:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        for name in NODE_TOOLS:
            shutil.copy(HERE / name, self.path)
        venv.create(self.path / "venv", with_pip=True)
        locked = ("install", "-q", "--require-hashes", "--no-deps", "-r", PYTHON_TOOLS)
        self.run(self.bin / "python", "-m", "pip", *locked)
        self.run("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
        stamp.write_text(pins)

    def fresh(self, name: str) -> Path:
        """Return the path of a folder that does not exist yet."""
        shutil.rmtree(self.path / name, ignore_errors=True)
        return self.path / name

    def ask_by(self, script: str) -> None:
        """Check the types of a script in TypeScript, bundle it with its client, and run it."""
        shutil.copy(HERE / script, self.path)
        configuration = {"extends": "./tsconfig.json", "include": [script]}
        (self.path / "check.json").write_text(json.dumps(configuration))
        self.run("npx", "--no-install", "tsc", "--project", "check.json")
        options = ("--bundle", "--platform=node", "--format=esm", "--outfile=script.mjs")
        self.run("npx", "--no-install", "esbuild", script, "--log-level=error", *options)
        self.run("node", "script.mjs")


def openapi_python_client(folder: Folder) -> None:
    """Generate with openapi-python-client, which warns of what it leaves out."""
    target = folder.fresh("python")
    folder.run(
        *(folder.bin / "openapi-python-client", "generate", "--path", "openapi.json"),
        *("--output-path", target, "--meta", "none", "--fail-on-warning"),
    )
    shutil.copy(HERE / "python_client.py", folder.path)
    folder.run(folder.bin / "python", "python_client.py")


def openapi_fetch(folder: Folder) -> None:
    """Generate types by openapi-typescript, for openapi-fetch."""
    folder.run("npx", "--no-install", "openapi-typescript", "openapi.json", "-o", "schema.d.ts")
    folder.ask_by("fetch_client.ts")


def hey_api(folder: Folder) -> None:
    """Generate with hey-api's openapi-ts."""
    target = folder.fresh("hey")
    folder.run("npx", "--no-install", "openapi-ts", "-i", "openapi.json", "-o", target)
    folder.ask_by("hey_client.ts")


def typescript_fetch(folder: Folder) -> None:
    """Generate with openapi-generator's typescript-fetch, which needs Java."""
    target = folder.fresh("typescript-fetch")
    folder.run(
        *(folder.bin / "openapi-generator-cli", "generate", "-g", "typescript-fetch"),
        *("-i", "openapi.json", "-o", target),
    )
    folder.ask_by("generator_client.ts")


GENERATORS: tuple[Callable[[Folder], None], ...] = (
    openapi_python_client,
    openapi_fetch,
    hey_api,
    typescript_fetch,
)


def main() -> None:
    """Run all generators."""
    parser = argparse.ArgumentParser(prog="python -m tests.generated")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "clients")
    arguments = parser.parse_args()
    if missing := [name for name in ("npm", "node", "java") if shutil.which(name) is None]:
        raise SystemExit(f"not installed: {', '.join(missing)}")
    service = Service(environment={"PIXELDP_DEVICES": "cpu", "PIXELDP_COMPILE": "false"})
    try:
        service.wait_ready()
        folder = Folder(arguments.work.resolve(), service.address)
        folder.install()
        document = httpx.get(f"{service.address}/openapi.json").content
        (folder.path / "openapi.json").write_bytes(document)
        for generate in GENERATORS:
            generate(folder)
            print(f"{generate.__name__.replace('_', '-')}: generated, and answered")
    finally:
        service.stop()


if __name__ == "__main__":
    main()
