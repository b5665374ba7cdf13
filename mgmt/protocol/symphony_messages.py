"""The ancestor's protobuf messages, described by one table instead of generated code.

`FILES` holds every message by name and field number. Message classes are built from it on first use, in a
descriptor pool of their own, so no protobuf compiler is needed anywhere, a program that brings its own
generated `l4m_pb2` does not collide with these, and importing this module does not import protobuf (30 ms).
The same schemas are published as text in `proto/*.proto`; a test holds the two together.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from google.protobuf.descriptor_pool import DescriptorPool


class BadMessage(ValueError):
    """The bytes are not a serialized message of the wanted type."""


class Field(NamedTuple):
    """One field: `type` is a protobuf scalar or the name of a message or enum of the same file."""

    type: str
    name: str
    number: int
    repeated: bool = False
    oneof: str = ""


class File(NamedTuple):
    """One schema file: proto package, messages in order, enums (name -> value names from 0 on)."""

    package: str
    messages: dict[str, tuple[Field, ...]]
    enums: dict[str, tuple[str, ...]]


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


@cache
def _pool() -> DescriptorPool:
    """A private pool with every file of the table in it."""
    from google.protobuf import descriptor_pb2
    from google.protobuf.descriptor_pool import DescriptorPool

    proto = descriptor_pb2.FieldDescriptorProto
    scalars = {
        name: proto.Type.Value(f"TYPE_{name.upper()}")
        for name in ("uint32", "bool", "float", "string", "bytes")
    }
    pool = DescriptorPool()
    for file_name, (package, messages, enums) in FILES.items():
        file = descriptor_pb2.FileDescriptorProto(name=file_name, package=package, syntax="proto3")
        for enum_name, values in enums.items():
            enum = file.enum_type.add(name=enum_name)
            for number, value in enumerate(values):
                enum.value.add(name=value, number=number)
        for message_name, fields in messages.items():
            target = file.message_type.add(name=message_name)
            for row in fields:
                field = target.field.add(name=row.name, number=row.number)
                field.label = proto.LABEL_REPEATED if row.repeated else proto.LABEL_OPTIONAL
                if row.type in scalars:
                    field.type = scalars[row.type]
                else:
                    field.type = proto.TYPE_ENUM if row.type in enums else proto.TYPE_MESSAGE
                    field.type_name = f".{package}.{row.type}"
                if row.oneof:
                    if not target.oneof_decl:
                        target.oneof_decl.add(name=row.oneof)
                    field.oneof_index = 0  # no message of the table has a second oneof
        pool.AddSerializedFile(file.SerializeToString())
    return pool


@cache
def message_class(full_name: str) -> Any:
    """The class of a message by its full name, `l4m.vision.Request` for example; KeyError when there is none.

    The fields of a class made at run time are unknown to the type checker, hence `Any`.
    """
    from google.protobuf.message_factory import GetMessageClass

    return GetMessageClass(_pool().FindMessageTypeByName(full_name))


def parse(full_name: str, payload: bytes) -> Any:
    """Decode `payload`; unknown fields are accepted, as proto3 wants. Raises BadMessage."""
    from google.protobuf.message import DecodeError

    message = message_class(full_name)()
    try:
        message.ParseFromString(payload)
    except DecodeError as fault:
        raise BadMessage(f"{len(payload)} bytes are not a {full_name}: {fault}") from fault
    return message


def serialize(message: Any) -> bytes:
    """Encode a message; equal messages give equal bytes."""
    return bytes(message.SerializeToString(deterministic=True))
