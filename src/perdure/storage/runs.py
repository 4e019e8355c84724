"""Runs of pages: checked and written without a Python instruction for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from itertools import islice
from operator import add, eq, le, or_
from typing import final

from perdure.canister import PageDelta
from perdure.memory import PAGE_BYTES, WASM_PAGE_BYTES
from perdure.storage.disk import Buffer
from perdure.storage.temporary import GRANULE_BYTES, Region

__all__ = ["Runs", "check_delta", "granules_of", "is_same", "join_ranges", "pages_of", "shrinks"]


_FEW = 8


def check_delta(delta: PageDelta, wasm_pages: int) -> None:
    """Raise `ValueError` unless `delta` can be committed to a memory of `wasm_pages`.

    It cannot where a run is not whole pages, or lies outside the memory, or the memory shrinks.
    """
    if delta.wasm_pages < wasm_pages and not delta.fresh:
        raise shrinks(wasm_pages, delta.wasm_pages)
    Runs(delta.runs, delta.wasm_pages * WASM_PAGE_BYTES)


def shrinks(old_wasm_pages: int, wasm_pages: int) -> ValueError:
    """The error for a delta that makes a memory smaller."""
    return ValueError(f"a memory of {old_wasm_pages} Wasm pages cannot shrink to {wasm_pages}")


@final
class Runs:
    """Runs of a delta, checked: whole pages, ascending, within the memory."""

    __slots__ = ("buffers", "ends", "starts")

    def __init__(self, runs: Sequence[tuple[int, Buffer]], size_bytes: int) -> None:
        if len(runs) >= _FEW:
            self._take_many(runs, size_bytes)
            return
        starts: list[int] = []
        ends: list[int] = []
        buffers: list[Buffer] = []
        self.starts, self.ends, self.buffers = starts, ends, buffers
        position = 0
        for start, buffer in runs:
            end = start + len(buffer)
            starts.append(start)
            buffers.append(buffer)
            ends.append(end)
            if (start | end) % PAGE_BYTES or start < position or end > size_bytes:
                self._explain(size_bytes)
            position = end

    def _take_many(self, runs: Sequence[tuple[int, Buffer]], size_bytes: int) -> None:
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

    def write(self, region: Region, first: int, stop: int, distance: int) -> None:
        """Write runs `first` to `stop` into a region's file at their address plus `distance`, neighbours at once."""
        file = region.file
        if stop - first == 1:
            file.pwrite(self.buffers[first], self.starts[first] + distance)
            return
        starts, ends, buffers = self.starts, self.ends, self.buffers
        if stop - first >= _FEW:
            touching = sum(map(eq, ends[first:stop], islice(starts, first + 1, stop)))
            if 4 * touching < stop - first:
                file.pwrite_each(buffers[first:stop], list(map(distance.__add__, starts[first:stop])))
                return
        while first < stop:
            last = first + 1
            while last < stop and starts[last] == ends[last - 1]:
                last += 1
            if last - first == 1:
                file.pwrite(buffers[first], starts[first] + distance)
            else:
                file.pwritev(buffers[first:last], starts[first] + distance)
            first = last

    def make_room(self, region: Region, first: int, stop: int, distance: int) -> None:
        """Have space in a region's file for runs `first` to `stop` at their address plus `distance`.

        Raises:
            OSError: there is none.
        """
        room = region.room
        distance -= region.offset
        needed = set(map(GRANULE_BYTES.__rfloordiv__, map(distance.__add__, self.starts[first:stop])))
        needed.update(map(GRANULE_BYTES.__rfloordiv__, map((distance - 1).__add__, self.ends[first:stop])))
        if max(map(len, self.buffers[first:stop])) > GRANULE_BYTES:
            for start, end in zip(self.starts[first:stop], self.ends[first:stop], strict=True):
                needed.update(granules_of(start + distance, end - start))
        if not room.issuperset(needed):
            region.make_room(needed)

    def part(self, index: int, start: int, end: int) -> memoryview:
        """The bytes of a run from address `start` to `end`."""
        address = self.starts[index]
        return memoryview(self.buffers[index]).cast("B")[start - address : end - address]


def granules_of(start: int, size_bytes: int) -> range:
    """The granules that a range lies in."""
    return range(start // GRANULE_BYTES, -(-(start + size_bytes) // GRANULE_BYTES))


def join_ranges(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
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


def is_same(delta: PageDelta | None, other: PageDelta) -> bool:
    """Whether two deltas have the same pages: one may be a copy of the other's views."""
    if delta is None:
        return False
    places = [(address, len(data)) for address, data in delta.runs]
    return delta[::2] == other[::2] and places == [(address, len(data)) for address, data in other.runs]


def pages_of(runs: Runs, first: int) -> dict[int, bytes]:
    """Copies of the pages of the runs from `first` on, by address."""
    return {
        address + at: bytes(buffer[at : at + PAGE_BYTES])
        for address, buffer in zip(runs.starts[first:], runs.buffers[first:], strict=True)
        for at in range(0, len(buffer), PAGE_BYTES)
    }
