"""What happens to a daemon from outside, as rules: processes, hooks, probes, time, and its own death."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from mgmt.core import event as ev
from tests.core.builders import S
from tests.core.recorder import Client, Process, World

# The suite runs the same few examples each time; MGMT_TEST_EXAMPLES=5000 goes hunting for new ones.
HUNT = int(os.environ.get("MGMT_TEST_EXAMPLES", "0"))
SETTINGS = settings(
    max_examples=HUNT or 100,
    stateful_step_count=80 if HUNT else 40,
    derandomize=not HUNT,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

indexes = st.integers(0, 7)
spans_s = st.sampled_from((0.0, 0.2, 0.5, 1.0, 1.0, 2.0, 4.0, 9.0, 16.0, 200.0))
rarely = st.sampled_from((False,) * 15 + (True,))


class Outside(RuleBasedStateMachine):
    """`begin` of a subclass makes the world. A rule may find that its daemon died and the next one took over."""

    world: World

    # ---- processes -------------------------------------------------------------------------------------------

    def pick(self, i: int, *, started: bool | None = None, leader: bool | None = None) -> Process | None:
        found = [
            process
            for process in self.world.processes.values()
            if not process.gone and started in (None, process.started) and leader in (None, process.leader)
        ]
        return found[i % len(found)] if found else None

    @rule(i=indexes, fails=st.sampled_from((False, False, False, True)))
    def execute(self, i: int, fails: bool) -> None:
        process = self.pick(i, started=False)
        if process is None:
            return
        if fails:
            self.world.is_not_executed(process, "cannot start")
        else:
            self.world.execute(process)

    @rule(i=indexes, protocols=st.sampled_from(((), ("ping",), ("l4m", "new"))))
    def become_ready(self, i: int, protocols: tuple[str, ...]) -> None:
        process = self.pick(i, started=True, leader=True)
        if process is None or process.spawn.backend.kind == "plain":
            return
        if process.spawn.backend.kind == "symphony":
            if process.key not in self.world.adoptions:
                self.world.feed(ev.HandshakeAnswered(*process.key, protocols))
            return
        backend = Client(self.world, process.spawn.unit.encode())
        backend.ask("backend-hello", versions=[1], pid=process.pid, **self.world.proof(process))
        backend.ask("backend-ready", protocols=list(protocols), **self.world.proof(process))

    @rule()
    def come_up(self) -> None:
        """Everything that was spawned becomes ready."""
        for _ in range(len(self.world.processes)):
            self.execute(0, False)
        for i in range(len(self.world.processes)):
            self.become_ready(i, ("ping",))

    @rule(
        i=indexes,
        how=st.sampled_from(((0, None), (1, None), (None, 9), (None, 15))),
        left=st.sampled_from((0, 0, 2)),
    )
    def crash(self, i: int, how: tuple[int | None, int | None], left: int) -> None:
        process = self.pick(i, started=True, leader=True)
        if process is not None:
            self.world.leader_ends(process, *how, left=left, tail="last words")

    @rule(i=indexes)
    def empty(self, i: int) -> None:
        process = self.pick(i, leader=False)
        if process is not None:
            self.world.tree_ends(process)

    @rule(i=indexes)
    def obey(self, i: int) -> None:
        """A process does what it was told, in one go."""
        process = self.pick(i, started=True)
        if process is not None and (process.signals or process.killed):
            deaths = self.world.deaths
            if process.leader:
                self.world.leader_ends(process, None, 9 if process.killed else 15)
            if self.world.deaths == deaths:
                self.world.tree_ends(process)

    @rule(i=indexes, ok=st.sampled_from((True, True, False)))
    def end_a_hook(self, i: int, ok: bool) -> None:
        hooks = list(self.world.hooks)
        if hooks:
            self.world.hook_ends(*hooks[i % len(hooks)], ok=ok)

    @rule(i=indexes, ok=st.sampled_from((True, True, False)))
    def answer_a_probe(self, i: int, ok: bool) -> None:
        questions = list(self.world.questions)
        if questions:
            self.world.probe_says(*questions[i % len(questions)], ok=ok)

    @rule()
    def everything_is_well(self) -> None:
        """Whatever is asked of processes, hooks and probes is done."""
        self.world.settle()

    # ---- time ------------------------------------------------------------------------------------------------

    @rule(seconds=spans_s)
    def pass_time(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule(i=indexes)
    def fire_out_of_order(self, i: int) -> None:
        """A loop that is late fires timers in any order."""
        timers = self.world.timers
        first_ns = min(timers.values(), default=0)
        keys = [key for key, at_ns in timers.items() if at_ns <= first_ns + 2 * S]
        if keys:
            self.world.fire(keys[i % len(keys)])

    # ---- the daemon itself -----------------------------------------------------------------------------------

    @rule(carried=st.integers(0, 6))
    def die_in_the_next_event(self, carried: int) -> None:
        """It is killed when it has carried out so many effects of what comes next."""
        self.world.dies_after = carried

    @rule(same_boot=st.sampled_from((True, True, True, False)))
    def die_now(self, same_boot: bool) -> None:
        self.world.dies_after = None
        self.world.die(same_boot)

    @rule(i=indexes, shim_lives=st.sampled_from((True, True, True, False)))
    def adopt(self, i: int, shim_lives: bool) -> None:
        keys = list(self.world.adoptions)
        if keys:
            self.world.adopt(keys[i % len(keys)], shim_lives)

    @rule()
    def adopt_all(self) -> None:
        self.world.adopt_all()

    @rule(meant=rarely)
    def hand_over(self, meant: bool) -> None:
        if meant and not self.world.state.stopping:
            self.world.dies_after = None
            self.world.feed(ev.HandOver("upgrade"))
            assert self.world.quits() == 1
            self.world.die()

    @precondition(lambda self: not self.world.state.stopping or self.world.processes)
    @rule(fast=st.booleans(), meant=rarely)
    def stop(self, fast: bool, meant: bool) -> None:
        if meant:
            self.world.feed(ev.StopRequested("SIGTERM", fast))

    # ---- the end ---------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Whatever happened, everything ends: processes obey, time passes, everyone is answered."""
        world = self.world
        world.dies_after = None
        world.adopt_all()
        world.feed(ev.StopRequested("SIGTERM", fast=False))
        for _ in range(20):
            for process in list(world.processes.values()):
                if process.killed and process.leader:
                    process.started = True
                    world.leader_ends(process, None, 9)
                if not process.leader and (process.killed or not process.left):
                    world.tree_ends(process)
            for key in list(world.hooks):
                world.hook_ends(*key)
            world.now_ns += 20 * S
            for key in sorted(world.timers, key=str):
                if world.timers.get(key, world.now_ns + 1) <= world.now_ns:
                    world.fire(key)
        world.drain()
        assert world.quits() == 1, f"never quit: {world.processes}"
        assert not [ticket for ticket in world.tickets.values() if ticket.waits]
        assert not world.state.sessions.calls and not world.state.leases.by_id
        assert {key[0] for key in world.timers} <= {"key", "blobs"}


def hello_again(client: Client) -> None:
    """After a death nobody has a session."""
    if client.session not in client.world.state.sessions.by_id:
        client.hello()


Body = st.SearchStrategy[dict[str, Any]]
