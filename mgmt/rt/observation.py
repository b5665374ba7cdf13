"""What the kernel says of a process of a task, and how mgmt-observer's memory of one is read.

A mechanism watches processes by their numbers; there are three, of which `mgmt.shell.observer` takes the best
that works here: `tracing` (eBPF), `counters` (perf) and, again in `counters`, the accounts in /proc. All of their
methods may wait for the kernel, and belong to one thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from . import _task
from .segment import Histogram

SLICES = 256
_COUNTERS = (
    "activations", "voluntary", "involuntary", "migrations", "cpu_ns", "waited_ns", "threads", "lost", "n_slices",
)  # fmt: skip
_HISTOGRAMS = ("wakeup", "on_cpu", "response")
_HISTOGRAM_WORDS = 2 + _task.BUCKETS
_SLICE_WORDS = 4
_SLICES_AT = len(_COUNTERS) + len(_HISTOGRAMS) * _HISTOGRAM_WORDS
TASK_BYTES = 8 * (_SLICES_AT + SLICES * _SLICE_WORDS)  # of a struct observer_task


class ObserverError(Exception):
    """A mechanism that does not work here, or works no longer; the text says why and what would help."""


@dataclass(frozen=True, slots=True)
class Slice:
    """One stay of a thread on a CPU, in CLOCK_MONOTONIC ns; `slept`: it ended by going to sleep."""

    start_ns: int
    end_ns: int
    thread: int
    cpu: int
    slept: bool


@dataclass(frozen=True, slots=True)
class Observation:
    """Of all threads of a process, since it is watched. None: the mechanism cannot tell.

    An activation is from the waking of a thread to its going to sleep: `wakeup` is from waking to running,
    `on_cpu` the time on CPUs in one, `response` its whole length. `switches` away from a CPU, of them
    `involuntary`: preempted or yielded. `waited_ns`: ready to run, without a CPU. `lost`: switches, or threads,
    that could not be followed.
    """

    threads: int
    switches: int
    involuntary: int
    cpu_ns: int
    waited_ns: int | None = None
    migrations: int | None = None
    activations: int | None = None
    lost: int = 0
    wakeup: Histogram | None = None
    on_cpu: Histogram | None = None
    response: Histogram | None = None
    slices: Sequence[Slice] = field(default=(), repr=False)


class Mechanism(Protocol):
    """One way to observe. `grain`: what it cannot tell here, in words; empty when there is nothing to say."""

    name: str
    grain: str

    def watch(self, pid: int, start_ticks: int) -> None:
        """From now on, anew when it was already. ProcessLookupError when it is not the process that started at
        `start_ticks`, field 22 of /proc/PID/stat; ObserverError when the mechanism is gone."""

    def unwatch(self, pid: int) -> None:
        """Forget it; unknown ones are passed over."""

    def read(self, pid: int) -> Observation | None:
        """What is known, also of one that has ended; None when it is not watched."""

    def close(self) -> None:
        """Leave nothing in the kernel."""


def decode(first: bytes, second: bytes) -> Observation:
    """Of two copies of a struct observer_task, one made after the other: a slice being written differs in them."""
    words = memoryview(first).cast("Q")
    numbers = dict(zip(_COUNTERS, words[: len(_COUNTERS)], strict=True))
    histograms = {}
    for i, name in enumerate(_HISTOGRAMS):
        at = len(_COUNTERS) + i * _HISTOGRAM_WORDS
        histograms[name] = Histogram(words[at], words[at + 1], words[at + 2 : at + _HISTOGRAM_WORDS].tolist())
    return Observation(
        threads=numbers["threads"],
        switches=numbers["voluntary"] + numbers["involuntary"],
        involuntary=numbers["involuntary"],
        cpu_ns=numbers["cpu_ns"],
        waited_ns=numbers["waited_ns"],
        migrations=numbers["migrations"],
        activations=numbers["activations"],
        lost=numbers["lost"],
        slices=_slices(words[_SLICES_AT:], memoryview(second).cast("Q")[_SLICES_AT:]),
        **histograms,
    )


def _slices(first: memoryview[int], second: memoryview[int]) -> list[Slice]:
    """Oldest first."""
    found = []
    for i in range(0, len(first), _SLICE_WORDS):
        number, start_ns, end_ns, where = first[i : i + _SLICE_WORDS]
        if number and first[i : i + _SLICE_WORDS] == second[i : i + _SLICE_WORDS] and start_ns <= end_ns:
            one = Slice(start_ns, end_ns, where & 0xFFFFFFFF, where >> 32 & 0x7FFFFFFF, bool(where >> 63))
            found.append((number, one))
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]
