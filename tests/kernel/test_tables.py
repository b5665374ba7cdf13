"""Time-triggered tables: made, validated, spoilt, and compared with every other way to find one."""

from __future__ import annotations

import math
from array import array
from random import Random
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgmt import kernel
from mgmt.kernel import reference_table
from mgmt.kernel.tables import Infeasible, Table

IMPLEMENTATIONS = [pytest.param(reference_table, id="python")]
if kernel.IMPLEMENTATION == "c":
    from mgmt.kernel import _kernel

    IMPLEMENTATIONS.append(pytest.param(_kernel, id="c"))


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest) -> Any:
    return request.param


def slices(table: Table) -> list[tuple[int, int, int]]:
    return list(zip(table.start, table.end, table.task, strict=True))


@pytest.mark.parametrize(
    ("wcet", "period", "deadline", "more", "expected"),
    [
        ([], [], [], {}, []),
        ([2], [5], [5], {}, [(0, 2, 0)]),
        ([1, 3], [3, 6], [3, 6], {}, [(0, 1, 0), (1, 4, 1), (4, 5, 0)]),  # of equal deadlines the running one
        ([1, 3], [3, 9], [3, 9], {}, [(0, 1, 0), (1, 3, 1), (3, 4, 0), (4, 5, 1), (6, 7, 0)]),
        ([1, 4], [4, 8], [4, 8], {}, [(0, 1, 0), (1, 5, 1), (5, 6, 0)]),
        ([2, 2], [4, 8], [4, 3], {}, [(0, 2, 1), (2, 4, 0), (4, 6, 0)]),
        ([1, 1], [4, 4], [4, 4], {"offset": [2, 0]}, [(0, 1, 1), (2, 3, 0)]),
        ([1, 1], [4, 4], [4, 4], {"precedence": [(1, 0)]}, [(0, 1, 1), (1, 2, 0)]),
        (
            [2, 2, 1],
            [8, 8, 4],
            [8, 8, 4],
            {"precedence": [(1, 0)]},
            [(0, 1, 2), (1, 3, 1), (3, 5, 0), (5, 6, 2)],
        ),
        ([4], [4], [4], {}, [(0, 4, 0)]),
        ([2, 2], [2, 2**40 * 2 + 2], [2, 4], {}, None),  # too many jobs
    ],
)
def test_tables(
    implementation: ModuleType,
    wcet: list[int],
    period: list[int],
    deadline: list[int],
    more: dict[str, Any],
    expected: list[tuple[int, int, int]] | None,
) -> None:
    if expected is None:
        with pytest.raises(OverflowError, match="divide each other"):
            implementation.table(wcet, period, deadline, **more)
        return
    table = implementation.table(wcet, period, deadline, **more)
    assert isinstance(table, Table)
    assert table.hyperperiod == math.lcm(*period)
    assert slices(table) == expected
    assert implementation.table_fault(table, wcet, period, deadline, **more) is None


def test_columns_are_buffers_of_int64(implementation: ModuleType) -> None:
    table = implementation.table([1, 3], [3, 6], [3, 6])
    for column in table[1:]:
        assert isinstance(column, memoryview)
        assert (column.format, column.itemsize, column.ndim) == ("q", 8, 1)


@pytest.mark.parametrize(
    ("wcet", "period", "deadline", "more", "task", "job"),
    [
        ([3, 3], [5, 5], [5, 5], {}, 1, 0),
        ([5], [4], [4], {}, 0, 0),
        ([1, 1], [4, 4], [4, 1], {"precedence": [(0, 1)]}, 0, 0),
        ([2], [4], [4], {"offset": [3]}, 0, 0),  # its window ends with the hyperperiod
        ([1, 1, 2], [2, 4, 4], [2, 4, 4], {"offset": [1, 0, 0]}, 0, 1),
    ],
)
def test_where_there_is_none_a_job_is_named(
    implementation: ModuleType,
    wcet: list[int],
    period: list[int],
    deadline: list[int],
    more: dict[str, Any],
    task: int,
    job: int,
) -> None:
    with pytest.raises(Infeasible, match=f"task {task} misses the deadline of its job {job}") as caught:
        implementation.table(wcet, period, deadline, **more)
    assert (caught.value.task, caught.value.job) == (task, job)


@pytest.mark.parametrize(
    ("columns", "more", "error", "words"),
    [
        (([0], [4], [4]), {}, ValueError, r"wcet\[0\] is 0"),
        (([1], [0], [4]), {}, ValueError, r"period\[0\] is 0"),
        (([1], [4], [5]), {}, ValueError, r"deadline\[0\] is 5: must be from 1 to the period"),
        (
            ([1], [4], [4]),
            {"offset": [4]},
            ValueError,
            r"offset\[0\] is 4: must be from 0 to below the period",
        ),
        (([1, 1], [4, 4], [4]), {}, ValueError, "deadline has 1 values, wcet has 2"),
        (([1, 1], [4, 4], [4, 4]), {"precedence": [(0, 2)]}, ValueError, r"precedence\[0\] names a task"),
        (
            ([1, 1], [4, 4], [4, 4]),
            {"precedence": [(0, 1), (-1, 0)]},
            ValueError,
            r"precedence\[1\] names a task",
        ),
        (([1, 1], [4, 8], [4, 4]), {"precedence": [(0, 1)]}, ValueError, "whose periods differ"),
        (([1, 1], [4, 4], [4, 4]), {"precedence": [(0, 1), (1, 0)]}, ValueError, "a cycle: task 0"),
        (([1, 1], [4, 4], [4, 4]), {"precedence": [(1, 1)]}, ValueError, "a cycle: task 1"),
        (([1, 1], [4, 4], [4, 4]), {"precedence": [(0, 1, 0)]}, ValueError, "not a pair"),
        (([1, 1], [4, 4], [4, 4]), {"precedence": [7]}, ValueError, "not a pair"),
        (([1, 1], [4, 4], [4, 4]), {"precedence": 7}, TypeError, "give pairs"),
        (([1, 1.5], [4, 4], [4, 4]), {}, ValueError, r"wcet\[1\] is not an integer"),
        (([1], [2**63 - 1], [2**63 - 1]), {"offset": [2**63]}, OverflowError, r"offset\[0\]"),
    ],
)
def test_bad_input_is_refused(
    implementation: ModuleType,
    columns: tuple[Any, ...],
    more: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        implementation.table(*columns, **more)
    with pytest.raises(error, match=words):
        implementation.table_fault((4, [], [], []), *columns, **more)


def test_no_table_is_no_table(implementation: ModuleType) -> None:
    wrong: Any
    for wrong in ((4, [], []), 4, (4, [], [], [], [])):
        with pytest.raises(TypeError, match="hyperperiod, start, end, task"):
            implementation.table_fault(wrong, [1], [4], [4])
    with pytest.raises(ValueError, match="end has 2 values, start has 1"):
        implementation.table_fault((4, [0], [1, 2], [0]), [1], [4], [4])


@pytest.mark.parametrize(
    ("rule", "hyperperiod", "spoilt"),
    [
        ("hyperperiod", 12, [(0, 1, 0), (1, 3, 1), (3, 4, 0), (4, 5, 1)]),
        ("slice", 6, [(0, 1, 0), (1, 3, 2), (3, 4, 0), (4, 5, 1)]),
        ("slice", 6, [(0, 1, 0), (1, 3, -1), (3, 4, 0), (4, 5, 1)]),
        ("slice", 6, [(-1, 1, 0), (1, 3, 1), (3, 4, 0), (4, 5, 1)]),
        ("slice", 6, [(0, 1, 0), (1, 3, 1), (3, 4, 0), (4, 7, 1)]),
        ("slice", 6, [(0, 0, 0), (1, 3, 1), (3, 4, 0), (4, 5, 1)]),
        ("overlap", 6, [(0, 1, 0), (0, 2, 1), (3, 4, 0), (4, 5, 1)]),
        ("overlap", 6, [(1, 3, 1), (0, 1, 0), (3, 4, 0), (4, 5, 1)]),
        ("split", 6, [(0, 1, 0), (1, 2, 1), (2, 3, 1), (3, 4, 0), (4, 5, 1)]),
        ("window", 6, [(0, 1, 0), (1, 2, 1), (2, 4, 0), (4, 6, 1)]),
        ("work", 6, [(0, 2, 0), (2, 3, 1), (3, 4, 0), (4, 6, 1)]),
        ("work", 6, [(0, 1, 0), (1, 3, 1), (3, 4, 0)]),
        ("work", 6, [(1, 3, 1), (3, 4, 0), (4, 5, 1)]),
        ("work", 6, [(0, 1, 0), (1, 3, 1), (3, 4, 0), (4, 6, 1)]),
        ("work", 6, []),
    ],
)
def test_the_validator_finds_each_fault(
    implementation: ModuleType, rule: str, hyperperiod: int, spoilt: list[tuple[int, int, int]]
) -> None:
    columns = [list(column) for column in zip(*spoilt, strict=True)] or [[], [], []]
    fault = implementation.table_fault((hyperperiod, *columns), [1, 3], [3, 6], [3, 6])
    assert fault is not None
    assert fault.rule == rule


def test_the_validator_checks_the_order(implementation: ModuleType) -> None:
    columns = [1, 1], [4, 4], [4, 4]
    table = (4, array("q", [0, 1]), array("q", [1, 2]), array("q", [0, 1]))
    assert implementation.table_fault(table, *columns, precedence=[(0, 1)]) is None
    fault = implementation.table_fault(table, *columns, precedence=[(1, 0)])
    assert (fault.rule, fault.slice, fault.task) == ("order", 0, 0)
    half_done = (4, [0, 1, 2], [1, 2, 3], [0, 1, 0])
    fault = implementation.table_fault(half_done, [2, 1], [4, 4], [4, 4], precedence=[(0, 1)])
    assert (fault.rule, fault.slice, fault.task) == ("order", 1, 1)


@st.composite
def workloads(draw: st.DrawFn) -> tuple[tuple[list[int], list[int], list[int]], dict[str, Any]]:
    n = draw(st.integers(0, 6))
    bases = draw(st.sampled_from([[4, 8, 16], [6, 10, 15], [12, 18, 36], [100, 150, 300]]))
    period = [draw(st.sampled_from(bases)) for _ in range(n)]
    wcet = [draw(st.integers(1, max(1, t * 2 // (n + 1)))) for t in period]
    deadline = [
        draw(st.one_of(st.just(t), st.integers(min(c, t), t))) for c, t in zip(wcet, period, strict=True)
    ]
    offset = (
        [draw(st.one_of(st.just(0), st.integers(0, t - 1))) for t in period] if draw(st.booleans()) else None
    )
    pairs = [(a, b) for a in range(n) for b in range(a + 1, n) if period[a] == period[b]]
    chosen = draw(st.lists(st.sampled_from(pairs), max_size=5)) if pairs else []
    return (wcet, period, deadline), {"offset": offset, "precedence": chosen}


def made(module: Any, columns: Any, more: Any) -> Any:
    try:
        return module.table(*columns, **more)
    except Infeasible as error:
        return error.task, error.job


@settings(max_examples=400, deadline=None)
@given(workloads(), st.randoms(use_true_random=False))
def test_c_and_twin_agree_on_sound_and_spoilt_tables(workload: Any, random: Random) -> None:
    columns, more = workload
    table = made(kernel, columns, more)
    assert table == made(reference_table, columns, more)
    if not isinstance(table, Table):
        return
    assert kernel.table_fault(table, *columns, **more) is None
    assert reference_table.table_fault(table, *columns, **more) is None
    for _ in range(5 if table.start else 0):
        spoilt = [list(column) for column in table[1:]]
        at = random.randrange(len(spoilt[0]))
        match random.randrange(3):
            case 0:
                spoilt[random.randrange(3)][at] += random.choice([-2, -1, 1, 2])
            case 1:
                for column in spoilt:
                    del column[at]
            case _:
                other = random.randrange(len(spoilt[0]))
                spoilt[2][at], spoilt[2][other] = spoilt[2][other], spoilt[2][at]
        whole: Any = (table.hyperperiod, *spoilt)
        ours = kernel.table_fault(whole, *columns, **more)
        assert ours == reference_table.table_fault(whole, *columns, **more)
        # Moving work can be harmless; losing or adding some never is.
        work = sum(end - start for start, end in zip(*spoilt[:2], strict=True))
        assert ours is not None or work == sum(end - start for start, end, _ in slices(table))


@pytest.mark.parametrize("overloaded", [True, False])
def test_periods_at_the_end_of_int64(implementation: ModuleType, overloaded: bool) -> None:
    """Once a search without an end: nothing is released any more, and the work passes the last moment."""
    last = 2**63 - 1
    wcet = last // 3 + overloaded
    got = made(implementation, ([wcet] * 3, [last] * 3, [last] * 3), {})
    assert isinstance(got, Table) is not overloaded


def exists(columns: Any, more: Any) -> bool:
    """Whether any table exists, by maximum flow over the jobs' windows: without precedence, one unit of CPU a
    unit of time, given to jobs by augmenting paths.
    """
    wcet, period, deadline = columns
    offset = more["offset"] or [0] * len(wcet)
    length = math.lcm(*period)
    windows = [
        (k + o, min(k + o + d, length))
        for c, t, d, o in zip(wcet, period, deadline, offset, strict=True)
        for k in range(0, length, t)
        for _ in range(c)
    ]
    owner: dict[int, int] = {}

    def place(job: int, seen: set[int]) -> bool:
        for unit in range(*windows[job]):
            if unit not in seen:
                seen.add(unit)
                if unit not in owner or place(owner[unit], seen):
                    owner[unit] = job
                    return True
        return False

    return all(place(job, set()) for job in range(len(windows)))


def test_a_table_is_found_exactly_when_one_exists() -> None:
    random = Random(6)
    found = 0
    for _ in range(400):
        n = random.randint(1, 4)
        period = [random.choice([4, 6, 8, 12]) for _ in range(n)]
        wcet = [random.randint(1, max(1, t // n)) for t in period]
        deadline = [random.randint(min(c, t), t) for c, t in zip(wcet, period, strict=True)]
        offset = [random.choice([0, random.randrange(t)]) for t in period]
        columns, more = (wcet, period, deadline), {"offset": offset}
        expected = exists(columns, more)
        assert isinstance(made(kernel, columns, more), Table) is expected, (columns, more)
        found += expected
    assert 400 / 4 < found < 400 * 3 / 4
