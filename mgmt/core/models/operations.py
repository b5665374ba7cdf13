"""What an operator asks of units and models alike: start, stop, restart, reset; and who waits for it."""

from __future__ import annotations

from typing import Any

from mgmt.core import effect as fx
from mgmt.core.event import Asked, Now, Route
from mgmt.core.models.loading import Loading, start_failed
from mgmt.core.models.registry import Registry
from mgmt.core.sessions import Sessions
from mgmt.core.supervision import AT_REST, Ordering, State, Supervisor, Unit
from mgmt.protocol import frames


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
        # What is waited for (up or down), and the units with the incarnation they had when it was asked.
        self._waiting: dict[Route, tuple[str, list[Unit]]] = {}

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
        self._ordering.start(now, units, out)
        return self._answer_or_park(now, asked, "up", units, wait, out)

    def stop(
        self, now: Now, asked: Asked, units: list[Unit], wait: bool, out: list[fx.Effect]
    ) -> dict[str, Any] | None:
        self._ordering.stop(now, units, out, "stopped by request")
        return self._answer_or_park(now, asked, "down", units, wait, out)

    def restart(
        self, now: Now, asked: Asked, units: list[Unit], wait: bool, out: list[fx.Effect]
    ) -> dict[str, Any] | None:
        for unit in units:
            if unit.state in AT_REST:
                self._ordering.start(now, [unit], out)
            else:
                self._supervisor.restart(now, unit, out, "restarted by request")
        return self._answer_or_park(now, asked, "up", units, wait, out)

    def on_change(self, out: list[fx.Effect]) -> None:
        """Answer whoever's units are all where they should be, or cannot get there."""
        for route, (what, units) in list(self._waiting.items()):
            failed = next((unit for unit in units if what == "up" and unit.state is State.FATAL), None)
            if failed is not None:
                del self._waiting[route]
                self._sessions.refuse(route, start_failed(failed), out)
            elif _reached(what, units):
                del self._waiting[route]
                self._sessions.answer(route, frames.Outcome.OK, _targets(units), out)

    def forget(self, route: Route) -> None:
        self._waiting.pop(route, None)

    def waiting(self) -> list[Route]:
        return list(self._waiting)

    def _of_model(self, name: str) -> list[Unit]:
        model = self._registry.resolve(name)
        self._registry.specs(model)  # raises `no-backend`
        return self._loading.units(model.name)

    def _answer_or_park(
        self, now: Now, asked: Asked, what: str, units: list[Unit], wait: bool, out: list[fx.Effect]
    ) -> dict[str, Any] | None:
        failed = next((unit for unit in units if what == "up" and unit.state is State.FATAL), None)
        if failed is not None:
            raise start_failed(failed)
        if not wait or _reached(what, units):
            return _targets(units)
        self._sessions.park(now, asked, out)
        self._waiting[asked.route] = (what, units)
        return None


def _reached(what: str, units: list[Unit]) -> bool:
    if what == "down":
        return all(unit.state in AT_REST and not unit.has_process and not unit.stop_reason for unit in units)
    return all(unit.ready or (unit.spec.oneshot and unit.state is State.EXITED) for unit in units)


def _targets(units: list[Unit]) -> dict[str, Any]:
    return {
        "units": [unit.spec.name for unit in units],
        "states": {unit.spec.name: str(unit.state) for unit in units},
    }
