"""THE table of figures for monitoring: their names, kinds, units and labels, as `mgmt metrics` tells them.

What is counted grows from 0 with the daemon; what is not counted is a gauge, taken when it is asked for. The alert
rules and the dashboard of `mgmt metrics --rules` and `--dashboard` speak of these names and of no others.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

PREFIX = "mgmt_"
BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

Unit = Literal["", "s"]  # a number of things, or seconds


class Family(NamedTuple):
    """`label`: its one label, whose `values` have a sample from the start; "" for none."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    label: str = ""
    values: tuple[str, ...] = ()
    unit: Unit = ""


HOOKS = ("provision", "cleanup")
PHASES = ("idle", "preparing", "executing", "cleanup", "offline")
OPEN_STATES = ("waiting", "ready", "running")
FAMILIES: dict[str, Family] = {
    "suites": Family("gauge", "Suites by state.", "state", ("open", "closed", "complete", "cancelled")),
    "suites_waiting": Family("gauge", "Suites with ready tasks that no node works on."),
    "suites_created_total": Family("counter", "Suites created."),
    "suites_ended_total": Family(
        "counter", "How often suites became complete or were cancelled.", "state", ("complete", "cancelled")
    ),
    "agents": Family("gauge", "Nodes by what they do, this machine included.", "phase", PHASES),
    "agents_missing": Family(
        "gauge", "Nodes that are lost and were not given up: none of the cordoned ones."
    ),
    "agents_refusing": Family("gauge", "Nodes that gave up a suite which still is not ended."),
    "agents_assigned_total": Family("counter", "How often a node was given a suite."),
    "workers": Family("gauge", "Independent workers by what they do.", "phase", PHASES),
    "workers_refusing": Family("gauge", "Independent workers that get no tasks until they come back."),
    "queue_depth": Family(
        "gauge",
        "Tasks that are ready to be run: of suites, or independent ones.",
        "of",
        ("suites", "independent"),
    ),
    "queue_tasks": Family(
        "gauge", "Tasks of suites by state.", "state", (*OPEN_STATES, "finished", "failed", "cancelled")
    ),
    "queue_independent_tasks": Family(
        "gauge", "Independent tasks that have not ended, by state.", "state", OPEN_STATES
    ),
    "queue_degraded": Family("gauge", "1 while the queue cannot be written."),
    "queue_write_failures_total": Family("counter", "Changes of the queue that could not be written."),
    "tasks_submitted_total": Family("counter", "Tasks submitted."),
    "tasks_claimed_total": Family("counter", "Tasks handed to nodes, repetitions included."),
    "tasks_committed_total": Family(
        "counter", "Results by what became of them.", "result", ("ok", "duplicate", "stale")
    ),
    "tasks_retried_total": Family("counter", "Results that made a task run again."),
    "task_fetch_latency_seconds": Family(
        "histogram", "From a node's request for tasks to the durable claim.", unit="s"
    ),
    "task_prefetch_total": Family(
        "counter",
        "Tasks handed to workers of all nodes: hit, before the worker had nothing to do; else miss.",
        "result",
        ("hit", "miss"),
    ),
    "env_hook_runs_total": Family("counter", "Hooks of all nodes that ended well.", "hook", HOOKS),
    "env_hook_failures_total": Family(
        "counter",
        "Hooks of all nodes that failed; background: that ended by itself.",
        "hook",
        (*HOOKS, "background"),
    ),
    "env_hook_seconds_total": Family("counter", "Time hooks took on all nodes.", "hook", HOOKS, "s"),
    "lease_expiries_total": Family("counter", "Holders of tasks that were not renewed in time."),
    "strikes_total": Family("counter", "Deaths of workers that were charged to their task."),
    "exclusions_total": Family("counter", "Tasks that a node does not get any more."),
    "dead_letters_total": Family("counter", "Tasks given up after too many attempts."),
    "taken_timestamp_seconds": Family("gauge", "When these figures were taken, in epoch seconds.", unit="s"),
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
    "candidates_queue_age_seconds": Family("gauge", "How long the oldest of these has waited.", unit="s"),
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

# What the crew of each node counts, agents and independent workers included; the daemon adds it up.
OF_CREWS = ("task_prefetch_total", "env_hook_runs_total", "env_hook_failures_total", "env_hook_seconds_total")
