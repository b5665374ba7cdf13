"""Suites of a real daemon: create, submit, wait, look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.system.agents import a_daemon
from tests.system.clients import PATIENCE_S, eventually
from tests.system.daemon import ROOT, Daemon, Start

RESIDENT = {"kind": "resident"}
CLOSE_S = 1.0  # without a new task, a suite of these daemons is closed


def serving(start: Start, *, close_s: float = 180.0, **keys: Any) -> Daemon:
    """A daemon that agents may join."""
    return a_daemon(start, timing={"suite_auto_close_s": close_s}, **keys)


def create(daemon: Daemon, workers: int = 1, worker: dict[str, Any] | None = None, **keys: Any) -> int:
    """The number of a new suite."""
    schedule = {"worker_count": workers, **(worker or {})}
    return int(daemon.control.ok("suite-create", worker=schedule, **keys)["suite"])


def submit(daemon: Daemon, suite: int, *tasks: Sequence[str] | dict[str, Any], **common: Any) -> list[int]:
    """Their numbers. A task is a command, or a whole task."""
    whole = [dict(task) if isinstance(task, dict) else {"args": list(task)} for task in tasks]
    body: dict[str, Any] = {"suite": str(suite), "tasks": [{**common, **task} for task in whole]}
    return list(daemon.control.ok("task-submit", **body)["tasks"])


def sh(text: str, **keys: Any) -> dict[str, Any]:
    return {"args": ["sh", "-c", text], **keys}


def call(function: str, *params: Any, **keys: Any) -> dict[str, Any]:
    """A function of `tests.system.functions`."""
    return {
        "function": f"tests.system.functions:{function}",
        "params": list(params),
        "cwd": str(ROOT),
        **keys,
    }


def status(daemon: Daemon, suite: int) -> dict[str, Any]:
    (found,) = daemon.control.ok("suites", suites=[str(suite)])["suites"]
    return dict(found)


def ended(daemon: Daemon, suite: int, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
    """The suite's status as soon as it is complete or cancelled with nothing pending."""
    request = daemon.control.ask("suite-wait", int(timeout_s * 1000), suite=str(suite))
    reply = daemon.control.reply(request, timeout_s + 5.0)
    assert reply.outcome == "ok", (reply.body, status(daemon, suite), tasks(daemon, suite))
    return reply.body


def tasks(daemon: Daemon, suite: int, **body: Any) -> dict[int, dict[str, Any]]:
    """TaskStatus by number."""
    listed = daemon.control.ok("tasks", suite=str(suite), limit=10_000, **body)["tasks"]
    return {task["task"]: task for task in listed}


def show(daemon: Daemon, task: int) -> dict[str, Any]:
    return daemon.control.ok("task-show", task=task)


def tail(daemon: Daemon, task: int) -> str:
    return str(show(daemon, task)["result"]["tail"])


def task_is(daemon: Daemon, task: int, *states: str, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
    """The TaskStatus as soon as the task is in one of these states."""

    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = show(daemon, task)["status"]
        return found if found["state"] in states else None

    found = eventually(look, timeout_s, f"task {task} becomes {' or '.join(states)}: {show(daemon, task)}")
    assert found is not None
    return found


def workers(daemon: Daemon, suite: int) -> list[dict[str, Any]]:
    return list(daemon.control.ok("workers", suite=str(suite))["workers"])


def adds_up(daemon: Daemon, suite: int) -> None:
    """The counters are what is listed."""
    found = tasks(daemon, suite)
    counters = status(daemon, suite)["tasks"]
    states = [task["state"] for task in found.values()]
    counted = {
        name: states.count(name.upper()) for name in ("ready", "running", "finished", "failed", "cancelled")
    }
    over = counted["finished"] + counted["failed"] + counted["cancelled"]
    assert counters == {**counted, "total": len(states), "pending": len(states) - over}
