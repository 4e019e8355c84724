"""Sources in object storage: looked at where they are, by ranged reads, or fetched to be run.

| URL | what it is |
|---|---|
| ``URL`` of an object | a dump; read by ranges, unless it is gzip, which is fetched |
| ``URL`` of ``metadata.json`` and what is beside it | a snapshot; ``#MEMORY`` names one of its memories |
| ``URL:CANISTER``, ``URL:CANISTER@VERSION`` | a canister of an archived state directory |
"""

from __future__ import annotations

import io
import json
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
from perdure.ic.principal import MAX_PRINCIPAL_BYTES, Principal
from perdure.inspection.labels import ModuleLabels
from perdure.inspection.source import Source
from perdure.inspection.state import no_canister
from perdure.inspection.streams import GZIP_MAGIC, HEAD_BYTES, MAX_STABLE_BYTES, check_kind, open_stream
from perdure.inspection.variables import Variables
from perdure.memory import BytesMemory
from perdure.storage.archive import ARCHIVE_KEY, Archive
from perdure.storage.archive_format import Manifest, read_key
from perdure.storage.block_cache import MAX_BYTES, BlockCache
from perdure.storage.checkpoint import Checkpoint
from perdure.storage.objects import Objects, Stat
from perdure.storage.pushing import METADATA_KEY, pull_snapshot, read_metadata
from perdure.storage.remote import RemoteMemory
from perdure.storage.restoring import ArchivedMemory, checkpoint_of, find_version, restore_state
from perdure.units import SIZES, parse_amount
from perdure.urls import Place, is_url, local_path, parse_url
from perdure.values.motoko_state import MotokoState

__all__ = ["archive_key", "archived_canister", "block_cache", "local_source", "localized", "open_url"]

_MAX_MODULE_BYTES: Final = 128 << 20
_FILES: Final = {"stable": "stable_memory.bin", "heap": "wasm_memory.bin"}
_CANISTER: Final = re.compile(r"(?P<archive>.+/[^/:@]+/?):(?P<canister>[^/:@]+)(@(?P<version>[0-9]{1,18}))?")
_MEMORY_NAME: Final = re.compile(r"[a-z0-9_.-]{1,64}")
_COPY_BYTES: Final = 1 << 20
_MOST_TOLD: Final = 20


def local_source(text: str) -> str | None:
    """What a ``file://`` URL names as a source of this machine; `None`: another store, or an archive."""
    local = local_path(text)
    before = "" if local is None else local.partition("#")[0].rpartition(":")[0]
    return None if before and (Path(before) / ARCHIVE_KEY).is_file() else local


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


def archive_key(environment: Mapping[str, str]) -> bytes:
    """The key in the file that ``PERDURE_ARCHIVE_KEY_FILE`` names; nothing: none is named.

    Raises:
        StorageError: it cannot be read.
        UnsupportedError: it is no key.
    """
    path = environment.get("PERDURE_ARCHIVE_KEY_FILE")
    return read_key(path) if path else b""


def archived_canister(url: str) -> tuple[Place, str, int | None] | None:
    """The archive, canister and version that a URL names; `None`: no archive is there."""
    found = _CANISTER.fullmatch(url)
    if found is None:
        return None
    place = parse_url(found["archive"])
    if Objects(place).stat(place.under(ARCHIVE_KEY).key) is None:
        return None
    return place, found["canister"], None if found["version"] is None else int(found["version"])


def _open_archived(
    place: Place,
    canister: str,
    version: int | None,
    memory: str,
    label: str,
    gathered: Callable[[str], MotokoState],
) -> Source:
    archive = Archive(str(place), archive_key(os.environ), block_cache(os.environ))
    manifest = find_version(archive, version)
    checkpoint = checkpoint_of(archive, manifest)
    wanted = _find(archive, manifest, checkpoint, canister)
    kept = checkpoint.canisters[wanted.raw_bytes]
    if memory not in kept.memories and memory != "stable":
        raise StorageError(f"{wanted} has no memory {memory!r:.80}, found {', '.join(kept.memories) or 'none'}", place)

    @cache
    def module() -> bytes | None:
        return next(
            (archive.checked(manifest, one.item, one.hash) for one in manifest.blobs if one.hash == kept.module_hash),
            None,
        )

    labels = ModuleLabels(module)
    stored = next((one for one in manifest.memories if (one.canister_id, one.name) == (wanted.raw_bytes, memory)), None)
    if stored is None:
        return Source(label, BytesMemory(), labels=labels)
    found = ArchivedMemory(archive, manifest, stored, kept.memories[memory].wasm_pages)
    if memory != "stable":
        return Source(label, found, found.extents(), labels=MappingProxyType(labels))
    variables = Variables(labels.stable_types, lambda _: gathered(label))
    return Source(label, found, found.extents(), labels=labels, variables=variables)


def _find(archive: Archive, manifest: Manifest, checkpoint: Checkpoint, canister: str) -> Principal:
    """The canister of an id or a name."""
    names: object = {}
    for file in manifest.files:
        if file.name == "names.json":
            try:
                names = json.loads(archive.checked(manifest, file.item, file.hash))
            except (ValueError, RecursionError) as error:
                raise StorageError(f"its names cannot be read: {error}", archive.place) from error
    known = [Principal(one) for one in checkpoint.canisters if len(one) <= MAX_PRINCIPAL_BYTES]
    try:
        named = names.get(canister, canister) if isinstance(names, dict) else canister
        wanted = Principal.from_text(str(named))
    except MalformedError:
        wanted = None
    if wanted is None or wanted not in known:
        ids = {name: str(one) for name, one in names.items()} if isinstance(names, dict) else {}
        raise no_canister(canister, known, ids, str(archive.place))
    return wanted


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
    archived = archived_canister(url)
    if archived is not None:
        return _open_archived(*archived, memory or "stable", text, gathered)
    place = parse_url(url)
    objects = Objects(place)
    stat = objects.stat(place.key) if place.key and not place.key.endswith("/") else None
    if stat is not None:
        if memory:
            raise StorageError(f"a dump is one memory, of no name: {memory!r:.80} is not to be found", url)
        return _open_dump(objects, stat, text)
    if objects.stat(place.under(METADATA_KEY).key) is not None:
        return _open_snapshot(objects, place, memory or "stable", text, gathered)
    raise StorageError(_what_is_there(objects, place), place).coded("no-such-object")


def _what_is_there(objects: Objects, place: Place) -> str:
    """What lies at a place, and what to name instead, where that is no source."""
    if objects.stat(place.under(ARCHIVE_KEY).key) is not None:
        known = _canisters(Archive(str(place), archive_key(os.environ), block_cache(os.environ)))
        return f"an archive: name a canister of it as {place}:CANISTER, found {', '.join(known) or 'none'}"
    below = next(iter(objects.list(f"{place.key.rstrip('/')}/".lstrip("/"))), None)
    return "no object, and no snapshot below it" + ("" if below is None else f", but others, as {below.key!r:.200}")


def _canisters(archive: Archive) -> list[str]:
    """The first of the canisters of an archive's newest version."""
    known = checkpoint_of(archive, find_version(archive, None)).canisters
    return [str(Principal(one)) for one in sorted(known) if len(one) <= MAX_PRINCIPAL_BYTES][:_MOST_TOLD]


def _open_dump(objects: Objects, stat: Stat, label: str) -> Source:
    memory = RemoteMemory(objects, stat, block_cache(os.environ))
    head = memory.read_uncached(0, min(HEAD_BYTES, stat.size_bytes)) if stat.size_bytes else b""
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
    archived = archived_canister(url)
    if archived is not None:
        place, canister, version = archived
        restore_state(str(place), target, version=version, key=archive_key(os.environ), cache=block_cache(os.environ))
        return f"{target}:{canister}{hash_}{memory}"
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
