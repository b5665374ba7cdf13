"""Hooks and exec probes as real processes on a real loop: one answer each, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mgmt.shell.commands import MAX_DETAIL_CHARS, Commands
from tests.system.looping import Loop, looping
from tests.system.shim_driver import alive

ENV = {"PATH": os.environ["PATH"], "WORD": "bird"}


class Answers:
    """Runs commands and keeps what they answer, by key."""

    def __init__(self, turning: Loop, folder: Path) -> None:
        self.turning = turning
        self.commands = Commands(turning.loop, folder)
        self.all: dict[str, list[tuple[bool, str]]] = {}

    def start(self, key: str, *argv: str, timeout_s: float = 10.0, cwd: str | None = None) -> None:
        answers = self.all.setdefault(key, [])
        before = len(answers)
        self.commands.run(key, argv, ENV, cwd, timeout_s, lambda ok, detail: answers.append((ok, detail)))
        assert len(answers) == before, "answered before run returned"

    def sh(self, key: str, script: str, timeout_s: float = 10.0) -> None:
        self.start(key, "/bin/sh", "-c", script, timeout_s=timeout_s)

    def get(self, key: str, count: int = 1) -> tuple[bool, str]:
        self.turning.until(lambda: len(self.all[key]) >= count, f"an answer of {key}")
        assert len(self.all[key]) == count
        return self.all[key][-1]

    def pids(self, file: Path, count: int) -> list[int]:
        """The numbers that commands wrote into a file."""
        self.turning.until(lambda: file.exists() and len(file.read_text().split()) == count, f"{count} pids")
        return [int(word) for word in file.read_text().split()]


def our_children() -> set[int]:
    """Living or not."""
    return {
        int(pid)
        for task in Path("/proc/self/task").iterdir()
        for pid in (task / "children").read_text().split()
    }


@pytest.fixture
def answers(tmp_path: Path) -> Iterator[Answers]:
    with looping() as turning:
        turning.turn()  # the first loop of a process opens what it keeps for ever
    fds, children = len(os.listdir("/proc/self/fd")), our_children()
    with looping() as turning:
        made = Answers(turning, tmp_path)
        yield made
        made.commands.close()
    assert len(os.listdir("/proc/self/fd")) == fds
    assert (
        our_children() <= children
    )  # no zombie, and no new child at all; a server of other tests may be one


def test_how_a_command_ended_and_its_last_line(answers: Answers, tmp_path: Path) -> None:
    answers.sh("good", "echo first; echo the $WORD is up; echo")
    answers.sh("bad", "echo no luck >&2; exit 3")
    answers.sh("shot", "kill -SEGV $$")
    answers.sh("odd", "kill -40 $$")
    answers.sh("quiet", "exit 0")
    answers.sh("bytes", r"printf '\377\000x\r\n'")
    answers.start("cwd", "/bin/pwd", cwd=str(tmp_path))
    assert answers.get("good") == (True, "the bird is up")
    assert answers.get("bad") == (False, "exit status 3: no luck")
    assert answers.get("shot") == (False, "killed by signal 11 (Segmentation fault)")
    assert answers.get("odd")[1].startswith("killed by signal 40")
    assert answers.get("quiet") == (True, "")
    assert answers.get("bytes") == (True, "\N{REPLACEMENT CHARACTER}\0x")
    assert answers.get("cwd") == (True, str(tmp_path))


def test_what_cannot_be_started_is_an_answer_too(answers: Answers, tmp_path: Path) -> None:
    answers.start("none", "/nowhere/program")
    answers.start("cwd", "/bin/true", cwd=str(tmp_path / "gone"))
    answers.start("nul", "/bin/true", "a\0b")
    assert answers.get("none") == (False, "cannot start /nowhere/program: No such file or directory")
    assert answers.get("cwd") == (False, f"cannot start {tmp_path}/gone: No such file or directory")
    assert answers.get("nul")[0] is False
    # The key is free again.
    answers.sh("none", "exit 0")
    assert answers.get("none", 2) == (True, "")


def test_environment_session_and_descriptors_are_the_same_each_time(answers: Answers) -> None:
    script = (
        "import os, signal\n"
        "print(sorted(os.environ), os.getpid() == os.getsid(0), len(os.listdir('/proc/self/fd')),"
        "signal.pthread_sigmask(signal.SIG_BLOCK, []), os.read(0, 1))"
    )
    for key in ("first", "second"):
        answers.start(key, sys.executable, "-I", "-c", script)
        ok, said = answers.get(key)
        assert (ok, said) == (True, "['LC_CTYPE', 'PATH', 'WORD'] True 4 set() b''")


def test_a_timeout_kills_the_whole_tree(answers: Answers, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    # A child that ignores TERM, one in a process group of its own, and an orphan in a session of its own.
    script = f"""
import os, signal, time
def note():
    with open({str(pids)!r}, "a") as f: f.write(f"{{os.getpid()}} ")
print("still busy", flush=True)
note()
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
elif os.fork() == 0:
    os.setpgid(0, 0)
else:
    middle = os.fork()
    if middle == 0:
        if os.fork():
            os._exit(0)
        os.setsid()
    else:
        os.waitpid(middle, 0)
        time.sleep(60)
note()
time.sleep(60)
"""
    answers.start("late", sys.executable, "-c", script, timeout_s=3.0)
    found = answers.pids(pids, 4)
    assert len({os.getpgid(pid) for pid in found}) == 3
    assert len({os.getsid(pid) for pid in found}) == 2
    assert answers.get("late") == (False, "not finished after 3 s: still busy")
    assert [pid for pid in found if alive(pid)] == []


def test_a_command_that_ends_leaves_no_child_behind_and_is_not_held_by_one(
    answers: Answers, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    began = time.monotonic()
    answers.sh("left", f"sleep 60 & echo $! > {pids}; echo done")  # it has the pipe, too
    assert answers.get("left") == (True, "done")
    assert time.monotonic() - began < 5
    (child,) = answers.pids(pids, 1)
    answers.turning.until(lambda: not alive(child), "its child ends")


def test_a_daemon_process_that_a_command_leaves_is_gone_before_its_answer(
    answers: Answers, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    inner = f"echo $$ >> {pids}; exec sleep 60"
    orphan = f"setsid sh -c 'setsid sh -c \"{inner}\" &' &"
    answers.sh("left", f"{orphan} for i in $(seq 6000); do test -s {pids} && exit; sleep 0.01; done")
    assert answers.get("left") == (True, "")
    (child,) = answers.pids(pids, 1)
    assert not alive(child)


@pytest.mark.parametrize("flight", ["os.setpgid(0, 0)", "os.setsid()"])
def test_a_chain_of_forks_is_ended(answers: Answers, tmp_path: Path, flight: str) -> None:
    pids = tmp_path / "pids"
    program = tmp_path / "forks.py"
    # Each says its number before anything else, so that none lives on unseen.
    program.write_text(f"""
import os, time
file = os.open({str(pids)!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
end_s = time.monotonic() + 60
while time.monotonic() < end_s:
    os.write(file, b"%d " % os.getpid())
    if os.fork():
        time.sleep(0.001)
        os._exit(0)
    {flight}
""")
    answers.sh("forks", f"{sys.executable} {program}; sleep 60", timeout_s=2.0)
    assert answers.get("forks")[0] is False
    said = pids.read_bytes()
    assert len(said.split()) > 2, "it forks"
    assert [pid for pid in said.split() if alive(int(pid))] == []
    answers.turning.turn(0.2)  # a hundred times what one of the chain takes
    assert pids.read_bytes() == said


def test_commands_of_a_killed_daemon_end_and_the_next_one_waits_for_that(
    answers: Answers, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    answers.commands.await_former()
    daemon = f"""
import os, uvloop
from pathlib import Path
from mgmt.shell.commands import Commands
loop = uvloop.new_event_loop()
commands = Commands(loop, Path({str(tmp_path / "state")!r}))
commands.await_former()
script = "echo $$ >> {pids}; setsid sleep 60 & echo $! >> {pids}; wait"
commands.run("hook", ["/bin/sh", "-c", script], dict(os.environ), None, 60.0, print)
loop.call_later(60, loop.stop)
loop.run_forever()
"""
    (tmp_path / "state").mkdir()
    with subprocess.Popen([sys.executable, "-c", daemon]) as process:
        found = answers.pids(pids, 2)
        process.kill()
    following = Commands(answers.turning.loop, tmp_path / "state")
    following.await_former()
    assert [pid for pid in found if alive(pid)] == []
    following.close()


def test_a_command_whose_shim_is_killed_ends(answers: Answers, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    answers.sh("hook", f"echo $$ $PPID > {pids}; sleep 60")
    pid, shim = answers.pids(pids, 2)
    os.kill(shim, signal.SIGKILL)
    assert answers.get("hook") == (False, "ended in an unknown way: its shim was killed")
    answers.turning.until(lambda: not alive(pid), "the command ends")


def test_cancel_answers_once_and_frees_the_key(answers: Answers, tmp_path: Path) -> None:
    answers.sh("hook", f"echo $$ > {tmp_path / 'pid'}; echo working; sleep 60")
    (pid,) = answers.pids(tmp_path / "pid", 1)
    with pytest.raises(ValueError, match="is running"):
        answers.sh("hook", "true")
    answers.commands.cancel("hook")
    answers.commands.cancel("hook")
    answers.commands.cancel("never heard of")
    assert answers.all["hook"] == []
    answers.sh("hook", "echo anew")
    answers.turning.until(lambda: len(answers.all["hook"]) == 2, "both answers")
    assert sorted(answers.all["hook"]) == [(False, "cancelled: working"), (True, "anew")]
    assert not alive(pid)


def test_a_flood_of_output_neither_blocks_nor_grows(answers: Answers) -> None:
    answers.sh("flood", "head -c 20000000 /dev/zero | tr '\\0' x; echo; echo end")
    assert answers.get("flood") == (True, "end")
    answers.sh("line", "head -c 100000 /dev/zero | tr '\\0' y")
    ok, detail = answers.get("line")
    assert ok and detail == "y" * MAX_DETAIL_CHARS


def test_a_stopped_command_times_out(answers: Answers) -> None:
    answers.sh("frozen", "kill -STOP $$", timeout_s=0.3)
    assert answers.get("frozen") == (False, "not finished after 0.3 s")


def test_the_loop_is_never_held_up(answers: Answers) -> None:
    longest = 0.0
    last = time.monotonic()

    def beat() -> None:
        nonlocal longest, last
        now = time.monotonic()
        longest, last = max(longest, now - last), now
        if len(answers.all) < 20 or not all(answers.all.values()):
            answers.turning.loop.call_later(0.001, beat)

    for n in range(20):
        answers.sh(f"{n}", "sleep 60 & wait", timeout_s=0.3)
    last = time.monotonic()
    beat()
    answers.turning.until(lambda: all(answers.all.values()), "20 time-outs")
    assert longest < 0.25, f"the loop stood for {longest:.3f} s"


def test_sigchld_is_not_needed(answers: Answers) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    try:
        answers.sh("a", "exit 4")
        assert answers.get("a") == (False, "exit status 4")
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])


def test_close_ends_what_runs(answers: Answers, tmp_path: Path) -> None:
    answers.sh("a", f"set -m; sleep 60 & echo $! $$ > {tmp_path / 'pids'}; wait")
    pids = answers.pids(tmp_path / "pids", 2)
    answers.commands.close()
    assert not any(alive(pid) for pid in pids)
    assert answers.all["a"] == []
    answers.commands = Commands(answers.turning.loop, tmp_path)
