"""Whole structures as NumPy columns, without a Python object per entry. Plumbing; needs the extra ``columns``.

A map is read level by level. All nodes of a level are decoded at once by arithmetic on arrays of offsets: where
children, keys and values start follows from the nodes' counts and, for variable sizes, from at most 11 rounds of
reading one length per node. Nodes with overflow pages are first put together in a side buffer; offsets beyond the
memory mean that buffer. Each entry's place in key order comes from the sizes of the subtrees before it. Only then are
the bytes themselves gathered, in key order, one machine copy for each entry: through a view of the memory with a stride
of one byte and items as wide as the entry, which for variable sizes is done once for each distinct size. Where keys and
values are of fixed sizes, a leaf is copied at once, all its keys and then all its values: its entries are neighbours.

Everything is checked as the entry-wise reader checks it, and bounded in the same way: no more pages than the memory has
room for, no more entries than the header counts. One module, because all of it is one pipeline over the same arrays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, repeat
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import numpy as np
import numpy.typing as npt

from perdure.errors import MalformedError
from perdure.memory import Memory
from perdure.stable.btree import BTree
from perdure.stable.bulk import NodeReader, Nodes, Strict, copy_leaves
from perdure.stable.gather import Bytes, Gather, Mask, Offsets, copy_items, flat_bytes, items, ramps, refuse
from perdure.stable.headers import ArrayHeader, LogHeader
from perdure.stable.kind import BOOL, kind_of
from perdure.stable.layout import (
    ARRAY_LENGTH_ADDRESS,
    LENGTH_ADDRESS,
    LOG_COUNT_ADDRESS,
    LOG_DATA_ADDRESS,
    MAX_DEPTH,
    end_address,
)
from perdure.stable.types import StorableType

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Column", "Columns", "gather_column", "read_columns", "read_log", "read_slots"]

_BLOCK_ENTRIES: Final = 1 << 15
"""Entries whose bytes are gathered together: so few that the nodes they are in stay in the processor's caches."""

_BLOCK_NODES: Final = 1 << 12
"""Nodes that are read or copied together, for the same reason."""


@final
@dataclass(frozen=True, eq=False)
class Column:
    """The values of one type, in order, free of the memory they were read from.

    Attributes:
        type: their type.
        data: their bytes, one after the other.
        offsets: where each begins and the last ends, one more than values; ``None`` where all have `width` bytes.
        width: bytes of each value; 0 where they differ.
    """

    type: StorableType[Any]
    data: Bytes
    offsets: Offsets | None
    width: int
    length: int

    def __len__(self) -> int:
        return self.length

    def raw(self, index: int) -> bytes:
        """The encoded value at `index`."""
        if self.offsets is None:
            return self.data[index * self.width : (index + 1) * self.width].tobytes()
        return self.data[self.offsets[index] : self.offsets[index + 1]].tobytes()

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self.length:
            raise IndexError(f"index {index} in a column of {self.length} values")
        return self.type.decode(self.raw(index))

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(self.length))

    def spans(self) -> tuple[Offsets, Offsets]:
        """Where each value begins in `data`, and where it ends."""
        if self.offsets is not None:
            return self.offsets[:-1], self.offsets[1:]
        starts = self.width * np.arange(self.length, dtype=np.int64)
        return starts, starts + self.width

    def starts_with(self, prefix: bytes) -> Mask:
        """Which values begin with these bytes."""
        starts, ends = self.spans()
        found: Mask = ends - starts >= len(prefix)
        if prefix and found.any():
            heads = copy_items(self.data, None, starts[found], len(prefix)).reshape(-1, len(prefix))
            found[found] = (heads == np.frombuffer(prefix, np.uint8)).all(axis=1)
        return found

    def slice(self, start: int, stop: int) -> Column:
        """The values from `start` up to `stop`, without a copy."""
        stop = min(stop, self.length)
        if self.offsets is None:
            return Column(self.type, self.data[start * self.width : stop * self.width], None, self.width, stop - start)
        offsets = self.offsets[start : stop + 1]
        return Column(self.type, self.data[offsets[0] : offsets[-1]], offsets - offsets[0], 0, stop - start)

    def of(self, storable: StorableType[Any]) -> Column:
        """The same bytes as values of another type.

        Raises:
            MalformedError: they have not the size of one.
        """
        if self.offsets is not None:
            if storable.max_size is not None and (np.diff(self.offsets) > storable.max_size).any():
                raise MalformedError(f"a {storable.name} of more than {storable.max_size} bytes")
            return _sized(storable, self.data, self.offsets)
        if storable.is_fixed and storable.max_size != self.width:
            raise MalformedError(f"a {storable.name} of not {storable.max_size} bytes")
        if storable.is_fixed:
            return _checked(Column(storable, self.data, None, self.width, self.length))
        return Column(storable, self.data, self.width * np.arange(self.length + 1, dtype=np.int64), 0, self.length)

    def raws(self) -> Iterator[bytes]:
        """All encoded values."""
        data, width = self.data.tobytes(), self.width
        if self.offsets is not None:
            return (data[start:end] for start, end in pairwise(self.offsets.tolist()))
        if not width:
            return repeat(b"", self.length)
        return (data[start : start + width] for start in range(0, len(data), width))

    def to_numpy(self) -> npt.NDArray[Any]:
        """Numbers in native byte order; fixed bytes as rows of `width` bytes; others as an array of `bytes` objects."""
        if self.offsets is None and _is_number(self.type):
            numbers = self.data.view(_stored_as(self.type))
            return numbers.astype(bool if kind_of(self.type) == BOOL else numbers.dtype.newbyteorder("="))
        if self.offsets is None:
            return self.data.reshape(self.length, self.width)
        objects = np.empty(self.length, dtype=object)
        objects[:] = [self.raw(index) for index in range(self.length)]
        return objects

    def to_arrow(self) -> pa.Array:
        """The Arrow array: a number, bool, string, binary or fixed-size binary; no copy but for byte order.

        Raises:
            MalformedError: a text that is not UTF-8.
        """
        import pyarrow as pa  # only when it is asked for

        if self.offsets is None and _is_number(self.type):
            return pa.array(self.to_numpy())
        data = pa.py_buffer(self.data)
        if self.offsets is None:
            return pa.FixedSizeBinaryArray.from_buffers(pa.binary(self.width), self.length, [None, data])
        is_text, is_large = _stored_as(self.type) == "utf-8", len(self.data) >= 1 << 31
        kind = (
            (pa.large_string() if is_large else pa.string())
            if is_text
            else (pa.large_binary() if is_large else pa.binary())
        )
        offsets = self.offsets if is_large else self.offsets.astype(np.int32)
        array = pa.Array.from_buffers(kind, self.length, [None, pa.py_buffer(offsets), data])
        if is_text:
            try:
                array.validate(full=True)
            except pa.ArrowInvalid as error:
                raise MalformedError(f"a column of texts is not UTF-8: {error}") from error
        return array


@final
@dataclass(frozen=True, eq=False)
class Columns:
    """The entries of a map in key order, as one column of keys and one of values."""

    keys: Column
    values: Column

    def __len__(self) -> int:
        return len(self.keys)

    def to_arrow(self) -> pa.Table:
        """An Arrow table with the columns ``key`` and ``value``."""
        import pyarrow as pa  # only when it is asked for

        return pa.table({"key": self.keys.to_arrow(), "value": self.values.to_arrow()})


def read_columns(tree: BTree, key: StorableType[Any], value: StorableType[Any]) -> Columns:
    """All entries of a tree; see `StableBTreeMap.columns`.

    Raises:
        MalformedError: as the entry-wise reader.
    """
    tree.refresh()
    reader = _TreeReader(tree, value)
    if reader.key_bytes and reader.value_bytes and tree.header.slots is None:
        keys, values = reader.read_fixed(reader.key_bytes, reader.value_bytes)
        return Columns(
            _checked(Column(key, keys, None, reader.key_bytes, tree.header.length)),
            _checked(Column(value, values, None, reader.value_bytes, tree.header.length)),
        )
    key_spans, value_spans = reader.read()
    return Columns(reader.column(key, *key_spans), reader.column(value, *value_spans))


def read_slots(memory: Memory, header: ArrayHeader, length: int, element: StorableType[Any]) -> Column:
    """The first elements of a Vec or MinHeap, in the order of their slots."""
    flat = flat_bytes(memory)
    prefix, slot_bytes = header.length_bytes, header.slot_bytes
    begins = header.slot_address(0) + slot_bytes * np.arange(length, dtype=np.int64)
    if not prefix:
        if length and begins[-1] + slot_bytes > len(flat):
            raise MalformedError(f"{length} slots of {slot_bytes} bytes reach past the memory", ARRAY_LENGTH_ADDRESS)
        data = flat[header.slot_address(0) : header.slot_address(length)].copy()
        return _checked(Column(element, data, None, slot_bytes, length))
    sizes = items(flat, f"<u{prefix}")[begins].astype(np.int64)
    refuse(begins, (sizes > header.max_size) | (begins + prefix + sizes > len(flat)), "an element exceeds its slot")
    return _gather(element, flat, None, begins + prefix, sizes)


def read_log(index_memory: Memory, data_memory: Memory, element: StorableType[Any]) -> Column:
    """All entries of a Log."""
    header = LogHeader.read(index_memory, data_memory)
    flat = flat_bytes(index_memory)
    ends = flat[end_address(0) : end_address(header.length)].view("<u8").astype(np.int64)
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), ends])
    if header.length and ((offsets[1:] < offsets[:-1]).any() or header.data_bytes >> 62):
        raise MalformedError("the ends of the entries do not ascend", LOG_COUNT_ADDRESS)
    data = np.frombuffer(data_memory.read(LOG_DATA_ADDRESS, header.data_bytes), dtype=np.uint8)
    return Column(element, data, offsets, 0, header.length)


_Span: TypeAlias = tuple[Offsets, Offsets | None]
"""Offset and size of each item; ``None`` for sizes that are all the same."""


@final
@dataclass(frozen=True, eq=False)
class _Level:
    """The nodes of one level, in key order; `shifts` make offsets in a group's bytes ones in the common space."""

    counts: Offsets
    groups: list[Nodes]
    shifts: list[int]


@final
class _TreeReader:
    """All entries of a tree. Offsets beyond the memory mean a side buffer: nodes with overflow pages, put together."""

    def __init__(self, tree: BTree, value: StorableType[Any]) -> None:
        self.key_bytes = tree.nodes.key_bytes
        self.value_bytes = value.max_size if value.is_fixed else None
        self._header = tree.header
        gather = Gather(tree.memory, copy=True)
        self._reader = NodeReader(gather, tree.header, Strict(tree.header.allocator.capacity(tree.memory)))
        self._flat = flat_bytes(tree.memory) if gather.flat is None else gather.flat
        self._side: list[Bytes] = []
        self._side_end = len(self._flat)

    def read(self) -> tuple[_Span, _Span]:
        """The spans of all keys and of all values, in key order."""
        levels = self._read_levels()
        places, starts = _places([level.counts for level in levels])
        if levels:
            places.append(ramps(starts, levels[-1].counts))
        ordered = [np.empty(self._header.length, dtype=np.int64) for _ in range(4)]
        has_slots = self._header.slots is not None  # whose nodes of version 1 give a length to fixed sizes too
        has_sizes = [True, self.key_bytes is None or has_slots, True, self.value_bytes is None or has_slots]
        for level, place in zip(levels, places, strict=True):
            for nodes, shift, where in self._groups(level, place):
                spans = self._reader.spans(nodes, self.key_bytes, self.value_bytes)
                ordered[0][where] = spans.key_offsets + shift
                ordered[2][where] = spans.value_offsets + shift
                if has_sizes[1]:
                    ordered[1][where] = self.key_bytes or 0 if spans.key_sizes is None else spans.key_sizes
                if has_sizes[3]:
                    ordered[3][where] = self.value_bytes or 0 if spans.value_sizes is None else spans.value_sizes
        found = [array if has else None for array, has in zip(ordered, has_sizes, strict=True)]
        return (ordered[0], found[1]), (ordered[2], found[3])

    @staticmethod
    def _groups(level: _Level, place: Offsets) -> Iterator[tuple[Nodes, int, Offsets]]:
        """Each group of a level with its shift, and the places of its entries, given those of the level's."""
        firsts = np.cumsum(level.counts) - level.counts
        for nodes, shift in zip(level.groups, level.shifts, strict=True):
            whole = len(nodes.members) == len(level.counts)
            yield nodes, shift, place if whole else place[ramps(firsts[nodes.members], nodes.counts)]

    def read_fixed(self, key_bytes: int, value_bytes: int) -> tuple[Bytes, Bytes]:
        """All keys and all values, in key order, of a map without version 1 nodes where both have fixed sizes."""
        levels = self._read_levels()
        keys, values = (np.empty(self._header.length * size, dtype=np.uint8) for size in (key_bytes, value_bytes))
        places, starts = _places([level.counts for level in levels])
        for level, place in zip(levels[:-1], places, strict=True):
            for nodes, _, where in self._groups(level, place):
                spans = self._reader.spans(nodes, key_bytes, value_bytes)
                for column, size, offsets in (
                    (keys, key_bytes, spans.key_offsets),
                    (values, value_bytes, spans.value_offsets),
                ):
                    items(column, f"V{size}")[where * size] = copy_items(nodes.flat, None, offsets, size).view(
                        f"V{size}"
                    )
        for nodes in levels[-1].groups if levels else []:
            for low in range(0, len(nodes.members), _BLOCK_NODES):
                counts = nodes.counts[low : low + _BLOCK_NODES]
                for count in np.flatnonzero(np.bincount(counts)).tolist():
                    chosen = low + np.flatnonzero(counts == count)
                    copy_leaves(nodes, chosen, (key_bytes, value_bytes), starts[nodes.members[chosen]], (keys, values))
        return keys, values

    def column(self, storable: StorableType[Any], offsets: Offsets, sizes: Offsets | None) -> Column:
        """The bytes at the spans."""
        side = np.concatenate(self._side) if self._side else None
        return _gather(storable, self._flat, side, offsets, sizes)

    def _read_levels(self) -> list[_Level]:
        """The nodes from the root down; their entries are as many as the header counts."""
        levels: list[_Level] = []
        addresses = np.array([self._header.root] if self._header.root else [], dtype=np.int64)
        while len(addresses):
            if len(levels) == MAX_DEPTH:
                raise MalformedError(f"a tree of more than {MAX_DEPTH} levels", int(addresses[0]))
            heads = self._reader.heads(addresses)
            refuse(addresses, heads.internal != heads.internal[0], "a leaf and an internal node on one level")
            groups = list(self._reader.nodes(heads, self._reader.chains(heads)))
            levels.append(_Level(heads.counts, groups, [self._shift(nodes) for nodes in groups]))
            addresses, _ = self._reader.children(heads)
        found = sum(int(level.counts.sum()) for level in levels)
        if found != self._header.length:
            raise MalformedError(f"{found} entries, the header counts {self._header.length}", LENGTH_ADDRESS)
        return levels

    def _shift(self, nodes: Nodes) -> int:
        if nodes.flat is self._flat:
            return 0
        shift = self._side_end
        self._side.append(nodes.flat)
        self._side_end += nodes.flat.size
        return shift


def _places(counts_by_level: list[Offsets]) -> tuple[list[Offsets], Offsets]:
    """The place in key order of each entry of the internal levels, and of the first entry of each leaf."""
    subtrees = counts_by_level[-1:]
    for counts in reversed(counts_by_level[:-1]):
        subtrees.append(counts + np.add.reduceat(subtrees[-1], np.cumsum(counts + 1) - counts - 1))
    subtrees.reverse()
    places, starts = [], np.zeros(1, dtype=np.int64)
    for counts, below in zip(counts_by_level[:-1], subtrees[1:], strict=False):
        before = np.cumsum(below + 1) - below - 1
        firsts = np.cumsum(counts + 1) - counts - 1
        starts = before + np.repeat(starts - before[firsts], counts + 1)
        is_first = np.zeros(len(below), dtype=bool)
        is_first[firsts] = True
        places.append(starts[~is_first] - 1)
    return places, starts


def gather_column(storable: StorableType[Any], flat: Bytes, offsets: Offsets, sizes: Offsets) -> Column:
    """The column of the values at `offsets` in `flat`.

    Raises:
        MalformedError: one is longer than its type allows.
    """
    return _gather(storable, flat, None, offsets, sizes)


def _gather(
    storable: StorableType[Any], flat: Bytes, side: Bytes | None, offsets: Offsets, sizes: Offsets | None
) -> Column:
    """The column of the bytes at `offsets`, of which those past `flat` are in `side`."""
    length = len(offsets)
    if sizes is None:
        width = storable.max_size or 0
        return _checked(Column(storable, copy_items(flat, side, offsets, width), None, width, length))
    if storable.max_size is not None:
        refuse(offsets, sizes > storable.max_size, f"a {storable.name} of more than {storable.max_size} bytes")
    ends = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
    if length and (sizes == sizes[0]).all():
        return _sized(storable, copy_items(flat, side, offsets, int(sizes[0])), ends)
    data = np.empty(int(ends[-1]), dtype=np.uint8)
    for low in range(0, length, _BLOCK_ENTRIES):
        block = slice(low, low + _BLOCK_ENTRIES)
        for width, members in _by_size(sizes[block]):
            found = copy_items(flat, side, offsets[block][members], width)
            items(data, f"V{width}")[ends[:-1][block][members]] = found.view(f"V{width}")
    return _sized(storable, data, ends)


def _by_size(sizes: Offsets) -> Iterator[tuple[int, Offsets]]:
    """Each size above 0 with the indices of what has it."""
    order = np.argsort(sizes.astype(np.uint16) if sizes.max() < 1 << 16 else sizes, kind="stable")
    ordered = sizes[order]
    cuts = [0, *(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1).tolist(), len(order)]
    for low, high in pairwise(cuts):
        if width := int(ordered[low]):
            yield width, order[low:high]


def _sized(storable: StorableType[Any], data: Bytes, ends: Offsets) -> Column:
    """A column of variable sizes, or of fixed ones where the type is fixed (version 1 nodes store lengths then too)."""
    length = len(ends) - 1
    if not storable.is_fixed:
        return Column(storable, data, ends, 0, length)
    width = storable.max_size or 0
    if length and (np.diff(ends) != width).any():
        raise MalformedError(f"a {storable.name} of not {width} bytes")
    return _checked(Column(storable, data, None, width, length))


def _checked(column: Column) -> Column:
    if kind_of(column.type) == BOOL and len(column.data) and column.data.max() > 1:
        raise MalformedError(f"a bool is 00 or 01, found {int(column.data.max()):02x}")
    return column


def _stored_as(storable: StorableType[Any]) -> str:
    """What the bytes of a type are as they stand; bytes, where it does not say."""
    return getattr(storable, "stored_as", None) or "bytes"


def _is_number(storable: StorableType[Any]) -> bool:
    return _stored_as(storable) not in ("utf-8", "bytes")
