"""A database of SQLite as a file: extract, patch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perdure.cli.argument import InputFile
from perdure.cli.completing import complete_source
from perdure.cli.paths import LocalPath
from perdure.cli.stable.show import print_json
from perdure.cli.stable.source import opened, options

if TYPE_CHECKING:
    from perdure.inspection.find import Inventory, Structure

__all__ = ["extract", "patch"]


@click.command()
@click.argument("source", shell_complete=complete_source)
@click.argument("memory", required=False)
@click.option(
    "-o",
    "--output",
    required=True,
    type=LocalPath(path_type=Path),
    help="The file, which is made; - for standard output.",
)
@options
def extract(
    source: str, memory: str | None, output: Path, as_json: bool, quiet: bool, schema_path: Path | None
) -> None:
    """Write an SQLite database as the file that it is, for tools that want one.

    MEMORY is the label of the database, as ls shows it, where there are several. The change counter that is printed is
    what patch asks for.

    \b
    Example:
        perdure stable extract ./my-snapshot -o canister.db
    """  # noqa: D301
    from perdure.inspection.sqlite_draft import extract as write
    from perdure.inspection.sqlite_draft import extract_to

    is_piped = str(output) == "-"
    if is_piped and (as_json or sys.stdout.isatty()):
        raise click.UsageError("-o - writes the file to standard output, which has to lead to a file or a program")
    with opened(source, schema_path) as (inventory, _):
        structure = _choose(inventory, memory)
        header = extract_to(structure, sys.stdout.buffer) if is_piped else write(structure, output)
        size_bytes = structure.used_bytes
    if as_json:
        print_json({"file": str(output), "size_bytes": size_bytes, "change_counter": header.change_counter})
    elif not quiet:
        click.echo(f"{output}: {size_bytes} bytes, change counter {header.change_counter}", err=is_piped)
        if header.is_wal:
            click.echo("it is in WAL mode: if its log was not empty, what was in it is not here", err=True)


def _choose(inventory: Inventory, memory: str | None) -> Structure:
    from perdure.inspection.sqlite import choose_database

    return choose_database(inventory, memory)


@click.command()
@click.argument("source", shell_complete=complete_source)
@click.argument("file", type=InputFile())
@click.argument("memory", required=False)
@click.option("--since", type=click.IntRange(min=0), help="The change counter that extract has printed.")
@click.option("--overwrite", is_flag=True, help="Whatever the canister has changed since is lost.")
@click.option("-o", "--output", type=LocalPath(path_type=Path), help="The new dump, where SOURCE is a file.")
@options
def patch(
    source: str,
    file: Path,
    memory: str | None,
    since: int | None,
    overwrite: bool,
    output: Path | None,
    as_json: bool,
    quiet: bool,
    schema_path: Path | None,
) -> None:
    """Put an SQLite file back in the place of the database that it was extracted from.

    Where SOURCE is STATE_DIR:CANISTER, as one commit of the canister's state; else a new dump is written, and SOURCE
    stays as it is.

    \b
    Example:
        perdure stable patch .perdure:backend canister.db --since 17
        perdure stable patch canister.bin canister.db --since 17 -o new.bin
    """  # noqa: D301
    from perdure.errors import StorageError
    from perdure.inspection.open import nothing_there
    from perdure.inspection.sqlite_draft import read_file

    if (since is None) != overwrite:
        raise click.UsageError("--since COUNTER, as extract has printed it, or --overwrite")
    _check_sound(file)
    data = read_file(file)
    directory, _, canister = source.rpartition(":")
    told: dict[str, Any] = {"source": source, "size_bytes": len(data)}
    if not Path(source).exists() and Path(directory).is_dir():
        if output is not None:
            raise click.UsageError("-o is for dumps: a state directory is changed by a commit")
        told["version"] = _patch_state(Path(directory), canister, data, since, memory)
    else:
        if not Path(source).exists():
            raise StorageError(nothing_there(source), source)
        if output is None:
            raise click.UsageError("a dump stays as it is: -o names the new one")
        _patch_dump(source, schema_path, data, since, memory, output)
        told["file"] = str(output)
    if as_json:
        print_json(told)
    elif not quiet:
        where = f"commit {told['version']}" if output is None else str(output)
        click.echo(f"{where}: a database of {len(data)} bytes")


def _check_sound(file: Path) -> None:
    """Refuse to put damage into a canister."""
    import apsw

    from perdure.errors import MalformedError
    from perdure.inspection.sqlite import open_sqlite
    from perdure.memory import ReadOnlyMemory

    try:
        found = [str(row[0]) for row in open_sqlite(ReadOnlyMemory(file.read_bytes())).execute("pragma quick_check(3)")]
    except apsw.Error as error:
        found = [str(error)]
    if found != ["ok"]:
        raise MalformedError(f"{file} is damaged: {'; '.join(found)}")


def _patch_state(directory: Path, canister: str, data: bytes, since: int | None, memory: str | None) -> int | None:
    from perdure.inspection.sqlite_live import patch_canister
    from perdure.inspection.state import memory_of
    from perdure.subnet import Subnet

    canister_id, name = memory_of(directory, canister)
    if name != "stable":
        raise click.UsageError(f"memory {name!r:.80}: databases are put into stable memory alone")
    with Subnet(directory) as subnet:
        patch_canister(subnet.canister(canister_id), data, since=since, name=memory)
        return subnet.version


def _patch_dump(
    source: str, schema_path: Path | None, data: bytes, since: int | None, memory: str | None, output: Path
) -> None:
    from perdure.inspection.sqlite_draft import patched
    from perdure.inspection.whole import whole_file
    from perdure.memory import WASM_PAGE_BYTES

    with opened(source, schema_path) as (inventory, _):
        draft = patched(inventory.memory, data, since=since, name=memory)
        with whole_file(output) as place, place.open("wb") as file:
            for start, end in inventory.extents:
                for at in range(start, end, WASM_PAGE_BYTES):
                    file.seek(at)
                    file.write(inventory.memory.read(at, min(WASM_PAGE_BYTES, end - at)))
            for at, page in draft.delta().runs:
                file.seek(at)
                file.write(page)
            file.truncate(draft.size() * WASM_PAGE_BYTES)
