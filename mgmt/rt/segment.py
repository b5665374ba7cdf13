"""Segments: the plan of a task laid down in a file, and what its statistics say.

The layout is that of mgmt_rt.h; offsets come from the extension, so there is one definition. A segment is
read by copying the file, never through a mapping: a task that cuts it must not take its reader with it.
"""

from __future__ import annotations

import enum
import math
import os
import secrets
import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from . import _task

MAX_RELEASES = _task.RELEASES
_AT = _task.LAYOUT
_NUMBERS = (
    "t0_ns", "next_job", "misses", "unchecked", "faults", "signals",
    "joins", "first_job", "pid", "tid", "released", "done", "completed", "late", "skipped",
)  # fmt: skip
_NAME_BYTES = 63
_RECORDS_BYTES = _task.RECORDS * _AT["record_bytes"]


class Overrun(enum.IntEnum):
    """What follows when a job is not complete in time; see enum mgmt_rt_overrun."""

    LOG = 0
    SKIP = 1
    KILL = 2
    RESTART = 3


class SegmentError(Exception):
    """A file that is no segment, or a plan that cannot be; the text names the object and the field."""


@dataclass(frozen=True, slots=True)
class Plan:
    """When a task is released and what its deadline means; all times in ns.

    `releases_ns` are offsets inside a cycle, ascending: one for a periodic task, a time-triggered table has
    as many as the task has entries. `hyperperiod_ns`, a multiple of the cycle (0: the cycle), is where who
    comes late enters. `deadline_ns` counts from each release; 0 means that nobody looks. `max_dmiss` misses
    in a row, or among the last `window_jobs`, make one fault; 0: misses are only counted.
    """

    task: int
    name: str
    cycle_ns: int
    deadline_ns: int = 0
    releases_ns: Sequence[int] = (0,)
    hyperperiod_ns: int = 0
    overrun: Overrun = Overrun.LOG
    max_dmiss: int = 0
    window_jobs: int = 0
    memory_locked: bool = False
    by_signal: bool = False

    def release_ns(self, t0_ns: int, job: int) -> int:
        """When a job is released."""
        cycles, entry = divmod(job, len(self.releases_ns))
        return t0_ns + cycles * self.cycle_ns + self.releases_ns[entry]

    def first_job(self, t0_ns: int, from_ns: int) -> int:
        """The number of the first job released at `from_ns` or later."""
        cycles, rest = divmod(max(0, from_ns - t0_ns), self.cycle_ns)
        return cycles * len(self.releases_ns) + bisect_left(self.releases_ns, rest)

    def pack(self) -> bytes:
        """The plan as it lies at the start of a segment. SegmentError names the field that cannot be."""
        data = bytearray(_AT["plan_bytes"])
        name = self.name.encode()
        numbers = {
            "task": self.task,
            "cycle_ns": self.cycle_ns,
            "hyperperiod_ns": self.hyperperiod_ns or self.cycle_ns,
            "deadline_ns": self.deadline_ns,
            "overrun": int(self.overrun),
            "flags": self.memory_locked | self.by_signal << 1,
            "max_dmiss": self.max_dmiss,
            "window_jobs": self.window_jobs,
            "n_releases": len(self.releases_ns),
        }
        wrong = next((key for key, value in numbers.items() if not 0 <= value < 1 << 64), None)
        if wrong is None and (len(name) > _NAME_BYTES or b"\0" in name):
            wrong = "name"
        if wrong is None and len(self.releases_ns) > MAX_RELEASES:
            wrong = "n_releases"
        if wrong is None and not all(0 <= offset < 1 << 64 for offset in self.releases_ns):
            wrong = "offsets_ns"
        if wrong is None:
            struct.pack_into("=8s", data, _AT["magic"], _task.MAGIC.encode())
            struct.pack_into("=II", data, _AT["version"], _task.VERSION, _task.SEGMENT_BYTES)
            struct.pack_into(f"={_NAME_BYTES}s", data, _AT["name"], name)
            for key, value in numbers.items():
                struct.pack_into("=Q", data, _AT[key], value)
            struct.pack_into(f"={len(self.releases_ns)}Q", data, _AT["offsets_ns"], *self.releases_ns)
            wrong = _task.refusal(bytes(data))
        if wrong is not None:
            raise SegmentError(
                f"task {self.name!r}: its plan has an impossible {wrong}; {_RULES.get(wrong, 'see mgmt_rt.h')}"
            )
        return bytes(data)


_RULES = {
    "task": "a number from 0 to 2^64 - 1",
    "name": "1 to 63 bytes of UTF-8 without NUL",
    "cycle_ns": "from 0.1 ms to a day",
    "hyperperiod_ns": "a multiple of the cycle",
    "n_releases": f"1 to {MAX_RELEASES} in a cycle: declare a shorter cycle",
    "offsets_ns": "ascending, below the cycle, and 0.1 ms apart, the last and the next cycle's first too",
    "deadline_ns": "at most 128 times the smallest gap between releases, and 0 for a task released by signal",
    "max_dmiss": "it needs a deadline, and is below 2^31",
    "window_jobs": "0, or from max_dmiss to 64",
    "overrun": "kill and restart act on faults: set max_dmiss to 1 or more",
}


@dataclass(frozen=True, slots=True)
class Histogram:
    """Durations in ns; 16 buckets an octave, so a percentile is at most 6.25 % above the true value."""

    sum_ns: int
    max_ns: int
    counts: Sequence[int] = field(repr=False)

    @property
    def count(self) -> int:
        return sum(self.counts)

    @property
    def mean_ns(self) -> float:
        return self.sum_ns / self.count if self.count else 0.0

    def percentile_ns(self, share: float) -> int:
        """The largest value that belongs to the bucket of the nearest-rank percentile; 0 without values."""
        totals = list(accumulate(self.counts))
        if not totals[-1]:
            return 0
        rank = max(1, math.ceil(share * totals[-1]))
        return min(self.max_ns, _bucket_ns(bisect_left(totals, rank) + 1) - 1)


def _bucket_ns(index: int) -> int:
    """The smallest value of a bucket."""
    return index if index < 16 else (16 + index % 16) << (index // 16 - 1)


@dataclass(frozen=True, slots=True)
class Record:
    """A completed job: CLOCK_MONOTONIC instants, and the CPU time of its thread."""

    job: int
    start_ns: int
    end_ns: int
    execution_ns: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """One look at a segment. Each number is true by itself; they are not all of the same instant.

    `released` and `done` are the numbers of the last job that was, plus one; `late` is how many of the
    `completed` ended after their deadlines. `misses` are jobs that were not complete when the executive
    looked, those skipped among them; `unchecked` are those it came too late for. `pid` and `tid` are what
    the task says of itself. `records` are the last 256 jobs completed, oldest first.
    """

    plan: Plan
    t0_ns: int
    started: bool
    next_job: int
    misses: int
    unchecked: int
    faults: int
    signals: int
    joins: int
    first_job: int
    pid: int
    tid: int
    released: int
    done: int
    completed: int
    late: int
    skipped: int
    jitter: Histogram
    execution: Histogram
    response: Histogram
    records: Sequence[Record] = field(repr=False)


def create(path: Path, plan: Plan, *, user: int = -1, group: int = -1) -> None:
    """Lay down a new segment, mode 600, for `user` and `group` (numbers; -1: ours).

    It appears complete or not at all. FileExistsError when there is one: it may be in use. The place
    must be a file system in memory (/run, /dev/shm): a task may not wait for a disk.
    """
    data = plan.pack()
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    file = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        # A full file system is an error now, not a SIGBUS later.
        os.posix_fallocate(file, 0, _task.SEGMENT_BYTES)
        os.pwrite(file, data, 0)
        os.fchown(file, user, group)
        os.link(unfinished, path)
    finally:
        os.close(file)
        os.unlink(unfinished)


def read(path: Path) -> Statistics:
    """What the segment says now; SegmentError when it is none."""
    with _opened(path) as file:
        data = os.pread(file, _task.SEGMENT_BYTES + 1, 0)
        again = os.pread(file, _RECORDS_BYTES, _AT["records"])
    wrong = _task.refusal(data[: _AT["plan_bytes"]]) if len(data) == _task.SEGMENT_BYTES else "size_bytes"
    if wrong is not None:
        raise SegmentError(
            f"{path}: not a real-time segment of this version ({wrong} is wrong); remove it and lay it down anew"
        )
    words = memoryview(data).cast("Q")

    def number(key: str) -> int:
        return words[_AT[key] // 8]

    def histogram(key: str) -> Histogram:
        at = _AT[key] // 8
        return Histogram(words[at], words[at + 1], words[at + 2 : at + 2 + _task.BUCKETS].tolist())

    offsets = _AT["offsets_ns"] // 8
    flags = number("flags")
    plan = Plan(
        task=number("task"),
        name=data[_AT["name"] :].partition(b"\0")[0].decode(errors="replace"),
        cycle_ns=number("cycle_ns"),
        deadline_ns=number("deadline_ns"),
        releases_ns=tuple(words[offsets : offsets + number("n_releases")]),
        hyperperiod_ns=number("hyperperiod_ns"),
        overrun=Overrun(number("overrun")),
        max_dmiss=number("max_dmiss"),
        window_jobs=number("window_jobs"),
        memory_locked=bool(flags & 1),
        by_signal=bool(flags & 2),
    )
    return Statistics(
        plan=plan,
        started=number("started") & 0xFFFFFFFF != 0,
        jitter=histogram("jitter"),
        execution=histogram("execution"),
        response=histogram("response"),
        records=_records(words[_AT["records"] // 8 :], memoryview(again).cast("Q")),
        **{key: number(key) for key in _NUMBERS},
    )


def _records(first: memoryview[int], second: memoryview[int]) -> list[Record]:
    """Of two copies: a record that was being written has another job number, or none, in one of them."""
    step = _AT["record_bytes"] // 8
    found = [
        Record(first[i] - 1, first[i + 1], first[i + 2], first[i + 3])
        for i in range(0, len(second), step)
        if first[i] and first[i] == second[i]
    ]
    return sorted(found, key=lambda record: record.job)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        yield file
    finally:
        os.close(file)
