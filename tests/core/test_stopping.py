"""Stop of a unit and of the daemon: signal, grace, kill, the whole tree, and Quit exactly once."""

from __future__ import annotations

from typing import Any

import pytest

from mgmt.core import effect as fx
from mgmt.core import event as ev
from tests.core.builders import a_model, a_restart, a_unit
from tests.core.recorder import Client, World, a_daemon


def running(*rows: Any, **keys: Any) -> tuple[World, Client]:
    world = a_daemon(list(rows) or None, timing={"session_timeout_s": 86_400.0}, **keys)
    client = world.client()
    for model in world.state.registry.models:
        client.ask("load-model", model=model)
    world.settle()
    return world, client


@pytest.mark.parametrize("signal", ["TERM", "INT"])
def test_a_unit_gets_its_signal_its_grace_and_then_the_kill(signal: str) -> None:
    world, client = running(a_model(stop_signal=signal, grace_s=4.0))
    unload = client.ask("unload-model", model="echo", within_s=None)
    world.expect(fx.SignalUnit, unit="echo", incarnation=1, signal=signal)
    assert [tell.peer for tell in world.drained] == [b"echo.1"], "its backend was asked to finish"
    world.advance(3.999)
    assert not world.deeds
    world.advance(0.001)
    kill = world.expect(fx.KillUnit, unit="echo", incarnation=1)
    assert unload.waits
    world.obey(kill)
    assert unload.ok
    last = world.unit("echo").last_exit
    assert last is not None and "4 s after SIG" + signal in last.reason and last.signal == 9


def test_a_unit_that_obeys_is_not_killed() -> None:
    world, client = running(a_model(restart=a_restart("always")))
    unload = client.ask("unload-model", model="echo")
    world.expect(fx.SignalUnit, unit="echo")
    world.exit("echo", code=0)
    assert unload.ok and world.unit("echo").state == "STOPPED"
    world.advance(1000)


def test_a_stopped_leader_with_descendants_has_them_killed_and_is_stopped_when_they_are_gone() -> None:
    world, client = running()
    process = world.process("echo")
    unload = client.ask("unload-model", model="echo", within_s=None)
    world.expect(fx.SignalUnit, unit="echo")
    world.leader_ends(process, code=0, left=2)
    world.expect(fx.KillUnit, unit="echo")
    assert unload.waits and world.unit("echo").state == "STOPPING"
    world.advance(100)
    world.tree_ends(process)
    assert unload.ok


def test_a_stop_of_what_has_only_descendants_left_kills_them() -> None:
    world, client = running(a_model(restart=a_restart("no")))
    process = world.process("echo")
    world.leader_ends(process, code=0, left=1)
    world.expect(fx.KillUnit, unit="echo")
    unload = client.ask("unload-model", model="echo")
    world.expect(fx.KillUnit, unit="echo")
    world.tree_ends(process)
    assert unload.ok


def test_a_daemon_without_units_quits_in_the_step_that_answers() -> None:
    world = a_daemon()
    stop = world.client().ask("stop-service")
    assert stop.ok["units"] == [] and world.quits() == 1


def test_a_daemon_quits_when_the_last_tree_is_empty() -> None:
    world, client = running(a_model("a"), a_model("b"), a_model("c"))
    world.exit("c", code=1)
    stop = client.ask("stop-service")
    assert stop.ok["units"] == ["a", "b"]
    world.obey(world.expect(fx.SignalUnit, unit="a"))
    world.expect(fx.SignalUnit, unit="b")
    process = world.process("b")
    world.leader_ends(process, code=0, left=1)
    world.expect(fx.KillUnit, unit="b")
    assert not world.quits()
    world.tree_ends(process)
    assert world.quits() == 1
    assert [world.unit(name).state for name in "abc"] == ["STOPPED"] * 3
    world.advance(1000)
    assert world.quits() == 1


def test_the_second_stop_is_fast() -> None:
    world, _ = running(a_model("a"), a_model("b"))
    world.feed(ev.StopRequested("SIGTERM", fast=False))
    for name in "ab":
        world.expect(fx.SignalUnit, unit=name, signal="TERM")
    world.feed(ev.StopRequested("SIGTERM", fast=True))
    kills = [world.expect(fx.KillUnit, unit=name) for name in "ab"]
    for kill in kills:
        assert not world.quits()
        world.obey(kill)
    assert world.quits() == 1


def test_a_fast_stop_at_once_signals_and_kills() -> None:
    world, _ = running()
    world.feed(ev.StopRequested("SIGINT", fast=True))
    world.expect(fx.SignalUnit, unit="echo")
    world.obey(world.expect(fx.KillUnit, unit="echo"))
    assert world.quits() == 1


def test_a_fast_stop_waits_for_no_dependant_and_restarts_nobody() -> None:
    units = {"db": a_unit(restart=a_restart("always")), "app": a_unit(requires=["db"])}
    world = a_daemon([], units)
    world.client().ask("start", targets=["app"])
    world.settle()
    world.feed(ev.StopRequested("SIGTERM", fast=False))
    world.expect(fx.SignalUnit, unit="app")
    assert world.unit("db").state == "RUNNING" and world.unit("db").stop_reason
    world.feed(ev.StopRequested("SIGTERM", fast=True))
    world.obey(world.expect(fx.KillUnit, unit="db"))
    states = [event["state"] for event in world.events if event.get("unit") == "db"]
    assert states == ["STARTING", "RUNNING", "STOPPING", "STOPPED"] and not world.quits()
    world.obey(world.expect(fx.KillUnit, unit="app"))
    assert world.quits() == 1
    assert world.unit("db").wanted and world.unit("app").wanted, "the next daemon starts them again"
    world.drain()


def test_a_stop_signal_after_stop_service_is_the_second_one() -> None:
    world, client = running()
    client.ask("stop-service")
    world.expect(fx.SignalUnit, unit="echo")
    world.feed(ev.StopRequested("SIGTERM", fast=False))
    world.obey(world.expect(fx.KillUnit, unit="echo"))
    assert world.quits() == 1


def test_a_stop_signal_after_a_hand_over_leaves_the_units_alone() -> None:
    world, _ = running()
    world.feed(ev.HandOver("SIGUSR1"))
    assert world.feed(ev.StopRequested("SIGTERM", fast=True)) == []
    assert world.unit("echo").state == "RUNNING"


def test_a_repeated_stop_changes_nothing() -> None:
    world, client = running()
    client.ask("stop-service")
    world.expect(fx.SignalUnit, unit="echo")
    assert client.ask("stop-service").ok["units"] == ["echo"]
    assert [event["kind"] for event in world.events].count("daemon") == 1 and not world.deeds
    world.exit("echo")
    assert world.quits() == 1


def test_a_stopping_daemon_starts_nothing_and_still_answers() -> None:
    world = a_daemon([a_model("a"), a_model("b")], default="b")
    client = world.client()
    loads = [client.ask("load-model", model="a") for _ in range(2)]
    lease = client.ask("lease", model="a", load=True)
    world.start("a")
    client.ask("stop-service")
    assert {load.code for load in loads} == {"stopping"}
    term = world.expect(fx.SignalUnit, unit="a")
    assert client.ask("load-model", model="b").code == "stopping"
    assert client.ask("lease", model="b", load=True).code == "stopping"
    assert world.handshake().ok == {"protocols": []}
    status = client.ask("status").ok
    assert status["service"]["state"] == "stopping" and status["units"][0]["state"] == "STOPPING"
    world.obey(term)
    assert lease.code == "start-failed" and world.quits() == 1


def test_a_stop_cancels_a_start_that_waits_for_an_empty_tree() -> None:
    world, client = running()
    client.ask("unload-model", model="echo")
    load = client.ask("load-model", model="echo")
    client.ask("stop-service")
    assert load.code == "stopping"
    world.settle()
    assert world.quits() == 1


def test_quit_answers_whoever_still_waits_and_refuses_who_comes_later() -> None:
    world, client = running()
    stopped = client.ask("wait", target="echo", condition="stopped")
    tickets = [
        client.ask("wait", target="echo", condition="failed"),
        client.ask("logs", unit="echo"),
    ]
    world.expect(fx.ReadLog, unit="echo")
    unload = client.ask("unload-model", model="echo")
    client.ask("stop-service")
    world.settle()
    assert stopped.ok and unload.ok
    assert {ticket.code for ticket in tickets} == {"stopping"}
    assert client.ask("wait", target="echo", condition="ready").code == "stopping"
    assert client.ask("status").code == "stopping"
