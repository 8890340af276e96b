"""Figures of one run: shown as they come, as a Markdown table and JSON at the end."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


class Figures:
    """Named figures, each measured once or more."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def note(self, name: str, value: float) -> None:
        """Add a measurement, and show it on standard error."""
        self._values.setdefault(name, []).append(value)
        print(f"  {name}: {value:.4g}", file=sys.stderr, flush=True)

    def report(self, title: str, file: Path | None, **about: Any) -> None:
        """Print the table; write it with ``about`` to ``file``, if there is one."""
        print(f"\n{title}\n\n| figure | median | of |\n| --- | ---: | --- |")
        for name, values in self._values.items():
            of = ", ".join(f"{value:.4g}" for value in values)
            print(f"| {name} | {np.median(values):.4g} | {of} |")
        if file:
            document = {**about, "title": title, "figures": self._values}
            file.write_text(json.dumps(document, indent=2) + "\n")
