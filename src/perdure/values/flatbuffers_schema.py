"""Flatbuffers by a binary schema, as ``flatc --binary --schema`` writes it: ``flatbuffers(FILE.bfbs, TABLE)``.

The schema is a flatbuffer itself, of `reflection.fbs`; what is taken of it stands in `_Object`, `_Field` and `_Type`.
Values are read as ``flatc --json --defaults-json`` prints them, except that what is not there is null, and vectors of
unsigned bytes are bytes. A schema says that an enum is flags only with ``--bfbs-builtins``; without it several at once
are the number. One field is read without the others.

Offsets lead forward, so no buffer goes round in a circle; one that shares parts could still be read as far more than it
has, so what is read of it is counted.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from reprlib import repr as brief
from typing import Final, final

from perdure.errors import MalformedError
from perdure.stable.kind import BOOL, BYTES, DOCUMENT, TEXT, Kind, integer, option
from perdure.values.format import Format, Value

__all__ = ["FlatbuffersBySchema"]

_MAX_SCHEMA_BYTES: Final = 16 << 20
_MAX_NESTING: Final = 64
_SHARING: Final = 16
"""How many times what a buffer has may be read: parts may be shared, and seldom are."""

_UTYPE, _BOOL, _UBYTE, _STRING, _VECTOR, _OBJECT, _UNION, _ARRAY = 1, 2, 4, 13, 14, 15, 16, 17
_SCALARS: Final = {
    base: struct.Struct("<" + letter)
    for base, letter in zip((*range(1, 13),), ("B", "?", "b", "B", "h", "H", "i", "I", "q", "Q", "f", "d"), strict=True)
}
_KINDS: Final[dict[int, Kind]] = {
    _BOOL: BOOL,
    _STRING: TEXT,
    11: Kind("float", 32),
    12: Kind("float", 64),
    **{base: integer(_SCALARS[base].size * 8, is_signed=base % 2 == 1) for base in range(3, 11)},
}
_OFFSET: Final = struct.Struct("<I")
_SIGNED: Final = struct.Struct("<i")
_SHORT: Final = struct.Struct("<H")


@final
@dataclass(frozen=True, slots=True)
class _Type:
    """`base` and `element` by `reflection.BaseType`; `index` of an object or an enum, -1: neither."""

    base: int
    element: int
    index: int
    length: int


@final
@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    type: _Type
    id: int
    offset: int
    default: Value
    is_optional: bool


@final
@dataclass(frozen=True, slots=True)
class _Object:
    name: str
    fields: tuple[_Field, ...]
    is_struct: bool
    size: int


@final
@dataclass(frozen=True, slots=True)
class _Enum:
    names: dict[int, str]
    types: dict[int, _Type]
    is_flags: bool

    def text(self, number: int) -> str:
        """The name of a value; of flags all names; else the number."""
        if number in self.names:
            return self.names[number]
        found = [name for value, name in self.names.items() if value and value & number == value]
        is_whole = self.is_flags and sum({one for one in self.names if one and one & number == one}) == number != 0
        return " ".join(found) if is_whole else str(number)


@final
class _Buffer:
    """Reads of bytes that may be anything; counts what it gives."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._left = _SHARING * len(data) + 4_096

    def number(self, form: struct.Struct, at: int) -> Value:
        if at < 0:
            raise MalformedError("no flatbuffer: an offset before its beginning", at)
        try:
            return form.unpack_from(self.data, at)[0]
        except struct.error as error:
            raise MalformedError(f"no flatbuffer: an offset past the end of {len(self.data)} bytes", at) from error

    def take(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise MalformedError(f"a flatbuffer of {len(self.data)} bytes shares its parts more than {_SHARING} times")

    def follow(self, at: int) -> int:
        """What an offset leads to."""
        return at + int(self.number(_OFFSET, at))

    def place(self, table: int, offset: int) -> int:
        """Where a field is; 0: it is not there."""
        vtable = table - int(self.number(_SIGNED, table))
        size = int(self.number(_SHORT, vtable))
        within = int(self.number(_SHORT, vtable + offset)) if offset + 2 <= size else 0
        return table + within if within else 0

    def text(self, at: int) -> str:
        start = self.follow(at)
        length = int(self.number(_OFFSET, start))
        found = self.bytes(start + 4, length)
        try:
            return found.decode()
        except UnicodeDecodeError as error:
            raise MalformedError(f"a string is no UTF-8: {error}", start) from error

    def bytes(self, start: int, length: int) -> bytes:
        if start + length > len(self.data):
            raise MalformedError(f"{length} bytes, {len(self.data) - start} are left", start)
        self.take(length)
        return bytes(self.data[start : start + length])

    def elements(self, at: int, width: int) -> Iterator[int]:
        """Where those of a vector are."""
        start = self.follow(at)
        length = int(self.number(_OFFSET, start))
        if start + 4 + length * width > len(self.data):
            raise MalformedError(f"a vector of {length} elements of {width} bytes, past the end", start)
        self.take(length * width)
        return iter(range(start + 4, start + 4 + length * width, max(width, 1)))


# -- the schema


@final
class _Schema:
    """What a binary schema says."""

    def __init__(self, data: bytes) -> None:
        if data[4:8] != b"BFBS":
            raise MalformedError(f"no binary schema: found {data[4:8]!r} at offset 4, expected b'BFBS'")
        self._read = _Buffer(data)
        root = self._read.follow(0)
        self.enums = [self._enum(at) for at in self._tables(root, 6)]
        self.objects = [self._object(at) for at in self._tables(root, 4)]
        at = self._read.place(root, 12)
        self.root = self._text(self._read.follow(at), 4) if at else ""

    def _tables(self, table: int, offset: int) -> list[int]:
        at = self._read.place(table, offset)
        return [self._read.follow(one) for one in self._read.elements(at, 4)] if at else []

    def _text(self, table: int, offset: int) -> str:
        at = self._read.place(table, offset)
        return self._read.text(at) if at else ""

    def _number(self, table: int, offset: int, base: int, default: Value = 0) -> Value:
        at = self._read.place(table, offset)
        return self._read.number(_SCALARS[base], at) if at else default

    def _type(self, table: int, offset: int) -> _Type:
        at = self._read.place(table, offset)
        if not at:
            return _Type(0, 0, -1, 0)
        found = self._read.follow(at)
        base, element = (int(self._number(found, one, 3)) for one in (4, 6))
        return _Type(base, element, int(self._number(found, 8, 7, -1)), int(self._number(found, 10, 6)))

    def _enum(self, table: int) -> _Enum:
        names, types = {}, {}
        for one in self._tables(table, 6):
            value = int(self._number(one, 6, 9))
            names[value], types[value] = self._text(one, 4), self._type(one, 10)
        keys = [self._text(one, 4) for one in self._tables(table, 12)]
        return _Enum(names, types, "bit_flags" in keys)

    def _object(self, table: int) -> _Object:
        fields = sorted((self._field(one) for one in self._tables(table, 6)), key=lambda one: one.id)
        living = tuple(one for one in fields if one.name)
        return _Object(self._text(table, 4), living, bool(self._number(table, 8, 2)), int(self._number(table, 12, 7)))

    def _field(self, table: int) -> _Field:
        type_ = self._type(table, 6)
        is_float = type_.base in (11, 12)
        default = self._number(table, 14, 12, 0.0) if is_float else self._number(table, 12, 9)
        is_gone = bool(self._number(table, 16, 2))
        return _Field(
            "" if is_gone else self._text(table, 4),
            type_,
            int(self._number(table, 8, 6)),
            int(self._number(table, 10, 6)),
            default,
            bool(self._number(table, 26, 2)),
        )


# -- values


@final
class FlatbuffersBySchema(Format):
    """One table; see the module.

    Args:
        path: what ``flatc --binary --schema`` wrote.
        table: its full name; by default the root of the schema.

    Raises:
        ValueError: no schema, or no such table in it.
    """

    reads_fields = True

    def __init__(self, path: str, table: str = "") -> None:
        try:
            with Path(path).open("rb") as file:
                self._schema = _Schema(file.read(_MAX_SCHEMA_BYTES))
        except (OSError, MalformedError) as error:
            raise ValueError(f"no binary schema in {path}: {error}") from error
        wanted = table or self._schema.root
        found = [one for one in self._schema.objects if not one.is_struct and one.name == wanted]
        if not found:
            known = ", ".join(one.name for one in self._schema.objects if not one.is_struct)
            raise ValueError(f"no table {wanted!r} in {path}, there are {known or 'none'}")
        self.name = f"flatbuffers({path}, {wanted})"
        (self._table,) = found[:1]
        self._check_types()
        self.fields = tuple(one.name for one in self._table.fields)
        self._by_name = {one.name: one for one in self._table.fields}
        parts = tuple(option(self._kind(one)) for one in self._table.fields)
        self.kind = Kind("record", labels=self.fields, parts=parts)

    def _check_types(self) -> None:
        fields = ((one.name, field.name, field.type) for one in self._schema.objects for field in one.fields)
        unions = (
            ("a union", enum.names[value], one)
            for enum in self._schema.enums
            for value, one in enum.types.items()
            if one.base  # none of them is there
        )
        for owner, name, one in chain(fields, unions):
            if not self._is_read(one):
                raise ValueError(
                    f"{self.name}: {owner}.{name} has a type that is not read, {one.base} of {one.element}"
                )

    def _is_read(self, one: _Type) -> bool:
        inner = one.element if one.base in (_VECTOR, _ARRAY) else one.base
        if inner == _OBJECT:
            return 0 <= one.index < len(self._schema.objects)
        if inner == _STRING:
            return one.base != _ARRAY
        if inner in (_UTYPE, _UNION):
            return one.base != _ARRAY and 0 <= one.index < len(self._schema.enums)
        # A number of an enum, or of none; no enum has fractions.
        return inner in _SCALARS and one.index < (len(self._schema.enums) if inner not in (11, 12) else 0)

    def _kind(self, field: _Field) -> Kind:
        if field.type.base == _VECTOR and field.type.element == _UBYTE and field.type.index < 0:
            return BYTES
        is_named = field.type.base in _SCALARS and field.type.index >= 0
        return TEXT if is_named else _KINDS.get(field.type.base, DOCUMENT)

    def decode(self, data: bytes) -> dict[str, Value]:
        """All fields by name; deprecated ones are left out."""
        buffer = _Buffer(data)
        return self._whole(buffer, self._table, buffer.follow(0), 0)

    def field(self, data: bytes, label: str) -> Value:
        """One of them; the others are not looked at."""
        buffer = _Buffer(data)
        return self._of(buffer, self._table, self._by_name[label], buffer.follow(0), 0)

    def encode(self, value: object) -> bytes:
        """Values are read alone.

        Raises:
            ValueError: always; it says what writes them.
        """
        raise ValueError(
            f"{self.name} is read, not written, found {brief(value)}: declare the parts instead, "
            "flatbuffers(NAME: TYPE, ...), which have the same bytes"
        )

    def _whole(self, buffer: _Buffer, table: _Object, at: int, nesting: int) -> dict[str, Value]:
        if nesting > _MAX_NESTING:
            raise MalformedError(f"more than {_MAX_NESTING} tables in one another", at)
        buffer.take(4 + len(table.fields) // 8)  # most fields may be missing, which takes no bytes
        return {one.name: self._of(buffer, table, one, at, nesting) for one in table.fields}

    def _of(self, buffer: _Buffer, table: _Object, field: _Field, at: int, nesting: int) -> Value:
        place = buffer.place(at, field.offset)
        base = field.type.base
        if not place:
            if base not in _SCALARS or field.is_optional:
                return None
            return self._named(field.type, bool(field.default) if base == _BOOL else field.default)
        if base == _UNION or (base == _VECTOR and field.type.element == _UNION):
            tags = buffer.place(at, field.offset - 2)
            if not tags:
                return None
            if base == _UNION:
                return self._union(buffer, field.type, (tags, place), nesting)
            pairs = zip(buffer.elements(tags, 1), buffer.elements(place, 4), strict=False)
            return [self._union(buffer, field.type, pair, nesting) for pair in pairs]
        return self._value(buffer, field.type, place, nesting)

    def _union(self, buffer: _Buffer, type_: _Type, pair: tuple[int, int], nesting: int) -> Value:
        tag = int(buffer.number(_SCALARS[_UTYPE], pair[0]))
        found = self._schema.enums[type_.index].types.get(tag)
        if found is None or found.base == 0:
            return None
        if found.base == _OBJECT and self._schema.objects[found.index].is_struct:
            return self._value(buffer, found, buffer.follow(pair[1]), nesting)
        return self._value(buffer, found, pair[1], nesting)

    def _value(self, buffer: _Buffer, type_: _Type, at: int, nesting: int) -> Value:
        """What is at a place: itself, or an offset to it."""
        if type_.base in _SCALARS:
            return self._named(type_, buffer.number(_SCALARS[type_.base], at))
        if type_.base == _STRING:
            return buffer.text(at)
        if type_.base == _OBJECT:
            one = self._schema.objects[type_.index]
            return self._struct(buffer, one, at, nesting) if one.is_struct else self._behind(buffer, one, at, nesting)
        element = _Type(type_.element, 0, type_.index, 0)
        if type_.base == _ARRAY:
            width = self._width(element)
            buffer.take(type_.length * width)
            return [self._value(buffer, element, at + one * width, nesting + 1) for one in range(type_.length)]
        if type_.element == _UBYTE and type_.index < 0:
            start = buffer.follow(at)
            return buffer.bytes(start + 4, int(buffer.number(_OFFSET, start)))
        return [self._value(buffer, element, one, nesting + 1) for one in buffer.elements(at, self._width(element))]

    def _behind(self, buffer: _Buffer, table: _Object, at: int, nesting: int) -> Value:
        return self._whole(buffer, table, buffer.follow(at), nesting + 1)

    def _struct(self, buffer: _Buffer, one: _Object, at: int, nesting: int) -> dict[str, Value]:
        if nesting > _MAX_NESTING:
            raise MalformedError(f"more than {_MAX_NESTING} structs in one another", at)
        buffer.take(max(one.size, 1))
        return {part.name: self._value(buffer, part.type, at + part.offset, nesting + 1) for part in one.fields}

    def _width(self, element: _Type) -> int:
        if element.base in _SCALARS:
            return _SCALARS[element.base].size
        if element.base == _OBJECT and self._schema.objects[element.index].is_struct:
            return self._schema.objects[element.index].size
        return 4

    def _named(self, type_: _Type, found: Value) -> Value:
        """A number, by its name where it has one."""
        return found if type_.index < 0 else self._schema.enums[type_.index].text(int(found))

    @classmethod
    def parse(cls, name: str, arguments: list[str] | None, inner: Callable[[str], Format]) -> Format:
        """``flatbuffers(FILE.bfbs)``, ``flatbuffers(FILE.bfbs, TABLE)``."""
        if arguments is None or not 1 <= len(arguments) <= 2:
            raise ValueError(f"a table by a schema is written flatbuffers(FILE.bfbs, TABLE), found {name!r}")
        return cls(*arguments)
