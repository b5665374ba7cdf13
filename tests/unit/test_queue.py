"""What every engine of the queue does: one suite of tests for SQLite and PostgreSQL."""

from __future__ import annotations

from typing import Any

import pytest

from mgmt.core.suites import operations as ops
from mgmt.core.suites.operations import Ack, After, Exchange, Extra, NewTask, Result, Retry, Submit
from mgmt.core.suites.states import Exec, Suite, Task
from mgmt.protocol import defaults
from mgmt.protocol.errors import MgmtError
from tests.unit.queues import FOREVER_MS, SPEC, Asked


def make_suite(ask: Asked, **more: Any) -> int:
    suite: int = ask(ops.CreateSuite(group="g", creator="u", now_ms=1000, **more)).suite
    return suite


def submit(ask: Asked, lane: int, *tasks: NewTask, key: str = "", now_ms: int = 2000) -> int:
    """The number of the first one."""
    first: int = ask(Submit(lane, tasks or (NewTask(SPEC),), "u", now_ms, key)).first
    return first


def after(*wanted: After, labels: tuple[str, ...] = ()) -> NewTask:
    return NewTask(SPEC, 0, Extra(after=wanted, labels=labels))


class Holder:
    """A holder that counts its exchanges."""

    def __init__(
        self, ask: Asked, suite: int = 0, node: str = "n1", lease_until_ms: int = FOREVER_MS
    ) -> None:
        self.ask = ask
        self.number = 0
        self.id = ask(ops.OpenHolder(node, "d1", lease_until_ms, 2000, suite)).holder

    def exchange(self, *results: Result, want: int = 0, **more: Any) -> ops.Exchanged:
        self.number += 1
        exchanged: ops.Exchanged = self.ask(
            Exchange(self.id, self.number, more.pop("now_ms", 3000), results, want, **more)
        )
        return exchanged

    def claim(self, want: int = 1, **more: Any) -> list[ops.Claim]:
        return list(self.exchange(want=want, **more).claims)

    def finish(self, claim: ops.Claim, status: int = 0, message: str = "", **more: Any) -> ops.Exchanged:
        return self.exchange(Result(claim.task, claim.attempt, status, message), **more)


def task(ask: Asked, number: int) -> ops.TaskRecord:
    record: ops.TaskRecord = ask(ops.GetTask(number))
    return record


def suite_of(ask: Asked, number: int) -> ops.SuiteRecord:
    record: ops.SuiteRecord = ask(ops.GetSuite(number))
    return record


def refused(ask: Asked, code: str, op: Any) -> MgmtError:
    with pytest.raises(MgmtError) as refusal:
        ask(op)
    assert refusal.value.code == code, refusal.value.text
    return refusal.value


# ---- suites -----------------------------------------------------------------------------------------------


def test_a_suite_is_what_was_created(ask: Asked) -> None:
    made = ask(
        ops.CreateSuite(
            "g",
            "u",
            1000,
            name="night",
            tags=("b", "a", "a"),
            labels=("x",),
            priority=7,
            record=b"\x80\x00\xff",
        )
    )
    assert made == suite_of(ask, made.suite)
    assert (made.name, made.group, made.creator, made.tags, made.labels) == (
        "night",
        "g",
        "u",
        ("a", "b"),
        ("x",),
    )
    assert (made.priority, made.record, made.counts.state, made.created_ms) == (
        7,
        b"\x80\x00\xff",
        Suite.OPEN,
        1000,
    )
    changed = ask(ops.ChangeSuite(made.suite, 1500, priority=-1, labels=("y", "z"), record=b"r"))
    assert (changed.priority, changed.labels, changed.record) == (-1, ("y", "z"), b"r")
    refused(ask, "unknown-suite", ops.GetSuite(made.suite + 1))
    refused(ask, "unknown-suite", ops.ChangeSuite(made.suite + 1, 1500, priority=1))


def test_a_suite_created_twice_with_one_key_is_one(ask: Asked) -> None:
    wanted = ops.CreateSuite("g", "u", 1000, key="k")
    first, second = ask(wanted), ask(wanted)
    assert first == second
    assert ask(ops.CreateSuite("g", "somebody else", 1000, key="k")).suite != first.suite


def test_an_empty_suite_stays_open(ask: Asked) -> None:
    suite = make_suite(ask)
    ask(ops.Sweep(10**9, 180_000))
    assert suite_of(ask, suite).counts.state == Suite.OPEN


def test_a_suite_completes_with_its_last_task_and_opens_again(ask: Asked) -> None:
    suite = make_suite(ask)
    submit(ask, suite, NewTask(SPEC), NewTask(SPEC))
    holder = Holder(ask, suite)
    first, second = holder.claim(2)
    assert holder.finish(first).counts[0].state == Suite.OPEN
    done = holder.finish(second, now_ms=4000).counts[0]
    assert (done.state, done.total, done.pending, done.finished) == (Suite.COMPLETE, 2, 0, 2)
    assert suite_of(ask, suite).completed_ms == 4000
    submit(ask, suite, now_ms=5000)
    record = suite_of(ask, suite)
    assert (record.counts.state, record.completed_ms, record.submitted_ms) == (Suite.OPEN, 0, 5000)


def test_a_suite_without_submissions_closes_while_tasks_are_pending(ask: Asked) -> None:
    suite, empty = make_suite(ask), make_suite(ask)
    submit(ask, suite, now_ms=2000)
    swept = ask(ops.Sweep(2999, 1000))
    assert (swept.closed, swept.next_ms) == ((), 3000)
    swept = ask(ops.Sweep(3000, 1000))
    assert swept.closed == (suite,) and swept.counts[0].state == Suite.CLOSED and swept.next_ms == 0
    assert suite_of(ask, empty).counts.state == Suite.OPEN
    submit(ask, suite, now_ms=3500)  # it opens again, and does not close with the next sweep
    assert ask(ops.Sweep(3600, 1000)).next_ms == 4500
    assert suite_of(ask, suite).counts.state == Suite.OPEN


def test_closing_by_hand(ask: Asked) -> None:
    suite = make_suite(ask)
    submit(ask, suite)
    assert ask(ops.CloseSuite(suite, 2000)).state == Suite.CLOSED
    assert ask(ops.CloseSuite(suite, 2000)).state == Suite.CLOSED
    holder = Holder(ask, suite)  # a closed one is worked off
    holder.finish(holder.claim()[0])
    assert suite_of(ask, suite).counts.state == Suite.COMPLETE
    refused(ask, "conflict", ops.CloseSuite(suite, 2000))
    refused(ask, "unknown-suite", ops.CloseSuite(suite + 1, 2000))


def test_closing_one_that_is_done_completes_nothing_else(ask: Asked) -> None:
    suite = make_suite(ask)
    assert ask(ops.CloseSuite(suite, 2000)).state == Suite.CLOSED  # empty: never complete by itself
    ask(ops.Sweep(10**9, 1000))
    assert suite_of(ask, suite).counts.state == Suite.CLOSED


def test_cancelling_a_suite_keeps_what_runs(ask: Asked) -> None:
    suite = make_suite(ask)
    first = submit(ask, suite, *[NewTask(SPEC)] * 4, after(After(0)))
    holder = Holder(ask, suite)
    running = holder.claim(1)[0]
    cancelled = ask(ops.CancelSuite(suite, 3000, "enough"))
    assert cancelled.count == 4 and cancelled.running == ()
    assert cancelled.counts[0][1:] == (Suite.CANCELLED, 5, 1, 0, 1, 0, 0, 4)
    assert [task(ask, first + n).state for n in range(5)] == [2, 4, 4, 4, 4]
    again = ask(ops.CancelSuite(suite, 3100))
    assert (again.count, again.running) == (0, ())
    refused(ask, "conflict", Submit(suite, [NewTask(SPEC)], "u", 3000))
    refused(ask, "conflict", ops.CloseSuite(suite, 3000))
    assert holder.claim() == []
    counts = holder.finish(running, now_ms=3300).counts[0]
    assert (counts.state, counts.pending, counts.finished) == (Suite.CANCELLED, 0, 1)
    record = suite_of(ask, suite)
    assert (record.completed_ms, record.reason) == (3300, "enough")
    refused(ask, "conflict", ops.OpenHolder("n2", "d1", FOREVER_MS, 2000, suite))


def test_cancelling_a_suite_with_what_runs(ask: Asked) -> None:
    suite = make_suite(ask)
    submit(ask, suite, *[NewTask(SPEC)] * 3)
    holder = Holder(ask, suite)
    one, two = holder.claim(2)
    ask(ops.CancelSuite(suite, 3000))
    cancelled = ask(ops.CancelSuite(suite, 3000, running=True))  # asked for later
    assert cancelled.running == ((holder.id, one.task, one.attempt), (holder.id, two.task, two.attempt))
    assert set(holder.exchange().cancelling) == {one[:2], two[:2]}
    renewed = ask(ops.RenewHolders((holder.id,), FOREVER_MS, 3000))
    assert renewed.cancelling == cancelled.running
    holder.finish(one, -15, "UserCancellation")
    holder.finish(two)  # it was faster
    assert (task(ask, one.task).state, task(ask, two.task).state) == (Task.CANCELLED, Task.FINISHED)
    counts = suite_of(ask, suite).counts
    assert (counts.pending, counts.cancelled, counts.finished) == (0, 2, 1)


def test_what_is_orphaned_in_a_cancelled_suite_is_cancelled(ask: Asked) -> None:
    suite = make_suite(ask)
    number = submit(ask, suite)
    holder = Holder(ask, suite)
    holder.claim()
    ask(ops.CancelSuite(suite, 3000))
    ended = ask(ops.EndHolder(holder.id, 3000))
    assert ended.tasks == 1 and ended.counts[0].pending == 0
    assert task(ask, number).state == Task.CANCELLED


def test_suites_are_found(ask: Asked) -> None:
    one = make_suite(ask, name="a", tags=("gpu", "x_y"), labels=("blue",))
    two = make_suite(ask, name="b", tags=("gpu",), labels=("blue", "big"))
    three = ask(ops.CreateSuite("h", "v", 1000, tags=("xzy",))).suite

    def found(**wanted: Any) -> list[int]:
        return [each.suite for each in ask(ops.ListSuites(ops.SuiteFilter(**wanted))).suites]

    assert found() == [three, two, one]
    assert found(tags=("gpu",)) == [two, one]
    assert found(tags=("x_y",)) == [one]
    assert found(tags=("gp",)) == []
    assert found(labels=("big", "blue")) == [two]
    assert found(groups=("h",)) == [three] and found(creators=("u",)) == [two, one]
    assert found(name="b") == [two]
    assert found(states=(Suite.CANCELLED,)) == []
    ask(ops.CancelSuite(one, 2000))
    assert found(states=(Suite.CANCELLED, Suite.CLOSED)) == [one]
    page = ask(ops.ListSuites(limit=1, offset=1))
    assert [each.suite for each in page.suites] == [two] and page.count == 3
    assert ask(ops.ListSuites(count_only=True)) == ops.Suites((), 3)


# ---- submitting -------------------------------------------------------------------------------------------


def test_a_submission_repeated_with_its_key_is_one(ask: Asked) -> None:
    suite = make_suite(ask)
    wanted = Submit(suite, [NewTask(SPEC, 3), NewTask(b"\x80")], "u", 2000, "k")
    first, again = ask(wanted), ask(wanted)
    assert (first.known, again.known) == (False, True)
    assert (first.first, first.count, first.sequence) == (again.first, again.count, again.sequence)
    assert again.counts.total == 2
    refused(ask, "conflict", Submit(suite, [NewTask(SPEC)], "u", 2000, "k"))
    assert not ask(Submit(suite, [NewTask(SPEC)], "v", 2000, "k")).known  # keys are a caller's own
    ask(ops.CancelSuite(suite, 3000))
    assert ask(wanted).known  # an answer that was lost is told even then


def test_what_cannot_be_submitted_changes_nothing(ask: Asked) -> None:
    suite = make_suite(ask)
    refused(ask, "unknown-suite", Submit(suite + 1, [NewTask(SPEC)], "u", 2000))
    refused(ask, "bad-body", Submit(suite, [], "u", 2000))
    refused(ask, "unknown-task", Submit(suite, [NewTask(SPEC), after(After(77))], "u", 2000))
    refused(ask, "bad-body", Submit(suite, [NewTask(SPEC), after(After(-1))], "u", 2000))
    assert suite_of(ask, suite).counts.total == 0


def test_tasks_are_numbered_in_their_group(ask: Asked) -> None:
    one, other = make_suite(ask), ask(ops.CreateSuite("h", "u", 1000)).suite
    lane = ask(ops.OpenLane("g", (), 1000)).lane
    assert ask(Submit(one, [NewTask(SPEC)] * 3, "u", 2000)).sequence == 1
    assert ask(Submit(other, [NewTask(SPEC)], "u", 2000)).sequence == 1
    last = ask(Submit(lane, [NewTask(SPEC)] * 2, "u", 2000))
    assert last.sequence == 4 and task(ask, last.first + 1).sequence == 5


def test_a_task_is_what_was_submitted(ask: Asked) -> None:
    suite = make_suite(ask)
    extra = Extra(
        labels=("b", "a"), retry=Retry(2, (1, 2), 50), after=(After(0), After(0, reached=Exec.EXEC_SPAWNED))
    )
    number = submit(ask, suite, NewTask(b"\x00up"), NewTask(b"\x00\xffspec", -5, extra)) + 1
    record = task(ask, number)
    assert (record.spec, record.priority, record.labels) == (b"\x00\xffspec", -5, ("a", "b"))
    assert (record.lane, record.group, record.creator, record.submitted_ms) == (suite, "g", "u", 2000)
    assert (record.state, record.attempt, record.status) == (Task.PENDING, 0, None)
    assert record.after == (After(number - 1), After(number - 1, reached=Exec.EXEC_SPAWNED))
    refused(ask, "unknown-task", ops.GetTask(number + 1))


# ---- claims and results -----------------------------------------------------------------------------------


def test_tasks_are_claimed_by_priority_then_age(ask: Asked) -> None:
    suite = make_suite(ask)
    first = submit(ask, suite, *[NewTask(SPEC, priority) for priority in (0, 5, -5, 5, 0)])
    claims = Holder(ask, suite).claim(10)
    assert [claim.task - first for claim in claims] == [1, 3, 0, 4, 2]
    assert [claim.priority for claim in claims] == [5, 5, 0, 0, -5]
    assert {claim.attempt for claim in claims} == {1} and {claim.spec for claim in claims} == {SPEC}


def test_a_result_is_kept(ask: Asked) -> None:
    suite = make_suite(ask)
    number = submit(ask, suite)
    holder = Holder(ask, suite, node="here")
    (claim,) = holder.claim()
    holder.exchange(Result(claim.task, 1, 3, "ExecTimeout", 2500, 2600, b"\x00\xfftail"))
    record = task(ask, number)
    assert (record.state, record.status, record.message) == (Task.FINISHED, 3, "ExecTimeout")
    assert (record.started_ms, record.finished_ms, record.detail) == (2500, 2600, b"\x00\xfftail")
    assert (record.node, record.holder, record.attempt) == ("here", holder.id, 1)


def test_an_exchange_repeated_gives_the_same_answer(ask: Asked) -> None:
    suite = make_suite(ask)
    submit(ask, suite, *[NewTask(SPEC)] * 6)
    holder = Holder(ask, suite)
    claims = holder.claim(2)
    results = [Result(claim.task, claim.attempt, 0) for claim in claims]
    op = Exchange(holder.id, 2, 3000, results, 2)
    first = ask(op)
    assert first.acks == (Ack.OK, Ack.OK) and len(first.claims) == 2
    for _ in range(2):
        again = ask(op)
        assert (again.claims, again.acks, again.counts) == (first.claims, first.acks, first.counts)
    assert ask(Exchange(holder.id, 1, 3000, (), 2)).claims == ()  # what that one claimed has ended
    third = ask(Exchange(holder.id, 3, 3000, results, 1))
    assert third.acks == (Ack.DUPLICATE, Ack.DUPLICATE) and len(third.claims) == 1
    assert ask(op).claims == first.claims  # an older one that was on its way


def test_a_result_counts_once(ask: Asked) -> None:
    suite = make_suite(ask)
    submit(ask, suite)
    holder = Holder(ask, suite)
    (claim,) = holder.claim()
    result = Result(claim.task, claim.attempt, 0)
    exchanged = holder.exchange(result, result._replace(status=9))
    assert exchanged.acks == (Ack.OK, Ack.DUPLICATE)
    assert holder.exchange(result._replace(status=9)).acks == (Ack.DUPLICATE,)
    assert task(ask, claim.task).status == 0


def test_only_the_holder_commits(ask: Asked) -> None:
    suite = make_suite(ask)
    submit(ask, suite, *[NewTask(SPEC)] * 2)
    mine, rival = Holder(ask, suite), Holder(ask, suite, node="n2")
    (claim,) = mine.claim()
    wrong = (Result(claim.task, claim.attempt, 0), Result(claim.task + 1, 1, 0), Result(10**12, 1, 0))
    assert rival.exchange(*wrong).acks == (Ack.STALE,) * 3
    assert mine.exchange(Result(claim.task, claim.attempt + 1, 0)).acks == (Ack.STALE,)
    assert task(ask, claim.task).state == Task.RUNNING
    assert mine.finish(claim).acks == (Ack.OK,)


def test_an_epoch_that_has_ended_is_stale(ask: Asked) -> None:
    suite = make_suite(ask)
    submit(ask, suite)
    old = Holder(ask, suite, lease_until_ms=5000)
    (claim,) = old.claim()
    assert ask(ops.Sweep(5000, 10**9)).expired == ()
    swept = ask(ops.Sweep(5001, 10**9))
    assert (swept.expired, swept.returned, swept.counts[0].ready) == ((old.id,), 1, 1)
    new = Holder(ask, suite, node="n2")
    (taken,) = new.claim()
    assert (taken.task, taken.attempt) == (claim.task, claim.attempt + 1)
    late = Result(claim.task, claim.attempt, 0)
    refused(ask, "stale", Exchange(old.id, 2, 6000, (late,), 1))
    refused(ask, "stale", ops.Reconcile(old.id, ((claim.task, 1),), 6000))
    refused(ask, "stale", ops.ReportDeath(old.id, claim.task, 1, -9, "", 6000))
    assert ask(ops.RenewHolders((old.id, new.id), FOREVER_MS, 6000)).gone == (old.id,)
    assert ask(ops.EndHolder(old.id, 6000)).tasks == 0
    new.finish(taken, 7)
    assert task(ask, claim.task).status == 7


def test_a_lease_is_renewed(ask: Asked) -> None:
    holder = Holder(ask, make_suite(ask), lease_until_ms=5000)
    assert ask(ops.RenewHolders((holder.id,), 9000, 4000)) == ops.Renewed((), ())
    swept = ask(ops.Sweep(6000, 10**9))
    assert swept.expired == () and swept.next_ms == 9001
    (record,) = ask(ops.ListHolders())
    assert (record.holder, record.node, record.owner, record.lease_until_ms) == (holder.id, "n1", "d1", 9000)
    assert ask(ops.ListHolders(owner="d2")) == ()


def test_what_is_given_back_is_claimed_again(ask: Asked) -> None:
    suite = make_suite(ask)
    submit(ask, suite, *[NewTask(SPEC)] * 3)
    holder = Holder(ask, suite)
    one, two, three = holder.claim(3)
    exchanged = holder.exchange(returned=(one[:2], (two.task, two.attempt + 1)))
    assert (exchanged.counts[0].ready, exchanged.counts[0].running) == (1, 2)
    assert Holder(ask, suite, node="n2").claim(5) == [one._replace(attempt=2)]
    assert ask(ops.ListHolders())[0].held == 2
    assert three.task == task(ask, three.task).task


def test_reconciling_after_a_lost_reply(ask: Asked) -> None:
    suite = make_suite(ask)
    submit(ask, suite, *[NewTask(SPEC)] * 4)
    holder = Holder(ask, suite)
    known, unheard, cancelled, _ = holder.claim(4)
    holder.finish(_)
    ask(ops.CancelTasks(ops.TaskFilter(tasks=(cancelled.task,)), 3000, running=True))
    held = (known[:2], cancelled[:2], (_.task, _.attempt), (10**12, 1))
    reconciled = ask(ops.Reconcile(holder.id, held, 3000))
    assert reconciled.returned == 1 and task(ask, unheard.task).state == Task.READY
    assert reconciled.foreign == ((_.task, _.attempt), (10**12, 1))
    assert reconciled.cancelling == (cancelled[:2],)


# ---- independent tasks ------------------------------------------------------------------------------------


def test_independent_workers_and_suites_never_cross(ask: Asked) -> None:
    suite = make_suite(ask)
    plain, tagged = ask(ops.OpenLane("g", (), 1000)).lane, ask(ops.OpenLane("g", ("x", "y"), 1000)).lane
    assert ask(ops.OpenLane("g", ("y", "x"), 1000)).lane == tagged != plain
    in_suite = submit(ask, suite)
    low = submit(ask, plain, NewTask(SPEC, 0))
    high = submit(ask, tagged, NewTask(SPEC, 9))
    managed, free = Holder(ask, suite), Holder(ask)
    assert [claim.task for claim in managed.claim(5, lanes=(plain, tagged))] == [in_suite]
    assert free.claim(5, lanes=(suite,)) == []
    claims = free.claim(5, lanes=(plain, suite, tagged))
    assert [claim.task for claim in claims] == [high, low]
    counts = free.exchange(*[Result(claim.task, 1, 0) for claim in claims]).counts
    assert [(each.lane, each.state, each.pending) for each in counts] == [(plain, 0, 0), (tagged, 0, 0)]
    assert [lane.lane for lane in ask(ops.ListLanes())] == [suite]
    everything = ask(ops.ListLanes(pending_only=False))
    assert [(lane.lane, lane.is_suite, lane.tags) for lane in everything] == [
        (suite, True, ()), (plain, False, ()), (tagged, False, ("x", "y")),
    ]  # fmt: skip


def test_groups_take_turns_among_tasks_of_one_priority(ask: Asked) -> None:
    lanes = {group: ask(ops.OpenLane(group, (), 1000)).lane for group in "ab"}
    first = [submit(ask, lanes["a"]) for _ in range(4)]
    second = [submit(ask, lanes["b"]) for _ in range(4)]
    urgent = submit(ask, lanes["b"], NewTask(SPEC, 9))
    free = Holder(ask)
    claimed = [claim.task for claim in free.claim(5, lanes=tuple(lanes.values()))]
    assert claimed == [urgent, first[0], first[1], second[0], first[2]]
    claimed = [claim.task for claim in free.claim(4, lanes=tuple(lanes.values()))]
    assert claimed == [second[1], first[3], second[2], second[3]], "what runs counts"


# ---- dependencies -----------------------------------------------------------------------------------------


def test_a_task_waits_for_all_it_comes_after(ask: Asked) -> None:
    suite = make_suite(ask)
    first = submit(ask, suite, NewTask(SPEC), NewTask(SPEC), after(After(0), After(-1)))
    holder = Holder(ask, suite)
    one, two = holder.claim(9)
    assert holder.finish(one, 5).counts[0].ready == 0
    assert holder.finish(two).counts[0].ready == 1
    assert [claim.task for claim in holder.claim(9)] == [first + 2]


def test_a_task_after_a_success_is_cancelled_by_a_failure(ask: Asked) -> None:
    suite = make_suite(ask)
    first = submit(
        ask,
        suite,
        NewTask(SPEC),
        after(After(0)),
        after(After(0, success=True)),
        after(After(-2)),
        after(After(-3)),
    )
    holder = Holder(ask, suite)
    (one,) = holder.claim(9)
    counts = holder.finish(one, 1).counts[0]
    assert (counts.ready, counts.cancelled, counts.pending) == (1, 3, 1)
    assert [task(ask, first + n).state for n in range(5)] == [3, 1, 4, 4, 4]
    assert str(first) in task(ask, first + 2).message
    holder.finish(holder.claim()[0])
    assert suite_of(ask, suite).counts.state == Suite.COMPLETE


def test_what_comes_after_tasks_of_before(ask: Asked) -> None:
    """Settled at once where these have ended."""
    one, other = make_suite(ask), make_suite(ask)
    good, bad, open_, gone = (submit(ask, one) for _ in range(4))
    holder = Holder(ask, one)
    claims = holder.claim(3)
    holder.finish(claims[0])
    holder.finish(claims[1], 1)
    ask(ops.CancelTasks(ops.TaskFilter(tasks=(gone,)), 3000))
    first = submit(
        ask, other,
        after(After(good, success=True)), after(After(bad, success=True)), after(After(bad)), after(After(gone)),
        after(After(open_)), after(After(-1)), after(After(good), After(open_, success=True)),
    )  # fmt: skip
    assert [task(ask, first + n).state for n in range(7)] == [1, 4, 1, 4, 0, 4, 0]
    counts = holder.finish(claims[2]).counts
    assert [(each.lane, each.ready) for each in counts] == [(one, 0), (other, 4)]


def test_cancelling_takes_what_waits_along(ask: Asked) -> None:
    one, other = make_suite(ask), make_suite(ask)
    upstream = submit(ask, one)
    first = submit(ask, other, after(After(upstream)), after(After(0)), NewTask(SPEC))
    cancelled = ask(ops.CancelSuite(one, 3000))
    assert cancelled.count == 3
    assert [task(ask, first + n).state for n in range(3)] == [4, 4, 1]


def test_a_watch_waits_for_an_exec_state(ask: Asked) -> None:
    suite = make_suite(ask)
    first = submit(
        ask, suite, NewTask(SPEC), after(After(0, reached=Exec.EXEC_SPAWNED)),
        after(After(0, reached=Exec.TASK_COMMITTED)), after(After(0, reached=Exec.EXEC_TIMEOUT)),
    )  # fmt: skip
    holder = Holder(ask, suite)
    (claim,) = holder.claim(9)

    def told(state: Exec) -> ops.Returned:
        answer: ops.Returned = ask(ops.ExecStates(holder.id, ((claim.task, claim.attempt, state),), 3000))
        return answer

    assert told(Exec.FETCH_RESOURCE).counts == ()
    assert task(ask, first).exec_state == Exec.FETCH_RESOURCE
    assert told(Exec.EXEC_FINISHED).counts[0].ready == 1  # past it is enough
    assert [task(ask, first + n).state for n in range(1, 4)] == [1, 0, 0]
    holder.finish(claim)
    assert [task(ask, first + n).state for n in range(1, 4)] == [1, 1, 4]
    assert task(ask, first + 3).message == "WatchTimeout"
    assert ask(ops.ExecStates(holder.id, ((claim.task, claim.attempt, 12),), 3000)).tasks == 0


def test_a_result_brings_its_downstream_task(ask: Asked) -> None:
    suite = make_suite(ask)
    submit(ask, suite)
    holder = Holder(ask, suite)
    (claim,) = holder.claim()
    result = Result(claim.task, claim.attempt, 0, new_task=NewTask(b"next", 4, Extra(labels=("l",))))
    exchanged = holder.exchange(result, want=1)
    assert [(each.spec, each.priority) for each in exchanged.claims] == [(b"next", 4)]
    assert exchanged.counts[0][1:] == (Suite.OPEN, 2, 1, 0, 1, 1, 0, 0)
    record = task(ask, exchanged.claims[0].task)
    assert (record.sequence, record.creator, record.labels) == (2, "u", ("l",))
    assert holder.exchange(result).acks == (Ack.DUPLICATE,)
    ask(ops.CancelSuite(suite, 3000))
    holder.exchange(Result(record.task, 1, 0, new_task=NewTask(b"third")))
    assert task(ask, record.task).message == "SubmitNewTaskFailed"
    assert suite_of(ask, suite).counts.total == 2


# ---- retries, strikes, dead letters -----------------------------------------------------------------------


def test_a_non_zero_exit_is_a_result(ask: Asked) -> None:
    suite = make_suite(ask)
    number = submit(ask, suite)
    holder = Holder(ask, suite)
    assert holder.finish(holder.claim()[0], status=1).retried == 0
    assert task(ask, number).state == Task.FINISHED


def test_retries_on_chosen_exits(ask: Asked) -> None:
    suite = make_suite(ask)
    number = submit(ask, suite, NewTask(SPEC, 0, Extra(retry=Retry(2, (7,), 100))))
    holder = Holder(ask, suite)
    for attempt in (1, 2):
        (claim,) = holder.claim(now_ms=3000 * attempt)
        assert claim.attempt == attempt
        exchanged = holder.finish(claim, 7, now_ms=3000 * attempt)
        assert exchanged.retried == 1 and exchanged.acks == (Ack.OK,)
        assert holder.exchange(Result(claim.task, claim.attempt, 7)).acks == (Ack.DUPLICATE,)
        record = task(ask, number)
        due_ms = 3000 * attempt + 100 * attempt  # the second delay is twice the first
        assert (record.state, record.due_ms, record.status) == (Task.PENDING, due_ms, 7)
        assert ask(ops.Sweep(due_ms - 1, 10**9)).next_ms == due_ms
        assert ask(ops.Sweep(due_ms, 10**9)).due == 1
    (claim,) = holder.claim()
    assert holder.finish(claim, 7).retried == 0
    assert task(ask, number).state == Task.FINISHED


@pytest.mark.parametrize(("status", "retried"), [(0, 0), (3, 0), (4, 1)])
def test_only_chosen_exits_are_retried(ask: Asked, status: int, retried: int) -> None:
    suite = make_suite(ask)
    submit(ask, suite, NewTask(SPEC, 0, Extra(retry=Retry(1, (4,)))))
    holder = Holder(ask, suite)
    assert holder.finish(holder.claim()[0], status=status).retried == retried
    assert len(holder.claim()) == retried


def die(
    ask: Asked, holder: Holder, claims: list[ops.Claim], status: int | None, *eligible: str
) -> ops.Struck:
    (claim,) = claims
    struck: ops.Struck = ask(
        ops.ReportDeath(holder.id, claim.task, claim.attempt, status, f"died of {status}", 3000, eligible)
    )
    return struck


@pytest.mark.parametrize(("status", "limit"), [(-11, 2), (-9, 3), (1, 3), (None, 3)])
def test_strikes_exclude_a_node(ask: Asked, status: int | None, limit: int) -> None:
    suite = make_suite(ask)
    number = submit(ask, suite)
    here, there = Holder(ask, suite, "here"), Holder(ask, suite, "there")
    for strike in range(1, limit + 1):
        claims = here.claim()
        assert claims[0].attempt == strike
        struck = die(ask, here, claims, status, "here", "there")
        assert (struck.strikes, struck.excluded, struck.state) == (strike, strike == limit, Task.READY)
        assert struck.counts[0].ready == 1
    assert here.claim() == []
    (claim,) = there.claim()
    there.exchange(returned=(claim[:2],))
    (claim,) = here.claim(fallback=True)
    record = task(ask, number)
    assert record.excluded == ("here",) and len(record.history) == limit
    assert record.history[0] == (1, "here", 3000, status, f"died of {status}")
    here.finish(claim)
    assert task(ask, number).history == ()  # a success forgets them


def test_struck_out_everywhere_is_the_dead_letter(ask: Asked) -> None:
    suite = make_suite(ask)
    number = submit(ask, suite, NewTask(SPEC), after(After(0)))
    here, there = Holder(ask, suite, "here"), Holder(ask, suite, "there")
    for holder in (here, there):
        for _ in range(2):
            struck = die(ask, holder, holder.claim(), -11, "here", "there")
    assert struck.state == Task.FAILED
    record = task(ask, number)
    assert (record.state, record.message, len(record.history)) == (Task.FAILED, "died of -11", 4)
    counts = suite_of(ask, suite).counts
    assert (counts.state, counts.failed, counts.cancelled) == (Suite.COMPLETE, 1, 1)
    ask(ops.RetryTask(number, 4000))
    assert task(ask, number).history == () and suite_of(ask, suite).counts.state == Suite.OPEN
    (claim,) = here.claim()
    assert (claim.task, claim.attempt) == (number, 5)
    here.finish(claim)


@pytest.mark.parametrize("status", [0, -15, -2])
def test_an_end_that_was_wanted_is_no_strike(ask: Asked, status: int) -> None:
    suite = make_suite(ask)
    submit(ask, suite)
    holder = Holder(ask, suite)
    for _ in range(2 * defaults.MAX_TASK_ATTEMPTS):
        struck = die(ask, holder, holder.claim(), status, "n1")
        assert (struck.strikes, struck.excluded, struck.state) == (0, False, Task.READY)


def test_a_poison_task_ends_somewhere(ask: Asked) -> None:
    """Whatever the nodes are called, and even when nobody sees how it kills them."""
    suite = make_suite(ask)
    number = submit(ask, suite)
    for round_ in range(defaults.MAX_TASK_ATTEMPTS):
        assert task(ask, number).state == Task.READY
        holder = Holder(ask, suite, f"n{round_}", lease_until_ms=2500)
        (claim,) = holder.claim()
        if round_ % 2:
            die(ask, holder, [claim], -9, *(f"n{n}" for n in range(20)))
        else:
            ask(ops.ExecStates(holder.id, ((claim.task, claim.attempt, Exec.EXEC_SPAWNED),), 3000))
        ask(ops.Sweep(9000, 10**9))
    assert task(ask, number).state == Task.FAILED
    assert len(task(ask, number).history) == defaults.MAX_TASK_ATTEMPTS


def test_prefetched_tasks_of_lost_nodes_are_not_blamed(ask: Asked) -> None:
    suite = make_suite(ask)
    number = submit(ask, suite)
    for _ in range(2 * defaults.MAX_TASK_ATTEMPTS):
        holder = Holder(ask, suite)
        assert len(holder.claim()) == 1
        assert ask(ops.EndHolder(holder.id, 3000)).tasks == 1
    assert task(ask, number).state == Task.READY


def test_a_cancelled_task_that_kills_its_worker_is_cancelled(ask: Asked) -> None:
    suite = make_suite(ask)
    number = submit(ask, suite)
    holder = Holder(ask, suite)
    (claim,) = holder.claim()
    ask(ops.CancelTasks(ops.TaskFilter(tasks=(number,)), 3000, running=True))
    assert die(ask, holder, [claim], -9, "n1").state == Task.CANCELLED


# ---- tasks of before --------------------------------------------------------------------------------------


def test_cancelling_tasks(ask: Asked) -> None:
    suite = make_suite(ask)
    first = submit(ask, suite, *[NewTask(SPEC)] * 2, after(After(-1)), after(After(-2)), NewTask(SPEC))
    holder = Holder(ask, suite)
    (claim,) = holder.claim()
    wanted = ops.TaskFilter(tasks=(first, first + 1))
    cancelled = ask(ops.CancelTasks(wanted, 3000, reason="why not"))
    assert (cancelled.count, cancelled.running) == (3, ())
    assert [task(ask, first + n).state for n in range(5)] == [2, 4, 4, 4, 1]
    assert task(ask, first + 1).message == "why not"
    cancelled = ask(ops.CancelTasks(wanted, 3000, running=True))
    assert (cancelled.count, cancelled.running) == (0, ((holder.id, claim.task, claim.attempt),))
    assert task(ask, first).cancelling
    holder.finish(claim, -15, "UserCancellation")
    assert task(ask, first).state == Task.CANCELLED
    assert ask(ops.CancelTasks(ops.TaskFilter(lane=suite), 3000)).count == 1
    assert suite_of(ask, suite).counts.state == Suite.COMPLETE


def test_changing_a_task(ask: Asked) -> None:
    suite = make_suite(ask)
    first = submit(ask, suite, NewTask(SPEC), NewTask(SPEC, 0, Extra(labels=("old",))))
    ask(ops.ChangeTask(first + 1, 3000, priority=9, labels=("new", "new", "b")))
    record = task(ask, first + 1)
    assert (record.priority, record.labels) == (9, ("b", "new"))
    ask(ops.ChangeTask(first + 1, 3000, labels=()))
    assert task(ask, first + 1).labels == ()
    (claim,) = Holder(ask, suite).claim()
    assert claim.task == first + 1
    refused(ask, "conflict", ops.ChangeTask(first + 1, 3000, priority=1))
    refused(ask, "unknown-task", ops.ChangeTask(first + 2, 3000, priority=1))


def test_retrying_by_hand(ask: Asked) -> None:
    suite = make_suite(ask)
    number = submit(ask, suite, NewTask(SPEC, 0, Extra(labels=("l",))))
    refused(ask, "conflict", ops.RetryTask(number, 3000))
    refused(ask, "unknown-task", ops.RetryTask(number + 1, 3000))
    holder = Holder(ask, suite)
    old = holder.claim()[0]
    holder.finish(old, 1)
    counts = ask(ops.RetryTask(number, 3000))
    assert (counts.state, counts.ready, counts.finished) == (Suite.OPEN, 1, 0)
    record = task(ask, number)
    assert (record.status, record.labels, record.finished_ms) == (None, ("l",), 0)
    (claim,) = holder.claim()
    assert claim.attempt == 2
    assert holder.finish(old).acks == (Ack.STALE,)
    ask(ops.CancelSuite(suite, 3000))
    holder.finish(claim)
    refused(ask, "conflict", ops.RetryTask(number, 3000))


def test_tasks_are_found(ask: Asked) -> None:
    suite = make_suite(ask, tags=("gpu",))
    lane = ask(ops.OpenLane("h", ("cpu",), 1000)).lane
    labelled = Extra(labels=("a", "b"))
    first = submit(
        ask, suite, NewTask(SPEC, 1, labelled), NewTask(SPEC, 2), NewTask(SPEC, 3, Extra(labels=("a",)))
    )
    other = ask(Submit(lane, [NewTask(SPEC)], "v", 2000)).first
    holder = Holder(ask, suite, "node-7")
    (claim,) = holder.claim()
    holder.finish(claim, 4)

    def found(**wanted: Any) -> list[int]:
        tasks = ask(ops.ListTasks(ops.TaskFilter(**wanted)))
        assert tasks.count == len(tasks.tasks)
        return [each.task - first for each in tasks.tasks]

    assert found() == [0, 1, 2, 3] and other == first + 3
    assert found(lane=suite) == [0, 1, 2] and found(lane=lane) == [3]
    assert found(independent=True) == [3] and found(independent=False) == [0, 1, 2]
    assert found(labels=("a",)) == [0, 2] and found(labels=("a", "b")) == [0]
    assert found(tags=("cpu",)) == [3] and found(groups=("g",)) == [0, 1, 2] and found(creators=("v",)) == [3]
    assert found(states=(Task.FINISHED,)) == [2] and found(nodes=("node-7",)) == [2]
    assert found(priority=(">=", 2)) == [1, 2] and found(priority=("!=", 2), lane=suite) == [0, 2]
    assert found(exit_status=("=", 4)) == [2] and found(exit_status=("<", 4)) == []
    assert found(tasks=(first + 1, first + 3)) == [1, 3]
    page = ask(ops.ListTasks(ops.TaskFilter(), limit=2, offset=1))
    assert [each.task - first for each in page.tasks] == [1, 2] and page.count == 4
    assert page.tasks[1].labels == ("a",)
    assert ask(ops.ListTasks(ops.TaskFilter(lane=suite), count_only=True)) == ops.Tasks((), 3)
    refused(ask, "bad-body", ops.ListTasks(ops.TaskFilter(priority=("LIKE", 1))))


def test_what_is_over_is_forgotten(ask: Asked) -> None:
    done, open_ = make_suite(ask), make_suite(ask)
    lane = ask(ops.OpenLane("g", (), 1000)).lane
    everything = Extra(labels=("l",), retry=Retry(1))
    for where in (done, open_, lane):
        submit(ask, where, *[NewTask(SPEC, 0, everything)] * 3)
    for where in (done, open_, lane):
        holder = Holder(ask, where if where != lane else 0)
        claims = holder.claim(3 if where == done else 1, lanes=(lane,), now_ms=3000)
        holder.exchange(*[Result(claim.task, claim.attempt, 0) for claim in claims])
        ask(ops.EndHolder(holder.id, 3000))
    assert ask(ops.Prune(3000, 5000)) == ops.Pruned(0, (), False)
    assert ask(ops.Prune(3001, 5000, most=2)) == ops.Pruned(2, (), True)
    pruned = ask(ops.Prune(3001, 5000))
    assert pruned == ops.Pruned(2, (done,), False)
    refused(ask, "unknown-suite", ops.GetSuite(done))
    assert ask(ops.ListTasks(ops.TaskFilter(), count_only=True)).count == 5
    assert suite_of(ask, open_).counts.total == 3
    assert {each.lane: each.counts.total for each in ask(ops.ListLanes())} == {open_: 3, lane: 2}
    fresh = submit(ask, open_)
    assert fresh == 10  # numbers are never used again


# ---- operations beside each other -------------------------------------------------------------------------


def test_a_refused_operation_leaves_those_of_its_commit_alone(ask: Asked) -> None:
    suite = make_suite(ask)
    good = Submit(suite, [NewTask(SPEC)], "u", 2000)
    bad = Submit(suite + 9, [NewTask(SPEC)], "u", 2000)
    outcomes = ask.outcomes([good, bad, good, Exchange(99, 1, 2000), good] * 20)
    codes = [outcome.code if isinstance(outcome, MgmtError) else "" for outcome in outcomes]
    assert codes == ["", "unknown-suite", "", "stale", ""] * 20
    assert suite_of(ask, suite).counts.total == 60


def test_answers_come_in_the_order_of_asking(ask: Asked) -> None:
    suite = make_suite(ask)
    outcomes = ask.outcomes([Submit(suite, [NewTask(SPEC)], "u", 2000)] * 50)
    assert [outcome.counts.total for outcome in outcomes] == list(range(1, 51))


def test_a_queue_is_there_again(engine: Any) -> None:
    first = Asked(engine)
    suite = make_suite(first)
    submit(first, suite, *[NewTask(SPEC)] * 5)
    holder = Holder(first, suite)
    claims = holder.claim(2)
    queue_id = engine.queue_id
    first.close()
    second = Asked(engine)
    try:
        assert engine.queue_id == queue_id
        counts = suite_of(second, suite).counts
        assert (counts.total, counts.ready, counts.running) == (5, 3, 2)
        holder.ask = second
        assert second(Exchange(holder.id, 1, 3000)).claims == tuple(claims)
        assert holder.finish(claims[0]).acks == (Ack.OK,)
        assert second.recount() == []
    finally:
        second.close()


def test_an_exchange_tells_what_became_of_the_tasks_it_is_asked_about(ask: Asked) -> None:
    suite = make_suite(ask)
    ended = submit(ask, suite, NewTask(SPEC), NewTask(SPEC, 0, Extra(retry=Retry(1))), NewTask(SPEC))
    again, other = ended + 1, ended + 2
    holder = Holder(ask, suite)
    results = [Result(claim.task, claim.attempt, claim.task - ended) for claim in holder.claim(2)]
    exchanged = holder.exchange(*results, told=(again, ended))
    assert exchanged.told == (task(ask, ended), task(ask, again))
    assert [one.state for one in exchanged.told] == [Task.FINISHED, Task.READY]
    assert holder.exchange(Result(other, 7, 0), told=(other,)).told == (), "it was not its to tell"


def test_a_submission_is_a_waiting_holders_when_nothing_comes_before_it(ask: Asked) -> None:
    suite = make_suite(ask)
    holder = Holder(ask, suite)

    def offered(*tasks: NewTask, number: int, want: int = 2, key: str = "", by: int = 0) -> ops.Submitted:
        waiting = ops.Waiting(by or holder.id, number, want)
        submitted: ops.Submitted = ask(Submit(suite, tasks, "u", 2000, key, waiting))
        return submitted

    taken = offered(NewTask(SPEC), NewTask(b"\x80", 5), number=1)
    assert [(claim.task - taken.first, *claim[1:]) for claim in taken.claims] == [
        (0, 1, 0, SPEC),
        (1, 1, 5, b"\x80"),
    ]
    assert (taken.counts.ready, taken.counts.running) == (0, 2)
    assert task(ask, taken.first).state == Task.RUNNING
    repeated = ask(Exchange(holder.id, 1, 3000, (), 2))
    assert sorted(repeated.claims) == list(taken.claims), (
        "its exchange was that, and has the same answer again"
    )
    holder.number = 1
    assert set(holder.exchange(*(Result(c.task, c.attempt, 0) for c in taken.claims)).acks) == {Ack.OK}
    assert suite_of(ask, suite).counts.state == Suite.COMPLETE

    assert offered(NewTask(SPEC), number=2).claims == (), "that exchange was another"
    (before,) = holder.claim()
    assert offered(NewTask(SPEC), NewTask(SPEC), NewTask(SPEC), number=4).claims == (), "more than it wants"
    assert offered(NewTask(SPEC), number=4).claims == (), "others come first"
    assert len(holder.claim(9)) == 4
    assert offered(after(labels=("l",)), number=5).claims == (), "it is not a plain one"
    holder.claim()
    assert offered(NewTask(SPEC), number=9, by=holder.id + 1).claims == (), "there is no such holder"
    holder.claim()
    first = offered(NewTask(SPEC), number=9, key="k")
    again = offered(NewTask(SPEC), number=10, key="k")
    assert first.claims and again.known and not again.claims
    holder.number = 9
    assert holder.finish(before).acks == (Ack.OK,)
    ask(ops.EndHolder(holder.id, 4000))
    assert offered(NewTask(SPEC), number=11).claims == (), "it has ended"
    assert ask.recount() == []
