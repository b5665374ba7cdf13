"""Recorded cases of the ancestor's scheduler against mode compat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import compat
from .compat_yaml import scan_nodes

TOLERANCE = 1e-9  # of sums of utilisations, which are for information; a placement has none


@dataclass(frozen=True, slots=True)
class Verdict:
    """`difference` is empty for a case that matches, else the first thing that does not."""

    id: str
    category: str
    difference: str


def replay(cases: Sequence[Any]) -> list[Verdict]:
    """One verdict a case; one that cannot be read, or on which the ancestor would end, has failed."""
    return [_verdict(i, case) for i, case in enumerate(cases)]


def _verdict(index: int, case: Any) -> Verdict:
    if not isinstance(case, Mapping):
        return Verdict(f"case {index}", "", "is no object")
    name, category = str(case.get("id", f"case {index}")), str(case.get("category", ""))
    try:
        difference = _difference(case)
    except compat.CompatError as error:
        difference = f"the input is refused: {error}"
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        difference = f"the case cannot be run: {type(error).__name__}: {error}"
    return Verdict(name, category, difference)


def _difference(case: Mapping[str, Any]) -> str:
    expected = case["expect_cpp"]
    nodes = _nodes(case)
    if "parsed_nodes" in expected:
        parsed = {
            node.name: {"available_cpus": list(node.available_cpus), "max_memory_mb": node.max_memory_mb}
            for node in nodes or [compat.DEFAULT_NODE]
        }
        if found := first_difference(expected["parsed_nodes"], parsed, "parsed_nodes"):
            return found
    tasks = [compat.Task(**fields) for fields in case["tasks"]]
    got = outcome(compat.place(case["algorithm"], nodes, tasks), nodes, tasks)
    found = _against(expected, got)
    if found and case.get("unstable_sort_dependent") and "expect_cpp_stable_sort" in case:
        # Under ties the ancestor's library decides; a stable order is as good an answer.
        stable = {**expected, **case["expect_cpp_stable_sort"]}
        stable["total_scheduled"] = stable["placed"] + stable["phantom"]
        stable = {key: value for key, value in stable.items() if not key.endswith("_utilization")}
        found = _against(stable, got)
    return found


def _nodes(case: Mapping[str, Any]) -> list[compat.Node] | None:
    if "nodes_yaml" in case:
        return scan_nodes(case["nodes_yaml"])
    if case["nodes"] is None:
        return None
    return [
        compat.Node(
            node["name"],
            tuple(node.get("available_cpus", ())),
            node.get("max_memory_mb", compat.DEFAULT_MEMORY_MB),
        )
        for node in case["nodes"]
    ]


def _against(expected: Mapping[str, Any], got: Mapping[str, Any]) -> str:
    for key, value in expected.items():
        if key == "parsed_nodes" or key not in got:
            continue
        shape = _loads if key.endswith("_utilization") else lambda same: same
        if found := first_difference(shape(value), shape(got[key]), key):
            return found
    return ""


def _loads(value: Mapping[str, Any]) -> dict[str, float]:
    """Sums by node, or by node and CPU; one of 0 may be there or not."""
    flat: dict[str, float] = {}
    for node, load in value.items():
        for cpu, share in load.items() if isinstance(load, Mapping) else (("", load),):
            if share:
                flat[f"{node}.{cpu}"] = float(share)
    return flat


def outcome(
    placement: compat.Placement, nodes: Sequence[compat.Node] | None, tasks: Sequence[compat.Task]
) -> dict[str, Any]:
    """A placement in the form of the recorded cases."""
    known = {} if nodes is None else {node.name: 0.0 for node in nodes or [compat.DEFAULT_NODE]}
    by_node: dict[str, float] = dict(known)
    by_cpu: dict[str, dict[str, float]] = {}
    for task, (node, cpu) in zip(tasks, placement.assignments, strict=True):
        if not node:
            continue
        share = task.runtime_us / task.period_us if task.period_us else 0.0
        by_node[node] = by_node.get(node, 0.0) + share
        if cpu >= 0:
            on = by_cpu.setdefault(node, {})
            on[str(cpu)] = on.get(str(cpu), 0.0) + share
    return {
        "config_loaded": nodes is not None,
        "ok": placement.ok,
        "total_scheduled": sum(map(len, placement.schedule.values())),
        "assignments": [
            {"task": task.name, "node": node, "cpu": cpu}
            for task, (node, cpu) in zip(tasks, placement.assignments, strict=True)
        ],
        "schedule": {
            node: [entry._asdict() for entry in entries] for node, entries in placement.schedule.items()
        },
        "placed": placement.placed,
        "phantom": placement.phantom,
        "unplaced": placement.unplaced,
        "node_utilization": by_node,
        "cpu_utilization": by_cpu,
        "hyperperiods": {
            workload: {
                "hyperperiod_us": h.hyperperiod_us,
                "periods": list(h.periods),
                "task_count": h.task_count,
            }
            if h.periods
            else {"hyperperiod_us": h.hyperperiod_us}
            for workload, h in placement.hyperperiods.items()
        },
    }


def first_difference(expected: Any, got: Any, path: str) -> str:
    """`path: expected X, got Y` of the first place where two values differ; empty when they do not."""
    if isinstance(expected, Mapping) and isinstance(got, Mapping):
        for key in [*expected, *(key for key in got if key not in expected)]:
            if key not in got or key not in expected:
                there = "missing" if key not in got else f"{got[key]!r}, which is not expected"
                return f"{path}.{key}: {there}"
            if found := first_difference(expected[key], got[key], f"{path}.{key}"):
                return found
        return ""
    if isinstance(expected, list) and isinstance(got, list):
        for i, (one, other) in enumerate(zip(expected, got, strict=False)):
            if found := first_difference(one, other, f"{path}[{i}]"):
                return found
        return (
            "" if len(expected) == len(got) else f"{path}: expected {len(expected)} entries, got {len(got)}"
        )
    if isinstance(expected, float) or isinstance(got, float):
        numbers = isinstance(expected, int | float) and isinstance(got, int | float)
        same = numbers and abs(expected - got) <= TOLERANCE
    else:
        same = type(expected) is type(got) and expected == got
    return "" if same else f"{path}: expected {expected!r}, got {got!r}"
