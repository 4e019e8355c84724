"""Headers of the structures: decoded (it is one, or `MalformedError`, `UnsupportedError`), then checked.

A check is against the header itself and the size of its memory. What it finds is data, a `Fault`: who opens a structure
raises the first (`check`), fsck lists them all (`faults`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, final

from perdure.errors import MalformedError, UnsupportedError
from perdure.memory import WASM_PAGE_BYTES, Memory
from perdure.stable.access import read_exact
from perdure.stable.layout import (
    ALLOCATED_CHUNKS_ADDRESS,
    ALLOCATOR_ADDRESS,
    ALLOCATOR_HEADERS,
    ALLOCATOR_MAGIC,
    ALLOCATOR_RESERVED,
    ARRAY_HEADER,
    ARRAY_LENGTH_ADDRESS,
    CAPACITY,
    CELL_HEADER,
    CELL_LENGTH_ADDRESS,
    CELL_MAGIC,
    CELL_VALUE_ADDRESS,
    CHUNK_BYTES_ADDRESS,
    CHUNK_HEADER_BYTES,
    FIRST_BODY_ADDRESS,
    FIRST_BUCKET_ADDRESS,
    FIRST_CHUNK_ADDRESS,
    FIXED_FLAG_ADDRESS,
    LENGTH_ADDRESS,
    LOG_COUNT_ADDRESS,
    LOG_DATA_ADDRESS,
    LOG_DATA_MAGIC,
    LOG_HEADER,
    LOG_INDEX_MAGIC,
    MANAGER_ALLOCATED_ADDRESS,
    MANAGER_BUCKET_SIZE_ADDRESS,
    MANAGER_HEADERS,
    MANAGER_MAGIC,
    MAP_HEADERS,
    MAP_MAGIC,
    MAP_RESERVED,
    MAX_BUCKETS,
    MIN_PAGE_BYTES,
    OWNERS_ADDRESS,
    OWNERS_END,
    PAGE_SIZE_ADDRESS,
    PAGE_SIZE_MARKER,
    ROOT_ADDRESS,
    SLOTS_ADDRESS,
    U64,
    UNALLOCATED,
    V1Slots,
    end_address,
    max_node_bytes,
    size_address,
)

__all__ = [
    "AllocatorHeader",
    "ArrayHeader",
    "CellHeader",
    "Fault",
    "LogHeader",
    "ManagerHeader",
    "MapHeader",
    "check_log_mark",
    "magic_of",
    "map_reserved",
    "raise_first",
]


class Fault(NamedTuple):
    """What is wrong with a header.

    Attributes:
        code: as `perdure.inspection` calls that kind of damage.
        message: what was found, what was expected.
        address: of the field.
    """

    code: str
    message: str
    address: int


def raise_first(faults: Iterable[Fault]) -> None:
    """Raise the first fault, if there is one, as `MalformedError`."""
    for fault in faults:
        raise MalformedError(fault.message, fault.address)


def magic_of(memory: Memory) -> bytes:
    """The first three bytes; fewer, or none, of a memory without any."""
    return memory.read(0, 3) if memory.size() else b""


def _expect_magic(found: bytes, expected: bytes) -> None:
    if found != expected:
        raise MalformedError(f"bad magic {found!r}, expected {expected!r}", 0)


@final
@dataclass(frozen=True)
class ManagerHeader:
    """What the header says, unchecked.

    Attributes:
        version: layout version, 1.
        allocated_buckets: buckets handed out so far.
        bucket_wasm_pages: Wasm pages of a bucket.
        wasm_pages: size of each of the 255 memories.
        owners: the owner table, one byte a bucket.
    """

    version: int
    allocated_buckets: int
    bucket_wasm_pages: int
    wasm_pages: tuple[int, ...]
    owners: bytes

    @classmethod
    def read(cls, memory: Memory) -> ManagerHeader:
        """The header at address 0.

        Raises:
            MalformedError: no "MGR" there, or the memory is too short.
            UnsupportedError: a layout version other than 1 (a V2 was drafted, never released), or a Motoko one.
        """
        data = read_exact(memory, 0, OWNERS_END, "memory manager header")
        header = cls.unpack(data)
        if header.version != 1:
            raise UnsupportedError(f"memory manager layout version {header.version}, expected 1")
        # Only as a big-endian number does the count of buckets fit the table of their owners.
        owned = MAX_BUCKETS - header.owners.count(UNALLOCATED)
        swapped = int.from_bytes(header.allocated_buckets.to_bytes(2, "little"), "big")
        if owned == swapped != header.allocated_buckets:
            raise UnsupportedError("a memory manager of MotokoStableBTree: the crate's magic, all integers big-endian")
        return header

    @classmethod
    def unpack(cls, data: bytes, order: str = "<") -> ManagerHeader:
        """The fields in the bytes up to `OWNERS_END`, little-endian or, for Motoko's, big (``>``)."""
        magic, version, allocated, bucket_wasm_pages, *wasm_pages = MANAGER_HEADERS[order].unpack_from(data)
        _expect_magic(magic, MANAGER_MAGIC)
        return cls(version, allocated, bucket_wasm_pages, tuple(wasm_pages), data[OWNERS_ADDRESS:])

    def encode(self) -> bytes:
        """Everything before the owner table."""
        return MANAGER_HEADERS["<"].pack(
            MANAGER_MAGIC, 1, self.allocated_buckets, self.bucket_wasm_pages, *self.wasm_pages
        )

    @property
    def bucket_bytes(self) -> int:
        """Bytes of a bucket."""
        return self.bucket_wasm_pages * WASM_PAGE_BYTES

    def bucket_address(self, index: int) -> int:
        """Where a bucket starts, counted from the manager."""
        return FIRST_BUCKET_ADDRESS + index * self.bucket_bytes

    def buckets_of(self, memory_id: int) -> Iterator[int]:
        """Indexes of a memory's buckets, in the order of its own addresses."""
        end = self.allocated_buckets
        index = self.owners.find(memory_id, 0, end)
        while index >= 0:
            yield index
            index = self.owners.find(memory_id, index + 1, end)

    def faults(self, memory_wasm_pages: int) -> Iterator[Fault]:
        """Where the header contradicts itself, or the memory of `memory_wasm_pages`."""
        allocated, per_bucket = self.allocated_buckets, self.bucket_wasm_pages
        if per_bucket == 0:
            message = "bucket size 0, expected at least 1 Wasm page"
            yield Fault("manager-bucket-size", message, MANAGER_BUCKET_SIZE_ADDRESS)
        if allocated > MAX_BUCKETS:
            message = f"{allocated} buckets allocated, expected at most {MAX_BUCKETS}"
            yield Fault("manager-bucket-count", message, MANAGER_ALLOCATED_ADDRESS)
        beyond = self.owners[allocated:]
        for index, owner in enumerate(beyond if beyond.strip(b"\xff") else b"", allocated):
            if owner != UNALLOCATED:
                message = f"bucket {index} is owned by memory {owner}, only {allocated} are allocated"
                yield Fault("manager-owner-beyond", message, OWNERS_ADDRESS + index)
        if 1 + allocated * per_bucket > memory_wasm_pages:
            message = f"{allocated} buckets of {per_bucket} Wasm pages do not fit into {memory_wasm_pages}"
            yield Fault("manager-truncated", message, MANAGER_ALLOCATED_ADDRESS)
        for memory_id, wasm_pages in enumerate(self.wasm_pages):
            owned = self.owners.count(memory_id, 0, allocated) if wasm_pages else 0
            if wasm_pages > owned * per_bucket:
                message = f"memory {memory_id} has {wasm_pages} Wasm pages but owns {owned} buckets of {per_bucket}"
                yield Fault("manager-memory-size", message, size_address(memory_id))

    def check(self, memory_wasm_pages: int) -> None:
        """Raise `MalformedError` where the header contradicts itself or the memory of `memory_wasm_pages`."""
        raise_first(self.faults(memory_wasm_pages))


@final
@dataclass(frozen=True)
class AllocatorHeader:
    """What the header says.

    Attributes:
        chunk_bytes: bytes of a chunk's body, the page size of the map's nodes.
        allocated_chunks: chunks in use.
        free_head: address of the first free chunk's header.
    """

    chunk_bytes: int
    allocated_chunks: int
    free_head: int

    @classmethod
    def decode(cls, data: bytes, order: str = "<") -> AllocatorHeader:
        """The header in `data`, unchecked beyond magic and version.

        Raises:
            MalformedError: wrong magic or version.
        """
        magic, version, chunk_bytes, allocated_chunks, free_head = ALLOCATOR_HEADERS[order].unpack(data)
        if magic != ALLOCATOR_MAGIC:
            raise MalformedError(f"bad magic {magic!r}, expected {ALLOCATOR_MAGIC!r}", ALLOCATOR_ADDRESS)
        if version != 1:
            raise MalformedError(f"allocator version {version}, expected 1", ALLOCATOR_ADDRESS + len(magic))
        return cls(chunk_bytes, allocated_chunks, free_head)

    def encode(self) -> bytes:
        """The 48 bytes at address 52."""
        return ALLOCATOR_HEADERS["<"].pack(ALLOCATOR_MAGIC, 1, self.chunk_bytes, self.allocated_chunks, self.free_head)

    @property
    def stride(self) -> int:
        """Bytes from one chunk to the next."""
        return self.chunk_bytes + CHUNK_HEADER_BYTES

    @property
    def used_bytes(self) -> int:
        """Bytes of a map with so many chunks, its header included."""
        return FIRST_CHUNK_ADDRESS + self.allocated_chunks * self.stride

    def capacity(self, memory: Memory) -> int:
        """Chunks for which the memory has room: a bound on any honest walk."""
        return max(0, memory.size() * WASM_PAGE_BYTES - FIRST_CHUNK_ADDRESS) // self.stride

    def is_body(self, address: int) -> bool:
        """Whether a chunk's body can be at `address`."""
        offset = address - FIRST_BODY_ADDRESS
        return offset >= 0 and offset % self.stride == 0


@final
@dataclass(frozen=True)
class MapHeader:
    """What the header of a map or set says.

    Attributes:
        version: as stored, 1 also for a migrated map.
        slots: maximum key and value sizes where they are stored, else ``None``.
        page_bytes: bytes of a node page.
        root: address of the root node, 0 for an empty map.
        length: number of entries.
        allocator: the allocator's header.
    """

    version: int
    slots: V1Slots | None
    page_bytes: int
    root: int
    length: int
    allocator: AllocatorHeader

    @classmethod
    def read(cls, memory: Memory) -> MapHeader:
        """The header at address 0, checked against nothing but itself.

        Raises:
            MalformedError: no map there.
            UnsupportedError: a version that no released crate reads, or the big-endian one of MotokoStableBTree.
        """
        return cls.decode(read_exact(memory, 0, FIRST_CHUNK_ADDRESS, "map header"), memory.size() * WASM_PAGE_BYTES)

    @classmethod
    def decode(cls, data: bytes, memory_bytes: int) -> MapHeader:
        """The header in the first 100 bytes of a memory of `memory_bytes`; raises as `read`."""
        magic, version, first, second, root, length = MAP_HEADERS["<"].unpack_from(data)
        _expect_magic(magic, MAP_MAGIC)
        if version not in (1, 2):
            raise UnsupportedError(f"map version {version}, expected 1 or 2")
        if cls.decode_big_endian(data, memory_bytes) is not None:
            raise UnsupportedError("a map of MotokoStableBTree: the crate's magic, but all integers big-endian")
        allocator = AllocatorHeader.decode(data[ALLOCATOR_ADDRESS:FIRST_CHUNK_ADDRESS])
        if version == 2 and second == PAGE_SIZE_MARKER:
            return cls(version, None, first, root, length, allocator)
        if version == 2 and second == 0:
            raise UnsupportedError("a map of crate 0.6.0-beta.0 or beta.1, which no release reads")
        return cls(version, V1Slots(first, second), max_node_bytes(first, second), root, length, allocator)

    @classmethod
    def decode_big_endian(cls, data: bytes, memory_bytes: int) -> MapHeader | None:
        """The header as MotokoStableBTree writes it; ``None`` unless that alone makes sense."""
        chunk_bytes = data[CHUNK_BYTES_ADDRESS:ALLOCATED_CHUNKS_ADDRESS]
        if int.from_bytes(chunk_bytes, "little") <= memory_bytes:  # every operation on a map comes here: cheap first
            return None
        magic, version, first, second, root, length = MAP_HEADERS[">"].unpack_from(data)
        swapped = int.from_bytes(chunk_bytes, "big")
        if magic != MAP_MAGIC or not memory_bytes >= swapped == max_node_bytes(first, second):
            return None
        allocator = AllocatorHeader.decode(data[ALLOCATOR_ADDRESS:FIRST_CHUNK_ADDRESS], ">")
        return cls(version, V1Slots(first, second), swapped, root, length, allocator)

    def encode(self) -> bytes:
        """The first 28 bytes."""
        first, second = self.page_bytes, PAGE_SIZE_MARKER
        if self.slots is not None:
            first, second = self.slots.key_bytes, self.slots.value_bytes
        return MAP_HEADERS["<"].pack(MAP_MAGIC, self.version, first, second, self.root, self.length)

    def faults(self, memory: Memory) -> Iterator[Fault]:
        """Where the header contradicts itself or the size of the memory."""
        memory_bytes, allocator = memory.size() * WASM_PAGE_BYTES, self.allocator
        if self.page_bytes < MIN_PAGE_BYTES:
            message = f"page size {self.page_bytes}, expected at least {MIN_PAGE_BYTES}"
            yield Fault("map-page-size", message, PAGE_SIZE_ADDRESS)
        if self.root and self.page_bytes > memory_bytes:
            message = f"pages of {self.page_bytes} bytes in a memory of {memory_bytes}"
            yield Fault("map-page-size", message, PAGE_SIZE_ADDRESS)
        if allocator.chunk_bytes != self.page_bytes:
            message = f"chunks of {allocator.chunk_bytes} bytes, expected the page size {self.page_bytes}"
            yield Fault("allocator-header", message, CHUNK_BYTES_ADDRESS)
        capacity = memory_bytes // allocator.stride
        if allocator.allocated_chunks > capacity:
            message = f"{allocator.allocated_chunks} chunks allocated, the memory has room for {capacity}"
            yield Fault("chunk-count", message, ALLOCATED_CHUNKS_ADDRESS)
        if self.length > CAPACITY * allocator.allocated_chunks:
            yield Fault("entry-count", f"{self.length} entries in {allocator.allocated_chunks} chunks", LENGTH_ADDRESS)
        if self.root >= memory_bytes:
            message = f"root address {self.root:#x} in a memory of {memory.size():#x} Wasm pages"
            yield Fault("node-address", message, ROOT_ADDRESS)
        if (self.root == 0) != (self.length == 0):
            message = f"{self.length} entries with the root at address {self.root:#x}"
            yield Fault("root-length", message, ROOT_ADDRESS)

    def check(self, memory: Memory) -> None:
        """Raise `MalformedError` where the header contradicts itself or the size of the memory."""
        raise_first(self.faults(memory))


def map_reserved(memory: Memory) -> bytes:
    """The bytes of a map's header that no crate ever writes."""
    data = read_exact(memory, 0, FIRST_CHUNK_ADDRESS, "map header")
    return data[MAP_RESERVED] + data[ALLOCATOR_RESERVED]


@final
@dataclass(frozen=True)
class ArrayHeader:
    """What the header of a Vec or MinHeap says.

    Attributes:
        magic: ``b"SVC"`` or ``b"SMH"``.
        version: 1.
        length: number of elements.
        max_size: most bytes of an element.
        is_fixed: whether every element has that many.
    """

    magic: bytes
    version: int
    length: int
    max_size: int
    is_fixed: bool

    @classmethod
    def read(cls, memory: Memory, magic: bytes) -> ArrayHeader:
        """The header at address 0, checked against nothing but itself.

        Raises:
            MalformedError: another magic, or a flag that is none.
            UnsupportedError: another version.
        """
        found, version, length, max_size, fixed = ARRAY_HEADER.unpack(
            read_exact(memory, 0, ARRAY_HEADER.size, "header")
        )
        _expect_magic(found, magic)
        if version != 1:
            raise UnsupportedError(f"{magic.decode()} version {version}, expected 1")
        if fixed > 1:
            raise MalformedError(f"fixed-size flag {fixed}, expected 0 or 1", FIXED_FLAG_ADDRESS)
        return cls(found, version, length, max_size, bool(fixed))

    def encode(self) -> bytes:
        """The first 17 bytes."""
        return ARRAY_HEADER.pack(self.magic, 1, self.length, self.max_size, self.is_fixed)

    @property
    def length_bytes(self) -> int:
        """Bytes of the length in front of an element."""
        if self.is_fixed:
            return 0
        if self.max_size <= 0xFF:
            return 1
        return 2 if self.max_size <= 0xFFFF else 4

    @property
    def slot_bytes(self) -> int:
        """Bytes of a slot."""
        return self.max_size + self.length_bytes

    @property
    def used_bytes(self) -> int:
        """Bytes up to the end of the last slot."""
        return self.slot_address(self.length)

    def slot_address(self, index: int) -> int:
        """Where a slot starts."""
        return SLOTS_ADDRESS + index * self.slot_bytes

    def slots_in(self, start: int, end: int) -> range:
        """The slots that the bytes from `start` up to `end` are part of, as far as there are any."""
        size = max(1, self.slot_bytes)
        first, last = (max(0, address - SLOTS_ADDRESS) // size for address in (start, end))
        return range(first, min(self.length, last + 1))

    def faults(self, memory: Memory) -> Iterator[Fault]:
        """Whether the last slot does not begin inside the memory."""
        begin = self.slot_address(max(0, self.length - 1))
        size_bytes = memory.size() * WASM_PAGE_BYTES
        # Slots of no bytes fit in any number; more than the memory has bytes are refused all the same.
        if (self.length and begin + self.length_bytes > size_bytes) or self.length > size_bytes:
            message = f"{self.length} slots of {self.slot_bytes} bytes do not fit into {memory.size():#x} Wasm pages"
            yield Fault("array-truncated", message, ARRAY_LENGTH_ADDRESS)

    def check(self, memory: Memory) -> None:
        """Raise `MalformedError` where the last slot does not begin inside the memory."""
        raise_first(self.faults(memory))


@final
@dataclass(frozen=True)
class CellHeader:
    """What the header says: `length` bytes of value."""

    length: int

    @classmethod
    def read(cls, memory: Memory) -> CellHeader:
        """The header at address 0, checked against nothing but itself.

        Raises:
            MalformedError: another magic.
            UnsupportedError: another version.
        """
        magic, version, length = CELL_HEADER.unpack(read_exact(memory, 0, CELL_HEADER.size, "cell header"))
        _expect_magic(magic, CELL_MAGIC)
        if version != 1:
            raise UnsupportedError(f"cell version {version}, expected 1")
        return cls(length)

    def encode(self) -> bytes:
        """The first 8 bytes."""
        return CELL_HEADER.pack(CELL_MAGIC, 1, self.length)

    @property
    def used_bytes(self) -> int:
        """Bytes up to the end of the value."""
        return CELL_VALUE_ADDRESS + self.length

    def faults(self, memory: Memory) -> Iterator[Fault]:
        """Whether the value does not fit the memory."""
        if self.used_bytes > memory.size() * WASM_PAGE_BYTES:
            message = f"a value of {self.length} bytes in a memory of {memory.size():#x} Wasm pages"
            yield Fault("cell-truncated", message, CELL_LENGTH_ADDRESS)

    def check(self, memory: Memory) -> None:
        """Raise `MalformedError` where the value does not fit the memory."""
        raise_first(self.faults(memory))


def check_log_mark(memory: Memory, magic: bytes) -> None:
    """Raise `MalformedError` or `UnsupportedError` where a memory does not begin as half a log of this version."""
    found, version = LOG_HEADER.unpack(read_exact(memory, 0, LOG_HEADER.size, "log header"))
    _expect_magic(found, magic)
    if version != 1:
        raise UnsupportedError(f"{magic.decode()} version {version}, expected 1")


@final
@dataclass(frozen=True)
class LogHeader:
    """What the index memory says.

    Attributes:
        length: number of entries.
        data_bytes: bytes of all entries; -1 where the index does not reach to where that stands.
    """

    length: int
    data_bytes: int

    @classmethod
    def read(cls, index: Memory, data: Memory | None = None) -> LogHeader:
        """The header of an index memory; where `data` is given, its mark and both sizes are checked too.

        Raises:
            MalformedError: another magic, or entries that do not fit.
            UnsupportedError: another version.
        """
        header = cls._read_index(index)
        if data is not None:
            check_log_mark(data, LOG_DATA_MAGIC)
            raise_first(header.index_faults(index))
            raise_first(header.data_faults(data))
        return header

    @classmethod
    def _read_index(cls, index: Memory) -> LogHeader:
        check_log_mark(index, LOG_INDEX_MAGIC)
        (length,) = U64.unpack(read_exact(index, LOG_COUNT_ADDRESS, U64.size, "log index"))
        if length == 0:
            return cls(0, 0)
        if end_address(length) > index.size() * WASM_PAGE_BYTES:
            return cls(length, -1)
        (data_bytes,) = U64.unpack(index.read(end_address(length - 1), U64.size))
        return cls(length, data_bytes)

    @property
    def index_bytes(self) -> int:
        """Bytes in use of the index memory."""
        return end_address(self.length)

    @property
    def used_data_bytes(self) -> int:
        """Bytes in use of the data memory."""
        return LOG_DATA_ADDRESS + self.data_bytes

    def index_faults(self, index: Memory) -> Iterator[Fault]:
        """Whether the index does not fit its memory."""
        if self.index_bytes > index.size() * WASM_PAGE_BYTES:
            message = f"{self.length} entries do not fit into an index of {index.size():#x} Wasm pages"
            yield Fault("log-index-truncated", message, LOG_COUNT_ADDRESS)

    def data_faults(self, data: Memory) -> Iterator[Fault]:
        """Whether the entries do not fit the data memory; the address is that of the field in the index."""
        if self.used_data_bytes > data.size() * WASM_PAGE_BYTES:
            message = f"{self.data_bytes} bytes of entries do not fit into {data.size():#x} Wasm pages"
            yield Fault("log-data-truncated", message, end_address(self.length - 1))
