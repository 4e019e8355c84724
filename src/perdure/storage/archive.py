"""Archives of state directories in object storage: each version adds what changed, and any is restored.

What changed is what the page trees say: the subtrees of 4,096 pages whose hashes are in no segment that the version
before names, and of those the pages whose hashes are others. So nothing has to be remembered from one time to the next,
no log has to be kept, and a page that is as it was costs nothing. `perdure.storage.archive_format` draws the objects.

An archive has one owner, the directory that its newest version came from: see `perdure.storage.archived`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, NamedTuple, final

from perdure.errors import MalformedError, StorageError, UnsupportedError
from perdure.memory import PAGE_BYTES
from perdure.storage.answers import encode_answers
from perdure.storage.archive_format import (
    KEY_BYTES,
    PACK_ID_BYTES,
    Description,
    Entry,
    Item,
    Manifest,
    Pack,
    Segment,
    StoredBlob,
    StoredFile,
    StoredMemory,
    Vault,
    decode_manifest,
    decode_segment,
    encode_manifest,
    encode_segment,
)
from perdure.storage.archived import manifests_of, mark_owner
from perdure.storage.block_cache import BlockCache
from perdure.storage.checkpoint import AnswerFile, Checkpoint, KeptCanister, KeptMemory, encode_checkpoint
from perdure.storage.directory import StateDirectory, StorageLimits
from perdure.storage.disk import Disk, RealDisk, read_whole
from perdure.storage.merkle import SUBTREE_PAGES
from perdure.storage.objects import AlreadyThereError, Objects, Stat
from perdure.storage.remote import RemoteMemory
from perdure.storage.topology import TOPOLOGY
from perdure.urls import parse_url

__all__ = [
    "ARCHIVE_KEY",
    "BESIDE",
    "Archive",
    "Archived",
    "archive_state",
]

ARCHIVE_KEY: Final = "archive.json"
BESIDE: Final = ("names.json", "interfaces.json")
"""Files that belong to a state and are as somebody wrote them."""

_SEQUENCE: Final = re.compile("[0-9]{20}")
_MAX_DESCRIPTION_BYTES: Final = 4_096
_MAX_MANIFEST_BYTES: Final = 1 << 28
_MAX_PACK_BYTES: Final = 1 << 28
"""A blob is an item of its own pack if need be; a module has at most 100 MiB."""
_PACK_BYTES: Final = 16 << 20
_RUN_BYTES: Final = 1 << 20
_OPEN_PACKS: Final = 32


class Archived(NamedTuple):
    """A version in an archive.

    Attributes:
        sequence: its number there.
        version: of the state directory.
        state_hash: of all that it has.
        written_bytes: that were written for it; 0: it was there.
        requests: to the store, for it.
        archived_ns: when it came there, by the store's clock; 0: it was written just now.
    """

    sequence: int
    version: int
    state_hash: bytes
    written_bytes: int = 0
    requests: int = 0
    archived_ns: int = 0


@final
class Archive:
    """An archive.

    Attributes:
        place: where it is.
        id: its own, random.
        objects: its bucket.
        vault: seals and opens what it has.

    Args:
        url: where it is.
        key: 32 bytes; nothing: it is not sealed.
        cache: of blocks of its packs, on disk.
        create: make one where there is none.

    Raises:
        StorageError: there is none, it cannot be read, or its key is another one.
    """

    def __init__(self, url: str, key: bytes = b"", cache: BlockCache | None = None, *, create: bool = False) -> None:
        if key and len(key) != KEY_BYTES:
            raise ValueError(f"a key of {len(key)} bytes, {KEY_BYTES} expected")
        self.place = parse_url(url)
        self.objects = Objects(self.place)
        self.vault = Vault(key)
        self._cache = cache
        self._packs: dict[bytes, RemoteMemory] = {}
        if self.objects.stat(self.at(ARCHIVE_KEY)) is None:
            if not create:
                raise StorageError(f"no archive is there{self._beside()}", self.place).coded("no-such-object")
            self._create()
        self.id = self._read_description().id

    def _beside(self) -> str:
        """What to name instead, where a network's archives are below the place."""
        if self.objects.stat(self.at(TOPOLOGY)) is None:
            return ""
        below = f"{str(self.place).rstrip('/')}/0-..."
        return f", but below it those of a network: name that of one of its subnets, {below}, or Network(archive=URL)"

    def _create(self) -> None:
        archive_id = os.urandom(16)
        made = Description(archive_id, self.vault.check(archive_id))
        with suppress(AlreadyThereError):  # somebody else has made it just now
            self.objects.put(self.at(ARCHIVE_KEY), made.encode(), only_new=True)

    def _read_description(self) -> Description:
        data, _ = self.objects.read_whole(self.at(ARCHIVE_KEY), _MAX_DESCRIPTION_BYTES)
        try:
            found = Description.decode(data)
        except (MalformedError, UnsupportedError) as error:
            raise StorageError(str(error), self.place) from error
        if self.vault.check(found.id) != found.key_check:
            wrong = "another key than this one" if self.vault.overhead_bytes else "a key, which was not given"
            expected = wrong if found.key_check else "no key"
            raise StorageError(f"it was sealed with {expected}", self.place).coded("archive-key")
        return found

    def at(self, name: str) -> str:
        """The key of one of its objects."""
        return self.place.under(name).key

    def sequences(self, where: str = "versions") -> dict[int, Stat]:
        """Its versions, or those dropped, by number, ascending."""
        found = {}
        for stat in self.objects.list(self.at(where)):
            name = stat.key.rpartition("/")[2]
            if _SEQUENCE.fullmatch(name):
                found[int(name)] = stat
        return dict(sorted(found.items()))

    def manifest(self, sequence: int, where: str = "versions") -> tuple[Manifest, bytes]:
        """What a version has, and the SHA-256 of its object.

        Raises:
            StorageError: it is not there, or not what was written.
        """
        name = f"{where}/{sequence:020}"
        data, _ = self.objects.read_whole(self.at(name), _MAX_MANIFEST_BYTES)
        try:
            found = decode_manifest(self.vault.open_numbered("manifest", self.id, sequence, data))
        except (MalformedError, UnsupportedError) as error:
            raise StorageError(str(error), self.place.under(name)) from error
        if found.sequence != sequence:
            raise StorageError(f"it is number {found.sequence}, and not what its name says", self.place.under(name))
        return found, sha256(data).digest()

    def item(self, manifest: Manifest, item: Item) -> bytes:
        """The bytes of an item. Raises `StorageError` where they cannot be read."""
        pack = manifest.packs[item.pack]
        return self.read(pack, item.offset, item.size_bytes)

    def read(self, pack: Pack, offset: int, size_bytes: int) -> bytes:
        """Bytes of a pack, opened; they are still to be held against their hash.

        Raises:
            StorageError: the pack is not there, is shorter, or is sealed with something else.
        """
        memory = self._memory(pack, offset, size_bytes)
        try:
            return self.vault.open_item(pack.id, offset, memory.read(offset, size_bytes))
        except MalformedError as error:
            raise StorageError(str(error), self.place.under(f"packs/{pack.id.hex()}")) from error

    def fetch(self, pack: Pack, offset: int, size_bytes: int) -> None:
        """Have many items of a pack at hand, in one request."""
        self._memory(pack, offset, size_bytes).read(offset, size_bytes)

    def _memory(self, pack: Pack, offset: int, size_bytes: int) -> RemoteMemory:
        """A pack of which these bytes are to be read."""
        place = self.place.under(f"packs/{pack.id.hex()}")
        if pack.size_bytes > _MAX_PACK_BYTES or offset + size_bytes > pack.size_bytes:
            raise StorageError(f"{size_bytes} bytes at {offset} of {pack.size_bytes} are to be read", place)
        memory = self._packs.pop(pack.id, None)
        if memory is None:
            memory = RemoteMemory(self.objects, Stat(place.key, pack.size_bytes, "", 0), self._cache, named=True)
        self._packs[pack.id] = memory  # the last one used is the last one
        if len(self._packs) > _OPEN_PACKS:
            del self._packs[next(iter(self._packs))]
        return memory

    def checked(self, manifest: Manifest, item: Item, hash_: bytes) -> bytes:
        """The bytes of an item whose SHA-256 is known. Raises `StorageError` where they are others."""
        data = self.item(manifest, item)
        if sha256(data).digest() != hash_:
            place = self.place.under(f"packs/{manifest.packs[item.pack].id.hex()}")
            raise StorageError(f"the item at {item.offset} is not what its hash says", place)
        return data

    def entries(self, manifest: Manifest, segment: Segment) -> dict[int, Entry]:
        """The pages of a segment by their place in it, as it says itself; hold their hashes against its own."""
        try:
            return decode_segment(self.item(manifest, segment.item))
        except MalformedError as error:
            place = self.place.under(f"packs/{manifest.packs[segment.item.pack].id.hex()}")
            raise StorageError(str(error), place) from error


# -- writing


@final
class _PackWriter:
    """Collects items into packs."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self.packs: list[Pack] = []
        self._begin()

    def _begin(self) -> None:
        self._id = os.urandom(PACK_ID_BYTES)
        self._parts: list[bytes] = []
        self._size_bytes = 0

    def add(self, data: bytes) -> tuple[bytes, int, int]:
        """Put an item into a pack: the pack's id, the item's offset, its bytes there."""
        size_bytes = len(data) + self._archive.vault.overhead_bytes
        if self._size_bytes and self._size_bytes + size_bytes > _PACK_BYTES:
            self.flush()
        offset = self._size_bytes
        self._parts.append(self._archive.vault.seal_item(self._id, offset, data))
        self._size_bytes += size_bytes
        return self._id, offset, size_bytes

    def flush(self) -> None:
        """Write what there is."""
        if self._parts:
            self._archive.objects.put(self._archive.at(f"packs/{self._id.hex()}"), b"".join(self._parts))
            self.packs.append(Pack(self._id, self._size_bytes))
            self._begin()


@final
@dataclass(slots=True)
class _Draft:
    """A manifest that is being made, with what the one before has."""

    archive: Archive
    before: Manifest | None
    pages: _PackWriter
    rest: _PackWriter

    def memories(self, directory: StateDirectory) -> Iterator[tuple[bytes, str, list[_DraftSegment]]]:
        """The segments of all memories; those that the version before has are taken over."""
        known = {} if self.before is None else _segments_by_hash(self.before)
        for canister_id, state in sorted(directory.canisters.items()):
            for name, memory in sorted(state.memories.items()):
                memory.root()
                tree = memory.tree()
                earlier = self._earlier(canister_id, name)
                segments = []
                for index, hash_ in tree.subtrees():
                    found = known.get(hash_)
                    if found is None:
                        leaves = dict(tree.leaves_of(index))
                        found = self._new_segment(directory, (canister_id, name), index, leaves, earlier.get(index))
                    segments.append(_DraftSegment(index, hash_, *found))
                    known[hash_] = found
                memory.rest()  # the hashes of one memory after the other are in hand, not of all
                yield canister_id, name, segments

    def _earlier(self, canister_id: bytes, name: str) -> dict[int, Segment]:
        for memory in () if self.before is None else self.before.memories:
            if (memory.canister_id, memory.name) == (canister_id, name):
                return {segment.number: segment for segment in memory.segments}
        return {}

    def _new_segment(
        self,
        directory: StateDirectory,
        where: tuple[bytes, str],
        index: int,
        leaves: dict[int, bytes],
        earlier: Segment | None,
    ) -> tuple[tuple[bytes, int, int], frozenset[bytes]]:
        """Write the pages of a segment that the version before does not have there, then what it is made of."""
        entries: dict[int, Entry] = {}
        first = index * SUBTREE_PAGES
        if earlier is not None and self.before is not None:
            old = self.archive.entries(self.before, earlier)
            entries = {place: one for place, one in old.items() if leaves.get(first + place) == one.hash}
        missing = [page for page in leaves if page - first not in entries]
        memory = directory.canisters[where[0]].memories[where[1]]
        for start, end in _runs(missing):
            data = memory.image().read(start * PAGE_BYTES, (end - start) * PAGE_BYTES)
            for page in range(start, end):
                content = data[(page - start) * PAGE_BYTES : (page - start + 1) * PAGE_BYTES]
                if sha256(content).digest() != leaves[page]:
                    at = f"canister {where[0].hex()}, {where[1]}: the page at {page * PAGE_BYTES:#x}"
                    raise StorageError(f"{at} is not what was committed: see `perdure state verify`", directory.path)
                pack_id, offset, _ = self.pages.add(content)
                entries[page - first] = Entry(pack_id, offset, leaves[page])
        return self.rest.add(encode_segment(entries)), frozenset(entry.pack_id for entry in entries.values())


@final
class _DraftSegment(NamedTuple):
    number: int
    hash: bytes
    item: tuple[bytes, int, int]
    packs: frozenset[bytes]


def _segments_by_hash(manifest: Manifest) -> dict[bytes, tuple[tuple[bytes, int, int], frozenset[bytes]]]:
    ids = [pack.id for pack in manifest.packs]
    return {
        segment.hash: (
            (ids[segment.item.pack], segment.item.offset, segment.item.size_bytes),
            frozenset(ids[pack] for pack in segment.packs),
        )
        for memory in manifest.memories
        for segment in memory.segments
    }


def _runs(pages: list[int]) -> Iterator[tuple[int, int]]:
    """Runs of ascending pages, of bounded size."""
    start = end = -1
    for page in pages:
        if page != end or (end - start) * PAGE_BYTES >= _RUN_BYTES:
            if end > start:
                yield start, end
            start = page
        end = page + 1
    if end > start:
        yield start, end


def archive_state(
    path: str | os.PathLike[str],
    url: str,
    *,
    key: bytes = b"",
    take_over: bool = False,
    cache: BlockCache | None = None,
    disk: Disk | None = None,
) -> Archived:
    """Archive a state directory as of its last whole commit, also while its owner writes.

    Until it is archived no checkpoint of the directory is made: its log gets longer.

    What is cut off leaves nothing but objects that nobody names, which `collect` removes.

    Args:
        path: the directory.
        url: of the archive, which is made where there is none.
        key: 32 bytes that seal it; nothing: it is not sealed.
        take_over: go on with an archive whose newest version came from elsewhere; its owner is refused from then on.
        cache: of what was read of the archive.
        disk: where the directory is.

    Raises:
        StorageError: one of them cannot be read, written or trusted; the archive has another owner.
    """
    disk = disk or RealDisk()
    limits = StorageLimits(check_bytes=0)  # each page that goes out is held against its hash
    with StateDirectory.open(path, read_only=True, limits=limits, disk=disk) as directory, _told(path):
        archive = Archive(url, key, cache, create=True)
        sequences = archive.sequences()
        newest = max(sequences, default=0)
        before, parent = archive.manifest(newest) if newest else (None, b"")
        owned = manifests_of(directory.disk, directory.path, archive.id)
        if newest and not take_over and parent not in owned:
            raise StorageError(
                f"its newest version, number {newest}, did not come from this directory: another one writes to it, "
                "or this is a copy of one that does; archive to another URL, or take it over",
                archive.place,
            ).coded("archive-owner")
        checkpoint, answers = _checkpoint_of(directory)
        data = encode_checkpoint(checkpoint)
        found = Archived(newest, directory.version, checkpoint.state_hash)
        manifest = _write(directory, archive, before, data, answers)
        manifest.sequence, manifest.parent = newest + 1, parent
        if before is not None and _is_same(manifest, before):
            mark_owner(directory.disk, directory.path, archive.id, parent)
            return found
        sealed = archive.vault.seal_numbered("manifest", archive.id, manifest.sequence, encode_manifest(manifest))
        _check_packs(archive, manifest)
        _publish(directory, archive, manifest.sequence, sealed, parent)
        objects = archive.objects
        return found._replace(
            sequence=manifest.sequence, written_bytes=objects.bytes_written, requests=objects.requests
        )


@contextmanager
def _told(path: str | os.PathLike[str]) -> Iterator[None]:
    """Say which directory an error is about."""
    try:
        yield
    except MalformedError as error:
        raise StorageError(str(error), path) from error
    except OSError as error:
        raise StorageError.because("cannot be archived", error, error.filename or path) from error


def _is_same(one: Manifest, other: Manifest) -> bool:
    return (one.checkpoint, [(file.name, file.hash) for file in one.files]) == (
        other.checkpoint,
        [(file.name, file.hash) for file in other.files],
    )


def _check_packs(archive: Archive, manifest: Manifest) -> None:
    """Whoever collects with a grace time shorter than archiving takes has removed what nobody named yet."""
    there = {stat.key.rpartition("/")[2] for stat in archive.objects.list(archive.at("packs"))}
    gone = [pack.id.hex() for pack in manifest.packs if pack.id.hex() not in there]
    if gone:
        raise StorageError(
            f"{len(gone)} packs were removed before they were named: archive again, and prune with a longer grace time",
            archive.place.under(f"packs/{gone[0]}"),
        )


def _publish(directory: StateDirectory, archive: Archive, sequence: int, sealed: bytes, parent: bytes) -> None:
    own = sha256(sealed).digest()
    mark_owner(directory.disk, directory.path, archive.id, parent, own)
    name = f"versions/{sequence:020}"
    try:
        archive.objects.put(archive.at(name), sealed, only_new=True)
    except AlreadyThereError:
        there, _ = archive.objects.read_whole(archive.at(name), _MAX_MANIFEST_BYTES)
        if there != sealed:  # else it was written, and the answer got lost
            raise StorageError(
                f"number {sequence} was written by another one meanwhile: archives have one owner", archive.place
            ).coded("archive-owner") from None
    mark_owner(directory.disk, directory.path, archive.id, own)


def _checkpoint_of(directory: StateDirectory) -> tuple[Checkpoint, bytes]:
    """The checkpoint that a restored directory will have, and its file of answers."""
    canisters = {}
    for canister_id, state in directory.canisters.items():
        memories = {
            name: KeptMemory(1 if memory.wasm_pages else 0, memory.wasm_pages, memory.root())
            for name, memory in state.memories.items()
        }
        canisters[canister_id] = KeptCanister(
            state.slot, state.module_hash, state.global_values, state.record, state.code, memories
        )
    answers = encode_answers((), tuple(directory.answers.values())) if directory.answers else b""
    files = (AnswerFile(1, len(directory.answers), sha256(answers).digest()),) if answers else ()
    checkpoint = Checkpoint(
        1,
        directory.version,
        directory.state_hash(),
        directory.subnet_record,
        directory.next_slot,
        directory.history_kept,
        directory.extensions,
        directory._checkpoints.last.records,
        canisters,
        files,
    )
    return checkpoint, answers


def _write(
    directory: StateDirectory, archive: Archive, before: Manifest | None, checkpoint: bytes, answers: bytes
) -> Manifest:
    """Write what is new into packs; the manifest that names it all."""
    draft = _Draft(archive, before, _PackWriter(archive), _PackWriter(archive))
    memories = list(draft.memories(directory))
    ids = {} if before is None else dict(enumerate(before.packs))
    known: dict[bytes, Item] = {}
    if before is not None:
        known = {one.hash: one.item for one in before.blobs} | {one.hash: one.item for one in before.files}

    def put(hash_: bytes, data: bytes | None = None) -> tuple[bytes, int, int]:
        found = known.get(hash_)
        if found is not None:
            return ids[found.pack].id, found.offset, found.size_bytes
        return draft.rest.add(directory.blob(hash_) if data is None else data)

    names = directory.disk.list_directory(f"{directory.path}/blobs")
    hashes = [bytes.fromhex(name) for name in names if len(name) == 64]
    blobs = [(hash_, put(hash_)) for hash_ in hashes]
    contents = {"answers": answers} if answers else {}
    for name in BESIDE:
        if directory.disk.exists(f"{directory.path}/{name}"):
            contents[name] = read_whole(directory.disk, f"{directory.path}/{name}")
    files = [(name, sha256(data).digest(), put(sha256(data).digest(), data)) for name, data in contents.items()]
    draft.pages.flush()
    draft.rest.flush()

    sizes = {pack.id: pack for pack in (*ids.values(), *draft.pages.packs, *draft.rest.packs)}
    used = {item[0] for _, _, segments in memories for _, _, item, _ in segments}
    used |= {pack_id for _, _, segments in memories for segment in segments for pack_id in segment.packs}
    used |= {item[0] for _, item in blobs} | {item[0] for _, _, item in files}
    packs = [pack for pack_id, pack in sizes.items() if pack_id in used]
    place = {pack.id: number for number, pack in enumerate(packs)}

    def item_of(one: tuple[bytes, int, int]) -> Item:
        return Item(place[one[0]], one[1], one[2])

    stored = tuple(
        StoredMemory(
            canister_id,
            name,
            tuple(
                Segment(number, hash_, item_of(item), tuple(sorted(place[one] for one in ids_)))
                for number, hash_, item, ids_ in segments
            ),
        )
        for canister_id, name, segments in memories
    )
    return Manifest(
        0,
        b"",
        checkpoint,
        tuple(packs),
        stored,
        tuple(StoredBlob(hash_, item_of(item)) for hash_, item in blobs),
        tuple(StoredFile(name, hash_, item_of(item)) for name, hash_, item in files),
    )
