"""Two booted nodes with `mgmt-agent.service`, installed as docs/operations.md says; they join a daemon by keys."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mgmt.protocol import curve
from tests.rt.rig import SOURCES, build
from tests.system import netns
from tests.system.agents import becomes, node
from tests.system.clients import eventually
from tests.system.installed import MGMT
from tests.system.machines import NAMES, Machines, unit
from tests.system.node import NoNode

# Beside the other tests with nodes: the wheel is built once for all of them.
pytestmark = [
    pytest.mark.xdist_group("systemd-node"),
    pytest.mark.timeout(180),
    pytest.mark.skipif(not curve.is_available(), reason="this libzmq has no CURVE"),
]

BOOT_ID = "/proc/sys/kernel/random/boot_id"
PERIOD_US = 400_000
CLOCKS_NS = 12_000_000  # what a node that just booted knows of the daemon's clock, at worst
CPU = min(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Iterator[Machines]:
    reason = netns.why_impossible()
    if reason:
        pytest.skip(f"no machines of their own: {reason}")
    folder = tmp_path_factory.mktemp("machines")
    client = build(SOURCES / "client.c", folder / "client")
    units = {
        "a": unit("a", "n1"),
        "b": unit("b", "n2"),
        "once": unit("once", "n1", restart={"policy": "no"}),
        "refused": unit("refused", "n1", command=["/bin/cat"]),
    }
    with ExitStack() as stack:
        try:
            machines = Machines(stack, folder, wheel, [client], units=units)
        except NoNode as error:
            pytest.skip(str(error))
        yield machines


@pytest.fixture
def site(shared: Machines) -> Iterator[Machines]:
    """With `a` on n1 and `b` on n2, both in a first line of theirs."""
    shared.daemon.control.ok("start", targets=["a", "b"])
    yield shared
    for name in NAMES:
        becomes(shared.daemon, name, "ALIVE")
    shared.daemon.control.ok("stop", targets=["a", "b", "once"])


def test_the_service_is_up_and_tells_its_machine(site: Machines) -> None:
    told = {name: node(site.daemon, name) for name in NAMES}
    for name, machine in site.nodes.items():
        assert machine.show("mgmt-agent", "ActiveState") == "active"
        assert told[name]["machine_id"] == (machine.root / "etc/machine-id").read_text().strip()
        assert told[name]["units"] == told[name]["processes"] == 1
        assert str(told[name]["pid"]) == machine.show("mgmt-agent", "MainPID")
    assert told["n1"]["machine_id"] != told["n2"]["machine_id"]


def test_a_remote_unit_is_worked_as_if_it_were_here(site: Machines) -> None:
    pid = site.pid("a")
    group = site.nodes["n1"].group_of(pid)
    assert group.startswith("/mgmt.slice/mgmt-units.service/"), group
    mgmt = [sys.executable, "-m", "mgmt_cli", "--endpoint", site.daemon.endpoint("control")]

    def said(*words: str) -> str:
        done = subprocess.run(
            [*mgmt, *words], env=site.daemon.environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    _, header, *rows = said("status").splitlines()
    assert "NODE" in header and any(row.startswith("a ") and " n1 " in row for row in rows), rows
    assert "started" in said("logs", "a")
    said("stop", "a")
    assert site.daemon.unit("a")["state"] == "STOPPED" and not site.nodes["n1"].said(
        "pgrep", "-f", "starts-a"
    )
    said("start", "a")
    assert site.pid("a") != pid
    # Its own commands ask it, as the account of the service.
    local = site.nodes["n1"].run(MGMT, "--endpoint", "ipc:///run/mgmt-agent/control", "status", "--json")
    assert [one["unit"] for one in json.loads(local.stdout)["units"] if one["state"] == "RUNNING"] == ["a"]


def test_what_the_policy_does_not_allow_is_refused_by_its_rule(site: Machines) -> None:
    refusal = site.daemon.control.reply(site.daemon.control.ask("start", targets=["refused"]))
    assert "`executables` of this agent's policy" in refusal.body["text"], refusal.body


def test_a_restart_of_the_service_keeps_the_units(site: Machines) -> None:
    machine = site.nodes["n1"]
    kept = site.kept("a", "b")
    machine.systemctl("restart", "mgmt-agent")
    site.is_joined("n1")
    kept()


@pytest.mark.parametrize("which", ["agent", "daemon", "both"])
def test_units_outlive_whoever_is_killed(site: Machines, which: str) -> None:
    machine, daemon = site.nodes["n1"], site.daemon
    kept = site.kept("a", "b")
    agent = machine.show("mgmt-agent", "MainPID")
    if which != "agent":
        daemon.crash()
    if which != "daemon":
        machine.run("kill", "-KILL", agent)
    if which != "agent":
        daemon.start()
    if which != "daemon":
        eventually(
            lambda: machine.show("mgmt-agent", "MainPID") not in ("0", agent), what="systemd starts another"
        )
    site.is_joined("n1")
    site.is_joined("n2")
    kept()


def test_a_stop_of_the_service_leaves_the_units_and_the_next_start_adopts_them(site: Machines) -> None:
    machine = site.nodes["n1"]
    kept = site.kept("a")
    machine.systemctl("stop", "mgmt-agent")
    assert machine.show("mgmt-agent", "Result") == "success"
    becomes(site.daemon, "n1", "LOST")
    machine.systemctl("start", "mgmt-agent")
    becomes(site.daemon, "n1", "ALIVE")
    kept()


def test_an_orderly_reboot_starts_each_unit_once(site: Machines) -> None:
    machine = site.nodes["n1"]
    before, boot = site.starts("n1", "a"), machine.said("cat", BOOT_ID)
    kept = site.kept("b")
    machine.reboot()
    site.is_joined("n1")
    eventually(lambda: site.daemon.unit("a")["ready"], what="the unit is started again")
    assert machine.said("cat", BOOT_ID) != boot
    eventually(lambda: len(site.starts("n1", "a")) > len(before), what="it has left its line")
    assert len(site.starts("n1", "a")) == len(before) + 1
    assert site.daemon.unit("a")["incarnation"] == len(before) + 1
    kept()


def schedule() -> dict[str, Any]:
    """A task on each node."""
    times = {"period_us": PERIOD_US, "wcet_us": 1000, "policy": "normal", "command": ["/opt/tasks/client"]}
    return {
        "workload": "w",
        "nodes": {name: {"available_cpus": [CPU]} for name in NAMES},
        "tasks": [{"name": f"t{name}", "node": name, **times} for name in NAMES],
    }


def test_a_node_that_loses_power_comes_back_with_its_units_and_its_tasks(site: Machines) -> None:
    daemon, machine = site.daemon, site.nodes["n1"]
    daemon.control.ok("start", targets=["once"])
    daemon.control.ok("schedule-submit", documents=[schedule()])
    first, second = site.task("n1", 1), site.task("n2", 1)
    assert first.t0_ns > 0 and abs(first.t0_ns - second.t0_ns) < 1e9
    before = {name: site.starts("n1", name) for name in ("a", "once")}
    kept = site.kept("b")
    machine.crash()
    becomes(daemon, "n1", "LOST")
    assert daemon.unit("a")["ready"] is False and "n1 is lost" in daemon.unit("a")["reason"]
    machine.boot()
    becomes(daemon, "n1", "ALIVE")
    # Its policy says that it is always started again: it was, and once.
    eventually(lambda: daemon.unit("a")["ready"], what="the unit is started again")
    eventually(lambda: len(site.starts("n1", "a")) > len(before["a"]), what="it has left its line")
    assert len(site.starts("n1", "a")) == len(before["a"]) + 1
    assert daemon.unit("once")["state"] == "EXITED" and site.starts("n1", "once") == before["once"]
    # Its task goes on in the grid of the others, which noticed nothing.
    again = site.task("n1", 1)
    assert again.pid != first.pid and again.plan.cycle_ns == first.plan.cycle_ns
    apart_ns = (again.t0_ns - first.t0_ns) % (PERIOD_US * 1000)
    assert min(apart_ns, PERIOD_US * 1000 - apart_ns) <= CLOCKS_NS
    assert site.task("n2", second.completed + 1).pid == second.pid
    daemon.control.ok("schedule-remove", workload="w")
    kept()
