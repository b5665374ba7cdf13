"""Figures of starting and ending: loads, the daemon itself, the command line, and what the ancestor took."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from bench import daemon, wire
from bench.figure import Figure, interleave
from mgmt.protocol import frames

MGMT = str(Path(sys.executable).with_name("mgmt"))
IMPORTS = [sys.executable, "-c", "import zmq, msgpack, click"]
GRACE_S = 2.0  # of every backend in `daemon.configuration`
MS = 1e3


class BareParent:
    """The least a daemon can be: a blocking ROUTER that answers hello and ready of one backend."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.endpoint = f"ipc://{folder}/bare"
        self.router: zmq.Socket[bytes] = wire.CONTEXT.socket(zmq.ROUTER)
        self.router.setsockopt(zmq.RCVTIMEO, wire.RECEIVE_TIMEOUT_MS)
        self.router.setsockopt(zmq.LINGER, 0)
        self.router.bind(self.endpoint)
        self._started = 0

    def start_s(self, command: list[str]) -> tuple[float, float]:
        """Seconds from Popen to the answered ready, and from SIGTERM to the end."""
        self._started += 1
        environ = {
            **os.environ,
            "MGMT_ENDPOINT": self.endpoint,
            "MGMT_SERVE": f"ipc://{self.folder}/serve-{self._started}",
            "MGMT_UNIT": "bare-0",
            "MGMT_INCARNATION": "1",
            "MGMT_TOKEN": "token",
            "MGMT_MODEL": "bare",
            "MGMT_FULLNAME": "bare",
        }
        start = time.perf_counter()
        process = subprocess.Popen(command, env=environ)
        while True:
            peer, frame = self.router.recv_multipart()
            request = frames.decode([frame])
            if not isinstance(request, frames.Request):
                continue
            ready = request.verb == "backend-ready"
            body = {} if ready else {"version": 1, "session": 1, "epoch": 1, "heartbeat_s": 5.0}
            self.router.send_multipart([peer, frames.encode_reply(request.id, 1, "ok", body)])
            if ready:
                taken_s = time.perf_counter() - start
                start = time.perf_counter()
                process.terminate()
                process.wait()
                return taken_s, time.perf_counter() - start


def bare_stub_s(folder: str) -> float:
    """Seconds from Popen of the legacy stub to its answer to a handshake."""
    endpoint = f"ipc://{folder}/stub"
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, daemon.STUB, "--ipc-endpoint", endpoint], stdout=subprocess.DEVNULL
    )
    socket = wire.dealer(endpoint)
    wire.send(socket, [b""])
    wire.receive(socket)
    taken_s = time.perf_counter() - start
    socket.close(0)
    process.kill()
    process.wait()
    os.unlink(endpoint.removeprefix("ipc://"))
    return taken_s


def load(quick: bool) -> list[Figure]:
    """load-model and unload-model against a bare Popen of the same command."""
    rounds = 5 if quick else 15
    unloads: list[float] = []
    bare_ends: list[float] = []
    with daemon.running() as ours, tempfile.TemporaryDirectory() as folder:
        bare, session, legacy = BareParent(folder), wire.Control(ours.control), wire.Legacy(ours.commands)

        def timed(call: Callable[[], Any]) -> float:
            start = time.perf_counter()
            call()
            return (time.perf_counter() - start) * MS

        def load_ms(model: str) -> float:
            taken_ms = timed(lambda: session.call("load-model", {"model": model}))
            unloads.append(timed(lambda: session.call("unload-model", {"model": model})))
            return taken_ms

        def load_stub_ms() -> float:
            taken_ms = timed(lambda: legacy.call("load-model", model_name="stub"))
            legacy.call("unload-model", model_name="stub")
            return taken_ms

        def bare_ms(command: list[str]) -> float:
            started_s, ended_s = bare.start_s(command)
            bare_ends.append(ended_s * MS)
            return started_s * MS

        load_ms("echo")  # the first one writes and reads what the others find cached
        bare_ms(daemon.ECHO)
        unloads.clear()
        bare_ends.clear()
        echo, bare_echo = interleave(rounds, lambda: load_ms("echo"), lambda: bare_ms(daemon.ECHO))
        unload, bare_end = unloads[:], bare_ends[:]
        small, bare_small = interleave(rounds, lambda: load_ms("bench"), lambda: bare_ms(daemon.BACKEND))
        stub, bare_stub = interleave(rounds, load_stub_ms, lambda: bare_stub_s(folder) * MS)
    popen = "bare Popen"
    return [
        Figure("load-model echo, spawn to READY", "ms", echo, bare_echo, popen, "ratio<=", 1.3),
        Figure("load-model of the smallest backend", "ms", small, bare_small, popen),
        Figure("legacy load-model of the stub", "ms", stub, bare_stub, popen, "ratio<=", 1.3),
        Figure("unload-model echo", "ms", unload, bare_end, "bare SIGTERM"),
    ]


def command_line(quick: bool) -> list[Figure]:
    """`mgmt` as a process, as a shell sees it."""
    rounds = 7 if quick else 25
    with daemon.running() as ours, tempfile.TemporaryDirectory() as nobody:
        absent = {**ours.environ, "MGMT_ENDPOINT": f"ipc://{nobody}/control"}

        def process_ms(command: list[str], environ: dict[str, str], status: int = 0) -> Callable[[], float]:
            def once() -> float:
                start = time.perf_counter()
                done = subprocess.run(
                    command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
                )
                taken_ms = (time.perf_counter() - start) * MS
                if (done.returncode == 0) != (status == 0):
                    raise RuntimeError(f"{command} ended with {done.returncode}")
                return taken_ms

            return once

        session = wire.Control(ours.control)
        session.call("load-model", {"model": "bench"})
        imports, status, json_status, without = interleave(
            rounds,
            process_ms(IMPORTS, ours.environ),
            process_ms([MGMT, "status"], ours.environ),
            process_ms([MGMT, "status", "--json"], ours.environ),
            process_ms([MGMT, "status"], absent, 1),
        )
    floor = "imports"
    return [
        Figure("mgmt status as a process", "ms", status, imports, floor, "ratio<=", 1.8),
        Figure("mgmt status --json as a process", "ms", json_status, imports, floor, "ratio<=", 1.8),
        Figure("mgmt status without a daemon", "ms", without, imports, floor),
    ]


def ancestor(quick: bool) -> list[Figure]:
    """What the ancestor's users waited for; the goals are absolute and meant for a machine like its own."""
    rounds = 3 if quick else 9
    first, exits, deaths, beyond_grace, detached = (_samples(rounds, once) for once in (
        _start_ms, _exit_ms, _death_ms, _stop_beyond_grace_ms, _daemonize_ms,
    ))  # fmt: skip
    return [
        Figure("start to first status", "ms", first, note="the ancestor: 70–120 ms"),
        Figure("SIGTERM to exit, idle", "ms", exits, sense="value<", goal=100, note="the ancestor: 370–1000 ms"),
        Figure(
            "kill -9 of a backend to its event", "ms", deaths, sense="value<=", goal=50,
            note="the ancestor: up to 1000 ms",
        ),
        Figure(
            f"stop of two that ignore SIGTERM, beyond their grace of {GRACE_S:g} s", "ms", beyond_grace,
            sense="value<=", goal=250, note="the ancestor: both graces, one after the other",
        ),
        Figure(
            "start-service --daemonize", "ms", detached, sense="value<", goal=500, note="the ancestor: 4150 ms"
        ),
    ]  # fmt: skip


def _samples(rounds: int, once: Callable[[], float]) -> list[float]:
    return [once() for _ in range(rounds)]


def _start_ms() -> float:
    with daemon.place() as (folder, environ, command):
        start = time.perf_counter()
        process = subprocess.Popen(command, env=environ)
        legacy = wire.Legacy(f"ipc://{folder}/symphony-cli")
        legacy.call("status")
        taken_ms = (time.perf_counter() - start) * MS
        legacy.close()
        process.terminate()
        process.wait(daemon.STARTS_S)
    return taken_ms


def _exit_ms() -> float:
    with daemon.running() as ours:
        return _end_ms(ours)


def _end_ms(ours: daemon.Daemon) -> float:
    start = time.perf_counter()
    ours.process.terminate()
    ours.process.wait(daemon.STARTS_S)
    return (time.perf_counter() - start) * MS


def _stop_beyond_grace_ms() -> float:
    with daemon.running() as ours:
        session = wire.Control(ours.control)
        for model in ("stubborn-0", "stubborn-1"):
            session.call("load-model", {"model": model})
        session.close()
        return _end_ms(ours) - GRACE_S * MS


def _death_ms() -> float:
    with daemon.running() as ours:
        driver, watcher = wire.Control(ours.control), wire.Control(ours.control)
        pid = driver.call("load-model", {"model": "bench"})["pid"]
        watcher.call("subscribe")
        start = time.perf_counter()
        os.kill(pid, signal.SIGKILL)
        watcher.until_event(lambda body: body.get("was") == "RUNNING")
        return (time.perf_counter() - start) * MS


def _daemonize_ms() -> float:
    with daemon.place() as (folder, environ, _):
        start = time.perf_counter()
        config = str(folder / "config.json")
        started = subprocess.run(
            [MGMT, "start-service", "--daemonize", "--config", config],
            env=environ, stdout=subprocess.DEVNULL, check=True,
        )  # fmt: skip
        taken_ms = (time.perf_counter() - start) * MS
        assert started.returncode == 0
        session = wire.Control(f"ipc://{folder}/control")
        pid = session.call("status")["service"]["pid"]
        pidfd = os.pidfd_open(pid)
        os.kill(pid, signal.SIGTERM)
        poller = zmq.Poller()
        poller.register(pidfd, zmq.POLLIN)
        poller.poll(int(daemon.STARTS_S * MS))
        os.close(pidfd)
        session.close()
    return taken_ms
