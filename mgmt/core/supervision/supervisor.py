"""The supervisor: starts, watches, restarts and stops units. It knows nothing of models or clients.

Every change of state is appended to `changes`; the step function hands these up to the slices above.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import NamedTuple

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.event import Now
from mgmt.core.supervision.restart import after_end
from mgmt.core.supervision.unit import AT_REST, Exit, State, Unit, UnitSpec


class Change(NamedTuple):
    """A unit went from `was` to `state`; it may have gone further in the same step."""

    unit: Unit
    was: State
    state: State
    reason: str
    incarnation: int


class Supervisor:
    """The units and what is done with them; `secret` keys the tokens that prove a backend is ours."""

    def __init__(self, secret: bytes, control_endpoint: str, socket_prefix: str) -> None:
        self.units: dict[str, Unit] = {}
        self.changes: list[Change] = []
        self.version = 0  # grows with every visible change; caches key on it
        self._secret = secret
        self._control_endpoint = control_endpoint
        self._socket_prefix = socket_prefix
        self._sockets_named = 0

    # ---- what the slices above ask for ----

    def add(self, spec: UnitSpec) -> Unit:
        """Register a unit at rest; the same name again replaces the specification of a unit at rest."""
        unit = self.units.get(spec.name)
        if unit is None:
            unit = self.units[spec.name] = Unit(spec)
        elif unit.state in AT_REST:
            unit.spec = spec
        return unit

    def start(self, now: Now, unit: Unit, out: list[fx.Effect], config_path: str | None = None) -> None:
        """Start a unit at rest, or one that is waiting to be started again; otherwise nothing to do."""
        if unit.state in (State.STARTING, State.RUNNING):
            return
        if unit.state is State.STOPPING:
            unit.start_when_empty, unit.config_path = True, config_path
            return
        if unit.state in AT_REST:
            if unit.has_process:
                # The leader is gone but its tree is still being killed: start as soon as it is empty.
                self._move(unit, "stop", State.STOPPING, "the former process's descendants are being ended")
                unit.start_when_empty, unit.config_path = True, config_path
                return
            unit.restarts, unit.proven, unit.config_path = 0, False, config_path
            unit.failures_ns.clear()
            unit.endpoint = self._new_endpoint()
        else:
            out.append(fx.CancelTimer(("retry", unit.spec.name)))
            unit.retry_ns = None
            if unit.has_process:
                unit.start_when_empty = True
                return
        self._spawn(now, unit, "start", out)

    def stop(self, now: Now, unit: Unit, out: list[fx.Effect], reason: str) -> None:
        """Ask the unit to end and, after its grace, end the whole tree; the unit is STOPPED when it is empty."""
        unit.start_when_empty = False
        if unit.state is State.STOPPED or unit.state is State.STOPPING:
            return
        name = unit.spec.name
        if unit.state is State.BACKOFF:
            out.append(fx.CancelTimer(("retry", name)))
            unit.retry_ns = None
        if not unit.has_process:
            self._move(unit, "stop", State.STOPPED, reason)
            return
        out.append(fx.CancelTimer(("ready", name)))
        self._move(unit, "stop", State.STOPPING, reason)
        if unit.leader_gone:
            out.append(fx.KillUnit(name, unit.incarnation))
            return
        out.append(fx.SignalUnit(name, unit.incarnation, unit.spec.backend.stop_signal))
        out.append(fx.SetTimer(("grace", name), now.mono_ns + int(unit.spec.backend.grace_s * 1e9)))

    def kill(self, unit: Unit, out: list[fx.Effect], verdict: str = "") -> None:
        """End the whole tree now, without a grace; what follows depends on the state the unit is in."""
        if unit.has_process:
            unit.verdict = verdict
            out.append(fx.KillUnit(unit.spec.name, unit.incarnation))

    def token(self, unit: Unit) -> str:
        """The secret of this incarnation, which its process must show when it says hello."""
        text = f"{unit.spec.name}:{unit.incarnation}".encode()
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()[:32]

    def is_present(self, name: str, incarnation: int, token: str) -> Unit | None:
        """The unit, when the claim comes from its present process."""
        unit = self.units.get(name)
        if unit is None or unit.incarnation != incarnation or not unit.has_process:
            return None
        return unit if hmac.compare_digest(self.token(unit).encode(), token.encode()) else None

    # ---- what happened ----

    def on_started(self, now: Now, event: ev.Started, out: list[fx.Effect]) -> None:
        unit = self._of(event.unit, event.incarnation)
        if unit is None:
            return
        unit.pid, unit.start_ticks = event.pid, event.start_ticks
        unit.started_ns, unit.started_real_s = now.mono_ns, now.real_s
        self.version += 1
        if unit.state is State.STARTING and unit.spec.backend.kind == "symphony":
            out.append(fx.ProbeHandshake(event.unit, event.incarnation, unit.endpoint))
        if unit.early is not None:
            self.on_ready(unit, unit.early, out)

    def on_ready(self, unit: Unit, protocols: tuple[str, ...], out: list[fx.Effect]) -> None:
        """The present process said it is ready; repeated words of a running one only refresh its protocols."""
        pid = unit.pid
        if unit.state is State.STARTING and pid is None:
            # Its word overtook the shim's, which comes on another socket. Who waits for it is told its pid.
            unit.early = protocols
        elif unit.state is State.STARTING and pid is not None and not unit.verdict:
            name = unit.spec.name
            unit.protocols, unit.proven = protocols, True
            out.append(fx.CancelTimer(("ready", name)))
            self._move(unit, "ready", State.RUNNING, "ready")
            out.append(fx.Inspect(name, unit.incarnation, pid, unit.spec.cpus, unit.endpoint))
        elif unit.state is State.RUNNING:
            unit.protocols = protocols
            self.version += 1

    def on_spawn_failed(self, now: Now, event: ev.SpawnFailed, out: list[fx.Effect]) -> None:
        unit = self._of(event.unit, event.incarnation)
        if unit is None:
            return
        exit = Exit(None, None, event.reason, now.real_s)
        self._ended(now, unit, exit, success=False, out=out)
        self._empty(now, unit, out)

    def on_exited(self, now: Now, event: ev.Exited, out: list[fx.Effect]) -> None:
        unit = self._of(event.unit, event.incarnation)
        if unit is None or unit.leader_gone:
            return
        how = f"exit status {event.code}" if event.signal is None else f"killed by signal {event.signal}"
        if unit.verdict:
            how = f"{unit.verdict}; {how}"
        exit = Exit(event.code, event.signal, how, now.real_s, event.tail)
        success = (
            event.code is not None and event.code in unit.spec.backend.success_exit_codes and not unit.verdict
        )
        self._ended(now, unit, exit, success, out)
        if event.left:
            # Whatever the leader left behind is not ours to keep: a new start must find an empty tree.
            out.append(fx.KillUnit(event.unit, event.incarnation))

    def on_emptied(self, now: Now, event: ev.Emptied, out: list[fx.Effect]) -> None:
        unit = self._of(event.unit, event.incarnation)
        if unit is not None:
            self._empty(now, unit, out)

    def on_timer(self, now: Now, what: str, name: str, out: list[fx.Effect]) -> None:
        unit = self.units.get(name)
        if unit is None:
            return
        if what == "ready" and unit.state is State.STARTING:
            self.kill(unit, out, f"not ready within {unit.spec.backend.ready_timeout_s:g} s")
        elif what == "grace" and unit.state is State.STOPPING:
            self.kill(
                unit,
                out,
                f"still there {unit.spec.backend.grace_s:g} s after SIG{unit.spec.backend.stop_signal}",
            )
        elif what == "retry" and unit.state is State.BACKOFF:
            unit.retry_ns = None
            if unit.has_process:
                unit.start_when_empty = True
            else:
                self._spawn(now, unit, "retry", out)

    def on_sampled(self, event: ev.Sampled) -> None:
        for name, (cpu_percent, memory_bytes) in event.usage.items():
            unit = self.units.get(name)
            if unit is not None and unit.has_process:
                unit.cpu_percent, unit.memory_bytes = cpu_percent, memory_bytes
        self.version += 1

    # ---- the steps they share ----

    def _of(self, name: str, incarnation: int) -> Unit | None:
        """The unit if the event is about its present process; late news of an earlier one is ignored."""
        unit = self.units.get(name)
        return unit if unit is not None and unit.has_process and unit.incarnation == incarnation else None

    def _move(self, unit: Unit, trigger: str, to: State, reason: str) -> None:
        was = unit.move(trigger, to, reason)
        self.changes.append(Change(unit, was, to, reason, unit.incarnation))
        self.version += 1

    def _spawn(self, now: Now, unit: Unit, trigger: str, out: list[fx.Effect]) -> None:
        spec = unit.spec
        if trigger == "retry" or unit.state is State.BACKOFF:
            unit.restarts += 1
        self._move(unit, trigger, State.STARTING, "waiting for ready")
        unit.has_process, unit.leader_gone, unit.start_when_empty = True, False, False
        unit.pid, unit.start_ticks, unit.verdict, unit.retry_ns = None, 0, "", None
        unit.protocols, unit.early, unit.cpu_percent, unit.memory_bytes = (), None, None, None
        env = {
            "MGMT_ENDPOINT": self._control_endpoint,
            "MGMT_SERVE": unit.endpoint,
            "MGMT_UNIT": spec.name,
            "MGMT_INCARNATION": str(unit.incarnation),
            "MGMT_TOKEN": self.token(unit),
            "MGMT_MODEL": spec.model.name,
            "MGMT_FULLNAME": spec.model.fullname,
        }
        out.append(
            fx.Spawn(
                unit=spec.name,
                backend=spec.backend,
                model=spec.model,
                cpus=spec.cpus,
                incarnation=unit.incarnation,
                endpoint=unit.endpoint,
                config_path=unit.config_path,
                env=env,
            )
        )
        out.append(fx.SetTimer(("ready", spec.name), now.mono_ns + int(spec.backend.ready_timeout_s * 1e9)))

    def _ended(self, now: Now, unit: Unit, exit: Exit, success: bool, out: list[fx.Effect]) -> None:
        name = unit.spec.name
        unit.leader_gone, unit.last_exit, unit.pid = True, exit, None
        self.version += 1
        out.append(fx.CancelTimer(("ready", name)))
        out.append(fx.RemoveEndpoint(unit.endpoint))
        if unit.state is State.STOPPING:
            out.append(fx.CancelTimer(("grace", name)))
            return
        to, delay_ns, why = after_end(unit, now.mono_ns, success)
        if delay_ns is not None:
            unit.retry_ns = now.mono_ns + delay_ns
            out.append(fx.SetTimer(("retry", name), unit.retry_ns))
        reason = f"{exit.reason}; {why}" if exit.executed or delay_ns is not None else exit.reason
        self._move(unit, "ended", to, reason)

    def _empty(self, now: Now, unit: Unit, out: list[fx.Effect]) -> None:
        unit.has_process, unit.pid, unit.cpu_percent, unit.memory_bytes = False, None, None, None
        self.version += 1
        if unit.state is State.STOPPING:
            self._move(unit, "empty", State.STOPPED, "stopped")
            if unit.start_when_empty:
                self.start(now, unit, out, unit.config_path)
        elif unit.start_when_empty:
            # In BACKOFF: its delay passed, or somebody would not wait for it, while the tree was being killed.
            self._spawn(now, unit, "retry", out)

    def _new_endpoint(self) -> str:
        """A socket name nobody has: an odd multiplier walks all 2^32 names before one repeats."""
        self._sockets_named += 1
        offset = int.from_bytes(self._secret[:4], "big")
        return f"ipc://{self._socket_prefix}{(self._sockets_named * 0x9E3779B1 + offset) % 2**32:08x}"
