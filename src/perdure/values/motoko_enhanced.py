"""Motoko's stable variables on a heap with enhanced orthogonal persistence; `perdure.values.motoko_state` draws it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from types import GeneratorType
from typing import Any, Final, final

from perdure.candid import field_hash
from perdure.candid.types import MethodRef
from perdure.errors import MalformedError
from perdure.ic.principal import Principal
from perdure.memory import WASM_PAGE_BYTES, Memory
from perdure.values.motoko_state import MotokoState, Reference, RegionValue, Resolver, Steps, finished, some
from perdure.values.motoko_types import Array, Func, Option, Primitive, StableTypes, Tuple, Type

__all__ = ["read_enhanced"]

METADATA_ADDRESS: Final = (4 << 20) + (512 << 10)
_TITLE: Final = "MOTOKO ORTHOGONAL PERSISTENCE 64"
_NULL: Final = 0xFFFF_FFFF_FFFF_FFFB
_MASK: Final = (1 << 64) - 1
_HASH_BITS: Final = (1 << 31) - 1
"""Objects on the heap have 31 bits of a field's hash."""


def read_enhanced(heap: Memory, types: StableTypes) -> MotokoState:
    """The variables on the heap of a canister with enhanced orthogonal persistence, once pre_upgrade has run.

    Raises:
        MalformedError: it is no such heap, pre_upgrade has not run, or what is there does not fit the types.
    """
    size_bytes = heap.size() * WASM_PAGE_BYTES
    if size_bytes < METADATA_ADDRESS + 256:
        raise MalformedError(f"no enhanced orthogonal persistence: a heap of {size_bytes} bytes")
    view = getattr(heap, "view", None)
    data = memoryview(heap.read(0, size_bytes)) if view is None else view(0, size_bytes)
    reader = _Objects(data, types)
    try:
        values = reader.whole()
    except (struct.error, IndexError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(f"an object outside the heap: {error}") from error
    return MotokoState(values, types, 0, 0, reader.leaves)


_WORDS: Final = struct.Struct("<2Q")
_WORD: Final = struct.Struct("<Q")
_ARRAY_TAGS: Final = frozenset({3, 5, 7, 9})
_BLOB_TAGS: Final = frozenset({25, 27, 29, 31})
_TAG_OBJECT, _TAG_CELL, _TAG_SOME, _TAG_VARIANT, _TAG_BIGINT, _TAG_CONCAT, _TAG_REGION = 1, 17, 21, 23, 35, 37, 39
_TAG_NAT64, _TAG_INT64, _TAG_FLOAT, _TAG_WEAK = 11, 13, 15, 45
_SMALL: Final = {"Nat8": 8, "Nat16": 16, "Nat32": 32, "Nat64": 60, "Int8": 8, "Int16": 16, "Int32": 32, "Int64": 60}


@final
class _Objects:
    """Reads objects by their tags, and numbers by the types."""

    def __init__(self, data: memoryview, types: StableTypes) -> None:
        self.data = data
        self.types = Resolver(types, _HASH_BITS)
        self.leaves = 0
        self.left = len(data) // 8
        self.open: set[int] = set()
        self.seen: dict[int, int] = {}

    def whole(self) -> dict[str, Any]:
        title = "".join(
            chr(one) if one < 0x80 else "?" for one in struct.unpack_from("<32I", self.data, METADATA_ADDRESS)
        )
        if title != _TITLE:
            raise MalformedError(f"no enhanced orthogonal persistence: found {title!r}", METADATA_ADDRESS)
        _, actor = _WORDS.unpack_from(self.data, METADATA_ADDRESS + 128)
        if not actor & 1 or actor == _NULL:
            raise MalformedError("stable variables are not gathered: pre_upgrade has not run", METADATA_ADDRESS + 136)
        variables = {field_hash(one.name) & _HASH_BITS: one for one in self.types.types.variables.values()}
        values = {}
        for number, word in self.fields(self.object(actor)):
            variable = variables.get(number & _HASH_BITS)
            if variable is None:
                continue  # the runtime's own
            word = self.unwrapped(word)
            try:
                values[variable.name] = finished(self.value(word, variable.type))
            except MalformedError as error:
                raise MalformedError(f"stable variable {variable.name}: {error.message}", error.offset) from error
        return values

    def unwrapped(self, word: int) -> int:
        """What is in the option that each variable is kept as."""
        if word & 1 and word not in (_NULL, 1):
            address = self.object(word)
            if _WORD.unpack_from(self.data, address)[0] == _TAG_SOME:
                return int(_WORD.unpack_from(self.data, address + 16)[0])
        return word

    def object(self, word: int) -> int:
        """The address of an object, where it is now."""
        address = (word + 1) & _MASK
        _, forward = _WORDS.unpack_from(self.data, address)
        return int(forward + 1 & _MASK)

    def blob(self, address: int) -> bytes:
        (size,) = _WORD.unpack_from(self.data, address + 16)
        if address + 24 + size > len(self.data):
            raise MalformedError(f"a blob of {size} bytes past the heap", address)
        return bytes(self.data[address + 24 : address + 24 + size])

    def fields(self, address: int) -> Iterator[tuple[int, int]]:
        """Hashes and words of an object's fields."""
        (hashes,) = _WORD.unpack_from(self.data, address + 16)
        numbers = self.blob(self.object(hashes))
        count = len(numbers) // 8
        words = struct.unpack_from(f"<{count}Q", self.data, address + 24)
        return zip(struct.unpack(f"<{count}Q", numbers), words, strict=True)

    def value(self, word: int, type_: Type | None) -> Any:
        if type_ is not None:
            type_ = self.types.resolve(type_)
        if word == _NULL:
            self.leaves += 1
            return None
        if not word & 1 or (isinstance(type_, Primitive) and type_.name == "Bool"):
            self.leaves += 1
            return self.number(word, type_)
        if isinstance(type_, Primitive) and type_.name == "Any":
            self.leaves += 1
            return None
        return self.boxed(self.object(word), type_)

    def number(self, word: int, type_: Type | None) -> Any:
        """What is no pointer: the type says what, else its low bits."""
        name = type_.name if isinstance(type_, Primitive) else ""
        if name == "Bool":
            return bool(word)
        signed = word - (1 << 64) if word >> 63 else word
        if name == "Char":
            return chr(word >> 43)
        bits = _SMALL.get(name)
        if bits is not None:
            return (signed if name.startswith("Int") else word) >> 64 - bits
        if name in ("Nat", "Int") or word & 3 == 2:
            return signed >> 2
        return () if isinstance(type_, Tuple) else word

    def sequence(
        self, parts: Iterable[tuple[int, Type | None]], made: Callable[[list[Any]], Any], address: int
    ) -> Steps:
        """The parts of an object. What is not mutable cannot contain itself, and what is mutable is read once."""
        if address in self.open:
            raise MalformedError("an object contains itself", address)
        self.open.add(address)
        found = []
        for word, type_ in parts:
            self.left -= 1
            if self.left < 0:
                raise MalformedError("more values than the heap has room for", address)
            value = self.value(word, type_)
            if value.__class__ is GeneratorType:
                value = yield value
            found.append(value)
        self.open.discard(address)
        return made(found)

    def boxed(self, address: int, type_: Type | None) -> Any:
        (tag,) = _WORD.unpack_from(self.data, address)
        if isinstance(type_, Option) and tag not in (_TAG_SOME, _TAG_CELL):
            # An option whose content is neither null nor an option is the content itself.
            type_ = self.types.resolve(type_.content)
        if tag in _ARRAY_TAGS:
            return self.array(address, tag, type_)
        if tag == _TAG_OBJECT:
            return self.record(address, type_)
        if tag == _TAG_CELL:  # a mutable field
            return self.value(_WORD.unpack_from(self.data, address + 16)[0], type_)
        if tag == _TAG_SOME:
            inner = type_.content if isinstance(type_, Option) else None
            word = _WORD.unpack_from(self.data, address + 16)[0]
            return self.sequence([(word, inner)], lambda values: some(values[0], inner, self.types), address)
        if tag == _TAG_VARIANT:
            number, word = _WORDS.unpack_from(self.data, address + 16)
            member = self.types.members(type_).get(number & _HASH_BITS)
            name = f"_{number}_" if member is None else member.name
            return self.sequence(
                [(word, None if member is None else member.type)], lambda values: {name: values[0]}, address
            )
        self.leaves += 1
        return self.leaf(address, tag, type_)

    def leaf(self, address: int, tag: int, type_: Type | None) -> Any:  # noqa: PLR0911 -- one for each form
        if tag in _BLOB_TAGS:
            data = self.blob(address)
            if tag == 27:
                return data.decode()
            return Principal(data) if tag in (29, 31) else data
        if tag == _TAG_CONCAT:
            return self.text(address)
        if tag == _TAG_NAT64:
            return _WORD.unpack_from(self.data, address + 16)[0]
        if tag == _TAG_INT64:
            return struct.unpack_from("<q", self.data, address + 16)[0]
        if tag == _TAG_FLOAT:
            return struct.unpack_from("<d", self.data, address + 16)[0]
        if tag == _TAG_BIGINT:
            used, _, sign = struct.unpack_from("<3i", self.data, address + 16)
            if not 0 <= used <= 1 << 24:
                raise MalformedError(f"a number of {used} digits", address)
            digits = struct.unpack_from(f"<{used}Q", self.data, address + 40)
            number = sum(digit << 60 * index for index, digit in enumerate(digits))
            return -number if sign else number
        if tag == _TAG_REGION:
            number, pages, _ = struct.unpack_from("<3Q", self.data, address + 16)
            return RegionValue(number, pages)
        raise MalformedError(f"an object of tag {tag} for {type_ or 'a value'}", address)

    def text(self, address: int) -> str:
        """A text that was put together and not yet copied."""
        parts: list[bytes] = []
        pending = [address]
        while pending:
            at = pending.pop()
            (tag,) = _WORD.unpack_from(self.data, at)
            if tag == _TAG_CONCAT:
                _, left, right = struct.unpack_from("<3Q", self.data, at + 16)
                pending += [self.object(right), self.object(left)]
            else:
                parts.append(self.blob(at))
            if len(parts) + len(pending) > len(self.data) // 8:
                raise MalformedError("a text of too many parts", address)
        return b"".join(parts).decode()

    def again(self, address: int) -> Reference | None:
        """Where something mutable was met before; else it is noted."""
        number = self.seen.get(address)
        if number is not None:
            self.leaves += 1
            return Reference(number)
        self.seen[address] = len(self.seen)
        return None

    def array(self, address: int, tag: int, type_: Type | None) -> Any:
        (count,) = _WORD.unpack_from(self.data, address + 16)
        if address + 24 + 8 * count > len(self.data):
            raise MalformedError(f"an array of {count} elements past the heap", address)
        if isinstance(type_, Func):
            self.leaves += 1
            return self.method(address)
        is_mutable = isinstance(type_, Array) and type_.is_mutable
        if is_mutable and (known := self.again(address)) is not None:
            return known
        words = struct.unpack_from(f"<{count}Q", self.data, address + 24)
        if isinstance(type_, Tuple):
            return self.sequence(zip(words, type_.parts, strict=False), tuple, address)
        element = type_.element if isinstance(type_, Array) else None
        return self.sequence([(word, element) for word in words], list, address)

    def method(self, address: int) -> MethodRef:
        """A shared function: a pair of its actor and its name."""
        owner, name = (self.blob(self.object(word)) for word in _WORDS.unpack_from(self.data, address + 24))
        return MethodRef(Principal(owner), name.decode())

    def record(self, address: int, type_: Type | None) -> Any:
        members = self.types.members(type_)
        is_mutable = any(member.is_mutable for member in members.values())
        if is_mutable and (met := self.again(address)) is not None:
            return met
        fields = list(self.fields(address))
        known = [members.get(number & _HASH_BITS) for number, _ in fields]
        typed = [(word, None if one is None else one.type) for (_, word), one in zip(fields, known, strict=True)]
        names = [f"_{number}_" if one is None else one.name for (number, _), one in zip(fields, known, strict=True)]
        return self.sequence(typed, lambda values: dict(zip(names, values, strict=True)), address)
