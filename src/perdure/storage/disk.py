"""Plumbing: the disk, as few calls as the rest of storage needs, so that a test can put a simulated one in its place.

A `Disk` promises what POSIX promises and no more: a write is on the platter only after `DiskFile.sync`, a created,
renamed or removed name only after `Disk.sync_directory`; before that, writes may be lost, torn and reordered.

Errors are `OSError`, as the system gives them; the layer that knows which file of which state is concerned turns them
into `StorageError`.

What somebody else may have written is opened through `Disk.within`: the way to the directory is the user's, links and
all; below it nothing is followed, and nothing but files is opened. What was opened is asked what it is, not what is to
be; names are looked up from the directory as it was opened first. So what is moved or exchanged meanwhile leads nowhere
else.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from threading import active_count
from typing import Protocol, final

from perdure.storage.aio import CAPACITY_BYTES, DirectWriter, sync_data
from perdure.storage.calls import count_names, write_in_turn

__all__ = ["DIRECT_AFTER_WRITES", "Disk", "DiskFile", "RealDisk", "RealFile", "copy_data", "read_whole"]

_COPY_BYTES = 1 << 20
_ZEROS = bytes(_COPY_BYTES)

_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2
_libc = ctypes.CDLL(None, use_errno=True)
_MAX_HOLE_BYTES = 16 << 20
_MAX_BUFFERS = 1024  # IOV_MAX on Linux
DIRECT_AFTER_WRITES = 4
"""A direct write saves some 20 us, and the kernel takes 30 ms to let go of what makes them: few are not worth it."""

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

    def share(self) -> None:
        """Share the advisory lock with whoever else does, until the last process that has this file lets go of it."""
        ...

    def is_at(self, path: str) -> bool:
        """Whether a path leads to this file, and not to another one or nowhere."""
        ...

    def close(self) -> None:
        """Let go; locks are released."""
        ...


class Disk(Protocol):
    """Names of files. Paths are text."""

    def within(self, path: str) -> Disk:
        """The same disk, with mistrust of what lies in a directory, which may not be there yet; close it.

        Links below the directory, hard ones of files that are to be written, and whatever is neither a file nor a
        directory are refused, with an `OSError` that says so.
        """
        ...

    def close(self) -> None:
        """Let go of the directory."""
        ...

    def owner(self, path: str) -> int:
        """Number of the user who owns a directory."""
        ...

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

    def remove_directory(self, path: str) -> None:
        """Remove an empty directory."""
        ...

    def sync_directory(self, path: str) -> None:
        """Return when the names in the directory are on the platter."""
        ...


def read_whole(disk: Disk, path: str) -> bytes:
    """All bytes of a file, of which most must be there: a hole of a TiB costs nobody a byte, and its reader all."""
    file = disk.open(path)
    try:
        size_bytes = file.size()
        if size_bytes > _MAX_HOLE_BYTES:
            data_bytes = sum(end - start for start, end in file.data_ranges(0, size_bytes))
            if 2 * data_bytes < size_bytes:
                raise OSError(errno.EFBIG, f"{size_bytes} bytes, of which {data_bytes} are no hole", path)
        return file.pread(size_bytes, 0)
    finally:
        file.close()


def _direct_writer(descriptor: int) -> DirectWriter | None:
    if os.environ.get("PERDURE_PORTABLE"):
        return None
    try:
        return DirectWriter(descriptor)
    except OSError:
        return None


@final
class RealFile:
    """A file of the operating system; closed where nobody has it any more, if nobody has closed it.

    Args:
        descriptor: of the file, which is this one's to close.
        name: its path, for messages.
        direct_writer: makes what writes it directly; `None`: it cannot be had.
        in_turn: keep the interpreter while a few pages are written, if there are other threads. Where they wait for
            what the writer holds, whoever gets the interpreter meanwhile only finds that out.
    """

    __slots__ = (
        "__weakref__",
        "_direct_writer",
        "_finalizer",
        "_has_writer",
        "_identity",
        "_in_turn",
        "_name",
        "_started",
        "_starts",
        "_writer",
        "descriptor",
    )

    def __init__(
        self,
        descriptor: int,
        name: str,
        direct_writer: Callable[[int], DirectWriter | None] = _direct_writer,
        *,
        in_turn: bool = False,
    ) -> None:
        self._has_writer = False  # or was found to have none
        self._name = name
        self._direct_writer = direct_writer
        self._writer: DirectWriter | None = None
        self._identity: tuple[int, int] | None = None
        self._started: Callable[[], None] | None = None
        self._starts = 0
        self._in_turn = in_turn
        self.descriptor = descriptor
        # For one that nobody has closed. Not `__del__`, which swallows what a signal handler raises meanwhile, and runs
        # for those that were closed as well.
        self._finalizer = weakref.finalize(self, os.close, descriptor)
        self._finalizer.atexit = False

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
        write = write_in_turn if self._in_turn and active_count() > 1 else os.pwrite
        written = write(self.descriptor, data, offset)
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
        call = getattr(_libc, "fallocate", None)
        if call is None or call(self.descriptor, flags, ctypes.c_int64(offset), ctypes.c_int64(size_bytes)):
            raise OSError(code := ctypes.get_errno() if call else errno.ENOTSUP, os.strerror(code), self._name)

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
        sync_data(self.descriptor)
        self._check_name()

    def _check_name(self) -> None:
        if not count_names(self.descriptor):
            # Written and synced, and gone all the same: whoever removed the file took the bytes with it.
            raise OSError(errno.ENOENT, "the file was removed", self._name)

    def start(self, buffers: Sequence[Buffer], offset: int) -> None:
        """Begin to write; see `DiskFile.start`. Without direct writes this only writes, and `finish` syncs."""
        self._starts += 1
        if not self._has_writer and self._starts > DIRECT_AFTER_WRITES:
            self._writer = self._direct_writer(self.descriptor)
            self._has_writer = True
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
        sync_data(self.descriptor)

    def finish(self) -> None:
        """Return when what was started is on the platter."""
        if self._started is not None:
            self._check_name()  # before waiting: the disk is at work meanwhile
            self._started()

    def lock(self, *, exclusive: bool) -> bool:
        """Take or change the advisory lock without waiting; False when another opener holds it."""
        try:
            fcntl.flock(self.descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        _LOCKED.add(self)
        return True

    def share(self) -> None:
        """Share the advisory lock with whoever else does, until the last process that has this file lets go of it."""
        fcntl.flock(self.descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def is_at(self, path: str) -> bool:
        """Whether a path leads to this file, and not to another one or nowhere."""
        if self._identity is None:
            self._identity = (own := os.fstat(self.descriptor)).st_dev, own.st_ino
        try:
            found = os.stat(path, follow_symlinks=False)  # noqa: PTH116 -- for every message; a `Path` costs more
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    def close(self) -> None:
        """Let go; locks are released. Again is fine."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        descriptor, self.descriptor = self.descriptor, -1
        if self._finalizer.detach() is not None:
            os.close(descriptor)


_LOCKED: weakref.WeakSet[RealFile] = weakref.WeakSet()


def _after_fork() -> None:
    """In a child, let go of what is locked: else the parent could let go of nothing before the child has ended."""
    for file in _LOCKED:
        file.close()


os.register_at_fork(after_in_child=_after_fork)


@final
class _Descriptor:
    """One that is open, or none. It is closed once at most, whatever exception comes: its number may be another's."""

    __slots__ = ("number",)

    def __init__(self, number: int = -1) -> None:
        self.number = number

    def close(self, then: int = -1) -> None:
        """Close it, and be `then`."""
        number, self.number = self.number, then
        if number >= 0:
            os.close(number)


_LINK = "is a symbolic link, which nothing in this directory may be: put what it leads to in its place"
_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_REFUSED = (errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EISDIR)  # by `open` itself, in less clear words


@final
class RealDisk:
    """The operating system's files.

    Args:
        root: the directory that is not trusted, see `Disk.within`; empty: there is none.
    """

    def __init__(self, root: str = "") -> None:
        self._root = root.rstrip("/") or root
        self._held = _Descriptor()
        weakref.finalize(self, self._held.close).atexit = False

    def within(self, path: str) -> RealDisk:
        """The same disk, with mistrust of what lies in a directory; see `Disk.within`."""
        return RealDisk(path)

    def close(self) -> None:
        """Let go of the directory. Again is fine."""
        self._held.close()

    def owner(self, path: str) -> int:
        """Number of the user who owns a directory."""
        with self._directory(path) as descriptor:
            return os.fstat(descriptor).st_uid

    # -- where names are looked up

    def _inner(self, path: str) -> list[str] | None:
        """The names on the way from the root to `path`; `None`: it does not lie below it."""
        if not self._root or not path.startswith(self._root):
            return None
        rest = path[len(self._root) :]
        return [name for name in rest.split("/") if name] if rest.startswith("/") or self._root == "/" else None

    @contextmanager
    def _directory(self, path: str) -> Iterator[int]:
        """Open a directory."""
        names = [] if path == self._root else self._inner(path)
        if names is None:
            descriptor = _Descriptor(os.open(path, _DIRECTORY))
        else:
            if self._held.number < 0:
                self._held.number = os.open(self._root, _DIRECTORY)
            descriptor = _Descriptor(os.dup(self._held.number))
        try:
            for name in names or ():
                try:
                    inner = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor.number)
                except OSError as error:
                    raise _explained(error, name, descriptor.number, path) from error
                descriptor.close(inner)
            yield descriptor.number
        finally:
            descriptor.close()

    @contextmanager
    def _place(self, path: str) -> Iterator[tuple[str, int | None]]:
        """What to call a file, and in which directory."""
        names = self._inner(path)
        if not names:
            yield path, None
            return
        with self._directory("/".join((self._root, *names[:-1]))) as descriptor:
            yield names[-1], descriptor

    # -- names

    def open(self, path: str, *, write: bool = False, create: bool = False) -> RealFile:
        """Open a file. `create` makes it where it is missing."""
        flags = os.O_CLOEXEC | (os.O_RDWR if write else os.O_RDONLY) | (os.O_CREAT if create else 0)
        with self._place(path) as (name, directory):
            if directory is None:
                return RealFile(os.open(name, flags, 0o644), path)
            try:
                # A FIFO without a writer is opened without waiting, to be refused.
                descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644, dir_fd=directory)
            except OSError as error:
                raise _explained(error, name, directory, path) from error
            try:
                _check_kind(os.fstat(descriptor), path, write=write)
            except OSError:
                os.close(descriptor)
                raise
            return RealFile(descriptor, path)

    def exists(self, path: str) -> bool:
        """Whether there is such a file or directory."""
        try:
            with self._place(path) as (name, directory):
                os.stat(name, dir_fd=directory, follow_symlinks=directory is None)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def list_directory(self, path: str) -> list[str]:
        """Names within, sorted."""
        with self._directory(path) as descriptor, os.scandir(descriptor) as entries:
            names = []
            for entry in entries:
                if self._root and not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
                    _check_kind(entry.stat(follow_symlinks=False), f"{path}/{entry.name}", write=False)
                names.append(entry.name)
        return sorted(names)

    def make_directory(self, path: str) -> None:
        """Make one directory; one that is there is fine."""
        with self._place(path) as (name, directory):
            try:
                os.mkdir(name, dir_fd=directory)
            except FileExistsError:
                with self._directory(path):
                    return

    def rename(self, source: str, target: str) -> None:
        """Replace `target` by `source`, atomically."""
        with self._place(source) as (old, old_directory), self._place(target) as (new, new_directory):
            os.replace(old, new, src_dir_fd=old_directory, dst_dir_fd=new_directory)

    def remove(self, path: str) -> None:
        """Remove a file; one that is gone is fine."""
        with self._place(path) as (name, directory):
            try:
                os.unlink(name, dir_fd=directory)
            except FileNotFoundError:
                return

    def remove_directory(self, path: str) -> None:
        """Remove an empty directory."""
        with self._place(path) as (name, directory):
            os.rmdir(name, dir_fd=directory)

    def sync_directory(self, path: str) -> None:
        """Return when the names in the directory are on the platter."""
        with self._directory(path) as descriptor:
            os.fsync(descriptor)


def _check_kind(found: os.stat_result, path: str, *, write: bool) -> None:
    """Raise unless it is a file, which nobody else has a name for if it is to be written."""
    kind = stat.S_IFMT(found.st_mode)
    if kind == stat.S_IFLNK:
        raise OSError(errno.ELOOP, _LINK, path)
    if kind != stat.S_IFREG:
        raise OSError(errno.EINVAL, f"is {_KINDS.get(kind, 'a directory')}, expected a file", path)
    if write and found.st_nlink > 1:
        raise OSError(
            errno.EMLINK,
            f"has {found.st_nlink} names (hard links), and what is written here would change under all of them: "
            "open a real copy instead",
            path,
        )


def _explained(error: OSError, name: str, directory: int, path: str) -> OSError:
    """The error with what is wrong, where it is what lies at that place, and not the place itself."""
    if error.errno in (*_REFUSED, errno.ENOTDIR):
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            _check_kind(found, path, write=False)
        except OSError as clearer:
            return clearer
    return OSError(error.errno, error.strerror, path)


def copy_data(source: DiskFile, source_offset: int, target: DiskFile, target_offset: int, size_bytes: int) -> None:
    """Copy, leaving holes where there are only zeros."""
    for start in range(0, size_bytes, _COPY_BYTES):
        data = source.pread(min(_COPY_BYTES, size_bytes - start), source_offset + start)
        if data != _ZEROS[: len(data)]:
            target.pwrite(data, target_offset + start)
