"""A durable commit without a log: the same pages, and one block more, into space that was written, and a sync.

A record has its head in that block. What can be torn, lost or taken for another one is nobody's concern here.
"""

from __future__ import annotations

import os

from perdure.memory import PAGE_BYTES

__all__ = ["CommitFloor"]

_PLACES, _STEP_BYTES = 256, 32 * PAGE_BYTES


class CommitFloor:
    """Writes `count` pages at another place of a file each time."""

    def __init__(self, path: str, page: bytes, count: int) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.pwrite(self._file, bytes(_PLACES * _STEP_BYTES), 0)
        os.fsync(self._file)
        self._record = page * (count + 1)

    def commit(self, number: int) -> None:
        """The pages are on the platter when this returns."""
        os.pwrite(self._file, self._record, number % _PLACES * _STEP_BYTES)
        os.fdatasync(self._file)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)
