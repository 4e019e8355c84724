"""`perdure stable`: what is in any stable memory.

Importing this costs click and nothing else; NumPy and apsw are imported by the commands that need them.
"""

from __future__ import annotations

import click

from perdure.cli.lazy import LazyGroup

__all__ = ["stable"]


_PLACES = {
    "ls": "structures:ls",
    "tree": "structures:tree",
    "schema": "structures:schema",
    "rows": "entries:rows",
    "get": "entries:get",
    "query": "entries:query",
    "infer": "compare:infer",
    "diff": "compare:diff",
    "export": "export:export",
    "extract": "database:extract",
    "patch": "database:patch",
    "lifecycle": "life:lifecycle",
    "drop": "rewrite:drop",
    "compact": "rewrite:compact",
    "fsck": "check:fsck",
    "map": "check:map_",
    "embed": "declare:embed",
    "guard": "declare:guard",
}


@click.group(cls=LazyGroup, places={name: f"perdure.cli.stable.{place}" for name, place in _PLACES.items()})
def stable() -> None:
    """Show, query, compare and check what is in any stable memory.

    SOURCE is STATE_DIR:CANISTER, SNAPSHOT_DIR, FILE (a raw dump, gzip or not), or - for standard input. The first two
    are stable memory; with #MEMORY behind, as in .perdure:ledger#users, another memory of the canister. The URL of a
    snapshot or dump in object storage (s3://, gs://, az://, file://) is read where it is.

    A stable.yaml in the current directory, or the one named by --schema, says what keys and values mean.

    \b
    Example:
        perdure stable ls ./my-snapshot
    """  # noqa: D301 - click wants the backspace itself
