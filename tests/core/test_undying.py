"""Units outlive their daemon: killed at any point of any event, the next one goes on without loss or doubling.

An event of the daemon has three ends: nothing of it was committed, its commit was and some of its effects were
carried out, or all were. The machine draws the point, then lets the next daemon find processes as they are by
then: not yet executed, living, ended with or without descendants, emptied, without their shim, or not there.
The world checks after every event that the store says exactly what the units are, that nothing is spawned beside a
living tree, that no process is forgotten while it lives, and that whatever a unit waits for is on its way.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from mgmt.settings import Settings
from tests.core.builders import a_config, a_model, a_probe, a_restart, a_topology, a_unit
from tests.core.outside import SETTINGS, Outside, hello_again, indexes
from tests.core.recorder import Client, World

NAMES = ("db", "app", "job", "web", "solo", "rival", "m")
names = st.sampled_from((*NAMES, "m.0", "m.1"))
VERBS = ("start", "start", "stop", "restart", "reset-failed", "load-model", "unload-model")


def a_configuration(policy: str, parts: tuple[bool, ...]) -> Settings:
    """`web` wants the one-shot `job` and requires `app`, which requires `db`; `solo` and `rival` need one CPU."""
    restart = a_restart(policy, limit=2, window_s=100.0)
    hooks, probes, started, fewer, other = parts
    gates: dict[str, Any] = {"pre_start": 5.0, "pre_stop": 5.0} if hooks else {}
    reports: dict[str, Any] = {"pre_start": 5.0, "post_start": 5.0, "post_stop": 5.0} if hooks else {}
    units: dict[str, dict[str, Any]] = {
        "db": a_unit(
            restart=restart,
            autostart=started,
            startup=a_probe() if probes else None,
            env={"CHANGED": str(other)},
            **gates,
        ),
        "app": a_unit(
            restart=restart,
            requires=["db"],
            ready=a_probe("exec") if probes else None,
            live=a_probe(failure_threshold=2) if probes else None,
            **reports,
        ),
        "job": a_unit(restart=restart, oneshot=True, after={"db": "started"}),
        "web": a_unit(restart=restart, autostart=started, requires=["app"], wants={"job": "completed"}),
        "solo": a_unit(restart=restart, cpus="1" if not other else "0", placement={"exclusive": True}),
        "rival": a_unit(restart=restart, cpus="1", placement={"exclusive": True}),
    }
    if fewer:
        for name in ("web", "rival"):
            del units[name]
    return a_config([a_model("m", replicas=1 if fewer else 2, restart=restart)], units)


configurations = st.builds(
    a_configuration,
    st.sampled_from(("no", "on-failure", "always")),
    st.tuples(*[st.booleans()] * 5),
)


class Undying(Outside):
    @initialize(settings=configurations)
    def begin(self, settings: Settings) -> None:
        self.world = World(settings, a_topology())
        self.world.die()  # the first daemon of a machine finds an empty store
        self.client = Client(self.world, b"operator")
        hello_again(self.client)

    @rule(
        verb=st.sampled_from(VERBS),
        about=st.lists(names, min_size=1, max_size=2, unique=True),
        wait=st.booleans(),
    )
    def operate(self, verb: str, about: list[str], wait: bool) -> None:
        hello_again(self.client)
        if verb.endswith("-model"):
            self.client.ask(verb, model=about[0], wait=wait)
        elif verb == "reset-failed":
            self.client.ask(verb, targets=about)
        else:
            self.client.ask(verb, targets=about, wait=wait)

    @rule(settings=configurations, changes=st.booleans())
    def apply(self, settings: Settings, changes: bool) -> None:
        """Another configuration, or the same once more."""
        hello_again(self.client)
        settings = settings if changes else self.world.settings
        before = self.world.deaths
        if not self.client.ask("apply").waits or self.world.deaths != before:
            return
        self.world.reads(settings)
        if self.world.deaths != before or not self.client.ask("plan").waits:
            return
        again = self.world.tickets
        self.world.reads(settings)
        if self.world.deaths == before:
            plan = list(again.values())[-1].ok["actions"]
            assert {row["action"] for row in plan} <= {"keep"}, f"applied again it would change {plan}"

    @rule(i=indexes)
    def heartbeat(self, i: int) -> None:
        self.client.notice("heartbeat")

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        world.dies_after = None
        if not world.state.stopping:
            self.come_to_rest()
            before = self.picture()
            world.die()
            world.adopt_all()
            self.come_to_rest()
            after = self.picture()
            differ = {
                name: (before[name], after.get(name)) for name in before if before[name] != after.get(name)
            }
            assert not differ, f"a death changed what runs: {differ}"
        self.end()

    def come_to_rest(self) -> None:
        """All that is outside does its best: then every wanted unit is up, done or failed."""
        for _ in range(12):
            self.world.settle()
            self.world.advance(20.0)
        for name, unit in self.world.state.supervisor.units.items():
            assert unit.state in ("STOPPED", "RUNNING", "EXITED", "FATAL"), f"{name} is {unit.state} for ever"
            assert not unit.stop_reason, f"{name} is never stopped"
            if unit.wanted:
                assert unit.state != "STOPPED", f"{name} is lost: {unit.reason}"

    def picture(self) -> dict[str, tuple[Any, ...]]:
        units = self.world.state.supervisor.units.values()
        return {
            unit.spec.name: (unit.state, unit.incarnation, unit.pid, unit.wanted, unit.restarts, unit.place)
            for unit in units
        }


TestUndying = Undying.TestCase
TestUndying.settings = SETTINGS
