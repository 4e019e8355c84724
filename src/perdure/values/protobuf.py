"""Protobuf messages by a descriptor set (extra ``protobuf``)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, final

from perdure.errors import MalformedError, UnsupportedError
from perdure.values.format import Format

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

    def decode(self, data: bytes) -> Any:
        """The message as JSON has it, by the names of its fields."""
        try:
            return json_format.MessageToDict(self._class.FromString(data), preserving_proto_field_name=True)
        except (DecodeError, ValueError) as error:
            raise MalformedError(f"no {self._message}: {error}") from error

    def encode(self, value: Any) -> bytes:
        """A message out of such a value."""
        try:
            return bytes(json_format.ParseDict(value, self._class()).SerializeToString())
        except json_format.ParseError as error:
            raise ValueError(str(error)) from error
