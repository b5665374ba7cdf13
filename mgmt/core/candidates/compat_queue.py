"""Janitor's queue: priorities relative to the least there is, strict buckets, one row a key."""

from __future__ import annotations

import math
import re
from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .records import Codebase

BUCKETS = (
    "update-existing-mp", "manual", "control", "hook", "reschedule", "update-new-mp", "missing-deps", "default",
)  # fmt: skip
RANK = {bucket: rank for rank, bucket in enumerate(BUCKETS)}
INT64 = range(-(2**63), 2**63)
_HOST = re.compile(r".*://(?:[^/@]*@)?([^/]*)", re.DOTALL)


class CompatError(Exception):
    """An input on which Janitor ends with an exception; here of that item alone."""


@dataclass(frozen=True, slots=True)
class QueueItem:
    """A row. `priority` and `id` are the queue's."""

    codebase: str
    campaign: str
    command: str
    bucket: str = "default"
    context: str | None = None
    change_set: str | None = None
    estimated_duration_us: int | None = None
    refresh: bool = False
    requester: str | None = None
    priority: int = 0
    id: int = 0

    @property
    def key(self) -> tuple[str, str, str]:
        return self.codebase, self.campaign, self.change_set or ""

    @property
    def order(self) -> tuple[int, int, int]:
        return RANK[self.bucket], self.priority, self.id


class Queue:
    """Rows by (bucket, priority, id), all ascending. `codebases` and `change_sets` are what rows may refer to."""

    def __init__(
        self, codebases: Mapping[str, Codebase] | None = None, change_sets: Collection[str] | None = None
    ) -> None:
        self.codebases, self.change_sets = codebases, change_sets
        self._rows: dict[tuple[str, str, str], QueueItem] = {}
        self._order: list[tuple[tuple[int, int, int], tuple[str, str, str]]] | None = None
        """Sorted, once somebody has asked for an order."""
        self._priorities: list[int] = []  # sorted: the least one is the base of the next
        self._serial = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, item: QueueItem, offset: float) -> tuple[int, str]:
        """The id and the bucket of the row afterwards, which another one may have kept.

        A row is replaced by one of the same or a more urgent bucket, whatever their priorities.
        """
        if item.bucket not in RANK:
            raise CompatError(f"there is no bucket {item.bucket!r}; there are {', '.join(BUCKETS)}")
        if not math.isfinite(offset):
            raise CompatError(f"the offset {offset} is no number")
        priority = (self._priorities[0] if self._priorities else 0) + math.trunc(offset)
        if priority not in INT64:
            raise CompatError(f"the priority {priority} passes 64 bits")
        self._serial += 1  # used up by a row that is refused or replaces another one, too
        if item.command == "":
            raise CompatError("the command is empty")
        if self.codebases is not None and item.codebase not in self.codebases:
            raise CompatError(f"there is no codebase {item.codebase!r}")
        if (
            item.change_set is not None
            and self.change_sets is not None
            and item.change_set not in self.change_sets
        ):
            raise CompatError(f"there is no change set {item.change_set!r}")
        there = self._rows.get(item.key)
        if there is None:
            self._put(replace(item, priority=priority, id=self._serial))
            return self._serial, item.bucket
        if RANK[there.bucket] < RANK[item.bucket]:
            return there.id, there.bucket
        self.remove(there)
        self._put(replace(item, priority=priority, id=there.id, change_set=there.change_set))
        return there.id, item.bucket

    def restore(self, items: Iterable[QueueItem]) -> None:
        """Rows as they are, with their ids and priorities."""
        for item in items:
            self._rows[item.key] = item
            self._serial = max(self._serial, item.id)
        self._priorities = sorted(item.priority for item in self._rows.values())
        self._order = None

    def row(self, key: tuple[str, str, str]) -> QueueItem:
        return self._rows[key]

    def _put(self, item: QueueItem) -> None:
        self._rows[item.key] = item
        if self._order is not None:
            insort(self._order, (item.order, item.key))
        insort(self._priorities, item.priority)

    def remove(self, item: QueueItem) -> None:
        del self._rows[item.key]
        if self._order is not None:
            del self._order[bisect_left(self._order, (item.order, item.key))]
        del self._priorities[bisect_left(self._priorities, item.priority)]

    def items(self, campaign: str | None = None, limit: int | None = None) -> Iterator[QueueItem]:
        """In order; no campaign, or an empty one: all; a limit of 0: no limit."""
        left = limit or len(self._rows)
        if left < 0:
            raise CompatError(f"the limit {limit} is negative")
        if self._order is None:
            self._order = sorted((item.order, item.key) for item in self._rows.values())
        for _, key in self._order:
            if left == 0:
                return
            if not campaign or key[1] == campaign:
                left -= 1
                yield self._rows[key]

    def next(
        self,
        codebase: str | None = None,
        exclude_hosts: Collection[str] = (),
        assigned: Collection[int] = (),
    ) -> tuple[QueueItem, dict[str, str]] | None:
        """The first that is not assigned and on no excluded host, with what is known of its repository."""
        for item in self.items():
            known = self.codebases.get(item.codebase) if self.codebases is not None else None
            if item.id in assigned or (codebase and item.codebase != codebase):
                continue
            if exclude_hosts and known is not None and _excluded(known.branch_url, exclude_hosts):
                continue
            return item, _vcs_info(known)
        return None

    def positions(self) -> Iterator[tuple[QueueItem, int, int | None]]:
        """(row, rank from 1, the durations before it in us); None before the first known duration."""
        sum_us: int | None = None
        for rank, item in enumerate(self.items(), 1):
            own_us = item.estimated_duration_us
            if own_us is not None:
                sum_us = (sum_us or 0) + own_us
            yield item, rank, None if sum_us is None else sum_us - (own_us or 0)

    def position(self, codebase: str, campaign: str) -> tuple[int | None, int | None]:
        """Rank and wait in us of its first row, whatever the change set."""
        for item, rank, wait_us in self.positions():
            if (item.codebase, item.campaign) == (codebase, campaign):
                return rank, wait_us
        return None, None

    def buckets(self) -> list[tuple[str, int]]:
        """The counts of those that are not empty."""
        counts: dict[str, int] = {}
        for item in self.items():
            counts[item.bucket] = counts.get(item.bucket, 0) + 1
        return list(counts.items())

    def dump(self) -> list[dict[str, Any]]:
        return [
            {
                "codebase": item.codebase, "campaign": item.campaign, "change_set": item.change_set,
                "bucket": item.bucket, "priority": item.priority, "context": item.context,
                "command": item.command, "refresh": item.refresh, "requester": item.requester,
                "estimated_duration_us": item.estimated_duration_us, "position": rank,
                "wait_time_us": wait_us,
            }
            for item, rank, wait_us in self.positions()
        ]  # fmt: skip


def host_of(url: str) -> str | None:
    """What is between `://`, or a user behind it, and the next `/`; None where that is not."""
    found = _HOST.match(url)
    return None if found is None else found[1]


def _excluded(url: str | None, hosts: Collection[str]) -> bool:
    """Without an address: never. With one of which the database finds no host: whenever any host is excluded."""
    if url is None:
        return False
    host = host_of(url)
    return host is None or host in hosts


def _vcs_info(codebase: Codebase | None) -> dict[str, str]:
    info: dict[str, str] = {}
    if codebase is not None:
        if codebase.branch_url:
            info["branch_url"] = codebase.branch_url
        if codebase.subpath is not None:
            info["subpath"] = codebase.subpath
        if codebase.vcs_type:
            info["vcs_type"] = codebase.vcs_type
    return info
