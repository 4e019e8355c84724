"""The B-tree below BTreeMap and BTreeSet, over encoded keys and values.

```
address  size
      0     3  magic "BTR"
      3     1  version: 1 or 2
      4     4  version 1: maximum key size K        version 2: page size P
      8     4  version 1: maximum value size V      version 2: FFFFFFFF
     12     8  root node, 0 for an empty map
     20     8  number of entries
     28    24  reserved, never written
     52    48  allocator header (`chunks`)
    100        chunks with nodes (`nodes`)
```

Integers are little-endian. P is three quarters of the largest version 1 node, 191 + 11 * (K + V), where both types are
bounded, else 1024. A map born with version 1 keeps saying so for ever: crate 0.6.0 and later write new nodes as version
2 with P = 191 + 11 * (K + V) and leave old nodes as they are, so that a migrated map is mixed.

The tree is that of CLRS with minimum degree 6: at most 11 entries in a node, at least 5 outside the root, entries in
internal nodes too. Which node is split, merged or rotated when, and in which order nodes are saved and freed, follows
the crate to the letter, because it shows in the bytes. Reading, inserting and removing are one module because they
share these rules and the handling of the header.

Spec: ``src/btreemap.rs`` of ic-stable-structures 0.7.2.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import lt
from typing import Any, TypeVar, final

from perdure.errors import MalformedError
from perdure.memory import WASM_PAGE_BYTES, Memory
from perdure.stable.access import UndoLog, read_exact, require_blank, write_growing
from perdure.stable.chunks import ChunkAllocator
from perdure.stable.headers import AllocatorHeader, MapHeader
from perdure.stable.layout import (
    CAPACITY,
    DEFAULT_PAGE_BYTES,
    FIRST_CHUNK_ADDRESS,
    LENGTH_ADDRESS,
    MAP_RESERVED,
    MAX_DEPTH,
    MIN_ENTRIES,
    ROOT_ADDRESS,
    ROOT_AND_LENGTH,
    V1Slots,
    max_node_bytes,
    packed_page_bytes,
)
from perdure.stable.node import Node
from perdure.stable.nodes import NodeStore
from perdure.stable.types import StorableType

__all__ = ["BTree", "NodeFacts"]

T = TypeVar("T")


@final
@dataclass(frozen=True)
class NodeFacts:
    """One node as a walk finds it.

    Attributes:
        address: of its chunk's body.
        depth: 0 for the root.
        version: 1 or 2.
        is_leaf: whether it has no children.
        keys: encoded keys.
        value_sizes: bytes of each value.
        children: addresses of the children.
        overflow: addresses of the overflow pages, in order.
        used_bytes: bytes of its pages that are in use, its headers included, slack of slots and page tails not.
    """

    address: int
    depth: int
    version: int
    is_leaf: bool
    keys: tuple[bytes, ...]
    value_sizes: tuple[int, ...]
    children: tuple[int, ...]
    overflow: tuple[int, ...]
    used_bytes: int


@final
class BTree:
    """Encoded keys to encoded values. The typed faces are `StableBTreeMap` and `StableBTreeSet`.

    Each operation reads the header anew, so that a canister that runs over the same memory is followed. A changing
    operation either happens whole or, on any error, leaves the bytes as they were.
    """

    def __init__(
        self, memory: Memory, header: MapHeader, key: StorableType[Any], value: StorableType[Any], node_version: int
    ) -> None:
        """Use `load` or `create`."""
        self.memory = memory
        self.changes = 0
        self._version, self._slots, self._page_bytes = header.version, header.slots, header.page_bytes
        self._root, self._length = header.root, header.length
        self._header_bytes = b""
        self._is_header_changed = False
        self._order = key.order
        self._undo = UndoLog(memory, self._flush, self._forget)
        self._allocator = ChunkAllocator(self._undo, header.allocator)
        self._written_allocator = header.allocator
        key_bytes = key.max_size if key.is_fixed else None
        value_bytes = value.max_size if value.is_fixed else None
        self.nodes = NodeStore(self._undo, self._allocator, key_bytes, value_bytes, header.slots, node_version)

    @classmethod
    def load(cls, memory: Memory, key: StorableType[Any], value: StorableType[Any], *, node_version: int = 2) -> BTree:
        """The tree that is there; see `StableBTreeMap.load`."""
        header = MapHeader.read(memory)
        header.check(memory)
        if header.slots is not None:
            _check_slots(key, header.slots.key_bytes, "keys")
            _check_slots(value, header.slots.value_bytes, "values")
        elif node_version == 1:
            raise ValueError("only a map born with version 1 can have version 1 nodes")
        return cls(memory, header, key, value, node_version)

    @classmethod
    def create(
        cls,
        memory: Memory,
        key: StorableType[Any],
        value: StorableType[Any],
        *,
        version: int = 2,
        overwrite: bool = False,
    ) -> BTree:
        """A new tree; see `StableBTreeMap.create`."""
        if not overwrite:
            require_blank(memory, "map")
        header = _new_header(key, value, version)
        with UndoLog(memory) as undo:
            allocator = ChunkAllocator.create(undo, header.page_bytes)
            header = replace(header, allocator=allocator.header)
            write_growing(undo, 0, header.encode())
        return cls(memory, header, key, value, version)

    @property
    def header(self) -> MapHeader:
        """The header as it was read last, with what the operation under way has made of it."""
        return MapHeader(self._version, self._slots, self._page_bytes, self._root, self._length, self._allocator.header)

    def refresh(self) -> None:
        """Read the header anew."""
        try:
            data = self.memory.read(0, FIRST_CHUNK_ADDRESS)
        except IndexError:
            data = read_exact(self.memory, 0, FIRST_CHUNK_ADDRESS, "map header")  # which says what is wrong
        if data == self._header_bytes:
            return
        header = MapHeader.decode(data, self.memory.size() * WASM_PAGE_BYTES)
        header.check(self.memory)
        if header.page_bytes != self._page_bytes or header.slots != self._slots:
            raise MalformedError("another map was created here since this one was loaded", 0)
        self._version, self._root, self._length = header.version, header.root, header.length
        self._allocator.header = self._written_allocator = header.allocator
        self._header_bytes = data

    # Reading

    def find(self, key: bytes) -> bytes | None:
        """The value of `key`."""
        self.refresh()
        address, order = self._root, self._order
        nodes = self.nodes
        if not address:
            return None
        for _ in range(MAX_DEPTH):
            node = nodes.look(address) if order is not None else nodes.search(address, key)
            if not isinstance(node, Node):
                return node
            keys = node.keys
            if order is None:
                index = bisect_left(keys, key)
                found = index < len(keys) and keys[index] == key
            else:
                index, found = node.search(key, order)
            if found:
                return node.value(index)
            if not node.children:
                return None
            address = node.children[index]
        raise _too_deep(address)

    def walk(
        self, low: bytes | None = None, high: bytes | None = None, *, reverse: bool = False, include_high: bool = False
    ) -> Iterator[tuple[Node, int]]:
        """The entries from `low` up to `high`, as node and index, ascending or descending.

        Raises:
            RuntimeError: the tree was changed through this object meanwhile.
            MalformedError: a circle, a node reached twice, or entries that the header does not count.
        """
        self.refresh()
        start, after = (high, low) if reverse else (low, high)
        remaining, changes = self._length, self.changes
        bounds = self._bounds(after, reverse, include_high)
        for node, index in self._steps(start, reverse, include_high):
            if bounds is not None and bounds(node.keys[index]):
                return
            if remaining == 0:
                raise MalformedError(f"more entries than the {self._length} that the header counts", LENGTH_ADDRESS)
            remaining -= 1
            yield node, index
            if self.changes != changes:
                raise RuntimeError("the structure was changed while it was being iterated over")
        if low is None and high is None and remaining:
            raise MalformedError(
                f"{self._length - remaining} entries, the header counts {self._length}", LENGTH_ADDRESS
            )

    def batch(self, low: bytes | None, high: bytes | None, most: int) -> list[tuple[bytes, bytes]]:
        """At most so many of the entries with ``low <= key < high``, the first ones, where keys are in order as bytes.

        Read in one go, a fraction of the time of a walk; the next batch begins behind the last key.

        Raises:
            MalformedError: keys that do not ascend, a circle.
        """
        assert self._order is None
        self.refresh()
        found: list[tuple[bytes, bytes]] = []
        nodes_left = most + MAX_DEPTH  # an honest node below the first path has entries that count
        look, address = self.nodes.look, self._root
        path: list[tuple[Node, int, int]] = []  # inner nodes, the next entry of each, and the end
        while True:
            while address:
                node = look(address)
                nodes_left -= 1
                if nodes_left < 0:
                    raise MalformedError("a node is reached twice", address)
                keys = node.keys
                start = 0 if low is None else bisect_left(keys, low)
                end = len(keys) if high is None else bisect_left(keys, high, start)
                if not node.children:
                    found += zip(keys[start:end], node.some_values(start, end), strict=True)
                    break
                address = node.children[start]
                if start < end:
                    path.append((node, start, end))
                    if keys[start] == low:
                        break
            low = None
            if len(found) >= most or not path:
                break
            node, start, end = path.pop()
            found.append((node.keys[start], node.value(start)))
            start += 1
            if start < end:
                path.append((node, start, end))
            address = node.children[start]
        keys = [one[0] for one in found]
        if len(keys) > 1 and not all(map(lt, keys, keys[1:])):
            raise MalformedError("keys that do not ascend", self._root)
        return found[:most]

    def _bounds(self, after: bytes | None, reverse: bool, include_high: bool) -> Any:
        """Whether a key lies past the end of a walk, as a function; ``None`` where there is no end."""
        if after is None:
            return None
        order = self._order or bytes
        limit = order(after)
        if reverse:
            return lambda key: order(key) < limit
        if include_high:
            return lambda key: limit < order(key)
        return lambda key: not order(key) < limit

    def _steps(self, start: bytes | None, reverse: bool, include_high: bool) -> Iterator[tuple[Node, int]]:
        """All entries from `start` on. Bounded by the room in memory: an honest walk sees each page at most once."""
        budget = self._allocator.capacity()
        stack: list[tuple[Node, int]] = []
        address = self._root
        while address or stack:
            if address:
                _check_depth(len(stack), address)
                node = self.nodes.look(address)
                budget -= 1 + len(node.overflow)
                if budget < 0:
                    raise MalformedError("a node is reached twice", address)
                index, is_here = self._entry_point(node, start, reverse, include_high)
                address = 0 if node.is_leaf or is_here else node.children[index]
                stack.append((node, index - 1 if reverse else index))
                continue
            node, index = stack.pop()
            if not 0 <= index < len(node.keys):
                continue
            yield node, index
            start = None
            stack.append((node, index - 1 if reverse else index + 1))
            if node.children:
                address = node.children[index if reverse else index + 1]

    def _entry_point(self, node: Node, start: bytes | None, reverse: bool, include_high: bool) -> tuple[int, bool]:
        """The child of `node` where a walk from `start` begins, and whether it begins with an entry of `node` instead.

        Ascending, that entry has the child's index; descending, the index before.
        """
        if start is None:
            return (len(node.keys) if reverse else 0), False
        index, found = node.search(start, self._order)
        if reverse and found and include_high:
            return index + 1, True
        return index, found and not reverse

    def outermost(self, *, last: bool) -> tuple[bytes, bytes] | None:
        """The entry with the least or greatest key."""
        self.refresh()
        if self._root == 0:
            return None
        node = self._outermost_leaf(self.nodes.load(self._root), last)
        index = -1 if last else 0
        return node.keys[index], node.value(index % len(node.keys))

    def _outermost_leaf(self, node: Node, last: bool) -> Node:
        depth = 0
        while node.children:
            depth += 1
            address = node.children[-1 if last else 0]
            _check_depth(depth, address)
            node = self.nodes.load(address)
        return node

    def facts(self) -> Iterator[NodeFacts]:
        """Every node, parents first, with its depth and pages.

        Raises:
            MalformedError: a node is reached twice, leaves differ in depth, or a node is damaged.
        """
        self.refresh()
        seen: set[int] = set()
        leaf_depths: list[int] = []
        stack = [(self._root, 0)] if self._root else []
        while stack:
            address, depth = stack.pop()
            _check_depth(depth, address)
            node = self.nodes.load(address)
            for page in (address, *node.overflow):
                if page in seen:
                    raise MalformedError("a node or page is reached twice", page)
                seen.add(page)
            if node.is_leaf:
                leaf_depths.append(depth)
                if depth != leaf_depths[0]:
                    raise MalformedError(f"a leaf at depth {depth}, another at {leaf_depths[0]}", address)
            stack += [(child, depth + 1) for child in reversed(node.children)]
            yield _facts(node, depth, self.nodes.used_bytes(node))

    def free_chunks(self) -> Iterator[int]:
        """Addresses of the free chunks; see `ChunkAllocator.free_list`."""
        self.refresh()
        return self._allocator.free_list()

    def chunks(self) -> Iterator[tuple[int, bool]]:
        """Every chunk; see `ChunkAllocator.chunks`."""
        self.refresh()
        return self._allocator.chunks()

    # Writing

    def insert(self, key: bytes, value: bytes, decode: Callable[[bytes], T] = bytes) -> T | None:  # type: ignore[assignment] # T is bytes then
        """Set `key` to `value`; the old value, through `decode`."""
        self.refresh()
        self._check_entry(key, value)
        with self._change():
            old = self._insert(key, value)
            return None if old is None else decode(old)

    def remove(self, key: bytes, decode: Callable[[bytes], T] = bytes) -> T | None:  # type: ignore[assignment] # as above
        """Remove `key`; its value through `decode`, ``None`` if absent (nodes can merge even then, as in the crate)."""
        self.refresh()
        if self._root == 0:
            return None
        with self._change():
            old = self._remove(self.nodes.load(self._root), key)
            return None if old is None else decode(old)

    def pop(self, *, last: bool, decode: Callable[[tuple[bytes, bytes]], T] = tuple) -> T | None:  # type: ignore[assignment] # as above
        """Remove the entry with the least or greatest key; it, through `decode`."""
        self.refresh()
        if self._root == 0:
            return None
        with self._change():
            return decode(self._take_outermost(self.nodes.load(self._root), last))

    def clear(self) -> None:
        """Forget every entry; their bytes stay (the crate's ``clear_new``)."""
        self.refresh()
        with self._change():
            self._allocator.clear()
            self._save_header(root=0, length=0)

    def apply(self, changes: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Many insertions and removals as one operation, a value of `None` removes.

        Each node is read and written once, so neighbours are cheap: sort by key. The tree is the one that the changes
        leave one by one; where nodes reach beyond their pages, other chunks may be theirs.
        """
        self.refresh()
        ordered = list(changes)
        for key, value in ordered:
            self._check_entry(key, value or b"")
        self.nodes.hold()
        try:
            with self._change():
                for key, value in ordered:
                    if value is not None:
                        self._insert(key, value)
                    elif self._root:
                        self._remove(self.nodes.load(self._root), key)
                self.nodes.let_go(write=True)
        finally:
            self.nodes.let_go(write=False)

    def bulk_load(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Fill an empty tree; see `StableBTreeMap.bulk_load`."""
        self.refresh()
        if self._root:
            raise ValueError(f"bulk loading needs an empty map, this one has {self._length} entries")
        order = self._order or bytes
        unique = dict(entries)
        for key, value in unique.items():
            self._check_entry(key, value)
        ordered = sorted(unique.items(), key=lambda entry: order(entry[0]))
        if not ordered:
            return
        height = 1
        while (CAPACITY + 1) ** height - 1 < len(ordered):
            height += 1
        with self._change():
            root = self._build(ordered, 0, len(ordered), height, is_root=True)
            self._save_header(root=root, length=len(ordered))

    def _build(self, entries: list[tuple[bytes, bytes]], start: int, end: int, height: int, *, is_root: bool) -> int:
        """Save ``entries[start:end]`` as a subtree of `height` levels, in equal shares; its top node's address."""
        node = self.nodes.allocate([])
        if height == 1:
            chosen = range(start, end)
        else:
            places = end - start + 1
            shares = max(2 if is_root else MIN_ENTRIES, -(-places // (CAPACITY + 1) ** (height - 1)))
            cuts = [start + places * share // shares for share in range(shares + 1)]
            chosen = range(0)
            node.children = [
                self._build(entries, low, high - 1, height - 1, is_root=False) for low, high in pairwise(cuts)
            ]
            node.keys = [entries[cut - 1][0] for cut in cuts[1:-1]]
            node.values.extend(entries[cut - 1][1] for cut in cuts[1:-1])
        node.keys.extend(entries[index][0] for index in chosen)
        node.values.extend(entries[index][1] for index in chosen)
        self.nodes.save(node)
        return node.address

    def _change(self) -> UndoLog:
        """One changing operation: counted, and undone whole on any error."""
        self.changes += 1
        self._is_header_changed = False
        return self._undo

    def _check_entry(self, key: bytes, value: bytes) -> None:
        slots = self._slots
        if slots is not None and (len(key) > slots.key_bytes or len(value) > slots.value_bytes):
            raise ValueError(
                f"an entry of {len(key)} and {len(value)} bytes exceeds the slots ({slots.key_bytes}, "
                f"{slots.value_bytes}) of a map born with version 1: the crate would overwrite other entries"
            )

    def _save_header(self, *, root: int | None = None, length: int | None = None) -> None:
        """Set root or length; written once the operation ends, by `_change`."""
        if root is not None:
            self._root = root
        if length is not None:
            self._length = length
        self._is_header_changed = True

    def _flush(self) -> None:
        """Write what an operation changed in the headers."""
        before, allocator = self._header_bytes, self._allocator.header
        data = ROOT_AND_LENGTH.pack(self._root, self._length)
        if allocator is not self._written_allocator:
            data += before[MAP_RESERVED] + allocator.encode()
            self._written_allocator = allocator
        elif not self._is_header_changed:
            return
        end = ROOT_ADDRESS + len(data)
        self._undo.overwrite(ROOT_ADDRESS, before[ROOT_ADDRESS:end], data)
        self._header_bytes = before[:ROOT_ADDRESS] + data + before[end:]

    def _forget(self) -> None:
        """An operation was undone: what is remembered of the bytes may be what it had made of them."""
        self._header_bytes = b""
        self.nodes.forget()

    def _insert(self, key: bytes, value: bytes) -> bytes | None:
        if self._root == 0:
            node = self.nodes.allocate([])
            self._save_header(root=node.address)
        else:
            node = self.nodes.look(self._root, to_change=True)
            if node.is_full:
                index, found = node.search(key, self._order)
                if found:
                    return self._overwrite(node, index, value)
                parent = self.nodes.allocate([node.address])
                self._save_header(root=parent.address)
                node = self._split(parent, 0, node, key)
        return self._insert_below(node, key, value)

    def _insert_below(self, node: Node, key: bytes, value: bytes) -> bytes | None:
        """Insert below `node`, which is not full."""
        order, look = self._order, self.nodes.look
        for _ in range(MAX_DEPTH):
            keys, children = node.keys, node.children
            if order is None:
                index = bisect_left(keys, key)
                found = index < len(keys) and keys[index] == key
            else:
                index, found = node.search(key, order)
            if found:
                return self._overwrite(node, index, value)
            if not children:
                node = self.nodes.own(node)
                self.nodes.insert(node, index, key, value)
                self.nodes.save(node)
                self._save_header(length=self._length + 1)
                return None
            child = look(children[index], to_change=True)
            if len(child.keys) >= CAPACITY:
                child_index, found = child.search(key, self._order)
                if found:
                    return self._overwrite(child, child_index, value)
                child = self._split(node, index, child, key)
            node = child
        raise _too_deep(node.address)

    def _overwrite(self, node: Node, index: int, value: bytes) -> bytes:
        node = self.nodes.own(node)
        old = self.nodes.replace(node, index, value)
        self.nodes.save(node)
        return old

    def _split(self, parent: Node, index: int, child: Node, key: bytes) -> Node:
        """Split the full `child`, number `index` of `parent`: entries 6 to 10 go to a new sibling, 5 to the parent.

        The half that `key` belongs to, which is a leaf's to be saved with it, where that changes nothing but itself.
        """
        parent, child = self.nodes.own(parent), self.nodes.own(child)
        sibling = self.nodes.allocate([])
        median, value = self.nodes.halve(child, sibling)
        self.nodes.insert(parent, index, median, value, sibling.address)
        order = self._order or bytes
        half = sibling if order(median) < order(key) else child
        for node in (sibling, child, parent):
            if node is not half or half.children or not self.nodes.can_wait(half):
                self.nodes.save(node)
        return half

    def _remove(self, node: Node, key: bytes) -> bytes | None:
        """Remove `key` at or below `node`, which has an entry to spare unless it is the root."""
        for _ in range(MAX_DEPTH):
            index, found = node.search(key, self._order)
            if node.is_leaf:
                return self._remove_from_leaf(node, index)[1] if found else None
            if found:
                taken = self._take_neighbour(node, index)
                if taken is not None:
                    _, old = node.swap(index, taken)
                    self.nodes.save(node)
                    return old
                node = self._merge_around(node, index)
            else:
                node = self._descend(node, index)
        raise _too_deep(node.address)

    def _remove_from_leaf(self, node: Node, index: int) -> tuple[bytes, bytes]:
        entry = node.pop(index)
        root = None
        if node.keys:
            self.nodes.save(node)
        elif node.address == self._root:
            self.nodes.free(node)
            root = 0
        else:
            raise MalformedError("a leaf below the root has fewer than 5 entries", node.address)
        self._save_header(root=root, length=self._one_less())
        return entry

    def _one_less(self) -> int:
        if self._length == 0:
            raise MalformedError("more entries than the 0 that the header counts", LENGTH_ADDRESS)
        return self._length - 1

    def _take_outermost(self, node: Node, last: bool) -> tuple[bytes, bytes]:
        """Remove the least or greatest entry below `node`, rebalancing on the way down."""
        for _ in range(MAX_DEPTH):
            if node.is_leaf:
                return self._remove_from_leaf(node, len(node.keys) - 1 if last else 0)
            node = self._descend(node, len(node.children) - 1 if last else 0)
        raise _too_deep(node.address)

    def _take_neighbour(self, node: Node, index: int) -> tuple[bytes, bytes] | None:
        """The predecessor or else the successor of entry `index`, removed, if the child it is in can lose one."""
        for child_index, last in ((index, True), (index + 1, False)):
            child = self.nodes.load(node.children[child_index])
            if child.can_lose_one:
                return self._take_outermost(child, last)
        return None

    def _merge_around(self, node: Node, index: int) -> Node:
        """Merge the children left and right of entry `index` with it, into the left one, which is returned."""
        left, right = (self.nodes.load(node.children[child]) for child in (index, index + 1))
        median = node.pop(index)
        del node.children[index + 1]
        self._merge(left, median, right, into=left)
        self._save_or_replace(node, left)
        self.nodes.save(left)
        return left

    def _descend(self, node: Node, index: int) -> Node:
        """The child `index` with at least one entry to spare: rotated from or merged with a sibling if need be."""
        child = self.nodes.load(node.children[index])
        if child.can_lose_one:
            return child
        left = self.nodes.load(node.children[index - 1]) if index > 0 else None
        if left is not None and left.can_lose_one:
            child.insert(0, *node.swap(index - 1, left.pop(len(left.keys) - 1)))
            if left.children:
                child.children.insert(0, left.children.pop())
            return self._save_rotated(left, child, node)
        right = self.nodes.load(node.children[index + 1]) if index + 1 < len(node.children) else None
        if right is not None and right.can_lose_one:
            child.insert(len(child.keys), *node.swap(index, right.pop(0)))
            if right.children:
                child.children.append(right.children.pop(0))
            return self._save_rotated(right, child, node)
        if left is not None:
            median = node.pop(index - 1)
            self._merge(left, median, child, into=left)
            merged = left
        else:
            assert right is not None  # an internal node has at least two children
            median = node.pop(index)
            self._merge(child, median, right, into=right)
            merged = right
        del node.children[index]
        self._save_or_replace(node, merged)
        return merged

    def _save_rotated(self, sibling: Node, child: Node, parent: Node) -> Node:
        for node in (sibling, child, parent):
            self.nodes.save(node)
        return child

    def _merge(self, left: Node, median: tuple[bytes, bytes], right: Node, *, into: Node) -> None:
        """Make `into`, one of the two, their union; save it and free the other, in this order."""
        if len(left.keys) + 1 + len(right.keys) > CAPACITY:
            raise MalformedError("two nodes to be merged have too many entries", right.address)
        if bool(left.children) != bool(right.children):
            raise MalformedError("a leaf and an internal node are siblings", right.address)
        keys = [*left.keys, median[0], *right.keys]
        values = [*left.values, median[1], *right.values]
        children = left.children + right.children
        source = right if into is left else left
        into.keys[:], into.values[:], into.children = keys, values, children
        self.nodes.save(into)
        self.nodes.free(source)

    def _save_or_replace(self, node: Node, only_child: Node) -> None:
        """Save `node`, or free it and make its only child the root where a merge took its last entry."""
        if node.keys:
            self.nodes.save(node)
        elif node.address == self._root:
            self.nodes.free(node)
            self._save_header(root=only_child.address)
        else:
            raise MalformedError("a node below the root has fewer than 5 entries", node.address)


def _new_header(key: StorableType[Any], value: StorableType[Any], version: int) -> MapHeader:
    key_bytes, value_bytes = key.max_size, value.max_size
    empty = AllocatorHeader(0, 0, 0)
    if version == 2:
        page_bytes = DEFAULT_PAGE_BYTES
        if key_bytes is not None and value_bytes is not None:
            page_bytes = packed_page_bytes(key_bytes, value_bytes)
        return MapHeader(2, None, page_bytes, 0, 0, empty)
    if version != 1:
        raise ValueError(f"a map has version 1 or 2, found {version}")
    if key_bytes is None or value_bytes is None:
        raise ValueError("a version 1 map takes bounded keys and values only")
    return MapHeader(1, V1Slots(key_bytes, value_bytes), max_node_bytes(key_bytes, value_bytes), 0, 0, empty)


def _check_slots(storable: StorableType[Any], slot_bytes: int, what: str) -> None:
    if storable.is_fixed and storable.max_size != slot_bytes:
        raise ValueError(f"the map has {what} of at most {slot_bytes} bytes, a {storable.name} has {storable.max_size}")


def _check_depth(depth: int, address: int) -> None:
    if depth >= MAX_DEPTH:
        raise _too_deep(address)


def _too_deep(address: int) -> MalformedError:
    return MalformedError(f"a tree of more than {MAX_DEPTH} levels", address)


def _facts(node: Node, depth: int, used_bytes: int) -> NodeFacts:
    return NodeFacts(
        address=node.address,
        depth=depth,
        version=node.version,
        is_leaf=node.is_leaf,
        keys=tuple(node.keys),
        value_sizes=tuple(end - start for start, end in node.value_spans()),
        children=tuple(node.children),
        overflow=tuple(node.overflow),
        used_bytes=used_bytes,
    )
