"""The two legacy endpoints: Symphony's protobuf handshake and its JSON commands, translated at the edge.

The core sees native requests on the plane "legacy"; what differs is only how they are read and answered.
"""

from __future__ import annotations

import uuid
from asyncio import AbstractEventLoop
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import zmq

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.event import Route
from mgmt.core.step import LEGACY_PLANE
from mgmt.protocol import defaults, frames, messages, symphony
from mgmt.protocol.frames import FrameError, Request
from mgmt.settings import Settings
from mgmt.shell.router import Frames, Router

HARD_MESSAGE_BYTES = 16 * defaults.MAX_CONTROL_FRAME_BYTES


@dataclass(frozen=True, slots=True)
class _Envelope:
    """What an answer needs: the frames to mirror, and the command (None: it was a handshake)."""

    prefix: tuple[bytes, ...]
    command: symphony.Command | None


class LegacyPlane:
    """Two ROUTERs, no sessions; each message gets one answer in the frame form its sender used."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        context: zmq.Context[Any],
        settings: Settings,
        serial: Callable[[], int],
        emit: Callable[[ev.Event], None],
    ) -> None:
        self._serial = serial
        self._emit = emit
        self._starting_after_ms = int(settings.timing.legacy_load_answer_s * 1000)
        endpoints = settings.endpoints
        self.handshake = Router(
            loop, context, endpoints.client_handshake, HARD_MESSAGE_BYTES, self._on_handshake, self._on_lost
        )
        self.commands = Router(
            loop, context, endpoints.cli_management, HARD_MESSAGE_BYTES, self._on_command, self._on_lost
        )

    def answer(self, effect: fx.Answer) -> None:
        route = effect.route
        envelope: _Envelope = route.envelope
        body = effect.body
        if not isinstance(body, dict):
            raise TypeError("an answer on the legacy plane is a map")
        command = envelope.command
        if command is None:
            protocols = body["protocols"] if effect.outcome == frames.Outcome.OK else ()
            reply = symphony.encode_handshake_response(protocols)
            self.handshake.send(route.peer, (*envelope.prefix, reply))
            return
        if effect.outcome == frames.Outcome.OK:
            reply = symphony.reply_ok(command, body)
        else:
            reply = symphony.reply_native_error(command, body["code"], body["text"], body.get("detail", {}))
        self.commands.send(route.peer, (*envelope.prefix, reply))

    def _on_handshake(self, message: Frames) -> None:
        peer = message[0]
        prefix, payload = symphony.split_envelope(message[1:])
        if not payload or not symphony.decode_handshake(payload[0]):
            self.handshake.send(peer, (*prefix, symphony.encode_handshake_response(())))
            return
        envelope = _Envelope(tuple(prefix), None)
        self._emit(ev.HandshakeAsked(Route(self._serial(), LEGACY_PLANE, peer, envelope=envelope)))

    def _on_command(self, message: Frames) -> None:
        peer = message[0]
        prefix, payload = symphony.split_envelope(message[1:])
        try:
            command = symphony.decode_command(symphony.single_frame(payload), _fresh_id)
        except symphony.BadCommand as fault:
            self.commands.send(peer, (*prefix, symphony.reply_error(symphony.UNKNOWN_ID, fault.text)))
            return
        try:
            verb, fields = symphony.to_request(command)
            if verb == "load-model":
                # Old callers wait ten seconds; an honest "starting" beats their timeout.
                fields = {**fields, "starting_after_ms": self._starting_after_ms}
            body = messages.validate(Request(0, 0, verb, fields, 0, ""))
        except symphony.Refused as refusal:
            reply = symphony.reply_error(command.correlation_id, refusal.text, refusal.data)
            self.commands.send(peer, (*prefix, reply))
            return
        except FrameError as error:
            reply = symphony.reply_native_error(command, error.code, error.text, error.detail)
            self.commands.send(peer, (*prefix, reply))
            return
        envelope = _Envelope(tuple(prefix), command)
        self._emit(ev.Asked(Route(self._serial(), LEGACY_PLANE, peer, envelope=envelope), verb, body))

    def _on_lost(self, peer: bytes, reason: str) -> None:
        """Legacy peers have no session to end; their answers had nobody to read them."""


def _fresh_id() -> str:
    return str(uuid.uuid4())
