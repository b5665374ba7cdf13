"""Groups of the real kernel: limits bind the tree, and a stop through the shim leaves nothing in them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from mgmt.settings.units import ResourceSettings
from mgmt.shell.cgroups import Cgroups
from tests.system.shim_driver import Shim, alive, build, until

Run = Callable[..., Shim]


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("shim") / "mgmt-shim")


@pytest.fixture
def cgroups() -> Iterator[Cgroups]:
    made = Cgroups(name=f"mgmt-test-{os.getpid()}")
    yield made
    until(
        lambda: not made.remove(Cgroups(name=f"mgmt-test-{os.getpid()}").leftover()), "the groups are empty"
    )
    made.close()
    left = [row["path"] for row in made.report() if (Path(row["path"]) / f"mgmt-test-{os.getpid()}").exists()]
    assert left == []


def groups(
    cgroups: Cgroups, needed: str, resources: ResourceSettings, cpus: tuple[int, ...] = ()
) -> list[Path]:
    for row in cgroups.report():
        if row["name"] in (needed, "kill") and row["state"] != "available":
            pytest.skip(f"control groups, {row['name']}: {row['state']} {row['errno']} {row['meaning']}")
    paths = cgroups.create("unit", 1, resources, cpus=cpus)
    assert cgroups.unenforced(resources, cpus=cpus) == []
    return paths


def run(binary: Path, folder: Path, paths: list[Path], *program: str) -> Shim:
    folder.mkdir()
    options = [word for path in paths for word in ("--cgroup", str(path))]
    return Shim(binary, folder, [*options, "--log", str(folder / "log")], program)


def members(path: Path) -> list[str]:
    return (path / "cgroup.procs").read_text().split()


def holds_two(path: Path) -> bool:
    return len(members(path)) == 2


@pytest.mark.parametrize("controller", ["cpu", "cpuset", "memory", "pids"])
def test_a_process_joins_and_a_kill_empties_every_group(
    binary: Path, tmp_path: Path, cgroups: Cgroups, controller: str
) -> None:
    resources = {
        "cpu": ResourceSettings(cpu_max_percent=50),
        "cpuset": ResourceSettings(),
        "memory": ResourceSettings(memory_max_mb=64),
        "pids": ResourceSettings(pids_max=10),
    }[controller]
    cpus = (min(os.sched_getaffinity(0)),) if controller == "cpuset" else ()
    paths = groups(cgroups, controller, resources, cpus)
    # An orphan in a session of its own that ignores TERM: only the group still knows it for sure.
    script = "(trap '' TERM; setsid sleep 1000 & ) ; exec sleep 1000"
    with run(binary, tmp_path / "u", paths, "/bin/sh", "-c", script) as shim:
        leader = shim.started()
        for path in paths:
            until(partial(holds_two, path), "both processes are in the group")
            assert str(leader) in members(path)
        pids = [int(pid) for pid in members(paths[0])]
        assert cgroups.remove(paths) == paths  # not while somebody is in them
        shim.send("kill")
        assert shim.expect("exited")["signal"] == str(int(signal.SIGKILL))
        shim.expect("empty")
        assert [pid for pid in pids if alive(pid)] == []
        shim.end()
    until(lambda: not cgroups.remove(paths), "the groups can be removed")
    assert [path for path in paths if path.exists()] == []


def test_memory_beyond_the_limit_is_killed(binary: Path, tmp_path: Path, cgroups: Cgroups) -> None:
    paths = groups(cgroups, "memory", ResourceSettings(memory_max_mb=32))
    hog = "b = bytearray(96 << 20)\nfor i in range(0, len(b), 4096): b[i] = 1"
    with run(binary, tmp_path / "u", paths, sys.executable, "-c", hog) as shim:
        shim.started()
        assert shim.expect("exited")["signal"] == str(int(signal.SIGKILL))


def test_processes_beyond_the_limit_are_refused(binary: Path, tmp_path: Path, cgroups: Cgroups) -> None:
    paths = groups(cgroups, "pids", ResourceSettings(pids_max=4))
    fork = "import os\nn = 0\ntry:\n  while n < 50:\n    if not os.fork(): os._exit(0)\n    n += 1\n"
    fork += "except BlockingIOError:\n  os._exit(n)\nos._exit(99)"
    with run(binary, tmp_path / "u", paths, sys.executable, "-c", fork) as shim:
        shim.started()
        assert shim.expect("exited")["code"] == "3"  # and itself: zombies count, too


def test_cpu_time_beyond_the_limit_is_withheld(binary: Path, tmp_path: Path, cgroups: Cgroups) -> None:
    paths = groups(cgroups, "cpu", ResourceSettings(cpu_max_percent=20))
    spin = "import time\nend = time.monotonic() + 1\nwhile time.monotonic() < end: pass"
    with run(binary, tmp_path / "u", paths, sys.executable, "-c", spin) as shim:
        shim.started()
        ended = shim.expect("exited")
        assert ended["code"] == "0"
        assert int(ended["utime_us"]) + int(ended["stime_us"]) < 500_000


def test_a_unit_cannot_leave_its_cpus(binary: Path, tmp_path: Path, cgroups: Cgroups) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        pytest.skip("needs two CPUs")
    paths = groups(cgroups, "cpuset", ResourceSettings(), (allowed[1],))
    escape = f"import os\nos.sched_setaffinity(0, {set(allowed)})\nprint(sorted(os.sched_getaffinity(0)))"
    with run(binary, tmp_path / "u", paths, sys.executable, "-c", escape) as shim:
        shim.started()
        assert shim.expect("exited")["code"] == "0"
    assert (tmp_path / "u/log").read_text().strip() == str([allowed[1]])
