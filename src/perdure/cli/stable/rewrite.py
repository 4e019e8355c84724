"""Stable memory written anew: drop, compact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import click

from perdure.cli.argument import argument_options, extension_option, given
from perdure.cli.completing import complete_source, complete_structure
from perdure.cli.paths import LocalPath
from perdure.cli.stable.show import print_json, show_size
from perdure.cli.stable.source import load_declared, options
from perdure.cli.terminal import printable

if TYPE_CHECKING:
    from perdure.ic.principal import Principal
    from perdure.inspection.compact import Outcome
    from perdure.values.schema import Schema

__all__ = ["compact", "drop"]

P = ParamSpec("P")
R = TypeVar("R")


def _common(command: Callable[P, R]) -> Callable[P, R]:
    """What both take."""
    output = click.option(
        "-o", "--output", required=True, type=LocalPath(path_type=Path), help="The new snapshot, or dump."
    )
    keep = click.option(
        "--keep-heap",
        is_flag=True,
        help="Do not make the heap anew: upgrade, without pre_upgrade, before you start it.",
    )
    canister = click.option("--canister-id", help="Of a snapshot's canister, which does not say it.")
    return output(keep(canister(extension_option()(argument_options(options(command))))))


@click.command()
@click.argument("source", shell_complete=complete_source)
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_structure)
@click.option("--no-check", is_flag=True, help="Do not look whether the code that runs still uses them.")
@_common
def drop(
    source: str,
    names: tuple[str, ...],
    no_check: bool,
    output: Path,
    keep_heap: bool,
    canister_id: str | None,
    extensions: tuple[str, ...],
    args: str | None,
    args_file: Path | None,
    args_format: str,
    as_json: bool,
    quiet: bool,
    schema_path: Path | None,
) -> None:
    """Write SOURCE without some memories, and without the holes they would leave; SOURCE stays as it is.

    NAME is a memory id or a name from the schema. SOURCE is a snapshot or STATE_DIR:CANISTER, of which a snapshot is
    made, or a dump, of which a dump is made. The heap of a canister is made anew as an upgrade to the same code does.

    \b
    Example:
        perdure stable drop ./my-snapshot old_addresses -o ./smaller
    """  # noqa: D301
    from perdure.inspection.compact import compact as write
    from perdure.inspection.remote import localized

    schema = load_declared(schema_path)
    arg = _argument(args, args_file, args_format)
    with localized(source) as local:
        used = [] if no_check else _in_use(local, extensions)
        outcome = write(
            local,
            output,
            drop=names,
            schema=schema,
            arg=arg,
            keep_heap=keep_heap,
            canister_id=_id(canister_id),
            extensions=extensions,
        )
    warnings = list(_warnings(outcome, used, schema))
    _say(outcome, output, warnings, as_json=as_json, quiet=quiet)


@click.command()
@click.argument("source", shell_complete=complete_source)
@_common
def compact(
    source: str,
    output: Path,
    keep_heap: bool,
    canister_id: str | None,
    extensions: tuple[str, ...],
    args: str | None,
    args_file: Path | None,
    args_format: str,
    as_json: bool,
    quiet: bool,
    schema_path: Path | None,
) -> None:
    """Write SOURCE without the holes between the buckets of its memories; SOURCE stays as it is.

    As drop does, leaving out no memory: what crate 0.7.1 has reclaimed, what no size reaches into.

    \b
    Example:
        perdure stable compact ./my-snapshot -o ./smaller
    """  # noqa: D301
    from perdure.inspection.compact import compact as write

    schema = load_declared(schema_path)
    arg = _argument(args, args_file, args_format)
    outcome = write(
        source,
        output,
        schema=schema,
        arg=arg,
        keep_heap=keep_heap,
        canister_id=_id(canister_id),
        extensions=extensions,
    )
    _say(outcome, output, [], as_json=as_json, quiet=quiet)


def _argument(args: str | None, args_file: Path | None, args_format: str) -> bytes | str | None:
    argument = given(args, args_file, args_format)
    is_bare = isinstance(argument, str) and not argument.lstrip().startswith("(")
    return f"({argument!s})" if is_bare else argument


def _id(text: str | None) -> Principal | None:
    from perdure.ic.principal import Principal

    return None if text is None else Principal.from_text(text)


def _in_use(source: str, extensions: tuple[str, ...]) -> list[str]:
    """Labels of the structures that the code reads, as upgrade-check finds out; none of a dump, which has no code."""
    from perdure.errors import UnsupportedError
    from perdure.inspection.canister import open_canister
    from perdure.upgrade import check

    if source == "-" or Path(source).is_file():
        return []
    with open_canister(source, extensions=extensions) as canister:
        if canister.module is None:
            return []
        try:
            report = check(canister, canister.module.wasm)
        except UnsupportedError:
            return []
        return [row.memory for row in report.memories if row.exercised in ("a call", "a hook")]


def _warnings(outcome: Outcome, used: list[str], schema: Schema | None) -> list[str]:
    found = []
    for one in outcome.dropped:
        name = one.name or f"memory {one.label}"
        if one.label in used:
            found.append(f"{name} is in use: the code reads it, and finds it empty now")
        state = "active" if schema is None or one.label not in schema.memories else schema.of(one.label).state
        if schema is not None and one.label in schema.memories and state in ("active", "deprecated"):
            found.append(f"{name} is {state} in the schema: declare it as removed")
    return found


def _say(outcome: Outcome, output: Path, warnings: list[str], *, as_json: bool, quiet: bool) -> None:
    for warning in warnings:
        click.echo(f"warning: {printable(warning)}", err=True)
    if outcome.heap == "kept":
        click.echo("warning: the heap knows the old places: upgrade without pre_upgrade before you start it", err=True)
    if as_json:
        print_json(
            {
                "file": str(output),
                "dropped": [
                    {"memory": one.label, "name": one.name, "kind": one.kind, "entries": one.entries}
                    for one in outcome.dropped
                ],
                "freed_buckets": outcome.freed_buckets,
                "bucket_wasm_pages": outcome.bucket_wasm_pages,
                "wasm_pages": dict(zip(("before", "after"), outcome.wasm_pages, strict=True)),
                "heap": outcome.heap,
                "warnings": warnings,
            }
        )
    elif not quiet:
        for one in outcome.dropped:
            entries = "" if one.entries is None else f", {one.entries} entries"
            click.echo(f"without {printable(one.name or one.label)}: {one.kind}{entries}")
        before, after = (show_size(pages << 16) for pages in outcome.wasm_pages)
        click.echo(f"{output}: {outcome.freed_buckets} buckets freed, stable memory {before} -> {after}")
