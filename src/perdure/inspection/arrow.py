"""Tables as Arrow: numbers as numbers, records as structs, lists as lists (extra ``columns``).

| kind | Arrow |
|---|---|
| integers of 8 to 64 bits, floats, bool | the same |
| wider integers, principals, text | string |
| bytes | binary |
| record, tuple | struct; a tuple's fields are ``0``, ``1`` ... |
| variant | struct with a field for each case, all but one of them null; where no case has a payload, string |
| list | list |
| option | the same, null where there is none |
| document | string: JSON |

A value is taken apart column by column, not row by row: a list of records becomes one list for each field.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

import numpy as np
import pyarrow as pa

from perdure.errors import PerdureError
from perdure.inspection.table import Entry, Table, tree_key
from perdure.stable.columns import read_columns
from perdure.stable.kind import BYTES, DOCUMENT, TEXT, UNIT, Kind, integer
from perdure.values.format import Format
from perdure.values.show import to_text

__all__ = ["in_bulk", "schema_of", "to_array", "to_batch", "to_type"]

_WIDTHS: Final = (8, 16, 32, 64)
_POSITION: Final = integer(64)


def to_type(kind: Kind) -> Any:
    """The Arrow type of a kind."""
    if kind.name == "integer" and kind.bits in _WIDTHS:
        return getattr(pa, f"{'' if kind.is_signed else 'u'}int{kind.bits}")()
    if kind.name == "option":
        return to_type(kind.parts[0])
    if kind.name == "list":
        return pa.list_(to_type(kind.parts[0]))
    if _is_struct(kind):
        fields = zip(_labels(kind), kind.parts, strict=True)
        return pa.struct([(label, pa.bool_() if part == UNIT else to_type(part)) for label, part in fields])
    plain = {"bool": pa.bool_(), "bytes": pa.binary(), "unit": pa.bool_()}
    if kind.name == "float":
        return pa.float32() if kind.bits == 32 else pa.float64()
    return plain.get(kind.name, pa.string())


def _is_struct(kind: Kind) -> bool:
    return kind.name in ("record", "tuple") or (kind.name == "variant" and any(part != UNIT for part in kind.parts))


def _labels(kind: Kind) -> Sequence[str]:
    return [str(index) for index in range(len(kind.parts))] if kind.name == "tuple" else kind.labels


def to_array(kind: Kind, values: Sequence[Any]) -> Any:
    """Values of a kind as an array; what is not of it is null."""
    if kind.name == "option":
        return to_array(kind.parts[0], values)
    if kind.name == "list":
        return _lists(kind, values)
    if _is_struct(kind):
        return _structs(kind, values)
    found = to_type(kind)
    if kind.name == "unit":
        values = [None if value is None else True for value in values]
    elif kind.name == "variant":
        values = [next(iter(value)) if isinstance(value, dict) and value else None for value in values]
    elif pa.types.is_string(found) and not (kind == TEXT and all(type(value) is str for value in values)):
        values = [None if value is None else str(to_text(value)) for value in values]
    try:
        return pa.array(values, found)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, TypeError):
        wanted = {"bytes": bytes, "bool": bool}.get(kind.name, int | float)
        return pa.array([value if isinstance(value, wanted) else None for value in values], found)


def _lists(kind: Kind, values: Sequence[Any]) -> Any:
    lists = [value if isinstance(value, list | tuple) else None for value in values]
    sizes = np.fromiter((0 if one is None else len(one) for one in lists), dtype=np.int64, count=len(lists))
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)]).astype(np.int32)
    missing = np.fromiter((one is None for one in lists), dtype=bool, count=len(lists))
    items = to_array(kind.parts[0], list(chain.from_iterable(one for one in lists if one)))
    mask = pa.array(missing) if missing.any() else None
    return pa.ListArray.from_arrays(pa.array(offsets), items, type=pa.list_(items.type), mask=mask)


def _structs(kind: Kind, values: Sequence[Any]) -> Any:
    expected = tuple if kind.name == "tuple" else dict
    missing = [not isinstance(value, expected) for value in values]
    if any(missing):
        empty: Any = (None,) * len(kind.parts) if expected is tuple else {}
        values = [empty if absent else value for value, absent in zip(values, missing, strict=True)]
    arrays = []
    for index, (label, part) in enumerate(zip(_labels(kind), kind.parts, strict=True)):
        if kind.name == "tuple":
            column = [value[index] for value in values]
        elif kind.name == "variant" and part == UNIT:
            column = [True if label in value else None for value in values]
        else:
            column = [value.get(label) for value in values]
        arrays.append(to_array(part, column))
    fields = [pa.field(label, array.type) for label, array in zip(_labels(kind), arrays, strict=True)]
    return pa.StructArray.from_arrays(arrays, fields=fields, mask=pa.array(missing) if any(missing) else None)


# Tables


def _kinds(table: Table) -> list[Kind]:
    """The kind of each column. Parts of which nothing is known are documents."""
    keys: list[Kind] = [_POSITION] * len(table.key_columns)
    if table.key is not None:
        keys = _kinds_of(table.key)
    return [*keys, *(_kinds_of(table.value) if table.value_columns else ())]


def _kinds_of(source: Format) -> list[Kind]:
    if not source.fields:
        return [source.kind]
    return list(source.kind.parts) if source.kind.name == "record" else [DOCUMENT] * len(source.fields)


def schema_of(table: Table) -> Any:
    """The schema of a table whose values were looked at (`fitted`)."""
    return pa.schema([(name, to_type(kind)) for name, kind in zip(table.columns, _kinds(table), strict=True)])


def to_batch(table: Table, entries: Sequence[Entry]) -> Any:
    """Some entries of the table."""
    columns = zip(*map(table.decode, entries), strict=True)
    arrays = [to_array(kind, values) for kind, values in zip(_kinds(table), columns, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema_of(table))


def in_bulk(table: Table) -> Any:
    """The whole table at once, where the bytes are what the columns hold; else ``None``."""
    tree, key = table.tree, table.key
    if tree is None or key is None or key.fields or table.value.fields or not table.value_columns:
        return None
    if key.stored_as is None or table.value.stored_as is None:
        return None
    try:
        columns = read_columns(tree, tree_key(tree) if key.kind == BYTES else key, table.value)
        arrays = [columns.keys.to_arrow(), columns.values.to_arrow()]
    except PerdureError:
        return None  # something does not decode, or is damaged: row by row tells what
    types = [to_type(key.kind), to_type(table.value.kind)]
    arrays = [array if array.type == kind else array.cast(kind) for array, kind in zip(arrays, types, strict=True)]
    return pa.table(dict(zip(table.columns, arrays, strict=True)))
