"""How `perdure stable` prints: JSON, tables for people, sizes, values on one line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, Literal

import click

from perdure import units

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["console_of", "print_json", "print_table", "printable", "show_size"]

_WIDE: Final = 200


def print_json(value: object) -> None:
    """Print a value as JSON, for people to read as well."""
    import json

    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def console_of() -> Console:
    """Colours and the terminal's width for people; plain and wide in a pipe. rich heeds NO_COLOR."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDE)


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Sequence[str] = (),
    whole: Sequence[str] = (),
) -> None:
    """Print rows under their columns; those named by `right` are numbers, those by `whole` are not broken."""
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        justify: Literal["left", "right"] = "right" if column in right else "left"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=column in whole)
    for row in rows:
        table.add_row(*(Text("" if value is None else str(value)) for value in row))
    console_of().print(table)


def show_size(size_bytes: int | None) -> str:
    """Bytes for people, in the units of the Internet Computer's tools."""
    return "" if size_bytes is None else units.show_size(size_bytes)


def printable(value: object) -> str:
    """A decoded value on one line, shortened."""
    from perdure.values.show import to_text

    text = "" if value is None else str(to_text(value))
    text = text.encode("unicode_escape").decode() if not text.isprintable() else text
    return text if len(text) <= 80 else f"{text[:77]}..."
