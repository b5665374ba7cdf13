"""The operators' commands against the real daemon, through its crashes: nothing is missed, nothing is lost."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import termios
from collections.abc import Callable
from typing import IO, Any

import jsonschema

from mgmt_cli.schemas import schema_of
from tests.system.place import BOUND_S, Place, until

SLEEP = ["/bin/sleep", "infinity"]


def in_json(place: Place, *args: str) -> dict[str, Any]:
    """The one value that a command prints with --json, checked against its schema."""
    done = place.mgmt(*args, "--json")
    value: dict[str, Any] = json.loads(done.stdout)
    jsonschema.validate(value, schema_of(value["schema"]))
    return value


class Follower:
    """A command that follows; its lines are collected by whoever asks."""

    def __init__(self, place: Place, *args: str) -> None:
        self.process = place.popen(*args)
        assert self.process.stdout is not None
        self._out: IO[str] = self.process.stdout
        os.set_blocking(self._out.fileno(), False)
        self._rest = ""
        self.lines: list[str] = []

    def until(self, enough: Callable[[list[str]], object]) -> list[str]:
        """The lines so far, as soon as they are enough."""

        def read() -> object:
            try:
                data = os.read(self._out.fileno(), 1 << 16)
            except BlockingIOError:
                data = b""
            *complete, self._rest = (self._rest + data.decode()).split("\n")
            self.lines += complete
            assert self.process.poll() is None, self.process.communicate()
            return enough(self.lines)

        until(read, f"enough of {self.lines[-3:]}")
        return self.lines

    def end(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=BOUND_S)
        assert self.process.returncode == 130


def test_a_day_with_units(place: Place) -> None:
    """Every operator's command against the real daemon."""
    units: dict[str, Any] = {
        "db": {"command": SLEEP, "autostart": True},
        "web": {"command": SLEEP, "requires": ["db"]},
        "job": {"command": ["/bin/echo", "done"], "oneshot": True},
        "bad": {"command": ["/no/such"], "restart": {"policy": "no"}},
    }
    place.configure(units=units)
    place.started()
    assert place.mgmt("wait", "db").returncode == 0
    assert (
        place.mgmt("start", "web", "db").stdout == "web: started (RUNNING)\ndb: already running (RUNNING)\n"
    )
    assert place.mgmt("start", "job").stdout == "job: started (EXITED)\n"
    bad = place.mgmt("start", "bad")
    assert (bad.returncode, "No such file" in bad.stderr) == (1, True)
    assert place.mgmt("reset-failed").stdout.splitlines() == [
        "bad: failures forgotten (STOPPED)",
        "job: failures forgotten (STOPPED)",
    ]
    pid = in_json(place, "status", "web")["units"][0]["pid"]
    assert place.mgmt("restart", "w*").stdout == "web: restarted (RUNNING)\n"
    assert in_json(place, "status", "web")["units"][0]["pid"] != pid

    explained = place.mgmt("explain", "web").stdout
    assert explained.startswith("web: RUNNING: ")
    assert "it needs db (ready)" in explained
    assert in_json(place, "explain", "web")["units"][0]["unit"] == "web"
    assert "it needs db (ready)" in place.mgmt("status", "web").stdout
    assert set(in_json(place, "dump")["state"]["units"]) == set(units)
    assert "4 units" in place.mgmt("top", "--once").stdout
    assert {unit["unit"] for unit in in_json(place, "top", "--once")["units"]} == set(units)

    # plan and apply
    assert place.mgmt("plan").returncode == 0
    keep = in_json(place, "status", "db")["units"][0]["pid"]
    units["web"]["env"] = {"COLOR": "blue"}
    units["new"] = {"command": SLEEP, "autostart": True}
    place.configure(units=units)
    planned = place.mgmt("plan")
    assert planned.returncode == 1, planned.stderr
    rows = {line.split()[0]: line.split()[1] for line in planned.stdout.splitlines()[1:]}
    assert rows == {"db": "keep", "new": "start", "web": "restart"}
    assert "changed: env" in planned.stdout
    assert place.mgmt("plan", "config.json").stdout == planned.stdout
    applied = in_json(place, "apply")
    assert ({row["unit"]: row["action"] for row in applied["actions"]}, applied["failed"]) == (rows, [])
    assert place.mgmt("is-ready", "new").returncode == place.mgmt("is-ready", "web").returncode == 0
    assert in_json(place, "status", "db")["units"][0]["pid"] == keep
    assert place.mgmt("plan").returncode == 0
    place.config.write_text(json.dumps({"units": {"x": {}, "y": {"command": 3}}}))
    for command, exit in (("plan", 255), ("apply", 2)):
        refused = place.mgmt(command, "config.json")
        assert refused.returncode == exit
        assert "units.x" in refused.stderr
        assert "units.y" in refused.stderr

    # The order of a stop is that of the needs: web goes with db.
    said = "db: stopped (STOPPED)\nweb: stopped along with what it requires\n"
    assert place.mgmt("stop", "db").stdout == said
    assert place.mgmt("is-active", "web").returncode == 3
    assert place.mgmt("stop", "db").stdout == "db: already stopped (STOPPED)\n"
    busy = place.mgmt("store", "check")
    assert (busy.returncode, "another daemon" in busy.stderr) == (8, True)
    assert place.mgmt("stop-service").returncode == 0
    assert " is sound: " in place.mgmt("store", "check").stdout


def test_events_have_no_gap_across_a_crash_of_the_daemon(place: Place) -> None:
    place.configure(units={"a": {"command": SLEEP}, "b": {"command": SLEEP}})
    place.started()
    assert place.mgmt("start", "a").returncode == 0
    follower = Follower(place, "events", "--since", "0", "--follow", "--json")
    follower.until(lambda lines: any('"RUNNING"' in line for line in lines[1:]))
    for turn in range(2):
        place.kill_daemon()
        place.started()
        assert place.mgmt("start" if turn == 0 else "stop", "b").returncode == 0
    wanted = ("b", "STOPPED")

    def enough(lines: list[str]) -> bool:
        events = [json.loads(line) for line in lines]
        return any((event.get("unit"), event.get("state")) == wanted for event in events)

    values = [json.loads(line) for line in follower.until(enough)]
    follower.end()
    for value in values:
        jsonschema.validate(value, schema_of(value["schema"]))
    assert [value["schema"] for value in values].count("mgmt.snapshot/1") == 1
    numbers = [value["seq"] for value in values if value["schema"] == "mgmt.event/1"]
    assert numbers == list(range(1, len(numbers) + 1))
    past = [json.loads(line)["seq"] for line in place.mgmt("events", "--json").stdout.splitlines()]
    assert past[: len(numbers)] == numbers


def test_a_log_is_followed_across_rotation_compression_and_a_crash(place: Place) -> None:
    count = 'for i in $(seq 6000); do echo "$i some more text to fill the file sooner"; sleep 0.01; done'
    unit = {"command": ["/bin/sh", "-c", count], "log_max_bytes": 4096, "log_keep": 50, "log_compress": True}
    place.configure(
        units={"a": unit, "b": {"command": ["/bin/sh", "-c", f"echo hello; exec {' '.join(SLEEP)}"]}}
    )
    place.started()
    assert place.mgmt("start", "a", "b").returncode == 0
    follower = Follower(place, "logs", "-f", "--since", "1h", "a", "b")
    logs = place.folder / "state" / "logs"
    numbers: list[int] = []

    def counted(lines: list[str]) -> int:
        numbers[:] = [int(line.split()[1]) for line in lines if line.startswith("[a] ")]
        return len(numbers)

    follower.until(lambda lines: counted(lines) > 150)
    place.kill_daemon()
    before = len(numbers)
    until(lambda: sum(path.suffix != ".gz" for path in logs.glob("a.log.*")) > 1, "a turn without a daemon")
    place.started()
    follower.until(lambda lines: counted(lines) > before + 200 and list(logs.glob("a.log.*.gz")))
    assert numbers == list(range(1, len(numbers) + 1))
    assert "[b] hello" in follower.lines
    follower.end()
    assert place.mgmt("logs", "-n", "3", "b").stdout == "hello\n"


def test_a_log_is_turned_over_at_its_age(place: Place) -> None:
    talk = ["/bin/sh", "-c", "for i in $(seq 300); do echo tick; sleep 0.2; done"]
    place.configure(units={"a": {"command": talk, "log_max_age_s": 1.0, "autostart": True}})
    place.started()
    old = place.folder / "state" / "logs" / "a.log.1"
    until(old.exists, "the log is turned over")
    assert old.read_text().startswith("tick\n")
    until(lambda: "tick" in old.with_name("a.log").read_text(), "it goes on in the new file")


def test_top_draws_until_q_and_leaves_the_terminal_as_it_was(place: Place) -> None:
    place.configure(units={"a": {"command": SLEEP, "autostart": True}})
    place.started()
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    process = place.popen("top", "--interval", "200ms", stdin=theirs, stdout=theirs, stderr=theirs)
    drawn = b""

    def draw_until(word: bytes) -> None:
        nonlocal drawn
        while word not in drawn:
            assert select.select([ours], [], [], BOUND_S)[0], drawn
            drawn += os.read(ours, 4096)

    try:
        draw_until(b"1 units (1 ")
        drawn = b""
        place.kill_daemon()
        draw_until(b"error: ")
        place.started()
        drawn = b""
        draw_until(b"1 units (1 ")
        os.write(ours, b"q")
        assert process.wait(BOUND_S) == 0
        draw_until(b"\033[?25h")
        assert termios.tcgetattr(theirs) == before
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)


def test_ctrl_c_ends_the_waiting_and_not_the_start(place: Place) -> None:
    never = {"startup": {"kind": "exec", "command": ["/bin/false"], "period_s": 0.2}}
    place.configure(units={"slow": {"command": SLEEP, "probes": never}})
    place.started()
    process = place.popen("start", "slow")
    until(lambda: place.mgmt("is-active", "slow").returncode == 0, "it is being started")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=BOUND_S)
    assert (process.returncode, said.splitlines()[0]) == (
        130,
        "the start goes on: mgmt status shows how far it is",
    )
    assert place.mgmt("is-active", "slow").stdout == "STARTING\n"


def test_status_shows_what_was_never_started_when_asked(place: Place) -> None:
    backend = {"kind": "native", "command": ["{python}", "-m", "mgmt_backends.echo"]}
    model = {"name": "echo", "type": "echo", "replicas": 2}
    place.configure(model_backends={"echo": backend}, supported_models=[model])
    place.started()
    assert place.mgmt("status", "-o", "name").stdout == ""
    assert place.mgmt("status", "--all", "-o", "name").stdout == "echo.0\necho.1\n"
