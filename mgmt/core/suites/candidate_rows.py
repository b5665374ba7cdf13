"""What the queue keeps of candidates: rows as they were loaded and runs as they ended. It does not look into them.

Operations like those of `operations`: each is one transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class Row(NamedTuple):
    """`kind`: a table of candidates; `name`: the row's key in it; `record`: packed."""

    kind: str
    name: str
    record: bytes


@dataclass(frozen=True, slots=True)
class PutRows:
    """Rows, each in place of one of the same key. Answer: `Changed`. `forget`: all there were are gone before;
    `gone`: (kind, name) of those that are."""

    rows: Sequence[Row]
    forget: bool = False
    gone: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class GetRows:
    """At most `limit` rows after this (kind, name), by kind and name. Answer: `Rows`."""

    after: tuple[str, str] = ("", "")
    limit: int = 20_000


@dataclass(frozen=True, slots=True)
class RecordRun:
    """The run that a task was; `row` None: nothing is to be recorded of it. Answer: `Changed`.

    The task loses the label by which those without a record are found.
    """

    task: int
    label: str
    row: Row | None


@dataclass(frozen=True, slots=True)
class SubmitNew:
    """New tasks of one lane, each with the label that names it, but for those whose name a task has that has not
    ended; answer: `SubmittedNew`. Whoever asks at the same time waits, so that a name is there once.

    `tasks`: (name, priority, spec). `label`: of all of them.
    """

    lane: int
    tasks: Sequence[tuple[str, int, bytes]]
    label: str
    creator: str
    now_ms: int


@dataclass(frozen=True, slots=True)
class SubmittedNew:
    """`tasks`: the number of each that is new, 0 of one that is there already. `counts`: of the lane."""

    tasks: tuple[int, ...]
    counts: Any  # an operations.Counts


class Labelled(NamedTuple):
    """A task with a label, and its other labels."""

    task: int
    lane: int
    state: int
    priority: int
    submitted_ms: int
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GetLabelled:
    """At most `limit` tasks with this label after number `after`. Answer: tuple of `Labelled`.

    `begun`: only those that run or have ended.
    """

    label: str
    after: int = 0
    begun: bool = False
    limit: int = 2000


@dataclass(frozen=True, slots=True)
class ChangePriorities:
    """(task, priority); tasks that have left the queue meanwhile are passed over. Answer: `Changed`."""

    changes: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Changed:
    rows: int


@dataclass(frozen=True, slots=True)
class Rows:
    rows: tuple[Row, ...]
