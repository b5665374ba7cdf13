"""What Janitor's own rules want to know of a history, as sums of columns: a `Past` of compat.

One run more changes them in constant time. A window of history would change them with each moment: there is none.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from operator import add
from typing import NamedTuple

from .columns import FINE, OLD, UNDATED, YOUNG, Runs
from .compat import WORKER_FAILURE, Constants, Facts, Versions, are_satisfied, is_ignored
from .compat_queue import CompatError
from .outcomes import LACKING
from .records import Relations, Run

Name = tuple[str, str]


class Lacked(NamedTuple):
    """`runs` that were not transient and lacked the same packages in the same contexts."""

    codebase: str
    campaign: str
    relations: Relations
    contexts: tuple[str | None, str | None]
    runs: int = 1


class Tallies:
    """What is OLD in `runs` stays so. `young`: those of the kind YOUNG; `lacked`: of all."""

    def __init__(
        self,
        runs: Runs,
        versions: Versions,
        constants: Constants,
        lacked: Iterable[Lacked],
        young: Iterable[Run] = (),
    ) -> None:
        self.constants, self._versions = constants, versions
        kinds, series = runs.kinds, runs.series
        self._at = {name: i for i, name in enumerate(series)}
        counted = [k for k, kind in enumerate(kinds) if kind.flag == FINE]
        timed = [k for k, kind in enumerate(kinds) if kind.flag in (FINE, OLD, UNDATED, YOUNG)]
        counts, known, sums, _ = runs.per_series(runs.duration)
        n = len(kinds)
        self._total = _sum(counts, counted, n)
        self._known = _sum(known, counted, n)
        self._sum_us = _sum(sums, counted, n)
        self._success = _sum(counts, [k for k in counted if kinds[k].code == "success"], n)
        self._undated = _sum(counts, [k for k, kind in enumerate(kinds) if kind.flag == UNDATED], n)
        self._means: dict[tuple[str | None, str | None], list[int]] = {}
        for name, count, sum_us in zip(series, _sum(known, timed, n), _sum(sums, timed, n), strict=True):
            self._note_mean(*name, int(count), int(sum_us))
        self._same: dict[tuple[str, str, str], float] = {}
        for context_counts, *_ in runs.per_context(runs.duration):
            for context, count in zip(runs.contexts, _sum(context_counts, counted, n), strict=True):
                self._same[context] = self._same.get(context, 0) + count
        self._forgiven: dict[Name, int] = {}
        self._odd: dict[Name, str] = {}
        self._young: dict[Name, list[Run]] = {}
        for run in young:
            self._young.setdefault((run.codebase, run.campaign), []).append(run)
        for one in lacked:
            self._forgive(one)

    def _note_mean(self, codebase: str, campaign: str, count: int, sum_us: int) -> None:
        for key in ((codebase, campaign), (codebase, None), (None, campaign)):
            mean = self._means.setdefault(key, [0, 0])
            mean[0] += count
            mean[1] += sum_us

    def _forgive(self, one: Lacked) -> None:
        """A failure for want of packages that are there now is a success, in no context."""
        name = one.codebase, one.campaign
        try:
            forgiven = bool(one.relations) and are_satisfied(one.relations, self._versions)
        except CompatError as error:
            self._odd[name] = str(error)
            return
        if forgiven:
            self._forgiven[name] = self._forgiven.get(name, 0) + one.runs
            for context in one.contexts:
                if (*name, context) in self._same:
                    self._same[*name, context or ""] -= one.runs

    def add(self, run: Run) -> None:
        if run.failure_transient is True:
            return
        name, us = (run.codebase, run.campaign), run.duration_us
        if us is not None:
            self._note_mean(*name, 1, us)
        if run.result_code == WORKER_FAILURE:
            self._young.setdefault(name, []).append(run)
            return
        i = self._at.setdefault(name, len(self._total))
        if i == len(self._total):
            for column in (self._total, self._known, self._sum_us, self._success, self._undated):
                column.append(0.0)
        self._total[i] += 1
        self._success[i] += run.result_code == "success"
        if us is not None:
            self._known[i] += 1
            self._sum_us[i] += us
        contexts = run.context, run.instigated_context
        for context in contexts:
            if context:
                self._same[*name, context] = self._same.get((*name, context), 0) + 1
        if run.result_code == LACKING and run.relations:
            self._forgive(Lacked(*name, run.relations, contexts))

    def facts(self, codebase: str, campaign: str, context: str | None, now_us: int) -> Facts:
        name, total, success, sum_us, known = (codebase, campaign), 0, 0, 0.0, 0
        i = self._at.get(name)
        if i is not None:
            if self._undated[i]:
                raise CompatError("a worker failure has no start time")
            total, success, known = int(self._total[i]), int(self._success[i]), int(self._known[i])
            sum_us = self._sum_us[i]
        same = bool(context) and self._same.get((codebase, campaign, context or ""), 0) > 0
        for run in self._young.get(name, ()):
            if not is_ignored(run, now_us, self.constants.ignore_worker_failures_us):
                total += 1
                known += run.duration_us is not None
                sum_us += run.duration_us or 0
                same = same or (bool(context) and context in (run.context, run.instigated_context))
        if known < total:
            raise CompatError("a run has no duration")
        if name in self._odd:
            raise CompatError(self._odd[name])
        return Facts(total, success + self._forgiven.get(name, 0), sum_us / 1e6, same)

    def mean_us(self, codebase: str | None, campaign: str | None, now_us: int) -> int | None:
        count, sum_us = self._means.get((codebase, campaign), (0, 0))
        return round(Fraction(sum_us, count)) if count else None


def _sum(values: list[float], kinds: Iterable[int], n: int) -> list[float]:
    """Over these kinds, of `n`."""
    found = [0.0] * (len(values) // n if n else 0)
    for k in kinds:
        found = list(map(add, found, values[k::n]))
    return found
