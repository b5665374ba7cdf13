"""A unit: one supervised process, its state table and what is true of it in each state."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from mgmt.core.placement import Demand, Place
from mgmt.core.supervision.dependencies import Needs
from mgmt.core.supervision.probes import ProbeState
from mgmt.protocol import defaults
from mgmt.settings import ModelSettings, NodeTagSettings, RunSettings, UnitSettings, parse_cpus


class State(StrEnum):
    """The state a user sees; the names are supervisord's, which their scripts know."""

    STOPPED = "STOPPED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    BACKOFF = "BACKOFF"
    STOPPING = "STOPPING"
    EXITED = "EXITED"
    FATAL = "FATAL"


NOWHERE = Place()
LOCAL = defaults.LOCAL_NODE
REALTIME = ("fifo", "rr", "deadline")
AT_REST = frozenset({State.STOPPED, State.EXITED, State.FATAL})

# THE table: (state, trigger) -> the states it may lead to. docs/protocol.md draws it.
TRANSITIONS: dict[tuple[State, str], frozenset[State]] = {
    (State.STOPPED, "start"): frozenset({State.STARTING}),
    (State.STOPPED, "refuse"): frozenset({State.FATAL}),
    (State.EXITED, "refuse"): frozenset({State.FATAL}),
    (State.FATAL, "refuse"): frozenset({State.FATAL}),
    (State.EXITED, "start"): frozenset({State.STARTING}),
    (State.FATAL, "start"): frozenset({State.STARTING}),
    (State.BACKOFF, "start"): frozenset({State.STARTING}),
    (State.BACKOFF, "retry"): frozenset({State.STARTING}),
    (State.STARTING, "ready"): frozenset({State.RUNNING}),
    (State.STARTING, "ended"): frozenset({State.BACKOFF, State.EXITED, State.FATAL}),
    (State.RUNNING, "ended"): frozenset({State.BACKOFF, State.EXITED, State.FATAL}),
    (State.STARTING, "stop"): frozenset({State.STOPPING}),
    (State.RUNNING, "stop"): frozenset({State.STOPPING}),
    (State.BACKOFF, "stop"): frozenset({State.STOPPED, State.STOPPING}),
    (State.EXITED, "stop"): frozenset({State.STOPPED, State.STOPPING}),
    (State.FATAL, "stop"): frozenset({State.STOPPED, State.STOPPING}),
    (State.STOPPING, "empty"): frozenset({State.STOPPED}),
}


class IllegalTransition(Exception):
    """A bug: the table does not know this step. Nothing was changed."""


@dataclass(frozen=True)
class UnitSpec:
    """What a unit is told to be: a replica of a model, run the way its backend says."""

    name: str
    model: ModelSettings
    backend: RunSettings
    admitted: bool = False  # a periodic task: what it demands is known, and promised to it

    @property
    def oneshot(self) -> bool:
        """Whether its end with success is what it is for."""
        return isinstance(self.backend, UnitSettings) and self.backend.oneshot

    @property
    def autostart(self) -> bool:
        return self.backend.autostart if self.model.autostart is None else self.model.autostart

    @property
    def node(self) -> str | NodeTagSettings | None:
        """The node that shall run it, by name or by tags; None: this machine. A model's own word outranks."""
        asked = self.model.node or self.backend.node
        return None if asked == LOCAL else asked

    @cached_property
    def needs(self) -> Needs:
        return Needs(self.backend.requires, self.backend.wants, self.backend.after)

    @cached_property
    def demand(self) -> Demand:
        """What it asks of this machine. A model's own words outrank its backend's."""
        if self.node is not None:
            return Demand(self.name)  # its own node gives it a place
        named = self.model.cpus or self.backend.cpus
        asked = self.model.placement or self.backend.placement
        gpus = asked.gpus
        return Demand(
            unit=self.name,
            cpus=parse_cpus(named) if named else (),
            count=asked.cpus or 0,
            exclusive=asked.exclusive,
            layout=asked.layout,
            node=asked.numa_node,
            gpus=gpus if isinstance(gpus, tuple) else (),
            gpu_count=gpus if isinstance(gpus, int) else 0,
            memory_bytes=(asked.memory_mb or 0) << 20,
            realtime=self.backend.scheduling.policy in REALTIME and not self.admitted,
        )


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended; `code` or `signal`, or neither when it was never executed."""

    code: int | None
    signal: int | None
    reason: str
    at: float
    tail: str = ""

    @property
    def executed(self) -> bool:
        """Whether there was a process at all."""
        return self.code is not None or self.signal is not None


@dataclass(slots=True)
class Unit:
    """A unit's present. `has_process` is true from the spawn until its whole tree is gone."""

    spec: UnitSpec
    state: State = State.STOPPED
    reason: str = "never started"
    incarnation: int = 0
    has_process: bool = False
    leader_gone: bool = False
    pid: int | None = None
    start_ticks: int = 0
    started_ns: int = 0
    started_real_s: float = 0.0
    endpoint: str = ""
    config_path: str | None = None
    protocols: tuple[str, ...] = ()
    early: tuple[str, ...] | None = None  # protocols of a process that was ready before we heard that it runs
    proven: bool = False  # was ready since it was last told to start
    restarts: int = 0
    failures_ns: deque[int] = field(default_factory=deque)
    last_exit: Exit | None = None
    retry_ns: int | None = None
    verdict: str = ""  # why the supervisor itself is ending the process
    start_when_empty: bool = False
    wanted: bool = False  # was told to be up, and not told to stop since
    place: Place = NOWHERE  # what it holds of the machine, from its start until it is at rest
    waiting_for: str = ""  # the dependency that keeps a wanted unit from being started
    stop_reason: str = ""  # told to stop, but a dependant must be gone first
    sought: bool = False  # a former daemon's process that was not found yet
    hook: str = ""  # the hook that is running; the life of the unit waits for it
    probes: dict[str, ProbeState] = field(default_factory=dict)
    node: str = ""  # where it was put; empty: this machine. Its process has to do with that one's agent alone
    heard_ns: int = 0  # the last word of a backend that tells its liveness
    cpu_percent: float | None = None
    memory_bytes: int | None = None

    @property
    def serves(self) -> bool:
        """Whether it answers requests on its endpoint; a plain unit has nobody there."""
        return self.spec.backend.kind != "plain"

    @property
    def ready(self) -> bool:
        """Up, found, and not taken out of routing by its ready probe."""
        probe = self.probes.get("ready")
        passing = probe is None or probe.passing is True
        return self.state is State.RUNNING and not self.sought and passing

    @property
    def is_completed(self) -> bool:
        """It ended by itself, and well."""
        code = self.last_exit.code if self.last_exit is not None else None
        ended = self.state is State.EXITED and not self.waiting_for
        return ended and code is not None and code in self.spec.backend.success_exit_codes

    @property
    def is_up(self) -> bool:
        """Ready and not about to end; of a one-shot: done with what it is for."""
        if self.spec.oneshot:
            return self.is_completed
        return self.ready and not self.stop_reason

    @property
    def is_down_soon(self) -> bool:
        """At rest, or on its way there for good: told to stop and not to start again."""
        ends = self.state is State.STOPPING or bool(self.stop_reason)
        return self.state in AT_REST or (ends and not self.start_when_empty)

    def move(self, trigger: str, to: State, reason: str) -> State:
        """Step along the table and return the former state; IllegalTransition changes nothing."""
        if to not in TRANSITIONS.get((self.state, trigger), ()):
            raise IllegalTransition(f"unit {self.spec.name}: {self.state} --{trigger}--> {to}")
        was, self.state, self.reason = self.state, to, reason
        if to is State.STARTING:
            self.incarnation += 1
        return was
