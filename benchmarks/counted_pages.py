"""Which pages a structure touches, whatever reads and writes them."""

from __future__ import annotations

from typing import final

from perdure.memory import PAGE_BYTES, BytesMemory

__all__ = ["CountingMemory"]


@final
class CountingMemory:
    """A memory that remembers which pages of 4 KiB were accessed, and which were written."""

    def __init__(self) -> None:
        self._memory = BytesMemory()
        self.accessed: set[int] = set()
        self.written: set[int] = set()

    def size(self) -> int:
        """In Wasm pages."""
        return self._memory.size()

    def grow(self, wasm_pages: int) -> int:
        """By so many."""
        return self._memory.grow(wasm_pages)

    def read(self, address: int, size_bytes: int) -> bytes:
        """Noted."""
        self.accessed.update(range(address // PAGE_BYTES, -(-(address + size_bytes) // PAGE_BYTES)))
        return self._memory.read(address, size_bytes)

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Noted as both."""
        pages = range(address // PAGE_BYTES, -(-(address + len(data)) // PAGE_BYTES))
        self.accessed.update(pages)
        self.written.update(pages)
        self._memory.write(address, data)

    def taken(self) -> tuple[int, int]:
        """How many were accessed and written since the last time."""
        found = len(self.accessed), len(self.written)
        self.accessed.clear()
        self.written.clear()
        return found
