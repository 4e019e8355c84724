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

from collections.abc import Iterator
from typing import Final, final

from perdure.errors import MalformedError
from perdure.memory import WASM_PAGE_BYTES, Memory
from perdure.stable.access import read_exact, write_growing
from perdure.stable.headers import AllocatorHeader, Fault
from perdure.stable.layout import (
    ALLOCATED_CHUNKS_ADDRESS,
    ALLOCATOR_ADDRESS,
    CHUNK_HEADER,
    CHUNK_HEADER_BYTES,
    CHUNK_MAGIC,
    CHUNK_VERSION,
    FIRST_BODY_ADDRESS,
    FIRST_CHUNK_ADDRESS,
    FREE_HEAD_ADDRESS,
    VERSION_ADDRESS,
)

__all__ = ["MAX_RUN_BYTES", "ChunkAllocator", "neighbours", "walk_free_list"]

MAX_RUN_BYTES: Final = 1 << 20
"""At most so many bytes of neighbouring chunks are read or written at once."""


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
        header = CHUNK_HEADER.pack(CHUNK_MAGIC, CHUNK_VERSION, 1, 0)
        if count == 1:
            self.memory.write(head, header)  # read before
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
                block[start : start + CHUNK_HEADER_BYTES] = CHUNK_HEADER.pack(CHUNK_MAGIC, CHUNK_VERSION, 0, next_free)
            self.memory.write(chunk, bytes(block))

    def capacity(self) -> int:
        """Chunks for which the memory has room: a bound on any honest walk."""
        return self.header.capacity(self.memory)

    def is_body(self, address: int) -> bool:
        """Whether a chunk's body can be at `address`."""
        offset = address - FIRST_BODY_ADDRESS
        return offset >= 0 and offset % self.stride == 0

    def free_list(self) -> Iterator[int]:
        """Addresses of the free chunks' bodies, in the order of the list; the last was never used.

        Raises:
            MalformedError: a link leads out of the grid of chunks, to an allocated chunk, or in a circle.
        """
        for found in walk_free_list(self.memory, self.header):
            if isinstance(found, Fault):
                raise MalformedError(found.message, found.address)
            yield found

    def chunks(self) -> Iterator[tuple[int, bool]]:
        """Every chunk up to the one at the end of the free list, by address: its body, whether it is marked allocated.

        Headers past that end are left over from before the last `clear`.

        Raises:
            MalformedError: the free list is broken, or a header before its end is none.
        """
        *_, end = self.free_list()
        for body in range(FIRST_BODY_ADDRESS, end + 1, self.stride):
            allocated, _ = self._read_chunk(body - CHUNK_HEADER_BYTES)
            yield body, bool(allocated)

    def _read_chunk(self, chunk: int) -> tuple[int, int]:
        return _check_chunk(read_exact(self.memory, chunk, CHUNK_HEADER_BYTES, "chunk header"), chunk)

    def _write_chunk(self, chunk: int, allocated: int, next_free: int) -> None:
        write_growing(self.memory, chunk, CHUNK_HEADER.pack(CHUNK_MAGIC, CHUNK_VERSION, allocated, next_free))

    def flush(self) -> None:
        """Write the header. Only its last state shows in the bytes, so an operation does this once, at its end."""
        write_growing(self.memory, ALLOCATOR_ADDRESS, self.header.encode())

    def _save(self, allocated_chunks: int, free_head: int) -> None:
        if allocated_chunks < 0:
            raise MalformedError("more chunks are freed than the allocator counts", ALLOCATED_CHUNKS_ADDRESS)
        self.header = AllocatorHeader(self.header.chunk_bytes, allocated_chunks, free_head)


def walk_free_list(memory: Memory, header: AllocatorHeader) -> Iterator[int | Fault]:
    """The free chunks' bodies, in the order of the list, the last never used; or what breaks it, and then no more."""
    chunk, steps = header.free_head, 0
    marker, limit = -1, 1  # a circle comes back to a chunk that is remembered for twice as many steps each time
    last = memory.size() * WASM_PAGE_BYTES - CHUNK_HEADER_BYTES
    if not chunk:
        yield Fault("free-list-address", "the free list is empty, it ends with a chunk never used", FREE_HEAD_ADDRESS)
    while chunk:
        body = chunk + CHUNK_HEADER_BYTES
        if chunk > last or not header.is_body(body):
            yield Fault("free-list-address", "the free list leads to an address where no chunk starts", chunk)
            return
        if chunk == marker:
            yield Fault("free-list-circle", f"the free list runs in a circle of {steps} chunks", chunk)
            return
        if steps == limit:
            marker, limit, steps = chunk, 2 * limit, 0
        try:
            allocated, following = _check_chunk(memory.read(chunk, CHUNK_HEADER_BYTES), chunk)
        except MalformedError as error:
            yield Fault("chunk-header", str(error), chunk)
            return
        if allocated:
            yield Fault("free-list-allocated", "an allocated chunk is in the free list", chunk)
            return
        yield body
        chunk, steps = following, steps + 1


def _check_chunk(data: bytes | bytearray, chunk: int, *, is_allocated: bool = False) -> tuple[int, int]:
    """The flag and the next free chunk of a chunk's header."""
    magic, version, allocated, next_free = CHUNK_HEADER.unpack(data)
    if magic != CHUNK_MAGIC:
        raise MalformedError(f"bad magic {magic!r}, expected {CHUNK_MAGIC!r}", chunk)
    if version != CHUNK_VERSION or allocated > 1:
        raise MalformedError(
            f"chunk of version {version} with flag {allocated}, expected 1 and 0 or 1", chunk + VERSION_ADDRESS
        )
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
