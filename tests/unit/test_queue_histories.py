"""Random histories against a model: what is counted is there, nothing is lost, nothing ends twice."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mgmt.core.suites import operations as ops
from mgmt.core.suites.operations import Ack, After, Extra, NewTask, Result, Retry
from mgmt.core.suites.states import ENDED, TASK_EDGES, Exec, Suite, Task
from mgmt.protocol.errors import MgmtError
from mgmt.store.queue import tables
from mgmt.store.queue.connection import Connection
from mgmt.store.queue.counting import recount
from mgmt.store.queue.postgres import PostgresEngine
from mgmt.store.queue.sqlite import SqliteEngine
from tests.core import test_suites_random
from tests.unit.queues import SPEC, do

LEASE_MS = 2000
NODES = ("n1", "n2", "n3")


@dataclass
class Modelled:
    """A task as the model knows it."""

    lane: int
    priority: int
    after: tuple[After, ...]
    retry: Retry | None
    state: Task = Task.READY
    attempt: int = 0
    holder: int = 0
    status: int | None = None
    cancelling: bool = False
    commits: int = 0


@dataclass
class Model:
    """What the queue should be."""

    tasks: dict[int, Modelled] = field(default_factory=dict)
    cancelled: set[int] = field(default_factory=set)
    leases: dict[int, int] = field(default_factory=dict)
    lane_of: dict[int, int] = field(default_factory=dict)

    def settle(self) -> None:
        """Whatever waits and need not, is ready or cancelled."""
        moved = True
        while moved:
            moved = False
            for task in self.tasks.values():
                if task.state != Task.PENDING:
                    continue
                verdicts = [self.verdict(after) for after in task.after]
                if False in verdicts:
                    task.state, moved = Task.CANCELLED, True
                    continue
                # What it once had is not waited for again, even when that is tried again.
                waits = zip(task.after, verdicts, strict=True)
                task.after = tuple(after for after, verdict in waits if verdict is None)
                if not task.after:
                    task.state, moved = Task.READY, True

    def verdict(self, after: After) -> bool | None:
        upstream = self.tasks[after.task]
        if upstream.state not in ENDED:
            return None
        return upstream.state == Task.FINISHED and (not after.success or upstream.status == 0)

    def drop(self, task: Modelled) -> None:
        """It has lost its holder."""
        over = task.cancelling or task.lane in self.cancelled
        task.state = Task.CANCELLED if over else Task.READY

    def claimable(self, lane: int) -> list[int]:
        ready = [n for n, task in self.tasks.items() if task.state == Task.READY and task.lane == lane]
        return sorted(ready, key=lambda number: (-self.tasks[number].priority, number))


class Histories(RuleBasedStateMachine):
    """Two suites, holders that come and go, and all that happens to tasks."""

    db: Connection  # set by the test
    emptying: str  # what empties a table, dead rows and all

    @initialize()
    def start(self) -> None:
        for table in tables.NAMES:
            if table != "meta":
                self.db.begin()
                self.db.change(f"{self.emptying} {table}")
                self.db.commit()
        self.model = Model()
        self.now_ms = 10_000
        self.suites = [do(self.db, ops.CreateSuite("g", "u", self.now_ms)).suite for _ in range(2)]
        self.numbers: dict[int, int] = {}
        self.reported: list[tuple[int, Result]] = []
        self.before: dict[int, Task] = {}
        for lane in self.suites:  # most of what can happen needs tasks and holders
            first = do(self.db, ops.Submit(lane, [NewTask(SPEC)] * 4, "u", self.now_ms)).first
            self.model.tasks |= {number: Modelled(lane, 0, (), None) for number in range(first, first + 4)}
        for which, node in ((0, "n1"), (0, "n2"), (1, "n1")):
            self.opened(which, node)

    def running(self, holder: int | None = None) -> list[int]:
        return [
            number
            for number, task in self.model.tasks.items()
            if task.state == Task.RUNNING and holder in (None, task.holder)
        ]

    # ---- what callers do ----

    @rule(data=st.data(), which=st.integers(0, 1), count=st.integers(1, 5))
    def submit(self, data: st.DataObject, which: int, count: int) -> None:
        lane = self.suites[which]
        new = []
        known = sorted(self.model.tasks)
        for index in range(count):
            after: list[After] = []
            for _ in range(data.draw(st.integers(0, 2))):
                places = [*known, *(-place for place in range(index))]
                if places:
                    after.append(After(data.draw(st.sampled_from(places)), data.draw(st.booleans())))
            retry = Retry(1, data.draw(st.sampled_from([(), (1,)]))) if data.draw(st.booleans()) else None
            new.append(NewTask(SPEC, data.draw(st.integers(-1, 1)), Extra((), tuple(after), retry)))
        op = ops.Submit(lane, new, "u", self.now_ms)
        if lane in self.model.cancelled:
            with pytest.raises(MgmtError, match="cancelled"):
                do(self.db, op)
            return
        first = do(self.db, op).first
        for number, task in enumerate(new, first):
            assert number not in self.model.tasks
            wanted = tuple(
                each._replace(task=each.task if each.task > 0 else first - each.task)
                for each in task.extra.after  # type: ignore[union-attr]  # each has one
            )
            state = Task.PENDING if wanted else Task.READY
            self.model.tasks[number] = Modelled(lane, task.priority, wanted, task.extra.retry, state)  # type: ignore[union-attr]
        self.model.settle()

    @precondition(lambda self: self.model.cancelled.intersection(self.suites))
    @rule()
    def create_suite(self) -> None:
        """In the place of a cancelled one, whose tasks go on."""
        new = do(self.db, ops.CreateSuite("g", "u", self.now_ms)).suite
        place = next(place for place, lane in enumerate(self.suites) if lane in self.model.cancelled)
        self.suites[place] = new

    @precondition(lambda self: len(self.running()) > 2)
    @rule(which=st.integers(0, 1), running=st.booleans())
    def cancel_suite(self, which: int, running: bool) -> None:
        lane = self.suites[which]
        do(self.db, ops.CancelSuite(lane, self.now_ms, "", running))
        self.model.cancelled.add(lane)
        for task in self.model.tasks.values():
            if task.lane == lane and task.state in (Task.PENDING, Task.READY):
                task.state = Task.CANCELLED
            if task.lane == lane and task.state == Task.RUNNING and running:
                task.cancelling = True
        self.model.settle()

    @precondition(lambda self: len(self.model.tasks) > 4)
    @rule(data=st.data(), running=st.booleans())
    def cancel_tasks(self, data: st.DataObject, running: bool) -> None:
        some = data.draw(st.lists(st.sampled_from(sorted(self.model.tasks)), min_size=1, max_size=3))
        do(self.db, ops.CancelTasks(ops.TaskFilter(tasks=tuple(some)), self.now_ms, running))
        for number in some:
            task = self.model.tasks[number]
            if task.state in (Task.PENDING, Task.READY):
                task.state = Task.CANCELLED
            elif task.state == Task.RUNNING and running:
                task.cancelling = True
        self.model.settle()

    @precondition(lambda self: self.model.tasks)
    @rule(data=st.data())
    def retry_task(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.model.tasks)))
        task = self.model.tasks[number]
        op = ops.RetryTask(number, self.now_ms)
        if task.state not in ENDED or task.lane in self.model.cancelled:
            with pytest.raises(MgmtError):
                do(self.db, op)
            return
        do(self.db, op)
        task.state, task.cancelling, task.holder, task.status = Task.READY, False, 0, None
        task.commits = 0

    # ---- what holders do ----

    @precondition(lambda self: len(self.model.leases) < 3)
    @rule(which=st.integers(0, 1), node=st.sampled_from(NODES))
    def open_holder(self, which: int, node: str) -> None:
        self.opened(which, node)

    def opened(self, which: int, node: str) -> None:
        op = ops.OpenHolder(node, "d", self.now_ms + LEASE_MS, self.now_ms, self.suites[which])
        try:
            holder = do(self.db, op).holder
        except MgmtError as refused:
            assert refused.code == "conflict"
            return
        self.model.leases[holder] = self.now_ms + LEASE_MS
        self.model.lane_of[holder] = self.suites[which]
        self.numbers[holder] = 0

    @precondition(lambda self: len(self.model.lane_of) > len(self.model.leases))
    @rule(data=st.data())
    def speak_after_the_end(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(sorted(set(self.model.lane_of) - set(self.model.leases))))
        results = [
            Result(n, task.attempt, 0) for n, task in self.model.tasks.items() if task.holder == holder
        ]
        with pytest.raises(MgmtError) as refused:
            do(self.db, ops.Exchange(holder, self.numbers[holder] + 1, self.now_ms, results, 1))
        assert refused.value.code == "stale"

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data(), want=st.integers(1, 4))
    def claim(self, data: st.DataObject, want: int) -> None:
        self.exchange(data.draw(st.sampled_from(sorted(self.model.leases))), [], [], want, False)

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data(), count=st.integers(1, 3), want=st.integers(1, 3))
    def submit_for_one_who_waits(self, data: st.DataObject, count: int, want: int) -> None:
        holder = data.draw(st.sampled_from(sorted(self.model.leases)))
        lane, number = self.model.lane_of[holder], self.numbers[holder] + 1
        op = ops.Submit(
            lane, [NewTask(SPEC)] * count, "u", self.now_ms, "", ops.Waiting(holder, number, want)
        )
        if lane in self.model.cancelled:
            with pytest.raises(MgmtError, match="cancelled"):
                do(self.db, op)
            return
        is_free = count <= want and not self.model.claimable(lane)
        submitted = do(self.db, op)
        new = range(submitted.first, submitted.first + count)
        assert not submitted.claims or (is_free and [claim.task for claim in submitted.claims] == list(new))
        for task in new:
            modelled = self.model.tasks[task] = Modelled(lane, 0, (), None, Task.READY)
            if submitted.claims:
                modelled.state, modelled.holder, modelled.attempt = Task.RUNNING, holder, 1
                self.numbers[holder] = number

    @precondition(lambda self: self.running())
    @rule(data=st.data(), want=st.integers(0, 2), repeat=st.booleans(), status=st.sampled_from([0, 0, 1, 2]))
    def finish(self, data: st.DataObject, want: int, repeat: bool, status: int) -> None:
        holder = self.model.tasks[data.draw(st.sampled_from(self.running()))].holder
        held = self.running(holder)
        count = data.draw(st.integers(1, len(held)))
        results = [Result(number, self.model.tasks[number].attempt, status) for number in held[:count]]
        if data.draw(st.integers(0, 3)) == 0:
            results[0] = results[0]._replace(message="UserCancellation")
        self.exchange(holder, results, [Ack.OK] * count, want, repeat)

    @precondition(lambda self: self.model.leases and (self.reported or self.running()))
    @rule(data=st.data())
    def report_what_is_not_theirs(self, data: st.DataObject) -> None:
        """Reported before, held by another one, or of an attempt that was."""
        holder = data.draw(st.sampled_from(sorted(self.model.leases)))
        results = [result for of, result in self.reported if of == holder][-3:]
        acks = [Ack.DUPLICATE] * len(results)
        for number in self.running():
            task = self.model.tasks[number]
            results.append(Result(number, task.attempt - (task.holder == holder), 0))
            acks.append(Ack.STALE)
        self.exchange(holder, results, acks, 0, False)

    def exchange(self, holder: int, results: list[Result], acks: list[Ack], want: int, repeat: bool) -> None:
        self.numbers[holder] += 1
        op = ops.Exchange(holder, self.numbers[holder], self.now_ms, results, want)
        answer = do(self.db, op)
        for result, ack, expected in zip(results, answer.acks, acks, strict=True):
            if expected == Ack.OK:
                assert ack == Ack.OK
                self.committed(holder, result)
            else:
                # What was reported before may run again, by somebody's wish.
                assert ack == expected or (ack == Ack.STALE and expected == Ack.DUPLICATE)
        self.model.settle()
        expected_claims = self.model.claimable(self.model.lane_of[holder])[:want]
        assert [claim.task for claim in answer.claims] == expected_claims
        for claim in answer.claims:
            task = self.model.tasks[claim.task]
            task.state, task.holder, task.attempt = Task.RUNNING, holder, task.attempt + 1
            assert claim.attempt == task.attempt
        if repeat:
            again = do(self.db, op)
            assert again.claims == answer.claims
            assert again.acks == answer.acks
            assert set(again.counts) <= set(answer.counts)

    def committed(self, holder: int, result: Result) -> None:
        task = self.model.tasks[result.task]
        self.reported.append((holder, result))
        retry = task.retry
        if (
            retry is not None
            and retry.most
            and result.status
            and not result.message
            and not task.cancelling
            and task.lane not in self.model.cancelled
            and (not retry.codes or result.status in retry.codes)
        ):
            task.retry = retry._replace(most=retry.most - 1)
            task.state = Task.READY
            return
        task.state = Task.CANCELLED if result.message else Task.FINISHED
        task.status = result.status
        task.commits += 1
        assert task.commits == 1

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self.running()))
        task = self.model.tasks[number]
        self.numbers[task.holder] += 1
        op = ops.Exchange(
            task.holder, self.numbers[task.holder], self.now_ms, returned=((number, task.attempt),)
        )
        do(self.db, op)
        self.model.drop(task)
        self.model.settle()

    @precondition(lambda self: self.running())
    @rule(data=st.data(), status=st.sampled_from([-15, 0]))
    def die_in_peace(self, data: st.DataObject, status: int) -> None:
        number = data.draw(st.sampled_from(self.running()))
        task = self.model.tasks[number]
        struck = do(self.db, ops.ReportDeath(task.holder, number, task.attempt, status, "", self.now_ms))
        self.model.drop(task)
        assert struck.state == task.state
        self.model.settle()

    @precondition(lambda self: len(self.model.leases) > 2)
    @rule(data=st.data())
    def end_holder(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(sorted(self.model.leases)))
        held = self.running(holder)
        assert do(self.db, ops.EndHolder(holder, self.now_ms)).tasks == len(held)
        self.ended(holder)

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def reconcile(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(sorted(self.model.leases)))
        mine = self.running(holder)
        kept = [number for number in mine if data.draw(st.booleans())]
        held = tuple((number, self.model.tasks[number].attempt) for number in kept)
        assert do(self.db, ops.Reconcile(holder, held, self.now_ms)).returned == len(mine) - len(kept)
        for number in set(mine) - set(kept):
            self.model.drop(self.model.tasks[number])
        self.model.settle()

    @rule(data=st.data(), passed_ms=st.integers(0, LEASE_MS // 4), renew=st.booleans())
    def sweep(self, data: st.DataObject, passed_ms: int, renew: bool) -> None:
        self.now_ms += passed_ms
        if renew and self.model.leases:
            holder = data.draw(st.sampled_from(sorted(self.model.leases)))
            do(self.db, ops.RenewHolders((holder,), self.now_ms + LEASE_MS, self.now_ms))
            self.model.leases[holder] = self.now_ms + LEASE_MS
        expired = sorted(holder for holder, until_ms in self.model.leases.items() if until_ms < self.now_ms)
        swept = do(self.db, ops.Sweep(self.now_ms, 500))
        assert sorted(swept.expired) == expired
        for holder in expired:
            self.ended(holder)

    def ended(self, holder: int) -> None:
        del self.model.leases[holder]
        for number in self.running(holder):
            self.model.drop(self.model.tasks[number])
        self.model.settle()

    @precondition(lambda self: self.running())
    @rule(data=st.data(), state=st.sampled_from([Exec.FETCH_RESOURCE, Exec.EXEC_PENDING]))
    def exec_state(self, data: st.DataObject, state: Exec) -> None:
        number = data.draw(st.sampled_from(self.running()))
        task = self.model.tasks[number]
        told = do(self.db, ops.ExecStates(task.holder, ((number, task.attempt, state),), self.now_ms))
        assert told.tasks == 1

    # ---- what holds after each ----

    @invariant()
    def counters_are_true(self) -> None:
        if hasattr(self, "model"):
            assert recount(self.db) == []

    @invariant()
    def the_queue_is_what_the_model_says(self) -> None:
        if not hasattr(self, "model"):
            return
        rows = self.db.rows("SELECT id, state, attempt, lane FROM tasks ORDER BY id")
        found = {number: (Task(state), attempt, lane) for number, state, attempt, lane in rows}
        assert found == {n: (task.state, task.attempt, task.lane) for n, task in self.model.tasks.items()}
        for number, (state, _, _) in found.items():
            old = self.before.get(number, state)
            # Several edges in one operation are a walk; what has ended leaves its end by one edge only.
            assert old == state or old not in ENDED or (old, state) in TASK_EDGES
        self.before = {number: state for number, (state, _, _) in found.items()}
        for lane in self.suites:
            state = self.db.rows("SELECT state FROM lanes WHERE id = ?", (lane,))[0][0]
            assert (state == Suite.CANCELLED) == (lane in self.model.cancelled)


def run(db: Connection, examples: int, emptying: str) -> None:
    machine: Any = type("Histories", (Histories,), {"db": db, "emptying": emptying})
    run_state_machine_as_test(
        machine,
        settings=settings(
            # A shorter example would take longer to find than the test may last.
            phases=[Phase.generate], max_examples=examples, stateful_step_count=50, deadline=None, database=None,
            derandomize=not FUZZ_S,            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip


FUZZ_S = os.environ.get("FUZZ_S", "")


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else tmp_path) as folder:
        yield Path(folder)


def test_histories_in_sqlite(memory: Path) -> None:
    db = SqliteEngine(memory / "queue.db").open()
    run(db, 100, "DELETE FROM")
    db.close()


@pytest.mark.xdist_group("postgres")
def test_histories_in_postgresql(postgres: str) -> None:
    db = PostgresEngine(postgres, "histories").open()
    run(db, 100, "TRUNCATE")
    db.close()


@pytest.mark.xdist_group("postgres")
def test_suites_with_random_histories_in_postgresql(postgres: str) -> None:
    """Those of the core, as deep as in SQLite."""
    db = PostgresEngine(postgres, "random_suites").open()
    test_suites_random.run(db, test_suites_random.EXAMPLES)
    db.close()
