"""To Parquet, Arrow, CSV, NDJSON, SQLite and DuckDB."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from perdure.cli.completing import complete_source, complete_structure
from perdure.cli.paths import LocalPath
from perdure.cli.progress import progress
from perdure.cli.stable.source import (
    about_nothing,
    open_database_table,
    open_table,
    opened,
    options,
    sql_errors,
)
from perdure.cli.terminal import json_text

if TYPE_CHECKING:
    from perdure.inspection.export import AnyTable, Tell
    from perdure.inspection.find import Inventory
    from perdure.inspection.sqlite import DatabaseTable
    from perdure.values.schema import Schema

__all__ = ["export"]

_FORMS: Final = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".csv": "csv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".db": "sqlite",
    ".sqlite": "sqlite",
    ".sqlite3": "sqlite",
    ".duckdb": "duckdb",
}
_FORMATS: Final = ("parquet", "arrow", "csv", "ndjson", "sqlite", "duckdb")
_OF_MANY: Final = ("sqlite", "duckdb")


@click.command()
@click.argument("source", shell_complete=complete_source)
@click.argument("structures", nargs=-1, shell_complete=complete_structure)
@click.option(
    "-o",
    "--output",
    required=True,
    type=LocalPath(path_type=Path),
    help="The file, or a directory of files; - is standard output.",
)
@click.option("--format", "form", type=click.Choice(_FORMATS), help="Taken from the file's name if not said.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Read a map in parts by so many processes; rows come in no order. For Parquet and Arrow.",
)
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
@options
def export(
    source: str,
    structures: tuple[str, ...],
    output: Path,
    form: str | None,
    workers: int | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    schema_path: Path | None,
) -> None:
    """Write structures, tables of SQLite databases and stable variables to files that others read.

    All of them, if none is named; extract gives a database as it is. SQLite, which Datasette opens, and DuckDB hold any
    number; Parquet, Arrow, CSV and NDJSON (a JSON object a line) hold one a file: for several, OUTPUT is a directory.

    \b
    Example:
        perdure stable export canister.bin -o canister.db
        perdure stable export canister.bin users -o users.parquet
        perdure stable export canister.bin users -o - --format ndjson | jq .name
    """  # noqa: D301
    from perdure.errors import UnsupportedError
    from perdure.inspection.sql import open_tables

    form = _format_of(output, form)
    with opened(source, schema_path) as (inventory, declared):
        tables: list[AnyTable] = []
        reasons: list[str] = []
        if structures:
            tables += [_named(inventory, declared, name) for name in structures]
        else:
            found, reasons = open_tables(inventory, declared)
            tables += [*found, *_database_tables(inventory), *inventory.variables.tables()]
        if not tables:
            raise UnsupportedError("; ".join((f"nothing to export: {about_nothing(source, inventory)}", *reasons)))
        _check_many(tables, output, form)
        is_sql = any(structure.kind == "sqlite" for structure in inventory.structures)
        with sql_errors() if is_sql else nullcontext(), progress("exporting", _total(tables), "rows", quiet) as tell:
            if workers is not None:
                written = _export_in_parts(source, tables, output, form, workers, overwrite, tell)
            else:
                written = _export(tables, output, form, overwrite, tell)
        if as_json:
            click.echo(json_text(written), err=str(output) == "-")
        elif not quiet:
            for name, number in written.items():
                click.echo(f"{name}: {number} rows", err=str(output) == "-")
            for reason in reasons:
                click.echo(f"left out: {reason}", err=True)


def _format_of(output: Path, form: str | None) -> str:
    said = _FORMS.get(output.suffix)
    if form is not None and said not in (None, form):
        raise click.UsageError(f"{output.name} is the name of {said}, not of {form}")
    form = form or said
    if form is None:
        raise click.UsageError(f"which --format? one of {', '.join(_FORMATS)}")
    if str(output) == "-" and sys.stdout is None:
        raise click.UsageError("standard output is closed, - writes there")
    if str(output) == "-" and form in _OF_MANY:
        raise click.UsageError(f"{form} is a file that is written here and there, and no stream: give it a name")
    return form


def _check_many(tables: list[AnyTable], output: Path, form: str) -> None:
    """Refuse several tables in a file that holds one."""
    is_one = str(output) == "-" or (output.suffix in _FORMS and not output.is_dir())
    if len(tables) > 1 and form not in _OF_MANY and is_one:
        listed = ", ".join(table.name for table in tables)
        other = "" if str(output) == "-" else ", or a directory for all"
        raise click.UsageError(f"{output.name} holds one structure, name which{other}: {listed}")


def _total(tables: list[AnyTable]) -> int | None:
    """How many rows there are, where that costs nothing to know."""
    from perdure.inspection.rows import Rows

    structures = [one for one in tables if isinstance(one, Rows)]
    return sum(map(len, structures)) if len(structures) == len(tables) else None


def _named(inventory: Inventory, declared: Schema | None, name: str) -> AnyTable:
    return open_database_table(inventory, name) or open_table(inventory, declared, name)


def _database_tables(inventory: Inventory) -> list[DatabaseTable]:
    """All tables of all databases but those that a virtual table keeps for itself."""
    if not any(structure.kind == "sqlite" for structure in inventory.structures):
        return []
    from perdure.inspection.sqlite import databases, open_database

    with sql_errors():
        found = [open_database(structure).tables(("table", "virtual")) for structure in databases(inventory)]
    return [table for tables in found for table in tables]


def _export_in_parts(
    source: str, tables: list[AnyTable], output: Path, form: str, workers: int, overwrite: bool, tell: Tell
) -> dict[str, int]:
    from perdure.fleet.scan import Scan, export_in_parts, processes
    from perdure.inspection.export import file_of
    from perdure.inspection.rows import Rows

    if form not in ("parquet", "arrow") or "-" in (source, str(output)):
        raise click.UsageError("--workers reads a SOURCE that each of them can open, into a Parquet or Arrow file")
    written = {}
    for table in tables:
        if not isinstance(table, Rows):
            raise click.UsageError(f"--workers is for maps, {table.name} is none")
        path = file_of(table, output, form) if output.is_dir() else output
        scan = Scan(source, table, processes(workers))
        written[table.name] = export_in_parts(
            scan, path, "parquet" if form == "parquet" else "arrow", overwrite=overwrite, tell=tell
        )
    return written


def _export(tables: list[AnyTable], output: Path, form: str, overwrite: bool, tell: Tell) -> dict[str, int]:
    from perdure.inspection.export import export_database, export_file, export_stream, file_of

    if form in _OF_MANY:
        return export_database(tables, output, form, overwrite=overwrite, tell=tell)
    written = {}
    for table in tables:
        if str(output) == "-":
            written[table.name] = export_stream(table, sys.stdout.buffer, form, tell=tell)
            continue
        path = output
        if len(tables) > 1 or output.is_dir():
            output.mkdir(parents=True, exist_ok=True)
            path = file_of(table, output, form)
        written[table.name] = export_file(table, path, form, overwrite=overwrite, tell=tell)
    return written
