"""Requests that wait: deadlines, limits, idempotency keys; always one answer."""

from __future__ import annotations

from typing import Any

import pytest

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.event import ADMINISTRATOR
from tests.core.builders import a_model
from tests.core.recorder import a_daemon


def test_a_deadline_answers_expired_and_what_was_started_goes_on() -> None:
    world = a_daemon()
    client = world.client()
    load = client.ask("load-model", model="echo", within_s=2)
    world.advance(2)
    assert load.answers[0][0] == "expired" and load.code == "expired"
    world.settle()
    assert world.unit("echo").ready


def test_an_answer_in_time_cancels_the_deadline() -> None:
    world = a_daemon()
    client = world.client()
    load = client.ask("load-model", model="echo", within_s=2)
    world.settle()
    assert load.ok
    world.advance(10)


@pytest.mark.parametrize("verb", ["load-model", "unload-model", "wait", "lease", "logs"])
def test_nothing_is_kept_of_a_request_that_expired(verb: str) -> None:
    world = a_daemon()
    client = world.client()
    client.ask("load-model", model="echo")
    world.settle()
    if verb in ("load-model", "lease"):
        client.ask("unload-model", model="echo")
        world.settle()
    bodies: dict[str, dict[str, Any]] = {
        "load-model": {"model": "echo", "starting_after_ms": 5_000},
        "unload-model": {"model": "echo"},
        "wait": {"target": "echo", "condition": "failed"},
        "lease": {"model": "echo", "load": True},
        "logs": {"unit": "echo"},
    }
    ticket = client.ask(verb, within_s=1, **bodies[verb])
    world.advance(1)
    assert ticket.code == "expired"
    assert not world.state.sessions.calls and not world.state.sessions.listeners
    assert not world.state.loading.waiting() and not world.state.conditions.waiting()
    assert not world.state.lease_waiters and not [key for key in world.timers if key[0] == "starting"]
    world.settle()
    world.drain()


def test_the_limit_of_a_session_is_busy_and_changes_nothing() -> None:
    world = a_daemon([a_model("a"), a_model("b")], limits={"max_session_requests": 2})
    client, other = world.client(), world.client()
    client.ask("wait", target="a")
    client.ask("wait", target="a")
    refused = client.ask("load-model", model="b")
    assert refused.answers[0][0] == "busy" and refused.code == "busy"
    assert world.unit("b").state == "STOPPED" and not world.unit("b").incarnation
    assert client.ask("status").ok
    assert other.ask("wait", target="a").waits


def test_the_limit_counts_requests_that_leave_the_session_to_the_daemon() -> None:
    world = a_daemon(limits={"max_session_requests": 1})
    client = world.client()
    client.session = 0
    client.ask("wait", target="echo")
    assert client.ask("wait", target="echo").code == "busy"


@pytest.mark.parametrize("verb", ["unload-model", "load-model", "lease"])
def test_the_limit_of_the_daemon_is_busy_and_changes_nothing(verb: str) -> None:
    world = a_daemon([a_model(), a_model("up")], limits={"max_requests": 1})
    client, other = world.client(), world.client()
    client.ask("load-model", model="up")
    world.settle()
    client.ask("wait", target="echo")
    model = "up" if verb == "unload-model" else "echo"
    before = world.unit("up").state
    body: dict[str, Any] = {"load": True} if verb == "lease" else {}
    assert other.ask(verb, model=model, **body).code == "busy"
    assert world.unit("up").state is before and not world.unit("echo").incarnation


def test_an_answer_makes_room_for_the_next_request() -> None:
    world = a_daemon(limits={"max_session_requests": 1})
    client = world.client()
    for _ in range(3):
        wait = client.ask("wait", target="echo", within_s=1)
        world.advance(1)
        assert wait.code == "expired"


def test_the_same_key_gets_the_same_answer_and_does_nothing_twice() -> None:
    world = a_daemon()
    client, other = world.client(), world.client()
    first = client.ask("load-model", key="k", model="echo")
    world.settle()
    assert client.ask("load-model", key="k", model="echo").answers == first.answers
    client.ask("unload-model", model="echo")
    world.settle()
    again = other.ask("load-model", key="k", model="echo")
    assert again.answers == first.answers and world.unit("echo").state == "STOPPED"


def test_the_same_key_in_flight_waits_for_the_same_answer() -> None:
    world = a_daemon()
    client, other = world.client(), world.client()
    first = client.ask("load-model", key="k", model="echo")
    second = other.ask("load-model", key="k", model="echo")
    assert first.waits and second.waits
    world.settle()
    assert first.ok == second.ok


def test_a_key_of_another_request_is_a_conflict() -> None:
    world = a_daemon([a_model("a"), a_model("b")])
    client = world.client()
    client.ask("load-model", key="k", model="a")
    assert client.ask("load-model", key="k", model="b").code == "conflict"
    assert client.ask("unload-model", key="k", model="a").code == "conflict"
    world.settle()
    assert client.ask("unload-model", key="k", model="a").code == "conflict"
    assert world.unit("b").state == "STOPPED" and not world.unit("b").incarnation


def test_a_refusal_is_not_remembered() -> None:
    world = a_daemon()
    client = world.client()
    assert client.ask("unload-model", key="k", model="echo").code == "not-loaded"
    client.ask("load-model", model="echo")
    world.settle()
    unload = client.ask("unload-model", key="k", model="echo")
    world.settle()
    assert unload.ok["units"] == ["echo"]


def test_a_key_is_remembered_for_its_time_and_then_forgotten() -> None:
    world = a_daemon(timing={"idempotency_keep_s": 60.0, "session_timeout_s": 1000.0})
    client = world.client()
    first = client.ask("load-model", key="k", model="echo")
    world.settle()
    client.ask("unload-model", model="echo")
    world.settle()
    world.advance(59)
    assert client.ask("load-model", key="k", model="echo").answers == first.answers
    world.advance(1)
    again = client.ask("load-model", key="k", model="echo")
    assert again.waits
    world.settle()
    assert again.ok["already"] is False


def test_a_key_of_a_slow_request_is_forgotten_after_its_answer() -> None:
    world = a_daemon(
        [a_model(ready_timeout_s=500.0)], timing={"idempotency_keep_s": 60.0, "session_timeout_s": 1000.0}
    )
    client = world.client()
    load = client.ask("load-model", key="k", model="echo", within_s=None)
    world.start("echo")
    world.advance(130)
    follower = client.ask("load-model", key="k", model="echo", within_s=None)
    world.ready("echo")
    assert load.ok == follower.ok
    world.advance(60)
    assert not world.state.sessions.remembered


def test_a_follower_has_its_own_deadline() -> None:
    world = a_daemon()
    client = world.client()
    first = client.ask("load-model", key="k", model="echo", within_s=5)
    hasty = client.ask("load-model", key="k", model="echo", within_s=1)
    patient = client.ask("load-model", key="k", model="echo", within_s=10)
    world.advance(1)
    assert hasty.code == "expired" and first.waits and patient.waits
    world.advance(4)
    assert first.code == "expired" and patient.waits
    world.settle()
    assert patient.ok


def test_a_follower_outlives_the_session_of_the_first() -> None:
    """A client that lost its connection repeats itself in a new session while the old one times out."""
    world = a_daemon()
    old = world.client()
    first = old.ask("load-model", key="k", model="echo", within_s=100)
    world.start("echo")
    world.advance(10)
    new = world.client()
    second = new.ask("load-model", key="k", model="echo", within_s=100)
    world.advance(5)
    assert first.code == "session-gone" and second.waits
    world.ready("echo")
    assert second.ok


def test_followers_count_as_waiting_requests() -> None:
    world = a_daemon(limits={"max_session_requests": 2})
    client = world.client()
    tickets = [client.ask("load-model", key="k", model="echo") for _ in range(3)]
    assert [ticket.waits for ticket in tickets] == [True, True, False]
    assert tickets[2].code == "busy"
    world.settle()
    assert tickets[0].ok == tickets[1].ok


def test_beyond_the_limit_the_oldest_answer_is_forgotten() -> None:
    world = a_daemon([a_model("slow"), a_model("old"), a_model("new")], limits={"max_requests": 3})
    client = world.client()
    slow = client.ask("load-model", key="s", model="slow", within_s=100)
    world.drain()
    for key, model in (("o", "old"), ("n", "new")):
        client.ask("load-model", key=key, model=model)
        world.up(model)
    assert client.ask("models", key="m").ok, "room is made"
    assert set(world.state.sessions.remembered) == {(0, ADMINISTRATOR, key) for key in "snm"}
    assert {key for key in world.timers if key[0] == "key"} == {
        ("key", (0, ADMINISTRATOR, key)) for key in "snm"
    }
    client.ask("unload-model", model="new")
    world.obey(world.expect(fx.SignalUnit, unit="new"))
    assert client.ask("load-model", key="n", model="new").ok["already"] is False, "it is still remembered"
    world.settle()
    assert slow.ok


def test_keys_in_flight_are_never_forgotten() -> None:
    world = a_daemon([a_model("a"), a_model("b")], limits={"max_requests": 2})
    client = world.client()
    loads = [client.ask("load-model", key=name, model=name, within_s=100) for name in "ab"]
    assert client.ask("models", key="c").code == "busy"
    assert client.ask("models").ok
    world.settle()
    assert all(load.ok for load in loads)
    assert client.ask("models", key="c").ok


def test_a_key_of_a_lease_belongs_to_its_session() -> None:
    world = a_daemon()
    client, other = world.client(), world.client()
    client.ask("load-model", model="echo")
    world.settle()
    first = client.ask("lease", key="k", model="echo").ok
    assert client.ask("lease", key="k", model="echo").ok == first
    assert other.ask("lease", key="k", model="echo").ok["lease"] != first["lease"]
    assert len(world.state.leases.by_id) == 2


def test_a_log_that_was_read_too_late_is_nobodys() -> None:
    world = a_daemon()
    client = world.client()
    client.ask("load-model", model="echo")
    world.settle()
    logs = client.ask("logs", unit="echo", within_s=1)
    read = world.expect(fx.ReadLog, unit="echo")
    world.advance(1)
    assert logs.code == "expired"
    world.feed(ev.LogRead(read.route, {"unit": "echo"}))
