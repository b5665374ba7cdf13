"""What is known of a user, a group and a token, and how that is stored."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from mgmt.protocol import defaults
from mgmt.protocol.messages import Role

Record = dict[str, Any]
KINDS = ("node", "worker")  # what groups have roles on besides their own things


class UserState(StrEnum):
    """LOCKED: shut out, and keeps everything. DELETED: the name alone is left, so that nobody else gets it."""

    ACTIVE = "active"
    LOCKED = "locked"
    DELETED = "deleted"


@dataclass(slots=True)
class User:
    """`created_at`: epoch seconds."""

    name: str
    created_at: float = 0.0
    admin: bool = False
    state: UserState = UserState.ACTIVE
    group_quota: int = defaults.GROUP_QUOTA

    def to_record(self) -> Record:
        return asdict(self)


@dataclass(slots=True)
class Group:
    """`members`: role by user; `grants`: role by kind and name of what it is on.

    `storage_used_bytes` mirrors what the queue has counted, and is not stored with the group.
    """

    name: str
    creator: str
    created_at: float = 0.0
    deleted: bool = False
    members: dict[str, Role] = field(default_factory=dict)
    grants: dict[str, dict[str, Role]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    storage_quota_bytes: int = defaults.STORAGE_QUOTA_BYTES
    storage_used_bytes: int = 0

    @property
    def admins(self) -> list[str]:
        return sorted(user for user, role in self.members.items() if role is Role.ADMIN)

    def to_record(self) -> Record:
        record = asdict(self)
        del record["storage_used_bytes"]
        return record


@dataclass(slots=True)
class Token:
    """`digest`: SHA-256 of its text. `scope`: user, node or worker; `node`: of the second. Epoch seconds.

    `lifetime_s`: what it is renewed by; 0 of those that were made before there was such a thing: never.
    """

    user: str
    name: str
    digest: str
    scope: str
    node: str
    created_at: float
    expires_at: float
    used_at: float | None = None
    lifetime_s: float = 0.0

    @property
    def id(self) -> str:
        """Its name among all; names of users have no `/`."""
        return f"{self.user}/{self.name}"

    def to_record(self) -> Record:
        return asdict(self)


def user_from(record: Record) -> User:
    return User(**{**record, "state": UserState(record["state"])})


def group_from(record: Record) -> Group:
    def roles(told: dict[str, int]) -> dict[str, Role]:
        return {name: Role(role) for name, role in told.items()}

    grants = {kind: roles(told) for kind, told in record["grants"].items()}
    known = {
        name: value for name, value in record.items() if name != "tasks"
    }  # older daemons counted them here
    return Group(**{**known, "members": roles(record["members"]), "grants": grants})


def token_from(record: Record) -> Token:
    return Token(**record)
