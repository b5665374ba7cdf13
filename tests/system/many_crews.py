"""Agents with crews as a stranger would write them; their tasks take a moment and are no processes."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import zmq

from mgmt.protocol import frames
from tests.system.many_agents import Simulated

WANT = 4  # tasks at a time
LONGEST_S = 0.2


@dataclass
class Crewed(Simulated):
    """`ran`: by task, of all agents that share it. `slow`: it never reports what it has."""

    ran: Counter[int] = field(default_factory=Counter)
    chance: random.Random = field(default_factory=random.Random)
    slow: bool = False
    holder: int = 0
    number: int = 0
    busy: list[tuple[float, list[Any]]] = field(default_factory=list)  # when it is done, and how

    def _carry_out(self, what: str, body: dict[str, Any]) -> None:
        if what == "suite":
            self.holder, self.busy = body["holder"], []
            self.number = time.monotonic_ns() >> 10  # more than in any former life of the holder
            self.phase("executing", held=[])
            self.exchange([])
        elif what == "suite-end" and body["holder"] == self.holder:
            self.phase("idle")
            self.holder, self.busy = 0, []

    def phase(self, phase: str, held: list[list[int]] | None = None) -> None:
        body = {
            "holder": self.holder,
            "phase": phase,
            "reason": "",
            "failed": False,
            "completed": 0,
            "held": held,
        }
        self.socket.send(frames.encode_notice(self.session, "crew-phase", body))

    def exchange(self, outcomes: list[list[Any]]) -> None:
        self.number += 1
        self._exchange(self.holder, self.number, WANT, outcomes)

    def tell_late(self, holder: int, outcomes: list[list[Any]]) -> None:
        """What it had done for a former holder, as if it had been told then."""
        self._exchange(holder, 1, 0, outcomes)

    def _exchange(self, holder: int, number: int, want: int, outcomes: list[list[Any]]) -> None:
        body = {"holder": holder, "number": number, "want": want, "outcomes": outcomes, "states": []}
        self.socket.send(frames.encode_notice(self.session, "crew-exchange", body))

    def on_work(self, body: dict[str, Any]) -> None:
        if body["holder"] != self.holder or body["number"] != self.number:
            return
        for task, attempt, *_ in body["tasks"]:
            self.ran[task] += 1
            now_ns = time.time_ns()
            done = ["done", task, attempt, 0, "", now_ns, now_ns, self.name.encode(), {}, "w"]
            self.busy.append((time.monotonic() + self.chance.uniform(0.0, LONGEST_S), done))
        if not self.busy:
            self.exchange([])  # an answer without tasks: it asks anew, and waits for work

    def work(self) -> None:
        """Report everything at once when the last of it is done."""
        if self.busy and not self.slow and max(at_s for at_s, _ in self.busy) <= time.monotonic():
            done, self.busy = [one for _, one in self.busy], []
            self.exchange(done)

    def late(self) -> list[list[Any]]:
        """What it has and did not report."""
        return [one for _, one in self.busy]


class Crews:
    """`count` agents with crews; beats every `beat_s`."""

    def __init__(self, context: zmq.Context[Any], endpoint: str, count: int, beat_s: float) -> None:
        self._context, self._endpoint, self._beat_s = context, endpoint, beat_s
        self._poller = zmq.Poller()
        self.ran: Counter[int] = Counter()
        self.chance = random.Random(count)
        self.agents: dict[str, Crewed] = {}
        for number in range(count):
            self.join(f"s{number:03}")

    def join(self, name: str) -> Crewed:
        socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(self._endpoint)
        beat_at_s = time.monotonic() + self.chance.uniform(0.0, self._beat_s)
        agent = Crewed(name, socket, beat_at_s=beat_at_s, tags=["crowd"], ran=self.ran, chance=self.chance)
        agent.hello()
        self._poller.register(socket, zmq.POLLIN)
        self.agents[name] = agent
        return agent

    def kill(self, name: str) -> Crewed:
        """It is gone without a word."""
        agent = self.agents.pop(name)
        self._poller.unregister(agent.socket)
        agent.socket.close(0)
        return agent

    def turn(self, wait_ms: int = 5) -> None:
        ready = dict(self._poller.poll(wait_ms))
        now_s = time.monotonic()
        for agent in self.agents.values():
            if agent.socket in ready:
                agent.receive()
            agent.work()
            if agent.session and agent.beat_at_s <= now_s:
                agent.beat_at_s = now_s + self._beat_s
                agent.tell("agent-heartbeat", clock_ns=time.monotonic_ns())

    def close(self) -> None:
        for name in list(self.agents):
            self.kill(name)
