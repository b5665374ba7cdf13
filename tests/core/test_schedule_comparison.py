"""The shadow run, the workloads by chance it is fed with, and recorded cases."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgmt.core.schedule import generator
from mgmt.core.schedule.comparison import as_placed, compared, engine_of, judged, run
from mgmt.core.schedule.replay import first_difference, replay
from mgmt.core.schedule.workload import Node, Task, Workload
from mgmt.protocol.errors import MgmtError

VECTORS = json.loads((Path(__file__).parents[1] / "data" / "vectors" / "timpani_dev.json").read_text())[
    "cases"
]
STRICT, COMPAT = engine_of("strict:best_fit_decreasing"), engine_of("compat:target_node_priority")


@pytest.mark.parametrize("engine", ["strict:best_fit_decreasing", "strict:least_loaded"])
@pytest.mark.parametrize("seed", range(20))
def test_an_engine_does_not_differ_from_itself(engine: str, seed: int) -> None:
    workload = generator.workload(seed)
    result = compared(engine_of(engine), engine_of(engine), workload, workload.nodes)
    assert result["differences"] == []
    assert result["left"] == result["right"]


def test_a_difference_names_both_places() -> None:
    tasks = (Task("a", 10_000, 1000, 10_000, 50, node="n"), Task("b", 10_000, 1000, 10_000, 40, node="n"))
    workload = Workload("w", tasks, (Node("n", (2, 3)),))
    result = compared(STRICT, COMPAT, workload, workload.nodes)
    assert result["differences"] == [
        {"task": name, "left": {"node": "n", "cpu": 2}, "right": {"node": "n", "cpu": 3}} for name in "ab"
    ]


def test_what_the_ancestor_accepts_and_would_be_late_is_named() -> None:
    tasks = (
        Task("long", 10_000, 4000, 10_000, 50, node="n"),
        Task("short", 10_000, 1000, 2000, 10, node="n"),
    )
    workload = Workload("w", tasks, (Node("n", (0,)),))
    result = compared(STRICT, COMPAT, workload, workload.nodes)
    assert result["right"]["late"] == ["short"]
    assert result["right"]["placed"] == 2
    assert "'short'" in result["left"]["refusal"]
    assert result["left"]["unplaced"] == 2


def test_a_phantom_is_counted_and_not_drawn() -> None:
    tasks = tuple(Task(name, 10_000, 6000, 10_000, 50, node="n") for name in "ab")
    workload = Workload("w", tasks, (Node("n", (0,)),))
    outcome = run(COMPAT, workload, workload.nodes)
    assert outcome.told() == {"placed": 1, "phantom": 1, "unplaced": 0, "late": [], "refusal": None}
    assert [placed.task.name for placed in as_placed(workload, outcome)] == ["a"]


def test_a_deadline_task_precedes_every_priority() -> None:
    tasks = (Task("d", 10_000, 4000, 10_000, policy="deadline"), Task("f", 10_000, 1000, 4500, 99))
    outcome = judged(Workload("w", tasks), [("n", 0), ("n", 0)])
    assert outcome.late == ("f",)


@pytest.mark.parametrize(
    "text", ["", "strict", "strict:", "loose:least_loaded", "strict:best", "Strict:least_loaded"]
)
def test_an_engine_that_there_is_not(text: str) -> None:
    with pytest.raises(MgmtError) as caught:
        engine_of(text)
    assert "best_fit_decreasing" in caught.value.text


@given(st.integers(0, 1 << 64), st.integers(1, 60), st.integers(1, 3), st.integers(1, 4))
def test_a_workload_by_chance_is_valid_and_the_same_again(
    seed: int, tasks: int, nodes: int, cpus: int
) -> None:
    workload = generator.workload(seed, tasks=tasks, nodes=nodes, cpus=cpus)
    assert workload == generator.workload(seed, tasks=tasks, nodes=nodes, cpus=cpus)
    assert len(workload.tasks) == tasks
    for task in workload.tasks:
        assert 1 <= task.wcet_us <= task.deadline_us <= task.period_us
        assert 1 <= task.priority <= 99


def test_the_first_workload_by_chance_stays_what_it_was() -> None:
    """So that a comparison can be repeated years later."""
    first = generator.workload(1, tasks=6).tasks[:3]
    assert [(t.period_us, t.wcet_us, t.deadline_us, t.priority) for t in first] == FIRST


FIRST = [(5000, 2841, 4787, 95), (2000, 1268, 2000, 98), (2000, 1441, 2000, 98)]


# Recorded cases


def test_every_recorded_case_matches() -> None:
    assert [verdict for verdict in replay(VECTORS) if verdict.difference] == []


def changed(index: int, change: Any) -> Any:
    case = deepcopy(VECTORS[index])
    change(case)
    return case


PLACED = next(i for i, case in enumerate(VECTORS) if case["expect_cpp"]["placed"])
PARSED = next(i for i, case in enumerate(VECTORS) if "parsed_nodes" in case["expect_cpp"])


@pytest.mark.parametrize(
    ("case", "says"),
    [
        (changed(PLACED, lambda c: c["expect_cpp"]["assignments"][0].update(cpu=99)), "[0].cpu: expected 99"),
        (changed(PLACED, lambda c: c["expect_cpp"].update(ok=1)), "ok: expected 1, got True"),
        (changed(PLACED, lambda c: c["expect_cpp"].update(phantom=7)), "phantom: expected 7"),
        (changed(PLACED, lambda c: c["expect_cpp"]["hyperperiods"].clear()), "which is not expected"),
        (changed(PLACED, lambda c: c["expect_cpp"]["schedule"].update(zz=[])), "schedule.zz: missing"),
        (changed(PLACED, lambda c: c["expect_cpp"]["assignments"].pop()), "entries, got"),
        (changed(PARSED, lambda c: c["expect_cpp"]["parsed_nodes"].update(zz={})), "parsed_nodes.zz: missing"),
        (changed(PARSED, lambda c: c.update(nodes_yaml="nodes:\n  a:\n    max_memory_mb: x\n")), "is refused"),
        (changed(PLACED, lambda c: c.pop("tasks")), "cannot be run: KeyError"),
        (changed(PLACED, lambda c: c["tasks"][0].update(colour="red")), "cannot be run: TypeError"),
        (7, "is no object"),
    ],
)  # fmt: skip
def test_a_case_that_does_not_match_says_where(case: Any, says: str) -> None:
    (verdict,) = replay([case])
    assert says in verdict.difference


@given(
    st.recursive(st.integers() | st.text() | st.none(), lambda x: st.lists(x) | st.dictionaries(st.text(), x))
)
def test_a_value_does_not_differ_from_itself(value: Any) -> None:
    assert first_difference(value, deepcopy(value), "x") == ""
