"""Writes structures out: Parquet, CSV, and an SQLite file that Datasette opens as it is."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from perdure.errors import PerdureError, StorageError, UnsupportedError
from perdure.ic.principal import Principal
from perdure.inspection.codec import RAW, Codec, to_json, to_sql
from perdure.inspection.table import Table
from perdure.stable import types

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FORMATS", "export_csv", "export_parquet", "export_sqlite"]

FORMATS: Final = ("parquet", "csv", "sqlite")
BATCH_ROWS: Final = 1 << 16


def to_text(value: Any) -> Any:
    """A value as one field of text: bytes in hexadecimal, composed values as JSON."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    return str(value) if isinstance(value, Principal) else json.dumps(to_json(value), ensure_ascii=False)


def export_csv(table: Table, file: TextIO) -> int:
    """Write a table as CSV with a header; how many rows."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(table.columns)
    rows = 0
    for entry in table.entries():
        writer.writerow([to_text(value) for value in table.decode(entry)])
        rows += 1
    return rows


# SQLite


def export_sqlite(tables: Iterable[Table], path: Path) -> dict[str, int]:
    """Write tables into a new SQLite file; how many rows each has.

    Raises:
        StorageError: the file exists, or cannot be written.
    """
    if path.exists():
        raise StorageError("exists already", path)
    rows: dict[str, int] = {}
    try:
        with closing(sqlite3.connect(path)) as connection, connection:
            for table in tables:
                rows[table.name] = _write_table(connection, table)
    except sqlite3.Error as error:
        raise StorageError(str(error), path) from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return rows


def _write_table(connection: sqlite3.Connection, table: Table) -> int:
    columns = [f'"{name}"' for name in table.columns]
    unique = table.key is None or table.key.is_ordered or table.key is RAW
    keys = ", ".join(f'"{name}"' for name in table.key_columns)
    primary = f", primary key ({keys})" if keys and unique else ""
    connection.execute(f'create table "{table.name}" ({", ".join(columns)}{primary})')
    insert = f'insert into "{table.name}" values ({", ".join("?" * len(columns))})'
    rows = 0
    entries = table.entries()
    while batch := list(islice(entries, BATCH_ROWS)):
        connection.executemany(insert, ([to_sql(value) for value in table.decode(entry)] for entry in batch))
        rows += len(batch)
    return rows


# Parquet


def export_parquet(table: Table, path: Path) -> int:
    """Write a table as Parquet; how many rows. Plain keys and values go in bulk, without a Python object for each.

    Raises:
        UnsupportedError: pyarrow is not installed.
        StorageError: the file cannot be written.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UnsupportedError("Parquet needs `pip install 'perdure[columns]'`") from error
    rows = 0
    batches = _arrow_tables(table)
    first = next(batches)
    try:
        with pq.ParquetWriter(path, first.schema) as writer:
            for batch in chain([first], batches):
                writer.write_table(batch)
                rows += len(batch)
    except OSError as error:
        raise StorageError(str(error), path) from error
    return rows


def _arrow_tables(table: Table) -> Iterator[pa.Table]:
    """The table in pieces, at least one."""
    whole = _in_bulk(table)
    if whole is not None:
        yield whole
        return
    import pyarrow as pa

    schema = pa.schema([(name, _arrow_type(codec)) for name, codec in zip(table.columns, _codecs(table), strict=True)])
    entries = table.entries()
    batch = list(islice(entries, BATCH_ROWS))
    while True:
        columns = zip(*(table.decode(entry) for entry in batch), strict=True) if batch else [()] * len(schema)
        arrays = [_arrow_array(values, field.type) for values, field in zip(columns, schema, strict=True)]
        yield pa.Table.from_arrays(arrays, schema=schema)
        batch = list(islice(entries, BATCH_ROWS))
        if not batch:
            return


def _codecs(table: Table) -> list[Codec | None]:
    """The codec of each column; ``None`` for positions. Parts of which nothing is known count as a record: JSON."""
    keys: Sequence[Codec | None] = [None] * len(table.key_columns)
    if table.key is not None:
        keys = table.key.parts or [table.key] * len(table.key_columns)
    values: Sequence[Codec | None] = table.value.parts or [table.value] * len(table.value_columns)
    return [*keys, *(values if table.value_columns else ())]


def _arrow_type(codec: Codec | None) -> Any:
    import pyarrow as pa

    name = codec.name.removesuffix("le") if codec is not None else "u64"  # a position
    if name in ("raw", "bytes", "Vec<u8>"):
        return pa.binary()
    if name[:1] in "ui" and name[1:] in ("8", "16", "32", "64"):
        return getattr(pa, ("uint" if name[0] == "u" else "int") + name[1:])()
    return {"bool": pa.bool_(), "f32": pa.float32(), "f64": pa.float64()}.get(name, pa.string())


def _arrow_array(values: Sequence[Any], kind: Any) -> Any:
    """A column; what did not decode is null."""
    import pyarrow as pa

    if pa.types.is_string(kind):
        return pa.array([None if value is None else str(to_text(value)) for value in values], kind)
    wanted = bytes if pa.types.is_binary(kind) else bool if pa.types.is_boolean(kind) else int | float
    return pa.array([value if isinstance(value, wanted) else None for value in values], kind)


def _in_bulk(table: Table) -> pa.Table | None:
    """The whole table at once, where the crate's own columns say the same; else ``None``."""
    tree = table.tree
    names = {"raw": "Vec<u8>", "bytes": "Vec<u8>", "text": "String"}
    if tree is None or table.key is None or table.key.fields or table.value.fields or not table.value_columns:
        return None
    plain = {"Vec<u8>", "String", "u8", "u16", "u32", "u64", "i8", "i16", "i32", "i64", "f32", "f64", "bool"}
    key_name, value_name = (names.get(codec.name, codec.name) for codec in (table.key, table.value))
    if not {key_name, value_name} <= plain:
        return None
    key = types.parse(key_name)
    if key_name == "Vec<u8>" and tree.nodes.key_bytes is not None and tree.header.slots is None:
        key = types.FixedBytes(tree.nodes.key_bytes)
    try:
        from perdure.stable.columns import read_columns

        arrow = read_columns(tree, key, types.parse(value_name)).to_arrow()
    except (ImportError, PerdureError):
        return None  # something does not decode, or is damaged: row by row tells what
    import pyarrow as pa

    if key_name == "Vec<u8>":
        arrow = arrow.set_column(0, "key", arrow.column(0).cast(pa.binary()))
    return arrow.rename_columns(list(table.columns))
