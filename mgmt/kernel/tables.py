"""What time-triggered tables are made of; the same classes for C and Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Table(NamedTuple):
    """One hyperperiod: `task[i]` runs without a break in [start[i], end[i]). Slices are in time order; a job
    that goes on in the next slice's place is one slice. The columns are memoryviews of int64.
    """

    hyperperiod: int
    start: Sequence[int]
    end: Sequence[int]
    task: Sequence[int]


class TableFault(NamedTuple):
    """Why a table is wrong, the first in time order.

    `rule` is one of: `hyperperiod` (not that of the periods), `slice` (no such task, empty, outside the
    hyperperiod), `overlap` (starts before the slice before it ends), `split` (two slices that should be one),
    `window` (not between a release and its deadline), `work` (a job gets more or less than its WCET, or
    none), `order` (starts before a job that precedes it ended). `slice` is the number of slices for what
    shows only at the end.
    """

    rule: str
    slice: int
    task: int


class Infeasible(ValueError):
    """No table exists on one CPU: `job` of `task` misses its deadline in each."""

    def __init__(self, task: int, job: int) -> None:
        super().__init__(
            f"task {task} misses the deadline of its job {job}: lower its WCET, or load, or move a task away"
        )
        self.task = task
        self.job = job
