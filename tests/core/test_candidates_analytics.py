"""What the history says in whole, against the same asked of a database."""

from __future__ import annotations

import sqlite3
from random import Random
from typing import Any

import pytest

from mgmt.core.candidates.analytics import analytics
from mgmt.core.candidates.outcomes import CODES
from mgmt.core.candidates.records import DAY_US, Run
from tests.core.candidates_world import NOW_US

# Rows by rank within their group: the middle is the one before which half of them are.
ASK = """
WITH known AS (SELECT *, coalesce(finish, start) AS at, {by} AS name FROM run
    WHERE coalesce(finish, start) <= :now),
timed AS (SELECT name, finish - start AS took,
    row_number() OVER (PARTITION BY name ORDER BY finish - start) - 1 AS rank,
    count(*) OVER (PARTITION BY name) AS n
    FROM known WHERE outcome != 3 AND start IS NOT NULL AND finish IS NOT NULL)
SELECT name, count(*), sum(outcome = 0), sum(outcome = 1), sum(outcome = 2), sum(outcome = 3),
    1.0 * sum(outcome = 0) / nullif(sum(outcome < 2), 0),
    (SELECT took / 1e6 FROM timed WHERE timed.name = known.name AND rank = n / 2),
    (SELECT took / 1e6 FROM timed WHERE timed.name = known.name AND rank = 9 * n / 10),
    1.0 * sum(outcome = 0 AND :now - at < :us) / nullif(sum(outcome < 2 AND :now - at < :us), 0)
    - 1.0 * sum(outcome = 0 AND :now - at >= :us AND :now - at < 2 * :us)
    / nullif(sum(outcome < 2 AND :now - at >= :us AND :now - at < 2 * :us), 0)
FROM known GROUP BY name ORDER BY count(*) DESC, name
"""
FIELDS = ("name", "runs", "success", "failure", "nothing", "transient", "rate", "p50_s", "p90_s", "trend")


@pytest.mark.parametrize("seed", range(12))
def test_the_figures_are_those_of_a_database(seed: int) -> None:
    dice = Random(seed)
    runs = []
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE run (codebase, campaign, outcome INT, start INT, finish INT)")
    for _ in range(dice.randrange(250)):
        code = dice.choice([*CODES, "build-failed", "build-failed", "success", "success"])
        start = NOW_US - dice.randrange(-2 * DAY_US, 90 * DAY_US) if dice.random() < 0.95 else None
        finish = None if start is None or dice.random() < 0.05 else start + dice.randrange(10**10)
        run = Run(f"c{dice.randrange(6)}", f"k{dice.randrange(3)}", code, start, finish)
        runs.append(run)
        outcome = CODES.get(code, 1)
        db.execute(
            "INSERT INTO run VALUES (?, ?, ?, ?, ?)", (run.codebase, run.campaign, outcome, start, finish)
        )
    days = dice.choice([7.0, 30.0, 0.5])
    found = analytics(runs, NOW_US, days)
    for by, group in (("campaign", "campaigns"), ("codebase", "codebases"), ("''", "all")):
        rows = db.execute(ASK.format(by=by), {"now": NOW_US, "us": round(days * DAY_US)}).fetchall()
        told: list[dict[str, Any]] = (
            found[group] if group != "all" else [found["all"]] if found["all"] else []
        )
        assert [tuple(row) for row in told] == [FIELDS] * len(rows)
        for row, expected in zip(told, rows, strict=True):
            assert [row[name] for name in FIELDS] == [
                value if value is None or isinstance(value, str) else pytest.approx(value)
                for value in expected
            ]
    assert found["runs"] == sum(row["runs"] for row in found["campaigns"])


def test_nothing_says_nothing() -> None:
    assert analytics([], NOW_US) == {
        "runs": 0, "period_days": 30.0, "all": None, "campaigns": [], "codebases": []
    }  # fmt: skip
