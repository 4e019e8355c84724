"""A Merkle tree over the 4 KiB pages of a memory, kept as pages change.

```
 root      sha256 of the one node at the top level
   ...
 level 1   node n: 16 hashes, sha256 of nodes 16n .. 16n + 15 at level 0
 level 0   node n: 16 hashes, sha256 of pages 16n .. 16n + 15

 hash file, in nodes of 512 bytes
 ┌───────────────────┬──────────────────────────────────────────────────────┐
 │ 0 .. 6            │ the first node of each level, level 0 first          │
 │ 7 ..              │ all others in post-order: a subtree's children, then │
 │                   │ its own node (the places of 0 .. 6 stay empty)       │
 └───────────────────┴──────────────────────────────────────────────────────┘
```

A node is 16 hashes of 32 bytes: one sector, written whole or not at all. The top level is the lowest that covers the
memory's size, at most level 6 (1 TiB, twice the largest stable memory). A zero subtree of any level has one known hash:
it is neither stored nor computed, so 500 GiB of zeros cost nothing. A changed page costs its own hash (2.2 us) and one
node a level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import final

from perdure.errors import MalformedError
from perdure.memory import PAGE_BYTES
from perdure.storage.disk import Buffer

__all__ = [
    "EMPTY_ROOT",
    "HASH_BYTES",
    "MAX_LEAVES",
    "NODE_BYTES",
    "SUBTREE_PAGES",
    "ZERO_PAGE_HASH",
    "PageTree",
    "hash_pages",
    "memory_hash",
    "node_offset",
]

HASH_BYTES = 32
NODE_BYTES = 512
_ARITY = 16
_LEVELS = 7
ZERO_PAGE_HASH = sha256(bytes(PAGE_BYTES)).digest()

_ZERO_HASHES = [ZERO_PAGE_HASH]  # of a zero page, then of a zero subtree of each level
for _ in range(_LEVELS):
    _ZERO_HASHES.append(sha256(_ZERO_HASHES[-1] * _ARITY).digest())
_ZERO_NODES = [hash_ * _ARITY for hash_ in _ZERO_HASHES[:_LEVELS]]

EMPTY_ROOT = sha256(_ZERO_NODES[0]).digest()
"""Of a memory without a page."""
MAX_LEAVES = _ARITY**_LEVELS
_SUBTREE_LEVEL = 2
SUBTREE_PAGES = _ARITY ** (_SUBTREE_LEVEL + 1)
_SUBTREE_NODES = [((1 << 4 * (level + 1)) - 1) // 15 for level in range(_LEVELS)]

Node = tuple[int, int]
"""Level and index within the level."""


def node_offset(node: Node) -> int:
    """Where a node lies in a hash file, whose size so follows the size of the memory."""
    level, index = node
    if index == 0:
        return level * NODE_BYTES
    position = _SUBTREE_NODES[level] - 1
    while index:
        index, child = divmod(index, _ARITY)
        position += child * _SUBTREE_NODES[level]
        level += 1
    return (_LEVELS + position) * NODE_BYTES


def hash_pages(data: Buffer) -> bytes:
    """The hashes of the pages of `data`, one after the other."""
    if len(data) == PAGE_BYTES:
        return sha256(data).digest()
    view = memoryview(data)
    return b"".join([sha256(view[at : at + PAGE_BYTES]).digest() for at in range(0, len(view), PAGE_BYTES)])


def memory_hash(wasm_pages: int, root: bytes) -> bytes:
    """The hash of a memory: its size and its pages."""
    return sha256(b"perdure memory 1" + wasm_pages.to_bytes(8, "little") + root).digest()


@final
class PageTree:
    """Hashes by page index; a page never set is zero.

    Args:
        pages: the size of the memory, see `resize`.
        fetch: reads a node that was kept elsewhere (`NODE_BYTES` bytes, zeros for a node never written).
        root: of what was kept; a node that does not belong to it is refused. Empty: nodes are taken as they are.
    """

    def __init__(self, pages: int = 0, fetch: Callable[[Node], bytes] | None = None, root: bytes = b"") -> None:
        self._fetch = fetch
        self._kept_root = root
        self._levels: list[dict[int, bytearray]] = [{} for _ in range(_LEVELS)]
        self._stale: set[int] = set()  # level 0 nodes whose ancestors are not computed yet
        self._touched: set[int] = set()  # level 0 nodes changed since `settle`
        self._height = 1
        self._root = b""
        self.resize(pages)
        self._kept_height = self._height

    def resize(self, pages: int) -> None:
        """Set the size of the memory, on which the number of levels depends."""
        height = max(-(-(pages - 1).bit_length() // 4), 1)
        if height != self._height:
            if height > self._height:
                self._stale.add(0)  # the path to the new top
            self._height = height
            self._root = b""

    def fork(self, pages: int) -> PageTree:
        """A tree of the same hashes, with which this one has nothing to do, while this one is not changed.

        Args:
            pages: the size of its memory; what this one has beyond is left out.
        """
        self.root()
        made = PageTree(0, lambda node: bytes(self._node(*node)))
        made._height = made._kept_height = self._height
        for level in range(self._height):
            child = -(-pages >> 4 * level)  # the first that lies beyond, and then those beside it
            index, at = divmod(child, _ARITY)
            if (at or not child) and not index >> 4 * (self._height - 1 - level):
                made._node(level, index)[at * HASH_BYTES :] = _ZERO_HASHES[level] * (_ARITY - at)
        made._stale.add(max(pages - 1, 0) >> 4)
        made.resize(pages)
        return made

    def copy(self, fetch: Callable[[Node], bytes]) -> PageTree:
        """A tree of the same hashes, which goes its own way.

        Args:
            fetch: reads the nodes that this one reads.
        """
        made = PageTree(0, None if self._fetch is None else fetch, self._kept_root)
        made._levels = [{index: node[:] for index, node in nodes.items()} for nodes in self._levels]
        made._stale, made._touched = self._stale.copy(), self._touched.copy()
        made._height, made._kept_height, made._root = self._height, self._kept_height, self._root
        return made

    def differing(self, other: PageTree) -> Iterator[int]:
        """Pages that have another hash in a tree for as many pages, ascending; what is the same is not looked at."""
        if self.root() != other.root():
            yield from self._differing_below(other, self._height - 1, 0)

    def _differing_below(self, other: PageTree, level: int, index: int) -> Iterator[int]:
        one, two = self._node(level, index), other._node(level, index)
        for child in range(_ARITY):
            at = child * HASH_BYTES
            if one[at : at + HASH_BYTES] == two[at : at + HASH_BYTES]:
                continue
            if level == 0:
                yield index * _ARITY + child
            else:
                yield from self._differing_below(other, level - 1, index * _ARITY + child)

    def _node(self, level: int, index: int) -> bytearray:
        found = self._levels[level].get(index)
        if found is None:
            found = self._levels[level][index] = bytearray(self._kept_node(level, index))
        return found

    def _kept_node(self, level: int, index: int) -> bytes:
        top = self._kept_height - 1
        if self._fetch is None or level > top or index >> 4 * (top - level):
            return _ZERO_NODES[level]
        stored = self._fetch((level, index))
        if len(stored) != NODE_BYTES or not any(stored):
            stored = _ZERO_NODES[level]
        if self._kept_root and sha256(stored).digest() != self._expected(level, index):
            raise MalformedError(f"node {index} of level {level} of the page tree does not belong to its root")
        return stored

    def _expected(self, level: int, index: int) -> bytes:
        if level == self._kept_height - 1:
            return self._kept_root
        at = (index & 15) * HASH_BYTES
        return bytes(self._node(level + 1, index >> 4)[at : at + HASH_BYTES])

    def set_leaves(self, first_page: int, hashes: bytes | memoryview) -> None:
        """Set the hashes of pages from `first_page` on, as `hash_pages` gives them: a node at a time."""
        start = first_page * HASH_BYTES
        position = 0
        while position < len(hashes):
            index, at = divmod(start + position, NODE_BYTES)
            step = min(NODE_BYTES - at, len(hashes) - position)
            self._node(0, index)[at : at + step] = hashes[position : position + step]
            self._stale.add(index)
            position += step

    def leaves(self) -> Iterator[tuple[int, bytes]]:
        """`(page, hash)` of every page that is not zero, ascending; subtrees of zeros are skipped."""
        self.root()
        yield from self._leaves_below(self._height - 1, 0)

    def _leaves_below(self, level: int, index: int) -> Iterator[tuple[int, bytes]]:
        content = self._node(level, index)
        for child in range(_ARITY):
            hash_ = bytes(content[child * HASH_BYTES : (child + 1) * HASH_BYTES])
            if hash_ == _ZERO_HASHES[level]:
                continue
            if level == 0:
                yield index * _ARITY + child, hash_
            else:
                yield from self._leaves_below(level - 1, index * _ARITY + child)

    def subtrees(self) -> Iterator[tuple[int, bytes]]:
        """`(index, hash)` of every subtree of `SUBTREE_PAGES` pages that is not zero, ascending.

        A tree of no more pages is one subtree, whose hash is the root.
        """
        root = self.root()
        if self._height > _SUBTREE_LEVEL + 1:
            yield from self._subtrees_below(self._height - 1, 0)
        elif root != sha256(_ZERO_NODES[self._height - 1]).digest():
            yield 0, root

    def _subtrees_below(self, level: int, index: int) -> Iterator[tuple[int, bytes]]:
        content = self._node(level, index)
        for child in range(_ARITY):
            hash_ = bytes(content[child * HASH_BYTES : (child + 1) * HASH_BYTES])
            if hash_ == _ZERO_HASHES[level]:
                continue
            if level == _SUBTREE_LEVEL + 1:
                yield index * _ARITY + child, hash_
            else:
                yield from self._subtrees_below(level - 1, index * _ARITY + child)

    def leaves_of(self, subtree: int) -> Iterator[tuple[int, bytes]]:
        """`(page, hash)` of every page of a subtree that is not zero, ascending."""
        self.root()
        yield from self._leaves_below(min(_SUBTREE_LEVEL, self._height - 1), subtree)

    def root(self) -> bytes:
        """The hash over all pages, recomputed along the paths that changed."""
        stale = self._stale
        if stale:
            self._touched |= stale
            for level in range(self._height - 1):
                stale = self._raise(level, stale)
            self._stale = set()
            self._root = b""
        if not self._root:
            self._root = sha256(self._node(self._height - 1, 0)).digest()
        return self._root

    def _raise(self, level: int, stale: set[int]) -> set[int]:
        """Put the hashes of stale nodes into their parents, which are stale then."""
        above: set[int] = set()
        parents = self._levels[level + 1]
        for index in stale:
            parent = index >> 4
            node = parents.get(parent) or self._node(level + 1, parent)
            at = (index & 15) * HASH_BYTES
            node[at : at + HASH_BYTES] = sha256(self._node(level, index)).digest()
            above.add(parent)
        return above

    def load_all(self) -> None:
        """Have every node in hand and count it as changed: the tree moves to another hash file."""
        self._touched |= {page >> 4 for page, _ in self.leaves()}

    def changed_nodes(self) -> Iterator[tuple[Node, bytes]]:
        """Nodes changed since `settle`, for the hash file."""
        self.root()
        indices = self._touched
        for level in range(self._height):
            for index in sorted(indices):
                yield (level, index), bytes(self._node(level, index))
            indices = {index >> 4 for index in indices}

    def settle(self, fetch: Callable[[Node], bytes]) -> None:
        """Forget nodes: `fetch` has them all from now on."""
        self._kept_root = self.root()
        self._kept_height = self._height
        self._fetch = fetch
        self._touched = set()
        self._levels = [{} for _ in range(_LEVELS)]
