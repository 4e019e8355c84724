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
from collections.abc import Callable, Generator, Mapping, Sequence
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
    Member,
    Object,
    Option,
    Primitive,
    StableTypes,
    Tuple,
    Type,
    VariantType,
)

__all__ = ["MotokoState", "Reference", "RegionValue", "Resolver", "Steps", "finished", "read_classical", "some"]

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
        self.types = Resolver(types)
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
            values[name] = finished(self.value(code, None if variable is None else variable.type))
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

    def option(self, content: int, inner: Type | None) -> Steps:
        value = self.value(content, inner)
        if value.__class__ is GeneratorType:
            value = yield value
        return some(value, inner, self.types)

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

    def sequence(self, parts: Sequence[tuple[int, Type | None]], made: Callable[[list[Any]], Any]) -> Steps:
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


Steps: TypeAlias = Generator[Any, Any, Any]
"""A value with parts on its way: it yields those that have parts themselves, and is given what they are.

Lists are as deep as they are long, so nothing here may recurse.
"""


def finished(begun: Any) -> Any:
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
class Resolver:
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


def some(value: Any, inner: Type | None, types: Resolver) -> Any:
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
