"""Lock every package that is installed: its version, and the SHA-256 of each of its wheels.

    python -m tools.lock [--upgrade | --check]

``make lock`` runs it, as it needs uv. It writes ``locks``, one file for each layer of packages that
is installed on top of another, and ``constraints.txt``, which has all pins without hashes. Pins do
not change unless ``pyproject.toml`` excludes them; ``--upgrade`` takes the newest releases.
``--check`` writes nothing and needs no network: it says where locks, constraints and
``pyproject.toml`` do not agree.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
# Each layer, and the layers below it, whose packages it does not repeat.
TORCH = ("torch", "torchvision")
BASE = ("serve", *TORCH, "cuda")
# The extras that tests need, each installed by itself on what serves.
EXTRAS = ("tracing", "openvino", "formats", "attacks")
LAYERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(BASE, ()),
    **dict.fromkeys(EXTRAS, BASE),
    "dev": (*BASE, *EXTRAS),
    "ray": (*BASE, "tracing"),
    "bench": (*BASE, *EXTRAS, "dev"),
    "docs": (*BASE, *EXTRAS, "dev"),
    "lock": (),
}
# PyTorch has several builds, each with its own files. Those for CUDA need further packages.
BUILDS = ("cpu", "cu130")
CUDA = re.compile(r"(cuda|nvidia)-.*|triton")
# Every virtual environment already has it.
WITHOUT = ("pip",)
# Installed into a separate environment, and so independent of the other packages.
APART = {"clients": "tests/generated/requirements.in"}
PIN = re.compile(
    r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)(?P<marker> ; [^\\\n]+?)?(?= \\$|$)"
)
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
CONSTRAINTS = (
    "# Every package that the project runs and is tested with, pinned. Made by make lock.\n"
)
HEADER = "# Made by make lock; pip install --require-hashes --no-deps takes it.\n"


class Pin(NamedTuple):
    """One locked package: its version, where it is installed, and the digests of its wheels."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.name}=={self.version}{self.marker}"]
        return " \\\n".join([*lines, *(f"    --hash=sha256:{one}" for one in self.hashes)]) + "\n"


Pins = dict[str, Pin]


def read(path: Path) -> Pins:
    """Return the pins of a requirements file, by normalized name.

    Raises:
        ValueError: a line pins no single version, or a package comes twice.
    """
    pins: Pins = {}
    for entry in re.split(r"\n(?=\S)", path.read_text(encoding="utf-8")):
        if entry.startswith("#") or not entry.strip():
            continue
        match = PIN.match(entry.partition("\n")[0])
        if match is None:
            raise ValueError(f"{path.name} does not pin {entry.split()[0]!r} to one version")
        name = canonicalize_name(match["name"])
        if name in pins:
            raise ValueError(f"{path.name} has {name} twice")
        hashes = tuple(HASH.findall(entry))
        pins[name] = Pin(match["name"], match["version"], match["marker"] or "", hashes)
    return pins


def write(path: Path, pins: Pins) -> None:
    """Write a lock."""
    entries = [str(pins[name]) for name in sorted(pins)]
    path.write_text(HEADER + "".join(entries), encoding="utf-8")


def _project(root: Path, name: str = "pyproject.toml") -> dict[str, Any]:
    return tomllib.loads((root / name).read_text(encoding="utf-8"))


def _wanted(root: Path) -> Iterator[tuple[str, Requirement]]:
    """Yield the requirements of both projects, with the layer that must have each."""
    service, client = _project(root), _project(root, "client/pyproject.toml")
    for asked in (service, client):
        names = (*asked["build-system"]["requires"], *asked["project"]["dependencies"])
        yield from (("serve", Requirement(name)) for name in names)
    for extra, names in service["project"]["optional-dependencies"].items():
        layer = extra if extra in LAYERS else "dev"
        yield from ((layer, Requirement(name)) for name in names)


def check(root: Path) -> list[str]:
    """Return all disagreements between locks, constraints and ``pyproject.toml``."""
    try:
        locks = {path.stem: read(path) for path in sorted((root / "locks").glob("*.txt"))}
        constraints = read(root / "constraints.txt")
    except (OSError, ValueError) as error:
        return [str(error)]
    builds = {f"{name}-{build}": name for build in BUILDS for name in TORCH}
    faults = [
        f"locks/{name}.txt: expected, but not there"
        for name in sorted({*LAYERS, *builds, *APART} - set(locks))
    ]
    faults += [
        f"locks/{name}.txt: {pin.name} has no hash"
        for name, pins in locks.items()
        for pin in pins.values()
        if not pin.hashes
    ]
    if faults:
        return faults
    locked = {name: pin.version for layer in LAYERS for name, pin in locks[layer].items()}
    for layer in LAYERS:
        for name, pin in locks[layer].items():
            pinned = constraints.get(name)
            if pinned is None or pinned.version != pin.version:
                said = "nothing" if pinned is None else pinned.version
                faults.append(
                    f"{name}: locks/{layer}.txt has {pin.version}, constraints.txt {said}"
                )
    faults += [f"{name}: in constraints.txt, in no lock" for name in set(constraints) - set(locked)]
    faults += [fault for layer, asked in _wanted(root) for fault in _lacks(layer, asked, locks)]
    for build, name in builds.items():
        built, usual = locks[build].get(name), locks[name].get(name)
        if built is None or usual is None or not _is_build(built, usual):
            faults.append(f"locks/{build}.txt: no build of what locks/{name}.txt has")
    return sorted(faults)


def _is_build(pin: Pin, usual: Pin) -> bool:
    public = Version(pin.version).public
    return public == usual.version and set(pin.hashes) <= set(usual.hashes)


def _lacks(layer: str, asked: Requirement, locks: dict[str, Pins]) -> Iterator[str]:
    """Yield the faults of one requirement, given the layers that are installed with it."""
    name = canonicalize_name(asked.name)
    if name == "pixeldp":
        return
    below = BASE if layer == "serve" else LAYERS[layer]
    for there in (layer, *below):
        pin = locks[there].get(name)
        if pin is not None:
            if pin.version not in asked.specifier:
                said = f"pyproject.toml asks {asked.specifier}"
                yield f"{name}: {said}, locks/{there}.txt has {pin.version}"
            return
    yield f"{name}: pyproject.toml asks it for {layer}, no lock that is installed then has it"


def make(root: Path, upgrade: bool) -> None:
    """Write locks and constraints again.

    Raises:
        SystemExit: uv found no solution, or builds of PyTorch cannot be asked for.
    """
    extras = _project(root)["project"]["optional-dependencies"]
    required = "\n".join(_project(root)["build-system"]["requires"])
    everything = ("pyproject.toml", "client/pyproject.toml", "--all-extras")
    pins = _compile(root, everything, required, kept=root / "constraints.txt", upgrade=upgrade)
    torch = {name: pins[name] for name in TORCH}
    builds = {build: _build(root, build, torch) for build in BUILDS}
    layers = {
        layer: _compile(root, ("pyproject.toml", "--extra", layer), required, pins=pins)
        for layer in LAYERS
        if layer in extras
    }
    layers["lock"] = {name: pins[name] for name in _named(extras["lock"])}
    base = _compile(root, everything[:2], required, pins=pins)
    for built in builds.values():
        for name, pin in built.items():
            hashes = dict.fromkeys([*base[name].hashes, *pin.hashes])
            base[name] = base[name]._replace(hashes=tuple(hashes))
    layers |= {name: {name: base.pop(name)} for name in TORCH}
    layers["cuda"] = {name: base.pop(name) for name in [*base] if CUDA.fullmatch(name)}
    layers["serve"] = base
    for layer, below in LAYERS.items():
        there = {name: pin.marker for lower in below for name, pin in layers[lower].items()}
        # Packages that only some machines had, and others need now, are listed again.
        more = {name: pin for name, pin in layers[layer].items() if there.get(name) != pin.marker}
        write(root / f"locks/{layer}.txt", more)
    for build, found in builds.items():
        for name, pin in found.items():
            write(root / f"locks/{name}-{build}.txt", {name: pin})
    for apart, source in APART.items():
        lock = root / f"locks/{apart}.txt"
        write(lock, _compile(root, (source,), "", kept=lock, upgrade=upgrade))
    lines = [f"{pins[name].name}=={pins[name].version}\n" for name in sorted(pins)]
    (root / "constraints.txt").write_text(CONSTRAINTS + "".join(lines), encoding="utf-8")


def _named(requirements: list[str]) -> list[str]:
    return [canonicalize_name(Requirement(one).name) for one in requirements]


def _compile(
    root: Path,
    sources: tuple[str, ...],
    more: str,
    *,
    kept: Path | None = None,
    pins: Pins | None = None,
    upgrade: bool = False,
) -> Pins:
    """Resolve for every platform; prefer ``kept`` unless ``upgrade``; ``pins`` must hold."""
    with tempfile.TemporaryDirectory() as folder:
        out, pinned = Path(folder, "out.txt"), Path(folder, "pins.txt")
        if kept is not None and kept.exists():
            out.write_text(kept.read_text(encoding="utf-8"), encoding="utf-8")
        pinned.write_text("".join(f"{p.name}=={p.version}\n" for p in (pins or {}).values()))
        minimum = _project(root)["project"]["requires-python"].removeprefix(">=")
        _uv(
            root,
            *(*sources, "-", "--constraint", str(pinned), "--output-file", str(out)),
            *("--universal", "--python-version", minimum, "--only-binary", ":all:"),
            # One version of a package for every platform and Python.
            *("--fork-strategy", "fewest"),
            *("--upgrade" if upgrade else "--no-upgrade",),
            *(word for name in WITHOUT for word in ("--no-emit-package", name)),
            more=more,
        )
        return read(out)


def _build(root: Path, build: str, torch: Pins) -> Pins:
    """Return the pins of one build of PyTorch: new ones, or the present ones if they still fit."""
    locks = [root / f"locks/{name}-{build}.txt" for name in torch]
    asked = "".join(f"{pin.name}=={pin.version}\n" for pin in torch.values())
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.txt")
        try:
            _uv(
                root,
                *("-", "--torch-backend", build, "--no-deps", "--output-file", str(out)),
                *("--python-platform", "linux", "--python-version", "3.12"),
                more=asked,
            )
        except SystemExit as error:
            there: Pins = {}
            for lock in locks:
                there |= read(lock) if lock.exists() else {}
            public = {name: Version(pin.version).public for name, pin in there.items()}
            if public != {name: pin.version for name, pin in torch.items()}:
                raise
            reason = str(error).splitlines()[0]
            print(f"lock: {build} NOT ASKED FOR, its locks stay: {reason}", file=sys.stderr)
            return there
        return read(out)


def _uv(root: Path, *words: str, more: str) -> None:
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--generate-hashes"]
    done = subprocess.run(  # noqa: S603 - a fixed command line
        [*command, "--no-header", "--no-annotate", *words],
        cwd=root,
        input=more,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"lock: {done.stderr.strip() or 'uv failed'}")


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        found = check(ROOT)
        for fault in found:
            print(f"lock: {fault}")
        if found:
            print("lock: make lock writes the locks anew")
        sys.exit(1 if found else 0)
    make(ROOT, upgrade="--upgrade" in sys.argv[1:])
