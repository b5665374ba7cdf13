"""P2: the daemon is killed at any moment, and the next one has every unit exactly once."""

from __future__ import annotations

import os
import random
import shutil

import pytest

from tests.fault.storm import Storm
from tests.system.daemon import Start

POINTS = int(os.environ.get("MGMT_TEST_POINTS", "60"))
SEED = int(os.environ.get("MGMT_TEST_SEED", "20260101"))
SHARES = 2  # of the points, so that they can run beside each other

pytestmark = pytest.mark.skipif(not shutil.which("flock"), reason="needs flock(1) to see doubled units")


@pytest.mark.timeout(30 + 4 * POINTS)
@pytest.mark.parametrize("share", range(SHARES))
def test_a_daemon_killed_at_any_moment_loses_and_doubles_nothing(start: Start, share: int) -> None:
    storm = Storm(start(run=False), random.Random(SEED + share), [f"u{n}" for n in range(6)])
    storm.begin()
    while storm.points < POINTS // SHARES:
        storm.round()
    print(
        f"{storm.points} points: {storm.lived} units adopted alive, {storm.ended_meanwhile} ended meanwhile"
    )
    assert storm.lived > 0
    assert storm.ended_meanwhile > 0
