"""`StableVec`: the crate's Vec as a Python sequence. The format is in `slots`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar, final, overload

from perdure.memory import Memory
from perdure.stable.access import is_blank
from perdure.stable.slots import ArrayHeader, SlotArray
from perdure.stable.types import StorableType, encode_checked

if TYPE_CHECKING:
    from perdure.stable.columns import Column

__all__ = ["StableVec"]

T = TypeVar("T")
MAGIC: Final = b"SVC"


@final
class StableVec(Sequence[T]):
    """A growable array of bounded elements in a memory. Elements are set, pushed and popped, never inserted.

    >>> from perdure.memory import BytesMemory
    >>> from perdure.stable import types
    >>> scores = StableVec.create(BytesMemory(), types.u16)
    >>> scores.extend([3, 1, 2])
    >>> scores[-1], scores.pop(), scores[:]
    (2, 2, [3, 1])
    """

    def __init__(self, slots: SlotArray, element: StorableType[T]) -> None:
        """Use `load`, `create` or `init`."""
        self._slots = slots
        self.element_type = element

    @classmethod
    def load(cls, memory: Memory, element: StorableType[T]) -> StableVec[T]:
        """The vector that is there.

        Raises:
            MalformedError: none is there, or it does not fit its memory.
            ValueError: another bound than that of `element`; it can never change.
        """
        return cls(SlotArray.load(memory, MAGIC, element), element)

    @classmethod
    def create(cls, memory: Memory, element: StorableType[T], *, overwrite: bool = False) -> StableVec[T]:
        """A new, empty vector; `ValueError` over anything but a blank memory unless `overwrite` is said."""
        return cls(SlotArray.create(memory, MAGIC, element, overwrite=overwrite), element)

    @classmethod
    def init(cls, memory: Memory, element: StorableType[T]) -> StableVec[T]:
        """`load` what is there, or `create` on a blank memory."""
        return cls.create(memory, element) if is_blank(memory) else cls.load(memory, element)

    def __len__(self) -> int:
        return len(self._slots)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self._read(place) for place in range(*index.indices(len(self)))]
        return self._read(self._place(index))

    def __setitem__(self, index: int, value: T) -> None:
        place, data = self._place(index), encode_checked(self.element_type, value)
        with self._slots.change():
            self._slots.write(place, data)

    def __iter__(self) -> Iterator[T]:
        return (self._read(place) for place in range(len(self)))

    def __reversed__(self) -> Iterator[T]:
        return (self._read(place) for place in range(len(self) - 1, -1, -1))

    def __repr__(self) -> str:
        return f"<StableVec {self.element_type.name}, {len(self)} elements>"

    def get(self, index: int) -> T | None:
        """The element at `index`, ``None`` past the end."""
        return self._read(index) if 0 <= index < len(self) else None

    def set(self, index: int, value: T) -> None:
        """Set the element at `index`; `IndexError` past the end, where the crate panics."""
        self[index] = value

    def push(self, value: T) -> None:
        """Append `value`."""
        length, data = len(self), encode_checked(self.element_type, value)
        with self._slots.change():
            self._slots.write(length, data)
            self._slots.set_length(length + 1)

    append = push

    def extend(self, values: Iterable[T]) -> None:
        """Append each of `values`."""
        for value in values:
            self.push(value)

    def pop(self) -> T | None:
        """Remove and return the last element, ``None`` if there is none; its bytes stay."""
        length = len(self)
        if length == 0:
            return None
        value = self._read(length - 1)
        with self._slots.change():
            self._slots.set_length(length - 1)
        return value

    def clear(self) -> None:
        """Forget every element; their bytes stay."""
        with self._slots.change():
            self._slots.set_length(0)

    def is_empty(self) -> bool:
        """Whether there is no element."""
        return len(self) == 0

    def column(self) -> Column:
        """All elements as one NumPy column; needs the extra ``columns``."""
        from perdure.stable.columns import read_slots  # NumPy only when it is asked for

        return read_slots(self._slots, self.element_type)

    @property
    def header(self) -> ArrayHeader:
        """The header as it is now."""
        return ArrayHeader.read(self.memory, MAGIC)

    @property
    def memory(self) -> Memory:
        """The memory below."""
        return self._slots.memory

    def _read(self, place: int) -> T:
        return self.element_type.decode(self._slots.read(place))

    def _place(self, index: Any) -> int:
        length = len(self)
        place = index + length if index < 0 else index
        if not 0 <= place < length:
            raise IndexError(f"index {index} in a vector of {length} elements")
        return int(place)
