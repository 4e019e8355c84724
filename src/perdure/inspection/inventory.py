"""What is found in a stable memory: managers, structures, and all of it together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from perdure.errors import UnsupportedError
from perdure.inspection.looking import html_table
from perdure.inspection.shape import MapShape, Width
from perdure.inspection.source import Extent, Layer
from perdure.inspection.variables import NO_VARIABLES, Variables
from perdure.memory import WASM_PAGE_BYTES, Memory
from perdure.stable.headers import ManagerHeader
from perdure.stable.region import Region, Run

__all__ = ["Inventory", "Manager", "Structure"]


@final
@dataclass(frozen=True)
class Manager:
    """A memory manager that was found.

    Attributes:
        wasm_page: where it starts.
        header: what it says.
        trouble: what is wrong with it, empty if nothing.
        is_motoko: whether it is the big-endian one of MotokoStableBTree.
    """

    wasm_page: int
    header: ManagerHeader = field(repr=False)
    trouble: str = ""
    is_motoko: bool = False

    @property
    def address(self) -> int:
        """Where it starts, in bytes."""
        return self.wasm_page * WASM_PAGE_BYTES

    def runs(self, memory_id: int) -> list[Run]:
        """The buckets of a memory, by ascending index, as the crate takes them."""
        header = self.header
        return [
            Run(self.address + header.bucket_address(index), header.bucket_bytes)
            for index in header.buckets_of(memory_id)
        ]


@final
@dataclass(frozen=True)
class Structure:
    """A structure, or a memory with none that is known.

    Attributes:
        label: how it is named on the command line: the memory id, or ``page:N`` without a manager.
        kind: one of `KINDS`, or ``empty``, ``unknown``, ``log-index``, ``log-data``, ``sqlite``, ``motoko-...``.
        region: its memory.
        memory_id: of its virtual memory; ``None`` without a manager.
        version: layout version.
        entries: how many the header counts.
        key: width of keys.
        value: width of values or elements.
        used_bytes: bytes that the structure has taken into use.
        allocated_bytes: bytes set aside for it: whole buckets, or the memory.
        note: what else there is to say.
        shape: of a map.
        data: the other half of a log.
        data_memory_id: id of that.
        name: from the schema.
        offset: bytes of its virtual memory that are before it, and not in `region`.
        labels: names of Candid fields by number, where the source knows them.
    """

    label: str
    kind: str
    region: Region = field(repr=False)
    memory_id: int | None = None
    version: int | None = None
    entries: int | None = None
    key: Width | None = None
    value: Width | None = None
    used_bytes: int | None = None
    allocated_bytes: int = 0
    note: str = ""
    shape: MapShape | None = field(default=None, repr=False)
    data: Region | None = field(default=None, repr=False)
    data_memory_id: int | None = None
    name: str | None = None
    offset: int = 0
    labels: Mapping[int, str] | None = field(default=None, repr=False, compare=False)

    @property
    def table_name(self) -> str:
        """What it is called where it has no name of its own."""
        return "memory_" + self.label.replace(":", "_")

    @property
    def wasted_bytes(self) -> int | None:
        """Bytes set aside and not taken into use."""
        return None if self.used_bytes is None else max(0, self.allocated_bytes - self.used_bytes)

    @property
    def address(self) -> int:
        """Where it starts in the stable memory; -1 if it has no bytes."""
        return self.region.below_address(0)


@final
@dataclass(frozen=True)
class Inventory:
    """What is in a stable memory.

    Attributes:
        label: of the source.
        memory: the stable memory.
        extents: where it may differ from zero.
        managers: those found, outermost first.
        structures: by memory id, or by page.
        layers: the files behind the memory, where that is known.
        variables: Motoko's stable variables.
    """

    label: str
    memory: Memory = field(repr=False)
    extents: list[Extent] = field(repr=False)
    managers: tuple[Manager, ...]
    structures: tuple[Structure, ...]
    layers: tuple[Layer, ...] = field(default=(), repr=False)
    variables: Variables = field(default=NO_VARIABLES, repr=False)

    def __repr__(self) -> str:
        variables = self.variables.tables() if self.variables is not NO_VARIABLES else []
        lines = [f"<Inventory of {self.label}: {self.memory.size():,} Wasm pages", *map(_line, self.structures)]
        return "\n  ".join([*lines, *(f"{one.name}: stable variable of Motoko" for one in variables)]) + ">"

    def _repr_html_(self) -> str:
        rows = [
            (one.label, one.name or "", one.kind, one.entries, one.used_bytes, one.allocated_bytes)
            for one in self.structures
        ]
        title = f"{self.label}: {self.memory.size():,} Wasm pages"
        return html_table(title, ("memory", "name", "kind", "entries", "used bytes", "allocated bytes"), rows)

    def structure(self, name: str) -> Structure:
        """The structure called `name`: a memory id, a label, or a name from the schema.

        Raises:
            UnsupportedError: there is none.
        """
        name = str(name)
        for structure in self.structures:
            if name in (structure.name, structure.label, structure.table_name):
                return structure
        names = [structure.name or structure.label for structure in self.structures]
        known = ", ".join([*names, *(one.name for one in self.variables.tables())]) or "none"
        raise UnsupportedError(f"no structure {name!r} here, found {known}").coded("no-structure")


def _line(structure: Structure) -> str:
    entries = "" if structure.entries is None else f" of {structure.entries:,} entries"
    name = f" {structure.name}" if structure.name else ""
    return f"{structure.label}{name}: {structure.kind}{entries}, {structure.allocated_bytes:,} bytes set aside"
