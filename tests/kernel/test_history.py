"""Statistics of runs and estimates: C against the twin, each instruction set against the plain one."""

from __future__ import annotations

import math
from array import array
from importlib import import_module
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgmt import kernel
from mgmt.kernel import reference_history
from mgmt.kernel.reference_history import FIELDS, exp2

NAN = math.nan
BOTH = [pytest.param(reference_history, id="python")]
if kernel.IMPLEMENTATION == "c":
    BOTH.append(pytest.param(import_module("mgmt.kernel._kernel"), id="c"))

RUNS = st.lists(
    st.tuples(
        st.integers(0, 15),
        st.sampled_from([0.0, 1.0, -3.5, 14.0, NAN, math.inf, -math.inf, 1e5]) | st.floats(-2000, 2000),
        st.sampled_from([0.0, 1.0, 1.5e6, NAN]) | st.floats(0, 1e9),
    ),
    max_size=60,
)


def columns(matrix: Any, rows: int) -> list[list[float]]:
    return [list(matrix[field * rows : (field + 1) * rows]) for field in range(FIELDS)]


@pytest.mark.parametrize("module", BOTH)
def test_known_statistics(module: Any) -> None:
    key = [0, 1, 0, 0, 2, 3, 3, 4 + 1]  # series 0: s f s s z t t; series 1: f
    ended = [0.0, 14.0, 14.0, 28.0, 28.0, 29.0, 30.0, 28.0]
    duration = [5.0, 7.0, 1.0, 3.0, NAN, 9.0, 9.0, 2.0]
    matrix = module.history(key, ended, duration, 2, reference=28.0, half_life=14.0)
    got = [column[0] for column in columns(matrix, 2)]
    assert got == [0.25 + 0.5 + 1, 0.5, 1.0, 3, 3.0, 5.0, 1, 7.0, 7.0, 5, 2, 30.0]
    assert columns(matrix, 2)[1][1] == 1.0
    grouped = module.history(key, ended, duration, 1, group_of=[0, 0], weights=False, window=2)
    assert list(grouped)[:9] == [0, 0, 0, 2, 3.0, 3.0, 2, 7.0, 7.0]  # the two latest: 3, 1 and 2, 7


@pytest.mark.parametrize("module", BOTH)
def test_the_latest_durations_of_each(module: Any) -> None:
    key, duration = [0, 1, 0, 0, 3, 4, 6], [1.0, 2.0, NAN, 3.0, 9.0, 5.0, 6.0]
    starts, kept = module.recent(key, duration, 2, 2)
    assert list(starts) == [0, 2, 3, 4, 5] and list(kept)[:5] == [3.0, 1.0, 2.0, 5.0, 6.0]
    starts, kept = module.recent(key, duration, 1, 1, group_of=[0, 0])
    assert list(starts) == [0, 1, 2] and list(kept)[:2] == [5.0, 6.0]


@pytest.mark.parametrize("module", BOTH)
def test_known_estimates(module: Any) -> None:
    nothing = module.history([], [], [], 1)
    some = module.history([0] * 5 + [1] * 5, [0.0] * 10, [10.0] * 5 + [20.0] * 5, 1)
    args = ([50.0], [NAN], [0.0], [0], [0], [0])
    assert list(module.estimate(*args, nothing, nothing, [0.25], [100.0], [40.0])) == [0.25, 55.0, 50.0]
    p, us, worth = module.estimate(
        [50.0], [0.5], [0.5], [0], [0], [0], some, nothing, [0.25], [100.0], [40.0], explore=1.0
    )
    assert p == (4 * 0.5 + 5) / 14
    assert us == pytest.approx(p * (5 * 10 + 5 * 100) / 10 + (1 - p) * (5 * 20 + 5 * 40) / 10)
    assert worth == pytest.approx(50 * (1 - 0.9 * 0.5) * (1 + 4 / 14))


@pytest.mark.parametrize("module", BOTH)
def test_what_is_wrong_is_named(module: Any) -> None:
    for args, keywords, says in (
        (([0], [], [0.0], 1), {}, "ended has 0 entries, key 1"),
        (([4], [0.0], [0.0], 1), {}, r"key\[0\] is 4"),
        (([-1], [0.0], [0.0], 1), {}, r"key\[0\] is -1"),
        (([0], [0.0], [0.0], 1), {"group_of": [1]}, r"group_of\[0\] is 1"),
        (([0], [0.0], [0.0], 1), {"half_life": 0.0}, "half_life must be positive"),
        (([0], [0.0], [0.0], 1), {"window": 0}, "window must be at least 1"),
        (([0], [0.0], [0.0], -1), {}, "rows is -1"),
    ):
        with pytest.raises(ValueError, match=says):
            module.history(*args, **keywords)
    one = module.history([], [], [], 1)
    good: list[Any] = [[1.0], [NAN], [1.0], [0], [0], [0], one, one, [0.5], [1.0], [1.0]]
    for index, value, keywords, says in (
        (3, [1], {}, r"series\[0\] is 1"),
        (4, [-1], {}, r"codebase\[0\] is -1"),
        (5, [9], {}, r"campaign\[0\] is 9"),
        (1, [], {}, "chance has 0 entries, value 1"),
        (6, [0.0], {}, "of_series has 1 entries"),
        (9, [], {}, "done has 0 entries, rate 1"),
        (0, [1.0], {"strength": 0.0}, "strength must be positive"),
        (0, [1.0], {"shrink": -1.0}, "shrink must not be negative"),
        (0, [1.0], {"least_points": 0.5}, "least_points must be at least 1"),
        (0, [1.0], {"quantile": 2}, "quantile must be 0 or 1"),
    ):
        with pytest.raises(ValueError, match=says):
            module.estimate(*good[:index], value, *good[index + 1 :], **keywords)


@given(
    RUNS, st.none() | st.lists(st.integers(0, 3), min_size=4, max_size=4), st.booleans(), st.integers(1, 70)
)
@settings(deadline=None)
def test_c_and_twin_agree_on_statistics(
    runs: list[tuple[int, float, float]], group_of: list[int] | None, weights: bool, window: int
) -> None:
    key, ended, duration = ([run[i] for run in runs] for i in range(3))
    how = {"group_of": group_of, "weights": weights, "window": window, "reference": 7.25, "half_life": 14.0}
    ours = kernel.history(key, ended, duration, 4, **how)  # type: ignore[arg-type]  # of several types
    twin = reference_history.history(key, ended, duration, 4, **how)  # type: ignore[arg-type]
    assert list(map(repr, ours)) == list(map(repr, twin))


@given(RUNS, RUNS, st.integers(0, 12), st.integers(0, 1), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_c_and_twin_agree_on_estimates(
    runs: list[tuple[int, float, float]],
    more: list[tuple[int, float, float]],
    n: int,
    quantile: int,
    random: Random,
) -> None:
    of_series, of_codebase = (
        reference_history.history(
            [run[0] for run in some], [run[1] for run in some], [run[2] for run in some], 4, half_life=14.0
        )
        for some in (runs, more)
    )
    numbers = [NAN, 0.0, 0.5, 1.0, 300.0, math.inf]
    args: list[Any] = [[random.choice(numbers) for _ in range(n)] for _ in range(3)]
    args += [[random.randrange(4) for _ in range(n)] for _ in range(3)]
    args += [of_series, of_codebase, *([random.choice(numbers) for _ in range(4)] for _ in range(3))]
    how: dict[str, Any] = {"decay": 0.7, "explore": 0.25, "quantile": quantile}
    ours, twin = kernel.estimate(*args, **how), reference_history.estimate(*args, **how)
    assert list(map(repr, map(_quiet, ours))) == list(map(repr, map(_quiet, twin)))


def _quiet(x: float) -> float:
    """One NaN: its sign is nobody's."""
    return NAN if x != x else x


@pytest.mark.skipif(kernel.IMPLEMENTATION != "c", reason="the variants are those of the C kernel")
def test_every_instruction_set_agrees_to_the_bit() -> None:
    estimate = import_module("mgmt.kernel._kernel").estimate
    random = Random(5)
    n, rows = 1003, 50
    key = array("q", [random.randrange(rows * 4) for _ in range(5000)])
    ended = array("d", [random.uniform(0, 60) for _ in key])
    duration = array("d", [random.choice([NAN, random.expovariate(1e-6)]) for _ in key])
    matrix = kernel.history(key, ended, duration, rows, reference=60.0, half_life=14.0)
    values = [array("d", [random.choice([NAN, random.uniform(0, 900)]) for _ in range(n)]) for _ in range(3)]
    indices = [array("q", [random.randrange(rows) for _ in range(n)]) for _ in range(3)]
    campaigns = [array("d", [random.random() for _ in range(rows)]) for _ in range(3)]
    args = (*values, *indices, matrix, matrix, *campaigns)
    history = import_module("mgmt.kernel._kernel").history
    runs = (key, ended, duration, rows)
    of_runs = bytes(history(*runs, reference=60.0, half_life=14.0, _simd=0))
    plain, tried = bytes(estimate(*args, explore=0.25, _simd=0)), 0
    for simd in (1, 2):
        try:
            assert bytes(estimate(*args, explore=0.25, _simd=simd)) == plain
            assert bytes(history(*runs, reference=60.0, half_life=14.0, _simd=simd)) == of_runs
            tried += 1
        except ValueError as error:
            assert "this CPU has variants up to" in str(error)
    assert tried or import_module("platform").machine() != "x86_64"


def test_powers_of_two_are_those_of_the_library() -> None:
    random = Random(1)
    for x in [random.uniform(-900, 900) for _ in range(3000)] + [0.0, 1.0, -1.0, 0.5]:
        assert exp2(x) == pytest.approx(math.pow(2, x), rel=4e-16)
    assert exp2(-1001) == exp2(NAN) == 0
    powers = [exp2(x / 97) for x in range(-2000, 2000)]
    assert all(one < other for one, other in pairwise(powers)), "more recent weighs more"
