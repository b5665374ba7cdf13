"""The daemon is killed in the midst of submissions: what it acknowledged is there, and nothing in part."""

from __future__ import annotations

import os
import random
import time
from fractions import Fraction
from typing import Any

import pytest

from mgmt.protocol import frames
from tests.system.clients import Native
from tests.system.daemon import Daemon, Start

POINTS = int(os.environ.get("MGMT_TEST_POINTS", "24"))
SEED = int(os.environ.get("MGMT_TEST_SEED", "20260101"))
IN_FLIGHT = 16
NAMES = [f"w{number}" for number in range(8)]
NODES = {"far": {"available_cpus": [0, 1, 2]}, "near": {"available_cpus": [0, 1]}}


class Asker:
    """Asks for one change after the other without waiting, and knows which were acknowledged."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.asked: dict[str, dict[str, Any]] = {}  # every document that was ever submitted, by its stamp
        self.stamp = self.acknowledged = 0
        # By name: the states that it may be in, from the last acknowledged one on, in the order of the requests
        # (0: before all): a stamp, or None.
        self.may_be: dict[str, dict[int, str | None]] = {name: {0: None} for name in NAMES}

    def document(self, name: str) -> dict[str, Any]:
        """A new one; the stamp in the names of its tasks tells it from all others."""
        self.stamp += 1
        tasks = []
        for number in range(self.draw.randint(1, 5)):
            period_us = self.draw.choice([5, 10, 20]) * 1000
            tasks.append(
                {
                    "name": f"{self.stamp}-{number}",
                    "period_us": period_us,
                    "wcet_us": self.draw.randint(100, period_us // 5),
                    "priority": self.draw.randint(1, 99),
                }
            )
        document = {"workload": name, "tasks": tasks, "nodes": NODES}
        self.asked[str(self.stamp)] = document
        return document

    def storm(self, control: Native, until: float) -> None:
        """Until the time comes; the answers that are there are taken on the way."""
        self.open: dict[int, str] = {}
        while time.monotonic() < until:
            if len(self.open) < IN_FLIGHT:
                name = self.draw.choice(NAMES)
                if self.draw.random() < 0.7:
                    id = control.ask("schedule-submit", documents=[self.document(name)], replace=True)
                    self.may_be[name][id] = str(self.stamp)
                else:
                    id = control.ask("schedule-remove", workload=name)
                    self.may_be[name][id] = None
                self.open[id] = name
            self._take(control, wait_ms=0 if len(self.open) < IN_FLIGHT else 5)

    def drain(self, control: Native) -> None:
        """What was answered before the daemon died."""
        self._take(control, wait_ms=50)

    def _take(self, control: Native, wait_ms: int) -> None:
        while self.open and control.socket.poll(wait_ms):
            reply = frames.decode(control.receive())
            assert isinstance(reply, frames.Reply)
            known = self.may_be[self.open.pop(reply.id)]
            if reply.outcome == "ok":
                self.acknowledged += 1
                for id in [id for id in known if id < reply.id]:
                    del known[id]
            else:
                del known[reply.id]

    def check(self, control: Native) -> None:
        shown = control.ok("schedule-show")
        assert shown["next"] is None
        by_name: dict[str, list[dict[str, Any]]] = {}
        for row in shown["tasks"]:
            by_name.setdefault(row["workload"], []).append(row)
        assert set(by_name) == {row["workload"] for row in shown["workloads"]}
        for name in NAMES:
            rows = by_name.get(name, [])
            stamps = {row["task"].partition("-")[0] for row in rows}
            assert len(stamps) <= 1, f"{name} is mixed of {stamps}"
            state = next(iter(stamps), None)
            known = self.may_be[name].values()
            assert state in known, f"{name} is {state}, may be {list(known)}"
            if state is not None:
                wanted = {task["name"]: task for task in self.asked[state]["tasks"]}
                assert {row["task"] for row in rows} == set(wanted) and len(rows) == len(wanted)
                assert all(row["wcet_us"] == wanted[row["task"]]["wcet_us"] for row in rows)
            self.may_be[name] = {0: state}
        loads: dict[tuple[str, int], Fraction] = {}
        for row in shown["tasks"]:
            place = row["node"], row["cpu"]
            loads[place] = loads.get(place, Fraction()) + Fraction(row["wcet_us"], row["period_us"])
            assert row["response_us"] <= row["deadline_us"]
        assert all(load <= 1 for load in loads.values())


@pytest.mark.timeout(60 + 2 * POINTS)
def test_a_daemon_killed_in_the_midst_of_submissions_loses_and_doubles_nothing(start: Start) -> None:
    draw = random.Random(SEED)
    daemon: Daemon = start()
    asker = Asker(draw)
    seen = 0  # tasks that a next daemon found
    for _ in range(POINTS):
        control = daemon.control
        asker.storm(control, time.monotonic() + draw.uniform(0.01, 0.25))
        assert daemon.process is not None
        daemon.process.kill()
        daemon.process.wait(20)
        asker.drain(control)
        daemon.crash()
        daemon.start()
        asker.check(daemon.control)
        seen += daemon.control.ok("schedule-show")["total"]
    assert seen > 0 and asker.acknowledged > POINTS
