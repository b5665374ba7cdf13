"""Ranking and bulk packing: C against the twin, every instruction set against the plain one, known values."""

from __future__ import annotations

import math
from array import array
from importlib import import_module
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgmt import kernel
from mgmt.kernel import reference_score, reference_strict
from mgmt.kernel.refusal import Refused

NAN = math.nan
SCORES = [pytest.param(reference_score.score, id="python")]
if kernel.IMPLEMENTATION == "c":
    SCORES.append(pytest.param(import_module("mgmt.kernel._kernel").score, id="c"))


@pytest.mark.parametrize("score", SCORES)
def test_known_values(score: Any) -> None:
    offsets = score([30.0, 0.0], [0.5, 0.8], [1.5e6, 60e6], [3, 0], [1.0, 0.5], subsecond_twice=True)
    assert offsets[0] == pytest.approx(22000 / 15)
    assert offsets[1] == pytest.approx(2000)
    assert score([30.0], [0.5], [1.5e6], [3], [1.0])[0] == pytest.approx(21500 / 15)
    assert score([NAN], [1.0], [0.0], [0])[0] == 40000  # no value: 1, no bonus; no codebase: 0.5
    assert score([1.0], [1.0], [0.0], None, [0.0], default_offset=-1.0)[0] == 199999.0


@pytest.mark.parametrize("score", SCORES)
def test_rows_that_cannot_be_scored_do_not_stop_the_others(score: Any) -> None:
    values = [1.0, 1.0, 1.0, 0.0, -5.0, 1.0, 1.0]
    chances = [0.0, 1.1, -0.1, 1.0, 1.0, NAN, 1.0]
    offsets = list(score(values, chances, [1e6] * 7, [1] * 7))
    assert [math.isnan(x) for x in offsets] == [True] * 6 + [False]


NUMBER = st.one_of(st.floats(-10, 1000), st.sampled_from([0.0, 0.1, 1.0, NAN, math.inf, 1e6, 1.5e6]))


@given(
    st.lists(st.tuples(NUMBER, NUMBER, NUMBER, NUMBER, NUMBER), max_size=40),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
@settings(deadline=None)
def test_c_and_twin_agree(
    rows: list[tuple[float, ...]], has_runs: bool, has_codebase: bool, twice: bool
) -> None:
    columns = [array("d", column) for column in zip(*rows, strict=True)] or [array("d")] * 5
    columns[1] = array("d", [abs(p) / 1000 if p == p else p for p in columns[1]])
    args: list[Any] = [*columns[:3], columns[3] if has_runs else None, columns[4] if has_codebase else None]
    ours = list(kernel.score(*args, default_offset=0.25, subsecond_twice=twice))
    twin = list(reference_score.score(*args, default_offset=0.25, subsecond_twice=twice))
    assert list(map(repr, ours)) == list(map(repr, twin))
    for k in (0, 1, 3, len(rows), 100):
        assert kernel.top_k(ours, k) == reference_score.top_k(ours, k)


@pytest.mark.skipif(kernel.IMPLEMENTATION != "c", reason="the variants are those of the C kernel")
def test_every_instruction_set_agrees_to_the_bit() -> None:
    score = import_module("mgmt.kernel._kernel").score
    random = Random(2)
    n = 1003
    value, chance, us, runs, base = (
        array("d", [random.choice([NAN, 0.0, random.uniform(-1, high)]) for _ in range(n)])
        for high in (900, 1.2, 1e9, 3, 2)
    )
    for optional in ((None, None), (runs, None), (None, base), (runs, base)):
        plain = bytes(score(value, chance, us, *optional, _simd=0))
        tried = 0
        for simd in (1, 2):
            try:
                assert bytes(score(value, chance, us, *optional, _simd=simd)) == plain
                tried += 1
            except ValueError as error:
                assert "this CPU has variants up to" in str(error)
        assert tried or import_module("platform").machine() != "x86_64"


@pytest.mark.parametrize("k", [1, 7, 100, 999, 1000, 5000])
@pytest.mark.parametrize("shape", ["random", "falling", "rising", "equal", "few"])
def test_the_best_in_order(shape: str, k: int) -> None:
    random = Random(4)
    n = 4000
    scores = {
        "random": [random.gauss(0, 1) for _ in range(n)],
        "falling": [float(-i) for i in range(n)],
        "rising": [float(i) for i in range(n)],
        "equal": [-0.0, 0.0] * (n // 2),
        "few": [random.choice([1.0, -math.inf, math.inf, NAN, 2.0]) for _ in range(n)],
    }[shape]
    assert kernel.top_k(array("d", scores), k) == reference_score.top_k(scores, k)


def test_out_is_filled_and_checked() -> None:
    out = array("d", [0.0, 0.0])
    assert kernel.score([1.0, 2.0], [1.0, 1.0], [0.0, 0.0], out=out) is out
    assert out[0] == 40000
    with pytest.raises(ValueError, match="out"):
        kernel.score([1.0], [1.0], [0.0], out=out)
    with pytest.raises(ValueError, match="probability has 2 entries, value 1"):
        kernel.score([1.0], [1.0, 1.0], [0.0])
    cpus = array("q", [9, 9, 9])
    assert kernel.best_fit([1, 2, 3], [4, 4, 4], 3, out=cpus) is cpus
    assert list(cpus) == [0, 1, 0]


@given(
    st.lists(st.tuples(st.integers(1, 12), st.sampled_from([3, 4, 6, 7, 12, 2**62 - 1])), max_size=40),
    st.integers(0, 12),
)
@settings(deadline=None, max_examples=300)
def test_best_fit_is_the_placement(tasks: list[tuple[int, int]], cpus: int) -> None:
    wcet = [c if t < 100 else t // 12 * c for c, t in tasks]
    period = [t for _, t in tasks]

    def attempt(call: Any) -> Any:
        try:
            return list(call())
        except Refused as why:
            return str(why)

    twin = attempt(lambda: reference_strict.best_fit(wcet, period, cpus))
    assert attempt(lambda: kernel.best_fit(wcet, period, cpus)) == twin
    assert attempt(lambda: kernel.Placement([0] * cpus).place(wcet, period)) == twin


def test_best_fit_at_size_is_the_placement() -> None:
    random = Random(6)
    period = [random.choice([1000, 3000, 7000, random.randint(1000, 10**6)]) for _ in range(20000)]
    wcet = [max(1, int(t * random.choice([0.05, 0.1, 1 / 3, random.uniform(0.01, 0.2)]))) for t in period]
    cpus = 4000
    ours = kernel.best_fit(array("q", wcet), array("q", period), cpus)
    assert ours == kernel.Placement([0] * cpus).place(wcet, period)
