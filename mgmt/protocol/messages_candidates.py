"""Messages about candidates: what to run next on which codebase, and why."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from mgmt.protocol import defaults
from mgmt.protocol.messages_suites import SuiteKey
from mgmt.protocol.table import Message, Name
from mgmt.protocol.table import enter_request as request

Table = Literal["codebases", "policies", "change_sets", "versions", "candidates", "runs"]
PolicyName = Literal["default", "janitor_compat"]
Bucket = Literal[
    "update-existing-mp",
    "manual",
    "control",
    "hook",
    "reschedule",
    "update-new-mp",
    "missing-deps",
    "default",
]
Limit = Annotated[int, Field(ge=1, le=defaults.MAX_LISTED_CANDIDATES)]


class RowFault(Message):
    """A row that cannot be used."""

    table: str
    row: str
    column: str
    problem: str


class CandidatesLoaded(Message):
    stored: int
    faults: list[RowFault] = Field(description="rows that were left out")


@request("candidates-load", CandidatesLoaded)
class CandidatesLoad(Message):
    """Store rows of a table of candidates or runs, each in place of one of the same key."""

    table: Table
    rows: list[dict[str, Any]] = Field(max_length=defaults.MAX_CANDIDATE_ROWS)


class CandidateRow(Message):
    table: Table
    record: dict[str, Any] = Field(description="the row as it was loaded or recorded")


class CandidateExportReply(Message):
    """A page. `next_table`, `next_name`: after which the next one begins; null: this was the last."""

    rows: list[CandidateRow]
    next_table: str | None
    next_name: str | None
    settings: dict[str, Any] = Field(description="of the policy, as in the configuration")


@request("candidates-export", CandidateExportReply)
class CandidatesExport(Message):
    """Read what is stored of candidates and runs, by table and name, a page at a time."""

    after_table: str = ""
    after_name: str = ""


class CandidateStatus(Message):
    """`turn`: its place by weight in its campaign, lower is earlier. `task`: in the queue under this number."""

    codebase: str
    campaign: str
    change_set: str
    command: str
    value: float | None
    requires: list[str]
    score: float | None
    probability: float | None
    duration_s: float | None
    turn: float
    held: str = Field(description="why it cannot run now; empty when it can")
    task: int | None


class CandidatesReply(Message):
    candidates: list[CandidateStatus]
    total: int
    cycles: list[list[str]] = Field(description="candidates that require one another")
    faults: list[RowFault]
    warnings: list[str]


@request("candidates-list", CandidatesReply)
class CandidatesList(Message):
    """Show candidates with their scores, the next to be run first."""

    codebase: Name | None = None
    campaign: Name | None = None
    policy: PolicyName | None = Field(default=None, description="that of the configuration when absent")
    limit: Limit = 100
    offset: int = Field(default=0, ge=0)


class QueuedCandidate(Message):
    """A task of a candidate that has not ended. Its position is that before its suite.

    `eta_s`: until it starts, as likely sooner as later, None without a node at work; `late_s`: nine of ten are
    sooner.
    """

    position: int
    suite: int
    task: int
    codebase: str
    campaign: str
    change_set: str
    bucket: Bucket
    priority: int
    state: Literal["READY", "RUNNING"]
    duration_s: float | None
    eta_s: float | None
    late_s: float | None


class CandidateQueueReply(Message):
    queue: list[QueuedCandidate]
    total: int = Field(description="in the queue, of all suites")
    workers: int = Field(description="at work on the suites of these, or that would be")


@request("candidates-queue", CandidateQueueReply)
class CandidatesQueue(Message):
    """Show the candidates in the queue in the order in which they are run, with the time until each starts.

    What is asked for by codebase or campaign alone is looked for among the first five thousand of each suite.
    """

    codebase: Name | None = None
    campaign: Name | None = None
    limit: Limit = 100


@request("candidates-next", CandidateQueueReply)
class CandidatesNext(Message):
    """Show which candidate is run next, of each suite that has some in the queue."""


class CandidatePosition(Message):
    """`position` counts those that run, `total` all of its suite."""

    position: int
    total: int
    suite: int
    task: int
    bucket: Bucket
    state: Literal["READY", "RUNNING"]


@request("candidates-position", CandidatePosition)
class CandidatesPosition(Message):
    """Say how many come before a candidate in the queue, and itself."""

    codebase: Name
    campaign: Name
    change_set: str = ""


class CandidateFactor(Message):
    """`expected` ones multiply up to the expected value, `cost` ones add up to the cost in ms; score = cost /
    expected. Those of kind `about` say where these come from."""

    name: str
    kind: Literal["expected", "cost", "about"]
    value: float
    source: str


class CandidateExplained(Message):
    """`held`: why it does not run now; `not_before`: until when, in epoch seconds. `place`: in the queue."""

    codebase: str
    campaign: str
    change_set: str
    policy: PolicyName
    score: float | None
    probability: float | None
    duration_s: float | None
    held: str
    not_before: float | None
    waits_for: list[str]
    place: CandidatePosition | None
    factors: list[CandidateFactor]


@request("candidates-explain", CandidateExplained)
class CandidatesExplain(Message):
    """Show every factor of a candidate's score, what it waits for, and its place in the queue."""

    codebase: Name
    campaign: Name
    change_set: str = ""
    policy: PolicyName | None = Field(default=None, description="that of the configuration when absent")


class CandidatesScheduled(Message):
    """What a pass did. `held` wait for something and are left out."""

    suite: int
    policy: PolicyName
    considered: int
    queued: int = Field(description="new tasks")
    changed: int = Field(description="tasks in the queue that have another priority now")
    held: int
    first: list[CandidateStatus] = Field(description="the first of those that are new")
    faults: list[RowFault]
    warnings: list[str]


@request("candidates-schedule", CandidatesScheduled)
class CandidatesSchedule(Message):
    """Score all candidates and put them into the queue of a suite. Answered when that is durable."""

    suite: SuiteKey | None = Field(default=None, description="that of the configuration when absent")
    policy: PolicyName | None = Field(default=None, description="that of the configuration when absent")
    codebases: list[Name] = Field(default=[], max_length=defaults.MAX_CANDIDATE_ROWS)
    campaign: Name | None = None
    bucket: Bucket = "default"
    limit: Annotated[int, Field(ge=1)] | None = Field(default=None, description="new tasks at most")
    dry_run: bool = False


class ResetDone(Message):
    cancelled: int = Field(description="tasks that were taken out of the queue")
    forgotten: bool


@request("candidates-reset", ResetDone)
class CandidatesReset(Message):
    """Take candidates that do not run yet out of the queue, or forget all that was loaded."""

    codebase: Name | None = None
    campaign: Name | None = None
    forget: bool = Field(default=False, description="candidates, codebases, policies and runs, too")


class AwayHost(Message):
    """A host that is left alone until a time, epoch seconds."""

    host: str
    until: float


class CandidateHosts(Message):
    hosts: list[AwayHost]
    cancelled: int = Field(description="tasks that were taken out of the queue for it")


@request("candidates-hosts", CandidateHosts)
class CandidatesHosts(Message):
    """Show which hosts are left alone, after that of `host` was changed. Candidates of codebases there wait."""

    host: Name | None = None
    for_s: float | None = Field(
        default=None, ge=0, le=366 * 86_400, description="from now on; 0: it is left alone no longer"
    )
