"""Real-time execution on a node: periodic tasks, the segments they share, and the executive that watches them.

A task is a thread that calls `wait_next_period()` (`task.Task` here, `mgmt_rt.h` in C). It sleeps by itself
to absolute instants, so its releases depend on no other process. Its segment (`segment`) holds its plan, its
progress and its statistics. One `mgmt-executive` a node (`executive`) looks at each deadline when it passes.
"""

from pathlib import Path

__all__ = ["include_dir"]


def include_dir() -> str:
    """The folder of mgmt_rt.h, for a C compiler's -I."""
    return str(Path(__file__).parent)
