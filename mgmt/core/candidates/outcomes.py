"""What a result code says of the next run. Janitor's codes; its `success` and no-ops are three outcomes here."""

from __future__ import annotations

from mgmt.kernel.reference_history import FAILURE, NOTHING, SUCCESS, TRANSIENT

from .records import Run

NAMES = ("success", "failure", "nothing to do", "transient")
LACKING = "install-deps-unsatisfied-dependencies"
# Everything else is a failure. Of a transient one nothing is learned but when not to try again at once.
CODES: dict[str, int] = {
    "success": SUCCESS,
    "nothing-to-do": NOTHING,
    "nothing-new-to-do": NOTHING,
    "worker-failure": TRANSIENT,
    "worker-exception": TRANSIENT,
    "worker-timeout": TRANSIENT,
    "worker-clone-temporary-transport-error": TRANSIENT,
    "branch-temporarily-unavailable": TRANSIENT,
    "run-disappeared": TRANSIENT,
    "cancelled": TRANSIENT,
    "aborted": TRANSIENT,
    "killed": TRANSIENT,
}


def outcome_of(run: Run) -> int:
    """The outcome; a failure that the worker called transient is that, whatever its code."""
    found = CODES.get(run.result_code, FAILURE)
    return TRANSIENT if found == FAILURE and run.failure_transient is True else found
