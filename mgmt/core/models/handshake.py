"""The legacy handshake: it names no model, so the configuration's default answers, or whatever runs.

It may start the default model, and nothing else: an empty frame of a stranger must not be able to start
processes at will.
"""

from __future__ import annotations

from mgmt.core import effect as fx
from mgmt.core.event import Asked, HandshakeAsked, Now, Route
from mgmt.core.models.loading import Loading
from mgmt.core.models.registry import Registry
from mgmt.core.sessions import Sessions
from mgmt.core.supervision import AT_REST, State, Supervisor
from mgmt.protocol import frames, symphony
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.messages import Empty

RETRY_NS = 60_000_000_000  # a default model that failed is not started again by strangers before this


class Handshakes:
    """Answers are {"protocols": [...]}; an empty list says "not available", as the ancestor did."""

    def __init__(
        self, registry: Registry, supervisor: Supervisor, loading: Loading, sessions: Sessions
    ) -> None:
        self._registry = registry
        self._supervisor = supervisor
        self._loading = loading
        self._sessions = sessions
        self._waiting: dict[Route, None] = {}  # an ordered set
        self._not_before_ns = 0

    def ask(
        self, now: Now, event: HandshakeAsked, wait_ns: int, stopping: bool, out: list[fx.Effect]
    ) -> None:
        """Answer now, or park the request until the default model is up (at most `wait_ns`)."""
        protocols = self._protocols()
        model = self._registry.default
        if protocols or model is None or stopping:
            self._sessions.answer(event.route, frames.Outcome.OK, {"protocols": protocols}, out)
            return
        state = self._loading.state(model.name)
        if state in AT_REST:
            if now.mono_ns < self._not_before_ns:
                self._sessions.answer(event.route, frames.Outcome.OK, {"protocols": []}, out)
                return
            self._not_before_ns = now.mono_ns + RETRY_NS
        asked = Asked(event.route, "handshake", Empty(), now.mono_ns + wait_ns)
        try:
            self._sessions.park(now, asked, out)
            self._waiting[event.route] = None
            if state in AT_REST:
                self._loading.load(now, model, out)
        except MgmtError:
            # Busy, or no backend for the type: the legacy form has no errors, only "nothing here".
            self._give(event.route, [], out)

    def on_unit_change(self, out: list[fx.Effect]) -> None:
        if not self._waiting:
            return
        protocols = self._protocols()
        model = self._registry.default
        hopeless = model is not None and self._loading.state(model.name) in (
            State.FATAL,
            State.EXITED,
            State.STOPPED,
        )
        if protocols or hopeless:
            for route in list(self._waiting):
                self._give(route, protocols, out)

    def waiting(self) -> list[Route]:
        return list(self._waiting)

    def forget(self, route: Route) -> None:
        """The request was answered that its time is over."""
        self._waiting.pop(route, None)

    def _give(self, route: Route, protocols: list[str], out: list[fx.Effect]) -> None:
        self._waiting.pop(route, None)
        self._sessions.answer(route, frames.Outcome.OK, {"protocols": protocols}, out)

    def _protocols(self) -> list[str]:
        """What the ready replicas of the default model speak; without one, what all ready units speak."""
        model = self._registry.default
        units = self._loading.ready_units(model.name) if model else []
        if not units and model is None:
            units = [unit for unit in self._supervisor.units.values() if unit.ready]
        spoken = {protocol for unit in units for protocol in unit.protocols}
        known = [protocol for protocol in symphony.PROTOCOLS if protocol in spoken]
        return known + sorted(spoken.difference(known))
