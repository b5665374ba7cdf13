"""P10, P11: what a daemon holds does not grow, nothing dead stays, neither signals nor clocks are relied on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mgmt.protocol import frames
from tests.fault.storm import astray, by_unit, is_shim, logging_unit, processes, starts
from tests.system.clients import PATIENCE_S, eventually
from tests.system.daemon import Daemon, Start, config, shipped

HEARTBEATS = int(os.environ.get("MGMT_TEST_HEARTBEATS", "100000"))
RESTARTS = int(os.environ.get("MGMT_TEST_RESTARTS", "300"))
BURST = 500  # heartbeats on their way at one time
GROWTH_BYTES = 1 << 20
SLEEP = ["/bin/sleep", "1000"]
AT_ONCE = {"delay_s": 0.001, "delay_max_s": 0.001, "factor": 1.0, "limit": 1 << 20, "window_s": 1.0}
ZOMBIE_S = 1.0


def held(daemon: Daemon) -> tuple[int, int]:
    return daemon.descriptors(), daemon.threads()


# ---- P10 --------------------------------------------------------------------------------------------------


@pytest.mark.timeout(60 + HEARTBEATS // 2000)
def test_memory_is_flat_over_heartbeats(start: Start) -> None:
    daemon = start(config())
    client = daemon.native(RCVHWM=0, SNDHWM=0)
    beat = frames.encode_notice(client.session, "heartbeat", {})

    def beats(count: int) -> None:
        for _ in range(count // BURST):
            for _ in range(BURST):
                client.send(beat)
            for _ in range(BURST):
                client.receive()

    beats(max(BURST, HEARTBEATS // 10))  # what grows once, like the pools of the allocator
    before, memory = held(daemon), daemon.memory_bytes()
    beats(HEARTBEATS)
    growth = daemon.memory_bytes() - memory
    print(f"{HEARTBEATS} heartbeats: {growth} bytes more")
    assert growth < GROWTH_BYTES
    assert held(daemon) <= before


@pytest.mark.timeout(60 + RESTARTS // 20)
def test_restarts_leave_nothing_behind(start: Start) -> None:
    """Half of them by crashes, half by command; memory, descriptors, folders, control groups."""
    daemon = start(run=False)
    units = {name: {"command": SLEEP, "restart": AT_ONCE} for name in ("crashes", "told")}
    daemon.configure(config(units=units, limits={"max_event_history": 200}))
    daemon.start()
    daemon.control.ok("start", targets=["crashes", "told"])

    def crash(count: int) -> None:
        for _ in range(count):
            unit = daemon.unit("crashes")
            os.kill(unit["pid"], signal.SIGKILL)
            eventually(partial(up_again, daemon, "crashes", unit["incarnation"]))

    def tell(count: int) -> None:
        for _ in range(count):
            daemon.control.ok("restart", targets=["told"])

    def settled() -> tuple[int, int]:
        eventually(lambda: not astray(daemon, by_unit(daemon)), what="only the present runs are there")
        return held(daemon)

    crash(60)
    tell(60)
    before, memory = settled(), daemon.memory_bytes()
    crash(RESTARTS // 2)
    tell(RESTARTS // 2)
    eventually(lambda: settled() <= before, what=f"it holds no more than {before}")
    growth = daemon.memory_bytes() - memory
    print(f"{RESTARTS} restarts: {growth} bytes more")
    assert growth < GROWTH_BYTES
    assert daemon.unit("crashes")["restarts"] == 60 + RESTARTS // 2
    groups = [Path(path) for path in groups_of(daemon)]
    for parent in {group.parent for group in groups}:
        names = {path.name for path in parent.iterdir() if path.is_dir()}
        assert names == {group.name for group in groups if group.parent == parent}


def up_again(daemon: Daemon, name: str, was: int) -> bool:
    unit = daemon.unit(name)
    return bool(unit["incarnation"] > was and unit["state"] == "RUNNING")


def groups_of(daemon: Daemon) -> list[str]:
    listed = (daemon.runtime / "units").glob("*/cgroups")
    return [line for path in listed for line in path.read_text().splitlines()]


# ---- P11 --------------------------------------------------------------------------------------------------


class Zombies:
    """The longest time that each zombie among the children of some processes was seen."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.first_s: dict[int, float] = {}
        self.oldest_s = 0.0
        self.looks = 0

    def look(self) -> None:
        """Every zombie whose parent is the daemon or a shim of it."""
        now_s = time.monotonic()
        self.looks += 1
        parents = {self._daemon.pid}
        parents |= {pid for pids in processes(self._daemon).values() for pid in pids if is_shim(pid)}
        zombies = set()
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if fields[0] == "Z" and int(fields[1]) in parents:
                    zombies.add(int(entry))
        self.first_s = {pid: self.first_s.get(pid, now_s) for pid in zombies}
        self.oldest_s = max([self.oldest_s, *(now_s - first_s for first_s in self.first_s.values())])


@contextmanager
def watching(zombies: Zombies) -> Iterator[None]:
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            zombies.look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


BLOCKED = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize("blocked", [False, True], ids=["", "SIGCHLD blocked"])
def test_no_zombie_grows_old_and_no_child_signal_is_needed(start: Start, blocked: bool) -> None:
    """Crashes, orphans, hooks, failing starts and exec probes, with every child reaped by who is told of it."""
    daemon = start(run=False)
    if blocked:
        daemon.wrapper = (sys.executable, "-I", "-S", "-c", BLOCKED)
    orphans = ["/bin/sh", "-c", "for n in 1 2 3 4 5; do (setsid sleep 0.05 &) ; done; exec sleep 1000"]
    true = {"command": ["/bin/true"]}
    probe = {"kind": "exec", "command": ["/bin/true"], "period_s": 0.05}
    units: dict[str, Any] = {
        "orphans": {"command": orphans, "restart": AT_ONCE},
        "hooks": {"command": SLEEP, "restart": AT_ONCE, "hooks": {"pre_start": true, "post_start": true}},
        "probed": {"command": SLEEP, "probes": {"startup": probe, "ready": probe, "live": probe}},
        "missing": {"command": ["/nonexistent"]},
    }
    daemon.configure(config(units=units))
    daemon.start()
    if blocked:
        mask = int(Path(f"/proc/{daemon.pid}/status").read_text().partition("SigBlk:")[2].split()[0], 16)
        assert mask >> (signal.SIGCHLD - 1) & 1
    zombies = Zombies(daemon)
    with watching(zombies):
        daemon.control.ok("start", targets=["orphans", "hooks", "probed"])
        for _ in range(15):
            assert daemon.control.refused("start", targets=["missing"])["code"] == "start-failed"
            for name in ("orphans", "hooks"):
                was = daemon.reaches(name, "RUNNING")
                os.kill(was["pid"], signal.SIGKILL)
                eventually(partial(up_again, daemon, name, was["incarnation"]))
            daemon.control.ok("restart", targets=["probed"])
        looks = zombies.looks
        eventually(
            lambda: zombies.looks >= looks + 25, what="a second and more of looking after the last death"
        )
    print(f"oldest zombie: {zombies.oldest_s:.2f} s in {zombies.looks} looks")
    assert zombies.looks > 25
    assert zombies.oldest_s < ZOMBIE_S


FROZEN = """
import http.server, sys
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *words):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Page).serve_forever()
"""


@pytest.mark.parametrize("kind", ["http", "told"])
def test_a_frozen_process_is_killed_and_started_again(start: Start, free_port: int, kind: str) -> None:
    daemon = start(run=False)
    (daemon.folder / "page.py").write_text(FROZEN)
    probe: dict[str, Any] = {"kind": kind, "period_s": 0.3, "timeout_s": 0.3, "failure_threshold": 2}
    if kind == "http":
        probe["url"] = f"http://127.0.0.1:{free_port}/"
        startup = {**probe, "failure_threshold": 1000, "period_s": 0.02}
        command = ["{python}", "-S", str(daemon.folder / "page.py"), str(free_port)]
        unit = {"command": command, "restart": AT_ONCE, "probes": {"startup": startup, "live": probe}}
        settings = config(units={"m": unit})
    else:
        backend = shipped("echo", restart=AT_ONCE, probes={"live": probe})
        settings = config({"m": backend}, timing={"heartbeat_s": 0.1})
    daemon.configure(settings)
    daemon.start()
    daemon.control.ok("start", targets=["m"])
    before = daemon.reaches("m", "RUNNING")
    os.kill(before["pid"], signal.SIGSTOP)
    began_s = time.monotonic()
    eventually(lambda: daemon.unit("m")["incarnation"] == 2, what="the frozen one is replaced")
    assert time.monotonic() - began_s < 5
    after = daemon.reaches("m", "RUNNING")
    assert after["pid"] != before["pid"]
    assert after["last_exit"]["signal"] == signal.SIGKILL
    assert "live probe failed 2 times" in after["last_exit"]["reason"]
    assert after["restarts"] == 1


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ---- clocks -----------------------------------------------------------------------------------------------

# The wall clock of one program, moved by as many seconds as a file says.
STEPPED_CLOCK = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long offset_s(void)
{
    char b[32] = {0};
    int fd = open(getenv("CLOCK_OFFSET"), O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    if (read(fd, b, sizeof b - 1) < 0)
        b[0] = 0;
    close(fd);
    return atol(b);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)
        now->tv_sec += offset_s();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec t;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &t);
    now->tv_sec = t.tv_sec;
    now->tv_usec = t.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (at)
        *at = t.tv_sec;
    return t.tv_sec;
}
"""


@pytest.fixture(scope="module")
def stepped_clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clock")
    (folder / "clock.c").write_text(STEPPED_CLOCK)
    library = folder / "clock.so"
    done = subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(folder / "clock.c")],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"the stepped clock does not compile: {done.stderr}")
    return library


@pytest.mark.parametrize("step_s", [86_400 * 365, -86_400 * 365], ids=["forward", "backward"])
def test_a_step_of_the_clock_moves_no_timer(start: Start, stepped_clock: Path, step_s: int) -> None:
    """Back-off, graces, probes, sessions and deadlines go by the monotonic clock."""
    daemon = start(run=False)
    offset = daemon.folder / "offset"
    offset.write_text("0")
    daemon.environ |= {"LD_PRELOAD": str(stepped_clock), "CLOCK_OFFSET": str(offset)}
    slow = {"delay_s": 1.0, "delay_max_s": 1.0, "jitter": 0.0}
    probe = {"kind": "exec", "command": ["/bin/true"], "period_s": 0.1}
    units = {
        "backoff": logging_unit(daemon.folder, restart=slow),
        "deaf": {
            "command": ["/bin/sh", "-c", "trap '' TERM; echo deaf; sleep 1000 & wait; wait"],
            "grace_s": 3.0,
        },
        "probed": {"command": SLEEP, "probes": {"live": probe}},
    }
    daemon.configure(config(units=units))
    daemon.start()
    daemon.control.ok("start", targets=list(units))
    eventually(lambda: "deaf" in daemon.unit_log("deaf").read_text() and len(starts(daemon.folder)) == 1)
    before = by_unit(daemon)
    real_s = before["probed"]["started_at"]
    os.kill(before["backoff"]["pid"], signal.SIGKILL)
    daemon.reaches("backoff", "BACKOFF")
    stopping = daemon.native()
    began_s = time.monotonic()
    stop = stopping.ask("stop", targets=["deaf"])
    daemon.reaches("deaf", "STOPPING")
    offset.write_text(str(step_s))
    seen = daemon.reaches("deaf", "STOPPING")  # a step forward does not end the grace
    assert seen["pid"] == before["deaf"]["pid"]
    stopping.reply(stop)
    assert 2.95 < time.monotonic() - began_s < PATIENCE_S
    unit = daemon.reaches("backoff", "RUNNING")
    assert unit["started_at"] - real_s == pytest.approx(step_s, abs=60)  # the clock did step
    after = daemon.unit("probed")
    assert (after["pid"], after["restarts"]) == (before["probed"]["pid"], 0)
    assert after["uptime_s"] < 60
    assert daemon.status()["service"]["sessions"] == 2
    daemon.crash()
    daemon.start()
    assert daemon.unit("probed")["pid"] == before["probed"]["pid"]
    assert daemon.unit("probed")["uptime_s"] < 60
