"""Inputs of recorded cases, made up: every kind, with what is rare in them often."""

from __future__ import annotations

from datetime import datetime, timedelta
from random import Random
from typing import Any

from tests.core.janitor_model import BUCKETS, MODES

NAMES = ("alpha", "beta", "gamma", "delta")
CAMPAIGNS = ("fix", "orphan", "fresh")
CONTEXTS = (None, "", "1.0", "main", "abc")
RESULTS = (
    "success", "success", "build-failed", "nothing-to-do", "nothing-new-to-do", "worker-failure", "worker-failure",
    "install-deps-unsatisfied-dependencies", "install-deps-unsatisfied-dependencies", "Success", "",
)  # fmt: skip
VERSIONS = (
    "1.0",
    "1.0-0",
    "0:1.0",
    "1:0.1",
    "1.0~rc1",
    "1.0+b1",
    "1.10",
    "1.9",
    "2.0-1",
    "2.0-1~bpo1",
    "1.0a",
    "0",
)
URLS = (
    None, "", "https://salsa.example/x/a", "https://u:p@salsa.example:22/x", "git://user@git.host/z", "lp:thing",
    "bzr+ssh://who:pw@bzr.host:22/q/g", "https://a/b?u=http://c/d", "file:///srv/x", "https://other", "x://a@b@c/d",
)  # fmt: skip
HOSTS = ("salsa.example", "salsa.example:22", "git.host", "bzr.host:22", "c", "a", "", "other", "b@c")
NOW = datetime(2024, 6, 1, 12, 0, 0, 843075)  # noqa: DTZ001  their times have no zone


def relation(dice: Random) -> dict[str, Any]:
    found: dict[str, Any] = {"name": dice.choice(["p", "q", "r"])}
    if dice.random() < 0.7:
        operator = dice.choice(["<=", "=", ">=", ">=", "<<", ">>"])
        found["version"] = dice.choice([None, [operator, dice.choice(VERSIONS)]])
    if dice.random() < 0.3:
        found[dice.choice(["archqual", "arch", "distribution", "restrictions"])] = dice.choice([None, "any"])
    if dice.random() < 0.02:
        found["colour"] = "red"
    return found


def relations(dice: Random) -> list[Any]:
    return [[relation(dice) for _ in range(dice.randrange(3))] for _ in range(dice.randrange(4))]


def versions(dice: Random) -> list[Any]:
    return [
        {"source": dice.choice(["p", "q"]), "version": dice.choice(VERSIONS), "distribution": "unstable"}
        for _ in range(dice.randrange(5))
    ]


def a_run(dice: Random) -> dict[str, Any]:
    age = dice.choice(
        [timedelta(days=1), timedelta(days=1, microseconds=-1), timedelta(days=1, microseconds=1), timedelta(0),
         timedelta(seconds=dice.uniform(-1e5, 3e6)), timedelta(days=2 * dice.random())]
    )  # fmt: skip
    lengths_us = [0, 1, 999_999, 1_000_000, 10**11 + 7, dice.randrange(10**9), dice.randrange(10**7)]
    start = NOW - age
    took = timedelta(microseconds=dice.choice(lengths_us))
    return {
        "codebase": dice.choice(NAMES[:3]), "campaign": dice.choice(CAMPAIGNS),
        "result_code": dice.choice(RESULTS),
        "start_time": start.isoformat(),
        "finish_time": None if dice.random() < 0.02 else (start + took).isoformat(),
        "context": dice.choice(CONTEXTS), "instigated_context": dice.choice(CONTEXTS),
        "failure_transient": dice.choice([True, False, None, None]),
        "failure_details": dice.choice([None, {}, {"relations": relations(dice)}, {"relations": []}, {"x": 1}]),
    }  # fmt: skip


def history(dice: Random) -> dict[str, Any]:
    return {
        "now": NOW.isoformat(), "runs": [a_run(dice) for _ in range(dice.randrange(16))],
        "versions": versions(dice), "codebase": dice.choice(NAMES), "campaign": dice.choice(CAMPAIGNS),
        "context": dice.choice(CONTEXTS),
    }  # fmt: skip


def codebases(dice: Random) -> list[dict[str, Any]]:
    zero = dice.random() < 0.05
    return [
        {
            "name": name,
            "value": 0 if zero else dice.choice([None, 0, 1, 37, 500, 10**6, dice.randrange(1, 10**5)]),
        }
        for name in NAMES
        if dice.random() < 0.9
    ]


def an_add(dice: Random, codebases: list[str]) -> dict[str, Any]:
    wide = dice.choice([1.0, 3.0, 1e4, 1e12])
    found: dict[str, Any] = {
        "codebase": dice.choice(codebases or ["alpha"]), "campaign": dice.choice(CAMPAIGNS),
        "command": dice.choice(["a", "b c", "d"]), "offset": dice.uniform(-wide, wide),
        "bucket": dice.choice(BUCKETS),
    }  # fmt: skip
    for name, values in (
        ("context", CONTEXTS), ("estimated_duration_us", (None, 0, 15_000_000, 7)), ("refresh", (True, False)),
        ("requester", (None, "somebody")), ("change_set", (None, None, "", "cs")),
    ):  # fmt: skip
        if dice.random() < 0.6:
            found[name] = dice.choice(values)
    return found


def an_op(dice: Random) -> dict[str, Any]:
    match dice.choice(["add"] * 6 + ["next", "next", "pop", "position", "iter", "buckets", "dump"]):
        case "add":
            row = an_add(dice, list(NAMES))
            if dice.random() < 0.05:
                row.update(dice.choice([{"command": ""}, {"codebase": "nobody"}, {"bucket": "soon"}]))
            return {"op": "add", **row}
        case "next":
            return {
                "op": "next", "codebase": dice.choice([None, None, "", *NAMES]),
                "exclude_hosts": dice.choice([None, [], dice.sample(HOSTS, dice.randrange(1, 4))]),
                "assigned_top": dice.choice([0, 0, 1, 3]),
            }  # fmt: skip
        case "position":
            return {"op": "position", "codebase": dice.choice(NAMES), "campaign": dice.choice(CAMPAIGNS)}
        case "iter":
            return {
                "op": "iter",
                "campaign": dice.choice([None, "", *CAMPAIGNS]),
                "limit": dice.choice([None, 0, 1, 3]),
            }
        case op:
            return {"op": op}


def world(dice: Random) -> dict[str, Any]:
    policies = {
        f"pol{i}": [
            {"role": f"r{k}", "mode": dice.choice(list(MODES) if dice.random() < 0.97 else ["push-derived"])}
            for k in range(dice.randrange(4))
        ]
        for i in range(3)
    }
    rows: dict[Any, Any] = {}
    for _ in range(dice.randrange(9)):
        row = {
            "codebase": dice.choice(NAMES), "campaign": dice.choice(CAMPAIGNS),
            "context": dice.choice(CONTEXTS),
            "value": dice.choice([None, 1, 50, dice.randrange(1, 1000)]),
            "success_chance": dice.choice([None, 0.0, 0.5, dice.random()]), "command": dice.choice(["run", "x y"]),
            "publish_policy": dice.choice(["pol0", "pol1", "pol2", "pol2", "gone", None]),
            "change_set": dice.choice([None, None, None, "cs"]),
        }  # fmt: skip
        rows[row["codebase"], row["campaign"], row["change_set"]] = row
    return {
        "codebases": codebases(dice), "policies": policies, "candidates": list(rows.values()),
        "runs": [a_run(dice) for _ in range(dice.randrange(20))], "versions": versions(dice),
        "change_sets": ["cs"],
    }  # fmt: skip


def with_world(dice: Random) -> dict[str, Any]:
    found: dict[str, Any] = {"now": NOW.isoformat(), "world": world(dice)}
    names = [row["name"] for row in found["world"]["codebases"]]
    rows = [an_add(dice, names) for _ in range(dice.randrange(4))] if names else []
    found["pre_queue"] = [row for row in rows if row.get("change_set") != ""]
    return found


def a_bulk(dice: Random) -> dict[str, Any]:
    return {
        **with_world(dice), "passes": dice.choice([1, 1, 2, 3]), "bucket": dice.choice([None, *BUCKETS]),
        "default_offset": dice.choice([0.0, -1.0, 10.0]),
        "filter": dice.choice(
            [None, {"codebases": None, "campaign": None}, {"codebases": ["alpha", "beta"], "campaign": None},
             {"codebases": None, "campaign": "fix"}, {"codebases": [], "campaign": None},
             {"codebases": ["alpha"], "campaign": "orphan"}]
        ),
    }  # fmt: skip


def a_schedule(dice: Random) -> dict[str, Any]:
    given = with_world(dice)
    there = given["world"]["candidates"]
    about = dice.choice(there) if there and dice.random() < 0.8 else {}
    kwargs: dict[str, Any] = {
        "codebase": about.get("codebase", dice.choice(NAMES)),
        "campaign": about.get("campaign", "fix"),
    }
    call = dice.choice(["regular", "regular", "manual"])
    rare: dict[str, Any] = {
        "command": [None, "do it", ""], "bucket": [None, *BUCKETS], "requester": [None, "me"],
        "refresh": [True, False], "change_set": [None, "cs", "gone"],
    }  # fmt: skip
    if call == "regular":
        rare |= {
            "candidate_value": [None, 0, 5, 511.0], "success_chance": [None, 0.3], "context": [None, "", "1.0"],
            "normalized_codebase_value": [None, 0.0, 0.11, 1.0, 3.0], "default_offset": [0.0, 10.0, -1.0],
            "dry_run": [True, False],
        }  # fmt: skip
    else:
        rare |= {"offset": [None, -7.9, 3.0], "estimated_duration": [None, 5_000_000]}
    for name, values in rare.items():
        if dice.random() < 0.4:
            kwargs[name] = dice.choice(values)
    return {**given, "call": call, "kwargs": kwargs}


def an_offset(dice: Random) -> dict[str, Any]:
    return {
        "estimated_duration_us": dice.choice(
            [0, 1, 999_999, 1_500_000, 10**12 + 1, dice.randrange(10**10), -(10**8)]
        ),
        "normalized_codebase_value": dice.choice([None, 0.0, 0.05, 0.1, 0.5, 1.0, 7.5, dice.random()]),
        "probability": dice.choice([0.0, 1.0, 1.0000001, -0.1, 1 / 11, dice.random()]),
        "candidate_value": dice.choice([None, 0, -50, -100, -101, 30, 1e9, dice.randrange(1, 2000)]),
        "total_previous_runs": dice.choice([0, 0, 1, 7]), "success_chance": dice.choice([None, 0.0, 0.5]),
    }  # fmt: skip


def a_policy(dice: Random) -> dict[str, Any]:
    modes = [dice.choice([*MODES] * 5 + ["push-derived", "fly"]) for _ in range(dice.randrange(5))]
    return {"value": dice.choice([None, 0, 7, 735, 0.5]), "modes": modes}


def a_script(dice: Random) -> dict[str, Any]:
    rows = [
        {"name": name, "branch_url": dice.choice(URLS), "subpath": dice.choice([None, "", "sub"]),
         "vcs_type": dice.choice([None, "", "git"]), "value": None}
        for name in NAMES
    ]  # fmt: skip
    return {"codebases": rows, "ops": [an_op(dice) for _ in range(dice.randrange(1, 25))]}


def a_normalize(dice: Random) -> dict[str, Any]:
    rows = {row["name"]: row["value"] for row in codebases(dice)}
    return {"codebases": {} if dice.random() < 0.05 else rows, "codebase": dice.choice(NAMES)}


KINDS: dict[str, Any] = {
    "offset": an_offset,
    "policy": a_policy,
    "deps": lambda dice: {"dependencies": relations(dice), "versions": versions(dice)},
    "normalize": a_normalize,
    "estimate": history,
    "duration": lambda dice: {k: v for k, v in history(dice).items() if k not in ("versions", "context")},
    "queue": a_script,
    "bulk": a_bulk,
    "schedule": a_schedule,
}
