"""What runs the tasks of a suite on a node: `mgmt-worker` starts a process for each, `resident` calls functions.

Both are ordinary units (the shim sets CPUs and limits before exec) that talk to their crew by `wire`.
"""

from pathlib import Path

__all__ = ["PROGRAM"]

PROGRAM = Path(__file__).with_name("mgmt-worker")
