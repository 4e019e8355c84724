"""Motoko's stable variables, read out of the bytes, by name and type.

Before an upgrade the runtime puts all of them in one place; `perdure.upgrade.motoko` has it do so on a fork.

Classical persistence writes a message like Candid's to stable memory, one record of all variables::

    first u32 not 0: the length of the message, which follows
    else, M being the size of stable memory: version u32 at M - 4, the regions' part in Wasm pages u32 at M - 12,
    and behind that part a u32 length and the message

with one more constructor: code 1 is something mutable, which may be shared: byte 0, 8 bytes that do not count, the
value; or byte 1 and an i32, how far back from there that byte's successor lies. A region is primitive -128.

Enhanced orthogonal persistence keeps objects on the heap. At 4.5 MiB lies what describes it::

    32 characters of 4 bytes, version u64, pointer to the object of all variables u64 (0: pre_upgrade has not run), ...

A pointer is an address less one; an object begins with a tag and a forwarding pointer. What is not a pointer is a
number whose low bits say what it is, as the type does.

Source: ``design/OldStableMemory.md``, ``design/OrthogonalPersistence.md``, ``rts`` and ``src/codegen`` of the compiler;
each form is held against the compiler's own modules in `tests/upgrade/test_motoko_state.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import GeneratorType
from typing import Any, Final, NamedTuple, TypeAlias, final

from perdure.candid import field_hash
from perdure.candid.types import MethodRef, Some
from perdure.errors import MalformedError
from perdure.ic.principal import Principal
from perdure.memory import WASM_PAGE_BYTES, Memory
from perdure.values.motoko_types import (
    Applied,
    Array,
    Func,
    Member,
    Object,
    Option,
    Primitive,
    StableTypes,
    Tuple,
    Type,
    VariantType,
)

__all__ = ["MotokoState", "Reference", "RegionValue", "read_classical", "read_enhanced"]

METADATA_ADDRESS: Final = (4 << 20) + (512 << 10)
_TITLE: Final = "MOTOKO ORTHOGONAL PERSISTENCE 64"
_NULL: Final = 0xFFFF_FFFF_FFFF_FFFB
_MASK: Final = (1 << 64) - 1
_HASH_BITS: Final = (1 << 31) - 1
"""Objects on the heap have 31 bits of a field's hash."""
_MAX_EMPTY: Final = 1 << 20
"""Elements of an array that take no bytes."""


class Reference(NamedTuple):
    """Something mutable that was met before: the number of it, from 0, in the order in which they are read."""

    number: int


class RegionValue(NamedTuple):
    """A region of stable memory: its number, and its size in Wasm pages."""

    number: int
    wasm_pages: int


@final
@dataclass(frozen=True)
class MotokoState:
    """All stable variables.

    Attributes:
        values: by name. Numbers are ``int`` and ``float``, a character is a ``str``, options are as Candid's (`Some`
            where one lies in another), arrays lists, tuples tuples, objects dicts, variants dicts of one; what is
            mutable and met a second time is a `Reference`.
        types: as the module says them.
        consumed_bytes: of a message, how many of its bytes were read; of a heap, 0.
        total_bytes: how many it has.
        leaves: values without parts that were read.
    """

    values: Mapping[str, Any]
    types: StableTypes
    consumed_bytes: int
    total_bytes: int
    leaves: int


# -- classical


def read_classical(stable: Memory, types: StableTypes) -> MotokoState:
    """The variables that classical persistence has written to stable memory.

    Raises:
        MalformedError: there are none, or they do not fit their types.
    """
    data = _message(stable)
    reader = _Message(data, types)
    try:
        values = reader.whole()
    except (IndexError, struct.error, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(f"stable variables end within a value: {error}", reader.at) from error
    return MotokoState(values, types, reader.at, len(data), reader.leaves)


def _message(stable: Memory) -> bytes:
    size_bytes = stable.size() * WASM_PAGE_BYTES
    if size_bytes == 0:
        raise MalformedError("stable memory is empty: no stable variables were written")
    at = 0
    (length,) = struct.unpack("<I", stable.read(0, 4))
    if length == 0:
        (pages,) = struct.unpack("<I", stable.read(size_bytes - 12, 4))
        at = pages * WASM_PAGE_BYTES
        if at + 4 > size_bytes:
            raise MalformedError(f"stable variables are said to lie at {at:#x}, past the end", size_bytes - 12)
        (length,) = struct.unpack("<I", stable.read(at, 4))
    if at + 4 + length > size_bytes:
        raise MalformedError(f"stable variables of {length} bytes do not fit stable memory", at)
    return stable.read(at + 4, length)


@final
class _Message:
    """Reads a message by the types in it, and by the module's types what it does not say: names, characters."""

    def __init__(self, data: bytes, types: StableTypes) -> None:
        self.data = data
        self.types = _Resolver(types)
        self.at = 0
        self.leaves = 0
        self.seen: dict[int, int] = {}
        self.table: list[tuple[int, Any]] = []

    def whole(self) -> dict[str, Any]:
        if self.take(4) != b"DIDL":
            raise MalformedError(f"stable variables begin with {self.data[:4].hex()}, expected 'DIDL'", 0)
        self.table = [self.entry() for _ in range(self.leb())]
        roots = [self.sleb() for _ in range(self.leb())]
        if len(roots) != 1 or roots[0] < 0 or self.table[roots[0]][0] != -20:
            raise MalformedError("stable variables are no record", self.at)
        fields = self.table[roots[0]][1]
        names = {field_hash(name): name for name in self.types.types.variables}
        values: dict[str, Any] = {}
        for number, code in fields:
            name = names.get(number, f"_{number}_")
            variable = self.types.types.variables.get(name)
            constructor, content = self.table[code] if code >= 0 else (0, code)
            if constructor == -18:  # each is written as an option, so that a later version may have none of it
                if not self.take(1)[0]:
                    values[name] = None
                    continue
                code = content
            values[name] = _finished(self.value(code, None if variable is None else variable.type))
        return values

    def entry(self) -> tuple[int, Any]:
        code = self.sleb()
        if code in (-18, -19, 1):
            return code, self.sleb()
        if code in (-20, -21):
            return code, [(self.leb(), self.sleb()) for _ in range(self.leb())]
        if code == -22:
            args, results = ([self.sleb() for _ in range(self.leb())] for _ in range(2))
            return code, (args, results, self.take(self.leb()))
        if code == -23:
            return code, [(self.take(self.leb()), self.sleb()) for _ in range(self.leb())]
        raise MalformedError(f"unknown constructor {code} in the type table", self.at)

    def take(self, size_bytes: int) -> bytes:
        data = self.data[self.at : self.at + size_bytes]
        if len(data) != size_bytes:
            raise MalformedError(f"{size_bytes} bytes expected, found {len(data)}", self.at)
        self.at += size_bytes
        return data

    def leb(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def sleb(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value - (1 << shift) if byte & 64 else value

    def value(self, code: int, type_: Type | None) -> Any:
        if type_ is not None:
            type_ = self.types.resolve(type_)
        if code < 0:
            self.leaves += 1
            return self.leaf(code, type_)
        constructor, content = self.table[code]
        if constructor == 1:
            return self.shared(content, type_)
        return self.composed(constructor, content, type_)

    def composed(self, constructor: int, content: Any, type_: Type | None) -> Any:  # noqa: PLR0911 -- one for each form
        if constructor == -18:
            if not self.take(1)[0]:
                self.leaves += 1
                return None
            return self.option(content, type_.content if isinstance(type_, Option) else None)
        if constructor == -19:
            return self.array(content, type_)
        if constructor == -20:
            return self.record(content, type_)
        if constructor == -21:
            return self.variant(content, type_)
        self.leaves += 1
        if constructor == -23:
            return self.principal()
        self.take(1)
        owner = self.principal()
        return MethodRef(owner, self.take(self.leb()).decode())

    def option(self, content: int, inner: Type | None) -> _Steps:
        value = self.value(content, inner)
        if value.__class__ is GeneratorType:
            value = yield value
        return _some(value, inner, self.types)

    def shared(self, content: int, type_: Type | None) -> Any:
        kind = self.take(1)[0]
        if kind == 1:
            (back,) = struct.unpack("<i", self.take(4))
            self.leaves += 1
            return Reference(self.seen.get(self.at - 4 + back, -1))
        self.seen[self.at] = len(self.seen)
        self.take(8)
        return self.value(content, type_)

    def array(self, content: int, type_: Type | None) -> Any:
        count = self.leb()
        element = type_.element if isinstance(type_, Array) else None
        if content == -5 and not isinstance(type_, Array):
            self.leaves += 1
            return self.take(count)  # a blob
        if count > (len(self.data) if content not in (-1, -16) else _MAX_EMPTY):
            raise MalformedError(f"an array of {count} elements", self.at)
        return self.sequence([(content, element)] * count, list)

    def sequence(self, parts: Sequence[tuple[int, Type | None]], made: Callable[[list[Any]], Any]) -> _Steps:
        found = []
        for code, type_ in parts:
            value = self.value(code, type_)
            if value.__class__ is GeneratorType:
                value = yield value
            found.append(value)
        return made(found)

    def record(self, fields: list[tuple[int, int]], type_: Type | None) -> Any:
        if isinstance(type_, Tuple) or (type_ is None and [number for number, _ in fields] == [*range(len(fields))]):
            parts = type_.parts if isinstance(type_, Tuple) else ()
            typed = [(code, parts[index] if index < len(parts) else None) for index, (_, code) in enumerate(fields)]
            self.leaves += not typed
            return self.sequence(typed, tuple)
        members = [self.types.members(type_).get(number) for number, _ in fields]
        names = [f"_{number}_" if one is None else one.name for (number, _), one in zip(fields, members, strict=True)]
        typed = [(code, None if one is None else one.type) for (_, code), one in zip(fields, members, strict=True)]
        return self.sequence(typed, lambda values: dict(zip(names, values, strict=True)))

    def variant(self, cases: list[tuple[int, int]], type_: Type | None) -> Any:
        index = self.leb()
        number, code = cases[index]
        member = self.types.members(type_).get(number)
        name = f"_{number}_" if member is None else member.name
        typed = [(code, None if member is None else member.type)]
        return self.sequence(typed, lambda values: {name: values[0]})

    def principal(self) -> Principal:
        self.take(1)
        return Principal(self.take(self.leb()))

    def leaf(self, code: int, type_: Type | None) -> Any:  # noqa: PLR0911 -- one for each form
        if code in _NUMBERS:
            size, is_signed = _NUMBERS[code]
            number = int.from_bytes(self.take(size), "little", signed=is_signed)
            return chr(number) if type_ == Primitive("Char") else number
        if code == -1:
            return () if isinstance(type_, Tuple) else None
        if code == -3:
            return self.leb()
        if code == -4:
            return self.sleb()
        if code == -128:
            if self.take(1)[0]:
                (back,) = struct.unpack("<i", self.take(4))
                return Reference(self.seen.get(self.at - 4 + back, -1))
            self.seen[self.at] = len(self.seen)
            self.take(8)
            number, pages = struct.unpack("<QI", self.take(12))
            self.take(self.leb())
            return RegionValue(number, pages)
        read = _LEAVES.get(code)
        if read is None:
            raise MalformedError(f"unknown primitive type {code}", self.at)
        return read(self)


_Steps: TypeAlias = Generator[Any, Any, Any]
"""A value with parts on its way: it yields those that have parts themselves, and is given what they are.

Lists are as deep as they are long, so nothing here may recurse.
"""


def _finished(begun: Any) -> Any:
    """A value, all of its parts included."""
    if begun.__class__ is not GeneratorType:
        return begun
    stack, value = [begun], None
    while stack:
        try:
            stack.append(stack[-1].send(value))
            value = None
        except StopIteration as ended:
            stack.pop()
            value = ended.value
    return value


@final
class _Resolver:
    """What types stand for, and their members by hash: looked up for every value, so by the identity of the type."""

    def __init__(self, types: StableTypes, hash_bits: int = (1 << 32) - 1) -> None:
        self.types = types
        self.hash_bits = hash_bits
        self._resolved: dict[Type, Type] = {}
        self._members: dict[int, dict[int, Member]] = {}
        self._kept: list[Type] = []

    def resolve(self, type_: Type) -> Type:
        """A type that is no name."""
        if not isinstance(type_, Applied):
            return type_
        found = self._resolved.get(type_)
        if found is None:
            found = self._resolved[type_] = self.types.resolve(type_)
        return found

    def members(self, type_: Type | None) -> dict[int, Member]:
        """Fields or cases of a type by their hashes."""
        if not isinstance(type_, Object | VariantType):
            return {}
        found = self._members.get(id(type_))
        if found is None:
            found = {field_hash(one.name) & self.hash_bits: one for one in type_.members}
            self._members[id(type_)] = found
            self._kept.append(type_)
        return found


def _some(value: Any, inner: Type | None, types: _Resolver) -> Any:
    """The content of an option: marked where null would say two things."""
    is_nested = value is None or isinstance(inner if inner is None else types.resolve(inner), Option)
    return Some(value) if is_nested else value


_NUMBERS: Final = {-5 - index: (1 << index % 4, index >= 4) for index in range(8)}
_LEAVES: Final[Mapping[int, Callable[[_Message], Any]]] = {
    -2: lambda message: bool(message.take(1)[0]),
    -14: lambda message: struct.unpack("<d", message.take(8))[0],
    -15: lambda message: message.take(message.leb()).decode(),
    -16: lambda _: None,
    -24: lambda message: message.principal(),
}


# -- enhanced orthogonal persistence


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
        self.types = _Resolver(types, _HASH_BITS)
        self.leaves = 0
        self.left = len(data) // 24  # no object is smaller
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
                values[variable.name] = _finished(self.value(word, variable.type))
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

    def sequence(self, parts: Iterable[tuple[int, Type | None]], made: Callable[[list[Any]], Any]) -> _Steps:
        found = []
        self.left -= 1
        if self.left < 0:
            raise MalformedError("more values than the heap has room for: something contains itself")
        for word, type_ in parts:
            value = self.value(word, type_)
            if value.__class__ is GeneratorType:
                value = yield value
            found.append(value)
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
            return self.sequence([(word, inner)], lambda values: _some(values[0], inner, self.types))
        if tag == _TAG_VARIANT:
            number, word = _WORDS.unpack_from(self.data, address + 16)
            member = self.types.members(type_).get(number & _HASH_BITS)
            name = f"_{number}_" if member is None else member.name
            return self.sequence([(word, None if member is None else member.type)], lambda values: {name: values[0]})
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
            return self.sequence(zip(words, type_.parts, strict=False), tuple)
        element = type_.element if isinstance(type_, Array) else None
        return self.sequence([(word, element) for word in words], list)

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
        return self.sequence(typed, lambda values: dict(zip(names, values, strict=True)))
