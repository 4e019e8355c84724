"""Which pages of a private mapping differ from what they are made of: the pages that the process has a copy of.

Three ways, best first: one ``PAGEMAP_SCAN`` (Linux 6.7), ``/proc/self/pagemap`` by pages, every page. All may name more
pages than were changed; the caller compares bytes.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import struct
from collections.abc import Mapping
from typing import Protocol, final

from perdure.errors import UnsupportedError
from perdure.memory import PAGE_BYTES

__all__ = ["EveryPage", "PageScan", "PageTable", "PrivatePages", "private_pages"]

_PAGEMAP = "/proc/self/pagemap"
_PAGEMAP_SCAN = 0xC060_6610  # _IOWR('f', 16, struct pm_scan_arg)
_FILE, _PRESENT, _SWAPPED, _ZERO = 1 << 2, 1 << 3, 1 << 4, 1 << 5
_ARGUMENT = struct.Struct("<12Q")
_RANGE, _RANGE_OFFSET = struct.Struct("<2Q"), 16
_WALK_END = struct.Struct("<32xQ")
_VECTOR_LENGTH = 64  # the kernel makes room for as many in each call: for 512 that takes as long as the rest of it
_PRIVATE = (_FILE | _ZERO, _FILE | _ZERO, _PRESENT | _SWAPPED, 0)  # inverted, all of, any of, to return
_THERE = (0, 0, _PRESENT | _SWAPPED, 0)


class PrivatePages(Protocol):
    """One way to find the pages that a process has a private copy of.

    Attributes:
        can_see_reads: whether `present` can be asked.
    """

    can_see_reads: bool

    def runs(self, base: int, size_bytes: int) -> list[tuple[int, int]]:
        """Ascending runs `(start, end)`, in bytes from `base`, an address in this process, of whole pages."""
        ...

    def present(self, base: int, size_bytes: int) -> list[tuple[int, int]]:
        """The same of all pages that have been touched since they were mapped or dropped, and their neighbours.

        Raises:
            UnsupportedError: nobody can tell here.
        """
        ...

    def another(self) -> PrivatePages:
        """The same way, for use by another thread at the same time."""
        ...

    def after_fork(self) -> None:
        """In the child: look at its own pages, not at those of the parent; counts for all that `another` made."""
        ...


def private_pages(environment: Mapping[str, str]) -> PrivatePages:
    """The best way that works here, unless ``PERDURE_PORTABLE`` says ``pagemap`` (or ``1``) or ``bytes``."""
    forced = environment.get("PERDURE_PORTABLE", "")
    if forced == "bytes":
        return EveryPage()
    try:
        descriptor = os.open(_PAGEMAP, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return EveryPage()
    if forced in {"", "0"}:
        scan = PageScan(descriptor)
        try:
            scan.runs(0, 0)
        except OSError:
            pass
        else:
            return scan
    return PageTable(descriptor)


def _reopen(descriptor: int) -> None:
    """Make a number that many hold stand for the page map of this process."""
    own = os.open(_PAGEMAP, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(own, descriptor, inheritable=False)
    os.close(own)


@final
class EveryPage:
    """Names all pages: right everywhere, and as slow as comparing a whole memory."""

    can_see_reads = False

    def runs(self, base: int, size_bytes: int) -> list[tuple[int, int]]:
        """All of it."""
        return [(0, size_bytes)] if size_bytes else []

    def present(self, base: int, size_bytes: int) -> list[tuple[int, int]]:
        """Nobody can tell."""
        raise UnsupportedError(
            "which pages of a heap are read is not seen here: this system has no /proc/self/pagemap, "
            "or PERDURE_PORTABLE=bytes keeps from it"
        )

    def another(self) -> EveryPage:
        """Itself: it has no state."""
        return self

    def after_fork(self) -> None:
        """Nothing to do."""


@final
class PageTable:
    """Reads eight bytes a page from ``/proc/self/pagemap``: 2 KiB a MiB of memory, about 1 us a MiB."""

    can_see_reads = True

    # Bits 63 present, 62 swapped, 61 file page: a copy is present or swapped, and not of a file.
    _COPIED = bytes((flags & 0xC0 != 0) and not flags & 0x20 for flags in range(256))
    _TOUCHED = bytes(flags & 0xC0 != 0 for flags in range(256))
    _RUN = re.compile(b"\x01+")
    _CHUNK_PAGES = 1 << 18

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def runs(self, base: int, size_bytes: int) -> list[tuple[int, int]]:
        """Runs of pages that are present or swapped and belong to no file."""
        return self._runs(base, size_bytes, self._COPIED)

    def present(self, base: int, size_bytes: int) -> list[tuple[int, int]]:
        """Runs of pages that are present or swapped."""
        return self._runs(base, size_bytes, self._TOUCHED)

    def _runs(self, base: int, size_bytes: int, wanted: bytes) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        step = self._CHUNK_PAGES * PAGE_BYTES
        for chunk in range(0, size_bytes, step):
            pages = (min(size_bytes, chunk + step) - chunk) // PAGE_BYTES
            entries = os.pread(self._descriptor, pages * 8, (base + chunk) // PAGE_BYTES * 8)
            marks = entries[7::8].translate(wanted)
            found += [(chunk + m.start() * PAGE_BYTES, chunk + m.end() * PAGE_BYTES) for m in self._RUN.finditer(marks)]
        return found

    def another(self) -> PageTable:
        """Itself: it has no state."""
        return self

    def after_fork(self) -> None:
        """Open the child's own page map."""
        _reopen(self._descriptor)


@final
class PageScan:
    """Asks the kernel for the runs: proportional to the pages mapped, not to the size."""

    can_see_reads = True

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        vector = (ctypes.c_uint64 * (3 * _VECTOR_LENGTH))()
        self._words = memoryview(vector).cast("B").cast("Q")
        address = ctypes.addressof(vector)
        self._argument, self._there = (
            bytearray(_ARGUMENT.pack(_ARGUMENT.size, 0, 0, 0, 0, address, _VECTOR_LENGTH, 0, *categories))
            for categories in (_PRIVATE, _THERE)
        )

    def another(self) -> PageScan:
        """A scan with a vector of its own, for another thread."""
        return PageScan(self._descriptor)

    def after_fork(self) -> None:
        """Open the child's own page map."""
        _reopen(self._descriptor)

    def present(self, base: int, size_bytes: int) -> list[tuple[int, int]]:
        """Runs of pages that are present or swapped, the zero page among them."""
        return self.runs(base, size_bytes, self._there)

    def runs(self, base: int, size_bytes: int, asked: bytearray | None = None) -> list[tuple[int, int]]:
        """Runs of pages that are not of a file, not the zero page, and present or swapped; or what else is asked for.

        Asking for present alone would lose changed pages that were swapped out; one call ends when its vector is full,
        so calls go on until the kernel has walked to the end.
        """
        argument = asked or self._argument
        found: list[tuple[int, int]] = []
        words = self._words
        start, end = base, base + size_bytes
        while True:
            _RANGE.pack_into(argument, _RANGE_OFFSET, start, end)
            count = fcntl.ioctl(self._descriptor, _PAGEMAP_SCAN, argument)
            for place in range(0, 3 * count, 3):
                found.append((words[place] - base, words[place + 1] - base))  # noqa: PERF401 -- mostly there is one
            (start,) = _WALK_END.unpack_from(argument)
            if start >= end:
                return found
