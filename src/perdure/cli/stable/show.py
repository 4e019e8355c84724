"""How `perdure stable` prints: JSON, tables for people, sizes, values on one line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click

from perdure import units
from perdure.cli.console import table

__all__ = ["print_json", "print_table", "printable", "show_size"]


def print_json(value: object) -> None:
    """Print a value as JSON, for people to read as well."""
    import json

    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


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
    text = text.encode("unicode_escape").decode() if not text.isprintable() else text
    return text if len(text) <= 80 else f"{text[:77]}..."
