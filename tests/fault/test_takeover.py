"""P2, P3: what the next daemon makes of units in each phase of their life, of lost shims and forged identities."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fault.storm import astray, by_unit, is_shim, logging_unit, processes, starts
from tests.fault.test_stop_is_empty import wrapper
from tests.system.clients import eventually
from tests.system.daemon import Daemon, Start, alive, config

SLEEP = ["/bin/sleep", "1000"]
NEVER = {"policy": "no"}


def shim_of(daemon: Daemon, unit: str) -> int:
    (pids,) = (pids for (name, _), pids in processes(daemon).items() if name == unit)
    (shim,) = (pid for pid in pids if is_shim(pid))
    return shim


def folder_of(daemon: Daemon, unit: str) -> Path:
    (folder,) = (daemon.runtime / "units").glob(f"{unit}.*")
    return folder


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is not the daemon's; signalled is dead."""
    process = subprocess.Popen(SLEEP, start_new_session=True)
    yield process
    assert process.poll() is None, "a process that is not the daemon's was signalled"
    process.kill()
    process.wait()


# ---- a daemon that is killed, by the phase its unit is in -------------------------------------------------


def test_a_stop_in_its_grace_goes_on(start: Start) -> None:
    daemon = start(run=False)
    deaf = ["/bin/sh", "-c", "trap '' TERM; echo deaf; sleep 1000 & wait; wait"]
    daemon.configure(config(units={"a": {"command": deaf, "grace_s": 0.5}}))
    daemon.start()
    daemon.control.ok("start", targets=["a"])
    pid = daemon.unit("a")["pid"]
    eventually(lambda: "deaf" in daemon.unit_log("a").read_text())
    assert daemon.control.ok("stop", targets=["a"], wait=False)["states"] == {"a": "STOPPING"}
    daemon.crash()
    daemon.start()
    assert daemon.unit("a")["state"] == "STOPPING"
    unit = daemon.reaches("a", "STOPPED")
    assert not alive(pid)
    assert unit["last_exit"]["signal"] == signal.SIGKILL
    assert "grace" in unit["last_exit"]["reason"] or "after SIGTERM" in unit["last_exit"]["reason"]
    eventually(lambda: not astray(daemon, by_unit(daemon)), what="only the present runs are there")


def test_a_pre_start_hook_is_run_again_and_never_beside_itself(start: Start) -> None:
    daemon = start(run=False)
    folder = daemon.folder
    hook = (
        f'exec 9>"{folder}/hook.lock"; flock -n 9 || echo double >>"{folder}/faults"; echo $$ >>"{folder}/hooks"; '
        f'for i in $(seq 3000); do [ -e "{folder}/go" ] && exit; sleep 0.02; done'
    )
    unit = logging_unit(folder, hooks={"pre_start": {"command": ["/bin/sh", "-c", hook]}})
    daemon.configure(config(units={"a": unit}))
    daemon.start()
    hooks = folder / "hooks"
    daemon.control.ok("start", targets=["a"], wait=False)
    eventually(lambda: hooks.exists() and len(hooks.read_text().split()) == 1)
    daemon.crash()
    daemon.start()
    eventually(lambda: len(hooks.read_text().split()) == 2, what="the hook runs again")
    first, second = (int(pid) for pid in hooks.read_text().split())
    assert not alive(first)
    assert alive(second)
    assert daemon.unit("a")["state"] == "STARTING"
    (folder / "go").touch()
    unit = daemon.reaches("a", "RUNNING")
    assert not (folder / "faults").exists()
    eventually(lambda: starts(folder), what="the program says that it runs")
    assert [(start.incarnation, start.pid) for start in starts(folder)] == [(1, unit["pid"])]
    eventually(lambda: not astray(daemon, by_unit(daemon)), what="only the present runs are there")


@pytest.mark.parametrize("which", ["post_start", "pre_stop", "post_stop"])
def test_no_hook_of_a_killed_daemon_runs_on(start: Start, which: str) -> None:
    daemon = start(run=False)
    # Not the shell alone: what it started, in its session.
    hook = {"command": ["/bin/sh", "-c", f"sleep 1000 & echo $$ $! >>{daemon.folder}/hooks; wait"]}
    daemon.configure(config(units={"a": logging_unit(daemon.folder, hooks={which: hook})}))
    daemon.start()
    daemon.control.ok("start", targets=["a"])
    if which != "post_start":
        daemon.control.ask("stop", targets=["a"], wait=False)
    hooks = daemon.folder / "hooks"
    eventually(lambda: hooks.exists() and len(hooks.read_text().split()) == 2)
    former = [int(pid) for pid in hooks.read_text().split()]
    pid = daemon.unit("a")["pid"]
    daemon.crash()
    eventually(lambda: not any(alive(pid) for pid in former), what="they end with their daemon")
    daemon.start()
    if which == "post_start":
        assert daemon.unit("a")["pid"] == pid, "its unit is left alone"
    elif which == "pre_stop":
        daemon.reaches("a", "STOPPED")


def test_a_unit_stopped_in_its_pre_start_hook_stays_down(start: Start) -> None:
    daemon = start(run=False)
    hook = {"command": ["/bin/sh", "-c", f"echo $$ >>{daemon.folder}/hooks; sleep 1000 & wait"]}
    daemon.configure(config(units={"a": logging_unit(daemon.folder, hooks={"pre_start": hook})}))
    daemon.start()
    daemon.control.ok("start", targets=["a"], wait=False)
    hooks = daemon.folder / "hooks"
    eventually(lambda: hooks.exists() and hooks.read_text())
    daemon.control.ask("stop", targets=["a"], wait=False)
    eventually(lambda: "STARTING -> STOPPING" in daemon.log())
    daemon.crash()
    daemon.start()
    daemon.reaches("a", "STOPPED")
    assert not starts(daemon.folder)
    eventually(lambda: not any(alive(int(pid)) for pid in hooks.read_text().split()))


def test_a_unit_in_backoff_is_started_when_its_time_comes(start: Start) -> None:
    daemon = start(run=False)
    restart = {"delay_s": 1.5, "delay_max_s": 1.5, "jitter": 0.0}
    daemon.configure(config(units={"a": logging_unit(daemon.folder, restart=restart)}))
    daemon.start()
    daemon.control.ok("start", targets=["a"])
    eventually(lambda: len(starts(daemon.folder)) == 1)
    os.kill(daemon.unit("a")["pid"], signal.SIGKILL)
    daemon.reaches("a", "BACKOFF")

    def due_s() -> tuple[float, float]:
        """When it is due, within the time that asking takes."""
        before_s = time.monotonic()
        unit = daemon.unit("a")
        left_s = unit["next_start_s"] if unit["state"] == "BACKOFF" else 0.0
        return before_s + left_s, time.monotonic() + left_s

    earliest_s, latest_s = due_s()
    daemon.crash()
    daemon.start()
    again = due_s()
    if daemon.unit("a")["state"] == "BACKOFF":
        assert again[0] <= latest_s + 0.1
        assert again[1] >= earliest_s - 0.1
    unit = daemon.reaches("a", "RUNNING")
    assert time.monotonic() >= earliest_s - 0.05
    assert (unit["restarts"], unit["incarnation"]) == (1, 2)
    assert unit["last_exit"]["signal"] == signal.SIGKILL
    eventually(lambda: len(starts(daemon.folder)) == 2)


@pytest.mark.parametrize("wait", [False, True])
def test_a_restart_in_backoff_is_a_start_now(start: Start, wait: bool) -> None:
    daemon = start(run=False)
    restart = {"delay_s": 60.0, "delay_max_s": 60.0}
    daemon.configure(config(units={"a": {"command": SLEEP, "restart": restart}}))
    daemon.start()
    daemon.control.ok("start", targets=["a"])
    os.kill(daemon.unit("a")["pid"], signal.SIGKILL)
    daemon.reaches("a", "BACKOFF")
    daemon.crash()
    daemon.start()
    assert daemon.unit("a")["state"] == "BACKOFF"
    daemon.control.ok("restart", targets=["a"], wait=wait)
    assert daemon.reaches("a", "RUNNING")["incarnation"] == 2


def test_a_stop_that_waits_for_a_dependant_goes_on(start: Start) -> None:
    daemon = start(run=False)
    deaf = ["/bin/sh", "-c", "trap '' TERM; echo deaf; sleep 1000 & wait; wait"]
    units = {
        "base": {"command": SLEEP},
        "user": {"command": deaf, "grace_s": 0.4, "requires": {"base": "started"}},
    }
    daemon.configure(config(units=units))
    daemon.start()
    daemon.control.ok("start", targets=["user"])
    eventually(lambda: "deaf" in daemon.unit_log("user").read_text())
    daemon.control.ok("stop", targets=["base"], wait=False)
    assert daemon.unit("base")["state"] == "RUNNING"  # until its dependant is gone
    daemon.crash()
    daemon.start()
    daemon.reaches("user", "STOPPED")
    daemon.reaches("base", "STOPPED")
    eventually(lambda: not astray(daemon, by_unit(daemon)), what="only the present runs are there")


# ---- shims ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [True, False], ids=["groups", "no groups"])
@pytest.mark.parametrize("daemon_lives", [True, False], ids=["daemon alive", "daemon dead"])
def test_a_unit_whose_shim_is_killed_is_ended_and_started_again_once(
    start: Start, daemon_lives: bool, groups: bool
) -> None:
    daemon = start(run=False)
    if not groups:
        daemon.wrapper = wrapper("^cgroup")
    daemon.configure(config(units={"a": logging_unit(daemon.folder), "b": logging_unit(daemon.folder)}))
    daemon.start()
    daemon.control.ok("start", targets=["a", "b"])
    before = by_unit(daemon)
    eventually(lambda: len(starts(daemon.folder)) == 2)
    shim = shim_of(daemon, "a")
    if not daemon_lives:
        daemon.crash()
    os.kill(shim, signal.SIGKILL)
    if not daemon_lives:
        daemon.start()

    def again() -> dict[str, Any] | None:
        units = by_unit(daemon)
        a = units["a"]
        return (
            units if a["state"] == "RUNNING" and a["incarnation"] == 2 and not astray(daemon, units) else None
        )

    after = eventually(again, what="a is up again, and nothing else")
    assert after is not None
    assert not alive(before["a"]["pid"])
    assert after["a"]["restarts"] == 1
    assert "shim" in after["a"]["last_exit"]["reason"]
    assert after["b"]["pid"] == before["b"]["pid"]
    eventually(lambda: len(starts(daemon.folder)) == 3)
    assert not (daemon.folder / "faults").exists()


def forged(daemon: Daemon, unit: str, **fields: object) -> None:
    """Change fields in the identity file of a unit's shim."""
    path = folder_of(daemon, unit) / "shim"
    known = dict(part.split("=", 1) for part in path.read_text().split())
    assert known.keys() >= fields.keys()
    path.write_text(" ".join(f"{key}={value}" for key, value in {**known, **fields}.items()) + "\n")


@pytest.mark.parametrize("what", ["shim and leader", "leader", "boot"])
def test_a_pid_used_again_is_never_signalled(
    start: Start, bystander: subprocess.Popen[bytes], what: str
) -> None:
    """The identity names a living stranger's pid; its start time, or the boot, is another's."""
    daemon = start(run=False)
    daemon.configure(config(units={"a": {"command": SLEEP, "restart": NEVER}}))
    daemon.start()
    daemon.control.ok("start", targets=["a"])
    leader, shim = daemon.unit("a")["pid"], shim_of(daemon, "a")
    daemon.crash()
    for pid in (shim, leader):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not alive(leader) and not alive(shim))
    start_ticks = Path(f"/proc/{bystander.pid}/stat").read_text().rpartition(")")[2].split()[19]
    if what == "shim and leader":
        forged(daemon, "a", shim=bystander.pid, pid=bystander.pid)
    elif what == "leader":
        forged(daemon, "a", pid=bystander.pid)
    else:
        ours = {"shim": bystander.pid, "start": start_ticks, "pid": bystander.pid, "pid_start": start_ticks}
        forged(daemon, "a", boot="00000000-0000-0000-0000-000000000000", **ours)
    daemon.start()
    unit = daemon.reaches("a", "EXITED")
    assert (unit["last_exit"]["code"], unit["last_exit"]["signal"]) == (None, None)  # nobody saw it
    daemon.control.ok("start", targets=["a"])
    daemon.control.ok("stop", targets=["a"])
    assert bystander.poll() is None


def test_a_shim_in_doubt_is_not_signalled_and_its_unit_not_doubled(start: Start) -> None:
    """The shim lives, but its start time is not the one on record: it is somebody else's, as far as is known."""
    daemon = start(run=False)
    daemon.wrapper = wrapper("^cgroup")
    daemon.configure(config(units={"a": {"command": SLEEP, "restart": NEVER}}))
    daemon.start()
    daemon.control.ok("start", targets=["a"])
    leader, shim = daemon.unit("a")["pid"], shim_of(daemon, "a")
    forged(daemon, "a", start=1, pid_start=1)
    daemon.crash()
    daemon.start()
    daemon.reaches("a", "EXITED")
    assert alive(leader)
    assert alive(shim)
    os.kill(shim, signal.SIGKILL)
    os.kill(leader, signal.SIGKILL)


# ---- leaving on purpose -----------------------------------------------------------------------------------


def test_a_hand_over_keeps_every_process(start: Start) -> None:
    daemon = start(run=False)
    daemon.configure(config(units={name: logging_unit(daemon.folder) for name in "abc"}))
    daemon.start()
    daemon.control.ok("start", targets=["a", "b"])
    before = by_unit(daemon)
    assert daemon.stop(signal.SIGUSR1) == 0
    assert all(alive(before[name]["pid"]) for name in "ab")
    daemon.start()
    after = by_unit(daemon)
    same = ("pid", "incarnation", "restarts", "state", "started_at")
    assert [[after[n][key] for key in same] for n in "abc"] == [
        [before[n][key] for key in same] for n in "abc"
    ]
    eventually(lambda: not astray(daemon, by_unit(daemon)), what="only the present runs are there")


def test_units_stopped_with_the_daemon_are_started_by_the_next(start: Start) -> None:
    daemon = start(run=False)
    daemon.configure(config(units={name: logging_unit(daemon.folder) for name in "abc"}))
    daemon.start()
    daemon.control.ok("start", targets=["a", "b", "c"])
    daemon.control.ok("stop", targets=["c"])
    before = by_unit(daemon)
    assert daemon.stop() == 0
    assert not processes(daemon)
    daemon.start()
    for name in "ab":
        unit = daemon.reaches(name, "RUNNING")
        assert unit["pid"] != before[name]["pid"]
        assert unit["incarnation"] == 2
    assert daemon.unit("c")["state"] == "STOPPED"
    assert not (daemon.folder / "faults").exists()


def test_a_hangup_applies_the_file_and_touches_only_what_changed(start: Start) -> None:
    daemon = start(run=False)
    units = {name: logging_unit(daemon.folder, autostart=True) for name in "abc"}
    daemon.configure(config(units=units))
    daemon.start()
    before = {name: daemon.reaches(name, "RUNNING") for name in "abc"}
    daemon.configure(
        config(units={"a": units["a"], "b": {**units["b"], "env": {"NEW": "1"}}, "d": units["a"]})
    )
    daemon.send_signal(signal.SIGHUP)
    eventually(lambda: "c" not in by_unit(daemon), what="c is gone")
    assert daemon.reaches("d", "RUNNING")["incarnation"] == 1
    b = eventually(
        lambda: (unit := daemon.unit("b"))["state"] == "RUNNING" and unit["incarnation"] == 2 and unit
    )
    assert b["pid"] != before["b"]["pid"]
    assert daemon.unit("a")["pid"] == before["a"]["pid"]
    assert not alive(before["c"]["pid"])
    daemon.config_path.write_text("{ not json")
    daemon.send_signal(signal.SIGHUP)
    eventually(lambda: "the configuration is not applied" in daemon.log())
    assert by_unit(daemon).keys() == {"a", "b", "d"}
    eventually(lambda: not astray(daemon, by_unit(daemon)), what="only the present runs are there")


def test_two_hundred_units_are_adopted(start: Start) -> None:
    daemon = start(run=False)
    names = [f"u{n:03}" for n in range(200)]
    daemon.configure(config(units={name: {"command": SLEEP} for name in names}))
    daemon.start()
    daemon.control.ok("start", targets=names)
    before = {name: unit["pid"] for name, unit in by_unit(daemon).items()}
    daemon.crash()
    began_s = time.monotonic()
    daemon.start()
    serving_s = time.monotonic() - began_s

    def adopted() -> bool:
        return daemon.log().count("RUNNING -> RUNNING: adopted") == len(names)

    eventually(adopted, what="all are adopted")
    took_s = time.monotonic() - began_s
    print(f"200 units: serving after {serving_s * 1000:.0f} ms, all adopted after {took_s * 1000:.0f} ms")
    assert {name: unit["pid"] for name, unit in by_unit(daemon).items()} == before
    assert took_s < 5
    daemon.control.ok("stop", targets=names)
    assert not processes(daemon)


def test_a_number_of_an_event_that_was_told_is_never_used_again(start: Start) -> None:
    daemon = start(run=False)
    names = [f"u{i}" for i in range(40)]
    daemon.configure(config(units={name: {"command": SLEEP} for name in names}))
    daemon.start()
    for verb in ("start", "stop") * 3:
        operator = daemon.native()
        operator.ask(verb, targets=names, wait=False)
        asked = operator.ask("status")  # in the same breath: what it reports is not written yet
        told = operator.reply(asked).body["service"]["seq"]
        crashed_at = time.time()
        daemon.crash()
        daemon.start()
        events = daemon.native().ok("subscribe", since=told - 1)["events"]
        assert events[0]["seq"] == told
        assert events[0]["at"] <= crashed_at, "the next daemon gave its number to another event"
