"""What operators ask about candidates: load, list, schedule, explain, the queue, reset."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

from mgmt.core import effect as fx
from mgmt.core.candidates.desk import Passed
from mgmt.core.candidates.eta import Start, starts
from mgmt.core.candidates.line import Line, Queued
from mgmt.core.candidates.lines import us
from mgmt.core.candidates.passes import Decided, Scene, Wanted
from mgmt.core.candidates.policies import Decision, Judge
from mgmt.core.candidates.records import RowError, Run, named_run, row_name
from mgmt.core.candidates.scoring import CandidateScore
from mgmt.core.candidates.sums import Key
from mgmt.core.event import ADMINISTRATOR, Asked, Now
from mgmt.core.state import State
from mgmt.core.suites import operations as op
from mgmt.core.suites.candidate_rows import Changed, PutRows, Row
from mgmt.core.suites.specs import CANCELLED
from mgmt.core.verbs import Body, handles, refuse_while_stopping
from mgmt.protocol import frames
from mgmt.protocol import messages_candidates as msg
from mgmt.protocol.errors import MgmtError

SHOWN = 20  # of the new tasks of a pass
FAULTS = 100  # that are told
COMPAT = "janitor_compat"
DEPTH = 5000  # how much of a line is worked off to say when who starts


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
            state.automatic.on_loaded(now, out)
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
        queued = state.desk.lines.by_key
        work = partial(_listed, judge, us(now), wanted, queued, body.offset, body.limit)
        state.desk.beside.compute(work, lambda now, result, out: _answer(state, asked, result, out), out)

    state.sessions.park(now, asked, out)
    state.desk.with_judge(now, body.policy or state.settings.candidates.policy, judged, out)
    return None


def _listed(
    judge: Judge, now_us: int, wanted: Wanted, queued: dict[Key, Queued], offset: int, limit: int
) -> dict[str, Any]:
    told = [one for one in judge.decisions(now_us) if wanted.has(one.candidate)]
    chosen = [(one, queued.get(one.candidate.key)) for one in told[offset : offset + limit]]
    return {
        "candidates": [_status(one, known.task if known is not None else None) for one, known in chosen],
        "total": len(told), "cycles": judge.cycles(), "faults": _faults(judge.faults),
        "warnings": sorted(judge.warnings),
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
    entry, policy = state.candidates_suite(body.suite), body.policy or settings.policy
    if body.campaign and settings.campaigns and body.campaign not in settings.campaigns:
        text = (
            f"campaign {body.campaign!r} is not among `candidates.campaigns`: {', '.join(settings.campaigns)}"
        )
        raise MgmtError("bad-body", text)
    wanted = _wanted(body.codebases, body.campaign, settings.campaigns, body.limit, body.bucket)

    def done(now: Now, result: Any, out: list[fx.Effect]) -> None:
        if isinstance(result, Decided):
            result = Passed(result, len(result.new), len(result.changes))
        if isinstance(result, Passed):
            found = result.found
            result = {
                "suite": entry.number, "policy": policy, "considered": found.considered,
                "queued": result.queued, "changed": result.changed, "held": found.held,
                "first": [_status(one.decision, None) for one in found.new[:SHOWN]],
                "faults": _faults(found.judge.faults), "warnings": sorted(found.judge.warnings),
            }  # fmt: skip
        _answer(state, asked, result, out)

    state.sessions.park(now, asked, out)
    if body.dry_run:
        state.desk.decide(now, policy, wanted, done, out)
    else:
        state.desk.pass_over(now, entry, asked.by.user or ADMINISTRATOR, policy, wanted, done, out)
    return None


# ---- the queue -------------------------------------------------------------------------------------------


@handles("candidates-queue")
def _queue(state: State, now: Now, asked: Asked, body: msg.CandidatesQueue, out: list[fx.Effect]) -> Body:
    lines = state.desk.lines
    now_us, default_s = us(now), state.desk.rules().settings.default_duration_s
    workers = {suite: _workers(state, suite) for suite in lines.by_suite}
    most = DEPTH if body.codebase or body.campaign else body.limit
    # What runs, and the first that wait, in order: copies, as the lines change meanwhile.
    copies = [
        (list(line.running.values()), line.waiting(now_us, most), workers[suite])
        for suite, line in lines.by_suite.items()
        if line.all
    ]
    deep = lines.by_key.get((body.codebase or "", body.campaign or "", ""))
    place = 0 if deep is None else lines.line(deep.lane).position(deep, now_us)
    if deep is not None and place > DEPTH:
        line = lines.line(deep.lane)
        chosen = list(line.running.values()), line.waiting(now_us, DEPTH), workers[deep.lane]
        work = partial(_far, chosen, deep, place, len(lines.by_key), now.mono_ns, default_s)
    else:
        work = partial(
            _shown,
            copies,
            len(lines.by_key),
            body.codebase,
            body.campaign,
            body.limit,
            now.mono_ns,
            default_s,
        )
    state.sessions.park(now, asked, out)
    state.desk.beside.compute(work, lambda now, result, out: _answer(state, asked, result, out), out)
    return None


def _far(
    line: tuple[list[Queued], list[Queued], int],
    one: Queued,
    position: int,
    total: int,
    now_ns: int,
    default_s: float,
) -> dict[str, Any]:
    """One beyond DEPTH: it goes on as it does up to there."""
    *_, (_, start) = _starts(*line, now_ns, default_s)
    if start is not None:
        times = position / (len(line[0]) + len(line[1]))
        # What is late in one part is made up for in another: the spread grows with the root.
        spread_s = (start.late_s - start.median_s) * math.sqrt(times)
        start = Start(start.median_s * times, start.median_s * times + spread_s)
    return {"queue": [_row(one, position, start)], "total": total, "workers": line[2]}


def _shown(
    copies: list[tuple[list[Queued], list[Queued], int]],
    total: int,
    codebase: str | None,
    campaign: str | None,
    limit: int,
    now_ns: int,
    default_s: float,
) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for running, waiting, workers in copies:
        for position, (one, start) in enumerate(_starts(running, waiting, workers, now_ns, default_s), 1):
            if len(rows) == limit:
                break
            if codebase in (None, one.key[0]) and campaign in (None, one.key[1]):
                rows.append(_row(one, position, start))
    return {
        "queue": rows, "total": total,
        "workers": sum(workers for _, _, workers in copies),
    }  # fmt: skip


def _starts(
    running: list[Queued], waiting: list[Queued], workers: int, now_ns: int, default_s: float
) -> Iterable[tuple[Queued, Start | None]]:
    """Those that run, then those that wait, with when they start."""
    busy = [_left(one, now_ns, default_s) for one in running]
    for one in running:
        yield one, Start(0.0, 0.0)
    busy += [(0.0, 0.0)] * (workers - len(busy))
    if busy:
        yield from zip(waiting, starts((_lasts(one, default_s) for one in waiting), busy), strict=False)
    else:
        yield from ((one, None) for one in waiting)


def _lasts(one: Queued, default_s: float) -> tuple[float, float]:
    """Median and 90 % of its duration, in seconds."""
    median_s = default_s if one.duration_us is None else one.duration_us / 1e6
    return median_s, max(median_s, (one.late_us or 0.0) / 1e6)


def _left(one: Queued, now_ns: int, default_s: float) -> tuple[float, float]:
    since_s = (now_ns - one.claimed_ns) / 1e9
    median_s, late_s = _lasts(one, default_s)
    return max(0.0, median_s - since_s), max(0.0, late_s - since_s)


def _row(one: Queued, position: int, start: Start | None) -> dict[str, Any]:
    return {
        "position": position, "suite": one.lane, "task": one.task, "codebase": one.key[0],
        "campaign": one.key[1], "change_set": one.key[2], "bucket": one.item.bucket,
        "priority": one.priority, "state": _state(one),
        "duration_s": None if one.duration_us is None else one.duration_us / 1e6,
        "eta_s": None if start is None else start.median_s, "late_s": None if start is None else start.late_s,
    }  # fmt: skip


def _state(one: Queued) -> str:
    return "RUNNING" if one.claimed_ns else "READY"


def _workers(state: State, suite: int) -> int:
    """That work on the suite; before anybody does, those that would."""
    entry = state.board.entries.get(suite)
    if entry is None:
        return 0
    at_work = sum(1 for holding in state.board.holdings.values() if holding.suite == suite)
    return int(entry.worker["worker_count"]) * (at_work or len(state.board.eligible(entry)))


@handles("candidates-next")
def _next(state: State, now: Now, asked: Asked, body: msg.CandidatesNext, out: list[fx.Effect]) -> Body:
    desk = state.desk
    rows, all_workers = [], 0
    default_s = desk.rules().settings.default_duration_s
    for suite, line in desk.lines.by_suite.items():
        item = line.queue.next(us(now))
        if item is not None:
            workers = _workers(state, suite)
            running, one = list(line.running.values()), line.all[item.key]
            *_, (_, start) = _starts(running, [one], workers, now.mono_ns, default_s)
            rows.append(_row(one, len(running) + 1, start))
            all_workers += workers
    return {"queue": rows, "total": len(desk.lines.by_key), "workers": all_workers}


@handles("candidates-position")
def _position(
    state: State, now: Now, asked: Asked, body: msg.CandidatesPosition, out: list[fx.Effect]
) -> Body:
    one = state.desk.lines.by_key.get((body.codebase, body.campaign, body.change_set))
    if one is None:
        text = f"{body.codebase} in {body.campaign} is not in the queue; `mgmt candidates explain` says why"
        raise MgmtError("unknown-candidate", text)
    return _place(state.desk.lines.line(one.lane), one, us(now))


def _place(line: Line, one: Queued, now_us: int) -> dict[str, Any]:
    return {
        "position": line.position(one, now_us), "total": len(line.all), "suite": one.lane, "task": one.task,
        "bucket": one.item.bucket, "state": _state(one),
    }  # fmt: skip


@handles("candidates-explain")
def _explain(state: State, now: Now, asked: Asked, body: msg.CandidatesExplain, out: list[fx.Effect]) -> Body:
    key = (body.codebase, body.campaign, body.change_set)
    policy = body.policy or state.settings.candidates.policy

    def judged(now: Now, judge: Any, out: list[fx.Effect]) -> None:
        if isinstance(judge, MgmtError):
            _answer(state, asked, judge, out)
        else:
            work = partial(_explained, judge, state.desk.scene(), key, us(now), policy)
            state.desk.beside.compute(work, answer, out)

    def answer(now: Now, result: Any, out: list[fx.Effect]) -> None:
        if isinstance(result, MgmtError):
            _answer(state, asked, result, out)
            return
        one = state.desk.lines.by_key.get(key)
        place = None if one is None else _place(state.desk.lines.line(one.lane), one, us(now))
        _answer(state, asked, {**result, "policy": policy, "place": place}, out)

    state.sessions.park(now, asked, out)
    state.desk.with_judge(now, policy, judged, out)
    return None


def _explained(judge: Judge, scene: Scene, key: Key, now_us: int, policy: str) -> dict[str, Any]:
    found, one = judge.explain(key, now_us), judge.one(key, now_us)
    if found is None or one is None:
        fault = next((fault for fault in judge.faults if str(fault.row).startswith(" ".join(key[:2]))), None)
        rule = ", by whose rules it has a codebase and a policy that are there" if policy == COMPAT else ""
        hint = f" for {policy}{rule}; `mgmt candidates list --policy {policy}` shows those there are"
        why = f": {fault}" if fault is not None else hint
        raise MgmtError("unknown-candidate", f"there is no candidate {key[0]} in {key[1]}{why}")
    rested_us = scene.rested_us(judge, key, now_us) if scene.rules.is_automatic else 0
    held, due_us = one.held, one.due_us or rested_us
    if not held and due_us > now_us:
        held = f"rests for {(due_us - now_us) / 1e6:.0f} s after its latest run"
    away_us = scene.away_us(judge, key)
    if not held and away_us > now_us:
        held, due_us = "its host is left alone", away_us
    return {
        "codebase": key[0], "campaign": key[1], "change_set": key[2], "score": found.score,
        "probability": found.probability,
        "duration_s": None if found.duration_us is None else found.duration_us / 1e6, "held": held,
        "not_before": due_us / 1e6 if due_us > now_us else None, "waits_for": list(found.waits_for),
        "factors": _factors(found),
    }  # fmt: skip


def _factors(found: CandidateScore) -> list[dict[str, Any]]:
    return [
        {"name": one.name, "kind": one.kind, "value": one.value, "source": one.source}
        for one in found.factors
    ]


@handles("candidates-hosts")
def _hosts(state: State, now: Now, asked: Asked, body: msg.CandidatesHosts, out: list[fx.Effect]) -> Body:
    desk, host = state.desk, body.host
    if (host is None) != (body.for_s is None):
        raise MgmtError("bad-body", "a host is changed with the time for which it is left alone: give both")

    def told(cancelled: int, now: Now, result: Any, out: list[fx.Effect]) -> None:
        if not isinstance(result, MgmtError):
            until = sorted(desk.hosts.until_us.items())
            rows = [{"host": name, "until": until_us / 1e6} for name, until_us in until]
            result = {"hosts": rows, "cancelled": cancelled}
        _answer(state, asked, result, out)

    def put(now: Now, result: Any, out: list[fx.Effect]) -> None:
        if isinstance(result, MgmtError):
            told(0, now, result, out)
            return
        state.automatic.on_loaded(now, out)  # what waits there is looked at
        desk.with_judge(now, state.settings.candidates.policy, judged, out)

    def judged(now: Now, judge: Any, out: list[fx.Effect]) -> None:
        if isinstance(judge, MgmtError):
            told(0, now, judge, out)
            return
        waiting = [one for one in desk.lines.by_key.values() if one.task and not one.claimed_ns]
        desk.beside.compute(partial(_away, judge, desk.scene(), waiting, us(now)), found, out)

    def found(now: Now, result: Any, out: list[fx.Effect]) -> None:
        if isinstance(result, MgmtError) or not result:
            told(0, now, result or None, out)
            return

        def cancelled(now: Now, done: Any, out: list[fx.Effect]) -> None:
            desk.lines.told(now, result, out)
            told(0 if isinstance(done, MgmtError) else done.count, now, done, out)

        chosen = op.TaskFilter(tasks=tuple(result))
        state.board.ask(op.CancelTasks(chosen, now.real_ms, False, CANCELLED), cancelled, out)

    state.sessions.park(now, asked, out)
    if host is None:
        desk.hosts.read(now, partial(told, 0), out)
    else:
        desk.hosts.put(now, host, us(now) + round((body.for_s or 0.0) * 1e6), put, out)
    return None


def _away(judge: Judge, scene: Scene, waiting: list[Queued], now_us: int) -> list[int]:
    """Tasks of candidates whose hosts are left alone."""
    return [one.task for one in waiting if scene.away_us(judge, one.key) > now_us]


@handles("candidates-reset")
def _reset(state: State, now: Now, asked: Asked, body: msg.CandidatesReset, out: list[fx.Effect]) -> Body:
    if body.forget and (body.codebase or body.campaign):
        raise MgmtError(
            "bad-body", "all that was loaded is forgotten, or some are taken out of the queue: not both"
        )
    desk = state.desk
    tasks = [
        one.task
        for key, one in desk.lines.by_key.items()
        if one.task and body.codebase in (None, key[0]) and body.campaign in (None, key[1])
    ]

    def cancelled(now: Now, result: Any, out: list[fx.Effect]) -> None:
        if isinstance(result, MgmtError):
            _answer(state, asked, result, out)
            return
        count = 0 if result is None else result.count
        if count:
            desk.lines.told(now, tasks, out)
        if not body.forget:
            _answer(state, asked, {"cancelled": count, "forgotten": False}, out)
            return

        def forgotten(now: Now, result: Any, out: list[fx.Effect]) -> None:
            if isinstance(result, Changed):
                desk.forget()
                desk.hosts.until_us = {}
                result = {"cancelled": count, "forgotten": True}
            _answer(state, asked, result, out)

        state.board.ask(PutRows((), forget=True), forgotten, out)

    state.sessions.park(now, asked, out)
    if tasks:
        chosen = op.TaskFilter(tasks=tuple(tasks))
        state.board.ask(op.CancelTasks(chosen, now.real_ms, False, CANCELLED), cancelled, out)
    else:
        cancelled(now, None, out)
    return None
