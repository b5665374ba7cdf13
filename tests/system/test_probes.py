"""Probes against real servers, processes and logs on a real loop: exactly one answer for each question."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.settings import ProbeSettings
from mgmt.shell import probes as probes_module
from mgmt.shell.commands import Commands
from mgmt.shell.probes import Probes
from tests.system.looping import Loop, looping
from tests.system.shim_driver import alive

ENV = {"PATH": os.environ["PATH"], "WORD": "bird"}


class Asking:
    """Asks and keeps the answers; the worker thread works only while `free` is set."""

    def __init__(self, turning: Loop, logs: Path) -> None:
        self.turning = turning
        self.logs = logs
        self.heard: list[ev.ProbeAnswered] = []
        self.workers = ThreadPoolExecutor(1)
        self.free = threading.Event()
        self.free.set()
        self.commands = Commands(turning.loop, logs)
        self.probes = Probes(turning.loop, self.commands, self.log_path, self.submit, self.on_event)

    def log_path(self, unit: str) -> Path:
        return self.logs / f"{unit}.log"

    def submit(self, work: Callable[[], None]) -> None:
        def when_free() -> None:
            self.free.wait(10)
            work()

        self.workers.submit(when_free)

    def on_event(self, event: ev.Event) -> None:
        assert isinstance(event, ev.ProbeAnswered)
        self.heard.append(event)

    def ask(self, unit: str = "u", incarnation: int = 1, cwd: str | None = None, **probe: Any) -> None:
        before = len(self.heard)
        settings = ProbeSettings.model_validate({"timeout_s": 5.0, **probe})
        self.probes.ask(fx.AskProbe(unit, incarnation, "ready", settings), ENV, cwd)
        assert len(self.heard) == before, "answered before ask returned"

    def answer(self) -> tuple[bool, str]:
        self.turning.until(lambda: self.heard, "an answer")
        (event,) = self.heard
        self.heard.clear()
        return event.ok, event.detail

    def put(self, text: str | bytes, unit: str = "u") -> None:
        with self.log_path(unit).open("ab") as file:
            file.write(text.encode() if isinstance(text, str) else text)

    def seen(self, pattern: str, unit: str = "u") -> tuple[bool, str]:
        self.ask(unit, kind="log", pattern=pattern)
        return self.answer()


@pytest.fixture
def asking(tmp_path: Path) -> Iterator[Asking]:
    with looping() as turning:
        turning.turn()  # the first loop of a process opens what it keeps for ever
    fds = len(os.listdir("/proc/self/fd"))
    with looping() as turning:
        made = Asking(turning, tmp_path)
        yield made
        made.probes.close()
        made.commands.close()
        made.free.set()
        made.workers.shutdown()
        turning.turn()
        assert made.heard == [], "an answer too many"
        assert not made.probes._tasks and not made.probes._asks
    assert len(os.listdir("/proc/self/fd")) == fds


class Server:
    """Accepts one connection after the other and plays `script` on each; `requests` is what it read."""

    def __init__(self, script: Callable[[socket.socket], None], address: str | None = None) -> None:
        family = socket.AF_UNIX if address and address.startswith("/") else socket.AF_INET
        if address == "::1":
            family = socket.AF_INET6
        self.listener = socket.socket(family)
        self.listener.settimeout(0.1)
        where: Any = address if family == socket.AF_UNIX else (address or "127.0.0.1", 0)
        self.listener.bind(where)
        self.listener.listen()
        self.port = int(self.listener.getsockname()[1]) if family != socket.AF_UNIX else 0
        self.script = script
        self.stopping = False
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while not self.stopping:
            try:
                client, _ = self.listener.accept()
            except TimeoutError:
                continue
            with client:
                client.settimeout(10)
                try:
                    self.script(client)
                except OSError:
                    pass  # the probe went away: some of the tests want that

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping = True
        self.thread.join()
        self.listener.close()


def says(
    *pieces: bytes, pause_s: float = 0.0, log: list[bytes] | None = None
) -> Callable[[socket.socket], None]:
    def script(client: socket.socket) -> None:
        request = client.recv(65536)
        if log is not None:
            log.append(request)
        for piece in pieces:
            client.sendall(piece)
            time.sleep(pause_s)

    return script


def waits(client: socket.socket) -> None:
    """Never answers; returns when the probe is gone."""
    while client.recv(65536):
        pass


# ---- http ----


@pytest.mark.parametrize(
    ("answer", "ok", "detail"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", True, "HTTP status 200"),
        (b"HTTP/1.0 204\r\n\r\n", True, "HTTP status 204"),
        (b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", True, "HTTP status 302"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", False, "HTTP status 404"),
        (b"HTTP/1.1 503 Busy\r\n\r\n", False, "HTTP status 503"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", False, "no HTTP answer, but 'HTTP/1.1 2000 OK'"),
        (b"220 mail.example ESMTP\r\n", False, "no HTTP answer, but '220 mail.example ESMTP'"),
        (b"HTTP/1.1 200 OK", False, "no HTTP answer, but 'HTTP/1.1 200 OK'"),  # cut off
        (b"", False, "closed without an answer"),
    ],
)
def test_http_answers(asking: Asking, answer: bytes, ok: bool, detail: str) -> None:
    with Server(says(answer)) as server:
        asking.ask(kind="http", url=f"http://127.0.0.1:{server.port}/health")
        assert asking.answer() == (ok, detail)


def test_the_http_request(asking: Asking) -> None:
    log: list[bytes] = []
    with Server(says(b"HTTP/1.1 200 OK\r\n\r\n", log=log)) as server:
        asking.ask(kind="http", url=f"http://me:secret@127.0.0.1:{server.port}/a b\u00e9%20?q=1&r=\u00fc")
        assert asking.answer()[0]
        asking.ask(kind="http", url=f"http://127.0.0.1:{server.port}?q")
        assert asking.answer()[0]
    lines = log[0].decode("ascii").split("\r\n")
    assert lines[0] == "GET /a%20b%C3%A9%20?q=1&r=%C3%BC HTTP/1.1"
    assert f"Host: 127.0.0.1:{server.port}" in lines
    assert "Connection: close" in lines
    assert lines[-2:] == ["", ""]
    assert log[1].startswith(b"GET /?q HTTP/1.1\r\n")


def test_http_over_ipv6(asking: Asking) -> None:
    try:
        server = Server(says(b"HTTP/1.1 200 OK\r\n\r\n"), "::1")
    except OSError as error:
        pytest.skip(f"no IPv6 on loopback: {error.strerror}")
    with server:
        asking.ask(kind="http", url=f"http://[::1]:{server.port}/")
        assert asking.answer() == (True, "HTTP status 200")
        asking.ask(kind="tcp", address=f"[::1]:{server.port}")
        assert asking.answer() == (True, "connected")


def test_a_slow_http_answer_in_pieces(asking: Asking) -> None:
    with Server(says(b"HTTP/1.1 2", b"00 OK\r\n", b"\r\n", pause_s=0.05)) as server:
        asking.ask(kind="http", url=f"http://127.0.0.1:{server.port}/")
        assert asking.answer() == (True, "HTTP status 200")


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 20"])
def test_a_late_http_answer_is_a_bad_one(asking: Asking, first: bytes) -> None:
    def script(client: socket.socket) -> None:
        client.sendall(first)
        waits(client)

    with Server(script) as server:
        asking.ask(kind="http", url=f"http://127.0.0.1:{server.port}/", timeout_s=0.2)
        assert asking.answer() == (False, "no answer within 0.2 s")


def test_a_body_without_end_is_not_waited_for(asking: Asking) -> None:
    cut = threading.Event()

    def script(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                client.sendall(b"x" * 4096)
        except OSError:
            cut.set()

    with Server(script) as server:
        asking.ask(kind="http", url=f"http://127.0.0.1:{server.port}/", timeout_s=0.5)
        assert asking.answer() == (True, "HTTP status 200")
        asking.turning.until(cut.is_set, "the probe hangs up")


def test_a_line_without_end_is_a_bad_answer(asking: Asking) -> None:
    with Server(says(b"HTTP/1.1 200 " + b"x" * 200_000)) as server:
        asking.ask(kind="http", url=f"http://127.0.0.1:{server.port}/")
        ok, _ = asking.answer()
        assert not ok


# ---- tcp ----


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_tcp_by_address_name_and_path(asking: Asking, tmp_path: Path) -> None:
    with Server(waits) as server:
        asking.ask(kind="tcp", address=f"127.0.0.1:{server.port}")
        assert asking.answer() == (True, "connected")
        asking.ask(kind="tcp", address=f"localhost:{server.port}")
        assert asking.answer() == (True, "connected")
    asking.ask(kind="tcp", address=f"127.0.0.1:{server.port}")
    assert asking.answer() == (False, "Connection refused")
    asking.ask(kind="tcp", address=str(tmp_path / "sock"))
    assert asking.answer() == (False, "No such file or directory")
    with Server(waits, str(tmp_path / "sock")):
        asking.ask(kind="tcp", address=str(tmp_path / "sock"))
        assert asking.answer() == (True, "connected")
    asking.ask(kind="tcp", address="/" + "x" * 200)
    assert asking.answer()[0] is False


def test_a_port_that_takes_no_more_times_out(asking: Asking) -> None:
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for guest in (first, second):  # the queue of unaccepted connections is full
            guest.setblocking(False)
            guest.connect_ex(listener.getsockname())
        asking.ask(kind="tcp", address=f"127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.3)
        assert asking.answer() == (False, "no answer within 0.3 s")


def test_a_connection_to_itself_is_nobody(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernel picks the port of a connection at random; here it picks the one that is asked for.
    port = free_port()

    async def unlucky(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.1", port))

    monkeypatch.setattr(probes_module, "_open", unlucky)
    asking.ask(kind="tcp", address=f"127.0.0.1:{port}")
    assert asking.answer() == (False, "nobody listens there")


# ---- exec ----


def test_exec_answers(asking: Asking, tmp_path: Path) -> None:
    asking.ask(kind="exec", command=("/bin/sh", "-c", "echo $WORD in $PWD"), cwd=str(tmp_path))
    assert asking.answer() == (True, f"bird in {tmp_path}")
    asking.ask(kind="exec", command=("/bin/sh", "-c", "echo sick; exit 2"))
    assert asking.answer() == (False, "exit status 2: sick")
    asking.ask(kind="exec", command=("/nowhere",))
    assert asking.answer() == (False, "cannot start /nowhere: No such file or directory")


def test_a_late_exec_is_ended_with_its_children(asking: Asking, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = (
        f"import os, time; os.fork(); open({str(pids)!r}, 'a').write(f'{{os.getpid()}} '); time.sleep(60)"
    )
    asking.ask(kind="exec", command=(sys.executable, "-c", script), timeout_s=3.0)
    assert asking.answer() == (False, "not finished after 3 s")
    found = [int(pid) for pid in pids.read_text().split()]
    assert len(found) == 2
    assert not any(alive(pid) for pid in found)


# ---- log ----


def test_a_line_after_the_mark(asking: Asking) -> None:
    asking.put("ready from before\nhalf a li")
    inode, offset = asking.probes.mark("u")
    assert (inode, offset) == (asking.log_path("u").stat().st_ino, 27)
    assert asking.seen("ready") == (False, "no line matches")
    asking.put("almost rea")
    assert asking.seen("ready")[0] is False
    asking.put("dy, port 80\r\n")
    assert asking.seen(r"^almost ready, port \d+$") == (True, "almost ready, port 80")
    assert asking.seen("ready") == (True, "almost ready, port 80")
    # Found once is found, until the next start.
    asking.put("more\n")
    assert asking.seen("ready")[0] is True
    asking.probes.mark("u")
    assert asking.seen("ready")[0] is False


def test_only_whole_lines_count(asking: Asking) -> None:
    asking.probes.mark("u")
    asking.put("up")
    assert asking.seen("up$")[0] is False
    asking.put(" the garden path\n")
    assert asking.seen("up$")[0] is False


def test_no_log_yet(asking: Asking) -> None:
    assert asking.probes.mark("u") == (0, 0)
    assert asking.seen("go") == (False, "no line matches")
    asking.put("go\n")
    assert asking.seen("go") == (True, "go")


def test_a_log_that_was_rotated(asking: Asking) -> None:
    path = asking.log_path("u")
    asking.put("x" * 100 + "\n")
    asking.probes.mark("u")
    asking.put("one\nrea")
    assert asking.seen("ready")[0] is False
    asking.put("dy in the old file\n")
    path.rename(f"{path}.1")
    assert asking.seen("old file")[0] is True  # no file of that name just now: the rest is read all the same
    asking.put("new file\n")
    assert asking.seen("ready in the old") == (True, "ready in the old file")
    assert asking.seen("new") == (True, "new file")
    path.rename(f"{path}.2")
    path.touch()
    assert asking.seen("third")[0] is False
    asking.put("third\n")
    assert asking.seen("third")[0] is True


def test_a_mark_of_a_former_daemon(asking: Asking) -> None:
    asking.put("ready of an earlier life\n")
    mark = asking.probes.mark("u")
    asking.put("ready\n")
    asking.probes.mark("u")
    assert asking.seen("ready")[0] is False
    assert asking.probes.mark("u", mark) == mark
    assert asking.seen("ready") == (True, "ready")
    # Without any mark the file that is there counts.
    asking.put("here\n", "other")
    assert asking.seen("here", "other") == (True, "here")


def test_a_hostile_log(asking: Asking) -> None:
    asking.probes.mark("u")
    asking.put(b"\xff\xfe\0" + gzip.compress(os.urandom(200_000)) + b"y" * 300_000)
    assert asking.seen("ready")[0] is False
    asking.put(b"\n\xffready\xff\n")
    assert asking.seen("ready") == (True, "\N{REPLACEMENT CHARACTER}ready\N{REPLACEMENT CHARACTER}")


def test_a_long_log_is_read_in_turns(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes_module, "MAX_SCAN_BYTES", 1 << 19)
    asking.probes.mark("u")
    asking.put(b"noise\n" * 200_000 + b"ready\n")
    assert asking.seen("ready")[0] is False
    assert asking.seen("ready")[0] is False
    assert asking.seen("ready")[0] is True


def test_a_log_that_cannot_be_read(asking: Asking) -> None:
    asking.log_path("u").mkdir()
    ok, detail = asking.seen("ready")
    assert not ok and "cannot be read" in detail


def test_a_worker_that_is_late(asking: Asking) -> None:
    asking.probes.mark("u")
    asking.put("ready\n")
    asking.free.clear()
    asking.ask(kind="log", pattern="ready", timeout_s=0.2)
    assert asking.answer() == (False, "the log was not read within 0.2 s")
    asking.ask(kind="log", pattern="ready")
    asking.ask(kind="log", pattern="ready")
    asking.free.set()
    asking.turning.until(lambda: len(asking.heard) == 2, "two answers")
    assert [event.ok for event in asking.heard] == [True, True]
    asking.heard.clear()


# ---- all ----


def test_an_answer_names_its_question(asking: Asking) -> None:
    asking.ask("some-unit", 7, kind="exec", command=("/bin/true",))
    asking.turning.until(lambda: asking.heard, "an answer")
    assert asking.heard == [ev.ProbeAnswered("some-unit", 7, "ready", True, "")]
    asking.heard.clear()


def test_nothing_is_heard_of_a_forgotten_unit(asking: Asking, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with Server(waits) as server:
        asking.free.clear()
        for unit in ("gone", "kept"):
            asking.put("ready\n", unit)
            asking.ask(unit, kind="http", url=f"http://127.0.0.1:{server.port}/", timeout_s=0.5)
            asking.ask(unit, kind="log", pattern="ready")
        asking.ask("gone", kind="exec", command=("/bin/sh", "-c", f"echo $$ > {pid}; exec sleep 1000"))
        asking.turning.until(lambda: pid.exists() and pid.read_text(), "the command runs")
        asking.probes.forget("gone")
        asking.probes.forget("gone")
        asking.probes.forget("never heard of")
        asking.free.set()
        asking.turning.until(lambda: len(asking.heard) == 2, "the answers of the other unit")
        asking.turning.until(lambda: not alive(int(pid.read_text())), "the command is ended")
    assert {event.unit for event in asking.heard} == {"kept"}
    asking.heard.clear()
    asking.ask("gone", 2, kind="log", pattern="ready")
    assert asking.answer() == (True, "ready")


def test_a_unit_that_tells_is_not_asked(asking: Asking) -> None:
    with pytest.raises(ValueError, match="the unit tells by itself"):
        asking.ask(kind="told")


def test_many_questions_at_once(asking: Asking) -> None:
    dead = free_port()
    with Server(says(b"HTTP/1.1 200 OK\r\n\r\n")) as server:
        for n in range(50):
            asking.ask(f"a{n}", kind="http", url=f"http://127.0.0.1:{server.port}/", timeout_s=10.0)
            asking.ask(f"b{n}", kind="tcp", address=f"127.0.0.1:{dead}")
        asking.turning.until(lambda: len(asking.heard) == 100, "every answer")
    assert all(event.ok == event.unit.startswith("a") for event in asking.heard)
    asking.heard.clear()
