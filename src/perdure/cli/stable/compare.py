"""What they may be, and how they differ: infer, diff."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perdure.cli.completing import complete_source
from perdure.cli.console import say, styled
from perdure.cli.paths import LocalPath
from perdure.cli.stable.show import print_json, printable
from perdure.cli.stable.source import FOUND_WRONG, opened, options
from perdure.units import show_bytes

if TYPE_CHECKING:
    from perdure.inspection.diff import StructureDiff

__all__ = ["diff", "infer"]


@click.command()
@click.argument("source", shell_complete=complete_source)
@click.option("-o", "--output", type=LocalPath(dir_okay=False, path_type=Path), help="Write stable.yaml here.")
@options
def infer(source: str, output: Path | None, as_json: bool, quiet: bool, schema_path: Path | None) -> None:
    """Draft a stable.yaml from the bytes, and say how sure it is.

    \b
    Example:
        perdure stable infer canister.bin -o stable.yaml
    """  # noqa: D301
    from perdure.inspection.infer import draft
    from perdure.inspection.report import draft_json
    from perdure.values.schema import dump_schema

    with opened(source, schema_path) as (inventory, _):
        drafts = list(draft(inventory))
        if output is not None:
            if output.exists():
                raise click.UsageError(f"{output} exists already")
            if output.suffix not in (".yaml", ".yml"):
                raise click.UsageError(f"a schema is YAML: name it {output.with_suffix('.yaml').name}")
            output.write_text(dump_schema((found.memory, found.comment) for found in drafts), encoding="utf-8")
        if as_json:
            print_json([draft_json(found) for found in drafts])
        elif output is None:
            comments = ((found.memory, "" if quiet else found.comment) for found in drafts)
            click.echo(dump_schema(comments), nl=False)


@click.command()
@click.argument("before", shell_complete=complete_source)
@click.argument("after", shell_complete=complete_source)
@click.option(
    "--limit", type=click.IntRange(min=0), default=20, show_default=True, help="Changes to show of each; 0: all."
)
@click.option("--full-scan", is_flag=True, help="Compare every entry, not only those near changed pages.")
@options
def diff(
    before: str, after: str, limit: int, full_scan: bool, as_json: bool, quiet: bool, schema_path: Path | None
) -> None:
    """Compare two memories by key. Exit code 1 if they differ.

    4 KiB pages are compared first, so that only what is near a change is decoded. Of bytes that are no structure it is
    said where they differ.

    \b
    Example:
        perdure stable diff monday.bin tuesday.bin
        perdure stable diff snapshots/before#users .perdure:ledger#users
    """  # noqa: D301
    from perdure.inspection.diff import diff as compare
    from perdure.inspection.report import diff_json

    with opened(before, schema_path) as (old, declared), opened(after, schema_path) as (new, later):
        # What came later reads what was there before: columns were added, and not the other way round.
        found = list(compare(old, new, later or declared, full_scan=full_scan))
        if as_json:
            print_json([diff_json(structure, limit) for structure in found])
        elif not quiet:
            for structure in found:
                _print_diff(structure, limit)
    if any(structure.status != "same" for structure in found):
        raise click.exceptions.Exit(FOUND_WRONG)


def _print_diff(found: StructureDiff, limit: int) -> None:
    if found.status == "same":
        return
    counts = ", ".join(f"{number} {what}" for what in ("added", "removed", "changed") if (number := found.count(what)))
    kinds = " -> ".join(dict.fromkeys(kind or "nothing" for kind in found.kinds))
    say(styled(f"{printable(found.name)} ({kinds}): {counts or found.status}", "bold"))
    for one in found.models:
        say(styled(f"  {printable(one.place)}: {printable(one.what)} ({one.verdict})", "yellow"))
    # What the bytes of a catalogue say is told above.
    shown = [] if found.models else found.changes[:limit] if limit else found.changes
    for change in shown:
        mark, style = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow")}[change.what]
        say(styled(f"  {mark} {_change_text(found, change)}", style))
    if len(found.changes) > len(shown) and not found.models:
        say(f"  and {len(found.changes) - len(shown)} more")
    _print_bytes(found, limit)


def _print_bytes(found: StructureDiff, limit: int) -> None:
    """Which bytes differ, where nobody knows what they mean."""
    if found.regions is None:
        return
    total, _, changed = found.pages
    say(f"  {changed:,} of {total:,} pages of 4 KiB differ")
    for run in islice(found.byte_runs(), limit or None):
        sides = " -> ".join(side.hex(" ") or "nothing" for side in (run.before, run.after))
        say(styled(f"  ~ {run.address:#x}, {show_bytes(run.size_bytes)}: {sides}", "yellow"))
    if limit and found.run_count > limit:
        say(f"  and {found.run_count - limit:,} more")


def _change_text(found: StructureDiff, change: Any) -> str:
    tables = found.tables
    table = tables[0] if change.after is None else tables[1]
    assert table is not None
    key = " ".join(printable(part) for part in table.decode_key(change.key))
    values = [
        " ".join(printable(part) for part in side.decode_value(data))
        for side, data in zip(tables, (change.before, change.after), strict=True)
        if data is not None and side is not None
    ]
    return f"{key}: {' -> '.join(values)}" if any(values) else key
