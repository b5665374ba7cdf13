"""Columns of runs: words as numbers, times, sums by group; C against the twin."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgmt import kernel
from mgmt.kernel import reference_runs
from mgmt.kernel.reference_runs import NONE

NAN = math.nan
BOTH = [pytest.param(reference_runs, id="python")]
if kernel.IMPLEMENTATION == "c":
    BOTH.append(pytest.param(import_module("mgmt.kernel._kernel"), id="c"))
WORD = st.binary(max_size=12).filter(lambda word: b"\x1f" not in word)
TIME = st.sampled_from([NONE, 0, -5, 10**15]) | st.integers(-(10**15), 10**15)
FLOAT = st.sampled_from([0.0, -0.0, NAN, 1.5, -2.0]) | st.floats(-1e9, 1e9)


def same(one: Any, other: Any) -> None:
    """Equal, NaN with NaN."""
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a == b or (math.isnan(a) and math.isnan(b))


@pytest.mark.parametrize("module", BOTH)
def test_rows_of_words_are_numbered_as_they_come(module: Any) -> None:
    ids, rows = module.words([b"a\x1fb\x1fa\x1f", b"x\x1fx\x1fx\x1fy"], 4)
    assert list(ids) == [0, 1, 0, 2] and rows == [b"a\x1fx", b"b\x1fx", b"\x1fy"]
    ids, more = module.words([b"b\x1fc", memoryview(b"x\x1fx")], 2, known=rows)
    assert list(ids) == [1, 3] and more == [*rows, b"c\x1fx"]
    ids, same_rows = module.words([b"b\x1fc", b"x\x1fx"], 2, known=rows, grow=False)
    assert list(ids) == [1, -1] and same_rows == rows
    assert module.words([b""], 0) == module.words([b""], 0) and list(module.words([b""], 1)[0]) == [0]


@pytest.mark.parametrize("module", BOTH)
def test_more_rows_than_a_table_begins_with(module: Any) -> None:
    words = [b"w%d" % (i % 5000) for i in range(20_000)]
    ids, rows = module.words([b"\x1f".join(words)], len(words))
    assert len(rows) == 5000 and all(rows[one] == word for one, word in zip(ids, words, strict=True))


@pytest.mark.parametrize("module", BOTH)
def test_runs_in_the_order_of_their_ends(module: Any) -> None:
    end, duration = module.run_times([1, 5, NONE, NONE, 9], [4, NONE, 3, NONE, 8])
    same(end, [4.0, 5.0, 3.0, NAN, NAN])
    same(duration, [3.0, NAN, NAN, NAN, NAN])
    contexts = range(5), range(5, 10)
    key, end, duration, own, other = module.by_end(
        [7, 0, 1, 2, 3], [0, 1, 1, 0, 0], [3, 1], end, duration, *contexts
    )
    assert list(key) == [5, 31, 1] and list(end) == [3.0, 4.0, 5.0]
    assert (list(own), list(other)) == ([2, 0, 1], [7, 5, 6])
    same(duration, [NAN, 3.0, NAN])
    ends, none = [2.0, -1.0, 0.0], [0] * 3
    assert list(module.by_end([0, 1, 2], [0, 0, 1], [0, -1], ends, [NAN] * 3, none, none)[0]) == [4, 0]
    same(module.run_times([1], [4], epoch=10.0)[0], [14.0])


@pytest.mark.parametrize("module", BOTH)
def test_rows_of_words_have_numbers_of_their_own(module: Any) -> None:
    columns = [b"a\x1fa\x1fab\x1fa\x1fa\x1f", b"1\x1f2\x1f1\x1f1\x1f\x1f%s" % (b"long" * 9)]
    one = list(module.hashes(columns, 6))
    assert one[0] == one[3] and one[4] == 0 and len(set(one)) == 5
    assert list(module.hashes([b"a", b"1"], 1)) == one[:1] and list(module.hashes([b""], 0)) == []
    assert list(module.places([*one, 7], [one[2], 0, one[0], one[2]])) == [2, -1, 0, 2, -1, -1, -1]


@pytest.mark.parametrize("module", BOTH)
def test_a_failure_that_repeats_one_weighs_less(module: Any) -> None:
    key = [1, 1, 0, 3, 1, 2, 1, 1]
    ended = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 6.0]
    own, other = [5, 5, 6, 8, 0, 9, 8, 0], [0, 0, 7, 0, 7, 0, 0, 9]
    less = module.repeats(key, ended, own, other, reference=6.0, half_life=1.0, penalty=0.5)
    assert list(less) == [0.0, 0.5 / 64, 0.0, 0.0, 0.5 / 16, 0.0, 0.0, 0.25]
    assert list(module.repeats([], [], [], [])) == []


@pytest.mark.parametrize("module", BOTH)
def test_sums_by_group_and_kind(module: Any) -> None:
    found = module.tally([0, 1, 0, -1, 0], [1, 0, 1, 0, 1], [2.0, NAN, 5.0, 9.0, NAN], 2, 2)
    inf = math.inf
    assert list(found) == [0, 3, 1, 0, 0, 2, 0, 0, 0, 7, 0, 0, -inf, 5, -inf, -inf]


@pytest.mark.parametrize("module", BOTH)
def test_what_comes_again_is_found(module: Any) -> None:
    assert module.members([1, 0, 2, 1], b"\0\1\0") == [0, 3] and module.members([], b"") == []
    assert module.superseded([7, -1, 7, 0, 7, -1, 0]) == [0, 1, 2, 3] and module.superseded([]) == []


@pytest.mark.parametrize("module", BOTH)
def test_what_is_wrong_is_named(module: Any) -> None:
    for function, args, says in (
        ("words", ([b"a\x1fb"], 1), r"columns\[0\] has not 1 words"),
        ("words", ([b"a", b""], 2), r"columns\[0\] has not 2 words"),
        ("words", ([b"a"], 0), r"columns\[0\] has not 0 words"),
        ("words", ([], 0), "1 to 16 columns"),
        ("run_times", ([1], []), "ended has 0 entries"),
        ("by_end", ([0], [1], [0], [0.0], [0.0], [0], [0]), r"kind\[0\] is 1"),
        ("by_end", ([-1], [0], [0], [0.0], [0.0], [0], [0]), r"series\[0\] is -1"),
        ("by_end", ([0], [0], [4], [0.0], [0.0], [0], [0]), r"outcome_of\[0\] is 4"),
        ("by_end", ([0], [0], [0], [0.0], [0.0], [], [0]), "own has 0 entries"),
        ("hashes", ([b"a\x1fb"], 1), r"columns\[0\] has not 1 words"),
        ("hashes", ([], 1), "1 to 16 columns"),
        ("repeats", ([0], [0.0], [0], []), "other has 0 entries"),
        ("members", ([1], b"x"), r"group\[0\] is 1"),
        ("tally", ([1], [0], [0.0], 1, 1), r"group\[0\] is 1"),
        ("tally", ([-2], [0], [0.0], 1, 1), r"group\[0\] is -2"),
        ("tally", ([0], [-1], [0.0], 1, 1), r"kind\[0\] is -1"),
        ("tally", ([0], [0], [], 1, 1), "value has 0 entries"),
    ):
        with pytest.raises(ValueError, match=says):
            getattr(module, function)(*args)


if kernel.IMPLEMENTATION == "c":

    @given(st.lists(st.tuples(WORD, WORD), max_size=40), st.lists(WORD, max_size=5), st.booleans())
    def test_c_numbers_words_like_the_twin(
        rows: list[tuple[bytes, bytes]], known: list[bytes], grow: bool
    ) -> None:
        columns = [b"\x1f".join(column) for column in zip(*rows, strict=True)] or [b"", b""]
        one = kernel.words(columns, len(rows), known=known, grow=grow)
        other = reference_runs.words(columns, len(rows), known=known, grow=grow)
        assert (list(one[0]), one[1]) == (list(other[0]), other[1])
        numbers = kernel.hashes(columns, len(rows))
        assert list(numbers) == list(reference_runs.hashes(columns, len(rows)))
        some = [*numbers[::2], 0, *numbers[1::3]]
        assert list(kernel.places(numbers, some)) == list(reference_runs.places(numbers, some))

    @given(st.lists(st.tuples(TIME, TIME, st.integers(0, 5), st.integers(0, 3), FLOAT), max_size=200))
    def test_c_says_of_runs_what_the_twin_says(rows: list[tuple[int, int, int, int, float]]) -> None:
        began, ended, series, kind, value = map(list, zip(*rows, strict=True)) if rows else ([],) * 5
        one, other = kernel.run_times(began, ended), reference_runs.run_times(began, ended)
        for a, b in zip(one, other, strict=True):
            same(a, b)
        for end in (one[0], value):
            for a, b in zip(
                kernel.by_end(series, kind, [0, -1, 2, 3], end, one[1], began, ended),
                reference_runs.by_end(series, kind, [0, -1, 2, 3], end, one[1], began, ended), strict=True,
            ):  # fmt: skip
                same(a, b)
        rule: dict[str, Any] = {"reference": 3.0, "half_life": 1e6, "penalty": 0.9}
        finite = [0.0 if math.isnan(x) else x for x in value]
        args = kind, finite, series, [x % 3 for x in series]
        same(kernel.repeats(*args, **rule), reference_runs.repeats(*args, **rule))
        assert kernel.members(series, b"\0\1\0\1\1\0") == reference_runs.members(series, b"\0\1\0\1\1\0")
        assert kernel.superseded(began) == reference_runs.superseded(began)
        same(kernel.tally(series, kind, value, 6, 4), reference_runs.tally(series, kind, value, 6, 4))
