"""Starting the daemon apart from the terminal, and waiting until it answers or is known to have failed."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgmt.protocol import places
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.keys import is_key

from .invocation import Invocation

PROBE_S = 0.5  # one question to a daemon that may not be there
PROBE_EVERY_S = 0.02  # between two of them while it starts
TAIL_LINES = 20
_started: list[subprocess.Popen[bytes]] = []  # kept: a Popen that is collected complains about its child


@dataclass(frozen=True)
class Daemon:
    """A daemon that answers."""

    pid: int
    endpoint: str
    already: bool


def argv(
    config: str | None, backend_path: str | None, log_level: str | None, insecure: bool = False
) -> list[str]:
    """The daemon's command line; paths are made absolute, for its folder may become another one."""
    options = {
        "--config": config and os.path.abspath(config),
        "--backend-path": backend_path and os.path.abspath(backend_path),
        "--log-level": log_level,
    }
    given = [part for name, value in options.items() if value for part in (name, value)]
    # -P: whatever lies in the folder where somebody calls us is not the daemon.
    return [sys.executable, "-P", "-m", "mgmt", *given, *(["--insecure"] if insecure else [])]


def environment() -> dict[str, str]:
    """Ours, with the folders as absolute paths."""
    environ = dict(os.environ)
    for name in ("MGMT_RUNTIME_DIR", "MGMT_STATE_DIR", "MGMT_CONFIG"):
        if environ.get(name):
            environ[name] = os.path.abspath(environ[name])
    return environ


def absolute(told: str | None) -> str | None:
    """A path made absolute; a public key as it is."""
    return told if told is None or is_key(told) else os.path.abspath(told)


def answering(invocation: Invocation, timeout_s: float = PROBE_S) -> dict[str, Any] | None:
    """The service part of a status, or None when no daemon answers in time."""
    try:
        with invocation.client_at(timeout_s, timeout_s) as client:
            service = client.request("status")["service"]
    except MgmtError as error:
        if error.code in ("unreachable", "expired"):
            return None
        raise
    assert isinstance(service, dict)
    return service


def log_path(environ: Mapping[str, str] | None = None) -> Path:
    """Where the output of a detached daemon goes."""
    return places.state_dir(environ) / "daemon.log"


def start(invocation: Invocation, command: list[str], timeout_s: float) -> Daemon:
    """Start `command` detached; returns when it answers, else `start-failed` with the end of its log.

    The daemon keeps the working folder, so that it finds the backends a foreground start finds.
    """
    log = log_path()
    try:
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    except OSError as error:
        text = f"{error.filename}: {error.strerror}: name a folder of yours with MGMT_STATE_DIR"
        raise MgmtError("start-failed", text) from None
    before = os.fstat(output).st_size
    try:
        # A session of its own: no signal and no hang-up of this terminal reaches it.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment(),
            start_new_session=True,
            close_fds=True,
        )
    finally:
        os.close(output)
    _started.append(process)
    try:
        service = _await(invocation, process, timeout_s)
    except KeyboardInterrupt:
        _end(process)
        raise
    if service is None:
        code = _end(process)
        why = f"did not answer within {timeout_s:g} s" if code is None else f"ended with {_ending(code)}"
        tail = last_lines(log, before)
        text = f"the daemon {why}; {'the end of' if tail else 'it wrote nothing to'} {log}"
        raise MgmtError("start-failed", "\n".join([text, *(f"  {line}" for line in tail)]), tail=tail)
    return Daemon(service["pid"], service["control_endpoint"], service["pid"] != process.pid)


def _await(
    invocation: Invocation, process: subprocess.Popen[bytes], timeout_s: float
) -> dict[str, Any] | None:
    """The service once it answers; None when the process ended or the time is over."""
    deadline = time.monotonic() + timeout_s
    ended = os.pidfd_open(process.pid)
    refused = 0
    try:
        while time.monotonic() < deadline:
            try:
                service = answering(invocation)
            except MgmtError as error:
                # It makes its keys while it starts: what was looked for just before was not there yet.
                refused += 1
                if error.code != "not-authorised" or refused > 1:
                    raise
                continue
            if service is not None:
                return service
            if select.select([ended], [], [], PROBE_EVERY_S)[0]:
                # Another one may have been faster; then this one was right to end.
                return answering(invocation)
    finally:
        os.close(ended)
    return None


def _end(process: subprocess.Popen[bytes], grace_s: float = 5.0) -> int | None:
    """End a daemon that never answered. Its status when it had ended by itself, else None."""
    code = process.poll()
    if code is None:
        process.terminate()
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return code


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"


def last_lines(path: Path, offset: int = 0, lines: int = TAIL_LINES) -> list[str]:
    """The last lines written after `offset` bytes; none when the file cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(offset, path.stat().st_size - 65536))
            return file.read().decode("utf-8", "replace").splitlines()[-lines:]
    except OSError:
        return []


def gone(pid: int, timeout_s: float) -> bool:
    """Whether process `pid` ended within the time; it need not be a child."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([watched], [], [], timeout_s)[0])
    finally:
        os.close(watched)
