r"""The `Storable` types of the crate: how a value becomes bytes, how long those may be, and how they are ordered.

A structure in stable memory holds bytes only; which type they have is known to the program alone. A type here says
four things: `encode` and `decode`, the bound (`max_size`, `is_fixed`), and `order`, which maps *encoded* bytes to
something Python compares as Rust compares the values. For most types the bytes compare as the values do and `order` is
``None``; the exceptions are exactly the crate's: `principal` (shorter first), `Reverse`, `Option` (the tag is a suffix)
and tuples (element by element). Those without parts are in `plain_types`, those with parts in `composed_types`; this
module is their face, and reads their names.

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
from collections.abc import Callable, Iterator
from typing import Any

from perdure.ic.principal import Principal
from perdure.stable.composed_types import Option, Reverse, Tuple
from perdure.stable.plain_types import (
    Blob,
    BoundedVecN,
    FixedBytes,
    Order,
    StorableType,
    UnboundedVecN,
    boolean,
    encode_checked,
    f32,
    f64,
    i8,
    i16,
    i32,
    i64,
    i128,
    order_of,
    principal,
    raw,
    text,
    u8,
    u16,
    u32,
    u64,
    u128,
    unit,
)
from perdure.units import meant

__all__ = [
    "Blob",
    "BoundedVecN",
    "FixedBytes",
    "Option",
    "Order",
    "Principal",
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
NAMES = tuple(sorted({*_NAMED, "Option", "Reverse", *_SIZED}))
"""What a type begins with, but for tuples and arrays."""
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
        raise ValueError(f"{token or 'nothing'!r} in {name!r} is no storable type of the crate, {meant(token, NAMES)}")
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
