"""Daemons and agents of different versions on one suite: updated and taken back while it runs."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mgmt.store.queue import tables
from mgmt.store.sqlite import SCHEMA_VERSION
from tests.system import older
from tests.system.agents import Agent, Join, a_daemon, agents, becomes, sleeper
from tests.system.clients import eventually
from tests.system.daemon import ROOT, Daemon, Start, alive
from tests.system.suites import adds_up, create, ended, sh, status, submit

FAR = ["far"]
PATIENT = {"node_lost_s": 30.0}  # an update that takes longer has tasks done again by others


def version(revisions: str) -> tuple[str, ...]:
    """The wrapper of a program of the version that speaks these."""
    return (sys.executable, str(ROOT / "tests" / "system" / "older.py"), revisions, "--")


OLD, NOW, LATER = version("1"), (), version("3,4")


@pytest.fixture
def join() -> Iterator[Join]:
    with agents() as make:
        yield make


def an_agent(daemon: Daemon, join: Join, name: str, wrapper: tuple[str, ...]) -> Agent:
    agent = join(daemon, name, "--tag", *FAR, run=False)
    return become(daemon, agent, wrapper)


def become(daemon: Daemon, agent: Agent, wrapper: tuple[str, ...]) -> Agent:
    """The next run of an agent is of this version; what it supervises runs on."""
    if agent.process is not None:
        assert agent.stop(signal.SIGUSR1) == 0
        if (agent.wrapper, wrapper) == (NOW, OLD):
            assert f"this one reads {older.STATE}" in refusal(agent, wrapper)
            downgrade(agent, "--state", older.STATE)
    agent.wrapper = wrapper
    agent.start()
    becomes(daemon, agent.name, "ALIVE")
    return agent


def a_suite(daemon: Daemon, marks: Path, count: int, task_s: float = 0.1) -> tuple[int, list[int]]:
    """A suite for the agents whose tasks each leave a line."""
    suite = create(daemon, 2, tags=FAR, hooks={"provision": {"args": ["true"]}})
    line = f"sleep {task_s}; echo $MITO_TASK_UUID >> {marks}"
    return suite, submit(daemon, suite, *[sh(line)] * count)


def figures(daemon: Daemon) -> dict[tuple[str, str], float]:
    return {
        (sample["name"].removeprefix("mgmt_"), next(iter(sample["labels"].values()), "")): sample["value"]
        for family in daemon.control.ok("metrics")["metrics"]
        for sample in family["samples"]
    }


def handed_over(daemon: Daemon) -> float:
    """Tasks that the workers of agents are known to have been given."""
    found = figures(daemon)
    return found["task_prefetch_total", "hit"] + found["task_prefetch_total", "miss"]


def is_under_way(daemon: Daemon, suite: int, count: int, done: int) -> None:
    def look() -> bool:
        finished: int = status(daemon, suite)["tasks"]["finished"]
        assert finished < count, "too quick: nothing is under way any more"
        return finished >= done

    eventually(look, what=f"{done} tasks are done")


def all_is_done_once(daemon: Daemon, suite: int, marks: Path, numbers: list[int]) -> None:
    found = ended(daemon, suite, 60)
    assert found["tasks"]["finished"] == len(numbers)
    adds_up(daemon, suite)
    lines = marks.read_text().split()
    assert len(lines) == len(set(lines)) == len(numbers), "updates are no reason to do a task again"


def test_agents_are_updated_one_after_the_other(start: Start, join: Join, tmp_path: Path) -> None:
    daemon, marks = a_daemon(start, timing=PATIENT), tmp_path / "marks"
    first, second = an_agent(daemon, join, "n1", OLD), an_agent(daemon, join, "n2", OLD)
    suite, numbers = a_suite(daemon, marks, 90)
    is_under_way(daemon, suite, 90, 10)
    assert handed_over(daemon) == 0, "the old ones have no word for it"
    become(daemon, first, NOW)
    eventually(lambda: handed_over(daemon) > 0, what="the first tells what it counts")
    is_under_way(daemon, suite, 90, 30)
    become(daemon, second, NOW)
    become(daemon, first, OLD)  # and one is taken back
    all_is_done_once(daemon, suite, marks, numbers)
    assert "agent sends what is refused" not in daemon.log()


def test_a_daemon_is_updated_and_taken_back_under_new_agents(
    start: Start, join: Join, tmp_path: Path
) -> None:
    daemon, marks = a_daemon(start, run=False, timing=PATIENT), tmp_path / "marks"
    daemon.wrapper = OLD
    daemon.start()
    an_agent(daemon, join, "n1", NOW)
    suite, numbers = a_suite(daemon, marks, 90)
    is_under_way(daemon, suite, 90, 10)

    assert daemon.stop(signal.SIGUSR1) == 0
    daemon.wrapper = NOW
    daemon.start()
    becomes(daemon, "n1", "ALIVE")
    is_under_way(daemon, suite, 90, 30)
    eventually(lambda: handed_over(daemon) > 0, what="the agent tells a new daemon what it counts")
    assert figures(daemon)["env_hook_runs_total", "provision"] == 0, "that was before"

    assert daemon.stop(signal.SIGUSR1) == 0
    refused = refusal(daemon, OLD)
    assert f"has schema version {SCHEMA_VERSION}, this one reads {older.STATE}" in refused
    assert f"mgmt store downgrade --state {older.STATE}" in refused
    downgrade(daemon, "--state", older.STATE)
    refused = refusal(daemon, OLD)
    assert f"has schema version {tables.SCHEMA_VERSION}, this one reads {older.QUEUE}" in refused
    downgrade(daemon, "--queue", older.QUEUE)
    daemon.wrapper = OLD
    daemon.start()
    becomes(daemon, "n1", "ALIVE")
    assert status(daemon, suite)["tasks"]["total"] == len(numbers)
    all_is_done_once(daemon, suite, marks, numbers)
    assert "agent sends what is refused" not in daemon.log()


def refusal(daemon: Daemon, wrapper: tuple[str, ...]) -> str:
    """What a daemon or agent of this version says that does not start, and leaves everything as it was."""
    before = kept(daemon)
    done = subprocess.run(
        [*wrapper, *daemon._command(False)],
        env=daemon.environ, cwd=daemon.cwd, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert kept(daemon) == before
    return done.stdout + done.stderr


def kept(daemon: Daemon) -> dict[str, list[str]]:
    """Everything in its stores, as SQL."""
    found = {}
    for name in sorted(path.name for path in daemon.state_dir.glob("*.db")):
        with tempfile.TemporaryDirectory() as folder:  # a look may move what is in the log into the file
            for part in daemon.state_dir.glob(f"{name}*"):
                shutil.copy(part, folder)
            db = sqlite3.connect(Path(folder) / name)
            found[name] = [str(db.execute("PRAGMA user_version").fetchone()), *db.iterdump()]
            db.close()
        assert len(found[name]) > 10
    assert found
    return found


def downgrade(daemon: Daemon, option: str, to: int) -> None:
    command = [sys.executable, "-m", "mgmt_cli", "store", "downgrade", option, str(to)]
    done = subprocess.run(
        command, env=daemon.environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"has schema version {to} now" in done.stdout


def test_versions_without_a_common_revision_say_which_is_older(start: Start, join: Join) -> None:
    daemon = a_daemon(start, {"far": sleeper("n1", autostart=True)})
    agent = an_agent(daemon, join, "n1", NOW)
    pid = daemon.reaches("far", "RUNNING")["pid"]
    assert agent.stop(signal.SIGUSR1) == 0
    agent.wrapper = LATER
    agent.launch()
    told = "the agent of node n1 (mgmt "
    eventually(lambda: told in agent.log(), what="it is refused")
    assert (
        "speaks revisions 3 to 4 of the protocol, this daemon revisions 1 to 2: this daemon is the older"
        in agent.log()
    )
    assert not agent.process_ended() and alive(pid), "what it runs, it keeps"
    become(daemon, agent, NOW)
    eventually(lambda: daemon.unit("far")["pid"] == pid, what="the same unit goes on")
    stranger = join(daemon, "n2", run=False)
    stranger.wrapper = LATER
    stranger.launch()
    assert stranger.wait() == 1, "with nothing to lose it says so and ends"
    stranger.process = None


def test_clients_agree_on_the_highest_that_both_know(start: Start) -> None:
    daemon = a_daemon(start)

    def hello(*versions: int) -> Any:
        peer = daemon.native(hello=False)
        return peer.reply(peer.ask("hello", versions=list(versions), name="skewed"))

    assert [hello(*known).body["version"] for known in ((1,), (1, 2), (1, 2, 3), (2, 9))] == [1, 2, 2, 2]
    refused = hello(7, 8)
    assert (refused.outcome, refused.body["code"]) == ("error", "bad-version")
    assert "client 'skewed' speaks revisions 7 to 8" in refused.body["text"]
