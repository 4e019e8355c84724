"""Checks a whole B-tree, level by level, with arithmetic on arrays instead of a Python object per node.

The tree is read from the root down, a block of nodes at a time. Only reachable chunks are read whole; each is read
once, whatever the links say, so that circles and shared nodes end the walk where they begin. Of the keys only a prefix
is kept, as columns of 64-bit numbers that compare as the bytes do. Then the allocator: the free list, and the mark of
each chunk up to the one past the last.

Whatever is wrong becomes a finding; nothing is raised over what the bytes say. The module is long because one walk sees
all of it: nodes, keys, overflow pages and chunks share what was already reached.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from perdure.inspection.findings import Findings
from perdure.stable.bulk import NodeReader, Nodes, Spans, read_marks
from perdure.stable.chunks import walk_free_list
from perdure.stable.gather import BLOCK_BYTES, Bytes, Gather, Mask, Offsets, items
from perdure.stable.headers import Fault, MapHeader
from perdure.stable.layout import (
    ALLOCATED_CHUNKS_ADDRESS,
    CAPACITY,
    CHUNK_HEADER_BYTES,
    FIRST_BODY_ADDRESS,
    LENGTH_ADDRESS,
    MAX_DEPTH,
    MIN_ENTRIES,
)
from perdure.stable.region import Region
from perdure.values.format import Format

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

__all__ = ["KeyReading", "TreeFacts", "check_tree", "key_reading"]

COMPARED_BYTES: Final = 64
"""Keys are compared by so many bytes; a difference beyond is looked for only between neighbours in one node."""

MIN_OTHER_ENTRIES: Final = MIN_ENTRIES - 1
_LISTED: Final = 64
_NOBODY: Final = np.zeros(0, np.int64)
_MAX_BAD_BLOCKS: Final = 2
_FAR: Final = 1 << 62


@final
@dataclass
class TreeFacts:
    """What the walk counted.

    Attributes:
        entries: in reachable nodes.
        depth: levels.
        nodes_v1: reachable nodes of version 1.
        nodes_v2: of version 2.
        overflow_pages: in use by them.
        entry_bytes: bytes of the nodes that are in use.
        chunks: that were ever used.
        free_chunks: in the free list, without the one past the last.
        leaked_chunks: marked as allocated, not reachable.
    """

    entries: int = 0
    depth: int = 0
    nodes_v1: int = 0
    nodes_v2: int = 0
    overflow_pages: int = 0
    entry_bytes: int = 0
    chunks: int = 0
    free_chunks: int = 0
    leaked_chunks: int = 0


@final
@dataclass(frozen=True)
class KeyReading:
    """How keys are read and compared.

    Attributes:
        width: bytes of a key that carries no length; ``None`` where keys carry one.
        is_known: whether that is known at all; if not, keys and values of version 2 nodes are not looked at.
        order: ``bytes``, ``size`` (shorter first), ``little``, ``signed``, ``little-signed``, or ``other``.
        is_certain: whether keys out of order are an error.
    """

    width: int | None
    is_known: bool
    order: str = "bytes"
    is_certain: bool = False


def key_reading(key: Format, width: int | None, is_known: bool) -> KeyReading:
    """The reading of keys of a format."""
    return KeyReading(width, is_known, key.collation, key.is_ordered)


@final
@dataclass
class _Keys:
    """Keys as columns: most significant first, zero-padded, and their sizes. `has` is false where there is none."""

    columns: Array
    sizes: Array
    has: Array

    def take(self, index: Array) -> _Keys:
        return _Keys(self.columns[index], self.sizes[index], self.has[index])

    def put(self, index: Array, keys: _Keys) -> None:
        self.columns[index], self.sizes[index], self.has[index] = keys.columns, keys.sizes, keys.has

    @classmethod
    def none(cls, count: int, columns: int, *places: int) -> _Keys:
        shape = (count, *places)
        return cls(np.zeros((*shape, columns), np.uint64), np.zeros(shape, np.int64), np.zeros(shape, bool))

    @classmethod
    def join(cls, parts: list[_Keys]) -> _Keys:
        return cls(
            np.concatenate([part.columns for part in parts]),
            np.concatenate([part.sizes for part in parts]),
            np.concatenate([part.has for part in parts]),
        )


@final
@dataclass
class _Level:
    """Nodes yet to be read: addresses, and the keys between which theirs must lie."""

    addresses: Offsets
    low: _Keys
    high: _Keys

    def take(self, index: Offsets) -> _Level:
        return _Level(self.addresses[index], self.low.take(index), self.high.take(index))


@final
class _Noting:
    """What is wrong becomes a finding; pages reached before are left out."""

    def __init__(self, region: Region, findings: Findings) -> None:
        self._region = region
        self._findings = findings
        self.seen = np.zeros(0, np.int64)

    def refuse(self, code: str, addresses: Offsets, message: Callable[[int], str]) -> None:
        """A finding for each address, by its place."""
        for place, address in enumerate(addresses[:_LISTED].tolist()):
            self._findings.add_in(self._region, code, message(place), address)
        self._findings.skip(code, len(addresses) - _LISTED)

    def first_time(self, what: str, addresses: Offsets) -> Mask:
        """Which were not seen before, neither here nor earlier; all are seen from now on."""
        _, first = np.unique(addresses, return_index=True)
        fresh = np.zeros(len(addresses), bool)
        fresh[first] = True
        fresh &= ~np.isin(addresses, self.seen, kind="sort")
        self.refuse(f"{what}-shared", addresses[~fresh], lambda _: f"the {what} is reached twice")
        self.seen = np.concatenate([self.seen, addresses[fresh]])
        return fresh


def check_tree(region: Region, header: MapHeader, reading: KeyReading, findings: Findings) -> TreeFacts:
    """Check the tree and its allocator."""
    return _TreeCheck(region, header, reading, findings).run()


@final
class _TreeCheck:
    def __init__(self, region: Region, header: MapHeader, reading: KeyReading, findings: Findings) -> None:
        self._region = region
        self._header = header
        self._reading = reading
        self._findings = findings
        self._noting = _Noting(region, findings)
        self._gather = Gather(region)
        self._reader = NodeReader(self._gather, header, self._noting)
        self._compared = COMPARED_BYTES if reading.width is None else min(COMPARED_BYTES, reading.width)
        if header.slots is not None:
            self._compared = min(COMPARED_BYTES, header.slots.key_bytes)
        self._columns = max(1, -(-self._compared // 8))
        self._leaf_levels: set[int] = set()
        self._compares = reading.order != "other"
        self.facts = TreeFacts()

    def run(self) -> TreeFacts:
        """Walk the tree, then the chunks."""
        root = np.array([min(self._header.root, _FAR)] if self._header.root else [], np.int64)
        level = _Level(root, _Keys.none(len(root), self._columns), _Keys.none(len(root), self._columns))
        while len(level.addresses):
            if self.facts.depth == MAX_DEPTH:
                self._add("node-shared", f"more than {MAX_DEPTH} levels", int(level.addresses[0]))
                break
            level = self._read_level(level)
        if self.facts.entries != self._header.length:
            message = f"{self.facts.entries} entries, the header counts {self._header.length}"
            self._add("entry-count", message, LENGTH_ADDRESS)
        if len(self._leaf_levels) > 1:
            self._add("leaf-depth", f"leaves on levels {sorted(self._leaf_levels)}, expected one")
        reached, block = self._noting.seen, BLOCK_BYTES // CHUNK_HEADER_BYTES
        for start in range(0, len(reached), block):
            self._check_marks(reached[start : start + block])
        self._check_chunks()
        return self.facts

    def _add(self, code: str, message: str, address: int | None = None) -> None:
        self._findings.add_in(self._region, code, message, address)

    def _add_where(self, code: str, addresses: Offsets, is_so: Mask, message: Callable[[int], str]) -> None:
        """A finding for each address where it is so, by its place."""
        if is_so.any():
            where = np.flatnonzero(is_so)
            self._noting.refuse(code, addresses[where], lambda place: message(int(where[place])))

    # Levels

    def _read_level(self, level: _Level) -> _Level:
        block = max(1, BLOCK_BYTES // self._reader.page_bytes)
        following = [_Level(level.addresses[:0], level.low.take(_NOBODY), level.high.take(_NOBODY))]
        nodes = self.facts.nodes_v1 + self.facts.nodes_v2
        for start in range(0, len(level.addresses), block):
            part = np.arange(start, min(start + block, len(level.addresses)))
            following += self._read_block(level.take(part))
        self.facts.depth += self.facts.nodes_v1 + self.facts.nodes_v2 > nodes
        return _Level(
            np.concatenate([part.addresses for part in following]),
            _Keys.join([part.low for part in following]),
            _Keys.join([part.high for part in following]),
        )

    def _read_block(self, level: _Level) -> list[_Level]:
        heads = self._reader.heads(level.addresses)
        level = level.take(heads.asked)
        self.facts.entries += int(heads.counts.sum())
        self.facts.nodes_v1 += int((heads.versions == 1).sum())
        self.facts.nodes_v2 += int((heads.versions == 2).sum())
        if not heads.internal.all():
            self._leaf_levels.add(self.facts.depth)
        few = (heads.counts < MIN_OTHER_ENTRIES) & (heads.addresses != self._header.root)
        self._add_where(
            "node-underfull", heads.addresses, few, lambda place: f"{heads.counts[place]} entries, expected 5 to 11"
        )
        chains = self._reader.chains(heads)
        self.facts.overflow_pages += len(chains.pages)
        keys = _Keys.none(len(heads), self._columns, CAPACITY)
        for nodes in self._reader.nodes(heads, chains):
            keys.put(nodes.members, self._check_nodes(nodes, level))
        addresses, parents = self._reader.children(heads)
        if not len(addresses):
            return []
        return [self._bounded(addresses, parents, keys, level, heads.counts)]

    def _check_marks(self, bodies: Offsets) -> None:
        """The chunk headers of pages in use."""
        good, allocated, heads = read_marks(self._gather, bodies)
        chunks = bodies - CHUNK_HEADER_BYTES
        self._add_where(
            "chunk-header",
            chunks,
            ~good,
            lambda place: f"starts with {heads[place].tobytes()[:5].hex(' ')}, expected 'CHK', 1, 0 or 1",
        )
        free = good & ~allocated
        self._add_where(
            "chunk-in-use-free", chunks, free, lambda _: "the map uses this chunk, its mark says it is free"
        )

    # Entries

    def _check_nodes(self, nodes: Nodes, level: _Level) -> _Keys:
        """Spans, pages and the order of keys; the keys."""
        if nodes.slots is None and not self._reading.is_known:
            return _Keys.none(len(nodes.members), self._columns, CAPACITY)
        spans = self._reader.spans(nodes, self._reading.width)
        self.facts.entry_bytes += int(np.where(spans.fits, spans.used_bytes, 0).sum())
        if nodes.overflow_pages:
            needed = self._reader.overflow_needed(spans.used_bytes)
            self._add_where(
                "overflow-surplus",
                nodes.addresses,
                spans.fits & (needed < nodes.overflow_pages),
                lambda place: f"{nodes.overflow_pages} overflow pages, {needed[place]} would do",
            )
        starts, sizes, keys = self._keys(nodes, spans)
        if self._compares:
            low, high = level.low.take(nodes.members), level.high.take(nodes.members)
            self._check_order(nodes, (starts, sizes), keys, low, high)
        return keys

    def _keys(self, nodes: Nodes, spans: Spans) -> tuple[Offsets, Offsets, _Keys]:
        """Starts, sizes and columns of the keys of nodes, each as (nodes, 11)."""
        used = nodes.places
        starts, sizes = np.zeros(used.shape, np.int64), np.zeros(used.shape, np.int64)
        starts[used] = spans.key_offsets
        sizes[used] = self._reading.width or 0 if spans.key_sizes is None else spans.key_sizes
        usable = used & spans.fits[:, None]
        sizes = np.where(usable, sizes, 0)
        width = 8 * self._columns
        data = _padded(nodes.flat, np.where(usable, starts, 0).reshape(-1), width)
        data[np.arange(width) >= sizes.reshape(-1)[:, None]] = 0
        columns = self._ordered(data, sizes.reshape(-1)).view(">u8").astype(np.uint64)
        return starts, sizes, _Keys(columns.reshape(*used.shape, self._columns), sizes, usable & self._compares)

    def _ordered(self, data: Array, sizes: Array) -> Array:
        """The bytes of keys so changed that they compare as the values do."""
        order, width = self._reading.order, self._reading.width or 0
        if "little" in order and 0 < width <= data.shape[1]:
            data[:, :width] = data[:, :width][:, ::-1].copy()
        if "signed" in order:
            data[sizes > 0, 0] ^= 0x80
        return data

    def _check_order(self, nodes: Nodes, spans: tuple[Offsets, Offsets], keys: _Keys, low: _Keys, high: _Keys) -> None:
        has = keys.has
        left = _Keys(keys.columns[:, :-1], keys.sizes[:, :-1], has[:, :-1])
        right = _Keys(keys.columns[:, 1:], keys.sizes[:, 1:], has[:, 1:])
        verdict, undecided = self._compare(left, right)
        both = left.has & right.has
        self._check_long_keys(nodes, spans, np.argwhere(both & undecided))
        rows, last = np.arange(len(nodes.members)), nodes.counts - 1
        first_key = _Keys(keys.columns[:, 0], keys.sizes[:, 0], has[:, 0])
        last_key = _Keys(keys.columns[rows, last], keys.sizes[rows, last], has[rows, last])
        low_verdict, low_open = self._compare(low, first_key)
        high_verdict, high_open = self._compare(last_key, high)
        low_both, high_both = low.has & first_key.has & ~low_open, high.has & last_key.has & ~high_open
        inner = both & ~undecided
        equal = (
            (inner & (verdict == 0)).any(axis=1) | (low_both & (low_verdict == 0)) | (high_both & (high_verdict == 0))
        )
        wrong = (inner & (verdict > 0)).any(axis=1) | (low_both & (low_verdict > 0)) | (high_both & (high_verdict > 0))
        self._add_where("key-duplicate", nodes.addresses, equal, lambda _: "a key of this node is there twice")
        code = "key-order" if self._reading.is_certain else "key-order-undeclared"
        self._add_where(
            code, nodes.addresses, wrong, lambda _: "keys of this node do not ascend, or not between its parent's"
        )

    def _compare(self, left: _Keys, right: _Keys) -> tuple[Array, Array]:
        """-1, 0 or 1, and whether the compared bytes do not tell."""
        by_size = np.sign(left.sizes - right.sizes)
        is_size_first = self._reading.order == "size"
        verdict = by_size if is_size_first else np.zeros_like(by_size)
        for column in range(self._columns):
            one, other = left.columns[..., column], right.columns[..., column]
            verdict = np.where(verdict == 0, (one > other).astype(np.int64) - (one < other), verdict)
        longer = np.minimum(left.sizes, right.sizes) > 8 * self._columns
        undecided = (verdict == 0) & longer
        return np.where((verdict == 0) & ~undecided, by_size, verdict), undecided

    def _check_long_keys(self, nodes: Nodes, spans: tuple[Offsets, Offsets], pairs: Offsets) -> None:
        """Neighbouring keys whose compared bytes are equal, byte by byte."""
        code = "key-order" if self._reading.is_certain else "key-order-undeclared"
        starts, sizes = spans
        for row, place in pairs.tolist():
            one, other = (
                nodes.flat[starts[row, at] : starts[row, at] + sizes[row, at]].tobytes() for at in (place, place + 1)
            )
            if one >= other and (self._reading.order != "size" or len(one) == len(other)):
                self._add("key-duplicate" if one == other else code, "two neighbouring keys", int(nodes.addresses[row]))

    @staticmethod
    def _bounded(addresses: Offsets, parents: Offsets, keys: _Keys, level: _Level, counts: Offsets) -> _Level:
        """The children with the keys between which theirs must lie."""
        firsts = np.flatnonzero(np.diff(parents, prepend=-1))
        places = np.arange(len(parents)) - np.repeat(firsts, np.diff(firsts, append=len(parents)))

        def bound(outer: _Keys, at: Offsets, is_outer: Mask) -> _Keys:
            safe = np.clip(at, 0, CAPACITY - 1)
            return _Keys(
                np.where(is_outer[:, None], outer.columns[parents], keys.columns[parents, safe]),
                np.where(is_outer, outer.sizes[parents], keys.sizes[parents, safe]),
                np.where(is_outer, outer.has[parents], keys.has[parents, safe]),
            )

        return _Level(
            addresses, bound(level.low, places - 1, places == 0), bound(level.high, places, places == counts[parents])
        )

    # Chunks

    def _check_chunks(self) -> None:
        free, is_whole = self._free_list()
        self.facts.free_chunks = max(0, len(free) - 1)
        in_use = self._noting.seen
        double = np.intersect1d(in_use, free)
        self._noting.refuse("chunk-double", double - CHUNK_HEADER_BYTES, lambda _: "in the tree, and in the free list")
        if not is_whole:
            return
        end = int(free[-1])
        beyond = in_use[in_use > end]
        if len(beyond):
            message = f"the list ends at a chunk before {len(beyond)} chunks in use"
            self._add("free-list-end", message, end - CHUNK_HEADER_BYTES)
        self._check_all_marks(np.sort(in_use), np.sort(free), end)

    def _free_list(self) -> tuple[Offsets, bool]:
        """Bodies of the chunks in the free list, the last never used; whether the list is whole."""
        bodies: dict[int, None] = {}
        for found in walk_free_list(self._region, self._header.allocator):
            if isinstance(found, Fault):
                self._add(*found)
                return np.array(list(bodies), np.int64), False
            bodies[found] = None
        return np.array(list(bodies), np.int64), True

    def _check_all_marks(self, in_use: Offsets, free: Offsets, end: int) -> None:
        """The mark of each chunk before `end`, against tree and free list."""
        stride = self._header.allocator.stride
        total = (end - FIRST_BODY_ADDRESS) // stride
        self.facts.chunks = total
        marked, bad_blocks, block = 0, 0, BLOCK_BYTES // CHUNK_HEADER_BYTES
        for start in range(0, total, block):
            bodies = FIRST_BODY_ADDRESS + stride * np.arange(start, min(start + block, total), dtype=np.int64)
            good, allocated, _ = read_marks(self._gather, bodies)
            used, chunks = np.isin(bodies, in_use, kind="sort"), bodies - CHUNK_HEADER_BYTES
            self._add_where("chunk-header", chunks, ~good & ~used, lambda _: "no chunk header, expected b'CHK'")
            marked += int(allocated.sum())
            leaked = allocated & ~used
            self.facts.leaked_chunks += int(leaked.sum())
            self._add_where("chunk-leak", chunks, leaked, lambda _: "marked as allocated, used by nothing")
            lost = good & ~allocated & ~used
            lost[lost] = ~np.isin(bodies[lost], free, kind="sort")
            self._add_where("chunk-lost", chunks, lost, lambda _: "free, but not in the free list")
            bad_blocks += not good.any()
            if bad_blocks >= _MAX_BAD_BLOCKS:
                return
        counted = self._header.allocator.allocated_chunks
        if counted != marked:
            message = f"{marked} chunks are marked as allocated, the header counts {counted}"
            self._add("chunk-count", message, ALLOCATED_CHUNKS_ADDRESS)


def _padded(flat: Bytes, offsets: Offsets, width: int) -> Bytes:
    """`width` bytes from each offset, one row each; zeros past the end of `flat`."""
    found = items(flat, f"V{width}")
    inside = offsets < len(found)
    if inside.all():
        return found[offsets].view(np.uint8).reshape(-1, width)
    rows = np.zeros((len(offsets), width), np.uint8)
    rows[inside] = found[offsets[inside]].view(np.uint8).reshape(-1, width)
    for place in np.flatnonzero(~inside).tolist():
        rest = flat[offsets[place] : offsets[place] + width]
        rows[place, : len(rest)] = rest
    return rows
