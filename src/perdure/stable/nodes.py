"""Nodes of a BTreeMap: fixed slots (version 1) and packed entries over a chain of pages (version 2).

```
version 1, at most 7 + 11 * (8 + K + V) + 96 bytes      version 2, as one run of bytes over its pages
offset  size                                            offset  size
     0     3  magic "BTN"                                    0     3  magic "BTN"
     3     1  version = 1                                    3     1  version = 2
     4     1  0 leaf, 1 internal                             4     1  0 leaf, 1 internal
     5     2  entries n, u16                                 5     2  entries n, u16
     7        n times:                                       7     8  first overflow page, 0 for none
           4    key length                                  15        internal only: n + 1 children, u64 each
           K    key slot                                              n keys: [u32 length unless fixed] key
           4    value length                                          n values: u32 length, value
           V    value slot
              internal only: n + 1 children, u64 each   overflow page, P bytes
                                                             0     3  magic "NOF"
                                                             3     8  next overflow page, 0 for none
                                                            11 P - 11 the next bytes of the node
```

Integers are little-endian, addresses are those of chunk bodies. K and V are the maximum sizes in the header of a map
born with version 1. The first P bytes of a version 2 node are in its own chunk. Bytes that are not in use keep what was
there before. Whether keys have a length is known to the program alone: it is the type that is fixed or not.

Spec: ``src/btreemap/node/{v1,v2,io}.rs`` of ic-stable-structures 0.7.2.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, final

from perdure.errors import MalformedError
from perdure.memory import WASM_PAGE_BYTES, Memory
from perdure.stable.access import read_exact, write_growing
from perdure.stable.chunks import MAX_RUN_BYTES, ChunkAllocator, neighbours
from perdure.stable.headers import MapHeader
from perdure.stable.layout import (
    CAPACITY,
    MIN_ENTRIES,
    MIN_PAGE_BYTES,
    NODE_HEADER,
    NODE_MAGIC,
    OVERFLOW_HEADER,
    OVERFLOW_MAGIC,
    U32,
    U64,
    V2_HEADER_BYTES,
    V1Slots,
)

__all__ = ["Node", "NodeStore", "RawNode", "read_raw"]

_CHILDREN: Final = [struct.Struct(f"<{count}Q") for count in range(CAPACITY + 2)]
_WHOLE_PAGE_BYTES: Final = 16_384
"""Of a larger first page, only so much is read at once."""


@final
class Node:
    """A node in hand. Keys are read at once, values when asked for; `NodeStore.save` writes it back.

    Attributes:
        address: of the chunk's body.
        version: 1 or 2; a node keeps it for life.
        keys: encoded keys, ascending.
        children: addresses, one more than keys; empty in a leaf.
    """

    __slots__ = ("_overflow", "_run", "_spans", "_values", "_values_offset", "address", "children", "keys", "version")

    def __init__(self, address: int, version: int, keys: list[bytes], children: list[int]) -> None:
        self.address = address
        self.version = version
        self.keys = keys
        self.children = children
        self._overflow: list[int] | None = None
        self._values: list[bytes] | None = None
        self._run: _Run = b""
        self._values_offset = 0
        self._spans: list[tuple[int, int]] | None = None

    @property
    def overflow(self) -> list[int]:
        """Addresses of the overflow pages, in order, to be changed in place."""
        if self._overflow is None:
            self._overflow = self._run.overflow if isinstance(self._run, _PagedRun) else []
        return self._overflow

    @property
    def is_leaf(self) -> bool:
        """Whether it has no children."""
        return not self.children

    @property
    def is_full(self) -> bool:
        """Whether it has 11 entries."""
        return len(self.keys) >= CAPACITY

    @property
    def can_lose_one(self) -> bool:
        """Whether it has more than the minimum of entries."""
        return len(self.keys) >= MIN_ENTRIES

    @property
    def values(self) -> list[bytes]:
        """The encoded values, all of them, to be changed in place."""
        if self._values is None:
            run = self._run
            self._values = [run[start:end] for start, end in self.value_spans()]
        return self._values

    def value(self, index: int) -> bytes:
        """The encoded value of entry `index`, without reading the others."""
        if self._values is not None:
            return self._values[index]
        start, end = self.value_spans()[index]
        return self._run[start:end]

    def value_spans(self) -> list[tuple[int, int]]:
        """Where the values are, as stored: start and end in the node's own run of bytes. Nothing is copied."""
        if self._spans is None:
            self._spans, _ = _length_prefixed(self._run, self._values_offset, len(self.keys), self.address)
        return self._spans

    def stored_bytes(self) -> int:
        """Bytes in use as stored: headers, lengths, children, keys and values, without the slack of slots."""
        spans = self.value_spans()
        if self.version == 2:
            return spans[-1][1] + OVERFLOW_HEADER.size * len(self.overflow)
        entries = sum(8 + len(key) + end - start for key, (start, end) in zip(self.keys, spans, strict=True))
        return NODE_HEADER.size + 8 * len(self.children) + entries

    def search(self, key: bytes, order: Callable[[bytes], Any] | None) -> tuple[int, bool]:
        """The first index whose key is not less, and whether it is equal."""
        if order is None:
            index = bisect_left(self.keys, key)
            return index, index < len(self.keys) and self.keys[index] == key
        wanted = order(key)
        index = bisect_left(self.keys, wanted, key=order)
        return index, index < len(self.keys) and bool(order(self.keys[index]) == wanted)

    def insert(self, index: int, key: bytes, value: bytes) -> None:
        """Put an entry at `index`."""
        self.values.insert(index, value)
        self.keys.insert(index, key)

    def pop(self, index: int) -> tuple[bytes, bytes]:
        """Take the entry at `index` out."""
        value = self.values.pop(index)
        return self.keys.pop(index), value

    def swap(self, index: int, entry: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
        """Put `entry` in place of the one at `index`, which is returned."""
        old = self.keys[index], self.values[index]
        self.keys[index], self.values[index] = entry
        return old


@final
class _PagedRun:
    """The bytes of a node that are not all in hand: sliced as `bytes` are, read when they are asked for.

    Following the overflow pages is put off as well: a search that only passes through needs none of them.
    """

    def __init__(self, store: NodeStore, address: int, page: bytes, first_overflow: int) -> None:
        self.page = page
        self._store = store
        self._address = address
        self._first_overflow = first_overflow
        self._overflow: list[int] | None = None

    @property
    def overflow(self) -> list[int]:
        """Addresses of the overflow pages."""
        if self._overflow is None:
            self._overflow = self._store.overflow_chain(self._address, self._first_overflow)
        return self._overflow

    def __len__(self) -> int:
        return self._store.page_bytes + len(self.overflow) * self._store.page_capacity

    def __getitem__(self, span: slice) -> bytes:
        if span.stop <= len(self.page):
            return self.page[span]
        return self._store.read_run(self._address, self.overflow, span.start, max(0, span.stop - span.start))


_Run = bytes | _PagedRun


@final
class NodeStore:
    """Loads, saves, allocates and frees nodes.

    Args:
        memory: where they are read from.
        allocator: the chunks; what it writes and what is written here go to its memory.
        key_bytes: width of a key where the type is fixed, ``None`` where keys carry their length.
        slots: slot sizes where the map was born with version 1.
        new_version: version of new nodes.
    """

    def __init__(
        self, memory: Memory, allocator: ChunkAllocator, key_bytes: int | None, slots: V1Slots | None, new_version: int
    ) -> None:
        self.memory = memory
        self.allocator = allocator
        self.page_bytes = allocator.header.chunk_bytes
        self.page_capacity = self.page_bytes - OVERFLOW_HEADER.size
        self.key_bytes = key_bytes
        self.slots = slots
        self.new_version = new_version
        self._held: dict[int, Node] | None = None
        self._unwritten: set[int] = set()

    def hold(self) -> None:
        """Keep nodes in hand from now on, and write each once, at `let_go`: for many changes that are one operation."""
        self._held = {}
        self._unwritten = set()

    def let_go(self, *, write: bool) -> None:
        """End `hold`; without `write` what was not written is forgotten."""
        held, self._held = self._held or {}, None
        for address in sorted(self._unwritten) if write else ():
            self._save_v2(held[address])
        self._unwritten = set()

    def allocate(self, children: list[int]) -> Node:
        """A new node without entries, a leaf if `children` is empty; not saved yet."""
        node = Node(self.allocator.allocate(), self.new_version, [], children)
        node._values = []
        return node

    def free(self, node: Node) -> None:
        """Give back its overflow pages, first to last, then its chunk."""
        if self._held is not None:
            self._held.pop(node.address, None)
            self._unwritten.discard(node.address)
        self.allocator.free_many([*node.overflow, node.address])

    def load(self, address: int) -> Node:
        """The node at `address`.

        Raises:
            MalformedError: whatever is there is no node, or reaches out of the memory or of its own pages.
        """
        if self._held is None:
            return self._load(address)
        node = self._held.get(address)
        if node is None:
            node = self._held[address] = self._load(address)
        return node

    def _load(self, address: int) -> Node:
        if not self.allocator.is_body(address):
            raise MalformedError("a node address points between chunks", address)
        page = read_exact(self.memory, address, min(self.page_bytes, _WHOLE_PAGE_BYTES), "node")
        magic, version, kind, count = NODE_HEADER.unpack_from(page)
        if magic != NODE_MAGIC:
            raise MalformedError(f"bad magic {magic!r}, expected {NODE_MAGIC!r}", address)
        if kind > 1:
            raise MalformedError(f"node type {kind}, expected 0 or 1", address + 4)
        if not 0 < count <= CAPACITY:
            raise MalformedError(f"a node of {count} entries, expected 1 to {CAPACITY}", address + 5)
        if version == 2:
            return self._load_v2(address, page, count, kind == 1)
        if version != 1 or self.slots is None:
            raise MalformedError(f"node version {version}, expected {'1 or ' if self.slots else ''}2", address + 3)
        return self._load_v1(address, self._run(address, page, 0), self.slots, count, kind == 1)

    def _load_v1(self, address: int, run: _Run, slots: V1Slots, count: int, is_internal: bool) -> Node:
        keys, spans, offset = [], [], NODE_HEADER.size
        for _ in range(count):
            start, end = _slot(run, offset, slots.key_bytes, address, "key")
            keys.append(run[start:end])
            offset += 4 + slots.key_bytes
            spans.append(_slot(run, offset, slots.value_bytes, address, "value"))
            offset += 4 + slots.value_bytes
        children = list(_CHILDREN[count + 1].unpack(run[offset : offset + 8 * count + 8])) if is_internal else []
        node = Node(address, 1, keys, children)
        node._run, node._spans = run, spans
        return node

    def _load_v2(self, address: int, page: bytes, count: int, is_internal: bool) -> Node:
        first_overflow = int.from_bytes(page[NODE_HEADER.size : V2_HEADER_BYTES], "little")
        run = self._run(address, page, first_overflow)
        offset = V2_HEADER_BYTES
        children: list[int] = []
        if is_internal:
            # The smallest page, 128 bytes, has room for the header and 12 children.
            children = list(_CHILDREN[count + 1].unpack_from(page, offset))
            offset += 8 * count + 8
        width = self.key_bytes
        if width:
            end = offset + count * width
            if end > len(page) and end > len(run):
                raise _beyond_pages(end, run, address)
            entries = run[offset:end]
            keys = [entries[start : start + width] for start in range(0, count * width, width)]
            offset = end
        elif width is None:
            spans, offset = _length_prefixed(run, offset, count, address)
            keys = [run[start:end] for start, end in spans]
        else:
            keys = [b""] * count
        node = Node(address, 2, keys, children)
        node._run, node._values_offset = run, offset
        return node

    def _run(self, address: int, page: bytes, first_overflow: int) -> _Run:
        """The bytes of a node's pages without their headers; `page` is what was read of the first."""
        if first_overflow or len(page) < self.page_bytes:
            return _PagedRun(self, address, page, first_overflow)
        return page

    def overflow_chain(self, address: int, first: int) -> list[int]:
        """The overflow pages of the node at `address`; bounded by what the memory can hold."""
        chain: list[int] = []
        page, limit, stride = first, self.allocator.capacity(), self.allocator.stride
        window, window_page, neighbours_so_far = b"", 0, 0
        while page:
            if len(chain) >= limit:
                raise MalformedError("the overflow pages of a node run in a circle", address)
            if not self.allocator.is_body(page):
                raise MalformedError("an overflow address points between chunks", page)
            neighbours_so_far = neighbours_so_far + 1 if chain and page == chain[-1] + stride else 0
            offset = page - window_page
            if not 0 <= offset <= len(window) - OVERFLOW_HEADER.size:
                # The more pages followed one another, the more are read ahead; after a jump none.
                ahead = min(MAX_RUN_BYTES, neighbours_so_far * stride, self.memory.size() * WASM_PAGE_BYTES - page)
                window = read_exact(self.memory, page, max(ahead, OVERFLOW_HEADER.size), "page")
                window_page, offset = page, 0
            magic, next_page = OVERFLOW_HEADER.unpack_from(window, offset)
            if magic != OVERFLOW_MAGIC:
                raise MalformedError(f"bad magic {magic!r}, expected {OVERFLOW_MAGIC!r}", page)
            chain.append(page)
            page = next_page
        return chain

    def read_run(self, address: int, overflow: list[int], offset: int, size: int) -> bytes:
        """The bytes ``[offset, offset + size)`` of the run of a node at `address` with those overflow pages."""
        page_bytes, stride, capacity = self.page_bytes, self.allocator.stride, self.page_capacity
        if offset + size <= page_bytes:
            return read_exact(self.memory, address + offset, size, "node")
        own = b""
        if offset < page_bytes:
            own = read_exact(self.memory, address + offset, page_bytes - offset, "node")
        begin, end = max(0, offset - page_bytes), offset + size - page_bytes
        first = begin // capacity
        parts = []
        for page, count in neighbours(overflow[first : -(-end // capacity)], stride):
            block = read_exact(self.memory, page, (count - 1) * stride + page_bytes, "overflow pages")
            parts += [
                block[start + OVERFLOW_HEADER.size : start + page_bytes] for start in range(0, count * stride, stride)
            ]
        return own + b"".join(parts)[begin - first * capacity : end - first * capacity]

    def _write_paged(self, address: int, overflow: list[int], run: bytes) -> None:
        """Write a node's run of bytes and the links of its pages; what follows it on the last page stays."""
        page_bytes, stride, capacity = self.page_bytes, self.allocator.stride, self.page_capacity
        write_growing(self._target, address, run[:page_bytes])
        if not overflow:
            return
        done, index = page_bytes, 0
        links = [*overflow[1:], 0]
        for page, count in neighbours(overflow, stride):
            block = bytearray(read_exact(self.memory, page, (count - 1) * stride + page_bytes, "overflow pages"))
            for start in range(0, count * stride, stride):
                part = OVERFLOW_HEADER.pack(OVERFLOW_MAGIC, links[index]) + run[done : done + capacity]
                block[start : start + len(part)] = part
                done, index = done + capacity, index + 1
            write_growing(self._target, page, bytes(block))

    def save(self, node: Node) -> None:
        """Write the node in its own version.

        Raises:
            ValueError: an entry is longer than the slots of a version 1 node. The crate writes it over its neighbours.
        """
        if node.version == 1:
            self._save_v1(node)
        elif self._held is not None and not node.overflow and self._fits_page(node):
            # Pages that lack are allocated when a node is saved, so only those that need none can wait.
            self._held[node.address] = node
            self._unwritten.add(node.address)
        else:
            self._unwritten.discard(node.address)
            self._save_v2(node)

    def _fits_page(self, node: Node) -> bool:
        count = len(node.keys)
        size = V2_HEADER_BYTES + 8 * len(node.children) + 4 * count + sum(map(len, node.keys))
        size += (4 * count if self.key_bytes is None else 0) + sum(map(len, node.values))
        return size <= self.page_bytes

    def _save_v1(self, node: Node) -> None:
        slots = self.slots
        assert slots is not None
        keys, values, address = node.keys, node.values, node.address
        for key, value in zip(keys, values, strict=True):
            if len(key) > slots.key_bytes or len(value) > slots.value_bytes:
                raise ValueError(
                    f"an entry of {len(key)} and {len(value)} bytes exceeds the slots ({slots.key_bytes}, "
                    f"{slots.value_bytes}) of a version 1 node at address {address:#x}"
                )
        kind = 0 if node.is_leaf else 1
        write_growing(self._target, address, NODE_HEADER.pack(NODE_MAGIC, 1, kind, len(keys)))
        offset = NODE_HEADER.size
        for key, value in zip(keys, values, strict=True):
            write_growing(self._target, address + offset, U32.pack(len(key)) + key)
            offset += 4 + slots.key_bytes
            write_growing(self._target, address + offset, U32.pack(len(value)) + value)
            offset += 4 + slots.value_bytes
        if node.children:
            write_growing(self._target, address + offset, _CHILDREN[len(node.children)].pack(*node.children))

    def _save_v2(self, node: Node) -> None:
        """Allocate the pages that lack or free those left over, last first; then write the run of bytes."""
        values = node.values
        parts = [_CHILDREN[len(node.children)].pack(*node.children)] if node.children else []
        if self.key_bytes is None:
            for key in node.keys:
                parts += (U32.pack(len(key)), key)
        else:
            parts += node.keys
        for value in values:
            parts += (U32.pack(len(value)), value)
        size = V2_HEADER_BYTES + sum(map(len, parts))
        overflow = node.overflow
        needed = max(0, -(-(size - self.page_bytes) // self.page_capacity))
        if len(overflow) < needed:
            overflow += self.allocator.allocate_many(needed - len(overflow))
        elif len(overflow) > needed:
            self.allocator.free_many(overflow[needed:][::-1])
            del overflow[needed:]
        kind = 0 if node.is_leaf else 1
        header = NODE_HEADER.pack(NODE_MAGIC, 2, kind, len(node.keys))
        link = (overflow[0] if overflow else 0).to_bytes(8, "little")
        run = b"".join((header, link, *parts))
        self._write_paged(node.address, overflow, run)

    @property
    def _target(self) -> Memory:
        return self.allocator.memory


def _length_prefixed(run: _Run, offset: int, count: int, address: int) -> tuple[list[tuple[int, int]], int]:
    """Start and end of so many items that have their length in front, and where the last ends."""
    spans, in_hand = [], len(run.page if isinstance(run, _PagedRun) else run)
    for _ in range(count):
        start = offset + 4
        if start > in_hand and start > len(run):
            raise _beyond_pages(start, run, address)
        offset = start + int.from_bytes(run[offset:start], "little")
        spans.append((start, offset))
    if offset > in_hand and offset > len(run):
        raise _beyond_pages(offset, run, address)
    return spans, offset


def _beyond_pages(end: int, run: _Run, address: int) -> MalformedError:
    return MalformedError(f"a node says it has {end} bytes, its pages hold {len(run)}", address)


def _slot(run: _Run, offset: int, slot_bytes: int, address: int, what: str) -> tuple[int, int]:
    """Start and end of what is in a slot behind its length."""
    size = int.from_bytes(run[offset : offset + 4], "little")
    if size > slot_bytes:
        raise MalformedError(f"a {what} of {size} bytes in a slot of {slot_bytes}", address + offset)
    return offset + 4, offset + 4 + size


# Nodes of which nobody knows whether keys carry a length

MAX_RAW_BYTES: Final = 256 << 20
"""A longer node is not read raw."""

Sizes = list[tuple[bytes, int]]
"""Each key, and the bytes of its value."""


@final
@dataclass(frozen=True)
class RawNode:
    """A node before its keys and values are told apart.

    Attributes:
        address: of the chunk's body.
        slots: of a version 1 node, whose entries are slots; ``None`` of a version 2 node, whose entries are packed.
        count: entries.
        children: addresses.
        body: the bytes of the entries; in version 2 up to the end of the last page.
        tail_bytes: bytes of `body` in the last page; the entries end within them, or exactly before them.
    """

    address: int
    slots: V1Slots | None
    count: int
    children: tuple[int, ...]
    body: bytes
    tail_bytes: int

    @property
    def version(self) -> int:
        """1 or 2."""
        return 1 if self.slots else 2

    def split(self, key_bytes: int | None, most: int | None) -> Sizes | None:
        """The entries, if keys are `key_bytes` wide (``None``: carry a length); ``None`` where they cannot be.

        Args:
            key_bytes: how to read a version 2 node.
            most: bytes that a key and a value may take together.
        """
        return self._split_packed(key_bytes, most) if self.slots is None else self._split_slots(self.slots)

    def _split_slots(self, slots: V1Slots) -> Sizes | None:
        entries = []
        for offset in range(0, self.count * slots.entry_bytes, slots.entry_bytes):
            value_at = offset + U32.size + slots.key_bytes
            (key_bytes,), (value_bytes,) = U32.unpack_from(self.body, offset), U32.unpack_from(self.body, value_at)
            if key_bytes > slots.key_bytes or value_bytes > slots.value_bytes:
                return None
            entries.append((self.body[offset + U32.size : offset + U32.size + key_bytes], value_bytes))
        return entries

    def _split_packed(self, key_bytes: int | None, most: int | None) -> Sizes | None:
        body, offset, keys = self.body, 0, []
        for _ in range(self.count):
            size = key_bytes
            if size is None:
                if offset + U32.size > len(body):
                    return None
                (size,) = U32.unpack_from(body, offset)
                offset += U32.size
            if offset + size > len(body) or (most is not None and size > most):
                return None
            keys.append(body[offset : offset + size])
            offset += size
        entries = []
        for key in keys:
            if offset + U32.size > len(body):
                return None
            (size,) = U32.unpack_from(body, offset)
            offset += U32.size
            if offset + size > len(body) or (most is not None and size + len(key) > most):
                return None
            entries.append((key, size))
            offset += size
        fits = offset > len(body) - self.tail_bytes or self.tail_bytes == len(body)
        return entries if fits and len(set(keys)) == len(keys) else None


def read_raw(memory: Memory, header: MapHeader, address: int) -> RawNode:
    """The node at `address`, whatever its keys are.

    Raises:
        MalformedError: no node, one that reaches out of the memory, or one of more than `MAX_RAW_BYTES`.
    """
    if header.page_bytes < MIN_PAGE_BYTES:
        raise MalformedError(f"pages of {header.page_bytes} bytes", address)
    page = read_exact(memory, address, header.page_bytes, "node")
    magic, version, kind, count = NODE_HEADER.unpack_from(page)
    is_known = version == 2 or (version == 1 and header.slots is not None)
    if magic != NODE_MAGIC or not is_known or kind > 1 or not 0 < count <= CAPACITY:
        raise MalformedError("no node", address)
    children = _CHILDREN[count + 1 if kind else 0]
    if version == 1 and header.slots is not None:
        end = NODE_HEADER.size + count * header.slots.entry_bytes
        if end + children.size > len(page):
            raise MalformedError("a node of version 1 exceeds its page", address)
        found = children.unpack_from(page, end)
        return RawNode(address, header.slots, count, found, page[NODE_HEADER.size : end], 0)
    (link,) = U64.unpack_from(page, NODE_HEADER.size)
    parts = _raw_parts(memory, header.page_bytes, link)
    body = b"".join((page[V2_HEADER_BYTES + children.size :], *parts))
    tail_bytes = len(parts[-1]) if parts else len(body)
    return RawNode(address, None, count, children.unpack_from(page, V2_HEADER_BYTES), body, tail_bytes)


def _raw_parts(memory: Memory, page_bytes: int, page: int) -> list[bytes]:
    parts: list[bytes] = []
    while page:
        if len(parts) * page_bytes > MAX_RAW_BYTES:
            raise MalformedError("too long to be read raw", page)
        data = read_exact(memory, page, page_bytes, "overflow page")
        magic, following = OVERFLOW_HEADER.unpack_from(data)
        if magic != OVERFLOW_MAGIC:
            raise MalformedError(f"bad magic {magic!r}, expected {OVERFLOW_MAGIC!r}", page)
        parts.append(data[OVERFLOW_HEADER.size :])
        page = following
    return parts
