"""The published frames of proto/vectors: read from the files alone, as a peer in another language would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mgmt.protocol import frames, messages
from mgmt.protocol.errors import TABLE
from mgmt.protocol.frames import DataKind, FrameError

PROTO = Path(__file__).parents[2] / "proto"
INDEX = json.loads((PROTO / "vectors/index.json").read_text(encoding="utf-8"))
SCHEMA = json.loads((PROTO / "mgmt.schema.json").read_text(encoding="utf-8"))
ROWS: list[dict[str, Any]] = INDEX["vectors"]


def rows(plane: str, refused: bool) -> list[Any]:
    chosen = [row for row in ROWS if row["plane"] == plane and ("refused" in row) is refused]
    assert chosen, f"no vector of the {plane} plane: this test looks at nothing"
    return [pytest.param(row, id=row["file"].removesuffix(".hex")) for row in chosen]


def read(row: dict[str, Any]) -> list[bytes]:
    """The frames of a file: one a line, `XX*N` is a byte repeated."""
    message: list[bytes] = []
    for line in (PROTO / "vectors" / row["file"]).read_text(encoding="ascii").split("\n")[:-1]:
        digits, _, times = line.partition("*")
        message.append(bytes.fromhex(digits) * int(times or 1))
    return message


def unplain(value: Any) -> Any:
    """JSON of the index -> msgpack value."""
    if isinstance(value, dict):
        return (
            bytes.fromhex(value["hex"])
            if set(value) == {"hex"}
            else {k: unplain(v) for k, v in value.items()}
        )
    return [unplain(item) for item in value] if isinstance(value, list) else value


def judge(message: list[bytes]) -> None:
    """What a daemon does with a control message before it acts on it."""
    decoded = frames.decode(message)
    if isinstance(decoded, frames.Request):
        messages.validate(decoded)


@pytest.mark.parametrize("row", rows("control", refused=False))
def test_a_message_reads_as_published_and_is_written_again_alike(row: dict[str, Any]) -> None:
    message = read(row)
    decoded = frames.decode(message)
    body = unplain(row["body"])
    assert decoded.body == body
    match decoded:
        case frames.Request(id, session, verb, _, deadline_ms, key):
            assert (verb, row["kind"]) == (row["name"], "request")
            assert [id, session, deadline_ms, key] == [
                row[name] for name in ("id", "session", "deadline_ms", "key")
            ]
            messages.validate(decoded)
            again = frames.encode_request(id, session, verb, body, deadline_ms, key)
        case frames.Reply(id, session, outcome, _):
            assert (id, session, outcome, row["kind"]) == (row["id"], row["session"], row["outcome"], "reply")
            again = frames.encode_reply(id, session, outcome, body)
            assert frames.encode_reply_packed(id, session, outcome, frames.pack(body)) == again
            if outcome == "ok":
                reply = messages.REQUESTS[row["name"]].reply
                assert reply is not None
                reply.model_validate(body)
            else:
                assert body["retryable"] is TABLE[body["code"]].retryable
        case frames.Event(seq, session, kind, _):
            assert (seq, session, kind, row["kind"]) == (row["seq"], row["session"], row["name"], "event")
            messages.EVENTS[kind].model_validate(body)
            again = frames.encode_event(seq, session, kind, body)
        case frames.Notice(session, name, _):
            assert (session, name, row["kind"]) == (row["session"], row["name"], "notice")
            messages.NOTICES[name].body.model_validate(body)
            again = frames.encode_notice(session, name, body)
    assert [again] == message


@pytest.mark.parametrize("row", rows("control", refused=False))
def test_the_published_schema_accepts_every_message(row: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(SCHEMA)
    value = frames.unpack(read(row)[0])
    # JSON Schema has no bytes; a msgpack bin stands as a string of format binary.
    errors = list(validator.iter_errors(json.loads(json.dumps(value, default=lambda data: data.hex()))))
    assert not errors


@pytest.mark.parametrize("row", rows("control", refused=True))
def test_a_refused_message_is_refused_for_the_published_reason(row: dict[str, Any]) -> None:
    with pytest.raises(FrameError) as refused:
        judge(read(row))
    assert refused.value.code == row["refused"]
    assert refused.value.detail.get("field") == row.get("field")


def test_a_refusal_names_the_request_when_it_can_be_read() -> None:
    row = next(row for row in ROWS if row["file"] == "refused-other-version.hex")
    with pytest.raises(FrameError) as refused:
        judge(read(row))
    assert refused.value.id == 5
    assert refused.value.detail["versions"] == [frames.VERSION]


@pytest.mark.parametrize("row", rows("data", refused=False))
def test_a_data_tag_reads_as_published_and_is_written_again_alike(row: dict[str, Any]) -> None:
    tag, payload = read(row)
    decoded = frames.decode_tag(tag)
    kind = DataKind[row["kind"]]
    assert decoded == (frames.VERSION, kind, row["deadline_ms"], row["lease"], row["id"])
    assert frames.encode_tag(kind, row["lease"], row["id"], row["deadline_ms"]) == tag
    assert frames.unpack(payload) == unplain(row["payload"])


@pytest.mark.parametrize("row", rows("data", refused=True))
def test_a_refused_data_tag_is_refused_for_the_published_reason(row: dict[str, Any]) -> None:
    with pytest.raises(FrameError) as refused:
        frames.decode_tag(read(row)[0])
    assert refused.value.code == row["refused"]


def test_every_message_of_the_table_has_a_frame() -> None:
    published = {(row["kind"], row["name"]) for row in ROWS if row["plane"] == "control" and "kind" in row}
    wanted = {("request", name) for name in messages.REQUESTS} | {
        ("reply", name) for name in messages.REQUESTS
    }
    wanted |= {("notice", name) for name in messages.NOTICES} | {("event", name) for name in messages.EVENTS}
    wanted |= {("reply", str(outcome)) for outcome in frames.Outcome if outcome != "ok"}
    assert published == wanted
    assert {row["kind"] for row in ROWS if row["plane"] == "data" and "kind" in row} == set(
        DataKind.__members__
    )


def test_every_way_to_refuse_a_frame_has_one() -> None:
    assert {row["refused"] for row in ROWS if "refused" in row} == {
        "bad-frame", "too-large", "too-deep", "bad-version", "unknown-verb", "bad-body",
    }  # fmt: skip
