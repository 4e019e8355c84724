"""Numbers and names as the pages show them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from perdure.ic.principal import MAX_PRINCIPAL_BYTES, Principal
from perdure.units import show_bytes, show_cycles
from perdure.values.show import to_text

__all__ = ["FILTERS", "cell", "listed", "shown_id", "shown_time"]

MAX_CELL_CHARACTERS: Final = 200


def shown_time(time_ns: int) -> str:
    """A time since 1970, to the millisecond."""
    if not time_ns:
        return "never"
    try:
        moment = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC)
    except (OverflowError, ValueError, OSError):
        return f"{time_ns} ns"
    return f"{moment:%Y-%m-%d %H:%M:%S}.{time_ns // 1_000_000 % 1000:03}"


def shown_id(raw: bytes) -> str:
    """A principal, or the key of what has none."""
    return str(Principal(raw)) if len(raw) <= MAX_PRINCIPAL_BYTES else raw.hex()


def cell(value: object) -> str:
    """One value of a row, cut where it is long."""
    try:
        text = "" if value is None else str(to_text(value))
    except ValueError:
        text = repr(value)
    text = "".join(char if char.isprintable() else "\ufffd" for char in text[: MAX_CELL_CHARACTERS + 1])
    return text if len(text) <= MAX_CELL_CHARACTERS else f"{text[:MAX_CELL_CHARACTERS]}…"


def listed(names: Iterable[object]) -> str:
    """Names in one line."""
    return ", ".join(map(str, names)) or "none"


def _count(number: int) -> str:
    return f"{number:,}"


def _log(content: bytes) -> str:
    text = content.decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)


FILTERS: Final = {
    "bytes": show_bytes,
    "cell": cell,
    "count": _count,
    "cycles": show_cycles,
    "hex": bytes.hex,
    "id": shown_id,
    "listed": listed,
    "log": _log,
    "time": shown_time,
}
"""By the names that the templates call them."""
