"""The difference between what runs and what a configuration asks for, as a list of actions. Changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mgmt.core.models import Registry
from mgmt.core.placement import Place, plan
from mgmt.core.state import State
from mgmt.core.supervision import AT_REST, UnitSpec
from mgmt.settings import Settings

# What a running process need not be restarted for: it concerns only how it is watched and ended.
LIVE = frozenset(
    {
        *("restart", "success_exit_codes", "ready_timeout_s", "stop_signal", "grace_s", "probes", "hooks"),
        *(
            "requires",
            "wants",
            "after",
            "autostart",
            "aliases",
            "replicas",
            "placement",
            "cpus",
            "log_max_age_s",
        ),
        *("log_compress", "oneshot"),
    }
)


@dataclass(frozen=True, slots=True)
class Action:
    """start, restart, stop or keep a unit, and why."""

    unit: str
    action: str
    reason: str


def actions(state: State, settings: Settings) -> list[Action]:
    """One row for each unit that runs or is declared to run, in name order."""
    specs = {spec.name: spec for spec in Registry(settings).all_specs()}
    places = plan(state.ledger.topology, (spec.demand for spec in specs.values()))
    rows = []
    for name in sorted({*state.supervisor.units, *specs}):
        unit, spec = state.supervisor.units.get(name), specs.get(name)
        up = unit is not None and (unit.state not in AT_REST or unit.has_process or bool(unit.waiting_for))
        if spec is None:
            if up:
                rows.append(Action(name, "stop", "the configuration no longer has it"))
        elif not up or unit is None:
            new = unit is None or (unit.incarnation == 0 and not unit.spec.autostart)
            if spec.autostart and new:
                rows.append(Action(name, "start", "it is started with the daemon"))
        else:
            changed = differences(unit.spec, spec)
            place = places.get(name, Place())
            if (place.cpus, place.gpus) != (unit.place.cpus, unit.place.gpus):
                changed.append(f"place ({_cpus(unit.place)} -> {_cpus(place)})")
            if changed:
                rows.append(Action(name, "restart", "changed: " + ", ".join(changed)))
            else:
                rows.append(Action(name, "keep", "unchanged"))
    return rows


def differences(old: UnitSpec, new: UnitSpec) -> list[str]:
    """The settings that differ and that a process has from its start."""
    found = []
    for mine, its in ((old.backend, new.backend), (old.model, new.model)):
        before, after = mine.model_dump(), its.model_dump()
        found += [key for key in {**before, **after} if key not in LIVE and before.get(key) != after.get(key)]
    return found


def untouchable(old: Settings, new: Settings) -> list[str]:
    """The settings that differ and that only a restart of the daemon changes."""
    found: list[str] = []
    for table in ("endpoints", "logging", "limits", "timing"):
        before: dict[str, Any] = getattr(old, table).model_dump()
        after: dict[str, Any] = getattr(new, table).model_dump()
        found += [f"{table}.{key}" for key in before if before[key] != after[key]]
    return found


def _cpus(place: Place) -> str:
    return ",".join(map(str, (*place.cpus, *place.gpus))) or "anywhere"
