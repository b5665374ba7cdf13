"""The table of verbs: one handler for each request of the protocol, entered where it is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from mgmt.core import effect as fx
from mgmt.core.event import Asked, Now
from mgmt.core.state import State
from mgmt.protocol import frames
from mgmt.protocol import messages as msg
from mgmt.protocol.errors import MgmtError

# The body of the answer, packed or not; None: the request was parked and is answered by a later event.
Body = dict[str, Any] | bytes | None
Handler = Callable[[State, Now, Asked, list[fx.Effect]], Body]
HANDLERS: dict[str, Handler] = {}
M = TypeVar("M", bound=msg.Message)


def handles(verb: str) -> Callable[[Callable[[State, Now, Asked, M, list[fx.Effect]], Body]], Handler]:
    """Enter a function as the handler of a verb."""

    def enter(function: Callable[[State, Now, Asked, M, list[fx.Effect]], Body]) -> Handler:
        def handler(state: State, now: Now, asked: Asked, out: list[fx.Effect]) -> Body:
            return function(state, now, asked, cast(M, asked.body), out)

        HANDLERS[verb] = handler
        return handler

    return enter


def refuse_while_stopping(state: State) -> None:
    if state.stopping:
        raise MgmtError("stopping", "the daemon is stopping; start it again with `mgmt start-service`")


Reply = Callable[[Now, Any, list[fx.Effect]], dict[str, Any] | None]


Ask = Callable[[Any, Callable[[Now, Any, list[fx.Effect]], None], list[fx.Effect]], None]


def later(
    state: State,
    now: Now,
    asked: Asked,
    operation: Any,
    reply: Reply,
    out: list[fx.Effect],
    ask: Ask | None = None,
) -> None:
    """Park the request, ask the queue, and answer with what `reply` makes of its result; None: it does itself.

    `ask`: the board's `ask`, or one of the same kind.
    """
    state.sessions.park(now, asked, out)

    def then(now: Now, result: Any, out: list[fx.Effect]) -> None:
        if isinstance(result, MgmtError):
            state.sessions.refuse(asked.route, result, out)
            return
        try:
            body = reply(now, result, out)
        except MgmtError as error:
            state.sessions.refuse(asked.route, error, out)
            return
        if body is not None:
            state.sessions.answer(asked.route, frames.Outcome.OK, body, out)

    (ask or state.board.ask)(operation, then, out)
