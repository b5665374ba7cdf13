"""What a row of the message table is: a body, its reply, who may say it, and what a user needs for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from mgmt.protocol import defaults


class Message(BaseModel):
    """Base of all message bodies: strict types, no unknown fields, immutable. Validators are built when a body is
    first validated: replies are not, by who sends them."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


class NodeProblem(Message):
    """A node that has not answered, and why."""

    node: str
    reason: str


class Audience(StrEnum):
    """Who may say it at all; `core.access` has what each key and token counts as."""

    ANYBODY = "anybody"  # who may open a session
    CLIENT = "client"
    USER = "user"
    OPERATOR = "operator"
    BACKEND = "backend"
    AGENT = "agent"
    WORKER = "worker"
    COURIER = "courier"  # users, and agents for what they run


class Role(IntEnum):
    """What a user may do with the things of a group, or a group on a node or worker; each includes the former."""

    READ = 0
    WRITE = 1
    ADMIN = 2

    def __str__(self) -> str:
        return self.name.lower()


RoleName = Literal["read", "write", "admin"]
Object = Literal["session", "service", "user", "group", "node", "worker", "unit"]


@dataclass(frozen=True, slots=True)
class Need:
    """What a user must have to say it: a role on an object.

    session: its own; service: the daemon, which any user may read and administrators manage; user: that user or an
    administrator; group, node, worker: the role there. `field` of the body names the object, or a list of them;
    without a field the handler finds the object and asks `Users.require`.
    """

    object: Object
    role: Role
    field: str = ""


# Of verbs whose audience says it all. Those of users say each what they need: what has no row is denied to all but
# administrators.
_NEEDS = {
    Audience.ANYBODY: Need("session", Role.READ),
    Audience.CLIENT: Need("service", Role.READ),
    Audience.OPERATOR: Need("service", Role.ADMIN),
    Audience.BACKEND: Need("unit", Role.ADMIN),
    Audience.AGENT: Need("node", Role.ADMIN),
}


@dataclass(frozen=True, slots=True)
class Verb:
    """One row of the table: a request with its one reply, or a notice when `reply` is None."""

    name: str
    body: type[Message]
    reply: type[Message] | None
    audience: Audience
    need: Need | None


REQUESTS: dict[str, Verb] = {}
NOTICES: dict[str, Verb] = {}
EVENTS: dict[str, type[Message]] = {}

Name = Annotated[str, Field(min_length=1, max_length=defaults.MAX_NAME_CHARS)]

M = TypeVar("M", bound=type[Message])


def enter_request(
    name: str, reply: type[Message], audience: Audience = Audience.OPERATOR, need: Need | None = None
) -> Callable[[M], M]:
    def enter(body: M) -> M:
        REQUESTS[name] = Verb(name, body, reply, audience, need or _NEEDS.get(audience))
        return body

    return enter


def enter_notice(name: str, audience: Audience = Audience.CLIENT) -> Callable[[M], M]:
    def enter(body: M) -> M:
        NOTICES[name] = Verb(name, body, None, audience, _NEEDS.get(audience))
        return body

    return enter


def enter_event(name: str) -> Callable[[M], M]:
    def enter(body: M) -> M:
        EVENTS[name] = body
        return body

    return enter
