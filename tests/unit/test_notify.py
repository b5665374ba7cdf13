"""sd_notify against a real datagram socket, by path and in the abstract namespace."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mgmt.shell.notify import Notifier, watchdog_interval_s

Manager = tuple[socket.socket, str]


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    """A listening service manager and its NOTIFY_SOCKET."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@mgmt-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address.replace("@", "\0", 1))
        listener.settimeout(5)
        yield listener, address


def heard(manager: Manager) -> str:
    return manager[0].recv(4096).decode()


def test_every_state_is_one_datagram(manager: Manager) -> None:
    notifier = Notifier(manager[1])
    notifier.ready("2 units")
    assert heard(manager) == "READY=1\nSTATUS=2 units"
    notifier.ready()
    assert heard(manager) == "READY=1"
    notifier.status("loading m")
    assert heard(manager) == "STATUS=loading m"
    notifier.watchdog()
    assert heard(manager) == "WATCHDOG=1"
    notifier.main_pid(42)
    assert heard(manager) == "MAINPID=42"
    notifier.stopping("3 units left")
    assert heard(manager) == "STOPPING=1\nSTATUS=3 units left"
    notifier.reloading()
    first, second = heard(manager).split("\n")
    assert first == "RELOADING=1"
    assert int(second.removeprefix("MONOTONIC_USEC=")) > 0
    notifier.close()


def test_a_status_cannot_add_a_field(manager: Manager) -> None:
    notifier = Notifier(manager[1])
    notifier.status("died:\nREADY=1\r\n  twice")
    assert heard(manager) == "STATUS=died: READY=1 twice"
    notifier.close()


def test_the_address_is_taken_out_of_the_environment(manager: Manager) -> None:
    environ = {"NOTIFY_SOCKET": manager[1], "HOME": "/"}
    notifier = Notifier.from_environ(environ)
    assert environ == {"HOME": "/"}
    notifier.ready()
    assert heard(manager) == "READY=1"
    notifier.close()
    notifier.ready()  # after close: nothing, and no second socket
    manager[0].setblocking(False)
    with pytest.raises(BlockingIOError):
        heard(manager)


def test_without_a_manager_nothing_happens(caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier.from_environ({})
    notifier.ready("x")
    notifier.watchdog()
    notifier.close()
    assert caplog.records == []


@pytest.mark.parametrize(
    "address", ["/nonexistent/notify", "@nobody-listens", "vsock:2:1", "/" + "x" * 200, "/a\0b"]
)
def test_a_dead_socket_is_reported_once(address: str, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier(address)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            notifier.watchdog()
    assert len(caplog.records) == 1
    assert "NOTIFY_SOCKET" in caplog.text
    notifier.close()


def test_a_manager_that_never_reads_does_not_block(
    manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier(manager[1])
    for _ in range(5000):  # far beyond the queue of a datagram socket
        notifier.watchdog()
    assert len(caplog.records) == 1
    assert heard(manager) == "WATCHDOG=1"
    notifier.close()


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "10000000"}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "7"}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": ""}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "ten"}, None),
        ({"WATCHDOG_USEC": "10", "WATCHDOG_PID": "me"}, None),
    ],
)
def test_watchdog_interval(environ: dict[str, str], interval_s: float | None) -> None:
    assert watchdog_interval_s(environ, pid=7) == interval_s


def test_the_watchdog_is_for_this_process() -> None:
    environ = {"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}
    assert watchdog_interval_s(environ) == 1.0
