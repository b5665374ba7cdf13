"""Scheduling analyses and placement: exact, in integers, with the same answers in C and in Python.

The C extension is used where it is built; `MGMT_KERNEL=python` or a missing extension selects the readable
twins in `reference.py` and `reference_placement.py`.
"""

from collections.abc import Sequence

IMPLEMENTATION: str
NO_AFFINITY: int
UNSET: int
UNKNOWN: int

def compat_target_node_priority(
    period: Sequence[int],
    runtime: Sequence[int],
    target: Sequence[int],
    affinity: Sequence[int],
    node_offset: Sequence[int],
    node_cpu: Sequence[int],
) -> tuple[list[int], list[int]]: ...
def compat_best_fit_decreasing(
    period: Sequence[int],
    runtime: Sequence[int],
    memory: Sequence[int],
    target: Sequence[int],
    affinity: Sequence[int],
    node_offset: Sequence[int],
    node_cpu: Sequence[int],
    node_memory: Sequence[int],
) -> tuple[list[int], list[int]]: ...
def compat_least_loaded(
    period: Sequence[int],
    runtime: Sequence[int],
    memory: Sequence[int],
    affinity: Sequence[int],
    node_offset: Sequence[int],
    node_cpu: Sequence[int],
    node_memory: Sequence[int],
) -> tuple[list[int], list[int]]: ...
def compat_hyperperiod(periods: Sequence[int]) -> int: ...
