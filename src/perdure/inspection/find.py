"""Finds every structure in a stable memory, unaided.

A memory manager says where the virtual memories are, and the magic at the start of each says what is in it. Without
one, the first bytes of each Wasm page are looked at. Whatever is not recognised for certain is `unknown`.

| magic | kind | | magic | kind |
|---|---|---|---|---|
| ``BTR`` | btreemap, btreeset | | ``SCL`` | cell |
| ``SVC`` | vec | | ``GLI``, ``GLD`` | log: index and data, in two memories |
| ``SMH`` | minheap | | ``MGR`` | the manager itself |

SQLite databases are found too, wherever in an otherwise unknown memory they begin; `inspection.sqlite` opens them.
Named but not read: the big-endian twins of MotokoStableBTree, the regions of Motoko.
Layouts and magics: ic-stable-structures 0.7.2; ``rts/motoko-rts/src/region.rs`` of dfinity/motoko for the regions.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from typing import Final

from perdure.errors import MalformedError, PerdureError, UnsupportedError
from perdure.inspection.inventory import Inventory, Manager, Structure
from perdure.inspection.shape import Width, map_shape
from perdure.inspection.source import Extent, Source
from perdure.memory import WASM_PAGE_BYTES, Memory, check_memory
from perdure.stable import motoko
from perdure.stable.headers import (
    ArrayHeader,
    CellHeader,
    LogHeader,
    ManagerHeader,
    MapHeader,
    check_log_mark,
    magic_of,
)
from perdure.stable.layout import (
    CELL_MAGIC,
    HEAP_MAGIC,
    INTERNET_IDENTITY_MAGIC,
    LOG_DATA_ADDRESS,
    LOG_DATA_MAGIC,
    LOG_INDEX_MAGIC,
    MANAGER_MAGIC,
    MAP_MAGIC,
    SQLITE_FIRST_PAGE,
    SQLITE_HEADER,
    SQLITE_JOURNAL_MAGICS,
    SQLITE_MAGIC,
    STRUCTURE_MAGICS,
    VEC_MAGIC,
)
from perdure.stable.region import Region, Run
from perdure.stable.sqlite import SqliteHeader
from perdure.values.schema import KINDS, MemorySchema, Schema

__all__ = ["KINDS", "Inventory", "Manager", "Structure", "find", "find_in_memory", "name_structures"]

MAX_SCANNED_PAGES: Final = 4096
"""Wasm pages whose first bytes are looked at where no manager is at page 0."""

MAX_SEARCHED_BYTES: Final = 64 << 20
"""Of a memory that nothing else is known of, in which a database is looked for at any address."""

_SEARCHED_AT_ONCE: Final = 1 << 20
_JOURNAL_HEAD_BYTES: Final = 128 << 10

KIND_OF_MAGIC: Final = {
    MAP_MAGIC: "btreemap",
    VEC_MAGIC: "vec",
    HEAP_MAGIC: "minheap",
    CELL_MAGIC: "cell",
    LOG_INDEX_MAGIC: "log-index",
    LOG_DATA_MAGIC: "log-data",
}
"""What a memory is likely to hold, by its first bytes, whatever becomes of the rest."""


Labels = Container[str] | None


def find(source: Source, log_data: Mapping[str, int] | None = None) -> Inventory:
    """The inventory of an opened source; see `find_in_memory`."""
    inventory = find_in_memory(source.memory, source.extents, log_data)
    structures = tuple(replace(structure, labels=source.labels) for structure in inventory.structures)
    return replace(
        inventory, label=source.label, layers=source.layers, structures=structures, variables=source.variables
    )


def find_in_memory(
    memory: Memory, extents: list[Extent] | None = None, log_data: Mapping[str, int] | None = None, only: Labels = None
) -> Inventory:
    """The inventory of a memory, a live one perhaps. Never raises on what the bytes say.

    Args:
        memory: the stable memory.
        extents: where it may differ from zero; everywhere, if not said.
        log_data: ids of the data memories of logs, by the label of their index, where somebody knows.
        only: labels of a memory manager's memories; the others are left out.
    """
    check_memory(memory)
    extents = [(0, memory.size() * WASM_PAGE_BYTES)] if extents is None else extents
    manager = _manager_at(memory, 0)
    if manager is None and magic_of(memory) not in STRUCTURE_MAGICS:
        manager = _manager_elsewhere(memory, extents)
    if manager is None:
        structures = _without_manager(memory, extents)
        return Inventory("memory", memory, extents, (), tuple(structures))
    found = [*_before_manager(memory, manager, extents), *_managed(memory, manager, extents, only)]
    return Inventory("memory", memory, extents, (manager,), tuple(_pair_logs(found, log_data or {})))


_BEGINNINGS: Final = (*STRUCTURE_MAGICS, SQLITE_MAGIC)


def searched_bytes(memory: Memory) -> int:
    """How much of a memory that nothing else is known of is searched: less where each byte comes over a network."""
    found = getattr(memory, "searched_bytes", MAX_SEARCHED_BYTES)
    assert isinstance(found, int)
    return found


def _head(memory: Memory, address: int, size_bytes: int) -> bytes:
    try:
        return memory.read(address, size_bytes)
    except IndexError:
        return b""


def _manager_at(memory: Memory, wasm_page: int) -> Manager | None:
    """The manager that starts at a page, also a damaged one."""
    if _head(memory, wasm_page * WASM_PAGE_BYTES, len(MANAGER_MAGIC)) != MANAGER_MAGIC:
        return None
    window = Region.whole(memory, wasm_page * WASM_PAGE_BYTES)
    try:
        header = ManagerHeader.read(window)
    except UnsupportedError:
        return _motoko_manager(window, wasm_page)
    except PerdureError:
        return None
    trouble = _trouble(header, window.size())
    found = _motoko_manager(window, wasm_page) if trouble else None
    return found or Manager(wasm_page, header, trouble)


def _trouble(header: ManagerHeader, wasm_pages: int) -> str:
    try:
        header.check(wasm_pages)
    except MalformedError as error:
        return str(error)
    return ""


def _motoko_manager(window: Region, wasm_page: int) -> Manager | None:
    header = motoko.read_manager(window)
    return None if header is None else Manager(wasm_page, header, is_motoko=True)


def _manager_elsewhere(memory: Memory, extents: list[Extent]) -> Manager | None:
    """A sound manager behind a canister's own pages, as in Internet Identity (page 1)."""
    for wasm_page in _page_starts(extents):
        manager = _manager_at(memory, wasm_page) if wasm_page else None
        if manager is not None and not manager.trouble and manager.header.allocated_buckets:
            return manager
    return None


def _page_starts(extents: list[Extent]) -> list[int]:
    """Wasm pages whose first bytes may differ from zero, ascending, at most `MAX_SCANNED_PAGES`."""
    pages: list[int] = []
    for start, end in extents:
        first = -(-start // WASM_PAGE_BYTES)
        pages.extend(range(first, min(-(-end // WASM_PAGE_BYTES), first + MAX_SCANNED_PAGES - len(pages))))
        if len(pages) >= MAX_SCANNED_PAGES:
            break
    return pages


def _before_manager(memory: Memory, manager: Manager, extents: list[Extent]) -> list[Structure]:
    region = Region(memory, [Run(0, manager.address)] if manager.wasm_page else [])
    return [_identify("page:0", region, None, extents, region.size_bytes)] if manager.wasm_page else []


def _managed(memory: Memory, manager: Manager, extents: list[Extent], only: Container[str] | None) -> list[Structure]:
    structures = []
    for memory_id, wasm_pages in enumerate(manager.header.wasm_pages):
        if wasm_pages == 0 or (only is not None and str(memory_id) not in only):
            continue
        runs = manager.runs(memory_id)
        region, size_bytes = Region(memory, runs, wasm_pages * WASM_PAGE_BYTES), len(runs) * manager.header.bucket_bytes
        structures.append(_identify(str(memory_id), region, memory_id, extents, size_bytes))
    return structures


def _without_manager(memory: Memory, extents: list[Extent]) -> list[Structure]:
    """Structures directly in the memory: at address 0, or in windows of pages (`RestrictedMemory`)."""
    size_bytes = memory.size() * WASM_PAGE_BYTES
    if size_bytes == 0:
        return []
    whole = Region.whole(memory)
    first = _identify("page:0", whole, None, extents, size_bytes)
    if first.kind.startswith("motoko"):
        return [first]
    found = [first]
    occupied = max(WASM_PAGE_BYTES, first.address + (first.used_bytes or 0))
    for wasm_page in _page_starts(extents):
        address = wasm_page * WASM_PAGE_BYTES
        if address < occupied or not _head(memory, address, len(SQLITE_MAGIC)).startswith(_BEGINNINGS):
            continue
        region = Region.whole(memory, address)
        structure = _identify(f"page:{wasm_page}", region, None, extents, region.size_bytes)
        if structure.kind != "unknown":
            found.append(structure)
            occupied = address + (structure.used_bytes or 0)
    return _pair_logs(_cut_windows(found, size_bytes), {})


def _cut_windows(found: list[Structure], size_bytes: int) -> list[Structure]:
    """Each structure's memory up to the start of the next."""
    starts = [structure.address for structure in found] + [size_bytes]
    cut = []
    for structure, start, end in zip(found, starts, starts[1:], strict=False):
        region = Region(structure.region.below, [Run(start, end - start)])
        cut.append(replace(structure, region=region, allocated_bytes=region.size_bytes))
    return cut


# Structures


def _identify(
    label: str, region: Region, memory_id: int | None, extents: list[Extent], allocated_bytes: int
) -> Structure:
    """What a memory holds, by its first bytes."""
    structure = Structure(label, "unknown", region, memory_id, allocated_bytes=allocated_bytes)
    head = _head(region, 0, len(SQLITE_MAGIC))
    if head == SQLITE_MAGIC:
        try:
            return _database(structure, SqliteHeader.read(region))
        except MalformedError as error:
            return replace(structure, note=f"starts like an SQLite database: {error}")
    reader = _READERS.get(magic_of(region))
    if reader is not None:
        try:
            return reader(structure)
        except (MalformedError, UnsupportedError) as error:
            return replace(structure, note=f"starts like {magic_of(region).decode()}: {error}")
    return _unrecognised(structure, head, extents)


def _unrecognised(structure: Structure, head: bytes, extents: list[Extent]) -> Structure:
    if head.startswith(MANAGER_MAGIC):
        return replace(structure, note="a memory manager within a memory, or of an unknown version")
    regions = motoko.count_regions(structure.region)
    if regions is not None:
        return replace(structure, kind="motoko-regions", version=2, entries=regions)
    if _is_blank(structure.region, extents):
        return replace(structure, kind="empty", entries=0, used_bytes=0)
    inside = _database_inside(structure, extents)
    if inside is not None:
        return inside
    note = f"starts with {head[:8].hex(' ')}"
    if head.startswith(INTERNET_IDENTITY_MAGIC):
        note = "the header of Internet Identity"
    return replace(structure, note=note)


def _database(structure: Structure, header: SqliteHeader, offset: int = 0) -> Structure:
    """A database that begins at `offset` of the memory."""
    region = structure.region.part(offset) if offset else structure.region
    used_bytes = header.file_bytes(region.size_bytes)
    note = f"{used_bytes // header.page_bytes} pages of {header.page_bytes} bytes"
    if header.is_wal:
        note += "; in WAL mode: what its log may have held is not here"
    if offset:
        note += f"; from byte {offset} of its memory on"
    return replace(
        structure,
        kind="sqlite",
        region=region,
        used_bytes=header.file_bytes(region.size_bytes),
        note=note,
        offset=offset,
    )


def _database_inside(structure: Structure, extents: list[Extent]) -> Structure | None:
    """The first database in a memory that begins with something else, such as a library's own page."""
    region = structure.region
    end = min(region.size_bytes, searched_bytes(region.below))
    for start in range(0, end, _SEARCHED_AT_ONCE):
        piece = region.read(start, min(_SEARCHED_AT_ONCE + SQLITE_HEADER.size, region.size_bytes - start, end - start))
        at = piece.find(SQLITE_MAGIC)
        while at >= 0:
            try:
                header = SqliteHeader.read(region, start + at)
                if not _is_in_journal(region, start + at):
                    return _database(structure, header, start + at)
            except MalformedError:
                pass
            at = piece.find(SQLITE_MAGIC, at + 1)
    return None


def _is_in_journal(region: Region, address: int) -> bool:
    """Whether what looks like a database is the first page of one in a journal or log, where a file system keeps it.

    A record of a journal is a page's number and the page, from a whole sector on; a journal that has done its work
    begins with zeros.
    """
    start = max(0, address - _JOURNAL_HEAD_BYTES)
    before = region.read(start, address - start)
    is_record = address % 8 != 0 and before.endswith(SQLITE_FIRST_PAGE)
    return is_record or any(magic in before for magic in SQLITE_JOURNAL_MAGICS)


def _is_blank(region: Region, extents: list[Extent]) -> bool:
    """Whether no byte can differ from zero: looks at the first Wasm page of each run, trusts holes for the rest."""
    ends = [end for _, end in extents]
    for run in region.runs:
        index = bisect_left(ends, run.address + 1)
        if index == len(extents) or extents[index][0] >= run.address + run.size_bytes:
            continue
        for start in range(run.address, run.address + run.size_bytes, WASM_PAGE_BYTES):
            if any(region.below.read(start, WASM_PAGE_BYTES)):
                return False
            if start - run.address >= min(16 * WASM_PAGE_BYTES, searched_bytes(region.below) - WASM_PAGE_BYTES):
                return False
    return True


_NO_WIDTH: Final = "key width not certain: declare the key in stable.yaml"
_PERHAPS_SET: Final = "values are empty: perhaps a set"
"""Doubts, which end where somebody has declared it."""


def _read_map(structure: Structure) -> Structure:
    region = structure.region
    foreign = motoko.read_map(region)
    if foreign is not None:
        return _motoko_map(structure, foreign)
    header = MapHeader.read(region)
    shape = map_shape(region, header)
    is_set = shape.value.max_bytes == 0 and shape.key.max_bytes is not None
    note = ""
    if shape.node_versions == {1, 2}:
        note = "migrated from version 1: nodes of both versions"
    elif shape.node_versions == {2} and header.version == 1:
        note = "migrated from version 1"
    elif header.length and not shape.is_readable:
        note = _NO_WIDTH
    elif shape.value.seen == (0, 0) and not is_set:
        note = _PERHAPS_SET
    return replace(
        structure,
        kind="btreeset" if is_set else "btreemap",
        version=header.version,
        entries=header.length,
        key=shape.key,
        value=shape.value,
        used_bytes=header.allocator.used_bytes,
        note=note,
        shape=shape,
    )


def _motoko_map(structure: Structure, header: MapHeader) -> Structure:
    slots = header.slots
    return replace(
        structure,
        kind="motoko-btreemap",
        version=header.version,
        entries=header.length,
        key=Width(slots.key_bytes, None) if slots else None,
        value=Width(slots.value_bytes, None) if slots else None,
        used_bytes=header.allocator.used_bytes,
        note="MotokoStableBTree: the crate's magic, big-endian; named, not read",
    )


def _read_array(structure: Structure) -> Structure:
    header = ArrayHeader.read(structure.region, magic_of(structure.region))
    return replace(
        structure,
        kind=KIND_OF_MAGIC[header.magic],
        version=header.version,
        entries=header.length,
        value=Width(header.max_size, header.is_fixed),
        # The memory ends with what is written, which may be within the last slot.
        used_bytes=min(header.used_bytes, structure.region.size_bytes),
    )


def _read_cell(structure: Structure) -> Structure:
    header = CellHeader.read(structure.region)
    value = Width(None, False, seen=(header.length, header.length))
    return replace(structure, kind="cell", version=1, entries=1, value=value, used_bytes=header.used_bytes)


def _read_log_index(structure: Structure) -> Structure:
    header = LogHeader.read(structure.region)
    note = "the index of a log; its data is in another memory"
    return replace(
        structure, kind="log-index", version=1, entries=header.length, used_bytes=header.index_bytes, note=note
    )


def _read_log_data(structure: Structure) -> Structure:
    check_log_mark(structure.region, LOG_DATA_MAGIC)
    return replace(structure, kind="log-data", version=1, note="the data of a log; its index is in another memory")


_READERS: Final[dict[bytes, Callable[[Structure], Structure]]] = {
    MAP_MAGIC: _read_map,
    VEC_MAGIC: _read_array,
    HEAP_MAGIC: _read_array,
    CELL_MAGIC: _read_cell,
    LOG_INDEX_MAGIC: _read_log_index,
    LOG_DATA_MAGIC: _read_log_data,
}


# Logs


def _pair_logs(found: list[Structure], log_data: Mapping[str, int]) -> list[Structure]:
    """Join index and data of each log, where it is certain which belong together, or nothing else is likelier."""
    indexes = [structure for structure in found if structure.kind == "log-index"]
    free = [structure for structure in found if structure.kind == "log-data"]
    pairs: dict[str, tuple[Structure, str]] = {}
    for index in indexes:
        told = [data for data in free if data.memory_id == log_data.get(index.label, -1)]
        alone = free if len(indexes) == len(free) == 1 else []
        candidates = told or _candidates(index, free) or alone
        if candidates:
            chosen = candidates[0]
            free.remove(chosen)
            pairs[index.label] = (chosen, "" if len(candidates) == 1 else "data paired by size and nearness")
    taken = {data.label for data, _ in pairs.values()}
    return [
        _joined(structure, *pairs[structure.label]) if structure.label in pairs else structure
        for structure in found
        if structure.label not in taken
    ]


def _candidates(index: Structure, free: list[Structure]) -> list[Structure]:
    """Data memories that can hold the entries of `index`, likeliest first: exact size, then nearest id."""
    data_bytes = LogHeader.read(index.region).data_bytes
    needed = max(1, -(-(LOG_DATA_ADDRESS + data_bytes) // WASM_PAGE_BYTES))
    fitting = [data for data in free if data_bytes >= 0 and data.region.size() >= needed]
    exact = [data for data in fitting if data.region.size() == needed]
    at = index.memory_id if index.memory_id is not None else 0

    def distance(data: Structure) -> tuple[bool, int]:
        away = (data.memory_id or 0) - at
        return away < 0, abs(away)

    return sorted(exact or fitting, key=distance)


def _joined(index: Structure, data: Structure, note: str) -> Structure:
    header = LogHeader.read(index.region)
    return replace(
        index,
        kind="log",
        value=Width(None, False),
        used_bytes=header.index_bytes + header.used_data_bytes,
        allocated_bytes=index.allocated_bytes + data.allocated_bytes,
        note=note,
        data=data.region,
        data_memory_id=data.memory_id,
    )


def name_structures(inventory: Inventory, schema: Schema | None) -> Inventory:
    """The inventory with the names of the schema, and without doubts that it settles."""
    if schema is None:
        return inventory
    named = [_named(structure, schema.of(structure.label)) for structure in inventory.structures]
    return replace(inventory, structures=tuple(named))


def _named(structure: Structure, declared: MemorySchema) -> Structure:
    is_settled = {_NO_WIDTH: declared.key is not None, _PERHAPS_SET: declared.value is not None}
    is_known = bool(declared.about) and structure.note in is_settled
    note = "" if is_known or is_settled.get(structure.note) else structure.note
    return replace(structure, name=declared.name, note="; ".join(filter(None, (declared.about, note))))
