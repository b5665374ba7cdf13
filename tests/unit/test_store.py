"""P8: what was committed is there again after any crash, in order and whole, or the store is refused."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mgmt.protocol.errors import MgmtError
from mgmt.store.sqlite import (
    _MIGRATIONS,
    ACCOUNTS,
    SCHEMA_VERSION,
    Batch,
    Restored,
    SqliteStore,
    downgrade,
    recover,
)

PATIENCE_S = 20.0
SHARES = 2  # of the longest test, which run beside each other


def unit(number: int) -> dict[str, Any]:
    return {"state": "RUNNING", "pid": number, "place": [[1, 2], True]}


def commit(store: SqliteStore, **keys: Any) -> str:
    """Commit one batch and wait; "" or why it failed."""
    done = threading.Event()
    outcome: list[str] = []

    def tell(failure: str) -> None:
        outcome.append(failure)
        done.set()

    store.commit(Batch(**keys), tell)
    assert done.wait(PATIENCE_S)
    return outcome[0]


def reopened(path: Path) -> Restored:
    store = SqliteStore(path)
    try:
        return store.load()
    finally:
        store.close()


def refusal(path: Path) -> MgmtError:
    with pytest.raises(MgmtError) as refused:
        SqliteStore(path).close()
    assert refused.value.code == "bad-store"
    assert str(path) in refused.value.text
    assert "mgmt store recover" in refused.value.text
    return refused.value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """In memory where there is such a place: thousands of syncs are not what is tested."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        return tmp_path / "state.db"
    folder = memory / f"mgmt-{os.getpid()}-{tmp_path.name}"
    folder.mkdir()
    (tmp_path / "memory").symlink_to(folder)
    return folder / "state.db"


@pytest.fixture(autouse=True)
def _no_leftover(path: Path) -> Iterator[None]:
    yield
    shutil.rmtree(path.parent)


# ---- what is kept -----------------------------------------------------------------------------------------


def test_what_is_committed_is_there_again(path: Path) -> None:
    store = SqliteStore(path)
    assert store.load() == Restored({}, {}, [])
    assert commit(store, meta={"secret": b"\x00\xff"}, units={"a": unit(1), "b": unit(2)}) == ""
    assert commit(store, units={"a": unit(3), "b": None}, events=({"seq": 1, "x": 1}, {"seq": 2})) == ""
    assert commit(store, events=({"seq": 3},), keep_events_from=2) == ""
    assert commit(store, units={"c": unit(4)}, synced=False) == ""
    assert commit(store, workloads={"w": {"tasks": [1]}, "v": {"tasks": []}}) == ""
    assert commit(store, workloads={"w": {"tasks": [2]}, "v": None}) == ""
    store.close()
    assert reopened(path) == Restored(
        {"secret": b"\x00\xff"},
        {"a": unit(3), "c": unit(4)},
        [{"seq": 2}, {"seq": 3}],
        {"w": {"tasks": [2]}},
    )


def test_close_writes_what_is_queued(path: Path) -> None:
    store = SqliteStore(path)
    for number in range(200):
        store.commit(Batch(units={f"u{number}": unit(number)}), lambda failure: None)
    store.close()
    assert len(reopened(path).units) == 200


def test_batches_that_wait_are_one_commit_and_told_in_order(path: Path) -> None:
    store = SqliteStore(path)
    go, busy = threading.Event(), threading.Event()
    told: list[tuple[int, int]] = []

    def hold(failure: str) -> None:
        busy.set()
        assert go.wait(PATIENCE_S)

    store.commit(Batch(units={"first": unit(0)}), hold)
    assert busy.wait(PATIENCE_S)
    reader = sqlite3.connect(path, check_same_thread=False)
    for number in range(100):

        def tell(failure: str, number: int = number) -> None:
            told.append((number, reader.execute("SELECT count(*) FROM units").fetchone()[0]))

        store.commit(Batch(units={f"u{number}": unit(number)}), tell)
    assert told == []  # nobody is told before it is written
    go.set()
    store.close()
    reader.close()
    assert told == [(number, 101) for number in range(100)]  # all were there when the first was told


def test_a_record_that_is_written_twice_in_one_commit_has_its_last_word(path: Path) -> None:
    store = SqliteStore(path)
    for number in range(50):
        record = unit(number) if number % 7 else None
        store.commit(Batch(units={"a": record, "b": unit(number)}), lambda failure: None)
    store.close()
    assert reopened(path).units == {"b": unit(49)}


# ---- failures of the disk ---------------------------------------------------------------------------------


def test_what_could_not_be_written_is_written_with_the_next(path: Path) -> None:
    store = SqliteStore(path)
    assert commit(store, units={"before": unit(0)}) == ""
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count={pages}")
    for number in range(3):
        failure = commit(
            store,
            units={f"u{number}": unit(number), "same": unit(number)},
            events=(event(number),),
            workloads={f"w{number}": {}, "same": {"version": number}},
        )
        assert "full" in failure
    assert commit(store, units={"before": unit(9), "u0": None}) != ""
    store._db.execute("PRAGMA max_page_count=1000000")
    assert commit(store, meta={"after": 1}) == ""
    store.close()
    restored = reopened(path)
    assert restored.meta == {"after": 1}
    assert restored.units == {"before": unit(9), "u1": unit(1), "u2": unit(2), "same": unit(2)}
    assert restored.events == [event(number) for number in range(3)]
    assert restored.workloads == {"w0": {}, "w1": {}, "w2": {}, "same": {"version": 2}}


def event(number: int) -> dict[str, Any]:
    return {"seq": number + 1, "text": "x" * 5000}


def test_a_full_disk_is_told_and_survived(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        store = SqliteStore(disk / "state.db")
        assert commit(store, units={"before": unit(0)}) == ""
        filler = disk / "filler"
        with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        assert commit(store, units={"a": unit(1)}, events=(event(0),)) != ""
        assert commit(store, units={"b": unit(2)}, events=(event(1),)) != ""
        filler.unlink()
        assert commit(store, units={"c": unit(3)}) == ""
        store.close()
        restored = reopened(disk / "state.db")
        assert restored.units == {"before": unit(0), "a": unit(1), "b": unit(2), "c": unit(3)}
        assert restored.events == [event(0), event(1)]
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


# ---- every byte -------------------------------------------------------------------------------------------


def parts(path: Path) -> dict[str, bytes]:
    """The store's files by their suffix, without the index of its journal, which is made anew."""
    names = {suffix: path.with_name(path.name + suffix) for suffix in ("", "-wal", ".id")}
    return {suffix: name.read_bytes() for suffix, name in names.items() if name.exists()}


def put(path: Path, files: dict[str, bytes]) -> None:
    for old in path.parent.glob(f"{path.name}*"):
        old.unlink(missing_ok=True)  # a store that was refused lets go of its files when it is collected
    for suffix, data in files.items():
        path.with_name(path.name + suffix).write_bytes(data)


def in_small_pages(path: Path) -> None:
    """Rewrite a closed store in pages of 512 bytes: every byte of a journal is then a few thousand."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode=DELETE")
    db.execute("PRAGMA page_size=512")
    db.execute("VACUUM")
    db.close()


def journalled(path: Path) -> tuple[dict[str, bytes], list[Restored]]:
    """The files of a killed store with all its commits in the journal, and what it had after each of them."""
    store = SqliteStore(path)
    assert commit(store, meta={"secret": b"s" * 32}, units={"a": unit(0)}, events=({"seq": 1},)) == ""
    store.close()
    in_small_pages(path)
    states = [reopened(path)]
    store = SqliteStore(path)
    batches: list[dict[str, Any]] = [
        {"workloads": {"w": {"tasks": list(range(9))}}, "events": ({"seq": 2},)},
        {"units": {"a": unit(1), "b": unit(1)}},
        {"units": {"b": None}, "events": ({"seq": 3, "text": "y" * 700},)},
        {"meta": {"boot": "x"}, "units": {f"u{n}": unit(n) for n in range(12)}},
        {"events": ({"seq": 4},), "keep_events_from": 3},
    ]
    for batch in batches:
        assert commit(store, **batch) == ""
        states.append(store.load())
    files = parts(path)  # as SIGKILL would leave them
    store.close()
    assert len(files["-wal"]) > 10 * 512
    return files, states


@pytest.mark.parametrize("share", range(SHARES))
def test_a_journal_cut_at_any_byte_is_a_prefix_of_the_commits(path: Path, share: int) -> None:
    files, states = journalled(path)
    wal = files["-wal"]
    seen = []
    for size in range(share, len(wal) + 1, SHARES):
        put(path, {**files, "-wal": wal[:size]})
        restored = reopened(path)
        assert restored in states, f"cut at {size} of {len(wal)} bytes"
        seen.append(states.index(restored))
    assert seen == sorted(seen)  # more bytes never mean fewer commits
    assert set(seen) >= set(range(len(states) - 1))
    put(path, files)
    assert reopened(path) == states[-1]


def test_a_store_cut_at_any_byte_is_refused_and_left_alone(path: Path) -> None:
    store = SqliteStore(path)
    assert commit(store, units={f"u{n}": unit(n) for n in range(40)}, events=(event(0),)) == ""
    store.close()
    files = parts(path)
    assert "-wal" not in files
    for size in range(len(files[""]) - 1, -1, -1):
        os.truncate(path, size)
        error = refusal(path)
        assert f"the file has {size} bytes" in error.detail["reason"]
    assert path.stat().st_size == 0
    assert sorted(part.name for part in path.parent.glob("state*")) == ["state.db", "state.db.id"]


def test_a_store_cut_beside_its_journal_is_refused_or_a_prefix(path: Path) -> None:
    files, states = journalled(path)
    data = files[""]
    sizes = {*range(0, len(data), 97), *(n + d for n in range(0, len(data), 512) for d in (-1, 0, 1))}
    for size in sorted(size for size in sizes if 0 <= size < len(data)):
        put(path, {**files, "": data[:size]})
        try:
            restored = reopened(path)
        except MgmtError as error:
            assert error.code == "bad-store"
        else:
            assert restored in states, f"cut at {size} of {len(data)} bytes"


def test_a_checkpoint_that_was_interrupted_is_repeated(path: Path) -> None:
    """SIGKILL while the journal is copied into a growing file: any number of its pages may have arrived."""
    files, states = journalled(path)
    put(path, files)
    SqliteStore(path).close()
    whole, old = path.read_bytes(), files[""]
    assert len(whole) > len(old)
    for arrived in range(0, len(whole) + 1, 512):
        mixed = whole[:arrived] + old[arrived:]
        put(path, {**files, "": mixed})
        assert reopened(path) == states[-1], f"{arrived} of {len(whole)} bytes"


def test_flipped_bytes_are_never_a_new_store(path: Path) -> None:
    """Damage is refused, or it hit what nothing is in: what is read is what was written."""
    store = SqliteStore(path)
    assert commit(store, units={f"u{n}": unit(n) for n in range(40)}) == ""
    store.close()
    files = parts(path)
    draw = random.Random(3)
    refused = 0
    for _ in range(300):
        data = bytearray(files[""])
        for _ in range(draw.choice([1, 8, 64])):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        put(path, {**files, "": bytes(data)})
        try:
            restored = reopened(path)
        except MgmtError as error:
            assert error.code == "bad-store"
            refused += 1
        else:
            assert restored == Restored({}, {f"u{n}": unit(n) for n in range(40)}, [])
    assert refused > 30


# ---- what is refused --------------------------------------------------------------------------------------


def test_a_store_that_vanished_is_refused(path: Path) -> None:
    SqliteStore(path).close()
    path.unlink()
    assert "gone" in refusal(path).detail["reason"]
    assert not path.exists()


def test_a_journal_without_its_store_is_refused(path: Path) -> None:
    files, _ = journalled(path)
    put(path, {"-wal": files["-wal"]})
    assert "gone" in refusal(path).detail["reason"]


def test_a_file_that_is_no_store_is_refused(path: Path) -> None:
    path.write_bytes(b"hello" * 1000)
    assert "no SQLite header" in refusal(path).detail["reason"]
    assert path.read_bytes() == b"hello" * 1000


def test_a_schema_that_never_was_is_refused(path: Path) -> None:
    SqliteStore(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=0")
    db.close()
    assert "schema version 0" in refusal(path).detail["reason"]


def test_a_store_of_a_newer_version_is_refused_as_that(path: Path) -> None:
    store = SqliteStore(path)
    assert commit(store, units={"a": unit(1)}) == ""
    store.close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(MgmtError) as refused:
        SqliteStore(path)
    assert (refused.value.code, refused.value.detail["version"]) == ("bad-store", SCHEMA_VERSION + 1)
    assert f"mgmt store downgrade --state {SCHEMA_VERSION}" in refused.value.text
    assert "damaged" not in refused.value.text and "recover" not in refused.value.text
    assert path.read_bytes() == before


def test_a_store_that_is_taken_back_and_forth_loses_nothing(path: Path) -> None:
    store = SqliteStore(path)
    done = {"holder": 3, "outcomes": []}
    assert commit(store, units={"a": unit(1)}, outbox={"1": done}) == ""
    store.close()
    for older in range(SCHEMA_VERSION - 1, 0, -1):
        downgrade(path, older)
        assert version(path) == older
        restored = reopened(path)
        assert (restored.units, restored.outbox) == ({"a": unit(1)}, {"1": done})
        assert version(path) == SCHEMA_VERSION


def as_version_1(path: Path) -> dict[str, bytes]:
    """Make a closed store what a daemon of the first schema version left; its files."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode=DELETE")
    for table in ("workloads", "assignments", "nodes", *ACCOUNTS, "outbox"):
        db.execute(f"DROP TABLE {table}")
    db.execute("PRAGMA user_version=1")
    db.execute("VACUUM")
    db.close()
    return parts(path)


def version(path: Path) -> int:
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        number: int = db.execute("PRAGMA user_version").fetchone()[0]
        return number
    finally:
        db.close()


def test_a_store_of_the_first_version_is_brought_up_to_date_where_it_is(path: Path) -> None:
    store = SqliteStore(path)
    assert commit(store, meta={"secret": b"s"}, units={"a": unit(1)}, events=({"seq": 1},)) == ""
    store.close()
    as_version_1(path)
    store = SqliteStore(path)
    assert store.load() == Restored({"secret": b"s"}, {"a": unit(1)}, [{"seq": 1}])
    assert commit(store, workloads={"w": {"tasks": []}}) == ""
    store.close()
    assert version(path) == SCHEMA_VERSION
    assert reopened(path) == Restored({"secret": b"s"}, {"a": unit(1)}, [{"seq": 1}], {"w": {"tasks": []}})


def test_assignments_and_nodes_are_kept_and_forgotten(path: Path) -> None:
    store = SqliteStore(path)
    assert (
        commit(store, assignments={"a": {"epoch": 1}, "b": {"epoch": 2}}, nodes={"n1": {"tags": ["x"]}}) == ""
    )
    assert commit(store, assignments={"b": None}, nodes={"n1": {"tags": []}}) == ""
    store.close()
    restored = reopened(path)
    assert (restored.assignments, restored.nodes) == ({"a": {"epoch": 1}}, {"n1": {"tags": []}})


def test_the_outbox_is_kept_and_forgotten(path: Path) -> None:
    store = SqliteStore(path)
    done = {"holder": 3, "outcomes": [["done", 1, 1, 0, "", 1, 2, b"tail", {}, "w0"]]}
    assert commit(store, synced=False, outbox={str(number): done for number in range(300)}) == ""
    assert commit(store, synced=False, outbox={str(number): None for number in range(299)}) == ""
    store.close()
    assert reopened(path).outbox == {"299": done}


def test_accounts_are_kept_and_forgotten(path: Path) -> None:
    store = SqliteStore(path)
    both = {
        "users": {"alice": {"admin": True}, "bob": {"admin": False}},
        "tokens": {"bob/ci": {"scope": "user"}},
    }
    assert commit(store, accounts=both) == ""
    assert commit(store, accounts={"users": {"bob": None}, "groups": {"vision": {"tasks": 3}}}) == ""
    store.close()
    kept = {"users": {"alice": {"admin": True}}, "groups": {"vision": {"tasks": 3}}}
    assert reopened(path).accounts == {**kept, "tokens": {"bob/ci": {"scope": "user"}}}


def test_a_migration_that_is_killed_at_any_byte_is_repeated(path: Path) -> None:
    store = SqliteStore(path)
    assert commit(store, units={"a": unit(1)}) == ""
    store.close()
    old = as_version_1(path)
    store = SqliteStore(path)
    migrated = parts(path)
    store.close()
    wal = migrated["-wal"]
    assert wal
    for size in range(0, len(wal) + 1, 61):
        put(path, {**migrated, "": old[""], "-wal": wal[:size]})
        assert reopened(path) == Restored({}, {"a": unit(1)}, []), f"cut at {size} of {len(wal)} bytes"
        assert version(path) == SCHEMA_VERSION


def test_a_migration_without_room_leaves_the_old_store(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(path)
    assert commit(store, units={"a": unit(1)}) == ""
    store.close()
    as_version_1(path)
    with monkeypatch.context() as patch:
        patch.setitem(_MIGRATIONS, 1, "CREATE TABLE units (no_room)")  # any statement that fails
        refusal(path)
    assert version(path) == 1
    assert reopened(path).units == {"a": unit(1)}


def test_recovery_of_a_damaged_store_of_the_first_version(path: Path) -> None:
    store = SqliteStore(path)
    assert commit(store, units={"a": unit(1)}) == ""
    store.close()
    as_version_1(path)
    os.truncate(path, path.stat().st_size + 1)
    refusal(path)
    assert recover(path, "now") == {
        "meta": 0,
        "units": 1,
        "events": 0,
        "workloads": 0,
        "assignments": 0,
        "nodes": 0,
        **dict.fromkeys((*ACCOUNTS, "outbox"), 0),
    }
    assert reopened(path).units == {"a": unit(1)}
    assert version(path) == SCHEMA_VERSION


CREATING = """
import itertools, sys
from pathlib import Path
from mgmt.store.sqlite import SqliteStore
print("go", flush=True)
for number in itertools.count():
    folder = Path(sys.argv[1]) / str(number)
    folder.mkdir()
    SqliteStore(folder / "state.db").close()
"""


def test_a_first_start_that_is_killed_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    draw = random.Random(11)
    for attempt in range(12):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        with subprocess.Popen(
            [sys.executable, "-c", CREATING, str(folder)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"go\n"
            time.sleep(draw.uniform(0, 0.03))
            process.send_signal(signal.SIGKILL)
        for left in sorted(folder.iterdir(), key=lambda path: int(path.name))[-2:]:
            store = SqliteStore(left / "state.db")
            assert commit(store, units={"a": unit(1)}) == ""
            store.close()
            assert reopened(left / "state.db").units == {"a": unit(1)}


def test_every_stage_of_a_first_start_can_be_repeated(path: Path) -> None:
    SqliteStore(path).close()
    files = parts(path)
    stages: list[dict[str, bytes]] = [
        {},
        {".new": b""},
        {".new": files[""][:5000], ".new-journal": b"x" * 600},
        {".new": files[""]},
        {"": files[""]},
        {"": files[""], ".id": files[".id"]},
    ]
    for stage in stages:
        put(path, stage)
        assert reopened(path) == Restored({}, {}, []), sorted(stage)
        assert parts(path).keys() == {"", ".id"}
        assert not path.with_name(f"{path.name}.new").exists()


# ---- recovery ---------------------------------------------------------------------------------------------


def test_recovery_saves_what_can_be_read_and_keeps_the_damaged_file(path: Path) -> None:
    store = SqliteStore(path)
    units = {f"u{n:03}": unit(n) for n in range(300)}
    assert commit(store, meta={"secret": b"s"}, units=units, events=({"seq": 7},)) == ""
    store.close()
    pages = path.stat().st_size // 4096
    data = bytearray(path.read_bytes())
    data[(pages - 1) * 4096 : pages * 4096] = b"\xa5" * 4096
    path.write_bytes(data)
    refusal(path)
    rows = recover(path, "now")
    aside = path.with_name("state.db.damaged-now")
    assert aside.read_bytes() == bytes(data)
    restored = reopened(path)
    assert restored.meta == {"secret": b"s"}
    assert restored.events == [{"seq": 7}]
    assert restored.units.items() <= units.items()
    assert rows == {
        "meta": 1,
        "units": len(restored.units),
        "events": 1,
        "workloads": 0,
        "assignments": 0,
        "nodes": 0,
        **dict.fromkeys((*ACCOUNTS, "outbox"), 0),
    }
    assert 0 < len(restored.units) < 300


def test_recovery_reads_the_journal_too(path: Path) -> None:
    files, states = journalled(path)
    put(path, files)
    recover(path, "now")
    assert reopened(path) == states[-1]
    assert not path.with_name("state.db-wal").exists()


@pytest.mark.parametrize("left", [b"", b"hello" * 100, None])
def test_recovery_of_nothing_starts_anew_and_says_so(path: Path, left: bytes | None) -> None:
    SqliteStore(path).close()
    path.unlink()
    if left is not None:
        path.write_bytes(left)
    refusal(path)
    assert recover(path, "now") == {
        "meta": 0,
        "units": 0,
        "events": 0,
        "workloads": 0,
        "assignments": 0,
        "nodes": 0,
        **dict.fromkeys((*ACCOUNTS, "outbox"), 0),
    }
    assert reopened(path) == Restored({}, {}, [])
    assert path.with_name("state.db.damaged-now").exists() is (left is not None)


def test_a_recovery_that_is_killed_can_be_repeated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(path)
    assert commit(store, units={"a": unit(1)}) == ""
    store.close()
    os.truncate(path, path.stat().st_size + 1)
    refusal(path)
    rename = Path.rename

    def killed(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        recover(path, "one")
    monkeypatch.setattr(Path, "rename", rename)
    refusal(path)
    assert recover(path, "two")["units"] == 1
    assert reopened(path).units == {"a": unit(1)}
