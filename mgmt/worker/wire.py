"""The worker wire: what a crew and its workers say to each other. This text is its specification.

One unix stream socket, on which the crew listens and each worker connects. A message is its length in bytes
(u32, little-endian, at most MAX_MESSAGE_BYTES) and then one msgpack array of that length, whose first item is the
kind. `spec` is the packed map of the task as its user gave it. Times are nanoseconds of CLOCK_REALTIME.

Worker to crew

    [HELLO, unit, token, incarnation, held]
        First, on every connection. held: [[task, attempt], ...], all that the crew has not taken: tasks that have
        ended, then the one that runs, then those that wait. Nothing else is sent before WELCOME; then every DONE
        that was not taken is sent (again).
    [DONE, task, attempt, status, message, start_ns, end_ns, tail, extra]
        status: exit status, or -signal. 126 and 127 as a shell says them: could not be executed, not found.
        message: "", a word of TASK_MESSAGES, or a sentence. start_ns: 0 when it was never started.
        tail: the last TAIL_BYTES of its output. extra, each only where there is one:
          new_task: bin      what the task wrote to $MITO_NEW_TASK; more than NEW_TASK_BYTES is
                             SubmitNewTaskFailed instead
          results: text      folder with what it left in $MITO_RESULT_DIR; whoever takes the DONE owns it
          exec_log: text     folder with what it left in $MITO_EXEC_DIR, where the spec has exec_log; as `results`
          log: text, log_bytes: int, truncated: true
                             file of its whole output, where the spec has terminal_output; truncated: there was
                             more than output_limit_bytes, or the disk was full
          value: bin         packed return value of a function, unless None
          repr: text         instead of value: it cannot be packed, or not within VALUE_BYTES
    [STATE, task, attempt, exec_state]
        EXEC_SPAWNED, once, for a task that runs longer than STATE_AFTER_S. Never repeated.

Crew to worker

    [WELCOME, {env, folder, grace_s, output_limit_bytes}]
        Answers HELLO. env: the environment of tasks, before MITO_* and their own. folder: this worker's alone,
        always the same; its parent exists. It ends a pause.
    [REFUSED, why]
        Answers HELLO: not a worker of this crew. The worker says so and exits with EXIT_MALFORMED.
    [RUN, task, attempt, spec, uuid, upstream_uuid]
        To the end of the queue: at most MAX_QUEUED tasks and MAX_QUEUED_BYTES. A task with `resources` has
        them in folder/in/TASK.ATTEMPT before; the worker removes that folder before DONE.
    [CANCEL, task, attempt, grace_s]
        TERM to all its processes, KILL after grace_s. A task that waits is DONE at once with status -15 and
        start_ns 0; one that the worker does not hold (any more) is not answered.
    [PAUSE], [RESUME]
        Start none, after the one that runs.
    [STOP, graceful]
        End: after the task that runs, or after killing it (then it has no DONE). What waits is not started and
        is back with the crew when the connection ends. A worker takes SIGTERM as a graceful STOP.
    [TAKEN, count]
        The first `count` DONEs of this connection are safe and need never be sent again. A worker keeps
        MAX_UNTAKEN of them or MAX_UNTAKEN_BYTES, connected or not; then it starts nothing more.

A worker does one task at a time in the order of arrival. Losing the connection stops nothing: it works off what it
has, and tries again after RECONNECT_FIRST_S, doubled up to RECONNECT_MAX_S. Whoever breaks the rules is
told why on stderr by the worker, which exits with EXIT_MALFORMED. A spec that cannot be understood is no such
case: it is a DONE with status 126.

`resident` ends itself with EXIT_TIMED_OUT after it has sent ExecTimeout or UserCancellation for a call that cannot
be stopped otherwise; where not even that was possible, SIGALRM ends it. Both mean: the first task without DONE
ended by its timeout, and the worker is started again without a strike.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

import msgpack


class Kind(IntEnum):
    HELLO = 1
    DONE = 2
    STATE = 3
    WELCOME = 16
    RUN = 17
    CANCEL = 18
    PAUSE = 19
    RESUME = 20
    STOP = 21
    TAKEN = 22
    REFUSED = 23


TAIL_BYTES = 4096
NEW_TASK_BYTES = 64 << 10
VALUE_BYTES = 64 << 10
MAX_MESSAGE_BYTES = 1 << 20
MAX_QUEUED = 4096
MAX_QUEUED_BYTES = 16 << 20
MAX_UNTAKEN = 1024
MAX_UNTAKEN_BYTES = 1 << 20
STATE_AFTER_S = 0.2
RECONNECT_FIRST_S = 0.01
RECONNECT_MAX_S = 1.0

EXEC_SPAWNED = 11
EXEC_TIMEOUT = "ExecTimeout"
USER_CANCELLATION = "UserCancellation"
FETCH_RESOURCE_TIMEOUT = "FetchResourceTimeout"
RESOURCE_NOT_FOUND = "ResourceNotFound"
RESOURCE_FORBIDDEN = "ResourceForbidden"
UPLOAD_RESULT_TIMEOUT = "UploadResultTimeout"
SUBMIT_NEW_TASK_FAILED = "SubmitNewTaskFailed"
TASK_MESSAGES = (
    EXEC_TIMEOUT,
    USER_CANCELLATION,
    FETCH_RESOURCE_TIMEOUT,
    RESOURCE_NOT_FOUND,
    RESOURCE_FORBIDDEN,
    UPLOAD_RESULT_TIMEOUT,
    SUBMIT_NEW_TASK_FAILED,
)

EXIT_MALFORMED = 2
EXIT_TIMED_OUT = 124

# Every message that is allowed: its kind, then the types of its items.
_FROM_WORKER: frozenset[tuple[object, ...]] = frozenset(
    {
        (Kind.HELLO, str, str, int, list),
        (Kind.DONE, int, int, int, str, int, int, bytes, dict),
        (Kind.STATE, int, int, int),
    }
)
_FROM_CREW: frozenset[tuple[object, ...]] = frozenset(
    {
        (Kind.WELCOME, dict),
        (Kind.REFUSED, str),
        (Kind.RUN, int, int, bytes, str, str),
        (Kind.RUN, int, int, bytes, str, type(None)),
        (Kind.CANCEL, int, int, int),
        (Kind.CANCEL, int, int, float),
        (Kind.PAUSE,),
        (Kind.RESUME,),
        (Kind.STOP, bool),
        (Kind.TAKEN, int),
    }
)
_LENGTH = struct.Struct("<I")


class WireError(ValueError):
    """A peer broke the rules; the text says how."""


def encode(*message: Any) -> bytes:
    """One message with its length before it. WireError when it is larger than MAX_MESSAGE_BYTES."""
    body: bytes = msgpack.packb(message)
    if len(body) > MAX_MESSAGE_BYTES:
        raise WireError(f"a message of {len(body)} bytes, the limit is {MAX_MESSAGE_BYTES}")
    return len(body).to_bytes(4, "little") + body


def unpack(body: bytes) -> list[Any]:
    """The items of one message without its length. WireError when it is none."""
    try:
        message = msgpack.unpackb(body, strict_map_key=False)
    except (ValueError, TypeError) as error:  # all of msgpack's, text that is not UTF-8, a list as a key
        raise WireError(f"not one msgpack value: {error}") from error
    if type(message) is not list or not message or type(message[0]) is not int:
        raise WireError("not an array that starts with a kind")
    return message


class Decoder:
    """Bytes of one connection in, messages out."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[list[Any]]:
        """The messages that are complete with `data`. WireError: close the connection."""
        rest = self._rest
        rest += data
        at = 0
        try:
            while len(rest) - at >= 4:
                (length,) = _LENGTH.unpack_from(rest, at)
                if length > MAX_MESSAGE_BYTES:
                    raise WireError(f"a message of {length} bytes, the limit is {MAX_MESSAGE_BYTES}")
                if len(rest) - at - 4 < length:
                    break
                body = bytes(rest[at + 4 : at + 4 + length])
                at += 4 + length
                yield unpack(body)
        finally:
            del rest[:at]


def check_from_worker(message: list[Any]) -> list[Any]:
    """`message` again when a worker may send it. WireError otherwise."""
    return _check(message, _FROM_WORKER, "worker")


def check_from_crew(message: list[Any]) -> list[Any]:
    """`message` again when a crew may send it. WireError otherwise."""
    return _check(message, _FROM_CREW, "crew")


def _check(message: list[Any], allowed: frozenset[tuple[object, ...]], sender: str) -> list[Any]:
    shape = (message[0], *map(type, message[1:]))
    if shape not in allowed:
        items = ", ".join(item.__name__ for item in shape[1:])
        raise WireError(f"kind {message[0]} with the items ({items}) is not what a {sender} sends")
    return message
