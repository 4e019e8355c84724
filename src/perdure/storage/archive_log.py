"""The log of an archive: what has been committed since a version of it, and who may go on.

```
 ARCHIVE/log/NUMBER    an entry, 20 digits from 1 on; written only where there is none, sealed as manifests are

 entry   magic "PDAE", format u32 = 1, SHA-256 of what follows: CBOR of numbered fields, see `perdure.record`
   1 number     2 SHA-256 of the object of the entry before, or nothing
   3 owner      u32, one more than the owner before     4 token, 16 B: random, of this owner
   5 base       [sequence, SHA-256 of the manifest's object, version, number of the entry that has named it first]
   6 version    of the state after this entry
   7 blobs      [bytes...], modules and chunks          8 files [[name, bytes]...], as they are from now on
   9 records    of the commit log, one behind the other, as they were there: perdure.storage.log
```

An entry is one of three: a *claim*, with an owner that is new; *commits*; a *base*, which names a version of the
archive (a manifest) that takes the place of all entries before. What a subnet is, is the base that the last entry
names, with the commits of the entries after it. What is in none of them, a manifest included, has not happened.

A name is taken once (``If-None-Match``), so the next entry is by one owner. Whoever wants to go on writes a claim
first, and reads then: the owner before, which may be alive and not know, finds its next name taken, has acknowledged
nothing that is not in an entry before the claim, and stops. No clock, and nobody else, is asked. So a claim stays when
what lies before a base is removed: its name is the next one of an owner that may sleep for a month.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice
from typing import Final, NamedTuple, final

from perdure.errors import MalformedError, StorageError, UnsupportedError
from perdure.record import TEXT, Field, Table, blob, nat, row, sequence
from perdure.storage.archive import BESIDE, Archive
from perdure.storage.archive_format import HASH, decode_object, encode_object
from perdure.storage.log import LogRecord, records_in
from perdure.storage.merkle import HASH_BYTES
from perdure.storage.objects import AlreadyThereError, Stat

__all__ = ["NO_ENTRY", "TOKEN_BYTES", "ArchiveLog", "Base", "LogEntry", "decode_entry", "encode_entry", "log_version"]

TOKEN_BYTES: Final = 16

_MAGIC: Final = b"PDAE"
_NUMBER: Final = re.compile("[0-9]{20}")
_MAX_ENTRY_BYTES: Final = 1 << 28
_TRIES: Final = 20
_LISTED: Final = 1_000
"""Names in one answer of a store."""


class Base(NamedTuple):
    """A version of an archive on which entries go on: its manifest, and the number of the entry that first named it."""

    sequence: int
    hash: bytes
    version: int
    number: int


@final
@dataclass(frozen=True, slots=True)
class LogEntry:
    """An entry; the module says what its parts are."""

    number: int
    parent: bytes
    owner: int
    token: bytes
    base: Base
    version: int
    blobs: tuple[bytes, ...] = ()
    files: tuple[tuple[str, bytes], ...] = ()
    records: bytes = b""

    def next(self, own: bytes) -> LogEntry:
        """An entry after this one that changes nothing as yet. `own` is the SHA-256 of this one's object."""
        return replace(self, number=self.number + 1, parent=own, blobs=(), files=(), records=b"")


NO_ENTRY: Final = LogEntry(0, b"", 0, b"", Base(0, b"", 0, 0), 0)
"""What there is before the first one."""


def _is_in_order(body: dict[str, object]) -> str | None:
    number, base = body["number"], body["base"]
    assert isinstance(number, int)
    assert isinstance(base, Base)
    return None if 0 < base.number <= number else f"a base that entry {base.number} names, this is number {number}"


def _beside(body: dict[str, object]) -> str | None:
    files = body["files"]
    assert isinstance(files, tuple)
    strange = [name for name, _ in files if name not in BESIDE]
    return f"a file {strange[0]!r:.80}, which belongs to no state" if strange else None


_BODY = Table(
    "entry",
    Field(1, "number", nat(62)),
    Field(2, "parent", blob(0, HASH_BYTES), b""),
    Field(3, "owner", nat(32)),
    Field(4, "token", blob(TOKEN_BYTES, TOKEN_BYTES)),
    Field(5, "base", row(Base, ("sequence", nat(62)), ("hash", HASH), ("version", nat(62)), ("number", nat(62)))),
    Field(6, "version", nat(62)),
    Field(7, "blobs", sequence(blob(), tuple), []),
    Field(8, "files", sequence(row(lambda name, data: (name, data), ("name", TEXT), ("bytes", blob())), tuple), []),
    Field(9, "records", blob(), b""),
    rules=(_is_in_order, _beside),
)


def encode_entry(entry: LogEntry) -> bytes:
    """An entry's bytes, not sealed."""
    return encode_object(_MAGIC, _BODY, entry)


def decode_entry(data: bytes) -> LogEntry:
    """The inverse of `encode_entry`. Raises what `decode_object` does."""
    return LogEntry(**decode_object(_MAGIC, _BODY, data))


@final
class ArchiveLog:
    """The log of an archive.

    Attributes:
        archive: whose it is.
    """

    def __init__(self, archive: Archive) -> None:
        self.archive = archive

    def _name(self, number: int) -> str:
        return f"log/{number:020}"

    def numbers(self) -> dict[int, Stat]:
        """What is there, by number, ascending."""
        found = {}
        for stat in self.archive.objects.list(self.archive.at("log")):
            name = stat.key.rpartition("/")[2]
            if _NUMBER.fullmatch(name):
                found[int(name)] = stat
        return dict(sorted(found.items()))

    def newest(self) -> int:
        """The number of the last entry; 0: there is none. A long log, which nobody has pruned, is not gone through."""
        if not self.archive.objects.lists_in_order:
            return max(self.numbers(), default=0)
        low, high, step = 0, None, _LISTED  # none is behind `high`
        while True:
            if low == 0 or (high is not None and high - low <= _LISTED):
                probe = low
            elif high is None:
                probe, step = low + step, 2 * step
            else:
                probe = (low + high) // 2
            names = self._names_after(probe)
            found = [int(name) for name in names if _NUMBER.fullmatch(name)]
            if found:
                low = found[-1]
                if len(names) < _LISTED:
                    return low
            elif names:  # of something else, which is in the way
                return max(self.numbers(), default=0)
            elif probe == low:
                return low
            else:
                high = probe

    def _names_after(self, number: int) -> list[str]:
        """The next names behind that of an entry, a page of them at most."""
        archive = self.archive
        stats = archive.objects.list(archive.at("log"), after=archive.at(self._name(number)))
        return [stat.key.rpartition("/")[2] for stat in islice(stats, _LISTED)]

    def read(self, number: int) -> tuple[LogEntry, bytes]:
        """An entry, and the SHA-256 of its object.

        Raises:
            StorageError: it is not there, or not what was written.
        """
        archive, name = self.archive, self._name(number)
        data, _ = archive.objects.read_whole(archive.at(name), _MAX_ENTRY_BYTES)
        try:
            found = decode_entry(archive.vault.open_numbered("log", archive.id, number, data))
        except (MalformedError, UnsupportedError) as error:
            raise StorageError(str(error), archive.place.under(name)) from error
        if found.number != number:
            raise StorageError(f"it is number {found.number}, and not what its name says", archive.place.under(name))
        return found, sha256(data).digest()

    def last(self) -> tuple[LogEntry, bytes]:
        """The last entry, and the SHA-256 of its object; `NO_ENTRY` and nothing where there is none.

        Raises:
            StorageError: it cannot be read.
        """
        newest = self.newest()
        return self.read(newest) if newest else (NO_ENTRY, b"")

    def seal(self, entry: LogEntry) -> bytes:
        """The bytes of an entry's object."""
        archive = self.archive
        return archive.vault.seal_numbered("log", archive.id, entry.number, encode_entry(entry))

    def put(self, entry: LogEntry, sealed: bytes) -> None:
        """Write an entry. Again is fine, with the same bytes.

        Raises:
            StorageError: with the code ``archive-owner``: somebody else has written one of its number. Else it is not
                known whether it is there.
        """
        archive, name = self.archive, self._name(entry.number)
        try:
            archive.objects.put(archive.at(name), sealed, only_new=True)
        except AlreadyThereError:
            _, there = self.read(entry.number)
            if there != sha256(sealed).digest():  # else it was written, and the answer got lost
                raise self._another(entry) from None

    def refuse_taken(self, last: LogEntry) -> None:
        """Raise as `put` of an entry after this one would, where there is one."""
        if self.archive.objects.stat(self.archive.at(self._name(last.number + 1))) is not None:
            raise self._another(last)

    def _another(self, entry: LogEntry) -> StorageError:
        return StorageError(
            f"owner {entry.owner} had it, and another one goes on with it by now: what this one has not acknowledged "
            "is not in it",
            self.archive.place,
        ).coded("archive-owner")

    def claim(self, token: bytes, after: bytes | None = None) -> tuple[LogEntry, bytes]:
        """Be its owner from now on, whoever is it; the entry that says so, and the SHA-256 of its object.

        Args:
            token: of the new owner.
            after: only if this is the token of the last entry, else whatever that is.

        Raises:
            StorageError: with the code ``archive-owner``: it is another one, or others are faster time and again.
        """
        for _ in range(_TRIES):
            last, own = self.last()
            if after is not None and last.token != after:
                break
            made = replace(last.next(own), owner=last.owner + 1, token=token)
            sealed = self.seal(made)
            try:
                self.put(made, sealed)
            except StorageError as error:
                if error.error_code != "archive-owner":
                    raise
                continue
            return made, sha256(sealed).digest()
        raise StorageError("another owner has gone on with it just now", self.archive.place).coded("archive-owner")

    def commits(self, last: LogEntry, own: bytes) -> Iterator[tuple[LogEntry, list[tuple[LogRecord, bytes]]]]:
        """The entries from a base up to the last one, each with its commits that the base does not have.

        Args:
            last: the last one.
            own: the SHA-256 of its object.

        Raises:
            StorageError: one of them is not there, damaged, of another chain, or a commit is missing.
        """
        version, expected = last.base.version, b""
        for number in range(last.base.number, last.number + 1):
            place = self.archive.place.under(self._name(number))
            entry, hash_ = self.read(number)
            is_next = number == last.base.number or entry.parent == expected
            if not is_next or entry.base != last.base or (number == last.number and hash_ != own):
                raise StorageError("it does not continue the entry before", place)
            expected, records = hash_, []
            try:
                for record, pages in records_in(entry.records):
                    if record.version > version + 1:
                        raise MalformedError(f"version {record.version} follows on {version}", record.offset)
                    if record.version == version + 1:
                        records.append((record, pages))
                        version = record.version
            except MalformedError as error:
                raise StorageError(str(error), place) from error
            if version != entry.version:
                raise StorageError(f"its commits end with version {version}, {entry.version} expected", place)
            yield entry, records


def log_version(url: str, key: bytes = b"") -> int | None:
    """The newest version that the log of an archive has; `None`: it has no log.

    Raises:
        StorageError: there is no archive, or it cannot be read.
    """
    last, _ = ArchiveLog(Archive(url, key)).last()
    return None if last is NO_ENTRY else last.version
