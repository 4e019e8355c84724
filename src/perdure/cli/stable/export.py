"""To Parquet, CSV and SQLite."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from perdure.cli.stable.show import print_json
from perdure.cli.stable.source import (
    about_nothing,
    open_database_table,
    open_table,
    opened,
    options,
    sql_errors,
)

if TYPE_CHECKING:
    from perdure.inspection.export import AnyTable
    from perdure.inspection.find import Inventory
    from perdure.inspection.sqlite import DatabaseTable
    from perdure.values.schema import Schema

__all__ = ["export"]

_FORMS: Final = {".parquet": "parquet", ".csv": "csv", ".db": "sqlite", ".sqlite": "sqlite", ".sqlite3": "sqlite"}


@click.command()
@click.argument("source")
@click.argument("structures", nargs=-1)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The file, or a directory of files."
)
@click.option(
    "--format", "form", type=click.Choice(("parquet", "csv", "sqlite")), help="Taken from the file's name if not said."
)
@options
def export(
    source: str,
    structures: tuple[str, ...],
    output: Path,
    form: str | None,
    as_json: bool,
    quiet: bool,
    schema_path: Path | None,
) -> None:
    """Write structures, tables of SQLite databases and stable variables to Parquet, CSV or SQLite.

    All of them, if none is named; extract gives a database as it is. Datasette opens the SQLite file as it is.

    Parquet and CSV hold one structure a file: for several, OUTPUT is a directory.

    \b
    Example:
        perdure stable export canister.bin -o canister.db
        perdure stable export canister.bin users -o users.parquet
    """  # noqa: D301
    from perdure.errors import UnsupportedError
    from perdure.inspection.sql import open_tables

    said = _FORMS.get(output.suffix)
    if form is not None and said not in (None, form):
        raise click.UsageError(f"{output.name} is the name of {said}, not of {form}")
    form = form or said
    if form is None:
        raise click.UsageError("which --format? parquet, csv or sqlite")
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
        if len(tables) > 1 and form != "sqlite" and said is not None and not output.is_dir():
            listed = ", ".join(table.name for table in tables)
            raise click.UsageError(f"{output.name} holds one structure, name which, or a directory for all: {listed}")
        with sql_errors() if any(structure.kind == "sqlite" for structure in inventory.structures) else nullcontext():
            written = _export(tables, output, form)
        if as_json:
            print_json(written)
        elif not quiet:
            for name, number in written.items():
                click.echo(f"{name}: {number} rows")
            for reason in reasons:
                click.echo(f"left out: {reason}", err=True)


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


def _export(tables: list[AnyTable], output: Path, form: str) -> dict[str, int]:
    from perdure.inspection.export import export_csv_file, export_parquet, export_sqlite, file_of

    if form == "sqlite":
        return export_sqlite(tables, output)
    written = {}
    for table in tables:
        path = output
        if len(tables) > 1 or output.is_dir():
            output.mkdir(parents=True, exist_ok=True)
            path = file_of(table, output, form)
        written[table.name] = (export_parquet if form == "parquet" else export_csv_file)(table, path)
    return written
