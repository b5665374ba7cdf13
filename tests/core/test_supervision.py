"""Plain units: order, probes, hooks, places, plans and what outlives the daemon."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mgmt.core import effect as fx
from mgmt.core.placement import Demand, Ledger, plan
from mgmt.core.supervision.dependencies import Needs, dependants, start_set
from mgmt.protocol.errors import MgmtError
from tests.core.builders import a_config, a_model, a_probe, a_restart, a_topology, a_unit
from tests.core.recorder import a_daemon

# ---- order ----


def test_a_unit_starts_after_what_it_requires_is_ready_and_stops_before_it() -> None:
    units = {"db": a_unit(startup=a_probe()), "app": a_unit(requires={"db": "ready"})}
    world = a_daemon([], units)
    client = world.client()
    start = client.ask("start", targets=["app"])
    world.start("db")
    assert world.unit("app").waiting_for == "db to be ready" and start.waits
    world.probe_says("db", 1, "startup")
    world.start("app")
    assert start.ok["states"] == {"app": "RUNNING"}
    stop = client.ask("stop", targets=["db"])
    signal = world.expect(fx.SignalUnit)
    assert signal.unit == "app" and world.unit("db").state == "RUNNING"
    world.obey(signal)
    world.obey(world.expect(fx.SignalUnit, unit="db"))
    assert stop.ok["states"] == {"db": "STOPPED"} and world.unit("app").state == "STOPPED"
    world.drain()


def test_a_failed_requirement_fails_its_dependant_and_a_failed_want_does_not() -> None:
    units = {"db": a_unit(), "app": a_unit(requires=["db"]), "web": a_unit(wants=["db"])}
    world = a_daemon([], units)
    start = world.client().ask("start", targets=["app", "web"])
    world.spawn_fails("db", "no such program")
    assert start.code == "start-failed"
    assert world.unit("app").state == "FATAL" and "db" in world.unit("app").reason
    world.start("web")
    assert world.unit("web").state == "RUNNING"
    world.drain()


def test_a_one_shot_that_completed_lets_its_dependant_start() -> None:
    units = {"init": a_unit(oneshot=True), "app": a_unit(requires={"init": "completed"})}
    world = a_daemon([], units)
    start = world.client().ask("start", targets=["app"])
    world.start("init")
    assert start.waits
    world.exit("init", 0)
    assert world.unit("init").state == "EXITED"
    world.start("app")
    assert start.ok["units"] == ["app"]
    world.drain()


def test_graphs() -> None:
    graph = {
        "a": Needs(requires={"b": "ready"}),
        "b": Needs(wants={"c": "started"}),
        "c": Needs(after={"d": "ready"}),
        "d": Needs(),
    }
    assert start_set(graph, ["a"]) == {"a", "b", "c"}
    assert dependants(graph, "b") == {"a"}


# ---- probes and hooks ----


def test_a_bad_ready_probe_takes_a_unit_out_of_routing_and_a_good_one_brings_it_back() -> None:
    world = a_daemon([a_model("m", probes={"ready": a_probe()})])
    load = world.client().ask("load-model", model="m")
    world.up("m", "lm")
    assert load.waits and world.unit("m").state == "RUNNING"
    assert not world.relay_groups.get("m")
    world.probe_says("m", 1, "ready")
    assert load.ok["state"] == "RUNNING" and world.relay_groups["m"]
    world.advance(1.0)
    world.probe_says("m", 1, "ready", ok=False)
    routed = dict(world.relay_groups)
    assert routed["m"] == ()
    world.advance(1.0)
    world.probe_says("m", 1, "ready")
    assert world.relay_groups != routed
    world.drain()


def test_a_live_probe_that_fails_often_enough_ends_the_unit_which_is_started_again() -> None:
    live = a_probe(failure_threshold=2)
    world = a_daemon([], {"u": a_unit(live=live, restart=a_restart("always", delay_s=3.0))})
    world.client().ask("start", targets=["u"])
    world.start("u")
    world.probe_says("u", 1, "live", ok=False)
    assert not [deed for deed in world.deeds if isinstance(deed, fx.KillUnit)]
    world.advance(1.0)
    world.probe_says("u", 1, "live", ok=False)
    world.obey(world.expect(fx.KillUnit, unit="u"))
    assert world.unit("u").state == "BACKOFF" and "live probe failed 2 times" in world.unit("u").reason
    world.advance(3.0)
    world.start("u")
    assert world.unit("u").state == "RUNNING" and world.unit("u").restarts == 1
    world.drain()


def test_a_pre_start_hook_gates_the_start_and_its_failure_is_the_units() -> None:
    world = a_daemon([], {"u": a_unit(pre_start=5.0)})
    start = world.client().ask("start", targets=["u"])
    world.expect(fx.RunHook, unit="u", which="pre_start")
    assert world.unit("u").state == "STARTING" and not world.processes
    world.hook_ends("u", 1, "pre_start", ok=False)
    assert start.code == "start-failed" and "pre_start" in world.unit("u").reason
    again = world.client().ask("start", targets=["u"])
    world.hook_ends("u", 2, "pre_start")
    world.start("u")
    assert again.ok["states"] == {"u": "RUNNING"}
    world.drain()


def test_a_pre_stop_hook_comes_before_the_signal() -> None:
    world = a_daemon([], {"u": a_unit(pre_stop=5.0)})
    client = world.client()
    client.ask("start", targets=["u"])
    world.start("u")
    client.ask("stop", targets=["u"])
    world.expect(fx.RunHook, unit="u", which="pre_stop")
    assert not [deed for deed in world.deeds if isinstance(deed, fx.SignalUnit)]
    world.hook_ends("u", 1, "pre_stop")
    world.obey(world.expect(fx.SignalUnit, unit="u"))
    assert world.unit("u").state == "STOPPED"
    world.drain()


# ---- places ----

DEMANDS = st.lists(
    st.builds(
        Demand,
        unit=st.sampled_from("abcdefgh"),
        cpus=st.sampled_from([(), (0,), (1, 2)]),
        count=st.integers(0, 5),
        exclusive=st.booleans(),
        layout=st.sampled_from(["compact", "spread"]),
        node=st.sampled_from([None, 0, 1]),
        gpu_count=st.integers(0, 3),
        memory_bytes=st.integers(0, 3).map(lambda n: n << 28),
    ),
    unique_by=lambda demand: demand.unit,
)


@given(DEMANDS, st.randoms(use_true_random=False))
def test_a_place_depends_on_what_is_declared_and_on_no_order_and_nothing_is_held_twice(
    demands: list[Demand], chance: Any
) -> None:
    topology = a_topology(cpus=8, nodes=2, gpus=2)
    places = plan(topology, demands)
    shuffled = list(demands)
    chance.shuffle(shuffled)
    assert plan(topology, shuffled) == places
    ledger = Ledger(topology, places)
    for demand in shuffled:
        try:
            ledger.acquire(demand.unit)
        except MgmtError as error:
            assert error.code == "no-capacity"
    held = list(ledger.held.values())
    for i, one in enumerate(held):
        for other in held[i + 1 :]:
            assert not set(one.gpus) & set(other.gpus)
            if one.exclusive or other.exclusive:
                assert not set(one.cpus) & set(other.cpus)
    assert sum(place.memory_bytes for place in held) <= topology.memory_bytes


def test_a_unit_of_a_numa_node_has_its_cpus_and_its_memory() -> None:
    units = {
        "all": a_unit(placement={"numa_node": 1}),
        "one": a_unit(placement={"numa_node": 0, "cpus": 1}),
        "named": a_unit(cpus="1-2", placement={"numa_node": 0}),
        "anywhere": a_unit(placement={"cpus": 1}),
        "nowhere": a_unit(placement={"numa_node": 7}),
    }
    world = a_daemon([], units, topology=a_topology(cpus=4, nodes=2))
    client = world.client()
    assert client.ask("start", targets=["nowhere"]).code == "no-capacity"
    del units["nowhere"]
    client.ask("start", targets=list(units))
    spawns = {name: world.expect(fx.Spawn, unit=name) for name in units}
    assert {
        name: (spawn.cpus, spawn.memory_nodes) for name, spawn in spawns.items() if name != "anywhere"
    } == {
        "all": ((2, 3), (1,)),
        "one": ((0,), (0,)),
        "named": ((1, 2), (0, 1)),
    }
    assert spawns["anywhere"].memory_nodes == ()
    assert "its memory comes from NUMA node 1 alone" in client.ask("explain", target="all").ok["lines"]
    world.settle()
    planned = client.ask("plan")
    world.reads(a_config([], {**units, "named": a_unit(cpus="1-2")}))
    reasons = {row["unit"]: row["reason"] for row in planned.ok["actions"]}
    assert "NUMA nodes of its memory" in reasons["named"] and reasons["all"] == "unchanged"


def test_a_machine_of_one_numa_node_is_not_asked_to_bind_memory() -> None:
    world = a_daemon([], {"u": a_unit(placement={"numa_node": 0})})
    world.client().ask("start", targets=["u"])
    spawn = world.expect(fx.Spawn, unit="u")
    assert spawn.cpus == (0, 1) and spawn.memory_nodes == ()


def test_a_refusal_names_the_holder_and_changes_nothing() -> None:
    alone = {"cpus": 2, "exclusive": True}
    world = a_daemon([], {"a": a_unit(placement=alone), "b": a_unit(placement=alone)})
    client = world.client()
    client.ask("start", targets=["a"])
    world.start("a")
    refused = client.ask("start", targets=["b"])
    assert refused.code == "no-capacity" and refused.detail["holder"] == "a"
    assert world.unit("b").state == "STOPPED" and not world.unit("b").wanted
    assert any("'a' holds" in line for line in client.ask("explain", target="b").ok["lines"])
    world.drain()


# ---- plan and apply ----


def test_an_apply_touches_what_differs_and_nothing_else() -> None:
    units = {"a": a_unit(), "b": a_unit(), "gone": a_unit()}
    world = a_daemon([], units)
    client = world.client()
    client.ask("start", targets=["a", "b", "gone"])
    world.settle()
    changed = a_config([], {"a": a_unit(), "b": a_unit(env={"X": "1"}), "new": a_unit(autostart=True)})
    planned = client.ask("plan")
    world.reads(changed)
    rows = {row["unit"]: row["action"] for row in planned.ok["actions"]}
    assert rows == {"a": "keep", "b": "restart", "gone": "stop", "new": "start"}
    assert world.unit("b").incarnation == 1
    applied = client.ask("apply")
    world.reads(changed)
    assert applied.ok["actions"] == planned.ok["actions"]
    world.settle()
    assert [world.unit(name).incarnation for name in ("a", "b", "new")] == [1, 2, 1]
    assert "gone" not in world.state.supervisor.units
    again = client.ask("apply")
    world.reads(changed)
    assert {row["action"] for row in again.ok["actions"]} == {"keep"} and not world.deeds


def test_a_restart_brings_back_no_dependant_that_is_being_stopped() -> None:
    units = {"db": a_unit(), "app": a_unit(requires=["db"]), "gone": a_unit(requires=["app"])}
    world = a_daemon([], units)
    client = world.client()
    client.ask("start", targets=["gone"])
    world.settle()
    del units["gone"]
    client.ask("apply")
    world.reads(a_config([], {**units, "db": a_unit(env={"X": "1"})}))
    assert world.unit("gone").state == "STOPPING" and not world.unit("gone").wanted
    world.settle()
    assert "gone" not in world.state.supervisor.units
    assert [world.unit(name).incarnation for name in ("db", "app")] == [2, 2]


def test_a_unit_that_the_configuration_no_longer_has_is_not_started_again_while_it_ends() -> None:
    world = a_daemon([], {"gone": a_unit(), "kept": a_unit()})
    client = world.client()
    client.ask("start", targets=["gone"])
    world.settle()
    client.ask("apply")
    world.reads(a_config([], {"kept": a_unit()}))
    assert [client.ask(verb, targets=["kept", "gone"]).code for verb in ("start", "restart")] == [
        "unknown-unit"
    ] * 2
    assert world.unit("kept").state == "STOPPED"
    stop = client.ask("stop", targets=["gone"])
    world.settle()
    assert stop.ok and "gone" not in world.state.supervisor.units


# ---- what outlives the daemon ----


def test_the_next_daemon_adopts_what_lives_and_knows_how_the_rest_ended() -> None:
    world = a_daemon([], {"lives": a_unit(), "ended": a_unit(restart=a_restart("no")), "idle": a_unit()})
    world.client().ask("start", targets=["lives", "ended"])
    world.settle()
    before = world.process("lives")
    world.die()
    ended = world.process("ended")
    world.leader_ends(ended, 7)
    world.tree_ends(ended)
    world.adopt_all()
    assert world.unit("lives").state == "RUNNING" and world.process("lives") is before
    assert world.unit("ended").state == "EXITED"
    last = world.unit("ended").last_exit
    assert last is not None and last.code == 7
    assert world.unit("idle").state == "STOPPED" and world.unit("idle").incarnation == 0
    world.drain()


def test_a_unit_that_is_looked_for_is_not_told_to_be_what_it_was() -> None:
    world = a_daemon([], {"lives": a_unit()})
    world.client().ask("start", targets=["lives"])
    world.settle()
    world.die()

    def told() -> tuple[str, bool, str]:
        (unit,) = world.client().ask("status").ok["units"]
        return unit["state"], unit["ready"], unit["reason"]

    assert told() == ("RUNNING", False, "started; so it was when last heard of")
    world.adopt_all()
    assert told() == ("RUNNING", True, "started")
    world.drain()


def test_after_a_restart_of_the_machine_what_was_wanted_is_started_again() -> None:
    world = a_daemon([], {"up": a_unit(), "stopped": a_unit()})
    client = world.client()
    client.ask("start", targets=["up", "stopped"])
    world.settle()
    client.ask("stop", targets=["stopped"])
    world.settle()
    world.die(same_boot=False)
    world.start("up")
    assert world.unit("up").state == "RUNNING" and world.unit("up").incarnation == 2
    assert world.unit("stopped").state == "STOPPED" and world.unit("stopped").incarnation == 1
    world.drain()


def test_a_restart_that_was_cut_off_in_a_hook_waits_for_what_it_requires() -> None:
    world = a_daemon([], {"db": a_unit(), "app": a_unit(requires=["db"], pre_start=5.0)})
    client = world.client()
    client.ask("start", targets=["app"])
    world.start("db")
    world.expect(fx.RunHook, unit="app", which="pre_start")
    client.ask("restart", targets=["db"])
    assert world.unit("app").state == "STOPPING" and world.unit("db").stop_reason
    world.die()
    assert world.unit("app").waiting_for == "db to be ready"
    world.settle()
    assert {name: world.unit(name).state for name in ("db", "app")} == {"db": "RUNNING", "app": "RUNNING"}
