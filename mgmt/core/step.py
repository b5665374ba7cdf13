"""`step(state, now, event) -> effects`: the one place where an event meets the slices.

Each verb has one handler in HANDLERS; a handler returns the body of its answer, or None when the request was
parked and is answered by a later event.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from mgmt.core import (
    access,
    accounts,
    agency,
    cluster,
    filing,
    measuring,
    operate,
    reviewing,
    scheduling,
    selecting,
    status,
    suiting,
    tasking,
    working,
)
from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.event import LEGACY_PLANE, SESSIONLESS, Asked, Now
from mgmt.core.nodes.node import to_record as node_record
from mgmt.core.sessions import Session
from mgmt.core.state import State
from mgmt.core.supervision import AT_REST, LOCAL, Change, from_record, ghost, to_record
from mgmt.core.supervision import State as UnitState
from mgmt.core.verbs import HANDLERS, Body, handles, refuse_while_stopping
from mgmt.protocol import defaults, frames, revisions
from mgmt.protocol import messages as msg
from mgmt.protocol.errors import MgmtError
from mgmt.settings import ModelSettings
from mgmt.worker.wire import Kind

__all__ = [
    "HANDLERS",
    "LEGACY_PLANE",
    "accounts",
    "measuring",
    "reviewing",
    "scheduling",
    "selecting",
    "step",
    "suiting",
    "tasking",
    "working",
]

# Each opens a session of its own: there is nothing to repeat, so they take no idempotency key.
HELLOS = frozenset({"hello", "backend-hello", "agent-hello"})


def step(state: State, now: Now, event: ev.Event, out: list[fx.Effect] | None = None) -> list[fx.Effect]:
    """Apply one event; the effects are to be carried out in order.

    They are gathered in `out`: after an exception it has those that the step had come to, for a Faulted.
    """
    out = [] if out is None else out
    if state.agent is not None:
        state.agent.fence(now, out)
    _ON[type(event)](state, now, event, out)
    _settle(state, now, out)
    return out


def _settle(state: State, now: Now, out: list[fx.Effect]) -> None:
    """Hand what the lower slices noted up to the higher ones, until nothing is left to say."""
    supervisor, sessions = state.supervisor, state.sessions
    if state.roster.changes:
        cluster.settle(state, now, out)
    if state.schedules.changed:
        state.schedules.changed = False
        if state.execution.is_new(state.schedules.entries):
            out.append(fx.FollowSchedule())  # who asked need not wait for a thousand processes to be started
        else:
            state.execution.follow(now, state.schedules.entries, state.stopping, out)
    touched = bool(supervisor.dirty)
    while touched or supervisor.changes or sessions.ended or sessions.abandoned:
        # First, so that the slices above see what goes on at once as going on, never as at rest.
        version = supervisor.version
        state.ordering.on_change(now, out)
        touched = supervisor.version != version
        _forget_abandoned(state, out)
        while sessions.ended:
            state.leases.on_session_ended(sessions.ended.pop(), out)
        changes, supervisor.changes = deque(supervisor.changes), []
        try:
            while changes:
                _on_change(state, now, changes.popleft(), out)
        finally:
            supervisor.changes[:0] = changes  # a bug in one of them costs nobody the others
        state.operations.on_change(out)
        version = supervisor.version
        state.crew.look(now, out)
        touched = touched or supervisor.version != version
    state.crew.look_for_room(now, out)
    _forget_undeclared(state, out)
    if state.agent is not None:
        state.agent.tell(now, state.stopping, out)
        if state.agent.joined and state.journal.fresh:
            state.agent.tell_faults(now, list(state.journal.fresh), False, out)
    _commit(state, out)
    if state.stopping and not supervisor.is_busy() and not state.quit_said:
        state.quit_said = True
        sessions.close(MgmtError("stopping", "the daemon stopped before the answer"), out)
        _forget_abandoned(state, out)
        out.append(fx.Quit())


def _commit(state: State, out: list[fx.Effect]) -> None:
    """What must survive comes first among the effects: nothing of this step is done before it is durable."""
    supervisor, journal, roster, agent = state.supervisor, state.journal, state.roster, state.agent
    keeper, crew = supervisor if agent is None else agent, state.crew
    fresh = supervisor.dirty or journal.fresh or keeper.has_unsaved or roster.dirty
    outbox = crew.outbox.take() if crew.outbox is not None else {}
    if fresh or state.users.dirty or crew.dirty or outbox:
        units = supervisor.units
        records = {
            name: to_record(units[name]) if name in units else None for name in sorted(supervisor.dirty)
        }
        known = roster.nodes
        nodes = {name: node_record(known[name]) if name in known else None for name in sorted(roster.dirty)}
        commit = fx.Commit(
            records,
            tuple(journal.fresh),
            journal.first(),
            state.schedules.records(),
            assignments=keeper.unsaved(),
            nodes=nodes,
            meta={"crew": crew.record()} if crew.dirty else {},
            accounts=state.users.take_changes(),
            outbox=outbox,
        )
        crew.dirty = False
        out.insert(0, commit)
        roster.dirty.clear()
        supervisor.dirty.clear()
        journal.fresh.clear()


def _forget_undeclared(state: State, out: list[fx.Effect]) -> None:
    """Units that a new configuration no longer has go as soon as nothing of them is left."""
    for name in list(state.undeclared):
        unit = state.supervisor.units[name]
        if unit.state in AT_REST and not unit.has_process:
            state.undeclared.discard(name)
            state.supervisor.forget(name, out)


def _forget_abandoned(state: State, out: list[fx.Effect]) -> None:
    """Nobody waits for these calls any more: who kept their routes lets go of them."""
    while state.sessions.abandoned:
        route = state.sessions.abandoned.pop()
        state.loading.forget(route, out)
        state.conditions.forget(route)
        state.handshakes.forget(route)
        state.operations.forget(route)
        cluster.forget(state, route)
        state.schedules.forget(route)
        state.lease_waiters.pop(route, None)


def _on_change(state: State, now: Now, change: Change, out: list[fx.Effect]) -> None:
    unit, was = change.unit, change.was
    model = unit.spec.model.name
    _journal_unit(state, now, change, out)
    if unit.serves and (was is UnitState.RUNNING or unit.ready):
        replicas = tuple((u.spec.name, u.endpoint) for u in state.loading.ready_units(model))
        out.append(fx.RelayGroup(model, replicas))
    if was is UnitState.RUNNING and change.state is not UnitState.RUNNING:
        state.leases.on_unit_lost(unit.spec.name, change.reason, out)
    if change.state is UnitState.STOPPING:
        for session in state.sessions.by_id.values():
            if session.unit == unit.spec.name:
                out.append(fx.Tell(session.peer, session.id, "drain", {}))
    state.loading.on_unit_change(now, unit, was, out)
    if all(u.state is UnitState.STOPPED and not u.waiting_for for u in state.loading.units(model)):
        state.leases.on_model_unloaded(model, out)
    _answer_lease_waiters(state, model, out)
    state.handshakes.on_unit_change(out)
    state.conditions.on_unit_change(out)
    state.execution.on_unit_change(now, unit, out)
    state.hosting.on_unit_change(unit, out)
    state.crew.on_unit_change(now, unit, was, out)


def _journal_unit(state: State, now: Now, change: Change, out: list[fx.Effect]) -> None:
    unit = change.unit
    body = {
        "unit": unit.spec.name,
        "model": unit.spec.model.name,
        "was": str(change.was),
        "state": str(change.state),
        "reason": change.reason,
        "incarnation": change.incarnation,
        "pid": unit.pid,
        "exit": status.exit_body(unit.last_exit),
        "node": unit.node or None,
    }
    state.journal.record(now, "unit", body, out)
    level = "WARNING" if change.state in (UnitState.BACKOFF, UnitState.FATAL) else "INFO"
    text = f"{unit.spec.name}: {change.was} -> {change.state}: {change.reason}"
    out.append(fx.Note(level, text, {"unit": unit.spec.name}))


# ---- requests --------------------------------------------------------------------------------------------


def _on_asked(state: State, now: Now, asked: Asked, out: list[fx.Effect]) -> None:
    try:
        if state.quit_said:
            refuse_while_stopping(state)
        found = state.sessions.of(asked.route) if asked.verb not in HELLOS else None
        session = found if found is not None and access.owns(found, asked.route.grant) else None
        asked.by = access.authenticate(state, now, asked, session)
        access.authorise(state, asked)
        agency.refuse_what_is_the_daemons(state, asked)
        if session is not None:
            session.seen_ns = now.mono_ns
        elif found is not None:
            raise MgmtError("session-gone", "this session is another key's; say hello first")
        elif asked.verb not in HELLOS and asked.route.plane not in SESSIONLESS:
            state.sessions.find(now, asked.route.peer, asked.route.session)  # there is none: it says so
        if asked.key and asked.verb not in HELLOS:
            if state.sessions.repeats(asked, out):
                return
            state.sessions.park(now, asked, out)
        body = HANDLERS[asked.verb](state, now, asked, out)
    except MgmtError as error:
        state.count("refused." + error.code)
        state.sessions.refuse(asked.route, error, out)
        return
    if body is not None:
        state.sessions.answer(asked.route, frames.Outcome.OK, body, out)


@handles("hello")
def _hello(state: State, now: Now, asked: Asked, body: msg.Hello, out: list[fx.Effect]) -> Body:
    revision = revisions.agree(body.versions, f"client {body.name!r}" if body.name else "the client")
    replicas = []
    if body.model is not None:
        # Asked before the session opens: a refused hello changes nothing.
        replicas = _ready_replicas(state, body.model)
        if body.mode == "relay":
            _speaks_native(state, state.registry.resolve(body.model))
    session = state.sessions.open(now, asked.route.peer, body.name, out, key=access.key_of(asked.route.grant))
    session.user, session.token = asked.by.user, asked.by.token
    lease = None
    if body.model is not None:
        model = state.registry.resolve(body.model).name
        lease = state.leases.grant(session, model, replicas, body.mode, out)
    timing = state.settings.timing
    return {
        "version": revision,
        "session": session.id,
        "epoch": state.identity.epoch,
        "heartbeat_s": timing.heartbeat_s,
        "session_timeout_s": timing.session_timeout_s,
        "max_frame_bytes": defaults.MAX_CONTROL_FRAME_BYTES,
        "lease": lease,
    }


@handles("status")
def _status(state: State, now: Now, asked: Asked, body: msg.Status, out: list[fx.Effect]) -> Body:
    if body.units or body.all:
        return {
            "service": status.service_body(state, now),
            "units": status.units_body(state, now, body.units, body.all),
        }
    return status.whole(state, now) if asked.route.plane == LEGACY_PLANE else status.whole_packed(state, now)


@handles("models")
def _models(state: State, now: Now, asked: Asked, body: msg.Models, out: list[fx.Effect]) -> Body:
    return status.models_body(state)


@handles("load-model")
def _load_model(state: State, now: Now, asked: Asked, body: msg.LoadModel, out: list[fx.Effect]) -> Body:
    refuse_while_stopping(state)
    model = state.registry.resolve(body.model)
    backend = state.settings.model_backends.get(model.type)
    if body.config_path is not None and backend is not None and not backend.takes_config_path:
        text = (
            f"{model.name}: config_path {body.config_path!r} is ignored: its command has no {{config_path}}"
        )
        out.append(fx.Note("WARNING", text, {"model": model.name}))
    return state.loading.load(
        now,
        model,
        out,
        asked if body.wait else None,
        config_path=body.config_path,
        starting_after_ns=None if body.starting_after_ms is None else body.starting_after_ms * 1_000_000,
    )


@handles("unload-model")
def _unload_model(state: State, now: Now, asked: Asked, body: msg.UnloadModel, out: list[fx.Effect]) -> Body:
    model = state.registry.resolve(body.model)
    return state.loading.unload(now, model, out, asked if body.wait else None)


@handles("stop-service")
def _stop_service(state: State, now: Now, asked: Asked, body: msg.StopService, out: list[fx.Effect]) -> Body:
    units = sorted(unit.spec.name for unit in state.supervisor.units.values() if unit.has_process)
    _stop(state, now, "stop-service was asked for", out)
    return {"message": "Service shutdown requested", "units": units}


@handles("wait")
def _wait(state: State, now: Now, asked: Asked, body: msg.Wait, out: list[fx.Effect]) -> Body:
    return state.conditions.wait(now, asked, body.target, body.condition, out)


@handles("lease")
def _lease(state: State, now: Now, asked: Asked, body: msg.LeaseModel, out: list[fx.Effect]) -> Body:
    session = state.sessions.find(now, asked.route.peer, asked.route.session)
    model = state.registry.resolve(body.model)
    _speaks_native(state, model)
    ready = state.loading.ready_units(model.name)
    if not ready and body.load:
        refuse_while_stopping(state)
        state.sessions.park(now, asked, out)
        if (
            state.loading.state(model.name) in AT_REST
            or state.loading.state(model.name) is UnitState.STOPPING
        ):
            state.loading.load(now, model, out)
        state.lease_waiters[asked.route] = (session, model.name, body.mode)
        return None
    return state.leases.grant(
        session, model.name, ready or _ready_replicas(state, body.model), body.mode, out
    )


def _speaks_native(state: State, model: ModelSettings) -> None:
    """Refuse requests that nobody would answer: their tags mean nothing on the ancestor's data plane.

    A direct hello is not refused: who asks for an endpoint may speak that plane to it.
    """
    backend = state.settings.model_backends.get(model.type)
    if backend is not None and backend.kind == "symphony":
        text = (
            f"model {model.name!r} speaks Symphony's data plane, not this one: connect a Symphony client to its "
            f"endpoint (`mgmt status {model.name}`)"
        )
        raise MgmtError("not-available", text, model=model.name)


def _ready_replicas(state: State, name: str) -> list[Any]:
    model = state.registry.resolve(name)
    ready = state.loading.ready_units(model.name)
    if not ready:
        now_is = state.loading.state(model.name)
        if now_is in AT_REST:
            text = f"model {model.name!r} is not loaded; load it with `mgmt load-model {model.name}`"
            raise MgmtError("not-loaded", text, model=model.name)
        text = f"model {model.name!r} is {now_is}; wait for it with `mgmt wait {model.name} --for ready`"
        raise MgmtError("not-ready", text, model=model.name)
    return ready


def _answer_lease_waiters(state: State, model: str, out: list[fx.Effect]) -> None:
    """Grant the leases that waited for a load, or refuse them when it failed."""
    waiting = [(route, *waiter) for route, waiter in state.lease_waiters.items() if waiter[1] == model]
    if not waiting:
        return
    ready = state.loading.ready_units(model)
    worst = state.loading.state(model)
    if not ready and worst not in AT_REST:
        return
    for route, session, _, mode in waiting:
        del state.lease_waiters[route]
        if ready:
            lease = state.leases.grant(session, model, ready, mode, out)
            state.sessions.answer(route, frames.Outcome.OK, lease, out)
        else:
            reasons = (u.reason for u in state.loading.units(model) if u.state is worst)
            reason = next(reasons, "the configuration no longer has it")
            error = MgmtError("start-failed", f"model {model!r} could not be loaded: {reason}", model=model)
            state.sessions.refuse(route, error, out)


@handles("release")
def _release(state: State, now: Now, asked: Asked, body: msg.Release, out: list[fx.Effect]) -> Body:
    session = state.sessions.find(now, asked.route.peer, asked.route.session)
    state.leases.release(session, body.lease, out)
    return {}


@handles("subscribe")
def _subscribe(state: State, now: Now, asked: Asked, body: msg.Subscribe, out: list[fx.Effect]) -> Body:
    session = state.sessions.find(now, asked.route.peer, asked.route.session)
    session.subscribed = body.follow
    # The journal is durable: its numbers go on from one epoch to the next, so the epoch is not compared.
    events, gap = state.journal.since(body.since)
    return {
        "seq": state.journal.seq,
        "epoch": state.identity.epoch,
        "units": status.units_body(state, now, []),
        "events": events,
        "gap": gap,
    }


@handles("logs")
def _logs(state: State, now: Now, asked: Asked, body: msg.Logs, out: list[fx.Effect]) -> Body:
    target, _ = state.conditions.state(body.unit)
    units = state.loading.units(target)
    unit = state.supervisor.units.get(target) or next(iter(units), None)
    if unit is None or not unit.incarnation:
        raise MgmtError("not-loaded", f"{target!r} was never started, so it has no log", model=target)
    target = unit.spec.name
    if unit.node:
        question = {**body.model_dump(exclude_none=True), "unit": target}
        cluster.ask_unit(state, now, asked, unit, question, out, [])
        return None
    state.sessions.park(now, asked, out)
    since = None if body.since_s is None else now.real_s - body.since_s
    out.append(fx.ReadLog(asked.route, target, body.lines, body.offset, body.inode, since))
    return None


@handles("backend-hello")
def _backend_hello(
    state: State, now: Now, asked: Asked, body: msg.BackendHello, out: list[fx.Effect]
) -> Body:
    revision = revisions.agree(body.versions, f"the backend of {body.unit}")
    unit = _prove(state, body.unit, body.incarnation, body.token)
    key = access.key_of(asked.route.grant)
    session = state.sessions.open(now, asked.route.peer, f"backend {body.unit}", out, unit.spec.name, key)
    return {
        "version": revision,
        "session": session.id,
        "epoch": state.identity.epoch,
        "heartbeat_s": state.settings.timing.heartbeat_s,
    }


@handles("backend-ready")
def _backend_ready(
    state: State, now: Now, asked: Asked, body: msg.BackendReady, out: list[fx.Effect]
) -> Body:
    unit = _prove(state, body.unit, body.incarnation, body.token)
    state.supervisor.on_ready(now, unit, tuple(body.protocols), out)
    return {}


def _prove(state: State, name: str, incarnation: int, token: str) -> Any:
    unit = state.supervisor.is_present(name, incarnation, token)
    if unit is None:
        text = (
            f"{name!r} incarnation {incarnation} is no present process of this daemon, or its token is wrong"
        )
        raise MgmtError("denied", text, unit=name)
    return unit


# ---- everything else -------------------------------------------------------------------------------------


def _on_handshake(state: State, now: Now, event: ev.HandshakeAsked, out: list[fx.Effect]) -> None:
    wait_ns = int(state.settings.timing.legacy_load_answer_s * 1e9)
    state.handshakes.ask(now, event, wait_ns, state.stopping, out)


def _on_noticed(state: State, now: Now, event: ev.Noticed, out: list[fx.Effect]) -> None:
    session: Session | None
    try:
        session = state.sessions.find(now, event.peer, event.session)
    except MgmtError:
        session = None
    if session is not None and access.owns(session, event.grant) and not access.lives(state, now, session):
        state.sessions.end(session, out)
        session = None
    if session is None or not access.owns(session, event.grant):
        out.append(fx.Tell(event.peer, event.session, "session-gone", {}))
        return
    if event.name in ("heartbeat", "backend-heartbeat"):
        out.append(fx.Tell(session.peer, session.id, "heartbeat", {}))
        unit = state.supervisor.units.get(session.unit) if session.unit is not None else None
        if unit is not None:
            state.supervisor.health.on_heard(now, unit)
    elif event.name == "bye":
        state.sessions.end(session, out)


def _on_peer_lost(state: State, now: Now, event: ev.PeerLost, out: list[fx.Effect]) -> None:
    session = state.sessions.by_peer.get(event.peer)
    if session is not None:  # else it was counted, or is nobody: the answers to its last requests find no one
        state.count("peers_lost")
        # Ended first: the event is for the others.
        state.sessions.end(session, out)
        body = {"what": "peer-lost", "reason": f"{session.name}: {event.reason}"}
        state.journal.record(now, "daemon", body, out)


def _on_timer(state: State, now: Now, event: ev.TimerFired, out: list[fx.Effect]) -> None:
    what, about = event.key
    if what == "session":
        state.sessions.on_session_timer(now, about, out)
    elif what == "call":
        state.sessions.expire(about, out)
    elif what == "key":
        state.sessions.on_key_timer(now, about, out)
    elif what == "starting":
        state.loading.on_starting_timer(about, out)
    elif what == "node":
        state.roster.on_timer(now, about, out)
    elif what == "tasks":
        state.execution.on_timer(now, about, out)
    elif what == "crew":
        state.crew.on_timer(now, about, out)
    elif what == "suites":
        state.board.on_timer(now, about, out)
    elif what == "lifetime":
        state.board.on_lifetime(now, about, out)
    elif what == "candidates":
        state.automatic.on_timer(now, about, out)
    elif what == "blobs":
        filing.collect(state, now, out)
    elif what == "staging":
        state.execution.on_stage_timer(now, out)
    elif what == "fence":
        pass  # what it is for is done at every event
    elif what == "joining":
        agency.on_joining(state, now, about, out)
    elif what == "uplink":
        agency.of(state).on_timer(now, out)
    elif what.startswith("probe."):
        state.supervisor.health.on_timer(now, what.removeprefix("probe."), about, out)
    else:
        state.supervisor.on_timer(now, what, about, out)


def _on_handshake_answered(state: State, now: Now, event: ev.HandshakeAnswered, out: list[fx.Effect]) -> None:
    unit = state.supervisor.units.get(event.unit)
    if unit is not None and unit.incarnation == event.incarnation and unit.has_process:
        state.supervisor.on_ready(now, unit, event.protocols, out)


def _on_mask_checked(state: State, now: Now, event: ev.MaskChecked, out: list[fx.Effect]) -> None:
    if event.wrong:
        state.count("mask_violations")
        reason = f"{event.unit} runs outside its CPUs: {event.wrong}"
        state.journal.record(now, "daemon", {"what": "mask-violated", "reason": reason}, out)
        out.append(fx.Note("ERROR", reason, {"unit": event.unit}))


def _on_log_read(state: State, now: Now, event: ev.LogRead, out: list[fx.Effect]) -> None:
    if event.route not in state.sessions.calls:
        return  # expired meanwhile
    if event.route in state.gatherings:
        scheduling.on_part(state, event.route, LOCAL, event.result, out)
        return
    if isinstance(event.result, MgmtError):
        state.sessions.refuse(event.route, event.result, out)
    else:
        state.sessions.answer(event.route, frames.Outcome.OK, event.result, out)


def _on_faulted(state: State, now: Now, event: ev.Faulted, out: list[fx.Effect]) -> None:
    """What the broken step changed stays, so what it wanted done about that is done, too: a unit that became
    STARTING without its Spawn would be so for ever. What it had noted and not handed up yet, `_settle` now does.
    """
    out += event.effects
    state.count("faults")
    text = f"{event.what}: a fault of mgmt itself"
    state.journal.record(now, "daemon", {"what": "fault", "reason": text}, out)
    if event.route is not None:
        text += "; its traceback is in the daemon's log, please report it; `mgmt status` tells what was done"
        state.sessions.fail(event.route, MgmtError("internal", text), out)


def _on_stop_requested(state: State, now: Now, event: ev.StopRequested, out: list[fx.Effect]) -> None:
    """The first signal stops in order; a further one, or one after `stop-service`, kills every unit at once."""
    if state.quit_said:
        return  # units that were handed over are the next daemon's
    _end(state, now, event.reason, event.fast or state.stopping, out)


def _end(state: State, now: Now, reason: str, fast: bool, out: list[fx.Effect]) -> None:
    _stop(state, now, reason, out)
    if fast:
        for unit in [unit for unit in state.supervisor.units.values() if not unit.node]:
            # Outright, whoever still requires it: one that is killed while it counts as up would start again.
            state.supervisor.stop(now, unit, out, reason, wanted=True)
            state.supervisor.kill(unit, out, "fast stop")


def _stop(state: State, now: Now, reason: str, out: list[fx.Effect]) -> None:
    if not state.stopping:
        state.stopping = True
        state.board.stop(now, out)
        state.journal.record(now, "daemon", {"what": "stopping", "reason": reason}, out)
        out.append(fx.Note("INFO", f"stopping: {reason}", {}))
        state.loading.fail_all(MgmtError("stopping", "the daemon is stopping"), out)
        # They stay wanted: the next daemon starts them again. Those of other nodes run on.
        state.supervisor.closing = True
        here = [unit for unit in state.supervisor.units.values() if not unit.node]
        state.ordering.stop(now, here, out, reason, wanted=True)


def _on_hand_over(state: State, now: Now, event: ev.HandOver, out: list[fx.Effect]) -> None:
    """Leave, and leave the units running: the next daemon adopts them."""
    if not state.quit_said:
        state.stopping = state.quit_said = state.handed_over = True
        state.journal.record(now, "daemon", {"what": "hand-over", "reason": event.reason}, out)
        state.sessions.close(MgmtError("stopping", "the daemon left; its units run on for the next one"), out)
        _forget_abandoned(state, out)
        out.append(fx.Quit())


def _on_restored(state: State, now: Now, event: ev.Restored, out: list[fx.Effect]) -> None:
    """The first event of a daemon's life: what the former one left, then what is to be started anyway."""
    state.journal.restore(event.events)
    state.users.restore(event.accounts)
    state.schedules.restore(now, event.workloads, event.same_boot, out)
    state.schedules.changed = False
    state.execution.restore(state.schedules.entries, out)
    supervisor = state.supervisor
    state.roster.restore(now, event.nodes, out)
    if event.crew is not None:
        state.crew.restore(now, event.crew, out)
    state.crew.pool.restore(event.outbox)
    if state.agent is not None:
        state.agent.restore(now, event.assignments, out)
    else:
        supervisor.restore_postings(event.assignments)
    for name, record in event.units.items():
        declared = supervisor.units.get(name)
        unit = from_record(
            declared.spec if declared is not None else ghost(name, record),
            record,
            event.same_boot or name in supervisor.postings,
        )
        if declared is not None:
            state.loading.adopt(unit)
            if unit.wanted and not unit.start_when_empty:
                # A stop that nobody asked for: the former daemon was being stopped, and this one is not.
                unit.start_when_empty, unit.stop_reason = unit.state is UnitState.STOPPING, ""
        else:
            state.undeclared.add(name)
        supervisor.restore(now, unit, out, declared is not None)
        if to_record(unit) != record:
            supervisor.touch(unit)
    gone = [supervisor.units[name] for name in sorted(state.undeclared)]
    if gone:
        state.ordering.stop(now, gone, out, "the configuration no longer has it")
    if state.agent is not None:
        state.agent.enforce(now, out)
    for unit in list(supervisor.units.values()):
        autostart = unit.spec.autostart and unit.spec.name not in event.units
        if unit.state is UnitState.STOPPED and (unit.wanted or autostart):
            try:
                state.ordering.start(now, [unit], out, unit.config_path)
            except MgmtError as error:
                supervisor.refuse(unit, error.text)
    state.ordering.on_change(now, out)  # whoever waited when the former daemon ended
    if state.agent is None:
        for group, used_bytes in event.storage:
            state.users.count_stored(group, used_bytes)
        filing.set_timer(state, now, out)
        state.board.restore(now, event.suites, event.holders, out)  # before its own crew says a word
        state.desk.lines.begin(now, lambda now, result, out: state.automatic.begin(now, out), out)
    else:
        state.agent.on_work = partial(_on_work, state)
        state.agent.counted = state.crew.pool.metrics.counted
    state.crew.resume(now, out)


def _on_work(state: State, now: Now, what: str, body: dict[str, Any], out: list[fx.Effect]) -> None:
    """A word of the daemon about task suites and independent tasks."""
    if what == "shutdown":
        what = "worker" if agency.of(state).facts.worker is not None else "agent"
        _end(state, now, f"the daemon told this {what} to end", bool(body.get("fast")), out)
    else:
        agency.on_suite(state, now, what, body, out)


def _on_worker_hello(state: State, now: Now, event: ev.WorkerHello, out: list[fx.Effect]) -> None:
    """Who proves to be a present process of a worker is one."""
    unit = state.supervisor.is_present(event.unit, event.incarnation, event.token)
    if unit is None or not state.crew.on_worker(now, event.connection, event.unit, event.held, out):
        why = (
            f"{event.unit!r} incarnation {event.incarnation} is no worker of this node, or its token is wrong"
        )
        out.append(fx.ToWorker(event.connection, ([Kind.REFUSED, why],)))
        out.append(fx.CloseWorker(event.connection))


_ON: dict[type[Any], Callable[[State, Now, Any, list[fx.Effect]], None]] = {
    ev.Asked: _on_asked,
    ev.HandshakeAsked: _on_handshake,
    ev.Noticed: _on_noticed,
    ev.KeysRevoked: access.on_keys_revoked,
    ev.PeerLost: _on_peer_lost,
    ev.TimerFired: _on_timer,
    ev.Started: lambda state, now, event, out: state.supervisor.on_started(now, event, out),
    ev.SpawnFailed: lambda state, now, event, out: state.supervisor.on_spawn_failed(now, event, out),
    ev.Exited: lambda state, now, event, out: state.supervisor.on_exited(now, event, out),
    ev.Emptied: lambda state, now, event, out: state.supervisor.on_emptied(now, event, out),
    ev.HandshakeAnswered: _on_handshake_answered,
    ev.MaskChecked: _on_mask_checked,
    ev.Sampled: agency.on_sampled,
    ev.LogRead: _on_log_read,
    ev.StopRequested: _on_stop_requested,
    ev.Faulted: _on_faulted,
    ev.HandOver: _on_hand_over,
    ev.Restored: _on_restored,
    ev.Adopted: lambda state, now, event, out: state.supervisor.on_adopted(now, event, out),
    ev.Vanished: lambda state, now, event, out: state.supervisor.on_vanished(now, event, out),
    ev.ProbeAnswered: lambda state, now, event, out: state.supervisor.health.on_answer(now, event, out),
    ev.HookEnded: lambda state, now, event, out: state.supervisor.on_hook_ended(now, event, out),
    ev.ConfigRead: operate.on_config_read,
    ev.NodeNoticed: cluster.on_node_noticed,
    ev.NodePeerLost: cluster.on_node_peer_lost,
    ev.LinkUp: agency.on_link_up,
    ev.LinkDown: agency.on_link_down,
    ev.Welcomed: agency.on_welcomed,
    ev.Refused: agency.on_refused,
    ev.DaemonNoticed: agency.on_daemon_noticed,
    ev.TasksStaged: agency.on_tasks_staged,
    ev.FollowSchedule: lambda state, now, event, out: state.execution.follow(
        now, state.schedules.entries, state.stopping, out
    ),
    ev.TaskReported: agency.on_task_reported,
    ev.Queued: lambda state, now, event, out: state.board.on_queued(now, event, out),
    ev.SuiteFolderMade: lambda state, now, event, out: state.crew.on_folder(
        now, event.holder, event.error, out
    ),
    ev.Filed: filing.on_filed,
    ev.InputsFetched: lambda state, now, event, out: state.crew.on_inputs(now, event, out),
    ev.OutputsKept: lambda state, now, event, out: state.crew.on_outputs(now, event, out),
    ev.WorkerHello: _on_worker_hello,
    ev.WorkerSaid: lambda state, now, event, out: state.crew.on_said(
        now, event.connection, event.messages, out
    ),
    ev.WorkerGone: lambda state, now, event, out: state.crew.on_worker_gone(now, event.connection, out),
    ev.Computed: lambda state, now, event, out: (
        state.schedules if event.number > 0 else state.desk
    ).on_computed(now, event, out),
}
