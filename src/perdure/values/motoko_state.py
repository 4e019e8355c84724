"""Motoko's stable variables, read out of the bytes, by name and type.

Before an upgrade the runtime puts all of them in one place; `perdure.inspection.motoko` has it do so on a fork.

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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, final

from perdure.candid import field_hash
from perdure.candid.leb128 import read_leb, read_sleb
from perdure.candid.types import MethodRef
from perdure.errors import MalformedError
from perdure.ic.principal import Principal
from perdure.memory import WASM_PAGE_BYTES, Memory
from perdure.values.motoko_reading import Reference, RegionValue, Resolver, Steps, finished, loops, optional
from perdure.values.motoko_types import Array, Option, Primitive, StableTypes, Tuple, Type

__all__ = ["MotokoState", "Reference", "RegionValue", "read_classical"]

_MAX_EMPTY: Final = 1 << 20
"""Elements of arrays that take no bytes, of all of them together."""

Begin: TypeAlias = Callable[[], Any]
"""Reads a value where the reader is; of what contains itself, begins it (`Steps`)."""


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
    except (IndexError, struct.error, ValueError, OverflowError, RecursionError) as error:
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


_OPTION, _ARRAY, _RECORD, _VARIANT, _FUNCTION, _SERVICE, _SHARED = -18, -19, -20, -21, -22, -23, 1
_REGION: Final = -128
_NAT8: Final = -5
_CHAR: Final = Primitive("Char")
_NUMBERS: Final = {-5 - index: form for index, form in enumerate("BHIQbhiq")} | {-14: "d"}
"""As `struct` calls them."""


@final
class _Message:
    """Reads a message by the types in it, and by the module's types what it does not say: names, characters."""

    def __init__(self, data: bytes, types: StableTypes) -> None:
        self.data = data
        self.types = Resolver(types)
        self.at = 0
        self.leaves = 0
        self.empty_left = _MAX_EMPTY
        self.seen: dict[int, int] = {}
        self.table: list[tuple[int, Any]] = []
        self.loops: dict[int, int] = {}
        self.compiled: dict[tuple[int, Type | None], Begin] = {}

    def whole(self) -> dict[str, Any]:
        if self.take(4) != b"DIDL":
            raise MalformedError(f"stable variables begin with {self.data[:4].hex()}, expected 'DIDL'", 0)
        self.table = [self.entry() for _ in range(self.read_count())]
        roots = [self.sleb() for _ in range(self.read_count())]
        if len(roots) != 1 or roots[0] < 0 or self.table[roots[0]][0] != _RECORD:
            raise MalformedError("stable variables are no record", self.at)
        self.loops = loops({code: self.parts(code) for code in range(len(self.table))})
        fields = self.table[roots[0]][1]
        names = {field_hash(name): name for name in self.types.types.variables}
        return {(name := names.get(number, f"_{number}_")): self.variable(name, code) for number, code in fields}

    def variable(self, name: str, code: int) -> Any:
        variable = self.types.types.variables.get(name)
        constructor, content = self.table[code] if code >= 0 else (0, code)
        if constructor == _OPTION:  # each is written as an option, so that a later version may have none of it
            if not self.take(1)[0]:
                return None
            code = content
        return finished(self.begin(code, None if variable is None else variable.type)())

    # the table of types

    def entry(self) -> tuple[int, Any]:
        code = self.sleb()
        if code in (_OPTION, _ARRAY, _SHARED):
            return code, self.sleb()
        if code in (_RECORD, _VARIANT):
            return code, [(self.leb(), self.sleb()) for _ in range(self.read_count())]
        if code == _FUNCTION:
            args, results = ([self.sleb() for _ in range(self.read_count())] for _ in range(2))
            return code, (args, results, self.take(self.leb()))
        if code == _SERVICE:
            return code, [(self.take(self.leb()), self.sleb()) for _ in range(self.read_count())]
        raise MalformedError(f"unknown constructor {code} in the type table", self.at)

    def parts(self, code: int) -> list[int]:
        """The entries of the table that values of an entry have in them."""
        constructor, content = self.table[code]
        if constructor in (_OPTION, _ARRAY, _SHARED):
            found = [content]
        else:
            found = [part for _, part in content] if constructor in (_RECORD, _VARIANT) else []
        for part in found:
            if part >= len(self.table):
                raise MalformedError(f"type {part} in a table of {len(self.table)}", self.at)
        return [part for part in found if part >= 0]

    def take(self, size_bytes: int) -> bytes:
        data = self.data[self.at : self.at + size_bytes]
        if len(data) != size_bytes:
            raise MalformedError(f"{size_bytes} bytes expected, found {len(data)}", self.at)
        self.at += size_bytes
        return data

    def leb(self) -> int:
        value, self.at = read_leb(self.data, self.at)
        return value

    def sleb(self) -> int:
        value, self.at = read_sleb(self.data, self.at)
        return value

    def read_count(self) -> int:
        """How many of something follow that takes a byte at least."""
        count = self.leb()
        if count > len(self.data) - self.at:
            raise MalformedError(f"{count} parts in {len(self.data) - self.at} bytes", self.at)
        return count

    # readers, compiled once for each type

    def begin(self, code: int, type_: Type | None) -> Begin:
        """What reads a value of a type; of one in a loop, what begins it."""
        if type_ is not None:
            type_ = self.types.resolve(type_)
        known = self.compiled.get((code, type_))
        if known is None:
            # A type in a loop asks for itself before it is compiled.
            made: list[Begin] = []
            self.compiled[code, type_] = lambda: made[0]()
            known = self.compiled[code, type_] = self.leaf(code, type_) if code < 0 else self.composed(code, type_)
            made.append(known)
        return known

    def part(self, code: int, type_: Type | None, within: int) -> tuple[Begin, bool]:
        """What reads a part of an entry of the table, and whether it only begins: one of the same loop."""
        begin = self.begin(code, type_)
        loop = self.loops.get(code)
        if loop is None:
            return begin, False
        is_same = loop == self.loops.get(within)
        return (begin, True) if is_same else (lambda: finished(begin()), False)

    def composed(self, code: int, type_: Type | None) -> Begin:
        constructor, content = self.table[code]
        if constructor == _OPTION:
            return self.option(code, content, type_.content if isinstance(type_, Option) else None)
        if constructor == _ARRAY:
            return self.array(code, content, type_)
        if constructor == _RECORD:
            return self.record(code, content, type_)
        if constructor == _VARIANT:
            return self.variant(code, content, type_)
        if constructor == _SHARED:
            return self.shared(code, content, type_)
        return self.counted(self.principal if constructor == _SERVICE else self.method)

    def option(self, code: int, content: int, inner: Type | None) -> Begin:
        inner = None if inner is None else self.types.resolve(inner)
        if inner is None and content >= 0 and self.table[content][0] == _OPTION:
            inner = Option(Primitive("Any"))
        begin = optional(inner, self.part(content, inner, code)[0])
        data = self.data

        def option() -> Any:
            at = self.at
            self.at = at + 1
            if data[at]:
                return begin()
            self.leaves += 1
            return None

        return option

    def shared(self, code: int, content: int, type_: Type | None) -> Begin:
        begin, _ = self.part(content, type_, code)

        def shared() -> Any:
            known = self.again()
            return begin() if known is None else known

        return shared

    def again(self) -> Reference | None:
        """Where something mutable was met before; else it is noted, and its value follows."""
        is_reference = self.data[self.at]
        at = self.at = self.at + 1
        if is_reference:
            (back,) = struct.unpack_from("<i", self.data, at)
            self.at = at + 4
            self.leaves += 1
            return Reference(self.seen.get(at + back, -1))
        self.seen[at] = len(self.seen)
        self.take(8)
        return None

    def array(self, code: int, content: int, type_: Type | None) -> Begin:
        if content == _NAT8 and not isinstance(type_, Array):
            return self.counted(lambda: self.take(self.leb()))  # a blob
        element = self.types.resolve(type_.element) if isinstance(type_, Array) else None
        if content in _NUMBERS and element != _CHAR:
            return self.numbers(_NUMBERS[content])
        read, is_begun = self.part(content, element, code)
        is_empty = self.is_empty(content)

        def array() -> Any:
            count = self.leb()
            if is_empty:
                self.empty_left -= count
            if count > len(self.data) - self.at if not is_empty else self.empty_left < 0:
                raise MalformedError(f"an array of {count} elements", self.at)
            return _begun(count, read) if is_begun else [read() for _ in range(count)]

        return array

    def numbers(self, form: str) -> Begin:
        size = struct.calcsize(f"<{form}")

        def numbers() -> Any:
            count = self.leb()
            data = self.take(count * size)
            self.leaves += count
            return list(struct.unpack(f"<{count}{form}", data))

        return numbers

    def is_empty(self, code: int, depth: int = 0) -> bool:
        """Whether values of a type take no bytes."""
        if code < 0:
            return code in (-1, -16)
        constructor, content = self.table[code]
        return constructor == _RECORD and depth < 64 and all(self.is_empty(part, depth + 1) for _, part in content)

    def record(self, code: int, fields: list[tuple[int, int]], type_: Type | None) -> Begin:
        if isinstance(type_, Tuple) or (type_ is None and [number for number, _ in fields] == [*range(len(fields))]):
            return self.components(code, [part for _, part in fields], type_)
        named = []
        for number, part in fields:
            member = self.types.members(type_).get(number)
            name = f"_{number}_" if member is None else member.name
            named.append((name, *self.part(part, None if member is None else member.type, code)))
        if any(is_begun for _, _, is_begun in named):
            return lambda: _begun_record(named)
        plain = [(name, read) for name, read, _ in named]
        return lambda: {name: read() for name, read in plain}

    def components(self, code: int, codes: list[int], type_: Type | None) -> Begin:
        types = type_.parts if isinstance(type_, Tuple) else ()
        if not codes:
            return self.counted(lambda: ())
        parts = [self.part(part, types[at] if at < len(types) else None, code) for at, part in enumerate(codes)]
        plain = [read for read, _ in parts]
        if not any(is_begun for _, is_begun in parts):
            return lambda: tuple([read() for read in plain])
        rest = codes[-1]
        is_list = codes[1:] and rest >= 0 and self.table[rest] == (_OPTION, code) and self.is_rest(type_)
        if is_list and not any(is_begun for _, is_begun in parts[:-1]):
            return lambda: self.chain(plain[:-1])
        return lambda: _begun_tuple(parts)

    def is_rest(self, type_: Type | None) -> bool:
        """Whether the last part of a tuple is one of the same type, or none."""
        if not isinstance(type_, Tuple):
            return True
        rest = self.types.resolve(type_.parts[-1])
        return isinstance(rest, Option) and self.types.resolve(rest.content) == type_

    def chain(self, reads: list[Begin]) -> Any:
        """A list: tuples that end with the next one, read without a stack."""
        heads = []
        while True:
            heads.append([read() for read in reads])
            at = self.at
            self.at = at + 1
            if not self.data[at]:
                break
        self.leaves += 1
        found = None
        for head in reversed(heads):
            found = (*head, found)
        return found

    def variant(self, code: int, cases: list[tuple[int, int]], type_: Type | None) -> Begin:
        named = []
        for number, part in cases:
            member = self.types.members(type_).get(number)
            name = f"_{number}_" if member is None else member.name
            named.append((name, *self.part(part, None if member is None else member.type, code)))

        def variant() -> Any:
            name, read, is_begun = named[self.leb()]
            return _begun_record([(name, read, True)]) if is_begun else {name: read()}

        return variant

    def counted(self, read: Begin) -> Begin:
        def leaf() -> Any:
            self.leaves += 1
            return read()

        return leaf

    def leaf(self, code: int, type_: Type | None) -> Begin:
        if code in (-3, -4):
            return self.integer(read_sleb if code == -4 else read_leb, 64 if code == -4 else 128)
        if code in _NUMBERS:
            return self.number(struct.Struct(f"<{_NUMBERS[code]}"), chr if type_ == _CHAR else None)
        if code == -15:
            return self.text()
        if code == -1:
            return self.counted(lambda: () if isinstance(type_, Tuple) else None)
        read = {-2: self.boolean, -16: lambda: None, -24: self.principal, _REGION: self.region}.get(code)
        if read is None:
            raise MalformedError(f"unknown primitive type {code}", self.at)
        return self.counted(read)

    def integer(self, read_long: Callable[[bytes, int], tuple[int, int]], limit: int) -> Begin:
        data = self.data

        def integer() -> int:
            self.leaves += 1
            at = self.at
            value = data[at]
            if value < limit:
                self.at = at + 1
                return value
            value, self.at = read_long(data, at)
            return value

        return integer

    def number(self, form: struct.Struct, made: Callable[[int], str] | None) -> Begin:
        data, size, unpack = self.data, form.size, form.unpack_from

        def number() -> Any:
            self.leaves += 1
            at = self.at
            self.at = at + size
            (value,) = unpack(data, at)
            return value if made is None else made(value)

        return number

    def text(self) -> Begin:
        data = self.data

        def text() -> str:
            self.leaves += 1
            at = self.at
            size = data[at]
            if size < 128:
                at += 1
            else:
                size, at = read_leb(data, at)
            found = data[at : at + size]
            if len(found) != size:
                raise MalformedError(f"a text of {size} bytes, found {len(found)}", at)
            self.at = at + size
            return found.decode()

        return text

    def boolean(self) -> bool:
        return bool(self.take(1)[0])

    def principal(self) -> Principal:
        self.take(1)
        return Principal(self.take(self.leb()))

    def method(self) -> MethodRef:
        self.take(1)
        owner = self.principal()
        return MethodRef(owner, self.take(self.leb()).decode())

    def region(self) -> RegionValue | Reference:
        known = self.again()
        if known is not None:
            self.leaves -= 1  # counted by both
            return known
        number, pages = struct.unpack("<QI", self.take(12))
        self.take(self.leb())
        return RegionValue(number, pages)


def _begun(count: int, begin: Begin) -> Steps:
    found = []
    for _ in range(count):
        found.append((yield begin()))  # noqa: PERF401 -- a comprehension cannot yield
    return found


def _begun_record(named: list[tuple[str, Begin, bool]]) -> Steps:
    found = {}
    for name, begin, is_begun in named:
        found[name] = (yield begin()) if is_begun else begin()
    return found


def _begun_tuple(parts: list[tuple[Begin, bool]]) -> Steps:
    found = []
    for begin, is_begun in parts:
        found.append((yield begin()) if is_begun else begin())
    return tuple(found)
