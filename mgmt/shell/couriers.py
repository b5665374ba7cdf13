"""How a courier's requests reach the daemon: over an agent's link, or within the daemon's own process."""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Any

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.event import CREW_PLANE, Asked, Route
from mgmt.protocol import frames, messages
from mgmt.protocol.errors import MgmtError
from mgmt.shell.courier import Ask

Done = Callable[[dict[str, Any] | MgmtError], None]


def _awaited(loop: AbstractEventLoop, say: Callable[[str, dict[str, Any], Done], None]) -> Ask:
    """What calls back, as something to be awaited."""

    def ask(verb: str, body: dict[str, Any]) -> asyncio.Future[dict[str, Any]]:
        future: asyncio.Future[dict[str, Any]] = loop.create_future()

        def done(answer: dict[str, Any] | MgmtError) -> None:
            if future.done():
                return  # nobody waits any more
            if isinstance(answer, MgmtError):
                future.set_exception(answer)
            else:
                future.set_result(answer)

        say(verb, body, done)
        return future

    return ask


def over_link(
    loop: AbstractEventLoop, link: Callable[[], Callable[[str, dict[str, Any], Done], None]]
) -> Ask:
    """`link()`: the `ask` of the uplink there is now."""

    def say(verb: str, body: dict[str, Any], done: Done) -> None:
        link()(verb, body, done)

    return _awaited(loop, say)


class ToItself:
    """A daemon's own crew asks as an agent does; `post` feeds an event in a turn of its own."""

    def __init__(self, serial: Callable[[], int], post: Callable[[ev.Event], None]) -> None:
        self._serial, self._post = serial, post
        self._waiting: dict[int, Done] = {}

    def ask(self, loop: AbstractEventLoop) -> Ask:
        return _awaited(loop, self._say)

    def answer(self, effect: fx.Answer) -> None:
        done = self._waiting.pop(effect.route.serial, None)
        if done is not None:
            body = frames.unpack(effect.body) if isinstance(effect.body, bytes) else effect.body
            done(body if effect.outcome == frames.Outcome.OK else MgmtError.from_body(body))

    def _say(self, verb: str, body: dict[str, Any], done: Done) -> None:
        request = frames.Request(0, 0, verb, body, 0, "")
        route = Route(self._serial(), CREW_PLANE, b"")
        self._waiting[route.serial] = done
        self._post(Asked(route, verb, messages.validate(request)))
