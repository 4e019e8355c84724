"""A file of SQLite that lies in a memory, as SQLite reads and writes it: one VFS for all of them (extra ``sql``: apsw).

```
SQLite ──xRead, xLock──▶ DatabaseFile ──read──▶ Memory: live, of a state directory, a snapshot, a dump
   └── opens by a name that `connect` has given to the file, and nothing else
```

Where the memory may change meanwhile, a transaction sees one state or ends. The witness is how often a canister's
memory was changed; of other memories it is the change counter in the header, as it is for SQLite itself. A canister
whose SQLite never lets go of its lock (``ic-rusqlite``, ``ic-sqlite-vfs``) counts there once, and never again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol, Self, cast, final

import apsw

from perdure.errors import InternalError
from perdure.inspection.sqlite_explain import Explained, explain
from perdure.memory import WASM_PAGE_BYTES, Memory, ReadOnlyMemory
from perdure.stable.layout import SQLITE_COUNTER_ADDRESS, SQLITE_COUNTER_BYTES, SQLITE_HEADER, SQLITE_VERSION_CHECK
from perdure.stable.region import Region
from perdure.stable.sqlite import SqliteHeader

__all__ = ["VFS_NAME", "Connection", "DatabaseFile", "Fixed", "Place", "connect", "name_of"]

VFS_NAME: Final = "perdure"
_AHEAD_BYTES: Final = 65_536
_COOKIE_STEP: Final = 0x9E37_79B9
"""Far from what schemas' cookies, which count, differ by."""


def size_bytes_of(memory: Memory) -> int:
    """Of a memory that may begin within a Wasm page of another."""
    return memory.size_bytes if isinstance(memory, Region) else memory.size() * WASM_PAGE_BYTES


class _Counting(Protocol):
    """A memory that knows how often it was changed: a canister's."""

    def read_counted(self, address: int, size_bytes: int) -> tuple[int, bytes]: ...


def _counting(memory: Memory) -> tuple[_Counting | None, int | None]:
    """The memory that counts below one, and where in it the database begins; `None` where it is not in one piece."""
    base: int | None = 0
    while isinstance(memory, Region):
        base = base + memory.runs[0].address if base is not None and len(memory.runs) == 1 else None
        memory = memory.below
    return (cast("_Counting", memory) if hasattr(memory, "read_counted") else None), base


def _in_one_piece(memory: Memory, size_bytes: int) -> memoryview | None:
    """All of a file that is never written to, where it can be shown without a copy."""
    base = 0
    while isinstance(memory, Region) and len(memory.runs) == 1:
        base, memory = base + memory.runs[0].address, memory.below
    return memory.view_whole(base, size_bytes) if isinstance(memory, ReadOnlyMemory) else None


class Place(Protocol):
    """Where a database lies."""

    def memory(self) -> Memory:
        """The memory that begins with it. Asked for again where the file has grown past its end."""
        ...

    def epoch(self) -> object:
        """The same object until something other than a transaction has put another database in its place."""
        ...


@final
class Fixed:
    """A place that stays as it is."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def memory(self) -> Memory:
        """The memory."""
        return self._memory

    def epoch(self) -> object:
        """Always the same."""
        return None


class DatabaseFile:
    """An open database in a memory, for reading.

    Args:
        place: where it lies.
        changes: whether somebody may write to the memory while it is open.
    """

    is_writable = False

    def __init__(self, place: Place, *, changes: bool = False) -> None:
        self._place = place
        self._changes = changes
        self._level = 0
        self._ahead = b""  # bytes from `_ahead_at` on: a scan reads page after page
        self._ahead_at = self._following = 0
        self._is_replaced = False
        self._cookie_moved_by = 0
        self.touched: tuple[set[int], set[int]] | None = None
        """Offsets of pages read and written, while somebody counts them."""
        self._epoch = place.epoch()
        self._set_memory(place.memory())
        self._whole: memoryview | None = None
        self._witness: object = None
        self._look()

    def again(self) -> DatabaseFile:
        """The same database, to be read by another connection."""
        return DatabaseFile(self._place, changes=self._changes)

    def _look(self) -> None:
        """Take size and change counter from the header."""
        if self._whole is not None:
            return  # it stays as it is
        before = self._witness
        epoch = self._place.epoch()
        if epoch is not self._epoch:
            self._set_memory(self._place.memory())  # which may find none, and then is to be asked again
            self._epoch, self._is_replaced = epoch, True
            # Another database may have the cookie by which SQLite would see that its tables are others.
            self._cookie_moved_by += _COOKIE_STEP
        self._witness = self._look_at_witness()  # before anything is read of the state
        if self._counting is not None and before is not None and before == self._witness and not self._is_replaced:
            return  # nothing of the memory has changed since the header was read
        header = SqliteHeader.read(self._memory)
        if self._changes and header.pages * header.page_bytes > size_bytes_of(self._memory):
            self._set_memory(self._place.memory())
            self._witness = self._look_at_witness()
            header = SqliteHeader.read(self._memory)
        self._size_bytes = header.file_bytes(size_bytes_of(self._memory))
        self.page_bytes = header.page_bytes
        self._ahead = b""
        if self._changes:
            self._is_replaced |= before not in (None, self._witness)
        else:
            self._whole = _in_one_piece(self._memory, self._size_bytes)

    def _set_memory(self, memory: Memory) -> None:
        self._memory = memory
        self._counting, self._base = _counting(memory)

    def _look_at_witness(self) -> object:
        """What is something else once somebody has changed the database."""
        if not self._changes:
            return None
        if self._counting is not None:
            return self._counting.read_counted(0, 0)[0]
        return self._memory.read(SQLITE_COUNTER_ADDRESS, SQLITE_COUNTER_BYTES)

    def _check(self) -> None:
        """Raise where what a transaction reads is no longer what it has begun with."""
        witness: object = None
        try:
            witness = self._look_at_witness()
        except InternalError:  # the memory went with an anchor, say
            if self._place.epoch() is self._epoch:
                raise
        self._check_witness(witness)

    def _check_witness(self, witness: object) -> None:
        if self._level and (witness != self._witness or self._place.epoch() is not self._epoch):
            raise apsw.BusyError("the canister has changed the database since this transaction began: begin it anew")

    # --- what SQLite calls

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        """The bytes, fewer at the end of the file."""
        if self.touched is not None:
            self.touched[0].add(offset - offset % self.page_bytes)
        if self._whole is not None and offset:
            return bytes(self._whole[offset : offset + amount])
        if self._is_replaced and (offset, amount) == SQLITE_VERSION_CHECK:
            # How SQLite finds out whether the pages that it has kept are still good: they are not.
            self._is_replaced = False
            return bytes(byte ^ 0xFF for byte in self._memory.read(offset, amount))
        start = offset - self._ahead_at
        if start >= 0 and start + amount <= len(self._ahead):
            return self._ahead[start : start + amount]
        have = max(0, min(amount, self._size_bytes - offset))
        if offset == self._following and offset:
            self._ahead, self._ahead_at = self._load(offset, min(_AHEAD_BYTES, self._size_bytes - offset)), offset
            found = self._ahead[:have]
        else:
            found = self._load(offset, have)
        self._following = offset + have
        if offset or have < SQLITE_HEADER.size:
            return found
        found = SqliteHeader.without_log(found)
        return SqliteHeader.with_cookie_moved(found, self._cookie_moved_by) if self._cookie_moved_by else found

    def _load(self, offset: int, size_bytes: int) -> bytes:
        """Bytes of the state that the transaction began with, or an error."""
        if size_bytes <= 0:
            return b""
        if not self._changes:
            return self._memory.read(offset, size_bytes)
        witness: object = None
        data = b""
        try:
            if self._counting is not None and self._base is not None:  # in one turn, where turns cost more than bytes
                witness, data = self._counting.read_counted(self._base + offset, size_bytes)
            else:
                data = self._memory.read(offset, size_bytes)
                witness = self._look_at_witness()
        except InternalError:
            if not self._level or self._place.epoch() is self._epoch:
                raise
        self._check_witness(witness)
        return data

    def xFileSize(self) -> int:  # noqa: N802
        """In bytes, as the header says."""
        return self._size_bytes

    def xLock(self, level: int) -> None:  # noqa: N802
        """Begin a transaction, or write in it."""
        if self._level == apsw.SQLITE_LOCK_NONE:
            self._look()
        if level >= apsw.SQLITE_LOCK_RESERVED:
            raise apsw.ReadOnlyError("the database is open for reading")
        self._level = level

    def xUnlock(self, level: int) -> None:  # noqa: N802
        """End it."""
        self._level = level
        self._ahead = b""

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        """Refuse."""
        raise apsw.ReadOnlyError("the database is open for reading")

    def xTruncate(self, size_bytes: int) -> None:  # noqa: N802
        """Refuse."""
        raise apsw.ReadOnlyError("the database is open for reading")

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        """Nobody else holds a lock on what lies in a memory."""
        return False

    def xSync(self, flags: int) -> None:  # noqa: N802
        """Nothing waits."""

    def xClose(self) -> None:  # noqa: N802
        """Nothing is held."""

    def xSectorSize(self) -> int:  # noqa: N802
        """Of a page of state."""
        return 4096

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        """None that would keep SQLite from looking again: IMMUTABLE gives stale reads."""
        return 0

    def xFileControl(self, op: int, pointer: int) -> bool:  # noqa: N802
        """Not known."""
        return False


class _Vfs(apsw.VFS):
    """Opens what `connect` has named. Clock and randomness are the system's."""

    def __init__(self) -> None:
        super().__init__(VFS_NAME, "", maxpathname=64)
        self.files: dict[str, DatabaseFile] = {}

    def xOpen(self, name: object, flags: list[int]) -> Any:  # noqa: N802
        file = self.files.pop(str(name.filename() if isinstance(name, apsw.URIFilename) else name), None)
        if file is None or not flags[0] & apsw.SQLITE_OPEN_MAIN_DB:
            raise apsw.CantOpenError("no journal, log or temporary file belongs to a database in a memory")
        writing = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        flags[1] = flags[0] if file.is_writable else flags[0] & ~writing | apsw.SQLITE_OPEN_READONLY
        return file

    def xAccess(self, pathname: str, flags: int) -> bool:  # noqa: N802
        return False

    def xFullPathname(self, name: str) -> str:  # noqa: N802
        return name

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        raise apsw.IOError("nothing can be deleted here")

    def xDlOpen(self, filename: str) -> int:  # noqa: N802
        return 0


_VFS: Final = _Vfs()
_NUMBERS: Final = itertools.count(1)


class Connection(apsw.Connection):
    """A connection of apsw to a database in a memory, which can say what a statement reads of it."""

    file: DatabaseFile
    guard: Callable[[DatabaseFile], apsw.Connection]
    """Makes a connection that only reads, within limits."""

    def __enter__(self) -> Self:
        """Begin a transaction, or a savepoint within one: committed at the end of the block, undone by an exception."""
        name = f"block_{next(_NUMBERS)}" if self.in_transaction else ""
        self.execute(f"savepoint {name}" if name else "begin")
        self.__dict__.setdefault("_blocks", []).append(name)
        return self

    def __exit__(self, kind: object, *_: object) -> Literal[False]:
        # apsw's own asks the authorizer for the rollback while the error of the commit is pending, which is refused
        # then: it tells of that, and not of what was wrong.
        name = self._blocks.pop()
        try:
            if kind is None:
                self.execute(f"release {name}" if name else "commit")
        except BaseException:
            self._undo(name)
            raise
        if kind is not None:
            self._undo(name)
        return False

    _blocks: list[str]
    """The blocks that have begun: names of savepoints; none of a transaction."""

    def _undo(self, name: str) -> None:
        if self.in_transaction:
            self.execute(f"rollback to {name}; release {name}" if name else "rollback")

    def explain_pages(self, sql: str, bindings: Mapping[str, Any] | Sequence[Any] | None = None) -> Explained:
        """Which pages a statement reads, with nothing in a cache; see `perdure.inspection.explain_pages`."""
        return explain(self.guard, self.file.again, sql, bindings)


def connect(file: DatabaseFile, guard: Callable[[DatabaseFile], apsw.Connection]) -> Connection:
    """A connection to the one file; nothing is limited yet. `guard` makes others, that only read."""
    flags = apsw.SQLITE_OPEN_READWRITE if file.is_writable else apsw.SQLITE_OPEN_READONLY
    connection = Connection(name_of(file), vfs=VFS_NAME, flags=flags)
    connection.file, connection.guard = file, guard
    return connection


def name_of(file: DatabaseFile) -> str:
    """A name by which SQLite opens a file, once."""
    name = f"memory-{next(_NUMBERS)}"
    _VFS.files[name] = file
    return name
