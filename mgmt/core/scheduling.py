"""What operators ask about periodic tasks: submit, show, remove, explain, rebalance."""

from __future__ import annotations

from mgmt.core import effect as fx
from mgmt.core.event import Asked, Now
from mgmt.core.schedule.schedules import known_workload
from mgmt.core.state import State
from mgmt.core.verbs import Body, handles, refuse_while_stopping
from mgmt.protocol import defaults
from mgmt.protocol import messages as msg


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
    if body.workload is not None:
        known_workload(state.schedules.entries, body.workload)
    rows = state.execution.rows(state.schedules.entries, body.workload)
    size = defaults.RECORDED_TASKS if body.records else defaults.MEASURED_TASKS
    end = body.offset + size
    state.sessions.park(now, asked, out)
    chosen = tuple(rows[body.offset : end])
    out.append(fx.ReadTasks(asked.route, chosen, body.records, end if end < len(rows) else None))
    return None


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
