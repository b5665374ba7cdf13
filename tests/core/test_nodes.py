"""Nodes: a daemon and its agents, from the first hello to whatever can happen to one of them."""

from __future__ import annotations

from typing import Any

import pytest

from mgmt.core import event as ev
from mgmt.core.supervision import State
from mgmt.protocol import defaults, messages
from tests import drift_frames
from tests.core.builders import a_hello, a_probe, a_unit
from tests.core.linked import Cluster


def far(node: str | dict[str, Any] = "n1", **keys: Any) -> dict[str, Any]:
    return a_unit(node=node, **keys)


TAGGED = {"tags": ["gpu"]}


# ---- nodes -----------------------------------------------------------------------------------------------


def test_an_agent_joins_and_its_clock_is_measured() -> None:
    cluster = Cluster(agents={"n1": ("gpu",)})
    cluster.advance(2.5)
    node = cluster.node("n1")
    assert (node["state"], node["tags"], node["drained"]) == ("ALIVE", ["gpu"], False)
    assert (node["round_trip_ms"], node["clock_offset_ms"], node["clock_error_ms"]) == (0.0, 0.0, 0.0)
    assert node["seen_s"] <= 1.0 and node["facts"] == {"cpus": 2}
    local = cluster.node("local")
    assert (local["state"], local["pid"]) == ("ALIVE", 4242)


def test_silence_makes_a_node_suspect_then_lost_and_a_hello_brings_it_back() -> None:
    cluster = Cluster(agents={"n1": ()})
    lost = cluster.ask("node-wait", node="n1", condition="lost")
    cluster.cut("n1")
    cluster.advance(2.6)
    assert cluster.node("n1")["state"] == "SUSPECT" and lost.waits
    cluster.advance(0.6)
    assert cluster.node("n1")["state"] == "LOST" and lost.ok["state"] == "LOST"
    alive = cluster.ask("node-wait", node="n1")
    cluster.heal("n1")
    cluster.advance(1.0)
    assert cluster.node("n1")["state"] == "ALIVE" and alive.ok["reason"] == "came back"
    changes = [(event["was"], event["state"]) for event in cluster.daemon.events if event["kind"] == "node"]
    assert changes == [("LOST", "ALIVE"), ("ALIVE", "SUSPECT"), ("SUSPECT", "LOST"), ("LOST", "ALIVE")]


def test_a_suspect_that_is_heard_again_is_alive_without_a_hello() -> None:
    cluster = Cluster(agents={"n1": ()})
    cluster.cut("n1")
    cluster.advance(2.7)
    assert cluster.node("n1")["state"] == "SUSPECT"
    node = cluster.daemon.state.roster.nodes["n1"]
    beat = {"clock_ns": 1, "acked": 0}
    cluster.daemon.feed(ev.NodeNoticed(node.peer, node.session, "agent-heartbeat", beat))
    assert (cluster.node("n1")["state"], cluster.node("n1")["reason"]) == ("ALIVE", "heard again")


def test_a_silent_link_is_made_anew_before_the_node_is_lost() -> None:
    cluster = Cluster(agents={"n1": ()})
    cluster.advance(1.0)
    before = cluster.links["n1"].peer
    cluster.cut("n1")
    cluster.advance(2.7)
    assert cluster.node("n1")["state"] == "SUSPECT"
    cluster.heal("n1")
    assert (cluster.node("n1")["state"], cluster.node("n1")["reason"]) == ("ALIVE", "came back")
    assert cluster.links["n1"].peer != before


def test_a_link_that_stays_down_is_made_anew_for_a_short_way_and_for_a_long_one_in_turn() -> None:
    cluster = Cluster(agents={"n1": ()})
    cluster.advance(2.0)
    cluster.cut("n1")
    cluster.advance(35.0)
    short, long = defaults.NODE_CONNECT_SHORT_S, defaults.NODE_CONNECT_TIMEOUT_S
    assert cluster.links["n1"].relinks == [short, long, short, long]


def test_a_daemon_that_was_stopped_itself_takes_nobody_for_lost() -> None:
    cluster = Cluster(agents={"n1": ()})
    cluster.daemon.now_ns += 10 * 10**9  # SIGSTOP: its timers are all late
    cluster.daemon.advance(0.1)
    cluster.pump()
    assert cluster.node("n1")["state"] == "ALIVE"


def test_words_of_a_session_that_ended_are_counted_and_its_agent_says_hello_again() -> None:
    cluster = Cluster(agents={"n1": ()})
    roster = cluster.daemon.state.roster
    peer, session = roster.nodes["n1"].peer, roster.nodes["n1"].session
    cluster.kill_agent("n1")
    cluster.heal("n1")
    stale = roster.stale
    beat = {"clock_ns": 1, "acked": 0}
    cluster.daemon.feed(ev.NodeNoticed(peer, session, "agent-heartbeat", beat))
    assert roster.stale == stale + 1
    assert cluster.daemon.wire[-1].name == "node-gone"  # type: ignore[union-attr]  # it is a ToNode
    cluster.pump()
    assert cluster.node("n1")["state"] == "ALIVE"


@pytest.mark.parametrize(
    ("changed", "refused"),
    [
        ({"agent": "another"}, True),
        ({"machine_id": "another"}, True),
        ({"incarnation": 2, "started_at": 2e9}, False),
        ({"incarnation": 2, "started_at": 1.0}, True),
    ],
    ids=["another agent", "a copied folder", "the next run", "a former run"],
)
def test_one_agent_speaks_for_a_name(changed: dict[str, Any], refused: bool) -> None:
    cluster = Cluster(agents={"n1": ()})
    ticket = cluster.daemon.ask(a_hello("n1", peer=b"newcomer", **changed))
    assert (ticket.answers[0][0] != "ok") is refused
    if refused:
        assert ticket.code == "conflict" and "n1" in ticket.refusal[1]
        cluster.cut("n1")
        cluster.advance(3.5)
        again = cluster.daemon.ask(a_hello("n1", peer=b"newcomer", **changed))
        assert again.ok, "a lost agent keeps nobody out"
        cluster.pump()


def test_an_agent_that_nobody_needs_ends_when_it_is_refused() -> None:
    cluster = Cluster(agents={"n1": ()})
    twin = cluster.join("n1", agent="another")
    assert twin.quits() == 1 and twin.state.quit_said
    assert any("another --name" in note.text for note in twin.notes)


def test_no_agent_may_be_called_local() -> None:
    cluster = Cluster()
    assert cluster.daemon.ask(a_hello("local")).code == "conflict"


# ---- units -----------------------------------------------------------------------------------------------


def test_a_unit_is_started_stopped_and_told_of_as_if_it_were_here() -> None:
    cluster = Cluster({"u": far()}, {"n1": ()})
    started = cluster.ask("start", targets=["u"])
    assert started.ok["states"] == {"u": "RUNNING"}
    (status,) = cluster.client.ask("status", units=["u"]).ok["units"]
    assert (status["node"], status["endpoint"], status["log"]) == ("n1", "", "/s/logs/u.log")
    assert status["pid"] == cluster.there("n1", "u").pid
    cluster.check()
    stopped = cluster.ask("stop", targets=["u"])
    assert stopped.ok["states"] == {"u": "STOPPED"} and cluster.running("u") == []
    cluster.check()
    events = [e for e in cluster.daemon.events if e["kind"] == "unit"]
    assert [e["state"] for e in events] == ["STARTING", "RUNNING", "STOPPING", "STOPPED"]
    assert {e["node"] for e in events} == {"n1"}


def test_a_crash_is_restarted_by_the_agent_and_told() -> None:
    cluster = Cluster({"u": far()}, {"n1": ()})
    cluster.ask("start", targets=["u"])
    cluster.agent("n1").exit("u", 3, tail="it broke")
    cluster.pump()
    mirror = cluster.unit("u")
    assert mirror.state is State.BACKOFF and mirror.last_exit is not None
    assert (mirror.last_exit.code, mirror.last_exit.tail) == (3, "it broke")
    cluster.advance(1.5)
    assert (mirror.state, mirror.incarnation, mirror.restarts) == (State.RUNNING, 2, 1)
    cluster.check()


def test_a_start_that_fails_is_refused_with_the_end_of_its_log() -> None:
    cluster = Cluster({"u": far(startup=a_probe())}, {"n1": ()})
    agent = cluster.agent("n1")
    ticket = cluster.client.ask("start", within_s=None, targets=["u"])
    words, cluster.daemon.wire = cluster.daemon.wire, []
    for word in words:
        cluster._from_daemon(word)
    agent.start("u")
    agent.exit("u", 7, tail="no such file")
    cluster.pump()
    code, text = ticket.refusal
    assert code == "start-failed" and "no such file" in text and cluster.unit("u").state is State.FATAL


def test_a_unit_that_nobody_waits_for_starts_with_its_node() -> None:
    cluster = Cluster({"u": far()})
    assert cluster.ask("start", targets=["u"], wait=False).ok["states"] == {"u": "STOPPED"}
    assert cluster.unit("u").waiting_for == "node n1 to be alive"
    cluster.join("n1")
    assert cluster.unit("u").state is State.RUNNING


def test_who_would_wait_for_a_node_that_is_not_there_is_told_at_once() -> None:
    units = {"u": far(), "v": far(TAGGED), "here": a_unit(requires=["u"])}
    cluster = Cluster(units, {})
    for target in ("u", "v", "here"):
        for verb in ("start", "restart"):
            refused = cluster.ask(verb, targets=[target])
            assert refused.code == "unknown-node" and "--no-wait" in refused.refusal[1]
            assert not cluster.unit(target).wanted and not cluster.unit(target).waiting_for
    assert cluster.ask("load-model", model="u").code == "unknown-node"
    cluster.join("n1", ("gpu",))
    cluster.ask("node-cordon", node="n1")
    assert [cluster.ask("start", targets=[name]).code for name in ("u", "v", "here")] == 3 * ["conflict"]
    cluster.ask("node-cordon", node="n1", cordoned=False)
    cluster.cut("n1")
    cluster.advance(4.0)
    refused = cluster.ask("start", targets=["v"])
    assert refused.code == "node-lost" and "n1 is LOST" in refused.refusal[1]
    assert refused.detail == {"unit": "v", "nodes": ["n1"]}


def test_who_waits_while_its_node_is_suspected_is_told_when_it_is_lost() -> None:
    cluster = Cluster({"u": far()}, {"n1": ()})
    cluster.kill_daemon()
    cluster.cut("n1")
    ticket = cluster.ask("start", targets=["u"])
    assert ticket.waits and cluster.node("n1")["state"] == "SUSPECT"
    cluster.advance(4.0)
    assert ticket.code == "node-lost"


def test_tags_choose_the_node_with_the_fewest_units() -> None:
    units = {f"u{n}": far(TAGGED) for n in range(4)}
    cluster = Cluster(units, {"a": ("gpu",), "b": ("gpu", "big"), "c": ()})
    cluster.ask("start", targets=list(units))
    assert sorted(cluster.unit(name).node for name in units) == ["a", "a", "b", "b"]


def test_tags_of_an_operator_count_like_those_of_the_agent_and_outlive_the_daemon() -> None:
    cluster = Cluster({"u": far(TAGGED)}, {"n1": ("old",)})
    assert cluster.ask("start", targets=["u"], wait=False).ok
    assert "tags gpu" in cluster.unit("u").waiting_for
    assert cluster.ask("node-tags", node="n1", add=["gpu"], remove=["old"]).ok["tags"] == ["gpu"]
    assert cluster.unit("u").state is State.RUNNING
    cluster.kill_daemon()
    cluster.heal("n1")
    assert cluster.node("n1")["tags"] == ["gpu"]


def test_a_unit_here_waits_for_one_that_is_elsewhere_and_goes_before_it() -> None:
    units = {"db": far(), "app": a_unit(requires=["db"]), "web": far("n2", requires=["app"])}
    cluster = Cluster(units, {"n1": (), "n2": ()})
    ticket = cluster.ask("start", targets=["web"])
    assert ticket.ok
    order = [e["unit"] for e in cluster.daemon.events if e.get("state") == "RUNNING"]
    assert order == ["db", "app", "web"]
    cluster.ask("stop", targets=["db"])
    order = [e["unit"] for e in cluster.daemon.events if e["kind"] == "unit" and e["state"] == "STOPPED"]
    assert order == ["web", "app", "db"]


def test_the_place_of_a_unit_is_that_of_its_own_node() -> None:
    cluster = Cluster({"u": far(cpus="1"), "v": a_unit(cpus="1", placement={"exclusive": True})}, {"n1": ()})
    cluster.ask("start", targets=["u", "v"])
    assert cluster.unit("u").state is cluster.unit("v").state is State.RUNNING
    (status,) = cluster.client.ask("status", units=["u"]).ok["units"]
    assert status["cpus"] == [1]


def test_a_node_without_the_place_says_so() -> None:
    cluster = Cluster({"u": far(cpus="7")}, {"n1": ()})
    code, text = cluster.ask("start", targets=["u"]).refusal
    assert code == "start-failed" and "CPUs 7" in text


def test_failures_are_reset_on_the_node() -> None:
    cluster = Cluster({"u": far(restart={"limit": 0})}, {"n1": ()})
    cluster.ask("start", targets=["u"])
    cluster.agent("n1").exit("u", 1)
    cluster.pump()
    assert cluster.unit("u").state is State.FATAL
    cluster.ask("reset-failed", targets=["u"])
    assert cluster.unit("u").state is cluster.there("n1", "u").state is State.STOPPED
    cluster.check()


def test_an_agent_decides_nothing_that_is_its_daemons() -> None:
    cluster = Cluster({"u": far()}, {"n1": ()})
    client = cluster.agent("n1").client()
    for verb, row in messages.REQUESTS.items():
        if row.audience in (messages.Audience.OPERATOR, messages.Audience.USER) and verb not in (
            "stop-service",
            "dump",
            "workers",  # those of its own crew
        ):
            body = drift_frames.example(row.body, full=False)
            code, text = client.ask(verb, **body).refusal
            assert code == "not-available" and "tcp://daemon:1" in text, verb


def test_questions_about_a_unit_elsewhere_are_answered_by_its_agent() -> None:
    cluster = Cluster({"u": far()}, {"n1": ()})
    cluster.ask("start", targets=["u"])
    explained = cluster.ask("explain", target="u").ok
    assert explained["lines"][:2] == ["RUNNING: started", "it is on node n1, which is ALIVE"]


def test_questions_end_with_their_node() -> None:
    cluster = Cluster({"u": far()}, {"n1": ()})
    cluster.ask("start", targets=["u"])
    cluster.cut("n1")
    ticket = cluster.ask("logs", unit="u")
    assert ticket.waits
    cluster.advance(3.5)
    assert ticket.code == "node-lost" and cluster.ask("logs", unit="u").code == "node-lost"


# ---- cordon and drain ------------------------------------------------------------------------------------


def test_a_cordoned_node_takes_nothing_new_and_keeps_what_it_has() -> None:
    cluster = Cluster({"u": far(), "v": far()}, {"n1": ()})
    cluster.ask("start", targets=["u"])
    assert cluster.ask("node-cordon", node="n1").ok["cordoned"]
    assert cluster.ask("start", targets=["v"], wait=False).ok
    assert "uncordoned" in cluster.unit("v").waiting_for
    assert cluster.unit("u").state is State.RUNNING
    cluster.ask("node-cordon", node="n1", cordoned=False)
    assert cluster.unit("v").state is State.RUNNING


def test_a_drained_node_gives_its_units_to_others_and_is_empty() -> None:
    cluster = Cluster({"u": far(TAGGED), "v": far("a")}, {"a": ("gpu",), "b": ("gpu",)})
    cluster.ask("start", targets=["v"])
    cluster.ask("start", targets=["u"])
    assert cluster.unit("u").node == "b", "v is on a"
    cluster.ask("node-drain", node="b")
    assert (cluster.unit("u").node, cluster.unit("u").state) == ("a", State.RUNNING)
    drained = cluster.ask("node-drain", node="a")
    assert drained.ok["drained"] and cluster.running("u") == cluster.running("v") == []
    assert "uncordoned" in cluster.unit("v").waiting_for
    cluster.ask("node-cordon", node="b", cordoned=False)
    assert cluster.unit("u").node == "b"
    cluster.check()


# ---- what can happen -------------------------------------------------------------------------------------


def test_units_of_a_lost_node_are_kept_not_ready_and_are_back_with_it() -> None:
    cluster = Cluster({"u": far()}, {"n1": ()})
    cluster.ask("start", targets=["u"])
    cluster.cut("n1")
    cluster.advance(3.5)
    mirror = cluster.unit("u")
    assert (mirror.state, mirror.ready) == (State.RUNNING, False) and "n1 is lost" in mirror.reason
    cluster.heal("n1")
    cluster.advance(1.0)
    assert mirror.ready and mirror.incarnation == 1
    cluster.check()


def test_what_is_stopped_while_its_node_is_lost_is_ended_when_the_node_returns() -> None:
    cluster = Cluster({"u": far()}, {"n1": ()})
    cluster.ask("start", targets=["u"])
    cluster.cut("n1")
    cluster.advance(3.5)
    assert cluster.ask("stop", targets=["u"]).ok["states"] == {"u": "STOPPED"}
    assert cluster.running("u") == ["n1"]
    cluster.heal("n1")
    cluster.advance(1.0)
    assert cluster.running("u") == []
    cluster.check()


def test_what_is_stopped_and_started_meanwhile_is_another_life() -> None:
    cluster = Cluster({"u": far()}, {"n1": ()})
    cluster.ask("start", targets=["u"])
    cluster.cut("n1")
    cluster.advance(3.5)
    cluster.ask("stop", targets=["u"])
    assert cluster.ask("start", targets=["u"], wait=False).ok
    cluster.heal("n1")
    cluster.advance(1.0)
    assert cluster.unit("u").incarnation == 2 and cluster.running("u") == ["n1"]
    cluster.check()


ONE_ONLY = far(TAGGED, on_node_lost="replace", grace_s=2.0)
LEASED_S = 3.0 + 2.0 + 1.0  # lost, grace, and what is left for its shim


@pytest.mark.parametrize("how", ["cut off", "stopped", "killed"])
def test_a_unit_is_replaced_when_its_node_must_have_ended_it(how: str) -> None:
    """That it never runs twice is checked at every step of time."""
    cluster = Cluster({"u": ONE_ONLY}, {"a": ("gpu",), "b": ("gpu",)})
    cluster.ask("start", targets=["u"])
    cluster.advance(1.0)
    if how != "stopped":
        cluster.cut("a")
    if how != "cut off":
        cluster.stop_agent("a")
    cluster.advance(3.5)
    there = cluster.running("u")
    assert there == ([] if how == "cut off" else ["a"]), (
        "an agent that runs ends it, else its shim does later"
    )
    assert "given it up" in cluster.unit("u").waiting_for and cluster.unit("u").node == "a"
    cluster.advance(LEASED_S - 3.0)
    assert (cluster.unit("u").node, cluster.unit("u").state) == ("b", State.RUNNING)
    assert cluster.running("u") == ["b"]
    if how == "killed":
        cluster.kill_agent("a")
    cluster.go_on("a")
    cluster.heal("a")
    cluster.advance(2.0)
    assert cluster.running("u") == ["b"] and cluster.unit("u").incarnation == 2
    cluster.check()


def test_a_unit_that_was_cut_off_for_a_moment_runs_on() -> None:
    cluster = Cluster({"u": ONE_ONLY}, {"a": ("gpu",), "b": ("gpu",)})
    cluster.ask("start", targets=["u"])
    pid = cluster.unit("u").pid
    for _ in range(3):
        cluster.cut("a")
        cluster.advance(1.5)
        cluster.heal("a")
        cluster.advance(2.0)
    cluster.kill_agent("a")
    cluster.heal("a")
    cluster.advance(8.0)
    assert cluster.running("u") == ["a"] and cluster.unit("u").pid == pid


def test_a_unit_whose_node_ended_it_and_came_back_in_time_starts_there_again() -> None:
    cluster = Cluster({"u": ONE_ONLY}, {"a": ("gpu",)})
    cluster.ask("start", targets=["u"])
    cluster.advance(1.0)
    cluster.cut("a")
    cluster.advance(4.0)
    assert cluster.running("u") == []
    cluster.heal("a")
    cluster.advance(2.0)
    assert cluster.running("u") == ["a"] and cluster.unit("u").ready and cluster.unit("u").incarnation == 2
    cluster.check()


def test_an_agent_alone_starts_nothing_that_may_run_elsewhere() -> None:
    cluster = Cluster({"u": ONE_ONLY, "v": far(TAGGED)}, {"a": ("gpu",)})
    cluster.ask("start", targets=["u", "v"])
    cluster.advance(1.0)
    cluster.kill_daemon()
    cluster.cut("a")
    cluster.advance(7.0)
    assert cluster.running("u") == [] and cluster.running("v") == ["a"]
    world = cluster.agent("a")
    world.leader_ends(next(p for p in world.processes.values() if p.spawn.unit == "v" and not p.gone), 1)
    cluster.kill_agent("a")
    cluster.advance(5.0)
    assert cluster.running("u") == [] and cluster.running("v") == ["a"]
    cluster.heal("a")
    cluster.advance(3.0)
    assert cluster.running("u") == ["a"]


def test_a_daemon_that_is_killed_meanwhile_waits_as_long() -> None:
    cluster = Cluster({"u": ONE_ONLY}, {"a": ("gpu",), "b": ("gpu",)})
    cluster.ask("start", targets=["u"])
    cluster.advance(1.0)
    cluster.stop_agent("a")
    cluster.advance(3.5)
    cluster.kill_daemon()
    cluster.heal("b")
    cluster.advance(1.0)
    assert cluster.running("u") == ["a"] and cluster.unit("u").state is State.STOPPED
    cluster.advance(LEASED_S)
    assert cluster.running("u") == ["b"]


def test_a_unit_bound_to_one_node_is_kept_when_that_is_lost() -> None:
    cluster = Cluster({"u": far("a", on_node_lost="replace")}, {"a": ()})
    cluster.ask("start", targets=["u"])
    cluster.cut("a")
    cluster.advance(20.0)
    assert cluster.running("u") == ["a"]


def test_stop_ends_it_on_both_sides() -> None:
    cluster = Cluster({"u": far(on_node_lost="stop")}, {"n1": ()})
    cluster.ask("start", targets=["u"])
    cluster.cut("n1")
    cluster.advance(4.5)
    assert cluster.unit("u").state is State.STOPPED and cluster.running("u") == []
    cluster.heal("n1")
    cluster.advance(1.0)
    assert cluster.unit("u").state is State.STOPPED
    cluster.check()


def test_patience_that_is_looked_at_a_little_early_still_ends() -> None:
    cluster = Cluster({"u": far(on_node_lost="stop")}, {"n1": ()})
    cluster.ask("start", targets=["u"])
    cluster.break_off("n1")
    agent = cluster.agent("n1")
    key = ("uplink", "")
    agent.now_ns = agent.timers.pop(key) - 700_000  # the loop's clock has steps of a millisecond
    agent.feed(ev.TimerFired(key))
    assert cluster.running("u") == ["n1"]
    agent.advance(0.001)
    agent.settle()
    assert cluster.running("u") == []


def test_an_agent_that_is_killed_adopts_and_says_so() -> None:
    cluster = Cluster({"u": far()}, {"n1": ()})
    cluster.ask("start", targets=["u"])
    pid = cluster.unit("u").pid
    cluster.kill_agent("n1")
    cluster.heal("n1")
    cluster.advance(0.5)
    assert (cluster.unit("u").pid, cluster.unit("u").incarnation, cluster.unit("u").ready) == (pid, 1, True)
    cluster.check()


def test_a_daemon_that_is_killed_finds_its_units_as_they_are() -> None:
    cluster = Cluster({"u": far(), "v": far("n2")}, {"n1": (), "n2": ()})
    cluster.ask("start", targets=["u", "v"])
    pid = cluster.unit("u").pid
    cluster.kill_daemon()
    assert not cluster.unit("u").ready
    cluster.agent("n2").exit("v", 1)
    cluster.heal("n1")
    cluster.heal("n2")
    cluster.advance(3.0)
    assert (cluster.unit("u").pid, cluster.unit("u").incarnation, cluster.unit("u").ready) == (pid, 1, True)
    assert (cluster.unit("v").state, cluster.unit("v").incarnation) == (State.RUNNING, 2)
    cluster.check()


def test_both_are_killed() -> None:
    cluster = Cluster({"u": far()}, {"n1": ()})
    cluster.ask("start", targets=["u"])
    cluster.kill_daemon()
    cluster.kill_agent("n1")
    cluster.heal("n1")
    cluster.advance(1.0)
    assert cluster.unit("u").ready and cluster.unit("u").incarnation == 1
    cluster.check()


def test_an_agent_that_lost_its_folder_is_told_everything_again() -> None:
    cluster = Cluster({"u": far()}, {"n1": ()})
    cluster.ask("start", targets=["u"])
    link = cluster.links.pop("n1")
    link.world.processes.clear()  # the machine was set up anew
    cluster.advance(3.5)
    cluster.join("n1", agent="new")
    cluster.advance(1.0)
    assert cluster.running("u") == ["n1"] and cluster.unit("u").ready
    cluster.check()


def test_pushes_that_were_lost_are_sent_again_within_the_session() -> None:
    cluster = Cluster({"u": far()}, {"n1": ()})
    cluster.links["n1"].lose = 1
    ticket = cluster.ask("start", targets=["u"])
    assert ticket.waits
    cluster.break_off("n1")
    cluster.heal("n1")
    assert ticket.ok
    keeps = [w for w in cluster.daemon.history if w["kind"] == "node"]
    assert len(keeps) == 1, "nobody was lost"


def test_a_gap_in_the_pushes_is_noticed() -> None:
    cluster = Cluster({"u": far(), "v": far()}, {"n1": ()})
    cluster.links["n1"].lose = 1
    first = cluster.ask("start", targets=["u"])
    second = cluster.ask("start", targets=["v"])
    assert first.ok and second.ok
    cluster.check()


def test_an_older_word_is_refused() -> None:
    cluster = Cluster({"u": far()}, {"n1": ()})
    cluster.ask("start", targets=["u"])
    agent = cluster.agent("n1").state.agent
    assert agent is not None
    old = {**agent.assignments["u"].to_record(), "epoch": 1, "wanted": False}
    push = {"seq": agent._seen + 1, "what": "assign", "body": old}
    cluster.agent("n1").feed(ev.DaemonNoticed(agent._session, "node-push", push))
    assert agent.refused == 1 and cluster.there("n1", "u").state is State.RUNNING


def test_an_agent_that_is_stopped_takes_its_units_along_and_brings_them_back() -> None:
    cluster = Cluster({"u": far()}, {"n1": ()})
    cluster.ask("start", targets=["u"])
    agent = cluster.agent("n1")
    agent.feed(ev.StopRequested("SIGTERM", fast=False))
    cluster.pump()
    assert cluster.unit("u").state is State.STOPPED and "n1" in cluster.unit("u").waiting_for
    assert cluster.node("n1")["leaving"] and agent.quits() == 1
    cluster.kill_agent("n1")
    cluster.heal("n1")
    cluster.advance(1.0)
    assert cluster.unit("u").state is State.RUNNING and cluster.running("u") == ["n1"]
    cluster.check()


def test_a_daemon_that_is_stopped_leaves_the_units_of_its_nodes() -> None:
    cluster = Cluster({"u": far(), "here": a_unit()}, {"n1": ()})
    cluster.ask("start", targets=["u", "here"])
    cluster.ask("stop-service")
    assert cluster.daemon.quits() == 1 and cluster.running("u") == ["n1"]
    cluster.kill_daemon()
    cluster.heal("n1")
    cluster.advance(1.0)
    assert cluster.unit("u").ready and cluster.unit("u").incarnation == 1
    cluster.check()


def test_a_unit_that_the_configuration_no_longer_has_is_forgotten_everywhere() -> None:
    cluster = Cluster({"u": far()}, {"n1": ()})
    cluster.ask("start", targets=["u"])
    cluster.daemon.settings = Cluster({}).daemon.settings
    cluster.kill_daemon()
    cluster.heal("n1")
    cluster.advance(1.0)
    assert "u" not in cluster.daemon.state.supervisor.units and "u" not in cluster.daemon.assignments
    assert cluster.agent("n1").assignments == {} and "u" not in cluster.agent("n1").state.supervisor.units


@pytest.mark.parametrize(("before", "after"), [("n1", "n2"), ("n1", None), (None, "n1")])
def test_a_unit_moves_when_the_configuration_says_so(before: str | None, after: str | None) -> None:
    cluster = Cluster({"u": a_unit(node=before)}, {"n1": (), "n2": ()})
    cluster.ask("start", targets=["u"])
    ticket = cluster.client.ask("apply", within_s=None)
    cluster.daemon.reads(Cluster({"u": a_unit(node=after)}).daemon.settings)
    cluster.pump()
    assert [row["action"] for row in ticket.ok["actions"]] == ["restart"]
    assert (cluster.unit("u").node or None, cluster.unit("u").state) == (after, State.RUNNING)
    assert cluster.running("u") == ([after] if after else [])
    cluster.check()


def test_what_can_change_while_a_unit_runs_is_changed_without_a_restart() -> None:
    cluster = Cluster({"u": far(grace_s=5.0)}, {"n1": ()})
    cluster.ask("start", targets=["u"])
    ticket = cluster.client.ask("apply", within_s=None)
    cluster.daemon.reads(Cluster({"u": far(grace_s=6.0)}).daemon.settings)
    cluster.pump()
    assert [row["action"] for row in ticket.ok["actions"]] == ["keep"]
    assert cluster.there("n1", "u").spec.backend.grace_s == 6.0 and cluster.unit("u").incarnation == 1
    cluster.check()
