"""Keys of several parts whose bytes compare as the parts do: FoundationDB's tuple layer, byte for byte.

```
 None        00                          in a nested tuple 00 FF
 bytes       01, each 00 in them 00 FF, 00
 text        02, UTF-8 as above, 00
 tuple       05, its parts, 00
 integer     14 zero; 14+n, n bytes big-endian, n of 1 to 8; 14-n, n bytes of the one's complement if negative
             1D n, n bytes, from 2^64 - 1 up to 255 bytes; 0B n^FF, n bytes of the one's complement if negative
 float       20 of 32, 21 of 64 bits: IEEE big-endian, the sign flipped, all bits if negative
 bool        26 false, 27 true
 UUID        30, 16 bytes
```

Another order than this is nowhere: None before bytes before text before tuples before integers before floats before
booleans. Rust reads it with the crate ``foundationdb-tuple``. A principal is packed as its bytes.

Spec: design/tuple.md of apple/foundationdb.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from reprlib import repr as brief
from typing import Final, NamedTuple, Self, final
from uuid import UUID

from perdure.errors import MalformedError
from perdure.ic.principal import Principal
from perdure.stable.kind import Kind
from perdure.values.format import Format, Value

__all__ = [
    "Anything",
    "Packed",
    "Single",
    "Uri",
    "UriFormat",
    "named_parts",
    "pack",
    "prefix_end",
    "skip",
    "unpack",
]

_NULL: Final = 0x00
_BYTES: Final = 0x01
_TEXT: Final = 0x02
_NESTED: Final = 0x05
_NEGATIVE_LONG: Final = 0x0B
_ZERO: Final = 0x14
_POSITIVE_LONG: Final = 0x1D
_SINGLE: Final = 0x20
_DOUBLE: Final = 0x21
_FALSE: Final = 0x26
_TRUE: Final = 0x27
_UUID: Final = 0x30
_ESCAPE: Final = 0xFF
_LEAST_LONG: Final = (1 << 64) - 1
"""Eight bytes would hold it, and FoundationDB's own Python package writes it in the long form all the same."""
_LONG_BYTES: Final = 255
_MAX_NESTING: Final = 64


@final
class Single(float):
    """A float of 32 bits, where a key tells it from one of 64."""

    __slots__ = ()


def pack(parts: Sequence[object]) -> bytes:
    """The bytes of a tuple.

    Raises:
        ValueError: a part has no place in a key: of another type, an integer past 255 bytes, nested too deep.
    """
    out = bytearray()
    for part in parts:
        _put(out, part, 0)
    return bytes(out)


def _put(out: bytearray, part: Value, nesting: int) -> None:
    """Append a part. The exact types come first: they are nearly all."""
    kind = type(part)
    put = _PUT.get(kind)
    if put is not None:
        put(out, part)
    elif part is None:
        out += b"\x00\xff" if nesting else b"\x00"
    elif isinstance(part, (tuple, list)):
        if nesting == _MAX_NESTING:
            raise ValueError(f"a key nests at most {_MAX_NESTING} tuples")
        out.append(_NESTED)
        for one in part:
            _put(out, one, nesting + 1)
        out.append(0)
    else:
        put = next((put for base, put in _PUT.items() if isinstance(part, base)), None)
        if put is None:
            raise ValueError(
                f"{brief(part)} has no place in a key: expected None, bool, int, float, str, bytes, a tuple"
            )
        put(out, part)


def _put_bytes(out: bytearray, part: bytes) -> None:
    out.append(_BYTES)
    out += part.replace(b"\x00", b"\x00\xff")
    out.append(0)


def _put_text(out: bytearray, part: str) -> None:
    out.append(_TEXT)
    try:
        out += part.encode().replace(b"\x00", b"\x00\xff")
    except UnicodeEncodeError as error:
        raise ValueError(f"{brief(part)} is no text: {error}") from error
    out.append(0)


def _put_integer(out: bytearray, part: int) -> None:
    size = (abs(part).bit_length() + 7) // 8
    if abs(part) < _LEAST_LONG:
        out.append(_ZERO + size if part >= 0 else _ZERO - size)
    elif size <= _LONG_BYTES:
        out += bytes((_POSITIVE_LONG, size) if part >= 0 else (_NEGATIVE_LONG, size ^ _ESCAPE))
    else:
        raise ValueError(f"an integer in a key has at most {_LONG_BYTES} bytes, found {size}")
    out += (part if part >= 0 else part + (1 << 8 * size) - 1).to_bytes(size, "big")


def _float_bits(data: bytes) -> bytes:
    """Sign flipped, all bits if negative; `_float_of` is the way back."""
    if data[0] & 0x80:
        return bytes(one ^ 0xFF for one in data)
    return bytes((data[0] ^ 0x80,)) + data[1:]


def _put_double(out: bytearray, part: float) -> None:
    out.append(_DOUBLE)
    out += _float_bits(struct.pack(">d", part))


def _put_single(out: bytearray, part: float) -> None:
    try:
        data = struct.pack(">f", part)
    except OverflowError as error:
        raise ValueError(f"{part!r} is no float of 32 bits") from error
    out.append(_SINGLE)
    out += _float_bits(data)


def _put_bool(out: bytearray, part: bool) -> None:
    out.append(_TRUE if part else _FALSE)


def _put_uuid(out: bytearray, part: UUID) -> None:
    out.append(_UUID)
    out += part.bytes


_PUT: Final[dict[type, Callable[[bytearray, Value], None]]] = {
    bool: _put_bool,  # before int, which it is
    int: _put_integer,
    str: _put_text,
    bytes: _put_bytes,
    Single: _put_single,  # before float
    float: _put_double,
    UUID: _put_uuid,
    Principal: lambda out, part: _put_bytes(out, bytes(part)),
    bytearray: lambda out, part: _put_bytes(out, bytes(part)),
}


def unpack(data: bytes) -> tuple[Value, ...]:
    """The parts.

    Raises:
        MalformedError: it is no tuple; versionstamps and types of users are none here.
    """
    found, at = [], 0
    try:
        while at < len(data):
            part, at = _get(data, at, 0)
            found.append(part)
    except (IndexError, ValueError, struct.error) as error:
        raise MalformedError(f"no packed tuple: {error} (in {data[:20].hex()}...)", at) from error
    return tuple(found)


def _get(data: bytes, at: int, nesting: int) -> tuple[Value, int]:  # noqa: PLR0911 -- one return per kind of part
    """A part, and where the next one begins."""
    code, at = data[at], at + 1
    if _NEGATIVE_LONG < code < _POSITIVE_LONG:
        size = abs(code - _ZERO)
        return _integer(data, at, size, code < _ZERO)
    if code in (_BYTES, _TEXT):
        raw, at = _escaped(data, at)
        return (raw, at) if code == _BYTES else (raw.decode(), at)
    if code == _NULL:
        return None, at
    if code in (_FALSE, _TRUE):
        return code == _TRUE, at
    if code == _NESTED:
        return _nested(data, at, nesting + 1)
    if code == _DOUBLE:
        return struct.unpack(">d", _float_of(_exactly(data, at, 8)))[0], at + 8
    if code == _SINGLE:
        return Single(struct.unpack(">f", _float_of(_exactly(data, at, 4)))[0]), at + 4
    if code == _POSITIVE_LONG:
        return _integer(data, at + 1, data[at], False)
    if code == _NEGATIVE_LONG:
        return _integer(data, at + 1, data[at] ^ _ESCAPE, True)
    if code == _UUID:
        return UUID(bytes=_exactly(data, at, 16)), at + 16
    raise ValueError(f"no part begins with {code:#04x}")


def _exactly(data: bytes, at: int, size: int) -> bytes:
    found = data[at : at + size]
    if len(found) < size:
        raise ValueError(f"{size} bytes expected, {len(found)} are left")
    return found


def _integer(data: bytes, at: int, size: int, is_negative: bool) -> tuple[int, int]:
    number = int.from_bytes(_exactly(data, at, size), "big")
    if is_negative:
        number -= (1 << 8 * size) - 1
    if (abs(number).bit_length() + 7) // 8 != size:
        raise ValueError(f"an integer of {size} bytes that fewer hold")
    return number, at + size


def _float_of(data: bytes) -> bytes:
    if data[0] & 0x80:
        return bytes((data[0] ^ 0x80,)) + data[1:]
    return bytes(one ^ 0xFF for one in data)


def _escaped(data: bytes, at: int) -> tuple[bytes, int]:
    start, end = at, data.index(0, at)
    while data[end + 1 : end + 2] == b"\xff":
        end = data.index(0, end + 2)
    return data[start:end].replace(b"\x00\xff", b"\x00"), end + 1


def _nested(data: bytes, at: int, nesting: int) -> tuple[tuple[Value, ...], int]:
    if nesting > _MAX_NESTING:
        raise ValueError(f"more than {_MAX_NESTING} tuples nested")
    found: list[Value] = []
    while True:
        if data[at] == _NULL:
            if data[at + 1 : at + 2] != b"\xff":
                return tuple(found), at + 1
            found.append(None)
            at += 2
        else:
            part, at = _get(data, at, nesting)
            found.append(part)


def skip(data: bytes, count: int) -> int:
    """Where the part number `count` begins.

    Raises:
        MalformedError: there are not so many, or they are none.
    """
    at = 0
    try:
        for _ in range(count):
            _, at = _get(data, at, 0)
    except (IndexError, ValueError, struct.error) as error:
        raise MalformedError(f"no packed tuple: {error} (in {data[:20].hex()}...)", at) from error
    return at


def prefix_end(prefix: bytes) -> bytes | None:
    """The end of all keys that begin with these packed parts; `None`: there is no end, as of no parts.

    Not the next bytes: a text that begins with another one and a zero has its bytes, and then FF.
    """
    return prefix + b"\xff" if prefix else None


@final
class Packed(Format):
    """A packed tuple: ``packed`` of anything, ``packed(NAME: TYPE, ...)`` of declared parts, each a column.

    A part is shown as its type shows values: principals and the like are packed as their bytes.
    """

    is_ordered = True
    has_column_names = True

    def __init__(self, name: str, inner: Mapping[str, Format]) -> None:
        self.name = name
        self.fields = tuple(inner)
        self._inner = tuple(inner.values())
        self.kind = Kind("record", labels=self.fields, parts=tuple(one.kind for one in self._inner))
        if not inner:
            self.kind = Kind("document")

    @classmethod
    def parse(cls, name: str, arguments: list[str] | None, inner: Callable[[str], Format]) -> Self:
        """From its name."""
        return cls(name, named_parts(name, arguments or [], inner))

    def decode(self, data: bytes) -> Value:
        """A tuple, or a dict of the declared parts."""
        found = unpack(data)
        if not self.fields:
            return found
        if len(found) != len(self.fields):
            raise MalformedError(f"a {self.name} has {len(self.fields)} parts, found {len(found)}")
        return {name: one.from_part(part) for name, one, part in zip(self.fields, self._inner, found, strict=True)}

    def encode(self, value: object) -> bytes:
        """The bytes of a tuple, or of an object of the declared parts."""
        if not self.fields:
            if not isinstance(value, (tuple, list)):
                raise ValueError(f"a packed key is a list, found {brief(value)}")
            return pack(value)
        parts = list(value.values()) if isinstance(value, dict) else value
        if isinstance(value, dict) and set(value) == set(self.fields):
            parts = [value[name] for name in self.fields]
        elif isinstance(value, dict) or not isinstance(parts, (tuple, list)):
            parts = [value] if len(self.fields) == 1 and not isinstance(value, dict) else []
        if len(parts) != len(self.fields):
            raise ValueError(f"a {self.name} has the parts {', '.join(self.fields)}, found {brief(value)}")
        return pack([one.to_part(part) for one, part in zip(self._inner, parts, strict=True)])

    def from_text(self, text: str) -> bytes:
        """JSON of a list or an object; of one part, what a person writes for it."""
        if len(self.fields) == 1 and not text.startswith(("[", "{")):
            inner = self._inner[0]
            return pack([inner.to_part(inner.decode(inner.from_text(text)))])
        try:
            return self.encode(json.loads(text))
        except RecursionError as error:
            raise ValueError("nested too deep") from error


@final
class Anything(Format):
    """``any``: whatever a tuple or an array can have, in its place there and not as bytes of its own."""

    name = "any"
    is_ordered = True

    def decode(self, data: bytes) -> Value:
        """The one part of a packed tuple."""
        found = unpack(data)
        if len(found) != 1:
            raise MalformedError(f"one part expected, found {len(found)}")
        return found[0]

    def encode(self, value: object) -> bytes:
        """A packed tuple of one part."""
        return pack((value,))

    @property
    def is_part(self) -> bool:
        """Always."""
        return True

    def to_part(self, value: Value) -> Value:
        """As it is."""
        return value


class Uri(NamedTuple):
    """Something that a canister has: where it is, and what it is called there.

    Attributes:
        canister: who has it.
        id: its own name there: a number, text or bytes.
    """

    canister: Principal
    id: int | str | bytes

    def __str__(self) -> str:
        own = self.id.hex() if isinstance(self.id, bytes) else self.id
        return f"{self.canister}/{own}"

    @classmethod
    def from_text(cls, text: str) -> Uri:
        """The inverse of `str`, where the id is a number or a text that is none.

        Raises:
            MalformedError: no principal, or nothing after it.
        """
        canister, slash, own = text.partition("/")
        if not slash:
            raise MalformedError(f"a URI is written CANISTER/ID, found {brief(text)}")
        return cls(Principal.from_text(canister), int(own) if own.isdecimal() else own)


@final
class UriFormat(Format):
    """``uri``: a canister and an id of its own; in keys and arrays a tuple of both."""

    name = "uri"
    is_ordered = True

    @property
    def is_part(self) -> bool:
        """A tuple of two is one."""
        return True

    def to_part(self, value: Value) -> Value:
        """Bytes of the canister, and the id."""
        if value is None:
            return None
        try:
            found = Uri.from_text(value) if isinstance(value, str) else value
        except MalformedError as error:
            raise ValueError(str(error)) from error
        if not isinstance(found, tuple) or len(found) != 2 or isinstance(found[1], bool | None):
            raise ValueError(f"{brief(value)} is no URI: a canister and an id")
        return bytes(found[0]), found[1]

    def from_part(self, part: Value) -> Value:
        """The URI of a tuple of two."""
        if part is None:
            return None
        if not isinstance(part, tuple | list) or len(part) != 2 or not isinstance(part[0], bytes):
            raise MalformedError(f"a uri is a canister and an id, found {brief(part)}")
        return Uri(Principal(part[0]), part[1])

    def decode(self, data: bytes) -> Value:
        """Of a packed tuple of one part."""
        (found,) = unpack(data)
        return self.from_part(found)

    def encode(self, value: object) -> bytes:
        """A packed tuple of one part."""
        return pack((self.to_part(value),))


def named_parts(name: str, arguments: list[str], inner: Callable[[str], Format]) -> dict[str, Format]:
    """The ``NAME: TYPE`` of a format's arguments.

    Raises:
        ValueError: one is written otherwise, or twice.
    """
    parts: dict[str, Format] = {}
    for argument in arguments:
        label, colon, spec = argument.partition(":")
        if not colon or not label.strip().isidentifier():
            raise ValueError(f"a part is written NAME: TYPE, found {argument!r}")
        if label.strip() in parts:
            raise ValueError(f"two parts {label.strip()} in {name!r}")
        parts[label.strip()] = inner(spec.strip())
    return parts
