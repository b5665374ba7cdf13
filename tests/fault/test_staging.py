"""Agents, executives, daemons and links that fail between the staging of a workload and its common start."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.system.agents import TIMING, Agent, Join, Proxy, a_daemon, agents, becomes, free_port, measured
from tests.system.clients import eventually
from tests.system.daemon import Daemon, Start
from tests.system.test_schedule_tasks import (
    PERIOD_US,
    client,
    command,
    executives,
    jobs,
    nodes_of,
    read,
    start_of,
    submit,
    task,
    workload,
)

__all__ = ["client"]  # a fixture


@pytest.fixture
def join() -> Iterator[Join]:
    with agents() as make:
        yield make


def of(client: str, *nodes: str, period_us: int = PERIOD_US) -> dict[str, Any]:
    """One task on each of these nodes, named after it."""
    tasks = (task(f"on-{node}", client, node=node, period_us=period_us) for node in nodes)
    return {**workload(*tasks), "nodes": nodes_of("local", "n1", "n2")}


def segments(node: Daemon) -> list[str]:
    folder = node.runtime / "rt"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def has_one_segment(node: Daemon) -> bool:
    return len(segments(node)) == 1


def run(*places: tuple[Daemon, str], cycle_us: int) -> None:
    """Each has one segment, and its task is released by it again and again."""
    for node, unit in places:
        eventually(partial(has_one_segment, node), what=f"{unit} has one segment")
        found = jobs(node, unit, 0)
        assert found.plan.cycle_ns == cycle_us * 1000
        jobs(node, unit, found.completed + 2)


def on_one_grid(daemon: Daemon, *places: tuple[Daemon, str], cycle_us: int) -> None:
    """All nodes have this machine's clock: their starts differ by what was said, and by whole cycles."""
    events = daemon.control.ok("subscribe", since=0, follow=False)["events"]
    said = [
        re.search(r"within ([0-9.]+) ms", event["reason"])
        for event in events
        if event.get("what") == "started"
    ]
    bound_ns = 2e6 * max(float(found[1]) for found in said if found is not None) + 2
    starts = [read(node, unit).t0_ns for node, unit in places]
    rests = [(one - starts[0]) % (cycle_us * 1000) for one in starts]
    assert all(min(rest, cycle_us * 1000 - rest) <= bound_ns for rest in rests), (starts, bound_ns)


@pytest.mark.parametrize("who", ["agent", "executive"])
def test_who_is_stopped_while_it_prepares_is_named_and_the_old_schedule_goes_on(
    start: Start, client: str, join: Join, who: str
) -> None:
    daemon = a_daemon(start, timing={**TIMING, "stage_s": 0.7})
    first, second = join(daemon, "n1"), join(daemon, "n2")
    submit(daemon, of(client, "n1", "n2"))
    before = jobs(first, "w.on-n1", 1)
    (executive,) = executives(second)
    stopped = second.pid if who == "agent" else executive
    assert stopped is not None
    os.kill(stopped, signal.SIGSTOP)
    try:
        new = of(client, "n1", "n2", period_us=2 * PERIOD_US)
        refusal = daemon.control.refused("schedule-submit", documents=[new], replace=True)
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert refusal["code"] == "unreachable" and refusal["detail"]["nodes"] == ["n2"]
    assert "within 0.7 s" in refusal["text"] and "mgmt node list" in refusal["text"]
    becomes(daemon, "n2", "ALIVE")
    run((first, "w.on-n1"), (second, "w.on-n2"), cycle_us=PERIOD_US)
    assert jobs(first, "w.on-n1", 1).pid == before.pid


@pytest.mark.parametrize("in_force", [True, False])
def test_a_daemon_that_is_killed_before_the_start_leaves_all_with_what_was_committed(
    start: Start, client: str, join: Join, in_force: bool
) -> None:
    daemon = a_daemon(start)
    first, second = join(daemon, "n1"), join(daemon, "n2")
    submit(daemon, of(client, "n1", "n2"))
    jobs(first, "w.on-n1", 1)
    new = of(client, "n1", "n2", period_us=2 * PERIOD_US)
    if in_force:
        submit(daemon, new, replace=True)  # its processes are not there yet, or not released
        daemon.crash()
    else:
        (executive,) = executives(second)
        os.kill(executive, signal.SIGSTOP)
        daemon.native().ask("schedule-submit", documents=[new], replace=True)
        eventually(lambda: len(segments(first)) == len(segments(second)) == 2, what="it is being staged")
        daemon.crash()
        os.kill(executive, signal.SIGCONT)
    daemon.start()
    for name in ("n1", "n2"):
        becomes(daemon, name, "ALIVE")
    cycle_us = (1 + in_force) * PERIOD_US
    places = (first, "w.on-n1"), (second, "w.on-n2")
    run(*places, cycle_us=cycle_us)
    on_one_grid(daemon, *places, cycle_us=cycle_us)
    assert submit(daemon, new if in_force else of(client, "n1", "n2"))["already"]


def test_an_agent_that_is_killed_before_the_start_takes_part_in_it(
    start: Start, client: str, join: Join
) -> None:
    daemon = a_daemon(start)
    first, second = join(daemon, "n1"), join(daemon, "n2")
    submit(daemon, of(client, "n1", "n2"))
    second.crash()
    second.start()
    becomes(daemon, "n2", "ALIVE")
    places = (first, "w.on-n1"), (second, "w.on-n2")
    run(*places, cycle_us=PERIOD_US)
    on_one_grid(daemon, *places, cycle_us=PERIOD_US)


def test_an_agent_that_is_restarted_alone_watches_its_tasks(start: Start, client: str, join: Join) -> None:
    daemon = a_daemon(start)
    agent = join(daemon, "n1")
    submit(daemon, of(client, "n1"))
    before = jobs(agent, "w.on-n1", 1)
    daemon.crash()
    agent.crash()
    agent.start()
    after = jobs(agent, "w.on-n1", before.completed + 3)
    assert (after.pid, after.t0_ns) == (before.pid, before.t0_ns)
    eventually(
        lambda: read(agent, "w.on-n1").next_job > after.released, what="somebody looks at its deadlines"
    )
    daemon.start()
    becomes(daemon, "n1", "ALIVE")


def test_a_link_that_breaks_at_the_start_costs_no_more_than_whole_hyperperiods(
    start: Start, client: str, join: Join
) -> None:
    proxy = Proxy(free_port())
    try:
        endpoints = {"nodes": f"tcp://127.0.0.1:{proxy.target}", "insecure": True}
        daemon = a_daemon(start, endpoints=endpoints)
        first = join(proxy.endpoint, "n1", "--insecure")
        second = join(f"tcp://127.0.0.1:{proxy.target}", "n2", "--insecure")
        for name in ("n1", "n2"):
            becomes(daemon, name, "ALIVE")
            measured(daemon, name)
        submit(daemon, of(client, "n1", "n2"))
        proxy.back = False  # what the daemon says from now on is swallowed
        eventually(lambda: daemon.unit("w.on-n2")["state"] == "RUNNING")
        proxy.reset()
        proxy.heal()
        places = (first, "w.on-n1"), (second, "w.on-n2")
        run(*places, cycle_us=PERIOD_US)
        assert start_of(daemon)
        on_one_grid(daemon, *places, cycle_us=PERIOD_US)
    finally:
        proxy.close()


def test_what_was_measured_on_nodes_is_one_answer_and_one_picture(
    start: Start, client: str, join: Join, tmp_path: Any
) -> None:
    daemon = a_daemon(start)
    nodes: list[Agent] = [join(daemon, "n1"), join(daemon, "n2")]
    submit(daemon, of(client, "local", "n1", "n2"))
    for node, unit in zip((*nodes, daemon), ("w.on-n1", "w.on-n2", "w.on-local"), strict=True):
        jobs(node, unit, 2)
    rows = daemon.control.ok("schedule-stat", records=True)["tasks"]
    assert {row["unit"]: row["node"] for row in rows} == {
        "w.on-local": "local",
        "w.on-n1": "n1",
        "w.on-n2": "n2",
    }
    assert all(row["jobs"] > 2 and row["records"] and row["state"] == "released" for row in rows)
    picture = tmp_path / "actual.svg"
    command(daemon, "schedule", "gantt", "--actual", str(picture), "w")
    drawn = picture.read_text()
    assert all(f"on-{node} job " in drawn for node in ("local", "n1", "n2"))

    nodes[1].send_signal(signal.SIGSTOP)
    try:
        reply = daemon.control.ok("schedule-stat")
    finally:
        nodes[1].send_signal(signal.SIGCONT)
    assert [row["node"] for row in reply["unreachable"]] == ["n2"]
    assert {row["node"] for row in reply["tasks"]} == {"local", "n1"}
