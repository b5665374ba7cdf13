"""Waiting for a unit or a model to be in a condition."""

from __future__ import annotations

from mgmt.core import effect as fx
from mgmt.core.event import Asked, Now, Route
from mgmt.core.models.loading import Loading
from mgmt.core.models.registry import Registry
from mgmt.core.sessions import Sessions
from mgmt.core.supervision import AT_REST, State, Supervisor
from mgmt.protocol import frames
from mgmt.protocol.errors import MgmtError

MET: dict[str, frozenset[State]] = {
    "active": frozenset(State) - AT_REST,
    "stopped": AT_REST,
    "failed": frozenset({State.FATAL}),
}


class Conditions:
    """Parked `wait` requests, by the target they watch."""

    def __init__(
        self, registry: Registry, supervisor: Supervisor, loading: Loading, sessions: Sessions
    ) -> None:
        self._registry = registry
        self._supervisor = supervisor
        self._loading = loading
        self._sessions = sessions
        self._waiting: dict[Route, tuple[str, str]] = {}

    def state(self, target: str) -> tuple[str, State]:
        """The canonical name and state of a unit or model; MgmtError when there is neither."""
        unit = self._supervisor.units.get(target)
        if unit is not None:
            return target, unit.state
        model = self._registry.resolve(target)
        return model.name, self._loading.state(model.name)

    def wait(
        self, now: Now, asked: Asked, target: str, condition: str, out: list[fx.Effect]
    ) -> dict[str, str] | None:
        """The answer when the condition holds already; else None, and the request is parked."""
        target, state = self._judged(target, condition)
        body = self._judge(target, state, condition)
        if body is not None:
            return body
        self._sessions.park(now, asked, out)
        self._waiting[asked.route] = (target, condition)
        return None

    def on_unit_change(self, out: list[fx.Effect]) -> None:
        """Answer whoever's condition came true; who waits for ready of a FATAL target is told it will not."""
        for route, (name, condition) in list(self._waiting.items()):
            try:
                body = self._judge(*self._judged(name, condition), condition)
            except MgmtError as error:
                self._sessions.refuse(route, error, out)
            else:
                if body is None:
                    continue
                self._sessions.answer(route, frames.Outcome.OK, body, out)
            del self._waiting[route]

    def _judged(self, target: str, condition: str) -> tuple[str, State]:
        """As `state`; but a model whose worst replica has failed is not stopped while another one is up."""
        target, state = self.state(target)
        if condition == "stopped":
            state = next((u.state for u in self._loading.units(target) if u.state not in AT_REST), state)
        return target, state

    def waiting(self) -> list[Route]:
        return list(self._waiting)

    def forget(self, route: Route) -> None:
        """Nobody waits for this request any more."""
        self._waiting.pop(route, None)

    def _judge(self, target: str, state: State, condition: str) -> dict[str, str] | None:
        """A Condition body when it is met; MgmtError `start-failed` when it will not be; None: not yet."""
        unit = self._supervisor.units.get(target)
        units = [unit] if unit is not None else self._loading.units(target)
        if condition == "ready":
            met = bool(units) and all(unit.is_up for unit in units)
        else:
            met = state in MET[condition]
        waiting = any(unit.waiting_for for unit in units)
        if met:
            return {"target": target, "condition": condition, "state": str(state)}
        if state is State.FATAL and condition in ("ready", "active") and not waiting:
            text = f"{target} is {state} and will not become {condition}; see `mgmt status {target}`"
            raise MgmtError("start-failed", text)
        return None
