"""A queue whose file is really damaged: what is saved, what is told, and that its counters hold again."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from mgmt.core.suites import operations as ops
from mgmt.core.suites.operations import After, Exchange, Extra, NewTask, Result, Submit
from mgmt.protocol.errors import MgmtError
from mgmt.store.queue import recovery
from mgmt.store.queue.counting import recount
from mgmt.store.queue.sqlite import SqliteEngine
from tests.unit.queues import SPEC, do

PAGE = 4096
COUNT = 2000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a queue with tasks in every state, some of which wait for others."""
    path = tmp_path / "queue.db"
    db = SqliteEngine(path).open()
    first = do(db, ops.CreateSuite("g", "u", 1000, name="first")).suite
    other = do(db, ops.CreateSuite("g", "u", 1000, name="other")).suite
    do(db, Submit(first, [NewTask(SPEC * 20)] * COUNT, "u", 2000, "key"))
    chain = [NewTask(SPEC, 0, Extra(("late",), (After(number * 10 + 1),))) for number in range(COUNT // 10)]
    do(db, Submit(other, chain, "u", 2000))
    holder = do(db, ops.OpenHolder("n", "d", 10**15, 2000, first)).holder
    claims = do(db, Exchange(holder, 1, 3000, (), 300)).claims
    results = [Result(claim.task, claim.attempt, 0) for claim in claims[:200]]
    do(db, Exchange(holder, 2, 3000, results, 0))
    db.close()
    return path


def all_tasks(path: Path) -> dict[int, int]:
    """State by number."""
    db = SqliteEngine(path).open()
    try:
        assert recount(db) == []
        return dict(db.rows("SELECT id, state FROM tasks"))
    finally:
        db.close()


def pages_of(path: Path, table: str) -> list[int]:
    """The leaves of a table, counted from 0."""
    with sqlite3.connect(path) as db:
        try:
            found = db.execute(
                "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf'", (table,)
            ).fetchall()
        except sqlite3.Error:
            pytest.skip("this SQLite has no dbstat")
    return [number - 1 for (number,) in found]


def spoil(path: Path, *pages: int) -> None:
    with path.open("r+b") as file:
        for page in pages:
            file.seek(page * PAGE)
            file.write(b"\xff" * PAGE)


def refused(path: Path) -> str:
    with pytest.raises(MgmtError) as error:
        SqliteEngine(path).open()
    assert error.value.code == "bad-store" and "mgmt store recover" in error.value.text
    return error.value.text


def test_pages_of_tasks_cost_the_tasks_on_them_and_those_that_wait_for_them(path: Path) -> None:
    before = all_tasks(path)
    damaged = pages_of(path, "tasks")[20:40:3]
    spoil(path, *damaged)
    refused(path)
    data = path.read_bytes()
    found = recovery.recover(path, "then")
    after = all_tasks(path)
    gaps = {number for low, high in found.gaps["tasks"] for number in range(low, high + 1)}
    lost = before.keys() - after.keys()
    assert lost and lost == gaps & before.keys(), "it is told exactly what is lost"
    assert found.rows["tasks"] == len(after) and found.rows["suites"] == 2
    waited = {COUNT + number + 1 for number in range(COUNT // 10) if number * 10 + 1 in lost}
    for task, state in after.items():
        assert state == (4 if task in waited else before[task]), task
    assert waited and any(f"{len(waited)} waiting tasks are cancelled" in line for line in found.mended)
    assert path.with_name("queue.db.damaged-then").read_bytes() == data
    db = SqliteEngine(path).open()
    suite = db.rows("SELECT id FROM suites WHERE name = 'first'")[0][0]
    again = do(db, Submit(suite, [NewTask(SPEC)], "u", 4000))
    assert again.first > max(before), "no number is used again"
    known = do(db, Submit(suite, [NewTask(SPEC * 20)] * COUNT, "u", 4000, "key"))
    assert known.known and known.first == 1
    db.close()


def test_a_lost_page_of_holders_sets_free_what_they_had(path: Path) -> None:
    before = all_tasks(path)
    spoil(path, *pages_of(path, "holders"))
    refused(path)
    found = recovery.recover(path, "then")
    assert "100 running tasks are ready again: who held them is lost" in found.mended
    assert found.gaps["holders"] == [(1, 1)]
    after = all_tasks(path)
    assert after == {task: 1 if state == 2 else state for task, state in before.items()}
    db = SqliteEngine(path).open()
    assert do(db, ops.OpenHolder("n", "d", 10**15, 5000, 1)).holder == 2
    db.close()


@pytest.mark.parametrize("table", ["lanes", "suites"])
def test_a_suite_that_is_lost_takes_its_tasks_and_no_others(path: Path, table: str) -> None:
    spoil(path, *pages_of(path, table))
    refused(path)
    found = recovery.recover(path, "then")
    assert all_tasks(path) == {} and found.rows["suites"] == 0
    assert any("tasks whose suite is lost" in line for line in found.mended)


DAMAGES: dict[str, tuple[Any, int]] = {
    # what is left of the file; of how many tasks at least
    "half": (lambda data: data[: len(data) // 2 + 7], 500),
    "short": (lambda data: data[:-PAGE], 1500),
    "header": (lambda data: b"X" * 100 + data[100:], 2200),
    "first page": (lambda data: b"\xff" * PAGE + data[PAGE:], 2200),
    "nothing": (lambda data: b"", 0),
    "zeros": (lambda data: data[:PAGE] + bytes(len(data) - PAGE), 0),
    "noise": (lambda data: b"no database at all" * 1000, 0),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_is_left_of_the_file(path: Path, damage: str) -> None:
    before = all_tasks(path)
    cut, least = DAMAGES[damage]
    path.write_bytes(cut(path.read_bytes()))
    refused(path)
    found = recovery.recover(path, "then")
    after = all_tasks(path)
    assert len(after) >= least and len(after) == found.rows["tasks"]
    assert all(before[task] == state or state in (1, 4) for task, state in after.items())
    assert after == before or found.gaps or found.mended


def test_a_file_that_is_gone_is_told_and_its_numbers_are_not_used_again(path: Path) -> None:
    path.unlink()
    assert "is gone" in refused(path)
    found = recovery.recover(path, "then")
    assert found.rows["tasks"] == 0 and not path.with_name("queue.db.damaged-then").exists()
    assert any("has a new id" in line for line in found.mended)
    db = SqliteEngine(path).open()
    suite = do(db, ops.CreateSuite("g", "u", 1000)).suite
    assert do(db, Submit(suite, [NewTask(SPEC)], "u", 2000)).first > 10**9
    db.close()


def test_a_log_that_was_cut_while_it_was_copied_into_the_file(path: Path) -> None:
    """The worst that a crash with a bad disk leaves: some pages are newer than others, and the log is gone."""
    db = SqliteEngine(path).open()
    old = path.read_bytes()
    do(db, Submit(1, [NewTask(SPEC * 20)] * 500, "u", 5000))
    db.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    new = path.read_bytes()
    db.close()
    half = len(old) // PAGE // 2 * PAGE
    path.write_bytes(new[:half] + old[half:])
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    try:
        SqliteEngine(path).open().close()
    except MgmtError:
        recovery.recover(path, "then")
    tasks = all_tasks(path)
    assert len(tasks) > 1000


def test_without_space_nothing_is_changed_and_then_it_is_done(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(path, pages_of(path, "tasks")[5])
    data = path.read_bytes()
    folder = sorted(one.name for one in path.parent.iterdir())
    real = sqlite3.connect

    class Full(sqlite3.Connection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.execute("PRAGMA max_page_count=30")

    def connect(where: Any, **options: Any) -> Any:
        factory = Full if str(where).endswith(".new") else sqlite3.Connection
        return real(where, factory=factory, **options)

    monkeypatch.setattr(sqlite3, "connect", connect)
    with pytest.raises(MgmtError) as error:
        recovery.recover(path, "then")
    assert error.value.code == "bad-store" and "nothing was changed" in error.value.text
    assert path.read_bytes() == data and sorted(one.name for one in path.parent.iterdir()) == folder
    monkeypatch.undo()
    recovery.recover(path, "then")
    assert len(all_tasks(path)) > 2000
    shutil.rmtree(path.parent)
