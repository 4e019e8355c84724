"""Protobuf messages by a descriptor set, or of declared parts (extra ``protobuf``).

Of declared parts, field n is the part number n:

| part | field |
|---|---|
| ``u8`` to ``u32``, ``u64``; ``i8`` to ``i32``, ``i64`` | ``uint32``, ``uint64``; ``sint32``, ``sint64`` |
| ``f32``, ``f64``, ``bool``, ``text`` | ``float``, ``double``, ``bool``, ``string`` |
| anything else | ``bytes`` |
| ``Option<TYPE>`` | the same, ``optional`` |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, final

from perdure.errors import MalformedError, UnsupportedError
from perdure.values.format import Format, Value
from perdure.values.named import Named, Slot

try:
    from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
    from google.protobuf.message import DecodeError
except ImportError as error:
    raise UnsupportedError("protobuf values need `pip install 'perdure[protobuf]'`").coded("extra-missing") from error

__all__ = ["Protobuf", "ProtobufParts"]

_PART: Final = re.compile(r"[^\W\d]\w*\s*:\s*[^\\/\s]")


@final
class Protobuf(Format):
    """One message.

    Args:
        path: what ``protoc --descriptor_set_out`` wrote.
        message: full name.
    """

    def __init__(self, path: str, message: str) -> None:
        self.name = f"protobuf({path}, {message})"
        self._message = message
        try:
            files = descriptor_pb2.FileDescriptorSet.FromString(Path(path).read_bytes())
            pool = descriptor_pool.DescriptorPool()
            for file in files.file:
                pool.Add(file)
            self._class = message_factory.GetMessageClass(pool.FindMessageTypeByName(message))
        except (OSError, DecodeError, KeyError, TypeError) as error:
            raise ValueError(f"no message {message} in {path}: {error}") from error
        self.fields = tuple(entry.name for entry in self._class.DESCRIPTOR.fields)

    @classmethod
    def parse(cls, name: str, arguments: list[str] | None, inner: Callable[[str], Format]) -> Format:
        """``protobuf(FILE, MESSAGE)``, or ``protobuf(NAME: TYPE, ...)``."""
        if arguments and all(_PART.match(one) for one in arguments):
            return ProtobufParts.parse(name, arguments, inner)
        if arguments is None or len(arguments) != 2:
            raise ValueError(f"a message is written protobuf(FILE, MESSAGE), found {name!r}")
        return cls(*arguments)

    def decode(self, data: bytes) -> Value:
        """The message as JSON has it, by the names of its fields."""
        try:
            return json_format.MessageToDict(self._class.FromString(data), preserving_proto_field_name=True)
        except (DecodeError, ValueError) as error:
            raise MalformedError(f"no {self._message}: {error}") from error

    def encode(self, value: Value) -> bytes:
        """A message out of such a value."""
        try:
            return bytes(json_format.ParseDict(value, self._class()).SerializeToString())
        except json_format.ParseError as error:
            raise ValueError(str(error)) from error


_Field: Final = descriptor_pb2.FieldDescriptorProto
_TYPES: Final[Mapping[str, Value]] = {
    **dict.fromkeys(("u8", "u16", "u32"), _Field.TYPE_UINT32),
    **dict.fromkeys(("i8", "i16", "i32"), _Field.TYPE_SINT32),
    "u64": _Field.TYPE_UINT64,
    "i64": _Field.TYPE_SINT64,
    "f32": _Field.TYPE_FLOAT,
    "f64": _Field.TYPE_DOUBLE,
    "bool": _Field.TYPE_BOOL,
    "text": _Field.TYPE_STRING,
}


_NARROW: Final = ("u8", "u16", "i8", "i16")


@final
class ProtobufParts(Named):
    """``protobuf(NAME: TYPE, ...)``: a message of these fields; a part that is not there is 0, or empty, or null."""

    family = "protobuf"

    def __init__(self, name: str, inner: Mapping[str, Format]) -> None:
        super().__init__(name, inner)
        try:
            self._class = message_factory.GetMessageClass(_described(self.slots))
        except TypeError as error:
            raise ValueError(f"{name!r} is no message: {error}") from error

    def decode(self, data: bytes) -> dict[str, Value]:
        """The parts by name; fields of other numbers are not looked at."""
        try:
            found = self._class.FromString(bytes(data))
        except (DecodeError, ValueError) as error:
            raise MalformedError(f"no message of {', '.join(self.fields)}: {error}") from error
        return {one.label: self._read(one, found) for one in self.slots}

    def _read(self, slot: Slot, message: Value) -> Value:
        if slot.is_optional and not message.HasField(slot.label):
            return None
        value = getattr(message, slot.label)
        if slot.kind in _TYPES:
            if slot.kind in _NARROW:  # the field takes more
                try:
                    slot.format.encode(value)
                except ValueError as error:
                    raise MalformedError(f"part {slot.label!r} holds {slot.format.name}, found {value}") from error
            return value
        if not value and not slot.format.is_valid(b""):
            return None  # it is not there
        return slot.format.decode(value)

    def encode(self, value: object) -> bytes:
        """The message."""
        message: Value = self._class()
        for slot, one in zip(self.slots, self.values_of(value), strict=True):
            checked = slot.checked(one)
            if checked is not None:
                setattr(message, slot.label, checked if slot.kind in _TYPES else slot.format.encode(checked))
        return bytes(message.SerializeToString(deterministic=True))


def _described(slots: tuple[Slot, ...]) -> Value:
    """A message type of fields numbered from 1, in a pool of its own."""
    file = descriptor_pb2.FileDescriptorProto(name="parts.proto", package="perdure", syntax="proto3")
    message = file.message_type.add(name="Parts")
    for number, slot in enumerate(slots, 1):
        kind = _TYPES.get(slot.kind, _Field.TYPE_BYTES)
        field = message.field.add(name=slot.label, number=number, label=_Field.LABEL_OPTIONAL, type=kind)
        if slot.is_optional:
            field.proto3_optional = True
            field.oneof_index = len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{slot.label}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool.FindMessageTypeByName("perdure.Parts")


_WIRE = {"varint": {3, 4, 5, 8, 13, 14, 17, 18}, "fixed64": {1, 6, 16}, "fixed32": {2, 7, 15}, "bytes": {9, 11, 12}}
_ALIKE = ({5, 3, 13, 4, 8, 14}, {17, 18}, {6, 16}, {7, 15}, {9, 12})
"""Types, by descriptor number, that read each other's values: of one sign and coding."""


def compare_messages(old: Format, new: Format, depth: int = 0) -> tuple[Value, str]:
    """How two messages go together, field by number: the verdict of `perdure.values.compatibility`, and why."""
    assert isinstance(old, Protobuf)
    assert isinstance(new, Protobuf)
    return _compare(old._class.DESCRIPTOR, new._class.DESCRIPTOR, set())


def _compare(old: Value, new: Value, seen: set[tuple[str, str]]) -> tuple[str, str]:
    if (old.full_name, new.full_name) in seen:
        return "compatible", ""
    seen.add((old.full_name, new.full_name))
    after = {field.number: field for field in new.fields}
    found: list[tuple[str, str]] = []
    for field in old.fields:
        other = after.get(field.number)
        if other is None:
            found.append(
                ("one way", f"field {field.name} ({field.number}) is gone, and lost when a message is written")
            )
        else:
            found.append(_compare_field(field, other, seen))
    order = ("compatible", "one way", "breaking", "silently wrong")
    return max(found, key=lambda one: order.index(one[0]), default=("compatible", ""))


def _compare_field(old: Value, new: Value, seen: set[tuple[str, str]]) -> tuple[str, str]:
    place = f"field {old.name} ({old.number})"
    wires = [next((wire for wire, types in _WIRE.items() if one.type in types), "group") for one in (old, new)]
    if wires[0] != wires[1]:
        return "silently wrong", f"{place}: the new type is of another wire type, the field is read as unknown"
    if old.message_type is not None and new.message_type is not None:
        verdict, what = _compare(old.message_type, new.message_type, seen)
        return verdict, f"{place}: {what}" if what else ""
    if old.type != new.type and not any({old.type, new.type} <= alike for alike in _ALIKE):
        return "silently wrong", f"{place}: the same bytes are another value"
    if old.type != new.type:
        return "one way", f"{place}: large values do not fit both types"
    if old.name != new.name:
        return "silently wrong", f"{place} is called {new.name} now: a number that is used again reads old values"
    return "compatible", ""
