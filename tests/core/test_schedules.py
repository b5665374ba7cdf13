"""Periodic tasks in the daemon: admitted whole or not at all, in one ledger with the units, and durable."""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any

import pytest

from mgmt.core import effect as fx
from mgmt.core.schedule import report
from mgmt.core.schedule.analysis import analysed
from mgmt.core.schedule.force import Entry
from mgmt.protocol import defaults
from tests.core.builders import ModelRow, a_config, a_model, a_topology
from tests.core.recorder import Client, Ticket, World, a_daemon

MS = 1000


def a_task(name: str, wcet_ms: float = 1, period_ms: float = 10, **keys: Any) -> dict[str, Any]:
    policy = {"priority": 50} if keys.get("policy", "fifo") in ("fifo", "rr") else {}
    times = {"period_us": round(period_ms * MS), "wcet_us": round(wcet_ms * MS)}
    return {"name": name, **times, **policy, **keys}


def a_workload(name: str, *tasks: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {"workload": name, "tasks": list(tasks), **keys}


def nodes(**cpus: int) -> dict[str, Any]:
    """Nodes of so many CPUs each."""
    return {name: {"available_cpus": list(range(count))} for name, count in cpus.items()}


def submit(client: Client, document: dict[str, Any], **keys: Any) -> Ticket:
    ticket = client.ask("schedule-submit", documents=[document], **keys)
    client.world.compute_all()
    return ticket


def show(client: Client, **keys: Any) -> dict[str, Any]:
    ticket = client.ask("schedule-show", **keys)
    client.world.compute_all()
    return ticket.ok


def remove(client: Client, name: str) -> dict[str, Any]:
    ticket = client.ask("schedule-remove", workload=name)
    client.world.compute_all()
    return ticket.ok


def places(client: Client) -> dict[str, tuple[str, int]]:
    """(node, CPU) by WORKLOAD/TASK."""
    rows = show(client)["tasks"]
    return {f"{row['workload']}/{row['task']}": (row["node"], row["cpu"]) for row in rows}


def told(world: World) -> list[tuple[str, str]]:
    return [(event["what"], event["workload"]) for event in world.events if event["kind"] == "schedule"]


def exclusive(name: str = "m", cpus: str | int = 1, **keys: Any) -> ModelRow:
    """A model that has CPUs for itself: these, or so many."""
    if isinstance(cpus, str):
        return a_model(name, cpus=cpus, placement={"exclusive": True}, **keys)
    return a_model(name, placement={"cpus": cpus, "exclusive": True}, **keys)


def load(client: Client, name: str) -> None:
    ticket = client.ask("load-model", model=name)
    client.world.settle()
    assert ticket.ok


# ---- one workload -----------------------------------------------------------------------------------------


def test_a_workload_is_admitted_shown_kept_and_removed() -> None:
    world = a_daemon(topology=a_topology(4))
    client = world.client()
    chain = {"name": "c", "tasks": ["a", "b"], "deadline_us": 60 * MS}
    reply = submit(client, a_workload("w", a_task("a", 2), a_task("b", 3), chains=[chain])).ok
    assert (reply["workload"], reply["already"], reply["replaced"]) == ("w", False, False)
    assert reply["version"] == world.events[-1]["seq"] == reply["workloads"][0]["version"]
    assert [row["task"] for row in reply["tasks"]] == ["a", "b"] and reply["next"] is None
    before = show(client)
    assert before["tasks"] == reply["tasks"] and before["workloads"] == reply["workloads"]
    assert before["workloads"][0]["chains"][0]["bound_us"] <= 60 * MS
    world.die()
    client = world.client()
    assert show(client) == before
    removed = remove(client, "w")
    assert removed == {"workload": "w", "tasks": 2, "version": before["version"] + 1}
    world.die()
    client = world.client()
    after = show(client)
    assert (after["workloads"], after["tasks"], after["total"]) == ([], [], 0)
    assert after["version"] == removed["version"]
    assert told(world) == [("submitted", "w"), ("removed", "w")]


def test_responses_shown_are_those_with_everything_in_force() -> None:
    client = a_daemon(topology=a_topology(1)).client()
    assert (
        submit(client, a_workload("low", a_task("l", 2, 20, priority=10))).ok["tasks"][0]["response_us"]
        == 2000
    )
    submit(client, a_workload("high", a_task("h", 3, 10, priority=90)))
    assert {row["task"]: row["response_us"] for row in show(client)["tasks"]} == {"h": 3000, "l": 5000}
    remove(client, "high")
    assert [row["response_us"] for row in show(client)["tasks"]] == [2000]


def test_a_refused_workload_changes_nothing_and_is_an_event() -> None:
    world = a_daemon(topology=a_topology(1))
    client = world.client()
    submit(client, a_workload("w", a_task("a", 6)))
    before = show(client)
    refused = submit(client, a_workload("v", a_task("small", 1), a_task("b", 5)))
    assert refused.code == "not-schedulable"
    assert (
        refused.detail["task"] == "b"
        and refused.detail["cpu"] == 0
        and refused.detail["largest_wcet_us"] == 4000
    )
    assert show(client) == before
    assert told(world) == [("submitted", "w"), ("refused", "v")]
    world.die()
    assert show(world.client()) == before  # a refusal is no version


def test_a_faulty_document_is_refused_with_every_fault() -> None:
    world = a_daemon()
    refused = submit(world.client(), a_workload("w", a_task("a", 20), {"name": "b"}))
    assert refused.code == "bad-workload"
    assert {problem["path"] for problem in refused.detail["problems"]} >= {"documents[0].tasks[0].wcet_us"}
    assert len(refused.detail["problems"]) >= 2


def test_the_same_again_is_nothing_to_do_and_something_else_is_a_conflict() -> None:
    world = a_daemon(topology=a_topology(2))
    client = world.client()
    first = submit(client, a_workload("w", a_task("a"))).ok
    again = submit(client, a_workload("w", a_task("a"))).ok
    assert again == {**first, "already": True}
    assert submit(client, a_workload("w", a_task("a", 2))).code == "conflict"
    assert submit(client, a_workload("w", a_task("a")), algorithm="least_loaded").code == "conflict"
    assert told(world) == [("submitted", "w"), ("refused", "w"), ("refused", "w")]


def test_the_same_in_another_order_is_the_same() -> None:
    client = a_daemon(topology=a_topology(4)).client()
    tasks = [a_task("a", 2, cpus=[0, 1]), a_task("b", 3), a_task("c", 1)]
    submit(client, a_workload("w", *tasks, nodes=nodes(far=2, near=2)))
    again = a_workload("w", *reversed(tasks), nodes=nodes(near=2, far=2))
    assert submit(client, again).ok["already"]


def test_one_task_is_added_resized_and_removed_beside_the_others_which_stay() -> None:
    client = a_daemon(topology=a_topology(3)).client()
    tasks = {f"t{n}": a_task(f"t{n}", wcet) for n, wcet in enumerate((6, 5, 4, 3))}
    submit(client, a_workload("w", *tasks.values()))
    for name, wcet in (("new", 4), ("t3", 2), ("t0", None), ("t1", 6)):
        before = places(client)
        tasks.pop(name, None)
        if wcet is not None:
            tasks[name] = a_task(name, wcet)
        assert submit(client, a_workload("w", *tasks.values()), replace=True).ok["replaced"]
        after = places(client)
        assert after.keys() == {f"w/{task}" for task in tasks}
        assert all(
            after[task] == place for task, place in before.items() if task in after and task != f"w/{name}"
        )
    before = places(client)
    too_large = a_workload("w", *tasks.values(), a_task("more", 10), a_task("most", 10))
    assert submit(client, too_large, replace=True).code == "not-schedulable" and places(client) == before


def test_a_replacement_takes_the_place_or_leaves_the_old_one() -> None:
    world = a_daemon(topology=a_topology(1))
    client = world.client()
    submit(client, a_workload("other", a_task("o", 2)))
    submit(client, a_workload("w", a_task("a", 6)))
    before = show(client)
    # Only without the old one there is room for it.
    assert submit(client, a_workload("w", a_task("b", 8.5)), replace=True).code == "not-schedulable"
    assert show(client) == before
    reply = submit(client, a_workload("w", a_task("b", 8)), replace=True).ok
    assert reply["replaced"] and [row["task"] for row in reply["tasks"]] == ["b"]
    assert set(places(client)) == {"other/o", "w/b"}
    assert told(world)[-1] == ("replaced", "w")


def test_a_dry_run_says_what_would_be_and_is_nothing() -> None:
    world = a_daemon(topology=a_topology(2))
    client = world.client()
    submit(client, a_workload("w", a_task("a", 6)))
    before, seq = show(client), world.state.journal.seq
    dry = submit(client, a_workload("v", a_task("b", 6)), dry_run=True).ok
    assert dry["tasks"][0]["cpu"] == 1 and dry["version"] == before["version"]
    assert dry["workloads"][0]["version"] == 0
    assert (
        submit(client, a_workload("v", a_task("b", 9), a_task("c", 9)), dry_run=True).code
        == "not-schedulable"
    )
    assert submit(client, a_workload("w", a_task("b", 1)), dry_run=True, replace=True).ok["replaced"]
    assert show(client) == before and world.state.journal.seq == seq


def test_a_key_that_is_repeated_while_it_is_computed_has_one_effect() -> None:
    world = a_daemon()
    client = world.client()
    document = a_workload("w", a_task("a"))
    first = client.ask("schedule-submit", key="k", documents=[document])
    second = client.ask("schedule-submit", key="k", documents=[document])
    world.compute_all()
    third = client.ask("schedule-submit", key="k", documents=[document])
    assert first.ok == second.ok == third.ok and not third.ok["already"]
    assert told(world) == [("submitted", "w")]


# ---- nodes ------------------------------------------------------------------------------------------------


def test_nodes_of_the_document_are_not_this_machine() -> None:
    world = a_daemon([exclusive(cpus="0")], topology=a_topology(1))
    client = world.client()
    submit(client, a_workload("w", a_task("a"), nodes=nodes(far=1)))
    assert places(client) == {"w/a": ("far", 0)}
    load(client, "m")
    assert submit(client, a_workload("v", a_task("a"))).code == "not-schedulable"
    assert submit(client, a_workload("v", a_task("a")), nodes=[{"nodes": nodes(far=1)}]).ok


@pytest.mark.parametrize("name", ["local", "box"])
def test_this_machine_has_two_names(name: str) -> None:
    client = a_daemon(topology=a_topology(4)).client()
    document = a_workload("w", a_task("a", node=name), nodes={name: {"available_cpus": [2]}})
    assert submit(client, document).ok["tasks"][0]["node"] == "local"
    assert places(client) == {"w/a": ("local", 2)}
    assert submit(client, a_workload("v", a_task("a", node=name, cpus=[2]))).ok["tasks"][0]["cpu"] == 2


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (a_workload("w", a_task("a"), nodes={"local": {"available_cpus": [0, 7]}}), "CPU 7"),
        (a_workload("w", a_task("a"), nodes=nodes(local=1, box=1)), "both this machine"),
        (a_workload("w", a_task("a", node="elsewhere")), "'elsewhere'"),
    ],
)
def test_a_machine_that_is_not_so_is_refused(document: dict[str, Any], words: str) -> None:
    refused = submit(a_daemon(topology=a_topology(2)).client(), document)
    assert refused.code == "bad-workload" and words in refused.refusal[1]


def test_a_node_is_described_alike_by_all_workloads() -> None:
    client = a_daemon().client()
    submit(client, a_workload("w", a_task("a"), nodes=nodes(far=2)))
    refused = submit(client, a_workload("v", a_task("a"), nodes=nodes(far=3)))
    assert (
        refused.code == "conflict" and refused.detail["node"] == "far" and "CPUs 0, 1" in refused.refusal[1]
    )
    assert submit(client, a_workload("v", a_task("a"), nodes=nodes(far=2, farther=1))).ok
    # Of the one that describes it alone, the description may change.
    remove(client, "v")
    assert submit(client, a_workload("w", a_task("a"), nodes=nodes(far=3)), replace=True).ok


def test_more_cpus_than_one_answer_can_tell_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "MAX_SCHEDULE_CPUS", 4)
    client = a_daemon().client()
    assert submit(client, a_workload("w", a_task("a"), nodes=nodes(far=3))).ok
    assert submit(client, a_workload("v", a_task("a"), nodes=nodes(near=2))).code == "bad-workload"


def test_tests_do_not_mix_on_a_cpu() -> None:
    client = a_daemon(topology=a_topology(2)).client()
    submit(client, a_workload("fixed", a_task("a", 1)))
    submit(client, a_workload("dynamic", a_task("b", 1, policy="deadline")))
    assert places(client) == {"fixed/a": ("local", 0), "dynamic/b": ("local", 1)}
    assert submit(client, a_workload("more", a_task("c", 9.5, policy="deadline"))).code == "not-schedulable"


# ---- one ledger -------------------------------------------------------------------------------------------


def test_a_cpu_of_a_loaded_model_takes_no_task() -> None:
    world = a_daemon([exclusive(cpus="0")], topology=a_topology(2))
    client = world.client()
    load(client, "m")
    assert submit(client, a_workload("w", a_task("a"))).ok["tasks"][0]["cpu"] == 1
    closed = [row["closed"] for row in show(client)["cpus"]]
    assert closed == ["m", ""]
    bound = submit(client, a_workload("v", a_task("a", cpus=[0])))
    assert bound.code == "not-schedulable" and "unit 'm' holds it" in bound.refusal[1]
    world.die()
    world.settle()
    client = world.client()
    assert submit(client, a_workload("v", a_task("a", cpus=[0]))).code == "not-schedulable"
    client.ask("unload-model", model="m")
    world.settle()
    assert submit(client, a_workload("v", a_task("a", cpus=[0]))).ok


def test_a_cpu_with_tasks_is_no_units_own() -> None:
    world = a_daemon([exclusive(cpus="0")], topology=a_topology(2))
    client = world.client()
    submit(client, a_workload("w", a_task("a")))
    for _ in range(2):
        refused = client.ask("load-model", model="m")
        assert refused.code == "no-capacity" and refused.detail["holder"] == "w"
        assert "mgmt schedule remove w" in refused.refusal[1]
        assert any("tasks of workload 'w'" in line for line in client.ask("explain", target="m").ok["lines"])
        world.die()
        client = world.client()
    remove(client, "w")
    load(client, "m")


def test_a_unit_that_starts_with_the_daemon_does_not_take_what_tasks_have() -> None:
    world = a_daemon(topology=a_topology(1))
    submit(world.client(), a_workload("w", a_task("a")))
    world.settings = a_config([exclusive(cpus="0", autostart=True)])
    world.die()
    assert world.unit("m").state == "FATAL" and "workload 'w'" in world.unit("m").reason


def test_a_counted_demand_avoids_cpus_with_tasks_while_there_are_others() -> None:
    world = a_daemon([exclusive(cpus=1), exclusive("n", cpus=1)], topology=a_topology(3))
    client = world.client()
    plan = world.state.ledger.places
    assert (plan["m"].cpus, plan["n"].cpus) == ((0,), (1,))
    submit(client, a_workload("w", a_task("a")))
    plan = world.state.ledger.places
    assert (plan["m"].cpus, plan["n"].cpus) == ((1,), (2,)) and "no task is on" in plan["m"].why
    load(client, "m")
    load(client, "n")
    world.die()
    world.settle()
    assert world.unit("m").place.cpus == (1,) and world.state.ledger.is_as_planned("m")
    client = world.client()
    for name in ("m", "n"):
        client.ask("unload-model", model=name)
        world.settle()
    remove(client, "w")
    assert world.state.ledger.places["m"].cpus == (0,)


def test_a_plan_that_is_not_in_the_way_stays_as_it_was() -> None:
    world = a_daemon([exclusive(cpus=2)], topology=a_topology(8, nodes=2))
    client = world.client()
    before = world.state.ledger.places
    submit(client, a_workload("w", a_task("a", cpus=[7])))
    assert world.state.ledger.places == before


@pytest.mark.parametrize("policy", ["fifo", "rr", "deadline"])
@pytest.mark.parametrize("cpus", ["0", None])
def test_beside_a_real_time_unit_nothing_can_be_promised(policy: str, cpus: str | None) -> None:
    scheduling: dict[str, Any] = {"policy": policy}
    scheduling |= {"priority": 5} if policy != "deadline" else {"runtime_us": 1000, "period_us": 2000}
    where: dict[str, Any] = {"cpus": cpus} if cpus else {}
    world = a_daemon([a_model("m", scheduling=scheduling, **where)], topology=a_topology(2))
    client = world.client()
    load(client, "m")
    first = submit(client, a_workload("w", a_task("a")))
    if cpus is None:  # it may run anywhere
        assert first.code == "not-schedulable"
        client.ask("unload-model", model="m")
        world.settle()
        assert submit(client, a_workload("w", a_task("a"))).ok
    else:
        assert first.ok["tasks"][0]["cpu"] == 1
        client.ask("unload-model", model="m")
        world.settle()
        assert submit(client, a_workload("v", a_task("b", cpus=[0]))).ok
    refused = client.ask("load-model", model="m")
    assert refused.code == "no-capacity" and "real-time policy" in refused.refusal[1]


@pytest.mark.parametrize("policy", ["other", "batch"])
def test_other_units_may_share_cpus_with_tasks(policy: str) -> None:
    world = a_daemon([a_model("m", cpus="0", scheduling={"policy": policy})], topology=a_topology(1))
    client = world.client()
    load(client, "m")
    assert submit(client, a_workload("w", a_task("a"))).ok
    client.ask("unload-model", model="m")
    world.settle()
    load(client, "m")


def test_memory_is_promised_once() -> None:
    world = a_daemon([a_model("m", placement={"memory_mb": 600})], topology=a_topology(2, memory_mb=1000))
    client = world.client()
    submit(client, a_workload("w", a_task("a", memory_mb=500)))
    assert client.ask("load-model", model="m").code == "no-capacity"
    remove(client, "w")
    load(client, "m")
    assert submit(client, a_workload("w", a_task("a", memory_mb=500))).code == "not-schedulable"
    assert submit(client, a_workload("w", a_task("a", memory_mb=400))).ok
    # The memory of the machine is the same node to one that is submitted again, whoever has some of it.
    client.ask("unload-model", model="m")
    world.settle()
    assert submit(client, a_workload("w", a_task("a", memory_mb=400))).ok["already"]


def test_tasks_on_cpus_that_are_gone_stay_and_are_told() -> None:
    world = a_daemon(topology=a_topology(2))
    submit(world.client(), a_workload("w", a_task("a", cpus=[1])))
    world.topology = a_topology(1)
    world.die(same_boot=False)
    assert [note.level for note in world.notes] == ["WARNING"] and "CPU 1" in world.notes[0].text
    assert places(world.client()) == {"w/a": ("local", 1)}


# ---- what happens while it is computed --------------------------------------------------------------------


def test_a_result_that_units_overtook_is_computed_again() -> None:
    world = a_daemon([exclusive(cpus="0")], topology=a_topology(2))
    client = world.client()
    ticket = client.ask("schedule-submit", documents=[a_workload("w", a_task("a"))])
    load_ticket = client.ask("load-model", model="m")
    world.up("m")
    assert load_ticket.ok and ticket.waits
    world.compute()
    assert ticket.waits
    world.compute()
    assert ticket.ok["tasks"][0]["cpu"] == 1


def test_a_refusal_that_units_overtook_is_computed_again() -> None:
    world = a_daemon([exclusive(cpus="0")], topology=a_topology(1))
    client = world.client()
    load(client, "m")
    ticket = client.ask("schedule-submit", documents=[a_workload("w", a_task("a"))])
    work = world.computations[0]
    client.ask("unload-model", model="m")
    process = world.process("m")
    world.expect(fx.SignalUnit, unit="m")
    world.leader_ends(process, 0)
    world.tree_ends(process)
    assert world.computations == [work] and ticket.waits
    world.compute_all()
    assert ticket.ok and told(world) == [("submitted", "w")]


def test_requests_are_computed_in_their_order() -> None:
    world = a_daemon(topology=a_topology(1))
    client = world.client()
    tickets = [
        client.ask("schedule-submit", documents=[a_workload(f"w{n}", a_task("a", 4))]) for n in range(3)
    ]
    shown, why = client.ask("schedule-show", workload="w1"), client.ask("schedule-explain", task="w1/a")
    removed = client.ask("schedule-remove", workload="w1")
    late = client.ask("schedule-show", workload="w1")
    last = client.ask("schedule-submit", documents=[a_workload("w3", a_task("a", 4))])
    assert len(world.computations) == 1
    world.compute_all()
    assert [ticket.answers[0][0] for ticket in tickets] == ["ok", "ok", "error"]
    assert shown.ok["total"] == 1 and why.ok and removed.ok and late.code == "unknown-workload" and last.ok
    assert told(world) == [
        ("submitted", "w0"),
        ("submitted", "w1"),
        ("refused", "w2"),
        ("removed", "w1"),
        ("submitted", "w3"),
    ]


def test_names_that_nobody_has_are_refused() -> None:
    client = a_daemon().client()
    submit(client, a_workload("w", a_task("a")))
    refusals: list[tuple[str, dict[str, Any], str]] = [
        ("schedule-show", {"workload": "v"}, "unknown-workload"),
        ("schedule-remove", {"workload": "v"}, "unknown-workload"),
        ("schedule-explain", {"task": "b"}, "unknown-task"),
        ("schedule-explain", {"task": "v/a"}, "unknown-task"),
    ]
    for verb, body, code in refusals:
        ticket = client.ask(verb, **body)
        client.world.compute_all()
        assert ticket.code == code and next(iter(body.values())) in ticket.refusal[1]


@pytest.mark.parametrize("end", ["bye", "deadline"])
def test_nothing_is_changed_for_nobody(end: str) -> None:
    world = a_daemon()
    client, other = world.client(), world.client()
    gone = client.ask("schedule-submit", within_s=1.0, documents=[a_workload("w", a_task("a"))])
    queued = client.ask("schedule-submit", within_s=1.0, documents=[a_workload("x", a_task("a"))])
    stays = other.ask("schedule-submit", documents=[a_workload("v", a_task("a"))])
    if end == "bye":
        client.notice("bye")
    else:
        world.advance(1.5)
    assert not gone.waits and not queued.waits
    world.compute_all()
    assert stays.ok and set(places(other)) == {"v/a"}


def test_a_daemon_that_stops_waits_for_no_computation() -> None:
    world = a_daemon()
    client = world.client()
    ticket = client.ask("schedule-submit", documents=[a_workload("w", a_task("a"))])
    client.ask("stop-service")
    assert ticket.code == "stopping" and world.quits() == 1
    world.compute_all()
    assert not world.workloads


def test_a_stopping_daemon_admits_and_removes_nothing() -> None:
    world = a_daemon(units={"u": {"command": ["x"], "autostart": True}})
    world.settle()
    client = world.client()
    submit(client, a_workload("w", a_task("a")))
    client.ask("stop-service")
    assert client.ask("schedule-submit", documents=[a_workload("v", a_task("a"))]).code == "stopping"
    assert client.ask("schedule-remove", workload="w").code == "stopping"
    assert set(places(client)) == {"w/a"}
    world.settle()


@pytest.mark.parametrize("effects", range(4))
def test_killed_in_the_midst_of_a_submission_it_is_there_whole_or_not_at_all(effects: int) -> None:
    world = a_daemon(topology=a_topology(2))
    client = world.client()
    ticket = client.ask("schedule-submit", documents=[a_workload("w", a_task("a"), a_task("b"))])
    world.dies_after = effects
    world.compute()
    client = world.client()
    there = set(places(client))
    assert there == ({"w/a", "w/b"} if effects else set())
    assert not ticket.answers or there  # what was acknowledged is there
    again = submit(client, a_workload("w", a_task("a"), a_task("b")))
    assert again.ok["already"] == bool(effects)


# ---- showing and explaining -------------------------------------------------------------------------------


def test_a_schedule_in_parts_is_the_same_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    client = a_daemon(topology=a_topology(2)).client()
    submit(client, a_workload("w", *(a_task(f"t{n:02}", 0.1) for n in range(40))))
    whole = show(client)
    assert whole["next"] is None and whole["total"] == 40
    monkeypatch.setattr(defaults, "SCHEDULE_PAGE_BYTES", 4000)
    part = show(client)
    tasks, parts = list(part["tasks"]), 1
    assert part["cpus"] == whole["cpus"] and part["workloads"] == whole["workloads"]
    while part["next"] is not None:
        part = show(client, offset=part["next"])
        assert part["cpus"] == [] and part["tasks"] and part["version"] == whole["version"]
        tasks += part["tasks"]
        parts += 1
    assert tasks == whole["tasks"] and parts > 3
    assert show(client, offset=40)["tasks"] == []


def test_a_task_is_not_larger_in_an_answer_than_counted() -> None:
    from mgmt.protocol import frames

    huge = 2**40
    long = {"name": "x", "priority": 99, "period_us": 10_000_000, "wcet_us": 9_999_999, "jitter_us": 0}
    client = a_daemon(topology=a_topology(1)).client()
    submit(client, a_workload("w", {**long, "max_dmiss": 1000, "memory_mb": 1000}))
    (row,) = show(client)["tasks"]
    row |= {key: huge for key in row if key.endswith("_us")} | {"bound": "utilisation", "policy": "deadline"}
    assert len(frames.pack(row)) < report.ROW_BYTES


def test_explaining_says_how_much_a_task_may_grow() -> None:
    client = a_daemon(topology=a_topology(1)).client()
    high, low = a_task("h", 2, 10, priority=90), a_task("l", 3, 20, priority=10, deadline_us=15 * MS)
    submit(client, a_workload("w", high, low))
    ticket = client.ask("schedule-explain", task="l")
    client.world.compute_all()
    grown_us = ticket.ok["largest_wcet_us"]
    assert [row["task"] for row in ticket.ok["beside"]] == ["h", "l"]
    text = "\n".join(ticket.ok["lines"])
    for word in ("CPU 0", "worst response is 5000 us", "more urgent there: h", f"grow to {grown_us} us"):
        assert word in text
    for wcet_us, code in ((grown_us, None), (grown_us + 1, "not-schedulable")):
        dry = submit(client, a_workload("w", high, {**low, "wcet_us": wcet_us}), replace=True, dry_run=True)
        assert dry.ok if code is None else dry.code == code


def test_a_name_that_several_workloads_have_needs_the_workload() -> None:
    client = a_daemon(topology=a_topology(2)).client()
    for name in ("v", "w"):
        submit(client, a_workload(name, a_task("a"), a_task(f"only-{name}")))
    several = client.ask("schedule-explain", task="a")
    client.world.compute_all()
    assert several.code == "conflict" and "v/a, w/a" in several.refusal[1]
    for name in ("w/a", "only-v"):
        ticket = client.ask("schedule-explain", task=name)
        client.world.compute_all()
        assert ticket.ok["task"]["task"] == name.rpartition("/")[2]


def test_a_dump_has_the_schedules_however_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "DUMPED", 3)
    client = a_daemon(topology=a_topology(2)).client()
    submit(client, a_workload("w", *(a_task(f"t{n}", 0.1) for n in range(9))))
    dumped = client.ask("dump").ok["state"]["schedules"]["w"]
    assert dumped["count"] == 9 and len(dumped["tasks"]) == 3


# ---- evening out ------------------------------------------------------------------------------------------


def rebalance(client: Client, apply: bool = False) -> dict[str, Any]:
    ticket = client.ask("schedule-rebalance", apply=apply)
    client.world.compute_all()
    return ticket.ok


def fullest(entries: dict[str, Entry]) -> Fraction:
    loads: dict[tuple[str, int], Fraction] = {}
    for entry in entries.values():
        for task, place in zip(entry.workload.tasks, entry.cpus, strict=True):
            loads[place] = loads.get(place, Fraction()) + Fraction(task.wcet_us, task.period_us)
    return max(loads.values(), default=Fraction())


def test_a_proposal_changes_nothing_and_its_moves_even_out() -> None:
    world = a_daemon(topology=a_topology(2))
    client = world.client()
    submit(client, a_workload("w", *(a_task(f"t{n}", 2) for n in range(4))))
    before, seq = places(client), world.state.journal.seq
    proposed = rebalance(client)
    assert places(client) == before and world.state.journal.seq == seq and not proposed["applied"]
    assert (proposed["before"], proposed["after"]) == (0.8, 0.4) and len(proposed["moves"]) == 2
    done = rebalance(client, apply=True)
    assert done["moves"] == proposed["moves"] and done["applied"]
    for move in done["moves"]:
        assert before[f"w/{move['task']}"] == (move["node"], move["cpu"])
        assert places(client)[f"w/{move['task']}"] == (move["to_node"], move["to_cpu"])
    assert told(world)[-1] == ("rebalanced", "") and done["version"] == world.events[-1]["seq"]
    shown = show(client)
    world.die()
    client = world.client()
    assert show(client) == shown
    nothing = rebalance(client, apply=True)
    assert not nothing["moves"] and not nothing["applied"] and nothing["version"] == done["version"]


def test_what_is_bound_stays_where_it_may_be() -> None:
    world = a_daemon([exclusive(cpus="2")], topology=a_topology(3))
    client = world.client()
    load(client, "m")
    chain = {"name": "c", "tasks": ["timed"], "deadline_us": 100 * MS}
    submit(client, a_workload("a", a_task("bound", 4, cpus=[0]), a_task("free", 4, cpus=[0, 2])))
    submit(client, a_workload("b", a_task("timed", 1), chains=[chain]))
    assert set(places(client).values()) == {("local", 0)}
    assert rebalance(client)["moves"] == []
    client.ask("unload-model", model="m")
    world.settle()
    (move,) = rebalance(client, apply=True)["moves"]
    assert (move["task"], move["to_cpu"]) == ("free", 2)


def test_random_schedules_are_evened_out_without_breaking_admission() -> None:
    draw = random.Random(5)
    moved = 0
    for _ in range(25):
        world = a_daemon(topology=a_topology(draw.randint(2, 4)))
        client = world.client()
        for number in range(draw.randint(1, 4)):
            submit(client, a_random_workload(draw, f"w{number}"))
        if draw.random() < 0.5 and world.state.schedules.entries:
            remove(client, draw.choice(sorted(world.state.schedules.entries)))
        before = dict(world.state.schedules.entries)
        shown = show(client)
        reply = rebalance(client, apply=True)
        after = world.state.schedules.entries
        assert float(fullest(after)) == pytest.approx(reply["after"])
        assert fullest(after) < fullest(before) or not reply["moves"]
        # In this order, each of them leaves every deadline kept: what is not, has no analysis.
        at = {(row["workload"], row["task"]): (row["node"], row["cpu"]) for row in shown["tasks"]}
        for move in reply["moves"]:
            at[move["workload"], move["task"]] = (move["to_node"], move["to_cpu"])
            held = [
                type(one)(one.workload, one.task, *at[one.workload, one.task.name], None, None, one.bound)
                for entry in before.values()
                for one in entry.placed()
            ]
            assert all(one.slack_us is None or one.slack_us >= 0 for one in analysed(held))
        moved += len(reply["moves"])
    assert moved > 20


def a_random_workload(draw: random.Random, name: str) -> dict[str, Any]:
    dynamic = draw.random() < 0.3
    tasks = []
    for number in range(draw.randint(1, 6)):
        period_us = draw.choice([5, 10, 20, 40]) * MS
        wcet_us = draw.randint(1, period_us // 3)
        how: dict[str, Any] = {"policy": "deadline"} if dynamic else {"priority": draw.randint(1, 99)}
        if draw.random() < 0.2:
            how["deadline_us"] = draw.randint(wcet_us, period_us)
        if draw.random() < 0.2:
            how["cpus"] = draw.sample(range(2), draw.randint(1, 2))
        tasks.append({"name": f"t{number}", "period_us": period_us, "wcet_us": wcet_us, **how})
    return {"workload": name, "tasks": tasks}


def test_a_storm_of_everything_promises_no_cpu_twice() -> None:
    """The world checks the invariants, the store and the answers after each step."""
    draw = random.Random(11)
    admitted = refused = 0
    for _ in range(4):
        models = [exclusive("counted", 1), exclusive("fixed", "1"), a_model("shared", cpus="0-3")]
        world = a_daemon(models, topology=a_topology(4))
        client = world.client()
        for _ in range(60):
            match draw.randrange(7):
                case 0 | 1:
                    document = a_random_workload(draw, f"w{draw.randrange(5)}")
                    replace = draw.random() < 0.7
                    ticket = client.ask("schedule-submit", documents=[document], replace=replace)
                    if draw.random() < 0.5:
                        world.compute_all()
                        admitted += ticket.answers[0][0] == "ok"
                        refused += ticket.answers[0][0] != "ok"
                case 2:
                    client.ask("schedule-remove", workload=f"w{draw.randrange(5)}")
                case 3:
                    client.ask("load-model", model=draw.choice(["counted", "fixed", "shared"]), wait=False)
                    world.settle()
                case 4:
                    client.ask("unload-model", model=draw.choice(["counted", "fixed", "shared"]), wait=False)
                    world.settle()
                case 5:
                    client.ask("schedule-rebalance", apply=True)
                case 6 if draw.random() < 0.4:
                    world.dies_after = draw.choice([None, 0, 1, 2])
                    if world.dies_after is not None and world.computations:
                        world.compute()
                    else:
                        world.die()
                    client = world.client()
        world.settle()
    assert admitted > 10 and refused > 3
