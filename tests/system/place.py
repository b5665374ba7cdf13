"""The command as a process in a world of its own, with the daemon it starts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.system.daemon import alive, pids_with_environ, remove_groups

MGMT = [sys.executable, "-m", "mgmt_cli"]
BOUND_S = 30.0


class Place:
    """A private world of folders; `mgmt` runs the command in it, and its daemon ends with it."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MGMT_")},
            "MGMT_RUNTIME_DIR": f"{folder}/run",
            "MGMT_STATE_DIR": f"{folder}/state",
            "HOME": folder,
            "XDG_CONFIG_HOME": folder,
        }
        self.config = self.folder / "config.json"
        self.configure()

    def configure(self, **tables: Any) -> None:
        sockets = {name: f"ipc://{{runtime}}/{name}" for name in ("client_handshake", "cli_management")}
        self.config.write_text(json.dumps({"endpoints": sockets, **tables}))

    def popen(self, *args: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*MGMT, *args],
            text=True,
            env=self.environ,
            cwd=self.folder,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )

    def mgmt(self, *args: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*MGMT, *args],
            capture_output=True,
            check=False,
            text=True,
            timeout=BOUND_S,
            env=self.environ,
            cwd=self.folder,
        )
        assert "Traceback" not in done.stderr
        return done

    def started(self) -> int:
        """Start the daemon detached, on the configuration; its pid."""
        done = self.mgmt("--config", "config.json", "start-service", "--daemonize")
        assert done.returncode == 0, done.stderr
        pid = self.daemon_pid()
        assert pid is not None
        return pid

    def kill_daemon(self) -> None:
        """As a crash does it: what it supervised lives on."""
        pid = self.daemon_pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        until(lambda: not alive(pid))

    def clean_up(self) -> None:
        """End the daemon and whatever a killed one left."""
        pid = self.daemon_pid()
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            until(lambda: not alive(pid))

        def nothing_left() -> bool:
            left = pids_with_environ("MGMT_RUNTIME_DIR", self.environ["MGMT_RUNTIME_DIR"])
            for other in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(other, signal.SIGKILL)
            return not left

        until(nothing_left)
        remove_groups(Path(self.environ["MGMT_STATE_DIR"]))

    def daemon_pid(self) -> int | None:
        done = self.mgmt("status", "--json")
        return int(json.loads(done.stdout)["service"]["pid"]) if done.returncode == 0 else None


def until(holds: Callable[[], object], what: str = "it") -> None:
    deadline = time.monotonic() + BOUND_S
    while not holds():
        assert time.monotonic() < deadline, f"{what} never became true"
        time.sleep(0.02)
