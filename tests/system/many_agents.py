"""Agents as a stranger to this code would write them, many in one process: hello, heartbeats, acknowledgements."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import zmq

from mgmt.protocol import frames


@dataclass
class Simulated:
    """One agent; it carries out what it is told at once and reports so."""

    name: str
    socket: zmq.Socket[bytes]
    session: int = 0
    acked: int = 0
    beat_at_s: float = 0.0
    beats: int = 0
    tags: list[str] = field(default_factory=list)
    units: dict[str, dict[str, Any]] = field(default_factory=dict)
    told: int = 0  # the last push that the daemon knows of as carried out
    _changed: dict[str, None] = field(default_factory=dict)  # units that were not reported
    _staged: list[dict[str, Any]] = field(default_factory=list)  # workloads, likewise

    def hello(self) -> None:
        body = {
            "versions": [1],
            "node": self.name,
            "agent": f"agent-of-{self.name}",
            "machine_id": f"machine-of-{self.name}",
            "incarnation": 1,
            "started_at": time.time(),
            "version": "0",
            "pid": 1,
            "units": list(self.units.values()),
            "tags": self.tags,
        }
        self.socket.send(frames.encode_request(1, 0, "agent-hello", body))

    def tell(self, name: str, **body: Any) -> None:
        self.told = self.acked
        self.socket.send(frames.encode_notice(self.session, name, {"acked": self.acked, **body}))

    def receive(self) -> None:
        """Whatever is there."""
        while self.socket.poll(0):
            message = frames.decode([self.socket.recv()])
            if isinstance(message, frames.Reply):
                assert message.outcome == "ok", message.body
                self.session = message.body["session"]
            elif isinstance(message, frames.Notice) and message.name == "node-push":
                self.acked = message.body["seq"]
                self._carry_out(message.body["what"], message.body["body"])
            elif isinstance(message, frames.Notice) and message.name == "crew-work":
                self.on_work(message.body)
            elif isinstance(message, frames.Notice) and message.name == "node-gone":
                self.acked = self.told = 0  # another life of the daemon numbers anew
                self.hello()
            elif isinstance(message, frames.Notice) and message.name == "node-heartbeat":
                self.beats += 1
                self.beat_at_s = time.monotonic() + message.body["next_ns"] / 1e9
        if self.acked != self.told:
            units, staged = [self.units[name] for name in self._changed], list(self._staged)
            self.tell("agent-report", units=units, staged=staged)
            self._changed.clear()
            self._staged.clear()

    def _carry_out(self, what: str, body: dict[str, Any]) -> None:
        if what == "assign":
            self._assign(body)
            self._changed[body["unit"]] = None
        elif what == "stage":
            told = {"workload": body["workload"], "generation": body["generation"]}
            self._staged.append({**told, "started": False, "error": {}})

    def on_work(self, body: dict[str, Any]) -> None:
        """Tasks, for one that has a crew."""

    def _assign(self, body: dict[str, Any]) -> None:
        up = body["wanted"]
        self.units[body["unit"]] = {
            "unit": body["unit"],
            "epoch": body["epoch"],
            "state": "RUNNING" if up else "STOPPED",
            "reason": "simulated",
            "incarnation": body["incarnation"] + 1,
            "has_process": up,
            "leader_gone": False,
            "pid": 1 if up else None,
            "age_s": 0.0 if up else None,
            "restarts": 0,
            "ready": up,
            "protocols": [],
            "exit": None,
            "next_start_s": None,
            "cpus": [],
        }


class Crowd:
    """`count` agents that beat every `beat_s`, evenly spread."""

    def __init__(self, context: zmq.Context[Any], endpoint: str, count: int, beat_s: float) -> None:
        self._poller, self._beat_s = zmq.Poller(), beat_s
        self.agents: list[Simulated] = []
        begin_s = time.monotonic()
        for number in range(count):
            socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
            socket.setsockopt(zmq.LINGER, 0)
            socket.connect(endpoint)
            agent = Simulated(f"s{number:03}", socket, beat_at_s=begin_s + beat_s * number / count)
            agent.hello()
            self.agents.append(agent)
            self._poller.register(socket, zmq.POLLIN)
        self._by_socket = {agent.socket: agent for agent in self.agents}

    def live(self, seconds: float) -> None:
        """Beat and answer for so long."""
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self.turn(5)

    def turn(self, wait_ms: int) -> None:
        """What has come within so long, and the beats that are due."""
        for socket, _ in self._poller.poll(wait_ms):
            self._by_socket[socket].receive()
        now_s = time.monotonic()
        for agent in self.agents:
            if agent.session and agent.beat_at_s <= now_s:
                agent.beat_at_s = now_s + self._beat_s
                agent.tell("agent-heartbeat", clock_ns=time.monotonic_ns())

    def close(self) -> None:
        for agent in self.agents:
            agent.socket.close(0)
