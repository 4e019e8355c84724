"""A Wasm module as a value: what `decode` returns, what `instrument` changes, what `encode` writes.

    bytes ─decode▶ Module ─dataclasses.replace▶ Module ─encode▶ bytes

A `Module` remembers the bytes of each section it was decoded from. `encode` copies those bytes for every section whose
value is unchanged and writes anew only what was replaced, so a module that nobody touched comes back byte for byte.

Spec: "Modules", https://webassembly.github.io/spec/core/binary/modules.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, unique
from functools import cached_property
from typing import NamedTuple, final

from perdure.wasm.instructions import instructions
from perdure.wasm.leb import encode_signed, encode_unsigned
from perdure.wasm.names import function_names

__all__ = [
    "Code",
    "ConstExpr",
    "CustomSection",
    "DataSegment",
    "Element",
    "ElementMode",
    "Export",
    "ExternKind",
    "FuncType",
    "Global",
    "GlobalType",
    "Import",
    "Limits",
    "MemoryType",
    "Module",
    "OriginalSection",
    "SectionId",
    "TableType",
    "ValType",
]


@unique
class SectionId(IntEnum):
    """Section ids as they stand in the file. Their order in a file is `SECTION_ORDER`, not this one."""

    CUSTOM = 0
    TYPE = 1
    IMPORT = 2
    FUNCTION = 3
    TABLE = 4
    MEMORY = 5
    GLOBAL = 6
    EXPORT = 7
    START = 8
    ELEMENT = 9
    CODE = 10
    DATA = 11
    DATA_COUNT = 12


SECTION_FIELDS: Mapping[SectionId, str] = {
    SectionId.TYPE: "types",
    SectionId.IMPORT: "imports",
    SectionId.FUNCTION: "function_type_indices",
    SectionId.TABLE: "tables",
    SectionId.MEMORY: "memories",
    SectionId.GLOBAL: "globals",
    SectionId.EXPORT: "exports",
    SectionId.START: "start",
    SectionId.ELEMENT: "elements",
    SectionId.DATA_COUNT: "data_count",
    SectionId.CODE: "codes",
    SectionId.DATA: "data",
}
"""The field of `Module` that holds each section, in the order in which sections stand in a file."""

SECTION_ORDER: tuple[SectionId, ...] = tuple(SECTION_FIELDS)


@unique
class ValType(IntEnum):
    """Value types by their byte."""

    I32 = 0x7F
    I64 = 0x7E
    F32 = 0x7D
    F64 = 0x7C
    V128 = 0x7B
    FUNCREF = 0x70
    EXTERNREF = 0x6F

    @property
    def text(self) -> str:
        """The name in the text format, ``i32``."""
        return self.name.lower()

    @property
    def is_reference(self) -> bool:
        """Whether a table can hold it."""
        return self <= ValType.FUNCREF


@unique
class ExternKind(IntEnum):
    """What an import or export is."""

    FUNCTION = 0
    TABLE = 1
    MEMORY = 2
    GLOBAL = 3


class FuncType(NamedTuple):
    """Parameters and results of a function."""

    params: tuple[ValType, ...] = ()
    results: tuple[ValType, ...] = ()

    def __str__(self) -> str:
        """``(i32, i64) -> (i32)``."""
        sides = (", ".join(value.text for value in side) for side in self)
        return " -> ".join(f"({side})" for side in sides)


class Limits(NamedTuple):
    """Sizes of a memory (Wasm pages) or a table (elements), and the width of its indices."""

    minimum: int
    maximum: int | None = None
    is_64: bool = False


class MemoryType(NamedTuple):
    """The type of a memory, in Wasm pages."""

    limits: Limits

    @property
    def is_64(self) -> bool:
        """Whether addresses are 64 bits wide."""
        return self.limits.is_64


class TableType(NamedTuple):
    """The type of a table, in elements."""

    element: ValType
    limits: Limits

    @property
    def is_64(self) -> bool:
        """Whether indices into the table are 64 bits wide."""
        return self.limits.is_64


class GlobalType(NamedTuple):
    """The type of a global."""

    val_type: ValType
    mutable: bool = False


class ConstExpr(NamedTuple):
    """A constant expression: its instructions, `end` included."""

    code: bytes

    @classmethod
    def i32(cls, value: int) -> ConstExpr:
        """``i32.const value``, `value` signed."""
        return cls(b"\x41" + encode_signed(value) + b"\x0b")

    @classmethod
    def i64(cls, value: int) -> ConstExpr:
        """``i64.const value``, `value` signed."""
        return cls(b"\x42" + encode_signed(value) + b"\x0b")

    @classmethod
    def ref_func(cls, function_index: int) -> ConstExpr:
        """``ref.func function_index``."""
        return cls(b"\xd2" + encode_unsigned(function_index) + b"\x0b")

    @property
    def integer(self) -> tuple[ValType, int] | None:
        """Type and signed value of a single ``i32.const`` or ``i64.const``; `None` for anything else."""
        first, *rest = instructions(self.code)
        if first.opcode not in {0x41, 0x42} or len(rest) != 1:
            return None
        (value,) = first.immediates
        assert isinstance(value, int)
        return (ValType.I32 if first.opcode == 0x41 else ValType.I64), value


class Import(NamedTuple):
    """An import. `type` is a type index for a function, else the type itself."""

    module: str
    name: str
    kind: ExternKind
    type: int | TableType | MemoryType | GlobalType


@final
@dataclass(frozen=True, slots=True)
class Export:
    """An export: `index` is in the index space of its kind."""

    name: str
    kind: ExternKind
    index: int


class Global(NamedTuple):
    """A global that the module defines."""

    type: GlobalType
    init: ConstExpr


@unique
class ElementMode(IntEnum):
    """When an element segment is used."""

    ACTIVE = 0
    PASSIVE = 1
    DECLARATIVE = 2


class Element(NamedTuple):
    """An element segment: function indices, or (`items` being a tuple of `ConstExpr`) expressions of type `type`.

    `offset` is there if and only if the mode is ACTIVE.
    """

    mode: ElementMode
    type: ValType
    items: tuple[int, ...] | tuple[ConstExpr, ...]
    table_index: int = 0
    offset: ConstExpr | None = None


class Code(NamedTuple):
    """A function's body: local declarations and instructions, `end` included, without the size before it.

    `offset` is where `body` stood in the file that was decoded, for messages; -1 for a body made here.
    """

    body: bytes
    offset: int = -1


class DataSegment(NamedTuple):
    """A data segment: passive when `offset` is `None`, else copied into a memory when the module is instantiated."""

    init: bytes
    offset: ConstExpr | None = None
    memory_index: int = 0


class CustomSection(NamedTuple):
    """A custom section and its place.

    `after` is the id of the last other section before it, `SectionId.CUSTOM` for one that comes first of all.
    `raw` is the section as decoded, header included; empty for one made here.
    """

    name: str
    data: bytes
    after: SectionId = SectionId.DATA
    raw: bytes = b""


class OriginalSection(NamedTuple):
    """A section as decoded: its value, and its bytes with their header."""

    value: object
    raw: bytes


@final
@dataclass(frozen=True)
class Module:
    """A Wasm module. Imports come first in each index space, then what the module defines.

    Make a changed one by ``dataclasses.replace``; leave `originals` alone (it is how `encode` knows what changed).
    """

    types: tuple[FuncType, ...] = ()
    imports: tuple[Import, ...] = ()
    function_type_indices: tuple[int, ...] = ()
    tables: tuple[TableType, ...] = ()
    memories: tuple[MemoryType, ...] = ()
    globals: tuple[Global, ...] = ()
    exports: tuple[Export, ...] = ()
    start: int | None = None
    elements: tuple[Element, ...] = ()
    data_count: int | None = None
    codes: tuple[Code, ...] = ()
    data: tuple[DataSegment, ...] = ()
    custom_sections: tuple[CustomSection, ...] = ()
    originals: Mapping[SectionId, OriginalSection] = field(default_factory=dict, repr=False, compare=False)

    def imported(self, kind: ExternKind) -> Iterator[Import]:
        """Imports of one kind, in the order of their indices."""
        return (item for item in self.imports if item.kind is kind)

    @cached_property
    def imported_function_types(self) -> tuple[int, ...]:
        """Type indices of imported functions."""
        types = (item.type for item in self.imported(ExternKind.FUNCTION))
        return tuple(index for index in types if isinstance(index, int))

    @property
    def imported_function_count(self) -> int:
        """How many functions are imported; the first function defined here has this index."""
        return len(self.imported_function_types)

    @property
    def function_count(self) -> int:
        """Imported and defined functions; the next one appended gets this index."""
        return len(self.imported_function_types) + len(self.function_type_indices)

    @cached_property
    def imported_memories(self) -> tuple[MemoryType, ...]:
        """Types of imported memories."""
        types = (item.type for item in self.imported(ExternKind.MEMORY))
        return tuple(kind for kind in types if isinstance(kind, MemoryType))

    @property
    def all_memories(self) -> tuple[MemoryType, ...]:
        """Types of all memories, by index."""
        return self.imported_memories + self.memories

    @cached_property
    def all_tables(self) -> tuple[TableType, ...]:
        """Types of all tables, by index."""
        types = (item.type for item in self.imported(ExternKind.TABLE))
        return tuple(kind for kind in types if isinstance(kind, TableType)) + self.tables

    @cached_property
    def all_global_types(self) -> tuple[GlobalType, ...]:
        """Types of all globals, by index."""
        types = (item.type for item in self.imported(ExternKind.GLOBAL))
        imported = tuple(kind for kind in types if isinstance(kind, GlobalType))
        return imported + tuple(item.type for item in self.globals)

    @cached_property
    def exported_functions(self) -> Mapping[str, int]:
        """Indices of exported functions, by the names of the exports."""
        return {item.name: item.index for item in self.exports if item.kind is ExternKind.FUNCTION}

    @property
    def is_64(self) -> bool:
        """Whether memory 0 has 64-bit addresses; False without a memory."""
        memories = self.all_memories
        return bool(memories) and memories[0].is_64

    def function_type(self, function_index: int) -> FuncType:
        """Type of a function, imported or not."""
        imported = self.imported_function_types
        if function_index < len(imported):
            return self.types[imported[function_index]]
        return self.types[self.function_type_indices[function_index - len(imported)]]

    def custom(self, name: str) -> bytes | None:
        """Contents of the first custom section of that name."""
        return next((section.data for section in self.custom_sections if section.name == name), None)

    @cached_property
    def function_names(self) -> Mapping[int, str]:
        """Function names by index, from the name section; what is damaged or absent is left out."""
        return function_names(self.custom("name") or b"")
