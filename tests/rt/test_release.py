"""Releases: on the grid, without drift, from one common T0, for late joiners, tables, signals and Python."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import uvloop

from mgmt.rt.segment import Overrun, Statistics
from tests.rt.rig import MS, fifo, rig, status_of, until

PYTHON_TASK = """
import sys
from mgmt.rt.task import Task
task = Task()
print("ready", flush=True)
for job in task:
    if job >= int(sys.argv[1]):
        break
"""


def assert_on_grid(stats: Statistics, t0_ns: int) -> None:
    """No job starts before its release, and each record has the order of its stamps."""
    assert stats.t0_ns == t0_ns
    assert stats.records
    for record in stats.records:
        assert record.start_ns >= stats.plan.release_ns(t0_ns, record.job)
        assert record.end_ns >= record.start_ns
    assert all(a.job < b.job and a.end_ns <= b.start_ns for a, b in pairwise(stats.records))


def test_no_drift_over_2000_periods(client: Path) -> None:
    async def body() -> None:
        async with rig(client) as r:
            r.plan(cycle_ms=1, deadline_ms=1)
            process = r.spawn(1, *fifo(), "--jobs", 2000)
            _, t0_ns = await r.started(1)
            stats = await r.done(1999)
            assert await until(lambda: process.poll() is not None, "the end of the task")
            assert_on_grid(stats, t0_ns)
            assert (stats.first_job, stats.completed, stats.skipped, stats.joins) == (0, 2000, 0, 1)
            assert stats.jitter.count in (2000, 2001)
            # One period late by drift would be two thousand times a drift of half a microsecond.
            tail = [rec.start_ns - stats.plan.release_ns(t0_ns, rec.job) for rec in stats.records]
            assert min(tail) < MS // 2
            assert stats.jitter.percentile_ns(0.5) < MS

    asyncio.run(body())


def test_two_processes_start_at_one_instant(client: Path) -> None:
    async def body() -> None:
        async with rig(client) as r:
            for task in (1, 2):
                r.plan(task)
                r.spawn(task, *fifo())
            assert not r.read(1).started
            _, t0_ns = await r.started(1, 2)
            stats = [await r.done(3, task) for task in (1, 2)]
            for each in stats:
                assert_on_grid(each, t0_ns)
                assert each.first_job == 0
            first = [each.records[0].start_ns for each in stats]
            assert max(first) - min(first) < 25 * MS

    asyncio.run(body())


def test_who_comes_late_enters_at_a_hyperperiod(client: Path) -> None:
    async def body() -> None:
        async with rig(client) as r:
            plan = r.plan(cycle_ms=10, deadline_ms=10, hyperperiod_ns=150 * MS)
            _, t0_ns = await r.started(1, in_ms=1)
            await until(lambda: time.monotonic_ns() > t0_ns + 20 * MS, "T0")
            r.spawn(1, *fifo())
            came_ns = time.monotonic_ns()
            stats = await until(lambda: s if (s := r.read()).done else None, "its first job")
            entered_ns = plan.release_ns(t0_ns, stats.first_job) - t0_ns
            assert entered_ns > 0 and entered_ns % (150 * MS) == 0
            assert t0_ns + entered_ns > came_ns - 10 * MS
            assert_on_grid(stats, t0_ns)
            assert not any(job < stats.first_job for job in r.misses()), "what nobody was to do is no miss"

    asyncio.run(body())


def test_a_table_is_released_entry_by_entry(client: Path) -> None:
    async def body() -> None:
        async with rig(client) as r:
            plan = r.plan(cycle_ms=60, releases_ns=(5 * MS, 20 * MS, 45 * MS))
            r.spawn(1, *fifo())
            _, t0_ns = await r.started(1)
            stats = await r.done(6)
            assert_on_grid(stats, t0_ns)
            offsets = [plan.release_ns(0, job) // MS for job in range(7)]
            assert offsets == [5, 20, 45, 65, 80, 105, 125]
            assert [record.job for record in stats.records][:7] == list(range(7))

    asyncio.run(body())


def test_execution_is_cpu_time_and_response_is_not(client: Path) -> None:
    async def body() -> None:
        async with rig(client) as r:
            r.plan(cycle_ms=50)
            r.spawn(1, *fifo(), "--burn-us", 3000, "--overrun-jobs", "0-1000", "--overrun-us", 10000)
            await r.started(1)
            stats = await r.done(5)
            for record in stats.records:
                assert 3 * MS <= record.execution_ns < 10 * MS
                assert record.end_ns - record.start_ns >= 13 * MS
            assert 3 * MS <= stats.execution.percentile_ns(0.5) < 10 * MS
            assert stats.response.percentile_ns(0.5) >= 13 * MS

    asyncio.run(body())


def test_without_the_library_a_signal_tells_the_release(client: Path) -> None:
    async def body() -> None:
        async with rig(client) as r:
            plan = r.plan(cycle_ms=30, by_signal=True)
            process = r.spawn(1, "--signals", 8)
            _, t0_ns = await r.started(1)
            assert await until(lambda: process.poll() is not None, "eight signals")
            assert process.stdout is not None
            came_ns = [int(line) for line in process.stdout]
            assert len(came_ns) == 8
            assert all(at >= plan.release_ns(t0_ns, n) for n, at in enumerate(came_ns))
            assert came_ns[-1] - t0_ns < 30 * MS * 20
            await until(r.gone, "the end of the process")
            assert r.read().signals >= 8

    asyncio.run(body())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_task_in_python_with_locked_memory(client: Path, run: object) -> None:
    async def body() -> None:
        async with rig(client) as r:
            r.plan(cycle_ms=20, memory_locked=True, overrun=Overrun.SKIP)
            process = r.run([sys.executable, "-c", PYTHON_TASK, "1000000"], 1)
            _, t0_ns = await r.started(1)
            stats = await r.done(3)
            assert_on_grid(stats, t0_ns)
            assert (stats.pid, stats.tid) == (process.pid, process.pid)
            assert status_of(process.pid, "VmLck") > 1000, "in KiB"

    assert callable(run)
    run(body())


def test_an_interrupt_reaches_a_waiting_python_task(client: Path) -> None:
    async def body() -> None:
        async with rig(client) as r:
            r.plan(cycle_ms=60_000)
            process = r.run([sys.executable, "-c", PYTHON_TASK, "5"], 1)  # waits for T0
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=10)
            assert "KeyboardInterrupt" in said
            process = r.run([sys.executable, "-c", PYTHON_TASK, "5"], 1)
            await r.started(1, in_ms=1)
            await until(lambda: r.read().joins == 1, "the join")  # waits for a release a minute away
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=10)
            assert "KeyboardInterrupt" in said

    asyncio.run(body())
