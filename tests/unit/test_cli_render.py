"""Tables, times and sizes as people see them."""

from __future__ import annotations

import json

import pytest

from mgmt_cli import render, status
from tests.unit.scripted_daemon import SERVICE, a_unit, an_explanation, failed_unit

GOLDEN = """\
mgmt 0.1.0 running, pid 4711, up 3m12s, epoch 42, ipc:///run/mgmt/control
SERVICE  STATE    READY   PID  UPTIME  RESTARTS  CPU%    MEM  CPUS   ENDPOINT
bad      FATAL    no        -       -         5     -      -  -      ipc:///tmp/symphony-model-0000002a
echo#0   RUNNING  yes    4712   1m32s         0  12.3  12.3M  0-3,6  ipc:///tmp/symphony-model-0000002a"""

DETAIL = """\
bad
  State:      FATAL
  Reason:     gave up after 5 restarts
  Model:      bad (echo)
  Process:    pid -, up -
  Starts:     1, of these 5 restarts since the load
  Last exit:  status 3, exit status 3 at 2023-11-14T22:15:50.500Z
  Next start: -
  CPU:        - %, pinned to -
  Memory:     -
  Place:      CPUs 2-3 (exclusive)
  Endpoint:   ipc:///tmp/symphony-model-0000002a
  Protocols:  echo
  Log:        /var/lib/mgmt/logs/bad.log

  last exit: exit status 3

first
second\ufffd"""

SYMPHONY = """\
Service Status: running
Client Endpoint: ipc:///tmp/symphony-ipc
CLI Endpoint: ipc:///tmp/symphony-cli

Loaded Models:
------------------------------------------------------------
  Name: m
  Type: echo
  Endpoint: ipc:///tmp/symphony-model-0000002a
  Uptime: 5 minutes"""


def test_the_status_table_is_golden() -> None:
    units = [failed_unit(), a_unit("echo#0")]
    lines = status.overview(SERVICE, units, wide=False, no_headers=False, colored=False)
    assert "\n".join(lines) == GOLDEN
    assert status.overview(SERVICE, units, False, True, False) == GOLDEN.splitlines()[2:]


def test_wide_adds_columns_and_never_a_second_line() -> None:
    unit = failed_unit() | {"reason": "one\ntwo"}
    _, columns, row = status.overview(SERVICE, [unit], True, False, False)
    assert "LAST EXIT" in columns
    assert row.endswith("one")


def test_colours_do_not_move_columns() -> None:
    units = [failed_unit(), a_unit()]
    plain = status.overview(SERVICE, units, False, False, colored=False)
    colored = status.overview(SERVICE, units, False, False, colored=True)
    assert colored != plain
    strip = [line.replace("\033[31m", "").replace("\033[32m", "").replace("\033[0m", "") for line in colored]
    assert strip == plain


def test_one_unit_in_detail_is_golden() -> None:
    explained = an_explanation("bad", lines=["FATAL: gave up", "last exit: exit status 3"], cpus=[2, 3])
    lines = status.detail(failed_unit(), explained, b"first\nsecond\xff\n", colored=False)
    assert "\n".join(lines) == DETAIL


def test_the_ancestors_words_are_golden() -> None:
    assert status.symphony(SERVICE, [a_unit("m", uptime_s=300.0)]) == SYMPHONY


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0, "0.0s"),
        (4.24, "4.2s"),
        (42.9, "42s"),
        (192, "3m12s"),
        (18180, "5h03m"),
        (187200, "2d04h"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert render.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "-"),
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1.0K"),
        (500 << 20, "500M"),
        (3 << 29, "1.5G"),
        (5 << 50, "5120T"),
    ],
)
def test_sizes(count: int | None, text: str) -> None:
    assert render.size(count) == text


@pytest.mark.parametrize(
    ("cpus", "text"), [([], "-"), ([3], "3"), ([6, 0, 1, 2, 3], "0-3,6"), ([0, 2, 4], "0,2,4")]
)
def test_cpu_lists(cpus: list[int], text: str) -> None:
    assert render.cpu_list(cpus) == text


def test_json_has_no_values_of_its_own() -> None:
    value = render.plain({"at": 0, "x": [float("nan"), float("inf"), b"\x01", (1,)], 3: None})
    assert json.loads(render.dumps(value)) == {
        "at": "1970-01-01T00:00:00.000Z",
        "x": [None, None, {"base64": "AQ=="}, [1]],
        "3": None,
    }
    assert render.plain({"at": 0}, frozenset()) == {"at": 0}
