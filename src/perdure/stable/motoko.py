"""What Motoko leaves in stable memory, as far as it can be recognised: named, not read.

`MotokoStableBTree` 1.0.0 writes the crate's layouts with big-endian integers. Motoko's region manager keeps two tables
in the first megabyte: which region owns each block, and how large each region is.
"""

from __future__ import annotations

from perdure.errors import MalformedError
from perdure.memory import WASM_PAGE_BYTES, Memory
from perdure.stable.access import read_exact
from perdure.stable.headers import ManagerHeader, MapHeader
from perdure.stable.layout import (
    FIRST_CHUNK_ADDRESS,
    FIRST_REGION,
    MAX_BUCKETS,
    MAX_REGION_BLOCKS,
    MAX_REGIONS,
    OWNERS_END,
    REGION_BLOCK_WASM_PAGES,
    REGION_ENTRY,
    REGION_HEADER,
    REGION_OWNER,
    REGION_OWNERS_ADDRESS,
    REGION_TABLE_ADDRESS,
    UNALLOCATED,
)

__all__ = ["count_regions", "read_manager", "read_map"]


def read_manager(memory: Memory) -> ManagerHeader | None:
    """The manager at address 0 as MotokoStableBTree writes it; ``None`` where that makes no sense."""
    if memory.size() * WASM_PAGE_BYTES < OWNERS_END:
        return None
    try:
        header = ManagerHeader.unpack(memory.read(0, OWNERS_END), ">")
    except MalformedError:
        return None
    if header.version != 1:
        return None
    # It sets the owners of 255 buckets to 255 at first, and leaves zeros behind those.
    owners = header.owners[: header.allocated_buckets].ljust(MAX_BUCKETS, bytes([UNALLOCATED]))
    header = ManagerHeader(1, header.allocated_buckets, header.bucket_wasm_pages, header.wasm_pages, owners)
    return None if any(header.faults(memory.size())) else header


def read_map(memory: Memory) -> MapHeader | None:
    """The map at address 0 as MotokoStableBTree writes it; ``None`` unless that alone makes sense."""
    data = read_exact(memory, 0, FIRST_CHUNK_ADDRESS, "map header")
    header = MapHeader.decode_big_endian(data, memory.size() * WASM_PAGE_BYTES)
    return header if header is not None and header.root < memory.size() * WASM_PAGE_BYTES else None


def count_regions(memory: Memory) -> int | None:
    """How many regions the tables of the region manager hold, where those agree with each other throughout."""
    if memory.size() == 0:
        return None
    blocks, regions = REGION_HEADER.unpack(memory.read(0, REGION_HEADER.size))
    has_room = (blocks + 1) * REGION_BLOCK_WASM_PAGES <= memory.size()
    if not blocks or not FIRST_REGION <= regions < MAX_REGIONS or blocks > MAX_REGION_BLOCKS or not has_room:
        return None
    table = memory.read(REGION_OWNERS_ADDRESS, REGION_OWNER.size * blocks)
    owners = [region for region, _ in REGION_OWNER.iter_unpack(table)]
    sizes = memory.read(REGION_TABLE_ADDRESS, REGION_ENTRY.size * regions)
    for region, (wasm_pages_plus_one,) in enumerate(REGION_ENTRY.iter_unpack(sizes), 1):
        if owners.count(region) != -(-max(0, wasm_pages_plus_one - 1) // REGION_BLOCK_WASM_PAGES):
            return None
    return int(regions)
