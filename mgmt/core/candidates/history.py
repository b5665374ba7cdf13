"""The history of runs: columns of numbers, and statistics that one more run changes in constant time.

Three levels are kept alike: series (a codebase in a campaign), codebases, campaigns. A stored run takes 24 bytes
of columns and at most 16 of recent durations at each level.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from mgmt import kernel
from mgmt.kernel.reference_history import FAILURE, FIELDS, SUCCESS, TRANSIENT, exp2, middle

from .outcomes import LACKING, outcome_of
from .records import Relations, RowError, Run
from .settings import Settings

S, F, Z, DONE, LOST, RUNS, STREAK, ENDED = 0, 1, 2, 3, 6, 9, 10, 11  # columns of a matrix of the kernel


class Columns(NamedTuple):
    """Runs in the order of their ends: `key` is 4 x the number of the series in `names` + outcome; times in us.

    `contexts`: of each run a number for its context, and for that of what it was made for; negative: none.
    `tried`: (codebase, campaign, context, end) of the latest attempt in a context that was not transient;
    `lacking`: (codebase, campaign, relations, end) of series whose latest such run lacked packages.
    """

    names: list[tuple[str, str]]
    key: array[int]
    ended: array[float]
    duration: array[float]
    tried: list[tuple[str, str, str, int]]
    lacking: list[tuple[str, str, Relations, int]]
    contexts: tuple[Sequence[int], Sequence[int]] = ((), ())


class Level:
    """Statistics of rows by name. `matrix` holds 12 columns of `room` entries, of which the first are rows."""

    def __init__(self, window: int) -> None:
        self.rows: dict[object, int] = {}
        self.room = 16
        self.window = window
        self.matrix = _empty(self.room)
        self._recent: dict[int, array[float]] = {}  # 2 * row + 1 for what was no success

    def row(self, name: object) -> int:
        """Its number, a new one for a new name."""
        found = self.rows.setdefault(name, len(self.rows))
        if found >= self.room:
            old, room = self.matrix, self.room * 4
            self.matrix = _empty(room)
            for field in range(FIELDS):
                self.matrix[field * room : field * room + self.room] = old[
                    field * self.room : (field + 1) * self.room
                ]
            self.room = room
        return found

    def at(self, field: int, row: int) -> float:
        return self.matrix[field * self.room + row]

    def put(self, field: int, row: int, value: float) -> None:
        self.matrix[field * self.room + row] = value

    def remember(self, row: int, outcome: int, duration_us: float) -> None:
        """A duration among the latest; the matrix is left as it is."""
        if outcome != TRANSIENT and not math.isnan(duration_us):
            recent = self._recent.setdefault(2 * row + (outcome != SUCCESS), array("d"))
            recent.append(duration_us)
            if len(recent) > self.window:
                del recent[0]

    def forget_durations(self) -> bool:
        """The latest ones; whether there were any."""
        there = bool(self._recent)
        self._recent.clear()
        return there

    def add(self, row: int, outcome: int, weight: float, ended_us: float, duration_us: float) -> None:
        """One more run: what `kernel.history` would say of all of them."""
        self.remember(row, outcome, duration_us)
        self.put(ENDED, row, max(ended_us, self.at(ENDED, row)))
        if outcome == TRANSIENT:
            self.put(STREAK, row, self.at(STREAK, row) + 1)
            return
        self.put(STREAK, row, 0.0)
        self.put(RUNS, row, self.at(RUNS, row) + 1)
        self.put(outcome, row, self.at(outcome, row) + weight)
        lost = outcome != SUCCESS
        for i, value in enumerate(middle(self._recent.get(2 * row + lost, ()))):
            self.put((LOST if lost else DONE) + i, row, value)


def _empty(room: int) -> array[float]:
    matrix = array("d", bytes(8 * FIELDS * room))
    for field in (DONE + 1, DONE + 2, LOST + 1, LOST + 2):
        matrix[field * room : (field + 1) * room] = array("d", [math.nan]) * room
    matrix[ENDED * room :] = array("d", [-math.inf]) * room
    return matrix


class History:
    """All runs, in the order in which they ended. Sums are those at `reference_us`; `decay` takes them to now.

    A failure in a context that was tried before was expected, and says little of another context: it weighs less
    by `same_context_penalty` of the attempt before.
    """

    def __init__(self, settings: Settings, reference_us: int) -> None:
        self.reference_us, self.half_life_us = float(reference_us), settings.half_life_s * 1e6
        self.series, self.codebases, self.campaigns = (Level(settings.duration_window) for _ in range(3))
        self.names: list[tuple[str, str]] = []  # by series
        self.codebase_of, self.campaign_of = array("q"), array("q")  # by series
        self._key, self._ended, self._duration = array("q"), array("d"), array("d")
        self._penalty = settings.same_context_penalty
        # Of failures that were expected: when they ended, their series, what they weigh less.
        self._less_at, self._less_row, self._less = array("d"), array("q"), array("d")
        self.tried: dict[tuple[int, str], float] = {}
        """(series, context) -> weight of the latest attempt there that was not transient."""
        self.lacking: dict[int, tuple[Relations, float]] = {}
        """Series whose latest run lacked packages -> what it lacked, the weight of that failure."""
        self._forgiven: dict[int, float] = {}
        self.succeeded: set[int] = set()

    def __len__(self) -> int:
        return len(self._key)

    def row(self, codebase: str, campaign: str) -> int:
        """The series, a new one where there is none."""
        row = self.series.row((codebase, campaign))
        if row == len(self.codebase_of):
            self.names.append((codebase, campaign))
            self.codebase_of.append(self.codebases.row(codebase))
            self.campaign_of.append(self.campaigns.row(campaign))
        return row

    def weight(self, at_us: float) -> float:
        return exp2((at_us - self.reference_us) / self.half_life_us)

    def decay(self, now_us: float) -> float:
        """What a sum is multiplied with to be that of `now_us`."""
        return exp2((self.reference_us - now_us) / self.half_life_us)

    def load(self, runs: Iterable[Run]) -> list[RowError]:
        """Many runs at once, sorted by their ends; those that cannot be used are returned with the reason."""
        faults = []
        ordered: list[tuple[int, int, Run]] = []
        for i, run in enumerate(runs):
            if run.finish_us is None and run.start_us is None:
                faults.append(RowError("runs", i, "finish_time", "is missing, and start_time too"))
            else:
                ordered.append((_end_us(run), i, run))
        ordered.sort(key=lambda one: one[:2])
        for _, _, run in ordered:
            self._note(run)
        self.rebuild()
        return faults

    def adopt(self, columns: Columns) -> None:
        """The same for runs that are columns already, into a history without runs. It is for passes: how the
        durations of series go on with further runs is not remembered."""
        rows = [self.row(*name) for name in columns.names]
        self._key = array("q", [rows[key >> 2] * 4 + (key & 3) for key in columns.key])
        self._ended, self._duration = columns.ended, columns.duration
        latest: dict[tuple[int, int], float] = {}
        for key, ended_us, own, other in zip(self._key, self._ended, *columns.contexts, strict=False):
            if (own < 0 and other < 0) or key & 3 == TRANSIENT:
                continue
            row, weight = key >> 2, self.weight(ended_us)
            before = latest.get((row, other if own < 0 else own))
            if before is not None and key & 3 == FAILURE:
                self._expected(row, ended_us, self._penalty * min(weight, before))
            latest[row, own] = latest[row, other] = weight
        for codebase, campaign, context, at_us in columns.tried:
            self.tried[self.row(codebase, campaign), context] = self.weight(at_us)
        for codebase, campaign, relations, at_us in columns.lacking:
            self.lacking[self.row(codebase, campaign)] = relations, self.weight(at_us)
        self.succeeded = {key >> 2 for key in self._key if key & 3 == SUCCESS}
        self.rebuild()

    def expire(self, before_us: float) -> bool:
        """Forget runs that ended before; whether there were any. That a campaign has succeeded once is kept."""
        if not self._ended or min(self._ended) >= before_us:
            return False
        kept = [i for i, at_us in enumerate(self._ended) if at_us >= before_us]
        self._key = array("q", [self._key[i] for i in kept])
        self._duration = array("d", [self._duration[i] for i in kept])
        self._ended = array("d", [self._ended[i] for i in kept])
        still = [i for i, at_us in enumerate(self._less_at) if at_us >= before_us]
        self._less_row = array("q", [self._less_row[i] for i in still])
        self._less = array("d", [self._less[i] for i in still])
        self._less_at = array("d", [self._less_at[i] for i in still])
        least = self.weight(before_us)
        self.tried = {name: weight for name, weight in self.tried.items() if weight >= least}
        for row in [row for row, (_, weight) in self.lacking.items() if weight < least]:
            del self.lacking[row]
            self._forgiven.pop(row, None)
        if self.series.forget_durations():
            self.codebases.forget_durations()
            self.campaigns.forget_durations()
            for key, us in zip(self._key, self._duration, strict=True):
                self._remember(key >> 2, key & 3, us)
        self.rebuild()
        return True

    def _remember(self, row: int, outcome: int, duration_us: float) -> None:
        self.series.remember(row, outcome, duration_us)
        self.codebases.remember(self.codebase_of[row], outcome, duration_us)
        self.campaigns.remember(self.campaign_of[row], outcome, duration_us)

    def add(self, run: Run) -> int:
        """One more run, in constant time; its series. RowError for one without any time."""
        if run.finish_us is None and run.start_us is None:
            raise RowError("runs", len(self), "finish_time", "is missing, and start_time too")
        row, outcome, ended_us, duration_us, less = self._note(run, remember=False)
        weight = self.weight(ended_us)
        for level, at in (
            (self.series, row),
            (self.codebases, self.codebase_of[row]),
            (self.campaigns, self.campaign_of[row]),
        ):
            # Of codebases only durations are wanted.
            level.add(at, outcome, 0.0 if level is self.codebases else weight, ended_us, duration_us)
        if less:
            self._weigh_less(row, less)
        return row

    def _expected(self, row: int, ended_us: float, less: float) -> None:
        self._less_at.append(ended_us)
        self._less_row.append(row)
        self._less.append(less)

    def _weigh_less(self, row: int, less: float) -> None:
        for level, at in ((self.series, row), (self.campaigns, self.campaign_of[row])):
            level.put(F, at, max(0.0, level.at(F, at) - less))

    def _note(self, run: Run, remember: bool = True) -> tuple[int, int, float, float, float]:
        """Its series, outcome, end and duration, and what it weighs less."""
        row, outcome, ended_us = self.row(run.codebase, run.campaign), outcome_of(run), float(_end_us(run))
        duration_us = math.nan if run.duration_us is None else float(run.duration_us)
        self._key.append(row * 4 + outcome)
        self._ended.append(ended_us)
        self._duration.append(duration_us)
        if remember:
            self._remember(row, outcome, duration_us)
        if outcome == TRANSIENT:
            return row, outcome, ended_us, duration_us, 0.0
        weight, less = self.weight(ended_us), 0.0
        before = self.tried.get((row, run.context or run.instigated_context or ""))
        if before and outcome == FAILURE:
            less = self._penalty * min(weight, before)
            self._expected(row, ended_us, less)
        for context in {run.context, run.instigated_context}:
            if context:
                self.tried[row, context] = weight
        self._unforgive(row)
        if run.result_code == LACKING and run.relations:
            self.lacking[row] = run.relations, weight - less
        else:
            self.lacking.pop(row, None)
        if outcome == SUCCESS:
            self.succeeded.add(row)
        return row, outcome, ended_us, duration_us, less

    def rebuild(self) -> None:
        """All statistics anew out of the columns."""
        for level, group_of in (
            (self.series, None),
            (self.codebases, self.codebase_of),
            (self.campaigns, self.campaign_of),
        ):
            kernel.history(
                self._key, self._ended, self._duration, level.room, group_of=group_of,
                reference=self.reference_us, half_life=self.half_life_us, window=level.window,
                weights=level is not self.codebases, out=level.matrix,
            )  # fmt: skip
        for row, less in zip(self._less_row, self._less, strict=True):
            self._weigh_less(row, less)
        forgiven, self._forgiven = self._forgiven, {}
        for row in forgiven:
            self._forgive(row)

    def settle(self, satisfied: Callable[[Relations], bool]) -> None:
        """A failure for want of packages that are there now says nothing about the next run."""
        for row, (relations, _) in self.lacking.items():
            if row not in self._forgiven and satisfied(relations):
                self._forgive(row)
            elif row in self._forgiven and not satisfied(relations):
                self._unforgive(row)

    def waits(self, row: int) -> bool:
        """Whether its latest run lacked packages that are still not there."""
        return row in self.lacking and row not in self._forgiven

    def _forgive(self, row: int) -> None:
        before = self.series.at(F, row)
        self._forgiven[row] = before
        self.series.put(F, row, max(0.0, before - self.lacking[row][1]))

    def _unforgive(self, row: int) -> None:
        before = self._forgiven.pop(row, None)
        if before is not None:
            self.series.put(F, row, before)

    def rates(self, strength: float, now_us: float) -> tuple[array[float], float]:
        """Of each campaign the decayed rate of success, drawn toward that of all, and that one toward a half."""
        decay, level = self.decay(now_us), self.campaigns
        successes = [level.at(S, row) * decay for row in range(len(level.rows))]
        failures = [level.at(F, row) * decay for row in range(len(level.rows))]
        done, lost = math.fsum(successes), math.fsum(failures)
        overall = (strength * 0.5 + done) / (strength + done + lost)
        rates = [
            (strength * overall + s) / (strength + s + f) for s, f in zip(successes, failures, strict=True)
        ]
        return array("d", rates), overall


def _end_us(run: Run) -> int:
    """When it was over; of a run without an end, when it began."""
    ended_us = run.start_us if run.finish_us is None else run.finish_us
    assert ended_us is not None  # by the callers
    return ended_us
