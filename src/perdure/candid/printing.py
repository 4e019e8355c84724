"""Values and services to text, laid out as ``didc`` and ``icp`` lay them out: within 80 columns where it can be.

>>> from perdure.candid.types import Nat64, Record, Text
>>> print(values_to_text([Record.of({"id": Nat64, "name": Text})], [{"id": 1234, "name": "Ada"}]))
(record { id = 1_234 : nat64; name = "Ada" })
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Final, final

from perdure.candid.codec import decode, encode
from perdure.candid.deep import Meter, guarded
from perdure.candid.types import (
    Field,
    Float32,
    Func,
    Null,
    Opt,
    Prim,
    Record,
    Service,
    Some,
    Type,
    Value,
    Variant,
    Vec,
    is_blob,
    quote,
    quote_text,
    resolve,
)

__all__ = ["value_to_text", "values_to_text"]

_WIDTH: Final = 80
#: Frames from one value to those within.
_LEVELS: Final = 6
_MAX_DIGITS: Final = 4_000


@final
class _Group:
    """Items between brackets: on one line if they fit, else one on each.

    Args:
        head: what comes before the items, with the bracket.
        items: each with a prefix, such as ``name =``.
        mark: between items.
        tail: the closing bracket.
        pad: what stands inside the brackets on one line.
    """

    __slots__ = ("head", "items", "mark", "pad", "tail", "width")

    def __init__(self, head: str, items: list[str | _Group], mark: str, tail: str, pad: str) -> None:
        self.head = head
        self.items = items
        self.mark = mark
        self.tail = tail
        self.pad = pad if items else ""
        inner = sum(map(_width, items)) + max(0, len(items) - 1) * (len(mark) + 1)
        self.width = len(head) + inner + 2 * len(self.pad) + len(tail)

    def prefixed(self, prefix: str) -> _Group:
        """The same with text in front."""
        return _Group(prefix + self.head, self.items, self.mark, self.tail, self.pad)


def _width(item: str | _Group) -> int:
    return len(item) if isinstance(item, str) else item.width


def _prefixed(prefix: str, item: str | _Group) -> str | _Group:
    return prefix + item if isinstance(item, str) else item.prefixed(prefix)


def _layout(document: str | _Group) -> str:
    """The text of a document; a stack instead of recursion, as values nest deep."""
    out: list[str] = []
    column = 0
    # Each entry: a document or text, its indentation, whether it must stay on its line, the width of what follows.
    pending: list[tuple[str | _Group, int, bool, int]] = [(document, 0, False, 0)]
    while pending:
        item, indent, flat, after = pending.pop()
        if isinstance(item, str):
            out.append(item)
            column = len(item) - item.rfind("\n") - 1 if "\n" in item else column + len(item)
            continue
        flat = flat or column + item.width + after <= _WIDTH or not item.items
        parts: list[tuple[str | _Group, int, bool, int]] = [(item.head, indent, flat, 0)]
        for position, one in enumerate(item.items):
            last = position == len(item.items) - 1
            before = (" " if position else item.pad) if flat else "\n" + " " * (indent + 2)
            parts.append((before, indent, flat, 0))
            parts.append((one, indent + 2, flat, len(item.mark)))
            parts.append(("" if last and flat else item.mark, indent, flat, 0))
        parts.append(((item.pad if flat else "\n" + " " * indent) + item.tail, indent, flat, 0))
        pending.extend(reversed(parts))
    return "".join(out)


@final
class _Printer:
    def __init__(self) -> None:
        self.meter = Meter()

    def value(self, value: Value, type_: Type) -> str | _Group:
        """The document of a value."""
        found: str | _Group = self.meter.enter(_LEVELS, self._value, value, resolve(type_))
        return found

    def _value(self, value: Value, type_: Type) -> str | _Group:  # noqa: PLR0911 - one return per kind of type
        match type_:
            case Prim():
                return _primitive(value, type_)
            case Opt(content):
                return self._opt(value, content)
            case Vec(element):
                if is_blob(type_):
                    return f'blob "{_bytes(value)}"'
                return _Group("vec {", [self.value(one, element) for one in value], ";", "}", " ")
            case Record(fields):
                if type_.is_tuple:
                    items = [self.value(one, field.type) for one, field in zip(value, fields, strict=True)]
                else:
                    items = [self._field(field, value[field.label]) for field in fields]
                return _Group("record {", items, ";", "}", " ")
            case Variant(fields):
                [(label, content)] = value.items()
                [field] = [one for one in fields if one.label == label]
                item = _label(field) if resolve(field.type) is Null else self._field(field, content)
                return _Group("variant {", [item], "", "}", " ")  # the grammar has no `;` here
            case Func():
                return f'func "{value.principal}".{quote(value.method)}'
            case Service():
                return f'service "{value}"'
            case _:
                return "null : reserved"

    def _field(self, field: Field, value: Value) -> str | _Group:
        return _prefixed(f"{_label(field)} = ", self.value(value, field.type))

    def _opt(self, value: Value, content: Type) -> str | _Group:
        if value is None:
            return "null"
        inner = self.value(value.value if isinstance(value, Some) else value, content)
        found = resolve(content)
        if isinstance(found, Prim) and " : " in str(inner) and found.name not in ("text", "principal"):
            return f"opt ({inner})"
        return _prefixed("opt ", inner)


def _label(field: Field) -> str:
    return f"{field.id:_}" if field.name is None else quote(field.name)


def _primitive(value: Value, type_: Prim) -> str:
    match type_.name:
        case "bool":
            return "true" if value else "false"
        case "text":
            return quote_text(value)
        case "principal":
            return f'principal "{value}"'
        case "null" | "reserved":
            return f"null : {type_}"
        case "float32" | "float64":
            return f"{_float(value, _shortest_float32 if type_ is Float32 else repr)} : {type_}"
        case _:
            return f"{_integer(value)} : {type_}"


def _integer(value: int) -> str:
    # Decimal text of a huge number takes quadratic time, and Python refuses it.
    return f"{value:_}" if value.bit_length() < 3 * _MAX_DIGITS else f"{value:#x}"


def _float(value: float, written: Callable[[float], str]) -> str:
    text = written(value)
    if math.isfinite(value) and value == int(value) and abs(value) < 1e16:
        return f"{float(text):.0f}.0"
    return text


def _shortest_float32(value: float) -> str:
    """The fewest digits that read as this value; nine are enough for any."""
    texts = (f"{value:.{digits}g}" for digits in range(1, 9))
    return next((text for text in texts if _as_float32(float(text)) == value), f"{value:.9g}")


def _as_float32(value: float) -> float:
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.inf


def _bytes(value: bytes) -> str:
    readable = all(0x20 <= byte <= 0x7E or byte in (9, 10, 13) for byte in value)
    plain = readable and all(byte not in b"\"'`\\\t\n\r" for byte in value)
    if plain:
        return value.decode()
    safe = "".join(chr(byte) if byte not in b"\"'`\\" and 0x20 <= byte <= 0x7E else f"\\{byte:02x}" for byte in value)
    return safe if readable else "".join(f"\\{byte:02x}" for byte in value)


def values_to_text(types: Iterable[Type], values: Sequence[Value]) -> str:
    """``(value, ...)`` with the types of numbers, as `didc` prints it.

    Args:
        types: of the values.
        values: Python values, in any form that the encoder takes.

    Raises:
        ValueError: a value that is not of its type.
    """
    types = tuple(types)
    # Through the encoder and back: that checks the values and brings them into one form.
    normal = decode(encode(types, values), types, quota=1 << 62)
    return guarded(_values_to_text, types, normal)


def _values_to_text(types: tuple[Type, ...], values: tuple[Value, ...]) -> str:
    printer = _Printer()
    items = [printer.value(value, type_) for value, type_ in zip(values, types, strict=True)]
    return _layout(_Group("(", items, ",", ")", ""))


def value_to_text(type_: Type, value: Value) -> str:
    """One value, without the parentheses; see :func:`values_to_text`."""
    [normal] = decode(encode([type_], [value]), [type_], quota=1 << 62)
    return guarded(lambda: _layout(_Printer().value(normal, type_)))
