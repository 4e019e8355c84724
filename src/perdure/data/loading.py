"""Many rows at once: from CSV, Parquet and SQLite files, from Arrow, from whatever gives mappings.

A table without rows is built from below, tree by tree, from sorted entries; into one that has rows they are put one by
one. Either way all of them come in, or none.
"""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from reprlib import repr as brief
from typing import Any, Final, NamedTuple, Protocol

from perdure.data.parts import Part
from perdure.data.rows import Cells, from_sql
from perdure.data.store import Store
from perdure.errors import MalformedError, StorageError, UnsupportedError
from perdure.reading_sql import quoted
from perdure.values.format import Value
from perdure.values.packed import pack

__all__ = ["LoadedTable", "load_rows"]

_BATCH_ROWS: Final = 8_192
_SQLITE_MAGIC: Final = b"SQLite format 3\0"
_PARQUET_MAGIC: Final = b"PAR1"


class Batch(NamedTuple):
    """Names of columns, rows, and what makes a value of a row one that is packed."""

    names: Sequence[str]
    rows: Iterable[Sequence[Value]]
    put: Callable[[Cells, Value], Value]


def _put(cell: Cells, value: Value) -> Value:
    return cell.to_plain(value)


def _put_text(cell: Cells, text: str) -> Value:
    """A value of a CSV file; an empty one is null where it may be."""
    kind = cell.format.kind.name
    if text == "" and cell.column.is_optional:
        return cell.to_plain(None)
    try:
        if kind in _FROM_TEXT:
            return cell.to_plain(_FROM_TEXT[kind](text))
        return cell.to_plain(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"column {cell.column.name!r}: {brief(text)}: {error}") from error


_TRUTH: Final = {"true": True, "false": False, "1": True, "0": False}
_FROM_TEXT: Final[Mapping[str, Callable[[str], Value]]] = {
    "integer": int,
    "float": float,
    "text": str,
    "bytes": bytes.fromhex,
    "principal": str,
    "bool": lambda text: _TRUTH.get(text.lower(), text),
}


class LoadedTable(Protocol):
    """What loading has to know of a table."""

    store: Store

    @property
    def name(self) -> str:
        """In the catalogue."""
        ...

    @property
    def cells(self) -> Sequence[Cells]:
        """How values of each column go in and out."""
        ...

    @property
    def all_parts(self) -> Sequence[Part]:
        """All trees, the first one first."""
        ...

    def __len__(self) -> int: ...

    def put_plain(self, row: list[Value], *, is_new: bool = False) -> None:
        """Set the row of its key."""
        ...

    def constraint(self, message: str) -> Exception:
        """The error of rows that the table does not take."""
        ...


def load_rows(
    table: LoadedTable,
    source: Any,
    *,
    source_table: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> int:
    """Add rows; how many.

    Args:
        table: where they go.
        source: a path to a CSV, Parquet or SQLite file, which its first bytes tell; an Arrow table or reader; or
            mappings, one for each row.
        source_table: of an SQLite file with several.
        columns: the source's name of columns that it calls otherwise.

    Raises:
        ConstraintError: a key or unique values twice, or one that is there.
        ValueError: columns that the table has not, or lacks; a value that is none of its column.
        StorageError: the file cannot be read.
    """
    renamed = {theirs: ours for ours, theirs in (columns or {}).items()}
    rows = _plain_rows(table, _batches(source, source_table), renamed)
    if len(table) or table.store.journal.has_savepoint:
        with table.store.journal.transaction():
            count = 0
            for row in rows:
                table.put_plain(row, is_new=True)
                count += 1
            return count
    return _build(table, rows)


def _build(table: LoadedTable, rows: Iterable[list[Value]]) -> int:
    """Fill an empty table from below."""
    first, *others = table.all_parts
    entries: list[list[tuple[bytes, bytes]]] = [[] for _ in table.all_parts]
    for row in rows:
        key = pack([row[one] for one in first.key])
        entries[0].append((key, first.value_of(row)))
        for part, kept in zip(others, entries[1:], strict=True):
            kept.append((key, part.value_of(row)) if part.value else (pack([row[one] for one in part.key]), b""))
    for part, kept in zip(table.all_parts, entries, strict=True):
        kept.sort()
        _check_apart(table, part, kept)
    table.store.flush()
    for part, kept in zip(table.all_parts, entries, strict=True):
        part.tree.build(kept)
    return len(entries[0])


def _check_apart(table: LoadedTable, part: Part, entries: list[tuple[bytes, bytes]]) -> None:
    for (one, _), (other, _) in pairwise(entries):
        if one == other:
            raise table.constraint(f"two rows of key {part.shown(one)}")
        if part.is_unique and (same := part.common(one, other)) is not None:
            raise table.constraint(f"two rows have {same}, which is unique")


def _plain_rows(table: LoadedTable, batches: Iterator[Batch], renamed: Mapping[str, str]) -> Iterator[list[Value]]:
    cells = {one.column.name: (at, one) for at, one in enumerate(table.cells) if one.column.state != "unused"}
    for names, rows, put in batches:
        ours = [renamed.get(one, one) for one in names]
        unknown = [one for one in ours if one not in cells]
        if unknown:
            raise ValueError(f"{table.name} has no column {unknown[0]!r}, there are {', '.join(cells)}")
        missing = [one.column for name, (_, one) in cells.items() if name not in ours]
        wanted = [one.name for one in missing if not one.is_optional and one.default is None]
        if wanted:
            raise ValueError(f"{table.name}: the source has no column {wanted[0]!r}, which is never null")
        blank: list[Value] = [one.column.default for one in table.cells]
        places = [cells[one] for one in ours]
        for row in rows:
            made = blank.copy()
            for (at, cell), value in zip(places, row, strict=True):
                made[at] = put(cell, value)
            yield made


# -- where rows come from


def _batches(source: Any, source_table: str | None) -> Iterator[Batch]:
    if isinstance(source, str | Path):
        return _of_file(Path(source), source_table)
    if hasattr(source, "to_batches"):
        return _of_arrow(source.to_batches())
    if hasattr(source, "read_next_batch"):
        return _of_arrow(source)
    return _of_mappings(source)


def _of_file(path: Path, source_table: str | None) -> Iterator[Batch]:
    try:
        with path.open("rb") as file:
            head = file.read(len(_SQLITE_MAGIC))
    except OSError as error:
        raise StorageError((error.strerror or str(error)).lower(), path) from error
    if head == _SQLITE_MAGIC:
        return _of_sqlite(path, source_table)
    if head.startswith(_PARQUET_MAGIC):
        return _of_parquet(path)
    return _of_csv(path)


def _of_arrow(batches: Iterable[Any]) -> Iterator[Batch]:
    for batch in batches:
        yield Batch(batch.schema.names, zip(*(column.to_pylist() for column in batch.columns), strict=True), _put)


def _of_parquet(path: Path) -> Iterator[Batch]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UnsupportedError("Parquet needs `pip install 'perdure[columns]'`").coded("extra-missing") from error
    try:
        with pq.ParquetFile(path) as file:
            yield from _of_arrow(file.iter_batches(_BATCH_ROWS))
    except pa.ArrowException as error:
        raise MalformedError(f"{path}: no Parquet: {error}") from error


def _of_mappings(rows: Iterable[Mapping[str, Value]]) -> Iterator[Batch]:
    for row in rows:
        yield Batch(list(row), [list(row.values())], _put)


def _of_sqlite(path: Path, source_table: str | None) -> Iterator[Batch]:
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        name = source_table or _only_table(connection, path)
        found = connection.execute(f"select * from {quoted(name)}")
        names = [one[0] for one in found.description]
        while rows := found.fetchmany(_BATCH_ROWS):
            yield Batch(names, rows, from_sql)
    except sqlite3.Error as error:
        raise MalformedError(f"{path}: SQLite: {error}") from error
    finally:
        connection.close()


def _only_table(connection: sqlite3.Connection, path: Path) -> str:
    names = [
        one
        for (one,) in connection.execute("select name from sqlite_schema where type = 'table'")
        if not one.startswith("sqlite_")
    ]
    if len(names) != 1:
        raise ValueError(f"{path} has the tables {', '.join(names) or 'none'}: say which, source_table=...")
    return str(names[0])


def _of_csv(path: Path) -> Iterator[Batch]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            names = next(reader, None)
            if names is None:
                raise MalformedError(f"{path}: no CSV: a first line with the names of the columns is expected")
            yield Batch(names, _lines(path, reader, len(names)), _put_text)
    except (csv.Error, UnicodeDecodeError) as error:
        raise MalformedError(f"{path}: no CSV: {error}") from error


def _lines(path: Path, reader: Any, width: int) -> Iterator[list[str]]:
    for row in reader:
        if len(row) != width:
            raise MalformedError(f"{path}, line {reader.line_num}: {len(row)} values, expected {width}")
        yield row
