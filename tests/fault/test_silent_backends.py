"""A backend that stands still: who waits for it is answered when his time is over, once, and waits for nothing."""

from __future__ import annotations

import os
import signal
import time

from mgmt.protocol import frames
from mgmt.protocol.frames import DataKind
from tests.system.clients import Data, eventually
from tests.system.daemon import Start, config, shipped

PLACES = 5


def ask(data: Data, id: int, deadline_ms: int, payload: bytes = b"?") -> None:
    data.send(frames.encode_tag(DataKind.REQUEST, data.lease, id, deadline_ms), payload)


def test_an_overdue_request_is_answered_once_and_gives_its_place_back(start: Start) -> None:
    settings = config({"echo": shipped("echo")})
    daemon = start({**settings, "limits": {"max_relay_queue": PLACES}})
    daemon.loaded("echo")
    data = daemon.data("echo")
    ask(data, 100, deadline_ms=0)
    assert (
        data.answer()[0].kind == DataKind.RESULT
    )  # the relay is connected: what it forwards leaves its queue
    pid = daemon.unit("echo")["pid"]
    os.kill(pid, signal.SIGSTOP)
    for round in range(2):  # the second one has its places because the first one's are free
        ids = range(10 * round, 10 * round + PLACES)
        began_s = time.monotonic()
        for id in ids:
            ask(data, id, deadline_ms=300 if id % 2 else 200)
        ask(data, 999, deadline_ms=200)
        assert data.error(999)["code"] == "busy"
        answers = [data.answer() for _ in ids]
        assert 0.2 < time.monotonic() - began_s < 2.0
        assert sorted(tag.id for tag, _ in answers) == list(ids)
        for tag, (body,) in answers:
            assert tag.kind == DataKind.EXPIRED
            assert frames.unpack(body)["code"] == "expired" and "echo" in frames.unpack(body)["text"]
    for id in (50, 51):
        ask(data, id, deadline_ms=0)  # none
    ask(data, 52, deadline_ms=60_000)
    ask(data, 53, deadline_ms=1)  # earlier than the one that is waited for
    assert data.error(53)["code"] == "expired"
    os.kill(pid, signal.SIGCONT)
    assert {data.answer()[0].id for _ in range(3)} == {50, 51, 52}
    ask(data, 60, deadline_ms=1000, payload=b"as before")
    tag, payload = data.answer()
    assert (tag.id, tag.kind, payload) == (60, DataKind.RESULT, [b"as before"])
    assert data.silent_for(0.2), "late answers are nobody's"


def test_a_silent_backend_costs_a_bounded_amount_of_memory(start: Start) -> None:
    settings = config({"echo": shipped("echo")})
    daemon = start({**settings, "limits": {"max_relay_queue": PLACES}})
    daemon.loaded("echo")
    data = daemon.data("echo")
    pid = daemon.unit("echo")["pid"]
    os.kill(pid, signal.SIGSTOP)
    before = daemon.memory_bytes()
    ids = iter(range(1_000_000))
    kinds: list[int] = []

    def refused() -> bool:
        ask(data, next(ids), 1, bytes(1 << 20))
        kinds.append(data.answer()[0].kind)
        return kinds[-1] == DataKind.BUSY

    eventually(refused, what="no more is queued for it")
    assert set(kinds) == {DataKind.EXPIRED, DataKind.BUSY}
    assert daemon.memory_bytes() - before < 64 << 20
    os.kill(pid, signal.SIGCONT)
    eventually(lambda: not refused() and kinds[-1] == DataKind.RESULT, what="it is served again")
