"""Figures of one run: printed at once, and as a Markdown table and JSON at the end."""

import json
import sys
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np


class Figures:
    """Named figures, each measured once or more, and remarks on their measurement."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}
        self._remarks: list[str] = []

    def note(self, name: str, value: float) -> None:
        """Add a measurement, and print it on standard error; if not finite, it is a remark."""
        if not isfinite(value):
            self.remark(f"{name}: could not be measured")
            return
        self._values.setdefault(name, []).append(value)
        print(f"  {name}: {value:.4g}", file=sys.stderr, flush=True)

    def ratio(self, name: str, above: float, below: float) -> None:
        """Add a ratio of two measurements, unless the second is 0."""
        self.note(name, above / below if below else float("nan"))

    def remark(self, text: str) -> None:
        """Add a remark for readers of the figures, printed once now and below the table."""
        if text and text not in self._remarks:
            self._remarks.append(text)
            print(f"  {text}", file=sys.stderr, flush=True)

    def report(self, title: str, file: Path | None, **about: Any) -> None:
        """Print the table; write it with ``about`` to ``file``, if there is one."""
        print(f"\n{title}\n\n| figure | median | of |\n| --- | ---: | --- |")
        for name, values in self._values.items():
            of = ", ".join(f"{value:.4g}" for value in values)
            print(f"| {name} | {np.median(values):.4g} | {of} |")
        for remark in self._remarks:
            print(f"\n- {remark}")
        if file:
            figures = {"figures": self._values, "remarks": self._remarks}
            document = {**about, "title": title, **figures}
            file.write_text(json.dumps(document, indent=2) + "\n")
