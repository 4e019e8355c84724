"""Whether they are sound, and where they lie: fsck, map."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from perdure.cli.argument import PICTURE
from perdure.cli.completing import complete_source
from perdure.cli.console import can_say, has_colours, say, styled, width_of
from perdure.cli.progress import waiting
from perdure.cli.stable.show import print_json
from perdure.cli.stable.source import FOUND_WRONG, about_nothing, opened, options
from perdure.cli.terminal import printable

if TYPE_CHECKING:
    from perdure.inspection.find import Inventory
    from perdure.inspection.fsck import Report

__all__ = ["fsck", "map_"]

_COLOURS: Final = ("blue", "yellow", "red", "cyan", "green", "magenta", "bright_blue", "bright_red", "white")


@click.command()
@click.argument("source", shell_complete=complete_source)
@click.option("--all-values", is_flag=True, help="Decode every value with its declared type, not the first thousand.")
@options
def fsck(source: str, all_values: bool, as_json: bool, quiet: bool, schema_path: Path | None) -> None:
    """Prove a stable memory sound, or say what is not.

    Each finding has an address and advice. Exit code 1 on errors, not on notes. Needs the extra "columns".

    \b
    Example:
        perdure stable fsck ./my-snapshot
    """  # noqa: D301
    from perdure.inspection.fsck import fsck as check
    from perdure.inspection.report import report_json

    with opened(source, schema_path) as (inventory, declared), waiting("checking", quiet):
        report = check(inventory, declared, all_values=all_values)
    if as_json:
        print_json(report_json(report))
    elif not quiet:
        _print_report(report)
    if report.errors:
        raise click.exceptions.Exit(FOUND_WRONG)


def _print_report(report: Report) -> None:
    for finding in report.findings:
        style = "red" if finding.severity == "error" else "yellow"
        where = "" if finding.address is None else f" at {finding.address:#x}"
        if finding.below_address is not None and finding.below_address != finding.address:
            where += f" ({finding.below_address:#x} in the dump)"
        what = f"{finding.code}: memory {finding.label}{where}: {printable(finding.message)}"
        say(f"{styled(finding.severity, style)} {what}")
        say(styled(f"  {finding.advice}", "dim"))
    listed = len(report.findings)
    total = sum(sum(counts.values()) for counts in report.counts.values())
    if total > listed:
        say(f"and {total - listed} more of the same kinds")
    errors = len(report.errors)
    click.echo(f"{report.checked} memories checked: {errors} errors, {listed - errors} notes listed")


@click.command("map")
@click.argument("source", shell_complete=complete_source)
@click.option("-o", "--output", type=PICTURE, help="Write a picture here: .svg or .png.")
@options
def map_(source: str, output: Path | None, as_json: bool, quiet: bool, schema_path: Path | None) -> None:
    """Show what occupies the memory.

    As blocks here, or as a picture with -o, an SVG or a PNG as its name ends.

    \b
    Example:
        perdure stable map canister.bin
        perdure stable map canister.bin -o map.png
    """  # noqa: D301
    from perdure.inspection.occupancy import drawing, occupancy
    from perdure.inspection.report import record_of

    with opened(source, schema_path) as (inventory, _):
        if output is not None:
            output.write_bytes(drawing(inventory).file(output.suffix))
        if as_json:
            print_json([record_of(span) for span in occupancy(inventory)])
        elif output is None:
            if inventory.structures:
                _print_map(inventory, quiet=quiet)
            if not quiet and (note := about_nothing(source, inventory)):
                click.echo(note)
        elif not quiet:
            click.echo(f"written to {output}")


def _print_map(inventory: Inventory, *, quiet: bool) -> None:
    from perdure.inspection.occupancy import cells, legend, occupancy

    width = min(64, max(16, width_of() - 2))
    drawn = cells(occupancy(inventory), width * 12)
    colours = {structure.label: _COLOURS[index % len(_COLOURS)] for index, structure in enumerate(inventory.structures)}
    letters = {structure.label: _letter(index) for index, structure in enumerate(inventory.structures)}
    used, slack, free = _marks()
    marks = {"manager": "#", "slack": slack, "free": free}
    for first in range(0, len(drawn), width):
        line = [
            (marks.get(span.use) or used or letters[span.label], colours.get(span.label, ""))
            for span in drawn[first : first + width]
        ]
        alike = groupby(line, key=itemgetter(1))
        say("".join(styled("".join(mark for mark, _ in run), style) for style, run in alike))
    if quiet:
        return
    for structure in inventory.structures:
        say(styled(f"{letters[structure.label]} {legend(structure)}", colours[structure.label]))
    say(f"# manager   {slack} set aside, not in use   {free} nobody's")


def _marks() -> tuple[str, str, str]:
    """For what is used, where colours tell whose it is (else empty), for what is set aside and for what is nobody's."""
    if not can_say("█░·"):
        return "", "-", "."
    return "█" if has_colours() else "", "░", "·"


def _letter(index: int) -> str:
    """A letter for each structure, for where there are no colours."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    return alphabet[index % len(alphabet)]
