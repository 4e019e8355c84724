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
from collections import OrderedDict
from typing import Final, final

from perdure.errors import MalformedError
from perdure.memory import WASM_PAGE_BYTES, Memory
from perdure.stable.access import UndoLog, read_exact, write_growing
from perdure.stable.chunks import MAX_RUN_BYTES, ChunkAllocator, neighbours
from perdure.stable.headers import MapHeader
from perdure.stable.layout import (
    CAPACITY,
    MIN_PAGE_BYTES,
    NODE_HEADER,
    NODE_MAGIC,
    OVERFLOW_HEADER,
    OVERFLOW_MAGIC,
    U32,
    U64,
    V2_HEADER,
    V2_HEADER_BYTES,
    V1Slots,
)
from perdure.stable.node import Node, PagedRun, Run, beyond_pages, length_prefixed, length_prefixed_items
from perdure.stable.raw_nodes import RawNode

__all__ = ["NodeStore", "read_raw"]

_COUNTS: Final = range(CAPACITY + 1)
_CHILDREN: Final = [struct.Struct(f"<{count}Q") for count in range(CAPACITY + 2)]
_PLAIN_LEAF: Final = (NODE_MAGIC, 2, 0, 0)
_WHOLE_PAGE_BYTES: Final = 16_384
"""Of a larger first page, only so much is read at once."""
_KEPT_BYTES: Final = 1 << 20
_MOST_INNER_KEPT: Final = 4_096
_MOST_LEAVES_KEPT: Final = 1_024
_MOST_FIXED_LEAVES_KEPT: Final = 64
"""Where keys and values are of fixed types, a leaf is taken apart nearly as fast as it is found again."""
_LEAST_KEPT: Final = 16


@final
class NodeStore:
    """Loads, saves, allocates and frees nodes.

    Nodes that were read are kept, decoded, with the bytes that they were decoded from. The next time the bytes are read
    again and compared: whoever has written meanwhile, a canister, a fork, a message that is taken back, is seen.

    Args:
        undo: where they are read from, and written to.
        allocator: the chunks there.
        key_bytes: width of a key where the type is fixed, ``None`` where keys carry their length.
        value_bytes: width of a value where the type is fixed; each has its length in front all the same.
        slots: slot sizes where the map was born with version 1.
        new_version: version of new nodes.
    """

    def __init__(
        self,
        undo: UndoLog,
        allocator: ChunkAllocator,
        key_bytes: int | None,
        value_bytes: int | None,
        slots: V1Slots | None,
        new_version: int,
    ) -> None:
        self.memory = undo.memory
        self._undo = undo
        self.allocator = allocator
        self.page_bytes = allocator.header.chunk_bytes
        self.page_capacity = self.page_bytes - OVERFLOW_HEADER.size
        self.key_bytes = key_bytes
        self._keys = [struct.Struct(f"{key_bytes or 0}s" * count) for count in _COUNTS]
        self._value_bytes = value_bytes
        self._lengths = [struct.Struct("<" + f"I{value_bytes or 0}x" * count) for count in _COUNTS]
        self.slots = slots
        self.new_version = new_version
        self._held: dict[int, Node] | None = None
        self._unwritten: set[int] = set()
        # Apart, so that a scan of leaves leaves those alone that every search passes.
        self._inner: OrderedDict[int, Node] = OrderedDict()
        self._leaves: OrderedDict[int, Node] = OrderedDict()
        self._read = self.memory.read
        self._read_bytes = min(self.page_bytes, _WHOLE_PAGE_BYTES)
        most = max(_LEAST_KEPT, _KEPT_BYTES // self._read_bytes)
        is_fixed = key_bytes is not None and value_bytes is not None
        most_leaves = _MOST_FIXED_LEAVES_KEPT if is_fixed else _MOST_LEAVES_KEPT
        self._most_inner, self._most_leaves = min(_MOST_INNER_KEPT, most), min(most_leaves, most)

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
        return Node.empty(self.allocator.allocate(), self.new_version, children)

    def free(self, node: Node) -> None:
        """Give back its overflow pages, first to last, then its chunk."""
        if self._held is not None:
            self._held.pop(node.address, None)
            self._unwritten.discard(node.address)
        self._drop(node.address)
        self.allocator.free_many([*node.overflow, node.address])

    def load(self, address: int) -> Node:
        """The node at `address`, to be changed.

        Raises:
            MalformedError: whatever is there is no node, or reaches out of the memory or of its own pages.
        """
        return self.own(self.look(address, to_change=True))

    def own(self, node: Node) -> Node:
        """A node that was looked at, to be changed."""
        if not node.is_shared:
            return node
        node = node.copy()
        if self._held is not None:
            self._held[node.address] = node
        return node

    def look(self, address: int, *, to_change: bool = False) -> Node:
        """The node at `address`, which others look at as well; raises as `load`.

        A leaf that is to be changed, and that nobody has looked at, is not kept before it is saved.
        """
        held = self._held
        if held is not None and address in held:
            return held[address]
        kept = self._inner.get(address) or self._leaves.get(address)
        try:
            page = self._read(address, self._read_bytes) if kept is not None else self._page(address)
        except IndexError:
            page = self._page(address)  # which says what is wrong
        if kept is not None and (page == kept.page or kept.goes_on(page)):
            node = kept
            if node.run is not node.page:
                node.renew()  # its other pages may have changed
        else:
            node = self._decoded(address, page)
            if node.children or not to_change:
                self._keep(node)
        if held is not None:
            held[address] = node
        return node

    def _page(self, address: int) -> bytes:
        """What is read of the first page of a node, of which nothing is known yet."""
        if not self.allocator.is_body(address):
            raise MalformedError("a node address points between chunks", address)
        return read_exact(self.memory, address, self._read_bytes, "node")

    def search(self, address: int, key: bytes) -> Node | bytes | None:
        """The value of a key in a leaf that nobody has looked at, where it lies in plain sight; else the node.

        For keys in order as bytes. Nothing is decoded and nothing kept: in a large map few leaves are met twice.
        """
        width = self.key_bytes
        if not width or self._held is not None or address in self._inner or address in self._leaves:
            return self.look(address)
        page = self._page(address)
        magic, version, kind, count, link = V2_HEADER.unpack_from(page)
        values = V2_HEADER_BYTES + count * width
        if (magic, version, kind, link) != _PLAIN_LEAF or self._even(page, values, count) is None:
            return self.look(address)
        at = page.find(key, V2_HEADER_BYTES, values)
        while at >= 0 and (at - V2_HEADER_BYTES) % width:  # among the bytes of two keys
            at = page.find(key, at + 1, values)
        if at < 0:
            return None
        entry_bytes = self._lengths[1].size
        end = values + ((at - V2_HEADER_BYTES) // width + 1) * entry_bytes
        return page[end - entry_bytes + U32.size : end]

    def _keep(self, node: Node) -> None:
        """Have others look at a node as well, and nobody at what was kept of the same address."""
        address = node.address
        if node.run is not node.page and (node.version == 1 or node.values_offset > len(node.page)):
            self._drop(address)
            return
        kept, other, most = self._inner, self._leaves, self._most_inner
        if not node.children:
            kept, other, most = other, kept, self._most_leaves
        other.pop(address, None)
        if len(kept) >= most and address not in kept:
            kept.popitem(last=False)
        kept[address] = node
        node.is_shared = True

    def _drop(self, address: int) -> None:
        self._inner.pop(address, None)
        self._leaves.pop(address, None)

    def forget(self) -> None:
        """Keep no node any longer: what was changed of them was taken back."""
        self._inner.clear()
        self._leaves.clear()

    def _decoded(self, address: int, page: bytes) -> Node:
        magic, version, kind, count, link = V2_HEADER.unpack_from(page)
        if magic != NODE_MAGIC:
            raise MalformedError(f"bad magic {magic!r}, expected {NODE_MAGIC!r}", address)
        if kind > 1:
            raise MalformedError(f"node type {kind}, expected 0 or 1", address + 4)
        if not 0 < count <= CAPACITY:
            raise MalformedError(f"a node of {count} entries, expected 1 to {CAPACITY}", address + 5)
        first_overflow = link if version == 2 else 0
        is_whole = not first_overflow and len(page) == self.page_bytes
        run = page if is_whole else PagedRun(self, address, page, first_overflow)
        if version == 2:
            return self._load_v2(address, page, run, count, kind == 1)
        if version != 1 or self.slots is None:
            raise MalformedError(f"node version {version}, expected {'1 or ' if self.slots else ''}2", address + 3)
        return self._load_v1(address, run, self.slots, count, kind == 1)

    def _load_v1(self, address: int, run: Run, slots: V1Slots, count: int, is_internal: bool) -> Node:
        keys, spans, offset = [], [], NODE_HEADER.size
        for _ in range(count):
            start, end = _slot(run, offset, slots.key_bytes, address, "key")
            keys.append(run[start:end])
            offset += 4 + slots.key_bytes
            spans.append(_slot(run, offset, slots.value_bytes, address, "value"))
            offset += 4 + slots.value_bytes
        children = list(_CHILDREN[count + 1].unpack(run[offset : offset + 8 * count + 8])) if is_internal else []
        node = Node(address, 1, keys, children, run)
        node.spans = spans
        return node

    def _load_v2(self, address: int, page: bytes, run: Run, count: int, is_internal: bool) -> Node:
        offset, in_hand = V2_HEADER_BYTES, len(page)
        children: list[int] = []
        if is_internal:
            # The smallest page, 128 bytes, has room for the header and 12 children.
            children = list(_CHILDREN[count + 1].unpack_from(page, offset))
            offset += 8 * count + 8
        width = self.key_bytes
        if width:
            end = offset + count * width
            if end <= in_hand:
                keys = list(self._keys[count].unpack_from(page, offset))
            elif end <= len(run):
                keys = list(self._keys[count].unpack(run[offset:end]))
            else:
                raise beyond_pages(end, run, address)
            offset = end
        elif width is None and isinstance(run, bytes):
            keys, offset = length_prefixed_items(run, offset, count, address)
        elif width is None:
            spans, offset = length_prefixed(run, offset, count, address)
            keys = [run[start:end] for start, end in spans]
        else:
            keys = [b""] * count
        return Node(address, 2, keys, children, run, offset, self._even(page, offset, count))

    def _even(self, page: bytes, offset: int, count: int) -> int | None:
        """How long values of a fixed type are, where all lengths that stand in front of them on the page say so."""
        width = self._value_bytes
        if count > CAPACITY:
            return None
        lengths = self._lengths[count]
        if width is None or offset + lengths.size > len(page):
            return None
        return width if lengths.unpack_from(page, offset).count(width) == count else None

    def used_bytes(self, node: Node) -> int:
        """Bytes in use as stored: headers, lengths, children, keys and values, without the slack of slots."""
        spans = node.value_spans()
        if node.version == 2:
            return spans[-1][1] + OVERFLOW_HEADER.size * len(node.overflow)
        entries = sum(8 + len(key) + end - start for key, (start, end) in zip(node.keys, spans, strict=True))
        return NODE_HEADER.size + 8 * len(node.children) + entries

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
        write_growing(self._undo, address, run[:page_bytes])
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
            write_growing(self._undo, page, bytes(block))

    def save(self, node: Node) -> None:
        """Write the node in its own version.

        Raises:
            ValueError: an entry is longer than the slots of a version 1 node. The crate writes it over its neighbours.
        """
        if node.version == 1:
            self._drop(node.address)
            self._save_v1(node)
        elif self._held is not None and self.can_wait(node):
            self._held[node.address] = node
            self._unwritten.add(node.address)
        else:
            self._unwritten.discard(node.address)
            self._save_v2(node)

    def insert(self, node: Node, index: int, key: bytes, value: bytes, child: int = 0) -> None:
        """Put an entry into a node, between the bytes of the others, where they lie packed on one page.

        In an inner node `child` comes behind the entry.
        """
        run, keys, children = node.packed, node.keys, node.children
        if run is not None:
            cut, end = node.cut(index)
            at = self._key_at(node, index)
            head = NODE_HEADER.pack(NODE_MAGIC, 2, bool(children), len(keys) + 1)
            link = U64.pack(child) if children else b""
            after = V2_HEADER_BYTES + len(link) * (index + 1)
            length = U32.pack(len(key)) if self.key_bytes is None else b""
            front = (head, run[len(head) : after], link, run[after:at], length, key)
            made = b"".join((*front, run[at:cut], U32.pack(len(value)), value, run[cut:end]))
            if len(made) <= self._read_bytes:
                even = node.value_bytes if len(value) == node.value_bytes else None
                node.become(made, node.values_offset + len(link) + len(length) + len(key), even)
                keys.insert(index, key)
                if children:
                    children.insert(index + 1, child)
                return
        node.insert(index, key, value)
        if children:
            children.insert(index + 1, child)

    def halve(self, node: Node, other: Node) -> tuple[bytes, bytes]:
        """Move what is behind the middle entry of a full node to an empty one; that entry, which neither has then."""
        middle, run, keys, children = CAPACITY // 2, node.packed, node.keys, node.children
        entry = keys[middle], node.value(middle)
        if run is not None and other.version == 2:
            start, first, last = self._key_at(node, 0), self._key_at(node, middle), self._key_at(node, middle + 1)
            (cut, end), values, even = node.cut(middle), node.values_offset, node.value_bytes
            after = V2_HEADER_BYTES + (8 * (middle + 1) if children else 0)
            head = NODE_HEADER.pack(NODE_MAGIC, 2, bool(children), middle) + run[NODE_HEADER.size : V2_HEADER_BYTES]
            front = b"".join((head, run[V2_HEADER_BYTES:after], run[start:first]))
            node.become(front + run[values:cut], len(front), even)
            front = b"".join((head, run[after:start], run[last:values]))
            other.become(front + run[cut + 4 + len(entry[1]) : end], len(front), even)
        else:
            moved = node.values
            other.values[:], moved[middle:] = moved[middle + 1 :], []
        other.keys, keys[middle:] = keys[middle + 1 :], []
        other.children, children[middle + 1 :] = children[middle + 1 :], []
        return entry

    def _key_at(self, node: Node, index: int) -> int:
        """Where a key begins in the run of a version 2 node, with its length if it has one."""
        start, width = V2_HEADER_BYTES + 8 * len(node.children), self.key_bytes
        if width is not None:
            return start + width * index
        return start + 4 * index + sum(map(len, node.keys[:index]))

    def replace(self, node: Node, index: int, value: bytes) -> bytes:
        """Put a value in place of the one at `index`, which is returned."""
        run = node.packed
        if run is not None:
            cut, end = node.cut(index)
            old = node.value(index)
            made = b"".join((run[:cut], U32.pack(len(value)), value, run[cut + 4 + len(old) : end]))
            if len(made) <= self._read_bytes:
                node.become(made, node.values_offset, node.value_bytes if len(value) == len(old) else None)
                return old
        old, node.values[index] = node.values[index], value
        return old

    def can_wait(self, node: Node) -> bool:
        """Whether saving a node would write its own page alone: pages that lack are allocated when it is saved."""
        return node.version == 2 and not node.overflow and self._fits_page(node)

    def _fits_page(self, node: Node) -> bool:
        if node.packed is not None:
            return True
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
        write_growing(self._undo, address, NODE_HEADER.pack(NODE_MAGIC, 1, kind, len(keys)))
        offset = NODE_HEADER.size
        for key, value in zip(keys, values, strict=True):
            write_growing(self._undo, address + offset, U32.pack(len(key)) + key)
            offset += 4 + slots.key_bytes
            write_growing(self._undo, address + offset, U32.pack(len(value)) + value)
            offset += 4 + slots.value_bytes
        if node.children:
            write_growing(self._undo, address + offset, _CHILDREN[len(node.children)].pack(*node.children))

    def _save_v2(self, node: Node) -> None:
        run = node.packed
        if run is None:
            run = self._joined(node)
        if node.overflow or self._read_bytes < self.page_bytes:
            self._drop(node.address)
            self._write_paged(node.address, node.overflow, run)
            return
        before, count = node.run if node.stored is None else node.stored, len(run)
        if isinstance(before, bytes) and len(before) >= count:
            self._undo.overwrite(node.address, before[:count], run)
            run += before[count:]
        else:
            write_growing(self._undo, node.address, run)
        node.settle(run)
        if node.value_bytes is None:
            node.value_bytes = self._even(run, node.values_offset, len(node.keys))
        self._keep(node)

    def _joined(self, node: Node) -> bytes:
        """The run of a node; pages that lack are allocated or those left over freed, last first."""
        children, keys, values = node.children, node.keys, node.values
        parts = [b"", b"", _CHILDREN[len(children)].pack(*children)]
        if self.key_bytes is None:
            for key in keys:
                parts += (U32.pack(len(key)), key)
        else:
            parts += keys
        values_at = len(parts)
        lengths = set(map(len, values))
        if len(lengths) == 1:
            length = U32.pack(*lengths)
            parts += (length, length.join(values))
        else:
            for value in values:
                parts += (U32.pack(len(value)), value)
        node.value_bytes = None
        size = V2_HEADER_BYTES + sum(map(len, parts))
        overflow = node.overflow
        needed = max(0, -(-(size - self.page_bytes) // self.page_capacity))
        if len(overflow) < needed:
            overflow += self.allocator.allocate_many(needed - len(overflow))
        elif len(overflow) > needed:
            self.allocator.free_many(overflow[needed:][::-1])
            del overflow[needed:]
        parts[0] = NODE_HEADER.pack(NODE_MAGIC, 2, 1 if children else 0, len(keys))
        parts[1] = (overflow[0] if overflow else 0).to_bytes(8, "little")
        node.values_offset = sum(map(len, parts[:values_at]))
        return b"".join(parts)


def _slot(run: Run, offset: int, slot_bytes: int, address: int, what: str) -> tuple[int, int]:
    """Start and end of what is in a slot behind its length."""
    size = int.from_bytes(run[offset : offset + 4], "little")
    if size > slot_bytes:
        raise MalformedError(f"a {what} of {size} bytes in a slot of {slot_bytes}", address + offset)
    return offset + 4, offset + 4 + size


# Nodes of which nobody knows whether keys carry a length

MAX_RAW_BYTES: Final = 256 << 20
"""A longer node is not read raw."""


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
