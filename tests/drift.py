"""Everything that is generated from the code, and whether it still is what the code says.

    python -m tests.drift --check    print what differs and exit 1
    python -m tests.drift --write    write it anew

A generated file is committed, because its readers have no Python at hand; this list is what keeps it true.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable
from pathlib import Path

from mgmt import config
from mgmt.settings.policy import PolicySettings
from tests import drift_cli, drift_frames, drift_protocol, drift_schema

ROOT = Path(__file__).parents[1]
DIFF_LINES = 60  # of one file; the rest adds nothing to "run make drift"


def artefacts() -> dict[str, Callable[[], str]]:
    """path -> the text the file must have."""
    rendered: dict[str, Callable[[], str]] = {
        drift_schema.PATH: drift_schema.render,
        f"{drift_frames.FOLDER}/index.json": drift_frames.render_index,
        drift_protocol.PATH: lambda: drift_protocol.render(_text(drift_protocol.PATH)),
        "docs/config.md": lambda: config.render_docs(_text("docs/config.md")),
        "docs/security.md": lambda: config.render_docs(_text("docs/security.md"), PolicySettings),
        drift_cli.PATH: drift_cli.render,
    }
    for vector in drift_frames.vectors():
        text = "".join(f"{line}\n" for line in vector.lines)
        rendered[vector.path] = lambda text=text: text  # type: ignore[misc]  # bound early
    return rendered


def strays(known: set[str]) -> list[str]:
    """Files in the folder of generated ones that nothing generates any more."""
    found = (ROOT / drift_frames.FOLDER).iterdir() if (ROOT / drift_frames.FOLDER).is_dir() else ()
    return sorted(path for file in found if (path := str(file.relative_to(ROOT))) not in known)


def drifted() -> dict[str, str]:
    """path -> unified diff from the file to what it must be, for every file that differs."""
    wanted = artefacts()
    found: dict[str, str] = {}
    for path, render in wanted.items():
        is_now, must_be = _text(path), render()
        if is_now != must_be:
            diff = difflib.unified_diff(
                is_now.splitlines(), must_be.splitlines(), path, f"{path} (generated)", n=1, lineterm=""
            )
            lines = list(diff)
            more = [f"... and {len(lines) - DIFF_LINES} lines more"] if len(lines) > DIFF_LINES else []
            found[path] = "\n".join([*lines[:DIFF_LINES], *more])
    return found | {path: f"{path}: nothing generates it any more" for path in strays(set(wanted))}


def write() -> list[str]:
    """Bring every file up to date; the paths that were changed."""
    wanted = artefacts()
    changed: list[str] = []
    for path, render in wanted.items():
        text = render()
        if text != _text(path):
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(text, encoding="utf-8")
            changed.append(path)
    for path in strays(set(wanted)):
        (ROOT / path).unlink()
        changed.append(path)
    return changed


def _text(path: str) -> str:
    file = ROOT / path
    return file.read_text(encoding="utf-8") if file.exists() else ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.drift", description="Generated files.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", action="store_true", help="print what differs, exit 1")
    what.add_argument("--write", action="store_true", help="write what differs")
    if parser.parse_args().write:
        for path in write():
            print(f"wrote {path}")
        return 0
    found = drifted()
    for diff in found.values():
        print(diff)
    if found:
        print(f"{len(found)} generated files differ from the code; `make drift` writes them", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
