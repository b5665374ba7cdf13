"""Units that log their own life, and a storm of commands and crashes over them that a killed daemon interrupts.

What really happened is written by the units themselves: each start appends `UNIT INCARNATION PID` to one file,
and holds a lock that its whole tree inherits, so that a second living tree of a unit is a fault on record.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import zmq

from mgmt.protocol import frames
from tests.system.clients import PATIENCE_S, eventually
from tests.system.daemon import Daemon, alive, config, shipped

EXIT_CODE = 7  # of a unit that was sent SIGUSR1
LOGGING_UNIT = f"""#!/bin/sh
exec 9>"$1/$MGMT_UNIT.lock"
flock -n 9 || echo "double $MGMT_UNIT $MGMT_INCARNATION $$" >>"$1/faults"
trap 'exit 0' TERM
trap 'exit {EXIT_CODE}' USR1
trap 'echo "tick $MGMT_INCARNATION"' USR2
echo "up $MGMT_INCARNATION $$"
echo "$MGMT_UNIT $MGMT_INCARNATION $$" >>"$1/starts"
sleep 1000 &
while kill -0 $! 2>/dev/null; do wait $!; done
"""
AT_REST = ("STOPPED", "EXITED", "FATAL")


def logging_unit(folder: Path, **keys: Any) -> dict[str, Any]:
    """A plain unit that runs LOGGING_UNIT and is restarted at once whenever it fails."""
    path = folder / "unit.sh"
    if not path.exists():
        path.write_text(LOGGING_UNIT)
        path.chmod(0o755)
    restart = {"delay_s": 0.01, "delay_max_s": 0.01, "factor": 1.0, "limit": 1 << 20, "window_s": 1.0}
    return {"command": [str(path), str(folder)], "restart": restart, "grace_s": 5.0, **keys}


@dataclass(frozen=True)
class Started:
    """A line of the starts file."""

    unit: str
    incarnation: int
    pid: int


def starts(folder: Path) -> list[Started]:
    """Every start there was, in order."""
    path = folder / "starts"
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        unit, incarnation, pid = line.split()
        found.append(Started(unit, int(incarnation), int(pid)))
    return found


def processes(daemon: Daemon) -> dict[tuple[str, int], set[int]]:
    """The living processes that carry the name of a unit of this daemon, by unit and incarnation."""
    runtime = f"MGMT_RUNTIME_DIR={daemon.runtime}".encode()
    found: dict[tuple[str, int], set[int]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            environ = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if runtime in environ:
            values = dict(part.partition(b"=")[::2] for part in environ)
            if b"MGMT_UNIT" in values:
                key = values[b"MGMT_UNIT"].decode(), int(values[b"MGMT_INCARNATION"])
                found.setdefault(key, set()).add(int(entry))
    return found


def is_shim(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text() == "mgmt-shim\n"
    except OSError:
        return False


def by_unit(daemon: Daemon) -> dict[str, dict[str, Any]]:
    return {unit["unit"]: unit for unit in daemon.status()["units"]}


def astray(daemon: Daemon, units: dict[str, dict[str, Any]]) -> str:
    """What differs between the processes there are and the units that are up, one shim and one leader each."""
    up = {(name, unit["incarnation"]): unit["pid"] for name, unit in units.items() if unit["pid"] is not None}
    found = processes(daemon)
    if found.keys() != up.keys():
        return f"processes of {sorted(found)}, up are {sorted(up)}"
    for key, pids in found.items():
        if up[key] not in pids or sum(is_shim(pid) for pid in pids) != 1:
            return f"{key}: processes {pids}, its leader is {up[key]}"
    folders = {path.name for path in (daemon.runtime / "units").iterdir()}
    missing = {f"{name}.{incarnation}" for name, incarnation in up} ^ folders
    return f"folders of runs: {sorted(missing)} are missing or too many" if missing else ""


def assert_no_double(folder: Path) -> None:
    """No incarnation was started twice, and no two trees of one unit ever lived at the same time."""
    faults = folder / "faults"
    assert not faults.exists(), faults.read_text()
    counts = Counter((start.unit, start.incarnation) for start in starts(folder))
    assert not [key for key, count in counts.items() if count > 1]


def log_lines(daemon: Daemon, unit: str, word: str) -> list[list[str]]:
    path = daemon.unit_log(unit)
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.split()[1:] for line in lines if line.startswith(f"{word} ")]


@dataclass
class Storm:
    """Rounds of commands and crashes; each ends with SIGKILL of the daemon, and a next one that is checked."""

    daemon: Daemon
    random: random.Random
    names: list[str]
    may_be: dict[str, set[str]] = field(default_factory=dict)  # by unit: up, down, or either
    points: int = 0
    adoptions: int = 0
    lived: int = 0
    ended_meanwhile: int = 0

    @property
    def folder(self) -> Path:
        return self.daemon.folder

    def configuration(self) -> dict[str, Any]:
        return config(
            {"echo": shipped("echo")}, units={name: logging_unit(self.folder) for name in self.names}
        )

    def begin(self) -> None:
        daemon = self.daemon
        daemon.configure(self.configuration())
        daemon.start()
        daemon.control.ok("load-model", model="echo")
        daemon.control.ok("start", targets=self.names)
        self.may_be = {name: {"up"} for name in self.names}
        self.settle()

    def round(self) -> None:
        """Some commands and crashes, SIGKILL at any moment, something may end meanwhile, the next daemon."""
        draw = self.random
        self.points += 1
        before = by_unit(self.daemon)
        quiet = set(draw.sample(self.names, 2))
        touched = [name for name in self.names if name not in quiet]
        sent = [self._disturb(draw.choice(touched)) for _ in range(draw.randint(1, 12))]
        time.sleep(draw.choice([0, draw.uniform(0, 0.003), draw.uniform(0, 0.04)]))
        control = self.daemon.control
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait()
        self._learn(control, sent)
        self.daemon.crash()
        ended = self._meanwhile(before, quiet)
        ticks = self._tick(before, quiet - ended.keys())
        if draw.random() < 0.2:  # the next one dies while it takes over
            self.points += 1
            self.daemon.launch()
            time.sleep(draw.uniform(0, 0.3))
            self.daemon.crash()
        self.daemon.start()
        after = self.settle()
        self._check_quiet(before, after, quiet, ended, ticks)
        self._check_model(before, after)

    # ---- what is done ----

    def _disturb(self, name: str) -> tuple[int, str, str]:
        """One command, or one crash; (request id or 0, unit, up or down)."""
        draw, control = self.random, self.daemon.control
        what = draw.choice(["start", "start", "stop", "stop", "restart", "restart", "exit", "kill"])
        if draw.random() < 0.5:
            time.sleep(draw.uniform(0, 0.004))
        if what in ("exit", "kill"):
            last = next((start for start in reversed(starts(self.folder)) if start.unit == name), None)
            if last is not None and (name, last.incarnation) in processes(self.daemon):
                send(last.pid, signal.SIGUSR1 if what == "exit" else signal.SIGKILL)
            return 0, name, ""
        id = control.ask(what, targets=[name], wait=False)
        return id, name, "down" if what == "stop" else "up"

    def _learn(self, control: Any, sent: list[tuple[int, str, str]]) -> None:
        """What was acknowledged holds; what was not may hold."""
        acknowledged: dict[int, frames.Reply] = {}
        while control.socket.poll(20, zmq.POLLIN):
            reply = frames.decode(control.socket.recv_multipart())
            if isinstance(reply, frames.Reply):
                acknowledged[reply.id] = reply
        for id, name, wish in sent:
            if id in acknowledged:
                assert acknowledged[id].outcome == frames.Outcome.OK, acknowledged[id].body
                self.may_be[name] = {wish}
            elif id:
                self.may_be[name] = self.may_be[name] | {wish}

    def _meanwhile(self, before: dict[str, Any], quiet: set[str]) -> dict[str, int]:
        """Without a daemon: one quiet unit may end; by name its exit code, or its signal as a negative."""
        name = self.random.choice(sorted(quiet))
        how = self.random.choice([0, signal.SIGUSR1, signal.SIGKILL])
        if not how or before[name]["pid"] is None:
            return {}
        pid = before[name]["pid"]
        send(pid, how)
        if self.random.random() < 0.7:
            eventually(lambda: not alive(pid), what=f"{name} (pid {pid}) ends")
        self.ended_meanwhile += 1
        return {name: EXIT_CODE if how == signal.SIGUSR1 else -how}

    def _tick(self, before: dict[str, Any], names: set[str]) -> dict[str, int]:
        """Units say something while nobody listens; the number of lines that their logs must have."""
        ticks = {}
        for name in names:
            if before[name]["pid"] is not None:
                ticks[name] = len(log_lines(self.daemon, name, "tick")) + 1
                os.kill(before[name]["pid"], signal.SIGUSR2)
        return ticks

    # ---- what must be true ----

    def settle(self) -> dict[str, dict[str, Any]]:
        """The units once each is where it may be; nothing is doubled, lost or astray."""
        end = time.monotonic() + PATIENCE_S
        while True:
            units = by_unit(self.daemon)
            wrong = self._unsettled(units) or astray(self.daemon, units)
            if not wrong:
                break
            assert time.monotonic() < end, f"point {self.points}: {wrong}\n{self.daemon.log()[-6000:]}"
            time.sleep(0.005)
        for name in self.names:
            self.may_be[name] = {_where(units[name])}
        self._check_starts(units)
        return units

    def _unsettled(self, units: dict[str, dict[str, Any]]) -> str:
        for name, may_be in {**self.may_be, "echo": {"up"}}.items():
            if _where(units[name]) not in may_be:
                unit = units[name]
                return f"{name} is {unit['state']} ({unit['reason']}), not {may_be}"
        return ""

    def _check_starts(self, units: dict[str, dict[str, Any]]) -> None:
        def known() -> bool:
            latest = {start.unit: start for start in starts(self.folder)}
            return all(
                units[name]["pid"] is None
                or latest.get(name) == Started(name, units[name]["incarnation"], units[name]["pid"])
                for name in self.names
            )

        eventually(known, what="each unit that is up wrote its start")
        assert_no_double(self.folder)
        for name in self.names:
            begun = [(start.incarnation, start.pid) for start in starts(self.folder) if start.unit == name]
            # Said before the start was written: a shim may be about to read it, but it is not lost.
            eventually(partial(self._has_said, name, begun), what=f"the log of {name} has {begun}")
            assert [entry for entry in self._ups(name) if entry in begun] == begun, f"{name}: another order"

    def _has_said(self, name: str, begun: list[tuple[int, int]]) -> bool:
        return set(begun) <= set(self._ups(name))

    def _ups(self, name: str) -> list[tuple[int, int]]:
        return [(int(incarnation), int(pid)) for incarnation, pid in log_lines(self.daemon, name, "up")]

    def _check_quiet(
        self,
        before: dict[str, Any],
        after: dict[str, Any],
        quiet: set[str],
        ended: dict[str, int],
        ticks: dict[str, int],
    ) -> None:
        for name in sorted(quiet):
            was, now = before[name], after[name]
            if was["pid"] is None:
                assert (now["state"], now["incarnation"]) == (was["state"], was["incarnation"])
            elif name not in ended:
                same = ("pid", "incarnation", "restarts", "started_at", "last_exit", "endpoint")
                assert {key: now[key] for key in same} == {key: was[key] for key in same}, name
                self.lived += 1
            else:
                code, number = (ended[name], None) if ended[name] >= 0 else (None, -ended[name])
                assert (now["last_exit"]["code"], now["last_exit"]["signal"]) == (code, number), (name, now)
                assert now["restarts"] == was["restarts"] + 1
                assert now["incarnation"] == was["incarnation"] + 1
        for name, count in ticks.items():
            what = f"{name} ticks {count} times in its log"
            eventually(partial(self._has_ticked, name, count), what=what)

    def _has_ticked(self, name: str, count: int) -> bool:
        return len(log_lines(self.daemon, name, "tick")) == count

    def _check_model(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        """The model's process lived through it, and answers."""
        assert after["echo"]["state"] == "RUNNING"
        assert (after["echo"]["pid"], after["echo"]["restarts"]) == (before["echo"]["pid"], 0)
        if self.random.random() < 0.3:
            data = self.daemon.data("echo")
            data.ask(1, b"still there")
            tag, payload = data.answer()
            assert (tag.kind, payload) == (frames.DataKind.RESULT, [b"still there"])


def _where(unit: dict[str, Any]) -> str:
    """`up` only once it is found: a daemon that has just started is still looking."""
    return "up" if unit["ready"] else "down" if unit["state"] in AT_REST else ""


def send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
