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
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from perdure.inspection.codec import Codec
from perdure.inspection.findings import Findings
from perdure.inspection.gather import BLOCK_BYTES, Gather, items
from perdure.inspection.region import Region
from perdure.stable.btree import MAX_DEPTH, MapHeader
from perdure.stable.chunks import CHUNK_HEADER, CHUNK_HEADER_BYTES, FIRST_CHUNK_ADDRESS
from perdure.stable.nodes import CAPACITY, NODE_HEADER, OVERFLOW_HEADER, V2_HEADER_BYTES, V1Slots

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

__all__ = ["KeyReading", "TreeFacts", "check_tree", "key_reading"]

COMPARED_BYTES: Final = 64
"""Keys are compared by so many bytes; a difference beyond is looked for only between neighbours in one node."""

MIN_OTHER_ENTRIES: Final = 5
_FIRST_BODY: Final = FIRST_CHUNK_ADDRESS + CHUNK_HEADER_BYTES
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


def key_reading(codec: Codec, width: int | None, is_known: bool) -> KeyReading:
    """The reading of keys of a codec."""
    name = codec.name
    order = "bytes" if codec.order is None else "other"
    if name.lower() == "principal":
        order = "size"
    elif name[:1] in "ui" and name[1:].removesuffix("le").isdecimal():
        signs = [part for part, is_so in (("little", name.endswith("le")), ("signed", name[0] == "i")) if is_so]
        order = "-".join(signs) or "bytes"
    return KeyReading(width, is_known, order, codec.is_ordered)


@final
@dataclass
class _Keys:
    """Keys as columns: most significant first, zero-padded, and their sizes. `has` is false where there is none."""

    columns: Array
    sizes: Array
    has: Array

    def take(self, index: Array) -> _Keys:
        return _Keys(self.columns[index], self.sizes[index], self.has[index])

    @classmethod
    def none(cls, count: int, columns: int) -> _Keys:
        return cls(np.zeros((count, columns), np.uint64), np.zeros(count, np.int64), np.zeros(count, bool))

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

    addresses: Array
    low: _Keys
    high: _Keys


@final
@dataclass
class _Group:
    """Nodes of one version and number of pages, each as one row of bytes."""

    members: Array
    addresses: Array
    rows: Array
    counts: Array
    internal: Array
    version: int
    extra_pages: int
    page_bytes: int
    flat: Array = field(init=False)

    def __post_init__(self) -> None:
        padding = np.zeros(max(8, COMPARED_BYTES), np.uint8)
        self.flat = np.concatenate([self.rows.reshape(-1), padding])

    def numbers(self, offsets: Array, dtype: str) -> npt.NDArray[np.int64]:
        """The numbers at an offset of each row; 0 past its end."""
        width = self.rows.shape[1]
        size = np.dtype(dtype).itemsize
        fits = (offsets >= 0) & (offsets + size <= width)
        base = np.arange(len(self.rows), dtype=np.int64) * width
        found: npt.NDArray[np.int64] = items(self.flat, dtype)[base + np.where(fits, offsets, 0)].astype(np.int64)
        return np.where(fits, found, 0)


@final
@dataclass
class _Spans:
    """Where the keys and values of a group's nodes are; `end` is past the last, `fits` whether all lie in the pages."""

    key_starts: Array
    key_sizes: Array
    value_sizes: Array
    end: Array
    fits: Array


def check_tree(region: Region, header: MapHeader, reading: KeyReading, findings: Findings) -> TreeFacts:
    """Check the tree and its allocator."""
    return _TreeCheck(region, header, reading, findings).run()


@final
class _TreeCheck:
    def __init__(self, region: Region, header: MapHeader, reading: KeyReading, findings: Findings) -> None:
        self._region = region
        self._gather = Gather(region)
        self._header = header
        self._page_bytes = header.page_bytes
        self._stride = header.page_bytes + CHUNK_HEADER_BYTES
        self._reading = reading
        self._findings = findings
        self._compared = COMPARED_BYTES if reading.width is None else min(COMPARED_BYTES, reading.width)
        if header.slots is not None:
            self._compared = min(COMPARED_BYTES, header.slots.key_bytes)
        self._columns = max(1, -(-self._compared // 8))
        self._seen = np.zeros(0, np.int64)
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
            level = self._read_level(self._unseen(level, "node"))
        if self.facts.entries != self._header.length:
            self._add("entry-count", f"{self.facts.entries} entries, the header counts {self._header.length}", 20)
        if len(self._leaf_levels) > 1:
            self._add("leaf-depth", f"leaves on levels {sorted(self._leaf_levels)}, expected one")
        self._check_chunks()
        return self.facts

    def _add(self, code: str, message: str, address: int | None = None) -> None:
        self._findings.add_in(self._region, code, message, address)

    def _add_all(self, code: str, addresses: Array, message: Callable[[int], str]) -> None:
        """A finding for each address, by its place."""
        for place, address in enumerate(addresses[:64].tolist()):
            self._add(code, message(place), address)
        self._findings.skip(code, len(addresses) - 64)

    def _is_body(self, addresses: Array) -> Array:
        """Which addresses can be those of a chunk's body that lies in the memory whole."""
        offsets = addresses - _FIRST_BODY
        inside = (offsets >= 0) & (addresses <= self._region.size_bytes - self._page_bytes)
        found: Array = inside & (offsets % self._stride == 0)
        return found

    def _unseen(self, level: _Level, what: str) -> _Level:
        """The nodes that can be read and were not yet; the others are findings."""
        addresses = level.addresses
        good = self._is_body(addresses)
        self._add_all(f"{what}-address", addresses[~good], lambda _: f"no chunk of the map is at this {what}'s address")
        good &= self._first_time(addresses, good, what)
        index = np.flatnonzero(good)
        return _Level(addresses[index], level.low.take(index), level.high.take(index))

    def _first_time(self, addresses: Array, good: Array, what: str) -> Array:
        """Which of the good addresses were not seen before, neither here nor earlier; marks them as seen."""
        _, first = np.unique(addresses, return_index=True)
        fresh = np.zeros(len(addresses), bool)
        fresh[first] = True
        fresh &= ~np.isin(addresses, self._seen, kind="sort")
        twice = good & ~fresh
        self._add_all(f"{what}-shared", addresses[twice], lambda _: f"the {what} is reached twice")
        self._seen = np.concatenate([self._seen, addresses[good & fresh]])
        return fresh

    # Levels

    def _read_level(self, level: _Level) -> _Level:
        block = max(1, BLOCK_BYTES // self._page_bytes)
        following = []
        for start in range(0, len(level.addresses), block):
            part = np.arange(start, min(start + block, len(level.addresses)))
            following += self._read_block(
                _Level(level.addresses[part], level.low.take(part), level.high.take(part)),
            )
        self.facts.depth += bool(len(level.addresses))
        if not following:
            empty = _Keys.none(0, self._columns)
            return _Level(np.zeros(0, np.int64), empty, empty)
        return _Level(
            np.concatenate([part.addresses for part in following]),
            _Keys.join([part.low for part in following]),
            _Keys.join([part.high for part in following]),
        )

    def _read_block(self, level: _Level) -> list[_Level]:
        pages = self._gather.rows(level.addresses, self._page_bytes)
        good, counts = self._check_heads(level.addresses, pages)
        index = np.flatnonzero(good)
        level = _Level(level.addresses[index], level.low.take(index), level.high.take(index))
        pages, counts = pages[index], counts[index]
        versions, internal = pages[:, 3], pages[:, 4] == 1
        self.facts.entries += int(counts.sum())
        self.facts.nodes_v1 += int((versions == 1).sum())
        self.facts.nodes_v2 += int((versions == 2).sum())
        if not internal.all():
            self._leaf_levels.add(self.facts.depth)
        links = np.where(versions == 2, np.ascontiguousarray(pages[:, 7:15]).view("<i8")[:, 0], 0)
        chains = self._chains(links)
        lengths = np.array([len(chain) for chain in chains], np.int64) if chains else np.zeros(len(index), np.int64)
        self.facts.overflow_pages += int(lengths.sum())
        following: list[_Level] = []
        for kind in np.unique(lengths * 4 + versions).tolist():
            members = np.flatnonzero(lengths * 4 + versions == kind)
            extra = kind // 4
            step = max(1, BLOCK_BYTES // (self._page_bytes * (extra + 1)))
            for start in range(0, len(members), step):
                part = members[start : start + step]
                rows = self._whole_rows(pages[part], [chains[member] for member in part.tolist()] if extra else [])
                group = _Group(
                    part, level.addresses[part], rows, counts[part], internal[part], kind % 4, extra, self._page_bytes
                )
                following += self._check_group(group, level)
        return following

    def _check_heads(self, addresses: Array, pages: Array) -> tuple[Array, Array]:
        """Which nodes can be read on, and their numbers of entries."""
        magic = (pages[:, :3] == np.frombuffer(b"BTN", np.uint8)).all(axis=1)
        versions, kinds = pages[:, 3], pages[:, 4]
        known = (versions == 2) | ((versions == 1) & (self._header.slots is not None))
        counts = pages[:, 5].astype(np.int64) | pages[:, 6].astype(np.int64) << 8
        sound = magic & known & (kinds < 2)
        bad = np.flatnonzero(~sound)
        self._add_all(
            "node-header",
            addresses[bad],
            lambda place: f"starts with {pages[bad[place], :5].tobytes().hex(' ')}, expected 'BTN', 1 or 2, 0 or 1",
        )
        empty = sound & ((counts == 0) | (counts > CAPACITY))
        where = np.flatnonzero(empty)
        self._add_all(
            "node-count", addresses[where], lambda place: f"{counts[where[place]]} entries, expected 1 to {CAPACITY}"
        )
        few = np.flatnonzero(sound & ~empty & (counts < MIN_OTHER_ENTRIES) & (addresses != self._header.root))
        self._add_all("node-underfull", addresses[few], lambda place: f"{counts[few[place]]} entries, expected 5 to 11")
        self._check_marks(addresses)
        return sound & ~empty, counts

    def _check_marks(self, addresses: Array) -> None:
        """The chunk headers of pages in use."""
        heads = self._gather.rows(addresses - CHUNK_HEADER_BYTES, CHUNK_HEADER_BYTES)
        good = (heads[:, :4] == np.frombuffer(b"CHK\x01", np.uint8)).all(axis=1) & (heads[:, 4] < 2)
        bad = np.flatnonzero(~good)
        self._add_all(
            "chunk-header",
            addresses[bad] - CHUNK_HEADER_BYTES,
            lambda place: f"starts with {heads[bad[place], :5].tobytes().hex(' ')}, expected 'CHK', 1, 0 or 1",
        )
        free = addresses[good & (heads[:, 4] == 0)] - CHUNK_HEADER_BYTES
        self._add_all("chunk-in-use-free", free, lambda _: "the map uses this chunk, its mark says it is free")

    # Overflow pages

    def _chains(self, links: Array) -> list[list[int]]:
        """The overflow pages of each node, given its link to the first. All chains are followed in step."""
        if not links.any():
            return []
        chains: list[list[int]] = [[] for _ in range(len(links))]
        active, current = np.flatnonzero(links), links[links != 0]
        while len(active):
            good = self._is_body(current)
            self._add_all("overflow-address", current[~good], lambda _: "no chunk of the map is at this page's address")
            good &= self._first_time(current, good, "overflow")
            active, current = active[good], current[good]
            heads = self._gather.rows(current, OVERFLOW_HEADER.size)
            magic = (heads[:, :3] == np.frombuffer(b"NOF", np.uint8)).all(axis=1)
            self._add_all("overflow-header", current[~magic], lambda _: "an overflow page does not start with 'NOF'")
            self._check_marks(current)
            for node, page in zip(active.tolist(), current.tolist(), strict=True):
                chains[node].append(page)
            following = np.ascontiguousarray(heads[:, 3:]).view("<i8")[:, 0]
            goes_on = magic & (following != 0)
            active, current = active[goes_on], following[goes_on]
        return chains

    def _whole_rows(self, pages: Array, chains: list[list[int]]) -> Array:
        if not chains:
            return pages
        addresses = np.array(chains, np.int64)
        rests = [
            self._gather.rows(addresses[:, place], self._page_bytes)[:, OVERFLOW_HEADER.size :]
            for place in range(addresses.shape[1])
        ]
        return np.concatenate([pages, *rests], axis=1)

    # Entries

    def _check_group(self, group: _Group, level: _Level) -> list[_Level]:
        spans = self._spans(group)
        children = self._children(group)
        if spans is None:
            if children is None:
                return []
            none = _Keys.none(len(children[0]), self._columns)
            return [_Level(children[0], none, none)]
        self._check_spans(group, spans)
        keys = self._keys(group, spans)
        low, high = level.low.take(group.members), level.high.take(group.members)
        if self._compares:
            self._check_order(group, spans, keys, low, high)
        if children is None:
            return []
        return [self._bounded(children, keys, low, high, group)]

    def _children(self, group: _Group) -> tuple[Array, Array, Array] | None:
        """Addresses of all children, the row and the place of each."""
        if not group.internal.any():
            return None
        starts = np.full(len(group.rows), V2_HEADER_BYTES, np.int64)
        if group.version == 1:
            starts = NODE_HEADER.size + group.counts * self._slot_bytes
        found, rows, places = [], [], []
        for place in range(CAPACITY + 1):
            members = np.flatnonzero(group.internal & (group.counts >= place))
            found.append(group.numbers(starts + 8 * place, "<i8")[members])
            rows.append(members)
            places.append(np.full(len(members), place))
        return np.concatenate(found), np.concatenate(rows), np.concatenate(places)

    @property
    def _slot_bytes(self) -> int:
        slots = self._header.slots or V1Slots(0, 0)
        return 8 + slots.key_bytes + slots.value_bytes

    def _spans(self, group: _Group) -> _Spans | None:
        """Where keys and values are; ``None`` where nobody knows whether keys carry a length."""
        if group.version == 1:
            return self._v1_spans(group)
        return self._v2_spans(group) if self._reading.is_known else None

    def _v1_spans(self, group: _Group) -> _Spans:
        slots = self._header.slots or V1Slots(0, 0)
        count = len(group.rows)
        starts = np.zeros((count, CAPACITY), np.int64)
        key_sizes, value_sizes = np.zeros_like(starts), np.zeros_like(starts)
        for place in range(CAPACITY):
            used = group.counts > place
            offset = np.full(count, NODE_HEADER.size + place * self._slot_bytes, np.int64)
            starts[:, place] = offset + 4
            key_sizes[:, place] = np.where(used, group.numbers(offset, "<u4"), 0)
            value_sizes[:, place] = np.where(used, group.numbers(offset + 4 + slots.key_bytes, "<u4"), 0)
        fits = ((key_sizes <= slots.key_bytes) & (value_sizes <= slots.value_bytes)).all(axis=1)
        end = NODE_HEADER.size + group.counts * self._slot_bytes + np.where(group.internal, 8 * group.counts + 8, 0)
        fits &= end <= group.rows.shape[1]
        return _Spans(starts, np.minimum(key_sizes, slots.key_bytes), value_sizes, end, fits)

    def _v2_spans(self, group: _Group) -> _Spans:
        count, limit = group.rows.shape
        offset = V2_HEADER_BYTES + np.where(group.internal, 8 * group.counts + 8, 0)
        starts = np.zeros((count, CAPACITY), np.int64)
        key_sizes, value_sizes = np.zeros_like(starts), np.zeros_like(starts)
        width = self._reading.width
        for place in range(CAPACITY):
            used = group.counts > place
            size = np.full(count, width or 0, np.int64)
            if width is None:
                size, offset = group.numbers(offset, "<u4"), np.where(used, offset + 4, offset)
            starts[:, place], key_sizes[:, place] = offset, np.where(used, size, 0)
            offset = np.minimum(offset + key_sizes[:, place], limit + 1)
        for place in range(CAPACITY):
            used = group.counts > place
            value_sizes[:, place] = np.where(used, group.numbers(offset, "<u4"), 0)
            offset = np.minimum(np.where(used, offset + 4 + value_sizes[:, place], offset), limit + 1)
        fits: Array = np.asarray(offset <= limit)
        return _Spans(starts, key_sizes, value_sizes, offset, fits)

    def _check_spans(self, group: _Group, spans: _Spans) -> None:
        bad = np.flatnonzero(~spans.fits)
        code = "slot-overflow" if group.version == 1 else "node-past-pages"
        self._add_all(
            code,
            group.addresses[bad],
            lambda place: (
                f"keys of up to {spans.key_sizes[bad[place]].max()} and values of up to "
                f"{spans.value_sizes[bad[place]].max()} bytes do not fit into its {group.rows.shape[1]}"
            ),
        )
        self.facts.entry_bytes += int(np.where(spans.fits, spans.end, 0).sum())
        capacity = self._page_bytes - OVERFLOW_HEADER.size
        needed = np.maximum(0, -(-(spans.end - self._page_bytes) // capacity))
        surplus = np.flatnonzero(spans.fits & (needed < group.extra_pages) & (group.version == 2))
        self._add_all(
            "overflow-surplus",
            group.addresses[surplus],
            lambda place: f"{group.extra_pages} overflow pages, {needed[surplus[place]]} would do",
        )

    def _keys(self, group: _Group, spans: _Spans) -> _Keys:
        """Keys of a group: columns (nodes, 11, columns)."""
        count, width = group.rows.shape
        size = 8 * self._columns
        base = np.arange(count, dtype=np.int64)[:, None] * width
        usable = (np.arange(CAPACITY) < group.counts[:, None]) & spans.fits[:, None]
        offsets = np.where(usable, base + spans.key_starts, 0).reshape(-1)
        flat = group.flat
        data = items(flat, f"V{size}")[np.minimum(offsets, len(flat) - size)].view(np.uint8).reshape(-1, size).copy()
        sizes = np.where(usable, spans.key_sizes, 0).reshape(-1)
        data[np.arange(size) >= sizes[:, None]] = 0
        columns = self._ordered(data, sizes).view(">u8").astype(np.uint64)
        return _Keys(
            columns.reshape(count, CAPACITY, self._columns), sizes.reshape(count, CAPACITY), usable & self._compares
        )

    def _ordered(self, data: Array, sizes: Array) -> Array:
        """The bytes of keys so changed that they compare as the values do."""
        order, width = self._reading.order, self._reading.width or 0
        if "little" in order and 0 < width <= data.shape[1]:
            data[:, :width] = data[:, :width][:, ::-1].copy()
        if "signed" in order:
            data[sizes > 0, 0] ^= 0x80
        return data

    def _check_order(self, group: _Group, spans: _Spans, keys: _Keys, low: _Keys, high: _Keys) -> None:
        has = keys.has
        left = _Keys(keys.columns[:, :-1], keys.sizes[:, :-1], has[:, :-1])
        right = _Keys(keys.columns[:, 1:], keys.sizes[:, 1:], has[:, 1:])
        verdict, undecided = self._compare(left, right)
        both = left.has & right.has
        self._check_long_keys(group, spans, np.argwhere(both & undecided))
        rows = np.arange(len(group.rows))
        last = np.maximum(group.counts - 1, 0)
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
        self._add_all("key-duplicate", group.addresses[equal], lambda _: "a key of this node is there twice")
        code = "key-order" if self._reading.is_certain else "key-order-undeclared"
        self._add_all(
            code, group.addresses[wrong], lambda _: "keys of this node do not ascend, or not between its parent's"
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

    def _check_long_keys(self, group: _Group, spans: _Spans, pairs: Array) -> None:
        """Neighbouring keys whose compared bytes are equal, byte by byte."""
        code = "key-order" if self._reading.is_certain else "key-order-undeclared"
        for row, place in pairs.tolist():
            one, other = (
                group.rows[
                    row, spans.key_starts[row, at] : spans.key_starts[row, at] + spans.key_sizes[row, at]
                ].tobytes()
                for at in (place, place + 1)
            )
            if one >= other and (self._reading.order != "size" or len(one) == len(other)):
                self._add("key-duplicate" if one == other else code, "two neighbouring keys", int(group.addresses[row]))

    def _bounded(
        self, children: tuple[Array, Array, Array], keys: _Keys, low: _Keys, high: _Keys, group: _Group
    ) -> _Level:
        """The children with the keys between which theirs must lie."""
        addresses, rows, places = children

        def bound(outer: _Keys, at: Array, is_outer: Array) -> _Keys:
            safe = np.clip(at, 0, CAPACITY - 1)
            return _Keys(
                np.where(is_outer[:, None], outer.columns[rows], keys.columns[rows, safe]),
                np.where(is_outer, outer.sizes[rows], keys.sizes[rows, safe]),
                np.where(is_outer, outer.has[rows], keys.has[rows, safe]),
            )

        return _Level(
            addresses,
            bound(low, places - 1, places == 0),
            bound(high, places, places == group.counts[rows]),
        )

    # Chunks

    def _check_chunks(self) -> None:
        free, end = self._free_list()
        self.facts.free_chunks = max(0, len(free) - 1)
        in_use = self._seen
        double = np.intersect1d(in_use, np.array(free, np.int64))
        self._add_all("chunk-double", double - CHUNK_HEADER_BYTES, lambda _: "in the tree, and in the free list")
        if end is None:
            return
        beyond = in_use[in_use > end]
        if len(beyond):
            self._add(
                "free-list-end",
                f"the list ends at a chunk before {len(beyond)} chunks in use",
                end - CHUNK_HEADER_BYTES,
            )
        self._check_all_marks(np.sort(in_use), np.array(sorted(free), np.int64), end)

    def _free_list(self) -> tuple[list[int], int | None]:
        """Bodies of the chunks in the free list, and that of the last, never used; ``None`` if the list is broken."""
        chunk = self._header.allocator.free_head
        found: list[int] = []
        seen: set[int] = set()
        while True:
            body = chunk + CHUNK_HEADER_BYTES
            offset = chunk - FIRST_CHUNK_ADDRESS
            if offset < 0 or offset % self._stride or body > self._region.size_bytes:
                self._add("free-list-address", "the free list leads to where no chunk starts", chunk)
                return found, None
            if body in seen:
                self._add("free-list-circle", f"the free list runs in a circle after {len(found)} chunks", chunk)
                return found, None
            magic, version, allocated, following = CHUNK_HEADER.unpack(self._region.read(chunk, CHUNK_HEADER_BYTES))
            if magic != b"CHK" or version != 1 or allocated > 1:
                self._add("chunk-header", f"bad magic {magic!r} of a free chunk, expected b'CHK'", chunk)
                return found, None
            if allocated:
                self._add("free-list-allocated", "in the free list, but marked as allocated", chunk)
                return found, None
            seen.add(body)
            found.append(body)
            if not following:
                return found, body
            chunk = following

    def _check_all_marks(self, in_use: Array, free: Array, end: int) -> None:
        """The mark of each chunk before `end`, against tree and free list."""
        total = (end - _FIRST_BODY) // self._stride
        self.facts.chunks = total
        marked, bad_blocks, block = 0, 0, BLOCK_BYTES // CHUNK_HEADER_BYTES
        for start in range(0, total, block):
            bodies = _FIRST_BODY + self._stride * np.arange(start, min(start + block, total), dtype=np.int64)
            heads = self._gather.rows(bodies - CHUNK_HEADER_BYTES, CHUNK_HEADER_BYTES)
            good = (heads[:, :4] == np.frombuffer(b"CHK\x01", np.uint8)).all(axis=1)
            used = np.isin(bodies, in_use, kind="sort")
            bad = bodies[~good & ~used]
            self._add_all("chunk-header", bad - CHUNK_HEADER_BYTES, lambda _: "no chunk header, expected b'CHK'")
            allocated = good & (heads[:, 4] == 1)
            marked += int(allocated.sum())
            leaked = bodies[allocated & ~used]
            self.facts.leaked_chunks += len(leaked)
            self._add_all("chunk-leak", leaked - CHUNK_HEADER_BYTES, lambda _: "marked as allocated, used by nothing")
            lost = bodies[good & ~allocated & ~used & ~np.isin(bodies, free, kind="sort")]
            self._add_all("chunk-lost", lost - CHUNK_HEADER_BYTES, lambda _: "free, but not in the free list")
            bad_blocks += not good.any()
            if bad_blocks >= _MAX_BAD_BLOCKS:
                return
        counted = self._header.allocator.allocated_chunks
        if counted != marked:
            self._add("chunk-count", f"{marked} chunks are marked as allocated, the header counts {counted}", 68)
