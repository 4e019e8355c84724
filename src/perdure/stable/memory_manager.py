"""Many memories in one: the crate's MemoryManager, layout V1 ("MGR").

```
address  size
      0     3  magic "MGR"
      3     1  layout version = 1
      4     2  buckets allocated, u16
      6     2  bucket size N in Wasm pages, u16 (128 by default, 1024 before crate 0.4.0)
      8    32  reserved, written as zeros
     40  2040  size in Wasm pages of memory 0 .. 254, u64 each
   2080 32768  owner of bucket 0 .. 32767: a memory id, or 255 for none
  34848        unused
  65536        bucket 0, then bucket 1 ..., N Wasm pages each
```

Integers are little-endian. The buckets of a memory are taken in ascending order of their index; the order is not stored
anywhere else, which is why ``reclaim_memory`` of crate 0.7.1 could shuffle a memory on reload. Its holes (an owner of
255 below the number of allocated buckets) are read; 0.7.2 and this module leave them alone.

Spec: ``src/memory_manager.rs`` of ic-stable-structures 0.7.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, final

from perdure.memory import WASM_PAGE_BYTES, Memory, check_range
from perdure.stable.access import GrowFailedError, RestrictedMemory, is_blank, require_blank, view_or_none
from perdure.stable.headers import ManagerHeader
from perdure.stable.layout import MAX_BUCKETS, MAX_MEMORIES, OWNERS_ADDRESS, U64, UNALLOCATED, size_address

__all__ = ["MAX_BUCKETS", "MAX_MEMORIES", "Bucket", "ManagerHeader", "MemoryManager", "VirtualMemory"]

DEFAULT_BUCKET_WASM_PAGES: Final = 128


@final
@dataclass(frozen=True)
class Bucket:
    """One bucket.

    Attributes:
        index: its place in the owner table.
        memory_id: its owner; ``None`` for a hole, which only crate 0.7.1 leaves behind.
        address: where its bytes start in the memory below the manager.
    """

    index: int
    memory_id: int | None
    address: int


@final
class MemoryManager:
    """Hands out up to 255 virtual memories over one. `load` reads what is there, `create` begins anew.

    Several managers over one memory, one of them perhaps inside a running canister, see each other's growth: nothing is
    kept here that the header does not say anew.

    >>> from perdure.memory import BytesMemory
    >>> manager = MemoryManager.create(BytesMemory(), bucket_wasm_pages=1)
    >>> manager.get(7).grow(2)
    0
    >>> [(bucket.index, bucket.memory_id) for bucket in manager.buckets()]
    [(0, 7), (1, 7)]
    """

    def __init__(self, memory: Memory, header: ManagerHeader) -> None:
        """Use `load`, `create` or `init`."""
        self.memory = memory
        self._header = header

    @classmethod
    def load(cls, memory: Memory, *, base_wasm_page: int = 0) -> MemoryManager:
        """The manager that is there.

        Args:
            memory: the memory below.
            base_wasm_page: where the manager starts; 1 in Internet Identity, whose own header fills page 0.

        Raises:
            MalformedError: none is there, or it contradicts itself.
            UnsupportedError: another layout version.
        """
        window = RestrictedMemory(memory, base_wasm_page) if base_wasm_page else memory
        header = ManagerHeader.read(window)
        header.check(window.size())
        return cls(window, header)

    @classmethod
    def create(
        cls, memory: Memory, *, bucket_wasm_pages: int = DEFAULT_BUCKET_WASM_PAGES, overwrite: bool = False
    ) -> MemoryManager:
        """A new manager.

        Raises:
            ValueError: the memory holds something and `overwrite` was not said, or the bucket size is no u16 above 0.
            GrowFailedError: the memory cannot take the first page.
        """
        if not 0 < bucket_wasm_pages <= 0xFFFF:
            raise ValueError(f"a bucket has 1 to 65535 Wasm pages, found {bucket_wasm_pages}")
        if not overwrite:
            require_blank(memory, "memory manager")
        if memory.size() == 0 and memory.grow(1) == -1:
            raise GrowFailedError(0, 1)
        header = ManagerHeader(1, 0, bucket_wasm_pages, (0,) * MAX_MEMORIES, b"\xff" * MAX_BUCKETS)
        manager = cls(memory, header)
        manager._save_header()
        memory.write(OWNERS_ADDRESS, header.owners)
        return manager

    @classmethod
    def init(cls, memory: Memory, *, bucket_wasm_pages: int = DEFAULT_BUCKET_WASM_PAGES) -> MemoryManager:
        """`load` what is there, or `create` on a blank memory. The crate's ``init`` overwrites foreign bytes."""
        return cls.create(memory, bucket_wasm_pages=bucket_wasm_pages) if is_blank(memory) else cls.load(memory)

    @property
    def header(self) -> ManagerHeader:
        """The header as it is now."""
        return ManagerHeader.read(self.memory)

    @property
    def bucket_wasm_pages(self) -> int:
        """Wasm pages of a bucket."""
        return self._header.bucket_wasm_pages

    def get(self, memory_id: int) -> VirtualMemory:
        """The memory `memory_id`, 0 to 254; empty if it was never used.

        Two structures on one id corrupt each other, here as in Rust: each handle is the same memory.
        """
        if not 0 <= memory_id < MAX_MEMORIES:
            raise ValueError(f"a memory id is 0 to {MAX_MEMORIES - 1}, found {memory_id}")
        return VirtualMemory(self, memory_id)

    def memory_ids(self) -> list[int]:
        """The ids of the memories that have pages, ascending."""
        return [memory_id for memory_id, wasm_pages in enumerate(self.header.wasm_pages) if wasm_pages]

    def memories(self) -> Iterator[tuple[int, VirtualMemory]]:
        """Each memory that has pages, with its id."""
        return ((memory_id, self.get(memory_id)) for memory_id in self.memory_ids())

    def buckets(self) -> list[Bucket]:
        """The allocated buckets by index, holes included."""
        header = self.header
        return [
            Bucket(index, None if owner == UNALLOCATED else owner, header.bucket_address(index))
            for index, owner in enumerate(header.owners[: header.allocated_buckets])
        ]

    def _wasm_pages(self, memory_id: int) -> int:
        return int.from_bytes(self.memory.read(size_address(memory_id), U64.size), "little")

    def _bucket_addresses(self, memory_id: int) -> list[int]:
        """Where the buckets of a memory start, in the order of its own addresses."""
        self._header = header = self.header
        header.check(self.memory.size())
        return [header.bucket_address(index) for index in header.buckets_of(memory_id)]

    def _grow(self, memory_id: int, wasm_pages: int) -> int:
        """Grow a memory as the crate does, but refuse with -1, nothing changed, where the memory below cannot."""
        self._header = header = self.header
        old = header.wasm_pages[memory_id]
        new = old + wasm_pages
        bucket_wasm_pages = header.bucket_wasm_pages
        needed = -(-new // bucket_wasm_pages) - -(-old // bucket_wasm_pages)
        allocated = header.allocated_buckets + needed
        if wasm_pages < 0 or allocated > MAX_BUCKETS:
            return -1
        missing = 1 + allocated * bucket_wasm_pages - self.memory.size()
        if missing > 0 and self.memory.grow(missing) == -1:
            return -1
        if needed:
            self.memory.write(OWNERS_ADDRESS + header.allocated_buckets, bytes([memory_id]) * needed)
        sizes = (*header.wasm_pages[:memory_id], new, *header.wasm_pages[memory_id + 1 :])
        self._header = ManagerHeader(1, allocated, bucket_wasm_pages, sizes, header.owners)
        self._save_header()
        return old

    def _save_header(self) -> None:
        self.memory.write(0, self._header.encode())


@final
class VirtualMemory:
    """One memory of a `MemoryManager`, itself a memory. Get it by `MemoryManager.get`."""

    def __init__(self, manager: MemoryManager, memory_id: int) -> None:
        self.manager = manager
        self.memory_id = memory_id
        self._below = manager.memory
        self._bucket_bytes = manager.bucket_wasm_pages * WASM_PAGE_BYTES
        self._starts: list[int] = []
        self._size_bytes = 0
        self._first_start = self._first_end = 0  # of the first buckets that follow one another: mostly all of them

    def __repr__(self) -> str:
        return f"VirtualMemory({self.memory_id}, {self.size()} Wasm pages)"

    def size(self) -> int:
        """Size in Wasm pages."""
        return self.manager._wasm_pages(self.memory_id)

    def grow(self, wasm_pages: int) -> int:
        """Grow, taking new buckets as needed; the old size, or -1 when buckets or the memory below run out."""
        return self.manager._grow(self.memory_id, wasm_pages)

    def read(self, address: int, size_bytes: int) -> bytes:
        """A copy of `size_bytes` bytes from `address`, across buckets where it must be."""
        end = address + size_bytes
        if address >= 0 and end <= self._first_end:
            return self._below.read(self._first_start + address, size_bytes)
        bucket, offset = divmod(address, self._bucket_bytes)
        if offset + size_bytes <= self._bucket_bytes and 0 <= address < end <= self._size_bytes:
            return self._below.read(self._starts[bucket] + offset, size_bytes)
        self._check(address, size_bytes)
        return b"".join(self._below.read(start, size) for start, size in self._runs(address, size_bytes))

    def view(self, address: int, size_bytes: int) -> memoryview:
        """The bytes themselves where they lie in one piece below and the memory there can show them; else a copy."""
        self._check(address, size_bytes)
        runs = list(self._runs(address, size_bytes))
        if len(runs) == 1:
            found = view_or_none(self._below, *runs[0])
            if found is not None:
                return found
        return memoryview(self.read(address, size_bytes))

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Write `data` at `address`, across buckets where it must be."""
        end = address + len(data)
        if address >= 0 and end <= self._first_end:
            self._below.write(self._first_start + address, data)
            return
        bucket, offset = divmod(address, self._bucket_bytes)
        if offset + len(data) <= self._bucket_bytes and 0 <= address < end <= self._size_bytes:
            self._below.write(self._starts[bucket] + offset, data)
            return
        self._check(address, len(data))
        done, view = 0, memoryview(data)
        for start, size in self._runs(address, len(data)):
            self._below.write(start, view[done : done + size])
            done += size

    def is_contiguous(self) -> bool:
        """Whether the buckets of this memory follow one another below, so that a view can show it whole."""
        return len(list(self._runs(0, self.size() * WASM_PAGE_BYTES))) <= 1

    def _check(self, address: int, size_bytes: int) -> None:
        """Raise `IndexError` out of range, after a fresh look at a memory that may have grown meanwhile."""
        if not 0 <= address <= address + size_bytes <= self._size_bytes:
            size_bytes_now = self.size() * WASM_PAGE_BYTES
            check_range(address, size_bytes, size_bytes_now)
            self._starts = self.manager._bucket_addresses(self.memory_id)
            self._bucket_bytes = self.manager.bucket_wasm_pages * WASM_PAGE_BYTES
            self._size_bytes = size_bytes_now
            self._first_start, self._first_end = next(self._runs(0, size_bytes_now), (0, 0))

    def _runs(self, address: int, size_bytes: int) -> Iterator[tuple[int, int]]:
        """The pieces of the memory below that hold a range, neighbouring buckets joined: (address, bytes)."""
        self._check(address, size_bytes)
        end, bucket_bytes, run_start, run_bytes = address + size_bytes, self._bucket_bytes, -1, 0
        while address < end:
            bucket, offset = divmod(address, bucket_bytes)
            piece_bytes = min(bucket_bytes - offset, end - address)
            start = self._starts[bucket] + offset
            if run_start + run_bytes == start and run_bytes:
                run_bytes += piece_bytes
            else:
                if run_bytes:
                    yield run_start, run_bytes
                run_start, run_bytes = start, piece_bytes
            address += piece_bytes
        if run_bytes:
            yield run_start, run_bytes
