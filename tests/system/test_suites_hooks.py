"""Hooks of suites: provision, background, cleanup, in their order, with their environment, when they fail."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.clients import eventually
from tests.system.daemon import Daemon, alive, daemons
from tests.system.suites import create, ended, serving, sh, show, status, submit, task_is

CONTEXT = (
    "MITOSIS_TASK_SUITE_UUID",
    "MITOSIS_TASK_SUITE_NAME",
    "MITOSIS_GROUP_NAME",
    "MITOSIS_WORKER_COUNT",
    "MITOSIS_NODE_MANAGER_ID",
)


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    with daemons() as start:
        yield serving(start)


@pytest.fixture
def daemon(shared: Daemon) -> Iterator[Daemon]:
    yield shared
    for suite in shared.control.ok("suites", states=["OPEN", "CLOSED"])["suites"]:
        shared.control.ok("suite-cancel", suite=str(suite["suite"]), cancel_running=True)


def hook(text: str, **keys: Any) -> dict[str, Any]:
    return {"args": ["sh", "-c", text], **keys}


def left(daemon: Daemon, suite: int) -> None:
    """No node is at work on it any more."""

    def look() -> bool:
        return not any(node["phase"] for node in status(daemon, suite)["nodes"])

    eventually(look, what=f"{suite} is left: {status(daemon, suite)['nodes']}")


def reason(daemon: Daemon, suite: int) -> str:
    """Why this machine gave the suite up."""

    def look() -> str:
        (node,) = status(daemon, suite)["nodes"]
        return node["reason"] if not node["phase"] else ""

    return eventually(look, what="it is given up")


def test_the_order_of_everything(daemon: Daemon, tmp_path: Path) -> None:
    log = tmp_path / "log"
    suite = create(
        daemon,
        2,
        hooks={
            "provision": hook(f"echo provision >> {log}; pwd >> {tmp_path}/cwd"),
            "background": hook(
                f"echo background >> {log}; trap 'echo stopped >> {log}; exit' TERM; sleep 55 & wait"
            ),
            "cleanup": hook(f"echo cleanup >> {log}"),
        },
    )
    submit(daemon, suite, *[sh(f"sleep 0.2; echo task >> {log}")] * 2)
    ended(daemon, suite)
    left(daemon, suite)
    assert log.read_text().split() == ["provision", "background", "task", "task", "stopped", "cleanup"]
    folder = (tmp_path / "cwd").read_text().strip()
    assert folder.endswith(f"suites/{status(daemon, suite)['uuid']}")
    eventually(lambda: not Path(folder).exists(), what="its folder is gone")


def test_what_hooks_are_told(daemon: Daemon, tmp_path: Path) -> None:
    text = "; ".join(f"echo {name}=${name}" for name in (*CONTEXT, "MINE"))
    envs = {"MINE": "{braces}", "MITOSIS_GROUP_NAME": "mine"}
    suite = create(daemon, 3, name="told", hooks={"provision": hook(f"({text}) > {tmp_path}/env", envs=envs)})
    submit(daemon, suite, ["true"])
    ended(daemon, suite)
    told = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    values = (status(daemon, suite)["uuid"], "told", "mine", "3", "local", "{braces}")
    assert tuple(told[name] for name in (*CONTEXT, "MINE")) == values, "the user's environment goes over ours"


@pytest.mark.parametrize(("which", "most_s"), [("provision", 3600), ("cleanup", 600)])
def test_a_hook_has_so_much_time_at_most(daemon: Daemon, which: str, most_s: int) -> None:
    longest = {"args": ["true"], "timeout_s": float(most_s)}
    number = create(daemon, 1, hooks={which: longest})
    refused = daemon.control.refused("suite-create", hooks={which: {**longest, "timeout_s": most_s + 1.0}})
    assert refused["code"] == "bad-body" and f"a {which} hook has {most_s} at most" in refused["text"]
    wrong: dict[str, Any]
    for wrong in ({"args": []}, {"args": ["a"], "envs": {"a=b": ""}}, {"args": ["a"], "timeout_s": 0.0}):
        assert daemon.control.refused("suite-create", hooks={which: wrong})["code"] == "bad-body"
    daemon.control.ok("suite-cancel", suite=str(number))


@pytest.mark.parametrize(
    ("provision", "why"),
    [
        (hook("exit 4"), "exit status 4"),
        (hook("sleep 55", timeout_s=0.4), "not finished in time"),
        ({"args": ["/nonexistent"]}, "provision"),
    ],
    ids=["fails", "late", "missing"],
)
def test_without_provision_there_is_no_work(daemon: Daemon, provision: dict[str, Any], why: str) -> None:
    suite = create(daemon, hooks={"provision": provision, "cleanup": hook("true")})
    (task,) = submit(daemon, suite, ["true"])
    assert why in reason(daemon, suite)
    assert status(daemon, suite)["state"] == "OPEN", "it stays for others"
    assert show(daemon, task)["status"]["state"] == "READY"
    assert any(why in line for line in show(daemon, task)["lines"]), "asking why tells"
    other = create(daemon)
    submit(daemon, other, ["true"])
    ended(daemon, other)
    assert not any(node["phase"] for node in status(daemon, suite)["nodes"]), "it is not offered again"


def test_a_refresh_offers_it_again(daemon: Daemon, tmp_path: Path) -> None:
    suite = create(daemon, hooks={"provision": hook(f"test -e {tmp_path}/ready")})
    submit(daemon, suite, ["true"])
    assert reason(daemon, suite)
    (tmp_path / "ready").touch()
    assert daemon.control.ok("suite-refresh", suite=str(suite))["added"] == ["local"]
    assert ended(daemon, suite)["state"] == "COMPLETE"


def test_a_cleanup_that_fails_is_told_and_harms_nothing(daemon: Daemon, tmp_path: Path) -> None:
    suite = create(daemon, hooks={"cleanup": hook("exit 9")})
    submit(daemon, suite, ["true"])
    assert ended(daemon, suite)["state"] == "COMPLETE"
    left(daemon, suite)
    eventually(lambda: "exit status 9" in daemon.log(), what="the log tells")
    folder = daemon.state_dir / "suites" / str(status(daemon, suite)["uuid"])
    eventually(lambda: not folder.exists(), what="its folder is gone")
    submit(daemon, suite, ["true"])
    assert ended(daemon, suite)["state"] == "COMPLETE", "it may be given to this machine again"


def test_a_late_hook_ends_with_all_it_started(daemon: Daemon, tmp_path: Path) -> None:
    text = f"setsid sleep 50 & echo $! > {tmp_path}/pid; sleep 50"
    suite = create(daemon, hooks={"provision": hook(text, timeout_s=0.5)})
    submit(daemon, suite, ["true"])
    assert reason(daemon, suite)
    assert not alive(int((tmp_path / "pid").read_text()))


def test_a_background_process_is_started_again(daemon: Daemon, tmp_path: Path) -> None:
    text = f"echo up >> {tmp_path}/ups; [ $(wc -l < {tmp_path}/ups) -gt 1 ] || exit 1; sleep 55"
    suite = create(daemon, hooks={"background": hook(text, policy="restart")})
    wait = f"while [ ! -e {tmp_path}/ups ] || [ $(wc -l < {tmp_path}/ups) -lt 2 ]; do sleep 0.05; done"
    submit(daemon, suite, sh(wait))
    assert ended(daemon, suite)["state"] == "COMPLETE"


def test_a_background_process_that_must_not_fail(daemon: Daemon, tmp_path: Path) -> None:
    text = f"while [ ! -e {tmp_path}/now ]; do sleep 0.02; done; exit 5"
    cleanup = hook(f"echo cleaned >> {tmp_path}/cleaned")
    suite = create(daemon, hooks={"background": hook(text, policy="fail"), "cleanup": cleanup})
    (task,) = submit(daemon, suite, sh(f"touch {tmp_path}/runs; sleep 50"))
    eventually((tmp_path / "runs").exists, what="the task runs")
    (tmp_path / "now").touch()
    began_s = time.monotonic()
    assert "exit status 5" in reason(daemon, suite)
    assert time.monotonic() - began_s < 15.0
    assert task_is(daemon, task, "READY"), "others may do it"
    assert (tmp_path / "cleaned").read_text().split() == ["cleaned"]
    daemon.control.ok("suite-cancel", suite=str(suite))


def test_a_suite_that_is_cancelled_while_it_is_prepared_is_left_at_once(
    daemon: Daemon, tmp_path: Path
) -> None:
    text = f"setsid sleep 50 & echo $! > {tmp_path}/pid; wait"
    suite = create(daemon, hooks={"provision": hook(text), "cleanup": hook(f"touch {tmp_path}/cleaned")})
    (task,) = submit(daemon, suite, ["true"])
    eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), what="it prepares")
    daemon.control.ok("suite-cancel", suite=str(suite))
    assert task_is(daemon, task, "CANCELLED")
    left(daemon, suite)
    assert not alive(int((tmp_path / "pid").read_text()))
    other = create(daemon)
    submit(daemon, other, ["true"])
    ended(daemon, other)
