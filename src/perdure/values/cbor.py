"""CBOR: one item, or an array of declared parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from reprlib import repr as brief
from typing import Self, final

import cbor2

from perdure import cbor
from perdure.errors import MalformedError
from perdure.stable.kind import Kind, option
from perdure.values.format import Format, Value
from perdure.values.packed import named_parts

__all__ = ["Cbor", "CborArray"]


@final
class Cbor(Format):
    """One CBOR item and nothing behind it."""

    name = "cbor"

    @classmethod
    def parse(cls, name: str, arguments: list[str] | None, inner: Callable[[str], Format]) -> Format:
        """``cbor``, or ``cbor(NAME: TYPE, ...)``, which is an array."""
        return cls() if arguments is None else CborArray.parse(name, arguments, inner)

    def decode(self, data: bytes) -> Value:
        """The item."""
        return load_item(data)

    def encode(self, value: object) -> bytes:
        """One item."""
        return _dumped(value)


def _dumped(value: object) -> bytes:
    try:
        return bytes(cbor2.dumps(value))
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"CBOR has no form for it: {error}") from error


def load_item(data: bytes) -> Value:
    """One item and nothing behind it.

    Raises:
        MalformedError: it is none.
    """
    return cbor.load(data)


@final
class CborArray(Format):
    """An array of declared parts, each a column: ``cbor(NAME: TYPE, ...)``.

    Parts that came later are not in arrays written before: one that is too short has their defaults. Any part may be
    null. What CBOR has no form for is a byte string of the part's type.

    Args:
        name: as written.
        inner: the parts.
        defaults: of parts that are missing; null where none is given.
    """

    def __init__(self, name: str, inner: Mapping[str, Format], defaults: Mapping[str, Value] | None = None) -> None:
        self.name = name
        self.fields = tuple(inner)
        self.inner = dict(inner)
        self._inner = tuple(inner.values())
        self._defaults = [(defaults or {}).get(label) for label in self.fields]
        self.kind = Kind("record", labels=self.fields, parts=tuple(option(one.kind) for one in self._inner))

    @classmethod
    def parse(cls, name: str, arguments: list[str] | None, inner: Callable[[str], Format]) -> Self:
        """From its name."""
        parts = named_parts(name, arguments or [], inner)
        if not parts:
            raise ValueError(f"an array has at least one part, found {name!r}")
        return cls(name, parts)

    def decode(self, data: bytes) -> dict[str, Value]:
        """The parts by name."""
        found = load_item(data)
        if not isinstance(found, list) or len(found) > len(self.fields):
            raise MalformedError(f"a {self.name} is an array of at most {len(self.fields)} items, found {brief(found)}")
        whole = [*found, *self._defaults[len(found) :]]
        return {label: one.from_part(part) for label, one, part in zip(self.fields, self._inner, whole, strict=True)}

    def encode(self, value: object) -> bytes:
        """The bytes of an object of the parts, or of a list."""
        if isinstance(value, dict) and set(value) == set(self.fields):
            value = [value[label] for label in self.fields]
        if not isinstance(value, (list, tuple)) or len(value) != len(self.fields):
            raise ValueError(f"a {self.name} is an object of exactly its parts, found {brief(value)}")
        return _dumped([one.to_part(part) for one, part in zip(self._inner, value, strict=True)])
