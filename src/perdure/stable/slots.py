"""The array of equal slots below Vec and MinHeap.

```
address  size
      0     3  magic "SVC" (Vec) or "SMH" (MinHeap)
      3     1  version = 1
      4     8  length
     12     4  maximum size of an element, M
     16     1  whether elements are of fixed size: 0 or 1
     17    47  reserved, never written
     64        slots, S bytes each: [length, p bytes, unless fixed] element
```

Integers are little-endian. p is 1, 2 or 4 as M needs; S is M if fixed, else M + p. Only an element's real bytes are
written: the rest of its slot, and popped slots, keep what was there.

Spec: ``src/base_vec.rs`` of ic-stable-structures 0.7.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, final

from perdure.errors import MalformedError
from perdure.memory import Memory
from perdure.stable.access import UndoLog, is_blank, read_exact, require_blank, write_growing
from perdure.stable.headers import ArrayHeader
from perdure.stable.layout import ARRAY_LENGTH_ADDRESS, U64
from perdure.stable.types import StorableType

if TYPE_CHECKING:
    from perdure.stable.columns import Column

__all__ = ["SlotArray", "SlotFace"]

T = TypeVar("T")


@final
class SlotArray:
    """Encoded elements by index. The typed faces are `StableVec` and `StableMinHeap`."""

    def __init__(self, memory: Memory, header: ArrayHeader) -> None:
        """Use `load` or `create`."""
        self.memory = memory
        self.header = header
        # The bound of the elements never changes, so neither does this.
        self._first, self._slot_bytes, self._length_bytes = (
            header.slot_address(0),
            header.slot_bytes,
            header.length_bytes,
        )
        self._undo = UndoLog(memory)

    @classmethod
    def load(cls, memory: Memory, magic: bytes, element: StorableType[Any]) -> SlotArray:
        """The array that is there.

        Raises:
            MalformedError: none is there, or it does not fit its memory.
            UnsupportedError: another version.
            ValueError: another bound than that of `element` (the crate panics).
        """
        header = ArrayHeader.read(memory, magic)
        if (header.max_size, header.is_fixed) != (element.max_size, element.is_fixed):
            raise ValueError(
                f"the elements have a bound of {header.max_size} bytes ({'fixed' if header.is_fixed else 'at most'}), "
                f"not that of {element.name}"
            )
        header.check(memory)
        return cls(memory, header)

    @classmethod
    def create(cls, memory: Memory, magic: bytes, element: StorableType[Any], *, overwrite: bool) -> SlotArray:
        """A new, empty array.

        Raises:
            ValueError: an unbounded type, or a memory that is not blank without `overwrite`.
        """
        if element.max_size is None:
            raise ValueError(f"a slot needs a bounded type, {element.name} is unbounded")
        if not overwrite:
            require_blank(memory, "array")
        header = ArrayHeader(magic, 1, 0, element.max_size, element.is_fixed)
        write_growing(memory, 0, header.encode())
        return cls(memory, header)

    def change(self) -> UndoLog:
        """A context for one changing operation, undone whole on any error."""
        return self._undo

    def __len__(self) -> int:
        length = int.from_bytes(read_exact(self.memory, ARRAY_LENGTH_ADDRESS, U64.size, "length"), "little")
        if length != self.header.length:
            header = ArrayHeader.read(self.memory, self.header.magic)
            header.check(self.memory)
            if (header.max_size, header.is_fixed) != (self.header.max_size, self.header.is_fixed):
                raise MalformedError("another array was created here since this one was loaded", 0)
            self.header = header
        return length

    def read(self, index: int) -> bytes:
        """The element in slot `index`, which must exist."""
        address, size, length_bytes = self._first + index * self._slot_bytes, self._slot_bytes, self._length_bytes
        if length_bytes:
            size = int.from_bytes(read_exact(self.memory, address, length_bytes, "slot"), "little")
            if size > self.header.max_size:
                raise MalformedError(f"an element of {size} bytes in a slot of {self.header.max_size}", address)
        return read_exact(self.memory, address + length_bytes, size, "element")

    def write(self, index: int, data: bytes) -> None:
        """Write slot `index`: the length, then the element, each growing the memory by what it needs."""
        address, length_bytes = self._first + index * self._slot_bytes, self._length_bytes
        if length_bytes:
            write_growing(self._undo, address, len(data).to_bytes(length_bytes, "little"))
        write_growing(self._undo, address + length_bytes, data)

    def set_length(self, length: int) -> None:
        """Write the length; no slot is erased."""
        self._undo.write(ARRAY_LENGTH_ADDRESS, U64.pack(length))


class SlotFace(Generic[T]):
    """What `StableVec` and `StableMinHeap` have in common: a `SlotArray` with a type of elements."""

    magic: ClassVar[bytes]

    def __init__(self, slots: SlotArray, element: StorableType[T]) -> None:
        """Use `load`, `create` or `init`."""
        self._slots = slots
        self.element_type = element

    @classmethod
    def load(cls, memory: Memory, element: StorableType[T]) -> Self:
        """What is there.

        Raises:
            MalformedError: nothing of this kind is there, or it does not fit its memory.
            ValueError: another bound than that of `element`; it can never change.
        """
        return cls(SlotArray.load(memory, cls.magic, element), element)

    @classmethod
    def create(cls, memory: Memory, element: StorableType[T], *, overwrite: bool = False) -> Self:
        """A new, empty one; `ValueError` over anything but a blank memory unless `overwrite` is said."""
        return cls(SlotArray.create(memory, cls.magic, element, overwrite=overwrite), element)

    @classmethod
    def init(cls, memory: Memory, element: StorableType[T]) -> Self:
        """`load` what is there, or `create` on a blank memory."""
        return cls.create(memory, element) if is_blank(memory) else cls.load(memory, element)

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[T]:
        return (self._read(place) for place in range(len(self)))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.element_type.name}, {len(self)} elements>"

    def push(self, value: T) -> None:
        """Add `value`."""
        raise NotImplementedError

    def extend(self, values: Iterable[T]) -> None:
        """Add each of `values`."""
        for value in values:
            self.push(value)

    def clear(self) -> None:
        """Forget every element; their bytes stay."""
        with self._slots.change():
            self._slots.set_length(0)

    def is_empty(self) -> bool:
        """Whether there is no element."""
        return len(self) == 0

    def column(self) -> Column:
        """All elements in the order of their slots, as one NumPy column; needs the extra ``columns``."""
        from perdure.stable.columns import read_slots  # NumPy only when it is asked for

        return read_slots(self.memory, self._slots.header, len(self), self.element_type)

    @property
    def header(self) -> ArrayHeader:
        """The header as it is now."""
        return ArrayHeader.read(self.memory, self.magic)

    @property
    def memory(self) -> Memory:
        """The memory below."""
        return self._slots.memory

    def _read(self, place: int) -> T:
        return self.element_type.decode(self._slots.read(place))
