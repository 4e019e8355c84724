"""Which 4 KiB pages differ between two memories, without looking at what cannot differ.

Holes that both have, and bytes that both take from the same place of the same file, are skipped unread. What comes out
is ranges, so that time and memory follow the data and what changed, never the apparent size: 500 GiB of hole are one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Final, final

import numpy as np

from perdure.inspection.deadline import NO_HURRY, Deadline
from perdure.inspection.source import Extent, Layer
from perdure.memory import PAGE_BYTES
from perdure.stable.region import Region, Run

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["ChangedPages", "changed_pages"]

_BLOCK_BYTES: Final = 4 << 20


@final
@dataclass(frozen=True)
class ChangedPages:
    """The pages of a region that differ between two states of it.

    Attributes:
        total: pages of the larger state.
        ranges: first page and the one after the last of each run of pages that differ, ascending and apart; a page that
            only one of the two has counts as changed.
        compared: pages that had to be read.
    """

    total: int
    ranges: npt.NDArray[np.int64]
    compared: int

    @property
    def count(self) -> int:
        """Pages that differ."""
        return int((self.ranges[:, 1] - self.ranges[:, 0]).sum())

    def touches(self, addresses: npt.NDArray[np.int64], size_bytes: int) -> npt.NDArray[np.bool_]:
        """Whether any of the `size_bytes` bytes from each address lies in a changed page."""
        starts, ends = np.append(self.ranges[:, 0], np.iinfo(np.int64).max), self.ranges[:, 1]
        first = addresses // PAGE_BYTES
        last = (addresses + max(1, size_bytes) - 1) // PAGE_BYTES
        found: npt.NDArray[np.bool_] = starts[np.searchsorted(ends, first, side="right")] <= last
        return found


def changed_pages(
    one: Region,
    other: Region,
    one_extents: list[Extent],
    other_extents: list[Extent],
    one_layers: Sequence[Layer] = (),
    other_layers: Sequence[Layer] = (),
    deadline: Deadline = NO_HURRY,
) -> ChangedPages:
    """Compare two regions page by page.

    Args:
        one: the first.
        other: the second.
        one_extents: where the memory below the first may differ from zero.
        other_extents: likewise, the second.
        one_layers: the files behind the first, where they are known.
        other_layers: likewise, the second.
        deadline: how long it may take.

    Raises:
        HostError: it took longer.
    """
    size_bytes = min(one.size_bytes, other.size_bytes)
    pages = -(-max(one.size_bytes, other.size_bytes) // PAGE_BYTES)
    changed: list[Extent] = []
    compared = 0
    address = 0
    for left, right in _aligned(one, other, size_bytes):
        shared = list(_shared(left, right, one_layers, other_layers))
        for span in _not_both_holes(left, right, one_extents, other_extents):
            for start, end in _without(span, shared):
                compared += (end - start) // PAGE_BYTES
                changed += _compare(one, other, address + start, address + end, deadline)
        address += left.size_bytes
    if size_bytes // PAGE_BYTES < pages:
        changed.append((size_bytes // PAGE_BYTES, pages))
    return ChangedPages(pages, np.array(list(_joined(changed)), dtype=np.int64).reshape(-1, 2), compared)


def _joined(ranges: Iterable[Extent]) -> Iterator[Extent]:
    """Ascending ranges with those that touch made one."""
    current: Extent | None = None
    for start, end in ranges:
        if current is not None and start <= current[1]:
            current = (current[0], max(current[1], end))
            continue
        if current is not None:
            yield current
        current = (start, end)
    if current is not None:
        yield current


def _shared(left: Run, right: Run, left_layers: Sequence[Layer], right_layers: Sequence[Layer]) -> Iterator[Extent]:
    """The whole pages of a pair of runs that are the same bytes of the same file, from the runs' start; ascending."""
    ones, others = _layers_within(left, left_layers), _layers_within(right, right_layers)
    first = second = 0
    while first < len(ones) and second < len(others):
        one, other = ones[first], others[second]
        one_end, other_end = one.address + one.size_bytes, other.address + other.size_bytes
        start, end = max(one.address, other.address), min(one_end, other_end)
        if start < end and one.file == other.file and one.offset - one.address == other.offset - other.address:
            yield start + -start % PAGE_BYTES, end - end % PAGE_BYTES
        first, second = first + (one_end <= other_end), second + (other_end <= one_end)


def _layers_within(run: Run, layers: Sequence[Layer]) -> list[Layer]:
    """The layers of a run, cut to it, by distance from its start."""
    found = []
    for layer in layers:
        start = max(layer.address, run.address)
        end = min(layer.address + layer.size_bytes, run.address + run.size_bytes)
        if start < end:
            moved = layer.offset + start - layer.address
            found.append(Layer(start - run.address, end - start, layer.file, moved))
    return found


def _without(span: Extent, holes: Sequence[Extent]) -> Iterator[Extent]:
    """`span` less `holes`, which ascend."""
    at, end = span
    for start, stop in sorted(holes):
        if stop <= at or start >= end:
            continue
        if start > at:
            yield at, start
        at = max(at, stop)
    if at < end:
        yield at, end


def _aligned(one: Region, other: Region, size_bytes: int) -> Iterator[tuple[Run, Run]]:
    """Runs of equal length that hold the same bytes of both regions."""
    lefts, rights = deque(one.pieces(0, size_bytes)), deque(other.pieces(0, size_bytes))
    while lefts and rights:
        left, right = lefts.popleft(), rights.popleft()
        size = min(left.size_bytes, right.size_bytes)
        yield Run(left.address, size), Run(right.address, size)
        for run, rest in ((left, lefts), (right, rights)):
            if run.size_bytes > size:
                rest.appendleft(Run(run.address + size, run.size_bytes - size))


def _not_both_holes(left: Run, right: Run, left_extents: list[Extent], right_extents: list[Extent]) -> Iterator[Extent]:
    """The parts of a pair of runs, whole pages from their start, where one of the two has bytes."""
    spans = sorted([*_clip(left, left_extents), *_clip(right, right_extents)])
    return _joined((start - start % PAGE_BYTES, min(left.size_bytes, end + -end % PAGE_BYTES)) for start, end in spans)


def _clip(run: Run, extents: list[Extent]) -> Iterator[Extent]:
    """The extents within a run, from its start."""
    run_end = run.address + run.size_bytes
    for start, end in extents[bisect_right(extents, run.address, key=itemgetter(1)) :]:
        if start >= run_end:
            break
        yield max(0, start - run.address), min(run.size_bytes, end - run.address)


def _compare(one: Region, other: Region, start: int, end: int, deadline: Deadline) -> Iterator[Extent]:
    """Runs of pages that differ."""
    for address in range(start, end, _BLOCK_BYTES):
        deadline.look()
        size = min(_BLOCK_BYTES, end - address)
        left = np.frombuffer(one.view(address, size), dtype=np.uint64)
        right = np.frombuffer(other.view(address, size), dtype=np.uint64)
        differs = left != right
        if differs.any():
            first = address // PAGE_BYTES
            found = differs.reshape(-1, PAGE_BYTES // 8).any(axis=1)
            edges = np.flatnonzero(np.diff(found, prepend=False, append=False)) + first
            yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
