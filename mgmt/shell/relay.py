"""The relay: data messages from clients to replicas and back, by lease, without decoding a body.

A message keeps all its frames but the ROUTER's identity frame. The tag's lease chooses the group of replicas,
the least occupied one gets the request, and `outstanding` remembers who is owed its one answer, and until when: a
replica that falls silent holds neither its clients nor its places for ever.
"""

from __future__ import annotations

import struct
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
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
FAR = "node://"  # endpoints of units on other nodes: node://NODE/UNIT

Carry = Callable[[str, str, list[Any]], bool]  # node, unit, tag and payload


def _nowhere(node: str, unit: str, message: list[Any]) -> bool:
    return False


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


class Outstanding:
    """Requests that a replica has not answered: lease-and-id -> the identity that waits, and the deadline in
    seconds of the loop's clock.
    """

    __slots__ = ("outstanding",)

    def __init__(self) -> None:
        self.outstanding: dict[bytes, tuple[bytes, float]] = {}

    def settles(self, tag: bytes) -> bytes | None:
        """Who waits for this answer, and no longer does; None when nobody does."""
        if len(tag) != TAG_BYTES or tag[1] < DataKind.RESULT:
            return None
        waiting = self.outstanding.pop(tag[LEASE_AND_ID], None)
        return None if waiting is None else waiting[0]

    def open_tags(self) -> list[bytes]:
        """The tags of the requests that will not be answered any more."""
        return [_request_tag(key) for key in self.outstanding]


class Replica(Outstanding):
    """A connection to one backend of this machine."""

    __slots__ = ("endpoint", "pump", "socket", "unit")

    def __init__(self, unit: str, endpoint: str, socket: zmq.Socket[bytes]) -> None:
        super().__init__()
        self.unit, self.endpoint, self.socket = unit, endpoint, socket
        self.pump: Pump

    def offer(self, message: list[Any]) -> bool:
        """Send tag and payload; False when the backend does not read."""
        self.pump.poke()  # a send that is refused swallows signals, too
        socket, last = self.socket, len(message) - 1
        try:
            for i in range(last + 1):
                send(socket, message[i], _NOBLOCK if i == last else _MORE)
        except zmq.Again:
            return False
        return True

    def close(self) -> None:
        self.pump.close()
        self.socket.close(0)


class FarReplica(Outstanding):
    """A backend of another machine, reached through its agent."""

    __slots__ = ("_carry", "endpoint", "node", "unit")

    def __init__(self, unit: str, endpoint: str, carry: Carry) -> None:
        super().__init__()
        self.unit, self.endpoint, self._carry = unit, endpoint, carry
        self.node = endpoint.removeprefix(FAR).partition("/")[0]

    def offer(self, message: list[Any]) -> bool:
        return self._carry(self.node, self.unit, message)

    def close(self) -> None:
        """Its agent's connection serves others."""


def connect(
    loop: AbstractEventLoop,
    context: zmq.Context[Any],
    unit: str,
    endpoint: str,
    on_answer: Callable[[Replica, list[Any]], None],
    max_queue: int,
) -> Replica:
    socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    # Requests that expired at a silent replica may still be queued for it: these are bounded here.
    socket.setsockopt(zmq.SNDHWM, 2 * max_queue)
    socket.setsockopt(zmq.RCVHWM, HWM)
    socket.setsockopt(zmq.RECONNECT_IVL, 10)
    socket.connect(endpoint)
    replica = Replica(unit, endpoint, socket)
    replica.pump = Pump(loop, socket, lambda message: on_answer(replica, message), _receive_answer)
    return replica


@dataclass(slots=True)
class _Group:
    """The replicas of a model that are ready; leases point at it, so it may be empty for a while."""

    replicas: dict[str, Replica | FarReplica] = field(default_factory=dict)


class Relay:
    """Groups of replicas behind one ROUTER."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        context: zmq.Context[Any],
        endpoint: str,
        max_frame_bytes: int,
        max_queue: int,
        prepare: Callable[[zmq.Socket[bytes]], None] | None = None,
    ) -> None:
        """`prepare` sets what else the socket needs before it is bound."""
        self._loop = loop
        self._context = context
        self._max_frame_bytes = max_frame_bytes
        self._max_queue = max_queue
        self._groups: dict[str, _Group] = {}
        self._leases: dict[bytes, _Group] = {}
        self._far: dict[tuple[str, str], FarReplica] = {}  # by node and unit
        self.carry: Carry = _nowhere  # the way to agents, when there are any
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
            prepare=prepare,
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
        if not replica.offer(message[1:]):
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

    def _expire(self, replica: Replica | FarReplica, keys: list[bytes]) -> None:
        text = f"{replica.unit} did not answer before the deadline; what it was asked may still be done"
        expired = MgmtError("expired", text, unit=replica.unit)
        for key in keys:
            peer, _ = replica.outstanding.pop(key)
            self._answer(peer, _request_tag(key), DataKind.EXPIRED, expired)

    def _on_answer(self, replica: Replica | FarReplica, message: list[Any]) -> None:
        peer = replica.settles(message[0])
        if peer is None:
            self.strays += 1
        else:
            self.router.send(peer, message)

    def on_carried(self, node: str, unit: str, message: list[Any]) -> None:
        """An answer (tag, payload...) that a node's agent brings."""
        replica = self._far.get((node, unit))
        if replica is None:
            self.strays += 1
        else:
            self._on_answer(replica, message)

    def lose_node(self, node: str) -> None:
        """The connection to the node's agent is gone, and with it the answers that were to come over it."""
        for (of, _), replica in list(self._far.items()):
            if of == node:
                self._give_up(replica)

    def _drop(self, replica: Replica | FarReplica) -> None:
        replica.close()
        if isinstance(replica, FarReplica):
            self._far.pop((replica.node, replica.unit), None)
        self._give_up(replica)

    def _give_up(self, replica: Replica | FarReplica) -> None:
        lost = MgmtError("backend-lost", f"{replica.unit} died before it answered", unit=replica.unit)
        peers, tags = [peer for peer, _ in replica.outstanding.values()], replica.open_tags()
        replica.outstanding.clear()
        for peer, tag in zip(peers, tags, strict=True):
            self._answer(peer, tag, DataKind.ERROR, lost)

    def _connect(self, unit: str, endpoint: str) -> Replica | FarReplica:
        if not endpoint.startswith(FAR):
            return connect(self._loop, self._context, unit, endpoint, self._on_answer, self._max_queue)
        replica = FarReplica(unit, endpoint, self.carry)
        self._far[replica.node, unit] = replica
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


def _load(replica: Replica | FarReplica) -> int:
    return len(replica.outstanding)
