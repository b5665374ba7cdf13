"""Documents: four kinds are read, and every fault is told with its place and what is allowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mgmt.core.schedule.documents import read
from mgmt.core.schedule.tasks import DIALECTS
from mgmt.core.schedule.workload import Chain, Node, Task
from mgmt.protocol import defaults
from mgmt.protocol.errors import MgmtError

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def example(name: str) -> list[Any]:
    return list(yaml.safe_load_all((EXAMPLES / name).read_text()))


def task(**fields: Any) -> dict[str, Any]:
    return {"name": "a", "period_us": 10_000, "wcet_us": 1000, "priority": 50, **fields}


def native(*tasks: Any, **more: Any) -> dict[str, Any]:
    return {"workload": "w", "tasks": list(tasks), **more}


def problems(*documents: Any, nodes: list[Any] | None = None) -> list[dict[str, str]]:
    with pytest.raises(MgmtError) as caught:
        read(list(documents), nodes or [])
    assert caught.value.code == "bad-workload"
    found: list[dict[str, str]] = caught.value.detail["problems"]
    for item in found:
        assert item["path"] in caught.value.text
        assert item["problem"] in caught.value.text
    return found


def test_the_native_form() -> None:
    workload = read(example("brake-by-wire.yaml"))
    assert workload.name == "brake-by-wire"
    assert workload.nodes == (Node("front_ecu", (2, 3), 512), Node("rear_ecu", (2, 3), 512, 50_000))
    by_name = {one.name: one for one in workload.tasks}
    assert by_name["pedal"] == Task("pedal", 5000, 400, 5000, 90, node="front_ecu", max_dmiss=1)
    assert by_name["brake_rear"].cpus == (2,)
    assert (by_name["logger"].policy, by_name["logger"].priority) == ("normal", 0)
    assert workload.chains[0] == Chain(
        "pedal-to-front-brake", ("pedal", "slip_control", "brake_front"), 40_000
    )


def test_a_file_of_pullpiri_is_read_as_it_is() -> None:
    workload = read(example("lane-keeping.yaml"), example("nodes.yaml"))
    by_name = {one.name: one for one in workload.tasks}
    assert workload.name == "lane_keeping"
    assert by_name["camera_left"] == Task(
        "camera_left", 40_000, 9000, 40_000, 40, node="vision_ecu", cpus=(2, 3), max_dmiss=3
    )
    assert by_name["lane_model"].policy == "rr"
    assert by_name["lane_model"].release_us == 2000
    assert by_name["steering"].cpus is None, "a mask of 32 ones is any CPU"
    assert by_name["display"].policy == "normal"
    assert {node.name: node.cpus for node in workload.nodes} == {
        "vision_ecu": (2, 3),
        "steer_ecu": (2, 3, 4, 5),
    }


def test_a_schedule_with_its_list_under_tasks() -> None:
    row = {"name": "a", "period": 5000, "runtime": 10, "deadline": 5000}
    document = {"kind": "Schedule", "metadata": {"name": "w"}, "spec": {"tasks": [row]}}
    assert read([document]).tasks == (Task("a", 5000, 10, 5000, policy="normal"),)


def test_sched_info_in_the_json_of_protobuf() -> None:
    workload = read([json.loads((EXAMPLES / "telemetry.json").read_text())], example("nodes.yaml"))
    first = workload.tasks[0]
    assert workload.name == "telemetry"
    assert (first.policy, first.cpus, first.node, first.max_dmiss) == ("fifo", (1, 2), "steer_ecu", 3)


@pytest.mark.parametrize("mask", [0, 0xFFFF_FFFF, (1 << 64) - 1, "18446744073709551615", None])
def test_masks_that_mean_any_cpu(mask: Any) -> None:
    row = {"name": "a", "period": 5000, "runtime": 10, "cpu_affinity": mask}
    assert read([{"workload_id": "w", "tasks": [row]}]).tasks[0].cpus is None


@given(st.sets(st.integers(0, 130), min_size=1))
def test_a_mask_is_its_bits(cpus: set[int]) -> None:
    mask = sum(1 << cpu for cpu in cpus)
    row = {"name": "a", "period": 5000, "runtime": 10, "cpu_affinity": mask}
    read_back = read([{"workload_id": "w", "tasks": [row]}]).tasks[0].cpus
    if mask not in (0xFFFF_FFFF, (1 << 64) - 1):
        assert read_back == tuple(sorted(cpus))


@pytest.mark.parametrize(
    ("cpus", "expected"),
    [("0-3,6", (0, 1, 2, 3, 6)), ([3, 1], (1, 3)), (5, (5,)), (None, None), (" 2 ", (2,))],
)
def test_cpus_of_a_task(cpus: Any, expected: tuple[int, ...] | None) -> None:
    assert read([native(task(cpus=cpus))]).tasks[0].cpus == expected


@pytest.mark.parametrize(
    ("change", "path", "says"),
    [
        ({"period_us": 999}, "period_us", "period_us is 999: must be 1000 to 10000000 us"),
        ({"period_us": 10_000_001}, "period_us", "must be 1000 to 10000000 us"),
        ({"period_us": 10.5}, "period_us", "must be a whole number without fraction"),
        ({"period_us": True}, "period_us", "period_us is true: must be a whole number"),
        ({"period_us": "10ms"}, "period_us", "'10ms': must be a whole number"),
        ({"wcet_us": 0}, "wcet_us", "wcet_us is 0: must be 1 to 10000 us"),
        ({"wcet_us": 10_001}, "wcet_us", "at most the period"),
        ({"deadline_us": 999}, "deadline_us", "must be 1000 to 10000 us, from the WCET to the period"),
        ({"deadline_us": 10_001}, "deadline_us", "from the WCET to the period"),
        ({"priority": 0}, "priority", "must be 1 to 99"),
        ({"priority": 100}, "priority", "must be 1 to 99"),
        ({"priority": None}, "priority", "priority is empty"),
        ({"policy": "idle"}, "policy", "must be one of FIFO, RR, DEADLINE, NORMAL"),
        ({"policy": 1}, "policy", "policy is 1"),
        ({"cpus": "3-1"}, "cpus", "like 0-3,6"),
        ({"cpus": ["2-3"]}, "cpus", "ranges are written as text"),
        ({"cpus": []}, "cpus", "name at least one CPU"),
        ({"cpus": [1, 1]}, "cpus", "names CPU 1 twice"),
        ({"cpus": [4096]}, "cpus", "a CPU is 0 to 4095"),
        ({"cpus": [-1]}, "cpus", "a CPU is 0 to 4095"),
        ({"node": "n9"}, "node", "'n9', which is not configured: known are n1"),
        ({"memory_mb": -1}, "memory_mb", "must be 0 to"),
        ({"jitter_us": -1}, "jitter_us", "must be 0 to"),
        ({"periode_us": 1}, "", "'periode_us' is unknown: did you mean 'period_us'?"),
        ({"name": ""}, "name", "the task's name is missing"),
        ({"name": "a\nb"}, "name", "control characters"),
        ({"name": "x" * 257}, "name", "at most 256 characters"),
    ],
)
def test_a_fault_of_a_task(change: dict[str, Any], path: str, says: str) -> None:
    document = native(task(name="good"), task(**change), nodes={"n1": {"cpus": [0]}})
    (found,) = problems(document)
    assert found["path"] == f"documents[0].tasks[1]{f'.{path}' if path else ''}"
    assert says in found["problem"]


def test_a_task_without_priority_or_period() -> None:
    found = problems(native({"name": "a", "wcet_us": 5}))
    assert [item["problem"] for item in found] == [
        "task 'a': period_us is missing: give 1000 to 10000000 us",
        "task 'a': priority is missing: give 1 to 99",
    ]


@pytest.mark.parametrize(
    ("documents", "says"),
    [
        ([], "there is no task in it"),
        ([{"kind": "Scenario"}, {"kind": "Package"}], "(passed over: Scenario, Package)"),
        ([{"tasks": [task()]}], "no name: give `workload: NAME`"),
        ([native(task()), {"workload": "v", "tasks": []}], "one workload at a time; split the file"),
        ([native(task(), task())], "another of that name (duplicate)"),
        (["text"], "must be a map of keys to values, not text"),
        ([native("a")], "must be a task: a map with the key `name`, not text"),
        ([{"workload": "w", "tasks": {"a": 1}}], "must be a list of tasks, not a map"),
        ([{"kind": "Schedule", "spec": []}], "must have the key `name`, which names the workload"),
        ([native(task(), chains=[{"name": "c", "tasks": ["b"]}])], "there is no task 'b'"),
        ([native(task(), chains=[{"name": "c", "tasks": []}])], "must be a list of task names"),
        ([native(task(), nodes={"n": {}})], "available_cpus is missing"),
        ([native(task(), nodes={"n": {"available_cpus": "[0-3"}})], "must be a list of CPU numbers"),
        ([native(task(), nodes={"n": {"available_cpus": [0], "max_memory_mb": "4096MB"}})], "whole number"),
        ([native(task(), nodes={"n": None})], "must be a map with the key `available_cpus`, not nothing"),
        ([native(task(), nodes=[{"name": "n", "cpus": [0]}, {"name": "n", "cpus": [0]}])], "duplicate"),
        ([native(task(), nodes=7)], "must be a map of node to its CPUs, or a list, not a number"),
    ],
)
def test_a_fault_of_a_document(documents: list[Any], says: str) -> None:
    assert any(says in item["problem"] for item in problems(*documents))


def test_a_node_file_that_is_none() -> None:
    (found,) = problems(native(task()), nodes=[{"tasks": []}])
    assert found["path"] == "nodes[0]"
    assert "a node configuration" in found["problem"]


def test_all_faults_are_told_up_to_a_number() -> None:
    limit = defaults.MAX_WORKLOAD_PROBLEMS
    with pytest.raises(MgmtError) as caught:
        read([native(*(task(name=f"t{i}", wcet_us=0) for i in range(limit + 5)))])
    assert len(caught.value.detail["problems"]) == limit
    assert caught.value.text.endswith("and 5 more")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
KEYS = st.sampled_from([*DIALECTS["native"].names, *DIALECTS["timpani"].names, "kind", "metadata", "spec"])
KEYS |= st.sampled_from(["workload", "workload_id", "tasks", "chains", "nodes"])
shaped = st.recursive(
    json_values | st.sampled_from(["Schedule", "a", 5000, 10]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=30,
)


@given(st.lists(shaped, max_size=3), st.lists(shaped, max_size=2))
def test_anything_is_a_workload_or_told(documents: list[Any], nodes: list[Any]) -> None:
    try:
        workload = read(documents, nodes)
    except MgmtError as error:
        assert error.code == "bad-workload"
        assert error.text
        return
    assert workload.name
    assert workload.tasks
