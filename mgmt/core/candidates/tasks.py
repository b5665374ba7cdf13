"""A candidate as a task of a suite, and an ended task as the run that it was."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any

from mgmt.core.suites import operations as op
from mgmt.core.suites.specs import CANCELLED
from mgmt.core.suites.states import Task
from mgmt.protocol import defaults, frames

from .records import EPOCH, Candidate, Run
from .sums import Key

LABEL = "candidates"  # of tasks whose end is not recorded yet
NAMED = defaults.CANDIDATE_LABEL  # begins the label that says which candidate a task is


def name_of(key: Key) -> str:
    """The label of its tasks."""
    return NAMED + json.dumps(key, ensure_ascii=False)


def key_of(labels: Collection[str]) -> Key | None:
    """Whose task it is. Anybody may give labels: what only looks like one is none."""
    for label in labels:
        if label.startswith(NAMED):
            try:
                found = json.loads(label.removeprefix(NAMED))
            except (ValueError, RecursionError):
                continue
            if isinstance(found, list) and len(found) == 3 and all(isinstance(one, str) for one in found):
                return found[0], found[1], found[2]
    return None


def spec_of(candidate: Candidate) -> bytes:
    """Its command, split like a shell does, with what it is about in variables."""
    spec = {
        "args": shlex.split(candidate.command),
        "envs": {
            "CODEBASE": candidate.codebase, "CAMPAIGN": candidate.campaign,
            "CHANGE_SET": candidate.change_set or "", "CONTEXT": candidate.context or "",
        },
    }  # fmt: skip
    return frames.pack_body(spec)


def run_of_task(key: Key, task: op.TaskRecord, codes: Mapping[str, str], now_ms: int) -> Run | None:
    """The run that an ended task was; None for one that never began. By a node's clock that is ahead it may end
    after now, and would be the latest one for long: it ended now, then."""
    if not task.started_ms:
        return None
    if task.message == CANCELLED:
        code = "cancelled"
    elif task.state == Task.FAILED or task.status is None:
        code = "worker-failure"
    else:
        code = codes.get(str(task.status), "success" if task.status == 0 else f"failed-{task.status}")
    context = (frames.unpack(task.spec).get("envs") or {}).get("CONTEXT") if task.spec else None
    took_ms = max(0, task.finished_ms - task.started_ms)
    end_ms = min(max(task.started_ms, task.finished_ms), now_ms)
    return Run(
        key[0], key[1], code, (end_ms - took_ms) * 1000, end_ms * 1000, context=context or None
    )  # fmt: skip


def packed(run: Run) -> bytes:
    return frames.pack_body(record_of(run))


def record_of(run: Run) -> dict[str, Any]:
    """A row of a file: times in ISO 8601, nothing that is not known."""
    cells = {
        "codebase": run.codebase, "campaign": run.campaign, "result_code": run.result_code,
        "start_time": iso(run.start_us), "finish_time": iso(run.finish_us), "context": run.context,
        "instigated_context": run.instigated_context, "failure_transient": run.failure_transient or None,
        "failure_details": run.failure_details,
    }  # fmt: skip
    return {name: cell for name, cell in cells.items() if cell is not None}


def iso(at_us: int | None) -> str | None:
    return None if at_us is None else (EPOCH + timedelta(microseconds=at_us)).isoformat()
