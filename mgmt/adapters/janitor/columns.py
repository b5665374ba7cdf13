"""The runs of a Janitor as columns of numbers: a million of them in a fraction of a second.

The server sends each column of some thousand pages as one value, over several connections that see the same
moment. Here words become numbers, so that no run is ever an object. All runs are read each time: whatever was put
in late, changed or taken away since the last pass is as it is.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

from mgmt import kernel
from mgmt.adapters.janitor.database import STATEMENTS, Database, failures
from mgmt.core.candidates.history import Columns
from mgmt.core.candidates.outcomes import LACKING, outcome_of
from mgmt.core.candidates.records import EPOCH, Candidate, Relations, RowError, Run, run_of
from mgmt.kernel.reference_history import FAILURE, NOTHING, SUCCESS
from mgmt.protocol.errors import MgmtError

RANGE_PAGES = 2048  # of 8 KiB: a value that stays far below what one may be
CONNECTIONS = 3  # beside the one that reads the other tables: more than the server has CPUs for is nothing gained
BETWEEN = "\x1f"  # as kernel.words wants it
# What a row is, besides its result code.
FINE, BAD, TRANSIENT, UNDATED, OLD = "", "b", "t", "n", "o"
_INFINITE = (
    "coalesce(finish_time IN ('infinity', '-infinity') OR start_time IN ('infinity', '-infinity'), false)"
)
BAD_ROW = (
    f"({_INFINITE} OR coalesce(finish_time < start_time, false) OR codebase = '' OR suite = '' "
    "OR coalesce(json_typeof(failure_details::json) <> 'object', false))"
)
_FLAG = f"""CASE WHEN {BAD_ROW} THEN '{BAD}' WHEN failure_transient THEN '{TRANSIENT}'
    WHEN result_code <> 'worker-failure' THEN '{FINE}' WHEN start_time IS NULL THEN '{UNDATED}'
    WHEN start_time <= %s::timestamptz AT TIME ZONE 'UTC' - interval '1 day' THEN '{OLD}' ELSE '{FINE}' END"""


def _text(column: str) -> str:
    return f"textsend(coalesce(string_agg({column}, U&'\\001F'), ''))"


def _times(column: str) -> str:
    return f"coalesce(string_agg(timestamp_send(coalesce({column}::timestamp, '-infinity')), ''::bytea), '')"


_COLUMNS = ", ".join(
    ["count(*)", *map(_text, ("codebase", "suite::text", "result_code", _FLAG)),
     *map(_times, ("start_time", "finish_time"))]
)  # fmt: skip
_CONTEXTS = ", ".join(_text(f"coalesce({column}, '')") for column in ("context", "instigated_context"))
_EPOCH_US = 946_684_800_000_000.0  # times count from 2000


_LACKING = f"""
SELECT run.codebase, run.suite::text, run.failure_details
FROM unnest(%s::text[], %s::text[], %s::timestamptz[]) AS wanted (codebase, suite, at)
JOIN run ON run.codebase = wanted.codebase AND run.suite::text = wanted.suite
WHERE result_code = '{LACKING}' AND failure_transient IS NOT TRUE
    AND coalesce(finish_time, start_time)::timestamp = wanted.at AT TIME ZONE 'UTC'
"""


class Kind(NamedTuple):
    code: str
    flag: str


@dataclass
class Runs:
    """`series`: (codebase, campaign) of the numbers in `of`; `kinds` of those in `kind`. Times in us since 1970,
    NaN where they are not known. `contexts`: (codebase, campaign, context) -> number in `tried`, whose two columns
    have -1 for contexts of no candidate."""

    series: list[tuple[str, str]] = field(default_factory=list)
    kinds: list[Kind] = field(default_factory=list)
    of: array[int] = field(default_factory=lambda: array("q"))
    kind: array[int] = field(default_factory=lambda: array("q"))
    end: array[float] = field(default_factory=lambda: array("d"))
    duration: array[float] = field(default_factory=lambda: array("d"))
    contexts: dict[tuple[str, str, str], int] = field(default_factory=dict)
    tried: tuple[array[int], array[int]] = field(default_factory=lambda: (array("q"), array("q")))

    def per_series(self, value: Sequence[float]) -> tuple[list[float], ...]:
        """Entries, known values, their sum and the greatest, of series * len(kinds) + kind."""
        return _parts(kernel.tally(self.of, self.kind, value, len(self.series), len(self.kinds)))

    def per_context(self, value: Sequence[float]) -> Iterator[tuple[list[float], ...]]:
        """The same of contexts, of each of the two columns."""
        for column in self.tried if self.contexts else ():
            yield _parts(kernel.tally(column, self.kind, value, len(self.contexts), len(self.kinds)))


def _parts(found: Sequence[float]) -> tuple[list[float], ...]:
    view, n = memoryview(found).tolist(), len(found) // 4  # type: ignore[arg-type]  # a buffer, in C and in Python
    return tuple(view[i * n : (i + 1) * n] for i in range(4))


class Reading:
    """All runs of a snapshot, on their way while the other tables are read; within the snapshot. `close` it."""

    def __init__(self, database: Database, now_us: int) -> None:
        self._database = database
        self._moment = EPOCH + timedelta(microseconds=now_us)
        any_context = database.binary_row("SELECT EXISTS (SELECT FROM candidate WHERE context <> '')")[0]
        self._columns = _COLUMNS + (f", {_CONTEXTS}" if any_context else "")
        self._ranges = list(_ranges(database.pages("run")))
        self._idle: list[Database | None] = []
        self._pool = None
        self._coming: list[Future[tuple[Any, ...] | None]] = []
        if len(self._ranges) > 1:
            self._snapshot = database.export()
            self._pool = ThreadPoolExecutor(CONNECTIONS)
            self._coming = [self._pool.submit(self._beside, pages) for pages in self._ranges]

    def _beside(self, pages: str) -> tuple[Any, ...] | None:
        """What is in these pages, over a connection of this thread's own; None: the server has none for us."""
        try:
            other = self._idle.pop()  # at once or not at all, by whatever thread
        except IndexError:
            other = _another(self._database.url, self._snapshot)
        found = None if other is None else self._read(other, pages)
        self._idle.append(other)
        return found

    def _read(self, database: Database, pages: str) -> tuple[Any, ...]:
        with failures("the table run cannot be read"):
            return database.binary_row(f"SELECT {self._columns} FROM run {pages}", [self._moment])

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        for one in self._idle:
            if one is not None:
                one.close()
        self._idle.clear()

    def runs(
        self, candidates: Iterable[Candidate], faults: list[RowError], series: Iterable[tuple[str, str]] = ()
    ) -> Runs:
        """What came. Rows that cannot be used are added to `faults`, and are of a kind with the flag BAD. Series are
        numbered from those that are given."""
        runs = Runs()
        for one in candidates:
            if one.context:
                runs.contexts.setdefault((one.codebase, one.campaign, one.context), len(runs.contexts))
        known = [BETWEEN.join(key).encode() for key in runs.contexts]
        names, kinds = [BETWEEN.join(name).encode() for name in series], list[bytes]()
        for parts in self._parts():
            n, codebases, campaigns, codes, flags, began, ended, *contexts = parts
            ids, names = kernel.words([codebases, campaigns], n, known=names)
            _extend(runs.of, ids)
            ids, kinds = kernel.words([codes, flags], n, known=kinds)
            _extend(runs.kind, ids)
            end, duration = kernel.run_times(_numbers(began), _numbers(ended), epoch=_EPOCH_US)
            _extend(runs.end, end)
            _extend(runs.duration, duration)
            for column, words in zip(runs.tried, contexts, strict=False):
                if len(words) == n - 1:  # all are empty
                    column.extend(array("q", [-1]) * n)
                    continue
                ids, _ = kernel.words([codebases, campaigns, words], n, known=known, grow=False)
                _extend(column, ids)
        runs.series = [(a, b) for a, b in (one.decode().split(BETWEEN) for one in names)]
        runs.kinds = [Kind(*one.decode().split(BETWEEN)) for one in kinds]
        if any(one.flag == BAD for one in runs.kinds):
            faults += _faults(self._database, BAD_ROW)
        return runs

    def _parts(self) -> Iterator[tuple[Any, ...]]:
        for i, pages in enumerate(self._ranges):
            found = self._coming[i].result() if self._coming else None
            if self._coming:
                self._coming[i] = Future()  # nobody keeps what was taken
            yield self._read(self._database, pages) if found is None else found


def _faults(database: Database, which: str) -> Iterator[RowError]:
    """The reasons of rows that are left out."""
    _, statement = STATEMENTS["runs"]
    for row in database.dicts(f"SELECT * FROM ({statement}) AS run WHERE {which} AND NOT {_INFINITE}"):
        try:
            run_of(row["id"], row)
        except RowError as fault:
            yield fault
        else:
            yield RowError("runs", row["id"], "finish_time", "is missing, and start_time too")
    for row in database.dicts(f"SELECT id FROM run WHERE {which} AND {_INFINITE}"):
        yield RowError("runs", row["id"], "finish_time", "or start_time is infinite")


def undated(database: Database) -> Iterator[RowError]:
    """Runs of which nobody knows when they were."""
    return _faults(database, "start_time IS NULL AND finish_time IS NULL")


def _another(url: str, snapshot: str) -> Database | None:
    try:
        return Database(url).joined(snapshot)
    except MgmtError:
        return None


def _ranges(pages: int) -> Iterator[str]:
    """Conditions that each row meets one of. A table without pages of its own may have partitions."""
    if pages <= RANGE_PAGES:
        yield ""
        return
    for first in range(0, pages, RANGE_PAGES):
        last = first + RANGE_PAGES
        until = f" AND ctid < '({last},0)'" if last < pages else ""
        yield f"WHERE ctid >= '({first},0)'{until}"


def _extend(column: Any, values: Sequence[float]) -> None:
    column.frombytes(memoryview(values).cast("B"))  # type: ignore[arg-type]  # a buffer, in C and in Python


def _numbers(column: bytes) -> array[int]:
    found = array("q", column)
    if sys.byteorder == "little":
        found.byteswap()
    return found


# ---- for the default policy ------------------------------------------------------------------------------


def outcomes(runs: Runs) -> list[int]:
    """Of each kind; -1 for rows that cannot be used."""
    found = []
    for code, flag in runs.kinds:
        run = Run("", "", code, failure_transient=flag == TRANSIENT)
        found.append(-1 if flag == BAD else outcome_of(run))
    return found


def as_columns(database: Database, runs: Runs, faults: list[RowError]) -> Columns:
    """As a history adopts them, within the snapshot; runs without any time are added to `faults`."""
    outcome = outcomes(runs)
    counts, _, _, latest = runs.per_series(runs.end)
    key, ended, duration = kernel.by_end(runs.of, runs.kind, outcome, runs.end, runs.duration)
    n = len(runs.kinds)
    if len(key) < sum(sum(counts[k::n]) for k in range(n) if outcome[k] >= 0):
        faults += undated(database)
    won = [k for k in range(n) if outcome[k] == SUCCESS]
    succeeded = {i for k in won for i, count in enumerate(counts[k::n]) if count}
    tried = list[tuple[str, str, str, float]]()
    told = [k for k in range(n) if outcome[k] in (SUCCESS, FAILURE, NOTHING)]
    most = [-math.inf] * len(runs.contexts)
    for _, _, _, ends in runs.per_context(runs.end):
        for k in told:
            most = list(map(max, most, ends[k::n]))
    for name, at_us in zip(runs.contexts, most, strict=True):
        if at_us > -math.inf:
            tried.append((*name, at_us))
    found = array("q"), array("d"), array("d")
    for column, values in zip(found, (key, ended, duration), strict=True):
        _extend(column, values)
    return Columns(runs.series, *found, tried, _lacking(database, runs, latest, told), sorted(succeeded))


def _lacking(
    database: Database, runs: Runs, latest: list[float], told: list[int]
) -> list[tuple[str, str, Relations, float]]:
    """Series whose latest run that was not transient lacked packages, and what it lacked."""
    n = len(runs.kinds)
    own = [k for k in told if runs.kinds[k].code == LACKING]
    wanted = {}
    for i, name in enumerate(runs.series) if own else ():
        at_us = max(latest[i * n + k] for k in told)
        if at_us > -math.inf and at_us == max(latest[i * n + k] for k in own):
            wanted[name] = at_us
    found = []
    if wanted:
        ends = [EPOCH + timedelta(microseconds=at_us) for at_us in wanted.values()]
        names = [list(column) for column in zip(*wanted, strict=True)]
        for codebase, campaign, details in database.rows_of(_LACKING, [*names, ends]):
            if details and details.get("relations"):
                found.append((codebase, campaign, details["relations"], wanted[codebase, campaign]))
    return found
