"""Plumbing: a memory over an image for code that is not Wasm; what is written waits in pages until it is committed."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable
from typing import final

from perdure.canister import Image, PageDelta
from perdure.memory import PAGE_BYTES, WASM_PAGE_BYTES, check_range

__all__ = ["OverlayMemory"]

_CACHED_PAGES = 4_096
_ZEROS = bytes(PAGE_BYTES)


@final
class OverlayMemory:
    """The committed bytes of an image under what was written since. One thread at a time.

    Args:
        image: the committed bytes; only `commit` changes it.
        fresh: begin with nothing, whatever the image has; the first `commit` says so.
    """

    def __init__(self, image: Image, *, fresh: bool = False) -> None:
        self.image = image
        self.max_wasm_pages = 1 << 48
        self._fresh = fresh
        self._written: dict[int, bytearray] = {}
        self._ready: PageDelta | None = None
        self._reload()

    def _reload(self) -> None:
        self._cached: dict[int, bytes] = {}
        self._extents = [] if self._fresh else list(self.image.extents())
        self._starts = [extent.address for extent in self._extents]
        self._committed_wasm_pages = self._wasm_pages = 0 if self._fresh else self.image.wasm_pages

    def size(self) -> int:
        """Size in Wasm pages."""
        return self._wasm_pages

    def grow(self, wasm_pages: int) -> int:
        """Grow by zero pages; the old size in Wasm pages, or -1 past `max_wasm_pages`."""
        old_wasm_pages = self._wasm_pages
        if wasm_pages < 0 or old_wasm_pages + wasm_pages > self.max_wasm_pages:
            return -1
        self._wasm_pages += wasm_pages
        return old_wasm_pages

    def read(self, address: int, size_bytes: int) -> bytes:
        """A copy of `size_bytes` bytes from `address`."""
        check_range(address, size_bytes, self._wasm_pages * WASM_PAGE_BYTES)
        page, start = divmod(address, PAGE_BYTES)
        end = start + size_bytes
        if end <= PAGE_BYTES:
            return bytes(self._page(page)[start:end])
        pages = range(page, (address + size_bytes - 1) // PAGE_BYTES + 1)
        return b"".join(self._page(one) for one in pages)[start:end]

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Write `data` at `address`, uncommitted."""
        check_range(address, len(data), self._wasm_pages * WASM_PAGE_BYTES)
        done, view = 0, memoryview(data)
        while done < len(view):
            page, start = divmod(address + done, PAGE_BYTES)
            piece = view[done : done + PAGE_BYTES - start]
            target = self._written.get(page)
            if target is None:
                target = self._written[page] = bytearray(self._page(page))
            target[start : start + len(piece)] = piece
            done += len(piece)

    def _page(self, page: int) -> bytes | bytearray:
        found = self._written.get(page) or self._cached.get(page)
        if found is None:
            if len(self._cached) >= _CACHED_PAGES:
                self._cached.clear()
            found = self._cached[page] = self._load(page * PAGE_BYTES)
        return found

    def _load(self, address: int) -> bytes:
        if not self._fresh and (held := self.image.held.get(address)):
            return held
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return _ZEROS
        extent = self._extents[index]
        size_bytes = min(PAGE_BYTES, extent.address + extent.size_bytes - address)
        if size_bytes <= 0:
            return _ZEROS
        data = os.pread(extent.file_descriptor, size_bytes, extent.file_offset + address - extent.address)
        return data.ljust(PAGE_BYTES, b"\0")

    @property
    def is_changed(self) -> bool:
        """Whether anything is uncommitted."""
        return bool(self._written) or self._fresh or self._wasm_pages != self._committed_wasm_pages

    def changes(self) -> PageDelta | None:
        """What is uncommitted; `None`: nothing."""
        if not self.is_changed:
            return None
        runs = [(page * PAGE_BYTES, bytes(self._written[page])) for page in sorted(self._written)]
        return PageDelta(self._wasm_pages, runs, self._fresh)

    def apply(self, delta: PageDelta) -> None:
        """Take over changes of another copy of this memory, uncommitted."""
        self._wasm_pages = delta.wasm_pages
        for address, data in delta.runs:
            self._put(address, data)

    def _put(self, address: int, data: bytes | memoryview) -> None:
        first = address // PAGE_BYTES
        pages: Iterable[int] = range(len(data) // PAGE_BYTES)
        self._written.update((first + one, bytearray(data[one * PAGE_BYTES : (one + 1) * PAGE_BYTES])) for one in pages)

    def prepare(self) -> PageDelta | None:
        """What `commit` is going to hand to the image, which has room for it; the same while nothing else happens."""
        if self._ready is None:
            self._ready = self.changes()
            if self._ready is not None:
                self.image.prepare(self._ready)
        return self._ready

    def commit(self) -> PageDelta | None:
        """Hand what is uncommitted to the image; what it was."""
        delta = self.prepare()
        if delta is None:
            return None
        self.image.commit(delta)
        self._ready = None
        cached = self._cached if not self._fresh else {}
        self._fresh = False
        self._written = {}
        self._reload()
        cached.update((address // PAGE_BYTES, bytes(data)) for address, data in delta.runs)
        self._cached = cached
        return delta

    def discard(self) -> None:
        """Drop what is uncommitted."""
        self._ready = None
        self._written.clear()
        self._wasm_pages = self._committed_wasm_pages
