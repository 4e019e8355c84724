"""The head of a message: the type table and the types of the arguments, read and written.

    ┌────────┬───────────┬───────────────┬───────────┬───────────────┬────────────┐
    │ "DIDL" │ n: leb128 │ n definitions │ m: leb128 │ m types: sleb │ the values │
    └────────┴───────────┴───────────────┴───────────┴───────────────┴────────────┘

    definition = sleb opcode and its operands; a type within is an sleb: an index into the table, or a primitive opcode

    -18 opt  type                            -22 func     n types, n types, n modes (one byte each)
    -19 vec  type                            -23 service  n (length, name, type), sorted by name
    -20 record, -21 variant  n (id, type), sorted by id
    below -24: a future type, n bytes

Spec: "Binary Format".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, final

from perdure.candid.leb128 import read_sleb, read_small_leb, write_leb, write_sleb
from perdure.candid.types import (
    BY_OPCODE,
    Field,
    Func,
    Future,
    Method,
    Opt,
    Prim,
    Rec,
    Record,
    Service,
    Type,
    Variant,
    Vec,
    children,
    resolve,
)
from perdure.errors import MalformedError

__all__ = ["MAGIC", "Header", "encode_header", "read_header"]

MAGIC: Final = b"DIDL"
_MAX_ENTRIES: Final = 10_000  # as the reference implementation
_OPT, _VEC, _RECORD, _VARIANT, _FUNC, _SERVICE, _PRINCIPAL = -18, -19, -20, -21, -22, -23, -24
_MODES: Final = {1: "query", 2: "oneway", 3: "composite_query"}
_MODE_BYTES: Final = {mode: byte for byte, mode in _MODES.items()}


@final
@dataclass(frozen=True, slots=True)
class Header:
    """The types of a message.

    Args:
        types: of the arguments; every composite in them is a `Rec`, one for each entry of the table.
        table: the entries.
        size: in bytes; where the values begin.
    """

    types: tuple[Type, ...]
    table: tuple[Rec, ...]
    size: int


@final
class _Reader:
    """Reads definitions from `data`, from `offset` on."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offset = len(MAGIC)
        self.table: tuple[Rec, ...] = ()
        self.methods: list[tuple[Rec | Prim, int]] = []

    def count(self, what: str) -> int:
        """A count of things of at least a byte each."""
        value, self.offset = read_small_leb(self.data, self.offset, what, len(self.data) - self.offset)
        return value

    def number(self, what: str, limit: int) -> int:
        value, self.offset = read_small_leb(self.data, self.offset, what, limit)
        return value

    def opcode(self) -> int:
        value, after = read_sleb(self.data, self.offset)
        if after - self.offset > 10:
            raise MalformedError("opcode of more than ten bytes", self.offset)
        self.offset = after
        return value

    def take(self, size: int, what: str) -> bytes:
        end = self.offset + size
        if end > len(self.data):
            raise MalformedError(f"{what} of {size} bytes, {len(self.data) - self.offset} left", self.offset)
        chunk = self.data[self.offset : end]
        self.offset = end
        return chunk

    def type(self) -> Rec | Prim:
        start = self.offset
        opcode = self.opcode()
        if opcode >= 0:
            if opcode < len(self.table):
                return self.table[opcode]
            raise MalformedError(f"type index {opcode}, expected less than {len(self.table)}", start)
        found = BY_OPCODE.get(opcode)
        if found is None:
            raise MalformedError(f"opcode {opcode} within a type, expected a primitive or an index", start)
        return found

    def types(self, what: str) -> tuple[Type, ...]:
        return tuple([self.type() for _ in range(self.count(what))])

    def fields(self, what: str) -> tuple[Field, ...]:
        fields = []
        previous = -1
        for _ in range(self.count(what)):
            start = self.offset
            id_ = self.number("field id", 2**32 - 1)
            if id_ <= previous:
                raise MalformedError(f"field id {id_} after {previous}, expected ascending ids", start)
            previous = id_
            fields.append(Field(id_, self.type()))
        return tuple(fields)

    def func(self) -> Func:
        args, results = self.types("argument count"), self.types("result count")
        start = self.offset
        modes = self.take(self.count("mode count"), "modes")
        unknown = set(modes) - set(_MODES)
        if unknown:
            raise MalformedError(f"function mode {min(unknown)}, expected 1, 2 or 3", start)
        return Func(args, results, frozenset(_MODES[mode] for mode in modes))

    def service(self) -> Service:
        methods: list[Method] = []
        for _ in range(self.count("method count")):
            start = self.offset
            name = self.name()
            if methods and name <= methods[-1].name:
                raise MalformedError(f"method {name!r} after {methods[-1].name!r}, expected ascending names", start)
            start = self.offset
            type_ = self.type()
            self.methods.append((type_, start))
            methods.append(Method(name, type_))
        return Service(tuple(methods))

    def name(self) -> str:
        start = self.offset
        try:
            return self.take(self.count("name length"), "name").decode()
        except UnicodeDecodeError as error:
            raise MalformedError("method name is not UTF-8", start) from error

    def definition(self) -> Type:  # noqa: PLR0911 - one return per kind of type
        start = self.offset
        opcode = self.opcode()
        if opcode < _PRINCIPAL:
            self.take(self.count("future type length"), "future type")
            return Future(opcode)
        match opcode:
            case -18:
                return Opt(self.type())
            case -19:
                return Vec(self.type())
            case -20:
                return Record(self.fields("record field count"))
            case -21:
                return Variant(self.fields("variant case count"))
            case -22:
                return self.func()
            case -23:
                return self.service()
            case _:
                raise MalformedError(f"type table entry with opcode {opcode}, expected a composite type", start)

    def header(self) -> Header:
        size = self.number("type table length", min(_MAX_ENTRIES, len(self.data)))
        self.table = tuple([Rec(f"table{index}") for index in range(size)])
        for entry in self.table:
            entry.define(self.definition())
        for type_, start in self.methods:
            if not (isinstance(type_, Rec) and isinstance(type_.type, Func)):
                raise MalformedError(f"method of type {resolve(type_)}, expected a function", start)
        return Header(self.types("argument count"), self.table, self.offset)


def read_header(data: bytes) -> Header:
    """The head of a message.

    Raises:
        MalformedError: not a message, an unknown type, an index out of range, ids or names out of order.
    """
    if data[:4] != MAGIC:
        raise MalformedError(f"bad magic {bytes(data[:4])!r}, expected {MAGIC!r}", 0)
    try:
        return _Reader(data).header()
    except IndexError as error:
        raise MalformedError("the message ends within its types", len(data)) from error


def encode_header(types: Iterable[Type]) -> bytes:
    """The head of a message of `types`; equal composites share one entry.

    Raises:
        ValueError: a name without a definition, or a future type.
    """
    types = [resolve(one) for one in types]
    table = _number(types)
    out = bytearray(MAGIC)
    write_leb(len(table), out)
    for entry in tuple(table):
        _write_definition(entry, table, out)
    write_leb(len(types), out)
    for one in types:
        _write_type(one, table, out)
    return bytes(out)


def _number(types: list[Type]) -> dict[Type, int]:
    """Every composite that is reachable from `types`, numbered in the order of the first visit."""
    table: dict[Type, int] = {}
    seen: set[int] = set()
    pending = list(reversed(types))
    while pending:
        found = resolve(pending.pop())
        if isinstance(found, Prim) or id(found) in seen:
            continue
        if isinstance(found, Future):
            raise ValueError("a future type cannot be encoded")
        seen.add(id(found))
        table.setdefault(found, len(table))
        pending.extend(reversed(list(children(found))))
    return table


def _write_type(type_: Type, table: dict[Type, int], out: bytearray) -> None:
    found = resolve(type_)
    write_sleb(found.opcode if isinstance(found, Prim) else table[found], out)


def _write_types(types: tuple[Type, ...], table: dict[Type, int], out: bytearray) -> None:
    write_leb(len(types), out)
    for one in types:
        _write_type(one, table, out)


def _write_definition(entry: Type, table: dict[Type, int], out: bytearray) -> None:
    match entry:
        case Opt(inner) | Vec(inner):
            write_sleb(_OPT if isinstance(entry, Opt) else _VEC, out)
            _write_type(inner, table, out)
        case Record(fields) | Variant(fields):
            write_sleb(_RECORD if isinstance(entry, Record) else _VARIANT, out)
            write_leb(len(fields), out)
            for one in fields:
                write_leb(one.id, out)
                _write_type(one.type, table, out)
        case Func():
            write_sleb(_FUNC, out)
            _write_types(entry.args, table, out)
            _write_types(entry.results, table, out)
            write_leb(len(entry.modes), out)
            out.extend(sorted(_MODE_BYTES[mode] for mode in entry.modes))
        case Service(methods):
            write_sleb(_SERVICE, out)
            write_leb(len(methods), out)
            for method in methods:
                name = method.name.encode()
                write_leb(len(name), out)
                out += name
                _write_type(method.type, table, out)
        case _:
            raise ValueError(f"{entry} has no entry in a type table")
