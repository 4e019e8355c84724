"""What there is: ls, tree, schema."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perdure.cli.completing import complete_source
from perdure.cli.console import Node
from perdure.cli.console import tree as show_tree
from perdure.cli.stable.show import print_json, print_table, show_size
from perdure.cli.stable.source import about_nothing, opened, options, sql_errors
from perdure.cli.terminal import LAYOUT, printable
from perdure.units import counted

if TYPE_CHECKING:
    from perdure.inspection.find import Inventory, Structure
    from perdure.inspection.rows import Rows

__all__ = ["ls", "schema", "tree"]


@click.command()
@click.argument("source", shell_complete=complete_source)
@options
def ls(source: str, as_json: bool, quiet: bool, schema_path: Path | None) -> None:
    """List every memory and the structure in it, found unaided; of a Motoko canister, its stable variables by type.

    Of a state directory alone it lists the canisters, as the SOURCEs that they are.

    \b
    Example:
        perdure stable ls canister.bin
        perdure stable ls --json ./my-snapshot
    """  # noqa: D301
    from perdure.inspection.report import inventory_json

    if _is_state(Path(source)):
        _list_canisters(Path(source), as_json=as_json, quiet=quiet)
        return
    with opened(source, schema_path) as (inventory, _):
        if as_json:
            print_json({**inventory_json(inventory), "note": about_nothing(source, inventory) or None})
        elif quiet:
            for structure in inventory.structures:
                click.echo(structure.name or structure.label)
            for variable in inventory.variables.tables():
                click.echo(variable.name)
        else:
            _print_inventory(inventory)
            if note := about_nothing(source, inventory):
                click.echo(note)


def _is_state(path: Path) -> bool:
    return (path / "checkpoint").is_file() and not (path / "metadata.json").exists()


def _list_canisters(path: Path, *, as_json: bool, quiet: bool) -> None:
    from perdure.inspection.state import canisters_of

    found = canisters_of(path)
    if as_json:
        names = ("source", "canister_id", "name", "wasm_pages", "memories")
        listed = [{name: getattr(one, name) for name in names} | {"canister_id": str(one.canister_id)} for one in found]
        print_json({"source": str(path), "canisters": listed})
        return
    if quiet:
        for one in found:
            click.echo(printable(one.source))
        return
    click.echo(f"{printable(str(path))}: {counted(len(found), 'canister')}")
    rows = [(printable(one.source), one.canister_id, show_size(one.wasm_pages << 16)) for one in found]
    print_table(("source", "id", "stable memory"), rows, right=("stable memory",), whole=("source", "id"))


def _note_of(structure: Structure) -> str:
    from perdure.inspection.report import tables_in

    tables = tables_in(structure)
    if tables is None:
        return structure.note
    names = ", ".join(tables["tables"]) or "no tables"
    if tables["views"]:
        names += f"; views {', '.join(tables['views'])}"
    return f"{printable(names)}: {structure.note}"


def _print_inventory(inventory: Inventory) -> None:
    from perdure.inspection.overwritten import lost_manager

    click.echo(f"{inventory.label}: {inventory.memory.size()} Wasm pages ({show_size(inventory.memory.size() << 16)})")
    for manager in inventory.managers:
        header = manager.header
        where = "" if manager.wasm_page == 0 else f" at Wasm page {manager.wasm_page}"
        kind = "big-endian (Motoko) " if manager.is_motoko else ""
        click.echo(
            f"{kind}memory manager{where}: version {header.version}, {header.allocated_buckets} buckets of "
            f"{header.bucket_wasm_pages} Wasm pages{'; ' + manager.trouble if manager.trouble else ''}"
        )
    lost = lost_manager(inventory)
    if lost is not None:
        click.echo(f"no memory manager: {lost.message}")
    columns = ("memory", "name", "kind", "v", "entries", "key", "value", "used", "set aside", "wasted", "note")
    if not inventory.structures and inventory.variables.tables():
        _print_variables(inventory)
        return
    rows = [
        (
            structure.label if structure.data_memory_id is None else f"{structure.label}+{structure.data_memory_id}",
            structure.name,
            structure.kind,
            structure.version,
            structure.entries,
            structure.key,
            structure.value,
            show_size(structure.used_bytes),
            show_size(structure.allocated_bytes),
            show_size(structure.wasted_bytes),
            _note_of(structure),
        )
        for structure in inventory.structures
    ]
    shown = [index for index, column in enumerate(columns) if column == "memory" or any(row[index] for row in rows)]
    if rows:
        print_table(
            [columns[index] for index in shown],
            [[row[index] for index in shown] for row in rows],
            right=("v", "entries", "used", "set aside", "wasted"),
            whole=("memory", "name", "kind", "v", "entries"),
        )
    _print_variables(inventory)


def _print_variables(inventory: Inventory) -> None:
    """Motoko's stable variables; no value is read."""
    tables = inventory.variables.tables()
    if tables:
        print_table(("variable", "type"), [(one.name, str(one.type)) for one in tables], whole=("variable",))


@click.command()
@click.argument("source", shell_complete=complete_source)
@options
def tree(source: str, as_json: bool, quiet: bool, schema_path: Path | None) -> None:
    """Show how memories and structures nest.

    Manager, memories, structures, and the shape of each B-tree. Reads every node; needs the extra "columns".

    \b
    Example:
        perdure stable tree canister.bin
    """  # noqa: D301
    from perdure.inspection.fsck import fsck as check
    from perdure.inspection.report import inventory_json

    with opened(source, schema_path) as (inventory, schema):
        facts = check(inventory, schema).facts
        shapes = {label: vars(found) for label, found in facts.items()}
        if as_json:
            print_json(inventory_json(inventory, shapes))
        else:
            _print_tree(inventory, shapes, quiet=quiet)


def _print_tree(inventory: Inventory, shapes: dict[str, dict[str, Any]], *, quiet: bool) -> None:
    root = parent = Node(inventory.label, [])
    for manager in inventory.managers:
        parent = Node(f"memory manager, {manager.header.allocated_buckets} buckets", [])
        root.below.append(parent)
    for structure in inventory.structures:
        name = f" {structure.name}" if structure.name else ""
        entries = "" if structure.entries is None else f", {structure.entries} entries"
        version = "" if structure.version is None else f" version {structure.version}"
        node = Node(f"{structure.label}{name}: {structure.kind}{version}{entries}", [])
        parent.below.append(node)
        if quiet:
            continue
        if structure.key is not None or structure.value is not None:
            widths = [
                f"{what} {width}" for what, width in (("key", structure.key), ("value", structure.value)) if width
            ]
            node.below.append(Node(f"bytes: {', '.join(widths)}", []))
        for what, number in shapes.get(structure.label, {}).items():
            if number:
                node.below.append(Node(f"{what.replace('_', ' ')}: {number}", []))
        if note := _note_of(structure):
            node.below.append(Node(note, []))
    show_tree(root)


@click.command()
@click.argument("source", shell_complete=complete_source)
@options
def schema(source: str, as_json: bool, quiet: bool, schema_path: Path | None) -> None:
    """Show the SQL tables that query and export see.

    \b
    Example:
        perdure stable schema canister.bin
    """  # noqa: D301
    from perdure.inspection.sql import open_tables

    with opened(source, schema_path) as (inventory, declared):
        tables, reasons = open_tables(inventory, declared)
        found = _statements(inventory)
        variables_of = inventory.variables.tables()
        if as_json:
            variables = [
                {"name": one.name, "columns": list(one.columns), "type": str(one.type)} for one in variables_of
            ]
            print_json([*map(_table_json, tables), *found, *variables])
            return
        for statement in found:
            click.echo(f"{printable(statement['sql'], keep=LAYOUT)};")
        for table in tables:
            columns = [*_columns_of(table, table.key_columns), *_columns_of(table, table.value_columns)]
            click.echo(f"create table {table.name} ({', '.join(columns)});")
        for one in variables_of:
            columns = [
                f"{name} /* {kind if kind.bits else kind.name} */"
                for name, kind in zip(one.columns, one.kinds, strict=True)
            ]
            click.echo(f"create table {one.name} ({', '.join(columns)});")
        for reason in () if quiet else reasons:
            click.echo(f"-- {reason}", err=True)


def _statements(inventory: Inventory) -> list[dict[str, Any]]:
    """What the databases of SQLite were made with."""
    if not any(structure.kind == "sqlite" for structure in inventory.structures):
        return []
    from perdure.inspection.sqlite import databases, open_database

    sql = "select type, name, sql from sqlite_schema where sql is not null"
    statements = []
    with sql_errors():
        for structure in databases(inventory):
            for kind, name, text in open_database(structure).connection.execute(sql):
                statements.append({"name": name, "memory": structure.label, "type": kind, "sql": str(text)})
    return statements


def _columns_of(table: Rows, names: Sequence[str]) -> list[str]:
    codec = table.value
    if names is table.key_columns:
        if table.key is None:
            return [f"{name} /* position */" for name in names]
        codec = table.key
    parts = codec.parts or [codec] * len(names)
    return [f"{name} /* {part.name} */" for name, part in zip(names, parts, strict=True)]


def _table_json(table: Rows) -> dict[str, Any]:
    return {
        "name": table.name,
        "memory": table.structure.label,
        "entries": len(table),
        "columns": list(table.columns),
        "key": table.key.name if table.key is not None else None,
        "value": table.value.name,
    }
