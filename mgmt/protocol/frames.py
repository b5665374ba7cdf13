"""The layout of every native frame, and the limits a peer is held to.

Two planes, told apart by the first byte:

Control plane (client, backend or agent <-> daemon): one frame, a msgpack array
    request  [1, REQUEST, id, session, verb, body, deadline_ms, key]   deadline_ms 0: none; key "": not idempotent
    reply    [1, REPLY, id, session, outcome, body]                    exactly one per request
    event    [1, EVENT, seq, session, kind, body]                      numbered without gaps per daemon
    notice   [1, NOTICE, 0, session, name, body]                       one way, never answered
`session` 0 in a request means "the session of the last hello on this connection", so that a hello and the
first request can travel together. `body` is a map.

Data plane (client <-> backend, directly or through the daemon's relay): [tag, payload...]. The tag is 22 fixed
bytes, so a relay reads the lease without decoding anything; the payload is opaque and copied by nobody.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple

import msgpack

from mgmt.protocol import defaults
from mgmt.protocol.errors import MgmtError

VERSION = 1


class Kind(IntEnum):
    """Second element of a control frame."""

    REQUEST = 1
    REPLY = 2
    EVENT = 3
    NOTICE = 4


class Outcome(StrEnum):
    """The terminal answers; each request gets exactly one."""

    OK = "ok"
    ERROR = "error"
    BUSY = "busy"
    EXPIRED = "expired"
    GONE = "gone"


OUTCOME_OF_CODE = {"busy": Outcome.BUSY, "expired": Outcome.EXPIRED, "session-gone": Outcome.GONE}


class Request(NamedTuple):
    """A decoded request head; `body` is not validated yet."""

    id: int
    session: int
    verb: str
    body: dict[str, Any]
    deadline_ms: int
    key: str


class Notice(NamedTuple):
    """A decoded one-way message."""

    session: int
    name: str
    body: dict[str, Any]


class Reply(NamedTuple):
    """A decoded terminal answer."""

    id: int
    session: int
    outcome: str
    body: dict[str, Any]


class Event(NamedTuple):
    """A decoded event; `seq` grows by one per event of this daemon."""

    seq: int
    session: int
    kind: str
    body: dict[str, Any]


class FrameError(MgmtError):
    """A frame that was refused; `id` and `session` are those of the request when they could be read, else 0."""

    def __init__(self, code: str, text: str, id: int = 0, session: int = 0, **detail: Any) -> None:
        super().__init__(code, text, **detail)
        self.id = id
        self.session = session


_pack_value = msgpack.Packer(use_bin_type=True, autoreset=True).pack
# A control body may quote the name of a file, which need not be UTF-8. It is told with its odd bytes escaped:
# a status that cannot be sent would make the daemon dumb.
_pack = msgpack.Packer(use_bin_type=True, autoreset=True, unicode_errors="backslashreplace").pack


def pack(value: Any) -> bytes:
    """One msgpack value; OverflowError, TypeError or ValueError for what msgpack cannot carry."""
    return bytes(_pack_value(value))


def pack_body(value: dict[str, Any]) -> bytes:
    """A control body, for `encode_reply_packed`; text that is not UTF-8 is escaped."""
    return bytes(_pack(value))


def _no_extensions(code: int, data: bytes) -> Any:
    raise ValueError(f"extension type {code} ({len(data)} bytes) is not part of the protocol")


def unpack(data: bytes | memoryview) -> Any:
    """One msgpack value and nothing after it; raises FrameError for anything else."""
    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=True, ext_hook=_no_extensions)
    except (ValueError, RecursionError, msgpack.exceptions.UnpackException) as error:
        # StackError, FormatError, ExtraData, UnicodeDecodeError and OutOfData are all among these.
        raise FrameError("bad-frame", f"not a msgpack value: {_reason(error)}") from None
    return value


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


def depth_of(value: Any, limit: int) -> int:
    """Nesting depth of maps and lists, scanning no deeper than `limit` + 1."""
    depth, layer = 0, [value] if type(value) in (dict, list) else []
    while layer and depth <= limit:
        depth += 1
        # The types one by one: this looks at every value there is.
        layer = [
            child
            for item in layer
            for child in (item.values() if type(item) is dict else item)
            if type(child) is dict or type(child) is list
        ]
    return depth


def encode_request(
    id: int, session: int, verb: str, body: dict[str, Any], deadline_ms: int = 0, key: str = ""
) -> bytes:
    return bytes(_pack((VERSION, 1, id, session, verb, body, deadline_ms, key)))


def encode_reply(id: int, session: int, outcome: str, body: Any) -> bytes:
    return bytes(_pack((VERSION, 2, id, session, outcome, body)))


def encode_event(seq: int, session: int, kind: str, body: dict[str, Any]) -> bytes:
    return bytes(_pack((VERSION, 3, seq, session, kind, body)))


def encode_notice(session: int, name: str, body: dict[str, Any]) -> bytes:
    return bytes(_pack((VERSION, 4, 0, session, name, body)))


# Heads of replies whose body is packed already; a status answer is encoded once per state, not once per reader.
_REPLY_HEAD = _pack((VERSION, 2))[1:]


def encode_reply_packed(id: int, session: int, outcome: str, packed_body: bytes) -> bytes:
    """Like encode_reply with a body that is msgpack already."""
    return b"".join((b"\x96", _REPLY_HEAD, _pack(id), _pack(session), _pack(outcome), packed_body))


_SIZES = {1: 8, 2: 6, 3: 6, 4: 6}  # elements of a frame, by kind
_FROM_PEERS = (1, 4)
_U64 = 1 << 64


def _shown(value: Any) -> str:
    """A value for an error text; never the repr of a container, which a deep one would not survive."""
    return f"a {type(value).__name__}" if type(value) in (dict, list) else f"{value!r:.40}"


def _uint(value: Any, name: str, id: int = 0, session: int = 0) -> int:
    if type(value) is not int or not 0 <= value < _U64:
        raise FrameError(
            "bad-frame", f"`{name}` must be an unsigned integer, not {_shown(value)}", id, session
        )
    return value


def decode(frames: Sequence[bytes]) -> Request | Notice | Reply | Event:
    """Decode one control message; raises FrameError naming the element, with the request's id when readable."""
    if len(frames) != 1:
        raise FrameError("bad-frame", f"a control message is one frame, not {len(frames)}")
    frame = frames[0]
    if len(frame) > defaults.MAX_CONTROL_FRAME_BYTES:
        raise FrameError(
            "too-large", f"the frame has {len(frame)} bytes, the limit is {defaults.MAX_CONTROL_FRAME_BYTES}"
        )
    head = unpack(frame)
    if type(head) is not list or len(head) < 4:
        raise FrameError("bad-frame", "a control message is an array of at least 4 elements")
    # The id comes before the version check: a peer of another version must be able to match our refusal.
    id = _uint(head[2], "id")
    session = _uint(head[3], "session", id)
    if head[0] != VERSION or type(head[0]) is not int:
        raise FrameError(
            "bad-version",
            f"protocol version {_shown(head[0])} is not spoken here; this side speaks {VERSION}",
            id,
            session,
            versions=[VERSION],
        )
    kind = head[1]
    size = _SIZES.get(kind) if type(kind) is int else None
    if size is None:
        raise FrameError("bad-frame", f"`kind` must be one of 1..4, not {_shown(kind)}", id, session)
    if len(head) != size:
        raise FrameError("bad-frame", f"kind {kind} has {size} elements, not {len(head)}", id, session)
    name, body = head[4], head[5]
    if type(name) is not str:
        raise FrameError("bad-frame", f"element 4 must be a string, not {_shown(name)}", id, session)
    if type(body) is not dict:
        raise FrameError("bad-body", f"`body` must be a map, not {_shown(body)}", id, session, field="body")
    # The daemon's own words are as deep as it makes them: a status of many units is looked through once less.
    if body and kind in _FROM_PEERS and depth_of(body, defaults.MAX_DEPTH) > defaults.MAX_DEPTH:
        raise FrameError("too-deep", f"`body` is nested deeper than {defaults.MAX_DEPTH}", id, session)
    if kind == 1:
        deadline_ms = _uint(head[6], "deadline_ms", id, session)
        key = head[7]
        if type(key) is not str or len(key) > defaults.MAX_KEY_CHARS:
            raise FrameError(
                "bad-frame", f"`key` must be a string of at most {defaults.MAX_KEY_CHARS}", id, session
            )
        return Request(id, session, name, body, deadline_ms, key)
    if kind == 2:
        return Reply(id, session, name, body)
    if kind == 3:
        return Event(id, session, name, body)
    return Notice(session, name, body)


# ---- data plane ------------------------------------------------------------------------------------------

TAG = struct.Struct("!BBIQQ")
TAG_BYTES = TAG.size
LEASE_AND_ID = slice(6, 22)


class DataKind(IntEnum):
    """Second byte of a tag. RESULT and above are terminal answers; their payload is one msgpack error body."""

    REQUEST = 1
    RESULT = 2
    ERROR = 3
    BUSY = 4
    EXPIRED = 5
    GONE = 6


class Tag(NamedTuple):
    """The head of a data-plane message; `deadline_ms` counts from arrival, 0 for none."""

    version: int
    kind: int
    deadline_ms: int
    lease: int
    id: int


def encode_tag(kind: int, lease: int, id: int, deadline_ms: int = 0) -> bytes:
    return TAG.pack(VERSION, kind, deadline_ms, lease, id)


def decode_tag(frame: bytes) -> Tag:
    """Raises FrameError when the frame is not a tag of this version."""
    if len(frame) != TAG_BYTES:
        raise FrameError(
            "bad-frame", f"a data message starts with a tag of {TAG_BYTES} bytes, not {len(frame)}"
        )
    tag = Tag(*TAG.unpack(frame))
    if tag.version != VERSION:
        raise FrameError(
            "bad-version", f"data version {tag.version} is not spoken here; this side speaks {VERSION}"
        )
    if not 1 <= tag.kind <= 6:
        raise FrameError("bad-frame", f"data kind {tag.kind} is not one of 1..6", tag.id)
    return tag


def answer_tag(request_tag: bytes, kind: int) -> bytes:
    """The tag of an answer: the request's with another kind."""
    return request_tag[:1] + bytes((kind,)) + request_tag[2:]
