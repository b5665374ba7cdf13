"""P8 seen from the daemon: a damaged store is refused with its reason, recovered by a command, never reset."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys

import pytest

from tests.system.clients import eventually
from tests.system.daemon import Daemon, Start, config
from tests.system.suites import adds_up, create, ended, sh, status, submit

SLEEP = ["/bin/sleep", "1000"]


def mgmt(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mgmt_cli", *arguments]
    return subprocess.run(
        command, env=daemon.environ, capture_output=True, text=True, timeout=20, check=False
    )


def test_a_damaged_store_is_refused_and_recovered(start: Start) -> None:
    daemon = start(run=False)
    daemon.configure(config(units={name: {"command": SLEEP} for name in ("a", "b")}))
    daemon.start()
    daemon.control.ok("start", targets=["a", "b"])
    before = {name: daemon.unit(name)["pid"] for name in ("a", "b")}
    assert daemon.stop(signal.SIGUSR1) == 0
    store = daemon.state_dir / "state.db"
    os.truncate(store, store.stat().st_size + 1)
    damaged = store.read_bytes()
    for _ in range(2):  # the refusal changes nothing
        refused = daemon.run_to_end()
        assert refused.returncode != 0
        assert str(store) in refused.stderr
        assert f"the file has {len(damaged)} bytes" in refused.stderr
        assert "mgmt store recover" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert store.read_bytes() == damaged
    recovered = mgmt(daemon, "store", "recover")
    assert recovered.returncode == 0, recovered.stderr
    daemon.start()
    # Nothing was lost, so the units that ran on meanwhile are still the same.
    eventually(lambda: {name: daemon.unit(name)["pid"] for name in ("a", "b")} == before)


def test_a_damaged_queue_is_refused_recovered_and_worked_off(start: Start) -> None:
    daemon = start(run=False)
    daemon.configure(config())
    daemon.start()
    suite = create(daemon, 1, tags=["nowhere"])
    submit(daemon, suite, *[sh(f"exit 0 # {'x' * 200} {n}") for n in range(400)])
    daemon.crash()
    queue = daemon.state_dir / "queue.db"
    with sqlite3.connect(queue) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        try:
            leaves = db.execute(
                "SELECT pageno FROM dbstat WHERE name = 'tasks' AND pagetype = 'leaf'"
            ).fetchall()
        except sqlite3.Error:
            pytest.skip("this SQLite has no dbstat")
    db.close()
    with queue.open("r+b") as file:
        file.seek((leaves[len(leaves) // 2][0] - 1) * 4096)
        file.write(os.urandom(4096))
    damaged = queue.read_bytes()
    refused = daemon.run_to_end()
    assert refused.returncode != 0 and "Traceback" not in refused.stderr
    assert str(queue) in refused.stderr and "mgmt store recover" in refused.stderr
    assert queue.read_bytes() == damaged
    assert mgmt(daemon, "store", "check").returncode == 1
    # A disk that is full in the middle of it: nothing is changed, and it is done when there is space.
    full = subprocess.run(
        ["sh", "-c", 'ulimit -f 64; exec "$@"', "sh", sys.executable, "-m", "mgmt_cli", "store", "recover"],
        env=daemon.environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert full.returncode == 1, full.stdout
    assert "nothing was changed" in full.stderr and "Traceback" not in full.stderr
    assert queue.read_bytes() == damaged and not list(daemon.state_dir.glob("queue.db.*new*"))
    recovered = mgmt(daemon, "store", "recover")
    assert recovered.returncode == 0, recovered.stderr
    assert "tasks: what had the numbers" in recovered.stdout
    daemon.start()
    counters = status(daemon, suite)["tasks"]
    assert 300 < counters["total"] < 400 and counters["total"] == counters["ready"]
    adds_up(daemon, suite)
    daemon.control.ok("suite-agents", suite=str(suite), add=["local"])
    assert ended(daemon, suite, 60.0)["tasks"]["finished"] == counters["total"]
    assert mgmt(daemon, "store", "check").returncode != 0, "a daemon uses it"
