"""Booted machines with `mgmt-agent.service`, installed as docs/operations.md says, which join a daemon by keys."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mgmt.rt import segment
from tests.system.agents import becomes, node
from tests.system.clients import eventually
from tests.system.installed import install, put_files
from tests.system.netagents import Site
from tests.system.node import Node

NAMES = ("n1", "n2")
FILES = "/var/lib/mgmt-agent"
TASKS = "/opt/tasks"
POLICY = {"executables": ["/bin/sh", f"{TASKS}/"], "env": ["MGMT_RT"]}
# Each start leaves a line; TERM ends it orderly.
COUNTED = f"echo started; echo $$ >>{FILES}/starts-$0; trap 'exit 0' TERM; sleep infinity & wait"


def unit(name: str, node: str, **keys: Any) -> dict[str, Any]:
    return {
        "command": ["/bin/sh", "-c", COUNTED, name],
        "node": node,
        "grace_s": 2.0,
        "restart": {"policy": "always", "delay_s": 0.1, "jitter": 0.0},
        **keys,
    }


class Machines(Site):
    """`nodes` are booted; on each the agent's service is what runs units. `programs` go to /opt/tasks there."""

    def __init__(
        self, stack: ExitStack, folder: Path, wheel: Path, programs: Sequence[Path] = (), **settings: Any
    ) -> None:
        super().__init__(stack, **settings)
        self.nodes: dict[str, Node] = {}
        for name in NAMES:
            where = folder / name
            where.mkdir()
            machine = Node(where, network=self.host(name, wire=False).path, target="multi-user.target")
            stack.callback(machine.close)
            self.nodes[name] = machine
            put_files(machine, "mgmt-agent.service")
            for program in programs:
                machine.put(program, f"{TASKS}/{program.name}")
            machine.boot()
        first, *others = self.nodes.values()
        install(first, wheel)
        for other in others:
            shutil.copytree(first.root / "opt/mgmt", other.root / "opt/mgmt", symlinks=True)
        for name in NAMES:
            self.configure(name)
        for name in NAMES:
            becomes(self.daemon, name, "ALIVE")

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

        for name in names:
            eventually(
                lambda: str(self.pid(name)) in self.starts(wheres[name], name),  # noqa: B023
                what=f"{name} has left its line",
            )
        before = look()

        def check() -> None:
            for name in names:
                eventually(lambda: self.daemon.unit(name)["ready"], what=f"{name} is ready")  # noqa: B023
            now = look()
            assert now == before, (now, before)
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
