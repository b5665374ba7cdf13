"""The readable twin of histories: statistics of runs, and what is expected of the next one."""

from __future__ import annotations

import math
from array import array
from collections.abc import MutableSequence, Sequence

SUCCESS, FAILURE, NOTHING, TRANSIENT = range(4)
FIELDS = 12
LN2 = 0.69314718055994530942
ROUNDER = 6755399441055744.0  # 1.5 * 2**52: what is added and taken away again is rounded
TERMS = [1.0 / math.factorial(i) for i in range(13, -1, -1)]


def exp2(x: float) -> float:
    """2**x by multiplications and additions alone, so that it is the same everywhere."""
    if not x >= -1000:
        return 0.0
    x = min(x, 1000.0)
    whole = (x + ROUNDER) - ROUNDER
    f = (x - whole) * LN2
    total = TERMS[0]
    for term in TERMS[1:]:
        total = total * f + term
    return math.ldexp(total, int(whole))


def _matrix(n: int, out: MutableSequence[float] | None) -> MutableSequence[float]:
    if out is None:
        return array("d", bytes(8 * n))
    if len(out) != n:
        raise ValueError(f"out must hold {n} numbers of format 'd'")
    return out


def history(
    key: Sequence[int],
    ended: Sequence[float],
    duration: Sequence[float],
    rows: int,
    *,
    group_of: Sequence[int] | None = None,
    reference: float = 0.0,
    half_life: float = 1.0,
    window: int = 128,
    weights: bool = True,
    out: MutableSequence[float] | None = None,
) -> Sequence[float]:
    for name, column in (("ended", ended), ("duration", duration)):
        if len(column) != len(key):
            raise ValueError(f"{name} has {len(column)} entries, key {len(key)}")
    if not half_life > 0:
        raise ValueError("half_life must be positive")
    if window < 1:
        raise ValueError("window must be at least 1")
    if rows < 0:
        raise ValueError(f"rows is {rows}: must not be negative")
    of: list[list[int]] = [[] for _ in range(rows)]
    known = rows if group_of is None else len(group_of)
    for i, row in enumerate(group_of or ()):
        if not 0 <= row < rows:
            raise ValueError(f"group_of[{i}] is {row}: must be a row")
    for i, one in enumerate(key):
        if not 0 <= one >> 2 < known:
            raise ValueError(f"key[{i}] is {one}: must be a series times 4 plus an outcome")
        of[one >> 2 if group_of is None else group_of[one >> 2]].append(i)
    matrix = _matrix(FIELDS * rows, out)
    for row, runs in enumerate(of):
        sums = [0.0] * 4
        latest, streak, counted = -math.inf, 0, 0
        for i in runs:
            outcome = key[i] & 3
            latest = ended[i] if ended[i] > latest else latest
            streak = streak + 1 if outcome == TRANSIENT else 0
            counted += outcome != TRANSIENT
            if weights:
                sums[outcome] += exp2((ended[i] - reference) / half_life)
        done: list[float] = []
        lost: list[float] = []
        for i in reversed(runs):
            outcome = key[i] & 3
            if outcome != TRANSIENT and not math.isnan(duration[i]):
                (done if outcome == SUCCESS else lost).append(duration[i] + 0.0)  # one zero
        values = [*sums[:3], *middle(done[:window]), *middle(lost[:window]), counted, streak, latest]
        for field, value in enumerate(values):
            matrix[field * rows + row] = value
    return matrix


def middle(durations: Sequence[float]) -> tuple[float, float, float]:
    """Count, median and 90 % of durations; NaN of none."""
    n = len(durations)
    if not n:
        return 0.0, math.nan, math.nan
    ordered = sorted(durations)
    return float(n), ordered[n // 2], ordered[9 * n // 10]


def recent(
    key: Sequence[int],
    duration: Sequence[float],
    rows: int,
    window: int,
    *,
    group_of: Sequence[int] | None = None,
) -> tuple[Sequence[int], Sequence[float]]:
    if len(duration) != len(key):
        raise ValueError(f"duration has {len(duration)} entries, key {len(key)}")
    if window < 1 or rows < 0:
        raise ValueError("window must be at least 1, and rows not negative, below 2**32 - 1")
    places: list[list[float]] = [[] for _ in range(2 * rows)]
    for one, us in zip(key, duration, strict=True):
        series, outcome = divmod(one, 4)
        row = series if group_of is None else group_of[series]
        if outcome != TRANSIENT and not math.isnan(us):
            places[2 * row + (outcome != SUCCESS)].append(us + 0.0)
    starts, kept = array("q", [0]), array("d")
    for place in places:
        kept.extend(place[: -window - 1 : -1])
        starts.append(len(kept))
    kept.extend([0.0] * (len(key) - len(kept)))
    return starts, kept


def estimate(
    value: Sequence[float],
    chance: Sequence[float],
    tried: Sequence[float],
    series: Sequence[int],
    codebase: Sequence[int],
    campaign: Sequence[int],
    of_series: Sequence[float],
    of_codebase: Sequence[float],
    rate: Sequence[float],
    done: Sequence[float],
    lost: Sequence[float],
    *,
    decay: float = 1.0,
    strength: float = 4.0,
    explore: float = 0.0,
    penalty: float = 0.9,
    shrink: float = 5.0,
    least_points: float = 5.0,
    quantile: int = 0,
    out: MutableSequence[float] | None = None,
) -> Sequence[float]:
    for wrong, rule in (
        (quantile not in (0, 1), "quantile must be 0 or 1"),
        (not strength > 0, "strength must be positive"),
        (not shrink >= 0, "shrink must not be negative"),
        (not least_points >= 1, "least_points must be at least 1"),
    ):
        if wrong:
            raise ValueError(rule)
    n = len(value)
    columns = {"chance": chance, "tried": tried, "series": series, "codebase": codebase, "campaign": campaign}
    for name, column in columns.items():
        if len(column) != n:
            raise ValueError(f"{name} has {len(column)} entries, value {n}")
    for name, column in (("done", done), ("lost", lost)):
        if len(column) != len(rate):
            raise ValueError(f"{name} has {len(column)} entries, rate {len(rate)}")
    for name, column in (("of_series", of_series), ("of_codebase", of_codebase)):
        if len(column) % FIELDS:
            raise ValueError(f"{name} has {len(column)} entries: must be {FIELDS} columns")
    rows, others = len(of_series) // FIELDS, len(of_codebase) // FIELDS
    for name, column, most in (
        ("series", series, rows),
        ("codebase", codebase, others),
        ("campaign", campaign, len(rate)),
    ):
        for i, row in enumerate(column):
            if not 0 <= row < most:
                raise ValueError(f"{name}[{i}] is {row}: must be a row")

    def level(matrix: Sequence[float], size: int, row: int, count: int, following: float) -> float:
        points = matrix[count * size + row]
        if not points >= least_points:
            return following
        return (points * matrix[(count + 1 + quantile) * size + row] + shrink * following) / (points + shrink)

    result = _matrix(3 * n, out)
    for i in range(n):
        r, b, g = series[i], codebase[i], campaign[i]
        s, f, z = (of_series[field * rows + r] * decay for field in (SUCCESS, FAILURE, NOTHING))
        mean = rate[g] if math.isnan(chance[i]) else chance[i]
        seen = strength + (s + f)
        p = _divide(strength * mean + s, seen)
        of_done = level(of_series, rows, r, 3, level(of_codebase, others, b, 3, done[g]))
        of_lost = level(of_series, rows, r, 6, level(of_codebase, others, b, 6, lost[g]))
        again = tried[i] * decay
        again = again if again < 1.0 else 1.0
        worth = 1.0 if math.isnan(value[i]) else value[i]
        result[i] = p
        result[n + i] = p * of_done + (1.0 - p) * of_lost
        result[2 * n + i] = (
            worth
            * (1.0 - penalty * again)
            * (1.0 - _divide(z, seen + z))
            * (1.0 + explore * _divide(strength, seen))
        )
    return result


def _divide(a: float, b: float) -> float:
    """As C divides: by 0 there is a result."""
    if b:
        return a / b
    return (
        math.nan
        if not a or math.isnan(a) or math.isnan(b)
        else math.copysign(math.inf, a) * math.copysign(1.0, b)
    )
