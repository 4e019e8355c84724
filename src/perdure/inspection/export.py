"""Writes structures out: Parquet, CSV, and an SQLite file that Datasette opens as it is."""

from __future__ import annotations

import csv
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO, TypeAlias
from urllib.parse import quote

from perdure.errors import StorageError, UnsupportedError
from perdure.inspection.rows import Entry, Rows, fitted
from perdure.inspection.sqlite import DatabaseTable, quoted
from perdure.inspection.variables import VariableTable
from perdure.inspection.whole import whole_file
from perdure.values.format import Format, Value, decode_as, parts_of
from perdure.values.plain import RAW
from perdure.values.show import to_sql, to_text

if TYPE_CHECKING:
    from perdure.stable.columns import Column

__all__ = ["FORMATS", "export_csv", "export_csv_file", "export_parquet", "export_sqlite", "file_of"]

AnyTable: TypeAlias = Rows | DatabaseTable | VariableTable
"""What can be written out."""

FORMATS: Final = ("parquet", "csv", "sqlite")
BATCH_ROWS: Final = 1 << 16
_PLAIN: Final = re.compile(r"[^\x00-\x1f\x7f/\\%.\-][^\x00-\x1f\x7f/\\%]{0,62}")
_MAX_NAME: Final = 200


def export_csv(table: AnyTable, file: TextIO) -> int:
    """Write a table as CSV with a header; how many rows."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(table.columns)
    rows = 0
    if isinstance(table, DatabaseTable | VariableTable):
        for row in table.rows():
            writer.writerow(map(to_text, row))
            rows += 1
        return rows
    for batch in _batches(table):
        writer.writerows([to_text(value) for value in table.decode(entry)] for entry in batch)
        rows += len(batch)
    return rows


def file_of(table: AnyTable, directory: Path, form: str) -> Path:
    """The file of a table in a directory: called as the table is, where files can be; else what cannot be is encoded.

    A database in somebody's memory has tables of any name, one of another directory among them.
    """
    name = table.name if _PLAIN.fullmatch(table.name) else quote(table.name, safe="").replace(".", "%2E")[:_MAX_NAME]
    return directory / f"{name}.{form}"


def export_csv_file(table: AnyTable, path: Path) -> int:
    """Write a table into a new CSV file; how many rows.

    Raises:
        StorageError: the file exists, or cannot be written.
    """
    with whole_file(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        return export_csv(table, file)


# SQLite


def export_sqlite(tables: Iterable[AnyTable], path: Path) -> dict[str, int]:
    """Write tables into a new SQLite file; how many rows each has.

    Raises:
        StorageError: the file exists, or cannot be written.
    """
    rows: dict[str, int] = {}
    with whole_file(path) as draft:
        try:
            with closing(sqlite3.connect(draft)) as connection, connection:
                for table in tables:
                    if isinstance(table, DatabaseTable | VariableTable):
                        rows[table.name] = _copy_rows(connection, table)
                    else:
                        rows[table.name] = _write_table(connection, table)
        except sqlite3.Error as error:
            raise StorageError(str(error), path) from error
    return rows


def _write_table(connection: sqlite3.Connection, table: Rows) -> int:
    columns = [quoted(name) for name in table.columns]
    unique = table.key is None or table.key.is_ordered or table.key is RAW
    keys = ", ".join(map(quoted, table.key_columns))
    primary = f", primary key ({keys})" if keys and unique else ""
    connection.execute(f"create table {quoted(table.name)} ({', '.join(columns)}{primary})")
    insert = f"insert into {quoted(table.name)} values ({', '.join('?' * len(columns))})"
    rows = 0
    for batch in _sql_rows(table):
        connection.executemany(insert, batch)
        rows += len(batch)
    return rows


def _copy_rows(connection: sqlite3.Connection, table: DatabaseTable | VariableTable) -> int:
    """The rows of a table as they are, without types, constraints and indexes; `extract` keeps those."""
    columns = ", ".join(map(quoted, table.columns))
    connection.execute(f"create table {quoted(table.name)} ({columns})")
    insert = f"insert into {quoted(table.name)} values ({', '.join('?' * len(table.columns))})"
    rows = table.rows()
    if isinstance(table, VariableTable):
        rows = (tuple(map(to_sql, row)) for row in rows)
    return connection.executemany(insert, rows).rowcount if table.columns else 0


def _sql_rows(table: Rows) -> Iterator[list[Value]]:
    """All rows as SQLite has them, in pieces; columns at a time where the formats can."""
    columns = table.raw_columns()
    if columns is None or table.key is None:
        for batch in _batches(table):
            yield [[to_sql(value) for value in table.decode(entry)] for entry in batch]
        return
    keys, values = columns
    for start in range(0, len(keys), BATCH_ROWS):
        halves = [_sql_columns(table.key, keys.slice(start, start + BATCH_ROWS))]
        if table.value_columns:
            halves.append(_sql_columns(table.value, values.slice(start, start + BATCH_ROWS)))
        yield list(zip(*chain.from_iterable(halves), strict=True))


def _sql_columns(source: Format, column: Column) -> list[Sequence[Value]]:
    whole = None if source.fields else source.to_sql_column(column)
    if whole is not None:
        return [whole]
    rows = (parts_of(source, decode_as(source, data)) for data in column.raws())
    return list(zip(*(tuple(map(to_sql, row)) for row in rows), strict=True))


def _batches(table: Rows) -> Iterator[list[Entry]]:
    """All entries, in pieces."""
    entries = table.all_entries()
    while batch := list(islice(entries, BATCH_ROWS)):
        yield batch


# Parquet


def export_parquet(table: AnyTable, path: Path) -> int:
    """Write a table into a new Parquet file, records and lists as nested columns; how many rows.

    Plain keys and values go in bulk, without a Python object for each. What does not decode is null.

    Raises:
        UnsupportedError: pyarrow is not installed.
        StorageError: the file exists, or cannot be written.
    """
    try:
        import pyarrow.parquet as pq

        from perdure.inspection.arrow import (
            batches,
            database_batches,
            database_schema,
            schema_of,
            variable_batches,
            variable_schema,
        )
    except ImportError as error:
        raise UnsupportedError("Parquet needs `pip install 'perdure[columns]'`") from error
    if isinstance(table, VariableTable):
        described = variable_schema(table)
        pieces = variable_batches(table, described, BATCH_ROWS)
    elif isinstance(table, DatabaseTable):
        described = database_schema(table)
        pieces = database_batches(table, described, BATCH_ROWS)
    else:
        table = fitted(table)
        described, pieces = schema_of(table), batches(table, BATCH_ROWS)
    rows = 0
    with whole_file(path) as draft, pq.ParquetWriter(draft, described) as writer:
        for batch in pieces:
            writer.write_batch(batch)
            rows += len(batch)
    return rows
