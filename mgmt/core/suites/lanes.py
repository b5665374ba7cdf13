"""Independent tasks: the lanes in which they wait, and which independent worker serves which.

A lane is a group and a set of tags. An independent worker has no suite, ever; a node that takes suites serves no
lane. So the tasks of one kind never reach the workers of the other.
"""

from __future__ import annotations

from collections.abc import Callable

from mgmt.core.nodes import Node, NodeState, Roster
from mgmt.core.suites import operations as op

# Among the tags of a lane whose tasks are functions, which resident workers alone can run. Nobody can give it.
FUNCTION = "=function"


class Lanes:
    """A mirror of the lanes, as of the last answer of the queue. `permits`: may a group send work to a worker."""

    def __init__(self, roster: Roster, permits: Callable[[str, str], bool]) -> None:
        self.records: dict[int, op.LaneRecord] = {}
        self.counts: dict[int, op.Counts] = {}
        self._ready: set[int] = set()
        self._roster, self._permits = roster, permits

    def adopt(self, record: op.LaneRecord) -> None:
        """Mirror a lane; one of a suite is no business of this."""
        if not record.is_suite:
            self.records[record.lane] = record
            self.follow(record.counts)

    def follow(self, counts: op.Counts) -> None:
        """The queue counted again."""
        self.counts[counts.lane] = counts
        if counts.ready:
            self._ready.add(counts.lane)
        else:
            self._ready.discard(counts.lane)

    def ready_for(self, worker: str) -> tuple[int, ...]:
        """The lanes with ready tasks that this worker serves."""
        return tuple(lane for lane in sorted(self._ready) if self.why_not(lane, worker) == "")

    def eligible(self, lane: int) -> tuple[str, ...]:
        """The workers that serve a lane and are there."""
        return tuple(
            node.name for node in self.workers() if node.peer and self.why_not(lane, node.name) == ""
        )

    def rivals(self, worker: str) -> tuple[str, ...]:
        """This worker, and those that serve any lane with pending tasks which it serves."""
        found = {worker}
        for lane, counts in self.counts.items():
            if counts.pending and self.why_not(lane, worker) == "":
                found.update(self.eligible(lane))
        return tuple(sorted(found))

    def workers(self) -> list[Node]:
        """The independent workers that are not lost, by name."""
        nodes = self._roster.nodes.values()
        there = [node for node in nodes if node.worker is not None and node.state is not NodeState.LOST]
        return sorted(there, key=lambda node: node.name)

    def why_not(self, lane: int, worker: str) -> str:
        """Why a worker does not serve a lane; empty when it does."""
        record, node = self.records[lane], self._roster.nodes.get(worker)
        if node is None or node.worker is None:
            return "it is no independent worker"
        if not self._permits(record.group, worker):
            return f"group {record.group!r} may not send work to it"
        wants = "resident" if FUNCTION in record.tags else "process"
        if node.worker["kind"] != wants:
            return f"its kind is {node.worker['kind']}, and the task needs {wants}"
        lacking = set(record.tags) - {FUNCTION} - node.tags
        return f"it has not the tags {', '.join(sorted(lacking))}" if lacking else ""
