"""A private daemon: its own folders, endpoints and models, gone with the block that made it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import psutil

from bench import wire

HERE = Path(__file__).parent
BACKEND = [sys.executable, str(HERE / "backend.py")]
STUB = str(HERE.parent / "backends" / "symphony_stub.py")
ECHO = [sys.executable, "-m", "mgmt_backends.echo"]
STARTS_S = 20.0
MEMORY = "/dev/shm"


class Daemon:
    """A daemon's process and where to find it."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], environ: dict[str, str]) -> None:
        self.folder = folder
        self.process = process
        self.environ = environ
        self.control = f"ipc://{folder}/control"
        self.handshake = f"ipc://{folder}/symphony-ipc"
        self.commands = f"ipc://{folder}/symphony-cli"
        self.relay = f"ipc://{folder}/relay"
        self.nodes = f"ipc://{folder}/nodes"

    @property
    def pid(self) -> int:
        return self.process.pid

    def resident_mb(self) -> float:
        return float(psutil.Process(self.pid).memory_info().rss) / 1e6

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def cpu_s(self) -> float:
        """Seconds on a CPU so far, all threads, in ns steps (the kernel's scheduler statistics)."""
        total = 0
        for task in os.listdir(f"/proc/{self.pid}/task"):
            total += int(Path(f"/proc/{self.pid}/task/{task}/schedstat").read_text().split()[0])
        return total / 1e9


def configuration(folder: Path, cpus: str | None = None) -> dict[str, Any]:
    """The models: bench (and bench-0..19), bench-large, slow-0..9, stubborn-0..1, echo, stub.

    `cpus` is where bench and bench-large run.
    """
    pinned = {} if cpus is None else {"cpus": cpus}

    def backend(*options: str, **settings: Any) -> dict[str, Any]:
        return {"kind": "native", "command": [*BACKEND, *options], "grace_s": 2.0, **settings}

    names = {
        "bench": ["bench", *(f"bench-{n}" for n in range(20))],
        "bench-large": ["bench-large"],
        "slow": [f"slow-{n}" for n in range(10)],
        "stubborn": ["stubborn-0", "stubborn-1"],
        "echo": ["echo"],
        "stub": ["stub"],
    }
    return {
        "model_backends": {
            "bench": backend(restart={"policy": "no"}, **pinned),
            "bench-large": backend("--zero-copy", **pinned),
            "slow": backend("--setup-s", "1"),
            "stubborn": backend("--ignore-term"),
            "echo": {"kind": "native", "command": ECHO},
            "stub": {"kind": "symphony", "script": STUB},
        },
        "supported_models": [{"name": name, "type": type} for type, some in names.items() for name in some],
        "endpoints": {
            "client_handshake": f"ipc://{folder}/symphony-ipc",
            "cli_management": f"ipc://{folder}/symphony-cli",
            "model_socket_dir": str(folder),
        },
        # The clients here are blocking sockets without a thread for heartbeats.
        "timing": {"heartbeat_s": 600, "session_timeout_s": 3600},
        "logging": {"level": "WARNING"},
        # A short history: while a long one fills, memory grows, and a leak would hide behind it.
        "limits": {"max_relay_queue": 4096, "max_session_requests": 4096, "max_event_history": 64},
    }


@contextmanager
def place(
    cpus: str | None = None, units: Mapping[str, Any] | None = None, nodes: bool = False
) -> Iterator[tuple[Path, dict[str, str], list[str]]]:
    """A folder with a configuration, the environment and the command that start a daemon in it.

    With `units` the configuration has these, and no models; with `nodes` agents may join. The runtime folder is in
    memory, as /run is; the state is where temporary files are.
    """
    memory = MEMORY if os.access(MEMORY, os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(prefix="mgmt-bench-", dir=memory) as name,
        tempfile.TemporaryDirectory(prefix="mgmt-bench-") as state,
    ):
        folder = Path(name)
        config = folder / "config.json"
        told = configuration(folder, cpus)
        if units is not None:
            told |= {"units": dict(units), "model_backends": {}, "supported_models": []}
            # A daemon as it is installed: with the history and the log that it has by default.
            del told["limits"], told["logging"]
        if nodes:
            told["endpoints"]["nodes"] = f"ipc://{folder}/nodes"
        config.write_text(json.dumps(told))
        environ = {
            **{key: value for key, value in os.environ.items() if not key.startswith("MGMT_")},
            "MGMT_RUNTIME_DIR": name,
            "MGMT_STATE_DIR": state,
            "MGMT_ENDPOINT": f"ipc://{name}/control",
        }
        yield folder, environ, [sys.executable, "-m", "mgmt", "--config", str(config)]


@contextmanager
def running(
    cpus: str | None = None, units: Mapping[str, Any] | None = None, nodes: bool = False
) -> Iterator[Daemon]:
    """A daemon that answers; ended by SIGTERM, and by SIGKILL with everything below it when it does not end."""
    with place(cpus, units, nodes) as (folder, environ, command):
        with open(folder / "daemon.log", "wb") if units is not None else nullcontext() as log:
            process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
        daemon = Daemon(folder, process, environ)
        try:
            wire.Control(daemon.control).close()
            yield daemon
        finally:
            below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.terminate()
            try:
                process.wait(STARTS_S)
            except subprocess.TimeoutExpired:
                process.kill()
                for each in below:
                    each.kill()
                process.wait()


def wait_until(condition: Callable[[], bool], limit_s: float = STARTS_S, fails: bool = True) -> None:
    """Poll until true; at the limit a TimeoutError, or silence unless `fails`."""
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            if fails:
                raise TimeoutError("the condition did not come true")
            return
        time.sleep(0.01)
