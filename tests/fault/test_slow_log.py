"""The daemon's own log goes to a pipe that nobody reads: nobody waits for it, and it says what it lost."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess

import pytest

from mgmt.protocol import frames
from mgmt.settings import LoggingSettings
from mgmt.shell import logging as daemon_log
from tests.system.clients import eventually
from tests.system.daemon import Start, config, model, shipped

PIPE_BYTES = 4096


def test_a_daemon_whose_log_nobody_reads_serves_and_ends(start: Start) -> None:
    backend = {**shipped("echo"), "command": ["/no/such/program"]}
    daemon = start(config({"t": backend}, [model("m", "t")]), run=False)
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    daemon.process = subprocess.Popen(
        daemon._command(False), env=daemon.environ, cwd=daemon.cwd, stdout=writer, stderr=writer
    )
    os.close(writer)
    client = daemon.native(hello=False)
    client.session = client.reply(client.ask("hello", versions=[frames.VERSION], name="fixture")).body[
        "session"
    ]
    said = 0
    while said < 4 * PIPE_BYTES:
        body = client.reply(client.ask("load-model", model="m")).body
        assert body["code"] == "start-failed"
        said += len(body["text"])
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait() == 0
    with open(reader, "rb") as file:
        assert b"ready: pid" in file.read()


def test_lost_lines_are_counted_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    monkeypatch.setattr(daemon_log, "STDERR", writer)
    monkeypatch.setattr(daemon_log, "MAX_LINES", 3)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    daemon_log.set_up(LoggingSettings(style="json"), None)
    (handler,) = root.handlers
    assert isinstance(handler, daemon_log.Writer)
    eventually(handler._lines.empty, what="the thread waits")
    root.info("%s", "x" * 2 * PIPE_BYTES)
    eventually(handler._lines.empty, what="the thread hangs in the write")
    for number in range(5):
        root.info("line %d", number)
    with open(reader, "rb") as file:
        lines = [file.readline() for _ in range(5)]
        handler.close()
        os.close(writer)
        assert file.read() == b""
    assert b"2 lines of this log were dropped" in lines[1]
    assert [b"line %d" % number in line for number, line in enumerate(lines[2:])] == [True] * 3
