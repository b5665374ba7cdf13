"""The default queue: campaigns share it by weight, the better items of each first, and nobody waits for ever.

The next of a campaign is its item with the least score. Among the campaigns of the most urgent bucket that one
is next whose clock plus score / weight of its next item is least; a clock moves by that step, and one that had
nothing starts where the queue is. So the order depends on the items and on what was taken, and not on the order in
which items came, and putting one in again changes nothing. An item that has waited for `max_wait` comes before
everything that came later, in whatever bucket.

What is next takes a look at each campaign, a position a walk over blocks of items (`Sums`), whatever is queued.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush, heapreplace

from .compat_queue import BUCKETS, RANK
from .settings import Settings
from .sums import MOST, Key, Sums

AT_ONCE = 2000  # that `pass_time` moves
STEP = 1 << 20  # of a clock, for a score of 1 and a weight of 1: scores that differ by less are the same


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


@dataclass(slots=True)
class Flow:
    """Items of one campaign in one bucket, by score. `clock`: where its last one ended that was taken."""

    clock: int = 0
    items: Sums = field(default_factory=Sums)


class Queue:
    """Items by key, each in a flow, among the aged ones, or parked until its time has come.

    `fair` False: by score alone, whatever the campaign. Heaps may hold what is out of date; that is dropped where
    it comes up.
    """

    def __init__(self, settings: Settings, fair: bool = True) -> None:
        self.settings, self.fair = settings, fair and settings.parts.fairness
        self._items: dict[Key, QueueItem] = {}
        self._flows: dict[tuple[int, str], Flow] = {}
        self._busy: dict[int, dict[str, Flow]] = {}  # those that have items, by bucket
        self._now: dict[int, int] = {}  # of a bucket: the start of what was taken last
        self._arrived: list[tuple[int, Key]] = []  # of what is in flows
        self._aged: list[tuple[int, Key]] = []
        self._old: set[Key] = set()  # those that are aged
        self.overdue: deque[Key] = deque(maxlen=4 * AT_ONCE)
        self._parked: list[tuple[int, Key]] = []
        self._waiting: set[Key] = set()  # those that are parked

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: Key) -> bool:
        return key in self._items

    def get(self, key: Key) -> QueueItem | None:
        return self._items.get(key)

    # ---- changes ----

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

    def _name(self, item: QueueItem) -> str:
        return item.campaign if self.fair else ""

    def _step(self, item: QueueItem) -> int:
        weight = self.settings.weight(item.campaign) if self.fair else 1.0
        return max(1, min(round(min(item.score * STEP / weight, MOST)), MOST - 1))

    def _enter(self, item: QueueItem) -> None:
        self._join(item)
        heappush(self._arrived, (item.arrived_us, item.key))
        if len(self._arrived) > 2 * len(self._items) + AT_ONCE:  # mostly of what is gone
            self._arrived = [
                (one.arrived_us, key) for key, one in self._items.items() if self._flows_have(key)
            ]
            heapify(self._arrived)

    def _flows_have(self, key: Key) -> bool:
        return key not in self._waiting and key not in self._old

    def _join(self, item: QueueItem) -> None:
        bucket, name = RANK[item.bucket], self._name(item)
        flow = self._flows.get((bucket, name))
        if flow is None:
            flow = self._flows[bucket, name] = Flow()
        if not flow.items:
            flow.clock = max(flow.clock, self._now.get(bucket, 0))
            self._busy.setdefault(bucket, {})[name] = flow
        flow.items.add(self._step(item), item.key)

    def _leave(self, item: QueueItem) -> Flow:
        bucket, name = RANK[item.bucket], self._name(item)
        flow = self._flows[bucket, name]
        flow.items.remove(self._step(item), item.key)
        if not flow.items:
            del self._busy[bucket][name]
            if not self._busy[bucket]:
                del self._busy[bucket]
        return flow

    def remove(self, key: Key) -> QueueItem | None:
        """Out of the queue, without a share of it being used."""
        return self._out(key, taken=False)

    def start(self, key: Key) -> QueueItem | None:
        """It is run now, whether it was the next or not: its campaign's clock moves on."""
        return self._out(key, taken=True)

    def _out(self, key: Key, taken: bool) -> QueueItem | None:
        item = self._items.pop(key, None)
        if item is None:
            return None
        for _ in range(2):  # so that none is left when all are gone
            if self._arrived and not self._is_of(self._arrived[0]):
                heappop(self._arrived)
        if key in self._waiting:
            self._waiting.discard(key)
        elif key in self._old:  # out of turn: no clock moves
            self._old.discard(key)
            del self._aged[bisect_left(self._aged, (item.arrived_us, key))]
        else:
            flow, bucket = self._leave(item), RANK[item.bucket]
            if taken:
                self._now[bucket] = max(self._now.get(bucket, 0), flow.clock)
                flow.clock += self._step(item)
        return item

    def rescore(self, key: Key, score: float, duration_us: float, bucket: str | None = None) -> None:
        """A new estimate of what is queued; its arrival stays, and its bucket unless another one is given."""
        there = self._items.get(key)
        if there is None:
            return
        item = replace(there, score=score, duration_us=duration_us, bucket=bucket or there.bucket)
        self._items[key] = item
        if self._flows_have(key):
            self._leave(there)
            self._join(item)

    def pass_time(self, now_us: int) -> None:
        """Whose time has come, and who has waited too long, is where it belongs then. The latter are noted in
        `overdue`, for whoever wants to know.

        Of very many the first ones: they are next, and the others are when this is asked again.
        """
        moved = 0
        while self._parked and self._parked[0][0] <= now_us and moved < AT_ONCE:
            at_us, key = heappop(self._parked)
            item = self._items.get(key)
            if item is not None and key in self._waiting and item.not_before_us == at_us:
                self._waiting.discard(key)
                self._enter(item)
                moved += 1
        limit_us = now_us - round(self.settings.ageing_s * 1e6)
        while self._arrived and self._arrived[0][0] <= limit_us and moved < 2 * AT_ONCE:
            moved += 1
            entry = heappop(self._arrived)
            if self._is_of(entry):
                self._leave(self._items[entry[1]])
                insort(self._aged, entry)
                self._old.add(entry[1])
                self.overdue.append(entry[1])

    def due_us(self) -> int | None:
        """When `pass_time` has something to do next, at the earliest; None for never."""
        times = [self._parked[0][0]] if self._parked else []
        if self._arrived and self.settings.parts.fairness:
            times.append(self._arrived[0][0] + round(self.settings.ageing_s * 1e6))
        return min(times, default=None)

    def oldest_us(self) -> int | None:
        """When that one arrived that waits longest; None for an empty queue."""
        first = min(self._aged[:1] + self._arrived[:1], default=None)
        return None if first is None else first[0]

    def _is_of(self, entry: tuple[int, Key]) -> bool:
        """Whether this arrival is of what is in a flow."""
        item = self._items.get(entry[1])
        return item is not None and item.arrived_us == entry[0] and self._flows_have(entry[1])

    # ---- order ----

    def is_aged(self, key: Key) -> bool:
        return key in self._old

    def next(self, now_us: int, allowed: Callable[[QueueItem], bool] | None = None) -> QueueItem | None:
        """What is to run now; it stays. `allowed` says which may (a host, a codebase); None: all."""
        self.pass_time(now_us)
        ready = self._ready()
        return next((item for item in ready if allowed is None or allowed(item)), None)

    def take(self, now_us: int, allowed: Callable[[QueueItem], bool] | None = None) -> QueueItem | None:
        """The same, out of the queue; its campaign's clock moves on."""
        item = self.next(now_us, allowed)
        return None if item is None else self.start(item.key)

    def _ready(self) -> Iterator[QueueItem]:
        """As they would be taken, one after the other, when nothing else comes."""
        for _, key in self._aged:
            yield self._items[key]
        yield from self.fresh()

    def fresh(self) -> Iterator[QueueItem]:
        """The same, but for those that have waited too long, which come before."""
        for bucket in sorted(self._busy):
            heads: list[tuple[int, Key, Iterator[tuple[int, Key]]]] = []
            for flow in self._busy[bucket].values():
                rest = iter(flow.items)
                step, key = next(rest)
                heads.append((flow.clock + step, key, rest))
            heapify(heads)
            while heads:
                tag, key, rest = heads[0]
                yield self._items[key]
                step, following = next(rest, (0, None))
                if following is None:
                    heappop(heads)
                else:
                    heapreplace(heads, (tag + step, following, rest))

    def items(self, now_us: int) -> Iterator[QueueItem]:
        """As they would be taken now; then those that are parked, the earliest first."""
        self.pass_time(now_us)
        yield from self._ready()
        parked = [self._items[key] for key in self._waiting]
        yield from sorted(parked, key=lambda item: (item.not_before_us, item.key))

    def position(self, key: Key, now_us: int) -> int | None:
        """Rank from 1, None for one that is not queued."""
        self.pass_time(now_us)
        item = self._items.get(key)
        if item is None:
            return None
        if key in self._old:
            return bisect_left(self._aged, (item.arrived_us, key)) + 1
        before = len(self._aged)
        if key in self._waiting:
            times = [(self._items[one].not_before_us, one) for one in self._waiting]
            return len(self._items) - len(times) + sum(one <= (item.not_before_us, key) for one in times)
        bucket = RANK[item.bucket]
        for other, flows in self._busy.items():
            if other < bucket:
                before += sum(len(flow.items) for flow in flows.values())
        own = self._busy[bucket][self._name(item)]
        tag = own.clock + own.items.up_to(self._step(item), key)
        for flow in self._busy[bucket].values():
            before += flow.items.below(tag - flow.clock, key)
        return before + 1
