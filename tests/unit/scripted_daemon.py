"""A daemon that says what a test tells it to: a ROUTER in a thread, with the wire format of the real one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import zmq

from mgmt.protocol import frames
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.messages import validate

Body = dict[str, Any]
Script = dict[str, Body | MgmtError | Callable[[Body], Body] | None]

Model = Callable[[Any], Any]  # one value in, one value out

SESSION, EPOCH, LEASE = 7, 42, 5
WELCOME = {
    "version": 1,
    "session": SESSION,
    "epoch": EPOCH,
    "heartbeat_s": 5.0,
    "session_timeout_s": 15.0,
    "max_frame_bytes": 1 << 20,
    "lease": None,
}
SERVICE: Body = {
    "state": "running",
    "version": "0.1.0",
    "pid": 4711,
    "epoch": EPOCH,
    "started_at": 1_700_000_000.0,
    "uptime_s": 192.0,
    "config": "/etc/mgmt/config.json",
    "control_endpoint": "ipc:///run/mgmt/control",
    "relay_endpoint": "ipc:///run/mgmt/relay",
    "client_endpoint": "ipc:///tmp/symphony-ipc",
    "cli_endpoint": "ipc:///tmp/symphony-cli",
    "sessions": 2,
    "workloads": 0,
    "seq": 17,
    "counters": {"requests": 5},
}


def a_unit(unit: str = "echo", **changed: Any) -> Body:
    """A UnitStatus of a running unit."""
    return {
        "unit": unit,
        "model": unit.partition("#")[0],
        "type": "echo",
        "state": "RUNNING",
        "ready": True,
        "reason": "ready",
        "pid": 4712,
        "incarnation": 1,
        "restarts": 0,
        "started_at": 1_700_000_100.0,
        "uptime_s": 92.0,
        "cpus": [0, 1, 2, 3, 6],
        "cpu_percent": 12.34,
        "memory_bytes": 12_900_000,
        "endpoint": "ipc:///tmp/symphony-model-0000002a",
        "protocols": ["echo"],
        "last_exit": None,
        "next_start_s": None,
        "log": f"/var/lib/mgmt/logs/{unit}.log",
        **changed,
    }


def failed_unit(unit: str = "bad") -> Body:
    """A UnitStatus of one that was given up."""
    last = {"code": 3, "signal": None, "reason": "exit status 3", "at": 1_700_000_150.5}
    idle: Body = {
        "pid": None,
        "uptime_s": None,
        "started_at": None,
        "cpu_percent": None,
        "memory_bytes": None,
    }
    why = "gave up after 5 restarts"
    return a_unit(unit, state="FATAL", ready=False, restarts=5, reason=why, last_exit=last, cpus=[], **idle)


def a_model(model: str = "echo", **changed: Any) -> Body:
    names = {"model": model, "fullname": f"mgmt/{model}", "type": "echo", "aliases": []}
    return {**names, "replicas": 1, "ready": 1, "state": "RUNNING", "default": False, **changed}


def an_explanation(unit: str = "echo", lines: list[str] | None = None, cpus: list[int] | None = None) -> Body:
    """What `explain` answers; `cpus` are held alone, and planned so."""
    place = {"cpus": cpus or [], "exclusive": bool(cpus), "gpus": [], "memory_bytes": 0, "why": ""}
    facts = lines or ["RUNNING: ready"]
    return {
        "unit": unit,
        "state": "RUNNING",
        "reason": "ready",
        "lines": facts,
        "holds": place,
        "place": place,
    }


def an_event(seq: int, **changed: Any) -> Body:
    """A UnitEvent as the journal keeps it."""
    return {
        "kind": "unit",
        "seq": seq,
        "at": 1_700_000_000.25 + seq,
        "unit": "echo",
        "model": "echo",
        "was": "STARTING",
        "state": "RUNNING",
        "reason": "ready",
        "incarnation": 1,
        "pid": 4712,
        "exit": None,
        **changed,
    }


def status_of(*units: Body) -> Callable[[Body], Body]:
    """Answers `status` as the daemon does: the named ones, or `unknown-model`."""

    def answer(body: Body) -> Body:
        chosen = list(units)
        if body.get("units"):
            chosen = [unit for unit in units if {unit["unit"], unit["model"]} & set(body["units"])]
            known = {name for unit in units for name in (unit["unit"], unit["model"])}
            for name in body["units"]:
                if name not in known:
                    raise MgmtError("unknown-model", f"no model {name!r} is configured", model=name)
        return {"service": SERVICE, "units": chosen}

    return answer


class ScriptedDaemon:
    """Answers each verb by its row of `script`: a body, an error, a function of the request's body, or None
    for silence. `asked` holds what came, in order; `events` are sent behind the answer to a subscribe.
    `model` answers on the data plane."""

    def __init__(self, endpoint: str, script: Script, model: Model | None = None) -> None:
        self.endpoint = endpoint
        lease = {"model": "echo", "mode": "direct", "unit": "echo", "protocols": []}
        self.script: Script = {
            "hello": WELCOME,
            "status": status_of(),
            "explain": lambda body: an_explanation(body["target"]),
            "lease": {"lease": LEASE, "endpoint": f"{endpoint}.data", **lease},
            "release": {},
            **script,
        }
        self._model = model
        self.events: list[Body] = []
        self.asked: list[tuple[str, Body]] = []
        self._over = threading.Event()
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.linger = 0
        self._router.bind(endpoint)
        self._data = self._context.socket(zmq.ROUTER)
        self._data.linger = 0
        self._data.bind(f"{endpoint}.data")
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._router.close(0)
        self._data.close(0)
        self._context.term()

    def verbs(self) -> list[str]:
        """What was asked besides hello."""
        return [verb for verb, _ in self.asked if verb != "hello"]

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._data, zmq.POLLIN)
        while not self._over.is_set():
            arrived = dict(poller.poll(20))
            if self._data in arrived:
                self._serve(*self._data.recv_multipart())
            if self._router in arrived:
                peer, frame = self._router.recv_multipart()
                message = frames.decode([frame])
                if isinstance(message, frames.Request):
                    self._answer(peer, message)
                elif isinstance(message, frames.Notice) and message.name == "heartbeat":
                    self._router.send_multipart([peer, frames.encode_notice(SESSION, "heartbeat", {})])

    def _serve(self, peer: bytes, tag: bytes, payload: bytes) -> None:
        assert self._model is not None, "no model was scripted"
        try:
            kind, answer = frames.DataKind.RESULT, self._model(frames.unpack(payload))
        except MgmtError as error:
            kind, answer = frames.DataKind.ERROR, error.as_body()
        self._data.send_multipart([peer, frames.answer_tag(tag, kind), frames.pack(answer)])

    def _answer(self, peer: bytes, request: frames.Request) -> None:
        self.asked.append((request.verb, request.body))
        outcome = frames.Outcome.OK
        try:
            validate(request)  # what the real daemon would refuse must not pass here
            row = self.script[request.verb]
            body = row(request.body) if callable(row) else row
            if isinstance(body, MgmtError):
                raise body
        except MgmtError as error:
            body = error.as_body()
            outcome = frames.OUTCOME_OF_CODE.get(error.code, frames.Outcome.ERROR)
        if body is None:
            return
        self._router.send_multipart([peer, frames.encode_reply(request.id, SESSION, outcome, body)])
        if request.verb == "subscribe" and request.body.get("follow", True):
            for event in self.events:
                kind = event["kind"]
                fields = {key: value for key, value in event.items() if key != "kind"}
                self._router.send_multipart([peer, frames.encode_event(event["seq"], SESSION, kind, fields)])


@contextmanager
def scripted(
    folder: str, script: Script, name: str = "control", model: Model | None = None
) -> Iterator[ScriptedDaemon]:
    """A scripted daemon at the socket `name` in `folder`."""
    daemon = ScriptedDaemon(f"ipc://{folder}/{name}", script, model)
    try:
        yield daemon
    finally:
        daemon.close()
