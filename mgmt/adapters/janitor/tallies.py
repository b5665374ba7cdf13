"""What Janitor's own rules want to know of a history, as sums of columns: a `Past` of compat."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from operator import add
from typing import Any

from mgmt.adapters.janitor.columns import BAD_ROW
from mgmt.adapters.janitor.database import Database
from mgmt.core.candidates.columns import FINE, OLD, UNDATED, Runs
from mgmt.core.candidates.compat import Constants, Facts, Versions, are_satisfied
from mgmt.core.candidates.compat_queue import CompatError
from mgmt.core.candidates.outcomes import LACKING
from mgmt.core.candidates.records import EPOCH

# Those that lacked packages, as often as they lacked the same ones in the same contexts.
_LACKED = f"""
SELECT codebase, suite::text, (failure_details::json -> 'relations')::text, context, instigated_context, count(*)
FROM run WHERE result_code = '{LACKING}' AND failure_transient IS NOT TRUE
    AND failure_details::json ->> 'relations' IS NOT NULL AND NOT {BAD_ROW}
    AND coalesce(finish_time, start_time) >= %s::timestamptz AT TIME ZONE 'UTC'
GROUP BY 1, 2, 3, 4, 5
"""
Name = tuple[str, str]


class Tallies:
    """`runs` of a snapshot, within it. What is old, or before the window, is so at the time for which they were
    read, whatever time is asked about."""

    def __init__(
        self, database: Database, runs: Runs, versions: Versions, constants: Constants, now_us: int
    ) -> None:
        self.constants, since = constants, datetime.min.replace(tzinfo=UTC)
        if constants.window_us is not None:
            from_us = now_us - constants.window_us
            since = EPOCH + timedelta(microseconds=from_us)
            runs.leave_out(i for i, end_us in enumerate(runs.end) if not end_us >= from_us)
        kinds, series = runs.kinds, runs.series
        self._at = {name: i for i, name in enumerate(series)}
        counted = [k for k, kind in enumerate(kinds) if kind.flag == FINE]
        timed = [k for k, kind in enumerate(kinds) if kind.flag in (FINE, OLD, UNDATED)]
        counts, known, sums, _ = runs.per_series(runs.duration)
        n = len(kinds)
        self._total = _sum(counts, counted, n)
        self._known = _sum(known, counted, n)
        self._sum_us = _sum(sums, counted, n)
        self._success = _sum(counts, [k for k in counted if kinds[k].code == "success"], n)
        self._undated = _sum(counts, [k for k, kind in enumerate(kinds) if kind.flag == UNDATED], n)
        self._means: dict[tuple[str | None, str | None], list[int]] = {}
        for (codebase, campaign), count, sum_us in zip(
            series, _sum(known, timed, n), _sum(sums, timed, n), strict=True
        ):
            for key in ((codebase, campaign), (codebase, None), (None, campaign)):
                mean = self._means.setdefault(key, [0, 0])
                mean[0] += int(count)
                mean[1] += int(sum_us)
        self._same: dict[tuple[str, str, str], float] = {}
        for context_counts, *_ in runs.per_context(runs.duration):
            for name, count in zip(runs.contexts, _sum(context_counts, counted, n), strict=True):
                self._same[name] = self._same.get(name, 0) + count
        self._forgiven: dict[Name, int] = {}
        self._odd: dict[Name, str] = {}
        if any(kinds[k].code == LACKING for k in counted):
            self._forgive(database.rows_of(_LACKED, [since]), versions)

    def _forgive(self, rows: Iterable[tuple[Any, ...]], versions: Versions) -> None:
        """A failure for want of packages that are there now is a success, in no context."""
        known: dict[str, bool | str] = {}
        for codebase, campaign, text, *contexts, count in rows:
            if text not in known:
                relations = json.loads(text)
                try:
                    known[text] = bool(relations) and are_satisfied(relations, versions)
                except CompatError as error:
                    known[text] = str(error)
            found = known[text]
            if isinstance(found, str):
                self._odd[codebase, campaign] = found
            elif found:
                self._forgiven[codebase, campaign] = self._forgiven.get((codebase, campaign), 0) + count
                for context in contexts:
                    if (codebase, campaign, context) in self._same:
                        self._same[codebase, campaign, context] -= count

    def facts(self, codebase: str, campaign: str, context: str | None, now_us: int) -> Facts:
        name = codebase, campaign
        i = self._at.get(name)
        if i is None:
            return Facts(0, 0, 0.0, False)
        if self._undated[i]:
            raise CompatError("a worker failure has no start time")
        total = int(self._total[i])
        if self._known[i] < total:
            raise CompatError("a run has no duration")
        if name in self._odd:
            raise CompatError(self._odd[name])
        success = int(self._success[i]) + self._forgiven.get(name, 0)
        same = bool(context) and self._same.get((codebase, campaign, context or ""), 0) > 0
        return Facts(total, success, self._sum_us[i] / 1e6, same)

    def mean_us(self, codebase: str | None, campaign: str | None, now_us: int) -> int | None:
        count, sum_us = self._means.get((codebase, campaign), (0, 0))
        return round(Fraction(sum_us, count)) if count else None


def _sum(values: list[float], kinds: Iterable[int], n: int) -> list[float]:
    """Over these kinds, of `n`."""
    found = [0.0] * (len(values) // n if n else 0)
    for k in kinds:
        found = list(map(add, found, values[k::n]))
    return found
