"""The states of tasks, suites and executions, and their legal edges as data.

The numbers are stored and travel; they never change their meaning.
"""

from __future__ import annotations

from enum import IntEnum


class Task(IntEnum):
    """Where a task is. FINISHED: it ended, whatever its exit status. FAILED: the dead letter."""

    PENDING = 0  # waits for another task, or for the time of its next try
    READY = 1
    RUNNING = 2  # claimed by a holder: runs, or waits in its buffer
    FINISHED = 3
    CANCELLED = 4
    UNKNOWN = 5  # never stored: what a reader makes of a number it does not know
    FAILED = 6


ENDED = frozenset({Task.FINISHED, Task.CANCELLED, Task.FAILED})

# READY twice: a try that failed is followed by another one at once. An ended one is READY again by `retry`.
TASK_EDGES: frozenset[tuple[Task, Task]] = frozenset(
    {
        (Task.PENDING, Task.READY),
        (Task.PENDING, Task.CANCELLED),
        (Task.READY, Task.RUNNING),
        (Task.READY, Task.CANCELLED),
        (Task.RUNNING, Task.FINISHED),
        (Task.RUNNING, Task.CANCELLED),
        (Task.RUNNING, Task.FAILED),
        (Task.RUNNING, Task.READY),
        (Task.RUNNING, Task.PENDING),
        (Task.FINISHED, Task.READY),
        (Task.CANCELLED, Task.READY),
        (Task.FAILED, Task.READY),
    }
)


class Suite(IntEnum):
    """Whether a suite takes tasks, and why not. Only CANCELLED is terminal."""

    OPEN = 0
    CLOSED = 1  # no submission for a while, or closed by hand; a new task opens it again
    COMPLETE = 2  # all its tasks have ended, and there was one; a new task opens it again
    CANCELLED = 3


class SuiteEvent(IntEnum):
    """What moves a suite; `EMPTIED`: none of its tasks is pending, and there was one."""

    SUBMITTED = 0
    EMPTIED = 1
    CLOSED = 2  # by hand, or by the timer while tasks are pending
    CANCELLED = 3


# What is not listed is refused, except a second cancel: it is a successful no-op.
SUITE_EDGES: dict[tuple[Suite, SuiteEvent], Suite] = {
    (Suite.OPEN, SuiteEvent.SUBMITTED): Suite.OPEN,
    (Suite.OPEN, SuiteEvent.EMPTIED): Suite.COMPLETE,
    (Suite.OPEN, SuiteEvent.CLOSED): Suite.CLOSED,
    (Suite.OPEN, SuiteEvent.CANCELLED): Suite.CANCELLED,
    (Suite.CLOSED, SuiteEvent.SUBMITTED): Suite.OPEN,
    (Suite.CLOSED, SuiteEvent.EMPTIED): Suite.COMPLETE,
    (Suite.CLOSED, SuiteEvent.CANCELLED): Suite.CANCELLED,
    (Suite.COMPLETE, SuiteEvent.SUBMITTED): Suite.OPEN,
    (Suite.COMPLETE, SuiteEvent.CANCELLED): Suite.CANCELLED,
    (Suite.CANCELLED, SuiteEvent.CANCELLED): Suite.CANCELLED,
}


class Exec(IntEnum):
    """How far the execution of a task is; streamed, and only kept for those who look or wait for it."""

    UNKNOWN = -99
    WORKER_EXITED = -1
    FETCH_RESOURCE = 1
    FETCH_RESOURCE_FINISHED = 2
    FETCH_RESOURCE_ERROR = 3
    FETCH_RESOURCE_TIMEOUT = 4
    FETCH_RESOURCE_NOT_FOUND = 5
    FETCH_RESOURCE_FORBIDDEN = 6
    WATCH = 7
    WATCH_FINISHED = 8
    WATCH_TIMEOUT = 9
    EXEC_PENDING = 10
    EXEC_SPAWNED = 11
    EXEC_FINISHED = 12
    EXEC_TIMEOUT = 13
    UPLOAD_RESULT = 14
    UPLOAD_FINISHED_RESULT = 15
    UPLOAD_CANCELLED_RESULT = 16
    UPLOAD_RESULT_FINISHED = 17
    UPLOAD_RESULT_TIMEOUT = 18
    TASK_COMMITTED = 19

    @property
    def word(self) -> str:
        """As users write it: ExecSpawned."""
        return "".join(part.capitalize() for part in self.name.split("_"))


# The stations of an execution, in order. Each is passed on the way to every later one, done or skipped: a task
# that fetches nothing has its resources.
_WAY = (
    Exec.FETCH_RESOURCE,
    Exec.FETCH_RESOURCE_FINISHED,
    Exec.WATCH,
    Exec.WATCH_FINISHED,
    Exec.EXEC_PENDING,
    Exec.EXEC_SPAWNED,
    Exec.EXEC_FINISHED,
    Exec.UPLOAD_RESULT,
    Exec.UPLOAD_FINISHED_RESULT,
    Exec.UPLOAD_RESULT_FINISHED,
    Exec.TASK_COMMITTED,
)
# Where the way is left: what is reached is this state and the stations up to the one named. The result of a task
# that was cancelled is uploaded without its execution having finished.
_ASIDE = {
    Exec.FETCH_RESOURCE_ERROR: Exec.FETCH_RESOURCE,
    Exec.FETCH_RESOURCE_TIMEOUT: Exec.FETCH_RESOURCE,
    Exec.FETCH_RESOURCE_NOT_FOUND: Exec.FETCH_RESOURCE,
    Exec.FETCH_RESOURCE_FORBIDDEN: Exec.FETCH_RESOURCE,
    Exec.WATCH_TIMEOUT: Exec.WATCH,
    Exec.EXEC_TIMEOUT: Exec.EXEC_SPAWNED,
    Exec.UPLOAD_CANCELLED_RESULT: Exec.FETCH_RESOURCE,
    Exec.UPLOAD_RESULT_TIMEOUT: Exec.UPLOAD_RESULT,
}


def _passed(given: Exec) -> frozenset[Exec]:
    last = _ASIDE.get(given, given)
    stations = _WAY[: _WAY.index(last) + 1] if last in _WAY else ()
    return frozenset({given, *stations})


# given -> every state that has been reached then
REACHED: dict[Exec, frozenset[Exec]] = {given: _passed(given) for given in Exec}


def has_reached(wanted: int, given: int) -> bool:
    """Whether an execution that is in `given` has been in `wanted`; numbers of no state are never reached."""
    return given in REACHED and wanted in REACHED[Exec(given)]
