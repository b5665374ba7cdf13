"""Which groups are made for a unit, on trees of files that answer as the kernel would."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from mgmt.settings.units import ResourceSettings
from mgmt.shell.cgroups import Cgroups

ALL = ResourceSettings(memory_max_mb=64, cpu_max_percent=150, pids_max=20)
NONE = ResourceSettings()
V1_FILES = {
    "cpu": ["cpu.cfs_period_us", "cpu.cfs_quota_us"],
    "cpuset": ["cpuset.cpus", "cpuset.mems"],
    "memory": ["memory.limit_in_bytes"],
    "pids": ["pids.max"],
    "freezer": [],
    "name=systemd": [],
}
V2_FILES = {"cpu": ["cpu.max"], "cpuset": ["cpuset.cpus"], "memory": ["memory.max", "memory.swap.max"]}
V2_FILES["pids"] = ["pids.max"]


class Fake(Cgroups):
    """Plays the kernel: groups come with their files, and the rules of version 2 hold."""

    refuses: dict[str, int] = {}  # noqa: RUF012 - by file or folder name: errno; the constructor looks, too
    has_kill = True

    def _make(self, path: Path, exist_ok: bool = False) -> None:
        self._refuse(path)
        if path.is_dir():
            super()._make(path, exist_ok)
            return
        super()._make(path, exist_ok)
        files = ["cgroup.procs"]
        if (path.parent / "cgroup.subtree_control").exists():
            passed = (path.parent / "cgroup.subtree_control").read_text().split()
            files += ["cgroup.type", "cgroup.subtree_control", *(["cgroup.kill"] if self.has_kill else [])]
            files += [file for c in passed for file in V2_FILES.get(c, [])]
            (path / "cgroup.controllers").write_text(" ".join(passed))
        else:
            hierarchy = next(h for h in self._hierarchies if path.is_relative_to(h.base))
            files += [file for c in hierarchy.controllers for file in V1_FILES.get(c, [])]
        for file in files:
            (path / file).touch()

    def _write(self, path: Path, text: str) -> None:
        self._refuse(path)
        if path.name == "cgroup.subtree_control":
            group = path.parent
            has_processes = bool((group / "cgroup.procs").read_text().split())
            if has_processes and (group / "cgroup.type").exists():
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            assert text[1:] in (group / "cgroup.controllers").read_text().split()
            text = " ".join({*path.read_text().split(), text[1:]})
            for child in group.iterdir():
                if child.is_dir():
                    (child / "cgroup.controllers").write_text(text)
                    for controller in text.split():
                        for file in V2_FILES.get(controller, []):
                            (child / file).touch()
        elif path.name == "cgroup.procs":
            for other in self._root.rglob("cgroup.procs"):
                other.write_text("".join(f"{pid}\n" for pid in other.read_text().split() if pid != text))
            text = path.read_text() + f"{text}\n"
        elif not path.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        path.write_text(text)

    def _rmdir(self, path: Path) -> None:
        if (path / "cgroup.procs").exists() and (path / "cgroup.procs").read_text().strip():
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        if any(entry.is_dir() for entry in path.iterdir()):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        for entry in path.iterdir():
            entry.unlink()
        super()._rmdir(path)

    def _refuse(self, path: Path) -> None:
        number = self.refuses.get(path.name)
        if number is not None:
            raise OSError(number, os.strerror(number), str(path))


def group(path: Path, *, controllers: str | None = None, procs: str = "", real_root: bool = False) -> Path:
    """A group that stands already; `controllers` makes it one of version 2."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "cgroup.procs").write_text(procs)
    if controllers is not None:
        (path / "cgroup.controllers").write_text(controllers)
        (path / "cgroup.subtree_control").touch()
        if not real_root:
            (path / "cgroup.type").write_text("domain\n")
    return path


def tree(root: Path, own: str, mounts: list[str]) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(own)
    lines = [f"{30 + i} 23 0:{30 + i} {mount}\n" for i, mount in enumerate(mounts)]
    (root / "proc/self/mountinfo").write_text("23 1 8:1 / / rw - ext4 /dev/sda rw\n" + "".join(lines))


def v2(root: Path, *, procs: str | None = None, controllers: str = "cpu cpuset memory pids") -> Path:
    """Version 2 only, as systemd sets a service up; by default only this process is in it."""
    tree(root, "0::/system.slice/mgmt.service\n", ["/ /sys/fs/cgroup rw - cgroup2 cgroup2 rw"])
    service = root / "sys/fs/cgroup/system.slice/mgmt.service"
    return group(service, controllers=controllers, procs=f"{os.getpid()}\n" if procs is None else procs)


def v1(root: Path, names: tuple[str, ...] = ("cpu,cpuacct", "cpuset", "memory", "pids", "freezer")) -> Path:
    own = "".join(f"{i}:{name}:/box\n" for i, name in enumerate(names, 1))
    mounts = [f"/ /sys/fs/cgroup/{name} rw - cgroup cgroup rw,{name}" for name in names]
    tree(root, own, mounts)
    for name in names:
        group(root / "sys/fs/cgroup" / name / "box")
    if "cpuset" in names:
        (root / "sys/fs/cgroup/cpuset/box/cpuset.cpus").write_text("0-3\n")
        (root / "sys/fs/cgroup/cpuset/box/cpuset.mems").write_text("0\n")
    return root / "sys/fs/cgroup"


def states(cgroups: Cgroups) -> dict[str, str]:
    return {row["name"]: row["state"] for row in cgroups.report()}


# ---- version 2 ----


def test_a_service_of_its_own_passes_its_controllers_on(tmp_path: Path) -> None:
    service = v2(tmp_path)
    cgroups = Fake(tmp_path)
    paths = cgroups.create("tokens", 3, ALL, cpus=[2, 1])
    assert paths == [service / "mgmt/tokens.3"]
    assert (paths[0] / "memory.max").read_text() == str(64 << 20)
    assert (paths[0] / "memory.swap.max").read_text() == "0"
    assert (paths[0] / "cpu.max").read_text() == "150000 100000"
    assert (paths[0] / "pids.max").read_text() == "20"
    assert (paths[0] / "cpuset.cpus").read_text() == "1,2"
    assert cgroups.unenforced(ALL, cpus=[1, 2]) == []
    # No process may stay in a group that passes controllers on: the daemon made room.
    assert (service / "cgroup.procs").read_text() == ""
    assert (service / "daemon/cgroup.procs").read_text().split() == [str(os.getpid())]


def test_looking_changes_nothing(tmp_path: Path) -> None:
    service = v2(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    cgroups = Fake(tmp_path)
    assert set(states(cgroups).values()) == {"available"}
    assert cgroups.leftover() == []
    assert sorted(tmp_path.rglob("*")) == before
    assert (service / "cgroup.procs").read_text().split() == [str(os.getpid())]


def test_a_group_of_others_is_not_rearranged_but_units_are_tracked(tmp_path: Path) -> None:
    service = v2(tmp_path, procs=f"1\n{os.getpid()}\n")
    cgroups = Fake(tmp_path)
    assert states(cgroups) == {
        **dict.fromkeys(("cpu", "cpuset", "memory", "pids"), "refused"),
        "kill": "available",
    }
    paths = cgroups.create("a", 1, ALL)
    assert paths == [service / "mgmt/a.1"]
    assert sorted(paths[0].iterdir()) == sorted(
        paths[0] / f"cgroup.{name}" for name in ("procs", "type", "subtree_control", "kill", "controllers")
    )
    assert (service / "cgroup.procs").read_text().split() == ["1", str(os.getpid())]
    texts = cgroups.unenforced(ALL)
    assert len(texts) == 3 and all("Delegate=yes" in text for text in texts)
    # The cause stays the same at the second start.
    cgroups.create("a", 2, ALL)
    assert cgroups.unenforced(ALL) == texts


def test_under_systemd_only_a_marked_group_is_ours(tmp_path: Path) -> None:
    service = v2(tmp_path)
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    assert states(Fake(tmp_path))["memory"] == "refused"
    try:
        os.setxattr(service, "user.delegate", b"1")
    except OSError as error:
        pytest.skip(f"this file system has no user attributes: {error.strerror}")
    assert states(Fake(tmp_path))["memory"] == "available"
    # Whatever is in a delegated group is ours to move.
    (service / "cgroup.procs").write_text(f"{os.getpid()}\n4242\n")
    cgroups = Fake(tmp_path)
    cgroups.create("a", 1, ALL)
    assert cgroups.unenforced(ALL) == []
    assert (service / "daemon/cgroup.procs").read_text().split() == [str(os.getpid()), "4242"]


def test_a_daemon_in_its_leaf_finds_its_group_again(tmp_path: Path) -> None:
    service = v2(tmp_path)
    first = Fake(tmp_path)
    kept = first.create("a", 1, ALL)
    gone = first.create("b", 1, NONE)
    (kept[0] / "cgroup.procs").write_text("77\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/system.slice/mgmt.service/daemon\n")
    second = Fake(tmp_path)
    assert second.leftover() == kept + gone
    assert second.remove(second.leftover()) == kept
    assert second.leftover() == kept
    (kept[0] / "cgroup.procs").write_text("")
    assert second.create("c", 1, ALL) == [service / "mgmt/c.1"]
    assert second.unenforced(ALL) == []
    assert second.leftover() == kept
    assert second.remove([*kept, service / "mgmt/c.1"]) == []
    second.close()
    assert not (service / "mgmt").exists()


def test_the_real_root_keeps_its_processes(tmp_path: Path) -> None:
    tree(tmp_path, "0::/\n", ["/ /sys/fs/cgroup rw - cgroup2 cgroup2 rw"])
    root = group(tmp_path / "sys/fs/cgroup", controllers="cpu memory", procs="1\n2\n", real_root=True)
    cgroups = Fake(tmp_path)
    paths = cgroups.create("a", 1, ALL)
    assert paths == [root / "mgmt/a.1"] and (paths[0] / "memory.max").exists()
    assert (root / "cgroup.procs").read_text().split() == ["1", "2"]
    assert [text.split(":")[0] for text in cgroups.unenforced(ALL)] == ["pids_max"]
    assert "no pids control group hierarchy is mounted" in cgroups.unenforced(ALL)[0]


def test_one_refused_controller_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    v2(tmp_path)
    monkeypatch.setattr(Fake, "refuses", {"cpu.max": errno.EINVAL})
    cgroups = Fake(tmp_path)
    paths = cgroups.create("a", 1, ALL)
    assert (paths[0] / "memory.max").read_text() == str(64 << 20)
    assert [text.split(":")[0] for text in cgroups.unenforced(ALL)] == ["cpu_max_percent"]
    row = next(row for row in cgroups.report() if row["name"] == "cpu")
    assert (row["state"], row["errno"]) == ("refused", "EINVAL")
    # Only the last answer counts.
    monkeypatch.setattr(Fake, "refuses", {})
    cgroups.create("a", 2, ALL)
    assert cgroups.unenforced(ALL) == []


@pytest.mark.parametrize(("number", "word"), [(errno.EROFS, "read-only"), (errno.EACCES, "Delegate=yes")])
def test_nothing_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, word: str) -> None:
    v2(tmp_path)
    monkeypatch.setattr(Fake, "refuses", {"mgmt": number, f"mgmt.try.{os.getpid()}": number})
    cgroups = Fake(tmp_path)
    rows = cgroups.report()
    assert {(row["state"], row["errno"]) for row in rows} == {("refused", errno.errorcode[number])}
    assert all(word in row["meaning"] for row in rows)
    assert cgroups.create("a", 1, ALL) == []
    assert len(cgroups.unenforced(ALL)) == 3 and all(word in text for text in cgroups.unenforced(ALL))


# ---- version 1 ----


def test_each_limit_gets_its_hierarchy_and_no_other(tmp_path: Path) -> None:
    mounts = v1(tmp_path)
    cgroups = Fake(tmp_path)
    assert cgroups.create("a", 1, NONE) == [mounts / "freezer/box/mgmt/a.1"]
    paths = cgroups.create("b", 1, ALL, cpus=[1])
    assert paths[0] == mounts / "freezer/box/mgmt/b.1"
    assert set(paths) == {
        mounts / name / "box/mgmt/b.1" for name in ("freezer", "cpu,cpuacct", "cpuset", "memory", "pids")
    }
    assert (mounts / "memory/box/mgmt/b.1/memory.limit_in_bytes").read_text() == str(64 << 20)
    assert (mounts / "cpu,cpuacct/box/mgmt/b.1/cpu.cfs_quota_us").read_text() == "150000"
    assert (mounts / "pids/box/mgmt/b.1/pids.max").read_text() == "20"
    assert (mounts / "cpuset/box/mgmt/cpuset.cpus").read_text() == "0-3"
    assert (mounts / "cpuset/box/mgmt/b.1/cpuset.cpus").read_text() == "1"
    assert (mounts / "cpuset/box/mgmt/b.1/cpuset.mems").read_text() == "0"
    assert cgroups.unenforced(ALL, cpus=[1]) == []
    assert set(states(cgroups).values()) == {"available"}


def test_a_real_time_unit_is_kept_out_of_the_cpu_hierarchy(tmp_path: Path) -> None:
    mounts = v1(tmp_path)
    cgroups = Fake(tmp_path)
    paths = cgroups.create("a", 1, ALL, realtime=True)
    assert mounts / "cpu,cpuacct/box/mgmt/a.1" not in paths
    assert cgroups.unenforced(ALL, realtime=True) == [
        "cpu_max_percent: a limit of CPU time does not bind real-time policies"
    ]


def test_a_cpuset_that_cannot_be_filled_is_not_handed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = v1(tmp_path)
    monkeypatch.setattr(Fake, "refuses", {"cpuset.mems": errno.EACCES})
    cgroups = Fake(tmp_path)
    # No process could join it: the start would fail.
    assert cgroups.create("a", 1, NONE, cpus=[1]) == [mounts / "freezer/box/mgmt/a.1"]
    assert "Permission denied" in cgroups.unenforced(NONE, cpus=[1])[0]


def test_the_systemd_hierarchy_tracks_when_nothing_else_does(tmp_path: Path) -> None:
    mounts = v1(tmp_path, ("name=systemd", "cpu"))
    cgroups = Fake(tmp_path)
    assert cgroups.create("a", 1, NONE) == [mounts / "name=systemd/box/mgmt/a.1"]
    assert states(cgroups) == {
        "cpu": "available", "cpuset": "absent", "memory": "absent", "pids": "absent", "kill": "available",
    }  # fmt: skip


def test_hybrid_tracks_in_version_2_and_limits_in_version_1(tmp_path: Path) -> None:
    names = ("memory", "pids")
    own = "".join(f"{i}:{name}:/\n" for i, name in enumerate(names, 1)) + "0::/\n"
    mounts = [f"/ /sys/fs/cgroup/{name} rw - cgroup cgroup rw,{name}" for name in names]
    tree(tmp_path, own, [*mounts, "/ /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"])
    top = tmp_path / "sys/fs/cgroup"
    for name in names:
        group(top / name)
    group(top / "unified", controllers="hugetlb", procs="1\n", real_root=True)
    cgroups = Fake(tmp_path)
    assert cgroups.create("a", 1, ResourceSettings(pids_max=3)) == [
        top / "unified/mgmt/a.1",
        top / "pids/mgmt/a.1",
    ]
    row = cgroups.report()[-1]
    assert (row["name"], row["version"]) == ("kill", 2) and "cgroup.kill" in row["meaning"]


def test_an_unusable_version_2_gives_way_to_version_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree(tmp_path, "1:freezer:/\n0::/\n", [
        "/ /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer",
        "/ /sys/fs/cgroup/unified ro - cgroup2 cgroup2 ro",
    ])  # fmt: skip
    top = tmp_path / "sys/fs/cgroup"
    group(top / "freezer")
    group(top / "unified", controllers="", real_root=True)

    class HalfReadOnly(Fake):
        def _make(self, path: Path, exist_ok: bool = False) -> None:
            if path.is_relative_to(top / "unified"):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            super()._make(path, exist_ok)

    cgroups = HalfReadOnly(tmp_path)
    assert cgroups.report()[-1]["version"] == 1
    assert cgroups.create("a", 1, NONE) == [top / "freezer/mgmt/a.1"]


def test_a_container_sees_its_part_of_the_hierarchy(tmp_path: Path) -> None:
    tree(tmp_path, "1:pids:/docker/ab\n2:memory:/elsewhere\n", [
        "/docker/ab /sys/fs/cgroup/my\\040pids rw - cgroup cgroup rw,pids",
        "/docker/ab /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
    ])  # fmt: skip
    group(tmp_path / "sys/fs/cgroup/my pids")
    group(tmp_path / "sys/fs/cgroup/memory")
    cgroups = Fake(tmp_path)
    assert cgroups.create("a", 1, ALL) == [tmp_path / "sys/fs/cgroup/my pids/mgmt/a.1"]
    assert states(cgroups)["memory"] == "absent"  # ours lies outside of what is mounted


# ---- a service for the units ----

HELD = "mgmt-units.service"


def beside(root: Path) -> Path:
    """The group of a service for units, beside the daemon's; a process keeps it alive."""
    service = v2(root)
    group(service.parent, controllers="cpu memory pids")
    return group(service.with_name(HELD), controllers="cpu memory pids", procs="77\n")


def test_units_and_shims_are_kept_in_the_service_beside_ours(tmp_path: Path) -> None:
    held = beside(tmp_path)
    cgroups = Fake(tmp_path, units_service=HELD)
    assert cgroups.why_units_would_end() == ""
    assert cgroups.create("a", 1, ALL) == [held / "mgmt/a.1"]
    assert (held / "mgmt/a.1/pids.max").read_text() == "20"
    assert cgroups.shim_groups() == [held / "shims"]
    # What kept it alive made room for the controllers; our own group is left as it is.
    assert (held / "shims/cgroup.procs").read_text().split() == ["77"]
    assert not (held.with_name("mgmt.service") / "mgmt").exists()


def test_without_a_service_for_units_shims_stay(tmp_path: Path) -> None:
    service = v2(tmp_path)
    cgroups = Fake(tmp_path)
    assert (cgroups.why_units_would_end(), cgroups.shim_groups()) == ("", [])
    assert cgroups.create("a", 1, NONE) == [service / "mgmt/a.1"]


def test_a_service_for_units_that_is_not_there_is_told(tmp_path: Path) -> None:
    v2(tmp_path)
    cgroups = Fake(tmp_path, units_service=HELD)
    assert cgroups.why_units_would_end().endswith(f"{HELD}: No such file or directory")
    assert Fake(tmp_path / "nothing", units_service=HELD).why_units_would_end()


def test_moving_processes_asks_for_the_group_that_both_are_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = beside(tmp_path)
    meeting = held.parent / "cgroup.procs"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != meeting)
    assert Fake(tmp_path, units_service=HELD).why_units_would_end() == f"{meeting}: Permission denied"


def test_a_lost_service_for_units_refuses_starts_until_it_is_back(tmp_path: Path) -> None:
    held = beside(tmp_path)
    cgroups = Fake(tmp_path, units_service=HELD)
    cgroups.shim_groups()
    shutil.rmtree(held)
    with pytest.raises(FileNotFoundError):
        cgroups.shim_groups()
    group(held, controllers="cpu memory pids", procs="78\n")
    assert cgroups.shim_groups() == [held / "shims"]
    assert cgroups.create("a", 2, NONE) == [held / "mgmt/a.2"]


# ---- both ----


def test_a_leaf_with_processes_is_never_shared(tmp_path: Path) -> None:
    service = v2(tmp_path)
    first = Fake(tmp_path)
    paths = first.create("a", 1, ALL)
    (paths[0] / "cgroup.procs").write_text("99\n")
    second = Fake(tmp_path)
    assert second.create("a", 1, ALL) == []
    assert "File exists" in second.unenforced(ALL)[0]
    (paths[0] / "cgroup.procs").write_text("")
    (paths[0] / "memory.max").write_text("1")
    assert second.create("a", 1, NONE) == [service / "mgmt/a.1"]
    assert (paths[0] / "memory.max").read_text() == ""  # made anew: old limits do not stay


def test_groups_that_a_unit_made_go_with_it(tmp_path: Path) -> None:
    v2(tmp_path)
    cgroups = Fake(tmp_path)
    paths = cgroups.create("a", 1, NONE)
    inner = group(paths[0] / "job/part", controllers="")
    (inner / "cgroup.procs").write_text("5\n")
    assert cgroups.remove(paths) == paths
    (inner / "cgroup.procs").write_text("")
    (paths[0] / "job/cgroup.procs").touch()
    assert cgroups.remove(paths) == []
    assert not paths[0].exists()
    assert cgroups.remove(paths) == []  # again does no harm
    with pytest.raises(ValueError, match="is no group of 'mgmt'"):
        cgroups.remove([tmp_path])


def test_no_control_groups_at_all(tmp_path: Path) -> None:
    cgroups = Cgroups(tmp_path)
    assert cgroups.create("a", 1, ALL) == []
    assert set(states(cgroups).values()) == {"absent"}
    assert len(cgroups.unenforced(ALL)) == 3
    assert cgroups.leftover() == []
    cgroups.close()
