"""Starting a shim: its arguments from what a unit asks for, its environment, and the spawn itself."""

from __future__ import annotations

import contextlib
import grp
import hashlib
import os
import pwd
import shutil
import signal as signals
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from mgmt.core import effect as fx
from mgmt.launch import Launch, find_backend_script, launch
from mgmt.protocol.errors import MgmtError
from mgmt.settings import BackendSettings, ModelSettings, RunSettings, Settings
from mgmt.shell.cgroups import Cgroups

SHIM = Path(__file__).with_name("mgmt-shim")
SHIM_FD = 3
SEGMENT_VARIABLE = "MGMT_RT"
CGROUPS_FILE = "cgroups"  # in a unit's runtime folder: the groups made for it, one path a line


@dataclass(frozen=True, slots=True)
class Spawned:
    """A started shim: its pid and pidfd, our end of its control socket."""

    pid: int
    pidfd: int
    control: socket.socket


class Spawner:
    """Makes processes of Spawn effects; `environ` is the same at the first and the hundredth start."""

    def __init__(
        self,
        backend_path: Path | None,
        folder: Path,
        log_dir: Path,
        environ: Mapping[str, str],
        cgroups: Cgroups,
        settings: Callable[[], Settings],
    ) -> None:
        self._settings = settings  # those in force
        self._scripts: dict[
            tuple[str, str | None], Path
        ] = {}  # by script and backend_path of the configuration
        self.folder = folder
        self.segments = folder.with_name("rt")  # of periodic tasks; a segment is named without its folder
        self.log_dir = log_dir
        self.cgroups = cgroups
        self.environ = dict(environ)
        self._backend_path = backend_path
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

    def folder_of(self, unit: str, incarnation: int) -> Path:
        """Where the shim of this start has its files."""
        return self.folder / f"{unit}.{incarnation}"

    def log_path(self, unit: str) -> Path:
        return self.log_dir / f"{unit}.log"

    def close(self) -> None:
        os.close(self._null)

    def find_script(self, backend: RunSettings) -> Path | None:
        """The script that the command names, if it names one: a long search on disks, which blocks.

        MgmtError when it is nowhere, OSError when there is no working folder to search from.
        """
        if not needs_script(backend) or backend.script is None:
            return None
        return find_backend_script(self._settings(), backend.script, self._backend_path).require()

    def fill(
        self,
        backend: RunSettings,
        model: ModelSettings,
        unit: str,
        endpoint: str,
        config_path: str | None,
        script: Path | None,
    ) -> Launch:
        """The unit's command, environment and folder with every placeholder replaced; `script` was found."""
        settings = self._settings()
        backend_path = self._backend_path or settings.backend_path
        return launch(
            backend,
            model,
            unit=unit,
            endpoint=endpoint,
            script=script,
            config_path=config_path,
            backend_path=None if backend_path is None else str(backend_path),
        )

    def spawn(self, effect: fx.Spawn, script: Path | None) -> Spawned:
        """Start the shim; MgmtError or OSError when that is not possible, and then nothing is left behind.

        It gets as far as it can without the program, which it executes when it is told to `go`.
        """
        filled = self.fill(
            effect.backend, effect.model, effect.unit, effect.endpoint, effect.config_path, script
        )
        folder = self.folder_of(effect.unit, effect.incarnation)
        # In the loop, like all that is written there before the shim starts: the runtime folder is in memory.
        folder.mkdir(parents=True, mode=0o700)
        argv = [str(SHIM), "--dir", str(folder), "--fd", str(SHIM_FD), "--gated"]
        if effect.lease_ns:
            argv += ["--lease", str(effect.lease_ns)]
        try:
            argv += self._options(effect, filled, folder)
        except (MgmtError, OSError):
            self.cgroups.remove(read_groups(folder))
            shutil.rmtree(folder, ignore_errors=True)
            raise
        argv += ["--", *filled.argv]
        # What the configuration adds may not replace what makes the backend find us.
        env = {**self.environ, **filled.env, **effect.env}
        if SEGMENT_VARIABLE in filled.env:
            env[SEGMENT_VARIABLE] = str(self.segments / filled.env[SEGMENT_VARIABLE])
        if effect.gpus:
            env |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(effect.gpus)}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, contextlib.ExitStack() as on_error:
            on_error.callback(ours.close)
            ours.setblocking(False)
            # Not fork: its cost grows with our memory. The daemon's signal dispositions must not leak either.
            pid = os.posix_spawn(
                SHIM,
                argv,
                env,
                file_actions=[
                    *((os.POSIX_SPAWN_DUP2, self._null, fd) for fd in range(3)),
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), SHIM_FD),
                ],
                setsigmask=[],
                setsigdef=[signals.SIGPIPE, signals.SIGINT, signals.SIGTERM, signals.SIGHUP, signals.SIGUSR1],
            )
            theirs.close()  # whatever the limit on descriptors: there is room for the next one
            pidfd = os.pidfd_open(pid)
            on_error.pop_all()
        return Spawned(pid, pidfd, ours)

    def _options(self, effect: fx.Spawn, filled: Launch, folder: Path) -> list[str]:
        backend = effect.backend
        argv = ["--log", str(self.log_path(effect.unit))]
        argv += ["--log-max-bytes", str(backend.log_max_bytes), "--log-keep", str(backend.log_keep)]
        scheduling = backend.scheduling
        realtime = scheduling.policy in ("fifo", "rr")
        groups = self.cgroups.create(effect.unit, effect.incarnation, backend.resources, realtime=realtime)
        if groups:
            # Written before the process exists: the next daemon must be able to empty and remove them.
            with open(f"{folder}/{CGROUPS_FILE}", "wb", buffering=0) as file:
                file.write(os.fsencode("\n".join(map(str, groups))))
        for group in self.cgroups.shim_groups():
            argv += ["--shim-cgroup", str(group)]
        for group in groups:
            argv += ["--cgroup", str(group)]
        if filled.cwd is not None:
            argv += ["--cwd", filled.cwd]
        if effect.cpus:
            argv += ["--cpus", ",".join(map(str, effect.cpus))]
        if effect.memory_nodes:
            argv += ["--memory-nodes", ",".join(map(str, effect.memory_nodes))]
        if scheduling.policy == "deadline":
            times = (
                scheduling.runtime_us,
                scheduling.deadline_us or scheduling.period_us,
                scheduling.period_us,
            )
            argv += ["--policy", "deadline:" + ":".join(str((us or 0) * 1000) for us in times)]
        elif realtime:
            argv += ["--policy", f"{scheduling.policy}:{scheduling.priority}"]
        elif scheduling.policy != "other":
            argv += ["--policy", scheduling.policy]
        if backend.nice:
            argv += ["--nice", str(backend.nice)]
        for name, limit in backend.rlimits.items():
            argv += ["--rlimit", f"{name}={_soft_and_hard(str(limit))}"]
        if backend.oom_score_adj is not None:
            argv += ["--oom-score-adj", str(backend.oom_score_adj)]
        if backend.umask is not None:
            argv += ["--umask", backend.umask]
        if backend.timer_slack_us is not None:
            argv += ["--timer-slack-ns", str(max(1, backend.timer_slack_us * 1000))]
        return argv + _account(backend)


def needs_script(backend: RunSettings) -> TypeGuard[BackendSettings]:
    """Whether the command has a place for a script that is searched for."""
    return isinstance(backend, BackendSettings) and backend.script is not None and "script" in backend.holes()


def groups_of_units(state_dir: Path) -> Cgroups:
    """The groups of units; MgmtError when a service was named for them and they would not be kept in it.

    Takes `MGMT_UNITS_SERVICE` out of the environment: a daemon inside a unit is not in our service.
    """
    units_service = os.environ.pop("MGMT_UNITS_SERVICE", "")
    # One name per state folder: daemons beside each other must not touch each other's groups.
    name = "mgmt-" + hashlib.blake2b(os.fsencode(state_dir), digest_size=4).hexdigest()
    cgroups = Cgroups(name=name, units_service=units_service)
    why = cgroups.why_units_would_end()
    if why:
        raise MgmtError(
            "bad-config",
            f"units would end with this daemon, because they cannot be kept in {units_service}: {why}; "
            f"see `systemctl status {units_service}`, or unset MGMT_UNITS_SERVICE to do without",
        )
    return cgroups


def read_groups(folder: Path) -> list[Path]:
    """The groups that were made for the unit of a runtime folder."""
    try:
        lines = (folder / CGROUPS_FILE).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [Path(line) for line in lines]


def _soft_and_hard(limit: str) -> str:
    return limit if ":" in limit else f"{limit}:{limit}"


def _account(backend: RunSettings) -> list[str]:
    """Options for the account; MgmtError when there is no such one."""
    argv: list[str] = []
    gid: int | None = None
    groups: Sequence[int] = ()
    if backend.user is not None:
        try:
            account = pwd.getpwnam(backend.user)
        except KeyError:
            raise MgmtError("start-failed", f"there is no account {backend.user!r} on this machine") from None
        argv += ["--user", str(account.pw_uid)]
        gid, groups = account.pw_gid, os.getgrouplist(account.pw_name, account.pw_gid)
    if backend.group is not None:
        try:
            gid = grp.getgrnam(backend.group).gr_gid
        except KeyError:
            raise MgmtError("start-failed", f"there is no group {backend.group!r} on this machine") from None
    if gid is not None:
        argv += ["--group", str(gid)]
    if groups:
        argv += ["--groups", ",".join(map(str, groups))]
    return argv
