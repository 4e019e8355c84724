"""Values as Arrow: numbers as numbers, records as structs, lists as lists (extra ``columns``).

| kind | Arrow |
|---|---|
| integers of 8 to 64 bits, floats, bool | the same |
| wider integers, principals, text | string |
| bytes | binary |
| record, tuple | struct; a tuple's fields are ``0``, ``1`` ... |
| variant | struct with a field for each case, all but one of them null, true where the case has no payload |
| variant without payloads | string: the case |
| variant with a payload that may be null | string: JSON |
| list | list |
| option | the same, null where there is none |
| document | string: JSON |

A value is taken apart column by column, not row by row: a list of records becomes one list for each field.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from json.encoder import encode_basestring
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa

from perdure.stable.kind import TEXT, UNIT, Kind
from perdure.values.show import json_text, to_text

__all__ = ["Arrow", "json_texts", "to_array", "to_type"]

Arrow: TypeAlias = Any
"""An object of pyarrow, which has no types."""

_NULLABLE: Final = ("option", "document")
_WIDTHS: Final = (8, 16, 32, 64)


def to_type(kind: Kind) -> Arrow:
    """The Arrow type of a kind."""
    if kind.name == "integer" and kind.bits in _WIDTHS:
        return getattr(pa, f"{'' if kind.is_signed else 'u'}int{kind.bits}")()
    if kind.name == "option":
        return to_type(kind.parts[0])
    if kind.name == "list":
        return pa.list_(to_type(kind.parts[0]))
    if is_struct(kind):
        fields = zip(labels_of(kind), kind.parts, strict=True)
        return pa.struct([(label, pa.bool_() if part == UNIT else to_type(part)) for label, part in fields])
    plain = {"bool": pa.bool_(), "bytes": pa.binary(), "unit": pa.bool_()}
    if kind.name == "float":
        return pa.float32() if kind.bits == 32 else pa.float64()
    return plain.get(kind.name, pa.string())


def is_struct(kind: Kind) -> bool:
    """Whether its values are structs in Arrow."""
    if kind.name != "variant":
        return kind.name in ("record", "tuple")
    return any(part != UNIT for part in kind.parts) and not any(part.name in _NULLABLE for part in kind.parts)


def is_enum(kind: Kind) -> bool:
    """Whether it is a variant none of whose cases has a payload."""
    return kind.name == "variant" and all(part == UNIT for part in kind.parts)


def labels_of(kind: Kind) -> Sequence[str]:
    """The names of the parts of a record, tuple or variant."""
    return [str(index) for index in range(len(kind.parts))] if kind.name == "tuple" else kind.labels


def to_array(kind: Kind, values: Sequence[object]) -> Arrow:
    """Values of a kind as an array; what is not of it is null."""
    if kind.name == "option":
        return to_array(kind.parts[0], values)
    if kind.name == "list":
        return _lists(kind, values)
    if is_struct(kind):
        return _structs(kind, values)
    found = to_type(kind)
    if kind.name == "unit":
        values = [None if value is None else True for value in values]
    elif is_enum(kind):
        values = [next(iter(value)) if isinstance(value, dict) and value else None for value in values]
    elif pa.types.is_string(found) and not (kind == TEXT and all(type(value) is str for value in values)):
        values = [None if value is None else str(to_text(value)) for value in values]
    try:
        return pa.array(values, found)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, TypeError):
        wanted = {"bytes": bytes, "bool": bool}.get(kind.name, int | float)
        return pa.array([value if isinstance(value, wanted) else None for value in values], found)


def _lists(kind: Kind, values: Sequence[object]) -> Arrow:
    lists = [value if isinstance(value, list | tuple) else None for value in values]
    sizes = np.fromiter((0 if one is None else len(one) for one in lists), dtype=np.int64, count=len(lists))
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)]).astype(np.int32)
    missing = np.fromiter((one is None for one in lists), dtype=bool, count=len(lists))
    items = to_array(kind.parts[0], list(chain.from_iterable(one for one in lists if one)))
    mask = pa.array(missing) if missing.any() else None
    return pa.ListArray.from_arrays(pa.array(offsets), items, type=pa.list_(items.type), mask=mask)


def _structs(kind: Kind, values: Sequence[Arrow]) -> Arrow:
    expected = tuple if kind.name == "tuple" else dict
    missing = [not isinstance(value, expected) for value in values]
    if any(missing):
        empty: Arrow = (None,) * len(kind.parts) if expected is tuple else {}
        values = [empty if absent else value for value, absent in zip(values, missing, strict=True)]
    arrays = []
    for index, (label, part) in enumerate(zip(labels_of(kind), kind.parts, strict=True)):
        if kind.name == "tuple":
            column = [value[index] for value in values]
        elif kind.name == "variant" and part == UNIT:
            column = [True if label in value else None for value in values]
        else:
            column = [value.get(label) for value in values]
        arrays.append(to_array(part, column))
    fields = [pa.field(label, array.type) for label, array in zip(labels_of(kind), arrays, strict=True)]
    return pa.StructArray.from_arrays(arrays, fields=fields, mask=pa.array(missing) if any(missing) else None)


# JSON, column by column


def json_texts(kind: Kind, array: Arrow) -> list[str]:
    """The values of an array of `to_type(kind)` as `json_text` writes them, a column at a time; null is ``null``."""
    if kind.name == "option":
        return json_texts(kind.parts[0], array)
    if kind.name == "list":
        return _list_texts(kind, array)
    if is_struct(kind):
        return _struct_texts(kind, array)
    write = _WRITERS.get(kind.name, json_text)
    if is_enum(kind):
        write = {label: f"{{{encode_basestring(label)}: null}}" for label in kind.labels}.__getitem__
    return ["null" if value is None else write(value) for value in array.to_pylist()]


_WRITERS: Final[dict[str, Callable[[Arrow], str]]] = {
    "text": encode_basestring,
    "principal": '"{}"'.format,
    "integer": str,
    "bool": {False: "false", True: "true"}.__getitem__,
    "float": lambda value: repr(value) if value - value == 0 else f'"{value}"',
    "bytes": lambda value: f'"{value.hex()}"',
}


def _list_texts(kind: Kind, array: Arrow) -> list[str]:
    items = json_texts(kind.parts[0], array.values)
    ends, missing = array.offsets.to_pylist(), array.is_null().to_pylist()
    spans = zip(pairwise(ends), missing, strict=True)
    return ["null" if absent else f"[{', '.join(items[start:end])}]" for (start, end), absent in spans]


def _struct_texts(kind: Kind, array: Arrow) -> list[str]:
    columns = [json_texts(part, array.field(index)) for index, part in enumerate(kind.parts)]
    names = [encode_basestring(label).replace("%", "%%") for label in labels_of(kind)]
    if kind.name == "tuple":
        template = f"[{', '.join(['%s'] * len(columns))}]"
    else:
        template = f"{{{', '.join(f'{name}: %s' for name in names)}}}"
    if kind.name == "variant":
        return _variant_texts(kind, array, columns)
    texts = list(map(template.__mod__, zip(*columns, strict=True)))
    if array.null_count:
        texts = [text if there else "null" for text, there in zip(texts, array.is_valid().to_pylist(), strict=True)]
    return texts


def _variant_texts(kind: Kind, array: Arrow, columns: list[list[str]]) -> list[str]:
    texts = ["null"] * len(array)
    for index, (label, part) in enumerate(zip(kind.labels, kind.parts, strict=True)):
        name = encode_basestring(label)
        for place in np.flatnonzero(array.field(index).is_valid().to_numpy(zero_copy_only=False)).tolist():
            texts[place] = f"{{{name}: {'null' if part == UNIT else columns[index][place]}}}"
    return texts
