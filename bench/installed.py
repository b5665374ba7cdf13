"""The peers that others wrote, from PyPI, in virtual environments of their own that are kept between runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# By what they are compared for: one that cannot be installed takes no others with it.
PACKAGES = {
    "supervisors": ("circus==0.19.0", "supervisor==4.3.0"),
    "queues": ("distributed==2026.8.0", "huey==3.5.4"),
    "hyperqueue": ("hyperqueue==0.27.0",),
}
PLACE = Path(__file__).parent.parent / ".bench"
INSTALL_S = 300.0


def peers(what: str) -> Path | str:
    """The folder with their programs, or why there is none."""
    packages, place = PACKAGES[what], PLACE / f"peers-{what}"
    stamp = place / "packages"
    wanted = "\n".join(packages)
    if not stamp.exists() or stamp.read_text() != wanted:
        pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-input"]
        for command in ([sys.executable, "-m", "venv", "--clear", str(place)], [*pip, *packages]):
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
            except (OSError, subprocess.TimeoutExpired) as error:
                return f"{' '.join(packages)} cannot be installed: {error}"
            if done.returncode:
                last = (done.stderr or done.stdout).strip().splitlines()[-1:]
                return f"{' '.join(packages)} cannot be installed: {' '.join(last)}"
        stamp.write_text(wanted)
    return place / "bin"
