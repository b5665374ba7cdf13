"""One pass over all candidates, beside the loop: what is new in the queue, what is worth another place there, and
what has to wait."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from .compat_queue import RANK, host_of
from .line import NEAR, Queued
from .policies import Decision, Judge
from .queue import QueueItem
from .records import Candidate
from .rules import Rules
from .settings import AHEAD_US
from .sums import Key
from .tasks import spec_of


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a pass is about; empty: all. `bucket`: of what it puts into the queue.

    `automatic`: nobody asked for it, so that a candidate rests for a while after each run.
    """

    codebases: frozenset[str] = frozenset()
    campaigns: frozenset[str] = frozenset()
    limit: int | None = None
    bucket: str = "default"
    automatic: bool = False

    def has(self, candidate: Candidate) -> bool:
        return (not self.codebases or candidate.codebase in self.codebases) and (
            not self.campaigns or candidate.campaign in self.campaigns
        )


@dataclass(frozen=True, slots=True)
class New:
    """A candidate that is to become a task."""

    decision: Decision
    item: QueueItem
    spec: bytes


@dataclass(frozen=True, slots=True)
class Decided:
    """`new` ones best first; `changes`: of those in the queue, with their buckets; `wakes`: (us, key) of those
    that are held until a time that is known, the earliest first. `told`: all, for the log."""

    considered: int
    new: list[New]
    changes: list[tuple[Decision, str]]
    held: int
    judge: Judge
    wakes: list[tuple[int, Key]] = field(default_factory=list)
    told: list[Decision] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Scene:
    """What a pass looks at beside the judge. `queued` and `heard` change meanwhile, in the loop: they are looked
    up, and never walked through. `heard`: when the end of the latest run of a series was heard of here, us."""

    rules: Rules
    queued: Mapping[Key, Queued]
    heard: Mapping[tuple[str, str], int]
    away: Mapping[str, int] = field(default_factory=dict)  # hosts that are left alone, until when, us
    debug: bool = False

    def away_us(self, judge: Judge, key: Key) -> int:
        """Until when the host of its codebase is left alone; 0 when it is not."""
        codebase = judge.codebases.get(key[0]) if self.away else None
        host = host_of(codebase.branch_url) if codebase is not None and codebase.branch_url else None
        return self.away.get(host, 0) if host is not None else 0

    def rested_us(self, judge: Judge, key: Key, now_us: int) -> int:
        """Until when it is not scheduled by itself: `rest` after its latest run, a pause that doubles after
        transient failures, whatever the policy makes of them. 0 without any run.

        From when its end was heard of, where that is later: a node's clock may be wrong. What ended in the future
        did so by a clock that was: it would rest for ever.
        """
        streak, told_us = judge.last(key)
        ends_us = (told_us, self.heard.get(key[:2], -math.inf))
        ended_us = max((one for one in ends_us if one <= now_us + AHEAD_US), default=-math.inf)
        if not math.isfinite(ended_us):
            return 0
        settings, rest_s = self.rules.settings, self.rules.rest_s
        if streak:
            rest_s = min(settings.backoff_cap_s, settings.backoff_base_s * 2.0 ** min(streak, 64))
        return round(ended_us + rest_s * 1e6)


def decided(judge: Judge, scene: Scene, now_us: int, wanted: Wanted) -> Decided:
    """A task in the queue keeps the better of its bucket and this one's."""
    told = [one for one in judge.decisions(now_us) if wanted.has(one.candidate)]
    return chosen(judge, scene, now_us, wanted, told)


def again(judge: Judge, scene: Scene, now_us: int, keys: list[Key]) -> Decided:
    """The same for a few of them, each in constant time."""
    wanted = Wanted(campaigns=scene.rules.campaigns, automatic=True)
    found = [judge.one(key, now_us) for key in keys]
    told = [one for one in found if one is not None and wanted.has(one.candidate)]
    return chosen(judge, scene, now_us, wanted, told)


def chosen(judge: Judge, scene: Scene, now_us: int, wanted: Wanted, told: list[Decision]) -> Decided:
    new: list[New] = []
    changes: list[tuple[Decision, str]] = []
    wakes: list[tuple[int, Key]] = []
    held = 0
    for one in told:
        key = one.candidate.key
        known = scene.queued.get(key)
        if known is not None:
            bucket = min(known.item.bucket, wanted.bucket, key=RANK.__getitem__)
            if not one.held and (bucket != known.item.bucket or _differs(one.score, known.item.score)):
                changes.append((one, bucket))
            continue
        due_us = one.due_us or (scene.rested_us(judge, key, now_us) if wanted.automatic else 0)
        due_us = max(due_us, scene.away_us(judge, key))
        if one.held or due_us > now_us:
            held += 1
            if due_us > now_us:
                wakes.append((due_us, key))
        elif wanted.limit is None or len(new) < wanted.limit:
            candidate = one.candidate
            arrived_us = now_us + len(new)  # of those that came together, the best came first
            item = QueueItem(
                *key, candidate.command, score_in(one), arrived_us, bucket=wanted.bucket,
                duration_us=one.duration_us or 0.0,
            )  # fmt: skip
            new.append(New(one, item, spec_of(candidate)))
    return Decided(len(told), new, changes, held, judge, sorted(wakes), told if scene.debug else [])


def score_in(one: Decision) -> float:
    """As the queue takes it. Janitor's may be 0 and less, where a default offset is."""
    return min(max(1e-9, one.score or 0.0), 1e300)


def _differs(score: float | None, known: float) -> bool:
    return score is not None and abs(score - known) > NEAR * known
