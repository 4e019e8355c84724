"""The chunk allocator below a BTreeMap: equal chunks, a free list, nothing ever given back.

```
address  size                                     offset  size
     52     3  magic "BTA"                             0     3  magic "CHK"
     55     1  version = 1                             3     1  version = 1
     56     4  zeros                                   4     1  allocated: 0 or 1
     60     8  bytes of a chunk's body                 5     3  zeros
     68     8  chunks allocated                        8     8  next free chunk header, 0 for none
     76     8  first free chunk: address of a header  16        body
     84    16  zeros
    100        chunk headers with their bodies, one stride (16 + body) apart
```

Integers are little-endian. The free list ends in the one header past the last chunk ever used; taking that one writes
the next header behind it, which is what grows the memory.

Spec: ``src/btreemap/allocator.rs`` of ic-stable-structures 0.7.2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, final

from perdure.errors import MalformedError
from perdure.memory import WASM_PAGE_BYTES, Memory
from perdure.stable.access import read_exact, write_growing

__all__ = [
    "ALLOCATOR_ADDRESS",
    "CHUNK_HEADER_BYTES",
    "FIRST_CHUNK_ADDRESS",
    "MAX_RUN_BYTES",
    "AllocatorHeader",
    "ChunkAllocator",
    "neighbours",
]

ALLOCATOR_ADDRESS: Final = 52
FIRST_CHUNK_ADDRESS: Final = 100
CHUNK_HEADER_BYTES: Final = 16

MAX_RUN_BYTES: Final = 1 << 20
"""At most so many bytes of neighbouring chunks are read or written at once."""

ALLOCATOR_HEADER: Final = struct.Struct("<3sB4xQQQ16x")
CHUNK_HEADER: Final = struct.Struct("<3sBB3xQ")
_ALLOCATOR_MAGIC: Final = b"BTA"
_CHUNK_MAGIC: Final = b"CHK"


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
    def decode(cls, data: bytes) -> AllocatorHeader:
        """The header in `data`, unchecked beyond magic and version.

        Raises:
            MalformedError: wrong magic or version.
        """
        magic, version, chunk_bytes, allocated_chunks, free_head = ALLOCATOR_HEADER.unpack(data)
        if magic != _ALLOCATOR_MAGIC:
            raise MalformedError(f"bad magic {magic!r}, expected {_ALLOCATOR_MAGIC!r}", ALLOCATOR_ADDRESS)
        if version != 1:
            raise MalformedError(f"allocator version {version}, expected 1", ALLOCATOR_ADDRESS + 3)
        return cls(chunk_bytes, allocated_chunks, free_head)

    def encode(self) -> bytes:
        """The 48 bytes at address 52."""
        return ALLOCATOR_HEADER.pack(_ALLOCATOR_MAGIC, 1, self.chunk_bytes, self.allocated_chunks, self.free_head)

    @property
    def stride(self) -> int:
        """Bytes from one chunk to the next."""
        return self.chunk_bytes + CHUNK_HEADER_BYTES


@final
class ChunkAllocator:
    """Allocates and frees chunks.

    Each operation of the map reads the header anew before (`header` is assigned to) and writes it after (`flush`).

    Addresses handed out and taken back are those of bodies, 16 bytes past the chunk's header.
    """

    def __init__(self, memory: Memory, header: AllocatorHeader) -> None:
        self.memory = memory
        self.header = header
        self.stride = header.stride

    @classmethod
    def create(cls, memory: Memory, chunk_bytes: int) -> ChunkAllocator:
        """An allocator with nothing allocated, written at once."""
        allocator = cls(memory, AllocatorHeader(chunk_bytes, 0, FIRST_CHUNK_ADDRESS))
        allocator.clear()
        allocator.flush()
        return allocator

    def clear(self) -> None:
        """Forget every chunk; their bytes stay."""
        self._write_chunk(FIRST_CHUNK_ADDRESS, 0, 0)
        self._save(0, FIRST_CHUNK_ADDRESS)

    def allocate(self) -> int:
        """The address of a chunk's body. Its bytes are whatever was there; raises as `allocate_many`."""
        return self.allocate_many(1)[0]

    def allocate_many(self, count: int) -> list[int]:
        """The addresses of so many bodies, as if taken one by one.

        Raises:
            MalformedError: the head of the free list is no free chunk.
            GrowFailedError: the memory is full.
        """
        bodies: list[int] = []
        while len(bodies) < count:
            head = self.header.free_head
            allocated, next_free = self._read_chunk(head)
            if allocated:
                raise MalformedError("the first free chunk is marked as allocated", head)
            # A chunk with no successor was never used, and neither was anything behind it.
            taken = 1 if next_free else count - len(bodies)
            if not next_free:
                next_free = self._take_new(head, taken)
            else:
                self._write_chunk(head, 1, next_free)
            self._save(self.header.allocated_chunks + taken, next_free)
            bodies += range(head + CHUNK_HEADER_BYTES, head + CHUNK_HEADER_BYTES + taken * self.stride, self.stride)
        return bodies

    def _take_new(self, head: int, count: int) -> int:
        """Mark `count` new chunks from `head` on as allocated; the new head, behind them."""
        new_head = head + count * self.stride
        self._write_chunk(new_head, 0, 0)
        header = CHUNK_HEADER.pack(_CHUNK_MAGIC, 1, 1, 0)
        if count == 1:
            write_growing(self.memory, head, header)
            return new_head
        block = bytearray(self.memory.read(head, new_head - head))
        for start in range(0, len(block), self.stride):
            block[start : start + CHUNK_HEADER_BYTES] = header
        self.memory.write(head, bytes(block))
        return new_head

    def free(self, address: int) -> None:
        """Give back the chunk whose body is at `address`; raises as `free_many`."""
        self.free_many([address])

    def free_many(self, bodies: list[int]) -> None:
        """Give back chunks, in this order: the last one freed is the first to be taken again.

        Raises:
            MalformedError: one is not allocated.
        """
        successor = {}
        for body in bodies:
            successor[body] = self.header.free_head
            self._save(self.header.allocated_chunks - 1, body - CHUNK_HEADER_BYTES)
        for first, count in neighbours(sorted(successor), self.stride):
            chunk = first - CHUNK_HEADER_BYTES
            size = (count - 1) * self.stride + CHUNK_HEADER_BYTES
            block = bytearray(read_exact(self.memory, chunk, size, "chunks"))
            for start in range(0, size, self.stride):
                _check_chunk(block[start : start + CHUNK_HEADER_BYTES], chunk + start, is_allocated=True)
                next_free = successor[first + start]
                block[start : start + CHUNK_HEADER_BYTES] = CHUNK_HEADER.pack(_CHUNK_MAGIC, 1, 0, next_free)
            self.memory.write(chunk, bytes(block))

    def capacity(self) -> int:
        """Chunks for which the memory has room: a bound on any honest walk."""
        return max(0, self.memory.size() * WASM_PAGE_BYTES - FIRST_CHUNK_ADDRESS) // self.stride

    def is_body(self, address: int) -> bool:
        """Whether a chunk's body can be at `address`."""
        offset = address - FIRST_CHUNK_ADDRESS - CHUNK_HEADER_BYTES
        return offset >= 0 and offset % self.stride == 0

    def free_list(self) -> Iterator[int]:
        """Addresses of the free chunks' bodies, in the order of the list; the last was never used.

        Raises:
            MalformedError: a link leads out of the grid of chunks, to an allocated chunk, or in a circle.
        """
        chunk, steps = self.header.free_head, self.capacity() + 1
        if not chunk:
            raise MalformedError("the free list is empty, it ends with a chunk that was never used", 76)
        while chunk:
            if steps == 0:
                raise MalformedError("the free list runs in a circle", chunk)
            if not self.is_body(chunk + CHUNK_HEADER_BYTES):
                raise MalformedError("the free list leads to an address where no chunk starts", chunk)
            allocated, next_free = self._read_chunk(chunk)
            if allocated:
                raise MalformedError("an allocated chunk is in the free list", chunk)
            yield chunk + CHUNK_HEADER_BYTES
            chunk, steps = next_free, steps - 1

    def chunks(self) -> Iterator[tuple[int, bool]]:
        """Every chunk up to the one at the end of the free list, by address: its body, whether it is marked allocated.

        Headers past that end are left over from before the last `clear`.

        Raises:
            MalformedError: the free list is broken, or a header before its end is none.
        """
        *_, end = self.free_list()
        for body in range(FIRST_CHUNK_ADDRESS + CHUNK_HEADER_BYTES, end + 1, self.stride):
            allocated, _ = self._read_chunk(body - CHUNK_HEADER_BYTES)
            yield body, bool(allocated)

    def _read_chunk(self, chunk: int) -> tuple[int, int]:
        return _check_chunk(read_exact(self.memory, chunk, CHUNK_HEADER_BYTES, "chunk header"), chunk)

    def _write_chunk(self, chunk: int, allocated: int, next_free: int) -> None:
        write_growing(self.memory, chunk, CHUNK_HEADER.pack(_CHUNK_MAGIC, 1, allocated, next_free))

    def flush(self) -> None:
        """Write the header. Only its last state shows in the bytes, so an operation does this once, at its end."""
        write_growing(self.memory, ALLOCATOR_ADDRESS, self.header.encode())

    def _save(self, allocated_chunks: int, free_head: int) -> None:
        if allocated_chunks < 0:
            raise MalformedError("more chunks are freed than the allocator counts", ALLOCATOR_ADDRESS + 16)
        self.header = AllocatorHeader(self.header.chunk_bytes, allocated_chunks, free_head)


def _check_chunk(data: bytes | bytearray, chunk: int, *, is_allocated: bool = False) -> tuple[int, int]:
    """The flag and the next free chunk of a chunk's header."""
    magic, version, allocated, next_free = CHUNK_HEADER.unpack(data)
    if magic != _CHUNK_MAGIC:
        raise MalformedError(f"bad magic {magic!r}, expected {_CHUNK_MAGIC!r}", chunk)
    if version != 1 or allocated > 1:
        raise MalformedError(f"chunk of version {version} with flag {allocated}, expected 1 and 0 or 1", chunk + 3)
    if is_allocated and not allocated:
        raise MalformedError("a chunk is freed that is not allocated", chunk)
    return allocated, next_free


def neighbours(addresses: list[int], stride: int) -> Iterator[tuple[int, int]]:
    """Runs of chunks that follow one another in memory, of at most a mebibyte: the first of each, and how many."""
    first, count, limit = 0, 0, max(1, MAX_RUN_BYTES // stride)
    for address in addresses:
        if count and address == first + count * stride and count < limit:
            count += 1
            continue
        if count:
            yield first, count
        first, count = address, 1
    if count:
        yield first, count
