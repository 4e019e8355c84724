"""`decode`: bytes to `Module`, with every structural rule of the binary format checked.

A module on the wire::

    00  magic 00 61 73 6d, version 01 00 00 00
    08  sections: id (1 byte), size (u32 LEB128), contents; in the order of `SECTION_ORDER`, each at most once,
        custom sections (id 0) anywhere between them

Types of instructions are not checked: the engine validates code. Bodies are only delimited here.

Spec: "Binary Format", https://webassembly.github.io/spec/core/binary/index.html
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from typing import final

from perdure.errors import MalformedError
from perdure.wasm.instructions import read_instruction
from perdure.wasm.module import (
    SECTION_FIELDS,
    SECTION_ORDER,
    Code,
    ConstExpr,
    CustomSection,
    DataSegment,
    Element,
    ElementMode,
    Export,
    ExternKind,
    FuncType,
    Global,
    GlobalType,
    Import,
    Limits,
    MemoryType,
    Module,
    OriginalSection,
    SectionId,
    TableType,
    ValType,
)
from perdure.wasm.reader import Reader

__all__ = ["MAX_MODULE_BYTES", "decode"]

MAX_MODULE_BYTES = 100 << 20
"""The replica's limit for a module, inflated (``WASM_MAX_SIZE``)."""

_MAGIC = b"\0asm"
_VERSION = b"\x01\0\0\0"
_COMPONENT = b"\x01\0"  # in the version's upper half, which the component model calls the layer
_TEXT = re.compile(rb"\s*(?:\((?:module|component|;)|;;)")
_GZIP_MAGIC = b"\x1f\x8b\x08"
_VAL_TYPES = {int(value): value for value in ValType}
_MOST = {
    "types": 200_000,
    "imports": 200_000,
    "exports": 200_000,
    "globals": 200_000,
    "element segments": 100_000,
    "data segments": 100_000,
    "custom sections": 100_000,
}
"""Items that are read at all. The replica refuses far fewer, but reads them first; here 100 MiB of them, 3 bytes each,
would take many minutes. The engine has limits of the same order."""
_MAX_PAGES = {False: 1 << 16, True: 1 << 48}
_RANK = {section: rank for rank, section in enumerate(SECTION_ORDER, 1)} | {SectionId.CUSTOM: 0}
# i32/i64/f32/f64/v128.const, ref.null, ref.func, global.get; and add, sub, mul of the extended constant expressions.
_CONSTANT = frozenset({0x41, 0x42, 0x43, 0x44, 0xFD0C, 0xD0, 0xD2, 0x23, 0x6A, 0x6B, 0x6C, 0x7C, 0x7D, 0x7E})
_END = 0x0B
# Bit 0: not active. Bit 1: declarative with bit 0, an explicit table without. Bit 2: expressions.
_ELEMENT_MODES = (ElementMode.ACTIVE, ElementMode.PASSIVE, ElementMode.ACTIVE, ElementMode.DECLARATIVE)


def decode(data: bytes, *, max_bytes: int = MAX_MODULE_BYTES) -> Module:
    """The module in `data`, which may be gzipped.

    Args:
        data: a Wasm module, or one gzip member holding one.
        max_bytes: upper bound of the module's size, inflated; no more than this is ever inflated.

    Raises:
        MalformedError: anything the binary format forbids; offsets count from the start of the inflated module.
    """
    wasm = inflate(data, max_bytes=max_bytes)
    reader = Reader(wasm)
    if _TEXT.match(wasm):
        reader.fail("found Wasm's text format, expected a binary module: assemble it, as with wasmtime.wat2wasm")
    _header(reader, _MAGIC, "magic")
    if wasm[6:8] == _COMPONENT:
        reader.fail("found a component, expected a core module, as toolchains make for wasm32-wasip1")
    _header(reader, _VERSION, "version")
    return _Decoder(reader).run()


def inflate(data: bytes, *, max_bytes: int = MAX_MODULE_BYTES) -> bytes:
    """`data`, unzipped if it is gzip.

    Raises:
        MalformedError: damaged gzip, or more than `max_bytes`.
    """
    if data[:3] != _GZIP_MAGIC:
        if len(data) > max_bytes:
            raise MalformedError(f"found a module of {len(data)} bytes, expected at most {max_bytes}", max_bytes)
        return bytes(data)
    inflater = zlib.decompressobj(wbits=31)
    try:
        wasm = inflater.decompress(data, max_bytes + 1)
    except zlib.error as error:
        raise MalformedError(f"found damaged gzip data ({error}), expected a gzipped module") from error
    if len(wasm) > max_bytes:
        raise MalformedError(f"found a gzipped module of more than {max_bytes} bytes, expected at most that", max_bytes)
    if not inflater.eof:
        raise MalformedError("found the end of the gzip data, expected more of it", len(data))
    if inflater.unused_data:
        place = len(data) - len(inflater.unused_data)
        raise MalformedError("found data after the gzip stream, expected its end", place)
    return wasm


def _header(reader: Reader, expected: bytes, what: str) -> None:
    found = reader.data[reader.position : reader.position + len(expected)]
    if found != expected:
        reader.fail(f"found {what} {found!r}, expected {expected!r}")
    reader.position += len(expected)


@final
class _Decoder:
    """One pass over the sections; `values` fills up in file order, so later sections can check earlier counts."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.module = Module()
        self.functions = 0
        self.tables: list[TableType] = []
        self.memories: list[MemoryType] = []
        self.globals: list[GlobalType] = []
        self.types: tuple[FuncType, ...] = ()
        self.values: dict[SectionId, object] = {}

    def run(self) -> Module:
        """Read every section and check what spans several."""
        reader = self.reader
        whole = reader.end
        originals: dict[SectionId, OriginalSection] = {}
        customs: list[CustomSection] = []
        last = SectionId.CUSTOM
        while reader.position < whole:
            start = reader.position
            section = self._section_id(last)
            size = reader.u32("a section size")
            if size > whole - reader.position:
                reader.fail(f"found a section of {size} bytes before {whole - reader.position}, expected it to fit")
            reader.end = reader.position + size
            if section is SectionId.CUSTOM:
                name = reader.name("a custom section's name")
                contents = reader.take(reader.end - reader.position, "a custom section")
                customs.append(CustomSection(name, contents, last, reader.data[start : reader.end]))
                self._bound("custom sections", len(customs), start)
            else:
                last = section
                value = self.values[section] = _SECTIONS[section](self)
                if reader.position != reader.end:
                    found = reader.end - reader.position
                    reader.fail(f"found {found} bytes more in the {_label(section)} section, expected its end")
                originals[section] = OriginalSection(value, reader.data[start : reader.end])
            reader.end = whole
        self._check_counts()
        fields = {SECTION_FIELDS[section]: value for section, value in self.values.items()}
        return Module(**fields, custom_sections=tuple(customs), originals=originals)  # type: ignore[arg-type]

    def _section_id(self, last: SectionId) -> SectionId:
        reader = self.reader
        start = reader.position
        number = reader.byte("a section id")
        if number > SectionId.DATA_COUNT:
            reader.fail(f"found section id {number}, expected 0 to 12", start)
        section = SectionId(number)
        if section is not SectionId.CUSTOM and _RANK[section] <= _RANK[last]:
            reader.fail(
                f"found a {_label(section)} section after the {_label(last)} section, expected it before", start
            )
        return section

    def _check_counts(self) -> None:
        found = len(self._value(SectionId.CODE))
        expected = len(self._value(SectionId.FUNCTION))
        if found != expected:
            self.reader.fail(f"found {found} function bodies, expected {expected} as the function section says")
        declared = self.values.get(SectionId.DATA_COUNT)
        found = len(self._value(SectionId.DATA))
        if declared is not None and declared != found:
            self.reader.fail(f"found {found} data segments, expected {declared} as the data count section says")

    def _value(self, section: SectionId) -> tuple[object, ...]:
        value = self.values.get(section, ())
        assert isinstance(value, tuple)
        return value

    def vector(self, what: str, item: Callable[[], object], smallest: int = 1) -> tuple[object, ...]:
        """A counted sequence."""
        return tuple([item() for _ in range(self.count(what, smallest))])

    def count(self, what: str, smallest: int) -> int:
        """How many of a section's items follow."""
        start = self.reader.position
        count = self.reader.count(what, smallest)
        self._bound(what, count, start)
        return count

    def _bound(self, what: str, count: int, place: int) -> None:
        if count > _MOST[what]:
            self.reader.fail(f"found {count} {what}, expected at most {_MOST[what]}", place)

    # Types

    def val_type(self, *, reference: bool = False) -> ValType:
        """A value type."""
        reader = self.reader
        start = reader.position
        byte = reader.byte("a value type")
        value = _VAL_TYPES.get(byte)
        if value is None or (reference and not value.is_reference):
            expected = "a reference type" if reference else "a value type"
            reader.fail(f"found byte {byte:#04x}, expected {expected}", start)
        return value

    def func_type(self) -> FuncType:
        """A function type."""
        reader = self.reader
        start = reader.position
        form = reader.byte("a function type")
        if form != 0x60:
            reader.fail(f"found byte {form:#04x}, expected a function type (0x60)", start)
        return FuncType(*(self._val_types(what) for what in ("parameters", "results")))

    def _val_types(self, what: str) -> tuple[ValType, ...]:
        reader = self.reader
        count = reader.count(what)
        start = reader.position
        types = tuple(map(_VAL_TYPES.get, reader.data[start : start + count]))
        known = tuple([kind for kind in types if kind is not None])
        if len(known) < count:
            reader.position = start + types.index(None)
            self.val_type()  # says what is wrong
        reader.position = start + count
        return known

    def limits(self, what: str) -> Limits:
        """Limits of a memory or table: bit 0 a maximum, bit 1 shared (refused), bit 2 64-bit."""
        reader = self.reader
        start = reader.position
        flags = reader.byte(f"the limits of a {what}")
        if flags & 2 and flags <= 7:
            reader.fail(f"found a shared {what}, expected one that is not", start)
        if flags > 7:
            reader.fail(f"found {what} flags {flags:#04x}, expected 0, 1, 4 or 5", start)
        bits = 64 if flags & 4 else 32
        minimum = reader.unsigned(bits, f"the minimum size of a {what}")
        maximum = reader.unsigned(bits, f"the maximum size of a {what}") if flags & 1 else None
        if maximum is not None and maximum < minimum:
            reader.fail(f"found a {what} of at least {minimum} and at most {maximum}, expected the least first", start)
        return Limits(minimum, maximum, bool(flags & 4))

    def memory_type(self) -> MemoryType:
        """A memory type."""
        start = self.reader.position
        limits = self.limits("memory")
        most = max(limits.minimum, limits.maximum or 0)
        if most > _MAX_PAGES[limits.is_64]:
            self.reader.fail(f"found a memory of {most} pages, expected at most {_MAX_PAGES[limits.is_64]}", start)
        return MemoryType(limits)

    def table_type(self) -> TableType:
        """A table type."""
        return TableType(self.val_type(reference=True), self.limits("table"))

    def global_type(self) -> GlobalType:
        """A global type."""
        val_type = self.val_type()
        return GlobalType(val_type, self.flag("a mutability"))

    def flag(self, what: str) -> bool:
        """A byte that is 0 or 1."""
        start = self.reader.position
        byte = self.reader.byte(what)
        if byte > 1:
            self.reader.fail(f"found byte {byte:#04x}, expected {what} of 0 or 1", start)
        return bool(byte)

    def extern_kind(self) -> ExternKind:
        """The kind of an import or export."""
        start = self.reader.position
        byte = self.reader.byte("a kind of import or export")
        if byte > ExternKind.GLOBAL:
            self.reader.fail(f"found kind {byte:#04x}, expected function, table, memory or global (0 to 3)", start)
        return ExternKind(byte)

    def const_expr(self) -> ConstExpr:
        """A constant expression, delimited; indices in it are checked, types are not."""
        reader = self.reader
        start = reader.position
        while (instruction := read_instruction(reader)).opcode != _END:
            if instruction.opcode not in _CONSTANT:
                found = reader.data[instruction.start : instruction.end].hex(" ")
                reader.fail(f"found instruction {found}, expected a constant instruction", instruction.start)
            if instruction.opcode in {0xD2, 0x23}:
                reader.position = instruction.start + 1
                bound, what = (
                    (self.functions, "function") if instruction.opcode == 0xD2 else (len(self.globals), "global")
                )
                reader.index(bound, what)
        return ConstExpr(reader.data[start : reader.position])

    # Sections

    def type_section(self) -> object:
        """Function types."""
        self.types = tuple([self.func_type() for _ in range(self.count("types", 3))])
        return self.types

    def import_section(self) -> object:
        """Imports."""
        return self.vector("imports", self._import, 4)

    def _import(self) -> Import:
        module, name = self.reader.name("an import's module"), self.reader.name("an import's name")
        kind = self.extern_kind()
        match kind:
            case ExternKind.FUNCTION:
                self.functions += 1
                return Import(module, name, kind, self.reader.index(len(self.types), "type"))
            case ExternKind.TABLE:
                self.tables.append(self.table_type())
                return Import(module, name, kind, self.tables[-1])
            case ExternKind.MEMORY:
                self.memories.append(self.memory_type())
                return Import(module, name, kind, self.memories[-1])
            case ExternKind.GLOBAL:
                self.globals.append(self.global_type())
                return Import(module, name, kind, self.globals[-1])

    def function_section(self) -> object:
        """Type indices of the functions defined here."""
        reader = self.reader
        count = reader.count("functions")
        bound = len(self.types)
        indices = reader.data[reader.position : reader.end]
        if count and len(indices) == count and max(indices) < min(bound, 0x80):  # one byte each, as nearly always
            reader.position = reader.end
            value = tuple(indices)
        else:
            value = tuple([reader.index(bound, "type") for _ in range(count)])
        self.functions += count
        return value

    def table_section(self) -> object:
        """Tables."""
        tables = tuple([self.table_type() for _ in range(self.reader.count("tables", 3))])
        self.tables += tables
        return tables

    def memory_section(self) -> object:
        """Memories."""
        memories = tuple([self.memory_type() for _ in range(self.reader.count("memories", 2))])
        self.memories += memories
        return memories

    def global_section(self) -> object:
        """Globals."""
        return self.vector("globals", self._global, 4)

    def _global(self) -> Global:
        kind = self.global_type()
        init = self.const_expr()
        self.globals.append(kind)
        return Global(kind, init)

    def export_section(self) -> object:
        """Exports."""
        reader = self.reader
        bounds = {
            ExternKind.FUNCTION: self.functions,
            ExternKind.TABLE: len(self.tables),
            ExternKind.MEMORY: len(self.memories),
            ExternKind.GLOBAL: len(self.globals),
        }
        exports: dict[str, Export] = {}
        for _ in range(self.count("exports", 3)):
            start = reader.position
            name = reader.name("an export's name")
            if name in exports:
                reader.fail(f"found a second export named {name!r}, expected different names", start)
            kind = self.extern_kind()
            exports[name] = Export(name, kind, reader.index(bounds[kind], kind.name.lower()))
        return tuple(exports.values())

    def start_section(self) -> object:
        """The start function."""
        return self.reader.index(self.functions, "function")

    def element_section(self) -> object:
        """Element segments."""
        return self.vector("element segments", self._element, 2)

    def _element(self) -> Element:
        reader = self.reader
        start = reader.position
        flags = reader.u32("the flags of an element segment")
        if flags > 7:
            reader.fail(f"found element segment flags {flags:#x}, expected 0 to 7", start)
        table_index, offset, kind = 0, None, ValType.FUNCREF
        mode = _ELEMENT_MODES[flags & 3]
        if mode is ElementMode.ACTIVE:
            table_index = self._table_index(explicit=bool(flags & 2))
            offset = self.const_expr()
        if flags & 4:
            kind = self.val_type(reference=True) if flags & 3 else kind
            expressions = tuple([self.const_expr() for _ in range(reader.count("element expressions", 2))])
            return Element(mode, kind, expressions, table_index, offset)
        if flags & 3:
            _expect_zero(reader, "an element kind")
        return Element(mode, kind, self._function_indices(), table_index, offset)

    def _table_index(self, *, explicit: bool) -> int:
        if explicit:
            return self.reader.index(len(self.tables), "table")
        if not self.tables:
            self.reader.fail("found an active element segment, expected none without a table")
        return 0

    def _function_indices(self) -> tuple[int, ...]:
        reader, bound = self.reader, self.functions
        return tuple([reader.index(bound, "function") for _ in range(reader.count("element functions"))])

    def data_count_section(self) -> object:
        """How many data segments follow."""
        return self.reader.u32("a number of data segments")

    def code_section(self) -> object:
        """Function bodies, delimited."""
        reader = self.reader
        data, end = reader.data, reader.end
        count = reader.count("function bodies", 3)
        codes = []
        for _ in range(count):
            size = reader.u32("the size of a function body")
            start = reader.position
            stop = start + size
            if stop > end or size < 2:
                reader.fail(f"found a function body of {size} bytes before {end - start}, expected 2 or more that fit")
            if data[stop - 1] != _END:
                reader.fail(f"found byte {data[stop - 1]:#04x} at the end of a body, expected end (0x0b)", stop - 1)
            codes.append(Code(data[start:stop], start))
            reader.position = stop
        return tuple(codes)

    def data_section(self) -> object:
        """Data segments."""
        return self.vector("data segments", self._data_segment, 2)

    def _data_segment(self) -> DataSegment:
        reader = self.reader
        start = reader.position
        flags = reader.u32("the flags of a data segment")
        if flags > 2:
            reader.fail(f"found data segment flags {flags:#x}, expected 0, 1 or 2", start)
        memory_index, offset = 0, None
        if flags != 1:
            if flags == 2:
                memory_index = reader.index(len(self.memories), "memory")
            elif not self.memories:
                reader.fail("found an active data segment, expected none without a memory", start)
            offset = self.const_expr()
        size = reader.u32("the size of a data segment")
        return DataSegment(reader.take(size, "a data segment"), offset, memory_index)


def _expect_zero(reader: Reader, what: str) -> None:
    start = reader.position
    byte = reader.byte(what)
    if byte:
        reader.fail(f"found byte {byte:#04x}, expected {what} of 0", start)


def _label(section: SectionId) -> str:
    return section.name.lower().replace("_", " ")


_SECTIONS: dict[SectionId, Callable[[_Decoder], object]] = {
    SectionId.TYPE: _Decoder.type_section,
    SectionId.IMPORT: _Decoder.import_section,
    SectionId.FUNCTION: _Decoder.function_section,
    SectionId.TABLE: _Decoder.table_section,
    SectionId.MEMORY: _Decoder.memory_section,
    SectionId.GLOBAL: _Decoder.global_section,
    SectionId.EXPORT: _Decoder.export_section,
    SectionId.START: _Decoder.start_section,
    SectionId.ELEMENT: _Decoder.element_section,
    SectionId.DATA_COUNT: _Decoder.data_count_section,
    SectionId.CODE: _Decoder.code_section,
    SectionId.DATA: _Decoder.data_section,
}
