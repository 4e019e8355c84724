"""A structure as a table: rows of decoded columns, read lazily, from any key on, in either direction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from perdure.errors import MalformedError, PerdureError, UnsupportedError
from perdure.inspection.find import Structure
from perdure.inspection.looking import Looked
from perdure.stable import types
from perdure.stable.btree import BTree
from perdure.stable.cell import StableCell
from perdure.stable.headers import MapHeader
from perdure.stable.layout import HEAP_MAGIC, VEC_MAGIC
from perdure.stable.log import StableLog
from perdure.stable.slots import SlotArray
from perdure.stable.types import StorableType
from perdure.values.format import Format, Value, decode_as, parts_of
from perdure.values.plain import RAW
from perdure.values.schema import Schema

if TYPE_CHECKING:
    from perdure.stable.columns import Column

__all__ = ["KEYED", "Bound", "Entry", "Rows", "fitted", "open_table", "tree_key"]

KEYED: Final = ("btreemap", "btreeset")

Entry = tuple[Value, bytes]
"""Encoded key, or position, and encoded value."""


@final
@dataclass(frozen=True)
class Bound:
    """An end of a range: an encoded key or a position, and whether it is itself within."""

    at: Value
    is_inclusive: bool = True


@final
class _Stored:
    """Keys as the tree needs to see them: their width and order, not their meaning."""

    name = "stored bytes"

    def __init__(self, max_size: int | None, is_fixed: bool, order: Callable[[bytes], Value] | None) -> None:
        self.max_size = max_size
        self.is_fixed = is_fixed
        self.order = order

    def encode(self, value: bytes) -> bytes:
        return value

    def decode(self, data: bytes) -> bytes:
        return data


@final
class Rows(Looked):
    """The entries of one structure: iterate over them, each a dict by column, or have them as Arrow, pandas, polars.

    Attributes:
        structure: what is read.
        key: format of the keys; ``None`` where entries have a position instead.
        value: format of the values.
        columns: names of the columns, in order: those of the key or ``position``, then those of the value.
        key_columns: those of the key or ``position``.
        value_columns: those of the value.
        tree: what is below a map; ``None`` for others.
    """

    def __init__(self, structure: Structure, key: Format | None, value: Format) -> None:
        """Use `open_table`."""
        self.structure = structure
        self.key = key
        self.value = value
        self.key_columns = _key_columns(structure, key)
        self.value_columns = _value_columns(structure, value, self.key_columns)
        self.columns = (*self.key_columns, *self.value_columns)
        self._elements = None if structure.kind in KEYED else _elements(structure)
        self.tree = load_tree(structure, key or RAW) if structure.kind in KEYED else None

    @property
    def name(self) -> str:
        """Its name in the schema, else ``memory_`` and the label."""
        return self.structure.name or self.structure.table_name

    def __len__(self) -> int:
        return self.structure.entries or 0

    def __repr__(self) -> str:
        return f"<Rows {self.name}: {self.structure.kind} of {len(self):,} entries; {', '.join(self.columns)}>"

    def _tuples(self) -> Iterator[tuple[Value, ...]]:
        return map(self.decode, self.entries())

    def entries(
        self, low: Bound | None = None, high: Bound | None = None, *, reverse: bool = False, values: bool = True
    ) -> Iterator[Entry]:
        """Encoded entries between `low` and `high`, in the order of the structure or against it.

        Without `values` those of a map are left empty, and not read.

        Raises:
            MalformedError: while reading, where the structure is damaged.
        """
        if self.tree is not None:
            return self._walk(self.tree, low, high, reverse, values)
        assert self._elements is not None
        count, read = self._elements
        first = 0 if low is None else max(0, low.at + (not low.is_inclusive))
        end = count if high is None else min(count, high.at + high.is_inclusive)
        places = range(first, end)
        return ((place, read(place)) for place in (reversed(places) if reverse else places))

    def all_entries(self) -> Iterator[Entry]:
        """All entries, as `entries`; those of a map are read together, where NumPy is there and nothing is damaged."""
        columns = self.raw_columns()
        return self.entries() if columns is None else zip(columns[0].raws(), columns[1].raws(), strict=True)

    def raw_columns(self) -> tuple[Column, Column] | None:
        """All encoded keys and values of a map; ``None`` without NumPy, and where only what is sound can be read."""
        if self.tree is None:
            return None
        try:
            from perdure.stable.columns import read_columns
        except ImportError:
            return None
        try:
            columns = read_columns(self.tree, tree_key(self.tree), types.raw)
        except PerdureError:
            return None
        return columns.keys, columns.values

    def _walk(self, tree: BTree, low: Bound | None, high: Bound | None, reverse: bool, values: bool) -> Iterator[Entry]:
        order = tree_order(tree)
        steps = tree.walk(
            low.at if low else None,
            high.at if high else None,
            reverse=reverse,
            include_high=bool(high and high.is_inclusive),
        )
        skipped = order(low.at) if low and not low.is_inclusive else None
        for node, index in steps:
            key = node.keys[index]
            if skipped is None or order(key) != skipped:
                yield key, node.value(index) if values else b""

    def get(self, key: Value) -> bytes | None:
        """The encoded value of an encoded key, or at a position.

        Where the order of the keys is not known and a search by their bytes fails, every entry is looked at.
        """
        if self.tree is None:
            assert self._elements is not None
            count, read = self._elements
            return read(key) if 0 <= key < count else None
        try:
            found = self.tree.find(key)
        except PerdureError:
            raise
        except (ValueError, IndexError, TypeError) as error:
            raise MalformedError(f"keys that do not decode: {error}") from error
        if found is None and not (self.key or RAW).is_ordered:
            found = next((value for candidate, value in self.entries() if candidate == key), None)
        return found

    def decode(self, entry: Entry) -> tuple[Value, ...]:
        """The columns of an entry, as Python values."""
        return (*self.decode_key(entry[0]), *self.decode_value(entry[1]))

    def decode_key(self, key: Value) -> tuple[Value, ...]:
        """The key's columns. What does not decode is shown as bytes."""
        if self.key is None:
            return (key,) if self.key_columns else ()
        return parts_of(self.key, decode_as(self.key, key))

    def decode_value(self, value: bytes) -> tuple[Value, ...]:
        """The value's columns. What does not decode is shown as bytes, in the first of them."""
        return parts_of(self.value, decode_as(self.value, value)) if self.value_columns else ()


def tree_order(tree: BTree) -> Callable[[bytes], Value]:
    """The order in which a tree compares encoded keys."""
    return tree._order or bytes


def tree_key(tree: BTree) -> StorableType[bytes]:
    """The type of a tree's keys that leaves them as they are."""
    width = tree.nodes.key_bytes
    return types.raw if width is None or tree.header.slots is not None else types.FixedBytes(width)


def fitted(table: Rows) -> Rows:
    """The same table, with the kinds that its keys and values themselves tell."""
    keys = None if table.key is None else table.key.fitted(key for key, _ in table.entries(values=False))
    columns = table.raw_columns()
    if columns is None:
        values = table.value.fitted(value for _, value in table.entries())
    else:
        values = table.value.fitted_to(columns[1])
    return table if keys is table.key and values is table.value else Rows(table.structure, keys, values)


def _key_columns(structure: Structure, key: Format | None) -> tuple[str, ...]:
    if structure.kind == "cell":
        return ()
    if key is None:
        return ("position",)
    if key.has_column_names:
        return key.fields
    return tuple(f"key_{name}" for name in key.fields) or ("key",)


def _value_columns(structure: Structure, value: Format, taken: tuple[str, ...]) -> tuple[str, ...]:
    if structure.kind == "btreeset":
        return ()
    return tuple(f"value_{name}" if name in taken else name for name in value.fields) or ("value",)


def open_table(structure: Structure, schema: Schema | None = None) -> Rows:
    """A structure as a table, decoded as the schema says, raw where it says nothing.

    Raises:
        UnsupportedError: a kind without entries, or keys whose width nobody knows.
        MalformedError: the structure's header is damaged.
    """
    schema = schema or Schema({})
    declared = schema.of(structure.label)
    key, value = schema.format(declared.key) or RAW, schema.format(declared.value) or RAW
    if structure.labels is not None:
        key, value = key.named(structure.labels), value.named(structure.labels)
    if structure.kind not in (*KEYED, "vec", "minheap", "log", "cell"):
        what = structure.note or structure.kind
        raise UnsupportedError(f"memory {structure.label} holds no entries that can be read: {what}")
    if declared.kind not in (None, *(KEYED if structure.kind in KEYED else (structure.kind,))):
        raise UnsupportedError(
            f"memory {structure.label} holds a {structure.kind}, the schema says {declared.kind}: correct one of them"
        ).coded("schema-contradicts")
    if structure.kind not in KEYED:
        return Rows(structure, None, value)
    return Rows(structure, key, value)


def load_tree(structure: Structure, key: Format) -> BTree:
    """The tree of a map, with keys of the width and order that format and bytes tell.

    Raises:
        UnsupportedError: neither tells whether keys carry a length.
        MalformedError: format and bytes contradict each other.
    """
    shape = structure.shape
    header = MapHeader.read(structure.region)
    key_bytes, has_length = key.fixed_bytes, key.fixed_bytes is None
    if shape is not None and shape.is_readable and not (header.slots and 2 not in shape.node_versions):
        if key is RAW or key.fixed_bytes not in shape.possible:
            key_bytes, has_length = shape.key_bytes, shape.keys_have_length is not False
        if key.fixed_bytes is not None and key.fixed_bytes != key_bytes:
            found = "carry a length" if has_length else f"have {key_bytes} bytes"
            message = f"memory {structure.label}: keys declared as {key.name} of {key.fixed_bytes} bytes {found}"
            raise MalformedError(message).coded("schema-contradicts")
    elif header.length and shape is not None and not shape.node_versions:
        raise MalformedError(f"the root of a map of {header.length} entries is no node", header.root)
    elif key is RAW and header.length and header.slots is None:
        raise UnsupportedError(f"memory {structure.label}: the width of its keys is not certain, declare the key")
    stored_value: StorableType[Value] = types.raw
    if header.slots is not None:
        has_length = has_length or key_bytes != header.slots.key_bytes
        key_bytes = header.slots.key_bytes
        stored_value = types.Blob(header.slots.value_bytes)
    return BTree.load(structure.region, _Stored(key_bytes, not has_length, key.order), stored_value)


def _elements(structure: Structure) -> tuple[int, Callable[[int], bytes]]:
    """How many elements there are, and how to read the one at a position."""
    region, width = structure.region, structure.value
    if structure.kind in ("vec", "minheap"):
        bound = (width.max_bytes or 0) if width else 0
        element = types.FixedBytes(bound) if width and width.is_fixed else types.Blob(bound)
        array = SlotArray.load(region, VEC_MAGIC if structure.kind == "vec" else HEAP_MAGIC, element)
        return len(array), array.read
    if structure.kind == "cell":
        cell = StableCell.load(region, types.raw)
        return 1, lambda _: cell.raw()
    assert structure.data is not None
    log = StableLog.load(region, structure.data, types.raw)
    return len(log), log.raw
