"""Rows of candidates, runs, codebases, policies and versions, out of a file or a table, each checked for itself.

A row that is wrong is told with its table, its number, its column and its value, and left out: the others
stand. Tables and columns are those of a Janitor's database; its `suite` is our campaign.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY_US = 86_400_000_000
MOST = 1e100  # of any number in a row, and its inverse the least: products of these are numbers still
NAME_BYTES = 512  # of a name, as keys of any queue are bounded
# What a shell would split into words: each quote has its end, each backslash something after it.
_WORDS = re.compile(r"""(?:[^'"\\]++|'[^']*+'|"(?:[^"\\]|\\.)*+"|\\.)*+""", re.DOTALL)
Relations = Sequence[Sequence[Mapping[str, Any]]]


class RowError(Exception):
    """One row that cannot be used: which table, which row (a number from 0, or a name), which column, why."""

    def __init__(self, table: str, row: int | str, column: str, problem: str) -> None:
        super().__init__(f"{table}[{row}]{f'.{column}' if column else ''}: {problem}")
        self.table, self.row, self.column, self.problem = table, row, column, problem

    def as_row(self) -> dict[str, Any]:
        return {
            "table": self.table, "row": str(self.row), "column": self.column, "problem": self.problem,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt. Times in us since 1970 (UTC), None where the table has none."""

    codebase: str
    campaign: str
    result_code: str
    start_us: int | None = None
    finish_us: int | None = None
    context: str | None = None
    instigated_context: str | None = None
    failure_transient: bool | None = None
    failure_details: Mapping[str, Any] | None = None

    @property
    def duration_us(self) -> int | None:
        if self.start_us is None or self.finish_us is None:
            return None
        return self.finish_us - self.start_us

    @property
    def relations(self) -> Relations:
        """What it lacked, for a run that could not install its dependencies."""
        details = self.failure_details
        found = details.get("relations") if details else None
        return found or ()


@dataclass(frozen=True, slots=True)
class Candidate:
    codebase: str
    campaign: str
    command: str
    value: float | None = None
    success_chance: float | None = None
    context: str | None = None
    publish_policy: str | None = None
    change_set: str | None = None
    requires: tuple[str, ...] = ()
    """Campaigns that must have succeeded for this codebase before; no column of the ancestor."""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.codebase, self.campaign, self.change_set or ""


@dataclass(frozen=True, slots=True)
class Codebase:
    name: str
    value: float | None = None
    branch_url: str | None = None
    subpath: str | None = None
    vcs_type: str | None = None


@dataclass(slots=True)
class World:
    """Everything a pass looks at. `policies`: name to publish modes, None where the table has NULL.

    `versions`: source package to the versions that are available. `change_sets` None: any may be named.
    """

    codebases: dict[str, Codebase] = field(default_factory=dict)
    policies: dict[str, list[str] | None] = field(default_factory=dict)
    candidates: list[Candidate] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    versions: dict[str, list[str]] = field(default_factory=dict)
    change_sets: set[str] | None = None


Check = Callable[[Any], Any]


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text")
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise ValueError("must have whole characters: half of a surrogate pair is none")
    if "\0" in value:
        raise ValueError("must have no NUL character: no process can be given one")
    return value


def name(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be a name")
    if len(text(value).encode()) > NAME_BYTES:
        raise ValueError(f"must be a name of at most {NAME_BYTES} bytes")
    return value


def command(value: Any) -> str:
    """Empty where a campaign knows its own."""
    if not _WORDS.fullmatch(text(value)):
        raise ValueError("must be words as for a shell: a quote or a backslash has no end")
    if value and not value.strip():
        raise ValueError("must name a program: it is blank")
    return str(value)


def number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number")
    if not (1 / MOST <= abs(value) <= MOST or value == 0):
        raise ValueError("must be a number that can be computed with")
    return value


def chance(value: Any) -> float:
    if not 0 <= number(value) <= 1:
        raise ValueError("must be from 0 to 1")
    return float(value)


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError("must be an object")
    return value


def change_set(value: Any) -> str:
    return name(value) if value else text(value)


def names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError("must be a list of names")
    return tuple(map(name, value))


def time_us(value: Any) -> int:
    """ISO 8601, or what a database gives; without a zone it is UTC, as in the ancestor's tables."""
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError("must be a time like 2024-06-01T12:00:00") from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return (moment - EPOCH) // timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Table:
    """`columns`: name -> (check, whether it must be there and not null). `beside`: known and not used."""

    columns: dict[str, tuple[Check, bool]]
    beside: frozenset[str] = frozenset()


TABLES: dict[str, Table] = {
    "codebases": Table(
        {
            "name": (name, True), "value": (number, False), "branch_url": (text, False),
            "subpath": (text, False), "vcs_type": (text, False),
        },
        frozenset(["url", "branch", "vcs_last_revision", "last_scanned", "web_url", "inactive", "hostname"]),
    ),
    "candidates": Table(
        {
            "codebase": (name, True), "campaign": (name, True), "command": (command, True),
            "value": (number, False), "success_chance": (chance, False), "context": (text, False),
            "publish_policy": (text, False), "change_set": (change_set, False), "requires": (names, False),
        },
        frozenset(["id"]),
    ),
    "runs": Table(
        {
            "codebase": (name, True), "campaign": (name, True), "result_code": (text, True),
            "start_time": (time_us, False), "finish_time": (time_us, False), "context": (text, False),
            "instigated_context": (text, False), "failure_transient": (flag, False),
            "failure_details": (mapping, False),
        },
        frozenset(
            ["id", "command", "description", "duration", "main_branch_revision", "revision", "result", "vcs_type",
             "branch_url", "logfilenames", "publish_status", "value", "worker", "worker_link", "result_tags",
             "subpath", "failure_stage", "target_branch_url", "resume_from", "change_set"]
        ),
    ),
    "versions": Table(
        {"source": (name, True), "version": (name, True), "distribution": (text, False)},
    ),
}  # fmt: skip
# What the ancestor's database and uploads call the same.
ALIASES = {"suite": "campaign", "publish-policy": "publish_policy"}
TABLE_NAMES = {
    "candidate": "candidates", "codebase": "codebases", "run": "runs", "all_debian_versions": "versions",
    "named_publish_policy": "policies", "change_set": "change_sets",
}  # fmt: skip


def checked(table: str, row: int | str, value: Any) -> dict[str, Any]:
    """The columns of one row. RowError names the first that is wrong, unknown or missing."""
    spec = TABLES[table]
    if not isinstance(value, Mapping):
        raise RowError(table, row, "", f"is {value!r}: must be an object")
    found: dict[str, Any] = {}
    for given, cell in value.items():
        column = ALIASES.get(given, given)
        if column not in spec.columns:
            if column in spec.beside:
                continue
            raise RowError(
                table, row, str(given), f"there is no such column; known are {', '.join(spec.columns)}"
            )
        check, needed = spec.columns[column]
        if cell is None and not needed:
            found[column] = None
            continue
        try:
            found[column] = check(cell)
        except ValueError as error:
            raise RowError(table, row, column, f"is {cell!r}: {error}") from None
    for column, (_, needed) in spec.columns.items():
        if needed and column not in found:
            raise RowError(table, row, column, "is missing")
    return found


def codebase_of(row: int | str, value: Any) -> Codebase:
    return Codebase(**checked("codebases", row, value))


def candidate_of(row: int | str, value: Any) -> Candidate:
    found = checked("candidates", row, value)
    found["requires"] = found.get("requires") or ()
    return Candidate(**found)


def run_of(row: int | str, value: Any) -> Run:
    found = checked("runs", row, value)
    start_us, finish_us = found.pop("start_time", None), found.pop("finish_time", None)
    if start_us is not None and finish_us is not None and finish_us < start_us:
        raise RowError("runs", row, "finish_time", "is before start_time")
    return Run(**found, start_us=start_us, finish_us=finish_us)


def modes_of(policy: str, value: Any) -> list[str] | None:
    """The publish modes of a policy's entries: [{role, mode}, ...], or a row with `per_branch_policy`."""
    entries = value.get("per_branch_policy") if isinstance(value, Mapping) else value
    if entries is None:
        return None
    if not isinstance(entries, list | tuple):
        raise RowError("policies", policy, "", "must be a list of entries with role and mode")
    modes = []
    for i, entry in enumerate(entries):
        mode = entry.get("mode") if isinstance(entry, Mapping) else entry
        if not isinstance(mode, str):
            raise RowError("policies", policy, f"[{i}].mode", f"is {mode!r}: must be text")
        modes.append(mode)
    return modes


def table_of(given: str) -> str | None:
    """Our name of a table, by any of its names."""
    found = TABLE_NAMES.get(given, given)
    return found if found in (*TABLES, "policies", "change_sets") else None


def named_run(row: int, value: Any) -> tuple[str, Run]:
    """A run with its key: what it calls itself, or else whose it was and when."""
    run = run_of(row, value)
    told = value.get("id") if isinstance(value.get("id"), str) else None
    key = [run.codebase, run.campaign, run.start_us, run.finish_us]
    return told or json.dumps(key, ensure_ascii=False), run


def row_name(table: str, row: int, value: Any) -> str:
    """The key of a row within its table, by which another one takes its place. RowError when it is wrong."""
    match table:
        case "codebases":
            return codebase_of(row, value).name
        case "candidates":
            return json.dumps(candidate_of(row, value).key, ensure_ascii=False)
        case "runs":
            return named_run(row, value)[0]
        case "versions":
            found = checked("versions", row, value)
            return f"{found['source']} {found['version']}"
        case "policies":
            if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
                raise RowError("policies", row, "name", "is missing")
            modes_of(value["name"], value)
            return str(value["name"])
    return str(value["id"] if isinstance(value, Mapping) and "id" in value else value)


def world_of(value: Any) -> tuple[World, list[RowError]]:
    """The tables of `value`, and the rows that were left out. RowError where a whole table cannot be read."""
    if not isinstance(value, Mapping):
        raise RowError("file", 0, "", "must be an object with tables: codebases, candidates, runs, ...")
    tables: dict[str, Any] = {}
    for given, rows in value.items():
        table = TABLE_NAMES.get(given, given)
        if table not in (*TABLES, "policies", "change_sets"):
            known = ", ".join((*TABLES, "policies", "change_sets"))
            raise RowError("file", 0, str(given), f"there is no such table; known are {known}")
        if table in tables:
            raise RowError("file", 0, str(given), "is there twice, under two names")
        tables[table] = rows
    world, faults = World(), list[RowError]()
    for codebase in _each(tables, "codebases", codebase_of, faults):
        world.codebases[codebase.name] = codebase
    world.candidates.extend(_each(tables, "candidates", candidate_of, faults))
    world.runs.extend(_each(tables, "runs", run_of, faults))
    for version in _each(tables, "versions", lambda i, row: checked("versions", i, row), faults):
        world.versions.setdefault(version["source"], []).append(version["version"])
    for policy, entries in _policies(tables.get("policies"), faults):
        try:
            world.policies[policy] = modes_of(policy, entries)
        except RowError as error:
            faults.append(error)
    if tables.get("change_sets") is not None:
        sets = tables["change_sets"]
        world.change_sets = {str(one["id"] if isinstance(one, Mapping) else one) for one in sets}
    return world, faults


def _each(
    tables: Mapping[str, Any], table: str, make: Callable[[int | str, Any], T], faults: list[RowError]
) -> Iterator[T]:
    rows = tables.get(table) or ()
    if not isinstance(rows, list | tuple):
        raise RowError(table, 0, "", "must be a list of rows")
    for i, row in enumerate(rows):
        try:
            yield make(i, row)
        except RowError as error:
            faults.append(error)


def _policies(value: Any, faults: list[RowError]) -> Iterator[tuple[str, Any]]:
    """Of an object by name, or of rows with a name."""
    if isinstance(value, Mapping):
        yield from value.items()
        return
    for i, row in enumerate(value or ()):
        if isinstance(row, Mapping) and isinstance(row.get("name"), str):
            yield row["name"], row
        else:
            faults.append(RowError("policies", i, "name", "is missing"))
