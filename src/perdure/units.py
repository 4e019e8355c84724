"""Sizes, cycles, durations and names as people write and read them: ``1.5 MiB``, ``2t``, ``30d``, ``2_000_000``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

__all__ = [
    "CYCLES",
    "DURATIONS",
    "SIZES",
    "counted",
    "meant",
    "parse_amount",
    "printable",
    "show_bytes",
    "show_cycles",
    "show_size",
]

_NUMBER: Final = re.compile(r"([0-9][0-9_]*(?:\.[0-9_]+)?)\s*([a-z]*)", re.IGNORECASE)

SIZES: Final[Mapping[str, int]] = {
    "": 1,
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)},
}
"""In bytes."""
CYCLES: Final[Mapping[str, int]] = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
DURATIONS: Final[Mapping[str, int]] = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
"""In seconds."""

_MOST_CHARACTERS: Final = 200
_MOST_NAMES: Final = 100
"""Listed where none is like the one that was meant."""


def parse_amount(text: str, units: Mapping[str, int]) -> int:
    """The amount that somebody wrote.

    Args:
        text: a number, and a unit if need be.
        units: by name, in lower case; the empty name is what a bare number means.

    Raises:
        ValueError: no such number, an unknown unit, or no whole number of the smallest unit.
    """
    if len(text) > _MOST_CHARACTERS:
        raise ValueError(f"{text[:20]!r}... is {len(text)} characters long, a number has at most {_MOST_CHARACTERS}")
    found = _NUMBER.fullmatch(text.strip())
    unit = found.group(2).lower() if found else ""
    if found is None or unit not in units:
        raise ValueError(f"{text!r:.60} is not a number, and one of {', '.join(filter(None, units))}")
    from fractions import Fraction

    amount = Fraction(found.group(1).replace("_", "")) * units[unit]
    if amount.denominator != 1:
        raise ValueError(f"{text!r:.60} is not a whole number of the smallest unit")
    return int(amount)


def meant(name: str, known: Iterable[str]) -> str:
    """What to say behind a name that nobody has: the one that is like it, else those that there are."""
    from difflib import get_close_matches

    names = sorted(known)
    close = get_close_matches(name, names, 1)
    if close:
        return f"did you mean {close[0]!r}?"
    # Names are a canister's: one that has the end of a line in it would say the next one, too.
    shown = ", ".join(map(printable, names[:_MOST_NAMES]))
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return f"expected one of: {shown or '(none)'}{more}"


def printable(text: str, *, keep: str = "") -> str:
    r"""`text` without characters that a terminal would obey: those are written as in the text format, ``\u{1b}``."""
    if text.isprintable():  # nearly always, and it is all that is asked of a table of 100,000 rows
        return text
    return "".join(char if char.isprintable() or char in keep else f"\\u{{{ord(char):x}}}" for char in text)


def counted(number: int, what: str, several: str = "") -> str:
    """So many of something: ``1 row``, ``2,000 rows``."""
    return f"{number:,} {what if number == 1 else several or what + 's'}"


def show_bytes(size_bytes: int) -> str:
    """A size in the largest binary unit that it has one of."""
    value = float(size_bytes)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{size_bytes} byte{'s' * (size_bytes != 1)}" if unit == "bytes" else f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} TiB"


def show_size(size_bytes: int) -> str:
    """A size with one decimal, as in tables and pictures: ``512 B``, ``1.0 MiB``."""
    amount = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def show_cycles(cycles: int) -> str:
    """Cycles in trillions, billions or millions, where there are so many."""
    for letter, unit in (("T", 10**12), ("B", 10**9), ("M", 10**6)):
        if cycles >= unit:
            return f"{cycles / unit:.4f}".rstrip("0").rstrip(".") + f" {letter}"
    return str(cycles)
