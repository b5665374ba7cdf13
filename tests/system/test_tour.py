"""`make run`: the whole main job, and that it leaves nothing behind, whatever happens."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tour-") as folder:
        yield Path(folder)


def tour(temporary: Path, before: str = "pass") -> subprocess.CompletedProcess[str]:
    code = f"import mgmt_cli.tour as tour; {before}; tour.main()"
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=False,
        text=True,
        timeout=50,
        env={**os.environ, "TMPDIR": str(temporary)},
    )


def leftovers(temporary: Path) -> list[str]:
    """Our files in the temporary folder (onnxruntime leaves one of its own), and processes that use them."""
    mark = f"MGMT_STATE_DIR={temporary}".encode()
    found = [str(path) for path in temporary.glob("mgmt-*")]
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in environ.read_bytes():
                found.append(str(environ.parent))
        except OSError:
            continue  # it ended, or is not ours
    return found


def test_the_tour_asks_a_real_model_about_real_files(temporary: Path) -> None:
    pytest.importorskip("magika")
    done = tour(temporary)
    assert done.returncode == 0, done.stderr + done.stdout
    types = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert types["mgmt/protocol/frames.py"] == "python"
    assert types["config.json"] == "json"
    assert types["pyproject.toml"] == "toml"
    assert "magika   RUNNING  yes" in done.stdout, "it shows the status"
    assert leftovers(temporary) == []


def test_a_tour_that_fails_shows_the_log_and_cleans_up(temporary: Path) -> None:
    done = tour(temporary, "tour.FILES = ('missing.txt',)")
    assert done.returncode == 1
    assert "missing.txt" in done.stderr
    assert "the end of the daemon's log:" in done.stderr
    assert "ready" in done.stderr
    assert leftovers(temporary) == []
