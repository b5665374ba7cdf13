"""The analyses in Python: the textbook's formulas in plain integers.

These are the twins of the C functions, with the same answers and the same errors, written to be read. They
also serve where the extension is not built. The functions of the two share no start values, bounds or data
structures, so that one tests the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from operator import index
from typing import Literal, NamedTuple

INT64_MAX = 2**63 - 1
WINDOW_JOBS = 2**16  # jobs of one task in one busy period, before an analysis gives up
STEPS = 2**20  # evaluations for one task or one EDF test, before an analysis gives up


class Tasks(NamedTuple):
    """Equal indices belong to one task."""

    wcet: list[int]
    period: list[int]
    deadline: list[int]
    jitter: list[int]
    blocking: list[int]


def response_times(
    wcet: Iterable[int],
    period: Iterable[int],
    deadline: Iterable[int],
    *,
    jitter: Iterable[int] | None = None,
    blocking: Iterable[int] | None = None,
) -> list[int]:
    tasks = read_tasks(wcet, period, deadline, jitter, blocking)
    return [_response(tasks, i, range(i)) for i in range(len(tasks.wcet))]


def fp_schedulable(
    wcet: Iterable[int],
    period: Iterable[int],
    deadline: Iterable[int],
    *,
    jitter: Iterable[int] | None = None,
    blocking: Iterable[int] | None = None,
) -> bool:
    tasks = read_tasks(wcet, period, deadline, jitter, blocking)
    return _fp_fits(tasks)


def edf_schedulable(
    wcet: Iterable[int],
    period: Iterable[int],
    deadline: Iterable[int],
    *,
    jitter: Iterable[int] | None = None,
) -> bool:
    return _edf_fits(read_tasks(wcet, period, deadline, jitter, None))


def audsley(
    wcet: Iterable[int],
    period: Iterable[int],
    deadline: Iterable[int],
    *,
    jitter: Iterable[int] | None = None,
    blocking: Iterable[int] | None = None,
) -> list[int] | None:
    tasks = read_tasks(wcet, period, deadline, jitter, blocking)
    left = sorted(range(len(tasks.wcet)), key=lambda i: (tasks.deadline[i] - tasks.jitter[i], i))
    order: list[int] = []
    while left:
        for candidate in reversed(left):
            if _response(tasks, candidate, [i for i in left if i != candidate]) >= 0:
                order.append(candidate)
                left.remove(candidate)
                break
        else:
            return None
    return order[::-1]


def sensitivity(
    wcet: Iterable[int],
    period: Iterable[int],
    deadline: Iterable[int],
    *,
    jitter: Iterable[int] | None = None,
    blocking: Iterable[int] | None = None,
    policy: Literal["fp", "edf"] = "fp",
) -> list[int]:
    if policy not in ("fp", "edf"):
        raise ValueError(f"policy is {policy!r}: must be 'fp' or 'edf'")
    if policy == "edf" and blocking is not None:
        raise ValueError("blocking has no meaning under 'edf': leave it out")
    tasks = read_tasks(wcet, period, deadline, jitter, blocking)
    fits = _edf_fits if policy == "edf" else _fp_fits
    n = len(tasks.wcet)
    if not fits(tasks):
        return [-1] * n
    thousandths = []
    for i in range(n):
        grown = tasks.wcet.copy()
        low, high = tasks.wcet[i], max(tasks.wcet[i], tasks.deadline[i] - tasks.jitter[i])
        while low < high:
            grown[i] = (low + high) // 2 + 1 if (high - low) % 2 == 0 else (low + high + 1) // 2
            if fits(tasks._replace(wcet=grown)):
                low = grown[i]
            else:
                high = grown[i] - 1
        thousandths.append(_int64(low * 1000 // tasks.wcet[i] - 1000, "sensitivity"))
    return thousandths


def hyperperiod(periods: Iterable[int]) -> int:
    column = read_column(periods, "periods", least=1)
    if not column:
        raise ValueError("periods is empty: a hyperperiod needs at least one")
    multiple = math.lcm(*column)
    if multiple > INT64_MAX:
        raise OverflowError("the hyperperiod passes 64 bits: choose periods that divide each other")
    return multiple


def _response(tasks: Tasks, i: int, above: Sequence[int]) -> int:
    """Of task i under all tasks of `above`: R = J + w - qT for the jobs q of one busy period, the largest.

    w = B + (q + 1) C + sum over `above` of ceil((w + J) / T) C. A first job that ends before the next one
    can be released closes the period, so that q > 0 matters only for deadlines beyond the period.
    """
    c, period, deadline, j = tasks.wcet[i], tasks.period[i], tasks.deadline[i], tasks.jitter[i]
    saturated = not _below_one([tasks.wcet[k] for k in above], [tasks.period[k] for k in above])
    if saturated or c + tasks.blocking[i] > deadline - j:
        return -1
    worst = steps = 0
    level = [i, *above]
    repeats = math.inf  # with U <= 1, no response grows after a hyperperiod
    if not _above_one([tasks.wcet[k] for k in level], [tasks.period[k] for k in level]):
        multiple = math.lcm(*(tasks.period[k] for k in level))
        repeats = multiple if multiple <= INT64_MAX else math.inf
    w = 1
    for q in range(WINDOW_JOBS):
        limit = _int64(deadline - j + q * period, "response")
        own = tasks.blocking[i] + (q + 1) * c
        while True:
            if w > limit:
                return -1
            demand = own + sum(-(-(w + tasks.jitter[k]) // tasks.period[k]) * tasks.wcet[k] for k in above)
            if demand == w:
                break
            w = demand
            steps += 1
            if steps > STEPS:
                raise _too_long("response")
        worst = max(worst, w - q * period + j)
        if w <= (q + 1) * period - j or (q > 0 and (q + 1) * period >= repeats):
            return worst
    raise _too_long("response")


def _fp_fits(tasks: Tasks) -> bool:
    return all(_response(tasks, i, range(i)) >= 0 for i in range(len(tasks.wcet)))


def _edf_fits(tasks: Tasks) -> bool:
    """Quick processor-demand analysis: from the horizon down, h(t) <= t for the work h due by t."""
    wcet, period = tasks.wcet, tasks.period
    due = [
        d - j for d, j in zip(tasks.deadline, tasks.jitter, strict=True)
    ]  # a late release, the same deadline
    if any(d < c for d, c in zip(due, wcet, strict=True)) or _above_one(wcet, period):
        return False
    if all(d >= t for d, t in zip(due, period, strict=True)):
        return True

    def demand(t: int) -> int:
        return sum(((t - d) // p + 1) * c for c, p, d in zip(wcet, period, due, strict=True) if d <= t)

    def last_deadline(t: int) -> int:
        return max((t - (t - d) % p for p, d in zip(period, due, strict=True) if d <= t), default=0)

    t = last_deadline(_horizon(wcet, period, due))
    for _ in range(STEPS):
        work = demand(t)
        if work > t:
            return False
        if work <= min(due):
            return True
        t = work if work < t else last_deadline(t - 1)
        if t < min(due):
            return True
    raise _too_long("edf_schedulable")


def _horizon(wcet: list[int], period: list[int], due: list[int]) -> int:
    """No interval with too much demand is longer: the smaller of the linear bound and the busy period.

    The linear bound max(D - T, sum (T - D) U / (1 - U)) rounds U up to 2^-62.
    """
    one = 2**62
    shares = [-(-c * one // p) for c, p in zip(wcet, period, strict=True)]
    rest = one - sum(shares)
    gap = sum((p - d) * u // one + 1 for p, d, u in zip(period, due, shares, strict=True) if d < p)
    most = INT64_MAX
    if rest > 0:
        most = min(most, max([gap * one // rest + 1, *(d - p for d, p in zip(due, period, strict=True))]))
    w = sum(wcet)
    for _ in range(STEPS):
        if w >= most:
            break
        released = sum(-(-w // p) * c for c, p in zip(wcet, period, strict=True))
        if released == w:
            return w
        w = released
    if most == INT64_MAX:
        raise _too_long("edf_schedulable")
    return most


def _above_one(wcet: list[int], period: list[int]) -> bool:
    numerator, denominator = _utilisation(wcet, period)
    return numerator > denominator


def _below_one(wcet: list[int], period: list[int]) -> bool:
    numerator, denominator = _utilisation(wcet, period)
    return numerator < denominator


def _utilisation(wcet: list[int], period: list[int]) -> tuple[int, int]:
    """The sum of C/T as a numerator and a denominator. Floats decide where it is far from 1."""
    rough = sum(c / p for c, p in zip(wcet, period, strict=True))
    if abs(rough - 1) > 1e-6:
        return (0, 1) if rough < 1 else (2, 1)
    denominator = math.lcm(*period)
    return sum(c * (denominator // p) for c, p in zip(wcet, period, strict=True)), denominator


def read_tasks(
    wcet: Iterable[int],
    period: Iterable[int],
    deadline: Iterable[int],
    jitter: Iterable[int] | None,
    blocking: Iterable[int] | None,
) -> Tasks:
    """Columns of equal length and in range. ValueError, OverflowError or TypeError as the C functions."""
    columns: list[list[int]] = []
    given = (wcet, period, deadline, jitter, blocking)
    for name, values in zip(Tasks._fields, given, strict=True):
        column = [0] * len(columns[0]) if values is None and len(columns) > 2 else _integers(values, name)
        columns.append(column)
        if len(column) != len(columns[0]):
            raise ValueError(
                f"{name} has {len(column)} values, wcet has {len(columns[0])}: one of each for every task"
            )
    for number, (name, column) in enumerate(zip(Tasks._fields, columns, strict=True)):
        _in_range(column, name, 1 if number < 3 else 0)
    return Tasks(*columns)


def read_column(values: object, name: str, *, least: int | None) -> list[int]:
    column = _integers(values, name)
    if least is not None:
        _in_range(column, name, least)
    return column


def _integers(values: object, name: str) -> list[int]:
    if not isinstance(values, Iterable):
        raise TypeError(f"{name} is {type(values).__name__}: give a sequence or a buffer of numbers")
    column = []
    for at, value in enumerate(values):
        try:
            whole = index(value)
        except TypeError:
            raise ValueError(f"{name}[{at}] is not an integer") from None
        if not -INT64_MAX - 1 <= whole <= INT64_MAX:
            raise OverflowError(f"{name}[{at}] passes 64 bits")
        column.append(whole)
    return column


def _in_range(column: list[int], name: str, least: int) -> None:
    for at, value in enumerate(column):
        if value < least:
            rule = "must be at least 1" if least else "must not be negative"
            raise ValueError(f"{name}[{at}] is {value}: {rule}")


def _int64(value: int, what: str) -> int:
    if value > INT64_MAX:
        raise _too_long(what)
    return value


def _too_long(function: str) -> OverflowError:
    return OverflowError(
        f"{function}: the way to the answer passes 64 bits or {STEPS} steps; "
        "give the times in a coarser unit or less load"
    )
