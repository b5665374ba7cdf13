"""What a scripted daemon says of suites and tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mgmt.protocol.errors import MgmtError

Body = dict[str, Any]
AT = 1_700_000_000.0
NONE = dict.fromkeys(("total", "pending", "ready", "running", "finished", "failed", "cancelled"), 0)
NO_HOOKS: Body = {"provision": None, "background": None, "cleanup": None}


def a_node(node: str = "local", **changed: Any) -> Body:
    return {"node": node, "selection": "matched", "phase": "executing", "workers": 2, "reason": "", **changed}


def a_suite(suite: int = 5, name: str = "etl", tasks: Body | None = None, **changed: Any) -> Body:
    """A SuiteStatus."""
    return {
        "suite": suite,
        "uuid": "6ba7b810-9dad-81d1-80b4-00c04fd430c8",
        "name": name,
        "description": "",
        "group": "admin",
        "creator": "admin",
        "state": "OPEN",
        "reason": "",
        "priority": 0,
        "tags": [],
        "labels": [],
        "worker": {"worker_count": 2, "cpu_binding": None, "task_prefetch_count": 16, "kind": "process"},
        "hooks": NO_HOOKS,
        "tasks": {**NONE, **(tasks or {})},
        "nodes": [a_node()],
        "created_at": AT,
        "submitted_at": None,
        "completed_at": None,
        **changed,
    }


def a_task(task: int = 7, **changed: Any) -> Body:
    """A TaskStatus."""
    return {
        "task": task,
        "uuid": "6ba7b810-9dad-81d1-80b4-00c04fd430c9",
        "suite": 5,
        "group": "admin",
        "state": "FINISHED",
        "exec_state": "TaskCommitted",
        "priority": 0,
        "labels": [],
        "attempt": 1,
        "node": "local",
        "worker": "suite-5.w0",
        "command": "sort f",
        "exit_status": 0,
        "message": "",
        "submitted_at": AT,
        "started_at": AT + 1,
        "finished_at": AT + 3.5,
        **changed,
    }


def a_detail(status: Body | None = None, tail: str = "hi\n", **changed: Any) -> Body:
    """A TaskDetail."""
    told = status or a_task()
    result = {"exit_status": told["exit_status"], "message": told["message"], "tail": tail, "value": None}
    return {
        "status": told,
        "spec": {"args": ["sort", "f"]},
        "result": result if told["finished_at"] else None,
        "upstream": [],
        "downstream": [],
        "failures": [],
        "lines": ["it ended with exit status 0"],
        "artifacts": [],
        **changed,
    }


def known(*suites: Body) -> Callable[[Body], Body]:
    """Answers `suites` as the daemon does."""

    def answer(body: Body) -> Body:
        chosen = list(suites)
        if body.get("suites"):
            chosen = []
            for key in body["suites"]:
                found = [suite for suite in suites if key in (suite["name"], str(suite["suite"]))]
                if not found:
                    raise unknown(key)
                chosen += found
        return {"suites": chosen, "total": len(chosen)}

    return answer


def unknown(key: str) -> MgmtError:
    return MgmtError("unknown-suite", f"no suite {key!r} is known; `mgmt suite list` shows all", suite=key)
