"""What the figures were measured on."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import zmq


def describe() -> dict[str, str]:
    """Name to value, in the order in which they are told."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "CPU": _cpu_model(),
        "CPUs": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "pyzmq / libzmq": f"{zmq.__version__} / {zmq.zmq_version()}",
        "uvloop": version("uvloop"),
        "msgpack": version("msgpack"),
        "load at the start": f"{os.getloadavg()[0]:.2f}",
    }


class Placement(NamedTuple):
    """Where the client, with the backend behind it, and where what is measured run."""

    name: str
    client: frozenset[int]
    server: frozenset[int]


def placements() -> list[Placement]:
    """Everything on one CPU, and client and server on two.

    Left to the kernel, chance decides for a whole run whether both ends of a round trip share a CPU: a factor
    of two.
    """
    *_, last = cpus = sorted(os.sched_getaffinity(0))
    one = Placement("one CPU", frozenset({last}), frozenset({last}))
    return [one] if len(cpus) == 1 else [one, Placement("two CPUs", frozenset({cpus[-2]}), frozenset({last}))]


@contextmanager
def on(cpus: frozenset[int]) -> Iterator[None]:
    """Every thread of this process, and what it starts meanwhile, on these CPUs."""
    former = os.sched_getaffinity(0)
    _confine(cpus)
    try:
        yield
    finally:
        _confine(former)


def move(pid: int, cpus: frozenset[int]) -> None:
    """Every thread of a process on these CPUs: of a daemon that runs, so that its units may have others."""
    _confine(cpus, str(pid))


def _confine(cpus: Iterable[int], pid: str = "self") -> None:
    # Affinity is a thread's: the client's libzmq thread exists already and must come along.
    for task in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(task), cpus)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
