"""Structures as SQL tables, through the virtual tables of SQLite (extra ``sql``: apsw).

Rows are read when SQLite asks for them, and columns decoded only where a query uses them. Conditions on the key become
lookups and ranges in the structure's own order, and ``ORDER BY`` its key costs nothing; SQLite checks every row again,
so that what is handed down needs to leave out nothing, not to be exact.

Each table has two more columns that ``select *`` leaves out: ``_key`` and ``_value``, the bytes themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, final

from perdure.errors import MalformedError, PerdureError
from perdure.inspection.find import KINDS, Inventory, Structure
from perdure.inspection.model_views import row_views
from perdure.inspection.rows import Bound, Entry, Rows, open_table
from perdure.inspection.sqlite import Database, attached, connect_beside, databases, open_database, quoted
from perdure.inspection.variables import VariableTable
from perdure.reading_sql import Limits, limit, only_read
from perdure.values.format import Format, Value
from perdure.values.schema import Schema
from perdure.values.show import to_sql

if TYPE_CHECKING:
    import apsw

__all__ = ["connect", "connect_all", "connect_tables", "open_tables", "quoted"]

_EQ, _GT, _LE, _LT, _GE = 2, 4, 8, 16, 32
"""SQLite's constraint operators, as in ``sqlite3.h``."""
_OPERATORS: Final = {_EQ: "=", _GT: ">", _LE: "<=", _LT: "<", _GE: ">="}
_SHOWN_AS: Final[dict[str, type]] = {"bytes": bytes, "text": str, "principal": str}
_WITH_VALUES: Final = 1
_DESCENDING: Final = 2


def open_tables(inventory: Inventory, schema: Schema | None = None) -> tuple[list[Rows], list[str]]:
    """A table for each structure that can be read, and for each other the reason why not."""
    tables: list[Rows] = []
    reasons: list[str] = []
    for structure in inventory.structures:
        if structure.kind not in KINDS:
            continue
        try:
            tables.append(open_table(structure, schema))
        except (PerdureError, ValueError) as error:
            reasons.append(str(error))
    return tables, reasons


def connect(inventory: Inventory, schema: Schema | None = None, *, limits: Limits | None = None) -> apsw.Connection:
    """A connection to a database whose tables are the structures, with the databases of SQLite that were found.

    Motoko's stable variables are tables too, and rows of data models whose columns are apart are views.
    """
    tables, variables = open_tables(inventory, schema)[0], inventory.variables.tables()
    return connect_all(tables, databases(inventory), variables, limits, row_views(inventory, tables))[0]


def connect_tables(tables: Iterable[Rows]) -> apsw.Connection:
    """A connection to a database in memory with `tables`.

    Raises:
        UnsupportedError: apsw is not installed.
    """
    return connect_all(tables, ())[0]


def connect_all(
    tables: Iterable[Rows],
    structures: Sequence[Structure],
    variables: Sequence[VariableTable] = (),
    limits: Limits | None = None,
    views: Mapping[str, str] | None = None,
) -> tuple[apsw.Connection, list[Database]]:
    """A connection to structures as tables and to databases, for reading; the databases as they are called in it.

    A database that is alone is ``main``; where there are several, each is called after its memory.

    Raises:
        UnsupportedError: apsw is not installed.
        MalformedError: SQLite does not take one for a database.
    """
    by_name = {table.name: table for table in tables}
    if len(structures) == 1 and not by_name and not variables:
        database = open_database(structures[0], limits)
        return database.connection, [database]
    import apsw

    connection = connect_beside(structures)
    found = attached(connection, structures)
    module: Value = _Module(by_name)
    connection.create_module("perdure", module, use_bestindex_object=True, read_only=True)
    for name in by_name:
        connection.execute(f"create virtual table {quoted(name)} using perdure")
    for variable in variables:
        if variable.name not in by_name:
            _register(connection, variable)
    limit(connection, limits or Limits())  # which empties the temporary schema
    for name, selection in (views or {}).items():
        # Of that schema, as views of another one may not use tables that are computed.
        with suppress(apsw.Error):  # names that come from bytes, such as no name of SQL may be
            connection.execute(f"create temp view {quoted(name)} as {selection}")
    only_read(connection)
    return connection, found


def _register(connection: apsw.Connection, variable: VariableTable) -> None:
    """A stable variable as a table, which is read when a query wants it."""
    import apsw.ext

    def rows() -> Iterator[tuple[Value, ...]]:
        return (tuple(map(to_sql, row)) for row in variable.rows())

    rows.columns = variable.columns  # type: ignore[attr-defined]
    rows.column_access = apsw.ext.VTColumnAccess.By_Index  # type: ignore[attr-defined]
    apsw.ext.make_virtual_module(connection, variable.name, rows)  # type: ignore[arg-type]


@final
class _Module:
    def __init__(self, tables: dict[str, Rows]) -> None:
        self._tables = tables

    def Create(  # noqa: N802
        self, _connection: object, _module: str, _database: str, name: str, *_: object
    ) -> tuple[str, _VirtualTable]:
        table = self._tables[name]
        return _declaration(table), _VirtualTable(table)

    Connect = Create


def _declaration(table: Rows) -> str:
    """The table as SQLite is told of it.

    Without a rowid where there are keys: SQLite tells rows apart by it, and the number of a row in one scan is not its
    number in another.
    """
    codecs = [*_key_codecs(table), *(table.value.parts or [table.value] * len(table.value_columns))]
    types = [_affinity(codec) for codec in codecs]
    columns = [f"{quoted(name)} {kind}".rstrip() for name, kind in zip(table.columns, types, strict=False)]
    hidden = ['"_key" hidden blob', '"_value" hidden blob']
    if table.key is None:
        return f"create table x({', '.join([*columns, *hidden])})"
    return f"create table x({', '.join([*columns, *hidden])}, primary key(_key)) without rowid"


def _key_codecs(table: Rows) -> list[Format | None]:
    if not table.key_columns:
        return []
    if table.key is None:
        return [None]
    return list(table.key.parts) or [table.key] * len(table.key_columns)


def _affinity(found: Format | None) -> str:
    """Integers past 63 bits are text, so that a column of wider ones must not turn text into numbers."""
    if found is None:
        return "integer"
    kind = found.kind
    if kind.name == "integer":
        return "integer" if 0 < kind.bits < 64 or (kind.bits == 64 and kind.is_signed) else ""
    return {"bool": "integer", "text": "text", "principal": "text"}.get(kind.name, "")


@final
class _VirtualTable:
    def __init__(self, table: Rows) -> None:
        self.table = table
        self.key_codecs = _key_codecs(table)
        self.raw_key_column = len(table.columns)
        self._value_mask = ~((1 << len(table.key_columns)) - 1) & ~(1 << self.raw_key_column)

    def BestIndexObject(self, index: Value) -> bool:  # noqa: N802
        """Choose what to hand down: equality on leading key columns, then a range on the next."""
        usable: dict[tuple[int, int], int] = {}
        for number in range(index.nConstraint):
            operator = index.get_aConstraint_op(number)
            plain = operator in _OPERATORS and index.get_aConstraint_collation(number) == "BINARY"
            if plain and index.get_aConstraint_usable(number):
                usable.setdefault((index.get_aConstraint_iColumn(number), operator), number)
        chosen = self._choose(usable)
        for argument, (column, operator) in enumerate(chosen, 1):
            index.set_aConstraintUsage_argvIndex(usable[column, operator], argument)
        index.idxStr = ",".join(f"{column}{_OPERATORS[operator]}" for column, operator in chosen)
        index.idxNum = (_WITH_VALUES if self._uses_values(index.colUsed) else 0) | self._consume_order(index)
        rows, cost = self._estimate(chosen)
        index.estimatedRows, index.estimatedCost = rows, cost
        return True

    def _choose(self, usable: dict[tuple[int, int], int]) -> list[tuple[int, int]]:
        raw_key = (self.raw_key_column, _EQ)
        if raw_key in usable and self.table.key is not None:
            return [raw_key]
        chosen: list[tuple[int, int]] = []
        for column in range(len(self.key_codecs)):
            if (column, _EQ) in usable:
                chosen.append((column, _EQ))
                continue
            lows = [(column, operator) for operator in (_GT, _GE) if (column, operator) in usable]
            highs = [(column, operator) for operator in (_LT, _LE) if (column, operator) in usable]
            return chosen + lows[:1] + highs[:1]
        return chosen

    def _uses_values(self, used: Value) -> bool:
        """`used` is SQLite's mask, or the set of columns that apsw makes of it."""
        if isinstance(used, int):
            return bool(used & self._value_mask)
        return any(self._value_mask >> column & 1 for column in used)

    def _consume_order(self, index: Value) -> int:
        """Take over the ORDER BY where the structure is in that order; whether to read it backwards."""
        count = index.nOrderBy
        key = self.table.key
        if count == 0 or count > len(self.key_codecs) or (key is not None and not key.is_ordered):
            return 0
        descending = {index.get_aOrderBy_desc(number) for number in range(count)}
        for number in range(count):
            codec = self.key_codecs[number]
            if index.get_aOrderBy_iColumn(number) != number or (codec is not None and not codec.sql_ordered):
                return 0
        if len(descending) != 1:
            return 0
        index.orderByConsumed = True
        return _DESCENDING if descending.pop() else 0

    def _estimate(self, chosen: list[tuple[int, int]]) -> tuple[int, float]:
        entries = max(1, len(self.table))
        equal = sum(operator == _EQ for _, operator in chosen)
        if chosen and (chosen[0][0] == self.raw_key_column or equal == len(self.key_codecs)):
            return 1, 10.0
        share = 4 ** len(chosen) * 8**equal
        return max(1, entries // share), 10.0 + entries / share

    def Open(self) -> _Cursor:  # noqa: N802
        return _Cursor(self)

    def Disconnect(self) -> None:  # noqa: N802
        """Nothing is held."""

    Destroy = Disconnect


@final
class _Cursor:
    def __init__(self, virtual: _VirtualTable) -> None:
        self._virtual = virtual
        self._table = virtual.table
        self._rows: Iterator[Entry] = iter(())
        self._entry: Entry | None = None
        self._key_parts: tuple[Value, ...] | None = None
        self._value_parts: tuple[Value, ...] | None = None

    def Filter(self, number: int, text: str | None, arguments: Sequence[object]) -> None:  # noqa: N802
        """Start a scan."""
        conditions = [
            (int(part.rstrip("<>=")), part.lstrip("0123456789"), argument)
            for part, argument in zip((text or "").split(","), arguments, strict=bool(text))
            if part
        ]
        self._rows = _plan(self._virtual, conditions, bool(number & _DESCENDING), bool(number & _WITH_VALUES))
        self.Next()

    def Eof(self) -> bool:  # noqa: N802
        return self._entry is None

    def Next(self) -> None:  # noqa: N802
        self._entry = next(self._rows, None)
        self._key_parts = self._value_parts = None

    def Column(self, number: int) -> Value:  # noqa: N802
        assert self._entry is not None
        key, value = self._entry
        keys = len(self._table.key_columns)
        if number < 0 or (number == 0 and self._table.key is None and keys):
            return key
        if number < keys:
            if self._key_parts is None:
                self._key_parts = tuple(map(to_sql, self._table.decode_key(key)))
            return self._key_parts[number]
        if number < len(self._table.columns):
            source = self._table.value
            if source.reads_fields and self._value_parts is None:
                try:
                    return to_sql(source.field(value, source.fields[number - keys]))
                except MalformedError:  # it is shown as a whole
                    pass
            if self._value_parts is None:
                self._value_parts = tuple(map(to_sql, self._table.decode_value(value)))
            return self._value_parts[number - keys]
        return value if number > self._virtual.raw_key_column else (key if isinstance(key, bytes) else None)

    def Rowid(self) -> int:  # noqa: N802
        assert self._entry is not None
        return int(self._entry[0])

    def Close(self) -> None:  # noqa: N802
        self._rows = iter(())


Condition = tuple[int, str, Value]


def _plan(virtual: _VirtualTable, conditions: list[Condition], descending: bool, with_values: bool) -> Iterator[Entry]:
    """The entries that can meet the conditions, in order."""
    table = virtual.table
    if any(argument is None for _, _, argument in conditions):
        return iter(())
    if table.key is None:
        return _plan_positions(table, conditions, descending)
    if conditions and conditions[0][0] == virtual.raw_key_column:
        return _point(table, conditions[0][2])
    try:
        found = _key_range(table.key, conditions)
    except _CannotMatchError:
        return iter(())
    except _CannotNarrowError:
        found = (None, None)
    if isinstance(found, bytes):
        return _point(table, found)
    return table.entries(found[0], found[1], reverse=descending, values=with_values)


def _point(table: Rows, key: object) -> Iterator[Entry]:
    value = table.get(key) if isinstance(key, bytes) else None
    return iter(() if value is None else ((key, value),))


def _plan_positions(table: Rows, conditions: list[Condition], descending: bool) -> Iterator[Entry]:
    low, high = 0, len(table)
    for _, operator, argument in conditions:
        if not isinstance(argument, int):
            continue
        if operator in ("=", ">", ">="):
            low = max(low, argument + (operator == ">"))
        if operator in ("=", "<", "<="):
            high = min(high, argument + (operator != "<"))
    return table.entries(Bound(low), Bound(high, is_inclusive=False), reverse=descending)


class _CannotMatchError(Exception):
    """No key can meet the conditions."""


class _CannotNarrowError(Exception):
    """The conditions do not translate into a range of keys: every entry is to be looked at."""


def _key_range(key: Format, conditions: list[Condition]) -> bytes | tuple[Bound | None, Bound | None]:
    """The one key, or the range of keys, that can meet the conditions."""
    parts = key.parts or (key,)
    prefix = b""
    low: Bound | None = None
    high: Bound | None = None
    equal = 0
    for column, operator, argument in conditions:
        data = _encode(parts[column], operator, argument)
        if operator == "=":
            if data is None:
                raise _CannotNarrowError
            prefix += data
            equal += 1
        elif data is None:
            continue
        elif not key.is_ordered or (key.parts and key.order is not None) or not parts[column].sql_ordered:
            raise _CannotNarrowError
        elif operator in (">", ">="):
            low = _low(key, prefix + data, operator == ">=")
        else:
            high = _high(key, prefix + data, operator == "<=")
    if equal == len(parts):
        return prefix
    if prefix and (key.order is not None or not key.is_ordered):
        raise _CannotNarrowError
    if prefix:
        low = low or Bound(prefix)
        high = high or _high(key, prefix, is_inclusive=True)
    return low, high


def _low(key: Format, data: bytes, is_inclusive: bool) -> Bound:
    """From `data` on; of a key of several parts, from (or past) all that begin with it."""
    if is_inclusive or not key.parts:
        return Bound(data, is_inclusive)
    following = _successor(data)
    if following is None:
        raise _CannotMatchError
    return Bound(following)


def _high(key: Format, data: bytes, is_inclusive: bool) -> Bound | None:
    if not is_inclusive or not key.parts:
        return Bound(data, is_inclusive)
    following = _successor(data)
    return None if following is None else Bound(following, is_inclusive=False)


def _successor(prefix: bytes) -> bytes | None:
    """The least bytes greater than all that begin with `prefix`."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else None


def _encode(codec: Format, operator: str, argument: object) -> bytes | None:
    """The bytes of a condition's value; ``None`` where it does not narrow.

    Raises:
        _CannotMatchError: no key is equal to it, or lies on the asked side of it.
        _CannotNarrowError: SQLite might see a match where bytes do not show one.
    """
    if codec.kind.name == "integer":
        return _encode_integer(codec, operator, argument)
    wanted = _SHOWN_AS.get(codec.kind.name)
    if wanted is None and (operator != "=" or not codec.is_ordered or codec.fields):
        raise _CannotNarrowError
    if wanted is not None and not isinstance(argument, wanted):
        raise _CannotNarrowError
    try:
        return codec.from_sql(argument)
    except ValueError as error:
        raise (_CannotMatchError if operator == "=" and wanted is not None else _CannotNarrowError) from error


def _encode_integer(codec: Format, operator: str, argument: object) -> bytes | None:
    if isinstance(argument, str) and len(argument) == 39 and argument.isdecimal():
        argument = int(argument)
    if isinstance(argument, float) and argument.is_integer():
        argument = int(argument)
    if not isinstance(argument, int):
        raise _CannotNarrowError
    bits = codec.kind.bits
    if not bits and operator != "=":
        raise _CannotNarrowError
    least, most = (-(1 << bits - 1), (1 << bits - 1) - 1) if codec.kind.is_signed and bits else (0, (1 << bits) - 1)
    if least <= argument <= most or not bits:
        try:
            return codec.encode(argument)
        except ValueError as error:
            raise _CannotNarrowError from error
    if operator == "=" or (argument < least) == (operator in ("<", "<=")):
        raise _CannotMatchError
    return None
