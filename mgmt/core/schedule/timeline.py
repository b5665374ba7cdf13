"""What every CPU does from the common start on when each job takes its worst case: a picture, not a proof.

Preemptive fixed priorities, or earliest deadline first where the tasks were admitted by that test. Jobs are
released without jitter; of equally urgent ones the earlier goes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import lcm

from mgmt.protocol import defaults

from .admission import Placed, level_of, urgency


@dataclass(frozen=True, slots=True)
class Segment:
    """Task `task` of its lane runs job `job` from `start_us` to `end_us`."""

    task: int
    job: int
    start_us: int
    end_us: int


@dataclass(frozen=True, slots=True)
class Job:
    """`end_us` None: not done when the picture ends."""

    task: int
    job: int
    release_us: int
    due_us: int
    end_us: int | None

    @property
    def late(self) -> bool:
        return self.end_us is not None and self.end_us > self.due_us


@dataclass(frozen=True, slots=True)
class Lane:
    """One CPU: its tasks, the most urgent first, what ran on it in order of time, and the jobs by release."""

    node: str
    cpu: int
    tasks: tuple[Placed, ...]
    segments: tuple[Segment, ...]
    jobs: tuple[Job, ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    """`length_us` are shown of `hyperperiod_us`, after which everything repeats (releases at 0)."""

    length_us: int
    hyperperiod_us: int
    lanes: tuple[Lane, ...]

    @property
    def truncated(self) -> bool:
        return self.length_us < self.hyperperiod_us


def timeline(
    placed: Iterable[Placed], until_us: int | None = None, max_jobs: int = defaults.MAX_TIMELINE_JOBS
) -> Timeline:
    """One hyperperiod, or less: until `until_us`, or as long as `max_jobs` jobs suffice."""
    by_cpu: dict[tuple[str, int], list[Placed]] = {}
    for one in placed:
        by_cpu.setdefault((one.node, one.cpu), []).append(one)
    tasks = [one.task for on in by_cpu.values() for one in on]
    hyperperiod_us = lcm(*(task.period_us for task in tasks))
    length_us = hyperperiod_us if until_us is None else min(until_us, hyperperiod_us)
    # Jobs per us, as a fraction over the hyperperiod, so that the bound holds for any periods.
    jobs = sum(hyperperiod_us // task.period_us for task in tasks)
    if jobs * length_us > max_jobs * hyperperiod_us:
        length_us = max(max_jobs * hyperperiod_us // jobs, 1)
    lanes = [
        _lane(node, cpu, sorted(on, key=urgency), length_us) for (node, cpu), on in sorted(by_cpu.items())
    ]
    return Timeline(length_us, hyperperiod_us, tuple(lanes))


def _lane(node: str, cpu: int, tasks: Sequence[Placed], length_us: int) -> Lane:
    dynamic = tasks[0].bound == "edf"
    releases = sorted(
        (release_us, i, k)
        for i, one in enumerate(tasks)
        for k, release_us in enumerate(range(one.task.release_us, length_us, one.task.period_us))
    )
    # (urgency, release, task, job, work left), the most urgent on top
    ready: list[tuple[int, int, int, int, int]] = []
    segments: list[Segment] = []
    ends: dict[tuple[int, int], int] = {}
    now_us, arrived = 0, 0
    while arrived < len(releases) or ready:
        if not ready:
            now_us = max(now_us, releases[arrived][0])
        while arrived < len(releases) and releases[arrived][0] <= now_us:
            release_us, i, k = releases[arrived]
            task = tasks[i].task
            level = release_us + task.deadline_us if dynamic else -level_of(task)
            heappush(ready, (level, release_us, i, k, task.wcet_us))
            arrived += 1
        if now_us >= length_us:
            break
        level, release_us, i, k, work_us = heappop(ready)
        next_us = min(releases[arrived][0] if arrived < len(releases) else length_us, length_us)
        end_us = min(now_us + work_us, next_us)
        last = segments[-1] if segments else None
        if last is not None and (last.task, last.job, last.end_us) == (i, k, now_us):
            segments[-1] = Segment(i, k, last.start_us, end_us)
        else:
            segments.append(Segment(i, k, now_us, end_us))
        if end_us - now_us < work_us:
            heappush(ready, (level, release_us, i, k, work_us - (end_us - now_us)))
        else:
            ends[i, k] = end_us
        now_us = end_us
    jobs = tuple(
        Job(i, k, release_us, release_us + tasks[i].task.deadline_us, ends.get((i, k)))
        for release_us, i, k in releases
    )
    return Lane(node, cpu, tuple(tasks), tuple(segments), jobs)
