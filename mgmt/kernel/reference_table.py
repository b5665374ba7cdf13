"""Time-triggered tables in Python: the twins of the C synthesiser and of its validator."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from operator import index

from .reference import INT64_MAX, read_column
from .tables import Infeasible, Table, TableFault

TABLE_JOBS = 2**24


def table(
    wcet: Iterable[int],
    period: Iterable[int],
    deadline: Iterable[int],
    *,
    offset: Iterable[int] | None = None,
    precedence: Iterable[tuple[int, int]] | None = None,
) -> Table:
    costs, periods, deadlines, offsets, edges = _read(wcet, period, deadline, offset, precedence)
    n = len(costs)
    length = math.lcm(*periods)
    if length > INT64_MAX or sum(length // p for p in periods) > TABLE_JOBS:
        raise OverflowError(
            f"the table would hold more than {TABLE_JOBS} jobs or pass 64 bits: "
            "choose periods that divide each other"
        )
    # Windows that hold the precedences by themselves under EDF: relative to the start of a job's period.
    order = _topological(n, edges)
    release = offsets.copy()
    due = [o + d for o, d in zip(offsets, deadlines, strict=True)]
    last_due = [min(d, p) for d, p in zip(due, periods, strict=True)]
    for i in order:
        for p in (p for p, s in edges if s == i):
            release[i] = max(release[i], release[p] + costs[p])
    for i in reversed(order):
        for s in (s for p, s in edges if p == i):
            due[i] = min(due[i], due[s] - costs[s])
            last_due[i] = min(last_due[i], last_due[s] - costs[s])
    for i in range(n):
        latest = last_due[i] if periods[i] == length else min(due[i], last_due[i])
        if release[i] + costs[i] > latest:
            raise Infeasible(i, length // periods[i] - 1)

    releases = sorted(
        (start + release[i], i, start) for i in range(n) for start in range(0, length, periods[i])
    )
    slices: list[tuple[int, int, int]] = []
    ready: dict[int, list[int]] = {}  # task -> [due, work left, start of its period]
    running: int | None = None
    now = since = at = 0
    while ready or at < len(releases):
        if running is None and ready:
            running, since = min(ready, key=lambda i: (ready[i][0], i)), now
        upcoming = releases[at][0] if at < len(releases) else math.inf
        if running is not None and now + ready[running][1] <= upcoming:
            end = now + ready[running][1]
            if end > ready[running][0]:
                raise Infeasible(running, ready[running][2] // periods[running])
            slices.append((since, end, running))
            del ready[running]
            running, now = None, end
        else:
            if running is not None:
                ready[running][1] -= releases[at][0] - now
            now = releases[at][0]
        while at < len(releases) and releases[at][0] == now:
            _, i, start = releases[at]
            at += 1
            if i in ready:
                raise Infeasible(i, ready[i][2] // periods[i])
            last = start == length - periods[i]
            ready[i] = [start + (last_due[i] if last else due[i]), costs[i], start]
            if running is not None and ready[i][0] < ready[running][0]:
                if now > since:
                    slices.append((since, now, running))
                running, since = i, now
    start_, end_, task_ = zip(*slices, strict=True) if slices else ((), (), ())
    return Table(length, *(memoryview(array("q", column)) for column in (start_, end_, task_)))


def table_fault(
    table: object,
    wcet: Iterable[int],
    period: Iterable[int],
    deadline: Iterable[int],
    *,
    offset: Iterable[int] | None = None,
    precedence: Iterable[tuple[int, int]] | None = None,
) -> TableFault | None:
    costs, periods, deadlines, offsets, edges = _read(wcet, period, deadline, offset, precedence)
    n = len(costs)
    if not isinstance(table, Iterable) or len(fields := tuple(table)) != 4:
        raise TypeError("table must be (hyperperiod, start, end, task)")
    length = fields[0]
    columns = [
        read_column(values, name, least=None)
        for name, values in zip(("start", "end", "task"), fields[1:], strict=True)
    ]
    for name, column in zip(("start", "end", "task"), columns, strict=True):
        if len(column) != len(columns[0]):
            raise ValueError(f"{name} has {len(column)} values, start has {len(columns[0])}")
    if length != math.lcm(*periods):
        return TableFault("hyperperiod", 0, 0)
    job, done, until = [-1] * n, costs.copy(), [-1] * n  # the last job, its work so far, its last end
    task = free = 0
    for at, (start, end, owner) in enumerate(zip(*columns, strict=True)):
        if not 0 <= owner < n or not 0 <= start < end <= length:
            return TableFault("slice", at, task)
        task = owner
        if start < free:
            return TableFault("overlap", at, task)
        free = end
        this, within = divmod(start - offsets[task], periods[task])
        if this < 0 or within + end - start > deadlines[task]:
            return TableFault("window", at, task)
        if this != job[task]:
            if this != job[task] + 1 or done[task] != costs[task]:
                return TableFault("work", at, task)
            for p in (p for p, s in edges if s == task):
                if job[p] < this or (job[p] == this and done[p] < costs[p]):
                    return TableFault("order", at, task)
            job[task], done[task] = this, 0
        elif start == until[task]:
            return TableFault("split", at, task)
        until[task] = end
        done[task] += end - start
        if done[task] > costs[task]:
            return TableFault("work", at, task)
    for i in range(n):
        if job[i] != length // periods[i] - 1 or done[i] != costs[i]:
            return TableFault("work", len(columns[0]), i)
    return None


def _topological(n: int, edges: list[tuple[int, int]]) -> list[int]:
    """Task indices, each after all that precede it; ValueError for a cycle."""
    order: list[int] = []
    waiting = dict.fromkeys(range(n))
    while waiting:
        free = [i for i in waiting if not any(s == i and p in waiting for p, s in edges)]
        if not free:
            raise ValueError(f"precedence is a cycle: task {min(waiting)} waits for itself")
        order += free
        for i in free:
            del waiting[i]
    return order


def _read(
    wcet: Iterable[int],
    period: Iterable[int],
    deadline: Iterable[int],
    offset: Iterable[int] | None,
    precedence: Iterable[tuple[int, int]] | None,
) -> tuple[list[int], list[int], list[int], list[int], list[tuple[int, int]]]:
    columns: list[list[int]] = []
    for name, values in (("wcet", wcet), ("period", period), ("deadline", deadline), ("offset", offset)):
        if name == "offset" and values is None:
            column = [0] * len(columns[0])
        else:
            column = read_column(values, name, least=None)
        columns.append(column)
        if len(column) != len(columns[0]):
            raise ValueError(
                f"{name} has {len(column)} values, wcet has {len(columns[0])}: one of each for every task"
            )
    costs, periods, deadlines, offsets = columns
    edges = [] if precedence is None else _read_edges(precedence)
    for i, (c, p, d, o) in enumerate(zip(costs, periods, deadlines, offsets, strict=True)):
        if c < 1:
            raise ValueError(f"wcet[{i}] is {c}: must be at least 1")
        if p < 1:
            raise ValueError(f"period[{i}] is {p}: must be at least 1")
        if not 1 <= d <= p:
            raise ValueError(f"deadline[{i}] is {d}: must be from 1 to the period")
        if not 0 <= o < p:
            raise ValueError(f"offset[{i}] is {o}: must be from 0 to below the period")
    for e, (before, after) in enumerate(edges):
        if not (0 <= before < len(costs) and 0 <= after < len(costs)):
            raise ValueError(f"precedence[{e}] names a task that is not there")
        if periods[before] != periods[after]:
            raise ValueError(
                f"precedence[{e}] joins tasks {before} and {after}, whose periods differ: "
                "only jobs of equal periods can wait for each other"
            )
    _topological(len(costs), edges)
    return costs, periods, deadlines, offsets, edges


def _read_edges(precedence: object) -> list[tuple[int, int]]:
    if not isinstance(precedence, Iterable):
        raise TypeError(
            f"precedence is {type(precedence).__name__}: give pairs (before, after) of task indices"
        )
    edges = []
    for e, pair in enumerate(precedence):
        if not isinstance(pair, Iterable) or len(both := tuple(pair)) != 2:
            raise ValueError(f"precedence[{e}] is not a pair (before, after)")
        before, after = (index(i) if hasattr(i, "__index__") else -1 for i in both)
        edges.append((before, after))
    return edges
