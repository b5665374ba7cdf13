"""The line of candidates before a suite: the queue's order, as the priorities of their tasks.

Tasks are claimed by priority, so priorities have to say what the queue would: which are the next ones, exactly,
and of all others roughly. A bucket has a level of 2^28 priorities. At its top are places: the head of the line,
HEAD items, has them in its order, and they are told anew whenever it changes. Below, the rest is by score. So a
decision that changes the order of a million costs a few priorities. Whoever has waited for too long is at the
very top.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice

from .compat_queue import BUCKETS, RANK
from .queue import Queue, QueueItem
from .settings import Settings
from .sums import Key

LEVELS = 1 << 28  # priorities of a bucket
PLACES = 1 << 20  # ... of which these are for the head
HEAD = 64  # at least
AGED = (1 << 31) - 1
NEAR = 1 / 1000  # a share of its score by which it may be wrong in the rest of the line
_SPAN = math.log1p(1e15)


def level_of(bucket: str) -> int:
    return (len(BUCKETS) - 1 - RANK[bucket]) * LEVELS


def rest_priority(bucket: str, score: float) -> int:
    """By bucket, then by score, which 28 bits tell from another whose logarithm differs by 1e-7."""
    room = LEVELS - PLACES - 1
    return level_of(bucket) - PLACES - min(room, int(math.log1p(score) / _SPAN * room))


def bucket_of(priority: int) -> str:
    """The bucket of a task; of one that has waited too long, the most urgent one."""
    return next(name for name in reversed(RANK) if priority <= level_of(name) or RANK[name] == 0)


def score_of(priority: int) -> float:
    """About what `rest_priority` was told; of one in a head, less than any other, by place."""
    late = level_of(bucket_of(priority)) - priority
    if late < PLACES:
        return 1e-3 * (max(0, late) + 1) / PLACES
    return max(1e-3, math.expm1((late - PLACES) / (LEVELS - PLACES - 1) * _SPAN))


@dataclass(slots=True)
class Queued:
    """A candidate that is a task which has not ended. `task` 0: not known yet. `priority`: what the task has.

    `late_us`: what nine of ten runs take less than. `claimed_ns`: since when it runs, monotonic; 0: it waits.
    `claim`: its latest claim, in the order in which they were heard of.
    """

    lane: int
    task: int
    priority: int
    item: QueueItem
    probability: float | None = None
    duration_us: float | None = None
    late_us: float | None = None
    claimed_ns: int = 0
    claim: int = 0
    beside: tuple[float, float] | None = (
        None  # probability and duration in us by the policy that only looks on
    )

    @property
    def key(self) -> Key:
        return self.item.key


class Line:
    """Of one suite. What runs is no longer in the queue."""

    def __init__(self, settings: Settings, fair: bool) -> None:
        self.queue = Queue(settings, fair)
        self.all: dict[Key, Queued] = {}
        self.running: dict[Key, Queued] = {}
        self._places: dict[Key, int] = {}
        self.counts: dict[str, int] = {}  # of those that wait, by bucket

    def enter(self, one: Queued) -> None:
        self.all[one.key] = one
        self.queue.add(one.item)
        late = level_of(one.item.bucket) - one.priority
        if late < PLACES:
            self._places[one.key] = max(late, -1)  # a former daemon put it into the head
        self._count(one.item.bucket, 1)

    def _count(self, bucket: str, by: int) -> None:
        self.counts[bucket] = self.counts.get(bucket, 0) + by

    def start(self, one: Queued, now_ns: int) -> None:
        """Somebody has it."""
        if one.key not in self.running:
            one.claimed_ns = now_ns
            self.running[one.key] = one
            self._places.pop(one.key, None)
            if self.queue.start(one.key) is not None:
                self._count(one.item.bucket, -1)

    def give_back(self, one: Queued) -> None:
        """It does not run any more, and has not ended."""
        if self.running.pop(one.key, None) is not None:
            one.claimed_ns = 0
            self.queue.add(one.item)
            self._count(one.item.bucket, 1)

    def leave(self, one: Queued) -> None:
        self.all.pop(one.key, None)
        self.running.pop(one.key, None)
        self._places.pop(one.key, None)
        if self.queue.remove(one.key) is not None:
            self._count(one.item.bucket, -1)

    def rescore(self, one: Queued, score: float, duration_us: float, bucket: str) -> None:
        """A new estimate of one that waits."""
        if one.key in self.queue:
            self._count(one.item.bucket, -1)
            self.queue.rescore(one.key, score, duration_us, bucket)
            item = self.queue.get(one.key)
            assert item is not None  # it was there
            one.item = item
            self._count(bucket, 1)

    def told(self, now_us: int, head: int = HEAD) -> list[Queued]:
        """Those whose `priority` is another one now."""
        changed: list[Queued] = []
        self.queue.pass_time(now_us)
        while self.queue.overdue:
            overdue = self.all.get(self.queue.overdue.popleft())
            if overdue is not None and self.queue.is_aged(overdue.key):
                self._places.pop(overdue.key, None)
                self._put(overdue, AGED, changed)
        ahead = list(islice(self.queue.fresh(), head))
        anew = any(self._places.get(item.key, 0) >= PLACES - head for item in ahead)  # from the top again
        before, self._places = self._places, {}
        place = -1
        for item in ahead:
            known = before.pop(item.key, -1)
            known = -1 if anew else known
            place = known if known > place else place + 1
            self._places[item.key] = place
            self._put(self.all[item.key], level_of(item.bucket) - place, changed)
        for key in before:
            if key in self.queue and not self.queue.is_aged(key):
                item = self.all[key].item
                self._put(self.all[key], rest_priority(item.bucket, item.score), changed)
        return changed

    def _put(self, one: Queued, priority: int, changed: list[Queued]) -> None:
        if one.priority != priority:
            one.priority = priority
            changed.append(one)

    def position(self, one: Queued, now_us: int) -> int:
        """From 1; those that run come first."""
        if one.key in self.running:
            return list(self.running).index(one.key) + 1
        found = self.queue.position(one.key, now_us)
        assert found is not None  # whoever does not run waits
        return len(self.running) + found

    def waiting(self, now_us: int, most: int) -> list[Queued]:
        """The first, in the order in which they are run."""
        return [self.all[item.key] for item in islice(self.queue.items(now_us), most)]
