"""What TIMPANI's own tests pin of its scheduler, node configuration and hyperperiods, asked of both modes.

The comment above each test names what it ports: the list in the parity table (docs/parity.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgmt.core.schedule import compat, hyperperiod
from mgmt.core.schedule.admission import ALGORITHMS, Algorithm, Schedule, place
from mgmt.core.schedule.comparison import compat_placement
from mgmt.core.schedule.compat_yaml import scan_nodes
from mgmt.core.schedule.documents import read
from mgmt.core.schedule.workload import Node, Task, Workload
from mgmt.protocol.errors import Exit, MgmtError
from tests.core.builders import a_topology
from tests.core.recorder import Client, a_daemon
from tests.unit.cli_runner import run

NODE_FILE = """# three nodes; CPUs 0 and 1 are left to the system
nodes:
  node01:
    available_cpus: [2, 3]
    max_memory_mb: 4096
    architecture: "aarch64"
    location: "front"
    description: 'sensors'
  node02:
    available_cpus: [2, 3, 4, 5]
    max_memory_mb: 8192
  node03:
    available_cpus: [2, 3, 6, 7]
    max_memory_mb: 4096
"""
NODES = (Node("node01", (2, 3), 4096), Node("node02", (2, 3, 4, 5), 8192), Node("node03", (2, 3, 6, 7), 4096))


def theirs(algorithm: str, tasks: Sequence[Task], nodes: Sequence[Node] = NODES) -> compat.Placement:
    """Mode compat of the same tasks."""
    return compat_placement(algorithm, Workload("w", tuple(tasks)), nodes)


def ours(algorithm: Algorithm, tasks: Sequence[Task], nodes: Sequence[Node] = NODES, **how: Any) -> Schedule:
    """Mode strict."""
    return place(Workload("w", tuple(tasks)), nodes, algorithm=algorithm, **how)


def refusal(ask: Callable[[], object]) -> MgmtError:
    with pytest.raises(MgmtError) as caught:
        ask()
    return caught.value


def places(schedule: Schedule) -> dict[str, tuple[str, int]]:
    return {placed.task.name: (placed.node, placed.cpu) for placed in schedule.placed}


def a_task(name: str, share: float = 0.1, **keys: Any) -> Task:
    """`share` of a CPU every 10 ms, in whole us."""
    return Task(name, 10_000, round(10_000 * share), **{"deadline_us": 10_000, "priority": 50, **keys})


# ---- scheduler --------------------------------------------------------------------------------------------


# empty list
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_tasks_are_no_schedule(algorithm: Algorithm) -> None:
    nothing = theirs(algorithm, [])
    assert (nothing.ok, nothing.assignments, nothing.schedule) == (False, (), {})
    assert refusal(lambda: ours(algorithm, [])).detail["reason"] == "no_tasks"


# unknown algorithm; names are exact and case-sensitive
@pytest.mark.parametrize("algorithm", ["", "unknown_algorithm", "Least_Loaded", "least_loaded "])
def test_an_algorithm_that_there_is_not_places_nothing(algorithm: Any) -> None:
    nothing = theirs(algorithm, [a_task("a", node="node01")])
    assert (nothing.ok, nothing.assignments, nothing.schedule) == (False, (("", -1),), {})
    error = refusal(lambda: ours(algorithm, [a_task("a")]))
    assert error.detail["reason"] == "unknown_algorithm"
    assert all(known in error.text for known in ALGORITHMS)


# configuration not loaded
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_without_a_configuration_nothing_is_placed(algorithm: Algorithm) -> None:
    task = compat.Task("a", "w", "node01", period_us=10_000, runtime_us=1000)
    nothing = compat.place(algorithm, None, [task])
    assert (nothing.ok, nothing.assignments, nothing.schedule) == (False, (("", -1),), {})
    known = {"missing_target_node"} if algorithm == "target_node_priority" else {"no_schedulable_node"}
    assert refusal(lambda: ours(algorithm, [a_task("a")], ())).detail["reason"] in known


# nothing before schedule(), clear() empties
def test_nothing_is_there_before_a_submission_and_after_a_removal() -> None:
    client = a_daemon(topology=a_topology(2)).client()
    empty = asked(client, "schedule-show")
    assert (empty["workloads"], empty["tasks"], empty["total"]) == ([], [], 0)
    submit(client, periods(10_000))
    assert asked(client, "schedule-show")["total"] == 1
    asked(client, "schedule-remove", workload="w")
    cleared = asked(client, "schedule-show")
    assert (cleared["workloads"], cleared["tasks"], cleared["total"]) == ([], [], 0)


# target node and pinned CPU
def test_a_target_node_and_a_pinned_cpu_are_kept() -> None:
    tasks = [a_task("a", node="node02"), a_task("b", node="node03", cpus=(6,)), a_task("c", node="node01")]
    # The ancestor takes the highest CPU of a node.
    assert theirs("target_node_priority", tasks).assignments == (("node02", 5), ("node03", 6), ("node01", 3))
    found = places(ours("target_node_priority", tasks))
    assert {name: node for name, (node, _) in found.items()} == {"a": "node02", "b": "node03", "c": "node01"}
    assert found["b"] == ("node03", 6)


# a pinned CPU that is full
def test_beside_a_full_pinned_cpu_the_ancestor_packs_and_strict_refuses() -> None:
    tasks = [a_task(name, 0.6, node="node01", cpus=(3,)) for name in "ab"]
    assert theirs("target_node_priority", tasks).assignments == (("node01", 3), ("node01", 2))
    error = refusal(lambda: ours("target_node_priority", tasks))
    assert (error.detail["reason"], error.detail["node"], error.detail["cpu"]) == (
        "no_available_cpu",
        "node01",
        3,
    )


# missing target and missing workload
def test_a_missing_target_and_a_missing_workload_are_told() -> None:
    aimless = refusal(lambda: ours("target_node_priority", [a_task("a", node="node01"), a_task("b")]))
    assert (aimless.detail["reason"], aimless.detail["task"]) == ("missing_target_node", "b")
    assert theirs("target_node_priority", [a_task("b")]).assignments == (("", -1),)
    row = {"name": "a", "period": 10_000, "runtime": 1000, "node_id": "node01"}
    nameless = refusal(lambda: read([{"workload_id": "", "tasks": [row]}]))
    assert nameless.code == "bad-workload"
    assert "the workload's name is missing" in nameless.text
    task = compat.Task("a", "", "node01", period_us=10_000, runtime_us=1000)
    their_nodes = [compat.Node(node.name, node.cpus, node.memory_mb) for node in NODES]
    assert compat.place("target_node_priority", their_nodes, [task]).assignments == (("", -1),)


# a node that nobody configured
@pytest.mark.parametrize("algorithm", ["target_node_priority", "best_fit_decreasing"])
def test_an_unknown_target_gets_no_cpu(algorithm: Algorithm) -> None:
    tasks = [a_task("a", node="node01"), a_task("b", node="node99")]
    assert theirs(algorithm, tasks).assignments[1] == ("", -1)
    error = refusal(lambda: ours(algorithm, tasks))
    assert (error.detail["reason"], error.detail["task"]) == ("node_not_found", "b")
    assert "known are node01, node02, node03" in error.text


# all are placed
@pytest.mark.parametrize("algorithm", ["best_fit_decreasing", "least_loaded"])
def test_ten_light_tasks_are_all_placed(algorithm: Algorithm) -> None:
    tasks = [a_task(f"t{i}", 0.02 * (i + 1), memory_mb=64) for i in range(10)]
    placement = theirs(algorithm, tasks)
    assert (placement.ok, placement.placed, placement.phantom, placement.unplaced) == (True, 10, 0, 0)
    assert sum(map(len, placement.schedule.values())) == 10
    schedule = ours(algorithm, tasks)
    by_node = {node.name: set(node.cpus) for node in NODES}
    assert len(schedule.placed) == 10
    assert all(placed.cpu in by_node[placed.node] for placed in schedule.placed)


# a task that is larger than every node
@pytest.mark.parametrize("algorithm", ["best_fit_decreasing", "least_loaded"])
def test_memory_rejects(algorithm: Algorithm) -> None:
    tasks = [a_task("small", memory_mb=64), a_task("huge", memory_mb=8193)]
    assert theirs(algorithm, tasks).assignments[1] == ("", -1)
    error = refusal(lambda: ours(algorithm, tasks))
    assert (error.detail["reason"], error.detail["task"], error.detail["node"]) == (
        "memory",
        "huge",
        "node02",
    )
    assert places(ours(algorithm, [a_task("huge", memory_mb=8192)]))["huge"][0] == "node02"


# at the threshold of 0.90, where upstream asserts that nothing crashes
@pytest.mark.parametrize(
    ("shares", "fits"), [([0.9], True), ([0.45, 0.45], True), ([0.9001], False), ([0.5, 0.4001], False)]
)
def test_the_threshold_of_a_cpu(shares: list[float], fits: bool) -> None:
    nodes = (Node("n", (2,)),)
    tasks = [a_task(f"t{i}", share, node="n") for i, share in enumerate(shares)]
    placement = theirs("target_node_priority", tasks, nodes)
    assert (placement.phantom == 0) == fits, "what passes it is a phantom"
    kept_free = (replace(nodes[0], reserve_ppm=100_000),)
    if fits:
        assert ours("target_node_priority", tasks, kept_free).utilisation("n", 2) <= 0.9
    else:
        error = refusal(lambda: ours("target_node_priority", tasks, kept_free))
        assert error.detail["reason"] == "no_available_cpu"


# the same 50 times over
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_fifty_runs_are_one(algorithm: Algorithm) -> None:
    tasks = [a_task(f"t{i:02}", 0.05 + 0.02 * (i % 5), node=f"node0{1 + i % 3}") for i in range(18)]
    first, strict = theirs(algorithm, tasks), ours(algorithm, tasks)
    assert first.placed and len(strict.placed) == 18
    for _ in range(50):
        assert theirs(algorithm, tasks) == first
        assert ours(algorithm, tasks) == strict


# fields: all initialised, times in us become ns, policies by number and by name
def test_every_field_of_a_task_has_a_value_and_arrives() -> None:
    bare = compat.Task("a")
    assert (bare.policy, bare.release_time_us, bare.max_dmiss, bare.memory_mb) == (0, 0, 0, 64)
    rows = [
        {
            "name": f"t{number}", "period": 10_000, "runtime": 500, "deadline": 8000, "release_time": 250,
            "priority": 10 + number, "policy": policy, "node_id": "node01", "max_dmiss": 3,
        }
        for number, policy in enumerate([0, 1, 2, "FIFO"])
    ]  # fmt: skip
    workload = read([{"workload_id": "w", "tasks": rows}])
    assert [task.policy for task in workload.tasks] == ["normal", "fifo", "rr", "fifo"]
    entries = compat_placement("target_node_priority", workload, NODES).schedule["node01"]
    assert [entry.sched_policy for entry in entries] == [0, 1, 2, 1]
    assert entries[1]._asdict() == {
        "task_name": "t1", "cpu": 3, "period_ns": 10_000_000, "runtime_ns": 500_000, "deadline_ns": 8_000_000,
        "release_time_us": 250, "sched_policy": 1, "sched_priority": 11, "max_dmiss": 3,
        "assigned_node": "node01",
    }  # fmt: skip
    (plain,) = read([{"workload_id": "w", "tasks": [{"name": "a", "period": 10_000, "runtime": 500}]}]).tasks
    assert plain == Task("a", 10_000, 500, 10_000, policy="normal")


# ---- the bound of Liu and Layland -------------------------------------------------------------------------


def bound_of(tasks: int) -> float:
    return tasks * (2 ** (1 / tasks) - 1)


def full(count: int) -> list[Task]:
    """Tasks in rate-monotonic order that fill a CPU with the least load that can fill one: the bound."""
    shortest_us = 10**9
    periods_us = [round(shortest_us * 2 ** (i / count)) for i in range(count)]
    wcets_us = [later - sooner for sooner, later in pairwise(periods_us)]
    wcets_us.append(2 * shortest_us - periods_us[-1])
    return [
        Task(f"t{i:02}", period_us, wcet_us, period_us, 99 - i)
        for i, (period_us, wcet_us) in enumerate(zip(periods_us, wcets_us, strict=True))
    ]


ONE_CPU = (Node("n", (0,)),)


# none, one, two, many: the bound goes to ln 2; exactly at it
@pytest.mark.parametrize("count", [1, 2, 3, 10, 60])
def test_at_the_bound_of_liu_and_layland_it_fits_and_1_us_more_does_not(count: int) -> None:
    tasks = full(count)
    schedule = ours("best_fit_decreasing", tasks, ONE_CPU, max_hyperperiod_us=None)
    assert float(schedule.utilisation("n", 0)) == pytest.approx(bound_of(count), abs=1e-6)
    assert bound_of(count) >= math.log(2)
    for i in range(count if count > 1 else 0):
        more = [*tasks[:i], replace(tasks[i], wcet_us=tasks[i].wcet_us + 1), *tasks[i + 1 :]]
        with pytest.raises(MgmtError) as caught:
            ours("best_fit_decreasing", more, ONE_CPU, max_hyperperiod_us=None)
        assert caught.value.detail["reason"] == "deadline"
    if count == 60:
        assert float(schedule.utilisation("n", 0)) == pytest.approx(math.log(2), abs=0.005)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1000, 10_000_000), st.integers(1, 1000)), min_size=1, max_size=12),
    st.sampled_from([0.5, 0.9, 1 - 1e-9]),
)
def test_below_the_bound_of_liu_and_layland_everything_fits(rows: list[tuple[int, int]], part: float) -> None:
    share = part * bound_of(len(rows)) / sum(weight for _, weight in rows)
    drawn = [(period_us, int(period_us * share * weight)) for period_us, weight in sorted(rows)]
    tasks = [
        Task(f"t{i:02}", period_us, wcet_us, period_us, 99 - i)
        for i, (period_us, wcet_us) in enumerate(drawn)
        if wcet_us
    ]
    if tasks:
        ours("best_fit_decreasing", tasks, ONE_CPU, max_hyperperiod_us=None)


# ---- node configuration -----------------------------------------------------------------------------------


def by_parser(tmp_path: Path, text: str) -> tuple[Node, ...]:
    """As everything but mode compat reads a node file."""
    from mgmt_cli.schedule.files import read as read_file

    file = tmp_path / "nodes.yaml"
    file.write_text(text)
    row = {"name": "a", "period_us": 10_000, "wcet_us": 10, "priority": 1}
    return read([{"workload": "w", "tasks": [row]}], read_file(str(file)).documents).nodes


# three nodes with their fields
def test_three_nodes_are_read_with_their_fields(tmp_path: Path) -> None:
    assert [(n.name, n.available_cpus, n.max_memory_mb) for n in scan_nodes(NODE_FILE)] == [
        ("node01", (2, 3), 4096),
        ("node02", (2, 3, 4, 5), 8192),
        ("node03", (2, 3, 6, 7), 4096),
    ]
    assert by_parser(tmp_path, NODE_FILE) == NODES


# the default node of an empty and of an invalid file
@pytest.mark.parametrize("text", ["", "# nothing\n", "nodes:\n", "invalid: yaml: [content\n  }\n"])
def test_a_file_without_nodes_means_the_default_node(text: str) -> None:
    assert scan_nodes(text) == []
    task = compat.Task("a", "w", "default_node", period_us=10_000, runtime_us=100)
    assert compat.place("target_node_priority", [], [task]).assignments == (("default_node", 3),)
    assert compat.place("least_loaded", [], [task] * 5).assignments == (
        *(("default_node", cpu) for cpu in range(4)),
        ("", -1),
    )
    assert tuple(compat.DEFAULT_NODE) == ("default_node", (0, 1, 2, 3), 4096)


# strict makes no node up
def test_a_file_that_is_no_configuration_is_told(tmp_path: Path) -> None:
    assert by_parser(tmp_path, "# nothing\n") == ()
    for text in ("nodes:\n", "invalid: yaml: [content\n  }\n", "cpus: [1]\n"):
        with pytest.raises(MgmtError) as caught:
            by_parser(tmp_path, text)
        assert caught.value.code == "bad-workload"


# a missing file
@pytest.mark.parametrize("mode", ["strict", "compat"])
def test_a_missing_node_file_is_told(mode: str, tmp_path: Path) -> None:
    workload, absent = tmp_path / "w.yaml", tmp_path / "absent.yaml"
    workload.write_text("workload: w\ntasks: [{name: a, period_us: 10000, wcet_us: 10, priority: 1}]\n")
    result = run("schedule", "plan", str(workload), "--nodes", str(absent), "--mode", mode)
    assert result.exit_code == Exit.USAGE
    assert f"{absent}: No such file" in result.stderr


# reading again replaces
def test_nodes_that_are_read_again_replace_those_before() -> None:
    client = a_daemon(topology=a_topology(1)).client()
    submit(client, periods(10_000), nodes={"old": {"available_cpus": [0, 1]}})
    assert {row["node"] for row in asked(client, "schedule-show")["cpus"]} == {"old"}
    submit(client, periods(10_000), nodes={"new": {"available_cpus": [5]}}, replace=True)
    shown = asked(client, "schedule-show")
    assert [(row["node"], row["cpu"]) for row in shown["cpus"]] == [("new", 5)]
    assert [(row["node"], row["cpu"]) for row in shown["tasks"]] == [("new", 5)]


# ---- hyperperiods -----------------------------------------------------------------------------------------


def asked(client: Client, verb: str, **body: Any) -> dict[str, Any]:
    ticket = client.ask(verb, **body)
    client.world.compute_all()
    return ticket.ok


def periods(*periods_us: int, name: str = "w") -> dict[str, Any]:
    """A workload with a task of each of these periods."""
    rows = [{"name": f"t{i}", "period_us": p, "wcet_us": 10, "priority": 5} for i, p in enumerate(periods_us)]
    return {"workload": name, "tasks": rows}


def submit(
    client: Client, document: dict[str, Any], nodes: dict[str, Any] | None = None, replace: bool = False
) -> dict[str, Any]:
    if nodes is not None:
        document = {**document, "nodes": nodes}
    return asked(client, "schedule-submit", documents=[document], replace=replace)


def in_force(client: Client) -> dict[str, int]:
    """Hyperperiods in us by workload."""
    rows = asked(client, "schedule-show")["workloads"]
    return {row["workload"]: row["hyperperiod_us"] for row in rows}


# least common multiples; one period, equal periods, harmonic ones and ones that share nothing
@pytest.mark.parametrize(
    ("periods_us", "length_us"),
    [
        ([10_000], 10_000),
        ([20_000, 20_000], 20_000),
        ([10_000, 20_000, 40_000], 40_000),
        ([10_000, 15_000], 30_000),
        ([1009, 1013], 1009 * 1013),
    ],
)
def test_hyperperiods(periods_us: list[int], length_us: int) -> None:
    assert hyperperiod.strict(periods_us) == length_us
    tasks = [compat.Task(f"t{i}", "w", period_us=p) for i, p in enumerate(periods_us)]
    found = compat.hyperperiods(tasks)["w"]
    assert found == compat.Hyperperiod(length_us, tuple(sorted(set(periods_us))), len(tasks))


# the limit is inclusive; overflow; no valid periods
def test_the_limit_of_a_hyperperiod_is_allowed_and_1_us_more_is_not() -> None:
    assert hyperperiod.strict([3_600_000_000]) == 3_600_000_000
    assert refusal(lambda: hyperperiod.strict([3_600_000_001])).detail["reason"] == "too_large"
    assert hyperperiod.strict([30_000], limit_us=30_000) == 30_000
    assert refusal(lambda: hyperperiod.strict([30_000], limit_us=29_999)).detail["available"] == 29_999
    past_63_bits = refusal(lambda: hyperperiod.strict([2**62, 3]))
    assert past_63_bits.detail["reason"] == "overflow"
    assert compat.hyperperiods([compat.Task("a", "w", period_us=0)])["w"].hyperperiod_us == 0
    assert refusal(lambda: hyperperiod.strict([0])).detail["reason"] == "no_valid_periods"


# only the tasks of a workload; those without period are counted by the ancestor
def test_a_hyperperiod_is_of_one_workload() -> None:
    tasks = [
        compat.Task("a", "v", period_us=10_000), compat.Task("b", "v", period_us=15_000),
        compat.Task("c", "w", period_us=7000), compat.Task("d", "w", period_us=0),
    ]  # fmt: skip
    found = compat.hyperperiods(tasks)
    assert found == {"v": (30_000, (10_000, 15_000), 2), "w": (7000, (7000,), 2)}
    assert "u" not in found


# filter, replace, clear
def test_hyperperiods_in_force_are_kept_by_workload_replaced_and_removed() -> None:
    client = a_daemon(topology=a_topology(2)).client()
    submit(client, periods(10_000, 15_000, name="v"))
    submit(client, periods(7000))
    assert in_force(client) == {"v": 30_000, "w": 7000}
    submit(client, periods(8000, 12_000), replace=True)
    assert in_force(client) == {"v": 30_000, "w": 24_000}
    asked(client, "schedule-remove", workload="v")
    assert in_force(client) == {"w": 24_000}
    asked(client, "schedule-remove", workload="w")
    assert in_force(client) == {}
