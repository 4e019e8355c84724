"""Types whose values have no parts; see `types`."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, final, runtime_checkable

from perdure.errors import MalformedError
from perdure.ic.principal import MAX_PRINCIPAL_BYTES, Principal
from perdure.stable.kind import BOOL, BYTES, PRINCIPAL, TEXT, UNIT, Kind, integer

__all__ = [
    "Blob",
    "BoundedVecN",
    "FixedBytes",
    "Order",
    "StorableType",
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
        self.kind = integer(int(name[1:]), is_signed=self.signed)
        self.collation = "signed" if self.signed else "bytes"
        self.stored_as = f">{name[0]}{self.max_size}" if self.max_size <= 8 else None

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
        self.kind = Kind("float", int(name[1:]))
        self.stored_as = f">f{self.max_size}"

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
    kind = BOOL
    stored_as = "u1"
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
    kind = UNIT
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
    kind = TEXT
    stored_as = "utf-8"
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

    kind = BYTES
    stored_as = "bytes"
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

    kind = BYTES
    stored_as = "bytes"
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
    kind = PRINCIPAL
    collation = "size"
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
