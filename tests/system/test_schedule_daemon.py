"""Periodic tasks in a real daemon: durable, in one ledger with the units, and never in the way of its loop."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mgmt_cli.schemas import schema_of
from tests.system.clients import Native
from tests.system.daemon import Daemon, Start, config

CPU = min(os.sched_getaffinity(0))
SLEEP = ["/bin/sleep", "1000"]
LARGE = 4000  # tasks of a submission that takes long


def workload(name: str, *wcets_ms: int, **keys: Any) -> dict[str, Any]:
    """Tasks t0, t1, ... with a period of 10 ms."""
    tasks = [
        {"name": f"t{number}", "period_us": 10_000, "wcet_us": wcet_ms * 1000, "priority": 10 + number}
        for number, wcet_ms in enumerate(wcets_ms)
    ]
    return {"workload": name, "tasks": tasks, **keys}


def far(cpus: int = 4) -> dict[str, Any]:
    return {"far": {"available_cpus": list(range(cpus))}}


def here() -> dict[str, Any]:
    """One CPU of this machine, whatever it has."""
    return {"local": {"available_cpus": [CPU]}}


def submit(control: Native, document: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return control.ok("schedule-submit", documents=[document], **keys)


def places(control: Native) -> dict[str, tuple[str, int]]:
    rows = control.ok("schedule-show")["tasks"]
    return {f"{row['workload']}/{row['task']}": (row["node"], row["cpu"]) for row in rows}


def restarted(daemon: Daemon) -> None:
    assert daemon.stop() == 0
    daemon.start()


def handed_over(daemon: Daemon) -> None:
    assert daemon.stop(signal.SIGUSR1) == 0
    daemon.start()


def crashed(daemon: Daemon) -> None:
    daemon.crash()
    daemon.start()


NEXT_DAEMON = [restarted, handed_over, crashed]


# ---- durable ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", NEXT_DAEMON)
def test_a_next_daemon_has_the_same_schedule(start: Start, again: Callable[[Daemon], None]) -> None:
    daemon = start()
    submit(daemon.control, workload("a", 6, 3, 2, nodes=far()))
    submit(daemon.control, workload("b", 5, 5), nodes=[{"nodes": far()}], algorithm="least_loaded")
    submit(daemon.control, workload("gone", 1, nodes=far()))
    assert daemon.control.ok("schedule-rebalance", apply=True)["version"]
    daemon.control.ok("schedule-remove", workload="gone")
    before = daemon.control.ok("schedule-show")
    assert before["total"] == 5
    again(daemon)
    assert daemon.control.ok("schedule-show") == before
    assert submit(daemon.control, workload("a", 6, 3, 2, nodes=far()))["already"]
    assert daemon.control.ok("schedule-remove", workload="a")["version"] > before["version"]
    again(daemon)
    assert [row["workload"] for row in daemon.control.ok("schedule-show")["workloads"]] == ["b"]


def test_a_state_folder_of_a_daemon_without_schedules_is_taken_over(start: Start) -> None:
    daemon = start(config(units={"u": {"command": SLEEP}}))
    daemon.control.ok("start", targets=["u"])
    pid = daemon.unit("u")["pid"]
    assert daemon.stop(signal.SIGUSR1) == 0
    db = sqlite3.connect(daemon.state_dir / "state.db", isolation_level=None)
    for table in ("workloads", "assignments", "nodes", "users", "groups", "tokens", "outbox"):
        db.execute(f'DROP TABLE "{table}"')
    db.execute("PRAGMA user_version=1")
    db.close()
    daemon.start()
    assert daemon.unit("u")["pid"] == pid
    submit(daemon.control, workload("a", 1, nodes=far()))
    crashed(daemon)
    assert daemon.unit("u")["pid"] == pid and places(daemon.control) == {"a/t0": ("far", 0)}


# ---- one ledger -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", NEXT_DAEMON)
def test_a_unit_keeps_tasks_off_its_cpu(start: Start, again: Callable[[Daemon], None]) -> None:
    unit = {"command": SLEEP, "cpus": str(CPU), "placement": {"exclusive": True}}
    daemon = start(config(units={"u": unit}))
    daemon.control.ok("start", targets=["u"])
    document = workload("a", 1, nodes=here())
    for _ in range(2):
        refused = daemon.control.refused("schedule-submit", documents=[document])
        assert refused["code"] == "not-schedulable" and "unit 'u' holds it" in refused["text"]
        again(daemon)
        daemon.reaches("u", "RUNNING")
    daemon.control.ok("stop", targets=["u"])
    assert submit(daemon.control, document)["tasks"][0]["cpu"] == CPU


@pytest.mark.parametrize("again", NEXT_DAEMON)
def test_tasks_keep_a_unit_off_their_cpu(start: Start, again: Callable[[Daemon], None]) -> None:
    unit = {"command": SLEEP, "cpus": str(CPU), "placement": {"exclusive": True}}
    daemon = start(config(units={"u": unit}))
    submit(daemon.control, workload("a", 1, nodes=here()))
    for _ in range(2):
        refused = daemon.control.refused("start", targets=["u"])
        assert refused["code"] == "no-capacity" and refused["detail"]["holder"] == "a"
        lines = daemon.control.ok("explain", target="u")["lines"]
        assert any("tasks of workload 'a' are admitted" in line for line in lines)
        again(daemon)
    daemon.control.ok("schedule-remove", workload="a")
    daemon.control.ok("start", targets=["u"])


# ---- others -----------------------------------------------------------------------------------------------


def test_changes_are_events(start: Start) -> None:
    daemon = start()
    daemon.control.ok("subscribe")
    submit(daemon.control, workload("a", 6, nodes=far(1)))
    assert daemon.control.refused("schedule-submit", documents=[workload("b", 6, nodes=far(1))])
    submit(daemon.control, workload("a", 3, nodes=far(1)), replace=True)
    daemon.control.ok("schedule-remove", workload="a")
    for what, name in (("submitted", "a"), ("refused", "b"), ("replaced", "a"), ("removed", "a")):
        assert daemon.control.event(what=what)["workload"] == name


def test_a_large_submission_does_not_hold_up_the_loop(start: Start) -> None:
    daemon = start()
    other = daemon.native()
    tasks = [
        {"name": f"t{n}", "period_us": (n % 9 + 1) * 10_000, "wcet_us": 50 + n % 300, "priority": n % 99 + 1}
        for n in range(LARGE)
    ]
    nodes = {f"node{n}": {"available_cpus": list(range(8))} for n in range(16)}
    asked = daemon.control.ask(
        "schedule-submit", documents=[{"workload": "large", "tasks": tasks, "nodes": nodes}]
    )
    answered_s = []
    while not daemon.control.socket.poll(0):
        begun = time.monotonic()
        other.ok("status")
        answered_s.append(time.monotonic() - begun)
    reply = daemon.control.reply(asked)
    assert reply.outcome == "ok", reply.body
    assert len(answered_s) >= 3, "it was computed in the loop"
    assert statistics.median(answered_s) < 0.05
    # Its answer has a part of it, and the parts together all of it.
    rows, part = 0, reply.body
    assert part["next"] is not None
    for _ in itertools.count():
        rows += len(part["tasks"])
        if part["next"] is None:
            break
        part = daemon.control.ok("schedule-show", workload="large", offset=part["next"])
    assert rows == LARGE == part["total"]


def test_a_dry_run_and_a_proposal_leave_no_trace(start: Start) -> None:
    daemon = start()
    submit(daemon.control, workload("a", 2, 2, nodes=far(2)))
    before, status = daemon.control.ok("schedule-show"), daemon.status()
    assert submit(daemon.control, workload("b", 4, nodes=far(2)), dry_run=True)["tasks"]
    assert len(daemon.control.ok("schedule-rebalance")["moves"]) == 1
    assert daemon.control.ok("schedule-show") == before
    assert daemon.status()["service"]["seq"] == status["service"]["seq"]
    assert status["service"]["workloads"] == 1


# ---- the command ------------------------------------------------------------------------------------------


class Command:
    """`mgmt` against a daemon; JSON answers are checked against their schemas."""

    def __init__(self, daemon: Daemon, folder: Path) -> None:
        self.folder = folder
        self._environ = {**daemon.environ, "MGMT_ENDPOINT": daemon.endpoint("control")}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mgmt_cli", *arguments]
        done = subprocess.run(
            command,
            env=self._environ,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return done

    def text(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *arguments: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.text(*arguments, "--json"))
        jsonschema.validate(value, schema_of(value["schema"]))
        return value


def test_the_command_submits_shows_explains_moves_and_removes(start: Start, tmp_path: Path) -> None:
    daemon = start()
    mgmt = Command(daemon, tmp_path)
    (tmp_path / "w.json").write_text(json.dumps(workload("w", 2, 3)))
    (tmp_path / "nodes.yaml").write_text("nodes:\n  far:\n    available_cpus: [0, 1]\n")
    submitting = ("schedule", "submit", "w.json", "--nodes", "nodes.yaml")
    assert "no workload is in force" in mgmt.text("schedule", "show")
    assert "nothing was changed" in mgmt.text(*submitting, "--dry-run")
    assert mgmt.json("schedule", "show")["tasks"] == []
    text = mgmt.text(*submitting)
    assert "in force, version" in text and "every deadline is kept" in text
    assert mgmt.json(*submitting)["already"]
    shown = mgmt.text("schedule", "show", "w", "--gantt", "out.svg")
    assert "far" in shown and "t1" in shown
    assert (tmp_path / "out.svg").read_text().startswith("<svg")
    assert mgmt.json("schedule", "explain", "w/t0")["task"]["task"] == "t0"
    assert "worst response" in mgmt.text("schedule", "explain", "t0")
    assert "1 workload of periodic tasks" in mgmt.text("status")
    assert "proposed" in mgmt.text("schedule", "rebalance")
    assert mgmt.json("schedule", "rebalance", "--apply")["applied"]
    assert "no move of one task" in mgmt.text("schedule", "rebalance")
    assert mgmt.text("schedule", "remove", "w") == "removed w: 2 tasks\n"
    events = mgmt.text("events")
    for word in ("schedule  submitted  w", "schedule  rebalanced", "schedule  removed  w"):
        assert word in events
    assert mgmt.json("store", "check") if daemon.stop() == 0 else True


def test_the_command_says_where_a_document_is_wrong(start: Start, tmp_path: Path) -> None:
    mgmt = Command(start(), tmp_path)
    (tmp_path / "w.yaml").write_text(
        "workload: w\ntasks:\n  - {name: a, period_us: 10000, wcet_us: 20000, priority: 5}\n"
        "  - name: b\n    period_us: 2020-01-01\n    wcet_us: 1000\n    1: 2\n"
    )
    done = mgmt.run("schedule", "submit", "w.yaml")
    assert done.returncode == 2
    assert "w.yaml:3: task 'a': wcet_us is 20000" in done.stderr and "w.yaml:5:" in done.stderr
    (tmp_path / "w.yaml").write_text(
        "workload: w\ntasks:\n  - {name: a, period_us: 10000, wcet_us: 9000}\n" * 1
    )
    (tmp_path / "v.yaml").write_text(
        "workload: v\ntasks:\n  - {name: a, period_us: 10000, wcet_us: 9000, priority: 1}\n"
        "  - {name: b, period_us: 10000, wcet_us: 9000, priority: 1}\nnodes: {far: {available_cpus: [0]}}\n"
    )
    done = mgmt.run("schedule", "submit", "v.yaml")
    assert done.returncode == 1 and "CPU 0 of node 'far'" in done.stderr
    for arguments in (("show", "v"), ("remove", "v"), ("explain", "a")):
        assert mgmt.run("schedule", *arguments).returncode == 4


def test_the_command_shows_a_schedule_of_many_parts(start: Start, tmp_path: Path) -> None:
    mgmt = Command(start(), tmp_path)
    tasks = [{"name": f"t{n}", "period_us": 1_000_000, "wcet_us": 100, "priority": 5} for n in range(LARGE)]
    document = {"workload": "w", "tasks": tasks, "nodes": {"far": {"available_cpus": list(range(8))}}}
    (tmp_path / "w.json").write_text(json.dumps(document))
    reply = mgmt.json("schedule", "submit", "w.json")
    assert reply["next"] is not None and len(reply["tasks"]) < LARGE
    shown = mgmt.json("schedule", "show")
    assert len(shown["tasks"]) == LARGE and shown["next"] is None
