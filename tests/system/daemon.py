"""A real daemon in folders of its own, checked for what it leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import zmq

from mgmt.protocol import frames
from mgmt.protocol.symphony import decode_handshake_response
from mgmt.shell.spawning import groups_of_units
from tests.system.clients import PATIENCE_S, Data, Legacy, Native, Peer, eventually

ROOT = Path(__file__).resolve().parents[2]
STUB = ROOT / "backends" / "symphony_stub.py"

T = TypeVar("T")
Config = dict[str, Any]


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def pids_with_environ(name: str, value: str) -> set[int]:
    """Every living process that was started with this variable."""
    wanted = f"{name}={value}".encode()
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.add(int(entry.name))
            except OSError:
                continue  # it ended, or belongs to somebody else
    return found


def remove_groups(state_dir: Path) -> None:
    """The control groups of a daemon that could not do so itself; no process is left in them."""
    groups = groups_of_units(state_dir)
    eventually(lambda: not groups.remove(groups.leftover()), what="its control groups are removed")
    groups.close()


def symphony(*arguments: str, **keys: Any) -> dict[str, Any]:
    """A backend table that runs the Symphony stub with more arguments."""
    command = ["{python}", str(STUB), "--ipc-endpoint", "{endpoint}", "--model-name", "{fullname}"]
    return {"kind": "symphony", "command": [*command, *arguments], "grace_s": 2.0, **keys}


def shipped(name: str, *arguments: str, **keys: Any) -> dict[str, Any]:
    """A backend table that runs a module of `mgmt_backends`."""
    command = ["{python}", "-m", f"mgmt_backends.{name}", *arguments]
    return {"kind": "native", "command": command, "grace_s": 2.0, **keys}


def faulty(mode: str, *arguments: str, **keys: Any) -> dict[str, Any]:
    """A backend table of the backend that misbehaves on purpose."""
    return shipped("faulty", "--mode", mode, *arguments, **keys)


def script(path: Path, *arguments: str, **keys: Any) -> dict[str, Any]:
    """A backend table of the symphony kind that runs a script of a test."""
    command = ["{python}", str(path), *(arguments or ("{endpoint}",))]
    return {"kind": "symphony", "command": command, "grace_s": 2.0, **keys}


def model(name: str, type: str, **keys: Any) -> dict[str, Any]:
    return {"name": name, "type": type, **keys}


def config(
    backends: Mapping[str, Any] | None = None, models: Sequence[Mapping[str, Any]] = (), **keys: Any
) -> Config:
    """A whole configuration; one model of each type, named like it, when none are given."""
    chosen = list(models) or [model(type, type) for type in backends or {}]
    return {"model_backends": dict(backends or {}), "supported_models": chosen, **keys}


class Daemon:
    """`python -m mgmt` on a configuration, in private folders; `with` stops it and looks for what it left.

    On leaving the block the daemon must end with status 0, its log must hold no traceback, and neither a
    process of it nor a control group nor a socket file may be left. After an error inside the block it is only
    cleaned up.
    """

    def __init__(
        self,
        settings: Config | None = None,
        *arguments: str,
        folder: Path | None = None,
        runtime: Path | None = None,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self._owns_folder = folder is None
        # A short name: the path of a socket has 107 bytes at most.
        self.folder = folder if folder is not None else Path(tempfile.mkdtemp(prefix="mg-", dir="/tmp"))
        self.runtime = runtime if runtime is not None else self.folder / "run"
        self.state_dir = self.folder / "state"
        self.sockets = self.folder / "models"
        self.sockets.mkdir(exist_ok=True)
        self.log_path = self.folder / "daemon.log"
        self.config_path = self.folder / "config.json"
        self.arguments = arguments
        self.cwd = cwd or self.folder
        ours = ("MGMT_", "NOTIFY_SOCKET", "WATCHDOG_", "XDG_")
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self.environ |= {
            "MGMT_RUNTIME_DIR": str(self.runtime),
            "MGMT_STATE_DIR": str(self.state_dir),
            "XDG_CONFIG_HOME": str(self.folder / "xdg"),
            **(environ or {}),
        }
        self.wrapper: tuple[str, ...] = ()  # a program that executes the daemon in its own place
        self.clean = True  # False: a test ended it in a way that leaves things behind
        self.process: subprocess.Popen[bytes] | None = None
        self.context: zmq.Context[Any] = zmq.Context()
        self._control: Native | None = None
        self._peers: list[Peer] = []
        if settings is not None:
            self.configure(settings)

    # ---- configuration and life ----

    def configure(self, settings: Config) -> None:
        """Write the configuration; endpoints that it does not name are private ones."""
        self.config = {
            **settings,
            "endpoints": {
                "client_handshake": "ipc://{runtime}/symphony-ipc",
                "cli_management": "ipc://{runtime}/symphony-cli",
                "model_socket_dir": str(self.sockets),
                **settings.get("endpoints", {}),
            },
            # Nobody here sends heartbeats.
            "timing": {"session_timeout_s": 120.0, **settings.get("timing", {})},
        }
        self.config_path.write_text(json.dumps(self.config))

    def endpoint(self, key: str) -> str:
        names = {"control": "control", "relay": "relay"}
        names |= {"client_handshake": "symphony-ipc", "cli_management": "symphony-cli"}
        told = self.config["endpoints"].get(key, "ipc://{runtime}/" + names[key])
        return str(told).replace("{runtime}", str(self.runtime))

    def _command(self, without_config: bool) -> list[str]:
        config = [] if without_config else ["--config", str(self.config_path)]
        return [sys.executable, "-m", "mgmt", *config, *self.arguments]

    def launch(self, *, without_config: bool = False) -> None:
        """Start it and wait for nothing."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.wrapper, *self._command(without_config)],
                env=self.environ,
                cwd=self.cwd,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def start(self, *, without_config: bool = False) -> Daemon:
        """Start it and wait until the control endpoint answers."""
        self.launch(without_config=without_config)
        self._control = control = self.native(hello=False)
        hello = control.ask("hello", versions=[frames.VERSION], name="fixture")
        eventually(lambda: control.socket.poll(20) or self.process_ended(), what="the daemon answers")
        assert not self.process_ended(), f"the daemon ended: {self.log()}"
        control.session = control.reply(hello).body["session"]
        return self

    def run_to_end(
        self, timeout_s: float = PATIENCE_S, *, without_config: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run one that is expected to be refused; its output and exit status."""
        return subprocess.run(
            self._command(without_config),
            env=self.environ,
            cwd=self.cwd,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def process_ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """The exit status of the daemon, within the time."""
        assert self.process is not None
        return self.process.wait(timeout_s)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end; its exit status."""
        if not self.process_ended():
            self.send_signal(number)
        return self.wait()

    def kill(self) -> None:
        """End the daemon the hard way: what it supervised stays, and is cleaned up at the end of the block."""
        self.clean = False
        self.send_signal(signal.SIGKILL)
        self.wait()

    def crash(self) -> None:
        """SIGKILL, and the old connections closed; a next daemon is expected to take everything over."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(PATIENCE_S)
        for peer in self._peers:
            peer.close()
        self._peers.clear()

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    # ---- clients ----

    def keep(self, peer: T) -> T:
        """Have a peer closed at the end of the block."""
        assert isinstance(peer, Peer)
        self._peers.append(peer)
        return peer

    def native(self, *, hello: bool = True, identity: bytes | None = None, **options: int) -> Native:
        """A new connection to the control endpoint, with a session unless told otherwise."""
        peer = self.keep(Native(self.context, self.endpoint("control"), identity, **options))
        if hello:
            peer.hello()
        return peer

    @property
    def control(self) -> Native:
        """The fixture's own session."""
        assert self._control is not None
        return self._control

    def peer(self, key: str, kind: int = zmq.DEALER, identity: bytes | None = None, **options: int) -> Peer:
        """A new raw socket on one of the four endpoints."""
        return self.keep(Peer(self.context, self.endpoint(key), kind, identity, **options))

    def data(self, name: str, mode: str = "relay", **options: int) -> Data:
        """A lease of the fixture's session on a ready model, and a connection to where it leads."""
        lease = self.control.ok("lease", model=name, mode=mode)
        return self.keep(Data(self.context, lease, **options))

    def legacy_peer(self) -> Legacy:
        return self.keep(Legacy(self.context, self.endpoint("cli_management")))

    def legacy(self, command: str, timeout_s: float = PATIENCE_S, **params: Any) -> dict[str, Any]:
        """One JSON command on a socket of its own, as the ancestor's command line sent it."""
        peer = Legacy(self.context, self.endpoint("cli_management"))
        try:
            peer.ask(command, **params)
            return peer.answer(timeout_s)
        finally:
            peer.close()

    def loaded(self, name: str, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        """Load through the legacy endpoint; the data of the answer, which must be a success."""
        reply = self.legacy("load-model", timeout_s, model_name=name)
        assert reply["success"], reply
        data: dict[str, Any] = reply["data"]
        return data

    def handshake(self, timeout_s: float = PATIENCE_S) -> list[str]:
        """One legacy handshake; the protocols of the answer."""
        peer = Peer(self.context, self.endpoint("client_handshake"))
        try:
            peer.send(b"")
            (payload,) = peer.receive(timeout_s)
            return decode_handshake_response(payload)
        finally:
            peer.close()

    # ---- looking at it ----

    def status(self) -> dict[str, Any]:
        return self.control.ok("status")

    def unit(self, name: str) -> dict[str, Any]:
        """The UnitStatus of that name."""
        unit: dict[str, Any]
        (unit,) = (unit for unit in self.status()["units"] if unit["unit"] == name)
        return unit

    def reaches(self, name: str, *states: str, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        """The UnitStatus as soon as the unit is in one of these states."""

        def look() -> dict[str, Any] | None:
            units = self.status()["units"]  # it may not have been told to start yet
            return next((unit for unit in units if unit["unit"] == name and unit["state"] in states), None)

        found = eventually(look, timeout_s, f"{name} becomes {' or '.join(states)}")
        assert found is not None
        return found

    def unit_log(self, name: str) -> Path:
        return self.state_dir / "logs" / f"{name}.log"

    def children(self) -> set[int]:
        """Shims, backends and whatever those started: everything but the daemon itself."""
        return pids_with_environ("MGMT_RUNTIME_DIR", str(self.runtime)) - {self.pid if self.process else 0}

    def socket_files(self) -> list[Path]:
        return sorted(self.folder.rglob("symphony-*"))

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def memory_bytes(self) -> int:
        """Resident memory of the daemon."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(text.partition("VmRSS:")[2].split()[0]) * 1024

    # ---- the end ----

    def __enter__(self) -> Daemon:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self.clean and self.process is not None:
                self._check_end()
        finally:
            self._clean_up()

    def _check_end(self) -> None:
        status = self.stop()
        log = self.log()
        assert status == 0, f"exit status {status}: {log}"
        assert "Traceback" not in log, log
        eventually(lambda: not self.children(), what=f"no process is left of {self.children()}")
        assert self.socket_files() == []
        assert groups_of_units(self.state_dir).leftover() == []

    def _clean_up(self) -> None:
        for peer in self._peers:
            peer.close()
        self.context.destroy(linger=0)
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE_S)

        def nothing_left() -> bool:
            left = pids_with_environ("MGMT_RUNTIME_DIR", str(self.runtime))
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            return not left

        eventually(nothing_left, what="every process is gone")
        remove_groups(self.state_dir)
        if self._owns_folder:
            shutil.rmtree(self.folder, ignore_errors=True)


Start = Callable[..., Daemon]


@contextmanager
def daemons() -> Iterator[Start]:
    """A function that makes running daemons, all of them ended and checked at the end of the block."""
    with ExitStack() as stack:

        def make(settings: Config | None = None, *arguments: str, run: bool = True, **keys: Any) -> Daemon:
            chosen = config() if settings is None else settings
            daemon = stack.enter_context(Daemon(chosen, *arguments, **keys))
            return daemon.start() if run else daemon

        yield make
