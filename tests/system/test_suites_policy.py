"""What an agent's policy says about suites."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.agents import Join, agents
from tests.system.clients import eventually
from tests.system.daemon import Start


@pytest.fixture
def join() -> Iterator[Join]:
    with agents() as make:
        yield make


@pytest.mark.parametrize("allowed", [False, True])
def test_an_agent_runs_suites_only_if_its_policy_says_so(
    start: Start, join: Join, tmp_path: Path, allowed: bool
) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"executables": ["/bin/true"], **({"suites": True} if allowed else {})}))
    daemon = start({"endpoints": {"nodes": "ipc://{runtime}/nodes"}})
    join(daemon, "n1", "--tag", "far", "--policy", str(policy))
    daemon.control.ok("suite-create", name="s", tags=["far"])
    daemon.control.ok("task-submit", suite="s", tasks=[{"args": ["true"]}])
    if allowed:
        assert daemon.control.ok("suite-wait", suite="s")["tasks"]["finished"] == 1
        return

    def reason() -> str:
        (suite,) = daemon.control.ok("suites", suites=["s"])["suites"]
        return "".join(node["reason"] for node in suite["nodes"])

    eventually(lambda: "`suites` in its policy.json" in reason(), what="the refusal is told")
    assert daemon.control.ok("suites", suites=["s"])["suites"][0]["tasks"]["ready"] == 1
