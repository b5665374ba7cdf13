"""Supervisors of so many `sleep infinity`, seen alike: by their children in /proc and by their own clients."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench import daemon, mini

COMMAND = mini.COMMAND
LIMIT_S = 60.0
LOOK_S = 5e-5  # a rest between two looks: an observer that spins takes a CPU from whom it observes
MGMT = str(Path(sys.executable).with_name("mgmt"))


def children(pid: int) -> list[int]:
    """Those that its main thread started."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb", buffering=0) as file:
            return [int(child) for child in file.read().split()]
    except OSError:
        return []


def is_executed(pid: int) -> bool:
    """Whether it is the unit's program already, and not what is about to execute it."""
    try:
        with open(f"/proc/{pid}/comm", "rb", buffering=0) as file:
            return file.read() == b"sleep\n"
    except OSError:
        return False


class Supervisor:
    """One with `count` units; `pid` is its own."""

    name = "mini"

    def __init__(self, pid: int, count: int) -> None:
        self.pid = pid
        self.count = count

    def unit_of(self, child: int) -> int | None:
        """The unit's process behind a child of the supervisor, once its program is executed."""
        return child if is_executed(child) else None

    def units(self) -> dict[int, int]:
        """Every child that has its unit running: its pid and the unit's."""
        pairs = ((child, self.unit_of(child)) for child in children(self.pid))
        return {child: unit for child, unit in pairs if unit is not None}

    def wait_for_all(self) -> None:
        seen: set[int] = set()
        end = time.monotonic() + LIMIT_S
        while len(seen) < self.count:
            for child in children(self.pid):
                if child not in seen and self.unit_of(child) is None:
                    break  # looking at those behind it, too, would take a CPU from whom is measured
                seen.add(child)
            if time.monotonic() > end:
                raise TimeoutError(f"{self.name}: {len(seen)} of {self.count} units are there")
            time.sleep(0.001)

    def wait_for_none(self) -> None:
        end = time.monotonic() + LIMIT_S
        while left := children(self.pid):
            if time.monotonic() > end:
                raise TimeoutError(f"{self.name}: {len(left)} units are left after a stop")
            time.sleep(0.01)

    def respawn_ms(self) -> float:
        """From SIGKILL of one unit until its successor's program is seen in /proc."""
        known = self.units()
        start = time.perf_counter()
        os.kill(next(iter(known.values())), signal.SIGKILL)
        while True:
            for child in children(self.pid):
                if child not in known and self.unit_of(child) is not None:
                    return (time.perf_counter() - start) * 1e3
            if time.perf_counter() - start > LIMIT_S:
                raise TimeoutError(f"{self.name}: no successor of a killed unit")
            time.sleep(LOOK_S)


class Asked(Supervisor):
    """One with a client library, which a process of its own interpreter calls."""

    def __init__(self, pid: int, count: int, python: Path, *address: str) -> None:
        super().__init__(pid, count)
        script = str(Path(__file__).with_name("peer_client.py"))
        self._client = subprocess.Popen(
            [str(python), script, self.name, *address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _ask(self, verb: str) -> Any:
        assert self._client.stdin is not None and self._client.stdout is not None
        print(verb, file=self._client.stdin, flush=True)
        return json.loads(self._client.stdout.readline())

    def start_ms(self) -> float:
        """From the request to start all until every program is seen in /proc."""
        start = time.perf_counter()
        self._ask("start")
        self.wait_for_all()
        return (time.perf_counter() - start) * 1e3

    def stop(self) -> None:
        self._ask("stop")
        self.wait_for_none()

    def status_s(self, times: int) -> list[float]:
        """Seconds of so many requests for the status of all."""
        assert len(self._ask("status")) == self.count
        durations: list[float] = self._ask(f"time {times}")
        return durations

    def close(self) -> None:
        self._client.kill()
        self._client.wait()

    @property
    @abstractmethod
    def command_line(self) -> tuple[list[str], dict[str, str]]:
        """The command that prints the status of all, and its environment."""


class Ours(Asked):
    """The units are the children of their shims."""

    name = "mgmt"

    def __init__(self, ours: daemon.Daemon, count: int) -> None:
        super().__init__(ours.pid, count, Path(sys.executable), ours.control, *unit_names(count))
        self.daemon = ours

    def unit_of(self, child: int) -> int | None:
        return next((pid for pid in children(child) if is_executed(pid)), None)

    def states(self) -> dict[str, str]:
        return {unit["unit"]: unit["state"] for unit in self._ask("status")}

    @property
    def command_line(self) -> tuple[list[str], dict[str, str]]:
        return [MGMT, "status"], self.daemon.environ


class Peer(Asked):
    """One that others wrote; `programs` is where it is installed."""

    def __init__(self, pid: int, count: int, programs: Path, folder: Path, address: str) -> None:
        super().__init__(pid, count, programs / "python", address)
        self._programs, self._folder = programs, folder


class Supervisord(Peer):
    name = "supervisord"

    @staticmethod
    def configuration(folder: Path, count: int) -> str:
        command = " ".join(COMMAND)
        programs = (f"[program:{name}]\ncommand={command}\n" for name in unit_names(count))
        return (
            f"[unix_http_server]\nfile={folder}/control\n"
            f"[supervisord]\nlogfile={folder}/supervisord.log\npidfile={folder}/pid\nchildlogdir={folder}\n"
            "nodaemon=true\nsilent=true\n"
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n"
            f"[supervisorctl]\nserverurl=unix://{folder}/control\n" + "\n".join(programs)
        )

    @property
    def command_line(self) -> tuple[list[str], dict[str, str]]:
        arguments = ["-c", str(self._folder / "configuration"), "status"]
        return [str(self._programs / "supervisorctl"), *arguments], dict(os.environ)


class Circus(Peer):
    name = "circus"

    @staticmethod
    def configuration(folder: Path, count: int) -> str:
        command = " ".join(COMMAND)
        watchers = (f"[watcher:{name}]\ncmd = {command}\n" for name in unit_names(count))
        return (
            f"[circus]\nendpoint = ipc://{folder}/control\npubsub_endpoint = ipc://{folder}/events\n"
            "statsd = False\nloglevel = WARNING\n" + "\n".join(watchers)
        )

    @property
    def command_line(self) -> tuple[list[str], dict[str, str]]:
        arguments = ["--endpoint", f"ipc://{self._folder}/control", "status"]
        return [str(self._programs / "circusctl"), *arguments], dict(os.environ)


def unit_names(count: int) -> list[str]:
    return [f"unit-{n:03}" for n in range(count)]


def unit_settings(count: int, **more: Any) -> dict[str, Any]:
    """Units that are started again at once and without end."""
    restart = {"delay_s": 0.001, "delay_max_s": 0.001, "jitter": 0.0, "limit": 1 << 20, "window_s": 1.0}
    return {name: {"command": COMMAND, "restart": restart, **more} for name in unit_names(count)}


@contextmanager
def ours(count: int) -> Iterator[Ours]:
    """A daemon with so many units, none of them started."""
    with daemon.running(units=unit_settings(count)) as running:
        supervisor = Ours(running, count)
        try:
            yield supervisor
        finally:
            supervisor.close()


@contextmanager
def floor(count: int) -> Iterator[Supervisor]:
    """The smallest supervisor, all its units running; it can be asked nothing."""
    process = subprocess.Popen([sys.executable, "-m", "bench.mini", str(count)])
    try:
        supervisor = Supervisor(process.pid, count)
        supervisor.wait_for_all()
        yield supervisor
    finally:
        _end_with_children(process, signal.SIGKILL)


@contextmanager
def peer(kind: type[Supervisord] | type[Circus], programs: Path, count: int) -> Iterator[Peer]:
    """A peer with so many units, all of them running."""
    with tempfile.TemporaryDirectory(prefix="mgmt-bench-") as name:
        folder = Path(name)
        (folder / "configuration").write_text(kind.configuration(folder, count))
        if kind is Supervisord:
            command = [str(programs / "supervisord"), "-c", str(folder / "configuration")]
            address = f"unix://{folder}/control"
        else:
            command = [str(programs / "circusd"), str(folder / "configuration")]
            address = f"ipc://{folder}/control"
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            supervisor = kind(process.pid, count, programs, folder, address)
            try:
                supervisor.wait_for_all()
                yield supervisor
            finally:
                supervisor.close()
        finally:
            _end_with_children(process, signal.SIGTERM)


def _end_with_children(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """End it; children that it does not end itself are killed."""
    below = [os.pidfd_open(pid) for pid in children(process.pid)]
    process.send_signal(number)
    try:
        process.wait(LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pidfd in below:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
