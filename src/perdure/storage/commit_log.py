"""Appending to the commit log: preallocated, synced by one for all who wait.

Writing into space that is already allocated and written changes no metadata of the file, so that `fdatasync` is one
write of the device and no journal entry (108-129 us against 192-229 us). So the log grows ahead of its use, in zeros,
and is used again from the start after a checkpoint.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import final

from perdure.errors import StorageError
from perdure.memory import PAGE_BYTES
from perdure.storage.disk import Buffer, DiskFile
from perdure.storage.log import BLOCK, encode_record, end_mark
from perdure.storage.merkle import HASH_BYTES

__all__ = ["CommitLog"]

_FIRST_BYTES = 1 << 20
_STEP_BYTES = 64 << 20
_ZEROS = bytes(1 << 20)


@final
class CommitLog:
    """The end of the log. `append` is for one thread at a time; `sync` may be called by many.

    Args:
        file: the log.
        path: its name, for errors.
        epoch: of the checkpoint that the log continues.
        version: of the state as of the last record or the checkpoint.
        checksum: of the last record or the checkpoint.
        position: where the next record goes.
    """

    def __init__(self, file: DiskFile, path: str, epoch: int, version: int, checksum: bytes, position: int) -> None:
        self._file = file
        self._path = path
        self._epoch = epoch
        self._checksum = checksum
        self._allocated = file.size()
        self._state = threading.Condition()
        self._syncing = False
        self.position = position
        self.version = version
        self.durable = version
        self.failed: str | None = None

    def append(self, meta: bytes, page_hashes: bytes, pages: Sequence[Buffer]) -> int:
        """Write one record, not yet synced; the new version.

        Raises:
            StorageError: it could not be written (a full disk, say); the log is as before.
        """
        self.check()
        version = self.version + 1
        head, checksum = encode_record(self._epoch, version, self.durable, self._checksum, meta, page_hashes)
        size_bytes = len(head) + len(page_hashes) // HASH_BYTES * PAGE_BYTES
        try:
            if self.position + size_bytes + BLOCK > self._allocated:
                self._allocate(self.position + size_bytes + BLOCK)
            self._file.pwritev([head, *pages, end_mark()], self.position)
        except OSError as error:
            raise StorageError(f"commit {version} could not be written: {error.strerror}", self._path) from error
        with self._state:
            self.position += size_bytes
            self.version = version
            self._checksum = checksum
        return version

    def _allocate(self, needed_bytes: int) -> None:
        target = max(self._allocated, _FIRST_BYTES)
        while target < needed_bytes:
            target += min(target, _STEP_BYTES)
        start = self._allocated
        while start < target:
            step = min(len(_ZEROS), target - start)
            self._file.pwrite(memoryview(_ZEROS)[:step], start)
            start += step
        self._file.sync()
        self._allocated = target

    def check(self) -> None:
        """Raise `StorageError` after a failed sync."""
        if self.failed is not None:
            raise StorageError(
                f"no more commits after a failed sync ({self.failed}); open the directory anew", self._path
            )

    def sync(self, version: int) -> None:
        """Return when `version` is on the platter. One caller syncs for all who came meanwhile (group commit).

        Raises:
            StorageError: the disk failed. What it kept is unknown, so nothing more is committed.
        """
        while True:
            with self._state:
                while self._syncing and self.durable < version:
                    self._state.wait()
                self.check()
                if self.durable >= version:
                    return
                self._syncing = True
                target = self.version
            failed: OSError | None = None
            try:
                self._file.sync()
            except OSError as error:
                failed = error
            with self._state:
                self._syncing = False
                if failed is None:
                    self.durable = target
                else:
                    self.failed = failed.strerror or str(failed)
                self._state.notify_all()
            if failed is not None:
                raise StorageError(f"sync failed: {self.failed}", self._path) from failed

    def recycle(self, epoch: int, checksum: bytes) -> None:
        """Begin again at the start of the file, after a checkpoint of `version`."""
        with self._state:
            self._epoch = epoch
            self._checksum = checksum
            self.position = 0
        try:
            self._file.pwrite(end_mark(), 0)
        except OSError:
            return  # a record of an older epoch says the same

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
