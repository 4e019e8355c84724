"""What one entry prints: its newest lines, as many as the canister's log can hold, never more.

Lines are kept as they come, so a flood costs no memory. Sizes are the replica's, which its charges depend on: a line
takes its own bytes and `LINE_OVERHEAD_BYTES`, and one that is longer than the log is cut.

Source: ``CanisterLog`` of the replica (``canister_log.rs``, 2026), there called the delta log of a message.
"""

from __future__ import annotations

from collections import deque
from typing import Final, final

__all__ = ["LINE_OVERHEAD_BYTES", "EntryLog"]

LINE_OVERHEAD_BYTES: Final = 40


@final
class EntryLog:
    """The lines of one entry.

    Args:
        capacity_bytes: what the log can hold; 0: nothing is logged.
    """

    __slots__ = ("_capacity_bytes", "dropped", "lines", "room_bytes")

    def __init__(self, capacity_bytes: int) -> None:
        self.lines: deque[bytes] = deque()
        self.dropped = 0
        """Lines that came before `lines` and had to go; they keep their numbers."""
        self.room_bytes = capacity_bytes
        self._capacity_bytes = capacity_bytes

    def append(self, line: bytes) -> None:
        """Keep a line, at the cost of the oldest ones."""
        if not self._capacity_bytes:
            return
        line = bytes(line[: max(0, self._capacity_bytes - LINE_OVERHEAD_BYTES)])
        room_bytes = self.room_bytes - len(line) - LINE_OVERHEAD_BYTES
        while room_bytes < 0 and self.lines:
            room_bytes += len(self.lines.popleft()) + LINE_OVERHEAD_BYTES
            self.dropped += 1
        self.lines.append(line)
        self.room_bytes = max(0, room_bytes)
