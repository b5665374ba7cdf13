"""The history of runs: columns of numbers, and statistics that one more run changes in constant time.

Three levels are kept alike: series (a codebase in a campaign), codebases, campaigns. A stored run takes 24 bytes
of columns and at most 16 of recent durations at each level.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import compress
from typing import Any, NamedTuple

from mgmt import kernel
from mgmt.kernel.reference_history import FAILURE, FIELDS, SUCCESS, TRANSIENT, exp2, middle

from .outcomes import LACKING, outcome_of
from .records import Relations, RowError, Run
from .settings import Settings

S, F, Z, DONE, LOST, RUNS, STREAK, ENDED = 0, 1, 2, 3, 6, 9, 10, 11  # columns of a matrix of the kernel


class Columns(NamedTuple):
    """Runs in the order of their ends: `key` is 4 x the number of the series in `names` + outcome; times in us.

    `contexts`: of each run a number for its context in its series, and for that of what it was made for; 0: none.
    `tried`: (codebase, campaign, context, end) of the latest attempt in a context that was not transient;
    `lacking`: (codebase, campaign, relations, end) of series whose latest such run lacked packages; `succeeded`:
    numbers of the series that ever did. A history that adopts them must have no series but the first of `names`.
    """

    names: list[tuple[str, str]]
    key: array[int]
    ended: array[float]
    duration: array[float]
    tried: list[tuple[str, str, str, float]]
    lacking: list[tuple[str, str, Relations, float]]
    succeeded: list[int]
    contexts: tuple[array[int], array[int]]


def latest_of(columns: Columns) -> dict[tuple[str, str], tuple[int, float]]:
    """Of each series how many transient failures in a row its latest runs are, and when the latest ended."""
    rows = len(columns.names)
    found: Any = kernel.history(columns.key, columns.ended, columns.duration, rows, weights=False)
    view = memoryview(found)
    streaks, ends = (view[field * rows : (field + 1) * rows].tolist() for field in (STREAK, ENDED))
    return {
        name: (int(streak), ended_us)
        for name, streak, ended_us in zip(columns.names, streaks, ends, strict=True)
        if ended_us > -math.inf
    }


class Lacking(NamedTuple):
    """What a run lacked, what its failure weighs, and when it ended."""

    relations: Relations
    weight: float
    ended_us: float


class Level:
    """Statistics of rows by name. `matrix` holds 12 columns of `room` entries, of which the first are rows."""

    def __init__(self, window: int) -> None:
        self.rows: dict[Any, int] = {}
        self.room = 16
        self.window = window
        self.matrix = _empty(self.room)
        self._recent: dict[int, array[float]] = {}  # 2 * row + 1 for what was no success
        self._before: tuple[Sequence[int], Sequence[float]] = ((0,), ())  # of runs that came as columns

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

    def column(self, field: int) -> array[float]:
        return self.matrix[field * self.room : field * self.room + len(self.rows)]

    def put(self, field: int, row: int, value: float) -> None:
        self.matrix[field * self.room + row] = value

    def begin(self, before: tuple[Sequence[int], Sequence[float]]) -> None:
        """What `kernel.recent` says of the runs so far."""
        self._recent.clear()
        self._before = before

    def _latest(self, place: int) -> array[float]:
        """The oldest first."""
        recent = self._recent.get(place)
        if recent is None:
            starts, kept = self._before
            known = place < len(starts) - 1
            recent = array("d", reversed(kept[starts[place] : starts[place + 1]]) if known else ())
            self._recent[place] = recent
        return recent

    def add(self, row: int, outcome: int, weight: float, ended_us: float, duration_us: float) -> None:
        """One more run: what `kernel.history` would say of all of them."""
        self.put(ENDED, row, max(ended_us, self.at(ENDED, row)))
        if outcome == TRANSIENT:
            self.put(STREAK, row, self.at(STREAK, row) + 1)
            return
        self.put(STREAK, row, 0.0)
        self.put(RUNS, row, self.at(RUNS, row) + 1)
        self.put(outcome, row, self.at(outcome, row) + weight)
        lost = outcome != SUCCESS
        recent = self._latest(2 * row + lost)
        if not math.isnan(duration_us):
            recent.append(duration_us)
            if len(recent) > self.window:
                del recent[0]
        for i, value in enumerate(middle(recent)):
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
        self._less = array("d")  # what a run weighs less, because it was expected to fail
        self.tried: dict[tuple[int, str], float] = {}
        """(series, context) -> weight of the latest attempt there that was not transient."""
        self.lacking: dict[int, Lacking] = {}  # by series, of those whose latest run lacked packages
        self._forgiven: dict[int, float] = {}
        self.succeeded: set[int] = set()
        self._are_adopted = False  # there are runs of which no level has remembered the durations

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
        self._are_adopted = True
        self.rebuild()
        return faults

    def adopt(self, columns: Columns, reference_us: float) -> None:
        """Runs that are columns already, in place of all there were. Sums are those at `reference_us` then."""
        self.reference_us = float(reference_us)
        known = len(self.codebase_of)
        if list(self.series.rows) != columns.names[:known]:
            raise ValueError("the first series of the columns are not those of the history")
        for name in columns.names[known:]:
            self.row(*name)
        self._key, self._ended, self._duration = columns.key, columns.ended, columns.duration
        less: Any = kernel.repeats(
            self._key, self._ended, *columns.contexts,
            reference=self.reference_us, half_life=self.half_life_us, penalty=self._penalty,
        )  # fmt: skip
        self._less = array("d", memoryview(less).cast("B").tobytes())
        self.tried.clear()
        self.lacking.clear()
        self._forgiven.clear()
        for codebase, campaign, context, at_us in columns.tried:
            self.tried[self.row(codebase, campaign), context] = self.weight(at_us)
        latest = self._latest_failures(self.row(*one[:2]) for one in columns.lacking)
        for codebase, campaign, relations, at_us in columns.lacking:
            row = self.row(codebase, campaign)
            self.lacking[row] = Lacking(relations, self.weight(at_us) - self._less[latest[row]], at_us)
        self.succeeded = set(columns.succeeded)
        self._are_adopted = True
        self.rebuild()

    def _latest_failures(self, rows: Iterable[int]) -> dict[int, int]:
        """The number of the run, of each of these series."""
        wanted = bytearray(4 * len(self.names))
        for row in rows:
            wanted[4 * row + FAILURE] = 1
        found = kernel.members(self._key, wanted) if any(wanted) else ()
        return {self._key[i] >> 2: i for i in found}

    def expire(self, before_us: float) -> bool:
        """Forget runs that ended before; whether there were any. That a campaign has succeeded once is kept."""
        if not self._ended or min(self._ended) >= before_us:
            return False
        kept = [at_us >= before_us for at_us in self._ended]
        self._key = array("q", compress(self._key, kept))
        self._duration = array("d", compress(self._duration, kept))
        self._less = array("d", compress(self._less, kept))
        self._ended = array("d", compress(self._ended, kept))
        least = self.weight(before_us)
        self.tried = {name: weight for name, weight in self.tried.items() if weight >= least}
        for row in [row for row, one in self.lacking.items() if one.ended_us < before_us]:
            del self.lacking[row]
            self._forgiven.pop(row, None)
        self._are_adopted = True
        self.rebuild()
        return True

    def add(self, run: Run) -> int:
        """One more run, in constant time; its series. RowError for one without any time."""
        if run.finish_us is None and run.start_us is None:
            raise RowError("runs", len(self), "finish_time", "is missing, and start_time too")
        if self._are_adopted:
            self._remember()
        row, outcome, ended_us, duration_us, less = self._note(run)
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

    def _remember(self) -> None:
        """The latest durations, of runs that came many at once."""
        for level, group_of in self._levels():
            rows = len(level.rows)
            level.begin(kernel.recent(self._key, self._duration, rows, level.window, group_of=group_of))
        self._are_adopted = False

    def _levels(self) -> tuple[tuple[Level, array[int] | None], ...]:
        """With what a series is a row of."""
        return (self.series, None), (self.codebases, self.codebase_of), (self.campaigns, self.campaign_of)

    def _weigh_less(self, row: int, less: float) -> None:
        for level, at in ((self.series, row), (self.campaigns, self.campaign_of[row])):
            level.put(F, at, max(0.0, level.at(F, at) - less))

    def _note(self, run: Run) -> tuple[int, int, float, float, float]:
        """Its series, outcome, end and duration, and what it weighs less."""
        row, outcome, ended_us = self.row(run.codebase, run.campaign), outcome_of(run), float(_end_us(run))
        duration_us = math.nan if run.duration_us is None else float(run.duration_us)
        self._key.append(row * 4 + outcome)
        self._ended.append(ended_us)
        self._duration.append(duration_us)
        if outcome == TRANSIENT:
            self._less.append(0.0)
            return row, outcome, ended_us, duration_us, 0.0
        weight, less = self.weight(ended_us), 0.0
        before = self.tried.get((row, run.context or run.instigated_context or ""))
        if before and outcome == FAILURE:
            less = self._penalty * min(weight, before)
        self._less.append(less)
        for context in {run.context, run.instigated_context}:
            if context:
                self.tried[row, context] = weight
        self._unforgive(row)
        if run.result_code == LACKING and run.relations:
            self.lacking[row] = Lacking(run.relations, weight - less, ended_us)
        else:
            self.lacking.pop(row, None)
        if outcome == SUCCESS:
            self.succeeded.add(row)
        return row, outcome, ended_us, duration_us, less

    def rebuild(self) -> None:
        """All statistics anew out of the columns."""
        for level, group_of in self._levels():
            kernel.history(
                self._key, self._ended, self._duration, level.room, group_of=group_of,
                reference=self.reference_us, half_life=self.half_life_us, window=level.window,
                weights=level is not self.codebases, out=level.matrix,
            )  # fmt: skip
        # A tally of keys, all of one kind: failures are at 4 * series + FAILURE.
        cells = 4 * len(self.names)
        found: Any = kernel.tally(self._key, array("q", bytes(8 * len(self))), self._less, cells, 1)
        for row, less in enumerate(memoryview(found)[2 * cells : 3 * cells][FAILURE::4]):
            if less:
                self._weigh_less(row, less)
        forgiven, self._forgiven = self._forgiven, {}
        for row in forgiven:
            self._forgive(row)

    def settle(self, satisfied: Callable[[Relations], bool]) -> None:
        """A failure for want of packages that are there now says nothing about the next run."""
        for row, (relations, *_) in self.lacking.items():
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
        self.series.put(F, row, max(0.0, before - self.lacking[row].weight))

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
