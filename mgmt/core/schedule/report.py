"""A schedule as plain values, the same in a reply of the daemon and in a plan without one; and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .admission import ChainBound, Placed, Schedule
from .workload import Task


def task_row(placed: Placed) -> dict[str, Any]:
    """The fields of `messages.ScheduledTask`."""
    task = placed.task
    return {
        "workload": placed.workload,
        "task": task.name,
        "node": placed.node,
        "cpu": placed.cpu,
        "policy": task.policy,
        "priority": task.priority,
        "period_us": task.period_us,
        "wcet_us": task.wcet_us,
        "deadline_us": task.deadline_us,
        "release_us": task.release_us,
        "jitter_us": task.jitter_us,
        "memory_mb": task.memory_mb,
        "max_dmiss": task.max_dmiss,
        "target": task.node,
        "allowed": None if task.cpus is None else list(task.cpus),
        "bound": placed.bound,
        "response_us": placed.response_us,
        "slack_us": placed.slack_us,
    }


def placed_of(row: Mapping[str, Any]) -> Placed:
    """What `task_row` was made of."""
    allowed = row["allowed"]
    task = Task(
        row["task"], row["period_us"], row["wcet_us"], row["deadline_us"], row["priority"], row["policy"],
        row["release_us"], row["jitter_us"], row["target"], None if allowed is None else tuple(allowed),
        row["memory_mb"], row["max_dmiss"],
    )  # fmt: skip
    return Placed(
        row["workload"], task, row["node"], row["cpu"], row["response_us"], row["slack_us"], row["bound"]
    )


def cpu_rows(schedule: Schedule, closed: Mapping[tuple[str, int], str] | None = None) -> list[dict[str, Any]]:
    """The fields of `messages.ScheduleCpu` for every CPU of every node; `closed`: who keeps tasks off one."""
    rows = []
    for node in schedule.nodes:
        for cpu in sorted(node.cpus):
            on = schedule.by_cpu.get((node.name, cpu), ())
            rows.append(
                {
                    "node": node.name,
                    "cpu": cpu,
                    "tasks": len(on),
                    "utilisation": float(schedule.utilisation(node.name, cpu)),
                    "test": on[0].bound if on else None,
                    "closed": (closed or {}).get((node.name, cpu), ""),
                }
            )
    return rows


def chain_row(bound: ChainBound) -> dict[str, Any]:
    """The fields of `messages.ScheduleChain`."""
    chain = bound.chain
    return {
        "chain": chain.name,
        "tasks": list(chain.tasks),
        "deadline_us": chain.deadline_us,
        "bound_us": bound.bound_us,
    }
