"""Writes tables out: Parquet, Arrow, CSV and NDJSON hold one; SQLite, as Datasette opens it, and DuckDB any number."""

from __future__ import annotations

import csv
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from io import TextIOWrapper
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal, TextIO, TypeAlias
from urllib.parse import quote

from perdure.errors import StorageError, UnsupportedError
from perdure.inspection.rows import Entry, Rows
from perdure.inspection.sqlite import DatabaseTable, quoted
from perdure.inspection.variables import VariableTable
from perdure.inspection.whole import whole_file
from perdure.values.format import Format, Value, decode_as, parts_of
from perdure.values.plain import RAW
from perdure.values.show import json_text, to_sql, to_text

if TYPE_CHECKING:
    from perdure.stable.columns import Column

__all__ = [
    "FORMATS",
    "Tell",
    "export_batches",
    "export_csv",
    "export_database",
    "export_duckdb",
    "export_file",
    "export_parquet",
    "export_sqlite",
    "export_stream",
    "file_of",
]

AnyTable: TypeAlias = Rows | DatabaseTable | VariableTable
"""What can be written out."""

Tell: TypeAlias = Callable[[int], object]
"""Told how many more rows are written."""

BATCH_ROWS: Final = 1 << 16
_FEW_ROWS: Final = 1 << 12
"""Of tables whose values may be large."""
_PLAIN: Final = re.compile(r"[^\x00-\x1f\x7f/\\%.\-][^\x00-\x1f\x7f/\\%]{0,62}")
_MAX_NAME: Final = 200


def _nobody(rows: int) -> None:
    """Nobody wants to know."""


def export_csv(table: AnyTable, file: TextIO, *, tell: Tell = _nobody) -> int:
    """Write a table as CSV with a header; how many rows."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(table.columns)
    rows = 0
    for batch in _decoded(table):
        writer.writerows([to_text(value) for value in row] for row in batch)
        rows += len(batch)
        tell(len(batch))
    return rows


def _write_csv(table: AnyTable, sink: BinaryIO, tell: Tell) -> int:
    file = TextIOWrapper(sink, encoding="utf-8", newline="")
    try:
        return export_csv(table, file, tell=tell)
    finally:
        file.detach()  # the sink stays open; what is buffered goes out first


def _write_ndjson(table: AnyTable, sink: BinaryIO, tell: Tell) -> int:
    columns, rows = table.columns, 0
    for batch in _decoded(table):
        lines = (json_text(dict(zip(columns, row, strict=True))) for row in batch)
        sink.write("".join(f"{line}\n" for line in lines).encode())
        rows += len(batch)
        tell(len(batch))
    return rows


def _decoded(table: AnyTable) -> Iterator[list[tuple[Value, ...]]]:
    """All rows, in pieces."""
    if isinstance(table, Rows):
        yield from ([table.decode(entry) for entry in batch] for batch in _batches(table))
        return
    rows = table.rows()
    while batch := list(islice(rows, _FEW_ROWS)):
        yield batch


def file_of(table: AnyTable, directory: Path, form: str) -> Path:
    """The file of a table in a directory: called as the table is, where files can be; else what cannot be is encoded.

    A database in somebody's memory has tables of any name, one of another directory among them.
    """
    name = table.name if _PLAIN.fullmatch(table.name) else quote(table.name, safe="").replace(".", "%2E")[:_MAX_NAME]
    return directory / f"{name}.{form}"


# SQLite


def export_sqlite(
    tables: Iterable[AnyTable], path: Path, *, overwrite: bool = False, tell: Tell = _nobody
) -> dict[str, int]:
    """Write tables into a new SQLite file; how many rows each has.

    A column has the type that all of its values have, if they have one.

    Raises:
        StorageError: the file exists, or cannot be written.
    """
    rows: dict[str, int] = {}
    with whole_file(path, overwrite=overwrite) as draft:
        draft.unlink(missing_ok=True)
        try:
            with closing(sqlite3.connect(draft)) as connection, connection:
                for table in tables:
                    rows[table.name] = _write_table(connection, table, tell)
        except sqlite3.Error as error:
            raise StorageError(str(error), path) from error
    return rows


_STAGED: Final = '"temp"."perdure rows"'
_TYPES: Final = {"integer": " integer", "real": " real", "text": " text", "blob": " blob"}


def _write_table(connection: sqlite3.Connection, table: AnyTable, tell: Tell) -> int:
    """Write rows aside, see which types they have, and put them into a table of these types.

    Nobody knows before whether a column of 64 bits has numbers that SQLite does not: as text in a column of integers
    they would lose digits.
    """
    columns = [quoted(name) for name in table.columns]
    if not columns:
        return 0
    connection.execute(f"create temp table {_STAGED.partition('.')[2]} ({', '.join(columns)})")
    insert = f"insert into {_STAGED} values ({', '.join('?' * len(columns))})"
    rows = 0
    for batch in _sql_rows(table):
        connection.executemany(insert, batch)
        rows += len(batch)
        tell(len(batch))
    kinds = ", ".join(f"group_concat(distinct typeof({name}))" for name in columns)
    (found,) = connection.execute(f"select {kinds} from {_STAGED}")
    typed = [f"{name}{_type_of(kind)}" for name, kind in zip(columns, found, strict=True)]
    connection.execute(f"create table {quoted(table.name)} ({', '.join(typed)}{_primary_key(table)})")
    connection.execute(f"insert into {quoted(table.name)} select * from {_STAGED}")
    connection.execute(f"drop table {_STAGED}")
    return rows


def _type_of(kinds: str | None) -> str:
    """The type of a column, by those of its values."""
    found = {*(kinds or "null").split(",")} - {"null"}
    return _TYPES.get(found.pop(), "") if len(found) == 1 else ""


def _primary_key(table: AnyTable) -> str:
    """Of structures. A database's own tables are copied as they are, without constraints; `extract` keeps those."""
    if not isinstance(table, Rows) or not table.key_columns:
        return ""
    is_unique = table.key is None or table.key.is_ordered or table.key is RAW
    return f", primary key ({', '.join(map(quoted, table.key_columns))})" if is_unique else ""


def _sql_rows(table: AnyTable) -> Iterator[list[Value]]:
    """All rows as SQLite has them, in pieces; columns at a time where the formats can."""
    if isinstance(table, DatabaseTable):
        yield from _decoded(table)
        return
    if isinstance(table, VariableTable):
        yield from ([tuple(map(to_sql, row)) for row in batch] for batch in _decoded(table))
        return
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


# Arrow and what reads it


def _read_batches(table: AnyTable, what: str) -> tuple[Any, Iterator[Any]]:
    """The schema of a table and its batches, records and lists as nested columns.

    Raises:
        UnsupportedError: pyarrow is not installed.
    """
    try:
        from perdure.inspection.arrow import read_batches
    except ImportError as error:
        raise UnsupportedError(f"{what} needs `pip install 'perdure[columns]'`").coded("extra-missing") from error
    return read_batches(table, BATCH_ROWS)


def _write_parquet(table: AnyTable, sink: BinaryIO, tell: Tell) -> int:
    return _parquet_of(*_read_batches(table, "Parquet"), sink, tell)


def _parquet_of(described: Any, pieces: Iterable[Any], sink: BinaryIO, tell: Tell) -> int:
    import pyarrow.parquet as pq

    rows = 0
    with pq.ParquetWriter(sink, described) as writer:
        for batch in pieces:
            writer.write_batch(batch)
            rows += len(batch)
            tell(len(batch))
    return rows


def _write_arrow(table: AnyTable, sink: BinaryIO, tell: Tell) -> int:
    return _arrow_of(*_read_batches(table, "Arrow"), sink, tell)


def _arrow_of(described: Any, pieces: Iterable[Any], sink: BinaryIO, tell: Tell) -> int:
    import pyarrow as pa

    rows = 0
    with pa.ipc.new_file(sink, described) as writer:
        for batch in pieces:
            writer.write_batch(batch)
            rows += len(batch)
            tell(len(batch))
    return rows


def export_parquet(table: AnyTable, path: Path, *, overwrite: bool = False) -> int:
    """Write a table into a new Parquet file, records and lists as nested columns; how many rows.

    Plain keys and values go in bulk, without a Python object for each. What does not decode is null.

    Raises:
        UnsupportedError: pyarrow is not installed.
        StorageError: the file exists, or cannot be written.
    """
    return export_file(table, path, "parquet", overwrite=overwrite)


def export_duckdb(
    tables: Iterable[AnyTable], path: Path, *, overwrite: bool = False, tell: Tell = _nobody
) -> dict[str, int]:
    """Write tables into a new DuckDB database; how many rows each has.

    Raises:
        UnsupportedError: DuckDB or pyarrow is not installed.
        StorageError: the file exists, or cannot be written.
    """
    try:
        import duckdb
        import pyarrow as pa
    except ImportError as error:
        raise UnsupportedError("DuckDB needs `pip install duckdb 'perdure[columns]'`").coded("extra-missing") from error
    rows: dict[str, int] = {}
    with whole_file(path, overwrite=overwrite) as draft:
        try:
            with closing(duckdb.connect(str(draft))) as connection:
                for table in tables:
                    described, pieces = _read_batches(table, "DuckDB")
                    reader = pa.RecordBatchReader.from_batches(described, _told(pieces, tell))
                    connection.register("perdure_rows", reader)
                    connection.execute(f"create table {quoted(table.name)} as select * from perdure_rows")
                    connection.unregister("perdure_rows")
                    counted = connection.execute(f"select count(*) from {quoted(table.name)}").fetchall()
                    rows[table.name] = counted[0][0]
        except duckdb.Error as error:
            raise StorageError(str(error), path) from error
    return rows


def _told(pieces: Iterable[Any], tell: Tell) -> Iterator[Any]:
    for piece in pieces:
        tell(len(piece))
        yield piece


# Files and streams

_WRITERS: Final[dict[str, Callable[[AnyTable, BinaryIO, Tell], int]]] = {
    "arrow": _write_arrow,
    "csv": _write_csv,
    "ndjson": _write_ndjson,
    "parquet": _write_parquet,
}
"""Formats that hold one table."""
_DATABASES: Final[dict[str, Callable[..., dict[str, int]]]] = {"duckdb": export_duckdb, "sqlite": export_sqlite}
"""Formats that hold any number."""
FORMATS: Final = (*_WRITERS, *_DATABASES)


def export_file(table: AnyTable, path: Path, form: str, *, overwrite: bool = False, tell: Tell = _nobody) -> int:
    """Write a table into a new file of a format that holds one; how many rows.

    Raises:
        UnsupportedError: what the format needs is not installed.
        StorageError: the file exists, or cannot be written.
    """
    with whole_file(path, overwrite=overwrite) as draft, draft.open("wb") as file:
        return _WRITERS[form](table, file, tell)


def export_batches(
    described: Any,
    pieces: Iterable[Any],
    path: Path,
    form: Literal["arrow", "parquet"],
    *,
    overwrite: bool = False,
    tell: Tell = _nobody,
) -> int:
    """Write record batches of one schema into a new file; how many rows. Raises as `export_file`, and as `pieces`."""
    with whole_file(path, overwrite=overwrite) as draft, draft.open("wb") as file:
        return {"arrow": _arrow_of, "parquet": _parquet_of}[form](described, pieces, file, tell)


def export_stream(table: AnyTable, sink: BinaryIO, form: str, *, tell: Tell = _nobody) -> int:
    """Write a table to where bytes go, in a format that holds one table; how many rows."""
    return _WRITERS[form](table, sink, tell)


def export_database(
    tables: Iterable[AnyTable], path: Path, form: str, *, overwrite: bool = False, tell: Tell = _nobody
) -> dict[str, int]:
    """Write tables into a new database; how many rows each has. Raises as `export_file`."""
    return _DATABASES[form](tables, path, overwrite=overwrite, tell=tell)
