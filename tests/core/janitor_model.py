"""Janitor's rules once more, by another road: its tables in SQLite and its sums in plain steps.

Slow and without a thought for speed; it shares nothing with `mgmt.core.candidates`, so that both are wrong alike
only by chance. `answer` says what a recorded case of some input would expect.
"""

from __future__ import annotations

import re
import sqlite3
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

BUCKETS = (
    "update-existing-mp", "manual", "control", "hook", "reschedule", "update-new-mp", "missing-deps", "default",
)  # fmt: skip
MODES = {"skip": 0, "build-only": 0, "push": 500, "propose": 400, "attempt-push": 450, "bts": 100}
SCHEMA = """
CREATE TABLE codebase (name TEXT PRIMARY KEY, value INT, branch_url TEXT, subpath TEXT, vcs_type TEXT);
CREATE TABLE queue (id INTEGER PRIMARY KEY AUTOINCREMENT, bucket INT NOT NULL,
    codebase TEXT NOT NULL REFERENCES codebase (name), suite TEXT NOT NULL,
    command TEXT NOT NULL CHECK (command != ''), priority INT NOT NULL, context TEXT, duration INT,
    refresh INT NOT NULL, requester TEXT, change_set TEXT);
CREATE UNIQUE INDEX one ON queue (codebase, suite, coalesce(change_set, ''));
CREATE VIEW place AS SELECT *, row_number() OVER ordered AS position,
    sum(duration) OVER ordered - coalesce(duration, 0) AS wait
    FROM queue WINDOW ordered AS (ORDER BY bucket, priority, id);
"""


class Ended(Exception):
    """Janitor would have ended here."""


def answer(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    """What the ancestor says, or {"error": ...}."""
    try:
        result: dict[str, Any] = KINDS[kind](given)
    except Ended as error:
        return {"error": str(error)}
    return result


# ---- values ----------------------------------------------------------------------------------------------


def offset(us: int, normalized: float | None, p: float, value: float | None, runs: int) -> float:
    if normalized is None:
        normalized = 0.5
    if normalized < 0.1:
        normalized = 0.1
    if value is None:
        value = 1.0
    elif runs == 0:
        value = value + 100.0
    if value <= 0 or p < 0 or p > 1:
        raise Ended("assertion")
    took = timedelta(microseconds=us)
    cost = 20000.0 + (1000.0 * took.total_seconds() + took.microseconds / 1000.0)
    worth = normalized * p * value
    if cost <= 0 or worth <= 0:
        raise Ended("assertion")
    return cost / worth


def with_modes(value: float | None, modes: Any) -> float | None:
    if modes is None:
        raise Ended("no entries")
    for mode in modes:
        if mode not in MODES or value is None:
            raise Ended("mode or value")
        value = value + MODES[mode]
    return value


# ---- versions --------------------------------------------------------------------------------------------


def parts(version: str) -> tuple[int, str, str]:
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    return int(epoch), upstream if dash else rest, revision if dash else "0"


def weigh(letter: str) -> int:
    """Of a letter in a part that is no number: a tilde is before the end, letters before the rest."""
    return (
        -1 if letter == "~" else 0 if not letter else ord(letter) if letter.isalpha() else ord(letter) + 256
    )


def compare_part(a: str, b: str) -> int:
    while a or b:
        left, right = (re.match(r"[^0-9]*", one)[0] for one in (a, b))  # type: ignore[index]
        for i in range(max(len(left), len(right))):
            difference = weigh(left[i : i + 1]) - weigh(right[i : i + 1])
            if difference:
                return difference
        a, b = a[len(left) :], b[len(right) :]
        first, second = (re.match(r"[0-9]*", one)[0] for one in (a, b))  # type: ignore[index]
        if int(first or 0) != int(second or 0):
            return int(first or 0) - int(second or 0)
        a, b = a[len(first) :], b[len(second) :]
    return 0


def compare(a: str, b: str) -> int:
    one, other = parts(a), parts(b)
    return one[0] - other[0] or compare_part(one[1], other[1]) or compare_part(one[2], other[2])


def met(dependencies: Any, versions: Any) -> bool:
    for alternatives in dependencies:
        there = False
        for relation in alternatives:
            known = {"name", "archqual", "arch", "distribution", "version", "restrictions"}
            if set(relation) - known or "name" not in relation:
                raise Ended("arguments")
            for row in versions:
                if row["source"] != relation["name"]:
                    continue
                if not relation.get("version"):
                    there = True
                    continue
                operator, wanted = relation["version"]
                sign = compare(row["version"], wanted)
                holds = {"<=": sign <= 0, "=": sign == 0, ">=": sign >= 0, "<<": sign < 0, ">>": sign > 0}
                if operator not in holds:
                    raise Ended("operator")
                there = there or holds[operator]
            if there:
                break
        if not there:
            return False
    return True


# ---- history ---------------------------------------------------------------------------------------------


def when(text: str) -> datetime:
    return datetime.fromisoformat(text)


def took(run: dict[str, Any]) -> int | None:
    if run["start_time"] is None or run["finish_time"] is None:
        return None
    return (when(run["finish_time"]) - when(run["start_time"])) // timedelta(microseconds=1)


def average(runs: Any, **where: str) -> int | None:
    lengths = [
        took(run)
        for run in runs
        if run["failure_transient"] is not True and all(run[key] == value for key, value in where.items())
    ]
    known = [us for us in lengths if us is not None]
    return round(Fraction(sum(known), len(known))) if known else None


def estimate(
    given: dict[str, Any], codebase: str, campaign: str, context: str | None
) -> tuple[float, int, int]:
    now, good, all_of_them, lengths, factor = when(given["now"]), 0, 0, list[float](), 1.0
    if context is None:
        factor = 0.5
    for run in given["runs"]:
        if (run["codebase"], run["campaign"]) != (codebase, campaign) or run["failure_transient"] is True:
            continue
        if run["result_code"] == "worker-failure":
            if run["start_time"] is None:
                raise Ended("no start")
            if (now - when(run["start_time"])).days > 0:
                continue
        us = took(run)
        if us is None:
            raise Ended("no duration")
        lengths.append(timedelta(microseconds=us).total_seconds())
        all_of_them += 1
        good += 1 if run["result_code"] == "success" else 0
        again = context not in (None, "") and (
            context == run["instigated_context"] or context == run["context"]
        )
        details = run["failure_details"] or {}
        lacked = run["result_code"] == "install-deps-unsatisfied-dependencies" and details.get("relations")
        if lacked and met(lacked, given["versions"]):
            good, again = good + 1, False
        if again:
            factor = 0.1
    if all_of_them == 0:
        us = average(given["runs"], codebase=codebase)
        us = average(given["runs"], campaign=campaign) if us is None else us
        return 1.0, 15_000_000 if us is None else us, 0
    mean = timedelta(seconds=sum(lengths) / all_of_them)
    return (
        (good * 10 + 1) / (all_of_them * 10 + 1) * factor,
        mean // timedelta(microseconds=1),
        all_of_them,
    )


def duration(given: dict[str, Any], codebase: str, campaign: str) -> int:
    for where in (
        {"codebase": codebase, "campaign": campaign},
        {"codebase": codebase},
        {"campaign": campaign},
    ):
        us = average(given["runs"], **where)
        if us is not None:
            return us
    return 15_000_000


def in_bulk(values: dict[str, float | None], codebase: str) -> float:
    if not values:
        return 1.0
    most = max(value or 0 for value in values.values())
    if most == 0:
        raise Ended("division")
    return min((values.get(codebase) or 0.0) / most, 1.0)


def alone(values: dict[str, float | None], codebase: str) -> float | None:
    if codebase not in values:
        return None
    value = values[codebase]
    if value is None:
        return 1.0
    most = max(one for one in values.values() if one is not None)
    if most == 0:
        raise Ended("division")
    return min(value / most, 1.0)


def normalize(given: dict[str, Any]) -> dict[str, Any]:
    def one(way: Any) -> Any:
        try:
            value = way(given["codebases"], given["codebase"])
        except Ended as error:
            return {"error": str(error)}
        return 0.5 if value is None else value

    return {"bulk": one(in_bulk), "single": one(alone)}


# ---- the queue -------------------------------------------------------------------------------------------


class Table:
    def __init__(self, codebases: Any, change_sets: Any = None) -> None:
        self.db = sqlite3.connect(":memory:")
        self.db.executescript(SCHEMA)
        self.db.execute("PRAGMA foreign_keys = ON")
        self.change_sets = change_sets
        for row in codebases:
            names = ("name", "value", "branch_url", "subpath", "vcs_type")
            self.db.execute("INSERT INTO codebase VALUES (?, ?, ?, ?, ?)", [row.get(name) for name in names])

    def add(self, codebase: str, campaign: str, command: str, offset: float = 0.0, bucket: str = "default",
            context: Any = None, estimated_duration_us: Any = None, refresh: bool = False, requester: Any = None,
            change_set: Any = None) -> dict[str, Any]:  # fmt: skip
        if bucket not in BUCKETS:
            raise Ended("bucket")
        if change_set is not None and self.change_sets is not None and change_set not in self.change_sets:
            raise Ended("change set")
        row = (command, int(offset), BUCKETS.index(bucket), context, estimated_duration_us, campaign, refresh,
               requester, change_set, codebase)  # fmt: skip
        try:
            self.db.execute(
                "INSERT INTO queue (command, priority, bucket, context, duration, suite, refresh, requester, "
                "change_set, codebase) VALUES (?, (SELECT coalesce(min(priority), 0) FROM queue) + ?, ?, ?, ?, ?, "
                "?, ?, ?, ?) ON CONFLICT (codebase, suite, coalesce(change_set, '')) DO UPDATE SET "
                "context = excluded.context, priority = excluded.priority, bucket = excluded.bucket, "
                "duration = excluded.duration, refresh = excluded.refresh, requester = excluded.requester, "
                "command = excluded.command WHERE queue.bucket >= excluded.bucket",
                row,
            )
        except sqlite3.IntegrityError as error:
            raise Ended(str(error)) from None
        found = self.db.execute(
            "SELECT bucket, codebase, suite, change_set FROM queue WHERE codebase = ? AND suite = ? "
            "AND coalesce(change_set, '') = ?",
            (codebase, campaign, change_set or ""),
        ).fetchone()
        return {"bucket": BUCKETS[found[0]], "key": list(found[1:])}

    def next(self, codebase: Any = None, exclude_hosts: Any = None, assigned_top: int = 0) -> Any:
        rows = self.db.execute(
            "SELECT queue.codebase, suite, change_set, branch_url, subpath, vcs_type FROM queue "
            "LEFT JOIN codebase ON codebase.name = queue.codebase ORDER BY bucket, priority, id"
        ).fetchall()
        for name, campaign, change_set, url, subpath, vcs in rows[assigned_top:]:
            if codebase and name != codebase:
                continue
            if exclude_hosts and url is not None:
                if "://" not in url:
                    continue  # the database finds no host, and NULL is not true
                host = url[url.rindex("://") + 3 :]
                user = re.match(r"[^/@]*@", host)
                host = (host[user.end() :] if user else host).partition("/")[0]
                if host in exclude_hosts:
                    continue
            info = {"branch_url": url} if url else {}
            info |= {"subpath": subpath} if subpath is not None else {}
            return {
                "key": [name, campaign, change_set],
                "vcs_info": info | ({"vcs_type": vcs} if vcs else {}),
            }
        return None

    def pop(self) -> Any:
        row = self.db.execute(
            "SELECT id, codebase, suite, change_set FROM place WHERE position = 1"
        ).fetchone()
        if row is None:
            return None
        self.db.execute("DELETE FROM queue WHERE id = ?", row[:1])
        return list(row[1:])

    def position(self, codebase: str, campaign: str) -> Any:
        row = self.db.execute(
            "SELECT position, wait FROM place WHERE codebase = ? AND suite = ? ORDER BY position",
            (codebase, campaign),
        ).fetchone()
        return dict(zip(("position", "wait_time_us"), row or (None, None), strict=True))

    def iter(self, campaign: Any = None, limit: Any = None) -> Any:
        rows = self.db.execute("SELECT codebase, suite, change_set FROM place ORDER BY position").fetchall()
        chosen = [list(row) for row in rows if not campaign or row[1] == campaign]
        return chosen[:limit] if limit else chosen

    def buckets(self) -> Any:
        rows = self.db.execute("SELECT bucket, count(*) FROM queue GROUP BY bucket ORDER BY bucket")
        return [[BUCKETS[bucket], count] for bucket, count in rows]

    def dump(self) -> list[dict[str, Any]]:
        rows = self.db.execute(
            "SELECT codebase, suite, change_set, bucket, priority, context, command, refresh, requester, "
            "duration, position, wait FROM place ORDER BY position"
        )
        names = ("codebase", "campaign", "change_set", "bucket", "priority", "context", "command", "refresh",
                 "requester", "estimated_duration_us", "position", "wait_time_us")  # fmt: skip
        found = [dict(zip(names, row, strict=True)) for row in rows]
        for row in found:
            row.update(bucket=BUCKETS[row["bucket"]], refresh=bool(row["refresh"]))
        return found


def script(given: dict[str, Any]) -> dict[str, Any]:
    table, results = Table(given["codebases"]), []
    for op in given["ops"]:
        call = getattr(table, op["op"])
        try:
            results.append(call(**{key: value for key, value in op.items() if key != "op"}))
        except Ended as error:
            results.append({"error": str(error)})
    return {"results": results}


# ---- passes ----------------------------------------------------------------------------------------------


class Job:
    def __init__(self, given: dict[str, Any]) -> None:
        self.world = {**given["world"], "now": given["now"]}
        self.table = Table(self.world["codebases"], self.world.get("change_sets"))
        for fields in given.get("pre_queue") or ():
            self.table.add(**fields)

    def row(self, codebase: str, campaign: str, change_set: str | None) -> dict[str, Any]:
        for row in self.world["candidates"]:
            if (row["codebase"], row["campaign"], row["change_set"] or "") == (
                codebase,
                campaign,
                change_set or "",
            ):
                found: dict[str, Any] = row
                return found
        raise Ended("no candidate")

    def regular(self, codebase: str, campaign: str, command: Any = None, candidate_value: Any = None,
                success_chance: Any = None, normalized_codebase_value: Any = None, requester: Any = None,
                default_offset: float = 0.0, context: Any = None, change_set: Any = None, refresh: bool = False,
                bucket: Any = None, dry_run: bool = False) -> dict[str, Any]:  # fmt: skip
        if None in (command, candidate_value, success_chance):
            row = self.row(codebase, campaign, change_set)
            candidate_value = row["value"] if candidate_value is None else candidate_value
            context = row["context"] if context is None else context
            command = row["command"] if command is None else command
        p, us, total = estimate(self.world, codebase, campaign, context)
        if us < 0:
            raise Ended("negative")
        if normalized_codebase_value is None:
            values = {one["name"]: one["value"] for one in self.world["codebases"]}
            normalized_codebase_value = alone(values, codebase)
        at = default_offset + offset(us, normalized_codebase_value, p, candidate_value, total)
        if not command:
            raise Ended("command")
        where = bucket or "default"
        if not dry_run:
            where = self.table.add(
                codebase,
                campaign,
                command,
                at,
                where,
                context,
                us,
                refresh,
                requester or "scheduler",
                change_set,
            )["bucket"]
        return {"offset": at, "duration_us": us, "bucket": where, "probability": p, "total": total}

    def manual(self, codebase: str, campaign: str, bucket: Any = None, change_set: Any = None, offset: Any = None,
               refresh: bool = False, requester: Any = None, estimated_duration: Any = None,
               command: Any = None) -> dict[str, Any]:  # fmt: skip
        if command is None:
            rows = [
                row
                for row in self.world["candidates"]
                if (row["codebase"], row["campaign"]) == (codebase, campaign)
            ]
            if not rows:
                raise Ended("no candidate")
            command = rows[0]["command"]
        us = duration(self.world, codebase, campaign) if estimated_duration is None else estimated_duration
        at = -1.0 if offset is None else offset
        where = self.table.add(
            codebase, campaign, command, at, bucket or "default", None, us, refresh, requester, change_set
        )["bucket"]
        return {"offset": at, "duration_us": us, "bucket": where}

    def one(self, row: dict[str, Any], default_offset: float, bucket: str) -> dict[str, Any]:
        value = with_modes(
            row["value"], [entry["mode"] for entry in self.world["policies"][row["publish_policy"]]]
        )
        values = {one["name"]: one["value"] for one in self.world["codebases"]}
        normalized = in_bulk(values, row["codebase"])
        done = self.regular(
            row["codebase"], row["campaign"], row["command"], value, row["success_chance"], normalized, None,
            default_offset, row["context"], bucket=bucket,
        )  # fmt: skip
        return {
            "value": value, "normalized_codebase_value": normalized, "probability": done["probability"],
            "duration_us": done["duration_us"], "total": done["total"], "offset": done["offset"],
            "result_bucket": done["bucket"],
        }  # fmt: skip


def bulk(given: dict[str, Any]) -> dict[str, Any]:
    job, passes, chosen = Job(given), [], given.get("filter") or {}
    names = [row["name"] for row in given["world"]["codebases"]]
    for _ in range(given.get("passes", 1)):
        items = []
        for row in given["world"]["candidates"]:
            if row["codebase"] not in names or row["publish_policy"] not in given["world"]["policies"]:
                continue
            if chosen.get("codebases") is not None and row["codebase"] not in chosen["codebases"]:
                continue
            if chosen.get("campaign") is not None and row["campaign"] != chosen["campaign"]:
                continue
            told = {"codebase": row["codebase"], "campaign": row["campaign"]}
            try:
                told |= job.one(row, given.get("default_offset", 0.0), given.get("bucket") or "default")
            except Ended as error:
                told["error"] = str(error)
            items.append(told)
        passes.append({"items": items, "queue": job.table.dump()})
    return {"passes": passes}


def schedule(given: dict[str, Any]) -> dict[str, Any]:
    job = Job(given)
    call = job.regular if given["call"] == "regular" else job.manual
    done = call(**given["kwargs"])
    return {key: done[key] for key in ("offset", "duration_us", "bucket")} | {"queue": job.table.dump()}


def told_estimate(given: dict[str, Any]) -> dict[str, Any]:
    found = estimate(given, given["codebase"], given["campaign"], given["context"])
    return dict(zip(("probability", "duration_us", "total"), found, strict=True))


KINDS: dict[str, Any] = {
    "offset": lambda given: {
        "offset": offset(
            given["estimated_duration_us"], given["normalized_codebase_value"], given["probability"],
            given["candidate_value"], given["total_previous_runs"],
        )
    },
    "policy": lambda given: {"value": with_modes(given["value"], given["modes"])},
    "deps": lambda given: {"satisfied": met(given["dependencies"], given["versions"])},
    "normalize": normalize,
    "estimate": told_estimate,
    "duration": lambda given: {"duration_us": duration(given, given["codebase"], given["campaign"])},
    "queue": script,
    "bulk": bulk,
    "schedule": schedule,
}  # fmt: skip
