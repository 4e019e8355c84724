"""Objects on the heap of a canister with enhanced orthogonal persistence, as far as they need no types to be read."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final, final

from perdure.candid.types import MethodRef
from perdure.errors import MalformedError
from perdure.ic.principal import Principal
from perdure.values.motoko_reading import RegionValue

__all__ = ["Heap"]

NULL: Final = 0xFFFF_FFFF_FFFF_FFFB

WORD: Final = struct.Struct("<Q")
HEAD: Final = struct.Struct("<3Q")
"""Tag, pointer to where the object is now, and what comes first in it."""

TAG_OBJECT, TAG_CELL, TAG_SOME, TAG_VARIANT, TAG_BIGINT, TAG_CONCAT, TAG_REGION = 1, 17, 21, 23, 35, 37, 39
TAG_NAT64, TAG_INT64, TAG_FLOAT, TAG_BLOB, TAG_TEXT, TAG_WEAK = 11, 13, 15, 25, 27, 45
TAG_TUPLE: Final = 7
ARRAY_TAGS: Final = frozenset({3, 5, 7, 9})
PRINCIPAL_TAGS: Final = frozenset({29, 31})
BOXED: Final = {"Nat64": (TAG_NAT64, "<Q"), "Int64": (TAG_INT64, "<q"), "Float": (TAG_FLOAT, "<d")}
"""Tag and form of numbers that are too large for a word, by their type."""

_MAX_DIGITS: Final = 1 << 24


@final
class Heap:
    """The bytes of a heap; a pointer is an address less one.

    Attributes:
        data: its bytes.
        words: the same in words of 8 bytes, in which all objects lie.
    """

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.words = data.cast("B").cast("Q")

    def alike(self, pointers: Sequence[int], tag: int) -> tuple[list[int], int] | None:
        """Where objects of a tag lie in words, and the first word that they have in common; `None`: they differ."""
        words = self.words
        places = [(word + 1) >> 3 for word in pointers]
        if {words[at] for at in places} != {tag} or [words[at + 1] for at in places] != list(pointers):
            return None
        first = {words[at + 2] for at in places}
        return (places, first.pop()) if len(first) == 1 else None

    def object(self, word: int) -> tuple[int, int, int]:
        """Tag and address of an object, where it is now, and the first word in it."""
        tag, forward, first = HEAD.unpack_from(self.data, word + 1)
        if forward == word:
            return tag, word + 1, first
        tag, _, first = HEAD.unpack_from(self.data, forward + 1)
        return tag, forward + 1, first

    def blob(self, address: int, size: int) -> memoryview:
        """The bytes in a blob or a text of `size` bytes."""
        if address + 24 + size > len(self.data):
            raise MalformedError(f"a blob of {size} bytes past the heap", address)
        return self.data[address + 24 : address + 24 + size]

    def hashes(self, word: int) -> tuple[int, ...]:
        """The hashes of an object's fields, in the order of the fields."""
        _, address, size = self.object(word)
        return struct.unpack(f"<{size // 8}Q", self.blob(address, size // 8 * 8))

    def integer(self, word: int) -> int:
        """A number without bounds that does not fit a word."""
        tag, address, _ = self.object(word)
        if tag != TAG_BIGINT:
            raise MalformedError(f"an object of tag {tag} for a number", address)
        used, _, sign = struct.unpack_from("<3i", self.data, address + 16)
        if not 0 <= used <= _MAX_DIGITS:
            raise MalformedError(f"a number of {used} digits", address)
        number = _number(struct.unpack_from(f"<{used}Q", self.data, address + 40))
        return -number if sign else number

    def boxed(self, word: int, tag: int, form: str) -> Any:
        """A number in an object of its own, in the form that `struct` calls so."""
        found, address, _ = self.object(word)
        if found != tag:
            raise MalformedError(f"an object of tag {found} for a number", address)
        return struct.unpack_from(form, self.data, address + 16)[0]

    def bytes_of(self, word: int, tag: int) -> memoryview:
        """The bytes in an object of a tag."""
        found, address, size = self.object(word)
        if found != tag and not (tag in PRINCIPAL_TAGS and found in PRINCIPAL_TAGS):
            raise MalformedError(f"an object of tag {found} for bytes", address)
        return self.blob(address, size)

    def principal(self, word: int) -> Principal:
        """A principal, or an actor by it."""
        return Principal(bytes(self.bytes_of(word, 29)))

    def texts(self, pointers: Sequence[int]) -> list[str]:
        """Many texts."""
        words, data, end = self.words, self.data, len(self.data)
        found = []
        for word in pointers:
            at = (word + 1) >> 3
            start = word + 25
            stop = start + words[at + 2]
            is_plain = words[at] == TAG_TEXT and words[at + 1] == word and stop <= end
            found.append(str(data[start:stop], "utf-8") if is_plain else self.text(word))
        return found

    def text(self, word: int) -> str:
        """A text, also one that was put together and not yet copied."""
        tag, address, size = self.object(word)
        if tag == TAG_TEXT:
            return str(self.blob(address, size), "utf-8")
        parts: list[memoryview] = []
        pending = [word]
        while pending:
            word = pending.pop()
            tag, address, _ = self.object(word)
            if tag == TAG_CONCAT:
                pending += HEAD.unpack_from(self.data, address + 16)[:0:-1]
            else:
                parts.append(self.bytes_of(word, TAG_TEXT))
            if len(parts) + len(pending) > len(self.data) // 8:
                raise MalformedError("a text of too many parts", address)
        return b"".join(parts).decode()

    def region(self, word: int) -> RegionValue:
        """A region."""
        tag, address, number = self.object(word)
        if tag != TAG_REGION:
            raise MalformedError(f"an object of tag {tag} for a region", address)
        return RegionValue(number, WORD.unpack_from(self.data, address + 24)[0])

    def method(self, word: int) -> MethodRef:
        """A shared function: a pair of its actor and its name."""
        tag, address, count = self.object(word)
        if tag not in ARRAY_TAGS or count != 2:
            raise MalformedError(f"an object of tag {tag} for a shared function", address)
        owner, name = struct.unpack_from("<2Q", self.data, address + 24)
        return MethodRef(self.principal(owner), self.text(name))


def _number(digits: tuple[int, ...]) -> int:
    """What digits of 60 bits make, the lowest first; halves at a time, as there may be millions."""
    if len(digits) <= 32:
        return sum(digit << 60 * index for index, digit in enumerate(digits))
    middle = len(digits) // 2
    return _number(digits[:middle]) + (_number(digits[middle:]) << 60 * middle)
