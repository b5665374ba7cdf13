"""The picture of a schedule agrees with the proof of it: nobody answers later than was proven."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product
from math import lcm

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mgmt.core.schedule import generator
from mgmt.core.schedule.admission import Placed, Test, place
from mgmt.core.schedule.edf_response import responses
from mgmt.core.schedule.timeline import Lane, timeline
from mgmt.core.schedule.workload import Node, Policy, Task, Workload
from mgmt.kernel import reference
from mgmt.protocol.errors import MgmtError


def on_cpu(*tasks: Task, bound: Test = "fp") -> list[Placed]:
    return [Placed("w", task, "n", 0, None, None, bound) for task in tasks]


def spans(lane: Lane, task: int) -> list[tuple[int, int]]:
    return [(s.start_us, s.end_us) for s in lane.segments if s.task == task]


def check(lane: Lane, length_us: int) -> None:
    """One task at a time, each job for its WCET and not before its release; no idling over waiting work."""
    for before, after in pairwise(lane.segments):
        assert before.end_us <= after.start_us
    served: dict[tuple[int, int], int] = {}
    for segment in lane.segments:
        assert 0 <= segment.start_us < segment.end_us <= length_us
        key = segment.task, segment.job
        served[key] = served.get(key, 0) + segment.end_us - segment.start_us
    for job in lane.jobs:
        task = lane.tasks[job.task].task
        assert job.release_us == task.release_us + job.job * task.period_us
        assert job.due_us == job.release_us + task.deadline_us
        done = served.get((job.task, job.job), 0)
        assert done == task.wcet_us if job.end_us is not None else done < task.wcet_us
        own = [s for s in lane.segments if (s.task, s.job) == (job.task, job.job)]
        assert all(s.start_us >= job.release_us for s in own)


def test_fixed_priorities_preempt() -> None:
    line = timeline(on_cpu(Task("low", 20, 9, 20, 10), Task("high", 10, 3, 10, 90)))
    (lane,) = line.lanes
    assert [p.task.name for p in lane.tasks] == ["high", "low"]
    assert spans(lane, 0) == [(0, 3), (10, 13)]
    assert spans(lane, 1) == [(3, 10), (13, 15)]
    assert (line.length_us, line.truncated) == (20, False)


def test_earliest_deadline_goes_first() -> None:
    tasks = on_cpu(
        Task("a", 20, 9, 20, policy="deadline"), Task("b", 10, 3, 6, policy="deadline"), bound="edf"
    )
    (lane,) = timeline(tasks).lanes
    assert [p.task.name for p in lane.tasks] == ["b", "a"]
    assert spans(lane, 0) == [(0, 3), (10, 13)]
    assert spans(lane, 1) == [(3, 10), (13, 15)]


def test_normal_tasks_come_last() -> None:
    (lane,) = timeline(on_cpu(Task("n", 10, 2, 10, 99, "normal"), Task("f", 10, 2, 10, 1))).lanes
    assert [p.task.name for p in lane.tasks] == ["f", "n"]


def test_releases_may_be_later_than_the_start() -> None:
    (lane,) = timeline(on_cpu(Task("a", 10, 2, 10, 1, release_us=4))).lanes
    assert spans(lane, 0) == [(4, 6)]


def test_a_late_job_is_seen() -> None:
    (lane,) = timeline(on_cpu(Task("a", 10, 5, 10, 2), Task("b", 10, 2, 4, 1))).lanes
    assert [job.late for job in lane.jobs] == [False, True]


def test_a_picture_ends_where_it_is_told_and_says_so() -> None:
    tasks = on_cpu(Task("a", 1000, 10, 1000, 2), Task("b", 999, 10, 999, 1))
    line = timeline(tasks, until_us=5000)
    assert (line.length_us, line.hyperperiod_us, line.truncated) == (5000, 999_000, True)
    assert timeline(tasks, max_jobs=100).length_us < 999_000
    assert sum(len(lane.jobs) for lane in timeline(tasks, max_jobs=100).lanes) <= 102


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_no_job_answers_later_than_was_proven(seed: int, dynamic: bool) -> None:
    workload = generator.workload(seed, tasks=8, load_ppm=600_000)
    policy: Policy = "deadline" if dynamic else "fifo"
    workload = replace(workload, tasks=tuple(replace(task, policy=policy) for task in workload.tasks))
    try:
        schedule = place(workload, workload.nodes)
    except MgmtError:
        assume(False)
    line = timeline(schedule.placed)
    for lane in line.lanes:
        check(lane, line.length_us)
        for job in lane.jobs:
            proven_us = lane.tasks[job.task].response_us
            assert proven_us is not None
            assert job.end_us is not None, "a whole hyperperiod ends with nothing left to do"
            assert job.end_us - job.release_us <= proven_us
        if not dynamic:  # the common start is the worst one under fixed priorities
            for i, placed in enumerate(lane.tasks):
                ends = [j.end_us - j.release_us for j in lane.jobs if j.task == i and j.end_us is not None]
                level = [p for p in lane.tasks if p is not placed and p.task.priority == placed.task.priority]
                assert level or max(ends) == placed.response_us


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.integers(2, 7).flatmap(
            lambda period: st.tuples(st.integers(1, max(period // 2, 1)), st.just(period)).flatmap(
                lambda pair: st.tuples(st.just(pair[0]), st.just(pair[1]), st.integers(pair[0], pair[1]))
            )
        ),
        min_size=2,
        max_size=3,
    )
)
def test_responses_under_edf_bound_those_of_every_start(rows: list[tuple[int, int, int]]) -> None:
    """All starts of small sets, and both ways a tie between two deadlines may go."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    assume(reference.edf_schedulable(*columns))
    tasks = [Task(f"t{i}", t, c, d, policy="deadline") for i, (c, t, d) in enumerate(rows)]
    worst = [0] * len(tasks)
    length = 2 * lcm(*(task.period_us for task in tasks)) + max(task.period_us for task in tasks)
    for starts in product(*(range(task.period_us) for task in tasks)):
        for order in (tasks, tasks[::-1]):
            moved = [replace(task, release_us=starts[tasks.index(task)]) for task in order]
            # The name breaks ties, so both orders of names are tried.
            moved = [replace(task, name=f"{k}{task.name}") for k, task in enumerate(moved)]
            (lane,) = _lanes(moved, length)
            for job in lane.jobs:
                if job.end_us is not None:
                    assert not job.late
                    i = int(lane.tasks[job.task].task.name[2:])
                    worst[i] = max(worst[i], job.end_us - job.release_us)
    bounds = responses(tasks)
    for bound, seen, task in zip(bounds, worst, tasks, strict=True):
        assert bound is not None
        assert seen <= bound <= task.deadline_us


def _lanes(tasks: list[Task], length_us: int) -> tuple[Lane, ...]:
    # An idle task makes the hyperperiod, and with it the picture, as long as it has to be.
    placed = on_cpu(*tasks, bound="edf")
    idle = Placed("w", Task("idle", length_us, 1, length_us), "other", 0, None, None, "edf")
    return tuple(lane for lane in timeline([*placed, idle], length_us).lanes if lane.node == "n")


def test_responses_under_edf_are_reached() -> None:
    """The first one is worst in a start that is not the common one."""
    tasks = [Task("a", 6, 2, 4, policy="deadline"), Task("b", 8, 4, 7, policy="deadline")]
    assert reference.edf_schedulable([2, 4], [6, 8], [4, 7])
    worst = {"a": 0, "b": 0}
    for starts in product(range(6), range(8)):
        moved = [replace(task, release_us=start) for task, start in zip(tasks, starts, strict=True)]
        (lane,) = _lanes(moved, 60)
        for job in lane.jobs:
            if job.end_us is not None:
                name = lane.tasks[job.task].task.name
                worst[name] = max(worst[name], job.end_us - job.release_us)
    assert responses(tasks) == list(worst.values())


def test_responses_are_not_sought_for_ever() -> None:
    tasks = [Task(f"t{i}", 9_999 + i, 999, 9_000 + i, policy="deadline") for i in range(10)]
    assert None not in responses(tasks)
    assert responses(tasks, work=100) == [None] * 10


def test_two_nodes_are_two_lanes_in_order_of_name() -> None:
    nodes = (Node("b", (3,)), Node("a", (5, 4)))
    tasks = tuple(Task(f"t{i}", 10_000, 6000, 10_000, 1) for i in range(3))
    schedule = place(Workload("w", tasks), nodes)
    line = timeline(schedule.placed)
    assert [(lane.node, lane.cpu) for lane in line.lanes] == [("a", 4), ("a", 5), ("b", 3)]
