"""`perdure instrument`: rewrite a module as perdure runs it, or for the network without WASI; say what was done."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import click

from perdure.cli.argument import MODULE, extension_option
from perdure.cli.console import table
from perdure.cli.paths import LocalPath
from perdure.cli.terminal import printable
from perdure.errors import InvalidModuleError, MalformedError
from perdure.instrument import (
    REPLICA,
    SCHEDULES,
    WASI,
    Instrumented,
    Options,
    ReplacedImport,
    WithoutWasi,
    count_instructions,
    lower,
    replace_wasi,
    validate,
)
from perdure.instrument import instrument as instrument_module
from perdure.instrument.lowering import EXTENSIONS as LOWERED
from perdure.instrument.memories import has_own_memories
from perdure.wasm import Module, decode, encode

__all__ = ["decoded", "instrument", "without_wasi"]


@click.command()
@click.argument("module", metavar="IN.wasm", type=MODULE)
@click.option("-o", "--output", type=LocalPath(dir_okay=False, path_type=Path), help="Write the result here.")
@click.option("--schedule", type=click.Choice([*SCHEDULES, "none"]), default="2025", help="What instructions cost.")
@click.option("--host-stable", is_flag=True, help="Leave stable memory behind host calls.")
@click.option("--no-accounting", is_flag=True, help="Do not mark, limit or charge stable pages.")
@click.option("--wasi", is_flag=True, help="Replace what it imports from WASI, and nothing else: for the network.")
@click.option("--lower", "lowering", is_flag=True, help="Put what it uses of direct and memories into stable memory.")
@click.option("--memory-id", "memory_ids", multiple=True, metavar="NAME=ID", help="With --lower: where a memory goes.")
@click.option("--stub", multiple=True, metavar="PATTERN", help="With --wasi: imports that shall trap when called.")
@extension_option()
@click.option("--stats", is_flag=True, help="Say what was done even when writing to a file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def instrument(
    module: Path,
    output: Path | None,
    schedule: str,
    host_stable: bool,
    no_accounting: bool,
    wasi: bool,
    lowering: bool,
    memory_ids: tuple[str, ...],
    stub: tuple[str, ...],
    extensions: tuple[str, ...],
    stats: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Meter a module, link native stable memory to it, and say what was added.

    With --wasi the result is for the network instead: it imports ic0 alone, and is otherwise as it was. A PATTERN is
    for "module.name", with *, ? and [...].

    With --lower too: direct loads and stores become reads and writes of stable memory, memories of the module's own
    those of a memory manager there, of ids that are printed, and that the next version has to have.

    \b
    Example:
        perdure instrument counter.wasm -o counter.native.wasm --stats
        perdure instrument --wasi program.wasm -o canister.wasm --stats
        perdure instrument --lower ledger.wasm -o canister.wasm --memory-id users=5
    """  # noqa: D301 - click wants the backspace itself
    from perdure.embedder.engine import validate_original

    original, size_bytes = decoded(module), module.stat().st_size
    imports: tuple[ReplacedImport, ...] = ()
    if (wasi or lowering) and (schedule != "2025" or host_stable or no_accounting or extensions):
        raise click.UsageError("--wasi and --lower make a module for the network, which does its own instrumentation")
    if stub and not wasi:
        raise click.UsageError("--stub goes with --wasi")
    if memory_ids and not lowering:
        raise click.UsageError("--memory-id goes with --lower")
    if wasi or lowering:
        changed, facts, imports = _for_the_network(original, stub if wasi else None, memory_ids if lowering else None)
        encoded = encode(changed)
        facts = {"size_bytes": size_bytes, "written_bytes": len(encoded), **facts}
    else:
        validate_original(encode(original), multi_memory=has_own_memories(extensions))
        _validate(original, extensions)
        costs = None if schedule == "none" else schedule
        result = instrument_module(
            original, Options(costs, not host_stable, True, not no_accounting, extensions=extensions)
        )
        encoded = encode(result.module)
        facts = _facts(original, result, size_bytes, len(encoded))
    if output:
        _write(output, encoded)
    if as_json:
        rows = [item._asdict() for item in imports]
        click.echo(json.dumps({**facts, "imports": rows} if wasi else facts, indent=2))
    elif not quiet and (stats or not output or lowering):  # the next version has to have these ids
        _print(facts, imports)


def decoded(path: Path) -> Module:
    """The module in a file, gzip or not; what is malformed is told with the file's name."""
    try:
        return decode(path.read_bytes())
    except MalformedError as error:
        raise MalformedError(f"{path}: {error.message}", error.offset) from error


def _validate(module: Module, extensions: tuple[str, ...]) -> None:
    try:
        validate(module, replace(REPLICA, extensions=extensions))
    except InvalidModuleError:
        if any(item.module in WASI for item in module.imports):
            click.echo("perdure: the module is for WASI: try perdure instrument --wasi", err=True)
        raise


def _write(path: Path, data: bytes) -> None:
    """All or nothing: the output may be the input, and the disk be full."""
    if path.exists() and not path.is_file():
        path.write_bytes(data)  # a device or a pipe
        return
    path = path.resolve()
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def without_wasi(module: Module, stub: tuple[str, ...]) -> WithoutWasi:
    """A module without WASI, for commands; a pattern that matches nothing is bad usage."""
    try:
        return replace_wasi(module, stub)
    except ValueError as error:
        raise click.UsageError(f"--stub: {error}") from error


def _for_the_network(
    module: Module, stub: tuple[str, ...] | None, memory_ids: tuple[str, ...] | None
) -> tuple[Module, dict[str, object], tuple[ReplacedImport, ...]]:
    """A module made for the network, what was done, and what became of imports; `None` for what was not asked for."""
    from perdure.embedder.engine import validate_original

    facts: dict[str, object] = {}
    imports: tuple[ReplacedImport, ...] = ()
    if memory_ids is not None:
        module, facts = _lowered(module, memory_ids, wasi=stub is not None)
    if stub is not None:
        replaced = without_wasi(module, stub)
        module, imports = replaced.module, replaced.imports
        facts |= {"initializer": replaced.initializer or None, "renamed": dict(replaced.renamed)}
    validate_original(encode(module))
    validate(module)
    return module, facts, imports


def _lowered(module: Module, memory_ids: tuple[str, ...], *, wasi: bool) -> tuple[Module, dict[str, object]]:
    """A module without what the network does not have; what WASI brings is replaced afterwards."""
    from perdure.embedder.engine import validate_original

    wanted = {}
    for text in memory_ids:
        name, _, number = text.partition("=")
        if not number.isdecimal():
            raise click.UsageError(f"--memory-id: expected NAME=ID, found {text!r:.80}")
        wanted[name] = int(number)
    validate_original(encode(module), multi_memory=True)
    if not wasi:
        _validate(module, LOWERED)
    try:
        lowered = lower(module, wanted)
    except ValueError as error:
        raise click.UsageError(f"--memory-id: {error}") from error
    return lowered.module, {"memory_ids": dict(lowered.memory_ids)}


def _facts(original: Module, result: Instrumented, size_bytes: int, instrumented_bytes: int) -> dict[str, object]:
    linked = result.module
    return {
        "size_bytes": size_bytes,
        "instrumented_bytes": instrumented_bytes,
        "schedule": result.options.schedule,
        "instructions": count_instructions(original.codes),
        "functions": original.function_count,
        "functions_added": linked.function_count - original.function_count,
        "globals_added": len(linked.globals) - len(original.globals),
        "memories_added": len(linked.memories) - len(original.all_memories),
        "saved_globals": len(result.saved_globals),
        "data_segments_kept_aside": len(result.data_segments),
        "heap_is_64_bit": result.is_64,
        "redirected": sorted(result.redirected_imports),
        "methods": sorted(result.methods),
    }


def _print(facts: Mapping[str, object], imports: Iterable[ReplacedImport]) -> None:
    rows = [(name.replace("_", " "), _shown(value)) for name, value in facts.items()]
    rows += [
        (f"{item.module}.{item.name}", item.becomes + (f", by ic0.{item.calls}" if item.calls else ""))
        for item in imports
    ]
    shown = [(printable(title), printable(value)) for title, value in rows]
    table(("what", "value"), shown, whole=("what",), with_heading=False)


def _shown(value: object) -> str:
    match value:
        case list():
            return ", ".join(map(str, value)) or "none"
        case dict():
            return ", ".join(f"{old} to {new}" for old, new in value.items()) or "none"
        case int() if not isinstance(value, bool):
            return f"{value:,}"
        case None:
            return "none"
        case _:
            return str(value)
