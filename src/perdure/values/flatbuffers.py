"""Flatbuffers: a table of declared parts, each found without reading the others (`flatbuffers(NAME: TYPE, ...)`).

```
 buffer   u32 where the table is, from here
 table    i32 where its vtable is, back from here; parts in it
 vtable   u16 its size, u16 the table's, u16 of each part where it is in the table, 0: it is not there
 part     a number of 8 to 64 bits, a bool; else u32 where it is, from here: u32 length, that many bytes
```

Little-endian. Text is a string, with a zero behind it; bytes, principals, wider numbers and whatever else are vectors
of bytes. Parts are numbered in the order in which they are declared, as fields of a table in an ``.fbs`` file are; new
ones come last. A number that is not there is 0, as other writers leave out what is; anything else is null.

Spec: flatbuffers.dev, "Internals". No offset is followed that leads out of the buffer.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Final, final

from perdure.errors import MalformedError
from perdure.values.format import Format, Value
from perdure.values.named import Named

__all__ = ["Flatbuffers"]

_U16: Final = struct.Struct("<H")
_U32: Final = struct.Struct("<I")
_I32: Final = struct.Struct("<i")
_SIZES: Final = struct.Struct("<HH")
_INLINE: Final[Mapping[str, struct.Struct]] = {
    **{
        f"{sign}{bits}": struct.Struct("<" + letter)
        for bits, both in ((8, "Bb"), (16, "Hh"), (32, "Ii"), (64, "Qq"))
        for sign, letter in zip("ui", both, strict=True)
    },
    "f32": struct.Struct("<f"),
    "f64": struct.Struct("<d"),
    "bool": struct.Struct("<?"),
}
_HEAD_BYTES: Final = 4
_LONGEST: Final = (1 << 31) - 1
_MOST_PARTS: Final = 8_000
_ODD: Final = object()
"""A part that is not there, or a buffer that is none."""


@final
class Flatbuffers(Named):
    """A table; see the module."""

    family = "flatbuffers"
    reads_fields = True

    def __init__(self, name: str, inner: Mapping[str, Format]) -> None:
        super().__init__(name, inner)
        if len(inner) > _MOST_PARTS:
            raise ValueError(f"a table has at most {_MOST_PARTS} parts, found {len(inner)}")
        self._readers: dict[str, Callable[[bytes], Value]] = {}
        self._inline = [_INLINE.get(slot.kind) for slot in self.slots]
        self._offsets, size = _layout([4 if one is None else one.size for one in self._inline])
        vtable_bytes = 4 + 2 * len(inner)
        self._vtable = _HEAD_BYTES + 4  # so that it is aligned, whatever its size
        self._table_at = -(-(self._vtable + vtable_bytes) // 8) * 8
        self._template = bytearray(self._table_at + size)
        _U32.pack_into(self._template, 0, self._table_at)
        struct.pack_into("<HH", self._template, self._vtable, vtable_bytes, size)
        _I32.pack_into(self._template, self._table_at, self._table_at - self._vtable)

    @classmethod
    def parse(cls, name: str, arguments: list[str] | None, inner: Callable[[str], Format]) -> Format:
        """``flatbuffers(NAME: TYPE, ...)``, or ``flatbuffers(FILE.bfbs, TABLE)``."""
        if arguments and arguments[0].endswith(".bfbs"):
            from perdure.values.flatbuffers_schema import FlatbuffersBySchema  # seldom

            return FlatbuffersBySchema.parse(name, arguments, inner)
        return super().parse(name, arguments, inner)

    # -- reading

    def decode(self, data: bytes) -> dict[str, Value]:
        """All parts by name."""
        table, vtable, size = self._table(data)
        there = min((size - 4) // 2, len(self.slots))
        offsets = struct.unpack_from(f"<{there}H", data, vtable + 4) + (0,) * (len(self.slots) - there)
        return {
            label: self._part(data, index, table + offset if offset else 0)
            for index, (label, offset) in enumerate(zip(self.fields, offsets, strict=True))
        }

    def field(self, data: bytes, label: str) -> Value:
        """One part; the others are not looked at."""
        read = self._readers.get(label) or self._readers.setdefault(label, self._reader(self._places[label]))
        found = read(data)
        return self._field(data, self._places[label]) if found is _ODD else found

    def _field(self, data: bytes, index: int) -> Value:
        table, vtable, size = self._table(data)
        at = 4 + 2 * index
        offset = _U16.unpack_from(data, vtable + at)[0] if at < size else 0
        return self._part(data, index, table + offset if offset else 0)

    def _reader(self, index: int) -> Callable[[bytes], Value]:
        """What reads one part where it is there and the buffer is one; anything else is `_ODD`, and `_field` says what.

        The same steps in one function: calls are most of what a part costs.
        """
        inline, slot = self._inline[index], self.slots[index]
        begin, back, length_at = _U32.unpack_from, _I32.unpack_from, _U32.unpack_from
        sizes = struct.Struct(f"<HH{2 * index}xH").unpack_from
        least, is_text, decode = 6 + 2 * index, slot.kind == "text", slot.format.decode
        inlined = None if inline is None else inline.unpack_from

        def read(data: bytes) -> Value:
            try:
                (table,) = begin(data)
                vtable = table - back(data, table)[0]
                size, table_size, offset = sizes(data, vtable)
                end = len(data)
                is_whole = vtable >= 0 and vtable + size <= end and 4 <= table_size <= end - table
                if not is_whole or size < least or size & 1 or not offset:
                    return _ODD
                at = table + offset
                if inlined is not None:
                    return inlined(data, at)[0]
                at += length_at(data, at)[0]
                (length,) = length_at(data, at)
                found = data[at + 4 : at + 4 + length]
                if len(found) < length:
                    return _ODD
                return str(found, "utf-8") if is_text else decode(bytes(found))
            except (struct.error, UnicodeDecodeError):
                return _ODD

        return read

    def _table(self, data: bytes) -> tuple[int, int, int]:
        """Where the table and its vtable are, and the vtable's size."""
        try:
            (table,) = _U32.unpack_from(data, 0)
            vtable = table - _I32.unpack_from(data, table)[0]
            if vtable < 0:
                raise MalformedError("no flatbuffer: the vtable lies before the beginning", table)
            size, table_size = _SIZES.unpack_from(data, vtable)
        except struct.error as error:
            raise MalformedError(f"no flatbuffer: a table past the end of {len(data)} bytes") from error
        if size < 4 or size % 2 or vtable + size > len(data) or table_size < 4 or table + table_size > len(data):
            raise MalformedError(f"no flatbuffer: a vtable of {size} bytes, a table of {table_size}", vtable)
        return table, vtable, size

    def _part(self, data: bytes, index: int, at: int) -> Value:
        """A part at its place; 0: it is not there."""
        inline, slot = self._inline[index], self.slots[index]
        if not at:
            return None if inline is None or slot.is_optional else inline.unpack(bytes(inline.size))[0]
        try:
            if inline is not None:
                return inline.unpack_from(data, at)[0]
            start = at + _U32.unpack_from(data, at)[0]
            (length,) = _U32.unpack_from(data, start)
        except struct.error as error:
            raise MalformedError(f"part {slot.label!r} lies past the end of {len(data)} bytes", at) from error
        start += _HEAD_BYTES
        found = data[start : start + length]
        if len(found) < length:
            raise MalformedError(f"part {slot.label!r} has {length} bytes, {len(found)} are left", start)
        if slot.kind != "text":
            return slot.format.decode(bytes(found))
        try:
            return str(found, "utf-8")
        except UnicodeDecodeError as error:
            raise MalformedError(f"part {slot.label!r} is no UTF-8: {error}", start) from error

    # -- writing

    def encode(self, value: object) -> bytes:
        """A buffer: vtable, table, then what the table points to, each at a place that its numbers divide."""
        out = bytearray(self._template)
        pointed: list[tuple[int, bytes, bool]] = []
        for index, (slot, one) in enumerate(zip(self.slots, self.values_of(value), strict=True)):
            if one is None:
                slot.checked(one)
                continue
            at = self._table_at + self._offsets[index]
            _U16.pack_into(out, self._vtable + 4 + 2 * index, self._offsets[index])
            inline = self._inline[index]
            if inline is None:
                pointed.append((at, slot.format.encode(one), slot.kind == "text"))
                continue
            inline.pack_into(out, at, slot.checked(one))
        for at, data, is_text in pointed:
            out += bytes(-len(out) % 4)
            _U32.pack_into(out, at, len(out) - at)
            out += _U32.pack(len(data))
            out += data
            out += b"\0" if is_text else b""
        if len(out) > _LONGEST:
            raise ValueError(f"a flatbuffer has at most {_LONGEST} bytes, found {len(out)}")
        return bytes(out)


def _layout(widths: Sequence[int]) -> tuple[list[int], int]:
    """Where parts of these widths lie in a table, each at a multiple of its width, and the table's size."""
    offsets, at = [0] * len(widths), 4
    order = sorted(range(len(widths)), key=lambda index: -widths[index])
    # Before the first of eight bytes there is room for one of four.
    first = next((index for index in order if widths[index] == 4), None)
    if first is not None:
        order.remove(first)
        order.insert(0, first)
    for index in order:
        at += -at % widths[index]
        offsets[index] = at
        at += widths[index]
    return offsets, at
