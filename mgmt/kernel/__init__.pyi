"""Scheduling analyses and placement: exact, in integers, with the same answers in C and in Python.

The C extension is used where it is built; `MGMT_KERNEL=python` or a missing extension selects the readable
twins in `reference.py`, `reference_table.py` and `reference_placement.py`.

The analyses are of one CPU. Columns of equal index belong to one task: any sequence of integers, or any
C-contiguous buffer of them (`array`, numpy, `memoryview`; int64 is fastest). Times are integers in any one
unit. A number that is out of range or no integer is a ValueError that names its index; one beyond int64 is an
OverflowError. Where an answer would need numbers beyond int64, more than 2^16 jobs of one busy period, or more
than 2^20 steps, the analyses raise OverflowError; they never answer wrongly. The extension works without the
GIL where that pays, on copies of what it was given.
"""

from collections.abc import Iterable, MutableSequence, Sequence
from typing import Literal

from .refusal import Refused as Refused
from .tables import Infeasible as Infeasible
from .tables import Table as Table
from .tables import TableFault as TableFault

Integers = Iterable[int]

def response_times(
    wcet: Integers,
    period: Integers,
    deadline: Integers,
    *,
    jitter: Integers | None = None,
    blocking: Integers | None = None,
) -> list[int]:
    """Worst-case response time of each task under preemptive fixed priorities, the most urgent task first.

    Counted from the nominal arrival, so with the task's own jitter in it; -1 for a task whose response passes
    its deadline, while the others stay exact. `wcet`, `period` and `deadline` are at least 1. `jitter` delays a
    release after its arrival, `blocking` is time for which less urgent work may hold the task up; both at
    least 0. A deadline beyond the period is analysed over the whole busy period.
    """

def fp_schedulable(
    wcet: Integers,
    period: Integers,
    deadline: Integers,
    *,
    jitter: Integers | None = None,
    blocking: Integers | None = None,
) -> bool:
    """Whether every response time keeps its deadline: sound bounds decide first, the exact test where they
    do not. Arguments as for `response_times`.
    """

def edf_schedulable(
    wcet: Integers, period: Integers, deadline: Integers, *, jitter: Integers | None = None
) -> bool:
    """Whether earliest deadline first keeps every deadline of sporadic tasks: U <= 1, and for deadlines before
    the period or jitter the processor demand of every interval.
    """

def audsley(
    wcet: Integers,
    period: Integers,
    deadline: Integers,
    *,
    jitter: Integers | None = None,
    blocking: Integers | None = None,
) -> list[int] | None:
    """Task indices in an order of priority, the most urgent first, that keeps every deadline; None when no
    order does. Of the tasks that fit a level, the one with the largest deadline - jitter gets it, of equals
    the last.
    """

def sensitivity(
    wcet: Integers,
    period: Integers,
    deadline: Integers,
    *,
    jitter: Integers | None = None,
    blocking: Integers | None = None,
    policy: Literal["fp", "edf"] = "fp",
) -> list[int]:
    """For each task, by how many thousandths its WCET alone can grow, rounded up to whole units, before some
    deadline is missed: the largest k for which ceil(wcet * (1000 + k) / 1000) still fits. All -1 when the set
    does not fit as it is. `blocking` only for "fp".
    """

def hyperperiod(periods: Integers, /) -> int:
    """Least common multiple; OverflowError past int64, ValueError for none or one below 1."""

def table(
    wcet: Integers,
    period: Integers,
    deadline: Integers,
    *,
    offset: Integers | None = None,
    precedence: Iterable[tuple[int, int]] | None = None,
) -> Table:
    """The time-triggered schedule of one hyperperiod on one CPU, preemptive; Infeasible when there is none.

    Job k of a task is released at `offset + k * period` (0 <= offset < period) and due `deadline` (at most the
    period) later, but not after the end of the hyperperiod, so that tables follow each other. For each pair
    (before, after) in `precedence`, two tasks of equal period, job k of the second starts when job k of the
    first has ended. OverflowError for more than 2^24 jobs.
    """

def table_fault(
    table: Table | tuple[int, Integers, Integers, Integers],
    wcet: Integers,
    period: Integers,
    deadline: Integers,
    *,
    offset: Integers | None = None,
    precedence: Iterable[tuple[int, int]] | None = None,
) -> TableFault | None:
    """What is wrong with a table for these tasks, the first fault in time order; None for a sound one. Shares
    nothing with `table`.
    """

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

class Placement:
    """Tasks on CPUs each of which passes an exact test; one task at a time, or many at once and then all or none.

    CPU q belongs to node `node[q]`; nodes are numbered 0, 1, 2... in the order of their CPUs. `cpu_id[q]` is
    the bit of masks that stands for CPU q (default 0); `memory[k]` what the tasks on node k may sum up to
    (default: no limit); `reserve[q]` what stays free on CPU q, in millionths of it (default 0).

    `test`, for each CPU:
    "utilisation": the sum of wcet / period is at most 1 - reserve, as an exact fraction.
    "fp": that, and the exact response time of every task is within its deadline (deadline <= period).
    "edf": that, and the processor demand is met (QPA where deadlines are not the periods).
    `priorities` False: deadline-monotonic (of deadline - jitter, then the lower number first). True: as given,
    a higher number is more urgent, and tasks of equal priority delay each other.

    `choose` says which CPUs are tried first: "best" those with least room, "least" those with most, "first"
    those of the lowest number; ties go to the lower number. Where a test failed, CPUs are tried later for tasks
    that are as large, and `admit` turns from "best" to the CPUs with most room after 3 failed tests. A task is
    refused only where no CPU passes.

    Times are integers of one unit up to int64, task numbers the caller's choice from 0 on, dense where
    memory matters. A refusal raises `Refused` and changes nothing. Of one Placement only one thread may make
    use at a time.
    """

    def __init__(
        self,
        node: Iterable[int],
        cpu_id: Iterable[int] | None = None,
        memory: Iterable[int] | None = None,
        *,
        reserve: Iterable[int] | None = None,
        test: Literal["utilisation", "fp", "edf"] = "utilisation",
        choose: Literal["best", "least", "first"] = "best",
        priorities: bool = False,
    ) -> None: ...
    def admit(
        self,
        task: int,
        wcet: int,
        period: int,
        deadline: int | None = None,
        *,
        jitter: int = 0,
        priority: int = 0,
        memory: int = 0,
        target: int = -1,
        mask: int | None = None,
    ) -> int:
        """Places a task that is not placed yet; its CPU. `target`: a node, negative for any.

        `mask`: a bit for each `cpu_id` that is allowed, of any length; None: all.
        """

    def place(
        self,
        wcet: Sequence[int],
        period: Sequence[int],
        deadline: Sequence[int] | None = None,
        *,
        jitter: Sequence[int] | None = None,
        priority: Sequence[int] | None = None,
        memory: Sequence[int] | None = None,
        target: Sequence[int] | None = None,
        mask: Sequence[int | None] | None = None,
        first: int = 0,
        order: Literal["urgency", "utilisation", "given"] | None = None,
    ) -> list[int]:
        """Places tasks `first`, `first` + 1, ... of the columns, all or none; their CPUs.

        `order` in which they are taken: "urgency" (default of "fp": each CPU fills with tasks of like periods,
        which packs best and needs the fewest tests), "utilisation" descending (default otherwise), or
        "given". Equal ones in the order given: hand them over sorted by name and the result does not depend
        on the order of the input.
        """

    def remove(self, task: int) -> None: ...
    def resize(self, task: int, wcet: int, period: int | None = None, deadline: int | None = None) -> int:
        """Changes a task where it is; only its CPU is tested."""

    def move(self, task: int, cpu: int) -> int:
        """To this CPU, if its target, its mask, the memory and the test of the CPU allow it."""

    def rebalance(self, most: int = 100) -> list[tuple[int, int, int]]:
        """Moves (task, from, to), at most so many, that lower the greatest of `loads()`; changes nothing.

        Carried out with `move` in this order, each is admitted. Each takes a task from the CPU with the greatest
        load to the emptiest CPU that passes its test. Empty where no single move away from it helps.
        """

    def cpu_of(self, task: int) -> int: ...
    def tasks_on(self, cpu: int) -> list[int]:
        """Most urgent first."""

    def response_times(self, cpu: int) -> list[int]:
        """Worst response times of `tasks_on(cpu)`, from the nominal arrival; "fp" only."""

    def loads(self) -> list[float]:
        """Utilisation of every CPU, rounded."""

def best_fit(
    wcet: Sequence[int], period: Sequence[int], cpus: int, *, out: MutableSequence[int] | None = None
) -> Sequence[int]:
    """Best-fit by falling utilisation on `cpus` equal CPUs; the CPU of each task, in `out` where given.

    What `Placement([0] * cpus).place(wcet, period)` answers, faster, without a state to change afterwards.
    `out`: a writable buffer of int64. Raises Refused when a task finds no CPU.
    """

def score(
    value: Sequence[float],
    probability: Sequence[float],
    duration_us: Sequence[float],
    previous_runs: Sequence[float] | None = None,
    codebase_value: Sequence[float] | None = None,
    *,
    default_offset: float = 0.0,
    first_run_bonus: float = 100.0,
    minimum_cost_ms: float = 20000.0,
    subsecond_twice: bool = False,
    out: MutableSequence[float] | None = None,
) -> Sequence[float]:
    """Offsets of candidates, one column entry each; lower is better. Buffers of float64 are read in place.

    offset = cost / (codebase value * probability * value) + `default_offset`, in ms per unit of value; cost =
    `minimum_cost_ms` + duration. `value` NaN: none, worth 1; otherwise `first_run_bonus` is added where
    `previous_runs` is 0 (no column: all have run). `codebase_value` NaN or no column: 0.5; at least 0.1.
    `subsecond_twice`: the part of the duration below a second counts twice, as in the ancestor's formula.
    NaN where the probability is outside 0 to 1, the duration negative or infinite, or the expected value not
    positive.
    Returns `out`, or a new memoryview of format "d".
    """

def top_k(scores: Sequence[float], k: int) -> list[int]:
    """The indices of the k smallest scores, best first, of equals the lower index; NaN is left out."""

def history(
    key: Sequence[int],
    ended: Sequence[float],
    duration: Sequence[float],
    rows: int,
    *,
    group_of: Sequence[int] | None = None,
    reference: float = 0.0,
    half_life: float = 1.0,
    window: int = 128,
    weights: bool = True,
    out: MutableSequence[float] | None = None,
) -> Sequence[float]:
    """Statistics of runs: a matrix of 12 columns, one after the other, each with an entry for every row.

    `key`: series * 4 + outcome (0 success, 1 failure, 2 nothing to do, 3 transient), in the order in which the
    runs ended; `ended` and `duration` in one unit each, a duration NaN where it is not known. A row is a series,
    or `group_of` it. Columns: sums of the weights of successes, failures and nothing-to-dos, where a run that
    ended at `reference` weighs 1 and one a `half_life` before it half of that (0 without `weights`); count,
    median (index n // 2 of the sorted ones) and 90 % (index 9 * n // 10) of the durations of the latest `window`
    successes, then of the latest others; runs that were not transient; transient ones at the end; the latest
    end, -inf for none. Medians of nothing are NaN.
    """

def words(
    columns: Sequence[bytes | bytearray | memoryview],
    n: int,
    *,
    known: Sequence[bytes] = (),
    grow: bool = True,
) -> tuple[Sequence[int], list[bytes]]:
    """Of each of `n` rows its number among the rows that differ, and these: words joined by the byte 31.

    A column has a word for each row, with the byte 31 between them, so that no word may have one: ValueError for a
    column with more or fewer words. Rows that differ are numbered in the order in which they come, after those of
    `known`; unless they `grow`, the others are -1.
    """

def run_times(
    began: Sequence[int], ended: Sequence[int], *, epoch: float = 0.0
) -> tuple[Sequence[float], Sequence[float]]:
    """When runs were over, counted from `epoch` before theirs, and their durations; -2**63 is no time.

    A run without an end was over when it began, with a duration of NaN. The end of one without any time, or with
    an end before its beginning, is NaN.
    """

def hashes(columns: Sequence[bytes | bytearray | memoryview], n: int) -> Sequence[int]:
    """Of each of `n` rows of words a number that other rows hardly have (64 bits of a hash); 0 where the last of
    its words is empty. Columns as of `words`."""

def places(number: Sequence[int], known: Sequence[int]) -> Sequence[int]:
    """Where each number is in `known`, of equal ones the first; -1 for what is not there, and for 0."""

def by_end(
    series: Sequence[int], kind: Sequence[int], outcome_of: Sequence[int], end: Sequence[float],
    duration: Sequence[float], own: Sequence[int], other: Sequence[int],
) -> tuple[Sequence[int], Sequence[float], Sequence[float], Sequence[int], Sequence[int]]:  # fmt: skip
    """Keys (series * 4 + outcome_of[kind]), ends, durations and both contexts in the order of the ends; without
    those whose end is NaN or whose outcome is -1."""

def repeats(
    key: Sequence[int], ended: Sequence[float], own: Sequence[int], other: Sequence[int], *,
    reference: float = 0.0, half_life: float = 1.0, penalty: float = 0.0,
) -> Sequence[float]:  # fmt: skip
    """What each run weighs less because it fails in a context that was tried before: `penalty` of the lesser of
    their weights, else 0. Runs are in the order of their ends. `own` and `other`: numbers of the context of each
    in its series, and of what it was made for, 0 for none. The first of them that there is is looked for; both are
    tried then. Transient runs are no attempts. Weights as of `history`."""

def recent(
    key: Sequence[int],
    duration: Sequence[float],
    rows: int,
    window: int,
    *,
    group_of: Sequence[int] | None = None,
) -> tuple[Sequence[int], Sequence[float]]:
    """The durations that `history` takes the medians of, from the latest back, and where they start: those of the
    successes of a row are from starts[2 * row] to starts[2 * row + 1], those of its others behind them."""

def superseded(key: Sequence[int]) -> list[int]:
    """The numbers of those that come once more behind, ascending."""

def members(group: Sequence[int], wanted: bytes | bytearray) -> list[int]:
    """The numbers of those whose group is wanted: not 0 at its place."""

def tally(
    group: Sequence[int], kind: Sequence[int], value: Sequence[float], groups: int, kinds: int
) -> Sequence[float]:
    """Four matrices of groups * kinds: entries, those whose value is not NaN, their sum, the greatest (-inf for
    none). A group of -1 is passed over."""

def estimate(
    value: Sequence[float],
    chance: Sequence[float],
    tried: Sequence[float],
    series: Sequence[int],
    codebase: Sequence[int],
    campaign: Sequence[int],
    of_series: Sequence[float],
    of_codebase: Sequence[float],
    rate: Sequence[float],
    done: Sequence[float],
    lost: Sequence[float],
    *,
    decay: float = 1.0,
    strength: float = 4.0,
    explore: float = 0.0,
    penalty: float = 0.9,
    shrink: float = 5.0,
    least_points: float = 5.0,
    quantile: int = 0,
    out: MutableSequence[float] | None = None,
) -> Sequence[float]:
    """What is expected of the next run of each candidate: columns probability, duration and worth in one matrix.

    p = (strength * mean + s) / (strength + s + f) of the sums of its `series`, times `decay` each; the mean is
    `chance`, or where that is NaN the `rate` of its campaign. A duration is p * that of a success + (1 - p) *
    that of the others, each drawn from the median of the series (`quantile` 1: the 90 %) toward that of the
    `codebase`, and that toward the campaign's `done` or `lost`, with `shrink` points; a median of fewer than
    `least_points` is passed over. worth = value * (1 - `penalty` * `tried` * `decay`) * (1 - share of
    nothing-to-dos) * (1 + `explore` * strength / (strength + s + f)); a value of NaN is 1. Matrices are
    those of `history`.
    """
