"""The codec of the native protocol: round trips, and refusals that name what is wrong, for any bytes at all."""

from __future__ import annotations

import struct
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgmt.protocol import defaults, frames, messages
from mgmt.protocol.errors import TABLE, MgmtError
from mgmt.protocol.frames import DataKind, Event, FrameError, Notice, Outcome, Reply, Request, Tag

U64 = (1 << 64) - 1
fuzz = settings(max_examples=200, deadline=None, derandomize=True)

u64 = st.integers(0, U64)
scalars = (
    st.none() | st.booleans() | st.integers(-(1 << 63), U64) | st.text(max_size=8) | st.binary(max_size=8)
)
numbers = scalars | st.floats(allow_nan=False)
values = st.recursive(
    numbers,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
)
bodies = st.dictionaries(st.text(max_size=8), values, max_size=4)


def a_head(**wrong: Any) -> list[Any]:
    """The elements of a valid request, with some of them replaced."""
    elements: dict[str, Any] = {
        "version": 1, "kind": 1, "id": 7, "session": 8, "verb": "status", "body": {}, "deadline_ms": 0,
        "key": "",
    }  # fmt: skip
    return list((elements | wrong).values())


def refused(*message: bytes) -> FrameError:
    with pytest.raises(FrameError) as caught:
        frames.decode(message)
    assert caught.value.code in TABLE and caught.value.text
    return caught.value


def nested(depth: int, leaf: bytes = b"\xc0") -> bytes:
    """Lists in lists, as bytes: no packer would build the deep ones."""
    return b"\x91" * depth + leaf


# ---- round trips -----------------------------------------------------------------------------------------


@given(id=u64, session=u64, verb=st.text(max_size=9), body=bodies, deadline_ms=u64, key=st.text(max_size=128))
@fuzz
def test_a_request_comes_back_as_it_was(
    id: int, session: int, verb: str, body: dict[str, Any], deadline_ms: int, key: str
) -> None:
    frame = frames.encode_request(id, session, verb, body, deadline_ms, key)
    assert frames.decode([frame]) == Request(id, session, verb, body, deadline_ms, key)


@given(id=u64, session=u64, name=st.text(max_size=9), body=bodies)
@fuzz
def test_replies_events_and_notices_come_back_as_they_were(
    id: int, session: int, name: str, body: dict[str, Any]
) -> None:
    assert frames.decode([frames.encode_reply(id, session, name, body)]) == Reply(id, session, name, body)
    assert frames.decode([frames.encode_event(id, session, name, body)]) == Event(id, session, name, body)
    assert frames.decode([frames.encode_notice(session, name, body)]) == Notice(session, name, body)


@given(id=u64, session=u64, outcome=st.sampled_from(Outcome), body=bodies)
@fuzz
def test_a_reply_with_a_packed_body_is_the_same_frame(
    id: int, session: int, outcome: Outcome, body: dict[str, Any]
) -> None:
    packed = frames.encode_reply_packed(id, session, outcome, frames.pack(body))
    assert packed == frames.encode_reply(id, session, outcome, body)


def test_a_file_name_that_is_not_utf_8_is_told_escaped_and_payloads_are_never_changed() -> None:
    body = {"path": "/srv/\udcff"}
    assert frames.decode([frames.encode_reply(1, 2, "ok", body)]).body == {"path": "/srv/\\udcff"}
    assert frames.unpack(frames.pack_body(body)) == {"path": "/srv/\\udcff"}
    with pytest.raises(UnicodeEncodeError):
        frames.pack(body)


@given(
    kind=st.sampled_from(DataKind), lease=u64, id=u64, deadline_ms=st.integers(0, (1 << 32) - 1),
    answer=st.sampled_from(DataKind),
)  # fmt: skip
@fuzz
def test_a_tag_comes_back_as_it_was_and_its_answer_differs_in_the_kind_only(
    kind: DataKind, lease: int, id: int, deadline_ms: int, answer: DataKind
) -> None:
    tag = frames.encode_tag(kind, lease, id, deadline_ms)
    assert len(tag) == frames.TAG_BYTES == 22
    assert frames.decode_tag(tag) == Tag(1, kind, deadline_ms, lease, id)
    assert frames.decode_tag(frames.answer_tag(tag, answer)) == Tag(1, answer, deadline_ms, lease, id)
    assert tag[frames.LEASE_AND_ID] == struct.pack("!QQ", lease, id)


@pytest.mark.parametrize("code", sorted(TABLE))
def test_every_error_travels(code: str) -> None:
    error = MgmtError(code, "text", field="x", numbers=[1, None])
    body = frames.unpack(frames.pack(error.as_body()))
    back = MgmtError.from_body(body)
    assert (back.code, back.text, back.detail) == (code, "text", {"field": "x", "numbers": [1, None]})
    assert body["retryable"] == TABLE[code].retryable


# ---- refusals name their element -------------------------------------------------------------------------

# element, its wrong value, code, word that must be in the text; the id and session of the answer
HEADS: list[tuple[dict[str, Any], str, str, tuple[int, int]]] = [
    ({"id": -1}, "bad-frame", "`id`", (0, 0)),
    ({"id": "7"}, "bad-frame", "`id`", (0, 0)),
    ({"id": True}, "bad-frame", "`id`", (0, 0)),
    ({"id": 7.0}, "bad-frame", "`id`", (0, 0)),
    ({"id": None}, "bad-frame", "`id`", (0, 0)),
    ({"session": -1}, "bad-frame", "`session`", (7, 0)),
    ({"session": [8]}, "bad-frame", "`session`", (7, 0)),
    ({"version": 2}, "bad-version", "version 2", (7, 8)),
    ({"version": 0}, "bad-version", "version 0", (7, 8)),
    ({"version": "1"}, "bad-version", "version '1'", (7, 8)),
    ({"version": True}, "bad-version", "version True", (7, 8)),
    ({"version": {}}, "bad-version", "version a dict", (7, 8)),
    ({"kind": 0}, "bad-frame", "`kind`", (7, 8)),
    ({"kind": 5}, "bad-frame", "`kind`", (7, 8)),
    ({"kind": True}, "bad-frame", "`kind`", (7, 8)),
    ({"kind": [1]}, "bad-frame", "`kind`", (7, 8)),
    ({"kind": 2}, "bad-frame", "6 elements, not 8", (7, 8)),
    ({"verb": 1}, "bad-frame", "element 4", (7, 8)),
    ({"verb": b"status"}, "bad-frame", "element 4", (7, 8)),
    ({"body": []}, "bad-body", "`body`", (7, 8)),
    ({"body": None}, "bad-body", "`body`", (7, 8)),
    ({"body": "x" * 1000}, "bad-body", "`body`", (7, 8)),
    ({"deadline_ms": -1}, "bad-frame", "`deadline_ms`", (7, 8)),
    ({"deadline_ms": 1.5}, "bad-frame", "`deadline_ms`", (7, 8)),
    ({"key": None}, "bad-frame", "`key`", (7, 8)),
    ({"key": b"k"}, "bad-frame", "`key`", (7, 8)),
    ({"key": "k" * (defaults.MAX_KEY_CHARS + 1)}, "bad-frame", "`key`", (7, 8)),
]


@pytest.mark.parametrize(("wrong", "code", "word", "answer"), HEADS)
def test_a_wrong_element_is_named_and_the_answer_finds_its_request(
    wrong: dict[str, Any], code: str, word: str, answer: tuple[int, int]
) -> None:
    error = refused(frames.pack(a_head(**wrong)))
    assert (error.code, (error.id, error.session)) == (code, answer)
    assert word in error.text and len(error.text) < 200


def test_a_bad_version_says_which_are_spoken() -> None:
    assert refused(frames.pack(a_head(version=9))).detail == {"versions": [1]}


@pytest.mark.parametrize("size", [4, 5, 6, 7, 9])
def test_a_request_has_eight_elements(size: int) -> None:
    error = refused(frames.pack([*a_head(), None][:size]))
    assert error.code == "bad-frame" and f"8 elements, not {size}" in error.text and error.id == 7


@pytest.mark.parametrize("head", [[], [1], [1, 1, 7], {}, {"a": 1}, 1, None, "x", b"x", 1.5])
def test_what_is_no_array_of_elements_is_refused(head: Any) -> None:
    assert "array" in refused(frames.pack(head)).text


@pytest.mark.parametrize("count", [0, 2, 3])
def test_a_control_message_is_one_frame(count: int) -> None:
    error = refused(*[frames.encode_notice(0, "heartbeat", {})] * count)
    assert error.code == "bad-frame" and f"not {count}" in error.text


def test_a_frame_of_the_limit_is_read_and_a_larger_one_refused() -> None:
    empty = len(frames.pack(a_head(body={"x": b"y" * 70_000}))) - 70_000
    room = defaults.MAX_CONTROL_FRAME_BYTES - empty
    exact = frames.pack(a_head(body={"x": b"y" * room}))
    assert len(exact) == defaults.MAX_CONTROL_FRAME_BYTES and frames.decode([exact])
    error = refused(frames.pack(a_head(body={"x": b"y" * (room + 1)})))
    assert error.code == "too-large" and str(defaults.MAX_CONTROL_FRAME_BYTES) in error.text


# ---- bytes that are no msgpack, or a hostile one ---------------------------------------------------------

VALID = frames.pack(a_head())

HOSTILE: list[tuple[str, bytes]] = [
    ("empty", b""),
    ("reserved byte", b"\xc1"),
    ("truncated", VALID[:-1]),
    ("trailing bytes", VALID + b"\x00"),
    ("two values", VALID + VALID),
    ("array32 of 4 G elements", b"\xdd\xff\xff\xff\xff"),
    ("map32 of 4 G elements", b"\xdf\xff\xff\xff\xff"),
    ("str32 of 4 GB", b"\xdb\xff\xff\xff\xff"),
    ("bin32 of 4 GB", b"\xc6\xff\xff\xff\xff"),
    ("ext32 of 4 GB", b"\xc9\xff\xff\xff\xff\x01"),
    ("invalid UTF-8", b"\x98\x01\x01\x07\x08\xa2\xff\xfe\x80\x00\xa0"),
    ("a surrogate", b"\x98\x01\x01\x07\x08\xa3\xed\xa0\x80\x80\x00\xa0"),
    ("fixext", b"\x98\x01\x01\x07\x08\xa1x\x81\xa1e\xd4\x05\x00\x00\xa0"),
    ("ext8", b"\x98\x01\x01\x07\x08\xa1x\x81\xa1e\xc7\x03\x05abc\x00\xa0"),
    ("a timestamp of a wrong size", b"\x98\x01\x01\x07\x08\xa1x\x81\xa1e\xc7\x03\xffabc\x00\xa0"),
    ("an integer as a key", b"\x98\x01\x01\x07\x08\xa1x\x81\x01\x01\x00\xa0"),
    ("a list as a key", b"\x98\x01\x01\x07\x08\xa1x\x81\x90\x01\x00\xa0"),
    ("a map as a key", b"\x98\x01\x01\x07\x08\xa1x\x81\x80\x01\x00\xa0"),
    ("nil as a key", b"\x98\x01\x01\x07\x08\xa1x\x81\xc0\x01\x00\xa0"),
    ("a million levels", nested(1_000_000)),
    ("a million maps", b"\x81\xa1x" * 300_000),
]


@pytest.mark.parametrize("data", [pytest.param(data, id=what) for what, data in HOSTILE])
def test_hostile_bytes_are_a_bad_frame(data: bytes) -> None:
    assert refused(data).code == "bad-frame"


def test_an_extension_type_is_named() -> None:
    with pytest.raises(FrameError, match="extension type 5"):
        frames.unpack(b"\xd4\x05\x00")


@pytest.mark.parametrize("depth", [1, 10, 100, 500, 900, 950, 990, 1000, 1010, 1020, 1023, 1024, 1025, 5000])
@pytest.mark.parametrize("place", range(8))
def test_no_depth_at_any_place_raises_anything_else(place: int, depth: int) -> None:
    """Deep lists are refused where they are: not by their repr, which would end the stack."""
    elements = [frames.pack(element) for element in a_head()]
    elements[place] = nested(depth)
    error = refused(b"\x98" + b"".join(elements))
    assert error.code in ("bad-frame", "bad-version", "bad-body", "too-deep")
    assert len(error.text) < 200


def test_the_depth_of_a_body_is_limited() -> None:
    def body(levels: int) -> bytes:
        inner: Any = 1
        for level in range(levels - 1):
            inner = [inner] if level % 2 else {"k": inner}
        return frames.pack(a_head(body={"k": inner}))

    assert frames.decode([body(defaults.MAX_DEPTH)])
    error = refused(body(defaults.MAX_DEPTH + 1))
    assert error.code == "too-deep" and str(defaults.MAX_DEPTH) in error.text and error.id == 7


@pytest.mark.parametrize(
    ("value", "depth"), [(1, 0), ([], 1), ({}, 1), ([1, [2]], 2), ({"a": [{"b": 1}]}, 3), ([[], [[[]]]], 4)]
)
def test_depth_counts_maps_and_lists(value: Any, depth: int) -> None:
    assert frames.depth_of(value, 32) == depth
    assert frames.depth_of(value, 1) <= 2, "no deeper than asked"


@pytest.mark.parametrize("number", [0, 127, 128, 1 << 32, U64])
def test_huge_integers_fit_where_they_are_meant(number: int) -> None:
    decoded = frames.decode([frames.pack(a_head(id=number, session=number, deadline_ms=number))])
    assert type(decoded) is Request
    assert decoded.id == decoded.session == decoded.deadline_ms == number


@pytest.mark.parametrize("bits", [64, 65, 1000, 100_000])
def test_an_integer_that_msgpack_cannot_carry_is_not_packed(bits: int) -> None:
    for number in (1 << bits, -(1 << bits)):
        with pytest.raises(OverflowError):
            frames.pack({"x": number})
    assert frames.unpack(frames.pack({"x": 1})) == {"x": 1}, "and leaves nothing behind"


@pytest.mark.parametrize("thing", [object(), {1, 2}, {"x": object()}])
def test_other_types_are_not_packed(thing: object) -> None:
    with pytest.raises(TypeError):
        frames.pack(thing)
    assert frames.unpack(frames.pack([1])) == [1]


def test_of_duplicate_keys_the_last_one_counts() -> None:
    """What msgpack does with them; the point is that there is one value and everybody sees the same."""
    frame = b"\x98\x01\x01\x07\x08\xaaload-model\x82\xa5model\xa1a\xa5model\xa1b\x00\xa0"
    decoded = frames.decode([frame])
    assert type(decoded) is Request and decoded.body == {"model": "b"}
    assert messages.validate(decoded) == messages.LoadModel(model="b")


# ---- the data plane --------------------------------------------------------------------------------------

TAG = frames.encode_tag(DataKind.REQUEST, 5, 6)


@pytest.mark.parametrize(
    ("tag", "code", "word"),
    [
        (b"", "bad-frame", "not 0"),
        (TAG[:-1], "bad-frame", "not 21"),
        (TAG + b"x", "bad-frame", "not 23"),
        (b"\x02" + TAG[1:], "bad-version", "version 2"),
        (b"\x01\x00" + TAG[2:], "bad-frame", "kind 0"),
        (b"\x01\x07" + TAG[2:], "bad-frame", "kind 7"),
    ],
)
def test_a_bad_tag_says_what_is_wrong(tag: bytes, code: str, word: str) -> None:
    with pytest.raises(FrameError) as caught:
        frames.decode_tag(tag)
    assert caught.value.code == code and word in caught.value.text


# ---- bodies ----------------------------------------------------------------------------------------------


def invalid(verb: str, body: dict[Any, Any]) -> FrameError:
    with pytest.raises(FrameError) as caught:
        messages.validate(Request(7, 8, verb, body, 0, ""))
    assert (caught.value.id, caught.value.session) == (7, 8)
    return caught.value


def test_an_unknown_verb_names_the_nearest() -> None:
    error = invalid("load-modle", {})
    assert (
        error.code == "unknown-verb"
        and "'load-modle'" in error.text
        and "did you mean load-model" in error.text
    )
    assert "docs/protocol.md" in invalid("xyzzy", {}).text


def test_a_long_unknown_verb_is_cut() -> None:
    assert len(invalid("x" * 100_000, {}).text) < 300


@pytest.mark.parametrize(
    ("verb", "body", "field"),
    [
        ("load-model", {}, "model"),
        ("load-model", {"model": ""}, "model"),
        ("load-model", {"model": 5}, "model"),
        ("load-model", {"model": "x" * 257}, "model"),
        ("load-model", {"model": "m", "wait": 1}, "wait"),
        ("load-model", {"model": "m", "wait": "yes"}, "wait"),
        ("load-model", {"model": "m", "starting_after_ms": -1}, "starting_after_ms"),
        ("load-model", {"model": "m", "starting_after_ms": 1.0}, "starting_after_ms"),
        ("load-model", {"model": "m", "typo": 1}, "typo"),
        ("load-model", {"model": "m", b"bytes": 1}, "bytes"),
        ("hello", {"versions": []}, "versions"),
        ("hello", {"versions": [1, "2"]}, "versions.1"),
        ("hello", {"versions": [True]}, "versions.0"),
        ("hello", {"versions": list(range(17))}, "versions"),
        ("hello", {"versions": [1], "mode": "both"}, "mode"),
        ("status", {"units": "echo"}, "units"),
        ("status", {"units": ["ok", None]}, "units.1"),
        ("wait", {"target": "m", "condition": "soon"}, "condition"),
        ("release", {"lease": -1}, "lease"),
        ("subscribe", {"since": -1}, "since"),
        ("logs", {"unit": "m", "lines": 100_001}, "lines"),
        (
            "backend-hello",
            {"versions": [1], "unit": "u", "incarnation": 0, "token": "", "pid": 1},
            "incarnation",
        ),
        ("stop-service", {"now": True}, "now"),
        ("load-model", {"model": msgpack.Timestamp(1)}, "model"),
    ],
)
def test_a_bad_body_names_its_field(verb: str, body: dict[Any, Any], field: str) -> None:
    error = invalid(verb, body)
    assert error.code == "bad-body" and field in error.text and field in error.detail["field"]
    frames.pack(error.as_body())


# ---- anything at all -------------------------------------------------------------------------------------


def digest(data: bytes) -> None:
    """What a daemon does with bytes of a stranger; only a FrameError may come of it, and it can be sent."""
    try:
        decoded = frames.decode([data])
        if type(decoded) is Request:
            messages.validate(decoded)
    except FrameError as error:
        frames.encode_reply(error.id, error.session, "error", error.as_body())
        assert len(error.text) < 1000


@given(st.binary(max_size=300))
@fuzz
def test_any_bytes(data: bytes) -> None:
    digest(data)
    try:
        frames.decode_tag(data)
    except FrameError as error:
        assert error.text


@given(st.binary(min_size=22, max_size=22))
@fuzz
def test_any_tag(data: bytes) -> None:
    try:
        tag = frames.decode_tag(data)
    except FrameError as error:
        assert error.code in ("bad-frame", "bad-version")
    else:
        assert frames.encode_tag(tag.kind, tag.lease, tag.id, tag.deadline_ms) == data


@given(values)
@fuzz
def test_any_value(value: Any) -> None:
    digest(frames.pack(value))


@given(st.tuples(*[values | st.sampled_from([0, 1, 2, 7])] * 4), st.lists(values, max_size=5))
@fuzz
def test_any_head(start: tuple[Any, ...], rest: list[Any]) -> None:
    digest(frames.pack([*start, *rest]))


@given(st.sampled_from(sorted(messages.REQUESTS)), st.data())
@fuzz
def test_any_body_of_a_verb(verb: str, data: st.DataObject) -> None:
    fields = st.sampled_from([*messages.REQUESTS[verb].body.model_fields, "unknown"])
    keys = fields | st.binary(max_size=4)
    body = data.draw(st.dictionaries(keys, values, max_size=5))
    digest(frames.pack(a_head(verb=verb, body=body)))


@given(st.integers(0, len(VALID) * 8 - 1), st.integers(0, len(VALID)))
@fuzz
def test_any_flipped_bit_and_any_cut(bit: int, cut: int) -> None:
    flipped = bytearray(frames.encode_request(1, 2, "load-model", {"model": "echo", "wait": True}, 5, "key"))
    flipped[bit // 8] ^= 1 << bit % 8
    digest(bytes(flipped))
    digest(bytes(flipped[:cut]))
