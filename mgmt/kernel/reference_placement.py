"""The readable twin of the placement half of the kernel: the same results, one rule a line.

Columns in, columns out: index i of every column is task i; nodes and CPUs are numbered by the caller,
who turns names into numbers first. The scans are deliberate: here the rule shall be visible, in C it
is an index. Times are integers of one unit of the caller's choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import gcd

NO_AFFINITY = -(1 << 63)
"""The affinity entry of a task that may run on any CPU; no CPU id can have this value."""

UNSET = -1
"""The target entry of a task without a target node, and the result of a task without node or CPU."""

UNKNOWN = -2
"""The target entry of a task whose target node does not exist."""

COMPAT_CPU_LIMIT = 0.90
COMPAT_NODE_LIMIT = 1.0

Assignment = tuple[list[int], list[int]]


def utilisation_double(runtime: int, period: int) -> float:
    """Runtime over period as the ancestor computes it: two rounded doubles divided; 0 for period 0."""
    return float(runtime) / float(period) if period else 0.0


def compat_target_node_priority(
    period: Sequence[int],
    runtime: Sequence[int],
    target: Sequence[int],
    affinity: Sequence[int],
    node_offset: Sequence[int],
    node_cpu: Sequence[int],
) -> Assignment:
    """Each task on its target node: the wanted CPU if it stays within 0.90, else the highest CPU id that does.

    `period`, `runtime`: 0 to 2**64 - 1. `target`: node number, negative: the task is skipped.
    `affinity`: CPU id or `NO_AFFINITY`. The CPU ids of node k are `node_cpu[node_offset[k]:node_offset[k+1]]`.
    Returns (node, cpu) per task. Node -1: skipped. Node set and CPU -1: a phantom, emitted without a CPU.
    """
    _check_tasks(len(node_offset) - 1, period, runtime, target=target, affinity=affinity)
    nodes = _cpu_lists(node_offset, node_cpu)
    descending = [sorted(set(cpus), reverse=True) for cpus in nodes]
    load = [dict.fromkeys(cpus, 0.0) for cpus in nodes]
    node_of, cpu_of = [UNSET] * len(period), [UNSET] * len(period)
    for i, k in enumerate(target):
        if k < 0 or not nodes[k]:
            continue
        node_of[i] = k
        u = utilisation_double(runtime[i], period[i])
        for cpu in (affinity[i], *descending[k]):
            if cpu in load[k] and load[k][cpu] + u <= COMPAT_CPU_LIMIT:
                load[k][cpu] += u
                cpu_of[i] = cpu
                break
    return node_of, cpu_of


def compat_best_fit_decreasing(
    period: Sequence[int],
    runtime: Sequence[int],
    memory: Sequence[int],
    target: Sequence[int],
    affinity: Sequence[int],
    node_offset: Sequence[int],
    node_cpu: Sequence[int],
    node_memory: Sequence[int],
) -> Assignment:
    """Longest runtime first (stable), each on the fullest node that stays within 1.0; one task per CPU entry.

    `target`: node number, `UNSET` for any, `UNKNOWN` for a node that does not exist (the task is dropped).
    A targeted task is not checked against the load. Nodes are numbered in the byte order of their ids.
    Returns (node, cpu) per task; both -1: dropped.
    """
    _check_tasks(len(node_offset) - 1, period, runtime, memory=memory, target=target, affinity=affinity)
    free = _cpu_lists(node_offset, node_cpu, node_memory)
    load = [0.0] * len(free)
    node_of, cpu_of = [UNSET] * len(period), [UNSET] * len(period)
    for i in sorted(range(len(period)), key=lambda i: -runtime[i]):
        u = utilisation_double(runtime[i], period[i])
        best, best_load = UNSET, -1.0
        for k, cpus in enumerate(free):
            if target[i] not in (UNSET, k) or not _eligible(memory[i], affinity[i], node_memory[k], cpus):
                continue
            if target[i] == k:
                best = k
            elif best_load < load[k] + u <= COMPAT_NODE_LIMIT:
                best, best_load = k, load[k] + u
        if best != UNSET:
            cpu = free[best][0] if affinity[i] == NO_AFFINITY else affinity[i]
            free[best].remove(cpu)
            load[best] += u
            node_of[i], cpu_of[i] = best, cpu
    return node_of, cpu_of


def compat_least_loaded(
    period: Sequence[int],
    runtime: Sequence[int],
    memory: Sequence[int],
    affinity: Sequence[int],
    node_offset: Sequence[int],
    node_cpu: Sequence[int],
    node_memory: Sequence[int],
) -> Assignment:
    """Input order, each on the emptiest node below 1.0, whose first free CPU entry it takes.

    The affinity must be free on the node but the front of the list is taken all the same.
    Returns (node, cpu) per task; both -1: dropped.
    """
    _check_tasks(len(node_offset) - 1, period, runtime, memory=memory, affinity=affinity)
    free = _cpu_lists(node_offset, node_cpu, node_memory)
    load = [0.0] * len(free)
    node_of, cpu_of = [UNSET] * len(period), [UNSET] * len(period)
    for i in range(len(period)):
        best, best_load = UNSET, COMPAT_NODE_LIMIT
        for k, cpus in enumerate(free):
            if load[k] < best_load and _eligible(memory[i], affinity[i], node_memory[k], cpus):
                best, best_load = k, load[k]
        if best != UNSET:
            node_of[i], cpu_of[i] = best, free[best].pop(0)
            load[best] += utilisation_double(runtime[i], period[i])
    return node_of, cpu_of


def _check_tasks(nodes: int, period: Sequence[int], runtime: Sequence[int], **columns: Sequence[int]) -> None:
    for name, words in (("period", period), ("runtime", runtime)):
        for i, value in enumerate(words):
            if not 0 <= value < 1 << 64:
                raise OverflowError(f"{name}[{i}] is not between 0 and 2**64 - 1")
    for name, column in (("runtime", runtime), *columns.items()):
        if len(column) != len(period):
            raise ValueError(f"{name} has {len(column)} entries, period {len(period)}")
    for i, k in enumerate(columns.get("target", ())):
        if k >= nodes:
            raise ValueError(f"target[{i}] is {k}: no such node")


def _cpu_lists(
    node_offset: Sequence[int], node_cpu: Sequence[int], node_memory: Sequence[int] | None = None
) -> list[list[int]]:
    if not len(node_offset):
        raise ValueError("node_offset is empty: it starts with 0 and ends with the number of CPUs")
    for k, at in enumerate(node_offset):
        least, most = (node_offset[k - 1], len(node_cpu)) if k else (0, 0)
        if not least <= at <= most or (k == len(node_offset) - 1 and at != len(node_cpu)):
            raise ValueError(
                f"node_offset[{k}] is {at}: it starts with 0, never falls and ends with the number of CPUs"
            )
    if node_memory is not None and len(node_memory) != len(node_offset) - 1:
        raise ValueError(
            f"node_memory has {len(node_memory)} entries, the nodes of node_offset {len(node_offset) - 1}"
        )
    return [list(node_cpu[a:b]) for a, b in pairwise(node_offset)]


def _eligible(memory: int, affinity: int, node_memory: int, free: list[int]) -> bool:
    return bool(free) and memory <= node_memory and (affinity == NO_AFFINITY or affinity in free)


def compat_hyperperiod(periods: Sequence[int]) -> int:
    """The least common multiple of the distinct non-zero periods, folded in ascending order modulo 2**64.

    Each step divides the wrapped value by its greatest common divisor with the next period, as the
    ancestor's uint64 does; 0 when no period is non-zero, or once a step wraps to 0.
    """
    distinct = sorted({p for p in periods if p})
    h = 1 if distinct else 0
    for p in distinct:
        h = h // gcd(h, p) * p % (1 << 64)
    return h
