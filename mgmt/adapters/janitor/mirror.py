"""The queue once more in Redis: a sorted set for each bucket, so that a position is one ZRANK.

Members are keys of items, scores their priorities; what else is known of an item is in one hash. Adding one again
duplicates nothing. Items of the same priority come in the order of their names there, by their age in the queue.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import redis

from mgmt.core.candidates.compat_queue import BUCKETS, QueueItem
from mgmt.protocol.errors import MgmtError

HASH = "queue:items"
CONNECT_S = 10


def bucket_key(bucket: str) -> str:
    return f"queue:{bucket}"


def member(item: QueueItem) -> str:
    return json.dumps(item.key, ensure_ascii=False)


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise MgmtError(
            "bad-database",
            f"the mirror in Redis: {error}; see that the server runs and that --redis says where it is",
        ) from None


class Mirror:
    """`url` like redis://localhost/0 or unix:///run/redis.sock."""

    def __init__(self, url: str) -> None:
        try:
            self._redis = redis.Redis.from_url(
                url, socket_connect_timeout=CONNECT_S, socket_timeout=CONNECT_S, decode_responses=True
            )
        except ValueError as error:
            raise MgmtError("bad-database", f"--redis is {url!r}: {error}") from None
        with _failures():
            self._redis.ping()

    def close(self) -> None:
        self._redis.close()

    def replace(self, items: Iterable[QueueItem]) -> int:
        """The mirror is these items and nothing else, at once for all who look; their number."""
        scores: dict[str, dict[str, int]] = {}
        known: dict[str, str] = {}
        for item in items:
            name = member(item)
            scores.setdefault(item.bucket, {})[name] = item.priority
            known[name] = json.dumps(
                {
                    "id": item.id, "codebase": item.codebase, "campaign": item.campaign,
                    "change_set": item.change_set, "bucket": item.bucket, "priority": item.priority,
                    "command": item.command, "context": item.context, "refresh": item.refresh,
                    "requester": item.requester, "estimated_duration_us": item.estimated_duration_us,
                },
                ensure_ascii=False,
            )  # fmt: skip
        with _failures(), self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(HASH, *map(bucket_key, BUCKETS))
            for bucket, members in scores.items():
                pipe.zadd(bucket_key(bucket), members)
            if known:
                pipe.hset(HASH, items=[word for pair in known.items() for word in pair])
            pipe.execute()
        return len(known)

    def position(self, codebase: str, campaign: str, change_set: str = "") -> int | None:
        """Its rank from 1 over all buckets; None for one that is not there."""
        name = json.dumps((codebase, campaign, change_set), ensure_ascii=False)
        with _failures(), self._redis.pipeline(transaction=True) as pipe:
            for bucket in BUCKETS:
                pipe.zrank(bucket_key(bucket), name)
                pipe.zcard(bucket_key(bucket))
            answers = pipe.execute()
        before = 0
        for rank, count in zip(answers[::2], answers[1::2], strict=True):
            if rank is not None:
                return int(before + rank + 1)
            before += count
        return None
