"""`StableMinHeap`: the crate's MinHeap. The format is in `slots`; the array is the usual implicit heap.

The children of slot i are 2i + 1 and 2i + 2. Which of two equal children moves up, and that an element which does not
move is not written again, follows the crate, because it shows in the bytes.

Spec: ``src/min_heap.rs`` of ic-stable-structures 0.7.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Generic, TypeVar, final

from perdure.memory import Memory
from perdure.stable.access import is_blank
from perdure.stable.slots import ArrayHeader, SlotArray
from perdure.stable.types import StorableType, encode_checked, order_of

__all__ = ["StableMinHeap"]

T = TypeVar("T")
MAGIC: Final = b"SMH"


@final
class StableMinHeap(Generic[T]):
    """A priority queue in a memory: the least element is on top. Iteration is in heap order, not sorted.

    >>> from perdure.memory import BytesMemory
    >>> from perdure.stable import types
    >>> due = StableMinHeap.create(BytesMemory(), types.u64)
    >>> due.extend([30, 10, 20])
    >>> due.pop(), due.peek(), len(due)
    (10, 20, 2)
    """

    def __init__(self, slots: SlotArray, element: StorableType[T]) -> None:
        """Use `load`, `create` or `init`."""
        self._slots = slots
        self.element_type = element
        self._order = order_of(element)

    @classmethod
    def load(cls, memory: Memory, element: StorableType[T]) -> StableMinHeap[T]:
        """The heap that is there; raises as `StableVec.load`."""
        return cls(SlotArray.load(memory, MAGIC, element), element)

    @classmethod
    def create(cls, memory: Memory, element: StorableType[T], *, overwrite: bool = False) -> StableMinHeap[T]:
        """A new, empty heap; `ValueError` over anything but a blank memory unless `overwrite` is said."""
        return cls(SlotArray.create(memory, MAGIC, element, overwrite=overwrite), element)

    @classmethod
    def init(cls, memory: Memory, element: StorableType[T]) -> StableMinHeap[T]:
        """`load` what is there, or `create` on a blank memory."""
        return cls.create(memory, element) if is_blank(memory) else cls.load(memory, element)

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[T]:
        return (self.element_type.decode(self._slots.read(index)) for index in range(len(self)))

    def __repr__(self) -> str:
        return f"<StableMinHeap {self.element_type.name}, {len(self)} elements>"

    def is_empty(self) -> bool:
        """Whether there is no element."""
        return len(self) == 0

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

    def extend(self, values: Iterable[T]) -> None:
        """Add each of `values`."""
        for value in values:
            self.push(value)

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

    def clear(self) -> None:
        """Forget every element; their bytes stay."""
        with self._slots.change():
            self._slots.set_length(0)

    @property
    def header(self) -> ArrayHeader:
        """The header as it is now."""
        return ArrayHeader.read(self.memory, MAGIC)

    @property
    def memory(self) -> Memory:
        """The memory below."""
        return self._slots.memory

    def _sift_up(self, start: int, item: bytes) -> None:
        """Move a hole up from `start` to where `item` belongs; write it only if the hole moved."""
        hole, weight = start, self._order(item)
        while hole > 0:
            parent = (hole - 1) // 2
            above = self._slots.read(parent)
            if not weight < self._order(above):
                break
            self._slots.write(hole, above)
            hole = parent
        if hole != start:
            self._slots.write(hole, item)

    def _sift_down(self, item: bytes, length: int) -> None:
        """Move a hole down from the top of `length` elements to where `item` belongs."""
        hole, weight = 0, self._order(item)
        while (child := 2 * hole + 1) < length:
            data = self._slots.read(child)
            if child + 1 < length:
                right = self._slots.read(child + 1)
                if not self._order(data) < self._order(right):
                    child, data = child + 1, right
            if not self._order(data) < weight:
                break
            self._slots.write(hole, data)
            hole = child
        if hole != 0:
            self._slots.write(hole, item)
