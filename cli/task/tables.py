"""What people are shown of tasks."""

from __future__ import annotations

import time
from typing import Any

from .. import render

Task = dict[str, Any]

COLUMNS = ["TASK", "SUITE", "STATE", "EXIT", "ATTEMPT", "NODE", "PRIORITY", "AGE", "TOOK", "COMMAND"]
RIGHT = "TASK SUITE EXIT ATTEMPT PRIORITY AGE TOOK"
COMMAND_CHARS = 60
COLORS = {"RUNNING": "32", "FAILED": "31", "CANCELLED": "33", "UNKNOWN": "31"}


def tasks(rows: list[Task], colored: bool = False) -> list[str]:
    """A table of tasks, in the order given."""
    now_s = time.time()
    lines = render.table(COLUMNS, [_row(row, now_s) for row in rows], RIGHT)
    return [
        lines[0],
        *(painted(line, row["state"], colored) for line, row in zip(lines[1:], rows, strict=True)),
    ]


def painted(line: str, state: str, colored: bool) -> str:
    color = COLORS.get(state) if colored else None
    return line.replace(state, f"\033[{color}m{state}\033[0m", 1) if color else line


def _row(task: Task, now_s: float) -> list[str]:
    command = " ".join(task["command"].split())
    return [
        str(task["task"]),
        render.dashed(task["suite"]),
        task["state"],
        render.dashed(task["exit_status"]),
        str(task["attempt"]),
        task["node"] or "-",
        str(task["priority"]),
        render.duration(max(0.0, now_s - task["submitted_at"])),
        render.duration(took_s(task, now_s)),
        command if len(command) <= COMMAND_CHARS else f"{command[: COMMAND_CHARS - 1]}…",
    ]


def took_s(task: Task, now_s: float) -> float | None:
    """How long it ran, or has been running; None when it did not."""
    if task["started_at"] is None:
        return None
    ended_s = now_s if task["finished_at"] is None else task["finished_at"]
    return max(0.0, float(ended_s - task["started_at"]))


def summary(task: Task) -> str:
    """A task in a line: where it is, and how it ended."""
    ended = f" with {exit_text(task)}" if task["state"] in ("FINISHED", "FAILED") else ""
    message = f": {task['message']}" if task["message"] else ""
    return f"task {task['task']} is {task['state']}{ended}{message}"


def exit_text(task: Task) -> str:
    """The exit status, or the signal, in words."""
    status = task["exit_status"]
    if status is None:
        return "no exit status"
    if status >= 0:
        return f"exit status {status}"
    from signal import Signals

    try:
        return Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def detail(shown: dict[str, Any], colored: bool = False) -> list[str]:
    """One fact a line, then why it is where it is, then the end of its output."""
    task, spec, result = shown["status"], shown["spec"], shown["result"]
    took = took_s(task, time.time())
    rows = [
        (
            "State",
            painted(task["state"], task["state"], colored)
            + (f", {task['exec_state']}" if task["exec_state"] else ""),
        ),
        ("Why", "; ".join(shown["lines"]) or "-"),
        ("Command", task["command"]),
        ("Suite", render.dashed(task["suite"]) + f", group {task['group']}"),
        ("Priority", str(task["priority"])),
        ("Labels", ", ".join(task["labels"]) or "-"),
        ("Place", f"node {task['node']}, worker {task['worker'] or '-'}" if task["node"] else "-"),
        ("Attempt", str(task["attempt"])),
        ("Submitted", render.moment(task["submitted_at"])),
        ("Started", "-" if task["started_at"] is None else render.moment(task["started_at"])),
        ("Took", render.duration(took)),
        *(
            (("Ended", exit_text(task) + (f", {task['message']}" if task["message"] else "")),)
            if result
            else ()
        ),
        *((("Returned", str(result["value"])),) if result and result["value"] is not None else ()),
        *((key.capitalize(), str(spec[key])) for key in ("cwd", "timeout_s", "envs") if spec.get(key)),
        *(
            (name.capitalize(), ", ".join(map(str, shown[name])))
            for name in ("upstream", "downstream")
            if shown[name]
        ),
        *(("Artifact", _artifact(one)) for one in shown["artifacts"]),
        ("UUID", task["uuid"]),
    ]
    lines = [f"task {task['task']}", *(f"  {name + ':':<12}{value}" for name, value in rows)]
    tail = result["tail"].rstrip("\n") if result else ""
    return [*lines, "", *tail.split("\n")] if tail else lines


def _artifact(one: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in one.items())
