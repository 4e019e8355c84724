"""Types whose values have parts, each in the crate's own way; see `types`."""

from __future__ import annotations

from functools import total_ordering
from typing import Any, Generic, TypeVar, final

from perdure.errors import MalformedError
from perdure.stable.kind import Kind, kind_of, option
from perdure.stable.plain_types import Order, StorableType, order_of

__all__ = ["Option", "Reverse", "Tuple"]

T = TypeVar("T")


@final
@total_ordering
class _Descending:
    """A value that compares the other way round."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __lt__(self, other: _Descending) -> bool:
        return bool(other.value < self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Descending) and bool(self.value == other.value)

    def __hash__(self) -> int:
        return hash(self.value)


@final
class Reverse(Generic[T]):
    """``Reverse<T>``: T, ordered the other way round."""

    def __init__(self, inner: StorableType[T]) -> None:
        self.inner = inner
        self.name = f"Reverse<{inner.name}>"
        self.kind = kind_of(inner)
        self.stored_as = getattr(inner, "stored_as", None)
        self.max_size = inner.max_size
        self.is_fixed = inner.is_fixed
        inner_order = order_of(inner)
        self.order: Order | None = lambda data: _Descending(inner_order(data))

    def encode(self, value: T) -> bytes:
        """The bytes of the inner type."""
        return self.inner.encode(value)

    def decode(self, data: bytes) -> T:
        """The value of the inner type."""
        return self.inner.decode(data)

    def __repr__(self) -> str:
        return self.name


@final
class Option(Generic[T]):
    """``Option<T>``: ``00`` for `None`, else the bytes of the value and a *final* ``01``.

    An option of a fixed type claims to be fixed itself, though `None` takes one byte. The crate panics when such a
    `None` enters a BTreeMap, Vec or MinHeap; `encode_checked` raises `ValueError`.
    """

    def __init__(self, inner: StorableType[T]) -> None:
        self.inner = inner
        self.name = f"Option<{inner.name}>"
        self.kind = option(kind_of(inner))
        self.max_size = None if inner.max_size is None else inner.max_size + 1
        self.is_fixed = inner.is_fixed
        inner_order = order_of(inner)
        self.order: Order | None = lambda data: (1, inner_order(data[:-1])) if data[-1:] == b"\x01" else (0,)

    def encode(self, value: T | None) -> bytes:
        """The bytes, the tag last."""
        return b"\x00" if value is None else self.inner.encode(value) + b"\x01"

    def decode(self, data: bytes) -> T | None:
        """The value or `None`."""
        if data == b"\x00":
            return None
        if data[-1:] != b"\x01":
            raise MalformedError(f"an Option ends with 01 or is 00, found {data[-8:].hex() or 'nothing'}")
        return self.inner.decode(data[:-1])

    def __repr__(self) -> str:
        return self.name


@final
class Tuple:
    """``(A, B)`` and ``(A, B, C)``, each in the crate's own way.

    Two elements, both bounded: A padded with zeros to its max, B likewise, then the length of A unless A is fixed, then
    that of B likewise; lengths are big-endian and as wide as the *bound* needs (1, 2 or 4 bytes). With an unbounded
    part the crate panics ("not yet implemented"), so the constructor refuses it.

    Three elements: plain concatenation where A and B are fixed. Else one header byte ``4 * (wA - 1) + (wB - 1)``, where
    w is the width (1, 2 or 4) of the *actual* length, then A and B, each preceded by its length unless it is fixed,
    then C, which takes the rest.

    An `Option` of a fixed type does not round-trip as an element that counts as fixed; `encode` refuses what the crate
    could not read back.
    """

    def __init__(self, *elements: StorableType[Any]) -> None:
        if len(elements) not in (2, 3):
            raise ValueError(f"a storable tuple has 2 or 3 elements, found {len(elements)}")
        self.elements = elements
        self.name = f"({', '.join(element.name for element in elements)})"
        self.kind = Kind("tuple", parts=tuple(map(kind_of, elements)))
        self.is_fixed = all(element.is_fixed for element in elements)
        self.max_size = _tuple_max_size(elements)
        if len(elements) == 2 and self.max_size is None:
            raise ValueError(f"the crate has no {self.name}: both elements must be bounded")
        orders = [order_of(element) for element in elements]
        self.order: Order | None = lambda data: tuple(
            order(part) for order, part in zip(orders, self._split(data), strict=True)
        )

    def encode(self, value: tuple[Any, ...]) -> bytes:
        """The bytes of a tuple of as many values as there are elements."""
        if len(value) != len(self.elements):
            raise ValueError(f"{self.name} has {len(self.elements)} elements, found {len(value)}")
        parts = [element.encode(item) for element, item in zip(self.elements, value, strict=True)]
        for element, part in zip(self.elements[:2], parts[:2], strict=True):
            _check_element(element, part)
        return self._join_two(parts) if len(parts) == 2 else self._join_three(parts)

    def decode(self, data: bytes) -> tuple[Any, ...]:
        """The values of the elements."""
        return tuple(element.decode(part) for element, part in zip(self.elements, self._split(data), strict=True))

    def __repr__(self) -> str:
        return f"Tuple({', '.join(map(repr, self.elements))})"

    def _join_two(self, parts: list[bytes]) -> bytes:
        padded = b"".join(
            part.ljust(element.max_size or 0, b"\x00") for element, part in zip(self.elements, parts, strict=True)
        )
        lengths = b"".join(
            len(part).to_bytes(_length_width(element.max_size or 0), "big")
            for element, part in zip(self.elements, parts, strict=True)
            if not element.is_fixed
        )
        return padded + lengths

    def _join_three(self, parts: list[bytes]) -> bytes:
        first, second, _ = self.elements
        if first.is_fixed and second.is_fixed:
            return b"".join(parts)
        widths = [_length_width(len(part)) for part in parts[:2]]
        encoded = bytearray([(widths[0] - 1) * 4 + widths[1] - 1])
        for element, part, width in zip((first, second), parts, widths, strict=False):
            encoded += part if element.is_fixed else len(part).to_bytes(width, "big") + part
        return bytes(encoded + parts[2])

    def _split(self, data: bytes) -> list[bytes]:
        return self._split_two(data) if len(self.elements) == 2 else self._split_three(data)

    def _split_two(self, data: bytes) -> list[bytes]:
        if len(data) != self.max_size:
            raise MalformedError(f"a {self.name} has {self.max_size} bytes, found {len(data)}")
        sizes = [element.max_size or 0 for element in self.elements]
        length_offset = sum(sizes)
        parts, offset = [], 0
        for element, size in zip(self.elements, sizes, strict=True):
            length = size
            if not element.is_fixed:
                width = _length_width(size)
                length = int.from_bytes(data[length_offset : length_offset + width], "big")
                length_offset += width
            if length > size:
                raise MalformedError(f"a {element.name} in a {self.name} has at most {size} bytes, found {length}")
            parts.append(data[offset : offset + length])
            offset += size
        return parts

    def _split_three(self, data: bytes) -> list[bytes]:
        first, second, _ = self.elements
        offset, header = 0, 0
        if not (first.is_fixed and second.is_fixed):
            if not data or data[0] > 15 or 2 in (data[0] >> 2, data[0] & 3):
                raise MalformedError(
                    f"a {self.name} begins with its length widths, found {data[:1].hex() or 'nothing'}"
                )
            offset, header = 1, data[0]
        parts = []
        for element, width in ((first, (header >> 2) + 1), (second, (header & 3) + 1)):
            length = element.max_size or 0
            if not element.is_fixed:
                length = int.from_bytes(data[offset : offset + width], "big")
                offset += width
            if offset + length > len(data):
                raise MalformedError(f"a {element.name} of {length} bytes reaches past a {self.name} of {len(data)}")
            parts.append(data[offset : offset + length])
            offset += length
        return [*parts, data[offset:]]


def _check_element(element: StorableType[Any], part: bytes) -> None:
    max_size = element.max_size
    if max_size is not None and (len(part) > max_size or (element.is_fixed and len(part) != max_size)):
        raise ValueError(
            f"a {element.name} of {len(part)} bytes in a tuple does not read back: its bound is {max_size}"
        )


def _length_width(size_bytes: int) -> int:
    if size_bytes <= 0xFF:
        return 1
    return 2 if size_bytes <= 0xFFFF else 4


def _tuple_max_size(elements: tuple[StorableType[Any], ...]) -> int | None:
    if any(element.max_size is None for element in elements):
        return None
    total = sum(element.max_size or 0 for element in elements)
    widths = sum(_length_width(element.max_size or 0) for element in elements[:2] if not element.is_fixed)
    if len(elements) == 2:
        return total + widths
    return total + (widths + 1 if widths else 0)
