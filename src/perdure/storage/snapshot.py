"""Canister snapshots in the form of ``icp canister snapshot download`` and ``dfx canister snapshot download``.

```
 metadata.json                    below
 wasm_module.bin                  as uploaded, compressed or not
 wasm_memory.bin                  the heap, raw
 stable_memory.bin                stable memory, raw; only if it has any
 wasm_chunk_store/SHA-256.bin     one file a chunk; only if there are any
 memories/memories.json           perdure's own, which `icp` ignores: memories that the network does not know, by name
 memories/NAME.bin                such a memory, raw
```

``memories.json`` has of each ``lifetime``, ``address_bits`` and ``size_bytes``.

``metadata.json`` is the reply of ``read_canister_snapshot_metadata`` as serde writes it: field names as in Candid, a
blob is an array of numbers, a variant is its name or an object with its name as the only key, ``v128`` is an array of
32-bit digits, least significant first. No canister id, controllers or cycles are in it.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias, final

from perdure.canister import MEMORY_KINDS, MEMORY_NAME, GlobalValue, MemoryKind
from perdure.errors import MalformedError, StorageError, UnsupportedError
from perdure.memory import PAGE_BYTES, WASM_PAGE_BYTES
from perdure.storage.beside import DirectoryDraft, new_file
from perdure.storage.disk import Disk, DiskFile, RealDisk
from perdure.storage.image import TemporaryImage, open_sealed
from perdure.storage.temporary import TemporaryStore

__all__ = [
    "Snapshot",
    "SnapshotMetadata",
    "StoredMemory",
    "check_download",
    "snapshot_draft",
    "write_dump",
    "write_snapshot",
]

Said: TypeAlias = Any
"""What JSON says, whatever that is."""

_COPY_BYTES = 1 << 20
_CHUNK_STORE = "wasm_chunk_store"
_MEMORIES = "memories"
_MAX_OWN_MEMORIES = 1_000
_MAX_METADATA_BYTES = 64 << 20
_MAX_MEMORY_BYTES = 1 << 40
_MAX_COUNT = 1 << 62
_MAX_MODULE_BYTES = 256 << 20  # the network takes less than half of that
_MAX_CHUNK_BYTES = 1 << 20
_SOURCES = ("taken_from_canister", "metadata_upload")
_HOOK_STATUSES = ("condition_not_satisfied", "ready", "executed")

HookStatus = Literal["condition_not_satisfied", "ready", "executed"]


@final
@dataclass(frozen=True, slots=True)
class SnapshotMetadata:
    """What a snapshot says about itself.

    Attributes:
        source: ``taken_from_canister`` or ``metadata_upload``.
        taken_at_timestamp: in ns since 1970.
        global_values: in the order in which the network expects them.
        wasm_chunk_store: SHA-256 of each chunk.
        global_timer: when it fires, in ns since 1970; 0: inactive; `None`: not known.
    """

    taken_at_timestamp: int
    wasm_module_size: int
    wasm_memory_size: int
    stable_memory_size: int
    global_values: tuple[GlobalValue, ...] = ()
    wasm_chunk_store: tuple[bytes, ...] = ()
    canister_version: int = 0
    certified_data: bytes = b""
    global_timer: int | None = None
    on_low_wasm_memory_hook_status: HookStatus | None = None
    source: str = "taken_from_canister"

    def to_json(self) -> str:
        """The text of ``metadata.json``.

        Raises:
            UnsupportedError: a global is a NaN or infinite, which JSON cannot say.
        """
        timer: Said = None
        if self.global_timer is not None:
            timer = {"active": self.global_timer} if self.global_timer else "inactive"
        return json.dumps(
            {
                "source": {self.source: None},
                "taken_at_timestamp": self.taken_at_timestamp,
                "wasm_module_size": self.wasm_module_size,
                "globals": [_encode_global(value) for value in self.global_values],
                "wasm_memory_size": self.wasm_memory_size,
                "stable_memory_size": self.stable_memory_size,
                "wasm_chunk_store": [{"hash": list(hash_)} for hash_ in self.wasm_chunk_store],
                "canister_version": self.canister_version,
                "certified_data": list(self.certified_data),
                "global_timer": timer,
                "on_low_wasm_memory_hook_status": self.on_low_wasm_memory_hook_status,
            },
            indent=2,
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> SnapshotMetadata:
        """Read ``metadata.json``.

        Raises:
            MalformedError: it is not what the module docstring says.
        """
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise MalformedError(f"metadata.json: {error}") from error
        if not isinstance(found, dict):
            raise MalformedError(f"metadata.json: {type(found).__name__} found, an object expected")
        take = _Fields(found)
        hook = take("on_low_wasm_memory_hook_status", _decode_hook)
        return cls(
            taken_at_timestamp=take("taken_at_timestamp", _decode_count),
            wasm_module_size=take("wasm_module_size", _decode_size),
            wasm_memory_size=take("wasm_memory_size", _decode_size),
            stable_memory_size=take("stable_memory_size", _decode_size),
            global_values=tuple(take("globals", lambda values: [_decode_global(value) for value in _list(values)])),
            wasm_chunk_store=tuple(
                take("wasm_chunk_store", lambda values: [_chunk_hash(value) for value in _list(values)])
            ),
            canister_version=take("canister_version", _decode_count),
            certified_data=take("certified_data", _decode_blob),
            global_timer=take("global_timer", _decode_timer),
            on_low_wasm_memory_hook_status=hook,
            source=take("source", _decode_source),
        )


@final
class _Fields:
    def __init__(self, found: dict[str, Said]) -> None:
        self._found = found

    def __call__(self, name: str, decode: Callable[[Said], Said]) -> Said:
        try:
            return decode(self._found.get(name))
        except (ValueError, TypeError, KeyError, OverflowError, struct.error) as error:
            raise MalformedError(f"metadata.json: {name}: {error}") from error


def _list(found: object) -> list[Said]:
    if not isinstance(found, list):
        raise TypeError(f"{found!r:.60} found, an array expected")
    return found


def _decode_nat64(found: object) -> int:
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < 1 << 64:
        raise ValueError(f"{found!r:.60} found, a 64-bit number expected")
    return found


def _decode_count(found: object) -> int:
    """A number that goes on being counted up here, or a time that goes on."""
    count = _decode_nat64(found)
    if count >= _MAX_COUNT:
        raise ValueError(f"{count} leaves nothing to go on to")
    return count


def _decode_size(found: object) -> int:
    size_bytes = _decode_nat64(found)
    if size_bytes > _MAX_MEMORY_BYTES:
        raise ValueError(f"{size_bytes} bytes are more than a canister can have")
    return size_bytes


def _decode_blob(found: object) -> bytes:
    return bytes(_list(found))


def _chunk_hash(found: Said) -> bytes:
    hash_ = _decode_blob(found["hash"])
    if len(hash_) != 32:
        raise ValueError(f"a hash of {len(hash_)} bytes, 32 expected")
    return hash_


def _variant(found: object) -> tuple[str, Said]:
    """Name and payload: serde writes the name alone where there is no payload."""
    if isinstance(found, str):
        return found, None
    if isinstance(found, dict) and len(found) == 1:
        name, payload = next(iter(found.items()))
        return name, payload
    raise ValueError(f"{found!r:.60} found, a variant expected")


def _decode_source(found: object) -> str:
    if found is None:
        return "taken_from_canister"
    name, _ = _variant(found)
    if name not in _SOURCES:
        raise ValueError(f"{name!r} found, one of {_SOURCES} expected")
    return name


def _decode_timer(found: object) -> int | None:
    if found is None:
        return None
    name, payload = _variant(found)
    if name == "inactive":
        return 0
    if name != "active":
        raise ValueError(f"{name!r} found, inactive or active expected")
    return _decode_nat64(payload)


def _decode_hook(found: object) -> HookStatus | None:
    if found is None:
        return None
    name, _ = _variant(found)
    for status in _HOOK_STATUSES:
        if name == status:
            return status  # type: ignore[return-value]
    raise ValueError(f"{name!r} found, one of {_HOOK_STATUSES} expected")


_INTEGERS = {"i32": ("<i", "<I"), "i64": ("<q", "<Q")}
_FLOATS = {"f32": "<f", "f64": "<d"}


def _encode_global(value: GlobalValue) -> dict[str, Said]:
    value_type, bits = value
    if value_type in _INTEGERS:
        return {value_type: struct.unpack(_INTEGERS[value_type][0], bits)[0]}
    if value_type in _FLOATS:
        number = struct.unpack(_FLOATS[value_type], bits)[0]
        if not math.isfinite(number):
            raise UnsupportedError(f"a snapshot's metadata cannot hold a global of value {number}")
        return {value_type: number}
    digits = list(struct.unpack("<4I", bits))
    while digits and not digits[-1]:
        digits.pop()
    return {"v128": digits}


def _decode_global(found: object) -> GlobalValue:
    if found is None:
        raise ValueError("a global of a type that this version does not know")
    value_type, payload = _variant(found)
    if value_type in _INTEGERS:
        signed, unsigned = _INTEGERS[value_type]
        return GlobalValue(value_type, struct.pack(signed if payload < 0 else unsigned, payload))
    if value_type in _FLOATS:
        if isinstance(payload, bool) or not isinstance(payload, int | float):
            raise TypeError(f"{payload!r:.60} found, a number expected")
        return GlobalValue(value_type, struct.pack(_FLOATS[value_type], payload))
    if value_type == "v128":
        return GlobalValue("v128", _decode_v128(payload))
    raise ValueError(f"global of type {value_type!r}")


def _decode_v128(payload: Said) -> bytes:
    if isinstance(payload, int):
        return payload.to_bytes(16, "little")
    if len(_list(payload)) > 4:
        raise ValueError(f"{len(payload)} digits of 32 bits, at most 4 expected")
    return struct.pack(f"<{len(payload)}I", *payload).ljust(16, b"\0")


DOWNLOAD_PROGRESS: Final = ".download_progress.json"
"""Where `icp` keeps what it has of a download until it has all; files have their full size from the start."""


def check_download(directory: str | os.PathLike[str], disk: Disk | None = None) -> None:
    """Refuse a directory whose download was interrupted: where its files read as zeros, something is missing.

    Raises:
        StorageError: it was.
    """
    if (disk or RealDisk()).exists(f"{os.fspath(directory)}/{DOWNLOAD_PROGRESS}"):
        raise StorageError(
            f"the download is not complete, {DOWNLOAD_PROGRESS} is still there: "
            "go on with `icp canister snapshot download --resume`, or download it again",
            directory,
        ).coded("download-interrupted")


class StoredMemory(Protocol):
    """What a memory's file is written from; an image is one."""

    @property
    def wasm_pages(self) -> int:
        """Its size in Wasm pages."""
        ...

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        """Address ranges that may hold anything but zeros, ascending."""
        ...

    def read(self, address: int, size_bytes: int) -> bytes:
        """A copy of some bytes."""
        ...


class OwnMemory(NamedTuple):
    """What a snapshot says of a memory that the network does not know."""

    kind: MemoryKind
    size_bytes: int


_NO_METADATA = SnapshotMetadata(0, 0, 0, 0)


@final
class Snapshot:
    """A snapshot directory, open for reading. Made by `Snapshot.open`; sealed: nothing is ever written to it.

    Attributes:
        path: the directory.
        metadata: what it says about itself; its sizes are those of the files.
    """

    def __init__(self, path: str, metadata: SnapshotMetadata, disk: Disk) -> None:
        self.path = path
        self.metadata = metadata
        self.own_memories: Mapping[str, OwnMemory] = {}
        self._files: list[DiskFile] = []
        self._disk = disk.within(path)  # somebody else may have made it

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, disk: Disk | None = None) -> Snapshot:
        """Read the metadata and check that the files are there, in the sizes it gives. Reads no memory.

        Raises:
            StorageError: it cannot be read, its parts do not fit each other, or its download was interrupted.
        """
        disk = disk or RealDisk()
        check_download(path, disk)
        snapshot = cls(str(path), _NO_METADATA, disk)
        try:
            if "metadata.json" not in snapshot._disk.list_directory(snapshot.path):
                raise StorageError("not a snapshot: no metadata.json in it", path)
            snapshot.metadata = SnapshotMetadata.from_json(snapshot._read("metadata.json", _MAX_METADATA_BYTES))
            snapshot.own_memories = snapshot._read_kinds()
            snapshot._check_sizes()
        except OSError as error:
            raise StorageError(f"not a snapshot: {error.strerror}", error.filename or path) from error
        except MalformedError as error:
            raise StorageError(str(error), path) from error
        return snapshot

    def _check_sizes(self) -> None:
        sizes = {
            "wasm_module.bin": self.metadata.wasm_module_size,
            "wasm_memory.bin": self.metadata.wasm_memory_size,
            "stable_memory.bin": self.metadata.stable_memory_size,
            **{_file_of(name): one.size_bytes for name, one in self.own_memories.items()},
        }
        for name, expected in sizes.items():
            path = f"{self.path}/{name}"
            found = 0
            if expected or self._disk.exists(path):
                file = self._disk.open(path)
                found = file.size()
                file.close()
            if found != expected:
                raise StorageError(f"{found} bytes found, {expected} expected by metadata.json", path)
            if name != "wasm_module.bin" and expected % WASM_PAGE_BYTES:
                raise StorageError(f"{expected} bytes are not whole Wasm pages", path)

    def _read_kinds(self) -> dict[str, OwnMemory]:
        name = f"{_MEMORIES}/{_MEMORIES}.json"
        if not self._disk.exists(f"{self.path}/{name}"):
            return {}
        try:
            return _decode_kinds(json.loads(self._read(name, _MAX_METADATA_BYTES)))
        except (ValueError, TypeError, RecursionError) as error:
            raise MalformedError(f"{name}: {error}") from error

    def wasm_module(self) -> bytes:
        """The module as uploaded."""
        return self._read("wasm_module.bin")

    def chunks(self) -> dict[bytes, bytes]:
        """The chunk store: chunks by their SHA-256."""
        chunks = {}
        for hash_ in dict.fromkeys(self.metadata.wasm_chunk_store):
            chunk = self._read(f"{_CHUNK_STORE}/{hash_.hex()}.bin", _MAX_CHUNK_BYTES)
            if sha256(chunk).digest() != hash_:
                raise StorageError(
                    "its bytes are not those of its name", f"{self.path}/{_CHUNK_STORE}/{hash_.hex()}.bin"
                )
            chunks[hash_] = chunk
        return chunks

    def _read(self, name: str, max_bytes: int = _MAX_MODULE_BYTES) -> bytes:
        path = f"{self.path}/{name}"
        try:
            file = self._disk.open(path)
            try:
                size_bytes = file.size()
                if size_bytes > max_bytes:
                    raise StorageError(f"{size_bytes} bytes found, at most {max_bytes} expected", path)
                return file.pread(size_bytes, 0)
            finally:
                file.close()
        except OSError as error:
            raise StorageError(error.strerror or str(error), path) from error

    def image(self, kind: str, store: TemporaryStore) -> TemporaryImage:
        """An image over a memory's file, by its name: what is committed to it goes to `store`, the file stays."""
        name, size_bytes = {
            "heap": ("wasm_memory.bin", self.metadata.wasm_memory_size),
            "stable": ("stable_memory.bin", self.metadata.stable_memory_size),
            **{own: (_file_of(own), one.size_bytes) for own, one in self.own_memories.items()},
        }[kind]
        if not size_bytes:
            return TemporaryImage(store)
        try:
            file = self._disk.open(f"{self.path}/{name}")
        except OSError as error:
            raise StorageError(error.strerror or str(error), f"{self.path}/{name}") from error
        self._files.append(file)
        if file.size() != size_bytes:
            raise StorageError(f"{file.size()} bytes found, {size_bytes} expected", f"{self.path}/{name}")
        return open_sealed(store, file)

    def close(self) -> None:
        """Let go of the files; the images must be closed."""
        for file in self._files:
            file.close()
        self._files.clear()
        self._disk.close()


def _file_of(name: str) -> str:
    return f"{_MEMORIES}/{name}.bin"


def _decode_kinds(found: Said) -> dict[str, OwnMemory]:
    """Memories by name; what is wrong raises `ValueError`."""
    if not isinstance(found, dict) or len(found) > _MAX_OWN_MEMORIES:
        raise ValueError(f"{found!r:.60} found, an object of at most {_MAX_OWN_MEMORIES} memories expected")
    kinds = {}
    for name, said in found.items():
        if not MEMORY_NAME.fullmatch(name) or name in MEMORY_KINDS:
            raise ValueError(f"{name!r:.80} is no name of a memory of a canister's own")
        if not isinstance(said, dict):
            raise ValueError(f"{name}: {said!r:.60} found, an object expected")
        lifetime, bits = said.get("lifetime"), said.get("address_bits")
        if lifetime not in {"stable", "upgrade", "heap"} or bits not in {32, 64}:
            raise ValueError(f"{name}: lifetime {lifetime!r:.60} and {bits!r:.60}-bit addresses are of no memory")
        kinds[name] = OwnMemory(MemoryKind(name, lifetime, bits), _decode_size(said.get("size_bytes")))
    return kinds


def write_snapshot(
    path: str | os.PathLike[str],
    *,
    wasm_module: bytes,
    heap: StoredMemory,
    stable: StoredMemory,
    chunks: Mapping[bytes, bytes],
    metadata: SnapshotMetadata,
    own: Mapping[str, tuple[MemoryKind, StoredMemory]] | None = None,
    disk: Disk | None = None,
) -> SnapshotMetadata:
    """Write a snapshot directory: all of it, on the platter, or nothing. Holes stay holes.

    Args:
        path: must not exist.
        wasm_module: as uploaded.
        heap: becomes ``wasm_memory.bin``.
        stable: becomes ``stable_memory.bin``, if it has any pages.
        chunks: the chunk store, by SHA-256.
        metadata: its sizes and chunk hashes are set from the other arguments.
        own: memories that the network does not know, by name.
        disk: where; by default the operating system's files.

    Returns:
        The metadata as written.

    Raises:
        StorageError: it exists, or cannot be written.
        UnsupportedError: a global has a value that the format cannot say.
    """
    metadata = _complete(metadata, wasm_module, heap, stable, chunks)
    text = metadata.to_json().encode()
    disk = disk or RealDisk()
    try:
        with snapshot_draft(disk, path) as draft:
            _write_file(disk, f"{draft}/wasm_module.bin", [(0, wasm_module)], len(wasm_module))
            _write_memory(disk, f"{draft}/wasm_memory.bin", heap)
            if metadata.stable_memory_size:
                _write_memory(disk, f"{draft}/stable_memory.bin", stable)
            if chunks:
                disk.make_directory(f"{draft}/{_CHUNK_STORE}")
            for hash_, chunk in chunks.items():
                _write_file(disk, f"{draft}/{_CHUNK_STORE}/{hash_.hex()}.bin", [(0, chunk)], len(chunk))
            if own:
                _write_own(disk, draft, own)
            _write_file(disk, f"{draft}/metadata.json", [(0, text)], len(text))
    except OSError as error:
        raise StorageError.because("snapshot could not be written", error, error.filename or path) from error
    return metadata


def _write_own(disk: Disk, draft: str, own: Mapping[str, tuple[MemoryKind, StoredMemory]]) -> None:
    disk.make_directory(f"{draft}/{_MEMORIES}")
    said = {}
    for name, (kind, memory) in own.items():
        _write_memory(disk, f"{draft}/{_file_of(name)}", memory)
        size_bytes = memory.wasm_pages * WASM_PAGE_BYTES
        said[name] = {"lifetime": kind.lifetime, "address_bits": kind.address_bits, "size_bytes": size_bytes}
    text = json.dumps(said, indent=2).encode()
    _write_file(disk, f"{draft}/{_MEMORIES}/{_MEMORIES}.json", [(0, text)], len(text))


def snapshot_draft(disk: Disk, path: str | os.PathLike[str]) -> DirectoryDraft:
    """A directory to write a snapshot into, which it becomes when it is whole."""
    return DirectoryDraft(disk, str(path), (_CHUNK_STORE, _MEMORIES), "exists already; a snapshot is never changed")


def _complete(
    metadata: SnapshotMetadata,
    wasm_module: bytes,
    heap: StoredMemory,
    stable: StoredMemory,
    chunks: Mapping[bytes, bytes],
) -> SnapshotMetadata:
    return SnapshotMetadata(
        taken_at_timestamp=metadata.taken_at_timestamp,
        wasm_module_size=len(wasm_module),
        wasm_memory_size=heap.wasm_pages * WASM_PAGE_BYTES,
        stable_memory_size=stable.wasm_pages * WASM_PAGE_BYTES,
        global_values=metadata.global_values,
        wasm_chunk_store=tuple(sorted(chunks)),
        canister_version=metadata.canister_version,
        certified_data=metadata.certified_data,
        global_timer=metadata.global_timer,
        on_low_wasm_memory_hook_status=metadata.on_low_wasm_memory_hook_status,
        source=metadata.source,
    )


def write_dump(path: str | os.PathLike[str], memory: StoredMemory, *, disk: Disk | None = None) -> None:
    """Write a memory as a raw file: whole, on the platter, or not at all. Holes stay holes.

    Raises:
        StorageError: it exists, or cannot be written.
    """
    try:
        with new_file(disk or RealDisk(), str(path)) as file:
            _fill(file, _runs(memory), memory.wasm_pages * WASM_PAGE_BYTES)
    except OSError as error:
        raise StorageError.because("could not be written", error, error.filename or path) from error


def _write_memory(disk: Disk, path: str, image: StoredMemory) -> None:
    _write_file(disk, path, _runs(image), image.wasm_pages * WASM_PAGE_BYTES)


def _runs(image: StoredMemory) -> Iterator[tuple[int, bytes]]:
    return (
        (at, image.read(at, min(_COPY_BYTES, end - at)))
        for start, end in image.data_ranges()
        for at in range(start, end, _COPY_BYTES)
    )


def _write_file(disk: Disk, path: str, runs: Iterable[tuple[int, bytes]], size_bytes: int) -> None:
    file = disk.open(path, write=True, create=True)
    try:
        _fill(file, runs, size_bytes)
        file.sync()
    finally:
        file.close()


def _fill(file: DiskFile, runs: Iterable[tuple[int, bytes]], size_bytes: int) -> None:
    for offset, data in runs:
        if len(data) > PAGE_BYTES and not any(data[:PAGE_BYTES]) and not data.strip(b"\0"):
            continue  # only zeros: leave the hole
        file.pwrite(data, offset)
    file.truncate(size_bytes)
