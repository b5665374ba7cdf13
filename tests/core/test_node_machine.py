"""Whatever happens to links, agents and the daemon, in any order: when it is over, everything is as it was told.

The machine cuts and breaks links, kills agents and the daemon, crashes processes, and orders meanwhile. At the
end all is healed and given time: then each unit runs on the one node that the daemon says, or nowhere, and the
daemon's view of it is what is so. The worlds check their invariants after every event.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.core.builders import a_restart, a_unit
from tests.core.linked import Cluster
from tests.core.outside import HUNT, SETTINGS
from tests.core.recorder import worlds

NODES = ("a", "b")
UNITS = ("pinned", "tagged", "moves", "ends", "here")
nodes, units = st.sampled_from(NODES), st.sampled_from(UNITS)


def a_workload(name: str, *places: str) -> dict[str, Any]:
    """A workload with a task that is a process on each of these nodes; it may be rebalanced onto others."""
    times = {"period_us": 20_000, "wcet_us": 4_000, "policy": "normal", "command": ["run"]}
    bound = [{"name": f"t{n}", "node": place, **times} for n, place in enumerate(places) if place]
    free = [{"name": f"f{n}", **times} for n, place in enumerate(places) if not place]
    cpus = {node: {"available_cpus": [0, 1]} for node in ("local", *NODES)}
    return {"workload": name, "nodes": cpus, "tasks": bound + free}


WORKLOADS = (
    a_workload("v", "a", "b"),
    a_workload("v", "b", "local", ""),
    a_workload("w", "a"),
    a_workload("w", "", "", ""),
)


class Machine(RuleBasedStateMachine):
    cluster: Cluster

    @initialize(policy=st.sampled_from(["always", "on-failure", "no"]), autostart=st.booleans())
    def begin(self, policy: str, autostart: bool) -> None:
        keys: dict[str, Any] = {"restart": a_restart(policy, limit=2, window_s=100.0), "autostart": autostart}
        table = {
            "pinned": a_unit(node="a", **keys),
            "tagged": a_unit(node={"tags": ["t"]}, requires=["pinned"], **keys),
            "moves": a_unit(node={"tags": ["t"]}, on_node_lost="replace", **keys),
            "ends": a_unit(node="b", on_node_lost="stop", **keys),
            "here": a_unit(requires=["tagged"], **keys),
        }
        self.cluster = Cluster(table, dict.fromkeys(NODES, ("t",)))

    def teardown(self) -> None:
        if hasattr(self, "cluster"):
            cluster = self.cluster
            for name in NODES:
                cluster.go_on(name)
                cluster.heal(name)
                cluster.agent(name).stages = True
            cluster.advance(1.5)
            for name in NODES:
                self.ask("node-cordon", node=name, cordoned=False)
            cluster.advance(12.0)
            cluster.check()
            cluster.check_tasks()
        worlds.clear()

    def ask(self, verb: str, **body: Any) -> None:
        self.cluster.client = self.cluster.daemon.client()
        self.cluster.client.ask(verb, within_s=None, **body)
        self.cluster.pump()

    @rule(verb=st.sampled_from(["start", "start", "stop", "restart", "reset-failed"]), unit=units)
    def order(self, verb: str, unit: str) -> None:
        self.ask(verb, targets=[unit])

    @rule(node=nodes, verb=st.sampled_from(["node-cordon", "node-drain"]))
    def cordon(self, node: str, verb: str) -> None:
        self.ask(verb, node=node)

    @rule(document=st.sampled_from(WORKLOADS), replaces=st.booleans())
    def submit(self, document: dict[str, Any], replaces: bool) -> None:
        self.ask("schedule-submit", documents=[document], replace=replaces)

    @rule(name=st.sampled_from(["v", "w"]))
    def remove(self, name: str) -> None:
        self.ask("schedule-remove", workload=name)

    @rule()
    def rebalance(self) -> None:
        self.ask("schedule-rebalance", apply=True)

    @rule(node=nodes, stages=st.booleans())
    def hang(self, node: str, stages: bool) -> None:
        """Its agent is well, and its executive does not answer, or does so again."""
        self.cluster.agent(node).stages = stages
        self.cluster.pump()

    @rule(node=nodes)
    def uncordon(self, node: str) -> None:
        self.ask("node-cordon", node=node, cordoned=False)

    @rule(unit=units, code=st.integers(0, 1))
    def crash(self, unit: str, code: int) -> None:
        for name in self.cluster.running(unit):
            world = self.cluster.agent(name)
            if self.cluster.links[name].held is not None:
                continue
            process = next(p for p in world.processes.values() if p.spawn.unit == unit and not p.gone)
            if process.started and process.leader:
                world.leader_ends(process, code)
        self.cluster.pump()

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 2.6, 3.5]))
    def wait(self, seconds: float) -> None:
        self.cluster.advance(seconds)

    @rule(node=nodes)
    def cut(self, node: str) -> None:
        self.cluster.cut(node)

    @rule(node=nodes)
    def break_off(self, node: str) -> None:
        self.cluster.break_off(node)

    @rule(node=nodes)
    def heal(self, node: str) -> None:
        self.cluster.heal(node)

    @rule(node=nodes, count=st.integers(1, 2))
    def lose_words(self, node: str, count: int) -> None:
        self.cluster.links[node].lose = count

    @rule(node=nodes)
    def stop_agent(self, node: str) -> None:
        self.cluster.stop_agent(node)

    @rule(node=nodes)
    def go_on(self, node: str) -> None:
        self.cluster.go_on(node)

    @rule(node=nodes)
    def kill_agent(self, node: str) -> None:
        self.cluster.kill_agent(node)

    @rule()
    @precondition(lambda self: hasattr(self, "cluster"))
    def kill_daemon(self) -> None:
        self.cluster.kill_daemon()
        self.cluster.pump()


TestMachine = Machine.TestCase
TestMachine.settings = settings(SETTINGS, max_examples=HUNT or 30, stateful_step_count=60 if HUNT else 15)
