"""`perdure stable`: what is in any stable memory.

Importing this costs click and nothing else; NumPy, apsw and rich are imported by the commands that need them. One long
file, because eleven commands share their options, their ways of printing and their exit codes, and each is read alone.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console

    from perdure.inspection.diff import StructureDiff
    from perdure.inspection.find import Inventory, Structure
    from perdure.inspection.fsck import Report
    from perdure.inspection.schema import Schema
    from perdure.inspection.table import Bound, Table

__all__ = ["stable"]

FOUND_WRONG: Final = 1
COULD_NOT: Final = 2
_WIDE: Final = 200
_COLOURS: Final = ("blue", "yellow", "red", "cyan", "green", "magenta", "bright_blue", "bright_red", "white")

P = ParamSpec("P")
R = TypeVar("R")

SOURCE_HELP: Final = (
    "SOURCE is STATE_DIR:CANISTER, SNAPSHOT_DIR, FILE (a raw dump, gzip or not), or - for standard input."
)


@click.group()
def stable() -> None:
    """Show, query, compare and check what is in any stable memory.

    SOURCE is STATE_DIR:CANISTER, SNAPSHOT_DIR, FILE (a raw dump, gzip or not), or - for standard input.

    A stable.yaml in the current directory, or the one named by --schema, says what keys and values mean.

    \b
    Example:
        perdure stable ls ./my-snapshot
    """  # noqa: D301 - click wants the backspace itself


def _options(command: Callable[P, R]) -> Callable[P, R]:
    """What every command takes."""
    schema = click.option(
        "--schema",
        "schema_path",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="The schema file; ./stable.yaml if there is one.",
    )
    quiet = click.option("-q", "--quiet", is_flag=True, help="Nothing but what was asked for: no headings, no notes.")
    as_json = click.option("--json", "as_json", is_flag=True, help="JSON, and nothing else, on standard output.")
    return as_json(quiet(schema(_exit_codes(command))))


def _exit_codes(command: Callable[P, R]) -> Callable[P, R]:
    """Turn a damaged structure into exit code 1; what cannot be done is left to `perdure.cli.main`, code 2."""

    @functools.wraps(command)
    def wrapped(*arguments: P.args, **options: P.kwargs) -> R:
        from perdure.errors import MalformedError

        try:
            return command(*arguments, **options)
        except MalformedError as error:
            click.echo(f"perdure: {error}", err=True)
            raise click.exceptions.Exit(FOUND_WRONG) from error
        except ModuleNotFoundError as error:
            extra = {"numpy": "columns", "pyarrow": "columns", "apsw": "sql", "google": "protobuf"}.get(
                error.name or ""
            )
            if extra is None:
                raise
            raise click.ClickException(f"this needs `pip install 'perdure[{extra}]'`") from error
        except BrokenPipeError:
            sys.stderr.close()
            raise click.exceptions.Exit(0) from None

    return wrapped


@contextmanager
def _opened(source: str, schema_path: Path | None) -> Iterator[tuple[Inventory, Schema | None]]:
    """The inventory of a source, with the names of the schema."""
    from perdure.errors import MalformedError, UnsupportedError
    from perdure.inspection.find import find
    from perdure.inspection.schema import load_schema, name_structures
    from perdure.inspection.source import open_source

    default = Path("stable.yaml")
    path = schema_path or (default if default.is_file() else None)
    try:
        schema = load_schema(path) if path is not None else None
    except MalformedError as error:
        raise UnsupportedError(f"{path}: {error}") from error
    try:
        opened = open_source(source)
    except MalformedError as error:
        raise UnsupportedError(f"{source}: {error}") from error
    pairs = {label: entry.data for label, entry in schema.memories.items() if entry.data is not None} if schema else {}
    with opened:
        yield name_structures(find(opened, pairs), schema), schema


def _open_table(inventory: Inventory, schema: Schema | None, name: str) -> Table:
    from perdure.inspection.table import open_table

    return open_table(inventory.structure(name), schema)


# Output


def _print_json(value: Any) -> None:
    import json

    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _console() -> Console:
    """Colours and the terminal's width for people; plain and wide in a pipe. rich heeds NO_COLOR."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDE)


def _print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = ()) -> None:
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if value is None else str(value)) for value in row))
    _console().print(table)


def _size(size_bytes: int | None) -> str:
    """Bytes for people, in the units of the Internet Computer's tools."""
    if size_bytes is None:
        return ""
    amount = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return ""


def _printable(value: Any) -> str:
    """A decoded value on one line, shortened."""
    from perdure.inspection.export import to_text

    text = "" if value is None else str(to_text(value))
    text = text.encode("unicode_escape").decode() if not text.isprintable() else text
    return text if len(text) <= 80 else f"{text[:77]}..."


# ls, tree, schema


@stable.command()
@click.argument("source")
@_options
def ls(source: str, as_json: bool, quiet: bool, schema_path: Path | None) -> None:
    """List every memory and the structure in it, found unaided.

    \b
    Example:
        perdure stable ls canister.bin
        perdure stable ls --json ./my-snapshot
    """  # noqa: D301
    with _opened(source, schema_path) as (inventory, _):
        if as_json:
            _print_json(_inventory_json(inventory))
        elif quiet:
            for structure in inventory.structures:
                click.echo(structure.name or structure.label)
        else:
            _print_inventory(inventory)


def _inventory_json(inventory: Inventory) -> dict[str, Any]:
    managers = [
        {
            "wasm_page": manager.wasm_page,
            "version": manager.header.version,
            "bucket_wasm_pages": manager.header.bucket_wasm_pages,
            "allocated_buckets": manager.header.allocated_buckets,
            "is_motoko": manager.is_motoko,
            "trouble": manager.trouble or None,
        }
        for manager in inventory.managers
    ]
    return {
        "source": inventory.label,
        "wasm_pages": inventory.memory.size(),
        "managers": managers,
        "structures": [_structure_json(structure) for structure in inventory.structures],
    }


def _structure_json(structure: Structure) -> dict[str, Any]:
    return {
        "memory": structure.label,
        "name": structure.name,
        "kind": structure.kind,
        "version": structure.version,
        "entries": structure.entries,
        "key": _width_json(structure.key),
        "value": _width_json(structure.value),
        "wasm_pages": structure.region.size(),
        "used_bytes": structure.used_bytes,
        "allocated_bytes": structure.allocated_bytes,
        "wasted_bytes": structure.wasted_bytes,
        "address": structure.address,
        "data_memory": structure.data_memory_id,
        "note": structure.note or None,
    }


def _width_json(width: Any) -> dict[str, Any] | None:
    if width is None:
        return None
    return {
        "max_bytes": width.max_bytes,
        "is_fixed": width.is_fixed,
        "is_unbounded": width.is_unbounded,
        "seen_bytes": width.seen,
    }


def _print_inventory(inventory: Inventory) -> None:
    click.echo(f"{inventory.label}: {inventory.memory.size()} Wasm pages ({_size(inventory.memory.size() << 16)})")
    for manager in inventory.managers:
        header = manager.header
        where = "" if manager.wasm_page == 0 else f" at Wasm page {manager.wasm_page}"
        kind = "big-endian (Motoko) " if manager.is_motoko else ""
        click.echo(
            f"{kind}memory manager{where}: version {header.version}, {header.allocated_buckets} buckets of "
            f"{header.bucket_wasm_pages} Wasm pages{'; ' + manager.trouble if manager.trouble else ''}"
        )
    columns = ("memory", "name", "kind", "v", "entries", "key", "value", "used", "set aside", "wasted", "note")
    rows = [
        (
            structure.label if structure.data_memory_id is None else f"{structure.label}+{structure.data_memory_id}",
            structure.name,
            structure.kind,
            structure.version,
            structure.entries,
            structure.key,
            structure.value,
            _size(structure.used_bytes),
            _size(structure.allocated_bytes),
            _size(structure.wasted_bytes),
            structure.note,
        )
        for structure in inventory.structures
    ]
    shown = [index for index, column in enumerate(columns) if column == "memory" or any(row[index] for row in rows)]
    _print_table(
        [columns[index] for index in shown],
        [[row[index] for index in shown] for row in rows],
        right=("v", "entries", "used", "set aside", "wasted"),
    )


@stable.command()
@click.argument("source")
@_options
def tree(source: str, as_json: bool, quiet: bool, schema_path: Path | None) -> None:
    """Show how memories and structures nest.

    Manager, memories, structures, and the shape of each B-tree. Reads every node; needs the extra "columns".

    \b
    Example:
        perdure stable tree canister.bin
    """  # noqa: D301
    from perdure.inspection.fsck import fsck as check

    with _opened(source, schema_path) as (inventory, schema):
        facts = check(inventory, schema).facts
        shapes = {label: vars(found) for label, found in facts.items()}
        if as_json:
            nested = _inventory_json(inventory)
            for structure in nested["structures"]:
                structure["tree"] = shapes.get(structure["memory"])
            _print_json(nested)
        else:
            _print_tree(inventory, shapes, quiet=quiet)


def _print_tree(inventory: Inventory, shapes: dict[str, dict[str, Any]], *, quiet: bool) -> None:
    from rich.text import Text
    from rich.tree import Tree

    root = Tree(Text(inventory.label))
    parent = root
    for manager in inventory.managers:
        parent = root.add(Text(f"memory manager, {manager.header.allocated_buckets} buckets"))
    for structure in inventory.structures:
        name = f" {structure.name}" if structure.name else ""
        entries = "" if structure.entries is None else f", {structure.entries} entries"
        version = "" if structure.version is None else f" version {structure.version}"
        node = parent.add(Text(f"{structure.label}{name}: {structure.kind}{version}{entries}"))
        if quiet:
            continue
        if structure.key is not None or structure.value is not None:
            widths = [
                f"{what} {width}" for what, width in (("key", structure.key), ("value", structure.value)) if width
            ]
            node.add(Text(f"bytes: {', '.join(widths)}"))
        for what, number in shapes.get(structure.label, {}).items():
            if number:
                node.add(Text(f"{what.replace('_', ' ')}: {number}"))
        if structure.note:
            node.add(Text(structure.note))
    _console().print(root)


@stable.command()
@click.argument("source")
@_options
def schema(source: str, as_json: bool, quiet: bool, schema_path: Path | None) -> None:
    """Show the SQL tables that query and export see.

    \b
    Example:
        perdure stable schema canister.bin
    """  # noqa: D301
    from perdure.inspection.sql import open_tables

    with _opened(source, schema_path) as (inventory, declared):
        tables, reasons = open_tables(inventory, declared)
        if as_json:
            _print_json([_table_json(table) for table in tables])
            return
        for table in tables:
            columns = [*_columns_of(table, table.key_columns), *_columns_of(table, table.value_columns)]
            click.echo(f"create table {table.name} ({', '.join(columns)});")
        for reason in () if quiet else reasons:
            click.echo(f"-- {reason}", err=True)


def _columns_of(table: Table, names: Sequence[str]) -> list[str]:
    codec = table.value
    if names is table.key_columns:
        if table.key is None:
            return [f"{name} /* position */" for name in names]
        codec = table.key
    parts = codec.parts or [codec] * len(names)
    return [f"{name} /* {part.name} */" for name, part in zip(names, parts, strict=True)]


def _table_json(table: Table) -> dict[str, Any]:
    return {
        "name": table.name,
        "memory": table.structure.label,
        "entries": len(table),
        "columns": list(table.columns),
        "key": table.key.name if table.key is not None else None,
        "value": table.value.name,
    }


# rows, get, query


@stable.command()
@click.argument("source")
@click.argument("structure")
@click.option("--limit", type=click.IntRange(min=0), default=20, show_default=True, help="Rows to show; 0 for all.")
@click.option("--from", "low", help="The first key or position.")
@click.option("--to", "high", help="The last key or position.")
@click.option("--reverse", is_flag=True, help="Backwards, from the last key on.")
@click.option("--nl", is_flag=True, help="One JSON object a line.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV.")
@_options
def rows(
    source: str,
    structure: str,
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

    STRUCTURE is a memory id, page:N, or a name from the schema. Keys are written as numbers, text, principals,
    hexadecimal (raw), or JSON, as their type asks.

    \b
    Example:
        perdure stable rows canister.bin 0 --limit 5
        perdure stable rows canister.bin users --from 2vxsx-fae --nl
    """  # noqa: D301
    from itertools import islice

    with _opened(source, schema_path) as (inventory, declared):
        table = _open_table(inventory, declared, structure)
        entries = table.entries(_bound(table, low), _bound(table, high), reverse=reverse)
        decoded = (table.decode(entry) for entry in islice(entries, limit or None))
        _print_rows(table.columns, decoded, as_json=as_json, nl=nl, as_csv=as_csv, quiet=quiet)


def _bound(table: Table, text: str | None) -> Bound | None:
    from perdure.inspection.table import Bound

    return None if text is None else Bound(_key_of(table, text))


def _key_of(table: Table, text: str) -> Any:
    """The key or position that a person wrote."""
    try:
        return int(text, 0) if table.key is None else table.key.from_text(text)
    except ValueError as error:
        what = "position" if table.key is None else table.key.name
        raise click.BadParameter(f"{text!r} is no {what}: {error}") from error


def _print_rows(
    columns: Sequence[str], decoded: Iterable[Sequence[Any]], *, as_json: bool, nl: bool, as_csv: bool, quiet: bool
) -> None:
    import json

    from perdure.inspection.codec import to_json

    if as_json or nl:
        objects = (dict(zip(columns, map(to_json, row), strict=True)) for row in decoded)
        if nl:
            for found in objects:
                click.echo(json.dumps(found, ensure_ascii=False))
        else:
            _print_json(list(objects))
    elif as_csv:
        import csv

        from perdure.inspection.export import to_text

        writer = csv.writer(sys.stdout, lineterminator="\n")
        if not quiet:
            writer.writerow(columns)
        writer.writerows([to_text(value) for value in row] for row in decoded)
    elif quiet:
        for row in decoded:
            click.echo("\t".join(_printable(value) for value in row))
    else:
        _print_table(columns, ([_printable(value) for value in row] for row in decoded))


@stable.command()
@click.argument("source")
@click.argument("structure")
@click.argument("key", required=False)
@click.option("--raw", "as_raw", is_flag=True, help="The bytes of the value as they are.")
@_options
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
    with _opened(source, schema_path) as (inventory, declared):
        table = _open_table(inventory, declared, structure)
        if key is None and table.key_columns:
            raise click.UsageError("which key? only a cell has none")
        at = 0 if key is None else _key_of(table, key)
        data = table.get(at)
        if data is None:
            if not quiet:
                click.echo(f"perdure: no entry {key!r} in {table.name}", err=True)
            raise click.exceptions.Exit(FOUND_WRONG)
        _print_value(table, (at, data), as_json=as_json, as_raw=as_raw)


def _print_value(table: Table, entry: tuple[Any, bytes], *, as_json: bool, as_raw: bool) -> None:
    from perdure.inspection.codec import to_json
    from perdure.inspection.export import to_text

    if as_raw:
        sys.stdout.buffer.write(entry[1])
    elif as_json:
        _print_json(dict(zip(table.columns, map(to_json, table.decode(entry)), strict=True)))
    else:
        values = [to_text(value) for value in table.decode_value(entry[1])]
        click.echo("\t".join("" if value is None else str(value) for value in values))


@stable.command()
@click.argument("source")
@click.argument("sql")
@click.option("-p", "--param", "params", type=(str, str), multiple=True, help="A named parameter and its value.")
@click.option("--nl", is_flag=True, help="One JSON object a line.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV.")
@_options
def query(
    source: str,
    sql: str,
    params: tuple[tuple[str, str], ...],
    nl: bool,
    as_csv: bool,
    as_json: bool,
    quiet: bool,
    schema_path: Path | None,
) -> None:
    """Run SQL over the structures as tables.

    Tables are named as schema shows; needs the extra "sql". Conditions on keys become lookups and ranges. Composed
    values are JSON: json_extract(value, '$.name').

    \b
    Example:
        perdure stable query canister.bin "select count(*) from memory_0"
        perdure stable query canister.bin "select * from users where key = :k" -p k 2vxsx-fae
    """  # noqa: D301
    from perdure.errors import UnsupportedError
    from perdure.inspection.sql import connect

    with _opened(source, schema_path) as (inventory, declared):
        connection = connect(inventory, declared)
        import apsw

        try:
            cursor = connection.execute(sql, {name: _parameter(value) for name, value in params} or None)
            described = cursor.get_description() if cursor.is_readonly else ()
            columns = [column[0] for column in described]
            _print_rows(columns, cursor, as_json=as_json, nl=nl, as_csv=as_csv, quiet=quiet)
        except apsw.ExecutionCompleteError:
            _print_rows([], [], as_json=as_json, nl=nl, as_csv=as_csv, quiet=quiet)
        except (apsw.Error, KeyError) as error:
            raise UnsupportedError(f"SQL: {error}") from error


def _parameter(text: str) -> Any:
    """A parameter as SQLite takes it: what is written as a number is one, also past 63 bits."""
    from perdure.inspection.codec import to_sql

    is_number = text.removeprefix("-").isdecimal() and text == str(int(text))
    return to_sql(int(text)) if is_number else text


# infer, diff, export


@stable.command()
@click.argument("source")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write stable.yaml here.")
@_options
def infer(source: str, output: Path | None, as_json: bool, quiet: bool, schema_path: Path | None) -> None:
    """Draft a stable.yaml from the bytes, and say how sure it is.

    \b
    Example:
        perdure stable infer canister.bin -o stable.yaml
    """  # noqa: D301
    from perdure.inspection.infer import draft
    from perdure.inspection.schema import dump_schema

    with _opened(source, schema_path) as (inventory, _):
        drafts = list(draft(inventory))
        if output is not None:
            if output.exists():
                raise click.UsageError(f"{output} exists already")
            output.write_text(dump_schema((found.memory, found.comment) for found in drafts), encoding="utf-8")
        if as_json:
            _print_json(
                [
                    {
                        **vars(found.memory),
                        "sampled": found.sampled,
                        "key_guesses": [vars(guess) for guess in found.key],
                        "value_guesses": [vars(guess) for guess in found.value],
                    }
                    for found in drafts
                ]
            )
        elif output is None:
            comments = ((found.memory, "" if quiet else found.comment) for found in drafts)
            click.echo(dump_schema(comments), nl=False)


@stable.command()
@click.argument("before")
@click.argument("after")
@click.option(
    "--limit", type=click.IntRange(min=0), default=20, show_default=True, help="Changes to show of each; 0: all."
)
@click.option("--full-scan", is_flag=True, help="Compare every entry, not only those near changed pages.")
@_options
def diff(
    before: str, after: str, limit: int, full_scan: bool, as_json: bool, quiet: bool, schema_path: Path | None
) -> None:
    """Compare two stable memories by key. Exit code 1 if they differ.

    4 KiB pages are compared first, so that only what is near a change is decoded.

    \b
    Example:
        perdure stable diff monday.bin tuesday.bin
    """  # noqa: D301
    from perdure.inspection.diff import diff as compare

    with _opened(before, schema_path) as (old, declared), _opened(after, schema_path) as (new, _):
        found = list(compare(old, new, declared, full_scan=full_scan))
        if as_json:
            _print_json([_diff_json(structure, limit) for structure in found])
        elif not quiet:
            for structure in found:
                _print_diff(structure, limit)
    if any(structure.status != "same" for structure in found):
        raise click.exceptions.Exit(FOUND_WRONG)


def _diff_json(found: StructureDiff, limit: int) -> dict[str, Any]:
    shown = found.changes[:limit] if limit else found.changes
    return {
        "memory": found.label,
        "name": found.name,
        "status": found.status,
        "kinds": list(found.kinds),
        **{what: found.count(what) for what in ("added", "removed", "changed")},
        "pages": dict(zip(("all", "compared", "changed"), found.pages, strict=True)),
        "changes": [_change_json(found, change) for change in shown],
    }


def _change_json(found: StructureDiff, change: Any) -> dict[str, Any]:
    from perdure.inspection.codec import to_json

    sides: dict[str, Any] = {}
    key: dict[str, Any] = {}
    for side, table, data in zip(("before", "after"), found.tables, (change.before, change.after), strict=True):
        assert table is not None
        if data is None:
            sides[side] = None
            continue
        key = dict(zip(table.key_columns, map(to_json, table.decode_key(change.key)), strict=True))
        sides[side] = dict(zip(table.value_columns, map(to_json, table.decode_value(data)), strict=True))
    return {"what": change.what, **key, **sides}


def _print_diff(found: StructureDiff, limit: int) -> None:
    from rich.text import Text

    if found.status == "same":
        return
    console = _console()
    counts = ", ".join(f"{number} {what}" for what in ("added", "removed", "changed") if (number := found.count(what)))
    kinds = " -> ".join(dict.fromkeys(kind or "nothing" for kind in found.kinds))
    console.print(Text(f"{found.name} ({kinds}): {counts or found.status}", style="bold"))
    shown = found.changes[:limit] if limit else found.changes
    for change in shown:
        mark, style = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow")}[change.what]
        console.print(Text(f"  {mark} {_change_text(found, change)}", style=style))
    if len(found.changes) > len(shown):
        console.print(Text(f"  and {len(found.changes) - len(shown)} more"))


def _change_text(found: StructureDiff, change: Any) -> str:
    tables = found.tables
    table = tables[0] if change.after is None else tables[1]
    assert table is not None
    key = " ".join(_printable(part) for part in table.decode_key(change.key))
    values = [
        " ".join(_printable(part) for part in side.decode_value(data))
        for side, data in zip(tables, (change.before, change.after), strict=True)
        if data is not None and side is not None
    ]
    return f"{key}: {' -> '.join(values)}" if any(values) else key


@stable.command()
@click.argument("source")
@click.argument("structures", nargs=-1)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The file, or a directory of files."
)
@click.option(
    "--format", "form", type=click.Choice(("parquet", "csv", "sqlite")), help="Taken from the file's name if not said."
)
@_options
def export(
    source: str,
    structures: tuple[str, ...],
    output: Path,
    form: str | None,
    as_json: bool,
    quiet: bool,
    schema_path: Path | None,
) -> None:
    """Write structures to Parquet, CSV or SQLite.

    All of them, if none is named. Datasette opens the SQLite file as it is.

    Parquet and CSV hold one structure a file: for several, OUTPUT is a directory.

    \b
    Example:
        perdure stable export canister.bin -o canister.db
        perdure stable export canister.bin users -o users.parquet
    """  # noqa: D301
    from perdure.inspection.sql import open_tables

    form = form or {".parquet": "parquet", ".csv": "csv", ".db": "sqlite", ".sqlite": "sqlite"}.get(output.suffix)
    if form is None:
        raise click.UsageError("which --format? parquet, csv or sqlite")
    with _opened(source, schema_path) as (inventory, declared):
        if structures:
            tables = [_open_table(inventory, declared, name) for name in structures]
            reasons: list[str] = []
        else:
            tables, reasons = open_tables(inventory, declared)
        written = _export(tables, output, form)
        if as_json:
            _print_json(written)
        elif not quiet:
            for name, number in written.items():
                click.echo(f"{name}: {number} rows")
            for reason in reasons:
                click.echo(f"left out: {reason}", err=True)


def _export(tables: list[Table], output: Path, form: str) -> dict[str, int]:
    from perdure.inspection.export import export_csv, export_parquet, export_sqlite

    if form == "sqlite":
        return export_sqlite(tables, output)
    written = {}
    for table in tables:
        path = output
        if len(tables) > 1 or output.is_dir():
            output.mkdir(parents=True, exist_ok=True)
            path = output / f"{table.name}.{form}"
        if form == "parquet":
            written[table.name] = export_parquet(table, path)
        else:
            with path.open("w", encoding="utf-8", newline="") as file:
                written[table.name] = export_csv(table, file)
    return written


# fsck, map


@stable.command()
@click.argument("source")
@click.option("--all-values", is_flag=True, help="Decode every value with its declared type, not the first thousand.")
@_options
def fsck(source: str, all_values: bool, as_json: bool, quiet: bool, schema_path: Path | None) -> None:
    """Prove a stable memory sound, or say what is not.

    Each finding has an address and advice. Exit code 1 on errors, not on notes. Needs the extra "columns".

    \b
    Example:
        perdure stable fsck ./my-snapshot
    """  # noqa: D301
    from perdure.inspection.fsck import fsck as check

    with _opened(source, schema_path) as (inventory, declared):
        report = check(inventory, declared, all_values=all_values)
    if as_json:
        _print_json(_report_json(report))
    elif not quiet:
        _print_report(report)
    if report.errors:
        raise click.exceptions.Exit(FOUND_WRONG)


def _report_json(report: Report) -> dict[str, Any]:
    return {
        "errors": len(report.errors),
        "checked": report.checked,
        "counts": report.counts,
        "findings": [
            {**vars(finding), "severity": finding.severity, "advice": finding.advice} for finding in report.findings
        ],
        "trees": {label: vars(facts) for label, facts in report.facts.items()},
    }


def _print_report(report: Report) -> None:
    from rich.text import Text

    console = _console()
    for finding in report.findings:
        style = "red" if finding.severity == "error" else "yellow"
        where = "" if finding.address is None else f" at {finding.address:#x}"
        if finding.below_address is not None and finding.below_address != finding.address:
            where += f" ({finding.below_address:#x} in the dump)"
        console.print(
            Text.assemble(
                (finding.severity, style), f" {finding.code}: memory {finding.label}{where}: {finding.message}"
            )
        )
        console.print(Text(f"  {finding.advice}", style="dim"))
    listed = len(report.findings)
    total = sum(sum(counts.values()) for counts in report.counts.values())
    if total > listed:
        console.print(f"and {total - listed} more of the same kinds")
    errors = len(report.errors)
    click.echo(f"{report.checked} memories checked: {errors} errors, {listed - errors} notes listed")


@stable.command("map")
@click.argument("source")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write an SVG here.")
@_options
def map_(source: str, output: Path | None, as_json: bool, quiet: bool, schema_path: Path | None) -> None:
    """Show what occupies the memory.

    As blocks here, or as an SVG with -o.

    \b
    Example:
        perdure stable map canister.bin
        perdure stable map canister.bin -o map.svg
    """  # noqa: D301
    from perdure.inspection.occupancy import occupancy, to_svg

    with _opened(source, schema_path) as (inventory, _):
        if output is not None:
            output.write_text(to_svg(inventory), encoding="utf-8")
        if as_json:
            _print_json([vars(span) for span in occupancy(inventory)])
        elif output is None:
            _print_map(inventory, quiet=quiet)
        elif not quiet:
            click.echo(f"written to {output}")


def _print_map(inventory: Inventory, *, quiet: bool) -> None:
    from rich.text import Text

    from perdure.inspection.occupancy import cells, legend, occupancy

    console = _console()
    width = min(64, max(16, console.width - 2))
    drawn = cells(occupancy(inventory), width * 12)
    colours = {structure.label: _COLOURS[index % len(_COLOURS)] for index, structure in enumerate(inventory.structures)}
    letters = {structure.label: _letter(index) for index, structure in enumerate(inventory.structures)}
    text = Text()
    for number, span in enumerate(drawn):
        if span.use == "used":
            mark = "█" if console.is_terminal and not console.no_color else letters[span.label]
        else:
            mark = {"manager": "#", "slack": "░", "free": "·"}[span.use]
        text.append(mark, style=colours.get(span.label, ""))
        if number % width == width - 1:
            text.append("\n")
    console.print(text, end="")
    if quiet:
        return
    for structure in inventory.structures:
        console.print(Text(f"{letters[structure.label]} {legend(structure)}", style=colours[structure.label]))
    console.print(Text("# manager   ░ set aside, not in use   · nobody's"))


def _letter(index: int) -> str:
    """A letter for each structure, for where there are no colours."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    return alphabet[index % len(alphabet)]
