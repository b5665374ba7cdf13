"""What users ask about tasks of suites and independent ones: submit, list, cancel, try again, wait."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from mgmt.core import effect as fx
from mgmt.core.candidates.tasks import LABEL, key_of
from mgmt.core.event import Asked, Now
from mgmt.core.state import State
from mgmt.core.suites import blobs
from mgmt.core.suites import operations as op
from mgmt.core.suites.blobs import BlobKind
from mgmt.core.suites.identity import Kind
from mgmt.core.suites.lanes import FUNCTION
from mgmt.core.suites.specs import CANCELLED, command_of, exec_state, new_task_of
from mgmt.core.suites.states import ENDED, Exec, Task, has_reached
from mgmt.core.suiting import entry_of, groups_of, owner, require
from mgmt.core.verbs import Body, handles, later, refuse_while_stopping
from mgmt.protocol import frames
from mgmt.protocol import messages_suites as msg
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.table import Role


@handles("task-submit")
def _submit(state: State, now: Now, asked: Asked, body: msg.TaskSubmit, out: list[fx.Effect]) -> Body:
    refuse_while_stopping(state)
    if body.wait and len(body.tasks) > 1:
        text = f"`wait` is for one task, not for {len(body.tasks)}: submit them without, then ask `task-wait`"
        raise MgmtError("bad-body", text)
    if body.suite is None:
        return _submit_independent(state, now, asked, body, out)
    entry = entry_of(state, body.suite)
    require(state, asked, entry.record.group, "write")
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
    group, _ = owner(state, asked, body.group)
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

    later(state, now, asked, op.OpenLane(group, tuple(sorted(tags)), now.real_ms), then, out)
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
    _, creator = owner(state, asked, None)
    submit = op.Submit(lane, tasks, creator, now.real_ms, body.key or "")

    def reply(now: Now, result: op.Submitted, out: list[fx.Effect]) -> dict[str, Any] | None:
        numbers = list(range(result.first, result.first + result.count))
        told = {"suite": suite, "tasks": numbers, "already": result.known}
        if not body.wait:
            return told

        def answer(task: op.TaskRecord) -> dict[str, Any] | None:
            return {**told, "ended": _end_body(task)} if task.state in ENDED else None

        _await(state, asked, result.first, answer)
        if result.known or tasks[0].extra is not None:  # else it is ready, and its end is still to come
            state.board.on_task(result.first, out)
        return None

    later(state, now, asked, submit, reply, out, partial(state.board.submit, now))


def _await(
    state: State, asked: Asked, task: int, answer: Callable[[op.TaskRecord], dict[str, Any] | None]
) -> None:
    """Answer a parked request as soon as there is an `answer` for what the queue says of the task."""

    def look(now: Now, found: op.TaskRecord | MgmtError, out: list[fx.Effect]) -> bool:
        if asked.route not in state.sessions.calls:
            return True
        try:
            if isinstance(found, MgmtError):
                raise found
            body = answer(found)
        except MgmtError as error:
            state.sessions.refuse(asked.route, error, out)
            return True
        if body is not None:
            state.sessions.answer(asked.route, frames.Outcome.OK, body, out)
        return body is not None

    state.board.task_waiters.setdefault(task, []).append(look)


def _end_body(task: op.TaskRecord) -> dict[str, Any]:
    """A TaskEnd."""
    detail = frames.unpack(task.detail) if task.detail else {}
    value = detail.get("value")
    return {
        "exit_status": task.status,
        "message": task.message,
        "tail": detail.get("tail", b"").decode("utf-8", "replace"),
        "value": frames.unpack(value) if value is not None else detail.get("repr"),
        "state": Task(task.state).name,
    }


def task_body(state: State, task: op.TaskRecord) -> dict[str, Any]:
    """A TaskStatus."""
    detail = frames.unpack(task.detail) if task.detail else {}
    ended = task.state in ENDED
    reached = Exec.TASK_COMMITTED if ended else Exec(task.exec_state) if task.exec_state is not None else None
    return {
        "task": task.task,
        "uuid": state.board.uuid(Kind.TASK, task.task),
        "suite": task.lane if task.lane in state.board.entries else None,
        "group": task.group,
        "state": Task(task.state).name,
        "exec_state": reached.word if reached is not None else "",
        "priority": task.priority,
        "labels": list(task.labels),
        "attempt": task.attempt,
        "node": task.node,
        "worker": detail.get("worker", ""),
        "command": command_of(task.spec)[:200],
        "exit_status": task.status,
        "message": task.message,
        "submitted_at": task.submitted_ms / 1000,
        "started_at": task.started_ms / 1000 if task.started_ms else None,
        "finished_at": task.finished_ms / 1000 if task.finished_ms else None,
    }


_COMPARISON = re.compile(r"(=|!=|<=|>=|<|>)?(-?\d+)")


def _comparison(text: str | None) -> tuple[str, int] | None:
    found = _COMPARISON.fullmatch(text) if text is not None else None
    return (found[1] or "=", int(found[2])) if found else None


def _filter(state: State, asked: Asked, body: msg.TaskFilter, role: str) -> op.TaskFilter:
    """What the queue is asked for; MgmtError when a suite is not known or not the asker's business."""
    lane = 0
    groups: tuple[str, ...] = ()
    if body.suite is not None:
        entry = entry_of(state, body.suite)
        require(state, asked, entry.record.group, role)
        lane = entry.number
    elif body.group is not None:
        state.users.require(asked, group=body.group, role=Role[role.upper()])
        groups = (body.group,)
    else:
        allowed = groups_of(state, asked, role)
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
        require(state, asked, task.group, "read")
        result = None
        if task.state in ENDED:
            result = _end_body(task)
            del result["state"]  # it is in the status
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
        if task.due_ms > now.real_ms:
            lines.append(f"it is tried again in {(task.due_ms - now.real_ms) / 1000:.1f} s")
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
    cancel = op.CancelTasks(chosen, now.real_ms, body.running, CANCELLED)

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
        candidates = {task.task: key for task in result.tasks if (key := key_of(task.labels)) is not None}

        def one(number: int) -> Callable[[Now, Any, list[fx.Effect]], None]:
            def then(now: Now, result: Any, out: list[fx.Effect]) -> None:
                left.discard(number)
                if not isinstance(result, MgmtError):
                    done.append(number)
                    if number in candidates:
                        state.desk.lines.retried(now, number, candidates[number], out)
                if not left:
                    state.sessions.answer(asked.route, frames.Outcome.OK, {"tasks": sorted(done)}, out)

            return then

        for number in again:
            labels = (LABEL,) if number in candidates else ()  # its run is to be recorded, too
            state.board.ask(op.RetryTask(number, now.real_ms, labels), one(number), out)
        return None

    later(state, now, asked, op.ListTasks(chosen, 10_000), found, out)
    return None


@handles("task-change")
def _task_change(state: State, now: Now, asked: Asked, body: msg.TaskChange, out: list[fx.Effect]) -> Body:
    def found(now: Now, task: op.TaskRecord, out: list[fx.Effect]) -> None:
        require(state, asked, task.group, "write")
        labels = tuple(sorted((set(task.labels) | set(body.add_labels)) - set(body.remove_labels)))
        change = op.ChangeTask(
            body.task, now.real_ms, body.priority, labels if labels != task.labels else None
        )

        def changed(now: Now, counts: op.Counts, out: list[fx.Effect]) -> None:
            if body.priority is not None:
                state.desk.lines.changed(now, body.task, body.priority, out)
            later(state, now, asked, op.GetTask(body.task), lambda now, t, out: task_body(state, t), out)

        later(state, now, asked, change, changed, out)

    later(state, now, asked, op.GetTask(body.task), found, out)
    return None


@handles("task-wait")
def _task_wait(state: State, now: Now, asked: Asked, body: msg.TaskWait, out: list[fx.Effect]) -> Body:
    wanted = exec_state(body.state)
    state.sessions.park(now, asked, out)
    _await(state, asked, body.task, lambda task: _reached(state, asked, body, wanted, task))
    state.board.on_task(body.task, out)
    return None


def _reached(
    state: State, asked: Asked, body: msg.TaskWait, wanted: int, task: op.TaskRecord
) -> dict[str, Any] | None:
    """The answer to a wait for a task; None as long as it has not come so far, MgmtError when it never will."""
    require(state, asked, task.group, "read")
    ended = task.state in ENDED
    given = Exec.TASK_COMMITTED if ended else task.exec_state
    # What ended passed all stations; but what never began had none, whatever its end.
    began = task.started_ms or (wanted < Exec.EXEC_SPAWNED and task.state == Task.FINISHED)
    counts = not ended or began or wanted == Exec.TASK_COMMITTED
    if counts and given is not None and has_reached(wanted, given):
        return task_body(state, task)
    if ended:
        how = f"{Task(task.state).name}{f': {task.message}' if task.message else ''}"
        text = f"task {body.task} has ended without having been {body.state} ({how})"
        raise MgmtError("conflict", text, task=body.task)
    return None
