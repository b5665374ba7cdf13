"""Two replicas and one of them killed in the middle: every request gets exactly one answer."""

from __future__ import annotations

import os
import signal

import pytest

from mgmt.protocol import frames
from mgmt.protocol.frames import DataKind
from tests.system.clients import eventually
from tests.system.daemon import Daemon, Start, config, model, shipped

REQUESTS = 400
WORK_S = 0.004


def start_two(start: Start) -> Daemon:
    backend = shipped("callable", "time:sleep", restart={"delay_s": 0.2})
    daemon = start(config({"sleep": backend}, [model("m", "sleep", replicas=2)]))
    daemon.loaded("m")
    assert [unit["unit"] for unit in daemon.status()["units"]] == ["m.0", "m.1"]
    return daemon


# S11 S16
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV], ids=lambda number: number.name)
def test_each_request_through_the_relay_gets_one_answer(start: Start, number: signal.Signals) -> None:
    daemon = start_two(start)
    data = daemon.data("m")
    for id in range(REQUESTS):
        data.ask(id, frames.pack(WORK_S))
    answers: dict[int, int] = {}

    def take() -> None:
        tag, payload = data.answer()
        assert tag.id not in answers, "a second answer"
        assert tag.lease == data.lease
        answers[tag.id] = tag.kind
        if tag.kind == DataKind.RESULT:
            assert payload == [frames.pack(None)]
        else:
            body = frames.unpack(payload[0])
            assert (body["code"], body["retryable"]) == ("backend-lost", True)
            assert "m.1" in body["text"]

    for _ in range(REQUESTS // 4):
        take()
    os.kill(daemon.unit("m.1")["pid"], number)
    while len(answers) < REQUESTS:
        take()
    assert data.silent_for(0.1)
    assert sorted(answers) == list(range(REQUESTS))
    kinds = list(answers.values())
    assert set(kinds) == {DataKind.RESULT, DataKind.ERROR}
    # Half of what was left was the dead one's; the other's all have results.
    assert kinds.count(DataKind.ERROR) <= REQUESTS // 2
    assert daemon.unit("m.0")["restarts"] == 0

    daemon.reaches("m.1", "RUNNING")
    assert daemon.unit("m.1")["restarts"] == 1
    for id in range(REQUESTS, REQUESTS + 20):  # the lease outlived the replica
        data.ask(id, frames.pack(0.0))
    assert {data.answer()[0].kind for _ in range(20)} == {DataKind.RESULT}


def test_with_no_replica_left_the_answer_is_not_ready(start: Start) -> None:
    backend = shipped("echo", restart={"delay_s": 60.0})
    daemon = start(config({"echo": backend}))
    pid = daemon.loaded("echo")["pid"]
    data = daemon.data("echo")
    data.ask(1, b"x")
    data.answer()
    os.kill(pid, signal.SIGKILL)
    daemon.reaches("echo", "BACKOFF")
    data.ask(2, b"x")
    error = data.error(2)
    assert (error["code"], error["retryable"]) == ("not-ready", True)
    assert daemon.legacy("unload-model", model_name="echo")["success"]
    data.ask(3, b"x")
    assert data.error(3)["code"] == "lease-gone"


def test_direct_clients_of_both_replicas_hear_of_their_own_only(start: Start) -> None:
    daemon = start_two(start)
    holders = [daemon.native(), daemon.native()]
    leases = [holder.ok("lease", model="m", mode="direct") for holder in holders]
    assert {lease["unit"] for lease in leases} == {"m.0", "m.1"}
    assert leases[0]["endpoint"] != leases[1]["endpoint"]
    victim = leases[0]["unit"]
    os.kill(daemon.unit(victim)["pid"], signal.SIGKILL)
    eventually(lambda: holders[0].socket.poll(0), what="the notice")
    holders[0].take()
    (notice,) = holders[0].notices
    assert (notice.name, notice.body["unit"]) == ("lease-closed", victim)
    assert holders[1].silent_for(0.1)
