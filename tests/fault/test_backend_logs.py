"""What backends write is captured, bounded, and never in their way: the disk may be full, the file gone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.parity.test_symphony_lifecycle import assert_prompt, status_times_s
from tests.system.clients import Peer, eventually
from tests.system.daemon import Daemon, Start, config, faulty, script, symphony

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
