"""Finds every structure in a stable memory, unaided.

A memory manager says where the virtual memories are, and the magic at the start of each says what is in it. Without
one, the first bytes of each Wasm page are looked at. Whatever is not recognised for certain is `unknown`.

| magic | kind | | magic | kind |
|---|---|---|---|---|
| ``BTR`` | btreemap, btreeset | | ``SCL`` | cell |
| ``SVC`` | vec | | ``GLI``, ``GLD`` | log: index and data, in two memories |
| ``SMH`` | minheap | | ``MGR`` | the manager itself |

Named but not read: the big-endian twins of MotokoStableBTree, the regions of Motoko, SQLite databases.
Layouts and magics: ic-stable-structures 0.7.2; ``rts/motoko-rts/src/region.rs`` of dfinity/motoko for the regions.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, final

from perdure.errors import MalformedError, PerdureError, UnsupportedError
from perdure.inspection.region import Region, Run
from perdure.inspection.shape import MapShape, Width, map_shape
from perdure.inspection.source import Extent, Layer, Source
from perdure.memory import WASM_PAGE_BYTES, Memory
from perdure.stable.btree import MapHeader
from perdure.stable.chunks import FIRST_CHUNK_ADDRESS
from perdure.stable.memory_manager import ManagerHeader

__all__ = ["Inventory", "Manager", "Structure", "find", "find_in_memory"]

KINDS: Final = ("btreemap", "btreeset", "vec", "minheap", "log", "cell")
"""Kinds whose entries can be read."""

MAX_SCANNED_PAGES: Final = 4096
"""Wasm pages whose first bytes are looked at where no manager is at page 0."""

VEC_HEADER: Final = struct.Struct("<3sBQIB")
VEC_DATA_ADDRESS: Final = 64
LOG_INDEX_ADDRESS: Final = 40
LOG_DATA_ADDRESS: Final = 32
_MAGICS: Final = (b"BTR", b"SVC", b"SMH", b"SCL", b"GLI", b"GLD")
_REGION_BLOCK_WASM_PAGES: Final = 128
_REGION_TABLE_ADDRESS: Final = 4 + 4 * 32_768


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
        first, bucket_bytes = self.address + WASM_PAGE_BYTES, self.header.bucket_bytes
        owners = self.header.owners[: self.header.allocated_buckets]
        runs, index = [], owners.find(memory_id)
        while index >= 0:
            runs.append(Run(first + index * bucket_bytes, bucket_bytes))
            index = owners.find(memory_id, index + 1)
        return runs


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
    """

    label: str
    memory: Memory = field(repr=False)
    extents: list[Extent] = field(repr=False)
    managers: tuple[Manager, ...]
    structures: tuple[Structure, ...]
    layers: tuple[Layer, ...] = field(default=(), repr=False)

    def structure(self, name: str) -> Structure:
        """The structure called `name`: a memory id, a label, or a name from the schema.

        Raises:
            UnsupportedError: there is none.
        """
        for structure in self.structures:
            if name in (structure.name, structure.label, "memory_" + structure.label.replace(":", "_")):
                return structure
        known = ", ".join(structure.name or structure.label for structure in self.structures) or "none"
        raise UnsupportedError(f"no structure {name!r} here, found {known}")


def find(source: Source, log_data: Mapping[str, int] | None = None) -> Inventory:
    """The inventory of an opened source; see `find_in_memory`."""
    inventory = find_in_memory(source.memory, source.extents, log_data)
    return replace(inventory, label=source.label, layers=source.layers)


def find_in_memory(
    memory: Memory, extents: list[Extent] | None = None, log_data: Mapping[str, int] | None = None
) -> Inventory:
    """The inventory of a memory, a live one perhaps. Never raises on what the bytes say.

    Args:
        memory: the stable memory.
        extents: where it may differ from zero; everywhere, if not said.
        log_data: ids of the data memories of logs, by the label of their index, where somebody knows.
    """
    if extents is None:
        extents = [(0, memory.size() * WASM_PAGE_BYTES)]
    manager = _manager_at(memory, 0)
    if manager is None and _head(memory, 0)[:3] not in _MAGICS:
        manager = _manager_elsewhere(memory, extents)
    if manager is None:
        structures = _without_manager(memory, extents)
        return Inventory("memory", memory, extents, (), tuple(structures))
    found = [*_before_manager(memory, manager, extents), *_managed(memory, manager, extents)]
    return Inventory("memory", memory, extents, (manager,), tuple(_pair_logs(found, log_data or {})))


# Managers


def _head(memory: Memory, address: int, size_bytes: int = 4) -> bytes:
    try:
        return memory.read(address, size_bytes)
    except IndexError:
        return b""


def _manager_at(memory: Memory, wasm_page: int) -> Manager | None:
    """The manager that starts at a page, also a damaged one."""
    if _head(memory, wasm_page * WASM_PAGE_BYTES) != b"MGR\x01":
        return None
    window = Region.whole(memory, wasm_page * WASM_PAGE_BYTES)
    try:
        header = ManagerHeader.read(window)
    except UnsupportedError:
        return _motoko_manager(window, wasm_page)
    except PerdureError:
        return None
    motoko = _motoko_manager(window, wasm_page)
    trouble = _trouble(header, window.size())
    return motoko if motoko is not None and trouble else Manager(wasm_page, header, trouble)


def _trouble(header: ManagerHeader, wasm_pages: int) -> str:
    try:
        header.check(wasm_pages)
    except MalformedError as error:
        return str(error)
    return ""


def _motoko_manager(window: Region, wasm_page: int) -> Manager | None:
    """The manager read as MotokoStableBTree 1.0.0 writes it: big-endian, 255 owner bytes set to 255 at first."""
    data = _head(window, 0, 2080 + 32_768)
    if len(data) < 2080 + 32_768:
        return None
    allocated, bucket_wasm_pages = struct.unpack_from(">HH", data, 4)
    owners = data[2080 : 2080 + allocated].ljust(32_768, b"\xff")
    header = ManagerHeader(1, allocated, bucket_wasm_pages, struct.unpack_from(">255Q", data, 40), owners)
    return Manager(wasm_page, header, is_motoko=True) if not _trouble(header, window.size()) else None


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
    if manager.wasm_page == 0:
        return []
    region = Region(memory, [Run(0, manager.address)])
    return [_identify("page:0", region, None, extents, region.size_bytes)]


def _managed(memory: Memory, manager: Manager, extents: list[Extent]) -> list[Structure]:
    structures = []
    for memory_id, wasm_pages in enumerate(manager.header.wasm_pages):
        if wasm_pages == 0:
            continue
        runs = manager.runs(memory_id)
        region = Region(memory, runs, wasm_pages * WASM_PAGE_BYTES)
        allocated_bytes = len(runs) * manager.header.bucket_bytes
        structures.append(_identify(str(memory_id), region, memory_id, extents, allocated_bytes))
    return structures


def _without_manager(memory: Memory, extents: list[Extent]) -> list[Structure]:
    """Structures directly in the memory: at address 0, or in windows of pages (`RestrictedMemory`)."""
    size_bytes = memory.size() * WASM_PAGE_BYTES
    if size_bytes == 0:
        return []
    whole = Region.whole(memory)
    first = _identify("page:0", whole, None, extents, size_bytes)
    if first.kind.startswith("motoko") or first.kind == "sqlite":
        return [first]
    found = [first]
    occupied = first.used_bytes or WASM_PAGE_BYTES
    for wasm_page in _page_starts(extents):
        address = wasm_page * WASM_PAGE_BYTES
        if address < occupied or _head(memory, address)[:3] not in _MAGICS:
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
    head = _head(region, 0, 16)
    readers = {
        b"BTR": _read_map,
        b"SVC": _read_vec,
        b"SMH": _read_vec,
        b"SCL": _read_cell,
        b"GLI": _read_log_index,
        b"GLD": _read_log_data,
    }
    reader = readers.get(head[:3])
    if reader is not None:
        try:
            return reader(structure)
        except (MalformedError, UnsupportedError, IndexError) as error:
            return replace(structure, note=f"starts like {head[:3].decode()}: {error}")
    return _unrecognised(structure, head, extents)


def _unrecognised(structure: Structure, head: bytes, extents: list[Extent]) -> Structure:
    if head == b"SQLite format 3\x00":
        return replace(structure, kind="sqlite", note="an SQLite database")
    if head[:3] == b"MGR":
        return replace(structure, note="a memory manager within a memory, or of an unknown version")
    regions = _motoko_regions(structure.region)
    if regions is not None:
        return replace(structure, kind="motoko-regions", version=2, entries=regions)
    if _is_blank(structure.region, extents):
        return replace(structure, kind="empty", entries=0, used_bytes=0)
    note = f"starts with {head[:8].hex(' ')}"
    if head[:3] == b"IIC":
        note = "the header of Internet Identity"
    return replace(structure, note=note)


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
            if start - run.address >= 16 * WASM_PAGE_BYTES:
                return False
    return True


def _read_map(structure: Structure) -> Structure:
    region = structure.region
    motoko = _motoko_map(structure)
    if motoko is not None:
        return motoko
    header = MapHeader.read(region)
    shape = map_shape(region, header)
    used_bytes = FIRST_CHUNK_ADDRESS + header.allocator.allocated_chunks * header.allocator.stride
    is_set = shape.value.max_bytes == 0 and shape.key.max_bytes is not None
    note = ""
    if shape.node_versions == {1, 2}:
        note = "migrated from version 1: nodes of both versions"
    elif shape.node_versions == {2} and header.version == 1:
        note = "migrated from version 1"
    elif header.length and not shape.is_readable:
        note = "key width not certain: declare the key in stable.yaml"
    elif shape.value.seen == (0, 0) and not is_set:
        note = "values are empty: perhaps a set"
    return replace(
        structure,
        kind="btreeset" if is_set else "btreemap",
        version=header.version,
        entries=header.length,
        key=shape.key,
        value=shape.value,
        used_bytes=used_bytes,
        note=note,
        shape=shape,
    )


def _motoko_map(structure: Structure) -> Structure | None:
    """The map read as MotokoStableBTree writes it, where only that makes sense."""
    data = structure.region.read(0, FIRST_CHUNK_ADDRESS)
    if data[3] != 1 or data[52:56] != b"BTA\x01":
        return None
    (little_bytes,), (big_bytes,) = (struct.unpack_from(order + "Q", data, 60) for order in "<>")
    key_bytes, value_bytes, root, entries = struct.unpack_from(">IIQQ", data, 4)
    size_bytes = structure.region.size_bytes
    if not little_bytes > size_bytes >= big_bytes or root >= size_bytes:
        return None
    (chunks,) = struct.unpack_from(">Q", data, 68)
    return replace(
        structure,
        kind="motoko-btreemap",
        version=1,
        entries=entries,
        key=Width(key_bytes, None),
        value=Width(value_bytes, None),
        used_bytes=FIRST_CHUNK_ADDRESS + chunks * (big_bytes + 16),
        note="MotokoStableBTree: the crate's magic, big-endian; named, not read",
    )


def _motoko_regions(region: Region) -> int | None:
    """How many regions the tables of Motoko's region manager hold, where those agree with each other throughout."""
    head = _head(region, 0, 4)
    blocks, regions = struct.unpack("<HH", head) if len(head) == 4 else (0, 0)
    if not 16 <= regions < 32_767 or blocks > 32_768 or (blocks + 1) * _REGION_BLOCK_WASM_PAGES > region.size():
        return None
    owners = struct.unpack(f"<{2 * blocks}H", region.read(4, 4 * blocks))[::2]
    table = region.read(_REGION_TABLE_ADDRESS, 12 * regions)
    for index in range(regions):
        (wasm_pages_plus_one,) = struct.unpack_from("<Q", table, 12 * index)
        expected = -(-max(0, wasm_pages_plus_one - 1) // _REGION_BLOCK_WASM_PAGES)
        if owners.count(index + 1) != expected:
            return None
    return regions if blocks else None


def _read_vec(structure: Structure) -> Structure:
    data = structure.region.read(0, VEC_HEADER.size)
    magic, version, entries, max_bytes, is_fixed = VEC_HEADER.unpack(data)
    if version != 1 or is_fixed > 1:
        raise UnsupportedError(f"version {version} with fixed flag {is_fixed}, expected 1 and 0 or 1")
    return replace(
        structure,
        kind="vec" if magic == b"SVC" else "minheap",
        version=version,
        entries=entries,
        value=Width(max_bytes, bool(is_fixed)),
        used_bytes=VEC_DATA_ADDRESS + entries * slot_bytes(max_bytes, bool(is_fixed)),
    )


def slot_bytes(max_bytes: int, is_fixed: bool) -> int:
    """Bytes of a slot of a vec or heap: the element, preceded by its length unless it is fixed."""
    return max_bytes if is_fixed else max_bytes + (1 if max_bytes <= 0xFF else 2 if max_bytes <= 0xFFFF else 4)


def _read_cell(structure: Structure) -> Structure:
    data = structure.region.read(0, 8)
    if data[3] != 1:
        raise UnsupportedError(f"cell version {data[3]}, expected 1")
    size_bytes = int.from_bytes(data[4:8], "little")
    seen = (size_bytes, size_bytes)
    return replace(
        structure, kind="cell", version=1, entries=1, value=Width(None, False, seen=seen), used_bytes=8 + size_bytes
    )


def _read_log_index(structure: Structure) -> Structure:
    data = structure.region.read(0, LOG_INDEX_ADDRESS)
    if data[3] != 1:
        raise UnsupportedError(f"log index version {data[3]}, expected 1")
    entries = int.from_bytes(data[32:40], "little")
    used_bytes = LOG_INDEX_ADDRESS + 8 * entries
    note = "the index of a log; its data is in another memory"
    return replace(structure, kind="log-index", version=1, entries=entries, used_bytes=used_bytes, note=note)


def _read_log_data(structure: Structure) -> Structure:
    version = structure.region.read(0, 4)[3]
    if version != 1:
        raise UnsupportedError(f"log data version {version}, expected 1")
    return replace(structure, kind="log-data", version=1, note="the data of a log; its index is in another memory")


# Logs


def log_data_bytes(index: Region, entries: int) -> int:
    """Bytes of a log's entries together, from the last field of its index; -1 where the index does not reach."""
    if entries == 0:
        return 0
    try:
        return int.from_bytes(index.read(LOG_INDEX_ADDRESS + 8 * (entries - 1), 8), "little")
    except IndexError:
        return -1


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
    data_bytes = log_data_bytes(index.region, index.entries or 0)
    needed = max(1, -(-(LOG_DATA_ADDRESS + data_bytes) // WASM_PAGE_BYTES))
    fitting = [data for data in free if data_bytes >= 0 and data.region.size() >= needed]
    exact = [data for data in fitting if data.region.size() == needed]
    at = index.memory_id if index.memory_id is not None else 0

    def distance(data: Structure) -> tuple[bool, int]:
        away = (data.memory_id or 0) - at
        return away < 0, abs(away)

    return sorted(exact or fitting, key=distance)


def _joined(index: Structure, data: Structure, note: str) -> Structure:
    entries = index.entries or 0
    data_bytes = log_data_bytes(index.region, entries)
    return replace(
        index,
        kind="log",
        value=Width(None, False),
        used_bytes=LOG_INDEX_ADDRESS + 8 * entries + LOG_DATA_ADDRESS + data_bytes,
        allocated_bytes=index.allocated_bytes + data.allocated_bytes,
        note=note,
        data=data.region,
        data_memory_id=data.memory_id,
    )
