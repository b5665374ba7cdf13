"""Submitters and nodes of TIMPANI's family against a real daemon, over real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import jsonschema
import psutil
import pytest

from mgmt_cli.schemas import schema_of
from tests.rt.rig import SOURCES, build
from tests.system.clients import PATIENCE_S
from tests.system.daemon import ROOT, Daemon, Start
from tests.timpani.gateway import Gateway, refused
from tests.timpani.node import Node
from tests.timpani.sink import Sink
from tests.timpani.submitter import Outcome, Submitter, a_task, sched_info

MS_NS = 1_000_000


@pytest.fixture(scope="module")
def shared(start_shared: Start) -> Daemon:
    return start_shared()


@pytest.fixture
def daemon(shared: Daemon) -> Iterator[Daemon]:
    """The daemon of all tests here, with nothing in force."""
    yield shared
    for row in shared.control.ok("schedule-show")["workloads"]:
        shared.control.ok("schedule-remove", workload=row["workload"])


@asynccontextmanager
async def two_nodes(gateway: Gateway) -> AsyncIterator[tuple[Submitter, Node, Node]]:
    async with (
        Submitter(gateway.submitters) as submitter,
        Node(gateway.nodes, "node01") as one,
        Node(gateway.nodes, "node02") as two,
    ):
        yield submitter, one, two


def both_nodes(workload: str = "w", **fields: Any) -> Any:
    return sched_info(workload, a_task("a", "node01", **fields), a_task("b", "node02", **fields))


async def code_of(call: Any) -> tuple[grpc.StatusCode, str]:
    """How gRPC says that a call failed."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def until(condition: Any, what: str) -> None:
    """Poll an async condition."""
    end_s = time.monotonic() + PATIENCE_S
    while not await condition():
        assert time.monotonic() < end_s, f"not in time: {what}"
        await asyncio.sleep(0.01)


# ---- submitting and fetching ------------------------------------------------------------------------------


def test_a_workload_goes_from_the_submitter_to_its_nodes(daemon: Daemon) -> None:
    async def flow(gateway: Gateway) -> None:
        async with two_nodes(gateway) as (submitter, one, two):
            code, text = await code_of(one.schedule())
            assert code == grpc.StatusCode.NOT_FOUND and "no workload" in text
            info = sched_info(
                "w",
                a_task("a", priority=60, release_time=250, deadline=8_000, max_dmiss=3, cpu_affinity=1 << 3),
                a_task("b", policy=2, priority=40, period=20_000, deadline=0),
                a_task("c", "node02", policy=0, priority=0, cpu_affinity=0xFFFF_FFFF, runtime=2_500),
            )
            assert await submitter.add(info) == Outcome(0)
            got = await one.schedule()
            assert (got.workload_id, got.hyperperiod_us) == ("w", 20_000)
            a, b = got.tasks
            assert (a.name, a.sched_priority, a.sched_policy, a.period_us) == ("a", 60, 1, 10_000)
            assert (a.release_time_us, a.runtime_us, a.deadline_us, a.max_dmiss) == (250, 1_000, 8_000, 3)
            assert (a.cpu_affinity, a.assigned_node) == (1 << 3, "node01")
            assert (b.name, b.sched_policy, b.deadline_us) == ("b", 2, 20_000), "0 means: the period"
            assert b.cpu_affinity in (1 << 2, 1 << 3)
            (c,) = (await two.schedule()).tasks
            assert (c.name, c.sched_policy, c.runtime_us, c.assigned_node) == ("c", 0, 2_500, "node02")
            async with Node(gateway.nodes, "stranger") as stranger:
                assert not (await stranger.schedule()).tasks

    with Gateway(daemon) as gateway:
        jsonschema.validate(gateway.told, schema_of("mgmt.timpani-gateway/1"))
        asyncio.run(flow(gateway))
    rows = daemon.control.ok("schedule-show", workload="w")["tasks"]
    assert {row["task"]: (row["node"], row["cpu"]) for row in rows}["a"] == ("node01", 3)


BAD: list[tuple[str, Any, str, str]] = [
    ("no tasks", sched_info("w"), "bad-workload", "no task"),
    ("no id", sched_info("", a_task("a")), "bad-workload", "the workload's name"),
    ("no name", sched_info("w", a_task("")), "bad-workload", "the task's name"),
    ("twice", sched_info("w", a_task("a"), a_task("a")), "bad-workload", "duplicate"),
    ("long name", sched_info("w", a_task("a" * 300)), "bad-workload", "256"),
    ("period", sched_info("w", a_task("a", period=-5)), "bad-workload", "task 'a': period is -5"),
    ("runtime", sched_info("w", a_task("a", runtime=-1)), "bad-workload", "task 'a': runtime is -1"),
    ("deadline", sched_info("w", a_task("a", deadline=-1)), "bad-workload", "task 'a': deadline is -1"),
    (
        "release",
        sched_info("w", a_task("a", release_time=-1)),
        "bad-workload",
        "task 'a': release_time is -1",
    ),
    ("misses", sched_info("w", a_task("a", max_dmiss=-1)), "bad-workload", "task 'a': max_dmiss is -1"),
    ("least", sched_info("w", a_task("a", period=-(1 << 31))), "bad-workload", "period is -2147483648"),
    ("zero period", sched_info("w", a_task("a", period=0)), "bad-workload", "period is 0"),
    ("too long", sched_info("w", a_task("a", runtime=10_001)), "bad-workload", "runtime is 10001"),
    ("priority", sched_info("w", a_task("a", priority=100)), "bad-workload", "priority is 100"),
    ("fifo 0", sched_info("w", a_task("a", priority=0)), "bad-workload", "priority is 0"),
    ("policy", sched_info("w", a_task("a", policy=7)), "bad-workload", "policy is 7"),
    ("node", sched_info("w", a_task("a", "node9")), "bad-workload", "'node9', which is not configured"),
    ("no node", sched_info("w", a_task("a", "")), "not-schedulable", "node"),
    ("mask", sched_info("w", a_task("a", cpu_affinity=1 << 60)), "not-schedulable", "a"),
    ("load", sched_info("w", *(a_task(n, runtime=9_000) for n in "abc")), "not-schedulable", "node01"),
]


def test_a_refusal_names_its_reason_and_changes_nothing(daemon: Daemon) -> None:
    async def flow(gateway: Gateway) -> None:
        async with two_nodes(gateway) as (submitter, one, _):
            assert (await submitter.add(both_nodes())).status == 0
            before = await one.schedule()
            for what, info, code, words in BAD:
                outcome = await submitter.add(info)
                assert (outcome.status, outcome.code) == (-1, code), (what, outcome)
                assert words in outcome.reason, (what, outcome)
                assert await one.schedule() == before, what

    with Gateway(daemon) as gateway:
        asyncio.run(flow(gateway))
        assert "task 'a': period is -5" in gateway.log()


def test_an_oversized_workload_is_refused_and_hurts_nobody(daemon: Daemon) -> None:
    def many(count: int) -> Any:
        return sched_info("w", *(a_task(f"{i:0200}") for i in range(count)))

    async def flow(gateway: Gateway) -> None:
        async with two_nodes(gateway) as (submitter, one, _):
            outcome = await submitter.add(many(6_000))
            assert (outcome.status, outcome.code) == (-1, "too-large"), outcome
            code, _ = await code_of(submitter.add(many(80_000)))
            assert code == grpc.StatusCode.RESOURCE_EXHAUSTED, "gRPC's own limit"
            assert (await submitter.add(both_nodes())).status == 0
            assert len((await one.schedule()).tasks) == 1

    with Gateway(daemon) as gateway:
        asyncio.run(flow(gateway))


def test_the_same_name_replaces_and_another_joins(daemon: Daemon) -> None:
    async def flow(gateway: Gateway) -> None:
        async with two_nodes(gateway) as (submitter, one, two):
            assert (await submitter.add(both_nodes())).status == 0
            assert (await submitter.add(sched_info("w", a_task("c")))).status == 0
            assert [task.name for task in (await one.schedule()).tasks] == ["c"]
            assert not (await two.schedule()).tasks
            assert (await submitter.add(sched_info("v", a_task("d", period=25_000)))).status == 0
            got = await one.schedule()
            assert [task.name for task in got.tasks] == ["d", "c"]
            assert (got.workload_id, got.hyperperiod_us) == ("v,w", 50_000)

    with Gateway(daemon) as gateway:
        asyncio.run(flow(gateway))


def test_what_operators_do_reaches_the_nodes(daemon: Daemon) -> None:
    """A native change is followed; tasks on nodes that are not of the family are none of theirs."""
    tasks = [
        {"name": "n", "period_us": 5_000, "wcet_us": 100, "priority": 9, "node": "node02"},
        {"name": "m", "period_us": 5_000, "wcet_us": 100, "priority": 9, "node": "far"},
    ]
    nodes = {"node02": {"available_cpus": [2, 3, 4, 5]}, "far": {"available_cpus": [0]}}

    async def flow(gateway: Gateway) -> None:
        async with Node(gateway.nodes, "node02") as two, Node(gateway.nodes, "far") as far:
            daemon.control.ok(
                "schedule-submit", documents=[{"workload": "o", "tasks": tasks, "nodes": nodes}]
            )
            got = await two.first_schedule(0.01)
            assert [task.name for task in got.tasks] == ["n"]
            assert not (await far.schedule()).tasks
            assert time.time_ns() < await two.start_ns(5.0), "nobody waits for far"
            daemon.control.ok("schedule-remove", workload="o")

            async def gone() -> bool:
                try:
                    return not (await two.schedule()).tasks
                except grpc.aio.AioRpcError as error:
                    return bool(error.code() == grpc.StatusCode.NOT_FOUND)

            await until(gone, "the removal is heard of")

    with Gateway(daemon) as gateway:
        asyncio.run(flow(gateway))


def test_a_task_that_the_family_cannot_be_told_of_is_said_so(daemon: Daemon) -> None:
    task = {"name": "d", "period_us": 5_000, "wcet_us": 100, "policy": "deadline", "node": "node02"}
    nodes = {"node02": {"available_cpus": [2, 3, 4, 5]}}

    async def flow(gateway: Gateway) -> None:
        async with Node(gateway.nodes, "node02") as two:
            daemon.control.ok(
                "schedule-submit", documents=[{"workload": "o", "tasks": [task], "nodes": nodes}]
            )

            async def told() -> bool:
                code, text = await code_of(two.schedule())
                return bool(code == grpc.StatusCode.FAILED_PRECONDITION and "policy deadline" in text)

            await until(told, "the reason")

    with Gateway(daemon) as gateway:
        asyncio.run(flow(gateway))


def test_a_node_of_the_daemons_machine_has_two_names(daemon: Daemon) -> None:
    host = os.uname().nodename

    async def flow(gateway: Gateway) -> None:
        async with (
            Submitter(gateway.submitters) as submitter,
            Node(gateway.nodes, host) as node,
            Node(gateway.nodes, "local") as local,
        ):
            assert (await submitter.add(sched_info("w", a_task("a", host)))).status == 0
            (task,) = (await node.schedule()).tasks
            assert (task.assigned_node, task.cpu_affinity.bit_count()) == (host, 1)
            assert (await local.schedule()).tasks[0].assigned_node == "local"
            assert await node.start_ns(5.0) > time.time_ns(), "it is all there is to wait for"

    with Gateway(daemon, nodes=None) as gateway:
        asyncio.run(flow(gateway))


def test_readers_see_whole_schedules_while_they_are_replaced(daemon: Daemon) -> None:
    """4 readers, 20 replacements: all tasks of an answer are of one version, and versions never go back."""
    versions, tasks = 20, 30

    def version(number: int) -> Any:
        return sched_info("w", *(a_task(f"t{i}", runtime=100 + number) for i in range(tasks)))

    async def read(gateway: Gateway, done: asyncio.Event) -> list[int]:
        seen: list[int] = []
        async with Node(gateway.nodes, "node01") as node:
            while not done.is_set():
                got = await node.schedule()
                runtimes = {task.runtime_us for task in got.tasks}
                assert len(got.tasks) == tasks and len(runtimes) == 1, got
                seen += runtimes
        return seen

    async def flow(gateway: Gateway) -> None:
        done = asyncio.Event()
        async with Submitter(gateway.submitters) as submitter:
            assert (await submitter.add(version(0))).status == 0
            readers = [asyncio.create_task(read(gateway, done)) for _ in range(4)]
            for number in range(1, versions):
                assert (await submitter.add(version(number))).status == 0
            done.set()
            for seen in await asyncio.gather(*readers):
                assert seen == sorted(seen) and len(set(seen)) > 1

    with Gateway(daemon) as gateway:
        asyncio.run(flow(gateway))


# ---- the common start -------------------------------------------------------------------------------------


def test_all_nodes_start_at_one_instant_and_a_late_one_on_its_grid(daemon: Daemon) -> None:
    async def flow(gateway: Gateway) -> None:
        async with two_nodes(gateway) as (submitter, one, two):
            assert (await submitter.add(both_nodes(period=7_000, deadline=7_000))).status == 0
            async with Node(gateway.nodes, "stranger") as stranger:
                code, text = await code_of(stranger.start_ns())
                assert code == grpc.StatusCode.NOT_FOUND and "node01, node02" in text
            before_ns = time.time_ns()
            first, second = await asyncio.gather(one.start_ns(), two.start_ns())
            assert first == second
            assert before_ns + 900 * MS_NS < first < time.time_ns() + 1_000 * MS_NS
            assert await two.start_ns() in (first, *range(first, first + 2_000 * MS_NS, 7 * MS_NS))

            async def late() -> bool:
                start_ns = await one.start_ns()
                assert (start_ns - first) % (7 * MS_NS) == 0 and start_ns >= first
                return start_ns > first

            await until(late, "the common start is over")

    with Gateway(daemon) as gateway:
        asyncio.run(flow(gateway))


def test_a_missing_node_is_named_and_the_next_try_succeeds(daemon: Daemon) -> None:
    async def flow(gateway: Gateway) -> None:
        async with two_nodes(gateway) as (submitter, one, two):
            assert (await submitter.add(both_nodes())).status == 0
            code, text = await code_of(two.start_ns(0.05))
            assert code == grpc.StatusCode.DEADLINE_EXCEEDED, "its own: it hung up"
            for _ in range(2):  # a barrier that failed once must not fail for ever
                code, text = await code_of(one.start_ns())
                assert code == grpc.StatusCode.DEADLINE_EXCEEDED and "missing: node02" in text
            late = asyncio.create_task(two.start_ns())
            assert await one.start_ns() == await late

    with Gateway(daemon, "-t", "400ms") as gateway:
        asyncio.run(flow(gateway))


def test_a_node_that_waits_hears_of_a_new_schedule(daemon: Daemon) -> None:
    async def flow(gateway: Gateway) -> None:
        async with two_nodes(gateway) as (submitter, one, two):
            assert (await submitter.add(both_nodes())).status == 0
            waiting = asyncio.create_task(one.start_ns())
            runtime = 100
            while not waiting.done():  # the first may come before the node has begun to wait
                runtime += 1
                assert (await submitter.add(both_nodes(runtime=runtime))).status == 0
            code, text = await code_of(waiting)
            assert code == grpc.StatusCode.ABORTED and "fetch it again" in text
            assert len(set(await asyncio.gather(one.start_ns(), two.start_ns()))) == 1
            assert (await submitter.add(both_nodes(runtime=runtime))).status == 0
            assert await one.start_ns(5.0), "the same again is no new schedule"

    with Gateway(daemon) as gateway:
        asyncio.run(flow(gateway))


def test_the_next_gateway_knows_the_common_start(daemon: Daemon) -> None:
    starts: list[int] = []

    async def first(gateway: Gateway) -> None:
        async with two_nodes(gateway) as (submitter, one, two):
            assert (await submitter.add(both_nodes(period=9_000, deadline=9_000))).status == 0
            starts.extend(await asyncio.gather(one.start_ns(), two.start_ns()))

    async def second(gateway: Gateway) -> None:
        async with Submitter(gateway.submitters) as submitter, Node(gateway.nodes, "node01") as one:
            assert (await one.start_ns(5.0) - starts[0]) % (9 * MS_NS) == 0, (
                "alone, on the grid of the others"
            )
            assert (await submitter.add(both_nodes(runtime=500))).status == 0
            code, text = await code_of(one.start_ns())
            assert code == grpc.StatusCode.DEADLINE_EXCEEDED and "node02" in text, (
                "another schedule: all again"
            )

    with Gateway(daemon) as gateway:
        asyncio.run(first(gateway))
    with Gateway(daemon, "-t", "300ms") as gateway:
        asyncio.run(second(gateway))


# ---- faults -----------------------------------------------------------------------------------------------


def test_each_miss_reaches_the_sink_once_with_its_task(daemon: Daemon) -> None:
    long = "a-name-of-more-than-fifteen-bytes"

    async def flow() -> None:
        async with Sink() as sink:
            with Gateway(daemon, "-f", "127.0.0.1", "-p", str(sink.port)) as gateway:
                await told(gateway, sink)

    async def told(gateway: Gateway, sink: Sink) -> None:
        async with two_nodes(gateway) as (submitter, one, two):
            info = sched_info("w", a_task("a"), a_task(long), a_task("b", "node02"))
            assert (await submitter.add(info)).status == 0
            for task in ("a", "a", long[:15], "unknown"):
                assert (await one.miss(task)).status == 0
            sink.status = -1  # heard is heard
            begin_s = time.monotonic()
            assert (await two.miss("b")).status == 0
            heard = await sink.hears(5)
            assert time.monotonic() - begin_s < 1.0
            assert sorted((h.workload, h.node, h.task, h.type) for h in heard) == sorted(
                [("w", "node01", name, 1) for name in ("a", "a", long[:15], "unknown")]
                + [("w", "node02", "b", 1)]
            )
            (b,) = (h.metadata for h in heard if h.task == "b")
            assert int(b["mgmt-fault-cpu"]) in (2, 3, 4, 5) and b["mgmt-fault-misses"] == "1"
            assert abs(int(b["mgmt-fault-time-ns"]) - time.time_ns()) < 60_000 * MS_NS
            assert sorted(h.metadata["mgmt-fault-misses"] for h in heard if h.task == "a") == ["1", "2"]
            assert len({h.metadata["mgmt-fault-id"] for h in heard}) == 5
            for task, words in (("", "task_name has 0"), ("x" * 257, "task_name has 257")):
                answer = await one.miss(task)
                assert answer.status == -1 and words in answer.error_message
            await sink.hears(5)
            assert sink.calls == 5

    def events() -> list[tuple[str, str, str]]:
        told = daemon.control.ok("subscribe", since=0, follow=False)["events"]
        mine = [event for event in told if event["kind"] == "fault" and event["source"] == "timpani-gateway"]
        return sorted((event["workload"], event["node"], event["task"]) for event in mine)

    before = len(events())
    asyncio.run(flow())
    assert len(events()) - before == 5 and ("w", "node02", "b") in events()


def test_a_miss_on_the_daemons_own_node_reaches_the_sink_once(start: Start, tmp_path: Path) -> None:
    client = str(build(SOURCES / "client.c", tmp_path / "client"))
    daemon = start()

    async def flow() -> None:
        async with Sink() as sink:
            with Gateway(daemon, "-f", "127.0.0.1", "-p", str(sink.port)):
                task = {"name": "late", "period_us": 200_000, "wcet_us": 1000, "policy": "normal"}
                late = {**task, "command": [client, "--stop-at", "3"], "max_dmiss": 2, "overrun": "kill"}
                await asyncio.to_thread(
                    daemon.control.ok, "schedule-submit", documents=[{"workload": "own", "tasks": [late]}]
                )
                heard = await sink.hears(2)
                assert {(h.workload, h.node, h.task) for h in heard} == {("own", "local", "late")}
                assert len({h.metadata["mgmt-fault-id"] for h in heard}) == len(heard)
                ended = daemon.unit("own.late")["state"]
                told = daemon.control.ok("subscribe", since=0, follow=False)["events"]
                misses = [event for event in told if event["kind"] == "fault" and event["what"] == "miss"]
                assert len(misses) == sink.calls and ended in ("EXITED", "RUNNING", "STOPPING")

    asyncio.run(flow())


@pytest.mark.parametrize("how", ["hangs", "absent"])
def test_a_sink_that_does_not_answer_delays_nobody_and_loses_nothing(daemon: Daemon, how: str) -> None:
    count = 200

    async def flow() -> None:
        sink = Sink()
        async with sink:  # a port that is free
            pass
        if how == "hangs":
            sink.answers.clear()
            await sink.__aenter__()
        with Gateway(daemon, "-f", "127.0.0.1", "-p", str(sink.port)) as gateway:
            try:
                await reported(gateway)
                if how == "hangs":
                    await until(lambda: asyncio.sleep(0, sink.calls > 1), "several calls are open at once")
                    sink.answers.set()
                else:
                    await sink.__aenter__()
                heard = await sink.hears(count)
                assert sorted(h.task for h in heard) == sorted(f"t{i}" for i in range(count))
                assert sink.calls == count, "none was sent twice"
            finally:
                await sink.__aexit__()

    async def reported(gateway: Gateway) -> None:
        async with two_nodes(gateway) as (submitter, one, two):
            assert (await submitter.add(both_nodes())).status == 0
            slowest_s = 0.0
            for i in range(count):
                begin_s = time.monotonic()
                assert (await one.miss(f"t{i}")).status == 0
                slowest_s = max(slowest_s, time.monotonic() - begin_s)
            assert slowest_s < 2.0
            begin_s = time.monotonic()
            assert (await two.schedule()).tasks
            assert len(set(await asyncio.gather(one.start_ns(), two.start_ns()))) == 1
            assert time.monotonic() - begin_s < 2.0

    asyncio.run(flow())


def test_faults_that_are_left_at_the_end_are_counted(daemon: Daemon) -> None:
    async def flow(gateway: Gateway) -> None:
        async with Node(gateway.nodes, "node01") as node:
            for _ in range(3):
                assert (await node.miss("a")).status == 0

    with Gateway(daemon, "-f", "127.0.0.1", "-p", "1") as gateway:  # nobody listens there
        asyncio.run(flow(gateway))
    assert "3 faults were not told" in gateway.log()


# ---- the daemon, and the gateway's own end ------------------------------------------------------------------


def test_the_daemon_goes_and_comes_back(start: Start) -> None:
    daemon = start()

    async def flow(gateway: Gateway) -> None:
        async with two_nodes(gateway) as (submitter, one, two):
            assert (await submitter.add(both_nodes())).status == 0
            before = await one.schedule()
            daemon.crash()
            outcome = await submitter.add(both_nodes(runtime=500), timeout_s=20.0)
            assert (outcome.status, outcome.code) == (-1, "unreachable"), outcome
            assert await one.schedule() == before, "in force all the same"
            assert len(set(await asyncio.gather(one.start_ns(), two.start_ns()))) == 1
            daemon.start()

            async def again() -> bool:
                return (await submitter.add(both_nodes(runtime=500))).status == 0

            await until(again, "the daemon is found again")
            assert (await one.schedule()).tasks[0].runtime_us == 500

    with Gateway(daemon) as gateway:
        asyncio.run(flow(gateway))


def test_it_listens_on_this_machine_only_unless_told(daemon: Daemon) -> None:
    def addresses(gateway: Gateway) -> set[str]:
        sockets = psutil.Process(gateway.process.pid).net_connections("tcp")
        return {
            socket.laddr.ip.removeprefix("::ffff:")
            for socket in sockets
            if socket.status == psutil.CONN_LISTEN
        }

    with Gateway(daemon) as gateway:
        assert addresses(gateway) == {"127.0.0.1"}
    with Gateway(daemon, "--insecure-listen", "0.0.0.0") as gateway:
        assert addresses(gateway) <= {"0.0.0.0", "::"}


def test_what_is_wrong_at_the_start_is_said(daemon: Daemon, start: Start) -> None:
    with Gateway(daemon) as gateway:
        port = str(gateway.told["node_port"])
        status, error = refused(Gateway(daemon, "-d", port))
        assert (status, error["code"]) == (8, "already-running") and port in error["text"]
    status, error = refused(Gateway(daemon, nodes="nodes:\n  a:\n    available_cpus: [1, 64]\n"))
    assert (status, error["code"]) == (2, "bad-workload") and "CPU 64" in error["text"]
    status, error = refused(Gateway(daemon, nodes="nodes:\n  a:\n    cpu: [1]\n"))
    assert (status, error["code"]) == (2, "bad-workload") and "nodes.yaml:2" in error["text"]
    status, error = refused(Gateway(daemon, "--insecure-listen", "example"))
    assert status == 2 and "no IP address" in error["text"]
    status, error = refused(Gateway(daemon, "--endpoint", "ipc:///nowhere/control"))
    assert (status, error["code"]) == (5, "unreachable")


def test_without_grpcio_the_command_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['grpc'] = None; sys.argv = ['mgmt', 'timpani-gateway']\n"
        "from mgmt_cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 1 and "pip install 'mgmt[grpc]'" in done.stderr, done


# ---- the ancestor's own scheduler ---------------------------------------------------------------------------


def test_compat_places_as_the_ancestor_and_knows_one_workload(daemon: Daemon) -> None:
    async def flow(gateway: Gateway) -> None:
        async with two_nodes(gateway) as (submitter, one, two):
            load = [a_task(f"t{i}", runtime=8_000, deadline=0) for i in range(3)]
            assert (await submitter.add(sched_info("w", *load))).status == 0
            masks = [task.cpu_affinity for task in (await one.schedule()).tasks]
            assert masks == [1 << 3, 1 << 2, (1 << 64) - 1], (
                "descending CPUs, then none, and sent all the same"
            )
            assert (await submitter.add(sched_info("v", a_task("b", "node02")))).status == 0
            assert not (await one.schedule()).tasks, "another name replaces as well"
            for info, words in (
                (sched_info("w"), "no hyperperiod"),
                (sched_info("w", a_task("a", period=0)), "no hyperperiod"),
                (sched_info("w", a_task("a", "node9")), "node01, node02"),
                (sched_info("w", a_task("a", period=-1)), "period is -1"),
            ):
                outcome = await submitter.add(info)
                assert outcome.status == -1 and words in outcome.reason, outcome
            assert [task.name for task in (await two.schedule()).tasks] == ["b"], "a refusal changes nothing"
            raw = sched_info("Apex.OS", a_task("r", "anywhere", cpu_affinity=0x5_0000_0003, period=0))
            assert (await submitter.add(raw)).status == 0
            async with Node(gateway.nodes, "anywhere") as anywhere:
                got = await anywhere.schedule()
                assert (got.hyperperiod_us, got.tasks[0].cpu_affinity) == (0, 0x5_0000_0003)
                assert await anywhere.start_ns(5.0) > time.time_ns()

    with Gateway(daemon, "--mode", "compat") as gateway:
        asyncio.run(flow(gateway))
        assert "got no CPU of node 'node01'" in gateway.log()
    assert not daemon.control.ok("schedule-show")["workloads"]


# ---- the mocks as programs ----------------------------------------------------------------------------------


def test_the_whole_flow_with_every_part_a_process(daemon: Daemon) -> None:
    def program(name: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", f"tests.timpani.{name}", *arguments]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=dict(os.environ))

    workload = daemon.folder / "workload.json"
    tasks = [a_task("a", "node01", policy="FIFO"), a_task("b", "node02", policy="RR")]
    workload.write_text(json.dumps({"workload_id": "w", "tasks": tasks}))
    sink = program("sink", "--port", "0", "--count", "2")
    assert sink.stdout is not None
    port = json.loads(sink.stdout.readline())["port"]
    with Gateway(daemon, "-p", str(port)) as gateway:
        nodes = [
            program("node", "--target", gateway.nodes, "-n", name, "--miss", task)
            for name, task in (("node01", "a"), ("node02", "b"))
        ]
        submitter = program("submitter", "--target", gateway.submitters, str(workload))
        assert submitter.communicate(timeout=PATIENCE_S)[0] == "status 0\n"
        told = [json.loads(node.communicate(timeout=PATIENCE_S)[0]) for node in nodes]
        faults = [json.loads(line) for line in sink.communicate(timeout=PATIENCE_S)[0].splitlines()]
    assert [row["tasks"] for row in told] == [["a"], ["b"]]
    assert told[0]["start_ns"] == told[1]["start_ns"]
    assert sorted((row["workload"], row["node"], row["task"]) for row in faults) == [
        ("w", "node01", "a"),
        ("w", "node02", "b"),
    ]
    assert [process.returncode for process in (submitter, *nodes, sink)] == [0, 0, 0, 0]
