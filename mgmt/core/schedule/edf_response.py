"""Worst response times under earliest deadline first, which the demand test does not give.

A job's response is worst in a busy period at whose start every other task is released, but not
necessarily the job's own task; so every release of it that could matter is tried (Spuri).
"""

from __future__ import annotations

from collections.abc import Sequence

from .workload import Task

WORK = 200_000
"""Terms of sums that one CPU may cost; beyond that there are no responses, and the demand test stands alone."""


def responses(tasks: Sequence[Task], work: int = WORK) -> list[int | None]:
    """Bounds of the responses in us from the nominal arrival, exact without jitter; of a schedulable set.

    All None when they would cost more than `work`.
    """
    left = [work]
    try:
        length_us = _busy_us(tasks, left)
        return [_response_us(tasks, i, length_us, left) for i in range(len(tasks))]
    except _TooLongError:
        return [None] * len(tasks)


class _TooLongError(Exception):
    pass


def _spend(left: list[int], terms: int) -> None:
    left[0] -= terms
    if left[0] < 0:
        raise _TooLongError


def _busy_us(tasks: Sequence[Task], left: list[int]) -> int:
    """The longest busy period: every task released at its start, as late after its arrival as it may be."""
    length_us = sum(task.wcet_us for task in tasks)
    while True:
        _spend(left, len(tasks))
        grown = sum(-(-(length_us + t.jitter_us) // t.period_us) * t.wcet_us for t in tasks)
        if grown == length_us:
            return length_us
        length_us = grown


def _response_us(tasks: Sequence[Task], i: int, length_us: int, left: list[int]) -> int:
    own = tasks[i]
    others = [task for j, task in enumerate(tasks) if j != i]
    worst_us = own.wcet_us + own.jitter_us
    # Releases at which the own deadline meets one of another task, or the own first release the start.
    relative = own.deadline_us - own.jitter_us
    seen: set[int] = set()
    for task in tasks:
        first_us = 0 if task is own else task.deadline_us - task.jitter_us - relative
        if first_us < 0:
            first_us += -(first_us // task.period_us) * task.period_us
        _spend(left, max(length_us - first_us, 0) // task.period_us)
        seen.update(range(first_us, length_us, task.period_us))
    for release_us in seen:
        due_us = release_us + relative
        end_us = _end_us(own, others, release_us, due_us, left)
        worst_us = max(worst_us, end_us - release_us + own.jitter_us)
    return worst_us


def _end_us(own: Task, others: Sequence[Task], release_us: int, due_us: int, left: list[int]) -> int:
    """When the job of `own` that is released at `release_us` and due at `due_us` has been served at last."""
    ahead = [
        (task, (due_us - task.deadline_us + task.jitter_us) // task.period_us + 1)
        for task in others
        if task.deadline_us - task.jitter_us <= due_us
    ]
    own_first_us, own_jobs = release_us % own.period_us, release_us // own.period_us + 1
    end_us = sum(task.wcet_us for task, _ in ahead) + (own.wcet_us if own_first_us == 0 else 0)
    while True:
        _spend(left, len(ahead) + 1)
        grown = sum(
            min(-(-(end_us + task.jitter_us) // task.period_us), jobs) * task.wcet_us for task, jobs in ahead
        )
        started = max(-(-(end_us + own.jitter_us - own_first_us) // own.period_us), 0)
        if own_first_us == 0:
            started = max(started, 1)
        grown += min(started, own_jobs) * own.wcet_us
        if grown <= end_us:
            return end_us
        end_us = grown
