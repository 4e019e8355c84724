"""`StableCell`: the crate's Cell, one value.

```
address  size
      0     3  magic "SCL"
      3     1  version = 1
      4     4  length n
      8     n  the value
```

Integers are little-endian. A shorter value leaves the rest of a longer one behind it.

Spec: ``src/cell.rs`` of ic-stable-structures 0.7.2.
"""

from __future__ import annotations

from typing import Generic, TypeVar, final

from perdure.memory import WASM_PAGE_BYTES, Memory
from perdure.stable.access import GrowFailedError, UndoLog, is_blank, read_exact, require_blank
from perdure.stable.headers import CellHeader
from perdure.stable.layout import CELL_VALUE_ADDRESS
from perdure.stable.types import StorableType

__all__ = ["StableCell"]

T = TypeVar("T")


@final
class StableCell(Generic[T]):
    """One value in a memory, read and written whole. Bounds are not checked, as in the crate.

    >>> from perdure.memory import BytesMemory
    >>> from perdure.stable import types
    >>> counter = StableCell.create(BytesMemory(), types.u64, 0)
    >>> counter.set(8), counter.get()
    (0, 8)
    """

    def __init__(self, memory: Memory, value_type: StorableType[T]) -> None:
        """Use `load`, `create` or `init`."""
        self.memory = memory
        self.value_type = value_type
        self._undo = UndoLog(memory)

    @classmethod
    def load(cls, memory: Memory, value_type: StorableType[T]) -> StableCell[T]:
        """The cell that is there.

        Raises:
            MalformedError: none is there, or its value does not fit the memory.
            UnsupportedError: another version.
        """
        cell = cls(memory, value_type)
        cell.header.check(memory)
        return cell

    @classmethod
    def create(cls, memory: Memory, value_type: StorableType[T], value: T, *, overwrite: bool = False) -> StableCell[T]:
        """A new cell that holds `value`; `ValueError` over anything but a blank memory unless `overwrite` is said."""
        if not overwrite:
            require_blank(memory, "cell")
        cell = cls(memory, value_type)
        cell._write(value_type.encode(value))
        return cell

    @classmethod
    def init(cls, memory: Memory, value_type: StorableType[T], default: T) -> StableCell[T]:
        """`load` what is there, or `create` with `default` on a blank memory."""
        return cls.create(memory, value_type, default) if is_blank(memory) else cls.load(memory, value_type)

    def __repr__(self) -> str:
        return f"<StableCell {self.value_type.name}, {self.header.length} bytes>"

    @property
    def header(self) -> CellHeader:
        """The header as it is now."""
        return CellHeader.read(self.memory)

    @property
    def value(self) -> T:
        """The value; assign to set it."""
        return self.get()

    @value.setter
    def value(self, value: T) -> None:
        self.set(value)

    def get(self) -> T:
        """The value, decoded anew."""
        return self.value_type.decode(self.raw())

    def set(self, value: T) -> T:
        """Replace the value; the old one."""
        old, data = self.get(), self.value_type.encode(value)
        self._write(data)
        return old

    def raw(self) -> bytes:
        """The encoded value."""
        header = self.header
        header.check(self.memory)
        return read_exact(self.memory, CELL_VALUE_ADDRESS, header.length, "value")

    def _write(self, data: bytes) -> None:
        """Write header and value, growing first by the crate's own rule."""
        size_bytes = self.memory.size() * WASM_PAGE_BYTES
        if len(data) > size_bytes - CELL_VALUE_ADDRESS or size_bytes == 0:
            delta = (len(data) + CELL_VALUE_ADDRESS + WASM_PAGE_BYTES - size_bytes - 1) // WASM_PAGE_BYTES
            if self.memory.grow(delta) == -1:
                raise GrowFailedError(size_bytes // WASM_PAGE_BYTES, delta)
        with self._undo:
            self._undo.write(0, CellHeader(len(data)).encode() + data)
