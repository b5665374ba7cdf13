"""The readable twin of columns of runs: words as numbers, times, sums by group."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence

from .reference_history import TRANSIENT

BETWEEN = b"\x1f"
NONE = -(1 << 63)  # no time
FIELDS = 4  # of a tally


def words(
    columns: Sequence[bytes | bytearray | memoryview],
    n: int,
    *,
    known: Sequence[bytes] = (),
    grow: bool = True,
) -> tuple[Sequence[int], list[bytes]]:
    if not 1 <= len(columns) <= 16:
        raise ValueError("there must be 1 to 16 columns")
    split = []
    for i, column in enumerate(columns):
        found = bytes(column).split(BETWEEN) if n or bytes(column) else []
        if len(found) != n:
            raise ValueError(f"columns[{i}] has not {n} words")
        split.append(found)
    rows = list(known)
    at: dict[bytes, int] = {}
    for i, row in enumerate(rows):
        at.setdefault(row, i)
    ids = array("q")
    for cells in zip(*split, strict=True):
        row = BETWEEN.join(cells)
        if grow and row not in at:
            at[row] = len(rows)
            rows.append(row)
        ids.append(at.get(row, -1))
    return ids, rows


def run_times(
    began: Sequence[int], ended: Sequence[int], *, epoch: float = 0.0
) -> tuple[Sequence[float], Sequence[float]]:
    _like("ended", ended, len(began))
    end, duration = array("d"), array("d")
    for start, finish in zip(began, ended, strict=True):
        both = NONE not in (start, finish)
        wrong = (start == finish == NONE) or (both and finish < start)
        end.append(math.nan if wrong else float(start if finish == NONE else finish) + epoch)
        duration.append(float(finish) - float(start) if both and not wrong else math.nan)
    return end, duration


def by_end(
    series: Sequence[int],
    kind: Sequence[int],
    outcome_of: Sequence[int],
    end: Sequence[float],
    duration: Sequence[float],
) -> tuple[Sequence[int], Sequence[float], Sequence[float]]:
    for name, column in (("kind", kind), ("end", end), ("duration", duration)):
        _like(name, column, len(series))
    _among("series", series, 0, 1 << 60, "must be a series")
    _among("kind", kind, 0, len(outcome_of), "must be an index of outcome_of")
    _among("outcome_of", outcome_of, -1, TRANSIENT + 1, "must be an outcome, or -1")
    told = (i for i in range(len(series)) if not math.isnan(end[i]) and outcome_of[kind[i]] >= 0)
    order = sorted(told, key=end.__getitem__)
    return (
        array("q", [series[i] * 4 + outcome_of[kind[i]] for i in order]),
        array("d", [end[i] for i in order]),
        array("d", [duration[i] for i in order]),
    )


def superseded(key: Sequence[int]) -> list[int]:
    last = {one: i for i, one in enumerate(key)}
    return [i for i, one in enumerate(key) if last[one] != i]


def members(group: Sequence[int], wanted: bytes | bytearray) -> list[int]:
    _among("group", group, 0, len(wanted), "must be a group")
    return [i for i, one in enumerate(group) if wanted[one]]


def tally(
    group: Sequence[int], kind: Sequence[int], value: Sequence[float], groups: int, kinds: int
) -> Sequence[float]:
    _like("kind", kind, len(group))
    _like("value", value, len(group))
    _among("group", group, -1, groups, "must be a group, or -1")
    _among("kind", kind, 0, kinds, "must be a kind")
    cells = groups * kinds
    out = array("d", bytes(8 * FIELDS * cells))
    out[3 * cells :] = array("d", [-math.inf]) * cells
    for one, of, x in zip(group, kind, value, strict=True):
        if one < 0:
            continue
        cell = one * kinds + of
        out[cell] += 1
        if not math.isnan(x):
            out[cells + cell] += 1
            out[2 * cells + cell] += x
            out[3 * cells + cell] = max(x, out[3 * cells + cell])
    return out


def _like(name: str, column: Sequence[object], n: int) -> None:
    if len(column) != n:
        raise ValueError(f"{name} has {len(column)} entries: must have {n}")


def _among(name: str, column: Sequence[int], least: int, most: int, rule: str) -> None:
    for i, value in enumerate(column):
        if not least <= value < most:
            raise ValueError(f"{name}[{i}] is {value}: {rule}")
