"""The `Memory` protocol: the one seam between the engine, files and stable structures.

A memory is a byte array whose size is a whole number of Wasm pages of 65,536 bytes. Live stable memory, a heap, a
virtual memory, a state directory, a snapshot, a file and plain `bytes` are all memories.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol, final, runtime_checkable

__all__ = [
    "PAGE_BYTES",
    "WASM_PAGE_BYTES",
    "BytesMemory",
    "Memory",
    "ReadOnlyMemory",
    "ViewableMemory",
    "check_memory",
    "check_range",
    "overlaid",
]

PAGE_BYTES = 4096
"""Bytes of a page, the unit of state."""

WASM_PAGE_BYTES = 65_536
"""Bytes of a Wasm page, the unit of memory size."""


@runtime_checkable
class Memory(Protocol):
    """A growable byte array, read and written by address. Out of range raises `IndexError`; nothing is written."""

    def size(self) -> int:
        """Size in Wasm pages."""
        ...

    def grow(self, wasm_pages: int) -> int:
        """Grow by `wasm_pages` zero pages; the old size in Wasm pages, or -1 when that cannot be."""
        ...

    def read(self, address: int, size_bytes: int) -> bytes:
        """A copy of `size_bytes` bytes from `address`."""
        ...

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Write `data` at `address`."""
        ...


@runtime_checkable
class ViewableMemory(Memory, Protocol):
    """A memory that can also be looked at without a copy."""

    def view(self, address: int, size_bytes: int) -> memoryview:
        """The bytes themselves, valid until the next grow or message."""
        ...


_METHODS: Final = ("size", "grow", "read", "write")


def check_memory(found: object) -> None:
    """Raise `TypeError` where something else than a memory was given."""
    if not all(hasattr(found, name) for name in _METHODS):  # what `isinstance` finds out in 40 times the time
        raise TypeError(
            f"expected a Memory, as canister.stable, open_source(...).memory, BytesMemory(data); found {found!r:.60}"
        )


def check_range(address: int, size_bytes: int, memory_bytes: int) -> None:
    """Raise `IndexError` unless `[address, address + size_bytes)` lies within a memory of `memory_bytes`."""
    if address < 0 or size_bytes < 0 or address + size_bytes > memory_bytes:
        raise IndexError(f"{size_bytes} bytes at address {address:#x} lie outside a memory of {memory_bytes:#x} bytes")


def overlaid(data: bytes, address: int, pages: Mapping[int, bytes]) -> bytes:
    """`data`, which was read at `address`, with the bytes of `pages` (by address) where they lie within."""
    result = bytearray(data)
    for page, content in pages.items():
        low, high = max(address, page), min(address + len(data), page + len(content))
        if low < high:
            result[low - address : high - address] = content[low - page : high - page]
    return bytes(result)


@final
class BytesMemory:
    """A memory in a `bytearray`; the simplest one, for tests and for structures built from nothing.

    Args:
        data: the first content, padded with zeros to a whole Wasm page.
        max_wasm_pages: `grow` beyond it returns -1.
    """

    def __init__(self, data: bytes | bytearray | memoryview = b"", *, max_wasm_pages: int = 1 << 20) -> None:
        self.data = bytearray(data)
        self.data.extend(bytes(-len(self.data) % WASM_PAGE_BYTES))
        self.max_wasm_pages = max_wasm_pages

    def size(self) -> int:
        """Size in Wasm pages."""
        return len(self.data) // WASM_PAGE_BYTES

    def grow(self, wasm_pages: int) -> int:
        """Grow by `wasm_pages` zero pages; the old size, or -1 past `max_wasm_pages`."""
        old_wasm_pages = self.size()
        if wasm_pages < 0 or old_wasm_pages + wasm_pages > self.max_wasm_pages:
            return -1
        self.data.extend(bytes(wasm_pages * WASM_PAGE_BYTES))
        return old_wasm_pages

    def read(self, address: int, size_bytes: int) -> bytes:
        """A copy of `size_bytes` bytes from `address`."""
        data, end = self.data, address + size_bytes
        if not 0 <= address <= end <= len(data):
            check_range(address, size_bytes, len(data))
        return bytes(data[address:end])

    def view(self, address: int, size_bytes: int) -> memoryview:
        """The bytes themselves, read-only; the memory cannot grow while a view is alive."""
        check_range(address, size_bytes, len(self.data))
        return memoryview(self.data).toreadonly()[address : address + size_bytes]

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Write `data` at `address`."""
        end = address + len(data)
        if not 0 <= address <= end <= len(self.data):
            check_range(address, len(data), len(self.data))
        self.data[address:end] = data


@final
class ReadOnlyMemory:
    """A bytes-like object (an `mmap`, `bytes`, a `memoryview`) opened for reading: refuses `grow` and `write`.

    A last partial Wasm page reads as if padded with zeros.
    """

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._view = memoryview(data).cast("B").toreadonly()
        self._size_bytes = -(-len(self._view) // WASM_PAGE_BYTES) * WASM_PAGE_BYTES

    def size(self) -> int:
        """Size in Wasm pages, a partial last page counted whole."""
        return self._size_bytes // WASM_PAGE_BYTES

    def grow(self, wasm_pages: int) -> int:
        """Refuse, with `PermissionError`."""
        raise PermissionError(f"cannot grow by {wasm_pages} Wasm pages: the memory is open for reading")

    def read(self, address: int, size_bytes: int) -> bytes:
        """A copy of `size_bytes` bytes from `address`."""
        check_range(address, size_bytes, self._size_bytes)
        found = bytes(self._view[address : address + size_bytes])
        return found if len(found) == size_bytes else found + bytes(size_bytes - len(found))

    def view_whole(self, address: int, size_bytes: int) -> memoryview | None:
        """The bytes themselves, read-only; `None` where they reach into the padding."""
        end = address + size_bytes
        return self._view[address:end] if 0 <= address <= end <= len(self._view) else None

    def view(self, address: int, size_bytes: int) -> memoryview:
        """The bytes themselves, read-only; a copy where they reach into the padding."""
        check_range(address, size_bytes, self._size_bytes)
        if address + size_bytes > len(self._view):
            return memoryview(self.read(address, size_bytes))
        return self._view[address : address + size_bytes]

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Refuse, with `PermissionError`."""
        raise PermissionError(f"cannot write {len(data)} bytes at address {address:#x}: the memory is open for reading")
