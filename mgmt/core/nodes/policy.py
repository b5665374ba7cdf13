"""What an agent lets its daemon run: one rule for each key of the policy, and the first that is broken is named.

The rules are about what a daemon says, before anything of it is filled in or started. They hold against a daemon
whose operator, or whose key, is not to be trusted with this machine; a program that is allowed is trusted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from mgmt import template
from mgmt.core.supervision import UnitSpec
from mgmt.protocol.errors import MgmtError
from mgmt.settings import parse_cpus
from mgmt.settings.policy import ANY, PYTHON, PolicySettings


def allows(policy: PolicySettings, spec: UnitSpec, others: Iterable[UnitSpec] = ()) -> MgmtError | None:
    """None, or the refusal (`denied`) of a unit beside `others`, which are on this node already.

    `detail["rule"]` is the key of the policy that does not allow it.
    """
    beside = [other for other in others if other.name != spec.name]
    for rule, problem in _problems(policy, spec, beside):
        text = f"unit {spec.name!r}: {problem}; `{rule}` of this agent's policy does not allow it"
        return MgmtError("denied", text, rule=rule, unit=spec.name)
    return None


def _problems(policy: PolicySettings, spec: UnitSpec, beside: list[UnitSpec]) -> Iterator[tuple[str, str]]:
    run = spec.backend
    for what, program in _programs(spec):
        if not _is_executable(policy, program):
            yield "executables", f"{what} is {program!r}"
    if run.user is None and not policy.own_account:
        yield "own_account", "it names no user, so it would run as the agent's own"
    if run.user is not None and not _among(run.user, policy.users):
        yield "users", f"it asks for user {run.user!r}"
    if run.group is not None and not _among(run.group, policy.groups):
        yield "groups", f"it asks for group {run.group!r}"
    for name in (*run.env, *spec.model.env):
        if not any(fnmatchcase(name, pattern) for pattern in policy.env):
            yield "env", f"it sets {name}"
    yield from _urgent(policy, spec)
    yield from _limits(policy, spec, beside)


def _urgent(policy: PolicySettings, spec: UnitSpec) -> Iterator[tuple[str, str]]:
    run = spec.backend
    asked = run.scheduling
    if asked.policy not in policy.scheduling:
        yield "scheduling", f"it asks for the policy {asked.policy}"
    if (asked.priority or 0) > policy.max_priority:
        yield "max_priority", f"it asks for priority {asked.priority}, above {policy.max_priority}"
    if run.nice < policy.min_nice:
        yield "min_nice", f"it asks for nice {run.nice}, below {policy.min_nice}"
    # With these it could give itself what it may not ask for.
    if "rtprio" in run.rlimits and not {"fifo", "rr"} & set(policy.scheduling):
        yield "scheduling", "its rlimits let it take a real-time priority (rtprio)"
    if "nice" in run.rlimits and policy.min_nice > -20:
        yield "min_nice", "its rlimits let it lower its own nice"


def _limits(policy: PolicySettings, spec: UnitSpec, beside: list[UnitSpec]) -> Iterator[tuple[str, str]]:
    if policy.max_units is not None and len(beside) >= policy.max_units:
        yield "max_units", f"{len(beside)} units are here, and {policy.max_units} may be"
    if policy.max_memory_mb is not None:
        limit = spec.backend.resources.memory_max_mb
        held = sum(other.backend.resources.memory_max_mb or 0 for other in beside)
        if limit is None:
            yield "max_memory_mb", "it has no resources.memory_max_mb"
        elif held + limit > policy.max_memory_mb:
            yield "max_memory_mb", f"it may take {limit} MiB beside {held} MiB of others"
    if policy.cpus is not None:
        named = spec.model.cpus or spec.backend.cpus
        beyond = set(parse_cpus(named)) - set(parse_cpus(policy.cpus)) if named else set()
        if not named:
            yield "cpus", f"it names no `cpus`, and may use {policy.cpus} only"
        elif beyond:
            yield "cpus", f"it asks for CPUs {named}"


def _programs(spec: UnitSpec) -> Iterator[tuple[str, str]]:
    """Everything of a unit that is executed, before its placeholders are filled."""
    run = spec.backend
    yield "its command", run.command[0]
    for name in type(run.hooks).model_fields:
        hook = getattr(run.hooks, name)
        if hook is not None:
            yield f"its hook {name}", hook.command[0]
    for name in type(run.probes).model_fields:
        probe = getattr(run.probes, name)
        if probe is not None and probe.command:
            yield f"its probe {name}", probe.command[0]


def _is_executable(policy: PolicySettings, program: str) -> bool:
    if _among(program, tuple(entry for entry in policy.executables if entry in (ANY, PYTHON))):
        return True
    # What a placeholder stands for is the daemon's word, and could lead out of any folder.
    if not program.startswith("/") or template.holes([program]) or {".", ".."} & set(program.split("/")):
        return False
    return any(
        program.startswith(entry) if entry.endswith("/") else program == entry for entry in policy.executables
    )


def _among(value: str, allowed: tuple[str, ...]) -> bool:
    return value in allowed or ANY in allowed
