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

import struct
from dataclasses import dataclass
from typing import Any, Final, final

from perdure.errors import MalformedError, UnsupportedError
from perdure.memory import WASM_PAGE_BYTES, Memory
from perdure.stable.access import UndoLog, read_exact, require_blank, write_growing
from perdure.stable.types import StorableType

__all__ = ["ArrayHeader", "SlotArray"]

HEADER: Final = struct.Struct("<3sBQIB")
LENGTH_ADDRESS: Final = 4
SLOTS_ADDRESS: Final = 64


@final
@dataclass(frozen=True)
class ArrayHeader:
    """What the header of a Vec or MinHeap says.

    Attributes:
        magic: ``b"SVC"`` or ``b"SMH"``.
        version: 1.
        length: number of elements.
        max_size: most bytes of an element.
        is_fixed: whether every element has that many.
    """

    magic: bytes
    version: int
    length: int
    max_size: int
    is_fixed: bool

    @classmethod
    def read(cls, memory: Memory, magic: bytes) -> ArrayHeader:
        """The header at address 0, checked against nothing but itself.

        Raises:
            MalformedError: another magic, or a flag that is none.
            UnsupportedError: another version.
        """
        found, version, length, max_size, fixed = HEADER.unpack(read_exact(memory, 0, HEADER.size, "header"))
        if found != magic:
            raise MalformedError(f"bad magic {found!r}, expected {magic!r}", 0)
        if version != 1:
            raise UnsupportedError(f"{magic.decode()} version {version}, expected 1")
        if fixed > 1:
            raise MalformedError(f"fixed-size flag {fixed}, expected 0 or 1", 16)
        return cls(found, version, length, max_size, bool(fixed))

    @property
    def length_bytes(self) -> int:
        """Bytes of the length in front of an element."""
        if self.is_fixed:
            return 0
        if self.max_size <= 0xFF:
            return 1
        return 2 if self.max_size <= 0xFFFF else 4

    @property
    def slot_bytes(self) -> int:
        """Bytes of a slot."""
        return self.max_size + self.length_bytes

    def check(self, memory: Memory) -> None:
        """Raise `MalformedError` where the last slot does not begin inside the memory."""
        begin = SLOTS_ADDRESS + max(0, self.length - 1) * self.slot_bytes
        size_bytes = memory.size() * WASM_PAGE_BYTES
        # Slots of no bytes fit in any number; more than the memory has bytes are refused all the same.
        if (self.length and begin + self.length_bytes > size_bytes) or self.length > size_bytes:
            raise MalformedError(
                f"{self.length} slots of {self.slot_bytes} bytes do not fit into {memory.size():#x} Wasm pages",
                LENGTH_ADDRESS,
            )


@final
class SlotArray:
    """Encoded elements by index. The typed faces are `StableVec` and `StableMinHeap`."""

    def __init__(self, memory: Memory, header: ArrayHeader) -> None:
        """Use `load` or `create`."""
        self.memory = memory
        self.header = header
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
        write_growing(memory, 0, HEADER.pack(magic, 1, 0, header.max_size, header.is_fixed))
        return cls(memory, header)

    def change(self) -> UndoLog:
        """A context for one changing operation, undone whole on any error."""
        return self._undo

    def __len__(self) -> int:
        length = int.from_bytes(read_exact(self.memory, LENGTH_ADDRESS, 8, "length"), "little")
        if length != self.header.length:
            self.header = ArrayHeader.read(self.memory, self.header.magic)
            self.header.check(self.memory)
        return length

    def read(self, index: int) -> bytes:
        """The element in slot `index`, which must exist."""
        address = SLOTS_ADDRESS + index * self.header.slot_bytes
        size, length_bytes = self.header.max_size, self.header.length_bytes
        if length_bytes:
            size = int.from_bytes(read_exact(self.memory, address, length_bytes, "slot"), "little")
            if size > self.header.max_size:
                raise MalformedError(f"an element of {size} bytes in a slot of {self.header.max_size}", address)
        return read_exact(self.memory, address + length_bytes, size, "element")

    def write(self, index: int, data: bytes) -> None:
        """Write slot `index`: the length, then the element, each growing the memory by what it needs."""
        address = SLOTS_ADDRESS + index * self.header.slot_bytes
        length_bytes = self.header.length_bytes
        if length_bytes:
            write_growing(self._undo, address, len(data).to_bytes(length_bytes, "little"))
        write_growing(self._undo, address + length_bytes, data)

    def set_length(self, length: int) -> None:
        """Write the length; no slot is erased."""
        self._undo.write(LENGTH_ADDRESS, length.to_bytes(8, "little"))
