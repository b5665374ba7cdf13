"""Real agents beside a real daemon, and a TCP proxy between them that can be cut."""

from __future__ import annotations

import selectors
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.system.clients import PATIENCE_S, eventually
from tests.system.daemon import Daemon, Start

BEAT_S, LOST_S = 0.3, 1.2
TIMING = {"node_heartbeat_s": BEAT_S, "node_lost_s": LOST_S}


class Agent(Daemon):
    """`python -m mgmt --join`: everything of a daemon in folders of its own, but its configuration."""

    def __init__(self, join: str, name: str, *arguments: str, **keys: Any) -> None:
        super().__init__(None, "--join", join, "--name", name, *arguments, **keys)
        self.name = name
        self.config = {"endpoints": {}}
        self.arguments = (*self.arguments, "--state-dir", str(self.state_dir))

    def _command(self, without_config: bool) -> list[str]:
        return [sys.executable, "-m", "mgmt", *self.arguments]


def nodes_endpoint(daemon_folder: Path) -> str:
    return f"ipc://{daemon_folder}/run/nodes"


def node(daemon: Daemon, name: str) -> dict[str, Any]:
    """The NodeStatus of that name."""
    status: dict[str, Any]
    (status,) = daemon.control.ok("nodes", nodes=[name])["nodes"]
    return status


def measured(daemon: Daemon, name: str) -> dict[str, Any]:
    """The NodeStatus as soon as the way to the node and back is known."""

    def look() -> dict[str, Any] | None:
        status = node(daemon, name)
        return status if status["round_trip_ms"] is not None else None

    status = eventually(look, what=f"a heartbeat of {name} came back")
    assert status is not None
    return status


def becomes(daemon: Daemon, name: str, state: str, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
    """The NodeStatus as soon as the node is in the state."""

    def look() -> dict[str, Any] | None:
        found = [one for one in daemon.control.ok("nodes")["nodes"] if one["node"] == name]
        return found[0] if found and found[0]["state"] == state else None

    status = eventually(look, timeout_s, f"node {name} becomes {state}")
    assert status is not None
    return status


Join = Callable[..., Agent]


@contextmanager
def agents() -> Iterator[Join]:
    """A function that makes running agents; all of them are ended and checked at the end of the block."""
    with ExitStack() as stack:

        def make(join: Daemon | str, name: str, *arguments: str, run: bool = True, **keys: Any) -> Agent:
            endpoint = join if isinstance(join, str) else join.config["endpoints"]["nodes"]
            endpoint = endpoint if isinstance(join, str) else endpoint.replace("{runtime}", str(join.runtime))
            agent = Agent(endpoint, name, *arguments, **keys)
            stack.enter_context(agent)
            if not run:
                return agent
            agent.start()
            if isinstance(join, Daemon):
                becomes(join, name, "ALIVE")
            return agent

        yield make


def a_daemon(start: Start, units: dict[str, Any] | None = None, *, run: bool = True, **keys: Any) -> Daemon:
    """A daemon that agents of this machine may join, with short heartbeats."""
    endpoints = {"nodes": "ipc://{runtime}/nodes", **keys.pop("endpoints", {})}
    backends = keys.pop("model_backends", {})
    timing = {**TIMING, **keys.pop("timing", {})}
    whole = {"model_backends": backends, "units": units or {}, "endpoints": endpoints, "timing": timing}
    return start({**whole, **keys}, run=run)


def sleeper(node: str | dict[str, Any] | None = "n1", **keys: Any) -> dict[str, Any]:
    """A plain unit that says a word and stays."""
    command = ["sh", "-c", "echo started; exec sleep 1000"]
    return {
        "command": command,
        "node": node,
        "grace_s": 2.0,
        "restart": {"delay_s": 0.1, "jitter": 0.0},
        **keys,
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Proxy:
    """Forwards TCP connections to a port, in a thread. `to`, `back`: whether that direction carries anything.

    What arrives in a direction that does not carry is swallowed, and nothing is closed; `reset` closes everything;
    `refuses` takes no new connection. `delay_s` holds everything up for so long. `allowance`: so many bytes are
    still carried to the target, and back; the first that is more cuts both ways.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.to, self.back, self.refuses = True, True, False
        self.delay_s = 0.0
        self.allowance: dict[bool, int] = {}  # by whether it is towards the target
        self.carried = {True: 0, False: 0}
        self._reset = self._ended = False
        self._pairs: dict[socket.socket, tuple[socket.socket, bool]] = {}  # the other end, towards the target
        self._held: deque[tuple[float, socket.socket, bytes]] = deque()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def cut(self) -> None:
        self.to = self.back = False

    def heal(self) -> None:
        self.to = self.back = True

    def reset(self) -> None:
        """Close every connection; new ones are taken, unless it `refuses`."""
        self._reset = True

    def close(self) -> None:
        self._ended = True
        self._thread.join()

    def _run(self) -> None:
        while not self._ended:
            for key, _ in self._selector.select(0.01):
                end = key.fileobj
                assert isinstance(end, socket.socket)
                if end is self._listener:
                    self._accept()
                elif end in self._pairs:
                    self._forward(end)
            while self._held and self._held[0][0] <= time.monotonic():
                _, end, data = self._held.popleft()
                self._send(end, data)
            if self._reset:
                for end in list(self._pairs):
                    self._drop(end)
                self._reset = False
        for end in list(self._pairs):
            self._drop(end)
        self._selector.close()
        self._listener.close()

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        try:
            if self.refuses:
                raise ConnectionRefusedError
            far = socket.create_connection(("127.0.0.1", self.target))
        except OSError:
            near.close()
            return
        self._pairs |= {near: (far, True), far: (near, False)}
        for one in (near, far):
            self._selector.register(one, selectors.EVENT_READ)

    def _forward(self, end: socket.socket) -> None:
        other, to = self._pairs[end]
        try:
            data = end.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            # While nothing is carried, the other side does not hear of the end either.
            if self.to and self.back:
                self._drop(end)
            else:
                self._selector.unregister(end)
        elif self.to if to else self.back:
            self.carried[to] += len(data)
            if to in self.allowance:
                self.allowance[to] -= len(data)
                if self.allowance[to] < 0:
                    del self.allowance[to]
                    self.cut()
                    return
            if self.delay_s:
                self._held.append((time.monotonic() + self.delay_s, other, data))
            else:
                self._send(other, data)

    def _send(self, end: socket.socket, data: bytes) -> None:
        try:
            end.sendall(data)
        except OSError:
            self._drop(end)

    def _drop(self, end: socket.socket) -> None:
        if end not in self._pairs:
            return  # its other end went first
        other, _ = self._pairs.pop(end)
        del self._pairs[other]
        for one in (end, other):
            if one in self._selector.get_map():
                self._selector.unregister(one)
            one.close()
