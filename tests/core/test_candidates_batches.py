"""Runs as the store keeps them, in batches: they say what they say one by one."""

from __future__ import annotations

from array import array
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from mgmt.core.candidates import batches
from mgmt.core.candidates.batches import KIND, batch_of, packed, unpacked
from mgmt.core.candidates.modes import Mode, judge_of
from mgmt.core.candidates.policies import ByDefault
from mgmt.core.candidates.records import Run, World
from mgmt.core.candidates.rules import Rules
from mgmt.core.candidates.settings import Settings, settings_of
from mgmt.core.candidates.stored import Stored, build
from mgmt.core.suites.candidate_rows import Row
from mgmt.protocol import frames
from tests.core.candidates_world import NOW_US, a_candidate, a_run, a_world

CODES = (
    "success",
    "build-failed",
    "nothing-to-do",
    "worker-failure",
    "install-deps-unsatisfied-dependencies",
)
LACKED = {"relations": [[{"name": "libx"}]]}


def some_runs(random: Random, n: int) -> list[tuple[str, Run]]:
    found = []
    for i in range(n):
        run = a_run(random.choice(CODES), random.uniform(0, 40), codebase=f"c{random.randrange(4)}",
                    campaign=f"k{random.randrange(2)}", took_s=random.uniform(1, 900))  # fmt: skip
        context, transient = random.choice([None, "v1", "v2"]), random.choice([None, True, False])
        run = replace(run, context=context, instigated_context=random.choice([None, "v3"]),
                      failure_transient=transient,
                      failure_details=LACKED if run.result_code.startswith("install") else None)  # fmt: skip
        found.append((f"run {i}", replace(run, finish_us=None) if i % 17 == 0 else run))
    return found


def the_world(runs: list[Run]) -> World:
    candidates = [
        replace(a_candidate(f"c{i % 4}", f"k{i // 4}", 10 + i), context=f"v{i % 4}") for i in range(8)
    ]
    return a_world(candidates, runs)


def table(world: World) -> list[Row]:
    rows = []
    for one in world.candidates:
        record = {name: value for name in one.__slots__ if (value := getattr(one, name))}
        rows.append(Row("candidates", str(one.key), frames.pack_body(record)))
    for codebase in world.codebases.values():
        record = {
            name: value for name in codebase.__slots__ if (value := getattr(codebase, name)) is not None
        }
        rows.append(Row("codebases", codebase.name, frames.pack_body(record)))
    return rows


def rules(mode: Mode = "native", **sections: Any) -> Rules:
    return Rules(settings_of(sections), "default", mode, frozenset(), None, {}, None, True, 0.0)


def rows_of(parts: list[list[tuple[str, Run]]]) -> list[Row]:
    rows = []
    for i, part in enumerate(parts):
        batch = batch_of(part)
        assert batch is not None
        rows.append(Row(KIND, f"{i:03d}", packed(batch)))
    return rows


def told(judge: Any, now_us: int = NOW_US) -> list[Any]:
    assert isinstance(judge, ByDefault)
    scorer = judge.scorer
    return [
        [(f.name, f.source, pytest.approx(f.value)) for f in scorer.explain(i, now_us).factors]
        + [scorer.waits_for(i)]
        for i in range(len(scorer.candidates))
    ]


def test_a_batch_is_packed_without_loss() -> None:
    named = some_runs(Random(1), 50)
    batch = batch_of(named)
    assert batch is not None
    again = unpacked(packed(batch))
    assert again == batch
    wanted = [replace(run, failure_transient=bool(run.failure_transient)) for _, run in named]
    assert list(batches.runs_of(again)) == wanted
    assert len(packed(batch)) < 80 * len(named)


@pytest.mark.parametrize("run", [
    Run("a", "b", "success"), a_run("success", 1, codebase="odd\x1fname"),
])  # fmt: skip
def test_what_fits_into_no_batch_stays_alone(run: Run) -> None:
    assert batch_of([("1", run)]) is None
    row = Row("runs", "1", frames.pack_body({"codebase": run.codebase, "campaign": run.campaign,
                                             "result_code": "success"}))  # fmt: skip
    judge, _ = build("default", [*table(the_world([])), row], rules(), NOW_US, Stored())
    assert any(fault.table == "runs" for fault in judge.faults)


def test_batches_say_what_runs_say_one_by_one_and_learn_on() -> None:
    named = some_runs(Random(2), 400)
    changed = [
        (name, replace(run, result_code="build-failed", failure_details=None)) for name, run in named[:30]
    ]
    rows = rows_of([named[:150], named[150:], changed])
    judge, _ = build("default", [*table(the_world([])), *rows], rules(), NOW_US, Stored())
    runs = [run for _, run in [*named[30:], *changed]]
    other = judge_of("default", the_world(list(runs)), Settings(), NOW_US, ())
    assert told(judge) == told(other) and len(judge.scorer.history) == 400  # type: ignore[attr-defined]
    for i in range(300):
        run = a_run(CODES[i % 3], -0.01 * i, codebase=f"c{i % 5}", campaign="k1", took_s=10.0 * i + 1)
        judge.finished(run)
        other.finished(run)
    assert told(judge) == told(other)
    compat, _ = build("janitor_compat", [*table(the_world([])), *rows], rules(), NOW_US, Stored())
    wanted = judge_of("janitor_compat", the_world(runs), Settings(), NOW_US, ())
    assert compat.decisions(NOW_US) == wanted.decisions(NOW_US)


@pytest.mark.parametrize(
    ("mode", "sections"),
    [
        ("fallback", {}),
        ("shadow", {}),
        ("native", {"parts": {"probability": False}}),
        ("native", {"parts": {"duration": False}}),
        ("native", {"success_estimation": {"historical_data_window": "20d"}}),
    ],
)
def test_whatever_mode_and_parts_batches_say_what_runs_say(mode: Mode, sections: dict[str, Any]) -> None:
    named = some_runs(Random(5), 400)
    runs, chosen = [run for _, run in named], rules(mode, **sections)
    judge, _ = build("default", [*table(the_world([])), *rows_of([named])], chosen, NOW_US, Stored())
    other = judge_of("default", the_world(list(runs)), chosen.settings, NOW_US, (), mode)
    for now_us in (NOW_US, NOW_US + 5 * 86_400_000_000):
        one, two = judge.decisions(now_us), other.decisions(now_us)
        assert [(d.candidate.key, d.held) for d in one] == [(d.candidate.key, d.held) for d in two]
        assert [d.score for d in one] == pytest.approx([d.score for d in two], rel=1e-9)
        assert [d.duration_us for d in one] == pytest.approx([d.duration_us for d in two], rel=1e-9)
        for run in runs[:7]:
            judge.finished(run)
            other.finished(run)


def test_many_small_rows_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MANY", 5)
    monkeypatch.setattr(batches, "SMALL", 20)
    named = some_runs(Random(3), 120)
    newer = [(name, replace(run, result_code="success", failure_details=None)) for name, run in named[:4]]
    rows = [*table(the_world([])), *rows_of([named[:100], named[100:110], newer])]
    for i, (name, run) in enumerate(named[110:]):
        (single,) = rows_of([[(name, run)]])
        rows.append(single._replace(name=f"x{i}"))
    stored = Stored()
    first, _ = build("default", list(rows), rules(), NOW_US, stored)
    assert len(stored.gone) == 12 and len(stored.records) == 1
    gone = set(stored.gone)
    left = [row for row in rows if (row.kind, row.name) not in gone]
    assert len(left) == len(rows) - 12
    again, _ = build("default", [*left, Row(KIND, "y", stored.records[0])], rules(), NOW_US, Stored())
    assert told(again) == told(first)
    assert unpacked(stored.records[0]).keys != array("q")


def test_few_small_rows_are_left_alone() -> None:
    stored = Stored()
    build("default", rows_of([some_runs(Random(4), 3)]), rules(), NOW_US, stored)
    assert not stored.gone and not stored.records
