"""Task sets to analyse: Hypothesis strategies, plain random sets, and a scheduler that simply runs them."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

from hypothesis import strategies as st

INT64_MAX = 2**63 - 1


class TaskSet(NamedTuple):
    """Equal indices belong to one task; index 0 is the most urgent."""

    wcet: list[int]
    period: list[int]
    deadline: list[int]
    jitter: list[int] | None = None
    blocking: list[int] | None = None

    def keywords(self) -> dict[str, Any]:
        return {"jitter": self.jitter, "blocking": self.blocking}


def random_set(
    random: Random,
    *,
    tasks: int,
    load: float,
    periods: Callable[[Random], int],
    constrained: bool = False,
    jitter: bool = False,
) -> TaskSet:
    """Shares of the load as UUniFast draws them; rate monotonic order."""
    shares, left = [], load
    for i in range(tasks - 1, 0, -1):
        rest = left * random.random() ** (1 / i)
        shares.append(left - rest)
        left = rest
    shares.append(left)
    period = sorted(periods(random) for _ in range(tasks))
    wcet = [max(1, round(t * u)) for t, u in zip(period, shares, strict=True)]
    deadline = [random.randint(min(c, t), t) if constrained else t for c, t in zip(wcet, period, strict=True)]
    late = (
        [random.randint(0, max(0, d - c)) // 3 for c, d in zip(wcet, deadline, strict=True)]
        if jitter
        else None
    )
    return TaskSet(wcet, period, deadline, late)


def octave(random: Random) -> int:
    """Periods within one octave: hard for every analysis, since all tasks interfere with each other."""
    return random.randint(1000, 2000)


def decades(random: Random) -> int:
    return round(math.exp(random.uniform(math.log(100), math.log(10_000))))


def small(random: Random) -> int:
    """Divisors of 360, so that a hyperperiod can be simulated."""
    return random.choice([4, 5, 6, 8, 9, 10, 12, 15, 18, 20, 24, 30, 36, 40, 45, 60])


@st.composite
def task_sets(draw: st.DrawFn, *, most: int = 7, longest: int = 2000, arbitrary: bool = True) -> TaskSet:
    """Sets around the edge between fitting and not; times up to `longest`."""
    n = draw(st.integers(0, most))
    top = draw(st.sampled_from([t for t in (8, 30, 500, longest) if t <= longest]))
    narrow = draw(st.booleans())
    period = [draw(st.integers(max(2, top // 2) if narrow else 2, top)) for _ in range(n)]
    load = draw(st.sampled_from([0.5, 0.8, 0.9, 0.95, 1.0, 1.02]))
    weights = [draw(st.integers(1, 100)) for _ in range(n)]
    wcet = [max(1, int(t * load * w / sum(weights))) for t, w in zip(period, weights, strict=True)]
    shape = draw(
        st.sampled_from(
            ["implicit", "constrained", "arbitrary"] if arbitrary else ["implicit", "constrained"]
        )
    )
    bounds = {"implicit": (1.0, 1.0), "constrained": (0.4, 1.0), "arbitrary": (0.4, 4.0)}[shape]
    deadline = [min(INT64_MAX, max(1, int(t * draw(st.floats(*bounds))))) for t in period]
    extra = st.one_of(st.just(0), st.integers(0, max(1, top // 4)))
    jitter = [draw(extra) for _ in range(n)] if draw(st.booleans()) else None
    blocking = [draw(extra) for _ in range(n)] if draw(st.booleans()) else None
    return TaskSet(wcet, period, deadline, jitter, blocking)


class Run(NamedTuple):
    """What a simulated run saw: each task's longest response, and whether a job was late or left."""

    response: list[int]
    late: list[bool]


def simulate(tasks: TaskSet, policy: str, length: int) -> Run:
    """Unit by unit over [0, length), all first jobs arriving `jitter` before 0 and released at 0, later ones
    periodic: the worst case. Deadlines count from the arrival.
    """
    n = len(tasks.wcet)
    jitter = tasks.jitter or [0] * n
    queues: list[list[list[int]]] = [[] for _ in range(n)]  # of each task, oldest first: [arrival, work left]
    following = [-j for j in jitter]
    response, late = [0] * n, [False] * n
    for now in range(length):
        for i in range(n):
            while following[i] <= now:
                queues[i].append([following[i], tasks.wcet[i]])
                following[i] += tasks.period[i]
        waiting = [i for i in range(n) if queues[i]]
        if not waiting:
            continue
        if policy == "edf":
            chosen = min(waiting, key=lambda i: queues[i][0][0] + tasks.deadline[i])
        else:
            chosen = waiting[0]
        job = queues[chosen][0]
        job[1] -= 1
        if job[1] == 0:
            queues[chosen].pop(0)
            took = now + 1 - job[0]
            response[chosen] = max(response[chosen], took)
            late[chosen] |= took > tasks.deadline[chosen]
    for i in range(n):
        late[i] |= any(arrival + tasks.deadline[i] < length for arrival, _ in queues[i])
    return Run(response, late)
