"""Clients that ask and never read: what is kept for them is bounded, and nobody else notices."""

from __future__ import annotations

import zmq

from mgmt.protocol import frames
from tests.parity.test_symphony_lifecycle import assert_prompt, status_times_s
from tests.system.clients import Peer, eventually
from tests.system.daemon import Daemon, Start, config, model, shipped, symphony

FLOOD = 40_000
MAX_GROWTH_BYTES = 64 << 20


def flood(peer: Peer, *message: bytes, count: int = FLOOD) -> None:
    """Send without ever reading; what the other side does not take within a second is left."""
    peer.socket.setsockopt(zmq.SNDTIMEO, 1000)
    for _ in range(count):
        try:
            peer.send(*message)
        except zmq.Again:
            return


def peers_lost(daemon: Daemon) -> int:
    return int(daemon.status()["service"]["counters"].get("peers_lost", 0))


# S16: bounded queues
def test_a_native_client_that_never_reads_is_given_up(start: Start) -> None:
    models = [model(f"m{i}", "stub") for i in range(30)]  # long answers
    daemon = start(config({"stub": symphony()}, models))
    before = daemon.memory_bytes()
    lazy = daemon.native(RCVHWM=1)
    request = frames.encode_request(1, lazy.session, "models", {})

    def given_up() -> bool:
        flood(lazy, request, count=FLOOD // 10)
        return peers_lost(daemon) > 0

    eventually(given_up, what="the daemon gave it up")
    assert_prompt(status_times_s(daemon, counter(200)))
    assert daemon.memory_bytes() - before < MAX_GROWTH_BYTES
    assert any("answers were queued for it" in line for line in reasons(daemon))
    assert daemon.status()["service"]["sessions"] == 1  # its session ended with it
    lazy.close()
    eventually(lambda: daemon.descriptors() < 64, what="its connection is closed")
    assert peers_lost(daemon) == 1  # counted as a peer, not as each of its answers


# What one answer weighs must not matter.
def test_a_native_client_that_never_reads_large_answers_is_given_up(start: Start) -> None:
    unit = {"command": ["/bin/sh", "-c", "yes 0123456789 | head -c 1000000; sleep 1000"]}
    daemon = start(config(units={"a": unit}))
    daemon.control.ok("start", targets=["a"])
    eventually(lambda: daemon.unit_log("a").stat().st_size == 1_000_000)
    before = daemon.memory_bytes()
    lazy = daemon.native(RCVHWM=1)
    chunk = daemon.control.ok("logs", unit="a", lines=100_000)["data"]
    assert len(chunk) > 250_000
    most = 0
    request = frames.encode_request(1, lazy.session, "logs", {"unit": "a", "lines": 100_000})
    for _ in range(10):  # not more at once than a session may have open
        flood(lazy, request, count=100)
        daemon.control.ok("logs", unit="a", lines=100_000)  # behind them in the workers' queue
        most = max(most, daemon.memory_bytes() - before)
    assert most < 2 * MAX_GROWTH_BYTES < 1000 * len(chunk)
    assert peers_lost(daemon) == 1
    assert any("bytes of answers wait for it" in line for line in reasons(daemon))
    assert "a client is given up" in daemon.log()
    assert daemon.status()["service"]["sessions"] == 1


def test_a_relay_client_that_never_reads_large_answers_is_bounded(start: Start) -> None:
    daemon = start({**config({"echo": shipped("echo")}), "limits": {"max_relay_frame_bytes": 4 << 20}})
    daemon.loaded("echo")
    before = daemon.memory_bytes()
    lazy, other = daemon.data("echo", RCVHWM=1), daemon.data("echo")
    payload = bytes(1 << 20)
    for id in range(300):
        lazy.ask(id, payload)
        other.ask(id, b"still served")
        answer, _ = other.answer()
        assert (answer.id, answer.kind) == (id, frames.DataKind.RESULT)
        assert daemon.memory_bytes() - before < 2 * MAX_GROWTH_BYTES
    assert "a client is given up" in daemon.log()


def test_a_client_that_leaves_with_answers_waiting_is_counted_once(start: Start) -> None:
    daemon = start(config({"stub": symphony()}, [model(f"m{i}", "stub") for i in range(30)]))
    lazy = daemon.native(RCVHWM=1, SNDHWM=100_000)
    flood(lazy, frames.encode_request(1, lazy.session, "models", {}), count=6000)
    eventually(lambda: lazy.socket.poll(0), what="answers came")
    lazy.close()
    eventually(lambda: daemon.status()["service"]["sessions"] == 1 and peers_lost(daemon), what="it is gone")
    assert peers_lost(daemon) == 1


# S16 S21
def test_a_legacy_client_that_never_reads_is_bounded(start: Start) -> None:
    daemon = start(config({"stub": symphony()}))
    before = daemon.memory_bytes()
    lazy = daemon.peer("cli_management", RCVHWM=1)
    flood(lazy, b'{"command": "list-models", "params": {}, "correlation_id": "' + b"x" * 2000 + b'"}')
    assert_prompt(status_times_s(daemon, counter(200)))
    assert daemon.memory_bytes() - before < MAX_GROWTH_BYTES


def test_a_handshaking_client_that_never_reads_is_bounded(start: Start) -> None:
    daemon = start(config())
    before = daemon.memory_bytes()
    flood(daemon.peer("client_handshake", RCVHWM=1), b"")
    assert daemon.handshake() == []
    assert daemon.memory_bytes() - before < MAX_GROWTH_BYTES


def test_a_relay_client_that_never_reads_is_bounded(start: Start) -> None:
    daemon = start(config({"echo": shipped("echo")}))
    daemon.loaded("echo")
    before = daemon.memory_bytes()
    lazy, other = daemon.data("echo", RCVHWM=1), daemon.data("echo")
    tag = frames.encode_tag(frames.DataKind.REQUEST, lazy.lease, 1)
    flood(lazy, tag, bytes(4096))
    other.ask(7, b"still served")
    answer, payload = other.answer()
    assert (answer.id, answer.kind, payload) == (7, frames.DataKind.RESULT, [b"still served"])
    assert daemon.memory_bytes() - before < 2 * MAX_GROWTH_BYTES
    assert daemon.unit("echo")["ready"]


# S16: BUSY under pressure, and still one answer each
def test_more_requests_than_a_session_may_have_are_answered_busy(start: Start) -> None:
    settings = config({"stub": symphony("--delay-s", "60")})
    daemon = start({**settings, "limits": {"max_session_requests": 10, "max_requests": 15}})
    first, second = daemon.native(), daemon.native()
    ids = [first.ask("load-model", model="stub") for _ in range(12)]
    for id in ids[10:]:
        reply = first.reply(id)
        assert (reply.outcome, reply.body["code"], reply.body["retryable"]) == ("busy", "busy", True)
    more = [second.ask("load-model", model="stub") for _ in range(6)]
    assert second.reply(more[5]).outcome == "busy"
    assert first.ok("status")["units"][0]["state"] == "STARTING"  # what is not parked is not limited
    assert daemon.legacy("unload-model", model_name="stub")["error"].startswith("15 requests are waiting")
    daemon.control.ok("unload-model", model="stub", wait=False)
    for peer, waiting in ((first, ids[:10]), (second, more[:5])):
        for id in waiting:
            assert peer.reply(id).body["code"] == "cancelled"


def test_more_sessions_than_the_limit_are_answered_busy(start: Start) -> None:
    daemon = start({**config(), "limits": {"max_sessions": 3}})
    peers = [daemon.native() for _ in range(2)]
    third = daemon.native(hello=False)
    assert third.refused("hello", versions=[1])["code"] == "busy"
    peers[0].tell("bye")
    eventually(lambda: third.reply(third.ask("hello", versions=[1])).outcome == "ok", what="a place is free")


def test_more_requests_than_a_relay_may_queue_are_answered_busy(start: Start) -> None:
    settings = config({"slow": shipped("callable", "time:sleep")})
    daemon = start({**settings, "limits": {"max_relay_queue": 5}})
    daemon.loaded("slow")
    data = daemon.data("slow")
    for id in range(8):
        data.ask(id, frames.pack(0.1))
    kinds = {tag.id: tag.kind for tag, _ in (data.answer() for _ in range(8))}
    assert kinds == {
        **dict.fromkeys(range(5), frames.DataKind.RESULT),
        **dict.fromkeys((5, 6, 7), frames.DataKind.BUSY),
    }


def reasons(daemon: Daemon) -> list[str]:
    """What the journal of the daemon says about peers that were given up."""
    snapshot = daemon.control.ok("subscribe", since=0, follow=False)
    return [event["reason"] for event in snapshot["events"] if event.get("what") == "peer-lost"]


class counter:
    """True at its nth call."""

    def __init__(self, calls: int) -> None:
        self._left = calls

    def __call__(self) -> bool:
        self._left -= 1
        return self._left < 0
