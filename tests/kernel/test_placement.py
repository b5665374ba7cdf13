"""Placement under exact tests: C against its twin, and both against the analyses run from outside."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from importlib import import_module
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgmt import kernel
from mgmt.kernel import reference, reference_strict
from mgmt.kernel.refusal import Refused

Outcome = tuple[Any, ...]
KERNELS = [pytest.param(reference_strict.Placement, id="python")]
if kernel.IMPLEMENTATION == "c":
    KERNELS.append(pytest.param(import_module("mgmt.kernel._kernel").Placement, id="c"))
TESTS = ["utilisation", "fp", "edf"]
CHOICES = ["best", "least", "first"]


def a_placement(*args: Any, **more: Any) -> Any:
    return kernel.Placement(*args, **more)


def outcome(call: Any, *args: Any, **more: Any) -> Outcome:
    """What a call answers or how it refuses. Which overloaded interval is named is free."""
    try:
        return ("done", call(*args, **more))
    except Refused as why:
        numbers = () if why.reason == "demand" else (why.needed, why.available)
        return (
            "refused", why.task, why.test, why.reason, why.cpu, why.node, why.late_task, *numbers,
            why.largest_wcet,
        )  # fmt: skip
    except (KeyError, ValueError) as error:
        return (type(error).__name__,)


PERIODS = [4, 5, 6, 8, 10, 12, 12, 20, 300]
# Long periods with the ratios of short ones: tests of tasks that differ by 2**40 would take as many steps.
SCALES = [1, 1, 1, 2**27 + 1, 2**30, 2**53]


@st.composite
def a_task(draw: st.DrawFn, nodes: int, arbitrary: bool, scale: int) -> dict[str, Any]:
    period = draw(st.sampled_from(PERIODS)) * scale
    part = draw(st.sampled_from([1, 2, 3, 3, 4, 5, 6, 10]))
    deadline = draw(
        st.sampled_from([period, period, period, max(1, period * 2 // 3), max(1, period // part)])
    )
    if arbitrary and draw(st.booleans()):
        deadline = min(2 * period, 2**63 - 1)
    return {
        "wcet": draw(
            st.sampled_from([max(1, period // part), max(1, (period - 1) // part), max(1, scale - 1), period])
        ),
        "period": period,
        "deadline": deadline,
        "jitter": draw(st.sampled_from([0, 0, 0, 1, 3])),
        "priority": draw(st.integers(1, 3)),
        "memory": draw(st.sampled_from([0, 0, 10, 40, 101])),
        "target": draw(st.integers(-1, nodes - 1)) if draw(st.booleans()) else -1,
        "mask": draw(st.one_of(st.none(), st.none(), st.integers(0, 15), st.just(1 << 70 | 2))),
    }


@st.composite
def scenario(draw: st.DrawFn) -> tuple[dict[str, Any], list[tuple[Any, ...]]]:
    node = [
        k
        for k, count in enumerate(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
        for _ in range(count)
    ]
    nodes = node[-1] + 1
    test = draw(st.sampled_from(TESTS))
    system = {
        "node": node,
        "cpu_id": [draw(st.sampled_from([0, 1, 2, 3, 70])) for _ in node],
        "memory": [draw(st.sampled_from([0, 50, 100])) for _ in range(nodes)]
        if draw(st.booleans())
        else None,
        "reserve": [draw(st.sampled_from([0, 100000, 333333, 1000000])) for _ in node]
        if draw(st.booleans())
        else None,
        "test": test,
        "choose": draw(st.sampled_from(CHOICES)),
        "priorities": draw(st.booleans()),
    }
    task = a_task(nodes, test == "edf", draw(st.sampled_from(SCALES)))
    calls: list[tuple[Any, ...]] = []
    for _ in range(draw(st.integers(1, 14))):
        kind = draw(
            st.sampled_from(["place", "admit", "admit", "admit", "remove", "resize", "move", "rebalance"])
        )
        number = draw(st.integers(0, 12))
        if kind == "place":
            order = draw(st.sampled_from([None, "urgency", "utilisation", "given"]))
            calls.append((kind, draw(st.lists(task, max_size=7)), 20 + len(calls) * 10, order))
        elif kind in ("admit", "resize"):
            calls.append((kind, number, draw(task)))
        elif kind == "rebalance":
            calls.append((kind, draw(st.sampled_from([0, 1, 3, 100]))))
        elif kind == "move":
            calls.append((kind, number, draw(st.integers(0, len(node) - 1))))
        else:
            calls.append((kind, number))
    return system, calls


def carry_out(placement: Any, call: tuple[Any, ...]) -> Outcome:
    match call:
        case ("place", tasks, first, order):
            columns = {
                name: [task[name] for task in tasks] for name in (tasks[0] if tasks else ["wcet", "period"])
            }
            return outcome(placement.place, **columns, first=first, order=order)
        case ("admit", number, task):
            return outcome(placement.admit, number, **task)
        case ("resize", number, task):
            return outcome(placement.resize, number, task["wcet"], task["period"], task["deadline"])
        case ("move", number, cpu):
            return outcome(placement.move, number, cpu)
        case ("rebalance", most):
            return outcome(placement.rebalance, most)
        case ("remove", number):
            return outcome(placement.remove, number)
    raise AssertionError(call)


@pytest.mark.timeout(240)
@given(scenario())
@settings(max_examples=500, deadline=None)
def test_c_and_twin_agree(given_scenario: tuple[dict[str, Any], list[tuple[Any, ...]]]) -> None:
    system, calls = given_scenario
    both = [a_placement(**system), reference_strict.Placement(**system)]
    tasks: dict[int, dict[str, Any]] = {}
    for call in calls:
        c, twin = (carry_out(placement, call) for placement in both)
        assert c == twin, call
        if c[0] == "done":
            remember(tasks, call)
    for cpu in range(len(system["node"])):
        assert both[0].tasks_on(cpu) == both[1].tasks_on(cpu)
        verify_cpu(system, tasks, both[0], cpu)
        if system["test"] == "fp":
            assert both[0].response_times(cpu) == both[1].response_times(cpu)
    assert both[0].loads() == both[1].loads()


def remember(given: dict[int, dict[str, Any]], call: tuple[Any, ...]) -> None:
    """What a call that was carried out says about the tasks."""
    match call:
        case ("place", tasks, first, _):
            given.update({first + i: task for i, task in enumerate(tasks)})
        case ("admit", number, task):
            given[number] = task
        case ("resize", number, task):
            given[number] = given[number] | {name: task[name] for name in ("wcet", "period", "deadline")}


def verify_cpu(system: dict[str, Any], given: dict[int, dict[str, Any]], placement: Any, cpu: int) -> None:
    """By the readable analyses; of the placement only which tasks it says are here."""
    on = [given[x] for x in placement.tasks_on(cpu)]
    c, t, d, j = ([task[name] for task in on] for name in ("wcet", "period", "deadline", "jitter"))
    reserve = Fraction(system["reserve"][cpu] if system["reserve"] else 0, 10**6)
    assert sum(map(Fraction, c, t)) <= 1 - reserve
    if system["test"] == "fp" and not system["priorities"]:
        assert -1 not in reference.response_times(c, t, d, jitter=j)
    elif system["test"] == "edf":
        assert reference.edf_schedulable(c, t, d, jitter=j)
    for task in on:
        assert task["target"] in (-1, system["node"][cpu])
        assert task["mask"] is None or task["mask"] >> system["cpu_id"][cpu] & 1


def random_tasks(
    random: Random, n: int, mean: float, decades: float, constrained: bool
) -> list[dict[str, int]]:
    tasks = []
    for _ in range(n):
        period = int(1000 * 10 ** (decades * random.random()))
        u = mean * (0.1 + 1.8 * random.random())
        wcet = max(1, min(period, int(u * period)))
        deadline = random.randint(max(wcet, period // 2), period) if constrained else period
        tasks.append({"wcet": wcet, "period": period, "deadline": deadline})
    return tasks


def columns(tasks: list[dict[str, int]]) -> dict[str, list[int]]:
    return {name: [task[name] for task in tasks] for name in tasks[0]}


def verify(tasks: list[dict[str, int]], cpus: list[int], test: str, priorities: bool = False) -> None:
    """Every CPU, from outside: no state, no index, no bound of the placement is trusted."""
    for cpu in set(cpus):
        on = [task for task, where in zip(tasks, cpus, strict=True) if where == cpu]
        on.sort(key=lambda task: task["deadline"])
        c, t, d = ([task[name] for task in on] for name in ("wcet", "period", "deadline"))
        assert sum(Fraction(a, b) for a, b in zip(c, t, strict=True)) <= 1
        if test == "fp":
            assert -1 not in reference.response_times(c, t, d)
        elif test == "edf":
            assert reference.edf_schedulable(c, t, d)


@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("decades", [0.3, 3.0])
@pytest.mark.parametrize("choose", CHOICES)
@pytest.mark.parametrize("test", TESTS)
def test_every_cpu_keeps_up(test: str, choose: str, decades: float, constrained: bool) -> None:
    tasks = random_tasks(Random(7), 600, 0.12, decades, constrained)
    placement = a_placement([0] * 140, test=test, choose=choose)
    cpus = placement.place(**columns(tasks))
    verify(tasks, cpus, "edf" if test == "edf" else test)
    assert [placement.cpu_of(x) for x in range(600)] == cpus


@pytest.mark.parametrize("test", TESTS)
def test_changes_keep_every_cpu_safe(test: str) -> None:
    """Admissions, removals, resizes and moves in a system that is nearly full; refusals are part of it."""
    random = Random(11)
    pool = random_tasks(random, 400, 0.2, 2.0, True)
    placement = a_placement([q // 4 for q in range(12)], test=test, choose="least")
    on: dict[int, dict[str, int]] = {}
    said: Counter[str] = Counter()
    for step in range(1500):
        number = random.randrange(100)
        task = random.choice(pool)
        try:
            if number not in on:
                placement.admit(number, task["wcet"], task["period"], task["deadline"])
                on[number] = task
            elif random.random() < 0.4:
                placement.resize(number, task["wcet"], task["period"], task["deadline"])
                on[number] = task
            elif random.random() < 0.5:
                placement.move(number, random.randrange(12))
            else:
                placement.remove(number)
                del on[number]
            said["done"] += 1
        except Refused:
            said["refused"] += 1
        if step % 100 == 99:
            verify(list(on.values()), [placement.cpu_of(x) for x in on], test)
    assert min(said.values()) > 300, said


@pytest.mark.parametrize("implementation", KERNELS)
def test_a_bulk_that_does_not_fit_changes_nothing(implementation: Any) -> None:
    placement = implementation([0, 0], memory=[100], test="fp", choose="best")
    placement.admit(7, 3, 10, memory=60)
    with pytest.raises(Refused) as refused:
        placement.place([5, 9, 6], [10, 10, 10], first=10)
    assert (refused.value.task, refused.value.reason) == (12, "utilisation")
    assert placement.loads() == [0.3, 0.0]
    assert placement.tasks_on(0) == [7]
    placement.admit(8, 1, 10, memory=40)
    with pytest.raises(
        Refused, match="its memory 1 passes the 0 left on node 0, which has most left; 1 less would fit there"
    ):
        placement.admit(9, 1, 10, memory=1)


@pytest.mark.parametrize("implementation", KERNELS)
def test_exact_at_the_bound(implementation: Any) -> None:
    """Thirds, sevenths and decimals that fill a CPU to the last unit, which doubles get wrong."""
    for parts in (
        [(1, 3)] * 3,
        [(1, 7)] * 7,
        [(1, 10), (2, 10), (7, 10)],
        [(1, 49)] * 49,
        [(1, 2), (1, 3), (1, 6)],
    ):
        placement = implementation([0], test="utilisation")
        assert placement.place([c for c, _ in parts], [t for _, t in parts]) == [0] * len(parts)
        with pytest.raises(Refused):
            placement.admit(99, 1, 2**62)
    placement = implementation([0], reserve=[333333])
    with pytest.raises(Refused):
        placement.admit(0, 2, 3, deadline=3)
        placement.admit(1, 1, 10**6)
    assert implementation([0], reserve=[333333]).admit(0, 666667, 10**6) == 0


@pytest.mark.parametrize("implementation", KERNELS)
def test_equal_priorities_delay_each_other(implementation: Any) -> None:
    ordered = implementation([0], test="fp")
    assert ordered.place([2, 2], [10, 10], [4, 4]) == [0, 0]
    assert ordered.response_times(0) == [2, 4]
    shared = implementation([0], test="fp", priorities=True)
    assert shared.place([2, 2], [10, 10], [4, 4], priority=[5, 5]) == [0, 0]
    assert shared.response_times(0) == [4, 4]
    with pytest.raises(Refused) as refused:
        shared.admit(2, 1, 10, priority=5)
    why = refused.value
    assert (why.reason, why.cpu, why.late_task, why.needed, why.available) == ("deadline", 0, 0, 5, 4)
    assert shared.admit(2, 1, 10, priority=4) == 0
    assert shared.response_times(0) == [4, 4, 5]


@pytest.mark.parametrize("implementation", KERNELS)
def test_refusals_name_what_would_fit(implementation: Any) -> None:
    placement = implementation([0, 0], test="fp", choose="best")
    placement.place([4, 6, 3], [10, 10, 7])
    with pytest.raises(Refused) as refused:
        placement.admit(5, 9, 10)
    why = refused.value
    assert why.largest_wcet > 0
    assert (why.task, why.test, why.reason, why.node, why.available) == (5, "fp", "utilisation", 0, 10**6)
    text = f"task 5: the load of CPU {why.cpu} of node 0 would be {why.needed / 10**6:.6f}, more than its 1.000000"
    text += f"; a WCET of at most {why.largest_wcet} would fit there"
    assert str(why) == text
    with pytest.raises(Refused):
        placement.admit(5, why.largest_wcet + 1, 10)
    assert placement.admit(5, why.largest_wcet, 10) == why.cpu
    with pytest.raises(Refused, match="its target node and its mask leave no CPU"):
        placement.admit(6, 1, 10, mask=2)


def test_an_overload_is_one() -> None:
    placement = a_placement([0], test="edf")
    placement.place([2, 3], [10, 10], [3, 6])
    with pytest.raises(Refused) as refused:
        placement.admit(2, 2, 10, 6)
    why = refused.value
    demand = sum(max((why.available - d) // 10 + 1, 0) * c for c, d in ((2, 3), (3, 6), (2, 6)))
    assert demand == why.needed > why.available


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("choose", CHOICES)
def test_masks_and_targets_bind(test: str, choose: str) -> None:
    random = Random(3)
    node = [q // 8 for q in range(64)]
    cpu_id = [q % 8 * 13 for q in range(64)]
    tasks = random_tasks(random, 200, 0.03, 2.0, False)
    masks = [random.choice([None, sum(1 << i for i in random.sample(cpu_id[:8], 3))]) for _ in tasks]
    targets = [random.choice([-1, random.randrange(8)]) for _ in tasks]
    placement = a_placement(node, cpu_id, test=test, choose=choose)
    cpus = placement.place(**columns(tasks), mask=masks, target=targets)
    for cpu, mask, target in zip(cpus, masks, targets, strict=True):
        assert mask is None or mask >> cpu_id[cpu] & 1
        assert target in (-1, node[cpu])
    verify(tasks, cpus, test)


def test_memory_accumulates_and_is_given_back() -> None:
    placement = a_placement([0, 1, 1], memory=[100, 200])
    assert placement.place([1, 1, 1], [10, 10, 10], memory=[90, 150, 50]) == [0, 1, 1]
    with pytest.raises(Refused, match="memory 11 passes the 10 left"):
        placement.admit(3, 1, 10, memory=11)
    placement.remove(1)
    assert placement.admit(3, 1, 10, memory=150) == 1


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("choose", CHOICES)
def test_refused_only_where_no_cpu_passes(test: str, choose: str) -> None:
    """Whatever earlier failures taught the index."""
    random = Random(5)
    placement = a_placement([0] * 6, test=test, choose=choose)
    pool = random_tasks(random, 300, 0.15, 2.5, True)
    refused = 0
    for number, task in enumerate(pool):
        try:
            placement.admit(number, task["wcet"], task["period"], task["deadline"])
        except Refused:
            refused += 1
            placed = [x for q in range(6) for x in placement.tasks_on(q)]
            for q in range(6):
                on = [*(pool[x] for x in placement.tasks_on(q)), task]
                on.sort(key=lambda t: t["deadline"])
                with pytest.raises(AssertionError):
                    verify(on, [0] * len(on), test)
            if len(placed) > 20:
                placement.remove(random.choice(placed))
    assert refused > 50


@pytest.mark.parametrize("implementation", KERNELS)
def test_bad_arguments_are_named(implementation: Any) -> None:
    with pytest.raises(ValueError, match=r"node\[1\] is 2"):
        implementation([0, 2])
    with pytest.raises(ValueError, match="choose is 'worst'"):
        implementation([0], choose="worst")
    placement = implementation([0], test="fp")
    with pytest.raises(ValueError, match="deadline is 11: must not pass the period"):
        placement.admit(0, 1, 10, 11)
    with pytest.raises(ValueError, match=r"wcet\[1\] is 0"):
        placement.place([1, 0], [10, 10])
    placement.admit(0, 1, 10)
    with pytest.raises(ValueError, match="task 0 is placed already"):
        placement.admit(0, 1, 10)
    with pytest.raises(KeyError, match="task 1 is not placed"):
        placement.remove(1)
    with pytest.raises(IndexError):
        placement.tasks_on(1)
    with pytest.raises(ValueError, match="negative"):
        placement.admit(1, 1, 10, mask=-1)


@pytest.mark.parametrize("choose", CHOICES)
def test_order_of_input_does_not_matter(choose: str) -> None:
    """With tasks that differ: equal ones are told apart by their number, which is the caller's order."""
    random = Random(9)
    tasks = random_tasks(random, 300, 0.1, 2.0, False)
    tasks = list({(task["wcet"], task["period"]): task for task in tasks}.values())
    tasks = [t for t in tasks if Counter(x["period"] for x in tasks)[t["period"]] == 1]
    results = []
    for _ in range(3):
        random.shuffle(tasks)
        cpus = a_placement([0] * 50, test="fp", choose=choose).place(**columns(tasks))
        results.append({(t["wcet"], t["period"]): cpu for t, cpu in zip(tasks, cpus, strict=True)})
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("test", TESTS)
def test_a_rebalance_is_admitted_move_by_move(test: str) -> None:
    random = Random(13)
    node = [q // 4 for q in range(16)]
    tasks = random_tasks(random, 90, 0.08, 2.0, True)
    memory = [random.choice([0, 5, 20]) for _ in tasks]
    masks = [random.choice([None, None, 0b1101]) for _ in tasks]
    placement = a_placement(node, [q % 4 for q in range(16)], [300] * 4, test=test, choose="best")
    cpus = placement.place(**columns(tasks), memory=memory, mask=masks)
    before = placement.loads()
    moves = placement.rebalance()
    assert placement.loads() == before, "a proposal changes nothing"
    assert [placement.cpu_of(x) for x in range(len(tasks))] == cpus
    for task, source, target in moves:
        assert placement.cpu_of(task) == source
        assert placement.move(task, target) == target
        assert masks[task] is None or 0b1101 >> target % 4 & 1
        cpus[task] = target
        verify(tasks, cpus, test)
    assert max(placement.loads()) < max(before) - 0.1
    assert placement.rebalance(0) == []
    while more := placement.rebalance():
        worst = max(placement.loads())
        for task, _, target in more:
            placement.move(task, target)
        assert max(placement.loads()) < worst


@pytest.mark.parametrize("implementation", KERNELS)
def test_no_proposal_where_no_move_helps(implementation: Any) -> None:
    placement = implementation([0, 0, 1])
    assert placement.rebalance() == []
    placement.admit(0, 1, 2)
    assert placement.rebalance() == [], "the same load elsewhere is no gain"
    placement.admit(1, 1, 4)
    assert placement.rebalance() == [(0, 0, 1)]
    with pytest.raises(ValueError, match="most is -1"):
        placement.rebalance(-1)
    pinned = implementation([0, 1])
    pinned.place([1, 1], [4, 4], target=[0, 0])
    assert pinned.rebalance() == []


@pytest.mark.parametrize("test", TESTS)
def test_many_tasks_on_one_cpu(test: Any) -> None:
    """More than are found without a walk, in and out, in the order of urgency all the while."""
    random = Random(17)
    both = [a_placement([0], test=test), reference_strict.Placement([0], test=test)]
    on: dict[int, int] = {}
    for _ in range(600):
        number = random.randrange(60)
        if number in on:
            del on[number]
            for placement in both:
                placement.remove(number)
        else:
            on[number] = deadline = random.choice([9000, 9500, 9999, 10_000])
            for placement in both:
                assert placement.admit(number, Random(number).randint(1, 90), 10_000, deadline) == 0
        order = both[0].tasks_on(0)
        assert order == both[1].tasks_on(0) == sorted(on, key=lambda x: (on[x], x))
    assert len(on) > 20
    if test == "fp":
        assert both[0].response_times(0) == both[1].response_times(0)
