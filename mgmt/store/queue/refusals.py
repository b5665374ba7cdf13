"""What the queue says no to, each in one place."""

from __future__ import annotations

from mgmt.protocol.errors import MgmtError


def unknown_suite(suite: int) -> MgmtError:
    return MgmtError("unknown-suite", f"there is no suite {suite}; `mgmt suite list` shows those there are")


def unknown_lane(lane: int) -> MgmtError:
    return MgmtError(
        "unknown-suite", f"there is no lane {lane}: its suite was removed, or it was never opened"
    )


def unknown_task(task: int) -> MgmtError:
    return MgmtError("unknown-task", f"there is no task {task}; `mgmt task list` shows those there are")


def stale(holder: int) -> MgmtError:
    return MgmtError(
        "stale",
        f"holder {holder} has ended, and what it held is somebody else's: its lease ran out or it was ended. "
        "Drop what it still has and ask for an assignment anew",
        holder=holder,
    )
