"""Every command and program of the guide to task suites is run, in its order, and succeeds."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.system.place import Place

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "suites.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BOUND_S = 60.0


def shown() -> list[str]:
    """The command lines of the page, and its programs as such."""
    found = []
    for language, text in BLOCK.findall(PAGE.read_text()):
        if language == "python":
            found.append(f"{shlex.quote(sys.executable)} -c {shlex.quote(text)}")
        elif not language:
            found += [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]
    return found


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
