"""Values as JSON, in the form that dfx prints (its ``idl2json``), so that what reads that reads this.

| Candid | JSON |
|---|---|
| null, reserved | null |
| bool, text, principal, service | as they are; principals as text |
| nat, int | a string, digits in groups: ``"1_000"`` |
| nat64, int64 | a string: ``"1000"`` |
| the smaller integers, floats | a number; ``"NaN"``, ``"Infinity"``, ``"-Infinity"`` |
| opt | ``[]``, or the value in an array, so that ``opt opt`` loses nothing |
| vec, blob | an array |
| record | an object; the fields of a tuple and those without a name by their numbers |
| variant | an object with one key |
| func | ``{"canister": "aaaaa-aa", "method": "m"}`` |
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from perdure.candid.codec import decode, encode
from perdure.candid.deep import Meter, guarded
from perdure.candid.types import Field, Func, Opt, Prim, Record, Service, Some, Type, Value, Variant, Vec, resolve

__all__ = ["values_to_json"]

#: Frames from one value to those within.
_LEVELS: Final = 6
_UNBOUNDED: Final = ("nat", "int")
_WIDE: Final = ("nat64", "int64")


def values_to_json(types: Iterable[Type], values: Sequence[Value]) -> list[Value]:
    """What ``json.dumps`` takes for each value.

    Args:
        types: of the values.
        values: Python values, in any form that the encoder takes.

    Raises:
        ValueError: a value that is not of its type.
    """
    types = tuple(types)
    normal = decode(encode(types, values), types, quota=1 << 62)
    return guarded(_values, types, normal)


def _values(types: tuple[Type, ...], values: Sequence[Value]) -> list[Value]:
    meter = Meter()

    def at(value: Value, type_: Type) -> Value:
        return meter.enter(_LEVELS, convert, value, resolve(type_))

    def convert(value: Value, type_: Type) -> Value:  # noqa: PLR0911 - one return per kind of type
        match type_:
            case Prim():
                return _primitive(value, type_)
            case Opt(content):
                return [] if value is None else [at(value.value if isinstance(value, Some) else value, content)]
            case Vec(element):
                return list(value) if isinstance(value, bytes) else [at(one, element) for one in value]
            case Record(fields):
                found = value if type_.is_tuple else [value[one.label] for one in fields]
                return {_key(field): at(one, field.type) for field, one in zip(fields, found, strict=True)}
            case Variant(fields):
                return {_key(one): at(value[one.label], one.type) for one in fields if one.label in value}
            case Func():
                return {"canister": str(value.principal), "method": value.method}
            case Service():
                return str(value)
            case _:
                return None

    return [at(value, type_) for value, type_ in zip(values, types, strict=True)]


def _key(field: Field) -> str:
    return str(field.id) if field.name is None else field.name


def _primitive(value: Value, type_: Prim) -> Value:
    if type_.name in _UNBOUNDED:
        # Decimal text of a huge number takes quadratic time, and Python refuses it.
        return f"{value:_}" if value.bit_length() < 12_000 else f"{value:#x}"
    if type_.name in _WIDE or type_.name == "principal":
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
