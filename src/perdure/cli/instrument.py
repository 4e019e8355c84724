"""`perdure instrument`: rewrite a module as perdure runs it, and say what was added."""

from __future__ import annotations

import json
from pathlib import Path

import click

from perdure.instrument import SCHEDULES, Instrumented, Options, count_instructions, validate
from perdure.instrument import instrument as instrument_module
from perdure.wasm import Module, decode, encode

__all__ = ["instrument"]


@click.command()
@click.argument("module", metavar="IN.wasm", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the result here.")
@click.option("--schedule", type=click.Choice([*SCHEDULES, "none"]), default="2025", help="What instructions cost.")
@click.option("--host-stable", is_flag=True, help="Leave stable memory behind host calls.")
@click.option("--no-accounting", is_flag=True, help="Do not mark, limit or charge stable pages.")
@click.option("--stats", is_flag=True, help="Say what was added even when writing to a file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def instrument(
    module: Path,
    output: Path | None,
    schedule: str,
    host_stable: bool,
    no_accounting: bool,
    stats: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Meter a module, link native stable memory to it, and say what was added.

    \b
    Example:
        perdure instrument counter.wasm -o counter.native.wasm --stats
    """  # noqa: D301 - click wants the backspace itself
    original = decode(module.read_bytes())
    validate(original)
    options = Options(
        schedule=None if schedule == "none" else schedule,
        native_stable=not host_stable,
        accounting=not no_accounting,
    )
    result = instrument_module(original, options)
    encoded = encode(result.module)
    if output:
        output.write_bytes(encoded)
    facts = _facts(original, result, module.stat().st_size, len(encoded))
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    elif not quiet and (stats or not output):
        _print(facts)


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


def _print(facts: dict[str, object]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in facts.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else f"{value:,}" if type(value) is int else value
        table.add_row(name.replace("_", " "), str(shown))
    Console().print(table)
