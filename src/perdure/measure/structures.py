"""Whose a page of memory is: of which structure, variable, table or index; and how a memory is drawn."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, final

from perdure.errors import PerdureError
from perdure.inspection.find import Inventory, find, find_in_memory, name_structures
from perdure.inspection.occupancy import Span, colours_of, legend, occupancy
from perdure.inspection.source import Source
from perdure.inspection.sqlite import databases, page_owners
from perdure.memory import PAGE_BYTES, WASM_PAGE_BYTES, Memory
from perdure.picture import one_line
from perdure.values.schema import Schema

__all__ = ["OTHER", "Layout", "Owner", "Owners", "PageUse", "inventory_of"]

_MOST_DATABASE_PAGES: Final = 1 << 17
"""Tables of larger databases are not told apart: to walk one takes seconds."""


class Owner(NamedTuple):
    """A structure, or a part of one."""

    structure: str
    """Its label, as ``perdure stable ls`` shows it: the memory id, or ``page:N``."""
    name: str = ""
    """From a schema, a catalogue, a class; of a database, its table or index."""
    kind: str = ""


OTHER: Final = Owner("other")
"""What belongs to no structure that is known: bytes that nobody has taken, or data of a canister's own making."""
_MANAGER: Final = Owner("manager", "", "memory manager")


@final
class PageUse(NamedTuple):
    """What was done to one structure, in pages of 4 KiB."""

    memory: str
    """The structure's label, as ``perdure stable ls`` shows it."""
    kind: str
    accessed_pages: int
    written_pages: int
    name: str = ""
    """See `Owner.name`."""

    def to_json(self) -> dict[str, int | str]:
        """As an object."""
        return {**self._asdict(), "accessed_bytes": self.accessed_bytes, "written_bytes": self.written_bytes}

    @property
    def accessed_bytes(self) -> int:
        """Of the pages that were read or written."""
        return self.accessed_pages * PAGE_BYTES

    @property
    def written_bytes(self) -> int:
        """Of the pages that were written."""
        return self.written_pages * PAGE_BYTES


@final
class Owners:
    """Whose pages are whose, in a stable memory as it stands.

    A page that two structures share counts for the one that has its first byte; one whose first byte has no owner, for
    the first that begins in it.

    Args:
        memory: the stable memory.
        inventory: what is in it, by names; by default what can be found without knowing more.
    """

    def __init__(self, memory: Memory, inventory: Inventory | None = None) -> None:
        inventory = _found(memory) if inventory is None else inventory
        found = () if inventory is None else (_runs_in_databases(inventory), _runs(inventory))
        self._levels = [sorted(_spans(runs)) for runs in found]
        self._starts = [[start for start, _, _ in spans] for spans in self._levels]

    def owner(self, page: int) -> Owner:
        """The structure that a page belongs to, of a database the table; `OTHER` where there is none."""
        for starts, spans in zip(self._starts, self._levels, strict=True):
            place = bisect_right(starts, page) - 1
            if place >= 0:
                _, end, owner = spans[place]
                if page < end:
                    return owner
        return OTHER

    def use(self, accessed: Iterable[int], written: Iterable[int]) -> list[PageUse]:
        """Pages that were accessed and written, counted by structure, most accessed first."""
        counts: dict[Owner, list[int]] = {}
        for place, pages in enumerate((accessed, written)):
            for page in pages:
                counts.setdefault(self.owner(page), [0, 0])[place] += 1
        found = [
            PageUse(owner.structure, owner.kind, read, changed, owner.name) for owner, (read, changed) in counts.items()
        ]
        return sorted(found, key=lambda one: (-one.accessed_pages, one.memory, one.name))


def inventory_of(source: Source, schema: Schema | None) -> Inventory | None:
    """What is in a stable memory, with the names that module, catalogue and schema give; `None`: nobody can tell."""
    try:
        declared = source.declared()
        if schema is not None:
            declared = schema if declared is None else replace(schema, memories=declared.memories | schema.memories)
        memories = declared.memories if declared is not None else {}
        pairs = {one: entry.data for one, entry in memories.items() if entry.data is not None}
        return name_structures(find(source, pairs), declared)
    except PerdureError:
        return None  # all of it is `OTHER`


def _found(memory: Memory) -> Inventory | None:
    try:
        return find_in_memory(memory)
    except PerdureError:
        return None


_Run = tuple[int, int, Owner]
"""Where it begins and ends, and whose it is."""


def _spans(runs: Iterable[_Run]) -> Iterator[_Run]:
    """The same in pages; none overlap."""
    taken_until = 0
    for start, end, owner in sorted(runs):
        first, last = max(start // PAGE_BYTES, taken_until), -(-end // PAGE_BYTES)
        if first < last:
            yield first, last, owner
            taken_until = last


def _runs(inventory: Inventory) -> Iterator[_Run]:
    for manager in inventory.managers:
        yield manager.address, manager.address + WASM_PAGE_BYTES, _MANAGER
    for structure in inventory.structures:
        owner = Owner(structure.label, structure.name or "", structure.kind)
        for region in (structure.region, structure.data):
            for run in region.runs if region is not None else ():
                if run.size_bytes:
                    yield run.address, run.address + run.size_bytes, owner


def _runs_in_databases(inventory: Inventory) -> Iterator[_Run]:
    """Those of tables and indexes."""
    for structure in databases(inventory):
        region = structure.region
        for page, count, name, kind, page_bytes in page_owners(structure, _MOST_DATABASE_PAGES):
            start = (page - 1) * page_bytes
            for run in region.pieces(start, max(0, min(count * page_bytes, region.size_bytes - start))):
                yield run.address, run.address + run.size_bytes, Owner(structure.label, name, kind)


@final
@dataclass(frozen=True)
class Layout:
    """How a memory is drawn, and whose its pages are. It does not look at the memory any more.

    Attributes:
        size_bytes: of the memory.
        spans: what occupies it.
        owners: of pages.
        colours: of structures, by label.
        legend: of structures, by label.
    """

    size_bytes: int
    spans: list[Span]
    owners: Owners | None
    colours: Mapping[str, str]
    legend: Mapping[str, str]

    @classmethod
    def of(cls, memory: Memory, inventory: Inventory | None) -> Layout:
        """Of a stable memory, with what was found in it."""
        size_bytes = memory.size() * WASM_PAGE_BYTES
        if inventory is None:
            return cls.plain(size_bytes)
        legends = {one.label: one_line(legend(one)) for one in inventory.structures}
        return cls(size_bytes, occupancy(inventory), Owners(memory, inventory), colours_of(inventory), legends)

    @classmethod
    def plain(cls, size_bytes: int) -> Layout:
        """Of a memory in which nothing is told apart: a heap."""
        return cls(size_bytes, [Span(0, size_bytes, "", "used")] if size_bytes else [], None, {}, {})

    def owner(self, page: int) -> Owner:
        """Whose a page is."""
        return OTHER if self.owners is None else self.owners.owner(page)
