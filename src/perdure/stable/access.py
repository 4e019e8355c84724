"""Plumbing between structures and memories: reading what must be there, growing writes, undo, windows.

Spec: the helpers and `RestrictedMemory` of ic-stable-structures 0.7.2 (``src/lib.rs``, ``src/base_vec.rs``).
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Final, final

from perdure.errors import MalformedError, PerdureError
from perdure.memory import WASM_PAGE_BYTES, Memory, check_range

__all__ = [
    "MAX_WASM_PAGES",
    "GrowFailedError",
    "RestrictedMemory",
    "UndoLog",
    "is_blank",
    "read_exact",
    "require_blank",
    "view_or_none",
    "write_growing",
]

MAX_WASM_PAGES: Final = ((1 << 64) - 1) // WASM_PAGE_BYTES
"""The crate's ``MAX_PAGES``."""


@final
class GrowFailedError(PerdureError):
    """A memory refused to grow. The crate panics or returns ``GrowFailed`` there; nothing is left half-written.

    Args:
        wasm_pages: pages the memory has.
        delta_wasm_pages: pages it should have got on top.
    """

    error_code = "memory-full"

    def __init__(self, wasm_pages: int, delta_wasm_pages: int) -> None:
        super().__init__(f"a memory of {wasm_pages} Wasm pages cannot grow by {delta_wasm_pages}")
        self.wasm_pages = wasm_pages
        self.delta_wasm_pages = delta_wasm_pages


def read_exact(memory: Memory, address: int, size_bytes: int, what: str) -> bytes:
    """The bytes of `what`, which the structure says are there.

    Raises:
        MalformedError: they lie outside the memory.
    """
    try:
        return memory.read(address, size_bytes)
    except IndexError as error:
        raise MalformedError(
            f"{what} of {size_bytes} bytes lies outside a memory of {memory.size():#x} Wasm pages", address
        ) from error


def view_or_none(memory: Memory, address: int, size_bytes: int) -> memoryview | None:
    """The bytes without a copy, where the memory can show them in one piece; else ``None``."""
    view = getattr(memory, "view", None)
    if view is None:
        return None
    try:
        found = view(address, size_bytes)
    except IndexError:
        return None
    return found if isinstance(found, memoryview) else None


def write_growing(memory: Memory, address: int, data: bytes) -> None:
    """Write, growing first by exactly the missing Wasm pages (also for no data past the end, as the crate does).

    Raises:
        GrowFailedError: the memory refused; nothing is written.
    """
    try:
        memory.write(address, data)
    except IndexError:  # nothing was written; asked first, most writes would ask in vain
        end = address + len(data)
        size_bytes = memory.size() * WASM_PAGE_BYTES
        delta_wasm_pages = -(-(end - size_bytes) // WASM_PAGE_BYTES)
        if delta_wasm_pages <= 0:
            raise
        if memory.grow(delta_wasm_pages) == -1:
            raise GrowFailedError(size_bytes // WASM_PAGE_BYTES, delta_wasm_pages) from None
        memory.write(address, data)


def is_blank(memory: Memory) -> bool:
    """Whether nothing was ever stored: no pages, or a first Wasm page of zeros."""
    return memory.size() == 0 or not any(memory.read(0, WASM_PAGE_BYTES))


def require_blank(memory: Memory, structure: str) -> None:
    """Raise `ValueError` unless a structure can be created without overwriting anything.

    The crate's ``new`` and, on foreign magic, its ``init`` overwrite silently: users lost data that way.
    """
    if not is_blank(memory):
        found = memory.read(0, 4)
        raise ValueError(f"the memory holds {found!r} already: load it, or create the {structure} with overwrite=True")


@final
class UndoLog:
    """A memory that remembers what it overwrites, so that an operation which fails half-way leaves the bytes alone.

    The crate relies on the replica to roll back a trapped message; outside of one this takes its place. Used as a
    context manager around one operation: an exception restores every byte (memory that grew stays grown).

    Args:
        memory: what is written to.
        finish: the last thing that the operation does, where it has not failed; it may fail then.
        undone: called after bytes were restored.
    """

    def __init__(
        self, memory: Memory, finish: Callable[[], None] | None = None, undone: Callable[[], None] | None = None
    ) -> None:
        self.memory = memory
        self._finish, self._undone = finish, undone
        self._overwritten: list[tuple[int, bytes]] = []

    def size(self) -> int:
        """Size in Wasm pages."""
        return self.memory.size()

    def grow(self, wasm_pages: int) -> int:
        """Grow the memory below; not undone."""
        return self.memory.grow(wasm_pages)

    def read(self, address: int, size_bytes: int) -> bytes:
        """Read from the memory below."""
        return self.memory.read(address, size_bytes)

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Write to the memory below, keeping what was there."""
        self._overwritten.append((address, self.memory.read(address, len(data))))
        self.memory.write(address, data)

    def overwrite(self, address: int, old: bytes, data: bytes) -> None:
        """`write` where it is known what was there: `old`, which is as long."""
        self._overwritten.append((address, old))
        self.memory.write(address, data)

    def __enter__(self) -> UndoLog:
        self._overwritten.clear()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._take_back()
        elif self._finish is not None:
            try:
                self._finish()
            except BaseException:
                self._take_back()
                raise
        self._overwritten.clear()

    def _take_back(self) -> None:
        for address, data in reversed(self._overwritten):
            self.memory.write(address, data)
        self._overwritten.clear()
        if self._undone is not None:
            self._undone()


@final
class RestrictedMemory:
    """The Wasm pages ``[start, end)`` of another memory, seen as a memory of their own.

    Differs from the crate where that one corrupts: reading or writing past the window raises `IndexError` (the crate
    only adds the offset), and growing past `end` is refused with -1 also when the window has no pages yet.
    """

    def __init__(self, memory: Memory, start_wasm_page: int, end_wasm_page: int = MAX_WASM_PAGES) -> None:
        if not 0 <= start_wasm_page < end_wasm_page <= MAX_WASM_PAGES:
            raise ValueError(f"no window of Wasm pages [{start_wasm_page}, {end_wasm_page})")
        self.memory = memory
        self.start_wasm_page = start_wasm_page
        self.end_wasm_page = end_wasm_page
        self._start_address = start_wasm_page * WASM_PAGE_BYTES

    def size(self) -> int:
        """Size in Wasm pages."""
        return max(0, min(self.memory.size(), self.end_wasm_page) - self.start_wasm_page)

    def grow(self, wasm_pages: int) -> int:
        """Grow, and with it the memory below; the old size, or -1 past the window."""
        old_wasm_pages = self.size()
        if wasm_pages < 0 or old_wasm_pages + wasm_pages > self.end_wasm_page - self.start_wasm_page:
            return -1
        below_wasm_pages = self.memory.size()
        if below_wasm_pages >= self.end_wasm_page:
            return old_wasm_pages
        missing = max(0, self.start_wasm_page - below_wasm_pages)
        return -1 if self.memory.grow(missing + wasm_pages) == -1 else old_wasm_pages

    def read(self, address: int, size_bytes: int) -> bytes:
        """A copy of `size_bytes` bytes from `address` within the window."""
        check_range(address, size_bytes, self.size() * WASM_PAGE_BYTES)
        return self.memory.read(self._start_address + address, size_bytes) if size_bytes else b""

    def view(self, address: int, size_bytes: int) -> memoryview:
        """The bytes themselves, where the memory below can show them; else a copy."""
        check_range(address, size_bytes, self.size() * WASM_PAGE_BYTES)
        found = view_or_none(self.memory, self._start_address + address, size_bytes)
        return memoryview(self.read(address, size_bytes)) if found is None else found

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Write `data` at `address` within the window."""
        check_range(address, len(data), self.size() * WASM_PAGE_BYTES)
        if data:
            self.memory.write(self._start_address + address, data)
