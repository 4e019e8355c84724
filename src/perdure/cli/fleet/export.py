"""`perdure fleet export`: states of a canister as versions of Delta tables."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from perdure.cli.stable.source import load_declared, options

__all__ = ["export"]


@click.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option("--delta", "target", required=True, metavar="TARGET", help="A directory or URL, with a table for each.")
@click.option("-s", "--structure", "structures", multiple=True, help="A name or label; all that can be read, else.")
@click.option("--commits", is_flag=True, help="Of one STATE_DIR:CANISTER, a version for each commit that is kept.")
@options
def export(
    sources: tuple[str, ...],
    target: str,
    structures: tuple[str, ...],
    commits: bool,
    as_json: bool,
    quiet: bool,
    schema_path: Path | None,
) -> None:
    """Write states of a canister, oldest first, as versions of Delta tables: the first whole, then what has changed.

    What was cut off goes on after the last version, which must be one of SOURCES.

    \b
    Example:
        perdure fleet export january february march --delta lake
        perdure fleet export .perdure:ledger --commits --delta s3://lake/ledger
    """  # noqa: D301 - click wants the backspace itself
    from perdure.fleet.lake import commits_of, export_delta, sources_of

    schema = load_declared(schema_path)
    states = sources_of(sources, schema)
    if commits:
        directory, colon, canister = sources[0].rpartition(":")
        if len(sources) > 1 or not colon:
            raise click.UsageError("--commits is of one STATE_DIR:CANISTER")
        states = commits_of(Path(directory), canister, schema)
    rows = []
    for written in export_delta(states, target, schema, structures):
        rows.append(asdict(written))
        if not as_json and not quiet:
            counts = f"{written.added} added, {written.changed} changed, {written.removed} removed"
            click.echo(f"{written.table} version {written.version}: {counts}, of {written.source}")
    if not rows and not as_json and not quiet:
        click.echo(f"nothing new: the newest versions in {target} are of these sources")
    if as_json:
        click.echo(json.dumps({"versions": rows}, indent=2))
