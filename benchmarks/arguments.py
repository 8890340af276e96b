"""The arguments that most benchmarks have."""

import argparse
from pathlib import Path

from models.bundle import ZOO


def plain_parser(about: str | None) -> argparse.ArgumentParser:
    """Return a parser of ``--json``, with a module's docstring as its help."""
    made = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", type=Path, help="where to write the figures")
    return made


def bundle_parser(about: str | None) -> argparse.ArgumentParser:
    """Return the same with ``--bundle``."""
    made = plain_parser(about)
    made.add_argument("--bundle", type=Path, default=ZOO / "mnist-cnn")
    return made


def pictures_parser(about: str | None) -> argparse.ArgumentParser:
    """Return the same with ``--data`` and ``--root``, of the test pictures for the bundle."""
    made = bundle_parser(about)
    made.add_argument("--root", type=Path, required=True)
    made.add_argument("--data", default="mnist")
    return made


def add_timing(made: argparse.ArgumentParser, seconds: float) -> None:
    """Add how long to measure, and how long a service may compile before that."""
    made.add_argument("--seconds", type=float, default=seconds, help="of one measurement")
    made.add_argument(
        "--settle", type=float, default=300.0, help="seconds for compiling first, at most"
    )
