"""Workloads out of documents: parsed YAML or JSON of four kinds."""

from __future__ import annotations

from typing import Any

from .workload import Workload


def read(documents: list[Any], nodes: list[Any] = ()) -> Workload:  # type: ignore[assignment]
    """The workload that `documents` describe together, on the nodes of `nodes` where there are any.

    MgmtError `bad-workload` names the first 20 faults; `problems` in its detail is a list of {path, problem},
    where path starts with `documents[i]` or `nodes[i]`.
    """
    raise NotImplementedError
