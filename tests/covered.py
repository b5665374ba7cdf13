"""Whether the engine of candidates is run by its own tests, all but a little of it: `python -m tests.covered`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

LEAST = 95.0  # % of statements
ROOT = Path(__file__).parents[1]
LONG = ("month", "line")  # whole months, and lines of thousands; the others say all that these do
TESTS = sorted(
    str(file) for file in (ROOT / "tests" / "core").glob("test_candidates_*.py") if file.stem[16:] not in LONG
)
# Their tests are those with a daemon: tests/system/test_candidates*.py.
DESK = (
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
LIMIT_S = 300


def main() -> int:
    """0, or 1 when less is covered or a test failed; the lines that are missing are told."""
    with tempfile.TemporaryDirectory() as folder:
        data, report = Path(folder, "coverage"), Path(folder, "coverage.json")
        coverage = [sys.executable, "-m", "coverage"]
        chosen = [f"--data-file={data}", "--source=mgmt.core.candidates"]
        pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-x", *TESTS]
        done = subprocess.run(
            [*coverage, "run", *chosen, *pytest],
            cwd=ROOT, check=False, capture_output=True, text=True, timeout=LIMIT_S,
        )  # fmt: skip
        if done.returncode:
            print(done.stdout + done.stderr)
            return 1
        omitted = ",".join(f"mgmt/core/candidates/{name}.py" for name in DESK)
        subprocess.run(
            [*coverage, "json", f"--data-file={data}", f"--omit={omitted}", "-o", str(report)],
            cwd=ROOT, check=True, capture_output=True, timeout=LIMIT_S,
        )  # fmt: skip
        told = json.loads(report.read_text())
    files = told["files"]
    if told["totals"]["percent_covered"] >= LEAST and len(files) > 15:
        return 0
    print(
        f"{told['totals']['percent_covered']:.1f} % of {len(files)} files are covered, {LEAST:g} % shall be"
    )
    for name, file in files.items():
        if file["missing_lines"]:
            print(f"  {name}: {', '.join(map(str, file['missing_lines']))}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
