"""Figures of the scheduling analyses: the C kernel beside its Python twin, a published package and a sort."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from random import Random
from typing import NamedTuple

import numpy as np
from response_time_analysis import model
from response_time_analysis.analysis import fp

from bench.figure import Figure, interleave
from mgmt import kernel as fast
from mgmt.kernel import reference

LONG_S = 0.02  # a sample repeats what is shorter


class Tasks(NamedTuple):
    wcet: list[int]
    period: list[int]
    deadline: list[int]


def kernel(quick: bool) -> list[Figure]:
    if fast.IMPLEMENTATION != "c":
        raise SystemExit("the C kernel is not built: make venv")
    return [*_response_times(quick), *_edf(quick), *_table(quick)]


def _decades(random: Random) -> int:
    """Log-uniform from 10 ms to 1 s, in µs."""
    return round(math.exp(random.uniform(math.log(10_000), math.log(1_000_000))))


def _octave(random: Random) -> int:
    return random.randint(500_000, 1_000_000)


def _tasks(
    random: Random, n: int, load: float, period: Callable[[Random], int], earliest: float = 1.0
) -> Tasks:
    """A load spread as UUniFast does, rate monotonic; deadlines uniform from `earliest` of the period to it."""
    shares, left = [], load
    for i in range(n - 1, 0, -1):
        rest = left * random.random() ** (1 / i)
        shares.append(left - rest)
        left = rest
    periods = sorted(period(random) for _ in range(n))
    wcets = [max(1, int(t * u)) for t, u in zip(periods, [*shares, left], strict=True)]
    return Tasks(
        wcets,
        periods,
        [random.randint(max(c, int(t * earliest)), t) for c, t in zip(wcets, periods, strict=True)],
    )


def _a_second(call: Callable[[], object]) -> float:
    """How often it can be done in a second."""
    start, times = time.perf_counter(), 0
    while True:
        call()
        times += 1
        took = time.perf_counter() - start
        if took > LONG_S:
            return times / took


def _beside_twin(
    name: str,
    rounds: int,
    ours: Callable[[], object],
    twin: Callable[[], object],
    goal: float | None,
    note: str = "",
) -> Figure:
    if ours() != twin():
        raise SystemExit(f"{name}: C and Python disagree")
    here, there = interleave(rounds, partial(_a_second, ours), partial(_a_second, twin))
    if goal is None:
        return Figure(name, "a second", here, there, "twin", note=note)
    return Figure(name, "a second", here, there, "twin", "ratio>=", goal, note)


def _response_times(quick: bool) -> list[Figure]:
    random, figures = Random(1), []
    for n, goal in ((10, 30), (100, 200), (1000, 600)):
        rounds = 5 if n < 1000 and not quick else 3
        for periods, bound in ((_decades, goal), (_octave, None)):
            tasks = _tasks(random, n, 0.85, periods)
            where = "" if bound else ", periods in an octave"
            figures.append(
                _beside_twin(
                    f"response_times, n = {n}, U = 0.85{where}",
                    rounds,
                    partial(fast.response_times, *tasks),
                    partial(reference.response_times, *tasks),
                    bound,
                )
            )
            if n == 100 and bound:
                figures.append(_beside_package(tasks, 3 if quick else 5))
    return figures


def _beside_package(tasks: Tasks, rounds: int) -> Figure:
    models = [
        model.Task(
            model.Periodic(t),
            model.FullyPreemptive(model.WCET(c)),
            model.Deadline(d),
            model.Priority(len(tasks.wcet) - i),
        )
        for i, (c, t, d) in enumerate(zip(*tasks, strict=True))
    ]

    def theirs() -> list[int]:
        whole, cpu = model.taskset(models), model.IdealProcessor()
        found = [fp.rta(whole, one, cpu, horizon=2 * max(tasks.period)).response_time_bound for one in models]
        return [-1 if r is None or r > d else r for r, d in zip(found, tasks.deadline, strict=True)]

    name = "response_times, n = 100, against response-time-analysis"
    if fast.response_times(*tasks) != theirs():
        raise SystemExit(f"{name}: the answers differ")
    ours, there = interleave(
        rounds, partial(_a_second, partial(fast.response_times, *tasks)), partial(_a_second, theirs)
    )
    return Figure(name, "a second", ours, there, "package", "ratio>=", 1000)


def _each(test: Callable[[list[int], list[int], list[int]], bool], sets: list[Tasks]) -> list[bool]:
    return [test(*tasks) for tasks in sets]


def _edf(quick: bool) -> list[Figure]:
    random, figures = Random(2), []
    for n in (100, 1000):
        for periods, goal in ((_decades, 200.0), (_octave, None)):
            # Around the edge: each set with the load that its deadlines just bear, and a little more.
            sets = [
                _tasks(random, n, load, periods, earliest=0.1)
                for load in (0.85, 0.9, 0.94, 0.97, 0.985, 0.995)
                for _ in range(3)
            ]
            accepted = sum(fast.edf_schedulable(*tasks) for tasks in sets)
            where = "" if goal else ", periods in an octave"
            figures.append(
                _beside_twin(
                    f"edf_schedulable, n = {n}, constrained{where}",
                    3 if quick else 5,
                    partial(_each, fast.edf_schedulable, sets),
                    partial(_each, reference.edf_schedulable, sets),
                    goal,
                    f"each time {len(sets)} sets, of which {accepted} fit",
                )
            )
    return figures


def _table(quick: bool) -> list[Figure]:
    """One hyperperiod of a million jobs, validated, beside sorting a million floats."""
    random, figures = Random(3), []
    values = np.random.default_rng(3).random(1_000_000)
    for n in (20, 2000):
        periods = [
            1000 * random.choice([1000, 2000, 2500, 5000, 10_000, 20_000, 50_000, 100_000])
            for _ in range(n - 1)
        ]
        base = math.lcm(*periods)
        periods.append(base * max(1, round(1e6 / sum(base // t for t in periods))))
        weights = [random.random() for _ in periods]
        wcet = [max(1, int(0.9 * t * w / sum(weights))) for t, w in zip(periods, weights, strict=True)]
        jobs = sum(periods[-1] // t for t in periods)

        def made(wcet: list[int] = wcet, periods: list[int] = periods) -> float:
            start = time.perf_counter()
            table = fast.table(wcet, periods, periods)
            fault = fast.table_fault(table, wcet, periods, periods)
            took = time.perf_counter() - start
            if fault is not None:
                raise SystemExit(f"table: {fault}")
            return took * 1e3

        def sort() -> float:
            start = time.perf_counter()
            np.argsort(values)
            return (time.perf_counter() - start) * 1e3

        ours, floor = interleave(5 if quick else 9, made, sort)
        name = f"table of {jobs / 1e6:.2f} million jobs of {n} tasks, validated"
        figures.append(Figure(name, "ms", ours, floor, "argsort of 1M", "ratio<=", 9))
    return figures
