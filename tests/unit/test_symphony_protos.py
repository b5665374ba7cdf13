"""The ancestor's protobuf messages: fixed bytes worked out from field numbers, and the published schemas."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mgmt.protocol.symphony_messages import FILES, BadMessage, message_class, parse, serialize
from tests.protos import PROTO, published

# A tag byte is number << 3 | wire type: 0 varint, 2 length-delimited. Spaces part fields and levels.
ROWS: list[tuple[str, dict[str, Any], str]] = [
    ("handshake.Request", {}, ""),
    ("handshake.Response", {"protocols": ["l4m", "ping"]}, "0a 03 6c346d  0a 04 70696e67"),
    ("ping.Ping", {"correlation_id": 7, "message": "hi"}, "08 07  12 02 6869"),
    ("ping.Pong", {"correlation_id": 300, "message": "Pong:hi"}, "08 ac02  12 07 506f6e673a6869"),
    (
        "l4m.Request",
        {"correlation_id": 1, "allocate": {"items": [{"kind": 1, "object_id_offset": 16, "count": 3}]}},
        "08 01  12 08  0a 06  08 01 10 10 18 03",
    ),
    (
        "l4m.Request",
        {"correlation_id": 2, "deallocate": {"items": [{"kind": 3, "count": 2}]}},
        "08 02  1a 06  0a 04  08 03 18 02",
    ),
    (
        "l4m.Request",
        {
            "correlation_id": 3,
            "embed_text": {"items": [{"embedding_id": 5, "token_id": 1000, "position_id": 2}]},
        },
        "08 03  22 09  0a 07  08 05 10 e807 18 02",
    ),
    (
        "l4m.Request",
        {
            "correlation_id": 4,
            "fill_block": {
                "items": [
                    {
                        "last_block_len": 4,
                        "context_block_ids": [1, 2],
                        "input_embedding_ids": [3],
                        "output_embedding_ids": [300],
                    }
                ]
            },
        },
        "08 04  2a 0f  0a 0d  08 04 12 02 0102 1a 01 03 22 02 ac02",
    ),
    (
        "l4m.Request",
        {"correlation_id": 5, "mask_block": {"items": [{"block_id": 9, "mask": [True, False, True]}]}},
        "08 05  32 09  0a 07  08 09 12 03 010001",
    ),
    (
        "l4m.Request",
        {
            "correlation_id": 6,
            "copy_block": {
                "items": [
                    {
                        "source_block_id": 1,
                        "destination_block_id": 2,
                        "source_start": 3,
                        "destination_start": 4,
                        "length": 5,
                    }
                ]
            },
        },
        "08 06  3a 0c  0a 0a  08 01 10 02 18 03 20 04 28 05",
    ),
    (
        "l4m.Request",
        {
            "correlation_id": 7,
            "decode_token_distribution": {"items": [{"embedding_id": 1, "distribution_id": 2}]},
        },
        "08 07  42 06  0a 04  08 01 10 02",
    ),
    (
        "l4m.Request",
        {"correlation_id": 8, "sample_top_k_request": {"items": [{"distribution_id": 6, "k": 5}]}},
        "08 08  4a 06  0a 04  08 06 10 05",
    ),
    ("l4m.Request", {"correlation_id": 9, "get_info": {}}, "08 09  52 00"),
    (
        "l4m.Response",
        {
            "correlation_id": 10,
            "sample_top_k": {"items": [{"token_ids": [7, 300], "probabilities": [0.5, 0.25]}]},
        },
        "08 0a  12 11  0a 0f  0a 03 07ac02 12 08 0000003f0000803e",
    ),
    (
        "l4m.Response",
        {
            "correlation_id": 11,
            "get_info": {
                "version": "1",
                "model_name": "m",
                "block_size": 16,
                "num_available_blocks": 1024,
                "num_available_embeddings": 2,
                "num_available_distributions": 3,
            },
        },
        "08 0b  1a 0f  0a 01 31 12 01 6d 18 10 20 8008 28 02 30 03",
    ),
    (
        "l4m.vision.Request",
        {"correlation_id": 1, "embed_image": {"items": [{"embedding_ids": [1, 2], "image_blob": b"\xff\0"}]}},
        "08 01  12 0a  0a 08  0a 02 0102 12 02 ff00",
    ),
    ("l4m.vision.Response", {"correlation_id": 42}, "08 2a"),
]


@pytest.mark.parametrize(("name", "fields", "wire"), ROWS)
def test_a_message_is_exactly_these_bytes(name: str, fields: dict[str, Any], wire: str) -> None:
    message = message_class(name)(**fields)
    assert serialize(message).hex() == wire.replace(" ", "")
    assert parse(name, bytes.fromhex(wire)) == message


def test_the_rows_reach_every_message_and_field_of_the_table() -> None:
    used: set[tuple[str, str]] = set()

    def visit(message: Any) -> None:
        name = message.DESCRIPTOR.full_name
        used.add((name, ""))
        for descriptor, value in message.ListFields():
            used.add((name, descriptor.name))
            if descriptor.message_type:
                for child in [value] if hasattr(value, "DESCRIPTOR") else value:
                    visit(child)

    for name, _, wire in ROWS:
        visit(parse(name, bytes.fromhex(wire)))
    table = {
        (f"{file.package}.{name}", field)
        for file in FILES.values()
        for name, fields in file.messages.items()
        for field in ("", *(row.name for row in fields))
    }
    assert table - used == {("l4m.Deallocate", "object_id_offset")}, (
        "which is 0 in its row, so not on the wire"
    )


def test_only_one_command_is_set_in_a_request() -> None:
    both = bytes.fromhex("1200 5200")  # allocate, then get_info: the last one wins
    assert parse("l4m.Request", both).WhichOneof("command") == "get_info"


def test_unknown_fields_are_accepted() -> None:
    ping = parse("ping.Ping", bytes.fromhex("08 07  98 06 01"))  # number 99
    assert (ping.correlation_id, ping.message) == (7, "")


def test_unpacked_numbers_of_an_old_encoder_are_read() -> None:
    assert list(parse("l4m.SampleTopKResponse", bytes.fromhex("08 07  08 09")).token_ids) == [7, 9]


@pytest.mark.parametrize(
    ("name", "wire"),
    [
        pytest.param("ping.Ping", "00", id="field number 0"),
        pytest.param("ping.Ping", "12 05 68", id="cut string"),
        pytest.param("ping.Ping", "12 01 ff", id="string that is not UTF-8"),
        pytest.param("l4m.Request", "12 02 0a 05", id="cut inside a batch"),
    ],
)
def test_bytes_that_are_no_message_are_named(name: str, wire: str) -> None:
    with pytest.raises(BadMessage, match=re.escape(f"not a {name}")):
        parse(name, bytes.fromhex(wire))


def test_an_unknown_message_name_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        message_class("l4m.Nothing")


# --- the published text -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_the_published_schema_is_the_table(name: str) -> None:
    text = (PROTO / name).read_text(encoding="utf-8")
    assert 'syntax = "proto3";' in text
    assert published(text) == FILES[name]


def test_the_reader_of_schemas_sees_a_difference() -> None:
    text = (PROTO / "ping.proto").read_text(encoding="utf-8")
    assert published(text.replace("string message = 2", "string message = 3")) != FILES["ping.proto"]
    assert published(text.replace("message Pong", "message Pang")) != FILES["ping.proto"]
