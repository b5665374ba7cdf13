"""THE error table: every way `mgmt` says no, on every transport.

An error is a code of this table, a text (what, which object, why, what to do next) and optional detail
fields. Nothing else ever reaches a client: a fault that has no row here is a bug and travels as `internal`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any


class Fault(StrEnum):
    """Who has to change something before a repetition can succeed."""

    CLIENT = "client"
    SERVER = "server"
    BACKEND = "backend"


class Exit(IntEnum):
    """Exit statuses of the `mgmt` command; part of its interface."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_READY = 3
    UNKNOWN = 4
    UNREACHABLE = 5
    DENIED = 6
    TIMED_OUT = 7
    BUSY = 8
    PARTIAL = 9


@dataclass(frozen=True, slots=True)
class Row:
    """One row: whose fault, whether the same request may succeed later unchanged, exit status, meaning."""

    fault: Fault
    retryable: bool
    exit: Exit
    meaning: str


TABLE: dict[str, Row] = {
    # the frame could not be understood
    "bad-frame": Row(Fault.CLIENT, False, Exit.FAILED, "the message is not a protocol frame"),
    "too-large": Row(Fault.CLIENT, False, Exit.FAILED, "a frame is larger than the limit"),
    "too-deep": Row(Fault.CLIENT, False, Exit.FAILED, "a body is nested deeper than the limit"),
    "bad-version": Row(Fault.CLIENT, False, Exit.FAILED, "the protocol version is not spoken here"),
    "unknown-verb": Row(Fault.CLIENT, False, Exit.USAGE, "there is no such request"),
    "bad-body": Row(Fault.CLIENT, False, Exit.USAGE, "a field of the request is missing, unknown or wrong"),
    # the request was understood, and refused
    "denied": Row(Fault.CLIENT, False, Exit.DENIED, "the caller may not do this"),
    "not-authorised": Row(
        Fault.CLIENT,
        False,
        Exit.DENIED,
        "the key or token is missing or not good any more, or its role does not allow the request",
    ),
    "session-gone": Row(Fault.CLIENT, True, Exit.FAILED, "the session is unknown or ended; say hello again"),
    "lease-gone": Row(Fault.CLIENT, True, Exit.FAILED, "the lease is unknown or closed; ask for a new one"),
    "unknown-model": Row(Fault.CLIENT, False, Exit.UNKNOWN, "no model of that name is configured"),
    "unknown-unit": Row(Fault.CLIENT, False, Exit.UNKNOWN, "no unit of that name exists"),
    "unknown-workload": Row(Fault.CLIENT, False, Exit.UNKNOWN, "no workload of that name was submitted"),
    "unknown-task": Row(Fault.CLIENT, False, Exit.UNKNOWN, "there is no task of that name or number"),
    "unknown-suite": Row(Fault.CLIENT, False, Exit.UNKNOWN, "there is no suite of that name or number"),
    "unknown-blob": Row(
        Fault.CLIENT, False, Exit.UNKNOWN, "there is no file of that name, or no such upload"
    ),
    "corrupt": Row(Fault.SERVER, False, Exit.FAILED, "the content of a file is not what its digest says"),
    "stale": Row(
        Fault.CLIENT,
        False,
        Exit.FAILED,
        "the lease it belongs to has ended; what it says is no longer wanted",
    ),
    "bad-workload": Row(
        Fault.CLIENT, False, Exit.USAGE, "a document of tasks or nodes is missing a field or has a wrong one"
    ),
    "bad-candidates": Row(
        Fault.CLIENT, False, Exit.USAGE, "a file of candidates, runs, settings or cases cannot be used"
    ),
    "unknown-candidate": Row(Fault.CLIENT, False, Exit.UNKNOWN, "there is no such candidate"),
    "bad-database": Row(
        Fault.CLIENT, False, Exit.FAILED, "a database beside the daemon cannot be reached, read or written"
    ),
    "not-schedulable": Row(
        Fault.CLIENT, False, Exit.FAILED, "a deadline could not be kept, so nothing was placed or changed"
    ),
    "unknown-node": Row(Fault.CLIENT, False, Exit.UNKNOWN, "no node of that name has ever joined"),
    "unknown-user": Row(Fault.CLIENT, False, Exit.UNKNOWN, "there is no user of that name"),
    "unknown-group": Row(Fault.CLIENT, False, Exit.UNKNOWN, "there is no group of that name"),
    "unknown-token": Row(Fault.CLIENT, False, Exit.UNKNOWN, "the user has no token of that name"),
    "over-quota": Row(Fault.CLIENT, False, Exit.DENIED, "a user or group would have more than it may"),
    "no-backend": Row(
        Fault.CLIENT, False, Exit.FAILED, "the model's type has no backend in the configuration"
    ),
    "not-loaded": Row(Fault.CLIENT, False, Exit.NOT_READY, "the model is configured but not loaded"),
    "not-ready": Row(Fault.BACKEND, True, Exit.NOT_READY, "the unit has not said ready yet"),
    "conflict": Row(Fault.CLIENT, False, Exit.BUSY, "the object is in a state that excludes the request"),
    "not-available": Row(Fault.SERVER, False, Exit.FAILED, "this build does not offer the request"),
    # the request was accepted, and failed
    "start-failed": Row(Fault.BACKEND, True, Exit.FAILED, "the backend ended or gave up before it was ready"),
    "no-capacity": Row(Fault.SERVER, True, Exit.BUSY, "CPUs, GPUs or memory it needs are held by others"),
    "stop-failed": Row(Fault.BACKEND, True, Exit.FAILED, "processes of the unit are left after the stop"),
    "backend-lost": Row(Fault.BACKEND, True, Exit.FAILED, "the backend died before it answered"),
    "backend-error": Row(Fault.BACKEND, False, Exit.FAILED, "the backend answered with an error"),
    "node-lost": Row(Fault.SERVER, True, Exit.NOT_READY, "the node it concerns does not answer"),
    "busy": Row(Fault.SERVER, True, Exit.BUSY, "a queue is full; try again later"),
    "expired": Row(Fault.CLIENT, True, Exit.TIMED_OUT, "the deadline passed before the answer"),
    "cancelled": Row(Fault.SERVER, True, Exit.FAILED, "another command overtook this one"),
    "not-durable": Row(Fault.SERVER, True, Exit.FAILED, "the change could not be written to the store"),
    "stopping": Row(Fault.SERVER, True, Exit.NOT_READY, "the daemon is stopping"),
    "internal": Row(
        Fault.SERVER, False, Exit.FAILED, "a fault of mgmt itself; please report it with the log"
    ),
    # said by the client library, never by the daemon
    "unreachable": Row(Fault.SERVER, True, Exit.UNREACHABLE, "no daemon answers at the endpoint"),
    # local to the command line and the daemon's own start
    "bad-config": Row(Fault.CLIENT, False, Exit.USAGE, "the configuration is missing or wrong"),
    "bad-store": Row(
        Fault.SERVER, False, Exit.FAILED, "the state folder's store is damaged and was not touched"
    ),
    "already-running": Row(
        Fault.CLIENT, False, Exit.BUSY, "another daemon holds the endpoints or the state folder"
    ),
}


class MgmtError(Exception):
    """A row of the table with its text; the one exception that carries a refusal across rooms.

    `detail` holds plain msgpack values only (str, int, float, bool, None, list, dict).
    """

    def __init__(self, code: str, text: str, **detail: Any) -> None:
        if code not in TABLE:
            raise KeyError(f"error code {code!r} is not in the table")
        super().__init__(text)
        self.code = code
        self.text = text
        self.detail = detail

    @property
    def row(self) -> Row:
        return TABLE[self.code]

    def as_body(self) -> dict[str, Any]:
        """The wire form: `code`, `text`, `retryable`, and `detail` when there is any."""
        body: dict[str, Any] = {"code": self.code, "text": self.text, "retryable": self.row.retryable}
        if self.detail:
            body["detail"] = self.detail
        return body

    @classmethod
    def from_body(cls, body: dict[str, Any]) -> MgmtError:
        """Rebuild from the wire form; a code of a newer peer becomes `internal` and keeps its name in the text."""
        code, text = str(body.get("code")), str(body.get("text"))
        if code not in TABLE:
            code, text = "internal", f"{code}: {text}"
        detail = body.get("detail")
        return cls(code, text, **(detail if isinstance(detail, dict) else {}))
