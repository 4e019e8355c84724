"""CBOR: one item."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Self, final

import cbor2

from perdure.errors import MalformedError
from perdure.values.format import Format, Value
from perdure.values.plain import require_no_arguments

__all__ = ["Cbor"]

_ERRORS = (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError, MemoryError)


@final
class Cbor(Format):
    """One CBOR item and nothing behind it."""

    name = "cbor"

    @classmethod
    def parse(cls, name: str, arguments: list[str] | None, inner: Callable[[str], Format]) -> Self:
        """The only one."""
        require_no_arguments(name, arguments)
        return cls()

    def decode(self, data: bytes) -> Value:
        """The item."""
        stream = io.BytesIO(data)
        try:
            value = cbor2.load(stream)
        except _ERRORS as error:
            raise MalformedError(f"no CBOR: {error}") from error
        if stream.tell() != len(data):
            raise MalformedError(f"no CBOR: {len(data) - stream.tell()} bytes after the item")
        return value

    def encode(self, value: object) -> bytes:
        """One item."""
        return bytes(cbor2.dumps(value))
