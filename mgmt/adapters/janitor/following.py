"""Passes one after the other: what a pass has read is kept, and the next reads what has changed since.

Every change of a row is a new version of it, which carries the number of the transaction that made it. So runs
that were put in, however late, and runs that were changed are those whose number is not below that of the oldest
transaction that was under way when the runs were read before; and when something was taken away, the table has
fewer rows than are known. All of that is one scan without output. It holds while the connection lasts.
"""

from __future__ import annotations

from contextlib import closing
from typing import NamedTuple

from mgmt.adapters.janitor.columns import Reading, Scan, as_columns, bad_rows, read_again
from mgmt.adapters.janitor.database import Database, Tables, world_in
from mgmt.core.candidates.columns import BETWEEN, Runs
from mgmt.core.candidates.records import RowError
from mgmt.core.candidates.scoring import Scorer
from mgmt.core.candidates.settings import Settings

MOST_CHANGED = 2000  # series; above that all is read
MOST_GONE = 0.25  # of the runs that are kept
ODD = "", ""  # of a row whose names cannot come
_HALF = 1 << 31  # numbers of transactions are compared within half of their circle
_CHANGED = (
    "count(*), coalesce(string_agg(CASE WHEN age(xmin) BETWEEN 0 AND (SELECT age(%s::xid)) "
    "THEN CASE WHEN strpos(concat(codebase, suite), U&'\\001F') = 0 THEN codebase || U&'\\001F' || suite::text "
    "ELSE U&'\\001F' END END, U&'\\001F'), '')"
)
_MARK = "SELECT 'run'::regclass::oid::bigint, txid_snapshot_xmin(txid_current_snapshot())"


class Mark(NamedTuple):
    """Which table it is, and the oldest transaction that was under way."""

    table: int
    oldest: int


class Follower:
    """What was read over a connection. Not used by a pass that fails: make a new one then."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database, self._settings = database, settings
        self._mark: Mark | None = None
        self._tables: Tables | None = None
        self._runs = Runs()
        self._rows = 0
        self._scorer: Scorer | None = None
        self._faults: tuple[list[RowError], list[RowError]] = [], []  # of the tables, and of the runs

    def scorer(self, now_us: int) -> tuple[Scorer, list[RowError]]:
        """Of this moment, within a snapshot, with the rows that were left out."""
        if not self._settings.parts.are_columns_enough:
            return self._one_by_one(now_us)
        mark, before = Mark(*self.database.binary_row(_MARK)), self._mark
        self._mark = None  # until this one is through
        if before is None or before.table != mark.table or mark.oldest - before.oldest >= _HALF:
            scorer = self._all(now_us)
        else:
            scorer = self._again(before, now_us) or self._all(now_us)
        self._mark, self._scorer = mark, scorer
        return scorer, [*self._faults[0], *self._faults[1], *scorer.faults]

    def _one_by_one(self, now_us: int) -> tuple[Scorer, list[RowError]]:
        """For rules that look at each run as it is; nothing is kept."""
        world, faults = self.database.world()
        world.runs = list(self.database.runs(faults))
        scorer = Scorer(world, self._settings, now_us)
        return scorer, [*faults, *scorer.faults]

    def _all(self, now_us: int) -> Scorer:
        with closing(Reading(self.database, now_us)) as reading:
            self._tables = self.database.tables()
            world, faults = world_in(self._tables)
            scorer, bad = Scorer(world, self._settings, now_us), list[RowError]()
            self._runs = reading.runs(world.candidates, bad, scorer.history.series.rows)
        scorer.begin(as_columns(self.database, self._runs, bad), now_us)
        self._rows, self._faults = len(self._runs.of), (faults, bad)
        return scorer

    def _again(self, before: Mark, now_us: int) -> Scorer | None:
        """None: so much has changed that all is to be read."""
        with closing(Scan(self.database, _CHANGED, str(before.oldest % (2 * _HALF)))) as scan:
            if self.database.tables() != self._tables:
                return None
            count, changed = 0, set[tuple[str, str]]()
            for (rows, words), _ in scan.parts():
                count += rows
                names = words.split(BETWEEN) if words else []
                changed |= set(zip(names[::2], names[1::2], strict=False))
        assert self._scorer is not None  # there was a pass before
        gone = len(self._runs.of) - self._rows
        if ODD in changed or len(changed) > MOST_CHANGED or gone > MOST_GONE * len(self._runs.of):
            return None
        if changed:
            more = read_again(self.database, self._runs, changed, now_us)
            if more is None:
                return None
            self._rows += more
        if self._rows != count:
            return None  # something was taken away, or has another name now
        if changed:
            bad = bad_rows(self.database, self._runs)
            self._scorer.begin(as_columns(self.database, self._runs, bad), now_us)
            self._faults = self._faults[0], bad
        return self._scorer
