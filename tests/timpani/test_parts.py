"""The parts of the gateway without a daemon: messages, the barrier on a clock of its own, the queue of faults."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from mgmt.adapters.timpani import faults
from mgmt.adapters.timpani.barrier import Barrier, Missing, NotAwaited, Replaced
from mgmt.adapters.timpani.faults import DEADLINE_S, Fault, Queue, Unsent
from mgmt.adapters.timpani.messages import FILES, PACKAGE, SCHEMAS
from mgmt.adapters.timpani.plan import NodePlan, Plan, Slot, in_force
from mgmt.protocol.protobuf import serialize
from tests.protos import PROTO, published
from tests.system.clients import PATIENCE_S

S_NS = 1_000_000_000
MS_NS = 1_000_000


# ---- messages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_the_published_schema_is_the_table(name: str) -> None:
    text = (PROTO / name).read_text(encoding="utf-8")
    assert 'syntax = "proto3";' in text
    assert published(text) == FILES[name]
    assert (
        published(text.replace("returns (NodeResponse)", "").replace("tasks = 2", "tasks = 3")) != FILES[name]
    )


# Bytes worked out by hand from the ancestor's field numbers and types.
WIRE: list[tuple[str, dict[str, Any], str]] = [
    ("Response", {"status": -1}, "08 ffffffffffffffffff01"),
    (
        "SchedInfo",
        {
            "workload_id": "w",
            "tasks": [
                {
                    "name": "a", "priority": 50, "policy": 2, "cpu_affinity": 1 << 63, "period": 10_000,
                    "release_time": 3, "runtime": -1, "deadline": 5, "node_id": "n", "max_dmiss": 4,
                }
            ],
        },
        "0a0177 1229 0a0161 1032 1802 2080808080808080808001 28904e 3003 38ffffffffffffffffff01 4005 4a016e 5004",
    ),
    ("FaultInfo", {"workload_id": "w", "node_id": "n", "task_name": "t", "type": 1}, "0a0177 12016e 1a0174 2001"),
    ("NodeSchedRequest", {"node_id": "n"}, "0a016e"),
    (
        "NodeSchedResponse",
        {
            "workload_id": "w",
            "hyperperiod_us": 1,
            "tasks": [
                {
                    "name": "a", "sched_priority": 1, "sched_policy": 2, "period_us": 3, "release_time_us": 4,
                    "runtime_us": 5, "deadline_us": 6, "cpu_affinity": 7, "max_dmiss": 8, "assigned_node": "n",
                }
            ],
        },
        "0a0177 1001 1a16 0a0161 1001 1802 2003 2804 3005 3806 4007 4808 52016e",
    ),
    ("SyncRequest", {"node_id": "n"}, "0a016e"),
    ("SyncResponse", {"ack": True, "start_time_sec": 2, "start_time_nsec": 3}, "0801 1002 1803"),
    ("DeadlineMissInfo", {"node_id": "n", "task_name": "t"}, "0a016e 120174"),
    ("NodeResponse", {"status": 1, "error_message": "e"}, "0801 120165"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "fields", "wire"), WIRE)
def test_a_message_is_exactly_these_bytes(name: str, fields: dict[str, Any], wire: str) -> None:
    message = SCHEMAS.message_class(f"{PACKAGE}.{name}")(**fields)
    assert serialize(message).hex() == wire.replace(" ", "")
    assert SCHEMAS.parse(f"{PACKAGE}.{name}", bytes.fromhex(wire)) == message


# ---- the plan ---------------------------------------------------------------------------------------------


def a_row(task: str, **fields: Any) -> dict[str, Any]:
    usual = {"workload": "w", "node": "n", "cpu": 1, "policy": "fifo", "priority": 5, "period_us": 1000}
    times = {"wcet_us": 10, "deadline_us": 1000, "release_us": 0, "max_dmiss": 0}
    return {"task": task, **usual, **times, **fields}


def a_plan(*rows: dict[str, Any], **hyperperiods_us: int) -> Plan:
    lengths = hyperperiods_us or {"w": 1000}
    workloads = [{"workload": name, "version": 1, "hyperperiod_us": us} for name, us in lengths.items()]
    return in_force({"workloads": workloads, "tasks": rows}, lambda node: node != "stranger")


def test_a_plan_has_the_masks_and_the_common_hyperperiod() -> None:
    plan = a_plan(a_row("a", cpu=63), a_row("b", workload="v"), a_row("c", node="stranger"), w=4_000, v=6_000)
    node = plan.nodes["n"]
    assert set(plan.nodes) == {"n"}
    assert (node.hyperperiod_us, node.workload_id, node.problem) == (12_000, "w,v", "")
    assert [slot.mask for slot in node.slots] == [1 << 63, 1 << 1]
    assert plan.versions == (("v", 1), ("w", 1))


@pytest.mark.parametrize(
    ("row", "words"),
    [(a_row("a", cpu=64), "CPU 64"), (a_row("a", policy="deadline"), "policy deadline")],
)
def test_what_cannot_be_told_is_a_problem_of_that_node_only(row: dict[str, Any], words: str) -> None:
    plan = a_plan(row, a_row("b", node="m"))
    assert words in plan.nodes["n"].problem and not plan.nodes["m"].problem


def test_a_hyperperiod_beyond_63_bits_is_a_problem() -> None:
    plan = a_plan(a_row("a"), a_row("b", workload="v"), w=(1 << 40) - 1, v=(1 << 40) + 1)
    assert "63 bits" in plan.nodes["n"].problem


def test_a_node_may_cut_names_to_fifteen_bytes() -> None:
    def slot(name: str) -> Slot:
        return Slot("w", name, 1, 1, 1000, 0, 10, 1000, 0, 1, 0)

    long, other, short = slot("x" * 15 + "1"), slot("x" * 15 + "2"), slot("y" * 20)
    node = NodePlan(1000, (long, other, short, slot("y" * 15)))
    assert list(node.named(long.name)) == [long]
    assert list(node.named("x" * 15)) == [long, other]
    assert [found.name for found in node.named("y" * 15)] == ["y" * 15], "the very name comes first"
    assert not node.named("z")


def test_equal_plans_have_equal_fingerprints() -> None:
    one, same, other = a_plan(a_row("a")), a_plan(a_row("a")), a_plan(a_row("a", wcet_us=11))
    assert one == same and one.fingerprint == same.fingerprint
    assert one != other and one.fingerprint != other.fingerprint


# ---- the barrier ------------------------------------------------------------------------------------------


class Clock:
    now_ns = 1_000 * S_NS

    def __call__(self) -> int:
        return self.now_ns


def turned(*calls: Coroutine[Any, Any, Any]) -> list[Any]:
    """What each of the calls at the same time ends with."""

    async def together() -> list[Any]:
        return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), PATIENCE_S)

    return asyncio.run(together())


def a_barrier(clock: Clock, timeout_s: float = PATIENCE_S, **hyperperiods_us: int) -> Barrier:
    barrier = Barrier(timeout_s, clock)
    barrier.renew(hyperperiods_us or {"a": 7_000, "b": 7_000})
    return barrier


def test_all_get_the_same_instant_a_second_ahead() -> None:
    clock = Clock()
    barrier = a_barrier(clock)
    assert turned(barrier.join("a"), barrier.join("a"), barrier.join("b")) == [clock.now_ns + S_NS] * 3
    assert isinstance(turned(barrier.join("c"))[0], NotAwaited)


@pytest.mark.parametrize("step_s", [0.8, 1.0, 3_600.0, -3_600.0])
def test_who_comes_later_gets_an_instant_of_the_grid(step_s: float) -> None:
    """Also when the clock was set, forwards or back."""
    clock = Clock()
    barrier = a_barrier(clock)
    start_ns, _ = turned(barrier.join("a"), barrier.join("b"))
    clock.now_ns += round(0.1 * S_NS)
    assert turned(barrier.join("b")) == [start_ns], "there is time enough for the common start itself"
    clock.now_ns += round(step_s * S_NS)
    (late_ns,) = turned(barrier.join("a"))
    assert (late_ns - start_ns) % (7 * MS_NS) == 0
    assert 250 * MS_NS <= late_ns - clock.now_ns < 257 * MS_NS


def test_without_a_hyperperiod_a_late_node_starts_soon() -> None:
    clock = Clock()
    barrier = a_barrier(clock, a=0)
    turned(barrier.join("a"))
    clock.now_ns += 10 * S_NS
    assert turned(barrier.join("a")) == [clock.now_ns + S_NS // 4]


def test_a_timeout_names_who_is_missing_and_leaves_nothing_behind() -> None:
    barrier = a_barrier(Clock(), 0.02)
    for _ in range(2):
        (error,) = turned(barrier.join("a"))
        assert isinstance(error, Missing) and error.args == ("b",)
    assert isinstance(turned(barrier.join("b"))[0], Missing), "who timed out does not count as ready"
    assert len(set(turned(barrier.join("a"), barrier.join("b")))) == 1


def test_who_hangs_up_is_not_waited_with() -> None:
    barrier = a_barrier(Clock(), 0.02)

    async def hang_up() -> None:
        call = asyncio.ensure_future(barrier.join("b"))
        await asyncio.sleep(0)
        assert barrier.missing() == ["a"]
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert barrier.missing() == ["a", "b"]

    turned(hang_up())
    assert isinstance(turned(barrier.join("a"))[0], Missing)


def test_another_generation_wakes_all_and_starts_afresh() -> None:
    barrier = a_barrier(Clock())

    async def renew() -> None:
        barrier.renew({"b": 1_000})

    first, second, _ = turned(barrier.join("a"), barrier.join("a"), renew())
    assert isinstance(first, Replaced) and isinstance(second, Replaced)
    assert isinstance(turned(barrier.join("a"))[0], NotAwaited)
    assert isinstance(turned(barrier.join("b"))[0], int)


# ---- the queue --------------------------------------------------------------------------------------------


def a_fault(number: int) -> Fault:
    return Fault(number, "w", "n", "t", 0, 0, number)


def test_a_sink_may_hang_for_ten_seconds_and_hears_each_miss_once() -> None:
    assert DEADLINE_S > 10, "a call that is given up is repeated, and the sink may have had it"


def test_what_fails_is_repeated_until_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "MIN_PAUSE_S", 0.001)
    tries: dict[int, int] = {}

    async def notify(fault: Fault) -> None:
        tries[fault.number] = tries.get(fault.number, 0) + 1
        if tries[fault.number] < 3:
            raise Unsent("not now")

    async def flow() -> int:
        queue = Queue(notify)
        assert all(queue.put(a_fault(number)) for number in range(100))
        running = asyncio.ensure_future(queue.run())
        left = await queue.drained(PATIENCE_S)
        running.cancel()
        assert queue.delivered == 100
        return left

    assert turned(flow()) == [0]
    assert set(tries.values()) == {3} and len(tries) == 100


def test_a_full_queue_takes_no_more_and_says_so() -> None:
    async def notify(fault: Fault) -> None:
        await asyncio.Event().wait()

    async def flow() -> int:
        queue = Queue(notify, 2)
        assert [queue.put(a_fault(number)) for number in range(3)] == [True, True, False]
        running = asyncio.ensure_future(queue.run())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert queue.put(a_fault(4)), "the senders have taken two"
        left = await queue.drained(0.01)
        running.cancel()
        return left

    assert turned(flow()) == [3]
