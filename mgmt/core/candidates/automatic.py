"""What is scheduled by itself: a pass every so often and after rows were loaded, and between passes what has run.

A candidate whose run is recorded is scored again, alone, in constant time, and is a task again when the policy
says so, with the candidates that waited for its success. What has to pause, after a transient failure or because
it ran a moment ago, is looked at again when its time has come. So nothing is tried at once that has just been
tried, unless `rest` says that it may.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from heapq import heapify, heappop, heappush
from typing import Any

from mgmt.core import effect as fx
from mgmt.core.event import ADMINISTRATOR, Now
from mgmt.core.suites.board import Board
from mgmt.core.suites.entry import Entry
from mgmt.protocol.errors import MgmtError

from .desk import Desk, Passed
from .lines import PART, us
from .outcomes import outcome_of
from .passes import Wanted, again
from .records import Run
from .sums import Key

SOON_S = 1.0  # after rows were loaded: there are more, as a rule; and between two passes at least
AGAIN_S = 60.0  # until a suite is looked for again, or what failed is tried again
SUCCESS = 0  # an outcome


class Automatic:
    """`entry_of` says which suite candidates run in, MgmtError for none."""

    def __init__(self, desk: Desk, board: Board, entry_of: Callable[[], Entry]) -> None:
        self._desk, self._board, self._entry_of = desk, board, entry_of
        self._touched: dict[Key, None] = {}  # to be scored again
        self._succeeded: dict[tuple[str, str], None] = {}  # ... with those that wait for these
        self._wakes: list[tuple[int, Key]] = []
        self._added: list[tuple[int, Key]] = []  # since the pass began that is under way
        self._missing = ""  # why there is no suite
        self._passing = self._once_more = self._rescoring = False
        desk.on_run = self.on_run

    @property
    def _is_on(self) -> bool:
        return self._desk.rules().is_automatic and not self._board.closing

    # ---- passes ----

    def begin(self, now: Now, out: list[fx.Effect]) -> None:
        """At the start, and when other settings hold."""
        if self._is_on:
            self._set(now, "pass", 0.0, out)
        else:
            out.append(fx.CancelTimer(("candidates", "pass")))

    def on_loaded(self, now: Now, out: list[fx.Effect]) -> None:
        """There are new rows."""
        if self._is_on:
            self._set(now, "pass", SOON_S, out)

    def _set(self, now: Now, what: str, wait_s: float, out: list[fx.Effect]) -> None:
        out.append(fx.SetTimer(("candidates", what), now.mono_ns + int(wait_s * 1e9)))

    def on_timer(self, now: Now, about: str, out: list[fx.Effect]) -> None:
        if about == "age":
            self._desk.lines.on_age(now, out)
        elif about == "look":
            self._desk.lines.moved(now, out)
        elif about == "wake":
            self._wake(now, out)
        elif self._passing:
            self._once_more = True  # rows came that it may not have seen
        elif self._is_on:
            self._pass(now, out)

    def _pass(self, now: Now, out: list[fx.Effect]) -> None:
        rules = self._desk.rules()
        try:
            entry = self._entry_of()
        except MgmtError as error:
            if error.text != self._missing:
                out.append(fx.Note("WARNING", f"no pass over candidates: {error.text}", {"code": error.code}))
            self._missing = error.text
            self._set(now, "pass", min(AGAIN_S, max(SOON_S, rules.every_s or AGAIN_S)), out)
            return
        self._passing, self._added, self._missing = True, [], ""

        def done(now: Now, result: Any, out: list[fx.Effect]) -> None:
            self._passing = False
            if isinstance(result, Passed):
                self._wakes = [*result.found.wakes, *self._added]
                if self._added:
                    heapify(self._wakes)
                self._set_wake(now, out)
            self._next(now, isinstance(result, Passed), out)

        wanted = Wanted(campaigns=rules.campaigns, automatic=True)
        self._desk.pass_over(now, entry, ADMINISTRATOR, rules.policy, wanted, done, out)

    def _next(self, now: Now, done: bool, out: list[fx.Effect]) -> None:
        """`done` False: the pass failed, and a rare one must not be missed."""
        every_s = self._desk.rules().every_s
        if self._is_on and every_s is not None:
            wait_s = SOON_S if self._once_more else max(SOON_S, every_s)
            self._set(now, "pass", wait_s if done else min(AGAIN_S, wait_s), out)
        self._once_more = False

    # ---- between passes ----

    def on_run(self, now: Now, key: Key, run: Run, out: list[fx.Effect]) -> None:
        """A run is recorded."""
        if not (self._is_on and self._desk.rules().after_run):
            return
        self._touched[key] = None
        if outcome_of(run) == SUCCESS:
            self._succeeded[key[0], key[1]] = None
        self._rescore(now, out)

    def _wake(self, now: Now, out: list[fx.Effect]) -> None:
        now_us, count = us(now), 0
        while self._wakes and self._wakes[0][0] <= now_us and count < PART:
            self._touched[heappop(self._wakes)[1]] = None
            count += 1
        self._rescore(now, out)
        self._set_wake(now, out)

    def _set_wake(self, now: Now, out: list[fx.Effect]) -> None:
        if self._wakes:
            self._set(now, "wake", max(0.001, (self._wakes[0][0] - us(now)) / 1e6), out)

    def _rescore(self, now: Now, out: list[fx.Effect]) -> None:
        """Score again what is touched, and put it into the queue."""
        if self._rescoring or not self._touched or not self._is_on:
            return
        try:
            entry = self._entry_of()
        except MgmtError:
            return  # a pass says so
        self._rescoring = True
        rules, desk = self._desk.rules(), self._desk
        keys: dict[Key, None] = {}

        def judged(now: Now, judge: Any, out: list[fx.Effect]) -> None:
            if isinstance(judge, MgmtError):
                done(now, judge, out)
                return
            nonlocal keys
            keys, self._touched = self._touched, {}
            for pair in self._succeeded:
                keys |= dict.fromkeys(judge.dependants(*pair))
            self._succeeded.clear()
            work = partial(again, judge, desk.scene(), us(now), list(keys))
            desk.beside.compute(work, decided, out)

        def decided(now: Now, found: Any, out: list[fx.Effect]) -> None:
            if isinstance(found, MgmtError):
                done(now, found, out)
                return
            for wake in found.wakes:
                heappush(self._wakes, wake)
                self._added.append(wake)
            self._set_wake(now, out)
            desk.push(now, entry, ADMINISTRATOR, found, done, out)

        def done(now: Now, result: Any, out: list[fx.Effect]) -> None:
            self._rescoring = False
            if isinstance(result, MgmtError):
                text = f"what has run is not scheduled again: {result.text}"
                out.append(fx.Note("WARNING", text, {"code": result.code}))
                self._touched = keys | self._touched
                heappush(self._wakes, (us(now) + int(AGAIN_S * 1e6), next(iter(self._touched))))
                self._set_wake(now, out)
            else:
                self._rescore(now, out)

        desk.with_judge(now, rules.policy, judged, out)
