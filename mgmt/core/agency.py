"""The daemon in the role of an agent: what its own daemon says to it, and what it refuses to others."""

from __future__ import annotations

from typing import Any

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.event import NODES_PLANE, Asked, Now
from mgmt.core.nodes import Agent
from mgmt.core.state import State
from mgmt.core.suites.crew import Assignment
from mgmt.core.suites.pool import Ending, Phase, Progress
from mgmt.core.suites.upward import ToDaemon
from mgmt.protocol.errors import MgmtError

# What an agent answers to anybody who may ask it; the rest is its daemon's to decide.
OPEN = frozenset(
    {
        *(
            "hello",
            "backend-hello",
            "backend-ready",
            "status",
            "models",
            "wait",
            "subscribe",
            "logs",
            "explain",
        ),
        *("dump", "lease", "release", "stop-service", "nodes", "schedule-stat", "workers"),
    }
)

OF_AGENTS = frozenset({"agent-hello", "blob-begin", "blob-chunk", "blob-commit", "blob-read"})


def of(state: State) -> Agent:
    assert state.agent is not None, "events of the link reach agents only"
    return state.agent


def refuse_what_is_the_daemons(state: State, asked: Asked) -> None:
    """MgmtError `not-available` for a command that would change what the daemon decides."""
    if state.agent is not None and asked.verb not in OPEN:
        name, daemon = state.agent.facts.name, state.agent.facts.daemon
        text = f"this is the agent of node {name}: {asked.verb} is for its daemon, which it joins at {daemon}"
        raise MgmtError("not-available", text, daemon=daemon)
    if state.agent is None and asked.route.plane == NODES_PLANE and asked.verb not in OF_AGENTS:
        text = "agents ask for the files of what they run, and for nothing else; use the control endpoint"
        raise MgmtError("denied", text)


def on_link_up(state: State, now: Now, event: ev.LinkUp, out: list[fx.Effect]) -> None:
    identity = state.identity
    of(state).on_link_up(now, identity.started.real_s, identity.version, identity.pid, identity.log_dir, out)


def on_link_down(state: State, now: Now, event: ev.LinkDown, out: list[fx.Effect]) -> None:
    agent = of(state)
    if agent.joined:
        out.append(fx.Note("WARNING", f"the link to {agent.facts.daemon} broke: {event.reason}", {}))
    agent.on_link_down(now, out)
    if event.error is not None:
        _refused(state, now, event.error, out)


def on_welcomed(state: State, now: Now, event: ev.Welcomed, out: list[fx.Effect]) -> None:
    agent = of(state)
    agent.on_welcome(now, event.body, out)
    if event.body.get("faults") is not None:
        agent.tell_faults(now, *state.journal.since(event.body["faults"]), out)
    state.crew.on_link(now, out)
    what = "node" if agent.facts.worker is None else "worker"
    out.append(fx.Note("INFO", f"joined {agent.facts.daemon} as {what} {agent.facts.name}", {}))


def on_refused(state: State, now: Now, event: ev.Refused, out: list[fx.Effect]) -> None:
    _refused(state, now, event.error, out)


def _refused(state: State, now: Now, error: MgmtError, out: list[fx.Effect]) -> None:
    if not of(state).on_refused(now, error, out):
        _give_up(state, error, out)


def on_joining(state: State, now: Now, what: str, out: list[fx.Effect]) -> None:
    error = of(state).on_joining(now, what, out)
    if error is not None:
        out.append(fx.Note("ERROR", error.text, {"code": error.code}))
        _give_up(state, error, out)


def _give_up(state: State, error: MgmtError, out: list[fx.Effect]) -> None:
    if not state.quit_said:
        state.stopping = state.quit_said = True
        state.sessions.close(MgmtError("stopping", f"the agent ends: {error.text}"), out)
        out.append(fx.Quit(int(error.row.exit)))


def on_daemon_noticed(state: State, now: Now, event: ev.DaemonNoticed, out: list[fx.Effect]) -> None:
    agent, body = of(state), event.body
    if event.name == "node-gone":
        if agent.joined:
            agent.on_gone(now, out)
    elif not agent.is_of_session(event.session):
        state.count("stale_notices")
    elif event.name == "node-heartbeat":
        agent.on_beat(now, body, out)
    elif event.name == "crew-work":
        tasks = [tuple(task) for task in body["tasks"]]
        state.crew.on_work(now, body["holder"], body["number"], tasks, body["cancelling"], body["stale"], out)
    elif event.name == "node-push" and not state.quit_said:
        agent.on_push(now, body["seq"], body["what"], body["body"], out)


def on_suite(state: State, now: Now, what: str, body: dict[str, Any], out: list[fx.Effect]) -> None:
    """A word of the daemon about suites."""
    if what == "suite":
        facts = of(state).facts
        if facts.policy is None or facts.policy.suites:
            state.crew.assign(now, Assignment.from_record(body), out)
        else:
            text = f"the policy of node {facts.name} does not allow suites (`suites` in its policy.json)"
            refusal = Progress(body["holder"], Phase.IDLE, text, failed=True)
            ToDaemon(of(state)).progress(now, refusal, out)
    elif what == "suite-end":
        state.crew.end(now, body["holder"], Ending(body["how"]), body["reason"], out)
    elif what == "suite-cancel":
        state.crew.cancel(now, body["holder"], body["tasks"], out)
    elif what == "suite-pause":
        state.crew.pause(now, body["paused"], out)


def on_tasks_staged(state: State, now: Now, event: ev.TasksStaged, out: list[fx.Effect]) -> None:
    if state.agent is None:
        state.execution.on_staged(now, event, out)
    else:
        state.hosting.on_staged(event)


def on_task_reported(state: State, now: Now, event: ev.TaskReported, out: list[fx.Effect]) -> None:
    """A task was late, or is not watched: the journal has it, from which the daemon of an agent is told."""
    state.execution.on_reported(now, event, state.hosting.named(event.unit), out)


def on_sampled(state: State, now: Now, event: ev.Sampled, out: list[fx.Effect]) -> None:
    state.supervisor.on_sampled(event)
    if state.agent is not None:
        state.agent.tell_usage(event.usage, out)
