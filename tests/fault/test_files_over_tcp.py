"""Files of tasks on another machine: 5 MB each way over tcp with keys, broken off in the middle."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mgmt.client import Client
from mgmt.client.files import download, upload
from mgmt.protocol import curve, keys
from tests.fault.test_keys import Guarded, a_pair
from tests.system.agents import BEAT_S, Agent, Proxy, becomes
from tests.system.clients import eventually
from tests.system.suites import adds_up, create, show, submit, task_is

pytestmark = pytest.mark.skipif(not curve.is_available(), reason="this libzmq has no CURVE")

SIZE = 5 << 20
LEAVES = "cp $MITO_RESOURCE_DIR/in.bin $MITO_RESULT_DIR/out.bin; cat $MITO_RESOURCE_DIR/in.bin"


class Far:
    """A daemon, its agent n1 behind a proxy, and a client."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        timing = {"node_heartbeat_s": BEAT_S, "node_lost_s": 30.0}
        self.daemon = Guarded({"model_backends": {}, "timing": timing})
        stack.enter_context(self.daemon)
        self.daemon.start()
        self.proxy = Proxy(self.daemon.nodes_port)
        stack.callback(self.proxy.close)
        pair = a_pair("n1", "agent:n1")
        self.daemon.allow(pair, pair.role)
        keys.write_pair(folder / "keys", pair)
        named = ("--key", str(folder / "keys" / "n1.key"), "--server-key", self.daemon.server)
        self.agent = Agent(self.proxy.endpoint, "n1", *named, "--policy", "any", "--tag", "far")
        stack.enter_context(self.agent)
        self.agent.start()
        becomes(self.daemon, "n1", "ALIVE")
        self._operator = self.daemon.allow(a_pair("operator", keys.OPERATOR), keys.OPERATOR)

    def client(self) -> Client:
        return Client(self.daemon.endpoint("control"), credentials=self._operator)

    def interrupt(self, how: str) -> None:
        """The link was cut in the middle; whatever happens then, it is whole again afterwards."""
        if how == "agent killed":
            self.agent.crash()
        elif how == "daemon killed":
            self.daemon.crash()
        elif how == "link silent":
            becomes(self.daemon, "n1", "SUSPECT")
        self.proxy.heal()
        self.proxy.reset()
        if how == "agent killed":
            self.agent.start()
        elif how == "daemon killed":
            self.daemon.start()


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Far]:
    with ExitStack() as stack:
        yield Far(stack, tmp_path)


@pytest.mark.parametrize("way", ["there", "back"])
@pytest.mark.parametrize("how", ["agent killed", "daemon killed", "link silent", "link reset"])
def test_five_megabytes_over_tcp_with_keys_broken_off_in_the_middle(
    far: Far, tmp_path: Path, how: str, way: str
) -> None:
    path = tmp_path / "in.bin"
    path.write_bytes(os.urandom(SIZE))
    with far.client() as client:
        told = upload(client, path, None, "in.bin")
    suite = create(far.daemon, tags=["far"])
    task: dict[str, Any] = {
        "args": ["sh", "-c", LEAVES],
        "resources": [{"blob": told["blob"], "path": "in.bin"}],
        "terminal_output": True,
    }
    # Towards the daemon go the results, from it the resources.
    far.proxy.allowance = {way == "back": SIZE // 2}
    (number,) = submit(far.daemon, suite, task)
    eventually(lambda: not far.proxy.to, what="it is cut in the middle")
    before = far.proxy.carried[way == "back"]
    far.interrupt(how)
    found = task_is(far.daemon, number, "FINISHED", "FAILED", timeout_s=60.0)
    shown = show(far.daemon, number)
    assert (found["state"], found["exit_status"], found["message"]) == ("FINISHED", 0, ""), shown
    assert [one["kind"] for one in shown["artifacts"]] == ["result", "std-log"]
    with far.client() as client:
        download(client, f"task:{number}/std-log", tmp_path / "log")
        download(client, f"task:{number}/result", tmp_path / "result")
    assert (tmp_path / "log").read_bytes() == path.read_bytes()
    with tarfile.open(tmp_path / "result") as archive:
        out = archive.extractfile("out.bin")
        assert out is not None and out.read() == path.read_bytes()
    adds_up(far.daemon, suite)
    if way == "back":
        after = far.proxy.carried[True] - before
        assert after < 2 * SIZE - SIZE // 4, f"what had come was sent again: {after} bytes"
