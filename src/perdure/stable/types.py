r"""The `Storable` types of the crate: how a value becomes bytes, how long those may be, and how they are ordered.

A structure in stable memory holds bytes only; which type they have is known to the program alone. A type here says
four things: `encode` and `decode`, the bound (`max_size`, `is_fixed`), and `order`, which maps *encoded* bytes to
something Python compares as Rust compares the values. For most types the bytes compare as the values do and `order` is
``None``; the exceptions are exactly the crate's: `principal` (shorter first), `Reverse`, `Option` (the tag is a suffix)
and tuples (element by element). They are one module because each may be a part of another, here and in `parse`.

| here | in Rust | bytes | bound |
|---|---|---|---|
| `unit` | ``()`` | none | at most 0, *not* fixed (the crate's own quirk) |
| `boolean` | ``bool`` | 00 or 01 | fixed 1 |
| `u8` `u16` `u32` `u64` `u128` | the same | big-endian | fixed 1, 2, 4, 8, 16 |
| `i8` `i16` `i32` `i64` `i128` | *not in the crate*; as users write it by hand | big-endian two's complement | fixed |
| `f32` `f64` | the same | IEEE, big-endian; no key (not ``Ord``) | fixed 4, 8 |
| `text` | ``String`` | UTF-8 | unbounded |
| `raw` | ``Vec<u8>`` | as they are | unbounded |
| `FixedBytes(n)` | ``[u8; N]``, any fixed struct | as they are | fixed n |
| `Blob(n)` | ``Blob<N>``, any bounded struct | as they are | at most n |
| `BoundedVecN(n)`, `UnboundedVecN(n)` | the same | padded with zeros to n | at most n; unbounded |
| `principal` | ``Principal`` | 0 to 29 bytes | at most 29 |
| `Reverse(t)` | ``Reverse<T>`` | as t | as t |
| `Option(t)` | ``Option<T>`` | ``00``, or t's bytes and then ``01`` | max + 1, fixed as t |
| `Tuple(a, b)` | ``(A, B)`` | both padded to their max, then the lengths of the non-fixed ones | always max long |
| `Tuple(a, b, c)` | ``(A, B, C)`` | see `Tuple` | |

>>> Tuple(u16, text, u8).encode((2, "ab", 3)).hex()
'00000202616203'
>>> parse("(Principal, Blob<32>)").max_size
63
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from functools import total_ordering
from typing import Any, Generic, Protocol, TypeVar, final, runtime_checkable

from perdure.errors import MalformedError
from perdure.ic.principal import MAX_PRINCIPAL_BYTES, Principal

__all__ = [
    "Blob",
    "BoundedVecN",
    "FixedBytes",
    "Option",
    "Order",
    "Reverse",
    "StorableType",
    "Tuple",
    "UnboundedVecN",
    "boolean",
    "encode_checked",
    "f32",
    "f64",
    "i8",
    "i16",
    "i32",
    "i64",
    "i128",
    "order_of",
    "parse",
    "principal",
    "raw",
    "text",
    "u8",
    "u16",
    "u32",
    "u64",
    "u128",
    "unit",
]

T = TypeVar("T")
Order = Callable[[bytes], Any]
"""Maps encoded bytes to a value that Python compares as Rust compares the decoded ones."""


@runtime_checkable
class StorableType(Protocol[T]):
    """What a structure needs to know of its keys, values or elements. Any object of this shape will do."""

    @property
    def name(self) -> str:
        """The type as Rust writes it."""
        ...

    @property
    def max_size(self) -> int | None:
        """The most bytes a value may take; ``None`` for unbounded."""
        ...

    @property
    def is_fixed(self) -> bool:
        """Whether every value takes exactly `max_size` bytes (as the crate's type claims)."""
        ...

    @property
    def order(self) -> Order | None:
        """The order of encoded values; ``None`` where the bytes themselves compare right."""
        ...

    def encode(self, value: T) -> bytes:
        """The bytes of `value`."""
        ...

    def decode(self, data: bytes) -> T:
        """The value of `data`; `MalformedError` where it is none."""
        ...


def encode_checked(storable_type: StorableType[T], value: T) -> bytes:
    """The bytes of `value`, within the bound of the type.

    Raises:
        ValueError: the bytes break the bound. The crate panics there; so does ``None`` of an `Option` of a fixed type,
            whose one byte is not the size that the type claims.
    """
    data = storable_type.encode(value)
    max_size = storable_type.max_size
    if max_size is None or len(data) == max_size or (len(data) < max_size and not storable_type.is_fixed):
        return data
    bound = "exactly" if storable_type.is_fixed else "at most"
    raise ValueError(f"a {storable_type.name} takes {bound} {max_size} bytes, {value!r} has {len(data)}")


def order_of(storable_type: StorableType[Any]) -> Order:
    """The order of a type, the identity where bytes compare right."""
    return storable_type.order or bytes


@final
class _Integer:
    """A big-endian integer, signed or not."""

    is_fixed = True

    def __init__(self, name: str) -> None:
        self.name = name
        self.signed = name[0] == "i"
        self.max_size = int(name[1:]) // 8
        self.order: Order | None = self.decode if self.signed else None

    def encode(self, value: int) -> bytes:
        try:
            return value.to_bytes(self.max_size, "big", signed=self.signed)
        except OverflowError as error:
            raise ValueError(f"{value} is no {self.name}") from error

    def decode(self, data: bytes) -> int:
        _expect_size(self, data)
        return int.from_bytes(data, "big", signed=self.signed)

    def __repr__(self) -> str:
        return self.name


@final
class _Float:
    """An IEEE float, big-endian. The order is that of the numbers (the crate has none: a float is no key there)."""

    is_fixed = True

    def __init__(self, name: str) -> None:
        self.name = name
        self.max_size = int(name[1:]) // 8
        self._struct = struct.Struct(">f" if self.max_size == 4 else ">d")
        self.order: Order | None = self.decode

    def encode(self, value: float) -> bytes:
        return self._struct.pack(value)

    def decode(self, data: bytes) -> float:
        _expect_size(self, data)
        (value,) = self._struct.unpack(data)
        return float(value)

    def __repr__(self) -> str:
        return self.name


@final
class _Boolean:
    name = "bool"
    max_size = 1
    is_fixed = True
    order: Order | None = None

    def encode(self, value: bool) -> bytes:
        return b"\x01" if value else b"\x00"

    def decode(self, data: bytes) -> bool:
        if data not in (b"\x00", b"\x01"):
            raise MalformedError(f"a bool is 00 or 01, found {data[:8].hex() or 'nothing'}")
        return data == b"\x01"

    def __repr__(self) -> str:
        return self.name


@final
class _Unit:
    name = "()"
    max_size = 0
    is_fixed = False
    order: Order | None = None

    def encode(self, value: tuple[()] | None = None) -> bytes:
        if value not in (None, ()):
            raise ValueError(f"the unit value is () or None, found {value!r}")
        return b""

    def decode(self, data: bytes) -> tuple[()]:
        if data:
            raise MalformedError(f"a unit has no bytes, found {len(data)}")
        return ()

    def __repr__(self) -> str:
        return "unit"


@final
class _Text:
    name = "String"
    max_size = None
    is_fixed = False
    order: Order | None = None

    def encode(self, value: str) -> bytes:
        return value.encode()

    def decode(self, data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise MalformedError(f"a String of {len(data)} bytes is not UTF-8 at its byte {error.start}") from error

    def __repr__(self) -> str:
        return "text"


@final
class _Bytes:
    """Bytes as they are: `Vec<u8>`, `[u8; N]`, `Blob<N>`."""

    order: Order | None = None

    def __init__(self, name: str, max_size: int | None, is_fixed: bool) -> None:
        if max_size is not None and not 0 <= max_size < 1 << 32:
            raise ValueError(f"a bound is a u32, found {max_size}")
        self.name = name
        self.max_size = max_size
        self.is_fixed = is_fixed

    def encode(self, value: bytes | bytearray | memoryview) -> bytes:
        return bytes(value)

    def decode(self, data: bytes) -> bytes:
        if self.max_size is not None and (len(data) > self.max_size or (self.is_fixed and len(data) != self.max_size)):
            raise MalformedError(f"a {self.name} cannot have {len(data)} bytes")
        return bytes(data)

    def __repr__(self) -> str:
        return self.name


@final
class _Padded:
    """`BoundedVecN<N>` and `UnboundedVecN<N>` of the crate's own benchmarks: bytes padded with zeros to N."""

    is_fixed = False
    order: Order | None = None

    def __init__(self, name: str, size_bytes: int, max_size: int | None) -> None:
        self.name = name
        self.max_size = max_size
        self.size_bytes = size_bytes

    def encode(self, value: bytes) -> bytes:
        if len(value) > self.size_bytes:
            raise ValueError(f"a {self.name} has at most {self.size_bytes} bytes, found {len(value)}")
        return bytes(value).ljust(self.size_bytes, b"\x00")

    def decode(self, data: bytes) -> bytes:
        return bytes(data)

    def __repr__(self) -> str:
        return self.name


@final
class _Principal:
    name = "Principal"
    max_size = MAX_PRINCIPAL_BYTES
    is_fixed = False

    def __init__(self) -> None:
        self.order: Order | None = _length_then_bytes

    def encode(self, value: Principal) -> bytes:
        return value.raw_bytes

    def decode(self, data: bytes) -> Principal:
        if len(data) > MAX_PRINCIPAL_BYTES:
            raise MalformedError(f"a principal has at most {MAX_PRINCIPAL_BYTES} bytes, found {len(data)}")
        return Principal(data)

    def __repr__(self) -> str:
        return "principal"


def _length_then_bytes(data: bytes) -> tuple[int, bytes]:
    """The derived order of ``candid::Principal``: its length field comes before its bytes."""
    return len(data), data


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


def _expect_size(storable_type: _Integer | _Float, data: bytes) -> None:
    if len(data) != storable_type.max_size:
        raise MalformedError(f"a {storable_type.name} has {storable_type.max_size} bytes, found {len(data)}")


unit = _Unit()
boolean = _Boolean()
u8, u16, u32, u64, u128 = (_Integer(f"u{bits}") for bits in (8, 16, 32, 64, 128))
i8, i16, i32, i64, i128 = (_Integer(f"i{bits}") for bits in (8, 16, 32, 64, 128))
f32, f64 = _Float("f32"), _Float("f64")
text = _Text()
raw = _Bytes("Vec<u8>", None, False)
principal = _Principal()


def FixedBytes(size_bytes: int) -> StorableType[bytes]:  # noqa: N802 (it reads as the type it makes)
    """``[u8; N]``, or any struct that always takes `size_bytes` bytes, undecoded."""
    return _Bytes(f"[u8; {size_bytes}]", size_bytes, True)


def Blob(max_size: int) -> StorableType[bytes]:  # noqa: N802
    """``Blob<N>``, or any struct of at most `max_size` bytes, undecoded."""
    return _Bytes(f"Blob<{max_size}>", max_size, False)


def BoundedVecN(size_bytes: int) -> StorableType[bytes]:  # noqa: N802
    """Bytes padded with zeros to `size_bytes`, bounded by it, not fixed. Decodes to the padded bytes."""
    return _Padded(f"BoundedVecN<{size_bytes}>", size_bytes, size_bytes)


def UnboundedVecN(size_bytes: int) -> StorableType[bytes]:  # noqa: N802
    """Bytes padded with zeros to `size_bytes`, unbounded. Decodes to the padded bytes."""
    return _Padded(f"UnboundedVecN<{size_bytes}>", size_bytes, None)


_NAMED: dict[str, StorableType[Any]] = {
    **{
        storable.name: storable for storable in (unit, boolean, u8, u16, u32, u64, u128, f32, f64, text, raw, principal)
    },
    **{storable.name: storable for storable in (i8, i16, i32, i64, i128)},
}
_SIZED: dict[str, Callable[[int], StorableType[bytes]]] = {
    "Blob": Blob,
    "BoundedVecN": BoundedVecN,
    "UnboundedVecN": UnboundedVecN,
}
_MAX_NESTING = 32


def parse(name: str) -> StorableType[Any]:
    """The type that Rust writes as `name`: ``u64``, ``(Principal, Blob<32>)``, ``Option<[u8; 4]>``.

    The inverse of `StorableType.name`. Blanks are free.

    Raises:
        ValueError: no such type.
    """
    tokens = re.findall(r"Vec\s*<\s*u8\s*>|\w+|\S", name)
    rest = iter(tokens)
    storable = _parse_type(rest, next(rest, ""), name, _MAX_NESTING)
    if (extra := next(rest, None)) is not None:
        raise ValueError(f"{name!r} goes on with {extra!r} after a whole type")
    return storable


def _parse_type(tokens: Iterator[str], token: str, name: str, nesting: int) -> StorableType[Any]:
    if nesting == 0:
        raise ValueError(f"{name!r} nests more than {_MAX_NESTING} types")
    if token == "(":
        return _parse_tuple(tokens, name, nesting)
    if token == "[":
        parts = [next(tokens, "") for _ in range(4)]
        if parts[0] == "u8" and parts[1] == ";" and parts[2].isdecimal() and parts[3] == "]":
            return FixedBytes(int(parts[2]))
        raise ValueError(f"an array in {name!r} is written [u8; N]")
    if token in ("Option", "Reverse"):
        _expect_token(tokens, "<", name)
        inner = _parse_type(tokens, next(tokens, ""), name, nesting - 1)
        _expect_token(tokens, ">", name)
        return Option(inner) if token == "Option" else Reverse(inner)
    if token in _SIZED:
        _expect_token(tokens, "<", name)
        size = next(tokens, "")
        _expect_token(tokens, ">", name)
        if size.isdecimal():
            return _SIZED[token](int(size))
    found = _NAMED.get("".join(token.split()))
    if found is None:
        raise ValueError(f"{token or 'nothing'!r} in {name!r} is no storable type of the crate")
    return found


def _parse_tuple(tokens: Iterator[str], name: str, nesting: int) -> StorableType[Any]:
    elements: list[StorableType[Any]] = []
    token = next(tokens, "")
    while token != ")":
        elements.append(_parse_type(tokens, token, name, nesting - 1))
        token = next(tokens, "")
        if token == ",":
            token = next(tokens, "")
        elif token != ")":
            raise ValueError(f"expected ',' or ')' in {name!r}, found {token or 'its end'!r}")
    return Tuple(*elements) if elements else unit


def _expect_token(tokens: Iterator[str], expected: str, name: str) -> None:
    found = next(tokens, "")
    if found != expected:
        raise ValueError(f"expected {expected!r} in {name!r}, found {found or 'its end'!r}")
