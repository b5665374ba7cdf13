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
                cluster.heal(name)
            cluster.advance(1.5)
            for name in NODES:
                self.ask("node-cordon", node=name, cordoned=False)
            cluster.advance(12.0)
            cluster.check()
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

    @rule(node=nodes)
    def uncordon(self, node: str) -> None:
        self.ask("node-cordon", node=node, cordoned=False)

    @rule(unit=units, code=st.integers(0, 1))
    def crash(self, unit: str, code: int) -> None:
        for name in self.cluster.running(unit):
            world = self.cluster.agent(name)
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
    def kill_agent(self, node: str) -> None:
        self.cluster.kill_agent(node)

    @rule()
    @precondition(lambda self: hasattr(self, "cluster"))
    def kill_daemon(self) -> None:
        self.cluster.kill_daemon()
        self.cluster.pump()


TestMachine = Machine.TestCase
TestMachine.settings = settings(SETTINGS, max_examples=HUNT or 30, stateful_step_count=60 if HUNT else 15)
