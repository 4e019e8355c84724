"""How often each block of an instance's code has run: taken from its accounting memory.

See `perdure.instrument.coverage`, which lays the counters out.
"""

from __future__ import annotations

from typing import final

from perdure.embedder.memory import AnonymousMemory
from perdure.instrument.counted import COUNTER_BYTES, COUNTERS

__all__ = ["HitCounter", "hit_counter"]


class HitCounter:
    """Of an instance whose code counts no blocks."""

    points = 0

    def take(self) -> None:
        """Keep what has been counted, before the accounting memory is cleared or goes."""

    def taken(self) -> int:
        """All that has been counted and was not handed out yet: one number, of `COUNTER_BYTES` for each block.

        Such numbers are added up as one: no counter ever reaches as far as the next.
        """
        return 0


@final
class _HitCounter(HitCounter):
    """Of one whose code does. It holds on to the memory, so that what an instance has counted outlives it."""

    def __init__(self, memory: AnonymousMemory, points: int) -> None:
        self.points = points
        self._memory = memory
        self._sum = 0

    def take(self) -> None:
        if self._memory.range is None:
            return
        view = self._memory.bytes[COUNTERS : COUNTERS + self.points * COUNTER_BYTES]
        if counted := int.from_bytes(view, "little"):
            self._sum += counted
            view[:] = bytes(len(view))

    def taken(self) -> int:
        self.take()
        counted, self._sum = self._sum, 0
        return counted


_NOTHING = HitCounter()


def hit_counter(memory: AnonymousMemory, points: int) -> HitCounter:
    """What counts `points` blocks in an accounting memory."""
    return _HitCounter(memory, points) if points else _NOTHING
