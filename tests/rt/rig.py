"""A node in small for the tests: segments in memory, tasks as processes, an executive and what it reported."""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import mgmt.rt
from mgmt.rt import segment
from mgmt.rt.executive import Executive, Fault, Gone, Lost, Miss, Report
from mgmt.rt.segment import Plan, Statistics

MS = 1_000_000
DEADLINE_S = 20.0
SOURCES = Path(__file__).parent
FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror")

T = TypeVar("T")


@functools.cache
def fifo_refusal() -> str:
    """Why processes of this test may not use FIFO; empty when they may."""
    code = "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))"
    done = subprocess.run(["python3", "-c", code], capture_output=True, text=True, check=False)
    return done.stderr.strip().rpartition("\n")[2]


def fifo(priority: int = 50) -> list[str]:
    """Arguments of the client: FIFO where it is permitted, so that other load on the machine is no matter."""
    return [] if fifo_refusal() else ["--fifo", str(priority)]


def build(source: Path, target: Path, *extra: str) -> Path:
    command = ["cc", *FLAGS, f"-I{mgmt.rt.include_dir()}", "-o", str(target), str(source), *extra]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


async def until(condition: Callable[[], T | None], what: str, deadline_s: float = DEADLINE_S) -> T:
    """The first true value of `condition`; AssertionError naming `what` after `deadline_s`."""
    end = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        await asyncio.sleep(0.005)
    return value


class Rig:
    """Everything of one test; made by `rig()`."""

    def __init__(self, client: Path, folder: Path) -> None:
        self.client = client
        self.folder = folder
        self.reports: list[Report] = []
        self.ended: list[str] = []
        self.executives: list[Executive] = []
        self.processes: list[subprocess.Popen[str]] = []
        self.process_of: dict[int, subprocess.Popen[str]] = {}  # the latest of each task

    # ---- segments ----

    def path(self, task: int) -> Path:
        return self.folder / f"{task}.rt"

    def plan(self, task: int = 1, cycle_ms: float = 50, deadline_ms: float = 0, **more: Any) -> Plan:
        """Lays down a segment."""
        plan = Plan(task, f"task-{task}", int(cycle_ms * MS), int(deadline_ms * MS), **more)
        segment.create(self.path(task), plan)
        return plan

    def read(self, task: int = 1) -> Statistics:
        return segment.read(self.path(task))

    async def done(self, job: int, task: int = 1) -> Statistics:
        """Statistics once this job is completed."""
        return await until(lambda: s if (s := self.read(task)).done > job else None, f"job {job} of {task}")

    # ---- processes ----

    def spawn(self, task: int = 1, *arguments: str | int) -> subprocess.Popen[str]:
        """A client on the segment of `task`, attached when this returns."""
        return self.run([str(self.client), *map(str, arguments)], task)

    def run(self, command: list[str], task: int, **more: Any) -> subprocess.Popen[str]:
        """Any program that says `ready`."""
        env = {**os.environ, "MGMT_RT": str(self.path(task)), **more.pop("env", {})}
        process = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more
        )
        self.processes.append(process)
        self.process_of[task] = process
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        assert line == "ready\n", (line, process.wait(10), process.stderr.read())
        return process

    async def executive(self, **more: Any) -> Executive:
        executive = await Executive.start(self.reports.append, self.ended.append, **more)
        self.executives.append(executive)
        return executive

    async def started(
        self, *tasks: int, in_ms: float = 60, executive: Executive | None = None
    ) -> tuple[Executive, int]:
        """An executive that watches `tasks`, released from T0 on, and T0."""
        executive = executive or await self.executive()
        await executive.stage({task: self.path(task) for task in tasks})
        for task in tasks:
            if task in self.process_of:
                await executive.bind(task, self.process_of[task].pid)
        t0_ns = time.monotonic_ns() + int(in_ms * MS)
        await executive.release(tasks, t0_ns)
        return executive, t0_ns

    # ---- reports ----

    def misses(self, task: int = 1) -> list[int]:
        return [r.job for r in self.reports if isinstance(r, Miss) and r.task == task]

    def faults(self, task: int = 1) -> list[Fault]:
        return [r for r in self.reports if isinstance(r, Fault) and r.task == task]

    def gone(self, task: int = 1) -> list[Gone]:
        return [r for r in self.reports if isinstance(r, Gone) and r.task == task]

    def lost(self) -> list[int]:
        return [r.task for r in self.reports if isinstance(r, Lost)]

    async def clean_up(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()
        for executive in self.executives:
            await asyncio.wait_for(executive.close(), 10)
            assert executive.process.returncode in (0, -9), "it ended in a way of its own"


@asynccontextmanager
async def rig(client: Path) -> AsyncIterator[Rig]:
    shm = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="mgmt-rt-", dir=shm if os.access(shm, os.W_OK) else None))
    made = Rig(client, folder)
    try:
        yield made
    finally:
        await made.clean_up()
        shutil.rmtree(folder)


def let_pass(condition: Callable[[], bool]) -> None:
    """Waits for it without a turn of the event loop: nothing is read meanwhile."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def status_of(pid: int, key: str) -> int:
    """A number of /proc/PID/status."""
    return int(Path(f"/proc/{pid}/status").read_text().partition(f"{key}:")[2].split()[0])


def cpu_s(pid: int) -> float:
    """CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_alive(process: subprocess.Popen[str]) -> bool:
    return process.poll() is None
