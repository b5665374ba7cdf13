"""P1: when a stop is answered, no process of the unit's tree exists, whatever its processes did to get away."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.fault.storm import is_shim, processes
from tests.system.clients import eventually
from tests.system.daemon import Daemon, Start, alive, config

# Every process of the tree inherits the lock: it can be had by others when the last one is gone, and not before.
TREE = """
import fcntl, os, signal, sys, time
mode, folder = sys.argv[1:]
unit = os.environ["MGMT_UNIT"]
lock = os.open(f"{folder}/{unit}.lock", os.O_RDWR | os.O_CREAT)
os.set_inheritable(lock, True)
fcntl.flock(lock, fcntl.LOCK_EX)

def deaf():
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)

def here():
    with open(f"{folder}/{unit}.pids", "a") as pids:
        pids.write(f"{os.getpid()}\\n")

def sleep():
    os.execve("/bin/sleep", ["sleep", "1000"], {})  # without environment: only its parents tell whose it is

def leave_groups():
    for line in open("/proc/self/cgroup").read().splitlines():
        for mount in open("/proc/mounts").read().splitlines():
            _, at, kind, options, *_ = mount.split()
            names = line.split(":")[1]
            if (kind == "cgroup2" and not names) or (kind == "cgroup" and names and names in options.split(",")):
                try:
                    open(f"{at}/cgroup.procs", "w").write(str(os.getpid()))
                except OSError:
                    pass

if mode == "deaf-leader":
    deaf()
elif os.fork() == 0:
    deaf()
    if mode == "double-fork" and os.fork():
        os._exit(0)
    if mode in ("new-session", "double-fork", "left-group"):
        os.setsid()
    if mode == "left-group":
        leave_groups()
    here()
    if mode == "fork-loop":
        os.setsid()
        end = time.monotonic() + 60  # should nobody end it: a test that was killed leaves no storm behind
        while time.monotonic() < end:
            if os.fork():
                os._exit(0)
        os._exit(0)
    if os.fork() == 0:
        os.setsid()
    sleep()
if mode == "fork-loop":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    here()
    while True:
        signal.pause()
here()
sleep()
"""
SHAPES = {
    "deaf-leader": 1,
    "deaf-child": 2,
    "double-fork": 2,
    "new-session": 2,
    "left-group": 2,
    "fork-loop": 2,
}
AT_ONCE = {"delay_s": 0.001, "delay_max_s": 0.001, "factor": 1.0, "limit": 1000}
HIDE = """
for at in $(awk -v kind="$1" '$3 ~ kind { print $2 }' /proc/mounts | tac); do umount -l "$at" || exit 1; done
shift
exec "$@"
"""


def wrapper(hidden: str) -> tuple[str, ...]:
    """Executes a program where the file systems whose type matches `hidden` are not mounted."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("needs root and unshare(1) to hide control groups from a daemon")
    return ("unshare", "--mount", "sh", "-c", HIDE, "sh", hidden)


def tracker(daemon: Daemon, unit: str) -> str:
    """How the present process of a unit is tracked: v2, v1, or none."""
    (folder,) = (daemon.runtime / "units").glob(f"{unit}.*")
    listed = folder / "cgroups"
    if not listed.exists():
        return "none"
    group = Path(listed.read_text().splitlines()[0])
    return "v2" if (group / "cgroup.events").exists() else "v1"


def has_ended(folder: Path, unit: str) -> bool:
    """Whether nobody has the lock of the unit's tree."""
    fd = os.open(folder / f"{unit}.lock", os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        assert error.errno == errno.EWOULDBLOCK
        return False
    finally:
        os.close(fd)
    return True


def settings(daemon: Daemon) -> dict[str, Any]:
    path = daemon.folder / "tree.py"
    path.write_text(TREE)
    units = {
        shape: {
            "command": [sys.executable, "-I", "-S", str(path), shape, str(daemon.folder)],
            "grace_s": 0.3,
            "restart": {"policy": "no"},
        }
        for shape in SHAPES
    }
    return config(units=units)


def in_place(daemon: Daemon, shape: str) -> bool:
    path = daemon.folder / f"{shape}.pids"
    return path.exists() and len(path.read_text().split()) >= SHAPES[shape]


@pytest.fixture
def daemon(start: Start, tracked: str) -> Daemon:
    daemon = start(run=False)
    if tracked != "v2":
        daemon.wrapper = wrapper("^cgroup2$" if tracked == "v1" else "^cgroup")
    daemon.configure(settings(daemon))
    daemon.start()
    daemon.control.ok("start", targets=list(SHAPES))
    for shape in SHAPES:
        eventually(partial(in_place, daemon, shape), what=f"{shape} is in place")
    if tracker(daemon, "deaf-child") != tracked:
        pytest.skip(f"no {tracked} hierarchy of control groups can be used here")
    return daemon


@pytest.mark.parametrize("adopted", [False, True], ids=["own", "adopted"])
@pytest.mark.parametrize("tracked", ["v2", "v1", "none"])
def test_nothing_of_a_tree_outlives_its_stop(daemon: Daemon, tracked: str, adopted: bool) -> None:
    if adopted:
        daemon.crash()
        daemon.start()
    leaders = {shape: daemon.reaches(shape, "RUNNING")["pid"] for shape in SHAPES}
    for shape, leader in leaders.items():
        assert not has_ended(daemon.folder, shape)
        stopped = daemon.control.ok("stop", targets=[shape])
        assert has_ended(daemon.folder, shape), shape  # at once, not some time later
        assert not alive(leader)
        assert stopped["states"] == {shape: "STOPPED"}


@pytest.mark.parametrize("tracked", ["v2", "v1", "none"])
def test_a_dead_leaders_tree_is_ended_too(daemon: Daemon, tracked: str) -> None:
    for shape in SHAPES:
        os.kill(daemon.unit(shape)["pid"], signal.SIGKILL)
    for shape in SHAPES:
        daemon.reaches(shape, "EXITED")
        eventually(partial(has_ended, daemon.folder, shape), what=f"nothing of {shape} is left")
        assert daemon.unit(shape)["last_exit"]["signal"] == signal.SIGKILL


@pytest.mark.parametrize("tracked", ["v2", "v1"])
def test_a_dead_shims_tree_is_ended_by_its_group(daemon: Daemon, tracked: str) -> None:
    """Without groups only the leader's own process group can be proven to be the unit's."""
    shapes = [shape for shape in SHAPES if shape != "left-group"]
    for pids in processes(daemon).values():
        for pid in filter(is_shim, pids):
            os.kill(pid, signal.SIGKILL)
    daemon.control.ok("stop", targets=shapes)
    for shape in shapes:
        daemon.reaches(shape, "STOPPED", "EXITED")
        assert has_ended(daemon.folder, shape), shape
    for pid in map(int, (daemon.folder / "left-group.pids").read_text().split()):
        if alive(pid):  # it is nobody's any more
            os.kill(pid, signal.SIGKILL)


def test_a_restart_never_waits_for_a_fork_loop(start: Start) -> None:
    """Its leader ends while nobody else can be seen: each of its processes lives too short for that."""
    daemon = start(run=False)
    loop = settings(daemon)["units"]["fork-loop"]
    daemon.configure(config(units={"fork-loop": {**loop, "restart": AT_ONCE}}))
    daemon.start()
    daemon.control.ok("start", targets=["fork-loop"])
    pids = daemon.folder / "fork-loop.pids"
    for incarnation in range(1, 21):
        unit = daemon.reaches("fork-loop", "RUNNING")
        assert unit["incarnation"] == incarnation
        eventually(partial(in_place, daemon, "fork-loop"))
        pids.unlink()
        os.kill(unit["pid"], signal.SIGKILL)
        eventually(partial(is_replaced, daemon, "fork-loop", incarnation))


def is_replaced(daemon: Daemon, name: str, incarnation: int) -> bool:
    return int(daemon.unit(name)["incarnation"]) > incarnation
