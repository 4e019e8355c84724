"""How nodes of a B-tree are read, many at a time, by arithmetic on arrays (extra ``columns``).

`nodes` does the same one at a time; no other module knows how a node is read. Columns, fsck and diff each walk a tree
level by level with a `NodeReader`:

```
addresses ─heads─▶ Heads ─children─▶ the next level's addresses
                     └─chains─▶ Chains ─nodes─▶ Nodes (whole runs of bytes) ─spans─▶ where keys and values are
```

Where children, keys and values start follows from the nodes' counts and, for variable sizes, from at most 11 rounds of
reading one length a node.

What is wrong is told to a `Judge`. `Strict` raises it. Another may note it; then whatever is wrong is left out of what
comes back, and nothing is read outside of the memory or outside of a node's own pages, whatever the bytes say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, final

import numpy as np

from perdure.errors import MalformedError
from perdure.stable.gather import BLOCK_BYTES, Bytes, Gather, Mask, Offsets, Rows, items, ramps
from perdure.stable.headers import MapHeader
from perdure.stable.layout import (
    CAPACITY,
    CHUNK_HEADER_BYTES,
    CHUNK_MAGIC,
    CHUNK_VERSION,
    FIRST_BODY_ADDRESS,
    NODE_HEADER,
    NODE_MAGIC,
    OVERFLOW_HEADER,
    OVERFLOW_MAGIC,
    U32,
    U64,
    V2_HEADER_BYTES,
    V1Slots,
)

__all__ = ["Chains", "Heads", "Judge", "NodeReader", "Nodes", "Spans", "Strict", "copy_leaves", "read_marks"]

_NODE: Final = np.dtype([("magic", "S3"), ("version", "u1"), ("kind", "u1"), ("count", "<u2"), ("link", "<u8")])
_OVERFLOW: Final = np.dtype([("magic", "S3"), ("next", "<u8")])
_CHUNK: Final = np.dtype([("magic", "S3"), ("version", "u1"), ("mark", "u1"), ("_", "V3"), ("next", "<u8")])
_MOST_CHILDREN_BYTES: Final = (CAPACITY + 1) * U64.size
_FEW_NODES: Final = 16
"""Overflow chains of so few nodes are followed one by one, of more in step."""

_BLOCK_NODES: Final = 1 << 12
"""Nodes whose lengths are read together: so few that they stay in the processor's caches."""

Message: TypeAlias = Callable[[int], str]
"""What is wrong, by place among the addresses it is said of."""


class Judge(Protocol):
    """What becomes of what is wrong."""

    def refuse(self, code: str, addresses: Offsets, message: Message) -> None:
        """Something is wrong at each of `addresses`, of which there is at least one."""
        ...

    def first_time(self, what: str, addresses: Offsets) -> Mask:
        """Which of the ``node`` or ``overflow`` pages are reached for the first time; the others are left out."""
        ...


@final
class Strict:
    """Raises at the first thing that is wrong; reads no more pages than `capacity`, so that no circle is endless."""

    def __init__(self, capacity: int) -> None:
        self._budget = capacity

    def refuse(self, code: str, addresses: Offsets, message: Message) -> None:
        """Raise `MalformedError`."""
        raise MalformedError(message(0), int(addresses[0]) % (1 << 64))

    def first_time(self, what: str, addresses: Offsets) -> Mask:
        """All of them, as long as there are not too many."""
        self._budget -= len(addresses)
        if self._budget < 0:
            raise MalformedError("a node or page is reached twice", int(addresses[0]))
        return np.ones(len(addresses), dtype=bool)


@final
@dataclass(frozen=True, eq=False)
class Heads:
    """What the heads of nodes say.

    Attributes:
        asked: places of these nodes among the addresses that were asked for.
        addresses: theirs.
        versions: 1 or 2.
        internal: whether they have children.
        counts: entries, 1 to 11.
        links: address of the first overflow page, 0 for none.
    """

    asked: Offsets
    addresses: Offsets
    versions: Offsets
    internal: Mask
    counts: Offsets
    links: Offsets

    def __len__(self) -> int:
        return len(self.addresses)


@final
@dataclass(frozen=True, eq=False)
class Chains:
    """Overflow pages in the order of their chains, sorted by the node they belong to (its place in the `Heads`)."""

    nodes: Offsets
    pages: Offsets

    def of(self, members: Offsets, pages_each: int) -> Offsets:
        """The pages of `members`, which have `pages_each` pages each: one row a node."""
        firsts = np.searchsorted(self.nodes, members)
        rows: Offsets = self.pages[firsts[:, None] + np.arange(pages_each)]
        return rows


@final
@dataclass(frozen=True, eq=False)
class Nodes:
    """Nodes of one version and number of pages, whole: where each begins in `flat`, how many bytes it can have.

    Attributes:
        members: their places in the `Heads`.
        addresses: of their first pages.
        flat: their bytes: the whole memory, or a copy where they have overflow pages or the memory lies in pieces.
        begins: where each begins in `flat`.
        limit: bytes of the pages of each, without the headers of overflow pages.
        counts: entries of each.
        internal: whether they have children.
        slots: of version 1; ``None`` for version 2.
        overflow_pages: of each.
    """

    members: Offsets
    addresses: Offsets
    flat: Bytes
    begins: Offsets
    limit: int
    counts: Offsets
    internal: Mask
    slots: V1Slots | None
    overflow_pages: int

    @property
    def places(self) -> Mask:
        """Which of 11 places of each node have an entry."""
        used: Mask = np.arange(CAPACITY) < self.counts[:, None]
        return used


@final
@dataclass(frozen=True, eq=False)
class Spans:
    """Where the keys and values of entries are in the `flat` of their nodes, node by node.

    Attributes:
        key_offsets: of each entry.
        key_sizes: ``None`` where all keys have the width that was asked for.
        value_offsets: of each entry.
        value_sizes: as `key_sizes`.
        used_bytes: of each node.
        fits: whether all of a node's entries lie within its own pages and slots; if not, its spans mean nothing.
    """

    key_offsets: Offsets
    key_sizes: Offsets | None
    value_offsets: Offsets
    value_sizes: Offsets | None
    used_bytes: Offsets
    fits: Mask


@final
class NodeReader:
    """Reads the nodes of one tree.

    Args:
        gather: its memory.
        header: the tree's, checked: its page size is sound.
        judge: who is told what is wrong.
    """

    def __init__(self, gather: Rows, header: MapHeader, judge: Judge) -> None:
        self.gather = gather
        self.header = header
        self.page_bytes = header.page_bytes
        self._stride = header.allocator.stride
        self._judge = judge

    def is_body(self, addresses: Offsets) -> Mask:
        """Which addresses can be those of a chunk's body that lies in the memory whole."""
        offsets = addresses - FIRST_BODY_ADDRESS
        found: Mask = (offsets >= 0) & (addresses <= self.gather.size_bytes - self.page_bytes)
        found &= offsets % self._stride == 0
        return found

    def heads(self, addresses: Offsets) -> Heads:
        """The nodes at `addresses`: those that can be read on."""
        asked = self._reachable("node", addresses)
        addresses = addresses[asked]
        heads = self.gather.rows(addresses, V2_HEADER_BYTES).view(_NODE)[:, 0]
        versions, kinds, counts = (heads[name].astype(np.int64) for name in ("version", "kind", "count"))
        sound = (heads["magic"] == NODE_MAGIC) & (kinds < 2)
        sound &= (versions == 2) | ((versions == 1) & (self.header.slots is not None))
        self._refuse(
            "node-header",
            addresses,
            ~sound,
            lambda place: f"starts with {heads[place].tobytes()[:5].hex(' ')}, expected 'BTN', 1 or 2, 0 or 1",
        )
        empty = sound & ((counts == 0) | (counts > CAPACITY))
        self._refuse("node-count", addresses, empty, lambda place: f"{counts[place]} entries, expected 1 to {CAPACITY}")
        links = np.where(versions == 2, heads["link"].astype(np.int64), 0)
        found = Heads(asked, addresses, versions, kinds == 1, counts, links)
        good = sound & ~empty
        return found if good.all() else _take(found, np.flatnonzero(good))

    def children(self, heads: Heads) -> tuple[Offsets, Offsets]:
        """The addresses of the children of all internal nodes, node by node, and the place of each one's parent."""
        inner = np.flatnonzero(heads.internal)
        counts, starts = heads.counts[inner], np.full(len(inner), V2_HEADER_BYTES)
        if self.header.slots is not None:
            in_slots = NODE_HEADER.size + counts * self.header.slots.entry_bytes
            starts = np.where(heads.versions[inner] == 2, starts, in_slots)
        # Only where the sizes of version 1 slots wrap around 32 bits.
        past = starts + _MOST_CHILDREN_BYTES > self.page_bytes
        self._refuse("node-past-pages", heads.addresses[inner], past, lambda _: "its children lie past its page")
        inner, starts, counts = inner[~past], starts[~past], counts[~past]
        rows = self.gather.rows(heads.addresses[inner] + starts, _MOST_CHILDREN_BYTES).view("<u8").astype(np.int64)
        return rows[np.arange(CAPACITY + 1) <= counts[:, None]], np.repeat(inner, counts + 1)

    def chains(self, heads: Heads) -> Chains:
        """The overflow pages of all nodes."""
        nodes, pages = [], []
        active = np.flatnonzero(heads.links)
        current = heads.links[active]
        while len(active) > _FEW_NODES:
            good, following = self.follow(current)
            nodes.append(active[good])
            pages.append(current[good])
            active, current = active[good][following != 0], following[following != 0]
        for node, page in zip(active.tolist(), current.tolist(), strict=True):
            chain = self._chain(page)
            nodes.append(np.full(len(chain), node))
            pages.append(chain)
        if not nodes:
            return Chains(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
        all_nodes, all_pages = np.concatenate(nodes), np.concatenate(pages)
        order = np.argsort(all_nodes, kind="stable")
        return Chains(all_nodes[order], all_pages[order])

    def follow(self, pages: Offsets) -> tuple[Offsets, Offsets]:
        """Of overflow pages, the places of those that are some, and the page after each of them, 0 for none."""
        good = self._reachable("overflow", pages)
        heads = self.gather.rows(pages[good], OVERFLOW_HEADER.size).view(_OVERFLOW)[:, 0]
        marked = heads["magic"] == OVERFLOW_MAGIC
        self._refuse("overflow-header", pages[good], ~marked, lambda _: "bad magic, expected 'NOF'")
        return good, np.where(marked, heads["next"].astype(np.int64), 0)

    def _chain(self, page: int) -> Offsets:
        """The pages of one node, from the first on."""
        chain: list[int] = []
        seen: set[int] = set()
        flat, unpack, stride = self.gather.flat, OVERFLOW_HEADER.unpack_from, self._stride
        data, last = None if flat is None else flat.data, self.gather.size_bytes - self.page_bytes
        while page not in seen and FIRST_BODY_ADDRESS <= page <= last and (page - FIRST_BODY_ADDRESS) % stride == 0:
            magic, following = unpack(data or self.gather.memory.read(page, OVERFLOW_HEADER.size), page if data else 0)
            if magic != OVERFLOW_MAGIC:
                break
            seen.add(page)
            chain.append(page)
            page = following
        found = np.array(chain, dtype=np.int64)
        good = self._judge.first_time("overflow", found)
        if not good.all():
            return found[: int(np.argmin(good))]
        if page in seen:
            self._judge.refuse("overflow-shared", np.array([page]), lambda _: "overflow pages run in a circle")
        elif page:  # what is wrong with it is told as of any other page
            rest, _ = self.follow(np.array([min(page, 1 << 62)], dtype=np.int64))
            found = np.concatenate([found, np.full(len(rest), page)])
        return found

    def nodes(self, heads: Heads, chains: Chains) -> Iterator[Nodes]:
        """The nodes in groups of one version and number of pages, copied where they have to be, in blocks."""
        overflow = np.bincount(chains.nodes, minlength=len(heads))
        kinds = 2 * overflow + heads.versions - 1
        for kind in np.unique(kinds).tolist():
            pages_each, is_packed = divmod(kind, 2)
            slots = None if is_packed else self.header.slots
            members = np.flatnonzero(kinds == kind)
            block = len(members)
            if pages_each or self.gather.flat is None:
                block = max(1, BLOCK_BYTES // (self.page_bytes * (pages_each + 1)))
            for start in range(0, len(members), block):
                part = members[start : start + block]
                flat, begins, limit = self._bytes(heads.addresses[part], chains.of(part, pages_each))
                counts, internal = heads.counts[part], heads.internal[part]
                yield Nodes(part, heads.addresses[part], flat, begins, limit, counts, internal, slots, pages_each)

    def _bytes(self, addresses: Offsets, pages: Offsets) -> tuple[Bytes, Offsets, int]:
        """The bytes of nodes with the same number of overflow pages, `pages` row by row; where each begins; of each."""
        count, pages_each = pages.shape
        if not pages_each and self.gather.flat is not None:
            return self.gather.flat, addresses, self.page_bytes
        capacity = self.page_bytes - OVERFLOW_HEADER.size
        size = self.page_bytes + pages_each * capacity
        runs = np.empty((count, size), dtype=np.uint8)
        runs[:, : self.page_bytes] = self.gather.rows(addresses, self.page_bytes)
        if pages_each:
            rows = self.gather.rows(pages.reshape(-1) + OVERFLOW_HEADER.size, capacity)
            runs[:, self.page_bytes :] = rows.reshape(count, -1)
        return runs.reshape(-1), size * np.arange(count, dtype=np.int64), size

    def spans(self, nodes: Nodes, key_bytes: int | None, value_bytes: int | None = None) -> Spans:
        """Where keys and values are.

        Args:
            nodes: of one kind.
            key_bytes: width of the keys of version 2 nodes; ``None`` where keys carry a length.
            value_bytes: width that the values have all; ``None`` where nobody knows. A value of another is refused.
        """
        spans = _v2_spans(nodes, key_bytes, value_bytes) if nodes.slots is None else _v1_spans(nodes, nodes.slots)
        if value_bytes is not None and spans.value_sizes is None:
            self._check_value_sizes(nodes, spans, value_bytes)
        code = "node-past-pages" if nodes.slots is None else "slot-overflow"
        self._refuse(code, nodes.addresses, ~spans.fits, lambda place: _past(nodes, spans, place))
        return spans

    def _check_value_sizes(self, nodes: Nodes, spans: Spans, value_bytes: int) -> None:
        offsets, addresses = spans.value_offsets - U32.size, nodes.addresses
        if not spans.fits.all():
            offsets = offsets[np.repeat(spans.fits, nodes.counts)]
        wrong = items(nodes.flat, "<u4")[offsets] != value_bytes
        if wrong.any():
            addresses = np.repeat(addresses, nodes.counts)[np.repeat(spans.fits, nodes.counts)]
            self._refuse("value-type", addresses, wrong, lambda _: f"a value of not {value_bytes} bytes")

    def overflow_needed(self, used_bytes: Offsets) -> Offsets:
        """The overflow pages that nodes of so many bytes need."""
        capacity = self.page_bytes - OVERFLOW_HEADER.size
        return np.maximum(0, -(-(used_bytes - self.page_bytes) // capacity))

    def _reachable(self, what: str, addresses: Offsets) -> Offsets:
        """The places of those addresses that are bodies, and not reached before."""
        good = self.is_body(addresses)
        self._refuse(
            f"{what}-address", addresses, ~good, lambda _: f"no chunk of the map is at this {_NAMES[what]}'s address"
        )
        places = np.flatnonzero(good)
        return places[self._judge.first_time(what, addresses[places])]

    def _refuse(self, code: str, addresses: Offsets, is_bad: Mask, message: Message) -> None:
        if is_bad.any():
            where = np.flatnonzero(is_bad)
            self._judge.refuse(code, addresses[where], lambda place: message(int(where[place])))


_NAMES: Final = {"node": "node", "overflow": "overflow page"}


def _take(heads: Heads, index: Offsets) -> Heads:
    return Heads(
        heads.asked[index],
        heads.addresses[index],
        heads.versions[index],
        heads.internal[index],
        heads.counts[index],
        heads.links[index],
    )


def _past(nodes: Nodes, spans: Spans, place: int) -> str:
    first = int(nodes.counts[:place].sum())
    own = slice(first, first + int(nodes.counts[place]))
    sizes = ("keys", spans.key_sizes), ("values", spans.value_sizes)
    most = " and ".join(f"{what} of up to {found[own].max()}" for what, found in sizes if found is not None)
    return f"{most or 'entries'} bytes do not fit into its {nodes.limit}"


def _v1_spans(nodes: Nodes, slots: V1Slots) -> Spans:
    counts = nodes.counts
    used_bytes = NODE_HEADER.size + counts * slots.entry_bytes + _children_bytes(nodes)
    fits = used_bytes <= nodes.limit
    starts = ramps(nodes.begins + NODE_HEADER.size, counts, slots.entry_bytes)
    if not fits.all():
        starts = np.where(np.repeat(fits, counts), starts, 0)
    lengths = items(nodes.flat, "<u4")
    key_sizes = lengths[starts].astype(np.int64)
    value_starts = starts + U32.size + slots.key_bytes
    if not fits.all():
        value_starts = np.minimum(value_starts, len(lengths) - 1)
    value_sizes = lengths[value_starts].astype(np.int64)
    over = (key_sizes > slots.key_bytes) | (value_sizes > slots.value_bytes)
    if over.any():
        fits[np.repeat(np.arange(len(counts)), counts)[over]] = False
    return Spans(starts + U32.size, key_sizes, value_starts + U32.size, value_sizes, used_bytes, fits)


def _v2_spans(nodes: Nodes, key_bytes: int | None, value_bytes: int | None) -> Spans:
    counts, ends = nodes.counts, nodes.begins + nodes.limit
    offsets = nodes.begins + V2_HEADER_BYTES + _children_bytes(nodes)
    fits = np.ones(len(counts), dtype=bool)
    key_sizes: Offsets | None = None
    value_sizes: Offsets | None = None
    if key_bytes is None:
        key_offsets, key_sizes, offsets = _read_lengths(nodes, offsets, ends, fits)
    else:
        key_offsets = ramps(offsets, counts, key_bytes)
        offsets = offsets + counts * key_bytes
    if value_bytes is None:
        value_offsets, value_sizes, offsets = _read_lengths(nodes, offsets, ends, fits)
    else:
        value_offsets = ramps(offsets + U32.size, counts, U32.size + value_bytes)
        offsets = offsets + counts * (U32.size + value_bytes)
        fits &= offsets <= ends
    return Spans(key_offsets, key_sizes, value_offsets, value_sizes, offsets - nodes.begins, fits)


def _children_bytes(nodes: Nodes) -> Offsets:
    return np.where(nodes.internal, U64.size * (nodes.counts + 1), 0)


def _read_lengths(nodes: Nodes, offsets: Offsets, ends: Offsets, fits: Mask) -> tuple[Offsets, Offsets, Offsets]:
    """Offsets and sizes of length-prefixed items, node by node, and where they end.

    Nodes whose items reach past their end are marked in `fits`, and read no further.
    """
    lengths, counts, shape = items(nodes.flat, "<u4"), nodes.counts, (len(nodes.counts), CAPACITY)
    where, sizes = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    offsets = offsets.copy()
    for low in range(0, len(counts), _BLOCK_NODES):
        active = low + np.flatnonzero(fits[low : low + _BLOCK_NODES])
        for index in range(CAPACITY):
            active = active[counts[active] > index]
            here, end = offsets[active], ends[active]
            past = here + U32.size > end
            if past.any():
                fits[active[past]] = False
                active, here, end = active[~past], here[~past], end[~past]
            size = lengths[here].astype(np.int64)
            where[active, index], sizes[active, index] = here + U32.size, size
            offsets[active] = after = here + U32.size + size
            past = after > end
            if past.any():
                fits[active[past]] = False
                active = active[~past]
    used = nodes.places
    return where[used], sizes[used], offsets


def copy_leaves(
    nodes: Nodes, chosen: Offsets, sizes: tuple[int, int], starts: Offsets, columns: tuple[Bytes, Bytes]
) -> None:
    """Copy the entries of packed leaves, all with as many, to their places in a column of keys and one of values.

    Args:
        nodes: of version 2, without children.
        chosen: places of the leaves; all have the same number of entries.
        sizes: bytes of every key and of every value.
        starts: places in the columns of the first entry of each leaf.
        columns: all keys, all values.

    Raises:
        MalformedError: the entries do not fit into the pages, or a value has another size.
    """
    (key_bytes, value_bytes), (keys, values) = sizes, columns
    begins, count = nodes.begins[chosen], int(nodes.counts[chosen[0]])
    entry = np.dtype([("size", "<u4"), ("value", f"V{value_bytes}")])
    values_begin = V2_HEADER_BYTES + count * key_bytes
    if values_begin + count * entry.itemsize > nodes.limit:
        raise MalformedError("a node exceeds its pages", int(nodes.addresses[chosen[0]]))
    run = f"V{count * key_bytes}"
    items(keys, run)[starts * key_bytes] = items(nodes.flat, run)[begins + V2_HEADER_BYTES]
    entries = items(nodes.flat, f"V{count * entry.itemsize}")[begins + values_begin].view(entry)
    wrong = (entries["size"] != value_bytes).reshape(-1, count).any(axis=1)
    if wrong.any():
        address = int(nodes.addresses[chosen[int(np.argmax(wrong))]])
        raise MalformedError(f"a value of not {value_bytes} bytes", address)
    run = f"V{count * value_bytes}"
    items(values, run)[starts * value_bytes] = np.ascontiguousarray(entries["value"]).view(run)


def read_marks(gather: Gather, bodies: Offsets) -> tuple[Mask, Mask, Bytes]:
    """Of the chunks with these bodies: which headers are some, which say that they are allocated, and their bytes."""
    rows = gather.rows(bodies - CHUNK_HEADER_BYTES, CHUNK_HEADER_BYTES)
    heads = rows.view(_CHUNK)[:, 0]
    good: Mask = (heads["magic"] == CHUNK_MAGIC) & (heads["version"] == CHUNK_VERSION)
    return good & (heads["mark"] < 2), good & (heads["mark"] == 1), rows
