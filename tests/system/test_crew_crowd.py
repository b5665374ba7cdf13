"""A hundred agents that work off one suite together; some die meanwhile, some come back with old results."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.system.agents import a_daemon
from tests.system.clients import eventually
from tests.system.daemon import Daemon, Start
from tests.system.many_crews import Crews
from tests.system.suites import adds_up, create, status, submit, tasks

AGENTS, KILLED, TASKS = 100, 30, 3000
BEAT_S, LOST_S = 0.5, 2.0


@pytest.fixture
def daemon(start: Start) -> Daemon:
    return a_daemon(start, timing={"node_heartbeat_s": BEAT_S, "node_lost_s": LOST_S})


@pytest.fixture
def crews(daemon: Daemon) -> Iterator[Crews]:
    crews = Crews(daemon.context, f"ipc://{daemon.runtime}/nodes", AGENTS, BEAT_S)
    try:
        yield crews
    finally:
        crews.close()


def test_a_hundred_agents_one_suite_and_one_result_for_each_task(daemon: Daemon, crews: Crews) -> None:
    suite = create(daemon, 2, tags=["crowd"])
    for _ in range(TASKS // 1000):
        submit(daemon, suite, *[["true"]] * 1000)

    def goes_on(holds: Callable[[], bool], what: str) -> None:
        def look() -> bool:
            crews.turn()
            return holds()

        eventually(look, 60.0, what)

    goes_on(
        lambda: sum(1 for agent in crews.agents.values() if agent.holder) >= AGENTS * 9 // 10, "all are at it"
    )
    dead = []
    names = crews.chance.sample(sorted(crews.agents), KILLED)
    for turn, name in enumerate(names):
        crews.agents[name].slow = True  # such that it has something that only it knows
        enough = (turn + 1) * 25
        goes_on(lambda: len(crews.ran) >= enough and bool(crews.agents[name].busy), f"{name} is at work")  # noqa: B023
        dead.append(crews.kill(name))
    assert all(one.late() for one in dead)

    def is_complete() -> bool:
        return bool(status(daemon, suite)["tasks"]["finished"] == TASKS)

    # Some come back when others have, or may have, their tasks, and tell what they had done for their old one.
    for former in dead[:10]:
        again = crews.join(former.name)
        goes_on(lambda: bool(again.session), "it is let in again")  # noqa: B023
        again.tell_late(former.holder, former.late())
    goes_on(is_complete, "the suite is complete")
    adds_up(daemon, suite)
    found = tasks(daemon, suite)
    assert len(found) == TASKS and {task["state"] for task in found.values()} == {"FINISHED"}
    assert set(found) == set(crews.ran), "each was done"
    again_ran = sum(count - 1 for count in crews.ran.values())
    assert 0 < again_ran <= KILLED * 4, f"{again_ran} were done again, of those that the dead had"
    assert status(daemon, suite)["state"] == "COMPLETE"
