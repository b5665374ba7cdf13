"""One task, one chain, one list of CPUs out of a document."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mgmt.protocol import defaults

from .fields import Faults, Fields, Path, kind, shown, text
from .processes import run_of
from .workload import POLICIES, Chain, Policy, Task

_RANGE = re.compile(r"\s*([0-9]{1,5})(?:\s*-\s*([0-9]{1,5}))?\s*")
_ANY_MASKS = frozenset({0, 0xFFFF_FFFF, (1 << 64) - 1})
_POLICY_NUMBERS: tuple[Policy, ...] = ("normal", "fifo", "rr")


@dataclass(frozen=True, slots=True)
class Dialect:
    """Keys of a task, and what differs by whose they are."""

    names: Mapping[str, str]
    policy: Policy  # of a task that names none
    numbers: bool  # a policy may be 0, 1 or 2


DIALECTS = {
    "native": Dialect(
        {
            "name": "name", "period_us": "period", "wcet_us": "wcet", "deadline_us": "deadline",
            "priority": "priority", "policy": "policy", "release_us": "release", "jitter_us": "jitter",
            "node": "node", "cpus": "cpus", "memory_mb": "memory_mb", "max_dmiss": "max_dmiss",
            "command": "command", "release": "released", "overrun": "overrun", "memory_locked": "locked",
        },
        "fifo",
        numbers=False,
    ),
    "timpani": Dialect(
        {
            "name": "name", "period": "period", "runtime": "wcet", "deadline": "deadline",
            "priority": "priority", "policy": "policy", "release_time": "release", "releaseTime": "release",
            "node_id": "node", "nodeId": "node", "cpu_affinity": "mask", "cpuAffinity": "mask",
            "memory_mb": "memory_mb", "max_dmiss": "max_dmiss", "maxDmiss": "max_dmiss",
        },
        "normal",
        numbers=True,
    ),
}  # fmt: skip


def task_of(value: Any, path: Path, dialect: Dialect, faults: Faults) -> Task | None:
    """None, with its faults told, when it is none."""
    if not isinstance(value, Mapping):
        faults.add(path, f"must be a task: a map with the key `name`, not {kind(value)}")
        return None
    name = text(value.get("name"), (*path, "name") if "name" in value else path, "the task's name", faults)
    fields = Fields(value, dialect.names, path, f"task {name!r}" if name else "", faults)
    low, high = defaults.MIN_PERIOD_US, defaults.MAX_PERIOD_US
    period_us = fields.integer("period", low, high, unit=" us")
    wcet_us = fields.integer("wcet", 1, period_us or high, unit=" us, at most the period")
    deadline_us = fields.integer(
        "deadline", wcet_us or 1, period_us or high, period_us or high, " us, from the WCET to the period"
    )
    policy = _policy(fields, dialect)
    low_priority = 1 if policy in ("fifo", "rr") else 0
    # One that is needed and absent is said to be missing.
    priority = fields.integer("priority", low_priority, 99, None if low_priority else 0)
    release_us = fields.integer("release", 0, high, 0, " us")
    jitter_us = fields.integer("jitter", 0, high, 0, " us")
    memory_mb = fields.integer("memory_mb", 0, defaults.MAX_TASK_MEMORY_MB, 0, " MB")
    max_dmiss = fields.integer("max_dmiss", 0, (1 << 31) - 1, 0)
    node = fields.name("node") if fields["node"] not in (None, "") else ""
    cpus = _mask(fields) if "mask" in fields else cpus_of(fields, "cpus", ranges=True)
    if name is None or period_us is None or wcet_us is None or deadline_us is None:
        return None
    task = Task(
        name, period_us, wcet_us, deadline_us, priority or 0, policy, release_us or 0, jitter_us or 0,
        node or "", cpus, memory_mb or 0, max_dmiss or 0,
    )  # fmt: skip
    return run_of(task, fields)


def _policy(fields: Fields, dialect: Dialect) -> Policy:
    value = fields["policy"]
    if value is None:
        return dialect.policy
    if dialect.numbers and isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 2:
        return _POLICY_NUMBERS[value]
    for policy in POLICIES:
        if isinstance(value, str) and value.lower() == policy:
            return policy
    fields.wrong("policy", f"policy is {shown(value)}: must be one of {', '.join(POLICIES).upper()}")
    return dialect.policy


def _mask(fields: Fields) -> tuple[int, ...] | None:
    """CPUs of a bit mask; a 64-bit number may come as text, as JSON of protobuf has it. None: all."""
    value = fields["mask"]
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,40}|0[xX][0-9a-fA-F]{1,32}", value):
        value = int(value, 0 if value[:2].lower() == "0x" else 10)
    if value in (None, ""):
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << defaults.MAX_CPU:
        fields.wrong("mask", f"{fields.key('mask')} is {shown(value)}: must be a bit mask of CPUs; 0: any")
        return None
    if value in _ANY_MASKS:
        return None
    return tuple(cpu for cpu in range(value.bit_length()) if value >> cpu & 1)


def cpus_of(fields: Fields, field: str, *, ranges: bool) -> tuple[int, ...] | None:
    """Ascending CPU ids of a list of numbers, or, where `ranges` are taken, of text like 0-3,6.

    None: not given, or wrong and told.
    """
    value, key = fields[field], fields.key(field)
    if field not in fields or (value is None and ranges):
        return None
    spans: list[tuple[int, int]] = []
    if isinstance(value, int) and not isinstance(value, bool) and ranges:
        value = [value]
    if isinstance(value, str) and ranges:
        for item in value.split(","):
            match = _RANGE.fullmatch(item)
            if match is None or (match[2] and int(match[2]) < int(match[1])):
                fields.wrong(field, f"{key} is {shown(value)}: must be CPU numbers and ranges, like 0-3,6")
                return None
            spans.append((int(match[1]), int(match[2] or match[1])))
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, bool) or not isinstance(item, int):
                how = (
                    "ranges are written as text, cpus: 0-3,6"
                    if isinstance(item, str)
                    else "give whole numbers"
                )
                fields.wrong(field, f"{key} has {shown(item)}: must be a CPU number; {how}")
                return None
            spans.append((item, item))
    else:
        also = " or text like 0-3,6" if ranges else ""
        fields.wrong(field, f"{key} is {shown(value)}: must be a list of CPU numbers{also}")
        return None
    for low, high in spans:
        if not 0 <= low <= high <= defaults.MAX_CPU:
            outside = low if not 0 <= low <= defaults.MAX_CPU else high
            fields.wrong(field, f"{key} has {outside}: a CPU is 0 to {defaults.MAX_CPU}")
            return None
    cpus = [cpu for low, high in spans for cpu in range(low, high + 1)]
    if not cpus:
        fields.wrong(field, f"{key} is empty: name at least one CPU")
        return None
    doubled = {cpu for cpu in cpus if cpus.count(cpu) > 1} if len(set(cpus)) < len(cpus) else set()
    if doubled:
        fields.wrong(field, f"{key} names CPU {min(doubled)} twice")
        return None
    return tuple(sorted(cpus))


def chain_of(value: Any, path: Path, faults: Faults) -> Chain | None:
    """None, with its faults told, when it is none."""
    if not isinstance(value, Mapping):
        faults.add(path, f"must be a chain: a map with the keys `name` and `tasks`, not {kind(value)}")
        return None
    name = text(value.get("name"), (*path, "name") if "name" in value else path, "the chain's name", faults)
    names = {"name": "name", "tasks": "tasks", "deadline_us": "deadline"}
    fields = Fields(value, names, path, f"chain {name!r}" if name else "", faults)
    members = fields["tasks"]
    if not isinstance(members, list) or not members:
        fields.wrong("tasks", f"tasks is {shown(members)}: must be a list of task names, the first one first")
        return None
    told = [
        text(member, (*fields.at("tasks"), i), "a task's name", faults) for i, member in enumerate(members)
    ]
    deadline_us = None
    if fields["deadline"] is not None:
        deadline_us = fields.integer("deadline", 1, 1000 * defaults.MAX_PERIOD_US, unit=" us")
    if name is None or None in told:
        return None
    return Chain(name, tuple(member for member in told if member is not None), deadline_us)
