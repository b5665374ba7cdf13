"""The machine as placement sees it; the shell reads it from the system."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True, slots=True)
class Cpu:
    """One logical CPU: its number, the physical core it shares with siblings, and its NUMA node."""

    id: int
    core: int
    node: int


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU; `index` is its place in PCI order, `node` its NUMA node (-1: unknown)."""

    uuid: str
    index: int
    node: int
    memory_bytes: int


@dataclass(frozen=True)
class Topology:
    """The CPUs this daemon may use, the GPUs, and the memory of the machine."""

    cpus: tuple[Cpu, ...]
    gpus: tuple[Gpu, ...] = ()
    memory_bytes: int = 0

    @cached_property
    def ids(self) -> frozenset[int]:
        return frozenset(cpu.id for cpu in self.cpus)

    @cached_property
    def nodes(self) -> tuple[int, ...]:
        return tuple(sorted({cpu.node for cpu in self.cpus}))
