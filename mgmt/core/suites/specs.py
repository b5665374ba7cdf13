"""Tasks and their ends between their users' shape and the queue's."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgpack
from pydantic import ValidationError

from mgmt.core.suites import operations as op
from mgmt.core.suites.files import Outcome
from mgmt.core.suites.states import Exec
from mgmt.protocol import frames
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.messages_suites import Task

CANCELLED = "UserCancellation"


def result_of(outcome: Outcome, uuid: Callable[[int], str]) -> op.Result:
    """What the queue keeps of a "done" of a crew. A next task that is none makes it SubmitNewTaskFailed."""
    _, task, attempt, status, message, start_ns, end_ns, tail, extra, unit = outcome
    detail: dict[str, Any] = {"worker": unit}
    if tail:
        detail["tail"] = tail
    new_task = None
    for name, value in extra.items():
        if name != "new_task":
            detail[name] = value
    if "new_task" in extra:
        try:
            new_task = new_task_of(Task.model_validate(json.loads(extra["new_task"])), uuid, upstream=task)
        except (ValueError, ValidationError) as error:
            message = message or "SubmitNewTaskFailed"
            detail["new_task"] = str(error)[:500]
    return op.Result(
        task,
        attempt,
        status,
        message,
        start_ns // 1_000_000,
        end_ns // 1_000_000,
        frames.pack_body(detail),
        new_task,
    )


_SPEC = (
    "args",
    "function",
    "params",
    "kw",
    "envs",
    "cwd",
    "timeout_s",
    "terminal_output",
    "exec_log",
    "resources",
)


def new_task_of(task: Task, uuid: Callable[[int], str], upstream: int = 0) -> op.NewTask:
    """What the queue keeps of a task: the specification for its worker, packed, and what orders it.

    `upstream`: the task that wrote it; else the first it waits for. Its UUID is told to it.
    """
    told = task.model_fields_set
    values = task.__dict__
    spec = {name: values[name] for name in _SPEC if name in told and values[name] is not None}
    if "resources" in spec:
        spec["resources"] = [resource.model_dump() for resource in task.resources]
    upstream = upstream or next(iter(task.after), 0)
    if upstream:
        spec["envs"] = {"MITO_UPSTREAM_TASK_UUID": uuid(upstream), **task.envs}
    extra = None
    if told & {"labels", "after", "watch", "retries"}:
        after = [op.After(number, task.after_condition == "success") for number in task.after]
        if task.watch is not None:
            after.append(op.After(task.watch.task, reached=exec_state(task.watch.state)))
        retry = None
        if task.retries is not None:
            on_exit = task.retries.on_exit
            codes = () if on_exit == "any" else tuple(on_exit)
            retry = op.Retry(task.retries.limit, codes, int(task.retries.delay_s * 1000))
        extra = op.Extra(tuple(task.labels), tuple(after), retry)
    return op.NewTask(frames.pack_body(spec), task.priority, extra)


def command_of(spec: bytes) -> str:
    """What a packed specification runs, in words; of one that is cut off what is there."""
    unpacker = msgpack.Unpacker(strict_map_key=False)
    unpacker.feed(spec)
    words: list[str] = []
    try:
        for _ in range(unpacker.read_map_header()):
            key = unpacker.unpack()
            if key == "function":
                return str(unpacker.unpack())
            if key == "args":
                words += (str(unpacker.unpack()) for _ in range(unpacker.read_array_header()))
                break
            unpacker.skip()
    except (msgpack.OutOfData, ValueError):
        pass
    return " ".join(words)


def exec_state(name: str) -> int:
    """The number of an exec state; MgmtError `bad-body` when there is none of this name."""
    for state in Exec:
        if state.word.lower() == name.replace("_", "").lower():
            return int(state)
    known = ", ".join(state.word for state in Exec)
    raise MgmtError("bad-body", f"there is no exec state {name!r}; known: {known}")
