"""Appending to the commit log: preallocated, one write under way, synced by one for all who wait.

Writing into space that is already allocated and written changes no metadata of the file, so that a durable write is one
of the device and no journal entry (108-129 us against 192-229 us). So the log grows ahead of its use, in zeros, and is
used again from the start after a checkpoint.

```
 append ──► alone, nothing under way: start the write, return    the caller goes on while the disk works
        └─► else: put it with the others                         they will be one write
 sync   ──► all are here who were here last time: start what has gathered, wait for the disk, wake the others
        └─► else: wait for them, at most as long as a write takes (but 1 ms), or until woken
```
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Protocol, final

from perdure.errors import StorageError
from perdure.storage.disk import Buffer, DiskFile
from perdure.storage.log import BLOCK, Place, encode_record, end_mark, record_bytes

__all__ = ["CommitLog"]

_FIRST_BYTES = 1 << 20
_STEP_BYTES = 8 << 20  # takes 10 ms, in which a commit has to wait
_ZEROS = bytes(1 << 20)
_MIN_PATIENCE_SECONDS = 0.001  # eight threads take half of that to be back, each with its turn at the interpreter
_MAX_PATIENCE_SECONDS = 0.01
_LONG_SECONDS = 1.0
"""After which it is looked at whether somebody still waits for the disk: an exception may have ended that unseen."""
_LOOKED_SECONDS = 0.001
"""For how long it is taken for granted, before a record is written, that the directory is ours. Before a record is
acknowledged, its owner is looked up each time."""
_GATHER_BYTES = 512 << 10  # less than what can be written at once, the record that reaches it included


class OwnLock(Protocol):
    """What its owner holds of a directory, and may lose: see `perdure.storage.locks`."""

    def check_place(self) -> None:
        """Raise `OSError` where a second owner may find no lock, or another one."""
        ...

    def check_number(self) -> None:
        """Raise `OSError` where there was another owner since."""
        ...


@final
class _NoLock:
    def check_place(self) -> None: ...

    def check_number(self) -> None: ...


@final
class CommitLog:
    """The end of the log. `reserve` and `append` are for one thread at a time; `sync` may be called by many.

    Args:
        file: the log.
        path: its name, for errors.
        place: the last record or the checkpoint.
        position: where the next record goes.
        sealed: whether the log has a seal.
        write_behind: write at once and sync when asked, for those who seldom ask; else every record is on its way to
            the platter from `append` on.
        owner: who writes: which opening of the directory this is.
        lock: of the directory.
    """

    def __init__(
        self,
        file: DiskFile,
        path: str,
        place: Place,
        position: int,
        *,
        sealed: bool,
        write_behind: bool,
        owner: int = 1,
        lock: OwnLock | None = None,
    ) -> None:
        self._file = file
        self._path = path
        self._place = place
        self._allocated = file.size()
        self._write_behind = write_behind
        self._owner = owner
        self._lock = lock or _NoLock()
        self._looked_until = 0.0  # when it is to be looked again whose the directory is
        self._mutex = threading.Lock()
        self._under_way = 0  # newest version of the write that was started
        self._started_at = 0.0
        self._patience_seconds = 0.0  # as long as the last write took, within bounds
        self._together = 1  # threads that waited for it
        self._unwaited = self._burst = 0  # commits since somebody last waited, and before that
        self._gathered: list[bytes] = []
        self._gathered_at = self._gathered_bytes = self._gathered_version = 0
        self._leader = 0  # the thread that waits for the disk
        self._led_until = 0.0  # when that is to be doubted
        self._waiting: list[tuple[int, threading.Lock]] = []
        self.position = position
        self.sealed = sealed
        self.durable = place.version
        self.on_commit: Callable[[int, Sequence[Buffer]], None] | None = None
        """Given each commit's version and its record, in pieces, once that is on its way to the file."""
        self.failed: str | None = None
        self.in_doubt: str | None = None  # an exception cut off what keeps memory and log together

    @property
    def version(self) -> int:
        """Of the last record."""
        return self._place.version

    # -- writing

    def reserve(self, size_bytes: int) -> None:
        """Make room for a record of this size.

        Raises:
            StorageError: there is none (a full disk, say); the log is as before.
        """
        self.check()
        needed_bytes = self.position + size_bytes + BLOCK
        if needed_bytes > self._allocated:
            try:
                self._allocate(needed_bytes)
            except OSError as error:
                raise self._refusal(error) from error

    def _refusal(self, error: OSError) -> StorageError:
        refusal = StorageError.because(f"commit {self.version + 1} could not be written", error, self._path)
        refusal.committed = False
        return refusal

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

    def append(self, meta: bytes, pages: Sequence[Buffer], *, state_hash: bytes = b"", seal: bool = False) -> int:
        """Add one record, for which there is room; its version. Its bytes may be changed when this returns.

        Raises:
            StorageError: it could not be written; the log is as before.
        """
        self.check()
        head, checksum = encode_record(
            self._place, self.durable, meta, pages, owner=self._owner, state_hash=state_hash, seal=seal
        )
        buffers = [head, *pages, end_mark()]
        size_bytes = sum(map(len, buffers)) - BLOCK
        version = self._place.version + (not seal)
        try:
            if self._write_behind:
                self._file.pwritev(buffers, self.position)
            else:
                self._start_or_gather(buffers, size_bytes, version)
        except OSError as error:
            raise self._cut(error) from error
        self._place = Place(self._place.epoch, version, checksum)
        self.position += size_bytes
        if self.on_commit is not None and not seal:
            self.on_commit(version, buffers[:-1])
        return version

    def _cut(self, error: OSError) -> StorageError:
        """Leave nothing of a record that could not be written."""
        refusal = self._refusal(error)
        try:
            self._file.pwrite(end_mark(), self.position)
        except OSError:
            self.failed = error.strerror or str(error)
            refusal.committed = None
        return refusal

    def seal(self, state_hash: bytes) -> None:
        """Have it on the platter that images are about to be newer than the checkpoint says."""
        self.sync(self.version)  # a seal has the version of the commit before it: both cannot be waited for at once
        self.reserve(record_bytes(0, 0))
        version = self.append(b"", (), state_hash=state_hash, seal=True)
        with self._mutex:
            self.durable = version - 1
        self.sync(version)
        self.sealed = True

    def _start_or_gather(self, buffers: list[Buffer], size_bytes: int, version: int) -> None:
        while self._gathered_bytes > _GATHER_BYTES:
            self.sync(self._gathered_version)  # nobody else waits for it
        with self._mutex:
            self._unwaited += 1
            if not self._under_way and not self._gathered and self._together == 1 and self._burst <= 1:
                self._file.start(buffers, self.position)
                self._under_way, self._started_at = version, time.perf_counter()
                return
            if not self._gathered:
                self._gathered_at = self.position
            else:
                self._gathered.pop()  # the end mark
            self._gathered += (b"".join(buffers[:-1]), end_mark())
            self._gathered_bytes += size_bytes
            self._gathered_version = version

    def check_usable(self) -> None:
        """Raise `StorageError` where memory and log may differ."""
        if self.failed is None and self.in_doubt is None:
            return  # as for every message, several times
        self.check()
        if self.in_doubt is not None:
            raise StorageError(f"{self.in_doubt}; open the directory anew", self._path)

    def check_owner_at_times(self) -> None:
        """The same as `check_owner`, unless that was a moment ago and whoever waits for the disk looks again."""
        if self._write_behind or time.monotonic() >= self._looked_until:
            self.check_owner()

    def check_owner(self) -> None:
        """Raise `StorageError` where the directory is not ours any more, now and from now on."""
        try:
            self._lock.check_place()
            self._lock.check_number()
        except OSError as error:
            self.failed = error.strerror or str(error)
            refusal = StorageError(self.failed, self._path)
            refusal.committed = False
            raise refusal from error
        self._looked_until = time.monotonic() + _LOOKED_SECONDS

    def check(self) -> None:
        """Raise `StorageError` after a failed sync."""
        if self.failed is not None:
            raise StorageError(
                f"no more commits after a failed one ({self.failed}); open the directory anew", self._path
            )

    # -- waiting

    def sync(self, version: int) -> None:
        """Return when `version` is on the platter. One caller waits for the disk, the others for that one.

        An exception may come out of any line of it (Ctrl-C on the way to the disk). So each step can be done again, and
        nobody relies on being woken: whoever waited for long goes to the disk too.

        Raises:
            StorageError: the disk failed. What it kept is unknown, so nothing more is committed.
        """
        if self.durable >= version:
            return
        try:
            self._sync(version)
        except BaseException:
            with self._mutex:
                if self._leader == get_ident():
                    self._leader = 0
                self._wake()
            raise

    def _sync(self, version: int) -> None:
        patient = True
        while self.durable < version:
            with self._mutex:
                if self._unwaited:
                    self._burst, self._unwaited = self._unwaited, 0
                self.check()
                if self.durable >= version:
                    return
                turn = self._turn(version, patient=patient)
            if turn is None:
                self._wait_for_disk()
            else:
                patient = self._wait_for_turn(version, turn)

    def _turn(self, version: int, *, patient: bool) -> threading.Lock | None:
        """What to wait for; `None`: the disk itself."""
        all_here = len(self._waiting) + 1 >= self._together or not patient
        is_led = self._leader and self._leader != get_ident() and time.monotonic() < self._led_until
        if not is_led and (self._under_way or all_here):
            if not self._under_way:
                self._start_gathered()
                self.check()
            self._led_until = time.monotonic() + _LONG_SECONDS
            self._leader = get_ident()
            return None
        turn = threading.Lock()
        turn.acquire()
        self._waiting.append((version, turn))
        return turn

    def _wait_for_turn(self, version: int, turn: threading.Lock) -> bool:
        """Whether it came; else patience is at an end."""
        came = False
        try:
            # Whoever waits for the disk wakes the others; where nobody does, the first whose patience ends will.
            came = turn.acquire(timeout=_LONG_SECONDS if self._leader else self._patience_seconds)
        finally:
            if not came:
                with self._mutex:
                    if (version, turn) in self._waiting:
                        self._waiting.remove((version, turn))
                    else:
                        self._wake()  # Ctrl-C, and it was this one's turn
        return came

    def _wait_for_disk(self) -> None:
        under_way = self._under_way
        reached = under_way or self._place.version
        done = False
        try:
            self._lock.check_place()  # while the disk works
            if under_way:
                self._file.finish()
            else:
                self._file.sync()
            # Not before: whoever becomes the owner writes its number first and reads the log then, this record with it.
            self._lock.check_number()
            self._looked_until = time.monotonic() + _LOOKED_SECONDS
            done = True
        except OSError as error:
            self.failed = error.strerror or str(error)
            raise StorageError.because("sync failed", error, self._path) from error
        finally:
            with self._mutex:
                if self._leader == get_ident():
                    self._leader = 0
                if done:
                    self._reach(reached, under_way)
                self._wake()

    def _reach(self, version: int, under_way: int) -> None:
        """Note that `version` is on the platter, and the write that was under way, if one was, at its end."""
        self.durable = max(self.durable, version)
        self._together = len(self._waiting) + 1
        if self._gathered and self._gathered_version <= version:
            self._gathered, self._gathered_bytes = [], 0  # its start was cut off, and done all the same
        if under_way and under_way == self._under_way:
            seconds = time.perf_counter() - self._started_at
            self._patience_seconds = min(max(seconds, _MIN_PATIENCE_SECONDS), _MAX_PATIENCE_SECONDS)
            self._under_way = 0
            if self._together == 1:
                self._start_gathered()

    def _start_gathered(self) -> None:
        gathered = self._gathered
        if not gathered:
            return
        try:
            self._file.start(gathered, self._gathered_at)
        except OSError as error:
            self.failed = error.strerror or str(error)
            self._wake()
            return
        # Cut off before the last line, the same bytes are written to the same place again.
        self._under_way, self._started_at = self._gathered_version, time.perf_counter()
        self._gathered_bytes = 0
        self._gathered = []

    def _wake(self) -> None:
        """Wake whose versions are on the platter, and one more to wait for the disk; after a failure all."""
        waiting, self._waiting = self._waiting, []
        successor = False
        for version, turn in waiting:
            if version <= self.durable or self.failed is not None or not successor:
                successor |= version > self.durable
                turn.release()
            else:
                self._waiting.append((version, turn))

    # -- after a checkpoint

    def recycle(self, epoch: int, checksum: bytes) -> None:
        """Begin again at the start of the file, after a checkpoint; everything is synced."""
        self._place = Place(epoch, self._place.version, checksum)
        self.position = 0
        self.sealed = False
        try:
            self._file.pwrite(end_mark(), 0)
        except OSError:
            return  # a record of an older epoch says the same

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
