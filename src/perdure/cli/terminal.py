"""Text from a file that nobody trusts, on somebody's terminal."""

from __future__ import annotations

import re
from typing import Final

from perdure.units import printable

__all__ = ["LAYOUT", "json_text", "printable", "safe_json"]

LAYOUT = "\n\t"
"""What messages are laid out with."""

_OBEYED: Final = re.compile(r"[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""What a terminal obeys, or turns around, of the letters that JSON may have as they are."""


def json_text(value: object, *, indent: int | None = 2) -> str:
    """A value as JSON for programs and terminals: letters as they are, but for those that a terminal would obey."""
    import json

    return safe_json(json.dumps(value, indent=indent, ensure_ascii=False))


def safe_json(text: str) -> str:
    r"""The same JSON without letters that a terminal would obey, which stand in texts only: ``\u009b``."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
