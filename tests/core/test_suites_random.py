"""Random histories of suites: whoever dies, whatever is lost or late, each task ends once and nothing is stuck."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mgmt.store.queue import tables
from mgmt.store.queue.connection import Connection
from tests.core.recorder import worlds
from tests.core.suited import Suited

FUZZ_S = os.environ.get("FUZZ_S", "")
EXAMPLES = int(os.environ.get("EXAMPLES", "25"))
NAMES = ("n1", "n2")
CAUSES = [{"code": 1}, {"code": 0}, {"signal": 9}, {"signal": 11}, {"code": 124}, {"signal": 14}]
node = st.sampled_from(NAMES)
few = st.integers(0, 3)


class Histories(RuleBasedStateMachine):
    """This machine and two agents, up to three suites, and everything that can go wrong."""

    db: Connection  # set by the test

    @initialize(hooks=st.booleans(), count=st.integers(1, 12))
    def start(self, hooks: bool, count: int) -> None:
        worlds.clear()
        self.db.begin()
        for table in tables.NAMES:
            if table != "meta":
                self.db.change(f"DELETE FROM {table}")
        self.db.commit()
        self.there = Suited(self.db, dict.fromkeys(NAMES, ()))
        self.suites = [self.there.suite()]
        hook = {"args": ["true"]}
        if hooks:
            self.suites.append(
                self.there.suite(worker={"worker_count": 2}, hooks={"provision": hook, "cleanup": hook})
            )
        self.there.submit(self.suites[-1], count)

    def hand(self, which: int) -> Any:
        busy = [hand for hand in self.there.hands if hand.tasks]
        return busy[which % len(busy)] if busy else None

    # ---- what users do ----

    @precondition(lambda self: len(self.suites) < 3)
    @rule(count=st.integers(1, 2), priority=st.integers(0, 2))
    def create(self, count: int, priority: int) -> None:
        worker = {"worker_count": count}
        ticket = self.there.say("suite-create", worker=worker, priority=priority)
        self.there.pump()
        if ticket.answers and ticket.answers[0][0] == "ok":
            self.suites.append(ticket.ok["suite"])

    @rule(which=few, count=st.integers(1, 5), retries=st.booleans())
    def submit(self, which: int, count: int, retries: bool) -> None:
        task: dict[str, Any] = {"args": ["true"]}
        if retries:
            task["retries"] = {"limit": 2, "delay_s": 0.3}
        suite = str(self.suites[which % len(self.suites)])
        self.there.say("task-submit", suite=suite, tasks=[task] * count)
        self.there.pump()

    @rule(which=few, running=st.booleans())
    def cancel_tasks(self, which: int, running: bool) -> None:
        suite = str(self.suites[which % len(self.suites)])
        self.there.say("task-cancel", suite=suite, running=running)
        self.there.pump()

    @rule(which=few, running=st.booleans())
    def cancel_suite(self, which: int, running: bool) -> None:
        suite = str(self.suites[which % len(self.suites)])
        self.there.say("suite-cancel", suite=suite, cancel_running=running)
        self.there.pump()

    @rule(name=st.sampled_from(["local", *NAMES]), paused=st.booleans())
    def pause(self, name: str, paused: bool) -> None:
        self.there.say("worker-pause", node=name, paused=paused)
        self.there.pump()

    # ---- what workers do ----

    @rule(which=few, status=st.integers(0, 1), times=st.integers(1, 3))
    def work(self, which: int, status: int, times: int) -> None:
        for _ in range(times):
            hand = self.hand(which)
            if hand is not None:
                self.there.work(hand, status)
        self.there.pump()

    @rule(which=few, cause=st.sampled_from(CAUSES), heard_first=st.booleans())
    def worker_dies(self, which: int, cause: dict[str, int], heard_first: bool) -> None:
        hand = self.hand(which)
        if hand is not None:
            self.there.die(hand, heard_first=heard_first, **cause)
        self.there.pump()

    @rule(which=few)
    def worker_connects_anew(self, which: int) -> None:
        hand = self.hand(which)
        if hand is not None:
            self.there.part(hand)
        self.there.pump()

    # ---- what goes wrong ----

    @rule(steps=few)
    def stops_in_the_middle(self, steps: int) -> None:
        """What follows happens while words are on their way."""
        self.there.budget = steps

    @rule()
    def goes_on(self) -> None:
        self.there.budget = None
        self.there.pump()

    @rule(seconds=st.sampled_from([0.1, 0.5, 2.0, 6.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        self.there.budget = None
        self.there.advance(seconds)

    @rule(name=node)
    def link_is_cut(self, name: str) -> None:
        self.there.cut(name)

    @rule(name=node)
    def link_breaks(self, name: str) -> None:
        self.there.break_off(name)
        self.there.pump()

    @rule(name=node)
    def link_is_back(self, name: str) -> None:
        self.there.heal(name)
        self.there.pump()

    @rule(name=node)
    def agent_is_killed(self, name: str) -> None:
        self.there.kill_agent(name)
        self.there.pump()

    @rule(done=few)
    def daemon_is_killed(self, done: int) -> None:
        self.there.kill_daemon(done)
        self.there.pump()

    @rule(word=st.sampled_from(["crew-work", "crew-exchange"]), count=st.integers(1, 2))
    def words_are_lost(self, word: str, count: int) -> None:
        self.there.lost_words[word] = count

    @rule(which=few)
    def an_answer_comes_again(self, which: int) -> None:
        self.there.again(which)
        self.there.pump()

    @rule(full=st.booleans())
    def disk(self, full: bool) -> None:
        self.there.disk_full = full

    # ---- what holds ----

    @invariant()
    def counters_are_true_and_each_task_ends_once(self) -> None:
        if hasattr(self, "there"):
            self.there.check_queue()

    def teardown(self) -> None:
        if not hasattr(self, "there"):
            return
        self.there.budget = None
        for name in NAMES:
            self.there.heal(name)
        for name in ("local", *NAMES):
            self.there.say("worker-pause", node=name, paused=False)
        self.there.finish()


def run(db: Connection, examples: int, steps: int = 40) -> None:
    machine: Any = type("Histories", (Histories,), {"db": db})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, database=None,
            derandomize=not FUZZ_S, suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip


def test_random_histories(queue: Connection) -> None:
    run(queue, EXAMPLES)
    worlds.clear()
