"""What operators ask beyond models: start, stop, restart, plan and apply, explain, dump."""

from __future__ import annotations

from typing import Any

from mgmt.core import cluster, status
from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.event import Asked, Now
from mgmt.core.models.operations import targets
from mgmt.core.placement import Place, memory_nodes
from mgmt.core.reconcile import Action, actions, untouchable
from mgmt.core.schedule.report import dumped
from mgmt.core.state import State
from mgmt.core.supervision import AT_REST, to_record
from mgmt.core.supervision import State as UnitState
from mgmt.core.verbs import Body, handles, refuse_while_stopping
from mgmt.protocol import frames
from mgmt.protocol import messages as msg
from mgmt.protocol.errors import MgmtError
from mgmt.settings import Settings


@handles("start")
def _start(state: State, now: Now, asked: Asked, body: msg.Start, out: list[fx.Effect]) -> Body:
    refuse_while_stopping(state)
    return state.operations.start(now, asked, state.operations.find(body.targets), body.wait, out)


@handles("stop")
def _stop(state: State, now: Now, asked: Asked, body: msg.Stop, out: list[fx.Effect]) -> Body:
    return state.operations.stop(now, asked, state.operations.find(body.targets), body.wait, out)


@handles("restart")
def _restart(state: State, now: Now, asked: Asked, body: msg.Restart, out: list[fx.Effect]) -> Body:
    refuse_while_stopping(state)
    return state.operations.restart(now, asked, state.operations.find(body.targets), body.wait, out)


@handles("reset-failed")
def _reset_failed(state: State, now: Now, asked: Asked, body: msg.ResetFailed, out: list[fx.Effect]) -> Body:
    units = state.operations.find(body.targets) if body.targets else list(state.supervisor.units.values())
    failed = (UnitState.FATAL, UnitState.EXITED, UnitState.BACKOFF)
    already = [unit.spec.name for unit in units if unit.state not in failed]
    for unit in units:
        state.supervisor.reset_failed(unit, out)
    return targets(units, already)


# ---- plan and apply --------------------------------------------------------------------------------------


@handles("plan")
def _plan(state: State, now: Now, asked: Asked, body: msg.Plan, out: list[fx.Effect]) -> Body:
    state.sessions.park(now, asked, out)
    out.append(fx.ReadConfig(asked.route, False, body.config, body.path))
    return None


@handles("apply")
def _apply(state: State, now: Now, asked: Asked, body: msg.Apply, out: list[fx.Effect]) -> Body:
    refuse_while_stopping(state)
    state.sessions.park(now, asked, out)
    out.append(fx.ReadConfig(asked.route, True, body.config, body.path))
    return None


def on_config_read(state: State, now: Now, event: ev.ConfigRead, out: list[fx.Effect]) -> None:
    """The configuration is checked: say what it changes, and when asked to, do it."""
    waits = event.route is not None and event.route in state.sessions.calls
    if isinstance(event.settings, MgmtError):
        if event.route is None:
            out.append(fx.Note("ERROR", f"the configuration is not applied: {event.settings.text}", {}))
        elif waits:
            state.sessions.refuse(event.route, event.settings, out)
        return
    if event.apply and (state.stopping or (event.route is not None and not waits)):
        return  # whoever wanted it is gone, or nothing is started any more
    settings = event.settings
    rows = actions(state, settings)
    body = {
        "actions": [{"unit": row.unit, "action": row.action, "reason": row.reason} for row in rows],
        "daemon": untouchable(state.settings, settings),
        "warnings": settings.warnings(),
    }
    if event.apply:
        _put_in_force(state, now, settings, rows, out)
    if event.route is not None and waits:
        state.sessions.answer(event.route, frames.Outcome.OK, body, out)


def _put_in_force(
    state: State, now: Now, settings: Settings, rows: list[Action], out: list[fx.Effect]
) -> None:
    # What only a restart of the daemon can change stays as it is.
    kept = {key: getattr(state.settings, key) for key in ("endpoints", "logging", "limits", "timing")}
    state.settings = settings.model_copy(update=kept)
    state.registry.reset(state.settings)
    state.desk.forget()
    if state.agent is None:
        state.desk.lines.reset(now, out)
        state.automatic.begin(now, out)
    specs = {spec.name: spec for spec in state.registry.all_specs()}
    state.replan()
    for name, unit in state.supervisor.units.items():
        if name in specs:
            unit.spec = specs[name]
            state.undeclared.discard(name)
            state.supervisor.refresh(now, unit, out)
        else:
            state.undeclared.add(name)
    state.loading.declare(list(specs.values()), out)
    changed = [row for row in rows if row.action != "keep"]
    what = ", ".join(f"{row.action} {row.unit}" for row in changed) or "nothing differs"
    state.journal.record(now, "daemon", {"what": "applied", "reason": what}, out)
    units = state.supervisor.units
    stops = [units[row.unit] for row in rows if row.action == "stop"]
    if stops:
        state.ordering.stop(now, stops, out, "the configuration no longer has it")
    restarts = [units[row.unit] for row in rows if row.action == "restart"]
    if restarts:
        why = {row.unit: row.reason for row in rows}
        state.ordering.restart(now, restarts, out, why)
    for row in rows:
        if row.action == "start":
            try:
                state.ordering.start(now, [units[row.unit]], out)
            except MgmtError as error:
                state.supervisor.refuse(units[row.unit], error.text)


# ---- explaining ------------------------------------------------------------------------------------------


@handles("explain")
def _explain(state: State, now: Now, asked: Asked, body: msg.Explain, out: list[fx.Effect]) -> Body:
    unit = state.operations.find([body.target])[0]
    name = unit.spec.name
    if unit.node and unit.has_process and state.roster.nodes[unit.node].peer:
        node = state.roster.nodes[unit.node]
        here = [f"{unit.state}: {unit.reason}", f"it is on node {node.name}, which is {node.state}"]
        cluster.ask_unit(state, now, asked, unit, {"target": name}, out, here)
        return None
    planned = state.ledger.places.get(name, Place())
    lines = [f"{unit.state}: {unit.reason}"]
    if unit.waiting_for:
        lines.append(f"it waits for {unit.waiting_for}")
    if unit.node:
        node = state.roster.nodes[unit.node]
        lines.append(f"it is on node {node.name}, which is {node.state}: {node.reason}")
    if unit.stop_reason:
        lines.append("it is to be stopped once those that require it are gone")
    if unit.hook:
        lines.append(f"its hook {unit.hook} is running")
    if planned.fault:
        lines.append(f"it has no place on this machine: {planned.fault}")
    elif planned.cpus:
        kind = "for itself" if planned.exclusive else "shared"
        lines.append(f"its CPUs are {', '.join(map(str, planned.cpus))} ({kind}): {planned.why}")
        nodes = memory_nodes(state.ledger.topology, unit.spec.demand, planned)
        if nodes:
            lines.append(f"its memory comes from NUMA node {', '.join(map(str, nodes))} alone")
    if not unit.has_process and unit.state in AT_REST and not planned.fault:
        try:
            state.ledger.check(name)
        except MgmtError as error:
            lines.append(error.text)
    for which, probe in unit.probes.items():
        verdict = {True: "good", False: "bad", None: "undecided"}[probe.passing]
        counts = f"{probe.good} good and {probe.bad} bad answers in a row"
        lines.append(f"probe {which} ({probe.settings.kind}): {verdict}, {counts}: {probe.detail}")
    if unit.last_exit is not None:
        lines.append(f"last exit: {unit.last_exit.reason}")
    if unit.state is UnitState.BACKOFF and unit.retry_ns is not None:
        lines.append(f"next start in {max(0.0, (unit.retry_ns - now.mono_ns) / 1e9):.1f} s")
    needs = unit.spec.needs.all()
    if needs:
        lines.append("it needs " + ", ".join(f"{other} ({condition})" for other, condition in needs.items()))
    return {
        "unit": name,
        "state": str(unit.state),
        "reason": unit.reason,
        "lines": lines,
        "holds": _place_body(state.ledger.held.get(name, Place())),
        "place": _place_body(planned),
    }


def _place_body(place: Place) -> dict[str, Any]:
    return {
        "cpus": list(place.cpus),
        "exclusive": place.exclusive,
        "gpus": list(place.gpus),
        "memory_bytes": place.memory_bytes,
        "why": place.why or place.fault,
    }


@handles("dump")
def _dump(state: State, now: Now, asked: Asked, body: msg.Dump, out: list[fx.Effect]) -> Body:
    sessions = state.sessions
    return {
        "state": {
            "service": status.service_body(state, now),
            "units": {name: to_record(unit) for name, unit in sorted(state.supervisor.units.items())},
            "sessions": [
                {
                    "session": session.id,
                    "name": session.name,
                    "user": session.user,
                    "unit": session.unit,
                    "subscribed": session.subscribed,
                    "leases": sorted(session.leases),
                    "silent_s": (now.mono_ns - session.seen_ns) / 1e9,
                }
                for session in sessions.by_id.values()
            ],
            "calls": [
                {"verb": call.asked.verb, "session": route.session} for route, call in sessions.calls.items()
            ],
            "leases": [
                {"lease": lease.id, "session": lease.session, "model": lease.model, "unit": lease.unit}
                for lease in state.leases.by_id.values()
            ],
            "ledger": {name: _place_body(place) for name, place in sorted(state.ledger.held.items())},
            "plan": {name: _place_body(place) for name, place in sorted(state.ledger.places.items())},
            "undeclared": sorted(state.undeclared),
            "nodes": [cluster.node_body(state, now, node) for node in state.roster.nodes.values()],
            "assignments": {
                name: posting.to_record() for name, posting in sorted(state.supervisor.postings.items())
            },
            "schedules": {name: dumped(entry) for name, entry in sorted(state.schedules.entries.items())},
        }
    }
