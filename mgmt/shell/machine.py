"""`python -m mgmt.shell.machine`: what this machine has for units, as one JSON value on stdout.

For `mgmt doctor`, which knows no room of the daemon: it learns from a process of its own what a daemon would
find out, by the daemon's own code.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from mgmt.rt import tracing
from mgmt.rt.counters import Accounts, PerfCounters
from mgmt.rt.observation import ObserverError
from mgmt.shell.cgroups import Cgroups
from mgmt.shell.topology import NvmlGpus, read_topology


def report() -> dict[str, Any]:
    """{"cgroups": rows of Cgroups.report, "cpus", "cores", "nodes", "memory_bytes", "gpus": UUIDs,
    "gpus_why": why there are none or some are missing, "observers": name to what was found, the best first}."""
    topology = read_topology()
    gpus, why = NvmlGpus().find()
    return {
        "cgroups": Cgroups(name="mgmt-doctor").report(),
        "cpus": [cpu.id for cpu in topology.cpus],
        "cores": len({cpu.core for cpu in topology.cpus}),
        "nodes": list(topology.nodes),
        "memory_bytes": topology.memory_bytes,
        "gpus": [gpu.uuid for gpu in gpus],
        "gpus_why": why,
        "observers": observers(),
    }


def observers() -> dict[str, dict[str, Any]]:
    """{"works", "found": why not, or what it cannot tell}."""
    looks: dict[str, Callable[[], str]] = {
        "ebpf": tracing.probe,
        "perf": lambda: PerfCounters().grain,
        "schedstat": lambda: Accounts().grain,
    }
    found = {}
    for name, look in looks.items():
        try:
            found[name] = {"works": True, "found": look()}
        except ObserverError as error:
            found[name] = {"works": False, "found": str(error)}
    return found


if __name__ == "__main__":
    json.dump(report(), sys.stdout)
