"""Text from a file that nobody trusts, on somebody's terminal."""

from __future__ import annotations

from perdure.units import printable

__all__ = ["LAYOUT", "printable"]

LAYOUT = "\n\t"
"""What messages are laid out with."""
