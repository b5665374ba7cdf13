"""Plays the crew: listens on a socket, starts workers of either kind as a supervisor would, talks `wire` to them.

`MGMT_WORKER_CFLAGS` in the environment builds the worker anew with these flags (sanitizers, see
tests/kernel/sanitize.sh); otherwise the installed program is tested.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack

from mgmt.worker import PROGRAM, wire
from mgmt.worker.wire import Kind

DEADLINE_S = 20.0
ROOT = Path(__file__).resolve().parents[2]
RESIDENT = (sys.executable, "-m", "mgmt.worker.resident")
SANITIZERS = os.environ.get("MGMT_WORKER_CFLAGS")


def program(folder: Path) -> Path:
    """The mgmt-worker to test."""
    if not SANITIZERS:
        return PROGRAM
    target = folder / "mgmt-worker"
    source = ROOT / "mgmt" / "worker" / "worker.c"
    subprocess.run(["cc", "-std=c11", "-o", target, source, *shlex.split(SANITIZERS)], check=True)
    return target


@dataclass(frozen=True)
class Done:
    task: int
    attempt: int
    status: int
    message: str
    start_ns: int
    end_ns: int
    tail: bytes
    extra: dict[str, Any]


class Crew:
    """One worker and its crew's end. Leaving the `with` block ends the worker and what it left."""

    def __init__(self, kind: Sequence[str | Path], folder: Path, env: dict[str, str] | None = None) -> None:
        self.kind, self.folder = kind, folder
        self.socket_path = folder / "crew"
        self.place = folder / "worker"
        self.env = {"PATH": os.environ["PATH"]} if env is None else env
        self.listener: socket.socket | None = None
        self.peer: socket.socket | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.is_resident = kind == RESIDENT
        self.hello: list[Any] = []
        self.states: list[list[Any]] = []
        self.taken = 0
        self._ready: list[list[Any]] = []
        self._decoder = wire.Decoder()

    # the worker's life

    def start(self, *more: str) -> None:
        options = ["--socket", str(self.socket_path), "--unit", "w0", "--incarnation", "7", *more]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "MGMT_TOKEN": "secret"}
        env["ASAN_OPTIONS"] = "exitcode=99"
        env["UBSAN_OPTIONS"] = "halt_on_error=1:exitcode=99"
        self.process = subprocess.Popen(
            [*self.kind, *options], env=env, start_new_session=True, stderr=subprocess.PIPE
        )

    def listen(self) -> None:
        self.socket_path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        at = os.open(self.folder, os.O_PATH | os.O_DIRECTORY)  # the path may be longer than an address
        self.listener.bind(f"/proc/self/fd/{at}/crew")
        os.close(at)
        self.listener.listen()
        self.listener.settimeout(DEADLINE_S)

    def accept(self) -> list[Any]:
        """The next connection's HELLO."""
        assert self.listener is not None
        self.peer, _ = self.listener.accept()
        self.peer.settimeout(DEADLINE_S)
        self._decoder, self._ready, self.taken = wire.Decoder(), [], 0
        self.hello = self.receive()
        assert self.hello[0] == Kind.HELLO
        return self.hello

    def welcome(self, **rules: Any) -> None:
        whole = {"env": self.env, "folder": str(self.place), "grace_s": 0.3, "output_limit_bytes": 10_000}
        self.send(Kind.WELCOME, {**whole, **rules})

    def welcome_again(self, **rules: Any) -> None:
        """Loses the connection and takes the next, with other rules."""
        self.drop()
        self.accept()
        self.welcome(**rules)

    def drop(self) -> None:
        assert self.peer is not None
        self.peer.close()

    def __enter__(self) -> Crew:
        self.listen()
        self.start()
        self.accept()
        self.welcome()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()
        process = self.process
        assert process is not None
        if process.poll() is None:  # TERM: it ends its task's processes itself
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        assert process.stderr is not None
        process.stderr.close()
        assert process.returncode != 99, "a sanitizer has found something"

    def close(self) -> None:
        """What a crew that is killed leaves: nothing."""
        for end in (self.peer, self.listener):
            if end is not None:
                end.close()
        self.peer = self.listener = None
        self.socket_path.unlink(missing_ok=True)

    def ended(self) -> tuple[int, str]:
        """Waits for the worker: its exit status, and what it said on stderr."""
        assert self.process is not None and self.process.stderr is not None
        status = self.process.wait(DEADLINE_S)
        return status, self.process.stderr.read().decode()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    # specs that a worker of this kind can run

    def quick(self) -> dict[str, Any]:
        return {"function": "functions:nothing"} if self.is_resident else {"args": ["true"]}

    def gated(self) -> dict[str, Any]:
        """Says in the file `runs` that it runs, and ends when there is the file `go`."""
        if self.is_resident:
            return {"function": "functions:gate", "params": [str(self.folder)]}
        script = f"echo > {self.folder}/runs; until [ -e {self.folder}/go ]; do sleep 0.02; done"
        return {"args": ["/bin/sh", "-c", script], "timeout_s": 60}

    def wait_until_it_runs(self) -> None:
        until((self.folder / "runs").exists, "the gated task runs")

    def open_the_gate(self) -> None:
        (self.folder / "go").touch()

    # messages

    def send(self, *message: Any) -> None:
        assert self.peer is not None
        self.peer.sendall(wire.encode(*message))

    def run(self, task: int, attempt: int = 1, upstream: str | None = None, **spec: Any) -> None:
        self.send(Kind.RUN, task, attempt, msgpack.packb(spec), f"uuid-{task}", upstream)

    def receive(self) -> list[Any]:
        """The next message. ConnectionError at the end of the connection."""
        assert self.peer is not None
        while not self._ready:
            data = self.peer.recv(1 << 18)
            if not data:
                raise ConnectionError("the worker has closed the connection")
            self._ready += [wire.check_from_worker(message) for message in self._decoder.feed(data)]
        return self._ready.pop(0)

    def done(self, take: bool = True) -> Done:
        """The next DONE; STATEs on the way are kept."""
        while (message := self.receive())[0] != Kind.DONE:
            self.states.append(message)
        if take:
            self.taken += 1
            try:
                self.send(Kind.TAKEN, self.taken)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it has ended, after this DONE
        return Done(*message[1:])

    def do(self, task: int = 1, **spec: Any) -> Done:
        """Runs one task and waits for it."""
        self.run(task, **spec)
        done = self.done()
        assert done.task == task
        return done


def until(condition: Any, what: str) -> Any:
    """The first true value of `condition`; AssertionError naming `what` after DEADLINE_S."""
    end = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.01)
    return value


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
