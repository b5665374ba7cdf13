"""The analyses by example, in C and in Python: known answers, edges, refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from array import array
from types import ModuleType
from typing import Any

import pytest

from mgmt import kernel
from mgmt.kernel import reference

INT64_MAX = 2**63 - 1
IMPLEMENTATIONS = [pytest.param(reference, id="python")]
if kernel.IMPLEMENTATION == "c":
    from mgmt.kernel import _kernel

    IMPLEMENTATIONS.append(pytest.param(_kernel, id="c"))
ANALYSES = ["response_times", "fp_schedulable", "edf_schedulable", "audsley", "sensitivity"]


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_the_extension_is_built() -> None:
    expected = "python" if os.environ.get("MGMT_KERNEL") == "python" else "c"
    assert expected == kernel.IMPLEMENTATION


def test_the_twin_can_be_asked_for() -> None:
    code = "from mgmt import kernel; print(kernel.IMPLEMENTATION, kernel.hyperperiod([4, 6]))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MGMT_KERNEL": "python"}, capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert done.stdout.split() == ["python", "12"]


@pytest.mark.parametrize(
    ("wcet", "period", "deadline", "more", "expected"),
    [
        ([], [], [], {}, []),
        ([1], [1], [1], {}, [1]),
        ([2], [5], [1], {}, [-1]),
        ([1, 2, 3], [4, 6, 12], [4, 6, 12], {}, [1, 3, 10]),
        ([3, 3, 5], [7, 12, 20], [7, 12, 20], {}, [3, 6, 20]),
        ([3, 3, 5], [7, 12, 20], [7, 5, 20], {}, [3, -1, 20]),  # the others stay exact
        ([3, 3, 5], [7, 12, 20], [7, 12, 19], {}, [3, 6, -1]),
        ([2, 2, 1], [4, 4, 100], [4, 4, 100], {}, [2, 4, -1]),  # nothing is left for the last
        ([1, 2], [10, 20], [10, 20], {"jitter": [3, 0]}, [4, 3]),
        ([1, 2], [4, 20], [4, 20], {"jitter": [2, 1]}, [3, 5]),
        ([1, 2], [4, 20], [4, 20], {"blocking": [3, 0]}, [4, 3]),
        ([1, 2], [4, 20], [4, 20], {"blocking": [4, 5]}, [-1, 10]),
        # Deadlines beyond the period: the worst job is not the first of the busy period.
        ([26, 62], [70, 100], [70, 1000], {}, [26, 118]),
        ([52, 52], [100, 140], [100, 1000], {}, [52, 156]),
        ([1, 1], [2, 2], [2, 7], {}, [1, 2]),
        ([1, 1], [2, 2], [2, 7], {"jitter": [0, 1]}, [1, 3]),  # U = 1: no response grows after a hyperperiod
        ([5], [4], [40], {}, [-1]),
    ],
)
def test_response_times(
    implementation: ModuleType,
    wcet: list[int],
    period: list[int],
    deadline: list[int],
    more: dict[str, list[int]],
    expected: list[int],
) -> None:
    assert implementation.response_times(wcet, period, deadline, **more) == expected
    assert implementation.fp_schedulable(wcet, period, deadline, **more) is (-1 not in expected)


def test_times_near_the_end_of_int64(implementation: ModuleType) -> None:
    big = INT64_MAX
    assert implementation.response_times([big], [big], [big]) == [big]
    assert implementation.response_times([big // 2, big // 2], [big, big], [big, big]) == [big // 2, big - 1]
    assert implementation.response_times([big, 1], [big, big], [big, big]) == [big, -1]
    assert implementation.response_times([1, big], [1, 1], [1, 1]) == [1, -1]
    assert implementation.response_times([1], [big], [big], jitter=[big - 1]) == [big]
    assert implementation.response_times([1], [big], [big], jitter=[big]) == [-1]
    assert implementation.response_times([1], [big], [big], blocking=[big - 1]) == [big]
    assert implementation.response_times([1], [big], [big], blocking=[big]) == [-1]
    assert implementation.edf_schedulable([big], [big], [big])
    assert not implementation.edf_schedulable([big // 2, big // 2 + 2], [big, big], [big, big])
    assert implementation.edf_schedulable([big // 2, big // 2 + 1], [big, big], [big, big])


def test_what_would_take_too_long_is_an_error(implementation: ModuleType) -> None:
    with pytest.raises(OverflowError, match="coarser unit or less load"):
        # Late first jobs leave a backlog that half a unit a job works off: a busy period of a million jobs.
        implementation.response_times(
            [500_000, 500_000], [1_000_000, 1_000_001], [10**12, 10**12], jitter=[10**6, 0]
        )
    with pytest.raises(OverflowError, match="64 bits"):  # the second job's deadline
        implementation.response_times([2**61, 2**61], [2**62, 2**61 + 1], [2**62, INT64_MAX])


@pytest.mark.parametrize(
    ("wcet", "period", "deadline", "jitter", "expected"),
    [
        ([], [], [], None, True),
        ([1, 2], [2, 4], [2, 4], None, True),  # U = 1 exactly
        ([1, 1, 1], [2, 3, 6], [2, 3, 6], None, True),
        ([1, 1, 1], [2, 3, 5], [2, 3, 5], None, False),
        ([1, 1], [2, 3], [1, 1], None, False),  # two units of work due by 1
        ([1, 1], [2, 3], [1, 2], None, True),
        ([2, 2], [5, 5], [2, 4], None, True),
        ([2, 2], [5, 5], [3, 3], None, False),
        ([1, 2], [2, 4], [20, 40], None, True),
        ([3], [5], [4], [1], True),
        ([3], [5], [4], [2], False),
        ([1, 1, 1], [3, 3, 3], [3, 3, 3], [0, 2, 2], False),
        ([1], [5], [4], [9], False),
    ],
)
def test_edf(
    implementation: ModuleType,
    wcet: list[int],
    period: list[int],
    deadline: list[int],
    jitter: list[int] | None,
    expected: bool,
) -> None:
    assert implementation.edf_schedulable(wcet, period, deadline, jitter=jitter) is expected


def test_a_utilisation_of_one_is_told_from_its_neighbours(implementation: ModuleType) -> None:
    """Sums of quotients whose difference from 1 no float shows."""
    period = [999_999_937, 999_999_893, 999_999_937 * 999_999_893]
    exact = [500_000_000, 499_999_900]
    rest = period[2] - exact[0] * period[1] - exact[1] * period[0]
    for off, expected in ((-1, True), (0, True), (1, False)):
        assert implementation.edf_schedulable([*exact, rest + off], period, period) is expected


def test_audsley(implementation: ModuleType) -> None:
    assert implementation.audsley([], [], []) == []
    assert implementation.audsley([2, 1], [10, 4], [10, 4]) == [1, 0]
    assert implementation.audsley([1, 1, 1], [9, 9, 9], [9, 9, 9]) == [
        0,
        1,
        2,
    ]  # of equals the last goes last
    assert implementation.audsley([2, 2], [4, 4], [2, 3]) is None
    # Blocking makes deadline monotonic order wrong: the task with the shorter deadline must wait.
    wcet, period, deadline, blocking = [2, 4], [20, 20], [8, 7], [5, 0]
    assert implementation.response_times([4, 2], period, [7, 8], blocking=[0, 5]) == [4, -1]
    assert implementation.audsley(wcet, period, deadline, blocking=blocking) == [0, 1]


def test_sensitivity(implementation: ModuleType) -> None:
    assert implementation.sensitivity([], [], []) == []
    assert implementation.sensitivity([5], [10], [10]) == [1000]
    assert implementation.sensitivity([3], [10], [10]) == [2333]
    assert implementation.sensitivity([2, 2], [4, 6], [4, 6]) == [0, 0]
    assert implementation.sensitivity([2, 2], [4, 4], [2, 3]) == [-1, -1]
    assert implementation.sensitivity([2, 2], [4, 6], [4, 6], policy="edf") == [0, 500]
    with pytest.raises(ValueError, match="'fp' or 'edf'"):
        implementation.sensitivity([1], [4], [4], policy="rm")
    with pytest.raises(ValueError, match="blocking has no meaning"):
        implementation.sensitivity([1], [4], [4], blocking=[1], policy="edf")
    with pytest.raises(OverflowError):
        implementation.sensitivity([1], [INT64_MAX], [INT64_MAX])


def test_hyperperiod(implementation: ModuleType) -> None:
    assert implementation.hyperperiod([10, 4, 6, 4]) == 60
    assert implementation.hyperperiod([INT64_MAX]) == INT64_MAX
    assert implementation.hyperperiod([2**61, 3]) == 3 * 2**61
    for too_long in ([2**62, 3], [INT64_MAX, INT64_MAX - 1], [999_999_937, 999_999_893, 999_999_883]):
        with pytest.raises(OverflowError, match="divide each other"):
            implementation.hyperperiod(too_long)
    with pytest.raises(ValueError, match="empty"):
        implementation.hyperperiod([])
    with pytest.raises(ValueError, match=r"periods\[1\] is 0: must be at least 1"):
        implementation.hyperperiod([5, 0])


# ---- what goes in ----


@pytest.mark.parametrize(
    ("columns", "error", "words"),
    [
        (([1, 0], [4, 4], [4, 4]), ValueError, r"wcet\[1\] is 0: must be at least 1"),
        (([1, 1], [4, -4], [4, 4]), ValueError, r"period\[1\] is -4: must be at least 1"),
        (([1, 1], [4, 4], [0, 4]), ValueError, r"deadline\[0\] is 0: must be at least 1"),
        (([1, 1], [4, 4], [4, 4], [0, -1]), ValueError, r"jitter\[1\] is -1: must not be negative"),
        (([1, 1], [4, 4], [4]), ValueError, "deadline has 1 values, wcet has 2"),
        (([1, 1], [4, 4], [4, 4], [0]), ValueError, "jitter has 1 values, wcet has 2"),
        (([1, 1.0], [4, 4], [4, 4]), ValueError, r"wcet\[1\] is not an integer"),
        (([1, "1"], [4, 4], [4, 4]), ValueError, r"wcet\[1\] is not an integer"),
        (([1, None], [4, 4], [4, 4]), ValueError, r"wcet\[1\] is not an integer"),
        ((array("d", [1, 1]), [4, 4], [4, 4]), ValueError, r"wcet\[0\] is not an integer"),
        (([1, 2**63], [4, 4], [4, 4]), OverflowError, r"wcet\[1\] passes 64 bits"),
        (([1, 1], array("Q", [4, 2**63]), [4, 4]), OverflowError, r"period\[1\] passes 64 bits"),
        (([1, 1], [4, 4], [4, -(2**63) - 1]), OverflowError, r"deadline\[1\] passes 64 bits"),
        (([1, -(2**63)], [4, 4], [4, 4]), ValueError, rf"wcet\[1\] is -{2**63}"),
        ((1, [4], [4]), TypeError, "wcet is int: give a sequence"),
        (([1], None, [4]), TypeError, "period is NoneType: give a sequence"),
    ],
)
@pytest.mark.parametrize("function", ANALYSES)
def test_bad_columns_are_refused_by_name_and_index(
    implementation: ModuleType, function: str, columns: tuple[Any, ...], error: type[Exception], words: str
) -> None:
    jitter = {"jitter": columns[3]} if len(columns) > 3 else {}
    with pytest.raises(error, match=words):
        getattr(implementation, function)(*columns[:3], **jitter)


@pytest.mark.parametrize("function", ANALYSES)
def test_wrong_calls_are_type_errors(implementation: ModuleType, function: str) -> None:
    call = getattr(implementation, function)
    for arguments, keywords in (
        (([1], [4]), {}),
        (([1], [4], [4], [0]), {}),
        (([1], [4], [4]), {"jiter": [0]}),
        (([1], [4], [4]), {"wcet": [1]}),
    ):
        with pytest.raises(TypeError):
            call(*arguments, **keywords)
    assert call(wcet=[1], period=[4], deadline=[4]) == call([1], [4], [4], jitter=None)


class Index:
    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


def test_every_kind_of_column_is_read(implementation: ModuleType) -> None:
    wcet, period, deadline = [1, 2, 3], [40, 60, 120], [4, 6, 12]
    expected = implementation.response_times(wcet, period, deadline)
    for code in "bBhHiIlLqQ":
        assert implementation.response_times(*(array(code, c) for c in (wcet, period, deadline))) == expected
    assert implementation.response_times(tuple(wcet), iter(period), (d for d in deadline)) == expected
    assert (
        implementation.response_times(bytes(wcet), bytearray(period), memoryview(bytes(deadline))) == expected
    )
    assert implementation.response_times([Index(c) for c in wcet], period, deadline) == expected
    strided = memoryview(array("q", [1, 9, 2, 9, 3, 9]))[::2]
    assert implementation.response_times(strided, period, deadline) == expected
    assert implementation.response_times([True, 2, 3], period, deadline) == expected


def test_numpy_columns_are_read(implementation: ModuleType) -> None:
    np = pytest.importorskip("numpy")
    columns = [np.array(c, dtype=np.int64) for c in ([1, 2, 3], [40, 60, 120], [4, 6, 12])]
    expected = [1, 3, 6]
    assert implementation.response_times(*columns) == expected
    assert implementation.response_times(*(c.astype(np.int32) for c in columns)) == expected
    assert implementation.response_times(*(c.astype(">i8") for c in columns)) == expected
    assert implementation.response_times(*(np.repeat(c, 2)[::2] for c in columns)) == expected
    with pytest.raises(ValueError, match="not an integer"):
        implementation.response_times(columns[0].astype(float), *columns[1:])


def test_an_element_may_not_change_its_list(implementation: ModuleType) -> None:
    class Shrinks:
        def __index__(self) -> int:
            del wcet[1:]
            return 1

    wcet: list[Any] = [Shrinks(), *[Index(1)] * 99]
    with pytest.raises(ValueError, match="wcet"):
        implementation.response_times(wcet, [400] * 100, [400] * 100)


def test_errors_of_elements_are_passed_on(implementation: ModuleType) -> None:
    class Breaks:
        def __index__(self) -> int:
            raise LookupError("no such time")

    with pytest.raises(LookupError, match="no such time"):
        implementation.response_times([Breaks()], [4], [4])
