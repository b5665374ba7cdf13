"""The resident worker: functions, what they return, raise, print, and how one is ended."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import msgpack
import pytest

from mgmt.worker import wire
from mgmt.worker.wire import Kind

from .crew import Crew, Done, until


def call(crew: Crew, function: str, *params: Any, task: int = 1, **spec: Any) -> Done:
    return crew.do(task, function=f"functions:{function}", params=list(params), **spec)


def value(done: Done) -> Any:
    assert (done.status, done.message) == (0, ""), done
    return msgpack.unpackb(done.extra["value"])


def test_a_function_is_called(resident: Crew) -> None:
    done = call(resident, "nothing")
    assert (done.status, done.message, done.tail, done.extra) == (0, "", b"", {})
    assert 0 < done.start_ns <= done.end_ns
    assert value(call(resident, "add", 2, kw={"b": 3})) == 5
    assert value(call(resident, "Group.method")) == "inner"
    assert [value(call(resident, "count")) for _ in range(3)] == [1, 2, 3]  # imported once


def test_what_it_raises_is_a_result(resident: Crew) -> None:
    done = call(resident, "fail", "no ")
    assert (done.status, done.message) == (1, "ValueError: no ?")
    assert done.tail.decode().startswith("Traceback") and "in fail" in done.tail.decode()
    assert "resident.py" not in done.tail.decode()
    assert call(resident, "leave", 3).status == 3
    assert call(resident, "leave", None).status == 0
    assert call(resident, "leave", "words").status == 1
    assert value(call(resident, "add", 1)) == 2


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("no_such_module:f", "ModuleNotFoundError"),
        ("functions:no_such_function", "AttributeError"),
        ("functions:calls", "TypeError"),
        ("functions", "ValueError"),
    ],
)
def test_what_cannot_be_imported_is_a_result(resident: Crew, function: str, said: str) -> None:
    done = resident.do(function=function)
    assert (done.status, done.message.split(":")[0]) == (1, said)
    assert done.tail


@pytest.mark.parametrize(
    "spec", [b"", b"\xc1", b"\x80", b"\x90", b"\x81\xa4args\x91\xa4true",
             msgpack.packb({"function": "functions:nothing", "timeout_s": "soon"}),
             msgpack.packb({"function": "functions:nothing", "envs": {"A": 1}})],
)  # fmt: skip
def test_a_spec_that_cannot_be_understood_is_a_result(resident: Crew, spec: bytes) -> None:
    resident.send(Kind.RUN, 1, 1, spec, "u", None)
    done = resident.done()
    assert done.status == 126
    assert done.message.startswith("its spec cannot be run: ")
    assert call(resident, "nothing").status == 0


def test_a_value_that_cannot_be_carried_is_described(resident: Crew) -> None:
    done = call(resident, "large")
    assert "value" not in done.extra and done.extra["repr"].startswith("'xxx")
    done = call(resident, "odd")
    assert done.extra["repr"].startswith("<Odd ")


def test_what_it_prints(resident: Crew) -> None:
    assert call(resident, "speak", "hello").tail == b"hello\nfrom below\n"
    assert call(resident, "nothing").tail == b""
    tail = call(resident, "speak", "x" * 99, 50_000).tail  # 5 MB
    assert (len(tail), tail[-15:]) == (wire.TAIL_BYTES, b"xxx\nfrom below\n")
    done = call(resident, "speak", "y" * 99, 500, task=4, terminal_output=True)
    assert done.extra == {"log": f"{resident.place}/out/4.1.log", "log_bytes": 10_000, "truncated": True}
    assert Path(done.extra["log"]).read_text() == ("y" * 99 + "\n") * 100
    assert done.tail.endswith(b"y\nfrom below\n")
    done = call(resident, "speak", "z", task=5, terminal_output=True)
    assert (done.extra["log_bytes"], Path(done.extra["log"]).read_text()) == (13, "z\nfrom below\n")
    assert call(resident, "speak", "again").tail == b"again\nfrom below\n"


def test_its_environment(resident: Crew, tmp_path: Path) -> None:
    env, cwd = value(call(resident, "environment", task=8, envs={"OWN": "x", "MITO_EXEC_DIR": "mine"}))
    place = str(resident.place)
    plain = {
        "MITO_RESULT_DIR": f"{place}/result", "MITO_RESOURCE_DIR": f"{place}/resource",
        "MITO_EXEC_DIR": f"{place}/exec", "MITO_NEW_TASK": f"{place}/new-task.json",
        "MITO_UPSTREAM_TASK_UUID": "",
    }  # fmt: skip
    assert env == {**plain, "MITO_TASK_UUID": "uuid-8", "MITO_EXEC_DIR": "mine", "OWN": "x"}
    assert cwd == f"{place}/exec"
    resident.run(9, upstream="before", function="functions:environment", cwd=str(tmp_path))
    env, cwd = value(resident.done())
    assert env == {**plain, "MITO_TASK_UUID": "uuid-9", "MITO_UPSTREAM_TASK_UUID": "before"}
    assert cwd == str(tmp_path)


def test_modules_of_its_working_folder(resident: Crew, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "only_here.py").write_text("def f():\n    return 'here'\n")
    assert resident.do(function="only_here:f").status == 1
    assert value(resident.do(function="only_here:f", cwd=str(tmp_path / "project"))) == "here"


def test_what_it_leaves_is_kept_and_the_next_finds_nothing(resident: Crew) -> None:
    for _ in range(2):
        done = call(resident, "leave_things", task=3)
        assert done.extra == {"results": f"{resident.place}/out/3.1", "new_task": b"{}"}
        assert Path(done.extra["results"], "r").read_text() == "result"
        assert value(call(resident, "listing")) == [[], []]
        assert call(resident, "replace_things").status == 0
        assert value(call(resident, "listing")) == [[], []]


def test_resources_are_where_the_crew_has_put_them(resident: Crew) -> None:
    wanted = [{"blob": "x", "path": "data"}]
    done = call(resident, "resources", resources=wanted)
    assert (done.status, done.message) == (126, wire.RESOURCE_NOT_FOUND)
    (resident.place / "in" / "6.1").mkdir()
    (resident.place / "in" / "6.1" / "data").touch()
    assert value(call(resident, "resources", task=6, resources=wanted)) == ["data"]
    assert os.listdir(resident.place / "in") == []


def test_a_timeout_is_a_result_and_then_the_worker_ends(resident: Crew) -> None:
    call(resident, "nothing")
    resident.run(1, function="functions:nothing")
    resident.run(2, function="functions:nap", params=[30], timeout_s=0.3)
    resident.run(3, function="functions:nothing")
    assert resident.done().task == 1
    done = resident.done()
    assert (done.task, done.status, done.message) == (2, -signal.SIGKILL, wire.EXEC_TIMEOUT)
    assert done.end_ns - done.start_ns > 0.2e9
    with pytest.raises(ConnectionError):
        resident.done()
    assert resident.ended() == (wire.EXIT_TIMED_OUT, "")


def test_in_time_is_no_timeout(resident: Crew) -> None:
    assert value(call(resident, "nap", 0.3, timeout_s=20)) == "rested"
    assert resident.states == [[Kind.STATE, 1, 1, wire.EXEC_SPAWNED]]
    assert call(resident, "nothing", timeout_s=0.001).status == 0


def test_one_that_holds_the_interpreter_is_ended_by_the_alarm(resident: Crew) -> None:
    resident.run(1, function="functions:hold_the_interpreter", timeout_s=0.01)
    assert resident.ended()[0] == -signal.SIGALRM


def test_cancel_of_a_running_and_of_a_waiting_call(resident: Crew) -> None:
    resident.run(1, **resident.gated())
    resident.run(2, **resident.quick())
    resident.wait_until_it_runs()
    resident.send(Kind.CANCEL, 2, 1, 0)
    done = resident.done()
    assert (done.task, done.status, done.message, done.start_ns) == (2, -15, wire.USER_CANCELLATION, 0)
    resident.send(Kind.CANCEL, 99, 1, 0)
    resident.send(Kind.CANCEL, 1, 1, 0)
    done = resident.done()
    assert (done.task, done.status, done.message) == (1, -signal.SIGKILL, wire.USER_CANCELLATION)
    assert resident.ended()[0] == wire.EXIT_TIMED_OUT


def test_a_stop_without_grace_ends_it_in_the_middle(resident: Crew) -> None:
    resident.run(1, **resident.gated())
    resident.wait_until_it_runs()
    resident.send(Kind.STOP, False)
    with pytest.raises(ConnectionError):
        resident.done()
    assert resident.ended() == (0, "")


@pytest.mark.parametrize("more", [{}, {"terminal_output": True}])
def test_a_printer_without_end_fills_neither_memory_nor_disk(resident: Crew, more: dict[str, Any]) -> None:
    resident.run(1, function="functions:speak", params=["x" * 1000, 1 << 40], **more)
    shrinks, before, end = 0, 0, time.monotonic() + 20
    while shrinks < 3 and time.monotonic() < end:
        size = os.stat(f"/proc/{resident.pid}/fd/1").st_size
        shrinks += size < before
        before = size
    assert shrinks == 3
    resident.send(Kind.CANCEL, 1, 1, 0)
    done = resident.done()
    assert (done.message, len(done.tail)) == (wire.USER_CANCELLATION, wire.TAIL_BYTES)


def test_a_machine_fault_is_told(resident: Crew) -> None:
    call(resident, "nothing")
    os.rename(resident.place, resident.folder / "gone")  # its folders with it
    (resident.folder / "gone" / "litter").touch()
    resident.run(1, function="functions:nothing")
    status, text = resident.ended()
    assert status == 1 and "FileNotFoundError" in text


def test_a_crash_ends_the_worker_with_its_signal(resident: Crew) -> None:
    resident.run(1, function="functions:crash")
    assert resident.ended()[0] == -signal.SIGSEGV


def test_dones_before_a_long_call_are_not_held_back(resident: Crew) -> None:
    call(resident, "nothing")
    for task in (1, 2, 3):
        resident.run(task, **resident.quick())
    resident.run(4, **resident.gated())
    assert [resident.done().task for _ in range(3)] == [1, 2, 3]  # while the fourth runs
    resident.wait_until_it_runs()
    resident.open_the_gate()
    assert resident.done().task == 4


def test_many_calls_leave_no_descriptor(resident: Crew) -> None:
    def descriptors() -> int:
        return len(os.listdir(f"/proc/{resident.pid}/fd"))

    call(resident, "nothing")
    before = descriptors()
    for task in range(1000):
        resident.run(task, **resident.quick())
    for task in range(1000):
        assert resident.done().task == task
    call(resident, "speak", "x", terminal_output=True)
    until(lambda: descriptors() == before, "the same descriptors")
