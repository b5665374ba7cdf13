"""The installed wheel under a systemd booted for it: what docs/operations.md promises, as systemd does it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.promql import scrape
from tests.system.clients import eventually
from tests.system.daemon import pids_with_environ
from tests.system.installed import MGMT, install, put_files
from tests.system.node import Node, NoNode

# One node for all of them; its boot and installation are in the time of the first.
pytestmark = [pytest.mark.xdist_group("systemd-node"), pytest.mark.timeout(180)]

DROP_IN = "/etc/systemd/system/mgmt.service.d/test.conf"
UNITS_DROP_IN = "/etc/systemd/system/mgmt-units.service.d/test.conf"
MARK = "MGMT_TEST_NODE"
# Each a tree of two processes, one that ends orderly and says so, one that ends with a status on USR2.
POLITE = 'trap "echo ended >>/var/lib/mgmt/ended; exit 0" TERM; trap "exit 7" USR2; sleep infinity & wait'
NAMES = ("first", "second")
QUICK = {"delay_s": 0.2, "delay_max_s": 0.2}


def boot(folder: Path, wheel: Path, *, unified: bool) -> Node:
    node = Node(folder, unified=unified)
    put_files(node, "mgmt.service", "mgmt-metrics.service", "mgmt-metrics.timer")
    try:
        node.boot()
    except NoNode as error:
        node.close()
        pytest.skip(str(error))
    try:
        install(node, wheel)
    except BaseException:
        node.close()
        raise
    return node


@pytest.fixture(scope="module")
def booted(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = boot(tmp_path_factory.mktemp("node"), wheel, unified=True)
    yield node
    node.close()


class Service:
    """`mgmt` as installed in a node, from an empty state folder."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.configure()
        for path in (DROP_IN, UNITS_DROP_IN):
            (node.root / path.lstrip("/")).unlink(missing_ok=True)
        self.clear()

    def clear(self) -> None:
        """Nothing of it runs, and nothing is remembered."""
        self.node.run("systemctl", "stop", "mgmt.slice")
        self.node.run("systemctl", "daemon-reload")
        self.node.run("systemctl", "reset-failed")
        assert self.trees() == set()
        self.node.run("/bin/sh", "-c", "rm -rf /var/lib/mgmt/* /run/mgmt/*")

    def configure(self, text: str | None = None, **second: Any) -> None:
        """Two units alike, but for what is told of the second; or this text."""
        unit = {
            "command": ["/bin/sh", "-c", POLITE],
            "env": {MARK: self.node.name},
            "autostart": True,
            "restart": {"policy": "always", **QUICK},
        }
        units = {"first": unit, "second": unit | second}
        settings = {"units": units, "model_backends": {}, "supported_models": []}
        self.node.write("/etc/mgmt/config.json", json.dumps(settings) if text is None else text)

    def drop_in(self, text: str, place: str = DROP_IN) -> None:
        self.node.write(place, text)
        self.node.systemctl("daemon-reload")

    # ---- what is there ----

    def asked(self) -> subprocess.CompletedProcess[str]:
        return self.node.run(MGMT, "--timeout", "5s", "status", "--json", check=False)

    def status(self) -> dict[str, dict[str, Any]]:
        """Units by name, as the daemon answers at once; it must."""
        done = self.asked()
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{self.node.journal()}"
        return {unit["unit"]: unit for unit in json.loads(done.stdout)["units"]}

    def pids(self) -> dict[str, int]:
        """The unit's process by name, once all run."""

        def running() -> dict[str, int]:
            units = self.status()
            assert sorted(units) == sorted(NAMES)
            is_complete = all(unit["state"] == "RUNNING" and unit["pid"] for unit in units.values())
            return {name: unit["pid"] for name, unit in units.items()} if is_complete else {}

        try:
            return eventually(running, what="all units run")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.asked().stdout}\n{self.node.journal(25)}") from None

    def trees(self) -> set[int]:
        """Every process of units, seen from outside, by what they were started with."""
        return pids_with_environ(MARK, self.node.name)

    def ended(self) -> str:
        """A line for each unit that ended orderly; the state folder is the one place they may write to."""
        path = self.node.root / "var/lib/mgmt/ended"
        return path.read_text() if path.exists() else ""

    @property
    def main_pid(self) -> int:
        return int(self.node.show("mgmt.service", "MainPID"))

    def another_main_pid(self, than: int) -> None:
        """Until systemd has another daemon up and ready."""

        def is_up() -> bool:
            return self.main_pid not in (0, than) and self.node.show("mgmt", "ActiveState") == "active"

        eventually(is_up, what=f"another daemon than {than}\n{self.node.journal()}")


@pytest.fixture
def service(booted: Node) -> Service:
    return Service(booted)


@pytest.fixture
def running(service: Service) -> Service:
    service.node.systemctl("start", "mgmt")
    service.pids()
    return service


def kept(service: Service, before: dict[str, int], trees: set[int]) -> None:
    """The same processes, none more, none less, and none that counts as restarted."""
    units = service.status()
    assert {name: unit["pid"] for name, unit in units.items()} == before
    assert {unit["state"] for unit in units.values()} == {"RUNNING"}
    assert [unit["restarts"] for unit in units.values()] == [0, 0]
    assert service.trees() == trees


# ---- start ----


def test_start_returns_when_the_daemon_answers(service: Service) -> None:
    service.node.systemctl("start", "mgmt")
    assert sorted(service.status()) == sorted(NAMES)  # at once, not eventually
    assert service.node.show("mgmt", "StatusText").startswith("serving on ipc:///run/mgmt/")
    assert service.node.show("mgmt", "User") == "mgmt"


def test_start_fails_when_the_daemon_cannot_serve(service: Service) -> None:
    service.configure('{"units": {"first": {}}}')
    done = service.node.run("systemctl", "start", "mgmt", check=False)
    assert done.returncode != 0
    assert service.node.show("mgmt", "ActiveState") == "failed"
    assert service.node.show("mgmt", "ExecMainStatus") == "2"
    assert service.node.show("mgmt", "NRestarts") == "0"  # it does not heal by itself


def test_units_are_out_of_reach_of_the_daemons_service(running: Service) -> None:
    node = running.node
    assert node.group_of(running.main_pid) == "/mgmt.slice/mgmt.service"
    home = "/mgmt.slice/mgmt-units.service/"
    groups = {name: node.group_of(pid) for name, pid in running.pids().items()}
    assert all(group.startswith(home) for group in groups.values()) and len(set(groups.values())) == 2
    shims = node.said("pgrep", "-x", "mgmt-shim").split()
    assert [node.group_of(int(pid)) for pid in shims] == [f"{home}shims"] * 2


# ---- the daemon ends, units run on ----


def test_the_watchdog_ends_a_daemon_that_hangs(running: Service) -> None:
    running.drop_in("[Service]\nWatchdogSec=1s\n")
    running.node.systemctl("restart", "mgmt")
    before, trees, daemon = running.pids(), running.trees(), running.main_pid
    running.node.run("kill", "-STOP", str(daemon))
    running.another_main_pid(daemon)
    assert "Watchdog timeout" in running.node.journal(200)
    assert running.node.show("mgmt", "NRestarts") == "1"
    kept(running, before, trees)


def test_a_daemon_that_beats_is_left_alone(running: Service) -> None:
    running.drop_in("[Service]\nWatchdogSec=500ms\n")
    running.node.systemctl("restart", "mgmt")
    daemon = running.main_pid
    beats = running.node.show("mgmt", "WatchdogTimestampMonotonic")
    eventually(
        lambda: int(running.node.show("mgmt", "WatchdogTimestampMonotonic")) > int(beats) + 1_500_000,
        what="it beats for three times its period",
    )
    assert (running.main_pid, running.node.show("mgmt", "NRestarts")) == (daemon, "0")


def test_units_are_adopted_when_the_daemon_is_killed(running: Service) -> None:
    before, trees = running.pids(), running.trees()
    for _ in range(2):
        daemon = running.main_pid
        running.node.run("kill", "-KILL", str(daemon))
        running.another_main_pid(daemon)
        kept(running, before, trees)


def test_restart_keeps_the_units(running: Service) -> None:
    before, trees, daemon = running.pids(), running.trees(), running.main_pid
    running.node.systemctl("restart", "mgmt")
    assert running.main_pid != daemon
    kept(running, before, trees)
    assert running.ended() == ""


def test_reload_touches_only_what_changed(running: Service) -> None:
    before, daemon = running.pids(), running.main_pid
    running.configure(umask="0027")
    running.node.systemctl("reload", "mgmt")
    eventually(lambda: running.pids()["second"] != before["second"], what="the second is started again")
    assert running.pids()["first"] == before["first"]
    assert running.main_pid == daemon


def test_stop_leaves_the_units_and_the_next_start_adopts_them(running: Service) -> None:
    before, trees = running.pids(), running.trees()
    running.node.systemctl("stop", "mgmt")
    assert running.node.show("mgmt", "ActiveState") == "inactive"
    assert running.node.show("mgmt", "Result") == "success"
    assert running.trees() == trees
    running.node.systemctl("start", "mgmt")
    kept(running, before, trees)


def test_an_end_without_a_daemon_is_known_to_the_next(running: Service) -> None:
    before, trees = running.pids(), running.trees()
    running.node.systemctl("stop", "mgmt")
    running.node.run("kill", "-USR2", str(before["first"]))
    # Its tree ended with it? The background process did not: the next daemon ends it before the restart.
    eventually(lambda: running.trees() != trees, what="the leader is gone")
    running.node.systemctl("start", "mgmt")
    eventually(lambda: running.pids()["first"] != before["first"], what="a restart")
    assert running.pids()["second"] == before["second"]
    first = running.status()["first"]
    assert (first["restarts"], first["last_exit"]["code"]) == (1, 7)
    assert len(running.trees()) == len(trees)


def test_a_damaged_store_is_recovered_as_the_journal_says(running: Service) -> None:
    node, trees = running.node, running.trees()
    node.systemctl("stop", "mgmt")
    store = node.root / "var/lib/mgmt/state.db"
    with store.open("r+b") as file:
        file.truncate(store.stat().st_size // 2)
    assert node.run("systemctl", "start", "mgmt", check=False).returncode != 0
    assert "mgmt store recover" in node.journal()
    assert running.trees() == trees
    node.systemctl("stop", "mgmt")  # it would be tried again
    as_mgmt = (
        "setpriv",
        "--reuid=mgmt",
        "--regid=mgmt",
        "--init-groups",
        "env",
        "MGMT_STATE_DIR=/var/lib/mgmt",
    )
    node.run(*as_mgmt, MGMT, "store", "recover")
    node.systemctl("start", "mgmt")
    running.pids()
    # Adopted or, when the damage has their names, ended and started again: never there twice.
    eventually(lambda: len(running.trees()) == len(trees), what="each unit runs once")


# ---- everything ends ----


def test_the_timer_writes_figures_for_a_collector(running: Service) -> None:
    node, file = running.node, running.node.root / "run/mgmt-metrics/mgmt.prom"

    def taken() -> float:
        figures = scrape(node.said("/bin/cat", "/run/mgmt-metrics/mgmt.prom"))
        return figures["mgmt_taken_timestamp_seconds", frozenset()]

    def is_written() -> bool:
        return node.run("/usr/bin/test", "-s", "/run/mgmt-metrics/mgmt.prom", check=False).returncode == 0

    try:
        node.systemctl("start", "mgmt-metrics.timer")
        eventually(is_written, what=f"a file {file}\n{node.journal()}")
        assert node.said("/usr/bin/stat", "-c", "%a %U", "/run/mgmt-metrics/mgmt.prom").strip() == "644 mgmt"
        first = taken()
        node.systemctl("stop", "mgmt.service")
        assert node.run("systemctl", "start", "mgmt-metrics.service", check=False).returncode != 0
        assert taken() >= first, "nobody answers: the file stays, and is old"
        node.systemctl("start", "mgmt.service")
        node.systemctl("start", "mgmt-metrics.service")
        assert taken() > first
    finally:
        node.run("systemctl", "stop", "mgmt-metrics.timer", check=False)


def test_stop_of_the_slice_stops_everything(running: Service) -> None:
    running.node.systemctl("stop", "mgmt.slice")
    assert running.trees() == set()
    assert running.node.said("pgrep", "-x", "mgmt-shim") == ""
    assert running.ended() == "ended\n" * 2  # each heard TERM
    for unit in ("mgmt.service", "mgmt-units.service", "mgmt.slice"):
        assert running.node.show(unit, "ActiveState") == "inactive"
    # What was wanted still is.
    running.node.systemctl("start", "mgmt")
    assert len(running.pids()) == 2


def test_stop_service_stops_the_units_and_the_daemon(running: Service) -> None:
    running.node.run(MGMT, "stop-service")
    eventually(lambda: running.node.show("mgmt", "ActiveState") == "inactive", what="it is not started again")
    assert running.trees() == set()
    assert running.node.show("mgmt", "NRestarts") == "0"


def test_units_come_back_when_their_group_is_lost(running: Service) -> None:
    before = set(running.pids().values())

    def others() -> list[int]:
        """The units' processes, when they are all new; the daemon is away for a moment, too."""
        done = running.asked()
        units = json.loads(done.stdout)["units"] if done.returncode == 0 else []
        pids = [unit["pid"] for unit in units if unit["state"] == "RUNNING"]
        return pids if len(pids) == len(NAMES) and not before & set(pids) else []

    running.node.run("systemctl", "kill", "--kill-who=main", "--signal=KILL", "mgmt-units")
    for pid in eventually(others, what="units are started again"):
        assert running.node.group_of(pid).startswith("/mgmt.slice/mgmt-units.service/")


# ---- when the layout is another ----


def test_a_daemon_that_could_not_keep_units_says_so(service: Service) -> None:
    service.drop_in("[Service]\nExecStartPre=\n", UNITS_DROP_IN)
    service.node.run("systemctl", "stop", "mgmt.slice")
    assert service.node.run("systemctl", "start", "mgmt", check=False).returncode != 0
    journal = service.node.journal()
    assert "units would end with this daemon" in journal and "Permission denied" in journal
    assert service.node.show("mgmt", "NRestarts") == "0"


def test_without_a_service_for_units_the_kill_mode_keeps_them(service: Service) -> None:
    service.drop_in("[Service]\nEnvironment=MGMT_UNITS_SERVICE=\nDelegate=yes\nKillMode=process\n")
    service.node.systemctl("start", "mgmt")
    before, trees, daemon = service.pids(), service.trees(), service.main_pid
    assert service.node.group_of(before["first"]).startswith("/mgmt.slice/mgmt.service/")
    service.node.run("kill", "-KILL", str(daemon))
    service.another_main_pid(daemon)
    kept(service, before, trees)
    service.node.systemctl("restart", "mgmt")
    kept(service, before, trees)
    # Here a stop of the slice ends the daemon alone: this is what the other layout is for.
    service.node.run(MGMT, "stop-service")
    eventually(lambda: not service.trees(), what="units end")


def test_version_1_and_2_beside_each_other(wheel: Path, tmp_path: Path) -> None:
    if not Path("/sys/fs/cgroup/unified").is_dir():
        pytest.skip("control groups of version 1 and 2 are not beside each other on this machine")
    node = boot(tmp_path, wheel, unified=False)
    try:
        service = Service(node)
        node.systemctl("start", "mgmt")
        before, trees, daemon = service.pids(), service.trees(), service.main_pid
        assert node.group_of(before["first"]).startswith("/mgmt.slice/mgmt-units.service/")
        node.run("kill", "-KILL", str(daemon))
        service.another_main_pid(daemon)
        kept(service, before, trees)
        node.systemctl("restart", "mgmt")
        kept(service, before, trees)
        node.systemctl("stop", "mgmt.slice")
        assert service.trees() == set()
    finally:
        node.close()
