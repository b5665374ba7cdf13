"""What happens to a unit that ends by itself: policy, delays, window, limit; and news of former processes."""

from __future__ import annotations

from typing import Any

import pytest

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.supervision.restart import delay_of
from mgmt.settings import RestartSettings
from tests.core.builders import S, a_model, a_restart
from tests.core.recorder import World, a_daemon


def running(**backend: Any) -> World:
    world = a_daemon([a_model(**backend)], timing={"session_timeout_s": 86_400.0})
    world.client().ask("load-model", model="echo")
    world.settle()
    return world


@pytest.mark.parametrize(
    ("policy", "code", "signal", "state"),
    [
        ("no", 0, None, "EXITED"),
        ("no", 1, None, "EXITED"),
        ("no", None, 9, "EXITED"),
        ("on-failure", 0, None, "EXITED"),
        ("on-failure", 42, None, "EXITED"),  # listed as a success
        ("on-failure", 1, None, "BACKOFF"),
        ("on-failure", None, 15, "BACKOFF"),
        ("always", 0, None, "BACKOFF"),
        ("always", 42, None, "BACKOFF"),
        ("always", 1, None, "BACKOFF"),
        ("always", None, 9, "BACKOFF"),
    ],
)
def test_the_policy_decides_by_the_way_it_ended(
    policy: str, code: int | None, signal: int | None, state: str
) -> None:
    world = running(restart=a_restart(policy), success_exit_codes=[0, 42])
    world.exit("echo", code=code, signal=signal)
    unit = world.unit("echo")
    assert unit.state == state and unit.last_exit is not None
    assert (unit.last_exit.code, unit.last_exit.signal) == (code, signal)
    if state == "BACKOFF":
        world.advance(1)
        world.up("echo")
        assert unit.state == "RUNNING" and (unit.incarnation, unit.restarts) == (2, 1)
    else:
        world.advance(1000)


def test_a_unit_that_was_never_ready_is_not_retried_whatever_the_policy() -> None:
    world = a_daemon([a_model(restart=a_restart("always"))])
    world.client().ask("load-model", model="echo")
    world.start("echo")
    world.exit("echo", code=0)
    assert world.unit("echo").state == "FATAL" and "before it was ready" in world.unit("echo").reason


def test_delays_grow_to_their_maximum_and_the_limit_is_fatal() -> None:
    world = running(restart=a_restart(delay_s=1.0, factor=3.0, delay_max_s=10.0, limit=4, window_s=1000.0))
    for delay_s in (1, 3, 9, 10):
        world.exit("echo", code=1)
        unit = world.unit("echo")
        assert unit.state == "BACKOFF" and unit.retry_ns == world.now_ns + delay_s * S
        world.advance(delay_s - 0.001)
        assert unit.state == "BACKOFF"
        world.advance(0.001)
        world.up("echo")
    world.exit("echo", code=1)
    assert world.unit("echo").state == "FATAL" and "5 times" in world.unit("echo").reason
    world.advance(10_000)


def test_a_unit_that_ran_longer_than_the_window_starts_afresh() -> None:
    world = running(restart=a_restart(limit=1, window_s=100.0))
    for _ in range(4):
        world.exit("echo", code=1)
        assert world.unit("echo").state == "BACKOFF"
        assert world.unit("echo").retry_ns == world.now_ns + S
        world.advance(1)
        world.up("echo")
        world.advance(100)


def test_a_unit_that_fails_while_it_restarts_keeps_trying_until_the_limit() -> None:
    world = running(restart=a_restart(limit=2))
    world.exit("echo", code=1)
    for delay_s in (1, 2):
        world.advance(delay_s)
        world.start("echo")
        world.exit("echo", code=1)
    assert world.unit("echo").state == "FATAL"


def test_a_load_while_it_keeps_failing_is_answered_in_the_end() -> None:
    world = running(restart=a_restart(limit=1))
    world.exit("echo", code=1)
    load = world.client().ask("load-model", model="echo", within_s=None)
    world.start("echo")
    world.exit("echo", code=1)
    assert load.code == "start-failed" and world.unit("echo").state == "FATAL"


def test_a_load_forgets_the_failures_before_it() -> None:
    world = running(restart=a_restart(limit=1))
    world.exit("echo", code=1)
    world.advance(1)
    world.up("echo")
    world.exit("echo", code=1)
    assert world.unit("echo").state == "FATAL"
    world.client().ask("load-model", model="echo")
    world.settle()
    assert world.unit("echo").restarts == 0
    world.exit("echo", code=1)
    assert world.unit("echo").state == "BACKOFF" and world.unit("echo").retry_ns == world.now_ns + S


@pytest.mark.parametrize("nth", [1, 2, 5, 1000])
def test_jitter_lengthens_a_delay_by_at_most_its_share_and_differs_between_replicas(nth: int) -> None:
    policy = RestartSettings(delay_s=1.0, factor=2.0, delay_max_s=60.0, jitter=0.25)
    exact = delay_of(policy.model_copy(update={"jitter": 0.0}), nth, "m.0:1")
    assert exact == min(60, 2 ** min(nth - 1, 64)) * S
    delays = {delay_of(policy, nth, f"m.{n}:1") for n in range(64)}
    assert len(delays) == 64
    assert all(exact <= delay < exact * 1.25 for delay in delays)
    assert max(delays) - min(delays) > exact * 0.2, "spread over the share"
    assert delay_of(policy, nth, "m.0:1") == delay_of(policy, nth, "m.0:1")


def test_a_restart_keeps_the_endpoint_and_changes_the_token() -> None:
    world = running()
    first = world.process("echo").spawn
    world.exit("echo", code=1)
    assert world.removed == [first.endpoint]
    world.advance(1)
    second = world.up("echo").spawn
    assert second.endpoint == first.endpoint and second.env["MGMT_TOKEN"] != first.env["MGMT_TOKEN"]


def test_a_restart_waits_for_the_tree_to_be_empty() -> None:
    world = running()
    process = world.process("echo")
    world.leader_ends(process, code=1, left=3)
    world.expect(fx.KillUnit, unit="echo", incarnation=1)
    world.advance(60)
    assert world.unit("echo").state == "BACKOFF" and not world.deeds
    world.tree_ends(process)
    world.up("echo")
    assert world.unit("echo").restarts == 1


@pytest.mark.parametrize("policy", ["no", "on-failure"])
def test_what_a_leader_leaves_behind_is_killed(policy: str) -> None:
    world = running(restart=a_restart(policy))
    process = world.process("echo")
    world.leader_ends(process, code=0, left=1)
    kill = world.expect(fx.KillUnit, unit="echo")
    assert world.unit("echo").state == "EXITED" and world.unit("echo").has_process
    world.obey(kill)
    assert not world.unit("echo").has_process


def test_a_kill_by_the_supervisor_is_a_failure_even_with_a_good_exit_code() -> None:
    world = running(ready_timeout_s=1.0)
    world.exit("echo", code=1)
    world.advance(1)
    world.start("echo")
    world.advance(1)
    world.expect(fx.KillUnit, unit="echo")
    world.exit("echo", code=0)
    assert world.unit("echo").state == "BACKOFF" and "not ready within 1 s" in world.unit("echo").reason


def test_late_news_of_a_former_process_is_ignored() -> None:
    world = running()
    former = world.proof(world.process("echo"))
    world.exit("echo", code=1)
    world.advance(1)
    process = world.start("echo")
    for event in (
        ev.Started("echo", 1, 5, 5),
        ev.SpawnFailed("echo", 1, "late"),
        ev.Exited("echo", 1, 0, None, 0, "late"),
        ev.Emptied("echo", 1),
        ev.HandshakeAnswered("echo", 1, ("lm",)),
        ev.Emptied("nobody", 1),
        ev.HandshakeAnswered("nobody", 1, ()),
    ):
        assert world.feed(event) == []
    assert world.client("late").ask("backend-ready", **former).code == "denied"
    unit = world.unit("echo")
    assert unit.state == "STARTING" and unit.pid == process.pid
    world.ready("echo")


def test_an_exit_is_heard_once() -> None:
    world = running()
    process = world.process("echo")
    world.leader_ends(process, code=1, left=1)
    world.expect(fx.KillUnit, unit="echo")
    assert world.feed(ev.Exited("echo", 1, 0, None, 0, "again")) == []
    world.tree_ends(process)


def test_timers_of_units_that_are_elsewhere_by_now_do_nothing() -> None:
    world = running()
    for key in (("retry", "echo"), ("ready", "echo"), ("grace", "echo"), ("retry", "nobody")):
        assert world.feed(ev.TimerFired(key)) == []


def test_usage_is_kept_while_there_is_a_process() -> None:
    world = running()
    world.feed(ev.Sampled({"echo": (12.5, 1000), "nobody": (1.0, 1)}))
    (status,) = world.client().ask("status").ok["units"]
    assert (status["cpu_percent"], status["memory_bytes"]) == (12.5, 1000)
    world.exit("echo", code=1)
    world.feed(ev.Sampled({"echo": (1.0, 1)}))
    (status,) = world.client().ask("status").ok["units"]
    assert (status["cpu_percent"], status["memory_bytes"], status["pid"]) == (None, None, None)
    assert status["next_start_s"] == 1.0
