"""How `perdure stable` prints: JSON, tables for people, sizes, values on one line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import click

from perdure import units
from perdure.cli.console import table
from perdure.cli.terminal import json_text

__all__ = ["print_json", "print_table", "printable", "show_size"]


_MOST: Final = 80
"""Letters of a value."""


def print_json(value: object) -> None:
    """Print a value as JSON, for people to read as well."""
    click.echo(json_text(value))


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Sequence[str] = (),
    whole: Sequence[str] = (),
) -> None:
    """Print rows under their columns; those named by `right` are numbers, those by `whole` are not broken."""
    texts = (["" if value is None else str(value) for value in row] for row in rows)
    table(columns, texts, right=right, whole=whole)


def show_size(size_bytes: int | None) -> str:
    """Bytes for people, in the units of the Internet Computer's tools."""
    return "" if size_bytes is None else units.show_size(size_bytes)


def printable(value: object) -> str:
    """A decoded value on one line, shortened."""
    from perdure.values.show import to_text

    text = "" if value is None else str(to_text(value))
    begin = text[: _MOST + 1]
    if not begin.isprintable():  # what else a terminal would obey, and nothing of its neighbours
        begin = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in begin)
    return begin if len(begin) <= _MOST else f"{begin[: _MOST - 3]}..."
