"""Control groups of units: one to find and kill a whole tree, and those whose limits the unit asks for.

A unit gets a group in as few hierarchies as serve it, since each one costs a move at every start:

    OWN/NAME/UNIT.INCARNATION      OWN is the daemon's own group, NAME tells daemons of one machine apart

Version 2 has one hierarchy and two rules that shape it: a group that passes controllers on may hold no process
(but for the real root), so the daemon moves into OWN/daemon first; and only a group that was handed over to us
(`Delegate=yes`, or nobody else manages it) may be treated so. Without that, a unit is still tracked, but not
limited. Version 1 has a hierarchy for each controller, and all of them may be used anywhere we may write.

Under a service manager OWN is a service of its own beside the daemon's (`units_service`), because what is in the
daemon's own service is ended with it. Shims move there too, to OWN/shims.

What cannot be had is never an error: it is told by `unenforced` and `report`. All calls block only as long as
the kernel takes for a mkdir (about 30 us).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mgmt.settings.units import ResourceSettings
from mgmt.shell.hierarchies import DAEMON_LEAF, SHIM_LEAF, Hierarchy, discover, why_not_movable

CONTROLLERS = ("cpu", "cpuset", "memory", "pids")
CPU_PERIOD_US = 100_000
MIN_CPU_QUOTA_US = 1000  # the kernel refuses less
# Where a tree is tracked on version 1. Not `cpu`: with RT_GROUP_SCHED its new groups refuse real-time policies.
TRACKERS = ("freezer", "pids", "memory", "name=systemd")

_USE = {
    "cpu": "cpu_max_percent",
    "cpuset": "CPUs that the unit itself cannot leave",
    "memory": "memory_max_mb",
    "pids": "pids_max",
    "kill": "a stop that ends the whole tree in one stroke",
}
_CAUSE = {
    errno.EROFS: "control groups are mounted read-only, as in most containers",
    errno.EACCES: "the group is not ours; run as root, or as a systemd service with Delegate=yes",
    errno.EPERM: "the group is not ours; run as root, or as a systemd service with Delegate=yes",
    errno.EBUSY: "the daemon's group is not delegated to it and holds processes; run it as a systemd service "
    "beside mgmt-units.service (systemd/), or with Delegate=yes and DelegateSubgroup=daemon",
    errno.ENOENT: "the kernel lacks this limit, or the daemon's group was removed",
    errno.EINVAL: "the kernel does not take this value inside the limits of the daemon's own group",
}


@dataclass(slots=True)
class _Wish:
    """What one controller shall do for a unit; values by file name, those that may be missing apart."""

    v1: dict[str, str]
    v2: dict[str, str]
    optional: dict[str, str] = field(default_factory=dict)


class Cgroups:
    """The groups of one daemon. `name` must be different for every state directory of the machine.

    `units_service`: the name of the service beside our own whose group is for the units, "" for none.
    Looking at the system changes nothing; the first `create` prepares OWN.
    """

    def __init__(self, root: Path = Path("/"), name: str = "mgmt", units_service: str = "") -> None:
        self._root = root
        self._name = name
        self._units_service = units_service
        self._hierarchies = discover(root, units_service)
        self._refused: dict[
            str, OSError
        ] = {}  # by controller: it cannot be passed on, or refused the last limit
        self._live: set[str] = set()

    # ---- groups of units ----

    def create(
        self,
        unit: str,
        incarnation: int,
        resources: ResourceSettings,
        *,
        cpus: Sequence[int] = (),
        realtime: bool = False,
    ) -> list[Path]:
        """Makes the unit's groups, the one that tracks it first; its process is to join every one of them.

        `cpus`: CPUs that the tree shall not be able to leave. `realtime`: its policy is fifo or rr, which a new
        group of the version 1 cpu controller would refuse. Empty when no group can be made at all.
        """
        wishes = _wishes(resources, cpus)
        served: dict[int, list[str]] = {}  # index of the hierarchy -> what it shall do
        tracker = self._tracker(self._is_prepared)
        if tracker is not None:
            served[self._hierarchies.index(tracker)] = []
        for controller in wishes:
            self._refused.pop(controller, None)
            hierarchy = self._serving(controller)
            if hierarchy is not None and not _is_unbound(controller, hierarchy, realtime):
                served.setdefault(self._hierarchies.index(hierarchy), []).append(controller)
        paths = []
        for index, controllers in served.items():
            hierarchy = self._hierarchies[index]
            try:
                self._prepare(hierarchy)
                leaf = self._leaf(hierarchy, f"{unit}.{incarnation}")
            except OSError as error:
                self._refused.update(dict.fromkeys(controllers, error))
                continue
            bound = [c for c in controllers if self._limit(hierarchy, leaf, c, wishes[c])]
            if bound or hierarchy is tracker:
                self._live.add(str(leaf))
                paths.append(leaf)
            else:
                self._remove_tree(leaf)
        return paths

    def shim_groups(self) -> list[Path]:
        """The groups a shim is to join before it starts anything, so that it does not end with our service.

        Raises OSError when they are lost: better later than in a place where it would end with the daemon.
        """
        holding = [hierarchy for hierarchy in self._hierarchies if hierarchy.holds_units]
        for hierarchy in holding:
            self._prepare(hierarchy)
        return [hierarchy.base / SHIM_LEAF for hierarchy in holding]

    def why_units_would_end(self) -> str:
        """What keeps units out of `units_service`, and would end them with the daemon's service; "" if nothing.

        The manager knows a process by its group in version 2 and in `name=systemd`, whichever there are.
        """
        if not self._units_service:
            return ""
        errors: list[OSError] = []
        held = False
        for hierarchy in self._hierarchies:
            if hierarchy.holds_units:
                held = held or hierarchy.version == 2 or "name=systemd" in hierarchy.controllers
            elif hierarchy.version == 2 or "name=systemd" in hierarchy.controllers:
                error = why_not_movable(hierarchy.version, hierarchy.base, self._units_service)
                errors += [error] if error is not None else []
        if held:  # a hierarchy without that group is one the manager does not use
            errors = [error for error in errors if error.errno != errno.ENOENT]
        elif not errors:
            return "no control group hierarchy of the service manager is mounted"
        return f"{errors[0].filename}: {errors[0].strerror}" if errors else ""

    def remove(self, paths: Iterable[Path]) -> list[Path]:
        """Removes groups with the empty ones below them; returns those that still hold processes."""
        left = []
        for path in paths:
            if path.parent.name != self._name:
                raise ValueError(f"{path} is no group of {self._name!r}")
            if self._remove_tree(path):
                self._live.discard(str(path))
            else:
                left.append(path)
        return left

    def leftover(self) -> list[Path]:
        """Groups UNIT.INCARNATION that exist and were not made by this object: those of former runs.

        Only below the present OWN: a daemon that ran in another group left its own elsewhere.
        """
        found: list[Path] = []
        for hierarchy in self._hierarchies:
            with contextlib.suppress(OSError), os.scandir(hierarchy.base / self._name) as entries:
                found += sorted(Path(e.path) for e in entries if e.is_dir(follow_symlinks=False))
        return [path for path in found if str(path) not in self._live]

    def close(self) -> None:
        """Removes OWN/NAME where nothing is left in it."""
        for hierarchy in self._hierarchies:
            with contextlib.suppress(OSError):
                self._rmdir(hierarchy.base / self._name)

    # ---- what cannot be had ----

    def unenforced(
        self, resources: ResourceSettings, *, cpus: Sequence[int] = (), realtime: bool = False
    ) -> list[str]:
        """After `create` with the same arguments: each wish that does not bind, with the cause."""
        texts = []
        for controller in _wishes(resources, cpus):
            hierarchy = self._serving(controller)
            if hierarchy is not None and _is_unbound(controller, hierarchy, realtime):
                texts.append(f"{_USE[controller]}: a limit of CPU time does not bind real-time policies")
            elif (refusal := self._refusal(controller, hierarchy)) is not None:
                texts.append(f"{_USE[controller]}: {refusal[1]}")
        return texts

    def report(self) -> list[dict[str, Any]]:
        """For each controller, and for `kill`: {name, state: available|refused|absent, errno: its name or "",
        meaning, version: 1, 2 or 0, path: the daemon's group there or ""}.

        A hierarchy that was not used yet is tried with a group that is removed at once.
        """
        rows = []
        for name in (*CONTROLLERS, "kill"):
            hierarchy = self._tracker(self._is_usable) if name == "kill" else self._serving(name)
            if hierarchy is not None:
                self._is_usable(hierarchy)
            refusal = self._refusal(name, hierarchy)
            if name == "kill" and refusal is None and hierarchy is not None:
                how = "cgroup.kill" if hierarchy.has_kill else "killing each member of the group"
                meaning = f"a stop ends the whole tree by {how}"
            else:
                meaning = f"{_USE[name]}: " + (
                    "enforced" if refusal is None else f"not available: {refusal[1]}"
                )
            rows.append(
                {
                    "name": name,
                    "state": "available" if refusal is None else "absent" if hierarchy is None else "refused",
                    "errno": refusal[0] if refusal is not None else "",
                    "meaning": meaning,
                    "version": hierarchy.version if hierarchy is not None else 0,
                    "path": str(hierarchy.base) if hierarchy is not None else "",
                }
            )
        return rows

    def _refusal(self, name: str, hierarchy: Hierarchy | None) -> tuple[str, str] | None:
        """(name of the errno, readable cause), or None when nothing is known to be in the way."""
        if hierarchy is None:
            return "", f"no {'' if name == 'kill' else name + ' '}control group hierarchy is mounted"
        error = hierarchy.refusal or hierarchy.withheld.get(name) or self._refused.get(name)
        if hierarchy.version == 2 and name != "kill" and error is None and not hierarchy.prepared:
            error = None if self._may_pass_on(hierarchy) else _busy(hierarchy.base)
        if error is None:
            return None
        number = error.errno or 0
        cause = _CAUSE.get(number)
        return errno.errorcode.get(number, ""), os.strerror(number) + (f": {cause}" if cause else "")

    # ---- which hierarchy ----

    def _serving(self, controller: str) -> Hierarchy | None:
        return next((h for h in self._hierarchies if controller in h.controllers), None)

    def _tracker(self, works: Callable[[Hierarchy], bool]) -> Hierarchy | None:
        """The best hierarchy to track a tree in, of those that work; else the best one, which then says why."""
        candidates = [h for h in self._hierarchies if h.version == 2]
        for name in TRACKERS:
            candidates += [h for h in self._hierarchies if h.version == 1 and name in h.controllers]
        return next((h for h in candidates if works(h)), candidates[0] if candidates else None)

    def _is_prepared(self, hierarchy: Hierarchy) -> bool:
        with contextlib.suppress(OSError):
            self._prepare(hierarchy)
        return hierarchy.refusal is None

    def _is_usable(self, hierarchy: Hierarchy) -> bool:
        """Whether groups can be made there, without preparing it."""
        if not hierarchy.prepared:
            probe = hierarchy.base / f"{self._name}.try.{os.getpid()}"
            hierarchy.refusal = None
            try:
                self._make(probe)
                hierarchy.has_kill = (probe / "cgroup.kill").exists()
                self._rmdir(probe)
            except OSError as error:
                hierarchy.refusal = error
        return hierarchy.refusal is None

    # ---- deeds ----

    def _prepare(self, hierarchy: Hierarchy, again: bool = False) -> None:
        """Makes OWN/NAME; on version 2 it gets the controllers, as far as we may. Raises OSError.

        `again`: it is known to be gone.
        """
        group, shims = hierarchy.base / self._name, hierarchy.base / SHIM_LEAF
        is_there = not hierarchy.holds_units or shims.is_dir()
        if hierarchy.prepared and hierarchy.refusal is None and is_there and not again:
            return
        hierarchy.prepared, hierarchy.refusal = True, None
        hierarchy.withheld.clear()
        try:
            for path in (group, shims) if hierarchy.holds_units else (group,):
                self._make(path, exist_ok=True)
                self._fill_cpuset(hierarchy, path)
        except OSError as error:
            hierarchy.refusal = error
            raise
        hierarchy.has_kill = (group / "cgroup.kill").exists()
        wanted = [c for c in CONTROLLERS if c in hierarchy.controllers]
        if hierarchy.version == 1 or not wanted:
            return
        try:
            self._vacate(hierarchy)
        except OSError as error:
            hierarchy.withheld = dict.fromkeys(wanted, error)
            return
        for controller in wanted:
            try:
                for place in (hierarchy.base, group):
                    self._write(place / "cgroup.subtree_control", f"+{controller}")
            except OSError as error:
                hierarchy.withheld[controller] = error

    def _vacate(self, hierarchy: Hierarchy) -> None:
        """No process is left in OWN itself, so that it may pass controllers on; OSError when that cannot be."""
        base = hierarchy.base
        if not self._may_pass_on(hierarchy):
            raise _busy(base)
        members = [] if _is_real_root(base) else _members(base)
        if members:
            leaf = base / (SHIM_LEAF if hierarchy.holds_units else DAEMON_LEAF)
            self._make(leaf, exist_ok=True)
            for pid in members:
                with contextlib.suppress(ProcessLookupError):
                    self._write(leaf / "cgroup.procs", str(pid))

    def _may_pass_on(self, hierarchy: Hierarchy) -> bool:
        """Whether OWN is ours to arrange: made for the units, the real root, empty, marked, or nobody else's."""
        base = hierarchy.base
        if hierarchy.holds_units:
            return True
        try:
            members = _members(base)
        except OSError:
            return False
        if _is_real_root(base) or not members:
            return True
        for mark in ("trusted.delegate", "user.delegate"):
            with contextlib.suppress(OSError):
                if os.getxattr(base, mark) == b"1":
                    return True
        return members == [os.getpid()] and not (self._root / "run/systemd/system").is_dir()

    def _leaf(self, hierarchy: Hierarchy, name: str) -> Path:
        leaf = hierarchy.base / self._name / name
        try:
            self._make(leaf)
        except FileNotFoundError:
            self._prepare(hierarchy, again=True)
            self._make(leaf)
        except FileExistsError:
            # Never share it: what lives there is not this unit, and would be killed with it.
            if not self._remove_tree(leaf):
                raise
            self._make(leaf)
        try:
            self._fill_cpuset(hierarchy, leaf)
        except OSError:
            self._remove_tree(leaf)
            raise
        return leaf

    def _fill_cpuset(self, hierarchy: Hierarchy, group: Path) -> None:
        """A new cpuset of version 1 has no CPU and no memory node, and no process can join it."""
        if hierarchy.version == 1 and "cpuset" in hierarchy.controllers:
            for file in ("cpuset.cpus", "cpuset.mems"):
                self._write(group / file, (group.parent / file).read_text(encoding="ascii").strip())

    def _limit(self, hierarchy: Hierarchy, leaf: Path, controller: str, wish: _Wish) -> bool:
        if controller in hierarchy.withheld:
            return False
        try:
            for file, value in (wish.v1 if hierarchy.version == 1 else wish.v2).items():
                self._write(leaf / file, value)
            for file, value in wish.optional.items():
                if (leaf / file).exists():
                    self._write(leaf / file, value)
        except OSError as error:
            self._refused[controller] = error
            return False
        return True

    def _make(self, path: Path, exist_ok: bool = False) -> None:
        try:
            os.mkdir(path, 0o755)
        except FileExistsError:
            if not exist_ok:
                raise

    def _write(self, path: Path, text: str) -> None:
        # One write: the kernel takes each as a whole command. No O_CREAT: a missing file is a missing feature.
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def _rmdir(self, path: Path) -> None:
        os.rmdir(path)

    def _remove_tree(self, path: Path) -> bool:
        """Removes a group and the groups below it; False when processes are in one of them."""
        try:
            for folder, _, _ in os.walk(path, topdown=False):
                self._rmdir(Path(folder))
        except FileNotFoundError:
            pass
        except OSError:
            return not path.exists()
        return True


def _is_unbound(controller: str, hierarchy: Hierarchy, realtime: bool) -> bool:
    return controller == "cpu" and realtime and hierarchy.version == 1


def _busy(base: Path) -> OSError:
    return OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(base))


def _wishes(resources: ResourceSettings, cpus: Sequence[int]) -> dict[str, _Wish]:
    wishes = {}
    if resources.memory_max_mb is not None:
        limit = str(resources.memory_max_mb << 20)
        # Without these the tree would be swapped out where it was meant to be killed.
        swap = {"memory.memsw.limit_in_bytes": limit, "memory.swap.max": "0"}
        wishes["memory"] = _Wish({"memory.limit_in_bytes": limit}, {"memory.max": limit}, swap)
    if resources.cpu_max_percent is not None:
        quota_us = max(MIN_CPU_QUOTA_US, round(resources.cpu_max_percent / 100 * CPU_PERIOD_US))
        v1 = {"cpu.cfs_period_us": str(CPU_PERIOD_US), "cpu.cfs_quota_us": str(quota_us)}
        wishes["cpu"] = _Wish(v1, {"cpu.max": f"{quota_us} {CPU_PERIOD_US}"})
    if resources.pids_max is not None:
        limits = {"pids.max": str(resources.pids_max)}
        wishes["pids"] = _Wish(limits, limits)
    if cpus:
        mask = {"cpuset.cpus": ",".join(map(str, sorted(cpus)))}
        wishes["cpuset"] = _Wish(mask, mask)
    return wishes


def _is_real_root(base: Path) -> bool:
    """The root group of the machine may pass on controllers with processes in it; a container's root may not."""
    return not (base / "cgroup.type").exists()


def _members(group: Path) -> list[int]:
    return [int(pid) for pid in (group / "cgroup.procs").read_text(encoding="ascii").split()]
