"""Of which pieces of files a memory is made: ascending, not overlapping, joined where one continues the other."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import NamedTuple, final

from perdure.canister import NO_FILE, Extent
from perdure.holes import ranges_to_map
from perdure.memory import PAGE_BYTES
from perdure.storage.temporary import Region

__all__ = ["Piece", "Pieces", "extents_of", "extents_within"]

_START = itemgetter(0)


class Piece(NamedTuple):
    """`[start, end)` of the memory, from `offset` of the region's file on."""

    start: int
    end: int
    region: Region
    offset: int


@final
class Pieces:
    """A list of pieces. It changes in one store, so an exception at any place finds the old list or the new one."""

    __slots__ = ("_items", "own_pages")

    def __init__(self, items: Iterable[Piece] = ()) -> None:
        self._items = list(items)
        self.own_pages: dict[int, tuple[Region, int]] = {}
        """Of pages that somebody has found to have room in a region of his own: which it is, and where in its file."""

    @classmethod
    def of(cls, region: Region) -> Pieces:
        """One region, from address 0 on, up to the end of its last page."""
        end = -(-region.size_bytes // PAGE_BYTES) * PAGE_BYTES
        return cls([Piece(0, end, region, region.offset)] if end else ())

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Piece]:
        return iter(self._items)

    def copy(self) -> Pieces:
        """A second list."""
        return Pieces(self._items)

    @property
    def end(self) -> int:
        """Where the last piece ends; 0: there is none."""
        return self._items[-1].end if self._items else 0

    def before(self, address: int) -> Piece | None:
        """The piece that `address` lies in or after."""
        index = bisect_right(self._items, address, key=_START) - 1
        return self._items[index] if index >= 0 else None

    def next_start(self, address: int, end: int) -> int:
        """Where the first piece after `address` starts, at most `end`."""
        index = bisect_right(self._items, address, key=_START)
        return min(end, self._items[index].start) if index < len(self._items) else end

    def count(self, start: int, end: int) -> int:
        """How many pieces `[start, end)` has; its start lies in one."""
        return bisect_left(self._items, end, key=_START) - bisect_right(self._items, start, key=_START) + 1

    def within(self, start: int, end: int) -> Iterator[Piece]:
        """The parts of pieces in `[start, end)`."""
        items = self._items
        index = max(bisect_right(items, start, key=_START) - 1, 0)
        while index < len(items) and (piece := items[index]).start < end:
            if piece.end > start:
                first = max(start, piece.start)
                yield Piece(first, min(end, piece.end), piece.region, piece.offset + first - piece.start)
            index += 1

    def moved(self, other: Pieces) -> Iterator[tuple[int, int]]:
        """Address ranges that come from elsewhere in the other list, or from nowhere."""
        for piece in self._items:
            at = piece.start
            for start, end, region, offset in other.within(piece.start, piece.end):
                if start > at:
                    yield at, start
                if region is not piece.region or offset - start != piece.offset - piece.start:
                    yield start, end
                at = end
            if at < piece.end:
                yield at, piece.end

    def place(self, start: int, end: int, region: Region, offset: int) -> None:
        """Let `[start, end)` come from `region`, whatever was there, joined with what it continues."""
        self.own_pages = {}
        items = self._items
        first = bisect_right(items, start, key=_START) - 1
        if first < 0 or items[first].end <= start:
            first += 1
        last = bisect_left(items, end, key=_START)
        placed: list[Piece] = []
        if first < last and (head := items[first]).start < start:
            placed.append(head._replace(end=start))
        placed.append(Piece(start, end, region, offset))
        if first < last and (tail := items[last - 1]).end > end:
            placed.append(Piece(end, tail.end, tail.region, tail.offset + end - tail.start))
        if first > 0:
            first -= 1
            placed.insert(0, items[first])
        if last < len(items):
            placed.append(items[last])
            last += 1
        items[first:last] = _joined(placed)


def _joined(pieces: list[Piece]) -> list[Piece]:
    joined = pieces[:1]
    for piece in pieces[1:]:
        last = joined[-1]
        continues = last.region is piece.region and last.offset + last.end - last.start == piece.offset
        if continues and last.end == piece.start:
            joined[-1] = last._replace(end=piece.end)
        else:
            joined.append(piece)
    return joined


def extents_of(pieces: Iterable[Piece]) -> list[Extent]:
    """What to map, joined also across regions that lie side by side in one file; holes where they take no room."""
    extents: list[Extent] = []
    for start, end, region, offset in _without_holes(pieces):
        descriptor = region.file.descriptor
        if extents:
            last = extents[-1]
            ends_at = last.address + last.size_bytes, last.file_descriptor, last.file_offset + last.size_bytes
            if ends_at == (start, descriptor, offset):
                extents[-1] = last._replace(size_bytes=end - last.address)
                continue
        extents.append(Extent(start, end - start, descriptor, offset))
    return extents


def _without_holes(pieces: Iterable[Piece]) -> Iterator[Piece]:
    for piece in pieces:
        start, end, region, offset = piece
        if not region.holes_take_room:
            yield piece
            continue
        for low, high in ranges_to_map(region.file, offset, offset + end - start):
            yield Piece(start + low - offset, start + high - offset, region, low)


def extents_within(pieces: Pieces, start: int, end: int) -> Iterator[Extent]:
    """What to map over whatever was mapped in `[start, end)`; zeros, too, where that may be another's by now."""
    here = list(pieces.within(start, end))
    covers = any(piece.region.holes_take_room for piece in here)
    for extent in extents_of(here):
        if covers and extent.address > start:
            yield Extent(start, extent.address - start, NO_FILE, 0)
        yield extent
        start = -(-(extent.address + extent.size_bytes) // PAGE_BYTES) * PAGE_BYTES
    if covers and start < end:
        yield Extent(start, end - start, NO_FILE, 0)
