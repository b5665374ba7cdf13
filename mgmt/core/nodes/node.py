"""A node: a machine whose agent joined, its state table and what is known of it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class NodeState(StrEnum):
    """ALIVE: heard lately. SUSPECT: heartbeats are missing. LOST: given up until it says hello again."""

    ALIVE = "ALIVE"
    SUSPECT = "SUSPECT"
    LOST = "LOST"


# THE table: (state, trigger) -> state. A LOST node comes back by a hello only: what it says before is of a session
# that has ended.
TRANSITIONS: dict[tuple[NodeState, str], NodeState] = {
    (NodeState.ALIVE, "silent"): NodeState.SUSPECT,
    (NodeState.SUSPECT, "silent"): NodeState.LOST,
    (NodeState.SUSPECT, "heard"): NodeState.ALIVE,
    (NodeState.ALIVE, "hello"): NodeState.ALIVE,
    (NodeState.SUSPECT, "hello"): NodeState.ALIVE,
    (NodeState.LOST, "hello"): NodeState.ALIVE,
    (NodeState.ALIVE, "shut out"): NodeState.LOST,
    (NodeState.SUSPECT, "shut out"): NodeState.LOST,
}

Push = tuple[int, str, dict[str, Any]]  # number, what, body


@dataclass(slots=True)
class Node:
    """`agent`, `machine_id`, `incarnation`, `started_at`: those of the last hello; times in ns are monotonic."""

    name: str
    state: NodeState = NodeState.SUSPECT
    reason: str = "not heard since this daemon started"
    agent: str = ""
    machine_id: str = ""
    incarnation: int = 0
    started_at: float = 0.0
    version: str = ""
    pid: int | None = None
    own_tags: frozenset[str] = frozenset()  # what its agent says it is
    added: frozenset[str] = frozenset()  # what an operator says it is, too
    removed: frozenset[str] = frozenset()  # ... and is not
    labels: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    log_dir: str = ""
    cordoned: bool = False
    leaving: bool = False  # its agent is being stopped
    worker: dict[str, Any] | None = None  # it is an independent worker: what it runs (IndependentWorker)
    retiring: bool = False  # that worker was told to end, and is forgotten when it has
    user: str = ""  # who brought it
    token: str = ""  # id of the one its agent showed
    peer: bytes = b""  # of the present session; empty: there is none
    session: int = 0
    seen_ns: int = 0
    due_ns: int = 0  # when its silence is looked at next
    round_trip_ns: int | None = None
    offset_ns: int | None = None  # our monotonic clock less its own, right within half a round trip
    pushed: int = 0  # number of the last push of this daemon's life
    unacked: deque[Push] = field(default_factory=deque)
    fault_seq: int | None = None  # the last fault that it told, by its own count
    overdue: int = 0  # the first push that was not acknowledged at `overdue_ns`
    overdue_ns: int = 0

    @property
    def tags(self) -> frozenset[str]:
        return (self.own_tags | self.added) - self.removed

    @property
    def takes_units(self) -> bool:
        """Whether something new may be put on it."""
        return self.state is NodeState.ALIVE and not (
            self.cordoned or self.leaving or self.worker is not None
        )


def to_record(node: Node) -> dict[str, Any]:
    """What the next daemon must know of it."""
    return {
        "agent": node.agent,
        "machine_id": node.machine_id,
        "version": node.version,
        "own_tags": sorted(node.own_tags),
        "added": sorted(node.added),
        "removed": sorted(node.removed),
        "labels": node.labels,
        "facts": node.facts,
        "log_dir": node.log_dir,
        "cordoned": node.cordoned,
        "fault_seq": node.fault_seq,
        "worker": node.worker,
        "retiring": node.retiring,
    }


def from_record(name: str, record: dict[str, Any]) -> Node:
    return Node(
        name,
        agent=record["agent"],
        machine_id=record["machine_id"],
        version=record["version"],
        own_tags=frozenset(record["own_tags"]),
        added=frozenset(record["added"]),
        removed=frozenset(record["removed"]),
        labels=record["labels"],
        facts=record["facts"],
        log_dir=record["log_dir"],
        cordoned=record["cordoned"],
        fault_seq=record.get("fault_seq"),
        worker=record.get("worker"),
        retiring=record.get("retiring", False),
    )
