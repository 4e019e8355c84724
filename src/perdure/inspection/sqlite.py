"""SQLite databases in any memory, opened where they lie (extra ``sql``: apsw).

    >>> from perdure.inspection import open_sqlite                  # doctest: +SKIP
    >>> open_sqlite(canister.stable).execute("select name from owner").fetchall()

A connection is one of apsw, read-only and guarded: whose memory it is, nobody here knows. See `reading_sql`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

from perdure.errors import MalformedError, UnsupportedError
from perdure.inspection.find import Inventory, Structure, find_in_memory
from perdure.inspection.looking import Looked
from perdure.memory import Memory, ReadOnlyMemory, check_memory
from perdure.reading_sql import Limits, limit, only_read, quoted
from perdure.stable.region import Region
from perdure.stable.sqlite import SqliteHeader

if TYPE_CHECKING:
    import apsw

    from perdure.inspection.sqlite_file import Connection, DatabaseFile

__all__ = [
    "KINDS",
    "Database",
    "DatabaseTable",
    "about_table",
    "choose_database",
    "databases",
    "failures",
    "find_table",
    "no_text",
    "open_database",
    "open_sqlite",
    "quoted",
    "table_kinds",
    "told",
]

KIND: Final = "sqlite"
KINDS: Final = ("table", "view", "virtual", "shadow")
"""What SQLite tells apart: shadow tables are those in which a virtual one keeps what it has."""


def needs_apsw() -> Any:
    """The module apsw.

    Raises:
        UnsupportedError: it is not installed.
    """
    try:
        import apsw
    except ImportError as error:
        raise UnsupportedError("SQL needs `pip install 'perdure[sql]'`").coded("extra-missing") from error
    return apsw


def failures() -> tuple[type[Exception], ...]:
    """What comes out of a connection to a damaged database; texts that are no UTF-8 are only found when they are shown.

    Raises:
        UnsupportedError: apsw is missing.
    """
    return needs_apsw().Error, UnicodeDecodeError, MalformedError


def told(error: object) -> str:
    """What SQLite says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def about_table(name: str, connection: apsw.Connection | None = None) -> Iterator[None]:
    """Say of which table it is that a row cannot be read; `connection` has limits that are not the common ones."""
    library = needs_apsw()
    try:
        yield
    except library.TooBigError as error:
        kind = library.SQLITE_LIMIT_LENGTH
        most = (Limits().length_bytes if connection is None else connection.limit(kind)) >> 20
        raise UnsupportedError(
            f"table {name}: a row of more than {most} MiB; `extract` gives the whole file"
        ) from error
    except UnicodeDecodeError as error:
        raise MalformedError(f"table {name}: {no_text(error)}") from error
    except library.CorruptError as error:
        raise MalformedError(f"table {name}: {told(error)}") from error


def no_text(error: UnicodeDecodeError) -> str:
    """What to say of a text that is none."""
    return f"a text that is no UTF-8 ({error.object[:16]!r}): ask for cast(column as blob)"


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
    check_memory(memory)
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
        MalformedError: SQLite does not take it for a database.
        TypeError: `memory` is none.
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

    def tables(
        self, kinds: Container[str] = ("table", "shadow"), called: Container[str] | None = None
    ) -> list[DatabaseTable]:
        """Its tables of some `KINDS`, by name, or those `called` so; none of a damaged schema.

        By default those with rows of their own. A view that names what is not there is a `apsw.SQLError`.
        """
        # `temp.`, here and below: the schema may have tables that are called like what SQLite itself offers.
        listed = self.connection.execute(
            "select name, type, wr from temp.pragma_table_list where schema = ?", (self.schema,)
        )
        found = sorted(row for row in listed if row[1] in kinds and not row[0].startswith("sqlite_"))
        return [self._table(*row) for row in found if called is None or row[0] in called]

    def _table(self, name: str, kind: str, without_rowid: int) -> DatabaseTable:
        sql = "select name, pk from temp.pragma_table_xinfo(?, ?) where hidden in (0, 2, 3) order by cid"
        described = list(self.connection.execute(sql, (name, self.schema)))
        columns = tuple(str(column) for column, _ in described)
        keys = tuple(column for place, column in sorted((pk, column) for column, pk in described if pk))
        taken = {column.lower() for column in columns}
        if kind in ("table", "shadow") and not without_rowid:
            rowid = next((one for one in ("rowid", "_rowid_", "oid") if one not in taken), "")
            return DatabaseTable(self, name, kind, columns, (rowid,) if rowid else keys, is_numbered=bool(rowid))
        return DatabaseTable(self, name, kind, columns, keys)


@final
@dataclass(frozen=True)
class DatabaseTable(Looked):
    """A table of a database.

    Attributes:
        database: of which it is.
        name: as its schema says.
        kind: one of `KINDS`.
        columns: those that can be read.
        keys: that name a row: ``rowid``, or the primary key of a table without; none where neither can be asked for.
        is_numbered: whether the key is the rowid, an integer.
    """

    database: Database
    name: str
    kind: str
    columns: tuple[str, ...]
    keys: tuple[str, ...]
    is_numbered: bool = False

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
            why = {"view": "it is a view", "virtual": "it is a virtual table"}.get(self.kind)
            raise UnsupportedError(f"{self.name} has no key to go by: {why or 'all names of its rowid are taken'}")
        ends = {sign: end for sign, end in ((">=", low), ("<=", high)) if end is not None}
        conditions = [f"{key} {sign} ?" for sign in ends]
        where = f" where {' and '.join(conditions)}" if conditions else ""
        order = f" order by {key}{' desc' if reverse else ''}" if key else ""
        columns = ", ".join(map(quoted, self.columns))
        sql = f"select {columns} from {self.full_name}{where}{order}"
        return self._read(sql, tuple(ends.values()))

    def _tuples(self) -> Iterator[tuple[Any, ...]]:
        return self.rows()

    def _read(self, sql: str, values: tuple[object, ...]) -> Iterator[tuple[Any, ...]]:
        with about_table(self.name, self.database.connection):
            yield from self.database.connection.execute(sql, values)


def page_owners(structure: Structure, most_pages: int) -> Iterator[tuple[int, int, str, str, int]]:
    """Runs of pages of a database: the first, how many, whose they are, its kind, and bytes of a page.

    Nothing of one that has more than `most_pages`, is damaged, or while apsw is missing.
    """
    errors = _sqlite_errors()
    try:
        connection = open_database(structure).connection
        kinds = dict(connection.execute("select name, type from sqlite_schema"))
        ((page_bytes,),) = connection.execute("pragma page_size")
        ((pages,),) = connection.execute("pragma page_count")
        if pages > most_pages:
            return
        found = list(connection.execute("select pageno, name from temp.dbstat order by pageno"))
    except errors:
        return
    start = 0
    for place, (page, name) in enumerate(found):
        following = found[place + 1] if place + 1 < len(found) else (0, "")
        if following != (page + 1, name):
            kind = str(kinds.get(name, "table" if name == "sqlite_schema" else ""))
            yield found[start][0], place + 1 - start, str(name), kind, page_bytes
            start = place + 1


def _sqlite_errors() -> tuple[type[Exception], ...]:
    try:
        return UnsupportedError, *failures()
    except UnsupportedError:
        return (UnsupportedError,)


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
        found += open_database(structure).tables(KINDS, wanted)
    if len(found) > 1:
        listed = ", ".join(f"{table.database.structure.label}.{table.name}" for table in found)
        raise UnsupportedError(f"several tables are called {name!r}: name one of {listed}")
    return found[0] if found else None


def schema_name(structure: Structure) -> str:
    """What a database is called beside others."""
    return structure.name or structure.table_name


def table_kinds(structure: Structure) -> dict[str, str]:
    """The kind of each table of a database, as they were made one after another; none where it is damaged.

    Raises:
        UnsupportedError: apsw is missing.
    """
    sql = "select name from sqlite_schema where type in ('table', 'view')"
    try:
        database = open_database(structure)
        listed = database.connection.execute("select name, type from temp.pragma_table_list where schema = 'main'")
        kinds = {name: str(kind) for name, kind in listed if not name.startswith("sqlite_")}
        return {name: kinds[name] for (name,) in database.connection.execute(sql) if name in kinds}
    except failures():
        return {}


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
            raise MalformedError(f"memory {structure.label} cannot be read: {told(error)}") from error
        found.append(Database(structure, connection, name, file))
    return found
