"""A memory with a manager without its holes: which buckets stay, and where they go.

The crate takes a new bucket behind the last one that it ever took, so that what a memory leaves is lost to all others.
Here the buckets that are in use slide down over those that are not, in their order, which is the order of each
memory's own addresses; owners, count and sizes are written anew::

    before   0 | 0 | 1 | - | 2 | 1 | 0        memory 1 is left out
    after    0 | 0 | 2 | 0

A bucket is in use if the size of its memory reaches into it. Behind the last one nothing is kept: the memory ends
there, and grows again by zeros.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, final

from perdure.errors import UnsupportedError
from perdure.memory import WASM_PAGE_BYTES, Memory
from perdure.stable.headers import ManagerHeader
from perdure.stable.layout import FIRST_BUCKET_ADDRESS, MAX_BUCKETS, OWNERS_ADDRESS, UNALLOCATED
from perdure.stable.region import Region, Run

__all__ = ["Compaction"]

_LOOK_BYTES: Final = 1 << 20


@final
@dataclass(frozen=True)
class Compaction:
    """What becomes of a memory.

    Attributes:
        memory: as it is.
        base: where its manager starts, in bytes; what is before stays.
        before: the manager's header as it is.
        kept: buckets that stay, by their index before, ascending.
        dropped: ids of memories that are left out.
    """

    memory: Memory
    base: int
    before: ManagerHeader
    kept: tuple[int, ...]
    dropped: frozenset[int]

    @classmethod
    def of(
        cls,
        memory: Memory,
        extents: Iterable[tuple[int, int]],
        *,
        base_wasm_page: int = 0,
        drop: Collection[int] = (),
    ) -> Compaction:
        """The plan for a memory.

        Args:
            memory: the whole memory.
            extents: where it may differ from zero.
            base_wasm_page: where its manager starts.
            drop: ids of memories to leave out.

        Raises:
            MalformedError: no manager is there, or it contradicts itself.
            UnsupportedError: something lies behind the last bucket, which nobody knows and which would be lost.
        """
        base = base_wasm_page * WASM_PAGE_BYTES
        window = Region.whole(memory, base)
        header = ManagerHeader.read(window)
        header.check(window.size())
        behind = base + header.bucket_address(header.allocated_buckets)
        for start, end in extents:
            _check_blank(memory, max(start, behind), end)
        kept: list[int] = []
        for memory_id, wasm_pages in enumerate(header.wasm_pages):
            if wasm_pages and memory_id not in drop:
                needed = -(-wasm_pages // header.bucket_wasm_pages)
                kept += list(header.buckets_of(memory_id))[:needed]
        return cls(memory, base, header, tuple(sorted(kept)), frozenset(drop))

    @property
    def after(self) -> ManagerHeader:
        """The header as it will be."""
        header = self.before
        sizes = tuple(0 if memory_id in self.dropped else size for memory_id, size in enumerate(header.wasm_pages))
        owners = bytes(header.owners[index] for index in self.kept).ljust(MAX_BUCKETS, bytes([UNALLOCATED]))
        return ManagerHeader(1, len(self.kept), header.bucket_wasm_pages, sizes, owners)

    @property
    def freed_buckets(self) -> int:
        """How many buckets go: holes, those of memories that are left out, those that no size reaches into."""
        return self.before.allocated_buckets - len(self.kept)

    def runs(self) -> list[Run]:
        """Where the bytes of the new memory lie in the old one, in their order; the header is that of `after`."""
        header = self.before
        buckets = (Run(self.base + header.bucket_address(index), header.bucket_bytes) for index in self.kept)
        return [Run(0, self.base + FIRST_BUCKET_ADDRESS), *buckets]


def _check_blank(memory: Memory, start: int, end: int) -> None:
    for at in range(start, end, _LOOK_BYTES):
        data = memory.read(at, min(_LOOK_BYTES, end - at))
        if data.strip(b"\0"):
            place = at + len(data) - len(data.lstrip(b"\0"))
            raise UnsupportedError(
                f"behind the last bucket, at {place:#x}, there are bytes that no memory owns: they would be lost"
            )


@final
class Compacted:
    """The memory as it will be, for reading: what is not a hole of it (`data_ranges`), and its bytes.

    Args:
        plan: what becomes of which bytes.
        extents: where the memory that is there may differ from zero; ascending.
    """

    def __init__(self, plan: Compaction, extents: Iterable[tuple[int, int]]) -> None:
        self._plan = plan
        self._region = Region(plan.memory, plan.runs())
        self._extents = list(extents)
        header = plan.after
        self._patches = ((plan.base, header.encode()), (plan.base + OWNERS_ADDRESS, header.owners))

    @property
    def wasm_pages(self) -> int:
        """Its size."""
        return self._region.size()

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        """Where it may differ from zero, ascending, by address and end."""
        ends = [end for _, end in self._extents]
        address = 0
        for run in self._region.runs:
            index = bisect_right(ends, run.address)
            while index < len(ends) and self._extents[index][0] < run.address + run.size_bytes:
                start, end = self._extents[index]
                shift = address - run.address
                yield max(start, run.address) + shift, min(end, run.address + run.size_bytes) + shift
                index += 1
            address += run.size_bytes

    def read(self, address: int, size_bytes: int) -> bytes:
        """A copy of some bytes."""
        data = self._region.read(address, size_bytes)
        for start, patch in self._patches:
            low, high = max(start, address), min(start + len(patch), address + size_bytes)
            if low < high:
                data = data[: low - address] + patch[low - start : high - start] + data[high - address :]
        return data
