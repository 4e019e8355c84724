"""Motoko's stable variables on a heap with enhanced orthogonal persistence; `perdure.values.motoko_state` draws it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, final

from perdure.candid import field_hash
from perdure.errors import MalformedError
from perdure.memory import WASM_PAGE_BYTES, Memory
from perdure.values.motoko_heap import (
    ARRAY_TAGS,
    BOXED,
    NULL,
    TAG_BLOB,
    TAG_CELL,
    TAG_OBJECT,
    TAG_SOME,
    TAG_TUPLE,
    TAG_VARIANT,
    TAG_WEAK,
    WORD,
    Heap,
)
from perdure.values.motoko_reading import Reference, Resolver, Steps, finished, loops, optional
from perdure.values.motoko_state import MotokoState
from perdure.values.motoko_types import (
    Array,
    Func,
    Object,
    Option,
    Primitive,
    StableTypes,
    Tuple,
    Type,
    VariantType,
    Weak,
)

__all__ = ["read_enhanced"]

METADATA_ADDRESS: Final = (4 << 20) + (512 << 10)
TITLE: Final = "MOTOKO ORTHOGONAL PERSISTENCE 64".encode("utf-32-le")
_HASH_BITS: Final = (1 << 31) - 1
"""Objects on the heap have 31 bits of a field's hash."""

_SMALL: Final = {"Nat8": 56, "Nat16": 48, "Nat32": 32, "Nat64": 4, "Int8": 56, "Int16": 48, "Int32": 32, "Int64": 4}
"""How far up a number stands in its word."""

_HALF: Final = 1 << 63
_UNIT: Final = Tuple(())
_MAX_TYPES: Final = 10_000


def read_enhanced(heap: Memory, types: StableTypes) -> MotokoState:
    """The variables on the heap of a canister with enhanced orthogonal persistence, once pre_upgrade has run.

    Fields that the types do not have are left out: the program does not see them either.

    Raises:
        MalformedError: it is no such heap, pre_upgrade has not run, or what is there does not fit the types.
    """
    size_bytes = heap.size() * WASM_PAGE_BYTES
    if size_bytes < METADATA_ADDRESS + 256:
        raise MalformedError(f"no enhanced orthogonal persistence: a heap of {size_bytes} bytes")
    view = getattr(heap, "view", None)
    data = memoryview(heap.read(0, size_bytes)) if view is None else view(0, size_bytes)
    reader = _Objects(Heap(data), types)
    try:
        values = reader.whole()
    except (struct.error, IndexError, ValueError, OverflowError, RecursionError) as error:
        raise MalformedError(f"an object outside the heap: {error}") from error
    return MotokoState(values, types, 0, 0, reader.leaves)


Begin: TypeAlias = Callable[[int], Any]
"""Reads the value that a word stands for; of what contains itself, begins it (`Steps`)."""

_Many: TypeAlias = Callable[[Sequence[int]], list[Any]]
"""Reads the values of many words of one type."""

_Made: TypeAlias = Callable[[tuple[int, ...], int], Any]
"""Makes an array or a tuple of its words and its address."""


class _Part(NamedTuple):
    """A field of an object: its place, and what reads it; whether that only begins."""

    name: str
    place: int
    type: Type
    begin: Begin
    is_begun: bool
    is_mutable: bool


class _Shape(NamedTuple):
    """What objects look like that have the same hashes: how many words, which parts; whether one is in a loop."""

    words: int
    parts: list[_Part]
    is_begun: bool


@final
class _Objects:
    """Reads objects by the types."""

    def __init__(self, heap: Heap, types: StableTypes) -> None:
        self.heap = heap
        self.types = Resolver(types, _HASH_BITS)
        self.leaves = 0
        self.left = len(heap.words)
        self.open: set[int] = set()
        self.seen: dict[int, int] = {}
        self.graph: dict[Type, list[Type]] = {}
        self.loops: dict[Type, int] = {}
        self.mutable: set[Type] = set()
        self.compiled: dict[Type, Begin] = {}
        self.shapes: dict[Type, dict[int, _Shape]] = {}
        self.bulk: dict[Type, _Many] = {}

    def whole(self) -> dict[str, Any]:
        data = self.heap.data
        title = bytes(data[METADATA_ADDRESS : METADATA_ADDRESS + len(TITLE)])
        if title != TITLE:
            raise MalformedError(f"no enhanced orthogonal persistence: found {title[:16].hex()}", METADATA_ADDRESS)
        (actor,) = WORD.unpack_from(data, METADATA_ADDRESS + 136)
        if not actor & 1 or actor == NULL:
            raise MalformedError("stable variables are not gathered: pre_upgrade has not run", METADATA_ADDRESS + 136)
        variables = {field_hash(one.name) & _HASH_BITS: one for one in self.types.types.variables.values()}
        self.learn([one.type for one in variables.values()])
        tag, address, hashes = self.heap.object(actor)
        numbers = self.heap.hashes(hashes) if tag == TAG_OBJECT else ()
        words = struct.unpack_from(f"<{len(numbers)}Q", data, address + 24)
        values = {}
        for number, word in zip(numbers, words, strict=True):
            variable = variables.get(number & _HASH_BITS)
            if variable is None:
                continue  # the runtime's own
            try:
                values[variable.name] = finished(self.begin(variable.type)(self.unwrapped(word)))
            except MalformedError as error:
                raise MalformedError(f"stable variable {variable.name}: {error.message}", error.offset) from error
        return values

    def unwrapped(self, word: int) -> int:
        """What is in the option that each variable is kept as, and in the cell of one that can be assigned."""
        for tag in (TAG_SOME, TAG_CELL):
            word = self.content(word, tag)
        return word

    def content(self, word: int, tag: int) -> int:
        """What is in a box of a tag; what is in none is itself."""
        if not word & 1 or word in (1, NULL):
            return word
        found, _, content = self.heap.object(word)
        return content if found == tag else word

    # types

    def learn(self, roots: Sequence[Type]) -> None:
        """Which types values of each type have in them; which are in loops, and in which something can be assigned."""
        pending = [self.types.resolve(root) for root in roots]
        while pending:
            type_ = pending.pop()
            if type_ not in self.graph:
                self.graph[type_] = [self.types.resolve(part) for part in _parts(type_)]
                pending += self.graph[type_]
            if len(self.graph) > _MAX_TYPES:
                raise MalformedError("stable types without an end")
        self.loops = loops(self.graph)
        found = {type_ for type_ in self.graph if _is_mutable(type_)}
        while found:
            self.mutable |= found
            found = {type_ for type_, parts in self.graph.items() if not found.isdisjoint(parts)} - self.mutable

    def begin(self, type_: Type) -> Begin:
        """What reads a value of a type; of one in a loop, what begins it."""
        type_ = self.types.resolve(type_)
        known = self.compiled.get(type_)
        if known is None:
            # A type in a loop asks for itself before it is compiled.
            made: list[Begin] = []
            self.compiled[type_] = lambda word: made[0](word)
            known = self.compiled[type_] = self.compile(type_)
            made.append(known)
        return known

    def part(self, type_: Type, within: Type) -> tuple[Begin, bool]:
        """What reads a part of a type, and whether it only begins: one of the same loop."""
        type_ = self.types.resolve(type_)
        begin = self.begin(type_)
        loop = self.loops.get(type_)
        if loop is None:
            return begin, False
        return (begin, True) if loop == self.loops.get(within) else (lambda word: finished(begin(word)), False)

    def compile(self, type_: Type) -> Begin:  # noqa: PLR0911 -- one for each kind
        match type_:
            case Primitive(name):
                return self.primitive(name)
            case Option(content):
                return self.option(type_, self.types.resolve(content))
            case Array() | Tuple():
                return self.array(type_)
            case Object(_, "actor"):
                return self.counted(self.heap.principal)
            case Object():
                return self.record(type_)
            case VariantType():
                return self.variant(type_)
            case Func():
                return self.counted(self.heap.method)
            case Weak():
                return self.weak(type_)
            case _:
                raise MalformedError(f"no variable can have the type {type_}")

    def primitive(self, name: str) -> Begin:
        heap = self.heap
        if name in ("Nat", "Int"):
            return self.integer
        if name in _SMALL:
            return self.small(_SMALL[name], name.startswith("Int"), *BOXED.get(name, (0, "<Q")))
        read: dict[str, Begin] = {
            "Float": lambda word: heap.boxed(word, *BOXED["Float"]),
            "Bool": lambda word: word != 0,
            "Char": lambda word: chr(word >> 43),
            "Text": heap.text,
            "Blob": lambda word: bytes(heap.bytes_of(word, TAG_BLOB)),
            "Principal": heap.principal,
            "Region": heap.region,
        }
        return self.counted(read.get(name, lambda _: None))

    # values without parts

    def counted(self, read: Begin) -> Begin:
        def leaf(word: int) -> Any:
            self.leaves += 1
            return None if word == NULL else read(word)

        return leaf

    def integer(self, word: int) -> int | None:
        self.leaves += 1
        if word & 3 == 2:
            return (word - (1 << 64) if word >= _HALF else word) >> 2
        return None if word == NULL else self.heap.integer(word)

    def small(self, shift: int, is_signed: bool, tag: int, form: str) -> Begin:
        def small(word: int) -> Any:
            self.leaves += 1
            if word & 1:
                return None if word == NULL else self.heap.boxed(word, tag, form)
            return (word - (1 << 64) if is_signed and word >= _HALF else word) >> shift

        return small

    # many values at once: of types in which nothing can be assigned, as references are numbered in the order of values

    def many(self, type_: Type) -> _Many:
        """What reads the values of many words, which are in no loop with what they are read for."""
        type_ = self.types.resolve(type_)
        known = self.bulk.get(type_)
        if known is None:
            known = self.bulk[type_] = self.compile_many(type_)
        return known

    def compile_many(self, type_: Type) -> _Many:
        begin, _ = self.part(type_, _UNIT)
        match type_:
            case Primitive("Nat") | Primitive("Int"):
                return self.integers
            case Primitive("Text"):
                return self.texts
            case Object(_, "") if type_ not in self.mutable and type_ not in self.loops:
                return self.records(type_, begin)
            case Tuple(parts) if len(parts) > 1 and type_ not in self.mutable and type_ not in self.loops:
                return self.tuples(type_, begin)
            case _:
                return self.one_by_one(type_)

    def one_by_one(self, type_: Type) -> _Many:
        begin, _ = self.part(type_, _UNIT)
        return lambda words: [begin(word) for word in words]

    def integers(self, words: Sequence[int]) -> list[int | None]:
        small = sum([word & 3 == 2 and word < _HALF for word in words])
        self.leaves += small
        if small == len(words):
            return [word >> 2 for word in words]
        return [word >> 2 if word & 3 == 2 and word < _HALF else self.integer(word) for word in words]

    def texts(self, words: Sequence[int]) -> list[str]:
        self.leaves += len(words)
        return self.heap.texts(words)

    def records(self, type_: Object, begin: Begin) -> _Many:
        shapes = self.shapes.setdefault(type_, {})

        def records(words: Sequence[int]) -> list[Any]:
            found = self.heap.alike(words, TAG_OBJECT) if len(words) > 1 else None
            if found is None:
                return [begin(word) for word in words]
            places, hashes = found
            if hashes not in shapes:
                shapes[hashes] = self.shape(type_, hashes)
            shape = shapes[hashes]
            self.take(shape.words * len(words), places[0] << 3)
            names = [part.name for part in shape.parts]
            columns = self.columns([(part.type, part.place) for part in shape.parts], places)
            return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)] or [{} for _ in words]

        return records

    def tuples(self, type_: Tuple, begin: Begin) -> _Many:
        typed = [(part, place) for place, part in enumerate(type_.parts)]

        def tuples(words: Sequence[int]) -> list[Any]:
            found = self.heap.alike(words, TAG_TUPLE) if len(words) > 1 else None
            if found is None or found[1] != len(typed):
                return [begin(word) for word in words]
            self.take(len(typed) * len(words), found[0][0] << 3)
            return list(zip(*self.columns(typed, found[0]), strict=True))

        return tuples

    def columns(self, typed: list[tuple[Type, int]], places: list[int]) -> list[list[Any]]:
        """The parts of many objects, each part of all of them together."""
        words = self.heap.words
        return [self.many(type_)([words[at + 3 + place] for at in places]) for type_, place in typed]

    # values with parts

    def option(self, type_: Option, inner: Type) -> Begin:
        begin, _ = self.part(inner, type_)
        marked = optional(inner, begin)

        def option(word: int) -> Any:
            if word == NULL:
                self.leaves += 1
                return None
            # An option whose content is neither null nor a box is the content itself.
            return marked(word if marked is begin else self.content(word, TAG_SOME))

        return option

    def weak(self, type_: Weak) -> Begin:
        """What may be gone: null then."""
        begin, _ = self.part(type_.content, type_)

        def weak(word: int) -> Any:
            tag, address, target = self.heap.object(word)
            if tag != TAG_WEAK:
                raise MalformedError(f"an object of tag {tag} for a weak reference", address)
            return None if target == NULL else begin(target)

        return weak

    def again(self, address: int) -> Reference | None:
        """Where something mutable was met before; else it is noted."""
        number = self.seen.get(address)
        if number is not None:
            self.leaves += 1
            return Reference(number)
        self.seen[address] = len(self.seen)
        return None

    def take(self, words: int, address: int) -> None:
        self.left -= words + 1
        if self.left < 0:
            raise MalformedError("more values than the heap has room for", address)

    def enter(self, address: int) -> None:
        """Begin an object of a type in a loop. What is not mutable cannot contain itself."""
        if address in self.open:
            raise MalformedError("an object contains itself", address)
        self.open.add(address)

    def array(self, type_: Array | Tuple) -> Begin:
        is_mutable = isinstance(type_, Array) and type_.is_mutable
        made, is_begun = self.elements(type_) if isinstance(type_, Array) else self.components(type_)

        def array(word: int) -> Any:
            if not word & 1 and type_ == _UNIT:
                return ()
            address, words = self.sequence(word, type_)
            if is_mutable and (known := self.again(address)) is not None:
                return known
            if is_begun:
                self.enter(address)
            return made(words, address)

        return array

    def sequence(self, word: int, type_: Type) -> tuple[int, tuple[int, ...]]:
        """The address of an array or a tuple, and its words."""
        tag, address, count = self.heap.object(word)
        if tag not in ARRAY_TAGS:
            raise MalformedError(f"an object of tag {tag} for {type_}", address)
        self.take(count, address)
        return address, struct.unpack_from(f"<{count}Q", self.heap.data, address + 24)

    def elements(self, type_: Array) -> tuple[_Made, bool]:
        begin, is_begun = self.part(type_.element, type_)
        if is_begun:
            return lambda words, address: _begun(begin, words, self.open, address), True
        many = self.many(type_.element)
        return lambda words, _: many(words), False

    def components(self, type_: Tuple) -> tuple[_Made, bool]:
        parts = [self.part(part, type_) for part in type_.parts]
        begins = [begin for begin, _ in parts]
        if not any(is_begun for _, is_begun in parts):
            return lambda words, _: tuple([begin(word) for begin, word in zip(begins, words, strict=True)]), False
        rest = self.types.resolve(type_.parts[-1])
        is_list = isinstance(rest, Option) and self.types.resolve(rest.content) == type_ and len(parts) > 1
        if is_list and not any(is_begun for _, is_begun in parts[:-1]):
            many = [self.one_by_one(one) if type_ in self.mutable else self.many(one) for one in type_.parts[:-1]]
            return lambda words, address: self.chain(many, words, address, type_), True
        return lambda words, address: _begun_components(parts, words, self.open, address), True

    def chain(self, many: list[_Many], words: tuple[int, ...], address: int, type_: Tuple) -> Any:
        """A list: tuples that end with the next one, read without a stack."""
        memory, count = self.heap.words, len(many)
        columns = [[word] for word in words[:-1]]
        rest, passed = words[-1], [address]
        while rest != NULL:
            at = (rest + 1) >> 3
            address = rest + 1
            if memory[at] == TAG_TUPLE and memory[at + 1] == rest and memory[at + 2] == count + 1:
                self.take(count + 1, address)
                for index, column in enumerate(columns, at + 3):
                    column.append(memory[index])
                rest = memory[at + 3 + count]
            else:
                address, words = self.sequence(rest, type_)
                for column, word in zip(columns, words, strict=False):
                    column.append(word)
                rest = words[-1]
            self.enter(address)
            passed.append(address)
        self.leaves += 1
        self.open.difference_update(passed)
        heads = list(zip(*[read(column) for read, column in zip(many, columns, strict=True)], strict=True))
        found = None
        for head in reversed(heads):
            found = (*head, found)
        return found

    def record(self, type_: Object) -> Begin:
        is_mutable = _is_mutable(type_)
        shapes = self.shapes.setdefault(type_, {})
        data = self.heap.data

        def record(word: int) -> Any:
            tag, address, hashes = self.heap.object(word)
            if tag != TAG_OBJECT:
                raise MalformedError(f"an object of tag {tag} for {type_}", address)
            if is_mutable and (met := self.again(address)) is not None:
                return met
            if hashes not in shapes:
                shapes[hashes] = self.shape(type_, hashes)
            count, parts, is_begun = shapes[hashes]
            self.take(count, address)
            words = struct.unpack_from(f"<{count}Q", data, address + 24)
            if is_begun:
                self.enter(address)
                return self.begun_record(parts, words, address)
            if is_mutable:
                return {
                    part.name: part.begin(
                        self.content(words[part.place], TAG_CELL) if part.is_mutable else words[part.place]
                    )
                    for part in parts
                }
            return {part.name: part.begin(words[part.place]) for part in parts}

        return record

    def begun_record(self, parts: list[_Part], words: tuple[int, ...], address: int) -> Steps:
        found = {}
        for part in parts:
            word = words[part.place]
            word = self.content(word, TAG_CELL) if part.is_mutable else word
            found[part.name] = (yield part.begin(word)) if part.is_begun else part.begin(word)
        self.open.discard(address)
        return found

    def shape(self, type_: Object, hashes: int) -> _Shape:
        """What objects look like whose hashes are there."""
        members = self.types.members(type_)
        numbers = self.heap.hashes(hashes)
        parts = [
            _Part(member.name, place, member.type, *self.part(member.type, type_), member.is_mutable)
            for place, number in enumerate(numbers)
            if (member := members.get(number & _HASH_BITS)) is not None
        ]
        if len(parts) != len(members):
            raise MalformedError(f"{len(parts)} of the fields of {type_}", hashes + 1)
        return _Shape(len(numbers), parts, any(part.is_begun for part in parts))

    def variant(self, type_: VariantType) -> Begin:
        members = self.types.members(type_)
        cases = {number: (one.name, *self.part(one.type, type_)) for number, one in members.items()}

        def variant(word: int) -> Any:
            tag, address, number = self.heap.object(word)
            case = cases.get(number & _HASH_BITS)
            if tag != TAG_VARIANT or case is None:
                raise MalformedError(f"an object of tag {tag}, case {number}, for {type_}", address)
            self.take(1, address)
            name, begin, is_begun = case
            (word,) = WORD.unpack_from(self.heap.data, address + 24)
            if is_begun:
                self.enter(address)
                return _begun_case(name, begin, word, self.open, address)
            return {name: begin(word)}

        return variant


def _begun(begin: Begin, words: tuple[int, ...], open_: set[int], address: int) -> Steps:
    found = []
    for word in words:
        found.append((yield begin(word)))  # noqa: PERF401 -- a comprehension cannot yield
    open_.discard(address)
    return found


def _begun_components(parts: list[tuple[Begin, bool]], words: tuple[int, ...], open_: set[int], address: int) -> Steps:
    found = []
    for (begin, is_begun), word in zip(parts, words, strict=True):
        found.append((yield begin(word)) if is_begun else begin(word))
    open_.discard(address)
    return tuple(found)


def _begun_case(name: str, begin: Begin, word: int, open_: set[int], address: int) -> Steps:
    value = yield begin(word)
    open_.discard(address)
    return {name: value}


def _is_mutable(type_: Type) -> bool:
    """Whether something in a value of a type itself can be assigned."""
    if isinstance(type_, Array):
        return type_.is_mutable
    return isinstance(type_, Object) and any(member.is_mutable for member in type_.members)


def _parts(type_: Type) -> list[Type]:
    """The types of which values of a type have values in them."""
    match type_:
        case Option(content) | Weak(content):
            return [content]
        case Array(element, _):
            return [element]
        case Tuple(parts):
            return list(parts)
        case (Object(members, "" | "module")) | VariantType(members):
            return [member.type for member in members]
        case _:
            return []
