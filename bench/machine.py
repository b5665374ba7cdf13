"""What the figures were measured on."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

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


@contextmanager
def one_cpu() -> Iterator[None]:
    """Everything started meanwhile, and every thread of this process, on the last of our CPUs."""
    allowed = os.sched_getaffinity(0)
    _confine({max(allowed)})
    try:
        yield
    finally:
        _confine(allowed)


def _confine(cpus: set[int]) -> None:
    # Affinity is a thread's: the client's libzmq thread exists already and must come along.
    for task in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(task), cpus)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
