"""A unit: one supervised process, its state table and what is true of it in each state."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from mgmt.settings import BackendSettings, ModelSettings, parse_cpus


class State(StrEnum):
    """The state a user sees; the names are supervisord's, which their scripts know."""

    STOPPED = "STOPPED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    BACKOFF = "BACKOFF"
    STOPPING = "STOPPING"
    EXITED = "EXITED"
    FATAL = "FATAL"


AT_REST = frozenset({State.STOPPED, State.EXITED, State.FATAL})

# THE table: (state, trigger) -> the states it may lead to. docs/protocol.md draws it.
TRANSITIONS: dict[tuple[State, str], frozenset[State]] = {
    (State.STOPPED, "start"): frozenset({State.STARTING}),
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
    backend: BackendSettings

    @cached_property
    def cpus(self) -> tuple[int, ...]:
        """CPUs it is pinned to, ascending; empty: not pinned. A model's own list outranks its backend's."""
        cpus = self.model.cpus or self.backend.cpus
        return parse_cpus(cpus) if cpus else ()


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
    cpu_percent: float | None = None
    memory_bytes: int | None = None

    @property
    def ready(self) -> bool:
        return self.state is State.RUNNING

    def move(self, trigger: str, to: State, reason: str) -> State:
        """Step along the table and return the former state; IllegalTransition changes nothing."""
        if to not in TRANSITIONS.get((self.state, trigger), ()):
            raise IllegalTransition(f"unit {self.spec.name}: {self.state} --{trigger}--> {to}")
        was, self.state, self.reason = self.state, to, reason
        if to is State.STARTING:
            self.incarnation += 1
        return was
