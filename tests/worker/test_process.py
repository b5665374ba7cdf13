"""mgmt-worker: a process for each task, and nothing of it afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from mgmt.worker import wire
from mgmt.worker.wire import Kind

from .crew import Crew, alive, until

# Each ends by itself after 60 s. argv: what to do, and a file into which every process writes its pid.
CHAOS = r"""
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static const char *file; static time_t end;
static void note(void) { char b[16]; int fd = open(file, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (write(fd, b, (size_t)snprintf(b, sizeof b, "%d\n", getpid())) < 0) _exit(1); close(fd); }
static void hold(void) { while (time(0) < end) sleep(1); _exit(0); }
static void detach(void) { if (fork()) return; setsid(); if (fork()) _exit(0);
    setsid(); signal(SIGTERM, SIG_IGN); note(); hold(); }
int main(int argc, char **argv) {
    (void)argc; file = argv[2]; end = time(0) + 60; note();
    if (!strcmp(argv[1], "detach")) { for (int i = 0; i < 3; i++) detach(); usleep(50000); return 5; }
    if (!strcmp(argv[1], "stubborn")) { signal(SIGTERM, SIG_IGN); detach(); hold(); }
    if (!strcmp(argv[1], "loop"))   /* each forks without end, with at most eight alive */
        for (int i = 0; i < 8; i++) if (!fork()) { setsid(); note(); for (int n = 0; time(0) < end;) {
            if (!fork()) { usleep(1000); _exit(0); }
            if (++n > 8) { wait(0); n--; } } _exit(0); }
    if (!strcmp(argv[1], "loop")) { usleep(100000); return 6; }
    return 64; }
"""


@pytest.fixture(scope="session")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chaos")
    (folder / "chaos.c").write_text(CHAOS)
    subprocess.run(["cc", "-O1", "-w", "-o", folder / "chaos", folder / "chaos.c"], check=True)
    return folder / "chaos"


def sh(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


def noted(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def test_hello_names_the_worker(crew: Crew) -> None:
    assert crew.hello == [Kind.HELLO, "w0", "secret", 7, []]


def test_a_task_is_a_process_of_its_own_session(crew: Crew) -> None:
    before = time.time_ns()
    done = crew.do(args=sh("echo out; echo err >&2; cat; sed 's/.*) //' /proc/$$/stat; echo $$; exit 3"))
    assert (done.attempt, done.status, done.message, done.extra) == (1, 3, "", {})
    assert before <= done.start_ns <= done.end_ns <= time.time_ns()
    out, err, stat, pid = done.tail.decode().splitlines()  # stdin was empty
    assert (out, err, stat.split()[3]) == ("out", "err", pid)


def test_its_environment(crew: Crew, tmp_path: Path) -> None:
    crew.welcome_again(env={"A": "base", "B": "base", "MITO_TASK_UUID": "never", "PATH": os.environ["PATH"]})
    crew.run(9, args=["env", "-0"], envs={"B": "own", "MITO_EXEC_DIR": "mine"}, upstream=None)
    env = dict(line.split("=", 1) for line in crew.done().tail.decode().split("\0") if line)
    place = str(crew.place)
    assert env == {
        "A": "base", "B": "own", "PATH": os.environ["PATH"], "MITO_EXEC_DIR": "mine",
        "MITO_RESULT_DIR": f"{place}/result", "MITO_RESOURCE_DIR": f"{place}/resource",
        "MITO_NEW_TASK": f"{place}/new-task.json", "MITO_TASK_UUID": "uuid-9", "MITO_UPSTREAM_TASK_UUID": "",
    }  # fmt: skip
    crew.run(10, upstream="before", args=sh("echo $MITO_UPSTREAM_TASK_UUID; pwd"))
    assert crew.done().tail.decode().split() == ["before", f"{place}/exec"]


def test_its_working_folder(crew: Crew, tmp_path: Path) -> None:
    assert crew.do(args=["pwd"], cwd=str(tmp_path)).tail.decode() == f"{tmp_path}\n"
    done = crew.do(args=["pwd"], cwd="/nowhere/at/all")
    assert (done.status, done.start_ns) == (126, 0)
    assert "/nowhere/at/all" in done.message


def test_path_is_the_tasks_own(crew: Crew, tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\necho found\n")
    (tmp_path / "tool").chmod(0o755)
    assert crew.do(args=["tool"]).status == 127
    assert crew.do(args=["tool"], envs={"PATH": f"/nowhere:{tmp_path}"}).tail == b"found\n"


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (["no-such-program"], 127, "no-such-program"),
        (["/no/such/program"], 127, "/no/such/program"),
        (["/etc/hostname"], 126, "/etc/hostname"),
        (["{folder}/plain"], 126, "#!"),
        (["{folder}/orphan"], 127, "interpreter"),
        (["true", "x" * 300_000], 126, "file"),
        (["caf\udce9"], None, ""),
    ],
)
def test_what_cannot_be_executed_is_a_result(
    crew: Crew, tmp_path: Path, args: list[str], status: int | None, said: str
) -> None:
    for name, text in (("plain", "echo\n"), ("orphan", "#!/no/interpreter\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    if status is None:  # a name that is not UTF-8: the message still is
        spec = b"\x81\xa4args\x91\xa4caf\xe9"
        crew.send(Kind.RUN, 1, 1, spec, "u", None)
        done = crew.done()
        assert (done.status, "caf?" in done.message) == (127, True)
        return
    done = crew.do(args=[arg.format(folder=tmp_path) for arg in args])
    assert (done.status, done.start_ns) == (status, 0)
    assert said in done.message
    assert crew.do(args=["true"]).status == 0


@pytest.mark.parametrize(
    "spec",
    [b"", b"\xc1", b"\x80", b"\x90", b"\x81\xa4args\x90", b"\x81\xa4args\x91\xa0", b"\x81\xa4args\x91\xa3a\0b",
     b"\x82\xa4args\x91\xa4true\xa9timeout_s\xff", b"\x81\xa4args\x91\xa4true\xc0", b"\x81\xa8function\xa3a:b",
     b"\x81\xa4args\xdd\xff\xff\xff\xff", b"\x82\xa4args\x91\xa4true\xa4envs\x81\xa3a=b\xa1c",
     b"\x82\xa4args\x91\xa4true\xa4args\x91\xa4true"],
)  # fmt: skip
def test_a_spec_that_cannot_be_understood_is_a_result(crew: Crew, spec: bytes) -> None:
    crew.send(Kind.RUN, 1, 2, spec, "u", None)
    done = crew.done()
    assert (done.status, done.attempt) == (126, 2)
    assert done.message.startswith("its spec cannot be run: ")
    assert crew.do(args=["true"]).status == 0


def test_what_other_workers_need_is_passed_over(crew: Crew) -> None:
    deep: list[Any] = []
    for _ in range(400):
        deep = [deep]
    assert (
        crew.do(args=["true"], labels=deep, cwd=None, params={"a": 1.5, "b": b"x"}, timeout_s=1).status == 0
    )


def test_five_megabytes_of_output(crew: Crew) -> None:
    def peak_kib() -> int:
        text = Path(f"/proc/{crew.pid}/status").read_text()
        return int(text.split("VmHWM:")[1].split()[0])

    assert crew.do(args=["true"]).status == 0
    before = peak_kib()
    script = "head -c 5000000 /dev/zero | tr '\\0' x; echo; echo end"
    done = crew.do(args=sh(script))
    assert (done.status, len(done.tail), done.tail[-6:]) == (0, wire.TAIL_BYTES, b"x\nend\n")
    assert done.extra == {}
    done = crew.do(args=sh(script), terminal_output=True)
    assert done.extra == {"log": f"{crew.place}/out/1.1.log", "log_bytes": 10_000, "truncated": True}
    assert Path(done.extra["log"]).read_bytes() == b"x" * 10_000
    assert peak_kib() - before < 1024


def test_the_whole_output_in_a_file(crew: Crew) -> None:
    done = crew.do(7, args=sh("seq 1000"), terminal_output=True)
    text = "".join(f"{i}\n" for i in range(1, 1001)).encode()
    assert done.extra == {"log": f"{crew.place}/out/7.1.log", "log_bytes": len(text)}
    assert Path(done.extra["log"]).read_bytes() == text
    assert done.tail == text[-wire.TAIL_BYTES :]
    assert crew.do(8, args=["true"], terminal_output=True).extra["log_bytes"] == 0


def test_what_a_task_leaves_is_kept_and_the_next_finds_nothing(crew: Crew) -> None:
    for attempt in range(2):
        script = """
            mkdir -p $MITO_RESULT_DIR/deep; echo result > $MITO_RESULT_DIR/deep/r; echo '{"x": 1}' > $MITO_NEW_TASK
            touch litter $MITO_RESOURCE_DIR/litter; mkdir -p closed/in; chmod 0 closed; chmod 500 $MITO_EXEC_DIR
        """
        done = crew.do(3, args=sh(script))
        assert (done.status, done.message) == (0, ""), attempt
        assert done.extra == {"results": f"{crew.place}/out/3.1", "new_task": b'{"x": 1}\n'}
        assert Path(done.extra["results"], "deep/r").read_text() == "result\n"
        done = crew.do(
            4, args=sh("ls -A . $MITO_RESULT_DIR $MITO_RESOURCE_DIR | grep -v :; ls -A $MITO_NEW_TASK")
        )
        assert done.extra == {}
        assert b"new-task.json" in done.tail and b"litter" not in done.tail and b"closed" not in done.tail


def test_a_tree_of_any_depth_is_removed(crew: Crew) -> None:
    script = "i=0; while [ $i -lt 400 ]; do mkdir d 2>/dev/null; touch f; cd -P d; i=$((i+1)); done"
    assert crew.do(args=sh(script)).status == 0
    assert crew.do(args=sh("ls -A")).tail == b""
    assert crew.do(args=sh("cd ..; rm -rf exec result resource; ln -s /etc exec; echo > result")).status == 0
    done = crew.do(args=sh("pwd; ls -A . $MITO_RESULT_DIR | grep -v :"))
    assert done.tail.decode().split() == [f"{crew.place}/exec"]
    assert Path("/etc/hostname").exists()


def test_a_next_task_that_cannot_be_read_is_said(crew: Crew) -> None:
    done = crew.do(args=sh("head -c 65536 /dev/zero > $MITO_NEW_TASK"))
    assert (done.message, len(done.extra["new_task"])) == ("", wire.NEW_TASK_BYTES)
    for script in ("head -c 65537 /dev/zero > $MITO_NEW_TASK", "mkdir $MITO_NEW_TASK", "mkfifo $MITO_NEW_TASK",
                   "ln -s /etc/hostname $MITO_NEW_TASK"):  # fmt: skip
        done = crew.do(args=sh(script))
        assert (done.status, done.message, done.extra) == (0, wire.SUBMIT_NEW_TASK_FAILED, {}), script
    assert crew.do(args=["true"]).message == ""


def test_resources_are_where_the_crew_has_put_them(crew: Crew) -> None:
    wanted = [{"blob": "x", "path": "data"}]
    done = crew.do(5, args=["true"], resources=wanted)
    assert (done.status, done.message) == (126, wire.RESOURCE_NOT_FOUND)
    crew.send(Kind.PAUSE)
    for task in (6, 7):
        (crew.place / "in" / f"{task}.1").mkdir()
    crew.run(7, args=["true"], resources=wanted)
    crew.send(Kind.CANCEL, 7, 1, 0)
    assert crew.done().message == wire.USER_CANCELLATION
    crew.send(Kind.RESUME)
    (crew.place / "in" / "6.1" / "data").write_text("here")
    assert crew.do(6, args=sh("cat $MITO_RESOURCE_DIR/data"), resources=wanted).tail == b"here"
    assert list((crew.place / "in").iterdir()) == []


@pytest.mark.parametrize(("how", "status"), [("detach", 5), ("loop", 6)])
def test_all_of_a_task_ends_with_it(crew: Crew, chaos: Path, tmp_path: Path, how: str, status: int) -> None:
    pids = tmp_path / "pids"
    assert crew.do(args=[str(chaos), how, str(pids)]).status == status
    assert len(noted(pids)) > 1
    assert not [pid for pid in noted(pids) if alive(pid)]


def test_a_timeout_ends_the_whole_tree(crew: Crew, chaos: Path, tmp_path: Path) -> None:
    done = crew.do(args=sh("trap 'echo asked; exit 9' TERM; sleep 60 & wait"), timeout_s=0.3)
    assert (done.status, done.message, done.tail) == (9, wire.EXEC_TIMEOUT, b"asked\n")
    pids = tmp_path / "pids"
    done = crew.do(args=[str(chaos), "stubborn", str(pids)], timeout_s=0.3)
    assert (done.status, done.message) == (-signal.SIGKILL, wire.EXEC_TIMEOUT)
    assert done.end_ns - done.start_ns >= 0.6e9  # the timeout, and the grace
    assert len(noted(pids)) == 2
    assert not [pid for pid in noted(pids) if alive(pid)]


def test_cancel_of_the_running_and_of_a_waiting_task(crew: Crew, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    crew.run(1, args=sh(f"echo > {ready}; exec sleep 60"))
    crew.run(2, args=["true"])
    crew.run(3, args=["true"])
    until(ready.exists, "the first runs")
    crew.send(Kind.CANCEL, 2, 1, 0)
    done = crew.done()
    assert (done.task, done.status, done.message, done.start_ns) == (2, -15, wire.USER_CANCELLATION, 0)
    for task, attempt in ((1, 2), (2, 1), (99, 1)):  # another attempt, done already, never heard of
        crew.send(Kind.CANCEL, task, attempt, 0)
    crew.send(Kind.CANCEL, 1, 1, 5.5)
    done = crew.done()
    assert (done.task, done.status, done.message) == (1, -signal.SIGTERM, wire.USER_CANCELLATION)
    assert crew.done().status == 0


def test_a_cancel_without_grace_kills(crew: Crew, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    crew.run(1, args=sh(f"trap '' TERM; echo > {ready}; while :; do sleep 0.1; done"))
    until(ready.exists, "it runs")
    crew.send(Kind.CANCEL, 1, 1, 0)
    assert crew.done().status == -signal.SIGKILL


def test_only_a_task_that_lasts_says_that_it_runs(crew: Crew) -> None:
    for task in range(20):
        crew.do(task, args=["true"])
    quick = [state for state in crew.states if state[1] == 30]
    assert crew.do(30, args=["sleep", "0.5"]).status == 0
    assert not quick and crew.states[-1] == [Kind.STATE, 30, 1, wire.EXEC_SPAWNED]


def test_a_thousand_quick_tasks_leave_nothing(crew: Crew) -> None:
    def descriptors() -> set[str]:
        folder = f"/proc/{crew.pid}/fd"
        return {f"{fd} {os.readlink(f'{folder}/{fd}').split(':')[0]}" for fd in os.listdir(folder)}

    assert crew.do(args=["true"]).status == 0
    before = descriptors()
    for task in range(8):
        crew.run(task, args=["true"])
    for task in range(1000):
        assert crew.done().status == 0
        if task < 992:
            crew.run(task + 8, args=["true"])
    assert descriptors() == before
    assert Path(f"/proc/{crew.pid}/task/{crew.pid}/children").read_text() == ""
    assert os.listdir(crew.place / "out") == []


def test_cpus_are_inherited(crew: Crew) -> None:
    cpu = min(os.sched_getaffinity(0))
    os.sched_setaffinity(crew.pid, {cpu})
    assert crew.do(args=sh("grep Cpus_allowed_list /proc/self/status")).tail.split()[1] == b"%d" % cpu


def test_signals_are_as_a_shell_would_have_them(crew: Crew) -> None:
    status = crew.do(args=["cat", "/proc/self/status"]).tail.decode()
    masks = dict(line.split(":\t") for line in status.splitlines() if line.startswith("Sig"))
    assert {masks[name] for name in ("SigBlk", "SigIgn", "SigPnd")} == {"0" * 16}


def test_a_stop_without_grace_kills_the_task(crew: Crew, chaos: Path, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    crew.run(1, args=[str(chaos), "stubborn", str(pids)])
    until(lambda: len(noted(pids)) == 2, "it runs")
    crew.send(Kind.STOP, False)
    with pytest.raises(ConnectionError):
        crew.done()
    assert crew.ended() == (0, "")
    assert not [pid for pid in noted(pids) if alive(pid)]
