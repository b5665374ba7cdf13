"""Faults of TIMPANI's scheduler: mode compat has them, as its recorded behaviour does, and strict has none.

The number before each test is that of the fault in the parity table (docs/parity.md).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import permutations
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mgmt.core.schedule import compat, hyperperiod
from mgmt.core.schedule.admission import Algorithm, Schedule, place
from mgmt.core.schedule.comparison import compat_placement
from mgmt.core.schedule.compat_yaml import scan_nodes
from mgmt.core.schedule.documents import read
from mgmt.core.schedule.workload import Node, Task, Workload
from mgmt.protocol import defaults
from mgmt.protocol.errors import MgmtError
from tests.core.builders import a_topology
from tests.core.recorder import Client, a_daemon

ONE_CPU = (Node("n", (2,)),)
SPREADING: list[Algorithm] = ["best_fit_decreasing", "least_loaded"]


def theirs(algorithm: str, tasks: Sequence[Task], nodes: Sequence[Node]) -> compat.Placement:
    return compat_placement(algorithm, Workload("w", tuple(tasks)), nodes)


def ours(
    tasks: Sequence[Task], nodes: Sequence[Node], algorithm: Algorithm = "best_fit_decreasing"
) -> Schedule:
    return place(Workload("w", tuple(tasks)), nodes, algorithm=algorithm)


def refused(
    tasks: Sequence[Task], nodes: Sequence[Node], algorithm: Algorithm = "best_fit_decreasing"
) -> MgmtError:
    with pytest.raises(MgmtError) as caught:
        ours(tasks, nodes, algorithm)
    assert "Nothing was placed or changed" in caught.value.text
    return caught.value


def places(schedule: Schedule) -> dict[str, tuple[str, int]]:
    return {placed.task.name: (placed.node, placed.cpu) for placed in schedule.placed}


def a_task(name: str, share: float = 0.1, **keys: Any) -> Task:
    """`share` of a CPU every 10 ms, in whole us."""
    return Task(name, 10_000, round(10_000 * share), **{"deadline_us": 10_000, "priority": 50, **keys})


# 1
def test_a_task_without_a_cpu_is_refused_and_never_accepted_as_a_phantom() -> None:
    tasks = [a_task("first", 0.6, node="n"), a_task("second", 0.6, node="n")]
    accepted = theirs("target_node_priority", tasks, ONE_CPU)
    assert (accepted.ok, accepted.assignments) == (True, (("n", 2), ("n", -1)))
    assert [entry.task_name for entry in accepted.schedule["n"]] == ["first", "second"]
    error = refused(tasks, ONE_CPU, "target_node_priority")
    assert (error.detail["task"], error.detail["node"], error.detail["cpu"]) == ("second", "n", 2)
    assert "'second'" in error.text


# 2
@pytest.mark.parametrize(
    ("what", "late"),
    [
        ("deadline", {"deadline_us": 4500}),
        ("priority", {"deadline_us": 5500, "priority": 10}),
        ("jitter", {"deadline_us": 5500, "jitter_us": 600}),
    ],
)
def test_deadline_priority_and_jitter_decide(what: str, late: dict[str, Any]) -> None:
    """Beside one that is as urgent the task answers after 5 ms, beside three of which two are, after 6."""
    others = [a_task("beside", 0.2), a_task("low", 0.1, priority=20)]
    fits = [*others, a_task("tight", 0.3, deadline_us=5500)]
    fails = [*others, a_task("tight", 0.3, **late)]
    assert len(ours(fits, ONE_CPU).placed) == 3
    error = refused(fails, ONE_CPU)
    assert (error.detail["reason"], error.detail["late_task"]) == ("deadline", "tight")
    bound = [replace(task, node="n") for task in fails]
    assert theirs("target_node_priority", bound, ONE_CPU).placed == 3, f"the ancestor ignores the {what}"


# 3
def test_an_affinity_is_a_whole_mask_and_binds() -> None:
    nodes = (Node("n", (0, 1, 2, 3, 70)),)
    tasks = [a_task(f"t{i}", 0.7, cpus=(1, 2, 70)) for i in range(3)]
    for algorithm in SPREADING:
        assert {cpu for _, cpu in places(ours(tasks, nodes, algorithm)).values()} == {1, 2, 70}
        fourth = [*tasks, a_task("t3", 0.7, cpus=(1, 2, 70))]
        assert refused(fourth, nodes, algorithm).detail["cpu"] in (1, 2, 70), "0 and 3 are free"
    # The ancestor keeps one bit of the mask, and least_loaded not even that.
    low = [a_task("a", 0.1, cpus=(1, 2))]
    assert theirs("best_fit_decreasing", low, nodes).assignments == (("n", 2),)
    assert theirs("least_loaded", low, nodes).assignments == (("n", 0),)


# 4
@pytest.mark.parametrize("algorithm", SPREADING)
def test_cpus_are_shared_and_a_node_has_all_of_its_cpus(algorithm: Algorithm) -> None:
    nodes = (Node("n", (0, 1)),)
    tasks = [a_task(f"t{i}", 0.2) for i in range(8)]
    assert theirs(algorithm, tasks, nodes).unplaced == 6, "one task for each CPU"
    schedule = ours(tasks, nodes, algorithm)
    assert len(schedule.placed) == 8
    assert schedule.utilisation("n", 0) + schedule.utilisation("n", 1) == Fraction(8, 5)
    heavy = [a_task(f"t{i}", 0.6) for i in range(2)]
    if algorithm == "best_fit_decreasing":
        assert theirs(algorithm, heavy, nodes).unplaced == 1, "1.0 for all CPUs of the node"
    assert set(places(ours(heavy, nodes, algorithm)).values()) == {("n", 0), ("n", 1)}


# 5
def test_loads_that_equal_the_bound_are_accepted_in_every_order() -> None:
    shares = (0.2, 0.3, 0.4)
    verdicts = set()
    for order in permutations(shares):
        tasks = [a_task(f"t{share}", share, node="n") for share in order]
        verdicts.add(theirs("target_node_priority", tasks, ONE_CPU).phantom)
        exact = (Node("n", (2,), reserve_ppm=100_000),)
        assert ours(tasks, exact).utilisation("n", 2) == Fraction(9, 10)
        more = [*tasks, Task("one", 10_000_000, 1, 10_000_000, 1)]
        assert refused(more, exact).detail["reason"] == "no_available_cpu"
    assert verdicts == {0, 1}, "in the ancestor's doubles it depends on the order"


# 6
def test_equal_runtimes_do_not_make_the_schedule_depend_on_the_order() -> None:
    """More than the sixteen below which the usual sort happens to be stable."""
    random = Random(6)
    nodes = (Node("a", (0, 1, 2, 3)), Node("b", (0, 1, 2, 3)))
    tasks = [a_task(f"t{i:02}", 0.15, priority=1 + i % 3) for i in range(40)]
    first = ours(tasks, nodes)
    for _ in range(20):
        random.shuffle(tasks)
        assert ours(tasks, nodes) == first


# 7
def test_a_hyperperiod_that_wraps_is_an_error() -> None:
    periods_us = [2**33, 3**20, 5**14]
    (wrapped,) = compat.hyperperiods(
        [compat.Task(f"t{i}", "w", period_us=p) for i, p in enumerate(periods_us)]
    ).values()
    assert wrapped.hyperperiod_us == 2**33 * 3**20 * 5**14 % 2**64
    with pytest.raises(MgmtError) as caught:
        hyperperiod.strict(periods_us)
    assert caught.value.detail["reason"] == "overflow"
    assert all(str(p) in caught.value.text for p in periods_us)


# 8
def test_a_task_that_needs_more_than_a_cpu_is_refused() -> None:
    row = {"name": "a", "period": 10_000, "runtime": 15_000}
    with pytest.raises(MgmtError, match="runtime is 15000"):
        read([{"workload_id": "w", "tasks": [row]}])
    task = compat.Task("a", "w", period_us=10_000, runtime_us=15_000)
    assert compat.place("least_loaded", [compat.Node("n", (0,))], [task]).assignments == (("n", 0),)
    # One that needs more than a CPU may carry.
    error = refused([a_task("a", 0.95)], (Node("n", (0,), reserve_ppm=100_000),), "least_loaded")
    assert (error.detail["reason"], error.detail["largest_wcet_us"]) == ("no_available_cpu", 9000)


def asked(client: Client, verb: str, **body: Any) -> Any:
    """The ticket, with its answer."""
    ticket = client.ask(verb, **body)
    client.world.compute_all()
    return ticket


def submitted(client: Client, name: str, *rows: dict[str, Any], **keys: Any) -> Any:
    return asked(client, "schedule-submit", documents=[{"workload": name, "tasks": list(rows)}], **keys)


def a_row(name: str, wcet_us: int = 3000, **keys: Any) -> dict[str, Any]:
    return {"name": name, "period_us": 10_000, "wcet_us": wcet_us, "priority": 50, **keys}


# 9
def test_scheduling_again_counts_no_placement_of_before() -> None:
    client = a_daemon(topology=a_topology(1)).client()
    rows = [a_row("a"), a_row("b")]
    first = submitted(client, "w", *rows).ok
    for _ in range(3):  # 0.6 of the CPU: twice would be too much
        assert submitted(client, "w", *rows).ok["already"]
        for wcet_us in (2500, 3000):
            rows[0] = a_row("a", wcet_us)
            again = submitted(client, "w", *rows, replace=True).ok
            assert again["replaced"]
        assert again["tasks"] == first["tasks"]
    asked(client, "schedule-remove", workload="w")
    after = submitted(client, "w", *rows).ok
    assert (after["tasks"], after["cpus"]) == (first["tasks"], first["cpus"])
    # What is gone is reported by nothing.
    submitted(client, "w", a_row("c"), replace=True)
    assert [row["task"] for row in asked(client, "schedule-show").ok["tasks"]] == ["c"]
    tasks = [a_task("a", 0.6, node="n")]
    assert theirs("least_loaded", tasks, ONE_CPU) == theirs("least_loaded", tasks, ONE_CPU)


# 10
@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([], "bad-workload"),
        ([a_row("a", 20_000)], "bad-workload"),
        ([a_row("a", 9000), a_row("b", 9000)], "not-schedulable"),
        ([{**a_row("a"), "period_us": 9_999_991}, {**a_row("b"), "period_us": 9_999_973}], "not-schedulable"),
    ],
)
def test_a_replacement_that_is_refused_leaves_the_old_workload(rows: list[dict[str, Any]], code: str) -> None:
    world = a_daemon(topology=a_topology(1))
    client = world.client()
    submitted(client, "w", a_row("old"))
    before = asked(client, "schedule-show").ok
    assert submitted(client, "w", *rows, replace=True).code == code
    assert asked(client, "schedule-show").ok == before
    world.die()
    assert asked(world.client(), "schedule-show").ok == before


# 11
def test_who_reads_while_a_workload_is_replaced_sees_one_of_both_whole() -> None:
    client = a_daemon(topology=a_topology(1)).client()
    submitted(client, "w", a_row("a"), a_row("b"))
    row = {"workload": "w", "tasks": [a_row("c", 1000), a_row("d", 1000), a_row("e", 1000)]}
    reads = [client.ask("schedule-show")]
    client.ask("schedule-submit", documents=[row], replace=True)
    reads.append(client.ask("schedule-show"))
    client.world.compute_all()
    seen = [{task["task"] for task in read.ok["tasks"]} for read in reads]
    assert seen == [{"a", "b"}, {"c", "d", "e"}]
    assert reads[0].ok["version"] < reads[1].ok["version"]


# 16
def test_a_node_file_is_read_as_yaml(tmp_path: Path) -> None:
    from mgmt_cli.schedule.files import read as read_file

    def nodes_of(text: str) -> tuple[Node, ...]:
        file = tmp_path / "nodes.yaml"
        file.write_bytes(text.encode())
        return read(
            [{"workload": "w", "tasks": [a_row("a", node="n")]}], read_file(str(file)).documents
        ).nodes

    node = "nodes:\n  n:\n    available_cpus: [0, 1]\n    max_memory_mb: 512\n"
    for same in (
        node,
        node.replace("\n", "\r\n"),
        node.replace(" [0, 1]", "\n      - 0\n      - 1"),
        node.replace("512", "512  # MB"),
        node.replace("nodes:", "nodes:  # all of them"),
        node.replace("  n:", '  "n":'),
        "{nodes: {n: {available_cpus: [0, 1], max_memory_mb: 512}}}",
    ):
        assert nodes_of(same) == (Node("n", (0, 1), 512),), same
        scanned = [(n.name, n.available_cpus, n.max_memory_mb) for n in scan_nodes(same)]
        alike = same == node or "# MB" in same
        assert (scanned == [("n", (0, 1), 512)]) == alike, "the ancestor reads lines"
    for wrong in ("512MB", "", "lots", "'512'", "99999999999"):
        with pytest.raises(MgmtError, match="max_memory_mb") as caught:
            nodes_of(node.replace("512", wrong))
        assert caught.value.code == "bad-workload"
    for wrong in ("[0-3]", "[0, 1", "[x]", "[1, 1]", "[]"):
        with pytest.raises(MgmtError):
            nodes_of(node.replace("[0, 1]", wrong))


# 17
def test_the_cost_of_many_tasks_is_not_quadratic() -> None:
    """Sixteen times the tasks: sixteen times the work and a little, where the ancestor's is 256 times."""

    def took_s(count: int) -> float:
        nodes = [compat.Node(f"n{k}", tuple(range(8))) for k in range(16)]
        tasks = [
            compat.Task(f"t{i}", "w", f"n{i % 16}", period_us=1_000_000, runtime_us=1) for i in range(count)
        ]
        best_s = float("inf")
        for _ in range(5):
            start_s = time.process_time()
            placement = compat.place("target_node_priority", nodes, tasks)
            best_s = min(best_s, time.process_time() - start_s)
            assert placement.placed == count
        return best_s

    assert took_s(32_000) < 80 * took_s(2000)


# 18
def test_what_is_too_large_is_refused_before_it_is_worked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mgmt_cli.schedule.files import read as read_file

    monkeypatch.setattr(defaults, "MAX_WORKLOAD_TASKS", 3)
    monkeypatch.setattr(defaults, "MAX_WORKLOAD_NODES", 3)
    monkeypatch.setattr(defaults, "MAX_WORKLOAD_BYTES", 300)
    client = a_daemon(topology=a_topology(1)).client()

    def problem(tasks: int, nodes: int) -> str:
        document = {
            "workload": "w",
            "tasks": [a_row(f"t{i}", 10) for i in range(tasks)],
            "nodes": {f"n{k}": {"available_cpus": [0]} for k in range(nodes)},
        }
        refusal = asked(client, "schedule-submit", documents=[document]).refusal
        assert refusal[0] == "bad-workload"
        return str(refusal[1])

    assert "4 tasks: at most 3 are taken" in problem(4, 1)
    assert "at most 3 nodes are taken" in problem(3, 4)
    file = tmp_path / "w.yaml"
    for text, says in (("#" * 301, "larger than 300 bytes"), ("[" * 299, "nested deeper than")):
        file.write_text(text)
        with pytest.raises(MgmtError, match=says):
            read_file(str(file))
    assert asked(client, "schedule-show").ok["total"] == 0


# 19
def test_names_that_begin_alike_stay_apart() -> None:
    names = ["brake_controller_left", "brake_controller_right"]
    nodes = [compat.Node("n", (0, 1))]
    tasks = [compat.Task(name, "w", "n", period_us=10_000, runtime_us=1000) for name in names]
    cut = {entry.task_name for entry in compat.place("target_node_priority", nodes, tasks).schedule["n"]}
    assert cut == {"brake_controlle"}
    world = a_daemon(topology=a_topology(2))
    client = world.client()
    submitted(client, "w", a_row(names[0], cpus=[0]), a_row(names[1], cpus=[1]))
    world.die()
    client = world.client()
    assert [row["task"] for row in asked(client, "schedule-show").ok["tasks"]] == names
    for cpu, name in enumerate(names):
        found = asked(client, "schedule-explain", task=name).ok["task"]
        assert (found["task"], found["cpu"]) == (name, cpu)
    assert asked(client, "schedule-explain", task="brake_controlle").code == "unknown-task"
