"""What an archive in object storage is made of.

```
 ARCHIVE/archive.json         {"format": "perdure archive 1", "id": 32 hexadecimal digits, "key": a check, or null}
 ARCHIVE/versions/SEQUENCE    a manifest, 20 digits; written only where there is none
 ARCHIVE/dropped/SEQUENCE     one that retention has taken away, until the grace time is over
 ARCHIVE/packs/ID             items one behind the other, up to 16 MiB, or one that is larger; ID is random
 ARCHIVE/log/NUMBER           an entry of the log, 20 digits; written only where there is none; see `archive_log`
 ARCHIVE/clock                empty; written to learn what time it is by the store's clock

 manifest   magic "PDAM", format u32 = 1, SHA-256 of what follows: CBOR of numbered fields, see `perdure.record`
   1 sequence   2 SHA-256 of the object of the manifest before, or nothing   3 checkpoint, the file's bytes
   4 packs      [[ID, bytes]...]
   5 memories   [[canister id, name, [segment...]]...]
   6 blobs      [[SHA-256, item]...]      7 files   [[name, SHA-256, item]...]
   segment      [number, hash, item, [pack...]]: of 4,096 pages, with its hash in the page tree; the packs of its pages
   item         [pack, offset, bytes]; a pack is a place in the list of packs

 segment, an item
 ┌─────────┬──────┬──────────────────────────────────────────────┐
 │ magic   │  4 B │ "PDSG"                                       │ 0
 │ packs   │  u16 │                                              │ 4
 │ pages   │  u16 │ that are not zero                            │ 6
 │ IDs     │ 16 B…│ of the packs                                 │ 8
 │ entries │ 40 B…│ page u16, pack u16, offset u32, SHA-256      │
 └─────────┴──────┴──────────────────────────────────────────────┘

 with a key   item      AES-256-GCM by HMAC-SHA-256(key, "perdure pack 1" ID), nonce: its offset (12 B, little-endian)
              manifest  nonce (12 B, random), AES-256-GCM by HMAC-SHA-256(key, "perdure manifest 1" id SEQUENCE)
              entry     the same, by HMAC-SHA-256(key, "perdure log 1" id NUMBER)
```

Whatever a version needs is named by its manifest, together with its hash. A manifest is the only object of a version
that appears under a name that somebody else may take: there are two owners if it is taken.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import struct
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple, final

import cbor2

from perdure.errors import MalformedError, StorageError, UnsupportedError
from perdure.record import TEXT, Field, Plain, Table, blob, load, nat, row, sequence
from perdure.storage.changes import CANISTER_ID, NAME
from perdure.storage.merkle import HASH_BYTES, SUBTREE_PAGES

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = [
    "Description",
    "Entry",
    "Item",
    "Manifest",
    "Pack",
    "Segment",
    "StoredBlob",
    "StoredFile",
    "StoredMemory",
    "Vault",
    "decode_manifest",
    "decode_object",
    "decode_segment",
    "encode_manifest",
    "encode_object",
    "encode_segment",
    "read_key",
]

_MAGIC: Final = b"PDAM"
_SEGMENT_MAGIC: Final = b"PDSG"
_FORMAT: Final = 1
_DESCRIPTION: Final = "perdure archive 1"
_HEAD: Final = struct.Struct("<4sI32s")
_SEGMENT_HEAD: Final = struct.Struct("<4sHH")
_ENTRY: Final = struct.Struct("<HHI32s")
PACK_ID_BYTES: Final = 16
KEY_BYTES: Final = 32
_MAX_KEY_FILE_BYTES: Final = 4_096
TAG_BYTES: Final = 16
_NONCE_BYTES: Final = 12


class Item(NamedTuple):
    """Where something is: which of the manifest's packs, from which byte on, how many."""

    pack: int
    offset: int
    size_bytes: int


class Pack(NamedTuple):
    """An object of items."""

    id: bytes
    size_bytes: int


class Segment(NamedTuple):
    """4,096 pages of a memory: their hash, where is said what they are, and which packs they are in."""

    number: int
    hash: bytes
    item: Item
    packs: tuple[int, ...]


class StoredMemory(NamedTuple):
    """The segments of a memory that are not zero, ascending."""

    canister_id: bytes
    name: str
    segments: tuple[Segment, ...]


class StoredBlob(NamedTuple):
    """A module or a chunk."""

    hash: bytes
    item: Item


class StoredFile(NamedTuple):
    """A file of the state directory."""

    name: str
    hash: bytes
    item: Item


class Entry(NamedTuple):
    """A page: in which pack, at which offset, with which hash."""

    pack_id: bytes
    offset: int
    hash: bytes


@final
@dataclass(slots=True)
class Manifest:
    """A version of a state directory, as an archive has it."""

    sequence: int
    parent: bytes
    checkpoint: bytes
    packs: tuple[Pack, ...] = ()
    memories: tuple[StoredMemory, ...] = ()
    blobs: tuple[StoredBlob, ...] = ()
    files: tuple[StoredFile, ...] = field(default=())


HASH: Final = blob(HASH_BYTES, HASH_BYTES)
_ITEM = row(Item, ("pack", nat(32)), ("offset", nat(48)), ("bytes", nat(48)))
_SEGMENT = row(Segment, ("number", nat(32)), ("hash", HASH), ("item", _ITEM), ("packs", sequence(nat(32), tuple)))
_MEMORY = row(StoredMemory, ("canister id", CANISTER_ID), ("name", NAME), ("segments", sequence(_SEGMENT, tuple)))


def _packs(body: dict[str, Plain]) -> str | None:
    """Whether every item lies in a pack that there is."""
    sizes = [pack.size_bytes for pack in body["packs"]]
    segments = [segment for memory in body["memories"] for segment in memory.segments]
    items = [*(one.item for one in segments), *(one.item for one in (*body["blobs"], *body["files"]))]
    for item in items:
        if item.pack >= len(sizes) or item.offset + item.size_bytes > sizes[item.pack]:
            return f"an item at {item}, there are {len(sizes)} packs"
    if any(pack >= len(sizes) for segment in segments for pack in segment.packs):
        return f"a segment of packs that there are not: there are {len(sizes)}"
    return None


def _ascending(body: dict[str, Plain]) -> str | None:
    for memory in body["memories"]:
        indices = [segment.number for segment in memory.segments]
        if indices != sorted(set(indices)):
            return f"segments of {memory.name} that do not ascend"
    named = [(memory.canister_id, memory.name) for memory in body["memories"]]
    return None if len(set(named)) == len(named) else "a memory twice"


def _once(body: dict[str, Plain]) -> str | None:
    """Whether a blob or a file comes once: else a small manifest could have one written for hours."""
    for what, names in (("blob", [one.hash for one in body["blobs"]]), ("file", [one.name for one in body["files"]])):
        if len(set(names)) != len(names):
            return f"a {what} twice"
    return None


_BODY = Table(
    "manifest",
    Field(1, "sequence", nat(62)),
    Field(2, "parent", blob(0, HASH_BYTES), b""),
    Field(3, "checkpoint", blob(1)),
    Field(4, "packs", sequence(row(Pack, ("id", blob(PACK_ID_BYTES, PACK_ID_BYTES)), ("bytes", nat(48))), tuple), []),
    Field(5, "memories", sequence(_MEMORY, tuple), []),
    Field(6, "blobs", sequence(row(StoredBlob, ("hash", HASH), ("item", _ITEM)), tuple), []),
    Field(7, "files", sequence(row(StoredFile, ("name", TEXT), ("hash", HASH), ("item", _ITEM)), tuple), []),
    rules=(_packs, _ascending, _once),
)


def encode_manifest(manifest: Manifest) -> bytes:
    """A manifest's bytes, not sealed."""
    return encode_object(_MAGIC, _BODY, manifest)


def decode_manifest(data: bytes) -> Manifest:
    """The inverse of `encode_manifest`. Raises what `decode_object` does."""
    return Manifest(**decode_object(_MAGIC, _BODY, data))


def encode_object(magic: bytes, table: Table, value: object) -> bytes:
    """An object's bytes: magic, format, the SHA-256 of the rest, and fields."""
    body = cbor2.dumps(table.encode(value))
    return _HEAD.pack(magic, _FORMAT, sha256(body).digest()) + body


def decode_object(magic: bytes, table: Table, data: bytes) -> dict[str, Plain]:
    """The values of an object's fields by name, as `encode_object` has written them.

    Raises:
        MalformedError: no such object, or one whose parts do not belong together.
        UnsupportedError: of a format that this version does not know.
    """
    if len(data) < _HEAD.size or not data.startswith(magic):
        raise MalformedError(f"bad magic {data[:4]!r}, expected {magic!r}: damaged, or sealed with a key", 0)
    _, format_, checksum = _HEAD.unpack_from(data)
    if format_ != _FORMAT:
        raise UnsupportedError(f"{table.name}: format {format_}; this version reads format {_FORMAT}")
    body = data[_HEAD.size :]
    if sha256(body).digest() != checksum:
        raise MalformedError("checksum mismatch", 8)
    return table.decode(load(body, table.name))


def encode_segment(entries: dict[int, Entry]) -> bytes:
    """The bytes of a segment, of its pages by their place in it."""
    ids = list(dict.fromkeys(entry.pack_id for entry in entries.values()))
    places = {pack_id: place for place, pack_id in enumerate(ids)}
    rows = (
        _ENTRY.pack(page, places[entry.pack_id], entry.offset, entry.hash) for page, entry in sorted(entries.items())
    )
    return b"".join([_SEGMENT_HEAD.pack(_SEGMENT_MAGIC, len(ids), len(entries)), *ids, *rows])


def decode_segment(data: bytes) -> dict[int, Entry]:
    """The inverse of `encode_segment`.

    Raises:
        MalformedError: no segment.
    """
    if len(data) < _SEGMENT_HEAD.size or not data.startswith(_SEGMENT_MAGIC):
        raise MalformedError(f"bad magic {data[:4]!r}, expected {_SEGMENT_MAGIC!r}", 0)
    _, packs, pages = _SEGMENT_HEAD.unpack_from(data)
    start = _SEGMENT_HEAD.size + packs * PACK_ID_BYTES
    if len(data) != start + pages * _ENTRY.size or pages > SUBTREE_PAGES:
        raise MalformedError(f"{len(data)} bytes found for {packs} packs and {pages} pages", 0)
    ids = [data[at : at + PACK_ID_BYTES] for at in range(_SEGMENT_HEAD.size, start, PACK_ID_BYTES)]
    entries: dict[int, Entry] = {}
    for page, pack, offset, hash_ in _ENTRY.iter_unpack(data[start:]):
        if page >= SUBTREE_PAGES or pack >= packs or page in entries:
            raise MalformedError(f"page {page} in pack {pack} of {packs}", start)
        entries[page] = Entry(ids[pack], offset, hash_)
    return entries


# -- what an archive says of itself, and its key


class Description(NamedTuple):
    """What an archive says of itself: its id, and what tells whether a key is its own; nothing: it has none."""

    id: bytes
    key_check: bytes

    def encode(self) -> bytes:
        """The object's bytes."""
        facts = {"format": _DESCRIPTION, "id": self.id.hex(), "key": self.key_check.hex() or None}
        return (json.dumps(facts, indent=2) + "\n").encode()

    @classmethod
    def decode(cls, data: bytes) -> Description:
        """The inverse of `encode`. Raises `MalformedError`, and `UnsupportedError` for another format."""
        try:
            facts = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise MalformedError(f"not what an archive says of itself: {error}") from error
        if not isinstance(facts, dict) or facts.get("format") != _DESCRIPTION:
            raise UnsupportedError(f"expected an archive of the format {_DESCRIPTION!r}")
        texts = facts.get("id"), facts.get("key") or ""
        if not all(isinstance(text, str) and re.fullmatch("([0-9a-f]{32})?", text) for text in texts) or not texts[0]:
            raise MalformedError("expected an id of 32 hexadecimal digits, and a key check of as many or null")
        return cls(bytes.fromhex(texts[0]), bytes.fromhex(texts[1]))


def read_key(path: str | os.PathLike[str]) -> bytes:
    """The key in a file: 32 bytes, or 64 hexadecimal digits.

    Raises:
        StorageError: it cannot be read.
        UnsupportedError: neither is in it.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 -- a path is any text
            text = file.read(_MAX_KEY_FILE_BYTES)  # of what may be a device
    except OSError as error:
        raise StorageError((error.strerror or str(error)).lower(), path) from error
    if len(text) == KEY_BYTES:
        return text
    if re.fullmatch(rb"[0-9a-fA-F]{64}", text.strip()):
        return bytes.fromhex(text.strip().decode())
    raise UnsupportedError("a key is 32 bytes, or 64 hexadecimal digits: `openssl rand -hex 32 > key` makes one")


@final
class Vault:
    """Seals and opens what an archive has, with its key; without one, all is as it is.

    Args:
        key: 32 bytes; nothing: none.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._ciphers: dict[bytes, AESGCM] = {}

    @property
    def overhead_bytes(self) -> int:
        """How much longer an item becomes."""
        return TAG_BYTES if self._key else 0

    def check(self, archive_id: bytes) -> bytes:
        """What tells whether a key is an archive's own, and nothing else of it."""
        return self._derived(b"perdure key check 1" + archive_id)[:16] if self._key else b""

    def seal_item(self, pack_id: bytes, offset: int, data: bytes) -> bytes:
        """The bytes of an item as they stand in its pack."""
        cipher = self._cipher(pack_id)
        return data if cipher is None else cipher.encrypt(offset.to_bytes(_NONCE_BYTES, "little"), data, None)

    def open_item(self, pack_id: bytes, offset: int, data: bytes) -> bytes:
        """The inverse. Raises `MalformedError` where they are not what was sealed."""
        cipher = self._cipher(pack_id)
        return data if cipher is None else _opened(cipher, offset.to_bytes(_NONCE_BYTES, "little"), data)

    def seal_numbered(self, kind: str, archive_id: bytes, number: int, data: bytes) -> bytes:
        """The bytes of the object of a manifest, or of an entry of the log."""
        cipher = self._numbered_cipher(kind, archive_id, number)
        if cipher is None:
            return data
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + cipher.encrypt(nonce, data, None)

    def open_numbered(self, kind: str, archive_id: bytes, number: int, data: bytes) -> bytes:
        """The inverse. Raises `MalformedError` where they are not what was sealed."""
        cipher = self._numbered_cipher(kind, archive_id, number)
        return data if cipher is None else _opened(cipher, data[:_NONCE_BYTES], data[_NONCE_BYTES:])

    def _derived(self, *parts: bytes) -> bytes:
        return hmac.digest(self._key, b"".join(parts), sha256)

    def _numbered_cipher(self, kind: str, archive_id: bytes, number: int) -> AESGCM | None:
        if not self._key:
            return None
        return _aes(self._derived(f"perdure {kind} 1".encode(), archive_id, b"%020d" % number))

    def _cipher(self, pack_id: bytes) -> AESGCM | None:
        if not self._key:
            return None
        found = self._ciphers.get(pack_id)
        if found is None:
            if len(self._ciphers) > 1_000:
                self._ciphers.clear()
            found = self._ciphers[pack_id] = _aes(self._derived(b"perdure pack 1", pack_id))
        return found


def _aes(key: bytes) -> AESGCM:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise UnsupportedError("sealed archives need the extra: pip install 'perdure[storage]'").coded(
            "extra-missing"
        ) from error
    return AESGCM(key)


def _opened(cipher: AESGCM, nonce: bytes, data: bytes) -> bytes:
    from cryptography.exceptions import InvalidTag

    try:
        return cipher.decrypt(nonce, data, None)
    except (InvalidTag, ValueError):
        raise MalformedError("its bytes are not those that were sealed with this key") from None
