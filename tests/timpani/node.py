"""A node as the family has them: it fetches its tasks, waits for the common start, reports misses.
It runs nothing.

    python -m tests.timpani.node [--target HOST:PORT] -n NODE [--miss TASK ...]

Prints one JSON value: the tasks, the start instant in ns, and the status of each report.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Any

import grpc
import grpc.aio

from mgmt.adapters.timpani import rpc

TRIES, AGAIN_S = 300, 1.0  # of an ancestor's node, to find a workload


class Node:
    """One node's calls; grpc.aio.AioRpcError as the gateway answers them."""

    def __init__(self, target: str, node_id: str) -> None:
        self.node_id = node_id
        self._channel = rpc.channel(target)
        self._get, self._sync, self._miss = (
            rpc.call(self._channel, "NodeService", name)
            for name in ("GetSchedInfo", "SyncTimer", "ReportDMiss")
        )

    async def __aenter__(self) -> Node:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def schedule(self) -> Any:
        """Its NodeSchedResponse."""
        return await self._get(rpc.message("NodeSchedRequest", node_id=self.node_id), timeout=30.0)

    async def first_schedule(self, again_s: float = AGAIN_S) -> Any:
        """Its NodeSchedResponse as soon as a workload is in force."""
        for _ in range(TRIES - 1):
            try:
                return await self.schedule()
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE):
                    raise
            await asyncio.sleep(again_s)
        return await self.schedule()

    async def start_ns(self, timeout_s: float | None = None) -> int:
        """The common start, ns on CLOCK_REALTIME."""
        answer = await self._sync(rpc.message("SyncRequest", node_id=self.node_id), timeout=timeout_s)
        assert answer.ack and 0 <= answer.start_time_nsec < 1_000_000_000, answer
        return int(answer.start_time_sec) * 1_000_000_000 + int(answer.start_time_nsec)

    async def miss(self, task: str) -> Any:
        """The NodeResponse to a missed deadline."""
        return await self._miss(
            rpc.message("DeadlineMissInfo", node_id=self.node_id, task_name=task), timeout=30.0
        )


async def main(target: str, node_id: str, misses: list[str]) -> int:
    async with Node(target, node_id) as node:
        fetched = await node.first_schedule()
        start_ns = await node.start_ns()
        reports = {task: (await node.miss(task)).status for task in misses}
    tasks = [task.name for task in fetched.tasks]
    print(
        json.dumps(
            {"workload": fetched.workload_id, "tasks": tasks, "start_ns": start_ns, "reports": reports}
        )
    )
    return 0 if not any(reports.values()) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.timpani.node", description="Be a node.")
    parser.add_argument("--target", default="localhost:50054", metavar="HOST:PORT")
    parser.add_argument("-n", dest="node_id", default="1", metavar="NODE", help="its id (default: 1)")
    parser.add_argument(
        "--miss", action="append", default=[], metavar="TASK", help="report a miss of this task"
    )
    given = parser.parse_args()
    sys.exit(asyncio.run(main(given.target, given.node_id, given.miss)))
