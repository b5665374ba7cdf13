"""Whatever happens to a daemon with candidates: its line is the queue's, ends are recorded, nobody is forgotten.

More of them: HISTORIES=200 FIRST=0 (the last one, excluded, and the first).
"""

from __future__ import annotations

import os
import random

import pytest

from mgmt.core.candidates.lines import LOOK_S
from mgmt.core.candidates.tasks import LABEL
from mgmt.core.suites.candidate_rows import GetLabelled
from mgmt.core.suites.states import ENDED, Task
from tests.core.test_candidates_desk import TRANSIENT, Daemon, Make, make

__all__ = ["make"]
NAMES = ("a", "b", "c", "d", "e", "f")
MORE = range(int(os.environ.get("FIRST", "0")), int(os.environ.get("HISTORIES", "0")))
SEEDS = MORE or (3, 5, 8, 27, 39)  # all but the first found a fault once


def passes(there: Daemon, seconds: float, *, works: bool = True) -> None:
    """Time in which the line may differ from the queue: that is asked again after a while."""
    for _ in range(round(seconds / 0.5)):
        there.daemon.advance(0.5)
        there.pump()
        while works and there.run_one() is not None:
            pass


def something(there: Daemon, chance: random.Random) -> None:
    tasks = list(there.states())
    if not tasks:
        there.live(2.0, 0.5)
        return
    match chance.randrange(13):
        case 0:
            there.budget = chance.randrange(40)
            there.pump()
            there.budget = None
            there.kill_daemon(done=chance.randrange(3))
        case 1:
            there.ask("task-cancel", tasks=[chance.choice(tasks)])
            passes(there, 2 * LOOK_S)
        case 2:
            there.ask("task-retry", tasks=[chance.choice(tasks)])
        case 3:
            there.ask(
                "task-change", task=chance.choice(tasks), priority=chance.randrange(-(1 << 20), 1 << 29)
            )
        case 4:
            there.candidates(*chance.sample(NAMES, 2), value=chance.randrange(1, 99))
        case 5:
            there.ask("candidates-schedule", bucket=chance.choice(["default", "manual", "hook"]))
        case 6:
            there.ask("candidates-reset", codebase=chance.choice(NAMES))
        case 7:
            there.disk_full = True
            there.disk_full = True
            passes(there, chance.randrange(1, 8) / 2, works=False)
            there.disk_full = False
            passes(there, 4.0)
        case 8 if there.hands:
            there.die(chance.choice(there.hands), signal=9)
        case 9:
            there.daemon.state.desk.forget()
        case _:
            there.live(chance.randrange(1, 20), 0.5, works=chance.random() < 0.7)


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens(make: Make, seed: int) -> None:
    chance = random.Random(seed)
    there = make(
        workers=2, every="5m", rest=chance.choice(["1s", "20s"]), backoff={"base": "1s", "cap": "30s"}
    )
    there.by_hand = True
    there.statuses = {"b": 3, "c": TRANSIENT}
    there.candidates(*NAMES)
    for _ in range(25):
        something(there, chance)
    there.live(400.0, 4.0)
    before = {name: there.runs(name) for name in NAMES}
    there.live(400.0, 4.0)
    assert {name for name in NAMES if there.runs(name) == before[name]} == set(), "is never run again"
    rows = there.do(GetLabelled(LABEL))
    there.live(4.0, 0.5, works=False)
    left = {row.task for row in there.do(GetLabelled(LABEL)) if row.state in ENDED}
    assert not left & {row.task for row in rows}, "ended, and not recorded"
    assert Task.RUNNING not in {row.state for row in there.do(GetLabelled(LABEL))} or there.hands, (
        "nobody has it"
    )
    there.check()
