"""A submitter as the family has them: it sends a SchedInfo and looks at the status in the answer.

    python -m tests.timpani.submitter [--target HOST:PORT] FILE

FILE is a SchedInfo in protobuf's JSON: {"workload_id": "w", "tasks": [{"name": "a", "period": 10000, ...}]}.
Exits 0 when the status is 0, 1 otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from mgmt.adapters.timpani import rpc


class Outcome(NamedTuple):
    """What came back; `code` and `reason` are empty when nothing was refused."""

    status: int
    code: str = ""
    reason: str = ""


def a_task(name: str, node: str = "node01", **fields: Any) -> dict[str, Any]:
    """A TaskInfo that fits anywhere, but for `fields`."""
    usual = {"period": 10_000, "runtime": 1_000, "deadline": 10_000, "policy": 1, "priority": 50}
    return {"name": name, "node_id": node, **usual, **fields}


def sched_info(workload: str, *tasks: dict[str, Any]) -> Any:
    return rpc.message("SchedInfo", workload_id=workload, tasks=[rpc.message("TaskInfo", **t) for t in tasks])


class Submitter:
    """`async with Submitter("127.0.0.1:50052") as submitter: await submitter.add(sched_info(...))`"""

    def __init__(self, target: str) -> None:
        self._channel = rpc.channel(target)
        self._add = rpc.call(self._channel, "SchedInfoService", "AddSchedInfo")

    async def __aenter__(self) -> Submitter:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def add(self, info: Any, timeout_s: float = 30.0) -> Outcome:
        """Send it; grpc.aio.AioRpcError when gRPC itself fails."""
        call: Any = self._add(info, timeout=timeout_s)
        answer = await call
        told = dict(await call.trailing_metadata())
        return Outcome(answer.status, told.get("mgmt-code", ""), told.get("mgmt-reason-bin", b"").decode())


async def main(target: str, told: dict[str, Any]) -> int:
    from google.protobuf.json_format import ParseDict

    info = ParseDict(told, sched_info(""))
    async with Submitter(target) as submitter:
        outcome = await submitter.add(info)
    print(f"status {outcome.status}", *filter(None, (outcome.code, outcome.reason)))
    return 0 if outcome.status == 0 else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m tests.timpani.submitter", description="Submit a workload."
    )
    parser.add_argument("--target", default="localhost:50052", metavar="HOST:PORT")
    parser.add_argument("file", type=Path, help="a SchedInfo in protobuf's JSON")
    given = parser.parse_args()
    sys.exit(asyncio.run(main(given.target, json.loads(given.file.read_text()))))
