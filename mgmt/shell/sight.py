"""What /proc says about the processes of units: CPU time, memory, and the CPUs their threads may use."""

from __future__ import annotations

import os
import time

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Sampler:
    """CPU per cent between two looks at a process, and its resident bytes."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, float, int]] = {}  # unit -> pid, monotonic s, CPU ticks

    def sample(self, pids: dict[str, int]) -> dict[str, tuple[float | None, int]]:
        """By unit: CPU per cent since the last sample of the same process (None at the first), bytes."""
        usage: dict[str, tuple[float | None, int]] = {}
        for unit, pid in pids.items():
            try:
                with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
                    # The name is in parentheses and may hold anything; the fields after it are fixed.
                    fields = file.read(1024).rpartition(b")")[2].split()
            except OSError:
                continue
            now_s, ticks = time.monotonic(), int(fields[11]) + int(fields[12])
            last = self._last.get(unit)
            percent = None
            if last is not None and last[0] == pid and now_s > last[1]:
                percent = (ticks - last[2]) / _TICKS_PER_S / (now_s - last[1]) * 100
            usage[unit] = (percent, int(fields[21]) * _PAGE_BYTES)
            self._last[unit] = (pid, now_s, ticks)
        return usage


def tree(pid: int) -> list[int]:
    """The process and its living descendants."""
    found, todo = [], [pid]
    while todo:
        parent = todo.pop()
        found.append(parent)
        try:
            threads = os.listdir(f"/proc/{parent}/task")
        except OSError:
            continue
        for thread in threads:
            try:
                with open(f"/proc/{parent}/task/{thread}/children", encoding="ascii") as file:
                    todo += [int(child) for child in file.read().split()]
            except OSError:
                continue  # it ended meanwhile
    return found


def wrong_masks(pid: int, cpus: tuple[int, ...]) -> str:
    """The threads of a process tree whose CPU mask is not exactly `cpus`, as text; empty when all obey.

    CPUs the machine does not have cannot be in a mask: they are left out of the comparison.
    """
    promised = set(cpus) & set(range(os.cpu_count() or 1))
    wrong = []
    for process in tree(pid):
        try:
            threads = os.listdir(f"/proc/{process}/task")
        except OSError:
            continue
        for thread in threads:
            try:
                mask = os.sched_getaffinity(int(thread))
            except OSError:
                continue  # it ended meanwhile
            if mask != promised:
                wrong.append(f"thread {thread} on {sorted(mask)}")
    return ", ".join(wrong)
