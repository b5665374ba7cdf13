"""The supervisor: starts, watches, restarts and stops units. It knows nothing of models or clients.

Every change of state is appended to `changes`; the step function hands these up to the slices above. Whatever
must survive this daemon is named in `dirty`, and is committed before the effects of its step are carried out.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import NamedTuple

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.event import Now
from mgmt.core.placement import Ledger, Place, memory_nodes
from mgmt.core.supervision.health import Health, startup_kind
from mgmt.core.supervision.restart import after_end
from mgmt.core.supervision.unit import AT_REST, Exit, State, Unit, UnitSpec
from mgmt.protocol.errors import MgmtError


class Change(NamedTuple):
    """A unit went from `was` to `state`; it may have gone further in the same step.

    RUNNING to RUNNING: its readiness changed.
    """

    unit: Unit
    was: State
    state: State
    reason: str
    incarnation: int


class Supervisor:
    """The units and what is done with them; `secret` keys the tokens that prove a backend is ours."""

    def __init__(
        self, secret: bytes, epoch: int, control_endpoint: str, socket_prefix: str, ledger: Ledger
    ) -> None:
        self.units: dict[str, Unit] = {}
        self.changes: list[Change] = []
        self.dirty: set[str] = set()
        self.version = 0  # grows with every visible change; caches key on it
        self.ledger = ledger
        self.health = Health(self)
        self.hooks: set[tuple[str, int, str]] = set()  # all that run, those no life waits for included
        self._secret = secret
        self._control_endpoint = control_endpoint
        self._socket_prefix = socket_prefix
        self._former_endpoints: set[str] = set()  # of units that are from a daemon before this
        self._sockets_named = epoch & 0xFFFFFFFF  # another stretch of the names than the last daemon's

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
        """Start a unit at rest, or one that is waiting to be started again; otherwise nothing to do.

        MgmtError `no-capacity` when its place is held by others; nothing is changed then. One whose tree is still
        being ended is left to `Ordering`, which starts it when it is empty.
        """
        if unit.state in (State.STARTING, State.RUNNING):
            return
        if unit.state is State.STOPPING:
            unit.start_when_empty, unit.config_path, unit.wanted = True, config_path, True
            self.touch(unit)
            return
        if unit.state in AT_REST:
            if not unit.has_process:
                unit.place = self.ledger.acquire(unit.spec.name)
            unit.wanted, unit.waiting_for = True, ""
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
                self.touch(unit)
                return
        self._begin(now, unit, "start", out)

    def refuse(self, unit: Unit, reason: str) -> None:
        """A unit at rest that cannot be started: its dependency failed, or its place is taken."""
        unit.waiting_for = ""
        self._move(unit, "refuse", State.FATAL, reason)
        self.release(unit)

    def stop(self, now: Now, unit: Unit, out: list[fx.Effect], reason: str, wanted: bool = False) -> None:
        """Ask the unit to end and, after its grace, end the whole tree; the unit is STOPPED when it is empty.

        `wanted` keeps it among the units that the next daemon starts.
        """
        if unit.waiting_for and unit.state is State.STOPPED:
            unit.reason = reason
            self.changes.append(Change(unit, unit.state, unit.state, reason, unit.incarnation))
        unit.start_when_empty, unit.waiting_for, unit.stop_reason = False, "", ""
        unit.wanted = wanted and unit.wanted
        self.touch(unit)
        if unit.state is State.STOPPED or unit.state is State.STOPPING:
            return
        name = unit.spec.name
        if unit.state is State.BACKOFF:
            out.append(fx.CancelTimer(("retry", name)))
            unit.retry_ns = None
        if unit.hook == "pre_start":
            self._move(unit, "stop", State.STOPPING, reason)
            self._cancel_hook(unit, out)
            return
        if not unit.has_process:
            self._move(unit, "stop", State.STOPPED, reason)
            self.release(unit)
            return
        out.append(fx.CancelTimer(("ready", name)))
        self.health.forget(unit, out)
        was = unit.state
        self._move(unit, "stop", State.STOPPING, reason)
        self._end(now, unit, was, out)

    def reset_failed(self, unit: Unit, out: list[fx.Effect]) -> None:
        """Forget failures: a FATAL or EXITED unit is STOPPED again, one in BACKOFF starts its count afresh."""
        unit.failures_ns.clear()
        unit.restarts = 0
        if unit.state in (State.FATAL, State.EXITED) and not unit.has_process:
            self._move(unit, "stop", State.STOPPED, "failures were reset")
            unit.wanted = bool(unit.waiting_for)
        self.touch(unit)

    def kill(self, unit: Unit, out: list[fx.Effect], verdict: str = "") -> None:
        """End the whole tree now, without a grace; what follows depends on the state the unit is in."""
        self._cancel_hook(unit, out)
        if unit.has_process:
            unit.verdict = verdict
            self.touch(unit)
            out.append(fx.KillUnit(unit.spec.name, unit.incarnation))

    def refresh(self, now: Now, unit: Unit, out: list[fx.Effect]) -> None:
        """The unit's specification was replaced: what can be changed while it is up is changed."""
        self.health.refresh(now, unit, out)

    def obstacle(self, unit: Unit) -> str:
        """What a unit at rest that could be started otherwise has to wait for; empty when there is nothing."""
        return ""

    def unreachable(self, unit: Unit) -> MgmtError | None:
        """Why nobody should wait for the obstacle to go; None when it may go soon, or there is none."""
        return None

    def forget(self, name: str, out: list[fx.Effect]) -> None:
        """Nothing is left of a unit that no configuration has."""
        del self.units[name]
        self.dirty.add(name)

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

    def release(self, unit: Unit) -> None:
        """Give back the place of a unit that has no process."""
        if not unit.has_process:
            self.ledger.release(unit.spec.name)
            unit.place = Place()

    def is_busy(self) -> bool:
        """Whether a process or a hook of any unit exists."""
        return bool(self.hooks) or any(unit.has_process for unit in self.units.values())

    def touch(self, unit: Unit) -> None:
        """Something of the unit changed that is seen, or must be known to the next daemon."""
        self.version += 1
        self.dirty.add(unit.spec.name)

    # ---- another daemon's units ----

    def restore(self, now: Now, unit: Unit, out: list[fx.Effect], declared: bool = True) -> None:
        """Take over a unit from the store: its timers are set again, its process is looked for.

        `declared` is false when no configuration has it any more: then nothing of it is started again.
        """
        name = unit.spec.name
        self.units[name] = unit
        self._former_endpoints.add(unit.endpoint)
        self.version += 1
        if unit.has_process or unit.state not in AT_REST:
            self.ledger.held[name] = unit.place
        self.health.reset(unit)
        if unit.has_process:
            unit.sought = True
            out.append(fx.Adopt(name, unit.incarnation))
        backend = unit.spec.backend
        if unit.state is State.STARTING and unit.has_process:
            at_ns = now.mono_ns + int(backend.ready_timeout_s * 1e9)
            out.append(fx.SetTimer(("ready", name), at_ns))
        elif unit.state is State.STARTING and declared:
            self._prepare(now, unit, out)  # it died in its pre_start hook, which runs again
        elif unit.state is State.STARTING:
            self._move(unit, "stop", State.STOPPING, "the configuration no longer has it")
            self._empty(now, unit, out)
        elif unit.state is State.BACKOFF and unit.retry_ns is not None:
            out.append(fx.SetTimer(("retry", name), unit.retry_ns))
        elif unit.state is State.STOPPING and unit.has_process and not unit.leader_gone:
            # It is asked again when it is adopted; one that is not even executed yet has this time.
            out.append(fx.SetTimer(("grace", name), now.mono_ns + int(backend.grace_s * 1e9)))
        elif unit.state is State.STOPPING and not unit.has_process:
            self._empty(now, unit, out)

    def on_adopted(self, now: Now, event: ev.Adopted, out: list[fx.Effect]) -> None:
        unit = self._of(event.unit, event.incarnation)
        if unit is None:
            return
        if not unit.leader_gone:
            if unit.pid is None:
                unit.started_ns, unit.started_real_s = now.mono_ns, now.real_s
            unit.pid, unit.start_ticks = event.pid, event.start_ticks
            self.touch(unit)
        if unit.verdict or unit.leader_gone:
            out.append(fx.KillUnit(event.unit, event.incarnation))
        elif unit.state is State.STOPPING:
            self._ask_to_end(now, unit, out)
        elif unit.state is State.STARTING:
            self.watch_start(now, unit, out)
        elif unit.state is State.RUNNING:
            self._found(now, unit, out)

    def _found(self, now: Now, unit: Unit, out: list[fx.Effect]) -> None:
        """A running unit of a former daemon is there: it may get requests, and is asked how it is."""
        self.health.begin(now, unit, out)
        self.changes.append(Change(unit, State.RUNNING, State.RUNNING, "adopted", unit.incarnation))

    def on_vanished(self, now: Now, event: ev.Vanished, out: list[fx.Effect]) -> None:
        """Nothing is left of a process that was meant to exist: it was never started, or its traces are gone."""
        unit = self._of(event.unit, event.incarnation)
        if unit is None:
            return
        if unit.state is State.STARTING and unit.pid is None:
            out += (fx.Forget(event.unit, event.incarnation), fx.CancelTimer(("ready", event.unit)))
            unit.incarnation += 1
            unit.has_process = False
            self.touch(unit)
            self._prepare(now, unit, out)
            return
        if not unit.leader_gone:
            exit = Exit(None, None, "it ended while no daemon was there, and left no record", now.real_s)
            self._ended(now, unit, exit, success=False, out=out)
        self._empty(now, unit, out)

    # ---- what happened ----

    def on_started(self, now: Now, event: ev.Started, out: list[fx.Effect]) -> None:
        was_sought = event.unit in self.units and self.units[event.unit].sought
        unit = self._of(event.unit, event.incarnation)
        if unit is None:
            return
        unit.pid, unit.start_ticks = event.pid, event.start_ticks
        unit.started_ns, unit.started_real_s = now.mono_ns, now.real_s
        self.touch(unit)
        if unit.verdict:
            out.append(fx.KillUnit(event.unit, event.incarnation))  # told to a shim that was not there yet
        elif unit.state is State.STARTING:
            self.watch_start(now, unit, out)
        elif unit.state is State.RUNNING and was_sought:
            self._found(now, unit, out)
        if unit.early is not None:
            self.on_ready(now, unit, unit.early, out)

    def on_ready(self, now: Now, unit: Unit, protocols: tuple[str, ...], out: list[fx.Effect]) -> None:
        """The present process said it is ready; repeated words of a running one only refresh its protocols."""
        if unit.state is State.STARTING and unit.pid is None:
            # Its word overtook the shim's, which comes on another socket. Who waits for it is told its pid.
            unit.early = protocols
            return
        unit.protocols = protocols
        self.touch(unit)
        if startup_kind(unit) in ("told", "handshake"):
            self.on_up(now, unit, "ready", out)

    def on_up(self, now: Now, unit: Unit, reason: str, out: list[fx.Effect]) -> None:
        """The start succeeded: by the process's own word, its startup probe, or by being executed at all."""
        if unit.state is not State.STARTING or unit.verdict:
            return
        name = unit.spec.name
        unit.proven = True
        out.append(fx.CancelTimer(("ready", name)))
        self._move(unit, "ready", State.RUNNING, reason)
        if unit.pid is not None:
            out.append(fx.Inspect(name, unit.incarnation, unit.pid, unit.place.cpus, unit.endpoint))
        if not unit.sought:
            self.health.begin(now, unit, out)
        if unit.spec.backend.hooks.post_start is not None:
            self._run_hook(unit, "post_start", out)

    def readiness_changed(self, unit: Unit, reason: str) -> None:
        """A running unit came into, or fell out of, routing."""
        unit.reason = reason
        self.changes.append(Change(unit, State.RUNNING, State.RUNNING, reason, unit.incarnation))
        self.touch(unit)

    def on_hook_ended(self, now: Now, event: ev.HookEnded, out: list[fx.Effect]) -> None:
        self.hooks.discard((event.unit, event.incarnation, event.which))
        if not event.ok:
            text = f"{event.unit}: hook {event.which} failed: {event.detail}"
            out.append(fx.Note("WARNING", text, {"unit": event.unit}))
        unit = self.units.get(event.unit)
        if unit is None or unit.incarnation != event.incarnation or unit.hook != event.which:
            return
        unit.hook = ""
        if event.which == "pre_start" and unit.state is State.STOPPING:
            self._empty(now, unit, out)
        elif event.which == "pre_start" and unit.state is State.STARTING:
            if event.ok:
                self._spawn(now, unit, out)
            else:
                exit = Exit(None, None, f"hook pre_start failed: {event.detail}", now.real_s)
                self._ended(now, unit, exit, success=False, out=out)
                self._empty(now, unit, out)
        elif event.which == "pre_stop" and unit.state is State.STOPPING and not unit.leader_gone:
            self._ask_to_end(now, unit, out)

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
        if event.code is None and event.signal is None:
            how = "ended in an unknown way: its shim was killed"
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
        backend = unit.spec.backend
        if what == "ready" and unit.state is State.STARTING:
            self.kill(unit, out, f"not ready within {backend.ready_timeout_s:g} s")
        elif what == "grace" and unit.state is State.STOPPING:
            self.kill(unit, out, f"still there {backend.grace_s:g} s after SIG{backend.stop_signal}")
        elif what == "retry" and unit.state is State.BACKOFF:
            unit.retry_ns = None
            self.touch(unit)
            if unit.has_process:
                unit.start_when_empty = True
            else:
                self._begin(now, unit, "retry", out)

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
        if unit is None or not unit.has_process or unit.incarnation != incarnation:
            return None
        unit.sought = False
        return unit

    def _move(self, unit: Unit, trigger: str, to: State, reason: str) -> None:
        was = unit.move(trigger, to, reason)
        self.changes.append(Change(unit, was, to, reason, unit.incarnation))
        self.touch(unit)

    def _begin(self, now: Now, unit: Unit, trigger: str, out: list[fx.Effect]) -> None:
        if trigger == "retry" or unit.state is State.BACKOFF:
            unit.restarts += 1
        self._move(unit, trigger, State.STARTING, "waiting for ready")
        self._prepare(now, unit, out)

    def _prepare(self, now: Now, unit: Unit, out: list[fx.Effect]) -> None:
        """Before the process: a clean slate, and the hook that may refuse the start."""
        self._clean(unit)
        if unit.spec.backend.hooks.pre_start is not None:
            self._run_hook(unit, "pre_start", out)
        else:
            self._spawn(now, unit, out)

    def _clean(self, unit: Unit) -> None:
        unit.leader_gone, unit.start_when_empty = False, False
        unit.pid, unit.start_ticks, unit.verdict, unit.retry_ns = None, 0, "", None
        unit.protocols, unit.early, unit.cpu_percent, unit.memory_bytes, unit.hook = (), None, None, None, ""
        self.health.reset(unit)

    def _spawn(self, now: Now, unit: Unit, out: list[fx.Effect]) -> None:
        spec = unit.spec
        unit.has_process = True
        self.touch(unit)
        out.append(
            fx.Spawn(
                unit=spec.name,
                backend=spec.backend,
                model=spec.model,
                cpus=unit.place.cpus,
                memory_nodes=memory_nodes(self.ledger.topology, spec.demand, unit.place),
                gpus=unit.place.gpus,
                incarnation=unit.incarnation,
                endpoint=unit.endpoint,
                config_path=unit.config_path,
                env=self._env(unit),
                lease_ns=self._lease_ns(unit),
            )
        )
        out.append(fx.SetTimer(("ready", spec.name), now.mono_ns + int(spec.backend.ready_timeout_s * 1e9)))

    def _lease_ns(self, unit: Unit) -> int:
        """When its shim is to kill it by itself; 0: never."""
        return 0

    def _env(self, unit: Unit) -> dict[str, str]:
        spec = unit.spec
        return {
            "MGMT_ENDPOINT": self._control_endpoint,
            "MGMT_SERVE": unit.endpoint,
            "MGMT_UNIT": spec.name,
            "MGMT_INCARNATION": str(unit.incarnation),
            "MGMT_TOKEN": self.token(unit),
            "MGMT_MODEL": spec.model.name,
            "MGMT_FULLNAME": spec.model.fullname,
        }

    def _run_hook(self, unit: Unit, which: str, out: list[fx.Effect]) -> None:
        spec = unit.spec
        if which in ("pre_start", "pre_stop"):
            unit.hook = which
        self.hooks.add((spec.name, unit.incarnation, which))
        out.append(
            fx.RunHook(
                unit=spec.name,
                incarnation=unit.incarnation,
                which=which,
                hook=getattr(spec.backend.hooks, which),
                backend=spec.backend,
                model=spec.model,
                endpoint=unit.endpoint,
                env=self._env(unit),
            )
        )

    def _cancel_hook(self, unit: Unit, out: list[fx.Effect]) -> None:
        if unit.hook:
            out.append(fx.CancelHook(unit.spec.name, unit.incarnation, unit.hook))

    def watch_start(self, now: Now, unit: Unit, out: list[fx.Effect]) -> None:
        """The program runs: find out when it is up, in the way of its kind."""
        kind = startup_kind(unit)
        if kind == "handshake":
            out.append(fx.ProbeHandshake(unit.spec.name, unit.incarnation, unit.endpoint))
        elif kind == "none":
            self.on_up(now, unit, "started", out)
        elif kind != "told":
            self.health.ask(now, unit, "startup", out)

    def _end(self, now: Now, unit: Unit, was: State, out: list[fx.Effect]) -> None:
        """A unit that is STOPPING from now on has a process, which is ended in the way of the state it was in."""
        if unit.leader_gone:
            out.append(fx.KillUnit(unit.spec.name, unit.incarnation))
        elif was is State.RUNNING and unit.spec.backend.hooks.pre_stop is not None:
            self._run_hook(unit, "pre_stop", out)
        else:
            self._ask_to_end(now, unit, out)

    def _ask_to_end(self, now: Now, unit: Unit, out: list[fx.Effect]) -> None:
        backend = unit.spec.backend
        out.append(fx.SignalUnit(unit.spec.name, unit.incarnation, backend.stop_signal))
        out.append(fx.SetTimer(("grace", unit.spec.name), now.mono_ns + int(backend.grace_s * 1e9)))

    def _ended(self, now: Now, unit: Unit, exit: Exit, success: bool, out: list[fx.Effect]) -> None:
        name = unit.spec.name
        unit.leader_gone, unit.last_exit, unit.pid = True, exit, None
        self.touch(unit)
        self.health.forget(unit, out)
        out.append(fx.CancelTimer(("ready", name)))
        out.append(fx.RemoveEndpoint(unit.endpoint))
        if unit.state is State.STOPPING:
            out.append(fx.CancelTimer(("grace", name)))
            self._cancel_hook(unit, out)
            return
        if success and unit.spec.oneshot:
            unit.proven = True
            self._move(unit, "ended", State.EXITED, "completed")
            return
        to, delay_ns, why = after_end(unit, now.mono_ns, success)
        if delay_ns is not None:
            unit.retry_ns = now.mono_ns + delay_ns
            out.append(fx.SetTimer(("retry", name), unit.retry_ns))
        reason = f"{exit.reason}; {why}" if exit.executed or delay_ns is not None else exit.reason
        self._move(unit, "ended", to, reason)

    def _empty(self, now: Now, unit: Unit, out: list[fx.Effect]) -> None:
        name = unit.spec.name
        if unit.has_process and not unit.node:
            out.append(fx.Forget(name, unit.incarnation))
        unit.has_process, unit.pid, unit.cpu_percent, unit.memory_bytes = False, None, None, None
        unit.hook = ""
        self.touch(unit)
        if unit.state is State.STOPPING:
            self._move(unit, "empty", State.STOPPED, "stopped")
            if unit.spec.backend.hooks.post_stop is not None:
                self._run_hook(unit, "post_stop", out)
            if not (unit.start_when_empty and self.ledger.is_as_planned(name)):
                self.release(unit)  # else it comes back to the same place, which nobody may take meanwhile
        elif unit.start_when_empty:
            # In BACKOFF: its delay passed, or somebody would not wait for it, while the tree was being killed.
            self._begin(now, unit, "retry", out)
        elif unit.state in AT_REST:
            self.release(unit)

    def _new_endpoint(self) -> str:
        """A socket name nobody has: an odd multiplier walks all 2^32 names before one repeats."""
        offset = int.from_bytes(self._secret[:4], "big")
        while True:
            self._sockets_named += 1
            name = (self._sockets_named * 0x9E3779B1 + offset) % 2**32
            endpoint = f"ipc://{self._socket_prefix}{name:08x}"
            if endpoint not in self._former_endpoints:
                return endpoint
