"""SQLite databases in any memory, opened where they lie (extra ``sql``: apsw).

    >>> from perdure.inspection import open_sqlite                  # doctest: +SKIP
    >>> open_sqlite(canister.stable).execute("select name from owner").fetchall()

A connection is one of apsw, read-only and guarded: whose memory it is, nobody here knows. See `reading_sql`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

from perdure.errors import MalformedError, UnsupportedError
from perdure.inspection.find import Inventory, Structure, find_in_memory
from perdure.inspection.reading_sql import Limits, limit, only_read
from perdure.memory import Memory, ReadOnlyMemory
from perdure.stable.region import Region
from perdure.stable.sqlite import SqliteHeader

if TYPE_CHECKING:
    import apsw

    from perdure.inspection.sqlite_file import Connection, DatabaseFile

__all__ = [
    "Database",
    "DatabaseTable",
    "choose_database",
    "databases",
    "failures",
    "find_table",
    "open_database",
    "open_sqlite",
    "quoted",
    "table_names",
    "told",
]

KIND: Final = "sqlite"


def quoted(name: str) -> str:
    """A name in SQL, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def needs_apsw() -> Any:
    """The module apsw.

    Raises:
        UnsupportedError: it is not installed.
    """
    try:
        import apsw
    except ImportError as error:
        raise UnsupportedError("SQL needs `pip install 'perdure[sql]'`") from error
    return apsw


def failures() -> tuple[type[Exception], ...]:
    """What comes out of a connection to a damaged database; texts that are no UTF-8 are only found when they are shown.

    Raises:
        UnsupportedError: apsw is missing.
    """
    return needs_apsw().Error, UnicodeDecodeError, MalformedError


def told(error: Exception) -> str:
    """What SQLite says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def choose_database(inventory: Inventory, name: str | None = None) -> Structure:
    """The database of an inventory: at the beginning of a memory, at another place or in a virtual memory.

    Args:
        inventory: what was found.
        name: label or name of the structure, where there are several.

    Raises:
        UnsupportedError: there is none, or there are several.
    """
    found = [one for one in databases(inventory) if name is None or name in (one.label, one.name)]
    if len(found) != 1:
        labels = ", ".join(structure.label for structure in found)
        where = f"in {name!r}, found " if name else "here, found "
        other = ", ".join(f"{one.kind} ({one.label})" for one in inventory.structures) or "nothing"
        what = f"databases in memories {labels}: name one" if found else f"no SQLite database {where}{other}"
        raise UnsupportedError(what)
    return found[0]


def locate_database(memory: Memory, name: str | None = None) -> Structure:
    """The database in a memory; the one that the memory begins with, if no `name` says otherwise. Raises as above."""
    if name is None:
        with contextlib.suppress(MalformedError):
            SqliteHeader.read(memory)
            return Structure("page:0", KIND, Region.whole(memory))
    return choose_database(find_in_memory(memory), name)


def open_sqlite(memory: Memory, *, name: str | None = None, limits: Limits | None = None) -> Connection:
    """A connection to the database in a memory, for reading.

    A memory that changes (a live canister's) may be read for as long as one likes: each transaction sees one state, or
    ends with `apsw.BusyError` where the canister wrote meanwhile.

    Args:
        memory: live, of a state directory, a snapshot, a dump, or a `BytesMemory`.
        name: of the virtual memory or place, as ``perdure stable ls`` shows it, where there is more than one database;
            by default the one that the memory begins with, or the only one.
        limits: how much statements may take.

    Raises:
        UnsupportedError: there is no database, there are several, or apsw is missing.
    """
    needs_apsw()
    from perdure.inspection.sqlite_file import DatabaseFile

    place = _Found(memory, name, locate_database(memory, name).region)
    return guarded(DatabaseFile(place, changes=may_change(memory)), limits)


def may_change(memory: Memory) -> bool:
    """Whether somebody may write to a memory while it is read."""
    while isinstance(memory, Region):
        memory = memory.below
    return not isinstance(memory, ReadOnlyMemory)


@final
class _Found:
    """Where a database was found: a virtual memory that has grown has to be found anew."""

    def __init__(self, memory: Memory, name: str | None, first: Memory) -> None:
        self._below, self._name = memory, name
        self._first: Memory | None = first

    def memory(self) -> Memory:
        first, self._first = self._first, None
        return locate_database(self._below, self._name).region if first is None else first

    def epoch(self) -> object:
        return None


def guarded(file: DatabaseFile, limits: Limits | None = None) -> Connection:
    """A connection to a file that reads, within limits.

    Raises:
        MalformedError: SQLite does not take it for a database.
    """
    needs_apsw()
    from perdure.inspection.sqlite_file import connect

    try:
        connection = connect(file, guarded)
        limit(connection, limits or Limits())
    except failures() as error:
        raise MalformedError(f"SQLite cannot open it: {told(error)}") from error
    only_read(connection)
    return connection


# --- databases of an inventory


@final
@dataclass(frozen=True)
class Database:
    """A database that was found, and a connection to it.

    Attributes:
        structure: where.
        connection: for reading; others may be attached to it.
        schema: what this database is called in it: ``main``, or the name of its memory.
        file: what counts pages.
    """

    structure: Structure
    connection: apsw.Connection
    schema: str
    file: DatabaseFile

    def tables(self) -> list[DatabaseTable]:
        """Its tables with rows of their own, by name; none where the schema is damaged."""
        listed = self.connection.execute(
            "select name, type, wr from pragma_table_list where schema = ?", (self.schema,)
        )
        names = sorted(
            (name, bool(without_rowid)) for name, kind, without_rowid in listed if kind in ("table", "shadow")
        )
        return [self._table(name, without_rowid) for name, without_rowid in names if not name.startswith("sqlite_")]

    def _table(self, name: str, without_rowid: bool) -> DatabaseTable:
        sql = "select name, pk from pragma_table_xinfo(?, ?) where hidden in (0, 2, 3) order by cid"
        described = list(self.connection.execute(sql, (name, self.schema)))
        columns = tuple(str(column) for column, _ in described)
        keys = tuple(column for place, column in sorted((pk, column) for column, pk in described if pk))
        taken = {column.lower() for column in columns}
        if not without_rowid:
            rowid = next((one for one in ("rowid", "_rowid_", "oid") if one not in taken), "")
            return DatabaseTable(self, name, columns, (rowid,) if rowid else keys)
        return DatabaseTable(self, name, columns, keys)


@final
@dataclass(frozen=True)
class DatabaseTable:
    """A table of a database.

    Attributes:
        database: of which it is.
        name: as its schema says.
        columns: those that can be read.
        keys: that name a row: ``rowid``, or the primary key of a table without; none where neither can be asked for.
    """

    database: Database
    name: str
    columns: tuple[str, ...]
    keys: tuple[str, ...]

    @property
    def full_name(self) -> str:
        """With its database, quoted."""
        return f"{quoted(self.database.schema)}.{quoted(self.name)}"

    def count(self) -> int:
        """How many rows there are; SQLite has to look."""
        (count,) = next(self.database.connection.execute(f"select count(*) from {self.full_name}"))
        return int(count)

    def rows(self, low: object = None, high: object = None, *, reverse: bool = False) -> Iterator[tuple[Any, ...]]:
        """Rows in the order of the first key column, from `low` to `high`, both within."""
        key = quoted(self.keys[0]) if self.keys else ""
        if not key and (low is not None or high is not None or reverse):
            raise UnsupportedError(f"rows of {self.name} cannot be told apart, as all names of its rowid are taken")
        ends = {sign: end for sign, end in ((">=", low), ("<=", high)) if end is not None}
        conditions = [f"{key} {sign} ?" for sign in ends]
        where = f" where {' and '.join(conditions)}" if conditions else ""
        order = f" order by {key}{' desc' if reverse else ''}" if key else ""
        columns = ", ".join(map(quoted, self.columns))
        sql = f"select {columns} from {self.full_name}{where}{order}"
        return iter(self.database.connection.execute(sql, tuple(ends.values())))


def databases(inventory: Inventory) -> list[Structure]:
    """The structures that are databases."""
    return [structure for structure in inventory.structures if structure.kind == KIND]


def open_database(structure: Structure, limits: Limits | None = None) -> Database:
    """A database of an inventory, alone.

    Raises:
        MalformedError: SQLite does not take it for one.
        UnsupportedError: apsw is missing.
    """
    needs_apsw()
    from perdure.inspection.sqlite_file import DatabaseFile, Fixed

    file = DatabaseFile(Fixed(structure.region), changes=may_change(structure.region))
    return Database(structure, guarded(file, limits), "main", file)


def find_table(inventory: Inventory, name: str) -> DatabaseTable | None:
    """The table of a database that `name` means, with or without its memory before it (``120.item``).

    Raises:
        UnsupportedError: databases have several of that name, or `name` is that of a database.
    """
    found = []
    for structure in databases(inventory):
        if name in (structure.name, structure.label, schema_name(structure)):
            listed = ", ".join(table.name for table in open_database(structure).tables()) or "none"
            raise UnsupportedError(
                f"memory {structure.label} is an SQLite database: name a table of it, found {listed}"
            )
        names = {f"{one}." for one in ("", structure.name, structure.label, schema_name(structure)) if one is not None}
        wanted = {name.removeprefix(one) for one in names if name.startswith(one)} | {name}
        found += [table for table in open_database(structure).tables() if table.name in wanted]
    if len(found) > 1:
        listed = ", ".join(f"{table.database.structure.label}.{table.name}" for table in found)
        raise UnsupportedError(f"several tables are called {name!r}: name one of {listed}")
    return found[0] if found else None


def schema_name(structure: Structure) -> str:
    """What a database is called beside others."""
    return structure.name or structure.table_name


def table_names(structure: Structure) -> tuple[str, ...]:
    """The tables, views and virtual tables of a database; none where it is damaged.

    Raises:
        UnsupportedError: apsw is missing.
    """
    sql = "select name from sqlite_schema where type in ('table', 'view') and name not like 'sqlite\\_%' escape '\\'"
    try:
        return tuple(str(name) for (name,) in open_database(structure).connection.execute(sql))
    except failures():
        return ()


_ENCODINGS: Final = {2: "UTF-16le", 3: "UTF-16be"}


def connect_beside(structures: Sequence[Structure]) -> apsw.Connection:
    """A connection to nothing, to which databases can be attached: that asks for texts in the encoding of theirs."""
    library = needs_apsw()
    from perdure.inspection.sqlite_file import VFS_NAME

    connection: apsw.Connection = library.Connection(":memory:", vfs=VFS_NAME)
    encoding = SqliteHeader.read(structures[0].region).encoding if structures else 0
    connection.execute(f"pragma encoding = '{_ENCODINGS.get(encoding, 'UTF-8')}'")
    return connection


def attached(connection: apsw.Connection, structures: Iterable[Structure], called: str | None = None) -> list[Database]:
    """Attach databases to a connection that nothing limits yet, each as it is `called` or by the name of its memory.

    Raises:
        MalformedError: SQLite takes one for no database, or it has texts in another encoding than `connection`.
    """
    needs_apsw()
    from perdure.inspection.sqlite_file import DatabaseFile, Fixed, name_of

    found = []
    for structure in structures:
        file = DatabaseFile(Fixed(structure.region), changes=may_change(structure.region))
        name = called or schema_name(structure)
        try:
            connection.execute(f"attach ? as {quoted(name)}", (name_of(file),))
        except failures() as error:
            raise MalformedError(f"memory {structure.label}: {told(error)}") from error
        found.append(Database(structure, connection, name, file))
    return found
