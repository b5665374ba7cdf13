"""Segments: what a plan may be, that both languages count alike, and what a reader makes of the figures."""

from __future__ import annotations

import random
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mgmt.rt import segment
from mgmt.rt.segment import MAX_RELEASES, Histogram, Overrun, Plan, SegmentError
from tests.rt.rig import MS, SOURCES, build

GOOD = Plan(1, "wheel", 10 * MS, deadline_ns=5 * MS, max_dmiss=3)


@pytest.fixture(scope="module")
def arithmetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(SOURCES / "arithmetic.c", tmp_path_factory.mktemp("arithmetic") / "arithmetic")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"task": -1}, "task"),
        ({"name": ""}, "name"),
        ({"name": "x" * 64}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"cycle_ns": 0}, "cycle_ns"),
        ({"cycle_ns": 99_999}, "cycle_ns"),
        ({"cycle_ns": 86400 * 10**9 + 1}, "cycle_ns"),
        ({"hyperperiod_ns": 15 * MS}, "hyperperiod_ns"),
        ({"releases_ns": ()}, "n_releases"),
        ({"releases_ns": range(MAX_RELEASES + 1)}, "n_releases"),
        ({"releases_ns": (10 * MS,)}, "offsets_ns"),
        ({"releases_ns": (-1,)}, "offsets_ns"),
        ({"releases_ns": (2 * MS, MS)}, "offsets_ns"),
        ({"releases_ns": (MS, MS)}, "offsets_ns"),
        ({"releases_ns": (0, 10 * MS - 99_999)}, "offsets_ns"),
        ({"deadline_ns": 1280 * MS + 1}, "deadline_ns"),
        ({"releases_ns": (0, MS), "deadline_ns": 128 * MS + 1}, "deadline_ns"),
        ({"by_signal": True}, "deadline_ns"),
        ({"by_signal": True, "deadline_ns": 0}, "max_dmiss"),
        ({"max_dmiss": 2**31}, "max_dmiss"),
        ({"window_jobs": 2}, "window_jobs"),
        ({"window_jobs": 65}, "window_jobs"),
        ({"overrun": Overrun.KILL, "max_dmiss": 0}, "overrun"),
    ],
)
def test_an_impossible_plan_is_refused_by_name(change: dict[str, Any], field: str) -> None:
    with pytest.raises(SegmentError, match=f"task '.*': its plan has an impossible {field}; ") as error:
        replace(GOOD, **change).pack()
    assert "see mgmt_rt.h" not in str(error.value), "the rule is told"


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"name": "ü" * 31},
        {"cycle_ns": 86400 * 10**9, "deadline_ns": 86400 * 10**9},
        {"releases_ns": range(0, MAX_RELEASES * 100_000, 100_000), "cycle_ns": MAX_RELEASES * 100_000},
        {"deadline_ns": 1280 * MS},
        {"window_jobs": 64, "max_dmiss": 64},
        {"max_dmiss": 2**31 - 1},
        {"by_signal": True, "deadline_ns": 0, "max_dmiss": 0},
        {"overrun": Overrun.KILL, "memory_locked": True, "hyperperiod_ns": 100 * MS},
    ],
)
def test_a_plan_comes_back_as_it_was(change: dict[str, Any], tmp_path: Path) -> None:
    plan = replace(GOOD, **change)
    segment.create(tmp_path / "s", plan)
    stats = segment.read(tmp_path / "s")
    expected = replace(
        plan, releases_ns=tuple(plan.releases_ns), hyperperiod_ns=plan.hyperperiod_ns or plan.cycle_ns
    )
    assert stats.plan == expected
    assert (stats.started, stats.joins, stats.done, stats.jitter.count, list(stats.records)) == (
        False,
        0,
        0,
        0,
        [],
    )
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600


def test_a_segment_is_never_overwritten(tmp_path: Path) -> None:
    segment.create(tmp_path / "s", GOOD)
    with pytest.raises(FileExistsError):
        segment.create(tmp_path / "s", replace(GOOD, task=2))
    assert segment.read(tmp_path / "s").plan.task == 1
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_both_languages_find_the_same_job(arithmetic: Path, tmp_path: Path) -> None:
    draw = random.Random(1)
    table = replace(GOOD, releases_ns=(0, MS, 4 * MS, 9 * MS))
    for number, plan in enumerate((GOOD, replace(GOOD, releases_ns=(3 * MS,)), table)):
        segment.create(tmp_path / str(number), plan)
        t0_ns = 10**9
        instants = [draw.randrange(2 * 10**9) for _ in range(200)]
        instants += [t0_ns + offset + nudge for offset in plan.releases_ns for nudge in (-1, 0, 1)]
        told = subprocess.run(
            [arithmetic, tmp_path / str(number), str(t0_ns)],
            input="\n".join(map(str, instants)), capture_output=True, text=True, check=True,
        ).stdout.split()  # fmt: skip
        for at_ns, job, release_ns in zip(instants, told[::3], told[1::3], strict=True):
            expected = plan.first_job(t0_ns, at_ns)
            assert (int(job), int(release_ns)) == (expected, plan.release_ns(t0_ns, expected))
            assert plan.release_ns(t0_ns, expected) >= at_ns
            assert expected == 0 or plan.release_ns(t0_ns, expected - 1) < at_ns


def test_both_languages_know_the_same_buckets(arithmetic: Path, tmp_path: Path) -> None:
    segment.create(tmp_path / "s", GOOD)
    values = [0, 1, 15, 16, 17, 31, 32, 33, 1000, 10**6, 2**36 - 1, 2**36, 2**63]
    values += [2**power + step for power in range(5, 36) for step in (-1, 0, 1)]
    told = subprocess.run(
        [arithmetic, tmp_path / "s", "0"],
        input="\n".join(map(str, values)), capture_output=True, text=True, check=True,
    ).stdout.split()[2::3]  # fmt: skip
    for value, bucket in zip(values, map(int, told), strict=True):
        low, high = segment._bucket_ns(bucket), segment._bucket_ns(bucket + 1)
        assert low <= value and (value < high or bucket == 527)
        assert value < 16 or (high - low) / low <= 1 / 16


def test_percentiles_are_of_the_nearest_rank() -> None:
    counts = [0] * 528
    assert Histogram(0, 0, counts).percentile_ns(0.99) == 0
    counts[3], counts[100] = 99, 1
    both = Histogram(3 * 99 + 700, 671, counts)
    assert both.percentile_ns(0.5) == 3
    assert both.percentile_ns(0.99) == 3
    assert both.percentile_ns(0.995) == 671 == segment._bucket_ns(101) - 1
    assert Histogram(0, 650, counts).percentile_ns(1) == 650, "never above the largest value"
    assert both.mean_ns == pytest.approx(9.97)
