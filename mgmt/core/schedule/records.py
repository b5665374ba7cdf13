"""A workload in force as the store keeps it: its tasks, its nodes, and the CPU of each task."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from .force import Entry
from .workload import Chain, Node, Task, Workload


def to_record(entry: Entry) -> dict[str, Any]:
    """Plain values of everything that outlives this daemon."""
    workload = entry.workload
    return {
        "algorithm": entry.algorithm,
        "test": entry.test,
        "hyperperiod_us": entry.hyperperiod_us,
        "version": entry.version,
        "at": entry.at,
        "generation": entry.generation,
        "t0_ns": entry.t0_ns,
        "t0_real_ns": entry.t0_real_ns,
        "started": entry.started,
        "nodes": [_plain(node) for node in workload.nodes],
        "tasks": [_plain(task) for task in workload.tasks],
        "chains": [_plain(chain) for chain in workload.chains],
        "cpus": [list(place) for place in entry.cpus],
    }


def from_record(name: str, record: dict[str, Any]) -> Entry:
    """The workload as it was, on the same CPUs."""
    workload = Workload(
        name,
        tuple(
            Task(**{**task, "cpus": _tuple(task["cpus"]), "command": tuple(task.get("command", ()))})
            for task in record["tasks"]
        ),
        tuple(Node(**{**node, "cpus": tuple(node["cpus"])}) for node in record["nodes"]),
        tuple(Chain(**{**chain, "tasks": tuple(chain["tasks"])}) for chain in record["chains"]),
    )
    return Entry(
        workload,
        record["algorithm"],
        record["test"],
        record["hyperperiod_us"],
        tuple((node, cpu) for node, cpu in record["cpus"]),
        record["version"],
        record["at"],
        record.get("generation", record["version"]),
        record.get("t0_ns", 0),
        record.get("t0_real_ns", 0),
        record.get("started", bool(record.get("t0_real_ns", 0))),
    )


_FIELDS = {kind: tuple(field.name for field in fields(kind)) for kind in (Task, Node, Chain)}


def _plain(value: Task | Node | Chain) -> dict[str, Any]:
    found = {name: getattr(value, name) for name in _FIELDS[type(value)]}
    return {name: list(item) if isinstance(item, tuple) else item for name, item in found.items()}


def _tuple(cpus: list[int] | None) -> tuple[int, ...] | None:
    return None if cpus is None else tuple(cpus)
