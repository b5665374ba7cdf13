"""A daemon that says what the test tells it to: a real ROUTER in a thread, answers from a table.

Nothing is judged here; `asked` and `noticed` hold what arrived, `answers` what is said to it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import zmq

from mgmt.protocol import defaults, frames
from mgmt.protocol.errors import MgmtError
from mgmt.serve.link import Wake

PATIENCE_S = 20.0  # a loaded machine may take its time; a passing test never does

T = TypeVar("T")
Answer = Callable[[frames.Request], dict[str, Any] | MgmtError | None]


def eventually(look: Callable[[], T], what: str, within_s: float = PATIENCE_S) -> T:
    """The first true value of `look`; AssertionError when there is none in time."""
    end_s = time.monotonic() + within_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end_s:
            raise AssertionError(f"not within {within_s:g} s: {what}")
        threading.Event().wait(0.002)


class ScriptedDaemon:
    """Sessions and heartbeats are kept as the real one does; everything else is `answers[verb](request)`.

    A verb without an answer, and an answer of None, leave the request open.
    """

    def __init__(self, endpoint: str, epoch: int = 1, heartbeat_s: float = defaults.HEARTBEAT_S) -> None:
        self.endpoint = endpoint
        self.epoch = epoch
        self.heartbeat_s = heartbeat_s
        self.session_timeout_s = 3 * heartbeat_s
        self.asked: list[frames.Request] = []
        self.noticed: list[frames.Notice] = []
        self.garbage: list[frames.FrameError] = []
        self.sessions: dict[int, bytes] = {}  # session -> route
        self.units: dict[str, int] = {}  # unit -> its session
        self.answers: dict[str, Answer] = {
            "status": lambda request: {"epoch": self.epoch},
            "backend-ready": lambda request: {},
            "release": lambda request: {},
        }
        self._last_session = 100 * epoch
        self._orders: deque[Callable[[], None]] = deque()
        self._wake = Wake()
        self._stopped = False
        self._context: zmq.Context[Any] = zmq.Context()
        self._router: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self._router.linger = 0
        self._router.bind(endpoint)
        self._thread = threading.Thread(target=self._run, name="scripted-daemon", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Gone without a word, as after a kill."""
        if not self._stopped:
            self._stopped = True
            self._wake.set()
            self._thread.join()
            self._context.term()

    def order(self, action: Callable[[], None]) -> None:
        """Have `action` done in the daemon's thread, the only one that may send."""
        self._orders.append(action)
        self._wake.set()

    def tell(self, name: str, body: dict[str, Any], session: int | None = None) -> None:
        """A notice to one session, or to all."""
        self.order(lambda: self._tell(name, body, session))

    def publish(self, seq: int, kind: str = "unit", **body: Any) -> None:
        """An event to every session."""

        def send() -> None:
            for session, route in self.sessions.items():
                self._send(route, frames.encode_event(seq, session, kind, {"seq": seq, **body}))

        self.order(send)

    def forget_sessions(self) -> None:
        """As after the session timeout: the next frame of each peer is answered session-gone."""
        self.order(self.sessions.clear)

    def answer_late(self, request: frames.Request, body: dict[str, Any]) -> None:
        """Answer an open request now."""
        route = self.sessions[request.session]
        self.order(lambda: self._send(route, frames.encode_reply(request.id, request.session, "ok", body)))

    def requests(self, verb: str) -> list[frames.Request]:
        return [request for request in self.asked if request.verb == verb]

    def notices(self, name: str) -> list[frames.Notice]:
        return [notice for notice in self.noticed if notice.name == name]

    def wait_for(self, verb: str, count: int = 1) -> frames.Request:
        """The `count`-th request of that verb, as soon as it is there."""
        return eventually(lambda: self.requests(verb)[count - 1 :], f"request {verb} number {count}")[0]

    # ---- the daemon's thread ----

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._wake.fileno(), zmq.POLLIN)
        while not self._stopped:
            poller.poll()
            self._wake.clear()
            while self._orders:
                self._orders.popleft()()
            try:
                while True:
                    route, *message = self._router.recv_multipart(zmq.NOBLOCK)
                    self._take(route, message)
            except zmq.Again:
                pass
        self._router.close()

    def _take(self, route: bytes, message: list[bytes]) -> None:
        try:
            heard = frames.decode(message)
        except frames.FrameError as error:
            self.garbage.append(error)
            self._reply(route, frames.Request(error.id, error.session, "", {}, 0, ""), error)
            return
        if isinstance(heard, frames.Notice):
            self.noticed.append(heard)
            if self.sessions.get(heard.session) != route:
                self._send(route, frames.encode_notice(heard.session, "session-gone", {}))
            elif heard.name == "bye":
                del self.sessions[heard.session]
            else:
                self._send(route, frames.encode_notice(heard.session, "heartbeat", {}))
            return
        assert isinstance(heard, frames.Request), heard
        self.asked.append(heard)
        if heard.verb in ("hello", "backend-hello"):
            self._reply(route, heard, self.answers.get(heard.verb, self._welcome)(heard), route)
            return
        session = heard.session or max((s for s, r in self.sessions.items() if r == route), default=0)
        if self.sessions.get(session) != route:
            self._reply(route, heard, MgmtError("session-gone", "say hello first"))
            return
        answer = self.answers.get(heard.verb)
        self.asked[-1] = request = heard._replace(session=session)
        if answer is not None:
            self._reply(route, request, answer(request))

    def _welcome(self, request: frames.Request) -> dict[str, Any] | MgmtError:
        if frames.VERSION not in request.body["versions"]:
            return MgmtError("bad-version", f"this daemon speaks {frames.VERSION}")
        self._last_session += 1
        if "unit" in request.body:
            self.units[request.body["unit"]] = self._last_session
        return {
            "version": frames.VERSION,
            "session": self._last_session,
            "epoch": self.epoch,
            "heartbeat_s": self.heartbeat_s,
            "session_timeout_s": self.session_timeout_s,
            "max_frame_bytes": defaults.MAX_CONTROL_FRAME_BYTES,
            "lease": None,
        }

    def _reply(
        self,
        route: bytes,
        request: frames.Request,
        body: dict[str, Any] | MgmtError | None,
        greeted: bytes | None = None,
    ) -> None:
        if body is None:
            return
        if isinstance(body, MgmtError):
            outcome = frames.OUTCOME_OF_CODE.get(body.code, frames.Outcome.ERROR)
            body = body.as_body()
        else:
            outcome = frames.Outcome.OK
            if greeted is not None:
                self.sessions[body["session"]] = greeted
        self._send(route, frames.encode_reply(request.id, request.session, outcome, body))

    def _tell(self, name: str, body: dict[str, Any], session: int | None) -> None:
        for number, route in self.sessions.items():
            if session in (None, number):
                self._send(route, frames.encode_notice(number, name, body))

    def _send(self, route: bytes, frame: bytes) -> None:
        self._router.send_multipart([route, frame])


class Unit:
    """A backend process started as the daemon starts them."""

    def __init__(self, daemon: ScriptedDaemon, folder: Path, name: str, *argv: str, **environ: str) -> None:
        self.name = name
        self.endpoint = f"ipc://{folder}/{name}"
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *argv],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=os.environ
                | {
                    "MGMT_ENDPOINT": daemon.endpoint,
                    "MGMT_SERVE": self.endpoint,
                    "MGMT_UNIT": name,
                    "MGMT_INCARNATION": "1",
                    "MGMT_TOKEN": "secret",
                    "MGMT_MODEL": "m",
                    "MGMT_FULLNAME": "org/m",
                }
                | environ,
            )

    def ended(self) -> int:
        """The exit status, negative for a signal, as soon as there is one."""
        return self.process.wait(PATIENCE_S)

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def ready(self, daemon: ScriptedDaemon) -> Unit:
        """Wait until it has said so; AssertionError with its output when it ends instead."""

        def look() -> bool:
            assert self.process.poll() is None, f"{self.name} ended: {self.process.returncode}\n{self.said()}"
            return any(request.body["unit"] == self.name for request in daemon.requests("backend-ready"))

        eventually(look, f"{self.name} ready")
        return self

    def lease(self, number: int) -> dict[str, Any]:
        """A Lease body for this unit."""
        return {
            "lease": number,
            "model": "m",
            "mode": "direct",
            "endpoint": self.endpoint,
            "unit": self.name,
            "protocols": ["msgpack"],
        }


class Stage:
    """A folder, the daemons and the processes of one test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.endpoint = f"ipc://{folder}/control"
        self._daemons: list[ScriptedDaemon] = []
        self._units: list[Unit] = []

    def daemon(self, epoch: int = 1, heartbeat_s: float = defaults.HEARTBEAT_S) -> ScriptedDaemon:
        daemon = ScriptedDaemon(self.endpoint, epoch, heartbeat_s)
        self._daemons.append(daemon)
        return daemon

    def unit(self, daemon: ScriptedDaemon, name: str, *argv: str, **environ: str) -> Unit:
        unit = Unit(daemon, self.folder, name, *argv, **environ)
        self._units.append(unit)
        return unit

    def echo(self, daemon: ScriptedDaemon, name: str = "echo") -> Unit:
        return self.unit(daemon, name, "mgmt_backends.echo").ready(daemon)


@contextmanager
def stage() -> Iterator[Stage]:
    """A Stage in a folder whose name is short enough for sockets; everything of it is gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="mgmt-"))
    set_up = Stage(folder)
    try:
        yield set_up
    finally:
        for unit in set_up._units:
            unit.process.kill()
            unit.process.wait()
        for daemon in set_up._daemons:
            daemon.stop()
        shutil.rmtree(folder)
