"""What is in them: rows, get, query."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import click

from perdure.cli.completing import complete_source, complete_structure
from perdure.cli.stable.show import print_json, print_table, printable
from perdure.cli.stable.source import (
    FOUND_WRONG,
    open_database_table,
    open_table,
    opened,
    options,
    reading,
    sql_errors,
)
from perdure.cli.terminal import LAYOUT, json_text
from perdure.cli.terminal import printable as plain

if TYPE_CHECKING:
    from perdure.inspection.find import Inventory
    from perdure.inspection.rows import Bound, Rows
    from perdure.inspection.sqlite import DatabaseTable
    from perdure.inspection.variables import VariableTable
    from perdure.values.schema import Schema

__all__ = ["get", "query", "rows"]

_SIGILS: Final = ":@$"
"""What parameters begin with in SQL."""


@click.command()
@click.argument("source", shell_complete=complete_source)
@click.argument("structure", required=False, shell_complete=complete_structure)
@click.option("--limit", type=click.IntRange(min=0), default=20, show_default=True, help="Rows to show; 0 for all.")
@click.option("--from", "low", help="The first key or position.")
@click.option("--to", "high", help="The last key or position.")
@click.option("--reverse", is_flag=True, help="Backwards, from the last key on.")
@click.option("--nl", is_flag=True, help="One JSON object a line.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV.")
@options
def rows(
    source: str,
    structure: str | None,
    limit: int,
    low: str | None,
    high: str | None,
    reverse: bool,
    nl: bool,
    as_csv: bool,
    as_json: bool,
    quiet: bool,
    schema_path: Path | None,
) -> None:
    """Show the entries of a structure, in its own order.

    STRUCTURE is a memory id, page:N, a name from the schema, a table of an SQLite database, or a stable variable of
    Motoko; where there is only one, it need not be named. Keys are written as numbers, text, principals, hexadecimal
    (raw), or JSON, as their type asks.

    \b
    Example:
        perdure stable rows canister.bin 0 --limit 5
        perdure stable rows canister.bin users --from 2vxsx-fae --nl
    """  # noqa: D301
    from itertools import islice

    with opened(source, schema_path) as (inventory, declared):
        structure = _only(inventory) if structure is None else structure
        rows_of = open_database_table(inventory, structure)
        if rows_of is not None:
            with reading(rows_of):
                found = rows_of.rows(_row_bound(rows_of, low), _row_bound(rows_of, high), reverse=reverse)
                shown = islice(found, limit or None)
                _print_rows(rows_of.columns, shown, as_json=as_json, nl=nl, as_csv=as_csv, quiet=quiet)
            return
        table = open_table(inventory, declared, structure)
        entries = table.entries(_bound(table, low), _bound(table, high), reverse=reverse)
        decoded = (table.decode(entry) for entry in islice(entries, limit or None))
        _print_rows(table.columns, decoded, as_json=as_json, nl=nl, as_csv=as_csv, quiet=quiet)


def _only(inventory: Inventory) -> str:
    """The one structure that there is to read."""
    known = [one.name or one.label for one in inventory.structures]
    known += [variable.name for variable in inventory.variables.tables()]
    if len(known) != 1:
        found = f"found {', '.join(map(printable, known))}" if known else "and none was found"
        raise click.UsageError(f"name the structure whose rows are wanted, {found}")
    return known[0]


def _bound(table: Rows, text: str | None) -> Bound | None:
    from perdure.inspection.rows import Bound

    return None if text is None else Bound(_key_of(table, text))


def _row_bound(table: DatabaseTable | VariableTable, text: str | None) -> Any:
    """A key of a table of SQLite, or a position: where that is a number, nothing else is, and SQLite finds none."""
    if text is not None and table.is_numbered and not re.fullmatch(r"-?\d+(\.\d*)?", text, re.ASCII):
        raise click.BadParameter(f"{text!r} is no integer, and rows of {plain(table.name)} go by their {table.keys[0]}")
    return None if text is None else _parameter(text)


def _key_of(table: Rows, text: str) -> Any:
    """The key or position that a person wrote."""
    try:
        return int(text, 0) if table.key is None else table.key.from_text(text)
    except ValueError as error:
        what = "position" if table.key is None else table.key.name
        raise click.BadParameter(f"{text!r} is no {what}: {error}") from error


def _print_rows(
    columns: Sequence[str], decoded: Iterable[Sequence[object]], *, as_json: bool, nl: bool, as_csv: bool, quiet: bool
) -> None:

    from perdure.values.show import to_json

    if as_json or nl:
        objects = (dict(zip(columns, map(to_json, row), strict=True)) for row in decoded)
        if nl:
            for found in objects:
                click.echo(json_text(found, indent=None))
        else:
            print_json(list(objects))
    elif as_csv:
        import csv

        from perdure.values.show import to_text

        writer = csv.writer(_Shown() if sys.stdout.isatty() else sys.stdout, lineterminator="\n")
        if not quiet:
            writer.writerow(columns)
        writer.writerows([to_text(value) for value in row] for row in decoded)
    elif quiet:
        for row in decoded:
            click.echo("\t".join(printable(value) for value in row))
    else:
        _print_for_people([printable(column) for column in columns], decoded)


@final
class _Shown:
    """A terminal that obeys nothing of what is written; a file or another program gets it as it is."""

    def write(self, text: str) -> None:
        click.echo(plain(text, keep=LAYOUT), nl=False)


def _print_for_people(columns: Sequence[str], decoded: Iterable[Sequence[object]]) -> None:
    """As a table; what has nothing but numbers stands at the right."""
    texts = []
    others: set[str] = set()
    for row in decoded:
        texts.append([printable(value) for value in row])
        others.update(name for name, value in zip(columns, row, strict=True) if not _is_number(value))
    print_table(columns, texts, right=[name for name in columns if texts and name not in others])


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


@click.command()
@click.argument("source", shell_complete=complete_source)
@click.argument("structure", shell_complete=complete_structure)
@click.argument("key", required=False)
@click.option("--raw", "as_raw", is_flag=True, help="The bytes of the value as they are.")
@options
def get(
    source: str, structure: str, key: str | None, as_raw: bool, as_json: bool, quiet: bool, schema_path: Path | None
) -> None:
    """Show the value of one key, or at one position. Exit code 1 if there is none.

    A cell needs no KEY.

    \b
    Example:
        perdure stable get canister.bin 0 42
        perdure stable get canister.bin users 2vxsx-fae --json
    """  # noqa: D301
    with opened(source, schema_path) as (inventory, declared):
        rows_of = open_database_table(inventory, structure)
        if rows_of is not None:
            if (key is None and rows_of.keys) or as_raw:
                raise click.UsageError("which key? a row of SQLite or a variable is shown by it, and not --raw")
            _print_row(rows_of, key, as_json=as_json, quiet=quiet)
            return
        table = open_table(inventory, declared, structure)
        if key is None and table.key_columns:
            raise click.UsageError("which key? only a cell has none")
        at = 0 if key is None else _key_of(table, key)
        data = table.get(at)
        if data is None:
            if not quiet:
                click.echo(f"perdure: no entry {key!r} in {table.name}", err=True)
            raise click.exceptions.Exit(FOUND_WRONG)
        _print_value(table, (at, data), as_json=as_json, as_raw=as_raw)


def _print_row(table: DatabaseTable | VariableTable, key: str | None, *, as_json: bool, quiet: bool) -> None:
    """The row of a rowid, of the first column of a primary key, or of a position; the only one of a variable."""
    from perdure.values.show import to_json, to_text

    with reading(table):
        row = next(table.rows(_row_bound(table, key), _row_bound(table, key)), None)
    if row is None:
        if not quiet:
            click.echo(f"perdure: no row {key!r} in {plain(table.name)}", err=True)
        raise click.exceptions.Exit(FOUND_WRONG)
    if as_json:
        print_json(dict(zip(table.columns, map(to_json, row), strict=True)))
    else:
        click.echo("\t".join("" if value is None else plain(str(to_text(value))) for value in row))


def _print_value(table: Rows, entry: tuple[object, bytes], *, as_json: bool, as_raw: bool) -> None:
    from perdure.values.show import to_json, to_text

    if as_raw:
        sys.stdout.buffer.write(entry[1])
    elif as_json:
        print_json(dict(zip(table.columns, map(to_json, table.decode(entry)), strict=True)))
    else:
        values = [to_text(value) for value in table.decode_value(entry[1])]
        click.echo("\t".join("" if value is None else str(value) for value in values))


@click.command()
@click.argument("source", shell_complete=complete_source)
@click.argument("sql")
@click.option("-p", "--param", "params", type=(str, str), multiple=True, help="A named parameter and its value.")
@click.option("--nl", is_flag=True, help="One JSON object a line.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV.")
@click.option("--pages", is_flag=True, help="Not the rows: plan and pages, by table and index of an SQLite database.")
@options
def query(
    source: str,
    sql: str,
    params: tuple[tuple[str, str], ...],
    nl: bool,
    as_csv: bool,
    pages: bool,
    as_json: bool,
    quiet: bool,
    schema_path: Path | None,
) -> None:
    """Run SQL over the structures as tables, and over SQLite databases where they lie.

    It reads: whatever would change something or reach a file is refused.

    Tables are named as schema shows; needs the extra "sql". Conditions on keys become lookups and ranges. Composed
    values are JSON: json_extract(value, '$.name').

    \b
    Example:
        perdure stable query canister.bin "select count(*) from memory_0"
        perdure stable query canister.bin "select * from users where key = :k" -p k 2vxsx-fae
    """  # noqa: D301
    from perdure.inspection.sql import connect

    bindings = _Parameters(params, sql)
    with opened(source, schema_path) as (inventory, declared), sql_errors(lambda: _known(inventory, declared)):
        if pages:
            _print_pages(inventory, sql, bindings, as_json=as_json, quiet=quiet)
            return
        connection = connect(inventory, declared)
        import apsw

        try:
            cursor = connection.execute(sql, bindings)
            described = cursor.get_description() if cursor.is_readonly else ()
            columns = [column[0] for column in described]
            _print_rows(columns, cursor, as_json=as_json, nl=nl, as_csv=as_csv, quiet=quiet)
        except apsw.ExecutionCompleteError:
            _print_rows([], [], as_json=as_json, nl=nl, as_csv=as_csv, quiet=quiet)


@final
class _Parameters(Mapping[str, Any]):
    """What was given by ``-p`` for some SQL."""

    def __init__(self, params: Iterable[tuple[str, str]], sql: str) -> None:
        self._given = {name.lstrip(_SIGILS): _parameter(value) for name, value in params}
        for name in self._given:
            if not re.search(rf"[{_SIGILS}]{re.escape(name)}(?!\w)", sql):
                raise click.BadParameter(f"SQL does not ask for {name!r}: write :{name} where it goes")

    def __getitem__(self, name: str) -> Any:
        if name not in self._given:
            from perdure.errors import UnsupportedError

            given = ", ".join(self._given) or "none"
            raise UnsupportedError(f"SQL asks for :{name}, give it by -p {name} VALUE; found {given}")
        return self._given[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)


def _print_pages(inventory: Inventory, sql: str, bindings: Any, *, as_json: bool, quiet: bool) -> None:
    from perdure.inspection.sqlite_pages import explain_pages

    explained = explain_pages(inventory, sql, bindings)
    if as_json:
        print_json(explained.to_json())
        return
    rows = [(printable(used.name), printable(used.kind), used.read, used.total) for used in explained.used]
    rows.append(("in all", "", explained.read, explained.total))
    print_table(("pages of", "kind", "read", "of"), rows, right=("read", "of"))
    if not quiet:
        for step in explained.plan:
            click.echo(f"plan: {plain(step)}")
        size = f"{explained.page_bytes} bytes"
        click.echo(f"{explained.rows} rows; pages of {size}, {explained.stable_pages} of 4096 bytes")


def _known(inventory: Inventory, schema: Schema | None) -> str:
    from perdure.inspection.sql import open_tables
    from perdure.inspection.sqlite import databases, table_kinds

    tables, reasons = open_tables(inventory, schema)
    names = [table.name for table in tables] + [variable.name for variable in inventory.variables.tables()]
    for structure in databases(inventory):
        names += [name for name, kind in table_kinds(structure).items() if kind != "shadow"]
    return "; ".join([", ".join(names) or "none", *reasons])


def _parameter(text: str) -> Any:
    """A parameter as SQLite takes it: what is written as a number is one, also past 63 bits."""
    from perdure.values.show import to_sql

    is_number = text.removeprefix("-").isdecimal() and text == str(int(text))
    return to_sql(int(text)) if is_number else text
