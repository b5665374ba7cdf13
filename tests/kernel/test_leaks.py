"""No function of the extension keeps memory or references, in success or in refusal; none is left out."""

from __future__ import annotations

import gc
import inspect
import sys
import tracemalloc
from array import array
from collections.abc import Callable
from typing import Any

import pytest

from mgmt import kernel

pytestmark = pytest.mark.skipif(kernel.IMPLEMENTATION != "c", reason="there is only the twin")

N = 40  # above what small objects and freelists hide
WCET, PERIOD, DEADLINE = (
    [1000 + i for i in range(N)],
    [50_000 + i for i in range(N)],
    [49_000 + i for i in range(N)],
)
EXTRA = [300 + i for i in range(N)]
SET: tuple[Any, ...] = (WCET, PERIOD, DEADLINE)
BUFFERS = tuple(array("q", column) for column in SET)
WRONG = ([*WCET, None], [*PERIOD, 5], [*DEADLINE, 5])
NEGATIVE = (WCET, PERIOD, [-1, *DEADLINE[1:]])
CHAIN = [(i, i + 1) for i in range(N - 1)]
TABLE_SET: tuple[Any, ...] = ([1000] * N, [60_000, 120_000] * (N // 2), [50_000] * N)
BOTH = {"jitter": EXTRA, "blocking": EXTRA}

Calls = list[tuple[tuple[Any, ...], dict[str, Any]]]


def analysis(**keywords: Any) -> Calls:
    return [
        (SET, {}),
        (SET, keywords),
        (BUFFERS, {}),
        (tuple(iter(c) for c in SET), {}),
        (WRONG, {}),
        (NEGATIVE, {}),
        (SET, {"jitter": [1]}),
        ((*SET, EXTRA), {}),
        (SET, {"unknown": 1}),
        ((1, 2, 3), {}),
    ]


def table_of() -> Any:
    return kernel.table(*TABLE_SET)


CALLS: dict[str, Callable[[], Calls]] = {
    "response_times": lambda: analysis(**BOTH),
    "fp_schedulable": lambda: analysis(**BOTH),
    "edf_schedulable": lambda: analysis(jitter=EXTRA),
    "audsley": lambda: analysis(**BOTH),
    "sensitivity": lambda: [*analysis(**BOTH), (SET, {"policy": "edf"}), (SET, {"policy": 5})],
    "hyperperiod": lambda: [(([4] * N,), {}), ((PERIOD,), {}), (([],), {}), ((["x"],), {}), ((5,), {})],
    "table": lambda: [
        (TABLE_SET, {}),
        (TABLE_SET, {"offset": [5] * N, "precedence": [(0, 2), (1, 3)]}),
        (TABLE_SET, {"precedence": CHAIN}),
        (TABLE_SET, {"precedence": [(0, 2), (2, 0)]}),
        (TABLE_SET, {"precedence": [(1, 2, 3)]}),
        (TABLE_SET, {"precedence": [1]}),
        (TABLE_SET, {"precedence": 1}),
        (([9000] * N, *TABLE_SET[1:]), {}),
        (SET, {}),
        (WRONG, {}),
    ],
    "table_fault": lambda: [
        ((table_of(), *TABLE_SET), {}),
        ((table_of(), *TABLE_SET), {"precedence": [(2, 0)]}),
        (((*table_of()[:3], [None]), *TABLE_SET), {}),
        (((120_000, [0], [], []), *TABLE_SET), {}),
        (((120_000, [], [], []), *TABLE_SET), {}),
        ((("x", [], [], []), *TABLE_SET), {}),
        ((5, *TABLE_SET), {}),
        ((table_of(), *WRONG), {}),
    ],
    "_demand": lambda: [
        ((0, 100, EXTRA, PERIOD, WCET), {}),
        ((9, 100, EXTRA, PERIOD, WCET), {}),
        ((0, "x", EXTRA, PERIOD, WCET), {}),
        ((0, 100, EXTRA, PERIOD, [1]), {}),
    ],
}


def functions() -> list[str]:
    from mgmt.kernel import _kernel

    return sorted(name for name, value in vars(_kernel).items() if inspect.isbuiltin(value))


# Those of placement and ranking have a list of their own.
ELSEWHERE = ("compat_",)


def test_no_function_is_left_out() -> None:
    assert [name for name in functions() if not name.startswith(ELSEWHERE)] == sorted(CALLS)


def once(function: Any, calls: Calls) -> int:
    refused = 0
    for arguments, keywords in calls:
        try:
            function(*arguments, **keywords)
        except (TypeError, ValueError, OverflowError):
            refused += 1
    return refused


@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_kept(name: str) -> None:
    from mgmt.kernel import _kernel

    function, calls = getattr(_kernel, name), CALLS[name]()
    held = [
        *SET,
        EXTRA,
        *BUFFERS,
        *TABLE_SET,
        CHAIN,
        kernel.Table,
        kernel.Infeasible,
        kernel.TableFault,
        None,
    ]
    for _ in range(3):
        refused = once(function, calls)
    assert 0 < refused < len(calls), "both ways must be walked"
    rounds = 50
    gc.collect()
    counts = [sys.getrefcount(value) for value in held]
    tracemalloc.start()
    try:
        once(function, calls)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(rounds):
            once(function, calls)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 16 * rounds  # less than the smallest object a round
    now = [sys.getrefcount(value) for value in held]
    assert all(abs(a - b) < rounds // 2 for a, b in zip(counts, now, strict=True)), list(
        zip(counts, now, strict=True)
    )
