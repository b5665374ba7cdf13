"""What the kernel says of tasks, through a real daemon: shown, drawn, there again when its observer is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from mgmt.rt import tracing
from mgmt.rt.observation import ObserverError
from tests.rt.rig import SOURCES, build
from tests.system.clients import eventually
from tests.system.daemon import Daemon, Start
from tests.system.test_schedule_tasks import PERIOD_US, command, faults, submit, task, workload


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build(SOURCES / "client.c", tmp_path_factory.mktemp("rt") / "client"))


def ebpf_refusal() -> str:
    try:
        return tracing.probe()
    except ObserverError as error:
        return str(error)


def observed(daemon: Daemon, records: bool = False) -> dict[str, Any]:
    """Of the first task, once it has been seen for a while."""

    def look() -> dict[str, Any] | None:
        (row, *_) = daemon.control.ok("schedule-stat", workload="w", records=records)["tasks"]
        return row if row["observed"] and row["observed"]["switches"] > 10 else None

    row = eventually(look)
    assert row is not None
    found: dict[str, Any] = row["observed"] | {"jobs": row["jobs"]}
    return found


@pytest.mark.parametrize("wanted", ["perf", "schedstat"])
def test_counters_are_shown_with_the_reason_why_there_is_no_more(
    start: Start, client: str, wanted: str
) -> None:
    daemon = start(environ={"MGMT_OBSERVER": wanted})
    submit(daemon, workload(task("a", client, "--burn-us", "1000")))
    found = observed(daemon, records=True)
    assert found["mechanism"] in (wanted, "schedstat") and found["reason"].startswith(
        f"MGMT_OBSERVER={wanted}"
    )
    assert found["cpu_us"] > 5000 and found["activations"] is None and found["slices"] == []
    said = command(daemon, "schedule", "stat", "w")
    assert f"observed by {found['mechanism']}: MGMT_OBSERVER={wanted}" in said and "OBSERVED BY" in said


def test_observation_can_be_switched_off(start: Start, client: str) -> None:
    daemon = start(environ={"MGMT_OBSERVER": "off"})
    submit(daemon, workload(task("a", client)))
    eventually(lambda: daemon.control.ok("schedule-stat")["tasks"][0]["jobs"] > 3)
    assert daemon.control.ok("schedule-stat")["tasks"][0]["observed"] is None
    assert "OBSERVED BY" not in command(daemon, "schedule", "stat")


def test_what_the_kernel_saw_is_shown_and_drawn(start: Start, client: str, tmp_path: Path) -> None:
    if refusal := ebpf_refusal():
        pytest.skip(f"ebpf: {refusal}")
    daemon = start()
    uncooperative = "import time\nwhile True: time.sleep(0.005)"
    submit(
        daemon,
        workload(
            task("a", client, "--burn-us", "2000"), task("b", "/usr/bin/env", "python3", "-c", uncooperative)
        ),
    )
    found = observed(daemon, records=True)
    assert (found["mechanism"], found["reason"], found["lost"], found["threads"]) == ("ebpf", "", 0, 1)
    assert found["on_cpu"]["p50_us"] >= 1900 and found["wakeup"]["max_us"] > 0
    assert all(one["start_ns"] <= one["end_ns"] for one in found["slices"])

    rows = daemon.control.ok("schedule-stat", workload="w")["tasks"]
    eventually(lambda: daemon.control.ok("schedule-stat")["tasks"][1]["observed"]["activations"] > 5)
    assert rows[1]["jobs"] == 0 and rows[1]["jitter"] is None, "it tells nothing of itself"

    picture = tmp_path / "actual.svg"
    command(daemon, "schedule", "gantt", "--actual", str(picture), "w")
    drawn = ElementTree.parse(picture)
    told = [node.text or "" for node in drawn.iter("{http://www.w3.org/2000/svg}title")]
    assert any(text.startswith("a job ") for text in told) and any(text.startswith("b job ") for text in told)

    pid = observer(daemon)
    os.kill(pid, signal.SIGKILL)
    assert "a new one is started" in eventually(lambda: faults(daemon, "observer"))[0]["reason"]
    eventually(lambda: observer(daemon) not in (0, pid))
    assert observed(daemon)["mechanism"] == "ebpf"
    assert daemon.control.ok("schedule-stat")["tasks"][0]["period_us"] == PERIOD_US


def observer(daemon: Daemon) -> int:
    """The pid of its mgmt-observer; 0: there is none."""
    for entry in Path("/proc").iterdir():
        try:
            ours = Path(os.readlink(entry / "exe")) == tracing.PROGRAM.resolve()
            if ours and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == daemon.pid:
                return int(entry.name)
        except OSError:
            continue
    return 0
