"""The difference between what runs and what a configuration asks for, as a list of actions. Changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mgmt.core.models import Registry
from mgmt.core.placement import Place, memory_nodes, plan
from mgmt.core.state import State
from mgmt.core.supervision import AT_REST, Unit, UnitSpec, dependants
from mgmt.core.supervision import State as UnitState
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
        *("log_compress", "oneshot", "on_node_lost"),
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
    specs = {spec.name: spec for spec in Registry(settings, state.registry.tasks).all_specs()}
    tasks = state.ledger.tasks.keys()
    places = plan(state.ledger.topology, (spec.demand for spec in specs.values()), tasks)
    rows: dict[str, Action] = {}
    units = state.supervisor.units
    loaded = {unit.spec.model.name for unit in units.values() if unit.wanted}
    for name in sorted({*units, *specs}):
        unit, spec = units.get(name), specs.get(name)
        if unit is None or not _is_up(unit):
            # One that somebody stopped stays so; one that a former configuration took away is as new.
            is_new = unit is None or name in state.undeclared
            was_told = unit is not None and (unit.incarnation > 0 or unit.spec.autostart)
            if spec is None:
                continue
            if spec.autostart and (is_new or not was_told):
                rows[name] = Action(name, "start", "it is started with the daemon")
            elif is_new and spec.model.name in loaded:
                rows[name] = Action(name, "start", "its model is loaded")
        elif spec is None:
            rows[name] = Action(name, "stop", "the configuration no longer has it")
        else:
            changed = differences(unit.spec, spec)
            place = places.get(name, Place())
            ends = unit.state is UnitState.STOPPING or bool(unit.stop_reason)  # and gets its place anew
            holds = unit.state not in AT_REST and not ends
            topology = state.ledger.topology
            if holds and (place.cpus, place.gpus) != (unit.place.cpus, unit.place.gpus):
                changed.append(f"place ({_cpus(unit.place)} -> {_cpus(place)})")
            elif holds and memory_nodes(topology, unit.spec.demand, unit.place) != memory_nodes(
                topology, spec.demand, place
            ):
                changed.append("the NUMA nodes of its memory")
            reason = "changed: " + ", ".join(changed) if changed else "unchanged"
            rows[name] = Action(name, "restart" if changed else "keep", reason)
    graph = {name: spec.needs for name, spec in specs.items()}
    for name in [name for name, row in rows.items() if row.action == "restart"]:
        for other in dependants(graph, name):
            if other in rows and rows[other].action == "keep" and units[other].state not in AT_REST:
                rows[other] = Action(other, "restart", f"{name}, which it requires, is restarted")
    return [rows[name] for name in sorted(rows)]


def _is_up(unit: Unit) -> bool:
    """Whether it runs, or is going to: not at rest, or waiting, and not about to end for good."""
    return bool(unit.waiting_for) or not unit.is_down_soon


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
