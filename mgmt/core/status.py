"""What an operator sees: status bodies built from the state, cached between changes."""

from __future__ import annotations

from typing import Any

from mgmt.core.event import Now
from mgmt.core.state import State, StatusCache
from mgmt.core.supervision import Unit
from mgmt.core.supervision.unit import Exit
from mgmt.protocol import frames

# A packed status is given to every reader for this long while nothing changes; only uptimes, the counters and
# the number of sessions age in it.
FRESH_NS = 20_000_000


def exit_body(exit: Exit | None) -> dict[str, Any] | None:
    if exit is None:
        return None
    return {"code": exit.code, "signal": exit.signal, "reason": exit.reason, "at": exit.at}


def unit_body(state: State, now: Now, unit: Unit) -> dict[str, Any]:
    """A UnitStatus."""
    spec = unit.spec
    alive = unit.pid is not None
    return {
        "unit": spec.name,
        "model": spec.model.name,
        "type": spec.model.type,
        "state": str(unit.state),
        "ready": unit.ready,
        "reason": f"{unit.reason}; so it was when last heard of" if unit.sought else unit.reason,
        "pid": unit.pid,
        "incarnation": unit.incarnation,
        "restarts": unit.restarts,
        "started_at": unit.started_real_s if alive else None,
        "uptime_s": (now.mono_ns - unit.started_ns) / 1e9 if alive else None,
        "cpus": list(unit.place.cpus),
        "cpu_percent": unit.cpu_percent,
        "memory_bytes": unit.memory_bytes,
        "endpoint": unit.endpoint if unit.serves else "",
        "protocols": list(unit.protocols),
        "last_exit": exit_body(unit.last_exit),
        "next_start_s": max(0.0, (unit.retry_ns - now.mono_ns) / 1e9) if unit.retry_ns is not None else None,
        "log": f"{state.identity.log_dir}/{spec.name}.log",
        "node": unit.node or None,
    } | (_elsewhere(state, unit) if unit.node else {})


def _elsewhere(state: State, unit: Unit) -> dict[str, Any]:
    """What is not here of a unit on another node."""
    posting = state.supervisor.postings[unit.spec.name]
    log_dir = state.roster.nodes[unit.node].log_dir
    return {"cpus": list(posting.cpus), "log": f"{log_dir}/{unit.spec.name}.log"}


def service_body(state: State, now: Now) -> dict[str, Any]:
    """A ServiceStatus."""
    identity, endpoints = state.identity, state.settings.endpoints
    return {
        "state": "stopping" if state.stopping else "running",
        "version": identity.version,
        "pid": identity.pid,
        "epoch": identity.epoch,
        "started_at": identity.started.real_s,
        "uptime_s": (now.mono_ns - identity.started.mono_ns) / 1e9,
        "config": identity.config,
        "control_endpoint": endpoints.control,
        "relay_endpoint": endpoints.relay,
        "client_endpoint": endpoints.client_handshake,
        "cli_endpoint": endpoints.cli_management,
        "sessions": len(state.sessions.by_id),
        "workloads": len(state.schedules.entries),
        "seq": state.journal.seq,
        "counters": dict(state.counters),
        "degraded": state.board.failure,
        "alerts": state.desk.watch.alerts(now),
    }


def units_body(state: State, now: Now, names: list[str], every: bool = False) -> list[dict[str, Any]]:
    """UnitStatus of the named units or models in name order; all when `names` is empty.

    A model that was never started is left out unless `every` is true: `mgmt models` lists it.
    """
    units = state.supervisor.units
    if names:
        wanted: set[str] = set()
        for name in names:
            target, _ = state.conditions.state(name)
            loaded = [unit.spec.name for unit in state.loading.units(target)]
            wanted.update([target] if target in units else loaded)
        chosen = [units[name] for name in sorted(wanted)]
    else:
        chosen = [
            unit
            for _, unit in sorted(units.items())
            if every or unit.incarnation or unit.wanted or unit.spec.backend.kind == "plain"
        ]
    return [unit_body(state, now, unit) for unit in chosen]


def models_body(state: State) -> dict[str, Any]:
    """A ModelsReply."""
    default = state.registry.default
    return {
        "models": [
            {
                "model": model.name,
                "fullname": model.fullname,
                "type": model.type,
                "aliases": list(model.aliases),
                "replicas": model.replicas,
                "ready": len(state.loading.ready_units(model.name)),
                "state": str(state.loading.state(model.name)),
                "default": model is default,
            }
            for model in state.registry.models.values()
        ]
    }


def whole(state: State, now: Now) -> dict[str, Any]:
    """The status of everything, made once per change and at most FRESH_NS old."""
    cache = _fresh(state, now)
    if cache.body is None:
        cache.body = _whole(state, now)
    return cache.body


def whole_packed(state: State, now: Now) -> bytes:
    """The same, as msgpack."""
    cache = _fresh(state, now)
    if cache.packed is None:
        cache.packed = frames.pack_body(_whole(state, now))
    return cache.packed


def _fresh(state: State, now: Now) -> StatusCache:
    cache = state.status_cache
    key = (state.supervisor.version, state.journal.seq, state.stopping)
    if key != cache.key or now.mono_ns >= cache.until_ns:
        cache.body = cache.packed = None
        cache.key, cache.until_ns = key, now.mono_ns + FRESH_NS
    return cache


def _whole(state: State, now: Now) -> dict[str, Any]:
    return {"service": service_body(state, now), "units": units_body(state, now, [])}
