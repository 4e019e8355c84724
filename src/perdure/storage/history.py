"""The past of a state directory: logs of earlier epochs, kept, and walked backwards.

```
 history/FIRST-LAST.log
 ┌──────────┬─────────┬──────────────────────────────────────────────────────┐
 │ magic    │  4 B    │ "PDSH"                                               │ 0
 │ format   │  u32    │ 1                                                    │ 4
 │ epoch    │  u64    │ of the records                                       │ 8
 │ version  │  u64    │ before the first record                              │ 16
 │ checksum │  32 B   │ that the first record continues                      │ 24
 │ zeros    │         │ up to 4,096                                          │ 56
 │ records  │         │ as in the log, see `perdure.storage.log`             │ 4,096
 └──────────┴─────────┴──────────────────────────────────────────────────────┘
```

A record made while history is kept also has what it replaced ("before"). The state after version N is today's, with
what the commits after N replaced put back, newest first.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterator
from typing import NamedTuple, final

from perdure.canister import PageDelta
from perdure.errors import StorageError
from perdure.memory import PAGE_BYTES
from perdure.storage.changes import (
    CanisterChange,
    CommitFacts,
    MemoryChange,
    Message,
    decode_meta,
)
from perdure.storage.checkpoint import Checkpoint
from perdure.storage.disk import Disk, DiskFile
from perdure.storage.log import BLOCK, LogRecord, Place, is_still_there, scan

__all__ = [
    "History",
    "Segment",
    "Version",
    "changed_byte",
    "changes_of",
    "written_pages",
]

_HEADER = struct.Struct("<4sIQQ32s")
_MAGIC = b"PDSH"
_FORMAT = 1
_SEGMENT = re.compile(r"[0-9]{20}-[0-9]{20}\.log")
_RUN_PAGES = 1024
_COPY_BYTES = 8 << 20
_MOST_KNOWN = 2
"""Files of records whose records are remembered: the log, and the newest of history."""


class Segment(NamedTuple):
    """A file of records: where they start, and what the first one continues."""

    path: str
    offset: int
    epoch: int
    version: int
    checksum: bytes


@final
class Version:
    """One commit of the past.

    Attributes:
        version: number of the state after it.
        message: the message that made it.
        state_hash: of the state after it; empty: not kept.
    """

    def __init__(self, record: LogRecord, facts: CommitFacts, path: str) -> None:
        self.version = record.version
        self.message: Message = facts.message
        self.state_hash = record.state_hash
        self.record = record
        self.facts = facts
        self.path = path

    def changed_pages(self) -> dict[tuple[bytes, str], int]:
        """How many pages changed, by canister and memory."""
        counts: dict[tuple[bytes, str], int] = {}
        for canister_id, entry in self.facts.canisters.items():
            for name, change in entry.memories.items():
                if change is not None:
                    counts[canister_id, name] = sum(pages for _, pages, _ in change.runs)
        return counts

    @property
    def undoable(self) -> bool:
        """Whether the record has what it replaced."""
        return self.facts.before is not None


def changed_byte(disk: Disk, version: Version, canister_id: bytes, kind: str, address: int, current: int) -> bool:
    """Whether a commit changed the byte at `address` of a memory to `current`, which it still is after all later ones.

    Its file must still hold the record.
    """
    change = _memory_change(version.facts, canister_id, kind)
    if change is None:
        return False
    entry = version.facts.canisters[canister_id]
    before = None if version.facts.before is None else _memory_change(version.facts.before, canister_id, kind)
    file = disk.open(version.path)
    try:
        after = _byte(file, version.record, change, address)
        old = None if before is None else _byte(file, version.record, before, address)
    finally:
        file.close()
    if kind not in entry.origins:
        return (change.fresh or after is not None) and (after or 0) != (old or 0)
    if version.facts.before is None or kind not in version.facts.before.canisters[canister_id].origins:
        return current != (old or 0)  # all of it came
    # What it was is written as what differs from what came.
    return old is not None and current != old


def changes_of(disk: Disk, version: Version) -> dict[bytes, CanisterChange]:
    """What a commit changed, as it was handed to `StateDirectory.commit`. Its file must still hold the record."""
    file = disk.open(version.path)
    try:
        return {
            canister_id: CanisterChange(
                {
                    name: _delta(file, version.record, change)
                    for name, change in entry.memories.items()
                    if change is not None
                },
                frozenset(entry.dropped),
                entry.global_values,
                entry.module,
                entry.record,
                entry.code,
                entry.gone,
                entry.origins,
            )
            for canister_id, entry in version.facts.canisters.items()
        }
    finally:
        file.close()


def written_pages(disk: Disk, version: Version, canister_id: bytes) -> Iterator[tuple[str, int, bytes | None, bytes]]:
    """The pages of a canister that a commit wrote: memory, number, what it was (`None`: not kept), what it became.

    Its file must still hold the record.
    """
    entry, facts = version.facts.canisters.get(canister_id), version.facts.before
    file = disk.open(version.path)
    try:
        for name, change in entry.memories.items() if entry is not None else ():
            replaced = None if facts is None else _memory_change(facts, canister_id, name)
            places = dict(_places(replaced)) if replaced is not None else {}
            for page, place in _places(change) if change is not None else ():
                before = None if facts is None else bytes(PAGE_BYTES)
                if page in places:
                    before = file.pread(PAGE_BYTES, version.record.pages_offset + places[page] * PAGE_BYTES)
                yield name, page, before, file.pread(PAGE_BYTES, version.record.pages_offset + place * PAGE_BYTES)
    finally:
        file.close()


def _places(change: MemoryChange) -> Iterator[tuple[int, int]]:
    """Pages, and the places of their contents in a record."""
    for first, pages, index in change.runs:
        yield from zip(range(first, first + pages), range(index, index + pages), strict=True)


def _delta(file: DiskFile, record: LogRecord, change: MemoryChange) -> PageDelta:
    runs = [
        (first * PAGE_BYTES, file.pread(pages * PAGE_BYTES, record.pages_offset + index * PAGE_BYTES))
        for first, pages, index in change.runs
    ]
    return PageDelta(change.wasm_pages, runs, change.fresh)


def _memory_change(facts: CommitFacts, canister_id: bytes, kind: str) -> MemoryChange | None:
    entry = facts.canisters.get(canister_id)
    return None if entry is None else entry.memories.get(kind)


def _byte(file: DiskFile, record: LogRecord, change: MemoryChange, address: int) -> int | None:
    page, offset = divmod(address, PAGE_BYTES)
    for first, pages, index in change.runs:
        if first <= page < first + pages:
            return file.pread(1, record.pages_offset + (index + page - first) * PAGE_BYTES + offset)[0]
    return None


@final
class History:
    """The kept records of a directory.

    Args:
        keep: how many commits; `None`: all; 0: none.
    """

    def __init__(self, disk: Disk, directory: str, *, keep: int | None) -> None:
        self._disk = disk
        self._path = f"{directory}/history"
        self.keep = keep
        self._known: dict[Segment, list[LogRecord]] = {}

    def _segments(self) -> list[str]:
        return [name for name in self._disk.list_directory(self._path) if _SEGMENT.fullmatch(name)]

    def save(self, log_path: str, log_bytes: int, start: Checkpoint, last_version: int) -> None:
        """Keep the records of the log, before it is used again; synced when this returns. Doing it twice is fine."""
        if self.keep == 0 or not log_bytes:
            return
        path = f"{self._path}/{start.version + 1:020}-{last_version:020}.log"
        self._disk.remove(path + ".new")
        log = self._disk.open(log_path)
        segment = self._disk.open(path + ".new", write=True, create=True)
        try:
            header = _HEADER.pack(_MAGIC, _FORMAT, start.epoch, start.version, start.checksum)
            segment.pwrite(header + bytes(BLOCK - len(header)), 0)
            for at in range(0, log_bytes, _COPY_BYTES):
                segment.pwrite(log.pread(min(_COPY_BYTES, log_bytes - at), at), BLOCK + at)
            segment.sync()
        finally:
            log.close()
            segment.close()
        self._disk.rename(path + ".new", path)
        self._disk.sync_directory(self._path)

    def trim(self, version: int) -> bool:
        """Remove segments that are older than what is to be kept. A directory that keeps none leaves what is there.

        Returns:
            Whether there was one.
        """
        return self.forget(version - self.keep if self.keep else 0)

    def forget(self, version: int) -> bool:
        """Remove segments of which nothing is newer than `version`, and what a crash cut off.

        Returns:
            Whether there was one.
        """
        removed = False
        for name in self._disk.list_directory(self._path):
            if not _SEGMENT.fullmatch(name) or int(name[21:41]) <= version:
                self._disk.remove(f"{self._path}/{name}")
                removed = True
        return removed

    def versions(
        self, live: Segment, below: int | None = None, naming: Collection[bytes] = (), *, again: bool = False
    ) -> Iterator[Version]:
        """Kept commits, newest first, as far back as they follow each other without a gap.

        A file is read whole, and what a commit did is decoded when it is its turn.

        Args:
            live: the log in use.
            below: only those whose version is below this one.
            naming: only those in whose facts one of these is, as a canister's id is where it took part; empty: all.
            again: do not compare with their sums what was compared when it was read before.
        """
        for record in self._records(live, again=again):
            if (below is None or record.version < below) and _names(record, naming):
                yield _version(record, live.path)
        wanted = live.version
        for name in reversed(self._segments()):
            if int(name[21:41]) > wanted:
                continue  # kept for a checkpoint that was cut off: the log still has it
            path = f"{self._path}/{name}"
            for record in self._records(self._open(path), again=again):
                if record.version != wanted:
                    return
                if (below is None or wanted < below) and _names(record, naming):
                    yield _version(record, path)
                wanted -= 1

    def _open(self, path: str) -> Segment:
        file = self._disk.open(path)
        try:
            head = file.pread(_HEADER.size, 0)
        finally:
            file.close()
        if len(head) < _HEADER.size:
            raise StorageError(f"{len(head)} bytes of a header of {_HEADER.size}", path)
        magic, format_, epoch, version, checksum = _HEADER.unpack(head)
        if magic != _MAGIC or format_ != _FORMAT:
            raise StorageError(f"magic {magic!r}, format {format_} found; {_MAGIC!r}, {_FORMAT} expected", path)
        return Segment(path, BLOCK, epoch, version, checksum)

    def _records(self, segment: Segment, *, again: bool) -> list[LogRecord]:
        """Newest first. Those of the segments that were asked for last are remembered, and what is behind them is read.

        A record names the sum of the one before: where the last one is still there, so are all.
        """
        known = self._known.pop(segment, []) if again else []
        self._known.pop(segment, None)
        file = self._disk.open(segment.path)
        try:
            if known and not is_still_there(file, known[-1]):
                known = []
            if known:
                last = known[-1]
                start, offset = Place(segment.epoch, last.version, last.checksum), last.offset + last.size_bytes
                known += scan(file, start, offset, last.owner)
            else:
                start, offset = Place(segment.epoch, segment.version, segment.checksum), segment.offset
                known = list(scan(file, start, offset))
        finally:
            file.close()
        while len(self._known) >= _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[segment] = known
        return [record for record in reversed(known) if not record.is_seal]


def _names(record: LogRecord, ids: Collection[bytes]) -> bool:
    return not ids or any(one in record.meta for one in ids)


def _version(record: LogRecord, path: str) -> Version:
    return Version(record, decode_meta(record.meta, record.page_count), path)
