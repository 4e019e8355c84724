"""A read-only memory made of runs of another one: how a virtual memory lies in the bytes below.

Reading, comparing and drawing all need to know where the bytes of a virtual memory really are, and must be able to look
at a damaged one. `VirtualMemory` of `perdure.stable` refuses those; a `Region` is what can be read of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import final

from perdure.memory import WASM_PAGE_BYTES, Memory, check_range

__all__ = ["Region", "Run"]


@final
@dataclass(frozen=True)
class Run:
    """`size_bytes` bytes that follow one another, at `address` in the memory below."""

    address: int
    size_bytes: int


@final
class Region:
    """The bytes of `runs` in `below`, one after the other, as a read-only memory.

    Args:
        below: the memory that holds the bytes, the whole stable memory as a rule.
        runs: neighbouring runs are joined; runs past the end of `below` are cut off.
        size_bytes: bytes that count, where the last run is longer.
    """

    def __init__(self, below: Memory, runs: Sequence[Run], size_bytes: int | None = None) -> None:
        self.below = below
        self.runs = _clipped(runs, below.size() * WASM_PAGE_BYTES, size_bytes)
        self._ends = list(accumulate(run.size_bytes for run in self.runs))
        self.size_bytes = self._ends[-1] if self._ends else 0

    @classmethod
    def whole(cls, memory: Memory, start_address: int = 0) -> Region:
        """All of `memory` from `start_address` on."""
        return cls(memory, [Run(start_address, memory.size() * WASM_PAGE_BYTES - start_address)])

    def part(self, address: int) -> Region:
        """The same bytes from `address` on."""
        return Region(self.below, list(self.pieces(address, self.size_bytes - address)), self.size_bytes - address)

    def size(self) -> int:
        """Size in Wasm pages, a partial last one left out."""
        return self.size_bytes // WASM_PAGE_BYTES

    def grow(self, wasm_pages: int) -> int:
        """Refuse, with `PermissionError`."""
        raise PermissionError(f"cannot grow by {wasm_pages} Wasm pages: the memory is open for reading")

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Refuse, with `PermissionError`."""
        raise PermissionError(f"cannot write {len(data)} bytes at address {address:#x}: the memory is open for reading")

    def pieces(self, address: int, size_bytes: int) -> Iterator[Run]:
        """Where `[address, address + size_bytes)` lies below, in order."""
        check_range(address, size_bytes, self.size_bytes)
        index = bisect_right(self._ends, address)
        while size_bytes > 0:
            run = self.runs[index]
            skip = address - (self._ends[index] - run.size_bytes)
            taken = min(size_bytes, run.size_bytes - skip)
            yield Run(run.address + skip, taken)
            address, size_bytes, index = address + taken, size_bytes - taken, index + 1

    def read(self, address: int, size_bytes: int) -> bytes:
        """A copy of `size_bytes` bytes from `address`."""
        if len(self.runs) == 1 and 0 <= address <= address + size_bytes <= self.size_bytes and size_bytes >= 0:
            return self.below.read(self.runs[0].address + address, size_bytes)
        return b"".join(self.below.read(piece.address, piece.size_bytes) for piece in self.pieces(address, size_bytes))

    def view(self, address: int, size_bytes: int) -> memoryview:
        """The bytes themselves where they lie in one piece that can be shown; else a copy."""
        pieces = list(self.pieces(address, size_bytes))
        view = getattr(self.below, "view", None)
        if len(pieces) == 1 and view is not None:
            found = view(pieces[0].address, pieces[0].size_bytes)
            assert isinstance(found, memoryview)
            return found
        return memoryview(self.read(address, size_bytes))

    def below_address(self, address: int) -> int:
        """Where `address` lies below; -1 outside."""
        if not 0 <= address < self.size_bytes:
            return -1
        return next(self.pieces(address, 1)).address


def _clipped(runs: Sequence[Run], below_bytes: int, size_bytes: int | None) -> list[Run]:
    """`runs` without what lies past the end below or past `size_bytes`, neighbours joined."""
    left = below_bytes if size_bytes is None else size_bytes
    clipped: list[Run] = []
    for run in runs:
        taken = min(run.size_bytes, left, below_bytes - run.address)
        if taken <= 0:
            break
        if clipped and clipped[-1].address + clipped[-1].size_bytes == run.address:
            last = clipped.pop()
            clipped.append(Run(last.address, last.size_bytes + taken))
        else:
            clipped.append(Run(run.address, taken))
        left -= taken
        if taken < run.size_bytes:
            break
    return clipped
