"""`Canister.sqlite`: the database in a canister's stable memory, read and written between its messages.

```
SQLite ──xWrite──▶ Draft (pages) ──commit──▶ one commit of the canister's state, of the kind ``sqlite``
                      └── rollback: dropped
```

A transaction of SQLite is a transaction of the canister: it is there whole in the history, or not at all. Whether it
may be is asked when it begins to write and again when it commits, with the subnet to itself: nobody may be within a
call, the database must be the one that the transaction has read, and the guest must be one that looks again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, final

import apsw

from perdure.errors import InternalError, PerdureError, StorageError, UnsupportedError
from perdure.inspection.sqlite import guarded, locate_database
from perdure.inspection.sqlite_draft import Draft, Window, patched, window_of
from perdure.inspection.sqlite_file import DatabaseFile, connect
from perdure.memory import Memory
from perdure.reading_sql import Limits, limit, only_this_database
from perdure.stable.layout import SQLITE_COUNTER_ADDRESS, SQLITE_COUNTER_BYTES, SQLITE_HEADER
from perdure.stable.sqlite import SqliteHeader

if TYPE_CHECKING:
    from perdure.subnet import Canister

__all__ = ["COMMIT_KIND", "GUEST_SECTION", "CommitError", "open_canister", "patch_canister"]

GUEST_SECTION: Final = "icp:public perdure:sqlite"
"""A custom section by which a module says that its SQLite takes size and change counter from the header again whenever
a transaction begins, and that no transaction of it lasts longer than a message."""

COMMIT_KIND: Final = "sqlite"
_COMMIT: Final = 22
"""``SQLITE_FCNTL_COMMIT_PHASETWO``: pages are written, the journal is done with, locks are still held."""

_ZEROS: Final = bytes(1 << 20)


def open_canister(
    canister: Canister,
    *,
    write: bool | Literal["unsafe"] = False,
    at: int | None = None,
    name: str | None = None,
    limits: Limits | None = None,
) -> apsw.Connection:
    """A connection to the database in a canister's stable memory; see `Canister.sqlite`."""
    if write not in (False, True, "unsafe"):
        raise ValueError(f"write is False, True or 'unsafe', found {write!r}")
    if at is not None:
        if write:
            raise UnsupportedError("what was is not written to: fork it with Subnet.at, and write there")
        past = canister._subnet.at(at)
        if canister.id not in {one.id for one in past.canisters}:
            raise UnsupportedError(f"canister {canister.id} was not there yet at version {at}")
        canister = past.canister(canister.id)
    place = CanisterPlace(canister, name)
    if not write:
        return guarded(DatabaseFile(place, changes=True), limits)
    connection = connect(WritableFile(place, is_unsafe=write == "unsafe"), guarded)
    limit(connection, limits or Limits())
    # A commit of the canister is what makes a transaction durable.
    connection.execute("pragma journal_mode = memory; pragma synchronous = off")
    only_this_database(connection)
    return connection


@final
class CanisterPlace:
    """Where a database lies in a canister's stable memory, whatever state the canister's handle shows.

    Args:
        canister: whose.
        name: label of the database, where there are several.
    """

    def __init__(self, canister: Canister, name: str | None) -> None:
        self.canister = canister
        self.name = name
        self._memory = canister.stable

    def memory(self) -> Memory:
        """The memory that begins with the database."""
        return locate_database(self.canister.stable, self.name).region

    def epoch(self) -> object:
        """Another one after an upgrade, a loaded snapshot, the beginning and the end of an anchor."""
        if not self._memory.is_current:
            self._memory = self.canister.stable
        return self._memory

    def check(self, *, is_unsafe: bool) -> None:
        """Raise where nobody may write now."""
        canister = self.canister
        module = canister.module
        if is_unsafe:
            if not canister._subnet.is_anchored:
                raise UnsupportedError(
                    "write='unsafe' is for within `with subnet.anchor():`, where whatever goes wrong is undone"
                )
        elif module is None or GUEST_SECTION not in module.custom_sections:
            raise UnsupportedError(
                f"the module of canister {canister.id} does not say (custom section {GUEST_SECTION!r}) that it looks "
                "again at a database that others have changed: it may write over what you write. Read it, or write "
                "with write='unsafe' within an anchor"
            )
        if canister.open_call_contexts:
            raise UnsupportedError(
                f"canister {canister.id} is within {canister.open_call_contexts} calls that it has not answered: "
                "let them end first (Subnet.run_until_idle)"
            )


def patch_canister(canister: Canister, data: bytes, *, since: int | None, name: str | None = None) -> None:
    """Put a file of SQLite in the place of the database in a canister's stable memory, as one commit.

    Args:
        canister: whose.
        data: the file, whole.
        since: the change counter that the database had when the file was taken from it; `None`: whatever it has now.
        name: label of the database, where there are several.

    Raises:
        UnsupportedError: the database has changed since, or nobody may write now.
    """
    place = CanisterPlace(canister, name)
    place.check(is_unsafe=False)
    kept_open = SqliteHeader.kept_open(data, place.memory().read(0, SQLITE_HEADER.size))
    if kept_open is not None:
        raise UnsupportedError(
            f"{kept_open}: the canister's SQLite has the database open and would not notice; make the file like the "
            "database (PRAGMA page_size, encoding, auto_vacuum before its first table, or before VACUUM)"
        )
    draft = patched(canister.stable, data, since=since, name=name)
    before = place.memory().read(SQLITE_COUNTER_ADDRESS, SQLITE_COUNTER_BYTES)

    def check() -> None:
        place.check(is_unsafe=False)
        if place.memory().read(SQLITE_COUNTER_ADDRESS, SQLITE_COUNTER_BYTES) != before:
            raise UnsupportedError("the canister has changed the database meanwhile: extract it anew")

    canister.commit_pages("stable", draft.delta(), kind=COMMIT_KIND, check=check)


class CommitError(PerdureError, apsw.IOError):
    """A transaction that could not be committed. Nothing of it stays, and SQLite drops the pages that it has kept.

    Attributes:
        committed: False; True where it was kept and something else failed afterwards, `None` where nobody knows.
    """

    committed: bool | None = False


@final
class WritableFile(DatabaseFile):
    """An open database in a canister's stable memory, for writing.

    Args:
        place: where.
        is_unsafe: whether the guest may be one that does not look again.
    """

    is_writable = True

    def __init__(self, place: CanisterPlace, *, is_unsafe: bool) -> None:
        super().__init__(place, changes=True)
        self._canister_place = place
        self._is_unsafe = is_unsafe
        self._draft: Draft | None = None
        self._window: Window | None = None
        place.check(is_unsafe=is_unsafe)
        header = SqliteHeader.read(self._memory)
        if header.is_wal:
            raise UnsupportedError("the database is in WAL mode, and its log is not here: it is read, not written")

    def _load(self, offset: int, size_bytes: int) -> bytes:
        if self._window is None or size_bytes <= 0:
            return super()._load(offset, size_bytes)
        self._check()
        return self._window.read(offset, size_bytes)

    def xLock(self, level: int) -> None:  # noqa: N802
        """Begin a transaction; begin to write in it."""
        if self._level == apsw.SQLITE_LOCK_NONE:
            self._look()
        if level >= apsw.SQLITE_LOCK_RESERVED and self._draft is None:
            self._check_write()
            self._ahead = b""
            self._draft = Draft(self._canister_place.canister.stable)
            self._window = window_of(self._draft, self._canister_place.name)
        self._level = level

    def _check_write(self) -> None:
        self._check()
        self._canister_place.check(is_unsafe=self._is_unsafe)

    def xUnlock(self, level: int) -> None:  # noqa: N802
        """End it; what was not committed is dropped."""
        if level < apsw.SQLITE_LOCK_RESERVED and self._draft is not None:
            self._draft = self._window = None
            self._look()
        super().xUnlock(level)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        """Write into the draft."""
        if self.touched is not None:
            self.touched[1].add(offset - offset % self.page_bytes)
        self._ahead = b""
        if offset == 0 and self._cookie_moved_by:
            data = SqliteHeader.with_cookie_moved(data, -self._cookie_moved_by)
        self._write(data, offset)
        self._size_bytes = max(self._size_bytes, offset + len(data))

    def xTruncate(self, size_bytes: int) -> None:  # noqa: N802
        """Stable memory never shrinks: what is cut off becomes zero."""
        for at in range(size_bytes, self._size_bytes, len(_ZEROS)):
            self._write(_ZEROS[: self._size_bytes - at], at)
        self._size_bytes = min(self._size_bytes, size_bytes)

    def _write(self, data: bytes, offset: int) -> None:
        assert self._window is not None  # SQLite takes the lock first
        try:
            self._window.write(offset, data)
        except UnsupportedError as error:
            raise apsw.FullError(str(error)) from error
        except InternalError:
            if self._place.epoch() is self._epoch:
                raise
            # The memory went with an anchor, say. Committing refuses; rolling back writes too, and has to succeed.

    def xFileControl(self, op: int, pointer: int) -> bool:  # noqa: N802
        """Commit, where SQLite says that a transaction is complete."""
        if op != _COMMIT or self._draft is None:
            return False
        if not self._draft.is_changed and self._place.epoch() is self._epoch:
            return False
        try:
            self._check_write()
            self._canister_place.canister.commit_pages(
                "stable", self._draft.delta(), kind=COMMIT_KIND, check=self._check_write
            )
        except (apsw.Error, PerdureError) as error:
            committed = error.committed if isinstance(error, StorageError) else False
            told = {True: "committed, but then", False: "not committed", None: "committed or not"}[committed]
            refusal = CommitError(f"{told}: {error}")
            refusal.committed = committed
            raise refusal from error
        self._witness = self._look_at_witness()
        return False
