"""Formats without parts that no type of the crate has."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Final, final

from perdure.errors import MalformedError
from perdure.stable.kind import BYTES, Kind, integer
from perdure.values.format import Format, Value, from_hex

__all__ = ["RAW", "Json", "LittleEndian", "Raw"]


@final
class Raw(Format):
    """Bytes of unknown meaning. Their order is taken to be that of the bytes, without being sure of it."""

    name = "raw"
    kind = BYTES
    sql_ordered = True
    stored_as: str | None = "bytes"

    @classmethod
    def parse(cls, name: str, arguments: list[str] | None, inner: Callable[[str], Format]) -> Raw:
        """The only one."""
        super().parse(name, arguments, inner)
        return RAW

    def decode(self, data: bytes) -> bytes:
        """The bytes."""
        return bytes(data)

    def encode(self, value: Value) -> bytes:
        """The bytes."""
        return bytes(value)

    def from_text(self, text: str) -> bytes:
        """Hexadecimal, whatever else it looks like."""
        return from_hex(text)


RAW: Final = Raw()


@final
class LittleEndian(Format):
    """A number, little-endian: ``u16le``, ``i64le``, ``f64le``."""

    is_fixed = True
    is_ordered = True

    def __init__(self, name: str) -> None:
        self.name = name
        letter, bits = name[0], int(name[1:].removesuffix("le"))
        self._size = self.max_size = bits // 8
        self._is_signed = letter == "i"
        self._struct = struct.Struct("<f" if bits == 32 else "<d") if letter == "f" else None
        self.kind = Kind("float", bits) if letter == "f" else integer(bits, is_signed=self._is_signed)
        self.order = self.decode
        self.sql_ordered = not (bits > 64 and self._is_signed)
        self.stored_as = f"<{letter}{self._size}" if bits <= 64 else None

    @property
    def collation(self) -> str:
        """Of integers."""
        if self._struct is not None:
            return "other"
        return "little-signed" if self._is_signed else "little"

    def decode(self, data: bytes) -> Value:
        """The number."""
        if len(data) != self._size:
            raise MalformedError(f"a {self.name} has {self._size} bytes, found {len(data)}")
        if self._struct is not None:
            return self._struct.unpack(data)[0]
        return int.from_bytes(data, "little", signed=self._is_signed)

    def encode(self, value: Value) -> bytes:
        """Its bytes."""
        try:
            if self._struct is not None:
                return self._struct.pack(value)
            encoded: bytes = value.to_bytes(self._size, "little", signed=self._is_signed)
        except (AttributeError, OverflowError, struct.error) as error:
            raise ValueError(f"{value!r} is no {self.name}") from error
        return encoded


@final
class Json(Format):
    """One JSON text."""

    name = "json"

    @classmethod
    def parse(cls, name: str, arguments: list[str] | None, inner: Callable[[str], Format]) -> Format:
        """``json``, or ``json(NAME: TYPE, ...)``, which is an object."""
        if arguments is None:
            return cls()
        from perdure.values.named import JsonObject  # made of formats like these

        return JsonObject.parse(name, arguments, inner)

    def decode(self, data: bytes) -> Value:
        """The value."""
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise MalformedError(f"no JSON: {error}") from error

    def encode(self, value: object) -> bytes:
        """Without blanks."""
        try:
            return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
        except (TypeError, RecursionError) as error:
            raise ValueError(f"JSON has no form for it: {error}") from error
