"""`perdure stable`: what is in any stable memory.

Importing this costs click and nothing else; NumPy, apsw and rich are imported by the commands that need them.
"""

from __future__ import annotations

import click

from perdure.cli.stable.check import fsck, map_
from perdure.cli.stable.compare import diff, infer
from perdure.cli.stable.database import extract, patch
from perdure.cli.stable.declare import embed, guard
from perdure.cli.stable.entries import get, query, rows
from perdure.cli.stable.export import export
from perdure.cli.stable.life import lifecycle
from perdure.cli.stable.rewrite import compact, drop
from perdure.cli.stable.structures import ls, schema, tree

__all__ = ["stable"]


@click.group()
def stable() -> None:
    """Show, query, compare and check what is in any stable memory.

    SOURCE is STATE_DIR:CANISTER, SNAPSHOT_DIR, FILE (a raw dump, gzip or not), or - for standard input. The first two
    are stable memory; with #MEMORY behind, as in .perdure:ledger#users, another memory of the canister.

    A stable.yaml in the current directory, or the one named by --schema, says what keys and values mean.

    \b
    Example:
        perdure stable ls ./my-snapshot
    """  # noqa: D301 - click wants the backspace itself


for _command in (
    *(ls, tree, schema, rows, get, query, infer, diff, export, extract, patch),
    *(lifecycle, drop, compact, fsck, map_, embed, guard),
):
    stable.add_command(_command)
