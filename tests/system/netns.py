"""Machines with a network of their own, on one machine: network namespaces on a bridge, by good wires or bad ones.

The namespaces have no names: they are open files of this process, and whoever is started in one keeps it. So
nothing of them is left when this process and those are gone, however they end, and runs beside one another do not
meet.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from tests.system.linkproxy import Wire

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
SIOCETHTOOL = 0x8946
# Computing checksums, gathering, and sending more than a frame at once, left to hardware that is not there.
OFFLOADS = (0x17, 0x19, 0x1F, 0x24, 0x2C)
SUBNET = "10.77.0"
MASK = 24
_LIBC = ctypes.CDLL(None, use_errno=True)


def why_impossible() -> str:
    """What is missing here for namespaces, "" for nothing."""
    if os.geteuid() != 0:
        return "network namespaces need uid 0"
    for program in ("ip", "nsenter"):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian, Ubuntu: apt-get install iproute2 util-linux)"
    try:
        with Network():
            pass
    except (OSError, subprocess.CalledProcessError) as error:
        said = error.stderr if isinstance(error, subprocess.CalledProcessError) else error
        return f"no namespaces on a bridge can be made here: {said}"
    return ""


def _in_thread(work: Callable[[], T]) -> T:
    """What is done to the namespace of a thread is gone with the thread."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - handed to the caller as it is
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _checked(status: int) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Namespace:
    """A network namespace, open as a file; `enter` is the command that executes another in it."""

    def __init__(self) -> None:
        def make() -> int:
            _checked(_LIBC.unshare(CLONE_NEWNET))
            return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

        self._file = _in_thread(make)
        self.path = f"/proc/{os.getpid()}/fd/{self._file}"
        self.enter = ("nsenter", f"--net={self.path}", "--")

    def within(self, work: Callable[[], T]) -> T:
        """The result of `work`, done by a thread of this namespace."""

        def run() -> T:
            _checked(_LIBC.setns(self._file, CLONE_NEWNET))
            return work()

        return _in_thread(run)

    def run(self, *command: str) -> str:
        """What a command prints; CalledProcessError when it fails."""
        return subprocess.run(
            [*self.enter, *command], check=True, capture_output=True, text=True, timeout=20
        ).stdout

    def ip(self, *lines: str) -> None:
        """Commands of `ip`, a line each."""
        subprocess.run(
            [*self.enter, "ip", "-batch", "-"], input="\n".join(lines) + "\n",
            check=True, capture_output=True, text=True, timeout=20,
        )  # fmt: skip

    def close(self) -> None:
        os.close(self._file)


class Host(Namespace):
    """A machine: its namespace, its address on eth0, and its wire to the bridge when it was asked for one."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address
        self.wire: Wire | None = None

    @property
    def bad_wire(self) -> Wire:
        assert self.wire is not None, "this machine was attached without a wire"
        return self.wire

    def processes(self) -> list[int]:
        """Whose network this is, as this machine numbers them."""
        wanted = os.stat(self.path).st_ino
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.stat(entry / "ns/net").st_ino == wanted:
                    found.append(int(entry.name))
            except OSError:
                continue  # it ended
        return found

    def link(self, state: str) -> None:
        """Its own cable: `up` or `down`."""
        self.run("ip", "link", "set", "eth0", state)


class Network:
    """A bridge in a namespace of its own; `with` ends its wires and lets the namespaces go."""

    def __init__(self) -> None:
        self._switch = Namespace()
        self._hosts: list[Host] = []
        self._switch.ip("link add br0 type bridge", "link set br0 up", "link set lo up")

    def attach(self, *, wire: bool = False) -> Host:
        """Another machine; `wire`: what it sends and gets goes through a Wire."""
        number = len(self._hosts) + 1
        host = Host(f"{SUBNET}.{number}")
        self._hosts.append(host)
        port, far, near = f"p{number}", f"f{number}", f"n{number}"
        end = near if wire else port
        lines = [f"link add {end} type veth peer name eth0 netns {host.path}", f"link set {end} up"]
        if wire:
            lines += [f"link add {port} type veth peer name {far}", f"link set {far} up"]
        self._switch.ip(*lines, f"link set {port} master br0", f"link set {port} up")
        host.ip(f"addr add {host.address}/{MASK} dev eth0", "link set lo up", "link set eth0 up")
        if wire:
            # A frame that is carried by hand must be a whole frame, with its checksum.
            host.within(lambda: _without_offloads("eth0"))
            self._switch.within(lambda: _without_offloads(port))
            host.wire = self._switch.within(lambda: Wire(near, far))
        return host

    def port(self, host: Host, state: str) -> None:
        """The other end of a machine's cable: `up` or `down`."""
        self._switch.ip(f"link set p{self._hosts.index(host) + 1} {state}")

    def close(self) -> None:
        for host in self._hosts:
            if host.wire is not None:
                host.wire.close()
        for namespace in (*self._hosts, self._switch):
            namespace.close()

    def __enter__(self) -> Network:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _without_offloads(interface: str) -> None:
    with socket.socket() as probe:
        for command in OFFLOADS:
            value = array.array("B", struct.pack("=II", command, 0))
            request = struct.pack("16sP16x", interface.encode(), value.buffer_info()[0])
            fcntl.ioctl(probe, SIOCETHTOOL, request)
