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
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
import numpy.typing as npt

from perdure.errors import MalformedError
from perdure.memory import WASM_PAGE_BYTES, Memory
from perdure.stable.access import view_or_none
from perdure.stable.btree import MAX_DEPTH, BTree
from perdure.stable.chunks import CHUNK_HEADER_BYTES, FIRST_CHUNK_ADDRESS
from perdure.stable.log import COUNT_ADDRESS, DATA_ADDRESS, ENDS_ADDRESS, LogHeader
from perdure.stable.nodes import CAPACITY, NODE_HEADER, OVERFLOW_HEADER, V2_HEADER_BYTES, V1Slots
from perdure.stable.slots import LENGTH_ADDRESS, SLOTS_ADDRESS, SlotArray
from perdure.stable.types import Reverse, StorableType

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Column", "Columns", "read_columns", "read_log", "read_slots"]

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]

_FIRST_BODY: Final = FIRST_CHUNK_ADDRESS + CHUNK_HEADER_BYTES
_FEW_NODES: Final = 16
"""Overflow chains of so few nodes are followed one by one, of more in step."""

_BLOCK_ENTRIES: Final = 1 << 15
"""Entries whose bytes are gathered together: so few that the nodes they are in stay in the processor's caches."""

_BLOCK_NODES: Final = 1 << 12
"""Nodes that are read or copied together, for the same reason."""

_DTYPES: Final = {
    "bool": "u1",
    **{f"u{bits}": f">u{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"i{bits}": f">i{bits // 8}" for bits in (8, 16, 32, 64)},
    "f32": ">f4",
    "f64": ">f8",
}


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

    def to_numpy(self) -> npt.NDArray[Any]:
        """Numbers in native byte order; fixed bytes as rows of `width` bytes; others as an array of `bytes` objects."""
        dtype = _DTYPES.get(_plain_name(self.type))
        if dtype is not None and self.offsets is None:
            numbers = self.data.view(dtype)
            return numbers.astype(bool if self.type.name == "bool" else numbers.dtype.newbyteorder("="))
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

        if self.offsets is None and _plain_name(self.type) in _DTYPES:
            return pa.array(self.to_numpy())
        data = pa.py_buffer(self.data)
        if self.offsets is None:
            return pa.FixedSizeBinaryArray.from_buffers(pa.binary(self.width), self.length, [None, data])
        is_text, is_large = _plain_name(self.type) == "String", len(self.data) >= 1 << 31
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
    spans = reader.read()
    return Columns(
        reader.column(key, spans.key_offsets, spans.key_sizes),
        reader.column(value, spans.value_offsets, spans.value_sizes),
    )


def read_slots(slots: SlotArray, element: StorableType[Any]) -> Column:
    """All elements of a Vec or MinHeap, in the order of their slots."""
    length, header, flat = len(slots), slots.header, _flat(slots.memory)
    prefix, slot_bytes = header.length_bytes, header.slot_bytes
    begins = SLOTS_ADDRESS + slot_bytes * np.arange(length, dtype=np.int64)
    if not prefix:
        if length and begins[-1] + slot_bytes > len(flat):
            raise MalformedError(f"{length} slots of {slot_bytes} bytes reach past the memory", LENGTH_ADDRESS)
        data = flat[SLOTS_ADDRESS : SLOTS_ADDRESS + length * slot_bytes].copy()
        return _checked(Column(element, data, None, slot_bytes, length))
    sizes = _items(flat, f"<u{prefix}")[begins].astype(np.int64)
    _refuse(begins, (sizes > header.max_size) | (begins + prefix + sizes > len(flat)), "an element exceeds its slot")
    return _gather(element, flat, None, begins + prefix, sizes)


def read_log(index_memory: Memory, data_memory: Memory, element: StorableType[Any]) -> Column:
    """All entries of a Log."""
    header = LogHeader.read(index_memory, data_memory)
    flat = _flat(index_memory)
    ends = flat[ENDS_ADDRESS : ENDS_ADDRESS + 8 * header.length].view("<u8").astype(np.int64)
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), ends])
    if header.length and ((offsets[1:] < offsets[:-1]).any() or header.data_bytes >> 62):
        raise MalformedError("the ends of the entries do not ascend", COUNT_ADDRESS)
    data = np.frombuffer(data_memory.read(DATA_ADDRESS, header.data_bytes), dtype=np.uint8)
    return Column(element, data, offsets, 0, header.length)


@final
@dataclass(frozen=True, eq=False)
class _Spans:
    """Where the keys and values of entries are; `key_sizes` is ``None`` for fixed keys."""

    key_offsets: Offsets
    key_sizes: Offsets | None
    value_offsets: Offsets
    value_sizes: Offsets | None

    def arrays(self) -> tuple[Offsets | None, ...]:
        return self.key_offsets, self.key_sizes, self.value_offsets, self.value_sizes


@final
@dataclass(frozen=True, eq=False)
class _Nodes:
    """Nodes of one version and number of pages: where each begins in `flat`, and how many bytes it can have.

    `shift` is what makes an offset in `flat` one in the reader's common space.
    """

    flat: Bytes
    begins: Offsets
    limit: int
    counts: Offsets
    is_internal: bool
    shift: int


@final
@dataclass(frozen=True, eq=False)
class _Level:
    """All nodes of one level, in key order: entries of each, children of all; and the nodes in groups of one kind.

    A group has the numbers of its nodes within the level, the nodes, and whether they are of version 1.
    """

    counts: Offsets
    children: Offsets
    groups: list[tuple[Offsets, _Nodes, bool]]


@final
class _TreeReader:
    def __init__(self, tree: BTree, value: StorableType[Any]) -> None:
        self.key_bytes = tree.nodes.key_bytes
        self.value_bytes = value.max_size if value.is_fixed else None
        self._header = tree.header
        self._page_bytes = tree.header.page_bytes
        self._stride = tree.header.allocator.stride
        self._flat = _flat(tree.memory)
        pages = max(0, (len(self._flat) - _FIRST_BODY - self._page_bytes) // self._stride + 1)
        self._pages: Bytes = np.ndarray(
            (pages, self._page_bytes), np.uint8, self._flat, _FIRST_BODY if pages else 0, (self._stride, 1)
        )
        self._budget = pages
        self._side: list[Bytes] = []
        self._side_end = len(self._flat)

    def read(self) -> _Spans:
        """The spans of all entries, in key order."""
        levels = self._read_levels()
        places, starts = _places([level.counts for level in levels])
        if levels:
            places.append(_ramps(starts, levels[-1].counts))
        ordered = [np.empty(self._header.length, dtype=np.int64) for _ in range(4)]
        for level, place in zip(levels, places, strict=True):
            for target, source in zip(ordered, self._spans(level).arrays(), strict=True):
                if source is not None:
                    target[place] = source
        keys_vary, values_vary = self.key_bytes is None or self._header.slots is not None, self.value_bytes is None
        values_vary = values_vary or self._header.slots is not None
        return _Spans(ordered[0], ordered[1] if keys_vary else None, ordered[2], ordered[3] if values_vary else None)

    def read_fixed(self, key_bytes: int, value_bytes: int) -> tuple[Bytes, Bytes]:
        """All keys and all values, in key order, of a map without version 1 nodes where both have fixed sizes."""
        levels = self._read_levels()
        keys, values = (np.empty(self._header.length * size, dtype=np.uint8) for size in (key_bytes, value_bytes))
        places, starts = _places([level.counts for level in levels])
        spans = [self._spans(level) for level in levels[:-1]]
        side = np.concatenate(self._side) if self._side else None
        for span, place in zip(spans, places, strict=True):
            _items(keys, f"V{key_bytes}")[place * key_bytes] = _copy_items(
                self._flat, side, span.key_offsets, key_bytes
            ).view(f"V{key_bytes}")
            _items(values, f"V{value_bytes}")[place * value_bytes] = _copy_items(
                self._flat, side, span.value_offsets, value_bytes
            ).view(f"V{value_bytes}")
        for members, nodes, _ in levels[-1].groups if levels else []:
            for low in range(0, len(members), _BLOCK_NODES):
                block = slice(low, low + _BLOCK_NODES)
                counts, begins, places_of_block = nodes.counts[block], nodes.begins[block], starts[members[block]]
                for count in np.flatnonzero(np.bincount(counts)).tolist():
                    chosen = np.flatnonzero(counts == count)
                    self._copy_leaves(nodes, begins[chosen], count, places_of_block[chosen], keys, values)
        return keys, values

    def _copy_leaves(
        self, nodes: _Nodes, begins: Offsets, count: int, starts: Offsets, keys: Bytes, values: Bytes
    ) -> None:
        """Copy leaves of `count` entries each to where their entries start in `keys` and `values`."""
        key_bytes, value_bytes = self.key_bytes or 0, self.value_bytes or 0
        run, entry = f"V{count * key_bytes}", np.dtype([("size", "<u4"), ("value", f"V{value_bytes}")])
        values_begin = V2_HEADER_BYTES + count * key_bytes
        if values_begin + count * entry.itemsize > nodes.limit:
            raise MalformedError("a node exceeds its pages", int(begins[0]) + nodes.shift)
        _items(keys, run)[starts * key_bytes] = _items(nodes.flat, run)[begins + V2_HEADER_BYTES]
        entries = _items(nodes.flat, f"V{count * entry.itemsize}")[begins + values_begin].view(entry)
        wrong = (entries["size"] != value_bytes).reshape(-1, count).any(axis=1)
        _refuse(begins, wrong, f"a value of not {value_bytes} bytes")
        run = f"V{count * value_bytes}"
        _items(values, run)[starts * value_bytes] = np.ascontiguousarray(entries["value"]).view(run)

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
            levels.append(self._read_level(addresses))
            addresses = levels[-1].children
        found = sum(int(level.counts.sum()) for level in levels)
        if found != self._header.length:
            raise MalformedError(f"{found} entries, the header counts {self._header.length}", 20)
        return levels

    def _read_level(self, addresses: Offsets) -> _Level:
        heads = self._pages[self._indices(addresses, "node"), :V2_HEADER_BYTES]
        counts = heads[:, 5].astype(np.int64) | heads[:, 6].astype(np.int64) << 8
        _refuse(addresses, (heads[:, :3] != np.frombuffer(b"BTN", np.uint8)).any(axis=1), "bad magic, expected b'BTN'")
        _refuse(addresses, (counts == 0) | (counts > CAPACITY), f"a node without 1 to {CAPACITY} entries")
        kinds, versions = heads[:, 4], heads[:, 3]
        _refuse(addresses, kinds != min(int(kinds[0]), 1), "a leaf and an internal node on one level")
        slots = self._header.slots
        _refuse(addresses, (versions != 2) & ((versions != 1) | (slots is None)), "unknown node version")
        self._spend(len(addresses), addresses)
        is_internal = bool(kinds[0])

        links = np.where(versions == 2, np.ascontiguousarray(heads[:, 7:]).view("<u8")[:, 0].astype(np.int64), 0)
        chains = self._chains(links)
        kind_of_node = versions.astype(np.int64) - 1 + 2 * np.bincount(chains.nodes, minlength=len(addresses))
        first_children = np.cumsum(counts + 1) - counts - 1
        children = np.zeros(int((counts + 1).sum()) if is_internal else 0, dtype=np.int64)
        groups = []
        for kind in np.unique(kind_of_node).tolist():
            members = np.flatnonzero(kind_of_node == kind)
            pages = chains.pages[chains.group(members, kind // 2)]
            nodes = self._nodes(addresses[members], pages, counts[members], is_internal)
            groups.append((members, nodes, kind == 0))
            if is_internal:
                where = _ramps(first_children[members], nodes.counts + 1)
                children[where] = _read_children(nodes, slots if kind == 0 else None)
        return _Level(counts, children, groups)

    def _spans(self, level: _Level) -> _Spans:
        """The spans of a level's entries, node by node."""
        counts, slots = level.counts, self._header.slots
        first_entries = np.cumsum(counts) - counts
        spans = [np.zeros(int(counts.sum()), dtype=np.int64) for _ in range(4)]
        for members, nodes, is_v1 in level.groups:
            found = _v1_spans(nodes, slots) if is_v1 and slots is not None else self._v2_spans(nodes)
            where = _ramps(first_entries[members], nodes.counts)
            for target, source in zip(spans, found.arrays(), strict=True):
                if source is not None:
                    target[where] = source
        return _Spans(*spans)

    def _indices(self, addresses: Offsets, what: str) -> Offsets:
        """The pages at `addresses`, by index."""
        indices, rest = np.divmod(addresses - _FIRST_BODY, self._stride)
        _refuse(addresses, (rest != 0) | (indices < 0), f"a {what} address points between chunks")
        _refuse(addresses, indices >= len(self._pages), f"a {what} lies outside the memory")
        return indices

    def _spend(self, pages: int, addresses: Offsets) -> None:
        self._budget -= pages
        if self._budget < 0:
            raise MalformedError("a node or page is reached twice", int(addresses[0]))

    def _chains(self, links: Offsets) -> _Chains:
        """The overflow pages of each node of a level, given each node's link to the first."""
        nodes, pages = [], []
        active = np.flatnonzero(links)
        current = links[active]
        while len(active) > _FEW_NODES:
            following = self._follow(current)
            nodes.append(active)
            pages.append(current)
            active, current = active[following != 0], following[following != 0]
        for node, page in zip(active.tolist(), current.tolist(), strict=True):
            chain = self._chain(page)
            nodes.append(np.full(len(chain), node))
            pages.append(np.array(chain, dtype=np.int64))
        if not nodes:
            return _Chains(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
        all_nodes, all_pages = np.concatenate(nodes), np.concatenate(pages)
        order = np.argsort(all_nodes, kind="stable")
        return _Chains(all_nodes[order], all_pages[order])

    def _follow(self, pages: Offsets) -> Offsets:
        heads = self._pages[self._indices(pages, "page"), : OVERFLOW_HEADER.size]
        _refuse(pages, (heads[:, :3] != np.frombuffer(b"NOF", np.uint8)).any(axis=1), "bad magic, expected b'NOF'")
        self._spend(len(pages), pages)
        return np.ascontiguousarray(heads[:, 3:]).view("<u8")[:, 0].astype(np.int64)

    def _chain(self, page: int) -> list[int]:
        chain, flat = [], self._flat.data
        while page:
            index, rest = divmod(page - _FIRST_BODY, self._stride)
            if rest or not 0 <= index < len(self._pages):
                raise MalformedError("an overflow address points outside the chunks", page)
            magic, following = OVERFLOW_HEADER.unpack_from(flat, page)
            if magic != b"NOF":
                raise MalformedError(f"bad magic {magic!r}, expected b'NOF'", page)
            self._budget -= 1
            if self._budget < 0:
                raise MalformedError("a node or page is reached twice", page)
            chain.append(page)
            page = following
        return chain

    def _nodes(self, addresses: Offsets, pages: Offsets, counts: Offsets, is_internal: bool) -> _Nodes:
        """Nodes that have the same number of overflow pages, `pages` row by row; put together if there are any."""
        if not len(pages):
            return _Nodes(self._flat, addresses, self._page_bytes, counts, is_internal, 0)
        capacity = self._page_bytes - OVERFLOW_HEADER.size
        size = self._page_bytes + pages.shape[1] * capacity
        runs = np.empty((len(addresses), size), dtype=np.uint8)
        runs[:, : self._page_bytes] = self._pages[self._indices(addresses, "node")]
        bodies = runs[:, self._page_bytes :].reshape(len(addresses), pages.shape[1], capacity)
        bodies[...] = self._pages[self._indices(pages, "page"), OVERFLOW_HEADER.size :]
        shift = self._side_end
        self._side.append(runs.reshape(-1))
        self._side_end += runs.size
        begins = size * np.arange(len(addresses), dtype=np.int64)
        return _Nodes(self._side[-1], begins, size, counts, is_internal, shift)

    def _v2_spans(self, nodes: _Nodes) -> _Spans:
        """The spans of the entries of version 2 nodes, node by node."""
        counts, ends = nodes.counts, nodes.begins + nodes.limit
        key_sizes: Offsets | None = None
        value_sizes: Offsets | None = None
        offsets = nodes.begins + V2_HEADER_BYTES + (8 * (counts + 1) if nodes.is_internal else 0)
        if self.key_bytes is None:
            key_offsets, key_sizes, offsets = _read_lengths(nodes, offsets, ends)
        else:
            key_offsets = _ramps(offsets, counts, self.key_bytes)
            offsets = offsets + counts * self.key_bytes
        if self.value_bytes is None:
            value_offsets, value_sizes, offsets = _read_lengths(nodes, offsets, ends)
        else:
            _refuse(nodes.begins, offsets + counts * (4 + self.value_bytes) > ends, "a node exceeds its pages")
            value_offsets = _ramps(offsets, counts, 4 + self.value_bytes)
            sizes = _items(nodes.flat, "<u4")[value_offsets]
            _refuse(value_offsets, sizes != self.value_bytes, f"a value of not {self.value_bytes} bytes")
            value_offsets += 4
        _refuse(nodes.begins, offsets > ends, "a node exceeds its pages")
        return _Spans(key_offsets + nodes.shift, key_sizes, value_offsets + nodes.shift, value_sizes)


@final
@dataclass(frozen=True, eq=False)
class _Chains:
    """Overflow pages, sorted by the node they belong to."""

    nodes: Offsets
    pages: Offsets

    def group(self, members: Offsets, pages_each: int) -> Offsets:
        """Indices of the pages of `members`, which have `pages_each` pages each: one row a node."""
        if not pages_each:
            return np.zeros(0, dtype=np.int64)
        firsts = np.searchsorted(self.nodes, members)
        return firsts[:, None] + np.arange(pages_each)


def _v1_spans(nodes: _Nodes, slots: V1Slots) -> _Spans:
    slot_bytes = 8 + slots.key_bytes + slots.value_bytes
    starts = _ramps(nodes.begins + NODE_HEADER.size, nodes.counts, slot_bytes)
    lengths = _items(nodes.flat, "<u4")
    key_sizes = lengths[starts].astype(np.int64)
    value_starts = starts + 4 + slots.key_bytes
    value_sizes = lengths[value_starts].astype(np.int64)
    _refuse(starts, (key_sizes > slots.key_bytes) | (value_sizes > slots.value_bytes), "an entry exceeds its slots")
    return _Spans(starts + 4 + nodes.shift, key_sizes, value_starts + 4 + nodes.shift, value_sizes)


def _read_children(nodes: _Nodes, slots: V1Slots | None) -> Offsets:
    """The children of internal nodes, node by node; in version 1, which has `slots`, they come last."""
    begins = nodes.begins + V2_HEADER_BYTES
    if slots is not None:
        begins = nodes.begins + NODE_HEADER.size + nodes.counts * (8 + slots.key_bytes + slots.value_bytes)
    return _items(nodes.flat, "<u8")[_ramps(begins, nodes.counts + 1, 8)].astype(np.int64)


def _read_lengths(nodes: _Nodes, offsets: Offsets, ends: Offsets) -> tuple[Offsets, Offsets, Offsets]:
    """Offsets and sizes of length-prefixed items, node by node, and where they end."""
    lengths, counts, shape = _items(nodes.flat, "<u4"), nodes.counts, (len(nodes.counts), CAPACITY)
    where, sizes = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    offsets = offsets.copy()
    for low in range(0, len(counts), _BLOCK_NODES):
        active = np.arange(low, min(low + _BLOCK_NODES, len(counts)))
        for index in range(CAPACITY):
            active = active[counts[active] > index]
            here, end = offsets[active], ends[active]
            _refuse(nodes.begins[active], here + 4 > end, "a node exceeds its pages")
            size = lengths[here].astype(np.int64)
            where[active, index], sizes[active, index] = here + 4, size
            offsets[active] = after = here + 4 + size
            _refuse(nodes.begins[active], after > end, "a node exceeds its pages")
    used = np.arange(CAPACITY) < counts[:, None]
    return where[used], sizes[used], offsets


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


def _ramps(starts: Offsets, counts: Offsets, step: int = 1) -> Offsets:
    """``start, start + step, ...``, `count` of each, joined."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    within = np.arange(total, dtype=np.int64) - np.repeat(ends - counts, counts)
    return np.repeat(starts, counts) + step * within


def _gather(
    storable: StorableType[Any], flat: Bytes, side: Bytes | None, offsets: Offsets, sizes: Offsets | None
) -> Column:
    """The column of the bytes at `offsets`, of which those past `flat` are in `side`."""
    length = len(offsets)
    if sizes is None:
        width = storable.max_size or 0
        return _checked(Column(storable, _copy_items(flat, side, offsets, width), None, width, length))
    if storable.max_size is not None:
        _refuse(offsets, sizes > storable.max_size, f"a {storable.name} of more than {storable.max_size} bytes")
    ends = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
    if length and (sizes == sizes[0]).all():
        return _sized(storable, _copy_items(flat, side, offsets, int(sizes[0])), ends)
    data = np.empty(int(ends[-1]), dtype=np.uint8)
    for low in range(0, length, _BLOCK_ENTRIES):
        block = slice(low, low + _BLOCK_ENTRIES)
        for width, members in _by_size(sizes[block]):
            items = _copy_items(flat, side, offsets[block][members], width)
            _items(data, f"V{width}")[ends[:-1][block][members]] = items.view(f"V{width}")
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


def _copy_items(flat: Bytes, side: Bytes | None, offsets: Offsets, width: int) -> Bytes:
    """The `width` bytes at each of `offsets`, one after the other."""
    if width == 0 or not len(offsets):
        return np.empty(0, dtype=np.uint8)
    if side is None:
        return _items(flat, f"V{width}")[offsets].view(np.uint8)
    items = np.empty(len(offsets), dtype=f"V{width}")
    is_side = offsets >= len(flat)
    if not is_side.all():
        items[~is_side] = _items(flat, f"V{width}")[offsets[~is_side]]
    if is_side.any():
        items[is_side] = _items(side, f"V{width}")[offsets[is_side] - len(flat)]
    return items.view(np.uint8)


def _items(flat: Bytes, dtype: str) -> npt.NDArray[Any]:
    """`flat` as overlapping items, one at every byte."""
    item = np.dtype(dtype)
    return np.ndarray((max(0, len(flat) - item.itemsize + 1),), item, flat, 0, (1,))


def _checked(column: Column) -> Column:
    if column.type.name == "bool" and len(column.data) and column.data.max() > 1:
        raise MalformedError(f"a bool is 00 or 01, found {int(column.data.max()):02x}")
    return column


def _refuse(offsets: Offsets, is_bad: npt.NDArray[np.bool_], message: str) -> None:
    """Raise `MalformedError` at the first bad offset, if any."""
    if is_bad.any():
        raise MalformedError(message, int(offsets[int(np.argmax(is_bad))]) % (1 << 64))


def _plain_name(storable: StorableType[Any]) -> str:
    return _plain_name(storable.inner) if isinstance(storable, Reverse) else storable.name


def _flat(memory: Memory) -> Bytes:
    """The whole memory as bytes, without a copy where it can show them."""
    size_bytes = memory.size() * WASM_PAGE_BYTES
    found = view_or_none(memory, 0, size_bytes)
    return np.frombuffer(memory.read(0, size_bytes) if found is None else found, dtype=np.uint8)
