"""Requests to the structures canister, and what it replies; `README.md` beside this file describes the protocol.

request = operation(10, Opcode.INSERT, b"key", b"value") + operation(10, Opcode.LEN)
inserted, length = results(canister.update("update", request))
optional(inserted), number(length)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum


class Opcode(IntEnum):
    """Operations, as in ``src/structure.rs``."""

    LEN = 0
    CLEAR = 1
    GET = 2
    CONTAINS = 3
    INSERT = 4
    REMOVE = 5
    FIRST = 6
    LAST = 7
    POP_FIRST = 8
    POP_LAST = 9
    ITER = 10
    ITER_BACK = 11
    KEYS = 12
    VALUES = 13
    RANGE = 14
    RANGE_FROM = 15
    RANGE_TO = 16
    ITER_FROM_PREVIOUS = 17
    UNION = 18
    INTERSECTION = 19
    SYMMETRIC_DIFFERENCE = 20
    IS_SUBSET = 21
    IS_SUPERSET = 22
    IS_DISJOINT = 23
    PUSH = 24
    POP = 25
    PEEK = 26
    SET = 27
    INDEX_SIZE = 28
    DATA_SIZE = 29
    RECODE_KEY = 30
    RECODE_VALUE = 31
    REOPEN = 255


@dataclass(frozen=True, slots=True)
class Listed:
    """A line of the catalog.

    Attributes:
        memory_id: Where the structure lies; a log has the memory behind it for its data.
        kind: ``map``, ``set``, ``vec``, ``heap``, ``log`` or ``cell``.
        key, value: Types as Rust writes them; empty where the kind has none.
        key_bound, value_bound: ``-`` without bound, ``40`` at most, ``12!`` exactly that many bytes.
    """

    memory_id: int
    kind: str
    key: str
    value: str
    key_bound: str
    value_bound: str


def layout(bucket_pages: int, first_wasm_page: int = 0) -> bytes:
    """The argument of init and post_upgrade."""
    return struct.pack("<HQ", bucket_pages, first_wasm_page)


def catalog(text: bytes) -> list[Listed]:
    """The reply of the method ``catalog``."""
    fields = (line.split("\t") for line in text.decode().splitlines())
    return [Listed(int(memory_id), *rest) for memory_id, *rest in fields]


def operation(memory_id: int, opcode: Opcode, key: bytes = b"", value: bytes = b"") -> bytes:
    """One operation of a request."""
    sizes = (len(key).to_bytes(4, "little"), len(value).to_bytes(4, "little"))
    return bytes((memory_id, opcode)) + sizes[0] + key + sizes[1] + value


def index(value: int) -> bytes:
    """The key field of an operation on one element of a vec or a log."""
    return value.to_bytes(8, "little")


def results(reply: bytes) -> list[bytes]:
    """The results of a request's operations; also the items of a result that has many."""
    return list(_sized(reply))


def _sized(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        yield data[at + 4 : end]
        at = end


def number(result: bytes) -> int:
    """A result that is a number or a bool."""
    return int.from_bytes(result, "little")


def optional(result: bytes) -> bytes | None:
    """A result that is there or not."""
    return result[1:] if result[0] else None


def optional_pair(result: bytes) -> tuple[bytes, bytes] | None:
    """A key and its value, or none."""
    found = optional(result)
    if found is None:
        return None
    key, value = results(found)
    return key, value


def pairs(result: bytes) -> list[tuple[bytes, bytes]]:
    """Keys and values, one behind the other."""
    items = results(result)
    return list(zip(items[::2], items[1::2], strict=True))
