"""A crew with a worker of each kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .crew import RESIDENT, Crew, program

FUNCTIONS = '''
import os, sys, time, signal, ctypes

calls = 0

def nothing():
    return None

def add(a, b=1):
    return a + b

def count():
    global calls
    calls += 1
    return calls

def fail(text):
    raise ValueError(text + "\\udce9")

def leave(code):
    sys.exit(code)

def nap(seconds):
    time.sleep(seconds)
    return "rested"

def gate(folder):
    """Says that it runs, and goes on when it may."""
    open(folder + "/runs", "w").close()
    end = time.monotonic() + 60
    while not os.path.exists(folder + "/go") and time.monotonic() < end:
        time.sleep(0.01)

def hold_the_interpreter():
    ctypes.PyDLL(None).sleep(30)

def crash():
    os.kill(os.getpid(), signal.SIGSEGV)

def environment():
    return {k: v for k, v in os.environ.items() if k.startswith(("MITO_", "OWN"))}, os.getcwd()

def speak(text, times=1):
    for _ in range(times):
        print(text)
    os.write(2, b"from below\\n")

def leave_things():
    with open(os.environ["MITO_RESULT_DIR"] + "/r", "w") as file:
        file.write("result")
    with open(os.environ["MITO_NEW_TASK"], "w") as file:
        file.write("{}")
    open("litter", "w").close()

def replace_things():
    os.rename(os.environ["MITO_RESULT_DIR"], os.environ["MITO_RESULT_DIR"] + ".old")
    os.mkdir(os.environ["MITO_RESULT_DIR"])
    os.rmdir(os.environ["MITO_EXEC_DIR"])

def listing():
    return os.listdir("."), os.listdir(os.environ["MITO_RESULT_DIR"])

def resources():
    return sorted(os.listdir(os.environ["MITO_RESOURCE_DIR"]))

class Odd:
    def __repr__(self):
        raise RuntimeError("no repr")

def odd():
    return Odd()

def large():
    return "x" * 100_000

class Group:
    @staticmethod
    def method():
        return "inner"
'''


@pytest.fixture(scope="session")
def worker_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return program(tmp_path_factory.mktemp("worker"))


@pytest.fixture
def crew(worker_program: Path, tmp_path: Path) -> Iterator[Crew]:
    """With a process worker."""
    with Crew([worker_program], tmp_path) as made:
        yield made


@pytest.fixture
def resident(tmp_path: Path) -> Iterator[Crew]:
    """With a resident worker that can import `functions`."""
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    with Crew(RESIDENT, tmp_path, {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"}) as made:
        yield made


@pytest.fixture(params=["process", "resident"])
def either(request: pytest.FixtureRequest) -> Crew:
    made: Crew = request.getfixturevalue("crew" if request.param == "process" else "resident")
    return made
