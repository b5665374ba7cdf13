"""What operators ask about candidates: load, list, schedule, the queue, reset."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from heapq import heapify, heappop, heappush
from typing import Any

from mgmt.core import effect as fx
from mgmt.core.candidates import desk as desks
from mgmt.core.candidates.desk import Decided, Wanted, bucket_of, key_of
from mgmt.core.candidates.policies import Decision, Judge
from mgmt.core.candidates.records import RowError, Run, named_run, row_name
from mgmt.core.event import ADMINISTRATOR, Asked, Now
from mgmt.core.state import State
from mgmt.core.suites import operations as op
from mgmt.core.suites.candidate_rows import Changed, PutRows, Row
from mgmt.core.suites.entry import Entry
from mgmt.core.suites.specs import CANCELLED
from mgmt.core.suites.states import Task
from mgmt.core.verbs import Body, handles, refuse_while_stopping
from mgmt.protocol import frames
from mgmt.protocol import messages_candidates as msg
from mgmt.protocol.errors import MgmtError

SHOWN = 20  # of the new tasks of a pass
FAULTS = 100  # that are told


def _entry(state: State, told: str | None) -> Entry:
    """The suite that candidates run in."""
    key = told or state.settings.candidates.suite
    if key is None:
        raise MgmtError(
            "bad-body", "no suite: name one with --suite, or as `candidates.suite` in config.json"
        )
    entry = state.board.find(key)
    if entry is None:
        raise MgmtError(
            "unknown-suite", f"no suite {key!r} is known; `mgmt suite create` makes one", suite=key
        )
    return entry


def _answer(state: State, asked: Asked, result: Any, out: list[fx.Effect]) -> None:
    if isinstance(result, MgmtError):
        state.sessions.refuse(asked.route, result, out)
    else:
        state.sessions.answer(asked.route, frames.Outcome.OK, result, out)


def _faults(faults: Iterable[RowError]) -> list[dict[str, Any]]:
    return [fault.as_row() for fault in faults][:FAULTS]


@handles("candidates-load")
def _load(state: State, now: Now, asked: Asked, body: msg.CandidatesLoad, out: list[fx.Effect]) -> Body:
    refuse_while_stopping(state)
    rows, runs, faults = list[Row](), list[tuple[str, Run]](), list[RowError]()
    for i, value in enumerate(body.rows):
        try:
            if body.table == "runs":
                runs.append(named_run(i, value))
                name = runs[-1][0]
            else:
                name = row_name(body.table, i, value)
            rows.append(Row(body.table, name, frames.pack_body(value)))
        except RowError as fault:
            faults.append(fault)
    stored = len(rows)
    if runs:
        rows = state.desk.batched(now, runs, rows)

    def then(now: Now, result: Any, out: list[fx.Effect]) -> None:
        if isinstance(result, Changed):
            state.desk.forget()
            result = {"stored": stored, "faults": _faults(faults)}
        _answer(state, asked, result, out)

    state.sessions.park(now, asked, out)
    state.board.ask(PutRows(rows), then, out)
    return None


def _status(one: Decision, task: int | None) -> dict[str, Any]:
    candidate = one.candidate
    return {
        "codebase": candidate.codebase, "campaign": candidate.campaign,
        "change_set": candidate.change_set or "", "command": candidate.command, "value": candidate.value,
        "requires": list(candidate.requires), "score": one.score, "probability": one.probability,
        "duration_s": None if one.duration_us is None else one.duration_us / 1e6, "turn": one.turn,
        "held": one.held, "task": task or None,
    }  # fmt: skip


@handles("candidates-list")
def _list(state: State, now: Now, asked: Asked, body: msg.CandidatesList, out: list[fx.Effect]) -> Body:
    wanted = _wanted([body.codebase] if body.codebase else [], body.campaign)

    def judged(now: Now, judge: Any, out: list[fx.Effect]) -> None:
        if isinstance(judge, MgmtError):
            _answer(state, asked, judge, out)
            return
        tasks = {key: one.task for key, one in state.desk.queued.items()}
        work = partial(_listed, judge, desks.us(now), wanted, tasks, body.offset, body.limit)
        state.desk.compute(work, lambda now, result, out: _answer(state, asked, result, out), out)

    state.sessions.park(now, asked, out)
    state.desk.with_judge(now, body.policy or state.settings.candidates.policy, judged, out)
    return None


def _listed(
    judge: Judge, now_us: int, wanted: Wanted, tasks: dict[desks.Key, int], offset: int, limit: int
) -> dict[str, Any]:
    told = [one for one in judge.decisions(now_us) if wanted.has(one.candidate)]
    chosen = told[offset : offset + limit]
    return {
        "candidates": [_status(one, tasks.get(one.candidate.key)) for one in chosen], "total": len(told),
        "cycles": judge.cycles(), "faults": _faults(judge.faults), "warnings": sorted(judge.warnings),
    }  # fmt: skip


def _wanted(
    codebases: Iterable[str],
    campaign: str | None,
    among: Iterable[str] = (),
    limit: int | None = None,
    bucket: str = "default",
) -> Wanted:
    campaigns = frozenset([campaign]) if campaign else frozenset(among)
    return Wanted(frozenset(codebases), campaigns, limit, bucket)


@handles("candidates-schedule")
def _schedule(
    state: State, now: Now, asked: Asked, body: msg.CandidatesSchedule, out: list[fx.Effect]
) -> Body:
    refuse_while_stopping(state)
    settings = state.settings.candidates
    entry, policy = _entry(state, body.suite), body.policy or settings.policy
    if body.campaign and settings.campaigns and body.campaign not in settings.campaigns:
        text = (
            f"campaign {body.campaign!r} is not among `candidates.campaigns`: {', '.join(settings.campaigns)}"
        )
        raise MgmtError("bad-body", text)
    wanted = _wanted(body.codebases, body.campaign, settings.campaigns, body.limit, body.bucket)
    began_ns = now.mono_ns

    def decided(now: Now, found: Any, out: list[fx.Effect]) -> None:
        if isinstance(found, MgmtError) or body.dry_run:
            done(found, now, found if isinstance(found, MgmtError) else len(found.new), out)
        else:
            creator = asked.by.user or ADMINISTRATOR
            state.desk.push(now, entry, creator, found, partial(done, found), out)

    def done(found: Decided, now: Now, result: Any, out: list[fx.Effect]) -> None:
        if isinstance(result, int):
            if not body.dry_run:
                state.board.metrics.add("candidates_passes_total")
                state.board.metrics.add("candidates_pass_seconds_total", (now.mono_ns - began_ns) / 1e9)
            result = {
                "suite": entry.number, "policy": policy, "considered": found.considered, "queued": result,
                "changed": len(found.changes), "held": len(found.held),
                "first": [_status(one, None) for one, _ in found.new[:SHOWN]],
                "faults": _faults(found.judge.faults), "warnings": sorted(found.judge.warnings),
            }  # fmt: skip
        _answer(state, asked, result, out)

    state.sessions.park(now, asked, out)
    state.desk.decide(now, policy, wanted, decided, out)
    return None


@handles("candidates-queue")
def _queue(state: State, now: Now, asked: Asked, body: msg.CandidatesQueue, out: list[fx.Effect]) -> Body:
    _ask_queue(state, now, asked, body.codebase, body.campaign, body.limit, out)
    return None


@handles("candidates-next")
def _next(state: State, now: Now, asked: Asked, body: msg.CandidatesNext, out: list[fx.Effect]) -> Body:
    _ask_queue(state, now, asked, None, None, 1, out, ready_only=True)
    return None


def _ask_queue(
    state: State,
    now: Now,
    asked: Asked,
    codebase: str | None,
    campaign: str | None,
    limit: int,
    out: list[fx.Effect],
    ready_only: bool = False,
) -> None:
    states = (Task.READY,) if ready_only else (Task.READY, Task.RUNNING)
    chosen = op.TaskFilter(labels=(desks.LABEL,), states=states)

    def then(now: Now, result: Any, out: list[fx.Effect]) -> None:
        if isinstance(result, MgmtError):
            _answer(state, asked, result, out)
            return
        lanes = {task.lane for task in result.tasks}
        workers = sum(_workers(state, lane) for lane in lanes)
        known = dict(state.desk.queued)
        default_us = state.desk.default_duration_us()
        work = partial(
            _ranked, result.tasks, known, default_us, now.real_ms, workers, codebase, campaign, limit
        )
        state.desk.compute(work, lambda now, told, out: _answer(state, asked, told, out), out)

    state.sessions.park(now, asked, out)
    state.board.ask(op.ListTasks(chosen, desks.MOST_TASKS), then, out)


def _workers(state: State, lane: int) -> int:
    """That work on the suite; before anybody does, those that would."""
    entry = state.board.entries.get(lane)
    if entry is None:
        return 0
    at_work = sum(1 for holding in state.board.holdings.values() if holding.suite == lane)
    return int(entry.worker["worker_count"]) * (at_work or len(state.board.eligible(entry)))


def _ranked(
    tasks: tuple[op.TaskRecord, ...],
    known: dict[desks.Key, desks.InQueue],
    default_us: float,
    now_ms: int,
    workers: int,
    codebase: str | None,
    campaign: str | None,
    limit: int,
) -> dict[str, Any]:
    """Running ones first, then by priority and age, each on the worker that is free first."""
    order = sorted(tasks, key=lambda task: (task.state != Task.RUNNING, -task.priority, task.task))
    free_s = [0.0] * workers
    heapify(free_s)
    rows: list[dict[str, Any]] = []
    for position, task in enumerate(order, 1):
        key = key_of(task.labels) or ("", "", "")
        one = known.get(key)
        took_us = one.duration_us if one is not None and one.task == task.task else None
        lasts_s = (default_us if took_us is None else took_us) / 1e6
        eta_s = None
        if workers:
            eta_s = heappop(free_s)
            if task.state == Task.RUNNING:
                lasts_s = max(
                    0.0, lasts_s - (now_ms - task.started_ms) / 1000 if task.started_ms else lasts_s
                )
            heappush(free_s, eta_s + lasts_s)
        if (codebase in (None, key[0])) and (campaign in (None, key[1])) and len(rows) < limit:
            rows.append(
                {
                    "position": position, "task": task.task, "codebase": key[0], "campaign": key[1],
                    "change_set": key[2], "bucket": bucket_of(task.priority), "priority": task.priority,
                    "state": Task(task.state).name, "duration_s": None if took_us is None else took_us / 1e6,
                    "eta_s": eta_s,
                }
            )  # fmt: skip
    return {"queue": rows, "total": len(order), "workers": workers}


@handles("candidates-reset")
def _reset(state: State, now: Now, asked: Asked, body: msg.CandidatesReset, out: list[fx.Effect]) -> Body:
    if body.forget and (body.codebase or body.campaign):
        raise MgmtError(
            "bad-body", "all that was loaded is forgotten, or some are taken out of the queue: not both"
        )
    desk = state.desk
    tasks = tuple(
        one.task
        for key, one in desk.queued.items()
        if one.task and body.codebase in (None, key[0]) and body.campaign in (None, key[1])
    )

    def cancelled(now: Now, result: Any, out: list[fx.Effect]) -> None:
        if isinstance(result, MgmtError):
            _answer(state, asked, result, out)
            return
        count = 0 if result is None else result.count
        for task in tasks:
            state.board.on_task(task, out)
        if not body.forget:
            _answer(state, asked, {"cancelled": count, "forgotten": False}, out)
            return

        def forgotten(now: Now, result: Any, out: list[fx.Effect]) -> None:
            if isinstance(result, Changed):
                desk.forget()
                result = {"cancelled": count, "forgotten": True}
            _answer(state, asked, result, out)

        state.board.ask(PutRows((), forget=True), forgotten, out)

    state.sessions.park(now, asked, out)
    if tasks:
        state.board.ask(
            op.CancelTasks(op.TaskFilter(tasks=tasks), now.real_ms, False, CANCELLED), cancelled, out
        )
    else:
        cancelled(now, None, out)
    return None
