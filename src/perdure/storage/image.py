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

Every piece is one kernel mapping. A block in many pieces is copied up whole; the more mappings the process uses, the
fewer pieces are tolerated, and past the budget blocks grow until the image fits it.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from itertools import islice
from operator import add, eq, le, or_
from typing import NamedTuple, final

from perdure.canister import Extent, PageDelta
from perdure.errors import StorageError
from perdure.memory import PAGE_BYTES, WASM_PAGE_BYTES, check_range, overlaid
from perdure.storage.disk import Buffer, DiskFile
from perdure.storage.temporary import Region, TemporaryStore

__all__ = ["BLOCK_BYTES", "TemporaryImage", "check_delta", "open_sealed"]

BLOCK_BYTES = 2 << 20
"""What is copied up at once: the size of a huge page, and small enough to copy within a message."""

_FIRST_REGION_BYTES = 256 << 20  # of offset space, not of disk
_COPY_BYTES = 1 << 20
_ZEROS = bytes(_COPY_BYTES)
_HELD_PAGES = 16  # of one image
_PIECES_PER_BLOCK = 32  # in a block before it is copied up: spreads the copy of 0.4 ms over as many commits


class _Piece(NamedTuple):
    start: int
    end: int
    region: Region
    offset: int  # in the region's file


@final
class TemporaryImage:
    """An image over temporary pages, and over whatever it was forked from or opened over. One thread at a time.

    Args:
        store: where its own pages go; images that live together share one. By default one for this image alone.
    """

    def __init__(self, store: TemporaryStore | None = None) -> None:
        self._store = store or TemporaryStore()
        self._wasm_pages = 0
        self._starts: list[int] = []
        self._pieces: list[_Piece] = []
        self._regions: set[Region] = set()
        self._blocks: dict[int, tuple[Region, int]] = {}  # block -> own region, file offset of the block
        self._held: Mapping[int, bytes] = {}
        self._counted = (0, 0)
        self._closed = False
        self._broken: str | None = None
        self._pending: list[tuple[int, int]] = []  # ranges that the next commit tells a mapping to map anew
        self._retired: list[Region] = []  # references that a mapping may need until it was told so
        self._capacity = 0  # where the last piece ends

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
        return _join(self._pieces)

    @property
    def held(self) -> Mapping[int, bytes]:
        """Pages by address that are not what `extents()` says but this. Replaced by a commit, never changed."""
        return self._held

    def _check_usable(self) -> None:
        if self._closed:
            raise ValueError("the image is closed")
        if self._broken is not None:
            raise StorageError(f"unusable after a failed commit: {self._broken}", self._store.directory)

    # -- committing

    def commit(self, delta: PageDelta) -> Sequence[Extent]:
        """Make `delta` the committed content; see `perdure.canister.Image`.

        Raises:
            StorageError: the pages could not be written; the image refuses further use.
            ValueError: a run is not whole pages, or lies outside the memory, or the memory shrinks.
        """
        self._check_usable()
        wasm_pages, runs, fresh = delta
        if wasm_pages < self._wasm_pages and not fresh:
            raise ValueError(f"a memory of {self._wasm_pages} Wasm pages cannot shrink to {wasm_pages}")
        size_bytes = wasm_pages * WASM_PAGE_BYTES
        checked = _Runs(runs, size_bytes)
        remap: list[tuple[int, int]] = []
        retired: list[Region] = []
        if self._pending:
            remap, self._pending = self._pending, remap
            retired, self._retired = self._retired, retired
        try:
            if fresh:
                self._start_anew(remap)
            if size_bytes > self._capacity:
                self._reserve(size_bytes, remap)
            # What is held covers the files, so nothing is written in place under it.
            done = 0 if self._held else self._write_in_place(checked, 0)
            if done < len(checked.starts) and not self._hold(checked, done):
                self._write_held(remap)
                self._write_runs(checked, done, remap)
        except OSError as error:
            raise self._break(error) from error
        self._wasm_pages = wasm_pages
        if not remap:
            return ()
        self._recount()
        for region in retired:
            self._store.release(region)
        return self._extents_within(remap)

    def _start_anew(self, remap: list[tuple[int, int]]) -> None:
        # What was mapped before must be covered again, or its old bytes would show.
        capacity = self._capacity
        self._forget_pieces()
        if capacity:
            self._reserve(capacity, remap)

    def _break(self, error: OSError) -> StorageError:
        # In-place pages may be half written, and what they held before is gone.
        self._broken = error.strerror or str(error)
        return StorageError(f"commit failed: {self._broken}", self._store.directory)

    def _reserve(self, size_bytes: int, remap: list[tuple[int, int]]) -> None:
        """Back the memory up to `size_bytes` and more, so that most grows need no new mapping."""
        start = self._capacity
        end = _FIRST_REGION_BYTES
        while end < size_bytes:
            end *= 2
        region = self._allocate(end - start)
        self._place(start, end, region, region.offset)
        remap.append((start, end))

    def _allocate(self, size_bytes: int) -> Region:
        region = self._store.allocate(size_bytes)
        self._regions.add(region)
        return region

    def _write_in_place(self, runs: _Runs, position: int) -> int:
        """Write to pieces of our own, all runs of a piece at once, up to a run that is not in one; its position."""
        while position < len(runs.starts):
            index = bisect_right(self._starts, runs.starts[position]) - 1
            if index < 0:
                break
            start, end, region, offset = self._pieces[index]
            stop = bisect_right(runs.ends, end, position)
            if region.references != 1 or stop == position:
                break
            runs.write(region.file, position, stop, offset - start)
            position = stop
        return position

    def _hold(self, runs: _Runs, first: int) -> bool:
        """Keep few pages in memory, those of the runs from `first` on; whether there was room."""
        buffers = runs.buffers[first:]
        pages = sum(map(len, buffers)) // PAGE_BYTES
        if pages > _HELD_PAGES or self._store.held_pages + pages > self._store.held_budget:
            return False
        held = dict(self._held)
        for address, buffer in zip(runs.starts[first:], buffers, strict=True):
            for at in range(0, len(buffer), PAGE_BYTES):
                held[address + at] = bytes(buffer[at : at + PAGE_BYTES])
        if len(held) > _HELD_PAGES:
            return False
        self._held = held
        self._recount()
        return True

    def _write_held(self, remap: list[tuple[int, int]]) -> None:
        if self._held:
            self._write_runs(_Runs(sorted(self._held.items()), self._capacity), 0, remap)
            self._held = {}

    def _write_runs(self, runs: _Runs, position: int, remap: list[tuple[int, int]]) -> None:
        """Write runs from `position` on to pieces of our own, where need be to new ones."""
        while (position := self._write_in_place(runs, position)) < len(runs.starts):
            address, data = runs.starts[position], memoryview(runs.buffers[position]).cast("B")
            while data:
                written = self._write_part(address, data, remap)
                address += written
                data = data[written:]
            position += 1

    def _write_part(self, address: int, data: memoryview, remap: list[tuple[int, int]]) -> int:
        """Write as much as lies in one piece of our own or outside of any; the bytes written."""
        index = bisect_right(self._starts, address) - 1
        if index >= 0 and address < self._pieces[index].end:
            piece = self._pieces[index]
            end = min(piece.end, address + len(data))
            if piece.region.references == 1:
                piece.region.file.pwrite(data[: end - address], piece.offset + address - piece.start)
                return end - address
        else:
            following = self._starts[index + 1] if index + 1 < len(self._starts) else address + len(data)
            end = min(following, address + len(data))
        end = min(end, (address // BLOCK_BYTES + 1) * BLOCK_BYTES)
        self._write_up(address, data[: end - address], remap)
        return end - address

    def _write_up(self, address: int, data: memoryview, remap: list[tuple[int, int]]) -> None:
        """Write into a block of our own and let it cover what was there."""
        block = address // BLOCK_BYTES
        region, offset = self._own_block(block)
        offset += address - block * BLOCK_BYTES
        region.file.pwrite(data, offset)
        end = address + len(data)
        self._place(address, end, region, offset)
        remap.append((address, end))
        self._spare_mappings(block, remap)

    def _own_block(self, block: int) -> tuple[Region, int]:
        found = self._blocks.get(block)
        if found is None or found[0].references != 1:
            region = self._allocate(BLOCK_BYTES)
            found = self._blocks[block] = (region, region.offset)
        return found

    # -- keeping the number of mappings within the budget

    def _used_mappings(self) -> int:
        return self._store.mappings + len(self._pieces) - self._counted[0]

    def _spare_mappings(self, block: int, remap: list[tuple[int, int]]) -> None:
        used = self._used_mappings()
        budget = self._store.mapping_budget
        allowed = _PIECES_PER_BLOCK if 2 * used < budget else 4 if used < budget else 1
        start = block * BLOCK_BYTES
        size_bytes = BLOCK_BYTES
        if self._count_pieces(start, start + size_bytes) > allowed:
            self._copy_up(start, start + size_bytes, remap)
        # Past the budget, join ever larger blocks around the write, in the end the whole image.
        while self._used_mappings() > budget and size_bytes < self._capacity:
            size_bytes *= 8
            start -= start % size_bytes
            end = min(start + size_bytes, self._capacity)
            if self._count_pieces(start, end) > 1:
                self._copy_up(start, end, remap)

    def _count_pieces(self, start: int, end: int) -> int:
        return bisect_left(self._starts, end) - bisect_right(self._starts, start) + 1

    def _copy_up(self, start: int, end: int, remap: list[tuple[int, int]]) -> None:
        """Make `[start, end)` one piece of our own."""
        end = min(end, max(self._capacity, start + BLOCK_BYTES))
        region = self._allocate(end - start)
        for piece_start, piece_end, source, offset in list(self._pieces_within(start, end)):
            moved = region.offset + piece_start - start - offset
            for data_start, data_end in source.file.data_ranges(offset, offset + piece_end - piece_start):
                _copy(source.file, data_start, region.file, data_start + moved, data_end - data_start)
        self._place(start, end, region, region.offset)
        for block in range(start // BLOCK_BYTES, -(-end // BLOCK_BYTES)):
            self._blocks[block] = (region, region.offset + block * BLOCK_BYTES - start)
        remap.append((start, end))
        self._release_unused()

    def merge(self) -> None:
        """Bring the image into one piece, in pages of its own. The image must not be mapped."""
        self._check_usable()
        if len(self._pieces) > 1 or any(piece.region.references != 1 for piece in self._pieces):
            try:
                self._copy_up(0, self._capacity, [])
            except OSError as error:
                raise StorageError(f"merge failed: {error.strerror}", self._store.directory) from error
        self.write_held()

    def write_held(self) -> None:
        """Bring what is held into files, so that `extents()` is all there is. The image must not be mapped."""
        self._check_usable()
        try:
            self._write_held([])
        except OSError as error:
            raise StorageError(f"no room for held pages: {error.strerror}", self._store.directory) from error
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
        self._release_unused()
        child = TemporaryImage(self._store)
        child._wasm_pages = self._wasm_pages
        child._starts = self._starts.copy()
        child._pieces = self._pieces.copy()
        child._capacity = self._capacity
        child._blocks = self._blocks.copy()
        child._regions = self._regions.copy()
        child._held = self._held
        for region in child._regions:
            self._store.retain(region)
        child._recount()
        return child

    def rebase(self, base: Region, wasm_pages: int) -> None:
        """Be nothing but `base` (same content) from now on; mappings follow with the next commit."""
        self._check_usable()
        self._pending += [(piece.start, piece.end) for piece in self._pieces if piece.region is not base]
        self._store.retain(base)
        self._retired += self._regions
        self._regions = set()
        self._forget_pieces()
        self._wasm_pages = wasm_pages
        self._regions.add(base)
        if base.size_bytes:
            # The rest of a last, partial page reads as zeros, mapped or not.
            self._place(0, -(-base.size_bytes // PAGE_BYTES) * PAGE_BYTES, base, base.offset)
        self._recount()

    def unmapped(self) -> None:
        """Say that no mapping exists any more: what was kept for one is let go."""
        self._pending = []
        for region in self._retired:
            self._store.release(region)
        self._retired = []

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
        for start, end, region, offset in self._pieces_within(address, address + size_bytes):
            parts.append(bytes(start - position))
            found = region.file.pread(end - start, offset)
            parts.append(found)
            parts.append(bytes(end - start - len(found)))
            position = end
        parts.append(bytes(address + size_bytes - position))
        data = b"".join(parts)
        return overlaid(data, address, self._held) if self._held else data

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        """Address ranges of whole pages that may hold anything but zeros, ascending."""
        held = [(page, page + PAGE_BYTES) for page in sorted(self._held)]
        return _join_ranges(heapq.merge(self._ranges_in_files(), held))

    def _ranges_in_files(self) -> Iterator[tuple[int, int]]:
        size_bytes = self._wasm_pages * WASM_PAGE_BYTES
        for start, end, region, offset in list(self._pieces_within(0, size_bytes)):
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

    # -- the list of pieces

    def _pieces_within(self, start: int, end: int) -> Iterator[_Piece]:
        index = max(bisect_right(self._starts, start) - 1, 0)
        while index < len(self._pieces) and (piece := self._pieces[index]).start < end:
            if piece.end > start:
                first = max(start, piece.start)
                yield _Piece(first, min(end, piece.end), piece.region, piece.offset + first - piece.start)
            index += 1

    def _place(self, start: int, end: int, region: Region, offset: int) -> None:
        """Let `[start, end)` come from `region`, whatever was there, joined with what it continues."""
        first = bisect_right(self._starts, start) - 1
        if first < 0 or self._pieces[first].end <= start:
            first += 1
        last = bisect_left(self._starts, end)
        placed: list[_Piece] = []
        if first < last and (head := self._pieces[first]).start < start:
            placed.append(head._replace(end=start))
        placed.append(_Piece(start, end, region, offset))
        if first < last and (tail := self._pieces[last - 1]).end > end:
            placed.append(_Piece(end, tail.end, tail.region, tail.offset + end - tail.start))
        if first > 0:
            first -= 1
            placed.insert(0, self._pieces[first])
        if last < len(self._pieces):
            placed.append(self._pieces[last])
            last += 1
        joined = _join_pieces(placed)
        self._pieces[first:last] = joined
        self._starts[first:last] = [piece.start for piece in joined]
        self._capacity = self._pieces[-1].end

    def _extents_within(self, ranges: list[tuple[int, int]]) -> Sequence[Extent]:
        joined = _join_ranges(sorted(ranges))
        return [extent for start, end in joined for extent in _join(self._pieces_within(start, end))]

    def _forget_pieces(self) -> None:
        for region in self._regions:
            self._store.release(region)
        self._regions = set()
        self._starts, self._pieces, self._blocks, self._held = [], [], {}, {}
        self._capacity = 0

    def _release_unused(self) -> None:
        unused = self._regions - {piece.region for piece in self._pieces}
        if unused:
            self._blocks = {block: found for block, found in self._blocks.items() if found[0] not in unused}
            for region in unused:
                self._regions.discard(region)
                self._store.release(region)

    def _recount(self) -> None:
        counted = len(self._pieces), len(self._held)
        if counted != self._counted:
            self._store.count(counted[0] - self._counted[0], counted[1] - self._counted[1])
            self._counted = counted


def open_sealed(store: TemporaryStore, file: DiskFile, *, offset: int = 0) -> TemporaryImage:
    """An image over a file that is never written, such as a snapshot's ``stable_memory.bin``, from `offset` on.

    Its size is the file's, rounded up to a Wasm page. The caller closes `file` after the image and its forks. The file
    must not be cut while it is mapped: a page past its end is SIGBUS.
    """
    size_bytes = max(file.size() - offset, 0)
    image = TemporaryImage(store)
    # One user that never goes away: the region is never this image's alone.
    image.rebase(Region(file, offset, size_bytes, references=1), -(-size_bytes // WASM_PAGE_BYTES))
    image.unmapped()
    return image


def check_delta(delta: PageDelta, wasm_pages: int) -> None:
    """Raise `ValueError` unless `delta` can be committed to a memory of `wasm_pages`."""
    if delta.wasm_pages < wasm_pages and not delta.fresh:
        raise ValueError(f"a memory of {wasm_pages} Wasm pages cannot shrink to {delta.wasm_pages}")
    _Runs(delta.runs, delta.wasm_pages * WASM_PAGE_BYTES)


class _Runs:
    """Runs of a delta, checked: whole pages, ascending, within the memory. No Python instruction per run."""

    __slots__ = ("buffers", "ends", "starts")

    def __init__(self, runs: Sequence[tuple[int, Buffer]], size_bytes: int) -> None:
        if len(runs) == 1:
            ((start, buffer),) = runs
            end = start + len(buffer)
            if start % PAGE_BYTES or end % PAGE_BYTES or not 0 <= start <= end <= size_bytes:
                raise self._error(start, end - start, size_bytes)
            self.starts, self.buffers, self.ends = [start], [buffer], [end]
            return
        self.starts = [start for start, _ in runs]
        self.buffers = [buffer for _, buffer in runs]
        self.ends = list(map(add, self.starts, map(len, self.buffers)))
        bits = reduce(or_, self.starts, 0) | reduce(or_, self.ends, 0)
        ascending = all(map(le, self.ends, islice(self.starts, 1, None))) and all(map(le, self.starts, self.ends))
        if bits % PAGE_BYTES or bits < 0 or not ascending or (self.ends and self.ends[-1] > size_bytes):
            self._explain(size_bytes)

    def _explain(self, size_bytes: int) -> None:
        position = 0
        for start, end in zip(self.starts, self.ends, strict=True):
            if start % PAGE_BYTES or end % PAGE_BYTES or end > size_bytes or start < 0:
                raise self._error(start, end - start, size_bytes)
            if start < position:
                raise ValueError(f"runs are not ascending: {start:#x} after {position:#x}")
            position = end

    @staticmethod
    def _error(start: int, run_bytes: int, size_bytes: int) -> ValueError:
        what = f"{run_bytes} bytes at {start:#x}"
        return ValueError(f"a run of {what} is not whole pages of a memory of {size_bytes:#x} bytes")

    def write(self, file: DiskFile, first: int, stop: int, distance: int) -> None:
        """Write runs `first` to `stop` at their address plus `distance`, neighbours in one call."""
        if stop - first == 1:
            file.pwrite(self.buffers[first], self.starts[first] + distance)
            return
        starts, buffers = self.starts[first:stop], self.buffers[first:stop]
        touching = sum(map(eq, self.ends[first:stop], islice(starts, 1, None)))
        if 4 * touching < len(starts):
            file.pwrite_each(buffers, list(map(distance.__add__, starts)))
            return
        begin = 0
        for index in range(1, len(starts) + 1):
            if index == len(starts) or starts[index] != self.ends[first + index - 1]:
                file.pwritev(buffers[begin:index], starts[begin] + distance)
                begin = index


def _join_ranges(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Ascending ranges, those that touch as one."""
    start = end = -1
    for low, high in ranges:
        if low > end:
            if end > start:
                yield start, end
            start, end = low, high
        else:
            end = max(end, high)
    if end > start:
        yield start, end


def _join_pieces(pieces: list[_Piece]) -> list[_Piece]:
    joined = pieces[:1]
    for piece in pieces[1:]:
        last = joined[-1]
        continues = last.region is piece.region and last.offset + last.end - last.start == piece.offset
        if continues and last.end == piece.start:
            joined[-1] = last._replace(end=piece.end)
        else:
            joined.append(piece)
    return joined


def _join(pieces: Iterator[_Piece] | list[_Piece]) -> list[Extent]:
    """Extents, joined also across regions that lie side by side in one file."""
    extents: list[Extent] = []
    for start, end, region, offset in pieces:
        descriptor = region.file.descriptor
        if extents:
            last = extents[-1]
            ends_at = last.address + last.size_bytes, last.file_descriptor, last.file_offset + last.size_bytes
            if ends_at == (start, descriptor, offset):
                extents[-1] = last._replace(size_bytes=end - last.address)
                continue
        extents.append(Extent(start, end - start, descriptor, offset))
    return extents


def _copy(source: DiskFile, source_offset: int, target: DiskFile, target_offset: int, size_bytes: int) -> None:
    """Copy, leaving holes where there are only zeros."""
    for start in range(0, size_bytes, _COPY_BYTES):
        data = source.pread(min(_COPY_BYTES, size_bytes - start), source_offset + start)
        if data != _ZEROS[: len(data)]:
            target.pwrite(data, target_offset + start)
