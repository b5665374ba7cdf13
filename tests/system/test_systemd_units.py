"""The files of systemd/ as systemd itself reads them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian, Ubuntu: apt-get install systemd)")
    return found


def said(*command: str | Path) -> tuple[int, str]:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=50, check=False
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("name", ["mgmt-metrics.service", "mgmt-metrics.timer"])
def test_the_units_of_monitoring(name: str, tmp_path: Path) -> None:
    analyze = tool("systemd-analyze")
    for each in ("mgmt-metrics.service", "mgmt-metrics.timer"):
        (tmp_path / each).write_text(with_program((UNITS / each).read_text()))
    code, output = said(analyze, "verify", "--man=no", tmp_path / name)
    assert (code, [line for line in output.splitlines() if "mgmt" in line]) == (0, []), output


def settings(name: str = "mgmt.service") -> dict[str, list[str]]:
    """`Section.Key` -> values, in order. Not configparser: systemd allows a key twice."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in (UNITS / name).read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(f"{section}.{key}", []).append(value)
    return found


def with_program(text: str) -> str:
    """The unit with a program that exists here: verify asks for an executable."""
    return text.replace("/opt/mgmt/bin/mgmt", sys.executable)


@pytest.mark.parametrize(
    ("spoiled", "complaint"), [(False, None), (True, "WatchdogSecs")], ids=["shipped", "with a misspelt key"]
)
def test_verify(spoiled: bool, complaint: str | None, tmp_path: Path) -> None:
    analyze = tool("systemd-analyze")
    text = with_program((UNITS / "mgmt.service").read_text())
    unit = tmp_path / "mgmt.service"
    unit.write_text(text.replace("WatchdogSec=", "WatchdogSecs=") if spoiled else text)
    others = [shutil.copy(UNITS / name, tmp_path) for name in ("mgmt-units.service", "mgmt.slice")]
    code, output = said(analyze, "verify", "--man=no", unit, *others)
    about_us = [line for line in output.splitlines() if "mgmt" in line]
    if complaint is None:
        assert (code, about_us) == (0, []), output
    else:
        assert any(complaint in line for line in about_us), output


def test_the_agent_is_verified_and_lives_like_the_daemon(tmp_path: Path) -> None:
    analyze = tool("systemd-analyze")
    unit = tmp_path / "mgmt-agent.service"
    unit.write_text(with_program((UNITS / "mgmt-agent.service").read_text()))
    others = [shutil.copy(UNITS / name, tmp_path) for name in ("mgmt-units.service", "mgmt.slice")]
    code, output = said(analyze, "verify", "--man=no", unit, *others)
    assert (code, [line for line in output.splitlines() if "mgmt" in line]) == (0, []), output
    agent, daemon = settings("mgmt-agent.service"), settings()
    assert agent["Service.ExecStart"][0].split()[1:] == [
        "agent",
        "--join",
        "${MGMT_JOIN}",
        "$MGMT_AGENT_OPTIONS",
    ]
    for kind in ("Runtime", "State"):
        assert agent[f"Service.{kind}Directory"] == ["mgmt-agent"], "beside those of a daemon"
    own = {"RestartSec", "ExecStart", "EnvironmentFile", "ExecReload", "Environment", "ReadWritePaths"}
    own |= {f"{kind}{end}" for kind in ("Runtime", "State", "Logs") for end in ("Directory", "DirectoryMode")}
    for key, values in daemon.items():
        if key.startswith("Service.") and key.removeprefix("Service.") not in own:
            assert agent.get(key) == values, key


def test_the_daemon_is_heard_and_restarted() -> None:
    unit = settings()
    assert unit["Service.Type"] == ["notify"]
    assert unit["Service.NotifyAccess"] == ["main"]
    assert unit["Service.WatchdogSec"] == ["10s"]
    assert unit["Service.Restart"] == ["on-failure"]
    assert unit["Service.RestartPreventExitStatus"] == ["2"]
    assert unit["Service.OOMPolicy"] == ["continue"]
    assert unit["Service.ExecStart"][0].split()[1:3] == ["start-service", "--config"]
    assert unit["Service.ExecReload"][0].split()[1] == "-HUP"


def test_units_are_in_a_service_of_their_own() -> None:
    daemon, units = settings(), settings("mgmt-units.service")
    assert daemon["Unit.Requires"] == ["mgmt-units.service"]
    assert "mgmt-units.service" in daemon["Unit.After"][0].split()
    assert daemon["Service.Environment"][0] == "MGMT_UNITS_SERVICE=mgmt-units.service"
    assert daemon["Service.Slice"] == units["Service.Slice"] == ["mgmt.slice"]
    assert daemon["Service.User"] == units["Service.User"] == ["mgmt"]
    assert (daemon["Service.KillSignal"], daemon["Service.KillMode"]) == (["SIGUSR1"], ["mixed"])
    assert (units["Service.KillMode"], units["Service.Delegate"]) == (["control-group"], ["yes"])
    assert "Service.ProtectControlGroups" not in daemon


def test_folders_survive_a_restart() -> None:
    unit = settings()
    for kind in ("Runtime", "State", "Logs", "Configuration"):
        assert unit[f"Service.{kind}Directory"] == ["mgmt"]
    assert unit["Service.RuntimeDirectoryPreserve"] == ["yes"]  # and a stop, which units outlive


@pytest.mark.parametrize(
    "key",
    [
        "RestrictRealtime",
        "PrivateTmp",
        "PrivateDevices",
        "ProtectClock",
        "MemoryDenyWriteExecute",
        "CPUAffinity",
    ],
)
def test_hardening_leaves_supervision_alone(key: str) -> None:
    unit = settings()
    assert f"Service.{key}" not in unit
    assert "CAP_SYS_NICE" in unit["Service.AmbientCapabilities"][0]


def test_user_and_folders_are_made(tmp_path: Path) -> None:
    sysusers, tmpfiles = tool("systemd-sysusers"), tool("systemd-tmpfiles")
    if os.geteuid() != 0:
        pytest.skip("making users and changing owners below a root of its own needs uid 0")
    (tmp_path / "etc").mkdir()
    code, output = said(sysusers, f"--root={tmp_path}", UNITS / "mgmt.sysusers.conf")
    assert code == 0, output
    users = dict(line.split(":", 1) for line in (tmp_path / "etc/passwd").read_text().splitlines())
    uid = int(users["mgmt"].split(":")[1])
    groups = (tmp_path / "etc/group").read_text().splitlines()
    assert {line.split(":")[0] for line in groups if line.endswith(":mgmt")} == {"video", "render"}

    code, output = said(tmpfiles, f"--root={tmp_path}", "--create", UNITS / "mgmt.tmpfiles.conf")
    assert code == 0, output
    made = {
        path: (oct((tmp_path / path).stat().st_mode & 0o7777), (tmp_path / path).stat().st_uid)
        for path in ("etc/mgmt", "run/mgmt", "var/lib/mgmt", "var/log/mgmt")
    }
    assert made == {
        "etc/mgmt": ("0o755", 0),
        "run/mgmt": ("0o750", uid),
        "var/lib/mgmt": ("0o750", uid),
        "var/log/mgmt": ("0o750", uid),
    }
