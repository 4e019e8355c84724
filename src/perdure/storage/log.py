"""The commit log: one record a commit, appended to a file that is preallocated and used over and over.

```
 record (a multiple of 4,096 bytes)
 ┌──────────────┬───────┬──────────────────────────────────────────────────────────────┐
 │ magic        │  4 B  │ "PDSL"                                                       │ 0
 │ format       │  u16  │ 2; 1 before owners were counted                              │ 4
 │ kind         │  u16  │ 0: a commit; 1: a seal                                       │ 6
 │ epoch        │  u64  │ of the checkpoint that the record continues                  │ 8
 │ version      │  u64  │ of the state after this commit; a seal: that before it       │ 16
 │ durable      │  u64  │ newest version known to be on the platter when this was made │ 24
 │ meta bytes   │  u32  │                                                              │ 32
 │ page count   │  u32  │                                                              │ 36
 │ pages CRC    │  u32  │ CRC-32 of all pages                                          │ 40
 │ owner        │  u32  │ which opening of the directory has written it; format 1: 0   │ 44
 │ previous     │  32 B │ checksum of the record before, or of the checkpoint          │ 48
 │ state hash   │  32 B │ of the state after this record; zeros: not computed          │ 80
 │ checksum     │  32 B │ SHA-256 of bytes 0..111 and of meta                          │ 112
 │ header CRC   │  u32  │ CRC-32 of bytes 0..143                                       │ 144
 │ meta         │       │ CBOR, see `perdure.storage.changes`; of a seal: nothing      │ 148
 │ zeros        │       │ up to a multiple of 4,096                                    │
 │ pages        │ 4 KiB…│                                                              │
 └──────────────┴───────┴──────────────────────────────────────────────────────────────┘
 end mark: 4,096 zero bytes after the last record, overwritten by the next one
```

Little-endian. A record is whole when its checksums hold and it continues the one before. Owners only grow: who opens a
directory to write takes the next number, and a record with a smaller number than the checkpoint or a record before it
has is of an owner that had lost the directory, and counts as none. What follows the last whole
record is nothing (the end mark, or a record of an older epoch), or a *torn tail*: a write that a crash cut off. It is
*damage* when something later says that the missing version had reached the platter: a record whose `durable` is at
least that version.

A *seal* says that from here on the images may be newer than the checkpoint says. A log without one belongs to images
that are exactly those of the checkpoint; in a log with one the last record has the state hash.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple, Protocol, final
from zlib import crc32

from perdure.errors import MalformedError, UnsupportedError
from perdure.memory import PAGE_BYTES
from perdure.storage.disk import Buffer, DiskFile

__all__ = ["BLOCK", "LogRecord", "Place", "Tail", "encode_record", "find_tail", "record_bytes", "records_in", "scan"]

BLOCK = 4096
_CHECKED = struct.Struct("<4sHHQQQIIII32s32s")
_SUMS = struct.Struct("<32sI")
_HEADER_BYTES = _CHECKED.size + _SUMS.size
_MAGIC = b"PDSL"
_FORMAT = 2
_FORMATS = (1, _FORMAT)
"""That can be read."""
_COMMIT, _SEAL = 0, 1
_NO_HASH = bytes(32)
_ZEROS = bytes(BLOCK)
_READ_BYTES = 1 << 20  # fits the cache of a core


class _Reads(Protocol):
    """A file, or bytes, as far as records are read from it."""

    def size(self) -> int: ...

    def pread(self, size_bytes: int, offset: int) -> bytes: ...


class Place(NamedTuple):
    """What a record continues: the record before it, or the checkpoint."""

    epoch: int
    version: int
    checksum: bytes


@final
@dataclass(slots=True)
class LogRecord:
    """A record, its pages still in the file.

    Attributes:
        state_hash: after it; empty: not computed.
        is_seal: no commit, see above.
        previous: what it says that it continues.
        is_known: whether its kind is, and nothing is where nothing is to be.
        owner: which opening of the directory has written it; 0: before that was counted.
    """

    version: int
    durable: int
    checksum: bytes
    meta: bytes
    page_count: int
    pages_crc: int
    state_hash: bytes
    is_seal: bool
    previous: Place
    offset: int
    size_bytes: int
    is_known: bool = True
    owner: int = 0

    @property
    def pages_offset(self) -> int:
        """Where the first page lies in the file."""
        return self.offset + self.size_bytes - self.page_count * PAGE_BYTES


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


def record_bytes(meta_bytes: int, page_count: int) -> int:
    """Size of a record."""
    return -(-(_HEADER_BYTES + meta_bytes) // BLOCK) * BLOCK + page_count * PAGE_BYTES


def encode_record(
    place: Place,
    durable: int,
    meta: bytes,
    pages: Sequence[Buffer],
    *,
    owner: int,
    state_hash: bytes = b"",
    seal: bool = False,
) -> tuple[bytes, bytes]:
    """Everything of a record before its pages, and its checksum."""
    crc = size_bytes = 0
    for data in pages:
        crc = crc32(data, crc)
        size_bytes += len(data)
    count = size_bytes // PAGE_BYTES
    epoch, version, previous = place
    kind = _SEAL if seal else _COMMIT
    checked = _CHECKED.pack(
        _MAGIC,
        _FORMAT if owner else 1,
        kind,
        epoch,
        version + (not seal),
        durable,
        len(meta),
        count,
        crc,
        owner,
        previous,
        state_hash or _NO_HASH,
    )
    checksum = sha256(checked + meta).digest()
    head = b"".join((checked, checksum, crc32(checksum, crc32(checked)).to_bytes(4, "little"), meta))
    return head.ljust(-(-len(head) // BLOCK) * BLOCK, b"\0"), checksum


def _read_header(file: _Reads, offset: int) -> LogRecord | None:
    """A record with a sound header, its body unchecked; `None` where there is none."""
    head = file.pread(BLOCK, offset)
    if len(head) < _HEADER_BYTES or not head.startswith(_MAGIC):
        return None
    checked, meta_end = head[: _CHECKED.size], _HEADER_BYTES
    _, format_, kind, epoch, version, durable, meta_bytes, count, pages_crc, owner, previous, state_hash = (
        _CHECKED.unpack(checked)
    )
    checksum, crc = _SUMS.unpack_from(head, _CHECKED.size)
    if format_ not in _FORMATS or crc != crc32(checksum, crc32(checked)):
        return None
    meta_end += meta_bytes
    if meta_end > len(head):
        if offset + meta_end > file.size():
            return None
        head += file.pread(meta_end - len(head), offset + len(head))
    return LogRecord(
        version,
        durable,
        checksum,
        head[_HEADER_BYTES:meta_end],
        count,
        pages_crc,
        state_hash if state_hash != _NO_HASH else b"",
        kind == _SEAL,
        Place(epoch, version - (kind != _SEAL), previous),
        offset,
        record_bytes(meta_bytes, count),
        _is_known(kind, meta_bytes + count, durable < version) and bool(owner) == (format_ == _FORMAT),
        owner,
    )


def _is_known(kind: int, size: int, is_before: bool) -> bool:
    return is_before if kind == _COMMIT else kind == _SEAL and not size


def _head_is_whole(file: _Reads, record: LogRecord) -> bool:
    return sha256(file.pread(_CHECKED.size, record.offset) + record.meta).digest() == record.checksum


def is_still_there(file: DiskFile, record: LogRecord) -> bool:
    """Whether a record that was read once stands where it stood."""
    found = _read_header(file, record.offset)
    return found is not None and found.checksum == record.checksum and _head_is_whole(file, found)


def _pages_are_whole(file: _Reads, record: LogRecord) -> bool:
    at, crc = record.pages_offset, 0
    end = record.offset + record.size_bytes
    while at < end:
        data = file.pread(min(_READ_BYTES, end - at), at)
        if len(data) < min(_READ_BYTES, end - at):
            return False
        crc = crc32(data, crc)
        at += len(data)
    return crc == record.pages_crc


def scan(file: DiskFile, place: Place, offset: int = 0, owner: int = 0) -> Iterator[LogRecord]:
    """The whole records that continue `place`, in order, up to the first that is not whole, or of an owner before.

    Args:
        file: the log.
        place: what the first one continues.
        offset: where it begins.
        owner: who has made what it continues.

    Raises:
        MalformedError: a whole record that nobody has written.
        UnsupportedError: a record of another format.
    """
    while record := _read_header(file, offset):
        if record.previous != place or not _head_is_whole(file, record) or not _pages_are_whole(file, record):
            return
        if not record.is_known:
            raise MalformedError("a record of no kind that there is, or with something where nothing is to be", offset)
        if record.owner < owner:
            return
        owner = record.owner
        yield record
        offset += record.size_bytes
        place = Place(place.epoch, record.version, record.checksum)
    _refuse_other_formats(file, place.epoch, offset)


@final
class _Bytes:
    """Bytes, read as a file is."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def size(self) -> int:
        return len(self._data)

    def pread(self, size_bytes: int, offset: int) -> bytes:
        return self._data[offset : offset + size_bytes]


def records_in(data: bytes) -> Iterator[tuple[LogRecord, bytes]]:
    """Commits that were copied out of logs, one behind the other, whatever each of them continues; with their pages.

    Raises:
        MalformedError: one of them is not whole, or is no commit.
    """
    file, offset = _Bytes(data), 0
    while offset < len(data):
        record = _read_header(file, offset)
        if record is None or not _head_is_whole(file, record) or not _pages_are_whole(file, record):
            raise MalformedError("a record that is not whole", offset)
        if not record.is_known or record.is_seal:
            raise MalformedError("a record that is no commit", offset)
        offset += record.size_bytes
        yield record, data[record.pages_offset : offset]


def _refuse_other_formats(file: DiskFile, epoch: int, offset: int) -> None:
    head = file.pread(_CHECKED.size, offset)
    if len(head) == _CHECKED.size and head.startswith(_MAGIC):
        _, format_, _, found_epoch, *_ = _CHECKED.unpack(head)
        if format_ not in _FORMATS and found_epoch >= epoch:
            raise UnsupportedError(
                f"commit log of format {format_} found, at most {_FORMAT} expected: open and close the directory with "
                f"the version of perdure that wrote it"
            )


def _find_headers(file: DiskFile, offset: int) -> Iterator[int]:
    """Offsets of blocks that begin like a record; holes have none."""
    for start, end in file.data_ranges(offset, file.size()):
        for first in range(start - start % BLOCK, end, _READ_BYTES):
            data = file.pread(min(_READ_BYTES, end - first), first)
            at = data.find(_MAGIC)
            while at >= 0:
                if at % BLOCK == 0:
                    yield first + at
                at = data.find(_MAGIC, at + 1)


def find_tail(file: DiskFile, epoch: int, version: int, offset: int) -> Tail:
    """What follows `version`, the last whole record, which ends at `offset`."""
    mark = file.pread(BLOCK, offset)
    found = _read_header(file, offset)
    stale = found is not None and found.previous.epoch < epoch
    torn = mark != _ZEROS[: len(mark)] and not stale
    for at in _find_headers(file, offset):
        found = _read_header(file, at)
        if found is None or found.previous.epoch != epoch or not version < min(found.version, found.durable):
            continue
        if _head_is_whole(file, found):
            return Tail(offset, True, version + 1)
    return Tail(offset, torn, None)


def end_mark() -> bytes:
    """What follows the last record."""
    return _ZEROS
