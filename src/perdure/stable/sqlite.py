"""The header of an SQLite database, which says how large the file is: a memory that holds one is longer.

Spec: "Database File Format" of sqlite.org, 1.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from perdure.errors import MalformedError
from perdure.memory import WASM_PAGE_BYTES, Memory
from perdure.stable.access import read_exact
from perdure.stable.headers import Fault
from perdure.stable.layout import SQLITE_COUNTER_ADDRESS, SQLITE_HEADER, SQLITE_MAGIC, SQLITE_VERSIONS

__all__ = ["SqliteHeader"]

_FRACTIONS = (64, 32, 32)
_WAL = 2
_LEAST_PAGE_BYTES, _MOST_PAGE_BYTES = 512, 65_536
_PAGE_SIZE, _COUNTER, _COOKIE, _LARGEST_ROOT, _ENCODING, _COUNTER_OF_PAGES = 1, 8, 12, 15, 16, 21
"""Fields of `SQLITE_HEADER`."""


@final
@dataclass(frozen=True)
class SqliteHeader:
    """What the first 100 bytes of a database say.

    Attributes:
        page_bytes: size of a page of SQLite, a power of two from 512 to 65,536.
        pages: of the file, as far as the header knows; 0: it does not.
        change_counter: goes up with each transaction that writes.
        is_wal: whether transactions may lie in a file beside it, a write-ahead log.
        encoding: of texts: 1 UTF-8, 2 UTF-16 little-endian, 3 UTF-16 big-endian; 0: nothing was written yet.
    """

    page_bytes: int
    pages: int
    change_counter: int
    is_wal: bool
    encoding: int

    @classmethod
    def read(cls, memory: Memory, address: int = 0) -> SqliteHeader:
        """The header at `address`.

        Raises:
            MalformedError: it is none: another magic, no page size, foreign versions.
        """
        data = read_exact(memory, address, SQLITE_HEADER.size, "header of an SQLite database")
        (magic, size, written, read, reserved, *rest, counter_of_pages, _) = SQLITE_HEADER.unpack(data)
        fractions, (change_counter, pages, _, _, _, _, _, _, encoding, _, _, _) = tuple(rest[:3]), rest[3:15]
        if magic != SQLITE_MAGIC:
            raise MalformedError(f"no SQLite database: it begins with {magic[:8].hex(' ')}", address)
        page_bytes = _MOST_PAGE_BYTES if size == 1 else size
        if page_bytes & (page_bytes - 1) or not _LEAST_PAGE_BYTES <= page_bytes <= _MOST_PAGE_BYTES:
            raise MalformedError(f"an SQLite database with pages of {size} bytes, expected a power of two", address)
        if fractions != _FRACTIONS or not 0 < written <= _WAL or not 0 < read <= _WAL or reserved > page_bytes - 480:
            raise MalformedError("an SQLite database of a version that nobody knows", address)
        # Releases before 3.7.0 leave the number of pages alone and the counter that it is of.
        known_pages = pages if change_counter == counter_of_pages else 0
        return cls(page_bytes, known_pages, change_counter, _WAL in (written, read), encoding)

    def file_bytes(self, memory_bytes: int) -> int:
        """How long the file is, in a memory that has `memory_bytes` from its start on."""
        whole = memory_bytes // self.page_bytes
        return self.page_bytes * (min(self.pages, whole) if self.pages else whole)

    def faults(self, memory: Memory) -> Iterator[Fault]:
        """Whether the file does not fit the memory."""
        if self.pages * self.page_bytes > memory.size() * WASM_PAGE_BYTES:
            message = f"{self.pages} pages of {self.page_bytes} bytes in a memory of {memory.size():#x} Wasm pages"
            yield Fault("sqlite-truncated", message, SQLITE_COUNTER_ADDRESS)

    @staticmethod
    def succeeding(first_bytes: bytes, before: bytes) -> bytes:
        """The first bytes of a file that takes the place of another, so that whoever has that one open notices.

        SQLite looks at the change counter to see whether its pages are still those of the file, and at the schema's
        cookie to see whether its tables are: both are beyond those of either file.

        Args:
            first_bytes: of the new file, the header at least.
            before: the header in whose place it comes.
        """
        new, old = list(SQLITE_HEADER.unpack_from(first_bytes)), SQLITE_HEADER.unpack_from(before)
        knows_pages = new[_COUNTER] == new[_COUNTER_OF_PAGES]
        for field in (_COUNTER, _COOKIE):
            new[field] = (max(new[field], old[field]) + 1) & 0xFFFF_FFFF
        new[_COUNTER_OF_PAGES] = (new[_COUNTER] - (not knows_pages)) & 0xFFFF_FFFF
        return SQLITE_HEADER.pack(*new) + first_bytes[SQLITE_HEADER.size :]

    @staticmethod
    def with_cookie_moved(first_bytes: bytes, by: int) -> bytes:
        """The first bytes of a file with another cookie of the schema."""
        fields = list(SQLITE_HEADER.unpack_from(first_bytes))
        fields[_COOKIE] = (fields[_COOKIE] + by) & 0xFFFF_FFFF
        return SQLITE_HEADER.pack(*fields) + first_bytes[SQLITE_HEADER.size :]

    @staticmethod
    def kept_open(new: bytes, before: bytes) -> str | None:
        """What keeps a header from taking the place of another one under a guest that has it open, or nothing.

        SQLite asks for these when it opens a file and not again.
        """
        found, expected = SQLITE_HEADER.unpack_from(new), SQLITE_HEADER.unpack_from(before)
        for what, field, of in (
            ("a page size of", _PAGE_SIZE, int),
            ("the text encoding (1 UTF-8, 2 UTF-16le, 3 UTF-16be)", _ENCODING, int),
            ("auto_vacuum", _LARGEST_ROOT, bool),
        ):
            if of(found[field]) != of(expected[field]):
                return f"the file has {what} {of(found[field])}, and the database {of(expected[field])}"
        return None

    @staticmethod
    def without_log(first_bytes: bytes) -> bytes:
        """The first bytes of a file as if it had never had a write-ahead log, which lies elsewhere and is not here."""
        versions = bytes(min(version, 1) for version in first_bytes[SQLITE_VERSIONS])
        return first_bytes[: SQLITE_VERSIONS.start] + versions + first_bytes[SQLITE_VERSIONS.stop :]
