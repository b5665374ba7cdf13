"""The default queue: campaigns share it by weight, the better items of each first, and nobody waits for ever.

The next of a campaign is its item with the least score. Among the campaigns of the most urgent bucket that one
is next whose clock plus score / weight of its next item is least; a clock moves by that step, and one that had
nothing starts where the queue is. So the order depends on the items and on what was taken, and not on the order in
which items came, and putting one in again changes nothing. An item that has waited for `max_wait` comes before
everything that came later, in whatever bucket.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush

from .compat_queue import BUCKETS, RANK
from .settings import Settings

Key = tuple[str, str, str]


class QueueError(Exception):
    """An item that cannot be queued, and why."""


@dataclass(frozen=True, slots=True)
class QueueItem:
    """A candidate that is to run. `score`: expected cost by expected value. Times in us."""

    codebase: str
    campaign: str
    change_set: str
    command: str
    score: float
    arrived_us: int
    bucket: str = "default"
    duration_us: float = 0.0
    not_before_us: int = 0
    refresh: bool = False
    context: str | None = None
    requester: str | None = None

    @property
    def key(self) -> Key:
        return self.codebase, self.campaign, self.change_set

    @property
    def rank(self) -> tuple[int, float]:
        return RANK[self.bucket], self.score


class Queue:
    """Items by key. Every heap may hold what is out of date; that is dropped where it comes up."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._items: dict[Key, QueueItem] = {}
        self._ready: dict[tuple[int, str], list[tuple[float, Key]]] = {}  # (bucket, campaign) -> (score, key)
        self._arrived: list[tuple[int, Key]] = []
        self._parked: list[tuple[int, Key]] = []
        self._waiting: set[Key] = set()  # those that are parked
        self._clock: dict[tuple[int, str], float] = {}
        self._now: dict[int, float] = {}  # of a bucket: the start of what was taken last
        self._backlog: dict[tuple[int, str], int] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: Key) -> bool:
        return key in self._items

    def add(self, item: QueueItem) -> QueueItem:
        """What is queued under this key afterwards: the better of bucket and score wins, refresh of either stays,
        and so does the time of the first arrival."""
        if item.bucket not in RANK:
            raise QueueError(f"there is no bucket {item.bucket!r}; there are {', '.join(BUCKETS)}")
        if not 0 < item.score < float("inf"):
            raise QueueError(f"{item.codebase} in {item.campaign}: its score of {item.score} is not positive")
        if not item.command:
            raise QueueError(f"{item.codebase} in {item.campaign}: the command is empty")
        there = self._items.get(item.key)
        if there is not None:
            better = item if item.rank < there.rank else there
            merged = replace(
                better,
                refresh=there.refresh or item.refresh,
                arrived_us=min(there.arrived_us, item.arrived_us),
            )
            if merged == there:
                return there
            self.remove(item.key)
            item = merged
        self._items[item.key] = item
        if item.not_before_us > 0:
            self._waiting.add(item.key)
            heappush(self._parked, (item.not_before_us, item.key))
        else:
            self._enter(item)
        return item

    def _enter(self, item: QueueItem) -> None:
        flow = (RANK[item.bucket], item.campaign)
        if not self._backlog.get(flow):
            self._clock[flow] = max(self._clock.get(flow, 0.0), self._now.get(flow[0], 0.0))
        self._backlog[flow] = self._backlog.get(flow, 0) + 1
        heappush(self._ready.setdefault(flow, []), (item.score, item.key))
        heappush(self._arrived, (item.arrived_us, item.key))

    def remove(self, key: Key) -> QueueItem | None:
        """Out of the queue, without a share of it being used."""
        item = self._items.pop(key, None)
        if item is not None and key in self._waiting:
            self._waiting.discard(key)
        elif item is not None:
            self._backlog[RANK[item.bucket], item.campaign] -= 1
        return item

    def rescore(self, key: Key, score: float, duration_us: float) -> None:
        """A new estimate of what is queued; its arrival stays."""
        item = self.remove(key)
        if item is not None:
            self.add(replace(item, score=score, duration_us=duration_us))

    def next(self, now_us: int, allowed: Callable[[QueueItem], bool] | None = None) -> QueueItem | None:
        """What is to run now; it stays. `allowed` says which may (a host, a codebase); None: all."""
        self._wake(now_us)
        return self._aged(now_us, allowed) or self._fair(allowed)

    def take(self, now_us: int, allowed: Callable[[QueueItem], bool] | None = None) -> QueueItem | None:
        """The same, out of the queue; its campaign's clock moves on."""
        self._wake(now_us)
        item = self._aged(now_us, allowed)
        if item is not None:
            return self.remove(item.key)  # out of turn: no clock moves
        item = self._fair(allowed)
        if item is None:
            return None
        flow = (RANK[item.bucket], item.campaign)
        start = self._clock[flow]
        self._now[flow[0]] = max(self._now.get(flow[0], 0.0), start)
        self._clock[flow] = start + item.score / self.settings.weight(item.campaign)
        return self.remove(item.key)

    def _wake(self, now_us: int) -> None:
        while self._parked and self._parked[0][0] <= now_us:
            at_us, key = heappop(self._parked)
            item = self._items.get(key)
            if item is not None and key in self._waiting and item.not_before_us == at_us:
                self._waiting.discard(key)
                self._enter(item)

    def _aged(self, now_us: int, allowed: Callable[[QueueItem], bool] | None) -> QueueItem | None:
        """The oldest, if it has waited too long."""
        passed, found = [], None
        limit_us = now_us - round(self.settings.max_wait_s * 1e6)
        while self._arrived and found is None and self._arrived[0][0] <= limit_us:
            entry = self._arrived[0]
            item = self._items.get(entry[1])
            if item is None or item.arrived_us != entry[0] or item.key in self._waiting:
                heappop(self._arrived)
            elif allowed is None or allowed(item):
                found = item
            else:
                passed.append(heappop(self._arrived))
        for entry in passed:
            heappush(self._arrived, entry)
        return found

    def _fair(self, allowed: Callable[[QueueItem], bool] | None) -> QueueItem | None:
        best: tuple[int, float, Key] | None = None
        for flow in self._ready:
            if not self._backlog.get(flow) or (best is not None and flow[0] > best[0]):
                continue
            item = self._head(flow, allowed)
            if item is None:
                continue
            tag = self._clock[flow] + item.score / self.settings.weight(item.campaign)
            if best is None or (flow[0], tag, item.key) < best:
                best = (flow[0], tag, item.key)
        return None if best is None else self._items[best[2]]

    def _head(self, flow: tuple[int, str], allowed: Callable[[QueueItem], bool] | None) -> QueueItem | None:
        heap, passed, found = self._ready[flow], [], None
        while heap and found is None:
            score, key = heap[0]
            item = self._items.get(key)
            if item is None or item.score != score or key in self._waiting or RANK[item.bucket] != flow[0]:
                heappop(heap)
            elif allowed is None or allowed(item):
                found = item
            else:
                passed.append(heappop(heap))
        for entry in passed:
            heappush(heap, entry)
        return found

    def items(self, now_us: int) -> Iterator[QueueItem]:
        """As they would be taken now, one after the other; then those that are parked, the earliest first."""
        copied = Queue(self.settings)
        copied.__dict__.update(
            deepcopy({k: v for k, v in self.__dict__.items() if k not in ("settings", "_items")})
        )
        copied._items = dict(self._items)
        while (item := copied.take(now_us)) is not None:
            yield item
        left = [(item.not_before_us, key) for key, item in copied._items.items()]
        heapify(left)
        while left:
            yield copied._items[heappop(left)[1]]

    def position(self, key: Key, now_us: int) -> int | None:
        """Rank from 1, None for one that is not queued."""
        if key not in self._items:
            return None
        return next(rank for rank, item in enumerate(self.items(now_us), 1) if item.key == key)

    def wait_us(self, key: Key, now_us: int, busy_us: list[float]) -> float | None:
        """How long until it starts, on workers that are busy for so long each; None without workers."""
        if not busy_us or key not in self._items:
            return None
        free = list(busy_us)
        heapify(free)
        for item in self.items(now_us):
            start_us = max(heappop(free), float(item.not_before_us - now_us))
            if item.key == key:
                return start_us
            heappush(free, start_us + item.duration_us)
        return None
