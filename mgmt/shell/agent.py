"""What makes a daemon an agent: who it is, what it joins, and the settings it has without a configuration."""

from __future__ import annotations

import logging
import os
import platform
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mgmt import config
from mgmt.config import Loaded
from mgmt.core.nodes import AgentFacts
from mgmt.core.placement import Topology
from mgmt.protocol import places
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.keys import Credentials
from mgmt.settings.policy import PolicySettings
from mgmt.shell.identity import boot_id

log = logging.getLogger("mgmt.shell.agent")

INCARNATION_BITS = 48
POLICY = "policy.json"  # in the state folder


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """The command line of an agent."""

    join: str
    name: str
    tags: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    credentials: Credentials | None = None
    policy: Path | None = None  # file of the policy, other than that of the state folder
    any_policy: bool = False  # the command line said: whatever the daemon wants
    token: str | None = field(default=None, repr=False)
    groups: tuple[str, ...] = ()
    worker: dict[str, Any] | None = None  # it is an independent worker: what it runs
    join_s: float | None = None  # how long it waits for a daemon that is not there


def folders(
    state_dir: Path | None, environ: Mapping[str, str] | None = None, worker: str | None = None
) -> tuple[Path, Path]:
    """The runtime folder and the state folder: beside those of a daemon of the same machine, never the same.

    `state_dir` is the command line's; then sockets are in its `run`, unless `MGMT_RUNTIME_DIR` says where. An
    independent `worker` of this name has both in a folder of its own in the daemon's.
    """
    environ = os.environ if environ is None else environ
    if worker is not None and state_dir is None:
        own = places.state_dir(environ) / "workers" / worker
        return own / "run", own
    told = environ.get("MGMT_RUNTIME_DIR") or environ.get("RUNTIME_DIRECTORY")
    if state_dir is not None:
        state_dir = Path(os.path.abspath(state_dir))
        return (places.runtime_dir(environ) if told else state_dir / "run"), state_dir
    runtime, state = places.runtime_dir(environ), places.state_dir(environ)
    if not told:
        runtime = runtime.with_name(runtime.name + "-agent")
    if not (environ.get("MGMT_STATE_DIR") or environ.get("STATE_DIRECTORY")):
        state = state.with_name(state.name + "-agent")
    return runtime, state


def settings(runtime: Path, state_dir: Path) -> Loaded:
    """Nothing is configured at an agent; its endpoints are all in its own folder."""
    sockets = runtime / "models"
    sockets.mkdir(parents=True, exist_ok=True, mode=0o750)
    value = {
        "endpoints": {
            "client_handshake": "ipc://{runtime}/symphony-ipc",
            "cli_management": "ipc://{runtime}/symphony-cli",
            "nodes": None,
            "model_socket_dir": str(sockets),
        }
    }
    return Loaded(config.parse(value, runtime=runtime, state=state_dir), None, "agent")


def policy_of(options: AgentOptions, state_dir: Path) -> PolicySettings | None:
    """What the daemon may have this agent run; None for anything.

    MgmtError `bad-config` when the file is wrong, or when there is none and the daemon is another machine's.
    """
    if options.any_policy or options.worker is not None:  # a worker takes no units
        return None
    path = options.policy or state_dir / POLICY
    if options.policy is not None or path.exists():
        return config.load_policy(path)
    if not options.join.startswith("tcp://") or options.credentials is None:
        log.warning("there is no %s: this agent runs whatever its daemon says", path)
        return None
    text = (
        f"there is no {path}, which says what {options.join} may have this machine run: write one "
        "(`mgmt config schema policy` prints its keys), name another with --policy FILE, or say --policy any"
    )
    raise MgmtError("bad-config", text)


def facts_of(
    options: AgentOptions, agent_id: str, topology: Topology, policy: PolicySettings | None = None
) -> AgentFacts:
    """Who this run of the agent is, and what its machine has."""
    facts: dict[str, Any] = {
        **topology.facts(),
        "host": platform.node(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "mechanisms": _mechanisms(),
    }
    return AgentFacts(
        options.name,
        options.join,
        agent_id,
        _machine_id(),
        secrets.randbits(INCARNATION_BITS),
        options.tags,
        options.labels,
        facts,
        policy,
        options.token,
        options.groups,
        options.worker,
        options.join_s,
    )


def _machine_id() -> str:
    """What tells this machine from others: its id, or that of its present boot when it has none."""
    try:
        told = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        told = ""
    return told or boot_id()


def _mechanisms() -> list[str]:
    """Those of the kernel that can be seen without trying them; `mgmt doctor` on the machine tries the others."""
    seen = {
        "cgroup2": "/sys/fs/cgroup/cgroup.controllers",
        "realtime": "/sys/kernel/realtime",
        "psi": "/proc/pressure/cpu",
        "bpf": "/sys/fs/bpf",
        "hugepages": "/sys/kernel/mm/hugepages",
    }
    return sorted(name for name, path in seen.items() if os.path.exists(path))
