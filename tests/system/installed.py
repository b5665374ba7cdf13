"""The wheel, installed in a booted node as docs/operations.md says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.system.node import LIBRARIES, Node

ROOT = Path(__file__).resolve().parents[2]
MGMT = "/opt/mgmt/bin/mgmt"


def build_wheel(folder: Path) -> Path:
    """Built of a copy: a build leaves folders in its source, and other tests read that."""
    source = folder / "source"
    source.mkdir()
    unwanted = shutil.ignore_patterns("__pycache__", "mgmt-shim", "*.so")
    for name in ("mgmt", "cli", "backends"):
        shutil.copytree(ROOT / name, source / name, ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["-q", "--no-deps", "--no-index", "--no-build-isolation", f"--wheel-dir={folder}"]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


def put_files(node: Node, *services: str) -> None:
    """The files of systemd/ in their places: these services, and what belongs to all of them."""
    for name in (*services, "mgmt-units.service", "mgmt.slice"):
        node.put(ROOT / "systemd" / name, f"/etc/systemd/system/{name}")
    for kind in ("sysusers", "tmpfiles"):
        node.put(ROOT / f"systemd/mgmt.{kind}.conf", f"/etc/{kind}.d/mgmt.conf")


def install(node: Node, wheel: Path) -> None:
    """As an administrator would, in a node that is up: a virtual environment in /opt/mgmt."""
    python = os.path.realpath(sys.executable)
    shutil.copy(wheel, node.share)
    node.run(python, "-m", "venv", "--without-pip", "/opt/mgmt")
    library = next((node.root / "opt/mgmt/lib").glob("python*/site-packages"))
    (library / "libraries.pth").write_text(f"{LIBRARIES}\n")  # what it depends on, pip among it
    options = ("-q", "--no-index", "--no-deps", "--ignore-installed", "--root-user-action=ignore")
    node.run("/opt/mgmt/bin/python", "-m", "pip", "install", *options, f"/shared/{wheel.name}")
