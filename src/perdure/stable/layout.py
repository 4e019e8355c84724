"""Where everything lies: the offsets, marks and fixed shapes of every structure, and nothing that reads.

No other module knows an offset (a test looks). `headers` reads headers; how the bytes of a node are taken apart is
known to `nodes` (one at a time) and `bulk` (many at once) alone; all take every number from here. The drawings are in
the modules that read and write a structure: `memory_manager`, `btree`, `chunks`, `nodes`, `slots`, `cell`, `log`; and
in ``docs/formats.md``.

Spec: ic-stable-structures 0.7.2; MotokoStableBTree 1.0.0 writes the same layouts big-endian, hence headers by order.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, final

from perdure.memory import WASM_PAGE_BYTES

U16: Final = struct.Struct("<H")
U32: Final = struct.Struct("<I")
U64: Final = struct.Struct("<Q")


# -- the memory manager

MANAGER_MAGIC: Final = b"MGR"
MAX_MEMORIES: Final = 255
MAX_BUCKETS: Final = 32_768
UNALLOCATED: Final = 255
"""Owner of a bucket that belongs to no memory."""

MANAGER_ALLOCATED_ADDRESS: Final = 4
MANAGER_BUCKET_SIZE_ADDRESS: Final = 6
MANAGER_RESERVED_ADDRESS: Final = 8
MANAGER_RESERVED_BYTES: Final = 32
SIZES_ADDRESS: Final = 40
OWNERS_ADDRESS: Final = 2080
OWNERS_END: Final = OWNERS_ADDRESS + MAX_BUCKETS
FIRST_BUCKET_ADDRESS: Final = WASM_PAGE_BYTES
MANAGER_HEADERS: Final = {order: struct.Struct(f"{order}3sBHH32x{MAX_MEMORIES}Q") for order in "<>"}


def size_address(memory_id: int) -> int:
    """Where the size of a virtual memory stands."""
    return SIZES_ADDRESS + U64.size * memory_id


# -- chunks

ALLOCATOR_ADDRESS: Final = 52
ALLOCATOR_MAGIC: Final = b"BTA"
CHUNK_BYTES_ADDRESS: Final = ALLOCATOR_ADDRESS + 8
ALLOCATED_CHUNKS_ADDRESS: Final = ALLOCATOR_ADDRESS + 16
FREE_HEAD_ADDRESS: Final = ALLOCATOR_ADDRESS + 24
FIRST_CHUNK_ADDRESS: Final = 100
CHUNK_HEADER_BYTES: Final = 16
FIRST_BODY_ADDRESS: Final = FIRST_CHUNK_ADDRESS + CHUNK_HEADER_BYTES
CHUNK_MAGIC: Final = b"CHK"
CHUNK_VERSION: Final = 1
CHUNK_HEADER: Final = struct.Struct("<3sBB3xQ")
"""Magic, version, allocated, next free."""

ALLOCATOR_HEADERS: Final = {order: struct.Struct(f"{order}3sB4xQQQ16x") for order in "<>"}


# -- maps and sets

MAP_MAGIC: Final = b"BTR"
VERSION_ADDRESS: Final = 3
PAGE_SIZE_ADDRESS: Final = 4
ROOT_ADDRESS: Final = 12
LENGTH_ADDRESS: Final = 20
MAP_RESERVED: Final = slice(28, ALLOCATOR_ADDRESS)
MAP_RESERVED_ADDRESS: Final = MAP_RESERVED.start
ALLOCATOR_RESERVED: Final = slice(84, FIRST_CHUNK_ADDRESS)
PAGE_SIZE_MARKER: Final = 0xFFFF_FFFF
MIN_PAGE_BYTES: Final = 128
DEFAULT_PAGE_BYTES: Final = 1024
MAX_DEPTH: Final = 32
"""Deeper than any tree of 2**64 entries with at least 6 children a node."""

ROOT_AND_LENGTH: Final = struct.Struct("<QQ")
"""What of a map's header changes."""
MAP_HEADERS: Final = {order: struct.Struct(f"{order}3sBIIQQ") for order in "<>"}
_U32_MASK: Final = 0xFFFF_FFFF

CAPACITY: Final = 11
"""Entries of a full node; the crate's minimum degree is 6."""

MIN_ENTRIES: Final = 6
"""Entries from which one can be taken away without rebalancing."""

NODE_MAGIC: Final = b"BTN"
NODE_HEADER: Final = struct.Struct("<3sBBH")
"""Magic, version, kind (0 leaf, 1 internal), entries; version 2 goes on with the link to the first overflow page."""

V2_HEADER: Final = struct.Struct("<3sBBHQ")
V2_HEADER_BYTES: Final = V2_HEADER.size
OVERFLOW_MAGIC: Final = b"NOF"
OVERFLOW_HEADER: Final = struct.Struct("<3sQ")
"""Magic, the next overflow page."""


@final
@dataclass(frozen=True)
class V1Slots:
    """The slot sizes of version 1 nodes: `key_bytes` is K, `value_bytes` is V."""

    key_bytes: int
    value_bytes: int

    @property
    def entry_bytes(self) -> int:
        """Bytes of an entry: both slots, each behind its length."""
        return 2 * U32.size + self.key_bytes + self.value_bytes


def max_node_bytes(key_bytes: int, value_bytes: int) -> int:
    """Bytes of the largest version 1 node: header, 11 slots, 12 children. Wraps as the crate's u32 does."""
    return (_EMPTY_NODE_BYTES + CAPACITY * (key_bytes + value_bytes)) & _U32_MASK


_EMPTY_NODE_BYTES: Final = NODE_HEADER.size + CAPACITY * V1Slots(0, 0).entry_bytes + (CAPACITY + 1) * U64.size


def packed_page_bytes(key_bytes: int, value_bytes: int) -> int:
    """The page size that the crate chooses for a version 2 map of bounded types."""
    return max_node_bytes(key_bytes, value_bytes) * 3 // 4


def bounds_sum(page_bytes: int) -> int | None:
    """K + V of a version 2 map with this page size; ``None`` where no bounded types give it."""
    if page_bytes == DEFAULT_PAGE_BYTES:
        return None
    for node_bytes in range(-(-4 * page_bytes // 3), -(-4 * (page_bytes + 1) // 3)):
        total, rest = divmod(node_bytes - _EMPTY_NODE_BYTES, CAPACITY)
        if rest == 0 and total >= 0:
            return total
    return None


# -- arrays

VEC_MAGIC: Final = b"SVC"
HEAP_MAGIC: Final = b"SMH"
ARRAY_LENGTH_ADDRESS: Final = 4
FIXED_FLAG_ADDRESS: Final = 16
SLOTS_ADDRESS: Final = 64
ARRAY_HEADER: Final = struct.Struct("<3sBQIB")


# -- cells

CELL_MAGIC: Final = b"SCL"
CELL_HEADER: Final = struct.Struct("<3sBI")
CELL_VALUE_ADDRESS: Final = CELL_HEADER.size
CELL_LENGTH_ADDRESS: Final = 4


# -- logs

LOG_INDEX_MAGIC: Final = b"GLI"
LOG_DATA_MAGIC: Final = b"GLD"
LOG_COUNT_ADDRESS: Final = 32
LOG_ENDS_ADDRESS: Final = 40
LOG_DATA_ADDRESS: Final = 32
LOG_HEADER: Final = struct.Struct("<3sB")


def end_address(index: int) -> int:
    """Where the end of entry `index` stands in the index memory; its start is the end before it."""
    return LOG_ENDS_ADDRESS + U64.size * index


def log_mark(magic: bytes) -> bytes:
    """The first 4 bytes of an index or data memory."""
    return LOG_HEADER.pack(magic, 1)


# -- Motoko's regions (rts/motoko-rts/src/region.rs of dfinity/motoko)

REGION_HEADER: Final = struct.Struct("<HH")
"""Blocks, regions."""

REGION_BLOCK_WASM_PAGES: Final = 128
MAX_REGION_BLOCKS: Final = 32_768
FIRST_REGION: Final = 16
MAX_REGIONS: Final = 32_767
REGION_OWNERS_ADDRESS: Final = REGION_HEADER.size
REGION_OWNER: Final = struct.Struct("<HH")
"""Region, rank of the block in it."""

REGION_TABLE_ADDRESS: Final = REGION_OWNERS_ADDRESS + REGION_OWNER.size * MAX_REGION_BLOCKS
REGION_ENTRY: Final = struct.Struct("<Q4x")
"""Wasm pages and one."""

# -- what else begins with a mark

SQLITE_MAGIC: Final = b"SQLite format 3\x00"
INTERNET_IDENTITY_MAGIC: Final = b"IIC"
STRUCTURE_MAGICS: Final = (MAP_MAGIC, VEC_MAGIC, HEAP_MAGIC, CELL_MAGIC, LOG_INDEX_MAGIC, LOG_DATA_MAGIC)

SQLITE_HEADER: Final = struct.Struct(">16sHBBB3B12I20sII")
"""The database file format of SQLite, 1.3: magic, page size, versions for writing and reading, bytes reserved in each
page, three fractions, change counter, pages, free pages (first, count), schema (cookie, format), cache size, largest
root, encoding, user version, vacuum mode, application id; unused; the counter that the number of pages is of, version
of the library."""
SQLITE_JOURNAL_MAGICS: Final = (b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7", b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
"""How a rollback journal and a write-ahead log begin."""

SQLITE_FIRST_PAGE: Final = b"\0\0\0\1"
"""The number of the first page, as a rollback journal has it before the page."""

SQLITE_COUNTER_ADDRESS: Final = 24
SQLITE_COUNTER_BYTES: Final = 8
"""Change counter and number of pages."""

SQLITE_VERSION_CHECK: Final = (24, 16)
"""Where SQLite looks, and how far, at the beginning of a transaction: has anybody written since the last one?"""

SQLITE_VERSIONS: Final = slice(18, 20)
