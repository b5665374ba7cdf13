"""What backends write is captured, bounded, and never in their way: the disk may be full, the file gone."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.parity.test_symphony_lifecycle import assert_prompt, status_times_s
from tests.system.clients import Peer, eventually
from tests.system.daemon import STUB, Daemon, Start, config, faulty, script, symphony

ROTATE_BYTES = 1 << 16
KEEP = 2


def grow(daemon: Daemon, endpoint: str, lines: int) -> None:
    """Have a loaded stub write this many lines: it notes each request of an unknown protocol."""
    peer = daemon.keep(Peer(daemon.context, endpoint))
    peer.send(b"")
    peer.receive()
    for _ in range(lines):
        peer.send(b"\x77", b"")
    peer.send(b"")
    peer.receive()  # the stub reads in order: it has written all of them


# §1.3 of the bounds: a flood costs a backend's own time and a bounded place on the disk
def test_a_flood_of_output_is_rotated_and_disturbs_nobody(start: Start) -> None:
    backend = faulty("floods-stdout", log_max_bytes=ROTATE_BYTES, log_keep=KEEP)
    daemon = start(config({"m": backend, "stub": symphony()}))
    daemon.loaded("m")
    folder = daemon.unit_log("m").parent

    def sizes() -> list[int]:
        found = []
        for path in folder.glob("m.log*"):
            try:
                found.append(path.stat().st_size)
            except FileNotFoundError:
                continue  # turned over meanwhile
        return found

    oldest = folder / f"m.log.{KEEP}"
    eventually(oldest.exists, what="it was turned over twice")
    begin = oldest.stat().st_mtime_ns
    eventually(lambda: oldest.stat().st_mtime_ns != begin, what="and goes on")
    looks: list[int] = []

    def look_50_times() -> bool:
        found = sizes()
        looks.append(len(found))
        assert len(found) <= KEEP + 2
        assert max(found) <= ROTATE_BYTES + 4096  # the line that crosses the limit is finished
        return len(looks) > 50

    assert_prompt(status_times_s(daemon, look_50_times))
    assert daemon.loaded("stub")["pid"]
    assert daemon.legacy("unload-model", model_name="m")["success"]
    assert not (folder / f"m.log.{KEEP + 1}").exists()


def test_a_log_that_is_removed_meanwhile_is_made_again(start: Start) -> None:
    daemon = start(config({"stub": symphony()}))
    endpoint = daemon.loaded("stub")["endpoint"]
    path = daemon.unit_log("stub")
    assert b"serving" in path.read_bytes()
    path.unlink()
    assert daemon.control.ok("logs", unit="stub")["data"] == b""
    grow(daemon, endpoint, 1)
    eventually(lambda: path.exists() and b"no protocol has the index 77" in path.read_bytes())
    assert b"serving" not in path.read_bytes()


def test_a_log_folder_that_is_removed_meanwhile_stops_nobody(start: Start) -> None:
    daemon = start(config({"stub": symphony()}))
    endpoint = daemon.loaded("stub")["endpoint"]
    folder = daemon.unit_log("stub").parent
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    grow(daemon, endpoint, 100)
    assert daemon.unit("stub")["ready"]
    assert daemon.control.ok("logs", unit="stub")["data"] == b""
    folder.mkdir()
    grow(daemon, endpoint, 1)
    eventually(lambda: daemon.unit_log("stub").exists(), what="it is written again")


@contextmanager
def tiny_disk(folder: Path) -> Iterator[None]:
    """A file system of 64 KiB over a folder; skips the test where that may not be made."""
    if os.getuid() != 0:
        pytest.skip("a small file system over the logs needs root")
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        # Lazily: a log may still be open when a test failed.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


NOISY = """
import os, runpy, sys
line = b"x" * 127 + b"\\n"
for _ in range(32):
    os.write(1, line * 512)
sys.argv[0] = {!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_full_disk_never_blocks_a_backend(start: Start) -> None:
    daemon = start(run=False)
    stub = symphony()["command"][1]
    path = daemon.folder / "noisy.py"
    path.write_text(NOISY.format(stub))
    daemon.configure(config({"m": script(path, "--ipc-endpoint", "{endpoint}")}))
    with tiny_disk(daemon.state_dir / "logs"):
        daemon.start()
        endpoint = daemon.loaded("m")["endpoint"]  # it wrote 2 MiB before it was ready
        log = daemon.unit_log("m")
        assert log.stat().st_size <= 1 << 16
        assert daemon.unit("m")["ready"]
        grow(daemon, endpoint, 2000)
        os.truncate(log, 0)  # somebody makes room
        grow(daemon, endpoint, 1)
        eventually(lambda: b"bytes of output dropped (No space left on device)" in log.read_bytes())
        assert daemon.legacy("unload-model", model_name="m")["success"]
        assert daemon.loaded("m")["pid"]
        assert daemon.stop() == 0


def test_a_full_disk_is_no_reason_not_to_start(start: Start) -> None:
    daemon = start(config({"stub": symphony()}), run=False)
    with tiny_disk(daemon.state_dir / "logs"):
        filler = daemon.state_dir / "logs" / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass  # full
        daemon.start()
        assert daemon.loaded("stub")["pid"]
        assert daemon.unit_log("stub").stat().st_size == 0
        assert daemon.stop() == 0


# In the daemon: nothing of a log is in memory, and whoever waits for the disk waits until the gate is open.
BAD_DISK = """
import os, sys, time
if sys.orig_argv[1:3] == ["-m", "mgmt"]:
    from mgmt.shell import spawning, units
    read_tail, find = units.read_tail, spawning.find_backend_script

    def at_gate():
        while not os.path.exists(os.environ["GATE"]):
            time.sleep(0.01)

    def slow_read(path, wait=True):
        return (at_gate(), read_tail(path))[1] if wait else None

    units.read_tail = slow_read
    spawning.find_backend_script = lambda *arguments: (at_gate(), find(*arguments))[1]
"""


@pytest.fixture
def on_bad_disk(start: Start, tmp_path: Path) -> Daemon:
    (tmp_path / "sitecustomize.py").write_text(BAD_DISK)
    units = {"steady": {"command": ["/bin/sleep", "1000"], "restart": {"delay_s": 0.01, "limit": 100}}}
    fails = {"command": ["/bin/sh", "-c", "echo the reason; exit 7"], "restart": {"policy": "no"}}
    environ = {"PYTHONPATH": str(tmp_path), "GATE": str(tmp_path / "gate")}
    backends = {"fails": {"kind": "native", **fails}, "searched": {"kind": "symphony", "script": str(STUB)}}
    daemon = start(config(backends, units=units), environ=environ)
    daemon.control.ok("start", targets=["steady"])
    return daemon


def test_a_disk_that_hangs_holds_up_nobody(on_bad_disk: Daemon, tmp_path: Path) -> None:
    daemon = on_bad_disk
    pids = [daemon.unit("steady")["pid"]]
    for _ in range(3):  # more than there are workers to wait for the disk
        os.kill(pids[-1], signal.SIGKILL)

        def started_anew() -> bool:
            began_s = time.monotonic()
            unit = daemon.unit("steady")
            assert time.monotonic() - began_s < 0.5, "the loop waits for nothing"
            return unit["state"] == "RUNNING" and unit["pid"] not in pids

        eventually(started_anew, timeout_s=5.0, what="its end is told without its last lines")
        pids.append(daemon.unit("steady")["pid"])
    assert "steady.1: its log cannot be read within 1 s" in daemon.log()
    (tmp_path / "gate").touch()
    daemon.control.ok("stop", targets=["steady"])
    assert daemon.unit("steady")["restarts"] == 3


def test_last_lines_that_come_late_are_in_the_message(on_bad_disk: Daemon, tmp_path: Path) -> None:
    (tmp_path / "gate").touch()
    daemon = on_bad_disk
    refusal = daemon.control.refused("load-model", model="fails")
    assert "last lines of its log:\n  the reason" in refusal["text"]
    eventually(
        lambda: not list((daemon.runtime / "units").glob("*fails*")), what="it is told to be empty, too"
    )


@pytest.mark.parametrize("stopped", [False, True])
def test_a_script_that_is_searched_for_long_holds_up_its_unit_alone(
    on_bad_disk: Daemon, tmp_path: Path, stopped: bool
) -> None:
    daemon = on_bad_disk
    loading = daemon.control.ask("load-model", model="searched")
    looks = iter(range(30))
    assert_prompt(status_times_s(daemon, lambda: next(looks, None) is None))
    assert daemon.unit("searched")["state"] == "STARTING"
    if stopped:
        daemon.control.ok("unload-model", model="searched", wait=False)
    assert not daemon.unit("searched")["pid"]
    (tmp_path / "gate").touch()
    if stopped:
        assert daemon.control.reply(loading).body["code"] == "cancelled"
        daemon.reaches("searched", "STOPPED")
    else:
        assert daemon.control.reply(loading).outcome == "ok"
