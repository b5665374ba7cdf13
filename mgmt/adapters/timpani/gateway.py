"""The gateway: the services of the family around one plan, and its life from the first port to the last fault."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc
import grpc.aio

from mgmt.client import AsyncClient
from mgmt.core.schedule import compat as rules
from mgmt.protocol import defaults
from mgmt.protocol.errors import MgmtError

from . import rpc
from .barrier import Barrier, Missing, NotAwaited, Replaced
from .compat import Compat
from .faults import CAPACITY, DEADLINE_S, Fault, Queue, Unsent
from .messages import DMISS, STATUS_FAILED, STATUS_OK
from .plan import Plan, Slot
from .strict import Strict

log = logging.getLogger(__name__)

REASON_BYTES = 4000  # of a refusal in the trailing metadata, of which gRPC takes 8 KiB in all
STOP_S = 5.0  # for the faults that still wait at the end


@dataclass(frozen=True)
class Options:
    """What the gateway is told. Ports of 0 are chosen by the system. `nodes`: parsed documents (strict),
    `compat_nodes`: as the ancestor reads its file. `start_file`: where the common start is remembered, for the
    next gateway; None: nowhere.
    """

    endpoint: str
    mode: str
    address: str
    submit_port: int
    node_port: int
    sink: str
    sync_timeout_s: float
    nodes: Sequence[Any] = ()
    compat_nodes: Sequence[rules.Node] = ()
    start_file: Path | None = None


class Source(Protocol):
    """Where plans come from: Strict or Compat."""

    def canonical(self, node: str) -> str: ...
    async def submit(self, info: Any, timeout_s: float | None) -> None: ...
    async def start(self) -> None: ...
    async def run(self) -> None: ...


class Gateway:
    """The handlers of the family's services."""

    def __init__(self, options: Options, notify: Callable[[Fault], Any]) -> None:
        self.plan = Plan()
        self.barrier = Barrier(options.sync_timeout_s)
        self.faults = Queue(notify)
        self.told: Queue | None = None  # misses on their way to the daemon
        self.source: Source
        self._start_file = options.start_file
        self._misses: Counter[Slot] = Counter()
        self._number = 0

    def changed(self, plan: Plan) -> None:
        """A new plan is a new generation, unless it is the same."""
        if plan == self.plan:
            return
        self.plan = plan
        self._misses.clear()
        lengths = {name: node.hyperperiod_us for name, node in plan.nodes.items()}
        self.barrier.renew(lengths, _remembered(self._start_file, plan))
        told = ", ".join(f"{name}: {len(node.slots)} tasks" for name, node in plan.nodes.items())
        log.info("in force: %s", told or "nothing")

    # ---- SchedInfoService ----

    async def add_sched_info(self, info: Any, context: Any) -> Any:
        """Always answered with gRPC's OK; why it was refused is in the log and in the trailing metadata."""
        try:
            await self.source.submit(info, context.time_remaining())
        except MgmtError as error:
            log.warning(
                "refused workload %r of %s: %s: %s", info.workload_id, context.peer(), error.code, error
            )
            reason = error.text.encode("utf-8", "replace")[:REASON_BYTES]
            context.set_trailing_metadata((("mgmt-code", error.code), ("mgmt-reason-bin", reason)))
            return rpc.message("Response", status=STATUS_FAILED)
        log.info("workload %r of %s: %d tasks", info.workload_id, context.peer(), len(info.tasks))
        return rpc.message("Response", status=STATUS_OK)

    # ---- NodeService ----

    async def get_sched_info(self, request: Any, context: Any) -> Any:
        """The node's tasks; none of a node that has none. NOT_FOUND while no workload is in force."""
        plan = self.plan
        if not plan.nodes:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no workload is in force; try again later")
        node = plan.nodes.get(self.source.canonical(request.node_id))
        if node is None:
            return rpc.message("NodeSchedResponse")
        if node.problem:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, node.problem)
        tasks = [
            rpc.message(
                "ScheduledTask", name=slot.name, sched_priority=slot.priority, sched_policy=slot.policy,
                period_us=slot.period_us, release_time_us=slot.release_us, runtime_us=slot.runtime_us,
                deadline_us=slot.deadline_us, cpu_affinity=slot.mask, max_dmiss=slot.max_dmiss,
                assigned_node=request.node_id,
            )
            for slot in node.slots
        ]  # fmt: skip
        return rpc.message(
            "NodeSchedResponse",
            workload_id=node.workload_id,
            hyperperiod_us=node.hyperperiod_us,
            tasks=tasks,
        )

    async def sync_timer(self, request: Any, context: Any) -> Any:
        """The start instant, when all nodes of the generation have come."""
        name, code = self.source.canonical(request.node_id), grpc.StatusCode
        plan, started = self.plan, self.barrier.start_ns is not None
        try:
            start_ns = await self.barrier.join(name)
        except NotAwaited:
            known = ", ".join(sorted(plan.nodes)[:8]) or "none"
            text = f"node {request.node_id!r} has no tasks in force; nodes with tasks: {known}"
            await context.abort(code.NOT_FOUND, text)
        except Replaced:
            await context.abort(
                code.ABORTED, "the schedule changed meanwhile: fetch it again, then synchronise"
            )
        except Missing as error:
            missing = ", ".join(error.args[:8])
            log.warning("node %r waited in vain for the common start; missing: %s", request.node_id, missing)
            await context.abort(code.DEADLINE_EXCEEDED, f"not all nodes came in time; missing: {missing}")
        if not started and plan is self.plan:
            _remember(self._start_file, plan, self.barrier.start_ns)
        log.info("node %r starts at %d ns%s", request.node_id, start_ns, ", late" if started else "")
        seconds, rest_ns = divmod(start_ns, 1_000_000_000)
        return rpc.message("SyncResponse", ack=True, start_time_sec=seconds, start_time_nsec=rest_ns)

    async def report_dmiss(self, miss: Any, context: Any) -> Any:
        """Queue the miss and answer at once, whatever the sink does."""
        for field in ("node_id", "task_name"):
            value = getattr(miss, field)
            if not 0 < len(value) <= defaults.MAX_NAME_CHARS:
                text = f"{field} has {len(value)} characters: 1 to {defaults.MAX_NAME_CHARS} are taken"
                return rpc.message("NodeResponse", status=STATUS_FAILED, error_message=text)
        node = self.plan.nodes.get(self.source.canonical(miss.node_id))
        slots = node.named(miss.task_name) if node else ()
        cpu, misses = -1, 0
        if len(slots) == 1:
            self._misses[slots[0]] += 1
            cpu, misses = slots[0].cpu, self._misses[slots[0]]
        # A task that was replaced a moment ago is not known any more; its miss is told all the same.
        workload = ",".join(dict.fromkeys(slot.workload for slot in slots)) or (
            node.workload_id if node else ""
        )
        fault = Fault(self._number + 1, workload, miss.node_id, miss.task_name, time.time_ns(), cpu, misses)
        if not self.faults.put(fault):
            text = f"{self.faults.waiting} faults wait for the sink, and more are not taken: report it again later"
            return rpc.message("NodeResponse", status=STATUS_FAILED, error_message=text)
        self._number += 1
        if self.told is not None and not self.told.put(fault):
            log.error(
                "%d misses wait for the daemon: that of %r is told to the sink only", CAPACITY, fault.task
            )
        return rpc.message("NodeResponse", status=STATUS_OK)

    def missed(self, event: dict[str, Any]) -> None:
        """A miss on one of the daemon's own nodes goes to the sink like those of the family's."""
        self._number += 1
        where = event["workload"], event["node"], event["task"]
        fault = Fault(self._number, *where, round(event["at"] * 1e9), -1, event["misses"], event["count"])
        if not self.faults.put(fault):
            log.error("%d faults wait for the sink: a miss of %r is an event only", CAPACITY, fault.task)


def notifier(channel: Any, session: str) -> Callable[[Fault], Any]:
    """Calls FaultService. What its message has no field for goes as metadata: `mgmt-fault-id` (of this gateway,
    the same in a repetition), `-cpu`, `-misses`, `-time-ns`.
    """
    notify_fault = rpc.call(channel, "FaultService", "NotifyFault")

    async def notify(fault: Fault) -> None:
        info = rpc.message(
            "FaultInfo", workload_id=fault.workload, node_id=fault.node, task_name=fault.task, type=DMISS
        )
        metadata = [
            ("mgmt-fault-id", f"{session}-{fault.number}"),
            ("mgmt-fault-time-ns", str(fault.time_ns)),
        ]
        metadata += [("mgmt-fault-cpu", str(fault.cpu))] if fault.cpu >= 0 else []
        metadata += [("mgmt-fault-misses", str(fault.misses))] if fault.misses else []
        metadata += [("mgmt-fault-count", str(fault.together))] if fault.together > 1 else []
        try:
            answer = await notify_fault(info, timeout=DEADLINE_S, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise Unsent(f"{error.code().name}: {error.details()}") from None
        if answer.status != STATUS_OK:
            log.warning(
                "the sink refused the miss of task %r on %r: status %d", fault.task, fault.node, answer.status
            )

    return notify


async def serve(options: Options, ready: Callable[[dict[str, Any]], None]) -> None:
    """Run until SIGTERM or SIGINT. `ready` is called with the ports when every one is open.

    MgmtError: a port is taken, a node file is wrong, or no daemon answers.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with rpc.channel(options.sink) as sink:
        session = f"{time.time_ns():x}"
        gateway = Gateway(options, notifier(sink, session))
        client = AsyncClient(options.endpoint, name="timpani-gateway")
        try:
            if options.mode == "compat":
                gateway.source = Compat(options.compat_nodes, gateway.changed)
            else:
                strict = Strict(client, options.nodes, gateway.changed, gateway.missed)
                gateway.source = strict
                gateway.told = Queue(lambda fault: strict.report(fault, f"{session}-{fault.number}"))
            await gateway.source.start()
            await _serve(gateway, options, ready, stop)
        finally:
            await client.close()


async def _serve(
    gateway: Gateway, options: Options, ready: Callable[[dict[str, Any]], None], stop: asyncio.Event
) -> None:
    submitters = rpc.server("SchedInfoService", {"AddSchedInfo": gateway.add_sched_info})
    nodes = rpc.server(
        "NodeService",
        {
            "GetSchedInfo": gateway.get_sched_info,
            "SyncTimer": gateway.sync_timer,
            "ReportDMiss": gateway.report_dmiss,
        },
    )
    submit_port = rpc.bind(submitters, options.address, options.submit_port, "--schedinfo-port")
    node_port = rpc.bind(nodes, options.address, options.node_port, "--node-port")
    queues = [gateway.faults, *([gateway.told] if gateway.told is not None else [])]
    tasks = [asyncio.ensure_future(work) for work in (gateway.source.run(), *(one.run() for one in queues))]
    await submitters.start()
    await nodes.start()
    try:
        ready(
            {
                "pid": os.getpid(),
                "mode": options.mode,
                "address": options.address,
                "schedinfo_port": submit_port,
                "node_port": node_port,
                "sink": options.sink,
            }
        )
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        for task in tasks:
            if task.done():
                task.result()  # none ends by itself but by a fault of ours
    finally:
        await submitters.stop(grace=1.0)
        gateway.barrier.renew({})  # whoever waits is told to try again
        await nodes.stop(grace=1.0)
        left = await gateway.faults.drained(STOP_S)
        if left:
            log.error("%d faults were not told: the sink at %s does not answer", left, options.sink)
        if gateway.told is not None and (left := await gateway.told.drained(0.5)):
            log.error("%d misses were not told to the daemon", left)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _remembered(path: Path | None, plan: Plan) -> int | None:
    """The common start of the very same generation, when a former gateway saw it."""
    if path is None or not plan.nodes:
        return None
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    start_ns = record.get("start_ns") if isinstance(record, dict) else None
    same = isinstance(start_ns, int) and record.get("plan") == plan.fingerprint
    return start_ns if same else None


def _remember(path: Path | None, plan: Plan, start_ns: int | None) -> None:
    if path is None or start_ns is None:
        return
    beside = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        beside.write_text(json.dumps({"plan": plan.fingerprint, "start_ns": start_ns}))
        beside.replace(path)
    except OSError as error:
        log.warning(
            "%s: %s: a gateway started after this one will wait for all nodes again", path, error.strerror
        )
