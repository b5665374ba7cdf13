"""Events: numbers without gaps, history, snapshot first, epoch."""

from __future__ import annotations

from tests.core.builders import EPOCH, a_model, a_restart
from tests.core.recorder import a_daemon


def test_every_step_of_a_unit_is_one_event() -> None:
    world = a_daemon([a_model(restart=a_restart("on-failure"))])
    client = world.client()
    client.ask("subscribe")
    client.ask("load-model", model="echo")
    world.settle()
    world.exit("echo", signal=9)
    world.advance(1)
    world.settle()
    client.ask("unload-model", model="echo")
    world.settle()
    events = client.heard()
    steps = [(event["was"], event["state"], event["incarnation"]) for event in events]
    assert steps == [
        ("STOPPED", "STARTING", 1),
        ("STARTING", "RUNNING", 1),
        ("RUNNING", "BACKOFF", 1),
        ("BACKOFF", "STARTING", 2),
        ("STARTING", "RUNNING", 2),
        ("RUNNING", "STOPPING", 2),
        ("STOPPING", "STOPPED", 2),
    ]
    assert [event["seq"] for event in events] == list(range(1, 8))
    assert events[2]["exit"]["signal"] == 9 and events[2]["exit"]["code"] is None


def test_a_stop_and_start_in_one_step_are_two_events() -> None:
    world = a_daemon()
    client = world.client()
    client.ask("load-model", model="echo")
    world.settle()
    client.ask("unload-model", model="echo")
    client.ask("load-model", model="echo")
    client.ask("subscribe")
    world.settle()
    steps = [(event["was"], event["state"], event["incarnation"]) for event in client.heard()]
    assert steps == [("STOPPING", "STOPPED", 1), ("STOPPED", "STARTING", 2), ("STARTING", "RUNNING", 2)]


def test_a_snapshot_then_what_follows() -> None:
    world = a_daemon()
    client = world.client()
    client.ask("load-model", model="echo", wait=False)
    snapshot = client.ask("subscribe").ok
    assert (snapshot["seq"], snapshot["epoch"], snapshot["events"], snapshot["gap"]) == (1, EPOCH, [], False)
    assert [unit["state"] for unit in snapshot["units"]] == ["STARTING"]
    world.settle()
    assert [event["seq"] for event in client.heard()] == [2]


def test_past_events_are_replayed_from_a_number() -> None:
    world = a_daemon()
    client = world.client()
    client.ask("load-model", model="echo")
    world.settle()
    snapshot = client.ask("subscribe", since=1, epoch=EPOCH).ok
    assert [event["seq"] for event in snapshot["events"]] == [2] and not snapshot["gap"]
    assert snapshot["events"][0] == world.events[1]
    assert client.ask("subscribe", since=0).ok["events"] == world.events
    assert client.ask("subscribe", since=2).ok["events"] == []


def test_a_number_that_is_no_longer_kept_or_not_yet_given_is_a_gap() -> None:
    world = a_daemon(limits={"max_event_history": 2})
    client = world.client()
    for _ in range(2):
        client.ask("load-model", model="echo")
        client.ask("unload-model", model="echo")
        world.settle()
    last = world.state.journal.seq
    assert last > 4
    old = client.ask("subscribe", since=1).ok
    assert old["gap"] and [event["seq"] for event in old["events"]] == [last - 1, last]
    edge = client.ask("subscribe", since=last - 2).ok
    assert not edge["gap"] and len(edge["events"]) == 2
    assert client.ask("subscribe", since=last + 1).ok["gap"]


def test_numbers_of_an_earlier_epoch_are_the_same_numbers() -> None:
    world = a_daemon()
    client = world.client()
    client.ask("load-model", model="echo")
    world.settle()
    snapshot = client.ask("subscribe", since=1, epoch=EPOCH - 1).ok
    assert not snapshot["gap"] and [event["seq"] for event in snapshot["events"]] == [2]
    assert client.ask("subscribe", since=3, epoch=EPOCH - 1).ok["gap"], "it was never given here"


def test_before_the_first_event_there_is_no_gap() -> None:
    client = a_daemon().client()
    assert client.ask("subscribe", since=0).ok["gap"] is False
    assert client.ask("subscribe", since=1).ok["gap"] is True


def test_follow_false_is_an_answer_and_no_subscription_and_ends_one() -> None:
    world = a_daemon()
    client = world.client()
    client.ask("subscribe", follow=False)
    client.ask("load-model", model="echo")
    assert not client.heard()
    client.ask("subscribe")
    client.ask("subscribe", follow=False)
    world.settle()
    assert not client.heard()


def test_the_stop_of_the_daemon_is_an_event() -> None:
    world = a_daemon()
    client = world.client()
    client.ask("subscribe")
    client.ask("stop-service")
    (event,) = client.heard()
    assert (event["kind"], event["what"]) == ("daemon", "stopping")
