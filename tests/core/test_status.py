"""What an operator sees, and that the cache of it never lies."""

from __future__ import annotations

from mgmt.core import event as ev
from mgmt.core.status import FRESH_NS, whole, whole_packed
from mgmt.protocol import frames
from tests.core.builders import EPOCH, START_S, a_model, a_topology
from tests.core.recorder import a_daemon


def test_the_service_names_all_an_operator_asks_for() -> None:
    world = a_daemon()
    client = world.client()
    world.advance(5)
    service = client.ask("status").ok["service"]
    assert service == {
        "state": "running",
        "version": "1.2.3",
        "pid": 4242,
        "epoch": EPOCH,
        "started_at": START_S,
        "uptime_s": 5.0,
        "config": "/etc/mgmt/config.json",
        "control_endpoint": "ipc:///r/control",
        "relay_endpoint": "ipc:///r/relay",
        "client_endpoint": "ipc:///tmp/symphony-ipc",
        "cli_endpoint": "ipc:///tmp/symphony-cli",
        "sessions": 1,
        "workloads": 0,
        "seq": 0,
        "counters": {},
        "degraded": "",
        "alerts": [],
    }


def test_a_unit_tells_how_it_is() -> None:
    world = a_daemon([a_model(cpus="1,3-4")], topology=a_topology(cpus=5))
    client = world.client()
    client.ask("load-model", model="echo")
    process = world.start("echo")
    world.advance(2)
    world.ready("echo", "lm")
    world.advance(3)
    world.drain()
    (unit,) = client.ask("status").ok["units"]
    assert unit == {
        "unit": "echo",
        "model": "echo",
        "type": "type-echo",
        "state": "RUNNING",
        "ready": True,
        "reason": "ready",
        "pid": process.pid,
        "incarnation": 1,
        "restarts": 0,
        "started_at": START_S,
        "uptime_s": 5.0,
        "cpus": [1, 3, 4],
        "cpu_percent": None,
        "memory_bytes": None,
        "endpoint": process.spawn.endpoint,
        "protocols": ["lm"],
        "last_exit": None,
        "next_start_s": None,
        "log": "/s/logs/echo.log",
        "node": None,
    }
    world.exit("echo", code=4)
    (unit,) = client.ask("status").ok["units"]
    assert unit["last_exit"]["code"] == 4 and unit["uptime_s"] is None and unit["state"] == "BACKOFF"


def test_some_units_and_models_can_be_asked_for() -> None:
    world = a_daemon([a_model("m", replicas=2), a_model("n"), a_model("idle")])
    client = world.client()
    for name in "mn":
        client.ask("load-model", model=name)
    world.settle()

    def names(*units: str) -> list[str]:
        return [unit["unit"] for unit in client.ask("status", units=list(units)).ok["units"]]

    assert names() == ["m.0", "m.1", "n"]
    assert names("m") == ["m.0", "m.1"]
    assert names("n", "m.1", "m.1") == ["m.1", "n"]
    assert names("idle") == ["idle"]


def test_the_cache_is_packed_once_while_nothing_changes() -> None:
    world = a_daemon()
    client = world.client()
    client.ask("status")
    first = world.state.status_cache.packed
    client.ask("status")
    assert world.state.status_cache.packed is first
    world.now_ns += FRESH_NS
    client.ask("status")
    assert world.state.status_cache.packed is not first


def test_every_change_makes_a_new_status_at_once() -> None:
    world = a_daemon()
    client = world.client()

    def told() -> list[tuple[str, int | None, float | None]]:
        units = client.ask("status").ok["units"]
        return [(unit["state"], unit["pid"], unit["cpu_percent"]) for unit in units]

    assert told() == []
    client.ask("load-model", model="echo", wait=False)
    assert told() == [("STARTING", None, None)]
    process = world.start("echo")
    assert told() == [("STARTING", process.pid, None)]
    world.ready("echo")
    assert told() == [("RUNNING", process.pid, None)]
    world.feed(ev.Sampled({"echo": (50.0, 7)}))
    assert told() == [("RUNNING", process.pid, 50.0)]
    client.ask("stop-service")
    assert client.ask("status").ok["service"]["state"] == "stopping"
    assert told() == [("STOPPING", process.pid, 50.0)]
    world.drain()
    world.leader_ends(process, code=0, left=1)
    assert told() == [("STOPPING", None, 50.0)]
    world.settle()


def test_the_cache_equals_its_packed_form() -> None:
    world = a_daemon()
    assert frames.unpack(whole_packed(world.state, world.now)) == whole(world.state, world.now)
