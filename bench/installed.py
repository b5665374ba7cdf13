"""The peers that others wrote, from PyPI, in a virtual environment of their own that is kept between runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PACKAGES = ("circus==0.19.0", "supervisor==4.3.0")
PLACE = Path(__file__).parent.parent / ".bench" / "peers-venv"
INSTALL_S = 300.0


def peers() -> Path | str:
    """The folder with their programs, or why there is none."""
    stamp = PLACE / "packages"
    wanted = "\n".join(PACKAGES)
    if not stamp.exists() or stamp.read_text() != wanted:
        pip = [str(PLACE / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-input"]
        for command in ([sys.executable, "-m", "venv", "--clear", str(PLACE)], [*pip, *PACKAGES]):
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
            except (OSError, subprocess.TimeoutExpired) as error:
                return f"{' '.join(PACKAGES)} cannot be installed: {error}"
            if done.returncode:
                last = (done.stderr or done.stdout).strip().splitlines()[-1:]
                return f"{' '.join(PACKAGES)} cannot be installed: {' '.join(last)}"
        stamp.write_text(wanted)
    return PLACE / "bin"
