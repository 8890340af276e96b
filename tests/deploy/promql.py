"""The PromQL of the project, and which of the service's metrics it names."""

import json
import re
from typing import Any, NamedTuple

import yaml

from tests.deploy.tools import ROOT

RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "pixeldp.json"
SCALING = ROOT / "deploy" / "kubernetes" / "scaling" / "scaledobject.yaml"

# Metrics and labels that Prometheus itself adds.
OWN_METRICS = {"up", "ALERTS"}
OWN_LABELS = {"job", "instance", "namespace"}

_SELECTOR = re.compile(r"(?<![\w:])([a-z_][\w:]*|ALERTS)(?:\{([^}]*)\})?(?=[\s\[)}]|$)")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')
_METRIC = re.compile(r"^(pixeldp_|process_|up$|ALERTS$)")


class Selector(NamedTuple):
    """A metric as a query selects it; each matcher is a label, an operator and a value."""

    metric: str
    matchers: list[tuple[str, str, str]]


def rules() -> list[dict[str, Any]]:
    return [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]


def panels() -> list[dict[str, Any]]:
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def panel_queries() -> dict[str, str]:
    """Return the dashboard's queries as Grafana would send them, by panel and letter."""
    return {
        f"{panel['title']} {target['refId']}": as_sent(target["expr"])
        for panel in panels()
        for target in panel["targets"]
    }


def as_sent(query: str) -> str:
    return query.replace("$__rate_interval", "1m").replace("$instance", ".*")


def scaling_queries() -> list[str]:
    triggers = yaml.safe_load(SCALING.read_text())["spec"]["triggers"]
    return [trigger["metadata"]["query"] for trigger in triggers]


def every_query() -> dict[str, str]:
    named = {f"rule {rule.get('record', rule.get('alert'))}": rule["expr"] for rule in rules()}
    scaling = {f"scaling {n}": query for n, query in enumerate(scaling_queries())}
    return {**named, **panel_queries(), **scaling}


def selectors(query: str) -> list[Selector]:
    """Return the metrics that ``query`` selects; recorded ones (with colons) are left out."""
    return [
        Selector(metric, _MATCHER.findall(matchers or ""))
        for metric, matchers in _SELECTOR.findall(query)
        if _METRIC.match(metric)
    ]


def recorded(query: str) -> set[str]:
    return set(re.findall(r"\b\w+:\w+:\w+", query))
