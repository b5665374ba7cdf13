"""A throw-away machine with systemd as its first process, for tests of what is promised under systemd.

`systemd-nspawn` boots a root of its own with this machine's `/usr` in it, read-only: the node has the libraries
that the running interpreter was linked with, nothing is downloaded, and it is up in about two seconds. `/etc`,
`/var` and the users are the node's own. It gets control groups below one of its own, but no resource controllers.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import uuid
from pathlib import Path
from types import TracebackType

BOOT_S = 30.0
HALT_S = 15.0
REBOOT = 133  # how systemd-nspawn ends for whoever starts it again
COMMAND_S = 60.0
POLL_S = 0.02
LIBRARIES = "/opt/libraries"  # the packages of the running interpreter, inside the node
ENTERED = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")  # the namespaces of a command
SYSTEMD = "/usr/lib/systemd/systemd"
ACCOUNTS = {  # enough to boot; systemd-sysusers adds what configuration asks for
    "passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/usr/sbin/nologin\n",
    "group": "root:x:0:\nnogroup:x:65534:\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\n",
}


class NoNode(Exception):
    """This machine cannot boot one; the text says why."""


def why_impossible() -> str:
    """What is missing here for a node, "" for nothing."""
    if os.geteuid() != 0:
        return "booting a node needs uid 0"
    if shutil.which("systemd-nspawn") is None:
        return "systemd-nspawn is not installed (Debian, Ubuntu: apt-get install systemd-container)"
    if not Path(SYSTEMD).exists():
        return f"{SYSTEMD} is not installed (Debian, Ubuntu: apt-get install systemd)"
    if not Path("/bin").is_symlink():
        return "/bin is no link into /usr, so /usr alone does not make a system"
    if not any(version == 2 for _, version in _hierarchies()):
        return "no control groups of version 2 are mounted"
    return ""


def _hierarchies() -> list[tuple[Path, int]]:
    """Mount points and versions of those hierarchies in which the node's systemd tracks its services."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options):
            found.append((Path(left.split()[4]), 2 if kind == "cgroup2" else 1))
    return found


class Node:
    """A booted node; `with` powers it off and removes all of it.

    `folder` is where its root is made; `share` in it is `/shared` inside. `unified`: control groups of version 2
    alone; else as the host has them. `network` is the file of a network namespace; its own, empty one without.
    `target` is what systemd starts.
    """

    def __init__(
        self, folder: Path, *, unified: bool = True, network: str = "", target: str = "basic.target"
    ) -> None:
        self.name = f"mgmt-node-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.root = folder / "root"
        self.share = folder / "share"
        self.unified = unified
        self.network, self.target = network, target
        self._console = folder / "console"
        self._nspawn: subprocess.Popen[bytes] | None = None
        self.leader = 0  # its first process, as this machine numbers it
        self._groups = [top / self.name for top, _ in _hierarchies()]
        self._make_root()

    def _make_root(self) -> None:
        self.share.mkdir()
        for name in ("usr", "etc/systemd/system", "etc/sysusers.d", "etc/tmpfiles.d", "opt", "root", "run",
                     "tmp", "var/log/journal", "proc", "sys", "dev"):  # fmt: skip
            (self.root / name).mkdir(parents=True)
        for path in (self.root, *self.root.rglob("*")):
            path.chmod(0o755)
        for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
            if Path("/", name).is_symlink():
                (self.root / name).symlink_to(os.readlink(f"/{name}"))
        for name, text in ACCOUNTS.items():
            (self.root / "etc" / name).write_text(text)
        # The name of this file tells nspawn which kinds of control groups the system inside can use.
        for library in Path("/usr/lib").glob("**/systemd/libsystemd-shared-*.so"):
            place = self.root / library.relative_to("/")
            place.parent.mkdir(parents=True)
            place.touch()
        # Known already: at a first boot systemd would enable every service that the host has.
        (self.root / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")
        shutil.copy("/usr/lib/os-release", self.root / "etc/os-release")
        (self.root / "etc/hostname").write_text("node\n")

    def put(self, source: Path, target: str) -> None:
        """Copy a file into the node, to be done before or after it boots."""
        place = self.root / target.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, place)

    def write(self, target: str, text: str) -> None:
        place = self.root / target.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    # ---- life ----

    def __enter__(self) -> Node:
        try:
            self.boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def boot(self) -> None:
        """Until systemd says that it is up; NoNode with its last words when it does not come up."""
        binds = {"/usr": "/usr", sysconfig.get_path("purelib"): LIBRARIES}
        base = os.path.realpath(sys.base_prefix)
        if not Path(base).is_relative_to("/usr"):
            binds[sys.base_prefix] = sys.base_prefix
            binds[base] = base
        network = f"--network-namespace-path={self.network}" if self.network else "--private-network"
        command = [
            "systemd-nspawn", f"--directory={self.root}", f"--machine={self.name}", "--register=no", "--keep-unit",
            network, "--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=pipe",
            f"--bind={self.share}:/shared", *(f"--bind-ro={here}:{there}" for here, there in binds.items()),
            "--boot", f"systemd.unit={self.target}",
        ]  # fmt: skip
        # In groups of its own before it starts, so that nothing of the node is anywhere else.
        enter = "for group; do echo $$ >$group/cgroup.procs || exit; done; exec $command"
        for group in self._groups:
            group.mkdir(exist_ok=True)
        script = ["/bin/sh", "-c", enter.replace("$command", " ".join(f"'{word}'" for word in command)), "sh"]
        with self._console.open("wb") as console:
            self._nspawn = subprocess.Popen(
                [*script, *map(str, self._groups)],
                env=_ENVIRON | ({"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"} if self.unified else {}),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        self.leader = 0
        end = time.monotonic() + BOOT_S
        while time.monotonic() < end and self._nspawn.poll() is None:
            self.leader = self.leader or self._find_leader()
            if self.leader and self.said("systemctl", "is-system-running") in ("running", "degraded"):
                return
            time.sleep(POLL_S)
        raise NoNode(f"a node does not boot here: {self.console() or 'systemd said nothing'}")

    def reboot(self) -> None:
        """As `systemctl reboot` does it, until systemd says that it is up again, with another boot id."""
        assert self._nspawn is not None
        self.run("systemctl", "reboot", "--no-block")
        assert self._nspawn.wait(HALT_S) == REBOOT, f"it ended otherwise: {self.console()}"
        self.boot()

    def crash(self) -> None:
        """All of it ends at once. It can be booted again."""
        assert self._nspawn is not None
        os.kill(self.leader, signal.SIGKILL)
        self._nspawn.wait(HALT_S)

    def _find_leader(self) -> int:
        """The node's first process, 0 until there is one."""
        assert self._nspawn is not None
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children")
        try:
            for pid in children.read_text().split():
                if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].endswith(b"/systemd"):
                    return int(pid)
        except (FileNotFoundError, ProcessLookupError):
            pass
        return 0

    def close(self) -> None:
        """Power off, the hard way when it takes too long, and remove its groups."""
        nspawn = self._nspawn
        if nspawn is not None and nspawn.poll() is None:
            leader = self.leader or self._find_leader()
            try:
                if leader:
                    os.kill(leader, signal.SIGRTMIN + 4)  # systemd: poweroff.target
                    nspawn.wait(HALT_S)
            except (subprocess.TimeoutExpired, ProcessLookupError):
                pass
            for pid in (leader, nspawn.pid):  # with its first process all of a node ends
                if pid and nspawn.poll() is None:
                    os.kill(pid, signal.SIGKILL)
            nspawn.wait(HALT_S)
        end = time.monotonic() + HALT_S
        while any(not _removed(group) for group in self._groups):
            assert time.monotonic() < end, f"the node's processes do not end: {self._groups}"
            time.sleep(POLL_S)

    def console(self) -> str:
        """The last lines of what was said outside of its journal."""
        text = self._console.read_text(errors="replace") if self._console.exists() else ""
        return "\n".join(text.splitlines()[-10:])

    # ---- inside ----

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command in the node, as root; with `check`, AssertionError with all it said when it fails."""
        done = subprocess.run(
            ["nsenter", f"--target={self.leader}", *ENTERED, "--", *command], env=_ENVIRON, check=False,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=COMMAND_S,
        )  # fmt: skip
        said = f"{' '.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}"
        assert not check or done.returncode == 0, said
        return done

    def said(self, *command: str) -> str:
        """What a command prints, whatever its status."""
        return self.run(*command, check=False).stdout.strip()

    def systemctl(self, *arguments: str) -> None:
        """A systemctl that must succeed; the journal's end is in the error when it does not."""
        done = self.run("systemctl", *arguments, check=False)
        assert done.returncode == 0, f"systemctl {' '.join(arguments)}: {done.stderr}\n{self.journal()}"

    def journal(self, lines: int = 60) -> str:
        return self.said("journalctl", "--no-pager", "-q", "-o", "cat", "-n", str(lines))

    def show(self, unit: str, property: str) -> str:
        return self.said("systemctl", "show", "--value", f"--property={property}", unit)

    def group_of(self, pid: int) -> str:
        """The control group of version 2 of a process inside, as the node names it."""
        lines = self.run("cat", f"/proc/{pid}/cgroup").stdout.splitlines()
        return next(line[3:] for line in lines if line.startswith("0::"))


_ENVIRON = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


def _removed(group: Path) -> bool:
    """Whether the group and those below it are gone; removes them, the deepest first."""
    for folder, _, _ in os.walk(group, topdown=False):
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            pass
        except OSError:
            return False
    return True
