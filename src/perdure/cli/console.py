"""What commands print for people: colours where a terminal has them, tables no wider than it is, trees.

A library for this is rich, which the commands had until it was a fifth of what an installation weighs.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Final, NamedTuple

import click

__all__ = ["Node", "can_say", "cells_of", "has_colours", "say", "styled", "table", "tree", "width_of"]

_WIDE: Final = 200
"""Of what is no terminal."""
_LEAST: Final = 8
_GAP: Final = "  "


class Node(NamedTuple):
    """Of a tree: what it says, and what is below it."""

    text: str
    below: list[Node]


def has_colours() -> bool:
    """Whether standard output is a terminal that has colours, and nobody says ``NO_COLOR``."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    return is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def width_of() -> int:
    """How many letters a line of standard output has."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    return shutil.get_terminal_size().columns if is_terminal else _WIDE


def can_say(text: str) -> bool:
    """Whether standard output has these letters."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def styled(text: str, style: str) -> str:
    """A text that is ``bold``, ``dim`` or of a colour, for `say`; no style: the same."""
    if style in ("bold", "dim"):
        return click.style(text, bold=style == "bold" or None, dim=style == "dim" or None)
    return click.style(text, fg=style) if style else text


def say(text: str = "", *, end: str = "\n") -> None:
    """Print a line; what is `styled` in it is so where there are colours."""
    click.echo(text + end, nl=False, color=has_colours())


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Sequence[str] = (),
    whole: Sequence[str] = (),
    with_heading: bool = True,
) -> None:
    """Print rows under their columns.

    Args:
        columns: headings.
        rows: a text for each.
        right: columns of numbers, which are never broken.
        whole: others that are never broken. What is too wide for the terminal is, at spaces where there are some.
        with_heading: print the headings, too.
    """
    lines = [*([columns] if with_heading else []), *rows]
    fixed = [column in right or column in whole for column in columns]
    widths = _widths([max(map(cells_of, column), default=0) for column in zip(*lines, strict=True)], fixed)
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


def _widths(natural: Sequence[int], fixed: Sequence[bool]) -> list[int]:
    """How wide columns are: those that may be broken are made narrower alike, the widest first."""
    room = width_of() - len(_GAP) * (len(natural) - 1)

    def limited(most: int) -> list[int]:
        return [width if is_fixed else min(width, most) for width, is_fixed in zip(natural, fixed, strict=True)]

    return next((found for most in range(room, _LEAST, -1) if sum(found := limited(most)) <= room), limited(_LEAST))


def _folded(text: str, width: int) -> Iterator[str]:
    """A text in lines, broken at spaces where there are some."""
    while cells_of(text) > width:
        most = _letters(text, width)
        space = text.rfind(" ", 1, most + 1)
        cut = space if space > 0 else most
        yield text[:cut]
        text = text[cut:].removeprefix(" ")
    yield text


def _letters(text: str, width: int) -> int:
    """How many letters of a text fit, at least one."""
    used = 0
    for number, letter in enumerate(text):
        used += cells_of(letter)
        if used > width:
            return max(1, number)
    return len(text)


def cells_of(text: str) -> int:
    """How many places of a terminal a text takes."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width  # few texts have others

    return sum(2 if east_asian_width(one) in "WF" else int(not combining(one)) for one in text)


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
