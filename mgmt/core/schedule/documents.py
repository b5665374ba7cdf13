"""Workloads out of documents: parsed YAML or JSON values of four kinds, told apart by their keys.

- native: {workload, nodes, tasks, chains}
- PULLPIRI: {kind: Schedule, metadata: {name}, spec: [task, ...]}; documents of other kinds are passed over
- TIMPANI's SchedInfo: {workload_id, tasks: [task, ...]}
- TIMPANI's node configuration: {nodes: {id: {available_cpus, max_memory_mb}}}

Documents of one list describe one workload together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mgmt.protocol import defaults

from .fields import Faults, Fields, Path, kind, text
from .processes import name_fault
from .tasks import DIALECTS, Dialect, chain_of, cpus_of, task_of
from .workload import Chain, Node, Task, Workload

NATIVE = {key: key for key in ("workload", "tasks", "chains", "nodes")}
SCHED_INFO = {"workload_id": "workload", "workloadId": "workload", "tasks": "tasks", "nodes": "nodes"}
NODE_FIELDS = {
    "cpus": "cpus",
    "available_cpus": "cpus",
    "memory_mb": "memory_mb",
    "max_memory_mb": "memory_mb",
    "reserve_ppm": "reserve_ppm",
    "name": "name",
    "architecture": "",
    "location": "",
    "description": "",
}


def read(documents: Sequence[Any], nodes: Sequence[Any] = ()) -> Workload:
    """The workload that `documents` describe together, on the nodes of both lists.

    MgmtError `bad-workload` names the first 20 faults; its detail has them as `problems`, a list of
    {path, problem} where a path starts with `documents[i]` or `nodes[i]`.
    """
    reader = _Reader()
    for i, document in enumerate(nodes):
        reader.nodes_only(document, ("nodes", i))
    for i, document in enumerate(documents):
        reader.document(document, ("documents", i))
    return reader.result()


def read_nodes(nodes: Sequence[Any]) -> tuple[Node, ...]:
    """The nodes of documents that have nothing else; MgmtError `bad-workload` as of `read`."""
    reader = _Reader()
    for i, document in enumerate(nodes):
        reader.nodes_only(document, ("nodes", i))
    reader.faults.settle()
    return tuple(reader.nodes.values())


class _Reader:
    """What was read so far, and where each name was given."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.name: str | None = None
        self.tasks: dict[str, Task] = {}
        self.task_paths: dict[str, Path] = {}
        self.nodes: dict[str, Node] = {}
        self.chains: dict[str, Chain] = {}
        self.chain_paths: dict[str, Path] = {}
        self.passed_over: list[str] = []

    def result(self) -> Workload:
        self._across()
        self.faults.settle()
        assert self.name is not None
        return Workload(
            self.name, tuple(self.tasks.values()), tuple(self.nodes.values()), tuple(self.chains.values())
        )

    def nodes_only(self, document: Any, path: Path) -> None:
        if isinstance(document, Mapping) and set(document) == {"nodes"}:
            self._nodes(document["nodes"], (*path, "nodes"))
        elif document is not None:
            self.faults.add(path, "must be a node configuration: one key `nodes`, a map of node to its CPUs")

    def document(self, document: Any, path: Path) -> None:
        if document is None:
            return  # YAML: nothing between two ---
        if not isinstance(document, Mapping):
            self.faults.add(path, f"must be a map of keys to values, not {kind(document)}")
        elif "kind" in document:
            self._resource(document, path)
        elif "workload_id" in document or "workloadId" in document:
            self._listed(Fields(document, SCHED_INFO, path, "", self.faults), "timpani")
        else:
            self._listed(Fields(document, NATIVE, path, "", self.faults), "native")

    def _listed(self, fields: Fields, dialect: str) -> None:
        if "workload" in fields:
            self._named(fields["workload"], fields.at("workload"))
        if "nodes" in fields:
            self._nodes(fields["nodes"], fields.at("nodes"))
        if "tasks" in fields:
            self._tasks(fields["tasks"], fields.at("tasks"), DIALECTS[dialect])
        if "chains" in fields:
            self._chains(fields["chains"], fields.at("chains"))

    def _resource(self, document: Mapping[Any, Any], path: Path) -> None:
        kind = document["kind"]
        if kind != "Schedule":
            self.passed_over.append(str(kind)[:40])
            return
        metadata, spec = document.get("metadata"), document.get("spec")
        if not isinstance(metadata, Mapping) or "name" not in metadata:
            self.faults.add((*path, "metadata"), "must have the key `name`, which names the workload")
        else:
            self._named(metadata["name"], (*path, "metadata", "name"))
        at: Path = (*path, "spec")
        if isinstance(spec, Mapping) and set(spec) == {"tasks"}:
            spec, at = spec["tasks"], (*at, "tasks")
        self._tasks(spec, at, DIALECTS["timpani"])

    def _named(self, value: Any, path: Path) -> None:
        name = text(value, path, "the workload's name", self.faults)
        if name is not None and self.name is not None and name != self.name:
            what = f"names workload {name!r}, and an earlier document names {self.name!r}"
            self.faults.add(path, f"{what}: one workload at a time; split the file")
        self.name = name if self.name is None else self.name

    def _tasks(self, value: Any, path: Path, dialect: Dialect) -> None:
        if not isinstance(value, list):
            self.faults.add(path, f"must be a list of tasks, not {kind(value)}")
            return
        if len(value) > defaults.MAX_WORKLOAD_TASKS:
            self.faults.add(path, f"has {len(value)} tasks: at most {defaults.MAX_WORKLOAD_TASKS} are taken")
            return
        for i, item in enumerate(value):
            at = (*path, i)
            task = task_of(item, at, dialect, self.faults)
            if task is None:
                continue
            if task.name in self.tasks:
                self.faults.add(
                    (*at, "name"), f"task {task.name!r}: there is another of that name (duplicate)"
                )
            self.tasks[task.name], self.task_paths[task.name] = task, at

    def _chains(self, value: Any, path: Path) -> None:
        if not isinstance(value, list):
            self.faults.add(path, f"must be a list of chains, not {kind(value)}")
            return
        for i, item in enumerate(value):
            chain = chain_of(item, (*path, i), self.faults)
            if chain is not None and chain.name in self.chains:
                self.faults.add((*path, i, "name"), f"chain {chain.name!r}: there is another of that name")
            elif chain is not None:
                self.chains[chain.name], self.chain_paths[chain.name] = chain, (*path, i)

    def _nodes(self, value: Any, path: Path) -> None:
        if isinstance(value, list):
            for i, item in enumerate(value):
                name = item.get("name") if isinstance(item, Mapping) else None
                known = text(name, (*path, i, "name"), "the node's name", self.faults)
                if known is not None:
                    self._node(known, item, (*path, i))
        elif isinstance(value, Mapping):
            for name, item in value.items():
                known = text(name, path, "the node's name", self.faults)
                if known is not None:
                    self._node(known, item, (*path, name))
        else:
            self.faults.add(path, f"must be a map of node to its CPUs, or a list, not {kind(value)}")

    def _node(self, name: str, value: Any, path: Path) -> None:
        whose = f"node {name!r}"
        if name in self.nodes:
            self.faults.add(path, f"{whose}: there is another of that name (duplicate)")
        elif len(self.nodes) == defaults.MAX_WORKLOAD_NODES:
            self.faults.add(path, f"{whose}: at most {defaults.MAX_WORKLOAD_NODES} nodes are taken")
        elif not isinstance(value, Mapping):
            self.faults.add(path, f"{whose}: must be a map with the key `available_cpus`, not {kind(value)}")
        else:
            fields = Fields(value, NODE_FIELDS, path, whose, self.faults)
            cpus = cpus_of(fields, "cpus", ranges=fields.key("cpus") == "cpus")
            if "cpus" not in fields:
                fields.wrong("", "available_cpus is missing: list the CPUs that take tasks")
            memory_mb = fields.integer("memory_mb", 0, defaults.MAX_TASK_MEMORY_MB, 4096, " MB")
            reserve_ppm = fields.integer("reserve_ppm", 0, 1_000_000, 0, " millionths of a CPU")
            self.nodes[name] = Node(name, cpus or (), memory_mb or 0, reserve_ppm or 0)

    def _across(self) -> None:
        """What only the whole shows."""
        if not self.tasks and not self.faults:
            seen = f" (passed over: {', '.join(dict.fromkeys(self.passed_over))})" if self.passed_over else ""
            self.faults.add((), f"there is no task in it{seen}: `tasks`, or a document of `kind: Schedule`")
        if self.name is None and not self.faults:
            self.faults.add((), "the workload has no name: give `workload: NAME`")
        for name, task in self.tasks.items():
            problem = name_fault(self.name, task) if task.command and self.name is not None else ""
            if problem:
                self.faults.add((*self.task_paths[name], "name"), f"task {name!r}: {problem}")
            node = self.nodes.get(task.node)
            if self.nodes and task.node and node is None:
                known = ", ".join(sorted(self.nodes)[:8])
                self.faults.add(
                    (*self.task_paths[name], "node"),
                    f"task {name!r}: node is {task.node!r}, which is not configured: known are {known}",
                )
        for chain in self.chains.values():
            for i, member in enumerate(chain.tasks):
                if member not in self.tasks and not self.faults:
                    path = (*self.chain_paths[chain.name], "tasks", i)
                    self.faults.add(path, f"chain {chain.name!r}: there is no task {member!r}")
