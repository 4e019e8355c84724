"""What a running instance offers to host functions: its heap, its stable memory, its counter."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import final

from perdure.embedder.memory import ImageMemory
from perdure.memory import PAGE_BYTES, WASM_PAGE_BYTES

__all__ = ["HostMachine"]


@final
class HostMachine:
    """Implements `perdure.system_api.Machine`. The linked module charges and accounts around each call.

    Args:
        instructions_used: of the entry that runs, so far.
        grow_stable: grows stable memory while the canister runs; the old size in Wasm pages, or -1.
        heap: of the instance.
        stable: of the instance.
        is_64: whether the heap has 64-bit addresses.
    """

    def __init__(
        self,
        instructions_used: Callable[[], int],
        grow_stable: Callable[[int], int],
        heap: ImageMemory,
        stable: ImageMemory,
        *,
        is_64: bool,
    ) -> None:
        self._instructions_used = instructions_used
        self._grow_stable = grow_stable
        self._heap = heap
        self._stable = stable
        self.is_64 = is_64

    def heap_bytes(self) -> int:
        """Size of the heap as it is now."""
        return self._heap.size_bytes

    def read(self, address: int, size_bytes: int) -> bytes:
        """A copy of heap bytes; the range has been checked."""
        return self._heap.read(address, size_bytes)

    def write(self, address: int, data: bytes) -> None:
        """Write to the heap; the range has been checked."""
        heap = self._heap
        if address + len(data) > heap.size_bytes:
            raise IndexError(f"{len(data)} bytes at address {address:#x} of a heap of {heap.size_bytes:#x} bytes")
        heap.bytes[address : address + len(data)] = data

    def instructions_used(self) -> int:
        """Instructions of this entry so far."""
        return self._instructions_used()

    def stable_wasm_pages(self) -> int:
        """Size of stable memory as it is now."""
        return self._stable.size_bytes // WASM_PAGE_BYTES

    def stable_grow(self, wasm_pages: int) -> int:
        """Grow stable memory; the old size, or -1."""
        return self._grow_stable(wasm_pages)

    def stable_to_heap(self, heap_address: int, stable_address: int, size_bytes: int) -> None:
        """Copy; both ranges have been checked."""
        ctypes.memmove(self._heap.base + heap_address, self._stable.base + stable_address, size_bytes)

    def heap_to_stable(self, stable_address: int, heap_address: int, size_bytes: int) -> None:
        """Copy, and remember the pages: a trap between the copy and its accounting must not lose them."""
        first, last = stable_address // PAGE_BYTES, (stable_address + size_bytes - 1) // PAGE_BYTES
        self._stable.written.update(range(first, last + 1))
        ctypes.memmove(self._stable.base + stable_address, self._heap.base + heap_address, size_bytes)
