"""`StableLog`: the crate's append-only Log over two memories.

```
index memory                                    data memory
address  size                                   address  size
      0     3  magic "GLI"                            0     3  magic "GLD"
      3     1  version = 1                            3     1  version = 1
      4    28  reserved, never written                4    28  reserved, never written
     32     8  number of entries n                   32        the entries, one after the other
     40   8*n  end of entry 0, 1 ... in the data
```

Integers are little-endian; ends are counted from address 32 of the data memory.

Spec: ``src/log.rs`` of ic-stable-structures 0.7.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar, final, overload

from perdure.errors import MalformedError
from perdure.memory import WASM_PAGE_BYTES, Memory
from perdure.stable.access import GrowFailedError, UndoLog, is_blank, read_exact, require_blank, write_growing
from perdure.stable.headers import LogHeader
from perdure.stable.layout import (
    LOG_COUNT_ADDRESS,
    LOG_DATA_ADDRESS,
    LOG_DATA_MAGIC,
    LOG_INDEX_MAGIC,
    U64,
    end_address,
    log_mark,
)
from perdure.stable.types import StorableType

if TYPE_CHECKING:
    from perdure.stable.columns import Column

__all__ = ["StableLog"]

T = TypeVar("T")


@final
class StableLog(Sequence[T]):
    """An append-only list over two memories. Elements may be unbounded and empty.

    Refused, where the crate overwrites silently: ``init`` with a foreign or missing data memory.

    >>> from perdure.memory import BytesMemory
    >>> from perdure.stable import types
    >>> events = StableLog.create(BytesMemory(), BytesMemory(), types.text)
    >>> events.append("began"), events.append("ended")
    (0, 1)
    >>> events[-1], events.log_size_bytes()
    ('ended', 10)
    """

    def __init__(self, index_memory: Memory, data_memory: Memory, element: StorableType[T]) -> None:
        """Use `load`, `create` or `init`."""
        self.index_memory = index_memory
        self.data_memory = data_memory
        self.element_type = element
        self._index_undo = UndoLog(index_memory)
        self._data_undo = UndoLog(data_memory)

    @classmethod
    def load(cls, index_memory: Memory, data_memory: Memory, element: StorableType[T]) -> StableLog[T]:
        """The log that is there.

        Raises:
            MalformedError: one of the memories holds none, or the log does not fit them.
            UnsupportedError: another version.
        """
        LogHeader.read(index_memory, data_memory)
        return cls(index_memory, data_memory, element)

    @classmethod
    def create(
        cls, index_memory: Memory, data_memory: Memory, element: StorableType[T], *, overwrite: bool = False
    ) -> StableLog[T]:
        """A new, empty log; `ValueError` over anything but blank memories unless `overwrite` is said."""
        memories = ((index_memory, LOG_INDEX_MAGIC), (data_memory, LOG_DATA_MAGIC))
        for memory, _ in memories:
            if not overwrite:
                require_blank(memory, "log")
        for memory, magic in memories:
            if memory.size() < 1 and memory.grow(1) == -1:
                raise GrowFailedError(0, 1)
            memory.write(0, log_mark(magic))
        index_memory.write(LOG_COUNT_ADDRESS, U64.pack(0))
        return cls(index_memory, data_memory, element)

    @classmethod
    def init(cls, index_memory: Memory, data_memory: Memory, element: StorableType[T]) -> StableLog[T]:
        """`load` what is there, or `create` where both memories are blank."""
        if is_blank(index_memory) and is_blank(data_memory):
            return cls.create(index_memory, data_memory, element)
        return cls.load(index_memory, data_memory, element)

    def __len__(self) -> int:
        return self.header.length

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        length = len(self)
        if isinstance(index, slice):
            return [self._read(place) for place in range(*index.indices(length))]
        place = index + length if index < 0 else index
        if not 0 <= place < length:
            raise IndexError(f"index {index} in a log of {length} entries")
        return self._read(place)

    def __iter__(self) -> Iterator[T]:
        return (self._read(index) for index in range(len(self)))

    def __reversed__(self) -> Iterator[T]:
        return (self._read(index) for index in range(len(self) - 1, -1, -1))

    def __repr__(self) -> str:
        return f"<StableLog {self.element_type.name}, {len(self)} entries>"

    def append(self, value: T) -> int:
        """Add an entry; its index. Bounds are not checked, as in the crate."""
        data, header = self.element_type.encode(value), self.header
        with self._data_undo, self._index_undo:
            write_growing(self._data_undo, LOG_DATA_ADDRESS + header.data_bytes, data)
            end = header.data_bytes + len(data)
            write_growing(self._index_undo, end_address(header.length), U64.pack(end))
            self._index_undo.write(LOG_COUNT_ADDRESS, U64.pack(header.length + 1))
        return header.length

    def extend(self, values: Iterable[T]) -> None:
        """Add each of `values`."""
        for value in values:
            self.append(value)

    def clear(self) -> None:
        """Forget every entry; their bytes stay."""
        with self._index_undo:
            self._index_undo.write(LOG_COUNT_ADDRESS, U64.pack(0))

    def get(self, index: int) -> T | None:
        """The entry `index`, ``None`` past the end."""
        return self._read(index) if 0 <= index < len(self) else None

    def first(self) -> T | None:
        """The first entry."""
        return self.get(0)

    def last(self) -> T | None:
        """The last entry."""
        return self.get(len(self) - 1)

    def is_empty(self) -> bool:
        """Whether there is no entry."""
        return len(self) == 0

    def index_size_bytes(self) -> int:
        """Bytes in use of the index memory."""
        return end_address(len(self))

    def data_size_bytes(self) -> int:
        """Bytes in use of the data memory."""
        return LOG_DATA_ADDRESS + self.log_size_bytes()

    def log_size_bytes(self) -> int:
        """Bytes of all entries."""
        return self.header.data_bytes

    def column(self) -> Column:
        """All entries as one NumPy column; needs the extra ``columns``."""
        from perdure.stable.columns import read_log  # NumPy only when it is asked for

        return read_log(self.index_memory, self.data_memory, self.element_type)

    @property
    def header(self) -> LogHeader:
        """The header as it is now."""
        return LogHeader.read(self.index_memory, self.data_memory)

    @property
    def memories(self) -> tuple[Memory, Memory]:
        """The index memory and the data memory."""
        return self.index_memory, self.data_memory

    def raw(self, index: int) -> bytes:
        """The encoded entry `index`, which must exist.

        Raises:
            MalformedError: its end lies before its start, or past the data memory.
        """
        field = end_address(index)
        start = _u64(self.index_memory, end_address(index - 1)) if index else 0
        end = _u64(self.index_memory, field)
        if not start <= end <= self.data_memory.size() * WASM_PAGE_BYTES - LOG_DATA_ADDRESS:
            raise MalformedError(f"entry {index} spans [{start}, {end})", field)
        return self.data_memory.read(LOG_DATA_ADDRESS + start, end - start)

    def _read(self, index: int) -> T:
        return self.element_type.decode(self.raw(index))


def _u64(memory: Memory, address: int) -> int:
    return int.from_bytes(read_exact(memory, address, U64.size, "log index"), "little")
