"""Snapshots in object storage: the files of a snapshot directory as objects of the same names.

```
 KEY/wasm_module.bin, wasm_memory.bin, stable_memory.bin, wasm_chunk_store/SHA-256.bin, memories/...
 KEY/metadata.json      last, and only if there is none: a snapshot without it is not whole, one with it never changes
```

Memories are objects as they are, holes included, so that they are read by ranges and by other tools.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, Final, final

from perdure.errors import MalformedError, StorageError
from perdure.memory import PAGE_BYTES
from perdure.storage.disk import Disk, DiskFile, RealDisk
from perdure.storage.objects import AlreadyThereError, Objects, Stat
from perdure.storage.snapshot import Snapshot, SnapshotMetadata, snapshot_draft
from perdure.urls import Place, parse_url

__all__ = ["METADATA_KEY", "pull_snapshot", "push_snapshot", "read_metadata"]

METADATA_KEY: Final = "metadata.json"
_MAX_METADATA_BYTES: Final = 16 << 20
_MAX_DATA_BYTES: Final = 1 << 40
_MAX_FILES: Final = 20_000
_EXPECTED: Final = re.compile(
    r"wasm_module\.bin|(wasm|stable)_memory\.bin|wasm_chunk_store/[0-9a-f]{64}\.bin"
    r"|memories/(memories\.json|[a-z0-9_.-]{1,64}\.bin)"
)
_DIRECTORIES: Final = ("wasm_chunk_store", "memories")


@final
class _File:
    """A file of a disk as something to be read from its start to its end, or from anywhere."""

    def __init__(self, file: DiskFile) -> None:
        self._file = file
        self._at = 0

    def read(self, size_bytes: int = -1) -> bytes:
        wanted = self._file.size() - self._at if size_bytes < 0 else size_bytes
        data = self._file.pread(wanted, self._at)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        starts = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.size()}
        self._at = starts[whence] + offset
        return self._at

    def tell(self) -> int:
        return self._at


def push_snapshot(path: str | os.PathLike[str], url: str, *, disk: Disk | None = None) -> int:
    """Write a snapshot directory into object storage; how many bytes that are.

    What was interrupted is pushed again; what is whole is never changed.

    Raises:
        StorageError: it is no snapshot, there is one already, or something cannot be read or written.
    """
    disk = disk or RealDisk()
    place = parse_url(url)
    snapshot = Snapshot.open(path, disk=disk)
    objects = Objects(place)
    if objects.stat(place.under(METADATA_KEY).key) is not None:
        raise StorageError("there is a snapshot already, which is never changed: give this one another name", place)
    inside = disk.within(str(path))
    try:
        chunks = [f"wasm_chunk_store/{hash_.hex()}.bin" for hash_ in snapshot.metadata.wasm_chunk_store]
        own = [f"memories/{name}.bin" for name in snapshot.own_memories]
        names = ["wasm_module.bin", *chunks, "wasm_memory.bin", "stable_memory.bin", *own]
        names += ["memories/memories.json"] if own else []
        pushed = sum(_push(objects, place, inside, f"{path}/{name}", name) for name in dict.fromkeys(names))
        data = _read(inside, f"{path}/{METADATA_KEY}")
        objects.put(place.under(METADATA_KEY).key, data, only_new=True)
        return pushed + len(data)
    except AlreadyThereError:
        raise StorageError("another snapshot was pushed there meanwhile, and stays", place) from None
    except OSError as error:
        raise StorageError.because("could not be pushed", error, error.filename or path) from error
    finally:
        inside.close()
        snapshot.close()


def _read(disk: Disk, path: str) -> bytes:
    file = disk.open(path)
    try:
        return file.pread(file.size(), 0)
    finally:
        file.close()


def _push(objects: Objects, place: Place, disk: Disk, path: str, name: str) -> int:
    if not disk.exists(path):
        return 0
    file = disk.open(path)
    try:
        size_bytes = file.size()
        stream: Any = _File(file)
        readable: BinaryIO = stream
        objects.put_file(place.under(name).key, readable, size_bytes)
        return size_bytes
    finally:
        file.close()


def read_metadata(objects: Objects, place: Place) -> SnapshotMetadata:
    """What a snapshot in object storage says about itself.

    Raises:
        StorageError: there is none, or it is not what it should be.
    """
    data, _ = objects.read_whole(place.under(METADATA_KEY).key, _MAX_METADATA_BYTES)
    try:
        return SnapshotMetadata.from_json(data)
    except MalformedError as error:
        raise StorageError(str(error), place) from error


def pull_snapshot(url: str, path: str | os.PathLike[str], *, disk: Disk | None = None) -> int:
    """Fetch a snapshot into a new directory, which is there whole or not at all; how many bytes came.

    Zeros become holes.

    Raises:
        StorageError: there is none, it is replaced meanwhile, its parts do not fit each other, or the directory exists.
    """
    disk = disk or RealDisk()
    place = parse_url(url)
    objects = Objects(place)
    metadata = read_metadata(objects, place)
    try:
        with snapshot_draft(disk, path) as draft:
            pulled = 0
            for name, stat in _parts(objects, place):
                pulled += stat.size_bytes
                if pulled > _MAX_DATA_BYTES:
                    raise StorageError(f"more than {_MAX_DATA_BYTES} bytes in a snapshot", place)
                directory = name.rpartition("/")[0]
                if directory:
                    disk.make_directory(f"{draft}/{directory}")
                _write_sparsely(disk, f"{draft}/{name}", objects.stream(stat), stat.size_bytes)
            data, _ = objects.read_whole(place.under(METADATA_KEY).key, _MAX_METADATA_BYTES)
            if SnapshotMetadata.from_json(data) != metadata:
                raise StorageError(
                    "the snapshot was replaced while it was pulled: pull it again, and have writers use new names",
                    place,
                ).coded("object-changed")
            _write_sparsely(disk, f"{draft}/{METADATA_KEY}", [data], len(data))
            Snapshot.open(draft, disk=disk).close()
        return pulled + len(data)
    except MalformedError as error:
        raise StorageError(str(error), place) from error
    except OSError as error:
        raise StorageError.because("could not be written", error, error.filename or path) from error


def _parts(objects: Objects, place: Place) -> Iterator[tuple[str, Stat]]:
    """The files of a snapshot by name; what is no part of one is left."""
    prefix = f"{place.key.rstrip('/')}/".lstrip("/")
    for count, stat in enumerate(objects.list(prefix)):
        if count > _MAX_FILES:
            raise StorageError(f"more than {_MAX_FILES} objects in a snapshot", place)
        name = stat.key.removeprefix(prefix)
        if _EXPECTED.fullmatch(name):
            yield name, stat


def _write_sparsely(disk: Disk, path: str, pieces: Iterable[bytes], size_bytes: int) -> None:
    file = disk.open(path, write=True, create=True)
    try:
        file.truncate(size_bytes)
        at = 0
        for piece in pieces:
            for start in range(0, len(piece), 16 * PAGE_BYTES):
                block = piece[start : start + 16 * PAGE_BYTES]
                if block.count(0) != len(block):
                    file.pwrite(block, at + start)
            at += len(piece)
        file.sync()
    finally:
        file.close()
