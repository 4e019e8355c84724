"""Snapshots for transport: a tar archive, compressed with zstandard, in which holes cost nothing.

Memories are stored as sparse files (GNU format 1.0 in pax headers), which GNU tar and Python's `tarfile` unpack, so 500
GiB with a page in every gigabyte travel as two megabytes. Needs the extra ``transport``.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator
from typing import IO, Any

from perdure.errors import StorageError, UnsupportedError
from perdure.storage.beside import new_file
from perdure.storage.disk import Disk, DiskFile, RealDisk
from perdure.storage.snapshot import Snapshot, snapshot_draft

__all__ = ["pack_snapshot", "unpack_snapshot"]

_COPY_BYTES = 1 << 20
_MEMORY_FILES = ("wasm_memory.bin", "stable_memory.bin")
_EXPECTED = re.compile(r"metadata\.json|wasm_module\.bin|(wasm|stable)_memory\.bin|wasm_chunk_store/[0-9a-f]{64}\.bin")
_ZEROS = bytes(_COPY_BYTES)


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise UnsupportedError("packed snapshots need the extra: pip install 'perdure[transport]'").coded(
            "extra-missing"
        ) from error
    return zstandard


class _SparseReader(io.RawIOBase):
    """The data of a sparse member: its map, then its pieces one after the other."""

    def __init__(self, file: DiskFile, ranges: list[tuple[int, int]], size_bytes: int) -> None:
        entries = [*ranges, (size_bytes, size_bytes)]
        text = f"{len(entries)}\n" + "".join(f"{start}\n{end - start}\n" for start, end in entries)
        head = text.encode()
        self._head = head + bytes(-len(head) % tarfile.BLOCKSIZE)
        self.size_bytes = len(self._head) + sum(end - start for start, end in ranges)
        self._parts = self._pieces(file, ranges)
        self._rest = b""

    def _pieces(self, file: DiskFile, ranges: list[tuple[int, int]]) -> Iterator[bytes]:
        yield self._head
        for start, end in ranges:
            for at in range(start, end, _COPY_BYTES):
                yield file.pread(min(_COPY_BYTES, end - at), at)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = next(self._parts, b"")
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


class _Sequential(io.RawIOBase):
    """A file of a disk, read or written from its start to its end."""

    def __init__(self, file: DiskFile) -> None:
        self._file = file
        self._at = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.pread(len(buffer), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def write(self, data: Any) -> int:
        self._file.pwrite(data, self._at)
        self._at += len(data)
        return len(data)


def pack_snapshot(path: str | os.PathLike[str], archive: str | os.PathLike[str], *, disk: Disk | None = None) -> None:
    """Pack a snapshot directory into a ``.tar.zst`` file, which is there whole or not at all.

    Raises:
        StorageError: it is not a snapshot, or cannot be read or written.
        UnsupportedError: the extra ``transport`` is not installed.
    """
    compressor = _zstandard().ZstdCompressor(level=3, threads=-1)
    disk = disk or RealDisk()
    snapshot = Snapshot.open(path, disk=disk)
    names = ["metadata.json", "wasm_module.bin"]
    names += [f"wasm_chunk_store/{hash_.hex()}.bin" for hash_ in snapshot.metadata.wasm_chunk_store]
    inside = disk.within(str(path))
    names += [name for name in _MEMORY_FILES if inside.exists(f"{path}/{name}")]
    try:
        with (
            new_file(disk, str(archive)) as file,
            compressor.stream_writer(_Sequential(file)) as stream,
            tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as tar,
        ):
            for name in names:
                _add(tar, inside, str(path), name)
    except OSError as error:
        raise StorageError.because("could not be packed", error, error.filename or archive) from error


def _add(tar: tarfile.TarFile, disk: Disk, directory: str, name: str) -> None:
    file = disk.open(f"{directory}/{name}")
    try:
        size_bytes = file.size()
        info = tarfile.TarInfo(name)
        info.mode = 0o644
        if name not in _MEMORY_FILES:
            info.size = size_bytes
            tar.addfile(info, io.BytesIO(file.pread(size_bytes, 0)))
            return
        reader = _SparseReader(file, list(file.data_ranges(0, size_bytes)), size_bytes)
        info.name = f"GNUSparseFile.0/{name}"
        info.size = reader.size_bytes
        info.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": name,
            "GNU.sparse.realsize": str(size_bytes),
        }
        tar.addfile(info, io.BufferedReader(reader, _COPY_BYTES))
    finally:
        file.close()


def unpack_snapshot(
    archive: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    max_data_bytes: int = 1 << 40,
    disk: Disk | None = None,
) -> Snapshot:
    """Unpack a ``.tar.zst`` file into a new snapshot directory and open it.

    Args:
        archive: the file.
        path: must not exist.
        max_data_bytes: more data than this in the archive, holes apart, is refused.
        disk: where both are; by default the operating system's files.

    Raises:
        StorageError: it is no packed snapshot, or cannot be read or written; nothing is left at `path`.
        UnsupportedError: the extra ``transport`` is not installed.
    """
    zstandard = _zstandard()
    disk = disk or RealDisk()
    try:
        with snapshot_draft(disk, path) as draft:
            _unpack(zstandard, str(archive), draft, max_data_bytes, disk)
            Snapshot.open(draft, disk=disk).close()
        return Snapshot.open(path, disk=disk)
    except (tarfile.TarError, zstandard.ZstdError, EOFError, ValueError) as error:
        raise StorageError(f"not a packed snapshot: {error}", archive) from error
    except OSError as error:
        raise StorageError.because("could not be unpacked", error, error.filename or archive) from error


def _unpack(zstandard: Any, archive: str, draft: str, left: int, disk: Disk) -> None:
    file = disk.open(archive)
    try:
        with (
            zstandard.ZstdDecompressor().stream_reader(_Sequential(file)) as stream,
            tarfile.open(fileobj=stream, mode="r|") as tar,
        ):
            for member in tar:
                left -= _extract(tar, member, draft, left, disk)
    finally:
        file.close()


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, draft: str, left: int, disk: Disk) -> int:
    """Write one member; how many bytes of data it has."""
    if not member.isreg() or not _EXPECTED.fullmatch(member.name):
        raise tarfile.ReadError(f"member {member.name!r:.100}")
    source = tar.extractfile(member)
    if source is None:
        raise tarfile.ReadError(f"member {member.name!r} without data")
    raw: Any = source.raw  # type: ignore[attr-defined]  # its buffer asks the stream for `seekable`, which it lacks
    sparse: Any = member.sparse  # wrongly typed as bytes
    pieces: list[tuple[int, int]] = [(0, member.size)] if sparse is None else sparse
    data_bytes = sum(size for _, size in pieces)
    if data_bytes > left or any(offset < 0 or size < 0 for offset, size in pieces):
        raise tarfile.ReadError(f"member {member.name!r} has {data_bytes} bytes, more than is left")
    goal = f"{draft}/{member.name}"
    if disk.exists(goal):
        raise tarfile.ReadError(f"member {member.name!r} is there twice")
    if "/" in member.name:
        disk.make_directory(goal.rpartition("/")[0])
    file = disk.open(goal, write=True, create=True)
    try:
        for offset, size in pieces:
            raw.seek(offset)
            _copy(raw, file, offset, size)
        file.truncate(member.size)
        file.sync()
    finally:
        file.close()
    return data_bytes


def _copy(source: IO[bytes], file: DiskFile, offset: int, size_bytes: int) -> None:
    end = offset + size_bytes
    while offset < end:
        data = source.read(min(_COPY_BYTES, end - offset))
        if not data:
            raise tarfile.ReadError("the archive ends early")
        if data != _ZEROS[: len(data)]:
            file.pwrite(data, offset)
        offset += len(data)
