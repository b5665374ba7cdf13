"""A refusal of the kernel in words: which task, where, by which test, with what numbers, and what would help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mgmt import kernel
from mgmt.protocol.errors import MgmtError

from .workload import Node, Task

if TYPE_CHECKING:
    from .admission import Placed

TEST_NAMES = {
    "fp": "exact response times under fixed priorities",
    "edf": "processor demand under earliest deadline first",
    "utilisation": "exact utilisation",
}
UNCHANGED = "Nothing was placed or changed"


def refused_as(
    refused: kernel.Refused,
    known: Sequence[Placed],
    where: tuple[str, int] | None,
    nodes: Sequence[Node],
    by_deadlines: bool = False,
) -> MgmtError:
    """`known`: the tasks by the kernel's numbers. `where`: (node, CPU) that came closest. `by_deadlines`: with
    priorities in the order of deadlines all would fit."""
    new = known[refused.task]
    task = new.task
    head = f"task {task.name!r} of workload {new.workload!r} does not fit"
    detail: dict[str, object] = {"task": task.name, "workload": new.workload, "test": refused.test}
    if where:
        detail |= {"node": where[0], "cpu": where[1]}
    if refused.reason == "no_cpu":
        detail["reason"] = "cpu_affinity_unavailable"
        return MgmtError("not-schedulable", f"{head}: {_no_cpu(task, nodes)}. {UNCHANGED}", **detail)
    assert where is not None
    if refused.reason == "memory":
        detail |= {"reason": "memory", "needed": refused.needed, "available": refused.available}
        del detail["cpu"]
        text = (
            f"{head}: it needs {refused.needed} MB of memory, and node {where[0]!r}, which has most left, has "
            f"{refused.available}: lower its memory_mb, or give a node "
            f"{refused.needed - refused.available} MB more"
        )
        return MgmtError("not-schedulable", f"{text}. {UNCHANGED}", **detail)
    detail["largest_wcet_us"] = refused.largest_wcet
    place = f"CPU {where[1]} of node {where[0]!r}"
    why = ""
    helps: list[str] = []
    if by_deadlines:
        helps.append("priorities in the order of the deadlines, with which the whole workload fits")
        detail["deadline_monotonic"] = True
    if refused.largest_wcet:
        helps.append(f"a WCET of at most {refused.largest_wcet} us instead of {task.wcet_us}")
    if refused.reason == "deadline":
        late = known[refused.late_task]
        detail |= {"reason": "deadline", "needed": refused.needed, "available": refused.available}
        detail["late_task"] = late.task.name
        when = f"after {refused.needed} us" if refused.needed >= 0 else "far too late"
        whose = "it" if late is new else f"task {late.task.name!r} of workload {late.workload!r}"
        why = f"{whose} would answer {when}, due at {refused.available}"
        if late is new and 0 < refused.needed <= task.period_us:
            helps.append(f"a deadline of at least {refused.needed} us")
        elif late is not new and 0 < refused.needed <= late.task.period_us:
            helps.append(f"a deadline of at least {refused.needed} us for {late.task.name!r}")
    elif refused.reason == "demand":
        detail |= {"reason": "demand", "needed": refused.needed, "available": refused.available}
        why = f"within {refused.available} us {refused.needed} us of work would be due"
        if not refused.available:
            why = "its load would pass 1"
    elif refused.reason == "utilisation":
        on = [p for p in known if (p.node, p.cpu) == where]
        detail |= {"reason": "no_available_cpu"}
        held = f" beside {len(on)} tasks admitted before" if on else ""
        why = f"its load{held} would pass what it may carry"
        if not refused.largest_wcet:
            helps.append("a longer period, or less load on it")
    else:
        detail["reason"] = "overflow"
        why = "the numbers of the test pass 64 bits or its limit of steps"
        helps.append("periods that share a coarser grain")
    helps.append("another CPU" if len(nodes) == 1 else "another CPU or node")
    text = f"{head}: closest is {place}, where by {TEST_NAMES[refused.test]} {why}. It would fit there with "
    text += f"{', or with '.join(helps[:-1])}; else it takes {helps[-1]}" if helps[:-1] else helps[-1]
    return MgmtError("not-schedulable", f"{text}. {UNCHANGED}", **detail)


def _no_cpu(task: Task, nodes: Sequence[Node]) -> str:
    mine = [node for node in nodes if task.node in ("", node.name)]
    have = "; ".join(f"node {node.name!r} has {cpu_text(node.cpus)}" for node in mine[:4])
    more = f" and {len(mine) - 4} nodes more" if mine[4:] else ""
    return (
        f"it may run on {cpu_text(task.cpus or ())} only, and {have}{more}: "
        "correct its mask (0 is any CPU), its node, or the node's CPUs"
    )


def cpu_text(cpus: Sequence[int]) -> str:
    """CPU 3; CPUs 0-2,5."""
    spans: list[list[int]] = []
    for cpu in sorted(cpus):
        if spans and cpu == spans[-1][1] + 1:
            spans[-1][1] = cpu
        else:
            spans.append([cpu, cpu])
    told = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
    return f"CPU{'s' if len(cpus) > 1 else ''} {told}" if told else "no CPU"
