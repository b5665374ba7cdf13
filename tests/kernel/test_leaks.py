"""No function or method of the extension keeps memory or references, done or refused; none is left out."""

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
NODE, AFFINITY, OFFSET, CPUS = [0, 1] * (N // 2), [-1, 2] * (N // 2), [0, 30, 60], list(range(60))
VALUE, CHANCE = [300.5 + i for i in range(N)], [0.5] * N
KEY = [4 * i + i % 4 for i in range(N)]
WORDS = b"\x1f".join(b"w%d" % (i % 30) for i in range(N))
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


def estimated() -> tuple[Any, ...]:
    matrix = kernel.history(KEY, VALUE, VALUE, N)
    rows = list(range(N))
    return VALUE, CHANCE, CHANCE, rows, rows, rows, matrix, matrix, CHANCE, VALUE, VALUE


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
    "compat_target_node_priority": lambda: compat([NODE, AFFINITY, OFFSET, CPUS]),
    "compat_best_fit_decreasing": lambda: compat([EXTRA, NODE, AFFINITY, OFFSET, CPUS, [4096, 4096]]),
    "compat_least_loaded": lambda: compat([EXTRA, AFFINITY, OFFSET, CPUS, [4096, 4096]]),
    "compat_hyperperiod": lambda: [((PERIOD,), {}), (([-1],), {}), ((BUFFERS[1],), {}), ((5,), {})],
    "best_fit": lambda: [
        ((WCET, PERIOD, N), {}),
        ((*BUFFERS[:2], N), {"out": array("q", [0] * N)}),
        ((WCET, PERIOD, 0), {}),
        ((WCET, PERIOD, N), {"out": array("d", [0.0] * N)}),
        ((WCET, [0] * N, N), {}),
        ((WCET, [1], N), {}),
        ((WRONG[0], PERIOD, N), {}),
        ((WCET, PERIOD, -1), {}),
    ],
    "score": lambda: [
        ((VALUE, CHANCE, VALUE), {}),
        ((VALUE, CHANCE, VALUE, VALUE, VALUE), {"default_offset": 1.0, "subsecond_twice": True}),
        ((array("d", VALUE), array("d", CHANCE), array("d", VALUE)), {"out": array("d", VALUE)}),
        ((VALUE, CHANCE, ["x"] * N), {}),
        ((VALUE, CHANCE, [1.0]), {}),
        ((VALUE, CHANCE, VALUE), {"out": [1.0] * N}),
        ((VALUE, CHANCE, VALUE), {"default_offset": "x"}),
    ],
    "recent": lambda: [
        ((KEY, VALUE, N, 3), {}),
        ((KEY, VALUE, 2, 1), {"group_of": [0, 1] * (N // 2)}),
        ((KEY, [1.0], N, 3), {}),
        ((KEY, VALUE, 1, 3), {}),
        ((KEY, VALUE, N, 0), {}),
    ],
    "words": lambda: [
        (([WORDS, WORDS], N), {}),
        (([WORDS], N), {"known": [b"w3", b"w3", b"other"], "grow": False}),
        (([WORDS], N - 1), {}),
        (([WORDS], N), {"known": ["text"]}),
        (([], N), {}),
        ((["text"], N), {}),
    ],
    "run_times": lambda: [((KEY, KEY), {"epoch": 5.0}), ((KEY, [1]), {}), ((KEY, ["x"] * N), {})],
    "by_end": lambda: [
        ((KEY, [0, 1] * (N // 2), [0, -1], VALUE, VALUE, KEY, KEY), {}),
        ((KEY, [0, 1] * (N // 2), [0, 3], VALUE, VALUE, KEY, KEY), {}),
        ((KEY, [2] * N, [0, 1], VALUE, VALUE, KEY, KEY), {}),
        ((KEY, [0] * N, [7], VALUE, VALUE, KEY, KEY), {}),
        ((KEY, [0] * N, [0], VALUE, [1.0], KEY, KEY), {}),
        ((KEY, [0] * N, [0], VALUE, VALUE, KEY, [1]), {}),
    ],
    "hashes": lambda: [
        (([b"\x1f".join([b"w"] * N)], N), {}),
        (([b"w"], N), {}),
        (([], N), {}),
        ((["text"], N), {}),
    ],
    "places": lambda: [((KEY, KEY), {}), ((KEY, ["x"]), {}), ((["x"], KEY), {})],
    "repeats": lambda: [
        ((KEY, VALUE, KEY, KEY), {"penalty": 0.9}),
        ((KEY, VALUE, KEY, [1]), {}),
        ((KEY, VALUE, KEY, KEY), {"half_life": 0.0}),
    ],
    "members": lambda: [(([0, 1] * N, b"ab"), {}), (([0, 2], b"ab"), {}), ((["x"], b"ab"), {})],
    "superseded": lambda: [(([*KEY, *KEY],), {}), ((["x"],), {})],
    "tally": lambda: [
        (([-1, 1] * (N // 2), [0] * N, VALUE, 2, 1), {}),
        (([2] * N, [0] * N, VALUE, 2, 1), {}),
        (([0] * N, [1] * N, VALUE, 2, 1), {}),
        (([0] * N, [0] * N, VALUE, -2, 1), {}),
        (([0] * N, [0] * N, [1.0], 2, 1), {}),
    ],
    "history": lambda: [
        ((KEY, VALUE, VALUE, N), {}),
        (
            (array("q", KEY), array("d", VALUE), array("d", VALUE), 2),
            {"group_of": [0, 1] * (N // 2), "window": 3},
        ),
        ((KEY, VALUE, VALUE, N), {"out": array("d", [0.0] * (12 * N))}),
        ((KEY, VALUE, ["x"] * N, N), {}),
        ((KEY, VALUE, [1.0], N), {}),
        ((KEY, VALUE, VALUE, 1), {}),
        ((KEY, VALUE, VALUE, N), {"half_life": 0.0}),
        ((KEY, VALUE, VALUE, N), {"out": [1.0]}),
    ],
    "estimate": lambda: [
        (estimated(), {}),
        (estimated(), {"out": array("d", [0.0] * (3 * N)), "quantile": 1}),
        ((*estimated()[:3], KEY, *estimated()[4:]), {}),
        ((*estimated()[:-1], ["x"]), {}),
        (estimated(), {"strength": -1.0}),
        (estimated(), {"out": [1.0]}),
    ],
    "top_k": lambda: [
        ((VALUE, 5), {}),
        ((array("d", VALUE), N), {}),
        ((VALUE, -1), {}),
        ((["x"], 1), {}),
        ((VALUE, 2**70), {}),
    ],
    "Placement": lambda: [
        (([0] * N,), {}),
        (([0] * N, EXTRA, [5]), {"reserve": [0] * N, "test": "edf", "choose": "first", "priorities": True}),
        (([5],), {}),
        (([0], ["x"]), {}),
        (([0], [1], [1], [1]), {}),
        (([0],), {"test": 5}),
        (([0],), {"reserve": [-1]}),
        (([0],), {"memory": [1, 2]}),
    ],
    "Placement.admit": lambda: [
        ((300, 1, 1000), {}),
        ((301, 1, 1000, 900), {"jitter": 3, "priority": 9, "memory": 1, "target": 0, "mask": 1 << 300 | 1}),
        ((302, 990, 1000), {}),
        ((303, 1, 1000), {"mask": 0}),
        ((304, 1, 1000), {"memory": 10**9}),
        ((305, 1, "x"), {}),
        ((306, 1, 1000), {"mask": "x"}),
        ((0, 1, 1000), {}),
    ],
    "Placement.place": lambda: [
        ((WCET[:5], PERIOD[:5]), {"first": 300}),
        (
            (WCET[:5], PERIOD[:5], DEADLINE[:5]),
            {"first": 310, "mask": [None, 1, 1 << 200 | 1, 3, 1], "order": "given"},
        ),
        ((WCET, PERIOD), {"first": 400}),
        ((WCET, PERIOD), {"first": 0}),
        ((WRONG[0], PERIOD), {"first": 400}),
        ((WCET, PERIOD), {"first": 400, "mask": ["x"] * N}),
        ((WCET, PERIOD), {"first": 400, "mask": 5}),
        ((WCET, PERIOD), {"first": 400, "order": "never"}),
    ],
    "Placement.remove": lambda: [((0,), {}), ((1,), {}), ((0,), {}), (("x",), {}), ((2**70,), {})],
    "Placement.resize": lambda: [
        ((0, 900), {}),
        ((0, 900, 60_000, 50_000), {}),
        ((0, 50_000), {}),
        ((999, 1), {}),
        ((0, "x"), {}),
    ],
    "Placement.move": lambda: [((0, 0), {}), ((0, 1), {}), ((0, 99), {}), ((999, 0), {}), ((5,), {})],
    "Placement.rebalance": lambda: [((), {}), ((0,), {}), ((-1,), {}), ((), {"most": "x"})],
    "Placement.cpu_of": lambda: [((0,), {}), ((999,), {}), (("x",), {})],
    "Placement.tasks_on": lambda: [((0,), {}), ((99,), {}), (("x",), {})],
    "Placement.response_times": lambda: [((0,), {}), ((99,), {}), (("x",), {})],
    "Placement.loads": lambda: [((), {}), ((1,), {})],
}


def compat(columns: list[list[int]]) -> Calls:
    wrong: list[Any] = [*columns[:-1], ["x"] * len(columns[-1])]
    return [
        ((PERIOD, WCET, *columns), {}),
        ((*BUFFERS[1::-1], *(array("q", column) for column in columns)), {}),
        ((PERIOD, WCET, *wrong), {}),
        ((PERIOD, WCET[1:], *columns), {}),
        ((PERIOD, WCET, *columns[:-1], 5), {}),
        ((PERIOD,), {}),
    ]


def a_placement() -> Any:
    """With the tasks of SET; so full that a large one is refused."""
    from mgmt.kernel import _kernel

    placement = _kernel.Placement([0, 0, 1], [0, 1, 200], [10**6, 10**6], test="fp", choose="first")
    placement.place(*SET, memory=[1] * N)
    return placement


def functions() -> list[str]:
    """All that can be called: functions, classes and their public methods."""
    from mgmt.kernel import _kernel

    found = []
    for name, value in vars(_kernel).items():
        if inspect.isbuiltin(value) or (isinstance(value, type) and value.__module__ == "mgmt.kernel"):
            found.append(name)
        if isinstance(value, type):
            found += [f"{name}.{method}" for method in vars(value) if not method.startswith("_")]
    return sorted(found)


def test_no_function_is_left_out() -> None:
    assert functions() == sorted(CALLS)


def once(function: Any, calls: Calls) -> int:
    refused = 0
    for arguments, keywords in calls:
        try:
            function(*arguments, **keywords)
        except (TypeError, ValueError, OverflowError, LookupError):
            refused += 1
    return refused


@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_kept(name: str) -> None:
    from mgmt.kernel import _kernel

    calls = CALLS[name]()
    class_name, _, method = name.partition(".")

    def function(*arguments: Any, **keywords: Any) -> Any:
        # A method is called on an object of its own, so that every call meets the same state.
        place = a_placement() if method else _kernel
        return getattr(place, method or class_name)(*arguments, **keywords)

    held = [
        *SET,
        EXTRA,
        *BUFFERS,
        *TABLE_SET,
        CHAIN,
        kernel.Table,
        kernel.Infeasible,
        kernel.TableFault,
        kernel.Refused,
        _kernel.Placement,
        VALUE,
        CPUS,
        None,
    ]
    for _ in range(3):
        refused = once(function, calls)
    assert 0 < refused < len(calls), "both ways must be walked"
    rounds = 50
    gc.collect()
    counts = [sys.getrefcount(value) for value in held]
    grown = []
    tracemalloc.start()
    try:
        once(function, calls)
        for _ in range(4):
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(rounds):
                once(function, calls)
            gc.collect()
            grown.append(tracemalloc.get_traced_memory()[0] - before)
    finally:
        tracemalloc.stop()
    # Less than the smallest object a round. The interpreter's caches fill for a while; a leak never ends.
    assert min(grown) < 16 * rounds, grown
    now = [sys.getrefcount(value) for value in held]
    assert all(abs(a - b) < rounds // 2 for a, b in zip(counts, now, strict=True)), list(
        zip(counts, now, strict=True)
    )
