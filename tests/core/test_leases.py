"""Leases: direct ones name a replica and die with it, relay ones name the model and outlive replicas."""

from __future__ import annotations

from typing import Any

import pytest

from mgmt.core import effect as fx
from tests.core.builders import a_model, a_restart
from tests.core.recorder import Client, World, a_daemon


def loaded(**model: Any) -> tuple[World, Client]:
    world = a_daemon([a_model("m", replicas=2, **model), a_model("other")])
    client = world.client()
    client.ask("load-model", model="m")
    world.settle()
    return world, client


def served(world: World) -> list[str]:
    """The replicas the relay sends requests for `m` to."""
    return [unit for unit, _endpoint in world.relay_groups["m"]]


def test_direct_leases_go_to_the_least_used_replica() -> None:
    world, client = loaded()
    leases = [client.ask("lease", model="m").ok for _ in range(4)]
    assert [lease["unit"] for lease in leases] == ["m.0", "m.1", "m.0", "m.1"]
    client.ask("release", lease=leases[0]["lease"])
    client.ask("release", lease=leases[2]["lease"])
    assert [world.client().ask("lease", model="m").ok["unit"] for _ in range(3)] == ["m.0", "m.0", "m.0"]
    assert leases[1]["endpoint"] == world.unit("m.1").endpoint and leases[1]["mode"] == "direct"
    assert len({lease["lease"] for lease in leases}) == 4


def test_a_direct_lease_closes_with_its_replica_and_the_holder_is_told() -> None:
    world, client = loaded()
    first, second = client.ask("lease", model="m").ok, client.ask("lease", model="m").ok
    world.exit("m.0", signal=9)
    told = world.expect(fx.Tell, peer=client.peer, session=client.session, name="lease-closed")
    assert told.body["lease"] == first["lease"] and told.body["unit"] == "m.0"
    assert "signal 9" in told.body["reason"]
    assert client.ask("release", lease=first["lease"]).code == "lease-gone"
    assert client.ask("release", lease=second["lease"]).ok == {}
    assert client.ask("lease", model="m").ok["unit"] == "m.1", "the one that is left"


def test_a_direct_lease_closes_when_its_model_is_unloaded() -> None:
    world, client = loaded()
    client.ask("lease", model="m")
    client.ask("unload-model", model="m", wait=False)
    told = world.expect(fx.Tell, name="lease-closed")
    assert told.body["reason"] == "unloaded"
    world.settle()


def test_a_relay_lease_names_the_model_and_outlives_its_replicas() -> None:
    world, client = loaded(restart=a_restart(limit=1))
    lease = client.ask("lease", model="m", mode="relay").ok
    assert lease["unit"] is None and lease["endpoint"] == "ipc:///r/relay"
    assert world.relay_leases == {lease["lease"]: "m"}
    assert served(world) == ["m.0", "m.1"]
    world.exit("m.0", code=1)
    assert served(world) == ["m.1"]
    world.exit("m.1", code=1)
    assert world.relay_groups["m"] == () and lease["lease"] in world.relay_leases
    world.advance(1)
    world.settle()
    assert served(world) == ["m.0", "m.1"]


def test_a_relay_lease_ends_with_the_unload() -> None:
    world, client = loaded()
    lease = client.ask("lease", model="m", mode="relay").ok
    client.ask("unload-model", model="m")
    world.settle()
    assert world.relay_leases == {}
    assert client.ask("release", lease=lease["lease"]).code == "lease-gone"


def test_a_released_relay_lease_is_gone() -> None:
    world, client = loaded()
    lease = client.ask("lease", model="m", mode="relay").ok["lease"]
    assert client.ask("release", lease=lease).ok == {} and world.relay_leases == {}
    assert client.ask("release", lease=lease).code == "lease-gone"


@pytest.mark.parametrize("mode", ["direct", "relay"])
@pytest.mark.parametrize("end", ["bye", "silence", "hello"])
def test_leases_close_with_their_session(mode: str, end: str) -> None:
    world, client = loaded()
    client.ask("lease", model="m", mode=mode)
    client.ask("lease", model="m", mode=mode)
    assert len(world.state.leases.by_id) == 2
    if end == "bye":
        client.notice("bye")
    elif end == "silence":
        world.advance(15)
    else:
        client.hello()
    assert not world.state.leases.by_id and not world.relay_leases


def test_nobody_releases_the_lease_of_another() -> None:
    world, client = loaded()
    lease = client.ask("lease", model="m").ok["lease"]
    assert world.client().ask("release", lease=lease).code == "lease-gone"
    assert lease in world.state.leases.by_id


def test_a_lease_on_a_model_that_is_starting_is_not_ready() -> None:
    world, client = loaded()
    client.ask("load-model", model="other", wait=False)
    refused = client.ask("lease", model="other")
    assert refused.code == "not-ready" and "mgmt wait other" in refused.refusal[1]
    world.settle()


@pytest.mark.parametrize("mode", ["direct", "relay"])
def test_a_lease_can_load_its_model(mode: str) -> None:
    world, client = loaded()
    leases = [client.ask("lease", model="other", mode=mode, load=True) for _ in range(3)]
    world.start("other")
    assert all(lease.waits for lease in leases) and not world.deeds
    world.ready("other")
    assert [lease.ok["model"] for lease in leases] == ["other"] * 3
    assert client.ask("lease", model="other", load=True).ok


def test_a_lease_with_load_takes_the_first_replica_that_is_ready() -> None:
    world = a_daemon([a_model("m", replicas=2)])
    lease = world.client().ask("lease", model="m", load=True)
    world.up("m.1")
    assert lease.ok["unit"] == "m.1"
    world.settle()


def test_a_lease_with_load_says_why_the_load_failed() -> None:
    world = a_daemon([a_model("m", replicas=2)])
    lease = world.client().ask("lease", model="m", load=True)
    world.start("m.0")
    world.start("m.1")
    world.exit("m.1", code=7)
    assert lease.code == "start-failed" and "exit status 7" in lease.refusal[1]
    world.settle()


def test_a_lease_with_load_waits_for_a_model_that_is_stopping_or_restarting() -> None:
    world, client = loaded()
    client.ask("unload-model", model="m")
    lease = client.ask("lease", model="m", load=True)
    world.settle()
    assert lease.ok
    world.exit("m.0", code=1)
    world.exit("m.1", code=1)
    world.drain()
    lease = client.ask("lease", model="m", load=True)
    assert lease.waits and not world.deeds
    world.advance(2)
    world.settle()
    assert lease.ok


def test_a_lease_with_load_that_an_unload_overtakes_is_answered() -> None:
    world = a_daemon()
    client = world.client()
    lease = client.ask("lease", model="echo", load=True)
    world.start("echo")
    client.ask("unload-model", model="echo")
    world.settle()
    assert lease.code == "start-failed"


def test_a_lease_that_waits_ends_with_its_session() -> None:
    world = a_daemon()
    client = world.client()
    lease = client.ask("lease", model="echo", load=True)
    client.notice("bye")
    assert lease.code == "session-gone"
    world.settle()
    assert not world.state.leases.by_id


def test_a_backend_of_the_ancestors_plane_is_leased_to_nobody_who_would_wait_for_ever() -> None:
    world = a_daemon([a_model("old", kind="symphony")])
    client = world.client()
    client.ask("load-model", model="old")
    world.up("old", "ping")
    for mode in ("direct", "relay"):
        refused = client.ask("lease", model="old", mode=mode)
        assert refused.code == "not-available" and "mgmt status old" in refused.refusal[1]
    assert client.hello(model="old", mode="relay").code == "not-available"
    assert client.hello(model="old").ok["lease"]["endpoint"] == world.unit("old").endpoint
