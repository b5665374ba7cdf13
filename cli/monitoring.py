"""Alert rules for Prometheus and a dashboard for Grafana, over THE table of figures.

An expression names figures without the prefix, as the table has them; `expressed` puts it in front. Each alert has
a runbook: the heading of its name in docs/runbooks.md.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal, NamedTuple

from mgmt.protocol.figures import FAMILIES, PREFIX, Family

RUNBOOKS = "docs/runbooks.md"
SERIES = re.compile(r"\b(" + "|".join(sorted(FAMILIES, key=len, reverse=True)) + r")(_bucket|_sum|_count)?\b")


class Alert(NamedTuple):
    """`holds_for`: how long the expression must be true, in Prometheus' words."""

    name: str
    expression: str
    holds_for: str
    severity: Literal["critical", "warning"]
    summary: str


ALERTS = (
    Alert(
        "MgmtFiguresStale",
        "time() - max(taken_timestamp_seconds) > 180 or absent(taken_timestamp_seconds)",
        "1m",
        "critical",
        "No figures of mgmt for three minutes: the daemon does not answer, or nobody asks it.",
    ),
    Alert(
        "MgmtQueueDegraded",
        "max(queue_degraded) > 0",
        "1m",
        "critical",
        "The queue cannot be written: tasks are neither taken nor handed out.",
    ),
    Alert(
        "MgmtSuiteWaiting",
        "sum(suites_waiting) > 0",
        "10m",
        "warning",
        "Suites have ready tasks, and no node works on them.",
    ),
    Alert(
        "MgmtAgentOffline",
        "sum(agents_missing) > 0",
        "5m",
        "warning",
        "Nodes are lost that nobody gave up.",
    ),
    Alert(
        "MgmtAgentRefusing",
        "sum(agents_refusing) + sum(workers_refusing) > 0",
        "5m",
        "warning",
        "Nodes or independent workers gave up work that still waits to be done.",
    ),
    Alert(
        "MgmtHookFailing",
        "sum(increase(env_hook_failures_total[15m])) > 0",
        "0m",
        "warning",
        "Hooks of suites fail.",
    ),
    Alert(
        "MgmtLeaseExpired",
        "sum(increase(lease_expiries_total[15m])) > 0",
        "0m",
        "warning",
        "Who held tasks was not heard in time: its tasks are done again by others.",
    ),
    Alert(
        "MgmtWorkersDying",
        "sum(increase(strikes_total[15m])) > 10",
        "0m",
        "warning",
        "Workers die of their tasks again and again.",
    ),
    Alert(
        "MgmtDeadLetters",
        "sum(increase(dead_letters_total[15m])) > 0",
        "0m",
        "warning",
        "Tasks were given up after too many attempts.",
    ),
    Alert(
        "MgmtFetchSlow",
        "histogram_quantile(0.95, sum by (le) (rate(task_fetch_latency_seconds_bucket[5m]))) > 0.25",
        "5m",
        "warning",
        "Nodes wait long for tasks: the disk of the queue, or the daemon, is slow.",
    ),
)


def expressed(expression: str) -> str:
    """With the names that Prometheus knows."""
    return SERIES.sub(lambda name: PREFIX + name[0], expression)


def rules() -> str:
    """A rule file of Prometheus."""
    lines = ["groups:", "- name: mgmt", "  rules:"]
    for alert in ALERTS:
        lines += [
            f"  - alert: {alert.name}",
            f"    expr: {_quoted(expressed(alert.expression))}",
            f"    for: {alert.holds_for}",
            f"    labels: {{severity: {alert.severity}}}",
            "    annotations:",
            f"      summary: {_quoted(alert.summary)}",
            f"      runbook: {_quoted(f'{RUNBOOKS}#{alert.name.lower()}')}",
        ]
    return "".join(f"{line}\n" for line in lines)


def dashboard() -> dict[str, Any]:
    """A dashboard of Grafana: the alerts that fire, then a panel for each figure, in rows by its subject."""
    about = {"suites": "Suites", "agents": "Nodes", "workers": "Nodes", "queue": "Queue", "tasks": "Tasks"}
    about |= {"task": "Tasks", "env": "Hooks", "lease": "Failures", "strikes": "Failures"}
    about |= {"exclusions": "Failures", "dead": "Failures", "candidates": "Candidates"}
    rows: dict[str, list[str]] = {}
    for name in FAMILIES:
        row = about.get(name.partition("_")[0])
        if row is not None:
            rows.setdefault(row, []).append(name)
    panels: list[dict[str, Any]] = [_alerts()]
    y = panels[0]["gridPos"]["h"]
    for title, names in rows.items():
        panels.append({"type": "row", "title": title, "gridPos": _place(0, y, 24, 1)})
        y += 1
        for at, name in enumerate(names):
            x, line = at % 3 * 8, at // 3 * 7
            panels.append(_panel(name, FAMILIES[name]) | {"gridPos": _place(x, y + line, 8, 7)})
        y += (len(names) + 2) // 3 * 7
    for number, panel in enumerate(panels, 1):
        panel["id"] = number
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return {
        "title": "mgmt",
        "uid": "mgmt",
        "tags": ["mgmt"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [source]},
        "panels": panels,
    }


def queries(name: str, family: Family) -> dict[str, str]:
    """Legend and expression of what is drawn of a figure."""
    if family.kind == "histogram":
        rate = f"sum by (le) (rate({name}_bucket[$__rate_interval]))"
        return {f"p{q}": expressed(f"histogram_quantile(0.{q}, {rate})") for q in (50, 95, 99)}
    inner = f"rate({name}[$__rate_interval])" if family.kind == "counter" else name
    by = f"sum by ({family.label}) " if family.label else "sum"
    legend = f"{{{{{family.label}}}}}" if family.label else name
    return {legend: expressed(f"{by}({inner})")}


def _panel(name: str, family: Family) -> dict[str, Any]:
    unit = "s" if family.unit == "s" else "ops" if family.kind == "counter" else "short"
    if family.unit == "s" and family.kind == "counter":
        unit = "percentunit"  # seconds in a second
    return {
        "type": "timeseries",
        "title": name,
        "description": family.help,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + at), "expr": expression, "legendFormat": legend}
            for at, (legend, expression) in enumerate(queries(name, family).items())
        ],
    }


def _alerts() -> dict[str, Any]:
    names = "|".join(alert.name for alert in ALERTS)
    return {
        "type": "table",
        "title": "Alerts that fire",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": _place(0, 0, 24, 6),
        "targets": [
            {
                "refId": "A",
                "expr": f'ALERTS{{alertname=~"{names}", alertstate="firing"}}',
                "format": "table",
                "instant": True,
            }
        ],
    }


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # which is YAML, too
