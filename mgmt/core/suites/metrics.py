"""Figures of task suites for monitoring: counted as it happens, under the names by which they are asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mgmt.core.event import Now
from mgmt.core.suites import operations as op
from mgmt.core.suites.states import Suite, Task

PREFIX = "mgmt_"
BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Family(NamedTuple):
    """`label`: its one label, whose `values` have a sample from the start; "" for none."""

    kind: str
    help: str
    label: str = ""
    values: tuple[str, ...] = ()


HOOKS = ("provision", "cleanup")
# THE table of what there is. What is not counted is a gauge, taken when it is asked for.
FAMILIES: dict[str, Family] = {
    "suites": Family("gauge", "Suites by state.", "state", tuple(state.name.lower() for state in Suite)),
    "suites_waiting": Family("gauge", "Suites with ready tasks that no node works on."),
    "suites_created_total": Family("counter", "Suites created."),
    "suites_ended_total": Family(
        "counter", "How often suites became complete or were cancelled.", "state", ("complete", "cancelled")
    ),
    "agents": Family(
        "gauge",
        "Nodes by what they do, this machine included.",
        "phase",
        ("idle", "preparing", "executing", "cleanup", "offline"),
    ),
    "agents_refusing": Family("gauge", "Nodes that gave up a suite which still is not ended."),
    "agents_assigned_total": Family("counter", "How often a node was given a suite."),
    "queue_depth": Family("gauge", "Tasks of suites that are ready to be run."),
    "queue_tasks": Family(
        "gauge",
        "Tasks of suites by state.",
        "state",
        ("waiting", "ready", "running", "finished", "failed", "cancelled"),
    ),
    "queue_degraded": Family("gauge", "1 while the queue cannot be written."),
    "queue_write_failures_total": Family("counter", "Changes of the queue that could not be written."),
    "tasks_submitted_total": Family("counter", "Tasks submitted."),
    "tasks_claimed_total": Family("counter", "Tasks handed to nodes, repetitions included."),
    "tasks_committed_total": Family(
        "counter", "Results by what became of them.", "result", tuple(ack.name.lower() for ack in op.Ack)
    ),
    "tasks_retried_total": Family("counter", "Results that made a task run again."),
    "task_fetch_latency_seconds": Family(
        "histogram", "From a node's request for tasks to the durable claim."
    ),
    "task_prefetch_total": Family(
        "counter",
        "Tasks handed to workers of this machine: hit, before the worker had nothing to do; else miss.",
        "result",
        ("hit", "miss"),
    ),
    "env_hook_runs_total": Family("counter", "Hooks run on this machine that ended well.", "hook", HOOKS),
    "env_hook_failures_total": Family("counter", "Hooks on this machine that failed.", "hook", HOOKS),
    "env_hook_seconds_total": Family("counter", "Time hooks took on this machine.", "hook", HOOKS),
    "lease_expiries_total": Family("counter", "Holders of tasks that were not renewed in time."),
    "strikes_total": Family("counter", "Deaths of workers that were charged to their task."),
    "exclusions_total": Family("counter", "Tasks that a node does not get any more."),
    "dead_letters_total": Family("counter", "Tasks given up after too many attempts."),
    "candidates_processed_total": Family("counter", "Candidates that passes looked at."),
    "candidates_passes_total": Family("counter", "Passes over candidates."),
    "candidates_pass_seconds_total": Family("counter", "Time passes took, from request to commit."),
    "candidates_queued_total": Family("counter", "Candidates that became tasks."),
    "candidates_queue_depth": Family(
        "gauge",
        "Candidates in the queue that do not run yet, by bucket.",
        "bucket",
        (
            "update-existing-mp",
            "manual",
            "control",
            "hook",
            "reschedule",
            "update-new-mp",
            "missing-deps",
            "default",
        ),
    ),
    "candidates_queue_age_seconds": Family("gauge", "How long the oldest of these has waited."),
    "candidates_runs_total": Family(
        "counter", "Ended runs of candidates.", "outcome", ("success", "failure", "nothing", "transient")
    ),
    "candidates_predicted_total": Family("counter", "Successes and failures whose chance was predicted."),
    "candidates_brier_sum": Family("counter", "Sum of (predicted chance - outcome) squared of these."),
    "candidates_timed_total": Family("counter", "Runs whose duration was predicted."),
    "candidates_duration_error_sum": Family("counter", "Sum of |ln(predicted / real duration)| of these."),
    "candidates_beside_predicted_total": Family(
        "counter", "Successes and failures whose chance the policy predicted that only looks on."
    ),
    "candidates_beside_brier_sum": Family("counter", "Sum of (its chance - outcome) squared of these."),
    "candidates_fallback_total": Family(
        "counter", "Candidates and passes that janitor_compat decided, as the default policy failed."
    ),
    "candidates_shadow_rank_correlation": Family(
        "gauge", "Of the orders of both policies in the latest pass; 0 without the mode shadow."
    ),
    "candidates_shadow_overlap": Family("gauge", "Share of the first 20 that both have there."),
    "candidates_accuracy": Family(
        "gauge",
        "How far predictions were off lately; 0 before there are enough of them.",
        "measure",
        ("brier", "calibration", "duration"),
    ),
    "candidates_alert": Family(
        "gauge",
        "1 while predictions are worse than they may be.",
        "measure",
        ("brier", "calibration", "duration"),
    ),
}


@dataclass(slots=True)
class Metrics:
    """What was counted, by (family, value of its label)."""

    counts: dict[tuple[str, str], float] = field(default_factory=dict)
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    fetch_s: float = 0.0
    _hook_ns: int = 0  # since when the present one runs

    def add(self, name: str, by: float = 1, of: str = "") -> None:
        self.counts[name, of] = self.counts.get((name, of), 0) + by

    # ---- hooks of the board ----

    def queued(self, result: Any) -> None:
        """The queue answered."""
        if isinstance(result, op.Exchanged):
            self.add("tasks_claimed_total", len(result.claims))
            self.add("tasks_retried_total", result.retried)
            for ack in op.Ack:
                self.add("tasks_committed_total", result.acks.count(ack), ack.name.lower())
        elif isinstance(result, op.Submitted):
            self.add("tasks_submitted_total", 0 if result.known else result.count)
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

    # ---- hooks of the crew ----

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
