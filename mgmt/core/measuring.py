"""What monitoring asks: the figures that were counted, and those that are taken now."""

from __future__ import annotations

from collections import Counter

from mgmt.core import effect as fx
from mgmt.core.event import Asked, Now
from mgmt.core.nodes import NodeState
from mgmt.core.state import State
from mgmt.core.suites import metrics
from mgmt.core.suites.states import Suite
from mgmt.core.supervision import LOCAL
from mgmt.core.verbs import Body, handles
from mgmt.protocol import messages_suites as msg

Gauges = Counter[tuple[str, str]]


@handles("metrics")
def _metrics(state: State, now: Now, asked: Asked, body: msg.Metrics, out: list[fx.Effect]) -> Body:
    counted = _suites(state) + _independent(state) + _nodes(state) + _candidates(now, state)
    gauges: dict[tuple[str, str], float] = {**counted, **state.desk.watch.gauges(now)}
    gauges["taken_timestamp_seconds", ""] = now.real_s
    return {"metrics": metrics.told((state.board.metrics, state.crew.pool.metrics), gauges)}


def _suites(state: State) -> Gauges:
    found: Gauges = Counter()
    at_work = {holding.suite for holding in state.board.holdings.values()}
    for entry in state.board.entries.values():
        counts = entry.counts
        found["suites", Suite(counts.state).name.lower()] += 1
        found["suites_waiting", ""] += int(bool(counts.ready) and entry.number not in at_work)
        found["queue_depth", "suites"] += counts.ready
        found["queue_tasks", "waiting"] += counts.pending - counts.ready - counts.running
        for name in ("ready", "running", "finished", "failed", "cancelled"):
            found["queue_tasks", name] += getattr(counts, name)
    found["queue_degraded", ""] = int(bool(state.board.failure))
    return found


def _candidates(now: Now, state: State) -> Gauges:
    found: Gauges = Counter()
    oldest_us = now_us = round(now.real_s * 1e6)
    for line in state.desk.lines.by_suite.values():
        for bucket, count in line.counts.items():
            found["candidates_queue_depth", bucket] += count
        oldest_us = min(oldest_us, line.queue.oldest_us() or now_us)
    found["candidates_queue_age_seconds", ""] = (now_us - oldest_us) // 1_000_000
    return found


def _independent(state: State) -> Gauges:
    found: Gauges = Counter()
    for counts in state.board.lanes.counts.values():
        found["queue_depth", "independent"] += counts.ready
        found["queue_independent_tasks", "waiting"] += counts.pending - counts.ready - counts.running
        found["queue_independent_tasks", "ready"] += counts.ready
        found["queue_independent_tasks", "running"] += counts.running
    found["workers_refusing", ""] = len(state.board.given_up)
    return found


def _nodes(state: State) -> Gauges:
    found: Gauges = Counter()
    board, known = state.board, state.roster.nodes
    for name in {LOCAL, *known}:
        node, holding = known.get(name), board.holdings.get(name)
        away = node is not None and node.state is NodeState.LOST
        phase = "offline" if away else str(holding.phase) if holding is not None else "idle"
        is_agent = node is None or node.worker is None
        found["agents" if is_agent else "workers", phase] += 1
        found["agents_missing", ""] += int(is_agent and away and node is not None and not node.cordoned)
    refusing = {node for entry in board.entries.values() if entry.is_live for node in entry.refused}
    found["agents_refusing", ""] = len(refusing)
    return found
