"""Plumbing: one reserved range of addresses, and the system calls on it.

A range is reserved without access, so that whatever lies beyond a memory's size faults. Pages become a memory by
`open_anonymous` and `open_file`. Everything is private: writes never reach a file.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import weakref
from ctypes import c_int, c_int64, c_size_t, c_ulong, c_void_p
from functools import cache
from typing import Any, ClassVar, final

from perdure.errors import InternalError, StorageError
from perdure.memory import PAGE_BYTES, WASM_PAGE_BYTES

__all__ = ["AddressRange", "why_nothing_runs"]

_NO_ACCESS = 0
_FIXED = 0x10
_NORESERVE = 0x4000
_ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE
_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
_RANDOM = 1
_DONTNEED = 4
_NOHUGEPAGE = 15
_FIXED_NOREPLACE = 0x100000
_MREMAP_MAYMOVE = 1
_MREMAP_FIXED = 2
_MREMAP_DONTUNMAP = 4

_libc = ctypes.CDLL(None, use_errno=True)
# Short calls keep the GIL (PyDLL): releasing it costs as much as they do.
_short = ctypes.PyDLL(None, use_errno=True)


def _prototype(library: Any, name: str, result: Any, *arguments: Any) -> Any:
    found = library[name]
    found.restype = result
    found.argtypes = list(arguments)
    return found


_mmap = _prototype(_short, "mmap", c_void_p, c_void_p, c_size_t, c_int, c_int, c_int, c_int64)
_munmap = _prototype(_libc, "munmap", c_int, c_void_p, c_size_t)
_mprotect = _prototype(_short, "mprotect", c_int, c_void_p, c_size_t, c_int)
_madvise = _prototype(_short, "madvise", c_int, c_void_p, c_size_t, c_int)


@cache
def _mremap() -> Any:
    """Linux alone has it, and everybody may import this."""
    return _prototype(_short, "mremap", c_void_p, c_void_p, c_size_t, c_size_t, c_ulong, c_void_p)


@cache
def why_nothing_runs() -> str | None:
    """What keeps canisters of Wasm from running on this system; ``None``: nothing does."""
    if sys.platform != "linux":
        return f"canisters of Wasm run on Linux: of {sys.platform} nobody knows how it drops and moves pages"
    if mmap.PAGESIZE != PAGE_BYTES:
        return f"canisters of Wasm run where pages have {PAGE_BYTES:,} bytes, here they have {mmap.PAGESIZE:,}"
    return None


def _map(address: int | None, size_bytes: int, protection: int, flags: int, fd: int = -1, offset: int = 0) -> int:
    found = _mmap(address, size_bytes, protection, flags, fd, offset)
    if found is None or found == c_void_p(-1).value:
        number = ctypes.get_errno()
        raise MemoryError(f"mmap of {size_bytes:#x} bytes: {os.strerror(number)}")
    return int(found)


@final
class AddressRange:
    """`size_bytes` bytes of address space, all of it without access at first.

    A view keeps the range from being given back, so reading an old view can show old or zero bytes but never faults.

    Raises:
        MemoryError: there is no such room.
    """

    reserved_bytes: ClassVar[int] = 0
    """What all of this process have had together so far, those that were given back among them."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        taken_bytes = size_bytes + WASM_PAGE_BYTES
        taken = _map(None, taken_bytes, _NO_ACCESS, _ANONYMOUS)
        self.base = taken + -taken % WASM_PAGE_BYTES
        """A multiple of Wasm pages, so that the groups in which the kernel maps pages are such."""
        AddressRange.reserved_bytes += taken_bytes
        array = (ctypes.c_ubyte * size_bytes).from_address(self.base)
        # Whoever looks at the range keeps the array alive, and the array the range.
        weakref.finalize(array, _munmap, taken, taken_bytes).atexit = False
        self._array = weakref.ref(array)
        self.view = memoryview(array).cast("B")
        """The whole range; only what has been opened can be read."""

    def open_anonymous(self, address: int, size_bytes: int) -> None:
        """Make zero pages of `[address, address + size_bytes)`, dropping what was there."""
        if size_bytes:
            _map(self.base + address, size_bytes, _READ_WRITE, _ANONYMOUS | _FIXED)

    def open_file(self, address: int, size_bytes: int, file_descriptor: int, file_offset: int) -> None:
        """Show a file's bytes, whole pages, dropping what was there.

        Raises:
            StorageError: the file is shorter than that; reading such a page would kill the process.
        """
        facts = os.fstat(file_descriptor)
        length = facts.st_size
        if file_offset + size_bytes > -(-length // PAGE_BYTES) * PAGE_BYTES:
            found = f"{length:#x} bytes found, {file_offset + size_bytes:#x} expected"
            raise StorageError(f"an image file is too short: {found}", f"/dev/fd/{file_descriptor}")
        flags = mmap.MAP_PRIVATE | _NORESERVE | _FIXED
        _map(self.base + address, size_bytes, _READ_WRITE, flags, file_descriptor, file_offset)
        # Pages of an unlinked file were written by this process or are holes. Reading ahead in holes fills memory with
        # zeros: a write into one took 9.3 ms where the disk's read-ahead is 8 MiB, 6 us without.
        if facts.st_nlink == 0 and _madvise(self.base + address, size_bytes, _RANDOM):
            raise InternalError(f"madvise: {os.strerror(ctypes.get_errno())}")

    def close_access(self, address: int, size_bytes: int) -> None:
        """Drop pages and forbid access to their range."""
        if size_bytes:
            _map(self.base + address, size_bytes, _NO_ACCESS, _ANONYMOUS | _FIXED)

    def drop(self, address: int, size_bytes: int) -> None:
        """Drop private pages: file pages show the file again, others are zero."""
        if size_bytes and _madvise(self.base + address, size_bytes, _DONTNEED):
            raise InternalError(f"madvise: {os.strerror(ctypes.get_errno())}")

    def in_small_pages(self) -> None:
        """Have the kernel make no huge pages here, of which nobody sees what was touched of them."""
        _madvise(self.base, self.size_bytes, _NOHUGEPAGE)  # a kernel without them refuses, and makes none

    def move_to(self, target: AddressRange, address: int, size_bytes: int) -> None:
        """Move pages that one call has opened to the same place of `target`."""
        start, goal = self.base + address, target.base + address
        moved = _mremap()(start, size_bytes, size_bytes, _MREMAP_MAYMOVE | _MREMAP_FIXED | _MREMAP_DONTUNMAP, goal)
        if moved != goal:  # before Linux 5.13: file pages cannot leave their place mapped
            moved = _mremap()(start, size_bytes, size_bytes, _MREMAP_MAYMOVE | _MREMAP_FIXED, goal)
            _map(start, size_bytes, _NO_ACCESS, _ANONYMOUS | _FIXED_NOREPLACE)
        if moved != goal:
            raise MemoryError(f"mremap of {size_bytes:#x} bytes: {os.strerror(ctypes.get_errno())}")

    def close(self) -> None:
        """Give the range back, at once or as soon as the last view of it is gone; until then it shows zeros."""
        self.view = memoryview(b"")
        if self._array() is not None:
            _map(self.base, self.size_bytes, mmap.PROT_READ, _ANONYMOUS | _FIXED)
