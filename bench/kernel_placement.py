"""Figures of placement and ranking, beside a sort, an empty call and a sum over as many bytes in the same run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from random import Random
from typing import Any, Literal, NamedTuple

import numpy as np

from bench.figure import Figure, interleave, percentile
from mgmt import kernel

SORT = "argsort of 100k"
SIZES = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000)


class Tasks(NamedTuple):
    wcet: Any
    period: Any
    deadline: Any


def kernel_placement(quick: bool) -> list[Figure]:
    if kernel.IMPLEMENTATION != "c":
        raise SystemExit("the C kernel is not built: make venv")
    return [
        *_best_fit(quick),
        *_exact(quick),
        *_exhaustive(),
        *_compat(quick),
        *_growth(),
        *_changes(quick),
        *_ranking(quick),
    ]


def _ms(call: Callable[[], object]) -> float:
    """Time of this thread: where others take turns on the core, a long sample would pay for them and a short
    one, the sort, would not."""
    start = time.thread_time()
    call()
    return (time.thread_time() - start) * 1e3


def _sort(n: int) -> Callable[[], float]:
    values = np.random.default_rng(n).random(n)
    return partial(_ms, partial(np.argsort, values))


def _population(
    n: int, cpus: int, load: float, periods: tuple[float, float] = (10_000, 1_000_000), earliest: float = 1.0
) -> Tasks:
    """Uniform shares of `load` on each CPU, log-uniform periods in µs, deadlines from `earliest` times T on."""
    random = np.random.default_rng(n)
    share = random.random(n)
    share *= load * cpus / share.sum()
    period = np.exp(random.uniform(math.log(periods[0]), math.log(periods[1]), n)).astype(np.int64)
    wcet = np.maximum(1, (share * period).astype(np.int64))
    deadline = np.maximum(wcet, (period * random.uniform(earliest, 1, n)).astype(np.int64))
    return Tasks(wcet, period, deadline if earliest < 1 else period)


def _best_fit(quick: bool) -> list[Figure]:
    figures = []
    for n, cpus, goal, floor in ((100_000, 10_000, 12, SORT), (1_000_000, 100_000, 6, "argsort of 1M")):
        rounds = (3 if quick else 5) if n > 100_000 else (5 if quick else 15)
        tasks = _population(n, cpus, 0.95)
        out: Any = np.zeros(n, np.int64)  # a buffer, which the extension's types cannot say
        lists = (tasks.wcet.tolist(), tasks.period.tolist())
        into = partial(kernel.best_fit, tasks.wcet, tasks.period, cpus, out=out)
        told = partial(kernel.best_fit, *lists, cpus)
        buffers, plain, sort = interleave(rounds, partial(_ms, into), partial(_ms, told), _sort(n))
        if told() != out.tolist():
            raise SystemExit("best_fit: lists and buffers disagree")
        name = f"best-fit by utilisation, {n:,} tasks on {cpus:,} CPUs"
        figures.append(Figure(f"{name}, buffers", "ms", buffers, sort, floor, "ratio<=", goal))
        figures.append(Figure(f"{name}, lists", "ms", plain, sort, floor, "ratio<=", goal))
    return figures


def _unsafe(tasks: Tasks, cpus: Sequence[int]) -> int:
    """CPUs on which some response time passes its deadline, found from the answer alone."""
    on: dict[int, list[int]] = {}
    for task in np.argsort(tasks.deadline, kind="stable").tolist():
        on.setdefault(cpus[task], []).append(task)
    columns = [column.tolist() for column in tasks]
    return sum(
        -1 in kernel.response_times(*([column[task] for task in some] for column in columns))
        for some in on.values()
    )


def _place(tasks: Tasks, cpus: int) -> list[int]:
    return kernel.Placement([0] * cpus, test="fp").place(*tasks)


def _exact(quick: bool) -> list[Figure]:
    figures: list[Figure] = []
    kinds: list[tuple[str, float, int, float | None, dict[str, Any]]] = [
        ("load 0.85", 0.85, 10_000, 60, {}),
        ("load 0.85, three decades", 0.85, 10_000, 60, {"periods": (10_000, 10_000_000)}),
        ("load 0.85, periods in an octave", 0.85, 10_000, 60, {"periods": (500_000, 1_000_000)}),
        ("load 0.95", 0.95, 10_000, 600, {}),
        ("load 0.95, periods in an octave", 0.95, 10_000, 600, {"periods": (500_000, 1_000_000)}),
        ("hard: load 0.85, deadlines from 0.8 T", 0.85, 10_000, None, {"earliest": 0.8}),
        ("hard: load 0.6, deadlines from 0.5 T", 0.6, 10_000, None, {"earliest": 0.5}),
        (
            "hard: load 0.6, deadlines from 0.5 T, periods in an octave",
            0.6,
            10_000,
            None,
            {"earliest": 0.5, "periods": (500_000, 1_000_000)},
        ),
    ]
    for name, load, cpus, goal, more in kinds:
        tasks = _population(100_000, cpus, load, **more)
        answer = _place(tasks, cpus)
        if unsafe := _unsafe(tasks, answer):
            raise SystemExit(f"{name}: {unsafe} unsafe CPUs")
        rounds = 3 if quick or goal is None else 7
        ours, sort = interleave(rounds, partial(_ms, partial(_place, tasks, cpus)), _sort(100_000))
        used, least = len(set(answer)), math.ceil((tasks.wcet / tasks.period).sum())
        note = f"all placed, 0 unsafe CPUs; {used:,} CPUs used, {least:,} is the sum of the utilisations"
        sense: Literal["ratio<=", "told"] = "told" if goal is None else "ratio<="
        title = f"exact response times, 100k tasks on 10k CPUs, {name}"
        figures.append(Figure(title, "ms", ours, sort, SORT, sense, goal or 0, note))
        if name == "load 0.95":
            title = "CPUs used, 100k tasks of load 0.95, beside the fewest that any placement needs"
            figures.append(Figure(title, "CPUs", [used], [least], "sum of U", "ratio<=", 1.01))
    return figures


def _first_fit(tasks: Tasks, order: Sequence[int]) -> int:
    """CPUs that exhaustive first-fit with exact tests uses: every task tried on every CPU from the first on."""
    columns = [column.tolist() for column in tasks]
    cpus: list[list[tuple[int, int, int]]] = []
    loads: list[float] = []
    for task in order:
        new = (columns[2][task], columns[1][task], columns[0][task])
        u = new[2] / new[1]
        for at, on in enumerate(cpus):
            if loads[at] + u > 1 + 1e-9:  # no test of any kind would pass
                continue
            level = sorted([*on, new])
            if kernel.fp_schedulable(
                [c for _, _, c in level], [t for _, t, _ in level], [d for d, _, _ in level]
            ):
                on.append(new)
                loads[at] += u
                break
        else:
            cpus.append([new])
            loads.append(u)
    return len(cpus)


def _exhaustive() -> list[Figure]:
    """At a twentieth of the size, which exhaustive first-fit finishes; by the better of two orders."""
    figures = []
    kinds: list[tuple[str, float | None, dict[str, Any]]] = [
        ("load 0.95", 1.01, {}),
        ("load 0.95, periods in an octave", 1.01, {"periods": (500_000, 1_000_000)}),
        ("hard: load 0.95, deadlines from 0.5 T", None, {"earliest": 0.5}),
        (
            "hard: load 0.95, deadlines from 0.5 T, periods in an octave",
            None,
            {"earliest": 0.5, "periods": (500_000, 1_000_000)},
        ),
    ]
    for name, goal, more in kinds:
        tasks = _population(5_000, 500, 0.95, **more)
        ours = len(set(_place(tasks, 1_000)))
        by_deadline = np.argsort(tasks.deadline, kind="stable").tolist()
        by_load = np.argsort(-(tasks.wcet / tasks.period), kind="stable").tolist()
        theirs = min(_first_fit(tasks, by_deadline), _first_fit(tasks, by_load))
        sense: Literal["ratio<=", "told"] = "told" if goal is None else "ratio<="
        title = f"CPUs used, 5k tasks, {name}, beside exhaustive first-fit"
        figures.append(Figure(title, "CPUs", [ours], [theirs], "first-fit", sense, goal or 0))
    return figures


def _compat_calls(n: int, nodes: int) -> dict[str, Callable[[], object]]:
    """The three algorithms on systems that can take every task."""
    random = Random(n)
    period = [random.choice([10_000, 20_000, 50_000, 100_000]) for _ in range(n)]
    cpus = {"shared": 8, "own": n // nodes + 1}
    runtime = {
        kind: [max(1, int(t * 0.8 * nodes * most / n * random.uniform(0.5, 1.5))) for t in period]
        for kind, most in (("shared", cpus["shared"]), ("own", 1))
    }
    target = [random.randrange(nodes) for _ in range(n)]
    free, anywhere, memory = [kernel.NO_AFFINITY] * n, [kernel.UNSET] * n, [64] * n
    offset = {kind: list(range(0, count * nodes + 1, count)) for kind, count in cpus.items()}
    ids = {kind: list(range(count)) * nodes for kind, count in cpus.items()}
    limits = [4096] * nodes
    return {
        "target_node_priority": partial(
            kernel.compat_target_node_priority,
            period, runtime["shared"], target, free, offset["shared"], ids["shared"],
        ),
        "best_fit_decreasing": partial(
            kernel.compat_best_fit_decreasing,
            period, runtime["own"], memory, anywhere, free, offset["own"], ids["own"], limits,
        ),
        "least_loaded": partial(
            kernel.compat_least_loaded,
            period, runtime["own"], memory, free, offset["own"], ids["own"], limits,
        ),
    }  # fmt: skip


def _compat(quick: bool) -> list[Figure]:
    figures = []
    for name, call in _compat_calls(50_000, 256).items():
        ours, sort = interleave(5 if quick else 15, partial(_ms, call), _sort(100_000))
        figures.append(
            Figure(f"compat {name}, 50k tasks on 256 nodes", "ms", ours, sort, SORT, "ratio<=", 40)
        )
    return figures


def _growth() -> list[Figure]:
    """The slope of log time over log tasks, fitted to the fastest of some runs of each size."""
    figures = []
    for nodes in (4, 256):
        took: dict[str, list[float]] = {}
        for n in SIZES:
            for name, call in _compat_calls(n, nodes).items():
                took.setdefault(name, []).append(min(_ms(call) for _ in range(max(15, 100_000 // n))))
        for name, times in took.items():
            slope = float(np.polyfit(np.log(SIZES), np.log(times), 1)[0])
            steps = ", ".join(
                f"{math.log(b / a) / math.log(m / n):.2f}"
                for (n, a), (m, b) in pairwise(zip(SIZES, times, strict=True))
            )
            title = f"compat {name}, growth from 1k to 50k tasks, {nodes} nodes"
            note = f"from size to size: {steps}"
            sense: Literal["value<=", "told"] = "value<=" if nodes == 256 else "told"
            figures.append(Figure(title, "exponent", [slope], sense=sense, goal=1.1, note=note))
    return figures


def _changes(quick: bool) -> list[Figure]:
    """One task more and away again on 10k CPUs that hold 100k tasks; refusals would be counted, there are none."""
    figures: list[Figure] = []
    clock, empty = time.perf_counter_ns, kernel.Placement([]).loads
    tests: tuple[tuple[Literal["fp", "edf", "utilisation"], float, float], ...] = (
        ("fp", 0.85, 150),
        ("fp", 0.95, 150),
        ("edf", 0.85, 150),
        ("utilisation", 0.85, 50),
        ("utilisation", 0.95, 50),
    )
    for test, load, goal in tests:
        tasks = _population(100_000, 10_000, load)
        placement = kernel.Placement([0] * 10_000, test=test)
        placement.place(*tasks)
        random = Random(7)
        calls = 2_000 if quick else 10_000
        new = [
            (100_000 + k, max(1, int(tasks.wcet[like] * random.uniform(0.5, 1.2))), int(tasks.period[like]))
            for k, like in enumerate(random.choices(range(100_000), k=calls))
        ]

        def change(placement: Any = placement, new: list[tuple[int, int, int]] = new) -> float:
            took = []
            for task, wcet, period in new:
                start = clock()
                placement.admit(task, wcet, period)
                placement.remove(task)
                took.append(clock() - start)
            return percentile(took, 0.99) / 1e3

        def nothing() -> float:
            """The mean of many, in a loop like the one above less its clock."""
            start = clock()
            for _ in range(100_000):
                empty()
            return (clock() - start) / 1e5 / 1e3

        change()  # numbers of tasks grow the table once
        ours, floor = interleave(3 if quick else 7, change, nothing)
        title = f"admit and remove one task of 100k, {test}, load {load}: 99th percentile"
        note = "the floor is the mean time of an empty call in a loop; ours holds two calls of the clock"
        figures.append(Figure(title, "µs", ours, floor, "empty call", "ratio<=", goal, note))
    return figures


def _ranking(quick: bool) -> list[Figure]:
    n, figures = 1_000_000, []
    random = np.random.default_rng(9)
    columns: list[Any] = [  # buffers, as `out` is
        random.random(n) * 100 + 1,
        random.random(n) * 0.99 + 0.01,
        random.random(n) * 1e9,
        random.integers(0, 3, n).astype(float),
        random.random(n),
    ]
    out: Any = np.zeros(n)
    for count in (4, 5):
        values = np.ones(n * (count + 1))  # the columns and the result

        def ranked(given: list[Any] = columns[:count]) -> None:
            kernel.score(*given, out=out)
            kernel.top_k(out, 1000)

        scored, best, total = interleave(
            7 if quick else 31,
            partial(_ms, partial(kernel.score, *columns[:count], out=out)),
            partial(_ms, ranked),
            partial(_ms, values.sum),
        )
        name = f"score of 1M candidates, {count} columns"
        floor = f"numpy.sum of {8 * (count + 1)} MB"
        figures.append(Figure(name, "ms", scored, total, floor, "ratio<=", 1))
        figures.append(Figure(f"{name}, and the best 1000", "ms", best, total, floor, "ratio<=", 1.5))
    return figures
