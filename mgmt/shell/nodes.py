"""Where agents join: one ROUTER with two connections of each, one for control and one for requests to models.

A control message is one frame, as on the control endpoint. A message of requests is [unit, tag, payload...] each
way; the first one of its connection is ["", token], which says whose it is. Two connections, so that a large
request holds up no heartbeat.
"""

from __future__ import annotations

import logging
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Any

import zmq
from pydantic import ValidationError

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.event import NODES_PLANE, Route
from mgmt.protocol import frames, messages
from mgmt.protocol.frames import FrameError
from mgmt.protocol.keys import Grant
from mgmt.shell.door import Door
from mgmt.shell.relay import Relay
from mgmt.shell.router import Router, recv

log = logging.getLogger("mgmt.shell.nodes")

_NOBLOCK = int(zmq.NOBLOCK)
FROM_AGENTS = frozenset({"agent-heartbeat", "agent-report", "agent-answer", "crew-exchange", "crew-phase"})


def receive_node(socket: zmq.Socket[bytes]) -> list[Any]:
    """Identity and first two frames as bytes, payload as zmq.Frames; zmq.Again when there is no message."""
    message: list[Any] = [recv(socket, _NOBLOCK)]
    more = True
    while more:
        frame = recv(socket, _NOBLOCK, False)
        message.append(frame.bytes if len(message) < 3 else frame)
        more = frame.more
    return message


def receive_keyed_node(socket: zmq.Socket[bytes]) -> list[Any]:
    """The same behind the public key (str) of the sender."""
    message: list[Any] = [None, recv(socket, _NOBLOCK)]
    more = True
    while more:
        frame = recv(socket, _NOBLOCK, False)
        message[0] = message[0] or frame.get("User-Id")
        message.append(frame.bytes if len(message) < 4 else frame)
        more = frame.more
    return message


class NodesPlane:
    """With a `door`, an agent needs a key, and speaks for the node of that key only."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        context: zmq.Context[Any],
        endpoint: str,
        max_frame_bytes: int,
        relay: Relay,
        serial: Callable[[], int],
        emit: Callable[[ev.Event], None],
        door: Door | None = None,
    ) -> None:
        self._relay = relay
        self._serial = serial
        self._emit = emit
        self._tokens: dict[str, bytes] = {}  # node -> what the connection of its requests must show
        self._carriers: dict[str, bytes] = {}  # node -> that connection
        self._node_of: dict[bytes, str] = {}
        self._speakers: dict[str, bytes] = {}  # node -> the connection of its session
        self._grant_of = door.grant if door is not None else None
        self.bad_frames = 0
        relay.carry = self.carry
        self.router = Router(
            loop,
            context,
            endpoint,
            2 * max_frame_bytes,
            self._on_message if door is None else self._on_keyed,
            self._on_lost,
            receive_node if door is None else receive_keyed_node,
            prepare=door.prepare("nodes") if door is not None else None,
        )

    # ---- effects ----

    def tell(self, effect: fx.ToNode) -> None:
        self.router.send(effect.peer, (frames.encode_notice(effect.session, effect.name, effect.body),))

    def beat(self, effect: fx.Beat) -> None:
        assert effect.peer is not None
        self.router.send(effect.peer, (frames.encode_notice(effect.session, "node-heartbeat", effect.body),))

    def answer(self, effect: fx.Answer) -> None:
        route = effect.route
        self.router.send(
            route.peer, (frames.encode_reply(route.id, route.session, effect.outcome, effect.body),)
        )

    def admit(self, effect: fx.AdmitNode) -> None:
        """Another session of the node, or none: what its former connection was to answer is lost."""
        self._let_go(effect.node)
        self._tokens.pop(effect.node, None)
        self._speakers.pop(effect.node, None)
        if effect.peer is not None:
            self._tokens[effect.node] = effect.token.encode()
            self._speakers[effect.node] = effect.peer

    def carry(self, node: str, unit: str, message: list[Any]) -> bool:
        """Send a request (tag, payload...) to a unit's agent; False when there is no way to it now."""
        peer = self._carriers.get(node)
        if peer is None:
            return False
        self.router.send(peer, (unit.encode(), *message))
        return True

    # ---- messages ----

    def _on_keyed(self, message: list[Any]) -> None:
        assert self._grant_of is not None
        self._on_message(message, self._grant_of(message.pop(0)))

    def _on_message(self, message: list[Any], grant: Grant | None = None) -> None:
        peer: bytes = message[0]
        if len(message) == 2:
            self._on_control(peer, message[1:], grant)
        elif message[1]:
            node = self._node_of.get(peer)
            if node is not None and (grant is None or grant.node == node):
                self._relay.on_carried(node, message[1].decode("utf-8", "replace"), message[2:])
        else:
            self._on_token(peer, message[2], grant)

    def _on_control(self, peer: bytes, message: list[bytes], grant: Grant | None) -> None:
        try:
            decoded = frames.decode(message)
            if type(decoded) is frames.Notice:
                if grant is not None and self._speakers.get(grant.node) != peer:
                    self.router.send(peer, (frames.encode_notice(decoded.session, "node-gone", {}),))
                    return
                if decoded.name not in FROM_AGENTS:
                    raise FrameError("unknown-verb", f"agents do not say {decoded.name!r:.60}")
                try:
                    messages.NOTICES[decoded.name].body.model_validate(decoded.body)
                except ValidationError as error:
                    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
                    text = f"{decoded.name}: field {'.'.join(map(str, first['loc']))}: {first['msg']}"
                    raise FrameError("bad-body", text) from None
                self._emit(ev.NodeNoticed(peer, decoded.session, decoded.name, decoded.body))
            elif type(decoded) is frames.Request:
                body = messages.validate(decoded)
                route = Route(self._serial(), NODES_PLANE, peer, decoded.id, decoded.session, None, grant)
                deadline_ns = time.monotonic_ns() + decoded.deadline_ms * 1_000_000
                self._emit(ev.Asked(route, decoded.verb, body, deadline_ns if decoded.deadline_ms else 0))
            else:
                raise FrameError("bad-frame", "only requests and notices are sent to a daemon", decoded[0])
        except FrameError as error:
            self.bad_frames += 1
            log.warning("an agent sends what is refused: %s", error.text)
            outcome = frames.OUTCOME_OF_CODE.get(error.code, frames.Outcome.ERROR)
            frame = frames.encode_reply(error.id, error.session, outcome, error.as_body())
            self.router.send(peer, (frame,))

    def _on_token(self, peer: bytes, token: bytes, grant: Grant | None) -> None:
        for node, expected in self._tokens.items():
            if expected == token and (grant is None or grant.node == node):
                self._let_go(node)
                self._carriers[node] = peer
                self._node_of[peer] = node
                return

    def _on_lost(self, peer: bytes, reason: str) -> None:
        node = self._node_of.get(peer)
        if node is not None:
            self._let_go(node)
        else:
            self._emit(ev.NodePeerLost(peer, reason))

    def _let_go(self, node: str) -> None:
        peer = self._carriers.pop(node, None)
        if peer is not None:
            del self._node_of[peer]
            self._relay.lose_node(node)
