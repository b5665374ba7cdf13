"""Nodes: agents on other machines, what is put on them, and what becomes of it when one is lost.

The ancestors' words: a node of Piccolo and TIMPANI, an agent of MITOSIS. `Roster` knows the nodes, `Fleet` is the
supervisor that puts some units on them, `Agent` is the other end: the same supervisor in the service of a daemon.
Not here: what a node's units serve (`core.models`), and the verbs (`core.cluster`, `core.agency`).
"""

from mgmt.core.nodes.agent import Agent, AgentFacts
from mgmt.core.nodes.assignment import Assignment, Posting
from mgmt.core.nodes.fleet import Fleet
from mgmt.core.nodes.node import Node, NodeState
from mgmt.core.nodes.roster import NodeChange, Roster

__all__ = [
    "Agent",
    "AgentFacts",
    "Assignment",
    "Fleet",
    "Node",
    "NodeChange",
    "NodeState",
    "Posting",
    "Roster",
]
