"""Mode strict: what is accepted keeps every deadline, and what is refused says why and what would help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgmt.core.schedule import generator, hyperperiod
from mgmt.core.schedule.admission import ALGORITHMS, Algorithm, Placed, Schedule, place
from mgmt.core.schedule.workload import Chain, Node, Policy, Task, Workload
from mgmt.kernel import reference
from mgmt.protocol.errors import MgmtError

ONE_CPU = (Node("n", (0,)),)
FIXED = ("fifo", "rr")


def level(task: Task) -> int:
    return task.priority if task.policy in FIXED else 0


def response_us(of: Placed, on: Sequence[Placed]) -> int:
    """By the readable twin: everything that is as urgent comes first; -1 when it is late."""
    order = [p.task for p in on if p is not of and level(p.task) >= level(of.task)] + [of.task]
    columns = [[t.wcet_us for t in order], [t.period_us for t in order], [t.deadline_us for t in order]]
    return reference.response_times(*columns, jitter=[t.jitter_us for t in order])[-1]


def verify(schedule: Schedule, workload: Workload, nodes: Sequence[Node]) -> None:
    """Every promise of a schedule, looked at by itself."""
    mine = [p for p in schedule.placed if p.workload == workload.name]
    assert sorted(p.task.name for p in mine) == sorted(t.name for t in workload.tasks)
    by_node = {node.name: node for node in nodes}
    for placed in mine:
        task, node = placed.task, by_node[placed.node]
        assert placed.cpu in node.cpus
        assert task.node in ("", node.name)
        assert task.cpus is None or placed.cpu in task.cpus
    for node in nodes:
        assert sum(p.task.memory_mb for p in schedule.placed if p.node == node.name) <= node.memory_mb
        for cpu in node.cpus:
            on = [p for p in schedule.placed if (p.node, p.cpu) == (node.name, cpu)]
            load = sum((Fraction(p.task.wcet_us, p.task.period_us) for p in on), Fraction())
            assert load <= 1 - Fraction(node.reserve_ppm, 1_000_000)
            assert schedule.utilisation(node.name, cpu) == load
            tests = {p.bound for p in on}
            assert len(tests) <= 1, "a CPU has tasks of one test"
            if tests == {"fp"}:
                for p in on:
                    assert p.response_us == response_us(p, on)
                    assert 0 < p.response_us <= p.task.deadline_us
                    assert p.slack_us == p.task.deadline_us - p.response_us
            elif tests == {"edf"}:
                tasks = [p.task for p in on]
                columns = [
                    [t.wcet_us for t in tasks],
                    [t.period_us for t in tasks],
                    [t.deadline_us for t in tasks],
                ]
                assert reference.edf_schedulable(*columns, jitter=[t.jitter_us for t in tasks])
                for p in on:
                    assert p.response_us is None or p.response_us <= p.task.deadline_us


def judge(workload: Workload, nodes: Sequence[Node], algorithm: Algorithm) -> str:
    """`` for a schedule that holds, else the reason of the refusal, which names what it must."""
    try:
        schedule = place(workload, nodes, algorithm=algorithm)
    except MgmtError as error:
        assert error.code == "not-schedulable"
        reason: str = error.detail["reason"]
        if reason in ("deadline", "demand", "no_available_cpu", "memory", "cpu_affinity_unavailable"):
            refused = error.detail["task"]
            assert refused in {task.name for task in workload.tasks}
            assert repr(refused) in error.text
            assert "Nothing was placed or changed" in error.text
            if reason in ("deadline", "demand", "no_available_cpu"):
                task = next(task for task in workload.tasks if task.name == refused)
                assert error.detail["node"] in {node.name for node in nodes}
                assert 0 <= error.detail["largest_wcet_us"] < task.wcet_us
        return reason
    verify(schedule, workload, nodes)
    return ""


@st.composite
def workloads(draw: st.DrawFn) -> tuple[Workload, tuple[Node, ...]]:
    nodes = tuple(
        Node(
            f"n{k}",
            tuple(sorted(draw(st.sets(st.integers(0, 70), min_size=1, max_size=3)))),
            draw(st.sampled_from([4096, 100])),
            draw(st.sampled_from([0, 0, 100_000, 1_000_000])),
        )
        for k in range(draw(st.integers(1, 3)))
    )
    policies: list[Policy] = ["deadline"] if draw(st.booleans()) else ["fifo", "rr", "normal"]
    tasks = []
    for i in range(draw(st.integers(1, 9))):
        period_us = draw(st.sampled_from(generator.PERIODS_US))
        wcet_us = draw(st.integers(1, period_us // draw(st.sampled_from([1, 2, 4]))))
        node = draw(st.sampled_from(["", "", *(node.name for node in nodes)]))
        bound = draw(st.integers(0, 5)) == 0
        tasks.append(
            Task(
                f"t{i}",
                period_us,
                wcet_us,
                draw(st.integers(wcet_us, period_us)),
                draw(st.integers(1, 9)),
                draw(st.sampled_from(policies)),
                jitter_us=draw(st.sampled_from([0, 0, 0, 200])),
                node=node,
                cpus=tuple(sorted(draw(st.sets(st.integers(0, 70), min_size=1)))) if bound else None,
                memory_mb=draw(st.sampled_from([0, 40])),
            )
        )
    return Workload("w", tuple(tasks), nodes), nodes


@settings(max_examples=300, deadline=None)
@given(
    workloads(), st.sampled_from(["best_fit_decreasing", "least_loaded"]), st.randoms(use_true_random=False)
)
def test_what_is_accepted_holds_in_any_order(
    drawn: tuple[Workload, tuple[Node, ...]], algorithm: Algorithm, random: Any
) -> None:
    workload, nodes = drawn
    reason = judge(workload, nodes, algorithm)
    tasks, shuffled = list(workload.tasks), list(nodes)
    random.shuffle(tasks)
    random.shuffle(shuffled)
    other = replace(workload, tasks=tuple(tasks))
    if reason:
        with pytest.raises(MgmtError) as caught:
            place(other, shuffled, algorithm=algorithm)
        with pytest.raises(MgmtError) as first:
            place(workload, nodes, algorithm=algorithm)
        assert caught.value.text == first.value.text
        assert caught.value.detail == first.value.detail
    else:
        assert place(other, shuffled, algorithm=algorithm) == place(workload, nodes, algorithm=algorithm)


@pytest.mark.parametrize("algorithm", ["best_fit_decreasing", "least_loaded"])
def test_both_answers_are_common(algorithm: Algorithm) -> None:
    """Refusals are at least a third of what is judged, and so are schedules."""
    reasons = []
    for seed in range(150):
        workload = generator.workload(seed, tasks=4 + seed % 20, load_ppm=550_000 + 3_500 * seed)
        reasons.append(judge(workload, workload.nodes, algorithm))
    refused = sum(reason != "" for reason in reasons)
    assert len(reasons) / 3 <= refused <= len(reasons) * 2 / 3, reasons
    assert {"deadline", "no_available_cpu"} <= set(reasons)


def workload_of(*tasks: Task, **more: Any) -> Workload:
    return Workload("w", tasks, **more)


def refusal(
    *tasks: Task, nodes: Sequence[Node] = ONE_CPU, held: Sequence[Placed] = (), **how: Any
) -> MgmtError:
    with pytest.raises(MgmtError) as caught:
        place(workload_of(*tasks), nodes, held, **how)
    assert caught.value.code == "not-schedulable"
    return caught.value


def test_least_loaded_spreads_and_best_fit_fills() -> None:
    tasks = [Task(f"t{i}", 10_000, 1000, 10_000, 10 + i) for i in range(4)]
    nodes = (Node("a", (0, 1)), Node("b", (0, 1)))
    filled = place(workload_of(*tasks), nodes)
    spread = place(workload_of(*tasks), nodes, algorithm="least_loaded")
    assert len(filled.by_cpu) == 1
    assert len(spread.by_cpu) == 4


def test_a_load_that_fills_a_cpu_exactly_is_accepted_in_any_order() -> None:
    thirds = [
        Task(f"t{i}", 3000 * 10**k, 1000 * 10**k, 3000 * 10**k, 50 - k) for i, k in enumerate((0, 1, 2))
    ]
    for tasks in (thirds, thirds[::-1]):
        schedule = place(workload_of(*tasks), ONE_CPU)
        assert schedule.utilisation("n", 0) == 1


def test_a_late_task_names_what_would_help() -> None:
    error = refusal(
        Task("quick", 10_000, 4000, 10_000, 50), Task("slow", 15_000, 6000, 15_000, 40),
        Task("urgent", 20_000, 2000, 2500, 30),
    )  # fmt: skip
    assert error.detail["reason"] == "deadline"
    assert (error.detail["task"], error.detail["node"], error.detail["cpu"]) == ("urgent", "n", 0)
    assert (error.detail["needed"], error.detail["available"]) == (26_000, 2500)
    for word in ("'urgent'", "'w'", "CPU 0 of node 'n'", "26000 us", "due at 2500", "response times"):
        assert word in error.text


def test_priorities_that_would_do_are_proposed() -> None:
    error = refusal(Task("long", 10_000, 4000, 10_000, 50), Task("short", 10_000, 1000, 2000, 10))
    assert error.detail["deadline_monotonic"] is True
    assert "priorities in the order of the deadlines" in error.text
    swapped = (Task("long", 10_000, 4000, 10_000, 10), Task("short", 10_000, 1000, 2000, 50))
    verify(place(workload_of(*swapped), ONE_CPU), workload_of(*swapped), ONE_CPU)


def test_the_largest_wcet_that_is_named_fits() -> None:
    tasks = [Task("a", 10_000, 6000, 10_000, 50), Task("b", 20_000, 9000, 20_000, 40)]
    largest = refusal(*tasks).detail["largest_wcet_us"]
    fitting = replace(tasks[1], wcet_us=largest)
    verify(place(workload_of(tasks[0], fitting), ONE_CPU), workload_of(tasks[0], fitting), ONE_CPU)
    assert refusal(tasks[0], replace(fitting, wcet_us=largest + 1)).detail["largest_wcet_us"] == largest


def test_demand_under_deadlines() -> None:
    tasks = [Task(name, 10_000, 3000, 5000, policy="deadline") for name in "ab"]
    error = refusal(*tasks)
    assert error.detail["reason"] == "demand"
    assert (error.detail["needed"], error.detail["available"]) == (6000, 5000)
    assert "within 5000 us 6000 us of work would be due" in error.text


@pytest.mark.parametrize(
    ("tasks", "nodes", "how", "reason", "says"),
    [
        ([], ONE_CPU, {}, "no_tasks", "has no tasks"),
        ([Task("a", 10_000, 10, 10_000, 1, node="x")], ONE_CPU, {}, "node_not_found", "known are n"),
        (
            [Task("a", 10_000, 10, 10_000, 1)], ONE_CPU, {"algorithm": "target_node_priority"},
            "missing_target_node", "names no node",
        ),
        ([Task("a", 10_000, 10, 10_000, 1)], ONE_CPU, {"algorithm": "magic"}, "unknown_algorithm", "best_fit"),
        ([Task("a", 10_000, 10, 10_000, 1)] * 2, ONE_CPU, {}, "duplicate", "two tasks named 'a'"),
        ([Task("a", 10_000, 10, 10_000, 1)], (), {}, "no_schedulable_node", "no node has a CPU"),
        (
            [Task("a", 10_000, 10, 10_000, 1, cpus=(28, 29, 30, 31))], (Node("n", (2, 3)),), {},
            "cpu_affinity_unavailable", "it may run on CPUs 28-31 only, and node 'n' has CPUs 2-3",
        ),
        (
            [Task(name, 10_000, 10, 10_000, 1, memory_mb=60) for name in "ab"], (Node("n", (0, 1), 100),), {},
            "memory", "it needs 60 MB of memory, and node 'n', which has most left, has 40",
        ),
        (
            [Task("a", 10_000, 10, 10_000, 1), Task("b", 10_000, 10, 10_000, policy="deadline")], ONE_CPU, {},
            "mixed_policies", "make two workloads of it",
        ),
        (
            [Task("a", 10_000, 9000, 10_000, 1)], (Node("n", (0,), reserve_ppm=200_000),), {},
            "no_available_cpu", "a WCET of at most 8000 us",
        ),
    ],
)  # fmt: skip
def test_a_refusal(
    tasks: list[Task], nodes: Sequence[Node], how: dict[str, Any], reason: str, says: str
) -> None:
    error = refusal(*tasks, nodes=nodes, **how)
    assert error.detail["reason"] == reason
    assert says in error.text


def test_memory_sums_up_on_a_node() -> None:
    tasks = [Task(f"t{i}", 10_000, 10, 10_000, 1, memory_mb=50) for i in range(4)]
    schedule = place(workload_of(*tasks), (Node("a", (0,), 100), Node("b", (0,), 100)))
    assert [schedule.memory_mb("a"), schedule.memory_mb("b")] == [100, 100]


# Beside what is held


def held_by(name: str, schedule: Schedule) -> list[Placed]:
    return [replace(placed, workload=name) for placed in schedule.placed]


def test_what_is_held_stays_and_its_response_is_told_anew() -> None:
    held = held_by("old", place(workload_of(Task("low", 20_000, 5000, 20_000, 10)), ONE_CPU))
    schedule = place(workload_of(Task("high", 10_000, 2000, 10_000, 90)), ONE_CPU, held)
    low = next(p for p in schedule.placed if p.workload == "old")
    assert (low.node, low.cpu) == ("n", 0)
    assert (held[0].response_us, low.response_us) == (5000, 7000)


def test_what_is_held_is_not_made_late() -> None:
    held = held_by("old", place(workload_of(Task("low", 10_000, 5000, 6000, 10)), ONE_CPU))
    error = refusal(Task("high", 10_000, 2000, 10_000, 90), held=held)
    assert (error.detail["task"], error.detail["late_task"]) == ("high", "low")
    assert "task 'low' of workload 'old' would answer after 7000 us, due at 6000" in error.text


@settings(max_examples=100, deadline=None)
@given(workloads(), workloads())
def test_two_workloads_together_hold(
    first: tuple[Workload, tuple[Node, ...]], second: tuple[Workload, tuple[Node, ...]]
) -> None:
    one, nodes = replace(first[0], name="one"), first[1]
    other = replace(second[0], tasks=tuple(replace(t, node="", cpus=None) for t in second[0].tasks))
    try:
        held = place(one, nodes).placed
        schedule = place(other, nodes, held)
    except MgmtError as error:
        assert error.code == "not-schedulable"
        return
    verify(schedule, other, nodes)
    where = {p.task.name: (p.node, p.cpu) for p in schedule.placed if p.workload == "one"}
    assert where == {p.task.name: (p.node, p.cpu) for p in held}


def test_tasks_of_another_test_get_other_cpus() -> None:
    edf = workload_of(Task("d", 10_000, 1000, 10_000, policy="deadline"))
    held = held_by("dynamic", place(edf, (Node("n", (0, 1)),)))
    fixed = Task("f", 10_000, 1000, 10_000, 50)
    schedule = place(workload_of(fixed), (Node("n", (0, 1)),), held)
    assert {p.task.name: p.cpu for p in schedule.placed} == {"d": 0, "f": 1}
    assert refusal(fixed, held=held).detail["reason"] == "no_available_cpu"


def test_held_tasks_of_other_nodes_are_left_alone() -> None:
    held = held_by("far", place(workload_of(Task("x", 10_000, 9000, 10_000, 1)), (Node("far", (0,)),)))
    schedule = place(workload_of(Task("y", 10_000, 9000, 10_000, 1)), ONE_CPU, held)
    assert {p.task.name: p.node for p in schedule.placed} == {"x": "far", "y": "n"}


def test_a_name_that_is_held_is_taken() -> None:
    held = place(workload_of(Task("x", 10_000, 10, 10_000, 1)), ONE_CPU).placed
    assert refusal(Task("y", 10_000, 10, 10_000, 1), held=held).detail["reason"] == "duplicate"


# Chains

A, B = Task("a", 10_000, 1000, 10_000, 50), Task("b", 20_000, 3000, 20_000, 40)


def test_a_chain_is_bounded_by_periods_and_responses() -> None:
    schedule = place(workload_of(A, B, chains=(Chain("c", ("a", "b"), 35_000),)), ONE_CPU)
    (bound,) = schedule.chains
    assert bound.bound_us == 10_000 + 1000 + 20_000 + 4000


def test_a_chain_that_takes_too_long_is_refused() -> None:
    with pytest.raises(MgmtError) as caught:
        place(workload_of(A, B, chains=(Chain("c", ("a", "b"), 34_999),)), ONE_CPU)
    assert caught.value.detail["reason"] == "chain"
    assert (caught.value.detail["needed"], caught.value.detail["available"]) == (35_000, 34_999)
    assert "Task 'b' adds most" in caught.value.text


def test_a_held_chain_is_kept() -> None:
    chains = {"old": (Chain("c", ("a", "b"), 35_500),)}
    held = held_by("old", place(workload_of(A, B), ONE_CPU))
    assert place(workload_of(Task("x", 10_000, 200, 10_000, 60)), ONE_CPU, held, held_chains=chains).chains
    with pytest.raises(MgmtError) as caught:
        place(workload_of(Task("x", 10_000, 2000, 10_000, 60)), ONE_CPU, held, held_chains=chains)
    assert (caught.value.detail["workload"], caught.value.detail["chain"]) == ("old", "c")


# Hyperperiods


def test_a_hyperperiod_is_the_least_common_multiple() -> None:
    assert hyperperiod.strict([4000, 6000, 6000]) == 12_000
    assert hyperperiod.strict([3_600_000_000]) == 3_600_000_000, "the limit itself is allowed"


@pytest.mark.parametrize(
    ("periods", "reason"),
    [
        ([], "no_valid_periods"),
        ([0], "no_valid_periods"),
        ([10_007, 15_013, 20_021], "too_large"),
        ([9_999_991, 9_999_973, 9_999_971], "overflow"),
    ],
)
def test_a_hyperperiod_that_is_none(periods: list[int], reason: str) -> None:
    with pytest.raises(MgmtError) as caught:
        hyperperiod.strict(periods)
    assert caught.value.detail["reason"] == reason
    if reason != "no_valid_periods":
        assert all(str(period) in caught.value.text for period in periods)
        assert "Rounded to" in caught.value.text


@given(st.lists(st.integers(1000, 10_000_000), min_size=1, max_size=8, unique=True))
def test_proposed_periods_are_harmonic(periods: list[int]) -> None:
    chain = hyperperiod.harmonic(sorted(periods))
    assert len(chain) == len(periods)
    assert all(later % earlier == 0 for earlier, later in pairwise(chain))


def test_harmonic_periods_are_left_as_they_are() -> None:
    assert hyperperiod.harmonic([1000, 5000, 10_000]) == [1000, 5000, 10_000]


def test_a_workload_whose_periods_do_not_meet_is_refused_or_allowed_to() -> None:
    tasks = [Task(f"t{p}", p, 10, p, 1) for p in (10_007, 15_013, 20_021)]
    assert refusal(*tasks).detail["reason"] == "too_large"
    schedule = place(workload_of(*tasks), ONE_CPU, max_hyperperiod_us=None)
    assert schedule.hyperperiods["w"] == 10_007 * 15_013 * 20_021


def test_the_three_algorithms_are_those_of_the_ancestor() -> None:
    assert sorted(ALGORITHMS) == ["best_fit_decreasing", "least_loaded", "target_node_priority"]


def test_a_task_with_one_cpu_to_choose_does_not_suffer_from_those_with_many() -> None:
    """In the order of urgency the free one would take the CPU that the bound one needs."""
    tasks = (Task("free", 10_000, 9000, 10_000, 90), Task("bound", 20_000, 9000, 20_000, 10, cpus=(0,)))
    workload, nodes = workload_of(*tasks), (Node("n", (0, 1)),)
    schedule = place(workload, nodes)
    verify(schedule, workload, nodes)
    assert {p.task.name: p.cpu for p in schedule.placed} == {"free": 1, "bound": 0}


def test_with_a_target_for_each_every_task_is_on_its_own_node() -> None:
    tasks = [Task(f"t{i}", 10_000, 1000, 10_000, 10 + i, node="ab"[i % 2]) for i in range(6)]
    workload, nodes = workload_of(*tasks), (Node("a", (0, 1)), Node("b", (0, 1)))
    schedule = place(workload, nodes, algorithm="target_node_priority")
    verify(schedule, workload, nodes)
    assert {p.task.name: p.node for p in schedule.placed} == {task.name: task.node for task in tasks}
