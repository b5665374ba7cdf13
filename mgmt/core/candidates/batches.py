"""Runs as a store keeps them: some thousand in one record, of which each column is one value.

A record is read in the time of its bytes. A run has a key; of two with the same key the later batch counts.
"""

from __future__ import annotations

import sys
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from mgmt import kernel
from mgmt.protocol import defaults, frames

from .columns import BETWEEN, NO_TIME, TRANSIENT, Part, Runs, joined, part_of
from .outcomes import LACKING
from .records import Relations, Run

KIND = "batches"  # of rows in the store
AT_ONCE = 64  # that are read together, since each time all series are looked at
PAGE = 50  # of them are read from the store at once
SMALL, MANY = 1000, 500  # batches of fewer runs are put together when there are so many of them


class Batch(NamedTuple):
    """`keys`: of the runs, 64 bits of a hash. `lacked`: run -> packages that it lacked."""

    part: Part
    keys: array[int]
    lacked: dict[int, Relations]


def batch_of(named: Sequence[tuple[str, Run]]) -> Batch | None:
    """Runs with their keys; None where one of them has to be kept by itself: it has no time, or an odd word."""
    runs = [run for _, run in named]
    part = part_of(runs)
    if part is None or any(run.start_us is None and run.finish_us is None for run in runs):
        return None
    lacked = {i: run.relations for i, run in enumerate(runs) if run.result_code == LACKING and run.relations}
    return Batch(part, array("q", map(_hash, (name for name, _ in named))), lacked)


def _hash(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)


def packed(batch: Batch) -> bytes:
    part = batch.part
    return frames.pack_body(
        {
            "n": part.n, "words": [part.codebases, part.campaigns, part.codes, part.flags, *part.contexts],
            "times": [_bytes(part.began), _bytes(part.ended)], "keys": _bytes(batch.keys),
            "lacked": [[i, relations] for i, relations in batch.lacked.items()],
        }
    )  # fmt: skip


def unpacked(record: bytes) -> Batch:
    return batch_in(frames.unpack(record))


def batch_in(told: Mapping[str, Any]) -> Batch:
    """Of a record as it is unpacked."""
    codebases, campaigns, codes, flags, *contexts = told["words"]
    began, ended = map(_numbers, told["times"])
    part = Part(told["n"], codebases, campaigns, codes, flags, began, ended, tuple(contexts))
    return Batch(part, _numbers(told["keys"]), dict(told["lacked"]))


def _bytes(column: array[int]) -> bytes:
    if sys.byteorder == "big":
        column = array("q", column)
        column.byteswap()
    return column.tobytes()


def _numbers(column: bytes) -> array[int]:
    found = array("q", column)
    if sys.byteorder == "big":
        found.byteswap()
    return found


def into(runs: Runs, batches: Sequence[Batch]) -> set[int]:
    """The runs of all, of which those that a later one supersedes are left out; the numbers of these."""
    keys = array("q")
    for first in range(0, len(batches), AT_ONCE):
        some = batches[first : first + AT_ONCE]
        runs.extend(joined([batch.part for batch in some]))
        for batch in some:
            keys.extend(batch.keys)
    gone = kernel.superseded(keys)
    if gone:
        runs.leave_out(gone)
    return set(gone)


def lacked_by(
    batches: Iterable[Batch], gone: set[int], wanted: dict[tuple[str, str], float]
) -> Iterator[tuple[str, str, Relations]]:
    """See `columns.Lacked`."""
    first = 0
    for batch in batches:
        if batch.lacked:
            rows = list(runs_of(batch))
            for i, relations in batch.lacked.items():
                run = rows[i]
                end_us = run.start_us if run.finish_us is None else run.finish_us
                if wanted.get((run.codebase, run.campaign)) == end_us and first + i not in gone:
                    yield run.codebase, run.campaign, relations
        first += batch.part.n


def runs_of(batch: Batch) -> Iterator[Run]:
    """As objects, for those who want them."""
    for i, words in enumerate(zip(*_words(batch.part), strict=True)):
        yield _run(batch, i, words)


def latest(batches: Sequence[Batch]) -> Iterator[list[Run]]:
    """Runs of each batch, without those that a later one supersedes."""
    keys = array("q")
    for batch in batches:
        keys.extend(batch.keys)
    gone, first = set(kernel.superseded(keys)), 0
    for batch in batches:
        yield [run for i, run in enumerate(runs_of(batch)) if first + i not in gone]
        first += batch.part.n


def _words(part: Part) -> list[list[str]]:
    columns = part.codebases, part.campaigns, part.codes, part.flags, *part.contexts
    return [column.decode().split(BETWEEN) for column in columns]


def _run(batch: Batch, i: int, words: Sequence[str]) -> Run:
    codebase, campaign, code, flag, context, instigated = words
    part, lacked = batch.part, batch.lacked.get(i)
    return Run(
        codebase, campaign, code, _time(part.began[i]), _time(part.ended[i]), context or None,
        instigated or None, flag == TRANSIENT, {"relations": lacked} if lacked else None,
    )  # fmt: skip


def some_of(batches: Iterable[Batch], numbers: Sequence[int]) -> Iterator[Run]:
    """Those of these numbers, counted over all, ascending."""
    left, first = deque(numbers), 0
    for batch in batches:
        if left and left[0] < first + batch.part.n:
            words = list(zip(*_words(batch.part), strict=True))
            while left and left[0] < first + batch.part.n:
                i = left.popleft() - first
                yield _run(batch, i, words[i])
        first += batch.part.n


def _time(us: int) -> int | None:
    return None if us == NO_TIME else us


def together(batches: Sequence[Batch], gone: set[int]) -> Iterator[Batch]:
    """In few of the size of a request, without those runs that are gone, counted over all."""
    rows, keys = list[Any](), array("q")
    first = 0
    for batch in batches:
        for i, run in enumerate(runs_of(batch)):
            if first + i not in gone:
                rows.append(run)
                keys.append(batch.keys[i])
        first += batch.part.n
    for first in range(0, len(rows), defaults.MAX_CANDIDATE_ROWS):
        some = rows[first : first + defaults.MAX_CANDIDATE_ROWS]
        part = part_of(some)
        assert part is not None  # these were in batches
        lacked = {i: run.relations for i, run in enumerate(some) if run.relations}
        yield Batch(part, keys[first : first + len(some)], lacked)
