"""What holds on each CPU as it is: worst responses of the tasks there, and how far one of them could grow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from mgmt import kernel

from . import edf_response
from .admission import Placed, Test, level_of, urgency

TESTS: tuple[Test, ...] = ("fp", "edf", "utilisation")


def analysed(held: Iterable[Placed]) -> tuple[Placed, ...]:
    """The same tasks with their worst responses, where their test gives one; in order of workload and name.

    kernel.Refused when some CPU does not pass its test: nothing that was admitted comes to that.
    """
    found: list[Placed] = []
    tasks = list(held)
    for test in TESTS:
        chosen = [placed for placed in tasks if placed.bound == test]
        if chosen:
            found += _of_one_test(chosen, test)
    return tuple(sorted(found, key=lambda placed: (placed.workload, placed.task.name)))


def by_urgency(tasks: Iterable[Placed]) -> list[Placed]:
    return sorted(tasks, key=urgency)


def largest_wcet_us(of: Placed, tasks: Sequence[Placed]) -> int:
    """The largest WCET of one of the `tasks` of a CPU with which all of them keep their deadlines."""
    others = [placed for placed in tasks if placed != of]
    cpu = _cpus(1, of.bound)
    for number, placed in enumerate(others):
        _admit(cpu, number, placed)
    task = of.task
    try:
        _admit(cpu, len(others), replace(of, task=replace(task, wcet_us=task.deadline_us)))
    except kernel.Refused as refused:
        return max(refused.largest_wcet, task.wcet_us)
    return task.deadline_us


def _of_one_test(held: Sequence[Placed], test: Test) -> Iterable[Placed]:
    places = sorted({(placed.node, placed.cpu) for placed in held})
    index = {place: q for q, place in enumerate(places)}
    cpus = _cpus(len(places), test)
    for number, placed in enumerate(held):
        _admit(cpus, number, placed, index[placed.node, placed.cpu])
    for q in range(len(places)):
        on = cpus.tasks_on(q)
        responses: Sequence[int | None] = [None] * len(on)
        if test == "fp":
            responses = cpus.response_times(q)
        elif test == "edf":
            responses = edf_response.responses([held[number].task for number in on])
        for number, response_us in zip(on, responses, strict=True):
            placed = held[number]
            slack_us = None if response_us is None else placed.task.deadline_us - response_us
            yield replace(placed, response_us=response_us, slack_us=slack_us)


def _cpus(count: int, test: Test) -> kernel.Placement:
    """CPUs that are nodes of their own, so that a task can be told its CPU by the node."""
    return kernel.Placement(range(count), test=test, priorities=test == "fp")


def _admit(cpus: kernel.Placement, number: int, placed: Placed, cpu: int = 0) -> None:
    task = placed.task
    cpus.admit(
        number,
        task.wcet_us,
        task.period_us,
        task.deadline_us,
        jitter=task.jitter_us,
        priority=level_of(task),
        target=cpu,
    )
