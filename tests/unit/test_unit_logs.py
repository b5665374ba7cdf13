"""Units' logs as files: reading on across rotation and compression, and what is done about old ones."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mgmt.protocol.errors import MgmtError
from mgmt.shell import logs, rotation
from mgmt.shell.logs import Mark, pieces, read_log
from mgmt.shell.rotation import Rotation, Watched, birth_s, compress_turned, remove_surplus


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "echo.log"


def write(path: Path, text: str, at: float | None = None) -> None:
    with path.open("a") as file:
        file.write(text)
    if at is not None:
        os.utime(path, (at, at))


def turn_over(log: Path, keep: int = 5) -> None:
    """As the shim does it, and as it then opens the file anew."""
    for number in range(keep, 1, -1):
        older = log.with_name(f"{log.name}.{number - 1}")
        if older.exists():
            older.rename(log.with_name(f"{log.name}.{number}"))
    log.rename(log.with_name(f"{log.name}.1"))
    log.touch()


class Reader:
    """Follows a log as a client does."""

    def __init__(self, log: Path, **first: Any) -> None:
        self.log = log
        self.place: dict[str, Any] = {"lines": 0, "offset": None, "inode": None, **first}

    def read(self) -> bytes:
        return b"".join(self._chunks())

    def _chunks(self) -> Iterator[bytes]:
        while True:
            chunk = read_log("echo", self.log, **self.place)
            self.place = {"lines": 0, "offset": chunk["offset"], "inode": chunk["inode"]}
            yield chunk["data"]
            if not chunk["data"]:
                return


def test_a_log_that_is_not_there_is_empty(log: Path) -> None:
    chunk = read_log("echo", log, 20, None, None)
    assert (chunk["data"], chunk["offset"], chunk["inode"]) == (b"", 0, 0)
    reader = Reader(log)
    assert reader.read() == b""
    write(log, "one\n")
    assert reader.read() == b"one\n", "from its start, once it is there"


def test_the_last_lines_go_back_over_a_rotation(log: Path) -> None:
    write(log, "1\n2\n3\n")
    turn_over(log)
    write(log, "4\n5\n")
    assert read_log("echo", log, 4, None, None)["data"] == b"2\n3\n4\n5\n"
    assert read_log("echo", log, 1, None, None)["data"] == b"5\n"
    assert read_log("echo", log, 0, None, None)["data"] == b""
    assert read_log("echo", log, 99, None, None)["data"] == b"1\n2\n3\n4\n5\n"


def test_a_chunk_is_bounded_and_the_rest_follows(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(f"line {number}\n" for number in range(1000))
    write(log, text)
    assert Reader(log, offset=0, inode=log.stat().st_ino).read() == text.encode()
    tail = read_log("echo", log, 100_000, None, None)["data"]
    assert tail == text.encode()
    monkeypatch.setattr(logs, "MAX_CHUNK_BYTES", 100)
    assert len(read_log("echo", log, 100_000, None, None)["data"]) <= 100


def test_a_reader_misses_nothing_over_several_rotations(log: Path) -> None:
    write(log, "1\n")
    reader = Reader(log, lines=9)
    assert reader.read() == b"1\n"
    write(log, "2\n")
    turn_over(log)
    write(log, "3\n")
    turn_over(log)
    write(log, "4\n")
    turn_over(log)
    assert reader.read() == b"2\n3\n4\n"
    write(log, "5\n")
    assert reader.read() == b"5\n"


def test_a_reader_finishes_a_file_that_was_compressed_first(log: Path) -> None:
    write(log, "1\n")
    reader = Reader(log, lines=9)
    assert reader.read() == b"1\n"
    write(log, "2\n")
    turn_over(log)
    write(log, "3\n")
    turn_over(log)
    compress_turned(log)
    write(log, "4\n")
    assert sorted(path.suffix for path in log.parent.iterdir()) == [".gz", ".gz", ".log"]
    assert reader.read() == b"2\n3\n4\n"


def test_a_file_that_is_compressed_while_it_is_looked_for_is_found(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(log, "1\n")
    reader = Reader(log, lines=9)
    assert reader.read() == b"1\n"
    write(log, "2\n")
    turn_over(log)
    write(log, "3\n")
    turn_over(log)
    write(log, "4\n")
    listed = os.listdir

    def listed_before(folder: Path) -> list[str]:
        names = listed(folder)
        monkeypatch.setattr(os, "listdir", listed)
        compress_turned(log)
        return names

    monkeypatch.setattr(os, "listdir", listed_before)
    assert reader.read() == b"2\n3\n4\n"


def test_a_file_that_is_gone_or_was_emptied_is_begun_anew(log: Path) -> None:
    write(log, "one\n")
    reader = Reader(log, lines=9)
    assert reader.read() == b"one\n"
    os.truncate(log, 0)
    write(log, "2\n")
    assert reader.read() == b"2\n"
    other = log.with_name("other")
    write(other, "new\n")
    other.rename(log)
    assert reader.read() == b"new\n"


def test_what_cannot_be_read_is_said(log: Path) -> None:
    log.mkdir()
    with pytest.raises(MgmtError, match=r"the log of echo cannot be read: .*echo.log: Is a directory"):
        read_log("echo", log, 20, None, None)


@pytest.mark.parametrize(
    ("since", "data"),
    [(50.0, b"1\n2\n3\n4\n"), (100.0, b"2\n3\n4\n"), (120.0, b"2\n3\n4\n"), (205.0, b"4\n"), (300.0, b"")],
)
def test_what_was_written_since_a_time(log: Path, since: float, data: bytes) -> None:
    write(log, "1\n")
    inode = log.stat().st_ino
    write(log, "2\n3\n")
    turn_over(log)
    write(log, "4\n")
    marks = [Mark(100.0, inode, 2), Mark(200.0, inode, 6), Mark(299.0, log.stat().st_ino, 2)]
    assert Reader(log, since=since, marks=marks).read() == data


def test_without_a_mark_whole_files_answer(log: Path) -> None:
    for number in range(1, 4):
        write(log, f"{number}\n", at=number * 100.0)
        turn_over(log)
    write(log, "4\n", at=400.0)
    compress_turned(log)
    remove_surplus(log, keep=2)
    assert Reader(log, since=250.0).read() == b"3\n4\n"
    assert Reader(log, since=150.0).read() == b"2\n3\n4\n"
    assert Reader(log, since=500.0).read() == b""


def test_old_files_are_compressed_in_order_and_few_are_kept(log: Path) -> None:
    for number in range(1, 5):
        write(log, f"{number}\n" * 1000, at=1_700_000_000.0 + number)
        log.chmod(0o600)
        turn_over(log)
    compress_turned(log)
    remove_surplus(log, keep=3)
    archives = sorted(log.parent.glob("*.gz"))
    assert [gzip.decompress(path.read_bytes())[:1] for path in archives] == [b"2", b"3", b"4"]
    assert archives[0].name.startswith("echo.log.20231114T221322.000Z-")
    assert archives[0].stat().st_mode & 0o777 == 0o600
    assert {path.name for path in log.parent.iterdir()} == {log.name, *(path.name for path in archives)}


def contents(log: Path) -> list[bytes]:
    """Of the older files, the newest first."""
    return [piece.read(0).strip() for piece in pieces(log) if piece.path != log]


@pytest.mark.parametrize("compress", [False, True])
def test_few_are_kept_with_compression_and_without(log: Path, compress: bool) -> None:
    for number in range(1, 4):
        write(log, f"{number}\n", at=1_700_000_000.0 + number)
        turn_over(log)
        compress_turned(log)
    for number in range(4, 7):  # compression was turned off here
        write(log, f"{number}\n", at=1_700_000_000.0 + number)
        turn_over(log)
    other = log.with_name("echo.log.1.log")
    for path in (other, other.with_name(f"{other.name}.1"), log.with_name("echo.log.old")):
        path.touch()
    watch = Rotation(log.parent.joinpath)
    watch.look([Watched(log.name, None, compress, 6)], 1.0)
    assert contents(log) == [b"6", b"5", b"4", b"3", b"2", b"1"]
    watch.look([Watched(log.name, None, compress, 5)], 1.0)
    assert contents(log) == [b"6", b"5", b"4", b"3", b"2"]
    watch.look([Watched(log.name, None, compress, 2), Watched(other.name, None, False, 1)], 1.0)
    assert contents(log) == [b"6", b"5"]
    assert contents(other) == [b""] and log.with_name("echo.log.old").exists()
    watch.look([Watched(log.name, None, compress, 0)], 1.0)
    assert contents(log) == []


def test_a_folder_in_which_nothing_changed_is_not_read(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(log, "1\n")
    turn_over(log)
    watch = Rotation(lambda _: log)
    watch.look([Watched("echo", None, False, 5)], 1.0)
    with monkeypatch.context() as patched:
        patched.delattr(os, "listdir")
        watch.look([Watched("echo", None, False, 5)], 2.0)
    turn_over(log)
    os.utime(log.parent, (9, 9))  # its clock has steps
    watch.look([Watched("echo", None, False, 0)], 3.0)
    assert contents(log) == []


def test_a_compression_that_was_cut_off_is_done_again(log: Path) -> None:
    write(log, "1\n")
    log.rename(f"{log}.taken")
    log.touch()
    compress_turned(log)
    (archive,) = log.parent.glob("*.gz")
    assert gzip.decompress(archive.read_bytes()) == b"1\n"


def test_a_failed_compression_loses_nothing_and_is_said_once(
    log: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    write(log, "1\n")
    inode = log.stat().st_ino
    turn_over(log)
    watch = Rotation(lambda _: log)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfileobj", refuse)
        for _ in range(3):
            assert watch.look([Watched("echo", None, True, 5)], 1.0) == []
    assert [record.getMessage() for record in caplog.records] == [
        "echo: its old logs stay uncompressed for now: No space left on device"
    ]
    assert Reader(log, offset=0, inode=inode).read() == b"1\n"
    assert not list(log.parent.glob("*.part"))
    watch.look([Watched("echo", None, True, 5)], 2.0)
    assert Reader(log, offset=0, inode=inode).read() == b"1\n"
    assert len(list(log.parent.glob("*.gz"))) == 1


def test_a_log_older_than_asked_is_named_and_an_empty_one_is_not(log: Path) -> None:
    watch, watched = Rotation(lambda _: log), Watched("echo", 60.0, False, 5)
    assert watch.look([watched], 0.0) == []
    log.touch()
    born = birth_s(log) or 0.0
    assert watch.look([watched], born + 61.0) == [], "nothing to turn over"
    write(log, "1\n")
    assert watch.look([watched], born + 59.0) == []
    assert watch.look([watched], born + 61.0) == ["echo"]
    assert watch.look([Watched("echo", None, False, 5)], born + 61.0) == []


def test_where_no_birth_is_told_the_first_sight_counts(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "birth_s", lambda _: None)
    watch, watched = Rotation(lambda _: log), Watched("echo", 60.0, False, 5)
    write(log, "1\n")
    assert [watch.look([watched], at) for at in (1000.0, 1059.0, 1060.0)] == [[], [], ["echo"]]


def test_marks_are_made_of_changes_and_stay_few(log: Path) -> None:
    watch, watched = Rotation(lambda _: log), Watched("echo", None, False, 5)
    write(log, "x")
    for at in (1.0, 2.0, 3.0):
        watch.look([watched], at)
    assert [mark[0::2] for mark in watch.marks("echo")] == [(1.0, 1)]
    for at in range(4, 4000):
        write(log, "x")
        watch.look([watched], float(at))
    marks = watch.marks("echo")
    assert len(marks) <= rotation.MAX_MARKS
    assert list(marks) == sorted(marks)
    assert marks[0].at == 1.0
    assert marks[-1].at == 3999.0
    watch.look([], 5000.0)
    assert watch.marks("echo") == ()


def test_files_of_another_unit_are_none_of_this_log(log: Path) -> None:
    for name in ("echo.log", "echo.log.1", "echo.log.log", "echo.log.log.1", "echo.log.x", "echo.log.1.log"):
        log.with_name(name).touch()
    assert [piece.path.name for piece in pieces(log)] == ["echo.log", "echo.log.1"]
