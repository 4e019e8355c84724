"""Hash trees: labelled trees of blobs under one hash, of which parts can be shown and proven.

| node    | CBOR                  | hash: SHA-256 of, with the length of each domain before it |
|---------|-----------------------|-------------------------------------------------------------|
| Empty   | ``[0]``               | ``ic-hashtree-empty``                                        |
| Fork    | ``[1, left, right]``  | ``ic-hashtree-fork``, both hashes                            |
| Labeled | ``[2, label, tree]``  | ``ic-hashtree-labeled``, label, hash                         |
| Leaf    | ``[3, value]``        | ``ic-hashtree-leaf``, value                                  |
| Pruned  | ``[4, hash]``         | is the hash                                                  |

Spec: "Certification" in the interface specification.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, unique
from hashlib import sha256
from typing import Final, TypeAlias, final

from perdure.errors import MalformedError

__all__ = [
    "Empty",
    "Fork",
    "HashTree",
    "Labeled",
    "Leaf",
    "Missing",
    "Pruned",
    "Tree",
    "decode_node",
    "descend",
    "encode_node",
    "fork_together",
    "leaves_below",
    "lookup",
    "lookup_subtree",
    "prune",
    "root_hash",
    "tree",
]

MAX_DEPTH: Final = 128
"""Deeper trees are refused; the state tree of a subnet is about forty deep."""


def _domain(name: bytes) -> bytes:
    return bytes([len(name)]) + name


_EMPTY_HASH: Final = sha256(_domain(b"ic-hashtree-empty")).digest()
_FORK: Final = _domain(b"ic-hashtree-fork")
_LABELED: Final = _domain(b"ic-hashtree-labeled")
_LEAF: Final = _domain(b"ic-hashtree-leaf")


class _Node:
    """Of a tree. Nodes are never changed, so that a digest is computed once for all trees that share one."""

    __slots__ = ("_digest",)

    _digest: bytes

    def _hash(self) -> bytes:
        raise NotImplementedError

    @property
    def digest(self) -> bytes:
        """The hash of the tree that begins here."""
        try:
            return self._digest
        except AttributeError:
            self._digest = digest = self._hash()
            return digest


@final
@dataclass(slots=True, unsafe_hash=True)
class Empty(_Node):
    """No labels."""

    def _hash(self) -> bytes:
        return _EMPTY_HASH


@final
@dataclass(slots=True, unsafe_hash=True)
class Fork(_Node):
    """Two trees side by side; labels on the left are smaller."""

    left: HashTree
    right: HashTree

    def _hash(self) -> bytes:
        return sha256(_FORK + self.left.digest + self.right.digest).digest()


@final
@dataclass(slots=True, unsafe_hash=True)
class Labeled(_Node):
    """A tree under a label."""

    label: bytes
    subtree: HashTree

    def _hash(self) -> bytes:
        return sha256(_LABELED + self.label + self.subtree.digest).digest()


@final
@dataclass(slots=True, unsafe_hash=True)
class Leaf(_Node):
    """A value."""

    value: bytes

    def _hash(self) -> bytes:
        return sha256(_LEAF + self.value).digest()


@final
class Pruned(_Node):
    """A tree that is not shown."""

    __slots__ = ()
    __match_args__ = ("digest",)

    def __init__(self, digest: bytes) -> None:
        self._digest = digest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pruned) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def __repr__(self) -> str:
        return f"Pruned(digest={self._digest!r})"


HashTree: TypeAlias = Empty | Fork | Labeled | Leaf | Pruned
Tree: TypeAlias = Mapping[bytes, "Tree | bytes"]
"""What a tree says: values and trees by label."""


@unique
class Missing(Enum):
    """Why `lookup` found no value."""

    ABSENT = "absent"
    UNKNOWN = "unknown"
    ERROR = "error"


def tree(content: Tree | bytes) -> HashTree:
    """The hash tree of `content`, forks balanced over the sorted labels."""
    if isinstance(content, bytes):
        return Leaf(content)
    return fork_together([Labeled(label, tree(content[label])) for label in sorted(content)])


def fork_together(trees: Sequence[HashTree]) -> HashTree:
    """One tree over `trees`, which are in the order of their labels."""
    if not trees:
        return Empty()
    if len(trees) == 1:
        return trees[0]
    middle = (len(trees) + 1) // 2
    return Fork(fork_together(trees[:middle]), fork_together(trees[middle:]))


def root_hash(node: HashTree) -> bytes:
    """The hash that a signature is made for."""
    return node.digest


def _flat(node: HashTree) -> list[HashTree]:
    if isinstance(node, Fork):
        return _flat(node.left) + _flat(node.right)
    return [] if isinstance(node, Empty) else [node]


# -- looking up


def lookup(path: Sequence[bytes], node: HashTree) -> bytes | Missing:
    """The value at `path`, or why there is none to see."""
    if not path:
        match node:
            case Leaf(value):
                return value
            case Empty():
                return Missing.ABSENT
            case Pruned():
                return Missing.UNKNOWN
            case _:
                return Missing.ERROR
    found = _around(node, path[0])[1] or _find(path[0], _flat(node))
    return found if isinstance(found, Missing) else lookup(path[1:], found)


def lookup_subtree(path: Sequence[bytes], node: HashTree) -> HashTree | Missing:
    """The tree at `path`, which may be pruned or empty, or why there is none to see."""
    for label in path:
        found = _find(label, _flat(node))
        if isinstance(found, Missing):
            return found
        node = found
    return node


def leaves_below(node: HashTree) -> list[bytes]:
    """The values that are to be seen in a tree, in order."""
    found, nodes = [], [node]
    while nodes:
        one = nodes.pop()
        if isinstance(one, Leaf):
            found.append(one.value)
        elif isinstance(one, Labeled):
            nodes.append(one.subtree)
        elif isinstance(one, Fork):
            nodes += [one.right, one.left]
    return found


def descend(path: Sequence[bytes], node: HashTree) -> HashTree | None:
    """What is below `path`, found without looking at anything beside it; `None`: nothing is, or it cannot be seen."""
    found: HashTree | None = node
    for label in path:
        if found is None:
            return None
        found = _around(found, label)[1]
    return found


def _find(label: bytes, trees: list[HashTree]) -> HashTree | Missing:
    for one in trees:
        if isinstance(one, Labeled) and one.label == label:
            return one.subtree
    if not trees or isinstance(trees[0], Leaf):
        return Missing.ABSENT
    # Absent is proven by neighbours that lie next to each other, or by an end of the tree.
    index = next((index for index, one in enumerate(trees) if isinstance(one, Labeled) and one.label > label), None)
    before = trees[-1] if index is None else (trees[index - 1] if index else None)
    if before is None or isinstance(before, Labeled):
        return Missing.ABSENT
    return Missing.UNKNOWN


# -- pruning


def prune(node: HashTree, paths: Iterable[Sequence[bytes]]) -> HashTree:
    """The same tree with only `paths` shown: their values, everything below them, or that they are absent."""
    wanted = [tuple(path) for path in paths]
    if not wanted:
        return Pruned(node.digest)
    if any(not path for path in wanted) or isinstance(node, (Leaf, Empty, Pruned)):
        return node
    below: dict[bytes, list[tuple[bytes, ...]]] = {}
    for head, *rest in wanted:
        before, found, after = _around(node, head)
        if found is not None:
            below.setdefault(head, []).append(tuple(rest))
            continue
        for neighbour in (before, after):
            if neighbour is not None:
                below.setdefault(neighbour, [])
    return _keep(node, sorted(below), below)


def _around(node: HashTree, label: bytes) -> tuple[bytes | None, HashTree | None, bytes | None]:
    """The label before one, the tree under it, and the label after it, as far as they are there."""
    before = after = None
    while isinstance(node, Fork):
        last = _last(node.left)
        if last is not None and label <= last:
            first = _first(node.right)
            after = first if first is not None else after
            node = node.left
        else:
            before = last if last is not None else before
            node = node.right
    if not isinstance(node, Labeled):
        return before, None, after
    if node.label == label:
        return before, node.subtree, after
    return (node.label, None, after) if node.label < label else (before, None, node.label)


def _last(node: HashTree) -> bytes | None:
    """The greatest label that is shown."""
    while isinstance(node, Fork):
        right = _last(node.right)
        if right is not None:
            return right
        node = node.left
    return node.label if isinstance(node, Labeled) else None


def _first(node: HashTree) -> bytes | None:
    while isinstance(node, Fork):
        left = _first(node.left)
        if left is not None:
            return left
        node = node.right
    return node.label if isinstance(node, Labeled) else None


def _keep(node: HashTree, labels: Sequence[bytes], below: Mapping[bytes, list[tuple[bytes, ...]]]) -> HashTree:
    """A tree with some labels, which are in order: only where they are is it gone through."""
    if not labels:
        return Pruned(node.digest)
    if isinstance(node, Fork):
        last = _last(node.left)
        middle = 0 if last is None else bisect_right(labels, last)
        left, right = _keep(node.left, labels[:middle], below), _keep(node.right, labels[middle:], below)
        if isinstance(left, Pruned) and isinstance(right, Pruned):
            return Pruned(node.digest)
        return Fork(left, right)
    if isinstance(node, Labeled) and node.label in below:
        return Labeled(node.label, prune(node.subtree, below[node.label]))
    return Pruned(node.digest)


# -- CBOR


CborNode: TypeAlias = "list[int | bytes | CborNode]"


def encode_node(node: HashTree) -> CborNode:
    """The arrays that stand for a tree in CBOR."""
    match node:
        case Empty():
            return [0]
        case Fork(left, right):
            return [1, encode_node(left), encode_node(right)]
        case Labeled(label, subtree):
            return [2, label, encode_node(subtree)]
        case Leaf(value):
            return [3, value]
        case Pruned(digest):
            return [4, digest]


def decode_node(node: object, depth: int = 0) -> HashTree:
    """The tree that arrays stand for.

    Raises:
        MalformedError: they stand for none, or for one that is too deep.
    """
    if depth > MAX_DEPTH:
        raise MalformedError(f"hash tree deeper than {MAX_DEPTH} nodes")
    match node:
        case [0]:
            return Empty()
        case [1, left, right]:
            return Fork(decode_node(left, depth + 1), decode_node(right, depth + 1))
        case [2, bytes(label), subtree]:
            return Labeled(label, decode_node(subtree, depth + 1))
        case [3, bytes(value)]:
            return Leaf(value)
        case [4, bytes(digest)] if len(digest) == 32:
            return Pruned(digest)
    raise MalformedError(f"no node of a hash tree: {str(node)[:60]}")
