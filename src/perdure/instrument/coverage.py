"""Count how often each block of a canister's code runs: a counter behind each charge of the meter.

A block is what the meter charges as one: it runs from its charge to the next one, or not at all. Counters are 64 bits
wide and lie in the accounting memory behind a profile's tree, from `COUNTERS` on, in the order of functions and blocks.
Counting charges nothing: what is counted stays equal::

    i32.const 8n; i32.const 8n; i64.load COUNTERS; i64.const 1; i64.add; i64.store COUNTERS
"""

from __future__ import annotations

from typing import final

from perdure.instrument.appendix import op
from perdure.instrument.costs import SCHEDULES
from perdure.instrument.counted import COUNTER_BYTES, COUNTERS, WASM_PAGES
from perdure.instrument.metering import charge_points
from perdure.wasm import Limits, MemArg, MemoryType, Module

__all__ = ["Hits", "block_starts"]


@final
class Hits:
    """What counts, and how many counters there are so far."""

    def __init__(self, accounting: int) -> None:
        counter = MemArg(3, COUNTERS, accounting)
        self._count = op("i64.load", counter) + op("i64.const", 1) + op("i64.add") + op("i64.store", counter)
        self.points = 0

    def __call__(self, point: int) -> bytes:
        """What counts for this block."""
        self.points = max(self.points, point + 1)
        return op("i32.const", point * COUNTER_BYTES) * 2 + self._count

    def roomy(self, memory: MemoryType) -> MemoryType:
        """The accounting memory, with room for the counters."""
        pages = WASM_PAGES + -(-self.points * COUNTER_BYTES >> 16)
        return MemoryType(Limits(pages, pages, memory.limits.is_64))


def block_starts(module: Module, schedule: str) -> list[list[int]]:
    """Where the counted blocks of each function begin in its body, ascending; the first is the function itself.

    Args:
        module: as uploaded.
        schedule: by which its code was metered.
    """
    return charge_points(module.codes, SCHEDULES[schedule])
