"""The executive itself: its priority, its end and its successor, refusals, damage, floods, many tasks."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import time
from pathlib import Path

import pytest

from mgmt.rt import executive as module
from mgmt.rt import segment
from mgmt.rt.executive import Dropped, ExecutiveError, Miss
from mgmt.rt.segment import Overrun, Plan, SegmentError
from tests.rt.rig import MS, SOURCES, build, cpu_s, fifo, fifo_refusal, is_alive, let_pass, rig, until

# Opened before the right to its folder is given up.
UNPRIVILEGED = """
import os, resource, sys
program = os.open(os.environ["PROGRAM"], os.O_RDONLY | os.O_CLOEXEC)
resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
os.execve(program, ["mgmt-executive", *sys.argv[1:]], os.environ)
"""


def test_it_takes_the_highest_priority(client: Path) -> None:
    if fifo_refusal():
        pytest.skip(f"FIFO is not permitted here: {fifo_refusal()}")

    async def body() -> None:
        async with rig(client) as r:
            executive = await r.executive()
            assert (executive.hello.policy, executive.hello.priority, executive.hello.errno) == (
                "fifo",
                99,
                0,
            )
            pid = executive.process.pid
            assert os.sched_getscheduler(pid) & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO
            assert os.sched_getparam(pid).sched_priority == 99

    asyncio.run(body())


def test_without_the_right_to_fifo_it_says_so_and_works(client: Path, tmp_path: Path) -> None:
    async def body() -> None:
        async with rig(client) as r:
            os.chmod(r.folder, 0o755)
            r.plan(cycle_ms=30, deadline_ms=25)
            if os.geteuid() == 0:
                os.chown(r.path(1), 65534, 65534)
            wrapper = tmp_path / "unprivileged"
            wrapper.write_text(f"#!{sys.executable}\n{UNPRIVILEGED}")
            wrapper.chmod(0o755)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("PROGRAM", str(module.PROGRAM))
                executive = await r.executive(program=wrapper)
            assert (executive.hello.policy, executive.hello.priority) == ("other", 0)
            assert executive.hello.errno != 0
            assert "LimitRTPRIO" in executive.hello.text
            r.spawn(1, *fifo(), "--stop-at", 2)
            r.process_of.clear()
            await r.started(1, executive=executive)
            await until(lambda: 2 in r.misses(), "the miss")

    asyncio.run(body())


def test_tasks_outlive_it_and_its_successor_reads_on(client: Path) -> None:
    async def body() -> None:
        async with rig(client) as r:
            r.plan(cycle_ms=20, deadline_ms=10, max_dmiss=2)
            process = r.spawn(1, *fifo(), "--overrun-jobs", "2,12-13,30", "--overrun-us", 12000)
            first, _ = await r.started(1)
            await until(lambda: r.misses() == [2], "a miss")
            stopped = (await r.done(4)).next_job
            os.kill(first.process.pid, signal.SIGKILL)
            await until(lambda: r.ended, "the news of its end")
            with pytest.raises(ExecutiveError, match="start it again"):
                await first.remove(1)
            await r.done(20)
            assert r.misses() == [2], "nobody is there to tell"
            assert r.read().next_job < 12 and stopped <= r.read().next_job

            second = await r.executive()
            await second.add(r.path(1))
            await second.bind(1, process.pid)
            await r.done(32)
            await until(lambda: 30 in r.misses(), "a miss seen by the successor")
            assert r.misses() == [2, 12, 13, 30], "what it slept through is looked up"
            assert [fault.job for fault in r.faults()] == [13]
            assert (r.read().unchecked, r.read().misses) == (0, 4)

    asyncio.run(body())


def test_it_ends_with_its_agent(client: Path) -> None:
    async def body() -> None:
        async with rig(client) as r:
            r.plan(cycle_ms=10, deadline_ms=10)
            process = r.spawn(1, *fifo())
            executive, _ = await r.started(1)
            await executive.close()
            assert executive.process.returncode == 0
            done = r.read().done
            await r.done(done + 3)
            assert is_alive(process)

    asyncio.run(body())


def damage(kind: str, path: Path) -> None:
    size = path.stat().st_size
    if kind == "noise":
        path.write_bytes(secrets.token_bytes(size))
    elif kind == "zeroes":
        path.write_bytes(bytes(size))
    elif kind == "short":
        os.truncate(path, size // 2)
    elif kind == "long":
        os.truncate(path, size + 1)
    elif kind == "empty":
        os.truncate(path, 0)
    elif kind == "version":
        with path.open("r+b") as file:
            file.seek(8)
            file.write(b"\xff")
    elif kind == "link":
        path.rename(path.with_suffix(".real"))
        path.symlink_to(path.with_suffix(".real"))
    elif kind == "pipe":
        path.unlink()
        os.mkfifo(path)
    elif kind == "missing":
        path.unlink()


@pytest.mark.parametrize(
    "kind", ["noise", "zeroes", "short", "long", "empty", "version", "link", "pipe", "missing"]
)
def test_what_is_no_segment_is_refused(client: Path, kind: str) -> None:
    async def body() -> None:
        async with rig(client) as r:
            r.plan(1)
            r.plan(2)
            damage(kind, r.path(2))
            executive = await r.executive()
            with pytest.raises(ExecutiveError, match=str(r.path(2))):
                await executive.stage({1: r.path(1), 2: r.path(2)})
            with pytest.raises(ExecutiveError, match="add its segment first"):
                await executive.remove(1)  # all or none
            await executive.add(r.path(1))
            if kind not in ("link", "missing"):
                with pytest.raises((SegmentError, OSError)):
                    segment.read(r.path(2))

    asyncio.run(body())


def test_a_task_that_cuts_its_segment_is_lost_alone(client: Path) -> None:
    async def body() -> None:
        async with rig(client) as r:
            for task in (1, 2):
                r.plan(task, cycle_ms=20, deadline_ms=15)
            r.spawn(2, *fifo(), "--overrun-jobs", "20", "--overrun-us", 16000)
            await r.started(1, 2)
            os.truncate(r.path(1), 0)
            assert await until(r.lost, "the loss") == [1]
            await until(lambda: r.misses(2), "a miss of the other")
            assert not r.ended

    asyncio.run(body())


def test_one_executive_and_one_task_a_segment(client: Path) -> None:
    async def body() -> None:
        async with rig(client) as r:
            r.plan(1)
            first, second = await r.executive(), await r.executive()
            await first.add(r.path(1))
            with pytest.raises(ExecutiveError, match="another executive has it"):
                await second.add(r.path(1))
            r.spawn(1)
            with pytest.raises(AssertionError, match="another process uses this segment"):
                r.spawn(1)
            await first.remove(1)
            await second.add(r.path(1))

    asyncio.run(body())


def test_refused_requests_say_why(client: Path) -> None:
    async def body() -> None:
        async with rig(client) as r:
            r.plan(1)
            executive, t0_ns = await r.started(1, in_ms=1)
            segment.create(r.path(2), Plan(1, "twin", 50 * MS))
            with pytest.raises(ExecutiveError, match="task number is watched"):
                await executive.add(r.path(2))
            await executive.release([1], t0_ns)
            with pytest.raises(ExecutiveError, match="another T0"):
                await executive.release([1], t0_ns + 1)
            with pytest.raises(ExecutiveError, match="has ended"):
                await executive.bind(1, 2**22 + 1, 1)
            with pytest.raises(ExecutiveError, match="has ended"):
                await executive.bind(1, os.getpid(), 1)  # another process of that number
            with pytest.raises(ExecutiveError, match="add its segment"):
                await executive.bind(7, os.getpid())
            for line in (
                b"nonsense n=9",
                b"add n=9 path=%0",
                b"start n=9 task=1 t0=x",
                b"bind n=9",
                b"x" * 20000,
            ):
                future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                executive._answers[9 if b"n=9" in line else 0] = "test", future
                executive._control.send(line)
                with pytest.raises(ExecutiveError, match="Invalid argument"):
                    await future

    asyncio.run(body())


def test_a_reader_that_sleeps_delays_nothing(client: Path) -> None:
    async def body() -> None:
        async with rig(client) as r:
            tasks = range(1, 41)
            for task in tasks:
                r.plan(task, cycle_ms=1, deadline_ms=1)
                r.spawn(task, "--stop-at", 0)
            executive, _ = await r.started(*tasks, in_ms=5)
            # No turn of the event loop: nobody reads. Forty thousand misses a second.
            let_pass(lambda: sum(r.read(task).misses for task in tasks) > 20_000)
            await until(
                lambda: any(isinstance(report, Dropped) for report in r.reports), "the count of the dropped"
            )
            for task in tasks:
                await executive.remove(task)
            told = sum(isinstance(report, Miss) for report in r.reports)
            dropped = sum(report.count for report in r.reports if isinstance(report, Dropped))
            assert told + dropped == sum(r.read(task).misses for task in tasks)
            for task in tasks:
                jobs = r.misses(task)
                assert len(jobs) == len(set(jobs)), "once each"

    asyncio.run(body())


def test_a_hundred_tasks(client: Path) -> None:
    async def body() -> None:
        async with rig(client) as r:
            tasks = range(1, 101)
            for task in tasks:
                r.plan(task, cycle_ms=100, deadline_ms=100, overrun=Overrun.SKIP)
                r.spawn(task, *fifo(), "--jobs", 12)
            executive, t0_ns = await r.started(*tasks, in_ms=100)
            for task in tasks:
                stats = await r.done(10, task)
                assert stats.first_job == 0 and stats.t0_ns == t0_ns
                assert all(rec.start_ns >= stats.plan.release_ns(t0_ns, rec.job) for rec in stats.records)
            ended = await until(
                lambda: len(r.gone(1)) and sum(len(r.gone(t)) for t in tasks) == 100, "all ends"
            )
            assert ended
            if not fifo_refusal():
                assert not any(r.misses(task) for task in tasks)
            assert cpu_s(executive.process.pid) < 0.5

    asyncio.run(body())


def test_the_wall_clock_is_never_asked(client: Path, tmp_path: Path) -> None:
    """Who never asks for the wall clock is not moved by its steps: such a call ends the process here."""
    library = build(SOURCES / "no_wall_clock.c", tmp_path / "no_wall_clock.so", "-shared", "-fPIC", "-ldl")
    executable = build(Path(module.__file__).with_name("executive.c"), tmp_path / "mgmt-executive")
    environment = {"LD_PRELOAD": str(library)}

    async def body() -> None:
        async with rig(client) as r:
            r.plan(1, cycle_ms=20, deadline_ms=10, overrun=Overrun.SKIP)
            probe = r.run(["sh", "-c", "echo ready; exec date"], 1, env=environment)
            assert probe.wait(10) != 0, "the trap does not catch"
            r.run([str(client), *fifo(), "--overrun-jobs", "2", "--overrun-us", "30000"], 1, env=environment)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("LD_PRELOAD", str(library))
                executive = await r.executive(program=executable)
            await r.started(1, executive=executive)
            await r.done(5)
            assert 2 in r.misses()
            assert executive.process.returncode is None

    asyncio.run(body())


def test_a_step_of_the_wall_clock_moves_nothing(client: Path) -> None:
    if os.environ.get("MGMT_TEST_CLOCK_STEP") != "1":
        pytest.skip("steps the clock of the machine: MGMT_TEST_CLOCK_STEP=1 allows it")

    async def body() -> None:
        async with rig(client) as r:
            r.plan(cycle_ms=10, deadline_ms=10, overrun=Overrun.SKIP)
            r.spawn(1, *fifo())
            _, t0_ns = await r.started(1)
            await r.done(10)
            for step_s in (3600, -3600):
                time.clock_settime(time.CLOCK_REALTIME, time.time() + step_s)
                await r.done(r.read().done + 10)
            stats = r.read()
            grid = [rec.start_ns - stats.plan.release_ns(t0_ns, rec.job) for rec in stats.records]
            assert min(grid) >= 0 and max(grid) < 10 * MS

    asyncio.run(body())
