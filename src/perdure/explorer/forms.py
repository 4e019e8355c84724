"""Forms made from Candid types: a field for each part that a person can fill in, and Candid's text of what was.

Records are taken apart, variants offer their alternatives, options whether there is a value. What is deeper or longer
than a form bears is written in Candid, from an example of its type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, final

from perdure.candid.types import Field as Member
from perdure.candid.types import Opt, Prim, Record, Type, Variant, Vec, brief, is_blob, quote, quote_text, resolve

__all__ = ["Field", "compose", "count_of", "example", "fields_of"]

MAX_DEPTH: Final = 4
MAX_FIELDS: Final = 120
_MAX_EXAMPLE_CHARACTERS: Final = 2_000
_NUMBERS: Final = frozenset(["nat", "int", *(f"{kind}{bits}" for kind in ("nat", "int") for bits in (8, 16, 32, 64))])
_EXAMPLES: Final = {
    "bool": "false",
    "text": '""',
    "null": "null",
    "principal": 'principal "aaaaa-aa"',
    "reserved": "null",
}


@final
@dataclass(frozen=True)
class Field:
    """A field of a form.

    Attributes:
        name: in the form; ``a0``, parts of it ``a0.1``.
        label: what a person calls it.
        kind: ``text``, ``number``, ``bool``, ``principal``, ``blob``, ``null``, ``record``, ``variant``, ``opt`` or
            ``candid``.
        hint: its type, briefly.
        parts: of a record, the alternatives of a variant, the value of an option.
        example: what stands in it at first.
        key: what it is called in its record or variant, as Candid writes it.
    """

    name: str
    label: str
    kind: str
    hint: str
    parts: tuple[Field, ...] = ()
    example: str = ""
    key: str = ""


def count_of(fields: Sequence[Field]) -> int:
    """How many fields these are, with those within them."""
    return sum(1 + count_of(one.parts) for one in fields)


def fields_of(types: Sequence[Type], names: Sequence[str | None] = ()) -> tuple[Field, ...]:
    """The fields for arguments of these types."""
    room = [MAX_FIELDS]
    labels = [*names, *[None] * len(types)]
    return tuple(_field(f"a{at}", labels[at] or f"argument {at + 1}", one, 0, room) for at, one in enumerate(types))


def _field(name: str, label: str, type_: Type, depth: int, room: list[int]) -> Field:
    type_ = resolve(type_)
    hint = brief(type_, 1)
    room[0] -= 1
    if isinstance(type_, Prim):
        return Field(name, label, _plain(str(type_)), hint, example=_EXAMPLES.get(str(type_), ""))
    if is_blob(type_):
        return Field(name, label, "blob", hint)
    fits = depth < MAX_DEPTH and room[0] > 0
    if isinstance(type_, Opt) and fits:
        return Field(name, label, "opt", hint, (_field(f"{name}.0", "value", type_.content, depth + 1, room),))
    if isinstance(type_, Record | Variant) and fits and 0 < len(type_.fields) <= room[0]:
        parts = tuple(
            replace(_field(f"{name}.{at}", one.label, one.type, depth + 1, room), key=_key(one))
            for at, one in enumerate(type_.fields)
        )
        return Field(name, label, "record" if isinstance(type_, Record) else "variant", hint, parts)
    return Field(name, label, "candid", hint, example=example(type_))


def _plain(name: str) -> str:
    if name in _NUMBERS or name.startswith("float"):
        return "number"
    return name if name in ("text", "bool", "principal", "null") else "candid"


def example(type_: Type) -> str:
    """A value of a type, in Candid's text; ``null`` where a short one would not do."""
    try:
        text = _example(type_, 0, [MAX_FIELDS])
    except _TooLargeError:
        return "null"
    return text if len(text) <= _MAX_EXAMPLE_CHARACTERS else "null"


class _TooLargeError(Exception):
    """A value of a type has more parts than anybody reads: a type of five lines can say a million of them."""


def _example(type_: Type, depth: int, room: list[int]) -> str:
    type_ = resolve(type_)
    room[0] -= 1
    if room[0] < 0:
        raise _TooLargeError
    if isinstance(type_, Prim):
        return _EXAMPLES.get(str(type_), "0.0" if str(type_).startswith("float") else "0")
    if is_blob(type_):
        return 'blob ""'
    if isinstance(type_, Vec):
        return "vec {}"
    if isinstance(type_, Record) and depth < MAX_DEPTH:
        parts = (f"{_key(one)} = {_example(one.type, depth + 1, room)}" for one in type_.fields)
        return f"record {{ {'; '.join(parts)} }}"
    if isinstance(type_, Variant) and type_.fields and depth < MAX_DEPTH:
        one = type_.fields[0]
        value = _example(one.type, depth + 1, room)
        return f"variant {{ {_key(one)}{'' if value == 'null' else f' = {value}'} }}"
    return "null"


def _key(member: Member) -> str:
    return str(member.id) if member.name is None else quote(member.name)


def compose(fields: Sequence[Field], filled: Mapping[str, str]) -> str:
    """The arguments that a form says, in Candid's text.

    Raises:
        ValueError: a field that has to be filled in is empty, or bytes that are no hexadecimal.
    """
    return f"({', '.join(_value(one, filled) for one in fields)})"


def _value(field: Field, filled: Mapping[str, str]) -> str:
    given = filled.get(field.name, "")
    if field.kind == "record":
        return f"record {{ {'; '.join(f'{one.key} = {_value(one, filled)}' for one in field.parts)} }}"
    if field.kind == "variant":
        chosen = next((one for one in field.parts if one.name == given), field.parts[0])
        value = _value(chosen, filled)
        return f"variant {{ {chosen.key}{'' if value == 'null' else f' = {value}'} }}"
    if field.kind == "opt":
        return f"opt ({_value(field.parts[0], filled)})" if given else "null"
    return _leaf(field, given)


def _leaf(field: Field, given: str) -> str:
    if field.kind == "text":
        return quote_text(given)
    if field.kind == "null":
        return "null"
    if field.kind == "bool":
        return "true" if given == "true" else "false"
    if field.kind == "blob":
        return f'blob "{_escaped(given)}"'
    if not given.strip():
        raise ValueError(f"{field.label} is empty, expected {field.hint}")
    if field.kind == "principal":
        return f"principal {quote_text(given.strip())}"
    return given.strip()


def _escaped(given: str) -> str:
    """Bytes as Candid writes them: hexadecimal behind 0x, else the text's own."""
    if not given.startswith("0x"):
        data = given.encode()
    else:
        try:
            data = bytes.fromhex(given[2:])
        except ValueError as error:
            raise ValueError(f"{given[:40]!r} is no hexadecimal") from error
    return "".join(f"\\{byte:02x}" for byte in data)
