"""Rows of a table as pairs of bytes: a packed key, and the other columns as an array in CBOR; so shards give them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from reprlib import repr as brief
from typing import Any, Final, Generic, TypeVar, final

import cbor2

from perdure.data.tables import Table
from perdure.errors import MalformedError
from perdure.values.cbor import load_item
from perdure.values.format import Value
from perdure.values.packed import pack, unpack

__all__ = ["Pairs"]

R = TypeVar("R")


@final
class Pairs(Generic[R]):
    """The rows of a table as pairs.

    Args:
        table: whose.
    """

    def __init__(self, table: Table[R]) -> None:
        self._table = table
        model = table.model
        self._first = table.parts[0]
        self._key = tuple(self._first.key)
        self._beside: Final = tuple(one for one in range(len(model.columns)) if one not in self._key)
        self._defaults = [one.default for one in model.columns]
        self.columns = tuple(model.columns[one].name for one in (*self._key, *self._beside))
        """Names of the columns, those of the key first."""
        # Where no column has a tree of its own, an entry of the tree is a pair.
        self._is_entry = len(table.all_parts) == len(table.parts) and tuple(self._first.value) == self._beside

    def key(self, key: Any) -> bytes:
        """A key, packed; raises as `Table.get`."""
        return self._table._packed_key(key)

    def of(self, row: R | Mapping[str, Any]) -> tuple[bytes, bytes]:
        """The pair of a row; raises as `Table.put`."""
        plain = self._table.rows.plain(row)  # type: ignore[arg-type]
        return pack([plain[one] for one in self._key]), self._packed(plain)

    def row(self, key: bytes, value: bytes) -> R:
        """The row of a pair.

        Raises:
            MalformedError: it is none of this table.
        """
        return self._table.rows.row(self._plain(key, value))

    def get(self, key: bytes) -> bytes | None:
        """The other columns of the row of a packed key."""
        if self._is_entry:
            return self._first.tree.get(key)
        row = self._table.plain_row(key)
        return None if row is None else self._packed(row)

    def put(self, key: bytes, value: bytes | None) -> None:
        """Set the row of a packed key, or remove it; raises as `Table.put`."""
        if value is None:
            self._table.delete_packed(key)
        else:
            self._table.put_plain(self._plain(key, value))

    def range(self, low: bytes | None = None, high: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """The rows between packed keys."""
        if self._is_entry:
            return self._first.tree.range(low, high)
        rows = self._table.plain_range(low, high)
        return ((pack([row[one] for one in self._key]), self._packed(row)) for row in rows)

    def _packed(self, row: Sequence[Value]) -> bytes:
        return bytes(cbor2.dumps([row[one] for one in self._beside]))

    def _plain(self, key: bytes, value: bytes) -> list[Value]:
        parts, others = unpack(key), load_item(value)
        if len(parts) != len(self._key) or not isinstance(others, list) or len(others) != len(self._beside):
            raise MalformedError(
                f"{self._table.name}: a key of {len(self._key)} parts and an array of {len(self._beside)} expected, "
                f"found {brief(parts)}, {brief(others)}"
            )
        out = list(self._defaults)
        for index, part in zip((*self._key, *self._beside), (*parts, *others), strict=True):
            out[index] = part
        return out
