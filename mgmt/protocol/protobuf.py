"""Protobuf messages described by tables instead of generated code.

Message classes are built from a table on first use, in a descriptor pool of their own: no protobuf compiler is
needed anywhere, and a program that brings its own generated modules of the same schemas does not collide with
these. Importing this module does not import protobuf (30 ms).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from google.protobuf.descriptor_pool import DescriptorPool

SCALARS = ("int32", "int64", "uint32", "uint64", "bool", "float", "string", "bytes")


class BadMessage(ValueError):
    """The bytes are not a serialized message of the wanted type."""


class Field(NamedTuple):
    """One field: `type` is one of SCALARS or the name of a message or enum of the same file."""

    type: str
    name: str
    number: int
    repeated: bool = False
    oneof: str = ""


class File(NamedTuple):
    """One schema file: proto package, messages in order, enums (name -> value names from 0 on), services
    (name -> method -> (message asked with, message answered with))."""

    package: str
    messages: dict[str, tuple[Field, ...]]
    enums: dict[str, tuple[str, ...]]
    services: Mapping[str, Mapping[str, tuple[str, str]]] = {}


class Schemas:
    """The message classes of some files, none of which imports another."""

    def __init__(self, files: Mapping[str, File]) -> None:
        self._files = files
        self._pool: DescriptorPool | None = None
        self._classes: dict[str, Any] = {}

    def message_class(self, full_name: str) -> Any:
        """The class of a message by its full name, `l4m.vision.Request` for example; KeyError when there is none.

        The fields of a class made at run time are unknown to the type checker, hence `Any`.
        """
        found = self._classes.get(full_name)
        if found is None:
            from google.protobuf.message_factory import GetMessageClass

            if self._pool is None:
                self._pool = _pool(self._files)
            found = self._classes[full_name] = GetMessageClass(self._pool.FindMessageTypeByName(full_name))
        return found

    def parse(self, full_name: str, payload: bytes) -> Any:
        """Decode `payload`; unknown fields are accepted, as proto3 wants. Raises BadMessage."""
        from google.protobuf.message import DecodeError

        message = self.message_class(full_name)()
        try:
            message.ParseFromString(payload)
        except DecodeError as fault:
            raise BadMessage(f"{len(payload)} bytes are not a {full_name}: {fault}") from fault
        return message


def serialize(message: Any) -> bytes:
    """Encode a message; equal messages give equal bytes."""
    return bytes(message.SerializeToString(deterministic=True))


def _pool(files: Mapping[str, File]) -> DescriptorPool:
    """A private pool with every file of the table in it."""
    from google.protobuf import descriptor_pb2
    from google.protobuf.descriptor_pool import DescriptorPool

    proto = descriptor_pb2.FieldDescriptorProto
    scalars = {name: proto.Type.Value(f"TYPE_{name.upper()}") for name in SCALARS}
    pool = DescriptorPool()
    for file_name, (package, messages, enums, _) in files.items():
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
