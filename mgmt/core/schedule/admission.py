"""Mode `strict`: all tasks of a workload get CPUs that pass an exact test with them, or none does.

The tests and the choice of CPUs are `mgmt.kernel.Placement`'s; names, texts and what holds across CPUs are
here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Literal

from mgmt import kernel
from mgmt.protocol import defaults
from mgmt.protocol.errors import MgmtError

from . import edf_response, hyperperiod
from .refusals import refused_as
from .workload import Chain, Node, Task, Workload, mask_of

Test = Literal["fp", "edf", "utilisation"]
Algorithm = Literal["target_node_priority", "best_fit_decreasing", "least_loaded"]
ALGORITHMS: tuple[Algorithm, ...] = ("target_node_priority", "best_fit_decreasing", "least_loaded")
TESTS: tuple[Test, ...] = ("fp", "edf", "utilisation")
CLOSED_PPM = 1_000_000
"""A reserve that leaves no room for tasks."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A task of `workload` on its CPU. `bound`: the test it passed there.

    `response_us`: its worst response from the nominal arrival, None where the test gives none; `slack_us`: how
    far its deadline lies behind that.
    """

    workload: str
    task: Task
    node: str
    cpu: int
    response_us: int | None
    slack_us: int | None
    bound: Test


@dataclass(frozen=True, slots=True)
class ChainBound:
    """By when the last task of a chain has handed on what the first one read; `bound_us` is a safe bound.

    Every task reads whatever is there when it starts, so a datum may wait a whole period at each of them:
    the sum of their periods and worst responses.
    """

    workload: str
    chain: Chain
    bound_us: int


@dataclass(frozen=True)
class Schedule:
    """Everything that is placed, what was held before included, in order of workload and task name.

    `hyperperiods`: us by workload, of the workloads that were placed now. `chains`: likewise, and those held.
    """

    nodes: tuple[Node, ...]
    placed: tuple[Placed, ...]
    hyperperiods: Mapping[str, int]
    chains: tuple[ChainBound, ...] = ()

    @cached_property
    def by_cpu(self) -> Mapping[tuple[str, int], tuple[Placed, ...]]:
        """Tasks by (node, CPU), the most urgent first; CPUs without tasks are absent."""
        found: dict[tuple[str, int], list[Placed]] = {}
        for placed in self.placed:
            found.setdefault((placed.node, placed.cpu), []).append(placed)
        return {key: tuple(sorted(on, key=urgency)) for key, on in sorted(found.items())}

    def utilisation(self, node: str, cpu: int) -> Fraction:
        return utilisation(p.task for p in self.by_cpu.get((node, cpu), ()))

    def memory_mb(self, node: str) -> int:
        return sum(p.task.memory_mb for p in self.placed if p.node == node)


def utilisation(tasks: Iterable[Task]) -> Fraction:
    return sum((Fraction(task.wcet_us, task.period_us) for task in tasks), Fraction())


def urgency(placed: Placed) -> tuple[int, int, str, str]:
    """A total order: by priority where the test knows some, then by deadline and name."""
    task = placed.task
    level = 0 if placed.bound == "edf" else -level_of(task)
    return level, task.deadline_us, placed.workload, task.name


def level_of(task: Task) -> int:
    """The priority among fixed ones: a normal task comes after all others."""
    return task.priority if task.policy in ("fifo", "rr") else 0


def test_of(workload: Workload) -> Test:
    """edf for tasks of policy deadline, else fp; MgmtError `not-schedulable` for a mixture."""
    kinds = {task.policy == "deadline" for task in workload.tasks}
    if len(kinds) < 2:
        return "edf" if True in kinds else "fp"
    dynamic = next(task for task in workload.tasks if task.policy == "deadline")
    fixed = next(task for task in workload.tasks if task.policy != "deadline")
    text = (
        f"workload {workload.name!r} mixes policies: task {dynamic.name!r} is deadline and task "
        f"{fixed.name!r} is {fixed.policy}, and no one test holds for both on a CPU: make two workloads of it, "
        "which get CPUs apart, or give all tasks one kind of policy"
    )
    raise MgmtError("not-schedulable", text, reason="mixed_policies", task=fixed.name)


def place(
    workload: Workload,
    nodes: Sequence[Node],
    held: Sequence[Placed] = (),
    *,
    algorithm: Algorithm = "best_fit_decreasing",
    test: Test | None = None,
    held_chains: Mapping[str, Sequence[Chain]] | None = None,
    max_hyperperiod_us: int | None = defaults.MAX_HYPERPERIOD_US,
) -> Schedule:
    """All tasks of `workload` on CPUs of `nodes`, and what is held where it is.

    The result does not depend on the order of anything. Responses in it are those with the new tasks. A CPU
    on which tasks were admitted by another test takes none: a deadline task precedes every fixed priority.
    `held` and `held_chains` are of other workloads; held tasks on nodes not named stay as they are.
    `max_hyperperiod_us` None: as long as it is.

    MgmtError `not-schedulable`, and nothing is placed: its detail has `reason`, and where they apply `task`,
    `workload`, `node`, `cpu`, `test`, `needed`, `available`, `largest_wcet_us`.
    """
    _check(workload, nodes, held, algorithm)
    chosen = test_of(workload) if test is None else test
    length_us = hyperperiod.strict(
        (task.period_us for task in workload.tasks), max_hyperperiod_us, whose=f"workload {workload.name!r}: "
    )
    cpus = _Cpus(nodes, held, chosen, algorithm)
    placed = cpus.admit(workload)
    if held_chains and any(p.response_us is None for p in cpus.apart):
        from .analysis import analysed

        placed = [*analysed(cpus.apart), *placed[len(cpus.apart) :]]
    bounds = [
        chain_bound(name, chain, placed)
        for name, chains in sorted({**(held_chains or {}), workload.name: workload.chains}.items())
        for chain in chains
    ]
    for bound in bounds:
        _check_chain(bound, placed)
    placed.sort(key=lambda p: (p.workload, p.task.name))
    return Schedule(
        tuple(sorted(nodes, key=lambda n: n.name)), tuple(placed), {workload.name: length_us}, tuple(bounds)
    )


def _check(workload: Workload, nodes: Sequence[Node], held: Sequence[Placed], algorithm: str) -> None:
    """What the placement could not say better."""

    def refuse(reason: str, text: str, **detail: str) -> None:
        raise MgmtError("not-schedulable", text, reason=reason, workload=workload.name, **detail)

    if algorithm not in ALGORITHMS:
        refuse("unknown_algorithm", f"there is no algorithm {algorithm!r}: known are {', '.join(ALGORITHMS)}")
    if not workload.tasks:
        refuse("no_tasks", f"workload {workload.name!r} has no tasks")
    names = [task.name for task in workload.tasks]
    for name in sorted(
        {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ()
    ):
        refuse("duplicate", f"workload {workload.name!r} has two tasks named {name!r}", task=name)
    if any(p.workload == workload.name for p in held):
        text = f"workload {workload.name!r} is placed already: remove or replace it"
        refuse("duplicate", text)
    known = {node.name for node in nodes if node.cpus}
    for task in sorted(workload.tasks, key=lambda task: task.name):
        if task.node and task.node not in known:
            told = ", ".join(sorted(known)[:8]) or "none"
            text = f"task {task.name!r} of workload {workload.name!r} wants node {task.node!r}, which is not there"
            refuse("node_not_found", f"{text}: known are {told}", task=task.name, node=task.node)
        if algorithm == "target_node_priority" and not task.node:
            text = f"task {task.name!r} of workload {workload.name!r} names no node, and target_node_priority"
            refuse(
                "missing_target_node",
                f"{text} needs one for each: give it, or take best_fit_decreasing",
                task=task.name,
            )
    if not known:
        refuse("no_schedulable_node", f"no node has a CPU for tasks of workload {workload.name!r}")


class _Cpus:
    """The CPUs of all nodes in order of node name and id, and what the kernel knows of them."""

    def __init__(
        self, nodes: Sequence[Node], held: Sequence[Placed], test: Test, algorithm: Algorithm
    ) -> None:
        self.nodes = sorted((node for node in nodes if node.cpus), key=lambda node: node.name)
        self.test = test
        self.places = [(k, cpu) for k, node in enumerate(self.nodes) for cpu in sorted(node.cpus)]
        self.number = {node.name: k for k, node in enumerate(self.nodes)}
        index = {(self.nodes[k].name, cpu): q for q, (k, cpu) in enumerate(self.places)}
        reserve = [self.nodes[k].reserve_ppm for k, _ in self.places]
        memory = [node.memory_mb for node in self.nodes]
        self.held: list[Placed] = []
        self.apart: list[Placed] = []  # on nodes or CPUs that are no matter of this placement
        for placed in sorted(held, key=lambda p: (p.workload, p.task.name)):
            q = index.get((placed.node, placed.cpu))
            if q is not None and placed.bound == test:
                self.held.append(placed)
                continue
            self.apart.append(placed)
            if q is not None:
                reserve[q] = CLOSED_PPM
            if placed.node in self.number:
                k = self.number[placed.node]
                memory[k] = max(memory[k] - placed.task.memory_mb, 0)
        self._reserve, self._memory = reserve, memory
        self._choose: Literal["least", "best"] = "least" if algorithm == "least_loaded" else "best"
        self.cpus = self._kernel(priorities=test == "fp")

    def _kernel(self, *, priorities: bool) -> kernel.Placement:
        return kernel.Placement(
            [k for k, _ in self.places],
            [cpu for _, cpu in self.places],
            self._memory,
            reserve=self._reserve,
            test=self.test,
            choose=self._choose,
            priorities=priorities,
        )

    def admit(self, workload: Workload) -> list[Placed]:
        """Everything that is placed, held and new."""
        tasks = sorted(workload.tasks, key=lambda task: task.name)
        try:
            for number, placed in enumerate(self.held):
                self._hold(number, placed)
            self._place(self.cpus, tasks)
        except kernel.Refused as refused:
            bound_first = self._bound_first(tasks)
            if bound_first is None or not self._fits(self.cpus, bound_first, "given"):
                raise self._told(refused, workload, tasks) from None
            tasks = bound_first
        return [*self.apart, *self._placed(self._known(workload, tasks))]

    def _known(self, workload: Workload, tasks: Sequence[Task]) -> list[Placed]:
        """Held and new tasks by the kernel's numbers."""
        return [*self.held, *(Placed(workload.name, task, "", -1, None, None, self.test) for task in tasks)]

    def _bound_first(self, tasks: Sequence[Task]) -> list[Task] | None:
        """Those with the fewest CPUs to choose from first, else in the order of the kernel; None where all have
        the same choice. Fewer CPUs may be filled this way than in the kernel's order, so it comes second."""
        choices: dict[tuple[str, tuple[int, ...] | None], int] = {}
        for task in tasks:
            key = task.node, task.cpus
            if key not in choices:
                allowed = None if task.cpus is None else set(task.cpus)
                choices[key] = sum(
                    task.node in ("", self.nodes[k].name) and (allowed is None or cpu in allowed)
                    for k, cpu in self.places
                )
        if len(set(choices.values())) < 2:
            return None

        def order(task: Task) -> tuple[int, int, Fraction]:
            few = choices[task.node, task.cpus]
            if self.test == "fp":
                return few, -level_of(task), Fraction(task.deadline_us - task.jitter_us)
            return few, 0, -Fraction(task.wcet_us, task.period_us)

        return sorted(tasks, key=order)

    def _told(self, refused: kernel.Refused, workload: Workload, tasks: Sequence[Task]) -> MgmtError:
        place = self.places[refused.cpu] if refused.cpu >= 0 else None
        where = (self.nodes[place[0]].name, place[1]) if place else None
        # Not asked beside held tasks, whose priorities are given.
        others = refused.reason == "deadline" and not self.held
        by_deadlines = others and self._fits(self._kernel(priorities=False), tasks)
        return refused_as(refused, self._known(workload, tasks), where, self.nodes, by_deadlines)

    def _fits(
        self, cpus: kernel.Placement, tasks: Sequence[Task], order: Literal["given"] | None = None
    ) -> bool:
        """Whether they were all placed."""
        try:
            self._place(cpus, tasks, order)
        except kernel.Refused:
            return False
        return True

    def _place(
        self, cpus: kernel.Placement, tasks: Sequence[Task], order: Literal["given"] | None = None
    ) -> None:
        cpus.place(
            [task.wcet_us for task in tasks],
            [task.period_us for task in tasks],
            [task.deadline_us for task in tasks],
            jitter=[task.jitter_us for task in tasks],
            priority=[level_of(task) for task in tasks],
            memory=[task.memory_mb for task in tasks],
            target=[self.number[task.node] if task.node else -1 for task in tasks],
            mask=[mask_of(task.cpus) for task in tasks],
            first=len(self.held),
            order=order,
        )

    def _hold(self, number: int, placed: Placed) -> None:
        task = placed.task
        self.cpus.admit(
            number, task.wcet_us, task.period_us, task.deadline_us, jitter=task.jitter_us,
            priority=level_of(task), memory=task.memory_mb, target=self.number[placed.node],
            mask=1 << placed.cpu,
        )  # fmt: skip

    def _placed(self, known: Sequence[Placed]) -> list[Placed]:
        found: list[Placed] = []
        for q, (k, cpu) in enumerate(self.places):
            on = self.cpus.tasks_on(q)
            responses: Sequence[int | None] = [None] * len(on)
            if self.test == "fp":
                responses = self.cpus.response_times(q)
            elif self.test == "edf":
                responses = edf_response.responses([known[number].task for number in on])
            for number, response_us in zip(on, responses, strict=True):
                slack_us = None if response_us is None else known[number].task.deadline_us - response_us
                found.append(
                    replace(
                        known[number],
                        node=self.nodes[k].name,
                        cpu=cpu,
                        response_us=response_us,
                        slack_us=slack_us,
                    )
                )
        return found


def chain_bound(workload: str, chain: Chain, placed: Sequence[Placed]) -> ChainBound:
    """Where a test gives no response, the deadline stands for it: it is kept."""
    members = {p.task.name: p for p in placed if p.workload == workload}
    on_the_way = [members[name] for name in chain.tasks]
    total_us = sum(
        p.task.period_us + (p.task.deadline_us if p.response_us is None else p.response_us)
        for p in on_the_way
    )
    return ChainBound(workload, chain, total_us)


def _check_chain(bound: ChainBound, placed: Sequence[Placed]) -> None:
    deadline_us = bound.chain.deadline_us
    if deadline_us is None or bound.bound_us <= deadline_us:
        return
    members = [p for p in placed if p.workload == bound.workload and p.task.name in bound.chain.tasks]
    worst = max(
        members, key=lambda p: (p.task.period_us + (p.response_us or p.task.deadline_us), p.task.name)
    )
    text = (
        f"chain {bound.chain.name!r} of workload {bound.workload!r} may take {bound.bound_us} us from its first "
        f"input to its last output, due at {deadline_us}: each task adds its period and its worst response. "
        f"Task {worst.task.name!r} adds most: shorten its period of {worst.task.period_us} us, or allow the "
        f"chain {bound.bound_us} us. Nothing was placed or changed"
    )
    raise MgmtError(
        "not-schedulable", text, reason="chain", workload=bound.workload, chain=bound.chain.name,
        task=worst.task.name, needed=bound.bound_us, available=deadline_us,
    )  # fmt: skip
