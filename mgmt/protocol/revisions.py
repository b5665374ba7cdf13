"""Revisions: what peers of different versions may say to each other, and how they agree on it.

A hello names the revisions that its speaker knows, the welcome the one that both speak from then on: the highest
that both know. A field that a message did not have in the first revision says so (`since` beside it); an older
peer gets the message without it. What goes the other way needs no such care: agents and clients leave unread what
they do not know. The form of the frames themselves is `frames.VERSION`, and has never changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from mgmt.protocol.errors import MgmtError

if TYPE_CHECKING:
    from mgmt.protocol.table import Message

# What each brought. An older one is given up, if ever, when no version that speaks only that is in use any more.
BROUGHT = {
    1: "everything else on this page",
    2: "agents tell what their workers and hooks count, and that a suite waits for CPUs there",
}
SPOKEN = tuple(BROUGHT)


def agree(theirs: Sequence[int], who: str, ours: str = "this daemon") -> int:
    """The revision to speak with a peer; MgmtError `bad-version` says which of both is to be updated."""
    common = set(theirs) & set(SPOKEN)
    if common:
        return max(common)
    is_older = max(theirs) < SPOKEN[0]
    older = who if is_older else ours
    raise MgmtError(
        "bad-version",
        f"{who} speaks {_told(theirs)} of the protocol, {ours} {_told(SPOKEN)}: {older} is the older one and is "
        "to be updated first; until then give the other the version of before",
        versions=list(SPOKEN),
    )


def since(body: type[Message], field: str) -> int:
    """The revision in which a field of a message came."""
    extra = body.model_fields[field].json_schema_extra
    told = extra.get("since", 1) if isinstance(extra, dict) else 1
    assert isinstance(told, int)
    return told


@cache
def newer(name: str, revision: int) -> frozenset[str]:
    """Fields that a notice did not have in this revision."""
    from mgmt.protocol.messages import NOTICES  # a client has no need of the tables

    body = NOTICES[name].body
    return frozenset(field for field in body.model_fields if since(body, field) > revision)


def as_of(name: str, body: dict[str, Any], revision: int) -> dict[str, Any]:
    """The body of a notice as a peer of this revision knows it."""
    unknown = newer(name, revision)
    return {field: value for field, value in body.items() if field not in unknown} if unknown else body


def _told(revisions: Sequence[int]) -> str:
    low, high = min(revisions), max(revisions)
    return f"revision {low}" if low == high else f"revisions {low} to {high}"
