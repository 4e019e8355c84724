"""Which 4 KiB pages differ between two memories, without looking at what cannot differ.

Holes that both have, and bytes that both take from the same place of the same file, are skipped unread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import numpy as np

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
        is_changed: one flag for each page; a page that only one of the two has counts as changed.
        compared: pages that had to be read.
    """

    is_changed: npt.NDArray[np.bool_]
    compared: int

    @property
    def count(self) -> int:
        """Pages that differ."""
        return int(self.is_changed.sum())

    def touches(self, addresses: npt.NDArray[np.int64], size_bytes: int) -> npt.NDArray[np.bool_]:
        """Whether any of the `size_bytes` bytes from each address lies in a changed page."""
        before = np.concatenate([[0], np.cumsum(self.is_changed)])
        first = np.clip(addresses // PAGE_BYTES, 0, len(self.is_changed))
        last = np.clip((addresses + max(1, size_bytes) - 1) // PAGE_BYTES + 1, 0, len(self.is_changed))
        found: npt.NDArray[np.bool_] = before[last] > before[first]
        return found


def changed_pages(
    one: Region,
    other: Region,
    one_extents: list[Extent],
    other_extents: list[Extent],
    one_layers: Sequence[Layer] = (),
    other_layers: Sequence[Layer] = (),
) -> ChangedPages:
    """Compare two regions page by page.

    Args:
        one: the first.
        other: the second.
        one_extents: where the memory below the first may differ from zero.
        other_extents: likewise, the second.
        one_layers: the files behind the first, where they are known.
        other_layers: likewise, the second.
    """
    size_bytes = min(one.size_bytes, other.size_bytes)
    pages = -(-max(one.size_bytes, other.size_bytes) // PAGE_BYTES)
    is_changed = np.zeros(pages, dtype=np.bool_)
    is_changed[size_bytes // PAGE_BYTES :] = True
    compared = 0
    address = 0
    for left, right in _aligned(one, other, size_bytes):
        shared = list(_shared(left, right, one_layers, other_layers))
        for span in _not_both_holes(left, right, one_extents, other_extents):
            for start, end in _without(span, shared):
                compared += (end - start) // PAGE_BYTES
                _compare(one, other, address + start, address + end, is_changed)
        address += left.size_bytes
    return ChangedPages(is_changed, compared)


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
    lefts, rights = list(one.pieces(0, size_bytes)), list(other.pieces(0, size_bytes))
    while lefts and rights:
        left, right = lefts.pop(0), rights.pop(0)
        size = min(left.size_bytes, right.size_bytes)
        yield Run(left.address, size), Run(right.address, size)
        for run, rest in ((left, lefts), (right, rights)):
            if run.size_bytes > size:
                rest.insert(0, Run(run.address + size, run.size_bytes - size))


def _not_both_holes(left: Run, right: Run, left_extents: list[Extent], right_extents: list[Extent]) -> Iterator[Extent]:
    """The parts of a pair of runs, whole pages from their start, where one of the two has bytes."""
    spans = sorted([*_clip(left, left_extents), *_clip(right, right_extents)])
    current: Extent | None = None
    for start, end in spans:
        start -= start % PAGE_BYTES
        end = min(left.size_bytes, end + -end % PAGE_BYTES)
        if current is not None and start <= current[1]:
            current = (current[0], max(current[1], end))
            continue
        if current is not None:
            yield current
        current = (start, end)
    if current is not None:
        yield current


def _clip(run: Run, extents: list[Extent]) -> Iterator[Extent]:
    """The extents within a run, from its start."""
    for start, end in extents:
        if end > run.address and start < run.address + run.size_bytes:
            yield max(0, start - run.address), min(run.size_bytes, end - run.address)


def _compare(one: Region, other: Region, start: int, end: int, is_changed: npt.NDArray[np.bool_]) -> None:
    for address in range(start, end, _BLOCK_BYTES):
        size = min(_BLOCK_BYTES, end - address)
        left = np.frombuffer(one.view(address, size), dtype=np.uint64)
        right = np.frombuffer(other.view(address, size), dtype=np.uint64)
        differs = left != right
        if differs.any():
            first = address // PAGE_BYTES
            found = differs.reshape(-1, PAGE_BYTES // 8).any(axis=1)
            is_changed[first : first + len(found)] |= found
