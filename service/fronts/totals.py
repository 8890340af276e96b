"""The metrics of one service, whose processes count apart.

Counters and histograms are sums over the main process and all fronts. What a front had counted
before it died stays part of them, so they never fall. Gauges are those of the main process, except
for the resources that processes use.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.core import Metric

from service.http.metrics import Metrics

# Gauges of which each process has its own part.
_OWN = {"process_resident_memory_bytes", "process_virtual_memory_bytes", "process_open_fds"}
_ADDED = {"counter", "histogram"}
# For each sample its name, labels and value.
Snapshot = list[tuple[str, dict[str, str], float]]
_Key = tuple[str, tuple[tuple[str, str], ...]]


def snapshot(metrics: Metrics) -> Snapshot:
    """Return what a front has counted."""
    return [
        (sample.name, sample.labels, sample.value)
        for family in metrics.collect()
        if family.type in _ADDED or family.name in _OWN
        for sample in family.samples
    ]


class Totals:
    """Sums over processes."""

    def __init__(self) -> None:
        self._ended: Snapshot = []

    def end(self, last: Snapshot) -> None:
        """Keep what a front has counted that is gone."""
        sums = _sums([self._ended, [one for one in last if one[0] not in _OWN]])
        self._ended = [(name, dict(labels), value) for (name, labels), value in sums.items()]

    def render(self, own: Metrics, fronts: Iterable[Snapshot]) -> bytes:
        """Return the exposition of all in Prometheus's text format.

        Args:
            own: of the main process.
            fronts: of those that run.
        """
        return generate_latest(_Merged(own, _sums([self._ended, *fronts])))


def _sums(snapshots: Iterable[Snapshot]) -> dict[_Key, float]:
    sums: dict[_Key, float] = {}
    for name, labels, value in (one for taken in snapshots for one in taken):
        key = name, tuple(sorted(labels.items()))
        sums[key] = _added(name, sums[key], value) if key in sums else value
    return sums


def _added(name: str, one: float, other: float) -> float:
    """Add two parts of a sample; that of a counter's start is the earlier."""
    return min(one, other) if name.endswith("_created") else one + other


class _Merged:
    """The families of the main process, with the sums added."""

    def __init__(self, own: Metrics, sums: dict[_Key, float]) -> None:
        self._own, self._sums = own, sums

    def collect(self) -> Iterator[Metric]:
        """Yield each family."""
        left: dict[str, list[tuple[_Key, float]]] = {}
        for key, value in self._sums.items():
            left.setdefault(key[0], []).append((key, value))
        for family in self._own.collect():
            yield self._merge(family, left)

    def _merge(self, family: Metric, left: dict[str, list[tuple[_Key, float]]]) -> Metric:
        if family.type not in _ADDED and family.name not in _OWN:
            return family
        merged = Metric(family.name, family.documentation, family.type, family.unit)
        here: dict[_Key, float] = {}
        for sample in family.samples:
            here[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
        for suffix in ("", "_total", "_count", "_sum", "_bucket", "_created"):
            for key, value in left.get(family.name + suffix, ()):
                before = here.get(key)
                here[key] = value if before is None else _added(key[0], before, value)
        for name, labels, value in _in_order(family, here):
            merged.add_sample(name, labels, value)
        return merged


def _in_order(family: Metric, found: dict[_Key, float]) -> list[tuple[str, dict[str, Any], float]]:
    """Return the samples of each series together; a histogram's buckets with rising bounds."""

    def place(key: _Key) -> tuple[Any, ...]:
        labels = dict(key[1])
        bound = float(labels.pop("le", "inf"))
        part = ("_bucket", "_count", "_sum", "_created")
        suffix = next((part.index(one) for one in part if key[0].endswith(one)), -1)
        return tuple(sorted(labels.items())), suffix, bound

    ordered = sorted(found, key=place) if family.type == "histogram" else sorted(found)
    return [(name, dict(labels), found[name, labels]) for name, labels in ordered]
