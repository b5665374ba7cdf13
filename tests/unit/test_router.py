"""The ROUTER in the event loop: no message waits for another one to wake the loop."""

from __future__ import annotations

import asyncio
import contextlib
import select
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
import zmq

from mgmt.shell.router import HWM, MAX_HELD_BYTES, MAX_OUTBOX, PURGE_AT, TRACKED_BYTES, Router

PATIENCE_S = 20.0


class Served:
    """A Router that keeps what it receives, and its loop."""

    def __init__(self, endpoint: str) -> None:
        self.context: zmq.Context[Any] = zmq.Context()
        self.loop = uvloop.new_event_loop()
        self.received: list[list[bytes]] = []
        self.lost: list[tuple[bytes, str]] = []
        self.router = Router(
            self.loop,
            self.context,
            endpoint,
            1 << 20,
            self.received.append,
            lambda peer, reason: self.lost.append((peer, reason)),
        )

    def connect(self, identity: bytes, **options: int) -> zmq.Socket[bytes]:
        """A DEALER that said something, which was received."""
        socket: zmq.Socket[bytes] = self.context.socket(zmq.DEALER)
        for name, value in {"LINGER": 0, **options}.items():
            socket.setsockopt(getattr(zmq, name), value)
        socket.setsockopt(zmq.IDENTITY, identity)
        socket.connect(self.router.endpoint)
        socket.send(b"hello")
        self.receives(1)
        return socket

    def receives(self, count: int) -> None:
        """Run the loop until so many more messages came; AssertionError after PATIENCE_S."""
        wanted, end = len(self.received) + count, time.monotonic() + PATIENCE_S

        async def wait() -> None:
            while len(self.received) < wanted:
                assert time.monotonic() < end, f"{len(self.received)} of {wanted} messages"
                await asyncio.sleep(0.001)

        self.loop.run_until_complete(wait())

    def close(self) -> None:
        self.router.close()
        self.context.destroy(linger=0)
        self.loop.close()


@pytest.fixture
def served() -> Iterator[Served]:
    with tempfile.TemporaryDirectory(prefix="rt-", dir="/tmp") as folder:
        made = Served(f"ipc://{Path(folder) / 'router'}")
        try:
            yield made
        finally:
            made.close()


def fill(served: Served, peer: bytes) -> None:
    """Answers for a peer that does not read, until some have to be queued."""
    for _ in range(HWM + MAX_OUTBOX):
        served.router.send(peer, (b"x" * 10_000,))
        if not served.router.flush():
            return
    raise AssertionError("everything was sent")


def test_a_refused_send_outside_of_a_turn_swallows_no_message(served: Served) -> None:
    lazy = served.connect(b"lazy", RCVHWM=1)
    talker = served.connect(b"talker")
    fill(served, b"lazy")
    descriptor = int(served.router.socket.getsockopt(zmq.FD))
    for number in range(20):
        served.receives(0)
        talker.send(b"%d" % number)
        assert select.select([descriptor], [], [], PATIENCE_S)[0], "the message is there and signalled"
        end = time.monotonic() + PATIENCE_S
        while select.select([descriptor], [], [], 0)[0]:  # refused again and again, until one took the signal
            assert not served.router.flush()
            assert time.monotonic() < end
        served.receives(1)
        assert served.received[-1] == [b"talker", b"%d" % number]
    assert served.lost == []
    lazy.close(0)
    talker.close(0)


def test_a_peer_that_overflows_its_queue_is_reported_once(served: Served) -> None:
    lazy = served.connect(b"lazy", RCVHWM=1)
    fill(served, b"lazy")
    for _ in range(MAX_OUTBOX):
        served.router.send(b"lazy", (b"x",))
    other = served.connect(b"other")
    assert [peer for peer, _ in served.lost] == [b"lazy"]
    assert "it reads none" in served.lost[0][1]
    lazy.close(0)
    other.close(0)


def test_a_peer_that_leaves_with_answers_waiting_is_reported_once(served: Served) -> None:
    lazy = served.connect(b"lazy", RCVHWM=1)
    fill(served, b"lazy")
    for _ in range(100):
        served.router.send(b"lazy", (b"x",))
    lazy.close(0)
    other = served.connect(b"other")
    end = time.monotonic() + PATIENCE_S
    while not served.lost:
        assert time.monotonic() < end
        other.send(b"again")
        served.receives(1)
    assert served.lost == [(b"lazy", "the peer is gone")]
    other.close(0)


@pytest.mark.parametrize("prefix", [(), (b"",)])
def test_large_answers_nobody_reads_are_bounded_in_bytes(served: Served, prefix: tuple[bytes, ...]) -> None:
    lazy = served.connect(b"lazy", RCVHWM=1)
    answer = (*prefix, bytes(1 << 20))
    for _ in range(4 * MAX_HELD_BYTES >> 20):
        served.router.send(b"lazy", answer)
    other = served.connect(b"other")
    assert {peer for peer, _ in served.lost} == {b"lazy"}
    assert "bytes of answers wait for it and it reads none" in served.lost[0][1]
    read = 0
    lazy.setsockopt(zmq.RCVTIMEO, 200)
    with contextlib.suppress(zmq.Again):
        while True:
            assert lazy.recv_multipart() == [*prefix, answer[-1]]
            read += 1
    # What libzmq has written to the connection does not count: some more than the bound.
    assert MAX_HELD_BYTES >> 20 <= read <= (MAX_HELD_BYTES >> 20) + 16
    lost = len(served.lost)
    served.router.send(b"lazy", answer)  # it reads again
    assert lazy.recv_multipart() == [*prefix, answer[-1]]
    other.send(b"again")
    served.receives(1)
    assert len(served.lost) == lost
    lazy.close(0)
    other.close(0)


def test_large_answers_to_many_peers_that_read_leave_nothing(served: Served) -> None:
    for number in range(2 * PURGE_AT):
        peer = served.connect(b"%d" % number)
        served.router.send(b"%d" % number, (bytes(TRACKED_BYTES),))
        assert len(peer.recv()) == TRACKED_BYTES
        peer.close(0)
    assert len(served.router._inside) <= PURGE_AT
    assert served.lost == []
