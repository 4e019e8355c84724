"""A memory's committed bytes in layers: pieces of files, the newest on top.

```
 address  0        2 MiB       4 MiB              256 MiB
          ├──────────┬─┬─────────┬──────────────────┤
 pieces   │ base     │t│ base    │ base             │     base: shared with a fork, or a sealed file: never written
          └──────────┴─┴─────────┴──────────────────┘     t: this image's own pages, written in place
```

A region that only this image uses is written in place: a commit is one `pwrite` a run. A region that others use too (a
fork, a sealed snapshot) is never written: its page is written to a region of our own, in a block of 2 MiB at the same
distance from the block's start, so that neighbours stay neighbours; and the mapping is told to show it from there.

The first few pages written to regions that others use too are held in memory instead: most forks never write more, and
a block and a mapping for each would be most of what their first message costs. They go to blocks when there are more.

A commit has two steps, so that what can fail for want of space fails before a committed byte changes: `prepare` decides
where each page goes and has the file system allocate that; `commit` writes. A commit that was cut off may be repeated.

Every piece is one kernel mapping. A block in many pieces is copied up whole; the more mappings the process uses, the
fewer pieces are tolerated, and past the budget blocks grow until the image fits it.
"""

from __future__ import annotations

import heapq
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import final

from perdure.canister import Extent, PageDelta
from perdure.errors import StorageError
from perdure.holes import holes_take_room
from perdure.memory import PAGE_BYTES, WASM_PAGE_BYTES, check_range, overlaid
from perdure.storage.disk import Buffer, DiskFile, copy_data
from perdure.storage.pieces import Piece, Pieces, extents_of, extents_within
from perdure.storage.runs import Runs, granules_of, is_same, join_ranges, pages_of, shrinks
from perdure.storage.temporary import GRANULE_BYTES, Region, TemporaryStore

__all__ = ["BLOCK_BYTES", "TemporaryImage", "open_sealed"]

BLOCK_BYTES = 2 << 20
"""What is copied up at once: the size of a huge page, and small enough to copy within a message."""

_FIRST_REGION_BYTES = 256 << 20  # of offset space, not of disk
_COPY_BYTES = 1 << 20
_ZEROS = bytes(_COPY_BYTES)
_HELD_PAGES = 16  # of one image
_FEW_RUNS = 16
_KNOWN_PAGES = 64  # of an image, whose places are remembered
_PIECES_PER_BLOCK = 32  # in a block before it is copied up: spreads the copy of 0.4 ms over as many commits


_NO_RUNS = Runs((), 0)
_Write = tuple[DiskFile, Buffer, int]
"""A file, what to write into it, and where."""
_Place = tuple[Region, int, int, int]
"""Where runs are written in place: into what, the first of them, the first that is not, how far from their address."""


@final
class TemporaryImage:
    """An image over temporary pages, and over whatever it was forked from or opened over. One thread at a time.

    An exception at any place (one of Python's own, an asynchronous one) leaves it as it was, or refusing everything
    until the commit that was cut off is repeated. Its list of pieces changes in one store; a region's count is lowered
    last, so that what may be lost is space, until the store is closed.

    Args:
        store: where its own pages go; images that live together share one. By default one for this image alone.
    """

    def __init__(self, store: TemporaryStore | None = None) -> None:
        self._store = store or TemporaryStore()
        self._wasm_pages = 0
        self._pieces = Pieces()
        self._regions: set[Region] = set()
        self._blocks: dict[int, tuple[Region, int]] = {}  # block -> own region, file offset of the block
        self.held: Mapping[int, bytes] = {}
        """Pages by address that are not what `extents()` says but this. Replaced by a commit, never changed."""
        self._counted = (0, 0)
        self._closed = False
        self._unfinished: str | None = None  # why, where a commit was cut off
        # What was prepared: the delta, and what is to be written of it, if that is all; else its runs (with what was
        # held, where nothing is held any more), which of them are written in place, the first of the others, whether
        # those are held in memory, and, of a delta that starts anew, all that there is from then on, written already.
        self._prepared: PageDelta | None = None
        self._writes: list[_Write] | None = None
        self._runs = _NO_RUNS
        self._places: Sequence[_Place] = ()
        self._others = 0
        self._holds = False
        self._base: Region | None = None
        self._pending: list[tuple[int, int]] = []  # ranges that the next commit tells a mapping to map anew
        self._retired: list[Region] = []  # references that a mapping may need until it was told so

    # -- what a mapping is made of

    @property
    def wasm_pages(self) -> int:
        """Committed size in Wasm pages."""
        return self._wasm_pages

    @property
    def mappings(self) -> int:
        """Kernel mappings that `extents()` costs."""
        return len(self.extents())

    def extents(self) -> Sequence[Extent]:
        """File-backed runs, ascending, not overlapping. Valid until the next `commit`."""
        self._check_usable()
        return extents_of(self._pieces)

    def _check_usable(self) -> None:
        if self._closed:
            raise ValueError("the image is closed")
        if self._unfinished is not None:
            raise StorageError(f"a commit was cut off and is to be repeated: {self._unfinished}", self._store.directory)

    # -- committing: first room

    def prepare(self, delta: PageDelta) -> None:
        """Have room for `delta`, of which nothing is to be seen; see `perdure.canister.Image`.

        Raises:
            StorageError: there is none; nothing has changed.
            ValueError: a run is not whole pages, or lies outside the memory, or the memory shrinks.
        """
        if self._closed or self._unfinished is not None:
            self._check_usable()
        if (before := self._prepared) is delta:
            return
        if before is not None:
            self._prepared = None
            self._release_unused()
        self._writes = self._few_writes(delta)
        if self._writes is None:
            self._prepare_runs(delta)
        self._prepared = delta

    def _few_writes(self, delta: PageDelta) -> list[_Write] | None:
        """What a commit has to write of a delta as most messages have it: a few runs, where there is room already.

        `None`: it is another one, or wrong, which `_prepare_runs` says.
        """
        wasm_pages, runs, fresh = delta
        if fresh or wasm_pages != self._wasm_pages or len(runs) > _FEW_RUNS:
            return None
        if self.held or self._pending or self._store.holes_take_room:
            return None
        writes: list[_Write] = []
        position, pieces = 0, self._pieces
        known, before = pieces.own_pages, pieces.before
        for address, data in runs:
            end = address + len(data)
            if address in known and end - address == PAGE_BYTES and address >= position:
                region, offset = known[address]
                if region.references == 1:
                    writes.append((region.file, data, offset))
                    position = end
                    continue
            piece = before(address)
            if piece is None or (address | end) % PAGE_BYTES or address < position:
                return None
            start, stop, region, offset = piece
            if end > stop or region.references != 1:
                return None
            offset += address - start
            first, room = offset - region.offset, region.room
            low, high = first // GRANULE_BYTES, (first + end - address - 1) // GRANULE_BYTES
            if low not in room or (high != low and not room.issuperset(range(low, high + 1))):
                return None
            writes.append((region.file, data, offset))
            position = end
            if len(known) < _KNOWN_PAGES:
                known[address] = region, offset
        return writes if position <= wasm_pages * WASM_PAGE_BYTES else None

    def _prepare_runs(self, delta: PageDelta) -> None:
        wasm_pages, changed, fresh = delta
        if wasm_pages < self._wasm_pages and not fresh:
            raise shrinks(self._wasm_pages, wasm_pages)
        size_bytes = wasm_pages * WASM_PAGE_BYTES
        self._runs = runs = Runs(changed, size_bytes)
        self._base = None
        try:
            if fresh or not self._wasm_pages:
                self._prepare_anew(max(size_bytes, self._pieces.end))
            else:
                if wasm_pages > self._wasm_pages and size_bytes > self._pieces.end:
                    self._reserve(size_bytes)
                self._make_room(runs)
        except OSError as error:
            self._release_unused()
            refusal = StorageError.because("no room for a commit", error, self._store.directory)
            refusal.committed = False
            raise refusal from error

    def _prepare_anew(self, capacity: int) -> None:
        # What was mapped before must be covered again, or its old bytes would show.
        base = self._allocate(_region_bytes(capacity))
        self._runs.write(base, 0, len(self._runs.starts), base.offset)
        self._places, self._others, self._holds = (), len(self._runs.starts), False
        self._base = base

    def _make_room(self, runs: Runs) -> None:
        position, end = 0, len(runs.starts)
        places: list[_Place] = []
        # What is held covers the files, so nothing is written in place under it.
        while position < end and not self.held and (place := self._next_in_place(runs, position)):
            runs.make_room(*place)
            places.append(place)
            position = place[2]
        self._places, self._others = places, position
        if position == end:
            self._holds = False
            return
        self._holds = self._can_hold(runs, position)
        if not self._holds:
            if self.held:
                self._runs = runs = self._with_held(runs)
            self._make_room_in_blocks(runs, position)

    def _next_in_place(self, runs: Runs, position: int) -> _Place | None:
        """Where the run at `position` is written, and those after it that lie in the same piece, if that is our own."""
        piece = self._pieces.before(runs.starts[position])
        if piece is None:
            return None
        start, end, region, offset = piece
        if region.references != 1:
            return None
        stop = bisect_right(runs.ends, end, position)
        return (region, position, stop, offset - start) if stop > position else None

    def _can_hold(self, runs: Runs, first: int) -> bool:
        """Whether there is room in memory for the runs from `first` on."""
        pages = sum(map(len, runs.buffers[first:])) // PAGE_BYTES
        if pages > _HELD_PAGES or self._store.held_pages + pages > self._store.held_budget:
            return False
        return len(self.held) + pages <= _HELD_PAGES or len(self.held.keys() | pages_of(runs, first).keys()) <= (
            _HELD_PAGES
        )

    def _with_held(self, runs: Runs) -> Runs:
        pages = {**self.held, **pages_of(runs, 0)}
        return Runs(sorted(pages.items()), self._pieces.end)

    def _make_room_in_blocks(self, runs: Runs, first: int) -> None:
        for index in range(first, len(runs.starts)):
            address, end = runs.starts[index], runs.ends[index]
            while address < end:
                piece, stop = self._part(address, end)
                if piece is not None:
                    # A run may go on into the next region, where these granules are not.
                    start = address + piece.offset - piece.start - piece.region.offset
                    piece.region.make_room(granules_of(start, stop - address))
                else:  # not to be seen before it is placed
                    self._write_block(address, runs.part(index, address, stop))
                address = stop

    def _write_block(self, address: int, data: memoryview) -> tuple[Region, int]:
        """Write into a block of our own, had where it is not yet; its region, and where the data is in the file."""
        block = address // BLOCK_BYTES
        found = self._blocks.get(block)
        if found is None or found[0].references != 1:
            region = self._allocate(BLOCK_BYTES)
            found = self._blocks[block] = (region, region.offset)
        region, offset = found
        offset += address - block * BLOCK_BYTES
        region.file.pwrite(data, offset)
        return region, offset

    # -- committing: then bytes

    def commit(self, delta: PageDelta) -> Sequence[Extent]:
        """Make `delta` the committed content; see `perdure.canister.Image`.

        Raises:
            StorageError: it could not be written. Where there was no room, nothing has changed. Else the image refuses
                further use until a commit of the same delta succeeds; a mapping is then to be made anew.
            ValueError: a run is not whole pages, or lies outside the memory, or the memory shrinks.
        """
        prepared = self._prepared
        if prepared is not delta and not is_same(prepared, delta):
            self.prepare(delta)
        elif self._closed:
            self._check_usable()
        self._unfinished = "it was interrupted"
        moved: Sequence[Extent] = ()
        try:
            if self._writes is None:
                moved = self._commit_runs(delta)
            else:
                for file, data, offset in self._writes:
                    file.pwrite(data, offset)
        except OSError as error:
            self._unfinished = error.strerror or str(error)
            raise StorageError.because("commit failed", error, self._store.directory) from error
        self._unfinished = None  # before what was prepared is forgotten: cut off in between, it can be repeated
        self._prepared = None
        self._runs, self._writes = _NO_RUNS, None  # a view of a mapping keeps its addresses
        if moved:
            self.unmapped()
        return moved

    def _commit_runs(self, delta: PageDelta) -> Sequence[Extent]:
        runs = self._runs
        if self._base is not None:
            self._start_anew(self._base)
        for place in self._places:
            runs.write(*place)
        if self._holds:
            self.held = {**self.held, **pages_of(runs, self._others)}
            self._recount()
        elif self._others < len(runs.starts):
            self._write_runs(runs, self._others)
            self.held = {}
        self._wasm_pages = delta.wasm_pages
        if self._store.holes_take_room and not self._holds:
            self._pending += zip(runs.starts, runs.ends, strict=True)  # what was a hole is to be mapped now
        return self._moved() if self._pending or self._counted[1] != len(self.held) else ()

    def _moved(self) -> Sequence[Extent]:
        self._release_unused()
        self._recount()
        ranges = join_ranges(sorted(self._pending))
        return [extent for start, end in ranges for extent in extents_within(self._pieces, start, end)]

    def _start_anew(self, base: Region) -> None:
        self._pending.append((0, base.size_bytes))
        self._pieces = Pieces([Piece(0, base.size_bytes, base, base.offset)])
        self._blocks, self.held = {}, {}

    def _reserve(self, size_bytes: int) -> None:
        """Back the memory up to `size_bytes` and more, so that most grows need no new mapping."""
        start, end = self._pieces.end, _region_bytes(size_bytes)
        region = self._allocate(end - start)
        self._pending.append((start, end))
        self._pieces.place(start, end, region, region.offset)

    def _allocate(self, size_bytes: int) -> Region:
        region = self._store.allocate(size_bytes)
        self._regions.add(region)
        return region

    def _write_runs(self, runs: Runs, position: int) -> None:
        """Write runs from `position` on to pieces of our own, where need be to new ones."""
        while position < len(runs.starts):
            if (place := self._next_in_place(runs, position)) is not None:
                runs.write(*place)
                position = place[2]
                continue
            address, end = runs.starts[position], runs.ends[position]
            while address < end:
                own, stop = self._part(address, end)
                data = runs.part(position, address, stop)
                if own is not None:
                    own.region.file.pwrite(data, own.offset + address - own.start)
                else:
                    region, offset = self._write_block(address, data)
                    self._pending.append((address, stop))
                    self._pieces.place(address, stop, region, offset)
                    self._spare_mappings(address // BLOCK_BYTES, runs, position)
                address = stop
            position += 1

    def _part(self, address: int, end: int) -> tuple[Piece | None, int]:
        """A piece of our own that `address` lies in, if there is one, and how far one write from there can go."""
        piece = self._pieces.before(address)
        if piece is not None and address < piece.end:
            end = min(piece.end, end)
            if piece.region.references == 1:
                return piece, end
        else:
            end = self._pieces.next_start(address, end)
        return None, min(end, (address // BLOCK_BYTES + 1) * BLOCK_BYTES)

    # -- keeping the number of mappings within the budget

    def _used_mappings(self) -> int:
        return self._store.mappings + len(self._pieces) - self._counted[0]

    def _spare_mappings(self, block: int, runs: Runs, position: int) -> None:
        used = self._used_mappings()
        budget = self._store.mapping_budget
        allowed = _PIECES_PER_BLOCK if 2 * used < budget else 4 if used < budget else 1
        start = block * BLOCK_BYTES
        size_bytes = BLOCK_BYTES
        try:
            if self._pieces.count(start, start + size_bytes) > allowed:
                self._copy_up(start, start + size_bytes, runs, position)
            # Past the budget, join ever larger blocks around the write, in the end the whole image.
            while self._used_mappings() > budget and size_bytes < self._pieces.end:
                size_bytes *= 8
                start -= start % size_bytes
                end = min(start + size_bytes, self._pieces.end)
                if self._pieces.count(start, end) > 1:
                    self._copy_up(start, end, runs, position)
        except OSError:
            return  # no room for the copy: the image stays in more pieces for now

    def _copy_up(self, start: int, end: int, runs: Runs | None = None, position: int = 0) -> None:
        """Make `[start, end)` one piece of our own, with room for what runs from `position` on will write there."""
        end = min(end, max(self._pieces.end, start + BLOCK_BYTES))
        region = self._allocate(end - start)
        try:
            for piece_start, piece_end, source, offset in list(self._pieces.within(start, end)):
                moved = region.offset + piece_start - start - offset
                for data_start, data_end in source.file.data_ranges(offset, offset + piece_end - piece_start):
                    copy_data(source.file, data_start, region.file, data_start + moved, data_end - data_start)
            if runs is not None:
                for index in range(position, bisect_left(runs.starts, end, position)):
                    first, stop = max(start, runs.starts[index]), min(end, runs.ends[index])
                    region.make_room(granules_of(first - start, stop - first))
        except OSError:
            self._regions.discard(region)
            self._store.release(region)
            raise
        self._pending.append((start, end))
        self._pieces.place(start, end, region, region.offset)
        for block in range(start // BLOCK_BYTES, -(-end // BLOCK_BYTES)):
            self._blocks[block] = (region, region.offset + block * BLOCK_BYTES - start)

    def merge(self) -> None:
        """Bring the image into one piece, in pages of its own. The image must not be mapped."""
        self._check_usable()
        pending = self._pending.copy()
        if len(self._pieces) > 1 or any(piece.region.references != 1 for piece in self._pieces):
            try:
                self._copy_up(0, self._pieces.end)
            except OSError as error:
                raise StorageError.because("merge failed", error, self._store.directory) from error
            self._release_unused()
        self.write_held()
        self._pending = pending
        self._recount()

    def write_held(self) -> None:
        """Bring what is held into files, so that `extents()` is all there is. The image must not be mapped."""
        self._check_usable()
        if not self.held:
            return
        pending = self._pending.copy()
        try:
            held = self._with_held(Runs((), 0))
            self._make_room_in_blocks(held, 0)
            self._write_runs(held, 0)
        except OSError as error:
            raise StorageError.because("no room for held pages", error, self._store.directory) from error
        self.held = {}
        self._pending = pending
        self._release_unused()
        self._recount()

    def cut(self, wasm_pages: int) -> None:
        """Shrink to `wasm_pages`, as no canister can: a past that was smaller. The image must not be mapped."""
        end = wasm_pages * WASM_PAGE_BYTES
        for start, stop in list(self.data_ranges()):
            for at in range(max(start, end), stop, _COPY_BYTES):
                self.commit(PageDelta(self._wasm_pages, [(at, memoryview(_ZEROS)[: min(_COPY_BYTES, stop - at)])]))
        self.write_held()
        self._wasm_pages = wasm_pages

    # -- forks and other images made of the same pieces

    def fork(self) -> TemporaryImage:
        """A second image with this content; from now on neither sees what the other commits. Both may be mapped."""
        self._check_usable()
        self._prepared = None
        self._release_unused()
        child = TemporaryImage(self._store)
        for region in self._regions:  # each counted first: a child that is cut off gives back what it has
            self._store.retain(region)
            child._regions.add(region)
        child._wasm_pages = self._wasm_pages
        child._pieces = self._pieces.copy()
        child._blocks = self._blocks.copy()
        child.held = self.held
        child._recount()
        return child

    def rebase(self, pieces: Pieces, wasm_pages: int) -> None:
        """Be nothing but these pieces (same content), of sealed files; mappings follow with the next commit."""
        self._check_usable()
        self._pending += self._pieces.moved(pieces)
        if any(piece.region.holes_take_room for piece in pieces):  # where it was held, a hole may have been mapped
            self._pending += [(page, page + PAGE_BYTES) for page in self.held]
        regions, self._regions = self._regions, set()
        for region in {piece.region for piece in pieces}:
            self._store.retain(region)
            self._regions.add(region)
        self._retired += regions
        self._pieces, self._blocks, self.held = pieces, {}, {}
        self._prepared = None
        self._wasm_pages = wasm_pages
        self._recount()

    def unmapped(self) -> None:
        """Say that no mapping exists any more: what was kept for one is let go."""
        self._pending = []
        while self._retired:
            self._store.release(self._retired.pop())

    def references_to(self, region: Region) -> int:
        """How many of the region's references are this image's, mappings made from it included."""
        return (region in self._regions) + self._retired.count(region)

    # -- reading

    def read(self, address: int, size_bytes: int) -> bytes:
        """Committed bytes. Raises `IndexError` outside the memory."""
        self._check_usable()
        check_range(address, size_bytes, self._wasm_pages * WASM_PAGE_BYTES)
        parts: list[bytes] = []
        position = address
        for start, end, region, offset in self._pieces.within(address, address + size_bytes):
            parts.append(bytes(start - position))
            found = region.file.pread(end - start, offset)
            parts.append(found)
            parts.append(bytes(end - start - len(found)))
            position = end
        parts.append(bytes(address + size_bytes - position))
        data = b"".join(parts)
        return overlaid(data, address, self.held) if self.held else data

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        """Address ranges of whole pages that may hold anything but zeros, ascending."""
        held = [(page, page + PAGE_BYTES) for page in sorted(self.held)]
        return join_ranges(heapq.merge(self._ranges_in_files(), held))

    def _ranges_in_files(self) -> Iterator[tuple[int, int]]:
        size_bytes = self._wasm_pages * WASM_PAGE_BYTES
        for start, end, region, offset in list(self._pieces.within(0, size_bytes)):
            for data_start, data_end in region.file.data_ranges(offset, offset + end - start):
                first = start + (data_start - offset) // PAGE_BYTES * PAGE_BYTES
                yield first, min(size_bytes, start - (offset - data_end) // PAGE_BYTES * PAGE_BYTES)

    def close(self) -> None:
        """Let go of the files. The image must not be mapped any more. Again is fine."""
        if not self._closed:
            self._forget_pieces()
            self.unmapped()
            self._closed = True
            self._recount()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:  # as the store's
        if hasattr(self, "_retired") and not is_finalizing():
            self.close()

    # -- regions in use

    def _forget_pieces(self) -> None:
        self._pieces, self._blocks, self.held = Pieces(), {}, {}
        self._prepared = None
        while self._regions:
            self._store.release(self._regions.pop())

    def _release_unused(self) -> None:
        unused = self._regions - {piece.region for piece in self._pieces}
        if unused:
            self._blocks = {block: found for block, found in self._blocks.items() if found[0] not in unused}
            for region in unused:
                self._regions.discard(region)
                self._store.release(region)

    def _recount(self) -> None:
        counted = len(self._pieces), len(self.held)
        if counted != self._counted:
            self._store.count(counted[0] - self._counted[0], counted[1] - self._counted[1])
            self._counted = counted


def open_sealed(store: TemporaryStore, file: DiskFile, *, offset: int = 0) -> TemporaryImage:
    """An image over a file that is never written, such as a snapshot's ``stable_memory.bin``, from `offset` on.

    Its size is the file's, rounded up to a Wasm page. `file` is closed with the image and the last of its forks, or by
    the caller after them. It must not be cut while it is mapped: a page past its end is SIGBUS.
    """
    size_bytes = max(file.size() - offset, 0)
    image = TemporaryImage(store)
    # One user that never goes away: the region is never this image's alone.
    takes_room = holes_take_room(file.descriptor)
    region = Region(file, offset, size_bytes, references=1, holes_take_room=takes_room)
    image.rebase(Pieces.of(region), -(-size_bytes // WASM_PAGE_BYTES))
    image.unmapped()
    return image


def _region_bytes(size_bytes: int) -> int:
    end = _FIRST_REGION_BYTES
    while end < size_bytes:
        end *= 2
    return end
