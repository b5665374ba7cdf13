"""`python -m mgmt.shell.machine`: what this machine has for units, as one JSON value on stdout.

For `mgmt doctor`, which knows no room of the daemon: it learns from a process of its own what a daemon would
find out, by the daemon's own code.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from mgmt.shell.cgroups import Cgroups
from mgmt.shell.topology import NvmlGpus, read_topology


def report() -> dict[str, Any]:
    """{"cgroups": rows of Cgroups.report, "cpus", "cores", "nodes", "memory_bytes", "gpus": UUIDs,
    "gpus_why": why there are none or some are missing}."""
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
    }


if __name__ == "__main__":
    json.dump(report(), sys.stdout)
