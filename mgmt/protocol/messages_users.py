"""The rows of users, groups, tokens and quotas of the message table."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mgmt.protocol import defaults
from mgmt.protocol.table import Audience, Message, Name, Need, Role, RoleName, enter_request

# A user's name is a group's name, too, and each may stand before a `:` or a `/`.
Account = Annotated[
    str,
    Field(min_length=1, max_length=defaults.MAX_ACCOUNT_CHARS, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$"),
]
Scope = Literal["user", "node", "worker"]

OWN = Need("user", Role.ADMIN, "user")
GROUP_ADMIN = Need("group", Role.ADMIN, "group")


class Membership(Message):
    """A group of a user."""

    group: str
    role: RoleName


class Member(Message):
    """A user of a group."""

    user: str
    role: RoleName


class Granted(Message):
    """What a group may do on a node or a worker: send work (write), manage it (admin)."""

    name: str
    role: RoleName


class Identity(Message):
    """Who this session speaks for."""

    user: str | None = Field(description="None: nobody by name, as with a client's key")
    admin: bool = Field(description="may do whatever an operator may")
    via: str = Field(description="what says so: the socket's file, a key, a token")
    groups: list[Membership]


@enter_request("whoami", Identity, Audience.ANYBODY)
class WhoAmI(Message):
    """Show who you are to the daemon, and the groups you are in."""


# ---- users -----------------------------------------------------------------------------------------------


class UserStatus(Message):
    """A user."""

    user: str
    admin: bool
    state: Literal["active", "locked", "deleted"]
    created_at: float = Field(description="epoch seconds")
    group_quota: int = Field(description="groups the user may create")
    groups: list[Membership]


class UsersReply(Message):
    users: list[UserStatus]


@enter_request("user-create", UserStatus)
class UserCreate(Message):
    """Make a user, and a group of the same name."""

    user: Account
    admin: bool = Field(default=False, description="may do whatever an operator may")


@enter_request("users", UsersReply, Audience.USER, Need("user", Role.READ, "users"))
class Users(Message):
    """List the users, or show some of them."""

    users: list[Name] = Field(
        default=[], max_length=1024, description="only these; empty: all that you may see"
    )


@enter_request("user-lock", UserStatus)
class UserLock(Message):
    """Shut a user out, or let them in again; what is theirs is kept."""

    user: Name
    locked: bool = Field(default=True, description="false: let them in again")


@enter_request("user-delete", UserStatus)
class UserDelete(Message):
    """Delete a user with the group of that name, all tokens and memberships; the name stays taken."""

    user: Name


# ---- tokens ----------------------------------------------------------------------------------------------


class TokenStatus(Message):
    """A token; the secret itself is known to its holder alone."""

    user: str
    name: str
    scope: Scope
    node: str | None = Field(description="the node a token of that scope is for")
    created_at: float
    expires_at: float
    used_at: float | None = Field(description="right within a minute; None: never")
    expired: bool


class TokensReply(Message):
    tokens: list[TokenStatus]


@enter_request("token-new", TokenStatus, Audience.USER, OWN)
class TokenNew(Message):
    """Let a secret in as a user. The daemon is told its SHA-256 only."""

    user: Name | None = Field(default=None, description="whose it is; none: your own")
    name: Account = Field(description="what it is called among the user's")
    digest: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the token's text, which has 256 bits of chance"
    )
    scope: Scope = Field(default="user", description="whose verbs it may say")
    node: Name | None = Field(default=None, description="with scope node: for the agent of this node")
    lifetime_s: float = Field(
        default=defaults.TOKEN_LIFETIME_S,
        ge=1,
        le=defaults.MAX_TOKEN_LIFETIME_S,
        description="how long it is let in",
    )


@enter_request("tokens", TokensReply, Audience.USER, OWN)
class Tokens(Message):
    """List the tokens of a user."""

    user: Name | None = Field(default=None, description="whose; none: your own")


@enter_request("token-revoke", TokenStatus, Audience.USER, OWN)
class TokenRevoke(Message):
    """Let a token in no more, and close what it has opened."""

    user: Name | None = Field(default=None, description="whose it is; none: your own")
    name: Name


# ---- groups ----------------------------------------------------------------------------------------------


class GroupStatus(Message):
    """A group."""

    group: str
    state: Literal["active", "deleted"]
    creator: str
    created_at: float
    members: list[Member]
    nodes: list[Granted]
    workers: list[Granted]
    storage_quota_bytes: int
    storage_used_bytes: int
    tasks: int = Field(description="in its suites, and independent ones")


class GroupsReply(Message):
    groups: list[GroupStatus]


@enter_request("group-create", GroupStatus, Audience.USER, Need("service", Role.READ))
class GroupCreate(Message):
    """Make a group; you are its admin."""

    group: Account


@enter_request("groups", GroupsReply, Audience.USER, Need("group", Role.READ, "groups"))
class Groups(Message):
    """List the groups, or show some of them."""

    groups: list[Name] = Field(
        default=[], max_length=1024, description="only these; empty: all that you may see"
    )


@enter_request("group-delete", GroupStatus, Audience.USER, GROUP_ADMIN)
class GroupDelete(Message):
    """Delete a group; the name stays taken."""

    group: Name


@enter_request("group-add", GroupStatus, Audience.USER, GROUP_ADMIN)
class GroupAdd(Message):
    """Let a user into a group."""

    group: Name
    user: Name
    role: RoleName = Field(
        default="read", description="read: see; write: submit, cancel, upload; admin: let others in"
    )


@enter_request("group-remove", GroupStatus, Audience.USER, GROUP_ADMIN)
class GroupRemove(Message):
    """Put a user out of a group."""

    group: Name
    user: Name


@enter_request("group-role", GroupStatus, Audience.USER, GROUP_ADMIN)
class GroupRole(Message):
    """Change what a user may do in a group."""

    group: Name
    user: Name
    role: RoleName


@enter_request("group-grant", GroupStatus, Audience.USER, Need("node", Role.ADMIN))
class GroupGrant(Message):
    """Let a group send work to a node or worker, or manage it; for whoever manages it."""

    group: Name
    node: Name | None = Field(default=None, description="the node; either this or a worker")
    worker: Name | None = Field(default=None, description="the worker")
    role: RoleName | None = Field(
        default="write", description="write: send work; admin: manage it; none: nothing any more"
    )


# ---- quotas ----------------------------------------------------------------------------------------------


class UserQuota(Message):
    """How many groups a user may create."""

    user: str
    group_quota: int
    groups: int = Field(description="that are there")


class GroupQuota(Message):
    """How much a group may store."""

    group: str
    storage_quota_bytes: int
    storage_used_bytes: int


class QuotasReply(Message):
    users: list[UserQuota]
    groups: list[GroupQuota]


@enter_request("quotas", QuotasReply, Audience.USER, Need("group", Role.READ))
class Quotas(Message):
    """Show how much users and groups may have, and have."""

    name: Name | None = Field(default=None, description="a user, a group or both; none: all that you may see")


@enter_request("quota-set", QuotasReply)
class QuotaSet(Message):
    """Change how much a user or group may have; what is there stays."""

    name: Name = Field(description="a user, a group, or both")
    groups: int | None = Field(default=None, ge=0, description="groups the user may create")
    storage_bytes: int | None = Field(default=None, ge=0, description="bytes the group may store")
