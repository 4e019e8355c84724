"""Tables as Arrow, a batch of rows at a time (extra ``columns``); `values.arrow` says what becomes of each kind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, TypeAlias

import pyarrow as pa

from perdure.errors import MalformedError
from perdure.inspection.rows import Entry, Rows, fitted
from perdure.inspection.sqlite import DatabaseTable, about_table, quoted
from perdure.inspection.variables import VariableTable
from perdure.stable.columns import Column
from perdure.stable.kind import DOCUMENT, Kind, integer
from perdure.values.arrow import Arrow, to_array, to_type
from perdure.values.format import Format, decode_as, parts_of
from perdure.values.show import to_text

__all__ = [
    "BATCH_ROWS",
    "AnyTable",
    "batches",
    "column_batches",
    "database_batches",
    "database_schema",
    "is_known_before",
    "read_batches",
    "schema_of",
    "to_batch",
    "to_table",
    "variable_batches",
    "variable_schema",
]

AnyTable: TypeAlias = Rows | DatabaseTable | VariableTable

BATCH_ROWS: Final = 1 << 16
_POSITION: Final = integer(64)


def to_table(table: AnyTable) -> Arrow:
    """The whole table."""
    schema, pieces = read_batches(table)
    return pa.Table.from_batches(pieces, schema=schema)


def read_batches(table: AnyTable, rows: int = BATCH_ROWS) -> tuple[Arrow, Iterator[Arrow]]:
    """The schema of a table, and the table in batches of so many rows."""
    if isinstance(table, VariableTable):
        described = variable_schema(table)
        return described, variable_batches(table, described, rows)
    if isinstance(table, DatabaseTable):
        described = database_schema(table)
        return described, database_batches(table, described, rows)
    table = fitted(table)
    return schema_of(table), batches(table, rows)


def batches(table: Rows, rows: int) -> Iterator[Arrow]:
    """The table in batches of so many rows; in columns from the start where it can be read so."""
    columns = table.raw_columns()
    if columns is None:
        entries = table.entries()
        while batch := list(islice(entries, rows)):
            yield to_batch(table, batch)
        return
    yield from column_batches(table, [columns], rows)


def column_batches(table: Rows, pieces: Iterable[tuple[Column, Column]], rows: int) -> Iterator[Arrow]:
    """Encoded keys and values of a map as batches of so many rows."""
    schema = schema_of(table)
    assert table.key is not None
    for keys, values in pieces:
        for start in range(0, len(keys), rows):
            arrays = [*_arrays(table.key, keys.slice(start, start + rows))]
            if table.value_columns:
                arrays += _arrays(table.value, values.slice(start, start + rows))
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def is_known_before(table: Rows) -> bool:
    """Whether the columns' types do not depend on what the values are."""
    return all(type(one).fitted is Format.fitted for one in (table.key, table.value) if one is not None)


def _arrays(source: Format, column: Column) -> list[Arrow]:
    """The columns of one half of the entries."""
    if not source.fields:
        found = _whole(source, column)
        if found is not None:
            return [found]
    rows = [parts_of(source, decode_as(source, data)) for data in column.raws()]
    return [to_array(kind, values) for kind, values in zip(_kinds_of(source), zip(*rows, strict=True), strict=True)]


def _whole(source: Format, column: Column) -> Arrow:
    """The column without a Python object for each value; ``None`` where that cannot be."""
    kind = to_type(source.kind)
    try:
        found = source.to_arrow(column)
        if found is None and source.stored_as is not None:
            found = column.of(source).to_arrow()
    except MalformedError:
        return None  # one by one tells which, and shows the others
    return found if found is None or found.type == kind else found.cast(kind)


def _kinds(table: Rows) -> list[Kind]:
    keys: list[Kind] = [_POSITION] * len(table.key_columns)
    if table.key is not None:
        keys = _kinds_of(table.key)
    return [*keys, *(_kinds_of(table.value) if table.value_columns else ())]


def _kinds_of(source: Format) -> list[Kind]:
    """The kind of each column. Parts of which nothing is known are documents."""
    if not source.fields:
        return [source.kind]
    return list(source.kind.parts) if source.kind.name == "record" else [DOCUMENT] * len(source.fields)


def schema_of(table: Rows) -> Arrow:
    """The schema of a table whose values were looked at (`fitted`)."""
    return pa.schema([(name, to_type(kind)) for name, kind in zip(table.columns, _kinds(table), strict=True)])


def to_batch(table: Rows, entries: Sequence[Entry]) -> Arrow:
    """Some entries of the table, decoded one by one."""
    columns = zip(*map(table.decode, entries), strict=True)
    arrays = [to_array(kind, values) for kind, values in zip(_kinds(table), columns, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema_of(table))


_SQL_TYPES: Final = {
    frozenset(): pa.null(),
    frozenset(["integer"]): pa.int64(),
    frozenset(["real"]): pa.float64(),
    frozenset(["text"]): pa.string(),
    frozenset(["blob"]): pa.binary(),
}
"""By the types of the values that a column of SQLite has; a column of several is shown as text."""


def database_schema(table: DatabaseTable) -> Arrow:
    """The schema of a table of SQLite: by its values, since declared types bind nobody."""
    kinds = ", ".join(f"group_concat(distinct typeof({quoted(name)}))" for name in table.columns)
    with about_table(table.name):
        (found,) = table.database.connection.execute(f"select {kinds} from {table.full_name}")
    types = (_SQL_TYPES.get(frozenset((kind or "null").split(",")) - {"null"}, pa.string()) for kind in found)
    return pa.schema(list(zip(table.columns, types, strict=True)))


def database_batches(table: DatabaseTable, schema: Arrow, rows: int) -> Iterator[Arrow]:
    """The table in batches of so many rows."""
    entries = table.rows()
    while batch := list(islice(entries, rows)):
        arrays = []
        for field, values in zip(schema, zip(*batch, strict=True), strict=True):
            is_text = field.type == pa.string()
            arrays.append(pa.array([_text(value) for value in values] if is_text else values, field.type))
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def variable_schema(table: VariableTable) -> Arrow:
    """The schema of a stable variable: by its type."""
    return pa.schema([(name, to_type(kind)) for name, kind in zip(table.columns, table.kinds, strict=True)])


def variable_batches(table: VariableTable, schema: Arrow, rows: int) -> Iterator[Arrow]:
    """The variable in batches of so many rows."""
    found = table.rows()
    while batch := list(islice(found, rows)):
        arrays = [to_array(kind, values) for kind, values in zip(table.kinds, zip(*batch, strict=True), strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _text(value: object) -> str | None:
    return None if value is None else str(to_text(value))
