"""The shape of the message table: what a message is, its rows, and how one is entered and checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mgmt.protocol import defaults
from mgmt.protocol.frames import FrameError, Request


class Message(BaseModel):
    """Base of all message bodies: strict types, no unknown fields, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Audience(StrEnum):
    """Who may say it; the unit of authorisation."""

    CLIENT = "client"
    OPERATOR = "operator"
    BACKEND = "backend"
    AGENT = "agent"


@dataclass(frozen=True, slots=True)
class Verb:
    """One row of the table: a request with its one reply, or a notice when `reply` is None."""

    name: str
    body: type[Message]
    reply: type[Message] | None
    audience: Audience


REQUESTS: dict[str, Verb] = {}
NOTICES: dict[str, Verb] = {}
EVENTS: dict[str, type[Message]] = {}

Name = Annotated[str, Field(min_length=1, max_length=defaults.MAX_NAME_CHARS)]


M = TypeVar("M", bound=type[Message])


def request(name: str, reply: type[Message], audience: Audience = Audience.OPERATOR) -> Callable[[M], M]:
    def enter(body: M) -> M:
        REQUESTS[name] = Verb(name, body, reply, audience)
        return body

    return enter


def notice(name: str, audience: Audience = Audience.CLIENT) -> Callable[[M], M]:
    def enter(body: M) -> M:
        NOTICES[name] = Verb(name, body, None, audience)
        return body

    return enter


def event(name: str) -> Callable[[M], M]:
    def enter(body: M) -> M:
        EVENTS[name] = body
        return body

    return enter


def validate(request: Request) -> Message:
    """The validated body; FrameError `unknown-verb`, or `bad-body` naming the first wrong field."""
    verb = REQUESTS.get(request.verb)
    if verb is None:
        raise FrameError(
            "unknown-verb",
            f"there is no request {request.verb!r:.60}; known: {', '.join(sorted(REQUESTS))}",
            request.id,
            request.session,
        )
    try:
        return verb.body.model_validate(request.body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "body"
        raise FrameError(
            "bad-body",
            f"{request.verb}: field `{field}`: {first['msg']}",
            request.id,
            request.session,
            field=field,
        ) from None


class Empty(Message):
    """No fields."""
