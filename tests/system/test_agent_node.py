"""Two booted nodes with `mgmt-agent.service`, installed as docs/operations.md says; they join a daemon by keys."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mgmt.protocol import curve
from mgmt.rt import segment
from tests.rt.rig import SOURCES, build
from tests.system import netns
from tests.system.agents import becomes, node
from tests.system.clients import eventually
from tests.system.installed import MGMT, install, put_files
from tests.system.netagents import Site
from tests.system.node import Node, NoNode

# Beside the other tests with nodes: the wheel is built once for all of them.
pytestmark = [
    pytest.mark.xdist_group("systemd-node"),
    pytest.mark.timeout(180),
    pytest.mark.skipif(not curve.is_available(), reason="this libzmq has no CURVE"),
]

NAMES = ("n1", "n2")
MARK = "MGMT_TEST_SITE"
FILES = "/var/lib/mgmt-agent"
POLICY = {"executables": ["/bin/sh", "/opt/tasks/"], "env": [MARK, "MGMT_RT"]}
# Each start leaves a line; TERM ends it orderly.
COUNTED = f"echo started; echo $$ >>{FILES}/starts-$0; trap 'exit 0' TERM; sleep infinity & wait"
BOOT_ID = "/proc/sys/kernel/random/boot_id"
PERIOD_US = 400_000
CLOCKS_NS = 12_000_000  # what a node that just booted knows of the daemon's clock, at worst
CPU = min(os.sched_getaffinity(0))


def unit(name: str, node: str, **keys: Any) -> dict[str, Any]:
    return {
        "command": ["/bin/sh", "-c", COUNTED, name],
        "node": node,
        "grace_s": 2.0,
        "restart": {"policy": "always", "delay_s": 0.1, "jitter": 0.0},
        **keys,
    }


class Machines(Site):
    """`nodes` are booted; on each the agent's service is what runs units."""

    def __init__(self, stack: ExitStack, folder: Path, wheel: Path, client: Path, **settings: Any) -> None:
        super().__init__(stack, **settings)
        self.nodes: dict[str, Node] = {}
        for name in NAMES:
            where = folder / name
            where.mkdir()
            machine = Node(where, network=self.host(name, wire=False).path, target="multi-user.target")
            stack.callback(machine.close)
            self.nodes[name] = machine
            put_files(machine, "mgmt-agent.service")
            machine.put(client, "/opt/tasks/client")
            machine.boot()
        first, *others = self.nodes.values()
        install(first, wheel)
        for other in others:
            shutil.copytree(first.root / "opt/mgmt", other.root / "opt/mgmt", symlinks=True)
        for name in NAMES:
            self.configure(name)

    def configure(self, name: str) -> None:
        """What docs/operations.md has an administrator write, and the service enabled."""
        machine = self.nodes[name]
        _, key, _, server = self.key_options(name)
        machine.put(Path(key), "/etc/mgmt/agent.key")
        machine.run("chown", "mgmt:mgmt", "/etc/mgmt/agent.key")
        machine.run("chmod", "600", "/etc/mgmt/agent.key")
        machine.write("/etc/mgmt/policy.json", json.dumps(POLICY))
        machine.write("/etc/mgmt/server.pub", f"{server}\n")
        options = (
            f"--name {name} --key /etc/mgmt/agent.key --server-key {server} --policy /etc/mgmt/policy.json"
        )
        machine.write("/etc/mgmt/agent.env", f"MGMT_JOIN={self.endpoint}\nMGMT_AGENT_OPTIONS={options}\n")
        machine.systemctl("enable", "--now", "mgmt-agent")

    # ---- what is there ----

    def pid(self, name: str) -> int:
        """The unit's process, as its node numbers it."""
        unit = self.daemon.reaches(name, "RUNNING")
        assert unit["pid"], unit
        return int(unit["pid"])

    def starts(self, where: str, name: str) -> list[str]:
        path = self.nodes[where].root / FILES.lstrip("/") / f"starts-{name}"
        return path.read_text().split() if path.exists() else []

    def kept(self, *names: str) -> Callable[[], None]:
        """What shows, when it is called, that these units were left alone since."""
        wheres = {name: self.daemon.unit(name)["node"] for name in names}

        def look() -> dict[str, Any]:
            return {name: (self.pid(name), self.starts(wheres[name], name)) for name in names}

        before = look()

        def check() -> None:
            for name in names:
                eventually(lambda: self.daemon.unit(name)["ready"], what=f"{name} is ready")  # noqa: B023
            assert look() == before
            for name in names:
                assert self.nodes[wheres[name]].run("kill", "-0", str(before[name][0])).returncode == 0

        return check

    def is_joined(self, name: str) -> None:
        """Its present agent is the one that the daemon knows."""
        machine = self.nodes[name]
        eventually(
            lambda: str(node(self.daemon, name)["pid"]) == machine.show("mgmt-agent", "MainPID"),
            what=f"the agent of {name} joins",
        )
        becomes(self.daemon, name, "ALIVE")

    def task(self, name: str, more_than: int) -> segment.Statistics:
        """Of the node's task, once so many of its jobs are completed."""
        folder = Path(f"/proc/{self.nodes[name].leader}/root/run/mgmt-agent/rt")
        found: list[segment.Statistics] = []

        def look() -> bool:
            found[:] = [segment.read(path) for path in folder.glob(f"w.t{name}.*")]
            return bool(found) and found[-1].completed > more_than

        eventually(look, what=f"the task of {name} runs")
        return found[-1]


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
            machines = Machines(stack, folder, wheel, client, units=units)
        except NoNode as error:
            pytest.skip(str(error))
        for name in NAMES:
            becomes(machines.daemon, name, "ALIVE")
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
