"""Runs as columns of numbers, without an object for any of them.

What stores them hands them out in parts: of each column the words or the times of some thousand runs.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mgmt import kernel
from mgmt.kernel.reference_history import FAILURE, NOTHING, SUCCESS

from .history import Columns
from .outcomes import LACKING, outcome_of
from .records import Candidate, Relations, Run

BETWEEN = "\x1f"  # as kernel.words wants it
NO_TIME = -(1 << 63)
# What a row is, besides its result code. BAD: it cannot be used; GONE: it is not there any more; OLD, UNDATED and
# YOUNG: of a worker failure.
FINE, BAD, GONE, TRANSIENT, UNDATED, OLD, YOUNG = "", "b", "g", "t", "n", "o", "y"
Lacked = Callable[[dict[tuple[str, str], float]], Iterable[tuple[str, str, Relations]]]
"""(codebase, campaign) -> the end in us of a run that lacked packages; to these, and what it lacked."""


class Part(NamedTuple):
    """`n` runs: words with BETWEEN between them, times in us. `contexts`: none, or (context, instigated)."""

    n: int
    codebases: bytes
    campaigns: bytes
    codes: bytes
    flags: bytes
    began: array[int]
    ended: array[int]
    contexts: tuple[bytes, ...] = ()


def joined(parts: Sequence[Part]) -> Part:
    """One after the other; all with contexts, or none of them."""
    if len(parts) == 1:
        return parts[0]
    codebases, campaigns, codes, flags, began, ended, contexts = list(zip(*parts, strict=True))[1:]
    between = BETWEEN.encode()
    return Part(
        sum(part.n for part in parts), between.join(codebases), between.join(campaigns), between.join(codes),
        between.join(flags), array("q", b"".join(began)), array("q", b"".join(ended)),
        tuple(between.join(column) for column in zip(*contexts, strict=True)),
    )  # fmt: skip


def part_of(runs: Sequence[Run]) -> Part | None:
    """None where a word has BETWEEN in it."""
    columns = [
        [run.codebase for run in runs], [run.campaign for run in runs], [run.result_code for run in runs],
        [TRANSIENT if run.failure_transient else FINE for run in runs],
        [run.context or "" for run in runs], [run.instigated_context or "" for run in runs],
    ]  # fmt: skip
    words = [BETWEEN.join(column).encode() for column in columns]
    if any(column.count(BETWEEN.encode()) != len(runs) - 1 for column in words):
        return None
    times = [
        array("q", [NO_TIME if us is None else us for us in column])
        for column in ([run.start_us for run in runs], [run.finish_us for run in runs])
    ]
    return Part(len(runs), words[0], words[1], words[2], words[3], times[0], times[1], (words[4], words[5]))


class Kind(NamedTuple):
    code: str
    flag: str


@dataclass
class Runs:
    """`names`: words of the series that `of` numbers; `kinds` of those in `kind`. Times in us since 1970, NaN
    where they are not known. `tried`: of each run a number for its context in its series, and for that of what it
    was made for, 0 for none. `contexts`: (codebase, campaign, context) of candidates -> place in `per_context`."""

    names: list[bytes] = field(default_factory=list)
    kind_names: list[bytes] = field(default_factory=list)
    of: array[int] = field(default_factory=lambda: array("q"))
    kind: array[int] = field(default_factory=lambda: array("q"))
    end: array[float] = field(default_factory=lambda: array("d"))
    duration: array[float] = field(default_factory=lambda: array("d"))
    given: list[tuple[str, str]] = field(default_factory=list)  # the first of the series, of any names
    contexts: dict[tuple[str, str, str], int] = field(default_factory=dict)
    tried: tuple[array[int], array[int]] = field(default_factory=lambda: (array("q"), array("q")))

    @classmethod
    def of_candidates(cls, candidates: Iterable[Candidate], series: Iterable[tuple[str, str]] = ()) -> Runs:
        """None so far. Series are numbered from those that are given."""
        given = list(series)
        runs = cls([BETWEEN.join(name).encode() for name in given], given=given)
        for one in candidates:
            if one.context and BETWEEN not in one.codebase + one.campaign + one.context:
                runs.contexts.setdefault((one.codebase, one.campaign, one.context), len(runs.contexts))
        return runs

    def extend(self, part: Part, epoch_us: float = 0.0) -> None:
        """ValueError where a word has BETWEEN in it, with nothing changed. Times count from `epoch_us`."""
        of, names = kernel.words([part.codebases, part.campaigns], part.n, known=self.names)
        kind, kind_names = kernel.words([part.codes, part.flags], part.n, known=self.kind_names)
        contexts = [
            kernel.hashes([part.codebases, part.campaigns, words], part.n)
            if len(words) >= part.n
            else bytes(8 * part.n)  # all are empty
            for words in part.contexts or (b"", b"")
        ]
        times = kernel.run_times(part.began, part.ended, epoch=epoch_us)
        self.names, self.kind_names = names, kind_names
        columns = self.of, self.kind, self.end, self.duration, *self.tried
        for column, values in zip(columns, (of, kind, *times, *contexts), strict=True):
            _extend(column, values)

    @property
    def series(self) -> list[tuple[str, str]]:
        rest = (one.decode().split(BETWEEN) for one in self.names[len(self.given) :])
        return [*self.given, *((codebase, campaign) for codebase, campaign in rest)]

    @property
    def kinds(self) -> list[Kind]:
        return [Kind(*one.decode().split(BETWEEN)) for one in self.kind_names]

    def kind_of(self, code: str, flag: str) -> int:
        """Its number, a new one where there is none."""
        name = BETWEEN.join((code, flag)).encode()
        if name not in self.kind_names:
            self.kind_names.append(name)
        return self.kind_names.index(name)

    def of_code(self, code: str) -> list[int]:
        """The numbers of runs that are FINE."""
        wanted = bytearray(kind == (code, FINE) for kind in self.kinds)
        return kernel.members(self.kind, wanted)

    def leave_out(self, runs: Iterable[int]) -> int:
        """As if they had never been there; how many were."""
        gone, count = self.kind_of("", GONE), 0
        for i in runs:
            count += self.kind[i] != gone
            self.kind[i] = gone
        return count

    def per_series(self, value: Sequence[float]) -> tuple[list[float], ...]:
        """Entries, known values, their sum and the greatest, of series * len(kinds) + kind."""
        return _parts(kernel.tally(self.of, self.kind, value, len(self.names), len(self.kind_names)))

    def per_context(self, value: Sequence[float]) -> Iterator[tuple[list[float], ...]]:
        """The same of contexts, of each of the two columns."""
        between = BETWEEN.encode()
        words = [
            between.join(word.encode() for word in column) for column in zip(*self.contexts, strict=True)
        ]
        known = kernel.hashes(words, len(self.contexts)) if words else ()
        for column in self.tried if words else ():
            places = kernel.places(column, known)
            yield _parts(kernel.tally(places, self.kind, value, len(self.contexts), len(self.kind_names)))


def _parts(found: Any) -> tuple[list[float], ...]:
    view: list[Any] = memoryview(found).tolist()
    n = len(view) // 4
    return tuple(view[i * n : (i + 1) * n] for i in range(4))


def _extend(column: Any, values: Any) -> None:
    column.frombytes(memoryview(values).cast("B"))


def outcomes(kinds: Iterable[Kind]) -> list[int]:
    """Of each kind; -1 for rows that cannot be used."""
    return [
        -1 if flag in (BAD, GONE) else outcome_of(Run("", "", code, failure_transient=flag == TRANSIENT))
        for code, flag in kinds
    ]


def columns_of(runs: Runs, lacked: Lacked) -> tuple[Columns, int]:
    """As a history adopts them, and how many were left out because they have no time at all."""
    kinds, series = runs.kinds, runs.series
    outcome, n = outcomes(kinds), len(kinds)
    counts, _, _, latest = runs.per_series(runs.end)
    found = array("q"), array("d"), array("d"), array("q"), array("q")
    in_order = kernel.by_end(runs.of, runs.kind, outcome, runs.end, runs.duration, *runs.tried)
    for column, values in zip(found, in_order, strict=True):
        _extend(column, values)
    undated = int(sum(sum(counts[k::n]) for k in range(n) if outcome[k] >= 0)) - len(found[0])
    won = [k for k in range(n) if outcome[k] == SUCCESS]
    succeeded = {i for k in won for i, count in enumerate(counts[k::n]) if count}
    told = [k for k in range(n) if outcome[k] in (SUCCESS, FAILURE, NOTHING)]
    most = [-math.inf] * len(runs.contexts)
    for _, _, _, ends in runs.per_context(runs.end):
        for k in told:
            most = list(map(max, most, ends[k::n]))
    tried = [(*name, at_us) for name, at_us in zip(runs.contexts, most, strict=True) if at_us > -math.inf]
    own = [k for k in told if kinds[k].code == LACKING]
    wanted: dict[tuple[str, str], float] = {}
    for i, name in enumerate(series) if own else ():
        at_us = max(latest[i * n + k] for k in told)
        if at_us > -math.inf and at_us == max(latest[i * n + k] for k in own):
            wanted[name] = at_us
    lacking = [
        (codebase, campaign, relations, wanted[codebase, campaign])
        for codebase, campaign, relations in (lacked(wanted) if wanted else ())
        if relations
    ]
    return Columns(series, *found[:3], tried, lacking, sorted(succeeded), found[3:]), undated
