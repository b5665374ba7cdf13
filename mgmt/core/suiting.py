"""What users ask about task suites: create, submit, list, cancel, wait; and who is at work on them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from mgmt.core import effect as fx
from mgmt.core.event import ADMINISTRATOR, Asked, Now
from mgmt.core.nodes import Node, NodeState
from mgmt.core.state import State
from mgmt.core.suites import blobs
from mgmt.core.suites import operations as op
from mgmt.core.suites.blobs import BlobKind
from mgmt.core.suites.board import CANCELLED, Entry, Holding, exec_state, new_task_of
from mgmt.core.suites.identity import Kind
from mgmt.core.suites.lanes import FUNCTION
from mgmt.core.suites.pool import Ending, Phase
from mgmt.core.suites.states import ENDED, Exec, Suite, Task, has_reached
from mgmt.core.supervision import LOCAL
from mgmt.core.verbs import Body, handles, later, refuse_while_stopping
from mgmt.protocol import frames
from mgmt.protocol import messages_suites as msg
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.table import Role


def _ms(now: Now) -> int:
    return int(now.real_s * 1000)


# ---- whose it is ----


def _owner(state: State, asked: Asked, group: str | None) -> tuple[str, str]:
    """The group that something new belongs to, and who makes it; MgmtError `denied` without the right to."""
    user = asked.by.user or ADMINISTRATOR
    _require(state, asked, group or user, "write")
    return group or user, user


def _require(state: State, asked: Asked, group: str, role: str) -> None:
    """MgmtError `denied` without this role in the group."""
    state.users.require(asked, group=group, role=Role[role.upper()])


def _may_read(state: State, asked: Asked, group: str) -> bool:
    groups = _groups_of(state, asked, "read")
    return groups is None or group in groups


def _groups_of(state: State, asked: Asked, role: str) -> frozenset[str] | None:
    """The groups in which the asker has the role; None: all."""
    if asked.by.is_administrator:
        return None
    wanted = Role[role.upper()]
    user = asked.by.user
    return frozenset(group.name for group in state.users.groups_of(user) if group.members[user] >= wanted)


def _entry(state: State, key: str) -> Entry:
    entry = state.board.find(key)
    if entry is None:
        text = f"no suite {key!r} is known; `mgmt suite list` shows those there are"
        raise MgmtError("unknown-suite", text, suite=key)
    return entry


# ---- suites ----------------------------------------------------------------------------------------------


def counters(counts: op.Counts) -> dict[str, int]:
    """A SuiteCounters."""
    return {name: getattr(counts, name) for name in msg.SuiteCounters.model_fields}


def suite_body(state: State, entry: Entry) -> dict[str, Any]:
    """A SuiteStatus."""
    record, board = entry.record, state.board
    return {
        "suite": record.suite,
        "uuid": board.uuid(Kind.SUITE, record.suite),
        "name": record.name,
        "description": entry.description,
        "group": record.group,
        "creator": record.creator,
        "state": Suite(entry.counts.state).name,
        "reason": record.reason,
        "priority": record.priority,
        "tags": list(record.tags),
        "labels": list(record.labels),
        "worker": entry.worker,
        "hooks": entry.hooks,
        "tasks": counters(entry.counts),
        "nodes": [_node_body(state, entry, node) for node in _nodes_of(state, entry)],
        "created_at": record.created_ms / 1000,
        "submitted_at": record.submitted_ms / 1000 if record.submitted_ms else None,
        "completed_at": record.completed_ms / 1000 if record.completed_ms else None,
    }


def _nodes_of(state: State, entry: Entry) -> list[str]:
    at_work = {holding.node for holding in state.board.holdings.values() if holding.suite == entry.number}
    return sorted({*state.board.eligible(entry), *at_work, *entry.refused})


def _node_body(state: State, entry: Entry, node: str) -> dict[str, Any]:
    holding = state.board.holdings.get(node)
    at_work = holding is not None and holding.suite == entry.number
    return {
        "node": node,
        "selection": "specified" if node in entry.added else "matched",
        "phase": str(holding.phase) if at_work and holding is not None else "",
        "workers": entry.worker["worker_count"] if at_work else 0,
        "reason": (holding.reason if at_work and holding is not None else "") or entry.refused.get(node, ""),
    }


@handles("suite-create")
def _create(state: State, now: Now, asked: Asked, body: msg.SuiteCreate, out: list[fx.Effect]) -> Body:
    refuse_while_stopping(state)
    group, creator = _owner(state, asked, body.group)
    if body.name is not None:
        if body.name.isdigit():
            raise MgmtError("bad-body", f"name {body.name!r} is a number, which a suite has anyway")
        other = state.board.find(body.name)
        if other is not None and other.is_live:
            text = (
                f"suite {other.number} has the name {body.name!r}; cancel or complete it, or use another name"
            )
            raise MgmtError("conflict", text, suite=other.number)
    extra = {
        "description": body.description,
        "worker": body.worker.model_dump(),
        "hooks": body.hooks.model_dump(),
        "added": [],
        "removed": [],
    }
    create = op.CreateSuite(
        group,
        creator,
        _ms(now),
        name=body.name or "",
        tags=tuple(sorted(set(body.tags))),
        labels=tuple(sorted(set(body.labels))),
        priority=body.priority,
        record=frames.pack_body(extra),
    )

    def reply(now: Now, record: op.SuiteRecord, out: list[fx.Effect]) -> dict[str, Any]:
        state.board.metrics.add("suites_created_total")
        return suite_body(state, state.board.adopt(record))

    later(state, now, asked, create, reply, out)
    return None


@handles("suites")
def _suites(state: State, now: Now, asked: Asked, body: msg.Suites, out: list[fx.Effect]) -> Body:
    entries = [_entry(state, key) for key in body.suites] or list(state.board.entries.values())
    wanted = [
        entry for entry in entries if _matches(body, entry) and _may_read(state, asked, entry.record.group)
    ]
    wanted.sort(key=lambda entry: -entry.number)
    chosen = wanted[body.offset : body.offset + body.limit]
    return {"suites": [suite_body(state, entry) for entry in chosen], "total": len(wanted)}


def _matches(body: msg.Suites, entry: Entry) -> bool:
    return (
        (body.group is None or body.group == entry.record.group)
        and set(body.tags) <= set(entry.record.tags)
        and set(body.labels) <= set(entry.record.labels)
        and (not body.states or Suite(entry.counts.state).name in body.states)
    )


def _refreshed(state: State, now: Now, asked: Asked, entry: Entry, out: list[fx.Effect]) -> None:
    """Read the suite's record again and answer with its status."""

    def reply(now: Now, record: op.SuiteRecord, out: list[fx.Effect]) -> dict[str, Any]:
        entry.record, entry.counts = record, record.counts
        return suite_body(state, entry)

    later(state, now, asked, op.GetSuite(entry.number), reply, out)


@handles("suite-cancel")
def _cancel(state: State, now: Now, asked: Asked, body: msg.SuiteCancel, out: list[fx.Effect]) -> Body:
    entry = _entry(state, body.suite)
    _require(state, asked, entry.record.group, "write")
    cancel = op.CancelSuite(entry.number, _ms(now), body.reason, body.cancel_running)

    def cancelled(now: Now, result: op.Cancelled, out: list[fx.Effect]) -> None:
        state.board.cancel_running(now, result.running, out)

        def reply(now: Now, record: op.SuiteRecord, out: list[fx.Effect]) -> dict[str, Any]:
            entry.record, entry.counts = record, record.counts
            return {"suite": suite_body(state, entry), "cancelled": result.count}

        later(state, now, asked, op.GetSuite(entry.number), reply, out)

    later(state, now, asked, cancel, cancelled, out)
    return None


@handles("suite-close")
def _close(state: State, now: Now, asked: Asked, body: msg.SuiteClose, out: list[fx.Effect]) -> Body:
    entry = _entry(state, body.suite)
    _require(state, asked, entry.record.group, "write")

    def reply(now: Now, counts: op.Counts, out: list[fx.Effect]) -> dict[str, Any]:
        return suite_body(state, entry)

    later(state, now, asked, op.CloseSuite(entry.number, _ms(now)), reply, out)
    return None


@handles("suite-wait")
def _wait(state: State, now: Now, asked: Asked, body: msg.SuiteWait, out: list[fx.Effect]) -> Body:
    entry = _entry(state, body.suite)
    _require(state, asked, entry.record.group, "read")

    def is_met(entry: Entry) -> bool:
        where = Suite(entry.counts.state)
        if body.condition == "progress":
            return body.seen is None or counters(entry.counts) != body.seen.model_dump()
        if body.condition == "complete":
            return where is Suite.COMPLETE
        return where is Suite.COMPLETE or (where is Suite.CANCELLED and not entry.counts.pending)

    if is_met(entry):
        return suite_body(state, entry)
    if body.condition == "complete" and entry.counts.state == Suite.CANCELLED:
        raise MgmtError("cancelled", f"suite {entry.number} is cancelled: it will not be complete")
    state.sessions.park(now, asked, out)

    def look(now: Now, entry: Entry, out: list[fx.Effect]) -> bool:
        if asked.route not in state.sessions.calls:
            return True
        if not is_met(entry):
            return False
        state.sessions.answer(asked.route, frames.Outcome.OK, suite_body(state, entry), out)
        return True

    waiters = state.board.suite_waiters.setdefault(entry.number, [])
    waiters[:] = [waiter for waiter in waiters if not waiter(now, entry, out)]  # who gave up is forgotten
    waiters.append(look)
    return None


@handles("suite-refresh")
def _refresh(state: State, now: Now, asked: Asked, body: msg.SuiteRefresh, out: list[fx.Effect]) -> Body:
    entry = _entry(state, body.suite)
    _require(state, asked, entry.record.group, "write")
    before = set(state.board.eligible(entry))
    entry.refused.clear()
    state.board.match(now, out)
    after = set(state.board.eligible(entry))
    return _agents_body(state, entry, after - before, before - after, {})


@handles("suite-agents")
def _agents(state: State, now: Now, asked: Asked, body: msg.SuiteAgents, out: list[fx.Effect]) -> Body:
    entry = _entry(state, body.suite)
    _require(state, asked, entry.record.group, "write")
    before = set(state.board.eligible(entry))
    rejected: dict[str, str] = {}
    for node in body.add:
        if node != LOCAL and node not in state.roster.nodes:
            rejected[node] = "no node of this name has ever joined"
        elif node != LOCAL and state.roster.nodes[node].worker is not None:
            rejected[node] = "it is an independent worker, and those take no suites"
        elif not state.users.may_send(entry.record.group, "node", node):
            rejected[node] = f"group {entry.record.group!r} may not send work to it"
        else:
            entry.added.add(node)
            entry.removed.discard(node)
            entry.refused.pop(node, None)
    for node in body.remove:
        entry.added.discard(node)
        entry.removed.add(node)

    def reply(now: Now, record: op.SuiteRecord, out: list[fx.Effect]) -> dict[str, Any]:
        entry.record = record
        for node in body.remove:
            holding = state.board.holdings.get(node)
            if holding is not None and holding.suite == entry.number and holding.ending is None:
                state.board.end(now, holding, Ending.FINISH, "the node was taken off the suite", out)
        state.board.match(now, out)
        after = set(state.board.eligible(entry))
        return _agents_body(state, entry, after - before, set(body.remove), rejected)

    later(state, now, asked, op.ChangeSuite(entry.number, _ms(now), record=entry.packed()), reply, out)
    return None


def _agents_body(
    state: State, entry: Entry, added: Iterable[str], removed: Iterable[str], rejected: dict[str, str]
) -> dict[str, Any]:
    return {
        "added": sorted(added),
        "removed": sorted(removed),
        "rejected": rejected,
        "nodes": [_node_body(state, entry, node) for node in _nodes_of(state, entry)],
    }


# ---- tasks -----------------------------------------------------------------------------------------------


@handles("task-submit")
def _submit(state: State, now: Now, asked: Asked, body: msg.TaskSubmit, out: list[fx.Effect]) -> Body:
    refuse_while_stopping(state)
    if body.suite is None:
        return _submit_independent(state, now, asked, body, out)
    entry = _entry(state, body.suite)
    _require(state, asked, entry.record.group, "write")
    kind = entry.worker["kind"]
    for index, task in enumerate(body.tasks):
        if (task.function is None) != (kind == "process"):
            wants = "`args`" if kind == "process" else "a `function`"
            text = f"tasks.{index}: the workers of suite {entry.number} are of kind {kind}: give {wants}"
            raise MgmtError("bad-body", text)
    _submit_to(state, now, asked, body, entry.number, entry.number, out)
    return None


def _submit_independent(
    state: State, now: Now, asked: Asked, body: msg.TaskSubmit, out: list[fx.Effect]
) -> Body:
    group, _ = _owner(state, asked, body.group)
    functions = body.tasks[0].function is not None
    for index, task in enumerate(body.tasks):
        if (task.function is not None) is not functions:
            text = (
                f"tasks.{index}: functions and commands go to other workers: submit them in two submissions"
            )
            raise MgmtError("bad-body", text)
    tags = {*body.tags, FUNCTION} if functions else set(body.tags)

    def then(now: Now, lane: op.LaneRecord, out: list[fx.Effect]) -> None:
        _submit_to(state, now, asked, body, lane.lane, None, out)

    later(state, now, asked, op.OpenLane(group, tuple(sorted(tags)), _ms(now)), then, out)
    return None


def _submit_to(
    state: State,
    now: Now,
    asked: Asked,
    body: msg.TaskSubmit,
    lane: int,
    suite: int | None,
    out: list[fx.Effect],
) -> None:
    tasks = [new_task_of(task, state.board.task_uuid) for task in body.tasks]
    _, creator = _owner(state, asked, None)
    submit = op.Submit(lane, tasks, creator, _ms(now), body.key or "")

    def reply(now: Now, result: op.Submitted, out: list[fx.Effect]) -> dict[str, Any]:
        numbers = list(range(result.first, result.first + result.count))
        return {"suite": suite, "tasks": numbers, "already": result.known}

    later(state, now, asked, submit, reply, out)
    state.board.claim_for(now, lane, out)


def task_body(state: State, task: op.TaskRecord) -> dict[str, Any]:
    """A TaskStatus."""
    spec = frames.unpack(task.spec) if task.spec else {}
    detail = frames.unpack(task.detail) if task.detail else {}
    words = spec.get("args") or [spec.get("function", "")]
    ended = task.state in ENDED
    reached = Exec.TASK_COMMITTED if ended else Exec(task.exec_state) if task.exec_state is not None else None
    return {
        "task": task.task,
        "uuid": state.board.uuid(Kind.TASK, task.task),
        "suite": task.lane if task.lane in state.board.entries else None,
        "group": task.group,
        "state": Task(task.state).name,
        "exec_state": _camel(reached) if reached is not None else "",
        "priority": task.priority,
        "labels": list(task.labels),
        "attempt": task.attempt,
        "node": task.node,
        "worker": detail.get("worker", ""),
        "command": " ".join(words)[:200],
        "exit_status": task.status,
        "message": task.message,
        "submitted_at": task.submitted_ms / 1000,
        "started_at": task.started_ms / 1000 if task.started_ms else None,
        "finished_at": task.finished_ms / 1000 if task.finished_ms else None,
    }


def _camel(state: Exec) -> str:
    return "".join(part.capitalize() for part in state.name.split("_"))


_COMPARISON = re.compile(r"(=|!=|<=|>=|<|>)?(-?\d+)")


def _comparison(text: str | None) -> tuple[str, int] | None:
    found = _COMPARISON.fullmatch(text) if text is not None else None
    return (found[1] or "=", int(found[2])) if found else None


def _filter(state: State, asked: Asked, body: msg.TaskFilter, role: str) -> op.TaskFilter:
    """What the queue is asked for; MgmtError when a suite is not known or not the asker's business."""
    lane = 0
    groups: tuple[str, ...] = ()
    if body.suite is not None:
        entry = _entry(state, body.suite)
        _require(state, asked, entry.record.group, role)
        lane = entry.number
    elif body.group is not None:
        _require(state, asked, body.group, role)
        groups = (body.group,)
    else:
        allowed = _groups_of(state, asked, role)
        groups = () if allowed is None else tuple(sorted(allowed))
        if allowed is not None and not allowed:
            raise MgmtError(
                "denied", f"you are in no group with the role {role}; ask an administrator for one"
            )
    return op.TaskFilter(
        tasks=tuple(body.tasks),
        lane=lane,
        groups=groups,
        creators=tuple(body.creators),
        tags=tuple(body.tags),
        labels=tuple(body.labels),
        states=tuple(Task[name] for name in body.states),
        nodes=(body.node,) if body.node is not None else (),
        priority=_comparison(body.priority),
        exit_status=_comparison(body.exit_status),
    )


@handles("tasks")
def _tasks(state: State, now: Now, asked: Asked, body: msg.Tasks, out: list[fx.Effect]) -> Body:
    chosen = _filter(state, asked, body, "read")

    def reply(now: Now, result: op.Tasks, out: list[fx.Effect]) -> dict[str, Any]:
        return {"tasks": [task_body(state, task) for task in result.tasks], "total": result.count}

    later(state, now, asked, op.ListTasks(chosen, body.limit, body.offset, body.count_only), reply, out)
    return None


@handles("task-show")
def _show(state: State, now: Now, asked: Asked, body: msg.TaskShow, out: list[fx.Effect]) -> Body:
    def detail(task: op.TaskRecord, now: Now) -> dict[str, Any]:
        _require(state, asked, task.group, "read")
        detail = frames.unpack(task.detail) if task.detail else {}
        result = None
        if task.state in ENDED:
            value = detail.get("value")
            result = {
                "exit_status": task.status,
                "message": task.message,
                "tail": detail.get("tail", b"").decode("utf-8", "replace"),
                "value": frames.unpack(value) if value is not None else detail.get("repr"),
            }
        return {
            "status": task_body(state, task),
            "spec": frames.unpack(task.spec) if task.spec else {},
            "result": result,
            "upstream": [after.task for after in task.after],
            "downstream": [],
            "failures": [
                {
                    "attempt": d.attempt,
                    "node": d.node,
                    "at": d.at_ms / 1000,
                    "status": d.status,
                    "message": d.message,
                }
                for d in task.history
            ],
            "lines": _why(state, now, task),
        }

    def reply(now: Now, task: op.TaskRecord, out: list[fx.Effect]) -> None:
        shown = detail(task, now)

        def listed(now: Now, found: blobs.Blobs, out: list[fx.Effect]) -> dict[str, Any]:
            artifacts = [
                {"kind": BlobKind(one.name.kind).word, "blob": one.reference, "bytes": one.size_bytes}
                for one in found.blobs
            ]
            return {**shown, "artifacts": artifacts}

        later(state, now, asked, blobs.ListBlobs(blobs.BlobFilter(tasks=(body.task,))), listed, out)

    later(state, now, asked, op.GetTask(body.task), reply, out)
    return None


def _why(state: State, now: Now, task: op.TaskRecord) -> list[str]:
    """Why a task is where it is, most important first."""
    where = Task(task.state)
    entry = state.board.entries.get(task.lane)
    if where is Task.PENDING:
        lines = [
            f"it waits for task {after.task}" + (" to end with 0" if after.success else "")
            for after in task.after
        ]
        if task.due_ms > _ms(now):
            lines.append(f"it is tried again in {(task.due_ms - _ms(now)) / 1000:.1f} s")
        return lines or ["it waits for the sweep that makes it ready"]
    if where is Task.READY and entry is not None:
        lines = []
        at_work = [holding for holding in state.board.holdings.values() if holding.suite == entry.number]
        for holding in at_work:
            lines.append(
                f"node {holding.node} works on its suite ({holding.phase}); {entry.counts.ready} are ready"
            )
        if not at_work:
            nodes = state.board.nodes()
            why = {node: state.board.why_not(entry, node) for node in nodes}
            lines += [f"node {node}: {text or _busy(state, node)}" for node, text in why.items()]
        lines += [f"node {node} does not get it any more: its worker died of it" for node in task.excluded]
        return lines or ["no node takes suites now"]
    if where is Task.READY:
        lanes = state.board.lanes
        why = {node.name: lanes.why_not(task.lane, node.name) for node in lanes.workers()}
        lines = [f"worker {name}: {text or 'it serves it, after others'}" for name, text in why.items()]
        lines += [f"worker {name} does not get it any more: it died of it" for name in task.excluded]
        return lines or [
            "it waits for an independent worker, and there is none (`mgmt worker run` starts one)"
        ]
    if where is Task.RUNNING:
        text = f"node {task.node} has it, attempt {task.attempt}"
        return [text + (", and is ending it" if task.cancelling else "")]
    if where is Task.FAILED:
        return [
            f"given up: {task.message}",
            *(f"attempt {d.attempt} on {d.node}: {d.message}" for d in task.history),
        ]
    return [task.message or f"it ended with exit status {task.status}"]


def _busy(state: State, node: str) -> str:
    holding = state.board.holdings.get(node)
    return f"it works on suite {holding.suite}" if holding is not None else "it is free and about to be asked"


@handles("task-cancel")
def _task_cancel(state: State, now: Now, asked: Asked, body: msg.TaskCancel, out: list[fx.Effect]) -> Body:
    _named(body)
    chosen = _filter(state, asked, body, "write")
    cancel = op.CancelTasks(chosen, _ms(now), body.running, CANCELLED)

    def reply(now: Now, result: op.Cancelled, out: list[fx.Effect]) -> dict[str, Any]:
        state.board.cancel_running(now, result.running, out)
        for task in list(state.board.task_waiters):
            state.board.on_task(task, out)
        return {"cancelled": result.count, "ending": len(result.running)}

    later(state, now, asked, cancel, reply, out)
    return None


def _named(body: msg.TaskFilter) -> None:
    """MgmtError `bad-body` for every task there is: nobody means that."""
    if not (
        body.tasks or body.suite or body.labels or body.states or body.tags or body.creators or body.node
    ):
        raise MgmtError("bad-body", "say which tasks: give numbers, a suite, labels, tags, states or a node")


@handles("task-retry")
def _task_retry(state: State, now: Now, asked: Asked, body: msg.TaskRetry, out: list[fx.Effect]) -> Body:
    _named(body)
    chosen = _filter(state, asked, body, "write")

    def found(now: Now, result: op.Tasks, out: list[fx.Effect]) -> dict[str, Any] | None:
        named = set(body.tasks)
        again = [
            task.task
            for task in result.tasks
            if task.state in (Task.FAILED, Task.CANCELLED)
            or (task.state == Task.FINISHED and task.task in named)
        ]
        if not again:
            return {"tasks": []}
        left, done = set(again), []

        def one(number: int) -> Callable[[Now, Any, list[fx.Effect]], None]:
            def then(now: Now, result: Any, out: list[fx.Effect]) -> None:
                left.discard(number)
                if not isinstance(result, MgmtError):
                    done.append(number)
                if not left:
                    state.sessions.answer(asked.route, frames.Outcome.OK, {"tasks": sorted(done)}, out)

            return then

        for number in again:
            state.board.ask(op.RetryTask(number, _ms(now)), one(number), out)
        return None

    later(state, now, asked, op.ListTasks(chosen, 10_000), found, out)
    return None


@handles("task-change")
def _task_change(state: State, now: Now, asked: Asked, body: msg.TaskChange, out: list[fx.Effect]) -> Body:
    def found(now: Now, task: op.TaskRecord, out: list[fx.Effect]) -> None:
        _require(state, asked, task.group, "write")
        labels = tuple(sorted((set(task.labels) | set(body.add_labels)) - set(body.remove_labels)))
        change = op.ChangeTask(body.task, _ms(now), body.priority, labels if labels != task.labels else None)

        def changed(now: Now, counts: op.Counts, out: list[fx.Effect]) -> None:
            later(state, now, asked, op.GetTask(body.task), lambda now, t, out: task_body(state, t), out)

        later(state, now, asked, change, changed, out)

    later(state, now, asked, op.GetTask(body.task), found, out)
    return None


@handles("task-wait")
def _task_wait(state: State, now: Now, asked: Asked, body: msg.TaskWait, out: list[fx.Effect]) -> Body:
    wanted = exec_state(body.state)
    state.sessions.park(now, asked, out)

    def look(now: Now, task: op.TaskRecord | MgmtError, out: list[fx.Effect]) -> bool:
        if asked.route not in state.sessions.calls:
            return True
        try:
            answer = _reached(state, asked, body, wanted, task)
        except MgmtError as error:
            state.sessions.refuse(asked.route, error, out)
            return True
        if answer is None:
            return False
        state.sessions.answer(asked.route, frames.Outcome.OK, answer, out)
        return True

    state.board.task_waiters.setdefault(body.task, []).append(look)
    state.board.on_task(body.task, out)
    return None


def _reached(
    state: State, asked: Asked, body: msg.TaskWait, wanted: int, task: op.TaskRecord | MgmtError
) -> dict[str, Any] | None:
    """The answer to a wait for a task; None as long as it has not come so far, MgmtError when it never will."""
    if isinstance(task, MgmtError):
        raise task
    _require(state, asked, task.group, "read")
    ended = task.state in ENDED
    given = Exec.TASK_COMMITTED if ended else task.exec_state
    if given is not None and has_reached(wanted, given):
        return task_body(state, task)
    if ended:
        text = f"task {body.task} has ended without having been {body.state}"
        raise MgmtError("conflict", text, task=body.task)
    return None


# ---- workers ---------------------------------------------------------------------------------------------


@handles("workers")
def _workers(state: State, now: Now, asked: Asked, body: msg.Workers, out: list[fx.Effect]) -> Body:
    suite = _entry(state, body.suite).number if body.suite is not None else None
    independents = suite is None and body.node is None and body.independent is not False
    nodes = _chosen(state, asked, body, Role.READ) if independents else []
    rows = [_worker_body(state, node) for node in nodes]
    if body.independent is True or body.tags or body.group is not None:
        return {"workers": rows}
    for holding in state.board.holdings.values():
        entry = state.board.entries.get(holding.suite)
        if entry is None or not _may_read(state, asked, entry.record.group):
            continue
        if (body.node is None or body.node == holding.node) and suite in (None, holding.suite):
            rows += [
                row
                for row in _workers_of(state, holding)
                if not body.workers or row["worker"] in body.workers
            ]
    return {"workers": rows}


def _chosen(state: State, asked: Asked, body: msg.WorkerFilter, role: Role) -> list[Node]:
    """Independent workers that a filter means, among those on which whoever asks has the role."""
    known = state.roster.nodes
    names = body.workers or [name for name in sorted(known) if known[name].worker is not None]
    nodes = [known[name] for name in names if name in known and known[name].worker is not None]
    return [
        node
        for node in nodes
        if node.tags.issuperset(body.tags)
        and (body.group is None or state.users.may_send(body.group, "worker", node.name))
        and (asked.by.is_administrator or state.users.may(asked.by.user, "worker", node.name, role))
    ]


def _worker(state: State, name: str) -> Node:
    node = state.roster.nodes.get(name)
    if node is None or node.worker is None:
        text = f"no independent worker {name!r} has joined; `mgmt worker list` shows those that did"
        raise MgmtError("unknown-node", text, worker=name)
    return node


def _worker_body(state: State, node: Node) -> dict[str, Any]:
    """A WorkerStatus of an independent worker."""
    assert node.worker is not None
    holding, count = state.board.holdings.get(node.name), node.worker["worker_count"]
    gone = node.state is not NodeState.ALIVE
    given_up = state.board.given_up.get(node.name, "")
    if gone or given_up:
        where = "down"
    elif node.retiring or node.leaving or (holding is not None and holding.ending is not None):
        where = "stopping"
    elif holding is None or holding.phase is not Phase.EXECUTING:
        where = "starting"
    else:
        where = "idle" if holding.is_idle and not holding.busy else "busy"
    return {
        "worker": node.name,
        "node": node.facts.get("host", ""),
        "suite": None,
        "state": where,
        "task": None,
        "done": holding.done if holding is not None else 0,
        "pid": node.pid,
        "cpus": [],
        "tags": sorted(node.tags),
        "independent": True,
        "kind": node.worker["kind"],
        "workers": count,
        "roles": {
            group.name: str(group.grants["worker"][node.name])
            for group in state.users.groups.values()
            if node.name in group.grants["worker"] and not group.deleted
        },
        "reason": node.reason if gone else given_up,
    }


@handles("worker-shutdown")
def _worker_shutdown(
    state: State, now: Now, asked: Asked, body: msg.WorkerShutdown, out: list[fx.Effect]
) -> Body:
    if not (body.workers or body.tags or body.group):
        raise MgmtError("bad-body", "say which workers: give names, tags or a group")
    for name in body.workers:
        _worker(state, name)
    rows = []
    for node in _chosen(state, asked, body, Role.ADMIN):
        state.board.retire(now, node, body.force, out)
        rows.append(_worker_body(state, node))
        if node.state is NodeState.LOST:
            state.roster.forget(node, out)
            state.users.retire("worker", node.name)
    return {"workers": rows}


@handles("worker-tags")
def _worker_tags(state: State, now: Now, asked: Asked, body: msg.WorkerTags, out: list[fx.Effect]) -> Body:
    node = _worker(state, body.worker)
    state.roster.retag(node, frozenset(body.add), frozenset(body.remove))
    state.board.look_again(now, out)
    return {"workers": [_worker_body(state, node)]}


def _workers_of(state: State, holding: Holding) -> list[dict[str, Any]]:
    if holding.node != LOCAL:
        return []
    rows = []
    for slot in state.crew.pool.slots.values():
        unit = state.supervisor.units.get(slot.unit)
        busy = next(iter(slot.tasks), None)
        up = unit is not None and unit.pid is not None
        where = (
            "down"
            if not up
            else "starting"
            if not slot.connection
            else "paused"
            if state.crew.pool.paused
            else ""
        )
        rows.append(
            {
                "worker": slot.unit,
                "node": holding.node,
                "suite": holding.suite,
                "state": where or ("busy" if busy is not None else "idle"),
                "task": busy,
                "done": slot.done,
                "pid": unit.pid if unit is not None else None,
                "cpus": list(unit.place.cpus) if unit is not None else [],
                "tags": [],
            }
        )
    return rows


@handles("worker-pause")
def _worker_pause(state: State, now: Now, asked: Asked, body: msg.WorkerPause, out: list[fx.Effect]) -> Body:
    if body.node == LOCAL:
        state.crew.pause(now, body.paused, out)
    else:
        state.roster.push(state.roster.get(body.node), "suite-pause", {"paused": body.paused}, out)
    (state.board.paused.add if body.paused else state.board.paused.discard)(body.node)
    return {"workers": []}
