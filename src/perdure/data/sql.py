"""SQL over tables, read and written: virtual tables of SQLite, whose savepoints are those of the store.

A statement is planned from the trees there are: equal values of the first columns of a key or index, and a range of the
next. Where all columns that it uses stand in the keys of an index, no row is fetched. What is handed down to a tree
leaves out nothing; SQLite looks at every row again.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from reprlib import repr as brief
from typing import Any, Final, Protocol, final

import apsw

from perdure.data.catalogue import Model, name_in_sql
from perdure.data.parts import Part
from perdure.data.rows import Cells, from_sql
from perdure.data.tree import Journal
from perdure.errors import MalformedError, UnsupportedError
from perdure.reading_sql import Limits, limit, only_this_database, quoted
from perdure.values.format import Value
from perdure.values.packed import Anything, UriFormat, pack, prefix_end, unpack
from perdure.values.show import to_sql

__all__ = ["SqlTable", "connect"]

_EQ, _GT, _LE, _LT, _GE = 2, 4, 8, 16, 32
_OPERATORS: Final = (_EQ, _GT, _LE, _LT, _GE)
_LOWER: Final = (_GT, _GE)
_MOST_BITS_AS_INTEGER: Final = 64
_COVERING, _DESCENDING, _FIRST_PART = 1, 2, 4
_COLUMNS_IN_MASK: Final = 63

# Temporary ones too: they would live as long as the connection, which forks, upgrades and restarts do not have.
_DECLARED_OTHERWISE: Final = frozenset(
    f"SQLITE_{verb}_{temporary}{what}"
    for verb in ("CREATE", "DROP")
    for temporary in ("", "TEMP_")
    for what in ("TABLE", "INDEX", "VIEW", "TRIGGER", "VTABLE")
) | {"SQLITE_ALTER_TABLE", "SQLITE_ATTACH"}


class SqlTable(Protocol):
    """What SQL has to know of a table."""

    model: Model

    @property
    def cells(self) -> Sequence[Cells]:
        """How values of each column go in and out."""
        ...

    @property
    def parts(self) -> Sequence[Part]:
        """The first tree, and the indexes."""
        ...

    def __len__(self) -> int: ...

    def plain_row(self, key: bytes) -> list[Value] | None:
        """The columns of the row of a packed key."""
        ...

    def plain_range(
        self,
        low: bytes | None = None,
        high: bytes | None = None,
        *,
        reverse: bool = False,
        used: Collection[int] | None = None,
    ) -> Iterator[list[Value]]:
        """The columns of the rows between packed keys, those that are `used` at least."""
        ...

    def keys_by(self, index: Part, low: bytes | None, high: bytes | None, *, reverse: bool = False) -> Iterator[bytes]:
        """Packed keys of the rows between two keys of an index."""
        ...

    def put_plain(self, row: list[Value], *, is_new: bool = False) -> None:
        """Set the row of its key."""
        ...

    def delete_packed(self, key: bytes) -> bool:
        """Remove the row of a packed key."""
        ...

    def conflicts(self, row: list[Value]) -> list[bytes]:
        """Packed keys of other rows that have its unique values."""
        ...


def connect(journal: Journal, tables: Mapping[str, SqlTable], limits: Limits | None = None) -> apsw.Connection:
    """A database whose tables are these, within the transaction of `journal`.

    Raises:
        UnsupportedError: names of tables differ in case alone.
    """
    names: dict[str, str] = {}
    for name in tables:
        if (other := names.setdefault(name_in_sql(name), name)) != name:
            raise UnsupportedError(
                f"tables {other!r} and {name!r} are one name to SQL, which knows no case: rename one"
            )
    connection = apsw.Connection(":memory:")
    module: Any = _Module(_Session(journal), tables)
    connection.create_module("perdure", module, use_bestindex_object=True, iVersion=2)  # with savepoints
    for name in tables:
        connection.execute(f"create virtual table {quoted(name)} using perdure")
    limit(connection, limits or Limits())
    only_this_database(connection)
    inner: Any = connection.authorizer

    def authorize(code: int, *rest: Any) -> int:
        what = apsw.mapping_authorizer_function[code]
        if what in _DECLARED_OTHERWISE:
            raise apsw.AuthError(f"tables are declared in the canister's class, not by SQL ({brief(rest[0])})")
        return int(inner(code, *rest))

    connection.authorizer = authorize
    return connection


@final
class _Session:
    """The savepoints of SQLite, one for all its tables, as savepoints of the journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._open: list[tuple[int, int]] = []  # SQLite's level, the journal's number; the transaction is level -1
        self._generation = journal.generation

    def _look(self) -> None:
        """A connection may outlive a message that trapped: what it has open then is gone."""
        if self._generation != self._journal.generation:
            self._generation = self._journal.generation
            self._open.clear()

    def open(self, level: int) -> None:
        self._look()
        if not any(one >= level for one, _ in self._open):
            self._open.append((level, self._journal.savepoint()))

    def part(self) -> AbstractContextManager[None]:
        """What is written within goes together."""
        return self._journal.transaction()

    def close(self, level: int) -> None:
        """Keep what was written since a level began."""
        self._look()
        number = self._drop(level)
        if number is not None:
            self._journal.release(number)

    def undo(self, level: int) -> None:
        """Take back what was written since a level began; it stays open, as SQLite has it."""
        self._look()
        number = next((number for one, number in self._open if one >= level), None)
        if number is not None:
            self._journal.roll_back_to(number)
            self._open = [(one, at) for one, at in self._open if at <= number]

    def _drop(self, level: int) -> int | None:
        numbers = [number for one, number in self._open if one >= level]
        self._open = [(one, number) for one, number in self._open if one < level]
        return min(numbers, default=None)


_TRANSACTION: Final = -1


@final
class _Module:
    def __init__(self, session: _Session, tables: Mapping[str, SqlTable]) -> None:
        self._session = session
        self._tables = tables

    def Create(self, connection: apsw.Connection, _module: str, _database: str, name: str, *_: object) -> Any:  # noqa: N802
        connection.vtab_config(apsw.SQLITE_VTAB_CONSTRAINT_SUPPORT, 1)  # so that REPLACE is left to the table
        table = _VirtualTable(connection, self._session, self._tables[name])
        return table.declaration(), table

    Connect = Create


_AFFINITIES: Final = {"bool": "integer", "text": "text", "principal": "text", "float": "real", "bytes": "blob"}


@final
class _VirtualTable:
    """One table, as SQLite sees it."""

    def __init__(self, connection: apsw.Connection, session: _Session, table: SqlTable) -> None:
        # Weak: the connection has the module, and the module its tables.
        self._connection = weakref.ref(connection)
        self.session = session
        self.table = table
        columns = table.model.columns
        # The columns of SQL, by their places in the model.
        self.places = [index for index, one in enumerate(columns) if one.state != "unused"]
        self.cells = [table.cells[index] for index in self.places]
        self.key = [self.places.index(one) for one in table.parts[0].key]
        self.paths = [[self.places.index(one) for one in part.key] for part in table.parts]

    def declaration(self) -> str:
        columns = ", ".join(f"{quoted(one.column.name)} {_affinity(one)}".rstrip() for one in self.cells)
        key = ", ".join(quoted(self.cells[one].column.name) for one in self.key)
        return f"create table x({columns}, primary key({key})) without rowid"

    # -- planning

    def BestIndexObject(self, info: Any) -> bool:  # noqa: N802
        usable: dict[tuple[int, int], int] = {}
        for at in range(info.nConstraint):
            operator = info.get_aConstraint_op(at)
            is_usable = operator in _OPERATORS and info.get_aConstraint_usable(at)
            if is_usable and info.get_aConstraint_collation(at) == "BINARY":
                usable.setdefault((info.get_aConstraint_iColumn(at), operator), at)
        count = len(self.table) + 1
        used = self._used(info)
        plans = [self._plan(number, usable, count, used) for number in range(len(self.paths))]
        cost, rows, number, chosen, is_covering, equals = min(plans, key=lambda plan: plan[:3])
        for at, (_, _, constraint) in enumerate(chosen, 1):
            info.set_aConstraintUsage_argvIndex(constraint, at)
        order = self._order(info, number, equals)
        flags = (_COVERING if is_covering else 0) | (_DESCENDING if order else 0)
        info.orderByConsumed = order is not None
        info.idxNum = flags | number * _FIRST_PART
        conditions = ",".join(f"{column}:{operator}" for column, operator, _ in chosen)
        info.idxStr = conditions if used is None else f"{conditions};{','.join(map(str, sorted(used)))}"
        info.estimatedRows, info.estimatedCost = rows, cost
        return True

    def _used(self, info: Any) -> set[int] | None:
        """The columns that the statement uses; `None`: all."""
        used = info.colUsed
        if isinstance(used, int):
            if used >> _COLUMNS_IN_MASK & 1:
                return None
            return {at for at in range(_COLUMNS_IN_MASK) if used >> at & 1}
        return None if _COLUMNS_IN_MASK in used else set(used)

    def _plan(self, number: int, usable: Mapping[tuple[int, int], int], count: int, used: set[int] | None) -> Any:
        path = self.paths[number]
        chosen: list[tuple[int, int, int]] = []
        equals = 0
        for column in path:
            if not _is_narrowing(self.cells[column], _EQ):
                break
            if (column, _EQ) in usable:
                chosen.append((column, _EQ, usable[column, _EQ]))
                equals += 1
                continue
            for pair in ((_GT, _GE), (_LT, _LE)):
                found = next((op for op in pair if (column, op) in usable), None)
                if found is not None and _is_narrowing(self.cells[column], found):
                    chosen.append((column, found, usable[column, found]))
            break
        is_covering = number > 0 and used is not None and used <= set(path)
        ranges = len(chosen) - equals
        is_single = (
            equals == len(path)
            if number == 0
            else self.table.parts[number].is_unique and equals >= self.table.parts[number].width
        )
        rows = 1 if is_single else max(1, count >> 3 * equals + 2 * ranges)
        each = 1.0 if number == 0 or is_covering else 3.0
        return rows * each + 4, rows, number, chosen, is_covering, equals

    def _order(self, info: Any, number: int, equals: int) -> bool | None:
        """Whether the tree gives the rows in the order asked for; descending, ascending, or `None`: it does not."""
        wanted = [(info.get_aOrderBy_iColumn(at), info.get_aOrderBy_desc(at)) for at in range(info.nOrderBy)]
        if not wanted or len({is_descending for _, is_descending in wanted}) > 1:
            return None
        path = self.paths[number]
        columns = [column for column, _ in wanted]
        fits = columns in (path[: len(columns)], path[equals : equals + len(columns)])
        if not fits or not all(_is_narrowing(self.cells[column], _GT) for column in columns):
            return None
        return bool(wanted[0][1])

    # -- rows

    def Open(self) -> _Cursor:  # noqa: N802
        return _Cursor(self)

    def Disconnect(self) -> None:  # noqa: N802
        pass

    Destroy = Disconnect

    def _plain(self, fields: Sequence[Value], *, is_new: bool = False) -> list[Value]:
        row: list[Value] = [None] * len(self.table.model.columns)
        for place, cell, value in zip(self.places, self.cells, fields, strict=False):
            column = cell.column
            if value is None and is_new and not column.is_optional and column.default is not None:
                row[place] = column.default  # SQLite says null of what an insert leaves out
                continue
            try:
                row[place] = cell.to_plain(None) if value is None else from_sql(cell, value)
            except (ValueError, MalformedError) as error:
                raise apsw.ConstraintError(f"{self.table.model.name}: {error}") from error
        return row

    def UpdateInsertRow(self, _rowid: object, fields: Sequence[Value]) -> int:  # noqa: N802
        row = self._plain(fields, is_new=True)
        if not self._is_left_out(row, None):
            self._put(row, is_new=True)
        return 0

    def UpdateDeleteRow(self, key: Value) -> None:  # noqa: N802
        self.table.delete_packed(self._packed(key))

    def UpdateChangeRow(self, old: Value, _new: Value, fields: Sequence[Value]) -> None:  # noqa: N802
        row = self._plain(fields)
        before, after = self._packed(old), pack([row[one] for one in self.table.parts[0].key])
        if self._is_left_out(row, before):
            return
        if before == after:
            self._put(row, is_new=False)
            return
        with self.session.part():
            # First, as its own unique values are no conflict.
            self.table.delete_packed(before)
            self._put(row, is_new=True)

    def _does_on_conflict(self, what: int) -> bool:
        """Whether the statement says ``or replace``, ``or ignore``."""
        connection = self._connection()
        return connection is not None and connection.vtab_on_conflict() == what

    def _is_left_out(self, row: list[Value], before: bytes | None) -> bool:
        """Whether another row than the one of the key `before` is in the way, and the statement says ``or ignore``."""
        if not self._does_on_conflict(apsw.SQLITE_IGNORE):
            return False
        after = pack([row[one] for one in self.table.parts[0].key])
        others = set(self.table.conflicts(row))
        if self.table.plain_row(after) is not None:
            others.add(after)
        return bool(others - {before})

    def _put(self, row: list[Value], *, is_new: bool) -> None:
        replaces = self._does_on_conflict(apsw.SQLITE_REPLACE)
        try:
            with self.session.part():
                if replaces:
                    for key in self.table.conflicts(row):
                        self.table.delete_packed(key)
                self.table.put_plain(row, is_new=is_new and not replaces)
        except ValueError as error:
            raise apsw.ConstraintError(str(error)) from error

    def _packed(self, key: Value) -> bytes:
        values = key if isinstance(key, tuple) else (key,)
        return pack([from_sql(self.cells[one], value) for one, value in zip(self.key, values, strict=True)])

    # -- transactions

    def Begin(self) -> None:  # noqa: N802
        self.session.open(_TRANSACTION)

    def Sync(self) -> None:  # noqa: N802
        pass

    def Commit(self) -> None:  # noqa: N802
        self.session.close(_TRANSACTION)

    def Rollback(self) -> None:  # noqa: N802
        self.session.undo(_TRANSACTION)
        self.session.close(_TRANSACTION)

    def Savepoint(self, level: int) -> None:  # noqa: N802
        self.session.open(level)

    def Release(self, level: int) -> None:  # noqa: N802
        self.session.close(level)

    def RollbackTo(self, level: int) -> None:  # noqa: N802
        self.session.undo(level)


def _affinity(cell: Cells) -> str:
    kind = cell.format.kind
    if kind.name == "integer":  # wider ones are text past 63 bits, which must not become numbers
        return (
            "integer"
            if 0 < kind.bits < _MOST_BITS_AS_INTEGER or (kind.bits == _MOST_BITS_AS_INTEGER and kind.is_signed)
            else ""
        )
    return _AFFINITIES.get(kind.name, "")


def _is_narrowing(cell: Cells, operator: int) -> bool:
    """Whether the order, or the equality, of packed values is SQL's."""
    kind = cell.format.kind
    if isinstance(cell.format, Anything | UriFormat) or not (cell.format.is_part or kind.name == "principal"):
        return False
    if kind.name == "integer" and (not kind.bits or (kind.bits > _MOST_BITS_AS_INTEGER and kind.is_signed)):
        return operator == _EQ
    return operator == _EQ or kind.name != "principal"


class _CannotNarrowError(Exception):
    """SQLite might see a match where packed values do not show one."""


_SQL_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    "integer": int,
    "float": (int, float),
    "text": str,
    "bool": int,
    "bytes": bytes,
    "principal": str,
}


def _bound(cell: Cells, value: Value) -> Value:
    """A condition's value, as it is packed.

    Raises:
        _CannotNarrowError: it is of another type, or out of the column's range.
    """
    kind = cell.format.kind.name
    if isinstance(value, float) and kind == "integer" and value.is_integer():
        value = int(value)
    if not isinstance(value, _SQL_TYPES[kind]):
        raise _CannotNarrowError
    try:
        return from_sql(cell, value)
    except (ValueError, MalformedError) as error:
        raise _CannotNarrowError from error


@final
class _Cursor:
    """A scan."""

    def __init__(self, owner: _VirtualTable) -> None:
        self._owner = owner
        self._rows: Iterator[Sequence[Value] | Mapping[int, Value]] = iter(())
        self._row: Sequence[Value] | Mapping[int, Value] | None = None

    def Filter(self, number: int, text: str | None, arguments: Sequence[Value]) -> None:  # noqa: N802
        owner = self._owner
        part = owner.table.parts[number // _FIRST_PART]
        conditions, has_used, columns = (text or "").partition(";")
        chosen = [tuple(map(int, one.split(":"))) for one in conditions.split(",") if one]
        used = {owner.places[int(one)] for one in columns.split(",") if one} if has_used else None
        low, high = self._bounds(chosen, arguments)
        reverse = bool(number & _DESCENDING)
        if part is owner.table.parts[0]:
            self._rows = owner.table.plain_range(low, high, reverse=reverse, used=used)
        elif number & _COVERING:
            self._rows = self._covered(part, low, high, reverse)
        else:
            self._rows = self._fetched(part, low, high, reverse)
        self.Next()

    def _bounds(
        self, chosen: Sequence[tuple[int, ...]], arguments: Sequence[Value]
    ) -> tuple[bytes | None, bytes | None]:
        prefix, low, high = b"", None, None
        cells = self._owner.cells
        for (column, operator), value in zip(chosen, arguments, strict=True):
            try:
                packed = prefix + pack([_bound(cells[column], value)])
            except _CannotNarrowError:
                break
            if operator == _EQ:
                prefix = packed
            elif operator in _LOWER:
                low = packed if operator == _GE else prefix_end(packed)
            else:
                high = packed if operator == _LT else prefix_end(packed)
        return low or prefix or None, high or prefix_end(prefix)

    def _covered(
        self, part: Part, low: bytes | None, high: bytes | None, reverse: bool
    ) -> Iterator[Mapping[int, Value]]:
        for key, _ in part.tree.range(low, high, reverse=reverse):
            yield dict(zip(part.key, unpack(key), strict=True))

    def _fetched(self, part: Part, low: bytes | None, high: bytes | None, reverse: bool) -> Iterator[Sequence[Value]]:
        table = self._owner.table
        for key in table.keys_by(part, low, high, reverse=reverse):
            row = table.plain_row(key)
            if row is None:
                raise MalformedError(f"index {part.name} has a row that the table has not: `reindex()` mends it")
            yield row

    def Next(self) -> None:  # noqa: N802
        self._row = next(self._rows, None)

    def Eof(self) -> bool:  # noqa: N802
        return self._row is None

    def Column(self, number: int) -> Value:  # noqa: N802
        assert self._row is not None
        if number < 0:
            return None
        owner = self._owner
        return to_sql(owner.cells[number].from_plain(self._row[owner.places[number]]))

    def Rowid(self) -> int:  # noqa: N802
        return 0

    def Close(self) -> None:  # noqa: N802
        self._rows = iter(())
