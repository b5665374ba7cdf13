"""What happens to a unit that ended by itself: pure arithmetic on the policy and its history."""

from __future__ import annotations

import hashlib

from mgmt.core.supervision.unit import State, Unit
from mgmt.settings import RestartSettings


def after_end(unit: Unit, now_ns: int, success: bool) -> tuple[State, int | None, str]:
    """The next state, the delay until the next start (ns, in BACKOFF only), and why.

    Appends to the unit's failure history. A unit that was never ready since it was told to start is not
    retried: whoever asked is told, and nothing they do not expect runs behind their back.
    """
    policy = unit.spec.backend.restart
    if not unit.proven:
        return State.FATAL, None, "ended before it was ready"
    if policy.policy == "no" or (policy.policy == "on-failure" and success):
        return State.EXITED, None, "ended; its restart policy is " + policy.policy
    history = unit.failures_ns
    history.append(now_ns)
    while history and history[0] < now_ns - int(policy.window_s * 1e9):
        history.popleft()
    if len(history) > policy.limit:
        return State.FATAL, None, f"ended {len(history)} times in {policy.window_s:g} s: given up"
    delay_ns = delay_of(policy, len(history), f"{unit.spec.name}:{unit.incarnation}")
    return State.BACKOFF, delay_ns, f"start {len(history)} of {policy.limit} again in {delay_ns / 1e9:.1f} s"


def delay_of(policy: RestartSettings, nth: int, salt: str) -> int:
    """Delay before the nth restart in the window (from 1), ns.

    Grows by `factor` up to the maximum. The jitter is a hash of `salt`, not a draw: replicas differ, and a
    replay of the same events gives the same delays.
    """
    # The exponent is bounded so that a huge window cannot overflow the float.
    delay_s = min(policy.delay_max_s, policy.delay_s * policy.factor ** min(nth - 1, 64))
    share = int.from_bytes(hashlib.blake2b(salt.encode(), digest_size=4).digest(), "big") / 2**32
    return int(delay_s * (1 + policy.jitter * share) * 1e9)
