"""Backends that misbehave, one way per test: each fault is seen, told and contained."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mgmt.protocol import frames
from tests.system.clients import eventually
from tests.system.daemon import Daemon, Start, alive, config, faulty, model, script, shipped, symphony


def start_one(start: Start, backend: dict[str, Any], **keys: Any) -> Daemon:
    return start(config({"m": backend}, **keys))


def refusal(daemon: Daemon, name: str = "m") -> dict[str, Any]:
    """The error of a native load, which must be that the backend did not start."""
    error = daemon.control.refused("load-model", model=name)
    assert error["code"] == "start-failed", error
    assert daemon.unit(name)["state"] == "FATAL"
    return error


# ---- the start ----


# S11 S12
def test_death_before_ready_is_told_with_status_and_last_lines(start: Start) -> None:
    daemon = start_one(start, faulty("dies-before-ready", "--code", "7", "--delay-s", "0"))
    error = refusal(daemon)
    assert "exit status 7" in error["text"]
    assert "dying with status 7" in error["text"]
    assert error["detail"]["exit_code"] == 7
    assert error["detail"]["tail"].splitlines()[-1] == "dying with status 7"
    exit = daemon.unit("m")["last_exit"]
    assert (exit["code"], exit["signal"]) == (7, None)


# S12: what was written just before the end is in the answer, every time
def test_the_last_line_before_a_death_is_never_missing(start: Start) -> None:
    daemon = start(run=False)
    path = daemon.folder / "dies.sh"
    path.write_text("echo the last line of $$; exit 9\n")
    daemon.configure(config({"m": {"kind": "symphony", "command": ["sh", str(path)]}}))
    daemon.start()
    for _ in range(50):
        text = refusal(daemon)["text"]
        assert "exit status 9" in text
        assert "the last line of" in text


# S12
def test_a_backend_that_never_gets_ready_fails_with_a_timeout(start: Start) -> None:
    daemon = start_one(start, faulty("hangs-before-ready", ready_timeout_s=0.7))
    begin = time.monotonic()
    error = refusal(daemon)
    assert 0.7 <= time.monotonic() - begin < 5
    assert "not ready within 0.7 s" in error["text"]
    eventually(lambda: not daemon.children(), what="it was ended")


def test_a_deadline_ends_the_wait_and_not_the_start(start: Start) -> None:
    daemon = start_one(start, faulty("slow-ready", "--delay-s", "0.6"))
    reply = daemon.control.reply(daemon.control.ask("load-model", 100, model="m"))
    assert (reply.outcome, reply.body["code"]) == (frames.Outcome.EXPIRED, "expired")
    daemon.reaches("m", "RUNNING")


def test_a_backend_of_another_version_is_refused_and_says_so(start: Start) -> None:
    daemon = start_one(start, faulty("wrong-version"))
    error = refusal(daemon)
    assert error["detail"]["exit_code"] == 1
    assert "refused" in error["text"]
    assert "bad-version" in error["text"]


# ---- after ready ----


# S11, fault 8: restarts with a growing delay, and a visible end
def test_a_crash_loop_ends_in_fatal_at_the_limit(start: Start) -> None:
    restart = {"delay_s": 0.05, "factor": 2.0, "jitter": 0.0, "limit": 3}
    daemon = start_one(start, faulty("dies-after-ready", "--delay-s", "0.3", "--code", "5", restart=restart))
    watcher = daemon.native()
    watcher.ok("subscribe")
    daemon.loaded("m")
    seen: list[tuple[str, str]] = []
    waits = []
    while not seen or seen[-1][1] != "FATAL":
        event = watcher.event(unit="m")
        seen.append((event["was"], event["state"]))
        if event["state"] == "BACKOFF":
            assert event["exit"]["code"] == 5
            waits.append(event["reason"])
    lives = [("STARTING", "RUNNING"), ("RUNNING", "BACKOFF"), ("BACKOFF", "STARTING")] * 3
    assert seen == [("STOPPED", "STARTING"), *lives, ("STARTING", "RUNNING"), ("RUNNING", "FATAL")]
    assert [wait.split("again in ")[1] for wait in waits] == ["0.1 s", "0.1 s", "0.2 s"]
    unit = daemon.unit("m")
    assert (unit["restarts"], unit["incarnation"], unit["last_exit"]["code"]) == (3, 4, 5)
    assert "4 times in 300 s: given up" in unit["reason"]
    assert daemon.loaded("m")["pid"]  # a person may try again


# S11
def test_a_backend_in_backoff_shows_its_next_start_and_can_be_unloaded(start: Start) -> None:
    restart = {"delay_s": 60.0}
    daemon = start_one(start, faulty("dies-after-ready", restart=restart))
    daemon.loaded("m")
    unit = daemon.reaches("m", "BACKOFF")
    assert 0 < unit["next_start_s"] <= 66.1
    assert unit["pid"] is None
    assert daemon.legacy("unload-model", model_name="m")["success"]
    assert daemon.unit("m")["state"] == "STOPPED"


# S11
@pytest.mark.parametrize(("mode", "how"), [("segfault", "signal 11"), ("dies-mid-reply", "exit status 3")])
def test_a_death_in_the_middle_of_a_request_answers_it(start: Start, mode: str, how: str) -> None:
    daemon = start_one(start, faulty(mode, restart={"policy": "no"}))
    daemon.loaded("m")
    data = daemon.data("m")
    data.ask(1, b"now")
    error = data.error(1)
    assert (error["code"], error["retryable"]) == ("backend-lost", True)
    unit = daemon.reaches("m", "EXITED")
    assert how in unit["reason"]
    number = signal.SIGSEGV if mode == "segfault" else None
    assert unit["last_exit"]["signal"] == number


def test_a_direct_client_is_told_that_its_backend_is_gone(start: Start) -> None:
    daemon = start_one(start, faulty("dies-mid-reply", restart={"policy": "no"}))
    daemon.loaded("m")
    data = daemon.data("m", "direct")
    data.ask(1, b"now")
    eventually(lambda: daemon.control.notices or daemon.status() is None, what="the notice")
    (notice,) = daemon.control.notices
    assert (notice.name, notice.body["lease"], notice.body["unit"]) == ("lease-closed", data.lease, "m")


def test_a_request_that_hangs_is_answered_when_its_backend_is_unloaded(start: Start) -> None:
    daemon = start_one(start, {**faulty("hangs"), "grace_s": 0.3})
    daemon.loaded("m")
    data = daemon.data("m")
    data.ask(1, b"now")
    assert data.silent_for(0.1)
    assert daemon.legacy("unload-model", model_name="m")["success"]
    assert data.error(1)["code"] == "backend-lost"


def test_a_backend_that_answers_garbage_still_gets_its_clients_an_answer(start: Start) -> None:
    daemon = start_one(start, faulty("bad-frames"))
    daemon.loaded("m")
    data = daemon.data("m")
    data.ask(1, b"now")
    assert data.silent_for(0.1)  # what it said was no answer
    assert daemon.unit("m")["state"] == "RUNNING"
    assert daemon.legacy("unload-model", model_name="m")["success"]
    assert data.error(1)["code"] == "backend-lost"


# ---- the end ----


# S13
def test_a_backend_deaf_to_the_stop_signal_gets_its_grace_and_no_more(start: Start) -> None:
    daemon = start_one(start, {**faulty("ignores-sigterm"), "grace_s": 0.4})
    pid = daemon.loaded("m")["pid"]
    begin = time.monotonic()
    assert daemon.legacy("unload-model", model_name="m")["success"]
    assert 0.4 <= time.monotonic() - begin < 3
    assert not alive(pid)
    assert "still there 0.4 s after SIGTERM" in daemon.unit("m")["last_exit"]["reason"]


DOUBLE_FORK = """
import os, signal, sys
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
    with open(sys.argv[2], "a") as pids:
        pids.write(f"{os.getpid()}\\n")
    os.execve("/bin/sleep", ["sleep", "1000"], {})
os.wait()
os.execv(sys.executable, [sys.executable, *sys.argv[3:], "--ipc-endpoint", sys.argv[1]])
"""


def forking(daemon: Daemon) -> tuple[dict[str, Any], Callable[[], list[int]]]:
    """A backend that leaves daemonised grandchildren with an empty environment, and their pids."""
    path, pids = daemon.folder / "forks.py", daemon.folder / "pids"
    path.write_text(DOUBLE_FORK)
    stub = symphony()["command"][1]
    backend = script(path, "{endpoint}", str(pids), stub)

    def grandchildren() -> list[int]:
        found = [int(line) for line in pids.read_text().split()] if pids.exists() else []
        return found if len(found) == 2 else []

    return backend, grandchildren


# S13: stopped means the whole tree
@pytest.mark.parametrize("how", ["unload", "kill", "stop"])
def test_daemonised_grandchildren_never_outlive_their_backend(start: Start, how: str) -> None:
    daemon = start(run=False)
    backend, grandchildren = forking(daemon)
    daemon.configure(config({"m": {**backend, "grace_s": 0.3, "restart": {"policy": "no"}}}))
    daemon.start()
    leader = daemon.loaded("m")["pid"]
    pids = eventually(grandchildren)
    assert all(alive(pid) for pid in pids)
    if how == "unload":
        assert daemon.legacy("unload-model", model_name="m")["success"]
    elif how == "kill":
        os.kill(leader, signal.SIGKILL)
        daemon.reaches("m", "EXITED")
        eventually(lambda: not any(alive(pid) for pid in pids), what="they are gone")
        assert daemon.loaded("m")["pid"] != leader  # started on an empty tree
        pids = []
        assert daemon.legacy("unload-model", model_name="m")["success"]
    else:
        assert daemon.stop() == 0
    assert not any(alive(pid) for pid in pids)
    assert not alive(leader)


# S13
def test_the_shipped_forking_backend_is_ended_with_its_tree(start: Start) -> None:
    daemon = start_one(start, {**faulty("forks", "--count", "3"), "grace_s": 0.5})
    daemon.loaded("m")

    def named() -> list[int]:
        lines = daemon.unit_log("m").read_text().splitlines()
        return [int(line.split()[1]) for line in lines if line.startswith("grandchild ")]

    pids = named()
    assert len(pids) == 3
    assert daemon.legacy("unload-model", model_name="m")["success"]
    assert not any(alive(pid) for pid in pids)


def test_a_shim_that_is_killed_is_noticed(start: Start) -> None:
    daemon = start_one(start, shipped("echo", restart={"policy": "no"}))
    pid = daemon.loaded("m")["pid"]
    (shim,) = daemon.children() - {pid}
    os.kill(shim, signal.SIGKILL)
    unit = daemon.reaches("m", "EXITED")
    assert unit["last_exit"]["code"] is None and unit["last_exit"]["signal"] is None
    assert "its shim was killed" in unit["last_exit"]["reason"]
    assert "its shim" in daemon.log()
    eventually(lambda: not alive(pid), what="the process that nobody watched any more is gone")


# ---- what a backend is started with ----

DUMPER = """
import json, os, signal, sys
def value(name):
    return next(line.split()[1] for line in open("/proc/self/status") if line.startswith(name))
facts = {
    "env": dict(os.environ), "cwd": os.getcwd(), "nice": os.getpriority(os.PRIO_PROCESS, 0),
    "affinity": sorted(os.sched_getaffinity(0)), "descriptors": sorted(os.listdir("/proc/self/fd"))[:-1],
    "blocked": value("SigBlk"), "ignored": value("SigIgn"), "session": os.getsid(0) == os.getpid(),
    "group": os.getpgid(0) == os.getpid(), "umask": os.umask(0), "stdin": os.readlink("/proc/self/fd/0"),
}
with open(sys.argv[1], "a") as file:
    file.write(json.dumps(facts) + "\\n")
sys.exit(1)
"""

CHANGES = {"MGMT_INCARNATION", "MGMT_TOKEN", "MGMT_SERVE"}


# S9
def test_the_first_and_the_twentieth_start_are_alike(start: Start) -> None:
    daemon = start(environ={"ODD": "a b\tc=ü", "EMPTY": ""}, run=False)
    path, dump = daemon.folder / "dumper.py", daemon.folder / "dump"
    path.write_text(DUMPER)
    work = daemon.folder / "work"
    work.mkdir()
    backend = script(
        path, str(dump), cwd=str(work), nice=5, env={"MGMT_UNIT": "not this one", "OURS": "{unit}"}
    )
    daemon.configure(config({"m": backend}))
    daemon.start()
    for _ in range(20):
        refusal(daemon)
    starts = [json.loads(line) for line in dump.read_text().splitlines()]
    assert len(starts) == 20
    for number, facts in enumerate(starts, start=1):
        changing = {name: facts["env"].pop(name) for name in CHANGES}
        assert changing["MGMT_INCARNATION"] == str(number)
    assert all(facts == starts[0] for facts in starts)
    first = starts[0]
    assert first["env"] == {
        **daemon.environ,
        "OURS": "m",
        "MGMT_ENDPOINT": daemon.endpoint("control"),
        "MGMT_UNIT": "m",
        "MGMT_MODEL": "m",
        "MGMT_FULLNAME": "m",
        **({"LC_CTYPE": "C.UTF-8"} if "LC_CTYPE" in first["env"] else {}),  # Python's own, in some locales
    }
    assert (first["cwd"], first["nice"], first["stdin"]) == (str(work), 5, "/dev/null")
    assert first["descriptors"] == ["0", "1", "2"]
    assert int(first["blocked"], 16) == 0
    assert int(first["ignored"], 16) & (1 << (signal.SIGTERM - 1) | 1 << (signal.SIGHUP - 1)) == 0
    assert (first["session"], first["group"]) == (True, True)
    inherited = os.umask(0)
    os.umask(inherited)
    assert first["umask"] == inherited


# S34
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs 2 CPUs")
def test_every_thread_of_pinned_backends_keeps_its_cpus(start: Start) -> None:
    models = [model("zero", "echo", cpus="0"), model("one", "echo", cpus="1")]
    daemon = start(config({"echo": shipped("echo")}, models))
    for name, cpu in (("zero", 0), ("one", 1)):
        pid = daemon.loaded(name)["pid"]
        threads = [int(thread) for thread in os.listdir(f"/proc/{pid}/task")]
        assert len(threads) > 2
        assert all(os.sched_getaffinity(thread) == {cpu} for thread in threads)
        assert daemon.unit(name)["cpus"] == [cpu]
    assert "mask_violations" not in daemon.status()["service"]["counters"]


# S34
def test_a_cpu_that_is_not_there_is_refused_by_the_ledger(start: Start) -> None:
    daemon = start(config({"echo": shipped("echo")}, [model("m", "echo", cpus="4000")]))
    error = daemon.native().refused("load-model", model="m")
    assert error["code"] == "no-capacity" and "CPUs 4000 do not exist" in error["text"]


# S34: a backend that leaves its CPUs is reported
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs 2 CPUs")
def test_a_backend_that_leaves_its_cpus_is_reported(start: Start) -> None:
    daemon = start(run=False)
    path = daemon.folder / "leaves.py"
    stub = symphony()["command"][1]
    path.write_text(
        "import os, runpy, sys\nos.sched_setaffinity(0, {0, 1})\n"
        f"sys.argv[0] = {stub!r}\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    backend = script(path, "--ipc-endpoint", "{endpoint}")
    daemon.configure(config({"m": backend}, [model("m", "m", cpus="0")]))
    daemon.start()
    watcher = daemon.native()
    watcher.ok("subscribe")
    daemon.loaded("m")
    assert "m runs outside its CPUs" in watcher.event(what="mask-violated")["reason"]
    assert daemon.status()["service"]["counters"]["mask_violations"] == 1


# ---- many rounds ----


# S16 S26 S30
def test_two_hundred_rounds_leak_neither_descriptors_nor_threads_nor_files(start: Start) -> None:
    models = [model("idle", "idle"), model("stub", "stub")]
    idle = {"kind": "symphony", "command": ["sleep", "1000"]}
    daemon = start(config({"idle": idle, "stub": symphony()}, models))

    def round_trip(name: str, wait: bool) -> None:
        daemon.control.ok("load-model", model=name, wait=wait)
        daemon.control.ok("unload-model", model=name)

    round_trip("idle", wait=False)
    round_trip("stub", wait=True)
    units = daemon.runtime / "units"
    eventually(lambda: not any(units.iterdir()), what="the folders of ended units are removed")
    before = held(daemon)
    files = sorted(path.name for path in daemon.folder.rglob("*"))
    for _ in range(185):
        round_trip("idle", wait=False)
    for _ in range(15):
        round_trip("stub", wait=True)
    assert_no_more_than(before, daemon)
    eventually(lambda: not any(units.iterdir()), what="the folders of ended units are removed")
    assert sorted(path.name for path in daemon.folder.rglob("*")) == files
    eventually(lambda: not daemon.children(), what="no process is left")


def held(daemon: Daemon) -> tuple[int, int]:
    return daemon.descriptors(), daemon.threads()


def assert_no_more_than(before: tuple[int, int], daemon: Daemon) -> None:
    """The daemon comes back to at most the descriptors and threads it had; libzmq closes its own late."""
    eventually(
        lambda: all(now <= then for now, then in zip(held(daemon), before, strict=True)),
        what=f"descriptors and threads are back at {before}, now {held(daemon)}",
    )


def test_failed_starts_leak_nothing_and_leave_no_work(start: Start) -> None:
    models = [model(f"m{i}", "dies") for i in range(5)]
    daemon = start(run=False)
    path = daemon.folder / "dies.py"
    path.write_text("raise SystemExit(1)\n")
    daemon.configure(config({"dies": script(path)}, models))
    daemon.start()
    refusal(daemon, "m0")
    before = held(daemon)
    for row in models:
        refusal(daemon, row["name"])
    assert_no_more_than(before, daemon)


def test_a_thousand_sessions_end_without_a_trace(start: Start) -> None:
    daemon = start(config())
    before = held(daemon)
    for _ in range(1000):
        peer = daemon.native()
        peer.tell("bye")
        peer.close()
    eventually(lambda: daemon.status()["service"]["sessions"] == 1, what="only the fixture's session is left")
    assert_no_more_than(before, daemon)


def test_the_helpers_see_a_dead_process() -> None:
    assert alive(os.getpid())
    assert not alive(2**22 + 1)
    assert not Path(f"/proc/{2**22 + 1}").exists()
