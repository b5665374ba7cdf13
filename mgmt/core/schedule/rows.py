"""A schedule of one workload as the rows of a reply, without a daemon; and tasks out of such rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .admission import ChainBound, Placed, Schedule
from .workload import Task


def placed_of(row: Mapping[str, Any]) -> Placed:
    """What `report.task_row` was made of."""
    allowed = row["allowed"]
    task = Task(
        row["task"], row["period_us"], row["wcet_us"], row["deadline_us"], row["priority"], row["policy"],
        row["release_us"], row["jitter_us"], row["target"], None if allowed is None else tuple(allowed),
        row["memory_mb"], row["max_dmiss"],
    )  # fmt: skip
    return Placed(
        row["workload"], task, row["node"], row["cpu"], row["response_us"], row["slack_us"], row["bound"]
    )


def cpu_rows(schedule: Schedule) -> list[dict[str, Any]]:
    """A `messages.ScheduleCpu` for every CPU of every node."""
    return [
        {
            "node": node.name,
            "cpu": cpu,
            "tasks": len(on := schedule.by_cpu.get((node.name, cpu), ())),
            "utilisation": float(schedule.utilisation(node.name, cpu)),
            "test": on[0].bound if on else None,
            "closed": "",
        }
        for node in schedule.nodes
        for cpu in sorted(node.cpus)
    ]


def chain_row(bound: ChainBound) -> dict[str, Any]:
    """A `messages.ScheduleChain`."""
    chain = bound.chain
    return {
        "chain": chain.name,
        "tasks": list(chain.tasks),
        "deadline_us": chain.deadline_us,
        "bound_us": bound.bound_us,
    }
