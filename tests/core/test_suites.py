"""Suites, crews and the queue, event by event: what random histories found, and the order of things."""

from __future__ import annotations

import pytest

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.suites import operations as op
from mgmt.core.suites.pool import Phase, Slot
from mgmt.core.suites.states import Task
from mgmt.core.supervision import LOCAL
from mgmt.store.queue.connection import Connection
from mgmt.worker.wire import Kind
from tests.core.linked import Link
from tests.core.recorder import Word
from tests.core.suited import Hand, Suited


@pytest.fixture
def there(queue: Connection) -> Suited:
    """This machine alone."""
    return Suited(queue)


@pytest.fixture
def nodes(queue: Connection) -> Suited:
    """This machine, and two agents whose tag it has not."""
    return Suited(queue, {"n1": ("x",), "n2": ("x",)})


def hand_of(there: Suited, task: int) -> Hand:
    (hand,) = [hand for hand in there.hands if any(one[0] == task for one in hand.tasks)]
    return hand


def test_a_suite_is_worked_off_and_left(there: Suited) -> None:
    suite = there.suite(worker={"worker_count": 2})
    tasks = there.submit(suite, 5)
    assert len(there.hands_at(LOCAL)) == 2
    there.finish()
    assert there.states() == dict.fromkeys(tasks, Task.FINISHED)
    assert there.status(suite)["state"] == "COMPLETE"
    assert not there.hands


def test_an_empty_suite_stays_open(there: Suited) -> None:
    suite = there.suite()
    there.advance(400.0)
    assert there.status(suite)["state"] == "OPEN"


def test_nothing_is_drained_because_nothing_was_there_to_fetch(there: Suited) -> None:
    suite = there.suite()
    (first,) = there.submit(suite)
    (waits,) = there.ask("task-submit", suite=str(suite), tasks=[{"args": ["true"], "after": [first]}]).ok[
        "tasks"
    ]
    there.advance(60.0)
    assert there.state(waits) is Task.PENDING and there.daemon.state.crew.phase is Phase.EXECUTING
    there.finish()
    assert there.state(waits) is Task.FINISHED


@pytest.mark.parametrize("word", ["crew-work", "crew-exchange"])
def test_a_word_that_is_lost_is_said_again(nodes: Suited, word: str) -> None:
    suite = nodes.suite(tags=["x"])
    nodes.lost_words[word] = 1
    tasks = nodes.submit(suite, 3)
    nodes.advance(12.0)
    nodes.finish()
    assert nodes.states() == dict.fromkeys(tasks, Task.FINISHED)
    assert max(attempt for _, attempt in nodes.ran) == 1, "nobody else was given them meanwhile"


def test_an_answer_that_comes_twice_is_one(nodes: Suited) -> None:
    suite = nodes.suite(tags=["x"])
    tasks = nodes.submit(suite, 4)
    for which in range(4):
        nodes.again(which)
        nodes.pump()
    nodes.finish()
    assert sorted(nodes.ran.values()) == [1] * len(tasks)


class Twice(Suited):
    """Every word between the daemon and its agents arrives twice."""

    def _from_daemon(self, word: Word) -> None:
        super()._from_daemon(word)
        if isinstance(word, fx.ToNode):
            super()._from_daemon(word)

    def _from_agent(self, link: Link, word: Word) -> None:
        super()._from_agent(link, word)
        if isinstance(word, fx.ToDaemon | fx.Beat):
            super()._from_agent(link, word)


def test_every_word_that_comes_twice_counts_once(queue: Connection) -> None:
    twice = Twice(queue, {"n1": ("x",), "n2": ("x",)})
    hooks = {"provision": {"args": ["true"]}, "cleanup": {"args": ["true"]}}
    suite = twice.suite(tags=["x"], hooks=hooks, worker={"worker_count": 2})
    tasks = twice.submit(suite, 12)
    twice.work(twice.hands[0])
    twice.die(twice.hands[-1], signal=11)  # one failure is told, too
    twice.pump()
    twice.ask("worker-pause", node="n1")
    twice.ask("worker-pause", node="n1", paused=False)
    twice.ask("task-cancel", tasks=[tasks[-1]])
    twice.advance(5.0)
    twice.finish()
    states = twice.states()
    assert states.pop(tasks[-1]) is Task.CANCELLED
    assert set(states.values()) == {Task.FINISHED}
    again = sum(1 for _, attempt in twice.ran if attempt > 1)
    assert again <= 2 * 2 and max(twice.ran.values()) == 1, "only what the dead worker had is done again"
    counts = twice.daemon.state.board.metrics.counts
    assert counts["strikes_total", ""] == 1, "one death, one strike"
    assert counts["tasks_committed_total", "ok"] == len(tasks) == counts["tasks_submitted_total", ""]
    assert twice.status(suite)["state"] == "COMPLETE"


def test_a_process_that_is_no_worker_of_ours_is_refused(there: Suited) -> None:
    suite = there.suite()
    there.submit(suite)
    (hand,) = there.hands
    name, run = hand.unit, hand.process.spawn.incarnation
    token = hand.process.spawn.env["MGMT_TOKEN"]
    for unit, incarnation, proof in (
        (name, run, "by hand"),
        (name, run + 1, token),
        ("suite-9.w0", run, token),
    ):
        before = len(there.daemon.suite_effects)
        there.daemon.feed(ev.WorkerHello(900, unit, incarnation, proof, []))
        said = there.daemon.suite_effects[before:]
        (refusal,) = (effect for effect in said if isinstance(effect, fx.ToWorker))
        assert refusal.connection == 900 and refusal.messages[0][0] == Kind.REFUSED
        assert fx.CloseWorker(900) in said
        there.daemon.suite_effects.clear()
    assert hand.connection, "the true one is not disturbed"
    there.finish()


def test_less_is_fetched_ahead_when_tasks_get_slow() -> None:
    slot = Slot("w0", "/w0")
    for taken_s in (0.001,) * 20:
        slot.done += 1
        slot.learn(taken_s, 16)
    assert (slot.window, slot.credits) == (16, 32), "quick ones: as many as the suite allows"
    for taken_s in (1.0,) * 20:
        slot.done += 1
        slot.learn(taken_s, 16)
    assert (slot.window, slot.credits) == (1, 2), "slow ones: no more than the next"


def test_tasks_claimed_before_a_link_broke_come_again(nodes: Suited) -> None:
    suite = nodes.suite(tags=["x"])
    nodes.ask("suite-agents", suite=str(suite), remove=["n2"])
    nodes.lost_words["crew-work"] = 9
    tasks = nodes.submit(suite, 2)
    assert {nodes.state(task) for task in tasks} == {Task.RUNNING} and not any(
        hand.tasks for hand in nodes.hands
    )
    nodes.lost_words.clear()
    nodes.break_off("n1")
    nodes.heal("n1")
    nodes.pump()
    assert hand_of(nodes, tasks[0]).tasks == [[tasks[0], 1]], "nothing is ready, and it has what it claimed"
    nodes.finish()
    assert dict(nodes.ran) == {(task, 1): 1 for task in tasks}


def test_what_a_full_disk_kept_from_the_queue_is_told_when_there_is_room(there: Suited) -> None:
    suite = there.suite()
    (task,) = there.submit(suite)
    there.disk_full = True
    there.die(hand_of(there, task), signal=11)
    there.pump()
    assert there.state(task) is Task.RUNNING and there.daemon.state.board.failure
    there.advance(1.0)  # not so long that its lease ends
    there.disk_full = False
    there.advance(20.0)
    assert [task, 2] in hand_of(there, task).tasks, "another worker has it"
    assert not there.daemon.state.board.failure
    there.finish()


def test_a_daemon_starts_with_the_suite_it_had_though_no_worker_lives(there: Suited) -> None:
    suite = there.suite(hooks={"provision": {"args": ["true"]}})
    there.submit(suite, 3)
    (hand,) = there.hands
    there.die(hand, signal=9)
    there.kill_daemon()
    there.pump()
    holdings = there.daemon.state.board.holdings
    assert [holding.holder for holding in holdings.values()] == [1], "the same assignment, not a new one"
    there.finish()


def test_workers_outlive_their_daemon_and_nothing_runs_twice(there: Suited) -> None:
    suite = there.suite(worker={"worker_count": 2})
    tasks = there.submit(suite, 6)
    there.kill_daemon()
    for hand in there.hands:
        there.work(hand)  # while nobody listens
    there.pump()
    there.finish()
    assert there.states() == dict.fromkeys(tasks, Task.FINISHED)
    assert all(count == 1 for count in there.ran.values())


def test_a_clock_that_was_set_back_stops_nobody(there: Suited) -> None:
    suite = there.suite()
    there.submit(suite, 2)
    there.kill_daemon()
    there.daemon.now_ns -= 10**12 // 2
    there.pump()
    tasks = there.submit(suite, 2)
    there.finish()
    assert {there.state(task) for task in tasks} == {Task.FINISHED}


def test_a_late_result_of_a_lost_node_is_stale_and_its_workers_end(nodes: Suited) -> None:
    suite = nodes.suite(tags=["x"], worker={"task_prefetch_count": 1})
    (task,) = nodes.submit(suite)
    node = next(name for name in ("n1", "n2") if any(hand.tasks for hand in nodes.hands_at(name)))
    rival = {"n1": "n2", "n2": "n1"}[node]
    late = hand_of(nodes, task)
    nodes.cut(node)
    nodes.advance(5.0)
    assert [one[0] for hand in nodes.hands_at(rival) for one in hand.tasks] == [task], "the rival has it"
    nodes.work(late, status=7)
    nodes.finish()
    assert nodes.ran == {(task, 1): 1, (task, 2): 1}
    status = nodes.db.rows("SELECT exit_status, attempt FROM tasks WHERE id = ?", (task,))
    assert list(status) == [(0, 2)]
    assert not nodes.hands_at(node)


def test_a_node_that_finished_while_its_link_was_down_does_not_begin_anew(nodes: Suited) -> None:
    suite = nodes.suite(tags=["x"], hooks={"provision": {"args": ["true"]}})
    nodes.ask("suite-agents", suite=str(suite), remove=["n2"])
    (task,) = nodes.submit(suite)
    nodes.ask("node-cordon", node="n1", cordoned=True)
    nodes.work(hand_of(nodes, task))
    nodes.pump()
    nodes.advance(5.0)  # it is told to leave
    before = nodes.agent("n1").state.supervisor.units
    assert "suite-1.provision" not in before and not nodes.daemon.state.board.holdings
    assert nodes.agent("n1").state.crew.phase is Phase.IDLE


def test_a_worker_that_is_replaced_before_its_end_was_noticed_has_died(there: Suited) -> None:
    suite = there.suite()
    (task,) = there.submit(suite)
    hand = hand_of(there, task)
    connection, hand.connection = hand.connection, 0  # the end of the connection is late
    there.die(hand, signal=11)
    there.advance(0.1)
    there.daemon.feed(ev.WorkerGone(connection))
    there.pump()
    history = there.do(op.GetTask(task)).history
    assert [death.status for death in history] == [-11], "one strike, and it is not handed on without"
    there.finish()


@pytest.mark.parametrize(("cause", "strikes"), [({"signal": 11}, 2), ({"signal": 9}, 3), ({"code": 1}, 3)])
def test_a_poisoned_task_is_given_up_and_the_pool_stays(
    there: Suited, cause: dict[str, int], strikes: int
) -> None:
    suite = there.suite(worker={"worker_count": 2})
    (bad,) = there.submit(suite)
    deaths = 0
    while there.state(bad) is not Task.FAILED:
        there.die(hand_of(there, bad), cause.get("code"), cause.get("signal"))
        deaths += 1
        there.advance(6.0)
        assert deaths <= strikes
    assert deaths == strikes == len(there.do(op.GetTask(bad)).history)
    assert there.status(suite)["state"] == "COMPLETE"
    there.submit(suite)
    assert len(there.hands_at(LOCAL)) == 2
    there.finish()


def test_whom_a_task_is_kept_from_does_not_ask_without_end(nodes: Suited) -> None:
    other, suite = nodes.suite(tags=["x"]), nodes.suite(tags=["x"])
    nodes.ask("suite-agents", suite=str(other), remove=["n1"])
    (busy,) = nodes.submit(other)
    (bad,) = nodes.submit(suite)
    for _ in range(2):
        nodes.die(hand_of(nodes, bad), signal=11)
        nodes.pump()  # fails when words go round and round
        nodes.advance(1.0)
    assert nodes.state(bad) is Task.READY and nodes.do(op.GetTask(bad)).excluded == ("n1",)
    assert hand_of(nodes, busy) in nodes.hands_at("n2"), "the other node has other work"
    nodes.advance(30.0)
    assert nodes.state(bad) is Task.READY, "it waits for the other node"
    nodes.work(hand_of(nodes, busy))
    nodes.advance(1.0)
    assert hand_of(nodes, bad) in nodes.hands_at("n2")
    nodes.finish()


def test_a_node_stays_paused_and_is_resumed_though_its_agent_was_killed(nodes: Suited) -> None:
    suite = nodes.suite(tags=["x"])
    nodes.ask("suite-agents", suite=str(suite), remove=["n2"])
    nodes.ask("worker-pause", node="n1", paused=True)
    (task,) = nodes.submit(suite)
    nodes.kill_agent("n1")
    nodes.heal("n1")
    nodes.advance(2.0)
    assert not any(hand.tasks for hand in nodes.hands), "it is paused still"
    nodes.ask("worker-pause", node="n1", paused=False)
    nodes.finish()
    assert nodes.state(task) is Task.FINISHED


def test_a_drained_node_gives_back_what_it_has_not_begun(nodes: Suited) -> None:
    suite = nodes.suite(tags=["x"])
    nodes.ask("suite-agents", suite=str(suite), remove=["n2"])
    first, second = nodes.submit(suite, 2)
    wait = nodes.say("node-drain", node="n1", wait=True)
    nodes.pump()
    assert (nodes.state(first), nodes.state(second)) == (Task.RUNNING, Task.READY) and wait.waits
    nodes.work(hand_of(nodes, first))
    nodes.pump()
    assert wait.ok and not nodes.daemon.state.board.holdings and nodes.state(second) is Task.READY
    nodes.ask("node-cordon", node="n1", cordoned=False)
    nodes.finish()


def test_nodes_across_a_restart_are_lost_when_they_do_not_come_back(nodes: Suited) -> None:
    suite = nodes.suite(tags=["x"])
    tasks = nodes.submit(suite, 2)
    nodes.cut("n1")
    nodes.cut("n2")
    nodes.kill_daemon()
    nodes.advance(6.0)
    assert {nodes.state(task) for task in tasks} == {Task.READY}
    nodes.finish()


def test_whoever_waits_for_a_task_hears_of_its_end_whenever_the_waiting_began(there: Suited) -> None:
    suite = there.suite()
    tasks = there.submit(suite, 2)
    early = there.ask("task-wait", task=tasks[0])
    assert not early.answers
    there.work(hand_of(there, tasks[0]))
    there.pump()
    assert early.ok["state"] == "FINISHED"
    there.work(hand_of(there, tasks[1]))
    asked = [one.operation for one in there.daemon.suite_effects if isinstance(one, fx.Queue)]
    assert [one.results[0].task for one in asked] == [tasks[1]], "its result is on its way into the queue"
    late = there.say("task-wait", task=tasks[1])
    there.daemon.suite_effects.reverse()  # a question overtakes what is being written
    there.pump()
    assert late.ok["state"] == "FINISHED"


def test_who_waits_for_a_task_does_not_hear_that_the_disk_is_full(there: Suited) -> None:
    suite = there.suite()
    (task,) = there.submit(suite)
    waiting = there.ask("task-wait", task=task)
    there.disk_full = True
    there.work(hand_of(there, task))
    there.pump()
    there.disk_full = False
    there.advance(20.0)
    assert waiting.ok["state"] == "FINISHED"


def test_who_waits_long_becomes_urgent(there: Suited) -> None:
    first = there.suite()
    (busy,) = there.submit(first)
    old, new = there.suite(), there.suite(priority=1)
    (waits,) = there.submit(old)
    there.advance(150.0)
    (urgent,) = there.submit(new)
    there.work(hand_of(there, busy))
    there.advance(1.0)
    assert there.state(waits) is Task.RUNNING and there.state(urgent) is Task.READY
    there.finish()


def test_a_group_that_has_less_goes_first(nodes: Suited) -> None:
    for group in ("a", "b"):
        nodes.ask("group-create", group=group)
        for node in ("n1", "n2"):
            assert nodes.ask("group-grant", group=group, node=node, role="write").ok is not None
    gate = nodes.suite(tags=["x"])
    nodes.ask("suite-agents", suite=str(gate), remove=["n1"])
    (first,) = nodes.submit(gate)
    of_a, more_of_a, of_b = (nodes.suite(tags=["x"], group=group) for group in ("a", "a", "b"))
    nodes.submit(of_a)  # on n1
    (second,), (third,) = nodes.submit(more_of_a), nodes.submit(of_b)
    nodes.work(hand_of(nodes, first))
    nodes.advance(1.0)
    assert nodes.state(third) is Task.RUNNING and nodes.state(second) is Task.READY
    nodes.finish()


def test_a_worker_that_ends_with_its_daemon_is_no_strike(there: Suited) -> None:
    suite = there.suite()
    (task,) = there.submit(suite)
    hand = hand_of(there, task)
    there.daemon.feed(ev.StopRequested("SIGTERM", fast=False))
    there.die(hand, signal=9, heard_first=True)  # it did not end in its grace
    there.pump()
    there.daemon.drain()
    assert not there.do(op.GetTask(task)).history


def test_another_assignment_ends_the_present_one(nodes: Suited) -> None:
    """As after a partition: who assigns knows what this machine shall do."""
    first, second = nodes.suite(tags=["x"]), nodes.suite(tags=["x"])
    nodes.ask("suite-agents", suite=str(second), remove=["n2"])
    nodes.ask("suite-agents", suite=str(first), remove=["n2"])
    (late,) = nodes.submit(first)
    nodes.cut("n1")
    nodes.advance(5.0)
    nodes.ask("suite-cancel", suite=str(first))
    (task,) = nodes.submit(second)
    nodes.heal("n1")
    nodes.advance(3.0)
    present = nodes.agent("n1").state.crew.assignment
    assert present is not None and present.suite == second
    assert hand_of(nodes, task) in nodes.hands_at("n1") and nodes.state(late) is Task.CANCELLED
    nodes.finish()
