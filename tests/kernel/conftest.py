"""Which C kernel is tested: the installed one, or the file named in MGMT_KERNEL_FILE (see sanitize.sh)."""

from __future__ import annotations

import importlib.util
import os
import sys

if file := os.environ.get("MGMT_KERNEL_FILE"):
    name = "mgmt.kernel._kernel"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"MGMT_KERNEL_FILE={file} is no extension module")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
