"""The engine of candidates is run by its own tests, all but a little of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

LEAST = 95.0  # % of statements
ROOT = Path(__file__).parents[2]
LONG = ("month", "line")  # whole months, and lines of thousands; the others say all that these do
TESTS = sorted(
    str(file) for file in (ROOT / "tests" / "core").glob("test_candidates_*.py") if file.stem[16:] not in LONG
)
# Their tests are those with a daemon: tests/system/test_candidates*.py.
DESK = ",".join(
    f"mgmt/core/candidates/{name}.py"
    for name in (
        "desk",
        "automatic",
        "beside",
        "line",
        "lines",
        "passes",
        "rules",
        "tasks",
        "watch",
        "explained",
    )
)


@pytest.mark.timeout(240)
def test_the_engine_is_covered(tmp_path: Path) -> None:
    pytest.importorskip("coverage", reason="coverage is not installed: pip install 'mgmt[dev]'")
    data, report = tmp_path / "coverage", tmp_path / "coverage.json"
    coverage = [sys.executable, "-m", "coverage"]
    chosen = [f"--data-file={data}", "--source=mgmt.core.candidates"]
    pytest_args = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-x", *TESTS]
    done = subprocess.run(
        [*coverage, "run", *chosen, *pytest_args], cwd=ROOT, check=False, capture_output=True,
        text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    subprocess.run(
        [*coverage, "json", f"--data-file={data}", f"--omit={DESK}", "-o", str(report)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    told = json.loads(report.read_text())
    missing = {name: file["missing_lines"] for name, file in told["files"].items() if file["missing_lines"]}
    assert len(told["files"]) > 15
    assert told["totals"]["percent_covered"] >= LEAST, missing
