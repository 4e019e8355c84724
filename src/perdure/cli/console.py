"""What commands print for people: colours where a terminal has them, tables no wider than it is, trees.

No text gets further than its letters: what a terminal would obey is written out here, whoever forgot to.

A library for this is rich, which the commands had until it was a fifth of what an installation weighs.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Final, NamedTuple, TextIO

import click

from perdure.cli.terminal import LAYOUT, printable

__all__ = [
    "Node",
    "can_say",
    "cells_of",
    "clipped",
    "columns_of",
    "has_colours",
    "say",
    "styled",
    "table",
    "tree",
    "width_of",
]

_WIDE: Final = 200
"""Of what is no terminal."""
_USUAL: Final = 80
"""Of a terminal that does not say."""
_LEAST: Final = 8
_GAP: Final = "  "
_ON_THE_LAST: Final = ("Mn", "Me", "Cf")
"""Categories of what takes no place of its own: marks and joiners; nor do vowels and finals among Hangul's parts."""
_STYLE: Final = re.compile(r"(\x1b\[[0-9;]*m)")
"""What `styled` puts around a text."""


class Node(NamedTuple):
    """Of a tree: what it says, and what is below it."""

    text: str
    below: list[Node]


def has_colours() -> bool:
    """Whether standard output is a terminal that has colours, and nobody says ``NO_COLOR``."""
    is_terminal = columns_of(sys.stdout) is not None
    return is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def columns_of(stream: TextIO | None) -> int | None:
    """How many places a line of this terminal has, or what ``COLUMNS`` says; `None`: it is no terminal."""
    if stream is None or not stream.isatty():
        return None
    try:
        found = int(os.environ.get("COLUMNS") or os.get_terminal_size(stream.fileno()).columns)
    except (OSError, ValueError):
        found = 0
    return found if found > 0 else _USUAL


def width_of() -> int:
    """How many letters a line of standard output has."""
    return columns_of(sys.stdout) or _WIDE


def can_say(text: str) -> bool:
    """Whether standard output has these letters."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def styled(text: str, style: str) -> str:
    """A text that is ``bold``, ``dim`` or of a colour, for `say`; no style: the text alone."""
    text = printable(text, keep=LAYOUT)
    if style in ("bold", "dim"):
        return click.style(text, bold=style == "bold" or None, dim=style == "dim" or None)
    return click.style(text, fg=style) if style else text


def say(text: str = "", *, end: str = "\n") -> None:
    """Print a line; what is `styled` in it is so where there are colours."""
    if not text.isprintable():
        parts = _STYLE.split(text)  # every other one is a style
        text = "".join(part if at % 2 else printable(part, keep=LAYOUT) for at, part in enumerate(parts))
    click.echo(text + end, nl=False, color=has_colours())


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Sequence[str] = (),
    whole: Sequence[str] = (),
    with_heading: bool = True,
) -> None:
    """Print rows under their columns; on a terminal that is too narrow for that, a line for each text, by its column.

    Args:
        columns: headings.
        rows: a text for each.
        right: columns of numbers, which are never broken.
        whole: others that are never broken. What is too wide for the terminal is, at spaces where there are some.
        with_heading: print the headings, too.
    """
    texts = [[printable(text) for text in row] for row in rows]
    headings = [printable(column) for column in columns]
    lines = [headings, *texts] if with_heading else texts
    fixed = [column in right or column in whole for column in columns]
    natural = [max((cells_of(line[at]) for line in lines), default=0) for at in range(len(columns))]
    widths = _widths(natural, fixed)
    if with_heading and sum(widths) + len(_GAP) * (len(widths) - 1) > (columns_of(sys.stdout) or sys.maxsize):
        _records(headings, texts)
        return
    for number, row in enumerate(lines):
        style = "bold" if with_heading and not number else ""
        parts = [
            [text] if is_fixed else [*_folded(text, width)]
            for text, width, is_fixed in zip(row, widths, fixed, strict=True)
        ]
        for line in zip_longest(*parts, fillvalue=""):
            padded = (
                _padded(text, width, at_right=column in right)
                for text, width, column in zip(line, widths, columns, strict=True)
            )
            say(styled(_GAP.join(padded).rstrip(), style))


def _records(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a line for each text that is not empty, with its heading before it and nothing between rows but a line."""
    wide = max(map(cells_of, headings), default=0)
    room = max(_LEAST, width_of() - wide - len(_GAP))
    for number, row in enumerate(rows):
        if number:
            say()
        for heading, text in zip(headings, row, strict=True):
            for at, part in enumerate(_folded(text, room) if text else ()):
                before = _padded("" if at else heading, wide, at_right=False)
                say(f"{styled(before, 'bold')}{_GAP}{part}")


def _widths(natural: Sequence[int], fixed: Sequence[bool]) -> list[int]:
    """How wide columns are: those that may be broken are made narrower alike, the widest first."""
    room = width_of() - len(_GAP) * (len(natural) - 1)

    def limited(most: int) -> list[int]:
        return [width if is_fixed else min(width, most) for width, is_fixed in zip(natural, fixed, strict=True)]

    return next((found for most in range(room, _LEAST, -1) if sum(found := limited(most)) <= room), limited(_LEAST))


def _folded(text: str, width: int) -> Iterator[str]:
    """A text in lines, broken at spaces where there are some."""
    if cells_of(text) <= width:
        yield text
        return
    start, is_ascii = 0, text.isascii()
    while start < len(text):
        cut = min(len(text), start + width) if is_ascii else _end(text, start, width)
        if cut < len(text):
            space = text.rfind(" ", start + 1, cut + 1)
            cut = space if space > start else cut
        yield text[start:cut]
        start = cut + text.startswith(" ", cut)


def _end(text: str, start: int, width: int) -> int:
    """Where the letters end that fit from `start` on, at least one, with the marks that they carry."""
    used = 0
    for at in range(start, len(text)):
        used += cells_of(text[at])
        if used > width and at > start:
            return at
    return len(text)


def clipped(text: str, width: int) -> str:
    """As much of a text as fits."""
    return text if cells_of(text) <= width else text[: _end(text, 0, width)]


def cells_of(text: str) -> int:
    """How many places of a terminal a text takes."""
    if text.isascii():
        return len(text)
    from unicodedata import category, east_asian_width  # few texts have others

    return sum(
        2
        if east_asian_width(one) in "WF"
        else int(category(one) not in _ON_THE_LAST and not "\u1160" <= one <= "\u11ff")
        for one in text
    )


def _padded(text: str, width: int, *, at_right: bool) -> str:
    room = " " * (width - cells_of(text))
    return room + text if at_right else text + room


def tree(root: Node) -> None:
    """Print a tree."""
    say(root.text)
    lines = ("├── ", "└── ", "│   ") if can_say("├└│─") else ("+-- ", "`-- ", "|   ")
    _branches(root.below, "", lines)


def _branches(nodes: Sequence[Node], before: str, lines: tuple[str, str, str]) -> None:
    fork, corner, on = lines
    for number, node in enumerate(nodes, 1):
        is_last = number == len(nodes)
        say(before + (corner if is_last else fork) + node.text)
        _branches(node.below, before + ("    " if is_last else on), lines)
