"""`StableVec`: the crate's Vec as a Python sequence. The format is in `slots`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, final, overload

from perdure.stable.layout import VEC_MAGIC
from perdure.stable.slots import SlotFace
from perdure.stable.types import encode_checked

__all__ = ["StableVec"]

T = TypeVar("T")


@final
class StableVec(SlotFace[T], Sequence[T]):
    """A growable array of bounded elements in a memory. Elements are set, pushed and popped, never inserted.

    >>> from perdure.memory import BytesMemory
    >>> from perdure.stable import types
    >>> scores = StableVec.create(BytesMemory(), types.u16)
    >>> scores.extend([3, 1, 2])
    >>> scores[-1], scores.pop(), scores[:]
    (2, 2, [3, 1])
    """

    magic = VEC_MAGIC

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

    def __reversed__(self) -> Iterator[T]:
        return (self._read(place) for place in range(len(self) - 1, -1, -1))

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

    def pop(self) -> T | None:
        """Remove and return the last element, ``None`` if there is none; its bytes stay."""
        length = len(self)
        if length == 0:
            return None
        value = self._read(length - 1)
        with self._slots.change():
            self._slots.set_length(length - 1)
        return value

    def _place(self, index: Any) -> int:
        length = len(self)
        place = index + length if index < 0 else index
        if not 0 <= place < length:
            raise IndexError(f"index {index} in a vector of {length} elements")
        return int(place)
