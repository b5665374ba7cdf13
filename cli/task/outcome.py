"""Waiting for tasks that were submitted: how they ended, the worst of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mgmt.protocol.errors import MgmtError

from ..following import Patience
from ..meter import Meter

if TYPE_CHECKING:
    from mgmt.client import Client

CHUNK = 1000  # tasks that are looked at in one request
LOOK_EVERY_S = 0.5  # at how many have ended, while one of them is waited for
OPEN = ["PENDING", "READY", "RUNNING"]
FAILED = 1  # exit status for a task that has none of its own
MAX_STATUS = 255


class Outcome:
    """How many tasks are in which state at their end, and the highest exit status as a shell has it."""

    def __init__(self) -> None:
        self.states: Counter[str] = Counter()
        self.worst = 0

    def add(self, client: Client, tasks: list[int]) -> None:
        """Tasks that have ended."""
        good = {"tasks": tasks, "states": ["FINISHED"], "exit_status": "=0", "count_only": True}
        finished = client.request("tasks", good)["total"]
        if finished < len(tasks):
            rows = client.request("tasks", {"tasks": tasks, "limit": len(tasks)})["tasks"]
            self.states.update(row["state"] for row in rows)
            self.worst = max(self.worst, *map(_status, rows))
        else:
            self.states["FINISHED"] += finished


def _status(task: dict[str, Any]) -> int:
    status = task["exit_status"]
    if task["state"] != "FINISHED" or status is None:
        return max(FAILED, 0 if status is None else int(abs(status)))
    return int(min(MAX_STATUS, status if status >= 0 else 128 - status))


def wait_for(client: Client, spans: list[tuple[int, int]], end_s: float, meter: Meter) -> Outcome:
    """All these tasks have ended; MgmtError `expired` at `end_s` of the monotonic clock."""
    outcome = Outcome()
    total = sum(last - first + 1 for first, last in spans)
    patience = Patience()
    patience.heard()
    done = 0
    for tasks in _chunks(spans):
        while True:
            try:
                still = client.request("tasks", {"tasks": tasks, "states": OPEN, "limit": 1})
                meter.show(done + len(tasks) - still["total"], total)
                if not still["total"]:
                    break
                _wait_for_one(client, still["tasks"][0]["task"], end_s)
                patience.heard()
            except MgmtError as error:
                if error.code == "expired" and time.monotonic() >= end_s:
                    text = (
                        f"{done + len(tasks) - still['total']} of {total} tasks have ended; the others go on"
                    )
                    raise MgmtError("expired", text) from None
                if error.code != "expired":
                    patience.wait(error)
        done += len(tasks)
        outcome.add(client, tasks)
    return outcome


def _wait_for_one(client: Client, task: int, end_s: float) -> None:
    left_s = end_s - time.monotonic()
    try:
        client.request("task-wait", {"task": task}, timeout_s=max(0.01, min(LOOK_EVERY_S, left_s)))
    except MgmtError as error:
        if error.code != "expired" or left_s <= LOOK_EVERY_S:
            raise


def _chunks(spans: list[tuple[int, int]]) -> Iterator[list[int]]:
    for first, last in spans:
        for start in range(first, last + 1, CHUNK):
            yield list(range(start, min(start + CHUNK, last + 1)))
