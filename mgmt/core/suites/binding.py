"""Which CPUs each worker of a suite is bound to."""

from __future__ import annotations

from typing import NamedTuple


class Binding(NamedTuple):
    """`strategy`: round-robin, exclusive or shared."""

    cores: tuple[int, ...]
    strategy: str


def cpus_of(binding: Binding, index: int, workers: int) -> tuple[int, ...]:
    """The CPUs of worker `index` of so many: the same whenever it is started again.

    ValueError when there are no cores, or fewer than workers that each want their own.
    """
    cores = binding.cores
    if not cores:
        raise ValueError("no cores to bind workers to")
    if binding.strategy == "shared":
        return cores
    if binding.strategy == "round-robin":
        return (cores[index % len(cores)],)
    if workers > len(cores):
        raise ValueError(f"{workers} workers cannot have one of {len(cores)} cores each")
    each = len(cores) // workers
    end = len(cores) if index == workers - 1 else (index + 1) * each
    return cores[index * each : end]
