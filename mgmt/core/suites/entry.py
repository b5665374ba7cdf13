"""A suite as the daemon sees it: the queue's record, and what of it the queue does not look into."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mgmt.core.suites import operations as op
from mgmt.core.suites.states import Suite
from mgmt.protocol import frames

LIVE = frozenset({Suite.OPEN, Suite.CLOSED})


@dataclass(slots=True)
class Entry:
    """A suite: the queue's record of it, and what of it the queue does not look into."""

    record: op.SuiteRecord
    counts: op.Counts
    description: str
    worker: dict[str, Any]
    hooks: dict[str, Any]
    added: set[str]  # nodes that work on it whatever their tags
    removed: set[str]  # nodes that never do
    refused: dict[str, str] = field(default_factory=dict)  # why nodes gave it up; until it changes
    crowded: set[str] = field(default_factory=set)  # those of `refused` that say when they have room for it
    waiting_ns: int = 0  # since when it has ready tasks and no node
    submitted_ms: int = 0  # the record's, and later ones
    completed_ms: int = 0

    def __post_init__(self) -> None:
        self.renew(self.record)

    def renew(self, record: op.SuiteRecord) -> None:
        """As the queue has it now; its counts are followed."""
        self.record = record
        self.submitted_ms, self.completed_ms = record.submitted_ms, record.completed_ms

    @property
    def number(self) -> int:
        return self.record.suite

    @property
    def is_live(self) -> bool:
        return self.counts.state in LIVE

    def follow(self, counts: op.Counts, now_ms: int) -> None:
        """The queue counted again: the times follow, too."""
        was, self.counts = self.counts, counts
        if counts.total > was.total:
            self.submitted_ms = now_ms
        if counts.state != was.state or counts.total > was.total:
            self.completed_ms = now_ms if counts.state == Suite.COMPLETE else 0

    def refuse(self, node: str, reason: str, crowded: bool) -> None:
        """The node gave it up: it is not offered there again until something has changed."""
        self.refused[node] = reason
        (self.crowded.add if crowded else self.crowded.discard)(node)

    def has_room(self, node: str) -> None:
        """Who was in the way on the node has gone."""
        if node in self.crowded:
            self.crowded.discard(node)
            self.refused.pop(node, None)

    def packed(self) -> bytes:
        """What the queue keeps and does not look into."""
        extra = {
            "description": self.description,
            "worker": self.worker,
            "hooks": self.hooks,
            "added": sorted(self.added),
            "removed": sorted(self.removed),
        }
        return frames.pack_body(extra)
