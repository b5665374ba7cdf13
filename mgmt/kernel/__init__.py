"""Scheduling analyses and placement: exact, in integers, with the same answers in C and in Python.

The C extension is used where it is built; `MGMT_KERNEL=python` or a missing extension selects the readable
twins in `reference.py` and `reference_placement.py`. `IMPLEMENTATION` tells which. The interface with its
documentation is in `__init__.pyi`.
"""

# ruff: noqa: F401  # what is imported here is handed out

import os

from .reference_placement import NO_AFFINITY, UNKNOWN, UNSET
from .refusal import Refused
from .tables import Infeasible, Table, TableFault

if os.environ.get("MGMT_KERNEL") == "python":
    IMPLEMENTATION = "python"
else:
    try:
        from . import _kernel
    except ImportError:
        IMPLEMENTATION = "python"
    else:
        IMPLEMENTATION = "c"

if IMPLEMENTATION == "c":
    audsley = _kernel.audsley
    edf_schedulable = _kernel.edf_schedulable
    fp_schedulable = _kernel.fp_schedulable
    hyperperiod = _kernel.hyperperiod
    response_times = _kernel.response_times
    sensitivity = _kernel.sensitivity
    table = _kernel.table
    table_fault = _kernel.table_fault
    Placement = _kernel.Placement
    best_fit = _kernel.best_fit
    estimate = _kernel.estimate
    history = _kernel.history
    by_end = _kernel.by_end
    hashes = _kernel.hashes
    members = _kernel.members
    places = _kernel.places
    recent = _kernel.recent
    repeats = _kernel.repeats
    superseded = _kernel.superseded
    run_times = _kernel.run_times
    tally = _kernel.tally
    words = _kernel.words
    score = _kernel.score
    top_k = _kernel.top_k
    compat_best_fit_decreasing = _kernel.compat_best_fit_decreasing
    compat_hyperperiod = _kernel.compat_hyperperiod
    compat_least_loaded = _kernel.compat_least_loaded
    compat_target_node_priority = _kernel.compat_target_node_priority
else:
    from .reference import (
        audsley,
        edf_schedulable,
        fp_schedulable,
        hyperperiod,
        response_times,
        sensitivity,
    )
    from .reference_history import estimate, history, recent
    from .reference_placement import (
        compat_best_fit_decreasing,
        compat_hyperperiod,
        compat_least_loaded,
        compat_target_node_priority,
    )
    from .reference_runs import by_end, hashes, members, places, repeats, run_times, superseded, tally, words
    from .reference_score import score, top_k
    from .reference_strict import Placement, best_fit
    from .reference_table import table, table_fault
