"""The readable twin of `Placement`: the same CPUs and the same refusals, by scans and fractions.

How a CPU is chosen: those that may have room are tried in the order of `choose` until one passes its exact
test. "May have room" is a comparison of sums of utilisations rounded down to 2**-62 with the key of the CPU:
what its load leaves, or its ceiling if that is lower. A failed test lowers the ceiling below the task, so that
the same CPUs are not tested in vain for every task; CPUs hidden by a ceiling alone are tried last, so
that a task is refused only where no CPU passes.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableSequence, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from .reference import edf_schedulable
from .refusal import Reason, Refused

ONE = 1 << 62  # utilisation 1
PPM = 1_000_000
NO_CEILING = (1 << 64) - 1
CANDIDATES = 32  # how many CPUs an explanation looks at
TRIES = 3  # failed tests after which one admission turns to the CPUs with most room
WORTH_LIFTING = ONE // 32  # a ceiling that hides less is kept when deadlines grow
STEPS = 1 << 22  # evaluations for one task before a test gives up
FAR = 16  # over how many deadlines an explanation follows a late response

Test = Literal["utilisation", "fp", "edf"]
Choice = Literal["best", "least", "first"]
Order = Literal["urgency", "utilisation", "given"]


@dataclass(frozen=True)
class Task:
    wcet: int
    period: int
    deadline: int
    jitter: int = 0
    rank: int = 0  # lower is more urgent
    memory: int = 0
    target: int = -1
    mask: int | None = None

    @property
    def u(self) -> int:
        return self.wcet * ONE // self.period if self.wcet <= self.period else ONE + 1


class Placement:
    """See the stub of `mgmt.kernel`."""

    def __init__(
        self,
        node: Sequence[int],
        cpu_id: Sequence[int] | None = None,
        memory: Sequence[int] | None = None,
        *,
        reserve: Sequence[int] | None = None,
        test: Test = "utilisation",
        choose: Choice = "best",
        priorities: bool = False,
    ) -> None:
        _one_of("test", test, ("utilisation", "fp", "edf"))
        _one_of("choose", choose, ("best", "least", "first"))
        self._node = list(node)
        self._test: Test = test
        self._choose: Choice = choose
        self._mutual = priorities
        nodes = self._node[-1] + 1 if self._node else 0
        self._id = [0] * len(self._node) if cpu_id is None else list(cpu_id)
        self._reserve = [0] * len(self._node) if reserve is None else list(reserve)
        self._free = [(1 << 63) - 1] * nodes if memory is None else list(memory)
        self._check_cpus(nodes)
        self._tasks: dict[int, Task] = {}
        self._on: list[list[int]] = [[] for _ in self._node]
        self._where: dict[int, int] = {}
        self._ceiling = [NO_CEILING] * len(self._node)

    def _check_cpus(self, nodes: int) -> None:
        if not len(self._id) == len(self._reserve) == len(self._node):
            raise ValueError("cpu_id and reserve have one entry a CPU, like node")
        for q, k in enumerate(self._node):
            before = self._node[q - 1] if q else 0
            if not before <= k <= before + 1 or (q == 0 and k):
                rule = "the nodes of the CPUs are 0, 1, 2... in this order, each with at least one CPU"
                raise ValueError(f"node[{q}] is {k}: {rule}")
            if not 0 <= self._id[q] <= 65535:
                raise ValueError(f"cpu_id[{q}] is {self._id[q]}: must be between 0 and 65535")
            if not 0 <= self._reserve[q] <= PPM:
                raise ValueError(
                    f"reserve[{q}] is {self._reserve[q]}: must be between 0 and 1000000 millionths"
                )
        if len(self._free) != nodes:
            raise ValueError(
                f"memory has {len(self._free)} entries, one for each of the {nodes} nodes is needed"
            )
        for k, free in enumerate(self._free):
            if free < 0:
                raise ValueError(f"memory[{k}] is {free}: must not be negative")

    # What is there

    def cpu_of(self, task: int) -> int:
        self._placed(task)
        return self._where[task]

    def tasks_on(self, cpu: int) -> list[int]:
        return list(self._on[self._cpu(cpu)])

    def loads(self) -> list[float]:
        return [self._load(q) / ONE for q in range(len(self._node))]

    def response_times(self, cpu: int) -> list[int]:
        if self._test != "fp":
            raise ValueError("response times are those of fixed priorities: this Placement has another test")
        level = [(x, self._tasks[x]) for x in self._on[self._cpu(cpu)]]
        return [self._response(level, i, task.deadline) for i, (_, task) in enumerate(level)]

    # Changes

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
        self._not_placed(task)
        new = self._task(wcet, period, deadline, jitter, priority, memory, target, mask)
        return self._admit(task, new, TRIES)

    def remove(self, task: int) -> None:
        cpu = self.cpu_of(task)
        del self._where[task]
        self._on[cpu].remove(task)
        self._free[self._node[cpu]] += self._tasks.pop(task).memory
        self._ceiling[cpu] = NO_CEILING

    def resize(self, task: int, wcet: int, period: int | None = None, deadline: int | None = None) -> int:
        was = self._placed(task)
        new = self._task(
            wcet,
            was.period if period is None else period,
            was.deadline if deadline is None else deadline,
            was.jitter, -was.rank, was.memory, was.target, was.mask,
        )  # fmt: skip
        return self._replace(task, new, self.cpu_of(task))

    def move(self, task: int, cpu: int) -> int:
        was = self._placed(task)
        return self._replace(task, was, self._cpu(cpu))

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
        order: Order | None = None,
    ) -> list[int]:
        n = len(wcet)
        columns = {
            "period": period, "deadline": deadline, "jitter": jitter, "priority": priority, "memory": memory,
            "target": target, "mask": mask,
        }  # fmt: skip
        for name, column in columns.items():
            if column is not None and len(column) != n:
                raise ValueError(f"{name} has {len(column)} entries, wcet {n}")
        if order is None:
            order = "urgency" if self._test == "fp" else "utilisation"
        _one_of("order", order, ("urgency", "utilisation", "given"))
        for x in range(first, first + n):
            self._not_placed(x)
        tasks = {
            first + i: self._task(
                wcet[i],
                period[i],
                deadline[i] if deadline is not None else None,
                jitter[i] if jitter is not None else 0,
                priority[i] if priority is not None else 0,
                memory[i] if memory is not None else 0,
                target[i] if target is not None else -1,
                mask[i] if mask is not None else None,
                index=i,
            )
            for i in range(n)
        }
        self._place(tasks, order)
        return [self.cpu_of(x) for x in tasks]

    def _place(self, tasks: dict[int, Task], order: Order) -> None:
        sequence = list(tasks)
        if order == "utilisation":
            sequence.sort(key=lambda x: -tasks[x].u)
        elif order == "urgency":
            sequence.sort(
                key=lambda x: (tasks[x].rank if self._mutual else 0, tasks[x].deadline - tasks[x].jitter)
            )
        self._ceiling = [NO_CEILING] * len(self._node)
        horizon = 0
        done: list[int] = []
        try:
            for x in sequence:
                if self._test == "fp" and order == "urgency" and tasks[x].deadline // 9 > horizon // 8:
                    # Deadlines have grown by an eighth: what failed then may pass now.
                    horizon = tasks[x].deadline
                    self._ceiling = [
                        NO_CEILING if ceiling < self._room(q) - WORTH_LIFTING else ceiling
                        for q, ceiling in enumerate(self._ceiling)
                    ]
                self._admit(x, tasks[x], len(self._node) + 1)
                done.append(x)
        except Refused:
            for x in done:
                self.remove(x)
            self._ceiling = [NO_CEILING] * len(self._node)
            raise

    def rebalance(self, most: int = 100) -> list[tuple[int, int, int]]:
        if most < 0:
            raise ValueError(f"most is {most}: must not be negative")
        done: list[tuple[int, int, int]] = []
        kept, lowest = 0, NO_CEILING
        while len(self._node) > 1:
            q = max(range(len(self._node)), key=lambda q: (self._load(q), -q))
            if self._load(q) < lowest:
                kept, lowest = len(done), self._load(q)
            step = self._relieve(q) if len(done) < most else None
            if step is None:
                break
            done.append(step)
            self._shift(step[0], step[2])
        for x, before, _ in reversed(done):
            self._shift(x, before)
        return done[:kept]

    def _relieve(self, q: int) -> tuple[int, int, int] | None:
        """A move that takes load from CPU q and makes no other as loaded."""
        load = [self._load(p) for p in range(len(self._node))]
        u = {x: self._tasks[x].u for x in self._on[q]}
        for x in sorted(u, key=lambda x: (max(load[q] - u[x], min(load) + u[x]), x)):
            task = self._tasks[x]
            for p in sorted(range(len(load)), key=lambda p: (load[p], p)):
                if p == q or load[p] + u[x] >= load[q] or not self._allowed(task, p):
                    continue
                same = self._node[p] == self._node[q]
                if (same or task.memory <= self._free[self._node[p]]) and self._fits(x, task, p, task.wcet)[
                    0
                ]:
                    return x, q, p
        return None

    def _shift(self, x: int, to: int) -> None:
        task = self._tasks[x]
        self.remove(x)
        self._insert(x, task, to)

    # How a CPU is found

    def _admit(self, x: int, new: Task, tries: int) -> int:
        failed: set[int] = set()
        for q in self._candidates(new, failed, tries):
            fits, time_left = self._fits(x, new, q, new.wcet)
            if fits:
                self._insert(x, new, q)
                return q
            failed.add(q)
            step = (new.u // 16 if time_left else 0) + 1
            self._ceiling[q] = min(self._ceiling[q], max(new.u - step, 0))
        raise self._refusal(x, new, range(len(self._node)))

    def _candidates(self, new: Task, failed: set[int], tries: int) -> Iterator[int]:
        """First by `choose` among the CPUs whose key has room (of "best" so many, then those with most room),
        then those a ceiling hides.
        """
        if new.u > ONE:
            return

        def by_choice(q: int) -> tuple[int, int]:
            return {"best": self._key(q), "least": -self._key(q), "first": 0}[self._choose], q

        eligible = [q for q in range(len(self._node)) if self._eligible(new, q)]
        roomy = sorted((q for q in eligible if self._key(q) >= new.u), key=by_choice)
        if self._choose == "best" and len(roomy) > tries:
            roomy[tries:] = sorted(roomy[tries:], key=lambda q: (-self._key(q), q))
        yield from roomy
        for q in eligible:
            if q not in failed and self._ceiling[q] < new.u <= self._room(q):
                yield q

    def _insert(self, x: int, new: Task, q: int) -> None:
        self._tasks[x] = new
        self._where[x] = q
        self._on[q].append(x)
        self._on[q].sort(key=lambda y: (self._tasks[y].rank, y))
        self._free[self._node[q]] -= new.memory

    def _replace(self, x: int, new: Task, cpu: int) -> int:
        was, before = self._tasks[x], self.cpu_of(x)
        self.remove(x)
        if self._eligible(new, cpu) and self._fits(x, new, cpu, new.wcet)[0]:
            self._insert(x, new, cpu)
            return cpu
        refusal = self._refusal(x, new, [cpu])
        self._insert(x, was, before)
        raise refusal

    def _load(self, q: int) -> int:
        return sum(self._tasks[x].u for x in self._on[q])

    def _room(self, q: int) -> int:
        return max((PPM - self._reserve[q]) * ONE // PPM - self._load(q), 0)

    def _key(self, q: int) -> int:
        return min(self._room(q), self._ceiling[q])

    def _allowed(self, new: Task, q: int) -> bool:
        on_target = new.target < 0 or new.target == self._node[q]
        return on_target and (new.mask is None or bool(new.mask >> self._id[q] & 1))

    def _eligible(self, new: Task, q: int) -> bool:
        return self._allowed(new, q) and new.memory <= self._free[self._node[q]]

    # The tests

    def _fits(self, x: int, new: Task, q: int, wcet: int) -> tuple[bool, bool]:
        """Whether `new`, with this WCET, passes on CPU q, and if not, whether utilisation leaves room."""
        new = replace(new, wcet=wcet)
        if not self._has_capacity(new, q):
            return False, False
        level = self._level(x, new, q)
        if self._test == "fp":
            return self._late(x, level) is None, True
        if self._test == "edf":
            return self._meets_demand(level) is True, True
        return True, True

    def _has_capacity(self, new: Task, q: int) -> bool:
        on = [new, *(self._tasks[y] for y in self._on[q])]
        load = sum(Fraction(task.wcet, task.period) for task in on)
        return load <= 1 - Fraction(self._reserve[q], PPM)

    def _level(self, x: int, new: Task, q: int) -> list[tuple[int, Task]]:
        level = [(x, new), *((y, self._tasks[y]) for y in self._on[q])]
        return sorted(level, key=lambda entry: (entry[1].rank, entry[0]))

    def _late(self, x: int, level: list[tuple[int, Task]]) -> int | None:
        """The first index, in order of urgency, that is late; those more urgent than x are not affected."""
        own = next(task for y, task in level if y == x)
        for i, (y, task) in enumerate(level):
            affected = task.rank >= own.rank if self._mutual else (task.rank, y) >= (own.rank, x)
            if affected and self._response(level, i, task.deadline) < 0:
                return i
        return None

    def _response(self, level: list[tuple[int, Task]], i: int, limit: int) -> int:
        """Worst response time of task i on its CPU, -1 past `limit`."""
        _, own = level[i]
        delaying = [
            task
            for j, (_, task) in enumerate(level)
            if (j != i and task.rank <= own.rank if self._mutual else j < i)
        ]
        w = own.wcet
        for _ in range(STEPS):
            if w + own.jitter > limit:
                break
            grown = own.wcet + sum(-(-(w + other.jitter) // other.period) * other.wcet for other in delaying)
            if grown == w:
                return w + own.jitter
            w = grown
        return -1

    def _meets_demand(self, level: list[tuple[int, Task]]) -> bool | None:
        """None: the test gives up, so that nothing is proven."""
        tasks = [task for _, task in level]
        try:
            return edf_schedulable(
                [t.wcet for t in tasks], [t.period for t in tasks], [t.deadline for t in tasks],
                jitter=[t.jitter for t in tasks],
            )  # fmt: skip
        except OverflowError:
            return None

    # Why a task is refused

    def _refusal(self, x: int, new: Task, cpus: Sequence[int]) -> Refused:
        allowed = [q for q in cpus if self._allowed(new, q)]
        if not allowed:
            return self._refused(x, "no_cpu")
        eligible = [q for q in allowed if self._eligible(new, q)]
        if not eligible:
            most = max(allowed, key=lambda q: (self._free[self._node[q]], -q))
            return self._refused(x, "memory", most, -1, new.memory, self._free[self._node[most]])
        roomy = sorted(eligible, key=lambda q: (-self._room(q), q))[:CANDIDATES]
        largest = {q: self._largest_wcet(x, new, q) for q in roomy}
        q = max(roomy, key=lambda q: (largest[q], -roomy.index(q)))
        if not self._has_capacity(new, q):
            needed = -(-(self._load(q) + new.u) * PPM // ONE)
            available = PPM - self._reserve[q]
            return self._refused(x, "utilisation", q, -1, max(needed, available + 1), available, largest[q])
        level = self._level(x, new, q)
        if self._test == "edf":
            if self._meets_demand(level) is None:
                return self._refused(x, "undecided", q, largest=largest[q])
            at, demand = _overload([task for _, task in level])
            return self._refused(x, "demand", q, -1, demand, at, largest[q])
        i = self._late(x, level)
        assert i is not None
        y, task = level[i]
        needed = self._response(level, i, FAR * task.deadline)
        return self._refused(x, "deadline", q, y, needed, task.deadline, largest[q])

    def _refused(
        self,
        x: int,
        reason: Reason,
        cpu: int = -1,
        late: int = -1,
        needed: int = 0,
        available: int = 0,
        largest: int = 0,
    ) -> Refused:
        node = self._node[cpu] if cpu >= 0 else -1
        return Refused(x, self._test, reason, cpu, late, needed, available, largest, node)

    def _largest_wcet(self, x: int, new: Task, q: int) -> int:
        low, high = 0, new.wcet
        while low + 1 < high:
            middle = (low + high) // 2
            if self._fits(x, new, q, middle)[0]:
                low = middle
            else:
                high = middle
        return low

    # Arguments

    def _task(
        self,
        wcet: int,
        period: int,
        deadline: int | None,
        jitter: int,
        priority: int,
        memory: int,
        target: int,
        mask: int | None,
        index: int | None = None,
    ) -> Task:
        if deadline is None:
            deadline = period
        at = "" if index is None else f"[{index}]"
        for name, value in (("wcet", wcet), ("period", period), ("deadline", deadline)):
            if value < 1:
                raise ValueError(f"{name}{at} is {value}: must be at least 1")
        for name, value in (("jitter", jitter), ("memory", memory)):
            if value < 0:
                raise ValueError(f"{name}{at} is {value}: must not be negative")
        if target >= len(self._free):
            raise ValueError(f"target{at} is {target}: no such node")
        if self._test == "fp" and deadline > period:
            raise ValueError(f"deadline{at} is {deadline}: must not pass the period under fixed priorities")
        if mask is not None and mask < 0:
            raise ValueError(f"the mask is {mask}: must not be negative")
        rank = -priority if self._mutual else deadline - jitter
        return Task(wcet, period, deadline, jitter, rank, memory, target, mask)

    def _placed(self, task: int) -> Task:
        if task not in self._tasks:
            raise KeyError(f"task {task} is not placed")
        return self._tasks[task]

    def _not_placed(self, task: int) -> None:
        if task in self._tasks:
            raise ValueError(f"task {task} is placed already: remove or resize it")

    def _cpu(self, cpu: int) -> int:
        if not 0 <= cpu < len(self._node):
            raise IndexError(f"cpu is {cpu}: there are {len(self._node)}")
        return cpu


def best_fit(
    wcet: Sequence[int], period: Sequence[int], cpus: int, *, out: MutableSequence[int] | None = None
) -> Sequence[int]:
    """See the stub of `mgmt.kernel`."""
    placed = Placement([0] * cpus).place(wcet, period)
    if out is None:
        return placed
    if len(out) != len(placed):
        raise ValueError(f"out must hold {len(placed)} numbers of format 'q'")
    for i, cpu in enumerate(placed):
        out[i] = cpu
    return out


def _one_of(what: str, given: str, names: tuple[str, str, str]) -> None:
    if given not in names:
        raise ValueError(f"{what} is {given!r}: must be '{names[0]}', '{names[1]}' or '{names[2]}'")


def _overload(tasks: list[Task]) -> tuple[int, int]:
    """The first interval of which more than its length must be served, and how much that is."""
    at = {t: t.deadline - t.jitter for t in tasks}
    while True:
        interval = min(at.values())
        demand = sum(max((interval + t.jitter - t.deadline) // t.period + 1, 0) * t.wcet for t in tasks)
        if demand > interval:
            return interval, demand
        for t in tasks:
            while at[t] <= interval:
                at[t] += t.period
