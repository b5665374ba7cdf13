"""Ordering: starting units after what they need, and stopping them before it.

A unit that has to wait stays at rest with `waiting_for` said; one that must outlive its dependants has its
`stop_reason` noted. Both are looked at again whenever any unit changes.
"""

from __future__ import annotations

from collections.abc import Iterable

from mgmt.core import effect as fx
from mgmt.core.event import Now
from mgmt.core.supervision.dependencies import Needs, dependants, start_set
from mgmt.core.supervision.supervisor import Supervisor
from mgmt.core.supervision.unit import AT_REST, State, Unit
from mgmt.protocol.errors import MgmtError


class Ordering:
    """Starts and stops through here respect the relations between units."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def graph(self) -> dict[str, Needs]:
        return {name: unit.spec.needs for name, unit in self._supervisor.units.items()}

    def start(
        self, now: Now, units: list[Unit], out: list[fx.Effect], config_path: str | None = None
    ) -> None:
        """Start the units and what they require or want, each when its conditions hold.

        MgmtError `no-capacity` when one of `units` that could start now has no place; nothing is changed then.
        """
        supervisor = self._supervisor
        names = {unit.spec.name for unit in units}
        for unit in units:
            if unit.state in AT_REST and not unit.has_process:
                supervisor.ledger.check(unit.spec.name, names)
        for name in sorted(start_set(self.graph(), names)):
            unit = supervisor.units[name]
            if unit.state in AT_REST:
                unit.wanted = True
                unit.config_path = config_path if name in names else unit.config_path
                supervisor.touch(unit)
        # What others wait for is started first, so that nobody waits for what is about to come anyway.
        for name in sorted(start_set(self.graph(), names)):
            self._try(now, supervisor.units[name], out)

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
            unit.wanted, unit.waiting_for, unit.stop_reason = wanted and unit.wanted, "", why
            unit.start_when_empty = False
            self._supervisor.touch(unit)
        for name in victims:
            self._try_to_stop(now, self._supervisor.units[name], out)

    def on_change(self, now: Now, out: list[fx.Effect]) -> None:
        """Somebody changed: whoever waited for that goes on."""
        for unit in self._supervisor.units.values():
            if unit.waiting_for:
                self._try(now, unit, out)
            elif unit.stop_reason:
                self._try_to_stop(now, unit, out)

    def _try(self, now: Now, unit: Unit, out: list[fx.Effect]) -> None:
        if unit.state not in AT_REST:
            self._supervisor.start(now, unit, out, unit.config_path)  # in BACKOFF or STOPPING: sooner
            return
        if not unit.wanted or (unit.spec.oneshot and self._completed(unit) and not unit.waiting_for):
            return  # a completed one-shot is not run again because somebody else needs it
        waiting_for, hopeless = self._unmet(unit)
        if hopeless:
            self._supervisor.refuse(unit, hopeless)
        elif waiting_for:
            if unit.waiting_for != waiting_for:
                unit.waiting_for = waiting_for
                unit.reason = f"waiting for {waiting_for}"
                self._supervisor.touch(unit)
        else:
            try:
                self._supervisor.start(now, unit, out, unit.config_path)
            except MgmtError as error:
                self._supervisor.refuse(unit, error.text)

    def _unmet(self, unit: Unit) -> tuple[str, str]:
        """What the unit still waits for, and why it would wait for ever; each empty when there is nothing."""
        needs = unit.spec.needs
        waiting_for = ""
        for name, condition in needs.all().items():
            other = self._supervisor.units.get(name)
            if other is None or self._holds(other, condition):
                continue
            failed = other.state in (State.FATAL, State.EXITED) and not other.waiting_for
            if failed and name in needs.requires:
                return "", f"it requires {name}, which is {other.state}: {other.reason}"
            meant_to_run = other.wanted and not failed
            if meant_to_run and not waiting_for:
                waiting_for = f"{name} to be {condition}"
        return waiting_for, ""

    def _holds(self, other: Unit, condition: str) -> bool:
        if condition == "completed":
            return self._completed(other)
        if condition == "ready":
            return other.ready or (other.spec.oneshot and self._completed(other))
        return other.pid is not None or self._completed(other)

    def _completed(self, unit: Unit) -> bool:
        exit = unit.last_exit
        return (
            unit.state is State.EXITED
            and exit is not None
            and exit.code is not None
            and exit.code in unit.spec.backend.success_exit_codes
        )

    def _try_to_stop(self, now: Now, unit: Unit, out: list[fx.Effect]) -> None:
        for name in dependants(self.graph(), unit.spec.name):
            other = self._supervisor.units[name]
            if other.has_process or other.state not in AT_REST:
                return
        reason = unit.stop_reason
        self._supervisor.stop(now, unit, out, reason, wanted=unit.wanted)
