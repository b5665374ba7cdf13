"""Load and unload: one start for many callers, an answer when it is true, and what overtakes what."""

from __future__ import annotations

from typing import Any

import pytest

from mgmt.core import effect as fx
from mgmt.core import event as ev
from tests.core.builders import a_model, a_restart, a_topology
from tests.core.recorder import Client, World, a_daemon


def loaded(*arguments: Any, **keys: Any) -> tuple[World, Client]:
    """A daemon whose models are all loaded."""
    world = a_daemon(*arguments, **keys)
    client = world.client()
    for model in world.state.registry.models:
        client.ask("load-model", model=model)
    world.settle()
    return world, client


def test_a_load_answers_when_the_backend_is_ready_and_not_before() -> None:
    world = a_daemon([a_model(cpus="0-1")])
    load = world.client().ask("load-model", model="echo")
    process = world.start("echo")
    assert load.waits
    world.ready("echo", "lm")
    assert [(look.unit, look.pid, look.cpus) for look in world.inspected] == [("echo", process.pid, (0, 1))]
    assert load.ok == {
        "model": "echo",
        "type": "type-echo",
        "state": "RUNNING",
        "endpoint": world.unit("echo").endpoint,
        "pid": process.pid,
        "units": ["echo"],
        "already": False,
    }


def test_what_a_spawn_is_told() -> None:
    world = a_daemon([a_model(fullname="org/Echo", cpus="3")], topology=a_topology(cpus=4))
    world.client().ask("load-model", model="echo", config_path="/c.json", wait=False)
    spawn = world.start("echo").spawn
    world.settle()
    assert (spawn.unit, spawn.incarnation, spawn.cpus, spawn.config_path) == ("echo", 1, (3,), "/c.json")
    assert spawn.env["MGMT_SERVE"] == spawn.endpoint and spawn.endpoint.startswith(
        "ipc:///tmp/symphony-model-"
    )
    assert spawn.env["MGMT_ENDPOINT"] == "ipc:///r/control"
    assert spawn.env["MGMT_UNIT"] == spawn.env["MGMT_MODEL"] == "echo"
    assert spawn.env["MGMT_INCARNATION"] == "1" and spawn.env["MGMT_FULLNAME"] == "org/Echo"
    assert len(spawn.env["MGMT_TOKEN"]) == 32


def test_a_config_path_that_reaches_nobody_is_noted() -> None:
    world = a_daemon([a_model("deaf"), a_model("old", kind="symphony", command=["run", "{config_path}"])])
    client = world.client()
    for model in ("deaf", "old"):
        client.ask("load-model", model=model, config_path="/c.json", wait=False)
    world.drain()
    ignored = [note for note in world.notes if note.level == "WARNING"]
    assert len(ignored) == 1 and "deaf" in ignored[0].text and "/c.json" in ignored[0].text


def test_ten_parallel_loads_are_one_spawn_and_ten_equal_answers() -> None:
    world = a_daemon()
    loads = [world.client().ask("load-model", model="echo") for _ in range(10)]
    world.up("echo")
    assert not world.deeds
    bodies = [load.ok for load in loads]
    first = bodies[0]
    assert all({**body, "already": False} == first for body in bodies)
    assert [body["already"] for body in bodies] == [False] + [True] * 9


def test_a_load_of_what_is_loaded_answers_at_once() -> None:
    _, client = loaded()
    assert client.ask("load-model", model="echo").ok["already"] is True


def test_a_load_without_waiting_answers_that_it_is_starting() -> None:
    world = a_daemon()
    load = world.client().ask("load-model", model="echo", wait=False)
    assert load.ok["state"] == "STARTING" and load.ok["already"] is False and load.ok["pid"] is None
    world.settle()


def test_starting_after_ms_answers_that_it_is_still_starting() -> None:
    world = a_daemon()
    client = world.client()
    hasty = client.ask("load-model", model="echo", starting_after_ms=500)
    patient = client.ask("load-model", model="echo")
    world.start("echo")
    world.advance(0.499)
    assert hasty.waits
    world.advance(0.001)
    assert hasty.ok["state"] == "STARTING" and patient.waits
    world.ready("echo")
    assert patient.ok["state"] == "RUNNING"


def test_starting_after_ms_is_not_heard_of_when_the_load_was_faster() -> None:
    world = a_daemon()
    load = world.client().ask("load-model", model="echo", starting_after_ms=500)
    world.up("echo")
    assert load.ok["state"] == "RUNNING"
    assert not [key for key in world.timers if key[0] == "starting"]


def test_a_load_that_fails_says_why_with_the_end_of_the_log() -> None:
    world = a_daemon()
    loads = [world.client().ask("load-model", model="echo") for _ in range(2)]
    world.start("echo")
    world.exit("echo", code=3, tail="Traceback:\nno such file")
    for load in loads:
        code, text = load.refusal
        assert code == "start-failed" and "exit status 3" in text and "  no such file" in text
        assert load.detail == {
            "unit": "echo",
            "exit_code": 3,
            "signal": None,
            "tail": "Traceback:\nno such file",
        }
    assert world.unit("echo").state == "FATAL" and not world.deeds


def test_a_load_that_fails_silently_says_where_to_look() -> None:
    world = a_daemon()
    load = world.client().ask("load-model", model="echo")
    world.start("echo")
    world.exit("echo", signal=11)
    assert "killed by signal 11" in load.refusal[1] and "mgmt logs echo" in load.refusal[1]
    assert load.detail["signal"] == 11 and load.detail["exit_code"] is None


def test_a_program_that_cannot_be_executed_fails_the_load() -> None:
    world = a_daemon()
    load = world.client().ask("load-model", model="echo")
    world.spawn_fails("echo", "cannot start: exec: No such file or directory")
    assert load.code == "start-failed" and "No such file or directory" in load.refusal[1]
    unit = world.unit("echo")
    assert unit.state == "FATAL" and not unit.has_process
    assert load.refusal[1].endswith("No such file or directory"), "there is no log to look into"


def test_a_replica_that_ends_well_during_the_load_fails_it() -> None:
    world = a_daemon([a_model("m", replicas=2)])
    load = world.client().ask("load-model", model="m", within_s=100)
    world.up("m.0")
    world.start("m.1")
    world.exit("m.0", code=0)
    assert load.code == "start-failed" and "m.0" in load.refusal[1], "EXITED is not started again"
    world.settle()
    assert world.unit("m.1").state == "STOPPED"


def test_a_ready_that_overtakes_the_news_of_the_start_waits_for_it() -> None:
    world = a_daemon([a_model(cpus="0")])
    load = world.client().ask("load-model", model="echo")
    spawn = world.expect(fx.Spawn, unit="echo")
    process = world.process("echo")
    backend = world.backend(process)
    assert backend.ask("backend-ready", protocols=["p"], **world.proof(process)).ok == {}
    assert load.waits and not world.inspected
    process.started = True
    world.feed(ev.Started("echo", spawn.incarnation, process.pid, 7))
    assert load.ok["pid"] == process.pid and world.unit("echo").protocols == ("p",)
    assert [one.pid for one in world.inspected] == [process.pid], "its CPUs are looked at all the same"


def test_a_backend_that_is_not_ready_in_time_is_killed_and_fatal() -> None:
    world = a_daemon([a_model(ready_timeout_s=3.0)])
    load = world.client().ask("load-model", model="echo", within_s=100)
    process = world.start("echo")
    world.advance(3)
    kill = world.expect(fx.KillUnit, unit="echo")
    assert load.waits
    backend = world.backend(process)
    assert backend.ask("backend-ready", **world.proof(process)).ok == {}
    assert world.unit("echo").state == "STARTING", "ready came too late"
    world.obey(kill)
    assert load.code == "start-failed" and "not ready within 3 s" in load.refusal[1]
    assert world.unit("echo").state == "FATAL"


def test_a_load_during_stopping_starts_again_when_the_tree_is_empty() -> None:
    world, client = loaded()
    unload = client.ask("unload-model", model="echo")
    term = world.expect(fx.SignalUnit, unit="echo", signal="TERM")
    load = client.ask("load-model", model="echo")
    assert load.waits and unload.waits and not world.deeds
    world.obey(term)
    assert unload.ok["units"] == ["echo"], "its processes are gone, whatever came after"
    assert load.waits
    world.up("echo")
    assert load.ok["already"] is False and world.unit("echo").incarnation == 2


def test_an_unload_overtakes_the_load_that_overtook_an_unload() -> None:
    world, client = loaded()
    first = client.ask("unload-model", model="echo")
    load = client.ask("load-model", model="echo")
    second = client.ask("unload-model", model="echo")
    assert load.code == "cancelled"
    world.settle()
    assert first.ok == second.ok and world.unit("echo").state == "STOPPED"


def test_a_load_during_backoff_starts_at_once() -> None:
    world, client = loaded()
    world.exit("echo", code=1)
    assert world.unit("echo").state == "BACKOFF"
    load = client.ask("load-model", model="echo")
    world.up("echo")
    assert load.ok["already"] is False
    world.advance(5)
    assert world.unit("echo").restarts == 1


def test_a_load_during_backoff_waits_for_the_tree_of_the_last_process() -> None:
    world, client = loaded()
    process = world.process("echo")
    world.exit("echo", code=1, left=2)
    kill = world.expect(fx.KillUnit, unit="echo")
    load = client.ask("load-model", model="echo")
    assert load.waits and not world.deeds
    world.obey(kill)
    assert process.key not in world.processes
    world.up("echo")
    assert load.ok


def test_a_load_after_fatal_starts_afresh() -> None:
    world, client = loaded([a_model(restart=a_restart(limit=0))])
    endpoint = world.unit("echo").endpoint
    world.exit("echo", code=1)
    assert world.unit("echo").state == "FATAL"
    load = client.ask("load-model", model="echo")
    world.settle()
    unit = world.unit("echo")
    assert load.ok and unit.restarts == 0 and unit.incarnation == 2 and unit.endpoint != endpoint


def test_a_load_of_a_fatal_unit_waits_for_the_tree_of_its_last_process() -> None:
    world = a_daemon()
    client = world.client()
    first = client.ask("load-model", model="echo")
    world.start("echo")
    world.exit("echo", code=1, left=1)
    kill = world.expect(fx.KillUnit, unit="echo")
    assert first.code == "start-failed"
    load, lease = client.ask("load-model", model="echo"), client.ask("lease", model="echo", load=True)
    ready = client.ask("wait", target="echo", condition="ready")
    assert load.waits and lease.waits and ready.waits and not world.deeds
    world.obey(kill)
    world.up("echo")
    assert load.ok and lease.ok and ready.ok


def test_an_unload_cancels_a_start_that_waits_for_an_empty_tree() -> None:
    world = a_daemon()
    client = world.client()
    client.ask("load-model", model="echo")
    world.start("echo")
    world.exit("echo", code=1, left=1)
    load = client.ask("load-model", model="echo")
    unload = client.ask("unload-model", model="echo")
    assert load.code == "cancelled"
    world.settle()
    assert unload.ok and world.unit("echo").state == "STOPPED"


def test_an_unload_overtakes_a_load() -> None:
    world = a_daemon()
    client = world.client()
    load = client.ask("load-model", model="echo")
    world.start("echo")
    unload = client.ask("unload-model", model="echo")
    assert load.code == "cancelled" and unload.waits
    world.settle()
    assert unload.ok["units"] == ["echo"] and world.unit("echo").state == "STOPPED"


def test_an_unload_without_waiting_answers_at_once() -> None:
    world, client = loaded()
    assert client.ask("unload-model", model="echo", wait=False).ok["units"] == ["echo"]
    assert world.unit("echo").state == "STOPPING"
    world.settle()


@pytest.mark.parametrize("how", ["BACKOFF", "EXITED", "FATAL"])
def test_an_unload_of_what_has_no_process_is_answered_at_once(how: str) -> None:
    limit = 0 if how == "FATAL" else 5
    world, client = loaded([a_model(restart=a_restart(limit=limit))])
    world.exit("echo", code=0 if how == "EXITED" else 1)
    assert world.unit("echo").state == how
    assert client.ask("unload-model", model="echo").ok
    assert world.unit("echo").state == "STOPPED" and world.unit("echo").retry_ns is None
    world.advance(1000)


def test_all_replicas_must_be_ready() -> None:
    world = a_daemon([a_model("m", replicas=3)])
    load = world.client().ask("load-model", model="m")
    world.up("m.1")
    world.up("m.0")
    assert load.waits
    world.up("m.2")
    assert load.ok["units"] == ["m.0", "m.1", "m.2"] and load.ok["pid"] == world.unit("m.0").pid


def test_a_replica_that_fails_takes_the_others_of_its_load_along() -> None:
    world = a_daemon([a_model("m", replicas=3)])
    load = world.client().ask("load-model", model="m")
    world.up("m.0")
    world.start("m.1")
    world.start("m.2")
    world.exit("m.1", code=1, tail="bad weights")
    assert load.code == "start-failed" and "bad weights" in load.refusal[1] and load.detail["unit"] == "m.1"
    world.settle()
    assert [world.unit(f"m.{n}").state for n in range(3)] == ["STOPPED", "FATAL", "STOPPED"]


def test_a_load_restarts_only_the_replicas_that_are_down_and_spares_those_that_serve() -> None:
    world, client = loaded([a_model("m", replicas=2, restart=a_restart(limit=0))])
    world.exit("m.1", code=1)
    assert [world.unit(name).state for name in ("m.0", "m.1")] == ["RUNNING", "FATAL"]
    load = client.ask("load-model", model="m")
    world.start("m.1")
    world.exit("m.1", code=1)
    assert load.code == "start-failed"
    assert world.unit("m.0").ready, "a replica that served before is not stopped"
    again = client.ask("load-model", model="m")
    world.up("m.1")
    assert again.ok["already"] is False and world.unit("m.0").incarnation == 1


def test_a_new_load_after_all_replicas_ended_leaves_nothing_half_loaded() -> None:
    world, client = loaded([a_model("m", replicas=2, restart=a_restart(limit=0))])
    world.exit("m.0", code=1)
    world.exit("m.1", code=1)
    client.ask("load-model", model="m")
    world.up("m.0")
    world.start("m.1")
    world.exit("m.1", code=1)
    world.expect(fx.SignalUnit, unit="m.0")
    assert world.unit("m.0").state == "STOPPING"


def test_an_unload_waits_for_every_replica() -> None:
    world, client = loaded([a_model("m", replicas=2)])
    unload = client.ask("unload-model", model="m")
    world.obey(world.expect(fx.SignalUnit, unit="m.1"))
    assert unload.waits
    world.obey(world.expect(fx.SignalUnit, unit="m.0"))
    assert unload.ok["units"] == ["m.0", "m.1"]


def test_max_units_counts_what_is_up() -> None:
    world = a_daemon([a_model("a", replicas=2), a_model("b"), a_model("c")], limits={"max_units": 3})
    client = world.client()
    client.ask("load-model", model="a")
    client.ask("load-model", model="b")
    world.settle()
    refused = client.ask("load-model", model="c")
    assert refused.code == "busy" and "max_units" in refused.refusal[1]
    assert client.ask("load-model", model="a").ok["already"]
    client.ask("unload-model", model="b")
    assert client.ask("load-model", model="c").code == "busy", "b is still there"
    world.settle()
    last = client.ask("load-model", model="c")
    world.settle()
    assert last.ok


def test_a_symphony_backend_is_ready_when_it_answers_a_handshake() -> None:
    world = a_daemon([a_model("old", kind="symphony")])
    load = world.client().ask("load-model", model="old")
    world.start("old")
    assert load.waits
    world.ready("old", "lm", "ping")
    assert load.ok and world.unit("old").protocols == ("lm", "ping")


def test_a_repeated_ready_refreshes_the_protocols() -> None:
    world, _ = loaded()
    backend = Client(world, b"echo.1")
    before = world.state.supervisor.version
    assert backend.ask("backend-ready", protocols=["x"], **world.proof(world.process("echo"))).ok == {}
    assert world.unit("echo").protocols == ("x",) and world.state.supervisor.version > before


def test_a_mask_that_is_wrong_is_told_to_operators() -> None:
    world, client = loaded()
    client.ask("subscribe")
    world.feed(ev.MaskChecked("echo", 1, "thread 77 on 0-7"))
    (event,) = client.heard()
    assert event["what"] == "mask-violated" and "thread 77" in event["reason"]
    assert client.ask("status").ok["service"]["counters"] == {"mask_violations": 1}
    world.feed(ev.MaskChecked("echo", 1, ""))
    assert not client.heard()
