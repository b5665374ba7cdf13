"""Independent tasks: who does them, who does not, in which order, and what becomes of them when somebody dies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mgmt.core.nodes import NodeState
from mgmt.core.suites.pool import Phase
from mgmt.core.suites.states import Task
from mgmt.core.supervision import LOCAL
from mgmt.protocol import tokens
from mgmt.store.queue.connection import Connection
from tests.core.suited import Hand, Suited


@pytest.fixture
def there(queue: Connection) -> Iterator[Suited]:
    there = Suited(queue)
    yield there
    there.check_queue()


def submit(there: Suited, count: int = 1, **body: Any) -> list[int]:
    task = body.pop("task", {"args": ["true"]})
    return list(there.ask("task-submit", tasks=[task] * count, **body).ok["tasks"])


def join(
    there: Suited, name: str, tags: tuple[str, ...] = (), groups: tuple[str, ...] = (), **worker: Any
) -> None:
    there.join(name, tags, groups=groups, worker={"task_prefetch_count": 2, **worker})
    there.pump()


def work_all(there: Suited) -> None:
    for _ in range(1000):
        busy = [hand for hand in there.hands if hand.tasks]
        if not busy:
            return
        there.work(busy[0])
        there.pump()
    raise AssertionError("it never ends")


def the_hand(there: Suited, name: str) -> Hand:
    (hand,) = there.hands_at(name)
    return hand


def row(there: Suited, name: str) -> dict[str, Any]:
    (found,) = there.ask("workers", workers=[name]).ok["workers"]
    return dict(found)


def is_ending(there: Suited, name: str) -> bool:
    return there.links[name].world.state.stopping


def test_an_independent_worker_does_what_was_submitted_before_and_after_it_came(there: Suited) -> None:
    before = submit(there, 3)
    assert set(there.states().values()) == {Task.READY}
    assert "there is none" in there.ask("task-show", task=before[0]).ok["lines"][0]
    join(there, "w1")
    work_all(there)
    after = submit(there, 3)
    assert the_hand(there, "w1").tasks, "it is woken, not asked to look now and then"
    work_all(there)
    assert there.states() == dict.fromkeys([*before, *after], Task.FINISHED)
    told = row(there, "w1")
    assert told["independent"] and told["state"] == "idle" and told["done"] == 6
    assert there.ask("tasks", tasks=before).ok["tasks"][0]["node"] == "w1"


def test_suites_and_independent_tasks_never_cross(queue: Connection) -> None:
    """A mixed pool: this machine, a node and an independent worker, and both kinds of tasks."""
    there = Suited(queue, {"n1": ()})
    join(there, "w1", worker_count=2)
    suite = there.suite(worker={"worker_count": 2})
    managed = there.submit(suite, 20)
    independent = submit(there, 20)
    added = there.ask("suite-agents", suite=str(suite), add=["w1"]).ok
    assert added["rejected"] == {"w1": "it is an independent worker, and those take no suites"}
    seen: dict[str, set[int]] = {}
    for _ in range(200):
        for name in (LOCAL, "n1", "w1"):
            for hand in there.hands_at(name):
                seen.setdefault(name, set()).update(task for task, _ in hand.tasks)
        busy = [hand for hand in there.hands if hand.tasks]
        if not busy:
            break
        there.work(busy[0])
        there.pump()
    assert seen["w1"] == set(independent)
    assert seen[LOCAL] | seen.get("n1", set()) == set(managed)
    assert set(there.states().values()) == {Task.FINISHED}


def test_a_worker_alone_never_sees_a_suite(there: Suited) -> None:
    there.ask("suite-create", name="mine", tags=["gpu"])
    join(there, "w1", ("gpu",))
    (task,) = there.submit(there.board_number("mine"))
    assert there.states()[task] == Task.READY and not the_hand(there, "w1").tasks
    why = there.ask("task-show", task=task).ok["lines"]
    assert not any("w1" in line for line in why), "it is no candidate"


def test_tags_group_and_kind_decide(there: Suited) -> None:
    there.ask("group-create", group="vision")
    there.ask("group-create", group="sound")
    join(there, "w1", ("gpu",), groups=("vision",))
    plain, tagged = submit(there, group="vision"), submit(there, group="vision", tags=["gpu"])
    wrong_tag, wrong_group = submit(there, group="vision", tags=["fpga"]), submit(there, group="sound")
    wrong_kind = submit(there, group="vision", task={"function": "json:dumps"})
    work_all(there)
    states = there.states()
    assert states[plain[0]] == states[tagged[0]] == Task.FINISHED
    for task, why in (
        (wrong_tag, "fpga"),
        (wrong_group, "may not send work"),
        (wrong_kind, "needs resident"),
    ):
        assert states[task[0]] == Task.READY
        (line,) = there.ask("task-show", task=task[0]).ok["lines"]
        assert line.startswith("worker w1:") and why in line
    # Each of them changes, and the parked worker hears of it.
    assert there.ask("group-grant", group="sound", worker="w1").ok
    there.pump()
    assert there.ask("worker-tags", worker="w1", add=["fpga"]).ok
    there.pump()
    join(there, "r1", groups=("vision",), kind="resident")
    work_all(there)
    assert set(there.states().values()) == {Task.FINISHED}
    assert there.ask("tasks", tasks=wrong_kind).ok["tasks"][0]["node"] == "r1"


def test_what_a_group_may_no_longer_send_stays(there: Suited) -> None:
    there.ask("group-create", group="vision")
    join(there, "w1", groups=("vision",))
    there.ask("group-grant", group="vision", worker="w1", role=None)
    (task,) = submit(there, group="vision")
    assert there.states()[task] == Task.READY


def test_functions_and_commands_are_not_mixed(there: Suited) -> None:
    tasks = [{"args": ["true"]}, {"function": "json:dumps"}]
    assert there.ask("task-submit", tasks=tasks).code == "bad-body"


def test_priority_then_groups_in_turns_then_age(there: Suited) -> None:
    for group in ("a", "b"):
        there.ask("group-create", group=group)
    first = submit(there, 4, group="a")
    second = submit(there, 4, group="b", tags=[])
    (urgent,) = submit(there, group="b", task={"args": ["true"], "priority": 5})
    join(there, "w1", groups=("a", "b"))
    order = []
    for _ in range(9):
        hand = the_hand(there, "w1")
        order.append(hand.tasks[0][0])
        there.work(hand)
        there.pump()
    assert order[0] == urgent
    owner = ["a" if task in first else "b" for task in order]
    assert max(abs(owner[:count].count("a") - owner[:count].count("b")) for count in range(1, 9)) <= 2, owner
    for of_group in (first, second):
        assert [task for task in order if task in of_group] == of_group, "the oldest first"


def test_whoever_waits_longest_has_the_next(there: Suited) -> None:
    for name in ("w1", "w2", "w3"):
        join(there, name)
    for _ in range(3):
        submit(there)
    assert all(len(hand.tasks) == 1 for hand in there.hands), "each has one, nobody has two"


def test_a_lost_workers_tasks_go_to_another(there: Suited) -> None:
    join(there, "w1")
    tasks = submit(there, 2)
    assert the_hand(there, "w1").tasks
    join(there, "w2")
    there.cut("w1")
    there.advance(5.0)
    assert there.daemon.state.roster.nodes["w1"].state is NodeState.LOST
    assert row(there, "w1")["state"] == "down"
    for _ in range(4):
        for hand in there.hands_at("w2"):
            there.work(hand)
        there.pump()
    assert there.states() == dict.fromkeys(tasks, Task.FINISHED)
    # It comes back with what it did meanwhile, and that counts no more.
    for hand in there.hands_at("w1"):
        there.work(hand)
    there.heal("w1")
    there.advance(5.0)
    later = submit(there, 4)
    work_all(there)
    assert {there.states()[task] for task in later} == {Task.FINISHED}
    assert row(there, "w1")["state"] == "idle", "it serves again"


def test_a_worker_that_dies_takes_no_task_with_it(there: Suited) -> None:
    join(there, "w1")
    submit(there, 2)
    there.die(the_hand(there, "w1"), signal=9)
    there.pump()
    there.advance(1.0)
    work_all(there)
    assert set(there.states().values()) == {Task.FINISHED}


def test_poison_is_given_up_when_every_worker_died_of_it(there: Suited) -> None:
    for name in ("w1", "w2"):
        join(there, name)
    (task,) = submit(there)
    for _ in range(12):
        for hand in [hand for hand in there.hands if hand.tasks]:
            there.die(hand, signal=11)
        there.pump()
        there.advance(1.0)
    assert there.states()[task] == Task.FAILED
    assert len(there.hands) == 2, "the pool is what it was"
    assert len(there.ask("task-show", task=task).ok["failures"]) == 4, "two deaths on each"


@pytest.mark.parametrize("who", ["agent", "daemon", "both"])
def test_a_restart_goes_on_with_what_there_is(there: Suited, who: str) -> None:
    join(there, "w1", worker_count=2)
    tasks = submit(there, 6)
    there.work(there.hands[0])
    there.pump()
    if who != "agent":
        there.kill_daemon()
    if who != "daemon":
        there.kill_agent("w1")
    there.heal("w1")
    there.advance(5.0)
    work_all(there)
    there.advance(1.0)
    work_all(there)
    assert there.states() == dict.fromkeys(tasks, Task.FINISHED)


def both_die(there: Suited, name: str) -> None:
    """kill -9 of an agent and of all its workers at once."""
    hands, world = there.hands_at(name), there.links[name].world
    there.kill_agent(name)
    for hand in hands:
        there.hands.remove(hand)
        world.leader_ends(hand.process, None, 9)
        world.tree_ends(hand.process)


@pytest.mark.parametrize("acknowledged", [False, True])
def test_what_ended_before_an_agent_died_with_its_workers_is_told_once(
    there: Suited, acknowledged: bool
) -> None:
    """Without an outbox the tasks would run again."""
    join(there, "w1", worker_count=2)
    tasks = submit(there, 2)
    there.lost_words["crew-exchange" if not acknowledged else "crew-work"] = 100
    for hand in there.hands_at("w1"):
        there.work(hand)
    there.pump()
    assert not any(hand.untaken for hand in there.hands), "they may forget what they told: it is written down"
    box = there.links["w1"].world.outbox
    assert len([one for record in box.values() for one in record["outcomes"]]) == 2
    there.advance(0.5)  # a later life counts its exchanges from its clock
    both_die(there, "w1")
    there.lost_words.clear()
    there.heal("w1")
    there.advance(5.0)
    assert there.states() == dict.fromkeys(tasks, Task.FINISHED)
    assert there.ran == {(task, 1): 1 for task in tasks}, "none of them ran again"
    assert not there.links["w1"].world.outbox, "what is acknowledged is forgotten"


def test_what_a_lost_agent_kept_is_told_too_late(there: Suited) -> None:
    join(there, "w1")
    join(there, "w2", ("gpu",))
    (task,) = submit(there, tags=["gpu"])
    there.lost_words["crew-exchange"] = 100
    there.work(the_hand(there, "w2"))
    there.pump()
    there.cut("w2")
    assert there.links["w2"].world.outbox
    there.advance(5.0)
    both_die(there, "w2")
    there.lost_words.clear()
    assert there.ask("worker-tags", worker="w1", add=["gpu"]).ok
    work_all(there)
    there.heal("w2")
    there.advance(5.0)
    assert there.states()[task] == Task.FINISHED
    assert there.ran == {(task, 1): 1, (task, 2): 1}
    assert there.ask("tasks", tasks=[task]).ok["tasks"][0]["node"] == "w1", "the later attempt counts"
    assert not there.links["w2"].world.outbox


def test_cancelling_a_running_one_reaches_its_worker(there: Suited) -> None:
    join(there, "w1")
    (task,) = submit(there)
    assert there.ask("task-cancel", tasks=[task]).ok == {"cancelled": 0, "ending": 1}
    there.pump()
    assert there.states()[task] == Task.CANCELLED and not the_hand(there, "w1").tasks


def test_a_graceful_shutdown_finishes_what_runs_and_forgets_the_worker(there: Suited) -> None:
    join(there, "w1", groups=("administrator",))
    tasks = submit(there, 5)
    (told,) = there.ask("worker-shutdown", workers=["w1"]).ok["workers"]
    assert told["state"] == "stopping"
    there.pump()
    assert not is_ending(there, "w1"), "it has something to finish"
    work_all(there)
    there.advance(0.5)
    assert is_ending(there, "w1")
    done = [task for task, state in there.states().items() if state == Task.FINISHED]
    assert 1 <= len(done) < 5 and there.states()[tasks[-1]] == Task.READY, "it took nothing new"
    there.cut("w1")
    there.advance(5.0)
    assert "w1" not in there.daemon.state.roster.nodes and not there.daemon.state.users.managers(
        "worker", "w1"
    )
    assert there.ask("worker-shutdown", workers=["w1"]).code == "unknown-node"
    join(there, "w2")
    work_all(there)
    assert set(there.states().values()) == {Task.FINISHED}


def test_a_forced_shutdown_gives_back_at_once(there: Suited) -> None:
    join(there, "w1")
    join(there, "w2", ("gpu",))
    tasks = submit(there, 2, tags=["gpu"])
    assert the_hand(there, "w2").tasks
    assert there.ask("worker-tags", worker="w1", add=["gpu"]).ok
    (told,) = there.ask("worker-shutdown", tags=["gpu"], workers=["w2"], force=True).ok["workers"]
    assert told["worker"] == "w2"
    there.pump()
    assert the_hand(there, "w1").tasks, "w1 has them by now"
    there.advance(0.5)
    work_all(there)
    assert there.states() == dict.fromkeys(tasks, Task.FINISHED)


def test_a_lost_worker_is_forgotten_at_once(there: Suited) -> None:
    join(there, "w1")
    there.cut("w1")
    there.advance(5.0)
    assert there.ask("worker-shutdown", workers=["w1"]).ok
    assert there.ask("workers", independent=True).ok["workers"] == []


def test_a_worker_lives_as_long_as_it_said(there: Suited) -> None:
    join(there, "w1", lifetime_s=30.0)
    there.advance(25.0)
    assert not is_ending(there, "w1")
    there.advance(6.0)
    assert is_ending(there, "w1")


def test_other_options_after_a_restart_are_in_force(there: Suited) -> None:
    join(there, "w1", worker_count=1)
    link = there.links["w1"]
    assert link.world.agent is not None and link.world.agent.worker is not None
    link.world.agent.worker["worker_count"] = 3
    there.kill_agent("w1")
    there.heal("w1")
    there.advance(5.0)
    assert len(there.hands_at("w1")) == 3 and row(there, "w1")["workers"] == 3


def test_a_worker_takes_no_units(queue: Connection) -> None:
    unit = {"command": ["run"], "node": {"tags": ["gpu"]}}
    there = Suited(queue, units={"u": unit})
    join(there, "w1", ("gpu",))
    assert there.ask("start", targets=["u"], wait=False).ok
    there.pump()
    assert not there.daemon.state.supervisor.units["u"].node
    assert there.daemon.state.crew.phase is Phase.IDLE


def test_the_daemon_knows_its_workers_lanes_and_grants_after_a_restart(there: Suited) -> None:
    for user in ("alice",):
        there.ask("user-create", user=user)
        there.ask("token-new", user=user, name="t", digest=tokens.digest("mgmt_a"))
    there.ask("group-create", group="vision")
    join(there, "w1", ("gpu",), groups=("vision:admin",))
    waiting = submit(there, group="vision", tags=["fpga"])
    there.kill_daemon()
    there.heal("w1")
    there.advance(2.0)
    assert row(there, "w1")["roles"] == {"administrator": "admin", "vision": "admin"}
    assert there.ask("worker-tags", worker="w1", add=["fpga"]).ok
    work_all(there)
    there.pump()
    work_all(there)
    assert there.states()[waiting[0]] == Task.FINISHED
