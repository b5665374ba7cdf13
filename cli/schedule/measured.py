"""`mgmt schedule stat`, `gantt`: what tasks that are processes really did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mgmt.protocol.errors import Exit, MgmtError

from .. import render
from .._table import VERBS
from ..completion import complete_workloads
from ..invocation import Invocation, verb
from . import COMMANDS
from .observed import observed, slices_of
from .online import all_parts
from .plan import count, span_option, write

if TYPE_CHECKING:
    from mgmt.client import Client
    from mgmt.core.schedule.timeline import Timeline

INSTANTS: tuple[str, ...] = ("release_ns", "start_ns", "end_ns")
NOTE = (
    "A bar is when a thread of the task had a CPU, as the kernel saw it; where it was not observed by eBPF, from "
    "the start of a job to its end, whoever ran in between. The newest jobs are shown."
)


@verb("stat", VERBS["schedule-stat"][0])
@click.argument("workload", required=False, shell_complete=complete_workloads)
def stat(invocation: Invocation, workload: str | None) -> int:
    """Without WORKLOAD: of all. Times in us, since the common start of the workload; a percentile is at most
    6.25 % too high. MISSES were seen at the deadline, LATE is what ended after it. Below is what the kernel
    says of the same processes, since they were started; the docs tell by which mechanism."""
    with invocation.client() as client:
        reply = measured(client, workload, records=False)
    if invocation.json:
        invocation.emit("mgmt.schedule-stat/1", reply)
    elif reply["tasks"]:
        click.echo("\n".join([*shown(reply["tasks"]), *observed(reply["tasks"])]))
    elif not reply["unreachable"]:
        click.echo("no task in force is a process: a task with a `command` is")
    return told(reply)


def told(reply: dict[str, Any]) -> Exit:
    """Which nodes' tasks are left out, and why; PARTIAL when there are any."""
    for row in reply["unreachable"]:
        click.echo(f"tasks of node {row['node']} are left out: {row['reason']}", err=True)
    return Exit.PARTIAL if reply["unreachable"] else Exit.OK


@verb("gantt", COMMANDS["gantt"][1])
@click.option("--actual", required=True, metavar="OUT.svg", help="Where to draw what was measured.")
@click.argument("workload", required=False, shell_complete=complete_workloads)
@span_option
def gantt(invocation: Invocation, actual: str, workload: str | None, span: float | None) -> int:
    """The last jobs of each task, 256 at most, beside their releases, deadlines and proven worst responses.
    What is planned draws `mgmt schedule show --gantt OUT.svg`."""
    with invocation.client() as client:
        reply = measured(client, workload, records=True)
        planned = all_parts(client, workload)
    line = lately([on_one_clock(row) for row in reply["tasks"]], planned["tasks"], span)
    from .gantt import svg

    drawn = sum(len(lane.tasks) for lane in line.lanes)
    title = "What was measured" if workload is None else f"What was measured of {workload}"
    write(actual, svg(title, count(drawn, "task"), planned["cpus"], line, NOTE))
    invocation.say(f"drawn: {actual}")
    if invocation.json:
        invocation.emit("mgmt.schedule-stat/1", reply)
    return told(reply)


def measured(client: Client, workload: str | None, *, records: bool) -> dict[str, Any]:
    """A ScheduleStatistics with all its tasks."""
    asked = {"records": records, **({} if workload is None else {"workload": workload})}
    reply = part = client.request("schedule-stat", asked)
    while part["next"] is not None:
        part = client.request("schedule-stat", {**asked, "offset": part["next"]})
        reply["tasks"] += part["tasks"]
        reply["unreachable"] += [row for row in part["unreachable"] if row not in reply["unreachable"]]
    return {**reply, "next": None}


def on_one_clock(row: dict[str, Any]) -> dict[str, Any]:
    """A TaskStatistics whose instants are of the daemon's monotonic clock, wherever its node is."""
    offset_ns = row["offset_ns"]

    def moved(record: dict[str, Any]) -> dict[str, Any]:
        return {**record, **{key: record[key] + offset_ns for key in INSTANTS if key in record}}

    found = row.get("observed")
    if found:
        found = {**found, "slices": [moved(one) for one in found["slices"]]}
    records = [moved(one) for one in row["records"]]
    return {**row, "t0_ns": row["t0_ns"] + offset_ns, "records": records, "observed": found}


def shown(rows: list[dict[str, Any]]) -> list[str]:
    """One line a task."""
    header = ["TASK", "NODE", "CPU", "STATE", "JOBS", "MISSES", "LATE", "SKIPPED", "FAULTS"]
    header += [
        "JITTER p50",
        "p99",
        "max",
        "EXECUTION p50",
        "p99",
        "max",
        "RESPONSE p50",
        "p99",
        "max",
        "DEADLINE",
    ]
    cells = []
    for row in rows:
        counts = [str(row[key]) for key in ("jobs", "misses", "late", "skipped", "faults")]
        times = []
        for name in ("jitter", "execution", "response"):
            found = row[name]
            times += (
                ["-"] * 3
                if found is None
                else [f"{found[key]:.1f}" for key in ("p50_us", "p99_us", "max_us")]
            )
        cells.append(
            [
                row["unit"],
                row["node"],
                str(row["cpu"]),
                row["state"],
                *counts,
                *times,
                str(row["deadline_us"]),
            ]
        )
    return [*render.table(header, cells), "times in us"]


def lately(rows: list[dict[str, Any]], planned: list[dict[str, Any]], span_s: float | None) -> Timeline:
    """The last jobs as a timeline, in us from its left edge. MgmtError `bad-body` when none was recorded."""
    from mgmt.core.schedule.rows import placed_of
    from mgmt.core.schedule.timeline import Job, Lane, Segment, Timeline

    placed = {(row["workload"], row["task"]): placed_of(row) for row in planned}
    slices = {row["unit"]: slices_of(row) for row in rows}
    known = [
        row
        for row in rows
        if (row["records"] or slices[row["unit"]]) and (row["workload"], row["task"]) in placed
    ]
    if not known:
        raise MgmtError("bad-body", "there is nothing to draw: no task that is a process has completed a job")
    periods = [row["period_us"] for row in known]
    ends = [row["records"][-1]["end_ns"] for row in known if row["records"]]
    until_ns = max(ends or [slices[row["unit"]][-1][1] for row in known])
    span_ns = 1000 * max(2 * max(periods), 40 * min(periods)) if span_s is None else round(span_s * 1e9)
    firsts = [row["records"][0]["release_ns"] for row in known if row["records"]]
    from_ns = max(until_ns - span_ns, min(firsts or [slices[row["unit"]][0][0] for row in known]))
    by_cpu: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in known:
        by_cpu.setdefault((row["node"], row["cpu"]), []).append(row)
    lanes = []
    for (node, cpu), there in sorted(by_cpu.items()):
        there.sort(key=lambda row: (-placed[row["workload"], row["task"]].task.priority, row["unit"]))
        segments, jobs = [], []
        for i, row in enumerate(there):
            ran = slices[row["unit"]]
            segments += [
                Segment(i, job, (start_ns - from_ns) // 1000, (min(end_ns, until_ns) - from_ns) // 1000)
                for start_ns, end_ns, job in ran
                if from_ns <= start_ns < until_ns
            ]
            for one in row["records"]:
                if one["release_ns"] < from_ns:
                    continue
                release, start, end = (
                    (one[f"{key}_ns"] - from_ns) // 1000 for key in ("release", "start", "end")
                )
                if not ran or one["end_ns"] <= ran[0][0]:
                    segments.append(Segment(i, one["job"], start, end))
                jobs.append(Job(i, one["job"], release, release + row["deadline_us"], end))
        tasks = tuple(placed[row["workload"], row["task"]] for row in there)
        lanes.append(Lane(node, cpu, tasks, tuple(segments), tuple(jobs)))
    length_us = max(1, (until_ns - from_ns) // 1000)
    return Timeline(length_us, length_us, tuple(lanes))
