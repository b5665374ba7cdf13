"""Ordering: starting units after what they need, and stopping them before it.

A unit that has to wait stays at rest with `waiting_for` said; one that must outlive its dependants has its
`stop_reason` noted. Both, and those that start again when they are empty, are looked at again whenever any unit
changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mgmt.core import effect as fx
from mgmt.core.event import Now
from mgmt.core.supervision.dependencies import Needs, dependants, start_order
from mgmt.core.supervision.supervisor import Supervisor
from mgmt.core.supervision.unit import AT_REST, State, Unit
from mgmt.protocol.errors import MgmtError

UP = frozenset({State.STARTING, State.RUNNING, State.BACKOFF})


class Ordering:
    """Starts and stops through here respect the relations between units."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def graph(self) -> dict[str, Needs]:
        """The units that have relations to others. It looks at all units: made once for many of them."""
        units = self._supervisor.units.items()
        return {name: needs for name, unit in units if (needs := unit.spec.needs).any}

    def check(self, units: list[Unit]) -> None:
        """MgmtError `no-capacity` when one of these at rest has no place, now or when others have left theirs."""
        names = [unit.spec.name for unit in units]
        for unit in units:
            if unit.state in AT_REST and not unit.has_process:
                self._leaving(unit.spec.name, names)

    def check_reachable(self, units: Iterable[Unit]) -> None:
        """MgmtError when one of these, or that they require, is at rest and nothing is there to run it."""
        todo, seen = [unit.spec.name for unit in units], set[str]()
        while todo:
            name = todo.pop(0)
            unit = self._supervisor.units.get(name)
            if name in seen or unit is None or unit.state not in AT_REST:
                continue
            seen.add(name)
            error = self._supervisor.unreachable(unit)
            if error is not None:
                raise error
            todo += unit.spec.needs.requires

    def start(
        self, now: Now, units: list[Unit], out: list[fx.Effect], config_path: str | None = None
    ) -> None:
        """Start the units and what they require or want, each when its conditions hold.

        A one-shot that is done runs again when it is one of `units`, not when it is only needed by one. MgmtError
        `no-capacity` as in `check`; nothing is changed then.
        """
        self.check(units)
        supervisor = self._supervisor
        names = {unit.spec.name for unit in units}
        # What is needed comes first, so that nobody fails of, or waits for, what is about to come anyway.
        needed = [supervisor.units[name] for name in start_order(self.graph(), names)]
        done = {unit.spec.name for unit in needed if unit.spec.oneshot and unit.is_completed}
        todo = [unit for unit in needed if unit.spec.name in names or unit.spec.name not in done]
        for unit in todo:
            if unit.spec.name in names:
                unit.config_path = config_path
            if unit.stop_reason and any(
                supervisor.units[name].stop_reason for name in unit.spec.needs.requires
            ):
                unit.start_when_empty = True  # it must stop in any case, for what it requires to be restarted
            elif unit.stop_reason and not unit.start_when_empty:
                unit.stop_reason = ""  # that stop is overtaken
            unit.wanted = True
            supervisor.touch(unit)
        for unit in todo:
            self._try(now, unit, out)

    def along(self, units: Iterable[Unit]) -> list[Unit]:
        """Who is stopped when these are, because it requires one of them."""
        graph = self.graph()
        names = dict.fromkeys(name for unit in units for name in dependants(graph, unit.spec.name))
        return [self._supervisor.units[name] for name in names]

    def stop(
        self, now: Now, units: Iterable[Unit], out: list[fx.Effect], reason: str, wanted: bool = False
    ) -> None:
        """Stop the units, and before each whoever requires it; in parallel where the order allows it.

        `wanted` keeps them among the units that the next daemon starts.
        """
        graph = self.graph()
        victims: dict[str, str] = {}
        for unit in units:
            victims[unit.spec.name] = reason
            for name in dependants(graph, unit.spec.name):
                victims.setdefault(name, f"{unit.spec.name}, which it requires, is stopped: {reason}")
        for name, why in victims.items():
            unit = self._supervisor.units[name]
            unit.wanted, unit.stop_reason, unit.start_when_empty = wanted and unit.wanted, why, False
            self._supervisor.touch(unit)
        for name in victims:
            self._try_to_stop(now, self._supervisor.units[name], out, graph)

    def restart(self, now: Now, units: list[Unit], out: list[fx.Effect], reasons: Mapping[str, str]) -> None:
        """Stop the units, and before each whoever requires it, then start them all; one at rest is just started.

        Who requires one and is being stopped for good stays so. `reasons` by name. MgmtError `no-capacity` as in
        `check`; nothing is changed then.
        """
        at_rest = [unit for unit in units if unit.state in AT_REST]
        self.check(at_rest)
        graph = self.graph()
        victims: dict[str, str] = {}
        for unit in units:
            if unit.state not in AT_REST:
                reason = victims[unit.spec.name] = reasons[unit.spec.name]
                for name in dependants(graph, unit.spec.name):
                    if not self._supervisor.units[name].is_down_soon:
                        victims.setdefault(
                            name, f"{unit.spec.name}, which it requires, is restarted: {reason}"
                        )
        for name, why in victims.items():
            unit = self._supervisor.units[name]
            unit.wanted, unit.stop_reason, unit.start_when_empty = True, why, True
            self._supervisor.touch(unit)
        for name in victims:
            self._try_to_stop(now, self._supervisor.units[name], out, graph)
        if at_rest:
            self.start(now, at_rest, out)

    def on_change(self, now: Now, out: list[fx.Effect]) -> None:
        """Somebody changed: whoever waited for that goes on."""
        graph: dict[str, Needs] | None = None
        for unit in self._supervisor.units.values():
            if unit.waiting_for or (unit.start_when_empty and unit.state is State.STOPPED):
                self._try(now, unit, out)
            elif unit.stop_reason:
                graph = self.graph() if graph is None else graph
                self._try_to_stop(now, unit, out, graph)

    def _try(self, now: Now, unit: Unit, out: list[fx.Effect]) -> None:
        if unit.state not in AT_REST:
            self._supervisor.start(now, unit, out, unit.config_path)  # in BACKOFF or STOPPING: sooner
            return
        if unit.start_when_empty:  # it is
            unit.start_when_empty = False
            self._supervisor.touch(unit)
        waiting_for, hopeless = self._unmet(unit)
        if not waiting_for and not hopeless:
            waiting_for = self._supervisor.obstacle(unit)
        if not waiting_for and not hopeless and not unit.has_process:
            try:
                holder = self._leaving(unit.spec.name)
                waiting_for = f"{holder} to leave its place" if holder else ""
            except MgmtError as error:
                hopeless = error.text
        if hopeless:
            self._supervisor.refuse(unit, hopeless)
        elif not waiting_for:
            self._supervisor.start(now, unit, out, unit.config_path)
        elif unit.waiting_for != waiting_for:
            unit.waiting_for = waiting_for
            unit.reason = f"waiting for {waiting_for}"
            self._supervisor.release(unit)
            self._supervisor.touch(unit)

    def _leaving(self, name: str, together: Iterable[str] = ()) -> str:
        """Who holds the unit's place and is about to leave it; empty when the place is free.

        MgmtError `no-capacity` when nobody leaves who would have to.
        """
        ledger = self._supervisor.ledger
        together = list(together)
        try:
            ledger.check(name, together)
        except MgmtError as error:
            leaving = [other for other in ledger.held if self._leaves(other)]
            ledger.check(name, together, leaving)
            return str(error.detail.get("holder", leaving[0] if leaving else name))
        return ""

    def _leaves(self, name: str) -> bool:
        unit, ledger = self._supervisor.units.get(name), self._supervisor.ledger
        if unit is None or (unit.start_when_empty and ledger.is_as_planned(name)):
            return False
        return unit.state is State.STOPPING or unit.state in AT_REST or bool(unit.stop_reason)

    def _unmet(self, unit: Unit) -> tuple[str, str]:
        """What the unit still waits for, and why it would wait for ever; each empty when there is nothing."""
        needs = unit.spec.needs
        waiting_for = ""
        for name, condition in needs.all().items():
            other = self._supervisor.units.get(name)
            if other is None or self._holds(other, condition):
                continue
            failed = other.state in (State.FATAL, State.EXITED) and not other.waiting_for
            will_come = other.wanted and not failed
            if will_come:
                waiting_for = waiting_for or f"{name} to be {condition}"
            elif name in needs.requires:
                return "", f"it requires {name}, which is {other.state}: {other.reason}"
        return waiting_for, ""

    def _holds(self, other: Unit, condition: str) -> bool:
        if other.stop_reason:
            return False  # not for long
        if condition == "completed" or (condition == "ready" and other.spec.oneshot):
            return other.is_completed
        if condition == "ready":
            return other.ready
        return other.pid is not None or other.is_completed

    def _try_to_stop(self, now: Now, unit: Unit, out: list[fx.Effect], graph: Mapping[str, Needs]) -> None:
        if unit.state in (State.STARTING, State.RUNNING):
            for name in dependants(graph, unit.spec.name):
                other = self._supervisor.units[name]
                stays = other.state in UP and not other.stop_reason  # it came to require this one only lately
                if (other.has_process or other.state not in AT_REST) and not stays:
                    return
        again = unit.start_when_empty
        self._supervisor.stop(now, unit, out, unit.stop_reason, wanted=unit.wanted)
        unit.start_when_empty = again
