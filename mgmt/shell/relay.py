"""The relay: data messages from clients to replicas and back, by lease, without decoding a body.

A message keeps all its frames but the ROUTER's identity frame. The tag's lease chooses the group of replicas,
the least occupied one gets the request, and `outstanding` remembers who is owed its one answer, and until when: a
replica that falls silent holds neither its clients nor its places for ever.
"""

from __future__ import annotations

import struct
from asyncio import AbstractEventLoop, TimerHandle
from dataclasses import dataclass, field
from typing import Any

import zmq

from mgmt.core import effect as fx
from mgmt.protocol import frames
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.frames import LEASE_AND_ID, TAG_BYTES, VERSION, DataKind
from mgmt.shell.router import HWM, Pump, Router, recv, send

_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_NOBLOCK = int(zmq.NOBLOCK)
_LEASE = slice(6, 14)
_DEADLINE_MS = slice(2, 6)
NEVER_S = float("inf")

SWEEP_S = 0.1  # deadlines are looked at this often at most: an answer may come that much after its own
HELD_FRAMES = 4  # of the largest size: what is held for a client that does not read, in bytes
_REQUEST_HEAD = bytes((VERSION, DataKind.REQUEST))


# Payloads stay zmq.Frames from the one socket to the other: not copied, and cheaper than bytes even when small.


def _receive_request(socket: zmq.Socket[bytes]) -> list[Any]:
    """Identity and tag as bytes, payload as zmq.Frames; zmq.Again when there is no message."""
    identity = recv(socket, _NOBLOCK)
    return [identity, *_receive_answer(socket)]


def _receive_answer(socket: zmq.Socket[bytes]) -> list[Any]:
    """Tag as bytes, payload as zmq.Frames; zmq.Again when there is no message."""
    frame = recv(socket, _NOBLOCK, False)
    message = [frame.bytes]
    while frame.more:
        frame = recv(socket, _NOBLOCK, False)
        message.append(frame)
    return message


@dataclass(slots=True)
class _Replica:
    """A connection to one backend; `outstanding` maps lease-and-id to the identity that waits, and its deadline
    in seconds of the loop's clock.
    """

    unit: str
    endpoint: str
    socket: zmq.Socket[bytes]
    pump: Pump
    outstanding: dict[bytes, tuple[bytes, float]] = field(default_factory=dict)


@dataclass(slots=True)
class _Group:
    """The replicas of a model that are ready; leases point at it, so it may be empty for a while."""

    replicas: dict[str, _Replica] = field(default_factory=dict)


class Relay:
    """Groups of replicas behind one ROUTER."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        context: zmq.Context[Any],
        endpoint: str,
        max_frame_bytes: int,
        max_queue: int,
    ) -> None:
        self._loop = loop
        self._context = context
        self._max_frame_bytes = max_frame_bytes
        self._max_queue = max_queue
        self._groups: dict[str, _Group] = {}
        self._leases: dict[bytes, _Group] = {}
        # Answers nobody waits for: of a client that left, too late, or of a backend that repeats itself.
        self.strays = 0
        self._sweep_timer: TimerHandle | None = None
        self._sweep_at_s = NEVER_S
        self._swept_s = 0.0
        self.router = Router(
            loop,
            context,
            endpoint,
            2 * max_frame_bytes,
            self._on_request,
            self._on_lost,
            _receive_request,
            HELD_FRAMES * max_frame_bytes,
        )

    # ---- effects ----

    def set_lease(self, effect: fx.RelayLease) -> None:
        key = struct.pack("!Q", effect.lease)
        if effect.model is None:
            self._leases.pop(key, None)
        else:
            self._leases[key] = self._groups.setdefault(effect.model, _Group())

    def set_group(self, effect: fx.RelayGroup) -> None:
        """Connect to new replicas; answer for those that are gone."""
        group = self._groups.setdefault(effect.model, _Group())
        wanted = dict(effect.replicas)
        for unit, replica in list(group.replicas.items()):
            if wanted.get(unit) != replica.endpoint:
                del group.replicas[unit]
                self._drop(replica)
        for unit, endpoint in wanted.items():
            if unit not in group.replicas:
                group.replicas[unit] = self._connect(unit, endpoint)

    def close(self) -> None:
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        for group in self._groups.values():
            for replica in group.replicas.values():
                self._drop(replica)
        self.router.flush()
        self.router.close()

    # ---- messages ----

    def _on_request(self, message: list[Any]) -> None:
        peer: bytes = message[0]
        tag: bytes = message[1]
        if len(tag) != TAG_BYTES or not tag.startswith(_REQUEST_HEAD):
            self._refuse_tag(peer, tag)
            return
        group = self._leases.get(tag[_LEASE])
        if group is None:
            self._answer(
                peer, tag, DataKind.GONE, MgmtError("lease-gone", "no such lease; ask for a new one")
            )
            return
        if not group.replicas:
            text = "no replica of the model is ready now; try again"
            self._answer(peer, tag, DataKind.ERROR, MgmtError("not-ready", text))
            return
        if len(group.replicas) == 1:
            (replica,) = group.replicas.values()
        else:
            replica = min(group.replicas.values(), key=_load)
        outstanding = replica.outstanding
        if len(outstanding) >= self._max_queue:
            text = f"{len(outstanding)} requests wait at {replica.unit}, which is the limit; try again later"
            self._answer(peer, tag, DataKind.BUSY, MgmtError("busy", text))
            return
        key = tag[LEASE_AND_ID]
        if key in outstanding:
            text = "a request of this number is still waiting; numbers of a lease must differ"
            self._answer(peer, tag, DataKind.ERROR, MgmtError("conflict", text))
            return
        if max(map(len, message)) > self._max_frame_bytes:
            text = f"a frame is larger than {self._max_frame_bytes} bytes (limits.max_relay_frame_bytes)"
            self._answer(peer, tag, DataKind.ERROR, MgmtError("too-large", text))
            return
        replica.pump.poke()  # a send that is refused swallows signals, too
        socket = replica.socket
        last = len(message) - 1
        try:
            for i in range(1, last + 1):
                send(socket, message[i], _NOBLOCK if i == last else _MORE)
        except zmq.Again:
            self._answer(
                peer, tag, DataKind.BUSY, MgmtError("busy", f"{replica.unit} does not read; try later")
            )
            return
        deadline_ms = int.from_bytes(tag[_DEADLINE_MS])
        if not deadline_ms:
            outstanding[key] = peer, NEVER_S
            return
        deadline_s = self._loop.time() + deadline_ms / 1000
        outstanding[key] = peer, deadline_s
        if deadline_s < self._sweep_at_s:
            self._sweep_at(deadline_s)

    def _on_answer(self, replica: _Replica, message: list[Any]) -> None:
        tag: bytes = message[0]
        waiting = replica.outstanding.get(tag[LEASE_AND_ID])
        if waiting is None or len(tag) != TAG_BYTES or tag[1] < DataKind.RESULT:
            self.strays += 1
            return
        del replica.outstanding[tag[LEASE_AND_ID]]
        self.router.send(waiting[0], message)

    def _sweep_at(self, deadline_s: float) -> None:
        """Look at the deadlines when the earliest one passes, but not too often."""
        at_s = max(deadline_s, self._swept_s + SWEEP_S)
        if at_s < self._sweep_at_s:
            if self._sweep_timer is not None:
                self._sweep_timer.cancel()
            self._sweep_at_s = at_s
            self._sweep_timer = self._loop.call_at(at_s, self._sweep)

    def _sweep(self) -> None:
        """Answer what is overdue; its place is free, and an answer that comes yet is a stray."""
        self._swept_s = now_s = self._loop.time()
        self._sweep_timer, self._sweep_at_s = None, NEVER_S
        earliest_s = NEVER_S
        for group in self._groups.values():
            for replica in group.replicas.values():
                overdue = []
                for key, (_, deadline_s) in replica.outstanding.items():
                    if deadline_s <= now_s:
                        overdue.append(key)
                    elif deadline_s < earliest_s:
                        earliest_s = deadline_s
                if overdue:
                    self._expire(replica, overdue)
        if earliest_s < NEVER_S:
            self._sweep_at(earliest_s)

    def _expire(self, replica: _Replica, keys: list[bytes]) -> None:
        text = f"{replica.unit} did not answer before the deadline; what it was asked may still be done"
        expired = MgmtError("expired", text, unit=replica.unit)
        for key in keys:
            peer, _ = replica.outstanding.pop(key)
            self._answer(peer, _request_tag(key), DataKind.EXPIRED, expired)

    def _drop(self, replica: _Replica) -> None:
        replica.pump.close()
        replica.socket.close(0)
        lost = MgmtError("backend-lost", f"{replica.unit} died before it answered", unit=replica.unit)
        for key, (peer, _) in replica.outstanding.items():
            self._answer(peer, _request_tag(key), DataKind.ERROR, lost)

    def _connect(self, unit: str, endpoint: str) -> _Replica:
        socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        # Requests that expired at a silent replica may still be queued for it: these are bounded here.
        socket.setsockopt(zmq.SNDHWM, 2 * self._max_queue)
        socket.setsockopt(zmq.RCVHWM, HWM)
        socket.setsockopt(zmq.RECONNECT_IVL, 10)
        socket.connect(endpoint)
        replica: _Replica

        def on_message(message: list[Any]) -> None:
            self._on_answer(replica, message)

        replica = _Replica(unit, endpoint, socket, Pump(self._loop, socket, on_message, _receive_answer))
        return replica

    def _refuse_tag(self, peer: bytes, tag: bytes) -> None:
        if len(tag) != TAG_BYTES:
            tag = bytes(TAG_BYTES)
            error = MgmtError("bad-frame", f"a data message starts with a tag of {TAG_BYTES} bytes")
        elif tag[0] != VERSION:
            error = MgmtError(
                "bad-version", f"data version {tag[0]} is not spoken here; this side speaks {VERSION}"
            )
        else:
            error = MgmtError("bad-frame", f"data kind {tag[1]} is not a request")
        self._answer(peer, bytes((VERSION,)) + tag[1:], DataKind.ERROR, error)

    def _answer(self, peer: bytes, tag: bytes, kind: DataKind, error: MgmtError) -> None:
        self.router.send(peer, (frames.answer_tag(tag, kind), frames.pack_body(error.as_body())))

    def _on_lost(self, peer: bytes, reason: str) -> None:
        """The client left: what its requests bring back will be strays."""


def _request_tag(lease_and_id: bytes) -> bytes:
    return bytes((VERSION, DataKind.REQUEST, 0, 0, 0, 0)) + lease_and_id


def _load(replica: _Replica) -> int:
    return len(replica.outstanding)
