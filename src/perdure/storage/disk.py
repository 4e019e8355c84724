"""Plumbing: the disk, as few calls as the rest of storage needs, so that a test can put a simulated one in its place.

A `Disk` promises what POSIX promises and no more: a write is on the platter only after `DiskFile.sync`, a created,
renamed or removed name only after `Disk.sync_directory`; before that, writes may be lost, torn and reordered.

Errors are `OSError`, as the system gives them; the layer that knows which file of which state is concerned turns them
into `StorageError`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Protocol, final

from perdure.storage.aio import CAPACITY_BYTES, DirectWriter

__all__ = ["Disk", "DiskFile", "RealDisk", "RealFile", "read_whole"]

_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2
_libc = ctypes.CDLL(None, use_errno=True)
_AT_EMPTY_PATH, _STATX_NLINK = 0x1000, 4
_STATX_BYTES = 256
_STX_NLINK = struct.Struct("=16xI")
_MAX_BUFFERS = 1024  # IOV_MAX on Linux

Buffer = bytes | bytearray | memoryview


class DiskFile(Protocol):
    """An open file. Offsets and sizes in bytes."""

    @property
    def descriptor(self) -> int:
        """What a mapping is made from."""
        ...

    def size(self) -> int:
        """Size of the file."""
        ...

    def pread(self, size_bytes: int, offset: int) -> bytes:
        """Up to `size_bytes` bytes; fewer at the end of the file only."""
        ...

    def pwrite(self, data: Buffer, offset: int) -> None:
        """Write all of `data`, or raise."""
        ...

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> None:
        """Write all of `buffers`, one after the other, or raise."""
        ...

    def pwrite_each(self, buffers: Sequence[Buffer], offsets: Sequence[int]) -> None:
        """Write all of each buffer at its offset, or raise."""
        ...

    def truncate(self, size_bytes: int) -> None:
        """Cut or extend with a hole."""
        ...

    def punch(self, offset: int, size_bytes: int) -> None:
        """Turn a range into a hole. Raises `OSError` where the file system cannot."""
        ...

    def data_ranges(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Ranges `(start, end)` that may hold anything but zeros, ascending."""
        ...

    def sync(self) -> None:
        """Return when everything written is on the platter."""
        ...

    def start(self, buffers: Sequence[Buffer], offset: int) -> None:
        """Begin to write all of `buffers`, whole blocks of 4,096 bytes, into space that was written before.

        Only one write may be under way; the buffers may be changed when this returns.
        """
        ...

    def finish(self) -> None:
        """Return when what was started is on the platter. After an interruption it may be called again."""
        ...

    def lock(self, *, exclusive: bool) -> bool:
        """Take or change the advisory lock without waiting; False when another opener holds it."""
        ...

    def close(self) -> None:
        """Let go; locks are released."""
        ...


class Disk(Protocol):
    """Names of files. Paths are text."""

    def open(self, path: str, *, write: bool = False, create: bool = False) -> DiskFile:
        """Open a file. `create` makes it where it is missing."""
        ...

    def exists(self, path: str) -> bool:
        """Whether there is such a file or directory."""
        ...

    def list_directory(self, path: str) -> list[str]:
        """Names within, sorted."""
        ...

    def make_directory(self, path: str) -> None:
        """Make one directory; one that is there is fine."""
        ...

    def rename(self, source: str, target: str) -> None:
        """Replace `target` by `source`, atomically."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file; one that is gone is fine."""
        ...

    def sync_directory(self, path: str) -> None:
        """Return when the names in the directory are on the platter."""
        ...


def read_whole(disk: Disk, path: str) -> bytes:
    """All bytes of a file."""
    file = disk.open(path)
    try:
        return file.pread(file.size(), 0)
    finally:
        file.close()


def _count_names(descriptor: int) -> int:
    """Names that an open file has; -1 where the system does not say.

    Not `os.fstat`: asking for the time of the last change makes the next write keep it to the nanosecond, in the file
    system's journal, which makes that write's sync 55 us slower (Linux 6.13 and later).
    """
    facts = ctypes.create_string_buffer(_STATX_BYTES)
    try:
        failed = _libc.statx(descriptor, b"", _AT_EMPTY_PATH, _STATX_NLINK, facts)
    except AttributeError:
        return -1
    names: int = _STX_NLINK.unpack_from(facts)[0]
    return -1 if failed else names


def _direct_writer(descriptor: int) -> DirectWriter | None:
    if os.environ.get("PERDURE_PORTABLE"):
        return None
    try:
        return DirectWriter(descriptor)
    except OSError:
        return None


@final
class RealFile:
    """A file of the operating system.

    Args:
        descriptor: of the file, which is this one's to close.
        name: its path, for messages.
        direct_writer: makes what writes it directly; `None`: it cannot be had.
    """

    __slots__ = ("_direct_writer", "_name", "_started", "_writer", "descriptor")

    def __init__(
        self, descriptor: int, name: str, direct_writer: Callable[[int], DirectWriter | None] = _direct_writer
    ) -> None:
        self.descriptor = descriptor
        self._name = name
        self._direct_writer = direct_writer
        self._writer: DirectWriter | None = None
        self._started: Callable[[], None] | None = None

    def size(self) -> int:
        """Size of the file."""
        return os.fstat(self.descriptor).st_size

    def pread(self, size_bytes: int, offset: int) -> bytes:
        """Up to `size_bytes` bytes; fewer at the end of the file only."""
        data = os.pread(self.descriptor, size_bytes, offset)
        if len(data) == size_bytes or not data:
            return data
        parts = [data]  # one call gives at most 2 GiB
        got = len(data)
        while got < size_bytes and (data := os.pread(self.descriptor, size_bytes - got, offset + got)):
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    def pwrite(self, data: Buffer, offset: int) -> None:
        """Write all of `data`, or raise."""
        written = os.pwrite(self.descriptor, data, offset)
        if written != len(data):
            self._write_rest(memoryview(data).cast("B"), offset, written)

    def _write_rest(self, data: memoryview, offset: int, written: int) -> None:
        while written < len(data):
            step = os.pwrite(self.descriptor, data[written:], offset + written)
            if step <= 0:
                raise OSError(errno.EIO, f"wrote {written} of {len(data)} bytes", self._name)
            written += step

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> None:
        """Write all of `buffers`, one after the other, or raise."""
        for start in range(0, len(buffers), _MAX_BUFFERS):
            batch = buffers[start : start + _MAX_BUFFERS]
            size_bytes = sum(map(len, batch))
            written = os.pwritev(self.descriptor, batch, offset)
            if written != size_bytes:
                self._write_rest(memoryview(b"".join(batch)), offset, written)
            offset += size_bytes

    def pwrite_each(self, buffers: Sequence[Buffer], offsets: Sequence[int]) -> None:
        """Write all of each buffer at its offset, or raise. The loop is in C."""
        written = map(os.pwrite, repeat(self.descriptor), buffers, offsets)
        if sum(written) != sum(map(len, buffers)):
            for data, offset in zip(buffers, offsets, strict=True):
                self.pwrite(data, offset)

    def truncate(self, size_bytes: int) -> None:
        """Cut or extend with a hole."""
        os.ftruncate(self.descriptor, size_bytes)

    def punch(self, offset: int, size_bytes: int) -> None:
        """Turn a range into a hole. Raises `OSError` where the file system cannot."""
        flags = _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE
        if _libc.fallocate(self.descriptor, flags, ctypes.c_int64(offset), ctypes.c_int64(size_bytes)):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), self._name)

    def data_ranges(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Ranges `(start, end)` that may hold anything but zeros, ascending."""
        while start < end:
            try:
                data = os.lseek(self.descriptor, start, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            if data >= end:
                return
            start = min(os.lseek(self.descriptor, data, os.SEEK_HOLE), end)
            yield data, start

    def sync(self) -> None:
        """Return when everything written is on the platter."""
        os.fdatasync(self.descriptor)
        self._check_name()

    def _check_name(self) -> None:
        if not _count_names(self.descriptor):
            # Written and synced, and gone all the same: whoever removed the file took the bytes with it.
            raise OSError(errno.ENOENT, "the file was removed", self._name)

    def start(self, buffers: Sequence[Buffer], offset: int) -> None:
        """Begin to write; see `DiskFile.start`. Without direct writes this only writes, and `finish` syncs."""
        if self._started is None:
            self._writer = self._direct_writer(self.descriptor)
        writer = self._writer
        if writer is not None and sum(map(len, buffers)) <= CAPACITY_BYTES:
            writer.start(buffers, offset)
            self._started = self._finish_direct
        else:
            self.pwritev(buffers, offset)
            self._started = self._finish_buffered

    def _finish_direct(self) -> None:
        writer = self._writer
        if writer is None:
            return
        try:
            writer.finish()
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # The file system wants other alignments, or has no direct writes after all.
            self.pwrite(writer.written, writer.offset)
            self._finish_buffered()
            writer.close()
            self._writer = None

    def _finish_buffered(self) -> None:
        os.fdatasync(self.descriptor)

    def finish(self) -> None:
        """Return when what was started is on the platter."""
        if self._started is not None:
            self._started()
            self._check_name()

    def lock(self, *, exclusive: bool) -> bool:
        """Take or change the advisory lock without waiting; False when another opener holds it."""
        try:
            fcntl.flock(self.descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Let go; locks are released. Again is fine."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


@final
class RealDisk:
    """The operating system's files."""

    def open(self, path: str, *, write: bool = False, create: bool = False) -> RealFile:
        """Open a file. `create` makes it where it is missing."""
        flags = os.O_CLOEXEC | (os.O_RDWR if write else os.O_RDONLY) | (os.O_CREAT if create else 0)
        return RealFile(os.open(path, flags, 0o644), path)

    def exists(self, path: str) -> bool:
        """Whether there is such a file or directory."""
        return Path(path).exists()

    def list_directory(self, path: str) -> list[str]:
        """Names within, sorted."""
        return sorted(entry.name for entry in Path(path).iterdir())

    def make_directory(self, path: str) -> None:
        """Make one directory; one that is there is fine."""
        Path(path).mkdir(exist_ok=True)

    def rename(self, source: str, target: str) -> None:
        """Replace `target` by `source`, atomically."""
        Path(source).replace(target)

    def remove(self, path: str) -> None:
        """Remove a file; one that is gone is fine."""
        Path(path).unlink(missing_ok=True)

    def sync_directory(self, path: str) -> None:
        """Return when the names in the directory are on the platter."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
