"""The analyses against everything that can answer the same: the twin, a published package, a plain simulator."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from response_time_analysis.analysis import edf, fp
from response_time_analysis.model import (
    WCET,
    Deadline,
    FullyPreemptive,
    IdealProcessor,
    Periodic,
    PeriodicWithJitter,
    Priority,
    Task,
    taskset,
)

from mgmt import kernel
from mgmt.kernel import reference
from tests.kernel import tasksets
from tests.kernel.tasksets import INT64_MAX, TaskSet

needs_c = pytest.mark.skipif(kernel.IMPLEMENTATION != "c", reason="there is only the twin")


def outcome(call: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """The result, or the error's type and text."""
    try:
        return call(*arguments, **keywords)
    except (ValueError, OverflowError, TypeError) as error:
        return type(error), str(error)


def same(name: str, tasks: TaskSet, **keywords: Any) -> None:
    columns = tasks[:3]
    if name != "edf_schedulable":
        keywords["blocking"] = tasks.blocking
    ours = outcome(getattr(kernel, name), *columns, jitter=tasks.jitter, **keywords)
    theirs = outcome(getattr(reference, name), *columns, jitter=tasks.jitter, **keywords)
    if isinstance(ours, tuple) and isinstance(theirs, tuple) and ours[0] is theirs[0] is OverflowError:
        return  # which function on the way gave up is told differently
    assert ours == theirs


# ---- the twin ----


@needs_c
@settings(max_examples=600, deadline=None)
@given(tasksets.task_sets())
def test_c_and_twin_agree(tasks: TaskSet) -> None:
    for name in ("response_times", "fp_schedulable", "edf_schedulable", "audsley"):
        same(name, tasks)


@needs_c
@settings(max_examples=100, deadline=None)
@given(tasksets.task_sets(most=4, longest=500))
def test_sensitivity_agrees(tasks: TaskSet) -> None:
    same("sensitivity", tasks)
    same("sensitivity", tasks._replace(blocking=None), policy="edf")


LARGE = st.one_of(st.integers(1, 2**20), st.integers(2**49, 2**54), st.integers(2**60, INT64_MAX))


@st.composite
def large_sets(draw: st.DrawFn) -> TaskSet:
    """Numbers on both sides of what doubles hold, up to the end of int64; loads that end an analysis early."""
    n = draw(st.integers(1, 4))
    period = [draw(LARGE) for _ in range(n)]
    wcet = [max(1, t // draw(st.integers(2 * n - 1, 5 * n))) for t in period]
    deadline = [draw(st.one_of(st.just(t), st.integers(max(1, t // 2), t))) for t in period]
    jitter = [draw(st.integers(0, t // 8)) for t in period] if draw(st.booleans()) else None
    blocking = [draw(st.integers(0, t // 8)) for t in period] if draw(st.booleans()) else None
    return TaskSet(wcet, period, deadline, jitter, blocking)


@needs_c
@settings(max_examples=400, deadline=None)
@given(large_sets())
# The lower bound of the first iteration was once cut off above 2^62.
@example(
    TaskSet(
        [4527466040090232832, 2117710583029314560],
        [6580254414536520503, 6788363859693114550],
        [6580254414536520503, 6788363859693114550],
        [0, 0],
        [1474806467157684277, 983834834029937187],
    )
)
def test_large_numbers_agree(tasks: TaskSet) -> None:
    for name in ("response_times", "fp_schedulable", "edf_schedulable", "audsley"):
        same(name, tasks)


@needs_c
def test_jitter_beyond_every_deadline_agrees() -> None:
    """Differences of deadlines and jitter that pass int64 on the way."""
    for jitter in (INT64_MAX, INT64_MAX - 1, 2**62):
        for period in (1, 2**62, INT64_MAX):
            tasks = TaskSet([1, 1], [period, INT64_MAX], [1, INT64_MAX], [jitter, 0])
            for name in ("response_times", "fp_schedulable", "edf_schedulable", "audsley"):
                same(name, tasks)
            assert kernel.edf_schedulable(*tasks[:3], jitter=tasks.jitter) is False


@needs_c
def test_many_tasks_agree() -> None:
    random = Random(11)
    for load in (0.7, 0.9, 0.97):
        for jitter in (False, True):
            tasks = tasksets.random_set(
                random, tasks=120, load=load, periods=tasksets.decades, constrained=True, jitter=jitter
            )
            for name in ("response_times", "fp_schedulable", "edf_schedulable"):
                same(name, tasks)
            same("response_times", tasks._replace(blocking=[random.randint(0, 9) for _ in tasks.wcet]))


@needs_c
@settings(max_examples=200, deadline=None)
@given(
    terms=st.lists(
        st.tuples(st.integers(-(2**49), 2**49), st.integers(1, 2**49), st.integers(1, 8)), max_size=40
    ),
    t=st.integers(0, 2**49),
)
def test_the_variants_of_the_inner_loops_agree(terms: list[tuple[int, int, int]], t: int) -> None:
    from mgmt.kernel import _kernel

    # So many jobs that doubles hold their sum.
    terms = [(offset, max(period, (t + abs(offset)) // 2**40), wcet) for offset, period, wcet in terms]
    columns = [list(column) for column in zip(*terms, strict=True)] or [[], [], []]
    jobs = [max(0, (t + offset) // period) for offset, period, _ in terms]
    work = sum(k * wcet for k, (_, _, wcet) in zip(jobs, terms, strict=True))
    last = max(
        (k * period - offset for k, (offset, period, _) in zip(jobs, terms, strict=True) if k), default=0
    )
    tried = 0
    for simd in range(3):
        try:
            got = _kernel._demand(simd, t, *columns)
        except ValueError:
            continue  # not on this CPU
        assert got == (work, max(0, last)), simd
        tried += 1
    assert tried


# ---- a published package, which knows preemptive fixed priority and EDF ----


def package_fp(tasks: TaskSet) -> list[int]:
    """Response times from the arrival as that package has them; -1 past the deadline."""
    jitter = tasks.jitter or [0] * len(tasks.wcet)
    models = [
        Task(PeriodicWithJitter(t, j), FullyPreemptive(WCET(c)), Deadline(d), Priority(len(jitter) - i))
        for i, (c, t, d, j) in enumerate(zip(tasks.wcet, tasks.period, tasks.deadline, jitter, strict=True))
    ]
    horizon = 2 * max(tasks.period) + 1
    answers = []
    for model, deadline, late in zip(models, tasks.deadline, jitter, strict=True):
        found = fp.rta(taskset(models), model, IdealProcessor(), horizon=horizon).response_time_bound
        answers.append(-1 if found is None or found + late > deadline else found + late)
    return answers


def package_edf(tasks: TaskSet) -> bool:
    models = [
        Task(Periodic(t), FullyPreemptive(WCET(c)), Deadline(d))
        for c, t, d in zip(tasks.wcet, tasks.period, tasks.deadline, strict=True)
    ]
    horizon = 50 * max(tasks.period)
    for model, deadline in zip(models, tasks.deadline, strict=True):
        found = edf.rta(taskset(models), model, IdealProcessor(), horizon=horizon).response_time_bound
        if found is None or found > deadline:
            return False
    return True


@pytest.mark.timeout(240)
def test_fixed_priority_as_the_package_says() -> None:
    random = Random(1)
    fitting = missing = 0
    for turn in range(3000):
        tasks = tasksets.random_set(
            random,
            tasks=random.randint(1, 6),
            load=random.uniform(0.9, 1.0) if turn % 2 else random.uniform(0.5, 1.05),
            periods=random.choice([tasksets.octave, tasksets.decades]),
            constrained=turn % 3 == 0,
            jitter=turn % 4 == 0,
        )
        expected = package_fp(tasks)
        assert kernel.response_times(*tasks[:3], jitter=tasks.jitter) == expected, tasks
        assert kernel.fp_schedulable(*tasks[:3], jitter=tasks.jitter) is (-1 not in expected), tasks
        fitting, missing = fitting + (-1 not in expected), missing + (-1 in expected)
    assert min(fitting, missing) > 3000 / 3


@pytest.mark.timeout(240)
def test_edf_as_the_package_says() -> None:
    random = Random(2)
    fitting = missing = 0
    for turn in range(3000):
        tasks = tasksets.random_set(
            random,
            tasks=random.randint(1, 5),
            load=random.uniform(0.9, 0.99) if turn % 2 else random.uniform(0.5, 0.95),
            periods=lambda random: random.choice([tasksets.octave, tasksets.decades])(random) // 50 + 3,
            constrained=True,
        )
        if sum(c / t for c, t in zip(tasks.wcet, tasks.period, strict=True)) > 1:
            continue
        expected = package_edf(tasks)
        assert kernel.edf_schedulable(*tasks[:3]) is expected, tasks
        fitting, missing = fitting + expected, missing + (not expected)
    assert min(fitting, missing) > 3000 / 3


# ---- running it ----


def length_of(tasks: TaskSet) -> int:
    return math.lcm(*tasks.period) + max(tasks.deadline)


def small_sets(turns: int, seed: int) -> list[TaskSet]:
    random = Random(seed)
    return [
        tasksets.random_set(
            random,
            tasks=random.randint(1, 5),
            load=random.uniform(0.6, 1.1),
            periods=tasksets.small,
            constrained=turn % 2 == 0,
            jitter=turn % 3 == 0,
        )
        for turn in range(turns)
    ]


@pytest.mark.timeout(240)
def test_fixed_priority_as_it_runs() -> None:
    missing = 0
    sets = small_sets(1500, 3)
    for tasks in sets:
        run = tasksets.simulate(tasks, "fp", length_of(tasks))
        expected = [-1 if late else response for response, late in zip(run.response, run.late, strict=True)]
        assert kernel.response_times(*tasks[:3], jitter=tasks.jitter) == expected, tasks
        assert kernel.fp_schedulable(*tasks[:3], jitter=tasks.jitter) is not any(run.late), tasks
        missing += any(run.late)
    assert len(sets) / 3 < missing < len(sets) * 2 / 3


@pytest.mark.timeout(240)
def test_edf_as_it_runs() -> None:
    missing = 0
    sets = small_sets(1500, 4)
    for tasks in sets:
        run = tasksets.simulate(tasks, "edf", length_of(tasks))
        assert kernel.edf_schedulable(*tasks[:3], jitter=tasks.jitter) is not any(run.late), tasks
        missing += any(run.late)
    assert len(sets) / 3 < missing < len(sets) * 2 / 3


def test_deadlines_beyond_the_period_as_it_runs() -> None:
    random = Random(5)
    missing = 0
    for _ in range(300):
        tasks = tasksets.random_set(
            random, tasks=random.randint(1, 4), load=random.uniform(0.8, 1.0), periods=tasksets.small
        )
        tasks = tasks._replace(deadline=[random.randint(t // 2 + 1, 2 * t) for t in tasks.period])
        if sum(c / t for c, t in zip(tasks.wcet, tasks.period, strict=True)) > 1:
            continue
        run = tasksets.simulate(tasks, "fp", length_of(tasks))
        expected = [-1 if late else response for response, late in zip(run.response, run.late, strict=True)]
        assert kernel.response_times(*tasks[:3]) == expected, tasks
        assert kernel.edf_schedulable(*tasks[:3]) is not any(
            tasksets.simulate(tasks, "edf", 2 * length_of(tasks)).late
        ), tasks
        missing += any(run.late)
    assert missing > 30


# ---- what follows from what they mean ----


@settings(max_examples=200, deadline=None)
@given(tasksets.task_sets(most=5, longest=500, arbitrary=False))
def test_an_assigned_order_fits_and_none_means_none(tasks: TaskSet) -> None:
    import itertools

    def ordered(order: tuple[int, ...] | list[int]) -> bool:
        columns = [None if column is None else [column[i] for i in order] for column in tasks]
        return kernel.fp_schedulable(*columns[:3], jitter=columns[3], blocking=columns[4])  # type: ignore[arg-type]  # the first three are there

    order = kernel.audsley(*tasks[:3], **tasks.keywords())
    if order is None:
        assert not any(ordered(other) for other in itertools.permutations(range(len(tasks.wcet))))
    else:
        assert sorted(order) == list(range(len(tasks.wcet)))
        assert ordered(order)


@pytest.mark.parametrize("policy", ["fp", "edf"])
@settings(max_examples=100, deadline=None)
@given(tasks=tasksets.task_sets(most=4, longest=500, arbitrary=False))
def test_growth_fits_and_one_thousandth_more_does_not(policy: Any, tasks: TaskSet) -> None:
    if policy == "edf":
        tasks = tasks._replace(blocking=None)

    def fits(wcet: list[int]) -> bool:
        if policy == "edf":
            return kernel.edf_schedulable(wcet, *tasks[1:3], jitter=tasks.jitter)
        return kernel.fp_schedulable(wcet, *tasks[1:3], **tasks.keywords())

    growth = kernel.sensitivity(*tasks[:3], policy=policy, **tasks.keywords())
    for i, k in enumerate(growth):
        if k < 0:
            assert not fits(tasks.wcet)
            continue
        for thousandths, expected in ((k, True), (k + 1, False)):
            grown = tasks.wcet.copy()
            grown[i] = -(-grown[i] * (1000 + thousandths) // 1000)
            assert fits(grown) is expected
