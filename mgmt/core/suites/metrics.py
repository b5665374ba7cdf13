"""Figures of task suites for monitoring: counted as it happens, under the names by which they are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mgmt.core.event import Now
from mgmt.core.suites import operations as op
from mgmt.core.suites.states import Suite, Task
from mgmt.protocol.figures import BUCKETS_S, FAMILIES, OF_CREWS, PREFIX

# By family, then by the value of its label: what a crew has counted since its agent was started.
Counted = dict[str, dict[str, float]]


@dataclass(slots=True)
class Metrics:
    """What was counted, by (family, value of its label)."""

    counts: dict[tuple[str, str], float] = field(default_factory=dict)
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    fetch_s: float = 0.0
    _hook_ns: int = 0  # since when the present one runs
    # By node: which run of its agent, and what that had counted when it was last heard; None: not heard yet, and
    # what it counts before that is of a former life of this daemon.
    _lives: dict[str, tuple[int, Counted | None]] = field(default_factory=dict)

    def add(self, name: str, by: float = 1, of: str = "") -> None:
        self.counts[name, of] = self.counts.get((name, of), 0) + by

    # ---- hooks of the board ----

    def queued(self, result: Any) -> None:
        """The queue answered."""
        if isinstance(result, op.Exchanged):
            if result.repeated:
                return  # counted when it was done
            if result.claims:
                self.add("tasks_claimed_total", len(result.claims))
            if result.retried:
                self.add("tasks_retried_total", result.retried)
            for ack, count in Counter(result.acks).items():
                self.add("tasks_committed_total", count, ack.name.lower())
        elif isinstance(result, op.Submitted):
            self.add("tasks_submitted_total", 0 if result.known else result.count)
            if result.claims:
                self.add("tasks_claimed_total", len(result.claims))
        elif isinstance(result, op.Struck):
            self.add("strikes_total")
            self.add("exclusions_total", int(result.excluded))
            self.add("dead_letters_total", int(result.state == Task.FAILED))
        elif isinstance(result, op.Swept):
            self.add("lease_expiries_total", len(result.expired))

    def moved(self, was: op.Counts, now: op.Counts) -> None:
        """The counters of a suite are others now."""
        if was.state != now.state and now.state in (Suite.COMPLETE, Suite.CANCELLED):
            self.add("suites_ended_total", of=Suite(now.state).name.lower())

    def fetched(self, took_s: float) -> None:
        """A claim is durable."""
        self.fetch_s += took_s
        self.buckets[next((i for i, edge_s in enumerate(BUCKETS_S) if took_s <= edge_s), -1)] += 1

    # ---- what other nodes count ----

    def joined(self, node: str, life: int, is_fresh: bool) -> None:
        """`life`: the run of its agent; `is_fresh`: no daemon has ever heard what that counted."""
        if self._lives.get(node, (None,))[0] != life:
            self._lives[node] = life, {} if is_fresh else None

    def follow(self, node: str, counted: Counted) -> None:
        """Add what a node counted since it was last heard. What this daemon does not know is left out."""
        life, known = self._lives[node]
        self._lives[node] = life, counted
        if known is None:
            return
        for name in OF_CREWS:
            for of in FAMILIES[name].values:
                more = counted.get(name, {}).get(of, 0) - known.get(name, {}).get(of, 0)
                if more > 0:
                    self.add(name, more, of)

    def forget(self, node: str) -> None:
        """It will not come back."""
        self._lives.pop(node, None)

    # ---- hooks of the crew ----

    def counted(self) -> Counted:
        """What a crew tells its daemon."""
        found: Counted = {}
        for (name, of), count in self.counts.items():
            found.setdefault(name, {})[of] = count
        return found

    def fed(self, idle: bool) -> None:
        """A worker gets a task."""
        self.add("task_prefetch_total", of="miss" if idle else "hit")

    def hook_began(self, now: Now) -> None:
        self._hook_ns = now.mono_ns

    def hook_ended(self, now: Now, which: str, well: bool) -> None:
        """Counted once for each that began in this life of the daemon."""
        if self._hook_ns:
            self.add("env_hook_seconds_total", (now.mono_ns - self._hook_ns) / 1e9, which)
            self.add("env_hook_runs_total" if well else "env_hook_failures_total", of=which)
            self._hook_ns = 0


def told(counted: Iterable[Metrics], gauges: dict[tuple[str, str], float]) -> list[dict[str, Any]]:
    """The metrics of a MetricsReply, every family with all its labels' values."""
    values = dict(gauges)
    buckets, fetch_s = [0] * (len(BUCKETS_S) + 1), 0.0
    for metrics in counted:
        for key, count in metrics.counts.items():
            values[key] = values.get(key, 0) + count
        buckets = [a + b for a, b in zip(buckets, metrics.buckets, strict=True)]
        fetch_s += metrics.fetch_s
    found = []
    for name, family in FAMILIES.items():
        full = PREFIX + name
        if family.kind == "histogram":
            samples = _histogram(full, buckets, fetch_s)
        else:
            samples = [
                {
                    "name": full,
                    "labels": {family.label: value} if value else {},
                    "value": float(values.get((name, value), 0)),
                }
                for value in family.values or ("",)
            ]
        found.append({"name": full, "kind": family.kind, "help": family.help, "samples": samples})
    return found


def _histogram(name: str, buckets: list[int], sum_s: float) -> list[dict[str, Any]]:
    samples: list[dict[str, Any]] = []
    so_far = 0
    for edge, count in zip([*map(str, BUCKETS_S), "+Inf"], buckets, strict=True):
        so_far += count
        samples.append({"name": f"{name}_bucket", "labels": {"le": edge}, "value": float(so_far)})
    samples.append({"name": f"{name}_sum", "labels": {}, "value": sum_s})
    samples.append({"name": f"{name}_count", "labels": {}, "value": float(so_far)})
    return samples
