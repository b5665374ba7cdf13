"""A gateway as a process of its own, between a real daemon and the mocks."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from types import TracebackType
from typing import Any

from tests.system.clients import PATIENCE_S
from tests.system.daemon import Daemon

NODES = "nodes:\n  node01:\n    available_cpus: [2, 3]\n  node02:\n    available_cpus: [2, 3, 4, 5]\n"


class Gateway:
    """`with Gateway(daemon, "-t", "1s") as gateway`: `gateway.submitters` and `gateway.nodes` are its targets.

    It must end with status 0 on SIGTERM and leave no traceback in its log.
    """

    def __init__(self, daemon: Daemon, *arguments: str, nodes: str | None = NODES) -> None:
        self._daemon = daemon
        self.log_path = daemon.folder / "gateway.log"
        self._arguments = ["--json", "-s", "0", "-d", "0", *arguments]
        if nodes is not None:
            path = daemon.folder / "nodes.yaml"
            path.write_text(nodes)
            self._arguments += ["-c", str(path)]
        self.told: dict[str, Any] = {}

    def command(self) -> list[str]:
        endpoint = ["--endpoint", self._daemon.endpoint("control")]
        return [sys.executable, "-m", "mgmt_cli", "timpani-gateway", *endpoint, *self._arguments]

    def __enter__(self) -> Gateway:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), env=self._daemon.environ, cwd=self._daemon.folder, stdout=subprocess.PIPE,
                stderr=log, text=True,
            )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the gateway ended with {self.process.wait(PATIENCE_S)}: {self.log()}"
        self.told = json.loads(line)
        return self

    @property
    def submitters(self) -> str:
        return f"{self.told['address']}:{self.told['schedinfo_port']}"

    @property
    def nodes(self) -> str:
        return f"{self.told['address']}:{self.told['node_port']}"

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process.stdout is not None
        try:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
            status = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(PATIENCE_S)
            raise
        finally:
            self.process.stdout.close()
        if kind is None:
            assert status == 0, f"exit status {status}: {self.log()}"
            assert "Traceback" not in self.log(), self.log()


def refused(gateway: Gateway) -> tuple[int, dict[str, Any]]:
    """Exit status and error of a gateway that must not come up."""
    done = subprocess.run(
        gateway.command(), env=gateway._daemon.environ, cwd=gateway._daemon.folder, capture_output=True,
        text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    error: dict[str, Any] = json.loads(done.stdout)["error"]
    return done.returncode, error
