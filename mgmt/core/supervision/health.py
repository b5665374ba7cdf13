"""Health: asking the probes of a unit, and what their verdicts do to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.event import Now
from mgmt.core.supervision.probes import ProbeState
from mgmt.core.supervision.unit import State, Unit

if TYPE_CHECKING:
    from mgmt.core.supervision.supervisor import Supervisor


def startup_kind(unit: Unit) -> str:
    """How it is known that the unit is up: the kind of its startup probe, or what its own kind does.

    `none`: being executed is enough.
    """
    probe = unit.spec.backend.probes.startup
    if probe is not None:
        return probe.kind
    return {"native": "told", "symphony": "handshake"}.get(unit.spec.backend.kind, "none")


class Health:
    """Probe states live in the units; this decides when to ask and what an answer means."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def reset(self, unit: Unit) -> None:
        """A new incarnation: nothing is known of its health."""
        settings = unit.spec.backend.probes
        asked = {"startup": settings.startup, "ready": settings.ready, "live": settings.live}
        unit.probes = {which: ProbeState(probe) for which, probe in asked.items() if probe is not None}
        unit.heard_ns = 0

    def begin(self, now: Now, unit: Unit, out: list[fx.Effect]) -> None:
        """The unit is up: its ready and live probes are asked from now on."""
        for which in ("ready", "live"):
            if which in unit.probes:
                self.ask(now, unit, which, out)

    def forget(self, unit: Unit, out: list[fx.Effect]) -> None:
        """Ask nothing more; answers on their way are not wanted."""
        if unit.probes:
            out.extend(fx.CancelTimer(("probe." + which, unit.spec.name)) for which in unit.probes)
            out.append(fx.ForgetProbes(unit.spec.name))
            self.reset(unit)

    def refresh(self, now: Now, unit: Unit, out: list[fx.Effect]) -> None:
        """The unit's specification was replaced while it is up: other probes are asked from now on."""
        settings = unit.spec.backend.probes
        asked = {"startup": settings.startup, "ready": settings.ready, "live": settings.live}
        present = {which: unit.probes[which].settings for which in unit.probes}
        if present == {which: probe for which, probe in asked.items() if probe is not None}:
            return
        was_ready = unit.ready
        self.forget(unit, out)
        self.reset(unit)
        if unit.sought:
            return
        if unit.state is State.RUNNING:
            self.begin(now, unit, out)
            if unit.ready is not was_ready:
                self._supervisor.readiness_changed(unit, "its probes were changed")
        elif unit.state is State.STARTING and unit.pid is not None:
            self._supervisor.watch_start(now, unit, out)

    def ask(self, now: Now, unit: Unit, which: str, out: list[fx.Effect]) -> None:
        """One question. A `told` probe is not asked: it is looked at when its time comes."""
        probe = unit.probes[which].settings
        if probe.kind == "told":
            self._ask_later(now, unit, which, out)
        else:
            out.append(fx.AskProbe(unit.spec.name, unit.incarnation, which, probe))

    def on_timer(self, now: Now, which: str, name: str, out: list[fx.Effect]) -> None:
        unit = self._supervisor.units.get(name)
        if unit is None or which not in unit.probes or unit.state not in (State.STARTING, State.RUNNING):
            return
        probe = unit.probes[which].settings
        if probe.kind != "told":
            self.ask(now, unit, which, out)
            return
        silent_s = (now.mono_ns - unit.heard_ns) / 1e9
        ok = unit.heard_ns > 0 and silent_s <= probe.period_s
        self._count(
            now, unit, which, ok, f"last heard {silent_s:.1f} s ago" if unit.heard_ns else "never heard", out
        )

    def on_answer(self, now: Now, event: ev.ProbeAnswered, out: list[fx.Effect]) -> None:
        unit = self._supervisor.units.get(event.unit)
        if unit is None or unit.incarnation != event.incarnation or event.which not in unit.probes:
            return
        if unit.state is not (State.STARTING if event.which == "startup" else State.RUNNING):
            return  # asked before it left the state in which the answer means something
        self._count(now, unit, event.which, event.ok, event.detail, out)

    def on_heard(self, now: Now, unit: Unit) -> None:
        """The unit's process said something of its own accord."""
        unit.heard_ns = now.mono_ns

    def _count(self, now: Now, unit: Unit, which: str, ok: bool, detail: str, out: list[fx.Effect]) -> None:
        probe = unit.probes[which]
        changed = probe.count(ok, detail)
        if which == "startup" and probe.passing:
            self._supervisor.on_up(now, unit, "ready: its startup probe passed", out)
            return
        if which == "live" and changed and probe.passing is False:
            self._supervisor.kill(unit, out, f"live probe failed {probe.bad} times: {detail}")
            return
        if which == "ready" and changed and unit.state is State.RUNNING:
            self._supervisor.readiness_changed(unit, f"ready probe: {detail}")
        self._ask_later(now, unit, which, out)

    def _ask_later(self, now: Now, unit: Unit, which: str, out: list[fx.Effect]) -> None:
        period_ns = int(unit.probes[which].settings.period_s * 1e9)
        out.append(fx.SetTimer(("probe." + which, unit.spec.name), now.mono_ns + period_ns))
