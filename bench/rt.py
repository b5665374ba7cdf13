"""Figures of real-time tasks: how late they are released beside a bare loop, how late a miss is seen, and what it
costs to observe them."""

from __future__ import annotations

import array
import asyncio
import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mgmt.rt
from bench.daemon import wait_until
from bench.figure import Figure, interleave, percentile
from mgmt.rt import segment
from mgmt.rt.counters import PerfCounters
from mgmt.rt.executive import Executive, Miss, Report, start_ticks_of
from mgmt.rt.observation import Mechanism, ObserverError
from mgmt.rt.segment import Plan
from mgmt.rt.tracing import Tracer

PERIOD_NS = 1_000_000
PRIORITY = 50
SOURCE = Path(__file__).with_name("rt_loop.c")
NOTE = (
    "one task under FIFO 50 on one CPU, the executive that watches its deadlines on another where there is one; "
    "rounds of both kinds take turns, a sample is the percentile of a round"
)


def rt(quick: bool) -> list[Figure]:
    """One task of 1 ms; nothing but a row with the reason where FIFO is not permitted."""
    jobs, rounds = (1000, 3) if quick else (3000, 7)
    with tempfile.TemporaryDirectory(prefix="mgmt-bench-rt-", dir=_memory()) as name:
        folder = Path(name)
        loop = Loop(folder, jobs)
        try:
            loop.bare()
        except PermissionError as error:
            return [Figure("release jitter", "µs", [0], note=f"not measured: {error}")]
        return [*_jitter(loop, rounds), *_detection(loop), *_observation(loop, rounds)]


def _jitter(loop: Loop, rounds: int) -> list[Figure]:
    p50: dict[str, list[float]] = {}
    p99: dict[str, list[float]] = {}

    def bare() -> float:
        return keep("bare", loop.bare())

    def library() -> float:
        return keep("library", loop.library())

    def neighbour() -> float:
        with _busy(loop.cpu):
            return keep("neighbour", loop.library())

    def bare_neighbour() -> float:
        with _busy(loop.cpu):
            return keep("bare neighbour", loop.bare())

    def same_cpu() -> float:
        return keep("same CPU", loop.library(executive_cpu=loop.cpu))

    def keep(kind: str, late_us: list[float]) -> float:
        p50.setdefault(kind, []).append(statistics.median(late_us))
        p99.setdefault(kind, []).append(percentile(late_us, 0.99))
        return p50[kind][-1]

    interleave(rounds, bare, library, neighbour, bare_neighbour, same_cpu)
    name, floor = "release jitter of a 1 ms task", "clock_nanosleep loop"
    return [
        Figure(f"{name}, p50", "µs", p50["library"], p50["bare"], floor, "ratio<=", 1.3, NOTE),
        Figure(f"{name}, p99", "µs", p99["library"], p99["bare"], floor, "ratio<=", 1.3),
        Figure(f"{name} beside a busy neighbour, p99", "µs", p99["neighbour"], p99["library"], "without it",
               "ratio<=", 1.5, "the neighbour spins under SCHED_OTHER on the CPU of the task"),
        Figure(f"{name} and the neighbour, p99", "µs", p99["neighbour"], p99["bare neighbour"], floor),
        Figure(f"{name}, executive on its CPU, p99", "µs", p99["same CPU"], p99["bare"], floor,
               note="the deadline of a job is the release of the next: the executive runs first"),
    ]  # fmt: skip


def _detection(loop: Loop) -> list[Figure]:
    floor_us, late_us = loop.bare(), loop.misses_us()
    name = "miss seen after its deadline"
    return [
        Figure(f"{name}, p50", "µs", [statistics.median(late_us)], sense="value<", goal=1000),
        Figure(f"{name}, p99", "µs", [percentile(late_us, 0.99)], [percentile(floor_us, 0.99)],
               "clock_nanosleep loop"),
    ]  # fmt: skip


def _observation(loop: Loop, rounds: int) -> list[Figure]:
    """What watching a task of 1 ms does to it; each round loads what it needs, and the others are without it."""
    kinds: dict[str, Callable[[], Mechanism]] = {}
    figures = []
    for name, make in (("eBPF", Tracer), ("perf", PerfCounters)):
        try:
            make().close()
            kinds[name] = make
        except ObserverError as error:
            figures.append(
                Figure(f"a 1 ms task observed by {name}", "µs", [0], note=f"not measured: {error}")
            )
    late_us: dict[str, list[float]] = {name: [] for name in ("", *kinds)}
    response_us: dict[str, list[float]] = {name: [] for name in late_us}

    def round_of(name: str) -> Callable[[], float]:
        def once() -> float:
            mechanism = kinds[name]() if name else None
            try:
                late_us[name].append(percentile(loop.library(watched_by=mechanism), 0.99))
            finally:
                if mechanism is not None:
                    mechanism.close()
            response_us[name].append(loop.response_us())
            return late_us[name][-1]

        return once

    interleave(rounds, *map(round_of, late_us))
    for name in kinds:
        what = f"a 1 ms task observed by {name}"
        figures += [
            Figure(f"{what}: release jitter, p99", "µs", late_us[name], late_us[""], "not observed"),
            Figure(f"{what}: response, mean", "µs", response_us[name], response_us[""], "not observed"),
        ]
    return [*figures, *(_cost(loop) if "eBPF" in kinds else [])]


def _cost(loop: Loop) -> list[Figure]:
    """Of mgmt-observer itself: its process, and what the kernel says that its programs took."""
    tracer = Tracer()
    try:
        before_ns = _cpu_ns(tracer.process.pid)
        with _bpf_statistics():
            loop.library(watched_by=tracer)
        used_ns = _cpu_ns(tracer.process.pid) - before_ns
        ran_ns, runs = _in_programs(tracer.process.pid)
    finally:
        tracer.close()
    figures = [Figure("mgmt-observer: CPU time of its process meanwhile", "ms", [used_ns / 1e6])]
    if runs:
        note = "the mean of all on the machine, watched or not"
        figures.append(Figure("mgmt-observer: a switch or a waking", "ns", [ran_ns / runs], note=note))
    return figures


@contextmanager
def _bpf_statistics() -> Iterator[None]:
    """The kernel counts what BPF programs take, where it lets us say so."""
    switch = Path("/proc/sys/kernel/bpf_stats_enabled")
    try:
        before = switch.read_text()
        switch.write_text("1")
    except OSError:
        yield
        return
    try:
        yield
    finally:
        switch.write_text(before)


def _in_programs(pid: int) -> tuple[int, int]:
    """Time in ns, and runs, of the BPF programs that a process holds."""
    ran_ns = runs = 0
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        fields = dict(line.split(":", 1) for line in entry.read_text().splitlines() if ":" in line)
        ran_ns += int(fields.get("run_time_ns", 0))
        runs += int(fields.get("run_cnt", 0))
    return ran_ns, runs


def _cpu_ns(pid: int) -> int:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


class Loop:
    """The program of rt_loop.c: rounds of it, with and without the library."""

    def __init__(self, folder: Path, jobs: int) -> None:
        *others, self.cpu = sorted(os.sched_getaffinity(0))
        self.other_cpu = others[-1] if others else self.cpu
        self._program = folder / "rt_loop"
        self._folder = folder
        self._jobs = jobs
        self._serial = 0
        command = [
            "cc",
            "-std=c11",
            "-O2",
            f"-I{mgmt.rt.include_dir()}",
            "-o",
            str(self._program),
            str(SOURCE),
        ]
        subprocess.run(command, check=True)

    def bare(self) -> list[float]:
        """How late each waking was, in µs. PermissionError where FIFO is not permitted."""
        with self._running("bare", self._jobs) as process:
            return self._samples(process)

    def response_us(self) -> float:
        """The mean of the last round."""
        return segment.read(self._folder / str(self._serial)).response.mean_ns / 1e3

    def library(self, executive_cpu: int | None = None, watched_by: Mechanism | None = None) -> list[float]:
        async def body() -> list[float]:
            path = self._segment()
            executive = await self._executive(lambda report: None, executive_cpu)
            with self._running("library", self._jobs, path) as process:
                if watched_by is not None:
                    watched_by.watch(process.pid, start_ticks_of(process.pid))
                await self._release(executive, path)
                late_us = await asyncio.to_thread(self._samples, process)
            await executive.close()
            return late_us

        return asyncio.run(body())

    def misses_us(self) -> list[float]:
        """How late each miss of a stopped task was seen, in µs."""
        late_us: list[float] = []

        async def body() -> None:
            enough = asyncio.Event()

            def take(report: Report) -> None:
                if isinstance(report, Miss):
                    late_us.append((report.seen_ns - report.deadline_ns) / 1e3)
                if len(late_us) >= self._jobs:
                    enough.set()

            path = self._segment()
            executive = await self._executive(take, None)
            with self._running("library", 10**6, path) as process:
                await self._release(executive, path)
                await asyncio.to_thread(wait_until, lambda: segment.read(path).done >= 100)
                process.send_signal(signal.SIGSTOP)
                await asyncio.wait_for(enough.wait(), 60)
            await executive.close()

        asyncio.run(body())
        return late_us

    def _segment(self) -> Path:
        self._serial += 1
        path = self._folder / str(self._serial)
        segment.create(path, Plan(self._serial, "bench", PERIOD_NS, deadline_ns=PERIOD_NS))
        return path

    async def _executive(self, report: Callable[[Report], None], cpu: int | None) -> Executive:
        executive = await Executive.start(report)
        os.sched_setaffinity(executive.process.pid, {self.other_cpu if cpu is None else cpu})
        return executive

    async def _release(self, executive: Executive, path: Path) -> None:
        await executive.add(path)
        await executive.release([self._serial], time.monotonic_ns() + 20 * PERIOD_NS)

    @contextmanager
    def _running(self, kind: str, jobs: int, path: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
        command = [str(self._program), kind, str(PERIOD_NS), str(jobs), str(PRIORITY), str(self.cpu)]
        environ = {**os.environ, "MGMT_RT": str(path)}
        process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            assert process.stdout is not None and process.stderr is not None
            if process.stdout.readline() != b"ready\n":
                raise PermissionError(process.stderr.read().decode().strip())
            yield process
        finally:
            process.kill()
            process.communicate()

    def _samples(self, process: subprocess.Popen[bytes]) -> list[float]:
        assert process.stdout is not None
        samples = array.array("Q", process.stdout.read())
        if len(samples) != self._jobs:
            raise RuntimeError(f"rt_loop ended after {len(samples)} of {self._jobs} jobs")
        return [late_ns / 1e3 for late_ns in samples]


@contextmanager
def _busy(cpu: int) -> Iterator[None]:
    process = subprocess.Popen(["sh", "-c", "while :; do :; done"])
    os.sched_setaffinity(process.pid, {cpu})
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
