"""Sources in object storage: looked at where they are, by ranged reads, or fetched to be run.

| URL | what it is |
|---|---|
| ``URL`` of an object | a dump; read by ranges, unless it is gzip, which is fetched |
| ``URL`` of ``metadata.json`` and what is beside it | a snapshot; ``#MEMORY`` names one of its memories |
| ``URL:CANISTER``, ``URL:CANISTER@VERSION`` | a canister of an archived state directory |
"""

from __future__ import annotations

import io
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final, final

from perdure.embedder.cache import cache_directory
from perdure.errors import MalformedError, StorageError, UnsupportedError
from perdure.inspection.labels import ModuleLabels
from perdure.inspection.source import Source
from perdure.inspection.streams import GZIP_MAGIC, HEAD_BYTES, MAX_STABLE_BYTES, check_kind, open_stream
from perdure.inspection.variables import Variables
from perdure.memory import BytesMemory
from perdure.storage.block_cache import MAX_BYTES, BlockCache
from perdure.storage.objects import Objects, Stat
from perdure.storage.pushing import METADATA_KEY, pull_snapshot, read_metadata
from perdure.storage.remote import RemoteMemory
from perdure.units import SIZES, parse_amount
from perdure.urls import Place, is_url, local_path, parse_url
from perdure.values.motoko_state import MotokoState

__all__ = ["block_cache", "local_source", "localized", "open_url"]

_MAX_MODULE_BYTES: Final = 128 << 20
_FILES: Final = {"stable": "stable_memory.bin", "heap": "wasm_memory.bin"}
_MEMORY_NAME: Final = re.compile(r"[a-z0-9_.-]{1,64}")
_COPY_BYTES: Final = 1 << 20


def local_source(text: str) -> str | None:
    """What a ``file://`` URL names as a source of this machine; `None`: another store, or an archive."""
    return local_path(text)


def block_cache(environment: Mapping[str, str]) -> BlockCache:
    """The user's cache of blocks; ``PERDURE_OBJECT_CACHE`` says how large it may become, 0 that there is none.

    Raises:
        UnsupportedError: the variable says no size.
    """
    try:
        max_bytes = parse_amount(environment.get("PERDURE_OBJECT_CACHE") or str(MAX_BYTES), SIZES)
    except ValueError as error:
        raise UnsupportedError(f"PERDURE_OBJECT_CACHE: {error}") from error
    return BlockCache(cache_directory(environment) / "objects", max_bytes)


def open_url(text: str, gathered: Callable[[str], MotokoState]) -> Source:
    """Open what a URL names, reading no more of it than has to be.

    Args:
        text: the URL.
        gathered: Motoko's variables of a source that can be run.

    Raises:
        StorageError: there is no such thing, it cannot be read, or it is replaced while it is read.
        UnsupportedError: no URL of object storage, or the extra is not there.
    """
    url, _, memory = text.partition("#")
    place = parse_url(url)
    objects = Objects(place)
    stat = objects.stat(place.key) if place.key and not place.key.endswith("/") else None
    if stat is not None:
        if memory:
            raise StorageError(f"a dump is one memory, of no name: {memory!r:.80} is not to be found", url)
        return _open_dump(objects, stat, text)
    if objects.stat(place.under(METADATA_KEY).key) is not None:
        return _open_snapshot(objects, place, memory or "stable", text, gathered)
    raise StorageError("no object, and no snapshot below it", place).coded("no-such-object")


def _open_dump(objects: Objects, stat: Stat, label: str) -> Source:
    memory = RemoteMemory(objects, stat, block_cache(os.environ))
    head = memory.read(0, min(HEAD_BYTES, stat.size_bytes)) if stat.size_bytes else b""
    if head[:2] == GZIP_MAGIC:
        return open_stream(io.BufferedReader(_Reader(objects.stream(stat))), label)
    check_kind(head, stat.size_bytes, Path(stat.key))
    if stat.size_bytes > MAX_STABLE_BYTES:
        raise MalformedError("more than the 500 GiB of the largest stable memory", stat.size_bytes)
    return Source(label, memory)


def _open_snapshot(
    objects: Objects, place: Place, memory: str, label: str, gathered: Callable[[str], MotokoState]
) -> Source:
    metadata = read_metadata(objects, place)
    if not _MEMORY_NAME.fullmatch(memory):
        raise StorageError(f"no memory {memory!r:.80} in it", place)

    @cache
    def module() -> bytes | None:
        return objects.read_whole(place.under("wasm_module.bin").key, _MAX_MODULE_BYTES)[0]

    labels: Mapping[int, str] = ModuleLabels(module)
    stat = objects.stat(place.under(_FILES.get(memory, f"memories/{memory}.bin")).key)
    sizes = {"stable": metadata.stable_memory_size, "heap": metadata.wasm_memory_size}
    expected = sizes.get(memory)
    if stat is None and expected is None:
        raise StorageError(f"no memory {memory!r} in it", place)
    if expected is not None and (0 if stat is None else stat.size_bytes) != expected:
        found = "nothing" if stat is None else f"{stat.size_bytes} bytes"
        raise StorageError(f"{found} found for {_FILES[memory]}, {expected} bytes expected by metadata.json", place)
    found_memory = BytesMemory() if stat is None else RemoteMemory(objects, stat, block_cache(os.environ))
    if memory != "stable":
        return Source(label, found_memory, labels=MappingProxyType(labels))
    variables = Variables(labels.stable_types, lambda _: gathered(label)) if isinstance(labels, ModuleLabels) else None
    source = Source(label, found_memory, labels=labels)
    if variables is not None:
        source.variables = variables
    return source


@final
class _Reader(io.RawIOBase):
    """Pieces that come one after the other, as a stream."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


@contextmanager
def localized(source: str) -> Iterator[str]:
    """A source on this machine for as long as it is needed: a URL is fetched whole, anything else is what it is.

    Raises:
        StorageError: it cannot be fetched.
    """
    if not is_url(source):
        yield source
        return
    local = local_source(source)
    if local is not None:
        yield local
        return
    with tempfile.TemporaryDirectory(prefix="perdure-") as directory:
        yield _fetch(source, Path(directory) / "source")


def _fetch(text: str, target: Path) -> str:
    url, hash_, memory = text.partition("#")
    place = parse_url(url)
    objects = Objects(place)
    stat = objects.stat(place.key) if place.key and not place.key.endswith("/") else None
    if stat is not None:
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
            for piece in objects.stream(stat):
                file.write(piece)
        return file.name
    pull_snapshot(url, target)
    return f"{target}{hash_}{memory}"
