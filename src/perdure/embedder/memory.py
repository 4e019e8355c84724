"""A Wasm memory made of an `Image`: a private mapping, so that the kernel itself keeps the transaction.

Writes go to private copies of pages. Commit hands the changed ones to the image; rollback drops them; the files are
never written through the mapping.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from time import perf_counter_ns
from typing import final

from perdure.canister import NO_FILE, Extent, Image, PageDelta
from perdure.embedder.mapping import AddressRange
from perdure.embedder.pagemap import PrivatePages
from perdure.memory import PAGE_BYTES, WASM_PAGE_BYTES, check_range, overlaid

__all__ = ["AnonymousMemory", "ImageMemory", "LinearMemory", "coalesce"]

_NOTHING = memoryview(b"")
_CHUNK_BYTES = 1 << 20
_KEPT_BYTES = 8 * PAGE_BYTES
_MANY_RUNS = 1_000  # more are dropped in one call, with what was merely read
_SCAN_BUDGET_NS = 5_000_000


def coalesce(pages: Iterable[int]) -> list[tuple[int, int]]:
    """Runs `(start, end)` in bytes of page indices in any order, without repetition."""
    ordered = sorted(pages)
    if len(ordered) == 1:
        return [(ordered[0] * PAGE_BYTES, (ordered[0] + 1) * PAGE_BYTES)]
    runs: list[tuple[int, int]] = []
    start = end = -1
    for page in ordered:
        if page == end:
            end += 1
            continue
        if end > start:
            runs.append((start * PAGE_BYTES, end * PAGE_BYTES))
        start, end = page, page + 1
    if end > start:
        runs.append((start * PAGE_BYTES, end * PAGE_BYTES))
    return runs


class LinearMemory:
    """What the engine sees: a base that may move, a size that may grow. Sizes in bytes."""

    def __init__(self) -> None:
        self.range: AddressRange | None = None
        self.base = 0
        """Address of byte 0 in this process, while it is open."""
        self.bytes = _NOTHING
        """The whole range; beyond `size_bytes` it must not be read."""
        self.size_bytes = 0
        self.reserved_bytes = 0
        self.guard_bytes = 0
        self.minimum_bytes = 0
        """What the module that has it asks for."""
        self._cuts: set[int] = set()  # where one opened run of pages may end and another begin

    def attach(self, minimum_bytes: int, reserved_bytes: int, guard_bytes: int) -> None:
        """Be the memory of a new instance that asks for at least these sizes; what is there stays.

        Compiled code leaves out bounds checks on the strength of the reservation and the guard, so giving less would
        let it read foreign bytes.
        """
        self.minimum_bytes = minimum_bytes
        reserved_bytes = max(reserved_bytes, minimum_bytes, self._initial_bytes())
        if self.range is None:
            self._open(reserved_bytes, guard_bytes)
            self._fill()
        elif reserved_bytes > self.reserved_bytes or guard_bytes > self.guard_bytes:
            self._move(max(reserved_bytes, self.reserved_bytes), max(guard_bytes, self.guard_bytes))
        if minimum_bytes > self.size_bytes:
            self.grow_to(minimum_bytes)

    def grow_to(self, size_bytes: int) -> None:
        """Grow to `size_bytes`; past the reservation it doubles and the memory moves.

        Raises:
            MemoryError: no address space left.
        """
        assert self.range is not None
        if size_bytes > self.reserved_bytes:
            self._move(max(size_bytes, 2 * self.reserved_bytes), self.guard_bytes)
        self._open_pages(self.size_bytes, size_bytes)
        self.size_bytes = size_bytes

    def _open_pages(self, start: int, end: int) -> None:
        self.range.open_anonymous(start, end - start)  # type: ignore[union-attr]
        self._cuts.update((start, end))

    def _initial_bytes(self) -> int:
        return 0

    def _fill(self) -> None:
        """Put the first content into a range just opened."""

    def _open(self, reserved_bytes: int, guard_bytes: int) -> None:
        self.range = opened = AddressRange(reserved_bytes + guard_bytes)
        self.base, self.bytes = opened.base, opened.view
        self.reserved_bytes, self.guard_bytes = reserved_bytes, guard_bytes

    def _move(self, reserved_bytes: int, guard_bytes: int) -> None:
        """Move all pages to a larger reservation, changed ones included.

        A kernel mapping moves whole and alone, so pages move in the pieces that they were opened in.
        """
        old = self.range
        assert old is not None
        self._open(reserved_bytes, guard_bytes)
        cuts = sorted({cut for cut in self._cuts if cut < self.size_bytes} | {0, self.size_bytes})
        for start, end in pairwise(cuts):
            old.move_to(self.range, start, end - start)  # type: ignore[arg-type]
        self._cuts = set(cuts)
        old.close()

    def close(self) -> None:
        """Give the addresses back."""
        if self.range is not None:
            self.range.close()
            self.range, self.base, self.bytes = None, 0, _NOTHING
        self.size_bytes = 0


@final
class AnonymousMemory(LinearMemory):
    """Working memory that is no part of a canister's state: accounting, messages."""


@final
class ImageMemory(LinearMemory):
    """A memory of a canister's state; implements the `Memory` protocol.

    Args:
        image: the committed bytes.
        private_pages: how to find changed pages; `None` where `written` says it all (stable memory).
        fresh: start from nothing instead, for a memory that a commit is to replace (reinstall).
    """

    def __init__(self, image: Image, private_pages: PrivatePages | None, *, fresh: bool = False) -> None:
        super().__init__()
        self.image = image
        self.fresh = fresh
        self.committed_bytes = 0 if fresh else image.wasm_pages * WASM_PAGE_BYTES
        self.written: set[int] = set()
        """Indices of pages known to have been written since the last commit."""
        self.private_pages = private_pages
        self.resized = False
        """Whether the size has changed without the engine, whose instance then has to be made anew."""
        self.is_untouched = False
        """Whether nobody but `write` can have changed a byte since the last commit or rollback."""
        self._extents: tuple[Extent, ...] | None = () if fresh else None
        self._kept: dict[int, bytes] = {}  # pages that are private, as far as that is known, and their committed bytes
        self._held: Mapping[int, bytes] = {}  # the image's, as of the last commit
        self._apart: list[tuple[int, int]] = []  # runs that are shown from a file of their own while an entry runs
        self._scan_ns = 0

    def open(self) -> None:
        """Be mapped, without an engine: a memory that only the host looks at, from when it first does."""
        if self.range is None:
            self.attach(0, WASM_PAGE_BYTES, 0)

    @property
    def wasm_pages(self) -> int:
        """Size in Wasm pages, of one that nobody has mapped yet too."""
        return (self.committed_bytes if self.range is None else self.size_bytes) // WASM_PAGE_BYTES

    # --- the Memory protocol

    def size(self) -> int:
        """Size in Wasm pages, uncommitted growth included."""
        return self.size_bytes // WASM_PAGE_BYTES

    def grow(self, wasm_pages: int) -> int:
        """Grow by zero pages, uncommitted, without asking the canister; the old size, or -1 without address space."""
        old_wasm_pages = self.size()
        try:
            self.grow_to(self.size_bytes + wasm_pages * WASM_PAGE_BYTES)
        except MemoryError:
            return -1
        self.resized = True
        return old_wasm_pages

    def read(self, address: int, size_bytes: int) -> bytes:
        """A copy of `size_bytes` bytes from `address`."""
        check_range(address, size_bytes, self.size_bytes)
        return self.bytes[address : address + size_bytes].tobytes()

    def view(self, address: int, size_bytes: int) -> memoryview:
        """The bytes themselves, read-only, valid until the next message; a copy where growth is not yet committed.

        (Rolling growth back takes the pages away, and reading them would kill the process.)
        """
        check_range(address, size_bytes, self.size_bytes)
        if address + size_bytes > self.committed_bytes:
            return memoryview(self.read(address, size_bytes))
        return self.bytes[address : address + size_bytes].toreadonly()

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Write `data` at `address`, uncommitted."""
        check_range(address, len(data), self.size_bytes)
        if data:
            # First, so that a rollback knows of them, whatever comes in between.
            self.written.update(range(address // PAGE_BYTES, (address + len(data) - 1) // PAGE_BYTES + 1))
            self.bytes[address : address + len(data)] = data

    # --- the transaction

    def changes(self) -> PageDelta | None:
        """What differs from the committed content; the runs are views."""
        if self.range is None:  # nobody has looked at it yet
            return PageDelta(0, [], fresh=True) if self.fresh else None
        if not self._may_differ:
            return None
        runs = coalesce(self.written) if self.private_pages is None else self._changed_runs()
        if not runs and self.size_bytes == self.committed_bytes and not self.fresh:
            return None
        changed, view = [], self.bytes
        for start, end in runs:
            changed.append((start, view[start:end]))
        return PageDelta(self.size_bytes // WASM_PAGE_BYTES, changed, self.fresh)

    @property
    def _may_differ(self) -> bool:
        """Whether anybody can have changed it since the last commit or rollback."""
        is_seen = self.is_untouched or self.private_pages is None
        return not is_seen or bool(self.written) or self.size_bytes != self.committed_bytes or self.fresh

    def commit(self, delta: PageDelta) -> None:
        """Hand `delta`, which `changes` returned, to the image; what was private is then shown from its files."""
        if self.range is None:
            self.open()
        if self._apart:
            self.gather()
        image = self.image
        moved = image.commit(delta)
        self.committed_bytes = self.size_bytes
        if moved or self.fresh or image.held is not self._held:
            self._show_anew(moved)
        self._let_go(delta, keep=not moved)
        self.written.clear()
        if self._scan_ns > _SCAN_BUDGET_NS:
            self._drop_reads()

    def _show_anew(self, moved: Sequence[Extent]) -> None:
        before, self._held = self._held, self.image.held
        if moved or self.fresh:
            self._extents = None
            self.fresh = False
            for extent in moved:
                self._show(extent, 0, self.size_bytes)
            self._put_held(0, self.size_bytes)
        for page in before.keys() - self._held.keys():
            self._drop(page, page + PAGE_BYTES)

    def roll_back(self, *, everything: bool = False) -> None:
        """Be what was last committed. `everything`: nobody knows what was written."""
        if self.range is None or not (everything or self._may_differ):
            return
        if self._apart:
            self.gather()
        is_larger = self.size_bytes > self.committed_bytes
        if is_larger:
            self.range.close_access(self.committed_bytes, self.size_bytes - self.committed_bytes)
            self.size_bytes = self.committed_bytes
        runs = self._private_runs()
        if everything or len(runs) > _MANY_RUNS:
            runs = [(0, self.size_bytes)]
        if not is_larger and self._is_little(sum([end - start for start, end in runs])):
            for start, end in runs:
                self.bytes[start:end] = self._keep(start, self._committed(start, end))
        else:
            for start, end in runs:
                self._drop(start, end)
            for page in self._kept:
                self._drop(page, page + PAGE_BYTES)
            self._kept.clear()
            self._put_held(0, self.size_bytes)
        self.written.clear()
        if self._scan_ns > _SCAN_BUDGET_NS:
            self._drop_reads()

    @property
    def is_initial(self) -> bool:
        """Whether nobody can have changed it, size or bytes, since `reset`."""
        return self.is_untouched and self.size_bytes == self.minimum_bytes

    def reset(self) -> bool:
        """Be zeros, and as small as the module lets it be; whether it became smaller. Not for what is committed."""
        assert self.range is not None
        is_larger = self.size_bytes > self.minimum_bytes
        if is_larger:
            self.range.close_access(self.minimum_bytes, self.size_bytes - self.minimum_bytes)
            self.size_bytes = self.minimum_bytes
        self.range.drop(0, self.size_bytes)
        self.is_untouched = True
        return is_larger

    def _is_little(self, more_bytes: int) -> bool:
        """Whether so much more may stay private: rollbacks may follow each other without a commit between them."""
        return more_bytes <= _KEPT_BYTES and more_bytes + len(self._kept) * PAGE_BYTES <= 2 * _KEPT_BYTES

    def _put_held(self, start: int, end: int) -> None:
        """Have the held pages of a range show their committed bytes."""
        for page, data in self._held.items():
            if start <= page < end and self.bytes[page : page + PAGE_BYTES].tobytes() != data:
                self.bytes[page : page + PAGE_BYTES] = data

    def _drop(self, start: int, end: int) -> None:
        """Drop private pages but for held ones."""
        assert self.range is not None
        if self._held:
            for page in sorted(self._held):
                if start <= page < end:
                    self.range.drop(start, page - start)
                    start = page + PAGE_BYTES
        self.range.drop(start, end - start)

    def _let_go(self, delta: PageDelta, *, keep: bool) -> None:
        """Drop the private pages of a delta that was committed, but for a few that the next message may write again.

        Dropping a page and faulting it in again costs 4.6 us, comparing it with its committed bytes 0.5 us. So what the
        last commit wrote stays private, as long as it is little, and goes when the next commit writes other pages.
        """
        before, runs = self._kept, delta.runs
        if keep and len(runs) == 1 == len(before) and runs[0][0] in before and len(runs[0][1]) == PAGE_BYTES:
            self._keep(*runs[0])  # mostly the page that the message before has written, too
            return
        now: dict[int, bytes] = {}
        self._kept = now
        if keep and (len(runs[0][1]) if len(runs) == 1 else delta.changed_bytes) <= _KEPT_BYTES:
            for address, data in runs:
                self._keep(address, data)
        else:
            for address, data in runs:
                self._drop(address, address + len(data))
        for page in before:
            if page not in now:
                self._drop(page, page + PAGE_BYTES)

    def _keep(self, address: int, data: bytes | memoryview) -> bytes | memoryview:
        """Note that the pages that begin there stay private, and show these committed bytes."""
        if len(data) == PAGE_BYTES:
            self._kept[address] = self._held.get(address) or bytes(data)
        else:
            for at in range(0, len(data), PAGE_BYTES):
                self._kept[address + at] = self._held.get(address + at) or bytes(data[at : at + PAGE_BYTES])
        return data

    def _private_runs(self) -> list[tuple[int, int]]:
        if self.private_pages is None:
            return coalesce(self.written)
        began = perf_counter_ns()
        runs = self.private_pages.runs(self.base, self.size_bytes)
        self._scan_ns += perf_counter_ns() - began
        return runs

    def _changed_runs(self) -> list[tuple[int, int]]:
        """Runs of pages whose bytes differ: a page written back to what it was is not dirty."""
        runs: list[tuple[int, int]] = []
        for start, end in self._private_runs():
            if end - start == PAGE_BYTES and start in self._kept:  # mostly, as it was written before
                if self.bytes[start:end].tobytes() != self._kept[start]:
                    runs.append((start, end))
                continue
            for chunk in range(start, end, _CHUNK_BYTES):
                self._compare(chunk, min(end, chunk + _CHUNK_BYTES), runs)
        return runs

    def _compare(self, start: int, end: int, runs: list[tuple[int, int]]) -> None:
        new, old = self.bytes[start:end].tobytes(), self._committed(start, end)
        if new == old:
            return
        for at in range(start, end, PAGE_BYTES):
            place = at - start
            if end - start > PAGE_BYTES and new[place : place + PAGE_BYTES] == old[place : place + PAGE_BYTES]:
                continue
            if runs and runs[-1][1] == at:
                runs[-1] = (runs[-1][0], at + PAGE_BYTES)
            else:
                runs.append((at, at + PAGE_BYTES))

    def _committed(self, start: int, end: int) -> bytes:
        """The committed bytes of a range, zero past the committed size."""
        known = self._kept.get(start) or self._held.get(start)
        if known is not None and end - start == PAGE_BYTES:
            return known
        if known is not None and self._kept.keys() >= (pages := {*range(start, end, PAGE_BYTES)}):
            return b"".join([self._kept[page] for page in sorted(pages)])
        extents = self._committed_extents()
        found = b""
        for extent in extents[max(0, bisect_right(extents, start, key=_address_of) - 1) :]:
            if extent.address >= end:
                break
            low, high = max(start, extent.address), min(end, extent.address + extent.size_bytes)
            if low < high:
                data = os.pread(extent.file_descriptor, high - low, low - extent.address + extent.file_offset)
                found = found.ljust(low - start, b"\0") + data
        found = found if len(found) == end - start else found.ljust(end - start, b"\0")
        return overlaid(found, start, self._held) if self._held else found

    # --- what is read

    @property
    def can_see_reads(self) -> bool:
        """Whether the kernel is asked for its pages."""
        return self.private_pages is not None and self.private_pages.can_see_reads

    def set_apart(self, *, is_clean: bool) -> None:
        """Have no page be there, so that `gather` can say which were touched.

        Private pages that dropping would lose are shown from a file of their own meanwhile: all of them, or where
        nothing is uncommitted those that are held. So are Wasm pages of several mappings: around a page that is read
        the kernel maps others up to the end of a Wasm page, unless the mapping begins within it, and then beyond.
        """
        if self.range is None:
            return
        if self._apart:
            self.gather()
        is_clean &= self.size_bytes == self.committed_bytes and not self.fresh and not self.written
        runs = coalesce(address // PAGE_BYTES for address in self._held) if is_clean else self._private_runs()
        groups = {*_wasm_pages(runs), *(cut // WASM_PAGE_BYTES for cut in self._cuts if cut % WASM_PAGE_BYTES)}
        apart = [(at * WASM_PAGE_BYTES, (at + 1) * WASM_PAGE_BYTES) for at in sorted(groups)]
        if apart:
            self._show_apart([run for run in apart if run[0] < self.size_bytes])
        if is_clean:
            self._kept.clear()
        self.range.in_small_pages()
        self.range.drop(0, self.size_bytes)

    def _show_apart(self, runs: list[tuple[int, int]]) -> None:
        assert self.range is not None
        file = os.memfd_create("perdure", os.MFD_CLOEXEC)
        try:
            os.ftruncate(file, self.size_bytes)
            for start, end in runs:
                os.pwrite(file, self.bytes[start:end], start)
            self._apart = runs
            for start, end in runs:
                self.range.open_file(start, end - start, file, start)
                self._cuts.update((start, end))
        finally:
            os.close(file)  # it lasts as long as it is mapped

    def gather(self) -> tuple[list[int], list[int]]:
        """Be mapped as ever again; Wasm pages that were touched since `set_apart`, and those that were written."""
        if self.range is None or self.private_pages is None:
            return [], []
        touched = _wasm_pages(self.private_pages.present(self.base, self.size_bytes))
        written = _wasm_pages(self.private_pages.runs(self.base, self.size_bytes))
        for start, end in self._apart:
            data = self.bytes[start:end].tobytes()
            self._open_pages(start, end)
            for at in range(start, end, PAGE_BYTES):
                page = data[at - start : at - start + PAGE_BYTES]
                if self.bytes[at : at + PAGE_BYTES] != page:
                    self.bytes[at : at + PAGE_BYTES] = page
        self._apart = []
        return touched, written

    # --- the mapping

    def _committed_extents(self) -> tuple[Extent, ...]:
        if self._extents is None:
            self._extents = tuple(self.image.extents())
        return self._extents

    def _initial_bytes(self) -> int:
        return 1 << (self.committed_bytes - 1).bit_length() if self.committed_bytes else 0

    def _fill(self) -> None:
        self._held = {} if self.fresh else self.image.held
        self.grow_to(self.committed_bytes)

    def _open_pages(self, start: int, end: int) -> None:
        super()._open_pages(start, end)
        # Room that the files have beyond the committed size is zero, and commits expect to find it mapped.
        for extent in self._committed_extents():
            self._show(extent, start, end)
        self._put_held(start, end)

    def _show(self, extent: Extent, start: int, end: int) -> None:
        """Map the part of `extent` that lies between `start` and `end`, whole pages."""
        assert self.range is not None
        low = max(start, extent.address)
        high = min(end, -(-(extent.address + extent.size_bytes) // PAGE_BYTES) * PAGE_BYTES)
        if low < high and extent.file_descriptor == NO_FILE:
            super()._open_pages(low, high)
        elif low < high:
            offset = low - extent.address + extent.file_offset
            self.range.open_file(low, high - low, extent.file_descriptor, offset)
            self._cuts.update((low, high))

    def _drop_reads(self) -> None:
        """Forget pages that were merely read, once walking them has cost more than mapping them again will.

        The scan walks every page mapped (8 to 14 us a MiB). Only held pages are private here, so all others may go.
        """
        self._scan_ns = 0
        self._kept.clear()
        self._drop(0, self.size_bytes)


def _wasm_pages(runs: Iterable[tuple[int, int]]) -> list[int]:
    """Wasm pages, ascending, in which the runs lie."""
    found: list[int] = []
    for start, end in runs:
        first = max(start // WASM_PAGE_BYTES, found[-1] + 1 if found else 0)
        found.extend(range(first, (end - 1) // WASM_PAGE_BYTES + 1))
    return found


def _address_of(extent: Extent) -> int:
    return extent.address
