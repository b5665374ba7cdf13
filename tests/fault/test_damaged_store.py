"""P8 seen from the daemon: a damaged store is refused with its reason, recovered by a command, never reset."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from tests.system.clients import eventually
from tests.system.daemon import Daemon, Start, config

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
