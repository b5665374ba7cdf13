"""A sink of faults as the family has them; it can hang, and can refuse.

    python -m tests.timpani.sink [--port PORT] [--count N]

Prints one JSON line a fault; ends after N of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import Any, NamedTuple

from mgmt.adapters.timpani import rpc


class Heard(NamedTuple):
    """A fault as it came; `metadata` has the gateway's additions."""

    workload: str
    node: str
    task: str
    type: int
    metadata: dict[str, str]


class Sink:
    """`async with Sink() as sink:` listens on `sink.port`. `answers` cleared: calls hang until it is set."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.heard: list[Heard] = []
        self.calls = 0
        self.status = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.news = asyncio.Event()
        self._server: Any = None

    async def __aenter__(self) -> Sink:
        self._server = rpc.server("FaultService", {"NotifyFault": self._notified})
        self.port = rpc.bind(self._server, "127.0.0.1", self.port, "--port")
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(grace=None)

    async def hears(self, count: int, timeout_s: float = 20.0) -> list[Heard]:
        """All that was heard, as soon as it is that much."""
        async with asyncio.timeout(timeout_s):
            while len(self.heard) < count:
                self.news.clear()
                await self.news.wait()
        return self.heard

    async def _notified(self, info: Any, context: Any) -> Any:
        self.calls += 1
        await self.answers.wait()
        metadata = {str(key): str(value) for key, value in context.invocation_metadata()}
        ours = {key: value for key, value in metadata.items() if key.startswith("mgmt-")}
        self.heard.append(Heard(info.workload_id, info.node_id, info.task_name, info.type, ours))
        self.news.set()
        return rpc.message("Response", status=self.status)


async def main(port: int, count: int | None) -> None:
    async with Sink(port) as sink:
        print(json.dumps({"port": sink.port}), flush=True)
        told = 0
        while count is None or told < count:
            await sink.hears(told + 1, timeout_s=1e9)
            for fault in sink.heard[told:count]:
                print(json.dumps(fault._asdict()), flush=True)
            told = len(sink.heard)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.timpani.sink", description="Hear of faults.")
    parser.add_argument("--port", type=int, default=50053)
    parser.add_argument("--count", type=int, help="end after this many")
    given = parser.parse_args()
    asyncio.run(main(given.port, given.count))
