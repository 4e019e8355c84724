"""An object as a memory: ranged reads of whole blocks, neighbours in one request, kept in memory and on disk.

```
 read ──▶ blocks of 64 KiB ──▶ in memory? on disk? ──▶ runs of what is missing ──▶ one request each, If-Match
                                                        └ reads that go on where the last one ended ask for more
```
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from hashlib import sha256
from typing import Final, final

from perdure.errors import StorageError
from perdure.memory import WASM_PAGE_BYTES, check_range
from perdure.storage.block_cache import BlockCache
from perdure.storage.objects import Objects, Stat

__all__ = ["BLOCK_BYTES", "RemoteMemory"]

BLOCK_BYTES: Final = 64 << 10
"""Of 4 KiB, a scan takes 130 times the requests; of 1 MiB, a point query 16 times the bytes."""

_KEPT_BLOCKS: Final = 512
_MAX_BRIDGED: Final = 2
"""Blocks that are there already and are asked for again, so that one request is enough."""
_MAX_AHEAD: Final = 16
_MAX_REQUEST_BLOCKS: Final = 256


@final
class RemoteMemory:
    """A memory in an object, opened for reading; a last partial Wasm page reads as if padded with zeros.

    Args:
        objects: the bucket.
        stat: what the object was when it was opened; if it is something else later on, reading says so.
        cache: of blocks, on disk.
        named: by its name alone the object is known, so that no other one ever has it.
    """

    searched_bytes: Final = 4 * BLOCK_BYTES
    """Of a part of it that nothing else is known of, so much is searched."""

    def __init__(self, objects: Objects, stat: Stat, cache: BlockCache | None = None, *, named: bool = False) -> None:
        self.objects = objects
        self.stat = stat
        self._cache = cache if stat.tag or named else None  # without a tag, nobody knows which object a block was of
        place = objects.place._replace(key=stat.key)
        self._prefix = sha256(f"{place}\0{stat.tag}\0{stat.size_bytes}\0{BLOCK_BYTES}".encode()).digest()
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._next = -1  # the block behind the last request
        self._ahead = 1

    def size(self) -> int:
        """Size in Wasm pages, a partial last page counted whole."""
        return -(-self.stat.size_bytes // WASM_PAGE_BYTES)

    def grow(self, wasm_pages: int) -> int:
        """Refuse, with `PermissionError`."""
        raise PermissionError(f"cannot grow by {wasm_pages} Wasm pages: the memory is open for reading")

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Refuse, with `PermissionError`."""
        raise PermissionError(f"cannot write {len(data)} bytes at address {address:#x}: the memory is open for reading")

    def read(self, address: int, size_bytes: int) -> bytes:
        """A copy of `size_bytes` bytes from `address`.

        Raises:
            StorageError: the object cannot be read, or was replaced.
        """
        check_range(address, size_bytes, self.size() * WASM_PAGE_BYTES)
        if not size_bytes:
            return b""
        first, end = address // BLOCK_BYTES, -(-(address + size_bytes) // BLOCK_BYTES)
        with self._lock:
            parts = []
            for start in range(first, end, _MAX_REQUEST_BLOCKS):
                parts += self._read_blocks(start, min(end, start + _MAX_REQUEST_BLOCKS))
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        skip = address - first * BLOCK_BYTES
        return data[skip : skip + size_bytes]

    def read_uncached(self, address: int, size_bytes: int) -> bytes:
        """As `read`, in one request and past all caches: for whoever reads each byte once."""
        check_range(address, size_bytes, self.size() * WASM_PAGE_BYTES)
        end = min(address + size_bytes, self.stat.size_bytes)
        data = self.objects.read(self.stat, address, end) if address < end else b""
        return data if len(data) == size_bytes else data + bytes(size_bytes - len(data))

    def _read_blocks(self, first: int, end: int) -> list[bytes]:
        found = {number: block for number in range(first, end) if (block := self._kept(number)) is not None}
        missing = [number for number in range(first, end) if number not in found]
        if missing and missing[0] == self._next:
            self._ahead = min(2 * self._ahead, _MAX_AHEAD)
            missing += range(end, missing[0] + self._ahead)
        elif missing:
            self._ahead = 1
        for start, stop in _runs(missing):
            found.update(self._fetch(start, stop))
            self._next = stop
        for number, block in found.items():
            self._blocks[number] = block
            self._blocks.move_to_end(number)
        while len(self._blocks) > _KEPT_BLOCKS:
            self._blocks.popitem(last=False)
        return [found[number] for number in range(first, end)]

    def _kept(self, number: int) -> bytes | None:
        block = self._blocks.get(number)
        if block is None and self._cache is not None:
            block = self._cache.get(self._name(number))
            if block is not None and len(block) != BLOCK_BYTES:
                return None
        return block

    def _fetch(self, start: int, stop: int) -> dict[int, bytes]:
        """The blocks from `start` up to `stop`, in one request; those past the object's end are zeros."""
        low, high = start * BLOCK_BYTES, min(stop * BLOCK_BYTES, self.stat.size_bytes)
        data = self.objects.read(self.stat, low, high) if low < high else b""
        if len(data) != max(0, high - low):
            raise StorageError(f"{len(data)} bytes came, {high - low} expected", self.objects.place)
        found = {}
        for number in range(start, stop):
            at = number * BLOCK_BYTES - low
            block = found[number] = data[at : at + BLOCK_BYTES].ljust(BLOCK_BYTES, b"\0")
            if self._cache is not None:
                self._cache.put(self._name(number), block)
        return found

    def _name(self, number: int) -> bytes:
        return sha256(self._prefix + number.to_bytes(8, "little")).digest()


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """Runs of ascending numbers, with the short gaps between them."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number - runs[-1][1] <= _MAX_BRIDGED:
            runs[-1] = runs[-1][0], number + 1
        else:
            runs.append((number, number + 1))
    return runs
