"""The ancestor's protobuf messages: `FILES` holds every message by name and field number.

The same schemas are published as text in `proto/*.proto`; a test holds the two together.
"""

from __future__ import annotations

from typing import Any

from .protobuf import BadMessage, Field, File, Schemas, serialize

__all__ = ["FILES", "BadMessage", "Field", "File", "message_class", "parse", "serialize"]


def _uint32s(*names: str) -> tuple[Field, ...]:
    return tuple(Field("uint32", name, number) for number, name in enumerate(names, start=1))


def _batch(item: str) -> tuple[Field, ...]:
    return (Field(item, "items", 1, repeated=True),)


def _choice(*rows: tuple[str, str]) -> tuple[Field, ...]:
    """The envelope of both directions: correlation id, then one of the (type, name) rows from number 2 on."""
    members = (
        Field(kind, name, number, oneof="command") for number, (kind, name) in enumerate(rows, start=2)
    )
    return (Field("uint32", "correlation_id", 1), *members)


_OBJECTS = (
    Field("ObjectKind", "kind", 1),
    Field("uint32", "object_id_offset", 2),
    Field("uint32", "count", 3),
)
_TEXT = (Field("uint32", "correlation_id", 1), Field("string", "message", 2))

FILES: dict[str, File] = {
    "handshake.proto": File(
        "handshake", {"Request": (), "Response": (Field("string", "protocols", 1, repeated=True),)}, {}
    ),
    "ping.proto": File("ping", {"Ping": _TEXT, "Pong": _TEXT}, {}),
    "l4m.proto": File(
        "l4m",
        {
            "Allocate": _OBJECTS,
            "BatchAllocate": _batch("Allocate"),
            "Deallocate": _OBJECTS,
            "BatchDeallocate": _batch("Deallocate"),
            "EmbedText": _uint32s("embedding_id", "token_id", "position_id"),
            "BatchEmbedText": _batch("EmbedText"),
            "FillBlock": (
                Field("uint32", "last_block_len", 1),
                Field("uint32", "context_block_ids", 2, repeated=True),
                Field("uint32", "input_embedding_ids", 3, repeated=True),
                Field("uint32", "output_embedding_ids", 4, repeated=True),
            ),
            "BatchFillBlock": _batch("FillBlock"),
            "MaskBlock": (Field("uint32", "block_id", 1), Field("bool", "mask", 2, repeated=True)),
            "BatchMaskBlock": _batch("MaskBlock"),
            "CopyBlock": _uint32s(
                "source_block_id", "destination_block_id", "source_start", "destination_start", "length"
            ),
            "BatchCopyBlock": _batch("CopyBlock"),
            "DecodeTokenDistribution": _uint32s("embedding_id", "distribution_id"),
            "BatchDecodeTokenDistribution": _batch("DecodeTokenDistribution"),
            "SampleTopKRequest": _uint32s("distribution_id", "k"),
            "BatchSampleTopKRequest": _batch("SampleTopKRequest"),
            "SampleTopKResponse": (
                Field("uint32", "token_ids", 1, repeated=True),
                Field("float", "probabilities", 2, repeated=True),
            ),
            "BatchSampleTopKResponse": _batch("SampleTopKResponse"),
            "GetInfoRequest": (),
            "GetInfoResponse": (
                Field("string", "version", 1),
                Field("string", "model_name", 2),
                Field("uint32", "block_size", 3),
                Field("uint32", "num_available_blocks", 4),
                Field("uint32", "num_available_embeddings", 5),
                Field("uint32", "num_available_distributions", 6),
            ),
            "Request": _choice(
                ("BatchAllocate", "allocate"),
                ("BatchDeallocate", "deallocate"),
                ("BatchEmbedText", "embed_text"),
                ("BatchFillBlock", "fill_block"),
                ("BatchMaskBlock", "mask_block"),
                ("BatchCopyBlock", "copy_block"),
                ("BatchDecodeTokenDistribution", "decode_token_distribution"),
                ("BatchSampleTopKRequest", "sample_top_k_request"),
                ("GetInfoRequest", "get_info"),
            ),
            "Response": _choice(("BatchSampleTopKResponse", "sample_top_k"), ("GetInfoResponse", "get_info")),
        },
        {
            "ObjectKind": (
                "OBJECT_KIND_UNSPECIFIED",
                "OBJECT_KIND_KV_BLOCK",
                "OBJECT_KIND_EMB",
                "OBJECT_KIND_DIST",
            )
        },
    ),
    "l4m_vision.proto": File(
        "l4m.vision",
        {
            "EmbedImage": (
                Field("uint32", "embedding_ids", 1, repeated=True),
                Field("bytes", "image_blob", 2),
            ),
            "BatchEmbedImage": _batch("EmbedImage"),
            "Request": _choice(("BatchEmbedImage", "embed_image")),
            "Response": _uint32s("correlation_id"),
        },
        {},
    ),
}

_SCHEMAS = Schemas(FILES)


def message_class(full_name: str) -> Any:
    """The class of a message by its full name; see Schemas.message_class."""
    return _SCHEMAS.message_class(full_name)


def parse(full_name: str, payload: bytes) -> Any:
    """Decode `payload`; see Schemas.parse."""
    return _SCHEMAS.parse(full_name, payload)
