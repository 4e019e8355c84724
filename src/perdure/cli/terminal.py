"""Text from a file that nobody trusts, on somebody's terminal."""

from __future__ import annotations

__all__ = ["LAYOUT", "printable"]

LAYOUT = "\n\t"
"""What messages are laid out with."""


def printable(text: str, *, keep: str = "") -> str:
    r"""`text` without characters that a terminal would obey: those are written as in the text format, ``\u{1b}``."""
    return "".join(char if char.isprintable() or char in keep else f"\\u{{{ord(char):x}}}" for char in text)
