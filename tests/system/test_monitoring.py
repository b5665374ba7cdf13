"""What Prometheus and Grafana are given: figures of a daemon that has run a suite, rules and panels over them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from mgmt.core.suites import operations as op
from mgmt.core.suites.pool import Phase
from mgmt.core.suites.states import Suite
from mgmt.protocol.figures import FAMILIES, OF_CREWS, OPEN_STATES, PHASES, PREFIX
from mgmt_cli import monitoring
from tests.promql import Scrape, scrape
from tests.system.place import Place

ROOT = Path(__file__).parents[2]
NAME = re.compile(rf"\b{PREFIX}\w+")
SELECTED = re.compile(r"\b(mgmt_\w+)\{([^}]*)\}")
BY = re.compile(r"sum by \((\w+)\)")


def test_the_table_has_the_words_of_the_core() -> None:
    values = {name: family.values for name, family in FAMILIES.items()}
    assert values["suites"] == tuple(state.name.lower() for state in Suite)
    assert values["tasks_committed_total"] == tuple(ack.name.lower() for ack in op.Ack)
    assert (*(str(phase) for phase in Phase), "offline") == PHASES
    assert set(OPEN_STATES) < set(values["queue_tasks"])
    assert {FAMILIES[name].kind for name in OF_CREWS} == {"counter"}
    assert {
        name
        for name, family in FAMILIES.items()
        if name.endswith("_seconds") != (family.unit == "s" and family.kind != "counter")
    } == set()


@pytest.fixture
def served(place: Place) -> Place:
    """A daemon that has run a suite with a hook."""
    place.started()
    assert place.mgmt("suite", "create", "s", "--workers", "2", "--provision", "true").returncode == 0
    done = place.mgmt("task", "submit", "--suite", "s", "--wait", "--repeat", "20", "--", "true")
    assert done.returncode == 0, done.stderr
    return place


def names_of(scraped: Scrape) -> set[str]:
    return {name for name, _ in scraped}


def unknown(expression: str, scraped: Scrape) -> list[str]:
    """What of an expression no scrape has: figures, labels, values of labels."""
    missing = [name for name in NAME.findall(expression) if name not in names_of(scraped)]
    for name, selector in SELECTED.findall(expression):
        wanted = set(re.findall(r'(\w+)="([^"]*)"', selector))
        assert wanted, f"a selector of another form: {selector}"
        if not any(wanted <= labels for known, labels in scraped if known == name):
            missing.append(f"{name}{{{selector}}}")
    for label in BY.findall(expression):
        of = set(NAME.findall(expression))
        if not any(label in dict(labels) for name, labels in scraped if name in of):
            missing.append(f"by {label} in {expression}")
    return missing


def test_rules_and_panels_speak_of_what_is_scraped(served: Place, tmp_path: Path) -> None:
    text = served.mgmt("metrics").stdout
    scraped = scrape(text)
    rules = served.mgmt("metrics", "--rules").stdout
    (group,) = yaml.safe_load(rules)["groups"]
    alerts: list[dict[str, Any]] = group["rules"]
    assert len(alerts) >= 8
    for alert in alerts:
        assert alert.keys() == {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+m", alert["for"]) and alert["labels"]["severity"] in ("critical", "warning")
        assert NAME.search(alert["expr"]), alert
        assert unknown(alert["expr"], scraped) == []
    board = json.loads(served.mgmt("metrics", "--dashboard").stdout)
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    drawn = [target["expr"] for panel in panels for target in panel["targets"]]
    assert [missing for expression in drawn for missing in unknown(expression, scraped)] == []
    for name in FAMILIES.keys() - {"taken_timestamp_seconds"}:
        assert any(NAME.findall(expression)[:1] and PREFIX + name in expression for expression in drawn), name
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    places = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
    assert len(set(places)) == len(places)
    promtool = shutil.which("promtool")
    if promtool is not None:
        (tmp_path / "mgmt.yml").write_text(rules)
        done = subprocess.run(
            [promtool, "check", "rules", tmp_path / "mgmt.yml"], capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        done = subprocess.run(
            [promtool, "check", "metrics"], input=text.encode(), capture_output=True, check=False
        )
        assert b"error" not in done.stderr.lower(), done.stderr


def test_each_alert_has_a_runbook_with_commands() -> None:
    page = (ROOT / monitoring.RUNBOOKS).read_text(encoding="utf-8")
    chapters = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    assert list(chapters) == [alert.name for alert in monitoring.ALERTS]
    for alert in yaml.safe_load(monitoring.rules())["groups"][0]["rules"]:
        where, _, heading = alert["annotations"]["runbook"].partition("#")
        assert where == monitoring.RUNBOOKS and heading == alert["alert"].lower()
        chapter = chapters[alert["alert"]]
        for part in ("**Means.**", "**Look.**", "**Do.**", "**Over when**"):
            assert part in chapter, f"{alert['alert']} lacks {part}"
        assert re.search(r"^```\n(.*\n)*?(mgmt|systemctl) .*\n", chapter, re.MULTILINE), (
            f"{alert['alert']}: look how?"
        )
        row = re.search(rf"^\| \[{alert['alert']}\].*\| (\w+) \|", page, re.MULTILINE)
        assert row is not None and row[1] == alert["labels"]["severity"]


def test_figures_are_written_in_one_go(served: Place) -> None:
    file = served.folder / "mgmt.prom"
    assert served.mgmt("metrics", "--write", str(file)).stdout == ""
    first = scrape(file.read_text())
    assert first["mgmt_tasks_submitted_total", frozenset()] == 20
    assert first["mgmt_env_hook_runs_total", frozenset({("hook", "provision")})] == 1
    assert [path.name for path in served.folder.iterdir() if "prom" in path.name] == ["mgmt.prom"]
    served.kill_daemon()
    failed = served.mgmt("metrics", "--write", str(file))
    assert failed.returncode == 5 and scrape(file.read_text()) == first, (
        "nobody answers: what is there is old"
    )
    served.started()
    nowhere = served.mgmt("metrics", "--write", str(served.folder / "no" / "mgmt.prom"))
    assert nowhere.returncode == 2 and "cannot be written: No such file" in nowhere.stderr
