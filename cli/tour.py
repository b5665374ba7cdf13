"""The program behind `make run`: the whole main job once, on real files, in folders that are gone afterwards.

Starts a daemon on ./config.json, loads the default model, shows `mgmt status`, asks the model about files of
this repository, unloads, stops, and checks that no process and no socket is left. Exits 0, or 1 with the end
of the daemon's log; it cleans up in either case.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mgmt.protocol.errors import MgmtError

from . import render, spawn, status
from .invocation import Invocation
from .progress import Spinner

if TYPE_CHECKING:
    from mgmt.client import Client

ROOT = Path(__file__).resolve().parents[1]
FILES = (
    "mgmt/protocol/frames.py",
    "mgmt/shell/shim.c",
    "CHANGELOG.md",
    "config.json",
    "pyproject.toml",
    "Makefile",
    "LICENSE",
    "proto/handshake.proto",
    "systemd/mgmt.service",
    ".ci/run",
)
START_TIMEOUT_S = 30.0
LOAD_TIMEOUT_S = 180.0  # a first visit reads the network from a cold disk
STOP_TIMEOUT_S = 30.0


class Tour:
    """Says what it does, with the seconds since the start."""

    def __init__(self, folder: Path) -> None:
        self._started = time.monotonic()
        self._runtime = folder / "runtime"
        self._pids: set[int] = set()
        self._backend = Path()  # the socket of the model's backend

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._started:5.1f}s] {text}", flush=True)

    def run(self) -> None:
        """MgmtError when anything is not as it should be."""
        invocation = Invocation(json=False, config=str(ROOT / "config.json"))
        self.say("starting the daemon on config.json")
        daemon = spawn.start(invocation, spawn.argv(invocation.config, None, None), START_TIMEOUT_S)
        self._pids.add(daemon.pid)
        self.say(f"the daemon answers: pid {daemon.pid}")
        with invocation.client() as client:
            models = client.request("models", {})["models"]
            name = next((model["model"] for model in models if model["default"]), None)
            if name is None:
                raise MgmtError("bad-config", "config.json names no default_model")
            self.say(f"loading the default model, {name}")
            with Spinner(invocation, name):
                loaded = client.request("load-model", {"model": name}, timeout_s=LOAD_TIMEOUT_S)
            self._pids.add(loaded["pid"])
            self._backend = Path(loaded["endpoint"].removeprefix("ipc://"))
            self.say(f"{name} is ready: pid {loaded['pid']}")
            reply = client.request("status", {})
            self.say("mgmt status")
            for line in status.overview(reply["service"], reply["units"], False, False, invocation.colored):
                print(f"  {line}")
            self._classify(client, name)
            self.say(f"unloading {name}")
            client.request("unload-model", {"model": name}, timeout_s=STOP_TIMEOUT_S)
            self.say("stopping the daemon")
            client.request("stop-service", {})
        self._check_nothing_is_left()
        self.say("stopped; no process and no socket is left")

    def _classify(self, client: Client, name: str) -> None:
        """Open a session's lease on the model and ask it about FILES, straight at the backend."""
        rows: list[list[str]] = []
        with client.model(name) as model:
            self.say(f"asking {name} about {len(FILES)} files of this repository")
            for file in FILES:
                data = (ROOT / file).read_bytes()
                started = time.perf_counter()
                result = model.ask({"data": data}, timeout_s=30.0)
                latency_ms = (time.perf_counter() - started) * 1e3
                rows.append([file, str(result["label"]), f"{result['score']:.3f}", f"{latency_ms:.1f}"])
        for line in render.table(["FILE", "TYPE", "SCORE", "MS"], rows, "SCORE MS"):
            print(f"  {line}")

    def _check_nothing_is_left(self) -> None:
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for pid in self._pids:
            if not spawn.gone(pid, max(0.0, deadline - time.monotonic())):
                raise MgmtError(
                    "stop-failed", f"process {pid} is still there {STOP_TIMEOUT_S:g} s after the stop"
                )
        self._pids.clear()
        left = [str(path) for path in (self._backend, *self._runtime.rglob("*")) if path.is_socket()]
        if left:
            raise MgmtError("stop-failed", f"sockets are left: {', '.join(left)}")

    def clean_up(self) -> None:
        """End what a failure left: the daemon in an orderly way, which ends its units; then by force."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # an impatient second Ctrl-C would leave processes behind
        for number, patience_s in ((signal.SIGTERM, STOP_TIMEOUT_S / 2), (signal.SIGKILL, 5.0)):
            for pid in tuple(self._pids):
                if spawn.gone(pid, 0):
                    self._pids.discard(pid)
                    continue
                os.kill(pid, number)
            self._pids = {pid for pid in self._pids if not spawn.gone(pid, patience_s)}


def main() -> NoReturn:
    """`python -m mgmt_cli.tour`."""
    # A stop from outside takes the same way out as a failure: through the cleaning up.
    signal.signal(signal.SIGTERM, _interrupt)
    with tempfile.TemporaryDirectory(prefix="mgmt-run-") as folder:
        os.environ.update(MGMT_RUNTIME_DIR=f"{folder}/runtime", MGMT_STATE_DIR=f"{folder}/state")
        for name in ("MGMT_ENDPOINT", "MGMT_CONFIG"):
            os.environ.pop(name, None)
        tour = Tour(Path(folder))
        code = _outcome(tour.run, tour)
        tour.clean_up()
    sys.exit(code)


def _outcome(run: Callable[[], Any], tour: Tour) -> int:
    try:
        run()
    except MgmtError as error:
        print(f"error: {error.text}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error.filename or ''}: {error.strerror}", file=sys.stderr)
    except (KeyError, TypeError) as error:
        print(f"error: the model's answer is not what was expected: {error!r}", file=sys.stderr)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    else:
        return 0
    lines = spawn.last_lines(spawn.log_path())
    print("\n".join(["the end of the daemon's log:", *(f"  {line}" for line in lines)]), file=sys.stderr)
    return 1


def _interrupt(number: int, _: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
