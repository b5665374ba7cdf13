"""Mode compat: the comparison vectors, with the C kernel and its twin, and the two against each other."""

from __future__ import annotations

import json
from array import array
from importlib import import_module
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgmt import kernel
from mgmt.core.schedule import compat
from mgmt.core.schedule.compat_yaml import scan_nodes
from mgmt.kernel import reference_placement as twin

VECTORS = sorted((Path(__file__).parents[1] / "data" / "vectors").glob("timpani*.json"))
KERNELS = [pytest.param(twin, id="python")]
if kernel.IMPLEMENTATION == "c":
    KERNELS.append(pytest.param(import_module("mgmt.kernel._kernel"), id="c"))
FUNCTIONS = [
    "compat_target_node_priority", "compat_best_fit_decreasing", "compat_least_loaded", "compat_hyperperiod",
]  # fmt: skip


def cases() -> list[Any]:
    found = {}
    for path in VECTORS:
        for case in json.loads(path.read_text())["cases"]:
            found[case["id"]] = pytest.param(case, id=case["id"] + "-" + case["category"])
    return list(found.values())


def use(implementation: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FUNCTIONS:
        monkeypatch.setattr(kernel, name, getattr(implementation, name))


@pytest.mark.parametrize("implementation", KERNELS)
@pytest.mark.parametrize("case", cases())
def test_vector(implementation: ModuleType, case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    use(implementation, monkeypatch)
    expected = case["expect_cpp"]
    if case["unstable_sort_dependent"]:
        stable = case["expect_cpp_stable_sort"]
        expected = expected | stable | {"total_scheduled": stable["placed"] + stable["phantom"]}
    if "nodes_yaml" in case:
        nodes = scan_nodes(case["nodes_yaml"])
        parsed = {
            n.name: {"available_cpus": list(n.available_cpus), "max_memory_mb": n.max_memory_mb}
            for n in nodes or [compat.DEFAULT_NODE]
        }
        assert parsed == expected["parsed_nodes"]
    else:
        nodes = case["nodes"] and [
            compat.Node(n["name"], tuple(n["available_cpus"]), n["max_memory_mb"]) for n in case["nodes"]
        ]
    tasks = [compat.Task(**fields) for fields in case["tasks"]]
    got = compat.place(case["algorithm"], nodes, tasks)
    assert got.ok == expected["ok"]
    assert sum(map(len, got.schedule.values())) == expected["total_scheduled"]
    assert [
        {"task": task.name, "node": node, "cpu": cpu}
        for task, (node, cpu) in zip(tasks, got.assignments, strict=True)
    ] == expected["assignments"]
    assert {k: [e._asdict() for e in v] for k, v in got.schedule.items()} == expected["schedule"]
    assert (got.placed, got.phantom, got.unplaced) == tuple(
        expected[k] for k in ("placed", "phantom", "unplaced")
    )
    hyperperiods = {
        workload: {"hyperperiod_us": h.hyperperiod_us, "periods": list(h.periods), "task_count": h.task_count}
        if h.periods
        else {"hyperperiod_us": h.hyperperiod_us}
        for workload, h in got.hyperperiods.items()
    }
    assert hyperperiods == expected["hyperperiods"]


LOADS = st.sampled_from([1, 100, 250, 300, 333, 500, 667, 899, 900, 901, 1000, 1500])
CPU = st.integers(-1, 4)


@st.composite
def systems(draw: st.DrawFn) -> dict[str, list[int]]:
    lists = draw(st.lists(st.lists(CPU, max_size=5), max_size=5))
    n = draw(st.integers(0, 24))
    offset = [0]
    for cpus in lists:
        offset.append(offset[-1] + len(cpus))

    def column(values: st.SearchStrategy[int]) -> list[int]:
        return draw(st.lists(values, min_size=n, max_size=n))

    return {
        "period": column(st.sampled_from([0, 1000, 1000, 1000, 3000, 700, 2**64 - 1])),
        "runtime": column(st.one_of(LOADS, st.just(0), st.just(2**64 - 1), st.integers(1, 2**53 + 1))),
        "memory": column(st.sampled_from([0, 64, 64, 64, 4097])),
        "target": column(st.integers(-2, len(lists) - 1)),
        "affinity": column(st.one_of(st.just(twin.NO_AFFINITY), CPU)),
        "node_offset": offset,
        "node_cpu": [cpu for cpus in lists for cpu in cpus],
        "node_memory": draw(
            st.lists(st.sampled_from([0, 64, 4096]), min_size=len(lists), max_size=len(lists))
        ),
    }


COLUMNS = {
    "compat_target_node_priority": ["period", "runtime", "target", "affinity", "node_offset", "node_cpu"],
    "compat_best_fit_decreasing": [
        "period", "runtime", "memory", "target", "affinity", "node_offset", "node_cpu", "node_memory",
    ],
    "compat_least_loaded": [
        "period", "runtime", "memory", "affinity", "node_offset", "node_cpu", "node_memory",
    ],
}  # fmt: skip


@pytest.mark.timeout(240)
@pytest.mark.parametrize("function", COLUMNS)
@given(system=systems())
@settings(max_examples=400, deadline=None)
def test_c_and_twin_agree(function: str, system: dict[str, list[int]]) -> None:
    columns = {name: system[name] for name in COLUMNS[function]}
    assert getattr(kernel, function)(**columns) == getattr(twin, function)(**columns)


@pytest.mark.parametrize("implementation", KERNELS)
def test_columns_may_be_buffers(implementation: ModuleType) -> None:
    for words in ("Q", "q", "I"):
        args = [array(words, [1000, 1000]), array(words, [600, 500]), array("q", [0, 0]), array("q", [1, 1])]
        got = implementation.compat_target_node_priority(*args, array("i", [0, 2]), array("q", [0, 1]))
        assert got == ([0, 0], [1, 0])
    with pytest.raises(OverflowError, match=r"runtime\[0\]"):
        implementation.compat_target_node_priority([1], array("q", [-1]), [0], [0], [0, 1], [0])
    assert implementation.compat_hyperperiod(array("Q", [2**64 - 1, 1])) == 2**64 - 1


@given(st.lists(st.one_of(st.integers(0, 50), st.integers(0, 2**64 - 1)), max_size=12))
def test_hyperperiods_agree(periods: list[int]) -> None:
    assert kernel.compat_hyperperiod(periods) == twin.compat_hyperperiod(periods)


def test_hyperperiod_wraps_and_may_become_zero() -> None:
    assert kernel.compat_hyperperiod([2**63, 3, 0]) == 3 * 2**63 % 2**64
    assert kernel.compat_hyperperiod([2**40, 2**40 * 3, 2**40 * 5]) == 15 * 2**40
    assert kernel.compat_hyperperiod([2**33, 2**33 + 1, 2**34 - 1]) == twin.compat_hyperperiod(
        [2**33, 2**33 + 1, 2**34 - 1]
    )
    assert kernel.compat_hyperperiod([0, 0]) == kernel.compat_hyperperiod([]) == 0


@pytest.mark.parametrize("implementation", KERNELS)
def test_bad_columns_are_refused(implementation: ModuleType) -> None:
    place = implementation.compat_target_node_priority
    with pytest.raises(ValueError, match="runtime has 1 entries, period 2"):
        place([1, 1], [1], [0, 0], [0, 0], [0, 1], [0])
    with pytest.raises(ValueError, match=r"target\[1\] is 1: no such node"):
        place([1, 1], [1, 1], [0, 1], [0, 0], [0, 1], [0])
    with pytest.raises(ValueError, match=r"node_offset\[1\] is 2"):
        place([1], [1], [0], [0], [0, 2], [0])
    with pytest.raises(OverflowError, match=r"period\[0\]"):
        place([-1], [1], [0], [0], [0, 1], [0])


@pytest.mark.parametrize(
    ("text", "cpu"),
    [
        ("any", None), ("", None), ("Any", None), ("3", 3), (" \t+3x", 3), ("-2", -2), ("x3", None), ("0x10", 0),
        ("2147483647", 2147483647), ("2147483648", None), ("-2147483648", -2147483648), ("3,4", 3), ("--3", None),
        ("+ 3", None), ("٣", None), ("\u00a03", None),
    ],
)  # fmt: skip
def test_affinity_texts(text: str, cpu: int | None) -> None:
    assert compat.affinity_cpu(compat.Task("t", affinity=text)) == (
        kernel.NO_AFFINITY if cpu is None else cpu
    )


@pytest.mark.parametrize(
    ("mask", "cpu"),
    [(0, None), (0xFFFFFFFF, None), (1, 0), (0b110, 2), (1 << 40, 0), (1 << 40 | 0b101, 2), (2**64 - 1, 31)],
)
def test_affinity_masks(mask: int, cpu: int | None) -> None:
    task = compat.Task("t", affinity="9", affinity_mask=mask)
    assert compat.affinity_cpu(task) == (kernel.NO_AFFINITY if cpu is None else cpu)


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("n1:\n  lost:\n    available_cpus: [1]\n", {}),
        ("nodes:\n   n:\n     available_cpus: [0-3, 5, x, 7cpus]\n", {"n": (0, 5, 7)}),
        ("nodes:\n  n:\n    available_cpus: '[1, 2]'\n", {"n": (1, 2)}),
        ("nodes:\n  n:\n    available_cpus: 4\n", {"n": (4,)}),
        ("nodes:\n  n:\n    available_cpus:\n      - 1\n", {"n": ()}),
        ("nodes:\n\tn:\n\t\tavailable_cpus: [1]\n", {}),
        ("nodes:\r\n  n:\r\n    available_cpus: [1]\r\n", {}),
        ("nodes:\n  a:\n    available_cpus: [1]\n  # x\n\n  b:\n  a:\n    name: other\n", {"a": (), "b": ()}),
    ],
)
def test_scanner(text: str, nodes: dict[str, tuple[int, ...]]) -> None:
    assert {n.name: n.available_cpus for n in scan_nodes(text)} == nodes


@pytest.mark.parametrize("value", ["", "lots", "'4096", "99999999999"])
def test_a_memory_size_without_a_number_is_refused_with_its_line(value: str) -> None:
    with pytest.raises(compat.CompatError, match="line 3: max_memory_mb of node 'n'"):
        scan_nodes(f"nodes:\n  n:\n    max_memory_mb: {value}\n")


def test_names_are_cut_to_15_bytes() -> None:
    nodes, tasks = (
        [compat.Node("n", (0,))],
        [compat.Task("é" * 9, "w", "n", period_us=2**62, runtime_us=1)],
    )
    (entry,) = compat.place("target_node_priority", nodes, tasks).schedule["n"]
    assert entry.task_name == "é" * 7
    assert entry.period_ns == (2**62 * 1000) % 2**64


@pytest.mark.parametrize("count", [500, 3000])
def test_large_systems_agree(count: int) -> None:
    """Enough nodes and tasks for every level of the indexes; loads that tie and sums that round."""
    random = Random(count)
    nodes = count // 10
    lists = [random.sample(range(24), random.randint(0, 16)) for _ in range(nodes)]
    offset = [0]
    for cpus in lists:
        offset.append(offset[-1] + len(cpus))
    flat = [cpu for cpus in lists for cpu in cpus]
    period = [random.choice([1000, 3000, 7000, 10**9]) for _ in range(count)]
    runtime = [random.choice([1, p // 10, p // 20, p // 3, random.randrange(p)]) for p in period]
    memory = [random.choice([64, 64, 512]) for _ in range(count)]
    limits = [random.choice([256, 4096]) for _ in range(nodes)]
    target = [random.randint(-2, nodes - 1) if random.random() < 0.3 else -1 for _ in range(count)]
    affinity = [random.choice([twin.NO_AFFINITY] * 4 + [3]) for _ in range(count)]
    args: list[list[list[int]]] = [
        [period, runtime, memory, target, affinity, offset, flat, limits],
        [period, runtime, memory, affinity, offset, flat, limits],
        [period, runtime, [t % nodes for t in target], affinity, offset, flat],
    ]
    for function, columns in zip(
        ["compat_best_fit_decreasing", "compat_least_loaded", "compat_target_node_priority"],
        args,
        strict=True,
    ):
        assert getattr(kernel, function)(*columns) == getattr(twin, function)(*columns)


@pytest.mark.parametrize("implementation", KERNELS)
@pytest.mark.parametrize("cpus", range(1, 10))
def test_a_node_whose_every_cpu_is_full(implementation: ModuleType, cpus: int) -> None:
    """Whatever their number is, and however it is rounded up: the first task too many is a phantom."""
    count = cpus + 2
    args = [
        [1000] * count,
        [800] * count,
        [0] * count,
        [kernel.NO_AFFINITY] * count,
        [0, cpus],
        list(range(cpus)),
    ]
    node, cpu = implementation.compat_target_node_priority(*args)
    assert node == [0] * count
    assert cpu == [*reversed(range(cpus)), -1, -1]
