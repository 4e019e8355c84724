"""Plumbing: many short reads of a memory at once, as rows of a NumPy array (extra ``columns``).

A row is one machine copy out of a view of the memory whose items start at every byte. Where a memory lies in buckets,
addresses are translated for all rows together; only the rows that cross a bucket's edge are read one by one.
"""

from __future__ import annotations

from typing import Any, Final, Protocol, TypeAlias, final

import numpy as np
import numpy.typing as npt

from perdure.errors import MalformedError
from perdure.memory import WASM_PAGE_BYTES, Memory
from perdure.stable.access import view_or_none
from perdure.stable.region import Region

__all__ = [
    "BLOCK_BYTES",
    "Bytes",
    "Gather",
    "Mask",
    "Offsets",
    "Rows",
    "copy_items",
    "flat_bytes",
    "items",
    "ramps",
    "refuse",
]

Bytes: TypeAlias = npt.NDArray[np.uint8]
Offsets: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]

BLOCK_BYTES: Final = 32 << 20
"""Rows are best asked for in blocks of about so many bytes."""


def items(data: Bytes, dtype: str) -> npt.NDArray[Any]:
    """`data` as overlapping items, one at every byte."""
    item = np.dtype(dtype)
    return np.ndarray((max(0, len(data) - item.itemsize + 1),), item, data, 0, (1,))


def ramps(starts: Offsets, counts: Offsets, step: int = 1) -> Offsets:
    """``start, start + step, ...``, `count` of each, joined."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    within = np.arange(total, dtype=np.int64) - np.repeat(ends - counts, counts)
    return np.repeat(starts, counts) + step * within


def copy_items(flat: Bytes, side: Bytes | None, offsets: Offsets, width: int) -> Bytes:
    """The `width` bytes at each of `offsets`, one after the other; those past the end of `flat` are in `side`."""
    if width == 0 or not len(offsets):
        return np.empty(0, dtype=np.uint8)
    if side is None:
        return items(flat, f"V{width}")[offsets].view(np.uint8)
    found = np.empty(len(offsets), dtype=f"V{width}")
    is_side = offsets >= len(flat)
    if not is_side.all():
        found[~is_side] = items(flat, f"V{width}")[offsets[~is_side]]
    if is_side.any():
        found[is_side] = items(side, f"V{width}")[offsets[is_side] - len(flat)]
    return found.view(np.uint8)


def refuse(offsets: Offsets, is_bad: Mask, message: str) -> None:
    """Raise `MalformedError` at the first bad offset, if any."""
    if is_bad.any():
        raise MalformedError(message, int(offsets[int(np.argmax(is_bad))]) % (1 << 64))


def flat_bytes(memory: Memory) -> Bytes:
    """The whole memory as bytes, without a copy where it can show them."""
    size_bytes = memory.size() * WASM_PAGE_BYTES
    found = view_or_none(memory, 0, size_bytes)
    return np.frombuffer(memory.read(0, size_bytes) if found is None else found, dtype=np.uint8)


class Rows(Protocol):
    """What rows are read of."""

    @property
    def memory(self) -> Memory:
        """What is read."""
        ...

    @property
    def size_bytes(self) -> int:
        """Bytes of it."""
        ...

    @property
    def flat(self) -> Bytes | None:
        """All of them in one piece, where they lie so."""
        ...

    def rows(self, addresses: Offsets, width: int) -> Bytes:
        """`width` bytes from each address, one row each. All must lie within it."""
        ...


@final
class Gather:
    """Reads rows of a memory.

    Attributes:
        memory: what is read.
        size_bytes: bytes of it.
        flat: all of them in one piece, where they lie so; else ``None``.
    """

    def __init__(self, memory: Memory, *, copy: bool = False) -> None:
        """Over `memory`; with `copy` what does not lie in one piece is copied into one."""
        region = memory if isinstance(memory, Region) else Region.whole(memory)
        self.memory = memory
        self.size_bytes = region.size_bytes
        self.flat: Bytes | None = flat_bytes(memory) if copy else None
        self._region = region
        self._below = None if copy else self._map_below(region)
        run_bytes = np.array([run.size_bytes for run in region.runs], dtype=np.int64)
        self._ends = np.cumsum(run_bytes)
        self._starts = self._ends - run_bytes
        self._addresses = np.array([run.address for run in region.runs], dtype=np.int64)
        if self._below is not None and len(region.runs) == 1:
            start = region.runs[0].address
            self.flat = self._below[start : start + region.size_bytes]

    @staticmethod
    def _map_below(region: Region) -> Bytes | None:
        found = view_or_none(region.below, 0, region.below.size() * WASM_PAGE_BYTES)
        return None if found is None else np.frombuffer(found, dtype=np.uint8)

    def rows(self, addresses: Offsets, width: int) -> Bytes:
        """`width` bytes from each address, one row each. All must lie within the memory."""
        if width == 0 or not len(addresses):
            return np.zeros((len(addresses), width), dtype=np.uint8)
        if self.flat is not None:
            return items(self.flat, f"V{width}")[addresses].view(np.uint8).reshape(len(addresses), width)
        if self._below is None:
            return self._one_by_one(addresses, width)
        runs = np.searchsorted(self._ends, addresses, side="right")
        below = addresses - self._starts[runs] + self._addresses[runs]
        crosses = addresses + width > self._ends[runs]
        if not crosses.any():
            return self._copy(self._below, below, width)
        found = np.empty((len(addresses), width), dtype=np.uint8)
        found[~crosses] = self._copy(self._below, below[~crosses], width)
        found[crosses] = self._one_by_one(addresses[crosses], width)
        return found

    @staticmethod
    def _copy(data: Bytes, below: Offsets, width: int) -> Bytes:
        return items(data, f"V{width}")[below].view(np.uint8).reshape(len(below), width)

    def _one_by_one(self, addresses: Offsets, width: int) -> Bytes:
        data = b"".join(self._region.read(address, width) for address in addresses.tolist())
        return np.frombuffer(data, dtype=np.uint8).reshape(len(addresses), width)
