"""Task suites of a private daemon, as a program with the client library has them."""

from __future__ import annotations

import json
import math
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import daemon, installed
from mgmt.client import Client

# It calls nothing of anybody: what is measured is the way there and back.
CALL: dict[str, Any] = {"function": "builtins:bool"}
TRUE: dict[str, Any] = {"args": ["/bin/true"]}
BATCH = 1000
IN_FLIGHT = 4
WARM = 100
LIMIT_S = 600.0
PEERS = Path(__file__).with_name("suite_peers.py")


class Work:
    """One suite of the daemon's own machine, with its workers up."""

    def __init__(self, client: Client, kind: str, workers: int = 2) -> None:
        self._client = client
        self._task = CALL if kind == "resident" else TRUE
        self._ended = 0
        # Nobody has the tag: the node is named, so that no other gets any of it.
        schedule = {"kind": kind, "worker_count": workers}
        self.suite = str(client.request("suite-create", {"tags": ["bench"], "worker": schedule})["suite"])
        client.request("suite-agents", {"suite": self.suite, "add": ["local"]})
        self.submit(WARM)
        self.finish()

    def submit(self, count: int, task: dict[str, Any] | None = None) -> None:
        """Queue so many, in batches, a few of them on their way at a time; all are durable when it returns."""
        waiting: deque[int] = deque()
        for start in range(0, count, BATCH):
            tasks = [task or self._task] * min(BATCH, count - start)
            waiting.append(self._client.submit("task-submit", {"suite": self.suite, "tasks": tasks}))
            if len(waiting) == IN_FLIGHT:
                self._client.collect(waiting.popleft())
        for id in waiting:
            self._client.collect(id)

    def finish(self) -> None:
        """Wait until all have ended."""
        self._client.request("suite-wait", {"suite": self.suite, "condition": "complete"}, timeout_s=LIMIT_S)

    def pause(self, paused: bool) -> None:
        self._client.request("worker-pause", {"node": "local", "paused": paused})

    def rate(self, count: int) -> float:
        """Tasks a second, from the first submission until all have ended."""
        started_s = time.perf_counter()
        self.submit(count)
        self.finish()
        return count / (time.perf_counter() - started_s)

    def rate_of(self, count: int, queued: int) -> float:
        """Tasks a second of the first `count` of so many that are queued; the others are cancelled."""
        self.pause(True)
        self.submit(queued)
        before = self._finished()
        self.pause(False)
        started_s = time.perf_counter()
        while (done := self._finished() - before) < count:
            time.sleep(0.01)
        rate = done / (time.perf_counter() - started_s)
        self.cancel()
        return rate

    def cancel(self) -> None:
        """For good."""
        self._client.request("suite-cancel", {"suite": self.suite, "cancel_running": True})
        self._client.request("suite-wait", {"suite": self.suite})

    def once_ms(self) -> float:
        """One task, from its submission until it is known to have ended."""
        started_s = time.perf_counter()
        self._client.request("task-submit", {"suite": self.suite, "tasks": [self._task], "wait": True})
        return (time.perf_counter() - started_s) * 1e3

    def value(self, task: dict[str, Any]) -> Any:
        """What a function returns."""
        told = self._client.request("task-submit", {"suite": self.suite, "tasks": [task]})
        self._client.request("task-wait", {"task": told["tasks"][0]})
        return self._client.request("task-show", {"task": told["tasks"][0]})["result"]["value"]

    def _finished(self) -> int:
        (told,) = self._client.request("suites", {"suites": [self.suite]})["suites"]
        finished: int = told["tasks"]["finished"]
        return finished


def client_of(ours: daemon.Daemon) -> Client:
    return Client(ours.control, timeout_s=LIMIT_S)


def fetch_counts(client: Client) -> dict[float, float]:
    """By upper bound in s: how many fetches of tasks took no longer, in the daemon's life."""
    metrics = client.request("metrics")["metrics"]
    (fetches,) = [one for one in metrics if one["name"].endswith("task_fetch_latency_seconds")]
    return {
        math.inf if sample["labels"]["le"] == "+Inf" else float(sample["labels"]["le"]): sample["value"]
        for sample in fetches["samples"]
        if sample["name"].endswith("_bucket")
    }


def quantile_ms(before: dict[float, float], after: dict[float, float], share: float) -> float:
    """Of the fetches between two looks, as Prometheus estimates it: a line within the bucket."""
    counts = {edge_s: after[edge_s] - before[edge_s] for edge_s in sorted(after)}
    wanted, low_s, below = share * counts[math.inf], 0.0, 0.0
    for edge_s, count in counts.items():
        if count >= wanted:
            inside = (wanted - below) / (count - below) if count > below else 1.0
            return (low_s + (edge_s - low_s) * inside) * 1e3 if edge_s < math.inf else math.inf
        low_s, below = edge_s, count
    return math.inf


def peer(name: str, count: int, rounds: int) -> Sequence[float] | str:
    """Tasks a second of a queue that others wrote; or why there are none."""
    programs = installed.peers("hyperqueue" if name == "hyperqueue" else "queues")
    if isinstance(programs, str):
        return programs
    with tempfile.TemporaryDirectory(prefix="mgmt-bench-peer-") as folder:
        command = [str(programs / "python"), str(PEERS), name, str(count), str(rounds), folder]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S / 5, check=False)
        except subprocess.TimeoutExpired:
            return f"{name} did not do {rounds} times {count} tasks in {LIMIT_S / 5:g} s"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    if done.returncode:
        return f"{name} cannot run here: {lines[-1] if lines else done.returncode}"
    rates: list[float] = json.loads(lines[-1])
    return rates
