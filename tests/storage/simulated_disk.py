"""A disk in memory that keeps what was synced and, when the power is cut, an arbitrary part of the rest.

What a cut may do to what was not synced: every sector of 512 bytes of every write is kept or lost on its own (lost,
torn and reordered writes), so are changes of size, and so is every created, renamed or removed name. A sector is never
half written; that is what a disk promises.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator, Sequence

SECTOR = 512
Buffer = bytes | bytearray | memoryview


class PowerCutError(BaseException):
    """The machine is off."""


class Inode:
    """A file's bytes: as on the platter, and as written. Copied when first written, because most cuts change little."""

    def __init__(self, durable: bytes = b"") -> None:
        self.durable = durable
        self.data: bytes | bytearray = durable
        self.pending: list[tuple[int, bytes] | int] = []  # writes (offset, bytes) and sizes
        self.holders: list[tuple[object, bool]] = []

    def writable(self) -> bytearray:
        if not isinstance(self.data, bytearray):
            self.data = bytearray(self.data)
        return self.data

    def sync(self) -> None:
        if self.pending:
            self.durable = bytes(self.data)
            self.pending.clear()

    def crashed(self, rng: random.Random) -> Inode:
        if not self.pending:
            return Inode(self.durable)
        data = bytearray(self.durable)
        for change in self.pending:
            if isinstance(change, int):
                if rng.random() < 0.5:
                    _resize(data, change)
            else:
                _keep_some(data, change, rng)
        return Inode(bytes(data))


def _resize(data: bytearray, size: int) -> None:
    if size < len(data):
        del data[size:]
    else:
        data.extend(bytes(size - len(data)))


def _keep_some(data: bytearray, change: tuple[int, bytes], rng: random.Random) -> None:
    offset, written = change
    kept = rng.choice((0.0, 0.5, 0.9, 1.0))
    if kept == 0.0:
        return
    position = 0
    while position < len(written):
        step = min(SECTOR - (offset + position) % SECTOR, len(written) - position)
        if kept == 1.0:
            step = len(written) - position
        if rng.random() < kept:
            start = offset + position
            _resize(data, max(len(data), start + step))
            data[start : start + step] = written[position : position + step]
        position += step


class SimulatedFile:
    """An open file of a `SimulatedDisk`."""

    descriptor = -1

    def __init__(self, disk: SimulatedDisk, inode: Inode, path: str, *, writable: bool) -> None:
        self._disk = disk
        self._inode = inode
        self._path = path
        self._writable = writable

    def size(self) -> int:
        return len(self._inode.data)

    def pread(self, size_bytes: int, offset: int) -> bytes:
        self._disk.check()
        return bytes(self._inode.data[offset : offset + size_bytes])

    def pwrite(self, data: Buffer, offset: int) -> None:
        self.pwritev([data], offset)

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> None:
        assert self._writable, self._path
        data = b"".join(buffers)
        inode = self._inode
        failure = self._disk.fault("write", self._path)
        if failure is not None:
            data = data[: len(data) // 2]  # a failing write may have written some of it
        content = inode.writable()
        _resize(content, max(len(content), offset + len(data)))
        content[offset : offset + len(data)] = data
        inode.pending.append((offset, data))
        self._disk.step(f"write {self._path}")
        if failure is not None:
            raise failure

    def pwrite_each(self, buffers: Sequence[Buffer], offsets: Sequence[int]) -> None:
        for data, offset in zip(buffers, offsets, strict=True):
            self.pwrite(data, offset)

    def truncate(self, size_bytes: int) -> None:
        assert self._writable, self._path
        if size_bytes != len(self._inode.data):
            _resize(self._inode.writable(), size_bytes)
            self._inode.pending.append(size_bytes)
            self._disk.step(f"truncate {self._path}")

    def punch(self, offset: int, size_bytes: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "no holes here")

    def data_ranges(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        if start < min(end, len(self._inode.data)):
            yield start, min(end, len(self._inode.data))

    def sync(self) -> None:
        self._disk.step(f"sync {self._path}")
        failure = self._disk.fault("sync", self._path)
        if failure is not None:
            raise failure
        if not self._disk.ignores("sync", self._path):
            self._inode.sync()

    def start(self, buffers: Sequence[Buffer], offset: int) -> None:
        self.pwritev(buffers, offset)

    def finish(self) -> None:
        self.sync()

    def lock(self, *, exclusive: bool) -> bool:
        others = [mode for holder, mode in self._inode.holders if holder is not self]
        if any(others) or (exclusive and others):
            return False
        self._inode.holders = [entry for entry in self._inode.holders if entry[0] is not self]
        self._inode.holders.append((self, exclusive))
        return True

    def share(self) -> None:
        self.lock(exclusive=False)

    def is_at(self, path: str) -> bool:
        del path
        return True

    def close(self) -> None:
        self._inode.holders = [entry for entry in self._inode.holders if entry[0] is not self]


Name = tuple[str, Inode | None]


class SimulatedDisk:
    """See the module.

    Attributes:
        steps: writes, syncs and changes of names so far.
        at_step: called before each of them takes effect on the platter, that is, at every place for a cut.
    """

    def __init__(self, names: dict[str, Inode | None] | None = None) -> None:
        self._durable_names: dict[str, Inode | None] = dict(names or {"/": None})
        self._names = dict(self._durable_names)
        self._pending: dict[str, list[list[tuple[str, Inode | str | None]]]] = {}
        self.steps = 0
        self.at_step: Callable[[str], None] | None = None
        self.off = False
        self.ignored: tuple[str, str] | None = None  # ("sync", end of path): a seeded removal
        self.faults: list[tuple[str, str, int]] = []  # (what, end of path, errno): the next such call fails

    # -- cuts

    def check(self) -> None:
        if self.off:
            raise PowerCutError

    def step(self, what: str) -> None:
        self.check()
        self.steps += 1
        if self.at_step is not None:
            self.at_step(what)

    def crashed(self, rng: random.Random) -> SimulatedDisk:
        """The disk as it may be found after a cut now."""
        names = dict(self._durable_names)
        for groups in self._pending.values():
            for group in groups:
                if rng.random() < 0.5:
                    for path, target in group:
                        if target == "gone":
                            names.pop(path, None)
                        else:
                            assert not isinstance(target, str)
                            names[path] = target
        for path in sorted(names):  # what lay in a directory whose name is lost is lost
            if path != "/" and (path.rpartition("/")[0] or "/") not in names:
                del names[path]
        copies: dict[int, Inode] = {}
        found: dict[str, Inode | None] = {}
        for path, inode in names.items():
            if inode is None:
                found[path] = None
            else:
                found[path] = copies.setdefault(id(inode), inode.crashed(rng))
        return SimulatedDisk(found)

    def copy(self) -> SimulatedDisk:
        """The disk as it is, everything on the platter."""
        return SimulatedDisk({path: inode and Inode(bytes(inode.data)) for path, inode in self._names.items()})

    def flip(self, path: str, bit: int) -> None:
        """Turn one bit, on the platter."""
        inode = self._names[path]
        assert inode is not None
        data = bytearray(inode.data)
        data[bit // 8] ^= 1 << bit % 8
        inode.data = inode.durable = bytes(data)

    def files(self) -> dict[str, int]:
        """Sizes of files by path."""
        return {path: len(inode.data) for path, inode in self._names.items() if inode is not None}

    # -- faults

    def ignores(self, what: str, path: str) -> bool:
        return self.ignored is not None and self.ignored[0] == what and self.ignored[1] in path

    def fault(self, what: str, path: str) -> OSError | None:
        for index, (kind, part, number) in enumerate(self.faults):
            if kind == what and part in path:
                del self.faults[index]
                return OSError(number, os.strerror(number), path)
        return None

    # -- names

    def within(self, path: str) -> SimulatedDisk:
        del path
        return self

    def close(self) -> None:
        return

    def owner(self, path: str) -> int:
        del path
        return os.geteuid()

    def _change(self, *changes: tuple[str, Inode | str | None]) -> None:
        for path, target in changes:
            if target == "gone":
                self._names.pop(path, None)
            else:
                assert not isinstance(target, str)
                self._names[path] = target
        self._pending.setdefault(changes[0][0].rpartition("/")[0] or "/", []).append(list(changes))
        self.step(f"name {changes[0][0]}")

    def open(self, path: str, *, write: bool = False, create: bool = False) -> SimulatedFile:
        self.check()
        failure = self.fault("open", path)
        if failure is not None:
            raise failure
        if path not in self._names:
            if not create:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            self._change((path, Inode()))
        inode = self._names[path]
        assert inode is not None
        return SimulatedFile(self, inode, path, writable=write)

    def exists(self, path: str) -> bool:
        return path in self._names

    def list_directory(self, path: str) -> list[str]:
        prefix = path.rstrip("/") + "/"
        return sorted(
            name[len(prefix) :] for name in self._names if name.startswith(prefix) and "/" not in name[len(prefix) :]
        )

    def make_directory(self, path: str) -> None:
        if path not in self._names:
            self._change((path, None))

    def rename(self, source: str, target: str) -> None:
        if self._names[source] is None:
            self._move_inner(source, target)
        self._change((target, self._names[source]), (source, "gone"))

    def _move_inner(self, source: str, target: str) -> None:
        """What lies in a directory goes with it, and is lost with its new name: worse than any disk, and simpler."""

        def moved(path: str) -> str:
            return target + path[len(source) :] if f"{path}/".startswith(f"{source}/") else path

        for names in (self._names, self._durable_names):
            for path in [path for path in names if path.startswith(f"{source}/")]:
                names[moved(path)] = names.pop(path)
        self._pending = {
            moved(directory): [[(moved(path), inode) for path, inode in group] for group in groups]
            if moved(directory) != directory
            else groups
            for directory, groups in self._pending.items()
        }

    def remove(self, path: str) -> None:
        if path in self._names:
            if self._names[path] is None:
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            self._change((path, "gone"))

    def remove_directory(self, path: str) -> None:
        if self.list_directory(path):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        if path in self._names:
            self._change((path, "gone"))

    def sync_directory(self, path: str) -> None:
        self.step(f"sync directory {path}")
        failure = self.fault("sync", path)
        if failure is not None:
            raise failure
        if self.ignores("sync directory", path + "/"):
            return
        for group in self._pending.pop(path, []):
            for name, target in group:
                if target == "gone":
                    self._durable_names.pop(name, None)
                else:
                    assert not isinstance(target, str)
                    self._durable_names[name] = target
