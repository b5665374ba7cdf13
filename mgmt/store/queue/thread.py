"""The queue's threads: one that writes, with many operations to a commit, and one that reads beside it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol

from mgmt.core.suites import operations as ops
from mgmt.core.suites.candidate_rows import SubmitNew
from mgmt.protocol.errors import MgmtError
from mgmt.store.queue.connection import Connection
from mgmt.store.queue.dispatch import OPERATIONS, QUERIES

# Tasks that a commit moves before it is closed: some milliseconds of work, which its sync is small beside. More
# would delay its first operation for nothing.
TASKS_PER_COMMIT = 4000
_TRIES = 6  # of an operation that came between those of others
_FIRST_PAUSE_S = 0.005

Outcome = ops.Answer | MgmtError
Done = Callable[[Outcome], None]
_Item = tuple[ops.Op | ops.Query, Done]


class Engine(Protocol):
    """Where the queue lies."""

    queue_id: int

    def open(self) -> Connection:
        """The connection that writes; MgmtError `bad-store` when the queue is damaged."""

    def open_reader(self) -> Connection: ...

    def downgrade(self, version: int) -> None:
        """Make it one of an older schema version, once nobody has it open."""


class Queue:
    """Asked from the loop's thread; every answer comes back to it, those of one commit together.

    `post` carries a call into the loop's thread (`loop.call_soon_threadsafe`). An operation is answered once it is
    on the disk, or with a MgmtError and then it changed nothing: a refusal of its own, or `not-durable` when the
    store cannot be written. A commit whose fate is unknown is `not-durable` too: keys and numbers make it safe to
    ask again.
    """

    def __init__(self, engine: Engine, post: Callable[[Callable[[], None]], object]) -> None:
        self._post = post
        writes = engine.open()
        try:
            reads = engine.open_reader()
        except MgmtError:
            writes.close()
            raise
        self._writer = _Worker("queue", writes, self._answer)
        self._reader = _Worker("queue reader", reads, self._answer)

    def ask(self, op: ops.Op | ops.Query, done: Done) -> None:
        """Do it, in the order of asking; queries overtake operations that are not answered."""
        (self._reader if type(op) in QUERIES else self._writer).ask(op, done)

    def close(self) -> None:
        """Answer what was asked, then end."""
        self._writer.close()
        self._reader.close()

    def _answer(self, answered: list[tuple[Done, Outcome]]) -> None:
        self._post(lambda: _deliver(answered))


def _deliver(answered: list[tuple[Done, Outcome]]) -> None:
    for done, outcome in answered:
        done(outcome)


class _Tainted(Exception):
    """An operation was refused after it had changed something."""


class _Worker:
    """One thread with one connection."""

    def __init__(
        self, name: str, db: Connection, answer: Callable[[list[tuple[Done, Outcome]]], None]
    ) -> None:
        self._db = db
        self._answer = answer
        self._committing = False
        self._asked: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def ask(self, op: ops.Op | ops.Query, done: Done) -> None:
        self._asked.put((op, done))

    def close(self) -> None:
        self._asked.put(None)
        self._thread.join()
        self._db.close()

    def _run(self) -> None:
        self._db.make_room()
        while self._serve():
            pass

    def _serve(self) -> bool:
        """Wait for an operation, and commit it with all others that wait; False when it was the last.

        A call of its own: no operation is kept while it waits for the next.
        """
        item = self._asked.get()
        items: list[_Item] = []
        tasks = 0
        while item is not None:
            items.append(item)
            tasks += _tasks_of(item[0])
            if tasks >= TASKS_PER_COMMIT:
                break
            if self._asked.empty():  # nobody else takes from it
                break
            item = self._asked.get()
        if items:
            outcomes = self._together([op for op, _ in items])
            self._answer([(done, outcome) for (_, done), outcome in zip(items, outcomes, strict=True)])
        return item is not None

    def _together(self, wanted: list[ops.Op | ops.Query]) -> list[Outcome]:
        """All in one transaction; each alone when one spoiled it."""
        if len(wanted) == 1:
            return [self._alone(wanted[0])]
        try:
            return self._transaction(wanted)
        except _Tainted:
            return [self._alone(op) for op in wanted]
        except self._db.failures as error:
            if self._committing:
                return [_not_durable(op, error) for op in wanted]
            return [self._alone(op) for op in wanted]

    def _alone(self, op: ops.Op | ops.Query) -> Outcome:
        pause_s = _FIRST_PAUSE_S
        for tries_left in reversed(range(_TRIES)):
            try:
                return self._transaction([op])[0]
            except _Tainted as refused:
                assert isinstance(refused.__cause__, MgmtError)
                return refused.__cause__
            except self._db.failures as error:
                if not tries_left or self._committing or not self._db.is_passing(error):
                    return _not_durable(op, error)
                time.sleep(pause_s)
                pause_s *= 2
        raise AssertionError("unreachable")

    def _transaction(self, wanted: list[ops.Op | ops.Query]) -> list[Outcome]:
        """Commit them and tell the outcomes; whatever it raises, it has been rolled back."""
        db = self._db
        outcomes: list[Outcome] = []
        self._committing = False
        try:
            db.begin()
            for op in wanted:
                outcomes.append(self._one(op))
            self._committing = True  # what fails from here on may have been done
            db.commit()
        except BaseException:
            db.rollback()
            raise
        return outcomes

    def _one(self, op: ops.Op | ops.Query) -> Outcome:
        db = self._db
        before = db.writes
        try:
            function = OPERATIONS.get(type(op)) or QUERIES[type(op)]
            answer: ops.Answer = function(db, op)
            return answer
        except db.failures:
            raise
        except MgmtError as error:
            if db.writes != before:
                raise _Tainted from error
            return error
        except Exception as error:  # noqa: BLE001 - a bug in one operation is its answer, not the end of the queue
            internal = MgmtError("internal", f"{type(op).__name__} failed: {type(error).__name__}: {error}")
            if db.writes != before:
                raise _Tainted from internal
            return internal


def _tasks_of(op: ops.Op | ops.Query) -> int:
    """What it costs, in tasks."""
    if isinstance(op, ops.Submit | SubmitNew):
        return 1 + len(op.tasks)
    if isinstance(op, ops.Exchange):
        return 1 + len(op.results) + op.want
    return 8


def _not_durable(op: ops.Op | ops.Query, error: Exception) -> MgmtError:
    return MgmtError(
        "not-durable",
        f"{type(op).__name__} was not done, the queue's store failed: {str(error).strip()}; "
        "see that its disk has space or its server answers, and repeat the command",
    )
