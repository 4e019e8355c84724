"""`perdure fleet`: a command for many sources at once."""

from __future__ import annotations

import click

from perdure.cli.lazy import LazyGroup

__all__ = ["fleet"]

_PLACES = {
    "upgrade-check": "campaigns:upgrade_check",
    "query": "campaigns:query",
    "fsck": "campaigns:fsck",
    "bench": "campaigns:bench",
    "fuzz": "campaigns:fuzz",
    "export": "export:export",
}


@click.group(cls=LazyGroup, places={name: f"perdure.cli.fleet.{place}" for name, place in _PLACES.items()})
def fleet() -> None:
    """Do the same for many canisters, on all cores or on many machines.

    SOURCES are sources as for the single command, patterns ("snapshots/*"), directories that are looked through, state
    directories (all their canisters), and @FILE, which has one of these on each line.

    \b
    Example:
        perdure fleet upgrade-check snapshots/ ledger.wasm -o campaign
    """  # noqa: D301 - click wants the backspace itself
