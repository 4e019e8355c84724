"""What the `perdure stable` commands share: their options, their exit codes, how SOURCE is opened."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

import click

from perdure.cli.argument import InputFile
from perdure.cli.terminal import LAYOUT, printable

if TYPE_CHECKING:
    from perdure.inspection.find import Inventory
    from perdure.inspection.rows import Rows
    from perdure.inspection.source import Source
    from perdure.inspection.sqlite import DatabaseTable
    from perdure.inspection.variables import VariableTable
    from perdure.values.schema import Schema

__all__ = [
    "COULD_NOT",
    "FOUND_WRONG",
    "about_nothing",
    "load_declared",
    "open_database_table",
    "open_table",
    "opened",
    "options",
    "reading",
    "sql_errors",
]

FOUND_WRONG: Final = 1
COULD_NOT: Final = 2
_MAX_MODULE_BYTES: Final = 128 << 20
_MODULE: Final = "perdure.stable.module"

P = ParamSpec("P")
R = TypeVar("R")


def options(command: Callable[P, R]) -> Callable[P, R]:
    """What every command takes."""
    schema = click.option(
        "--schema",
        "schema_path",
        type=InputFile(),
        help="The schema file; ./stable.yaml if there is one.",
    )
    module = click.option(
        "--module",
        type=InputFile(),
        callback=_keep_module,
        expose_value=False,
        help="Of a dump: the canister's module, .did or .most file; names fields and Motoko's variables.",
    )
    quiet = click.option("-q", "--quiet", is_flag=True, help="Print only what was asked for: no headings, no notes.")
    as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
    return as_json(quiet(schema(module(_exit_codes(command)))))


def _keep_module(context: click.Context, _option: click.Parameter, path: Path | None) -> Path | None:
    context.meta[_MODULE] = path
    return path


def _exit_codes(command: Callable[P, R]) -> Callable[P, R]:
    """Turn a damaged structure into exit code 1; what cannot be done is left to `perdure.cli.main`, code 2."""

    @functools.wraps(command)
    def wrapped(*arguments: P.args, **options: P.kwargs) -> R:
        from perdure.errors import MalformedError, UnsupportedError

        try:
            return command(*arguments, **options)
        except MalformedError as error:
            more = "".join(f"\n  {note}" for note in getattr(error, "__notes__", ()))
            click.echo(printable(f"perdure: {error}{more}", keep=LAYOUT), err=True)
            raise click.exceptions.Exit(FOUND_WRONG) from error
        except ModuleNotFoundError as error:
            extra = {"numpy": "columns", "pyarrow": "columns", "apsw": "sql", "google": "protobuf"}.get(
                error.name or ""
            )
            if extra is None:
                raise
            raise UnsupportedError(f"this needs `pip install 'perdure[{extra}]'`").coded("extra-missing") from error

    return wrapped


def load_declared(schema_path: Path | None) -> Schema | None:
    """The schema that somebody names, else that of the directory."""
    from perdure.errors import MalformedError, UnsupportedError
    from perdure.values.schema import load_schema

    default = Path("stable.yaml")
    path = schema_path or (default if default.is_file() else None)
    if path is default and not click.get_current_context().params.get("quiet"):
        click.echo("names and types are those of ./stable.yaml; --schema names another", err=True)
    try:
        return load_schema(path) if path is not None else None
    except MalformedError as error:
        raise UnsupportedError(f"{path}: {error}") from error


@contextmanager
def opened(source: str, schema_path: Path | None) -> Iterator[tuple[Inventory, Schema | None]]:
    """The inventory of a source, with the names of the schema."""
    from perdure.errors import MalformedError, UnsupportedError
    from perdure.inspection.find import find, name_structures
    from perdure.inspection.open import open_source, with_module

    schema = load_declared(schema_path)
    try:
        opened = open_source(source)
    except MalformedError as error:
        raise UnsupportedError(f"{source}: {error}") from error
    module = click.get_current_context().meta.get(_MODULE)
    with opened:
        if module is not None:
            with_module(opened, module)
        schema = opened.declared() if schema is None else _with_catalogue(schema, opened)
        memories = schema.memories if schema is not None else {}
        pairs = {label: entry.data for label, entry in memories.items() if entry.data is not None}
        yield name_structures(find(opened, pairs), schema), schema


def _with_catalogue(schema: Schema, source: Source) -> Schema:
    """A schema, and of what it does not mention what a catalogue of data models says."""
    declared = source.declared()
    return schema if declared is None else replace(schema, memories=declared.memories | schema.memories)


def about_nothing(source: str, inventory: Inventory) -> str:
    """What to say of a stable memory in which there is nothing to read; empty where there is something."""
    from perdure.inspection.find import KINDS

    if any(structure.kind in (*KINDS, "sqlite") for structure in inventory.structures) or inventory.variables.tables():
        return ""
    where = (
        f"memory {source.rpartition('#')[2]}" if "#" in source and not Path(source).exists() else "its stable memory"
    )
    found = f"{where} is empty"
    if inventory.structures:
        kinds = ", ".join(f"{one.kind} ({one.label})" for one in inventory.structures)
        found = f"no structure of ic-stable-structures is in {where}, found {kinds}"
    if not _is_motoko(Path(source) / "wasm_module.bin"):
        return found
    return f"{found}: a Motoko canister without stable types in its module keeps its variables in the heap"


def _is_motoko(module: Path) -> bool:
    from perdure.errors import MalformedError
    from perdure.wasm import decode

    try:
        data = module.read_bytes()
        if data.startswith(b"\x1f\x8b"):
            data = zlib.decompressobj(31).decompress(data, _MAX_MODULE_BYTES)
        return any(section.name.endswith("motoko:compiler") for section in decode(data).custom_sections)
    except (OSError, zlib.error, MalformedError):
        return False


def open_database_table(inventory: Inventory, name: str) -> DatabaseTable | VariableTable | None:
    """The stable variable, or table of an SQLite database, of that name; `None`: a structure is meant, or nothing."""
    is_structure = any(name in (one.name, one.label, one.table_name) for one in inventory.structures)
    for variable in () if is_structure else inventory.variables.tables():
        if variable.name == name:
            return variable
    if not any(structure.kind == "sqlite" for structure in inventory.structures):
        return None
    from perdure.errors import UnsupportedError
    from perdure.inspection.sqlite import databases, find_table, table_kinds

    with sql_errors():
        found = find_table(inventory, name)
    if found is None and all(name not in (one.label, one.name, one.table_name) for one in inventory.structures):
        tables = ", ".join(table for structure in databases(inventory) for table in table_kinds(structure))
        others = ", ".join(one.name or one.label for one in inventory.structures if one.kind != "sqlite")
        listed = "; ".join(filter(None, (f"tables {tables}" if tables else "", others)))
        raise UnsupportedError(f"no structure and no table {name!r} here, found {listed or 'none'}")
    return found


def reading(table: DatabaseTable | VariableTable) -> AbstractContextManager[None]:
    """What to read a table in: SQLite has errors of its own."""
    from perdure.inspection.variables import VariableTable

    return nullcontext() if isinstance(table, VariableTable) else sql_errors()


@contextmanager
def sql_errors(about: Callable[[], str] = lambda: "") -> Iterator[None]:
    """What SQLite says: damage is exit code 1, bad SQL 2. `about` adds what there is, where a name was wrong."""
    import apsw

    from perdure.errors import MalformedError, UnsupportedError
    from perdure.inspection.sqlite import no_text

    try:
        yield
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise MalformedError(f"SQLite: {error}") from error
    except UnicodeDecodeError as error:
        raise MalformedError(no_text(error)) from error
    except apsw.BindingsError as error:
        raise UnsupportedError("SQL: parameters have names here: write :name, and give it by -p name VALUE") from error
    except (apsw.Error, KeyError) as error:
        listed = about() if "no such table" in str(error) else ""
        hint = f"; there is {listed}" if listed else ""
        raise UnsupportedError(f"SQL: {error}{hint}") from error


def open_table(inventory: Inventory, schema: Schema | None, name: str) -> Rows:
    """The structure of a name or label as a table."""
    from perdure.inspection.rows import open_table

    return open_table(inventory.structure(name), schema)
