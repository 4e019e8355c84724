"""Formats made of others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Self, final

from perdure.errors import MalformedError
from perdure.stable.kind import Kind
from perdure.stable.types import Order
from perdure.values.format import Format, Value

__all__ = ["Length", "Struct"]


@final
class Struct(Format):
    """Fields of fixed size one after the other; the last may be of any size."""

    reads_fields = True

    def __init__(self, name: str, parts: Mapping[str, Format]) -> None:
        if not parts:
            raise ValueError(f"a struct has at least one field: {name!r}")
        for label, part in list(parts.items())[:-1]:
            if not part.is_fixed:
                raise ValueError(f"field {label} of {name!r} must have a fixed size: only the last need not")
        self.name = name
        self.fields = tuple(parts)
        self.parts = tuple(parts.values())
        self.kind = Kind("record", labels=self.fields, parts=tuple(part.kind for part in self.parts))
        sizes = [part.fixed_bytes or 0 for part in self.parts]
        last = self.parts[-1]
        self._least = sum(sizes)
        self._offsets = [sum(sizes[:index]) for index in range(len(sizes))]
        ends = [*self._offsets[1:], None]
        self._places = dict(zip(self.fields, zip(self.parts, self._offsets, ends, strict=True), strict=True))
        self.is_fixed = last.is_fixed
        self.max_size = None if last.max_size is None else sum(sizes[:-1]) + last.max_size
        self.order: Order | None = None if all(part.order is None for part in self.parts) else self._order
        self.is_ordered = all(part.is_ordered for part in self.parts)

    @classmethod
    def parse(cls, name: str, arguments: list[str] | None, inner: Callable[[str], Format]) -> Self:
        """``struct(NAME: FORMAT, ...)``."""
        parts: dict[str, Format] = {}
        for argument in arguments or []:
            label, colon, spec = argument.partition(":")
            if not colon or not label.strip().isidentifier():
                raise ValueError(f"a struct field is written NAME: TYPE, found {argument!r}")
            if label.strip() in parts:
                raise ValueError(f"two fields {label.strip()} in {name!r}")
            parts[label.strip()] = inner(spec.strip())
        return cls(name, parts)

    def _pieces(self, data: bytes) -> list[bytes]:
        if len(data) < self._least or (self.is_fixed and len(data) != self._least):
            least = "" if self.is_fixed else "at least "
            raise MalformedError(f"a {self.name} has {least}{self._least} bytes, found {len(data)}")
        ends = [*self._offsets[1:], len(data)]
        return [data[start:end] for start, end in zip(self._offsets, ends, strict=True)]

    def _order(self, data: bytes) -> Value:
        return tuple((part.order or bytes)(piece) for part, piece in zip(self.parts, self._pieces(data), strict=True))

    def decode(self, data: bytes) -> dict[str, Value]:
        """The fields by name."""
        pieces = self._pieces(data)
        return {label: part.decode(piece) for label, part, piece in zip(self.fields, self.parts, pieces, strict=True)}

    def field(self, data: bytes, label: str) -> Value:
        """One field, at its place."""
        if len(data) < self._least or (self.is_fixed and len(data) != self._least):
            self._pieces(data)  # says what is wrong
        part, start, end = self._places[label]
        return part.decode(data[start:end])

    def encode(self, value: object) -> bytes:
        """The bytes of an object of exactly the fields."""
        if not isinstance(value, dict) or set(value) != set(self.fields):
            raise ValueError(f"a {self.name} is an object of exactly its fields, found {value!r}")
        return b"".join(part.encode(value[label]) for label, part in zip(self.fields, self.parts, strict=True))


@final
class Length(Format):
    """A u32 length in front: the convention of the crate's quick start for a memory that holds one serialised state."""

    def __init__(self, inner: Format) -> None:
        self.name = f"length({inner.name})"
        self.kind = inner.kind
        self.fields = inner.fields
        self._inner = inner

    @classmethod
    def parse(cls, name: str, arguments: list[str] | None, inner: Callable[[str], Format]) -> Self:
        """``length(FORMAT)``."""
        if arguments is None or len(arguments) != 1:
            raise ValueError(f"a length is written length(TYPE), found {name!r}")
        return cls(inner(arguments[0]))

    def decode(self, data: bytes) -> Value:
        """The value; what is behind it is not looked at."""
        return self._inner.decode(self._body(data))

    def _body(self, data: bytes) -> bytes:
        size = int.from_bytes(data[:4], "little")
        if len(data) < 4 or 4 + size > len(data):
            raise MalformedError(f"a length of {size} before {max(0, len(data) - 4)} bytes")
        return data[4 : 4 + size]

    def encode(self, value: object) -> bytes:
        """The length and the value."""
        data = self._inner.encode(value)
        return len(data).to_bytes(4, "little") + data

    def named(self, labels: Mapping[int, str]) -> Format:
        """With names in what is within."""
        return Length(self._inner.named(labels))
