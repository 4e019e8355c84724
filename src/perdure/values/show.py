"""Values as people and other programs see them: JSON, SQLite, one field of text."""

from __future__ import annotations

import json
from json.encoder import encode_basestring
from typing import Final

from perdure.ic.principal import Principal
from perdure.values.format import Value

__all__ = ["to_json", "to_sql", "to_text"]

_SQL_INTEGERS: Final = range(-(1 << 63), 1 << 63)


def _is_shown_decimal(value: int) -> bool:
    return value.bit_length() < 12_000


def to_json(value: object) -> Value:
    """A value made of what JSON has: principals as text, bytes in hexadecimal, records as objects.

    An integer of thousands of digits is a text in hexadecimal: its decimal text takes quadratic time, and Python
    refuses it.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if _is_shown_decimal(value) else f"{value:#x}"
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    return _composed_to_json(value)


def _composed_to_json(value: object) -> Value:
    if isinstance(value, dict):
        return {str(to_json(name)): to_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json(item) for item in value]
    shown = getattr(value, "to_json", None)
    if shown is not None:  # it says so itself
        return to_json(shown())
    from perdure.candid.types import Some  # nearly all values are plain

    if isinstance(value, Some):  # an option in an option, as Candid's JSON has it
        return [to_json(value.value)]
    tag = getattr(value, "tag", None)
    if isinstance(tag, int) and hasattr(value, "value"):
        return {"tag": tag, "value": to_json(value.value)}
    return str(value)


# `to_json` of the parts that JSON lacks, inside of the encoder's own loop: a fifth of the time for a record.
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, default=to_json)


def json_text(value: object) -> str:
    """`to_json` as text, of values nested in any depth."""
    try:
        return _ENCODER.encode(value)
    except RecursionError:
        return _deep_text(value)
    except (ValueError, TypeError):  # a float that is no number, a key that is no text
        pass
    try:
        return json.dumps(to_json(value), ensure_ascii=False)
    except RecursionError:
        return _deep_text(value)


def _deep_text(value: object) -> str:
    """The same without a frame for each level."""
    out: list[str] = []
    pending: list[tuple[str, Value]] = [("", value)]  # what to write first, and then what value
    while pending:
        text, found = pending.pop()
        out.append(text)
        if isinstance(found, dict):
            names = [f"{encode_basestring(str(to_json(name)))}: " for name in found]
            pending.append(("}", _NOTHING))
            _push(pending, "{", names, list(found.values()))
        elif isinstance(found, list | tuple | set | frozenset):
            pending.append(("]", _NOTHING))
            _push(pending, "[", [""] * len(found), list(found))
        elif found is not _NOTHING:
            out.append(json.dumps(to_json(found), ensure_ascii=False))
    return "".join(out)


_NOTHING: Final = object()


def _push(pending: list[tuple[str, Value]], opening: str, names: list[str], values: list[Value]) -> None:
    pieces = [
        ((", " if index else opening) + name, value)
        for index, (name, value) in enumerate(zip(names, values, strict=True))
    ]
    pending.extend(reversed(pieces))
    if not values:
        pending.append((opening, _NOTHING))


def to_sql(value: object) -> Value:
    """A value as SQLite has it.

    Integers past 63 bits become decimal text of 39 digits, which sorts after every integer and among itself by value;
    principals become text, bytes stay blobs, everything composed becomes JSON.
    """
    if value is None or isinstance(value, float | str | bytes):
        return value
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        wide = f"{value:039d}" if _is_shown_decimal(value) else f"{value:#x}"
        return value if value in _SQL_INTEGERS else wide
    if isinstance(value, Principal):
        return str(value)
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    return json_text(value)


def to_text(value: object) -> Value:
    """A value as one field of text: bytes in hexadecimal, composed values as JSON."""
    if value is None or isinstance(value, str | float):
        return value
    if isinstance(value, int):
        return value if _is_shown_decimal(value) else f"{value:#x}"
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    return str(value) if isinstance(value, Principal) else json_text(value)
