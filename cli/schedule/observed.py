"""What the kernel says of tasks that are processes: the second table of `stat`, and bars of `gantt`."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

from .. import render

HEADER = ("TASK", "NODE", "OBSERVED BY", "THREADS", "SWITCHES", "PREEMPTED", "MIGRATIONS", "ACTIVATIONS")
TIMES = (("WAKE-UP", "wakeup"), ("ON CPU", "on_cpu"), ("RESPONSE", "response"))


def observed(rows: list[dict[str, Any]]) -> list[str]:
    """One line for each task that is observed, and once why not by a better mechanism."""
    seen = [(row, found) for row in rows if (found := row.get("observed"))]
    if not seen:
        return []
    header = list(HEADER)
    for name, _ in TIMES:
        header += [f"{name} p50", "p99", "max"]
    header += ["CPU TIME", "WAITED", "LOST"]
    cells = []
    for row, found in seen:
        counts = ("threads", "switches", "involuntary", "migrations", "activations")
        line = [row["unit"], row["node"], found["mechanism"], *(_number(found[key]) for key in counts)]
        for _, key in TIMES:
            times = found[key] or {}
            line += [_number(times.get(share)) for share in ("p50_us", "p99_us", "max_us")]
        cells.append([*line, _number(found["cpu_us"]), _number(found["waited_us"]), str(found["lost"])])
    reasons = dict.fromkeys(
        f"{row['node']}: observed by {found['mechanism']}: {found['reason']}"
        for row, found in seen
        if found["reason"]
    )
    return ["", *render.table(header, cells), "times in us", *reasons]


def _number(value: int | float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)


def slices_of(row: dict[str, Any]) -> list[tuple[int, int, int]]:
    """(start, end, job) of every slice of a CPU that was observed, in ns, oldest first.

    A slice belongs to the first job that ended after its start; without records of jobs, to the one released last.
    """
    found = row.get("observed") or {"slices": []}
    ends = [one["end_ns"] for one in row["records"]]
    slices = []
    for one in found["slices"]:
        i = bisect_right(ends, one["start_ns"])
        if i < len(ends):
            job = row["records"][i]["job"]
        elif ends:
            job = row["records"][-1]["job"] + 1
        else:
            job = max(0, one["start_ns"] - row["t0_ns"]) // (1000 * row["period_us"])
        slices.append((one["start_ns"], one["end_ns"], job))
    return slices
