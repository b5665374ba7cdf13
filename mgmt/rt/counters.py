"""Observation by counters that the kernel keeps for each thread: of perf, or in /proc.

Nothing runs between two readings. Threads are those of the process when it is watched or read; what one did that
came and went in between is not known.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from dataclasses import dataclass
from pathlib import Path

from .executive import start_ticks_of
from .observation import Observation, ObserverError

MAX_THREADS = 64  # of a process
_PROC = Path("/proc")
_CALL = {"x86_64": 298, "aarch64": 241, "riscv64": 241}  # perf_event_open
_SOFTWARE, _TASK_CLOCK, _SWITCHES, _MIGRATIONS = 1, 1, 3, 4
_READ_GROUP, _CLOSE_ON_EXEC = 8, 8
_ATTRIBUTE_BYTES = 64  # the first version of struct perf_event_attr


@dataclass(slots=True)
class _Sample:
    """Totals of one thread, or of several."""

    cpu_ns: int = 0
    waited_ns: int = 0
    voluntary: int = 0
    involuntary: int = 0
    migrations: int = 0

    def __add__(self, other: _Sample) -> _Sample:
        return _Sample(*(getattr(self, name) + getattr(other, name) for name in _Sample.__slots__))

    def __sub__(self, other: _Sample) -> _Sample:
        return _Sample(*(getattr(self, name) - getattr(other, name) for name in _Sample.__slots__))


class Accounts:
    """`schedstat`: CPU time and waiting in /proc/PID/task/TID/schedstat, switches in status."""

    name = "schedstat"

    def __init__(self) -> None:
        self._processes: dict[int, _Process] = {}
        self._waiting = _has_schedstat()
        ticks_ms = 1000 // os.sysconf("SC_CLK_TCK")
        self.grain = (
            ""
            if self._waiting
            else f"the kernel has no schedstat: CPU time in steps of {ticks_ms} ms, no waiting time"
        )

    def watch(self, pid: int, start_ticks: int) -> None:
        """See Mechanism."""
        self.unwatch(pid)
        if start_ticks_of(pid) != start_ticks:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        process = self._processes[pid] = _Process(start_ticks)
        self._look(pid, process, new=False)

    def unwatch(self, pid: int) -> None:
        """See Mechanism."""
        process = self._processes.pop(pid, None)
        if process is not None:
            for tid in process.first:
                self._end(tid)

    def read(self, pid: int) -> Observation | None:
        """See Mechanism."""
        process = self._processes.get(pid)
        if process is None:
            return None
        if start_ticks_of(pid) == process.start_ticks:  # else what was last known
            self._look(pid, process, new=True)
        total = process.ended
        for tid, first in process.first.items():
            total = total + process.last[tid] - first
        return Observation(
            threads=process.threads,
            switches=total.voluntary + total.involuntary,
            involuntary=total.involuntary,
            cpu_ns=total.cpu_ns,
            waited_ns=total.waited_ns if self._waiting else None,
            migrations=self._known(total.migrations),
            lost=process.lost,
        )

    def close(self) -> None:
        """See Mechanism."""
        for pid in list(self._processes):
            self.unwatch(pid)

    def _look(self, pid: int, process: _Process, *, new: bool) -> None:
        """`new`: a thread not seen before began after we did, so all that it has is counted."""
        try:
            threads = {int(name) for name in os.listdir(_PROC / str(pid) / "task")}
        except (FileNotFoundError, ProcessLookupError):
            threads = set()
        for tid in process.first.keys() - threads:
            process.ended = process.ended + process.last.pop(tid) - process.first.pop(tid)
            self._end(tid)
        for tid in threads:
            known = tid in process.first
            if not known and len(process.first) >= MAX_THREADS:
                continue
            try:
                if not known:
                    self._begin(tid)
                sample = self._sample(pid, tid)
            except OSError:  # it has just ended, or there are too many files
                if not known:
                    self._end(tid)
                continue
            process.last[tid] = sample
            if not known:
                process.first[tid] = self._birth(pid, tid, sample) if new else sample
        process.threads = len(threads)
        process.lost = len(threads - process.first.keys())

    def _sample(self, pid: int, tid: int) -> _Sample:
        folder = _PROC / str(pid) / "task" / str(tid)
        status = (folder / "status").read_text(encoding="utf-8", errors="replace")
        sample = _Sample(
            voluntary=_number(status, "voluntary_ctxt_switches"),
            involuntary=_number(status, "nonvoluntary_ctxt_switches"),
        )
        if self._waiting:
            cpu, waited, _ = (folder / "schedstat").read_text(encoding="ascii").split()
            sample.cpu_ns, sample.waited_ns = int(cpu), int(waited)
        else:
            fields = (
                (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            )
            sample.cpu_ns = (int(fields[11]) + int(fields[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        return sample

    # What perf does otherwise.

    def _begin(self, tid: int) -> None:
        pass

    def _end(self, tid: int) -> None:
        pass

    def _birth(self, pid: int, tid: int, sample: _Sample) -> _Sample:
        """What is taken off the samples of a thread that began after its process was watched."""
        return _Sample()

    def _known(self, migrations: int) -> int | None:
        return None


class _Process:
    """First and last samples by thread, and the sum of those that have ended."""

    def __init__(self, start_ticks: int) -> None:
        self.start_ticks = start_ticks
        self.threads = self.lost = 0
        self.ended = _Sample()
        self.first: dict[int, _Sample] = {}
        self.last: dict[int, _Sample] = {}


class PerfCounters(Accounts):
    """`perf`: software counters of each thread in one group: its CPU time, switches and migrations.

    What they lack, preemptions and waiting, is read as by Accounts. ObserverError where they are not permitted.
    """

    name = "perf"

    def __init__(self) -> None:
        super().__init__()
        self.grain = ""
        if not self._waiting:
            self.grain = "the kernel has no schedstat: no waiting time"
        self._groups: dict[int, tuple[int, int, int]] = {}
        try:
            self._begin(0)
        except OSError as error:
            raise ObserverError(_refusal(error)) from error
        self._end(0)

    def _sample(self, pid: int, tid: int) -> _Sample:
        sample = super()._sample(pid, tid)
        count, clock_ns, switches, migrations = struct.unpack("=QQQQ", os.read(self._groups[tid][0], 32))
        assert count == 3
        sample.cpu_ns, sample.migrations = clock_ns, migrations
        # Both are counted by the kernel, perf's from when we opened it: its number is the whole.
        sample.voluntary = switches - sample.involuntary
        return sample

    def _begin(self, tid: int) -> None:
        files: list[int] = []
        try:
            for event in (_TASK_CLOCK, _SWITCHES, _MIGRATIONS):
                files.append(_open(event, tid, files[0] if files else -1))
        except OSError:
            for file in files:
                os.close(file)
            raise
        clock, switches, migrations = files
        self._groups[tid] = clock, switches, migrations

    def _end(self, tid: int) -> None:
        for file in self._groups.pop(tid, ()):
            os.close(file)

    def _birth(self, pid: int, tid: int, sample: _Sample) -> _Sample:
        # Counters start when they are opened: what was before is added.
        before = sample - super()._sample(pid, tid)
        before.migrations = 0
        return before

    def _known(self, migrations: int) -> int | None:
        return migrations


def _open(event: int, tid: int, leader: int) -> int:
    """A counter of a thread, 0: the calling one. OSError when it may not be."""
    number = _CALL.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"not known how to ask on {platform.machine()}")
    # type, size, config, sample_period, sample_type, read_format, flags, wakeup_events, bp_type, config1
    attribute = struct.pack("=IIQQQQQIIQ", _SOFTWARE, _ATTRIBUTE_BYTES, event, 0, 0, _READ_GROUP, 0, 0, 0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    file = libc.syscall(number, attribute, tid, -1, leader, ctypes.c_ulong(_CLOSE_ON_EXEC))
    if file < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(file)


def _refusal(error: OSError) -> str:
    name = errno.errorcode.get(error.errno or 0, "?")
    if error.errno in (errno.EPERM, errno.EACCES):
        return f"not permitted ({name}): needs CAP_PERFMON, or kernel.perf_event_paranoid of 1 or less"
    return f"not available ({name}): {error.strerror}"


def _has_schedstat() -> bool:
    """Whether it is there and counts: who reads it has been given a CPU."""
    try:
        return int((_PROC / "self/schedstat").read_text(encoding="ascii").split()[2]) > 0
    except (OSError, ValueError, IndexError):
        return False


def _number(status: str, key: str) -> int:
    """Of a line `key: number`."""
    return int(status.partition(f"\n{key}:")[2].split(None, 1)[0])
