"""What people are shown of suites."""

from __future__ import annotations

import shlex
import time
from typing import Any

from .. import render

Suite = dict[str, Any]

COLUMNS = [
    "SUITE",
    "NAME",
    "STATE",
    "GROUP",
    "PRIORITY",
    "TASKS",
    "DONE",
    "RUNNING",
    "FAILED",
    "NODES",
    "AGE",
]
RIGHT = "SUITE PRIORITY TASKS DONE RUNNING FAILED NODES AGE"
COLORS = {"OPEN": "32", "CLOSED": "33", "COMPLETE": "32", "CANCELLED": "31"}


def suites(rows: list[Suite], colored: bool = False) -> list[str]:
    """A table of suites, in the order given."""
    now_s = time.time()
    lines = render.table(COLUMNS, [_row(row, now_s) for row in rows], RIGHT)
    return [
        lines[0],
        *(painted(line, row["state"], colored) for line, row in zip(lines[1:], rows, strict=True)),
    ]


def _row(suite: Suite, now_s: float) -> list[str]:
    tasks = suite["tasks"]
    at_work = sum(1 for node in suite["nodes"] if node["phase"])
    return [
        str(suite["suite"]),
        suite["name"] or "-",
        suite["state"],
        suite["group"],
        str(suite["priority"]),
        str(tasks["total"]),
        str(done(suite)),
        str(tasks["running"]),
        str(tasks["failed"]),
        str(at_work),
        render.duration(max(0.0, now_s - suite["created_at"])),
    ]


def done(suite: Suite) -> int:
    """Tasks that have ended in any way."""
    tasks = suite["tasks"]
    return int(tasks["finished"] + tasks["failed"] + tasks["cancelled"])


def painted(line: str, state: str, colored: bool) -> str:
    color = COLORS.get(state) if colored else None
    return line.replace(state, f"\033[{color}m{state}\033[0m", 1) if color else line


def label(suite: Suite) -> str:
    """Its number, and its name where it has one."""
    return f"suite {suite['suite']}" + (f" ({suite['name']})" if suite["name"] else "")


def counts(suite: Suite) -> str:
    """Its tasks by what became of them; what there is none of is left out."""
    tasks = suite["tasks"]
    waiting = tasks["pending"] - tasks["ready"] - tasks["running"]
    parts = [
        (tasks["ready"], "ready"),
        (waiting, "waiting"),
        (tasks["running"], "running"),
        (tasks["finished"], "finished"),
        (tasks["failed"], "failed"),
        (tasks["cancelled"], "cancelled"),
    ]
    told = ", ".join(f"{count} {word}" for count, word in parts if count)
    return f"{tasks['total']}: {told}" if told else "none yet"


def detail(suite: Suite, colored: bool = False) -> list[str]:
    """One fact a line, then its nodes."""
    worker = suite["worker"]
    binding = worker["cpu_binding"]
    bound = f", {binding['strategy']} on CPUs {render.cpu_list(binding['cores'])}" if binding else ""
    reason = f" ({suite['reason']})" if suite["reason"] else ""
    rows = [
        ("State", painted(suite["state"], suite["state"], colored) + reason),
        ("Tasks", counts(suite)),
        ("Description", suite["description"] or "-"),
        ("Group", f"{suite['group']}, created by {suite['creator']}"),
        ("Priority", str(suite["priority"])),
        ("Tags", ", ".join(suite["tags"]) or "- (any node)"),
        ("Labels", ", ".join(suite["labels"]) or "-"),
        ("Workers", f"{worker['worker_count']} of kind {worker['kind']} on each node{bound}"),
        ("Prefetch", f"{worker['task_prefetch_count']} tasks for each worker"),
        *((which.capitalize(), _hook(hook)) for which, hook in suite["hooks"].items() if hook),
        ("Created", render.moment(suite["created_at"])),
        ("Last task", _moment(suite["submitted_at"])),
        ("Completed", _moment(suite["completed_at"])),
        ("UUID", suite["uuid"]),
    ]
    lines = [label(suite), *(f"  {name + ':':<13}{value}" for name, value in rows)]
    return [*lines, "", *nodes(suite["nodes"])] if suite["nodes"] else [*lines, "", NO_NODES]


NO_NODES = "no node may work on it: see its tags, `mgmt node list`, and `mgmt suite agents SUITE --add NODE`"


def nodes(rows: list[dict[str, Any]]) -> list[str]:
    """The nodes that may work on a suite."""
    header = ["NODE", "SELECTION", "PHASE", "WORKERS", "REASON"]
    cells = [
        [row["node"], row["selection"], row["phase"] or "-", str(row["workers"]), row["reason"] or "-"]
        for row in rows
    ]
    return render.table(header, cells, "WORKERS")


def _moment(epoch_s: float | None) -> str:
    return "-" if epoch_s is None else render.moment(epoch_s)


def _hook(hook: dict[str, Any]) -> str:
    bound = f", at most {render.duration(hook['timeout_s'])}" if hook.get("timeout_s") else ""
    policy = f", when it ends: {hook['policy']}" if "policy" in hook else ""
    return f"{shlex.join(hook['args'])}{bound}{policy}"
