"""Each alert fires in the state that it is for, and not before."""

from __future__ import annotations

import pytest

from mgmt.core.suites.states import Task
from mgmt.store.queue.connection import Connection
from mgmt_cli.metrics import exposition
from mgmt_cli.monitoring import ALERTS, Alert, expressed
from tests.core.suited import Hand, Suited
from tests.promql import Scrape, holds, scrape


@pytest.fixture
def there(queue: Connection) -> Suited:
    """This machine, and an agent whose tag it has not."""
    return Suited(queue, {"n1": ("x",)})


def taken(there: Suited) -> Scrape:
    return scrape(exposition(there.ask("metrics").ok["metrics"]))


def hand_of(there: Suited, task: int) -> Hand:
    (hand,) = [hand for hand in there.hands if any(one[0] == task for one in hand.tasks)]
    return hand


def kill_workers(there: Suited) -> None:
    """Whoever runs a task dies of it, until all are given up."""
    for _ in range(40):
        for hand in [hand for hand in there.hands if hand.tasks]:
            there.die(hand, signal=11)
        there.pump()
        there.advance(90.0)
        if set(there.states().values()) == {Task.FAILED}:
            return
    raise AssertionError(f"never given up: {there.states()}")


# ---- one for each ----------------------------------------------------------------------------------------


def suite_waiting(there: Suited) -> None:
    there.submit(there.suite(tags=["nobody"]))


def agent_offline(there: Suited) -> None:
    there.kill_agent("n1")
    there.advance(30.0)


def refusing_and_hooks(there: Suited) -> None:
    """The hook fails at the agent: what it counted has come here."""
    world = there.agent("n1")
    world.oneshot_status = 1
    there.submit(there.suite(tags=["x"], hooks={"provision": {"args": ["false"]}}))
    there.advance(3.0)


def lease_expired(there: Suited) -> None:
    """Nobody renews it while nothing can be written."""
    there.submit(there.suite())
    there.disk_full = True
    there.advance(40.0)
    there.disk_full = False
    there.advance(10.0)


def queue_degraded(there: Suited) -> None:
    (task,) = there.submit(there.suite())
    there.disk_full = True
    there.work(hand_of(there, task))
    there.pump()


def dead_letters(there: Suited) -> None:
    there.submit(there.suite())
    kill_workers(there)


def workers_dying(there: Suited) -> None:
    there.submit(there.suite(), 6)
    kill_workers(there)


def fetch_slow(there: Suited) -> None:
    for _ in range(20):
        there.daemon.state.board.metrics.fetched(0.4)


def figures_stale(there: Suited) -> None:
    """What is read is what was taken before; see `test_each_fires` for the time."""


CASES = {
    "MgmtFiguresStale": figures_stale,
    "MgmtQueueDegraded": queue_degraded,
    "MgmtSuiteWaiting": suite_waiting,
    "MgmtAgentOffline": agent_offline,
    "MgmtAgentRefusing": refusing_and_hooks,
    "MgmtHookFailing": refusing_and_hooks,
    "MgmtLeaseExpired": lease_expired,
    "MgmtWorkersDying": workers_dying,
    "MgmtDeadLetters": dead_letters,
    "MgmtFetchSlow": fetch_slow,
}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_each_fires(there: Suited, alert: Alert) -> None:
    before = taken(there)
    expression = expressed(alert.expression)
    now_s = before["mgmt_taken_timestamp_seconds", frozenset()]
    assert not holds(expression, before, before, now_s), "nothing is wrong yet"
    CASES[alert.name](there)
    after = taken(there)
    late_s = 200.0 if alert.name == "MgmtFiguresStale" else 0.0
    assert holds(expression, before, after, now_s + late_s)


def test_a_background_process_that_ends_has_failed(there: Suited) -> None:
    suite = there.suite(tags=["x"], hooks={"background": {"args": ["sleep", "9"]}})
    there.submit(suite)
    world = there.agent("n1")
    (process,) = (one for one in world.processes.values() if one.spawn.unit.endswith(".background"))
    world.leader_ends(process, 0, None)
    world.tree_ends(process)
    there.pump()
    there.advance(3.0)
    assert taken(there)["mgmt_env_hook_failures_total", frozenset({("hook", "background")})] == 1
    there.finish()
    there.advance(3.0)
    found = taken(there)
    assert found["mgmt_env_hook_failures_total", frozenset({("hook", "background")})] == 1, (
        "an orderly end is none"
    )


def test_a_node_that_is_given_up_is_not_missing(there: Suited) -> None:
    agent_offline(there)
    missing = "mgmt_agents_missing", frozenset[tuple[str, str]]()
    assert taken(there)[missing] == 1
    assert there.ask("node-cordon", node="n1").ok
    found = taken(there)
    assert (found[missing], found["mgmt_agents", frozenset({("phase", "offline")})]) == (0, 1)


def test_figures_that_are_not_there_are_stale() -> None:
    (alert,) = (one for one in ALERTS if one.name == "MgmtFiguresStale")
    assert holds(expressed(alert.expression), {}, {}, 1e9)


def test_there_is_nothing_to_fire_in_a_quiet_hour(there: Suited) -> None:
    before = taken(there)
    suite = there.suite(tags=["x"], hooks={"cleanup": {"args": ["true"]}})
    there.submit(suite, 20)
    there.finish()
    there.advance(60.0)
    after = taken(there)
    now_s = after["mgmt_taken_timestamp_seconds", frozenset()]
    assert [one.name for one in ALERTS if holds(expressed(one.expression), before, after, now_s)] == []


# ---- what other nodes count ------------------------------------------------------------------------------


def handed_over(there: Suited) -> float:
    found = taken(there)
    return sum(count for (name, _), count in found.items() if name == "mgmt_task_prefetch_total")


def test_what_agents_count_is_added_up(there: Suited) -> None:
    there.submit(there.suite(tags=["x"]), 5)
    there.finish()
    there.advance(3.0)
    assert handed_over(there) == 5
    there.kill_agent("n1")
    there.submit(there.suite(tags=["x"]), 3)
    there.advance(30.0)
    there.finish()
    there.advance(3.0)
    assert handed_over(there) == 8, "another run of the agent counts from 0, its daemon goes on"
    there.kill_daemon()
    there.advance(10.0)
    assert handed_over(there) == 0, "what was counted in its former life is not of this one"
    there.submit(there.suite(tags=["x"]), 2)
    there.finish()
    there.advance(3.0)
    assert handed_over(there) == 2


def test_independent_tasks_and_workers_are_figures_of_their_own(there: Suited) -> None:
    assert there.ask("task-submit", tasks=[{"args": ["true"]}] * 3).ok
    found = taken(there)
    assert found["mgmt_queue_depth", frozenset({("of", "independent")})] == 3
    assert found["mgmt_queue_depth", frozenset({("of", "suites")})] == 0
    assert found["mgmt_queue_independent_tasks", frozenset({("state", "ready")})] == 3
    assert sum(count for (name, _), count in found.items() if name == "mgmt_agents") == 2
    assert sum(count for (name, _), count in found.items() if name == "mgmt_workers") == 0
    there.join("w1", (), worker={"task_prefetch_count": 2})
    there.pump()
    assert taken(there)["mgmt_workers", frozenset({("phase", "executing")})] == 1
    while any(hand.tasks for hand in there.hands):
        there.work(next(hand for hand in there.hands if hand.tasks))
        there.pump()
    there.advance(3.0)
    found = taken(there)
    assert found["mgmt_queue_depth", frozenset({("of", "independent")})] == 0
    assert handed_over(there) == 3
    assert sum(count for (name, _), count in found.items() if name == "mgmt_agents") == 2
