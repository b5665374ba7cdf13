"""A bug in the core: whoever asked is told, the log has the traceback, and the daemon goes on without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.clients import eventually
from tests.system.daemon import Daemon, Start, config, model, symphony

# Runs in the daemon before its own code, as a module of this name does in every Python.
BUGS = """
import sys
if sys.orig_argv[1:3] == ["-m", "mgmt"]:
    from mgmt.core import step
    handlers = step.HANDLERS

    def broken(*_):
        raise ZeroDivisionError("a bug in a handler")

    def breaks_after(handler):
        def run(*arguments):
            handler(*arguments)
            raise ZeroDivisionError("a bug behind a handler")
        return run

    def breaks_when(state):
        change = step._on_change
        def run(core, now, what, out):
            change(core, now, what, out)
            if str(what.state) == state and core.counters.get("faults", 0) < 2:
                raise ZeroDivisionError("a bug in a change")
        return run

    handlers["explain"] = broken
    handlers["load-model"] = breaks_after(handlers["load-model"])
    handlers["models"] = lambda *_: {"models": object()}
    step._on_change = breaks_when("RUNNING")
"""


@pytest.fixture
def daemon(start: Start, tmp_path: Path) -> Daemon:
    (tmp_path / "sitecustomize.py").write_text(BUGS)
    settings = config({"stub": symphony()}, [model("a", "stub"), model("b", "stub")])
    made = start(settings, environ={"PYTHONPATH": str(tmp_path)})
    made.clean = False  # its log has tracebacks
    return made


def test_who_asked_is_told_and_the_daemon_goes_on(daemon: Daemon) -> None:
    refusal = daemon.control.refused("explain", target="a")
    assert refusal["code"] == "internal" and not refusal["retryable"]
    assert refusal["text"].startswith("explain: ") and "daemon's log" in refusal["text"]
    assert daemon.status()["service"]["counters"]["faults"] == 1
    eventually(lambda: "a bug in a handler" in daemon.log() and "Traceback" in daemon.log())
    events = daemon.control.ok("subscribe", since=0, follow=False)["events"]
    assert any(event.get("what") == "fault" and "explain" in event["reason"] for event in events)
    assert not daemon.legacy("load-model", model_name="a")["success"]
    assert daemon.stop() == 0


@pytest.mark.parametrize("key", ["", "once"])
def test_what_a_broken_step_began_is_finished_and_answered_once(daemon: Daemon, key: str) -> None:
    """The bug comes when the request is parked and the unit STARTING; another comes when it is RUNNING."""
    control = daemon.control
    reply = control.reply(control.ask("load-model", key=key, model="a"))
    assert reply.body["code"] == "internal", reply
    unit = daemon.reaches("a", "RUNNING")
    assert unit["ready"] and daemon.status()["service"]["counters"]["faults"] == 2
    control.ok("unload-model", model="a")
    assert daemon.unit("a")["state"] == "STOPPED"
    assert not control.socket.poll(100), "one answer each"
    daemon.crash()  # what was done by broken steps is in the store, too
    assert daemon.start().unit("a")["state"] == "STOPPED"


def test_an_answer_that_cannot_be_encoded_is_an_answer(daemon: Daemon) -> None:
    refusal = daemon.control.refused("models")
    assert refusal["code"] == "internal" and "log" in refusal["text"]
    assert daemon.control.ok("status")
    eventually(lambda: "TypeError" in daemon.log(), what="the traceback is in the log")
