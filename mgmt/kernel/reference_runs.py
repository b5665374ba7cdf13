"""The readable twin of columns of runs: words as numbers, times, sums by group."""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterator, Sequence

from .reference_history import FAILURE, TRANSIENT, exp2

BETWEEN = b"\x1f"
NONE = -(1 << 63)  # no time
FIELDS = 4  # of a tally
WORD = (1 << 64) - 1


def words(
    columns: Sequence[bytes | bytearray | memoryview],
    n: int,
    *,
    known: Sequence[bytes] = (),
    grow: bool = True,
) -> tuple[Sequence[int], list[bytes]]:
    split = list(_split(columns, n))
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


def _split(columns: Sequence[bytes | bytearray | memoryview], n: int) -> Iterator[list[bytes]]:
    if not 1 <= len(columns) <= 16:
        raise ValueError("there must be 1 to 16 columns")
    for i, column in enumerate(columns):
        found = bytes(column).split(BETWEEN) if n or bytes(column) else []
        if len(found) != n:
            raise ValueError(f"columns[{i}] has not {n} words")
        yield found


def hashes(columns: Sequence[bytes | bytearray | memoryview], n: int) -> Sequence[int]:
    numbers = array("q")
    for cells in zip(*_split(columns, n), strict=True):
        number = 0
        for cell in cells:
            number = _mixed(number ^ _hash(cell))
        number = (number or 1) if cells[-1] else 0
        numbers.append(number - (number >> 63 << 64))
    return numbers


def _mixed(number: int) -> int:
    number = number * 0xD6E8FEB86659FD93 & WORD
    return number ^ number >> 32


def _hash(text: bytes) -> int:
    number = 0x9E3779B97F4A7C15 ^ len(text)
    for i in range(0, len(text) - len(text) % 8 + 1, 8):
        number = _mixed(number ^ int.from_bytes(text[i : i + 8].ljust(8, b"\0"), sys.byteorder))
    return _mixed(number)


def places(number: Sequence[int], known: Sequence[int]) -> Sequence[int]:
    at: dict[int, int] = {}
    for i, one in enumerate(known):
        at.setdefault(one, i)
    return array("q", [at.get(one, -1) if one else -1 for one in number])


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
    own: Sequence[int],
    other: Sequence[int],
) -> tuple[Sequence[int], Sequence[float], Sequence[float], Sequence[int], Sequence[int]]:
    columns = {"kind": kind, "end": end, "duration": duration, "own": own, "other": other}
    for name, column in columns.items():
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
        array("q", [own[i] for i in order]),
        array("q", [other[i] for i in order]),
    )


def repeats(
    key: Sequence[int],
    ended: Sequence[float],
    own: Sequence[int],
    other: Sequence[int],
    *,
    reference: float = 0.0,
    half_life: float = 1.0,
    penalty: float = 0.0,
) -> Sequence[float]:
    if not half_life > 0:
        raise ValueError("half_life must be positive")
    for name, column in (("ended", ended), ("own", own), ("other", other)):
        _like(name, column, len(key))
    latest: dict[int, float] = {}
    less = array("d", bytes(8 * len(key)))
    for i, contexts in enumerate(zip(own, other, strict=True)):
        if contexts == (0, 0) or key[i] & 3 == TRANSIENT:
            continue
        weight = exp2((ended[i] - reference) / half_life)
        before = latest.get(contexts[0] or contexts[1])
        if before is not None and key[i] & 3 == FAILURE:
            less[i] = penalty * min(weight, before)
        latest |= {context: weight for context in contexts if context}
    return less


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
