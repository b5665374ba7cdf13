"""What was acknowledged survives; what is damaged is refused; what fails, fails alone; rivals share one queue."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from mgmt.core.suites import operations as ops
from mgmt.core.suites.operations import Ack, After, Exchange, Extra, NewTask, Result, Submit
from mgmt.core.suites.states import Task
from mgmt.protocol.errors import MgmtError
from mgmt.store.queue import dispatch, tables
from mgmt.store.queue.connection import Connection
from mgmt.store.queue.counting import recount
from mgmt.store.queue.postgres import PostgresEngine
from mgmt.store.queue.sqlite import SqliteConnection, SqliteEngine
from mgmt.store.queue.thread import Engine
from tests.unit.queues import FOREVER_MS, PATIENCE_S, SPEC, Asked, do

ROUNDS = 6

# Tells each operation after its answer; is killed at any point. `argv`: engine, place, suite, holder, seed.
CHILD = """
import random, signal, sys
signal.alarm(60)
from mgmt.core.suites import operations as ops
from mgmt.protocol.errors import MgmtError
from mgmt.store.queue.postgres import PostgresEngine
from mgmt.store.queue.sqlite import SqliteEngine
from pathlib import Path
from tests.unit.queues import Asked, SPEC
kind, place, suite, holder, seed = sys.argv[1:]
engine = SqliteEngine(Path(place)) if kind == "sqlite" else PostgresEngine(*place.split("|"))
ask = Asked(engine)
suite, holder, chance = int(suite), int(holder), random.Random(int(seed))
number = next(each.number for each in ask(ops.ListHolders()) if each.holder == holder)
held = []
while True:
    tasks = [ops.NewTask(SPEC)] * chance.randint(1, 5)
    new = ask(ops.Submit(suite, tasks, "u", 2000))
    print("submitted", *range(new.first, new.first + new.count), flush=True)
    number += 1
    waiting = ops.Waiting(holder, number, 3)
    new = ask(ops.Submit(suite, [ops.NewTask(SPEC)] * chance.randint(1, 3), "u", 2000, "", waiting))
    print("submitted", *range(new.first, new.first + new.count), flush=True)
    print("claimed", *(each.task for each in new.claims), flush=True)
    held += new.claims
    number += 1
    results = [ops.Result(each.task, each.attempt, 0) for each in held]
    said = ask(ops.Exchange(holder, number, 3000, results, chance.randint(0, 6)))
    print("finished", *(each.task for each, ack in zip(held, said.acks, strict=True) if ack != 2), flush=True)
    held = list(said.claims)
    print("claimed", *(each.task for each in held), flush=True)
"""


def place_of(engine: Engine, postgres: str) -> tuple[str, str]:
    if isinstance(engine, SqliteEngine):
        return "sqlite", str(engine.path)
    assert isinstance(engine, PostgresEngine)
    return "postgres", f"{postgres}|{engine.schema}"


def test_what_was_acknowledged_survives_sigkill(engine: Engine, request: pytest.FixtureRequest) -> None:
    """Repeatedly, at any point; every task ends once all the same."""
    postgres = "" if isinstance(engine, SqliteEngine) else request.getfixturevalue("postgres")
    asked = Asked(engine)
    suite = asked(ops.CreateSuite("g", "u", 1000)).suite
    asked.close()
    chance = random.Random(7)
    submitted: set[int] = set()
    finished: Counter[int] = Counter()
    for round_ in range(ROUNDS):
        asked = Asked(engine)
        submitted.add(asked(Submit(suite, [NewTask(SPEC)], "u", 2000)).first)
        holder = asked(ops.OpenHolder("n", "d", FOREVER_MS, 2000, suite)).holder
        asked.close()
        program = [
            sys.executable,
            "-c",
            CHILD,
            *place_of(engine, postgres),
            str(suite),
            str(holder),
            str(round_),
        ]
        root = Path(__file__).parents[2]
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, cwd=root) as child:
            assert child.stdout is not None
            lines = [child.stdout.readline() for _ in range(chance.randint(1, 60))]
            child.kill()
            lines += child.stdout.readlines()
        claimed: set[int] = set()
        assert lines[0], "the program ended by itself"
        for line in lines:
            if not line.endswith("\n"):
                continue  # it was killed in the middle of the line
            kind, *numbers = line.split()
            told = {int(number) for number in numbers}
            if kind == "submitted":
                assert not submitted & told
                submitted |= told
            elif kind == "finished":
                finished.update(told)
            else:
                claimed |= told
        asked = Asked(engine)
        assert asked.recount() == []
        there = {each.task: each for each in asked(ops.ListTasks(ops.TaskFilter(), limit=10**6)).tasks}
        assert submitted <= there.keys()
        assert all(there[number].state == Task.FINISHED for number in finished)
        # What it held is known, and comes back when its holder ends.
        running = {number for number, each in there.items() if each.state == Task.RUNNING}
        assert asked(ops.EndHolder(holder, 4000)).tasks == len(running)
        assert all(there[number].state in (Task.RUNNING, Task.FINISHED) for number in claimed)
        asked.close()
    assert max(finished.values(), default=1) == 1
    assert len(submitted) > ROUNDS


# ---- files ------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    memory = Path("/dev/shm")
    folder = memory / f"mgmt-{os.getpid()}-{tmp_path.name}" if os.access(memory, os.W_OK) else tmp_path / "f"
    folder.mkdir()
    yield folder / "queue.db"
    shutil.rmtree(folder)


def content(db: Connection) -> dict[str, list[Any]]:
    return {name: db.rows(f"SELECT * FROM {name} ORDER BY 1, 2") for name in tables.NAMES}


def some_work(db: Connection) -> Iterator[None]:
    """Operations of each kind, one commit each."""
    suite = do(db, ops.CreateSuite("g", "u", 1000)).suite
    yield
    do(db, Submit(suite, [NewTask(SPEC), NewTask(SPEC, 1, Extra(("l",), (After(0),)))], "u", 2000, "k"))
    yield
    holder = do(db, ops.OpenHolder("n", "d", 5000, 2000, suite)).holder
    yield
    (claim,) = do(db, Exchange(holder, 1, 3000, (), 5)).claims
    yield
    do(db, Exchange(holder, 2, 3000, (Result(claim.task, claim.attempt, 0, detail=b"x" * 5000),), 1))
    yield
    do(db, ops.Sweep(6000, 10**9))
    yield
    do(db, ops.CancelSuite(suite, 6000))
    yield


def test_a_journal_cut_at_any_byte_is_a_prefix_of_the_commits(path: Path) -> None:
    db = SqliteEngine(path).open()
    states = [content(db)]
    for _ in some_work(db):
        states.append(content(db))
    wal = path.with_name(path.name + "-wal")
    whole, journal = path.read_bytes(), wal.read_bytes()
    db.close()
    frame = 24 + 4096
    edges = {32 + n * frame + d for n in range(len(journal) // frame + 1) for d in (-1, 0, 1, 24, 2000)}
    seen = set()
    for size in sorted(size for size in edges if 0 <= size <= len(journal)):
        for suffix in ("-shm", "-wal"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        path.write_bytes(whole)
        wal.write_bytes(journal[:size])
        db = SqliteEngine(path).open()
        found = content(db)
        assert recount(db) == []
        db.close()
        assert found in states, f"cut at {size} of {len(journal)} bytes"
        seen.add(states.index(found))
    assert seen == set(range(len(states)))


def test_room_in_the_log_is_nothing_but_room(path: Path) -> None:
    db = SqliteEngine(path).open()
    suite = do(db, ops.CreateSuite("g", "u", 1000)).suite
    before, size = content(db), path.stat().st_size
    db.make_room()
    wal = path.with_name(path.name + "-wal")
    room = wal.stat().st_size
    assert room > 16e6 and path.stat().st_size == size and content(db) == before
    for _ in range(100):
        do(db, Submit(suite, [NewTask(SPEC)], "u", 2000))
    assert wal.stat().st_size == room, "commits are written over it"
    copy = path.with_name("copy.db")
    for suffix in ("", "-wal"):  # as a crash leaves them
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    again = SqliteEngine(copy).open()
    assert content(again) == content(db) and recount(again) == []
    again.close()
    db.close()


def filled(path: Path) -> bytes:
    db = SqliteEngine(path).open()
    suite = do(db, ops.CreateSuite("g", "u", 1000)).suite
    do(db, Submit(suite, [NewTask(SPEC * 20)] * 2000, "u", 2000))
    db.close()
    return path.read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:50],
        lambda data: b"X" * 100 + data[100:],
        lambda data: data[:-4096],
        lambda data: data[: len(data) // 2 + 7],
        lambda data: b"".join((data[: 20 * 4096], b"\xff" * 3 * 4096, data[23 * 4096 :])),
        lambda data: data[:4096] + bytes(len(data) - 4096),
    ],
)
def test_a_damaged_queue_is_refused_and_not_touched(path: Path, damage: Any) -> None:
    data = damage(filled(path))
    path.write_bytes(data)
    with pytest.raises(MgmtError) as refused:
        SqliteEngine(path).open()
    assert refused.value.code == "bad-store" and str(path) in refused.value.text
    assert path.read_bytes() == data


def test_a_queue_that_vanished_is_not_replaced(path: Path) -> None:
    filled(path)
    path.unlink()
    with pytest.raises(MgmtError, match="the file is gone"):
        SqliteEngine(path).open()
    assert not path.exists()


def test_a_queue_of_a_later_version_is_refused(engine: Engine) -> None:
    db = engine.open()
    db.begin()
    db.change("UPDATE meta SET value = '99' WHERE name = 'version'")
    db.commit()
    db.close()
    with pytest.raises(MgmtError, match="written by a newer mgmt: it has schema version 99") as refused:
        engine.open()
    assert refused.value.code == "bad-store"
    assert f"mgmt store downgrade --queue {tables.SCHEMA_VERSION}" in refused.value.text


def test_migrations_go_up_and_down_and_up_with_data(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    db = engine.open()
    for _ in some_work(db):
        pass
    before = content(db)
    up = "ALTER TABLE tasks ADD COLUMN tint TEXT; CREATE INDEX tasks_tint ON tasks (tint)"
    up += "; UPDATE tasks SET tint = 'red'"
    down = "DROP INDEX tasks_tint; ALTER TABLE tasks DROP COLUMN tint"
    here = tables.SCHEMA_VERSION
    monkeypatch.setitem(tables.MIGRATIONS, here, (up, down))
    db.close()
    for _ in range(2):
        monkeypatch.setattr(tables, "SCHEMA_VERSION", here + 1)
        db = engine.open()
        assert tables.identity(db) == (engine.queue_id, here + 1)
        assert {tint for (tint,) in db.rows("SELECT tint FROM tasks")} == {"red"}
        db.close()
        engine.downgrade(here)
        monkeypatch.setattr(tables, "SCHEMA_VERSION", here)
        db = engine.open()
        assert {**content(db), "meta": []} == {**before, "meta": []}
        assert recount(db) == []
        db.close()


def test_a_queue_of_the_first_version_gets_its_candidates(engine: Engine) -> None:
    db = engine.open()
    for _ in some_work(db):
        pass
    before = content(db)
    db.begin()
    db.change("DROP TABLE candidate_rows")
    db.change("UPDATE meta SET value = '1' WHERE name = 'version'")
    db.commit()
    db.close()
    db = engine.open()
    assert tables.identity(db)[1] == tables.SCHEMA_VERSION
    assert content(db) == before
    db.begin()
    db.change("INSERT INTO candidate_rows (kind, name, record) VALUES ('run', 'a', ?)", (b"x",))
    db.commit()
    db.close()
    for _ in range(2):  # kept on the way down, found on the way up
        engine.downgrade(1)
        db = engine.open()
        assert db.rows("SELECT kind, name FROM candidate_rows") == [("run", "a")]
        assert {**content(db), "candidate_rows": []} == {**before, "candidate_rows": []}
        db.close()


def test_a_migration_that_fails_changes_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    db = engine.open()
    for _ in some_work(db):
        pass
    before = content(db)
    db.close()
    here = tables.SCHEMA_VERSION
    monkeypatch.setitem(tables.MIGRATIONS, here, ("DROP TABLE labels; DROP TABLE no_such_table", ""))
    monkeypatch.setattr(tables, "SCHEMA_VERSION", here + 1)
    with pytest.raises(MgmtError):
        engine.open()
    monkeypatch.setattr(tables, "SCHEMA_VERSION", here)
    db = engine.open()
    assert content(db) == before
    db.close()


# ---- failures of the store --------------------------------------------------------------------------------


class Small(SqliteEngine):
    """A disk with so many pages left, until more is allowed."""

    connection: SqliteConnection

    def open(self) -> SqliteConnection:
        self.connection = super().open()
        self.allow(0)
        return self.connection

    def allow(self, pages: int) -> None:
        used = self.connection.rows("PRAGMA page_count")[0][0]
        self.connection.rows(f"PRAGMA max_page_count={used + pages}")


def test_a_full_disk_refuses_and_recovers(path: Path) -> None:
    filled(path)
    engine = Small(path)
    asked = Asked(engine)
    small, large = (Submit(1, [NewTask(SPEC * size)], "u", 2000) for size in (1, 20_000))
    outcomes = asked.outcomes([large, small, large])
    assert [outcome.code for outcome in outcomes if isinstance(outcome, MgmtError)][:1] == ["not-durable"]
    assert isinstance(outcomes[0], MgmtError) and isinstance(outcomes[2], MgmtError)
    assert asked.recount() == []
    assert asked(ops.GetSuite(1)).counts.total == 2000 + isinstance(outcomes[1], ops.Submitted)
    engine.allow(1000)
    asked(large)
    assert asked.recount() == []
    asked.close()


def test_a_bug_in_one_operation_is_its_own_answer(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(db: Connection, op: Any) -> None:
        db.change("UPDATE lanes SET total = 99")
        raise ZeroDivisionError("broken")

    monkeypatch.setitem(dispatch.OPERATIONS, ops.CloseSuite, broken)
    asked = Asked(engine)
    suite = asked(ops.CreateSuite("g", "u", 1000)).suite
    good, bad = Submit(suite, [NewTask(SPEC)], "u", 2000), ops.CloseSuite(suite, 2000)
    outcomes = asked.outcomes([good, bad, good, bad, good])
    codes = [outcome.code if isinstance(outcome, MgmtError) else "" for outcome in outcomes]
    assert codes == ["", "internal", "", "internal", ""]
    assert "CloseSuite" in outcomes[1].text and "broken" in outcomes[1].text
    assert asked.recount() == []
    asked.close()


def test_reads_do_not_wait_for_writes(engine: Engine) -> None:
    asked = Asked(engine)
    suite = asked(ops.CreateSuite("g", "u", 1000)).suite
    order = []
    both = threading.Semaphore(0)

    def note(word: str) -> None:
        order.append(word)
        both.release()

    asked.queue.ask(Submit(suite, [NewTask(SPEC)] * 100_000, "u", 2000), lambda outcome: note("write"))
    asked.queue.ask(ops.GetSuite(suite), lambda outcome: note("read"))
    for _ in range(2):
        assert both.acquire(timeout=PATIENCE_S)
    assert order == ["read", "write"]
    asked.close()


# ---- PostgreSQL alone -------------------------------------------------------------------------------------

in_postgres = pytest.mark.xdist_group("postgres")


@in_postgres
def test_a_connection_that_was_lost_is_made_anew(postgres: str) -> None:
    asked = Asked(PostgresEngine(postgres, "lost"))
    suite = asked(ops.CreateSuite("g", "u", 1000)).suite
    with psycopg.connect(postgres, autocommit=True) as other:
        for _ in range(3):
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            )
            asked(Submit(suite, [NewTask(SPEC)], "u", 2000))
            asked(ops.GetSuite(suite))
    assert asked(ops.GetSuite(suite)).counts.total == 3
    assert asked.recount() == []
    asked.close()


def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(MgmtError) as refused:
        PostgresEngine(f"host={tmp_path} user=u dbname=d").open()
    assert refused.value.code == "not-durable" and str(tmp_path) in refused.value.text


@in_postgres
def test_daemons_that_share_a_queue_never_claim_the_same_task(postgres: str) -> None:
    """And whatever they do at the same time, all is done once and counted right."""
    daemons = [Asked(PostgresEngine(postgres, "shared")) for _ in range(3)]
    suites = [daemons[0](ops.CreateSuite("g", "u", 1000)).suite for _ in range(2)]
    tasks_each = 150
    claimed: list[Counter[tuple[int, int]]] = [Counter() for _ in daemons]
    failures: list[Exception] = []
    submitted = threading.Barrier(len(daemons), timeout=PATIENCE_S)

    def work(place: int) -> None:
        asked = daemons[place]
        for index in range(tasks_each // 15):
            wanted = [NewTask(SPEC)] * 10 + [
                NewTask(SPEC, 0, Extra(after=(After(-each),))) for each in range(5)
            ]
            asked(Submit(suites[(place + index) % 2], wanted, f"u{place}", 2000))
        mine = [
            asked(ops.OpenHolder(f"n{place}", f"d{place}", FOREVER_MS, 2000, suite)).holder
            for suite in suites
        ]
        submitted.wait()
        for holder in mine if place % 2 else mine[::-1]:
            number = 0
            results: list[Result] = []
            while True:
                number += 1
                said = asked(Exchange(holder, number, 3000, results, 7))
                assert set(said.acks) <= {Ack.OK}
                claimed[place].update((claim.task, claim.attempt) for claim in said.claims)
                results = [Result(claim.task, claim.attempt, 0) for claim in said.claims]
                if not results:
                    break

    def guarded(place: int) -> None:
        try:
            work(place)
        except (MgmtError, AssertionError, threading.BrokenBarrierError) as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(place,)) for place in range(len(daemons))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert failures == []
    assert daemons[0].recount() == []
    total = sum(claimed, Counter())
    assert max(total.values()) == 1
    assert all(counts for counts in claimed)
    finished = sum(daemons[0](ops.GetSuite(suite)).counts.finished for suite in suites)
    assert finished == len(total)
    for asked in daemons:
        asked.close()


@in_postgres
def test_daemons_that_start_together_make_one_queue(postgres: str) -> None:
    engines = [PostgresEngine(postgres, "together") for _ in range(4)]
    threads = [threading.Thread(target=lambda engine=engine: engine.open().close()) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len({engine.queue_id for engine in engines}) == 1 and engines[0].queue_id


def test_sqlite_here_can_what_the_queue_needs() -> None:
    assert sqlite3.sqlite_version_info >= (3, 35), "RETURNING"
