"""Labels with trees under them, of which few change at a time: whoever has one has it for good.

Forks lie where labels differ first, bit by bit, so that a change makes new nodes on one way down and shares all others,
with their digests. A byte counts as nine bits, of which the first says that there is one: so a label comes before those
that it is the beginning of.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

from perdure.certification.hash_tree import Empty, Fork, HashTree, Labeled

__all__ = ["Labels"]


@final
class _Branch:
    """Two sides whose labels are the same up to a bit."""

    __slots__ = ("bit", "left", "node", "right")

    def __init__(self, bit: int, left: _Side, right: _Side) -> None:
        self.bit = bit
        self.left = left
        self.right = right
        self.node = Fork(_node(left), _node(right))


_Side = _Branch | Labeled


def _node(side: _Side) -> HashTree:
    return side.node if isinstance(side, _Branch) else side


def _has_bit(label: bytes, bit: int) -> bool:
    index, offset = divmod(bit, 9)
    if index >= len(label):
        return False
    return not offset or bool(label[index] >> (8 - offset) & 1)


def _first_difference(one: bytes, other: bytes) -> int:
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return 9 * index + 9 - (a ^ b).bit_length()
    return 9 * min(len(one), len(other))


@final
class Labels:
    """A mapping from labels to trees that is a tree itself; never changed."""

    __slots__ = ("_root", "count")

    def __init__(self, root: _Side | None = None, count: int = 0) -> None:
        self._root = root
        self.count = count

    @property
    def tree(self) -> HashTree:
        """The tree of all of them."""
        return Empty() if self._root is None else _node(self._root)

    def __iter__(self) -> Iterator[bytes]:
        """The labels in their order."""
        sides = [] if self._root is None else [self._root]
        while sides:
            side = sides.pop()
            if isinstance(side, Labeled):
                yield side.label
            else:
                sides += [side.right, side.left]

    def get(self, label: bytes) -> HashTree | None:
        """The tree under a label."""
        found = self._nearest(label)
        return found.subtree if found is not None and found.label == label else None

    def _nearest(self, label: bytes) -> Labeled | None:
        side = self._root
        while isinstance(side, _Branch):
            side = side.right if _has_bit(label, side.bit) else side.left
        return side

    def with_tree(self, label: bytes, subtree: HashTree) -> Labels:
        """These with a tree under a label, in the place of the one before."""
        leaf, nearest = Labeled(label, subtree), self._nearest(label)
        if self._root is None or nearest is None:
            return Labels(leaf, 1)
        if nearest.label == label:
            return Labels(_replaced(self._root, label, leaf), self.count)
        return Labels(_added(self._root, leaf, _first_difference(label, nearest.label)), self.count + 1)

    def without(self, label: bytes) -> Labels:
        """These without a label, if it is there."""
        found = self._nearest(label)
        if self._root is None or found is None or found.label != label:
            return self
        return Labels(_replaced(self._root, label, None), self.count - 1)


def _replaced(side: _Side, label: bytes, leaf: Labeled | None) -> _Side | None:
    if isinstance(side, Labeled):
        return leaf
    left, right = side.left, side.right
    if _has_bit(label, side.bit):
        new = _replaced(right, label, leaf)
        return left if new is None else _Branch(side.bit, left, new)
    new = _replaced(left, label, leaf)
    return right if new is None else _Branch(side.bit, new, right)


def _added(side: _Side, leaf: Labeled, bit: int) -> _Side:
    label = leaf.label
    if isinstance(side, _Branch) and side.bit < bit:
        if _has_bit(label, side.bit):
            return _Branch(side.bit, side.left, _added(side.right, leaf, bit))
        return _Branch(side.bit, _added(side.left, leaf, bit), side.right)
    return _Branch(bit, side, leaf) if _has_bit(label, bit) else _Branch(bit, leaf, side)
