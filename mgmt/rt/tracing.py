"""Observation by eBPF: mgmt-observer, which has the kernel add up what threads do at each switch.

What goes over the socket is described at the top of observer.c. The program sleeps between requests; figures are
read from memory that the kernel writes, and stay as they are when the program ends.
"""

from __future__ import annotations

import errno
import mmap
import os
import socket
import subprocess
from pathlib import Path

from .executive import start_ticks_of
from .observation import TASK_BYTES, Observation, ObserverError, decode

PROGRAM = Path(__file__).with_name("mgmt-observer")
PROTOCOL_VERSION = 1
_PACKET_BYTES = 256
_ANSWER_S = 10.0  # loading is the longest: it reads the kernel's types
_CLOSE_S = 2.0


def probe(program: Path = PROGRAM) -> str:
    """Loads all, sees whether it works, and leaves nothing: the grain of a Tracer. ObserverError says why not."""
    try:
        done = subprocess.run(
            [program, "--probe"], capture_output=True, text=True, timeout=_ANSWER_S, check=False
        )
    except OSError as error:
        raise ObserverError(_unbuilt(error)) from error
    except subprocess.TimeoutExpired as error:
        raise ObserverError(f"{program.name} --probe did not end in time") from error
    if done.stdout.strip() != "ok":
        raise ObserverError(_failure(done.stdout.strip()))
    return Tracer.grain


class Tracer:
    """A running mgmt-observer. ObserverError when it cannot be started or may not load its program."""

    name = "ebpf"
    grain = ""

    def __init__(self, program: Path = PROGRAM) -> None:
        self._memory: dict[int, mmap.mmap] = {}
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(_ANSWER_S)
        with theirs:
            try:
                self.process = subprocess.Popen(
                    [program, "--fd", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except OSError as error:
                self._control.close()
                raise ObserverError(_unbuilt(error)) from error
        try:
            hello, _ = self._receive()
        except ObserverError:
            hello = ""
        if hello != f"hello version={PROTOCOL_VERSION} task_bytes={TASK_BYTES}":
            self.close()
            raise ObserverError(_failure(hello))

    def watch(self, pid: int, start_ticks: int) -> None:
        """See Mechanism."""
        pidfd = os.pidfd_open(pid)
        try:
            if start_ticks_of(pid) != start_ticks:  # pinned first, then compared
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
            answer, file = self._ask(f"watch pid={pid}", pidfd)
        finally:
            os.close(pidfd)
        if file < 0:
            raise ObserverError(f"process {pid} cannot be observed: {answer}")
        try:
            mapped = mmap.mmap(file, TASK_BYTES, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
        finally:
            os.close(file)
        self._forget(pid)
        self._memory[pid] = mapped

    def unwatch(self, pid: int) -> None:
        """See Mechanism."""
        if pid in self._memory:
            self._forget(pid)
            self._ask(f"unwatch pid={pid}")

    def read(self, pid: int) -> Observation | None:
        """See Mechanism."""
        mapped = self._memory.get(pid)
        return None if mapped is None else decode(mapped[:], mapped[:])

    def close(self) -> None:
        """See Mechanism: the kernel forgets it with the process."""
        self._control.close()
        try:
            self.process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for mapped in self._memory.values():
            mapped.close()
        self._memory.clear()

    def _forget(self, pid: int) -> None:
        mapped = self._memory.pop(pid, None)
        if mapped is not None:
            mapped.close()

    def _ask(self, line: str, *files: int) -> tuple[str, int]:
        try:
            socket.send_fds(self._control, [line.encode("ascii")], files)
        except OSError as error:
            raise ObserverError(_ENDED) from error
        return self._receive()

    def _receive(self) -> tuple[str, int]:
        """A packet, and the file that came with it or -1."""
        try:
            packet, files, _, _ = socket.recv_fds(self._control, _PACKET_BYTES, 1)
        except OSError as error:
            raise ObserverError(_ENDED) from error
        if not packet:
            raise ObserverError(_ENDED)
        return packet.decode("ascii", "replace"), files[0] if files else -1


_ENDED = "mgmt-observer has ended"


def _unbuilt(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "not built: install clang and libbpf (Debian, Ubuntu: clang libbpf-dev), then `make observe`"
    return f"{PROGRAM.name} cannot be started: {error.strerror}"


def _failure(line: str) -> str:
    """What a first word other than hello or ok means."""
    fields = dict(pair.split("=", 1) for pair in line.split() if "=" in pair)
    code = int(fields.get("errno", 0))
    name = errno.errorcode.get(code, str(code))
    if not line:
        return f"mgmt-observer does not start; `{PROGRAM} --probe` says why"
    if not line.startswith("failed"):
        return "mgmt-observer is of another version; build it: make observe"
    if fields.get("at") == "blind":
        return "the kernel knows processes by other numbers than this PID namespace: run the daemon in the host's"
    if code in (errno.EPERM, errno.EACCES):
        return f"not permitted ({name}): the daemon needs CAP_BPF and CAP_PERFMON"
    return f"refused by the kernel ({name}): Linux 5.18 with BTF is needed; `{PROGRAM} --probe` says more"
