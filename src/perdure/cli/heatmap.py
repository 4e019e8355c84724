"""`perdure heatmap`: which parts of which memories messages read and write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.cli.argument import PICTURE, InputFile
from perdure.cli.measured import Measured, measured
from perdure.cli.terminal import LAYOUT, json_text, printable

if TYPE_CHECKING:
    from perdure.errors import RejectError
    from perdure.measure.heat import Heat
    from perdure.values.schema import Schema

__all__ = ["heatmap"]


@click.command()
@measured()
@click.option("--history", is_flag=True, help="Of the messages that a state directory has kept, not of calls.")
@click.option("--last", type=click.IntRange(1), metavar="N", help="With --history: of the newest so many.")
@click.option("--memory", metavar="NAME", help="Draw this memory: stable, heap, or one of the canister's own.")
@click.option("--heap-reads", is_flag=True, help="See what is read of heaps, too: in Wasm pages; it takes longer.")
@click.option(
    "--messages", type=click.IntRange(0), default=0, metavar="N", help="Tell what each message did, of the newest N."
)
@click.option("--rows", type=click.IntRange(1), default=30, show_default=True, help="How many rows a table has.")
@click.option("--schema", "schema_path", type=InputFile(), help="Names of structures; ./stable.yaml if there is one.")
@click.option("-o", "--output", type=PICTURE, help="Write the map as a picture: .svg or .png.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def heatmap(
    ran: Measured,
    history: bool,
    last: int | None,
    memory: str | None,
    heap_reads: bool,
    messages: int,
    rows: int,
    schema_path: Path | None,
    output: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Show which pages of memories messages read and write: by method, by structure, and as a map.

    SOURCE is STATE_DIR:CANISTER or the directory of a downloaded snapshot, which are only read; a MODULE is installed
    on a fresh subnet. Arguments are written as for `perdure run`. With --history nothing is called: the messages are
    those that the state directory has kept, of which it knows what they wrote.

    \b
    Example:
        perdure heatmap ledger.wasm 'transfer=("alice", 10)' -o transfer.svg
        perdure heatmap ./my-snapshot refresh --heap-reads --memory heap
        perdure heatmap .perdure:ledger --history --last 1000 -o week.png
    """  # noqa: D301
    from perdure.cli.stable.source import load_declared

    _check(ran.named, history=history, last=last, heap_reads=heap_reads)
    declared = load_declared(schema_path)
    rejections: list[RejectError] = []
    if history:
        heat = _of_history(ran.source or "", last, messages, declared)
    else:
        with (
            ran.opened() as (subnet, canister),
            subnet.heat(changed_bytes=True, heap_reads=heap_reads, newest=messages, schema=declared) as heat,
        ):
            rejections = ran.run(subnet, canister)
    _tell(heat, memory, rows, output, as_json=as_json, quiet=quiet)
    for rejection in rejections:
        raise rejection  # told last: what it and those before it touched is shown


def _check(named: list[str], *, history: bool, last: int | None, heap_reads: bool) -> None:
    """Refuse options that do not go together."""
    if history == bool(named):
        words = f"and {named[0]}: one or the other" if named else "alone: name methods, or say --upgrade or --ticks"
        raise click.UsageError(f"--history {words}" if history else f"SOURCE {words}, or --history")
    if last is not None and not history:
        raise click.UsageError("--last is for --history")
    if heap_reads and history:
        raise click.UsageError("--heap-reads is for calls: a history does not have what messages read")


def _tell(heat: Heat, memory: str | None, rows: int, output: Path | None, *, as_json: bool, quiet: bool) -> None:
    try:
        lines = heat.terminal(memory=memory)
        if output is not None:
            output.write_bytes(heat.picture(memory=memory).file(output.suffix))
    except LookupError as error:
        raise click.UsageError(f"--memory {memory}: {error}") from error
    if as_json:
        click.echo(json_text(heat.to_json()))
    elif not quiet:
        note = "" if heat.sees_reads else "\na history has what messages wrote, not what they read\n"
        table = "\n" + heat.table(rows) if heat.memories else ""  # of nothing there is nothing to tell
        click.echo(printable("\n".join(lines) + "\n" + table + note, keep=LAYOUT), nl=False)


def _of_history(source: str, last: int | None, messages: int, declared: Schema | None) -> Heat:
    from perdure.cli.stable.life import tell_if_none_kept
    from perdure.measure.heating import heat_of_kept

    directory, separator, canister = source.rpartition(":")
    if not separator or not Path(directory).is_dir():
        raise click.UsageError(f"--history is of a state directory: expected STATE_DIR:CANISTER, found {source}")
    heat = heat_of_kept(Path(directory), canister, last=last, newest=messages, schema=declared)
    if not heat.messages:
        tell_if_none_kept(directory)
    return heat
