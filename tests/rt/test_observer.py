"""Observation by the kernel: each mechanism against what a task measures of itself, and what is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import platform
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mgmt.rt
from mgmt.rt import _task, counters, tracing
from mgmt.rt.counters import Accounts, PerfCounters
from mgmt.rt.executive import start_ticks_of
from mgmt.rt.observation import SLICES, TASK_BYTES, Mechanism, Observation, ObserverError, Slice, decode
from mgmt.rt.tracing import Tracer
from mgmt.shell.observer import Observer
from tests.rt.rig import FLAGS, fifo, let_pass, rig, until
from tests.system.clients import eventually

HISTOGRAM = 2 + _task.BUCKETS
MECHANISMS: dict[str, Callable[[], Mechanism]] = {
    "ebpf": Tracer,
    "perf": PerfCounters,
    "schedstat": Accounts,
}
SLEEPER = "import time\nprint(flush=True)\ntime.sleep(60)"
BPF = {"x86_64": 321, "aarch64": 280}
PROG_GET_NEXT_ID, MAP_GET_NEXT_ID = 11, 12


@contextlib.contextmanager
def made(name: str) -> Iterator[Mechanism]:
    try:
        mechanism = MECHANISMS[name]()
    except ObserverError as error:
        pytest.skip(f"{name}: {error}")
    try:
        yield mechanism
    finally:
        mechanism.close()


@contextlib.contextmanager
def python(code: str) -> Iterator[subprocess.Popen[str]]:
    """A program that has said a line, and waits for one."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"import signal\nsignal.alarm(60)\n{code}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None and process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def watch(mechanism: Mechanism, pid: int) -> None:
    mechanism.watch(pid, start_ticks_of(pid))


def seen(mechanism: Mechanism, pid: int) -> Observation:
    found = mechanism.read(pid)
    assert found is not None
    return found


# ---- the layout ---------------------------------------------------------------------------------------------


def memory(slices: list[tuple[int, int, int, int]]) -> bytes:
    """A struct observer_task, its other fields numbered from 1."""
    words = [*range(1, 10), *([0] * 3 * HISTOGRAM)]
    for i in range(3):
        at = 9 + i * HISTOGRAM
        words[at : at + 2] = 7, 7  # one value, of bucket 7
        words[at + 2 + 7] = 1 + i
    words += [word for one in slices for word in one]
    return struct.pack(f"={TASK_BYTES // 8}Q", *words, *[0] * (TASK_BYTES // 8 - len(words)))


def test_the_memory_of_a_task_is_read_by_its_layout() -> None:
    slices = [(258, 30, 40, 8 | 2 << 32 | 1 << 63), (257, 10, 20, 7 | 1 << 32)]
    seen = decode(memory(slices), memory(slices))
    assert (seen.activations, seen.switches, seen.involuntary, seen.migrations) == (1, 2 + 3, 3, 4)
    assert (seen.cpu_ns, seen.waited_ns, seen.threads, seen.lost) == (5, 6, 7, 8)
    counted = [one.count for one in (seen.wakeup, seen.on_cpu, seen.response) if one is not None]
    assert counted == [1, 2, 3]
    assert seen.on_cpu is not None and seen.on_cpu.percentile_ns(0.5) == 7
    assert seen.slices == [Slice(10, 20, 7, 1, False), Slice(30, 40, 8, 2, True)]


def test_a_slice_that_is_being_written_is_left_out() -> None:
    before, after = [(1, 10, 20, 7), (2, 30, 40, 7)], [(257, 90, 20, 7), (2, 30, 40, 7)]
    assert decode(memory(before), memory(after)).slices == [Slice(30, 40, 7, 0, False)]


def test_the_layout_is_that_of_the_header(tmp_path: Path) -> None:
    source = tmp_path / "size.c"
    source.write_text(
        '#include "observer.h"\n#include <stddef.h>\n#include <stdio.h>\n'
        'int main(void) { printf("%zu %d %zu %zu\\n", sizeof(struct observer_task), OBSERVER_SLICES,\n'
        "offsetof(struct observer_task, wakeup), offsetof(struct observer_task, slices)); return 0; }\n"
    )
    program = tmp_path / "size"
    subprocess.run(["cc", *FLAGS, f"-I{mgmt.rt.include_dir()}", "-o", program, source], check=True)
    said = subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()
    assert list(map(int, said)) == [TASK_BYTES, SLICES, 9 * 8, (9 + 3 * HISTOGRAM) * 8]


# ---- against what a task says of itself ---------------------------------------------------------------------


@pytest.mark.parametrize("name", MECHANISMS)
def test_what_is_observed_is_what_the_task_measured(client: Path, name: str) -> None:
    async def body() -> None:
        async with rig(client) as it:
            it.plan(cycle_ms=20)
            process = it.spawn(1, *fifo(), "--burn-us", 4000)
            with made(name) as mechanism:
                watch(mechanism, process.pid)
                await it.started(1)
                await it.done(30)
                process.send_signal(signal.SIGSTOP)  # nothing more happens
                await until(lambda: not is_running(process.pid), "it stopped")
                compare(seen(mechanism, process.pid), it.read())

    def compare(found: Observation, own: Any) -> None:
        assert found.threads == 1 and found.lost == 0
        # One job may have begun that the task has not told of.
        assert own.completed <= found.switches
        assert 0.9 * own.execution.sum_ns <= found.cpu_ns <= 1.15 * own.execution.sum_ns + 10_000_000
        if name == "perf":
            assert found.migrations is not None
        if name != "ebpf":
            assert found.activations is None and found.slices == () and found.wakeup is None
            return
        assert found.activations is not None and found.waited_ns is not None
        assert own.completed <= found.activations <= own.completed + 8
        assert found.wakeup and found.on_cpu and found.response
        assert 0.8 <= found.on_cpu.percentile_ns(0.5) / own.execution.percentile_ns(0.5) <= 1.25
        # From a waking and not from the release, so it is never longer but for the end of the sleep itself.
        assert found.response.percentile_ns(0.5) <= 1.25 * own.response.percentile_ns(0.5)
        assert found.wakeup.percentile_ns(0.5) <= own.jitter.percentile_ns(0.5) * 1.07
        # The last slices are kept: of older jobs, where a busy machine made many, there are none any more.
        kept_ns = min(piece.start_ns for piece in found.slices)
        records = {one.job: one for one in own.records if one.start_ns >= kept_ns}
        assert records
        for one in records.values():
            ran_ns = sum(
                min(piece.end_ns, one.end_ns) - max(piece.start_ns, one.start_ns)
                for piece in found.slices
                if piece.start_ns < one.end_ns and one.start_ns < piece.end_ns
            )
            assert 0.8 * one.execution_ns <= ran_ns <= one.end_ns - one.start_ns, one
        assert {piece.thread for piece in found.slices} == {own.tid}

    asyncio.run(body())


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T"


@pytest.mark.parametrize("name", MECHANISMS)
def test_threads_are_of_one_process(name: str) -> None:
    code = (
        "import threading, time\n"
        "def burn():\n"
        "    end = time.thread_time() + 0.2\n"
        "    while time.thread_time() < end: pass\n"
        "    time.sleep(60)\n"
        "print(flush=True)\ninput()\n"
        "for _ in range(2): threading.Thread(target=burn, daemon=True).start()\n"
        "time.sleep(60)"
    )
    with made(name) as mechanism, python(code) as process:
        watch(mechanism, process.pid)
        go(process)
        let_pass(lambda: seen(mechanism, process.pid).cpu_ns > 380_000_000)
        let_pass(lambda: seen(mechanism, process.pid).threads == 3)
        found = seen(mechanism, process.pid)
        assert found.cpu_ns < 3_000_000_000 and found.lost == 0 and found.involuntary <= found.switches
        if name == "ebpf":  # the last slices are of those that were busy
            assert len({piece.thread for piece in found.slices} - {process.pid}) == 2


@pytest.mark.parametrize("name", MECHANISMS)
def test_what_has_ended_keeps_its_figures_and_is_then_forgotten(name: str) -> None:
    code = "import time\nprint(flush=True)\ninput()\nend = time.thread_time() + 0.2\n"
    code += "while time.thread_time() < end: pass\nprint(flush=True)\ninput()"
    with made(name) as mechanism, python(code) as process:
        watch(mechanism, process.pid)
        assert seen(mechanism, process.pid).cpu_ns < 100_000_000
        go(process)
        assert process.stdout is not None and process.stdout.readline()
        let_pass(lambda: seen(mechanism, process.pid).cpu_ns > 150_000_000)
        before = seen(mechanism, process.pid)
        start_ticks = start_ticks_of(process.pid)
        process.kill()
        process.wait()
        assert seen(mechanism, process.pid).cpu_ns >= before.cpu_ns
        with pytest.raises(ProcessLookupError):
            mechanism.watch(process.pid, start_ticks)
        mechanism.unwatch(process.pid)
        assert mechanism.read(process.pid) is None
        mechanism.unwatch(process.pid)


@pytest.mark.parametrize("name", MECHANISMS)
def test_a_process_that_started_at_another_time_is_another(name: str) -> None:
    with made(name) as mechanism, python(SLEEPER) as process:
        with pytest.raises(ProcessLookupError):
            mechanism.watch(process.pid, start_ticks_of(process.pid) + 1)
        assert mechanism.read(process.pid) is None


def test_without_schedstat_there_are_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "_has_schedstat", lambda: False)
    with made("schedstat") as mechanism:
        assert "no waiting time" in mechanism.grain
        watch(mechanism, os.getpid())
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass
        found = seen(mechanism, os.getpid())
        assert found.waited_ns is None and 0.1e9 < found.cpu_ns < 5e9


def test_counters_that_are_not_permitted_say_what_would_help(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(event: int, tid: int, leader: int) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(counters, "_open", refuse)
    with pytest.raises(ObserverError, match=r"CAP_PERFMON, or kernel\.perf_event_paranoid"):
        PerfCounters()


def test_counters_close_their_files() -> None:
    with made("perf") as mechanism, python(SLEEPER) as process:
        before = len(os.listdir("/proc/self/fd"))
        watch(mechanism, process.pid)
        assert len(os.listdir("/proc/self/fd")) == before + 3
        mechanism.unwatch(process.pid)
        assert len(os.listdir("/proc/self/fd")) == before


# ---- mgmt-observer ------------------------------------------------------------------------------------------


def loaded(pid: int) -> set[tuple[int, int]]:
    """(what is asked for the next one, number) of the programs and maps that a process holds."""
    found = set()
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        for line in entry.read_text().splitlines():
            key, _, value = line.partition(":")
            if key in ("prog_id", "map_id"):
                found.add((PROG_GET_NEXT_ID if key == "prog_id" else MAP_GET_NEXT_ID, int(value)))
    return found


def in_the_kernel(one: tuple[int, int]) -> bool:
    """Whether there is such a program or map: whether it is the next one after the number before it."""
    command, number = one
    attribute = ctypes.create_string_buffer(struct.pack("=III", number - 1, 0, 0), 128)
    done = ctypes.CDLL(None, use_errno=True).syscall(BPF[platform.machine()], command, attribute, 128)
    return bool(done == 0 and struct.unpack_from("=II", attribute)[1] == number)


@pytest.mark.skipif(platform.machine() not in BPF, reason="it is not known how to ask this kernel")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may list what is loaded")
@pytest.mark.parametrize("how", ["closed", "killed"])
def test_nothing_is_left_in_the_kernel(how: str) -> None:
    with made("ebpf") as mechanism, python(SLEEPER) as process:
        assert isinstance(mechanism, Tracer)
        watch(mechanism, process.pid)
        there = loaded(mechanism.process.pid)
        assert len(there) >= 4 and all(map(in_the_kernel, there))
        if how == "killed":
            mechanism.process.kill()
            mechanism.process.wait()
            assert mechanism.read(process.pid) is not None
            with pytest.raises(ObserverError, match="has ended"):
                watch(mechanism, process.pid)
        mechanism.close()
        eventually(lambda: not any(map(in_the_kernel, there)))


def test_a_probe_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ObserverError, match="make observe"):
        tracing.probe(tmp_path / "absent")
    for said, text in (
        ("failed errno=1 at=load", "CAP_BPF and CAP_PERFMON"),
        ("failed errno=22 at=load", "Linux 5.18 with BTF"),
        ("failed errno=0 at=blind", "PID namespace"),
        ("hello version=99", "another version"),
        ("", "does not start"),
    ):
        program = tmp_path / "mgmt-observer"
        program.write_text(f"#!/bin/sh\necho {said}\n")
        program.chmod(0o755)
        with pytest.raises(ObserverError, match=text):
            tracing.probe(program)


def test_what_is_not_permitted_is_told() -> None:
    if not os.access(tracing.PROGRAM, os.X_OK):
        pytest.skip("mgmt-observer is not built: it needs clang and libbpf")
    if (
        os.geteuid() != 0
        or subprocess.run(["setpriv", "--version"], capture_output=True, check=False).returncode
    ):
        pytest.skip("only root can give away what it may, with setpriv")
    done = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", tracing.PROGRAM, "--probe"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and done.stdout.startswith("failed errno=1 at="), done


# ---- the choice ---------------------------------------------------------------------------------------------


class Broken:
    """A mechanism that does not work here."""

    def __init__(self) -> None:
        raise ObserverError("it is broken")


def observed(body: Callable[[Observer, list[str]], Any], wanted: str = "", **mechanisms: Any) -> None:
    """Runs a coroutine beside an observer of these mechanisms, with what it says."""

    async def run() -> None:
        said: list[str] = []
        loop = asyncio.get_running_loop()
        kind = type("Mine", (Observer,), {"mechanisms": mechanisms} if mechanisms else {})
        observer = kind(loop, said.append, wanted)
        try:
            await body(observer, said)
        finally:
            await asyncio.to_thread(observer.read, [], False)  # all before it is done
            observer.close()

    asyncio.run(run())


async def read(observer: Observer, key: str) -> dict[str, Any] | None:
    return (await asyncio.to_thread(observer.read, [key], True)).get(key)


def test_the_best_that_works_is_taken_and_the_reason_told() -> None:
    async def body(observer: Observer, said: list[str]) -> None:
        observer.watch("me", os.getpid(), start_ticks_of(os.getpid()))
        found = await read(observer, "me")
        assert found is not None and found["mechanism"] == "schedstat"
        assert found["reason"].startswith("ebpf: it is broken; perf: it is broken")
        observer.unwatch("me")
        assert await read(observer, "me") is None

    observed(body, ebpf=Broken, perf=Broken, schedstat=Accounts)


@pytest.mark.parametrize(("wanted", "expected"), [("schedstat", "schedstat"), ("off", None)])
def test_a_mechanism_can_be_asked_for(wanted: str, expected: str | None) -> None:
    async def body(observer: Observer, said: list[str]) -> None:
        observer.watch("me", os.getpid(), start_ticks_of(os.getpid()))
        found = await read(observer, "me")
        assert (found and found["mechanism"]) == expected
        assert found is None or found["reason"].startswith("MGMT_OBSERVER=schedstat")

    observed(body, wanted)


def test_an_observer_that_is_killed_is_replaced_and_says_so() -> None:
    with made("ebpf"), python("import time\nprint(flush=True)\nwhile True: time.sleep(0.002)") as process:

        async def body(observer: Observer, said: list[str]) -> None:
            observer.watch("it", process.pid, start_ticks_of(process.pid))
            await busy(observer)
            first = pid_of(observer)
            os.kill(first, signal.SIGKILL)
            await until(lambda: said, "it says that it has ended")
            assert "a new one is started" in said[0]
            await until(lambda: pid_of(observer) not in (0, first), "there is another one")
            await busy(observer)

        async def busy(observer: Observer) -> None:
            found = None
            while not (found and found["activations"] >= 5):
                found = await read(observer, "it")
                await asyncio.sleep(0.01)
            assert found["mechanism"] == "ebpf" and found["reason"] == "" and found["slices"]

        observed(body)


def pid_of(observer: Observer) -> int:
    mechanism = observer._mechanism
    return mechanism.process.pid if isinstance(mechanism, Tracer) else 0


def test_one_that_cannot_be_replaced_gives_way_to_the_next() -> None:
    with made("ebpf") as first, python(SLEEPER) as process:
        assert isinstance(first, Tracer)
        made_once = iter([first])

        def once() -> Mechanism:
            for mechanism in made_once:
                return mechanism
            raise ObserverError("there is no other")

        async def body(observer: Observer, said: list[str]) -> None:
            observer.watch("it", process.pid, start_ticks_of(process.pid))
            assert (found := await read(observer, "it")) and found["mechanism"] == "ebpf"
            first.process.kill()
            await until(lambda: said, "it says that it has ended")
            await until(lambda: isinstance(observer._mechanism, Accounts), "another took its place")
            assert (found := await read(observer, "it")) and found["mechanism"] == "schedstat"
            assert found["reason"].startswith("ebpf: there is no other")

        observed(body, ebpf=once, schedstat=Accounts)
