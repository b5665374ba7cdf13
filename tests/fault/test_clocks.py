"""Clocks that differ, and clocks that are set: the common start is one instant all the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.fault.test_staging import of, on_one_grid, run
from tests.system.agents import Join, a_daemon, agents, becomes, measured
from tests.system.clients import eventually
from tests.system.daemon import Start
from tests.system.test_schedule_tasks import PERIOD_US, client, jobs, start_of, submit

__all__ = ["client"]  # a fixture

HOUR_S = 3600
# Into a time namespace of its own whose monotonic clock is ahead, then the program, with the same pid.
_AHEAD = """
import ctypes, os, sys
libc, NEWTIME = ctypes.CDLL(None, use_errno=True), 0x80
def asked(result):
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
asked(libc.unshare(NEWTIME))
with open("/proc/self/timens_offsets", "w") as offsets:
    offsets.write(f"monotonic {sys.argv[1]} 0")
asked(libc.setns(os.open("/proc/self/ns/time_for_children", os.O_RDONLY), NEWTIME))
os.execvp(sys.argv[2], sys.argv[2:])
"""


def ahead(seconds: int) -> tuple[str, ...]:
    return sys.executable, "-c", _AHEAD, str(seconds)


@pytest.fixture
def join() -> Iterator[Join]:
    with agents() as make:
        yield make


def test_nodes_whose_clocks_differ_by_hours_start_within_the_reported_error(
    start: Start, client: str, join: Join
) -> None:
    tried = subprocess.run([*ahead(HOUR_S), "/bin/true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no time namespace can be had here: {tried.stderr.strip().splitlines()[-1]}")
    daemon = a_daemon(start)
    offsets_s = {"n1": HOUR_S, "n2": 5 * HOUR_S}
    nodes = {}
    for name, offset_s in offsets_s.items():
        nodes[name] = join(daemon, name, run=False)
        nodes[name].wrapper = ahead(offset_s)
        nodes[name].start()
        becomes(daemon, name, "ALIVE")
    for name, offset_s in offsets_s.items():
        told = measured(daemon, name)
        assert abs(told["clock_offset_ms"] + 1000 * offset_s) <= told["clock_error_ms"] + 0.001
    submit(daemon, of(client, "local", "n1", "n2"))
    said = re.search(r"on local, n1, n2: within ([0-9.]+) ms", start_of(daemon))
    assert said is not None
    starts = [jobs(daemon, "w.on-local", 3).t0_ns]
    for name, offset_s in offsets_s.items():
        starts.append(jobs(nodes[name], f"w.on-{name}", 3).t0_ns - offset_s * 10**9)
    assert max(starts) - min(starts) <= 1e6 * float(said[1]) + 1000, (starts, said[1])
    rows = daemon.control.ok("schedule-stat", records=True)["tasks"]
    found = {row["node"]: row["t0_ns"] + row["offset_ns"] for row in rows}
    assert max(found.values()) - min(found.values()) < 1e9, "in a picture they are beside one another"


def test_a_step_of_the_wall_clock_moves_no_grid(start: Start, client: str, join: Join) -> None:
    if os.environ.get("MGMT_TEST_CLOCK_STEP") != "1":
        pytest.skip("steps the clock of the machine: MGMT_TEST_CLOCK_STEP=1 allows it")
    daemon = a_daemon(start)
    first, second = join(daemon, "n1"), join(daemon, "n2")
    submit(daemon, of(client, "n1", "n2"))
    before = jobs(first, "w.on-n1", 3)
    step_s = 333.337
    time.clock_settime(time.CLOCK_REALTIME, time.time() + step_s)
    try:
        daemon.crash()
        daemon.start()
        second.crash()
        for path in (second.runtime / "rt").iterdir():
            path.unlink()
        os.kill(daemon.unit("w.on-n2")["pid"], 9)
        second.start()
        for name in ("n1", "n2"):
            becomes(daemon, name, "ALIVE")
        eventually(lambda: len(list((second.runtime / "rt").iterdir())) == 1)
        places = (first, "w.on-n1"), (second, "w.on-n2")
        run(*places, cycle_us=PERIOD_US)
        on_one_grid(daemon, *places, cycle_us=PERIOD_US)
        assert jobs(first, "w.on-n1", before.completed + 3).t0_ns == before.t0_ns
    finally:
        time.clock_settime(time.CLOCK_REALTIME, time.time() - step_s)
