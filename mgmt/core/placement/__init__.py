"""Placement: which CPUs, GPUs and memory each unit has; nothing exclusive is ever held twice.

A unit's place is a function of the machine and of everything that is declared, never of the order of loads or
of restarts: `plan` computes it once, `Ledger` grants it or says who is in the way.
"""

from mgmt.core.placement.ledger import Ledger, conflict_between
from mgmt.core.placement.plan import Demand, Place, memory_nodes, plan
from mgmt.core.placement.topology import Cpu, Gpu, Topology

__all__ = ["Cpu", "Demand", "Gpu", "Ledger", "Place", "Topology", "conflict_between", "memory_nodes", "plan"]
