"""Deadlines: seen when they pass, faults exactly at max_dmiss, and what each overrun policy does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mgmt.rt.executive import Fault, Miss
from mgmt.rt.segment import Overrun
from tests.rt.rig import MS, fifo, is_alive, rig, until


def test_a_fault_exactly_at_max_dmiss_before_the_next_release(client: Path) -> None:
    async def body() -> None:
        async with rig(client) as r:
            plan = r.plan(cycle_ms=80, deadline_ms=20, max_dmiss=3)
            # Two in a row, a good one, then three: only the latter are a fault.
            r.spawn(1, *fifo(), "--overrun-jobs", "2-3,5-7", "--overrun-us", 30000)
            _, t0_ns = await r.started(1)
            stats = await r.done(9)
            assert r.misses() == [2, 3, 5, 6, 7]
            (fault,) = r.faults()
            assert (fault.job, fault.misses, fault.action, fault.errno) == (7, 3, "log", 0)
            for report in r.reports:
                assert isinstance(report, Miss | Fault)
                assert report.deadline_ns == plan.release_ns(t0_ns, report.job) + 20 * MS
                assert report.deadline_ns <= report.seen_ns < plan.release_ns(t0_ns, report.job + 1)
            assert all(report.running for report in r.reports if isinstance(report, Miss))
            assert (stats.misses, stats.faults, stats.late, stats.completed) == (5, 1, 5, 10)

    asyncio.run(body())


@pytest.mark.parametrize(("window_jobs", "faults"), [(5, [6]), (3, [])])
def test_misses_in_a_window(client: Path, window_jobs: int, faults: list[int]) -> None:
    async def body() -> None:
        async with rig(client) as r:
            r.plan(cycle_ms=50, deadline_ms=15, max_dmiss=2, window_jobs=window_jobs)
            r.spawn(1, *fifo(), "--overrun-jobs", "2,6,11", "--overrun-us", 20000)
            await r.started(1)
            await r.done(12)
            await until(lambda: len(r.misses()) >= 3, "three misses")
            assert r.misses() == [2, 6, 11]
            assert [fault.job for fault in r.faults()] == faults

    asyncio.run(body())


def test_a_continued_overrun_is_a_fault_every_max_dmiss_misses(client: Path) -> None:
    async def body() -> None:
        async with rig(client) as r:
            r.plan(cycle_ms=20, deadline_ms=20, max_dmiss=4)
            r.spawn(1, *fifo(), "--stop-at", 3)  # which is a miss at every deadline from then on
            await r.started(1)
            await until(lambda: len(r.faults()) >= 2, "two faults")
            assert [fault.job for fault in r.faults()[:2]] == [6, 10]
            assert r.misses()[:8] == list(range(3, 11)), "each job once"
            running = [report.running for report in r.reports if isinstance(report, Miss)]
            assert running[0] and not any(running[1:]), "only job 3 had been released"

    asyncio.run(body())


def test_without_max_dmiss_misses_are_only_counted(client: Path) -> None:
    async def body() -> None:
        async with rig(client) as r:
            r.plan(cycle_ms=20, deadline_ms=20)
            r.spawn(1, *fifo(), "--stop-at", 0)
            await r.started(1)
            await until(lambda: len(r.misses()) >= 10, "ten misses")
            assert not r.faults()
            assert r.read().faults == 0

    asyncio.run(body())


def test_log_makes_up_for_late_releases(client: Path) -> None:
    async def body() -> None:
        async with rig(client) as r:
            plan = r.plan(cycle_ms=50, deadline_ms=50, overrun=Overrun.LOG)
            r.spawn(1, *fifo(), "--overrun-jobs", "2", "--overrun-us", 130000)
            _, t0_ns = await r.started(1)
            stats = await r.done(8)
            assert stats.skipped == 0
            assert [record.job for record in stats.records][:9] == list(range(9))
            late_ns = [rec.start_ns - plan.release_ns(t0_ns, rec.job) for rec in stats.records[2:6]]
            assert late_ns[1] >= 80 * MS and late_ns[2] >= 30 * MS and late_ns[3] < 25 * MS
            assert r.misses() == [2, 3], "job 4 was late to start and in time to end"

    asyncio.run(body())


def test_skip_leaves_out_past_releases(client: Path) -> None:
    async def body() -> None:
        async with rig(client) as r:
            plan = r.plan(cycle_ms=50, deadline_ms=50, overrun=Overrun.SKIP)
            r.spawn(1, *fifo(), "--overrun-jobs", "2", "--overrun-us", 130000)
            _, t0_ns = await r.started(1)
            stats = await r.done(8)
            assert stats.skipped == 2
            assert [record.job for record in stats.records][:6] == [0, 1, 2, 5, 6, 7]
            assert all(r.start_ns - plan.release_ns(t0_ns, r.job) < 45 * MS for r in stats.records)
            assert r.misses() == [2, 3, 4], "what was left out was not done"

    asyncio.run(body())


def test_kill_ends_the_process_at_the_fault(client: Path) -> None:
    async def body() -> None:
        async with rig(client) as r:
            plan = r.plan(cycle_ms=80, deadline_ms=20, overrun=Overrun.KILL, max_dmiss=2)
            process = r.spawn(1, *fifo(), "--overrun-jobs", "3-1000", "--overrun-us", 40000)
            _, t0_ns = await r.started(1)
            gone = (await until(r.gone, "the end"))[0]
            assert process.wait(10) == -9
            (fault,) = r.faults()
            assert (fault.job, fault.action, fault.errno) == (4, "kill", 0)
            assert gone.seen_ns < plan.release_ns(t0_ns, 5)
            assert r.misses() == [3, 4]
            assert gone.job == 5

    asyncio.run(body())


def test_kill_without_a_process_says_so(client: Path) -> None:
    async def body() -> None:
        async with rig(client) as r:
            r.plan(cycle_ms=20, deadline_ms=10, overrun=Overrun.KILL, max_dmiss=1)
            process = r.spawn(1, *fifo(), "--stop-at", 1)
            r.process_of.clear()  # nobody tells the executive
            await r.started(1)
            await until(lambda: len(r.faults()) >= 2, "two faults")
            assert {fault.errno for fault in r.faults()} == {3}  # ESRCH
            assert is_alive(process)

    asyncio.run(body())


def test_restart_is_left_to_the_supervisor(client: Path) -> None:
    async def body() -> None:
        async with rig(client) as r:
            r.plan(cycle_ms=20, deadline_ms=10, overrun=Overrun.RESTART, max_dmiss=2)
            process = r.spawn(1, *fifo(), "--stop-at", 3)
            executive, t0_ns = await r.started(1)
            (fault,) = await until(r.faults, "the fault")
            assert (fault.job, fault.action) == (4, "restart")
            assert is_alive(process)
            await until(lambda: r.read().next_job > 8, "more deadlines")
            process.kill()  # as a supervisor would, to start it again:
            process.wait(10)
            await until(r.gone, "the end")
            second = r.spawn(1, *fifo(), "--stop-at", 10_000_000)
            await executive.bind(1, second.pid)
            stats = await until(
                lambda: s if (s := r.read()).joins == 2 and s.done > s.first_job else None, "a job"
            )
            assert stats.first_job > 4
            assert stats.plan.release_ns(t0_ns, stats.first_job) <= stats.records[-1].start_ns
            assert r.misses() == [3, 4], "a life that was given up misses nothing more"
            assert len(r.faults()) == 1

    asyncio.run(body())


def test_the_job_that_dies_with_its_process_is_a_miss(client: Path) -> None:
    async def body() -> None:
        async with rig(client) as r:
            r.plan(cycle_ms=60, deadline_ms=50, max_dmiss=1)
            process = r.spawn(1, *fifo(), "--stop-at", 2)
            executive, _ = await r.started(1)
            await until(lambda: r.read().released == 3, "job 2")
            process.kill()
            process.wait(10)
            await until(r.faults, "its fault")
            assert [fault.job for fault in r.faults()] == [2]
            assert [gone.job for gone in r.gone()] == [3]
            await until(lambda: r.read().next_job > 5, "more deadlines")
            second = r.spawn(1, *fifo())
            await executive.bind(1, second.pid)
            stats = await until(
                lambda: s if (s := r.read()).joins == 2 and s.done > s.first_job + 2 else None, "jobs"
            )
            assert r.misses() == [2], "between the lives nobody was to do anything"
            assert stats.first_job >= 3

    asyncio.run(body())
