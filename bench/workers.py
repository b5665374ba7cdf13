"""Workers without a daemon: how many tasks a second they do, fed over their sockets by a crew that only feeds."""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgpack
import psutil

from bench.figure import Figure
from mgmt.worker import PROGRAM, wire
from mgmt.worker.wire import Kind

SOURCE = Path(__file__).with_name("spawn_loop.c")
UUID = "01923456-0000-8000-8000-000000000000"
TRUE = msgpack.packb({"args": ["/bin/true"]})
NOTHING = msgpack.packb({"function": "bench.workers:nothing"})


def nothing() -> None:
    """What a resident worker calls."""


def workers(quick: bool) -> list[Figure]:
    rounds, processes, calls = (3, 1000, 20_000) if quick else (7, 4000, 100_000)
    with tempfile.TemporaryDirectory(prefix="mgmt-bench-workers-") as name:
        folder = Path(name)
        loop = folder / "spawn_loop"
        subprocess.run(["cc", "-O2", "-o", str(loop), str(SOURCE)], check=True)
        floor: list[float] = []
        ours: list[float] = []
        called: list[float] = []
        call_us: list[float] = []
        with Pool([str(PROGRAM)], 2, folder / "process") as pool:
            for _ in range(rounds):
                command = [str(loop), str(processes), "2", "/bin/true"]
                floor.append(float(subprocess.run(command, check=True, capture_output=True).stdout))
                ours.append(pool.rate(TRUE, processes, 8))
            one_ms = [1e3 / pool.rate(TRUE, 1, 1) for _ in range(50)]
        with Pool([sys.executable, "-m", "mgmt.worker.resident"], 1, folder / "resident") as pool:
            pool.rate(NOTHING, 1000, 500)
            for _ in range(rounds):
                before_s = pool.cpu_s()
                called.append(pool.rate(NOTHING, calls, 500))
                call_us.append((pool.cpu_s() - before_s) / calls * 1e6)
            one_call_ms = [1e3 / pool.rate(NOTHING, 1, 1) for _ in range(200)]
    return [
        Figure("/bin/true as a task, 2 workers", "1/s", ours, floor, "posix_spawn loop, 2 in flight",
               sense="ratio>=", goal=0.6,
               note="the loop starts one process at a time, two workers start two: above 1 is possible"),
        Figure("CPU time of a worker for a call", "µs", call_us, sense="value<=", goal=16.6,
               note="60,000 calls a second on a CPU of its own"),
        Figure("calls of a function, 1 worker", "1/s", called,
               note="fed by a loop in Python, which is as busy as the worker"),
        Figure("one process, sent to done", "ms", one_ms, sense="value<=", goal=2),
        Figure("one call, sent to done", "ms", one_call_ms, sense="value<=", goal=1),
    ]  # fmt: skip


class Pool:
    """Some workers of one kind, and the crew's end of their sockets."""

    def __init__(self, command: Sequence[str], count: int, folder: Path) -> None:
        folder.mkdir()
        self._select = selectors.DefaultSelector()
        self._task = 0
        self._peers: list[Peer] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        options = ["--socket", str(folder / "crew"), "--unit", "bench", "--incarnation", "0"]
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "crew"))
            listener.listen()
            listener.settimeout(20)
            for number in range(count):
                self._processes.append(subprocess.Popen([*command, *options]))
                peer = Peer(listener.accept()[0], folder / f"worker{number}")
                self._select.register(peer.socket, selectors.EVENT_READ, peer)
                self._peers.append(peer)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        for peer in self._peers:
            peer.socket.sendall(wire.encode(Kind.STOP, True))
        for process in self._processes:
            process.wait(20)
        for peer in self._peers:
            peer.socket.close()
        self._select.close()

    def cpu_s(self) -> float:
        """What the workers have used so far."""
        times = [psutil.Process(process.pid).cpu_times() for process in self._processes]
        return sum(used.user + used.system for used in times)

    def rate(self, spec: bytes, count: int, batch: int) -> float:
        """Tasks per second of `count`, with one batch running and one waiting at each worker."""
        left, done = count, 0
        started = time.perf_counter()
        for peer in self._peers:
            left -= self._feed(peer, spec, min(2 * batch, left))
        while done < count:
            for key, _ in self._select.select():
                peer = key.data
                done += peer.receive()
                if peer.waiting <= batch:
                    left -= self._feed(peer, spec, min(2 * batch - peer.waiting, left))
        return count / (time.perf_counter() - started)

    def _feed(self, peer: Peer, spec: bytes, count: int) -> int:
        messages = [wire.encode(Kind.TAKEN, peer.taken)]
        for task in range(self._task, self._task + count):
            messages.append(wire.encode(Kind.RUN, task, 1, spec, UUID, None))
        self._task += count
        peer.waiting += count
        peer.socket.sendall(b"".join(messages))
        return count


class Peer:
    """One worker's connection."""

    def __init__(self, connection: socket.socket, place: Path) -> None:
        self.socket = connection
        self.waiting = self.taken = 0
        self._decoder = wire.Decoder()
        connection.settimeout(20)
        list(self._decoder.feed(connection.recv(65536)))
        environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        rules = {"env": environ, "folder": str(place), "grace_s": 1, "output_limit_bytes": 0}
        connection.sendall(wire.encode(Kind.WELCOME, rules))

    def receive(self) -> int:
        """How many have ended. RuntimeError when one did not end well."""
        count = 0
        for message in self._decoder.feed(self.socket.recv(1 << 20)):
            if message[0] == Kind.DONE:
                count += 1
                if message[3] != 0:
                    raise RuntimeError(f"a task of the measurement failed: {message}")
        self.waiting -= count
        self.taken += count
        return count
