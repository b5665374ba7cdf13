"""What an operator asks of units and models alike: start, stop, restart, reset; and who waits for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mgmt.core import effect as fx
from mgmt.core.event import Asked, Now, Route
from mgmt.core.models.loading import Loading, start_failed
from mgmt.core.models.registry import Registry
from mgmt.core.sessions import Sessions
from mgmt.core.supervision import AT_REST, Ordering, State, Supervisor, Unit
from mgmt.protocol import frames
from mgmt.protocol.errors import MgmtError


class Operations:
    """Parked start, stop and restart requests, by the units they are about."""

    def __init__(
        self,
        registry: Registry,
        supervisor: Supervisor,
        ordering: Ordering,
        loading: Loading,
        sessions: Sessions,
    ) -> None:
        self._registry = registry
        self._supervisor = supervisor
        self._ordering = ordering
        self._loading = loading
        self._sessions = sessions
        # What is waited for (up or down), the units with the incarnations they had when it was asked, those of
        # which nothing had to be changed, and those that are stopped because they require one.
        self._waiting: dict[Route, tuple[str, dict[str, int], list[Unit], list[str], list[Unit]]] = {}

    def find(self, targets: list[str]) -> list[Unit]:
        """The units behind names of units and models; MgmtError when a name is neither."""
        found: dict[str, Unit] = {}
        for target in targets:
            unit = self._supervisor.units.get(target)
            units = [unit] if unit is not None else self._of_model(target)
            found.update((unit.spec.name, unit) for unit in units)
        return list(found.values())

    def start(
        self, now: Now, asked: Asked, units: list[Unit], wait: bool, out: list[fx.Effect]
    ) -> dict[str, Any] | None:
        already = [unit.spec.name for unit in units if unit.state in (State.STARTING, State.RUNNING)]
        self._check(units, wait)
        self._park(now, asked, wait, out)
        self._ordering.start(now, units, out)
        return self._answer_or_wait(asked, "up", units, already, wait)

    def stop(
        self, now: Now, asked: Asked, units: list[Unit], wait: bool, out: list[fx.Effect]
    ) -> dict[str, Any] | None:
        already = [unit.spec.name for unit in units if _is_down(unit) and not unit.waiting_for]
        along = [unit for unit in self._ordering.along(units) if not _is_down(unit) or unit.waiting_for]
        self._park(now, asked, wait, out)
        self._ordering.stop(now, units, out, "stopped by request")
        return self._answer_or_wait(asked, "down", units, already, wait, along)

    def restart(
        self, now: Now, asked: Asked, units: list[Unit], wait: bool, out: list[fx.Effect]
    ) -> dict[str, Any] | None:
        self._check(units, wait)
        self._park(now, asked, wait, out)
        self._ordering.restart(now, units, out, {unit.spec.name: "restarted by request" for unit in units})
        return self._answer_or_wait(asked, "up", units, [], wait)

    def on_change(self, out: list[fx.Effect]) -> None:
        """Answer whoever's units are all where they should be, or cannot get there."""
        for route, (what, since, units, already, along) in list(self._waiting.items()):
            error = _hopeless(what, since, units) or (self._unreachable(units) if what == "up" else None)
            if error is not None:
                del self._waiting[route]
                self._sessions.refuse(route, error, out)
            elif _reached(what, since, units):
                del self._waiting[route]
                self._sessions.answer(route, frames.Outcome.OK, targets(units, already, along), out)

    def forget(self, route: Route) -> None:
        self._waiting.pop(route, None)

    def waiting(self) -> list[Route]:
        return list(self._waiting)

    def _of_model(self, name: str) -> list[Unit]:
        model = self._registry.resolve(name)
        self._registry.specs(model)  # raises `no-backend`
        return self._loading.units(model.name)

    def _unreachable(self, units: list[Unit]) -> MgmtError | None:
        try:
            self._ordering.check_reachable(unit for unit in units if unit.waiting_for)
        except MgmtError as error:
            return error
        return None

    def _check(self, units: list[Unit], wait: bool) -> None:
        """MgmtError when one of these may not or cannot be started; nothing was changed then."""
        for unit in units:
            name = unit.spec.name
            if not self._loading.is_declared(unit):
                text = f"unit {name!r} is being stopped, because the configuration no longer has it"
                raise MgmtError("unknown-unit", text, unit=name)
        self._ordering.check(units)
        if wait:
            self._ordering.check_reachable(units)

    def _park(self, now: Now, asked: Asked, wait: bool, out: list[fx.Effect]) -> None:
        """Before anything is changed: `busy` changes nothing."""
        if wait:
            self._sessions.park(now, asked, out)

    def _answer_or_wait(
        self,
        asked: Asked,
        what: str,
        units: list[Unit],
        already: list[str],
        wait: bool,
        along: list[Unit] | None = None,
    ) -> dict[str, Any] | None:
        since = {unit.spec.name: unit.incarnation for unit in units}
        error = _hopeless(what, since, units)
        if error is not None:
            raise error
        if not wait or _reached(what, since, units):
            return targets(units, already, along or [])
        self._waiting[asked.route] = (what, since, units, already, along or [])
        return None


def _reached(what: str, since: dict[str, int], units: list[Unit]) -> bool:
    if what == "down":
        # One that was started again meanwhile was down in between.
        return all(_is_down(unit) or unit.incarnation != since[unit.spec.name] for unit in units)
    return all(unit.is_up for unit in units)


def _hopeless(what: str, since: dict[str, int], units: list[Unit]) -> MgmtError | None:
    """Why the units will not get there; None when they are there or still may come."""
    for unit in units:
        name, state = unit.spec.name, unit.state
        if what == "down":
            goes_on = unit.wanted and not unit.stop_reason and not unit.start_when_empty
            if (
                goes_on
                and state is not State.STOPPING
                and not _is_down(unit)
                and unit.incarnation == since[name]
            ):
                return MgmtError("cancelled", f"the stop of {name!r} was overtaken by a start", unit=name)
        elif unit.waiting_for or unit.is_up or unit.start_when_empty:
            continue
        elif state in (State.FATAL, State.EXITED):
            return start_failed(unit)
        elif state is State.STOPPED or (state is State.STOPPING and not unit.wanted):
            return MgmtError("cancelled", f"the start of {name!r} was overtaken by a stop", unit=name)
    return None


def _is_down(unit: Unit) -> bool:
    return unit.state in AT_REST and not unit.has_process


def targets(units: list[Unit], already: list[str], along: Iterable[Unit] = ()) -> dict[str, Any]:
    """A Targets body; of those `already` named, nothing had to be changed; `along` require one of them."""
    beside = [unit for unit in along if unit not in units]
    return {
        "units": [unit.spec.name for unit in units],
        "states": {unit.spec.name: str(unit.state) for unit in units},
        "already": already,
        "along": [unit.spec.name for unit in beside],
    }
