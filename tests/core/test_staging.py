"""Tasks that are processes on several nodes: staged everywhere or nowhere, released together, whatever is lost."""

from __future__ import annotations

from typing import Any

import pytest

from mgmt.core import effect as fx
from mgmt.core import event as ev
from tests.core.linked import Cluster
from tests.core.recorder import Ticket

MS = 1000
PERIOD_US = 20 * MS


def a_task(name: str, node: str, **keys: Any) -> dict[str, Any]:
    times = {"period_us": PERIOD_US, "wcet_us": 1000, "policy": "normal"}
    return {"name": name, **times, "command": ["run"], "node": node, **keys}


def a_workload(*tasks: dict[str, Any], name: str = "w") -> dict[str, Any]:
    nodes = {node: {"available_cpus": [0]} for node in ("local", "a", "b")}
    return {"workload": name, "nodes": nodes, "tasks": list(tasks)}


BOTH = a_workload(a_task("x", "a"), a_task("y", "b"))
THREE = a_workload(a_task("x", "a"), a_task("y", "b"), a_task("z", "local"))


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster(agents={"a": (), "b": ()})
    cluster.advance(2.0)  # their clocks are measured
    return cluster


def submit(cluster: Cluster, document: dict[str, Any], **keys: Any) -> Ticket:
    return cluster.ask("schedule-submit", documents=[document], **keys)


def generations(cluster: Cluster, node: str) -> list[int]:
    """Of what is laid down on a node."""
    world = cluster.daemon if node == "local" else cluster.agent(node)
    return sorted(version for _, version in world.segments)


def starts(cluster: Cluster) -> set[int]:
    """The common starts of what is laid down on all nodes; 0: of what has none."""
    worlds = [cluster.daemon, *(link.world for link in cluster.links.values())]
    return {t0_ns for world in worlds for t0_ns in world.segments.values()}


def told(cluster: Cluster, what: str) -> list[str]:
    return [event["reason"] for event in cluster.daemon.events if event.get("what") == what]


def test_all_nodes_start_at_one_instant(cluster: Cluster) -> None:
    assert submit(cluster, THREE).ok["version"]
    cluster.advance(1.0)
    (t0_ns,) = starts(cluster)
    assert t0_ns > 0 and "on a, b, local" in told(cluster, "started")[0]
    assert [generations(cluster, node) for node in ("a", "b", "local")] == 3 * [generations(cluster, "a")]


def test_killed_between_its_answer_and_the_start_of_its_processes_they_start(cluster: Cluster) -> None:
    cluster.daemon.follows = False
    assert submit(cluster, THREE).ok["version"]
    cluster.advance(1.0)
    assert cluster.running("w.x") == [] and generations(cluster, "a") != []
    cluster.kill_daemon()
    cluster.daemon.follows = True
    cluster.heal("a")
    cluster.heal("b")
    cluster.advance(8.0)
    (t0_ns,) = starts(cluster)
    assert t0_ns > 0 and cluster.running("w.x") == ["a"] and cluster.running("w.y") == ["b"]
    assert [generations(cluster, node) for node in ("a", "b", "local")] == 3 * [generations(cluster, "a")]


def test_removed_before_it_was_followed_nothing_is_left(cluster: Cluster) -> None:
    cluster.daemon.follows = False
    submit(cluster, BOTH)
    assert cluster.ask("schedule-remove", workload="w").ok
    cluster.daemon.follows = True
    cluster.daemon.feed(ev.FollowSchedule())
    cluster.advance(2.0)
    assert generations(cluster, "a") == generations(cluster, "b") == [] and cluster.running("w.x") == []


@pytest.mark.parametrize("then", ["replaced", "removed"])
def test_what_concerns_processes_that_run_is_followed_with_the_schedule(cluster: Cluster, then: str) -> None:
    submit(cluster, BOTH)
    cluster.advance(1.0)
    (old,) = generations(cluster, "a")
    cluster.daemon.follows = False
    if then == "replaced":
        submit(cluster, a_workload(a_task("x", "a", wcet_us=2000), a_task("y", "b")), replace=True)
    else:
        assert cluster.ask("schedule-remove", workload="w").ok
    cluster.kill_daemon()
    cluster.heal("a")
    cluster.heal("b")
    cluster.advance(8.0)
    now = generations(cluster, "a")
    assert (now == [] and cluster.running("w.x") == []) if then == "removed" else min(now) > old
    assert then == "removed" or 0 not in starts(cluster)


def test_the_next_one_is_staged_before_the_first_one_is_followed(cluster: Cluster) -> None:
    cluster.daemon.follows = False
    submit(cluster, BOTH)
    second = submit(cluster, a_workload(a_task("v", "a"), name="second"))
    assert second.ok
    cluster.daemon.follows = True
    cluster.daemon.feed(ev.FollowSchedule())
    cluster.advance(2.0)
    assert all(cluster.running(unit) for unit in ("w.x", "w.y", "second.v")) and 0 not in starts(cluster)
    assert len(generations(cluster, "a")) == 2, "nothing was staged twice"


def test_the_old_schedule_goes_everywhere_when_the_new_one_is_in_force(cluster: Cluster) -> None:
    submit(cluster, BOTH)
    cluster.advance(1.0)
    (old,) = generations(cluster, "a")
    assert submit(cluster, a_workload(a_task("x", "a")), replace=True).ok["replaced"]
    cluster.advance(1.0)
    assert generations(cluster, "b") == [] and generations(cluster, "a")[0] > old
    assert cluster.ask("schedule-remove", workload="w").ok
    cluster.advance(1.0)
    assert starts(cluster) == set() and cluster.running("w.x") == []


def test_a_node_that_does_not_prepare_in_time_is_named_and_nothing_changes(cluster: Cluster) -> None:
    submit(cluster, BOTH)
    cluster.advance(1.0)
    before = generations(cluster, "a"), generations(cluster, "b"), starts(cluster)
    pid = cluster.unit("w.x").pid
    cluster.agent("b").stages = False  # its agent lives, its executive does not answer
    new = submit(cluster, a_workload(a_task("x", "a"), a_task("y", "b"), a_task("v", "a")), replace=True)
    cluster.advance(9.0)
    assert new.waits and len(generations(cluster, "a")) == 2
    cluster.advance(2.0)
    assert new.code == "unreachable" and new.detail["nodes"] == ["b"] and "within 10 s" in new.refusal[1]
    cluster.agent("b").stages = True
    cluster.advance(1.0)
    assert (generations(cluster, "a"), generations(cluster, "b"), starts(cluster)) == before
    assert cluster.unit("w.x").pid == pid and submit(cluster, BOTH).ok["already"]


def test_a_node_that_is_lost_while_it_prepares_is_named_at_once(cluster: Cluster) -> None:
    cluster.cut("b")
    new = submit(cluster, BOTH)
    assert new.waits
    cluster.advance(3.5)
    assert new.code == "unreachable" and "was lost before it was ready" in new.refusal[1]
    assert generations(cluster, "a") == []
    cluster.heal("b")
    cluster.advance(6.0)
    assert generations(cluster, "b") == [], "it heard of it late, and is told that it is nothing any more"


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_words_that_are_lost_are_said_again(cluster: Cluster, lost: int) -> None:
    """Whichever words they are: to stage, to assign, to start, to let go."""
    cluster.links["b"].lose = lost
    assert not submit(cluster, BOTH).answers
    cluster.advance(7.0)
    assert len(starts(cluster)) == 1 and 0 not in starts(cluster)
    for _ in range(3):
        cluster.links["b"].lose = lost
        submit(cluster, a_workload(a_task("x", "a")), replace=True)
        cluster.advance(7.0)
        assert generations(cluster, "b") == []
        cluster.links["b"].lose = lost
        submit(cluster, BOTH, replace=True)
        cluster.advance(7.0)
        assert len(starts(cluster)) == 1 and 0 not in starts(cluster)
        assert generations(cluster, "b") == generations(cluster, "a")


def test_a_start_that_is_lost_with_its_link_is_one_at_a_later_hyperperiod(cluster: Cluster) -> None:
    daemon = cluster.daemon
    cluster.agent("a").stages = False
    ticket = submit(cluster, BOTH)
    assert ticket.waits
    cluster.agent("a").stages = True
    cluster.cut("b")  # it is staged
    cluster.pump()
    assert ticket.ok["version"]
    cluster.advance(1.0)
    assert starts(cluster) == {0}, "b has not heard that it is in force"
    cluster.break_off("b")
    cluster.heal("b")
    cluster.advance(3.0)
    (t0_ns,) = starts(cluster)
    assert t0_ns and told(cluster, "started")
    group = daemon.state.execution.groups["w"]
    assert group.started and group.t0_ns == t0_ns


def test_who_comes_late_enters_at_a_hyperperiod(cluster: Cluster) -> None:
    """An agent whose machine was booted anew: its segments are gone, and the others have started."""
    submit(cluster, BOTH)
    cluster.advance(1.0)
    (t0_ns,) = starts(cluster)
    cluster.agent("b").segments.clear()
    cluster.kill_agent("b")
    cluster.heal("b")
    cluster.advance(3.0)
    (again,) = cluster.agent("b").segments.values()
    assert again > t0_ns and (again - t0_ns) % (PERIOD_US * 1000) == 0
    assert set(cluster.agent("a").segments.values()) == {t0_ns}


def test_a_wall_clock_that_is_set_moves_no_grid(cluster: Cluster) -> None:
    submit(cluster, BOTH)
    cluster.advance(1.0)
    (t0_ns,) = starts(cluster)
    cluster.daemon.stepped_s = 333.337
    cluster.kill_daemon()
    cluster.agent("b").segments.clear()
    cluster.kill_agent("b")
    for name in ("a", "b"):
        cluster.heal(name)
    cluster.advance(3.0)
    (again,) = cluster.agent("b").segments.values()
    assert again > t0_ns and (again - t0_ns) % (PERIOD_US * 1000) == 0


def test_a_lost_node_holds_nobody_up(cluster: Cluster) -> None:
    cluster.agent("a").stages = False
    ticket = submit(cluster, BOTH)
    cluster.agent("a").stages = True
    cluster.cut("b")
    cluster.pump()
    assert ticket.ok["version"]
    cluster.advance(4.5)
    (t0_ns,) = cluster.agent("a").segments.values()
    assert t0_ns and "node b enter at a later hyperperiod" in told(cluster, "started")[0]
    cluster.heal("b")
    cluster.advance(6.0)
    (late_ns,) = cluster.agent("b").segments.values()
    assert late_ns > t0_ns and (late_ns - t0_ns) % (PERIOD_US * 1000) == 0


@pytest.mark.parametrize("in_force", [False, True])
def test_a_daemon_that_dies_between_staging_and_start_leaves_all_with_one_schedule(
    cluster: Cluster, in_force: bool
) -> None:
    """What was committed decides."""
    submit(cluster, BOTH)
    cluster.advance(1.0)
    old = generations(cluster, "a")
    if in_force:
        cluster.links["a"].lose = cluster.links["b"].lose = 0
    else:
        cluster.agent("b").stages = False
    new = a_workload(a_task("x", "a"), a_task("y", "b", period_us=2 * PERIOD_US))
    ticket = submit(cluster, new, replace=True)
    assert ticket.waits is not in_force
    cluster.kill_daemon()
    cluster.agent("b").stages = True
    for name in ("a", "b"):
        cluster.heal(name)
    cluster.advance(5.0)
    now = generations(cluster, "a")
    assert now == generations(cluster, "b") and len(now) == 1
    assert (now == old) is not in_force
    assert len(starts(cluster)) == 1 and 0 not in starts(cluster)
    assert submit(cluster, new if in_force else BOTH).ok["already"]


@pytest.mark.parametrize("when", ["staged", "in force"])
def test_an_agent_that_dies_between_staging_and_start_is_told_again(cluster: Cluster, when: str) -> None:
    if when == "staged":
        cluster.agent("a").stages = False
    ticket = submit(cluster, BOTH)
    cluster.agent("b").segments.clear()  # the whole machine
    cluster.kill_agent("b")
    cluster.agent("a").stages = True
    cluster.heal("b")
    cluster.advance(5.0)
    assert ticket.ok
    assert generations(cluster, "a") == generations(cluster, "b") != []
    assert 0 not in starts(cluster)


def test_an_agent_that_comes_back_alone_lays_down_what_it_was_told(cluster: Cluster) -> None:
    submit(cluster, BOTH)
    cluster.advance(1.0)
    world = cluster.agent("b")
    cluster.kill_agent("b")
    staged = [effect for effect in world.executed if isinstance(effect, fx.StageTasks)]
    assert [task.unit for task in staged[0].tasks] == ["w.y"]


def test_a_word_that_comes_again_or_late_changes_nothing(cluster: Cluster) -> None:
    submit(cluster, BOTH)
    cluster.advance(1.0)
    hosting, before = cluster.agent("b").state.hosting, starts(cluster)
    (key,) = hosting.hosted
    stale = hosting.stale
    out: list[fx.Effect] = []
    for generation in (key[1], key[1] - 1):
        body = {"workload": "w", "generation": generation, "t0_ns": 5}
        hosting.on_push("start", body, lambda specs: "", out)
    assert out == [] and hosting.stale == stale + 2 and starts(cluster) == before


# ---- what was measured --------------------------------------------------------------------------------------


def test_measurements_of_all_nodes_are_one_answer(cluster: Cluster) -> None:
    submit(cluster, THREE)
    cluster.advance(1.0)
    reply = cluster.ask("schedule-stat").ok
    assert [(row["unit"], row["node"]) for row in reply["tasks"]] == [
        ("w.x", "a"),
        ("w.y", "b"),
        ("w.z", "local"),
    ]
    assert {row["jobs"] for row in reply["tasks"]} == set(generations(cluster, "a"))
    assert (reply["unreachable"], reply["next"]) == ([], None)
    assert [row["unit"] for row in cluster.ask("schedule-stat", units=["w.y"]).ok["tasks"]] == ["w.y"]
    agent = cluster.agent("a").client()
    ticket = agent.ask("schedule-stat")
    cluster.pump()
    assert [row["unit"] for row in ticket.ok["tasks"]] == ["w.x"]


@pytest.mark.parametrize("how", ["lost", "gone meanwhile", "silent"])
def test_a_node_that_does_not_say_is_named_and_the_others_are_shown(cluster: Cluster, how: str) -> None:
    submit(cluster, THREE)
    cluster.advance(1.0)
    if how == "silent":
        cluster.agent("b").stages = False
    else:
        cluster.cut("b")
    if how == "lost":
        cluster.advance(4.0)
    ticket = cluster.ask("schedule-stat")
    assert ticket.waits is (how != "lost")
    cluster.advance(6.0)
    reply = ticket.ok
    assert [row["unit"] for row in reply["tasks"]] == ["w.x", "w.z"]
    assert [row["node"] for row in reply["unreachable"]] == ["b"] and reply["unreachable"][0]["reason"]


# ---- other places ---------------------------------------------------------------------------------------------


UNEVEN = a_workload(
    *(
        {key: item for key, item in a_task(f"f{n}", "").items() if key != "node"} | {"wcet_us": 3000}
        for n in range(4)
    )
)


def test_a_rebalance_is_staged_first_and_enters_the_grid_of_before(cluster: Cluster) -> None:
    submit(cluster, UNEVEN)
    cluster.advance(1.0)
    (old_ns,) = starts(cluster)
    before = {name: cluster.unit(f"w.{name}").node for name in ("f0", "f1", "f2", "f3")}
    assert set(before.values()) == {"a"}, "best fit fills one CPU"
    cluster.agent("b").stages = False
    refused = cluster.ask("schedule-rebalance", apply=True)
    assert refused.waits
    cluster.advance(11.0)
    assert refused.code == "unreachable" and refused.detail["nodes"] == ["b"]
    assert {name: cluster.unit(f"w.{name}").node for name in before} == before and starts(cluster) == {old_ns}
    cluster.agent("b").stages = True
    assert cluster.ask("schedule-rebalance", apply=True).ok["applied"]
    cluster.advance(3.0)
    (t0_ns,) = starts(cluster)
    assert t0_ns > old_ns and (t0_ns - old_ns) % (PERIOD_US * 1000) == 0
    assert {cluster.unit(f"w.{name}").node for name in before} == {"", "a", "b"}


# ---- faults ---------------------------------------------------------------------------------------------------


def misses(cluster: Cluster, node: str, *numbers: int) -> None:
    for number in numbers:
        cluster.agent(node).feed(ev.TaskReported("w.x", "miss", f"job {number} was late", 1, number, 1))
    cluster.pump()


def heard(cluster: Cluster) -> list[int]:
    return [event["job"] for event in cluster.daemon.events if event["kind"] == "fault"]


def test_faults_of_a_node_that_is_away_are_told_once_when_it_is_back(cluster: Cluster) -> None:
    submit(cluster, BOTH)
    cluster.advance(1.0)
    misses(cluster, "a", 1, 2)
    assert heard(cluster) == [1, 2]
    cluster.cut("a")
    misses(cluster, "a", 3)  # it is sent, and lost
    cluster.advance(5.0)
    misses(cluster, "a", 4)
    cluster.kill_agent("a")
    cluster.heal("a")
    cluster.advance(1.0)
    misses(cluster, "a", 5)
    assert heard(cluster) == [1, 2, 3, 4, 5]
    cluster.kill_daemon()
    misses(cluster, "a", 6)
    for name in ("a", "b"):
        cluster.heal(name)
    cluster.advance(1.0)
    assert heard(cluster) == [1, 2, 3, 4, 5, 6]
    late = [event for event in cluster.daemon.events if event["kind"] == "fault"][2]
    assert "s later" in late["reason"] and (late["node"], late["workload"], late["task"]) == ("a", "w", "x")


def test_more_faults_than_an_agent_keeps_are_said_to_be_missing(cluster: Cluster) -> None:
    submit(cluster, BOTH)
    cluster.advance(1.0)
    misses(cluster, "a", 1)
    cluster.break_off("a")
    misses(cluster, "a", *range(2, 5000))
    cluster.heal("a")
    cluster.advance(1.0)
    told_of = heard(cluster)
    assert told_of[-1] == 4999 and len(told_of) == len(set(told_of))
    gaps = [event for event in cluster.daemon.events if event.get("what") == "executive"]
    assert len(gaps) == 1 and "may not have been told" in gaps[0]["reason"]
