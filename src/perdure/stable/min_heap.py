"""`StableMinHeap`: the crate's MinHeap. The format is in `slots`; the array is the usual implicit heap.

The children of slot i are 2i + 1 and 2i + 2. Which of two equal children moves up, and that an element which does not
move is not written again, follows the crate, because it shows in the bytes.

Spec: ``src/min_heap.rs`` of ic-stable-structures 0.7.2.
"""

from __future__ import annotations

from typing import TypeVar, final

from perdure.stable.layout import HEAP_MAGIC
from perdure.stable.slots import SlotFace
from perdure.stable.types import Order, encode_checked, order_of

__all__ = ["StableMinHeap"]

T = TypeVar("T")


@final
class StableMinHeap(SlotFace[T]):
    """A priority queue in a memory: the least element is on top. Iteration is in heap order, not sorted.

    >>> from perdure.memory import BytesMemory
    >>> from perdure.stable import types
    >>> due = StableMinHeap.create(BytesMemory(), types.u64)
    >>> due.extend([30, 10, 20])
    >>> due.pop(), due.peek(), len(due)
    (10, 20, 2)
    """

    magic = HEAP_MAGIC

    def peek(self) -> T | None:
        """The least element."""
        return self.element_type.decode(self._slots.read(0)) if len(self) else None

    def push(self, value: T) -> None:
        """Add `value`."""
        data, length = encode_checked(self.element_type, value), len(self)
        with self._slots.change():
            self._slots.write(length, data)
            self._slots.set_length(length + 1)
            self._sift_up(length, data)

    def pop(self) -> T | None:
        """Remove and return the least element; ``None`` if there is none."""
        length = len(self)
        if length == 0:
            return None
        top = self.element_type.decode(self._slots.read(0))
        with self._slots.change():
            self._slots.set_length(length - 1)
            if length > 1:
                last = self._slots.read(length - 1)
                self._slots.write(0, last)
                self._sift_down(last, length - 1)
        return top

    @property
    def _order(self) -> Order:
        return order_of(self.element_type)

    def _sift_up(self, start: int, item: bytes) -> None:
        """Move a hole up from `start` to where `item` belongs; write it only if the hole moved."""
        order = self._order
        hole, weight = start, order(item)
        while hole > 0:
            parent = (hole - 1) // 2
            above = self._slots.read(parent)
            if not weight < order(above):
                break
            self._slots.write(hole, above)
            hole = parent
        if hole != start:
            self._slots.write(hole, item)

    def _sift_down(self, item: bytes, length: int) -> None:
        """Move a hole down from the top of `length` elements to where `item` belongs."""
        order = self._order
        hole, weight = 0, order(item)
        while (child := 2 * hole + 1) < length:
            data = self._slots.read(child)
            if child + 1 < length:
                right = self._slots.read(child + 1)
                if not order(data) < order(right):
                    child, data = child + 1, right
            if not order(data) < weight:
                break
            self._slots.write(hole, data)
            hole = child
        if hole != 0:
            self._slots.write(hole, item)
