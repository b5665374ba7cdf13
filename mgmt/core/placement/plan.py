"""The plan: a place for every declared unit, from the declarations alone."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

from mgmt.core.placement.topology import Cpu, Topology


@dataclass(frozen=True, slots=True)
class Demand:
    """What a unit asks for.

    `cpus` lists fixed CPUs; else `count` of them are chosen (0: all of its node, not pinned without one). `layout`
    compact fills a NUMA node and its cores first, spread takes as many nodes and cores as it can. `exclusive` CPUs
    are nobody else's. `node` is the NUMA node it asks for; its memory comes from there, too.
    `gpus` fixes GPUs by UUID, else `gpu_count` are chosen; a GPU is always exclusive. Memory is a promise.
    `realtime`: it has a real-time policy and declares no demand, so beside it no deadline can be promised.
    """

    unit: str
    cpus: tuple[int, ...] = ()
    count: int = 0
    exclusive: bool = False
    layout: str = "compact"
    node: int | None = None
    gpus: tuple[str, ...] = ()
    gpu_count: int = 0
    memory_bytes: int = 0
    realtime: bool = False

    @property
    def excludes_tasks(self) -> bool:
        return self.exclusive or self.realtime


@dataclass(frozen=True, slots=True)
class Place:
    """Where a unit runs; no `cpus`: anywhere.

    `fault` says why there is no such place on this machine; then the rest is empty.
    """

    cpus: tuple[int, ...] = ()
    exclusive: bool = False
    gpus: tuple[str, ...] = ()
    memory_bytes: int = 0
    why: str = ""
    fault: str = ""
    realtime: bool = False

    @property
    def excludes_tasks(self) -> bool:
        """Whether no periodic task can be promised anything on its CPUs."""
        return self.exclusive or self.realtime


def plan(topology: Topology, demands: Iterable[Demand], tasks: Set[int] = frozenset()) -> dict[str, Place]:
    """A place for each demand, by unit. `tasks`: CPUs on which periodic tasks are admitted.

    Fixed CPUs first, then exclusive demands by descending size, then shared ones; ties by name. GPUs that
    somebody names are chosen for others last. An exclusive demand that finds no free CPUs is placed as if it were
    alone: it can run when its rivals do not. CPUs with tasks are chosen for an exclusive or a real-time demand
    only where there are too few others.
    """
    demands = list(demands)
    taken: set[int] = set()
    used: dict[int, int] = {cpu.id: 0 for cpu in topology.cpus}
    gpus_taken = {uuid for demand in demands for uuid in demand.gpus}
    places: dict[str, Place] = {}
    for demand in sorted(demands, key=_order):
        places[demand.unit] = _place(topology, demand, taken, used, gpus_taken, tasks)
    return places


def memory_nodes(topology: Topology, demand: Demand, place: Place) -> tuple[int, ...]:
    """The NUMA nodes that the unit's memory is bound to: those of its CPUs, when it asks for a node.

    Empty, which is all of them, on a machine that has only one: its kernel need not even know the question.
    """
    if demand.node is None or len(topology.nodes) < 2:
        return ()
    return tuple(sorted({cpu.node for cpu in topology.cpus if cpu.id in place.cpus}))


def _order(demand: Demand) -> tuple[int, int, str]:
    rank = 0 if demand.cpus else 1 if demand.exclusive else 2
    return rank, -(len(demand.cpus) or demand.count), demand.unit


def _place(
    topology: Topology,
    demand: Demand,
    taken: set[int],
    used: dict[int, int],
    gpus_taken: set[str],
    tasks: Set[int],
) -> Place:
    missing = [cpu for cpu in demand.cpus if cpu not in topology.ids]
    if missing:
        return Place(fault=f"CPUs {_list(missing)} do not exist or may not be used by this daemon")
    if demand.memory_bytes > topology.memory_bytes > 0:
        return Place(
            fault=f"{demand.memory_bytes} bytes of memory are asked for, {topology.memory_bytes} exist"
        )
    gpus, gpu_fault = _gpus(topology, demand, gpus_taken)
    if gpu_fault:
        return Place(fault=gpu_fault)
    near = {gpu.node for gpu in topology.gpus if gpu.uuid in gpus and gpu.node >= 0}
    node = demand.node if demand.node is not None else min(near) if near else None
    if demand.cpus:
        chosen, why = demand.cpus, "the configuration names these CPUs"
    elif demand.count or demand.node is not None:
        candidates = [cpu for cpu in topology.cpus if node is None or cpu.node == node]
        free = [cpu for cpu in candidates if cpu.id not in taken]
        if not candidates:
            return Place(fault=f"there is no NUMA node {node} with CPUs that this daemon may use")
        count = demand.count or len(candidates if demand.exclusive else free or candidates)
        if count > len(candidates):
            where = f"NUMA node {node}" if node is not None else "this machine"
            return Place(fault=f"{count} CPUs are asked for, {where} has {len(candidates)}")
        unused = [cpu for cpu in free if not used[cpu.id]]
        if demand.exclusive and len(unused) >= count:
            free = unused
        if count <= len(free):
            why = f"{demand.layout} among {len(free)} CPUs that nobody has for himself"
        else:
            free, why = (
                candidates,
                f"{demand.layout} among all {len(candidates)}: the exclusive ones are oversubscribed",
            )
        chosen = tuple(sorted(cpu.id for cpu in _choose(free, count, demand.layout, used)))
        apart = [cpu for cpu in free if cpu.id not in tasks]
        if demand.excludes_tasks and not tasks.isdisjoint(chosen) and count <= len(apart):
            # Only now: what is not in the way of tasks stays where it would be without them.
            chosen = tuple(sorted(cpu.id for cpu in _choose(apart, count, demand.layout, used)))
            why = f"{demand.layout} among {len(apart)} CPUs that nobody has for himself and no task is on"
    else:
        chosen, why = (), "not pinned"
    if node is not None and chosen and not demand.cpus:
        why += f"; NUMA node {node}" + (" is its GPU's" if demand.node is None else " is asked for")
    if demand.exclusive:
        taken.update(chosen)
    for cpu in chosen:
        used[cpu] += 1
    gpus_taken.update(gpus)
    return Place(chosen, demand.exclusive, gpus, demand.memory_bytes, why, realtime=demand.realtime)


def _choose(free: list[Cpu], count: int, layout: str, used: dict[int, int]) -> list[Cpu]:
    """`count` CPUs: whole nodes and cores together (compact), or as far apart as possible (spread).

    Among equals the least used one is taken, then the lowest number, so that shared units do not pile up.
    """
    if layout == "compact":
        by_node: dict[int, list[Cpu]] = {}
        for cpu in free:
            by_node.setdefault(cpu.node, []).append(cpu)
        # A node that can hold it all; the fullest such one leaves the larger holes for others.
        fitting = [node for node, cpus in by_node.items() if len(cpus) >= count]
        if fitting:
            node = min(
                fitting, key=lambda n: (sum(used[c.id] for c in by_node[n]) // count, len(by_node[n]), n)
            )
            free = by_node[node]
        return sorted(free, key=lambda cpu: (used[cpu.id], cpu.node, cpu.core, cpu.id))[:count]
    chosen: list[Cpu] = []
    while len(chosen) < count:
        cores, nodes = [c.core for c in chosen], [c.node for c in chosen]
        left = (cpu for cpu in free if cpu not in chosen)
        chosen.append(
            min(left, key=lambda cpu: (nodes.count(cpu.node), cores.count(cpu.core), used[cpu.id], cpu.id))
        )
    return chosen


def _gpus(topology: Topology, demand: Demand, taken: set[str]) -> tuple[tuple[str, ...], str]:
    known = {gpu.uuid for gpu in topology.gpus}
    if demand.gpus:
        missing = [uuid for uuid in demand.gpus if uuid not in known]
        return (demand.gpus, "") if not missing else ((), f"there is no GPU {', '.join(missing)}")
    if not demand.gpu_count:
        return (), ""
    if demand.gpu_count > len(topology.gpus):
        return (), f"{demand.gpu_count} GPUs are asked for, this machine has {len(topology.gpus)}"
    order = sorted(topology.gpus, key=lambda gpu: (gpu.uuid in taken, gpu.index))
    return tuple(gpu.uuid for gpu in order[: demand.gpu_count]), ""


def _list(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))
