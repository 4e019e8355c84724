"""How two databases of SQLite differ, row by row: asked of SQLite itself (extra ``sql``: apsw)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, final

from perdure.errors import MalformedError
from perdure.inspection.deadline import NO_HURRY, Deadline
from perdure.inspection.find import Structure
from perdure.inspection.sqlite import (
    Database,
    DatabaseTable,
    about_table,
    attached,
    connect_beside,
    failures,
    quoted,
    told,
)
from perdure.reading_sql import Limits, limit, only_read

__all__ = ["RowChange", "TableDiff", "diff_databases"]


@final
class RowChange(NamedTuple):
    """A row that differs; `before` or `after` is ``None`` where it is not there."""

    key: tuple[Any, ...]
    before: tuple[Any, ...] | None
    after: tuple[Any, ...] | None


@final
class TableDiff(NamedTuple):
    """How a table differs: ``same``, ``changed``, ``added``, ``removed``, ``replaced`` (other columns)."""

    name: str
    status: str
    columns: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    changes: tuple[RowChange, ...] = ()


def diff_databases(old: Structure, new: Structure, deadline: Deadline = NO_HURRY) -> Iterator[TableDiff]:
    """How each table of two databases differs, row by row, by rowid or by the primary key of a table without.

    Raises:
        HostError: it took longer than somebody waits.
        MalformedError: one is damaged, or their texts are encoded differently.
        UnsupportedError: a row is longer than one connection may take.
    """
    try:
        databases = _side_by_side(old, new, deadline)
        olds, news = ({table.name: table for table in database.tables()} for database in databases)
        for name in sorted(olds.keys() | news.keys()):
            before, after = olds.get(name), news.get(name)
            if before is None or after is None:
                yield TableDiff(name, "removed" if before else "added")
            elif (before.columns, before.keys) != (after.columns, after.keys) or not before.keys:
                yield TableDiff(name, "replaced")
            else:
                with about_table(name):
                    rows = deadline.watched(_changes(before, after))
                    changes = tuple(sorted(rows, key=lambda change: repr(change.key)))
                yield TableDiff(name, "changed" if changes else "same", before.columns, before.keys, changes)
    except MalformedError:
        raise
    except failures() as error:
        raise MalformedError(f"the database cannot be read: {told(error)}") from error


def _side_by_side(old: Structure, new: Structure, deadline: Deadline) -> tuple[Database, Database]:
    """Both in one connection."""
    connection = connect_beside([old, new])
    found = [attached(connection, [structure], name)[0] for structure, name in ((old, "before"), (new, "after"))]
    limit(connection, Limits(seconds=deadline.left_seconds))
    only_read(connection)
    return found[0], found[1]


def _changes(before: DatabaseTable, after: DatabaseTable) -> Iterator[RowChange]:
    connection, width = before.database.connection, len(before.keys)
    same = " and ".join(f"a.{quoted(key)} is b.{quoted(key)}" for key in before.keys)
    sides = {side: ", ".join(f"{side}.{quoted(name)}" for name in (*before.keys, *before.columns)) for side in "ab"}
    for side, other, one, two in (("a", "b", before, after), ("b", "a", after, before)):
        alone = (
            f"select {sides[side]} from {one.full_name} {side} "
            f"where not exists (select 1 from {two.full_name} {other} where {same})"
        )
        for row in connection.execute(alone):
            key, rest = row[:width], row[width:]
            yield RowChange(key, rest, None) if side == "a" else RowChange(key, None, rest)
    # `is` follows affinity and collation; what counts here is the value as it is stored.
    differs = " or ".join(
        f"a.{name} collate binary is not b.{name} or typeof(a.{name}) is not typeof(b.{name})"
        for name in map(quoted, before.columns)
    )
    both = f"select {sides['a']}, {sides['b']} from {before.full_name} a join {after.full_name} b on {same}"
    for row in connection.execute(f"{both} where {differs or 'false'}"):
        half = len(row) // 2
        yield RowChange(row[:width], row[width:half], row[half + width :])
