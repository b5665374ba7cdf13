"""Recorded cases of Janitor's scheduling engine against mode janitor_compat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from . import compat
from .compat_queue import CompatError, Queue, QueueItem
from .records import RowError, World, codebase_of, time_us, world_of
from .relations import RelationError, satisfied

PROBABILITY = 1e-12  # absolute
OFFSET = 1e-7  # relative
VALUE = 1e-9  # relative: of values and normalised values, which are quotients and sums of given ones
DURATION_US = 1
PRIORITY = 2  # the offset is truncated
PASSES = 1000  # of a case; more of them say nothing more
SHOWN = 500  # characters of a difference
# What an input of the wrong kind ends in, here as there.
WRONG = (TypeError, ValueError, ArithmeticError, AttributeError, RowError)


class Malformed(Exception):
    """The case says nothing that could be run."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`difference` is empty for a case that matches, else the first thing that does not."""

    id: str
    kind: str
    difference: str


def replay(cases: Sequence[Any]) -> list[Verdict]:
    """One verdict a case; one that cannot be read has failed."""
    return [_verdict(i, case) for i, case in enumerate(cases)]


def _verdict(index: int, case: Any) -> Verdict:
    if not isinstance(case, Mapping):
        return Verdict(f"case {index}", "", "malformed: is no object")
    name, kind = shown(case.get("id", f"case {index}")), shown(case.get("kind", ""))
    try:
        return Verdict(name, kind, shown(_difference(case)))
    except (Malformed, RowError) as error:
        return Verdict(name, kind, shown(f"malformed: {error}"))
    except (LookupError, AssertionError, RecursionError, *WRONG) as error:
        return Verdict(name, kind, shown(f"malformed: {type(error).__name__}: {error}"))


def shown(value: Any) -> str:
    """As text that any terminal takes, cut where it says no more."""
    text = str(value).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _difference(case: Mapping[str, Any]) -> str:
    for key in ("kind", "input", "expect"):
        if key not in case:
            raise Malformed(f"has no {key!r}")
    if case["kind"] not in KINDS:
        raise Malformed(f"the kind {case['kind']!r} is not known; known are {', '.join(KINDS)}")
    given, expected = case["input"], case["expect"]
    for key, value in (("input", given), ("expect", expected)):
        if not isinstance(value, Mapping) or (key == "expect" and not value):
            raise Malformed(f"{key!r} must be an object{' that says something' if key == 'expect' else ''}")
    try:
        got = KINDS[case["kind"]](given)
    except (CompatError, RelationError) as error:
        got = _failed(error)
    except WRONG as error:
        if "error" not in expected:
            raise
        got = _failed(error)
    if "error" in expected:
        # The ancestor ends there. We say no too, except to what it fails on and we understand.
        if _says_no(got) or _beyond(given):
            return ""
        return f"expected an error ({expected['error']}), got {got!r}"
    if "error" in got:
        return f"the input is refused: {got['error']}"
    return first_difference(expected, got, "")


def _failed(error: Exception) -> dict[str, Any]:
    return {"error": str(error)}


def _says_no(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "error" in value or any(map(_says_no, value.values()))
    return isinstance(value, list) and any(map(_says_no, value))


def _beyond(value: Any) -> bool:
    """Whether one of the operators is in it that Debian has and the ancestor's database has not."""
    if isinstance(value, Mapping):
        version = value.get("version")
        if isinstance(version, list) and version and version[0] in ("<<", ">>"):
            return True
        return any(map(_beyond, value.values()))
    return isinstance(value, list) and any(map(_beyond, value))


def _offset(given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "offset": compat.offset(
            given["estimated_duration_us"],
            given["normalized_codebase_value"],
            given["probability"],
            given["candidate_value"],
            given["total_previous_runs"],
        )
    }


def _policy(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"value": compat.policy_value(given["value"], given["modes"])}


def _deps(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"satisfied": satisfied(given["dependencies"], _world(given, "versions").versions)}


def _normalize(given: Mapping[str, Any]) -> dict[str, Any]:
    rows = [{"name": name, "value": value} for name, value in given["codebases"].items()]
    world = _world({"codebases": rows}, "codebases")

    def one(normalized: Callable[[World, str], float | None]) -> Any:
        try:
            value = normalized(world, given["codebase"])
        except CompatError as error:
            return _failed(error)
        # One that is not known is worth the default later on, where the offset is computed.
        return compat.DEFAULT_NORMALIZED_CODEBASE_VALUE if value is None else value

    return {"bulk": one(compat.bulk_normalized), "single": one(compat.single_normalized)}


def _estimate(given: Mapping[str, Any]) -> dict[str, Any]:
    world = _world(given, "runs", "versions")
    found = compat.estimate(
        compat.History(world.runs, world.versions),
        given["codebase"],
        given["campaign"],
        given["context"],
        time_us(given["now"]),
    )
    return {"probability": found.probability, "duration_us": found.duration_us, "total": found.total}


def _duration(given: Mapping[str, Any]) -> dict[str, Any]:
    history = compat.History(_world(given, "runs").runs, {})
    us = compat.manual_duration_us(history, given["codebase"], given["campaign"], time_us(given["now"]))
    return {"duration_us": us}


def _queue(given: Mapping[str, Any]) -> dict[str, Any]:
    codebases = {one.name: one for one in (codebase_of(i, row) for i, row in enumerate(given["codebases"]))}
    queue = Queue(codebases)
    results = []
    for i, op in enumerate(given["ops"]):
        if not isinstance(op, Mapping) or op.get("op") not in OPS:
            raise Malformed(f"ops[{i}] is {op!r}: must be an object whose `op` is one of {', '.join(OPS)}")
        arguments = {key: value for key, value in op.items() if key != "op"}
        try:
            results.append(OPS[op["op"]](queue, **arguments))
        except (CompatError, *WRONG) as error:
            results.append(_failed(error))
    return {"results": results}


def _key(item: QueueItem) -> list[str | None]:
    return [item.codebase, item.campaign, item.change_set]


def _add(queue: Queue, *, offset: float = 0.0, **fields: Any) -> dict[str, Any]:
    item = QueueItem(**fields)
    _, bucket = queue.add(item, offset)
    return {"bucket": bucket, "key": _key(queue.row(item.key))}


def _next(
    queue: Queue,
    codebase: str | None = None,
    exclude_hosts: Sequence[str] | None = None,
    assigned_top: int = 0,
) -> dict[str, Any] | None:
    top = [item.id for item in queue.items(limit=assigned_top)] if assigned_top else []
    found = queue.next(codebase, exclude_hosts or (), top)
    return None if found is None else {"key": _key(found[0]), "vcs_info": found[1]}


def _pop(queue: Queue) -> list[str | None] | None:
    found = queue.next()
    if found is None:
        return None
    queue.remove(found[0])
    return _key(found[0])


def _position(queue: Queue, codebase: str, campaign: str) -> dict[str, Any]:
    rank, wait_us = queue.position(codebase, campaign)
    return {"position": rank, "wait_time_us": wait_us}


def _iter(queue: Queue, campaign: str | None = None, limit: int | None = None) -> list[list[str | None]]:
    return [_key(item) for item in queue.items(campaign, limit)]


OPS: dict[str, Callable[..., Any]] = {
    "add": _add,
    "next": _next,
    "pop": _pop,
    "position": _position,
    "iter": _iter,
    "buckets": lambda queue: [list(row) for row in queue.buckets()],
    "dump": lambda queue: queue.dump(),
}


def _engine(given: Mapping[str, Any]) -> compat.Engine:
    engine = compat.Engine(_world(given["world"]), time_us(given["now"]))
    for fields in given.get("pre_queue") or ():
        _add(engine.queue, **fields)
    return engine


def _bulk(given: Mapping[str, Any]) -> dict[str, Any]:
    engine = _engine(given)
    chosen = given.get("filter") or {}
    passes = []
    if given.get("passes", 1) > PASSES:
        raise Malformed(f"{given['passes']} passes: must be at most {PASSES}")
    for _ in range(given.get("passes", 1)):
        scored = engine.bulk(
            chosen.get("codebases"),
            chosen.get("campaign"),
            default_offset=given.get("default_offset", 0.0),
            bucket=given.get("bucket") or "default",
        )
        passes.append({"items": [_scored(one) for one in scored], "queue": engine.queue.dump()})
    return {"passes": passes}


def _scored(one: compat.Scored) -> dict[str, Any]:
    key = {"codebase": one.candidate.codebase, "campaign": one.candidate.campaign}
    if one.estimate is None:
        return {**key, "error": one.error}
    return {
        **key, "value": one.value, "normalized_codebase_value": one.normalized,
        "probability": one.estimate.probability, "duration_us": one.estimate.duration_us,
        "total": one.estimate.total, "offset": one.offset, "result_bucket": one.bucket,
    }  # fmt: skip


def _schedule(given: Mapping[str, Any]) -> dict[str, Any]:
    engine = _engine(given)
    calls: dict[str, Callable[..., compat.Scheduled]] = {"regular": engine.regular, "manual": engine.manual}
    if given["call"] not in calls:
        raise Malformed(f"the call {given['call']!r} is not known; known are regular, manual")
    arguments = dict(given["kwargs"])
    if "estimated_duration" in arguments:
        arguments["estimated_duration_us"] = arguments.pop("estimated_duration")
    done = calls[given["call"]](**arguments)
    return {
        "offset": done.offset, "duration_us": done.duration_us, "bucket": done.bucket,
        "queue": engine.queue.dump(),
    }  # fmt: skip


KINDS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "offset": _offset,
    "policy": _policy,
    "deps": _deps,
    "normalize": _normalize,
    "estimate": _estimate,
    "duration": _duration,
    "queue": _queue,
    "bulk": _bulk,
    "schedule": _schedule,
}


def _world(given: Mapping[str, Any], *tables: str) -> World:
    """The tables, all of them or those named; a row that is wrong makes a case of no use."""
    rows = {table: given[table] for table in tables} if tables else given
    world, faults = world_of(rows)
    if faults:
        raise Malformed(str(faults[0]))
    return world


def first_difference(expected: Any, got: Any, path: str) -> str:
    """`path: expected X, got Y` of the first place where two values differ; empty when they do not."""
    field = path.rpartition(".")[2]
    if isinstance(expected, Mapping) and "error" in expected:
        # An item on which the ancestor ended: any refusal of it agrees.
        return "" if _says_no(got) else f"{path}: expected an error ({expected['error']}), got {got!r}"
    if isinstance(expected, Mapping) and isinstance(got, Mapping):
        if _waits_alike(expected, got):
            expected = {**expected, "wait_time_us": got["wait_time_us"]}
        for key in [*expected, *(key for key in got if key not in expected)]:
            if key not in got or key not in expected:
                there = "missing" if key not in got else f"{got[key]!r}, which is not expected"
                return f"{path}.{key}: {there}".lstrip(".")
            if found := first_difference(expected[key], got[key], f"{path}.{key}".lstrip(".")):
                return found
        return ""
    if isinstance(expected, list) and isinstance(got, list):
        for i, (one, other) in enumerate(zip(expected, got, strict=False)):
            if found := first_difference(one, other, f"{path}[{i}]"):
                return found
        same = len(expected) == len(got)
        return "" if same else f"{path}: expected {len(expected)} entries, got {len(got)}"
    if field in ("bulk", "single") and not _numeric(expected):
        if _says_no(got):
            return ""
        expected = compat.DEFAULT_NORMALIZED_CODEBASE_VALUE if expected is None else expected
    same = _equal(field, expected, got) if _numeric(expected) and _numeric(got) else expected == got
    if isinstance(expected, bool) is not isinstance(got, bool):
        same = False
    return "" if same else f"{path}: expected {expected!r}, got {got!r}"


def _waits_alike(expected: Mapping[str, Any], got: Mapping[str, Any]) -> bool:
    """Whether two rows agree in their waits to 1 us for each row before them."""
    one, other, rank = expected.get("wait_time_us"), got.get("wait_time_us"), got.get("position")
    return _numeric(one) and _numeric(other) and _numeric(rank) and abs(one - other) <= rank - 1


def _numeric(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _equal(field: str, expected: float, got: float) -> bool:
    name = field.partition("[")[0]
    if name == "probability":
        return abs(expected - got) <= PROBABILITY
    if name == "offset":
        return abs(expected - got) <= OFFSET * abs(expected)
    if name in ("value", "normalized_codebase_value", "bulk", "single"):
        return abs(expected - got) <= VALUE * max(abs(expected), 1.0)
    if name in ("duration_us", "estimated_duration_us"):
        return abs(expected - got) <= DURATION_US
    if name == "priority":
        return abs(expected - got) <= PRIORITY
    return expected == got
