"""What an installation brings for real-time tasks."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mgmt.rt
from mgmt.rt.executive import PROGRAM, Executive, ExecutiveError
from tests.rt.rig import build


def test_the_executive_is_a_program_beside_its_driver() -> None:
    assert os.access(PROGRAM, os.X_OK), f"{PROGRAM} is missing: make venv"
    done = subprocess.run([PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert "usage" in done.stderr


def test_a_c_program_needs_only_the_folder_that_is_told(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", "import mgmt.rt; print(mgmt.rt.include_dir())"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    ).stdout.strip()  # fmt: skip
    assert told == mgmt.rt.include_dir()
    source = tmp_path / "p.c"
    source.write_text(
        '#include "mgmt_rt.h"\n#include "mgmt_rt.h"\n#include <stdio.h>\n'
        "int main(void) { struct mgmt_rt_task task;\n"
        "if (mgmt_rt_open(&task, NULL) < 0) return puts(mgmt_rt_explain(errno)), 1;\n"
        "while (mgmt_rt_wait_next_period(&task) >= 0) ;\nreturn 0; }\n"
    )
    program = build(source, tmp_path / "p")
    environ = {key: value for key, value in os.environ.items() if key != "MGMT_RT"}
    done = subprocess.run([program], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "MGMT_RT is not set" in done.stdout


@pytest.mark.parametrize(("name", "text"), [("absent", "cannot start .*make venv"), ("dumb", "has ended")])
def test_an_executive_that_does_not_start(tmp_path: Path, name: str, text: str) -> None:
    dumb = tmp_path / "dumb"
    dumb.write_text("#!/bin/sh\nexit 0\n")
    dumb.chmod(0o755)
    with pytest.raises(ExecutiveError, match=text):
        asyncio.run(Executive.start(lambda report: None, program=tmp_path / name))
