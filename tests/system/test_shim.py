"""The shim against real processes: what it prepares, reports, survives, and leaves behind."""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import resource
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from .shim_driver import FLAGS, SOURCE, Connection, Packet, Shim, alive, build, fields, start_ticks, until

ROOT = os.geteuid() == 0
NOBODY = 65534
SANITIZED = "sanitize" in os.environ.get("MGMT_SHIM_CFLAGS", "")
CHAOS = r"""
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static void hold(int fd) { write(fd, "x", 1); for (;;) pause(); } /* one byte for each process in place */
int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    time_t end = time(0) + 60;              /* should nobody end it: a killed test leaves no storm behind */
    int fd = open(argv[2], O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (!strcmp(mode, "double")) {          /* an orphan, and a leader that ends */
        if (!fork()) { if (!fork()) hold(fd); _exit(0); }
        wait(0);
        return 7;
    }
    if (!strcmp(mode, "escape")) {          /* orphans in sessions of their own, three deep */
        for (int i = 0; i < 3; i++) { if (fork()) { if (i) _exit(0); hold(fd); } setsid(); }
        hold(fd);
    }
    if (!strcmp(mode, "stubborn")) {        /* leader and children ignore what can be ignored */
        for (int s = 1; s < 32; s++) signal(s, SIG_IGN);
        for (int i = 0; i < 5; i++) if (!fork()) hold(fd);
        hold(fd);
    }
    if (!strcmp(mode, "chain")) {           /* runs away: each generation forks the next and ends */
        for (int i = 0; i < 4; i++) if (!fork()) { setsid(); if (!i) write(fd, "x", 1);
            while (time(0) < end) { if (fork() > 0) _exit(0); setsid(); } _exit(0); }
        hold(fd);
    }
    if (!strcmp(mode, "loop")) {            /* each forks without end, with at most eight alive */
        for (int i = 0; i < 8; i++) if (!fork()) { setsid(); if (i == 7) write(fd, "x", 1);
            for (int n = 0; time(0) < end;) {
                if (!fork()) { usleep(1000); _exit(0); }
                if (++n > 8) wait(0), n--; } }
        hold(fd);
    }
    return 64;
}
"""

Start = Callable[..., Shim]


@pytest.fixture(scope="session")
def tools() -> Iterator[Path]:
    """A folder that any user can read, with `mgmt-shim` and the program `chaos`."""
    folder = Path(tempfile.mkdtemp(prefix="mgmt-shim-"))
    folder.chmod(0o755)
    build(folder / "mgmt-shim")
    (folder / "chaos.c").write_text(CHAOS)
    subprocess.run(["cc", "-O1", "-w", "-o", folder / "chaos", folder / "chaos.c"], check=True)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def start(tools: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts shims; at the end of the test each is swept and must have ended well."""
    running = ExitStack()
    count = itertools.count()

    def run(
        *program: str,
        options: Sequence[str] = (),
        folder: Path | None = None,
        env: dict[str, str] | None = None,
        user: int | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Shim:
        env = dict(os.environ) if env is None else env
        if SANITIZED:
            env = {**env, "ASAN_OPTIONS": "exitcode=99", "UBSAN_OPTIONS": "halt_on_error=1:exitcode=99"}
        folder = folder or tmp_path / f"unit{next(count)}"
        folder.mkdir(parents=True, exist_ok=True)
        if user is not None:
            os.chown(folder, user, user)
        shim = Shim(tools / "mgmt-shim", folder, options, program, env=env, user=user, pass_fds=pass_fds)
        return running.enter_context(shim)

    with running:
        yield run


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder below which another user may work (tmp_path is private to this one)."""
    folder = Path(tempfile.mkdtemp(prefix="mgmt-shim-unit-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def sh(script: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", script)


def ended(shim: Shim) -> Packet:
    """The `exited` packet of a unit that starts, ends and leaves nothing."""
    shim.started()
    packet = shim.expect("exited")
    shim.expect("empty")
    shim.end()
    return packet


def descendants(pid: int) -> set[int]:
    """Living processes below `pid`, by the parents in /proc."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                rest = Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if rest[0] not in "ZX":
                parents[int(entry)] = int(rest[1])
    found = {pid}
    while more := {p for p, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


# ---- start, end, record ----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_exit_code(start: Start, code: int) -> None:
    shim = start(*sh(f"exit {code}"))
    pid = shim.started()
    packet = shim.expect("exited")
    record = shim.record()  # it is there when the packet is
    assert packet["code"] == record["code"] == str(code)
    assert (record["why"], record["pid"], record["argv0"]) == ("exited", str(pid), "/bin/sh")
    assert (record["shim"], record["left"], record["empty"]) == (str(shim.pid), "0", "1")
    assert record["boot"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert packet.fields.items() <= record.items()
    shim.expect("empty")
    assert shim.receive() is None
    shim.end()
    assert sorted(p.name for p in shim.folder.iterdir()) == ["exit", "shim"]


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGRTMAX])
def test_exit_signal(start: Start, sig: int) -> None:
    packet = ended(start(*sh(f"ulimit -c 0; kill -{int(sig)} $$")))
    assert (packet["signal"], packet["core"]) == (str(int(sig)), "0")
    assert "code" not in packet.fields


def test_usage_and_times_of_the_exit(start: Start) -> None:
    before_mono, before_real = time.monotonic_ns(), time.time_ns()
    packet = ended(start(sys.executable, "-c", "x = bytearray(64 << 20)\nfor i in range(10**6): pass"))
    assert int(packet["maxrss_kb"]) > 64 << 10
    assert 1_000 < int(packet["utime_us"]) + int(packet["stime_us"]) < 10_000_000
    assert before_mono < int(packet["mono_ns"]) < time.monotonic_ns()
    assert before_real < int(packet["real_ns"]) < time.time_ns()


def test_argv0_is_encoded(start: Start, tmp_path: Path) -> None:
    odd = tmp_path / "a b=%é\n"
    odd.write_text("#!/bin/sh\n")
    odd.chmod(0o755)
    shim = start(str(odd))
    ended(shim)
    assert shim.record()["argv0"] == f"{tmp_path}/a%20b%3D%25%C3%A9%0A"


def test_identity_proves_shim_and_leader(start: Start) -> None:
    shim = start("/bin/sleep", "1000")
    pid = shim.started()
    assert shim.identity() == {
        "shim": str(shim.pid),
        "start": start_ticks(shim.pid),
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "pid": str(pid),
        "pid_start": start_ticks(pid),
    }


def test_path_of_the_program_is_searched(start: Start, tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "tool").chmod(0o755)
    assert ended(start("tool", env={"PATH": f"/nowhere:{tmp_path}"}))["code"] == "3"


# ---- refusals --------------------------------------------------------------------------------------------


def refused(shim: Shim) -> tuple[str, int]:
    """Stage and errno of a unit that is not executed; record, packets and end must agree."""
    packet = shim.expect("state", "failed")
    if packet.word == "state":
        packet = shim.expect("failed")
    shim.process.wait()
    if (shim.folder / "exit").exists():
        record = shim.record()
        assert (record["why"], record["empty"]) == ("exec-failed", "1")
        assert packet.fields.items() <= record.items()
    assert not (shim.folder / "ctl").exists()
    shim.status = shim.process.returncode
    return packet["stage"], int(packet["errno"])


ENOENT, EACCES, EPERM, EINVAL, EBUSY = 2, 13, 1, 22, 16


@pytest.mark.parametrize(
    ("options", "program", "expected"),
    [
        ([], ["/nowhere/tool"], ("exec", ENOENT)),
        ([], ["no-such-tool"], ("exec", ENOENT)),
        ([], ["/etc/passwd"], ("exec", EACCES)),
        (["--cwd", "/nowhere"], ["true"], ("cwd", ENOENT)),
        (["--cgroup", "/nowhere"], ["true"], ("cgroup", ENOENT)),
        (["--shim-cgroup", "/nowhere"], ["true"], ("shim-cgroup", ENOENT)),
        (["--cpus", "8000"], ["true"], ("affinity", EINVAL)),
        (["--cpus", "0,8000"], ["true"], ("affinity", EINVAL)),  # the kernel alone would cut it to 0
        (["--memory-nodes", "1023"], ["true"], ("memory-nodes", EINVAL)),
        (["--memory-nodes", "0,1023"], ["true"], ("memory-nodes", EINVAL)),  # as with CPUs
        (["--policy", "deadline:9:5:1"], ["true"], ("policy", EINVAL)),
        (["--rlimit", "NOFILE=4000000000:4000000000"], ["true"], ("rlimit", EPERM)),
        (["--rlimit", "NOFILE=2:1"], ["true"], ("rlimit", EINVAL)),
        (["--log", "/nowhere/log"], ["true"], ("log", ENOENT)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_refused_step(
    start: Start, options: list[str], program: list[str], expected: tuple[str, int]
) -> None:
    shim = start(*program, options=options)
    assert refused(shim) == expected
    assert shim.status == 0


@pytest.mark.skipif(not ROOT, reason="not root: cannot become another user")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--nice", "-5"], ("nice", EACCES)),
        (["--policy", "fifo:5"], ("policy", EPERM)),
        (["--oom-score-adj", "-900"], ("oom-score-adj", EACCES)),
        (["--groups", "0"], ("groups", EPERM)),
        (["--group", "0"], ("group", EPERM)),
        (["--user", "0"], ("user", EPERM)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_refused_privilege(
    start: Start, open_folder: Path, options: list[str], expected: tuple[str, int]
) -> None:
    shim = start("true", options=options, folder=open_folder / "unit", user=NOBODY)
    assert refused(shim) == expected


def test_deadline_policy_on_fewer_cpus_is_refused_by_the_kernel(start: Start) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one CPU: a mask of one is the whole machine")
    options = ["--cpus", str(min(os.sched_getaffinity(0))), "--policy", "deadline:1000000:10000000:10000000"]
    assert refused(start("true", options=options)) == ("policy", EPERM)


@pytest.mark.parametrize(
    "options",
    [
        ["--nonsense", "1"], ["--cpus", ""], ["--cpus", "3-1"], ["--cpus", "1,"], ["--policy", "fifo"],
        ["--memory-nodes", ""], ["--memory-nodes", "1024"], ["--memory-nodes", "all"],
        ["--policy", "fifo:100"], ["--policy", "deadline:1:2"], ["--nice", "20"], ["--nice", "x"],
        ["--rlimit", "NOFILE"], ["--rlimit", "NOFILE=1"], ["--rlimit", "X=1:1"], ["--rlimit", "AS=-1:1"],
        ["--umask", "888"], ["--umask", "1000"], ["--groups", "1,"], ["--user", "4294967295"],
        ["--log-keep", "-1"], ["--oom-score-adj", "1001"], ["--timer-slack-ns", "9223372036854775808"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_refused_argument(start: Start, options: list[str]) -> None:
    shim = start("true", options=options)
    packet = shim.expect("failed")
    assert (packet["stage"], packet["errno"], packet["at"]) == ("args", "22", options[0])
    shim.status = shim.process.wait()
    assert shim.status == 64


def test_folder_of_a_living_shim_is_not_taken(start: Start) -> None:
    first = start("/bin/sleep", "1000")
    first.started()
    second = start("true", folder=first.folder)
    packet = second.expect("failed")
    assert (packet["stage"], packet["errno"]) == ("ctl", "98")
    second.status = second.process.wait()
    assert first.connect().expect("state")["shim"] == str(first.pid)
    assert first.identity()["shim"] == str(first.pid)


def test_folder_of_a_dead_shim_is_taken(start: Start) -> None:
    first = start("/bin/sleep", "1000")
    pid = first.started()
    first.process.kill()
    first.process.wait()
    os.kill(pid, signal.SIGKILL)
    second = start(*sh("exit 5"), folder=first.folder)
    assert ended(second)["code"] == "5"


# ---- what the program finds -------------------------------------------------------------------------------


def output(shim: Shim, log: Path) -> str:
    ended(shim)
    return log.read_text()


def test_settings_are_those_asked_for(start: Start, tmp_path: Path) -> None:
    cpu = max(os.sched_getaffinity(0))
    log = tmp_path / "log"
    options = [
        "--log", str(log), "--cpus", str(cpu), "--nice", "5", "--rlimit", "NOFILE=100:200",
        "--rlimit", "core=0:unlimited", "--oom-score-adj", "500", "--umask", "027", "--cwd", "/usr",
        "--timer-slack-ns", "123456",
    ]  # fmt: skip
    if resource.getrlimit(resource.RLIMIT_CORE)[1] != resource.RLIM_INFINITY:
        options[options.index("core=0:unlimited")] = "core=0:0"
    script = (
        "umask; pwd; cat /proc/self/oom_score_adj /proc/self/timerslack_ns; nice; ulimit -Sn; ulimit -Hn;"
        "grep Cpus_allowed_list /proc/self/status"
    )
    words = output(start(*sh(script), options=options), log).split()
    assert words == ["0027", "/usr", "500", "123456", "5", "100", "200", "Cpus_allowed_list:", str(cpu)]


def test_session_signals_and_descriptors_are_clean(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "log"
    leak_read, leak_write = os.pipe()
    try:
        shim = start(
            *sh("cat /proc/$$/stat; exec ls -l /proc/self/fd"),
            options=["--log", str(log)],
            pass_fds=[leak_write],
        )
        os.close(leak_write)
        # Held open by nobody: neither the shim nor the unit kept what leaked into the start.
        assert select.select([leak_read], [], [], 10)[0]
        assert os.read(leak_read, 1) == b""
    finally:
        os.close(leak_read)
    text = output(shim, log)
    pid, group, session = (text.split()[i] for i in (0, 4, 5))
    assert pid == group == session
    links = dict(re.findall(r" (\d+) -> (.*)", text))
    own = [fd for fd, to in links.items() if to.startswith("/proc/")]  # of ls
    assert sorted(set(links) - set(own)) == ["0", "1", "2"]
    assert links["0"] == "/dev/null"
    assert links["1"] == links["2"]
    assert links["1"].startswith("pipe:")


@contextmanager
def ignored(*numbers: int) -> Iterator[None]:
    """These signals are ignored by the children of this process, those of the C library included."""
    call = {"x86_64": 13, "aarch64": 134, "riscv64": 134}.get(os.uname().machine)
    if call is None:
        pytest.skip(f"the number of rt_sigaction on {os.uname().machine} is not known here")
    libc = ctypes.CDLL(None)
    ignore, before = (ctypes.c_ulong * 8)(signal.SIG_IGN), [(ctypes.c_ulong * 8)() for _ in numbers]
    for number, old in zip(numbers, before, strict=True):
        assert libc.syscall(call, number, ignore, old, 8) == 0
    yield
    for number, old in zip(numbers, before, strict=True):
        assert libc.syscall(call, number, old, None, 8) == 0


def test_signals_are_default_and_unblocked(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with ignored(signal.SIGHUP, 32, 33, signal.SIGRTMIN):
        shim = start("/bin/cat", "/proc/self/status", options=["--log", str(log)])
    status = fields(output(shim, log).replace(":\t", "="))
    masks = {key: int(status[key], 16) for key in ("SigBlk", "SigIgn", "SigCgt")}
    assert masks == dict.fromkeys(masks, 0)


def test_environment_is_identical_at_every_start(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "log"
    env = {"B": "2", "A": "é=\n", "EMPTY": ""}
    seen = set()
    for _ in range(10):
        ended(start("/bin/cat", "/proc/self/environ", options=["--log", str(log)], env=env))
        seen.add(log.read_bytes())
        log.unlink()
    wanted = "".join(f"{key}={value}\0" for key, value in env.items()).encode()
    assert seen == {wanted} if not SANITIZED else all(s.startswith(wanted) for s in seen)


@pytest.mark.parametrize(
    ("policy", "number", "priority"),
    [
        ("other", os.SCHED_OTHER, 0),
        ("batch", os.SCHED_BATCH, 0),
        ("idle", os.SCHED_IDLE, 0),
        ("fifo:5", os.SCHED_FIFO, 5),
        ("rr:7", os.SCHED_RR, 7),
        ("deadline:1000000:10000000:10000000", 6, 0),
    ],
)
def test_policy(start: Start, policy: str, number: int, priority: int) -> None:
    shim = start("/bin/sleep", "1000", options=["--policy", policy])
    shim.expect("state")
    packet = shim.expect("started", "failed")
    if packet.word == "failed":
        assert (packet["stage"], packet["at"]) == ("policy", policy)
        pytest.skip(f"policy {policy} is refused here: {os.strerror(int(packet['errno']))}")
    stat_fields = Path(f"/proc/{packet['pid']}/stat").read_text().rsplit(")", 1)[1].split()
    assert (int(stat_fields[38]), int(stat_fields[37])) == (number, priority)  # policy, rt_priority
    if ":" in policy:
        flags = os.sched_getscheduler(int(packet["pid"]))
        assert flags & os.SCHED_RESET_ON_FORK


def test_memory_comes_from_the_nodes_asked_for(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "log"
    shim = start("/bin/cat", "/proc/self/numa_maps", options=["--log", str(log), "--memory-nodes", "0"])
    shim.expect("state")
    packet = shim.expect("started", "failed")
    if packet.word == "failed":
        assert (packet["stage"], packet["at"]) == ("memory-nodes", "0")
        pytest.skip(f"set_mempolicy is refused here: {os.strerror(int(packet['errno']))}")
    shim.expect("exited")
    shim.expect("empty")
    policies = {line.split()[1] for line in log.read_text().splitlines()}
    assert policies == {"bind:0"}, "of every mapping"


@pytest.mark.skipif(not ROOT, reason="not root: cannot become another user")
def test_user_group_and_groups(start: Start, open_folder: Path) -> None:
    log = open_folder / "log"
    log.touch()
    log.chmod(0o600)  # the shim writes it, not the unit
    options = ["--log", str(log), "--user", "1234", "--group", "2345"]
    text = output(start("/bin/cat", "/proc/self/status", options=options), log)
    assert re.search(r"Uid:\s+1234\s+1234\s+1234\s+1234\nGid:\s+2345\s+2345\s+2345\s+2345", text)
    assert re.search(r"Groups:\s*\n", text), "a changed user keeps no groups"
    log.write_text("")
    text = output(start("/bin/cat", "/proc/self/status", options=[*options, "--groups", "7,8"]), log)
    assert re.search(r"Groups:\t7 8 ?\n", text)


def test_mlock_locks_the_shim(start: Start) -> None:
    shim = start("/bin/sleep", "1000", options=["--mlock"])
    shim.expect("state")
    packet = shim.expect("started", "failed") if not SANITIZED else shim.expect("started")
    if packet.word == "failed":
        pytest.skip(f"mlockall is refused here: {os.strerror(int(packet['errno']))}")
    locked = re.search(r"VmLck:\s+(\d+)", Path(f"/proc/{shim.pid}/status").read_text())
    assert locked
    assert SANITIZED or int(locked[1]) > 0


# ---- the daemon comes and goes ----------------------------------------------------------------------------


def test_adoption_while_running(start: Start) -> None:
    shim = start("/bin/sleep", "1000")
    pid = shim.started()
    shim.close()
    daemon = shim.connect()
    state = daemon.expect("state")
    assert (state["phase"], state["pid"], state["start"]) == ("running", str(pid), start_ticks(pid))
    assert (state["shim"], state["shim_start"]) == (str(shim.pid), start_ticks(shim.pid))
    daemon.send("signal-leader 15")
    assert daemon.expect("exited")["signal"] == "15"
    daemon.expect("empty")
    shim.end()


def test_exit_while_the_daemon_is_away(start: Start, tools: Path, tmp_path: Path) -> None:
    shim = start(str(tools / "chaos"), "double", str(tmp_path / "held"))
    shim.started()
    shim.close()
    until((shim.folder / "exit").exists, "the record")
    record = shim.record()
    assert (record["why"], record["code"], record["left"], record["empty"]) == ("exited", "7", "1", "0")
    daemon = shim.connect()
    state = daemon.expect("state")
    assert (state["phase"], state["code"], state["left"]) == ("exited", "7", "1")
    daemon.send("kill")
    daemon.expect("empty")
    shim.end()
    assert shim.record() == {**record, "empty": "1"}


def test_end_while_the_daemon_is_away(start: Start, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    shim = start(*sh(f"read x < {gate}; exit 9"))
    shim.started()  # earlier, a shim without a daemon starts nothing
    shim.close()
    gate.write_text("go\n")
    shim.end()
    assert shim.record()["code"] == "9"
    with pytest.raises(OSError, match="No such file"):
        shim.connect()


def test_unit_survives_the_killed_shim(start: Start) -> None:
    shim = start("/bin/sleep", "1000")
    pid = shim.started()
    ticks = start_ticks(pid)
    shim.process.kill()
    shim.process.wait()
    assert shim.receive() is None
    assert alive(pid)
    assert start_ticks(pid) == ticks
    with pytest.raises(ConnectionRefusedError):
        shim.connect()
    os.kill(pid, signal.SIGKILL)


def test_every_connection_hears_every_event_and_a_fifth_is_sent_away(start: Start) -> None:
    shim = start("/bin/sleep", "1000")
    shim.started()
    others = [shim.connect() for _ in range(3)]
    for other in others:
        assert other.expect("state")["phase"] == "running"
    assert shim.connect().receive() is None
    others[0].close()
    again = until(lambda: fifth(shim), "a place after one has left")
    again.send("signal 9")
    for connection in (shim, *others[1:], again):
        assert connection.expect("exited")["signal"] == "9"
        connection.expect("empty")
    shim.end()


def fifth(shim: Shim) -> Connection | None:
    connection = shim.connect()
    return connection if connection.receive() else None


def test_frozen_daemon_is_dropped_and_holds_nothing_up(start: Start, tmp_path: Path) -> None:
    """A connection nobody reads fills, is dropped, and the unit's output never waits for it."""
    shim = start(*sh("head -c 20000000 /dev/zero; echo done >&2; exec sleep 1000"),
                 options=["--log", str(tmp_path / "log")])  # fmt: skip
    shim.sock.setblocking(False)

    def dropped() -> bool:
        try:
            for _ in range(100):
                shim.send("state")
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError):
            return True
        return False

    until(dropped, "the full connection is dropped")
    until(lambda: (tmp_path / "log").stat().st_size == 20_000_005, "all output")
    assert shim.connect().expect("state")["dropped"] == "0"


@pytest.mark.parametrize(
    "packet", ["", "signal", "signal 0", "signal 65", "signal x", "signal 9 9", "kill now", "what", "x" * 500]
)
def test_refused_packet(start: Start, packet: str) -> None:
    shim = start("/bin/sleep", "1000")
    pid = shim.started()
    if not packet:
        packet = " "
    shim.send(packet)
    assert shim.expect("refused")["errno"] == "22"
    assert alive(pid)


def test_control_socket_is_private_and_works_under_a_long_path(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 100) / ("e" * 100)
    shim = start("/bin/sleep", "1000", folder=folder)
    shim.started()
    assert stat.S_IMODE((folder / "ctl").stat().st_mode) == 0o600
    assert shim.connect().expect("state")["phase"] == "running"


def test_shim_ignores_what_a_terminal_or_a_shutdown_sends(start: Start) -> None:
    shim = start("/bin/sleep", "1000")
    shim.started()
    for sig in ("HUP", "INT", "QUIT", "TERM", "PIPE", "USR1", "USR2", "ALRM", "TSTP", "TTIN", "TTOU"):
        shim.process.send_signal(getattr(signal, f"SIG{sig}"))
    shim.send("state")
    assert shim.expect("state")["phase"] == "running"
    assert os.getsid(shim.pid) == shim.pid


# ---- signals and the sweep --------------------------------------------------------------------------------


def chaos(start: Start, tools: Path, held: Path, mode: str, places: int, **options: Sequence[str]) -> Shim:
    """A unit of misbehaving processes; returns when `places` of them are where they want to be."""
    shim = start(str(tools / "chaos"), mode, str(held), **options)
    shim.started()
    until(lambda: held.exists() and held.stat().st_size >= places, f"chaos {mode} in place")
    return shim


MODES = {"double": 1, "escape": 2, "stubborn": 6, "chain": 2, "loop": 2}


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["/bin/sleep", "1000"])
    yield process
    assert process.poll() is None, "a process that is not ours was signalled"
    process.kill()
    process.wait()


@pytest.mark.parametrize("mode", list(MODES))
@pytest.mark.usefixtures("bystander")
def test_kill_leaves_nobody(start: Start, tools: Path, tmp_path: Path, mode: str) -> None:
    shim = chaos(start, tools, tmp_path / "held", mode, MODES[mode])
    assert running(tools / "chaos")
    shim.send("kill")
    while shim.expect("exited", "empty").word != "empty":
        pass
    assert not running(tools / "chaos")  # at the moment of `empty`, not some time later
    shim.end()
    assert shim.record()["empty"] == "1"


def running(program: Path) -> list[str]:
    """Pids of the processes of `program`."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and Path(f"/proc/{entry}/cmdline").read_bytes().startswith(bytes(program)):
                found.append(entry)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_stop_of_a_leader_leaves_a_stubborn_child_visible(start: Start, tmp_path: Path) -> None:
    """`exited` comes at once and says how many are left; `empty` only when they are gone."""
    ready = tmp_path / "ready"
    shim = start(*sh(f"(trap '' TERM; touch {ready}; sleep 1000; sleep 1000) & wait"))
    shim.started()
    until(ready.exists, "the child ignores TERM")
    shim.send("signal 15")
    packet = shim.expect("exited")
    assert packet["signal"] == "15"
    assert packet["left"] in ("1", "2")  # with the sleep, once that is started
    assert shim.silent_for(0.2)
    shim.send("signal 9")  # the leader is gone: to the descendants
    shim.expect("empty")
    shim.end()


def test_signal_reaches_the_group_and_signal_leader_the_leader(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = "(trap 'echo child' USR1; echo up; for i in $(seq 6000); do sleep 0.01; done)"
    script = f"{child} & trap 'echo leader' USR1; echo up; for i in 1 2 3 4 5 6; do wait; done"
    shim = start(*sh(script), options=["--log", str(log)])
    shim.started()
    until(lambda: log.exists() and log.read_text().count("up") == 2, "traps are set")
    shim.send("signal-leader 10")
    until(lambda: "leader" in log.read_text(), "the leader hears it")
    assert "child" not in log.read_text()
    shim.send("signal 10")
    until(lambda: "child" in log.read_text() and log.read_text().count("leader") == 2, "the group hears it")


def test_signal_leader_without_a_leader_is_refused(start: Start, tools: Path, tmp_path: Path) -> None:
    shim = chaos(start, tools, tmp_path / "held", "double", 1)
    shim.expect("exited")
    shim.send("signal-leader 9")
    assert shim.expect("refused")["errno"] == "3"


def test_killed_in_the_middle_of_its_steps(start: Start, tmp_path: Path) -> None:
    """Blocked before the exec (joining a group whose file is a pipe without a reader), then killed."""
    group = tmp_path / "group"
    group.mkdir()
    os.mkfifo(group / "cgroup.procs")
    (group / "cgroup.events").write_text("populated 1\n")
    shim = start("true", options=["--cgroup", str(group)])
    assert shim.expect("state")["phase"] == "starting"
    assert shim.connect().expect("state")["phase"] == "starting"
    shim.send("kill")
    assert shim.expect("exited")["signal"] == "9"  # and `started` never came
    shim.expect("empty")
    shim.end()
    assert shim.record()["why"] == "signalled"


@pytest.mark.parametrize("mode", ["double", "escape"])
def test_no_zombies(start: Start, tools: Path, tmp_path: Path, mode: str) -> None:
    shim = chaos(start, tools, tmp_path / "held", mode, MODES[mode])
    children = Path(f"/proc/{shim.pid}/task/{shim.pid}/children")

    def zombies() -> list[str]:
        return [pid for pid in children.read_text().split() if not alive(int(pid))]

    until(lambda: not zombies(), "orphans that end are reaped", 1.0)


# ---- control groups ---------------------------------------------------------------------------------------


def hierarchies() -> dict[str, Path]:
    """Mount points of a version 2 and of a version 1 hierarchy, where there are such."""
    found: dict[str, Path] = {}
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2":
            found.setdefault("v2", Path(where))
        elif kind == "cgroup" and "pids" in options.split(","):
            found.setdefault("v1", Path(where))
        elif kind == "cgroup" and "cpu" in options.split(","):
            found.setdefault("cpu", Path(where))
    return found


@contextmanager
def control_group(version: str) -> Iterator[Path]:
    """A fresh control group; skips the test where none can be made."""
    root = hierarchies().get(version)
    if root is None:
        pytest.skip(f"no control group hierarchy {version} is mounted")
    group = root / f"mgmt-shim-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made in {root}: {error.strerror}")
    try:
        yield group
    finally:
        until(lambda: remove_group(group), f"{group} can be removed")


def remove_group(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("mode", ["escape", "chain"])
@pytest.mark.parametrize("version", ["v2", "v1"])
def test_kill_empties_the_control_group(
    start: Start, tools: Path, tmp_path: Path, version: str, mode: str
) -> None:
    with control_group(version) as group:
        shim = chaos(start, tools, tmp_path / "held", mode, MODES[mode], options=["--cgroup", str(group)])
        guest = subprocess.Popen(["/bin/sleep", "1000"])  # no descendant, but in the group of the unit
        (group / "cgroup.procs").write_text(str(guest.pid))
        shim.send("kill")
        assert guest.wait(10) == -signal.SIGKILL
        while shim.expect("exited", "empty").word != "empty":
            pass
        assert (group / "cgroup.procs").read_text() == ""
        shim.end()


@pytest.mark.parametrize("version", ["v2", "v1"])
@pytest.mark.usefixtures("bystander")
def test_group_that_was_not_empty_is_not_killed(
    start: Start, bystander: subprocess.Popen[bytes], version: str
) -> None:
    """Others were there first: only proven descendants are signalled."""
    with control_group(version) as group:
        (group / "cgroup.procs").write_text(str(bystander.pid))
        try:
            shim = start("/bin/sleep", "1000", options=["--cgroup", str(group)])
            pid = shim.started()
            assert str(pid) in (group / "cgroup.procs").read_text().split()
            shim.send("kill")
            shim.expect("exited")
            shim.expect("empty")
            assert (group / "cgroup.procs").read_text().split() == [str(bystander.pid)]
        finally:
            (group.parent / "cgroup.procs").write_text(str(bystander.pid))


def test_real_time_in_a_group_that_grants_none(start: Start) -> None:
    with control_group("cpu") as group:
        runtime = group / "cpu.rt_runtime_us"
        if not runtime.exists():
            pytest.skip("this kernel has no real-time budget per control group")
        assert runtime.read_text() == "0\n"
        shim = start("true", options=["--cgroup", str(group), "--policy", "fifo:1"])
        assert refused(shim) == ("rt-runtime", EPERM)
        runtime.write_text("10000")
        again = start("/bin/sleep", "1000", options=["--cgroup", str(group), "--policy", "fifo:1"])
        assert os.sched_getscheduler(again.started()) & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO
        again.send("kill")
        again.expect("exited")
        again.expect("empty")


# ---- output -----------------------------------------------------------------------------------------------


def test_output_is_kept_byte_by_byte(start: Start, tmp_path: Path) -> None:
    data = bytes(range(256)) * 4096
    (tmp_path / "data").write_bytes(data)
    log = tmp_path / "log"
    ended(start("/bin/cat", str(tmp_path / "data"), options=["--log", str(log)]))
    assert log.read_bytes() == data
    assert stat.S_IMODE(log.stat().st_mode) == 0o640


def test_rotation_keeps_bytes_order_and_lines(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "log"
    options = ["--log", str(log), "--log-max-bytes", "20000", "--log-keep", "99"]
    ended(start("/usr/bin/seq", "100000", options=options))
    turned = sorted(tmp_path.glob("log.*"), key=lambda p: -int(p.suffix[1:]))
    parts = [p.read_bytes() for p in (*turned, log)]
    assert b"".join(parts) == b"".join(b"%d\n" % i for i in range(1, 100001))
    assert len(parts) > 20
    assert all(part.endswith(b"\n") and 20000 <= len(part) < 20010 for part in parts[:-1])


def test_rotation_keeps_no_more_than_asked(start: Start, tmp_path: Path) -> None:
    options = ["--log", str(tmp_path / "log"), "--log-max-bytes", "20000", "--log-keep", "2"]
    ended(start("/usr/bin/seq", "100000", options=options))
    assert sorted(p.name for p in tmp_path.glob("log*")) == ["log", "log.1", "log.2"]
    tail = b"".join((tmp_path / name).read_bytes() for name in ("log.2", "log.1", "log"))
    assert b"".join(b"%d\n" % i for i in range(1, 100001)).endswith(tail)


def test_removed_log_is_made_anew_and_reopen_follows_a_moved_one(start: Start, tmp_path: Path) -> None:
    log, moved, go = tmp_path / "log", tmp_path / "moved", tmp_path / "go"
    os.mkfifo(go)
    shim = start(*sh(f"for i in $(seq 1000); do read x < {go} && echo $x; done"), options=["--log", str(log)])
    shim.started()

    def say(word: str) -> None:
        go.write_text(f"{word}\n")

    say("one")
    until(lambda: log.read_text() == "one\n", "one")
    log.unlink()
    say("two")
    until(lambda: log.exists() and log.read_text() == "two\n", "a new file after the removed one")
    log.rename(moved)
    shim.send("reopen")
    shim.send("state")
    shim.expect("state")
    say("three")
    until(lambda: log.read_text() == "three\n", "a new file after the moved one")
    assert moved.read_text() == "two\n"


def test_a_log_is_turned_over_when_told_and_not_while_it_is_empty(start: Start, tmp_path: Path) -> None:
    log, go = tmp_path / "log", tmp_path / "go"
    os.mkfifo(go)
    shim = start(
        *sh(f"for i in $(seq 1000); do read x < {go} && echo $x; done"),
        options=["--log", str(log), "--log-keep", "2"],
    )
    shim.started()
    for word in ("one", "two", "three"):
        go.write_text(f"{word}\n")
        until(lambda word=word: log.exists() and log.read_text() == f"{word}\n", word)  # type: ignore[misc]  # bound early
        for _ in range(2):
            shim.send("rotate")
        shim.send("state")
        shim.expect("state")
    assert log.read_text() == ""
    assert [tmp_path.joinpath(f"log.{n}").read_text() for n in (1, 2)] == ["three\n", "two\n"]
    assert not tmp_path.joinpath("log.3").exists()


@pytest.mark.skipif(not ROOT, reason="not root: cannot mount a small file system to fill")
def test_full_disk_never_blocks_and_every_byte_is_accounted_for(start: Start, tmp_path: Path) -> None:
    disk, go = tmp_path / "disk", tmp_path / "go"
    disk.mkdir()
    os.mkfifo(go)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], check=False)
    if mounted.returncode:
        pytest.skip("mounting a tmpfs is refused here")
    try:
        log, total = disk / "log", 3_000_000
        wait = f"for i in $(seq 1000); do read x < {go} && break; done"
        shim = start(
            *sh(f"head -c {total} /dev/zero | tr '\\0' x; {wait}; echo after; {wait}; exit 6"),
            options=["--log", str(log)],
            folder=disk / "unit",
        )
        shim.started()

        def dropped() -> int:
            shim.send("state")
            return int(shim.expect("state")["dropped"])

        until(lambda: dropped() + log.stat().st_size == total, "the unit wrote all, the disk is full")
        assert dropped() > total - 65536
        lost = dropped()
        with pytest.raises(OSError, match="No space left"):
            (disk / "more").write_bytes(b"x" * 8192)
        kept = log.stat().st_size
        os.truncate(log, 0)  # somebody makes room
        (disk / "more").unlink()
        go.write_text("go\n")
        notice = f"\nmgmt-shim: {lost} bytes of output dropped (No space left on device)\nafter\n"
        until(lambda: log.read_text().endswith(notice), "the notice where the bytes are missing")
        assert log.read_text() == notice
        assert kept + lost == total
        with pytest.raises(OSError, match="No space left"):
            (disk / "more").write_bytes(b"x" * 65536)
        go.write_text("end\n")
        assert shim.expect("exited")["code"] == "6"
        assert (shim.record()["code"], shim.record()["dropped"]) == ("6", str(lost))
        shim.expect("empty")
        shim.end()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_grandchild_with_the_pipe_delays_nothing(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "log"
    shim = start(*sh("echo begin; sleep 1000 & exit 4"), options=["--log", str(log)])
    shim.started()
    packet = shim.expect("exited")
    assert (packet["code"], packet["left"]) == ("4", "1")
    shim.send("kill")
    shim.expect("empty")
    shim.end()
    assert log.read_text() == "begin\n"


def test_output_of_the_end_is_not_lost(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "log"
    ended(start(*sh("head -c 900000 /dev/zero; kill -9 $$"), options=["--log", str(log)]))
    assert log.stat().st_size == 900_000


def test_unit_without_log_is_drained(start: Start) -> None:
    packet = ended(start(*sh("head -c 5000000 /dev/zero; exit 0")))
    assert packet["code"] == "0"


# ---- what it costs ----------------------------------------------------------------------------------------


@pytest.mark.skipif(SANITIZED, reason="the sanitizers need memory of their own")
def test_resident_memory_below_a_mebibyte(start: Start, tools: Path, tmp_path: Path) -> None:
    if b"/ld-" in (tools / "mgmt-shim").read_bytes():
        pytest.skip("the shim could not be linked statically here: the C library is resident, too")
    shim = start(*sh("head -c 5000000 /dev/zero; sleep 1000 & exec sleep 1000"),
                 options=["--log", str(tmp_path / "log"), "--log-max-bytes", "1000000"])  # fmt: skip
    shim.started()
    until(lambda: len(descendants(shim.pid)) == 2, "the flood is over")
    shim.send("state")
    shim.expect("state")
    resident = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{shim.pid}/status").read_text())
    assert resident
    assert int(resident[1]) < 1024


def test_nothing_is_allocated(tmp_path: Path) -> None:
    """The program names no function that allocates (the C library's own start may)."""
    unit = tmp_path / "shim.o"
    subprocess.run(["cc", *FLAGS, "-c", "-o", unit, SOURCE], check=True)
    listed = subprocess.check_output(["nm", "--undefined-only", "--format=just-symbols", unit], text=True)
    named = set(listed.split())
    assert "execvp" in named
    allocating = r"(m|c|re)alloc|strn?dup|[fp]d?open|opendir|getline|mmap"
    assert not [name for name in named if re.fullmatch(allocating, name)]


def test_idle_costs_nothing(start: Start) -> None:
    shim = start("/bin/sleep", "1000")
    shim.started()

    def switches() -> list[str]:
        return re.findall(r"ctxt_switches:\s+(\d+)", Path(f"/proc/{shim.pid}/status").read_text())

    def asleep() -> bool:
        return Path(f"/proc/{shim.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "S"

    until(asleep, "the shim waits")
    before = switches()
    assert shim.silent_for(0.5)
    assert switches() == before
