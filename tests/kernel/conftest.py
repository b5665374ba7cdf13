"""Which C kernel is tested: the installed one, or the file named in MGMT_KERNEL_FILE (see sanitize.sh)."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

NAME = "mgmt.kernel._kernel"


class TheFile:
    """A finder of that one module."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return importlib.util.spec_from_file_location(NAME, FILE) if name == NAME else None


def pytest_report_header() -> str:
    from mgmt import kernel

    return f"kernel: {kernel.IMPLEMENTATION} {getattr(getattr(kernel, '_kernel', None), '__file__', '')}"


if FILE := os.environ.get("MGMT_KERNEL_FILE"):
    if NAME in sys.modules:
        raise ImportError(f"{NAME} was imported before MGMT_KERNEL_FILE could name another")
    sys.meta_path.insert(0, TheFile)
