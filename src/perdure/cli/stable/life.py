"""The lives of variables: lifecycle."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.cli.completing import complete_source
from perdure.cli.stable.show import print_json, print_table, printable
from perdure.cli.stable.source import FOUND_WRONG, opened, options

if TYPE_CHECKING:
    from perdure.inspection.lifecycle import Life

__all__ = ["lifecycle", "tell_if_none_kept"]


@click.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, shell_complete=complete_source)
@click.option("--since", type=click.IntRange(min=0), default=0, help="Of a history: commits after this version.")
@options
def lifecycle(sources: tuple[str, ...], since: int, as_json: bool, quiet: bool, schema_path: Path | None) -> None:
    """Show the life of each variable: what stable.yaml says, and what states or a history show.

    Of several SOURCEs, oldest first, each is compared with the one before. Of one STATE_DIR:CANISTER the history is
    read: which commits have written to which memory. Exit code 1 where something contradicts stable.yaml: a variable
    that is deprecated and was written, one that is active and gone.

    \b
    Example:
        perdure stable lifecycle january february march
        perdure stable lifecycle .perdure:backend --since 1200
    """  # noqa: D301
    from perdure.inspection.lifecycle import lives_in_history, lives_in_states

    with ExitStack() as stack:
        states = [stack.enter_context(opened(source, schema_path)) for source in sources]
        directory, _, canister = sources[0].rpartition(":")
        declared = states[-1][1]
        if len(sources) == 1 and not Path(sources[0]).exists() and Path(directory).is_dir():
            lives = lives_in_history(Path(directory), canister, states[0][0], declared, since)
            tell_if_none_kept(directory)
            if states[0][0].variables.tables() and not quiet:
                click.echo("a history tells of memories, not of Motoko's variables: name several states", err=True)
        else:
            lives = lives_in_states([inventory for inventory, _ in states], declared)
    if as_json:
        print_json([_json(life, sources) for life in lives])
    elif not quiet:
        _print(lives, sources)
    if any(life.is_wrong for life in lives):
        raise click.exceptions.Exit(FOUND_WRONG)


def tell_if_none_kept(directory: str) -> None:
    """Say on standard error that a state directory keeps no messages, where that is so, and how it does."""
    from perdure.storage import StateDirectory

    with StateDirectory.open(directory, read_only=True) as kept:
        if kept.history(1):
            return
    told = f"{directory} keeps no messages, so none is seen to write"
    click.echo(f"{told}: `perdure state history {directory} --keep all` has it keep those to come", err=True)


def _json(life: Life, sources: tuple[str, ...]) -> dict[str, object]:
    return {
        "memory": life.label,
        "name": life.name,
        "kind": life.kind,
        "declared": life.declared,
        "seen": life.seen,
        "steps": [{"source": source, "status": step} for source, step in zip(sources, life.steps, strict=False)],
        "writes": len(life.writes),
        "last_write": life.writes[-1]._asdict() if life.writes else None,
        "note": life.note or None,
        "is_wrong": life.is_wrong,
    }


def _print(lives: list[Life], sources: tuple[str, ...]) -> None:
    titles = ["last written"]
    if any(life.steps for life in lives):
        titles = [Path(source).name or source for source in sources]
    rows = []
    for life in lives:
        last = life.writes[-1] if life.writes else None
        steps = life.steps or ("" if last is None else f"{last.version}: {last.kind} {last.method}",)
        cells = (life.label, life.name, life.kind, life.declared, life.seen, *steps, life.note)
        rows.append(["" if cell is None else printable(cell) for cell in cells])
    columns = ["memory", "name", "kind", "declared", "seen", *titles, "note"]
    shown = [index for index, column in enumerate(columns) if column == "memory" or any(row[index] for row in rows)]
    whole = ("memory", "name", "seen", "last written")
    print_table([columns[at] for at in shown], [[row[at] for at in shown] for row in rows], whole=whole)
