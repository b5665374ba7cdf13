"""The rules between a crew and its worker, kept by workers of both kinds."""

from __future__ import annotations

import random
import signal
import socket
import struct
import time
from itertools import pairwise
from pathlib import Path

import msgpack
import pytest

from mgmt.worker import wire
from mgmt.worker.wire import Decoder, Kind, WireError

from .crew import RESIDENT, Crew, until


def frame(body: bytes) -> bytes:
    return struct.pack("<I", len(body)) + body


def test_messages_are_found_wherever_the_stream_is_cut() -> None:
    messages: list[list[object]] = [
        [1, "unit", "token", 7, []],
        [3, 1, 2, 11],
        [2, 1, 1, -9, "x" * 70_000, 0, 1, b"", {}],
    ]
    stream = b"".join(wire.encode(*message) for message in messages)
    for size in (1, 3, 4, 5, 1000, len(stream)):
        decoder = Decoder()
        found = [m for at in range(0, len(stream), size) for m in decoder.feed(stream[at : at + size])]
        assert found == messages
        assert [wire.check_from_worker(m) for m in found] == messages


@pytest.mark.parametrize(
    "body", [b"\xff\xff\xff\xff", frame(b""), frame(b"\x01"), frame(b"\x90"), frame(b"\x91\xa1x"), frame(b"\xc1"),
             frame(b"\x91\x01\x01"), frame(b"\x91\xa2\xff\xff"), frame(b"\x81\x90\x01")],
)  # fmt: skip
def test_a_decoder_refuses_what_is_no_message(body: bytes) -> None:
    with pytest.raises(WireError):
        list(Decoder().feed(body))


@pytest.mark.parametrize("message", [[1], [2, 1], [3, 1, 2, "x"], [17, 1, 1, b"", "", None], [99]])
def test_what_a_worker_may_not_say(message: list[object]) -> None:
    with pytest.raises(WireError):
        wire.check_from_worker(message)


def test_a_message_has_a_limit() -> None:
    with pytest.raises(WireError, match="limit"):
        wire.encode(Kind.RUN, 1, 1, b"x" * wire.MAX_MESSAGE_BYTES, "", None)


WELCOME = {"env": {}, "folder": "/tmp/never-used-by-a-worker", "grace_s": 1, "output_limit_bytes": 1}


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"\xff\xff\xff\x7f", "limit"),
        (frame(b""), "array"),
        (frame(b"\xc1"), ""),
        (frame(b"\x91\x13" + b"\xc0"), ""),
        (frame(b"\xdd\xff\xff\xff\xff\x11"), ""),
        (wire.encode(Kind.HELLO), "kind"),
        (wire.encode(1 << 40), "kind"),
        (wire.encode(Kind.PAUSE, 1), ""),
        (wire.encode(Kind.RUN, 1, 1, "text", "u", None), "RUN"),
        (wire.encode(Kind.RUN, 1, 1, b"", "u"), ""),
        (wire.encode(Kind.CANCEL, 1, 1, "soon"), ""),
        (wire.encode(Kind.STOP, 1), ""),
        (wire.encode(Kind.TAKEN, 1), "TAKEN"),
        (wire.encode(Kind.WELCOME, WELCOME), "WELCOME"),
    ],
)
def test_who_breaks_the_rules_is_told_why(either: Crew, sent: bytes, said: str) -> None:
    assert either.peer is not None
    either.peer.sendall(sent)
    status, text = either.ended()
    assert (status, text.count("\n")) == (wire.EXIT_MALFORMED, 1)
    assert "rules" in text or "limit" in text
    if not either.is_resident:
        assert said in text


@pytest.mark.parametrize("kind", ["process", "resident"])
def test_a_worker_that_is_refused_ends(kind: str, tmp_path: Path, worker_program: Path) -> None:
    crew = Crew(RESIDENT if kind == "resident" else [worker_program], tmp_path)
    crew.listen()
    crew.start("--managed", "--manager-uuid", "0192", "--worker-id", "255", "--token", "given")
    try:
        assert crew.accept() == [Kind.HELLO, "w0", "given", 7, []]
        crew.send(Kind.REFUSED, "started by hand")
        status, text = crew.ended()
        assert (status, "started by hand" in text) == (wire.EXIT_MALFORMED, True)
    finally:
        crew.__exit__(None, None, None)


@pytest.mark.parametrize(
    "more", [["--worker-id", "256"], ["--incarnation", "x"], ["--odd", "1"], ["--token"]]
)
@pytest.mark.parametrize("kind", ["process", "resident"])
def test_wrong_arguments(kind: str, more: list[str], tmp_path: Path, worker_program: Path) -> None:
    crew = Crew(RESIDENT if kind == "resident" else [worker_program], tmp_path)
    crew.start(*more)
    try:
        status, text = crew.ended()
        assert (status, more[0] in text) == (2, True)
    finally:
        crew.__exit__(None, None, None)


def test_tasks_run_one_at_a_time_in_their_order(either: Crew) -> None:
    for task in (5, 3, 9, 1):
        either.run(task, **either.quick())
    dones = [either.done() for _ in range(4)]
    assert [done.task for done in dones] == [5, 3, 9, 1]
    assert all(a.end_ns <= b.start_ns for a, b in pairwise(dones))


def test_a_lost_connection_stops_nothing(either: Crew) -> None:
    either.run(1, **either.quick())
    either.run(2, attempt=4, **either.gated())
    for task in (3, 4):
        either.run(task, **either.quick())
    either.wait_until_it_runs()
    either.close()  # as the crew's death does: what was said to it is gone
    either.open_the_gate()
    either.listen()
    held = either.accept()[4]
    assert held == [[1, 1], [2, 4], [3, 1], [4, 1]]
    either.welcome()
    dones = [either.done(take=False) for _ in range(4)]
    assert [(done.task, done.attempt, done.status) for done in dones] == [
        (1, 1, 0),
        (2, 4, 0),
        (3, 1, 0),
        (4, 1, 0),
    ]
    either.send(Kind.TAKEN, 3)
    either.welcome_again()
    assert either.hello[4] == [[4, 1]]  # the rest is known to be safe
    assert either.done().task == 4
    assert either.do(5, **either.quick()).status == 0


def test_a_crew_that_never_answers_is_asked_again_and_again(either: Crew) -> None:
    for _ in range(3):
        either.drop()
        assert either.accept()[4] == []
    either.welcome()
    assert either.do(**either.quick()).status == 0


def test_a_worker_may_be_there_before_its_crew(tmp_path: Path, worker_program: Path) -> None:
    crew = Crew([worker_program], tmp_path)
    crew.start()
    try:
        until(lambda: Path(f"/proc/{crew.pid}/fd/3").exists(), "it has started")
        crew.listen()
        crew.accept()
        crew.welcome()
        assert crew.do(args=["true"]).status == 0
    finally:
        crew.__exit__(None, None, None)


@pytest.mark.parametrize("kind", ["process", "resident"])
def test_a_long_socket_path(kind: str, tmp_path: Path, worker_program: Path) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    with Crew(RESIDENT if kind == "resident" else [worker_program], folder):
        pass  # it has connected


def test_it_keeps_so_many_dones_and_starts_no_more(either: Crew) -> None:
    assert either.peer is not None
    packed = msgpack.packb(either.quick())
    total = wire.MAX_UNTAKEN + 50
    either.peer.sendall(b"".join(wire.encode(Kind.RUN, task, 1, packed, "u", None) for task in range(total)))
    for task in range(wire.MAX_UNTAKEN):
        assert either.done(take=False).task == task
    either.peer.settimeout(0.3)
    with pytest.raises(TimeoutError):
        either.receive()
    either.peer.settimeout(30)
    either.send(Kind.TAKEN, 50)
    assert [either.done(take=False).task for _ in range(50)] == list(range(wire.MAX_UNTAKEN, total))


def test_more_than_it_takes_is_against_the_rules(either: Crew) -> None:
    assert either.peer is not None
    either.send(Kind.PAUSE)
    packed = msgpack.packb(either.quick())
    run = wire.encode(Kind.RUN, 1, 1, packed, "u", None)
    either.peer.sendall(run * wire.MAX_QUEUED)
    either.send(Kind.CANCEL, 1, 1, 0)
    assert either.done().message == wire.USER_CANCELLATION
    either.peer.sendall(run + run)
    assert either.ended()[0] == wire.EXIT_MALFORMED


def test_pause_and_resume(either: Crew) -> None:
    either.run(1, **either.gated())
    either.wait_until_it_runs()
    either.run(2, **either.quick())
    either.send(Kind.PAUSE)
    either.open_the_gate()
    assert either.done().task == 1  # what runs is finished
    assert either.peer is not None
    either.peer.settimeout(0.3)
    with pytest.raises(TimeoutError):
        either.receive()
    either.peer.settimeout(30)
    either.send(Kind.RESUME)
    assert either.done().task == 2


@pytest.mark.parametrize("by", ["message", "signal"])
def test_a_graceful_stop_finishes_what_runs(either: Crew, by: str) -> None:
    either.run(1, **either.gated())
    either.wait_until_it_runs()
    either.run(2, **either.quick())
    if by == "message":
        either.send(Kind.STOP, True)
    else:
        either.run(3, **either.quick())
        assert either.process is not None
        either.process.send_signal(signal.SIGTERM)
    either.open_the_gate()
    done = either.done()
    assert (done.task, done.status) == (1, 0)
    with pytest.raises((ConnectionError, socket.timeout)):
        either.done()
    assert either.ended() == (0, "")


def test_an_idle_worker_stops_at_once(either: Crew) -> None:
    started = time.monotonic()
    either.send(Kind.STOP, False)
    assert either.ended() == (0, "")
    assert time.monotonic() - started < 2  # not after waiting for a crew that has all


def test_cut_off_again_and_again_each_task_is_done_once(either: Crew) -> None:
    """Whatever was on its way in either direction: what comes twice is the same DONE, and nothing is missing."""
    chance = random.Random(6)
    todo = set(range(300))
    dones: dict[int, int] = {}  # task: start_ns, by which two runs would differ
    held: set[int] = set()
    for _ in range(2000):
        for task in sorted(todo - held - set(dones))[: chance.randrange(12)]:
            either.run(task, **either.quick())
            held.add(task)
        for _ in range(min(chance.randrange(8), len(held - set(dones)))):
            done = either.done(take=chance.random() < 0.8)
            assert (done.status, dones.setdefault(done.task, done.start_ns)) == (0, done.start_ns)
        if len(dones) == len(todo):
            break
        if chance.random() < 0.2:
            either.drop()
            either.accept()
            held = {task for task, _ in either.hello[4]}
            either.welcome()
    assert set(dones) == todo
