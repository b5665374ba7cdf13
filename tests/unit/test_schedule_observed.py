"""What `mgmt schedule stat` and `gantt` make of what the kernel saw."""

from __future__ import annotations

from typing import Any

import pytest

from mgmt_cli.schedule.observed import observed, slices_of

TIMES = {"mean_us": 2.0, "p50_us": 1.5, "p90_us": 2.0, "p99_us": 2.5, "max_us": 3.0}


def row(*slices: tuple[int, int], records: tuple[tuple[int, int], ...] = (), **more: Any) -> dict[str, Any]:
    """`records`: (job, end)."""
    found = {
        "mechanism": "ebpf", "reason": "", "threads": 1, "switches": 20, "involuntary": 3, "migrations": 0,
        "cpu_us": 1000.0, "waited_us": 5.0, "activations": 17, "lost": 0, "wakeup": TIMES, "on_cpu": TIMES,
        "response": TIMES, "slices": [{"start_ns": start, "end_ns": end} for start, end in slices],
    }  # fmt: skip
    jobs = [{"job": job, "end_ns": end_ns} for job, end_ns in records]
    return {
        "unit": "w.a", "node": "local", "t0_ns": 1_000_000, "period_us": 1000, "records": jobs,
        "observed": found | more,
    }  # fmt: skip


def test_a_slice_belongs_to_the_job_that_ended_next() -> None:
    found = slices_of(row((10, 20), (30, 40), (50, 60), (90, 95), records=((4, 38), (5, 58))))
    assert found == [(10, 20, 4), (30, 40, 4), (50, 60, 5), (90, 95, 6)]


def test_without_records_a_slice_belongs_to_the_job_released_last() -> None:
    assert slices_of(row((0, 5), (1_000_000, 7), (2_999_999, 8), (3_000_000, 9))) == [
        (0, 5, 0), (1_000_000, 7, 0), (2_999_999, 8, 1), (3_000_000, 9, 2),
    ]  # fmt: skip
    assert slices_of({**row(), "observed": None}) == []


def test_a_line_for_each_task_and_each_reason_once() -> None:
    less: dict[str, Any] = {
        "mechanism": "perf",
        "reason": "ebpf: not built",
        "migrations": 2,
        "activations": None,
    }
    less |= {"wakeup": None, "on_cpu": None, "response": None, "waited_us": None, "lost": 9}
    lines = observed([row(), row(**less), row(**less), {**row(), "observed": None}])
    assert lines[0] == "" and lines[1].startswith("TASK") and len(lines) == 7
    told = [" ".join(line.split()) for line in lines]
    assert told[2] == "w.a local ebpf 1 20 3 0 17 1.5 2.5 3.0 1.5 2.5 3.0 1.5 2.5 3.0 1000.0 5.0 0"
    assert told[3] == "w.a local perf 1 20 3 2 - - - - - - - - - - 1000.0 - 9"
    assert lines[-1] == "local: observed by perf: ebpf: not built"


@pytest.mark.parametrize("rows", [[], [{"observed": None}], [{}]])
def test_nothing_observed_is_no_table(rows: list[dict[str, Any]]) -> None:
    assert observed(rows) == []
