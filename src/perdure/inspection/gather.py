"""Plumbing: many short reads of a memory at once, as rows of a NumPy array (extra ``columns``).

A row is one machine copy out of a view of the memory whose items start at every byte. Where a memory lies in buckets,
addresses are translated for all rows together; only the rows that cross a bucket's edge are read one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from perdure.inspection.region import Region
from perdure.memory import WASM_PAGE_BYTES

if TYPE_CHECKING:
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]
    Addresses = npt.NDArray[np.int64]

__all__ = ["BLOCK_BYTES", "Gather", "items"]

BLOCK_BYTES: Final = 32 << 20
"""Rows are best asked for in blocks of about so many bytes."""


def items(data: Bytes, dtype: str) -> npt.NDArray[Any]:
    """`data` as overlapping items, one at every byte."""
    item = np.dtype(dtype)
    return np.ndarray((max(0, len(data) - item.itemsize + 1),), item, data, 0, (1,))


@final
class Gather:
    """Reads rows of a region."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self._below = self._map_below(region)
        run_bytes = np.array([run.size_bytes for run in region.runs], dtype=np.int64)
        self._ends = np.cumsum(run_bytes)
        self._starts = self._ends - run_bytes
        self._addresses = np.array([run.address for run in region.runs], dtype=np.int64)

    @staticmethod
    def _map_below(region: Region) -> Bytes | None:
        view = getattr(region.below, "view", None)
        if view is None:
            return None
        return np.frombuffer(view(0, region.below.size() * WASM_PAGE_BYTES), dtype=np.uint8)

    def rows(self, addresses: Addresses, width: int) -> Bytes:
        """`width` bytes from each address, one row each. All must lie within the region."""
        if width == 0 or not len(addresses):
            return np.zeros((len(addresses), width), dtype=np.uint8)
        if self._below is None:
            return self._one_by_one(addresses, width)
        runs = np.searchsorted(self._ends, addresses, side="right")
        below = addresses - self._starts[runs] + self._addresses[runs]
        crosses = addresses + width > self._ends[runs]
        if not crosses.any():
            return self._copy(below, width)
        found = np.empty((len(addresses), width), dtype=np.uint8)
        found[~crosses] = self._copy(below[~crosses], width)
        found[crosses] = self._one_by_one(addresses[crosses], width)
        return found

    def _copy(self, below: Addresses, width: int) -> Bytes:
        assert self._below is not None
        return items(self._below, f"V{width}")[below].view(np.uint8).reshape(len(below), width)

    def _one_by_one(self, addresses: Addresses, width: int) -> Bytes:
        data = b"".join(self.region.read(address, width) for address in addresses.tolist())
        return np.frombuffer(data, dtype=np.uint8).reshape(len(addresses), width)
