"""A Merkle tree over the 4 KiB pages of a memory, kept as pages change.

```
 root      sha256 of the node at level 6
 level 6   one node: 16 hashes of nodes at level 5
   ...
 level 0   node n: 16 hashes, sha256 of pages 16n .. 16n + 15

 hash file, in nodes of 512 bytes
 ┌───────────────────┬──────────────────────────────────────────────────────┐
 │ 0 .. 6            │ the first node of each level, level 0 first          │
 │ 7 ..              │ all others in post-order: a subtree's children, then │
 │                   │ its own node (the places of 0 .. 6 stay empty)       │
 └───────────────────┴──────────────────────────────────────────────────────┘
```

A node is 16 hashes of 32 bytes: one sector, written whole or not at all. Sixteen to the seventh pages are 1 TiB, twice
the largest stable memory, so the depth is fixed and a zero subtree of any level has one known hash: it is neither
stored nor computed, and 500 GiB of zeros cost nothing. A changed page costs its own hash (2.2 us) and one node a level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from typing import final

from perdure.memory import PAGE_BYTES
from perdure.storage.disk import Buffer

__all__ = ["HASH_BYTES", "NODE_BYTES", "ZERO_PAGE_HASH", "PageTree", "hash_pages", "memory_hash", "node_offset"]

HASH_BYTES = 32
NODE_BYTES = 512
_ARITY = 16
_LEVELS = 7
ZERO_PAGE_HASH = sha256(bytes(PAGE_BYTES)).digest()

_ZERO_HASHES = [ZERO_PAGE_HASH]  # of a zero page, then of a zero subtree of each level
for _ in range(_LEVELS):
    _ZERO_HASHES.append(sha256(_ZERO_HASHES[-1] * _ARITY).digest())
_ZERO_NODES = [hash_ * _ARITY for hash_ in _ZERO_HASHES[:_LEVELS]]

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


def hash_pages(data: Buffer) -> list[bytes]:
    """Hashes of the pages of `data`."""
    if len(data) == PAGE_BYTES:
        return [sha256(data).digest()]
    view = memoryview(data)
    return [sha256(view[at : at + PAGE_BYTES]).digest() for at in range(0, len(view), PAGE_BYTES)]


def memory_hash(wasm_pages: int, root: bytes) -> bytes:
    """The hash of a memory: its size and its pages."""
    return sha256(b"perdure memory 1" + wasm_pages.to_bytes(8, "little") + root).digest()


@final
class PageTree:
    """Hashes by page index; a page never set is zero.

    Args:
        fetch: reads a node that was kept elsewhere (`NODE_BYTES` bytes, all zero bytes for a node never written).
    """

    def __init__(self, fetch: Callable[[Node], bytes] | None = None) -> None:
        self._fetch = fetch
        self._nodes: dict[Node, bytearray] = {}
        self._changed: set[Node] = set()
        self._stale: set[int] = set()  # level 0 nodes whose ancestors are not computed yet
        self._root = _ZERO_HASHES[_LEVELS] if fetch is None else b""

    def _node(self, node: Node) -> bytearray:
        found = self._nodes.get(node)
        if found is None:
            stored = self._fetch(node) if self._fetch is not None else b""
            whole = len(stored) == NODE_BYTES and any(stored)
            found = self._nodes[node] = bytearray(stored if whole else _ZERO_NODES[node[0]])
        return found

    def set_leaves(self, first_page: int, hashes: Iterable[bytes]) -> None:
        """Set the hashes of pages from `first_page` on."""
        for page, hash_ in enumerate(hashes, first_page):
            index, child = divmod(page, _ARITY)
            self._node((0, index))[child * HASH_BYTES : (child + 1) * HASH_BYTES] = hash_
            self._stale.add(index)

    def leaf(self, page: int) -> bytes:
        """The hash of one page."""
        index, child = divmod(page, _ARITY)
        return bytes(self._node((0, index))[child * HASH_BYTES : (child + 1) * HASH_BYTES])

    def leaves(self) -> Iterator[tuple[int, bytes]]:
        """`(page, hash)` of every page that is not zero, ascending; subtrees of zeros are skipped."""
        self.root()
        yield from self._leaves_below((_LEVELS - 1, 0))

    def _leaves_below(self, node: Node) -> Iterator[tuple[int, bytes]]:
        level, index = node
        content = self._node(node)
        for child in range(_ARITY):
            hash_ = bytes(content[child * HASH_BYTES : (child + 1) * HASH_BYTES])
            if hash_ == _ZERO_HASHES[level]:
                continue
            if level == 0:
                yield index * _ARITY + child, hash_
            else:
                yield from self._leaves_below((level - 1, index * _ARITY + child))

    def root(self) -> bytes:
        """The hash over all pages, recomputed along the paths that changed."""
        if self._stale or not self._root:
            changed = self._stale
            for level in range(_LEVELS - 1):
                self._changed.update((level, index) for index in changed)
                changed = self._raise_level(level, changed)
            self._changed.update((_LEVELS - 1, index) for index in changed)
            self._root = sha256(self._node((_LEVELS - 1, 0))).digest()
            self._stale = set()
        return self._root

    def _raise_level(self, level: int, changed: set[int]) -> set[int]:
        above: set[int] = set()
        for index in changed:
            parent, child = divmod(index, _ARITY)
            hash_ = sha256(self._node((level, index))).digest()
            self._node((level + 1, parent))[child * HASH_BYTES : (child + 1) * HASH_BYTES] = hash_
            above.add(parent)
        return above

    def load_all(self) -> None:
        """Have every node in hand and count it as changed: the tree moves to another hash file."""
        for page, _ in self.leaves():
            index = page
            for level in range(_LEVELS):
                index //= _ARITY
                self._changed.add((level, index))
        self._changed.add((_LEVELS - 1, 0))

    def changed_nodes(self) -> Mapping[Node, bytes]:
        """Nodes changed since `settle`, for the hash file."""
        self.root()
        return {node: bytes(self._nodes[node]) for node in self._changed}

    def settle(self, fetch: Callable[[Node], bytes]) -> None:
        """Forget nodes: `fetch` has them all from now on."""
        self.root()
        self._fetch = fetch
        self._changed = set()
        self._nodes = {}
