"""A unit as the store keeps it: what the next daemon must know to go on, and no more.

Times are written as epoch seconds and monotonic nanoseconds; the latter only mean something in the same boot.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from mgmt.core.placement import Place
from mgmt.core.supervision.unit import Exit, State, Unit, UnitSpec
from mgmt.settings import ModelSettings, UnitSettings


def to_record(unit: Unit) -> dict[str, Any]:
    """Plain values of everything that outlives this daemon."""
    exit = unit.last_exit
    return {
        "model": unit.spec.model.name,
        "state": str(unit.state),
        "reason": unit.reason,
        "incarnation": unit.incarnation,
        "has_process": unit.has_process,
        "leader_gone": unit.leader_gone,
        "pid": unit.pid,
        "start_ticks": unit.start_ticks,
        "started_ns": unit.started_ns,
        "started_real_s": unit.started_real_s,
        "endpoint": unit.endpoint,
        "config_path": unit.config_path,
        "protocols": list(unit.protocols),
        "proven": unit.proven,
        "restarts": unit.restarts,
        "failures_ns": list(unit.failures_ns),
        "last_exit": None if exit is None else [exit.code, exit.signal, exit.reason, exit.at, exit.tail],
        "retry_ns": unit.retry_ns,
        "verdict": unit.verdict,
        "start_when_empty": unit.start_when_empty,
        "wanted": unit.wanted,
        "waiting_for": unit.waiting_for,
        "stop_reason": unit.stop_reason,
        "place": [
            list(unit.place.cpus),
            unit.place.exclusive,
            list(unit.place.gpus),
            unit.place.memory_bytes,
            unit.place.why,
            unit.place.realtime,
        ],
    }


def ghost(name: str, record: dict[str, Any]) -> UnitSpec:
    """A specification for a unit that no configuration has any more: enough to stop it."""
    model = ModelSettings(name=record["model"], type="unit")
    return UnitSpec(name, model, UnitSettings(command=("no longer configured",)))


def from_record(spec: UnitSpec, record: dict[str, Any], same_boot: bool) -> Unit:
    """The unit as it was. After a restart of the machine no process of then exists: it is at rest."""
    exit = record["last_exit"]
    cpus, exclusive, gpus, memory_bytes, why, *more = record["place"]
    unit = Unit(
        spec,
        incarnation=record["incarnation"],
        endpoint=record["endpoint"],
        config_path=record["config_path"],
        last_exit=None if exit is None else Exit(*exit),
        wanted=record["wanted"],
    )
    state = State(record["state"])
    if not same_boot:
        interrupted = state in (State.STARTING, State.RUNNING, State.STOPPING, State.BACKOFF)
        unit.state = State.STOPPED if interrupted else state
        unit.reason = "the machine was restarted" if interrupted else record["reason"]
        return unit
    unit.state, unit.reason = state, record["reason"]
    unit.has_process, unit.leader_gone = record["has_process"], record["leader_gone"]
    unit.pid, unit.start_ticks = record["pid"], record["start_ticks"]
    unit.started_ns, unit.started_real_s = record["started_ns"], record["started_real_s"]
    unit.protocols, unit.proven = tuple(record["protocols"]), record["proven"]
    unit.restarts, unit.failures_ns = record["restarts"], deque(record["failures_ns"])
    unit.retry_ns, unit.verdict = record["retry_ns"], record["verdict"]
    unit.start_when_empty, unit.waiting_for = record["start_when_empty"], record["waiting_for"]
    unit.stop_reason = record["stop_reason"]
    # A record of a daemon that knew no tasks does not say whether the policy is a real-time one.
    realtime = more[0] if more else spec.demand.realtime
    unit.place = Place(tuple(cpus), exclusive, tuple(gpus), memory_bytes, why, realtime=realtime)
    return unit
