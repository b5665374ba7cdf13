"""A backend's line to the daemon: hello, ready, heartbeats, and the order to drain.

It has a thread and a socket of its own, so that a long `setup` or request does not look like death. A daemon that
forgot this process, or another one in its place, is told everything again; one that refuses it is the end of it.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import zmq

from mgmt.protocol import curve, defaults, frames, places, revisions
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.keys import Credentials


class Place(NamedTuple):
    """Where and as what this backend was started."""

    endpoint: str  # the daemon's control endpoint
    serve: str  # to bind a ROUTER on
    unit: str
    incarnation: int
    token: str
    model: str
    fullname: str
    keys: Credentials | None = None  # for a daemon that is reached over tcp

    @classmethod
    def of(cls, environ: Mapping[str, str] | None = None) -> Place:
        """From the environment; LookupError naming the first variable that is missing or wrong."""
        environ = os.environ if environ is None else environ

        def told(name: str) -> str:
            value = environ.get(f"MGMT_{name}", "")
            if not value:
                raise LookupError(
                    f"MGMT_{name} is not set: a backend is started by the daemon (mgmt load-model)"
                )
            return value

        incarnation = told("INCARNATION")
        if not incarnation.isascii() or not incarnation.isdigit():
            raise LookupError(f"MGMT_INCARNATION is a number, not {incarnation!r}")
        return cls(
            told("ENDPOINT"),
            told("SERVE"),
            told("UNIT"),
            int(incarnation),
            told("TOKEN"),
            environ.get("MGMT_MODEL", ""),
            environ.get("MGMT_FULLNAME", ""),
            Credentials(*told("BACKEND_KEYS").split()) if environ.get("MGMT_BACKEND_KEYS") else None,
        )


class Wake:
    """A descriptor that makes a poll return; set by signals and other threads."""

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._set = False

    def fileno(self) -> int:
        return self._reader

    def set(self) -> None:
        if not self._set:
            self._set = True
            self._write()

    def clear(self) -> None:
        """To be called before looking at what was announced; the flag last, or an announcement could be missed."""
        try:
            while os.read(self._reader, 4096):
                pass
        except BlockingIOError:
            pass
        self._set = False

    def _write(self) -> None:
        try:
            os.write(self.writer, b"\0")
        except BlockingIOError:
            pass  # full of wake-ups already


class Link:
    """The thread that speaks with the daemon: hello, ready, heartbeats; says both again to a new daemon."""

    def __init__(self, context: zmq.Context[Any], place: Place, protocols: Sequence[str]) -> None:
        self.queued = 0  # requests accepted and not answered; written by the server's thread
        self.draining = False
        self.refusal = ""  # why the daemon does not want this process; it has to end
        self._context = context
        self._place = place
        self._protocols = list(protocols)
        self._wake = Wake()
        self._ready = False
        self._told_ready = False
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="daemon-link", daemon=True)
        self._last_id = 0
        self._said: dict[int, str] = {}  # requests without an answer
        self._session = 0
        self._heartbeat_s = defaults.HEARTBEAT_S
        self._next_s = 0.0

    def start(self, ready: bool) -> None:
        """Say hello, and in the same breath ready when there is nothing to load."""
        self._ready = ready
        self._thread.start()

    def ready(self) -> None:
        """The model is loaded."""
        self._ready = True
        self._wake.set()

    def stop(self) -> None:
        """End the thread, its socket closed."""
        self._stopped = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        daemon: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        for option, value in (
            (zmq.SNDHWM, 64),  # stale heartbeats for a daemon that is away are worth nothing
            (zmq.SNDTIMEO, 0),
            (zmq.LINGER, 0),
            (zmq.RECONNECT_IVL, defaults.RECONNECT_MIN_MS),
            (zmq.RECONNECT_IVL_MAX, defaults.RECONNECT_MAX_MS),
            (zmq.MAXMSGSIZE, defaults.MAX_CONTROL_FRAME_BYTES),
        ):
            daemon.setsockopt(option, value)
        curve.dress(daemon, self._place.keys, self._place.endpoint)
        daemon.connect(places.dialled(self._place.endpoint))
        poller = zmq.Poller()
        poller.register(daemon, zmq.POLLIN)
        poller.register(self._wake.fileno(), zmq.POLLIN)
        self._hello(daemon)
        while not self._stopped and not self.refusal:
            poller.poll(max(0, math.ceil(1000 * (self._next_s - time.monotonic()))))
            self._wake.clear()
            if self._ready and not self._told_ready:
                self._say_ready(daemon)
            self._read(daemon)
            if time.monotonic() >= self._next_s:
                self._beat(daemon)
        daemon.close()
        if self.refusal:
            os.kill(os.getpid(), signal.SIGTERM)  # the main thread may be inside `setup`

    def _read(self, daemon: zmq.Socket[bytes]) -> None:
        while not self.refusal:
            try:
                message = frames.decode(daemon.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return
            except frames.FrameError as error:
                print(f"ignored a message of the daemon: {error.text}", file=sys.stderr, flush=True)
                continue
            match message:
                case frames.Reply():
                    self._replied(daemon, message)
                case frames.Notice(name="drain"):
                    self.draining = True
                case frames.Notice(session, "session-gone"):
                    if self._session and session in (0, self._session):
                        self._hello(daemon)

    def _replied(self, daemon: zmq.Socket[bytes], reply: frames.Reply) -> None:
        verb = self._said.pop(reply.id, "")
        if not verb:
            return
        if reply.outcome == frames.Outcome.OK:
            if verb == "backend-hello":
                self._session = int(reply.body["session"])
                self._heartbeat_s = float(reply.body["heartbeat_s"])
                self._next_s = time.monotonic() + self._heartbeat_s
            return
        error = MgmtError.from_body(reply.body)
        if error.code == "session-gone":
            if verb == "backend-ready" and self._session:
                self._hello(daemon)
        elif not error.row.retryable:
            self.refusal = f"{error.code}: {error.text}"

    def _beat(self, daemon: zmq.Socket[bytes]) -> None:
        self._next_s = time.monotonic() + self._heartbeat_s
        if not self._session:
            self._hello(daemon)  # the last one was lost or put off
            return
        place = self._place
        body = {"unit": place.unit, "incarnation": place.incarnation, "queued": self.queued}
        self._send(daemon, frames.encode_notice(self._session, "backend-heartbeat", body))

    def _hello(self, daemon: zmq.Socket[bytes]) -> None:
        """Say who we are, and behind it, without waiting, that we are ready if we are."""
        self._session = 0
        self._told_ready = False
        self._said.clear()
        self._next_s = time.monotonic() + self._heartbeat_s
        self._ask(daemon, "backend-hello", {"versions": list(revisions.SPOKEN), "pid": os.getpid()})
        if self._ready:
            self._say_ready(daemon)

    def _say_ready(self, daemon: zmq.Socket[bytes]) -> None:
        self._told_ready = True
        self._ask(daemon, "backend-ready", {"protocols": self._protocols})

    def _ask(self, daemon: zmq.Socket[bytes], verb: str, body: dict[str, Any]) -> None:
        self._last_id += 1
        place = self._place
        body |= {"unit": place.unit, "incarnation": place.incarnation, "token": place.token}
        self._said[self._last_id] = verb
        self._send(daemon, frames.encode_request(self._last_id, self._session, verb, body))

    def _send(self, daemon: zmq.Socket[bytes], frame: bytes) -> None:
        try:
            daemon.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            pass  # the daemon is away; it will hear the hello that its successor asks for
