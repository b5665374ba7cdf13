"""Faults of the ancestor that are of its database: asked for each candidate, and by text."""

from __future__ import annotations

from collections import Counter
from typing import Any

import psycopg
import pytest

from mgmt.core.candidates.scoring import Scorer
from mgmt.core.candidates.settings import Parts, Settings
from tests.unit.test_janitor_database import NOW_US, change, scheduled, url  # noqa: F401  a fixture

pytestmark = pytest.mark.xdist_group("postgres")


@pytest.mark.parametrize("policy", ["default", "janitor_compat"])
def test_fault_8_several_queries_a_candidate(url: str, policy: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """As many as before, when there are many times as many candidates and runs."""
    asked: Counter[int] = Counter()
    execute = psycopg.Cursor.execute
    times = 0

    def counted(self: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        asked[times] += 1
        return execute(self, query, *args, **kwargs)

    monkeypatch.setattr(psycopg.Cursor, "execute", counted)
    few = scheduled(url, "--policy", policy, "--dry-run")
    more = "SELECT 'n' || i, 7 FROM generate_series(1, 400) AS i"
    monkeypatch.undo()
    change(url, f"INSERT INTO codebase (name, value) {more}")
    one = "(SELECT * FROM candidate WHERE publish_policy IS NOT NULL LIMIT 1) AS one"
    into = "candidate (codebase, suite, command, value, publish_policy)"
    values = "codebase.name, suite, command, 5, publish_policy"
    change(url, f"INSERT INTO {into} SELECT {values} FROM codebase, {one} WHERE codebase.name LIKE 'n%'")
    monkeypatch.setattr(psycopg.Cursor, "execute", counted)
    times = 1
    many = scheduled(url, "--policy", policy, "--dry-run")
    assert many["considered"] == few["considered"] + 400
    assert asked[0] == asked[1] < 40


def test_parts_that_are_off_are_off_in_a_pass_over_a_database(url: str, tmp_path: Any) -> None:  # noqa: F811
    from mgmt.adapters.janitor.database import Database

    file = tmp_path / "settings.toml"
    file.write_text("[parts]\nprobability = false\nduration = false\n")
    durations = {}
    for args in ((), ("--settings", str(file))):
        told = scheduled(url, "--dry-run", *args)
        durations[bool(args)] = {
            (row["codebase"], row["campaign"]): row["duration_s"] for row in told["decided"]
        }
    assert durations[False] != durations[True]
    with Database(url) as source, source.snapshot():
        world, _ = source.world()
        world.runs = list(source.runs([]))
    scorer = Scorer(world, Settings(parts=Parts(probability=False, duration=False)), NOW_US)
    for one in scorer.pass_over(NOW_US):
        if one.key[:2] in durations[True] and not one.key[2]:
            assert durations[True][one.key[:2]] == pytest.approx(round(one.duration_us or 0) / 1e6)
