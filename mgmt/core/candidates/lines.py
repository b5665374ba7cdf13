"""Candidates in the queue of tasks: a mirror of it, in step with what the daemon does and hears.

The queue of tasks is the truth. What this daemon submits, and what its nodes claim and end, is known at once; what
others do to the tasks, and what comes back without being named, is looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from mgmt.core import effect as fx
from mgmt.core.event import Now
from mgmt.core.suites import operations as op
from mgmt.core.suites.board import Board
from mgmt.core.suites.candidate_rows import ChangePriorities, GetLabelled, Labelled
from mgmt.core.suites.states import ENDED, Task
from mgmt.protocol.errors import MgmtError

from .line import HEAD, Line, Queued, bucket_of, score_of
from .queue import QueueItem
from .rules import Rules
from .sums import Key
from .tasks import LABEL, key_of

Then = Callable[[Now, Any, list[fx.Effect]], None]
Ended = Callable[[Now, Key, Queued | None, op.TaskRecord, list[fx.Effect]], None]
PART = 2000  # tasks that are asked about, or changed, at once
LOOK_S = 1.0  # between two looks at what others did


class Lines:
    """`ended` is told of each task of a candidate that has ended, once; a Watcher of the board."""

    def __init__(self, board: Board, rules: Callable[[], Rules], ended: Ended) -> None:
        self.by_key: dict[Key, Queued] = {}
        self.by_suite: dict[int, Line] = {}
        self.missed = False  # runs were recorded by another daemon
        self._by_task: dict[int, Key] = {}
        self._board, self._rules, self._ended = board, rules, ended
        self._twins: dict[Key, set[int]] = {}  # tasks, tried again by hand, of those that have another one
        self._asked: set[int] = set()  # tasks whose end is on its way
        self._claims = 0  # that were heard of
        self._looking = self._look_again = self._unrecorded = False
        self._known = True  # False: nothing, as the queue could not be asked at the start
        self._next_look_ns = 0

    # ---- what is in the queue ----

    def line(self, suite: int) -> Line:
        found = self.by_suite.get(suite)
        if found is None:
            rules = self._rules()
            found = self.by_suite[suite] = Line(rules.settings, rules.is_fair)
        return found

    def reset(self, now: Now, out: list[fx.Effect]) -> None:
        """Other settings hold: shares and bounds are others."""
        rules = self._rules()
        for suite, old in self.by_suite.items():
            line = self.by_suite[suite] = Line(rules.settings, rules.is_fair)
            for one in old.all.values():
                line.enter(one)
                if one.claimed_ns:
                    line.start(one, one.claimed_ns)
            self.order(now, suite, out)

    def enter(self, one: Queued) -> None:
        """It is in the queue, or about to be; its task has a number or gets it later."""
        self.by_key[one.key] = one
        if one.task:
            self._by_task[one.task] = one.key
        self.line(one.lane).enter(one)

    def number(self, one: Queued, task: int) -> None:
        one.task = task
        self._by_task[task] = one.key

    def leave(self, now: Now, one: Queued, out: list[fx.Effect]) -> None:
        if self.by_key.get(one.key) is one:
            del self.by_key[one.key]
            self.line(one.lane).leave(one)
        self._by_task.pop(one.task, None)
        for task in sorted(self._twins.pop(one.key, ())):
            self.retried(now, task, one.key, out)

    def _start(self, now: Now, one: Queued) -> None:
        """Somebody has it, as was heard now."""
        self._claims += 1
        one.claim = self._claims
        self.line(one.lane).start(one, now.mono_ns)

    def arrange(self, now: Now, suite: int) -> list[Queued]:
        """Those whose priority has to be another one now, and is, here."""
        line = self.line(suite)
        return line.told(us(now), self._head(suite))

    def order(self, now: Now, suite: int, out: list[fx.Effect], then: Then | None = None) -> None:
        """Have the tasks' priorities say what the line is now; `then` when they do."""
        changes = [(one.task, one.priority) for one in self.arrange(now, suite) if one.task]
        if changes:
            for start in range(0, len(changes), PART):
                last = start + PART >= len(changes)
                some = ChangePriorities(changes[start : start + PART])
                self._board.ask(some, then if then is not None and last else _ignored, out)
        elif then is not None:
            then(now, None, out)
        self._set_age(now, out)

    def correct(self, some: Collection[Queued], out: list[fx.Effect]) -> None:
        """Their tasks were submitted with priorities that are others by now."""
        if some:
            self._board.ask(ChangePriorities([(one.task, one.priority) for one in some]), _ignored, out)

    def _head(self, suite: int) -> int:
        """More than can be claimed before the line is told anew."""
        entry = self._board.entries.get(suite)
        if entry is None:
            return HEAD
        nodes = sum(1 for holding in self._board.holdings.values() if holding.suite == suite)
        return max(HEAD, 4 * nodes * int(entry.worker["worker_count"]))

    def _set_age(self, now: Now, out: list[fx.Effect]) -> None:
        dues = [due for line in self.by_suite.values() if (due := line.queue.due_us()) is not None]
        if dues:
            wait_ns = max(
                1_000_000, (min(dues) - us(now)) * 1000
            )  # what is overdue is more than once can move
            out.append(fx.SetTimer(("candidates", "age"), now.mono_ns + wait_ns))

    def on_age(self, now: Now, out: list[fx.Effect]) -> None:
        for suite in self.by_suite:
            self.order(now, suite, out)

    # ---- what the board hears ----

    def claimed(self, now: Now, tasks: list[int], out: list[fx.Effect]) -> None:
        suites = set()
        for task in tasks:
            one = self._of(task)
            if one is not None:
                self._start(now, one)
                suites.add(one.lane)
        for suite in sorted(suites):
            self.order(now, suite, out)

    def told(self, now: Now, tasks: list[int], out: list[fx.Effect]) -> None:
        for task in tasks:
            if task in self._by_task:
                self._ask(task, out)

    def moved(self, now: Now, out: list[fx.Effect]) -> None:
        if not self._by_task and not self._unrecorded:
            return
        if self._looking:
            self._look_again = True
        elif now.mono_ns < self._next_look_ns:
            out.append(fx.SetTimer(("candidates", "look"), self._next_look_ns))
        else:
            self._looking, self._unrecorded = True, False
            self.look(now, self._looked, out, begun=self._known)

    def begin(self, now: Now, then: Then, out: list[fx.Effect]) -> None:
        """At the start: `then` once the queue was asked. As long as it does not answer it is asked again."""
        self._looking, self._known = True, False

        def looked(now: Now, result: Any, out: list[fx.Effect]) -> None:
            if isinstance(result, MgmtError) or self._look_again:
                self._looked(now, result, out)
            else:
                self._looking, self._known = False, True
            then(now, result, out)

        self.look(now, looked, out)

    def _looked(self, now: Now, result: Any, out: list[fx.Effect]) -> None:
        self._looking = False
        self._known = self._known or not isinstance(result, MgmtError)
        self._next_look_ns = now.mono_ns + int(LOOK_S * 1e9)
        if self._look_again or isinstance(result, MgmtError):
            self._look_again = False
            self.unrecorded(now, out)

    def unrecorded(self, now: Now, out: list[fx.Effect]) -> None:
        """An end may have been missed, of a task that nothing else tells of any more: it still has the label."""
        self._unrecorded = True
        self.moved(now, out)

    def _of(self, task: int) -> Queued | None:
        key = self._by_task.get(task)
        one = self.by_key.get(key) if key is not None else None
        return one if one is not None and one.task == task else None

    def _ask(self, task: int, out: list[fx.Effect]) -> None:
        """What became of it."""
        if task in self._asked:
            return
        self._asked.add(task)

        def then(now: Now, found: Any, out: list[fx.Effect]) -> None:
            self._asked.discard(task)
            one, key = self._of(task), self._by_task.get(task)
            if key is None:
                return
            if isinstance(found, MgmtError):
                if found.code == "unknown-task":
                    self._gone(now, task, one, out)
            elif found.state in ENDED:
                self._gone(now, task, one, out)
                self._ended(now, key, one, found, out)
                if one is not None:
                    self.order(now, one.lane, out)
            elif one is not None and found.state == Task.READY:
                self._back([one], now, out)

        self._board.ask(op.GetTask(task), then, out)

    def _gone(self, now: Now, task: int, one: Queued | None, out: list[fx.Effect]) -> None:
        key = self._by_task.pop(task, None)
        if key in self._twins:
            self._twins[key].discard(task)
        if one is not None:
            self.leave(now, one, out)

    def _back(self, some: Iterable[Queued], now: Now, out: list[fx.Effect]) -> None:
        """These do not run any more."""
        suites = set()
        for one in some:
            self.line(one.lane).give_back(one)
            suites.add(one.lane)
        for suite in sorted(suites):
            self.order(now, suite, out)

    # ---- what is looked up ----

    def look(self, now: Now, then: Then, out: list[fx.Effect], begun: bool = False) -> None:
        """Know what is in the queue, whoever put it there; `then` gets None, or a MgmtError.

        `begun`: only what runs or has ended, which is quickly told where very many wait.
        """
        there: set[int] = set()
        claims, known = self._claims, set() if begun else set(self._by_task)

        def page(now: Now, result: Any, out: list[fx.Effect]) -> None:
            if isinstance(result, MgmtError):
                then(now, result, out)
                return
            for row in result:
                there.add(row.task)
                self._see(now, row, out)
            if len(result) == PART:
                self._board.ask(GetLabelled(LABEL, result[-1].task, begun, PART), page, out)
            else:
                self._compare(now, there, known, claims, out)
                then(now, None, out)

        self._board.ask(GetLabelled(LABEL, 0, begun, PART), page, out)

    def _see(self, now: Now, row: Labelled, out: list[fx.Effect]) -> None:
        key = key_of(row.labels)
        if key is None:
            return
        known = self.by_key.get(key)
        if row.task not in self._by_task:
            self._by_task[row.task] = key
            if known is not None and not known.task:
                return  # it is being submitted, and is told then that it is there
        if row.state not in ENDED:
            if known is None:
                self.enter(restored(key, row))
            elif known.task and known.task != row.task:
                self._twins.setdefault(key, set()).add(row.task)
        one = self._of(row.task)
        if row.state in ENDED:
            self._ask(row.task, out)
        elif one is not None and row.state == Task.RUNNING:
            self._start(now, one)

    def _compare(
        self, now: Now, there: set[int], known: Collection[int], claims: int, out: list[fx.Effect]
    ) -> None:
        """What is not as it was believed to be. `claims`: so many were heard of when the queue was asked."""
        running = [one for line in self.by_suite.values() for one in line.running.values()]
        self._back([one for one in running if one.task not in there and one.claim <= claims], now, out)
        for task in known:
            if task not in there and task in self._by_task and task not in self._asked:
                self._gone(now, task, self._of(task), out)
                self.missed = True
        for suite in self.by_suite:
            self.order(now, suite, out)

    def retried(self, now: Now, task: int, key: Key, out: list[fx.Effect]) -> None:
        """An ended task of a candidate is ready again."""
        self._by_task[task] = key

        def then(now: Now, found: Any, out: list[fx.Effect]) -> None:
            if isinstance(found, MgmtError) or found.state in ENDED:
                return
            known = self.by_key.get(key)
            if known is not None:
                if known.task != task:  # that has the place in the line; this one is recorded all the same
                    self._twins.setdefault(key, set()).add(task)
                return
            labels = tuple(found.labels)
            row = Labelled(task, found.lane, found.state, found.priority, found.submitted_ms, labels)
            one = restored(key, row)
            self.enter(one)
            if found.state == Task.RUNNING:
                self._start(now, one)
            self.order(now, found.lane, out)

        self._board.ask(op.GetTask(task), then, out)

    def changed(self, now: Now, task: int, priority: int, out: list[fx.Effect]) -> None:
        """Somebody gave it another priority: by hand, so its score is what that means."""
        one = self._of(task)
        if one is not None and one.priority != priority:
            one.priority = priority
            bucket = bucket_of(priority)
            self.line(one.lane).rescore(one, score_of(priority), one.duration_us or 0.0, bucket)
            self.order(now, one.lane, out)


def restored(key: Key, row: Labelled) -> Queued:
    """One that this daemon did not put in: its score is what its priority says."""
    item = QueueItem(
        *key, LABEL, score_of(row.priority), row.submitted_ms * 1000, bucket=bucket_of(row.priority)
    )  # fmt: skip
    return Queued(row.lane, row.task, row.priority, item)


def us(now: Now) -> int:
    return round(now.real_s * 1e6)


def _ignored(now: Now, result: Any, out: list[fx.Effect]) -> None:
    pass
