"""The kernel's mechanisms that `mgmt doctor` tries: scheduling, limits, clocks, processes, groups, topology."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from . import render
from .findings import Probe, tried

SCHED_DEADLINE = 6
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 36, 37
TIME_ERROR = 5  # what adjtimex answers while nothing keeps the clock in step
TIMEX_BYTES = 256  # more than the kernel's struct has anywhere
MACHINE_TIMEOUT_S = 20.0  # a GPU that sleeps takes a while to answer
STATUS = {"available": "ok", "refused": "refused", "absent": "absent"}
OBSERVERS = {
    "ebpf": "what the kernel says of tasks: wake-up, CPU and response times, each slice of a CPU",
    "perf": "... without the first: CPU time, switches, migrations",
    "schedstat": "... without both: CPU time, waiting, switches",
}


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


# ---- scheduling and limits -------------------------------------------------------------------------------


def scheduling() -> Iterator[Probe]:
    yield tried("affinity", _set_affinity, "pinning units to CPUs (`cpus`, `placement`)")
    realtime = "real-time priorities; needs CAP_SYS_NICE or a limit on rtprio"
    yield tried("SCHED_FIFO", lambda: _set_policy(os.SCHED_FIFO), realtime)
    yield tried("SCHED_RR", lambda: _set_policy(os.SCHED_RR), realtime)
    yield tried("SCHED_DEADLINE", _set_deadline, "the policy `deadline`; needs CAP_SYS_NICE, and all CPUs")
    yield tried("nice -1", _set_nice, "`nice` below 0; needs CAP_SYS_NICE or a limit on nice")
    yield tried("memlock", _lock_memory, "keeping memory resident; see `ulimit -l`")
    limit = resource.getrlimit(resource.RLIMIT_RTPRIO)[1]
    found = "no limit" if limit == resource.RLIM_INFINITY else f"up to {limit}"
    meaning = "real-time priorities without CAP_SYS_NICE; LimitRTPRIO= of a systemd unit raises it"
    yield Probe("RLIMIT_RTPRIO", "ok" if limit else "refused", False, found, meaning)
    yield tried("RT throttling", _throttling, "the share of time that real-time units may take together")


def _set_affinity() -> str:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
    finally:
        os.sched_setaffinity(0, allowed)
    return f"CPUs {render.cpu_list(sorted(allowed))}"


def _set_policy(policy: int) -> str:
    before, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setscheduler(0, policy, os.sched_param(1))
    os.sched_setscheduler(0, before, parameters)
    return f"priorities 1 to {os.sched_get_priority_max(policy)}"


def _set_deadline() -> str:
    number = SCHED_SETATTR.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"not known how to ask on {platform.machine()}")
    before, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    # size, policy, flags, nice, priority, runtime, deadline and period in ns
    wish = struct.pack("=IIQiIQQQ", 48, SCHED_DEADLINE, 0, 0, 0, 1_000_000, 100_000_000, 100_000_000)
    _checked(_libc().syscall(number, 0, wish, 0))
    os.sched_setscheduler(0, before, parameters)
    return "1 ms of every 100 ms was granted"


def _set_nice() -> str:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, before - 1)
    os.setpriority(os.PRIO_PROCESS, 0, before)
    return "allowed"


def _lock_memory() -> str:
    import mmap

    libc = _libc()
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


def _throttling() -> str:
    folder = Path("/proc/sys/kernel")
    runtime, period = (int((folder / f"sched_rt_{name}_us").read_text()) for name in ("runtime", "period"))
    return "off" if runtime < 0 else f"{runtime} of {period} us"


# ---- clocks ----------------------------------------------------------------------------------------------


def clocks() -> Iterator[Probe]:
    source = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    meaning = "what the time is read from; hpet and acpi_pm are slow"
    yield tried("clock source", lambda: source.read_text().strip(), meaning)
    grain_ns = time.get_clock_info("monotonic").resolution * 1e9
    status = "ok" if grain_ns <= 1000 else "refused"
    yield Probe("timers", status, False, f"grain {grain_ns:.0f} ns", "back-off, deadlines and probes in time")
    yield _in_step()


def _in_step() -> Probe:
    meaning = "times in events and logs mean the same on other machines; durations do not depend on it"
    try:
        answer = _checked(_libc().adjtimex(ctypes.create_string_buffer(TIMEX_BYTES)))
    except OSError as error:
        return tried("clock in step", lambda error=error: _raise(error), meaning)  # type: ignore[misc]  # bound early
    if answer == TIME_ERROR:
        return Probe("clock in step", "absent", False, "nothing keeps it in step with the world", meaning)
    return Probe("clock in step", "ok", False, "kept in step", meaning)


def _raise(error: OSError) -> str:
    raise error


# ---- processes -------------------------------------------------------------------------------------------


def processes() -> Iterator[Probe]:
    yield tried("pidfd", _open_pidfd, "naming a process so that it cannot be another one", needed=True)
    yield tried("subreaper", _be_subreaper, "escaped descendants come back to their shim", needed=True)
    boot = Path("/proc/sys/kernel/random/boot_id")
    meaning = "telling processes of this boot from those before"
    yield tried("boot id", lambda: boot.read_text().strip(), meaning, needed=True)


def _open_pidfd() -> str:
    os.close(os.pidfd_open(os.getpid()))
    return "available"


def _be_subreaper() -> str:
    libc = _libc()
    before = ctypes.c_int()
    _checked(libc.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0))
    _checked(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
    _checked(libc.prctl(PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0))
    return "available"


# ---- what the daemon would find --------------------------------------------------------------------------


def machine() -> Iterator[Probe]:
    """Control groups, topology and GPUs, by the daemon's own code in a process of its own."""
    try:
        found = _machine()
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        meaning = "control groups, topology and GPUs as the daemon sees them"
        yield Probe("machine", "refused", False, str(error).partition("\n")[0], meaning)
        return
    for row in found["cgroups"]:
        where = f"v{row['version']} {row['path']}" if row["version"] else ""
        detail = ": ".join(part for part in (row["errno"], where) if part) or "none"
        yield Probe(f"cgroup {row['name']}", STATUS[row["state"]], False, detail, row["meaning"])
    cpus, nodes = found["cpus"], found["nodes"]
    size = f"{len(cpus)} CPUs ({render.cpu_list(cpus)}), {found['cores']} cores, {len(nodes)} nodes"
    yield Probe(
        "topology", "ok", False, f"{size}, {render.size(found['memory_bytes'])}", "what units are placed on"
    )
    for name, observer in found["observers"].items():
        status = "ok" if observer["works"] else "absent"
        yield Probe(f"observer {name}", status, False, observer["found"] or "works", OBSERVERS[name])
    gpus = found["gpus"]
    detail = ", ".join(part for part in (f"{len(gpus)} found" if gpus else "", found["gpus_why"]) if part)
    yield Probe("GPUs", "ok" if gpus else "absent", False, detail, "`placement.gpus`, by the NVIDIA driver")


def _machine() -> Any:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "mgmt.shell.machine"],
        capture_output=True,
        check=False,
        text=True,
        timeout=MACHINE_TIMEOUT_S,
    )
    if done.returncode != 0:
        raise ValueError((done.stderr.strip().splitlines() or ["it said nothing"])[-1])
    return json.loads(done.stdout)


MECHANISMS: tuple[Callable[[], Iterator[Probe]], ...] = (scheduling, clocks, processes, machine)
