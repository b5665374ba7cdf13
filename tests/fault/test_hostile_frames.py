"""Bytes that no honest peer sends, on all four endpoints: each message gets one answer, and nothing changes."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest
import zmq
import zmq.utils.monitor

from mgmt.protocol import defaults, frames, messages
from mgmt.protocol.symphony import decode_handshake_response
from tests.system.clients import eventually
from tests.system.daemon import Daemon, Start, config, model, shipped, symphony

ENDPOINTS = ("control", "relay", "client_handshake", "cli_management")
MAX = defaults.MAX_CONTROL_FRAME_BYTES
SEED = 20_250_601
RELAY_MAX = 1 << 16


@pytest.fixture(scope="module")
def service(start_shared: Start) -> Daemon:
    models = [model("echo", "echo", replicas=1), model("stub", "stub")]
    settings = config({"echo": shipped("echo"), "stub": symphony()}, models)
    daemon = start_shared({**settings, "limits": {"max_relay_frame_bytes": RELAY_MAX}})
    daemon.loaded("echo")
    return daemon


@pytest.fixture(autouse=True)
def unharmed(service: Daemon) -> Iterator[None]:
    """After each test all four endpoints answer, the same backend runs, and nobody was let in."""
    before = service.unit("echo")["pid"]
    yield
    assert_alive(service)
    assert service.unit("echo")["pid"] == before
    assert [unit["unit"] for unit in service.status()["units"]] == ["echo"]
    assert service.status()["service"]["state"] == "running"
    assert "Traceback" not in service.log()


def assert_alive(service: Daemon) -> None:
    assert service.control.ok("status")["service"]["pid"] == service.pid
    assert service.legacy("status")["success"]
    assert service.handshake() == ["msgpack"]
    data = service.data("echo")
    data.ask(1, b"still there")
    tag, payload = data.answer()
    assert (tag.kind, tag.id, payload) == (frames.DataKind.RESULT, 1, [b"still there"])
    service.control.ok("release", lease=data.lease)
    data.close()


def nested(levels: int) -> bytes:
    return b"\x91" * levels + b"\xc0"


def request(*head: Any) -> bytes:
    """A control frame of any elements."""
    return bytes(msgpack.packb(list(head)))


# name -> the frames of one message, the code of its refusal
HOSTILE: dict[str, tuple[list[bytes], str]] = {
    "no byte": ([b""], "bad-frame"),
    "nil": ([b"\xc0"], "bad-frame"),
    "never used": ([b"\xc1"], "bad-frame"),
    "truncated": ([frames.encode_request(1, 0, "status", {})[:-3]], "bad-frame"),
    "more behind": ([frames.encode_request(1, 0, "status", {}) + b"\x00"], "bad-frame"),
    "array of 4 G": ([b"\xdd\xff\xff\xff\xff"], "bad-frame"),
    "map of 4 G": ([b"\xdf\xff\xff\xff\xff" + b"\xa1a\x01" * 100], "bad-frame"),
    "string of 4 G": ([b"\xdb\xff\xff\xff\xff" + b"a" * 100], "bad-frame"),
    "binary of 4 G": ([b"\xc6\xff\xff\xff\xff"], "bad-frame"),
    "extension": ([request(1, 1, 1, 0, "status", {"a": msgpack.ExtType(5, b"x")}, 0, "")], "bad-frame"),
    "timestamp": ([request(1, 1, 1, 0, "status", {"a": msgpack.Timestamp(1)}, 0, "")], "bad-body"),
    "text not UTF-8": ([b"\x98\x01\x01\x01\x00\xa2\xff\xfe\x80\x00\xa0"], "bad-frame"),
    "number as key": ([b"\x98\x01\x01\x01\x00\xa6status\x81\x01\x01\x00\xa0"], "bad-frame"),
    "deeply nested": ([nested(100_000)], "bad-frame"),
    "nested to the limit of msgpack": ([nested(500)], "bad-frame"),
    "nested body": ([b"\x98\x01\x01\x01\x00\xa6status\x81\xa1a" + nested(40) + b"\x00\xa0"], "too-deep"),
    "two frames": ([frames.encode_request(1, 0, "status", {})] * 2, "bad-frame"),
    "REQ's delimiter": ([b"", frames.encode_request(1, 0, "status", {})], "bad-frame"),
    "hundred frames": ([b"x"] * 100, "bad-frame"),
    "a map": ([request()[:0] + msgpack.packb({"verb": "status"})], "bad-frame"),
    "an empty array": ([request()], "bad-frame"),
    "too short": ([request(1, 1, 7, 0, "status", {})], "bad-frame"),
    "too long": ([request(1, 1, 7, 0, "status", {}, 0, "", 9)], "bad-frame"),
    "version 0": ([request(0, 1, 7, 0, "status", {}, 0, "")], "bad-version"),
    "version 2": ([request(2, 1, 7, 0, "status", {}, 0, "")], "bad-version"),
    "version true": ([request(True, 1, 7, 0, "status", {}, 0, "")], "bad-version"),
    "version as text": ([request("1", 1, 7, 0, "status", {}, 0, "")], "bad-version"),
    "kind 0": ([request(1, 0, 7, 0, "status", {}, 0, "")], "bad-frame"),
    "kind 9": ([request(1, 9, 7, 0, "status", {}, 0, "")], "bad-frame"),
    "a reply": ([request(1, 2, 7, 0, "ok", {})], "bad-frame"),
    "an event": ([request(1, 3, 7, 0, "unit", {})], "bad-frame"),
    "id negative": ([request(1, 1, -1, 0, "status", {}, 0, "")], "bad-frame"),
    "id a float": ([request(1, 1, 1.5, 0, "status", {}, 0, "")], "bad-frame"),
    "id a list": ([request(1, 1, [], 0, "status", {}, 0, "")], "bad-frame"),
    "session as text": ([request(1, 1, 7, "0", "status", {}, 0, "")], "bad-frame"),
    "verb a number": ([request(1, 1, 7, 0, 5, {}, 0, "")], "bad-frame"),
    "verb empty": ([request(1, 1, 7, 0, "", {}, 0, "")], "unknown-verb"),
    "verb unknown": ([request(1, 1, 7, 0, "x" * 10_000, {}, 0, "")], "unknown-verb"),
    "verb of a notice": ([request(1, 1, 7, 0, "heartbeat", {}, 0, "")], "unknown-verb"),
    "body a list": ([request(1, 1, 7, 0, "status", [], 0, "")], "bad-body"),
    "body nil": ([request(1, 1, 7, 0, "status", None, 0, "")], "bad-body"),
    "unknown field": ([request(1, 1, 7, 0, "status", {"colour": 1}, 0, "")], "bad-body"),
    "field of wrong type": ([request(1, 1, 7, 0, "load-model", {"model": 1}, 0, "")], "bad-body"),
    "field too long": ([request(1, 1, 7, 0, "load-model", {"model": "x" * 300}, 0, "")], "bad-body"),
    "deadline negative": ([request(1, 1, 7, 0, "status", {}, -1, "")], "bad-frame"),
    "deadline a float": ([request(1, 1, 7, 0, "status", {}, 1.0, "")], "bad-frame"),
    "key a number": ([request(1, 1, 7, 0, "status", {}, 0, 5)], "bad-frame"),
    "key too long": ([request(1, 1, 7, 0, "status", {}, 0, "k" * 129)], "bad-frame"),
    "no such session": ([request(1, 1, 7, 12345, "status", {}, 0, "")], "session-gone"),
    "no hello": ([request(1, 1, 7, 0, "status", {}, 0, "")], "session-gone"),
    "hello of a version to come": ([request(1, 1, 7, 0, "hello", {"versions": [99]}, 0, "")], "bad-version"),
    "hello of no version": ([request(1, 1, 7, 0, "hello", {"versions": []}, 0, "")], "bad-body"),
    "backend of nobody": (
        [
            request(
                1,
                1,
                7,
                0,
                "backend-hello",
                {"versions": [1], "unit": "echo", "incarnation": 1, "token": "0" * 32, "pid": 1},
                0,
                "",
            )
        ],
        "denied",
    ),
    "just above the limit": ([b"\xc6" + (MAX - 4).to_bytes(4, "big") + bytes(MAX - 4)], "too-large"),
    "four times the limit": ([bytes(4 * MAX)], "too-large"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_the_control_endpoint_refuses_with_a_code(service: Daemon, name: str) -> None:
    sent, code = HOSTILE[name]
    peer = service.native(hello=False)
    peer.send(*sent)
    reply = frames.decode(peer.receive())
    assert isinstance(reply, frames.Reply)
    assert reply.outcome in ("error", "gone")
    assert reply.body["code"] == code, reply.body
    assert 0 < len(reply.body["text"]) < 1000
    if code not in ("bad-frame", "too-large", "too-deep"):
        assert reply.id in (1, 7)  # it was readable, so it is told which request is meant
    peer.hello()  # the connection can still be used
    assert peer.ok("status")["service"]["pid"] == service.pid
    peer.close()


# S16 S21
@pytest.mark.parametrize("name", HOSTILE)
def test_the_legacy_endpoints_answer_the_same_bytes(service: Daemon, name: str) -> None:
    sent, _ = HOSTILE[name]
    cli = service.peer("cli_management")
    cli.send(*sent)
    reply = json.loads(cli.receive()[-1])
    assert reply["success"] is False
    assert reply["error"].startswith("Invalid command format: ")
    assert len(reply["error"]) < 1000
    client = service.peer("client_handshake")
    client.send(*sent)
    decode_handshake_response(client.receive()[-1])
    assert cli.silent_for(0.01)
    assert client.silent_for(0.01)
    cli.close()
    client.close()


RELAYED = [name for name, (sent, _) in HOSTILE.items() if sum(map(len, sent)) <= 2 * RELAY_MAX]


@pytest.mark.parametrize("name", RELAYED)
def test_the_relay_answers_the_same_bytes(service: Daemon, name: str) -> None:
    sent, _ = HOSTILE[name]
    peer = service.peer("relay")
    peer.send(*sent)
    tag, payload = peer.receive()
    assert frames.decode_tag(tag).kind == frames.DataKind.ERROR
    assert frames.unpack(payload)["code"] in ("bad-frame", "bad-version")
    assert peer.silent_for(0.01)
    peer.close()


def test_a_legacy_message_above_the_limit_is_refused_unread(service: Daemon) -> None:
    command = {"command": "status", "params": {"a": ""}, "correlation_id": "big"}
    overhead = len(json.dumps(command))
    cli = service.peer("cli_management")
    for size, success in ((MAX, True), (MAX + 1, False), (8 * MAX, False)):
        command["params"] = {"a": "x" * (size - overhead)}
        payload = json.dumps(command).encode()
        assert len(payload) == size
        cli.send(payload)
        reply = json.loads(cli.receive()[0])
        assert reply["success"] is success
        assert success or reply["error"] == f"Invalid command format: {size} bytes, the limit is {MAX}"
    cli.close()
    client = service.peer("client_handshake")
    for size, answer in ((MAX, b"\x0a\x07msgpack"), (MAX + 1, b"")):
        rest = size - 4  # an unknown field 15: its key, three bytes of length, and its bytes
        client.send(b"\x7a" + bytes((rest & 127 | 128, rest >> 7 & 127 | 128, rest >> 14)) + bytes(rest))
        assert client.receive() == [answer]
    client.close()


DATA: dict[str, tuple[Callable[[int], list[bytes]], str]] = {
    "unknown lease": (lambda lease: [frames.encode_tag(1, lease ^ 1, 5), b"x"], "lease-gone"),
    "an answer": (lambda lease: [frames.encode_tag(2, lease, 5), b"x"], "bad-frame"),
    "kind 0": (lambda lease: [frames.encode_tag(0, lease, 5), b"x"], "bad-frame"),
    "kind 255": (lambda lease: [frames.encode_tag(255, lease, 5), b"x"], "bad-frame"),
    "version 2": (lambda lease: [b"\x02" + frames.encode_tag(1, lease, 5)[1:], b"x"], "bad-version"),
    "tag cut": (lambda lease: [frames.encode_tag(1, lease, 5)[:-1], b"x"], "bad-frame"),
    "tag too long": (lambda lease: [frames.encode_tag(1, lease, 5) + b"\x00", b"x"], "bad-frame"),
    "too large": (lambda lease: [frames.encode_tag(1, lease, 5), bytes(RELAY_MAX + 1)], "too-large"),
}


@pytest.mark.parametrize("name", DATA)
def test_the_relay_refuses_with_a_code(service: Daemon, name: str) -> None:
    message, code = DATA[name]
    data = service.data("echo")
    data.send(*message(data.lease))
    _, payload = data.receive()
    assert frames.unpack(payload)["code"] == code
    data.ask(6, bytes(RELAY_MAX))  # the largest that is forwarded
    tag, result = data.answer()
    assert (tag.kind, tag.id, result) == (frames.DataKind.RESULT, 6, [bytes(RELAY_MAX)])
    service.control.ok("release", lease=data.lease)
    data.close()


def test_a_data_message_of_no_payload_or_many_is_forwarded(service: Daemon) -> None:
    data = service.data("echo")
    for id, payload in enumerate(([], [b""], [b"a", b"", b"b"], [b"x"] * 50), start=1):
        data.ask(id, *payload)
        tag, result = data.answer()
        assert (tag.id, tag.kind, result) == (id, frames.DataKind.RESULT, payload)


@pytest.mark.parametrize("key", ENDPOINTS)
def test_a_message_far_above_the_limit_ends_the_connection(service: Daemon, key: str) -> None:
    peer = service.peer(key)
    monitor = peer.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    before = service.memory_bytes()
    try:
        peer.send(bytes(17 * MAX))
        assert monitor.poll(20_000), "the connection is cut"
        assert zmq.utils.monitor.recv_monitor_message(monitor)["event"] == zmq.EVENT_DISCONNECTED
    finally:
        peer.socket.disable_monitor()
        monitor.close()
        peer.close()
    assert service.memory_bytes() < before + (8 << 20)  # it was not even read


@pytest.mark.parametrize("key", ENDPOINTS)
def test_strangers_that_do_not_speak_zmq_disturb_nobody(service: Daemon, key: str) -> None:
    path = service.endpoint(key).removeprefix("ipc://")
    rng = random.Random(SEED)
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(16) + b"\x00" + bytes(31)
    for payload in (
        b"GET / HTTP/1.1\r\n\r\n",
        rng.randbytes(10_000),
        greeting[:10],
        greeting,
        greeting + b"\x04\xff",
        greeting + b"\x06" + b"\xff" * 8 + b"x",
        greeting + rng.randbytes(2000),
    ):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(path)
            try:
                stranger.sendall(payload)
            except BrokenPipeError:
                pass  # it was cut already
            assert_alive(service)


# ---- fuzzing; the seed is fixed, so a failure can be repeated ----


def mutated(rng: random.Random, seed: bytes) -> bytes:
    data = bytearray(seed)
    for _ in range(rng.randint(1, 4)):
        match rng.randrange(5):
            case 0:
                data = data[: rng.randint(0, len(data))]
            case 1:
                data += rng.randbytes(rng.randint(1, 8))
            case 2 if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
            case 3 if data:
                del data[rng.randrange(len(data))]
            case _:
                at = rng.randint(0, len(data))
                data[at:at] = rng.choice((b"\xff", b"\x00", b"\xdd\x7f", b"\x81", b"\x91" * 9, b"{", b'"'))
    return bytes(data)


SEEDS = {
    "control": [
        frames.encode_request(1, 0, "status", {"units": ["echo"]}),
        frames.encode_request(2, 0, "load-model", {"model": "stub", "wait": True}, 1000, "key"),
        frames.encode_notice(0, "heartbeat", {}),
        frames.encode_reply(3, 0, "ok", {}),
        frames.encode_event(4, 0, "unit", {"a": 1}),
    ],
    "relay": [frames.encode_tag(1, 77, 1), frames.encode_tag(2, 77, 1), b""],
    "client_handshake": [b"", b"\x0a\x03l4m", b"\x7a\x03abc"],
    "cli_management": [
        b'{"command": "status", "params": {}, "correlation_id": "a"}',
        b'{"command": "unload-model", "params": {"model_name": "stub"}}',
        b"{}",
    ],
}


# S16 S21 S31: whatever arrives, one answer leaves
@pytest.mark.parametrize("key", ENDPOINTS)
def test_each_of_two_thousand_mutated_messages_gets_one_answer(service: Daemon, key: str) -> None:
    rng = random.Random(SEED)
    peer = service.peer(key)
    for _ in range(20):
        for _ in range(100):
            count = rng.choice((1, 1, 1, 1, 2, 3))
            peer.send(*(mutated(rng, rng.choice(SEEDS[key])) for _ in range(count)))
        for _ in range(100):
            peer.receive()
    assert peer.silent_for(0.05)
    peer.close()


def any_value(rng: random.Random, depth: int = 0) -> Any:
    kinds: list[Callable[[], Any]] = [
        lambda: None,
        lambda: rng.choice((True, False)),
        lambda: rng.choice((0, 1, -1, 2**31, 2**63, 2**64 - 1, -(2**63))),
        lambda: rng.choice((0.0, -1.5, float("inf"), float("nan"))),
        lambda: rng.choice(
            ("", "echo", "echo.0", "ready", "direct", "relay", "x" * 300, "ü\u2028", "../etc", "\0")
        ),
        lambda: rng.randbytes(rng.randint(0, 9)),
    ]
    if depth < 3:
        kinds.append(lambda: [any_value(rng, depth + 1) for _ in range(rng.randint(0, 4))])
        kinds.append(lambda: {rng.choice("abc"): any_value(rng, depth + 1) for _ in range(rng.randint(0, 3))})
    return rng.choice(kinds)()


# What would end the service or the backend that the other tests use is left out.
VERBS = sorted(set(messages.REQUESTS) - {"hello", "stop-service", "unload-model", "stop", "restart", "apply"})


def test_each_of_three_thousand_random_bodies_gets_its_one_answer(service: Daemon) -> None:
    rng = random.Random(SEED)
    peer = service.native()
    outcomes = set()
    for _ in range(30):
        ids = []
        for _ in range(100):
            verb = rng.choice(VERBS)
            fields = [*messages.REQUESTS[verb].body.model_fields, "unknown"]
            body = {rng.choice(fields): any_value(rng) for _ in range(rng.randint(0, 3))}
            if "load" in body or verb == "load-model":
                body = {"model": "no such model", **body}
            ids.append(peer.ask(verb, 200, **body))
        outcomes |= {peer.reply(id).outcome for id in ids}
    assert outcomes >= {"ok", "error"}
    while peer.socket.poll(50):
        assert not isinstance(peer.take(), frames.Reply)  # events only: each request had its answer
    peer.close()


def test_random_notices_are_harmless(service: Daemon) -> None:
    rng = random.Random(SEED)
    peer = service.native()
    for _ in range(500):
        peer.tell(rng.choice([*sorted(messages.NOTICES), "no such notice"]), a=any_value(rng))
    eventually(lambda: peer.refused("status").get("code") == "session-gone", what="one of them was a bye")
    peer.close()


# ---- identities ----


@pytest.mark.parametrize("key", ["client_handshake", "cli_management", "control"])
def test_two_peers_of_one_identity_do_not_stop_the_newer_one(service: Daemon, key: str) -> None:
    question: dict[str, bytes] = {
        "client_handshake": b"",
        "cli_management": b'{"command": "status", "params": {}, "correlation_id": 1}',
        "control": frames.encode_request(1, 0, "hello", {"versions": [1]}),
    }
    older = service.peer(key, identity=b"twin", RECONNECT_IVL=-1)
    older.send(question[key])
    older.receive()
    newer = service.peer(key, identity=b"twin", RECONNECT_IVL=-1)
    for _ in range(3):
        newer.send(question[key])
        newer.receive()
    assert older.silent_for(0.05)  # and what is the newer one's never reaches the older
    older.close()
    newer.send(question[key])
    newer.receive()
    newer.close()


def test_a_session_cannot_be_used_by_another_connection(service: Daemon) -> None:
    owner, thief = service.native(), service.native(hello=False)
    thief.session = owner.session
    assert thief.refused("unload-model", model="echo")["code"] == "session-gone"
    for verb in ("status", "stop-service"):
        assert thief.refused(verb)["code"] == "session-gone"
    thief.tell("bye")
    thief.refused("status")
    assert owner.ok("status")["service"]["state"] == "running"
    owner.close()
    thief.close()
