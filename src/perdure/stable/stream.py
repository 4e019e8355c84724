"""`MemoryStream`: the crate's Reader and Writer as one Python stream. They have no format: bytes at an offset."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, final

from perdure.memory import WASM_PAGE_BYTES, Memory
from perdure.stable.access import write_growing

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

__all__ = ["MemoryStream"]


@final
class MemoryStream(io.RawIOBase):
    """A memory as a seekable raw stream; wrap it in `io.BufferedReader` or `io.BufferedWriter` for small pieces.

    Reading ends where the memory ends, which is a whole Wasm page; writing past it grows the memory by what lacks and
    raises `GrowFailedError` where it cannot.

    >>> from perdure.memory import BytesMemory
    >>> memory = BytesMemory()
    >>> stream = MemoryStream(memory, offset=8)
    >>> stream.write(b"state")
    5
    >>> memory.read(8, 5)
    b'state'
    """

    def __init__(self, memory: Memory, offset: int = 0) -> None:
        super().__init__()
        self.memory = memory
        self._offset = _checked(offset)

    def readable(self) -> bool:
        """Always."""
        return True

    def writable(self) -> bool:
        """Always; a memory that is open for reading refuses when it is written to."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to `offset` from the start, from here, or from the end of the memory."""
        origins = {io.SEEK_SET: 0, io.SEEK_CUR: self._offset, io.SEEK_END: self.memory.size() * WASM_PAGE_BYTES}
        if whence not in origins:
            raise ValueError(f"whence is 0, 1 or 2, found {whence}")
        self._offset = _checked(origins[whence] + offset)
        return self._offset

    def tell(self) -> int:
        """The offset of the next byte."""
        return self._offset

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill `buffer` as far as the memory goes; the number of bytes, 0 at its end."""
        target = memoryview(buffer).cast("B")
        size = max(0, min(len(target), self.memory.size() * WASM_PAGE_BYTES - self._offset))
        target[:size] = self.memory.read(self._offset, size) if size else b""
        self._offset += size
        return size

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all of `data`; the number of its bytes."""
        piece = bytes(data)
        write_growing(self.memory, self._offset, piece)
        self._offset += len(piece)
        return len(piece)


def _checked(offset: int) -> int:
    if offset < 0:
        raise ValueError(f"an offset is at least 0, found {offset}")
    return offset
