"""What is to be scheduled and where: nodes, periodic tasks and chains of them. Times in us, as integers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mgmt.protocol import defaults

Policy = Literal["fifo", "rr", "deadline", "normal"]
POLICIES: tuple[Policy, ...] = ("fifo", "rr", "deadline", "normal")
Release = Literal["self", "signal"]
Overrun = Literal["log", "skip", "kill", "restart"]
LOCAL = defaults.LOCAL_NODE
"""The node that is this machine."""


@dataclass(frozen=True, slots=True)
class Node:
    """A machine: the ids of the CPUs that take tasks, and what the tasks on it may have of memory.

    `reserve_ppm`: what stays free of each CPU, in millionths of it.
    """

    name: str
    cpus: tuple[int, ...]
    memory_mb: int = 4096
    reserve_ppm: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """A periodic task: a job every `period_us`, released `release_us` after the common start and at most
    `jitter_us` later than that, works for at most `wcet_us` and is due `deadline_us` after its release.

    `priority`: 1 to 99 for fifo and rr, the higher the more urgent. `node`: "" for any. `cpus`: those it may
    run on, None for all. `max_dmiss`: deadlines it may miss before that is a fault.

    With a `command` it is a process that is run here. It waits for its releases itself, through `mgmt.rt`, or gets
    a `signal` at each. `overrun`: what follows when it is late; see `mgmt_rt.h`.
    """

    name: str
    period_us: int
    wcet_us: int
    deadline_us: int
    priority: int = 0
    policy: Policy = "fifo"
    release_us: int = 0
    jitter_us: int = 0
    node: str = ""
    cpus: tuple[int, ...] | None = None
    memory_mb: int = 0
    max_dmiss: int = 0
    command: tuple[str, ...] = ()
    release: Release = "self"
    overrun: Overrun = "log"
    memory_locked: bool = False


@dataclass(frozen=True, slots=True)
class Chain:
    """Tasks, by name, that hand data on one after the other; each reads what is there when it starts.

    `deadline_us`: from the first input to the last output; None: only reported.
    """

    name: str
    tasks: tuple[str, ...]
    deadline_us: int | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """What is admitted and removed as one. Without `nodes` the caller says where it may go."""

    name: str
    tasks: tuple[Task, ...]
    nodes: tuple[Node, ...] = ()
    chains: tuple[Chain, ...] = ()


def mask_of(cpus: Iterable[int] | None) -> int | None:
    """The bit mask of CPU ids as the kernel takes it; None stays None: all."""
    if cpus is None:
        return None
    mask = 0
    for cpu in cpus:
        mask |= 1 << cpu
    return mask
