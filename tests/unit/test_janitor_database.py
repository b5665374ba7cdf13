"""`mgmt candidates import` and `schedule` on an existing Janitor's database, in a real server."""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from math import trunc
from pathlib import Path
from typing import Any

import jsonschema
import psycopg
import pytest
import redis

from mgmt.adapters.janitor import columns, following, passes
from mgmt.adapters.janitor.columns import Reading, as_columns
from mgmt.adapters.janitor.database import Database
from mgmt.adapters.janitor.following import Follower
from mgmt.adapters.janitor.mirror import HASH, Mirror, bucket_key, member
from mgmt.adapters.janitor.queue_table import QueueTable, in_order
from mgmt.adapters.janitor.tallies import tallies
from mgmt.core.candidates import compat
from mgmt.core.candidates.compat_queue import BUCKETS, CompatError
from mgmt.core.candidates.records import DAY_US, time_us
from mgmt.core.candidates.scoring import Scorer
from mgmt.core.candidates.settings import Settings
from mgmt.protocol.errors import Exit, MgmtError
from mgmt_cli.schemas import schema_of
from tests.unit import janitors
from tests.unit.cli_runner import run

pytestmark = pytest.mark.xdist_group("postgres")
NOW_US = time_us(janitors.NOW)
NOW = janitors.NOW.isoformat()
PATIENCE_S = 30.0


@pytest.fixture
def url(postgres: str) -> str:
    """A Janitor's database with rows."""
    name = f"janitor_{secrets.token_hex(6)}"
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute(f"CREATE DATABASE {name}".encode())
    url = postgres.replace("dbname=postgres", f"dbname={name}")
    janitors.create(url)
    with psycopg.connect(url) as db:
        janitors.fill(db)
    return url


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("Redis is not installed here (Debian's package: redis-server)")
    with tempfile.TemporaryDirectory(prefix="mgmt-redis-") as folder:
        socket = f"{folder}/s"
        server = subprocess.Popen(
            ["setpriv", "--pdeathsig=TERM", "--", program, "--port", "0", "--unixsocket", socket,
             "--save", "", "--appendonly", "no", "--dir", folder],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not Path(socket).exists():
                assert server.poll() is None and time.monotonic() < deadline
                time.sleep(0.01)
            yield f"unix://{socket}"
        finally:
            server.terminate()
            server.wait(PATIENCE_S)


def told(command: str, *args: str, exit: int = 0, schema: str = "") -> Any:
    result = run("candidates", command, *args, "--json")
    assert result.exit_code == exit, result.output
    value = json.loads(result.stdout)
    jsonschema.validate(value, schema_of(f"mgmt.candidates-{schema or command}/1"))
    return value


def scheduled(url: str, *args: str, exit: int = 0) -> Any:
    return told("schedule", "--database", url, "--now", NOW, *args, exit=exit, schema="pass")


def rows(url: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as db:
        return db.execute(janitors.ROWS).fetchall()


def change(url: str, statement: str) -> None:
    with psycopg.connect(url) as db:
        db.execute(statement.encode())


# ---- janitor_compat ---------------------------------------------------------------------------------------


def test_a_compat_pass_leaves_what_one_item_after_the_other_would(url: str) -> None:
    with Database(url) as source, source.snapshot():
        world, faults = source.world()
        world.runs = list(source.runs(faults))
    assert not faults and len(world.runs) == 60 and len(world.candidates) == 12
    scored = compat.Engine(world, NOW_US).bulk(dry_run=True)
    assert not any(one.error for one in scored)
    with psycopg.connect(url) as db, db.transaction(force_rollback=True):
        for one in scored:
            assert one.estimate is not None
            values = {
                "codebase": one.candidate.codebase, "campaign": one.candidate.campaign, "bucket": "default",
                "command": one.candidate.command, "context": one.candidate.context, "offset": trunc(one.offset),
                "duration": timedelta(microseconds=one.estimate.duration_us),
            }  # fmt: skip
            db.execute(janitors.ADD, values)
        wanted = db.execute(janitors.ROWS).fetchall()
    done = scheduled(url, "--policy", "janitor_compat")
    assert rows(url) == wanted
    assert (done["considered"], len(done["decided"]), done["written"]) == (12, 12, 11)
    assert wanted[0][:3] == ("manual", "c0", "fix") and wanted[0][4] == -500, "a more urgent row stays"
    assert {row[7] for row in wanted if row[8] == "scheduler"} == {False}, (
        "a wanted refresh is lost, as there"
    )


def test_a_compat_pass_again_counts_from_the_new_least_one(url: str) -> None:
    change(url, "DELETE FROM queue")
    scheduled(url, "--policy", "janitor_compat")
    first = {row[1:3]: row[4] for row in rows(url)}
    scheduled(url, "--policy", "janitor_compat")
    assert {row[1:3]: row[4] for row in rows(url)} != first


def test_a_change_sets_candidate_is_queued_as_if_it_had_none(url: str) -> None:
    change(url, "INSERT INTO candidate (suite, codebase, command, value, publish_policy, change_set) "
                "VALUES ('fix', 'c2', 'another', 9, 'main', 'set-1')")  # fmt: skip
    scheduled(url, "--policy", "janitor_compat")
    (row,) = [row for row in rows(url) if row[1:3] == ("c2", "fix")]
    assert row[3] == "another" and row[9] is None


def test_what_ends_a_pass_there_is_one_fault_here(url: str) -> None:
    change(url, "UPDATE candidate SET publish_policy = 'odd' WHERE codebase = 'c3' AND suite = 'fix'")
    change(url, "UPDATE candidate SET publish_policy = 'none' WHERE codebase = 'c4' AND suite = 'fix'")
    done = scheduled(url, "--policy", "janitor_compat", exit=Exit.PARTIAL)
    assert [(one["row"], one["problem"].split()[-4:]) for one in done["faults"]] == [
        ("c3 fix", ["'push-derived'", "has", "no", "value"]), ("c4 fix", ["entries", "at", "all", "(NULL)"])
    ]  # fmt: skip
    assert done["written"] == 9


# ---- the default policy -----------------------------------------------------------------------------------


def test_a_default_pass_that_is_repeated_changes_nothing(url: str) -> None:
    done = scheduled(url)
    first = rows(url)
    assert done["written"] == len(done["decided"]) - 1 > 5, "the urgent one stays"
    assert scheduled(url)["decided"] == done["decided"]
    assert rows(url) == first
    assert ("default", "c1", "fix") in [row[:3] for row in first if row[7]], "a wanted refresh stays"


def test_priorities_do_not_depend_on_other_campaigns(url: str) -> None:
    both = {
        (one["codebase"], one["campaign"]): one["priority"] for one in scheduled(url, "--dry-run")["decided"]
    }
    fix = scheduled(url, "--dry-run", "--campaign", "fix")["decided"]
    assert fix and all(both[one["codebase"], one["campaign"]] == one["priority"] for one in fix)
    assert [one["priority"] for one in fix] == sorted(one["priority"] for one in fix)
    some = scheduled(url, "--dry-run", "c2", "c4", "--campaign", "fix")["decided"]
    assert {one["codebase"] for one in some} == {"c2", "c4"} and all(one in fix for one in some)


def test_a_streak_of_transient_failures_is_held_back(url: str) -> None:
    change(url, "INSERT INTO run (id, command, suite, codebase, result_code, start_time, finish_time) "
                f"VALUES ('late', '', 'fix', 'c2', 'worker-failure', '{NOW}', '{NOW}')")  # fmt: skip
    done = scheduled(url)
    assert [one["codebase"] for one in done["held"] if one["campaign"] == "fix"] == ["c2"]
    assert ("c2", "fix") not in [row[1:3] for row in rows(url)]


def test_a_dry_run_writes_nothing_and_the_limit_is_kept(url: str) -> None:
    before = rows(url)
    done = scheduled(url, "--dry-run", "--limit", "3")
    assert (len(done["decided"]), done["written"], done["considered"]) == (3, 0, 12)
    assert rows(url) == before
    assert len(scheduled(url, "--policy", "janitor_compat", "--dry-run", "--limit", "3")["decided"]) == 3
    assert rows(url) == before


@pytest.mark.parametrize("policy", ["default", "janitor_compat"])
def test_nothing_of_the_schema_is_changed(url: str, policy: str) -> None:
    with psycopg.connect(url) as db:
        before = db.execute(janitors.SHAPE).fetchall()
        db.commit()
        scheduled(url, "--policy", policy)
        assert db.execute(janitors.SHAPE).fetchall() == before


@pytest.mark.parametrize(
    ("statement", "table", "row", "column"),
    [
        ("UPDATE candidate SET success_chance = 1.5 WHERE codebase = 'c1' AND suite = 'fix'", "candidates",
         "c1 fix", "success_chance"),
        ("UPDATE candidate SET command = '' WHERE codebase = 'c1' AND suite = 'fix'", "candidates", "", "command"),
        ("UPDATE run SET finish_time = start_time - interval '1s' WHERE id = 'r7'", "runs", "r7", "finish_time"),
        ("UPDATE run SET failure_details = '[1]' WHERE id = 'r7'", "runs", "r7", "failure_details"),
        ("UPDATE run SET start_time = NULL, finish_time = NULL WHERE id = 'r7'", "runs", "", "finish_time"),
        ("UPDATE codebase SET name = '' WHERE name = 'c4'", "codebases", "", "name"),
        ("UPDATE run SET context = U&'v\\001F' WHERE id = 'r7'", "runs", "r7", "context"),
        ("UPDATE run SET result_code = U&'odd\\001F' WHERE id = 'r7'", "runs", "r7", "result_code"),
        ("UPDATE run SET codebase = U&'c\\001F1' WHERE id = 'r7'", "runs", "r7", "codebase"),
    ],
)  # fmt: skip
def test_a_row_that_is_wrong_is_told_and_the_others_stand(
    url: str, statement: str, table: str, row: str, column: str
) -> None:
    change(url, statement)
    done = scheduled(url, exit=Exit.PARTIAL)
    assert any(
        (one["table"], one["column"]) == (table, column) and row in one["row"] for one in done["faults"]
    ), done["faults"]
    assert done["written"] >= 6


def test_a_deployment_without_versions_and_change_sets_will_do(url: str) -> None:
    change(url, "ALTER TABLE queue DROP COLUMN change_set CASCADE")
    with pytest.raises(MgmtError, match="change_set"), Database(url) as source:
        passes.default_pass(Follower(source, Settings()), passes.Choice(), NOW_US)


def test_versions_that_are_available_forgive_what_lacked_them(url: str) -> None:
    pytest.importorskip("debian")
    lacked = '{"relations": [[{"name": "libx", "version": [">=", "2.0"]}]]}'
    change(url, "INSERT INTO run (id, command, suite, codebase, result_code, start_time, finish_time, "
                "failure_details) VALUES ('late', '', 'fix', 'c2', 'install-deps-unsatisfied-dependencies', "
                f"'{NOW}', '{NOW}', '{lacked}')")  # fmt: skip
    (held,) = scheduled(url, "--dry-run")["held"]
    assert held["codebase"] == "c2" and "libx" in held["reason"]
    change(url, "CREATE TABLE all_debian_versions (source text, version text)")
    change(url, "INSERT INTO all_debian_versions VALUES ('libx', '2.1-1')")
    assert scheduled(url, "--dry-run")["held"] == []


def test_two_passes_at_once_are_one_after_the_other(url: str) -> None:
    with Database(url) as one, Database(url) as other, QueueTable(one).writing():
        other.connection.execute("SET lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            other.connection.execute("LOCK TABLE queue IN SHARE ROW EXCLUSIVE MODE")
        other.connection.rollback()
        assert len(list(QueueTable(other).items())) == 3, "reading is open meanwhile"


# ---- import -----------------------------------------------------------------------------------------------


def test_what_is_imported_is_scored_the_same(url: str, tmp_path: Path) -> None:
    file = tmp_path / "janitor.jsonl"
    assert told("import", "--database", url, "-o", str(file))["rows"] == {
        "codebases": 6, "policies": 3, "change_sets": 1, "versions": 0, "candidates": 12, "runs": 60,
    }  # fmt: skip
    assert [one.name for one in tmp_path.iterdir()] == ["janitor.jsonl"]
    for policy in ("default", "janitor_compat"):
        scored = told("score", str(file), "--now", NOW, "--policy", policy)
        done = scheduled(url, "--dry-run", "--policy", policy)
        by_key = {(one["codebase"], one["campaign"]): one["duration_s"] for one in done["decided"]}
        assert {
            (one["codebase"], one["campaign"]): one["duration_s"] for one in scored["candidates"]
        } == pytest.approx(by_key, abs=1e-6)


@pytest.mark.parametrize("range_pages", [1, 1000])
def test_runs_as_columns_say_what_they_say_as_rows(
    url: str, range_pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "RANGE_PAGES", range_pages)
    lacked = '{"relations": [[{"name": "libx"}]]}'
    code = "install-deps-unsatisfied-dependencies"
    into = "INSERT INTO run (id, command, suite, codebase, result_code, start_time, finish_time, "
    for id, codebase, begin in (("late", "c2", NOW), ("former", "c1", "2024-04-01")):
        more = f"instigated_context, failure_details) VALUES ('{id}', '', 'fix', '{codebase}', '{code}', "
        change(url, f"{into}{more}'{begin}', '{begin}', 'v0', '{lacked}')")
    change(url, f"{into}context) VALUES ('open', '', 'tidy', 'c4', 'success', '2024-04-29', NULL, NULL)")
    with Database(url) as source, source.snapshot(), closing(Reading(source, NOW_US)) as reading:
        world, faults = source.world()
        scorer = Scorer(world, Settings(), NOW_US)
        runs = reading.runs(world.candidates, faults, scorer.history.series.rows)
        scorer.begin(as_columns(source, runs, faults), NOW_US)
        assert not faults
        world.runs = list(source.runs([]))
    other = Scorer(world, Settings(), NOW_US)
    assert len(scorer.history) == len(other.history) == 63
    for i, candidate in enumerate(scorer.candidates):
        j = other.number_of(*candidate.key)
        assert j is not None
        one, two = scorer.explain(i, NOW_US), other.explain(j, NOW_US)
        assert (one.waits_for, one.not_before_us) == (two.waits_for, two.not_before_us)
        assert [f.source for f in one.factors] == [f.source for f in two.factors]
        assert [f.value for f in one.factors] == pytest.approx([f.value for f in two.factors], rel=1e-9)
    assert scorer.history.succeeded and other.history.lacking


@pytest.mark.parametrize(
    ("constants", "failures"),
    [
        (compat.JANITOR, 3),
        (replace(compat.JANITOR, ignore_worker_failures_us=25 * DAY_US), 3),
        (replace(compat.JANITOR, window_us=30 * DAY_US), 3),
        (replace(compat.JANITOR, window_us=DAY_US // 2), 3),
    ],
)
def test_sums_of_columns_say_what_runs_say_one_by_one(
    url: str, constants: compat.Constants, failures: int
) -> None:
    pytest.importorskip("debian")
    change(url, "CREATE TABLE all_debian_versions (source text, version text)")
    change(url, "INSERT INTO all_debian_versions VALUES ('libx', '2.1-1')")
    into = "INSERT INTO run (id, command, suite, codebase, result_code, start_time, finish_time, context, "
    code, at = "install-deps-unsatisfied-dependencies", f"'{NOW}', '{NOW}'"
    for n, (codebase, relation, context) in enumerate([
        ("c0", '{"name": "libx"}', "v0"), ("c1", '{"name": "liby"}', "v1"), ("c2", '{"odd": 1}', "v0"),
        ("c3", '{"name": "libx", "version": [">=", "2.0"]}', "v1"),
    ]):  # fmt: skip
        details = f'{{"relations": [[{relation}]]}}'
        change(url, f"{into}failure_details) VALUES ('l{n}', '', 'fix', '{codebase}', '{code}', {at}, "
                    f"'{context}', '{details}')")  # fmt: skip
    into += "failure_transient) VALUES "
    change(url, f"{into} ('u', '', 'tidy', 'c1', 'worker-failure', NULL, '{NOW}', 'v1', false)")
    change(url, f"{into} ('o', '', 'tidy', 'c2', 'success', '{NOW}', NULL, 'v1', false)")
    change(url, f"{into} ('w', '', 'fix', 'c4', 'worker-failure', {at}, 'v0', false)")
    with (
        Database(url) as source,
        source.snapshot(),
        closing(Reading(source, NOW_US, constants.ignore_worker_failures_us)) as reading,
    ):
        world, faults = source.world()
        found = reading.runs(world.candidates, faults)
        sums = tallies(source, found, world.versions, constants, NOW_US)
        history = compat.History(source.runs(faults), world.versions, constants)
    assert not faults
    said = set()
    for one in world.candidates:
        both: list[object] = []
        for past in (sums, history):
            try:
                both.append(past.facts(one.codebase, one.campaign, one.context, NOW_US))
            except CompatError as error:
                both.append(str(error))
        if isinstance(both[0], str):
            said.add(both[0])
        assert both[0] == both[1], one
        for key in ((one.codebase, one.campaign), (one.codebase, None), (None, one.campaign)):
            assert sums.mean_us(key[0], key[1], NOW_US) == history.mean_us(key[0], key[1], NOW_US)
    assert len(said) == failures and sums.facts("c9", "fix", None, NOW_US).total == 0


def test_what_has_changed_is_read_again_and_nothing_else(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put in late, changed, taken away, in transactions that overlap: a pass knows what a first one would."""
    monkeypatch.setattr(columns, "RANGE_PAGES", 1)
    monkeypatch.setattr(following, "MOST_GONE", 0.9)
    whole: list[int] = []

    def reading(database: Database, now_us: int) -> Reading:
        whole.append(1)
        return Reading(database, now_us)

    monkeypatch.setattr(following, "Reading", reading)
    into = "INSERT INTO run (id, command, suite, codebase, result_code, start_time, finish_time, context) VALUES "
    at = "'2024-05-31', '2024-05-31 00:10', 'v0')"
    steps = [  # what happens, and whether all is read then
        ("SELECT", False),
        (f"{into} ('n1', '', 'fix', 'c0', 'success', {at}, ('n2', '', 'fix', 'c5', 'success', {at}", False),
        (f"{into} ('n3', '', 'new', 'c0', 'build-failed', '2020-01-01', '2020-01-01', NULL)", False),
        ("UPDATE run SET result_code = 'success' WHERE id = 'r3'", False),
        ("UPDATE run SET failure_transient = true WHERE codebase = 'c2'", False),
        ("UPDATE run SET failure_details = '[1]' WHERE id = 'r7'", False),
        ("UPDATE run SET failure_details = NULL WHERE id = 'r7'", False),
        ("UPDATE run SET codebase = U&'c\\001F1' WHERE id = 'r8'", True),
        ("UPDATE run SET context = U&'c\\001F1' WHERE id = 'r4'", True),
        ("UPDATE run SET codebase = 'c3', context = NULL WHERE id IN ('r8', 'r4')", False),
        ("SELECT", False),
        ("DELETE FROM run WHERE id = 'r9'", True),
        ("UPDATE run SET codebase = 'c1' WHERE id = 'r10'", True),
        ("UPDATE candidate SET value = 99, context = 'v7' WHERE codebase = 'c3'", True),
        ("VACUUM FULL run", False),
        ("VACUUM FREEZE run", False),
        ("TRUNCATE run CASCADE", True),
    ]  # fmt: skip
    with Database(url) as source, psycopg.connect(url) as slow, psycopg.connect(url, autocommit=True) as db:
        follower = Follower(source, Settings())

        def passed() -> None:
            with source.snapshot():
                scorer, faults = follower.scorer(NOW_US)
                found = [scorer.explain(i, NOW_US) for i in range(len(scorer.candidates))]
            with Database(url) as other, other.snapshot():
                first, wrong = Follower(other, Settings()).scorer(NOW_US)
                wanted = [first.explain(i, NOW_US) for i in range(len(first.candidates))]
            whole.pop()
            assert [str(one) for one in faults] == [str(one) for one in wrong]
            for one, two in zip(found, wanted, strict=True):
                assert (one.key, one.waits_for, one.not_before_us) == (
                    two.key,
                    two.waits_for,
                    two.not_before_us,
                )
                assert [f.source for f in one.factors] == [f.source for f in two.factors]
                assert [f.value for f in one.factors] == pytest.approx(
                    [f.value for f in two.factors], rel=1e-9
                )

        passed()
        assert whole == [1]
        slow.execute(f"{into} ('s1', '', 'tidy', 'c3', 'success', {at}".encode())  # not committed for a while
        for statement, all_is_read in steps[:5]:
            whole.clear()
            db.execute(statement.encode())
            passed()
            assert bool(whole) == all_is_read, statement
        slow.commit()
        passed()
        assert len(follower._runs.of) > 60 and follower._rows == 64, "what was late is there"
        for statement, all_is_read in steps[5:]:
            whole.clear()
            db.execute(statement.encode())
            passed()
            assert bool(whole) == all_is_read, statement


def test_when_much_has_changed_all_is_read(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "MOST_CHANGED", 3)
    monkeypatch.setattr(following, "MOST_GONE", 0.1)
    with Database(url) as source:
        follower = Follower(source, Settings())
        for _ in range(2):
            assert passes.default_pass(follower, passes.Choice(), NOW_US).considered == 12
        change(url, "UPDATE run SET worker = 'x'")
        passes.default_pass(follower, passes.Choice(), NOW_US)
        assert len(follower._runs.of) == 60
        for expected in (72, 60):
            change(url, "UPDATE run SET worker = 'x' WHERE codebase = 'c1'")
            passes.default_pass(follower, passes.Choice(), NOW_US)
            assert len(follower._runs.of) == expected


def test_a_server_without_more_connections_is_read_over_one(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "RANGE_PAGES", 1)
    one = scheduled(url, "--dry-run")
    monkeypatch.setattr(Database, "another", lambda self, snapshot: None)
    assert scheduled(url, "--dry-run") == one


def test_times_without_end_and_odd_names_are_told(url: str) -> None:
    change(url, "UPDATE run SET finish_time = 'infinity' WHERE id = 'r7'")
    (fault,) = scheduled(url, "--dry-run", exit=Exit.PARTIAL)["faults"]
    assert (fault["row"], fault["problem"]) == ("r7", "or start_time is infinite")
    change(url, "UPDATE run SET result_code = U&'a\\001Fb' WHERE id = 'r7'")
    change(url, "UPDATE candidate SET codebase = U&'c\\001F1', context = 'v1' WHERE codebase = 'c1'")
    done = scheduled(url, "--dry-run", exit=Exit.PARTIAL)
    assert [fault["row"] for fault in done["faults"] if "U+001F" in fault["problem"]] == ["r7"]
    assert len(done["decided"]) == 10, "those without a codebase are left out"


def test_passes_one_after_the_other(url: str) -> None:
    command = ["setpriv", "--pdeathsig=TERM", "--", sys.executable, "-m", "mgmt_cli", "candidates"]
    command += ["schedule", "--database", url, "--every", "100ms", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        assert first["considered"] == second["considered"] == 12
        change(url, "DELETE FROM candidate WHERE codebase = 'c1'")
        deadline = time.monotonic() + PATIENCE_S
        while json.loads(process.stdout.readline())["considered"] != 10:
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 128 + signal.SIGINT
    result = run("candidates", "schedule", "--every", "5m")
    assert result.exit_code == Exit.USAGE and "--every" in result.stderr


@pytest.mark.parametrize("policy", ["default", "janitor_compat"])
def test_statements_are_as_many_whatever_there_is(
    url: str, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements = list[object]()
    execute = psycopg.Cursor.execute

    def counted(self: Any, query: Any, *args: Any, **keys: Any) -> Any:
        statements.append(query)
        return execute(self, query, *args, **keys)

    monkeypatch.setattr(psycopg.Cursor, "execute", counted)
    scheduled(url, "--policy", policy)
    few = len(statements)
    change(url, "INSERT INTO codebase (name, value) SELECT 'd' || i, i FROM generate_series(1, 50) AS i")
    change(url, "INSERT INTO candidate (suite, codebase, command, value, publish_policy) "
                "SELECT 'fix', 'd' || i, 'x', i, 'main' FROM generate_series(1, 50) AS i")  # fmt: skip
    statements.clear()
    assert scheduled(url, "--policy", policy)["considered"] == 62
    assert len(statements) == few < 40


def test_rows_come_in_batches(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mgmt.adapters.janitor.database.BATCH_ROWS", 7)
    with Database(url) as source, source.snapshot():
        assert len(list(source.rows("runs"))) == 60


# ---- the mirror -------------------------------------------------------------------------------------------


def test_the_mirror_is_the_queue(url: str, redis_url: str) -> None:
    for policy in ("janitor_compat", "default"):
        done = scheduled(url, "--redis", redis_url, "--policy", policy)
        with Database(url) as source:
            items = list(QueueTable(source).items())
        assert done["mirrored"] == len(items) == 13
        with redis.Redis.from_url(redis_url, decode_responses=True) as db:
            for bucket in BUCKETS:
                wanted = [(member(item), float(item.priority)) for item in in_order(items).get(bucket, ())]
                assert db.zrange(bucket_key(bucket), 0, -1, withscores=True) == wanted
            assert db.hlen(HASH) == 13
            one = items[0]
            assert json.loads(db.hget(HASH, member(one)) or "")["command"] == one.command
        mirror = Mirror(redis_url)
        ranked = [item for bucket in BUCKETS for item in in_order(items).get(bucket, ())]
        for rank, item in enumerate(ranked, 1):
            assert mirror.position(*item.key) == rank
        assert mirror.position("nobody", "fix") is None
        assert mirror.replace(items[:2]) == 2
        assert [mirror.position(*item.key) for item in items[2:]] == [None] * 11
        mirror.close()


# ---- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("schedule", "--database", "host=/nowhere dbname=x"), "the database cannot be reached"),
        (("import", "--database", "host=/nowhere dbname=x", "-o", "x"), "the database cannot be reached"),
        (("schedule", "--database", "no url", "--now", NOW), "the database cannot be reached"),
        (("schedule", "--database", "host=/nowhere", "--redis", "unix:///nowhere"), "the mirror in Redis"),
        (("schedule", "--database", "host=/nowhere", "--redis", "nothing"), "--redis is 'nothing'"),
    ],
)  # fmt: skip
def test_a_server_that_is_not_there_is_said(args: tuple[str, ...], says: str, tmp_path: Path) -> None:
    result = run("candidates", *args)
    assert result.exit_code == Exit.FAILED
    assert result.stderr.startswith("error: ") and says in result.stderr


def test_a_database_of_something_else_is_said(postgres: str, tmp_path: Path) -> None:
    result = run("candidates", "import", "--database", postgres, "-o", str(tmp_path / "x"))
    assert result.exit_code == Exit.FAILED and 'relation "codebase" does not exist' in result.stderr
    assert not list(tmp_path.iterdir())


def test_without_the_extra_it_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("mgmt.adapters.janitor.database", "mgmt.adapters.janitor.passes", "psycopg"):
        monkeypatch.delitem(__import__("sys").modules, module, raising=False)
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    result = run("candidates", "schedule", "--database", "x")
    assert result.exit_code == Exit.FAILED and "pip install 'mgmt[postgres]'" in result.stderr
