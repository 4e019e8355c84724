"""Protobuf messages by a descriptor set (extra ``protobuf``)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Self, final

from perdure.errors import MalformedError, UnsupportedError
from perdure.values.format import Format, Value

try:
    from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
    from google.protobuf.message import DecodeError
except ImportError as error:
    raise UnsupportedError("protobuf values need `pip install 'perdure[protobuf]'`") from error

__all__ = ["Protobuf"]


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
    def parse(cls, name: str, arguments: list[str] | None, inner: Callable[[str], Format]) -> Self:
        """``protobuf(FILE, MESSAGE)``."""
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
