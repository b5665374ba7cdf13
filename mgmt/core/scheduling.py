"""What operators ask about periodic tasks: submit, show, remove, explain, rebalance."""

from __future__ import annotations

from typing import Any

from mgmt.core import cluster
from mgmt.core import effect as fx
from mgmt.core.event import Asked, Now, Route
from mgmt.core.schedule.schedules import known_workload
from mgmt.core.state import Ask, Gathering, State
from mgmt.core.supervision import LOCAL
from mgmt.core.verbs import Body, handles, refuse_while_stopping
from mgmt.protocol import defaults, frames
from mgmt.protocol import messages as msg
from mgmt.protocol.errors import MgmtError


@handles("schedule-submit")
def _submit(state: State, now: Now, asked: Asked, body: msg.ScheduleSubmit, out: list[fx.Effect]) -> Body:
    refuse_while_stopping(state)
    state.schedules.submit(now, asked, body, out)
    return None


@handles("schedule-show")
def _show(state: State, now: Now, asked: Asked, body: msg.ScheduleShow, out: list[fx.Effect]) -> Body:
    state.schedules.show(now, asked, body, out)
    return None


@handles("schedule-stat")
def _stat(state: State, now: Now, asked: Asked, body: msg.ScheduleStat, out: list[fx.Effect]) -> Body:
    if state.agent is not None:
        rows = state.hosting.rows(state.agent.facts.name)
    else:
        if body.workload is not None:
            known_workload(state.schedules.entries, body.workload)
        rows = state.execution.rows(state.schedules.entries)
    wanted = set(body.units)
    rows = [
        row
        for row in rows
        if body.workload in (None, row[2]["workload"]) and (not wanted or row[0] in wanted)
    ]
    end = body.offset + (defaults.RECORDED_TASKS if body.records else defaults.MEASURED_TASKS)
    following = end if end < len(rows) else None
    chosen = rows[body.offset : end]
    state.sessions.park(now, asked, out)
    if state.agent is not None or all(row["node"] == LOCAL for _, _, row in chosen):
        out.append(fx.ReadTasks(asked.route, tuple(chosen), body.records, following))
        return None
    nodes: dict[str, list[tuple[str, int, dict[str, Any]]]] = {}
    for row in chosen:
        nodes.setdefault(row[2]["node"], []).append(row)
    known = {unit: row for unit, _, row in chosen}
    state.gatherings[asked.route] = Gathering(known, set(nodes), following)
    for name, there in nodes.items():
        if name == LOCAL:
            out.append(fx.ReadTasks(asked.route, tuple(there), body.records, None))
        else:
            _ask_part(state, asked.route, name, [unit for unit, _, _ in there], body.records, out)
    return None


def _ask_part(
    state: State, route: Route, name: str, units: list[str], records: bool, out: list[fx.Effect]
) -> None:
    node = state.roster.nodes.get(name)
    if node is None or not node.peer:
        why = f"it is {node.state}: {node.reason}" if node is not None else "it has never joined"
        on_part(state, route, name, MgmtError("node-lost", why, node=name), out)
        return
    question = {"units": units, "records": records}
    timeout_ms = int(defaults.STATISTICS_S * 1000)
    ask = Ask(route, name, lambda answer, out: on_part(state, route, name, answer, out))
    cluster.ask_node(state, node, ask, "schedule-stat", question, timeout_ms, out)


def on_part(
    state: State, route: Route, name: str, answer: dict[str, Any] | MgmtError, out: list[fx.Effect]
) -> None:
    """What one node has measured. The request is answered when all nodes have, or have not, said theirs."""
    gathering = state.gatherings.get(route)
    if gathering is None:
        return
    gathering.waits.discard(name)
    if isinstance(answer, MgmtError):
        gathering.unreachable.append({"node": name, "reason": answer.text})
    else:
        node = state.roster.nodes.get(name)
        offset_ns = (node.offset_ns or 0) if node is not None else 0
        for row in answer["tasks"]:
            known = gathering.rows.get(row["unit"])
            if known is not None:
                gathering.rows[row["unit"]] = {**row, **known, "offset_ns": offset_ns}
    if not gathering.waits:
        del state.gatherings[route]
        tasks = [row for row in gathering.rows.values() if "state" in row]
        reply = {"tasks": tasks, "next": gathering.next, "unreachable": gathering.unreachable}
        state.sessions.answer(route, frames.Outcome.OK, reply, out)


@handles("fault-report")
def _fault_report(state: State, now: Now, asked: Asked, body: msg.FaultReport, out: list[fx.Effect]) -> Body:
    faults = [fault.model_dump() for fault in body.faults]
    state.execution.on_told(now, body.source, faults, out)
    return {"faults": len(faults)}


@handles("schedule-remove")
def _remove(state: State, now: Now, asked: Asked, body: msg.ScheduleRemove, out: list[fx.Effect]) -> Body:
    refuse_while_stopping(state)
    state.schedules.remove(now, asked, body.workload, out)
    return None


@handles("schedule-explain")
def _explain(state: State, now: Now, asked: Asked, body: msg.ScheduleExplain, out: list[fx.Effect]) -> Body:
    state.schedules.explain(now, asked, body.task, out)
    return None


@handles("schedule-rebalance")
def _rebalance(
    state: State, now: Now, asked: Asked, body: msg.ScheduleRebalance, out: list[fx.Effect]
) -> Body:
    refuse_while_stopping(state)
    state.schedules.rebalance(now, asked, body.apply, out)
    return None
