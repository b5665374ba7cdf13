"""The runs of a Janitor as columns of numbers: a million of them in a fraction of a second.

The server sends each column of some thousand pages as one value, over several connections that see the same
moment. Here words become numbers, so that no run is ever an object. All runs are read each time: whatever was put
in late, changed or taken away since the last pass is as it is.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from typing import Any

from mgmt import kernel
from mgmt.adapters.janitor.database import STATEMENTS, Database, failures
from mgmt.core.candidates.columns import BAD, BETWEEN, FINE, OLD, TRANSIENT, UNDATED, Part, Runs, columns_of
from mgmt.core.candidates.history import Columns
from mgmt.core.candidates.outcomes import LACKING
from mgmt.core.candidates.records import DAY_US, EPOCH, Candidate, Relations, RowError, run_of

RANGE_PAGES = 2048  # of 8 KiB: a value that stays far below what one may be
CONNECTIONS = (
    3  # beside the one that reads the other tables: more than the server has CPUs for is nothing gained
)
FEW = 0.05  # of all series: these are looked up by an index, where there is one
_NAMES = ("codebase", "suite", "result_code", "context", "instigated_context")
# Such a row cannot come in a column. To look for it in all rows takes long: it is noticed when it came.
ODD_ROW = f"strpos(concat({', '.join(_NAMES)}), U&'\\001F') > 0"
_INFINITE = (
    "coalesce(finish_time IN ('infinity', '-infinity') OR start_time IN ('infinity', '-infinity'), false)"
)
BAD_ROW = (
    f"({_INFINITE} OR coalesce(finish_time < start_time, false) OR codebase = '' OR suite = '' "
    "OR coalesce(json_typeof(failure_details::json) <> 'object', false))"
)
_FLAG = f"""CASE WHEN {BAD_ROW} THEN '{BAD}' WHEN failure_transient THEN '{TRANSIENT}'
    WHEN result_code <> 'worker-failure' THEN '{FINE}' WHEN start_time IS NULL THEN '{UNDATED}'
    WHEN start_time <= %s::timestamptz AT TIME ZONE 'UTC' THEN '{OLD}' ELSE '{FINE}' END"""


def _text(column: str) -> str:
    return f"textsend(coalesce(string_agg({column}, U&'\\001F'), ''))"


def _times(column: str) -> str:
    return f"coalesce(string_agg(timestamp_send(coalesce({column}::timestamp, '-infinity')), ''::bytea), '')"


_COLUMNS = ", ".join(
    ["count(*)", *map(_text, ("codebase", "suite::text", "result_code", _FLAG)),
     *map(_times, ("start_time", "finish_time")),
     *(_text(f"coalesce({column}, '')") for column in ("context", "instigated_context"))]
)  # fmt: skip
_EPOCH_US = 946_684_800_000_000.0  # times count from 2000


_LACKING = f"""
SELECT run.codebase, run.suite::text, run.failure_details
FROM unnest(%s::text[], %s::text[], %s::timestamptz[]) AS wanted (codebase, suite, at)
JOIN run ON run.codebase = wanted.codebase AND run.suite::text = wanted.suite
WHERE result_code = '{LACKING}' AND failure_transient IS NOT TRUE
    AND coalesce(finish_time, start_time)::timestamp = wanted.at AT TIME ZONE 'UTC'
"""


class Scan:
    """`columns` of all runs of a snapshot, on their way while others are read; within the snapshot. `close` it."""

    def __init__(self, database: Database, columns: str, parameter: Any) -> None:
        self._database, self._columns, self._parameter = database, columns, parameter
        self._ranges = list(_ranges(database.pages("run")))
        self._idle: list[Database | None] = []
        self._pool = None
        self._coming: list[Future[tuple[Any, ...] | None]] = []
        if len(self._ranges) > 1:
            self._snapshot = database.export()
            self._pool = ThreadPoolExecutor(CONNECTIONS)
            self._coming = [self._pool.submit(self._beside, pages) for pages in self._ranges]

    def _beside(self, pages: str) -> tuple[Any, ...] | None:
        """What is in these pages, over another connection; None: there is none for us."""
        try:
            other = self._idle.pop()  # at once or not at all, by whatever thread
        except IndexError:
            other = self._database.another(self._snapshot)
        found = None if other is None else self.read(other, pages)
        self._idle.append(other)
        return found

    def read(self, database: Database, pages: str) -> tuple[Any, ...]:
        with failures("the table run cannot be read"):
            return database.binary_row(f"SELECT {self._columns} FROM run {pages}", [self._parameter])

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        while self._idle:
            other = self._idle.pop()
            if other is not None:
                self._database.take_back(other)

    def parts(self) -> Iterator[tuple[tuple[Any, ...], str]]:
        """One of each range, in their order, with what the range is."""
        for i, pages in enumerate(self._ranges):
            found = self._coming[i].result() if self._coming else None
            if self._coming:
                self._coming[i] = Future()  # nobody keeps what was taken
            yield self.read(self._database, pages) if found is None else found, pages


class Reading:
    """All runs of a snapshot; like a scan. OLD are worker failures that began `ignored_us` ago or earlier."""

    def __init__(self, database: Database, now_us: int, ignored_us: int = DAY_US) -> None:
        self._database = database
        self._scan = Scan(database, _COLUMNS, EPOCH + timedelta(microseconds=now_us - ignored_us))

    def close(self) -> None:
        self._scan.close()

    def runs(
        self, candidates: Iterable[Candidate], faults: list[RowError], series: Iterable[tuple[str, str]] = ()
    ) -> Runs:
        """What came. Rows that cannot be used are added to `faults`, and are of a kind with the flag BAD. Series
        are numbered from those that are given."""
        runs = Runs.of_candidates(candidates, series)
        odd = False
        for row, pages in self._scan.parts():
            if not _put(runs, row):
                odd = True
                _put(
                    runs,
                    self._scan.read(self._database, f"{pages} {'AND' if pages else 'WHERE'} NOT {ODD_ROW}"),
                )
        faults += bad_rows(self._database, runs)
        faults += _odd_rows(self._database) if odd else []
        return runs


def read_again(
    database: Database, runs: Runs, changed: Collection[tuple[str, str]], now_us: int
) -> int | None:
    """The runs of these series in place of those that `runs` has; how many more there are, within the snapshot.
    None: there is one among them that cannot come like that."""
    numbers = {name: i for i, name in enumerate(runs.series)}
    wanted = bytearray(len(numbers))
    for name in changed:
        if name in numbers:
            wanted[numbers[name]] = 1
    before = len(runs.of)
    old = runs.leave_out(kernel.members(runs.of, wanted))
    statement = (
        f"SELECT {_COLUMNS} FROM unnest(%s::text[], %s::text[]) AS wanted (c, s) "
        "JOIN run ON run.codebase = c AND run.suite::text = s"
    )
    moment = EPOCH + timedelta(microseconds=now_us - DAY_US)
    # The planner takes what is in memory for what is on a disk, and would rather read all.
    with database.without_scans() if len(changed) < FEW * len(numbers) else nullcontext():
        row = database.binary_row(statement, [moment, *map(list, zip(*changed, strict=True))])
    return len(runs.of) - before - old if _put(runs, row) else None


def _put(runs: Runs, row: tuple[Any, ...]) -> bool:
    """False, with nothing changed: there is an ODD_ROW in it."""
    n, codebases, campaigns, codes, flags, began, ended, *contexts = row
    part = Part(n, codebases, campaigns, codes, flags, _numbers(began), _numbers(ended), tuple(contexts))
    try:
        runs.extend(part, _EPOCH_US)
    except ValueError:
        return False
    return True


def _odd_rows(database: Database) -> Iterator[RowError]:
    for id, *words in database.rows_of(f"SELECT id, {', '.join(_NAMES)} FROM run WHERE {ODD_ROW}"):
        column = next(name for name, word in zip(_NAMES, words, strict=True) if BETWEEN in (word or ""))
        yield RowError("runs", id, column, "has the character U+001F, which names have not")


def bad_rows(database: Database, runs: Runs) -> list[RowError]:
    """The reasons of those that are BAD."""
    return list(_faults(database, BAD_ROW)) if any(one.flag == BAD for one in runs.kinds) else []


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


def _ranges(pages: int) -> Iterator[str]:
    """Conditions that each row meets one of. A table without pages of its own may have partitions."""
    if pages <= RANGE_PAGES:
        yield ""
        return
    for first in range(0, pages, RANGE_PAGES):
        last = first + RANGE_PAGES
        until = f" AND ctid < '({last},0)'" if last < pages else ""
        yield f"WHERE ctid >= '({first},0)'{until}"


def _numbers(column: bytes) -> array[int]:
    found = array("q", column)
    if sys.byteorder == "little":
        found.byteswap()
    return found


def as_columns(database: Database, runs: Runs, faults: list[RowError]) -> Columns:
    """As a history adopts them, within the snapshot; runs without any time are added to `faults`."""
    found, left_out = columns_of(runs, partial(_lacked, database))
    if left_out:
        faults += undated(database)
    return found


def _lacked(database: Database, wanted: dict[tuple[str, str], float]) -> Iterator[tuple[str, str, Relations]]:
    ends = [EPOCH + timedelta(microseconds=at_us) for at_us in wanted.values()]
    names = [list(column) for column in zip(*wanted, strict=True)]
    for codebase, campaign, details in database.rows_of(_LACKING, [*names, ends]):
        yield codebase, campaign, details.get("relations") if details else ()
