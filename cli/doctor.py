"""`mgmt doctor`: what this machine allows, found out by trying it. Starts nothing, leaves nothing."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from mgmt.protocol import places
from mgmt.protocol.errors import Exit, MgmtError

from . import render, spawn
from .invocation import Invocation, verb

PACKAGES = ("pyzmq", "msgpack", "psutil", "click", "pydantic", "uvloop", "protobuf")
COLORS = {"ok": "32", "refused": "31", "absent": "33"}


@dataclass(frozen=True, slots=True)
class Probe:
    """One finding: `status` is ok, refused (the system said no) or absent; `needed` decides the exit."""

    probe: str
    status: str
    needed: bool
    detail: str
    meaning: str


@verb("doctor")
def doctor(invocation: Invocation) -> int:
    """Exits 1 when something the daemon cannot do without is missing; what is merely absent costs a feature,
    and its meaning says which."""
    probes = [probe for look in LOOKS for probe in look(invocation)]
    if invocation.json:
        invocation.emit("mgmt.doctor/1", {"probes": [asdict(probe) for probe in probes]})
    else:
        rows = [[probe.probe, probe.status, probe.detail, probe.meaning] for probe in probes]
        head, *lines = render.table(["PROBE", "STATUS", "FOUND", "MEANING"], rows)
        click.echo(head)
        for line, probe in zip(lines, probes, strict=True):
            painted = f" \033[{COLORS[probe.status]}m{probe.status}\033[0m "
            click.echo(line.replace(f" {probe.status} ", painted, 1) if invocation.colored else line)
    failed = any(probe.needed and probe.status != "ok" for probe in probes)
    return Exit.FAILED if failed else Exit.OK


def said(error: OSError) -> str:
    """EPERM: Operation not permitted."""
    return f"{errno.errorcode.get(error.errno or 0, '?')}: {error.strerror}"


def tried(name: str, call: Callable[[], str], meaning: str, needed: bool = False) -> Probe:
    """Do it, and report what the system said."""
    try:
        return Probe(name, "ok", needed, call(), meaning)
    except (FileNotFoundError, NotADirectoryError) as error:
        return Probe(name, "absent", needed, said(error), meaning)
    except OSError as error:
        return Probe(name, "refused", needed, said(error), meaning)


def python(_: Invocation) -> Iterator[Probe]:
    from importlib.metadata import PackageNotFoundError, version

    found = ".".join(map(str, sys.version_info[:3]))
    status = "ok" if sys.version_info >= (3, 11) else "refused"
    yield Probe("python", status, True, found, "3.11 or newer is needed")
    for package in PACKAGES:
        try:
            yield Probe(package, "ok", True, version(package), "a package mgmt runs on")
        except PackageNotFoundError:
            yield Probe(package, "absent", True, "not installed", "a package mgmt runs on: make venv")
    import zmq

    ipc = "with ipc" if zmq.has("ipc") else "without ipc"
    yield Probe(
        "libzmq", "ok" if zmq.has("ipc") else "absent", True, f"{zmq.zmq_version()} {ipc}", "the transport"
    )


def folders(_: Invocation) -> Iterator[Probe]:
    for name, folder, meaning in (
        ("runtime folder", places.runtime_dir(), "sockets; MGMT_RUNTIME_DIR names another"),
        ("state folder", places.state_dir(), "logs and what must survive; MGMT_STATE_DIR names another"),
    ):
        yield tried(name, lambda folder=folder: _writable(folder), meaning, needed=True)  # type: ignore[misc]


def _writable(folder: Path) -> str:
    """Create and remove a file in it, or in the nearest folder above that it would be made in."""
    import tempfile

    there = next(path for path in (folder, *folder.parents) if path.exists())
    with tempfile.TemporaryFile(dir=there):
        pass
    return f"{folder} is writable" if there == folder else f"{folder} can be made in {there}"


def configuration(invocation: Invocation) -> Iterator[Probe]:
    from mgmt.config import load

    meaning = "what the daemon is told; see `mgmt config check`"
    try:
        loaded = load(Path(invocation.config) if invocation.config else None)
    except MgmtError as error:
        yield Probe("configuration", "refused", True, error.text.partition("\n")[0], meaning)
        return
    where = loaded.path or "built-in"
    yield Probe(
        "configuration", "ok", True, f"{where}, {len(loaded.settings.supported_models)} models", meaning
    )


def daemon(invocation: Invocation) -> Iterator[Probe]:
    meaning = "a running daemon; start one with `mgmt start-service`"
    try:
        service = spawn.answering(invocation)
    except MgmtError as error:
        yield Probe("daemon", "refused", False, error.text.partition("\n")[0], meaning)
        return
    if service is None:
        yield Probe("daemon", "absent", False, f"nobody answers at {invocation.where()}", meaning)
    else:
        found = f"pid {service['pid']}, epoch {service['epoch']}, {service['version']}"
        yield Probe("daemon", "ok", False, found, meaning)


def scheduling(_: Invocation) -> Iterator[Probe]:
    yield tried("affinity", _set_affinity, "pinning backends to CPUs (`cpus`)")
    yield tried("SCHED_FIFO", _set_fifo, "real-time priorities; needs CAP_SYS_NICE or a limit on rtprio")
    yield tried("nice -1", _set_nice, "`nice` below 0; needs CAP_SYS_NICE")
    yield tried("memlock", _lock_memory, "keeping memory resident; see `ulimit -l`")


def _set_affinity() -> str:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
    finally:
        os.sched_setaffinity(0, allowed)
    return f"CPUs {render.cpu_list(sorted(allowed))}"


def _set_fifo() -> str:
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    os.sched_setscheduler(0, policy, parameters)
    return f"priorities 1 to {os.sched_get_priority_max(os.SCHED_FIFO)}"


def _set_nice() -> str:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, before - 1)
    os.setpriority(os.PRIO_PROCESS, 0, before)
    return "allowed"


def _lock_memory() -> str:
    import ctypes
    import mmap
    import resource

    libc = ctypes.CDLL(None, use_errno=True)
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        held = ctypes.c_char.from_buffer(page)
        place, length = ctypes.c_void_p(ctypes.addressof(held)), ctypes.c_size_t(mmap.PAGESIZE)
        failed = libc.mlock(place, length)
        code = ctypes.get_errno()
        if not failed:
            libc.munlock(place, length)
        del held  # else the page cannot be given back
    if failed:
        raise OSError(code, os.strerror(code))
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return "no limit" if limit == resource.RLIM_INFINITY else f"up to {render.size(limit)}"


def cgroups(_: Invocation) -> Iterator[Probe]:
    v2 = "one tree per unit: limits, and stops that nothing escapes"
    yield tried("cgroup v2", _cgroup_v2, v2)
    yield tried("cgroup delegation", _cgroup_delegation, "making groups of our own; Delegate=yes in a unit")
    yield tried("cgroup v1", _cgroup_v1, "older systems only; v2 is preferred")


def _cgroup_v2() -> str:
    return "controllers " + (Path("/sys/fs/cgroup/cgroup.controllers").read_text().strip() or "none")


def _cgroup_delegation() -> str:
    own = next(
        (line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")),
        None,
    )
    if own is None:
        raise FileNotFoundError(errno.ENOENT, "this process is in no v2 group")
    probe = Path(f"/sys/fs/cgroup{own}") / f"mgmt-doctor-{os.getpid()}"
    probe.mkdir()
    probe.rmdir()
    return f"below {own}"


def _cgroup_v1() -> str:
    names = [line.split(":")[1] for line in Path("/proc/self/cgroup").read_text().splitlines()]
    v1 = sorted(name for name in names if name)
    if not v1:
        raise FileNotFoundError(errno.ENOENT, "no v1 hierarchy")
    return ", ".join(v1)


def programs(_: Invocation) -> Iterator[Probe]:
    import mgmt

    shim = Path(mgmt.__file__).parent / "shell" / "mgmt-shim"

    def look() -> str:
        shim.stat()
        if not os.access(shim, os.X_OK):
            raise PermissionError(errno.EACCES, "it is not executable")
        return str(shim)

    yield tried("mgmt-shim", look, "every backend is started through it: make venv builds it", needed=True)
    try:
        import onnxruntime

        found = f"{onnxruntime.__version__}, {', '.join(onnxruntime.get_available_providers())}"
        status = "ok"
    except ImportError as error:
        found, status = str(error), "absent"
    yield Probe("onnxruntime", status, False, found, "models of type onnx: pip install 'mgmt[magika]'")


LOOKS: tuple[Callable[[Invocation], Iterator[Probe]], ...] = (
    python,
    folders,
    configuration,
    daemon,
    scheduling,
    cgroups,
    programs,
)
