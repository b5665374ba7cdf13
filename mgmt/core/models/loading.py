"""Loading and unloading: a model's units are started together, and whoever asked gets one answer.

A load is a set of waiting requests on a model; ten of them make one start and ten equal answers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mgmt.core import effect as fx
from mgmt.core.event import Asked, Now, Route
from mgmt.core.models.registry import Registry
from mgmt.core.sessions import Sessions
from mgmt.core.supervision import AT_REST, Ordering, State, Supervisor, Unit, UnitSpec
from mgmt.protocol import frames
from mgmt.protocol.errors import MgmtError
from mgmt.settings import ModelSettings


@dataclass(slots=True)
class _Waiters:
    """Requests waiting for a model: to be loaded (with the `already` of their answer), or to be unloaded
    (with the units whose processes are still to go; a unit that starts again meanwhile does not count)."""

    load: dict[Route, bool] = field(default_factory=dict)
    unload: dict[Route, set[str]] = field(default_factory=dict)


class Loading:
    """Which models are meant to be loaded, and who waits for it."""

    def __init__(
        self,
        registry: Registry,
        supervisor: Supervisor,
        ordering: Ordering,
        sessions: Sessions,
        max_units: int,
        *,
        together: bool = True,
    ) -> None:
        """`together`: replicas of a model that fails to load are stopped; an agent leaves that to its daemon."""
        self._registry = registry
        self._supervisor = supervisor
        self._ordering = ordering
        self._sessions = sessions
        self._max_units = max_units
        self._together = together
        self._units: dict[str, list[Unit]] = {}
        self._complete: set[str] = set()  # models whose replicas were all ready since they were loaded
        self._waiters: dict[str, _Waiters] = {}

    def declare(self, specs: list[UnitSpec], out: list[fx.Effect]) -> None:
        """These are the units of the configuration; what exists of them keeps its present."""
        self._units = {}
        for spec in specs:
            self._units.setdefault(spec.model.name, []).append(self._supervisor.add(spec))
        for name in self._waiters:
            if name not in self._units:
                text = f"the configuration no longer has {name!r}"
                self._fail_load(name, MgmtError("cancelled", text, model=name), out)

    def adopt(self, unit: Unit) -> None:
        """A unit of a former daemon takes the place of the one at rest that was declared by its name."""
        units = self._units[unit.spec.model.name]
        units[:] = [unit if other.spec.name == unit.spec.name else other for other in units]
        if unit.proven:
            # Whether all its replicas were ready is not known; those that serve must not go for one that fails.
            self._complete.add(unit.spec.model.name)

    # ---- reading ----

    def units(self, model: str) -> list[Unit]:
        """The units of a model, first replica first; empty when it was never loaded."""
        return self._units.get(model, [])

    def is_declared(self, unit: Unit) -> bool:
        """Whether the configuration still has it; else it is only there until nothing of it is left."""
        return any(unit is other for other in self.units(unit.spec.model.name))

    def ready_units(self, model: str) -> list[Unit]:
        return [unit for unit in self.units(model) if unit.ready]

    def state(self, model: str) -> State:
        """The state of the worst replica, one that waits to be started counts as STARTING.

        STOPPED when it was never loaded.
        """
        worst = [
            State.FATAL,
            State.BACKOFF,
            State.STOPPING,
            State.STARTING,
            State.EXITED,
            State.STOPPED,
            State.RUNNING,
        ]
        states = [State.STARTING if unit.waiting_for else unit.state for unit in self.units(model)]
        return min(states, key=worst.index, default=State.STOPPED)

    def waiting(self) -> list[Route]:
        """The requests that wait for a load or an unload."""
        return [route for waiters in self._waiters.values() for route in (*waiters.load, *waiters.unload)]

    # ---- what is asked ----

    def load(
        self,
        now: Now,
        model: ModelSettings,
        out: list[fx.Effect],
        waiter: Asked | None = None,
        *,
        config_path: str | None = None,
        starting_after_ns: int | None = None,
    ) -> dict[str, Any] | None:
        """Start the model's units where they are not up; the answer when it is known at once, else None.

        `waiter` is then parked and answered when every replica is ready, or when the load failed.
        """
        specs = self._registry.specs(model)
        others = sum(
            unit.has_process or unit.state not in AT_REST
            for unit in self._supervisor.units.values()
            if unit.spec.model.name != model.name and unit.spec.node is None
        )
        if others + sum(spec.node is None for spec in specs) > self._max_units:
            raise MgmtError(
                "busy", f"{others} other units are up; {self._max_units} is the limit (limits.max_units)"
            )
        units = self.units(model.name)
        self._ordering.check(units)
        if waiter is not None:
            self._ordering.check_reachable(units)
        states = {unit.state for unit in units}
        already = bool(states) and states <= {State.RUNNING, State.STARTING}
        waits = waiter is not None and not all(unit.is_up for unit in units)
        if waiter is not None and waits:
            # Before anything is started: `busy` changes nothing.
            self._sessions.park(now, waiter, out)
            self._of(model.name).load[waiter.route] = already
            if starting_after_ns is not None:
                out.append(fx.SetTimer(("starting", waiter.route), now.mono_ns + starting_after_ns))
        if State.RUNNING not in states:
            self._complete.discard(model.name)
        self._ordering.start(now, units, out, config_path)
        return None if waits else self.loaded(model.name, already)

    def unload(
        self, now: Now, model: ModelSettings, out: list[fx.Effect], waiter: Asked | None
    ) -> dict[str, Any] | None:
        """Stop the model's units; the answer when they are all down, else None and `waiter` is parked.

        MgmtError `not-loaded` when there is nothing to unload.
        """
        name = model.name
        units = self.units(name)
        if all(unit.state is State.STOPPED and not unit.waiting_for for unit in units):
            raise MgmtError("not-loaded", f"model {name!r} is not loaded", model=name)
        left = {unit.spec.name for unit in units if unit.has_process or unit.hook}
        waits = waiter is not None and bool(left)
        if waiter is not None and waits:
            # Before anything is stopped: `busy` changes nothing.
            self._sessions.park(now, waiter, out)
            self._of(name).unload[waiter.route] = left
        self._fail_load(name, MgmtError("cancelled", f"the load of {name!r} was overtaken by an unload"), out)
        self._ordering.stop(now, units, out, "unloaded")
        return None if waits else self.unloaded(name)

    def loaded(self, model: str, already: bool) -> dict[str, Any]:
        """A Loaded body of the present state."""
        units = self.units(model)
        first = units[0]
        return {
            "model": model,
            "type": first.spec.model.type,
            "state": str(self.state(model)),
            "endpoint": first.endpoint,
            "pid": first.pid,
            "units": [unit.spec.name for unit in units],
            "already": already,
        }

    def unloaded(self, model: str) -> dict[str, Any]:
        return {"model": model, "units": [unit.spec.name for unit in self.units(model)]}

    # ---- what happened ----

    def on_unit_change(self, now: Now, unit: Unit, was: State, out: list[fx.Effect]) -> None:
        name = unit.spec.model.name
        waiters = self._waiters.get(name)
        units = self.units(name)
        if unit.waiting_for and waiters is not None and waiters.load:
            error = self._supervisor.unreachable(unit)
            if error is not None:
                self._fail_load(name, error, out)
        if units and all(other.ready for other in units):
            self._complete.add(name)
        if not self.is_declared(unit):
            units = []  # no longer declared: its end is nobody else's failure
        elif unit.state is State.STOPPED and not unit.wanted:
            self._fail_load(
                name, MgmtError("cancelled", f"the load of {name!r} was overtaken by a stop"), out
            )
        # EXITED from RUNNING, too: the load of its fellow replicas cannot become complete any more.
        failed = unit.state is State.FATAL or (unit.state is State.EXITED and not unit.spec.oneshot)
        if units and failed and not unit.waiting_for:
            self._fail_load(name, start_failed(unit), out)
            if self._together and name not in self._complete:
                # The replicas of a model that failed to load are not left behind half loaded.
                for other in units:
                    if other is not unit:
                        self._supervisor.stop(now, other, out, f"{unit.spec.name} failed to start")
        if waiters is None:
            return
        if units and all(other.is_up for other in units):
            for route, already in list(waiters.load.items()):
                self._answer(route, self.loaded(name, already), out)
            waiters.load.clear()
        if was is State.STOPPING:
            for route, left in list(waiters.unload.items()):
                left.discard(unit.spec.name)
                if not left:
                    del waiters.unload[route]
                    self._answer(route, self.unloaded(name), out)

    def forget(self, route: Route, out: list[fx.Effect]) -> None:
        """Nobody waits for this request any more; what it started goes on for the others."""
        for waiters in self._waiters.values():
            waiters.unload.pop(route, None)
            if waiters.load.pop(route, None) is not None:
                out.append(fx.CancelTimer(("starting", route)))

    def on_starting_timer(self, route: Route, out: list[fx.Effect]) -> None:
        """The caller wanted to know by now: answer STARTING, the load goes on."""
        for model, waiters in self._waiters.items():
            if route in waiters.load:
                already = waiters.load.pop(route)
                self._answer(route, {**self.loaded(model, already), "state": str(State.STARTING)}, out)
                return

    def fail_all(self, error: MgmtError, out: list[fx.Effect]) -> None:
        """Every waiting load ends with `error`."""
        for model in self._waiters:
            self._fail_load(model, error, out)

    def _of(self, model: str) -> _Waiters:
        return self._waiters.setdefault(model, _Waiters())

    def _fail_load(self, model: str, error: MgmtError, out: list[fx.Effect]) -> None:
        waiters = self._of(model)
        for route in list(waiters.load):
            out.append(fx.CancelTimer(("starting", route)))
            self._sessions.refuse(route, error, out)
        waiters.load.clear()

    def _answer(self, route: Route, body: dict[str, Any], out: list[fx.Effect]) -> None:
        out.append(fx.CancelTimer(("starting", route)))
        self._sessions.answer(route, frames.Outcome.OK, body, out)


def start_failed(unit: Unit) -> MgmtError:
    """Why the unit did not come up, with the end of its log."""
    exit = unit.last_exit
    tail = exit.tail if exit is not None else ""
    text = f"unit {unit.spec.name!r} did not start: {unit.reason}"
    if tail:
        text += "\nlast lines of its log:\n" + "\n".join(f"  {line}" for line in tail.splitlines())
    elif exit is None or exit.executed:
        text += f"; it wrote nothing to its log (mgmt logs {unit.spec.name})"
    return MgmtError(
        "start-failed",
        text,
        unit=unit.spec.name,
        exit_code=exit.code if exit else None,
        signal=exit.signal if exit else None,
        tail=tail,
    )
