"""Mode strict: the daemon admits what submitters send, and its schedule in force is what nodes get."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

from mgmt.client import AsyncClient
from mgmt.core.schedule.documents import read_nodes
from mgmt.core.schedule.workload import LOCAL
from mgmt.protocol.errors import MgmtError

from .faults import Fault, Unsent
from .plan import Plan, check_masks, document, in_force

log = logging.getLogger(__name__)

NAME = "timpani-gateway"
SUBMIT_TIMEOUT_S = 60.0
TRIES = 8  # a schedule that changes while its parts are asked for is asked for again
AGAIN_S = 0.5  # after the daemon was lost


class Strict:
    """`changed` is called with each new plan, `missed` with each `miss` event of the daemon's own nodes.

    `nodes`: parsed documents that describe the family's nodes; MgmtError `bad-workload` says what is wrong with
    them. While the daemon is away, the last plan holds: what it had in force it has again when it comes back.
    """

    def __init__(
        self,
        client: AsyncClient,
        nodes: Sequence[Any],
        changed: Callable[[Plan], None],
        missed: Callable[[dict[str, Any]], None],
        host: str = "",
    ) -> None:
        self._client = client
        self._nodes = list(nodes)
        self._changed, self._missed = changed, missed
        self._seen: int | None = None  # the last event that was looked at
        self._host = host or os.uname().nodename
        described = read_nodes(nodes)
        check_masks(described)
        self._taking_part = {self.canonical(node.name) for node in described}
        self._version = -1
        self._refreshing = asyncio.Lock()

    def canonical(self, node: str) -> str:
        """The daemon's name of a node: its own machine has two."""
        return LOCAL if node == self._host else node

    def takes_part(self, node: str) -> bool:
        """Whether the node is of this family: described to the gateway, or any when none is."""
        return not self._taking_part or node in self._taking_part

    async def submit(self, info: Any, timeout_s: float | None) -> None:
        """Put a SchedInfo in force in the place of the one of its name; MgmtError: nothing was changed."""
        body = {
            "documents": [document(info)],
            "nodes": self._nodes,
            "algorithm": "target_node_priority",
            "replace": True,
        }
        limit_s = SUBMIT_TIMEOUT_S if timeout_s is None else min(SUBMIT_TIMEOUT_S, timeout_s)
        reply = await self._client.request("schedule-submit", body, timeout_s=limit_s)
        try:
            await self._refresh(reply["version"])
        except MgmtError as error:  # it is in force all the same; `run` will learn it
            log.warning("the schedule in force could not be read again: %s", error)

    async def start(self) -> None:
        """Read what is in force; MgmtError when there is no daemon."""
        await self._refresh(0)

    async def run(self) -> None:
        """Follow the daemon's schedule until cancelled."""
        away = False
        while True:
            try:
                async for item in self._client.events(since=self._seen):
                    if away:
                        log.warning("the daemon answers again")
                        away = False
                    if item["kind"] == "snapshot":
                        self._version = -1  # of a daemon that may be another one
                        await self._refresh(0)
                        self._seen = item["seq"] if self._seen is None else min(self._seen, item["seq"])
                        continue
                    self._seen = item["seq"]
                    if item["kind"] == "fault":
                        if item["what"] == "miss" and not item["source"]:
                            self._missed(item)
                    elif item["kind"] == "schedule" and item["what"] != "refused":
                        await self._refresh(item["seq"])
            except MgmtError as error:
                if not away:
                    log.warning("the daemon is away, its last schedule holds: %s", error)
                    away = True
            await asyncio.sleep(AGAIN_S)

    async def report(self, fault: Fault, key: str) -> None:
        """Tell the daemon of a miss on one of the family's nodes; Unsent: it has to be said again."""
        miss = {"workload": fault.workload, "task": fault.task, "node": fault.node, "misses": fault.misses}
        try:
            await self._client.request("fault-report", {"source": NAME, "faults": [miss]}, key=key)
        except MgmtError as error:
            if error.row.retryable:
                raise Unsent(error.text) from None
            log.warning("the daemon does not take the miss of task %r: %s", fault.task, error)

    async def _refresh(self, version: int) -> None:
        """Know a schedule of this version or a later one."""
        async with self._refreshing:
            if self._version >= version:
                return
            reply = await self._all_parts()
            self._version = reply["version"]
            self._changed(in_force(reply, self.takes_part))

    async def _all_parts(self) -> dict[str, Any]:
        for _ in range(TRIES):
            reply = part = await self._client.request("schedule-show", {}, timeout_s=SUBMIT_TIMEOUT_S)
            while part["next"] is not None and part["version"] == reply["version"]:
                body = {"offset": part["next"]}
                part = await self._client.request("schedule-show", body, timeout_s=SUBMIT_TIMEOUT_S)
                reply["tasks"] += part["tasks"]
            if part["version"] == reply["version"]:
                return reply
        raise MgmtError("busy", "the schedule changed again and again while it was read; try again later")
