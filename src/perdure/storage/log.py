"""The commit log: one record a commit, appended to a file that is preallocated and used over and over.

```
 record (a multiple of 4,096 bytes)
 ┌──────────────┬───────┬──────────────────────────────────────────────────────────────┐
 │ magic        │  4 B  │ "PDLR"                                                       │ 0
 │ format       │  u16  │ 1                                                            │ 4
 │ zero         │  u16  │                                                              │ 6
 │ epoch        │  u64  │ of the checkpoint that the record continues                  │ 8
 │ version      │  u64  │ of the state after this commit                               │ 16
 │ durable      │  u64  │ newest version known to be on the platter when this was made │ 24
 │ meta bytes   │  u32  │                                                              │ 32
 │ page count   │  u32  │                                                              │ 36
 │ previous     │  32 B │ checksum of the record before, or of the checkpoint          │ 40
 │ checksum     │  32 B │ SHA-256 of bytes 0..71, of meta and of the page hashes       │ 72
 │ header CRC   │  u32  │ CRC-32 of bytes 0..103                                       │ 104
 │ meta         │       │ CBOR, see `perdure.storage.changes`                          │ 108
 │ page hashes  │ 32 B… │ SHA-256 of each page                                         │
 │ zeros        │       │ up to a multiple of 4,096                                    │
 │ pages        │ 4 KiB…│                                                              │
 └──────────────┴───────┴──────────────────────────────────────────────────────────────┘
 end mark: 4,096 zero bytes after the last record, overwritten by the next one
```

Little-endian. A record is whole when its checksums hold and it continues the one before. What follows the last whole
record is nothing (the end mark, or a record of an older epoch), or a *torn tail*: a write that a crash cut off. It is
*damage* when something later says that the missing version had reached the platter: a record whose `durable` is at
least that version.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import final
from zlib import crc32

from perdure.memory import PAGE_BYTES
from perdure.storage.disk import Buffer, DiskFile
from perdure.storage.merkle import HASH_BYTES, hash_pages

__all__ = ["BLOCK", "LogRecord", "Tail", "encode_record", "find_tail", "scan"]

BLOCK = 4096
_HEADER = struct.Struct("<4sHHQQQII32s32sI")
_MAGIC = b"PDLR"
_FORMAT = 1
_CHECKED_BYTES = 72
_ZEROS = bytes(BLOCK)
_READ_BYTES = 8 << 20


@final
@dataclass(slots=True)
class LogRecord:
    """A whole record, its pages still in the file."""

    epoch: int
    version: int
    durable: int
    checksum: bytes
    meta: bytes
    page_hashes: bytes
    offset: int
    size_bytes: int

    @property
    def pages_offset(self) -> int:
        """Where the first page lies in the file."""
        return self.offset + self.size_bytes - len(self.page_hashes) // HASH_BYTES * PAGE_BYTES


@final
@dataclass(slots=True)
class Tail:
    """What follows the last whole record.

    Attributes:
        offset: where the last whole record ends.
        torn: something is there that is not a whole record.
        damaged_version: a version that had reached the platter and is gone; None when nothing acknowledged is missing.
    """

    offset: int
    torn: bool
    damaged_version: int | None


def encode_record(
    epoch: int, version: int, durable: int, previous: bytes, meta: bytes, page_hashes: bytes
) -> tuple[bytes, bytes]:
    """Everything of a record before its pages, and its checksum."""
    draft = _HEADER.pack(
        _MAGIC, _FORMAT, 0, epoch, version, durable, len(meta), len(page_hashes) // HASH_BYTES, previous, b"", 0
    )[:_CHECKED_BYTES]
    checksum = sha256(draft + meta + page_hashes).digest()
    head = draft + checksum
    head = b"".join((head, crc32(head).to_bytes(4, "little"), meta, page_hashes))
    return head + bytes(-len(head) % BLOCK), checksum


def _read_header(file: DiskFile, offset: int) -> tuple[LogRecord, bytes] | None:
    """A record with a sound header, its body unchecked, and its `previous`; None where there is none."""
    head = file.pread(BLOCK, offset)
    if len(head) < _HEADER.size or not head.startswith(_MAGIC):
        return None
    _, format_, _, epoch, version, durable, meta_bytes, pages, previous, checksum, crc = _HEADER.unpack_from(head)
    if format_ != _FORMAT or crc != crc32(head[: _HEADER.size - 4]):
        return None
    body_bytes = meta_bytes + pages * HASH_BYTES
    head_bytes = -(-(_HEADER.size + body_bytes) // BLOCK) * BLOCK
    body = head[_HEADER.size : _HEADER.size + body_bytes]
    if len(body) < body_bytes:
        body += file.pread(body_bytes - len(body), offset + _HEADER.size + len(body))
    size_bytes = head_bytes + pages * PAGE_BYTES
    meta, hashes = body[:meta_bytes], body[meta_bytes:]
    return LogRecord(epoch, version, durable, checksum, meta, hashes, offset, size_bytes), previous


def _head_is_whole(record: LogRecord, previous: bytes) -> bool:
    pages = len(record.page_hashes) // HASH_BYTES
    draft = _HEADER.pack(
        _MAGIC, _FORMAT, 0, record.epoch, record.version, record.durable, len(record.meta), pages, previous, b"", 0
    )[:_CHECKED_BYTES]
    return sha256(draft + record.meta + record.page_hashes).digest() == record.checksum


def _pages_are_whole(file: DiskFile, record: LogRecord) -> bool:
    at = record.pages_offset
    end = record.offset + record.size_bytes
    position = 0
    while at < end:
        data = file.pread(min(_READ_BYTES, end - at), at)
        step = len(data) // PAGE_BYTES * HASH_BYTES
        if len(data) < min(_READ_BYTES, end - at) or hash_pages(data) != record.page_hashes[position : position + step]:
            return False
        position += step
        at += len(data)
    return True


def scan(file: DiskFile, epoch: int, version: int, previous: bytes, offset: int = 0) -> Iterator[LogRecord]:
    """The whole records that continue `version` of `epoch`, in order, up to the first that is not whole."""
    while found := _read_header(file, offset):
        record, continued = found
        if (record.epoch, record.version, continued) != (epoch, version + 1, previous):
            return
        if not _head_is_whole(record, continued) or not _pages_are_whole(file, record):
            return
        yield record
        offset += record.size_bytes
        version = record.version
        previous = record.checksum


def _find_headers(file: DiskFile, offset: int) -> Iterator[int]:
    """Offsets of blocks that begin like a record."""
    while data := file.pread(_READ_BYTES, offset):
        at = data.find(_MAGIC)
        while at >= 0:
            if at % BLOCK == 0:
                yield offset + at
            at = data.find(_MAGIC, at + 1)
        offset += len(data)


def find_tail(file: DiskFile, epoch: int, version: int, offset: int) -> Tail:
    """What follows `version`, the last whole record, which ends at `offset`."""
    mark = file.pread(BLOCK, offset)
    found = _read_header(file, offset)
    stale = found is not None and found[0].epoch < epoch
    torn = mark != _ZEROS[: len(mark)] and not stale
    for at in _find_headers(file, offset):
        found = _read_header(file, at)
        if found is not None and found[0].epoch == epoch and found[0].version > version:
            record, previous = found
            if record.durable > version and _head_is_whole(record, previous):
                return Tail(offset, True, version + 1)
    return Tail(offset, torn, None)


def end_mark() -> Buffer:
    """What follows the last record."""
    return _ZEROS
