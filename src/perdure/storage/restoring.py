"""What archives give back: a state directory as it was at any version, or one memory of it, where it is.

Every page is held against its hash, every memory against the root of its page tree, all of it against the state hash. A
directory is there when all of it was right, or not at all.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from hashlib import sha256
from typing import Final, final

from perdure.errors import MalformedError, StorageError, UnsupportedError
from perdure.memory import PAGE_BYTES, WASM_PAGE_BYTES, check_range
from perdure.storage.archive import BESIDE, Archive, Archived
from perdure.storage.archive_format import Entry, Manifest, Pack, Segment, StoredMemory
from perdure.storage.archive_log import NO_ENTRY, ArchiveLog, LogEntry
from perdure.storage.archived import mark_owner, remember_token
from perdure.storage.beside import DirectoryDraft
from perdure.storage.block_cache import BlockCache
from perdure.storage.checkpoint import Checkpoint, decode_checkpoint
from perdure.storage.checkpoints import SUBDIRECTORIES
from perdure.storage.directory import StateDirectory, StorageLimits
from perdure.storage.disk import Disk, RealDisk
from perdure.storage.log import Place, encode_record, record_bytes
from perdure.storage.merkle import SUBTREE_PAGES, PageTree, node_offset

__all__ = ["ArchivedMemory", "checkpoint_of", "find_version", "restore_state", "versions_in"]

_RUN_BYTES: Final = 4 << 20
_KEPT_SEGMENTS: Final = 64


def versions_in(url: str, key: bytes = b"") -> list[Archived]:
    """What an archive has, newest first.

    Raises:
        StorageError: there is none, or it cannot be read.
    """
    archive = Archive(url, key)
    found = []
    for sequence, stat in sorted(archive.sequences().items(), reverse=True):
        manifest, _ = archive.manifest(sequence)
        checkpoint = checkpoint_of(archive, manifest)
        found.append(Archived(sequence, checkpoint.version, checkpoint.state_hash, archived_ns=stat.modified_ns))
    return found


def checkpoint_of(archive: Archive, manifest: Manifest) -> Checkpoint:
    """The checkpoint of a version, all its memories apart.

    Raises:
        StorageError: it is damaged, or does not belong to the rest.
    """
    place = archive.place.under(f"versions/{manifest.sequence:020}")
    try:
        checkpoint = decode_checkpoint(manifest.checkpoint)
    except (MalformedError, UnsupportedError) as error:
        raise StorageError(str(error), place) from error
    named = {(canister_id, name) for canister_id, one in checkpoint.canisters.items() for name in one.memories}
    if named != {(memory.canister_id, memory.name) for memory in manifest.memories}:
        raise StorageError("its memories are not those of its checkpoint", place)
    modules = {one.module_hash for one in checkpoint.canisters.values() if one.module_hash}
    missing = modules - {blob.hash for blob in manifest.blobs}
    if missing:
        raise StorageError(f"it has no module {min(missing).hex()}, which its checkpoint names", place)
    if any(
        one.layers or any(kept.generation > 1 for kept in one.memories.values())
        for one in checkpoint.canisters.values()
    ):
        raise StorageError("a memory of several files, expected one of each", place)
    return checkpoint


def find_version(archive: Archive, version: int | None) -> Manifest:
    """The newest manifest of a version; of any, if none is named.

    Raises:
        StorageError: there is none.
    """
    there = []
    for sequence in sorted(archive.sequences(), reverse=True):
        manifest, _ = archive.manifest(sequence)
        found = checkpoint_of(archive, manifest).version
        if version in (None, found):
            return manifest
        there.append(found)
    listed = ", ".join(map(str, there[:20])) or "none"
    wanted = "no version" if version is None else f"no version {version}"
    raise StorageError(f"{wanted} is in it, found {listed}", archive.place).coded("version-not-kept")


def restore_state(
    url: str,
    path: str | os.PathLike[str],
    *,
    version: int | None = None,
    key: bytes = b"",
    cache: BlockCache | None = None,
    disk: Disk | None = None,
) -> Archived:
    """Make a new state directory of what an archive has; its history begins there.

    The new directory can go on with the archive where it is of the newest version; whoever does first is the owner.

    Args:
        url: of the archive.
        path: must not exist.
        version: one that it has, or that its log has since the last one of these; the newest, if none is named.
        key: that sealed it.
        cache: of blocks.
        disk: where the directory is to be.

    Raises:
        StorageError: there is no such version, something in it is damaged, or the directory cannot be written.
    """
    disk = disk or RealDisk()
    archive = Archive(url, key, cache)
    log = ArchiveLog(archive)
    last, own_entry = log.last()
    with_log = last is not NO_ENTRY and (version is None or last.base.version <= version <= last.version)
    if with_log:
        manifest, hash_ = archive.manifest(last.base.sequence)
        if hash_ != last.base.hash:
            raise StorageError("the version on which its log goes on is not the one that it names", archive.place)
    else:
        manifest = find_version(archive, version)
    checkpoint = checkpoint_of(archive, manifest)
    newest, own = archive.manifest(max(archive.sequences()))
    wanted = checkpoint.version if not with_log else last.version if version is None else version
    with DirectoryDraft(disk, str(path), SUBDIRECTORIES, "is there already; nothing is restored over it") as draft:
        try:
            _Restorer(archive, manifest, checkpoint, disk, draft).write()
            if with_log:
                _write_log(log, last, own_entry, checkpoint, wanted, disk, draft)
            if newest.sequence == manifest.sequence:
                mark_owner(disk, draft, archive.id, own)
            if with_log and wanted == last.version:
                remember_token(disk, draft, archive.id, last.token)
        except OSError as error:
            raise StorageError.because("could not be written", error, error.filename or path) from error
        limits = StorageLimits(check_bytes=0)  # each page was held against its hash
        with StateDirectory.open(draft, read_only=True, limits=limits, disk=disk) as made:
            found, state_hash = made.version, made.state_hash()
        if found != wanted or (wanted == checkpoint.version and state_hash != checkpoint.state_hash):
            raise StorageError(f"what came is version {found}, not {wanted}", archive.place)
        for name in ("lock", "readers"):
            disk.remove(f"{draft}/{name}")
        disk.open(f"{draft}/readers", write=True, create=True).close()
    return Archived(manifest.sequence, found, state_hash, requests=archive.objects.requests)


def _write_log(
    log: ArchiveLog, last: LogEntry, own: bytes, checkpoint: Checkpoint, wanted: int, disk: Disk, draft: str
) -> None:
    """Have what was committed since a version in the log of the directory that is made of it, up to one."""
    place, offset = Place(checkpoint.epoch, checkpoint.version, checkpoint.checksum), 0
    file = disk.open(f"{draft}/log", write=True)
    try:
        for entry, commits in log.commits(last, own):
            for data in entry.blobs:
                _write_file(disk, f"{draft}/blobs/{sha256(data).hexdigest()}", data)
            for name, data in entry.files:
                _write_file(disk, f"{draft}/{name}", data)
            for record, pages in commits:
                if record.version > wanted:
                    break
                head, checksum = encode_record(
                    place, place.version, record.meta, [pages], owner=1, state_hash=record.state_hash
                )
                file.pwritev([head, pages], offset)
                offset += record_bytes(len(record.meta), record.page_count)
                place = Place(place.epoch, record.version, checksum)
        file.sync()
    finally:
        file.close()


def _write_file(disk: Disk, name: str, data: bytes) -> None:
    file = disk.open(name, write=True, create=True)
    try:
        file.truncate(0)
        file.pwrite(data, 0)
        file.sync()
    finally:
        file.close()


@final
class _Restorer:
    """Writes the files of a version into a draft."""

    def __init__(self, archive: Archive, manifest: Manifest, checkpoint: Checkpoint, disk: Disk, draft: str) -> None:
        self._archive = archive
        self._manifest = manifest
        self._checkpoint = checkpoint
        self._disk = disk
        self._draft = draft

    def write(self) -> None:
        for name in SUBDIRECTORIES:
            self._disk.make_directory(f"{self._draft}/{name}")
        for name in ("readers", "log"):
            self._disk.open(f"{self._draft}/{name}", write=True, create=True).close()
        for memory in self._manifest.memories:
            self._write_memory(memory)
        for blob in self._manifest.blobs:
            _write_file(
                self._disk,
                f"{self._draft}/blobs/{blob.hash.hex()}",
                self._archive.checked(self._manifest, blob.item, blob.hash),
            )
        for file in self._manifest.files:
            if file.name not in (*BESIDE, "answers"):
                raise StorageError(f"a file {file.name!r:.80}, which belongs to no state", self._archive.place)
            name = f"answers/{1:020}.answers" if file.name == "answers" else file.name
            _write_file(
                self._disk, f"{self._draft}/{name}", self._archive.checked(self._manifest, file.item, file.hash)
            )
        _write_file(self._disk, f"{self._draft}/checkpoint", self._manifest.checkpoint)

    def _write_memory(self, memory: StoredMemory) -> None:
        canister = self._checkpoint.canisters[memory.canister_id]
        kept = canister.memories[memory.name]
        if not kept.generation:
            return
        path = f"{self._draft}/images/{canister.slot}-{memory.name}-1"
        pages = kept.wasm_pages * WASM_PAGE_BYTES // PAGE_BYTES
        tree = PageTree(pages)
        file = self._disk.open(f"{path}.img", write=True, create=True)
        try:
            file.truncate(kept.wasm_pages * WASM_PAGE_BYTES)
            reader = SegmentReader(self._archive, self._manifest, pages)
            for segment in memory.segments:
                for first, data, hashes in reader.runs(segment):
                    file.pwrite(data, first * PAGE_BYTES)
                    tree.set_leaves(first, hashes)
            file.sync()
        finally:
            file.close()
        if tree.root() != kept.root:
            raise StorageError(f"memory {memory.name} is not what its root says", self._archive.place)
        file = self._disk.open(f"{path}.hash", write=True, create=True)
        try:
            for node, content in tree.changed_nodes():
                file.pwrite(content, node_offset(node))
            file.sync()
        finally:
            file.close()


@final
class SegmentReader:
    """Reads pages of a memory out of an archive, each held against its hash.

    Args:
        archive: where.
        manifest: of the version.
        pages: that the memory has.
    """

    def __init__(self, archive: Archive, manifest: Manifest, pages: int) -> None:
        self._archive = archive
        self._manifest = manifest
        self._pages = pages
        self._packs = {pack.id: pack for pack in manifest.packs}
        self._entries: OrderedDict[int, dict[int, Entry]] = OrderedDict()

    def entries(self, segment: Segment) -> dict[int, Entry]:
        """The pages of a segment by their place in it, which have its hash.

        Raises:
            StorageError: they have not, or name what the manifest does not.
        """
        found = self._entries.pop(segment.number, None)
        if found is None:
            found = self._archive.entries(self._manifest, segment)
            self._check(segment, found)
        self._entries[segment.number] = found
        if len(self._entries) > _KEPT_SEGMENTS:
            self._entries.popitem(last=False)
        return found

    def _check(self, segment: Segment, entries: dict[int, Entry]) -> None:
        first = segment.number * SUBTREE_PAGES
        tree = PageTree(min(self._pages, SUBTREE_PAGES))
        for place, entry in entries.items():
            tree.set_leaves(place, entry.hash)
        named = {self._manifest.packs[pack].id for pack in segment.packs}
        is_within = all(first + place < self._pages and entry.pack_id in named for place, entry in entries.items())
        if not is_within or tree.root() != segment.hash:
            pack = f"packs/{self._manifest.packs[segment.item.pack].id.hex()}"
            raise StorageError(f"segment {segment.number} is not what its hash says", self._archive.place.under(pack))

    def runs(self, segment: Segment) -> Iterator[tuple[int, bytes, bytes]]:
        """`(first page, bytes, hashes)` of pages that follow one another, ascending."""
        first = segment.number * SUBTREE_PAGES
        entries = sorted(self.entries(segment).items())
        stride = PAGE_BYTES + self._archive.vault.overhead_bytes
        start = 0
        for end in range(1, len(entries) + 1):
            (place, before), is_last = entries[end - 1], end == len(entries)
            if not is_last:
                following, entry = entries[end]
                joins = (following, entry.pack_id, entry.offset) == (place + 1, before.pack_id, before.offset + stride)
                if joins and (end - start) * PAGE_BYTES < _RUN_BYTES:
                    continue
            run = [entry for _, entry in entries[start:end]]
            yield first + entries[start][0], self._read(run), b"".join(entry.hash for entry in run)
            start = end

    def _read(self, run: list[Entry]) -> bytes:
        """The bytes of pages that lie one behind the other in a pack."""
        pack = self._packs[run[0].pack_id]
        self._archive.fetch(pack, run[0].offset, len(run) * (PAGE_BYTES + self._archive.vault.overhead_bytes))
        return b"".join(self.page(entry, pack) for entry in run)

    def page(self, entry: Entry, pack: Pack | None = None) -> bytes:
        """The bytes of a page. Raises `StorageError` where they are not what its hash says."""
        pack = pack or self._packs[entry.pack_id]
        data = self._archive.read(pack, entry.offset, PAGE_BYTES + self._archive.vault.overhead_bytes)
        if sha256(data).digest() != entry.hash:
            place = self._archive.place.under(f"packs/{pack.id.hex()}")
            raise StorageError(f"the page at {entry.offset} is not what its hash says", place)
        return data


@final
class ArchivedMemory:
    """A memory of an archived state directory, opened for reading where it is.

    Args:
        archive: where.
        manifest: of the version.
        memory: which.
        wasm_pages: its size.
    """

    searched_bytes: Final = 1 << 20

    def __init__(self, archive: Archive, manifest: Manifest, memory: StoredMemory, wasm_pages: int) -> None:
        self._wasm_pages = wasm_pages
        self._reader = SegmentReader(archive, manifest, wasm_pages * WASM_PAGE_BYTES // PAGE_BYTES)
        self._segments = {segment.number: segment for segment in memory.segments}

    def extents(self) -> list[tuple[int, int]]:
        """Where it may differ from zero."""
        size = SUBTREE_PAGES * PAGE_BYTES
        end = self._wasm_pages * WASM_PAGE_BYTES
        return [(number * size, min(end, (number + 1) * size)) for number in sorted(self._segments)]

    def size(self) -> int:
        """Size in Wasm pages."""
        return self._wasm_pages

    def grow(self, wasm_pages: int) -> int:
        """Refuse, with `PermissionError`."""
        raise PermissionError(f"cannot grow by {wasm_pages} Wasm pages: the memory is open for reading")

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Refuse, with `PermissionError`."""
        raise PermissionError(f"cannot write {len(data)} bytes at address {address:#x}: the memory is open for reading")

    def read(self, address: int, size_bytes: int) -> bytes:
        """A copy of `size_bytes` bytes from `address`. Raises `StorageError` where they are not what was archived."""
        check_range(address, size_bytes, self._wasm_pages * WASM_PAGE_BYTES)
        first, end = address // PAGE_BYTES, -(-(address + size_bytes) // PAGE_BYTES)
        data = b"".join(self._page(page) for page in range(first, end))
        skip = address - first * PAGE_BYTES
        return data[skip : skip + size_bytes]

    def _page(self, page: int) -> bytes:
        number, place = divmod(page, SUBTREE_PAGES)
        segment = self._segments.get(number)
        entry = None if segment is None else self._reader.entries(segment).get(place)
        return bytes(PAGE_BYTES) if entry is None else self._reader.page(entry)
