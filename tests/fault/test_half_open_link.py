"""P6: a link that swallows everything while both ends believe in it: each request ends once, both ends recover."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mgmt.client import Client
from mgmt.protocol.errors import MgmtError
from tests.system.clients import eventually
from tests.system.daemon import Start, config, shipped

DEADLINE_S = 0.4


class Link:
    """Forwards TCP connections to a port; `cut` makes it swallow what arrives, without closing anything."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cut = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            other: dict[socket.socket, socket.socket] = {}
            while not self._stop.is_set():
                for key, _ in selector.select(0.02):
                    end = key.fileobj
                    assert isinstance(end, socket.socket)
                    if end is self._listener:
                        near, _ = self._listener.accept()
                        far = socket.create_connection(("127.0.0.1", self._target))
                        other |= {near: far, far: near}
                        for one in (near, far):
                            selector.register(one, selectors.EVENT_READ)
                        continue
                    data = _received(end)
                    if not data:
                        selector.unregister(end)
                    elif not self.cut.is_set():
                        other[end].sendall(data)
            for end in (*other, self._listener):
                end.close()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


def _received(end: socket.socket) -> bytes:
    try:
        return end.recv(65_536)
    except ConnectionError:
        return b""


@contextmanager
def link_to(port: int) -> Iterator[Link]:
    link = Link(port)
    try:
        yield link
    finally:
        link.close()


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_each_request_over_a_dead_link_ends_once_and_in_time(start: Start, free_port: int) -> None:
    timing = {"heartbeat_s": 0.2, "session_timeout_s": 1.0}
    endpoints = {"control": f"tcp://127.0.0.1:{free_port}", "insecure": True}
    settings = config({"echo": shipped("echo")}, endpoints=endpoints, timing=timing)
    daemon = start(settings)
    with link_to(free_port) as link, Client(f"tcp://127.0.0.1:{link.port}", connect_timeout_s=1.0) as client:
        assert client.request("status")["service"]["state"] == "running"
        link.cut.set()
        for _ in range(3):
            began_s = time.monotonic()
            with pytest.raises(MgmtError) as ended:
                client.request("status", timeout_s=DEADLINE_S)
            assert ended.value.code in ("expired", "unreachable", "daemon-lost")
            assert time.monotonic() - began_s < DEADLINE_S + 1.5
        onlooker = daemon.native()

        def forgotten() -> bool:
            onlooker.tell("heartbeat")
            return bool(onlooker.ok("status")["service"]["sessions"] == 1)

        eventually(forgotten, what="the daemon ended the silent sessions")
        link.cut.clear()

        def heals() -> bool:
            try:
                return bool(client.request("status", timeout_s=DEADLINE_S)["service"]["state"] == "running")
            except MgmtError:
                return False

        eventually(heals, what="the same client is served again")
    assert not daemon.log().count("Traceback")
