"""Every command of the guide to task suites is run, in its order, and succeeds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.system.place import Place

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "suites.md"
BLOCK = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BOUND_S = 60.0


def shown() -> list[str]:
    """The command lines of the page."""
    lines = [line for block in BLOCK.findall(PAGE.read_text()) for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def test_every_command_of_the_guide_succeeds(place: Place) -> None:
    program = place.folder / "bin" / "mgmt"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m mgmt_cli "$@"\n')
    program.chmod(0o755)
    environ = {**place.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    place.started()
    commands = shown()
    assert len(commands) > 30, "the page is not read as it should be"
    said: dict[str, str] = {}
    for line in commands:
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=ROOT,
            env=environ,
            capture_output=True,
            text=True,
            timeout=BOUND_S,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        said[line] = done.stdout
    (again,) = (text for line, text in said.items() if "--once" in line)
    assert "4 of them before under the same key" in again
